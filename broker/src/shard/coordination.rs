//! The owner's side of consumer groups: one coordinator for each partition of `__consumer_offsets` that is led here. Its
//! state is loaded from the partition's log, its writes are appended to it, and its answers leave when those are
//! committed.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use millstream_replication::ErrorCode;
use millstream_replication::config::{Properties, broker_value};
use millstream_storage::batch::{BatchBuilder, Batches, verify_crc};
use millstream_storage::records::OpenBatch;
use millstream_storage::shard_log::{LogId, Read as LogRead, ReadPart, ReadPlan, ReadToken};
use millstream_storage::{DiskError, DiskOp, DiskReply, DiskToken, Now};

use super::append::append_error;
use super::message::{GroupCall, Message};
use super::partition::Waiter;
use super::session::RequestId;
use super::slab::Slab;
use super::{Effect, Shard, ShardIndex};
use crate::group::{
    Assignor, Coordinator, GroupConfig, GroupEffect, MigrationPolicy, Moment, NOT_COORDINATOR, RecordBytes, RequestRef,
    WriteId,
};

/// Bytes of a log that are read at once to load its groups.
const LOAD_BYTES_MAX: usize = 1 << 20;
/// How long a coordinator whose log could not be read waits before it tries again.
const LOAD_RETRY: Duration = Duration::from_secs(1);
/// The least memory for the groups of one coordinator, whatever its part of the broker's is.
const STATE_BYTES_MIN: usize = 1 << 20;
/// Disk tokens from here on are ours; those below are the log's.
const DISK_TOKEN_MIN: u64 = 1 << 63;

/// A coordinator and its partition's log.
#[derive(Debug)]
struct Led {
    coordinator: Coordinator,
    /// While its state is being read.
    loading: Option<Loading>,
    /// Writes in their order, with their outcome once it is known.
    writes: VecDeque<(WriteId, Option<ErrorCode>)>,
}

/// How far the state of a coordinator is loaded.
#[derive(Debug)]
struct Loading {
    next_offset: i64,
    until_offset: i64,
    /// The piece being read; what comes from a file is missing until it is there.
    parts: Vec<Option<Bytes>>,
    missing: usize,
    failed: bool,
    /// When to begin, or to try again.
    retry_at: Option<Duration>,
}

/// Whom a coordinator's answer goes to.
#[derive(Clone, Copy, Debug)]
struct Asker {
    from: ShardIndex,
    request: RequestId,
    slot: u32,
}

/// All coordinators of this shard.
#[derive(Debug)]
pub struct Coordination {
    config: GroupConfig,
    by_log: BTreeMap<LogId, Led>,
    askers: Slab<Asker>,
    /// Coordinators to go on loading at the end of the turn.
    to_load: Vec<LogId>,
    /// Reads of logs that wait for an index.
    reads: HashMap<ReadToken, LogId>,
    /// Reads of files: which piece of which load.
    disk_reads: HashMap<DiskToken, (LogId, usize)>,
    next_disk_token: u64,
    /// Requests handled, which makes the ids of members differ.
    requests: u64,
    /// The earliest deadline, while it is known.
    deadline: Cell<Option<Option<Duration>>>,
}

/// What the broker's configuration means to coordinators. Each may use its part of the memory for groups.
fn group_config(file: &Properties, group_bytes_max: usize) -> GroupConfig {
    let default = GroupConfig::default();
    let number = |name| broker_value(name, &[file]).and_then(|value| value.parse::<i64>().ok());
    let millis =
        |name, default| number(name).map_or(default, |value| Duration::from_millis(u64::try_from(value).unwrap_or(0)));
    let size = |name, default| number(name).map_or(default, |value| usize::try_from(value).unwrap_or(0));
    let int = |name, default| number(name).map_or(default, |value| value.clamp(0, i64::from(i32::MAX)) as i32);
    let text = |name| broker_value(name, &[file]).unwrap_or_default();
    let list = |name| text(name).split(',').map(str::trim);
    let assignors: Vec<Assignor> = list("group.consumer.assignors").filter_map(Assignor::named).collect();
    GroupConfig {
        serves_consumer_protocol: list("group.coordinator.rebalance.protocols").any(|protocol| protocol == "consumer"),
        consumer_session_timeout: millis("group.consumer.session.timeout.ms", default.consumer_session_timeout),
        consumer_heartbeat_interval_ms: int(
            "group.consumer.heartbeat.interval.ms",
            default.consumer_heartbeat_interval_ms,
        ),
        consumer_members_max: size("group.consumer.max.size", default.consumer_members_max),
        consumer_assignors: if assignors.is_empty() { default.consumer_assignors } else { assignors },
        migration: match text("group.consumer.migration.policy").to_ascii_lowercase().as_str() {
            "disabled" => MigrationPolicy::Disabled,
            "upgrade" => MigrationPolicy::Upgrade,
            "downgrade" => MigrationPolicy::Downgrade,
            _ => MigrationPolicy::Bidirectional,
        },
        initial_rebalance_delay: millis("group.initial.rebalance.delay.ms", default.initial_rebalance_delay),
        session_timeout_min_ms: int("group.min.session.timeout.ms", default.session_timeout_min_ms),
        session_timeout_max_ms: int("group.max.session.timeout.ms", default.session_timeout_max_ms),
        members_max: size("group.max.size", default.members_max),
        offset_metadata_max: size("offset.metadata.max.bytes", default.offset_metadata_max),
        offsets_retention_ms: number("offsets.retention.minutes")
            .map_or(default.offsets_retention_ms, |minutes| minutes.saturating_mul(60_000)),
        expiry_interval: millis("offsets.retention.check.interval.ms", default.expiry_interval),
        state_bytes_max: (group_bytes_max / size("offsets.topic.num.partitions", 1).max(1)).max(STATE_BYTES_MIN),
        ..default
    }
}

impl Coordination {
    /// No coordinators yet, in a process that was started with this configuration and has so much memory for all groups.
    pub fn new(file: &Properties, group_bytes_max: usize) -> Coordination {
        Coordination {
            config: group_config(file, group_bytes_max),
            by_log: BTreeMap::new(),
            askers: Slab::default(),
            to_load: Vec::new(),
            reads: HashMap::new(),
            disk_reads: HashMap::new(),
            next_disk_token: DISK_TOKEN_MIN,
            requests: 0,
            deadline: Cell::new(None),
        }
    }

    /// Groups of all coordinators.
    pub fn groups(&self) -> usize {
        self.by_log.values().map(|led| led.coordinator.groups()).sum()
    }

    /// Members of all groups.
    pub fn members(&self) -> usize {
        self.by_log.values().map(|led| led.coordinator.members()).sum()
    }

    /// All coordinators in order, from one on.
    pub fn coordinators(&self, from: Option<LogId>) -> impl Iterator<Item = (LogId, &Coordinator)> {
        let from = from.map_or(Bound::Unbounded, Bound::Included);
        self.by_log.range((from, Bound::Unbounded)).map(|(log, led)| (*log, &led.coordinator))
    }

    /// When [`Shard::coordinate`] has something to do though nothing happens. Asked for several times a turn, while
    /// deadlines change with requests only: it is remembered.
    pub fn next_deadline(&self) -> Option<Duration> {
        let deadline = self.deadline.get().unwrap_or_else(|| self.earliest_deadline());
        self.deadline.set(Some(deadline));
        deadline
    }

    /// A coordinator is about to be asked something, or is there no more: its deadline may change.
    fn forget_deadline(&mut self) {
        self.deadline.set(None);
    }

    fn earliest_deadline(&self) -> Option<Duration> {
        let deadline = |led: &Led| match &led.loading {
            Some(loading) => loading.retry_at,
            None => led.coordinator.next_deadline(),
        };
        self.by_log.values().filter_map(deadline).min()
    }

    /// Whether this disk operation is ours.
    pub fn owns(&self, token: DiskToken) -> bool {
        token.0 >= DISK_TOKEN_MIN
    }

    /// Whether this read of a log is ours.
    pub fn is_reading(&self, token: ReadToken) -> bool {
        self.reads.contains_key(&token)
    }

    /// This node leads a partition of `__consumer_offsets` whose log reaches from one offset to before the other: its
    /// groups are loaded, beginning at the end of the turn.
    pub fn begin(&mut self, log: LogId, log_start_offset: i64, high_watermark: i64) {
        let loading = Loading {
            next_offset: log_start_offset,
            until_offset: high_watermark,
            parts: Vec::new(),
            missing: 0,
            failed: false,
            // At the end of this turn.
            retry_at: Some(Duration::ZERO),
        };
        self.forget_deadline();
        let coordinator = Coordinator::new(self.config.clone());
        let led = Led { coordinator, loading: Some(loading), writes: VecDeque::new() };
        if self.by_log.contains_key(&log) {
            return;
        }
        self.by_log.insert(log, led);
    }
}

impl Shard {
    /// Asks coordinators.
    pub(super) fn ask_coordinators(&mut self, now: Now, call: GroupCall, effects: &mut Vec<Effect>) {
        let GroupCall { from, request, client, items } = call;
        for item in items {
            let log = self.partitions.find(item.key);
            let led = log.and_then(|log| self.coordination.by_log.get_mut(&log));
            let (Some(log), Some(led)) = (log, led) else {
                let body = item.request.error_reply(NOT_COORDINATOR);
                self.tell(from, Message::GroupDone { request, slot: item.slot, body }, effects);
                continue;
            };
            self.coordination.requests += 1;
            let random = unique(now, self.options.index, self.coordination.requests);
            let asker = Asker { from, request, slot: item.slot };
            let reference = RequestRef(u64::from(self.coordination.askers.insert(asker)));
            let mut asked = Vec::new();
            let moment = Moment { now, cluster: self.metadata.image() };
            led.coordinator.handle(moment, item.request, reference, &client, random, &mut asked);
            self.do_for_group(now, log, asked, effects);
        }
    }

    /// Does what a coordinator asks for, and what follows from it.
    fn do_for_group(&mut self, now: Now, log: LogId, asked: Vec<GroupEffect>, effects: &mut Vec<Effect>) {
        self.coordination.forget_deadline();
        let mut asked = VecDeque::from(asked);
        while let Some(effect) = asked.pop_front() {
            match effect {
                GroupEffect::Reply { reference, body } => {
                    let place = u32::try_from(reference.0).expect("a place in the table");
                    let Asker { from, request, slot } = self.coordination.askers.remove(place);
                    self.tell(from, Message::GroupDone { request, slot, body }, effects);
                }
                GroupEffect::Write { write, records } => {
                    let outcome = self.append_group_records(now, log, write, records).err();
                    let led = self.coordination.by_log.get_mut(&log).expect("who writes is there");
                    led.writes.push_back((write, outcome));
                    asked.extend(led.end_writes(Moment { now, cluster: self.metadata.image() }));
                }
            }
        }
    }

    /// Appends records of a coordinator as one batch.
    fn append_group_records(
        &mut self,
        now: Now,
        log: LogId,
        write: WriteId,
        records: Vec<RecordBytes>,
    ) -> Result<(), ErrorCode> {
        let partition = self.partitions.get_mut(log).expect("the partition of a coordinator is here");
        if !partition.has_enough_replicas() {
            return Err(ErrorCode::NotEnoughReplicas);
        }
        let batch = records.iter().fold(BatchBuilder::new(), |batch, (key, value)| {
            batch.record(now.unix_ms, Some(key), value.as_deref(), &[])
        });
        let batch = batch.build();
        let appended = self.log.append(now, log, &batch).map_err(append_error)?;
        let waiter = Waiter::Group { log, write };
        let committed = partition.appended(appended.last_offset + 1, batch.len(), waiter);
        assert!(!committed, "what was just appended is not committed");
        Ok(())
    }

    /// A coordinator's write is committed, or its partition is gone.
    pub(super) fn group_written(
        &mut self,
        now: Now,
        log: LogId,
        write: WriteId,
        error: ErrorCode,
        effects: &mut Vec<Effect>,
    ) {
        // The coordinator may have resigned.
        let Some(led) = self.coordination.by_log.get_mut(&log) else { return };
        let Some(written) = led.writes.iter_mut().find(|(waiting, _)| *waiting == write) else { return };
        written.1 = Some(error);
        let asked = led.end_writes(Moment { now, cluster: self.metadata.image() });
        self.do_for_group(now, log, asked, effects);
    }

    /// Goes on loading, and does what has fallen due: at the end of each turn.
    /// Returns whether there was anything to do.
    pub(super) fn coordinate(&mut self, now: Now, effects: &mut Vec<Effect>) -> bool {
        let is_due = |deadline: Option<Duration>| deadline.is_some_and(|deadline| deadline <= now.elapsed);
        let is_any_due = is_due(self.coordination.next_deadline());
        let has_worked = is_any_due || !self.coordination.to_load.is_empty();
        if is_any_due {
            self.coordination.forget_deadline();
            let logs: Vec<LogId> = self.coordination.by_log.keys().copied().collect();
            for log in logs {
                let led = self.coordination.by_log.get_mut(&log).expect("it was just there");
                match &mut led.loading {
                    Some(loading) if is_due(loading.retry_at) => {
                        loading.retry_at = None;
                        self.coordination.to_load.push(log);
                    }
                    None if is_due(led.coordinator.next_deadline()) => {
                        let mut asked = Vec::new();
                        led.coordinator.expire(Moment { now, cluster: self.metadata.image() }, &mut asked);
                        self.do_for_group(now, log, asked, effects);
                    }
                    _ => {}
                }
            }
        }
        while let Some(log) = self.coordination.to_load.pop() {
            self.load_groups(now, log);
        }
        has_worked
    }

    /// Reads the next piece of a log whose groups are being loaded, or ends the loading.
    fn load_groups(&mut self, now: Now, log: LogId) {
        self.coordination.forget_deadline();
        let Some(led) = self.coordination.by_log.get_mut(&log) else { return };
        let loading = led.loading.as_mut().expect("only what is not loaded is loaded");
        // Nothing shortens this log from its start but the deletion of records below what is loaded.
        loading.next_offset = loading.next_offset.max(self.log.log_start(log));
        if loading.next_offset >= loading.until_offset {
            led.loading = None;
            led.coordinator.loaded(Moment { now, cluster: self.metadata.image() });
            return;
        }
        let (from, until) = (loading.next_offset, loading.until_offset);
        match self.log.read(log, from, until, LOAD_BYTES_MAX, &mut self.ops) {
            LogRead::Ready(plan) => self.load_plan(now, log, plan),
            LogRead::Pending(token) => {
                self.coordination.reads.insert(token, log);
            }
        }
    }

    /// A read of a log that waited for an index is done.
    pub(super) fn group_read_done(&mut self, now: Now, token: ReadToken, outcome: Result<ReadPlan, DiskError>) {
        let log = self.coordination.reads.remove(&token).expect("the caller has asked");
        match outcome {
            Ok(plan) => self.load_plan(now, log, plan),
            Err(_) => self.retry_load(now, log),
        }
    }

    /// Gets the bytes of a plan.
    fn load_plan(&mut self, now: Now, log: LogId, plan: ReadPlan) {
        let Some(led) = self.coordination.by_log.get_mut(&log) else { return };
        let loading = led.loading.as_mut().expect("only what is not loaded is loaded");
        loading.parts.clear();
        loading.missing = 0;
        loading.failed = false;
        if plan.bytes == 0 {
            // Compaction has left nothing from here on.
            loading.next_offset = loading.until_offset;
            self.coordination.to_load.push(log);
            return;
        }
        for (index, part) in plan.parts.into_iter().enumerate() {
            match part {
                ReadPart::Memory(bytes) => loading.parts.push(Some(bytes)),
                ReadPart::File { path, position, bytes } => {
                    let token = DiskToken(self.coordination.next_disk_token);
                    self.coordination.next_disk_token += 1;
                    self.coordination.disk_reads.insert(token, (log, index));
                    self.ops.push((token, DiskOp::Read { path, position, bytes }));
                    loading.parts.push(None);
                    loading.missing += 1;
                }
            }
        }
        if loading.missing == 0 {
            self.load_piece(now, log);
        }
    }

    /// A read of a file is done.
    pub(super) fn group_disk_done(&mut self, now: Now, token: DiskToken, result: Result<DiskReply, DiskError>) {
        let (log, index) = self.coordination.disk_reads.remove(&token).expect("an operation finishes once");
        let Some(led) = self.coordination.by_log.get_mut(&log) else { return };
        let loading = led.loading.as_mut().expect("only what is not loaded is loaded");
        loading.missing -= 1;
        match result {
            Ok(DiskReply::Data(bytes)) => loading.parts[index] = Some(bytes),
            _ => loading.failed = true,
        }
        if loading.missing > 0 {
            return;
        }
        if loading.failed {
            self.retry_load(now, log);
        } else {
            self.load_piece(now, log);
        }
    }

    /// Replays the batches of a piece that are whole.
    fn load_piece(&mut self, now: Now, log: LogId) {
        self.coordination.forget_deadline();
        let led = self.coordination.by_log.get_mut(&log).expect("the caller has it");
        let loading = led.loading.as_mut().expect("only what is not loaded is loaded");
        let mut piece = BytesMut::new();
        loading.parts.drain(..).flatten().for_each(|part| piece.extend_from_slice(&part));
        let start = loading.next_offset;
        let log_start = self.log.log_start(log);
        for batch in Batches::new(&piece) {
            // What ends the piece may be cut.
            let Ok((header, batch)) = batch else { break };
            // A damaged batch ends the loading, for ever if need be: a group that is served without what it committed
            // would read all over again, or skip what it has not read.
            // The checksum does not cover where it lies: only the first may begin before what is looked for.
            // Compaction leaves gaps.
            let is_next = header.base_offset() >= loading.next_offset
                || (loading.next_offset == log_start && header.base_offset() < log_start);
            let open = verify_crc(batch).and_then(|()| OpenBatch::new(batch));
            let (Ok(open), true) = (open, is_next) else {
                self.counters.group_records_unreadable += 1;
                break;
            };
            loading.next_offset = header.last_offset() + 1;
            if header.is_control() {
                continue;
            }
            for record in open.records() {
                let loaded = record
                    .is_ok_and(|record| record.key.is_some_and(|key| led.coordinator.load(key, record.value).is_ok()));
                self.counters.group_records_unreadable += u64::from(!loaded);
            }
        }
        if loading.next_offset == start {
            return self.retry_load(now, log);
        }
        self.coordination.to_load.push(log);
    }

    /// Reads the same piece again, later.
    fn retry_load(&mut self, now: Now, log: LogId) {
        self.coordination.forget_deadline();
        let Some(led) = self.coordination.by_log.get_mut(&log) else { return };
        let loading = led.loading.as_mut().expect("only what is not loaded is loaded");
        loading.retry_at = Some(now.elapsed + LOAD_RETRY);
    }

    /// Topics were deleted: the groups forget what was committed for them.
    pub(super) fn forget_topic(&mut self, now: Now, topic: &str, effects: &mut Vec<Effect>) {
        let logs: Vec<LogId> = self.coordination.by_log.keys().copied().collect();
        for log in logs {
            let led = self.coordination.by_log.get_mut(&log).expect("it was just there");
            if led.loading.is_none() {
                let mut asked = Vec::new();
                led.coordinator.topics_deleted(&[topic.into()], &mut asked);
                self.do_for_group(now, log, asked, effects);
            }
        }
    }

    /// A coordinator ends: its partition is gone or led by another node. Who waits is told to look elsewhere.
    pub(super) fn resign(&mut self, now: Now, log: LogId, effects: &mut Vec<Effect>) {
        self.coordination.forget_deadline();
        let Some(mut led) = self.coordination.by_log.remove(&log) else { return };
        self.coordination.to_load.retain(|loading| *loading != log);
        let mut asked = Vec::new();
        led.coordinator.resign(now, &mut asked);
        asked.retain(|effect| matches!(effect, GroupEffect::Reply { .. }));
        self.do_for_group(now, log, asked, effects);
    }

    /// All coordinators end: the shard shuts down.
    pub(super) fn resign_all(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let logs: Vec<LogId> = self.coordination.by_log.keys().copied().collect();
        logs.into_iter().for_each(|log| self.resign(now, log, effects));
    }
}

impl Led {
    /// Tells the coordinator how its writes ended, in their order.
    fn end_writes(&mut self, moment: Moment<'_>) -> Vec<GroupEffect> {
        let mut asked = Vec::new();
        while let Some(&(write, Some(outcome))) = self.writes.front() {
            self.writes.pop_front();
            match outcome {
                ErrorCode::None => self.coordinator.committed(moment, write, &mut asked),
                error => self.coordinator.write_failed(moment, write, error.code(), &mut asked),
            }
        }
        asked
    }
}

/// A number that no other request gets, at this or another shard, before or after a restart: the clock does not stand
/// still while a process starts.
fn unique(now: Now, shard: ShardIndex, request: u64) -> u64 {
    let mut mixed = (now.unix_ms as u64) ^ (shard as u64).rotate_left(48) ^ request.rotate_left(24);
    for _ in 0..2 {
        mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0x7fb5_d329_728e_a185);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x81da_def4_bc2d_d44d);
    }
    mixed ^ (mixed >> 33)
}
