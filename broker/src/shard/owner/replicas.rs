//! The replicas that this shard holds: their logs, what is known of each partition, what they have decided and is not carried
//! out yet, and the disk operations that they ask for in a turn.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use millstream_replication::replica::{Assignment, Effect, Event, Log, Registered, Replica, effective_min_insync};
use millstream_replication::{ClusterImage, Partition as PartitionState};
use millstream_storage::shard_log::{LogId, Ops};
use millstream_storage::{DiskOp, ShardLog};

use super::partition::{Partitions, Until, Waiter, Watcher};
use super::reader::Readers;
use super::tally::Tally;
use crate::shard::event::DiskToken;
use crate::shard::options::ShardOptions;

/// The replicas of a shard.
pub struct Replicas {
    /// Their logs.
    pub log: ShardLog,
    /// What is known of them beside.
    pub partitions: Partitions,
    /// Reads of logs that wait for the disk.
    pub readers: Readers,
    /// What the logs want of the disk, in this turn so far.
    pub ops: Ops,
    /// What is wanted of the disk, in this turn so far, before `ops`.
    operations: Vec<(DiskToken, DiskOp)>,
    /// What replicas have decided: carried out before anything else happens to them.
    decided: VecDeque<(LogId, Effect)>,
    /// Of one replica, empty between two events.
    effects: Vec<Effect>,
    /// The replicas that want to be asked at some time: those with a follower that lags, or with a leader that has refused
    /// them for now.
    deadlines: BTreeSet<(Duration, LogId)>,
    /// How what is led here is replicated.
    pub tally: Tally,
}

impl Replicas {
    /// Recovered logs, of partitions that are not open yet.
    pub fn new(log: ShardLog) -> Replicas {
        Replicas {
            log,
            partitions: Partitions::default(),
            readers: Readers::default(),
            ops: Ops::new(),
            operations: Vec::new(),
            decided: VecDeque::new(),
            effects: Vec::new(),
            deadlines: BTreeSet::new(),
            tally: Tally::default(),
        }
    }

    /// Tells the replica of a log what has happened. What it decides is taken by [`Replicas::next_decided`].
    pub fn tell(&mut self, now: Duration, log: LogId, event: Event) {
        let Some(partition) = self.partitions.get_mut(log) else { return };
        let Some(replica) = &mut partition.replica else { return };
        let may_differ = replica.handle(now, event, &mut self.effects);
        self.decided.extend(self.effects.drain(..).map(|effect| (log, effect)));
        if !may_differ {
            return;
        }
        self.tally.count(log, &mut partition.counted, Some(replica));
        let deadline = replica.next_deadline();
        if deadline != partition.deadline {
            self.deadlines.extend(deadline.map(|at| (at, log)));
            if let Some(before) = std::mem::replace(&mut partition.deadline, deadline) {
                self.deadlines.remove(&(before, log));
            }
        }
    }

    /// What a replica has decided next.
    pub fn next_decided(&mut self) -> Option<(LogId, Effect)> {
        self.decided.pop_front()
    }

    /// An image says this of a partition. Its replica is there from the first image on in which this process is registered.
    pub fn assign(
        &mut self,
        now: Duration,
        options: &ShardOptions,
        log: LogId,
        (image, state): (&ClusterImage, &PartitionState),
        min_insync: i32,
    ) {
        let Some(partition) = self.partitions.get_mut(log) else { return };
        if partition.replica.is_none() {
            // Where it ends is known when it was cut.
            if self.log.is_restarting(log) {
                return;
            }
            let Some(epoch) = own_epoch(options, image) else { return };
            let logs = &self.log;
            let (end, durable_end) = (logs.log_end(log), logs.durable_end(log));
            let of_log = Log { start: logs.log_start(log), end, durable_end, last_epoch: logs.last_epoch(log) };
            let lag_time_max = options.replica_lag_time_max;
            partition.replica =
                Some(Replica::new(options.node_id, epoch, lag_time_max, of_log, partition.high_watermark()));
        }
        let registered = |node_id: &i32| {
            let broker = image.broker(*node_id)?;
            Some(Registered { node_id: *node_id, epoch: broker.epoch, is_usable: broker.is_usable() })
        };
        let assignment = Assignment {
            partition: state.clone(),
            brokers: state.replicas.iter().filter_map(registered).collect(),
            min_insync: effective_min_insync(min_insync, state.replicas.len()),
        };
        self.tell(now, log, Event::Assigned(assignment));
    }

    /// Whether the replica of a log is that of an earlier registration of this process: it decides nothing any more.
    pub fn is_outdated(&mut self, options: &ShardOptions, log: LogId, image: &ClusterImage) -> bool {
        let replica = self.partitions.get_mut(log).and_then(|partition| partition.replica.as_ref());
        replica.is_some_and(|replica| own_epoch(options, image).is_some_and(|epoch| epoch > replica.broker_epoch()))
    }

    /// Forgets the replica of a log: who waited for it was told so.
    pub fn drop_replica(&mut self, log: LogId) {
        let Some(partition) = self.partitions.get_mut(log) else { return };
        partition.replica = None;
        self.tally.count(log, &mut partition.counted, None);
        if let Some(at) = partition.deadline.take() {
            self.deadlines.remove(&(at, log));
        }
        self.decided.retain(|(decided, _)| *decided != log);
    }

    /// A log has taken a batch of a client or a coordinator, or one that it had already: then `bytes` is 0. Returns whether
    /// what the waiter waits for is so already; if not, it is told when it is.
    pub fn appended(
        &mut self,
        now: Duration,
        log: LogId,
        (end_offset, bytes): (i64, usize),
        until: Until,
        waiter: Waiter,
    ) -> bool {
        let durable_end = self.log.durable_end(log);
        let partition = self.partitions.get_mut(log).expect("what is appended to is here");
        let is_done = partition.appended(end_offset, bytes, durable_end, (until, waiter));
        if bytes > 0 {
            self.tell(now, log, Event::Appended { log_end: end_offset });
        }
        is_done
    }

    /// The replicas that wanted to be asked by now are.
    pub fn tick(&mut self, now: Duration) -> bool {
        let mut any = false;
        while let Some((at, log)) = self.deadlines.first().copied()
            && at <= now
        {
            any = true;
            self.tell(now, log, Event::Tick);
            let next = self.deadlines.first();
            assert_ne!(next, Some(&(at, log)), "a replica that was asked wants to be asked later");
        }
        any
    }

    /// When the next wants to be asked.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Forgets a partition for which nobody waits, and removes its log.
    pub fn close(&mut self, log: LogId) {
        self.drop_replica(log);
        self.partitions.close(log);
        self.log.remove_partition(log);
    }

    /// A log begins at another offset: takes out who wanted to know.
    pub fn log_start_moved(&mut self, log: LogId, offset: i64, woken: &mut Vec<Watcher>) {
        if let Some(partition) = self.partitions.get_mut(log) {
            partition.log_start_moved(offset, woken);
        }
    }

    /// Reads a file for groups that are being loaded.
    pub fn read_for_groups(&mut self, number: u64, read: DiskOp) {
        self.read_file(DiskToken::Groups(number), read);
    }

    /// Reads a file for a follower of what has left memory.
    pub fn read_for_follower(&mut self, number: u64, read: DiskOp) {
        self.read_file(DiskToken::Followers(number), read);
    }

    fn read_file(&mut self, token: DiskToken, read: DiskOp) {
        self.operations.extend(self.ops.drain(..).map(|(token, op)| (DiskToken::Log(token), op)));
        self.operations.push((token, read));
    }

    /// Takes what is wanted of the disk, in its order.
    pub fn take_operations(&mut self) -> impl Iterator<Item = (DiskToken, DiskOp)> + '_ {
        let of_log = self.ops.drain(..).map(|(token, op)| (DiskToken::Log(token), op));
        self.operations.drain(..).chain(of_log)
    }

    /// Nothing is wanted of the disk any more.
    pub fn drop_operations(&mut self) {
        self.operations.clear();
        self.ops.clear();
    }
}

/// The epoch of this process's registration, if that is the one that its broker has.
fn own_epoch(options: &ShardOptions, image: &ClusterImage) -> Option<i64> {
    let broker = image.broker(options.node_id)?;
    (broker.incarnation == options.incarnation).then_some(broker.epoch)
}
