//! `millstream produce`: writes lines as records. A record that a broker refuses, or that cannot be written in time, is
//! reported, and the command fails; the others are written all the same.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use kafka_wire::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use millstream_storage::batch::BatchBuilder;

use super::client::Client;
use super::connection::Version;
use super::error::{CliError, ErrorText};
use super::output::Progress;
use super::{Common, murmur2, name_and_value, time};
use crate::json::Json;

pub const EXAMPLES: &str = "Examples:
  echo hello | millstream produce greetings
  millstream produce orders --file orders.txt
  printf 'k1:v1\\nk2:v2\\n' | millstream produce orders --key-separator :

Lines with a key go to the partition that Java's producer would choose. If a connection breaks while records are on
their way they are sent again, and may then be there twice.";

/// A batch is sent when it has come to this size; brokers take a MiB by default (`message.max.bytes`).
const BATCH_BYTES: usize = 512 << 10;
/// Everything is sent when it has come to this size.
const BUFFERED_BYTES_MAX: usize = 8 << 20;
/// Requests on their way to one broker.
const IN_FLIGHT_MAX: usize = 4;
/// How long lines wait for more of them.
const LINGER: Duration = Duration::from_millis(5);
/// Bytes that are read at once, pieces of input that wait, and the longest line.
const READ_BYTES: usize = 256 << 10;
const PIECES_MAX: usize = 4;
const LINE_BYTES_MAX: usize = 64 << 20;
/// How long to wait before what failed for a passing reason is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Failures that are printed one by one.
const FAILURES_SHOWN_MAX: u64 = 20;

#[derive(Args, Debug)]
pub struct Options {
    /// The topic; it must exist
    topic: String,
    /// Read this file instead of standard input
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// What stands before this is the line's key
    #[arg(long, short = 'k', value_name = "TEXT")]
    key_separator: Option<String>,
    /// Write to this partition only
    #[arg(long, short, value_name = "NUMBER")]
    partition: Option<i32>,
    /// Who must have a record before it counts: all (in-sync replicas), 1 (the leader), 0 (nobody: no answer)
    #[arg(long, default_value = "all", value_parser = acks, allow_hyphen_values = true)]
    acks: i16,
    /// A header of every record; may be given many times
    #[arg(long, value_name = "NAME=VALUE", value_parser = name_and_value)]
    header: Vec<(String, String)>,
}

fn acks(text: &str) -> Result<i16, String> {
    match text {
        "all" | "-1" => Ok(-1),
        "1" => Ok(1),
        "0" => Ok(0),
        _ => Err("it must be all, 1 or 0".to_owned()),
    }
}

pub fn run(common: &Common, options: &Options) -> Result<(), CliError> {
    let began = Instant::now();
    let input: Box<dyn Read + Send> = match &options.file {
        Some(path) => Box::new(
            File::open(path).map_err(|error| CliError::Io(format!("cannot read {}: {error}", path.display())))?,
        ),
        None => Box::new(io::stdin()),
    };
    let mut sender = Sender::new(common.client()?, options)?;
    let mut batches = Batches::new(options, sender.partitions)?;
    let (pieces, lines) = sync_channel(PIECES_MAX);
    std::thread::spawn(move || read_lines(input, &pieces));
    let mut progress = Progress::start();
    let result = write(&lines, &mut batches, &mut sender, &mut progress);
    // What was read before a mistake in the input is written too.
    let flushed = sender.send(batches.take()).and_then(|()| sender.finish());
    drop(progress);
    result.and(flushed)?;
    let (written, failed) = (sender.written, sender.failed);
    common.output().print(
        || {
            Json::object([
                ("topic", options.topic.as_str().into()),
                ("written", written.into()),
                ("failed", failed.into()),
                ("seconds", began.elapsed().as_secs_f64().into()),
            ])
        },
        || {
            let plural = if written == 1 { "" } else { "s" };
            format!("wrote {written} record{plural} to {}\n", options.topic)
        },
    )?;
    match failed {
        0 => Ok(()),
        1 => Err(CliError::Refused("1 record was not written".to_owned())),
        failed => Err(CliError::Refused(format!("{failed} records were not written"))),
    }
}

/// Takes lines until there are no more.
fn write(
    lines: &Receiver<io::Result<Vec<u8>>>,
    batches: &mut Batches,
    sender: &mut Sender,
    progress: &mut Progress,
) -> Result<(), CliError> {
    let began = Instant::now();
    loop {
        let piece = match lines.recv_timeout(LINGER) {
            Ok(piece) => piece.map_err(|error| CliError::Io(format!("cannot read the input: {error}")))?,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {
                sender.send(batches.take())?;
                sender.finish()?;
                // Whoever types is not in a hurry.
                match lines.recv() {
                    Ok(piece) => piece.map_err(|error| CliError::Io(format!("cannot read the input: {error}")))?,
                    Err(_) => return Ok(()),
                }
            }
        };
        for line in piece.split_inclusive(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            if batches.add(line)? {
                sender.send(batches.take())?;
            }
        }
        progress.at(|| {
            let rate = sender.written as f64 / began.elapsed().as_secs_f64();
            format!("{} records written, {rate:.0} a second", sender.written)
        });
    }
}

/// Reads input in pieces that end with a line.
fn read_lines(mut input: Box<dyn Read + Send>, pieces: &SyncSender<io::Result<Vec<u8>>>) {
    let mut rest: Vec<u8> = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let piece = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => {
                let end = buffer[..bytes].iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
                rest.extend_from_slice(&buffer[..end]);
                let piece = if end > 0 { std::mem::take(&mut rest) } else { Vec::new() };
                rest.extend_from_slice(&buffer[end..bytes]);
                if rest.len() > LINE_BYTES_MAX {
                    Err(io::Error::other(format!("a line is longer than {} MiB", LINE_BYTES_MAX >> 20)))
                } else {
                    Ok(piece)
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let is_over = piece.is_err();
        // Nobody takes it when the command has failed.
        if pieces.send(piece).is_err() || is_over {
            return;
        }
    }
    if !rest.is_empty() {
        let _ = pieces.send(Ok(rest));
    }
}

/// A batch that is ready to be sent.
#[derive(Clone, Debug)]
struct Batch {
    partition: i32,
    bytes: Bytes,
    records: u64,
    /// The lines of its first and its last record, from 1.
    lines: (u64, u64),
}

/// Batches that are being filled, one a partition.
struct Batches {
    partitions: i32,
    key_separator: Option<Vec<u8>>,
    /// The partition that the user named.
    only: Option<i32>,
    headers: Vec<(String, String)>,
    /// Where lines without a key go, until a batch is full.
    current: i32,
    filling: BTreeMap<i32, Filling>,
    buffered_bytes: usize,
    line: u64,
}

struct Filling {
    builder: BatchBuilder,
    records: u64,
    lines: (u64, u64),
}

impl Batches {
    fn new(options: &Options, partitions: i32) -> Result<Batches, CliError> {
        if let Some(missing) = options.partition.filter(|only| !(0..partitions).contains(only)) {
            return Err(CliError::Refused(format!("topic {} has no partition {missing}", options.topic)));
        }
        if options.key_separator.as_ref().is_some_and(String::is_empty) {
            return Err(CliError::Usage("--key-separator must not be empty".to_owned()));
        }
        Ok(Batches {
            partitions,
            key_separator: options.key_separator.clone().map(String::into_bytes),
            only: options.partition,
            headers: options.header.clone(),
            // Programs that write one record each do not all write it to the same partition.
            current: i32::try_from(time::now_ms() % i64::from(partitions)).expect("it is below the partitions"),
            filling: BTreeMap::new(),
            buffered_bytes: 0,
            line: 0,
        })
    }

    /// Adds a line; whether it is time to send.
    fn add(&mut self, line: &[u8]) -> Result<bool, CliError> {
        self.line += 1;
        let (key, value) = match &self.key_separator {
            None => (None, line),
            Some(separator) => {
                let at = line.windows(separator.len()).position(|window| window == separator).ok_or_else(|| {
                    CliError::Io(format!(
                        "line {} has no {:?} between key and value; the lines before it were written",
                        self.line,
                        String::from_utf8_lossy(separator)
                    ))
                })?;
                (Some(&line[..at]), &line[at + separator.len()..])
            }
        };
        let partition = match (self.only, key) {
            (Some(only), _) => only,
            (None, Some(key)) => murmur2::partition(key, self.partitions),
            (None, None) => self.current,
        };
        let headers: Vec<(&str, Option<&[u8]>)> =
            self.headers.iter().map(|(name, value)| (name.as_str(), Some(value.as_bytes()))).collect();
        let filling = self.filling.remove(&partition).unwrap_or_else(|| Filling {
            builder: BatchBuilder::new(),
            records: 0,
            lines: (self.line, self.line),
        });
        let before = filling.builder.batch_bytes();
        let builder = filling.builder.record(time::now_ms(), key, Some(value), &headers);
        let bytes = builder.batch_bytes();
        self.buffered_bytes += bytes - before;
        let filling = Filling { builder, records: filling.records + 1, lines: (filling.lines.0, self.line) };
        self.filling.insert(partition, filling);
        Ok(bytes >= BATCH_BYTES || self.buffered_bytes >= BUFFERED_BYTES_MAX)
    }

    /// What is to be sent now.
    fn take(&mut self) -> Vec<Batch> {
        self.buffered_bytes = 0;
        self.current = (self.current + 1) % self.partitions;
        let filled = std::mem::take(&mut self.filling);
        filled
            .into_iter()
            .map(|(partition, filling)| Batch {
                partition,
                bytes: filling.builder.build().into(),
                records: filling.records,
                lines: filling.lines,
            })
            .collect()
    }
}

/// Sends batches, several requests at a time, and keeps count of what became of them.
struct Sender {
    client: Client,
    topic: String,
    acks: i16,
    partitions: i32,
    leaders: HashMap<i32, i32>,
    /// Requests without a response, by leader, in order.
    in_flight: BTreeMap<i32, VecDeque<(Version, Vec<Batch>)>>,
    /// What failed for a passing reason.
    again: Vec<Batch>,
    /// The last such reason.
    trouble: String,
    written: u64,
    failed: u64,
    failures: u64,
}

impl Sender {
    fn new(client: Client, options: &Options) -> Result<Sender, CliError> {
        let mut sender = Sender {
            client,
            topic: options.topic.clone(),
            acks: options.acks,
            partitions: 0,
            leaders: HashMap::new(),
            in_flight: BTreeMap::new(),
            again: Vec::new(),
            trouble: String::new(),
            written: 0,
            failed: 0,
            failures: 0,
        };
        sender.find_leaders()?;
        sender.partitions = i32::try_from(sender.leaders.len()).expect("a topic has fewer partitions");
        if sender.partitions == 0 {
            return Err(CliError::Refused(format!("topic {} has no partitions", sender.topic)));
        }
        Ok(sender)
    }

    fn find_leaders(&mut self) -> Result<(), CliError> {
        let topics = self.client.topics(std::slice::from_ref(&self.topic)).map_err(|error| match error {
            CliError::Refused(why) if why.contains("UNKNOWN_TOPIC_OR_PARTITION") => {
                CliError::Refused(format!("there is no topic {0}; `millstream topic create {0}` makes it", self.topic))
            }
            error => error,
        })?;
        let partitions = topics.iter().flat_map(|topic| &topic.partitions);
        self.leaders = partitions.map(|partition| (partition.partition_index, partition.leader_id)).collect();
        Ok(())
    }

    /// Sends batches, one of a partition at most.
    fn send(&mut self, batches: Vec<Batch>) -> Result<(), CliError> {
        self.dispatch(batches);
        // What was refused must not wait until there is more of it than memory.
        if self.again.is_empty() { Ok(()) } else { self.finish() }
    }

    /// Sends batches to their leaders; those that cannot be sent now are to be sent again.
    fn dispatch(&mut self, batches: impl IntoIterator<Item = Batch>) {
        let mut by_leader: BTreeMap<i32, Vec<Batch>> = BTreeMap::new();
        for batch in batches {
            let leader = self.leaders.get(&batch.partition).copied().unwrap_or(-1);
            by_leader.entry(leader).or_default().push(batch);
        }
        for (leader, batches) in by_leader {
            while self.in_flight.get(&leader).is_some_and(|requests| requests.len() >= IN_FLIGHT_MAX) {
                self.settle_one(leader);
            }
            let sent = match leader {
                ..0 => Err(CliError::Refused("the partition has no leader".to_owned())),
                leader => self.send_to(leader, &batches),
            };
            if let Err(error) = sent {
                self.lose(leader, error.to_string());
                self.again.extend(batches);
            }
        }
    }

    fn send_to(&mut self, leader: i32, batches: &[Batch]) -> Result<(), CliError> {
        let mut data = TopicProduceData::default();
        data.name = self.topic.as_str().into();
        data.partition_data = batches
            .iter()
            .map(|batch| {
                let mut partition = PartitionProduceData::default();
                partition.index = batch.partition;
                partition.records = Some(batch.bytes.clone());
                partition
            })
            .collect();
        let mut request = ProduceRequest::default();
        request.transactional_id = None;
        request.acks = self.acks;
        request.timeout_ms = self.client.timeout_ms();
        request.topic_data = vec![data];
        let connection = self.client.broker(leader)?;
        // From version 13 on topics have no names.
        let version = connection.version::<ProduceRequest>(3..=12)?;
        if self.acks == 0 {
            connection.send_without_response(version, &request)?;
            self.written += batches.iter().map(|batch| batch.records).sum::<u64>();
            return Ok(());
        }
        connection.send(version, &request)?;
        self.in_flight.entry(leader).or_default().push_back((version, batches.to_vec()));
        Ok(())
    }

    /// Waits for the oldest response of a leader.
    fn settle_one(&mut self, leader: i32) {
        let Some((version, batches)) = self.in_flight.get_mut(&leader).and_then(VecDeque::pop_front) else { return };
        let received = self.client.broker(leader).and_then(|connection| connection.receive::<ProduceRequest>(version));
        let response = match received {
            Ok(response) => response,
            Err(error) => {
                self.again.extend(batches);
                return self.lose(leader, error.to_string());
            }
        };
        let errors: HashMap<i32, ErrorText> = response
            .responses
            .iter()
            .flat_map(|topic| &topic.partition_responses)
            .filter_map(|partition| {
                let error = ErrorText::new(partition.error_code, partition.error_message.as_deref())?;
                Some((partition.index, error))
            })
            .collect();
        for batch in batches {
            match errors.get(&batch.partition) {
                None => self.written += batch.records,
                Some(error) if error.is_retriable() => {
                    self.trouble = error.to_string();
                    self.again.push(batch);
                }
                Some(error) => self.fail(&batch, &error.to_string()),
            }
        }
    }

    /// A connection broke: what was on its way is to be sent again.
    fn lose(&mut self, leader: i32, why: String) {
        self.trouble = why;
        self.client.disconnect(leader);
        let lost = self.in_flight.remove(&leader).unwrap_or_default();
        self.again.extend(lost.into_iter().flat_map(|(_, batches)| batches));
    }

    /// Waits until everything is written or has failed.
    fn finish(&mut self) -> Result<(), CliError> {
        let deadline = Instant::now() + self.client.timeout();
        loop {
            let leaders: Vec<i32> = self.in_flight.keys().copied().collect();
            for leader in leaders {
                while self.in_flight.get(&leader).is_some_and(|requests| !requests.is_empty()) {
                    self.settle_one(leader);
                }
            }
            if self.again.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let why = format!("not within the time of --timeout; at last: {}", self.trouble);
                for batch in std::mem::take(&mut self.again) {
                    self.fail(&batch, &why);
                }
                return Ok(());
            }
            std::thread::sleep(RETRY_INTERVAL);
            self.find_leaders()?;
            // One batch of a partition at a time, in their order.
            let mut again = std::mem::take(&mut self.again);
            again.sort_by_key(|batch| (batch.partition, batch.lines.0));
            let mut last = None;
            let (now, later): (Vec<Batch>, Vec<Batch>) =
                again.into_iter().partition(|batch| last.replace(batch.partition) != Some(batch.partition));
            self.again = later;
            self.dispatch(now);
        }
    }

    fn fail(&mut self, batch: &Batch, why: &str) {
        self.failed += batch.records;
        self.failures += 1;
        if self.failures <= FAILURES_SHOWN_MAX {
            let (first, last) = batch.lines;
            eprintln!(
                "millstream: partition {}: {} records of lines {first} to {last} were not written: {why}",
                batch.partition, batch.records
            );
        } else if self.failures == FAILURES_SHOWN_MAX + 1 {
            eprintln!("millstream: further failures are only counted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(input: &'static [u8]) -> Vec<Vec<u8>> {
        let (sender, receiver) = sync_channel(100);
        read_lines(Box::new(input), &sender);
        drop(sender);
        receiver.into_iter().map(|piece| piece.expect("read")).filter(|piece| !piece.is_empty()).collect()
    }

    #[test]
    fn pieces_end_with_lines() {
        assert_eq!(pieces(b"a\nb\n"), [b"a\nb\n".to_vec()]);
        assert_eq!(pieces(b"a\nb"), [b"a\n".to_vec(), b"b".to_vec()]);
        assert_eq!(pieces(b"\n\n"), [b"\n\n".to_vec()]);
        assert_eq!(pieces(b""), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_key_chooses_the_partition_and_lines_are_counted() {
        let mut batches = Batches {
            partitions: 10,
            key_separator: Some(b"::".to_vec()),
            only: None,
            headers: Vec::new(),
            current: 0,
            filling: BTreeMap::new(),
            buffered_bytes: 0,
            line: 0,
        };
        for line in ["abc::1", "21::2", "abc::3", "abc::"] {
            assert!(!batches.add(line.as_bytes()).expect("a key"));
        }
        let error = batches.add(b"no key").expect_err("no separator").to_string();
        assert!(error.starts_with("line 5 has no \"::\" between key and value"), "{error}");
        let taken = batches.take();
        let counted: Vec<_> = taken.iter().map(|batch| (batch.partition, batch.records, batch.lines)).collect();
        let abc = murmur2::partition(b"abc", 10);
        let other = murmur2::partition(b"21", 10);
        let mut expected = vec![(abc, 3, (1, 4)), (other, 1, (2, 2))];
        expected.sort_unstable();
        assert_eq!(counted, expected);
        assert!(batches.take().is_empty());
    }
}
