//! Two clients of a topic that is deleted and created again, over and over: the recreator, who does it and looks at what is
//! in each of its lives, and the intruder, who writes to it whether it is there or not.

use bytes::Bytes;
use kafka_wire::{CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse, FetchResponse, ProduceResponse};
use kafka_wire_core::StrBytes;
use millstream_storage::random::Random;

use super::wire::Request;
use super::{Finding, Knowledge, Outgoing, Reaction, Role, Target, requests, wire};
use crate::sim::checkers::NothingDeletedReturns;
use crate::sim::record::{Found, RecordId, Unreadable, batch_of, records_in};

/// Records that the recreator writes before it reads them and deletes the topic.
const RECORDS_A_LIFE: u32 = 6;

/// What the recreator does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Create,
    Write,
    Read,
    Delete,
}

#[derive(Debug)]
pub struct Recreator {
    client: u32,
    /// Among several nodes a deletion whose answer was lost may be on its way still when the next topic is there: then each
    /// life has a name of its own.
    is_among_several: bool,
    /// Deletions so far.
    lives: u32,
    step: Step,
    next_number: u32,
    checker: NothingDeletedReturns,
}

impl Recreator {
    pub fn new(client: u32, is_among_several: bool) -> Recreator {
        Recreator {
            client,
            is_among_several,
            lives: 0,
            step: Step::Create,
            next_number: 0,
            checker: NothingDeletedReturns::new(client),
        }
    }

    fn topic(&self) -> StrBytes {
        if self.is_among_several {
            StrBytes::from(format!("{}-{}-{}", wire::DOOMED, self.client, self.lives))
        } else {
            wire::doomed()
        }
    }
}

impl Role for Recreator {
    fn pause_us(&self, random: &mut Random) -> u64 {
        random.between(500, 10_000)
    }

    fn next(&mut self, _: &mut Random, knowledge: &mut Knowledge) -> Option<Outgoing> {
        if knowledge.is_ending {
            return None;
        }
        let request = match self.step {
            Step::Create => requests::create_topic(self.topic(), 1, 1, &[]),
            Step::Write => {
                let request = write(self.topic(), self.client, self.next_number);
                self.next_number += 1;
                request
            }
            Step::Read => {
                let item = requests::fetch_partition(0, 0, 400_000);
                Request::new(wire::FETCH, &requests::fetch(self.topic(), vec![item]))
            }
            Step::Delete => {
                self.checker.will_delete(knowledge.intruded);
                let mut body = DeleteTopicsRequest::default();
                body.topic_names = vec![self.topic()];
                body.timeout_ms = 30_000;
                Request::new(wire::DELETE_TOPICS, &body)
            }
        };
        Some(Outgoing::Answered(request))
    }

    fn target(&self) -> Target {
        match self.step {
            Step::Create | Step::Delete => Target::Anywhere,
            Step::Write | Step::Read => Target::Leader { topic: self.topic().to_string(), partition: 0 },
        }
    }

    fn answered(&mut self, body: Bytes, _: &Knowledge, reaction: &mut Reaction) -> Result<(), String> {
        self.step = match self.step {
            Step::Create => {
                let response: CreateTopicsResponse = wire::response(wire::CREATE_TOPICS, body)?;
                match response.topics[0].error_code {
                    // Nobody else creates it: if it is there already, an answer was lost.
                    0 | wire::TOPIC_ALREADY_EXISTS => Step::Write,
                    error if wire::is_retriable_at_controller(error) => Step::Create,
                    error => return Err(format!("CreateTopics of a doomed topic: error {error}")),
                }
            }
            Step::Write => {
                let response: ProduceResponse = wire::response(wire::PRODUCE, body)?;
                let result = &response.responses[0].partition_responses[0];
                match result.error_code {
                    0 => {
                        let id = RecordId { client: self.client, number: self.next_number - 1 };
                        self.checker.acknowledged(Found { offset: result.base_offset, id });
                    }
                    error if wire::is_retriable(error) => reaction.doubts = true,
                    error => return Err(format!("Produce to a topic just created: error {error}")),
                }
                if self.next_number.is_multiple_of(RECORDS_A_LIFE) { Step::Read } else { Step::Write }
            }
            Step::Read => {
                let response: FetchResponse = wire::response(wire::FETCH, body)?;
                let result = &response.responses[0].partitions[0];
                match result.error_code {
                    0 => {
                        let bytes = result.records.clone().unwrap_or_default();
                        match records_in(&bytes, 0) {
                            Ok((records, next)) => self.checker.read(&records, next)?,
                            Err(Unreadable::Damaged(_)) => {}
                            Err(unreadable) => return Err(unreadable.into()),
                        }
                        Step::Delete
                    }
                    error if wire::is_retriable(error) => {
                        reaction.doubts = true;
                        Step::Read
                    }
                    error => return Err(format!("Fetch of a topic just created: error {error}")),
                }
            }
            Step::Delete => {
                let response: DeleteTopicsResponse = wire::response(wire::DELETE_TOPICS, body)?;
                match response.responses[0].error_code {
                    // Nobody else deletes it: if it is unknown, an answer was lost.
                    0 | wire::UNKNOWN_TOPIC_OR_PARTITION => {
                        self.checker.deleted(self.next_number);
                        self.lives += 1;
                        Step::Create
                    }
                    error if wire::is_retriable_at_controller(error) => Step::Delete,
                    error => return Err(format!("DeleteTopics: error {error}")),
                }
            }
        };
        Ok(())
    }
}

#[derive(Debug)]
pub struct Intruder {
    client: u32,
    next_number: u32,
}

impl Intruder {
    pub fn new(client: u32) -> Intruder {
        Intruder { client, next_number: 0 }
    }
}

impl Role for Intruder {
    fn pause_us(&self, random: &mut Random) -> u64 {
        random.between(500, 5_000)
    }

    fn next(&mut self, _: &mut Random, knowledge: &mut Knowledge) -> Option<Outgoing> {
        if knowledge.is_ending {
            return None;
        }
        let number = self.next_number;
        self.next_number += 1;
        Some(Outgoing::Answered(write(wire::doomed(), self.client, number)))
    }

    fn answered(&mut self, body: Bytes, _: &Knowledge, reaction: &mut Reaction) -> Result<(), String> {
        let response: ProduceResponse = wire::response(wire::PRODUCE, body)?;
        match response.responses[0].partition_responses[0].error_code {
            0 => {
                reaction.findings.push(Finding::Intruded { number: self.next_number - 1 });
                Ok(())
            }
            error if wire::is_retriable(error) => Ok(()),
            error => Err(format!("Produce to a doomed topic: error {error}")),
        }
    }
}

/// Writes one record to a doomed topic.
fn write(topic: StrBytes, client: u32, number: u32) -> Request {
    let records = batch_of(RecordId { client, number }, 1, None);
    requests::produce(topic, 0, -1, 30_000, records)
}
