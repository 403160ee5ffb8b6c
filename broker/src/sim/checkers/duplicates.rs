//! A record of an idempotent producer lies at one offset only, however often it was sent.
//!
//! KIP-98: the broker knows a retry by producer id, epoch and sequence; README: across restarts, too.

use std::collections::{BTreeMap, BTreeSet};

use super::Observation;
use crate::sim::record::RecordId;

#[derive(Clone, Default)]
pub struct NoDuplicates {
    offsets: BTreeMap<RecordId, i64>,
}

impl NoDuplicates {
    pub fn see(&mut self, idempotent: &BTreeSet<u32>, observation: &Observation<'_>) -> Result<(), String> {
        if let Observation::Restarted { kept, .. } = observation {
            self.offsets.retain(|_, offset| *offset < *kept);
        }
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
