//! Bytes that no client of ours sends. The shard must not panic, must answer or close, and must go on serving others.

use kafka_wire::{
    ApiVersionsRequest, DeleteRecordsRequest, FetchRequest, InitProducerIdRequest, ListOffsetsRequest, MetadataRequest,
    ProduceRequest,
};

use super::fetch::fetch_request;
use super::produce::produce_request;
use super::*;
use crate::protocol::wire::Writer;

/// Prints what breaks the test.
struct OnPanic(String);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

fn good_frames() -> Vec<Bytes> {
    let mut frames = Vec::new();
    for version in [3, 5, 8, 9, 12] {
        let request: ProduceRequest =
            produce_request("t", -1, &[(0, batch(&["a"])), (1, batch(&["b"])), (7, batch(&["c"]))]);
        frames.push(request_frame(version, 1, &request));
    }
    for version in [4, 5, 7, 9, 11, 12] {
        let mut request: FetchRequest = fetch_request("t", &[(0, 0), (1, 5), (9, 0)]);
        if version < 7 {
            request.session_epoch = FetchRequest::default().session_epoch;
        }
        frames.push(request_frame(version, 1, &request));
    }
    frames.push(request_frame(9, 1, &ListOffsetsRequest::default()));
    frames.push(request_frame(2, 1, &DeleteRecordsRequest::default()));
    frames.push(request_frame(4, 1, &InitProducerIdRequest::default()));
    frames.push(request_frame(3, 1, &ApiVersionsRequest::default()));
    frames.push(request_frame(12, 1, &MetadataRequest::default()));
    frames
}

#[test]
fn damaged_frames_are_answered_or_close_their_connection() {
    const MUTATIONS: u64 = 400;
    let mut broker = Broker::new(Setup { shards: 2, ..Setup::default() });
    broker.create_topic("t", 2, &[]);
    let witness = broker.connect(0);
    for (which, good) in good_frames().into_iter().enumerate() {
        for seed in 0..MUTATIONS {
            let context = OnPanic(format!("frame {which}, damage of seed {seed}"));
            let mut random = Random::new(seed);
            let mut frame = good.to_vec();
            for _ in 0..=random.below(3) {
                match random.below(3) {
                    0 => frame.truncate(random.index(frame.len() + 1)),
                    1 if !frame.is_empty() => {
                        let position = random.index(frame.len());
                        frame[position] = random.next() as u8;
                    }
                    _ => {
                        let position = random.index(frame.len() + 1);
                        let extreme = [0xff, 0x7f, 0x80, 0x00][random.index(4)];
                        let end = (position + 4).min(frame.len());
                        frame[position..end].fill(extreme);
                    }
                }
            }
            let client = broker.connect(random.index(2));
            broker.send_frame(client, frame.into());
            broker.run();
            // What waits for more, or for a topic's creation, is answered at its deadline: at most 2^31 ms.
            broker.disconnect_if_open(client);
            drop(context);
        }
        assert_eq!(broker.produce(witness, "t", 0, batch(&["still here"])).error_code, 0);
    }
    assert_eq!(broker.sample("millstream_request_bytes_in_flight"), 0);
    assert_eq!(broker.sample("millstream_fetches_parked"), 0);
    assert_eq!(broker.sample("millstream_appends_waiting"), 0);
    assert_eq!(broker.sample("millstream_connections"), 1);
}

impl Broker {
    fn disconnect_if_open(&mut self, connection: ConnectionId) {
        if self.is_closed(connection) {
            self.clients.remove(&connection);
        } else {
            self.disconnect(connection);
        }
    }
}

#[test]
fn unknown_apis_and_versions_close_the_connection() {
    let mut broker = Broker::new(Setup::default());
    for (key, version) in [(0, 2), (0, 14), (1, 3), (4, 0), (999, 0), (-1, 0)] {
        let client = broker.connect(0);
        let mut frame = Writer::default();
        frame.i16(key);
        frame.i16(version);
        frame.i32(1);
        frame.nullable_string(None, false);
        broker.send_frame(client, frame.finish());
        broker.run();
        assert!(broker.is_closed(client), "key {key} version {version}");
    }
    assert_eq!(broker.sample("millstream_connections_closed_for_error_total"), 6);
}

#[test]
fn a_request_that_names_too_many_partitions_closes_its_connection() {
    let mut broker = Broker::new(Setup::default());
    broker.create_topic("t", 1, &[]);
    let partitions: Vec<(i32, i64)> =
        (0..=super::super::REQUEST_PARTITIONS_MAX as i32).map(|index| (index, 0)).collect();
    let client = broker.connect(0);
    broker.send(client, 12, &fetch_request("t", &partitions));
    broker.run();
    assert!(broker.is_closed(client));
}
