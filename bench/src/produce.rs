//! The producing load.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Args, ValueEnum};

use crate::client::{self, Session, Waits};
use crate::connection::{Socket, Target};
use crate::error::BenchError;
use crate::load::{self, Common, Mark};
use crate::report::Report;
use crate::schedule::{Arrivals, Window};
use crate::topics::{self, Wanted};
use crate::wire;

/// What must have happened when the broker answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Acks {
    /// The leader has it.
    #[value(name = "1")]
    Leader,
    /// All in-sync replicas have it.
    All,
}

/// Options of `produce`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Partitions that the load is spread over; the topic is created with as many if it is missing.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..=100_000))]
    pub partitions: i32,
    /// Replicas of each partition of the topic if it is created; of several, partition p has its leader on broker p of the
    /// cluster's, in turn.
    #[arg(long, default_value_t = 1, value_parser = load::replicas)]
    pub replication_factor: usize,
    /// Config of the topic if it is created, for example flush.messages=1; may be given several times.
    #[arg(long = "topic-config", value_parser = load::key_value, value_name = "KEY=VALUE")]
    pub topic_configs: Vec<(String, String)>,
    #[command(flatten)]
    pub shape: Shape,
    /// Acknowledgement to wait for.
    #[arg(long, value_enum, default_value_t = Acks::All)]
    pub acks: Acks,
    /// Records a second over all connections, at fixed times; 0 sends as fast as the broker takes them.
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
    /// Seconds that are not measured, first.
    #[arg(long, default_value_t = 2.0, value_parser = load::seconds)]
    pub warm_up: f64,
    /// Seconds measured.
    #[arg(long, default_value_t = 10.0, value_parser = load::seconds)]
    pub seconds: f64,
    /// Instead of for some seconds: until about so many records are acknowledged, all of them measured.
    #[arg(long)]
    pub records: Option<u64>,
}

/// What is sent.
#[derive(Args, Clone, Debug)]
pub struct Shape {
    /// Bytes of a record's value.
    #[arg(long, default_value_t = 1024)]
    pub record_bytes: usize,
    /// Records in a batch.
    #[arg(long, default_value_t = 64, value_parser = load::at_least_one)]
    pub batch_records: usize,
    /// Partitions, so batches, in one request.
    #[arg(long, default_value_t = 1, value_parser = load::at_least_one)]
    pub request_partitions: usize,
    /// Requests of a producer under way on a connection.
    #[arg(long, default_value_t = 5, value_parser = load::at_least_one)]
    pub in_flight: usize,
}

/// Runs the load and says what came of it. Calls `mark` at both ends of the measured time.
pub fn run(options: &Options, mark: impl FnMut(Mark)) -> Result<Report, BenchError> {
    let target = options.common.target();
    let topic = &options.common.topic;
    let wanted = Wanted {
        name: topic,
        partitions: options.partitions,
        replicas: options.replication_factor,
        configs: &options.topic_configs,
    };
    let leaders = topics::ensure(&target, &wanted)?;
    let batch = wire::batch(options.shape.batch_records, options.shape.record_bytes);
    let shares = shares(&leaders[..options.partitions as usize], options.common.connections as usize);
    let connections = shares.len() as u32;
    let mut producers = Vec::with_capacity(shares.len());
    for (leader, partitions) in shares {
        producers.push(Producer::new(options, &target.at(&leader), &partitions, &batch, connections)?);
    }
    let window = match options.records {
        None => Window::after(Duration::from_secs_f64(options.warm_up), Duration::from_secs_f64(options.seconds)),
        Some(_) => Window::after(Duration::ZERO, load::DAY),
    };
    for (index, producer) in producers.iter_mut().enumerate() {
        producer.open(window, options, index as u32, connections);
    }
    let mut report = load::run(&options.common, window, producers, mark, |producers, deadline| {
        client::drive(producers, options.common.spin, deadline)?;
        let mut report = Report::new(window.seconds());
        for producer in producers {
            producer.give_up(Instant::now());
            report.add(&producer.report);
        }
        Ok(report)
    })?;
    if options.records.is_some() {
        report.seconds = window.from.elapsed().as_secs_f64();
    }
    Ok(report)
}

/// One connection that produces.
struct Producer {
    socket: Socket,
    /// Sent in turn, over and over.
    requests: Vec<Request>,
    next: usize,
    /// Bytes of the request `next` that have been written, while some have not.
    written: Option<usize>,
    /// Requests under way, oldest first: which, and when it was due or begun.
    under_way: VecDeque<(usize, Instant)>,
    in_flight_max: usize,
    /// Requests that it may still begin.
    left: u64,
    arrivals: Option<Arrivals>,
    window: Window,
    report: Report,
}

struct Request {
    bytes: Bytes,
    partitions: usize,
    records: u64,
    payload_bytes: u64,
}

impl Producer {
    /// Connects; the window is to be set before it is used.
    fn new(
        options: &Options,
        target: &Target,
        partitions: &[i32],
        batch: &[u8],
        connections: u32,
    ) -> Result<Producer, BenchError> {
        Ok(Producer {
            socket: Socket::open(target)?,
            requests: requests(options, partitions, batch),
            next: 0,
            written: None,
            under_way: VecDeque::with_capacity(options.shape.in_flight),
            in_flight_max: options.shape.in_flight,
            left: options.records.map_or(u64::MAX, |records| {
                let request = (options.shape.batch_records * options.shape.request_partitions) as u64;
                records.div_ceil(request * u64::from(connections))
            }),
            arrivals: None,
            window: Window::after(Duration::ZERO, Duration::ZERO),
            report: Report::new(options.seconds),
        })
    }

    fn open(&mut self, window: Window, options: &Options, index: u32, connections: u32) {
        self.window = window;
        let records = (options.shape.batch_records * options.shape.request_partitions) as f64;
        self.arrivals = (options.rate > 0).then(|| {
            let interval = Duration::from_secs_f64(records * f64::from(connections) / options.rate as f64);
            Arrivals::new(window.start + interval * index / connections, interval, window.until)
        });
    }

    /// When the next request counts from, if it may begin now.
    fn begin(&mut self) -> Option<Instant> {
        if self.under_way.len() >= self.in_flight_max || self.left == 0 {
            return None;
        }
        let now = Instant::now();
        let since = match &mut self.arrivals {
            Some(arrivals) => arrivals.take(now),
            None => Some(now).filter(|now| *now < self.window.until),
        }?;
        self.left -= 1;
        Some(since)
    }

    fn ended(&self) -> bool {
        let none_is_due = match &self.arrivals {
            Some(arrivals) => arrivals.ended(),
            None => Instant::now() >= self.window.until,
        };
        self.under_way.is_empty() && (none_is_due || self.left == 0)
    }

    /// Counts what is still unanswered as having waited until now.
    fn give_up(&mut self, now: Instant) {
        let waiting: Vec<Instant> = self.arrivals.iter().flat_map(|arrivals| arrivals.waiting(now)).collect();
        for since in self.under_way.drain(..).map(|(_, since)| since).chain(waiting) {
            if self.window.contains(since) {
                self.report.unanswered += 1;
                self.report.latency.saturating_record((now - since).as_nanos() as u64);
            }
        }
    }
}

impl Session for Producer {
    fn socket(&self) -> &Socket {
        &self.socket
    }

    fn receive(&mut self) -> Result<(), BenchError> {
        if !self.socket.read()? {
            return Ok(());
        }
        let now = Instant::now();
        while let Some(response) = self.socket.response()? {
            let Some((request, since)) = self.under_way.pop_front() else {
                return Err(BenchError::Response("a response that no request was sent for".to_string()));
            };
            let request = &self.requests[request];
            let answered = wire::produced(response)?;
            if answered != request.partitions {
                let asked = request.partitions;
                return Err(BenchError::Response(format!("{answered} partitions answered, {asked} were produced to")));
            }
            if self.window.contains(since) {
                self.report.latency.saturating_record((now - since).as_nanos() as u64);
            }
            if self.window.contains(now) {
                self.report.requests += 1;
                self.report.records += request.records;
                self.report.payload_bytes += request.payload_bytes;
            }
        }
        Ok(())
    }

    fn send(&mut self) -> Result<Waits, BenchError> {
        loop {
            let from = match self.written {
                Some(written) => written,
                None => {
                    let Some(since) = self.begin() else { break };
                    self.under_way.push_back((self.next, since));
                    0
                }
            };
            let request = &self.requests[self.next].bytes;
            let written = from + self.socket.write(&request[from..])?;
            if written < request.len() {
                self.written = Some(written);
                return Ok(Waits::Write);
            }
            self.written = None;
            self.next = (self.next + 1) % self.requests.len();
        }
        Ok(if self.ended() { Waits::Done } else { Waits::Read })
    }

    fn due(&self, index: u64) -> Option<Instant> {
        self.arrivals.as_ref()?.due(index)
    }
}

/// The requests that a connection sends in turn: each of its partitions once.
fn requests(options: &Options, partitions: &[i32], batch: &[u8]) -> Vec<Request> {
    let acks = if options.acks == Acks::All { -1 } else { 1 };
    let shape = &options.shape;
    partitions
        .chunks(shape.request_partitions)
        .map(|partitions| Request {
            bytes: wire::produce(&options.common.topic, partitions, acks, batch),
            partitions: partitions.len(),
            records: (partitions.len() * shape.batch_records) as u64,
            payload_bytes: (partitions.len() * shape.batch_records * shape.record_bytes) as u64,
        })
        .collect()
}

/// The connections of all producers: each to one leader, with the partitions that it sends to.
fn shares(leaders: &[String], producers: usize) -> Vec<(String, Vec<i32>)> {
    let partitions = |index| partitions_of(index, producers, leaders.len() as i32);
    (0..producers).flat_map(|index| topics::by_leader(leaders, partitions(index))).collect()
}

/// The partitions of producer `index`: each partition has one producer; a producer that would have none shares one.
fn partitions_of(index: usize, producers: usize, partitions: i32) -> Vec<i32> {
    let mine: Vec<i32> = (index as i32..partitions).step_by(producers).collect();
    if mine.is_empty() { vec![index as i32 % partitions] } else { mine }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_producer_has_a_connection_to_each_leader_of_its_partitions() {
        let leaders = ["a", "b", "a", "b", "a"].map(str::to_string);
        let expected = [("a", vec![0, 2, 4]), ("b", vec![1, 3])].map(|(leader, of)| (leader.to_string(), of));
        assert_eq!(shares(&leaders, 1), expected);
        let expected = [("a", vec![0]), ("a", vec![2]), ("a", vec![4]), ("b", vec![1]), ("b", vec![3])];
        let mut shares = shares(&leaders, 5);
        shares.sort();
        assert_eq!(shares, expected.map(|(leader, of)| (leader.to_string(), of)));
    }

    #[test]
    fn each_partition_has_a_producer_and_each_producer_a_partition() {
        assert_eq!(partitions_of(1, 4, 10), [1, 5, 9]);
        assert_eq!(partitions_of(3, 4, 4), [3]);
        assert_eq!(partitions_of(7, 50, 5), [2]);
        let mut all: Vec<i32> = (0..7).flat_map(|index| partitions_of(index, 7, 100)).collect();
        all.sort();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
    }
}
