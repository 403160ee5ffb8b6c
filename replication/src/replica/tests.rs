//! Single decisions of a replica, by its effects. That they keep what is committed together is the model's to show.

use super::*;

const LAG_MAX: Duration = Duration::from_millis(1_000);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a replica of broker 1, of its epoch 11, has been told.
struct Case {
    replica: Replica,
    now: Duration,
}

impl Case {
    fn new(log: (i64, i64, i32), high_watermark: i64) -> Case {
        let log = Log { start: 0, end: log.0, durable_end: log.1, last_epoch: log.2 };
        Case { replica: Replica::new(1, 11, LAG_MAX, log, high_watermark), now: ms(0) }
    }

    fn tell(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.replica.handle(self.now, event, &mut effects);
        effects
    }

    /// Leader, leader epoch and partition epoch of a partition of brokers 1 to 3, whose epochs are 11 to 13.
    fn assign(&mut self, leader: (i32, i32, i32), isr: &[i32], min_insync: usize) -> Vec<Effect> {
        let (leader, leader_epoch, partition_epoch) = leader;
        let isr = isr.into();
        let partition = Partition { replicas: [1, 2, 3].into(), isr, leader, leader_epoch, partition_epoch };
        let brokers = (1..=3).map(|node_id| Registered { node_id, epoch: 10 + i64::from(node_id), is_usable: true });
        self.tell(Event::Assigned(Assignment { partition, brokers: brokers.collect(), min_insync }))
    }

    /// A follower that has all that it says asks.
    fn follow(&mut self, node_id: i32, follow_id: u32, offset: i64, last_epoch: i32) -> Vec<Effect> {
        let broker_epoch = 10 + i64::from(node_id);
        let leader_epoch = self.replica.leads().unwrap_or(0);
        let asked = FollowRequest { node_id, broker_epoch, follow_id, leader_epoch, offset, last_epoch, log_start: 0 };
        let epoch_end = EpochEnd { epoch: last_epoch, end: offset };
        self.tell(Event::Follow { asked, epoch_end, log_start: 0, start_epoch: -1 })
    }

    fn ack(&mut self, node_id: i32, follow_id: u32, durable_end: i64) -> Vec<Effect> {
        self.ack_from(node_id, follow_id, (0, durable_end))
    }

    /// The same of a log that does not start with its first record.
    fn ack_from(&mut self, node_id: i32, follow_id: u32, (log_start, durable_end): (i64, i64)) -> Vec<Effect> {
        let broker_epoch = 10 + i64::from(node_id);
        self.tell(Event::Ack { node_id, broker_epoch, follow_id, durable_end, log_start })
    }

    /// Leads with 2 and 3 in sync, who follow and have nothing of its four records, which are durable here.
    fn leading(min_insync: usize) -> Case {
        let mut case = Case::new((0, 0, -1), 0);
        let effects = case.assign((1, 5, 7), &[1, 2, 3], min_insync);
        assert_eq!(effects, [Effect::BecomeLeader { epoch: 5, epoch_start: 0 }]);
        for node_id in [2, 3] {
            assert_eq!(case.follow(node_id, 1, 0, -1), [Effect::FollowOk { node_id, follow_id: 1, offset: 0 }]);
            assert_eq!(case.ack(node_id, 1, 0), []);
        }
        let sends = [Effect::Send { node_id: 2 }, Effect::Send { node_id: 3 }];
        assert_eq!(case.tell(Event::Appended { log_end: 4 }), sends);
        assert_eq!(case.tell(Event::Durable { end: 4 }), [Effect::DurableEnd(4)]);
        case
    }
}

fn proposal(partition_epoch: i32, isr: &[(i32, i64)]) -> Effect {
    Effect::Propose(AlterPartition { leader_epoch: 5, partition_epoch, isr: isr.to_vec() })
}

fn altered(partition_epoch: i32, isr: &[i32]) -> Event {
    let result = Ok(AlteredPartition { leader: 1, leader_epoch: 5, isr: isr.to_vec(), partition_epoch });
    Event::Altered { partition_epoch: partition_epoch - 1, result }
}

fn out_of_range(follow_id: u32, log_start: i64, log_end: i64) -> Event {
    Event::Refused { follow_id, error: ErrorCode::OffsetOutOfRange, log_start, log_end }
}

#[test]
fn min_insync_is_never_more_than_there_are_replicas() {
    let table = [(1, 3, 1), (2, 3, 2), (2, 1, 1), (5, 3, 3), (0, 3, 1), (-1, 1, 1), (2, 0, 1)];
    for (configured, replicas, effective) in table {
        assert_eq!(effective_min_insync(configured, replicas), effective);
    }
}

#[test]
fn what_is_durable_everywhere_in_sync_is_committed() {
    let mut case = Case::leading(2);
    assert_eq!((case.replica.acknowledged(5, 4), case.replica.may_append(true)), (None, Ok(())));
    assert_eq!(case.ack(2, 1, 4), []);
    assert_eq!(case.ack(3, 1, 3), [Effect::HighWatermark(3)]);
    assert_eq!(case.replica.acknowledged(5, 3), Some(Ok(())));
    assert_eq!(case.replica.acknowledged(5, 4), None);
    assert_eq!(case.replica.acknowledged(4, 3), Some(Err(ErrorCode::NotLeaderOrFollower)));
    // Not of this question, not of this process, not of this log.
    assert_eq!(case.ack(3, 2, 4), []);
    let other_process = Event::Ack { node_id: 3, broker_epoch: 12, follow_id: 1, durable_end: 4, log_start: 0 };
    assert_eq!(case.tell(other_process), []);
    assert_eq!(case.ack(3, 1, 5), []);
    assert_eq!(case.ack(3, 1, 4), [Effect::HighWatermark(4)]);
}

#[test]
fn too_few_in_sync_commit_nothing_and_are_said_to_be() {
    let mut case = Case::leading(2);
    case.ack(2, 1, 2);
    assert_eq!(case.ack(3, 1, 2), [Effect::HighWatermark(2)]);
    assert_eq!(case.assign((1, 5, 8), &[1], 2), []);
    assert_eq!(case.replica.high_watermark(), 2);
    assert_eq!(case.replica.may_append(true), Err(ErrorCode::NotEnoughReplicas));
    assert_eq!(case.replica.may_append(false), Ok(()));
    assert_eq!(case.replica.acknowledged(5, 2), Some(Err(ErrorCode::NotEnoughReplicasAfterAppend)));
    assert_eq!(case.replica.acknowledged(5, 4), None);
}

#[test]
fn who_lags_leaves_and_joins_again_when_it_was_caught_up_twice() {
    let mut case = Case::leading(1);
    case.ack(2, 1, 4);
    assert_eq!(case.replica.next_deadline(), Some(LAG_MAX));
    case.now = LAG_MAX;
    assert_eq!(case.tell(Event::Tick), [proposal(7, &[(1, 11), (2, 12)])]);
    assert_eq!(case.replica.next_deadline(), None);
    assert_eq!(case.tell(altered(8, &[1, 2])), [Effect::HighWatermark(4)]);
    case.now = ms(2_000);
    assert_eq!(case.ack(3, 1, 4), [], "once");
    assert_eq!(case.replica.next_deadline(), Some(ms(2_000) + CAUGHT_UP_TWICE));
    case.now = ms(2_000) + CAUGHT_UP_TWICE;
    assert_eq!(case.tell(Event::Tick), [proposal(8, &[(1, 11), (2, 12), (3, 13)])]);
    // Who may have become a member counts already.
    case.tell(Event::Appended { log_end: 5 });
    case.tell(Event::Durable { end: 5 });
    assert_eq!(case.ack(2, 1, 5), []);
    assert_eq!(case.tell(altered(9, &[1, 2, 3])), []);
    assert_eq!(case.ack(3, 1, 5), [Effect::HighWatermark(5)]);
    // Nobody lags, nobody is waited for.
    assert_eq!(case.replica.next_deadline(), None);
}

#[test]
fn who_would_have_to_leave_at_once_does_not_join() {
    let mut case = Case::leading(2);
    assert_eq!(case.assign((1, 5, 8), &[1], 2), []);
    // It has everything below the high watermark, which stands still as too few are in sync, and lacks what it has lacked
    // for too long.
    case.now = LAG_MAX;
    assert_eq!(case.ack(3, 1, 1), []);
    case.now = ms(3_000);
    assert_eq!(case.ack(3, 1, 2), []);
    assert_eq!(case.replica.next_deadline(), None);
    assert_eq!(case.ack(3, 1, 4), [], "once");
    case.now = ms(3_000) + CAUGHT_UP_TWICE;
    assert_eq!(case.replica.next_deadline(), Some(case.now));
    assert_eq!(case.tell(Event::Tick), [proposal(8, &[(1, 11), (3, 13)])]);
    // It may lag after all, before it joins.
    let mut case = Case::leading(2);
    assert_eq!(case.assign((1, 5, 8), &[1], 2), []);
    case.now = LAG_MAX - ms(1);
    case.ack(3, 1, 1);
    case.now = LAG_MAX - ms(1) + CAUGHT_UP_TWICE;
    assert_eq!(case.tell(Event::Tick), []);
    assert_eq!(case.replica.next_deadline(), None);
}

#[test]
fn who_is_always_a_little_behind_does_not_lag() {
    let mut case = Case::leading(1);
    for round in 1..=20 {
        case.now = ms(round * 300);
        case.tell(Event::Appended { log_end: 4 + round as i64 });
        case.tell(Event::Durable { end: 4 + round as i64 });
        for node_id in [2, 3] {
            let effects = case.ack(node_id, 1, 3 + round as i64);
            assert!(!effects.iter().any(|effect| matches!(effect, Effect::Propose(_))), "{effects:?}");
        }
        assert!(case.replica.next_deadline().is_none_or(|at| at > case.now));
    }
}

#[test]
fn who_has_no_space_leaves_at_once() {
    let mut case = Case::leading(1);
    assert_eq!(case.tell(Event::Stalled { node_id: 2, why: StallReason::SlowDisk }), []);
    let full = Event::Stalled { node_id: 2, why: StallReason::NoSpace };
    assert_eq!(case.tell(full), [proposal(7, &[(1, 11), (3, 13)])]);
}

#[test]
fn what_was_refused_is_taken_back_before_it_counts_no_more() {
    let mut case = Case::leading(1);
    case.assign((1, 5, 8), &[1, 2], 1);
    case.ack(2, 1, 4);
    assert_eq!(case.replica.high_watermark(), 4);
    assert_eq!(case.ack(3, 1, 4), [], "it has left, and is caught up once");
    case.now = CAUGHT_UP_TWICE;
    assert_eq!(case.tell(Event::Tick), [proposal(8, &[(1, 11), (2, 12), (3, 13)])]);
    let refused = Event::Altered { partition_epoch: 8, result: Err(ErrorCode::IneligibleReplica) };
    assert_eq!(case.tell(refused.clone()), [proposal(8, &[(1, 11), (2, 12)])]);
    case.tell(Event::Appended { log_end: 5 });
    case.tell(Event::Durable { end: 5 });
    assert_eq!(case.ack(2, 1, 5), [], "it may have come true all the same");
    assert_eq!(case.tell(altered(9, &[1, 2])), [Effect::HighWatermark(5)]);
}

#[test]
fn answers_to_a_proposal_are_sorted_as_kafka_sorts_them() {
    let asked = proposal(7, &[(1, 11), (3, 13)]);
    let full = Event::Stalled { node_id: 2, why: StallReason::NoSpace };
    for (error, waits, again) in [
        (ErrorCode::FencedLeaderEpoch, None, None),
        (ErrorCode::InvalidUpdateVersion, None, None),
        (ErrorCode::UnknownTopicId, None, None),
        (ErrorCode::NotController, Some(RETRY), Some(asked.clone())),
        (ErrorCode::RequestTimedOut, Some(RETRY), Some(asked.clone())),
    ] {
        let mut case = Case::leading(1);
        assert_eq!(case.tell(full.clone()), std::slice::from_ref(&asked));
        assert_eq!(case.tell(Event::Altered { partition_epoch: 7, result: Err(error) }), []);
        assert_eq!(case.replica.next_deadline(), waits, "{error:?}");
        case.now = RETRY;
        assert_eq!(case.tell(Event::Tick), again.into_iter().collect::<Vec<_>>(), "{error:?}");
    }
}

#[test]
fn who_does_not_follow_this_log_is_told_why() {
    let mut case = Case::leading(1);
    let ask = |case: &mut Case, offset, last_epoch, log_start, epoch_end, (leader_log_start, start_epoch)| {
        let asked = FollowRequest {
            node_id: 2,
            broker_epoch: 12,
            follow_id: 9,
            leader_epoch: 5,
            offset,
            last_epoch,
            log_start,
        };
        let (epoch, end) = epoch_end;
        let epoch_end = EpochEnd { epoch, end };
        case.tell(Event::Follow { asked, epoch_end, log_start: leader_log_start, start_epoch })
    };
    let diverged = |epoch, end| [Effect::Diverged { node_id: 2, follow_id: 9, epoch_end: EpochEnd { epoch, end } }];
    let refused = [Effect::Refused { node_id: 2, follow_id: 9, error: ErrorCode::OffsetOutOfRange }];
    assert_eq!(ask(&mut case, 4, 4, 0, (3, 2), (0, 3)), diverged(3, 2), "an epoch that is not known here");
    assert_eq!(ask(&mut case, 6, 5, 0, (5, 4), (0, 3)), diverged(5, 4), "more than this log has");
    assert_eq!(ask(&mut case, 6, 7, 0, (-1, -1), (2, 5)), diverged(-1, 2), "nothing in common");
    assert_eq!(ask(&mut case, 1, 4, 0, (4, 4), (2, 5)), refused, "it was deleted");
    assert_eq!(ask(&mut case, 2, 4, 0, (4, 4), (2, 5)), refused, "nothing tells what is before");
    assert_eq!(ask(&mut case, 2, 4, 0, (4, 4), (2, -1)), refused, "nothing at all is told");
    assert_eq!(ask(&mut case, 6, -1, 6, (-1, -1), (0, 3)), refused, "an empty log beyond");
    let follows = Effect::FollowOk { node_id: 2, follow_id: 9, offset: 2 };
    assert_eq!(ask(&mut case, 2, -1, 2, (-1, -1), (2, 5))[0], follows, "an empty log where this one starts");
    assert_eq!(ask(&mut case, 2, 4, 0, (4, 4), (2, 4))[0], follows, "it ends in the epoch that goes on here");
}

#[test]
fn a_follower_cuts_at_the_common_epoch_and_asks_again() {
    let mut case = Case::new((10, 8, 3), 4);
    let effects = case.assign((2, 5, 7), &[1, 2], 1);
    let ask =
        |follow_id, offset, last_epoch| Effect::Follow { leader: 2, follow_id, leader_epoch: 5, offset, last_epoch };
    assert_eq!(effects, [Effect::BecomeFollower { leader: 2, epoch: 5 }, ask(1, 10, 3)]);
    let answer = |follow_id, own| Event::Diverged {
        follow_id,
        epoch_end: EpochEnd { epoch: 2, end: 7 },
        own: EpochEnd { epoch: 2, end: own },
    };
    assert_eq!(case.tell(answer(2, 6)), [], "to another question");
    let cut = Effect::Restart { keep_below: 6, begin_at: 6, skipped_epoch: None };
    assert_eq!(case.tell(answer(1, 6)), [cut]);
    assert_eq!(case.tell(answer(1, 5)), [], "twice");
    // What is assigned meanwhile waits.
    assert_eq!(case.assign((1, 6, 8), &[1, 2], 1), []);
    let leads = Effect::BecomeLeader { epoch: 6, epoch_start: 6 };
    assert_eq!(case.tell(Event::Restarted { log_start: 0, log_end: 6, last_epoch: 2 }), [leads]);
}

#[test]
fn a_follower_says_what_is_durable_and_takes_what_continues_its_log() {
    let mut case = Case::new((4, 4, 3), 1);
    case.assign((2, 5, 7), &[1, 2], 1);
    let ok = Event::FollowOk { follow_id: 1, handle: 77, high_watermark: 9, log_start: 2 };
    let ack = |durable_end, log_start| Effect::Ack { leader: 2, follow_id: 1, durable_end, log_start };
    assert_eq!(case.tell(ok), [ack(4, 0), Effect::HighWatermark(4), Effect::LogStart(2)]);
    assert_eq!(case.tell(Event::LogStart { start: 2 }), [ack(4, 2)]);
    assert!(case.replica.accepts(77, 4) && !case.replica.accepts(76, 4) && !case.replica.accepts(77, 5));
    assert_eq!(case.tell(Event::Accepted { log_end: 7, last_epoch: 5, high_watermark: 9 }), []);
    assert_eq!(case.tell(Event::Durable { end: 6 }), [ack(6, 2), Effect::HighWatermark(6)]);
    let skip = Event::Skip { handle: 77, to: 9, epoch: 5, high_watermark: 9 };
    let restart = Effect::Restart { keep_below: 7, begin_at: 9, skipped_epoch: Some(5) };
    assert_eq!(case.tell(skip), [restart]);
    assert!(!case.replica.accepts(77, 7));
    let again = Effect::Follow { leader: 2, follow_id: 2, leader_epoch: 5, offset: 9, last_epoch: 5 };
    assert_eq!(case.tell(Event::Restarted { log_start: 2, log_end: 9, last_epoch: 5 }), [again]);
    let gone = out_of_range(2, 12, 20);
    let anew = Effect::Restart { keep_below: 0, begin_at: 12, skipped_epoch: None };
    assert_eq!(case.tell(gone), [anew]);
}

#[test]
fn a_process_does_nothing_by_an_image_from_before_its_registration() {
    let mut case = Case::new((4, 4, 5), 0);
    case.replica.own.broker_epoch = 21;
    assert_eq!(case.assign((1, 5, 7), &[1, 2], 1), []);
    assert_eq!(case.replica.leads(), None);
    assert_eq!(case.replica.may_append(false), Err(ErrorCode::NotLeaderOrFollower));
}

#[test]
fn a_leader_that_is_followed_by_another_says_so_and_follows() {
    let mut case = Case::leading(1);
    let effects = case.assign((2, 6, 8), &[1, 2, 3], 1);
    let ask = Effect::Follow { leader: 2, follow_id: 1, leader_epoch: 6, offset: 4, last_epoch: 5 };
    let expected = [Effect::LoseLeadership { epoch: 5 }, Effect::BecomeFollower { leader: 2, epoch: 6 }, ask];
    assert_eq!(effects, expected);
    assert_eq!(case.ack(3, 1, 4), []);
    let refused = Effect::Refused { node_id: 3, follow_id: 2, error: ErrorCode::FencedLeaderEpoch };
    assert_eq!(case.follow(3, 2, 4, 5), [refused]);
    // An older image changes nothing.
    assert_eq!(case.assign((1, 5, 7), &[1, 2, 3], 1), []);
}

#[test]
fn replicas_that_are_added_while_it_leads_may_follow_and_join() {
    let mut case = Case::new((0, 0, -1), 0);
    let brokers = (1..=3).map(|node_id| Registered { node_id, epoch: 10 + i64::from(node_id), is_usable: true });
    let partition =
        Partition { replicas: [1, 2].into(), isr: [1, 2].into(), leader: 1, leader_epoch: 5, partition_epoch: 7 };
    let narrow = Assignment { partition, brokers: brokers.take(2).collect(), min_insync: 1 };
    case.tell(Event::Assigned(narrow.clone()));
    let refused = Effect::Refused { node_id: 3, follow_id: 1, error: ErrorCode::NotLeaderOrFollower };
    assert_eq!(case.follow(3, 1, 0, -1), [refused]);
    case.assign((1, 5, 8), &[1, 2], 1);
    assert_eq!(case.follow(3, 2, 0, -1), [Effect::FollowOk { node_id: 3, follow_id: 2, offset: 0 }]);
    assert_eq!(case.ack(3, 2, 0), [proposal(8, &[(1, 11), (2, -1), (3, 13)])]);
    // What is known already changes nothing.
    assert_eq!(case.tell(Event::Assigned(narrow)), []);
    assert_eq!(case.tell(altered(9, &[1, 2, 3])), []);
}

#[test]
fn a_leader_shows_who_is_in_sync_and_how_far_followers_are() {
    let mut case = Case::leading(2);
    let mut expected = Led { replicas: 3, in_sync: 3, min_insync: 2, lag: 8, lag_largest: 4 };
    assert_eq!(case.replica.led(), Some(expected));
    case.ack(2, 1, 4);
    (expected.lag, expected.lag_largest) = (4, 4);
    assert_eq!(case.replica.led(), Some(expected));
    case.ack(3, 1, 1);
    (expected.lag, expected.lag_largest) = (3, 3);
    assert_eq!(case.replica.led(), Some(expected));
    // Who asks anew has not said what it has.
    case.follow(3, 2, 1, 5);
    (expected.lag, expected.lag_largest) = (0, 0);
    assert_eq!(case.replica.led(), Some(expected));
    case.assign((1, 5, 8), &[1, 2], 2);
    expected.in_sync = 2;
    assert_eq!((case.replica.led(), case.replica.behind_committed()), (Some(expected), Some(0)));
    case.assign((2, 6, 9), &[1, 2], 2);
    assert_eq!(case.replica.led(), None);
}

#[test]
fn a_follower_knows_how_much_it_lacks_of_what_is_committed() {
    let mut case = Case::new((4, 4, 5), 4);
    assert_eq!(case.replica.behind_committed(), None);
    case.assign((2, 6, 9), &[1, 2], 1);
    assert_eq!(case.replica.behind_committed(), None, "it has asked");
    case.tell(Event::FollowOk { follow_id: 1, handle: 1, high_watermark: 9, log_start: 0 });
    assert_eq!(case.replica.behind_committed(), Some(5));
    case.tell(Event::Accepted { log_end: 8, last_epoch: 6, high_watermark: 9 });
    assert_eq!(case.replica.behind_committed(), Some(1));
    case.tell(Event::Accepted { log_end: 12, last_epoch: 6, high_watermark: 9 });
    assert_eq!(case.replica.behind_committed(), Some(0));
    case.tell(Event::StreamClosed { node_id: 2 });
    assert_eq!(case.replica.behind_committed(), None);
}

#[test]
fn a_new_leader_does_not_know_what_is_committed_before_what_it_began_with_is() {
    let mut case = Case::new((9, 9, 4), 3);
    assert!(!case.replica.knows_committed_end(), "nobody leads");
    case.assign((1, 5, 7), &[1, 2], 1);
    assert!(!case.replica.knows_committed_end());
    case.follow(2, 1, 9, 4);
    assert_eq!(case.ack(2, 1, 8), [Effect::HighWatermark(8)]);
    assert!(!case.replica.knows_committed_end());
    assert_eq!(case.ack(2, 1, 9), [Effect::HighWatermark(9)]);
    assert!(case.replica.knows_committed_end());
    case.tell(Event::Appended { log_end: 12 });
    assert!(case.replica.knows_committed_end());
}

#[test]
fn a_skip_of_an_epoch_that_cannot_be_is_passed_over_and_a_full_disk_asked_seldom() {
    let mut case = Case::new((4, 4, 5), 2);
    case.assign((2, 5, 7), &[1, 2, 3], 1);
    case.tell(Event::FollowOk { follow_id: 1, handle: 77, high_watermark: 4, log_start: 0 });
    assert_eq!(case.tell(Event::Skip { handle: 77, to: 9, epoch: 6, high_watermark: 9 }), []);
    let full = Event::Refused { follow_id: 1, error: ErrorCode::KafkaStorageError, log_start: -1, log_end: -1 };
    assert_eq!(case.tell(full), []);
    assert_eq!(case.replica.next_deadline(), Some(STORAGE_RETRY));
}

#[test]
fn records_stay_deleted_when_all_in_sync_have_deleted_them() {
    let mut case = Case::leading(1);
    assert_eq!(case.replica.low_watermark(), Some(0));
    case.ack(2, 1, 4);
    case.ack(3, 1, 4);
    assert_eq!(case.tell(Event::LogStart { start: 3 }), []);
    assert_eq!(case.ack_from(2, 1, (4, 4)), [], "by its own retention");
    assert_eq!(case.ack_from(3, 1, (2, 4)), [Effect::LowWatermark(2)]);
    assert_eq!(case.ack_from(3, 1, (3, 4)), [Effect::LowWatermark(3)]);
    assert_eq!(case.replica.low_watermark(), Some(3));
    // Who asks anew has not said it again. What was said stays.
    case.follow(3, 2, 4, 5);
    assert_eq!((case.tell(Event::LogStart { start: 4 }), case.replica.low_watermark()), (vec![], Some(3)));
    // Who has left is not waited for.
    assert_eq!(case.assign((1, 5, 8), &[1, 2], 1), [Effect::LowWatermark(4)]);
    case.assign((2, 6, 9), &[1, 2], 1);
    assert_eq!(case.replica.low_watermark(), None);
}

#[test]
fn who_is_alone_has_deleted_at_once() {
    let mut case = Case::leading(1);
    case.assign((1, 5, 8), &[1], 1);
    assert_eq!(case.tell(Event::LogStart { start: 3 }), [Effect::LowWatermark(3)]);
}

#[test]
fn who_has_not_deleted_what_was_promised_does_not_join() {
    let mut case = Case::leading(1);
    case.assign((1, 5, 8), &[1, 2], 1);
    case.ack(2, 1, 4);
    assert_eq!(case.tell(Event::LogStart { start: 3 }), []);
    // Nobody was promised anything yet: it joins, and counts from then on.
    let mut other = Case { replica: case.replica.clone(), now: case.now };
    assert_eq!(other.ack(3, 1, 4), [], "once");
    other.now = CAUGHT_UP_TWICE;
    assert_eq!(other.tell(Event::Tick), [proposal(8, &[(1, 11), (2, 12), (3, 13)])]);
    assert_eq!(other.ack_from(2, 1, (3, 4)), []);
    assert_eq!(other.ack_from(3, 1, (3, 4)), [Effect::LowWatermark(3)]);

    assert_eq!(case.ack_from(2, 1, (3, 4)), [Effect::LowWatermark(3)]);
    case.ack_from(3, 1, (2, 4));
    assert_eq!(case.replica.next_deadline(), None);
    case.ack_from(3, 1, (3, 4));
    assert_eq!(case.replica.next_deadline(), Some(CAUGHT_UP_TWICE));
}

/// The leader before it may have promised as much as this one has deleted when it begins.
#[test]
fn who_has_not_deleted_what_a_new_leader_had_does_not_join() {
    let mut case = Case::new((4, 4, 4), 4);
    case.tell(Event::LogStart { start: 3 });
    let leads = Effect::BecomeLeader { epoch: 5, epoch_start: 4 };
    assert_eq!(case.assign((1, 5, 7), &[1], 1), [leads, Effect::LowWatermark(3)]);
    case.follow(2, 1, 4, 4);
    assert_eq!(case.ack_from(2, 1, (2, 4)), []);
    case.tell(Event::LogStart { start: 4 });
    assert_eq!(case.ack_from(2, 1, (3, 4)), [], "more was promised since");
    assert_eq!(case.ack_from(2, 1, (4, 4)), [proposal(7, &[(1, 11), (2, 12)])]);
}

#[test]
fn a_follower_deletes_what_it_has_heard_of_when_that_is_committed_and_says_so_when_it_is_durable() {
    let mut case = Case::new((4, 4, 3), 1);
    case.assign((2, 5, 7), &[1, 2], 1);
    let ack = |durable_end, log_start| Effect::Ack { leader: 2, follow_id: 1, durable_end, log_start };
    let ok = Event::FollowOk { follow_id: 1, handle: 77, high_watermark: 2, log_start: 0 };
    assert_eq!(case.tell(ok), [ack(4, 0), Effect::HighWatermark(2)]);
    let marks = |high_watermark, log_start| Event::Marks { handle: 77, high_watermark, log_start };
    assert_eq!(case.tell(marks(6, 6)), [Effect::HighWatermark(4), Effect::LogStart(4)]);
    assert_eq!(case.tell(Event::LogStart { start: 4 }), [ack(4, 4)]);
    // The rest comes with the records.
    assert_eq!(case.tell(Event::Accepted { log_end: 8, last_epoch: 5, high_watermark: 6 }), []);
    assert_eq!(case.tell(Event::Durable { end: 8 }), [ack(8, 4), Effect::HighWatermark(6), Effect::LogStart(6)]);
    assert_eq!(case.tell(Event::LogStart { start: 6 }), [ack(8, 6)]);
    assert_eq!(case.tell(Event::LogStart { start: 6 }), [], "it is known");
    assert_eq!(case.tell(marks(6, 5)), [], "it does not go back");
}

/// The leader's log starts within a batch, which begins earlier.
#[test]
fn a_follower_that_begins_anew_loses_only_what_the_leader_does_not_have() {
    let reset = |log_start, log_end| {
        let mut case = Case::new((100, 100, 3), 100);
        case.assign((2, 5, 7), &[1, 2], 1);
        (case.tell(out_of_range(1, log_start, log_end)), case.replica.high_watermark())
    };
    let anew = |begin_at| Effect::Restart { keep_below: 0, begin_at, skipped_epoch: None };
    assert_eq!(reset(90, 110), (vec![anew(90)], 90));
    assert_eq!(reset(120, 130), (vec![anew(120)], 100));
    let lost = |from| Effect::Lost { from, to: 100 };
    assert_eq!(reset(80, 95), (vec![lost(95), anew(80)], 80), "an unclean election");
    assert_eq!(reset(80, -1), (vec![lost(80), anew(80)], 80), "nobody says what it has");
}
