//! The session's side of Produce: check every batch, hand them to their owners, answer when all have replied.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use bytes::Bytes;
use millstream_replication::ErrorCode;
use millstream_replication::config::{TopicCompression, TopicSettings};
use millstream_storage::batch::{BatchHeader, BatchRules, Codec, Refusal, RefusalError, validate_client_batches};
use millstream_storage::{PartitionKey, TopicId, records};

use super::clients::Clients;
use super::connection::Response;
use super::quotas::throttle_time_ms;
use super::stages::Stage;
use super::timer::Waits;
use crate::protocol::header::{RequestHeader, ResponseHeader, finish_frame};
use crate::protocol::produce::{PartitionResult, ProduceRequest, Rejection, write_response};
use crate::protocol::wire::WireError;
use crate::shard::event::RequestId;
use crate::shard::message::{Append, AppendItem, Appended, ByOwner, Direction, Message, REQUEST_PARTITIONS_MAX};
use crate::shard::metadata::NotHere;
use crate::shard::turn::Turn;

/// From this version of Produce on a batch may be compressed with zstd (KIP-110).
const ZSTD_FROM: i16 = 7;
/// About what a partition takes in a response.
const RESULT_BYTES: usize = 40;

/// A request that waits for owners.
#[derive(Debug)]
struct PendingProduce {
    header: ResponseHeader,
    /// Keeps the frame: the response names the same topics.
    request: ProduceRequest,
    /// In the order in which the request names the partitions. Those not answered yet say that the time is up.
    results: Vec<PartitionResult>,
    owners_left: usize,
    deadline: Duration,
    /// How long a quota makes the client wait.
    throttle: Duration,
}

/// Produce requests under way at this shard, as the session.
#[derive(Debug, Default)]
pub struct Produces {
    pending: HashMap<RequestId, PendingProduce>,
}

/// A request whose batches were checked.
struct Checked {
    results: Vec<PartitionResult>,
    appends: ByOwner<AppendItem>,
}

impl Produces {
    /// Takes a Produce request.
    pub fn take(
        &mut self,
        turn: &mut Turn<'_>,
        clients: &mut Clients,
        id: RequestId,
        header: &RequestHeader,
        body: Bytes,
    ) {
        let bytes = body.len();
        let checked = ProduceRequest::parse(body, header.api_version)
            .and_then(|request| Ok((check(turn, &request, header.api_version)?, request)));
        let Ok((Checked { results, appends }, request)) = checked else {
            return clients.close(turn, id);
        };
        let charge = clients.charge(turn, Direction::Produce, header.client_id.as_deref());
        // At once, so that what the client has sent behind this request stays with it; the response says for how long.
        let throttle = clients.pay(turn, id.connection, charge, bytes);
        let acks = request.acks;
        let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
        let deadline = turn.now.elapsed + timeout;
        let owners_left = appends.len();
        let pending = PendingProduce { header: header.response(), request, results, owners_left, deadline, throttle };
        if appends.is_empty() {
            return pending.finish(turn, clients, id);
        }
        clients.timers.set(deadline, id, Waits::Produce);
        self.pending.insert(id, pending);
        for (owner, items) in appends {
            let append = Append { from: turn.options.index, request: id, acks, items };
            turn.tell(owner, Message::Append(append));
        }
    }

    /// An owner has replied.
    pub fn appended(&mut self, turn: &mut Turn<'_>, clients: &mut Clients, appended: Appended) {
        let Appended { request: id, times, results } = appended;
        // It may be gone: its time was up, or its connection is closed.
        let Entry::Occupied(mut entry) = self.pending.entry(id) else { return };
        let pending = entry.get_mut();
        for appended in results {
            pending.results[appended.slot as usize] = PartitionResult {
                base_offset: appended.base_offset,
                log_append_time: appended.log_append_time,
                log_start_offset: appended.log_start_offset,
                ..PartitionResult::error(appended.error.code())
            };
        }
        assert!(pending.owners_left > 0, "an owner replies once");
        pending.owners_left -= 1;
        if pending.owners_left == 0 {
            let pending = entry.remove();
            clients.timers.clear(pending.deadline, id);
            // The owner that was last is the one that was waited for.
            if let Some(timeline) = clients.connections.timeline(id) {
                timeline.enter(Stage::Local, times.began);
                timeline.enter(Stage::Remote, times.appended);
                timeline.enter(Stage::Respond, times.committed);
            }
            pending.finish(turn, clients, id);
        }
    }

    /// The time of a request is up: what is not committed by now is answered with REQUEST_TIMED_OUT, and may be
    /// committed later.
    pub fn timed_out(&mut self, turn: &mut Turn<'_>, clients: &mut Clients, id: RequestId) {
        let pending = self.pending.remove(&id).expect("a deadline belongs to a request");
        pending.finish(turn, clients, id);
    }

    /// Forgets a request whose connection is gone.
    pub fn cancel(&mut self, clients: &mut Clients, id: RequestId) {
        if let Some(pending) = self.pending.remove(&id) {
            clients.timers.clear(pending.deadline, id);
        }
    }
}

impl PendingProduce {
    fn finish(self, turn: &mut Turn<'_>, clients: &mut Clients, id: RequestId) {
        let PendingProduce { header, request, mut results, throttle, .. } = self;
        let errors = results.iter().filter(|result| result.error_code != 0).count();
        clients.counters.produce_errors += errors as u64;
        if request.acks == 0 {
            // There is no reply to carry an error: a closed connection makes the client refresh its metadata.
            let response = if errors > 0 { Response::Close } else { Response::Nothing };
            return clients.connections.respond(id, response, turn.effects);
        }
        find_leaders(turn, &request, &mut results);
        let leaders = results.iter().filter_map(|result| result.current_leader);
        let endpoints = turn.metadata.endpoints(leaders, clients.listener(turn, id.connection));
        let mut writer = header.begin_frame(64 + RESULT_BYTES * results.len());
        write_response(&mut writer, &request, &results, &endpoints, throttle_time_ms(throttle));
        clients.reply(turn, id, finish_frame(writer));
    }
}

/// Finds the leaders of the partitions that an owner has refused since another leads them.
fn find_leaders(turn: &Turn<'_>, request: &ProduceRequest, results: &mut [PartitionResult]) {
    let is_led_otherwise = |result: &PartitionResult| result.error_code == ErrorCode::NotLeaderOrFollower.code();
    if !results.iter().any(|result| is_led_otherwise(result) && result.current_leader.is_none()) {
        return;
    }
    let mut results = results.iter_mut();
    let mut topics = request.topics();
    // The request was walked once already: there is no error to come.
    while let Ok(Some(topic)) = topics.next_topic() {
        let found = turn.metadata.topic(&topic.topic);
        while let Ok(Some(partition)) = topics.next_partition() {
            let Some(result) = results.next() else { return };
            if let (true, Ok(topic)) = (is_led_otherwise(result), found) {
                let key = PartitionKey { topic_id: topic.id, partition: partition.index };
                result.current_leader = turn.metadata.current_leader(key);
            }
        }
    }
}

/// Walks a request to its end and checks every batch. Nothing is appended when the frame turns out to be broken.
fn check(turn: &Turn<'_>, request: &ProduceRequest, version: i16) -> Result<Checked, WireError> {
    let refused = if !(-1..=1).contains(&request.acks) {
        Some(ErrorCode::InvalidRequiredAcks)
    } else if request.transactional_id.is_some() {
        // Transactions are not served; see `producer_ids.rs` for why this error.
        Some(ErrorCode::TransactionalIdAuthorizationFailed)
    } else {
        None
    };
    let mut checked = Checked { results: Vec::new(), appends: ByOwner::default() };
    let mut topics = request.topics();
    while let Some(topic) = topics.next_topic()? {
        if checked.results.len() + topic.partition_count > REQUEST_PARTITIONS_MAX {
            return Err(WireError::CountTooLarge);
        }
        let found = turn.metadata.topic(&topic.topic).map(|topic| (topic, batch_rules(turn, version, topic.id)));
        while let Some(partition) = topics.next_partition()? {
            let outcome = match (refused, &found) {
                (Some(error), _) => Err(PartitionResult::error(error.code())),
                (None, Err(not_here)) => Err(not_here_result(*not_here)),
                (None, Ok((topic, _))) if topic.internal => {
                    Err(PartitionResult::error(ErrorCode::InvalidTopicException.code()))
                }
                (None, Ok((topic, (rules, settings)))) => {
                    turn.metadata.led_partition(topic, partition.index).map_err(not_here_result).and_then(|key| {
                        let records = partition.records.unwrap_or_default();
                        Ok((key, check_records(records, rules, settings).map_err(refusal_result)?))
                    })
                }
            };
            let slot = checked.results.len() as u32;
            match outcome {
                Ok((key, records)) => {
                    checked.appends.push(turn.options.owner(key), AppendItem { slot, key, records });
                    checked.results.push(PartitionResult::error(ErrorCode::RequestTimedOut.code()));
                }
                Err(result) => checked.results.push(result),
            }
        }
    }
    Ok(checked)
}

fn batch_rules<'a>(turn: &Turn<'a>, version: i16, topic: TopicId) -> (BatchRules, &'a TopicSettings) {
    let settings = turn.metadata.settings(topic);
    let rules = BatchRules {
        max_message_bytes: settings.max_message_bytes,
        timestamp_before_max_ms: settings.timestamp_before_max_ms,
        timestamp_after_max_ms: settings.timestamp_after_max_ms,
        now_ms: turn.now.unix_ms,
        timestamp_type: settings.log.timestamp_type,
        compacted: settings.compacted,
        zstd_allowed: version >= ZSTD_FROM,
    };
    (rules, settings)
}

/// Checks a client's records, and compresses them anew where the topic wants another codec.
fn check_records(records: Bytes, rules: &BatchRules, settings: &TopicSettings) -> Result<Bytes, Refusal> {
    validate_client_batches(&records, rules)?;
    let wanted = match settings.compression {
        TopicCompression::Producer => return Ok(records),
        TopicCompression::Uncompressed => Codec::None,
        TopicCompression::Gzip => Codec::Gzip,
        TopicCompression::Snappy => Codec::Snappy,
        TopicCompression::Lz4 => Codec::Lz4,
        TopicCompression::Zstd => Codec::Zstd,
    };
    let header = BatchHeader::read(&records).expect("the batch was checked");
    if header.codec() == Ok(wanted) {
        return Ok(records);
    }
    Ok(Bytes::from(records::recode(&records, wanted, settings.compression_level)?))
}

fn not_here_result(not_here: NotHere) -> PartitionResult {
    PartitionResult { current_leader: not_here.leader, ..PartitionResult::error(not_here.error.code()) }
}

fn refusal_result(refusal: Refusal) -> PartitionResult {
    let error = match refusal.error {
        RefusalError::CorruptMessage => ErrorCode::CorruptMessage,
        RefusalError::MessageTooLarge => ErrorCode::MessageTooLarge,
        RefusalError::InvalidRecord => ErrorCode::InvalidRecord,
        RefusalError::InvalidTimestamp => ErrorCode::InvalidTimestamp,
        RefusalError::UnsupportedCompressionType => ErrorCode::UnsupportedCompressionType,
    };
    let message = refusal.message.into_owned();
    let records = refusal.record_index.map(|index| (index, Some(message.clone()))).into_iter().collect();
    let rejection = Rejection { message: Some(message), records };
    PartitionResult { rejection: Some(Box::new(rejection)), ..PartitionResult::error(error.code()) }
}
