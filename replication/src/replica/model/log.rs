//! A log without bytes: offsets, epochs, and a value for each record that says which one it is.

use millstream_storage::epochs::LeaderEpochs;
use millstream_storage::random::Random;

use crate::replica::{self, EpochEnd};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub offset: i64,
    pub epoch: i32,
    pub value: u64,
}

/// A log, as it is in memory; what is durable of it survives.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub start: i64,
    pub end: i64,
    pub durable_end: i64,
    /// Ascending, with gaps where records were compacted away.
    pub records: Vec<Record>,
    pub epochs: LeaderEpochs,
}

impl Log {
    pub fn new() -> Log {
        Log { start: 0, end: 0, durable_end: 0, records: Vec::new(), epochs: LeaderEpochs::new() }
    }

    pub fn known(&self) -> replica::Log {
        let Log { start, end, durable_end, .. } = *self;
        replica::Log { start, end, durable_end, last_epoch: self.last_epoch() }
    }

    pub fn last_epoch(&self) -> i32 {
        if self.end > self.start { self.epochs.epoch_of(self.end - 1) } else { -1 }
    }

    pub fn end_of(&self, epoch: i32) -> EpochEnd {
        let (epoch, end) = self.epochs.end_offset(epoch, self.end);
        EpochEnd { epoch, end }
    }

    pub fn at(&self, offset: i64) -> Option<&Record> {
        self.records.binary_search_by_key(&offset, |record| record.offset).ok().map(|at| &self.records[at])
    }

    pub fn append(&mut self, epoch: i32, value: u64) {
        self.epochs.assign(epoch, self.end);
        self.records.push(Record { offset: self.end, epoch, value });
        self.end += 1;
    }

    /// What belongs to one epoch, from the end of this log to `next`.
    pub fn append_replicated(&mut self, epoch: i32, next: i64, records: &[Record]) {
        self.epochs.assign(epoch, self.end);
        assert!(
            records.iter().all(|record| record.epoch == epoch && record.offset >= self.end && record.offset < next)
        );
        self.records.extend(records);
        self.end = next;
    }

    /// The restart of a log: durable when it is done. Of a truncation no more is kept than was durable.
    pub fn restart(&mut self, keep_below: i64, begin_at: i64, skipped_epoch: Option<i32>) {
        let (keep, begin) = match keep_below == begin_at {
            true => (keep_below.min(self.durable_end), begin_at.min(self.durable_end)),
            false => (keep_below, begin_at),
        };
        self.records.retain(|record| record.offset < keep);
        self.epochs.truncate_end(keep);
        if self.start >= keep {
            (self.start, self.epochs) = (begin, LeaderEpochs::new());
        }
        if let Some(epoch) = skipped_epoch {
            self.epochs.assign(epoch, keep);
        }
        (self.end, self.durable_end) = (begin, begin);
    }

    pub fn delete_below(&mut self, start: i64) {
        if start > self.start {
            self.start = start;
            self.records.retain(|record| record.offset >= start);
            self.epochs.truncate_start(start);
        }
    }

    /// Of what is not durable, anything from the front may have been written; a disk that lies has lost some of the rest, too.
    pub fn lose_power(&mut self, random: &mut Random, lies: bool) {
        let mut end = random.between(self.durable_end as u64, self.end as u64) as i64;
        if lies && random.coin() {
            end = random.between(self.start.max(self.durable_end - 4) as u64, self.durable_end as u64) as i64;
        }
        self.records.retain(|record| record.offset < end);
        self.epochs.truncate_end(end);
        (self.end, self.durable_end) = (end, end);
    }

    /// D6: epochs ascend and are those of the records.
    pub fn check(&self) -> Result<(), String> {
        let is_in_order =
            self.records.windows(2).all(|two| two[0].offset < two[1].offset && two[0].epoch <= two[1].epoch);
        let is_inside = self.records.iter().all(|record| (self.start..self.end).contains(&record.offset));
        let is_true = self.records.iter().all(|record| self.epochs.epoch_of(record.offset) == record.epoch);
        let is_durable = self.durable_end <= self.end && self.start <= self.durable_end;
        if is_in_order && is_inside && is_true && is_durable { Ok(()) } else { Err(format!("D6: {self:?}")) }
    }
}
