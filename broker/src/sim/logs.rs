//! The shipped shard logs and their recovery, without sessions: clients call [`ShardLog`] as the shard does. Finds what
//! is wrong in the storage engine with less in the way than [`super::cluster`] has.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use millstream_storage::batch::TimestampType;
use millstream_storage::recovery::{KnownPartition, RecoveryOptions, recover};
use millstream_storage::shard_log::{
    AppendError, LogConfig, LogId, Ops, Progress, Read, ReadPart, ReadPlan, ReadToken, ShardLogOptions,
    TimeLookup, TimeQuery,
};
use millstream_storage::{DiskError, DiskReply, DiskToken, PartitionKey, ShardLog, TopicId};

use super::checker::{Checkers, Observation};
use super::disk::{Operation, SimDisk};
use super::random::Random;
use super::record::{Found, RecordId, batch_of, records_in};
use super::schedule::{Schedule, Trace, fingerprint};

/// Batches that an idempotent producer may have on their way.
const IN_FLIGHT_MAX: usize = 5;
const TOPIC: &str = "simulated";
const FILE_DELETE_DELAY_MS: i64 = 200;

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
    options: Options,
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
        })
    }

    fn new(options: Options) -> Simulation {
        let mut random = Random::new(options.seed);
        let mut disk = SimDisk::new(random.fork());
        if random.one_in(5) {
            disk.faults.fail_one_in = random.between(300, 3_000);
        }
        if random.one_in(8) {
            disk.faults.fail_sync_one_in = random.between(3, 50);
        }
        let count = random.between(1, 6) as usize;
        let partitions = (0..count)
            .map(|index| Partition {
                key: PartitionKey { topic_id: TopicId([index as u8 % 3; 16]), partition: index as i32 },
                config: config(&mut random),
                checkers: Checkers::default(),
                position: 0,
                is_start_moving: None,
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
            options,
            random,
            schedule: Schedule::new(),
            disk,
            node: None,
            partitions,
            producers,
            starts: 0,
            crashes: 0,
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
            Event::Crash => self.crash()?,
        }
        Ok(())
    }

    fn crash(&mut self) -> Result<(), String> {
        self.crashes += 1;
        let is_power = self.random.coin();
        self.trace.line(self.schedule.now_us(), format!("crash, power lost: {is_power}"));
        if is_power {
            self.disk.lose_power();
        } else {
            self.disk.kill();
        }
        self.node = None;
        self.start()
    }

    /// Recovers, perhaps interrupted, and reads everything.
    fn start(&mut self) -> Result<(), String> {
        // Bytes promised to a consumer by the old process, events of its disk: gone.
        self.schedule
            .retain(|event| !matches!(event, Event::Disk { .. } | Event::Timer { .. } | Event::Receive { .. }));
        let faults = std::mem::take(&mut self.disk.faults);
        let shards = self.random.between(1, 4) as usize;
        let known: Vec<KnownPartition> = self
            .partitions
            .iter()
            .map(|partition| KnownPartition {
                key: partition.key,
                topic: TOPIC.to_string(),
                index_interval_bytes: partition.config.index_interval_bytes,
            })
            .collect();
        let recovered = loop {
            if self.random.one_in(3) {
                let operations = self.random.below(80);
                self.disk.cut_power_after(operations);
            }
            self.starts += 1;
            let mut salt = millstream_storage::journal::Salt::default();
            salt[..4].copy_from_slice(&self.starts.to_le_bytes());
            let options = RecoveryOptions {
                shards,
                salt,
                slots: 4 + self.random.below(4) as u32,
                slot_bytes: 128 << 10,
                partitions: &known,
                metadata_is_new: false,
                now_ms: self.schedule.now(0).unix_ms,
            };
            let disk = &mut self.disk;
            let result = recover(&mut |op| disk.execute(op), &options);
            let was_cut = self.disk.is_out_of_power();
            let now_us = self.schedule.now_us();
            match result {
                Ok(recovered) => {
                    self.trace.line(now_us, format!("recovered {} groups, {shards} shards", recovered.groups));
                    self.disk.cut_power_after(u64::MAX);
                    break recovered;
                }
                Err(error) if was_cut => {
                    self.trace.line(now_us, format!("recovery interrupted: {error}"));
                    if self.random.coin() {
                        self.disk.lose_power();
                    } else {
                        self.disk.kill();
                    }
                }
                Err(error) => return Err(format!("the node does not start: {error}")),
            }
        };
        self.disk.faults = faults;
        let mut logs = Vec::new();
        for shard in recovered.shards {
            let log = ShardLog::new(
                ShardLogOptions {
                    tail_memory_bytes_max: 256 << 10,
                    free_space_floor_bytes: 64 << 10,
                    extent_bytes_min: 48 << 10,
                    retention_check_interval: Duration::from_millis(50),
                    producer_expiration_ms: 86_400_000,
                },
                shard,
                |key| {
                    let partition = self.partitions.iter().find(|each| each.key == key).expect("known");
                    (TOPIC.to_string(), partition.config.clone())
                },
            );
            logs.push(log);
        }
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
            self.read_everything(partition)?;
        }
        for shard in 0..shards {
            self.with_log(shard, |_, _, _, _| Ok(()))?;
        }
        Ok(())
    }

    fn read_everything(&mut self, partition: usize) -> Result<(), String> {
        let node = self.node.as_mut().expect("it was just started");
        let Partition { key, checkers, .. } = &mut self.partitions[partition];
        let shard = key.shard(node.logs.len());
        let log = &mut node.logs[shard];
        let id = log.find(*key).expect("created at start");
        let now = self.schedule.now(node.started_us);
        let (log_start, log_end, records) = read_whole(&mut self.disk, log, id, now)?;
        self.trace.line(
            self.schedule.now_us(),
            format!("partition {partition}: offsets {log_start} to {log_end}, shard {shard}"),
        );
        checkers
            .see(&self.idempotent, &Observation::Whole { log_start, log_end, records: &records })
            .map_err(|error| format!("partition {partition}: {error}"))
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
            if !self.disk.faults.fails_operations() {
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
            let bytes = batch_of(id, count, identity);
            producer.in_flight.push_back(Batch { first, count, sequence, bytes });
            producer.next_number += count;
            producer.next_sequence += count as i32;
        }
        let batch = &producer.in_flight[producer.sent];
        let (first, count, sequence, bytes) = (batch.first, batch.count, batch.sequence, batch.bytes.clone());
        let partition = producer.partition;
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

/// Reads a log just recovered from start to end, with disk operations that take no time.
pub fn read_whole(
    disk: &mut SimDisk,
    log: &mut ShardLog,
    id: LogId,
    now: millstream_storage::Now,
) -> Result<(i64, i64, Vec<Found>), String> {
    let (log_start, log_end) = (log.log_start(id), log.log_end(id));
    if log.durable_end(id) != log_end {
        return Err(format!("after recovery {} of {log_end} is durable", log.durable_end(id)));
    }
    let mut offset = log_start;
    let mut all = Vec::new();
    while offset < log_end {
        let mut ops = Ops::new();
        let mut plan = match log.read(id, offset, log_end, 64 << 10, &mut ops) {
            Read::Ready(plan) => Some(plan),
            Read::Pending(_) => None,
        };
        while plan.is_none() {
            let (token, op) = ops.pop().ok_or("a read waits for nothing")?;
            let result = disk.execute(op);
            let mut progress = Vec::new();
            log.on_disk(now, token, result, &mut ops, &mut progress).map_err(|fatal| fatal.0)?;
            for progress in progress {
                if let Progress::ReadDone { result, .. } = progress {
                    plan = Some(result.map_err(|error| format!("reading offset {offset}: {error}"))?);
                }
            }
        }
        let bytes = fetch(disk, &plan.expect("the loop ended"))?;
        let (found, next) = records_in(&bytes, offset)?;
        if next == offset {
            return Err(format!("nothing is found at offset {offset} of a log that ends at {log_end}"));
        }
        all.extend(found);
        offset = next;
    }
    Ok((log_start, log_end, all))
}

fn fetch(disk: &SimDisk, plan: &ReadPlan) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    for part in &plan.parts {
        match part {
            ReadPart::Memory(part) => bytes.extend_from_slice(part),
            ReadPart::File { path, position, bytes: length } => {
                let part = disk.peek(path, *position, *length);
                bytes.extend_from_slice(&part.ok_or_else(|| format!("{path} has no {length} bytes at {position}"))?);
            }
        }
    }
    if bytes.len() != plan.bytes {
        return Err(format!("a plan of {} bytes gave {}", plan.bytes, bytes.len()));
    }
    Ok(bytes)
}

fn config(random: &mut Random) -> LogConfig {
    LogConfig {
        segment_bytes: random.between(300, 900) * 1_000,
        segment_ms: if random.one_in(3) { 300 } else { i64::MAX },
        retention_ms: -1,
        retention_bytes: if random.one_in(3) { 500_000 } else { -1 },
        cleanup_delete: true,
        index_interval_bytes: 4_096,
        timestamp_type: TimestampType::CreateTime,
        file_delete_delay_ms: FILE_DELETE_DELAY_MS,
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
        seeds::run("sim::logs::tests::logs_keep_what_they_acknowledge", 150, |seed, is_verbose| {
            let outcome = Simulation::run(options(seed, is_verbose))?;
            total.acknowledged += outcome.acknowledged;
            total.crashes += outcome.crashes;
            Ok(())
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
