//! What a log should be that others replicate, or that replicates others: what was appended and not cut off, how far it is
//! committed, and how often it was restarted.

use std::collections::{BTreeMap, BTreeSet};

use crate::sim::record::{Found, RecordId};

/// A restart that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What lies below is to stay.
    pub keep_below: i64,
    /// Where the log is to go on.
    pub begin_at: i64,
}

/// What is known of a replica.
#[derive(Clone, Debug, Default)]
pub struct Replica {
    /// This node leads it. Else it follows a leader that is not simulated.
    pub is_led: bool,
    /// The newest leader epoch.
    pub epoch: i32,
    /// How often the log was restarted, as far as that is durable.
    pub history: u64,
    /// What lies below is committed; the log was told so, and after a start knows a lower bound of it.
    pub committed: i64,
    /// Where it was durable when it was last asked: what is committed lags behind.
    pub was_durable: i64,
    /// The log has said so, in this history.
    pub durable_end: i64,
    pub log_start: i64,
    /// Every record of this history, compacted or deleted ones among them.
    records: BTreeMap<i64, (RecordId, i32)>,
    offsets: BTreeMap<RecordId, i64>,
    /// Where batches end.
    ends: BTreeSet<i64>,
    pub restart: Option<Asked>,
}

impl Replica {
    /// Records were appended.
    pub fn appended(&mut self, records: &[Found]) -> Result<(), String> {
        for Found { offset, id } in records {
            let other = self.records.insert(*offset, (*id, self.epoch));
            if other.is_some_and(|(other, _)| other != *id) {
                return Err(format!("offset {offset} is given to {id:?}, and {other:?} is there"));
            }
            self.offsets.insert(*id, *offset);
        }
        self.ends.extend(records.last().map(|last| last.offset + 1));
        Ok(())
    }

    /// The ends of batches from `from` to `to`, and both of these.
    pub fn ends(&self, from: i64, to: i64) -> Vec<i64> {
        [from].into_iter().chain(self.ends.range(from..=to).copied()).chain([to]).collect()
    }

    /// Where a record lies, if it was appended and not cut off.
    pub fn offset_of(&self, id: RecordId) -> Option<i64> {
        self.offsets.get(&id).copied()
    }

    /// The log ends at `end`: what lay above was never durable, or is cut off.
    pub fn end_at(&mut self, end: i64) {
        self.records.split_off(&end);
        self.offsets.retain(|_, offset| *offset < end);
        self.ends.split_off(&(end + 1));
    }

    /// The restart that was asked for has happened, and the log ends here now. Returns what lies below which was kept.
    pub fn restarted(&mut self, end: i64) -> i64 {
        let Asked { keep_below, begin_at } = self.restart.take().expect("it was asked for");
        let kept = if keep_below == begin_at { end } else { keep_below };
        let kept = if keep_below <= self.log_start { 0 } else { kept };
        self.end_at(kept);
        self.log_start = if kept <= self.log_start { end } else { self.log_start };
        self.committed = if kept == 0 { end } else { self.committed.min(kept) };
        self.history += 1;
        (self.durable_end, self.was_durable) = (end, end);
        kept
    }

    /// Records that were read are those that were appended, in this history.
    pub fn check(&self, found: &[Found]) -> Result<(), String> {
        for Found { offset, id } in found {
            match self.records.get(offset) {
                Some((expected, _)) if expected == id => {}
                other => return Err(format!("offset {offset} holds {id:?}, but {other:?} was appended")),
            }
        }
        Ok(())
    }

    /// Everything was read: nothing is missing unless something was compacted away.
    pub fn check_whole(&self, (log_start, log_end): (i64, i64), found: &[Found], has_gaps: bool) -> Result<(), String> {
        self.check(found)?;
        let expected = self.records.range(log_start..log_end).count();
        if !has_gaps && expected != found.len() {
            return Err(format!("{} records of {expected} from {log_start} to {log_end}", found.len()));
        }
        Ok(())
    }

    /// The epoch of the last record of the log.
    pub fn last_epoch(&self, log_start: i64) -> Option<i32> {
        self.records.range(log_start..).next_back().map(|(_, (_, epoch))| *epoch)
    }

    /// What is to be answered about an epoch: the largest at or below of which there is a record, and where the next one
    /// begins. None where that depends on records below the log start.
    pub fn end_of_epoch(&self, epoch: i32, log_start: i64, log_end: i64) -> Option<(i32, i64)> {
        let mut records = self.records.range(log_start..).map(|(offset, (_, epoch))| (*offset, *epoch));
        let floor = self.records.range(log_start..).map(|(_, (_, of))| *of).filter(|of| *of <= epoch).max()?;
        let next = records.find(|(_, of)| *of > epoch).map(|(offset, _)| offset);
        match next {
            Some(next) => Some((floor, next)),
            None if floor == epoch => Some((epoch, log_end)),
            None => None,
        }
    }
}
