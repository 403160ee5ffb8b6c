//! Reads all partitions, mostly where it is, sometimes anywhere; begins at the log start again when it has fallen behind it.

use bytes::Bytes;
use kafka_wire::FetchResponse;
use millstream_storage::random::Random;

use super::wire::Request;
use super::{Finding, Knowledge, Known, Outgoing, Reaction, Role, Target, requests, wire};
use crate::sim::record::{Unreadable, records_in};

/// What it asked last.
#[derive(Debug)]
enum Asked {
    /// Partitions and offsets; and what was known when it asked.
    Fetch { items: Vec<(usize, i64)>, known: Vec<Known> },
    /// Where a partition starts, when it was promised to start at `promised` or later.
    Earliest { partition: usize, promised: i64 },
}

#[derive(Debug)]
pub struct Consumer {
    positions: Vec<i64>,
    /// Its position was out of range: it has to ask where to go on.
    is_lost: Vec<bool>,
    asked: Option<Asked>,
}

impl Consumer {
    pub fn new(partitions: usize) -> Consumer {
        Consumer { positions: vec![0; partitions], is_lost: vec![false; partitions], asked: None }
    }

    fn fetched(
        &mut self,
        response: &FetchResponse,
        (items, known): (&[(usize, i64)], &[Known]),
        knowledge: &Knowledge,
        reaction: &mut Reaction,
    ) -> Result<(), String> {
        if response.error_code != 0 {
            return Err(format!("Fetch: error {}", response.error_code));
        }
        let mut is_first = true;
        for result in response.responses.iter().flat_map(|topic| &topic.partitions) {
            let partition = result.partition_index as usize;
            let Some((_, offset)) = items.iter().find(|item| item.0 == partition) else {
                return Err(format!("Fetch answers for partition {partition}, which was not asked for"));
            };
            match result.error_code {
                0 => {}
                wire::OFFSET_OUT_OF_RANGE => {
                    let lowest = knowledge.partitions[partition].deleted_to;
                    if !knowledge.has_retention && (lowest..=known[partition].end).contains(offset) {
                        return Err(format!("partition {partition}: offset {offset} is said to be out of range"));
                    }
                    self.is_lost[partition] = true;
                    continue;
                }
                error if wire::is_retriable(error) => {
                    reaction.doubts = true;
                    continue;
                }
                error => return Err(format!("Fetch: partition {partition}: error {error}")),
            }
            let bytes = result.records.clone().unwrap_or_default();
            let (records, next) = match records_in(&bytes, *offset) {
                // The client asks again.
                Err(Unreadable::Damaged(_)) if knowledge.has_damage => continue,
                read => read?,
            };
            if is_first && !bytes.is_empty() && next == *offset && !knowledge.has_damage {
                return Err(format!("partition {partition}: not even one whole batch in {} bytes", bytes.len()));
            }
            is_first &= bytes.is_empty();
            // Who leads anew may not know yet how much of what it has is committed.
            if !bytes.is_empty() && next > result.high_watermark {
                return Err(format!("partition {partition}: records up to {next} beyond {}", result.high_watermark));
            }
            if *offset == self.positions[partition] {
                self.positions[partition] = next;
            }
            let promised = known[partition].promised_start;
            reaction.findings.push(Finding::Starts { partition, log_start: *offset, promised });
            reaction.findings.push(Finding::Read { partition, offset: *offset, records });
        }
        Ok(())
    }
}

impl Role for Consumer {
    fn pause_us(&self, random: &mut Random) -> u64 {
        random.between(500, 8_000)
    }

    fn target(&self) -> Target {
        Target::SomeLeader
    }

    fn is_impatient(&self) -> bool {
        true
    }

    fn next(&mut self, random: &mut Random, knowledge: &mut Knowledge) -> Option<Outgoing> {
        let lost = knowledge.here.iter().find(|partition| self.is_lost[**partition]);
        let (asked, request) = match lost.copied() {
            Some(partition) => {
                let promised = knowledge.partitions[partition].promised_start;
                (Asked::Earliest { partition, promised }, requests::list_offsets(partition, requests::EARLIEST))
            }
            None => {
                let (items, request) = fetch_some(&knowledge.here, &self.positions, random, knowledge);
                (Asked::Fetch { items, known: knowledge.partitions.clone() }, request)
            }
        };
        self.asked = Some(asked);
        Some(Outgoing::Answered(request))
    }

    fn answered(&mut self, body: Bytes, knowledge: &Knowledge, reaction: &mut Reaction) -> Result<(), String> {
        match self.asked.take().expect("it asked") {
            Asked::Fetch { items, known } => {
                let response: FetchResponse = wire::response(wire::FETCH, body)?;
                self.fetched(&response, (&items, &known), knowledge, reaction)
            }
            Asked::Earliest { partition, promised } => {
                match requests::listed(body, partition)? {
                    Some((log_start, _)) => {
                        self.positions[partition] = log_start;
                        self.is_lost[partition] = false;
                        reaction.findings.push(Finding::Starts { partition, log_start, promised });
                    }
                    None => reaction.doubts = true,
                }
                Ok(())
            }
        }
    }
}

/// Asks for some of these partitions, mostly at their positions: the partitions with their offsets, and the request.
pub fn fetch_some(
    here: &[usize],
    positions: &[i64],
    random: &mut Random,
    knowledge: &Knowledge,
) -> (Vec<(usize, i64)>, Request) {
    let first = random.index(here.len());
    let count = random.between(1, here.len() as u64) as usize;
    let mut items = Vec::new();
    for partition in here.iter().copied().cycle().skip(first).take(count) {
        let known = knowledge.partitions[partition];
        let offset = if random.one_in(5) && known.end > known.deleted_to {
            random.between(known.deleted_to as u64, known.end as u64) as i64
        } else {
            positions[partition]
        };
        items.push((partition, offset));
    }
    let partitions = items
        .iter()
        .map(|(partition, offset)| requests::fetch_partition(*partition, *offset, random.between(1, 200_000) as i32));
    let mut body = requests::fetch(wire::topic(), partitions.collect());
    body.max_wait_ms = [0, 5, 50][random.index(3)];
    body.min_bytes = [0, 1, 10_000][random.index(3)];
    body.max_bytes = random.between(1, 400_000) as i32;
    (items, Request::new(wire::FETCH, &body))
}
