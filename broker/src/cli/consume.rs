//! `millstream consume`: prints records, without a group. Without `--follow` it ends where the partitions ended when it
//! began.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, StdoutLock, Write};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use kafka_wire::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use millstream_storage::batch::{BatchError, Batches, verify_crc};
use millstream_storage::records::{OpenBatch, Record};

use super::client::{Client, EARLIEST, LATEST, TopicPartition, by_topic};
use super::error::{CliError, ErrorText};
use super::output::Progress;
use super::{Common, base64, time};
use crate::json::Json;

pub const EXAMPLES: &str = "Examples:
  millstream consume orders                         everything there is now, then ends
  millstream consume orders --follow                and what comes after it
  millstream consume orders --latest --count 10     the next ten records
  millstream consume orders --last 5                the last five of each partition
  millstream consume orders --partition 0 --offset 1000 --count 1 --json
  millstream consume orders --time -15m --show timestamp,key";

/// Bytes of one answer, and of one partition in it.
const FETCH_BYTES_MAX: i32 = 16 << 20;
const PARTITION_BYTES_MAX: i32 = 1 << 20;
/// How long a broker waits for something to tell.
const FETCH_WAIT: Duration = Duration::from_millis(500);
/// Rounds in which nobody had anything to tell, after which what is left of the partitions is taken to be empty: compaction
/// and transactions may leave offsets without records behind.
const SILENT_ROUNDS_MAX: u32 = 3;
/// How long to wait before what failed for a passing reason is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Args, Debug)]
pub struct Options {
    /// The topic
    topic: String,
    /// Only these partitions
    #[arg(long, short, value_name = "NUMBER", value_delimiter = ',')]
    partition: Vec<i32>,
    #[command(flatten)]
    from: From,
    /// Wait for what comes; without it, end where the partitions end now
    #[arg(long, short)]
    follow: bool,
    /// End after so many records
    #[arg(long, short = 'n', value_name = "RECORDS")]
    count: Option<u64>,
    /// What to print before each value, separated by tabs; with --json everything is printed
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    show: Vec<Show>,
}

/// Where to begin.
#[derive(Args, Debug)]
#[group(multiple = false)]
struct From {
    /// Begin at the first record (the default)
    #[arg(long, alias = "from-beginning")]
    earliest: bool,
    /// Begin behind the last record: follows
    #[arg(long)]
    latest: bool,
    /// Begin at this offset
    #[arg(long, value_name = "OFFSET")]
    offset: Option<i64>,
    /// Begin so many records before the end of each partition
    #[arg(long, value_name = "RECORDS")]
    last: Option<u32>,
    /// Begin at the first record at or after this time: 2026-11-21T17:30:00Z, Unix milliseconds, or -15m
    #[arg(long, value_name = "TIME", value_parser = time::parse, allow_hyphen_values = true)]
    time: Option<i64>,
}

/// What can be shown of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Show {
    Partition,
    Offset,
    Timestamp,
    Headers,
    Key,
}

/// How far a partition has been read.
#[derive(Clone, Copy, Debug)]
struct Position {
    next: i64,
    /// Where to end; `None`: nowhere.
    end: Option<i64>,
}

impl Position {
    fn is_done(&self) -> bool {
        self.end.is_some_and(|end| self.next >= end)
    }
}

pub fn run(common: &Common, options: &Options) -> Result<(), CliError> {
    let mut client = common.client()?;
    let mut positions = begin(&mut client, options)?;
    let mut printer = Printer {
        stdout: BufWriter::new(io::stdout().lock()),
        show: options.show.clone(),
        json: common.json,
        left: options.count.unwrap_or(u64::MAX),
        printed: 0,
    };
    let mut progress = Progress::beside_output();
    // When partitions last could not be read, and why.
    let mut trouble: Option<(Instant, CliError)> = None;
    let mut silent_rounds = 0;
    while printer.left > 0 && positions.values().any(|position| !position.is_done()) {
        let sum = |positions: &BTreeMap<TopicPartition, Position>| {
            positions.values().fold(0i64, |sum, position| sum.wrapping_add(position.next))
        };
        let before = sum(&positions);
        match round(&mut client, &mut positions, &mut printer) {
            Ok(()) => {
                trouble = None;
                silent_rounds = if sum(&positions) == before { silent_rounds + 1 } else { 0 };
                let follows = positions.values().any(|position| position.end.is_none());
                if !follows && silent_rounds == SILENT_ROUNDS_MAX {
                    break;
                }
            }
            Err(Interrupted::For(error)) => return Err(error),
            Err(Interrupted::ForNow(error)) => {
                let (since, error) = match trouble.take() {
                    Some((since, _)) => (since, error),
                    None => (Instant::now(), error),
                };
                if since.elapsed() >= client.timeout() {
                    return Err(error);
                }
                trouble = Some((since, error));
                std::thread::sleep(RETRY_INTERVAL);
            }
        }
        printer.stdout.flush()?;
        progress.at(|| format!("{} records", printer.printed));
    }
    Ok(())
}

fn begin(client: &mut Client, options: &Options) -> Result<BTreeMap<TopicPartition, Position>, CliError> {
    let mut partitions = client.partitions(&options.topic)?;
    if let Some(missing) = options.partition.iter().find(|index| !partitions.iter().any(|(_, there)| there == *index)) {
        return Err(CliError::Refused(format!("topic {} has no partition {missing}", options.topic)));
    }
    partitions.retain(|(_, index)| options.partition.is_empty() || options.partition.contains(index));
    let mut ask = |timestamp| client.offsets(partitions.iter().map(|partition| (partition.clone(), timestamp)));
    let (first, next) = (ask(EARLIEST)?, ask(LATEST)?);
    let at_time = match options.from.time {
        Some(timestamp) => ask(timestamp)?,
        None => BTreeMap::new(),
    };
    let follows = options.follow || options.from.latest;
    let mut positions = BTreeMap::new();
    for partition in partitions {
        let (first, next) = (first[&partition].offset, next[&partition].offset);
        let begin = if options.from.latest {
            next
        } else if let Some(offset) = options.from.offset {
            if !(first..=next).contains(&offset) {
                return Err(CliError::Refused(format!(
                    "partition {} of topic {} has the offsets from {first} to before {next}, not {offset}",
                    partition.1, partition.0
                )));
            }
            offset
        } else if let Some(records) = options.from.last {
            (next - i64::from(records)).max(first)
        } else if options.from.time.is_some() {
            at_time.get(&partition).map(|found| found.offset).filter(|offset| *offset >= 0).unwrap_or(next)
        } else {
            first
        };
        positions.insert(partition, Position { next: begin, end: (!follows).then_some(next) });
    }
    Ok(positions)
}

/// Why a round ended early.
enum Interrupted {
    /// It may go better the next time.
    ForNow(CliError),
    /// It will not.
    For(CliError),
}

impl<T: Into<CliError>> std::convert::From<T> for Interrupted {
    fn from(error: T) -> Interrupted {
        match error.into() {
            CliError::Unreachable(why) => Interrupted::ForNow(CliError::Unreachable(why)),
            error => Interrupted::For(error),
        }
    }
}

/// Asks every leader for more, once.
fn round(
    client: &mut Client,
    positions: &mut BTreeMap<TopicPartition, Position>,
    printer: &mut Printer<'_>,
) -> Result<(), Interrupted> {
    let open = positions.iter().filter(|(_, position)| !position.is_done());
    let items: Vec<(TopicPartition, i64)> =
        open.map(|(partition, position)| (partition.clone(), position.next)).collect();
    let by_leader = client.by_leader(items)?;
    let is_alone = by_leader.len() == 1;
    let mut trouble = None;
    for (leader, items) in by_leader {
        if leader < 0 {
            let error = ErrorText::new(5, None).expect("an error");
            trouble = Some(CliError::refused(format!("topic {}", items[0].0.0), &error));
            continue;
        }
        let broker = match client.broker(leader).and_then(|broker| broker.call(4..=12, &fetch(&items, is_alone))) {
            Ok(response) => response,
            Err(CliError::Unreachable(why)) => {
                // The next round connects anew.
                client.disconnect(leader);
                return Err(Interrupted::ForNow(CliError::Unreachable(why)));
            }
            Err(error) => return Err(error.into()),
        };
        ErrorText::check(broker.error_code, None)
            .map_err(|error| CliError::refused(format!("broker {leader}"), &error))?;
        for topic in broker.responses {
            for partition in topic.partitions {
                let key = (topic.topic.to_string(), partition.partition_index);
                let about = || format!("partition {} of topic {}", key.1, key.0);
                let Some(position) = positions.get_mut(&key) else { continue };
                match ErrorText::new(partition.error_code, None) {
                    None => {}
                    Some(error) if error.is_retriable() => {
                        trouble = Some(CliError::refused(about(), &error));
                        continue;
                    }
                    // What was to be read next has been deleted meanwhile: go on where the log begins now.
                    Some(error) if error.code() == 1 => {
                        let first = client.offsets([(key.clone(), EARLIEST)])?[&key].offset;
                        if first <= position.next {
                            return Err(CliError::refused(about(), &error).into());
                        }
                        eprintln!("{}: the records from {} to {first} were deleted", about(), position.next);
                        position.next = first;
                        continue;
                    }
                    Some(error) => return Err(CliError::refused(about(), &error).into()),
                }
                let records = partition.records.unwrap_or_default();
                read(&key, position, &records, printer).map_err(|error| match error {
                    ReadError::Output(error) => error,
                    ReadError::Batch(error) => CliError::Refused(format!("{}: {error}", about())),
                })?;
                if printer.left == 0 {
                    return Ok(());
                }
            }
        }
    }
    trouble.map_or(Ok(()), |error| Err(Interrupted::ForNow(error)))
}

fn fetch(items: &[(TopicPartition, i64)], may_wait: bool) -> FetchRequest {
    let mut request = FetchRequest::default();
    request.replica_id = -1;
    request.max_wait_ms = if may_wait { FETCH_WAIT.as_millis() as i32 } else { FETCH_WAIT.as_millis() as i32 / 10 };
    request.min_bytes = 1;
    request.max_bytes = FETCH_BYTES_MAX;
    // No session: every request says everything (KIP-227).
    request.session_id = 0;
    request.session_epoch = -1;
    request.topics = by_topic(items.iter().cloned())
        .into_iter()
        .map(|(name, partitions)| {
            let mut topic = FetchTopic::default();
            topic.topic = name.into();
            topic.partitions = partitions
                .into_iter()
                .map(|(index, offset)| {
                    let mut partition = FetchPartition::default();
                    partition.partition = index;
                    partition.current_leader_epoch = -1;
                    partition.fetch_offset = offset;
                    partition.last_fetched_epoch = -1;
                    partition.log_start_offset = -1;
                    partition.partition_max_bytes = PARTITION_BYTES_MAX;
                    partition
                })
                .collect();
            topic
        })
        .collect();
    request
}

enum ReadError {
    Output(CliError),
    Batch(BatchError),
}

/// Prints what lies between a position and its end, and moves it.
fn read(
    key: &TopicPartition,
    position: &mut Position,
    records: &Bytes,
    printer: &mut Printer<'_>,
) -> Result<(), ReadError> {
    for batch in Batches::new(records) {
        let (header, bytes) = match batch {
            // The last one may be cut short.
            Err(BatchError::Truncated) => break,
            batch => batch.map_err(ReadError::Batch)?,
        };
        verify_crc(bytes).map_err(ReadError::Batch)?;
        let after = header.last_offset().saturating_add(1);
        if !header.is_control() {
            let open = OpenBatch::new(bytes).map_err(ReadError::Batch)?;
            for record in open.records() {
                let record = record.map_err(ReadError::Batch)?;
                let offset = open.offset(&record);
                if offset < position.next {
                    continue;
                }
                if position.end.is_some_and(|end| offset >= end) {
                    position.next = offset;
                    return Ok(());
                }
                printer.print(key, offset, open.timestamp(&record), &record).map_err(ReadError::Output)?;
                position.next = offset + 1;
                if printer.left == 0 {
                    return Ok(());
                }
            }
        }
        // Compaction leaves gaps.
        position.next = position.next.max(after);
    }
    Ok(())
}

struct Printer<'a> {
    stdout: BufWriter<StdoutLock<'a>>,
    show: Vec<Show>,
    json: bool,
    left: u64,
    printed: u64,
}

impl Printer<'_> {
    fn print(
        &mut self,
        (topic, partition): &TopicPartition,
        offset: i64,
        timestamp: i64,
        record: &Record<'_>,
    ) -> Result<(), CliError> {
        if self.json {
            let headers = record.headers().map(|(name, value)| {
                Json::object([
                    ("name", String::from_utf8_lossy(name).into_owned().into()),
                    ("value", json_bytes(value)),
                ])
            });
            let line = Json::object([
                ("topic", topic.as_str().into()),
                ("partition", (*partition).into()),
                ("offset", offset.into()),
                ("timestamp", timestamp.into()),
                ("headers", Json::array(headers)),
                ("key", json_bytes(record.key)),
                ("value", json_bytes(record.value)),
            ]);
            writeln!(self.stdout, "{line}")?;
        } else {
            for show in self.show.clone() {
                match show {
                    Show::Partition => write!(self.stdout, "{partition}")?,
                    Show::Offset => write!(self.stdout, "{offset}")?,
                    Show::Timestamp => self.stdout.write_all(time::format(timestamp).as_bytes())?,
                    Show::Headers => {
                        for (index, (name, value)) in record.headers().enumerate() {
                            if index > 0 {
                                self.stdout.write_all(b",")?;
                            }
                            self.stdout.write_all(name)?;
                            self.stdout.write_all(b"=")?;
                            self.stdout.write_all(value.unwrap_or(b"null"))?;
                        }
                    }
                    Show::Key => self.stdout.write_all(record.key.unwrap_or(b"null"))?,
                }
                self.stdout.write_all(b"\t")?;
            }
            self.stdout.write_all(record.value.unwrap_or(b"null"))?;
            self.stdout.write_all(b"\n")?;
        }
        self.left -= 1;
        self.printed += 1;
        Ok(())
    }
}

/// Text as text; what is none as an object with its bytes in base 64.
fn json_bytes(bytes: Option<&[u8]>) -> Json {
    match bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| bytes)) {
        None => Json::Null,
        Some(Ok(text)) => text.into(),
        Some(Err(bytes)) => Json::object([("base64", base64::padded(bytes).into())]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_written_in_base_64() {
        assert_eq!(json_bytes(Some(&[0xff])).to_string(), "{\"base64\":\"/w==\"}");
        assert_eq!(json_bytes(Some("é".as_bytes())).to_string(), "\"é\"");
        assert_eq!(json_bytes(None).to_string(), "null");
    }
}
