//! `listeners`, `advertised.listeners` and what belongs to them.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use millstream_replication::config::{Properties, broker_value, list};

/// One place where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name, for example `PLAINTEXT`.
    pub name: String,
    /// The host to bind; empty: all addresses of this machine.
    pub host: String,
    /// The port to bind; 0: a free one.
    pub port: u16,
    /// The host told to clients.
    pub advertised_host: String,
    /// The port told to clients; 0: the one that is bound.
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

/// The listeners that clients may use.
pub fn listeners(properties: &Properties) -> Result<Vec<Listener>, String> {
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
    let of_controllers: Vec<String> = list(value("controller.listener.names")).map(str::to_ascii_uppercase).collect();

    let mut listeners: Vec<Listener> = Vec::new();
    for text in list(value("listeners")) {
        let (name, host, port) = endpoint("listeners", text)?;
        // The controller of this process is reached without a socket.
        if of_controllers.contains(&name) {
            continue;
        }
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
        let (advertised_host, advertised_port) = match advertised.remove(&name) {
            Some((advertised_host, port)) if !advertised_host.is_empty() => (advertised_host, port),
            Some((_, port)) => (host_name()?, port),
            None if host.is_empty() => (host_name()?, port),
            None => (host.clone(), port),
        };
        if matches!(advertised_host.as_str(), "0.0.0.0" | "::") {
            return Err(format!("clients cannot connect to {advertised_host}: give advertised.listeners for {name}"));
        }
        listeners.push(Listener { name, host, port, advertised_host, advertised_port });
    }
    if let Some(name) = advertised.keys().find(|name| !of_controllers.contains(name)) {
        return Err(format!("advertised.listeners names {name}, which is not among listeners"));
    }
    if listeners.is_empty() {
        return Err("listeners must name at least one listener for clients, such as PLAINTEXT://:9092".to_owned());
    }
    Ok(listeners)
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

    fn parse(pairs: &[(&str, &str)]) -> Result<Vec<Listener>, String> {
        listeners(&pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
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
            ("listener.security.protocol.map", "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL"),
        ]);
        assert_eq!(parsed, Ok(vec![listener("PLAINTEXT", "", 9092, "localhost", 9092)]));
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
            Ok(vec![
                listener("INSIDE", "10.0.0.1", 9092, "10.0.0.1", 9092),
                listener("OUTSIDE", "::1", 0, "example.org", 19_092),
            ])
        );
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
