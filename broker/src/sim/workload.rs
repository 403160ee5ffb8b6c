//! The simulated clients: they speak the wire protocol, try again as real ones do, and report what they learn.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use kafka_wire::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_wire::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_wire::delete_topics_response::DeleteTopicsResponse;
use kafka_wire::fetch_request::{FetchPartition, FetchTopic};
use kafka_wire::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_wire::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_wire::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_wire::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::{
    CreateTopicsRequest, CreateTopicsResponse, DeleteRecordsRequest, DeleteRecordsResponse, DeleteTopicsRequest,
    FetchRequest, FetchResponse, FindCoordinatorRequest, FindCoordinatorResponse, InitProducerIdRequest,
    InitProducerIdResponse, ListOffsetsRequest, ListOffsetsResponse, OffsetCommitRequest, OffsetCommitResponse,
    OffsetFetchRequest, OffsetFetchResponse, ProduceRequest, ProduceResponse,
};
use kafka_wire_core::StrBytes;

use super::group_checker::{GroupChecker, GroupFinding};
use super::group_member::{Member, MemberAsked};
use super::random::Random;
use super::record::{Found, RecordId, Unreadable, batch_of, records_in};
use super::schedule::EPOCH_MS;
use super::wire::{self, Api};

/// Batches that a producer may have on their way.
const IN_FLIGHT_MAX: usize = 5;

/// COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR.
const COORDINATOR_MOVES: [i16; 3] = [14, 15, 16];
const OFFSET_OUT_OF_RANGE: i16 = 1;
const OFFSET_NOT_AVAILABLE: i16 = 78;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
const TOPIC_ALREADY_EXISTS: i16 = 36;

/// UNKNOWN_TOPIC_OR_PARTITION, LEADER_NOT_AVAILABLE, NOT_LEADER_OR_FOLLOWER, REQUEST_TIMED_OUT, KAFKA_STORAGE_ERROR: what
/// clients try again after.
const RETRIABLE: [i16; 5] = [3, 5, 6, 7, 56];

/// Whether a client asks the same again after this error, perhaps of another coordinator.
pub fn is_retriable(error: i16) -> bool {
    RETRIABLE.contains(&error) || COORDINATOR_MOVES.contains(&error)
}

/// What all clients know of a partition.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// The log reaches at least this far.
    pub end: i64,
    /// It was promised that the log starts here or later.
    pub promised_start: i64,
    /// Nobody asked to delete records from this offset on.
    pub deleted_to: i64,
}

/// What all clients know.
#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    /// Each partition.
    pub partitions: Vec<Known>,
    /// Retention may remove records.
    pub has_retention: bool,
    /// Bits flip on their way from the disk: damage that a reader notices is to be expected.
    pub has_damage: bool,
    /// The last record of the [`Role::Intruder`] that was acknowledged.
    pub intruded: Option<u32>,
    /// No new work: what is under way is to be finished.
    pub is_ending: bool,
    /// The group of the [`Role::Member`]s.
    pub group: GroupChecker,
}

/// What a client learnt.
#[derive(Clone, Debug)]
pub enum Finding {
    /// The topic exists, durably.
    TopicCreated,
    /// A client is an idempotent producer from now on.
    ProducerId { id: i64 },
    /// A record of the intruder was acknowledged.
    Intruded { number: u32 },
    /// The records were acknowledged.
    Acknowledged { partition: usize, records: Vec<Found> },
    /// A consumer asked for `offset` and got these.
    Read { partition: usize, offset: i64, records: Vec<Found> },
    /// The log starts at this offset or later.
    Promised { partition: usize, log_start: i64 },
    /// A member of the group learnt this.
    Group(GroupFinding),
    /// The record found by time, among those below `until`.
    Time { partition: usize, query: Option<i64>, until: i64, found: Option<(i64, i64)> },
}

/// What a client does after a response.
#[derive(Debug, Default)]
pub struct Reaction {
    /// What it learnt.
    pub findings: Vec<Finding>,
    /// It gives up the connection and tries again by another.
    pub reconnect: bool,
}

/// What a response will be about.
#[derive(Clone, Debug)]
enum Asked {
    CreateTopic,
    ProducerId,
    Produce {
        first: u32,
        count: u32,
    },
    Fetch {
        items: Vec<(usize, i64)>,
        known: Vec<Known>,
    },
    Earliest {
        partition: usize,
        promised: i64,
    },
    Latest {
        partition: usize,
        end: i64,
    },
    Time {
        partition: usize,
        query: Option<i64>,
        until: i64,
    },
    Delete {
        partition: usize,
        offset: i64,
    },
    /// The next step in the life of the doomed topic.
    Doomed,
    Coordinator,
    Commit {
        offset: i64,
    },
    Committed,
    /// Something as a member of the group.
    Member(MemberAsked),
    /// A record that goes into the doomed topic, if it is there.
    Intrude {
        number: u32,
    },
}

/// What a group has committed for a partition.
#[derive(Debug, Default)]
pub struct Commits {
    has_coordinator: bool,
    /// The last one that was sent: 0 is none.
    sent: i64,
    /// The last one that was acknowledged.
    acknowledged: i64,
    /// Those whose answer was lost with its connection: they may have been on their way still when a later one, by another
    /// connection, had arrived.
    lost: Vec<i64>,
}

/// What is done next to the topic that is deleted and created again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Create,
    Write,
    Read,
    Delete,
}

/// A topic's life, over and over: nothing of an earlier one may be seen in the next.
#[derive(Debug)]
pub struct Doom {
    step: Step,
    next_number: u32,
    /// The first number of this life.
    first_number: u32,
    /// What the intruder had written, acknowledged, before the last deletion was asked for.
    intruded: Option<u32>,
    /// What was acknowledged in this life.
    acknowledged: Vec<Found>,
}

struct Batch {
    first: u32,
    count: u32,
    records: Bytes,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} from {}, {} bytes", self.count, self.first, self.records.len())
    }
}

/// A client that writes to one partition.
#[derive(Debug)]
pub struct Producer {
    partition: usize,
    acks: i16,
    is_idempotent: bool,
    producer_id: Option<i64>,
    next_number: u32,
    next_sequence: i32,
    /// Not acknowledged, in order; the first `sent` were sent on this connection.
    in_flight: VecDeque<Batch>,
    sent: usize,
    /// As a producer that nothing is known of may begin with any sequence number, the first batch goes alone.
    is_known: bool,
}

#[derive(Debug)]
enum Role {
    /// Creates the topic.
    Admin {
        configs: Vec<(&'static str, String)>,
        is_done: bool,
    },
    Producer(Producer),
    Consumer {
        positions: Vec<i64>,
        is_lost: Vec<bool>,
    },
    /// Deletes records.
    Deleter,
    /// Asks for offsets by time.
    Asker,
    /// Deletes a topic and creates it again.
    Recreator(Doom),
    /// Writes to that topic whether it is there or not.
    Intruder {
        next_number: u32,
    },
    /// Commits offsets of a group, each larger than the one before, and asks for them.
    Committer(Commits),
    /// A member of a group that several clients are in.
    Member(Member),
    /// Sends what no client sends: damaged requests, nonsense.
    Hostile,
}

/// A client.
#[derive(Debug)]
pub struct Client {
    /// Its number, from 0.
    pub number: u32,
    role: Role,
    correlation: i32,
    outstanding: VecDeque<(i32, Asked)>,
    received: BytesMut,
}

impl Client {
    fn new(number: u32, role: Role) -> Client {
        Client { number, role, correlation: 0, outstanding: VecDeque::new(), received: BytesMut::new() }
    }

    /// Creates the topic with these configurations.
    pub fn admin(number: u32, configs: Vec<(&'static str, String)>) -> Client {
        Client::new(number, Role::Admin { configs, is_done: false })
    }

    /// Writes to a partition.
    pub fn producer(number: u32, partition: usize, random: &mut Random) -> Client {
        let is_idempotent = random.coin();
        let acks = if is_idempotent { -1 } else { [0, 1, -1][random.index(3)] };
        Client::new(
            number,
            Role::Producer(Producer {
                partition,
                acks,
                is_idempotent,
                producer_id: None,
                next_number: 0,
                next_sequence: 0,
                in_flight: VecDeque::new(),
                sent: 0,
                is_known: false,
            }),
        )
    }

    /// Reads all partitions.
    pub fn consumer(number: u32, partitions: usize) -> Client {
        Client::new(number, Role::Consumer { positions: vec![0; partitions], is_lost: vec![false; partitions] })
    }

    /// Deletes records.
    pub fn deleter(number: u32) -> Client {
        Client::new(number, Role::Deleter)
    }

    /// Asks for offsets by time.
    pub fn asker(number: u32) -> Client {
        Client::new(number, Role::Asker)
    }

    /// Deletes a topic and creates it again.
    pub fn recreator(number: u32) -> Client {
        let doom =
            Doom { step: Step::Create, next_number: 0, first_number: 0, intruded: None, acknowledged: Vec::new() };
        Client::new(number, Role::Recreator(doom))
    }

    /// Writes to the topic of the recreator.
    pub fn intruder(number: u32) -> Client {
        Client::new(number, Role::Intruder { next_number: 0 })
    }

    /// Commits offsets of a group.
    pub fn committer(number: u32) -> Client {
        Client::new(number, Role::Committer(Commits::default()))
    }

    /// A member of the group, of the classic or the consumer protocol.
    pub fn member(number: u32, is_classic: bool) -> Client {
        Client::new(number, Role::Member(Member::new(is_classic)))
    }

    /// Sends what no client sends.
    pub fn hostile(number: u32) -> Client {
        Client::new(number, Role::Hostile)
    }

    /// Whether it is one.
    pub fn is_hostile(&self) -> bool {
        matches!(self.role, Role::Hostile)
    }

    /// Whether it waits for an answer that must come soon even while the disk is full: to a read, a question, a deletion.
    pub fn waits_impatiently(&self) -> bool {
        let is_impatient = matches!(self.role, Role::Consumer { .. } | Role::Deleter | Role::Asker);
        is_impatient && !self.outstanding.is_empty()
    }

    /// Whether its records lie in the log once, in its order.
    pub fn is_idempotent(&self) -> bool {
        matches!(&self.role, Role::Producer(producer) if producer.is_idempotent)
    }

    /// Whether something is still to be acknowledged.
    pub fn is_waiting(&self) -> bool {
        matches!(&self.role, Role::Producer(producer) if !producer.in_flight.is_empty())
    }

    /// How long until it acts again, in microseconds.
    pub fn pause_us(&self, random: &mut Random) -> u64 {
        match &self.role {
            Role::Producer(_) if random.one_in(20) => random.between(5_000, 50_000),
            Role::Producer(_) => random.between(200, 4_000),
            Role::Consumer { .. } => random.between(500, 8_000),
            Role::Admin { .. } => random.between(1_000, 5_000),
            Role::Deleter => random.between(10_000, 200_000),
            Role::Asker => random.between(5_000, 50_000),
            Role::Recreator(_) => random.between(500, 10_000),
            Role::Intruder { .. } => random.between(500, 5_000),
            Role::Committer(_) => random.between(1_000, 20_000),
            Role::Member(_) => random.between(500, 8_000),
            Role::Hostile => random.between(200, 5_000),
        }
    }

    /// The connection is gone: what was not answered must be asked again.
    pub fn disconnected(&mut self, knowledge: &mut Knowledge) {
        let unanswered: Vec<(i32, Asked)> = self.outstanding.drain(..).collect();
        if let Role::Member(member) = &mut self.role {
            let asked = unanswered.first().and_then(|(_, asked)| match asked {
                Asked::Member(asked) => Some(asked.clone()),
                _ => None,
            });
            if let Some((partition, offset)) = member.disconnected(asked) {
                knowledge.group.lose(partition, offset);
            }
        }
        if let (Role::Committer(commits), Some((_, Asked::Commit { offset }))) = (&mut self.role, unanswered.first()) {
            commits.lost.push(*offset);
        }
        self.received.clear();
        if let Role::Producer(producer) = &mut self.role {
            producer.sent = 0;
        }
    }

    /// The next request, if there is something to ask now.
    pub fn act(&mut self, random: &mut Random, knowledge: &mut Knowledge) -> Option<Bytes> {
        let correlation = self.correlation;
        let (api, asked, body): (Api, Option<Asked>, Encoded) = match &mut self.role {
            Role::Producer(producer) => producer.next(self.number, !self.outstanding.is_empty(), random, knowledge)?,
            Role::Hostile => return Some(hostile_frame(self.number, random, knowledge)),
            _ if !self.outstanding.is_empty() => return None,
            Role::Recreator(doom) => doom.next(self.number, knowledge)?,
            Role::Committer(commits) => commits.next(self.number, random),
            Role::Member(_) if knowledge.is_ending => return None,
            Role::Member(member) => {
                let partitions = knowledge.partitions.len();
                let (api, asked, body) = member.next(self.number, partitions, random, &mut knowledge.group);
                (api, Some(Asked::Member(asked)), body)
            }
            Role::Intruder { next_number } => {
                if knowledge.is_ending {
                    return None;
                }
                let number = *next_number;
                *next_number += 1;
                let records = batch_of(RecordId { client: self.number, number }, 1, None);
                (wire::PRODUCE, Some(Asked::Intrude { number }), Encoded::of(produce(wire::doomed(), 0, -1, records)))
            }
            Role::Admin { is_done: true, .. } => return None,
            Role::Admin { configs, .. } => {
                let body = create_topic(wire::topic(), knowledge.partitions.len(), configs);
                (wire::CREATE_TOPICS, Some(Asked::CreateTopic), Encoded::of(body))
            }
            Role::Consumer { positions, is_lost } => consume(positions, is_lost, random, knowledge),
            Role::Deleter => {
                let partition = random.index(knowledge.partitions.len());
                let known = &mut knowledge.partitions[partition];
                let room = (known.end - known.deleted_to).max(0) as u64;
                let offset = known.deleted_to + random.below(room / 2 + 1) as i64;
                known.deleted_to = offset;
                (
                    wire::DELETE_RECORDS,
                    Some(Asked::Delete { partition, offset }),
                    Encoded::of(delete(partition, offset)),
                )
            }
            Role::Asker => {
                let partition = random.index(knowledge.partitions.len());
                let Known { end, promised_start, .. } = knowledge.partitions[partition];
                let time = EPOCH_MS - random.below(600_000) as i64;
                let (timestamp, asked) = match random.below(4) {
                    0 => (-1, Asked::Latest { partition, end }),
                    1 => (-2, Asked::Earliest { partition, promised: promised_start }),
                    2 => (-3, Asked::Time { partition, query: None, until: end }),
                    _ => (time, Asked::Time { partition, query: Some(time), until: end }),
                };
                (wire::LIST_OFFSETS, Some(asked), Encoded::of(list_offsets(partition, timestamp)))
            }
        };
        self.correlation += 1;
        if let Some(asked) = asked {
            self.outstanding.push_back((correlation, asked));
        }
        Some(body.frame(api, correlation))
    }

    /// Takes bytes off the connection.
    pub fn receive(&mut self, bytes: &[u8], knowledge: &Knowledge) -> Result<Reaction, String> {
        let mut reaction = Reaction::default();
        if self.is_hostile() {
            // Whatever it is told, it deserves it.
            return Ok(reaction);
        }
        self.received.extend_from_slice(bytes);
        while let Some((correlation, body)) = wire::take_response(&mut self.received) {
            let (expected, asked) = self.outstanding.pop_front().ok_or("a response came that nobody had asked for")?;
            if correlation != expected {
                return Err(format!("response {correlation} came before response {expected}"));
            }
            self.answered(asked, body, knowledge, &mut reaction)?;
        }
        Ok(reaction)
    }

    fn answered(
        &mut self,
        asked: Asked,
        body: Bytes,
        knowledge: &Knowledge,
        reaction: &mut Reaction,
    ) -> Result<(), String> {
        match (asked, &mut self.role) {
            (Asked::CreateTopic, Role::Admin { is_done, .. }) => {
                let response: CreateTopicsResponse = wire::response(wire::CREATE_TOPICS, body)?;
                match response.topics[0].error_code {
                    0 | TOPIC_ALREADY_EXISTS => {
                        *is_done = true;
                        reaction.findings.push(Finding::TopicCreated);
                    }
                    error => return Err(format!("CreateTopics: error {error}: {:?}", response.topics[0])),
                }
            }
            (Asked::ProducerId, Role::Producer(producer)) => {
                let response: InitProducerIdResponse = wire::response(wire::INIT_PRODUCER_ID, body)?;
                if response.error_code != 0 || response.producer_epoch != 0 {
                    return Err(format!("InitProducerId: {response:?}"));
                }
                producer.producer_id = Some(response.producer_id);
                reaction.findings.push(Finding::ProducerId { id: response.producer_id });
            }
            (Asked::Produce { first, count }, Role::Producer(producer)) => {
                let response: ProduceResponse = wire::response(wire::PRODUCE, body)?;
                let result = &response.responses[0].partition_responses[0];
                producer.answered(self.number, first, count, result.error_code, result.base_offset, reaction)?;
            }
            (Asked::Fetch { items, known }, Role::Consumer { positions, is_lost }) => {
                let response: FetchResponse = wire::response(wire::FETCH, body)?;
                fetched(&response, &items, &known, knowledge, (positions, is_lost), reaction)?;
            }
            (Asked::Earliest { partition, promised }, role) => {
                if let Some((offset, _)) = listed(body, partition)? {
                    if offset < promised {
                        return Err(format!("partition {partition} starts at {offset}, before {promised}"));
                    }
                    if let Role::Consumer { positions, is_lost } = role {
                        positions[partition] = offset;
                        is_lost[partition] = false;
                    }
                }
            }
            (Asked::Latest { partition, end }, _) => {
                if let Some((offset, _)) = listed(body, partition)?
                    && offset < end
                {
                    return Err(format!("partition {partition} ends at {offset}, but reached {end} before"));
                }
            }
            (Asked::Time { partition, query, until }, _) => {
                // Looking for the largest time may pass over batches by what their headers say, unchecked.
                if let Some(found) = listed(body, partition)?
                    && !knowledge.has_retention
                    && !(knowledge.has_damage && query.is_none())
                {
                    let found = Some(found).filter(|found| found.0 >= 0);
                    reaction.findings.push(Finding::Time { partition, query, until, found });
                }
            }
            (Asked::Delete { partition, offset }, _) => {
                let response: DeleteRecordsResponse = wire::response(wire::DELETE_RECORDS, body)?;
                let result = &response.topics[0].partitions[0];
                match result.error_code {
                    0 if result.low_watermark < offset => {
                        return Err(format!("records before {offset} deleted, but the log starts at {result:?}"));
                    }
                    0 => {
                        reaction.findings.push(Finding::Promised { partition, log_start: result.low_watermark });
                    }
                    error if RETRIABLE.contains(&error) => {}
                    // A log that was not created yet ends at 0.
                    error => return Err(format!("DeleteRecords before {offset}: error {error}")),
                }
            }
            (asked @ (Asked::Coordinator | Asked::Commit { .. } | Asked::Committed), Role::Committer(commits)) => {
                commits.answered(asked, body)?;
            }
            (Asked::Member(asked), Role::Member(member)) => {
                let findings = member.answered(self.number, asked, body)?;
                reaction.findings.extend(findings.into_iter().map(Finding::Group));
            }
            (Asked::Doomed, Role::Recreator(doom)) => doom.answered(self.number, body)?,
            (Asked::Intrude { number }, Role::Intruder { .. }) => {
                let response: ProduceResponse = wire::response(wire::PRODUCE, body)?;
                match response.responses[0].partition_responses[0].error_code {
                    0 => reaction.findings.push(Finding::Intruded { number }),
                    error if RETRIABLE.contains(&error) => {}
                    error => return Err(format!("Produce to a doomed topic: error {error}")),
                }
            }
            (asked, role) => unreachable!("{role:?} does not ask {asked:?}"),
        }
        Ok(())
    }
}

/// A request's body, to be given its header.
pub struct Encoded(Box<dyn FnOnce(Api, i32) -> Bytes>);

impl Encoded {
    /// This one.
    pub fn of(body: impl kafka_wire_core::KafkaEncode + 'static) -> Encoded {
        Encoded(Box::new(move |api, correlation| wire::request(api, correlation, &body)))
    }

    fn frame(self, api: Api, correlation: i32) -> Bytes {
        (self.0)(api, correlation)
    }
}

impl Producer {
    fn next(
        &mut self,
        client: u32,
        is_waiting: bool,
        random: &mut Random,
        knowledge: &Knowledge,
    ) -> Option<(Api, Option<Asked>, Encoded)> {
        if self.is_idempotent && self.producer_id.is_none() {
            let mut body = InitProducerIdRequest::default();
            body.transactional_id = None;
            body.producer_id = -1;
            body.producer_epoch = -1;
            return (!is_waiting).then(|| (wire::INIT_PRODUCER_ID, Some(Asked::ProducerId), Encoded::of(body)));
        }
        if self.sent == self.in_flight.len() {
            let window = if self.is_idempotent && !self.is_known { 1 } else { IN_FLIGHT_MAX };
            if self.in_flight.len() >= window || knowledge.is_ending {
                return None;
            }
            let count = if random.one_in(8) { random.between(2, 12) as u32 } else { random.between(1, 3) as u32 };
            let id = RecordId { client, number: self.next_number };
            let records = batch_of(id, count, self.producer_id.map(|id| (id, 0, self.next_sequence)));
            self.in_flight.push_back(Batch { first: self.next_number, count, records });
            self.next_number += count;
            self.next_sequence += count as i32;
        }
        let Batch { first, count, ref records } = self.in_flight[self.sent];
        let mut body = produce(wire::topic(), self.partition, self.acks, records.clone());
        body.timeout_ms = if random.one_in(10) { 5 } else { 30_000 };
        let asked = if self.acks == 0 {
            // Nobody will say what became of it.
            self.in_flight.pop_front();
            None
        } else {
            self.sent += 1;
            Some(Asked::Produce { first, count })
        };
        Some((wire::PRODUCE, asked, Encoded::of(body)))
    }

    fn answered(
        &mut self,
        client: u32,
        first: u32,
        count: u32,
        error: i16,
        base_offset: i64,
        reaction: &mut Reaction,
    ) -> Result<(), String> {
        if reaction.reconnect {
            return Ok(());
        }
        let oldest = self.in_flight.front().map(|batch| batch.first);
        if oldest != Some(first) {
            return Err(format!("client {client}: answer to {first}, but {oldest:?} is older"));
        }
        match error {
            0 => {
                self.in_flight.pop_front();
                self.sent -= 1;
                self.is_known = true;
                let records = (0..count)
                    .map(|index| Found {
                        offset: base_offset + i64::from(index),
                        id: RecordId { client, number: first + index },
                    })
                    .collect();
                reaction.findings.push(Finding::Acknowledged { partition: self.partition, records });
                Ok(())
            }
            OUT_OF_ORDER_SEQUENCE_NUMBER => {
                Err(format!("client {client}: records from {first} follow what was acknowledged, but are refused"))
            }
            error if RETRIABLE.contains(&error) => {
                reaction.reconnect = true;
                Ok(())
            }
            error => Err(format!("client {client}: Produce: error {error}")),
        }
    }
}

impl Commits {
    fn next(&mut self, client: u32, random: &mut Random) -> (Api, Option<Asked>, Encoded) {
        let group = StrBytes::from(format!("group-{client}"));
        if !self.has_coordinator {
            let mut body = FindCoordinatorRequest::default();
            body.coordinator_keys = vec![group];
            return (wire::FIND_COORDINATOR, Some(Asked::Coordinator), Encoded::of(body));
        }
        if random.one_in(3) {
            let mut topic = OffsetFetchRequestTopics::default();
            topic.name = wire::topic();
            topic.partition_indexes = vec![0];
            let mut asked = OffsetFetchRequestGroup::default();
            asked.group_id = group;
            asked.topics = Some(vec![topic]);
            let mut body = OffsetFetchRequest::default();
            body.groups = vec![asked];
            return (wire::OFFSET_FETCH, Some(Asked::Committed), Encoded::of(body));
        }
        self.sent += 1;
        let mut item = OffsetCommitRequestPartition::default();
        item.committed_offset = self.sent;
        let mut topic = OffsetCommitRequestTopic::default();
        topic.name = wire::topic();
        topic.partitions = vec![item];
        let mut body = OffsetCommitRequest::default();
        body.group_id = group;
        body.topics = vec![topic];
        (wire::OFFSET_COMMIT, Some(Asked::Commit { offset: self.sent }), Encoded::of(body))
    }

    fn answered(&mut self, asked: Asked, body: Bytes) -> Result<(), String> {
        match asked {
            Asked::Coordinator => {
                let response: FindCoordinatorResponse = wire::response(wire::FIND_COORDINATOR, body)?;
                match response.coordinators[0].error_code {
                    0 => self.has_coordinator = true,
                    error if is_retriable(error) => {}
                    error => return Err(format!("FindCoordinator: error {error}")),
                }
            }
            Asked::Commit { offset } => {
                let response: OffsetCommitResponse = wire::response(wire::OFFSET_COMMIT, body)?;
                match response.topics[0].partitions[0].error_code {
                    0 => self.acknowledged = offset,
                    error if is_retriable(error) => {}
                    error => return Err(format!("OffsetCommit: error {error}")),
                }
            }
            _ => {
                let response: OffsetFetchResponse = wire::response(wire::OFFSET_FETCH, body)?;
                let group = &response.groups[0];
                if is_retriable(group.error_code) {
                    return Ok(());
                }
                let found = &group.topics[0].partitions[0];
                let committed = if found.committed_offset == -1 { 0 } else { found.committed_offset };
                let is_possible =
                    (self.acknowledged..=self.sent).contains(&committed) || self.lost.contains(&committed);
                if group.error_code != 0 || found.error_code != 0 || !is_possible {
                    let Commits { sent, acknowledged, .. } = self;
                    return Err(format!("offset {acknowledged} was committed, {sent} was sent last, found {group:?}"));
                }
            }
        }
        Ok(())
    }
}

impl Doom {
    fn next(&mut self, client: u32, knowledge: &Knowledge) -> Option<(Api, Option<Asked>, Encoded)> {
        if knowledge.is_ending {
            return None;
        }
        let (api, body) = match self.step {
            Step::Create => (wire::CREATE_TOPICS, Encoded::of(create_topic(wire::doomed(), 1, &[]))),
            Step::Write => {
                let records = batch_of(RecordId { client, number: self.next_number }, 1, None);
                self.next_number += 1;
                (wire::PRODUCE, Encoded::of(produce(wire::doomed(), 0, -1, records)))
            }
            Step::Read => {
                let mut item = FetchPartition::default();
                item.current_leader_epoch = -1;
                item.last_fetched_epoch = -1;
                item.log_start_offset = -1;
                item.partition_max_bytes = 400_000;
                let mut topic = FetchTopic::default();
                topic.topic = wire::doomed();
                topic.partitions = vec![item];
                (wire::FETCH, Encoded::of(fetch(vec![topic])))
            }
            Step::Delete => {
                self.intruded = knowledge.intruded;
                let mut body = DeleteTopicsRequest::default();
                body.topic_names = vec![wire::doomed()];
                body.timeout_ms = 30_000;
                (wire::DELETE_TOPICS, Encoded::of(body))
            }
        };
        Some((api, Some(Asked::Doomed), body))
    }

    fn answered(&mut self, client: u32, body: Bytes) -> Result<(), String> {
        self.step = match self.step {
            Step::Create => {
                let response: CreateTopicsResponse = wire::response(wire::CREATE_TOPICS, body)?;
                match response.topics[0].error_code {
                    // Nobody else creates it: if it is there already, an answer was lost.
                    0 | TOPIC_ALREADY_EXISTS => Step::Write,
                    error if RETRIABLE.contains(&error) => Step::Create,
                    error => return Err(format!("CreateTopics of a doomed topic: error {error}")),
                }
            }
            Step::Write => {
                let response: ProduceResponse = wire::response(wire::PRODUCE, body)?;
                let result = &response.responses[0].partition_responses[0];
                match result.error_code {
                    0 => {
                        let id = RecordId { client, number: self.next_number - 1 };
                        self.acknowledged.push(Found { offset: result.base_offset, id });
                    }
                    error if RETRIABLE.contains(&error) => {}
                    error => return Err(format!("Produce to a topic just created: error {error}")),
                }
                if self.next_number.is_multiple_of(6) { Step::Read } else { Step::Write }
            }
            Step::Read => {
                let response: FetchResponse = wire::response(wire::FETCH, body)?;
                let result = &response.responses[0].partitions[0];
                match result.error_code {
                    0 => {
                        let bytes = result.records.clone().unwrap_or_default();
                        match records_in(&bytes, 0) {
                            Ok((records, next)) => self.check(client, &records, next)?,
                            Err(Unreadable::Damaged(_)) => {}
                            Err(unreadable) => return Err(unreadable.into()),
                        }
                        Step::Delete
                    }
                    error if RETRIABLE.contains(&error) => Step::Read,
                    error => return Err(format!("Fetch of a topic just created: error {error}")),
                }
            }
            Step::Delete => {
                let response: DeleteTopicsResponse = wire::response(wire::DELETE_TOPICS, body)?;
                match response.responses[0].error_code {
                    // Nobody else deletes it: if it is unknown, an answer was lost.
                    0 | UNKNOWN_TOPIC_OR_PARTITION => {
                        self.first_number = self.next_number;
                        self.acknowledged.clear();
                        Step::Create
                    }
                    error if RETRIABLE.contains(&error) => Step::Delete,
                    error => return Err(format!("DeleteTopics: error {error}")),
                }
            }
        };
        Ok(())
    }

    /// All that is read belongs to this life, and what was acknowledged in it is there.
    fn check(&self, client: u32, records: &[Found], next: i64) -> Result<(), String> {
        let is_old = |found: &&Found| match found.id {
            RecordId { client: writer, number } if writer == client => number < self.first_number,
            RecordId { number, .. } => self.intruded.is_some_and(|last| number <= last),
        };
        if let Some(old) = records.iter().find(is_old) {
            return Err(format!("{old:?} was deleted with its topic, and is there again"));
        }
        let is_lost = |found: &&Found| found.offset < next && !records.contains(found);
        match self.acknowledged.iter().find(is_lost) {
            Some(lost) => Err(format!("{lost:?} is lost from a topic just created: {records:?}")),
            None => Ok(()),
        }
    }
}

/// A request that no client sends: a good one with some bytes changed or cut, or nonsense.
fn hostile_frame(client: u32, random: &mut Random, knowledge: &Knowledge) -> Bytes {
    let partition = random.index(knowledge.partitions.len());
    let mut frame = match random.below(6) {
        0 => {
            let id = RecordId { client, number: random.below(1_000) as u32 };
            let records = batch_of(id, 1, random.coin().then_some((random.next() as i64, 0, 0)));
            wire::request(wire::PRODUCE, 0, &produce(wire::topic(), partition, -1, records))
        }
        1 => {
            let (api, _, body) = consume(&vec![0; partition + 1], &[], random, knowledge);
            body.frame(api, 0)
        }
        2 => wire::request(wire::LIST_OFFSETS, 0, &list_offsets(partition, -random.between(1, 5).cast_signed())),
        3 => wire::request(wire::INIT_PRODUCER_ID, 0, &InitProducerIdRequest::default()),
        4 => {
            // The header of any request, and nonsense behind it.
            let mut frame = wire::request(wire::PRODUCE, 0, &ProduceRequest::default()).to_vec();
            frame[1] = random.below(80) as u8;
            frame[3] = random.below(18) as u8;
            frame.extend((0..random.below(200)).map(|_| random.next() as u8));
            return frame.into();
        }
        _ => (0..random.below(300)).map(|_| random.next() as u8).collect(),
    }
    .to_vec();
    for _ in 0..random.below(4) {
        let position = random.index(frame.len());
        match random.below(3) {
            0 => frame.truncate(position),
            1 if position < frame.len() => frame[position] = random.next() as u8,
            _ => {
                let end = (position + 4).min(frame.len());
                frame[position..end].fill([0xff, 0x7f, 0x80, 0x00][random.index(4)]);
            }
        }
    }
    frame.into()
}

fn produce(topic: StrBytes, partition: usize, acks: i16, records: Bytes) -> ProduceRequest {
    let mut item = PartitionProduceData::default();
    item.index = partition as i32;
    item.records = Some(records);
    let mut data = TopicProduceData::default();
    data.name = topic;
    data.partition_data = vec![item];
    let mut body = ProduceRequest::default();
    body.transactional_id = None;
    body.acks = acks;
    body.timeout_ms = 30_000;
    body.topic_data = vec![data];
    body
}

fn fetch(topics: Vec<FetchTopic>) -> FetchRequest {
    let mut body = FetchRequest::default();
    body.replica_id = -1;
    body.max_bytes = 400_000;
    body.session_epoch = -1;
    body.topics = topics;
    body
}

fn create_topic(name: StrBytes, partitions: usize, configs: &[(&'static str, String)]) -> CreateTopicsRequest {
    let mut topic = CreatableTopic::default();
    topic.name = name;
    topic.num_partitions = partitions as i32;
    topic.replication_factor = 1;
    topic.configs = configs
        .iter()
        .map(|(name, value)| {
            let mut config = CreatableTopicConfig::default();
            config.name = StrBytes::from(*name);
            config.value = Some(StrBytes::from(value.as_str()));
            config
        })
        .collect();
    let mut body = CreateTopicsRequest::default();
    body.topics = vec![topic];
    body.timeout_ms = 1_000;
    body
}

fn delete(partition: usize, offset: i64) -> DeleteRecordsRequest {
    let mut item = DeleteRecordsPartition::default();
    item.partition_index = partition as i32;
    item.offset = offset;
    let mut topic = DeleteRecordsTopic::default();
    topic.name = wire::topic();
    topic.partitions = vec![item];
    let mut body = DeleteRecordsRequest::default();
    body.topics = vec![topic];
    body.timeout_ms = 30_000;
    body
}

fn list_offsets(partition: usize, timestamp: i64) -> ListOffsetsRequest {
    let mut item = ListOffsetsPartition::default();
    item.partition_index = partition as i32;
    item.current_leader_epoch = -1;
    item.timestamp = timestamp;
    let mut topic = ListOffsetsTopic::default();
    topic.name = wire::topic();
    topic.partitions = vec![item];
    let mut body = ListOffsetsRequest::default();
    body.replica_id = -1;
    body.topics = vec![topic];
    body
}

/// The offset and timestamp that ListOffsets found; None if it is to be asked again.
fn listed(body: Bytes, partition: usize) -> Result<Option<(i64, i64)>, String> {
    let response: ListOffsetsResponse = wire::response(wire::LIST_OFFSETS, body)?;
    let result = &response.topics[0].partitions[0];
    if result.partition_index != partition as i32 {
        return Err(format!("ListOffsets answers another question: {result:?}"));
    }
    match result.error_code {
        0 => Ok(Some((result.offset, result.timestamp))),
        // The segment that was searched by time was removed meanwhile.
        OFFSET_NOT_AVAILABLE => Ok(None),
        error if RETRIABLE.contains(&error) => Ok(None),
        error => Err(format!("ListOffsets: error {error}")),
    }
}

fn consume(
    positions: &[i64],
    is_lost: &[bool],
    random: &mut Random,
    knowledge: &Knowledge,
) -> (Api, Option<Asked>, Encoded) {
    if let Some(partition) = is_lost.iter().position(|lost| *lost) {
        let promised = knowledge.partitions[partition].promised_start;
        let asked = Asked::Earliest { partition, promised };
        return (wire::LIST_OFFSETS, Some(asked), Encoded::of(list_offsets(partition, -2)));
    }
    let first = random.index(positions.len());
    let count = random.between(1, positions.len() as u64) as usize;
    let mut items = Vec::new();
    for partition in (0..positions.len()).cycle().skip(first).take(count) {
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
        .map(|(partition, offset)| {
            let mut item = FetchPartition::default();
            item.partition = *partition as i32;
            item.current_leader_epoch = -1;
            item.fetch_offset = *offset;
            item.last_fetched_epoch = -1;
            item.log_start_offset = -1;
            item.partition_max_bytes = random.between(1, 200_000) as i32;
            item
        })
        .collect();
    let mut topic = FetchTopic::default();
    topic.topic = wire::topic();
    topic.partitions = partitions;
    let mut body = fetch(vec![topic]);
    body.max_wait_ms = [0, 5, 50][random.index(3)];
    body.min_bytes = [0, 1, 10_000][random.index(3)];
    body.max_bytes = random.between(1, 400_000) as i32;
    (wire::FETCH, Some(Asked::Fetch { items, known: knowledge.partitions.clone() }), Encoded::of(body))
}

fn fetched(
    response: &FetchResponse,
    items: &[(usize, i64)],
    known: &[Known],
    knowledge: &Knowledge,
    (positions, is_lost): (&mut [i64], &mut [bool]),
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
            OFFSET_OUT_OF_RANGE => {
                let lowest = knowledge.partitions[partition].deleted_to;
                if !knowledge.has_retention && (lowest..=known[partition].end).contains(offset) {
                    return Err(format!("partition {partition}: offset {offset} is said to be out of range"));
                }
                is_lost[partition] = true;
                continue;
            }
            error if RETRIABLE.contains(&error) => continue,
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
        if next > result.high_watermark {
            return Err(format!("partition {partition}: records up to {next} beyond {}", result.high_watermark));
        }
        if *offset == positions[partition] {
            positions[partition] = next;
        }
        reaction.findings.push(Finding::Read { partition, offset: *offset, records });
    }
    Ok(())
}
