//! `millstream offsets`: where partitions begin and end, and where a time is.

use clap::Args;

use super::client::{EARLIEST, LATEST, MAX_TIMESTAMP, TopicPartition};
use super::error::CliError;
use super::output::Table;
use super::{Common, time};
use crate::json::Json;

pub const EXAMPLES: &str = "Examples:
  millstream offsets orders                                first and next offset of each partition
  millstream offsets orders --time 2026-11-21T17:30:00Z    the first record at or after that time
  millstream offsets orders --time -15m                    the first record of the last 15 minutes
  millstream offsets orders --partition 0 --max-timestamp  the record with the largest timestamp";

#[derive(Args, Debug)]
pub struct Options {
    /// The topics
    #[arg(required = true)]
    topics: Vec<String>,
    /// Only these partitions
    #[arg(long, short, value_name = "NUMBER", value_delimiter = ',')]
    partition: Vec<i32>,
    /// The first record at or after this time: 2026-11-21T17:30:00Z, Unix milliseconds, or -15m
    #[arg(long, value_name = "TIME", value_parser = time::parse, allow_hyphen_values = true)]
    time: Option<i64>,
    /// The record with the largest timestamp
    #[arg(long, conflicts_with = "time")]
    max_timestamp: bool,
}

pub fn run(common: &Common, options: &Options) -> Result<(), CliError> {
    let mut client = common.client()?;
    let mut partitions: Vec<TopicPartition> = Vec::new();
    for topic in &options.topics {
        let all = client.partitions(topic)?;
        partitions.extend(
            all.into_iter().filter(|(_, index)| options.partition.is_empty() || options.partition.contains(index)),
        );
    }
    if partitions.is_empty() {
        return Err(CliError::Refused("there is no such partition".to_owned()));
    }
    let at = if options.max_timestamp { Some(MAX_TIMESTAMP) } else { options.time };
    let mut ask = |timestamp| client.offsets(partitions.iter().map(|partition| (partition.clone(), timestamp)));
    if let Some(timestamp) = at {
        let found = ask(timestamp)?;
        let mut table = Table::new(&["TOPIC", "PARTITION", "OFFSET", "TIMESTAMP"]);
        for ((topic, partition), found) in &found {
            let is_there = found.offset >= 0;
            let timestamp = if is_there { time::format(found.timestamp) } else { "-".to_owned() };
            table.row([
                topic.as_str().into(),
                (*partition).into(),
                is_there.then_some(found.offset).into(),
                timestamp.into(),
            ]);
        }
        let json = || {
            Json::array(found.iter().map(|((topic, partition), found)| {
                Json::object([
                    ("topic", topic.as_str().into()),
                    ("partition", (*partition).into()),
                    ("offset", (found.offset >= 0).then_some(found.offset).into()),
                    ("timestamp", (found.offset >= 0).then_some(found.timestamp).into()),
                ])
            }))
        };
        return common.output().table(json, &table, "no partitions");
    }
    let (first, next) = (ask(EARLIEST)?, ask(LATEST)?);
    let rows = || {
        partitions.iter().map(|partition| {
            let (first, next) = (first[partition].offset, next[partition].offset);
            (partition, first, next, next - first)
        })
    };
    let mut table = Table::new(&["TOPIC", "PARTITION", "FIRST", "NEXT", "RECORDS"]);
    for ((topic, partition), first, next, records) in rows() {
        table.row([topic.as_str().into(), (*partition).into(), first.into(), next.into(), records.into()]);
    }
    let json = || {
        Json::array(rows().map(|((topic, partition), first, next, _)| {
            Json::object([
                ("topic", topic.as_str().into()),
                ("partition", (*partition).into()),
                ("first", first.into()),
                ("next", next.into()),
            ])
        }))
    };
    common.output().table(json, &table, "no partitions")
}
