//! A log's end is cut off and it goes on elsewhere: a follower's log becomes that of its leader. One verb does all of it: a
//! truncation keeps what lies below the cut and goes on there; a reset keeps nothing; a skip keeps everything and leaves
//! offsets out.
//!
//! It is a barrier. The log takes nothing and begins no operation until nothing is under way for it; then it is cut in memory
//! and one journal entry says so; nothing of the log is in a commit group behind that entry, and nothing is written to its
//! files, before the entry is durable. So a crash finds the log as it was or as it is to be, never bytes of two histories in
//! one place. It always goes on in a new segment, for the bytes behind the cut in the old one's last block are another
//! history's.

use super::{Fatal, LogId, Ops, Progress, ShardLog};
use crate::bug::{Bug, is_planted};
use crate::checkpoint::NUMBER_MAX;
use crate::compaction::Replacement;
use crate::journal::Restart;
use crate::segment::Segment;
use crate::walk::{Boundary, Goal, Walk};

/// A restart under way.
#[derive(Debug)]
pub(crate) struct Restarting {
    /// What lies below stays, as far as it is durable.
    keep_below: i64,
    /// Where the log goes on; where it was cut, if that is where it is to be cut.
    begin_at: i64,
    /// The epoch of what is left out between the two, or -1.
    skipped_epoch: i32,
    pub stage: Stage,
    /// Segments that are gone in memory.
    dropped: Vec<Segment>,
    /// Only a deliberate bug has said so before it is true.
    pub is_told: bool,
}

/// How far a restart has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Something is under way for the log, or not durable that is to stay.
    Waiting,
    /// The batch is looked for at which the log is cut.
    Locating,
    /// It is cut in memory; the next commit group says so.
    Ready(Restart),
    /// That group is being written.
    Committing,
}

impl Restarting {
    /// Whether a log that ends here keeps all that it has.
    pub fn keeps_all(&self, log_end: i64) -> bool {
        self.keep_below >= log_end
    }
}

impl ShardLog {
    /// Cuts a log off at `keep_below` and lets it go on at `begin_at`, durably: [`Progress::Restarted`] says when. Until then
    /// nothing may be appended to it, and reads that need the disk answer that their segment is gone.
    ///
    /// * `keep_below == begin_at`: a truncation. The log ends at the last batch that ends at or below, or earlier: what was
    ///   not on its way to the disk yet is dropped as well, and to be fetched again. [`Progress::Restarted`] has the end.
    /// * `keep_below` at or below the log start: a reset. Nothing stays, and the log starts at `begin_at`, which may lie
    ///   anywhere.
    /// * `keep_below` at the log end or above: a skip. Everything stays, once it is durable, and offsets are left out. If
    ///   `skipped_epoch` says in which leader epoch they were, that epoch starts where the log ends, unless the log knows it
    ///   or has no records.
    ///
    /// What is committed is cut only after an unclean election: the producers' batches below what was committed are forgotten
    /// then as far as they are not among the last of their producer. Files of segments that are gone are removed at once when
    /// the restart is durable.
    ///
    /// # Panics
    /// If `keep_below` is negative or above `begin_at`, if `begin_at` is 2^62 or more, if an epoch is given of something else
    /// than a skip, or if a restart is under way.
    pub fn restart(&mut self, log: LogId, keep_below: i64, begin_at: i64, skipped_epoch: Option<i32>) {
        assert!(0 <= keep_below && keep_below <= begin_at && begin_at < NUMBER_MAX as i64, "{keep_below}, {begin_at}");
        self.leave_uncompacted(log);
        let partition = self.logs.get_mut(log);
        let keep_below = keep_below.min(partition.log_end());
        let is_skip = keep_below == partition.log_end() && keep_below < begin_at;
        assert!(
            skipped_epoch.is_none_or(|epoch| epoch >= 0 && is_skip),
            "an epoch of what is skipped: {skipped_epoch:?}"
        );
        let restarting = Restarting {
            keep_below,
            begin_at,
            skipped_epoch: skipped_epoch.unwrap_or(-1),
            stage: Stage::Waiting,
            dropped: Vec::new(),
            is_told: false,
        };
        if let Some(replacement) = partition.begin_restart(restarting) {
            self.give_up_compacted(log, &replacement);
        }
        self.note_restart(log);
    }

    /// Whether a log is being restarted.
    pub fn is_restarting(&self, log: LogId) -> bool {
        self.logs.get(log).restarting.is_some()
    }

    /// How often a log was restarted.
    pub fn history(&self, log: LogId) -> u64 {
        self.logs.get(log).history()
    }

    /// Something that a restart may have waited for has ended.
    pub(super) fn note_restart(&mut self, log: LogId) {
        if self.logs.find_mut(log).is_some_and(|partition| partition.may_restart()) {
            self.restarts.push(log);
        }
    }

    /// A compacted segment takes the place of nothing: its files go.
    pub(super) fn give_up_compacted(&mut self, log: LogId, replacement: &Replacement) {
        if replacement.bytes > 0 {
            let segment = self.logs.get(log).compacted_segment(replacement);
            self.remove_segments(log, vec![segment]);
        }
    }

    /// Restarts that wait for nothing any more look for the batch at which the log is cut.
    pub(super) fn advance_restarts(&mut self, ops: &mut Ops, progress: &mut Vec<Progress>) -> Result<(), Fatal> {
        for log in std::mem::take(&mut self.restarts) {
            let Some(partition) = self.logs.find_mut(log).filter(|partition| partition.may_restart()) else { continue };
            let restarting = partition.restarting.as_mut().expect("it may go on");
            restarting.stage = Stage::Locating;
            let keep_below = restarting.keep_below;
            let keep_below = partition.end_kept(keep_below);
            let Some(segment) = partition.last_kept(keep_below) else {
                self.cut(log, Boundary::between_segments(keep_below), progress)?;
                continue;
            };
            let goal = Goal::Boundary { segment: segment.base_offset, keep_below };
            let walk = Walk::new(self.next_read(), log, goal, self.logs.get(log));
            self.walk_on(walk, ops, progress)?;
        }
        Ok(())
    }

    /// The batch is found at which a log is cut. A damaged segment goes as a whole: who has the log that this one follows has
    /// its records, too. But not what is committed: this node counts as one that has it, and who leads next might be this one.
    pub(super) fn cut(&mut self, log: LogId, boundary: Boundary, progress: &mut Vec<Progress>) -> Result<(), Fatal> {
        let partition = self.logs.get(log);
        let restarting = partition.restarting.as_ref().expect("it is being cut");
        let is_promised = boundary.keep_below < partition.committed().min(restarting.keep_below);
        if let Some(why) = boundary.damage.as_ref().filter(|_| is_promised) {
            return Err(Fatal(format!(
                "{} is to be cut at offset {}, and {why}. Records from offset {} on are committed and not to be cut: \
                 start this node with an empty directory in its place, and it gets them from the others",
                partition.directory, restarting.keep_below, boundary.keep_below,
            )));
        }
        self.stats.damaged_reads += u64::from(boundary.damage.is_some());
        self.encode_log(log);
        let partition = self.logs.get_mut(log);
        let never_durable = partition.ungathered_bytes();
        let producers = partition.producers.len();
        let was_draining = partition.is_draining();
        let restarting = partition.restarting.as_ref().expect("it is being cut");
        let is_truncation = restarting.keep_below == restarting.begin_at;
        let keep_below = boundary.keep_below;
        // Where nothing of the segment stays that was searched, the one before it may stay, and as a whole.
        let (position, max_timestamp) = match partition.last_kept(keep_below) {
            None => (0, -1),
            Some(_) if boundary.position > 0 => (boundary.position, boundary.max_timestamp),
            Some(last) if boundary.segment != Some(last.base_offset) => (last.bytes(), last.max_timestamp()),
            Some(_) => (0, -1),
        };
        let begin_at = if is_truncation { keep_below } else { restarting.begin_at };
        let history = partition.history() + 1;
        let skipped_epoch = restarting.skipped_epoch;
        let restart = Restart { history, keep_below, begin_at, position, max_timestamp, skipped_epoch };
        let (dropped, freed) = partition.restart(&restart, &mut self.pool);
        let restarting = partition.restarting.as_mut().expect("as above");
        (restarting.dropped, restarting.stage) = (dropped, Stage::Ready(restart));
        if is_planted(Bug::AppendBeforeRestart) {
            restarting.is_told = true;
            progress.push(Progress::Restarted { log, end: begin_at });
        }
        let (forgotten, is_draining) = (producers - partition.producers.len(), partition.is_draining());
        let is_closed = |base| partition.segment(base).is_some_and(Segment::is_closed);
        self.loaded_indexes.forget_of(log, is_closed);
        self.logs.forget_producers(forgotten);
        self.logs.shrink_tails(freed);
        assert!(never_durable <= self.stats.pending_bytes, "what was appended is pending until it is durable");
        self.stats.pending_bytes -= never_durable;
        self.checkpoints.restarted(log, history, was_draining);
        if was_draining && !is_draining {
            self.checkpoints.drained();
        }
        self.note_synced(log);
        self.logs.mark_dirty(log);
        Ok(())
    }

    /// A restart is durable.
    pub(super) fn restart_committed(&mut self, log: LogId, progress: &mut Vec<Progress>) {
        let partition = self.logs.get_mut(log);
        let restarting = partition.restarting.take().expect("its entry was in the group");
        assert!(restarting.stage == Stage::Committing, "its entry was in the group");
        partition.restart_is_durable();
        let end = partition.log_end();
        let has_more = partition.log_start_to_gather().is_some() || partition.ungathered_batches() > 0;
        if !restarting.is_told {
            progress.push(Progress::Restarted { log, end });
        }
        self.stats.restarts += 1;
        self.stats.segments_removed += restarting.dropped.len() as u64;
        self.remove_segments(log, restarting.dropped);
        // Files of these names may be made again, and not before the old ones are gone.
        self.removals.hasten(log);
        if has_more {
            self.logs.mark_dirty(log);
        }
        self.logs.enqueue(log);
    }
}
