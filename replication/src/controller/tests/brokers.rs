//! Brokers that come and go, and who leads their partitions meanwhile.

use super::*;
use crate::record::NO_LEADER;

const TIMEOUT: Duration = Duration::from_secs(3);

/// What a broker says of itself.
#[derive(Clone, Copy, Default)]
struct Beat {
    applied_offset: u64,
    want_fence: bool,
    want_shutdown: bool,
}

/// A reply without an error: caught up, fenced, to shut down.
type Reply = (bool, bool, bool);

impl Cluster {
    /// Three brokers; topic `a` has a partition on each.
    fn of_three() -> Cluster {
        let mut cluster = Cluster::new(&[], 3);
        cluster.create_one(assigned("a", &[(0, &[1]), (1, &[2]), (2, &[3])])).unwrap();
        cluster.sessions = Sessions::new(cluster.elapsed, TIMEOUT, cluster.image.brokers());
        cluster
    }

    /// Partition 0 of `a` has these replicas from now on, of which these are in sync.
    fn hold(&mut self, replicas: &[i32], isr: &[i32], leader: i32) {
        let topic = self.image.topic("a").expect("it is there");
        let (topic_id, known) = (topic.id, &topic.partitions[0]);
        let partition_epoch = known.partition_epoch + 1;
        let (replicas, isr) = (replicas.into(), isr.into());
        let state = Partition { replicas, isr, leader, partition_epoch, ..known.clone() };
        self.image.replay(&MetadataRecord::Partition { topic_id, partition: 0, state });
    }

    fn epoch(&self, node_id: i32) -> i64 {
        self.image.broker(node_id).expect("it is registered").epoch
    }

    fn beat(&mut self, node_id: i32, epoch: i64, beat: Beat) -> Result<Reply, ErrorCode> {
        let Beat { applied_offset, want_fence, want_shutdown } = beat;
        let request = ControllerRequest::BrokerHeartbeat { node_id, epoch, applied_offset, want_fence, want_shutdown };
        match self.request(request) {
            ControllerResponse::BrokerHeartbeat(reply) => reply
                .map(|reply| (reply.is_caught_up, reply.is_fenced, reply.should_shut_down))
                .map_err(|error| error.code),
            other => panic!("{other:?}"),
        }
    }

    /// It has applied everything and wants nothing.
    fn beat_as_usual(&mut self, node_id: i32) -> Result<Reply, ErrorCode> {
        let beat = Beat { applied_offset: self.image.offset(), ..Beat::default() };
        self.beat(node_id, self.epoch(node_id), beat)
    }

    pub(super) fn fence(&mut self, node_id: i32, epoch: i64) -> Result<(), ErrorCode> {
        match self.request(ControllerRequest::FenceBroker { node_id, epoch }) {
            ControllerResponse::FenceBroker(outcome) => outcome.map_err(|error| error.code),
            other => panic!("{other:?}"),
        }
    }

    fn unregister(&mut self, node_id: i32) -> Result<(), ErrorCode> {
        match self.request(ControllerRequest::UnregisterBroker { node_id }) {
            ControllerResponse::UnregisterBroker(outcome) => outcome.map_err(|error| error.code),
            other => panic!("{other:?}"),
        }
    }

    /// Leader, leader epoch and partition epoch of each partition of `a`.
    fn leaders(&self) -> Vec<(i32, i32, i32)> {
        let partitions = &self.image.topic("a").expect("it is there").partitions;
        partitions.iter().map(|p| (p.leader, p.leader_epoch, p.partition_epoch)).collect()
    }
}

#[test]
fn a_broker_that_registers_is_fenced_until_it_has_applied_its_registration() {
    let mut cluster = Cluster::of_three();
    cluster.sessions = Sessions::default();
    let before = cluster.epoch(2);
    let epoch = cluster.register(2).unwrap();
    assert!(epoch > before);
    let broker = cluster.image.broker(2).unwrap();
    assert_eq!((broker.epoch, broker.shards, broker.directory_id), (epoch, 4, [2; 16]));
    assert!(broker.is_fenced && !broker.in_controlled_shutdown);
    assert_eq!(cluster.leaders(), [(1, 0, 0), (NO_LEADER, 1, 1), (3, 0, 0)], "what it led has no leader");

    let behind = Beat { applied_offset: epoch as u64 - 1, ..Beat::default() };
    assert_eq!(cluster.beat(2, epoch, behind), Ok((false, true, false)));
    let unwilling = Beat { applied_offset: epoch as u64, want_fence: true, ..Beat::default() };
    assert_eq!(cluster.beat(2, epoch, unwilling), Ok((true, true, false)));
    let offset = cluster.image.offset();
    assert_eq!(cluster.leaders()[1], (NO_LEADER, 1, 1));
    let caught_up = Beat { applied_offset: epoch as u64, ..Beat::default() };
    assert_eq!(cluster.beat(2, epoch, caught_up), Ok((true, false, false)));
    assert_eq!(cluster.leaders(), [(1, 0, 0), (2, 2, 2), (3, 0, 0)], "it has them back");
    assert_eq!(cluster.image.offset(), offset + 2);
    // Nothing more is decided while nothing changes.
    assert_eq!(cluster.beat(2, epoch, caught_up), Ok((true, false, false)));
    assert_eq!(cluster.image.offset(), offset + 2);
}

#[test]
fn a_heartbeat_of_a_registration_that_is_not_the_present_one_is_refused() {
    let mut cluster = Cluster::of_three();
    let epoch = cluster.epoch(1);
    for wrong in [epoch - 1, epoch + 1, -1] {
        assert_eq!(cluster.beat(1, wrong, Beat::default()), Err(ErrorCode::StaleBrokerEpoch));
        assert_eq!(cluster.fence(1, wrong), Err(ErrorCode::StaleBrokerEpoch));
    }
    assert_eq!(cluster.beat(4, epoch, Beat::default()), Err(ErrorCode::BrokerIdNotRegistered));
    assert_eq!(cluster.fence(4, epoch), Err(ErrorCode::BrokerIdNotRegistered));
    assert_eq!(cluster.register(-1), Err(ErrorCode::InvalidRegistration));
}

#[test]
fn a_second_process_of_a_broker_waits_until_nobody_hears_of_the_first() {
    let mut cluster = Cluster::of_three();
    let (epoch, offset) = (cluster.epoch(1), cluster.image.offset());
    let incarnation = cluster.image.broker(1).unwrap().incarnation;
    assert_eq!(cluster.register_as(1, incarnation), Ok(epoch), "who has not heard the answer asks again");
    cluster.elapsed = TIMEOUT - Duration::from_millis(1);
    assert_eq!(cluster.register(1), Err(ErrorCode::DuplicateBrokerRegistration));
    assert_eq!(cluster.image.offset(), offset, "nothing was decided");
    cluster.elapsed = TIMEOUT;
    assert!(cluster.register(1).unwrap() > epoch);

    // Nor is the session waited for of one that is fenced.
    let epoch = cluster.epoch(2);
    cluster.sessions.contact(cluster.elapsed, 2, epoch);
    cluster.fence(2, epoch).unwrap();
    assert!(cluster.register(2).unwrap() > epoch);
}

#[test]
fn what_a_fenced_broker_led_has_no_leader_until_it_is_back() {
    let mut cluster = Cluster::of_three();
    let epoch = cluster.epoch(3);
    assert_eq!(cluster.fence(3, epoch), Ok(()));
    assert_eq!(cluster.leaders(), [(1, 0, 0), (2, 0, 0), (NO_LEADER, 1, 1)]);
    assert_eq!(cluster.image.controller_id(1), Some(1));
    let offset = cluster.image.offset();
    assert_eq!(cluster.fence(3, epoch), Ok(()), "again");
    assert_eq!(cluster.image.offset(), offset);

    // Nothing new is put on it, but by those who insist, who are told.
    cluster.create_one(topic("b", 9, 1)).unwrap();
    let leaders: std::collections::BTreeSet<i32> =
        cluster.image.topic("b").unwrap().partitions.iter().map(|p| p.leader).collect();
    assert_eq!(leaders.into_iter().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(cluster.create_one(assigned("c", &[(0, &[3])])), Err(ErrorCode::InvalidReplicaAssignment));
    assert_eq!(cluster.grow("b", 10, Some(vec![vec![3]])), Err(ErrorCode::InvalidReplicaAssignment));

    assert_eq!(cluster.beat_as_usual(3), Ok((true, false, false)), "it was only silent");
    assert_eq!(cluster.leaders()[2], (3, 2, 2));
    assert_eq!(cluster.epoch(3), epoch);

    let wants = Beat { applied_offset: cluster.image.offset(), want_fence: true, ..Beat::default() };
    assert_eq!(cluster.beat(3, epoch, wants), Ok((true, true, false)));
    assert_eq!(cluster.leaders()[2], (NO_LEADER, 3, 3));
}

#[test]
fn nothing_is_put_on_brokers_that_are_all_away() {
    let mut cluster = Cluster::of_three();
    for node_id in 1..=3 {
        cluster.fence(node_id, cluster.epoch(node_id)).unwrap();
    }
    assert_eq!(cluster.create_one(topic("b", 1, 1)), Err(ErrorCode::InvalidReplicationFactor));
    assert_eq!(cluster.create_one(topic("b", 1, -1)), Err(ErrorCode::InvalidReplicationFactor));
    assert_eq!(cluster.grow("a", 4, None), Err(ErrorCode::InvalidReplicationFactor));
    assert_eq!(cluster.image.controller_id(1), None);
}

#[test]
fn a_broker_that_wants_to_stop_leads_nothing_and_may() {
    let mut cluster = Cluster::of_three();
    let epoch = cluster.epoch(1);
    let wants = Beat { want_shutdown: true, ..Beat::default() };
    assert_eq!(cluster.beat(1, epoch, wants), Ok((false, true, true)));
    assert_eq!(cluster.leaders()[0], (NO_LEADER, 1, 1));
    assert!(cluster.image.broker(1).unwrap().in_controlled_shutdown);
    assert_eq!(cluster.create_one(assigned("b", &[(0, &[1])])), Err(ErrorCode::InvalidReplicaAssignment));
    let offset = cluster.image.offset();
    assert_eq!(cluster.beat(1, epoch, wants), Ok((false, true, true)));
    // A heartbeat that was sent before and comes after does not call it back.
    assert_eq!(cluster.beat_as_usual(1), Ok((true, true, true)));
    assert_eq!(cluster.image.offset(), offset);
    // Its next process need not wait for the end of its session.
    assert!(cluster.sessions.is_alive(cluster.elapsed, 1));
    cluster.start(1);
    assert_eq!(cluster.leaders()[0], (1, 2, 2));
}

#[test]
fn a_broker_that_is_fenced_too_often_stays_so_for_a_while() {
    let mut cluster = Cluster::of_three();
    let epoch = cluster.epoch(2);
    for _ in 0..=FENCINGS_MAX {
        cluster.elapsed += Duration::from_secs(1);
        assert_eq!(cluster.beat_as_usual(2), Ok((true, false, false)));
        cluster.fence(2, epoch).unwrap();
        cluster.sessions.fenced(cluster.elapsed, 2);
    }
    assert_eq!(cluster.beat_as_usual(2), Ok((true, true, false)));
    cluster.elapsed += FENCED_LONGER;
    assert_eq!(cluster.beat_as_usual(2), Ok((true, false, false)));
}

#[test]
fn a_broker_that_is_unregistered_is_unknown_and_may_come_back() {
    let mut cluster = Cluster::of_three();
    let epoch = cluster.epoch(2);
    assert_eq!(cluster.unregister(4), Err(ErrorCode::BrokerIdNotRegistered));
    cluster.fence(2, epoch).unwrap();
    assert_eq!(cluster.unregister(2), Ok(()));
    assert_eq!(cluster.image.broker(2), None);
    assert_eq!(cluster.beat(2, epoch, Beat::default()), Err(ErrorCode::BrokerIdNotRegistered));
    // One that is alive leads nothing from then on.
    assert_eq!(cluster.unregister(1), Ok(()));
    assert_eq!(cluster.leaders(), [(NO_LEADER, 1, 1), (NO_LEADER, 1, 1), (3, 0, 0)]);
    assert!(cluster.start(2) > epoch);
    assert_eq!(cluster.leaders()[1], (2, 2, 2));
}

#[test]
fn leadership_moves_to_a_replica_in_sync() {
    let mut cluster = Cluster::of_three();
    cluster.hold(&[1, 2, 3], &[3, 1], 1);
    cluster.fence(1, cluster.epoch(1)).unwrap();
    assert_eq!(cluster.leaders()[0], (3, 1, 2));
    let wants = Beat { want_shutdown: true, ..Beat::default() };
    cluster.beat(3, cluster.epoch(3), wants).unwrap();
    assert_eq!(cluster.leaders()[0], (NO_LEADER, 2, 3));
    assert_eq!(cluster.beat_as_usual(1), Ok((true, false, false)));
    assert_eq!(cluster.leaders()[0], (NO_LEADER, 2, 3), "it may lack what was acknowledged since");
    cluster.start(3);
    assert_eq!(cluster.leaders()[0], (3, 3, 4), "the last that was in sync has everything");
    assert_eq!(cluster.image.topic("a").unwrap().partitions[0].isr, [3]);
}

/// In sync | leader | what happens to a broker | in sync then | who leads then; of replicas 1, 2 and 3.
const LEAVING: &str = "
    1 2 3 | 1 | fence 1      | 2 3   | 2
    1 2 3 | 1 | fence 3      | 1 2   | 1
    1 3   | 1 | fence 2      | 1 3   | 1     it was not in sync
    1     | 1 | fence 1      | 1     | none  the last has everything
    1 2 3 | 1 | stop 1       | 2 3   | 2
    1 2 3 | 2 | stop 1       | 2 3   | 2
    2     | 2 | stop 2       | 2     | none
    1 2 3 | 1 | restart 1    | 2 3   | 2
    1     | 1 | restart 1    | 1     | none
    1 2 3 | 1 | wipe 1       | 2 3   | 2
    1 2   | 2 | wipe 1       | 2     | 2
    1     | 1 | wipe 1       |       | none  nobody is known to have everything
    1 2 3 | 1 | unregister 1 | 2 3   | 2
    1     | 1 | unregister 1 | 1     | none
    1     | - | register 1   |       | none  nobody remembers what directory it had
    2 3   | 2 | register 1   | 2 3   | 2
";

#[test]
fn who_is_fenced_or_has_lost_its_disk_leaves_in_sync_sets_in_the_same_decision() {
    for row in LEAVING.lines().map(str::trim).filter(|row| !row.is_empty()) {
        let columns: Vec<&str> = row.split('|').map(str::trim).collect();
        let numbers = |text: &str| -> Vec<i32> { text.split_whitespace().map_while(|n| n.parse().ok()).collect() };
        let leader = |text: &str| numbers(text).first().copied().unwrap_or(NO_LEADER);
        let mut cluster = Cluster::of_three();
        let (what, node_id) = columns[2].split_once(' ').expect("what, and to whom");
        let node_id: i32 = node_id.parse().expect("a broker");
        if what == "register" {
            cluster.unregister(node_id).unwrap();
        }
        cluster.hold(&[1, 2, 3], &numbers(columns[0]), leader(columns[1]));
        let before = cluster.image.clone();
        cluster.elapsed = TIMEOUT;
        let epoch = before.broker(node_id).map(|broker| broker.epoch);
        match what {
            "fence" => cluster.fence(node_id, epoch.unwrap()).unwrap(),
            "unregister" => cluster.unregister(node_id).unwrap(),
            "restart" | "register" => assert!(cluster.register(node_id).unwrap() > epoch.unwrap_or(-1)),
            "wipe" => assert!(cluster.register_wiped(node_id).unwrap() > epoch.unwrap()),
            "stop" => {
                let wants = Beat { want_shutdown: true, ..Beat::default() };
                assert_eq!(cluster.beat(node_id, epoch.unwrap(), wants), Ok((false, true, true)));
            }
            other => panic!("{other}"),
        }
        let partition = |image: &ClusterImage| image.topic("a").unwrap().partitions[0].clone();
        let (known, state) = (partition(&before), partition(&cluster.image));
        assert_eq!((&state.isr[..], state.leader), (&numbers(columns[3])[..], leader(columns[4])), "{row}");
        let is_changed = (&state.isr, state.leader) != (&known.isr, known.leader);
        assert_eq!(state.partition_epoch, known.partition_epoch + i32::from(is_changed), "{row}");
        assert_eq!(state.leader_epoch, known.leader_epoch + i32::from(state.leader != known.leader), "{row}");
    }
}

#[test]
fn who_was_the_only_replica_and_has_lost_its_disk_begins_anew() {
    let mut cluster = Cluster::of_three();
    cluster.elapsed = TIMEOUT;
    let epoch = cluster.register_wiped(3).unwrap();
    assert_eq!(cluster.leaders()[2], (NO_LEADER, 1, 1));
    assert_eq!(
        cluster.beat(3, epoch, Beat { applied_offset: epoch as u64, ..Beat::default() }),
        Ok((true, false, false))
    );
    assert_eq!(cluster.leaders()[2], (3, 2, 2), "nobody else could have more");
}

#[test]
fn a_broker_of_before_directories_is_taken_at_its_word() {
    let mut cluster = Cluster::of_three();
    cluster.hold(&[1, 2, 3], &[1], 1);
    let broker = Broker { directory_id: [0; 16], ..cluster.image.broker(1).unwrap().clone() };
    let epoch = cluster.image.offset() as i64 + 1;
    cluster.image.replay(&MetadataRecord::Broker(Broker { epoch, ..broker }));
    cluster.elapsed = TIMEOUT;
    cluster.start(1);
    assert_eq!(cluster.leaders()[0].0, 1);
}

#[test]
fn brokers_of_before_incarnations_lead_again_when_they_have_registered() {
    let mut cluster = Cluster::new(&[], 0);
    crate::log::samples::before_incarnations().iter().for_each(|record| cluster.image.replay(record));
    let leader = |cluster: &Cluster| {
        let partition = &cluster.image.topic("orders.v1").unwrap().partitions[0];
        (partition.leader, partition.leader_epoch)
    };
    assert_eq!(leader(&cluster), (2, 1));
    cluster.start(2);
    assert_eq!(leader(&cluster), (2, 3));
}

/// A process that does not read the metadata of the cluster is refused, also where it was let in before.
#[test]
fn a_process_that_cannot_read_the_metadata_is_not_registered() {
    let mut cluster = Cluster::new(&[], 1);
    let request = |min, max, incarnation: u8| ControllerRequest::RegisterBroker {
        node_id: 2,
        incarnation: [incarnation; 16],
        directory_id: [2; 16],
        shards: 1,
        endpoints: Vec::new(),
        rack: None,
        metadata_versions: LevelRange { min, max },
    };
    for (min, max) in [(2, 3), (0, 0), (1, 0), (0, 1)] {
        let decision = cluster.decide(request(min, max, 7));
        let ControllerResponse::RegisterBroker(Err(error)) = decision.response else { panic!("{decision:?}") };
        assert_eq!((error.code, decision.records), (ErrorCode::UnsupportedVersion, Vec::new()));
        let why = error.message;
        let words = format!("it reads millstream.metadata.version {min} to {max}, and the cluster is at 1");
        assert!(why.starts_with(&words), "{why}");
    }
    let registered = cluster.request(request(1, 3, 7));
    assert!(matches!(registered, ControllerResponse::RegisterBroker(Ok(_))), "{registered:?}");
    let levels = cluster.image.broker(2).map(|broker| broker.metadata_versions);
    assert_eq!(levels, Some(LevelRange { min: 1, max: 3 }), "the record keeps them");
}
