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

use super::clients::Clients;
use crate::api::codec::decode;
use crate::protocol::header::{RequestHeader, finish_frame};
use crate::protocol::versions::SurveyApi;
use crate::protocol::wire::Writer;
use crate::shard::event::RequestId;
use crate::shard::message::{ByOwner, Finding, Message, REQUEST_PARTITIONS_MAX, Subject, SurveyCall, SurveyDone};
use crate::shard::metadata::Metadata;
use crate::shard::turn::Turn;

/// Partitions whose sizes one round asks for.
const SIZES_PER_ROUND: usize = 256;
/// Partitions whose producers one round asks for: each has up to [`millstream_storage::producer::PRODUCERS_MAX`].
const PRODUCERS_PER_ROUND: usize = 4;
/// What Kafka says of a file system that could not be measured.
const UNKNOWN_BYTES: i64 = -1;
/// What Kafka says of a replica whose lag is not known (`DescribeLogDirsResponse.INVALID_OFFSET_LAG`).
const UNKNOWN_LAG: i64 = -1;

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

    /// Takes a DescribeLogDirs or DescribeProducers request.
    pub fn take(
        &mut self,
        turn: &mut Turn<'_>,
        clients: &mut Clients,
        id: RequestId,
        api: SurveyApi,
        header: &RequestHeader,
        body: Bytes,
    ) {
        let (subject, topics) = match api {
            SurveyApi::DescribeLogDirs => (Subject::Size, log_dir_topics(turn.metadata, header, body)),
            SurveyApi::DescribeProducers => (Subject::Producers, producer_topics(header, body)),
        };
        let Some(topics) = topics else { return clients.close(turn, id) };
        // A copy of the header that does not keep the frame.
        let header = RequestHeader { client_id: None, ..header.clone() };
        let mut writer = header.response().begin_frame(0);
        write_head(&mut writer, &header, subject, &turn.options.log_dir, topics.len());
        self.queue.push_back(Survey {
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

    /// Begins a round of the survey at the front, or ends it. Returns whether there was anything to do.
    pub fn advance(&mut self, turn: &mut Turn<'_>, clients: &mut Clients) -> bool {
        let Some(survey) = self.queue.front_mut().filter(|survey| survey.owners_left == 0) else { return false };
        survey.begin_round();
        if !survey.round.is_empty() {
            survey.ask(turn);
            return true;
        }
        let ended = self.queue.pop_front();
        ended.into_iter().for_each(|survey| survey.finish(turn, clients, self.space));
        true
    }

    /// An owner has answered.
    pub fn answered(&mut self, done: SurveyDone) {
        // Its connection may be gone.
        let Some(survey) = self.queue.front_mut().filter(|survey| survey.id == done.request) else { return };
        for (slot, finding) in done.findings {
            survey.round[slot as usize].finding = finding;
        }
        assert!(survey.owners_left > 0, "an owner replies once");
        survey.owners_left -= 1;
        if survey.owners_left == 0 {
            survey.write_round();
        }
    }
}

/// The partitions that a DescribeLogDirs request is about: of those it names the ones of which this node holds a replica,
/// as in Kafka.
fn log_dir_topics(metadata: &Metadata, header: &RequestHeader, body: Bytes) -> Option<Vec<Surveyed>> {
    let request: DescribeLogDirsRequest = decode(header, body).ok()?;
    let Some(named) = request.topics else {
        let surveyed = metadata.image().topics().map(|topic| {
            let held = |index: &i32| metadata.held_partition(topic, *index).is_ok();
            let partitions = (0..topic.partitions.len() as i32).filter(held).collect();
            Surveyed { name: topic.name.clone(), partitions }
        });
        return Some(surveyed.filter(|topic| !topic.partitions.is_empty()).collect());
    };
    let named = named.iter().map(|topic| (topic.topic.as_str(), &topic.partitions[..]));
    let mut topics = by_topic(named)?;
    topics.retain_mut(|topic| {
        let known = metadata.topic_by_name(&topic.name).ok();
        topic.partitions.retain(|index| known.is_some_and(|known| metadata.held_partition(known, *index).is_ok()));
        !topic.partitions.is_empty()
    });
    Some(topics)
}

/// What comes before the topics.
fn write_head(writer: &mut Writer, header: &RequestHeader, subject: Subject, log_dir: &str, topics: usize) {
    let flexible = header.is_flexible();
    // The throttle time.
    writer.i32(0);
    if subject == Subject::Size {
        if header.api_version >= 3 {
            writer.i16(ErrorCode::None.code());
        }
        // One directory, without an error.
        writer.array_count(Some(1), flexible);
        writer.i16(ErrorCode::None.code());
        writer.string(log_dir, flexible);
    }
    writer.array_count(Some(topics), flexible);
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

    /// Asks the owners about the partitions of the round.
    fn ask(&mut self, turn: &mut Turn<'_>) {
        let mut calls = ByOwner::default();
        for (slot, place) in (0..).zip(&mut self.round) {
            let topic = turn.metadata.topic_by_name(&place.topic);
            let key = topic.and_then(|topic| match self.subject {
                Subject::Size => turn.metadata.held_partition(topic, place.partition),
                Subject::Producers => turn.metadata.led_partition(topic, place.partition),
            });
            match key {
                Ok(key) => calls.push(turn.options.owner(key), (slot, key)),
                Err(not_here) => place.finding = Finding::Error(not_here.error),
            }
        }
        self.owners_left = calls.len();
        if calls.is_empty() {
            self.write_round();
        }
        for (owner, items) in calls {
            let call = SurveyCall { from: turn.options.index, request: self.id, subject: self.subject, items };
            turn.tell(owner, Message::Survey(call));
        }
    }

    /// Writes what comes behind the topics, and answers. `space`: free and total bytes, if they are known.
    fn finish(self, turn: &mut Turn<'_>, clients: &mut Clients, space: Option<(u64, u64)>) {
        let Survey { id, header, subject, mut writer, .. } = self;
        let flexible = header.is_flexible();
        if subject == Subject::Size {
            if header.api_version >= 4 {
                let known = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
                let (free, total) =
                    space.map_or((UNKNOWN_BYTES, UNKNOWN_BYTES), |(free, total)| (known(free), known(total)));
                writer.i64(total);
                writer.i64(free);
            }
            writer.no_tagged_fields(flexible);
        }
        writer.no_tagged_fields(flexible);
        clients.reply(turn, id, finish_frame(writer));
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
    let (bytes, behind) = match finding {
        Finding::Size { bytes, behind } => (*bytes, *behind),
        _ => (0, None),
    };
    writer.i32(partition);
    writer.i64(i64::try_from(bytes).unwrap_or(i64::MAX));
    // Kafka's offset lag: the high watermark less the log's end. No replica is on its way to another directory.
    writer.i64(behind.map_or(UNKNOWN_LAG, |behind| i64::try_from(behind).unwrap_or(i64::MAX)));
    writer.bool(false);
    writer.no_tagged_fields(flexible);
}

/// The one version of DescribeProducers is flexible.
fn write_producers(writer: &mut Writer, partition: i32, finding: &Finding) {
    let (error, producers) = match finding {
        Finding::Producers(producers) => (ErrorCode::None, &producers[..]),
        Finding::Error(error) => (*error, &[][..]),
        Finding::Size { .. } => panic!("producers were asked for"),
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
