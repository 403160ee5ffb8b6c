//! What both simulations do when a node starts: recovery that may be interrupted anywhere, and a look at all that it
//! brought back.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use millstream_storage::random::Random;
use millstream_storage::shard_log::{
    CleanerOptions, LogId, Ops, Progress, Read, ReadPart, ReadPlan, TimeLookup, TimeQuery,
};
use millstream_storage::{Now, ShardLog};

use super::checkers::{Checkers, Observation};
use super::disk::SimDisk;
use super::record::{Found, Unreadable, records_in};
use super::schedule::EPOCH_MS;

/// Recovers until nothing interrupts it; once in `cut_one_in` tries the power goes, or the process is killed, between two
/// of its disk operations.
pub fn until_recovered<T>(
    disk: &mut SimDisk,
    random: &mut Random,
    cut_one_in: u64,
    mut line: impl FnMut(String),
    mut recover: impl FnMut(&mut SimDisk, &mut Random) -> Result<T, String>,
) -> Result<T, String> {
    loop {
        if random.one_in(cut_one_in) {
            disk.cut_power_after(random.below(80));
        }
        let result = recover(disk, random);
        let was_cut = disk.is_out_of_power();
        match result {
            Ok(recovered) => {
                disk.cut_power_after(u64::MAX);
                return Ok(recovered);
            }
            Err(error) if was_cut => {
                line(format!("recovery interrupted: {error}"));
                disk.go_down(random.coin());
            }
            Err(error) => return Err(format!("the node does not start: {error}")),
        }
    }
}

/// Why a log cannot be read from its start to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadFailure {
    /// The broker answers with an error.
    Refused(String),
    /// A reader that compares checksums finds damage.
    Damaged(String),
    /// What a reader takes for good is wrong, or something is missing.
    Wrong(String),
}

impl fmt::Display for ReadFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ReadFailure::Refused(why) | ReadFailure::Damaged(why) | ReadFailure::Wrong(why)) = self;
        write!(f, "{why}")
    }
}

impl From<Unreadable> for ReadFailure {
    fn from(unreadable: Unreadable) -> ReadFailure {
        match unreadable {
            Unreadable::Damaged(why) => ReadFailure::Damaged(why),
            Unreadable::Wrong(why) => ReadFailure::Wrong(why),
        }
    }
}

/// A log just recovered: from where to where it reaches, and its records.
#[derive(Clone, Debug, Default)]
pub struct Whole {
    /// Its log start offset.
    pub log_start: i64,
    /// One past its last offset.
    pub log_end: i64,
    /// All its records.
    pub records: Vec<Found>,
}

/// Reads a log just recovered from its start to its end, shows it to its checkers, and asks it for times. Disk operations
/// take no time.
pub fn inspect(
    disk: &mut SimDisk,
    random: &mut Random,
    (log, id): (&mut ShardLog, LogId),
    now: Now,
    checkers: &mut Checkers,
    idempotent: &BTreeSet<u32>,
) -> Result<Whole, ReadFailure> {
    let whole = read_whole(disk, log, id, now, checkers.is_compacted())?;
    let Whole { log_start, log_end, ref records } = whole;
    let mut see = |observation| checkers.see(idempotent, &observation).map_err(ReadFailure::Wrong);
    see(Observation::Whole { log_start, log_end, records })?;
    let timestamp = EPOCH_MS - random.below(600_000) as i64;
    let committed = log.committed(id);
    for query in [Some(timestamp), None] {
        let found = find_time(disk, (log, id), now, query, committed)?;
        see(Observation::Time { query, range: log_start..committed, found })?;
    }
    Ok(whole)
}

/// Reads a log just recovered from its start to its end.
pub fn read_whole(
    disk: &mut SimDisk,
    log: &mut ShardLog,
    id: LogId,
    now: Now,
    has_gaps: bool,
) -> Result<Whole, ReadFailure> {
    let (log_start, log_end) = (log.log_start(id), log.log_end(id));
    if log.durable_end(id) != log_end {
        let why = format!("after recovery {} of {log_end} is durable", log.durable_end(id));
        return Err(ReadFailure::Wrong(why));
    }
    let mut offset = log_start;
    let mut records = Vec::new();
    while offset < log_end {
        let mut ops = Ops::new();
        let plan = match log.read_for_catch_up(id, offset, 64 << 10, &mut ops) {
            Read::Ready(plan) => plan,
            Read::Pending(_) => match wait_for_disk(disk, log, now, ops)? {
                Progress::ReadDone { result, .. } => {
                    result.map_err(|error| ReadFailure::Refused(format!("reading offset {offset}: {error}")))?
                }
                other => return Err(ReadFailure::Wrong(format!("a read ends with {other:?}"))),
            },
        };
        if has_gaps && plan.bytes == 0 {
            // Nothing is left of what lay before the log's end.
            break;
        }
        let bytes = fetch(disk, &plan).map_err(ReadFailure::Wrong)?;
        let (found, next) = records_in(&bytes, offset)?;
        if next == offset {
            // A client asks for it again and again.
            let why = format!("nothing is found at offset {offset} of a log that ends at {log_end}");
            return Err(ReadFailure::Damaged(why));
        }
        records.extend(found);
        offset = next;
    }
    Ok(Whole { log_start, log_end, records })
}

fn find_time(
    disk: &mut SimDisk,
    (log, id): (&mut ShardLog, LogId),
    now: Now,
    query: Option<i64>,
    until: i64,
) -> Result<Option<(i64, i64)>, ReadFailure> {
    let mut ops = Ops::new();
    let found = match log.find_time(id, query.map_or(TimeQuery::Max, TimeQuery::AtOrAfter), until, &mut ops) {
        TimeLookup::Ready(found) => found,
        TimeLookup::Pending(_) => match wait_for_disk(disk, log, now, ops)? {
            Progress::TimeDone { result, .. } => {
                result.map_err(|error| ReadFailure::Refused(format!("looking for time {query:?}: {error}")))?
            }
            other => return Err(ReadFailure::Wrong(format!("a lookup ends with {other:?}"))),
        },
    };
    Ok(found.map(|found| (found.offset, found.timestamp)))
}

/// Executes operations until a log says that something is done.
fn wait_for_disk(disk: &mut SimDisk, log: &mut ShardLog, now: Now, mut ops: Ops) -> Result<Progress, ReadFailure> {
    let mut progress = Vec::new();
    loop {
        if let Some(done) = progress.pop() {
            return Ok(done);
        }
        let (token, op) = ops.pop().ok_or(ReadFailure::Wrong("a read waits for nothing".to_string()))?;
        let result = disk.execute(op);
        log.on_disk(now, token, result, &mut ops, &mut progress).map_err(|fatal| ReadFailure::Wrong(fatal.0))?;
    }
}

/// The bytes that a plan promises.
pub fn fetch(disk: &SimDisk, plan: &ReadPlan) -> Result<Vec<u8>, String> {
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

/// So little memory and time that compactions often need several runs.
pub fn cleaner_options() -> CleanerOptions {
    CleanerOptions {
        is_enabled: true,
        map_bytes_max: 64 << 10,
        bytes_per_second_max: u64::MAX,
        backoff: Duration::from_millis(20),
    }
}
