//! What must hold whatever happens, one checker for each property. They see only what clients see.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::record::{Found, RecordId};

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
    /// The broker promised that the log starts here or later.
    Promised(i64),
    /// Everything was read from the log's start to its end, after a restart or at the end.
    Whole { log_start: i64, log_end: i64, records: &'a [Found] },
    /// The broker found this record (offset and timestamp), or none, when asked for the first at or after a time, or for
    /// the one with the largest timestamp, among the records of a range of offsets.
    Time { query: Option<i64>, range: std::ops::Range<i64>, found: Option<(i64, i64)> },
}

/// Every acknowledged record is there, at its offset.
#[derive(Clone, Default)]
struct NothingAcknowledgedIsLost {
    acknowledged: BTreeMap<i64, RecordId>,
}

impl NothingAcknowledgedIsLost {
    fn see(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Acknowledged(records) => {
                for record in *records {
                    if let Some(other) = self.acknowledged.insert(record.offset, record.id)
                        && other != record.id
                    {
                        return Err(format!(
                            "offset {} was acknowledged for {other:?} and for {:?}",
                            record.offset, record.id
                        ));
                    }
                }
            }
            Observation::Whole { log_start, records, .. } => {
                let there: BTreeMap<i64, RecordId> = records.iter().map(|record| (record.offset, record.id)).collect();
                for (offset, id) in self.acknowledged.range(log_start..) {
                    match there.get(offset) {
                        Some(found) if found == id => {}
                        Some(found) => return Err(format!("offset {offset}: acknowledged {id:?}, found {found:?}")),
                        None => return Err(format!("offset {offset}: acknowledged {id:?} is lost")),
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Compaction keeps the last value of every key, and brings no older one back.
#[derive(Clone, Default)]
struct LastValuesStay {
    /// What may lie at an offset: a crash gives some offsets to others.
    appended: BTreeMap<i64, HashSet<RecordId>>,
    /// What is known to lie there, or to have lain.
    known: BTreeMap<i64, RecordId>,
}

impl LastValuesStay {
    fn see(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Appended(records) => {
                for record in *records {
                    self.appended.entry(record.offset).or_default().insert(record.id);
                }
            }
            Observation::Acknowledged(records) | Observation::Read { records, .. } => self.learn(records),
            Observation::Whole { log_start, log_end, records } => {
                self.learn(records);
                self.appended.retain(|offset, _| offset < log_end);
                return self.judge(*log_start, records);
            }
            _ => {}
        }
        Ok(())
    }

    fn learn(&mut self, records: &[Found]) {
        self.known.extend(records.iter().map(|record| (record.offset, record.id)));
    }

    fn judge(&self, log_start: i64, records: &[Found]) -> Result<(), String> {
        let last = |records: &mut dyn Iterator<Item = (i64, RecordId)>| -> HashMap<u8, (i64, RecordId)> {
            records.map(|(offset, id)| (id.key(), (offset, id))).collect()
        };
        let found = last(&mut records.iter().map(|record| (record.offset, record.id)));
        let known = last(&mut self.known.range(log_start..).map(|(offset, id)| (*offset, *id)));
        for (key, (offset, id)) in known {
            let later = self.appended.range(offset + 1..).flat_map(|(_, ids)| ids);
            if later.into_iter().any(|later| later.key() == key) {
                // That one may have taken its place, and is perhaps not known to.
                continue;
            }
            match found.get(&key) {
                Some((last, _)) if *last < offset => {
                    return Err(format!(
                        "key {key}: the last record is {id:?} at offset {offset}, found one at {last}"
                    ));
                }
                None if !id.is_tombstone() => return Err(format!("key {key}: its last value, {id:?}, is lost")),
                _ => {}
            }
        }
        Ok(())
    }
}

/// What a consumer has seen never changes and never vanishes.
#[derive(Clone, Default)]
struct NothingSeenChanges {
    seen: BTreeMap<i64, RecordId>,
}

impl NothingSeenChanges {
    fn see(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        let (Observation::Read { records, .. } | Observation::Whole { records, .. }) = observation else {
            return Ok(());
        };
        for record in *records {
            if let Some(before) = self.seen.insert(record.offset, record.id)
                && before != record.id
            {
                return Err(format!("offset {}: seen as {before:?}, now {:?}", record.offset, record.id));
            }
        }
        if let Observation::Whole { log_end, .. } = observation
            && let Some((last, id)) = self.seen.last_key_value()
            && last >= log_end
        {
            return Err(format!("offset {last}: {id:?} was seen, but the log ends at {log_end}"));
        }
        Ok(())
    }
}

/// A record of an idempotent producer lies at one offset only.
#[derive(Clone, Default)]
struct NoDuplicates {
    offsets: HashMap<RecordId, i64>,
}

impl NoDuplicates {
    fn see(&mut self, idempotent: &HashSet<u32>, observation: &Observation<'_>) -> Result<(), String> {
        let (Observation::Acknowledged(records)
        | Observation::Read { records, .. }
        | Observation::Whole { records, .. }) = observation
        else {
            return Ok(());
        };
        for record in records.iter().filter(|record| idempotent.contains(&record.id.client)) {
            if let Some(before) = self.offsets.insert(record.id, record.offset)
                && before != record.offset
            {
                return Err(format!("{:?} lies at offset {before} and at {}", record.id, record.offset));
            }
        }
        Ok(())
    }
}

/// One producer's records lie in the order in which it wrote them.
#[derive(Clone, Default)]
struct InOrder;

impl InOrder {
    fn see(&mut self, idempotent: &HashSet<u32>, has_gaps: bool, observation: &Observation<'_>) -> Result<(), String> {
        let Observation::Whole { records, .. } = observation else { return Ok(()) };
        let mut last: HashMap<u32, Found> = HashMap::new();
        for record in records.iter().filter(|record| idempotent.contains(&record.id.client)) {
            if let Some(before) = last.insert(record.id.client, *record)
                && (before.id.number >= record.id.number || !has_gaps && before.id.number + 1 != record.id.number)
            {
                return Err(format!("{before:?} and {record:?} do not follow each other"));
            }
        }
        Ok(())
    }
}

/// Offsets ascend, without gaps but for those that compaction leaves.
#[derive(Clone, Default)]
struct Dense;

impl Dense {
    fn see(&mut self, has_gaps: bool, observation: &Observation<'_>) -> Result<(), String> {
        let (from, to, records) = match observation {
            Observation::Read { offset, records } => (*offset, offset + records.len() as i64, *records),
            Observation::Whole { log_start, log_end, records } => (*log_start, *log_end, *records),
            _ => return Ok(()),
        };
        if has_gaps {
            let least = std::iter::once(from - 1).chain(records.iter().map(|record| record.offset));
            return match least.zip(records.iter()).find(|(before, record)| record.offset <= *before) {
                Some((before, record)) => Err(format!("offset {} behind {before}", record.offset)),
                None => Ok(()),
            };
        }
        if let Some((expected, found)) =
            (from..).zip(records.iter()).find(|(expected, found)| *expected != found.offset)
        {
            return Err(format!("offset {} where {expected} should be", found.offset));
        }
        if from + records.len() as i64 != to {
            return Err(format!("{} records between offsets {from} and {to}", records.len()));
        }
        Ok(())
    }
}

/// The log's start never goes back, and no record before it is returned.
#[derive(Clone, Default)]
struct LogStart {
    log_start: i64,
}

impl LogStart {
    fn see(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        if let Observation::Promised(log_start) = observation {
            self.log_start = self.log_start.max(*log_start);
        }
        let (Observation::LogStart(log_start) | Observation::Whole { log_start, .. }) = observation else {
            return Ok(());
        };
        if *log_start < self.log_start {
            return Err(format!("the log start went from {} back to {log_start}", self.log_start));
        }
        self.log_start = *log_start;
        Ok(())
    }
}

/// A lookup by time finds the first record at or after it, as far as the records are known.
#[derive(Clone, Default)]
struct Times {
    seen: BTreeMap<i64, RecordId>,
}

impl Times {
    fn see(&mut self, has_gaps: bool, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Acknowledged(records)
            | Observation::Read { records, .. }
            | Observation::Whole { records, .. } => {
                self.seen.extend(records.iter().map(|record| (record.offset, record.id)));
            }
            Observation::Time { query, range, found } => {
                let mut missed =
                    self.seen.range(range.start..range.end.max(range.start)).filter(|(offset, id)| {
                        match (query, found) {
                            (Some(timestamp), Some((found, _))) => id.timestamp() >= *timestamp && *offset < found,
                            (Some(timestamp), None) => id.timestamp() >= *timestamp,
                            (None, Some((_, largest))) => id.timestamp() > *largest,
                            (None, None) => true,
                        }
                    });
                if let Some((offset, id)) = missed.next().filter(|_| !has_gaps) {
                    return Err(format!(
                        "asked for time {query:?}, found {found:?}, but offset {offset} has {}",
                        id.timestamp()
                    ));
                }
                if let Some((offset, time)) = found
                    && (query.is_some_and(|timestamp| *time < timestamp)
                        || self.seen.get(offset).is_some_and(|id| id.timestamp() != *time))
                {
                    return Err(format!("asked for time {query:?}, found offset {offset} with time {time}"));
                }
            }
            Observation::Appended(_) | Observation::LogStart(_) | Observation::Promised(_) => {}
        }
        Ok(())
    }
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
    pub fn see(&mut self, idempotent: &HashSet<u32>, observation: &Observation<'_>) -> Result<(), String> {
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
        self.lost.acknowledged.len() + self.last_values.known.len()
    }

    /// Records seen by consumers so far.
    pub fn seen(&self) -> usize {
        self.changes.seen.len()
    }

    /// One past the last offset that was acknowledged or seen: the log reaches at least as far.
    pub fn known_end(&self) -> i64 {
        self.times.seen.last_key_value().map_or(0, |(offset, _)| offset + 1)
    }

    /// The log starts here or later.
    pub fn promised_start(&self) -> i64 {
        self.log_start.log_start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(offset: i64, client: u32, number: u32) -> Found {
        Found { offset, id: RecordId { client, number } }
    }

    fn seen(observations: &[Observation<'_>]) -> Result<(), String> {
        let mut checkers = Checkers::default();
        observations.iter().try_for_each(|observation| checkers.see(&HashSet::from([1]), observation))
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
