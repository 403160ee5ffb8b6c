//! Commits offsets of a group of its own, each larger than the one before, and asks for them.

use bytes::Bytes;
use kafka_wire::{OffsetCommitResponse, OffsetFetchResponse};
use kafka_wire_core::StrBytes;
use millstream_storage::random::Random;

use super::wire::Request;
use super::{Knowledge, Outgoing, Reaction, Role, Target, requests, wire};
use crate::sim::checkers::CommittedOffsetStays;

/// What it asked last.
#[derive(Debug)]
enum Asked {
    Coordinator,
    Commit { offset: i64 },
    Committed,
}

#[derive(Debug)]
pub struct Committer {
    client: u32,
    coordinator: Option<i32>,
    checker: CommittedOffsetStays,
    asked: Option<Asked>,
}

impl Committer {
    pub fn new(client: u32) -> Committer {
        Committer { client, coordinator: None, checker: CommittedOffsetStays::default(), asked: None }
    }
}

impl Role for Committer {
    fn pause_us(&self, random: &mut Random) -> u64 {
        random.between(1_000, 20_000)
    }

    fn next(&mut self, random: &mut Random, _: &mut Knowledge) -> Option<Outgoing> {
        let group = StrBytes::from(format!("group-{}", self.client));
        let (asked, request) = if self.coordinator.is_none() {
            (Asked::Coordinator, requests::find_coordinator(group))
        } else if random.one_in(3) {
            (Asked::Committed, requests::fetch_committed(group, 0))
        } else {
            let offset = self.checker.last_sent() + 1;
            self.checker.sent(offset);
            (Asked::Commit { offset }, Request::new(wire::OFFSET_COMMIT, &requests::commit(group, 0, offset)))
        };
        self.asked = Some(asked);
        Some(Outgoing::Answered(request))
    }

    fn answered(&mut self, body: Bytes, _: &Knowledge, _: &mut Reaction) -> Result<(), String> {
        match self.asked.take().expect("it asked") {
            Asked::Coordinator => self.coordinator = requests::found_coordinator(body)?,
            Asked::Commit { offset } => {
                let response: OffsetCommitResponse = wire::response(wire::OFFSET_COMMIT, body)?;
                match response.topics[0].partitions[0].error_code {
                    0 => self.checker.acknowledged(offset),
                    error if wire::is_retriable_in_group(error) => {}
                    error => return Err(format!("OffsetCommit: error {error}")),
                }
            }
            Asked::Committed => {
                let response: OffsetFetchResponse = wire::response(wire::OFFSET_FETCH, body)?;
                let group = &response.groups[0];
                if wire::is_retriable_in_group(group.error_code) {
                    return Ok(());
                }
                let found = &group.topics[0].partitions[0];
                if group.error_code != 0 || found.error_code != 0 {
                    return Err(format!("OffsetFetch: {group:?}"));
                }
                let committed = if found.committed_offset == -1 { 0 } else { found.committed_offset };
                self.checker.fetched(committed, self.checker.last_acknowledged())?;
            }
        }
        Ok(())
    }

    fn target(&self) -> Target {
        Target::Coordinator { node_id: self.coordinator }
    }

    fn forget_coordinator(&mut self) {
        self.coordinator = None;
    }

    fn disconnected(&mut self, _: &mut Knowledge) {
        if let Some(Asked::Commit { offset }) = self.asked.take() {
            self.checker.lost(offset);
        }
    }
}
