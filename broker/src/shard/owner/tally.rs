//! How the partitions led here are replicated, in numbers: kept as replicas change, so that a scrape costs no more with many
//! partitions than with few. Only for who is furthest behind a scrape looks at partitions: those that lag, or have since the
//! one before.

use std::collections::BTreeSet;

use millstream_replication::Replica;
use millstream_replication::replica::Led;
use millstream_storage::shard_log::LogId;

use super::partition::Partitions;
use crate::metrics::Sample;

/// What of a partition is in the sums.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// None: it is not led here.
    led: Option<Led>,
    /// It is in [`Tally::lagging`].
    is_listed: bool,
}

/// The sums over what is led here.
#[derive(Debug, Default)]
pub struct Tally {
    led: u64,
    under_replicated: u64,
    under_min_insync: u64,
    at_min_insync: u64,
    lag: u64,
    /// All partitions with followers that lag, and others that had some.
    lagging: BTreeSet<LogId>,
    expansions: u64,
    shrinks: u64,
    proposals_failed: u64,
}

impl Tally {
    /// Something has happened to a replica, or it is gone.
    pub fn count(&mut self, log: LogId, counted: &mut Counted, replica: Option<&Replica>) {
        let led = replica.and_then(Replica::led);
        if counted.led == led {
            return;
        }
        if let Some(before) = counted.led {
            self.add(&before, |sum, value| sum - value);
        }
        if let Some(now) = &led {
            self.add(now, |sum, value| sum + value);
            if now.lag > 0 && !counted.is_listed {
                counted.is_listed = true;
                self.lagging.insert(log);
            }
        }
        if let (Some(before), Some(now)) = (counted.led, led) {
            self.expansions += u64::from(now.in_sync > before.in_sync);
            self.shrinks += u64::from(now.in_sync < before.in_sync);
        }
        counted.led = led;
    }

    /// A proposal has come to nothing, or nobody could be asked.
    pub fn proposal_failed(&mut self) {
        self.proposals_failed += 1;
    }

    fn add(&mut self, led: &Led, apply: impl Fn(u64, u64) -> u64) {
        for (sum, value) in [
            (&mut self.led, 1),
            (&mut self.under_replicated, u64::from(led.in_sync < led.replicas)),
            (&mut self.under_min_insync, u64::from(led.in_sync < led.min_insync)),
            (&mut self.at_min_insync, u64::from(led.in_sync == led.min_insync)),
            (&mut self.lag, led.lag),
        ] {
            *sum = apply(*sum, value);
        }
    }

    /// What the follower lacks that lacks most. Forgets who lags no more.
    fn lag_largest(&mut self, partitions: &mut Partitions) -> u64 {
        let mut largest = 0;
        self.lagging.retain(|log| {
            let Some(partition) = partitions.get_mut(*log) else { return false };
            let lag = partition.counted.led.map_or(0, |led| led.lag_largest);
            largest = largest.max(lag);
            partition.counted.is_listed = lag > 0;
            lag > 0
        });
        largest
    }

    /// What is counted, for a scrape. `partitions` are those that were counted.
    pub fn samples(&mut self, partitions: &mut Partitions, samples: &mut Vec<Sample>) {
        let lag_largest = self.lag_largest(partitions);
        let mut gauge = |name, help, value| samples.push(Sample::gauge(name, help, value));
        gauge("millstream_partitions_led", "Partitions led. Kafka: LeaderCount.", self.led);
        let help = "Partitions led of which replicas are not in sync. Kafka: UnderReplicatedPartitions.";
        gauge("millstream_partitions_under_replicated", help, self.under_replicated);
        let help = "Partitions led with fewer replicas in sync than min.insync.replicas asks for: they refuse acks=all. \
                    Kafka: UnderMinIsrPartitionCount.";
        gauge("millstream_partitions_under_min_isr", help, self.under_min_insync);
        let help = "Partitions led with just as many replicas in sync as min.insync.replicas asks for. Kafka: \
                    AtMinIsrPartitionCount.";
        gauge("millstream_partitions_at_min_isr", help, self.at_min_insync);
        let help = "Records that followers of partitions led here do not have durably yet, over all of them.";
        gauge("millstream_replica_lag_offsets", help, self.lag);
        let help = "Those that the follower lacks which lacks most. Kafka: MaxLag, there of the follower's side.";
        gauge("millstream_replica_lag_offsets_largest", help, lag_largest);
        let mut counter = |name, help, value| samples.push(Sample::counter(name, help, value));
        let help = "In-sync sets of partitions led that have grown. Kafka: IsrExpandsPerSec.";
        counter("millstream_in_sync_expansions_total", help, self.expansions);
        let help = "In-sync sets of partitions led that have shrunk. Kafka: IsrShrinksPerSec.";
        counter("millstream_in_sync_shrinks_total", help, self.shrinks);
        let help =
            "Proposals to change an in-sync set that were refused or not decided. Kafka: FailedIsrUpdatesPerSec.";
        counter("millstream_in_sync_proposals_failed_total", help, self.proposals_failed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millstream_replication::Partition as State;
    use millstream_replication::replica::{Assignment, Event, Log, Registered};
    use millstream_storage::{PartitionKey, TopicId};

    use super::*;

    /// Partitions whose replicas are told what happens, and counted.
    struct Case {
        tally: Tally,
        partitions: Partitions,
    }

    impl Case {
        fn new(count: u32) -> Case {
            let mut partitions = Partitions::default();
            for log in 0..count {
                let key = PartitionKey { topic_id: TopicId([1; 16]), partition: log as i32 };
                let log_of = Log { start: 0, end: 0, durable_end: 0, last_epoch: -1 };
                let replica = Replica::new(1, 11, Duration::from_secs(1), log_of, 0);
                partitions.open(LogId(log), key, 0).replica = Some(replica);
            }
            Case { tally: Tally::default(), partitions }
        }

        fn tell(&mut self, log: u32, event: Event) {
            let partition = self.partitions.get_mut(LogId(log)).expect("it is open");
            let replica = partition.replica.as_mut().expect("it has one");
            replica.handle(Duration::ZERO, event, &mut Vec::new());
            self.tally.count(LogId(log), &mut partition.counted, partition.replica.as_ref());
        }

        fn assign(&mut self, log: u32, leader: i32, epochs: (i32, i32), isr: &[i32], min_insync: usize) {
            let (leader_epoch, partition_epoch) = epochs;
            let partition =
                State { replicas: [1, 2, 3].into(), isr: isr.into(), leader, leader_epoch, partition_epoch };
            let registered = |node_id| Registered { node_id, epoch: 10 + i64::from(node_id), is_usable: true };
            let brokers = (1..=3).map(registered).collect();
            self.tell(log, Event::Assigned(Assignment { partition, brokers, min_insync }));
        }

        fn follow(&mut self, log: u32, node_id: i32) {
            let (broker_epoch, follow_id, leader_epoch) = (10 + i64::from(node_id), 1, 0);
            let asked = millstream_replication::replica::FollowRequest {
                node_id,
                broker_epoch,
                follow_id,
                leader_epoch,
                offset: 0,
                last_epoch: -1,
                log_start: 0,
            };
            let epoch_end = millstream_replication::replica::EpochEnd { epoch: -1, end: -1 };
            self.tell(log, Event::Follow { asked, epoch_end, log_start: 0, start_epoch: -1 });
            self.ack(log, node_id, 0);
        }

        fn ack(&mut self, log: u32, node_id: i32, durable_end: i64) {
            let broker_epoch = 10 + i64::from(node_id);
            self.tell(log, Event::Ack { node_id, broker_epoch, follow_id: 1, durable_end, log_start: 0 });
        }

        /// Led, under-replicated, under and at `min.insync.replicas`.
        fn counts(&self) -> [u64; 4] {
            let Tally { led, under_replicated, under_min_insync, at_min_insync, .. } = self.tally;
            [led, under_replicated, under_min_insync, at_min_insync]
        }

        /// In all, and of the one that lacks most; and how many partitions are looked at next time.
        fn lag(&mut self) -> (u64, u64, usize) {
            let largest = self.tally.lag_largest(&mut self.partitions);
            (self.tally.lag, largest, self.tally.lagging.len())
        }
    }

    #[test]
    fn sums_follow_what_replicas_become() {
        let mut case = Case::new(2);
        assert_eq!(case.counts(), [0, 0, 0, 0]);
        case.assign(0, 1, (0, 0), &[1, 2, 3], 2);
        case.assign(1, 1, (0, 0), &[1, 2], 2);
        assert_eq!(case.counts(), [2, 1, 0, 1]);
        case.assign(0, 1, (0, 1), &[1], 2);
        assert_eq!(case.counts(), [2, 2, 1, 1]);
        assert_eq!((case.tally.expansions, case.tally.shrinks), (0, 1));
        case.assign(0, 1, (0, 2), &[1, 2], 2);
        case.assign(1, 1, (0, 1), &[1, 2, 3], 2);
        assert_eq!(case.counts(), [2, 1, 0, 1]);
        assert_eq!((case.tally.expansions, case.tally.shrinks), (2, 1));
        // More are to be in sync by a configuration.
        case.assign(0, 1, (0, 2), &[1, 2], 3);
        assert_eq!(case.counts(), [2, 1, 1, 0]);
        // Another one leads: who is in sync there is not counted here.
        case.assign(0, 2, (1, 3), &[2], 3);
        case.assign(0, 2, (1, 4), &[1, 2, 3], 3);
        assert_eq!(case.counts(), [1, 0, 0, 0]);
        assert_eq!((case.tally.expansions, case.tally.shrinks), (2, 1));
        let mut gone = case.partitions.get_mut(LogId(1)).expect("it is open").counted;
        case.tally.count(LogId(1), &mut gone, None);
        assert_eq!(case.counts(), [0, 0, 0, 0]);
    }

    #[test]
    fn lag_is_what_followers_have_said_to_lack() {
        let mut case = Case::new(3);
        for log in 0..3 {
            case.assign(log, 1, (0, 0), &[1, 2, 3], 1);
            case.follow(log, 2);
        }
        assert_eq!(case.lag(), (0, 0, 0));
        case.tell(0, Event::Appended { log_end: 5 });
        case.tell(1, Event::Appended { log_end: 7 });
        assert_eq!(case.lag(), (12, 7, 2), "broker 3 has said nothing");
        case.follow(0, 3);
        assert_eq!(case.lag(), (17, 7, 2));
        case.ack(1, 2, 7);
        assert_eq!(case.lag(), (10, 5, 1));
        case.ack(0, 2, 4);
        case.ack(0, 3, 5);
        assert_eq!(case.lag(), (1, 1, 1));
        // Nothing of it is left with another leader.
        case.assign(0, 2, (1, 1), &[1, 2, 3], 1);
        assert_eq!(case.lag(), (0, 0, 0));
        case.partitions.close(LogId(1));
        assert_eq!(case.lag(), (0, 0, 0));
    }
}
