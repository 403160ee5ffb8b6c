//! The consuming load.

use std::time::Instant;

use bytes::Bytes;
use clap::Args;

use crate::connection::{BenchError, Connection};
use crate::report::Report;
use crate::wire;

/// Options of `consume`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Broker to fetch from; it must lead all the partitions.
    #[arg(long, default_value = "127.0.0.1:9092")]
    bootstrap: String,
    /// Topic.
    #[arg(long, default_value = "bench")]
    topic: String,
    /// Connections; the partitions are spread over them.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,
    /// Most bytes of one partition in one response.
    #[arg(long, default_value_t = 1 << 20)]
    partition_bytes_max: i32,
}

/// Reads everything that is in the topic now.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    let partitions = wire::partition_count(&mut Connection::open(&options.bootstrap)?, &options.topic)?;
    let start = Instant::now();
    let results: Vec<Result<(u64, u64, u64), BenchError>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.connections as i32)
            .map(|index| {
                let mine = (0..partitions).filter(move |partition| partition % options.connections as i32 == index);
                scope.spawn(move || connection(options, mine.collect()))
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker does not panic")).collect()
    });
    let seconds = start.elapsed().as_secs_f64();
    let mut report = Report { seconds, requests: 0, records: 0, payload_bytes: 0, latency: None };
    for result in results {
        let (requests, records, bytes) = result?;
        report.requests += requests;
        report.records += records;
        report.payload_bytes += bytes;
    }
    if report.records == 0 {
        return Err(BenchError::Empty(options.topic.clone()));
    }
    Ok(report)
}

/// Reads some partitions from start to end; returns requests, records and bytes of batches.
fn connection(options: &Options, partitions: Vec<i32>) -> Result<(u64, u64, u64), BenchError> {
    let mut connection = Connection::open(&options.bootstrap)?;
    let mut positions = Vec::new();
    let mut ends = std::collections::HashMap::new();
    for partition in partitions {
        let start = wire::list_offset(&mut connection, &options.topic, partition, -2)?;
        let end = wire::list_offset(&mut connection, &options.topic, partition, -1)?;
        if start < end {
            positions.push((partition, start));
            ends.insert(partition, end);
        }
    }
    let (mut requests, mut records, mut bytes) = (0, 0, 0);
    let mut buffer = Vec::new();
    while !positions.is_empty() {
        connection.send(&wire::fetch(&options.topic, &positions, options.partition_bytes_max))?;
        connection.receive_into(&mut buffer)?;
        requests += 1;
        let response = Bytes::from(std::mem::take(&mut buffer));
        wire::fetched(response.clone(), |partition, length, count, next| {
            bytes += length as u64;
            records += count;
            if let Some(position) = positions.iter_mut().find(|(index, _)| *index == partition) {
                position.1 = next;
            }
        })?;
        buffer = response.try_into_mut().map(Vec::from).unwrap_or_default();
        positions.retain(|(partition, offset)| *offset < ends[partition]);
        // The broker favours partitions in the order of the request.
        if !positions.is_empty() {
            positions.rotate_left(1);
        }
    }
    Ok((requests, records, bytes))
}
