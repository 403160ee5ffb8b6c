//! What must hold of the data: `docs/2026-11-28-replica.md` numbers it. Nothing here asks a replica what it believes.

use std::collections::{BTreeMap, BTreeSet};

use super::log::{Log, Record};

/// What was seen of the partition from outside.
#[derive(Default)]
pub(super) struct Checks {
    /// What was below a high watermark anywhere, by offset; nothing where a record was compacted away before.
    committed: Vec<Option<Record>>,
    compacted: BTreeSet<i64>,
    /// The values of records, by offset and epoch.
    values: BTreeMap<(i64, i32), u64>,
    /// Leaders have deleted what is below.
    pub deleted_to: i64,
    /// A leader has said that what is below stays deleted.
    stays_deleted_to: i64,
    pub acknowledged: u64,
}

impl Checks {
    /// The highest high watermark that was ever seen.
    pub fn committed_end(&self) -> i64 {
        self.committed.len() as i64
    }

    /// D5: a leader has appended a record.
    pub fn appended(&mut self, record: Record) -> Result<(), String> {
        match self.values.insert((record.offset, record.epoch), record.value) {
            Some(other) => Err(format!("D5: {record:?} is {other}, too")),
            None => Ok(()),
        }
    }

    pub fn compacted(&mut self, offset: i64) {
        self.compacted.insert(offset);
    }

    /// A leader says that what lies below stays deleted.
    pub fn stays_deleted(&mut self, to: i64) {
        self.stays_deleted_to = self.stays_deleted_to.max(to);
    }

    /// D10: who is in sync, and may lead, has deleted what is to stay so.
    pub fn is_deleted(&self, log: &Log) -> Result<(), String> {
        match log.start < self.stays_deleted_to {
            true => Err(format!("D10: a log starts at {}, and was to start at {}", log.start, self.stays_deleted_to)),
            false => Ok(()),
        }
    }

    fn is_same(&self, offset: i64, log: &Log) -> Result<(), String> {
        let (Some(Some(known)), found) = (self.committed.get(offset as usize), log.at(offset)) else { return Ok(()) };
        match found {
            Some(found) if found == known => Ok(()),
            None if self.compacted.contains(&offset) => Ok(()),
            _ => Err(format!("{known:?} was committed, and now there is {found:?}")),
        }
    }

    /// D2: a high watermark has moved in this log, and consumers read what is below.
    pub fn committed(&mut self, from: i64, to: i64, log: &Log) -> Result<(), String> {
        for offset in from.max(log.start)..to {
            self.is_same(offset, log).map_err(|why| format!("D2: {why}"))?;
            let found = log.at(offset);
            if found.is_none() && !self.compacted.contains(&offset) {
                return Err(format!("D2: nothing is at {offset}, which is committed"));
            }
            if offset >= self.committed_end() {
                // What a log has deleted before anybody has seen it is nothing that can change.
                self.committed.resize(offset as usize, None);
                self.committed.push(found.copied());
            }
        }
        Ok(())
    }

    /// D1: who is elected has everything that is committed.
    pub fn elected(&self, log: &Log) -> Result<(), String> {
        if log.end < self.committed_end() {
            return Err(format!("D1: a leader has {} to {}, not to {}", log.start, log.end, self.committed_end()));
        }
        self.is_deleted(log)?;
        // A log may start later where nothing was left before.
        let from = log.start.min(self.deleted_to);
        (from..self.committed_end()).try_for_each(|at| self.is_same(at, log).map_err(|why| format!("D1: {why}")))
    }

    /// D3: what is committed is durable where enough have it.
    pub fn is_at(&self, holders: usize, min_insync: usize) -> Result<(), String> {
        match holders < min_insync {
            true => Err(format!("D3: {holders} have what is committed, to {}, not {min_insync}", self.committed_end())),
            false => Ok(()),
        }
    }

    /// D3: a producer is told that its record is committed.
    pub fn acknowledged(&mut self, offset: i64, value: u64) -> Result<(), String> {
        self.acknowledged += 1;
        match self.committed.get(offset as usize) {
            Some(Some(record)) if record.value == value => Ok(()),
            other => Err(format!("D3: {value} is acknowledged at {offset}, where {other:?} is committed")),
        }
    }
}
