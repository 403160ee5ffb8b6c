//! A lookup by time finds the first record at or after it, or the one with the largest timestamp, as far as the records
//! are known.
//!
//! KIP-79: ListOffsets returns the first offset whose timestamp is at or after the one asked for. KIP-734: -3 asks for the
//! offset of the largest timestamp.

use std::collections::BTreeMap;

use super::Observation;
use crate::sim::record::RecordId;

#[derive(Clone, Default)]
pub struct Times {
    seen: BTreeMap<i64, RecordId>,
}

impl Times {
    /// One past the last offset that was acknowledged or seen.
    pub fn known_end(&self) -> i64 {
        self.seen.last_key_value().map_or(0, |(offset, _)| offset + 1)
    }

    pub fn see(&mut self, has_gaps: bool, observation: &Observation<'_>) -> Result<(), String> {
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
            Observation::Restarted { kept, .. } => {
                self.seen.split_off(kept);
            }
            Observation::Appended(_) | Observation::LogStart(_) | Observation::Promised(_) => {}
        }
        Ok(())
    }
}
