//! Decisions of random requests: what they add to the log makes the same image for everybody.

use millstream_storage::random::Random;

use super::*;
use crate::record::{Endpoint, METADATA_VERSIONS};

const NODE: i32 = 1;

/// The registration of a new process of the broker, whose host has a name of so many letters.
fn register(incarnation: u8, host_bytes: usize) -> ControllerRequest {
    ControllerRequest::RegisterBroker {
        node_id: NODE,
        incarnation: [incarnation; 16],
        directory_id: [1; 16],
        shards: 1,
        endpoints: vec![Endpoint { listener: "PLAINTEXT".into(), host: "x".repeat(host_bytes), port: 9092 }],
        rack: (host_bytes < 3000).then(|| "r".into()),
        metadata_versions: METADATA_VERSIONS,
    }
}

/// A heartbeat of the broker, which has applied everything.
fn heartbeat(image: &ClusterImage, want_shutdown: bool) -> ControllerRequest {
    ControllerRequest::BrokerHeartbeat {
        node_id: NODE,
        epoch: epoch(image),
        applied_offset: image.offset(),
        want_fence: false,
        want_shutdown,
    }
}

fn producer_ids(image: &ClusterImage) -> ControllerRequest {
    ControllerRequest::AllocateProducerIds { node_id: NODE, epoch: epoch(image) }
}

/// That of the broker, as long as it is registered.
fn epoch(image: &ClusterImage) -> i64 {
    image.broker(NODE).map_or(-1, |broker| broker.epoch)
}

fn random_request(random: &mut Random, image: &ClusterImage) -> ControllerRequest {
    let name = |random: &mut Random| format!("topic{}", random.below(8));
    match random.below(13) {
        0 => register(random.next() as u8, random.index(6000)),
        10 | 11 => heartbeat(image, random.below(8) == 0),
        12 => match random.below(3) {
            0 => ControllerRequest::UnregisterBroker { node_id: NODE },
            _ => ControllerRequest::FenceBroker { node_id: NODE, epoch: epoch(image) },
        },
        1..=3 => ControllerRequest::CreateTopics {
            topics: (0..=random.below(3))
                .map(|_| NewTopic {
                    name: name(random),
                    partitions: random.below(150) as i32,
                    replication_factor: -1,
                    assignments: Vec::new(),
                    configs: vec![("retention.ms".into(), Some(random.below(9).to_string()))],
                })
                .collect(),
            validate_only: random.below(8) == 0,
        },
        4 => ControllerRequest::DeleteTopics { topics: vec![TopicReference::Name(name(random))] },
        5 => ControllerRequest::CreatePartitions {
            topics: vec![MorePartitions { name: name(random), count: random.below(200) as i32, assignments: None }],
            validate_only: false,
        },
        6 | 7 => {
            let operation = match random.below(4) {
                0 => ConfigOperation::Set,
                1 => ConfigOperation::Delete,
                2 => ConfigOperation::Append,
                _ => ConfigOperation::Subtract,
            };
            let resource = match random.below(3) {
                0 => ConfigResource::Topic(name(random)),
                1 => ConfigResource::Broker(1),
                _ => ConfigResource::Cluster,
            };
            let config = match resource {
                ConfigResource::Topic(_) => "cleanup.policy",
                _ => "log.cleanup.policy",
            };
            let value = ["compact", "delete", "compact,delete"][random.index(3)];
            ControllerRequest::IncrementalAlterConfigs {
                resources: vec![(
                    resource,
                    vec![ConfigChange { name: config.into(), operation, value: Some(value.into()) }],
                )],
                validate_only: false,
            }
        }
        8 => ControllerRequest::AlterConfigs {
            resources: vec![(ConfigResource::Topic(name(random)), vec![("segment.ms".into(), Some("5".into()))])],
            validate_only: false,
        },
        _ => producer_ids(image),
    }
}

#[test]
fn the_replay_of_random_requests_makes_equal_images_everywhere() {
    for seed in 0..20 {
        let controller = Controller::new(Properties::new());
        let mut image = ClusterImage::new();
        image.replay(&MetadataRecord::Cluster { cluster_id: [1; 16] });
        let mut follower = image.clone();
        let mut random = Random::new(seed);
        for _ in 0..100 {
            let now = Now { elapsed: Duration::ZERO, unix_ms: 0 };
            let request = random_request(&mut random, &image);
            let id = [random.next() as u8; 16];
            let decision = controller.handle(&image, &Sessions::default(), request.clone(), now, id);
            let again = controller.handle(&image, &Sessions::default(), request, now, id);
            assert_eq!(decision, again);
            for record in &decision.records {
                image.replay(record);
                follower.check(record).unwrap();
                follower.replay(record);
            }
            assert_eq!(follower, image);
        }
        let snapshot = ClusterImage::from_snapshot(follower.offset(), &follower.snapshot());
        assert_eq!(snapshot, Ok(follower));
    }
}
