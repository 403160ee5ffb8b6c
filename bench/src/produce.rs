//! The producing load.

use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;

use crate::connection::{BenchError, Connection};
use crate::report::{Report, latencies};
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
    /// Broker to send to; it must lead all the partitions.
    #[arg(long, default_value = "127.0.0.1:9092")]
    bootstrap: String,
    /// Topic; created if it is missing.
    #[arg(long, default_value = "bench")]
    topic: String,
    /// Partitions that the load is spread over.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..=100_000))]
    partitions: i32,
    /// Connections, each with a thread that sends and one that receives.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,
    /// Bytes of a record's value.
    #[arg(long, default_value_t = 1024)]
    record_bytes: usize,
    /// Records in a batch.
    #[arg(long, default_value_t = 64)]
    batch_records: usize,
    /// Partitions, so batches, in one request.
    #[arg(long, default_value_t = 1)]
    request_partitions: usize,
    /// Requests under way on a connection.
    #[arg(long, default_value_t = 5)]
    in_flight: usize,
    /// Acknowledgement to wait for.
    #[arg(long, value_enum, default_value_t = Acks::All)]
    acks: Acks,
    /// Records a second over all connections; 0 sends as fast as the broker takes them.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Seconds that are not measured, first.
    #[arg(long, default_value_t = 2)]
    warm_up: u64,
    /// Seconds measured.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

/// Runs the load and says what came of it.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    wire::ensure_topic(&mut Connection::open(&options.bootstrap)?, &options.topic, options.partitions)?;
    let batch = wire::batch(options.batch_records.max(1), options.record_bytes);
    let start = Instant::now();
    let measured_from = start + Duration::from_secs(options.warm_up);
    let until = measured_from + Duration::from_secs(options.seconds);
    let results: Vec<Result<Histogram<u64>, BenchError>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.connections)
            .map(|index| {
                let batch = &batch;
                scope.spawn(move || connection(options, index, batch, start, measured_from, until))
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker does not panic")).collect()
    });
    let mut histogram = latencies();
    for result in results {
        histogram.add(result?).expect("the histograms are alike");
    }
    let batches = histogram.len() * options.request_partitions as u64;
    Ok(Report {
        seconds: options.seconds as f64,
        requests: histogram.len(),
        records: batches * options.batch_records as u64,
        payload_bytes: batches * (options.batch_records * options.record_bytes) as u64,
        latency: Some(histogram),
    })
}

/// Loads one connection until the time is up; returns the latencies measured, in nanoseconds.
fn connection(
    options: &Options,
    index: u32,
    batch: &[u8],
    start: Instant,
    measured_from: Instant,
    until: Instant,
) -> Result<Histogram<u64>, BenchError> {
    let mut sender = Connection::open(&options.bootstrap)?;
    let mut receiver = sender.split()?;
    let acks = if options.acks == Acks::All { -1 } else { 1 };
    let requests = requests(options, index, acks, batch);
    // A request is due at fixed times, whatever became of the ones before.
    let records = (options.batch_records * options.request_partitions) as f64;
    let interval = (options.rate > 0)
        .then(|| Duration::from_secs_f64(records * f64::from(options.connections) / options.rate as f64));
    let (due_sender, due_receiver) = sync_channel::<Instant>(options.in_flight.max(1) - 1);
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut histogram = latencies();
            let mut buffer = Vec::new();
            while let Ok(due) = due_receiver.recv() {
                receiver.receive_into(&mut buffer)?;
                let now = Instant::now();
                if let Some(error) = wire::produce_error(Bytes::copy_from_slice(&buffer))? {
                    return Err(BenchError::Broker("producing", error));
                }
                if due >= measured_from && now <= until {
                    histogram.saturating_record((now - due).as_nanos() as u64);
                }
            }
            Ok(histogram)
        });
        let mut due = start + interval.unwrap_or_default() * index / options.connections;
        for request in requests.iter().cycle() {
            match interval {
                Some(interval) => {
                    if let Some(wait) = due.checked_duration_since(Instant::now()) {
                        std::thread::sleep(wait);
                    }
                    if due >= until || due_sender.send(due).is_err() {
                        break;
                    }
                    due += interval;
                }
                None => {
                    let now = Instant::now();
                    if now >= until || due_sender.send(now).is_err() {
                        break;
                    }
                }
            }
            if sender.send(request).is_err() {
                break;
            }
        }
        drop(due_sender);
        reader.join().expect("the reader does not panic")
    })
}

/// The requests that a connection sends in turn: each of its partitions once.
fn requests(options: &Options, index: u32, acks: i16, batch: &[u8]) -> Vec<Bytes> {
    let connections = options.connections as i32;
    let mut mine: Vec<i32> =
        (0..options.partitions).filter(|partition| partition % connections == index as i32).collect();
    if mine.is_empty() {
        mine.push(index as i32 % options.partitions);
    }
    mine.chunks(options.request_partitions.max(1))
        .map(|partitions| wire::produce(&options.topic, partitions, acks, batch))
        .collect()
}
