//! The records of one idempotent producer lie in the order in which it wrote them, none missing in between.
//!
//! KIP-98: a batch is refused (OUT_OF_ORDER_SEQUENCE_NUMBER) unless it follows the last one, also with up to five on their
//! way. Compaction may take records away, but never reorders them (Kafka's documentation, "Log compaction").

use std::collections::{BTreeMap, BTreeSet};

use super::Observation;
use crate::sim::record::Found;

#[derive(Clone, Default)]
pub struct InOrder;

impl InOrder {
    pub fn see(
        &mut self,
        idempotent: &BTreeSet<u32>,
        has_gaps: bool,
        observation: &Observation<'_>,
    ) -> Result<(), String> {
        let Observation::Whole { records, .. } = observation else { return Ok(()) };
        let mut last: BTreeMap<u32, Found> = BTreeMap::new();
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
