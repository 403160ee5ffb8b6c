//! Offsets ascend without gaps, but for those that compaction leaves; a consumer gets what it asked for.
//!
//! Kafka's documentation, "The consumer" and "Log": a record's offset is a sequential number in its partition, and a fetch
//! returns the records from its offset on. Without transactions nothing but compaction takes offsets away.

use super::Observation;

#[derive(Clone, Default)]
pub struct Dense;

impl Dense {
    pub fn see(&mut self, has_gaps: bool, observation: &Observation<'_>) -> Result<(), String> {
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
