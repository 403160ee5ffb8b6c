//! Every acknowledged record is there, at its offset.
//!
//! README, "What an acknowledgement means": with `acks` 1 and all the answer leaves when the records are durable, so they
//! survive a killed process and a loss of power.

use std::collections::BTreeMap;

use super::Observation;
use crate::sim::record::RecordId;

#[derive(Clone, Default)]
pub struct NothingAcknowledgedIsLost {
    acknowledged: BTreeMap<i64, RecordId>,
}

impl NothingAcknowledgedIsLost {
    /// Records acknowledged so far.
    pub fn count(&self) -> usize {
        self.acknowledged.len()
    }

    pub fn see(&mut self, observation: &Observation<'_>) -> Result<(), String> {
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
            Observation::Restarted { kept, .. } => {
                self.acknowledged.split_off(kept);
            }
            _ => {}
        }
        Ok(())
    }
}
