//! Surveys: DescribeLogDirs and DescribeProducers, which ask every partition of the node, or many, for more than an
//! offset. Tools and exporters send them every few seconds to nodes with thousands of partitions, so a survey goes in
//! rounds: one bounded question to the owners a turn, and the response is written as the answers come.
//!
//! A shard runs one survey at a time; others wait, bounded by the requests in flight.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use kafka_wire::{DescribeLogDirsRequest, DescribeProducersRequest};
use millstream_replication::ErrorCode;
use millstream_storage::PartitionKey;
use millstream_storage::producer::ProducerView;

use super::message::{ByOwner, Message};
use super::session::{RequestId, Response};
use super::{Effect, REQUEST_PARTITIONS_MAX, SendPart, Shard, ShardIndex};
use crate::api::codec::decode;
use crate::protocol::header::{RequestHeader, finish_frame};
use crate::protocol::versions::ApiKey;
use crate::protocol::wire::Writer;

/// Partitions whose sizes one round asks for.
const SIZES_PER_ROUND: usize = 256;
/// Partitions whose producers one round asks for: each has up to [`millstream_storage::producer::PRODUCERS_MAX`].
const PRODUCERS_PER_ROUND: usize = 4;
/// What Kafka says of a file system that could not be measured.
const UNKNOWN_BYTES: i64 = -1;

/// What is asked of each partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The bytes of its log.
    Size,
    /// Its idempotent producers.
    Producers,
}

/// A round's question to one owner.
#[derive(Debug)]
pub struct SurveyCall {
    /// The session's shard.
    pub from: ShardIndex,
    /// The request.
    pub request: RequestId,
    /// What is asked.
    pub subject: Subject,
    /// The partitions, each with its place in the round.
    pub items: Vec<(u32, PartitionKey)>,
}

/// An owner's answer to a [`SurveyCall`].
#[derive(Debug)]
pub struct SurveyDone {
    /// The request.
    pub request: RequestId,
    /// One for each item.
    pub findings: Vec<(u32, Finding)>,
}

/// What was found of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It cannot be asked.
    Error(ErrorCode),
    /// The bytes of its log.
    Size(u64),
    /// Its idempotent producers.
    Producers(Vec<ProducerView>),
}

/// A topic of a survey.
#[derive(Debug)]
struct Surveyed {
    name: Arc<str>,
    partitions: Vec<i32>,
}

/// One partition of a round.
#[derive(Debug)]
struct Place {
    topic: Arc<str>,
    partition: i32,
    /// It is its topic's first: of how many partitions.
    begins: Option<usize>,
    /// It is its topic's last.
    ends: bool,
    finding: Finding,
}

/// A request under way.
#[derive(Debug)]
struct Survey {
    id: RequestId,
    header: RequestHeader,
    subject: Subject,
    topics: VecDeque<Surveyed>,
    /// Partitions of the first topic that were asked already.
    asked: usize,
    round: Vec<Place>,
    owners_left: usize,
    writer: Writer,
}

/// Surveys of this shard, as the session.
#[derive(Debug, Default)]
pub struct Surveys {
    /// The first one is under way.
    queue: VecDeque<Survey>,
    /// Free and total bytes of the data directory's file system.
    space: Option<(u64, u64)>,
}

impl Surveys {
    /// The space of the data directory's file system.
    pub fn set_space(&mut self, free_bytes: u64, total_bytes: u64) {
        self.space = Some((free_bytes, total_bytes));
    }

    /// Whether a round can begin.
    pub fn is_ready(&self) -> bool {
        self.queue.front().is_some_and(|survey| survey.owners_left == 0)
    }

    /// Forgets a request whose connection is gone.
    pub fn cancel(&mut self, id: RequestId) {
        self.queue.retain(|survey| survey.id != id);
    }
}

impl Shard {
    /// Takes a DescribeLogDirs or DescribeProducers request.
    pub(super) fn survey(&mut self, id: RequestId, header: &RequestHeader, body: Bytes, effects: &mut Vec<Effect>) {
        let topics = match header.api_key {
            ApiKey::DescribeLogDirs => self.log_dir_topics(header, body),
            ApiKey::DescribeProducers => producer_topics(header, body),
            other => panic!("{} is no survey", other.name()),
        };
        let Some(topics) = topics else { return self.close(id, effects) };
        let subject = if header.api_key == ApiKey::DescribeLogDirs { Subject::Size } else { Subject::Producers };
        // A copy of the header that does not keep the frame.
        let header = RequestHeader { client_id: None, ..header.clone() };
        let mut writer = header.response().begin_frame(0);
        self.write_head(&mut writer, &header, topics.len());
        self.surveys.queue.push_back(Survey {
            id,
            header,
            subject,
            topics: topics.into(),
            asked: 0,
            round: Vec::new(),
            owners_left: 0,
            writer,
        });
    }

    /// The partitions that a DescribeLogDirs request is about: of those it names the ones that exist, as in Kafka.
    fn log_dir_topics(&self, header: &RequestHeader, body: Bytes) -> Option<Vec<Surveyed>> {
        let request: DescribeLogDirsRequest = decode(header, body).ok()?;
        let image = self.metadata.image();
        let all = |count: usize| (0..count as i32).collect();
        let Some(named) = request.topics else {
            let topics = image.topics().filter(|topic| !topic.partitions.is_empty());
            return Some(
                topics
                    .map(|topic| Surveyed { name: topic.name.clone(), partitions: all(topic.partitions.len()) })
                    .collect(),
            );
        };
        let named = named.iter().map(|topic| (topic.topic.as_str(), &topic.partitions[..]));
        let mut topics = by_topic(named)?;
        topics.retain_mut(|topic| {
            let known = image.topic(&topic.name).map_or(0, |topic| topic.partitions.len() as i32);
            topic.partitions.retain(|partition| (0..known).contains(partition));
            !topic.partitions.is_empty()
        });
        Some(topics)
    }

    /// Begins a round of the survey at the front, or ends it. Returns whether there was anything to do.
    pub(super) fn advance_survey(&mut self, effects: &mut Vec<Effect>) -> bool {
        if !self.surveys.is_ready() {
            return false;
        }
        let mut survey = self.surveys.queue.pop_front().expect("it is ready");
        survey.begin_round();
        if survey.round.is_empty() {
            self.finish_survey(survey, effects);
            return true;
        }
        let mut calls = ByOwner::default();
        for (slot, place) in (0..).zip(&mut survey.round) {
            let topic = self.metadata.topic_by_name(&place.topic);
            let key = topic.and_then(|topic| self.metadata.led_partition(topic, place.partition));
            match key {
                Ok(key) => calls.push(self.owner(key), (slot, key)),
                Err(not_here) => place.finding = Finding::Error(not_here.error),
            }
        }
        let (request, subject) = (survey.id, survey.subject);
        survey.owners_left = calls.len();
        if calls.is_empty() {
            survey.write_round();
        }
        self.surveys.queue.push_front(survey);
        for (owner, items) in calls {
            let call = SurveyCall { from: self.options.index, request, subject, items };
            self.tell(owner, Message::Survey(call), effects);
        }
        true
    }

    /// The owner's side.
    pub(super) fn survey_asked(&mut self, call: SurveyCall, effects: &mut Vec<Effect>) {
        let find = |key| match (self.partitions.leader(key, -1), call.subject) {
            (Err(error), _) => Finding::Error(error),
            (Ok((log, _)), Subject::Size) => Finding::Size(self.log.log_bytes(log)),
            (Ok((log, _)), Subject::Producers) => Finding::Producers(self.log.producers(log)),
        };
        let findings = call.items.iter().map(|&(slot, key)| (slot, find(key))).collect();
        self.tell(call.from, Message::Surveyed(SurveyDone { request: call.request, findings }), effects);
    }

    /// An owner has answered.
    pub(super) fn survey_answered(&mut self, done: SurveyDone) {
        // Its connection may be gone.
        let Some(survey) = self.surveys.queue.front_mut().filter(|survey| survey.id == done.request) else { return };
        for (slot, finding) in done.findings {
            survey.round[slot as usize].finding = finding;
        }
        survey.owners_left -= 1;
        if survey.owners_left == 0 {
            survey.write_round();
        }
    }

    /// What comes before the topics.
    fn write_head(&self, writer: &mut Writer, header: &RequestHeader, topics: usize) {
        let flexible = header.is_flexible();
        // The throttle time.
        writer.i32(0);
        if header.api_key == ApiKey::DescribeLogDirs {
            if header.api_version >= 3 {
                writer.i16(ErrorCode::None.code());
            }
            // One directory, without an error.
            writer.array_count(Some(1), flexible);
            writer.i16(ErrorCode::None.code());
            writer.string(&self.options.log_dir, flexible);
        }
        writer.array_count(Some(topics), flexible);
    }

    /// Writes what comes behind the topics, and answers.
    fn finish_survey(&mut self, survey: Survey, effects: &mut Vec<Effect>) {
        let Survey { id, header, subject, mut writer, .. } = survey;
        let flexible = header.is_flexible();
        if subject == Subject::Size {
            if header.api_version >= 4 {
                let known = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
                let (free, total) = self
                    .surveys
                    .space
                    .map_or((UNKNOWN_BYTES, UNKNOWN_BYTES), |(free, total)| (known(free), known(total)));
                writer.i64(total);
                writer.i64(free);
            }
            writer.no_tagged_fields(flexible);
        }
        writer.no_tagged_fields(flexible);
        let parts = vec![SendPart::Memory(finish_frame(writer))];
        self.sessions.respond(id, Response::Parts(parts), effects);
    }
}

/// The partitions that a DescribeProducers request names; `None` when it cannot be read.
fn producer_topics(header: &RequestHeader, body: Bytes) -> Option<Vec<Surveyed>> {
    let request: DescribeProducersRequest = decode(header, body).ok()?;
    by_topic(request.topics.iter().map(|topic| (topic.name.as_str(), &topic.partition_indexes[..])))
}

/// Each topic and each partition once, so that the response is bounded by the cluster and not by the request; `None`
/// when there are too many.
fn by_topic<'a>(named: impl Iterator<Item = (&'a str, &'a [i32])>) -> Option<Vec<Surveyed>> {
    let mut topics: BTreeMap<&str, BTreeSet<i32>> = BTreeMap::new();
    let mut count = 0;
    for (name, partitions) in named {
        count += partitions.len();
        if count > REQUEST_PARTITIONS_MAX {
            return None;
        }
        topics.entry(name).or_default().extend(partitions);
    }
    topics.retain(|_, partitions| !partitions.is_empty());
    let surveyed = |(name, partitions): (&str, BTreeSet<i32>)| Surveyed {
        name: name.into(),
        partitions: partitions.into_iter().collect(),
    };
    Some(topics.into_iter().map(surveyed).collect())
}

impl Survey {
    /// Puts the next partitions into the round.
    fn begin_round(&mut self) {
        let room = match self.subject {
            Subject::Size => SIZES_PER_ROUND,
            Subject::Producers => PRODUCERS_PER_ROUND,
        };
        while self.round.len() < room
            && let Some(topic) = self.topics.front()
        {
            let partition = topic.partitions[self.asked];
            let begins = (self.asked == 0).then_some(topic.partitions.len());
            let ends = self.asked + 1 == topic.partitions.len();
            // An owner that has not answered would be a bug; this says so to the client.
            let finding = Finding::Error(ErrorCode::UnknownServerError);
            self.round.push(Place { topic: topic.name.clone(), partition, begins, ends, finding });
            self.asked += 1;
            if ends {
                self.topics.pop_front();
                self.asked = 0;
            }
        }
    }

    /// Writes the partitions of the round, which is then over.
    fn write_round(&mut self) {
        let flexible = self.header.is_flexible();
        let writer = &mut self.writer;
        for place in self.round.drain(..) {
            if let Some(count) = place.begins {
                writer.string(&place.topic, flexible);
                writer.array_count(Some(count), flexible);
            }
            match self.subject {
                Subject::Size => write_size(writer, place.partition, &place.finding, flexible),
                Subject::Producers => write_producers(writer, place.partition, &place.finding),
            }
            if place.ends {
                writer.no_tagged_fields(flexible);
            }
        }
    }
}

fn write_size(writer: &mut Writer, partition: i32, finding: &Finding, flexible: bool) {
    // There is no error for a single partition: one that went meanwhile is shown empty.
    let bytes = if let Finding::Size(bytes) = finding { *bytes } else { 0 };
    writer.i32(partition);
    writer.i64(i64::try_from(bytes).unwrap_or(i64::MAX));
    // Nothing of a leader's log is behind its high watermark, and no replica is on its way to another directory.
    writer.i64(0);
    writer.bool(false);
    writer.no_tagged_fields(flexible);
}

/// The one version of DescribeProducers is flexible.
fn write_producers(writer: &mut Writer, partition: i32, finding: &Finding) {
    let (error, producers) = match finding {
        Finding::Producers(producers) => (ErrorCode::None, &producers[..]),
        Finding::Error(error) => (*error, &[][..]),
        Finding::Size(_) => panic!("producers were asked for"),
    };
    writer.i32(partition);
    writer.i16(error.code());
    writer.nullable_string(None, true);
    writer.array_count(Some(producers.len()), true);
    for producer in producers {
        writer.i64(producer.producer_id);
        writer.i32(i32::from(producer.epoch));
        writer.i32(producer.last_sequence);
        writer.i64(producer.recorded_ms);
        // No transaction: no epoch of its coordinator, and no offset where it began.
        writer.i32(-1);
        writer.i64(-1);
        writer.no_tagged_fields(true);
    }
    writer.no_tagged_fields(true);
}
