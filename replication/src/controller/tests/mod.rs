mod brokers;
mod internal_topics;
mod isr;
mod preferred;
mod replay;

use std::time::Duration;

use millstream_storage::{Now, TopicId};

use super::*;
use crate::record::{ConfigOwner, METADATA_VERSIONS, Partition};

/// A controller with its image, as a process has them, and the brokers that it hears of.
struct Cluster {
    controller: Controller,
    image: ClusterImage,
    sessions: Sessions,
    elapsed: Duration,
    requests: u8,
}

impl Cluster {
    /// With brokers of these numbers from 1 on, which are there.
    fn new(file: &[(&str, &str)], brokers: i32) -> Self {
        let file = file.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let mut cluster = Cluster {
            controller: Controller::new(file),
            image: ClusterImage::new(),
            sessions: Sessions::default(),
            elapsed: Duration::ZERO,
            requests: 0,
        };
        for node_id in 1..=brokers {
            cluster.start(node_id);
        }
        cluster
    }

    fn decide(&mut self, request: ControllerRequest) -> Decision {
        let now = Now { elapsed: self.elapsed, unix_ms: 0 };
        self.requests += 1;
        self.controller.handle(&self.image, &self.sessions, request, now, [self.requests; 16])
    }

    fn request(&mut self, request: ControllerRequest) -> ControllerResponse {
        let decision = self.decide(request);
        for record in &decision.records {
            self.image.replay(record);
        }
        decision.response
    }

    /// A new process of a broker registers.
    fn register(&mut self, node_id: i32) -> Result<i64, ErrorCode> {
        let incarnation = [self.requests + 1; 16];
        self.register_as(node_id, incarnation)
    }

    fn register_as(&mut self, node_id: i32, incarnation: [u8; 16]) -> Result<i64, ErrorCode> {
        self.register_with(node_id, incarnation, [node_id as u8; 16])
    }

    /// A new process of a broker registers, whose disk was lost.
    fn register_wiped(&mut self, node_id: i32) -> Result<i64, ErrorCode> {
        let random = [self.requests + 1; 16];
        self.register_with(node_id, random, random)
    }

    fn register_with(&mut self, node_id: i32, incarnation: [u8; 16], directory_id: [u8; 16]) -> Result<i64, ErrorCode> {
        let endpoints = vec![Endpoint { listener: "PLAINTEXT".into(), host: "127.0.0.1".into(), port: 9092 }];
        let request = ControllerRequest::RegisterBroker {
            node_id,
            incarnation,
            directory_id,
            shards: 4,
            endpoints,
            rack: None,
            metadata_versions: METADATA_VERSIONS,
        };
        match self.request(request) {
            ControllerResponse::RegisterBroker(outcome) => outcome.map_err(|error| error.code),
            other => panic!("{other:?}"),
        }
    }

    /// A new process of a broker registers and is unfenced. Its epoch.
    fn start(&mut self, node_id: i32) -> i64 {
        let epoch = self.register(node_id).expect("nobody hears of another");
        let beat = ControllerRequest::BrokerHeartbeat {
            node_id,
            epoch,
            applied_offset: self.image.offset(),
            want_fence: false,
            want_shutdown: false,
        };
        let reply = HeartbeatReply {
            is_caught_up: true,
            is_fenced: false,
            should_shut_down: false,
            lease_ms: self.sessions.lease_ms(),
        };
        assert_eq!(self.request(beat), ControllerResponse::BrokerHeartbeat(Ok(reply)));
        epoch
    }

    fn create(&mut self, topics: Vec<NewTopic>) -> Vec<(String, Result<CreatedTopic, ApiError>)> {
        match self.request(ControllerRequest::CreateTopics { topics, validate_only: false }) {
            ControllerResponse::CreateTopics(outcomes) => outcomes,
            other => panic!("{other:?}"),
        }
    }

    fn create_one(&mut self, topic: NewTopic) -> Result<CreatedTopic, ErrorCode> {
        let outcome = self.create(vec![topic]).remove(0).1;
        outcome.map_err(|error| error.code)
    }

    fn grow(&mut self, name: &str, count: i32, assignments: Option<Vec<Vec<i32>>>) -> Result<(), ErrorCode> {
        let more = MorePartitions { name: name.into(), count, assignments };
        match self.request(ControllerRequest::CreatePartitions { topics: vec![more], validate_only: false }) {
            ControllerResponse::CreatePartitions(mut outcomes) => outcomes.remove(0).1.map_err(|error| error.code),
            other => panic!("{other:?}"),
        }
    }

    fn delete(&mut self, topics: Vec<TopicReference>) -> Vec<Result<(), ErrorCode>> {
        match self.request(ControllerRequest::DeleteTopics { topics }) {
            ControllerResponse::DeleteTopics(deleted) => {
                deleted.into_iter().map(|topic| topic.outcome.map_err(|error| error.code)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn alter(
        &mut self,
        resource: ConfigResource,
        changes: &[(ConfigOperation, &str, Option<&str>)],
    ) -> Result<(), ErrorCode> {
        let changes = changes
            .iter()
            .map(|(operation, name, value)| ConfigChange {
                name: name.to_string(),
                operation: *operation,
                value: value.map(str::to_string),
            })
            .collect();
        match self.request(ControllerRequest::IncrementalAlterConfigs {
            resources: vec![(resource, changes)],
            validate_only: false,
        }) {
            ControllerResponse::AlterConfigs(mut outcomes) => outcomes.remove(0).1.map_err(|error| error.code),
            other => panic!("{other:?}"),
        }
    }
}

fn topic(name: &str, partitions: i32, replication_factor: i16) -> NewTopic {
    NewTopic { name: name.into(), partitions, replication_factor, assignments: Vec::new(), configs: Vec::new() }
}

fn assigned(name: &str, assignments: &[(i32, &[i32])]) -> NewTopic {
    NewTopic {
        assignments: assignments
            .iter()
            .map(|(partition, brokers)| Assignment { partition: *partition, brokers: brokers.to_vec() })
            .collect(),
        ..topic(name, -1, -1)
    }
}

fn configured(name: &str, config: &str, value: Option<&str>) -> NewTopic {
    NewTopic { configs: vec![(config.into(), value.map(str::to_string))], ..topic(name, 1, 1) }
}

fn topic_resource(name: &str) -> ConfigResource {
    ConfigResource::Topic(name.into())
}

#[test]
fn topics_are_created_with_what_was_asked_or_the_defaults_of_the_file() {
    let mut cluster = Cluster::new(&[("num.partitions", "3")], 1);
    let created = cluster.create_one(topic("a", -1, -1)).unwrap();
    assert_eq!((created.partitions, created.replication_factor), (3, 1));
    let held = cluster.image.topic("a").unwrap();
    assert_eq!(held.id, created.topic_id);
    assert_eq!(
        held.partitions[2],
        Partition { replicas: [1].into(), isr: [1].into(), leader: 1, leader_epoch: 0, partition_epoch: 0 }
    );
    let created = cluster.create_one(configured("b", "retention.ms", Some(" 5 "))).unwrap();
    assert_eq!(created.configs["retention.ms"], "5");
    assert_eq!(cluster.image.topic("b").unwrap().configs["retention.ms"], "5");
    assert_eq!(cluster.image.partition_count(), 4);
}

#[test]
fn what_cannot_be_created_is_refused_with_kafkas_codes() {
    let mut cluster = Cluster::new(&[], 1);
    cluster.create_one(topic("a.b", 1, 1)).unwrap();
    for (refused, code) in [
        (topic("a.b", 1, 1), ErrorCode::TopicAlreadyExists),
        (topic("a_b", 1, 1), ErrorCode::InvalidTopicException),
        (topic("a/b", 1, 1), ErrorCode::InvalidTopicException),
        (topic("c", 0, 1), ErrorCode::InvalidPartitions),
        (topic("c", -2, 1), ErrorCode::InvalidPartitions),
        (topic("c", i32::MAX, 1), ErrorCode::PolicyViolation),
        (topic("c", 1, 0), ErrorCode::InvalidReplicationFactor),
        (topic("c", 1, 2), ErrorCode::InvalidReplicationFactor),
        (topic("c", 1, i16::MIN), ErrorCode::InvalidReplicationFactor),
        (configured("c", "retention.msec", Some("1")), ErrorCode::InvalidConfig),
        (configured("c", "retention.ms", Some("x")), ErrorCode::InvalidConfig),
        (configured("c", "retention.ms", None), ErrorCode::InvalidConfig),
        (assigned("c", &[(0, &[2])]), ErrorCode::InvalidReplicaAssignment),
        (assigned("c", &[(0, &[])]), ErrorCode::InvalidReplicaAssignment),
        (assigned("c", &[(0, &[1, 1])]), ErrorCode::InvalidReplicaAssignment),
        (assigned("c", &[(0, &[1]), (0, &[1])]), ErrorCode::InvalidReplicaAssignment),
        (assigned("c", &[(0, &[1]), (2, &[1])]), ErrorCode::InvalidReplicaAssignment),
        (assigned("c", &[(-1, &[1])]), ErrorCode::InvalidReplicaAssignment),
        (NewTopic { partitions: 1, ..assigned("c", &[(0, &[1])]) }, ErrorCode::InvalidRequest),
    ] {
        assert_eq!(cluster.create_one(refused.clone()), Err(code), "{refused:?}");
    }
    assert!(cluster.image.topic("c").is_none());
    let outcome = cluster.create(vec![configured("c", "retention.msec", Some("1"))]);
    let message = &outcome[0].1.as_ref().unwrap_err().message;
    assert!(message.contains("did you mean retention.ms?"), "{message}");
}

#[test]
fn topics_of_one_request_are_decided_one_after_the_other() {
    let mut cluster = Cluster::new(&[], 1);
    let outcomes = cluster.create(vec![
        topic("twice", 1, 1),
        topic("x.y", 1, 1),
        topic("x_y", 1, 1),
        topic("big", 9_998, 1),
        topic("too.much", 2, 1),
        topic("twice", 1, 1),
        topic("fits", 1, 1),
    ]);
    let outcomes: Vec<(&str, Option<ErrorCode>)> = outcomes
        .iter()
        .map(|(name, outcome)| (name.as_str(), outcome.as_ref().err().map(|error| error.code)))
        .collect();
    assert_eq!(
        outcomes,
        [
            ("twice", Some(ErrorCode::InvalidRequest)),
            ("x.y", None),
            ("x_y", Some(ErrorCode::InvalidTopicException)),
            ("big", None),
            ("too.much", Some(ErrorCode::PolicyViolation)),
            ("fits", None),
        ]
    );
}

#[test]
fn the_cluster_has_room_for_so_many_partitions_and_no_more() {
    let mut cluster = Cluster::new(&[], 1);
    for index in 0..10 {
        cluster.create_one(topic(&format!("t{index}"), 10_000, 1)).unwrap();
    }
    assert_eq!(cluster.create_one(topic("more", 1, 1)), Err(ErrorCode::PolicyViolation));
    assert_eq!(cluster.grow("t0", 10_001, None), Err(ErrorCode::PolicyViolation));
    assert_eq!(cluster.delete(vec![TopicReference::Name("t0".into())]), [Ok(())]);
    assert!(cluster.create_one(topic("more", 1, 1)).is_ok());
}

#[test]
fn one_request_changes_only_so_many_bytes() {
    let mut cluster = Cluster::new(&[], 1);
    let value = "9:9,".repeat(CONFIG_VALUE_BYTES_MAX / 4);
    let topics = (0..600)
        .map(|index| configured(&format!("t{index}"), "leader.replication.throttled.replicas", Some(&value)))
        .collect();
    let outcomes = cluster.create(topics);
    let refused = outcomes.iter().filter(|(_, outcome)| outcome.is_err()).count();
    assert_eq!(refused, 600 - cluster.image.topics().count());
    // 8 MiB hold 512 values of 16 KiB, less what the records add to them.
    assert!((88..100).contains(&refused), "{refused}");
}

#[test]
fn validate_only_answers_and_decides_nothing() {
    let mut cluster = Cluster::new(&[], 1);
    let decision = cluster.decide(ControllerRequest::CreateTopics {
        topics: vec![topic("a", 4, 1), topic("b", 0, 1)],
        validate_only: true,
    });
    assert_eq!(decision.records, []);
    let ControllerResponse::CreateTopics(outcomes) = decision.response else {
        panic!("another response");
    };
    assert_eq!(outcomes[0].1.as_ref().unwrap().partitions, 4);
    assert_eq!(outcomes[0].1.as_ref().unwrap().topic_id, TopicId::default());
    assert!(outcomes[1].1.is_err());
}

#[test]
fn partitions_are_dealt_out_to_the_brokers_in_turn_and_topics_begin_at_different_ones() {
    let mut cluster = Cluster::new(&[], 3);
    let mut first = std::collections::BTreeSet::new();
    for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        cluster.create_one(topic(name, 7, 1)).unwrap();
        cluster.grow(name, 12, None).unwrap();
        let partitions = &cluster.image.topic(name).unwrap().partitions;
        let leaders: Vec<i32> = partitions.iter().map(|partition| partition.leader).collect();
        assert!(leaders.windows(3).all(|three| three.iter().sum::<i32>() == 1 + 2 + 3));
        assert!(partitions.iter().all(|p| (&p.replicas[..], &p.isr[..]) == (&[p.leader][..], &[p.leader][..])));
        first.insert(partitions[0].leader);
    }
    assert_eq!(first.len(), 3, "{first:?}");
    cluster.create_one(assigned("z", &[(1, &[3]), (0, &[2])])).unwrap();
    let assigned: Vec<i32> = cluster.image.topic("z").unwrap().partitions.iter().map(|p| p.leader).collect();
    assert_eq!(assigned, [2, 3]);
}

#[test]
fn partitions_have_as_many_replicas_as_was_asked_or_configured() {
    let mut cluster = Cluster::new(&[("default.replication.factor", "2")], 4);
    for (name, factor, count) in [("a", -1, 2), ("b", 1, 1), ("c", 3, 3), ("d", 4, 4)] {
        let created = cluster.create_one(topic(name, 12, factor)).unwrap();
        assert_eq!(created.replication_factor, count);
        cluster.grow(name, 13, None).unwrap();
        for partition in &cluster.image.topic(name).unwrap().partitions {
            assert_eq!(partition.replicas.len(), count as usize, "{partition:?}");
            assert_eq!((&partition.isr, partition.leader), (&partition.replicas, partition.replicas[0]));
        }
    }
    let created = cluster.create_one(assigned("e", &[(0, &[3, 1]), (1, &[1, 4])])).unwrap();
    assert_eq!((created.partitions, created.replication_factor), (2, 2));
    cluster.grow("e", 3, Some(vec![vec![4, 2]])).unwrap();
    let replicas: Vec<Vec<i32>> =
        cluster.image.topic("e").unwrap().partitions.iter().map(|partition| partition.replicas.to_vec()).collect();
    assert_eq!(replicas, [[3, 1], [1, 4], [4, 2]]);
}

#[test]
fn who_is_away_is_a_replica_and_neither_in_sync_nor_leads() {
    let mut cluster = Cluster::new(&[], 3);
    let epoch = cluster.image.broker(2).unwrap().epoch;
    cluster.request(ControllerRequest::FenceBroker { node_id: 2, epoch });
    cluster.create_one(topic("a", 6, 3)).unwrap();
    cluster.create_one(assigned("b", &[(0, &[2, 3])])).unwrap();
    cluster.grow("b", 2, Some(vec![vec![2, 1]])).unwrap();
    for name in ["a", "b"] {
        for partition in &cluster.image.topic(name).unwrap().partitions {
            assert!(partition.replicas.contains(&2) && !partition.isr.contains(&2) && partition.leader != 2);
            assert_eq!(partition.isr.len(), partition.replicas.len() - 1, "{partition:?}");
        }
    }
}

/// The words are Kafka's.
#[test]
fn why_a_topic_cannot_have_such_replicas_is_said() {
    let mut cluster = Cluster::new(&[("default.replication.factor", "4")], 3);
    let factor = ErrorCode::InvalidReplicationFactor;
    let assignment = ErrorCode::InvalidReplicaAssignment;
    let too_few = "Unable to replicate the partition 4 time(s): The target replication factor of 4 cannot be reached because \
                   only 3 broker(s) are registered.";
    for (refused, code, why) in [
        (topic("a", 1, 4), factor, too_few),
        (topic("a", 1, -1), factor, too_few),
        (topic("a", 1, 0), factor, "Replication factor must be larger than 0, or -1 to use the default value."),
        (topic("a", 1, -2), factor, "Replication factor must be larger than 0, or -1 to use the default value."),
        (assigned("a", &[(0, &[])]), assignment, "The manual partition assignment includes an empty replica list."),
        (
            assigned("a", &[(0, &[1, 2, 1])]),
            assignment,
            "The manual partition assignment includes the broker 1 more than once.",
        ),
        (
            assigned("a", &[(0, &[1, 9])]),
            assignment,
            "The manual partition assignment includes broker 9, but no such broker is registered.",
        ),
        (
            assigned("a", &[(0, &[1, 2]), (1, &[3])]),
            assignment,
            "The manual partition assignment includes a partition with 1 replica(s), but this is not consistent with \
             previous partitions, which have 2 replica(s).",
        ),
        (
            assigned("a", &[(0, &[1]), (2, &[1])]),
            assignment,
            "partitions should be a consecutive 0-based integer sequence",
        ),
        (
            NewTopic { replication_factor: 1, ..assigned("a", &[(0, &[1])]) },
            ErrorCode::InvalidRequest,
            "A manual partition assignment was specified, but replication factor was not set to -1.",
        ),
    ] {
        let error = cluster.create(vec![refused.clone()]).remove(0).1.unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (code, why), "{refused:?}");
    }
    for node_id in 4..=40 {
        cluster.start(node_id);
    }
    let most = REPLICAS_PER_PARTITION_MAX as i16;
    assert!(cluster.create_one(topic("most", 1, most)).is_ok());
    assert_eq!(cluster.create_one(topic("more", 1, most + 1)), Err(factor));
    let all: Vec<i32> = (1..=40).collect();
    assert_eq!(cluster.create_one(assigned("more", &[(0, &all)])), Err(assignment));
}

#[test]
fn internal_topics_have_no_more_replicas_than_there_are_brokers() {
    for (brokers, replicas) in [(1, 1), (2, 2), (3, 3), (5, 3)] {
        let mut cluster = Cluster::new(&[("default.replication.factor", "7")], brokers);
        let offsets = cluster.create_one(topic("__consumer_offsets", 50, 3)).unwrap();
        assert_eq!(offsets.replication_factor, replicas);
        assert!(cluster.image.topic("__consumer_offsets").unwrap().internal);
    }
}

#[test]
fn a_topic_created_again_has_another_id() {
    let mut cluster = Cluster::new(&[], 1);
    let first = cluster.create_one(topic("a", 1, 1)).unwrap().topic_id;
    let by_id = TopicReference::Id(first);
    assert_eq!(
        cluster.delete(vec![by_id.clone(), by_id.clone(), TopicReference::Name("b".into())]),
        [Ok(()), Err(ErrorCode::InvalidRequest), Err(ErrorCode::UnknownTopicOrPartition)]
    );
    assert_eq!(cluster.delete(vec![by_id]), [Err(ErrorCode::UnknownTopicId)]);
    let second = cluster.create_one(topic("a", 1, 1)).unwrap().topic_id;
    assert_ne!(first, second);

    let mut fixed = Cluster::new(&[("delete.topic.enable", "false")], 1);
    fixed.create_one(topic("a", 1, 1)).unwrap();
    assert_eq!(fixed.delete(vec![TopicReference::Name("a".into())]), [Err(ErrorCode::TopicDeletionDisabled)]);
}

#[test]
fn ids_of_one_request_differ_even_when_the_random_bytes_do_not() {
    let mut cluster = Cluster::new(&[], 1);
    let mut ids = std::collections::BTreeSet::new();
    for round in 0..4 {
        cluster.requests = 0;
        for (_, outcome) in cluster.create((0..200).map(|i| topic(&format!("t{round}-{i}"), 1, 1)).collect()) {
            let id = outcome.unwrap().topic_id;
            assert!(!id.to_base64().starts_with('-'));
            assert_eq!((id.0[6] >> 4, id.0[8] >> 6), (4, 2));
            assert!(ids.insert(id));
        }
    }
}

#[test]
fn partitions_only_grow() {
    let mut cluster = Cluster::new(&[], 2);
    cluster.create_one(assigned("a", &[(0, &[1]), (1, &[2])])).unwrap();
    assert_eq!(cluster.grow("b", 2, None), Err(ErrorCode::UnknownTopicOrPartition));
    for count in [-1, 0, 1, 2] {
        assert_eq!(cluster.grow("a", count, None), Err(ErrorCode::InvalidPartitions));
    }
    for wrong in [vec![], vec![vec![1], vec![1]], vec![vec![1, 2]], vec![vec![9]]] {
        assert_eq!(cluster.grow("a", 3, Some(wrong)), Err(ErrorCode::InvalidReplicaAssignment));
    }
    assert_eq!(cluster.grow("a", 3, Some(vec![vec![2]])), Ok(()));
    assert_eq!(cluster.grow("a", 5, None), Ok(()));
    let held = cluster.image.topic("a").unwrap();
    assert_eq!(held.partitions.iter().map(|p| p.leader).collect::<Vec<_>>(), [1, 2, 2, 1, 2]);
}

#[test]
fn configurations_are_set_deleted_appended_and_subtracted() {
    use ConfigOperation::{Append, Delete, Set, Subtract};
    let mut cluster = Cluster::new(&[], 1);
    cluster.create_one(topic("a", 1, 1)).unwrap();
    let a = || topic_resource("a");
    let policy = |cluster: &Cluster| cluster.image.topic("a").unwrap().configs.get("cleanup.policy").cloned();

    assert_eq!(cluster.alter(a(), &[(Append, "cleanup.policy", Some("compact"))]), Ok(()));
    assert_eq!(policy(&cluster).as_deref(), Some("delete,compact"));
    assert_eq!(cluster.alter(a(), &[(Append, "cleanup.policy", Some("compact"))]), Ok(()));
    assert_eq!(policy(&cluster).as_deref(), Some("delete,compact"));
    assert_eq!(cluster.alter(a(), &[(Subtract, "cleanup.policy", Some("delete"))]), Ok(()));
    assert_eq!(policy(&cluster).as_deref(), Some("compact"));
    assert_eq!(cluster.alter(a(), &[(Delete, "cleanup.policy", None), (Set, "retention.ms", Some("7"))]), Ok(()));
    assert_eq!(policy(&cluster), None);
    assert_eq!(cluster.image.topic("a").unwrap().configs["retention.ms"], "7");

    for (changes, code) in [
        (vec![(Append, "retention.ms", Some("1"))], ErrorCode::InvalidConfig),
        (vec![(Append, "cleanup.policy", Some("shred"))], ErrorCode::InvalidConfig),
        (vec![(Set, "no.such.thing", Some("1"))], ErrorCode::InvalidConfig),
        (vec![(Set, "retention.ms", None)], ErrorCode::InvalidRequest),
        (vec![(Set, "retention.ms", Some("1")), (Delete, "retention.ms", None)], ErrorCode::InvalidRequest),
        (vec![(Set, "segment.ms", Some("9")), (Set, "retention.ms", Some("x"))], ErrorCode::InvalidConfig),
    ] {
        assert_eq!(cluster.alter(a(), &changes), Err(code), "{changes:?}");
    }
    let long = "1:1,".repeat(CONFIG_VALUE_BYTES_MAX);
    assert_eq!(
        cluster.alter(a(), &[(Set, "leader.replication.throttled.replicas", Some(&long))]),
        Err(ErrorCode::InvalidConfig)
    );
    // Nothing of a resource changes when one of its changes is refused.
    assert_eq!(cluster.image.topic("a").unwrap().configs.len(), 1);
    assert_eq!(
        cluster.alter(topic_resource("b"), &[(Set, "retention.ms", Some("1"))]),
        Err(ErrorCode::UnknownTopicOrPartition)
    );
}

#[test]
fn brokers_and_the_whole_cluster_are_configured_while_they_run() {
    use ConfigOperation::{Delete, Set};
    let mut cluster = Cluster::new(&[], 1);
    let retention = [(Set, "log.retention.ms", Some("7"))];
    assert_eq!(cluster.alter(ConfigResource::Cluster, &retention), Ok(()));
    assert_eq!(cluster.alter(ConfigResource::Broker(1), &[(Set, "log.retention.ms", Some("8"))]), Ok(()));
    assert_eq!(cluster.image.cluster_configs()["log.retention.ms"], "7");
    assert_eq!(cluster.image.broker_configs(1)["log.retention.ms"], "8");
    assert_eq!(cluster.alter(ConfigResource::Broker(1), &[(Delete, "log.retention.ms", None)]), Ok(()));
    assert!(cluster.image.broker_configs(1).is_empty());
    let least = [(Set, "min.insync.replicas", Some("2"))];
    assert_eq!(
        cluster.alter(ConfigResource::Broker(1), &least),
        Err(ErrorCode::InvalidConfig),
        "who leads would decide"
    );
    assert_eq!(cluster.alter(ConfigResource::Cluster, &least), Ok(()));
    assert_eq!(cluster.alter(ConfigResource::Cluster, &[(Delete, "min.insync.replicas", None)]), Ok(()));
    assert_eq!(cluster.alter(ConfigResource::Broker(9), &retention), Err(ErrorCode::BrokerIdNotRegistered));
    assert_eq!(
        cluster.alter(ConfigResource::Cluster, &[(Set, "listeners", Some("PLAINTEXT://:1"))]),
        Err(ErrorCode::InvalidRequest)
    );
    assert_eq!(
        cluster.alter(ConfigResource::Cluster, &[(Set, "retention.ms", Some("1"))]),
        Err(ErrorCode::InvalidConfig)
    );
}

#[test]
fn alter_configs_replaces_all_and_repeats_nothing() {
    let mut cluster = Cluster::new(&[], 1);
    cluster
        .create_one(NewTopic {
            configs: vec![("retention.ms".into(), Some("1".into())), ("segment.ms".into(), Some("2".into()))],
            ..topic("a", 1, 1)
        })
        .unwrap();
    let configs = vec![
        ("segment.ms".to_string(), Some("2".to_string())),
        ("max.message.bytes".to_string(), Some("3".to_string())),
    ];
    let request =
        ControllerRequest::AlterConfigs { resources: vec![(topic_resource("a"), configs)], validate_only: false };
    let decision = cluster.decide(request.clone());
    let owner = ConfigOwner::Topic(cluster.image.topic("a").unwrap().id);
    assert_eq!(
        decision.records,
        [
            MetadataRecord::Config { owner, name: "max.message.bytes".into(), value: Some("3".into()) },
            MetadataRecord::Config { owner, name: "retention.ms".into(), value: None },
        ]
    );
    cluster.request(request.clone());
    assert_eq!(cluster.decide(request).records, []);
}

#[test]
fn producer_ids_never_repeat_and_are_for_one_process() {
    let mut cluster = Cluster::new(&[], 1);
    let epoch = cluster.image.broker(1).unwrap().epoch;
    let mut allocate = |node_id, epoch| match cluster.request(ControllerRequest::AllocateProducerIds { node_id, epoch })
    {
        ControllerResponse::AllocateProducerIds(block) => block.map_err(|error| error.code),
        other => panic!("{other:?}"),
    };
    assert_eq!(allocate(1, epoch), Ok((0, 1000)));
    for (node_id, epoch) in [(1, epoch - 1), (1, epoch + 1), (2, epoch), (-1, -1)] {
        assert_eq!(allocate(node_id, epoch), Err(ErrorCode::StaleBrokerEpoch));
    }
    assert_eq!(allocate(1, epoch), Ok((1000, 1000)));
    cluster.image.replay(&MetadataRecord::ProducerIds { next: i64::MAX });
    let allocate = ControllerRequest::AllocateProducerIds { node_id: 1, epoch };
    assert!(matches!(cluster.request(allocate), ControllerResponse::AllocateProducerIds(Err(_))));
}

#[test]
fn quotas_are_decided_one_by_one() {
    let mut cluster = Cluster::new(&[], 1);
    let client = |name: &str| QuotaEntity::Client(Some(name.to_string()));
    let change = |entity: QuotaEntity, key: &str, value| QuotaChange { entity, values: vec![(key.to_string(), value)] };
    let mut alter = |validate_only, changes: Vec<QuotaChange>| match cluster
        .request(ControllerRequest::AlterClientQuotas { changes, validate_only })
    {
        ControllerResponse::AlterClientQuotas(outcomes) => {
            let codes: Vec<Option<ErrorCode>> =
                outcomes.into_iter().map(|(_, outcome)| outcome.err().map(|error| error.code)).collect();
            (codes, cluster.image.quotas().len())
        }
        other => panic!("{other:?}"),
    };
    let key = "producer_byte_rate";
    let refused = Some(ErrorCode::InvalidRequest);
    let wrong = vec![
        change(client(""), key, Some(1.0)),
        change(client(&"x".repeat(1025)), key, Some(1.0)),
        change(client("a"), "producer_bite_rate", Some(1.0)),
        change(client("a"), "producer_bite_rate", None),
        change(client("a"), key, Some(0.5)),
        change(QuotaEntity::Ip(Some("localhost".into())), "connection_creation_rate", Some(1.0)),
    ];
    assert_eq!(alter(false, wrong), (vec![refused; 6], 0));
    assert_eq!(alter(true, vec![change(client("a"), key, Some(5.0))]), (vec![None], 0));
    let two = vec![change(client("a"), key, Some(5.0)), change(client("b"), key, None)];
    assert_eq!(alter(false, two), (vec![None, None], 1));

    let many = 1..=crate::quota::QUOTA_VALUES_PER_CLUSTER_MAX;
    let (codes, count) = alter(false, many.map(|n| change(client(&n.to_string()), key, Some(1.0))).collect());
    assert_eq!((codes.last().unwrap(), count), (&Some(ErrorCode::PolicyViolation), 10_000));
    // What is there can be changed at the bound too.
    assert_eq!(alter(false, vec![change(client("a"), key, Some(6.0))]), (vec![None], 10_000));
    assert_eq!(alter(false, vec![change(client("a"), key, None)]), (vec![None], 9_999));
}

/// Errors rest on what was decided before as much as successes do.
#[test]
fn what_was_not_decided_leaves_no_error_of_its_own() {
    let exists = ApiError::new(ErrorCode::TopicAlreadyExists, "it is there");
    let later = ApiError::new(ErrorCode::NotController, "try again");
    let response = ControllerResponse::CreateTopics(vec![("t".to_string(), Err(exists.clone()))]);
    assert_eq!(response.clone().refused(&later), response, "there was no room, and it would have failed anyway");
    let undecided = ControllerResponse::CreateTopics(vec![("t".to_string(), Err(later.clone()))]);
    assert_eq!(response.undecided(&later), undecided);
}
