//! Text from people and their tools. The first byte chooses: a properties file and the configuration it makes, requests
//! to the metrics port, values of topic configurations, names of topics.

use millstream::config::{BrokerConfig, properties};
use millstream::driver::http;
use millstream_replication::config::{
    Properties, broker_config, broker_configs, nearest, topic_configs, topic_settings,
};
use millstream_replication::topic_name;

use crate::Target;
use crate::input::{Input, piece};
use crate::memory::{BASE_BYTES, bounded};

pub const TARGET: Target = Target { name: "text", run, seeds };

/// A property of two bytes is two strings in a list that may have twice the room; error messages quote what they are
/// about, with escapes.
const MEMORY_PER_BYTE: usize = 96;
/// The tables of configurations by their names, made at the first look-up.
const TABLES_BYTES: usize = 128 << 10;

fn run(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let bytes_max = BASE_BYTES + TABLES_BYTES + MEMORY_PER_BYTE * bytes.len();
    match choice % 4 {
        0 => {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            bounded(bytes_max, || configuration(text));
        }
        1 => bounded(bytes_max, || request(bytes)),
        2 => bounded(bytes_max, || values(Input::new(bytes))),
        _ => {
            let Ok(name) = std::str::from_utf8(bytes) else { return };
            if bounded(bytes_max, || topic_name::check(name)).is_ok() {
                assert!(name.len() <= topic_name::TOPIC_NAME_BYTES_MAX && !name.contains(['/', '\0']));
            }
        }
    }
}

/// Reads the text as a file, then gives what is in it as overrides: all but opening the file.
fn configuration(text: &str) {
    let Ok(properties) = properties::parse(text) else { return };
    let mut overrides = Vec::new();
    for property in properties {
        assert!(property.line >= 1 && property.line <= text.lines().count());
        assert_eq!(property.value, property.value.trim());
        if broker_config(&property.name).is_none() {
            let _ = nearest(&property.name, broker_configs());
        }
        overrides.push(format!("{}={}", property.name, property.value));
    }
    if let Ok(config) = BrokerConfig::load(None, &overrides) {
        assert!(!config.listeners.is_empty() && config.node_id >= 0);
    }
}

/// A request is understood when its head is complete, whatever follows.
fn request(bytes: &[u8]) {
    let whole = http::parse(bytes);
    for end in 0..bytes.len().min(64) {
        match http::parse(&bytes[..end]) {
            Ok(None) => {}
            early => assert_eq!(early, whole, "after {end} bytes"),
        }
    }
}

/// Values that pass their check can be used.
fn values(mut input: Input<'_>) {
    let mut topic = Properties::new();
    while !input.is_empty() {
        let definition = &topic_configs()[usize::from(input.byte()) % topic_configs().len()];
        let Ok(value) = std::str::from_utf8(input.piece()) else { continue };
        if definition.check(value).is_ok() {
            topic.insert(definition.name.to_owned(), value.to_owned());
        }
    }
    let _ = topic_settings(&topic, &[]);
}

fn seeds() -> Vec<Vec<u8>> {
    let file = "# a file\nnode.id = 4\nlisteners=PLAINTEXT://127.0.0.1:9092,\\\n  X://[::1]:1\n\
                listener.security.protocol.map : X:PLAINTEXT,PLAINTEXT:PLAINTEXT\n! more\nlog.dirs=/t\\u0041\\t\n\
                millstream.http.listener=\nadvertised.listeners=X://h:2\nnum.partition=3\n";
    let small = "node.id=4\nlog.dirs=/tmp/x\nmax.connections=5\nconnections.max.idle.ms=-1\n";
    let mut values = vec![2];
    for (index, definition) in topic_configs().iter().enumerate() {
        values.push(index as u8);
        values.extend(piece(definition.default.unwrap_or("a,b").as_bytes()));
    }
    vec![
        [b"\0", file.as_bytes()].concat(),
        [b"\0", small.as_bytes()].concat(),
        b"\x01GET /metrics?a=b HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
        b"\x01POST /healthz HTTP/1.0\r\n\r\n".to_vec(),
        values,
        b"\x03orders.v1_a-b".to_vec(),
    ]
}
