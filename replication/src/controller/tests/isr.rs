//! Leaders say who is in sync.

use super::*;

type Outcome = Result<(Vec<i32>, i32), ErrorCode>;

impl Cluster {
    /// Four brokers; the first three hold the only partition of `a`, which the first leads.
    fn of_replicas() -> Cluster {
        let mut cluster = Cluster::new(&[], 4);
        cluster.create_one(assigned("a", &[(0, &[1, 2, 3])])).unwrap();
        cluster
    }

    fn topic_id(&self) -> TopicId {
        self.image.topic("a").expect("it is there").id
    }

    fn broker_epoch(&self, node_id: i32) -> i64 {
        self.image.broker(node_id).expect("it is registered").epoch
    }

    fn alter_all(
        &mut self,
        (node_id, epoch): (i32, i64),
        partitions: Vec<(TopicPartition, AlterPartition)>,
    ) -> Result<Vec<Outcome>, ErrorCode> {
        match self.request(ControllerRequest::AlterPartition { node_id, epoch, partitions }) {
            ControllerResponse::AlterPartition(Ok(outcomes)) => Ok(outcomes
                .into_iter()
                .map(|(_, outcome)| {
                    outcome.map(|altered| (altered.isr, altered.partition_epoch)).map_err(|error| error.code)
                })
                .collect()),
            ControllerResponse::AlterPartition(Err(error)) => Err(error.code),
            other => panic!("{other:?}"),
        }
    }

    /// Broker 1 proposes these, of these epochs.
    fn propose(&mut self, leader_epoch: i32, partition_epoch: i32, isr: &[(i32, i64)]) -> Outcome {
        let asked = AlterPartition { leader_epoch, partition_epoch, isr: isr.to_vec() };
        let who = (1, self.broker_epoch(1));
        let partitions = vec![((self.topic_id(), 0), asked)];
        self.alter_all(who, partitions).expect("it is registered").remove(0)
    }
}

#[test]
fn a_leader_says_who_is_in_sync_as_of_the_present_partition_epoch() {
    let mut cluster = Cluster::of_replicas();
    let [one, two, three] = [1, 2, 3].map(|node_id| (node_id, cluster.broker_epoch(node_id)));
    assert_eq!(cluster.propose(0, 0, &[one, two]), Ok((vec![1, 2], 1)));
    assert_eq!(cluster.propose(0, 0, &[one, two]), Err(ErrorCode::InvalidUpdateVersion));
    assert_eq!(cluster.propose(0, 1, &[one, two]), Ok((vec![1, 2], 2)), "it takes back what it has proposed");
    assert_eq!(cluster.propose(0, 2, &[one, (2, -1), three]), Ok((vec![1, 2, 3], 3)));
    let partition = cluster.image.topic("a").unwrap().partitions[0].clone();
    assert_eq!((partition.leader, partition.leader_epoch, partition.partition_epoch), (1, 0, 3));
}

#[test]
fn what_rests_on_something_old_or_wrong_is_refused() {
    let mut cluster = Cluster::of_replicas();
    let [one, two, three, four] = [1, 2, 3, 4].map(|node_id| (node_id, cluster.broker_epoch(node_id)));
    assert_eq!(cluster.propose(1, 0, &[one]), Err(ErrorCode::NotController));
    assert_eq!(cluster.propose(0, 1, &[one]), Err(ErrorCode::NotController));
    for wrong in [&[two, three][..], &[one, four], &[one, two, two], &[]] {
        assert_eq!(cluster.propose(0, 0, wrong), Err(ErrorCode::InvalidRequest), "{wrong:?}");
    }
    assert_eq!(cluster.propose(0, 0, &[one, (2, two.1 + 1)]), Err(ErrorCode::IneligibleReplica));
    let before = two.1;
    let restarted = cluster.start(2);
    assert!(restarted > before);
    // It has left the set, and the partition epoch has grown.
    assert_eq!(cluster.propose(0, 0, &[one, two]), Err(ErrorCode::InvalidUpdateVersion));
    assert_eq!(cluster.propose(0, 1, &[one, two]), Err(ErrorCode::IneligibleReplica));
    for (is_fenced, in_controlled_shutdown) in [(true, false), (false, true)] {
        let epoch = cluster.broker_epoch(3);
        cluster.image.replay(&MetadataRecord::BrokerChange { node_id: 3, epoch, is_fenced, in_controlled_shutdown });
        assert_eq!(cluster.propose(0, 1, &[one, three]), Err(ErrorCode::IneligibleReplica));
    }
    let topic_id = cluster.topic_id();
    let alter = |leader_epoch| AlterPartition { leader_epoch, partition_epoch: 1, isr: vec![one] };
    let several = vec![
        ((TopicId([9; 16]), 0), alter(0)),
        ((topic_id, 1), alter(0)),
        ((topic_id, 0), alter(0)),
        ((topic_id, 0), alter(0)),
    ];
    assert_eq!(cluster.alter_all((1, one.1 + 1), several.clone()), Err(ErrorCode::StaleBrokerEpoch));
    assert_eq!(cluster.alter_all((2, restarted), vec![several[2].clone()]), Ok(vec![Err(ErrorCode::InvalidRequest)]));
    let outcomes = [
        Err(ErrorCode::UnknownTopicId),
        Err(ErrorCode::UnknownTopicOrPartition),
        Ok((vec![1], 2)),
        Err(ErrorCode::InvalidUpdateVersion),
    ];
    assert_eq!(cluster.alter_all((1, one.1), several), Ok(outcomes.to_vec()));
    // Another leader, in another epoch.
    let state =
        Partition { leader_epoch: 1, partition_epoch: 3, ..cluster.image.topic("a").unwrap().partitions[0].clone() };
    cluster.image.replay(&MetadataRecord::Partition { topic_id, partition: 0, state });
    assert_eq!(cluster.propose(0, 3, &[one]), Err(ErrorCode::FencedLeaderEpoch));
}

/// Away, back as the same process or as another one, and in sync again when the leader says so of who is there now.
#[test]
fn who_was_fenced_joins_again_as_who_it_is_then() {
    let mut cluster = Cluster::of_replicas();
    let [one, two, three] = [1, 2, 3].map(|node_id| (node_id, cluster.broker_epoch(node_id)));
    let fence = ControllerRequest::FenceBroker { node_id: 3, epoch: three.1 };
    assert_eq!(cluster.request(fence), ControllerResponse::FenceBroker(Ok(())));
    let partition = |cluster: &Cluster| cluster.image.topic("a").unwrap().partitions[0].clone();
    assert_eq!((partition(&cluster).isr.to_vec(), partition(&cluster).partition_epoch), (vec![1, 2], 1));
    // What the leader had proposed before it heard of that comes too late, and what it proposes after is refused.
    assert_eq!(cluster.propose(0, 0, &[one, two, three]), Err(ErrorCode::InvalidUpdateVersion));
    assert_eq!(cluster.propose(0, 1, &[one, two, three]), Err(ErrorCode::IneligibleReplica));
    assert_eq!(cluster.propose(0, 1, &[one, two, (3, UNKNOWN_BROKER_EPOCH)]), Err(ErrorCode::IneligibleReplica));

    let registered = (3, cluster.register(3).unwrap());
    assert_eq!(cluster.propose(0, 1, &[one, two, registered]), Err(ErrorCode::IneligibleReplica), "it is fenced still");
    let restarted = (3, cluster.start(3));
    assert_eq!(partition(&cluster).isr, [1, 2], "it is there, and has to catch up");
    assert_eq!(cluster.propose(0, 1, &[one, two, three]), Err(ErrorCode::IneligibleReplica), "a process before");
    assert_eq!(cluster.propose(0, 1, &[one, two, restarted]), Ok((vec![1, 2, 3], 2)));
    assert_eq!((partition(&cluster).leader, partition(&cluster).leader_epoch), (1, 0), "who led has led all the time");
}

#[test]
fn too_many_partitions_are_refused_and_what_is_undecided_fails_everywhere() {
    let mut cluster = Cluster::of_replicas();
    let who = (1, cluster.broker_epoch(1));
    let asked = AlterPartition { leader_epoch: 0, partition_epoch: 0, isr: vec![who] };
    let partitions = vec![((cluster.topic_id(), 0), asked); PARTITIONS_PER_REQUEST_MAX + 1];
    assert_eq!(cluster.alter_all(who, partitions.clone()), Err(ErrorCode::InvalidRequest));
    let (node_id, epoch) = who;
    let request = ControllerRequest::AlterPartition { node_id, epoch, partitions: partitions[..2].to_vec() };
    assert!(request.frees_space() && !request.changes_members());
    let decision = cluster.decide(request.clone());
    assert!(request.is_answered_by(&decision.response));
    let why = ApiError::new(ErrorCode::NotController, "");
    let codes = |response| match response {
        ControllerResponse::AlterPartition(Ok(outcomes)) => outcomes
            .into_iter()
            .map(|(_, outcome): (_, Result<AlteredPartition, ApiError>)| outcome.map(|_| ()).map_err(|e| e.code))
            .collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let (ours, theirs) = (Err(ErrorCode::InvalidUpdateVersion), Err(ErrorCode::NotController));
    assert_eq!(codes(decision.response.clone().refused(&why)), [theirs, ours]);
    assert_eq!(codes(decision.response.undecided(&why)), [theirs, theirs]);
}
