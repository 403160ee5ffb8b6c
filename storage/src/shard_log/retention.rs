//! Retention, and what is given up: segments, files, producers that are silent, memory of the tails. Bounded steps.

use std::collections::VecDeque;
use std::time::Duration;

use super::operations::Purpose;
use super::{LogId, Ops, ShardLog};
use crate::Now;
use crate::disk::{DiskOp, FilePath};
use crate::segment::{Segment, index_path};

/// How long after it is known that nothing needs what recovery left over, or has set aside, it is removed.
const LEFTOVER_DELAY: Duration = Duration::from_secs(1);

/// Files and directories being removed at once: few, for others wait for the same threads.
const REMOVALS_MAX: usize = 4;

/// Blocks that the tails did not need for so long are freed.
pub(super) const POOL_INTERVAL: Duration = Duration::from_secs(10);

/// Partitions that one turn examines for retention and expired producers.
const SWEEP_PARTITIONS_MAX: usize = 64;

/// How long a turn that examines some waits for the next, when nothing else happens.
const SWEEP_INTERVAL: Duration = Duration::from_millis(1);

/// A file or directory that is to be removed.
#[derive(Debug)]
struct Removal {
    path: FilePath,
    /// Of a log that is there.
    log: Option<LogId>,
}

/// Files and directories that are to be removed.
#[derive(Debug, Default)]
pub(super) struct Removals {
    /// Files, and when. All delays of a broker are nearly the same, so the queue stays in order well enough.
    files: VecDeque<(Duration, Removal)>,
    /// Files that others of their name wait for.
    hastened: VecDeque<Removal>,
    /// Directories of partitions that are gone.
    directories: VecDeque<FilePath>,
    /// Removals under way.
    under_way: usize,
}

impl Removals {
    /// What recovery has left over.
    pub fn of_leftovers(leftovers: Vec<FilePath>) -> Removals {
        let files = leftovers.into_iter().map(|path| (LEFTOVER_DELAY, Removal { path, log: None })).collect();
        Removals { files, ..Removals::default() }
    }

    /// Something that recovery has found and nothing needs any more.
    pub fn add_leftover(&mut self, now: Duration, path: FilePath) {
        self.files.push_back((now + LEFTOVER_DELAY, Removal { path, log: None }));
    }

    /// A file of a log that nobody needs from this time on.
    fn add_file(&mut self, at: Duration, log: LogId, path: FilePath) {
        self.files.push_back((at, Removal { path, log: Some(log) }));
    }

    /// A file that is removed at once: only a deliberate bug does so.
    pub fn add_file_before_all(&mut self, now: Duration, path: FilePath) {
        self.files.push_front((now, Removal { path, log: None }));
    }

    /// What is to be removed of a log is removed now.
    pub fn hasten(&mut self, log: LogId) {
        let is_of_log = |(_, removal): &(Duration, Removal)| removal.log == Some(log);
        let (of_log, others) = std::mem::take(&mut self.files).into_iter().partition(is_of_log);
        self.files = others;
        let of_log: VecDeque<(Duration, Removal)> = of_log;
        self.hastened.extend(of_log.into_iter().map(|(_, removal)| removal));
    }

    /// The directory of a partition that is gone.
    pub fn add_directory(&mut self, path: FilePath) {
        self.directories.push_back(path);
    }

    /// Whether directories wait to be removed.
    pub fn has_directories(&self) -> bool {
        !self.directories.is_empty()
    }

    /// Whether files wait to be removed.
    fn has_files(&self) -> bool {
        !self.files.is_empty() || !self.hastened.is_empty()
    }

    /// What is to be removed now, if there is anything and not too much is under way.
    fn begin_next(&mut self, now: Duration) -> Option<Removal> {
        if self.under_way >= REMOVALS_MAX {
            return None;
        }
        let is_due = self.files.front().is_some_and(|(at, _)| *at <= now);
        let removal = match self.hastened.pop_front() {
            Some(hastened) => hastened,
            None if is_due => self.files.pop_front()?.1,
            None => Removal { path: self.directories.pop_front()?, log: None },
        };
        self.under_way += 1;
        Some(removal)
    }

    /// A removal has ended.
    pub fn ended(&mut self) {
        assert!(self.under_way > 0, "a removal ends that did not begin");
        self.under_way -= 1;
    }

    /// When the next file is due. What is due but has no place among those under way goes on when one of them is done.
    pub fn next_deadline(&self) -> Option<Duration> {
        let first = self.files.front().map(|&(at, _)| at);
        let at = if self.hastened.is_empty() { first } else { Some(Duration::ZERO) };
        at.filter(|_| self.under_way < REMOVALS_MAX)
    }
}

impl ShardLog {
    /// The fourth part of [`ShardLog::end_turn`]: retention, removals, and the tail's memory. Returns whether there was
    /// anything to do.
    pub fn advance_retention(&mut self, now: Now, ops: &mut Ops) -> bool {
        let is_full = self.logs.tail_bytes() > self.options.tail_memory_bytes_max;
        let is_due = is_full || now.elapsed >= self.sweep_at || self.removals.has_files();
        if now.elapsed >= self.sweep_at {
            self.sweep(now);
        }
        while let Some(Removal { path, log }) = self.removals.begin_next(now.elapsed) {
            self.operations.submit(Purpose::Remove { log }, DiskOp::Remove { path }, ops);
        }
        self.evict();
        if now.elapsed >= self.pool_at {
            self.pool.give_up_idle();
            self.journal.give_up_idle();
            self.checkpoints.give_up_idle();
            self.pool_at = now.elapsed + POOL_INTERVAL;
        }
        is_due
    }

    /// A bounded step of retention and producer expiry.
    fn sweep(&mut self, now: Now) {
        let end = (self.sweep_cursor + SWEEP_PARTITIONS_MAX).min(self.logs.places());
        let steady_ms = self.steady_ms(now);
        for index in self.sweep_cursor..end {
            let log = LogId(index as u32);
            let Some(partition) = self.logs.find_mut(log).filter(|partition| !partition.removing) else { continue };
            let producers = partition.producers.len();
            partition.producers.expire(steady_ms, self.options.producer_expiration_ms);
            let expired = producers - partition.producers.len();
            let start = match partition.restarting {
                Some(_) => partition.log_start(),
                None => partition.retention_start(now.unix_ms),
            };
            let moves = start > partition.log_start();
            self.logs.forget_producers(expired);
            if moves {
                self.delete_records(log, start);
            }
        }
        self.sweep_cursor = end;
        self.sweep_at = now.elapsed + SWEEP_INTERVAL;
        if end == self.logs.places() {
            self.sweep_cursor = 0;
            self.sweep_at = now.elapsed + self.options.retention_check_interval;
        }
    }

    /// Gives up a partition's segments that lie wholly below the log start.
    pub(super) fn drop_segments_below_start(&mut self, log: LogId) {
        if !self.logs.get(log).has_segments_below_start() {
            return;
        }
        self.encode_log(log);
        let partition = self.logs.get_mut(log);
        let dropped = partition.drop_segments_below_start();
        let first = partition.segments()[0].base_offset;
        let freed = partition.tail.drop_before(first, &mut self.pool);
        self.logs.shrink_tails(freed);
        self.stats.segments_removed += dropped.len() as u64;
        self.remove_segments(log, dropped);
    }

    /// Has the files of segments that a partition does not have any more removed, when nobody reads them any more.
    pub(super) fn remove_segments(&mut self, log: LogId, segments: Vec<Segment>) {
        let partition = self.logs.get_mut(log);
        let delay = Duration::from_millis(partition.config.file_delete_delay_ms.max(0) as u64);
        // Due times are relative to the last time heard of.
        let at = self.clock + delay;
        for segment in segments {
            let index = index_path(&partition.directory, segment.base_offset, segment.version);
            for path in [index, segment.path] {
                partition.doomed.push(path.clone());
                self.removals.add_file(at, log, path);
            }
        }
    }

    /// Drops memory of the tails that is in segments' files, until the rest is within its bound.
    fn evict(&mut self) {
        while self.logs.tail_bytes() > self.options.tail_memory_bytes_max {
            let Some(log) = self.logs.next_evictable() else { break };
            if let Some(capacity) = self.logs.get_mut(log).evict_front(&mut self.pool) {
                self.logs.shrink_tails(capacity);
            }
        }
    }
}
