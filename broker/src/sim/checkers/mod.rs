//! What must hold whatever happens: a file for each property, which says who promises it. Those of partitions and groups see
//! only what clients see; those of controllers see what they tell their shards.

mod acknowledged;
mod answers;
mod assignments;
pub mod caught_up;
mod clean_stop;
mod committed_offsets;
mod committed_stream;
mod deleted_topics;
mod duplicates;
mod group;
mod last_values;
mod leaders;
mod log_start;
mod offsets;
mod one_controller;
mod order;
mod producer_blocks;
mod producer_ids;
mod seen;
mod times;

use std::collections::BTreeSet;

use self::acknowledged::NothingAcknowledgedIsLost;
pub use self::answers::AnswersComeInTime;
pub use self::clean_stop::CleanStopMark;
pub use self::committed_offsets::CommittedOffsetStays;
pub use self::committed_stream::OneStream;
pub use self::deleted_topics::NothingDeletedReturns;
use self::duplicates::NoDuplicates;
pub use self::group::{GroupChecker, GroupFinding};
use self::last_values::LastValuesStay;
pub use self::leaders::OneLeaderAnEpoch;
use self::log_start::LogStart;
use self::offsets::Dense;
pub use self::one_controller::OneControllerATerm;
use self::order::InOrder;
pub use self::producer_blocks::BlocksAreDisjoint;
pub use self::producer_ids::ProducerIdsAreUnique;
use self::seen::NothingSeenChanges;
use self::times::Times;
use super::record::Found;

/// Something that a client learnt about a partition.
#[derive(Clone, Debug)]
pub enum Observation<'a> {
    /// The broker took these records at these offsets; they may not survive a crash.
    Appended(&'a [Found]),
    /// The broker acknowledged these records at these offsets, durably.
    Acknowledged(&'a [Found]),
    /// A consumer asked for `offset` and got these.
    Read { offset: i64, records: &'a [Found] },
    /// The log starts here now.
    LogStart(i64),
    /// The log was cut off: records below `kept` stay, and it starts here. `is_clean`: nothing was committed above.
    Restarted { kept: i64, log_start: i64, is_clean: bool },
    /// The broker promised that the log starts here or later.
    Promised(i64),
    /// Everything was read from the log's start to its end, after a restart or at the end.
    Whole { log_start: i64, log_end: i64, records: &'a [Found] },
    /// The broker found this record (offset and timestamp), or none, when asked for the first at or after a time, or for
    /// the one with the largest timestamp, among the records of a range of offsets.
    Time { query: Option<i64>, range: std::ops::Range<i64>, found: Option<(i64, i64)> },
}

/// The checkers of one partition.
#[derive(Clone, Default)]
pub struct Checkers {
    is_compacted: bool,
    last_values: LastValuesStay,
    lost: NothingAcknowledgedIsLost,
    changes: NothingSeenChanges,
    duplicates: NoDuplicates,
    order: InOrder,
    dense: Dense,
    log_start: LogStart,
    times: Times,
}

impl Checkers {
    /// Those of a partition that is compacted.
    pub fn of_compacted() -> Checkers {
        Checkers { is_compacted: true, ..Checkers::default() }
    }

    /// Whether the partition is compacted.
    pub fn is_compacted(&self) -> bool {
        self.is_compacted
    }

    /// Shows an observation to every checker. `idempotent` are the clients that are idempotent producers.
    pub fn see(&mut self, idempotent: &BTreeSet<u32>, observation: &Observation<'_>) -> Result<(), String> {
        self.log_start.see(observation)?;
        self.dense.see(self.is_compacted, observation)?;
        if self.is_compacted {
            self.last_values.see(observation)?;
        } else {
            self.lost.see(observation)?;
        }
        self.changes.see(observation)?;
        self.duplicates.see(idempotent, observation)?;
        self.order.see(idempotent, self.is_compacted, observation)?;
        self.times.see(self.is_compacted, observation)
    }

    /// Records acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.lost.count() + self.last_values.count()
    }

    /// Records seen by consumers so far.
    pub fn seen(&self) -> usize {
        self.changes.count()
    }

    /// One past the last offset that was acknowledged or seen: the log reaches at least as far.
    pub fn known_end(&self) -> i64 {
        self.times.known_end()
    }

    /// The log starts here or later.
    pub fn promised_start(&self) -> i64 {
        self.log_start.promised()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::record::RecordId;

    fn found(offset: i64, client: u32, number: u32) -> Found {
        Found { offset, id: RecordId { client, number } }
    }

    fn seen(observations: &[Observation<'_>]) -> Result<(), String> {
        let mut checkers = Checkers::default();
        observations.iter().try_for_each(|observation| checkers.see(&BTreeSet::from([1]), observation))
    }

    fn whole(records: &[Found]) -> Observation<'_> {
        let log_start = records.first().map_or(0, |record| record.offset);
        Observation::Whole { log_start, log_end: log_start + records.len() as i64, records }
    }

    #[test]
    fn a_good_history_passes() {
        let records = [found(0, 1, 0), found(1, 2, 0), found(2, 1, 1), found(3, 2, 0)];
        seen(&[
            Observation::Acknowledged(&records[..1]),
            Observation::Read { offset: 0, records: &records[..2] },
            whole(&records),
            Observation::LogStart(2),
            whole(&records[2..]),
        ])
        .unwrap();
    }

    #[test]
    fn each_property_is_checked() {
        let records = [found(0, 1, 0), found(1, 2, 0), found(2, 1, 1)];
        let acknowledged = Observation::Acknowledged(&records);
        assert!(seen(&[acknowledged.clone(), whole(&records[..2])]).is_err(), "lost");
        let other = [found(0, 1, 0), found(1, 2, 7), found(2, 1, 1)];
        assert!(seen(&[acknowledged, whole(&other)]).is_err(), "replaced");
        assert!(seen(&[Observation::Read { offset: 0, records: &records }, whole(&other)]).is_err(), "changed");
        assert!(seen(&[Observation::Read { offset: 0, records: &records }, whole(&records[..2])]).is_err(), "vanished");
        assert!(seen(&[whole(&[found(0, 1, 0), found(1, 1, 0)])]).is_err(), "duplicate");
        assert!(seen(&[whole(&[found(0, 1, 0), found(1, 1, 2)])]).is_err(), "gap in a producer's records");
        assert!(seen(&[Observation::Read { offset: 0, records: &records[1..] }]).is_err(), "not what was asked for");
        assert!(seen(&[whole(&[found(0, 2, 0), found(2, 2, 1)])]).is_err(), "hole");
        assert!(seen(&[Observation::LogStart(2), Observation::LogStart(1)]).is_err(), "log start");
        assert!(seen(&[Observation::Promised(2), Observation::LogStart(1)]).is_err(), "a promise broken");
        let time = |found| Observation::Time { query: Some(0), range: 0..3, found };
        let largest = |found| Observation::Time { query: None, range: 0..3, found };
        assert!(seen(&[whole(&records), time(None)]).is_err(), "not found");
        assert!(seen(&[whole(&records), time(Some((1, records[1].id.timestamp())))]).is_err(), "not the first");
        seen(&[whole(&records), time(Some((0, records[0].id.timestamp())))]).unwrap();
        let mut by_time = records.map(|record| (record.id.timestamp(), record.offset));
        by_time.sort();
        assert!(seen(&[whole(&records), largest(Some((by_time[0].1, by_time[0].0)))]).is_err(), "not the largest");
        seen(&[whole(&records), largest(Some((by_time[2].1, by_time[2].0)))]).unwrap();
    }
}
