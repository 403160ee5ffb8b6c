//! All that clients have learnt, and the checkers that judge it. Clients know what the checkers know: where a log reaches at
//! least, where it starts, what was deleted.

use std::collections::BTreeSet;

use millstream_storage::Now;
use millstream_storage::random::Random;

use super::checkers::{Checkers, Observation, ProducerIdsAreUnique};
use super::clients::wire::TOPIC;
use super::clients::{Client, Finding, Knowledge};
use super::damage::Inspected;
use super::disk::SimDisk;
use super::node::Opened;
use super::restart::{ReadFailure, Whole, inspect, read_whole};
use super::scenario::Scenario;
use super::timeline::Timeline;

pub struct Witness {
    /// What clients go by.
    pub knowledge: Knowledge,
    /// One for each partition of the topic.
    partitions: Vec<Checkers>,
    /// The clients that are idempotent producers.
    idempotent: BTreeSet<u32>,
    producer_ids: ProducerIdsAreUnique,
    topic_exists: bool,
    /// Partitions that nodes have shown at their starts.
    pub shown: usize,
}

impl Witness {
    /// Nothing is known yet.
    pub fn new(scenario: &Scenario, clients: &[Client]) -> Witness {
        Witness {
            knowledge: Knowledge {
                partitions: vec![Default::default(); scenario.partitions],
                here: (0..scenario.partitions).collect(),
                has_retention: scenario.has_retention,
                has_damage: scenario.has_damage,
                ..Knowledge::default()
            },
            partitions: vec![Checkers::default(); scenario.partitions],
            idempotent: clients.iter().filter(|each| each.is_idempotent()).map(|each| each.number).collect(),
            producer_ids: ProducerIdsAreUnique::default(),
            topic_exists: false,
            shown: 0,
        }
    }

    /// Records acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.partitions.iter().map(Checkers::acknowledged).sum()
    }

    /// Records seen by consumers so far.
    pub fn seen(&self) -> usize {
        self.partitions.iter().map(Checkers::seen).sum()
    }

    /// A client has learnt something.
    pub fn learn(&mut self, finding: Finding) -> Result<(), String> {
        match finding {
            Finding::TopicCreated => {
                self.topic_exists = true;
                Ok(())
            }
            Finding::Intruded { number } => {
                self.knowledge.intruded = self.knowledge.intruded.max(Some(number));
                Ok(())
            }
            Finding::ProducerId { id } => self.producer_ids.see(id),
            Finding::Acknowledged { partition, records } => {
                self.observe(partition, &Observation::Acknowledged(&records))
            }
            Finding::Read { partition, offset, records } => {
                self.observe(partition, &Observation::Read { offset, records: &records })
            }
            Finding::Promised { partition, log_start } => self.observe(partition, &Observation::Promised(log_start)),
            Finding::Starts { partition, log_start, promised } if log_start < promised => {
                Err(format!("partition {partition} starts at {log_start}, before {promised}"))
            }
            Finding::Ends { partition, log_end, known } if log_end < known => {
                Err(format!("partition {partition} ends at {log_end}, but reached {known} before"))
            }
            Finding::Starts { .. } | Finding::Ends { .. } => Ok(()),
            Finding::Group(finding) => self.knowledge.group.see(finding),
            Finding::Time { partition, query, until, found } => {
                let range = self.knowledge.partitions[partition].deleted_to..until;
                self.observe(partition, &Observation::Time { query, range, found })
            }
        }
    }

    fn observe(&mut self, partition: usize, observation: &Observation<'_>) -> Result<(), String> {
        let checkers = &mut self.partitions[partition];
        checkers.see(&self.idempotent, observation).map_err(|error| format!("partition {partition}: {error}"))?;
        self.now_known(partition);
        Ok(())
    }

    fn now_known(&mut self, partition: usize) {
        let checkers = &self.partitions[partition];
        let known = &mut self.knowledge.partitions[partition];
        known.end = checkers.known_end();
        known.promised_start = checkers.promised_start();
        known.deleted_to = known.deleted_to.max(known.promised_start);
    }

    /// Reads all that a node has recovered and shows it to the checkers. One of several may lack a partition: another has it,
    /// or it does not know yet of what it was told before.
    pub fn see_everything(
        &mut self,
        opened: &mut Opened,
        disk: &mut SimDisk,
        now: Now,
        may_lack: bool,
        timeline: &mut Timeline,
    ) -> Result<(), String> {
        for partition in 0..self.partitions.len() {
            if may_lack && (!opened.has_topic(TOPIC) || opened.is_elsewhere(TOPIC, partition)) {
                continue;
            }
            let mut checkers = std::mem::take(&mut self.partitions[partition]);
            let mut random = timeline.random.fork();
            let whole = self.inspect(opened, disk, &mut random, now, partition, &mut checkers);
            self.partitions[partition] = checkers;
            self.shown += 1;
            let Whole { log_start, log_end, .. } = whole.map_err(|error| format!("partition {partition}: {error}"))?;
            timeline.line(format!("partition {partition}: offsets {log_start} to {log_end}"));
            self.now_known(partition);
        }
        Ok(())
    }

    /// Reads a replica that was just recovered. None: its node does not know yet of what it was told before, and has set the
    /// log aside.
    pub fn read(
        &self,
        opened: &mut Opened,
        disk: &mut SimDisk,
        now: Now,
        partition: usize,
    ) -> Result<Option<Whole>, String> {
        if !opened.has_topic(TOPIC) || opened.is_elsewhere(TOPIC, partition) {
            return Ok(None);
        }
        match opened.log_of(TOPIC, partition) {
            Some((log, id)) => read_whole(disk, log, id, now, false).map(Some).map_err(|failure| failure.to_string()),
            None => Ok(Some(Whole::default())),
        }
    }

    /// One past the last offset of each partition that was acknowledged or seen.
    pub fn known_ends(&self) -> Vec<i64> {
        self.partitions.iter().map(Checkers::known_end).collect()
    }

    /// Where each partition starts at least.
    pub fn promised_starts(&self) -> Vec<i64> {
        self.partitions.iter().map(Checkers::promised_start).collect()
    }

    /// Shows the leader's replica to the checkers: it has everything.
    pub fn see_led(&mut self, partition: usize, whole: &Whole) -> Result<(), String> {
        let Whole { log_start, log_end, ref records } = *whole;
        self.shown += 1;
        self.observe(partition, &Observation::Whole { log_start, log_end, records })
    }

    /// Reads all that was recovered from a copy of a disk, and says what it came to. Nobody learns of it.
    pub fn judge_copy(&self, opened: &mut Opened, disk: &mut SimDisk, random: &mut Random, now: Now) -> Inspected {
        let judge = |(partition, checkers): (usize, &Checkers)| {
            let whole = self.inspect(opened, disk, random, now, partition, &mut checkers.clone());
            (opened.directory_of(TOPIC, partition).unwrap_or_default(), whole.map(drop))
        };
        self.partitions.iter().enumerate().map(judge).collect()
    }

    /// Reads a partition just recovered and shows it to these checkers.
    fn inspect(
        &self,
        opened: &mut Opened,
        disk: &mut SimDisk,
        random: &mut Random,
        now: Now,
        partition: usize,
        checkers: &mut Checkers,
    ) -> Result<Whole, ReadFailure> {
        if self.topic_exists && !opened.has_topic(TOPIC) {
            return Err(ReadFailure::Wrong("the topic is gone".to_string()));
        }
        match opened.log_of(TOPIC, partition) {
            Some((log, id)) => {
                log.commit_alone(id);
                inspect(disk, random, (log, id), now, checkers, &self.idempotent)
            }
            None => {
                let whole = Observation::Whole { log_start: 0, log_end: 0, records: &[] };
                checkers.see(&self.idempotent, &whole).map_err(ReadFailure::Wrong)?;
                Ok(Whole::default())
            }
        }
    }
}
