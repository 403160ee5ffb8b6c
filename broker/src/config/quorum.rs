//! Who the controllers of the cluster are, where they are found, and how long they wait for each other and for brokers.

use std::time::Duration;

use millstream_replication::config::{Properties, list};

use super::listener::{Listener, host_and_port};
use super::{number, text};

/// What a node is told of its cluster's controllers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumConfig {
    /// `controller.quorum.voters`: the nodes that form the cluster, each with its number and where it is reached. This node is
    /// one of them, unless there are none.
    pub voters: Vec<(i32, String, u16)>,
    /// `controller.quorum.bootstrap.servers`: where controllers of the cluster are found.
    pub bootstrap_servers: Vec<(String, u16)>,
    /// `controller.quorum.auto.join.enable`: whether this node joins the voters by itself.
    pub auto_join: bool,
    /// The one of `listeners` that `controller.listener.names` names.
    pub controller_listener: Option<Listener>,
    /// `controller.quorum.fetch.timeout.ms`: how long a controller waits for a word from the leader before it calls an
    /// election, at least.
    pub fetch_timeout: Duration,
    /// `broker.session.timeout.ms`: how long a broker may be silent before it counts as gone.
    pub session_timeout: Duration,
    /// `broker.heartbeat.interval.ms`: how often a broker says that it is there.
    pub heartbeat_interval: Duration,
    /// `initial.broker.registration.timeout.ms`: how long a broker that starts tries to be registered.
    pub registration_timeout: Duration,
}

impl QuorumConfig {
    /// Reads and checks the rest. The error is one line for people.
    pub(super) fn new(
        properties: &Properties,
        voters: Vec<(i32, String, u16)>,
        controller_listener: Option<Listener>,
    ) -> Result<QuorumConfig, String> {
        if voters.len() > 1 && controller_listener.is_none() {
            return Err("controller.quorum.voters names other nodes, and they cannot reach this one: add \
                        CONTROLLER://host:port to listeners and give controller.listener.names=CONTROLLER"
                .to_owned());
        }
        let session_timeout = milliseconds(properties, "broker.session.timeout.ms")?;
        let heartbeat_interval = milliseconds(properties, "broker.heartbeat.interval.ms")?;
        if heartbeat_interval * 2 > session_timeout {
            return Err(format!(
                "broker.heartbeat.interval.ms must be half of broker.session.timeout.ms at most, but is {} of {}",
                heartbeat_interval.as_millis(),
                session_timeout.as_millis()
            ));
        }
        let is_true = |name: &str| text(properties, name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        Ok(QuorumConfig {
            voters,
            bootstrap_servers: bootstrap_servers(properties)?,
            auto_join: is_true("controller.quorum.auto.join.enable"),
            controller_listener,
            fetch_timeout: milliseconds(properties, "controller.quorum.fetch.timeout.ms")?,
            session_timeout,
            heartbeat_interval,
            registration_timeout: milliseconds(properties, "initial.broker.registration.timeout.ms")?,
        })
    }

    /// Where the controller listener is reached by other nodes.
    pub fn address(&self) -> Option<(String, u16)> {
        let listener = self.controller_listener.as_ref()?;
        Some((listener.advertised_host.clone(), listener.advertised_port))
    }

    /// Whether this node is to be part of a cluster of several.
    pub fn has_others(&self) -> bool {
        let joins = self.auto_join && !self.bootstrap_servers.is_empty();
        joins || self.voters.len() > 1 || self.bootstrap_servers.len() > 1
    }
}

/// The voters, if any are named: this node among them, and none twice.
pub(super) fn voters(properties: &Properties, node_id: i32) -> Result<Vec<(i32, String, u16)>, String> {
    let given = text(properties, "controller.quorum.voters").unwrap_or_default();
    let mut voters: Vec<(i32, String, u16)> = Vec::new();
    for voter in list(&given) {
        let parsed = voter.split_once('@').and_then(|(id, address)| {
            let id = id.trim().parse().ok().filter(|id: &i32| *id >= 0)?;
            host_to_dial(address).map(|(host, port)| (id, host, port))
        });
        let Some((id, host, port)) = parsed else {
            return Err(format!("controller.quorum.voters must hold ID@host:port, not {voter:?}"));
        };
        if voters.iter().any(|(known, ..)| *known == id) {
            return Err(format!("controller.quorum.voters names node {id} twice"));
        }
        if voters.iter().any(|(_, known, at)| *known == host && *at == port) {
            return Err(format!("controller.quorum.voters names {host}:{port} twice"));
        }
        voters.push((id, host, port));
    }
    if !voters.is_empty() && !voters.iter().any(|(id, ..)| *id == node_id) {
        return Err(format!(
            "controller.quorum.voters is {given}, and this node is none of them: add {node_id}@host:port, give the node.id of \
             one of them, or leave it out for a cluster of its own"
        ));
    }
    Ok(voters)
}

fn bootstrap_servers(properties: &Properties) -> Result<Vec<(String, u16)>, String> {
    let given = text(properties, "controller.quorum.bootstrap.servers").unwrap_or_default();
    let mut servers = Vec::new();
    for server in list(&given) {
        let Some(address) = host_to_dial(server) else {
            return Err(format!("controller.quorum.bootstrap.servers must hold host:port, not {server:?}"));
        };
        if !servers.contains(&address) {
            servers.push(address);
        }
    }
    Ok(servers)
}

/// `host:port` of somebody else: neither part is left to the system.
fn host_to_dial(text: &str) -> Option<(String, u16)> {
    host_and_port(text.trim()).filter(|(host, port)| !host.is_empty() && *port != 0)
}

fn milliseconds(properties: &Properties, name: &str) -> Result<Duration, String> {
    match number::<i32>(properties, name)? {
        value @ ..1 => Err(format!("{name} must be at least 1, not {value}")),
        value => Ok(Duration::from_millis(value as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BrokerConfig;

    const LISTENERS: [&str; 2] =
        ["listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093", "controller.listener.names=CONTROLLER"];

    fn load(overrides: &[&str]) -> Result<QuorumConfig, String> {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        BrokerConfig::load(None, &overrides).map(|config| config.quorum)
    }

    #[test]
    fn a_node_is_alone_unless_others_are_named() {
        let quorum = load(&[]).expect("the defaults are legal");
        assert_eq!((&quorum.voters, &quorum.bootstrap_servers), (&vec![], &vec![]));
        assert!(!quorum.auto_join && !quorum.has_others() && quorum.controller_listener.is_none());
        assert_eq!(quorum.session_timeout, Duration::from_secs(3));
        assert_eq!(quorum.heartbeat_interval, Duration::from_millis(500));
        assert_eq!(quorum.fetch_timeout, Duration::from_millis(600));
        for alone in [
            "controller.quorum.voters=",
            "controller.quorum.voters=1@localhost:9093",
            "controller.quorum.voters= 1@[::1]:9093 ,",
            // As in the file that comes with Kafka.
            "controller.quorum.bootstrap.servers=localhost:9093",
        ] {
            assert!(!load(&[alone]).expect(alone).has_others(), "{alone}");
        }
    }

    #[test]
    fn three_voters() {
        let voters = "controller.quorum.voters=1@a:9093,2@b.example:9094, 3@[::1]:9095";
        let quorum = load(&[&LISTENERS[..], &[voters, "node.id=2"]].concat()).expect("legal");
        let expected = [(1, "a", 9093), (2, "b.example", 9094), (3, "::1", 9095)];
        assert_eq!(quorum.voters, expected.map(|(id, host, port)| (id, host.to_owned(), port)));
        assert!(quorum.has_others());
        let listener = quorum.controller_listener.expect("it is named");
        assert_eq!((listener.name.as_str(), listener.port), ("CONTROLLER", 9093));
    }

    #[test]
    fn a_cluster_to_join() {
        let servers = "controller.quorum.bootstrap.servers=a:9093,b:9093,a:9093";
        let quorum = load(&[servers]).expect("legal");
        assert_eq!(quorum.bootstrap_servers, [("a".to_owned(), 9093), ("b".to_owned(), 9093)]);
        assert!(quorum.has_others());
        let join = "controller.quorum.auto.join.enable=true";
        let quorum = load(&["controller.quorum.bootstrap.servers=a:9093", join]).expect("legal");
        assert!(quorum.auto_join && quorum.has_others());
    }

    #[test]
    fn mistakes_are_named() {
        let error = |more: &[&str]| load(&[&LISTENERS[..], more].concat()).expect_err("refused");
        for voter in
            ["4", "4@localhost", "localhost:9093", "-1@a:1", "x@a:1", "1@:9093", "1@a:0", "1@a:b:1", "1@a:65536"]
        {
            let line = error(&[&format!("controller.quorum.voters={voter}")]);
            assert_eq!(line, format!("controller.quorum.voters must hold ID@host:port, not {voter:?}"));
        }
        let line = error(&["controller.quorum.voters=1@a:1,2@b:2,1@c:3"]);
        assert_eq!(line, "controller.quorum.voters names node 1 twice");
        let line = error(&["controller.quorum.voters=1@a:1,2@a:1"]);
        assert_eq!(line, "controller.quorum.voters names a:1 twice");
        let line = error(&["controller.quorum.voters=2@b:2,3@c:3"]);
        assert!(
            line.starts_with("controller.quorum.voters is 2@b:2,3@c:3, and this node is none of them: add 1@"),
            "{line}"
        );
        let line = error(&["controller.quorum.bootstrap.servers=a"]);
        assert_eq!(line, "controller.quorum.bootstrap.servers must hold host:port, not \"a\"");
        let line = error(&["broker.session.timeout.ms=0"]);
        assert_eq!(line, "broker.session.timeout.ms must be at least 1, not 0");
        let line = error(&["broker.session.timeout.ms=900"]);
        assert!(line.ends_with("but is 500 of 900"), "{line}");
        let line = load(&["controller.quorum.voters=1@a:1,2@b:2"]).expect_err("refused");
        assert!(line.contains("add CONTROLLER://host:port to listeners and give controller.listener.names"), "{line}");
    }
}
