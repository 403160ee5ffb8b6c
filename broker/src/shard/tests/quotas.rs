use kafka_wire::{FetchResponse, ProduceRequest};
use millstream_replication::QuotaEntity;
use millstream_replication::controller::QuotaChange;
use millstream_replication::quota::{CONSUMER_BYTE_RATE, PRODUCER_BYTE_RATE};

use super::super::session::TELL_INTERVAL;
use super::fetch::fetch_request;
use super::produce::produce_request;
use super::*;

/// The client id of every client of these tests.
const CLIENT_ID: &str = "test";

impl Broker {
    fn set_quota(&mut self, entity: QuotaEntity, key: &str, value: Option<f64>) {
        let change = QuotaChange { entity, values: vec![(key.to_string(), value)] };
        let request = ControllerRequest::AlterClientQuotas { changes: vec![change], validate_only: false };
        let ControllerResponse::AlterClientQuotas(outcomes) = self.ask(request) else { panic!("quotas") };
        assert_eq!(outcomes[0].1, Ok(()));
        self.run();
    }

    /// Produces about this many bytes; returns how long the client is told to wait.
    #[track_caller]
    fn produce_bytes(&mut self, client: ConnectionId, bytes: usize) -> i32 {
        let response = self.call(client, 9, &produce_of("t", 1, bytes));
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!(partition.error_code, 0);
        response.throttle_time_ms
    }

    #[track_caller]
    fn fetch_once(&mut self, client: ConnectionId) -> FetchResponse {
        self.call(client, 12, &fetch_request("t", &[(0, 0)]))
    }

    fn is_read(&self, client: ConnectionId) -> bool {
        self.clients[&client].is_read
    }
}

fn produce_of(topic: &str, acks: i16, bytes: usize) -> ProduceRequest {
    produce_request(topic, acks, &[(0, batch(&["x".repeat(bytes).as_str()]))])
}

fn client(name: &str) -> QuotaEntity {
    QuotaEntity::Client(Some(name.to_string()))
}

#[test]
fn a_producer_over_its_quota_is_answered_at_once_and_then_not_read_from() {
    let mut broker = Broker::new(Setup::default());
    broker.create_topic("t", 1, &[]);
    let (first, other) = (broker.connect(0), broker.connect(0));
    assert_eq!(broker.produce_bytes(first, 100_000), 0, "there is no quota");
    broker.set_quota(client(CLIENT_ID), PRODUCER_BYTE_RATE, Some(10_000.0));
    assert_eq!(broker.produce_bytes(first, 90_000), 0, "a window lets through 100,000");
    let throttle = broker.produce_bytes(first, 30_000);
    assert!((2000..2100).contains(&throttle), "{throttle}");
    assert!(!broker.is_read(first) && broker.is_read(other));
    assert_eq!(broker.sample("millstream_connections_muted"), 1);

    // The quota is the client's, not the connection's.
    let later = broker.produce_bytes(other, 10_000);
    assert!((3000..3100).contains(&later), "{later}");
    broker.advance(Duration::from_millis(throttle as u64));
    assert!(broker.is_read(first) && !broker.is_read(other));
    broker.disconnect(other);
    assert_eq!(broker.sample("millstream_connections_muted"), 0);
    assert_eq!(broker.sample("millstream_quota_throttled_total"), 2);

    // Nothing is answered to acks=0, and it is held all the same.
    broker.send(first, 9, &produce_of("t", 0, 10_000));
    broker.run();
    assert!(!broker.is_read(first));
    broker.set_quota(client(CLIENT_ID), PRODUCER_BYTE_RATE, None);
    assert!(!broker.is_read(first), "what was told holds");
    broker.advance(Duration::from_secs(20));
    assert!(broker.is_read(first));
    assert_eq!(broker.produce_bytes(first, 500_000), 0);
}

#[test]
fn a_consumer_over_its_quota_gets_nothing_until_it_has_waited() {
    let mut broker = Broker::new(Setup::default());
    broker.create_topic("t", 1, &[]);
    let producer = broker.connect(0);
    for _ in 0..4 {
        broker.produce_bytes(producer, 30_000);
    }
    broker.set_quota(QuotaEntity::User(None), CONSUMER_BYTE_RATE, Some(7_000.0));
    let consumer = broker.connect(0);
    let bytes = |response: &FetchResponse| {
        response
            .responses
            .iter()
            .flat_map(|topic| &topic.partitions)
            .map(|partition| partition.records.as_ref().map_or(0, Bytes::len))
            .sum::<usize>()
    };
    // A window lets through 70,000: one response is no larger.
    let response = broker.fetch_once(consumer);
    assert_eq!(response.throttle_time_ms, 0);
    assert!((60_000..70_001).contains(&bytes(&response)), "{}", bytes(&response));
    // The first batch comes though it is more than is left; it is paid for afterwards.
    let response = broker.fetch_once(consumer);
    assert!((30_000..31_000).contains(&bytes(&response)), "{}", bytes(&response));
    let throttle = response.throttle_time_ms;
    assert!((4_200..4_400).contains(&throttle), "{throttle}");
    assert!(!broker.is_read(consumer));
    // Whoever asks all the same gets nothing.
    let response = broker.fetch_once(consumer);
    assert_eq!((bytes(&response), response.responses.len(), response.error_code), (0, 0, 0));
    assert_eq!(response.throttle_time_ms, throttle);
    broker.advance(Duration::from_secs(11));
    assert!(broker.is_read(consumer));
    let response = broker.fetch_once(consumer);
    assert_eq!((bytes(&response) > 60_000, response.throttle_time_ms), (true, 0));

    // What is larger than a whole window lets through comes too.
    broker.set_quota(QuotaEntity::User(None), CONSUMER_BYTE_RATE, Some(1_000.0));
    broker.advance(Duration::from_secs(60));
    let response = broker.fetch_once(consumer);
    assert!((30_000..31_000).contains(&bytes(&response)));
    assert!(response.throttle_time_ms > 15_000, "{}", response.throttle_time_ms);
}

#[test]
fn connections_at_several_shards_share_a_quota() {
    const QUOTA: f64 = 20_000.0;
    let mut broker = Broker::new(Setup { shards: 3, ..Setup::default() });
    broker.create_topic("t", 1, &[]);
    broker.set_quota(QuotaEntity::Client(None), PRODUCER_BYTE_RATE, Some(QUOTA));
    let clients: Vec<ConnectionId> = (0..3).map(|shard| broker.connect(shard)).collect();
    let (mut sent, began) = (0, broker.now.elapsed);
    while broker.now.elapsed < began + Duration::from_secs(60) {
        for &client in &clients {
            if broker.is_read(client) {
                broker.produce_bytes(client, 1_000);
                sent += 1_000;
            }
        }
        broker.advance(Duration::from_millis(50));
    }
    let rate = f64::from(sent) / 60.0;
    // The window's burst at the beginning is paid for within the time.
    assert!((0.85 * QUOTA..1.15 * QUOTA).contains(&rate), "{rate} bytes a second");

    // What one shard's clients used, another knows after a while.
    broker.advance(Duration::from_secs(60));
    assert!(broker.produce_bytes(clients[0], 250_000) > 2_000);
    assert_eq!(broker.produce_bytes(clients[1], 1), 0);
    broker.advance(TELL_INTERVAL);
    assert!(broker.produce_bytes(clients[1], 1) > 2000);
}

#[test]
fn a_quota_of_another_client_concerns_nobody_else() {
    let mut broker = Broker::new(Setup::default());
    broker.create_topic("t", 1, &[]);
    let connection = broker.connect(0);
    broker.set_quota(client("somebody"), PRODUCER_BYTE_RATE, Some(1.0));
    broker.set_quota(QuotaEntity::User(Some("alice".to_string())), PRODUCER_BYTE_RATE, Some(1.0));
    assert_eq!(broker.produce_bytes(connection, 100_000), 0);
    assert_eq!(broker.sample("millstream_quota_clients"), 0);
    broker.set_quota(QuotaEntity::User(Some("ANONYMOUS".to_string())), PRODUCER_BYTE_RATE, Some(1.0));
    assert!(broker.produce_bytes(connection, 100_000) > 1_000_000);
    assert_eq!(broker.sample("millstream_quota_clients"), 1);
}
