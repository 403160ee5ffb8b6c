//! What happens between opening the data directory and accepting clients: the checkpoints and journals of the last
//! generation become segments on disk and a new, empty generation.
//!
//! There is one path, whether the process ended well, was killed, or comes back with another number of cores. The old
//! generation stays untouched until the new one's directory is renamed into place, so a crash anywhere in between only
//! repeats the work. The cost is bounded by the journals' size, however much data there is.
//!
//! Reads and writes go through a function that executes one [`DiskOp`] at a time, so that the simulator runs the same
//! recovery.

mod directories;
mod disk;
mod replay;
mod write_back;

use std::collections::BTreeMap;

use crate::PartitionKey;
use crate::checkpoint::{Checkpoint, checkpoint_path, generation_directory, journal_path, shard_directory};
use crate::disk::{BLOCK_BYTES, DiskError, DiskOp, DiskReply, FilePath};
use crate::journal::{self, Entry, Group, Salt};
use crate::partition_state::PartitionState;
use crate::zeros::zeros;
use directories::{Directories, StateBeside, given_up};
use disk::Disk;
use replay::Replay;
use write_back::write_back;

pub use directories::Stray;

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
    /// All partitions that the cluster image knows. Others are set aside: the image may be older than they are.
    pub partitions: &'a [KnownPartition],
    /// The last process has marked the data directory as one that was shut down cleanly.
    pub is_marked_clean: bool,
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
    /// Its partitions that are set aside.
    pub strays: Vec<Stray>,
    /// What the clock said, in milliseconds since the Unix epoch: as if every producer had written then.
    pub recovered_ms: i64,
}

/// How the last run of a node ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LastShutdown {
    /// There was none: the data directory is new.
    #[default]
    Never,
    /// It was stopped, and everything it had under way came to its end.
    Clean,
    /// It was killed, or the machine was.
    Unclean {
        /// Groups at a journal's end that were cut short and dropped; they were never acknowledged.
        torn_groups: u64,
    },
}

/// What recovery found and did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recovered {
    /// In order of their index.
    pub shards: Vec<RecoveredShard>,
    /// Journal groups replayed.
    pub groups: u64,
    /// How the last run ended.
    pub last_shutdown: LastShutdown,
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
}

impl std::fmt::Display for RecoveryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RecoveryError::Disk { what, error } => write!(f, "{what}: {error}"),
            RecoveryError::Corrupt(why) => {
                write!(f, "{why}; refusing to start, because acknowledged records would be lost silently")
            }
        }
    }
}

impl std::error::Error for RecoveryError {}

/// Recovers all shards and leaves a new generation behind.
pub fn recover(io: &mut Io<'_>, options: &RecoveryOptions<'_>) -> Result<Recovered, RecoveryError> {
    assert!(options.shards > 0 && options.slots >= 4 && options.slot_bytes.is_multiple_of(BLOCK_BYTES as u64));
    let mut disk = Disk { io };
    let known: BTreeMap<PartitionKey, &KnownPartition> =
        options.partitions.iter().map(|partition| (partition.key, partition)).collect();
    let generations = disk.generations()?;
    let mut directories = Directories::find(&mut disk, &known)?;

    let mut replay = Replay { known: &known, partitions: BTreeMap::new(), now_ms: options.now_ms };
    let mut recovered = Recovered::default();
    let mut sequence = 0;
    let mut torn_groups = 0;
    let mut journals = Vec::new();
    if let Some(&generation) = generations.last() {
        let directory = generation_directory(generation);
        for shard in disk.shards(&directory)? {
            let (journal, partitions) = read_shard(&mut disk, shard_directory(&directory, shard), shard)?;
            partitions.into_iter().for_each(|partition| replay.begin(partition));
            journals.push(journal);
        }
    }
    let beside = directories.states_beside(&mut disk, |key| replay.partitions.contains_key(&key))?;
    let last_generation = generations.last().copied().unwrap_or(0);
    for StateBeside { generation, state } in beside {
        replay.begin_beside(state, generation == last_generation);
    }
    for journal in journals {
        let replayed = journal.replay(&mut disk, &directories, &mut replay)?;
        sequence = sequence.max(replayed.sequence);
        recovered.groups += replayed.groups;
        torn_groups += u64::from(replayed.is_torn);
    }
    recovered.last_shutdown = match generations.is_empty() {
        true => LastShutdown::Never,
        false if options.is_marked_clean && torn_groups == 0 => LastShutdown::Clean,
        false => LastShutdown::Unclean { torn_groups },
    };

    replay.index_what_was_cut(&mut disk, &directories)?;
    replay.check()?;
    if !generations.is_empty() {
        // An image that knows them after all finds them as empty as they were.
        let unrecorded = directories.unrecorded(&mut disk, |key| replay.partitions.contains_key(&key))?;
        unrecorded.into_iter().for_each(|key| replay.begin_empty(key));
    }

    directories.take_back(&mut disk, |key| replay.partitions.contains_key(&key))?;
    let unknown = directories.unknown();
    let mut aside: Vec<_> =
        unknown.into_iter().filter(|key| !replay.partitions.contains_key(key)).map(|key| (key, None)).collect();
    let mut partitions = Vec::new();
    for (key, mut partition) in replay.partitions {
        let directory = match known.contains_key(&key) {
            true => Some(directories.of(key).expect("the image knows it")),
            false => directories.kept_in(&mut disk, key, &mut partition)?,
        };
        partitions.push((key, directory, partition));
    }
    let written =
        partitions.iter_mut().filter_map(|(_, directory, partition)| Some((directory.as_deref()?, partition)));
    recovered.bytes = write_back(&mut disk, &mut written.collect::<Vec<_>>())?;
    let of_unknown = partitions.iter().filter(|(key, ..)| !known.contains_key(key));
    aside.extend(of_unknown.map(|(key, directory, partition)| (*key, directory.as_ref().map(|_| &partition.state))));
    directories.set_aside(&mut disk, &aside, last_generation)?;
    let mut states = Vec::new();
    let mut removals = Vec::new();
    let mut leftovers = Vec::new();
    let mut strays = BTreeMap::new();
    for (key, directory, partition) in partitions {
        if known.contains_key(&key) {
            let directory = directory.expect("the image knows it");
            let (files, beside) = given_up(&mut disk, &directory, &partition.state)?;
            removals.extend(files.into_iter().map(|path| DiskOp::Remove { path }));
            // What lay beside it while it was set aside is of no account in the new generation.
            leftovers.extend(beside);
            states.push(partition.state);
        } else {
            strays.insert(key, partition);
        }
    }
    disk.all("removing segments that were given up", removals)?;
    directories.remove_empty(&mut disk)?;
    let mut strays = directories.strays(strays);

    let generation = generations.last().map_or(1, |last| last + 1);
    let directory = generation_directory(generation);
    let temporary = format!("{directory}.tmp");
    disk.run("removing an unfinished generation", DiskOp::Remove { path: temporary.as_str().into() })?;
    for shard in 0..options.shards {
        let is_mine = |key: PartitionKey| key.shard(options.shards) == shard;
        let mine = states.extract_if(.., |state| is_mine(state.key)).collect();
        let strays = strays.extract_if(.., |stray| is_mine(stray.key)).collect();
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
        recovered.shards.push(RecoveredShard { directory, checkpoint, leftovers: Vec::new(), strays, recovered_ms });
    }
    let op = DiskOp::Rename { from: temporary.as_str().into(), to: directory.as_str().into() };
    disk.run("beginning a new generation", op)?;
    // Removing large files takes time that no client need wait for.
    leftovers.extend(generations.into_iter().map(|old| FilePath::from(generation_directory(old))));
    recovered.shards[0].leftovers = leftovers;
    Ok(recovered)
}

/// A shard's journal of the last generation.
struct Journal {
    path: FilePath,
    /// The last group that the checkpoint covers.
    checkpointed: u64,
    /// The groups that it does not cover, in their order.
    groups: Vec<Group>,
}

/// How far a journal was replayed.
struct Replayed {
    /// The number of its last group.
    sequence: u64,
    /// Groups replayed.
    groups: u64,
    /// The last one was cut short.
    is_torn: bool,
}

/// Reads a shard of the last generation: its journal, and the partitions of its checkpoint.
fn read_shard(
    disk: &mut Disk<'_, '_>,
    directory: String,
    shard: usize,
) -> Result<(Journal, Vec<PartitionState>), RecoveryError> {
    let path = checkpoint_path(&directory);
    let bytes = disk.read_all(&path, 0, CHECKPOINT_BYTES_MAX)?;
    let checkpoint = Checkpoint::decode(bytes, shard as u16)
        .map_err(|unusable| RecoveryError::Corrupt(format!("{path} is damaged: {}", unusable.0)))?;
    let mut groups = Vec::new();
    for slot in disk.live_slots(&directory, &checkpoint)? {
        let start = u64::from(slot) * checkpoint.slot_bytes;
        let bytes = disk.read_all(&journal_path(&directory), start, checkpoint.slot_bytes)?;
        let found = journal::scan(&bytes, &checkpoint.salt, checkpoint.shard, slot);
        groups.extend(found.into_iter().filter(|group| group.sequence > checkpoint.sequence));
    }
    groups.sort_by_key(|group| group.sequence);
    let journal = Journal { path: journal_path(&directory), checkpointed: checkpoint.sequence, groups };
    Ok((journal, checkpoint.partitions))
}

impl Journal {
    fn replay(
        self,
        disk: &mut Disk<'_, '_>,
        directories: &Directories<'_>,
        replay: &mut Replay<'_>,
    ) -> Result<Replayed, RecoveryError> {
        let mut replayed = Replayed { sequence: self.checkpointed, groups: 0, is_torn: false };
        let count = self.groups.len();
        for (index, group) in self.groups.into_iter().enumerate() {
            // A group is written when the one before it is durable, so only the very last may be missing or torn.
            if group.sequence != replayed.sequence + 1 {
                return Err(RecoveryError::Corrupt(format!(
                    "{}: group {} is damaged or missing, but group {} after it is there (slot {}, byte {})",
                    self.path,
                    replayed.sequence + 1,
                    group.sequence,
                    group.place.slot,
                    group.place.position
                )));
            }
            let entries = entries_of(&group)?;
            if index + 1 == count && !disk.extents_arrived(directories, &entries)? {
                replayed.is_torn = true;
                break;
            }
            for entry in entries {
                replay.apply(entry)?;
            }
            replayed.sequence = group.sequence;
            replayed.groups += 1;
        }
        Ok(replayed)
    }
}

fn entries_of(group: &Group) -> Result<Vec<Entry>, RecoveryError> {
    group.entries().map_err(|malformed| RecoveryError::Corrupt(malformed.0))
}
