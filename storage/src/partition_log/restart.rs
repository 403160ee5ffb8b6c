//! What a restart does to a partition's log: what it keeps off meanwhile, and the cut itself. When each of it happens,
//! [`crate::shard_log::restart`] decides.

use super::{Committed, PartitionLog};
use crate::block::BlockPool;
use crate::compaction::Replacement;
use crate::epochs::LeaderEpochs;
use crate::journal::Restart;
use crate::producer::ProducerStates;
use crate::segment::Segment;
use crate::shard_log::restart::{Restarting, Stage};

impl PartitionLog {
    /// The log is to be restarted. What no commit group took of a compaction is given up; the file that it wrote is returned.
    pub fn begin_restart(&mut self, restarting: Restarting) -> Option<Replacement> {
        assert!(self.restarting.is_none(), "{}: one restart after the other", self.directory);
        assert!(!self.removing, "{}: it is there", self.directory);
        self.restarting = Some(restarting);
        self.replacement.take()
    }

    /// Whether a restart waits until nothing is under way, and nothing is.
    pub fn may_restart(&self) -> bool {
        let Some(restarting) = &self.restarting else { return false };
        let may_cut = !restarting.keeps_all(self.log_end) || self.durable_end == self.log_end;
        restarting.stage == Stage::Waiting && self.is_idle() && may_cut
    }

    /// Whether a restart keeps batches out.
    pub fn refuses_appends(&self) -> bool {
        self.restarting.as_ref().is_some_and(|restarting| !restarting.is_told)
    }

    /// Whether a restart keeps operations on its files from beginning. What is to stay may need them to become durable.
    pub fn holds_operations(&self) -> bool {
        self.restarting.is_some() && (self.is_cutting() || self.durable_end == self.log_end)
    }

    /// The restart is durable.
    pub fn restart_is_durable(&mut self) {
        self.history_durable = self.history;
    }

    /// Up to which restart they are durable.
    pub fn history_durable(&self) -> u64 {
        self.history_durable
    }

    /// Whether what was appended goes to no commit group any more: it is going to be cut, or was.
    pub fn is_cutting(&self) -> bool {
        self.restarting.as_ref().is_some_and(|it| it.stage != Stage::Waiting || !it.keeps_all(self.log_end))
    }

    /// Where the log ends if it keeps what lies below an offset: nothing that no commit group took.
    pub fn end_kept(&self, keep_below: i64) -> i64 {
        keep_below.min(self.durable_end)
    }

    /// The segment in which a log that keeps what lies below an offset ends; none if it keeps nothing.
    pub fn last_kept(&self, keep_below: i64) -> Option<&Segment> {
        let begun = self.segments.partition_point(|segment| segment.base_offset < keep_below);
        self.segments.get(begun.checked_sub(1)?).filter(|segment| keep_below > self.log_start && segment.bytes() > 0)
    }

    /// Cuts the log's end off and begins a new segment, in memory. Returns the segments that are gone, and the capacity that
    /// the tail has freed.
    pub fn restart(&mut self, restart: &Restart, pool: &mut BlockPool) -> (Vec<Segment>, usize) {
        let &Restart { history, keep_below, begin_at, position, max_timestamp, skipped_epoch } = restart;
        assert!(self.is_idle() && self.durable_end == self.gathered_end, "{}: nothing is under way", self.directory);
        assert!(restart.is_sound() && history == self.history + 1, "{}: {restart:?}", self.directory);
        assert!(keep_below <= self.durable_end, "{}: what stays is durable", self.directory);
        let keeps_any = keep_below > self.log_start;
        let begun = self.segments.partition_point(|segment| keeps_any && segment.base_offset < keep_below);
        let kept = if position == 0 { begun.saturating_sub(1) } else { begun };
        let dropped: Vec<Segment> = self.segments.drain(kept..).collect();
        if position > 0 {
            let last = self.segments.back_mut().expect("the segment was looked up that stays");
            last.cut(position, keep_below - 1, max_timestamp);
        }
        let end = self.segments.back().map(|last| (last.base_offset, last.bytes()));
        let freed = self.tail.truncate(end, pool);
        self.segments.push_back(Segment::new(&self.directory, begin_at, self.config.index_interval_bytes));
        let committed = if keeps_any { self.committed().min(keep_below) } else { begin_at };
        if keeps_any {
            self.epochs.truncate_end(keep_below);
            self.epochs.skip(skipped_epoch, keep_below);
            self.leader_epoch = self.leader_epoch.max(skipped_epoch);
            self.producers.truncate(keep_below);
            self.log_start_wanted = self.log_start_wanted.min(committed);
        } else {
            self.epochs = LeaderEpochs::default();
            self.producers = ProducerStates::default();
            (self.log_start, self.log_start_gathered, self.log_start_wanted) = (begin_at, begin_at, begin_at);
        }
        (self.log_end, self.gathered_end, self.durable_end) = (begin_at, begin_at, begin_at);
        self.ungathered_batches = 0;
        self.first_dirty = self.first_dirty.min(keep_below);
        if self.committed != Committed::Alone {
            self.committed = Committed::UpTo(committed);
        }
        self.history = history;
        self.assert_sound();
        (dropped, freed)
    }
}
