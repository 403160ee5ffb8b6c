//! Leadership goes back to the preferred replicas.

use super::*;

impl Cluster {
    fn elect(
        &mut self,
        partitions: Option<&[(&str, i32)]>,
        is_unclean: bool,
    ) -> Vec<((String, i32), Option<ErrorCode>)> {
        let named = |asked: &[(&str, i32)]| asked.iter().map(|(name, index)| (name.to_string(), *index)).collect();
        let request = ControllerRequest::ElectLeaders { partitions: partitions.map(named), is_unclean };
        let before = self.image.clone();
        let ControllerResponse::ElectLeaders(outcomes) = self.request(request) else { panic!("another answer") };
        assert_eq!(check_decision(&before, &self.image), Ok(()));
        outcomes.into_iter().map(|(at, outcome)| (at, outcome.err().map(|error| error.code))).collect()
    }

    fn fence_now(&mut self, node_id: i32) {
        let epoch = self.image.broker(node_id).expect("it is registered").epoch;
        assert_eq!(self.fence(node_id, epoch), Ok(()));
    }

    /// The broker that leads these partitions says that all replicas are in sync.
    fn join_all(&mut self, name: &str, indexes: std::ops::Range<i32>) {
        let topic = self.image.topic(name).expect("it is there");
        let node_id = topic.partition(indexes.start).expect("it is there").leader;
        let asked = |index: i32| {
            let Partition { replicas, leader_epoch, partition_epoch, .. } =
                topic.partition(index).expect("it is there");
            let isr = replicas.iter().map(|node_id| (*node_id, UNKNOWN_BROKER_EPOCH)).collect();
            let asked = AlterPartition { leader_epoch: *leader_epoch, partition_epoch: *partition_epoch, isr };
            ((topic.id, index), asked)
        };
        let partitions = indexes.map(asked).collect();
        let epoch = self.image.broker(node_id).expect("it leads").epoch;
        let request = ControllerRequest::AlterPartition { node_id, epoch, partitions };
        let ControllerResponse::AlterPartition(Ok(outcomes)) = self.request(request) else { panic!("it is refused") };
        assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()), "{outcomes:?}");
    }

    fn led_by(&self, name: &str) -> Vec<(i32, i32)> {
        let topic = self.image.topic(name).expect("it is there");
        topic.partitions.iter().map(|partition| (partition.leader, partition.leader_epoch)).collect()
    }
}

#[test]
fn leadership_goes_back_when_the_preferred_replica_is_in_sync_again() {
    let mut cluster = Cluster::new(&[], 1);
    cluster.start(2);
    cluster.start(3);
    cluster.create_one(assigned("t", &[(0, &[2, 1]), (1, &[1, 2])])).unwrap();
    cluster.create_one(assigned("u", &[(0, &[2])])).unwrap();
    assert_eq!((cluster.led_by("t"), imbalanced(&cluster.image)), (vec![(2, 0), (1, 0)], vec![]));
    cluster.fence_now(2);
    assert_eq!((cluster.led_by("t"), cluster.led_by("u")), (vec![(1, 1), (1, 0)], vec![(-1, 1)]));
    let not_available = Some(ErrorCode::PreferredLeaderNotAvailable);
    let outcomes = cluster.elect(None, false);
    assert_eq!(outcomes, [(("t".into(), 0), not_available), (("u".into(), 0), not_available)]);
    let outcomes = cluster.elect(Some(&[("u", 0), ("t", 1)]), true);
    let (eligible, not_needed) = (Some(ErrorCode::EligibleLeadersNotAvailable), Some(ErrorCode::ElectionNotNeeded));
    assert_eq!(outcomes, [(("u".into(), 0), eligible), (("t".into(), 1), not_needed)]);

    cluster.start(2);
    assert_eq!((cluster.led_by("t"), cluster.led_by("u")), (vec![(1, 1), (1, 0)], vec![(2, 2)]));
    assert_eq!(imbalanced(&cluster.image), [], "it is there, and not in sync yet");
    cluster.join_all("t", 0..1);
    assert_eq!(imbalanced(&cluster.image), [("t".to_string(), 0)]);
    let outcomes = cluster.elect(Some(&[("t", 0), ("t", 1), ("t", 0), ("t", 3), ("v", 0)]), false);
    let unknown = Some(ErrorCode::UnknownTopicOrPartition);
    let codes: Vec<Option<ErrorCode>> = outcomes.iter().map(|(_, code)| *code).collect();
    assert_eq!(codes, [None, not_needed, not_needed, unknown, unknown]);
    assert_eq!((cluster.led_by("t"), imbalanced(&cluster.image)), (vec![(2, 2), (1, 0)], vec![]));
    assert_eq!(cluster.elect(None, false), []);
}

#[test]
fn a_balancing_elects_so_many_and_the_next_one_the_rest() {
    let mut cluster = Cluster::new(&[], 1);
    cluster.start(2);
    let all: Vec<(i32, &[i32])> = (0..ELECTIONS_PER_BALANCE_MAX as i32 + 7).map(|index| (index, &[2, 1][..])).collect();
    cluster.create_one(assigned("t", &all)).unwrap();
    cluster.fence_now(2);
    cluster.start(2);
    cluster.join_all("t", 0..all.len() as i32);
    for left in [ELECTIONS_PER_BALANCE_MAX, 7] {
        let partitions = imbalanced(&cluster.image);
        assert_eq!(partitions.len(), left);
        cluster.request(ControllerRequest::ElectLeaders { partitions: Some(partitions), is_unclean: false });
    }
    assert_eq!(imbalanced(&cluster.image), []);
}
