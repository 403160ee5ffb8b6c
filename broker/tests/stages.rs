//! What the broker says of the time that requests take, held against what a client measures.

mod process;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use millstream_storage::batch::BatchBuilder;
use process::{Broker, Data};

const PRODUCE: (i16, i16) = (0, 7);
const FETCH: (i16, i16) = (1, 10);
const CREATE_TOPICS: (i16, i16) = (19, 2);

/// How long the broker holds back a fetch that finds nothing.
const WAIT: Duration = Duration::from_millis(300);
/// What the broker must account for, of the time that its client measures, where the broker does nothing but wait: 1 / 3.
/// The rest is the way through the kernel and waiting for a processor.
const COVERED_SHARE: u32 = 3;

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as i16).to_be_bytes()[..], text.as_bytes()].concat()
}

fn request((key, version): (i16, i16), body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    // A correlation id of 7, and no client id.
    frame.extend(((body.len() + 10) as i32).to_be_bytes());
    frame.extend([key.to_be_bytes(), version.to_be_bytes()].concat());
    frame.extend([0, 0, 0, 7, 255, 255]);
    frame.extend(body);
    frame
}

/// CreateTopics of one partition, whose records the broker compresses anew.
fn create_topic(name: &str, compression: &str) -> Vec<u8> {
    let topic = [
        &1i32.to_be_bytes()[..],
        &string(name),
        &1i32.to_be_bytes(),
        &1i16.to_be_bytes(),
        &0i32.to_be_bytes(),
        &1i32.to_be_bytes(),
        &string("compression.type"),
        &string(compression),
        &30_000i32.to_be_bytes(),
        &[0],
    ];
    request(CREATE_TOPICS, &topic.concat())
}

/// Produce to partition 0 with acks=all.
fn produce(topic: &str, batch: &[u8]) -> Vec<u8> {
    let body = [
        &(-1i16).to_be_bytes()[..],
        &(-1i16).to_be_bytes(),
        &30_000i32.to_be_bytes(),
        &1i32.to_be_bytes(),
        &string(topic),
        &1i32.to_be_bytes(),
        &0i32.to_be_bytes(),
        &(batch.len() as i32).to_be_bytes(),
        batch,
    ];
    request(PRODUCE, &body.concat())
}

/// Fetch from partition 0, which has nothing there.
fn fetch_nothing(topic: &str) -> Vec<u8> {
    let body = [
        &(-1i32).to_be_bytes()[..],
        &(WAIT.as_millis() as i32).to_be_bytes(),
        &1i32.to_be_bytes(),
        &(1i32 << 20).to_be_bytes(),
        &[0],
        &0i32.to_be_bytes(),
        &(-1i32).to_be_bytes(),
        &1i32.to_be_bytes(),
        &string(topic),
        &1i32.to_be_bytes(),
        &0i32.to_be_bytes(),
        &(-1i32).to_be_bytes(),
        &0i64.to_be_bytes(),
        &(-1i64).to_be_bytes(),
        &(1i32 << 20).to_be_bytes(),
        &0i32.to_be_bytes(),
    ];
    request(FETCH, &body.concat())
}

/// A broker, a client's connection to it, and its HTTP port.
struct Measured {
    _broker: Broker,
    client: TcpStream,
    http: u16,
}

impl Measured {
    fn start(data: &Data) -> Measured {
        let http = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port();
        let broker = Broker::start(&[&data.log_dirs(), &format!("millstream.http.listener=127.0.0.1:{http}")]);
        let client = TcpStream::connect(("127.0.0.1", broker.port())).expect("it listens");
        client.set_nodelay(true).expect("set");
        Measured { _broker: broker, client, http }
    }

    /// Sends a request and waits for the response; how long that took.
    fn ask(&mut self, request: &[u8]) -> (Vec<u8>, Duration) {
        let began = Instant::now();
        self.client.write_all(request).expect("sent");
        let mut length = [0; 4];
        self.client.read_exact(&mut length).expect("answered");
        let mut response = vec![0; i32::from_be_bytes(length) as usize];
        self.client.read_exact(&mut response).expect("answered");
        (response, began.elapsed())
    }

    fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).expect("it listens");
        write!(stream, "GET /metrics HTTP/1.1\r\n\r\n").expect("sent");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("received");
        response.split_once("\r\n\r\n").expect("a body").1.to_owned()
    }

    fn samples(&self) -> HashMap<String, f64> {
        let text = self.metrics();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').expect("a value");
                (name.to_owned(), value.parse().expect("a number"))
            })
            .collect()
    }

    /// Sends requests one after the other. The broker's and the client's account of the same requests must fit:
    /// returns the broker's total, the client's, and the broker's stages.
    fn compare(&mut self, api: &str, stages: &[&str], requests: &[Vec<u8>]) -> (Duration, Duration, Vec<Duration>) {
        let before = self.samples();
        let began = Instant::now();
        let clients: Duration = requests.iter().map(|request| self.ask(request).1).sum();
        // The broker counts a request in the turn after its response has left.
        let count = requests.len() as f64;
        let counted = format!("millstream_request_duration_seconds_count{{api=\"{api}\"}}");
        let after = loop {
            let after = self.samples();
            if after[&counted] - before[&counted] >= count {
                break after;
            }
        };
        let elapsed = began.elapsed();
        let grown = |name: &str| after[name] - before[name];
        let of_stages: Vec<f64> = stages
            .iter()
            .map(|stage| {
                let labels = format!("{{api=\"{api}\",stage=\"{stage}\"}}");
                assert_eq!(grown(&format!("millstream_request_stage_seconds_count{labels}")), count, "{stage}");
                grown(&format!("millstream_request_stage_seconds_sum{labels}"))
            })
            .collect();
        assert_eq!(grown(&counted), count);
        let total = grown(&format!("millstream_request_duration_seconds_sum{{api=\"{api}\"}}"));
        // Exactly, but for the rounding of sums as they are printed.
        assert!((of_stages.iter().sum::<f64>() - total).abs() < 1e-6, "{of_stages:?} make {total}");
        // One request after the other: what the broker counted lies within the time that has passed.
        assert!(total <= elapsed.as_secs_f64(), "the broker counts {total} s, while {elapsed:?} have passed");
        let stages = of_stages.into_iter().map(Duration::from_secs_f64).collect();
        let total = Duration::from_secs_f64(total);
        println!("{api}: client {clients:?}, broker {total:?}: {stages:?}");
        (total, clients, stages)
    }
}

#[test]
fn the_stages_add_up_to_what_the_client_measures() {
    let data = Data::new("stages");
    let mut measured = Measured::start(&data);
    for (topic, compression) in [("plain", "producer"), ("recoded", "gzip"), ("empty", "producer")] {
        measured.ask(&create_topic(topic, compression));
    }
    let produce_stages = ["queue", "parse", "append", "commit", "respond"];

    // Small appends: nearly all of it is the disk's, or waiting for a processor, so that no share is certain.
    let batch = BatchBuilder::new().record(1_700_000_000_000, None, Some(&[7; 100]), &[]).build();
    let (total, _, stages) = measured.compare("Produce", &produce_stages, &vec![produce("plain", &batch); 100]);
    assert!(stages.iter().all(|stage| !stage.is_zero()) && !total.is_zero(), "{stages:?}");

    // The broker compresses: however crowded the machine is, that is work of the broker in the stage `parse`.
    let value: Vec<u8> = (0..200u32).map(|byte| (byte * byte % 251) as u8).collect();
    let batch = (0..4_000).fold(BatchBuilder::new(), |batch, index: u32| {
        let rotated = [&value[index as usize % 150..], &index.to_be_bytes()[..]].concat();
        batch.record(1_700_000_000_000, None, Some(&rotated), &[])
    });
    let (total, _, stages) =
        measured.compare("Produce", &produce_stages, &vec![produce("recoded", &batch.build()); 10]);
    assert!(stages[1] > total / 10, "compressing is parsing: {stages:?}");

    // The broker waits: that is certain, too.
    let fetch_stages = ["queue", "parse", "read", "wait", "load", "respond"];
    let (total, clients, stages) = measured.compare("Fetch", &fetch_stages, &vec![fetch_nothing("empty"); 4]);
    assert!(stages[3] >= WAIT * 4 - Duration::from_millis(4), "held back: {stages:?}");
    assert!(total * COVERED_SHARE > clients, "the client measures {clients:?}, the broker {total:?}: {stages:?}");
}

#[test]
fn every_metric_is_documented() {
    let data = Data::new("documented");
    let metrics = Measured::start(&data).metrics();
    let exported: Vec<(&str, &str)> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.split_once(' ').expect("a type"))
        .collect();
    let (_, table) = include_str!("../../docs/metrics.md").split_once("## All metrics").expect("the table");
    let documented: Vec<(&str, &str)> = table
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("| `")?.split_once('`')?;
            let name = name.split('{').next()?;
            Some((name, rest.split('|').nth(1)?.trim()))
        })
        .collect();
    for metric in &exported {
        assert!(documented.contains(metric), "docs/metrics.md has no row for the {} {}", metric.1, metric.0);
    }
    for metric in &documented {
        assert!(exported.contains(metric), "docs/metrics.md has the {} {}, which is not exported", metric.1, metric.0);
    }
}
