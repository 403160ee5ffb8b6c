//! Partitions with replicas on other nodes, which are not simulated: they are led here or elsewhere, what is durable is
//! committed a while later, and a log may be cut off at any moment.

use millstream_storage::batch::assign;
use millstream_storage::random::Random;
use millstream_storage::shard_log::{LogId, ReplicateError};

use super::node::Waiting;
use super::partition::Partition;
use super::producer::{Batch, Producer};
use super::replica::Asked;
use super::{Event, Simulation};
use crate::sim::checkers::Observation;
use crate::sim::record::RecordId;

impl Simulation {
    /// More of a partition is committed, mostly as much as was durable a while ago.
    pub(super) fn commit(&mut self, at: usize) -> Result<(), String> {
        let delay =
            if self.random.one_in(6) { self.random.between(20_000, 150_000) } else { self.random.between(500, 20_000) };
        self.schedule.after(delay, Event::Commit { partition: at });
        let partition = &mut self.partitions[at];
        let Some(replica) = partition.replica.as_mut().filter(|replica| replica.restart.is_none()) else {
            return Ok(());
        };
        let node = self.node.as_mut().expect("the node is up");
        let (shard, log, id) = node.log_of(partition.key);
        let durable_end = log.durable_end(id);
        let offset = if self.random.coin() { durable_end } else { replica.was_durable };
        replica.was_durable = durable_end;
        log.set_committed(id, offset);
        replica.committed = replica.committed.max(offset);
        self.trace.line(self.schedule.now_us(), format!("partition {at}: committed up to {offset}"));
        let waiting = node.waiting[shard].entry(id).or_default();
        let done: Vec<Waiting> = waiting.extract_if(.., |each| each.end <= offset).collect();
        done.into_iter().try_for_each(|append| self.acknowledge(append))?;
        self.ask_for_epochs(at)?;
        self.with_log(shard, |_, _, _, _| Ok(()))
    }

    /// What a follower would be told of an epoch is what was appended in it.
    fn ask_for_epochs(&mut self, at: usize) -> Result<(), String> {
        let partition = &self.partitions[at];
        let replica = partition.replica.as_ref().expect("it has replicas");
        let node = self.node.as_mut().expect("the node is up");
        let (_, log, id) = node.log_of(partition.key);
        let (log_start, log_end) = (log.log_start(id), log.log_end(id));
        // A compaction may have removed the first or last records of an epoch; the epochs stay as they were.
        if let Some(last) = replica.last_epoch(log_start).filter(|last| *last != log.last_epoch(id)) {
            return Err(format!("partition {at}: the last epoch is {last}, the log says {}", log.last_epoch(id)));
        }
        let epoch = self.random.below(replica.epoch as u64 + 1) as i32;
        let answer = log.end_offset_for_epoch(id, epoch);
        match replica.end_of_epoch(epoch, log_start, log_end) {
            Some(expected) if expected != answer => {
                Err(format!("partition {at}: epoch {epoch} ended at {expected:?}, the log says {answer:?}"))
            }
            _ => Ok(()),
        }
    }

    /// The partition is led here from now on, or elsewhere.
    pub(super) fn begin_epoch(&mut self, at: usize) -> Result<(), String> {
        let partition = &mut self.partitions[at];
        let Some(replica) = partition.replica.as_mut().filter(|replica| replica.restart.is_none()) else {
            return Ok(());
        };
        replica.epoch += 1;
        replica.is_led = self.random.coin();
        let node = self.node.as_mut().expect("the node is up");
        let (_, log, id) = node.log_of(partition.key);
        let (epoch, is_led) = (replica.epoch, replica.is_led);
        self.trace.line(self.schedule.now_us(), format!("partition {at}: epoch {epoch}, led here: {is_led}"));
        if is_led && log.lead(id, epoch) != log.log_end(id) {
            return Err(format!("partition {at}: epoch {epoch} does not start where the log ends"));
        }
        Ok(())
    }

    /// A log is cut off: mostly what is not committed, sometimes all or nothing; rarely what is.
    pub(super) fn restart_log(&mut self, at: usize) -> Result<(), String> {
        let delay = if self.random.one_in(3) { 1_000 } else { 150_000 };
        let delay = self.random.between(1_000, 2 * delay);
        self.schedule.after(delay, Event::Restart { partition: at });
        let has_idempotent = self.producers.iter().any(|producer| producer.partition == at && producer.is_idempotent);
        let partition = &mut self.partitions[at];
        let is_compacted = partition.checkers.is_compacted();
        let Some(replica) = partition.replica.as_mut().filter(|replica| replica.restart.is_none()) else {
            return Ok(());
        };
        let node = self.node.as_mut().expect("the node is up");
        let (shard, log, id) = node.log_of(partition.key);
        let (log_start, log_end) = (log.log_start(id), log.log_end(id));
        // A while after a start the log knows of less that is committed.
        let committed = replica.committed.max(log_start);
        let random = &mut self.random;
        // Within a batch that a compaction has removed nobody can tell which producers' batches are cut.
        let known = &*replica;
        let cut = |random: &mut Random, from: i64, to: i64| {
            let ends = known.ends(from, to);
            let at = if is_compacted {
                ends[random.index(ends.len())]
            } else {
                random.between(from as u64, to as u64) as i64
            };
            (at, at)
        };
        let (keep_below, begin_at) = match random.below(20) {
            0..2 => (0, log_end + random.below(50) as i64),
            2..6 if is_compacted => (log_end, log_end + random.below(50) as i64),
            // Nobody's last records are known any more who is sure that they are there.
            6 if !has_idempotent => cut(random, log_start, committed),
            7 if !has_idempotent => (0, random.below(log_end as u64 + 1) as i64),
            _ => cut(random, committed, log_end),
        };
        replica.log_start = log_start;
        replica.restart = Some(Asked { keep_below, begin_at });
        partition.is_start_moving = None;
        let skipped_epoch = (keep_below == log_end && log_end < begin_at).then(|| log.last_epoch(id).max(0));
        log.restart(id, keep_below, begin_at, skipped_epoch);
        node.waiting[shard].remove(&id);
        self.restarts += 1;
        let line = format!("partition {at}: restart, {keep_below} of {log_start} to {log_end}, go on at {begin_at}");
        self.trace.line(self.schedule.now_us(), line);
        self.producers.iter_mut().filter(|producer| producer.partition == at).for_each(Producer::restarted);
        if random.one_in(8) {
            let delay = random.below(5_000);
            self.schedule.after(delay, Event::Crash);
        }
        self.with_log(shard, |_, _, _, _| Ok(()))
    }

    /// Whether the node goes down just when a checkpoint is there: when it must not say of a log that is being cut off what will
    /// never be.
    pub(super) fn may_crash_at_checkpoint(&mut self, shard: usize) -> bool {
        let shards = self.node.as_ref().expect("the node is up").logs.len();
        let is_cut = |partition: &Partition| {
            partition.key.shard(shards) == shard
                && partition.replica.as_ref().is_some_and(|replica| replica.restart.is_some())
        };
        self.partitions.iter().any(is_cut) && self.random.coin()
    }

    /// A restart is durable.
    pub(super) fn restarted(&mut self, shard: usize, log: LogId, end: i64) -> Result<(), String> {
        let at = self.partition_of(shard, log);
        let log_start = self.node.as_ref().expect("the node is up").logs[shard].log_start(log);
        self.note_restarted(at, log_start, end)?;
        self.begin_epoch(at)
    }

    /// The restart of a partition that was asked for is known to have happened.
    pub(super) fn note_restarted(&mut self, at: usize, log_start: i64, end: i64) -> Result<(), String> {
        let partition = &mut self.partitions[at];
        let replica = partition.replica.as_mut().filter(|replica| replica.restart.is_some());
        let replica = replica.ok_or_else(|| format!("partition {at}: nobody asked for a restart"))?;
        let committed = replica.committed;
        let kept = replica.restarted(end);
        self.trace.line(self.schedule.now_us(), format!("partition {at}: restarted, {kept} kept, ends at {end}"));
        partition.position = partition.position.min(kept);
        let is_clean = kept >= committed;
        self.observe(at, &Observation::Restarted { kept, log_start, is_clean })
    }

    /// After a recovery a log is as it was or, if a restart was asked for, as it is to be.
    pub(super) fn replica_recovered(&mut self, at: usize) -> Result<(), String> {
        let partition = &mut self.partitions[at];
        let Some(replica) = &mut partition.replica else { return Ok(()) };
        let node = self.node.as_mut().expect("it was just started");
        let (_, log, id) = node.log_of(partition.key);
        let (history, log_start, log_end) = (log.history(id), log.log_start(id), log.log_end(id));
        let committed = log.committed(id);
        if history == replica.history + 1 && replica.restart.is_some() {
            self.note_restarted(at, log_start, log_end)?;
        }
        let replica = self.partitions[at].replica.as_mut().expect("as above");
        replica.restart = None;
        if history != replica.history {
            return Err(format!("partition {at}: restarted {history} times, {} were durable", replica.history));
        }
        if log_end < replica.durable_end {
            return Err(format!("partition {at}: it ends at {log_end}, and was durable to {}", replica.durable_end));
        }
        if committed > replica.committed.max(log_start) {
            return Err(format!("partition {at}: {committed} is committed, {} was", replica.committed));
        }
        replica.end_at(log_end);
        (replica.durable_end, replica.was_durable) = (log_end, replica.committed.max(log_start));
        Ok(())
    }

    /// The leader elsewhere takes a producer's batch and sends it.
    pub(super) fn replicate(&mut self, index: usize) -> Result<(), String> {
        let producer = &mut self.producers[index];
        let partition = &mut self.partitions[producer.partition];
        let is_compacted = partition.checkers.is_compacted();
        let replica = partition.replica.as_mut().expect("it has replicas");
        let node = self.node.as_mut().expect("the node is up");
        let now = self.schedule.now(self.clock, node.started_us);
        let (shard, log, id) = node.log_of(partition.key);
        // Several batches come at once.
        let mut section = Vec::new();
        let mut taken = Vec::new();
        let mut end = log.log_end(id);
        for _ in 0..self.random.between(1, 4) {
            let Some(Batch { first, count, bytes, .. }) = producer.next(is_compacted, &mut self.random) else { break };
            let known = replica.offset_of(RecordId { client: producer.client, number: first });
            let base_offset = match known.filter(|_| producer.is_idempotent) {
                Some(base_offset) => base_offset,
                None => {
                    let gap =
                        if is_compacted && self.random.one_in(10) { self.random.between(1, 20) as i64 } else { 0 };
                    let mut batch = bytes.to_vec();
                    assign(&mut batch, end + gap, replica.epoch, None);
                    section.extend_from_slice(&batch);
                    end += gap + i64::from(count);
                    end - i64::from(count)
                }
            };
            taken.push(Waiting { end: base_offset + i64::from(count), base_offset, producer: index, first, count });
            producer.was_taken();
        }
        let result = log.append_replicated(now, id, &section, i32::MAX);
        let line = format!("client {index}: {} batches from elsewhere: {result:?}", taken.len());
        self.trace.line(self.schedule.now_us(), line);
        match result {
            Ok(replicated) if replicated.end == end => {}
            Err(ReplicateError::Space) => {
                // The leader sends them again.
                producer.not_taken(taken.len());
                return self.with_log(shard, |_, _, _, _| Ok(()));
            }
            other => return Err(format!("a leader's batches up to {end} came to {other:?}")),
        }
        let committed = log.committed(id);
        for append in taken {
            let records = producer.records(append.first, append.count, append.base_offset);
            if replica.offset_of(records[0].id).is_none() {
                replica.appended(&records)?;
            }
            partition.checkers.see(&self.idempotent, &Observation::Appended(&records))?;
            if append.end > committed {
                node.waiting[shard].entry(id).or_default().push(append);
            } else {
                producer.acknowledged(append.first);
                partition.checkers.see(&self.idempotent, &Observation::Acknowledged(&records))?;
            }
        }
        self.with_log(shard, |_, _, _, _| Ok(()))
    }
}
