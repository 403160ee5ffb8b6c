//! The shipped shard logs and their recovery, without sessions: clients call [`ShardLog`] as the shard does. Finds what
//! is wrong in the storage engine with less in the way than [`super::cluster`] has.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use millstream_storage::batch::TimestampType;
use millstream_storage::partition_log::partition_directory;
use millstream_storage::recovery::{KnownPartition, Recovered, RecoveryOptions, recover};
use millstream_storage::shard_log::{
    AppendError, CleanerOptions, CompactionConfig, LogConfig, LogId, Ops, Progress, Read, ReadPlan, ReadToken,
    ShardLogOptions, TimeLookup, TimeQuery,
};
use millstream_storage::{DiskError, DiskReply, DiskToken, PartitionKey, ShardLog, TopicId};

use super::checker::{Checkers, Observation};
use super::damage::{DAMAGED_COPIES_MAX, Damage, Inspected, Verdicts};
use super::disk::{DiskFaults, Operation, SimDisk};
use super::random::Random;
use super::record::{Found, RecordId, batch_of, keyed_batch_of, records_in};
use super::restart::{Whole, fetch, inspect, until_recovered};
use super::schedule::{Schedule, Trace, fingerprint};

/// Batches that an idempotent producer may have on their way.
const IN_FLIGHT_MAX: usize = 5;
const TOPIC: &str = "simulated";
const FILE_DELETE_DELAY_MS: i64 = 200;
const YEAR_MS: u64 = 365 * 86_400_000;

/// How a simulation goes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything follows from it.
    pub seed: u64,
    /// Prints what happens.
    pub is_verbose: bool,
}

/// What a simulation that found nothing wrong did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Fingerprint of everything that happened.
    pub trace: u64,
    /// Records acknowledged.
    pub acknowledged: usize,
    /// Times the node went down.
    pub crashes: u64,
    /// What starts on damaged disks came to.
    pub verdicts: Verdicts,
}

#[derive(Debug)]
enum Event {
    Disk {
        shard: usize,
        token: DiskToken,
        operation: Operation,
    },
    /// A shard's deadline may have come.
    Timer {
        shard: usize,
    },
    /// A producer sends, if it may.
    Produce {
        producer: usize,
    },
    /// A consumer reads.
    Consume {
        partition: usize,
    },
    /// A consumer gets the bytes that a read promised.
    Receive {
        partition: usize,
        offset: i64,
        plan: ReadPlan,
    },
    /// Somebody deletes records.
    DeleteRecords {
        partition: usize,
    },
    /// Somebody asks for a time.
    FindTime {
        partition: usize,
    },
    /// The disk fills up, or is emptied.
    Capacity,
    /// The disk becomes slow, or quick again.
    Slow,
    /// The wall clock is set.
    Clock,
    /// The node goes down.
    Crash,
}

struct Batch {
    first: u32,
    count: u32,
    sequence: i32,
    bytes: Bytes,
}

/// A client that writes to one partition.
struct Producer {
    client: u32,
    partition: usize,
    is_idempotent: bool,
    next_number: u32,
    next_sequence: i32,
    /// Not acknowledged, in order; of those the first `sent` were given to this process.
    in_flight: VecDeque<Batch>,
    sent: usize,
}

/// An append that waits until it is durable.
struct Waiting {
    end: i64,
    base_offset: i64,
    producer: usize,
    first: u32,
    count: u32,
}

/// A read or time query that waits for the disk.
enum Reading {
    Read { partition: usize, offset: i64 },
    Time { partition: usize, query: Option<i64>, until: i64 },
}

struct Partition {
    key: PartitionKey,
    config: LogConfig,
    checkers: Checkers,
    /// Where the consumer at the tail is.
    position: i64,
    is_start_moving: Option<i64>,
}

struct Node {
    started_us: u64,
    logs: Vec<ShardLog>,
    waiting: Vec<HashMap<LogId, Vec<Waiting>>>,
    reading: Vec<BTreeMap<ReadToken, Reading>>,
}

/// One node, its disk and its clients.
pub struct Simulation {
    random: Random,
    schedule: Schedule<Event>,
    trace: Trace,
    disk: SimDisk,
    node: Option<Node>,
    partitions: Vec<Partition>,
    producers: Vec<Producer>,
    idempotent: HashSet<u32>,
    starts: u32,
    crashes: u64,
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
        let partitions = (0..count)
            .map(|index| {
                // What damage does to offsets with gaps cannot always be told.
                let is_compacted = !is_damaged_at_rest && random.one_in(3);
                Partition {
                    key: PartitionKey { topic_id: TopicId([index as u8 % 3; 16]), partition: index as i32 },
                    config: if is_compacted { compacted_config(&mut random) } else { config(&mut random) },
                    checkers: if is_compacted { Checkers::of_compacted() } else { Checkers::default() },
                    position: 0,
                    is_start_moving: None,
                }
            })
            .collect();
        let producers: Vec<Producer> = (0..random.between(1, 8) as u32)
            .map(|client| Producer {
                client,
                partition: random.index(count),
                is_idempotent: !random.one_in(3),
                next_number: 0,
                next_sequence: 0,
                in_flight: VecDeque::new(),
                sent: 0,
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
            node: None,
            partitions,
            producers,
            starts: 0,
            crashes: 0,
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
        }
        while let Some(event) = self.schedule.next() {
            if self.schedule.now_us() > self.end_us {
                break;
            }
            self.happen(event)?;
        }
        self.crash()?;
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        let now_us = self.schedule.now_us();
        match event {
            Event::Disk { shard, token, operation } => {
                let result = self.disk.complete(operation);
                self.trace.line(now_us, format!("shard {shard}: operation {} ends: {}", token.0, brief(&result)));
                self.with_log(shard, |log, now, ops, progress| log.on_disk(now, token, result, ops, progress))?;
            }
            Event::Timer { shard } => self.with_log(shard, |_, _, _, _| Ok(()))?,
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
            Event::Receive { partition, offset, plan } => self.receive(partition, offset, plan)?,
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
                self.disk.turn_slow(&mut self.random);
                self.trace.line(now_us, format!("slow: {:?}", self.disk.faults.slow));
                self.schedule.after(self.end_us / 4, Event::Slow);
            }
            Event::Clock => {
                let error_ms = self.random.between(0, 2 * YEAR_MS) as i64 - YEAR_MS as i64;
                self.schedule.set_clock_error(error_ms);
                self.trace.line(now_us, format!("the clock is wrong by {error_ms} ms"));
            }
            Event::Crash => self.crash()?,
        }
        Ok(())
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
        // Bytes promised to a consumer by the old process, events of its disk: gone.
        self.schedule
            .retain(|event| !matches!(event, Event::Disk { .. } | Event::Timer { .. } | Event::Receive { .. }));
        self.starts += 1;
        if self.is_damaged_at_rest {
            self.start_on_damaged_copies()?;
        }
        let faults = std::mem::take(&mut self.disk.faults);
        let shards = self.random.between(1, 4) as usize;
        let Simulation { disk, random, trace, partitions, schedule, .. } = self;
        let now_us = schedule.now_us();
        let now_ms = schedule.now(0).unix_ms;
        let recovered = until_recovered(
            disk,
            random,
            3,
            |line| trace.line(now_us, line),
            |disk, random| recover_logs(partitions, disk, random, shards, now_ms),
        )?;
        trace.line(now_us, format!("recovered {} groups, {shards} shards", recovered.groups));
        self.disk.faults = faults;
        let mut logs = open_logs(&self.partitions, recovered);
        for partition in &mut self.partitions {
            let log = &mut logs[partition.key.shard(shards)];
            let id = log.create_partition(partition.key, TOPIC, partition.config.clone());
            log.lead(id, self.starts as i32);
            partition.is_start_moving = None;
        }
        for producer in &mut self.producers {
            producer.sent = 0;
            if !producer.is_idempotent {
                producer.in_flight.clear();
            }
        }
        self.node = Some(Node {
            started_us: self.schedule.now_us(),
            waiting: logs.iter().map(|_| HashMap::new()).collect(),
            reading: logs.iter().map(|_| BTreeMap::new()).collect(),
            logs,
        });
        for partition in 0..self.partitions.len() {
            self.inspect(partition)?;
        }
        for shard in 0..shards {
            self.with_log(shard, |_, _, _, _| Ok(()))?;
        }
        Ok(())
    }

    /// Reads all of a partition just recovered and shows it to the checkers.
    fn inspect(&mut self, partition: usize) -> Result<(), String> {
        let node = self.node.as_mut().expect("it was just started");
        let Partition { key, checkers, .. } = &mut self.partitions[partition];
        let shard = key.shard(node.logs.len());
        let log = &mut node.logs[shard];
        let id = log.find(*key).expect("created at start");
        let now = self.schedule.now(node.started_us);
        let Whole { log_start, log_end, .. } =
            inspect(&mut self.disk, &mut self.random, (log, id), now, checkers, &self.idempotent)
                .map_err(|error| format!("partition {partition}: {error}"))?;
        let line = format!("partition {partition}: offsets {log_start} to {log_end}, shard {shard}");
        self.trace.line(self.schedule.now_us(), line);
        Ok(())
    }

    /// Damages copies of the disk and starts on them: each time it must be noticed.
    fn start_on_damaged_copies(&mut self) -> Result<(), String> {
        let mut random = self.random.fork();
        for _ in 0..random.between(1, DAMAGED_COPIES_MAX) {
            let mut disk = self.disk.clone();
            disk.faults = DiskFaults::default();
            let Some(damage) = Damage::inflict(&mut disk, &mut random) else { break };
            let outcome = self.start_on(&mut disk, &mut random);
            self.verdicts.add(damage.judge(&disk, outcome)?);
        }
        Ok(())
    }

    fn start_on(&self, disk: &mut SimDisk, random: &mut Random) -> Result<Inspected, String> {
        let shards = random.between(1, 4) as usize;
        let now = self.schedule.now(0);
        let recovered = recover_logs(&self.partitions, disk, random, shards, now.unix_ms)?;
        let mut logs = open_logs(&self.partitions, recovered);
        let mut inspected = Vec::new();
        for Partition { key, config, checkers, .. } in &self.partitions {
            let log = &mut logs[key.shard(shards)];
            let id = log.create_partition(*key, TOPIC, config.clone());
            let whole = inspect(disk, random, (log, id), now, &mut checkers.clone(), &self.idempotent);
            inspected.push((partition_directory(TOPIC, *key), whole.map(drop)));
        }
        Ok(inspected)
    }

    /// Lets a log do something and ends the turn: its operations start, what became true is told.
    fn with_log(
        &mut self,
        shard: usize,
        what: impl FnOnce(
            &mut ShardLog,
            millstream_storage::Now,
            &mut Ops,
            &mut Vec<Progress>,
        ) -> Result<(), millstream_storage::shard_log::Fatal>,
    ) -> Result<(), String> {
        let node = self.node.as_mut().expect("the node is up");
        let now = self.schedule.now(node.started_us);
        let log = &mut node.logs[shard];
        log.set_free_space(self.disk.free_bytes());
        let mut ops = Ops::new();
        let mut progress = Vec::new();
        let result = what(log, now, &mut ops, &mut progress);
        if result.is_ok() {
            log.end_turn(now, &mut ops, &mut progress);
        }
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
            let (operation, delay) = self.disk.submit(op);
            self.schedule.after(delay, Event::Disk { shard, token, operation });
        }
        if let Some(deadline) = deadline {
            let at = started_us + deadline.as_micros() as u64;
            // At once would be for ever: a deadline that has passed is looked at a little later.
            self.schedule.at(at.max(self.schedule.now_us() + 500), Event::Timer { shard });
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
        let producer = &mut self.producers[append.producer];
        let at = producer.in_flight.iter().position(|batch| batch.first == append.first);
        if let Some(at) = at {
            producer.in_flight.remove(at);
            producer.sent -= 1;
        }
        let (client, partition) = (producer.client, producer.partition);
        let records: Vec<Found> = (0..append.count)
            .map(|index| Found {
                offset: append.base_offset + i64::from(index),
                id: RecordId { client, number: append.first + index },
            })
            .collect();
        self.trace.line(
            self.schedule.now_us(),
            format!("client {client}: records from {} acknowledged at {}", append.first, append.base_offset),
        );
        self.observe(partition, &Observation::Acknowledged(&records))
    }

    fn produce(&mut self, index: usize) -> Result<(), String> {
        let producer = &mut self.producers[index];
        if producer.sent == producer.in_flight.len() {
            if producer.in_flight.len() == IN_FLIGHT_MAX {
                return Ok(());
            }
            let count = match self.random.below(8) {
                0 => self.random.between(2, 12) as u32,
                _ => self.random.between(1, 3) as u32,
            };
            let first = producer.next_number;
            let sequence = producer.next_sequence;
            let id = RecordId { client: producer.client, number: first };
            let identity = producer.is_idempotent.then_some((i64::from(producer.client), 0, sequence));
            let is_compacted = self.partitions[producer.partition].checkers.is_compacted();
            let bytes = if is_compacted { keyed_batch_of } else { batch_of }(id, count, identity);
            producer.in_flight.push_back(Batch { first, count, sequence, bytes });
            producer.next_number += count;
            producer.next_sequence += count as i32;
        }
        let batch = &producer.in_flight[producer.sent];
        let (first, count, sequence, bytes) = (batch.first, batch.count, batch.sequence, batch.bytes.clone());
        let (client, partition) = (producer.client, producer.partition);
        let key = self.partitions[partition].key;
        let node = self.node.as_mut().expect("the node is up");
        let shard = key.shard(node.logs.len());
        let now = self.schedule.now(node.started_us);
        let log = &mut node.logs[shard];
        let id = log.find(key).expect("created at start");
        let result = log.append(now, id, &bytes);
        self.trace.line(self.schedule.now_us(), format!("client {index}: {count} from {first}: {result:?}"));
        match result {
            Ok(appended) => {
                self.producers[index].sent += 1;
                if appended.last_offset - appended.base_offset != i64::from(count) - 1 {
                    return Err(format!("{count} records of {index} got {appended:?}"));
                }
                let records: Vec<Found> = (0..count)
                    .map(|index| Found {
                        offset: appended.base_offset + i64::from(index),
                        id: RecordId { client, number: first + index },
                    })
                    .collect();
                self.partitions[partition].checkers.see(&self.idempotent, &Observation::Appended(&records))?;
                let append = Waiting {
                    end: appended.last_offset + 1,
                    base_offset: appended.base_offset,
                    producer: index,
                    first,
                    count,
                };
                if log.durable_end(id) > appended.last_offset {
                    if !appended.duplicate {
                        return Err(format!("{appended:?} was durable before it was written"));
                    }
                    self.acknowledge(append)?;
                } else {
                    node.waiting[shard].entry(id).or_default().push(append);
                }
            }
            Err(AppendError::NoSpace) => {}
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
        let shard = partition.key.shard(node.logs.len());
        let log = &mut node.logs[shard];
        let id = log.find(partition.key).expect("created at start");
        let (log_start, end) = (log.log_start(id), log.durable_end(id));
        let offset = match self.random.below(4) {
            0 => self.random.between(log_start as u64, end as u64) as i64,
            1 => log_start,
            _ => partition.position.max(log_start),
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
        self.schedule.after(delay, Event::Receive { partition, offset, plan });
    }

    fn receive(&mut self, partition: usize, offset: i64, plan: ReadPlan) -> Result<(), String> {
        let bytes = fetch(&self.disk, &plan)?;
        let (records, next) = records_in(&bytes, offset)?;
        self.trace.line(self.schedule.now_us(), format!("partition {partition}: read {offset} to {next}"));
        if next == offset && plan.bytes > 0 {
            return Err(format!("partition {partition}: not one whole batch in {} bytes", plan.bytes));
        }
        self.observe(partition, &Observation::Read { offset, records: &records })?;
        let position = &mut self.partitions[partition].position;
        *position = next.max(*position);
        Ok(())
    }

    fn delete_records(&mut self, at: usize) -> Result<(), String> {
        let partition = &mut self.partitions[at];
        let node = self.node.as_mut().expect("the node is up");
        let shard = partition.key.shard(node.logs.len());
        let log = &mut node.logs[shard];
        let id = log.find(partition.key).expect("created at start");
        let (log_start, end) = (log.log_start(id), log.durable_end(id));
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
        let shard = partition.key.shard(node.logs.len());
        let log = &mut node.logs[shard];
        let id = log.find(partition.key).expect("created at start");
        let until = log.durable_end(id);
        let timestamp = self.random.coin().then(|| super::schedule::EPOCH_MS - self.random.below(600_000) as i64);
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
        let node = self.node.as_ref().expect("the node is up");
        let key = self.partitions[partition].key;
        let log = &node.logs[key.shard(node.logs.len())];
        // Records that went since the question are no fault.
        let log_start = log.log_start(log.find(key).expect("created at start"));
        self.observe(partition, &Observation::Time { query, range: log_start..until, found })
    }
}

fn recover_logs(
    partitions: &[Partition],
    disk: &mut SimDisk,
    random: &mut Random,
    shards: usize,
    now_ms: i64,
) -> Result<Recovered, String> {
    let known: Vec<KnownPartition> = partitions
        .iter()
        .map(|partition| KnownPartition {
            key: partition.key,
            topic: TOPIC.to_string(),
            index_interval_bytes: partition.config.index_interval_bytes,
        })
        .collect();
    let options = RecoveryOptions {
        shards,
        salt: random.bytes(),
        slots: 4 + random.below(4) as u32,
        slot_bytes: 128 << 10,
        partitions: &known,
        metadata_is_new: false,
        now_ms,
    };
    recover(&mut |op| disk.execute(op), &options).map_err(|error| error.to_string())
}

fn open_logs(partitions: &[Partition], recovered: Recovered) -> Vec<ShardLog> {
    let options = ShardLogOptions {
        tail_memory_bytes_max: 256 << 10,
        free_space_floor_bytes: 64 << 10,
        extent_bytes_min: 48 << 10,
        retention_check_interval: Duration::from_millis(50),
        producer_expiration_ms: 86_400_000,
        producers_max: 1_000_000,
        cleaner: cleaner_options(),
    };
    let config_of = |key| {
        let partition = partitions.iter().find(|each| each.key == key).expect("known");
        (TOPIC.to_string(), partition.config.clone())
    };
    recovered.shards.into_iter().map(|shard| ShardLog::new(options.clone(), shard, config_of)).collect()
}

/// So little memory and time that compactions often need several runs.
pub fn cleaner_options() -> CleanerOptions {
    CleanerOptions {
        is_enabled: true,
        map_bytes_max: 64 << 10,
        bytes_per_second_max: u64::MAX,
        backoff: Duration::from_millis(20),
    }
}

fn config(random: &mut Random) -> LogConfig {
    LogConfig {
        segment_bytes: random.between(300, 900) * 1_000,
        segment_ms: if random.one_in(3) { 300 } else { i64::MAX },
        retention_ms: -1,
        retention_bytes: if random.one_in(3) { 500_000 } else { -1 },
        cleanup_delete: true,
        compaction: None,
        index_interval_bytes: 4_096,
        timestamp_type: TimestampType::CreateTime,
        file_delete_delay_ms: FILE_DELETE_DELAY_MS,
    }
}

/// Segments so short that several are closed and compacted in the time that a simulation takes.
fn compacted_config(random: &mut Random) -> LogConfig {
    LogConfig {
        segment_bytes: random.between(16, 60) * 1_000,
        cleanup_delete: random.one_in(4),
        compaction: Some(CompactionConfig {
            min_cleanable_dirty_ratio: random.below(50) as f64 / 100.0,
            min_lag_ms: 0,
            max_lag_ms: if random.one_in(4) { 1 } else { i64::MAX },
            delete_retention_ms: random.below(400) as i64,
        }),
        ..config(random)
    }
}

/// A result without the bytes it brings.
pub fn brief(result: &Result<DiskReply, DiskError>) -> String {
    match result {
        Ok(DiskReply::Data(data)) => format!("{} bytes", data.len()),
        Ok(_) => "done".to_string(),
        Err(error) => error.to_string(),
    }
}

/// An operation without the bytes it writes.
pub fn brief_op(op: &millstream_storage::DiskOp) -> String {
    use millstream_storage::DiskOp;
    match op {
        DiskOp::Write { path, position, data, durable } => {
            let bytes: usize = data.iter().map(Bytes::len).sum();
            let print = fingerprint(data.iter().map(|part| &part[..]));
            format!("write {path} at {position}, {bytes} bytes ({print:016x}), durable: {durable}")
        }
        DiskOp::Replace { path, data } => format!("replace {path} with {} bytes", data.len()),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::seeds;

    fn options(seed: u64, is_verbose: bool) -> Options {
        Options { seed, is_verbose }
    }

    #[test]
    fn logs_keep_what_they_acknowledge() {
        let mut total = Outcome::default();
        seeds::run("sim::logs::tests::logs_keep_what_they_acknowledge", 100, |seed, is_verbose| {
            let outcome = Simulation::run(options(seed, is_verbose))?;
            total.acknowledged += outcome.acknowledged;
            total.crashes += outcome.crashes;
            total.verdicts.add_all(outcome.verdicts);
            Ok(outcome.trace)
        });
        println!("{total:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_trace() {
        for seed in 0..10 {
            assert_eq!(Simulation::run(options(seed, false)), Simulation::run(options(seed, false)), "seed {seed}");
        }
    }
}
