//! The broker's configuration at start: `server.properties` and `--override`, by Kafka's names.

mod connections;
mod listener;
mod log;
pub mod properties;
mod quorum;
#[cfg(test)]
mod reference;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use millstream_replication::config::{Properties, broker_config, broker_configs, broker_value, nearest};

pub use connections::ConnectionRules;
pub use listener::{Listener, resolve};
pub use log::LogRules;
pub use quorum::{QuorumConfig, Roles};

/// Our own defaults, where Kafka's would not do: for a first try on one machine, and for a failure to be noticed soon.
const DEFAULTS: [(&str, &str); 5] = [
    ("listeners", "PLAINTEXT://127.0.0.1:9092"),
    ("log.dirs", "./data"),
    ("broker.session.timeout.ms", "3000"),
    ("broker.heartbeat.interval.ms", "500"),
    ("controller.quorum.fetch.timeout.ms", "600"),
];

/// What the driver honours, typed. What the core honours it takes from [`BrokerConfig::properties`] too.
#[derive(Clone, Debug, PartialEq)]
pub struct BrokerConfig {
    /// Everything that was given, and our own defaults, by name.
    pub properties: Properties,
    /// `node.id`, or `broker.id` where that is not given.
    pub node_id: i32,
    /// `broker.rack`
    pub rack: Option<String>,
    /// `listeners` without those that `controller.listener.names` names, with what `advertised.listeners` says of them;
    /// at least one.
    pub listeners: Vec<Listener>,
    /// Who the controllers are.
    pub quorum: QuorumConfig,
    /// `log.dirs`, or `log.dir` where that is not given.
    pub data_directory: PathBuf,
    /// `millstream.shards`; `None`: as many as there are cores.
    pub shards: Option<usize>,
    /// `millstream.http.listener` as host and port; `None`: no HTTP.
    pub http_listener: Option<(String, u16)>,
    /// `socket.request.max.bytes`
    pub request_bytes_max: usize,
    /// `fetch.max.bytes`
    pub fetch_bytes_max: usize,
    /// `replica.lag.time.max.ms`
    pub replica_lag_time_max: Duration,
    /// `queued.max.request.bytes`; `None`: no limit is configured.
    pub queued_request_bytes_max: Option<usize>,
    /// `socket.send.buffer.bytes`, if it was given and is not -1.
    pub send_buffer_bytes: Option<i32>,
    /// `socket.receive.buffer.bytes`, if it was given and is not -1.
    pub receive_buffer_bytes: Option<i32>,
    /// `socket.listen.backlog.size`
    pub backlog: i32,
    /// `connections.max.idle.ms`; `None`: for ever.
    pub idle_max: Option<Duration>,
    /// `millstream.memory.bytes`; `None`: a share of the machine's.
    pub memory_bytes: Option<u64>,
    /// `millstream.journal.bytes`: of one shard.
    pub journal_bytes: u64,
    /// `millstream.tail.memory.bytes`: of one shard.
    pub tail_memory_bytes: usize,
    /// `millstream.poll.us`
    pub poll: Duration,
    /// `millstream.extent.bytes`
    pub extent_bytes: usize,
    /// `millstream.free.space.floor.bytes`; `None`: the driver derives it from the file system's size.
    pub free_space_floor_bytes: Option<u64>,
    /// `log.retention.check.interval.ms`
    pub retention_check_interval: Duration,
    /// `log.cleaner.enable`
    pub cleaner_enable: bool,
    /// `log.cleaner.dedupe.buffer.size`: of all shards together.
    pub cleaner_map_bytes: u64,
}

/// The smallest `millstream.memory.bytes`.
const MEMORY_BYTES_MIN: i64 = 192 << 20;

impl BrokerConfig {
    /// At which of `listeners` brokers reach each other: the one that `inter.broker.listener.name` names; else PLAINTEXT, as
    /// Kafka's `security.inter.broker.protocol` has it where nobody has written one; else the first. None where the process
    /// is no broker.
    pub fn inter_broker_listener(&self) -> Option<usize> {
        let named = broker_value("inter.broker.listener.name", &[&self.properties]).unwrap_or_default();
        let name = if named.trim().is_empty() { "PLAINTEXT".to_owned() } else { named.trim().to_ascii_uppercase() };
        let place = self.listeners.iter().position(|listener| listener.name == name);
        place.or((!self.listeners.is_empty()).then_some(0))
    }

    /// Reads a file, if one is named, and overrides in the form `name=value`. The error is one line for people.
    pub fn load(file: Option<&Path>, overrides: &[String]) -> Result<BrokerConfig, String> {
        let mut given = Properties::new();
        if let Some(path) = file {
            let text =
                std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            for property in properties::parse(&text).map_err(|error| format!("{}: {error}", path.display()))? {
                let place = format!("{} line {}", path.display(), property.line);
                add(&mut given, &place, property.name, property.value)?;
            }
        }
        for pair in overrides {
            let (name, value) =
                pair.split_once('=').ok_or_else(|| format!("--override takes name=value, not {pair:?}"))?;
            add(&mut given, "--override", name.trim().to_owned(), value.trim().to_owned())?;
        }
        BrokerConfig::new(given)
    }

    /// Interprets properties that were checked one by one.
    fn new(mut properties: Properties) -> Result<BrokerConfig, String> {
        if !properties.contains_key("log.dirs")
            && let Some(directory) = properties.get("log.dir").cloned()
        {
            properties.insert("log.dirs".to_owned(), directory);
        }
        for (name, value) in DEFAULTS {
            properties.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
        let node_id = match (properties.get("node.id"), properties.get("broker.id")) {
            (Some(node), Some(broker)) if node != broker && broker != "-1" => {
                return Err(format!("node.id is {node} but broker.id is {broker}; give one of them"));
            }
            (None, Some(broker)) if broker != "-1" => number_of("broker.id", broker, 0, i32::MAX)?,
            _ => number(&properties, "node.id")?,
        };
        let data_directory = text(&properties, "log.dirs").expect("a default was given");
        let buffer = |name: &str| match properties.get(name) {
            // Kafka's default of 100 KiB stops the system from adapting the buffer to the connection.
            None => Ok(None),
            Some(_) => number::<i32>(&properties, name).map(|bytes| (bytes >= 0).then_some(bytes)),
        };
        let shards = match text(&properties, "millstream.shards") {
            Some(_) => Some(number(&properties, "millstream.shards")?),
            None => None,
        };
        let idle_ms: i64 = number(&properties, "connections.max.idle.ms")?;
        let memory: i64 = number(&properties, "millstream.memory.bytes")?;
        if (0..MEMORY_BYTES_MIN).contains(&memory) {
            return Err(format!("millstream.memory.bytes must be -1 or at least {MEMORY_BYTES_MIN}, not {memory}"));
        }
        let floor: i64 = number(&properties, "millstream.free.space.floor.bytes")?;
        check_consumer_groups(&properties)?;
        let roles = quorum::roles(&properties);
        let voters = quorum::voters(&properties, roles, node_id)?;
        let own = voters.iter().find(|(id, ..)| *id == node_id);
        let listeners = listener::listeners(&properties, roles, own.map(|(_, host, port)| (host.clone(), *port)))?;
        Ok(BrokerConfig {
            node_id,
            rack: text(&properties, "broker.rack").filter(|rack| !rack.is_empty()),
            listeners: listeners.clients,
            quorum: QuorumConfig::new(&properties, roles, voters, listeners.controller)?,
            data_directory: PathBuf::from(data_directory),
            shards,
            http_listener: match text(&properties, "millstream.http.listener") {
                Some(address) if !address.is_empty() => {
                    let parsed = listener::host_and_port(&address);
                    Some(parsed.ok_or_else(|| format!("millstream.http.listener must be host:port, not {address:?}"))?)
                }
                _ => None,
            },
            request_bytes_max: number(&properties, "socket.request.max.bytes")?,
            fetch_bytes_max: number(&properties, "fetch.max.bytes")?,
            replica_lag_time_max: Duration::from_millis(number(&properties, "replica.lag.time.max.ms")?),
            queued_request_bytes_max: usize::try_from(number::<i64>(&properties, "queued.max.request.bytes")?).ok(),
            send_buffer_bytes: buffer("socket.send.buffer.bytes")?,
            receive_buffer_bytes: buffer("socket.receive.buffer.bytes")?,
            backlog: number(&properties, "socket.listen.backlog.size")?,
            idle_max: u64::try_from(idle_ms).ok().map(Duration::from_millis),
            memory_bytes: u64::try_from(memory).ok(),
            journal_bytes: number(&properties, "millstream.journal.bytes")?,
            tail_memory_bytes: number(&properties, "millstream.tail.memory.bytes")?,
            poll: Duration::from_micros(number(&properties, "millstream.poll.us")?),
            extent_bytes: number(&properties, "millstream.extent.bytes")?,
            free_space_floor_bytes: u64::try_from(floor).ok(),
            retention_check_interval: Duration::from_millis(number(&properties, "log.retention.check.interval.ms")?),
            cleaner_enable: text(&properties, "log.cleaner.enable")
                .is_some_and(|value| value.eq_ignore_ascii_case("true")),
            cleaner_map_bytes: number(&properties, "log.cleaner.dedupe.buffer.size")?,
            properties,
        })
    }
}

/// Checks one property and adds it.
fn add(properties: &mut Properties, place: &str, name: String, value: String) -> Result<(), String> {
    let Some(definition) = broker_config(&name) else {
        let meant = nearest(&name, broker_configs()).map_or(String::new(), |near| format!("; did you mean {near}?"));
        return Err(format!("{place}: there is no configuration {name:?}{meant}"));
    };
    // An empty value is none: Java's tools write them so.
    if value.is_empty() && definition.default.is_none() {
        properties.remove(&name);
        return Ok(());
    }
    definition.check(&value).map_err(|why| format!("{place}: {why}"))?;
    properties.insert(name, value);
    Ok(())
}

fn text(properties: &Properties, name: &str) -> Option<String> {
    broker_value(name, &[properties]).map(|value| value.trim().to_owned())
}

fn number<T: FromStr>(properties: &Properties, name: &str) -> Result<T, String> {
    let value = text(properties, name).unwrap_or_default();
    value.parse().map_err(|_| format!("{name} cannot be {value}"))
}

fn number_of(name: &str, value: &str, min: i32, max: i32) -> Result<i32, String> {
    let parsed = value.parse().ok().filter(|number| (min..=max).contains(number));
    parsed.ok_or_else(|| format!("{name} must be from {min} to {max}, not {value}"))
}

/// What Kafka refuses of the consumer group protocol's times: outside their own bounds, and a heartbeat that is not more
/// frequent than the session is long.
fn check_consumer_groups(properties: &Properties) -> Result<(), String> {
    const SESSION: &str = "group.consumer.session.timeout.ms";
    const HEARTBEAT: &str = "group.consumer.heartbeat.interval.ms";
    let of = |name: &str| number::<i64>(properties, name);
    for (name, min, max) in [
        (SESSION, "group.consumer.min.session.timeout.ms", "group.consumer.max.session.timeout.ms"),
        (HEARTBEAT, "group.consumer.min.heartbeat.interval.ms", "group.consumer.max.heartbeat.interval.ms"),
    ] {
        let (value, least, most) = (of(name)?, of(min)?, of(max)?);
        if !(least..=most).contains(&value) {
            return Err(format!("{name} is {value}, but {min} {least} and {max} {most}"));
        }
    }
    let (session, heartbeat) = (of(SESSION)?, of(HEARTBEAT)?);
    if heartbeat >= session {
        return Err(format!("{HEARTBEAT} must be less than {SESSION}, but is {heartbeat} of {session}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use millstream_replication::config::{Served, topic_configs};

    use super::*;

    fn load(overrides: &[&str]) -> Result<BrokerConfig, String> {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        BrokerConfig::load(None, &overrides)
    }

    #[test]
    fn nothing_needs_to_be_given() {
        let config = load(&[]).expect("the defaults are legal");
        assert_eq!(config.node_id, 1);
        assert_eq!(config.data_directory, PathBuf::from("./data"));
        assert_eq!(config.listeners.len(), 1);
        assert_eq!((config.listeners[0].host.as_str(), config.listeners[0].port), ("127.0.0.1", 9092));
        assert_eq!(config.http_listener, Some(("127.0.0.1".to_owned(), 9464)));
        assert_eq!(config.send_buffer_bytes, None, "the system adapts it");
        assert_eq!(config.request_bytes_max, 104_857_600);
        assert_eq!(config.idle_max, Some(Duration::from_secs(600)));
        assert_eq!(config.shards, None);
        assert_eq!(config.free_space_floor_bytes, None);
        assert_eq!(config.properties["listeners"], "PLAINTEXT://127.0.0.1:9092");
    }

    /// What stands in quotes in the sources of what is shipped: not in tests, comments, or the tables of configurations.
    fn names_read() -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let crates = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        let mut directories =
            vec![PathBuf::from(format!("{crates}/broker/src")), format!("{crates}/replication/src").into()];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).expect("the sources are here") {
                let path = entry.expect("readable").path();
                let is_table = path.ends_with("config/broker.rs") || path.ends_with("config/topic.rs");
                let stem = path.file_stem().expect("it has a name").to_string_lossy();
                if is_table || ["tests", "sim", "samples"].contains(&&*stem) {
                    continue;
                }
                if path.is_dir() {
                    directories.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = std::fs::read_to_string(&path).expect("readable");
                    let shipped = text.split("mod tests {").next().unwrap_or_default();
                    for line in shipped.lines().filter(|line| !line.trim_start().starts_with("//")) {
                        names.extend(line.split('"').skip(1).step_by(2).map(str::to_owned));
                    }
                }
            }
        }
        names
    }

    /// What the document says has no effect: the names, of which each may be a pattern, and why.
    pub(super) fn without_effect() -> Vec<(&'static str, &'static str)> {
        let document = include_str!("../../../docs/2026-11-21-configs-and-quotas.md");
        let (_, table) = document.split_once("## What has no effect").expect("the table");
        let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | "));
        rows.flat_map(|(names, why)| names.split("`, `").map(move |name| (name, why))).collect()
    }

    /// Whether a name is one of those that `pattern` stands for: `*` is any text, and occurs once at most.
    pub(super) fn matches(pattern: &str, name: &str) -> bool {
        match pattern.split_once('*') {
            Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| rest.ends_with(after)),
            None => pattern == name,
        }
    }

    #[test]
    fn what_is_honoured_is_read_and_what_is_not_has_its_reason() {
        let read = names_read();
        let without_effect: Vec<&str> = without_effect().into_iter().map(|(names, _)| names).collect();
        let has_row = |name: &str| without_effect.iter().any(|pattern| matches(pattern, name));

        let synonyms: BTreeSet<&str> =
            topic_configs().iter().flat_map(|definition| definition.synonyms).copied().collect();
        for definition in broker_configs().iter().chain(topic_configs()) {
            let name = definition.name;
            match definition.served {
                Served::Honoured => {
                    // The topic configuration that a synonym stands for is read in its place.
                    assert!(read.contains(name) || synonyms.contains(name), "{name} is honoured, and nothing reads it");
                    assert!(!has_row(name), "{name} is honoured, and the document says that it has no effect");
                }
                Served::Accepted => {
                    assert!(!read.contains(name), "{name} has no effect, and something reads it");
                    assert!(has_row(name), "{name} has no effect, and the document does not say why");
                }
                Served::Refused(_) => {}
            }
        }
        for pattern in without_effect {
            let mut all = broker_configs().iter().chain(topic_configs());
            assert!(all.any(|definition| matches(pattern, definition.name)), "{pattern} stands for nothing");
        }
    }

    #[test]
    fn times_of_consumer_groups_lie_within_their_bounds() {
        let error = load(&["group.consumer.session.timeout.ms=6000"]).expect_err("the least is 45000");
        assert!(error.contains("group.consumer.min.session.timeout.ms 45000"), "{error}");
        let short = ["group.consumer.session.timeout.ms=6000", "group.consumer.min.session.timeout.ms=6000"];
        load(&short).expect("legal");
        let error = load(&[&short[..], &["group.consumer.heartbeat.interval.ms=6000"]].concat());
        assert!(error.expect_err("too slow").contains("must be less than"));
    }

    #[test]
    fn what_is_given_wins() {
        let config = load(&[
            "node.id=7",
            "log.dir=/somewhere",
            "socket.send.buffer.bytes=65536",
            "socket.receive.buffer.bytes=-1",
            "millstream.http.listener=",
            "millstream.shards = 3",
            "connections.max.idle.ms=-1",
            "socket.listen.backlog.size=1",
            "socket.listen.backlog.size=2",
        ])
        .expect("legal");
        assert_eq!(config.node_id, 7);
        assert_eq!(config.data_directory, PathBuf::from("/somewhere"));
        assert_eq!(config.properties["log.dirs"], "/somewhere");
        assert_eq!((config.send_buffer_bytes, config.receive_buffer_bytes), (Some(65_536), None));
        assert_eq!(config.http_listener, None);
        assert_eq!(config.shards, Some(3));
        assert_eq!(config.idle_max, None);
        assert_eq!(config.backlog, 2, "the last one wins");
        assert_eq!(load(&["broker.id=5"]).expect("legal").node_id, 5);
    }

    #[test]
    fn mistakes_are_named() {
        let error = |overrides: &[&str]| load(overrides).expect_err("refused");
        assert_eq!(
            error(&["num.partition=3"]),
            "--override: there is no configuration \"num.partition\"; did you mean num.partitions?"
        );
        assert!(error(&["zzzzzzzzzzzzzzz=1"]).ends_with("there is no configuration \"zzzzzzzzzzzzzzz\""));
        assert!(error(&["num.partitions=0"]).contains("from 1 to 2147483647"));
        assert!(error(&["num.partitions"]).contains("name=value"));
        assert!(error(&["log.dirs=/a,/b"]).contains("only one entry"));
        assert!(error(&["node.id=1", "broker.id=2"]).contains("give one of them"));
        assert!(error(&["config.providers=file"]).contains("config.providers cannot be file"));
        assert!(error(&["millstream.http.listener=nine"]).contains("host:port"));
    }

    #[test]
    fn a_file_is_read_and_its_lines_are_named() {
        let path = std::env::temp_dir().join(format!("millstream_config_{}.properties", std::process::id()));
        std::fs::write(&path, "# mine\nnode.id=4\nlog.dirs=/tmp/x\n").expect("written");
        let config = BrokerConfig::load(Some(&path), &["node.id=5".to_owned()]).expect("legal");
        assert_eq!((config.node_id, config.data_directory), (5, PathBuf::from("/tmp/x")));
        std::fs::write(&path, "node.id=4\nnode.ids=4\n").expect("written");
        let error = BrokerConfig::load(Some(&path), &[]).expect_err("refused");
        assert!(error.contains("line 2: there is no configuration \"node.ids\"; did you mean node.id?"), "{error}");
        std::fs::remove_file(&path).expect("removed");
        assert!(BrokerConfig::load(Some(&path), &[]).expect_err("missing").starts_with("cannot read"));
    }
}
