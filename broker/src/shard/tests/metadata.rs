use millstream_replication::ErrorCode;
use millstream_replication::controller::TopicReference;

use super::*;

/// Partitions of a topic that is many turns open.
const MANY: i32 = 3_000;

impl Broker {
    /// Takes turns until what metadata means is done; how many that took.
    fn finish_changes(&mut self) -> usize {
        let mut turns = 0;
        while self.shards[0].changes.is_pending() {
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

#[test]
fn the_driver_is_told_what_configurations_and_quotas_say_of_connections() {
    use millstream_replication::controller::{ConfigChange, ConfigOperation, ConfigResource, QuotaChange};
    use millstream_replication::{ControllerRequest, QuotaEntity};

    let file = [("max.connections.per.ip".to_string(), "7".to_string())].into_iter().collect();
    let mut broker = Broker::new(Setup { shards: 2, file, ..Setup::default() });
    assert_eq!(broker.connection_rules, None);
    let mut set = |resource, operation, name: &str, value: &str| {
        let value = Some(value.to_string()).filter(|value| !value.is_empty());
        let change = ConfigChange { name: name.to_string(), operation, value };
        let resources = vec![(resource, vec![change])];
        broker.decide(ControllerRequest::IncrementalAlterConfigs { resources, validate_only: false });
        broker.run();
        let rules = broker.connection_rules.as_ref().expect("it was told");
        (rules.per_address_max, rules.creation_rate)
    };
    let (cluster, one) = (ConfigResource::Cluster, ConfigResource::Broker(NODE_ID));
    use ConfigOperation::{Delete, Set};
    assert_eq!(set(cluster.clone(), Set, "max.connection.creation.rate", "50"), (7, 50));
    assert_eq!(set(cluster.clone(), Set, "max.connections.per.ip", "8"), (8, 50));
    assert_eq!(set(one.clone(), Set, "max.connections.per.ip", "9"), (9, 50));
    assert_eq!(set(one, Delete, "max.connections.per.ip", ""), (8, 50));
    assert_eq!(set(cluster, Delete, "max.connections.per.ip", ""), (7, 50));

    let entity = QuotaEntity::Ip(Some("127.0.0.1".to_string()));
    let values = vec![("connection_creation_rate".to_string(), Some(3.0))];
    let changes = vec![QuotaChange { entity, values }];
    broker.decide(ControllerRequest::AlterClientQuotas { changes, validate_only: false });
    broker.run();
    let rules = broker.connection_rules.as_ref().expect("it was told");
    assert_eq!(rules.rate_of_address("127.0.0.1".parse().expect("an address")), Some(3.0));

    broker.connection_rules = None;
    broker.create_topic("t", 1, &[("retention.ms", "1")]);
    assert_eq!(broker.connection_rules, None, "this concerns no connection");
}
