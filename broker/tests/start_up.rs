//! The program as people meet it: how it starts, what it says when it cannot, how it ends.

mod process;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Output;

use process::{Broker, Data, command};

/// Runs a broker that cannot start; returns its one line.
fn refused(overrides: &[&str]) -> String {
    let Output { status, stdout, stderr } = command(overrides).output().expect("started");
    let stderr = String::from_utf8(stderr).expect("text");
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stdout.is_empty());
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr
}

/// Where the data lies.
fn directory(data: &Data) -> PathBuf {
    data.log_dirs().strip_prefix("log.dirs=").expect("that is its configuration").into()
}

/// Asks for the supported versions (ApiVersions 0) and returns the error code.
fn api_versions(port: u16) -> i16 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    // Length, key 18, version 0, correlation id 7, client id null.
    stream.write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 255, 255]).expect("sent");
    let mut response = [0; 10];
    stream.read_exact(&mut response).expect("answered");
    assert_eq!(response[4..8], [0, 0, 0, 7]);
    i16::from_be_bytes([response[8], response[9]])
}

#[test]
fn it_serves_and_stops_when_told_to() {
    let data = Data::new("serves");
    let mut broker = Broker::start(&[&data.log_dirs(), "node.id=4"]);
    assert!(broker.ready.starts_with(concat!("millstream ", env!("CARGO_PKG_VERSION"), " ready: ")));
    assert!(broker.ready.contains(", node 4, 1 shard, data in "), "{}", broker.ready);
    assert_eq!(api_versions(broker.port()), 0);
    broker.signal("-TERM");
    assert_eq!(broker.child.wait().expect("ended").code(), Some(0));

    let line = refused(&[&data.log_dirs(), "node.id=5"]);
    assert!(line.contains("set node.id=4"), "{line}");
}

#[test]
fn a_clean_stop_leaves_its_mark_and_nothing_else_does() {
    let data = Data::new("mark");
    let mark = directory(&data).join(".millstream_cleanshutdown");
    for signal in ["-TERM", "-KILL", "-TERM"] {
        let mut broker = Broker::start(&[&data.log_dirs()]);
        assert!(!mark.exists(), "the start takes it away before it serves");
        broker.signal(signal);
        broker.child.wait().expect("ended");
        assert_eq!(mark.exists(), signal == "-TERM", "{signal}");
    }
}

#[test]
fn a_data_directory_with_a_part_missing_is_refused_and_left_alone() {
    let data = Data::new("parts");
    let path = directory(&data);
    let run = || {
        let mut broker = Broker::start(&[&data.log_dirs()]);
        broker.signal("-TERM");
        assert_eq!(broker.child.wait().expect("ended").code(), Some(0));
    };
    run();
    let away = path.with_extension("away");
    for (part, message) in [("meta.properties", "meta.properties is missing"), ("metadata", "its metadata is missing")]
    {
        std::fs::rename(path.join(part), &away).expect("it is there");
        for _ in 0..2 {
            // The first refusal must not make the second start succeed.
            let line = refused(&[&data.log_dirs()]);
            assert!(line.contains(message), "{line}");
        }
        assert!(path.join("shards").is_dir());
        std::fs::rename(&away, path.join(part)).expect("restored");
    }
    run();
}

#[test]
fn a_killed_broker_starts_again_at_once_with_another_number_of_shards() {
    let data = Data::new("killed");
    for shards in ["millstream.shards=2", "millstream.shards=1", "millstream.shards=3"] {
        let broker = Broker::start(&[&data.log_dirs(), shards]);
        assert_eq!(api_versions(broker.port()), 0);
        broker.signal("-KILL");
    }
}

#[test]
fn a_data_directory_in_use_names_the_process() {
    let data = Data::new("locked");
    let broker = Broker::start(&[&data.log_dirs()]);
    let line = refused(&[&data.log_dirs()]);
    assert!(line.ends_with(&format!("is in use by process {}\n", broker.child.id())), "{line}");
}

#[test]
fn a_port_in_use_is_named() {
    let data = Data::new("port");
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = other.local_addr().expect("bound");
    let line = refused(&[&data.log_dirs(), &format!("listeners=PLAINTEXT://{address}")]);
    assert!(line.contains(&format!("listeners: {address} is taken by another process")), "{line}");
    let line = refused(&[&data.log_dirs(), &format!("millstream.http.listener={address}")]);
    assert!(line.contains(&format!("millstream.http.listener: {address} is taken")), "{line}");
}

#[test]
fn two_brokers_cannot_share_a_port() {
    let (first, second) = (Data::new("port_first"), Data::new("port_second"));
    let broker = Broker::start(&[&first.log_dirs()]);
    let line = refused(&[&second.log_dirs(), &format!("listeners=PLAINTEXT://127.0.0.1:{}", broker.port())]);
    assert!(line.contains("is taken by another process"), "{line}");
}

#[test]
fn mistakes_in_the_configuration_are_explained() {
    let line = refused(&["num.partition=1"]);
    assert!(line.ends_with("there is no configuration \"num.partition\"; did you mean num.partitions?\n"), "{line}");
    let line = refused(&["listeners=SSL://127.0.0.1:0"]);
    assert!(line.contains("SSL is not implemented"), "{line}");
    let line = refused(&["process.roles=broker"]);
    assert!(line.contains("nothing says where the controllers are"), "{line}");
    let line = refused(&["process.roles=controller"]);
    assert!(line.contains("listeners must hold the one that controller.listener.names names"), "{line}");
    let line = refused(&["node.id=1", "controller.quorum.voters=2@elsewhere:9093"]);
    assert!(line.contains("controller.quorum.voters is 2@elsewhere:9093"), "{line}");
    let line = refused(&["controller.quorum.voters=1@a:9093,2@b:9093"]);
    assert!(line.contains("add CONTROLLER://host:port to listeners"), "{line}");
    let line = refused(&["controller.quorum.bootstrap.servers=a:9093", "controller.quorum.auto.join.enable=true"]);
    assert!(line.contains("controller.quorum.bootstrap.servers names other nodes"), "{line}");
    let line = refused(&["log.dirs=/proc/nowhere"]);
    assert!(line.contains("cannot create the data directory /proc/nowhere"), "{line}");
}

#[test]
fn metrics_and_health_are_served() {
    let data = Data::new("http");
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let broker = Broker::start(&[&data.log_dirs(), &format!("millstream.http.listener={free}")]);
    assert_eq!(api_versions(broker.port()), 0);
    let get = |path: &str| {
        let mut stream = TcpStream::connect(free).expect("it listens");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {free}\r\n\r\n").expect("sent");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("received");
        response
    };
    assert!(get("/healthz").starts_with("HTTP/1.1 200 OK\r\n"));
    let metrics = get("/metrics");
    assert!(metrics.contains("\nmillstream_connections_accepted_total{shard=\"0\"} 1\n"), "{metrics}");
    let body = metrics.split("\r\n\r\n").nth(1).expect("a body");
    let mut names: Vec<&str> = body.lines().filter(|line| !line.starts_with('#')).collect();
    names.iter_mut().for_each(|line| *line = line.rsplit_once(' ').expect("a value").0);
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "every sample once");
}
