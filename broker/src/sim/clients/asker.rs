//! Asks for offsets: the first, the last, the first at or after a time, that of the largest timestamp.

use bytes::Bytes;
use millstream_storage::random::Random;

use super::{Finding, Knowledge, Known, Outgoing, Reaction, Role, Target, requests};
use crate::sim::schedule::EPOCH_MS;

/// What it asked last.
#[derive(Debug)]
enum Asked {
    Earliest { partition: usize, promised: i64 },
    Latest { partition: usize, end: i64 },
    Time { partition: usize, query: Option<i64>, until: i64 },
}

#[derive(Debug, Default)]
pub struct Asker {
    asked: Option<Asked>,
}

impl Role for Asker {
    fn pause_us(&self, random: &mut Random) -> u64 {
        random.between(5_000, 50_000)
    }

    fn target(&self) -> Target {
        Target::SomeLeader
    }

    fn is_impatient(&self) -> bool {
        true
    }

    fn next(&mut self, random: &mut Random, knowledge: &mut Knowledge) -> Option<Outgoing> {
        let partition = knowledge.any_here(random);
        let Known { end, promised_start, .. } = knowledge.partitions[partition];
        let time = EPOCH_MS - random.below(600_000) as i64;
        let (timestamp, asked) = match random.below(4) {
            0 => (-1, Asked::Latest { partition, end }),
            1 => (requests::EARLIEST, Asked::Earliest { partition, promised: promised_start }),
            2 => (-3, Asked::Time { partition, query: None, until: end }),
            _ => (time, Asked::Time { partition, query: Some(time), until: end }),
        };
        self.asked = Some(asked);
        Some(Outgoing::Answered(requests::list_offsets(partition, timestamp)))
    }

    fn answered(&mut self, body: Bytes, knowledge: &Knowledge, reaction: &mut Reaction) -> Result<(), String> {
        match self.asked.take().expect("it asked") {
            Asked::Earliest { partition, promised } => {
                let found = requests::listed(body, partition)?;
                reaction.doubts = found.is_none();
                let starts = |(log_start, _)| Finding::Starts { partition, log_start, promised };
                reaction.findings.extend(found.map(starts));
            }
            Asked::Latest { partition, end: known } => {
                let found = requests::listed(body, partition)?;
                reaction.doubts = found.is_none();
                let ends = |(log_end, _)| Finding::Ends { partition, log_end, known };
                reaction.findings.extend(found.map(ends));
            }
            Asked::Time { partition, query, until } => {
                // Looking for the largest time may pass over batches by what their headers say, unchecked.
                if let Some(found) = requests::listed(body, partition)?
                    && !knowledge.has_retention
                    && !(knowledge.has_damage && query.is_none())
                {
                    let found = Some(found).filter(|found| found.0 >= 0);
                    reaction.findings.push(Finding::Time { partition, query, until, found });
                }
            }
        }
        Ok(())
    }
}
