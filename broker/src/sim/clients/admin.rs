//! Creates the topic that the others use, until it is told that it exists.

use bytes::Bytes;
use kafka_wire::CreateTopicsResponse;
use millstream_storage::random::Random;

use super::{Finding, Knowledge, Outgoing, Reaction, Role, requests, wire};

#[derive(Debug)]
pub struct Admin {
    replication_factor: i16,
    configs: Vec<(&'static str, String)>,
    is_done: bool,
}

impl Admin {
    pub fn new(replication_factor: i16, configs: Vec<(&'static str, String)>) -> Admin {
        Admin { replication_factor, configs, is_done: false }
    }
}

impl Role for Admin {
    fn pause_us(&self, random: &mut Random) -> u64 {
        random.between(1_000, 5_000)
    }

    fn next(&mut self, _: &mut Random, knowledge: &mut Knowledge) -> Option<Outgoing> {
        let partitions = knowledge.partitions.len();
        let request = requests::create_topic(wire::topic(), partitions, self.replication_factor, &self.configs);
        (!self.is_done).then_some(Outgoing::Answered(request))
    }

    fn answered(&mut self, body: Bytes, _: &Knowledge, reaction: &mut Reaction) -> Result<(), String> {
        let response: CreateTopicsResponse = wire::response(wire::CREATE_TOPICS, body)?;
        match response.topics[0].error_code {
            0 | wire::TOPIC_ALREADY_EXISTS => {
                self.is_done = true;
                reaction.findings.push(Finding::TopicCreated);
                Ok(())
            }
            error if wire::is_retriable_at_controller(error) => Ok(()),
            error => Err(format!("CreateTopics: error {error}: {:?}", response.topics[0])),
        }
    }
}
