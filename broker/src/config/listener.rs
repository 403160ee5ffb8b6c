//! `listeners`, `advertised.listeners` and what belongs to them.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use millstream_replication::config::{Properties, broker_value, list};

use super::Roles;

/// One place where clients connect, or other nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name, for example `PLAINTEXT`.
    pub name: String,
    /// The host to bind; empty: all addresses of this machine.
    pub host: String,
    /// The port to bind; 0: a free one.
    pub port: u16,
    /// The host told to those who are to connect.
    pub advertised_host: String,
    /// The port told to them; 0: the one that is bound.
    pub advertised_port: u16,
}

impl Listener {
    /// The address to bind; of several that the host's name has, an IPv4 one.
    pub fn address(&self) -> io::Result<SocketAddr> {
        let host = if self.host.is_empty() { "0.0.0.0" } else { &self.host };
        resolve(host, self.port)
    }
}

/// The address of a host by name or number; of several, an IPv4 one.
pub fn resolve(host: &str, port: u16) -> io::Result<SocketAddr> {
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    let best = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    best.copied().ok_or_else(|| io::Error::other("the name has no address"))
}

/// `host:port`, with `[...]` around an IPv6 address; the host may be empty.
pub fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.strip_suffix(']')?,
        None if host.contains([':', '/']) => return None,
        None => host,
    };
    Some((host.to_owned(), port.parse().ok()?))
}

/// `NAME://host:port`
fn endpoint(property: &str, text: &str) -> Result<(String, String, u16), String> {
    let parsed = text.split_once("://").and_then(|(name, rest)| Some((name, host_and_port(rest)?)));
    match parsed {
        Some((name, (host, port))) if !name.is_empty() => Ok((name.to_ascii_uppercase(), host, port)),
        _ => Err(format!("{property} must hold NAME://host:port, not {text:?}")),
    }
}

/// All listeners of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listeners {
    /// Those that clients may use; none where the process is a controller only, else at least one.
    pub clients: Vec<Listener>,
    /// The one that other nodes use to reach this node's controller.
    pub controller: Option<Listener>,
}

/// Reads what is said of listeners. `as_voter` is where others are told to reach this node's controller.
pub(super) fn listeners(
    properties: &Properties,
    roles: Roles,
    as_voter: Option<(String, u16)>,
) -> Result<Listeners, String> {
    let value = |name: &str| broker_value(name, &[properties]).unwrap_or_default();
    let mut protocols = BTreeMap::new();
    for pair in list(value("listener.security.protocol.map")) {
        let Some((name, protocol)) = pair.split_once(':') else {
            return Err(format!("listener.security.protocol.map must hold NAME:PROTOCOL, not {pair:?}"));
        };
        protocols.insert(name.trim().to_ascii_uppercase(), protocol.trim().to_ascii_uppercase());
    }
    let mut advertised = BTreeMap::new();
    for text in list(value("advertised.listeners")) {
        let (name, host, port) = endpoint("advertised.listeners", text)?;
        if advertised.insert(name.clone(), (host, port)).is_some() {
            return Err(format!("advertised.listeners names {name} twice"));
        }
    }
    let of_controllers = list(value("controller.listener.names")).map(str::to_ascii_uppercase);
    let of_controllers = match &of_controllers.collect::<Vec<_>>()[..] {
        [] => None,
        [name] => Some(name.clone()),
        several => return Err(format!("controller.listener.names must hold one name, not {}", several.join(","))),
    };
    if let Some(name) = &of_controllers
        && !properties.contains_key("listener.security.protocol.map")
    {
        // As Kafka has it: a listener of controllers needs no entry in a map that nobody has written.
        protocols.entry(name.clone()).or_insert_with(|| "PLAINTEXT".to_owned());
    }

    let mut listeners: Vec<Listener> = Vec::new();
    for text in list(value("listeners")) {
        let (name, host, port) = endpoint("listeners", text)?;
        match protocols.get(&name).map(String::as_str) {
            Some("PLAINTEXT") => {}
            Some(protocol) => {
                return Err(format!("listener {name} cannot be served: {protocol} is not implemented, only PLAINTEXT"));
            }
            None => return Err(format!("listener.security.protocol.map says nothing of {name}")),
        }
        if listeners.iter().any(|known| known.name == name) {
            return Err(format!("listeners names {name} twice"));
        }
        if port != 0 && listeners.iter().any(|known| known.port == port && known.host == host) {
            return Err(format!("listeners names {host}:{port} twice"));
        }
        let as_voter = as_voter.clone().filter(|_| of_controllers.as_ref() == Some(&name));
        let (advertised_host, advertised_port) = match advertised.remove(&name).or(as_voter) {
            Some((advertised_host, port)) if !advertised_host.is_empty() => (advertised_host, port),
            Some((_, port)) => (host_name()?, port),
            None if host.is_empty() => (host_name()?, port),
            None => (host.clone(), port),
        };
        if matches!(advertised_host.as_str(), "0.0.0.0" | "::") {
            return Err(format!("nobody can connect to {advertised_host}: give advertised.listeners for {name}"));
        }
        listeners.push(Listener { name, host, port, advertised_host, advertised_port });
    }
    if let Some(name) = advertised.keys().find(|name| of_controllers.as_ref() != Some(name)) {
        return Err(format!("advertised.listeners names {name}, which is not among listeners"));
    }
    let place = listeners.iter().position(|listener| of_controllers.as_ref() == Some(&listener.name));
    let controller = place.map(|place| listeners.remove(place));
    if !roles.is_controller && controller.is_some() {
        return Err("process.roles is broker, and listeners names one of controllers: leave it out; \
                    controller.listener.names stays, for where the controllers are"
            .to_owned());
    }
    if !roles.is_broker {
        if controller.is_none() || !listeners.is_empty() {
            return Err(
                "process.roles is controller: listeners must hold the one that controller.listener.names names, such \
                        as CONTROLLER://:9093, and no other"
                    .to_owned(),
            );
        }
        return Ok(Listeners { clients: listeners, controller });
    }
    if listeners.is_empty() {
        return Err("listeners must name at least one listener for clients, such as PLAINTEXT://:9092".to_owned());
    }
    let for_brokers = value("inter.broker.listener.name").trim().to_ascii_uppercase();
    if !for_brokers.is_empty() && !listeners.iter().any(|listener| listener.name == for_brokers) {
        return Err(format!(
            "inter.broker.listener.name is {for_brokers}, which is not among the listeners for clients"
        ));
    }
    Ok(Listeners { clients: listeners, controller })
}

/// This machine's name.
fn host_name() -> Result<String, String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    if name.is_empty() {
        return Err("this machine has no name to tell clients: give advertised.listeners".to_owned());
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Listeners, String> {
        parse_as_voter(pairs, None)
    }

    fn parse_as_voter(pairs: &[(&str, &str)], as_voter: Option<(String, u16)>) -> Result<Listeners, String> {
        let roles = Roles { is_broker: true, is_controller: true };
        listeners(&pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(), roles, as_voter)
    }

    fn clients(clients: Vec<Listener>) -> Listeners {
        Listeners { clients, controller: None }
    }

    fn listener(name: &str, host: &str, port: u16, advertised_host: &str, advertised_port: u16) -> Listener {
        let (name, host, advertised_host) = (name.to_owned(), host.to_owned(), advertised_host.to_owned());
        Listener { name, host, port, advertised_host, advertised_port }
    }

    #[test]
    fn endpoints_are_taken_apart() {
        assert_eq!(host_and_port("a.b:1"), Some(("a.b".to_owned(), 1)));
        assert_eq!(host_and_port(":9092"), Some((String::new(), 9092)));
        assert_eq!(host_and_port("[::1]:65535"), Some(("::1".to_owned(), 65_535)));
        for broken in ["", "a", "a:", "a:65536", "a:-1", "::1:5", "[::1:5", "//a:1"] {
            assert_eq!(host_and_port(broken), None, "{broken}");
        }
    }

    #[test]
    fn kafkas_own_example_is_understood() {
        let parsed = parse(&[
            ("listeners", "PLAINTEXT://:9092,CONTROLLER://:9093"),
            ("advertised.listeners", "PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093"),
            ("controller.listener.names", "CONTROLLER"),
            ("inter.broker.listener.name", "PLAINTEXT"),
            ("listener.security.protocol.map", "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL"),
        ]);
        let controller = Some(listener("CONTROLLER", "", 9093, "localhost", 9093));
        let clients = vec![listener("PLAINTEXT", "", 9092, "localhost", 9092)];
        assert_eq!(parsed, Ok(Listeners { clients, controller }));
    }

    #[test]
    fn listeners_have_names_of_their_own() {
        let parsed = parse(&[
            ("listeners", "inside://10.0.0.1:9092, OUTSIDE://[::1]:0"),
            ("advertised.listeners", "OUTSIDE://example.org:19092"),
            ("listener.security.protocol.map", "INSIDE:PLAINTEXT,OUTSIDE:PLAINTEXT"),
        ]);
        assert_eq!(
            parsed,
            Ok(clients(vec![
                listener("INSIDE", "10.0.0.1", 9092, "10.0.0.1", 9092),
                listener("OUTSIDE", "::1", 0, "example.org", 19_092),
            ]))
        );
    }

    #[test]
    fn the_listener_of_controllers_stands_apart() {
        let of = |names: &str, map: Option<&str>| {
            let mut pairs = vec![
                ("listeners", "PLAINTEXT://a:1,Controller://a:2"),
                ("controller.listener.names", names),
                ("inter.broker.listener.name", ""),
            ];
            pairs.extend(map.map(|map| ("listener.security.protocol.map", map)));
            parse(&pairs)
        };
        let controller = Some(listener("CONTROLLER", "a", 2, "a", 2));
        let both = Listeners { clients: vec![listener("PLAINTEXT", "a", 1, "a", 1)], controller };
        assert_eq!(of("controller", None), Ok(both.clone()), "a map that nobody has written needs no entry");
        assert_eq!(of("CONTROLLER", Some("PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT")), Ok(both));
        let error = |names, map| of(names, map).expect_err("refused");
        assert!(error("CONTROLLER", Some("PLAINTEXT:PLAINTEXT")).contains("says nothing of CONTROLLER"));
        assert!(error("CONTROLLER", Some("PLAINTEXT:PLAINTEXT,CONTROLLER:SSL")).contains("SSL is not implemented"));
        assert!(error("CONTROLLER,OTHER", None).contains("must hold one name, not CONTROLLER,OTHER"));
        assert!(error("", None).contains("says nothing of CONTROLLER"));

        let as_voter = |advertised| {
            let listeners = ("listeners", "PLAINTEXT://a:1,CONTROLLER://0.0.0.0:2");
            let names = ("controller.listener.names", "CONTROLLER");
            let pairs = [listeners, names, ("advertised.listeners", advertised)];
            parse_as_voter(&pairs, Some(("b".to_owned(), 3))).expect("legal").controller.expect("it is named")
        };
        assert_eq!(as_voter(""), listener("CONTROLLER", "0.0.0.0", 2, "b", 3), "where the others dial it");
        assert_eq!(as_voter("CONTROLLER://c:4"), listener("CONTROLLER", "0.0.0.0", 2, "c", 4));

        let error = |name| {
            let listeners = ("listeners", "PLAINTEXT://a:1,CONTROLLER://a:2");
            let names = ("controller.listener.names", "CONTROLLER");
            parse(&[listeners, names, ("inter.broker.listener.name", name)]).expect_err("refused")
        };
        for name in ["CONTROLLER", "OTHER"] {
            let expected =
                format!("inter.broker.listener.name is {name}, which is not among the listeners for clients");
            assert_eq!(error(name), expected);
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let error = |listeners: &str, advertised: &str| {
            parse(&[("listeners", listeners), ("advertised.listeners", advertised)]).expect_err("refused")
        };
        assert!(error("SSL://:9093", "").contains("SSL is not implemented"));
        assert!(error("MINE://:9093", "").contains("listener.security.protocol.map says nothing of MINE"));
        assert!(error("localhost:9092", "").contains("NAME://host:port"));
        assert!(error("PLAINTEXT://0.0.0.0:9092", "").contains("give advertised.listeners"));
        assert!(error("PLAINTEXT://a:1,PLAINTEXT://a:2", "").contains("twice"));
        assert!(error("PLAINTEXT://a:1", "OTHER://a:1").contains("not among listeners"));
        assert!(error("", "").contains("at least one"));
    }

    #[test]
    fn names_are_resolved_to_ipv4_first() {
        let local = listener("PLAINTEXT", "localhost", 1, "localhost", 1);
        assert!(local.address().expect("known everywhere").ip().is_loopback());
        let all = listener("PLAINTEXT", "", 1, "x", 1);
        assert_eq!(all.address().expect("always"), "0.0.0.0:1".parse().expect("an address"));
    }
}
