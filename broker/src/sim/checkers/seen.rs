//! What a consumer has seen never changes and never vanishes.
//!
//! README, "What an acknowledgement means": consumers see a record only when it is committed (it lies below the high
//! watermark), so what was read cannot vanish either.

use std::collections::BTreeMap;

use super::Observation;
use crate::sim::record::RecordId;

#[derive(Clone, Default)]
pub struct NothingSeenChanges {
    seen: BTreeMap<i64, RecordId>,
}

impl NothingSeenChanges {
    /// Records seen so far.
    pub fn count(&self) -> usize {
        self.seen.len()
    }

    pub fn see(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        if let Observation::Restarted { kept, .. } = observation {
            self.seen.split_off(kept);
        }
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
