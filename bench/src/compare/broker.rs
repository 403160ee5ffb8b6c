//! A broker that takes part, of one process or a cluster of several: how it is started, and what it uses.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::compare::cleanup::Cleanup;
use crate::connection::Target;
use crate::error::BenchError;
use crate::machine::{self, Placement};
use crate::topics;

/// How long a broker may take until it prints `ready`, for each of its processes: they share the processors.
const READY_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long one of them is waited for before the others are looked at again.
const READY_STEP: Duration = Duration::from_millis(20);
/// Lines of a broker's output that an error shows.
const LOG_LINES_SHOWN: usize = 20;
/// The most of a metrics page that is read.
const METRICS_BYTES_MAX: u64 = 16 << 20;

/// How to start a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub name: String,
    /// For `sh -c`, once for each node; `{data}`, `{port}` and `{metrics}` stand for a directory that is not there yet and
    /// two free ports, `{node}` for the number of the node and `{voters}` for all of them, with a port for controllers.
    pub command: String,
}

impl Spec {
    /// Parses `NAME=COMMAND`.
    pub fn parse(text: &str) -> Result<Spec, String> {
        let (name, command) = text.split_once('=').ok_or("it is written NAME='COMMAND {data} {port}'")?;
        if name.is_empty() || !command.contains("{data}") || !command.contains("{port}") {
            return Err("it needs a name, and {data} and {port} in the command".to_string());
        }
        Ok(Spec { name: name.to_string(), command: command.to_string() })
    }

    /// Whether it can be started as a cluster.
    pub fn has_nodes(&self) -> bool {
        self.command.contains("{node}") && self.command.contains("{voters}")
    }

    fn command_line(&self, place: &Place) -> String {
        let data = format!("'{}'", place.data.display().to_string().replace('\'', r"'\''"));
        let numbers = [
            ("{port}", place.port.to_string()),
            ("{metrics}", place.metrics.to_string()),
            ("{node}", place.node.to_string()),
            ("{voters}", place.voters.clone()),
        ];
        numbers.iter().fold(self.command.replace("{data}", &data), |line, (name, value)| line.replace(name, value))
    }
}

/// What a node is given.
#[derive(Clone, Debug)]
struct Place {
    data: PathBuf,
    port: u16,
    metrics: u16,
    /// From 1 on.
    node: usize,
    /// As `controller.quorum.voters` is written.
    voters: String,
}

impl Place {
    /// Those of a broker's nodes. A single one has the directory `data` itself, of several each has one in it.
    fn all(data: &Path, nodes: usize, ports: &mut Ports) -> Result<Vec<Place>, BenchError> {
        let controllers = (0..nodes).map(|_| ports.take()).collect::<Result<Vec<u16>, _>>()?;
        let voter = |(index, port): (usize, &u16)| format!("{}@127.0.0.1:{port}", index + 1);
        let voters = controllers.iter().enumerate().map(voter).collect::<Vec<_>>().join(",");
        let place = |node: usize| -> Result<Place, BenchError> {
            let data = if nodes == 1 { data.to_path_buf() } else { data.join(node.to_string()) };
            Ok(Place { data, port: ports.take()?, metrics: ports.take()?, node, voters: voters.clone() })
        };
        (1..=nodes).map(place).collect()
    }
}

/// A broker that runs.
pub struct Broker {
    pub name: String,
    /// The address of the first node.
    pub bootstrap: String,
    data: PathBuf,
    nodes: Vec<Node>,
}

/// A process of it.
struct Node {
    /// For errors.
    name: String,
    log: PathBuf,
    child: Child,
    is_ready: Receiver<()>,
    /// Where its metrics are, if its command names a port for them.
    metrics: Option<SocketAddr>,
}

impl Broker {
    /// Starts the broker's nodes on the servers' processors and waits until each prints a line with `ready` and the first
    /// knows all of them.
    pub fn start(
        spec: &Spec,
        nodes: usize,
        parent: &Path,
        placement: &Placement,
        ports: &mut Ports,
        cleanup: &mut Cleanup,
    ) -> Result<Broker, BenchError> {
        let data = parent.join(&spec.name);
        let places = Place::all(&data, nodes, ports)?;
        if nodes > 1 {
            std::fs::create_dir(&data).map_err(BenchError::machine(data.display()))?;
        }
        let bootstrap = format!("127.0.0.1:{}", places[0].port);
        let mut broker = Broker { name: spec.name.clone(), bootstrap, data, nodes: Vec::with_capacity(nodes) };
        machine::confine(&placement.server)?;
        let started = places.iter().try_for_each(|place| -> Result<(), BenchError> {
            let name = if nodes == 1 { spec.name.clone() } else { format!("{}, node {}", spec.name, place.node) };
            broker.nodes.push(Node::start(spec, name, parent, place, cleanup)?);
            Ok(())
        });
        machine::confine(&placement.load)?;
        started?;
        let (begun, wait_max) = (Instant::now(), READY_WAIT_MAX * nodes as u32);
        let mut ready = vec![false; nodes];
        while ready.contains(&false) {
            for (node, ready) in broker.nodes.iter_mut().zip(&mut ready) {
                *ready = *ready || node.becomes_ready()?;
                if !*ready && begun.elapsed() > wait_max {
                    return Err(node.failed("it printed no line with `ready`"));
                }
            }
        }
        if nodes > 1 {
            let target = Target { address: broker.bootstrap.clone(), congestion: None };
            let complete = topics::await_brokers(&target, nodes, wait_max.saturating_sub(begun.elapsed()));
            broker.check()?;
            complete.map_err(|error| broker.nodes[0].failed(&error.to_string()))?;
        }
        Ok(broker)
    }

    /// An error when one of its processes has ended by itself.
    pub fn check(&mut self) -> Result<(), BenchError> {
        self.nodes.iter_mut().try_for_each(Node::check)
    }

    /// Its processes, in the order of their numbers.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.child.id()).collect()
    }

    /// The directory that all its data are in.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// What its metrics say its memory budget is, that of all nodes together.
    pub fn memory_budget_bytes(&self) -> Option<u64> {
        let budget = |node: &Node| gauge(&page(node.metrics?)?, "millstream_memory_budget_bytes");
        self.nodes.iter().map(budget).sum::<Option<f64>>().map(|bytes| bytes as u64)
    }
}

impl Node {
    fn start(
        spec: &Spec,
        name: String,
        parent: &Path,
        place: &Place,
        cleanup: &mut Cleanup,
    ) -> Result<Node, BenchError> {
        let log = parent.join(format!("{name}.log"));
        let mut output = File::create(&log).map_err(BenchError::machine(log.display()))?;
        let errors = output.try_clone().map_err(BenchError::machine(log.display()))?;
        let mut child = Command::new("sh")
            .args(["-c", &format!("exec {}", spec.command_line(place))])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(BenchError::machine(format!("starting {name}")))?;
        cleanup.process(child.id())?;
        let (ready, is_ready) = channel();
        let lines = BufReader::new(child.stdout.take().expect("it is piped"));
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let _ = writeln!(output, "{line}");
                if line.contains("ready") {
                    let _ = ready.send(());
                }
            }
        });
        let metrics = spec.command.contains("{metrics}").then(|| SocketAddr::from(([127, 0, 0, 1], place.metrics)));
        Ok(Node { name, log, child, is_ready, metrics })
    }

    /// Waits for a moment for the line with `ready`; whether it has come.
    fn becomes_ready(&mut self) -> Result<bool, BenchError> {
        let ended = match self.is_ready.recv_timeout(READY_STEP) {
            Ok(()) => return Ok(true),
            Err(RecvTimeoutError::Timeout) => self.child.try_wait().is_ok_and(|status| status.is_some()),
            Err(RecvTimeoutError::Disconnected) => self.child.wait().is_ok(),
        };
        if ended { Err(self.failed("it ended before it was ready")) } else { Ok(false) }
    }

    fn failed(&self, what: &str) -> BenchError {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let shown = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n  ");
        BenchError::Contestant(format!("broker {}: {what}; its last output:\n  {shown}", self.name))
    }

    fn check(&mut self) -> Result<(), BenchError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failed(&format!("it has ended ({status})"))),
            Err(error) => Err(self.failed(&error.to_string())),
        }
    }
}

/// The metrics of a broker in Prometheus' text format.
fn page(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.take(METRICS_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The value of a metric without labels.
fn gauge(page: &str, name: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Hands out ports of 127.0.0.1 that nobody listens on, each once: of a range, or those that the system gives.
pub struct Ports {
    range: Option<std::ops::RangeInclusive<u16>>,
    taken: HashSet<u16>,
}

impl Ports {
    /// `range` is written `first-last`.
    pub fn new(range: Option<&str>) -> Result<Ports, BenchError> {
        let taken = HashSet::new();
        let Some(text) = range else { return Ok(Ports { range: None, taken }) };
        let parsed = text.split_once('-').and_then(|(first, last)| Some(first.parse().ok()?..=last.parse().ok()?));
        match parsed {
            Some(range) => Ok(Ports { range: Some(range), taken }),
            None => Err(BenchError::Options(format!("not a range of ports, for example 19400-19499: {text}"))),
        }
    }

    fn take(&mut self) -> Result<u16, BenchError> {
        if let Some(range) = &mut self.range {
            return range
                .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
                .ok_or_else(|| BenchError::Options("no free port is left in the range".to_string()));
        }
        loop {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            if self.taken.insert(port) {
                return Ok(port);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_named_with_its_command() {
        let spec = Spec::parse("kafka=run {data} {port} --metrics {metrics}").unwrap();
        let place = |data: &str| Place {
            data: PathBuf::from(data),
            port: 1,
            metrics: 2,
            node: 3,
            voters: "3@127.0.0.1:4".to_string(),
        };
        assert_eq!(spec.command_line(&place("/a b")), "run '/a b' 1 --metrics 2");
        assert_eq!(spec.command_line(&place("/it's")), r"run '/it'\''s' 1 --metrics 2");
        assert!(!spec.has_nodes());
        let spec = Spec::parse("kafka=run {data} {port} {node} {voters}").unwrap();
        assert_eq!(spec.command_line(&place("/a")), "run '/a' 1 3 3@127.0.0.1:4");
        assert!(spec.has_nodes());
        for bad in ["kafka", "=x {data} {port}", "kafka=run {data}"] {
            assert!(Spec::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nodes_have_places_of_their_own_and_know_all_voters() {
        let mut ports = Ports::new(Some("19460-19479")).unwrap();
        let places = Place::all(Path::new("/d"), 3, &mut ports).unwrap();
        let used: HashSet<u16> = places.iter().flat_map(|place| [place.port, place.metrics]).collect();
        assert_eq!((places.len(), used.len()), (3, 6));
        for (index, place) in places.iter().enumerate() {
            assert_eq!((place.node, place.data.clone()), (index + 1, Path::new("/d").join((index + 1).to_string())));
            let voters: Vec<&str> = place.voters.split(',').collect();
            assert!(voters.len() == 3 && voters[index].starts_with(&format!("{}@127.0.0.1:", index + 1)));
        }
        assert_eq!(Place::all(Path::new("/d"), 1, &mut ports).unwrap()[0].data, Path::new("/d"));
    }

    #[test]
    fn a_gauge_is_found_by_its_whole_name() {
        let page = "# HELP budget x\nbudget_more 1\nbudget 2.5e3\n";
        assert_eq!((gauge(page, "budget"), gauge(page, "other")), (Some(2500.0), None));
    }

    #[test]
    fn ports_come_from_the_range_and_only_once() {
        let mut ports = Ports::new(Some("19480-19499")).unwrap();
        let (first, second) = (ports.take().unwrap(), ports.take().unwrap());
        assert!((19480..=19499).contains(&first) && first < second);
        assert!(Ports::new(Some("x")).is_err() && Ports::new(None).unwrap().take().unwrap() > 0);
    }
}
