//! Decisions of random requests: what they add to the log makes the same image for everybody, and what holds of in-sync sets
//! and leaders holds after each of them.

use millstream_storage::random::Random;
use millstream_storage::seeds;

use super::*;
use crate::record::NO_LEADER;
use crate::topic_name::CONSUMER_OFFSETS;

/// Brokers that come and go.
const NODES: u64 = 4;

/// What a seed has shown.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    trace: u64,
    /// Partitions that have got another leader that was in sync.
    elected: usize,
    /// In-sync sets that have become smaller, and larger.
    left: usize,
    joined: usize,
    /// Last members that had lost their disks.
    emptied: usize,
    /// AlterPartition that was refused.
    refused: usize,
    /// Partitions that have got more replicas.
    widened: usize,
    /// Preferred replicas that were elected because it was asked for.
    preferred: usize,
}

impl seeds::Outcome for Outcome {
    fn trace(&self) -> u64 {
        self.trace
    }
}

struct Run {
    random: Random,
    image: ClusterImage,
    outcome: Outcome,
}

impl Run {
    fn node(&mut self) -> i32 {
        self.random.between(1, NODES) as i32
    }

    /// The broker's, as long as it is registered; rarely another one.
    fn epoch(&mut self, node_id: i32) -> i64 {
        let late = i64::from(self.random.below(20) == 0);
        self.image.broker(node_id).map_or(-1, |broker| broker.epoch) - late
    }

    /// A new process of a broker, rarely with another directory, whose host has a name of so many letters.
    fn register(&mut self) -> ControllerRequest {
        let node_id = self.node();
        let known = self.image.broker(node_id).map(|broker| broker.directory_id);
        let directory_id = if self.random.below(6) == 0 { self.random.bytes() } else { known.unwrap_or([9; 16]) };
        let host_bytes = self.random.index(6000);
        ControllerRequest::RegisterBroker {
            node_id,
            incarnation: [self.random.next() as u8; 16],
            directory_id,
            shards: 1,
            endpoints: vec![Endpoint { listener: "PLAINTEXT".into(), host: "x".repeat(host_bytes), port: 9092 }],
            rack: (host_bytes < 3000).then(|| ["r", "s"][self.random.index(2)].into()),
            metadata_versions: METADATA_VERSIONS,
        }
    }

    /// A heartbeat of a broker, which has applied everything.
    fn heartbeat(&mut self) -> ControllerRequest {
        let node_id = self.node();
        ControllerRequest::BrokerHeartbeat {
            node_id,
            epoch: self.epoch(node_id),
            applied_offset: self.image.offset(),
            want_fence: self.random.below(20) == 0,
            want_shutdown: self.random.below(20) == 0,
        }
    }

    /// Some leaders on a broker propose some of the replicas, mostly as things are.
    fn alter_partition(&mut self) -> ControllerRequest {
        let node_id = self.node();
        let image = self.image.clone();
        let mut partitions = Vec::new();
        for topic in image.topics() {
            for (index, known) in (0..).zip(&topic.partitions) {
                if known.leader != node_id && self.random.below(200) > 0 {
                    continue;
                }
                let replicas = known.replicas.iter().copied();
                let others: Vec<i32> = replicas.filter(|id| *id != node_id && self.random.below(4) > 0).collect();
                let mut isr = vec![(node_id, self.epoch(node_id))];
                for other in others {
                    let epoch = if self.random.below(5) == 0 { UNKNOWN_BROKER_EPOCH } else { self.epoch(other) };
                    isr.push((other, epoch));
                }
                let partition_epoch = known.partition_epoch - i32::from(self.random.below(10) == 0);
                let asked = AlterPartition { leader_epoch: known.leader_epoch, partition_epoch, isr };
                partitions.push(((topic.id, index), asked));
            }
        }
        ControllerRequest::AlterPartition { node_id, epoch: self.epoch(node_id), partitions }
    }

    fn name(&mut self) -> String {
        match self.random.below(9) {
            8 => CONSUMER_OFFSETS.to_owned(),
            number => format!("topic{number}"),
        }
    }

    fn request(&mut self) -> ControllerRequest {
        match self.random.below(23) {
            0 | 1 => self.register(),
            2..=6 => self.heartbeat(),
            7 => ControllerRequest::UnregisterBroker { node_id: self.node() },
            8 | 9 => {
                let node_id = self.node();
                ControllerRequest::FenceBroker { node_id, epoch: self.epoch(node_id) }
            }
            10..=13 => self.alter_partition(),
            14 | 15 => {
                let topics = (0..=self.random.below(3))
                    .map(|_| NewTopic {
                        name: self.name(),
                        partitions: self.random.below(30) as i32,
                        replication_factor: self.random.between(1, 5) as i16 - 1,
                        assignments: Vec::new(),
                        configs: vec![("retention.ms".into(), Some(self.random.below(9).to_string()))],
                    })
                    .collect();
                ControllerRequest::CreateTopics { topics, validate_only: self.random.below(8) == 0 }
            }
            16 => ControllerRequest::DeleteTopics { topics: vec![TopicReference::Name(self.name())] },
            17 => {
                let count = self.random.below(40) as i32;
                let topics = vec![MorePartitions { name: self.name(), count, assignments: None }];
                ControllerRequest::CreatePartitions { topics, validate_only: false }
            }
            18 | 19 => self.alter_configs(),
            20 => {
                let resource = ConfigResource::Topic(self.name());
                let resources = vec![(resource, vec![("segment.ms".into(), Some("5".into()))])];
                ControllerRequest::AlterConfigs { resources, validate_only: false }
            }
            21 => self.elect_leaders(),
            _ => {
                let node_id = self.node();
                ControllerRequest::AllocateProducerIds { node_id, epoch: self.epoch(node_id) }
            }
        }
    }

    /// Of all partitions, or of those that need it and one that is perhaps not there, all of them twice.
    fn elect_leaders(&mut self) -> ControllerRequest {
        let mut asked = imbalanced(&self.image);
        asked.push((self.name(), self.random.below(40) as i32));
        let partitions = self.random.coin().then(|| [&asked[..], &asked].concat());
        ControllerRequest::ElectLeaders { partitions, is_unclean: self.random.below(8) == 0 }
    }

    fn alter_configs(&mut self) -> ControllerRequest {
        let operation = match self.random.below(4) {
            0 => ConfigOperation::Set,
            1 => ConfigOperation::Delete,
            2 => ConfigOperation::Append,
            _ => ConfigOperation::Subtract,
        };
        let (resource, config) = match self.random.below(3) {
            0 => (ConfigResource::Topic(self.name()), "cleanup.policy"),
            1 => (ConfigResource::Broker(self.node()), "log.cleanup.policy"),
            _ => (ConfigResource::Cluster, "log.cleanup.policy"),
        };
        let value = ["compact", "delete", "compact,delete"][self.random.index(3)];
        let change = ConfigChange { name: config.into(), operation, value: Some(value.into()) };
        ControllerRequest::IncrementalAlterConfigs { resources: vec![(resource, vec![change])], validate_only: false }
    }

    /// Counts what a decision has done.
    fn count(&mut self, before: &ClusterImage, response: &ControllerResponse) {
        if let ControllerResponse::ElectLeaders(outcomes) = response {
            self.outcome.preferred += outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).count();
        }
        if let ControllerResponse::AlterPartition(Ok(outcomes)) = response {
            self.outcome.refused += outcomes.iter().filter(|(_, outcome)| outcome.is_err()).count();
        }
        for topic in self.image.topics() {
            let Some(known) = before.topic_by_id(topic.id) else { continue };
            for (known, state) in known.partitions.iter().zip(&topic.partitions) {
                let is_other = state.leader != known.leader && known.leader != NO_LEADER && state.leader != NO_LEADER;
                self.outcome.elected += usize::from(is_other);
                self.outcome.left += usize::from(state.isr.len() < known.isr.len());
                self.outcome.joined += usize::from(state.isr.len() > known.isr.len());
                self.outcome.widened += usize::from(state.replicas.len() > known.replicas.len());
                self.outcome.emptied += usize::from(state.isr.is_empty() && !known.isr.is_empty());
            }
        }
    }

    fn run(mut self) -> Result<Outcome, String> {
        let file = [("default.replication.factor".to_owned(), "3".to_owned())];
        let controller = Controller::new(file.into());
        self.image.replay(&MetadataRecord::Cluster { cluster_id: [1; 16] });
        let mut follower = self.image.clone();
        for step in 0..300 {
            let now = Now { elapsed: Duration::ZERO, unix_ms: 0 };
            let request = self.request();
            let id = self.random.bytes();
            let decision = controller.handle(&self.image, &Sessions::default(), request.clone(), now, id);
            let again = controller.handle(&self.image, &Sessions::default(), request.clone(), now, id);
            if decision != again {
                return Err(format!("{request:?} is decided in two ways"));
            }
            let before = self.image.clone();
            for record in &decision.records {
                follower.check(record)?;
                self.image.replay(record);
                follower.replay(record);
            }
            if follower != self.image {
                return Err(format!("{request:?} makes two images"));
            }
            check_decision(&before, &self.image).map_err(|why| format!("step {step}: {why}: {request:?}"))?;
            self.count(&before, &decision.response);
        }
        if ClusterImage::from_snapshot(follower.offset(), &follower.snapshot()).as_ref() != Ok(&follower) {
            return Err("its snapshot is another image".to_owned());
        }
        self.outcome.trace = self.random.next() ^ self.image.offset();
        Ok(self.outcome)
    }
}

#[test]
fn random_requests_make_equal_images_and_keep_who_is_in_sync() {
    let test = "controller::tests::replay::random_requests_make_equal_images_and_keep_who_is_in_sync";
    let outcomes = seeds::run(env!("CARGO_PKG_NAME"), test, 40, |options| {
        Run { random: Random::new(options.seed), image: ClusterImage::new(), outcome: Outcome::default() }.run()
    });
    let sum = |count: fn(&Outcome) -> usize| outcomes.iter().map(count).sum::<usize>();
    let all = [
        ("elected", sum(|outcome| outcome.elected)),
        ("left", sum(|outcome| outcome.left)),
        ("joined", sum(|outcome| outcome.joined)),
        ("emptied", sum(|outcome| outcome.emptied)),
        ("refused", sum(|outcome| outcome.refused)),
        ("widened", sum(|outcome| outcome.widened)),
        ("preferred", sum(|outcome| outcome.preferred)),
    ];
    println!("{all:?}");
    if outcomes.len() >= 40 {
        assert!(all.iter().all(|(_, count)| *count > 0), "{all:?}");
    }
}
