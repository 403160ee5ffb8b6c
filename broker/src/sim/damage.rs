//! Damage to a disk at rest, and what a start on it may come to: a bit flipped, where it lies or on its way to a reader; a
//! block that was never written though the disk said so; a block that was written in a wrong place. No disk promises that
//! this does not happen, and what it did to records that were acknowledged must not go unnoticed.
//!
//! The node is started on a copy of the disk. It must notice: refuse to start, naming the file, and change nothing; or
//! answer reads of the damaged partition with an error, or with bytes whose checksum is wrong; or show everything as it
//! was, because the damage lies where nothing matters. What it cannot know of is what [`Blind`] lists, no more
//! (`docs/storage-format.md`).

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use millstream_replication::identity::META_PROPERTIES;
use millstream_storage::batch::{Batches, verify_crc};
use millstream_storage::checkpoint::Checkpoint;
use millstream_storage::journal::{self, Entry};
use millstream_storage::partition_log::partition_directory;
use millstream_storage::random::Random;
use millstream_storage::segment::segment_path;
use millstream_storage::{BLOCK_BYTES, FilePath};

use super::clients::wire::TOPIC;
use super::disk::{DiskFaults, SimDisk};
use super::restart::ReadFailure;

/// The part of a batch's header that its checksum does not cover: base offset, length, leader epoch, magic.
const UNCOVERED_BYTES: u64 = 17;

/// What one node cannot tell from something that may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blind {
    /// The last group of a journal looks like one that was torn and never acknowledged.
    LastGroup,
    /// So does the last entry of the metadata log.
    LastMetadataEntry,
    /// Kafka's batches say neither whose they are nor, under their checksum, at which offset.
    BatchIdentity,
}

/// Damaged copies of the disk that one start is tried on.
const DAMAGED_COPIES_MAX: u64 = 3;

/// A start that succeeded: the directory of each partition, and what reading all of it came to.
pub type Inspected = Vec<(String, Result<(), ReadFailure>)>;

/// Damage that was done.
#[derive(Debug)]
pub struct Damage {
    what: String,
    /// The file, and where in it. None while a read that is to go wrong has not happened.
    place: Option<(FilePath, Range<u64>)>,
    blind: Vec<Blind>,
    /// The disk before, to find out what a read that went wrong has hit.
    before: SimDisk,
}

/// What a start on a damaged disk came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The node refused to start.
    RefusedStart,
    /// Reading the partition fails.
    ReadFails,
    /// Everything is as it was.
    Unharmed,
    /// Something is lost or wrong, as one node cannot know.
    Unknowable,
}

/// How often each verdict was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// [`Verdict::RefusedStart`]
    pub refused_starts: u64,
    /// [`Verdict::ReadFails`]
    pub read_fails: u64,
    /// [`Verdict::Unharmed`]
    pub unharmed: u64,
    /// [`Verdict::Unknowable`]
    pub unknowable: u64,
}

impl Verdicts {
    /// Counts a verdict.
    fn add(&mut self, verdict: Verdict) {
        *match verdict {
            Verdict::RefusedStart => &mut self.refused_starts,
            Verdict::ReadFails => &mut self.read_fails,
            Verdict::Unharmed => &mut self.unharmed,
            Verdict::Unknowable => &mut self.unknowable,
        } += 1;
    }

    /// Adds all of others.
    pub fn add_all(&mut self, other: Verdicts) {
        self.refused_starts += other.refused_starts;
        self.read_fails += other.read_fails;
        self.unharmed += other.unharmed;
        self.unknowable += other.unknowable;
    }
}

/// Damages copies of a disk and starts on them, as `start` does: each time it must be noticed.
pub fn start_on_damaged_copies(
    disk: &SimDisk,
    random: &mut Random,
    start: impl Fn(&mut SimDisk, &mut Random) -> Result<Inspected, String>,
) -> Result<Verdicts, String> {
    let mut verdicts = Verdicts::default();
    for _ in 0..random.between(1, DAMAGED_COPIES_MAX) {
        let mut disk = disk.clone();
        disk.faults = DiskFaults::default();
        let Some(damage) = Damage::inflict(&mut disk, random) else { break };
        let outcome = start(&mut disk, random);
        verdicts.add(damage.judge(&disk, outcome)?);
    }
    Ok(verdicts)
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, blind: {:?}", self.what, self.blind)
    }
}

impl Damage {
    /// Does damage, if there is anything to damage yet.
    fn inflict(disk: &mut SimDisk, random: &mut Random) -> Option<Damage> {
        let before = disk.clone();
        if random.one_in(4) {
            let reads = random.below(60);
            disk.flip_read_after(reads);
            let what = format!("a flipped bit in read {reads}");
            return Some(Damage { what, place: None, blind: Vec::new(), before });
        }
        let files = interesting_files(disk);
        let (kind, path) = pick(&files, random)?;
        let content = disk.peek_all(path)?;
        let blocks = content.len().div_ceil(BLOCK_BYTES) as u64;
        let (what, range) = match random.below(4) {
            0 => {
                let block = random.below(blocks);
                let range = block_range(block, content.len());
                disk.alter(path, range.start, &[0; BLOCK_BYTES]);
                (format!("{path}: block {block} was never written"), range)
            }
            1 => {
                let alike: Vec<_> = files.iter().filter(|other| other.0 == kind).cloned().collect();
                let (_, from) = pick(if random.one_in(4) { &files } else { &alike }, random)?;
                let source = disk.peek_all(from)?;
                // What is replaced as a whole is misplaced as a whole; of other files the first block often.
                let (from_block, to_block, wanted) = match kind {
                    Kind::Checkpoint => (0, 0, source.len()),
                    _ => {
                        let source_blocks = source.len().div_ceil(BLOCK_BYTES) as u64;
                        let [from, to] = [source_blocks, blocks]
                            .map(|blocks| if random.one_in(3) { 0 } else { random.below(blocks) });
                        (from, to, BLOCK_BYTES * random.between(1, 4) as usize)
                    }
                };
                let start = from_block as usize * BLOCK_BYTES;
                let mut bytes = source.get(start..)?.to_vec();
                bytes.truncate(wanted);
                let at = to_block * BLOCK_BYTES as u64;
                let range = at..(at + bytes.len() as u64).min(content.len() as u64);
                if kind == Kind::Checkpoint {
                    disk.replace_content(path, &bytes);
                } else {
                    disk.alter(path, at, &bytes);
                }
                let what = format!("{path}: {} bytes of {from} from {start} were written at {at}", bytes.len());
                (what, range)
            }
            _ => {
                // Most of a journal is empty: a place with something in it is looked for.
                let byte = (0..20)
                    .map(|_| random.index(content.len()))
                    .find(|byte| content[*byte] != 0)
                    .unwrap_or_else(|| random.index(content.len()));
                let bit = random.below(8);
                disk.alter(path, byte as u64, &[content[byte] ^ (1 << bit)]);
                (format!("{path}: bit {bit} of byte {byte} is flipped"), byte as u64..byte as u64 + 1)
            }
        };
        let blind = blind_spots(&before, Some(disk), path, &range);
        Some(Damage { what, place: Some((path.clone(), range)), blind, before })
    }

    /// Judges a start on the damaged disk, or the reason why it was refused. `after` is the disk then.
    fn judge(mut self, after: &SimDisk, outcome: Result<Inspected, String>) -> Result<Verdict, String> {
        if self.place.is_none() {
            let Some((path, byte)) = after.flipped_read() else { return Ok(Verdict::Unharmed) };
            let range = byte..byte + 1;
            self.blind = blind_spots(&self.before, None, path, &range);
            self.place = Some((path.clone(), range));
        }
        let (path, range) = self.place.as_ref().expect("set above");
        let fail = |why: String| Err(format!("{self} ({path}, {range:?}): {why}"));
        let partitions = match outcome {
            Err(error) if !error.contains(path.as_ref()) => {
                return fail(format!("the start is refused without naming it: {error}"));
            }
            Err(_) if after.differs_from(&self.before, &["topics", "shards"], path) => {
                return fail("the start is refused, but it changed something".to_string());
            }
            Err(_) => return Ok(Verdict::RefusedStart),
            Ok(partitions) => partitions,
        };
        let mut verdict = Verdict::Unharmed;
        for (directory, result) in partitions {
            let is_here = path.strip_prefix(&directory).is_some_and(|rest| rest.starts_with('/'));
            let is_unknowable = self.blind.iter().any(|blind| *blind != Blind::BatchIdentity || is_here);
            verdict = match result {
                Ok(()) => continue,
                Err(ReadFailure::Refused(_) | ReadFailure::Damaged(_)) if is_here => Verdict::ReadFails,
                Err(_) if is_unknowable => Verdict::Unknowable,
                Err(error) => return fail(format!("{directory}: {error:?}")),
            };
        }
        Ok(verdict)
    }
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Checkpoint,
    Journal,
    MetaProperties,
    Metadata,
    Segment,
    Index,
}

const KINDS: [Kind; 6] =
    [Kind::Checkpoint, Kind::Journal, Kind::MetaProperties, Kind::Metadata, Kind::Segment, Kind::Index];

/// The files that hold something: those of old generations are waiting to be removed.
fn interesting_files(disk: &SimDisk) -> Vec<(Kind, FilePath)> {
    let newest = newest_generation(disk).unwrap_or_default();
    let kind = |path: &FilePath| {
        let name = path.rsplit('/').next().unwrap_or_default();
        match path.split('/').next().unwrap_or_default() {
            META_PROPERTIES => Some(Kind::MetaProperties),
            "metadata" if !name.ends_with(".tmp") => Some(Kind::Metadata),
            "shards" if path.starts_with(&newest) && name == "checkpoint" => Some(Kind::Checkpoint),
            "shards" if path.starts_with(&newest) && name == "journal" => Some(Kind::Journal),
            "topics" if name.ends_with(".log") => Some(Kind::Segment),
            "topics" if name.ends_with(".index") => Some(Kind::Index),
            _ => None,
        }
    };
    disk.listing()
        .filter(|(_, bytes)| *bytes > 0)
        .filter_map(|(path, _)| kind(path).map(|kind| (kind, path.clone())))
        .collect()
}

/// `shards/gen-…/` of the newest generation.
fn newest_generation(disk: &SimDisk) -> Option<String> {
    let generation = |(path, _): (&FilePath, u64)| {
        let name = path.strip_prefix("shards/")?.split('/').next()?;
        name.strip_prefix("gen-")?.parse::<u64>().ok().map(|number| (number, format!("shards/{name}/")))
    };
    disk.listing().filter_map(generation).max().map(|(_, directory)| directory)
}

/// Each kind of file is as likely as every other, however many there are of it.
fn pick<'a>(files: &'a [(Kind, FilePath)], random: &mut Random) -> Option<(Kind, &'a FilePath)> {
    let kinds: Vec<Kind> = KINDS.into_iter().filter(|kind| files.iter().any(|file| file.0 == *kind)).collect();
    let kind = *kinds.get(random.index(kinds.len()))?;
    let alike: Vec<&(Kind, FilePath)> = files.iter().filter(|file| file.0 == kind).collect();
    let (_, path) = alike[random.index(alike.len())];
    Some((kind, path))
}

fn block_range(block: u64, length: usize) -> Range<u64> {
    let start = block * BLOCK_BYTES as u64;
    start..(start + BLOCK_BYTES as u64).min(length as u64)
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

/// What damage at this place may be taken for. `after` is the damaged disk, if the damage lies there.
fn blind_spots(before: &SimDisk, after: Option<&SimDisk>, path: &FilePath, range: &Range<u64>) -> Vec<Blind> {
    let mut blind = Vec::new();
    let is_hit = |(file, place): &(FilePath, Range<u64>)| file == path && overlap(place, range);
    if last_groups(before).iter().any(is_hit) {
        blind.push(Blind::LastGroup);
    }
    let content = before.peek_all(path).unwrap_or_default();
    if path.starts_with("metadata/")
        && let Ok(scan) = millstream_replication::quorum::scan(path, &content)
        && scan.frames > 0
        && overlap(&(scan.last_frame..scan.valid_bytes), range)
    {
        blind.push(Blind::LastMetadataEntry);
    }
    if path.starts_with("topics/") && path.ends_with(".log") {
        let changed = after.and_then(|after| after.peek_all(path)).unwrap_or_default();
        if touches_uncovered(&content, range) || brings_whole_batches(&changed, range) {
            blind.push(Blind::BatchIdentity);
        }
    }
    blind
}

/// The last group of each journal, which looks torn when it is damaged, and the extents that it names.
fn last_groups(disk: &SimDisk) -> Vec<(FilePath, Range<u64>)> {
    let mut places = Vec::new();
    let newest = newest_generation(disk).unwrap_or_default();
    for shard in 0.. {
        let directory = format!("{newest}shard-{shard}");
        let Some(checkpoint) = disk.peek_all(&format!("{directory}/checkpoint")) else { break };
        let checkpoint = Checkpoint::decode(checkpoint, shard).expect("it was not damaged yet");
        let journal: FilePath = format!("{directory}/journal").into();
        let bytes = disk.peek_all(&journal).unwrap_or_default();
        let groups = (0..checkpoint.slots).flat_map(|slot| {
            let start = (u64::from(slot) * checkpoint.slot_bytes) as usize;
            let end = (start + checkpoint.slot_bytes as usize).min(bytes.len());
            journal::scan(&bytes.slice(start.min(end)..end), &checkpoint.salt, shard, slot)
        });
        let live = groups.filter(|group| group.sequence > checkpoint.sequence);
        let Some(last) = live.max_by_key(|group| group.sequence) else { continue };
        let start = u64::from(last.place.slot) * checkpoint.slot_bytes + last.place.position;
        places.push((journal, start..start + last.padded_bytes()));
        for entry in last.entries().expect("it was not damaged yet") {
            if let Entry::Extent { key, segment, position, bytes, .. } = entry {
                let path = segment_path(&partition_directory(TOPIC, key), segment, 0);
                places.push((path, position..position + u64::from(bytes)));
            }
        }
    }
    places
}

/// Whether the range touches what no checksum of a batch covers.
fn touches_uncovered(content: &Bytes, range: &Range<u64>) -> bool {
    let mut position = 0;
    Batches::new(content).map_while(Result::ok).any(|(_, batch)| {
        let start = position;
        position += batch.len() as u64;
        // Of a whole block of zeros the magic number is noticed.
        range.end - range.start == 1 && overlap(&(start..start + UNCOVERED_BYTES), range)
    })
}

/// Whether whole batches, good by themselves, begin in the range where batches are looked for.
fn brings_whole_batches(content: &Bytes, range: &Range<u64>) -> bool {
    let mut position = 0;
    Batches::new(content).map_while(Result::ok).any(|(_, batch)| {
        let start = position;
        position += batch.len() as u64;
        range.end - range.start > 1 && range.contains(&start) && verify_crc(batch).is_ok()
    })
}

/// Bytes of batches on their way out of a file: once in `one_in` times a bit flips, where the checksum of a batch covers it.
pub fn perhaps_flipped(bytes: Bytes, one_in: u64, random: &mut Random) -> Bytes {
    if bytes.is_empty() || !random.one_in(one_in) {
        return bytes;
    }
    let at = random.index(bytes.len());
    let mut start = 0;
    for (_, batch) in Batches::new(&bytes).map_while(Result::ok) {
        if at < start + batch.len() {
            break;
        }
        start += batch.len();
    }
    if at < start + UNCOVERED_BYTES as usize {
        return bytes;
    }
    let mut damaged = bytes.to_vec();
    damaged[at] ^= 1 << random.below(8);
    damaged.into()
}
