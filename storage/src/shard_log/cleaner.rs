//! The log cleaner of a shard: which partition is compacted, one at a time, when, and what follows from its steps. The
//! steps themselves are [`crate::compaction`]'s.

use std::time::Duration;

use super::operations::Purpose;
use super::{CompactionConfig, LogId, Ops, Progress, ShardLog};
use crate::Now;
use crate::bug::{Bug, is_planted};
use crate::compaction::{Compaction, Plan, Replacement, Source, Step};
use crate::disk::{DiskError, DiskOp, FilePath};
use crate::journal::Salt;
use crate::partition_log::PartitionLog;

/// Partitions that one turn examines.
const SCAN_PARTITIONS_MAX: usize = 64;
/// How long a turn that examines waits for the next, when nothing else happens.
const SCAN_INTERVAL: Duration = Duration::from_millis(1);
/// Bytes that a compaction reads and writes in a second, however little is appended: at this pace other requests hardly notice
/// it.
const PACE_BYTES_PER_SECOND: u64 = 64 << 20;
/// How many bytes it may read and write for each one that is appended to the shard meanwhile. At the default
/// `min.cleanable.dirty.ratio` what is new is read twice, and as much that is not is read and written: compaction keeps up.
const PACE_BYTES_PER_APPENDED: u64 = 6;
/// The least memory that a compaction is given.
const MAP_BYTES_MIN: usize = 64 << 10;

/// The log cleaner of a shard, by what it is doing.
#[derive(Debug)]
pub(super) enum Cleaner {
    /// Looking for the partition that needs it most: from this place on, at this time, the best so far.
    Scanning { cursor: usize, at: Duration, best: Option<(LogId, Need)> },
    /// The next step may begin at this time.
    Waiting { log: LogId, compaction: Box<Compaction>, at: Duration, begun: Begun },
    /// A step is under way since then; before it the compaction had so much memory.
    Working { since: Duration, bytes: usize, begun: Begun },
    /// A new segment is on its way into the journal.
    Committing { log: LogId, compaction: Box<Compaction>, begun: Begun },
}

/// When a compaction began, and how much had been appended to the shard by then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    at: Duration,
    appended_bytes: u64,
}

impl Begun {
    /// Bytes a second for the compaction, by what was appended since.
    fn pace(&self, now: Duration, appended_bytes: u64) -> u64 {
        let millis = now.saturating_sub(self.at).as_millis().max(1);
        let appended_per_second = u128::from(appended_bytes - self.appended_bytes) * 1000 / millis;
        let wanted = appended_per_second.saturating_mul(u128::from(PACE_BYTES_PER_APPENDED));
        u64::try_from(wanted).unwrap_or(u64::MAX).max(PACE_BYTES_PER_SECOND)
    }
}

/// How much a partition needs to be compacted; the larger, the more.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(super) struct Need {
    /// `max.compaction.lag.ms` has passed.
    is_overdue: bool,
    /// Bytes that were not compacted yet, of all that can be.
    dirty_ratio: f64,
}

impl Default for Cleaner {
    fn default() -> Cleaner {
        Cleaner::scan_at(Duration::ZERO)
    }
}

impl Cleaner {
    fn scan_at(at: Duration) -> Cleaner {
        Cleaner::Scanning { cursor: 0, at, best: None }
    }

    pub(super) fn is_working(&self) -> bool {
        matches!(self, Cleaner::Working { .. })
    }

    /// Memory of the compaction under way, without what a step takes while it works.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Cleaner::Waiting { compaction, .. } | Cleaner::Committing { compaction, .. } => compaction.memory_bytes(),
            Cleaner::Working { bytes, .. } => *bytes,
            Cleaner::Scanning { .. } => 0,
        }
    }
}

impl ShardLog {
    pub(super) fn compaction_deadline(&self) -> Option<Duration> {
        match self.cleaner {
            _ if !self.options.cleaner.is_enabled => None,
            Cleaner::Scanning { at, .. } | Cleaner::Waiting { at, .. } => Some(at),
            Cleaner::Working { .. } | Cleaner::Committing { .. } => None,
        }
    }

    /// A part of [`ShardLog::end_turn`]: looks for something to compact, or starts the next step.
    pub fn advance_compaction(&mut self, now: Now, ops: &mut Ops) -> bool {
        if self.compaction_deadline().is_none_or(|at| now.elapsed < at) {
            return false;
        }
        match std::mem::take(&mut self.cleaner) {
            Cleaner::Scanning { cursor, best, .. } => self.scan(now, cursor, best),
            Cleaner::Waiting { log, compaction, begun, .. } => {
                self.cleaner = Cleaner::Working { since: now.elapsed, bytes: compaction.memory_bytes(), begun };
                self.logs.get_mut(log).begin_operation();
                self.operations.submit(Purpose::Compact { log }, DiskOp::Compact(compaction), ops);
            }
            other => self.cleaner = other,
        }
        true
    }

    fn scan(&mut self, now: Now, cursor: usize, mut best: Option<(LogId, Need)>) {
        let end = (cursor + SCAN_PARTITIONS_MAX).min(self.logs.places());
        for index in cursor..end {
            let log = LogId(index as u32);
            let need = self.logs.find_mut(log).and_then(|partition| partition.need_of_compaction(now.unix_ms));
            if need.is_some() && need > best.map(|(_, need)| need) {
                best = need.map(|need| (log, need));
            }
        }
        if end < self.logs.places() {
            self.cleaner = Cleaner::Scanning { cursor: end, at: now.elapsed + SCAN_INTERVAL, best };
            return;
        }
        let backoff = self.options.cleaner.backoff;
        self.cleaner = Cleaner::scan_at(now.elapsed + backoff);
        // What was found may have gone since.
        let Some((log, _)) = best else { return };
        let (map_bytes_max, secret) = (self.options.cleaner.map_bytes_max.max(MAP_BYTES_MIN), self.journal.salt());
        let partition = self.logs.find_mut(log);
        if let Some(plan) = partition.and_then(|partition| partition.plan_compaction(now, map_bytes_max, secret)) {
            let compaction = Box::new(Compaction::new(plan));
            let begun = Begun { at: now.elapsed, appended_bytes: self.stats.append_bytes };
            self.cleaner = Cleaner::Waiting { log, compaction, at: now.elapsed, begun };
        }
    }

    /// A step has ended.
    pub(super) fn on_compacted(&mut self, now: Now, log: LogId, mut compaction: Box<Compaction>, step: Step) {
        let work = compaction.take_work();
        self.stats.compaction_read_bytes += work.bytes_read;
        self.stats.compaction_written_bytes += work.bytes_written;
        self.stats.compaction_removed_records += work.records_removed;
        let Cleaner::Working { since, begun, .. } = self.cleaner else { unreachable!("its step was under way") };
        let partition = self.logs.get_mut(log);
        partition.end_operation();
        if partition.removing || partition.restarting.is_some() {
            self.cleaner = Cleaner::scan_at(now.elapsed);
            if let Step::Replaced(replacement) = step {
                self.give_up_compacted(log, &replacement);
            }
            self.finish_removal(log);
            return;
        }
        match step {
            Step::Working => {
                let bytes = u128::from(work.bytes_read + work.bytes_written);
                let pace = begun.pace(now.elapsed, self.stats.append_bytes);
                let per_second = u128::from(pace.min(self.options.cleaner.bytes_per_second_max).max(1));
                let pause = Duration::from_nanos((bytes * 1_000_000_000 / per_second).min(u128::from(u64::MAX)) as u64);
                self.cleaner = Cleaner::Waiting { log, compaction, at: since + pause, begun };
            }
            Step::Replaced(replacement) => {
                if is_planted(Bug::RemoveBeforeReplaced) {
                    let replaced = partition.segments().iter().filter(|it| it.base_offset < replacement.until);
                    let paths: Vec<FilePath> = replaced.map(|segment| segment.path.clone()).collect();
                    paths.into_iter().for_each(|path| self.removals.add_file_before_all(self.clock, path));
                }
                partition.offer_replacement(replacement);
                self.logs.mark_dirty(log);
                self.cleaner = Cleaner::Committing { log, compaction, begun };
            }
            Step::Done => {
                self.stats.compactions += 1;
                self.cleaner = Cleaner::scan_at(now.elapsed);
            }
        }
    }

    /// A step has failed: nothing has changed. Without room, or when what it read has been removed meanwhile, it is tried
    /// again later.
    pub(super) fn on_compaction_failed(
        &mut self,
        now: Now,
        log: LogId,
        error: DiskError,
        progress: &mut Vec<Progress>,
    ) {
        self.cleaner = Cleaner::scan_at(now.elapsed + self.options.cleaner.backoff);
        let partition = self.logs.get_mut(log);
        partition.end_operation();
        match error {
            DiskError::Failed(why) => {
                partition.is_uncleanable = true;
                if !partition.removing {
                    progress.push(Progress::CompactionFailed { log, why });
                }
                self.stats.compactions_failed += 1;
            }
            DiskError::NoSpace => self.stats.no_space += 1,
            DiskError::NotFound => {}
        }
        self.finish_removal(log);
    }

    /// The journal says that a compacted segment takes the place of others.
    pub(super) fn replace(&mut self, log: LogId, replacement: &Replacement) {
        let partition = self.logs.get_mut(log);
        let replaced = partition.replace(replacement);
        let freed = partition.tail.drop_before(replacement.until, &mut self.pool);
        self.logs.shrink_tails(freed);
        self.remove_segments(log, replaced);
        if let Cleaner::Committing { log: of, .. } = &self.cleaner
            && *of == log
            && let Cleaner::Committing { log, compaction, begun } = std::mem::take(&mut self.cleaner)
        {
            self.cleaner = Cleaner::Waiting { log, compaction, at: self.clock, begun };
        }
    }

    /// A partition is removed or cut: what of its compaction is not under way ends.
    pub(super) fn leave_uncompacted(&mut self, log: LogId) {
        if let Cleaner::Waiting { log: of, .. } | Cleaner::Committing { log: of, .. } = &self.cleaner
            && *of == log
        {
            self.cleaner = Cleaner::scan_at(self.clock);
        }
    }
}

impl PartitionLog {
    /// Closed segments that may be compacted now: as many from the first on.
    fn cleanable_segments(&self, compaction: &CompactionConfig, now_ms: i64) -> usize {
        let closed = self.segments().iter().take(self.segments().len() - 1);
        let newest_ms = now_ms.saturating_sub(compaction.min_lag_ms.max(0));
        // What is not committed may be cut off: it must not take the place of what is.
        let is_committed =
            |index| self.segment_end_offset(index) <= self.committed() || is_planted(Bug::CompactAboveCommitted);
        closed
            .enumerate()
            .take_while(|(index, segment)| {
                let is_old = compaction.min_lag_ms <= 0 || segment.max_timestamp() <= newest_ms;
                segment.is_closed() && is_old && is_committed(*index)
            })
            .count()
    }

    /// Whether compaction pays, and how much (`LogCleanerManager.grabFilthiestCompactedLog`).
    fn need_of_compaction(&self, now_ms: i64) -> Option<Need> {
        let compaction = self.config.compaction.as_ref()?;
        if self.removing || self.restarting.is_some() || self.is_uncleanable || self.has_replacement() {
            return None;
        }
        let count = self.cleanable_segments(compaction, now_ms);
        let (mut clean, mut dirty) = (0, 0);
        let mut is_overdue = false;
        for index in 0..count {
            let segment = &self.segments()[index];
            if self.segment_end_offset(index) <= self.first_dirty() {
                clean += segment.bytes();
            } else {
                dirty += segment.bytes();
                is_overdue |= segment.first_timestamp() >= 0
                    && now_ms.saturating_sub(segment.first_timestamp()) > compaction.max_lag_ms;
            }
        }
        let dirty_ratio = dirty as f64 / (clean + dirty).max(1) as f64;
        let pays = dirty > 0 && (is_overdue || dirty_ratio > compaction.min_cleanable_dirty_ratio);
        pays.then_some(Need { is_overdue, dirty_ratio })
    }

    fn plan_compaction(&mut self, now: Now, map_bytes_max: usize, secret: Salt) -> Option<Plan> {
        self.need_of_compaction(now.unix_ms)?;
        let compaction = self.config.compaction?;
        let count = self.cleanable_segments(&compaction, now.unix_ms);
        let version = self.take_version();
        let sources = self.segments().iter().take(count).filter(|segment| segment.bytes() > 0);
        Some(Plan {
            key: self.key,
            directory: self.directory.clone(),
            sources: sources
                .map(|segment| Source {
                    base_offset: segment.base_offset,
                    version: segment.version,
                    bytes: segment.bytes(),
                })
                .collect(),
            end_offset: self.segment_end_offset(count - 1),
            first_dirty: self.first_dirty().max(self.segments()[0].base_offset),
            version,
            segment_bytes: self.config.segment_bytes,
            index_interval_bytes: self.config.index_interval_bytes,
            delete_retention_ms: compaction.delete_retention_ms,
            now_ms: now.unix_ms,
            map_bytes_max,
            secret,
        })
    }
}
