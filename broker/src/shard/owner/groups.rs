//! The owner's side of consumer groups: one coordinator for each partition of `__consumer_offsets` that is led here. Its
//! state is loaded from the partition's log ([`super::load`]), its writes are appended to it, and its answers leave when
//! those are committed.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use millstream_replication::ErrorCode;
use millstream_storage::batch::BatchBuilder;
use millstream_storage::shard_log::{LogId, ReadPlan};
use millstream_storage::{DiskError, DiskReply, Now};

use super::append::append_error;
use super::group_config::group_config;
use super::load::{FileReads, Load, Loaded};
use super::partition::{Until, Waiter};
use super::reader::LoadId;
use super::replicas::Replicas;
use crate::group::{Coordinator, GroupConfig, GroupEffect, Moment, NOT_COORDINATOR, RecordBytes, RequestRef, WriteId};
use crate::metrics::Sample;
use crate::shard::event::{RequestId, ShardIndex};
use crate::shard::message::{GroupCall, Message};
use crate::shard::options::ShardOptions;
use crate::shard::turn::Turn;
use crate::slab::Slab;

/// A coordinator and what it is at.
#[derive(Debug)]
enum Led {
    /// Its state is being read.
    Loading { coordinator: Coordinator, load: Load },
    /// It answers. Its writes are in their order, with their outcome once it is known.
    Serving { coordinator: Coordinator, writes: VecDeque<(WriteId, Option<ErrorCode>)> },
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
pub struct Coordinators {
    config: GroupConfig,
    by_log: BTreeMap<LogId, Led>,
    askers: Slab<Asker>,
    /// Coordinators to go on loading at the end of the turn.
    to_load: Vec<LoadId>,
    /// Reads of files for them.
    file_reads: FileReads,
    /// Loadings begun, which tells each from those before it.
    loads: u64,
    /// Requests handled, which makes the ids of members differ.
    requests: u64,
    /// The earliest deadline, while it is known.
    deadline: Cell<Option<Option<Duration>>>,
    /// Records of `__consumer_offsets` that could not be read when groups were loaded, since the start.
    records_unreadable: u64,
}

impl Led {
    fn coordinator(&self) -> &Coordinator {
        match self {
            Led::Loading { coordinator, .. } | Led::Serving { coordinator, .. } => coordinator,
        }
    }

    fn coordinator_mut(&mut self) -> &mut Coordinator {
        match self {
            Led::Loading { coordinator, .. } | Led::Serving { coordinator, .. } => coordinator,
        }
    }

    /// When it has something to do though nothing happens.
    fn next_deadline(&self) -> Option<Duration> {
        match self {
            Led::Loading { load, .. } => load.next_deadline(),
            Led::Serving { coordinator, .. } => coordinator.next_deadline(),
        }
    }

    /// Tells the coordinator how its writes ended, in their order.
    fn end_writes(&mut self, moment: Moment<'_>) -> Vec<GroupEffect> {
        let mut asked = Vec::new();
        if let Led::Serving { coordinator, writes } = self {
            while let Some(&(write, Some(outcome))) = writes.front() {
                writes.pop_front();
                match outcome {
                    ErrorCode::None => coordinator.committed(moment, write, &mut asked),
                    error => coordinator.write_failed(moment, write, error.code(), &mut asked),
                }
            }
        }
        asked
    }
}

impl Coordinators {
    /// None yet.
    pub fn new(options: &ShardOptions) -> Coordinators {
        Coordinators {
            config: group_config(&options.file, options.group_bytes_max),
            by_log: BTreeMap::new(),
            askers: Slab::default(),
            to_load: Vec::new(),
            file_reads: FileReads::default(),
            loads: 0,
            requests: 0,
            deadline: Cell::new(None),
            records_unreadable: 0,
        }
    }

    /// All coordinators in order, from one on.
    pub fn from(&self, log: Option<LogId>) -> impl Iterator<Item = (LogId, &Coordinator)> {
        let from = log.map_or(Bound::Unbounded, Bound::Included);
        self.by_log.range((from, Bound::Unbounded)).map(|(log, led)| (*log, led.coordinator()))
    }

    /// When [`Coordinators::advance`] has something to do though nothing happens. Asked for several times a turn, while
    /// deadlines change with requests only: it is remembered.
    pub fn next_deadline(&self) -> Option<Duration> {
        let deadline = self.deadline.get().unwrap_or_else(|| self.by_log.values().filter_map(Led::next_deadline).min());
        self.deadline.set(Some(deadline));
        deadline
    }

    /// A coordinator is about to be asked something, or is there no more: its deadline may change.
    fn forget_deadline(&mut self) {
        self.deadline.set(None);
    }

    /// This node leads a partition of `__consumer_offsets` from now on, whose log reaches from one offset to before the
    /// other: its groups are loaded when all of that is committed, beginning at the end of the turn.
    pub fn begin(&mut self, log: LogId, log_start_offset: i64, log_end_offset: i64) {
        self.forget_deadline();
        let id = LoadId { log, generation: self.loads };
        self.loads += 1;
        let coordinator = Coordinator::new(self.config.clone());
        let load = Load::new(id, log_start_offset, log_end_offset);
        let before = self.by_log.insert(log, Led::Loading { coordinator, load });
        assert!(before.is_none(), "the coordinator before it has resigned");
    }

    /// More of a log is committed: a loading may have waited for that.
    pub fn log_committed(&mut self, log: LogId) {
        if let Some(Led::Loading { load, .. }) = self.by_log.get_mut(&log) {
            load.log_committed();
            self.forget_deadline();
        }
    }

    /// Asks coordinators.
    pub fn ask(&mut self, turn: &mut Turn<'_>, replicas: &mut Replicas, call: GroupCall) {
        let GroupCall { from, request, client, items } = call;
        for item in items {
            let log = replicas.partitions.find(item.key);
            let led = log.and_then(|log| self.by_log.get_mut(&log));
            let (Some(log), Some(led)) = (log, led) else {
                let body = item.request.error_reply(NOT_COORDINATOR);
                turn.tell(from, Message::GroupDone { request, slot: item.slot, body });
                continue;
            };
            self.requests += 1;
            let random = unique(turn.options, self.requests);
            let asker = Asker { from, request, slot: item.slot };
            let reference = RequestRef(u64::from(self.askers.insert(asker)));
            let mut asked = Vec::new();
            led.coordinator_mut().handle(moment(turn), item.request, reference, &client, random, &mut asked);
            self.carry_out(turn, replicas, log, asked);
        }
    }

    /// Does what a coordinator asks for, and what follows from it.
    fn carry_out(&mut self, turn: &mut Turn<'_>, replicas: &mut Replicas, log: LogId, asked: Vec<GroupEffect>) {
        self.forget_deadline();
        let mut asked = VecDeque::from(asked);
        while let Some(effect) = asked.pop_front() {
            match effect {
                GroupEffect::Reply { reference, body } => {
                    let place = u32::try_from(reference.0).expect("a place in the table");
                    let Asker { from, request, slot } = self.askers.remove(place);
                    turn.tell(from, Message::GroupDone { request, slot, body });
                }
                GroupEffect::Write { write, records } => {
                    let outcome = append(turn.now, replicas, log, write, records).err();
                    let Some(led) = self.by_log.get_mut(&log) else { panic!("who writes is there") };
                    let Led::Serving { writes, .. } = led else { panic!("who loads writes nothing") };
                    writes.push_back((write, outcome));
                    asked.extend(led.end_writes(moment(turn)));
                }
            }
        }
    }

    /// A coordinator's write is committed, or its partition is gone.
    pub fn written(
        &mut self,
        turn: &mut Turn<'_>,
        replicas: &mut Replicas,
        log: LogId,
        write: WriteId,
        error: ErrorCode,
    ) {
        // The coordinator may have resigned.
        let Some(led) = self.by_log.get_mut(&log) else { return };
        let Led::Serving { writes, .. } = led else { return };
        let Some(written) = writes.iter_mut().find(|(waiting, _)| *waiting == write) else { return };
        written.1 = Some(error);
        let asked = led.end_writes(moment(turn));
        self.carry_out(turn, replicas, log, asked);
    }

    /// Goes on loading, and does what has fallen due: at the end of each turn.
    /// Returns whether there was anything to do.
    pub fn advance(&mut self, turn: &mut Turn<'_>, replicas: &mut Replicas) -> bool {
        let now = turn.now.elapsed;
        let is_due = |deadline: Option<Duration>| deadline.is_some_and(|deadline| deadline <= now);
        let is_any_due = is_due(self.next_deadline());
        let has_worked = is_any_due || !self.to_load.is_empty();
        if is_any_due {
            self.forget_deadline();
            let logs: Vec<LogId> = self.by_log.keys().copied().collect();
            for log in logs {
                match self.by_log.get_mut(&log).filter(|led| is_due(led.next_deadline())) {
                    None => {}
                    Some(Led::Loading { load, .. }) => {
                        load.set_due();
                        self.to_load.push(load.id());
                    }
                    Some(Led::Serving { coordinator, .. }) => {
                        let mut asked = Vec::new();
                        coordinator.expire(moment(turn), &mut asked);
                        self.carry_out(turn, replicas, log, asked);
                    }
                }
            }
        }
        while let Some(id) = self.to_load.pop() {
            self.load(turn, replicas, id, Load::read);
        }
        has_worked
    }

    /// A read of a log that waited for an index is done.
    pub fn read_done(
        &mut self,
        turn: &mut Turn<'_>,
        replicas: &mut Replicas,
        id: LoadId,
        outcome: Result<ReadPlan, DiskError>,
    ) {
        self.load(turn, replicas, id, |load, coordinator, replicas, reads| match outcome {
            Ok(plan) => load.take_plan(plan, coordinator, replicas, reads),
            Err(_) => Loaded::Failed,
        });
    }

    /// A read of a file is done.
    pub fn file_read(
        &mut self,
        turn: &mut Turn<'_>,
        replicas: &mut Replicas,
        number: u64,
        result: Result<DiskReply, DiskError>,
    ) {
        let (id, part) = self.file_reads.take(number);
        self.load(turn, replicas, id, |load, coordinator, replicas, _| {
            load.take_part(part, result, coordinator, replicas)
        });
    }

    /// A step of a loading, and what follows from how it went. What was asked for by a loading that has ended meanwhile
    /// is dropped: its coordinator has resigned.
    fn load(
        &mut self,
        turn: &mut Turn<'_>,
        replicas: &mut Replicas,
        id: LoadId,
        step: impl FnOnce(&mut Load, &mut Coordinator, &mut Replicas, &mut FileReads) -> Loaded,
    ) {
        let Some(Led::Loading { coordinator, load }) = self.by_log.get_mut(&id.log) else { return };
        if load.id() != id {
            return;
        }
        let loaded = step(load, coordinator, replicas, &mut self.file_reads);
        self.records_unreadable += load.take_unreadable();
        match loaded {
            Loaded::Nothing => {}
            Loaded::Piece => {
                load.set_due();
                self.to_load.push(id);
            }
            Loaded::Failed => load.retry(turn.now.elapsed),
            Loaded::All => {
                if let Some(Led::Loading { mut coordinator, .. }) = self.by_log.remove(&id.log) {
                    coordinator.loaded(moment(turn));
                    // Topics may have gone while another process, or none, led this partition, and while it was loaded.
                    let mut asked = Vec::new();
                    coordinator.forget_absent_topics(moment(turn), &mut asked);
                    self.by_log.insert(id.log, Led::Serving { coordinator, writes: VecDeque::new() });
                    self.carry_out(turn, replicas, id.log, asked);
                }
            }
        }
        self.forget_deadline();
    }

    /// A topic was deleted: the groups forget what was committed for it. What is loading does so when it is loaded.
    pub fn topic_gone(&mut self, turn: &mut Turn<'_>, replicas: &mut Replicas, topic: &str) {
        let logs: Vec<LogId> = self.by_log.keys().copied().collect();
        for log in logs {
            if let Some(Led::Serving { coordinator, .. }) = self.by_log.get_mut(&log) {
                let mut asked = Vec::new();
                coordinator.topics_deleted(&[topic.into()], &mut asked);
                self.carry_out(turn, replicas, log, asked);
            }
        }
    }

    /// A coordinator ends: its partition is gone or led by another node. Who waits is told to look elsewhere.
    pub fn resign(&mut self, turn: &mut Turn<'_>, replicas: &mut Replicas, log: LogId) {
        self.forget_deadline();
        let Some(mut led) = self.by_log.remove(&log) else { return };
        let mut asked = Vec::new();
        led.coordinator_mut().resign(turn.now, &mut asked);
        asked.retain(|effect| matches!(effect, GroupEffect::Reply { .. }));
        self.carry_out(turn, replicas, log, asked);
    }

    /// All coordinators end: the shard shuts down.
    pub fn resign_all(&mut self, turn: &mut Turn<'_>, replicas: &mut Replicas) {
        let logs: Vec<LogId> = self.by_log.keys().copied().collect();
        logs.into_iter().for_each(|log| self.resign(turn, replicas, log));
    }

    /// Gauges and counters, for a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        let sum = |of: fn(&Coordinator) -> usize| self.by_log.values().map(|led| of(led.coordinator())).sum::<usize>();
        samples.extend([
            Sample::gauge("millstream_groups", "Consumer groups coordinated.", sum(Coordinator::groups) as u64),
            Sample::gauge(
                "millstream_group_members",
                "Members of the consumer groups coordinated.",
                sum(Coordinator::members) as u64,
            ),
            Sample::counter(
                "millstream_group_records_unreadable_total",
                "Records of __consumer_offsets that could not be read when groups were loaded.",
                self.records_unreadable,
            ),
        ]);
    }
}

/// When, and in which cluster, a coordinator is asked.
fn moment<'a>(turn: &Turn<'a>) -> Moment<'a> {
    Moment { now: turn.now, cluster: turn.metadata.image() }
}

/// Appends records of a coordinator as one batch.
fn append(
    now: Now,
    replicas: &mut Replicas,
    log: LogId,
    write: WriteId,
    records: Vec<RecordBytes>,
) -> Result<(), ErrorCode> {
    let partition = replicas.partitions.get_mut(log).expect("the partition of a coordinator is here");
    partition.may_append(Until::Committed)?;
    let batch = records
        .iter()
        .fold(BatchBuilder::new(), |batch, (key, value)| batch.record(now.unix_ms, Some(key), value.as_deref(), &[]));
    let batch = batch.build();
    let appended = replicas.log.append(now, log, &batch).map_err(append_error)?;
    let written = (appended.last_offset + 1, batch.len());
    let committed = replicas.appended(now.elapsed, log, written, Until::Committed, Waiter::Group { log, write });
    assert!(!committed, "what was just appended is not committed");
    Ok(())
}

/// What the id of a member is made of that a request may bring: a number that no other request gets, at this or another
/// shard, of this node or another, before or after a restart.
fn unique(options: &ShardOptions, request: u64) -> u64 {
    let [incarnation, salt] = [&options.incarnation[..8], &options.incarnation[8..]]
        .map(|half| u64::from_le_bytes(half.try_into().expect("half of 16 bytes")));
    // Within a process no two are the same, as each step can be undone; those of two processes differ by chance.
    let in_process = ((options.index as u64) << 48) ^ request;
    mix(mix(in_process ^ salt) ^ incarnation ^ (options.node_id as u64).rotate_left(32))
}

/// Every bit of the input reaches every bit of the output, and no two inputs meet.
fn mix(mut mixed: u64) -> u64 {
    for _ in 0..2 {
        mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0x7fb5_d329_728e_a185);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x81da_def4_bc2d_d44d);
    }
    mixed ^ (mixed >> 33)
}
