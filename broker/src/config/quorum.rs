//! Who the controllers of the cluster are, where they are found, and how long they wait for each other and for brokers.

use std::time::Duration;

use millstream_replication::config::{Properties, list};

use super::listener::{Listener, host_and_port};
use super::{number, text};

/// `process.roles`: what a process is. Without any it is both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// It holds partitions and serves clients.
    pub is_broker: bool,
    /// It may vote in the quorum.
    pub is_controller: bool,
}

/// What a node is told of its cluster's controllers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumConfig {
    /// `process.roles`
    pub roles: Roles,
    /// `controller.quorum.voters`: the nodes that form the cluster, each with its number and where it is reached. A controller
    /// is one of them, unless there are none; a node that is a broker only is none of them.
    pub voters: Vec<(i32, String, u16)>,
    /// `controller.quorum.bootstrap.servers`: where controllers of the cluster are found.
    pub bootstrap_servers: Vec<(String, u16)>,
    /// `controller.quorum.auto.join.enable`: whether this node joins the voters by itself.
    pub auto_join: bool,
    /// `controlled.shutdown.enable`: whether a broker tells the controller before it stops.
    pub controlled_shutdown: bool,
    /// The one of `listeners` that `controller.listener.names` names.
    pub controller_listener: Option<Listener>,
    /// `controller.quorum.fetch.timeout.ms`: how long a controller waits for a word from the leader before it calls an
    /// election, at least.
    pub fetch_timeout: Duration,
    /// `broker.session.timeout.ms`: how long a broker may be silent before it counts as gone.
    pub session_timeout: Duration,
    /// `broker.heartbeat.interval.ms`: how often a broker says that it is there.
    pub heartbeat_interval: Duration,
    /// `leader.imbalance.check.interval.seconds`, if `auto.leader.rebalance.enable`: how often leadership goes back to preferred
    /// replicas.
    pub imbalance_check_interval: Option<Duration>,
    /// `initial.broker.registration.timeout.ms`: how long a broker that starts tries to be registered.
    pub registration_timeout: Duration,
}

impl QuorumConfig {
    /// Reads and checks the rest. The error is one line for people.
    pub(super) fn new(
        properties: &Properties,
        roles: Roles,
        voters: Vec<(i32, String, u16)>,
        controller_listener: Option<Listener>,
    ) -> Result<QuorumConfig, String> {
        let bootstrap_servers = bootstrap_servers(properties)?;
        if !roles.is_controller && voters.is_empty() && bootstrap_servers.is_empty() {
            return Err("process.roles is broker, and nothing says where the controllers are: give \
                        controller.quorum.bootstrap.servers or controller.quorum.voters"
                .to_owned());
        }
        let names_others = |name: &str| {
            format!(
                "{name} names other nodes, and they cannot reach this one: add CONTROLLER://host:port to listeners and give \
                 controller.listener.names=CONTROLLER"
            )
        };
        if roles.is_controller && controller_listener.is_none() {
            if voters.len() > 1 {
                return Err(names_others("controller.quorum.voters"));
            }
            if !are_own(&bootstrap_servers, None) {
                return Err(names_others("controller.quorum.bootstrap.servers"));
            }
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
        let imbalance_check_seconds: u64 = number(properties, "leader.imbalance.check.interval.seconds")?;
        let imbalance_check_interval = Some(Duration::from_secs(imbalance_check_seconds));
        Ok(QuorumConfig {
            roles,
            voters,
            bootstrap_servers,
            auto_join: is_true("controller.quorum.auto.join.enable"),
            controlled_shutdown: is_true("controlled.shutdown.enable"),
            controller_listener,
            fetch_timeout: milliseconds(properties, "controller.quorum.fetch.timeout.ms")?,
            session_timeout,
            heartbeat_interval,
            imbalance_check_interval: imbalance_check_interval.filter(|_| is_true("auto.leader.rebalance.enable")),
            registration_timeout: milliseconds(properties, "initial.broker.registration.timeout.ms")?,
        })
    }

    /// Where the controller listener is reached by other nodes.
    pub fn address(&self) -> Option<(String, u16)> {
        let listener = self.controller_listener.as_ref()?;
        Some((listener.advertised_host.clone(), listener.advertised_port))
    }

    /// Whether this node is to be part of a cluster of several. Where it holds nothing it waits for one then.
    pub fn has_others(&self) -> bool {
        let own = self.controller_listener.as_ref();
        !self.roles.is_controller || self.voters.len() > 1 || !are_own(&self.bootstrap_servers, own)
    }

    /// Whether this node becomes a voter by itself where there is a cluster already: `controller.quorum.auto.join.enable`
    /// (KIP-1186), or it is one of `controller.quorum.voters`.
    pub fn joins_voters(&self) -> bool {
        self.roles.is_controller && (self.auto_join || self.voters.len() > 1)
    }
}

/// Whether all servers are this node itself: where its controller listener is bound, or said to be.
fn are_own(servers: &[(String, u16)], listener: Option<&Listener>) -> bool {
    let is_this_machine = |host: &str| matches!(host, "localhost" | "127.0.0.1" | "::1");
    let is_own = |(host, port): &(String, u16)| match listener {
        None => is_this_machine(host),
        Some(listener) => {
            let is_advertised = (host, *port) == (&listener.advertised_host, listener.advertised_port);
            let is_anywhere = matches!(listener.host.as_str(), "" | "0.0.0.0" | "::");
            let is_here = is_this_machine(host) && (is_anywhere || is_this_machine(&listener.host));
            is_advertised || (*port == listener.port && (*host == listener.host || is_here))
        }
    };
    servers.iter().all(is_own)
}

/// What the process is.
pub(super) fn roles(properties: &Properties) -> Roles {
    let given = text(properties, "process.roles").unwrap_or_default();
    let has = |wanted: &str| list(&given).any(|role| role == wanted);
    let is_unsaid = list(&given).next().is_none();
    Roles { is_broker: is_unsaid || has("broker"), is_controller: is_unsaid || has("controller") }
}

/// The voters, if any are named: this node among them if it is a controller, and none twice.
pub(super) fn voters(properties: &Properties, roles: Roles, node_id: i32) -> Result<Vec<(i32, String, u16)>, String> {
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
    let is_one = voters.iter().any(|(id, ..)| *id == node_id);
    if is_one && !roles.is_controller {
        return Err(format!(
            "controller.quorum.voters names node {node_id}, which is a broker only: add controller to process.roles, or take it \
             out of controller.quorum.voters"
        ));
    }
    if !voters.is_empty() && !is_one && roles.is_controller {
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
        assert_eq!(quorum.roles, Roles { is_broker: true, is_controller: true });
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
        let of = |more: &[&str]| load(&[&LISTENERS[..], more].concat());
        let servers = "controller.quorum.bootstrap.servers=a:9093,b:9093,a:9093";
        let quorum = of(&[servers]).expect("legal");
        assert_eq!(quorum.bootstrap_servers, [("a".to_owned(), 9093), ("b".to_owned(), 9093)]);
        assert!(quorum.has_others() && !quorum.joins_voters());
        let join = "controller.quorum.auto.join.enable=true";
        let quorum = of(&["controller.quorum.bootstrap.servers=a:9093", join]).expect("legal");
        assert!(quorum.has_others() && quorum.joins_voters());
        // Itself, and nobody else: the first node of a cluster to be.
        for own in ["localhost:9093", "127.0.0.1:9093"] {
            assert!(!of(&[&format!("controller.quorum.bootstrap.servers={own}")]).expect(own).has_others(), "{own}");
        }
        for other in ["127.0.0.1:9094", "127.0.0.2:9093", "localhost:9093,b:9093"] {
            let quorum = of(&[&format!("controller.quorum.bootstrap.servers={other}")]).expect(other);
            assert!(quorum.has_others(), "{other}");
        }
        let line = load(&[servers]).expect_err("nobody could reach it");
        assert!(line.starts_with("controller.quorum.bootstrap.servers names other nodes"), "{line}");
    }

    #[test]
    fn a_process_is_broker_or_controller_or_both() {
        let roles = |is_broker, is_controller| Roles { is_broker, is_controller };
        for both in ["process.roles=broker,controller", "process.roles=controller, broker", "process.roles="] {
            assert_eq!(load(&[both]).expect(both).roles, roles(true, true));
        }
        let servers = "controller.quorum.bootstrap.servers=a:9093";
        let names = "controller.listener.names=CONTROLLER";
        let broker = load(&["process.roles=broker", servers, names]).expect("legal");
        assert_eq!(broker.roles, roles(true, false));
        assert!(broker.has_others() && broker.address().is_none());
        let listeners = "listeners=CONTROLLER://127.0.0.1:9093";
        let controller = load(&["process.roles=controller", listeners, names]).expect("legal");
        assert_eq!(controller.roles, roles(false, true));
        assert!(!controller.has_others() && controller.address().is_some());
        let voters = "controller.quorum.voters=5@a:9093";
        assert!(load(&["process.roles=broker", voters, names]).expect("legal").has_others());

        let error = |more: &[&str]| load(more).expect_err("refused");
        assert!(error(&["process.roles=broker"]).contains("nothing says where the controllers are"));
        assert!(error(&["process.roles=broker", voters, "node.id=5"]).contains("which is a broker only"));
        let line = error(&[&LISTENERS[..], &["process.roles=broker", servers]].concat());
        assert!(line.contains("process.roles is broker"), "{line}");
        let line = error(&[&LISTENERS[..], &["process.roles=controller"]].concat());
        assert!(line.contains("process.roles is controller"), "{line}");
        assert!(error(&["process.roles=controller"]).contains("process.roles is controller"));
        assert!(load(&["process.roles=broker,observer"]).is_err(), "there is no such role");
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
