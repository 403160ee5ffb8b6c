//! Topics with keys: what a compacted topic has to hold after compaction is known, and checked.

use std::time::Instant;

use clap::{Args, Subcommand};

use crate::connection::{Connection, Socket, Target};
use crate::error::BenchError;
use crate::topics::{self, Wanted};
use crate::{load, wire};

/// Requests that the fill has under way.
const IN_FLIGHT: usize = 5;
/// Bytes of one fetch.
const FETCH_BYTES: i32 = 8 << 20;
/// Bytes of a record's key, and of the round at the beginning of its value.
const NUMBER_BYTES: usize = 8;

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Writes every key once in each round, in the same order, to one partition.
    Fill(Fill),
    /// Reads the topic from its beginning: the last value of each key must be that of the last round.
    Verify(Keys),
}

/// Which keys.
#[derive(Args)]
pub struct Keys {
    /// Any broker of the cluster.
    #[arg(long, default_value = "127.0.0.1:9092")]
    bootstrap: String,
    /// Topic; its partition 0 is used.
    #[arg(long, default_value = "compacted")]
    topic: String,
    /// How many different keys.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    keys: u64,
    /// How often each key is written.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rounds: u64,
}

/// What is written.
#[derive(Args)]
pub struct Fill {
    #[command(flatten)]
    keys: Keys,
    /// Bytes of a value, at least 8.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(8..=1 << 20))]
    value_bytes: u64,
    /// Records in a batch.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    batch_records: u64,
    /// Config of the topic if it is created; may be given several times.
    #[arg(long = "topic-config", value_parser = load::key_value, value_name = "KEY=VALUE")]
    topic_configs: Vec<(String, String)>,
}

/// Does it, and prints a line.
pub fn run(command: &Command) -> Result<(), BenchError> {
    match command {
        Command::Fill(options) => fill(options),
        Command::Verify(keys) => verify(keys),
    }
}

fn fill(options: &Fill) -> Result<(), BenchError> {
    let Keys { bootstrap, topic, keys, rounds } = &options.keys;
    let target = Target { address: bootstrap.clone(), congestion: None };
    let wanted = Wanted { name: topic, partitions: 1, replicas: 1, configs: &options.topic_configs };
    let leaders = topics::ensure(&target, &wanted)?;
    let began = Instant::now();
    let mut socket = Socket::open(&target.at(&leaders[0]))?;
    socket.stream().set_nonblocking(false)?;
    let mut under_way = 0;
    let mut value = vec![b'v'; options.value_bytes as usize];
    for round in 0..*rounds {
        value[..NUMBER_BYTES].copy_from_slice(&round.to_be_bytes());
        let mut first = 0;
        while first < *keys {
            let last = (first + options.batch_records).min(*keys);
            let numbers: Vec<[u8; NUMBER_BYTES]> = (first..last).map(u64::to_be_bytes).collect();
            let batch = wire::keyed_batch(numbers.iter().map(|key| (&key[..], &value[..])));
            send(&mut socket, &wire::produce(topic, &[0], -1, &batch))?;
            under_way += 1;
            if under_way == IN_FLIGHT {
                await_one(&mut socket)?;
                under_way -= 1;
            }
            first = last;
        }
    }
    for _ in 0..under_way {
        await_one(&mut socket)?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let records = keys * rounds;
    println!("wrote {records} records of {keys} keys in {seconds:.1} s, {:.0} records/s", records as f64 / seconds);
    Ok(())
}

fn send(socket: &mut Socket, mut bytes: &[u8]) -> Result<(), BenchError> {
    while !bytes.is_empty() {
        let written = socket.write(bytes)?;
        bytes = &bytes[written..];
    }
    Ok(())
}

fn await_one(socket: &mut Socket) -> Result<(), BenchError> {
    loop {
        if let Some(response) = socket.response()? {
            return wire::produced(response).map(drop);
        }
        socket.read()?;
    }
}

fn verify(options: &Keys) -> Result<(), BenchError> {
    let Keys { bootstrap, topic, keys, rounds } = options;
    let target = Target { address: bootstrap.clone(), congestion: None };
    let leaders = topics::leaders(&target, topic)?;
    let mut connection = Connection::open(&target.at(&leaders[0]))?;
    let offset_of = |time| topics::offsets(&target, topic, &leaders[..1], time).map(|offsets| offsets[0]);
    let (mut position, end) = (offset_of(topics::EARLIEST)?, offset_of(topics::LATEST)?);
    let began = Instant::now();
    // The round seen last, plus one.
    let mut last = vec![0u32; *keys as usize];
    let mut records = 0u64;
    while position < end {
        let response = connection.call(wire::fetch(topic, &[(0, position)], FETCH_BYTES))?;
        wire::fetched_batches(&response, |_, batches| {
            let after = wire::keyed_records(batches, |key, value| {
                let number = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
                let (Some(key), Some(round)) = (number(key), number(value)) else {
                    return Err(BenchError::Response("a record that `fill` has not written".to_string()));
                };
                let seen = last.get_mut(key as usize).ok_or(BenchError::Response(format!("there is no key {key}")))?;
                if u64::from(*seen) > round {
                    return Err(BenchError::Response(format!("key {key}: round {round} behind round {}", *seen - 1)));
                }
                *seen = round as u32 + 1;
                records += 1;
                Ok(())
            })?;
            position = after.unwrap_or(position);
            Ok(())
        })?;
    }
    let missing = last.iter().filter(|seen| u64::from(**seen) != *rounds).count();
    let seconds = began.elapsed().as_secs_f64();
    println!("read {records} records in {seconds:.1} s: {missing} of {keys} keys without their last value");
    if missing > 0 {
        return Err(BenchError::Response(format!("{missing} keys have lost their last value")));
    }
    Ok(())
}
