//! What shards and the controller say to a shard. Plain data that may cross threads.
//!
//! A client's connection lives on its *session* shard, a partition on its *owner*. The session shard asks owners about
//! batches of partitions in one message each and gets one reply for each; `slot` numbers a partition within its
//! request, so that replies find their place.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_replication::controller::{AlterPartition, AlteredPartition};
use millstream_replication::{ApiError, ClusterImage, ControllerResponse, ErrorCode, MetadataRecord};
use millstream_storage::PartitionKey;
use millstream_storage::producer::ProducerView;
use millstream_storage::shard_log::ReadPlan;

use super::event::{RequestId, ShardIndex};
use crate::group::{ClientInfo, GroupRequest};
use crate::protocol::fetch::DivergingEpoch;

/// Partitions that one Produce or Fetch request may name; a request with more closes its connection.
pub const REQUEST_PARTITIONS_MAX: usize = 100_000;

/// What the controller has said to each proposal, or why it has said nothing.
pub type Altered = Result<Vec<(PartitionKey, Result<AlteredPartition, ApiError>)>, ApiError>;

/// A message to a shard.
#[allow(missing_docs, reason = "the line of a variant says what its fields are")]
#[derive(Debug)]
pub enum Message {
    /// Metadata records were committed: adopt the image that they made. `offset` is that of the last one.
    Metadata { offset: u64, records: Arc<Vec<MetadataRecord>>, image: Arc<ClusterImage> },
    /// Leaders here propose who is to be in sync: a session asks the controller.
    Propose(Vec<(PartitionKey, AlterPartition)>),
    /// What the controller has said to [`Message::Propose`].
    Altered(Altered),
    /// The controller's answer to [`super::event::Effect::ToController`]. The records it decided came before it.
    Controller { token: u64, response: ControllerResponse },
    /// Session to owner: append.
    Append(Append),
    /// Owner to session: every partition of an append was refused or is committed.
    Appended(Appended),
    /// Session to owner: read.
    Read(ReadRequest),
    /// Owner to session: what was read.
    ReadReply(ReadReply),
    /// Session to owner: say when one of these partitions has more to read.
    Watch(Watch),
    /// Session to owner: forget the watches of a request.
    Unwatch { from: ShardIndex, request: RequestId },
    /// Owner to session: these partitions of a watching request have more to read.
    Wake { request: RequestId, slots: Vec<u32> },
    /// Session to owner: a question about offsets.
    Query(Query),
    /// Session to owner: answer what is left of a request's questions, for its time is up.
    EndQuery { from: ShardIndex, request: RequestId },
    /// Owner to session: its answers.
    QueryDone(QueryDone),
    /// Session to owner: a round of a survey.
    Survey(SurveyCall),
    /// Owner to session: what it found.
    Surveyed(SurveyDone),
    /// Session to session: what clients under quotas used.
    QuotaUse(Arc<Vec<Used>>),
    /// Session to owner: for coordinators of groups.
    Group(GroupCall),
    /// Owner to session: a coordinator's response, without its header.
    GroupDone { request: RequestId, slot: u32, body: Bytes },
}

/// Batches to append, checked by the session.
#[derive(Debug)]
pub struct Append {
    /// The session's shard.
    pub from: ShardIndex,
    /// The request.
    pub request: RequestId,
    /// How many replicas must have them before the reply: 0, 1, or -1 for all in sync.
    pub acks: i16,
    /// The partitions, in the request's order.
    pub items: Vec<AppendItem>,
}

/// One partition of an [`Append`].
#[derive(Debug)]
pub struct AppendItem {
    /// Its place in the request.
    pub slot: u32,
    /// The partition.
    pub key: PartitionKey,
    /// Whole batches.
    pub records: Bytes,
}

/// When an owner worked on an [`Append`], in [`millstream_storage::Now::elapsed`]'s time.
#[derive(Clone, Copy, Debug)]
pub struct AppendTimes {
    /// It began.
    pub began: Duration,
    /// The turn in which it appended ended.
    pub appended: Duration,
    /// Everything is committed, or refused.
    pub committed: Duration,
}

/// The reply to an [`Append`].
#[derive(Debug)]
pub struct Appended {
    /// The request.
    pub request: RequestId,
    /// What took how long.
    pub times: AppendTimes,
    /// One for each item, in their order.
    pub results: Vec<AppendResult>,
}

/// What became of one partition of an [`Append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendResult {
    /// Its place in the request.
    pub slot: u32,
    /// What went wrong, or `None`.
    pub error: ErrorCode,
    /// Offset of the first record, -1 with an error.
    pub base_offset: i64,
    /// Offset of the last record, -1 with an error.
    pub last_offset: i64,
    /// The broker's time in the records with LogAppendTime, else -1; milliseconds.
    pub log_append_time: i64,
    /// The first offset that may be read, -1 with an error.
    pub log_start_offset: i64,
}

impl AppendResult {
    /// A failure.
    pub fn error(slot: u32, error: ErrorCode) -> AppendResult {
        AppendResult { slot, error, base_offset: -1, last_offset: -1, log_append_time: -1, log_start_offset: -1 }
    }
}

/// Partitions to read from.
#[derive(Debug)]
pub struct ReadRequest {
    /// The session's shard.
    pub from: ShardIndex,
    /// The request.
    pub request: RequestId,
    /// How many bytes of records the whole response may hold, but for its first batch.
    pub bytes_max: usize,
    /// The partitions, in the request's order.
    pub items: Vec<ReadItem>,
}

/// One partition of a [`ReadRequest`].
#[derive(Clone, Copy, Debug)]
pub struct ReadItem {
    /// Its place in the request.
    pub slot: u32,
    /// The partition.
    pub key: PartitionKey,
    /// The first offset wanted.
    pub offset: i64,
    /// How many bytes of records are wanted, but for the first batch.
    pub bytes_max: usize,
    /// The leader epoch the client knows, or -1.
    pub current_leader_epoch: i32,
    /// The leader epoch of the last record the client has, or -1.
    pub last_fetched_epoch: i32,
}

/// The reply to a [`ReadRequest`].
#[derive(Debug)]
pub struct ReadReply {
    /// The request.
    pub request: RequestId,
    /// When the owner began to read, in [`millstream_storage::Now::elapsed`]'s time.
    pub began: Duration,
    /// One for each item, in their order.
    pub results: Vec<(u32, ReadResult)>,
}

/// What one partition of a [`ReadRequest`] has to say.
#[derive(Clone, Debug)]
pub struct ReadResult {
    /// What went wrong, or `None`.
    pub error: ErrorCode,
    /// One past the last offset a consumer may read; -1 with an error.
    pub high_watermark: i64,
    /// The first offset that may be read; -1 with an error.
    pub log_start_offset: i64,
    /// Bytes committed to the partition since its log was opened, as of this read: see [`WatchItem::committed_bytes`].
    pub committed_bytes: u64,
    /// Set when the client's log is not a prefix of ours.
    pub diverging_epoch: Option<DivergingEpoch>,
    /// The records.
    pub plan: ReadPlan,
}

impl ReadResult {
    /// A failure.
    pub fn error(error: ErrorCode) -> ReadResult {
        ReadResult {
            error,
            high_watermark: -1,
            log_start_offset: -1,
            committed_bytes: 0,
            diverging_epoch: None,
            plan: ReadPlan::default(),
        }
    }
}

/// Partitions to watch, once: each wakes the request at most once.
#[derive(Debug)]
pub struct Watch {
    /// The session's shard.
    pub from: ShardIndex,
    /// The request.
    pub request: RequestId,
    /// The partitions.
    pub items: Vec<WatchItem>,
}

/// One partition of a [`Watch`].
#[derive(Clone, Copy, Debug)]
pub struct WatchItem {
    /// Its place in the request.
    pub slot: u32,
    /// The partition.
    pub key: PartitionKey,
    /// Wake when at least this many bytes were committed to the partition since its log was opened.
    pub committed_bytes: u64,
    /// Wake when the log start offset is no longer this one.
    pub log_start_offset: i64,
}

/// Questions about the offsets of partitions.
#[derive(Debug)]
pub struct Query {
    /// The session's shard.
    pub from: ShardIndex,
    /// The request.
    pub request: RequestId,
    /// The questions, in the request's order.
    pub items: Vec<QueryItem>,
}

/// One question of a [`Query`].
#[derive(Clone, Copy, Debug)]
pub struct QueryItem {
    /// Its place in the request.
    pub slot: u32,
    /// The partition.
    pub key: PartitionKey,
    /// The leader epoch the client knows, or -1.
    pub current_leader_epoch: i32,
    /// What is asked.
    pub question: Question,
}

/// ListOffsets: the high watermark.
pub const LATEST_TIMESTAMP: i64 = -1;
/// ListOffsets: the log start offset.
pub const EARLIEST_TIMESTAMP: i64 = -2;
/// ListOffsets: the record with the largest timestamp (KIP-734).
pub const MAX_TIMESTAMP: i64 = -3;
/// ListOffsets: the first offset that is not only in remote storage (KIP-405): there is none, so the log start offset.
pub const EARLIEST_LOCAL_TIMESTAMP: i64 = -4;
/// ListOffsets: the last offset in remote storage (KIP-1005): there is none.
pub const LATEST_TIERED_TIMESTAMP: i64 = -5;

/// What may be asked about a partition's offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// ListOffsets, by its timestamp: milliseconds, or one of the negative numbers that stand for places in the log.
    Offset { timestamp: i64 },
    /// DeleteRecords: move the log start here; -1 is the high watermark. Answered when all in sync have done so, with the low
    /// watermark; REQUEST_TIMED_OUT if [`Message::EndQuery`] comes before.
    DeleteRecords { before_offset: i64 },
    /// OffsetForLeaderEpoch: where the largest epoch at or below this one ended.
    EpochEnd { leader_epoch: i32 },
}

/// The reply to a [`Query`].
#[derive(Debug)]
pub struct QueryDone {
    /// The request.
    pub request: RequestId,
    /// One for each item, in no order.
    pub answers: Vec<(u32, Answer)>,
}

/// The answer to one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What went wrong, or `None`.
    pub error: ErrorCode,
    /// The offset asked for; the low watermark for DeleteRecords; -1 when there is none.
    pub offset: i64,
    /// The timestamp of the record there, milliseconds, or -1.
    pub timestamp: i64,
    /// The leader epoch of the record there, or the epoch found, or -1.
    pub leader_epoch: i32,
}

impl Answer {
    /// A failure.
    pub fn error(error: ErrorCode) -> Answer {
        Answer { error, offset: -1, timestamp: -1, leader_epoch: -1 }
    }
}

/// What a survey asks of each partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The bytes of its log, and how far that is behind.
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
    /// Its log.
    Size {
        /// Its bytes.
        bytes: u64,
        /// How many records it lacks of those that are committed: [`millstream_replication::Replica::behind_committed`].
        behind: Option<u64>,
    },
    /// Its idempotent producers.
    Producers(Vec<ProducerView>),
}

/// What a quota limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// `producer_byte_rate`
    Produce,
    /// `consumer_byte_rate`
    Fetch,
}

/// Whose bytes are counted together: of a user, of a client id, of both, or of all that are counted in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Payer {
    /// What is limited.
    pub direction: Direction,
    /// `None`: whatever the user.
    pub user: Option<Arc<str>>,
    /// `None`: whatever the client id.
    pub client_id: Option<Arc<str>>,
}

/// Bytes that connections of one shard used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// Whose they are.
    pub payer: Payer,
    /// How many bytes.
    pub bytes: u64,
}

/// Requests to coordinators of groups.
#[derive(Debug)]
pub struct GroupCall {
    /// The session's shard.
    pub from: ShardIndex,
    /// The request.
    pub request: RequestId,
    /// Who sent it.
    pub client: ClientInfo,
    /// Its parts.
    pub items: Vec<GroupItem>,
}

/// A request to one coordinator.
#[derive(Debug)]
pub struct GroupItem {
    /// Its place among the parts of the client's request.
    pub slot: u32,
    /// The partition of `__consumer_offsets`.
    pub key: PartitionKey,
    /// What is asked.
    pub request: GroupRequest,
}

/// What a session asks of partitions, gathered by the shards that own them.
#[derive(Debug)]
pub struct ByOwner<T> {
    /// Few: as many as there are shards at most.
    owners: Vec<(ShardIndex, Vec<T>)>,
}

impl<T> Default for ByOwner<T> {
    fn default() -> Self {
        ByOwner { owners: Vec::new() }
    }
}

impl<T> ByOwner<T> {
    /// Adds an item for a shard.
    pub fn push(&mut self, owner: ShardIndex, item: T) {
        match self.owners.iter_mut().find(|(shard, _)| *shard == owner) {
            Some((_, items)) => items.push(item),
            None => self.owners.push((owner, vec![item])),
        }
    }

    /// How many shards are asked.
    pub fn len(&self) -> usize {
        self.owners.len()
    }

    /// Whether none is asked.
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }
}

impl<T> IntoIterator for ByOwner<T> {
    type Item = (ShardIndex, Vec<T>);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.owners.into_iter()
    }
}
