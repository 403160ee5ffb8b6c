use millstream_replication::ErrorCode;
use millstream_replication::controller::TopicReference;

use super::*;

/// Partitions of a topic that is many turns open.
const MANY: i32 = 3_000;

impl Broker {
    /// Takes turns until what metadata means is done; how many that took.
    fn finish_changes(&mut self) -> usize {
        let mut turns = 0;
        while self.shards[0].has_changes() {
            assert_eq!(self.shards[0].next_deadline(), Some(Duration::ZERO), "it goes on without being asked");
            self.run();
            turns += 1;
        }
        turns
    }
}

#[test]
fn many_partitions_are_opened_and_closed_over_several_turns() {
    let mut broker = Broker::new(Setup::default());
    broker.create_topic("t", MANY, &[]);
    let client = broker.connect(0);
    // Every client sees the whole topic already; its last partitions are not open yet.
    let refused = broker.produce(client, "t", MANY - 1, batch(&["a"]));
    assert_eq!(refused.error_code, ErrorCode::NotLeaderOrFollower.code(), "a retriable error");
    let turns = broker.finish_changes();
    assert!(turns > 1, "{turns}");
    assert_eq!(broker.sample("millstream_partitions"), MANY as u64);
    assert_eq!(broker.produce(client, "t", MANY - 1, batch(&["a"])).error_code, 0);

    // What comes while a decision is being carried out waits for it: here, the creation waits for the removal.
    broker.decide(ControllerRequest::DeleteTopics { topics: vec![TopicReference::Name("t".to_string())] });
    let id = broker.create_topic("t", 1, &[("min.insync.replicas", "1")]);
    assert!(broker.shards[0].metadata.image().topic_by_id(id).is_none(), "not replayed yet");
    let gone = broker.produce(client, "t", 0, batch(&["b"]));
    assert_eq!(gone.error_code, ErrorCode::UnknownTopicOrPartition.code());
    broker.finish_changes();
    assert_eq!(broker.sample("millstream_partitions"), 1);
    let fresh = broker.produce(client, "t", 0, batch(&["b"]));
    assert_eq!((fresh.error_code, fresh.base_offset), (0, 0));
}
