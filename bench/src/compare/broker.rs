//! A broker that takes part: how it is started, and what it uses.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::compare::cleanup::Cleanup;
use crate::error::BenchError;
use crate::machine::{self, Placement};

/// How long a broker may take until it prints `ready`.
const READY_WAIT_MAX: Duration = Duration::from_secs(60);
/// Lines of a broker's output that an error shows.
const LOG_LINES_SHOWN: usize = 20;
/// The most of a metrics page that is read.
const METRICS_BYTES_MAX: u64 = 16 << 20;

/// How to start a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub name: String,
    /// For `sh -c`; `{data}`, `{port}` and `{metrics}` stand for a directory that is not there yet and two free ports.
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

    fn command_line(&self, data: &Path, port: u16, metrics: u16) -> String {
        let data = format!("'{}'", data.display().to_string().replace('\'', r"'\''"));
        let filled = self.command.replace("{data}", &data);
        filled.replace("{port}", &port.to_string()).replace("{metrics}", &metrics.to_string())
    }
}

/// A broker that runs.
pub struct Broker {
    pub name: String,
    pub bootstrap: String,
    data: PathBuf,
    log: PathBuf,
    child: Child,
    /// Where its metrics are, if its command names a port for them.
    metrics: Option<SocketAddr>,
}

impl Broker {
    /// Starts the broker on the servers' processors and waits until it prints a line with `ready`.
    pub fn start(
        spec: &Spec,
        parent: &Path,
        placement: &Placement,
        ports: &mut Ports,
        cleanup: &mut Cleanup,
    ) -> Result<Broker, BenchError> {
        let (port, metrics) = (ports.take()?, ports.take()?);
        let data = parent.join(&spec.name);
        let log = parent.join(format!("{}.log", spec.name));
        let mut output = File::create(&log).map_err(BenchError::machine(log.display()))?;
        let errors = output.try_clone().map_err(BenchError::machine(log.display()))?;
        machine::confine(&placement.server)?;
        let child = Command::new("sh")
            .args(["-c", &format!("exec {}", spec.command_line(&data, port, metrics))])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(BenchError::machine(format!("starting {}", spec.name)));
        machine::confine(&placement.load)?;
        let mut child = child?;
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
        let metrics = spec.command.contains("{metrics}").then(|| SocketAddr::from(([127, 0, 0, 1], metrics)));
        let name = spec.name.clone();
        let mut broker = Broker { name, bootstrap: format!("127.0.0.1:{port}"), data, log, child, metrics };
        match is_ready.recv_timeout(READY_WAIT_MAX) {
            Ok(()) => Ok(broker),
            Err(RecvTimeoutError::Timeout) => Err(broker.failed("it printed no line with `ready`")),
            Err(RecvTimeoutError::Disconnected) => {
                let _ = broker.child.wait();
                Err(broker.failed("it ended before it was ready"))
            }
        }
    }

    fn failed(&self, what: &str) -> BenchError {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let shown = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n  ");
        BenchError::Contestant(format!("broker {}: {what}; its last output:\n  {shown}", self.name))
    }

    /// An error when the broker has ended by itself.
    pub fn check(&mut self) -> Result<(), BenchError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failed(&format!("it has ended ({status})"))),
            Err(error) => Err(self.failed(&error.to_string())),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The directory it was given.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// What its metrics say its memory budget is.
    pub fn memory_budget_bytes(&self) -> Option<u64> {
        gauge(&page(self.metrics?)?, "millstream_memory_budget_bytes").map(|bytes| bytes as u64)
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

/// Hands out ports of 127.0.0.1 that nobody listens on: of a range, or those that the system gives.
pub struct Ports {
    range: Option<std::ops::RangeInclusive<u16>>,
}

impl Ports {
    /// `range` is written `first-last`.
    pub fn new(range: Option<&str>) -> Result<Ports, BenchError> {
        let Some(text) = range else { return Ok(Ports { range: None }) };
        let parsed = text.split_once('-').and_then(|(first, last)| Some(first.parse().ok()?..=last.parse().ok()?));
        match parsed {
            Some(range) => Ok(Ports { range: Some(range) }),
            None => Err(BenchError::Options(format!("not a range of ports, for example 19400-19499: {text}"))),
        }
    }

    fn take(&mut self) -> Result<u16, BenchError> {
        let Some(range) = &mut self.range else {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            return Ok(listener.local_addr()?.port());
        };
        range
            .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
            .ok_or_else(|| BenchError::Options("no free port is left in the range".to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_named_with_its_command() {
        let spec = Spec::parse("kafka=run {data} {port} --metrics {metrics}").unwrap();
        assert_eq!(spec.command_line(Path::new("/a b"), 1, 2), "run '/a b' 1 --metrics 2");
        assert_eq!(spec.command_line(Path::new("/it's"), 1, 2), r"run '/it'\''s' 1 --metrics 2");
        for bad in ["kafka", "=x {data} {port}", "kafka=run {data}"] {
            assert!(Spec::parse(bad).is_err(), "{bad}");
        }
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
