//! Compaction keeps the last value of every key, and brings no older one back.
//!
//! Kafka's documentation, "What guarantees does log compaction provide?": a consumer from the start of the log sees at least
//! the final state of all records; a record's offset never changes; a deleted key may be gone (`delete.retention.ms`).

use std::collections::{BTreeMap, BTreeSet};

use super::Observation;
use crate::sim::record::{Found, RecordId};

#[derive(Clone, Default)]
pub struct LastValuesStay {
    /// What may lie at an offset: a crash gives some offsets to others.
    appended: BTreeMap<i64, BTreeSet<RecordId>>,
    /// What is known to lie there, or to have lain.
    known: BTreeMap<i64, RecordId>,
}

impl LastValuesStay {
    /// Records acknowledged or seen so far.
    pub fn count(&self) -> usize {
        self.known.len()
    }

    pub fn see(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Appended(records) => {
                for record in *records {
                    self.appended.entry(record.offset).or_default().insert(record.id);
                }
            }
            Observation::Acknowledged(records) | Observation::Read { records, .. } => self.learn(records),
            Observation::Restarted { is_clean: false, .. } => *self = LastValuesStay::default(),
            Observation::Restarted { kept, .. } => {
                self.appended.split_off(kept);
                self.known.split_off(kept);
            }
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
        let last = |records: &mut dyn Iterator<Item = (i64, RecordId)>| -> BTreeMap<u8, (i64, RecordId)> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Records of one key, in order, none of which deletes it; and one of another key.
    fn of_one_key() -> (Vec<RecordId>, RecordId) {
        let all = (0..1_000).map(|number| RecordId { client: 1, number }).filter(|id| !id.is_tombstone());
        let (same, others): (Vec<RecordId>, Vec<RecordId>) = all.partition(|id| id.key() == 0);
        (same, others[0])
    }

    #[test]
    fn a_last_value_that_is_gone_or_older_is_noticed() {
        let (same, other) = of_one_key();
        let found = |offset, id| Found { offset, id };
        let history = [found(0, same[0]), found(1, same[1]), found(2, other)];
        let judge = |records: &[Found]| {
            let mut checker = LastValuesStay::default();
            checker.see(&Observation::Acknowledged(&history))?;
            checker.see(&Observation::Whole { log_start: 0, log_end: 3, records })
        };
        assert_eq!(judge(&history), Ok(()));
        assert_eq!(judge(&history[1..]), Ok(()), "an earlier value may go");
        assert!(judge(&history[..1]).is_err(), "an older value is back");
        assert!(judge(&[history[2]]).is_err(), "the last value is lost");
    }
}
