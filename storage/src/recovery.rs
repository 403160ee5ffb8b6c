//! What happens between opening the data directory and accepting clients: the checkpoints and journals of the last
//! generation become segments on disk and a new, empty generation.
//!
//! There is one path, whether the process ended well, was killed, or comes back with another number of cores. The old
//! generation stays untouched until the new one's directory is renamed into place, so a crash anywhere in between only
//! repeats the work. The cost is bounded by the journals' size, however much data there is.
//!
//! Reads and writes go through a function that executes one [`DiskOp`] at a time, so that the simulator runs the same
//! recovery.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::{Bytes, BytesMut};

use crate::PartitionKey;
use crate::batch::{BATCH_HEADER_BYTES, BatchHeader, Batches, NO_PRODUCER_ID};
use crate::bug::{Bug, is_planted};
use crate::checkpoint::{Checkpoint, checkpoint_path, generation_directory, journal_path, shard_directory};
use crate::compaction::Replacement;
use crate::disk::{BLOCK_BYTES, DiskError, DiskOp, DiskReply, FilePath};
use crate::index::SEGMENT_BYTES_MAX;
use crate::journal::{self, Entry, Group, Salt};
use crate::partition_log::partition_directory;
use crate::partition_state::{PartitionState, SegmentState};
use crate::segment::{index_path, segment_path};
use crate::zeros::zeros;

/// One read of a checkpoint or journal slot.
const READ_BYTES_MAX: usize = 16 << 20;
/// One write of recovered bytes to a segment.
const WRITE_BYTES_MAX: usize = 1 << 20;
/// The largest checkpoint that is read.
const CHECKPOINT_BYTES_MAX: u64 = 1 << 30;

/// Executes one disk operation and waits for it.
pub type Io<'a> = dyn FnMut(DiskOp) -> Result<DiskReply, DiskError> + 'a;

/// A partition that the cluster image knows and this broker hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPartition {
    /// The partition.
    pub key: PartitionKey,
    /// Its topic's name.
    pub topic: String,
    /// `index.interval.bytes` of the topic.
    pub index_interval_bytes: u32,
}

/// What recovery needs to know.
#[derive(Clone, Debug)]
pub struct RecoveryOptions<'a> {
    /// Shards of this process, at least 1; may differ from last time.
    pub shards: usize,
    /// Fresh random bytes: the new generation's salt.
    pub salt: Salt,
    /// Slots of each shard's journal, at least 4.
    pub slots: u32,
    /// Bytes of a slot, a multiple of [`BLOCK_BYTES`].
    pub slot_bytes: u64,
    /// All partitions that exist. Files of others are removed.
    pub partitions: &'a [KnownPartition],
    /// The metadata was created just now: then there must be no data yet.
    pub metadata_is_new: bool,
    /// Milliseconds since the Unix epoch.
    pub now_ms: i64,
}

/// One shard's part of the new generation.
#[derive(Clone, Debug, PartialEq)]
pub struct RecoveredShard {
    /// Its directory, relative to the data directory.
    pub directory: String,
    /// Its state; the journal is empty.
    pub checkpoint: Checkpoint,
    /// Files and directories that nothing needs any more, to be removed when there is time.
    pub leftovers: Vec<FilePath>,
    /// What the clock said, in milliseconds since the Unix epoch: as if every producer had written then.
    pub recovered_ms: i64,
}

/// What recovery found and did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recovered {
    /// In order of their index.
    pub shards: Vec<RecoveredShard>,
    /// Journal groups replayed.
    pub groups: u64,
    /// Groups at a journal's end that were cut short by the crash and dropped; they were never acknowledged.
    pub torn_groups: u64,
    /// Bytes brought from the journal to segments.
    pub bytes: u64,
}

/// Why the broker cannot start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryError {
    /// A disk operation failed.
    Disk {
        /// The operation that failed.
        what: String,
        /// Why it did.
        error: DiskError,
    },
    /// Acknowledged data is damaged. Nothing was changed.
    Corrupt(String),
    /// The data directory holds data but no metadata. Nothing was changed.
    MetadataMissing,
}

impl std::fmt::Display for RecoveryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RecoveryError::Disk { what, error } => write!(f, "{what}: {error}"),
            RecoveryError::Corrupt(why) => {
                write!(f, "{why}; refusing to start, because acknowledged records would be lost silently")
            }
            RecoveryError::MetadataMissing => write!(
                f,
                "the data directory holds partitions but its metadata is missing; restore the `metadata` directory or \
                 start with an empty data directory"
            ),
        }
    }
}

impl std::error::Error for RecoveryError {}

/// Recovers all shards and leaves a new generation behind.
pub fn recover(io: &mut Io<'_>, options: &RecoveryOptions<'_>) -> Result<Recovered, RecoveryError> {
    assert!(options.shards > 0 && options.slots >= 4 && options.slot_bytes.is_multiple_of(BLOCK_BYTES as u64));
    let mut disk = Disk { io };
    let known: HashMap<PartitionKey, &KnownPartition> =
        options.partitions.iter().map(|partition| (partition.key, partition)).collect();
    let generations = disk.generations()?;
    if options.metadata_is_new && !generations.is_empty() {
        return Err(RecoveryError::MetadataMissing);
    }

    let mut replay = Replay { known: &known, partitions: BTreeMap::new(), now_ms: options.now_ms };
    let mut recovered = Recovered::default();
    let mut sequence = 0;
    if let Some(&generation) = generations.last() {
        let directory = generation_directory(generation);
        for shard in disk.shards(&directory)? {
            let last =
                recover_shard(&mut disk, &mut replay, &shard_directory(&directory, shard), shard, &mut recovered)?;
            sequence = sequence.max(last);
        }
    }
    for (key, partition) in &mut replay.partitions {
        let directory = partition_directory(&known[key].topic, *key);
        partition.drop_segments_below_start();
        if !partition.state.view().is_sound() {
            return Err(malformed(*key));
        }
        recovered.bytes += write_back(&mut disk, &directory, partition)?;
    }
    let mut states: Vec<PartitionState> = replay.partitions.into_values().map(|partition| partition.state).collect();
    remove_strays(&mut disk, &known, &states)?;

    let generation = generations.last().map_or(1, |last| last + 1);
    let directory = generation_directory(generation);
    let temporary = format!("{directory}.tmp");
    disk.run("removing an unfinished generation", DiskOp::Remove { path: temporary.as_str().into() })?;
    for shard in 0..options.shards {
        let (mine, others) = states.into_iter().partition(|state| state.key.shard(options.shards) == shard);
        states = others;
        let checkpoint = Checkpoint {
            shard: shard as u16,
            salt: options.salt,
            sequence,
            slots: options.slots,
            slot_bytes: options.slot_bytes,
            partitions: mine,
        };
        let path = shard_directory(&temporary, shard);
        disk.run("creating the journal", DiskOp::CreateDirectory { path: path.as_str().into() })?;
        let bytes = u64::from(options.slots) * options.slot_bytes;
        disk.run("reserving space for the journal", DiskOp::Allocate { path: journal_path(&path), bytes })?;
        // The other slots are filled while this one is in use.
        let data = zeros(options.slot_bytes);
        let op = DiskOp::Write { path: journal_path(&path), position: 0, data, durable: true };
        disk.run("filling the journal", op)?;
        let op = DiskOp::Replace { path: checkpoint_path(&path), data: checkpoint.encode() };
        disk.run("writing the checkpoint", op)?;
        let directory = shard_directory(&directory, shard);
        let recovered_ms = options.now_ms;
        recovered.shards.push(RecoveredShard { directory, checkpoint, leftovers: Vec::new(), recovered_ms });
    }
    let op = DiskOp::Rename { from: temporary.as_str().into(), to: directory.as_str().into() };
    disk.run("beginning a new generation", op)?;
    // Removing large files takes time that no client need wait for.
    recovered.shards[0].leftovers = generations.into_iter().map(|old| generation_directory(old).into()).collect();
    Ok(recovered)
}

/// Replays one shard of the last generation; returns the sequence number of its last group.
fn recover_shard(
    disk: &mut Disk<'_, '_>,
    replay: &mut Replay<'_>,
    directory: &str,
    shard: usize,
    recovered: &mut Recovered,
) -> Result<u64, RecoveryError> {
    let path = checkpoint_path(directory);
    let bytes = disk.read_all(&path, 0, CHECKPOINT_BYTES_MAX)?;
    let checkpoint = Checkpoint::decode(bytes, shard as u16)
        .map_err(|unusable| RecoveryError::Corrupt(format!("{path} is damaged: {}", unusable.0)))?;
    let mut groups = Vec::new();
    for slot in disk.live_slots(directory, &checkpoint)? {
        let start = u64::from(slot) * checkpoint.slot_bytes;
        let bytes = disk.read_all(&journal_path(directory), start, checkpoint.slot_bytes)?;
        let found = journal::scan(&bytes, &checkpoint.salt, checkpoint.shard, slot);
        groups.extend(found.into_iter().filter(|group| group.sequence > checkpoint.sequence));
    }
    groups.sort_by_key(|group| group.sequence);
    for partition in checkpoint.partitions {
        replay.begin(partition);
    }

    let mut last = checkpoint.sequence;
    let count = groups.len();
    for (index, group) in groups.into_iter().enumerate() {
        // A group is written when the one before it is durable, so only the very last may be missing or torn.
        if group.sequence != last + 1 {
            return Err(RecoveryError::Corrupt(format!(
                "{}: group {} is damaged or missing, but group {} after it is there (slot {}, byte {})",
                journal_path(directory),
                last + 1,
                group.sequence,
                group.place.slot,
                group.place.position
            )));
        }
        let entries = entries_of(&group)?;
        if index + 1 == count && !disk.extents_arrived(replay, &entries)? {
            recovered.torn_groups += 1;
            break;
        }
        for entry in entries {
            replay.apply(entry)?;
        }
        last = group.sequence;
        recovered.groups += 1;
    }
    Ok(last)
}

fn entries_of(group: &Group) -> Result<Vec<Entry>, RecoveryError> {
    group.entries().map_err(|malformed| RecoveryError::Corrupt(malformed.0))
}

/// The partitions as far as they are replayed.
struct Replay<'a> {
    known: &'a HashMap<PartitionKey, &'a KnownPartition>,
    partitions: BTreeMap<PartitionKey, ReplayedPartition>,
    now_ms: i64,
}

struct ReplayedPartition {
    state: PartitionState,
    /// Bytes that only the journal holds: segment, position, bytes; ascending.
    bytes: Vec<(i64, u64, Bytes)>,
}

impl ReplayedPartition {
    /// Forgets segments that lie wholly below the log start: their files may be gone already.
    fn drop_segments_below_start(&mut self) {
        let state = &mut self.state;
        let begun = state.segments.partition_point(|segment| segment.base_offset <= state.log_start);
        state.segments.drain(..begun.saturating_sub(1));
        let first = state.segments.first().expect("never empty").base_offset;
        self.bytes.retain(|(segment, ..)| *segment >= first);
    }
}

impl Replay<'_> {
    fn begin(&mut self, mut state: PartitionState) {
        state.producers.refresh(self.now_ms);
        if self.known.contains_key(&state.key) {
            self.partitions.insert(state.key, ReplayedPartition { state, bytes: Vec::new() });
        }
    }

    fn partition(&mut self, key: PartitionKey) -> Option<&mut ReplayedPartition> {
        let known = self.known.get(&key)?;
        Some(self.partitions.entry(key).or_insert_with(|| ReplayedPartition {
            state: PartitionState::empty(key, known.index_interval_bytes),
            bytes: Vec::new(),
        }))
    }

    fn apply(&mut self, entry: Entry) -> Result<(), RecoveryError> {
        match entry {
            Entry::Append { key, segment, position, data, .. } => {
                let headers = Batches::new(&data)
                    .map(|batch| batch.map(|(header, _)| *header).map_err(|_| malformed(key)))
                    .collect::<Result<Vec<_>, _>>()?;
                self.append(key, segment, position, &headers)?;
                let Some(partition) = self.partition(key) else { return Ok(()) };
                if let Some(found) = partition.state.segments.iter().find(|found| found.base_offset == segment) {
                    let end = position + data.len() as u64;
                    if end > found.bytes {
                        return Err(malformed(key));
                    }
                    if end > found.synced {
                        partition.bytes.push((segment, position, data));
                    }
                }
                Ok(())
            }
            Entry::Extent { key, segment, position, headers, .. } => {
                let headers: Vec<BatchHeader> = headers
                    .chunks_exact(BATCH_HEADER_BYTES)
                    .map(|header| BatchHeader::read(header).copied().ok_or_else(|| malformed(key)))
                    .collect::<Result<_, _>>()?;
                self.append(key, segment, position, &headers)
            }
            Entry::LogStart { key, offset } => {
                if let Some(partition) = self.partition(key).filter(|_| !is_planted(Bug::ForgetTruncation)) {
                    if offset > partition.state.log_end {
                        return Err(malformed(key));
                    }
                    partition.state.log_start = partition.state.log_start.max(offset);
                    partition.state.epochs.truncate_start(offset);
                }
                Ok(())
            }
            Entry::Replaced { key, replacement } => self.replace(key, &replacement),
        }
    }

    /// A compacted segment takes the place of others. Their bytes are all in their files, or were.
    fn replace(&mut self, key: PartitionKey, replacement: &Replacement) -> Result<(), RecoveryError> {
        let Some(known) = self.known.get(&key) else { return Ok(()) };
        let index_interval_bytes = known.index_interval_bytes;
        let Some(partition) = self.partition(key) else { return Ok(()) };
        let ReplayedPartition { state, bytes } = partition;
        let mut open = state.segments.last().expect("never empty").base_offset;
        if replacement.until > open && replacement.until == state.log_end {
            // A new segment was begun, but nothing appended to it yet.
            state.segments.push(SegmentState::empty(state.log_end, index_interval_bytes));
            open = state.log_end;
        }
        let is_possible = replacement.from < replacement.until
            && replacement.until <= open
            && replacement.first_dirty <= open
            && replacement.version > 0
            && replacement.bytes <= SEGMENT_BYTES_MAX;
        if !is_possible {
            return Err(malformed(key));
        }
        let replaced = replacement.from..replacement.until;
        bytes.retain(|(segment, ..)| !replaced.contains(segment));
        state.segments.retain(|segment| !replaced.contains(&segment.base_offset));
        if replacement.bytes > 0 {
            let at = state.segments.partition_point(|segment| segment.base_offset < replacement.from);
            state.segments.insert(at, SegmentState::compacted(replacement));
        }
        state.first_dirty = replacement.first_dirty;
        Ok(())
    }

    /// Replays all but the payload of batches that lie at `position` of a segment. What the checkpoint knows already
    /// is passed over.
    fn append(
        &mut self,
        key: PartitionKey,
        base: i64,
        position: u64,
        headers: &[BatchHeader],
    ) -> Result<(), RecoveryError> {
        let now_ms = self.now_ms;
        let Some(known) = self.known.get(&key) else { return Ok(()) };
        let index_interval_bytes = known.index_interval_bytes;
        let Some(partition) = self.partition(key) else { return Ok(()) };
        let state = &mut partition.state;
        let mut at = position;
        for header in headers {
            let bytes = header.batch_bytes().map_err(|_| malformed(key))? as u64;
            if at > SEGMENT_BYTES_MAX.saturating_sub(bytes) || !is_possible(header) {
                return Err(malformed(key));
            }
            if header.base_offset() >= state.log_end {
                let last = state.segments.last().expect("never empty");
                if base > last.base_offset && base == state.log_end {
                    state.segments.push(SegmentState::empty(base, index_interval_bytes));
                }
                let segment = state.segments.last_mut().expect("never empty");
                if segment.base_offset != base || segment.bytes != at || header.base_offset() != state.log_end {
                    return Err(RecoveryError::Corrupt(format!(
                        "journal: offset {} of partition {} of topic id {} does not follow offset {}",
                        header.base_offset(),
                        key.partition,
                        key.topic_id.to_base64(),
                        state.log_end
                    )));
                }
                segment.index.as_mut().expect("an open segment has one").note(header, at);
                segment.bytes += bytes;
                if segment.first_timestamp < 0 {
                    segment.first_timestamp = header.max_timestamp();
                }
                segment.max_timestamp = segment.max_timestamp.max(header.max_timestamp());
                state.log_end = header.last_offset() + 1;
                state.producers.record(header, now_ms);
                state.epochs.assign(header.leader_epoch(), header.base_offset());
            }
            at += bytes;
        }
        Ok(())
    }
}

/// What a leader has made sure of before it appended a batch, and what the next checkpoint must be able to say.
fn is_possible(header: &BatchHeader) -> bool {
    let is_sequenced = header.producer_id() >= 0 && header.base_sequence() >= 0;
    header.last_offset_delta() >= 0 && (is_sequenced || header.producer_id() == NO_PRODUCER_ID)
}

fn malformed(key: PartitionKey) -> RecoveryError {
    RecoveryError::Corrupt(format!(
        "journal: an entry of partition {} of topic id {} makes no sense",
        key.partition,
        key.topic_id.to_base64()
    ))
}

/// Brings bytes that only the journal holds to their segments, durably. Returns how many.
fn write_back(
    disk: &mut Disk<'_, '_>,
    directory: &str,
    partition: &mut ReplayedPartition,
) -> Result<u64, RecoveryError> {
    let mut written = 0;
    let mut touched = Vec::new();
    let mut runs: Vec<(i64, u64, BytesMut)> = Vec::new();
    for (segment, position, data) in partition.bytes.drain(..) {
        written += data.len() as u64;
        match runs.last_mut() {
            Some((base, start, run))
                if *base == segment && *start + run.len() as u64 == position && run.len() < WRITE_BYTES_MAX =>
            {
                run.extend_from_slice(&data);
            }
            _ => runs.push((segment, position, BytesMut::from(&data[..]))),
        }
    }
    for (base, position, run) in runs {
        let path = segment_path(directory, base, 0);
        if touched.last() != Some(&path) {
            touched.push(path.clone());
            let state = partition.state.segments.iter().find(|state| state.base_offset == base).expect("kept above");
            // A file with something durable in it is there. Each of these costs syncs, which a restart has to wait for.
            if state.synced == 0 {
                disk.run("creating a partition's directory", DiskOp::CreateDirectory { path: directory.into() })?;
                let bytes = state.bytes.next_multiple_of(BLOCK_BYTES as u64);
                disk.run("reserving space for a segment", DiskOp::Allocate { path: path.clone(), bytes })?;
            }
        }
        disk.overlay(&path, position, &run)?;
    }
    for path in touched {
        disk.run("syncing a segment", DiskOp::Sync { path })?;
    }
    for segment in &mut partition.state.segments {
        segment.synced = segment.bytes;
    }
    Ok(written)
}

/// Removes directories of partitions that do not exist any more, and files of segments that were given up.
fn remove_strays(
    disk: &mut Disk<'_, '_>,
    known: &HashMap<PartitionKey, &KnownPartition>,
    states: &[PartitionState],
) -> Result<(), RecoveryError> {
    let mut expected: HashSet<String> = HashSet::new();
    let mut parents: HashSet<String> = HashSet::new();
    for (key, partition) in known {
        let directory = partition_directory(&partition.topic, *key);
        let mut at = directory.as_str();
        while let Some((parent, _)) = at.rsplit_once('/') {
            parents.insert(parent.to_string());
            at = parent;
        }
        expected.insert(directory);
    }
    let mut to_list = vec!["topics".to_string()];
    while let Some(directory) = to_list.pop() {
        for (name, is_directory) in disk.list(&directory)? {
            let path = format!("{directory}/{name}");
            if is_directory && parents.contains(&path) {
                to_list.push(path);
            } else if !expected.contains(&path) {
                disk.run("removing what a deleted topic left", DiskOp::Remove { path: path.into() })?;
            }
        }
    }
    for state in states {
        let directory = partition_directory(&known[&state.key].topic, state.key);
        let paths = |segment: &SegmentState| {
            let (base, version) = (segment.base_offset, segment.version);
            [segment_path(&directory, base, version), index_path(&directory, base, version)]
        };
        let expected: HashSet<FilePath> = state.segments.iter().flat_map(paths).collect();
        for (name, _) in disk.list(&directory)? {
            let path = format!("{directory}/{name}");
            if !expected.contains(path.as_str()) {
                disk.run("removing a segment that was given up", DiskOp::Remove { path: path.into() })?;
            }
        }
    }
    Ok(())
}

/// Disk operations with the reason for each, for the error message.
struct Disk<'a, 'io> {
    io: &'a mut Io<'io>,
}

impl Disk<'_, '_> {
    fn run(&mut self, what: &str, op: DiskOp) -> Result<DiskReply, RecoveryError> {
        (self.io)(op).map_err(|error| RecoveryError::Disk { what: format!("{what} failed"), error })
    }

    fn list(&mut self, path: &str) -> Result<Vec<(String, bool)>, RecoveryError> {
        match self.run("listing a directory", DiskOp::List { path: path.into() })? {
            DiskReply::Names(names) => Ok(names),
            _ => unreachable!("a list answers with names"),
        }
    }

    fn generations(&mut self) -> Result<Vec<u64>, RecoveryError> {
        let mut generations: Vec<u64> = self
            .list("shards")?
            .iter()
            .filter_map(|(name, _)| name.strip_prefix("gen-").and_then(|number| number.parse().ok()))
            .collect();
        generations.sort_unstable();
        Ok(generations)
    }

    fn shards(&mut self, generation_directory: &str) -> Result<Vec<usize>, RecoveryError> {
        let mut shards: Vec<usize> = self
            .list(generation_directory)?
            .iter()
            .filter_map(|(name, _)| name.strip_prefix("shard-").and_then(|number| number.parse().ok()))
            .collect();
        shards.sort_unstable();
        Ok(shards)
    }

    fn read(&mut self, path: &FilePath, position: u64, bytes: usize) -> Result<Bytes, RecoveryError> {
        let op = DiskOp::Read { path: path.clone(), position, bytes };
        match self.run(&format!("reading {path}"), op)? {
            DiskReply::Data(data) => Ok(data),
            _ => unreachable!("a read answers with data"),
        }
    }

    /// Reads a file from `start`, at most `bytes_max`, in bounded pieces.
    fn read_all(&mut self, path: &FilePath, start: u64, bytes_max: u64) -> Result<Bytes, RecoveryError> {
        let mut all = BytesMut::new();
        loop {
            let wanted = READ_BYTES_MAX.min((bytes_max - all.len() as u64) as usize);
            let piece = self.read(path, start + all.len() as u64, wanted)?;
            if all.is_empty() && piece.len() as u64 == bytes_max {
                return Ok(piece);
            }
            all.extend_from_slice(&piece);
            if piece.len() < wanted || all.len() as u64 == bytes_max {
                return Ok(all.freeze());
            }
        }
    }

    /// The slots that may hold groups the checkpoint does not cover. Most of a journal is covered, and reading it would
    /// be most of the restart.
    ///
    /// Slots are filled one after the other, each from its front. So when the checked first group of the slot filled
    /// next is still covered, or just follows what is, this slot holds nothing newer. A slot whose first group is damaged
    /// or missing tells nothing: it is read.
    fn live_slots(&mut self, directory: &str, checkpoint: &Checkpoint) -> Result<Vec<u32>, RecoveryError> {
        let mut live = Vec::new();
        let mut firsts = Vec::new();
        for slot in 0..checkpoint.slots {
            let path = journal_path(directory);
            let start = u64::from(slot) * checkpoint.slot_bytes;
            let mut front = self.read(&path, start, BLOCK_BYTES)?;
            if let Some(bytes) = journal::claimed_bytes(&front).filter(|&bytes| bytes as u64 <= checkpoint.slot_bytes) {
                front = self.read(&path, start, bytes)?;
            }
            match journal::first(&front, &checkpoint.salt, checkpoint.shard, slot) {
                Some(group) => firsts.push((group.sequence, slot)),
                None => live.push(slot),
            }
        }
        firsts.sort_unstable();
        for (index, &(_, slot)) in firsts.iter().enumerate() {
            let is_covered = firsts.get(index + 1).is_some_and(|&(next, _)| next <= checkpoint.sequence + 1);
            if !is_covered {
                live.push(slot);
            }
        }
        Ok(live)
    }

    /// Whether every extent of the last group is in its segment as the group says.
    fn extents_arrived(&mut self, replay: &Replay<'_>, entries: &[Entry]) -> Result<bool, RecoveryError> {
        for entry in entries {
            let Entry::Extent { key, segment, position, bytes, crc, .. } = entry else { continue };
            let Some(known) = replay.known.get(key) else { continue };
            let path = segment_path(&partition_directory(&known.topic, *key), *segment, 0);
            let op = DiskOp::Read { path: path.clone(), position: *position, bytes: *bytes as usize };
            match (self.io)(op) {
                Ok(DiskReply::Data(data))
                    if data.len() == *bytes as usize
                        && (crc32c::crc32c(&data) == *crc || is_planted(Bug::SkipChecksum)) =>
                {
                    // Its write was under way when the process ended: what can be read need not be durable.
                    self.run("syncing a segment", DiskOp::Sync { path })?;
                }
                Ok(_) | Err(DiskError::NotFound) => return Ok(false),
                Err(error) => {
                    return Err(RecoveryError::Disk { what: "reading a segment failed".to_string(), error });
                }
            }
        }
        Ok(true)
    }

    /// Writes `data` at `position`, keeping what else is in the blocks at both ends.
    fn overlay(&mut self, path: &FilePath, position: u64, data: &[u8]) -> Result<(), RecoveryError> {
        let block = BLOCK_BYTES as u64;
        let start = position - position % block;
        let end = (position + data.len() as u64).next_multiple_of(block);
        let mut buffer = BytesMut::zeroed((end - start) as usize);
        let first = self.read(path, start, BLOCK_BYTES)?;
        buffer[..first.len()].copy_from_slice(&first);
        if end - start > block {
            let last = self.read(path, end - block, BLOCK_BYTES)?;
            let at = (end - block - start) as usize;
            buffer[at..at + last.len()].copy_from_slice(&last);
        }
        let at = (position - start) as usize;
        buffer[at..at + data.len()].copy_from_slice(data);
        let op = DiskOp::Write { path: path.clone(), position: start, data: vec![buffer.freeze()], durable: false };
        self.run(&format!("writing {path}"), op).map(|_| ())
    }
}
