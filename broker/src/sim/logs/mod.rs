//! The shipped shard logs and their recovery, without sessions: clients call [`ShardLog`] as the shard does. Finds what
//! is wrong in the storage engine with less in the way than [`super::world`] has.

mod follow;
mod node;
mod partition;
mod producer;
mod replica;

use std::collections::BTreeSet;

use millstream_storage::partition_log::partition_directory;
use millstream_storage::random::Random;
use millstream_storage::recovery::Recovered;
use millstream_storage::shard_log::{AppendError, Fatal, LogId, Ops, Progress, Read, ReadPlan, TimeLookup, TimeQuery};
use millstream_storage::{DiskError, DiskOp, DiskToken, Now, ShardLog};

use self::node::{Node, Reading, Waiting, open_logs, recover_logs};
use self::partition::{FILE_DELETE_DELAY_MS, Partition};
use self::producer::{Batch, Producer};
use super::checkers::Observation;
use super::damage::{Inspected, Verdicts, start_on_damaged_copies};
use super::disk::{Operation, SimDisk, brief, brief_op};
use super::record::records_in;
use super::restart::{Whole, fetch, inspect, until_recovered};
use super::schedule::{Clock, EPOCH_MS, Schedule, Trace};
use millstream_storage::seeds::{self, Options};

const TOPIC: &str = "simulated";
const YEAR_MS: u64 = 365 * 86_400_000;

/// What a simulation that found nothing wrong did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Fingerprint of everything that happened.
    pub trace: u64,
    /// Records acknowledged.
    pub acknowledged: usize,
    /// Times the node went down.
    pub crashes: u64,
    /// Times a log was cut off.
    pub restarts: u64,
    /// What starts on damaged disks came to.
    pub verdicts: Verdicts,
}

impl seeds::Outcome for Outcome {
    fn trace(&self) -> u64 {
        self.trace
    }
}

#[derive(Debug)]
enum Event {
    /// Something happens to the process that has started so often; nothing, if it is gone.
    Process { start: u32, event: ProcessEvent },
    /// A producer sends, if it may.
    Produce { producer: usize },
    /// A consumer reads.
    Consume { partition: usize },
    /// Somebody deletes records.
    DeleteRecords { partition: usize },
    /// Somebody asks for a time.
    FindTime { partition: usize },
    /// More of a partition with replicas is committed.
    Commit { partition: usize },
    /// A partition with replicas is led anew.
    Lead { partition: usize },
    /// The log of a partition with replicas is cut off.
    Restart { partition: usize },
    /// The disk fills up, or is emptied.
    Capacity,
    /// The disk becomes slow, or quick again.
    Slow,
    /// The wall clock is set.
    Clock,
    /// The node goes down.
    Crash,
}

/// Something that happens to a process.
#[derive(Debug)]
enum ProcessEvent {
    Disk {
        shard: usize,
        token: DiskToken,
        operation: Operation,
        /// It publishes a checkpoint.
        is_checkpoint: bool,
    },
    /// A shard's deadline may have come.
    Timer { shard: usize },
    /// A consumer gets the bytes that a read promised: of this history, of what was committed then.
    Receive { partition: usize, offset: i64, plan: ReadPlan, history: u64, committed: i64 },
}

/// One node, its disk and its clients.
pub struct Simulation {
    random: Random,
    schedule: Schedule<Event>,
    trace: Trace,
    disk: SimDisk,
    clock: Clock,
    node: Option<Node>,
    partitions: Vec<Partition>,
    producers: Vec<Producer>,
    idempotent: BTreeSet<u32>,
    starts: u32,
    crashes: u64,
    restarts: u64,
    is_damaged_at_rest: bool,
    verdicts: Verdicts,
    end_us: u64,
}

impl Simulation {
    /// Runs a seed to its end.
    pub fn run(options: Options) -> Result<Outcome, String> {
        let mut simulation = Simulation::new(options);
        simulation.go()?;
        Ok(Outcome {
            trace: simulation.trace.finish(),
            acknowledged: simulation.partitions.iter().map(|partition| partition.checkers.acknowledged()).sum(),
            crashes: simulation.crashes,
            restarts: simulation.restarts,
            verdicts: simulation.verdicts,
        })
    }

    fn new(options: Options) -> Simulation {
        let mut random = Random::new(options.seed);
        let mut disk = SimDisk::new(random.fork());
        if random.one_in(5) {
            disk.faults.fail_one_in = random.between(300, 3_000);
        }
        if random.one_in(4) {
            disk.faults.fail_sync_one_in = random.between(2, 20);
        }
        let count = random.between(1, 6) as usize;
        let is_damaged_at_rest = random.one_in(4);
        let partitions: Vec<Partition> = (0..count)
            // What damage does to offsets with gaps cannot always be told.
            .map(|index| Partition::new(index, !is_damaged_at_rest, &mut random))
            .collect();
        let producers: Vec<Producer> = (0..random.between(1, 8) as u32)
            .map(|client| {
                let partition = random.index(count);
                Producer::new(client, partition, !random.one_in(3), partitions[partition].replica.is_some())
            })
            .collect();
        Simulation {
            trace: Trace::new(options.is_verbose),
            idempotent: producers.iter().filter(|each| each.is_idempotent).map(|each| each.client).collect(),
            end_us: random.between(200_000, 2_000_000),
            is_damaged_at_rest,
            random,
            schedule: Schedule::new(),
            disk,
            clock: Clock::default(),
            node: None,
            partitions,
            producers,
            starts: 0,
            crashes: 0,
            restarts: 0,
            verdicts: Verdicts::default(),
        }
    }

    fn go(&mut self) -> Result<(), String> {
        self.start()?;
        let crashes = self.random.below(5);
        for _ in 0..crashes {
            let at = self.random.below(self.end_us);
            self.schedule.at(at, Event::Crash);
        }
        if self.random.one_in(4) {
            self.schedule.after(self.end_us / 3, Event::Capacity);
        }
        if self.random.one_in(5) {
            self.schedule.after(self.end_us / 4, Event::Slow);
        }
        if self.random.one_in(4) {
            for _ in 0..3 {
                let at = self.random.below(self.end_us);
                self.schedule.at(at, Event::Clock);
            }
        }
        for producer in 0..self.producers.len() {
            self.schedule.after(producer as u64, Event::Produce { producer });
        }
        for partition in 0..self.partitions.len() {
            self.schedule.after(5_000, Event::Consume { partition });
            self.schedule.after(50_000, Event::DeleteRecords { partition });
            self.schedule.after(20_000, Event::FindTime { partition });
            if self.partitions[partition].replica.is_some() {
                self.schedule.after(10_000, Event::Commit { partition });
                self.schedule.after(30_000, Event::Lead { partition });
                self.schedule.after(40_000, Event::Restart { partition });
            }
        }
        while let Some(event) = self.next() {
            if self.schedule.now_us() > self.end_us {
                break;
            }
            self.happen(event)?;
        }
        self.crash()?;
        Ok(())
    }

    fn next(&mut self) -> Option<Event> {
        let starts = self.starts;
        self.schedule.next_that(|event| !matches!(event, Event::Process { start, .. } if *start != starts))
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        let now_us = self.schedule.now_us();
        match event {
            Event::Process { event, .. } => self.process_event(event)?,
            Event::Produce { producer } => {
                self.produce(producer)?;
                let delay = match self.random.below(10) {
                    0 => self.random.between(1_000, 50_000),
                    _ => self.random.between(50, 2_000),
                };
                self.schedule.after(delay, Event::Produce { producer });
            }
            Event::Consume { partition } => {
                self.consume(partition)?;
                let delay = self.random.between(100, 20_000);
                self.schedule.after(delay, Event::Consume { partition });
            }
            Event::DeleteRecords { partition } => {
                self.delete_records(partition)?;
                let delay = self.random.between(10_000, 400_000);
                self.schedule.after(delay, Event::DeleteRecords { partition });
            }
            Event::FindTime { partition } => {
                self.find_time(partition)?;
                let delay = self.random.between(1_000, 100_000);
                self.schedule.after(delay, Event::FindTime { partition });
            }
            Event::Commit { partition } => self.commit(partition)?,
            Event::Lead { partition } => {
                self.begin_epoch(partition)?;
                let delay = self.random.between(10_000, 200_000);
                self.schedule.after(delay, Event::Lead { partition });
            }
            Event::Restart { partition } => self.restart_log(partition)?,
            Event::Capacity => {
                let faults = &mut self.disk.faults;
                faults.capacity_bytes = match faults.capacity_bytes {
                    None => {
                        faults.capacity_bytes = Some(0);
                        Some((1 << 20) + self.random.below(2 << 20))
                    }
                    Some(_) => None,
                };
                self.trace.line(now_us, format!("capacity {:?}", self.disk.faults.capacity_bytes));
                self.schedule.after(self.end_us / 3, Event::Capacity);
            }
            Event::Slow => {
                self.disk.faults.turn_slow(&mut self.random);
                self.trace.line(now_us, format!("slow: {:?}", self.disk.faults.slow));
                self.schedule.after(self.end_us / 4, Event::Slow);
            }
            Event::Clock => {
                let error_ms = self.random.between(0, 2 * YEAR_MS) as i64 - YEAR_MS as i64;
                self.clock.set_error(error_ms);
                self.trace.line(now_us, format!("the clock is wrong by {error_ms} ms"));
            }
            Event::Crash => self.crash()?,
        }
        Ok(())
    }

    fn process_event(&mut self, event: ProcessEvent) -> Result<(), String> {
        match event {
            ProcessEvent::Disk { shard, token, operation, is_checkpoint } => {
                if is_checkpoint && self.may_crash_at_checkpoint(shard) {
                    drop(self.disk.complete(operation));
                    return self.crash();
                }
                let result = self.disk.complete(operation);
                let line = format!("shard {shard}: operation {} ends: {}", token.0, brief(&result));
                self.trace.line(self.schedule.now_us(), line);
                self.with_log(shard, |log, now, ops, progress| log.on_disk(now, token, result, ops, progress))
            }
            ProcessEvent::Timer { shard } => self.with_log(shard, |_, _, _, _| Ok(())),
            ProcessEvent::Receive { partition, offset, plan, history, committed } => {
                self.receive(partition, offset, plan, (history, committed))
            }
        }
    }

    fn crash(&mut self) -> Result<(), String> {
        self.crashes += 1;
        let is_power = self.random.coin();
        self.trace.line(self.schedule.now_us(), format!("crash, power lost: {is_power}"));
        self.disk.go_down(is_power);
        self.node = None;
        self.start()
    }

    /// Recovers, perhaps interrupted, and reads everything.
    fn start(&mut self) -> Result<(), String> {
        self.starts += 1;
        // Damage is looked for where partitions lie that are not set aside.
        let has_strays = self.disk.listing().any(|(path, _)| path.starts_with("strays/"));
        if self.is_damaged_at_rest && !has_strays {
            let mut random = self.random.fork();
            let verdicts =
                start_on_damaged_copies(&self.disk, &mut random, |disk, random| self.start_on(disk, random))?;
            self.verdicts.add_all(verdicts);
        }
        let faults = std::mem::take(&mut self.disk.faults);
        let shards = self.random.between(1, 4) as usize;
        // The image of a start may be older than the partitions. What it does not know is set aside, and taken back by a
        // later start, or by this one when it is told of it.
        let mut images = vec![vec![true; self.partitions.len()]];
        if self.random.one_in(4) {
            let old = images[0].iter().map(|_| self.random.coin()).collect();
            images.insert(0, old);
            images.truncate(if self.random.coin() { 1 } else { 2 });
        }
        let Simulation { disk, clock, random, trace, partitions, schedule, .. } = self;
        let now_us = schedule.now_us();
        let now_ms = schedule.now(*clock, 0).unix_ms;
        let mut recovered = Recovered::default();
        for image in images {
            recovered = until_recovered(
                disk,
                random,
                3,
                |line| trace.line(now_us, line),
                |disk, random| recover_logs((partitions, &image), disk, random, shards, now_ms),
            )?;
            let strays: usize = recovered.shards.iter().map(|shard| shard.strays.len()).sum();
            trace.line(now_us, format!("{strays} partitions set aside"));
        }
        trace.line(now_us, format!("recovered {} groups, {shards} shards", recovered.groups));
        self.disk.faults = faults;
        let mut logs = open_logs(&self.partitions, recovered);
        for partition in &mut self.partitions {
            let log = &mut logs[partition.key.shard(shards)];
            let id = log.create_partition(partition.key, TOPIC, partition.config.clone());
            if partition.replica.is_none() {
                log.commit_alone(id);
                log.lead(id, self.starts as i32);
            }
            partition.is_start_moving = None;
        }
        self.producers.iter_mut().for_each(Producer::restarted);
        self.node = Some(Node::new(self.schedule.now_us(), logs));
        for partition in 0..self.partitions.len() {
            self.replica_recovered(partition)?;
            self.inspect(partition)?;
            self.begin_epoch(partition)?;
        }
        for shard in 0..shards {
            self.with_log(shard, |_, _, _, _| Ok(()))?;
        }
        Ok(())
    }

    /// Reads all of a partition just recovered and shows it to the checkers.
    fn inspect(&mut self, partition: usize) -> Result<(), String> {
        let node = self.node.as_mut().expect("it was just started");
        let Partition { key, checkers, replica, .. } = &mut self.partitions[partition];
        let now = self.schedule.now(self.clock, node.started_us);
        let (shard, log, id) = node.log_of(*key);
        let Whole { log_start, log_end, records } =
            inspect(&mut self.disk, &mut self.random, (log, id), now, checkers, &self.idempotent)
                .map_err(|error| format!("partition {partition}: {error}"))?;
        if let Some(replica) = replica {
            replica
                .check_whole((log_start, log_end), &records, checkers.is_compacted())
                .map_err(|error| format!("partition {partition}: {error}"))?;
        }
        let line = format!("partition {partition}: offsets {log_start} to {log_end}, shard {shard}");
        self.trace.line(self.schedule.now_us(), line);
        Ok(())
    }

    fn start_on(&self, disk: &mut SimDisk, random: &mut Random) -> Result<Inspected, String> {
        let shards = random.between(1, 4) as usize;
        let now = self.schedule.now(self.clock, 0);
        let image = vec![true; self.partitions.len()];
        let recovered = recover_logs((&self.partitions, &image), disk, random, shards, now.unix_ms)?;
        let mut logs = open_logs(&self.partitions, recovered);
        let mut inspected = Vec::new();
        for Partition { key, config, checkers, .. } in &self.partitions {
            let log = &mut logs[key.shard(shards)];
            let id = log.create_partition(*key, TOPIC, config.clone());
            log.commit_alone(id);
            let whole = inspect(disk, random, (log, id), now, &mut checkers.clone(), &self.idempotent);
            inspected.push((partition_directory(TOPIC, *key), whole.map(drop)));
        }
        Ok(inspected)
    }

    /// Lets a log do something and ends the turn: its operations start, what became true is told.
    fn with_log(
        &mut self,
        shard: usize,
        what: impl FnOnce(&mut ShardLog, Now, &mut Ops, &mut Vec<Progress>) -> Result<(), Fatal>,
    ) -> Result<(), String> {
        let node = self.node.as_mut().expect("the node is up");
        let now = self.schedule.now(self.clock, node.started_us);
        let log = &mut node.logs[shard];
        log.set_free_space(self.disk.free_bytes());
        let mut ops = Ops::new();
        let mut progress = Vec::new();
        let result = what(log, now, &mut ops, &mut progress);
        let result = result.and_then(|()| log.end_turn(now, &mut ops, &mut progress));
        if let Err(fatal) = result {
            self.trace.line(self.schedule.now_us(), format!("shard {shard}: {}", fatal.0));
            if !self.disk.has_failed() {
                return Err(format!("the node gave up though its disk is fine: {}", fatal.0));
            }
            return self.crash();
        }
        let started_us = node.started_us;
        let deadline = log.next_deadline();
        for (token, op) in ops {
            self.trace.line(self.schedule.now_us(), format!("shard {shard}: operation {}: {}", token.0, brief_op(&op)));
            let is_checkpoint = matches!(&op, DiskOp::Replace { path, .. } if path.ends_with("/checkpoint"));
            let (operation, delay) = self.disk.submit(op);
            let event = ProcessEvent::Disk { shard, token, operation, is_checkpoint };
            self.schedule.after(delay, self.of_process(event));
        }
        if let Some(deadline) = deadline {
            let at = started_us + deadline.as_micros() as u64;
            // At once would be for ever: a deadline that has passed is looked at a little later.
            self.schedule.at(at.max(self.schedule.now_us() + 500), self.of_process(ProcessEvent::Timer { shard }));
        }
        for progress in progress {
            self.learn(shard, progress)?;
        }
        Ok(())
    }

    fn learn(&mut self, shard: usize, progress: Progress) -> Result<(), String> {
        let node = self.node.as_mut().expect("the node is up");
        match progress {
            Progress::Durable { log, offset } => {
                let at = self.partition_of(shard, log);
                if let Some(replica) = &mut self.partitions[at].replica {
                    // What is committed is told apart.
                    replica.durable_end = replica.durable_end.max(offset);
                    return Ok(());
                }
                let node = self.node.as_mut().expect("the node is up");
                let waiting = node.waiting[shard].entry(log).or_default();
                let done: Vec<Waiting> = waiting.extract_if(.., |each| each.end <= offset).collect();
                for append in done {
                    self.acknowledge(append)?;
                }
            }
            Progress::LogStart { log, offset } => {
                let at = self.partition_of(shard, log);
                self.partitions[at].is_start_moving.take_if(|promised| *promised <= offset);
                self.observe(at, &Observation::LogStart(offset))?;
            }
            Progress::Restarted { log, end } => self.restarted(shard, log, end)?,
            Progress::CompactionFailed { why, .. } => {
                if self.disk.faults.fail_one_in == 0 {
                    return Err(format!("a compaction failed on a good disk: {why}"));
                }
            }
            Progress::ReadDone { token, result } => {
                match (node.reading[shard].remove(&token), result) {
                    (Some(Reading::Read { partition, offset }), Ok(plan)) => self.will_receive(partition, offset, plan),
                    // The segment went away meanwhile: a consumer reads again.
                    (_, Err(DiskError::NotFound)) => {}
                    (_, Err(error)) => return Err(format!("a read failed: {error}")),
                    (_, Ok(_)) => return Err("a read nobody asked for is done".to_string()),
                }
            }
            Progress::TimeDone { token, result } => {
                let reading = node.reading[shard].remove(&token);
                match (reading, result) {
                    (Some(Reading::Time { partition, query, until }), Ok(found)) => {
                        let found = found.map(|found| (found.offset, found.timestamp));
                        self.found_time(partition, query, until, found)?;
                    }
                    (_, Err(DiskError::NotFound)) => {}
                    (_, Err(error)) => return Err(format!("a lookup failed: {error}")),
                    (_, Ok(_)) => return Err("a lookup nobody asked for is done".to_string()),
                }
            }
        }
        Ok(())
    }

    /// An event of the process that is running.
    fn of_process(&self, event: ProcessEvent) -> Event {
        Event::Process { start: self.starts, event }
    }

    fn partition_of(&self, shard: usize, log: LogId) -> usize {
        let node = self.node.as_ref().expect("the node is up");
        self.partitions
            .iter()
            .position(|each| each.key.shard(node.logs.len()) == shard && node.logs[shard].find(each.key) == Some(log))
            .expect("every log is a partition's")
    }

    fn observe(&mut self, partition: usize, observation: &Observation<'_>) -> Result<(), String> {
        self.partitions[partition]
            .checkers
            .see(&self.idempotent, observation)
            .map_err(|error| format!("partition {partition}: {error}"))
    }

    fn acknowledge(&mut self, append: Waiting) -> Result<(), String> {
        let Waiting { base_offset, first, count, .. } = append;
        let producer = &mut self.producers[append.producer];
        producer.acknowledged(first);
        let (client, partition) = (producer.client, producer.partition);
        let records = producer.records(first, count, base_offset);
        self.trace.line(
            self.schedule.now_us(),
            format!("client {client}: records from {first} acknowledged at {base_offset}"),
        );
        self.observe(partition, &Observation::Acknowledged(&records))
    }

    fn produce(&mut self, index: usize) -> Result<(), String> {
        let producer = &mut self.producers[index];
        let partition = &mut self.partitions[producer.partition];
        match &partition.replica {
            Some(replica) if replica.restart.is_some() => return Ok(()),
            Some(replica) if !replica.is_led => return self.replicate(index),
            _ => {}
        }
        let Some(batch) = producer.next(partition.checkers.is_compacted(), &mut self.random) else { return Ok(()) };
        let Batch { first, count, sequence, bytes } = batch;
        let node = self.node.as_mut().expect("the node is up");
        let now = self.schedule.now(self.clock, node.started_us);
        let (shard, log, id) = node.log_of(partition.key);
        let result = log.append(now, id, &bytes);
        self.trace.line(self.schedule.now_us(), format!("client {index}: {count} from {first}: {result:?}"));
        match result {
            Ok(appended) => {
                producer.was_taken();
                if appended.last_offset - appended.base_offset != i64::from(count) - 1 {
                    return Err(format!("{count} records of {index} got {appended:?}"));
                }
                let base_offset = appended.base_offset;
                let records = producer.records(first, count, base_offset);
                if let Some(replica) = &mut partition.replica {
                    let known = replica.offset_of(records[0].id);
                    if known != appended.duplicate.then_some(base_offset) {
                        return Err(format!("{:?} lies at {known:?}, and the log says {appended:?}", records[0].id));
                    }
                    if known.is_none() {
                        replica.appended(&records)?;
                    }
                }
                partition.checkers.see(&self.idempotent, &Observation::Appended(&records))?;
                let end = appended.last_offset + 1;
                let append = Waiting { end, base_offset, producer: index, first, count };
                if log.committed(id) >= end {
                    if !appended.duplicate {
                        return Err(format!("{appended:?} was committed before it was written"));
                    }
                    self.acknowledge(append)?;
                } else {
                    node.waiting[shard].entry(id).or_default().push(append);
                }
            }
            Err(AppendError::NoSpace) => {}
            Err(AppendError::Restarting) => return Err("a log that takes batches refuses one".to_string()),
            Err(AppendError::LargerThanSegment) => {
                return Err(format!("{} bytes are larger than a segment", bytes.len()));
            }
            Err(error @ (AppendError::OutOfOrderSequence | AppendError::InvalidProducerEpoch)) => {
                return Err(format!("client {index} sent sequence {sequence} and was told {error:?}"));
            }
        }
        self.with_log(shard, |_, _, _, _| Ok(()))
    }

    fn consume(&mut self, at: usize) -> Result<(), String> {
        let partition = &mut self.partitions[at];
        let node = self.node.as_mut().expect("the node is up");
        let (shard, log, id) = node.log_of(partition.key);
        let (log_start, end) = (log.log_start(id), log.committed(id));
        let offset = match self.random.below(4) {
            0 => self.random.between(log_start as u64, end as u64) as i64,
            1 => log_start,
            // What was committed is known to be so a while after a restart of the node.
            _ => partition.position.clamp(log_start, end),
        };
        let bytes_max = self.random.between(1, 100_000) as usize;
        let mut ops = Ops::new();
        match log.read(id, offset, end, bytes_max, &mut ops) {
            Read::Ready(plan) => self.will_receive(at, offset, plan),
            Read::Pending(token) => {
                node.reading[shard].insert(token, Reading::Read { partition: at, offset });
            }
        }
        self.with_log(shard, |_, _, all, _| {
            all.append(&mut ops);
            Ok(())
        })
    }

    /// What was read from memory is there; what lies in a file is read from it a little later.
    fn will_receive(&mut self, partition: usize, offset: i64, plan: ReadPlan) {
        let delay = self.random.below(FILE_DELETE_DELAY_MS as u64 * 1_000 / 2);
        let node = self.node.as_mut().expect("the node is up");
        let (_, log, id) = node.log_of(self.partitions[partition].key);
        let (history, committed) = (log.history(id), log.committed(id));
        let event = ProcessEvent::Receive { partition, offset, plan, history, committed };
        self.schedule.after(delay, self.of_process(event));
    }

    fn receive(
        &mut self,
        partition: usize,
        offset: i64,
        plan: ReadPlan,
        (history, committed): (u64, i64),
    ) -> Result<(), String> {
        let node = self.node.as_mut().expect("the node is up");
        let (_, log, id) = node.log_of(self.partitions[partition].key);
        if log.history(id) != history {
            // Its files may be gone: the consumer is told by the leader's epoch.
            return Ok(());
        }
        let bytes = fetch(&self.disk, &plan)?;
        let (records, next) = records_in(&bytes, offset)?;
        self.trace.line(self.schedule.now_us(), format!("partition {partition}: read {offset} to {next}"));
        if next == offset && plan.bytes > 0 {
            return Err(format!("partition {partition}: not one whole batch in {} bytes", plan.bytes));
        }
        if let Some(replica) = &self.partitions[partition].replica {
            replica.check(&records).map_err(|error| format!("partition {partition}: {error}"))?;
            if next > offset.max(committed) {
                return Err(format!("partition {partition}: read {offset} to {next}, {committed} was committed"));
            }
        }
        self.observe(partition, &Observation::Read { offset, records: &records })?;
        let position = &mut self.partitions[partition].position;
        *position = next.max(*position);
        Ok(())
    }

    fn delete_records(&mut self, at: usize) -> Result<(), String> {
        let partition = &mut self.partitions[at];
        if partition.replica.as_ref().is_some_and(|replica| replica.restart.is_some()) {
            return Ok(());
        }
        let node = self.node.as_mut().expect("the node is up");
        let (shard, log, id) = node.log_of(partition.key);
        let (log_start, end) = (log.log_start(id), log.committed(id));
        let offset = log_start + self.random.below((end - log_start) as u64 / 2 + 1) as i64;
        self.trace.line(self.schedule.now_us(), format!("partition {at}: delete records before {offset}"));
        if log.delete_records(id, offset) {
            self.observe(at, &Observation::LogStart(offset))?;
        } else {
            partition.is_start_moving = Some(offset);
        }
        self.with_log(shard, |_, _, _, _| Ok(()))
    }

    fn find_time(&mut self, at: usize) -> Result<(), String> {
        let partition = &mut self.partitions[at];
        let node = self.node.as_mut().expect("the node is up");
        let (shard, log, id) = node.log_of(partition.key);
        let until = log.committed(id);
        let timestamp = self.random.coin().then(|| EPOCH_MS - self.random.below(600_000) as i64);
        let query = timestamp.map_or(TimeQuery::Max, TimeQuery::AtOrAfter);
        let mut ops = Ops::new();
        match log.find_time(id, query, until, &mut ops) {
            TimeLookup::Ready(found) => {
                let found = found.map(|found| (found.offset, found.timestamp));
                self.found_time(at, timestamp, until, found)?;
            }
            TimeLookup::Pending(token) => {
                node.reading[shard].insert(token, Reading::Time { partition: at, query: timestamp, until });
            }
        }
        self.with_log(shard, |_, _, all, _| {
            all.append(&mut ops);
            Ok(())
        })
    }

    fn found_time(
        &mut self,
        partition: usize,
        query: Option<i64>,
        until: i64,
        found: Option<(i64, i64)>,
    ) -> Result<(), String> {
        self.trace.line(self.schedule.now_us(), format!("partition {partition}: time {query:?}: {found:?}"));
        let node = self.node.as_mut().expect("the node is up");
        let (_, log, id) = node.log_of(self.partitions[partition].key);
        // Records that went since the question are no fault.
        let log_start = log.log_start(id);
        self.observe(partition, &Observation::Time { query, range: log_start..until, found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_keep_what_they_acknowledge() {
        let outcomes = seeds::run(
            env!("CARGO_PKG_NAME"),
            "sim::logs::tests::logs_keep_what_they_acknowledge",
            100,
            Simulation::run,
        );
        let mut verdicts = Verdicts::default();
        outcomes.iter().for_each(|outcome| verdicts.add_all(outcome.verdicts));
        let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
        let (acknowledged, crashes) = (sum(|outcome| outcome.acknowledged as u64), sum(|outcome| outcome.crashes));
        let restarts = sum(|outcome| outcome.restarts);
        println!("{acknowledged} records acknowledged, {crashes} crashes, {restarts} restarts of logs, {verdicts:?}");
    }
}
