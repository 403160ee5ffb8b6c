//! The journal, and recovery from it. The first byte chooses: groups of a slot; recovery of a data directory whose
//! checkpoint is sound; recovery of one whose checkpoint holds anything, under a checksum that is right.

use std::time::Duration;

use bytes::Bytes;
use millstream_replication::config::{Properties, topic_settings};
use millstream_storage::checkpoint::{
    Checkpoint, checkpoint_path, generation_directory, journal_path, shard_directory,
};
use millstream_storage::journal::{Entry, GroupBuilder, GroupPlace, Restart, Salt, claimed_bytes, first, scan};
use millstream_storage::partition_log::partition_directory;
use millstream_storage::partition_state::PartitionState;
use millstream_storage::recovery::{KnownPartition, Recovered, RecoveryError, RecoveryOptions, recover};
use millstream_storage::segment::segment_path;
use millstream_storage::shard_log::{CleanerOptions, ShardLogOptions};
use millstream_storage::{BLOCK_BYTES, PartitionKey, ShardLog, TopicId};

use super::checkpoint;
use crate::Target;
use crate::disk::Disk;
use crate::input::{Input, piece};
use crate::memory::{BASE_BYTES, bounded};

pub const TARGET: Target = Target { name: "journal", run, seeds };

/// The smallest entry takes 25 bytes on the disk and 120 in memory, in a vector that may have twice the room.
const MEMORY_PER_BYTE: usize = 16;
/// What recovery holds beside the input: it reads checkpoint and journal whole, and the disk is in memory too.
const RECOVERY_BYTES_MAX: usize = 64 << 20;

const SALT: Salt = [9; 16];
const SHARD: u16 = 0;
const SLOTS: u32 = 4;
const SLOT_BYTES: u64 = 1 << 15;
const TOPIC: TopicId = TopicId([3; 16]);

fn run(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    match choice % 3 {
        0 => groups(bytes),
        1 => {
            let partitions = (0..2).map(|index| checkpoint::partition(key(index))).collect();
            recovery(sound_checkpoint(partitions), Input::new(bytes));
        }
        _ => {
            let mut input = Input::new(bytes);
            let file = checkpoint::seal(input.piece());
            recovery(file, input);
        }
    }
}

fn key(partition: i32) -> PartitionKey {
    PartitionKey { topic_id: TOPIC, partition }
}

/// A group of these bytes, padded, whose header fits its place.
fn seal(body: &[u8], entries: u32, sequence: u64, slot: u32, position: u64) -> Vec<u8> {
    let mut group = Vec::new();
    group.extend(0x474a_534du32.to_le_bytes());
    group.extend(2u16.to_le_bytes());
    group.extend(SHARD.to_le_bytes());
    group.extend([0; 4]);
    group.extend((64 + body.len() as u32).to_le_bytes());
    group.extend(sequence.to_le_bytes());
    group.extend(position.to_le_bytes());
    group.extend(slot.to_le_bytes());
    group.extend(entries.to_le_bytes());
    group.resize(64, 0);
    group.extend(body);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&SALT), &group[12..]);
    group[8..12].copy_from_slice(&crc.to_le_bytes());
    group.resize(group.len().next_multiple_of(BLOCK_BYTES), 0);
    group
}

/// The bytes as they are, and as the body of a group whose header is right.
fn groups(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let entries = u32::from(input.byte());
    let sealed = seal(input.rest(), entries, 41, 0, 0);
    for slot in [Bytes::copy_from_slice(bytes), Bytes::from(sealed)] {
        let bytes_max = BASE_BYTES + MEMORY_PER_BYTE * slot.len();
        let _ = claimed_bytes(&slot);
        let groups = bounded(bytes_max, || scan(&slot, &SALT, SHARD, 0));
        assert_eq!(first(&slot, &SALT, SHARD, 0).as_ref(), groups.first());
        for group in groups {
            let Ok(entries) = bounded(bytes_max, || group.entries()) else { continue };
            if entries.is_empty() {
                continue;
            }
            let mut builder = GroupBuilder::new();
            for entry in entries.clone() {
                add(&mut builder, entry);
            }
            let again = builder.finish(&SALT, group.sequence, GroupPlace { shard: SHARD, slot: 0, position: 0 });
            let again = first(&again.concat().into(), &SALT, SHARD, 0).expect("we wrote it");
            assert_eq!(again.entries(), Ok(entries));
        }
    }
}

fn add(builder: &mut GroupBuilder, entry: Entry) {
    match entry {
        Entry::Append { key, segment, position, base_offset, data } => {
            builder.append(key, segment, position, base_offset, vec![data]);
        }
        Entry::Extent { key, segment, position, base_offset, bytes, crc, headers } => {
            builder.extent(key, segment, position, base_offset, bytes, crc, &headers);
        }
        Entry::LogStart { key, offset } => builder.log_start(key, offset),
        Entry::Replaced { key, replacement } => builder.replaced(key, &replacement),
        Entry::Restart { key, restart } => builder.restart(key, &restart),
    }
}

fn sound_checkpoint(partitions: Vec<PartitionState>) -> Vec<u8> {
    let sample = checkpoint::sample(partitions);
    let sound = Checkpoint { shard: SHARD, salt: SALT, slots: SLOTS, slot_bytes: SLOT_BYTES, ..sample };
    sound.encode().to_vec()
}

/// A data directory with this checkpoint, and a journal that the input fills: groups that follow each other but for
/// those that the input makes skip a number, and bytes of its own between them.
fn recovery(checkpoint: Vec<u8>, mut input: Input<'_>) {
    let mut journal = vec![0; (u64::from(SLOTS) * SLOT_BYTES) as usize];
    let (mut sequence, mut slot, mut position) = (40, 0u32, 0);
    while !input.is_empty() {
        let choice = input.byte();
        let entries = u32::from(choice >> 3);
        let bytes = input.piece();
        if choice & 1 != 0 {
            (slot, position) = (slot + 1, 0);
        }
        sequence += if choice & 2 != 0 { 2 } else { 1 };
        let group = if choice & 4 != 0 {
            let mut raw = bytes.to_vec();
            raw.resize(raw.len().next_multiple_of(BLOCK_BYTES), 0);
            raw
        } else {
            seal(bytes, entries, sequence, slot, position)
        };
        if slot >= SLOTS || position + group.len() as u64 > SLOT_BYTES {
            break;
        }
        let at = (u64::from(slot) * SLOT_BYTES + position) as usize;
        journal[at..at + group.len()].copy_from_slice(&group);
        position += group.len() as u64;
    }
    let mut disk = Disk::default();
    let directory = shard_directory(&generation_directory(1), usize::from(SHARD));
    disk.put(&checkpoint_path(&directory), checkpoint);
    disk.put(&journal_path(&directory), journal);
    for partition in 0..2 {
        let directory = partition_directory("t", key(partition));
        disk.put(&segment_path(&directory, 0, 0), vec![0; BLOCK_BYTES]);
    }
    bounded(RECOVERY_BYTES_MAX, || {
        let Ok(recovered) = start(&mut disk) else { return };
        let ends = ends(&recovered);
        // What one start has recovered, the next one finds.
        let again = start(&mut disk).expect("recovery leaves what it can recover");
        assert_eq!(self::ends(&again), ends);
        let options = ShardLogOptions {
            tail_memory_bytes_max: 1 << 20,
            free_space_floor_bytes: 0,
            extent_bytes_min: 1 << 16,
            retention_check_interval: Duration::from_secs(300),
            producer_expiration_ms: 86_400_000,
            producers_max: 1000,
            replica_reserve_percent: 0,
            cleaner: CleanerOptions::default(),
        };
        for shard in again.shards {
            drop(ShardLog::new(options.clone(), shard, |_| {
                ("t".to_owned(), topic_settings(&Properties::new(), &[]).log)
            }));
        }
    });
}

fn start(disk: &mut Disk) -> Result<Recovered, RecoveryError> {
    let partitions: Vec<KnownPartition> = (0..2)
        .map(|partition| KnownPartition { key: key(partition), topic: "t".to_owned(), index_interval_bytes: 4096 })
        .collect();
    let options = RecoveryOptions {
        shards: 2,
        salt: SALT,
        slots: SLOTS,
        slot_bytes: SLOT_BYTES,
        partitions: &partitions,
        is_marked_clean: false,
        now_ms: 1_700_000_000_000,
    };
    recover(&mut |op| disk.execute(op), &options)
}

fn ends(recovered: &Recovered) -> Vec<(PartitionKey, i64, i64)> {
    let states = recovered.shards.iter().flat_map(|shard| &shard.checkpoint.partitions);
    let mut ends: Vec<_> = states.map(|state| (state.key, state.log_start, state.log_end)).collect();
    ends.sort_unstable();
    ends
}

fn seeds() -> Vec<Vec<u8>> {
    use millstream_storage::batch::{BatchBuilder, assign};

    let batch = |base_offset| {
        let mut batch = BatchBuilder::new().record(5, None, Some(b"value"), &[]).build();
        assign(&mut batch, base_offset, 0, None);
        Bytes::from(batch)
    };
    let bytes = checkpoint::partition(key(0)).segments[0].bytes;
    let second = batch(2);
    let body = |fill: &dyn Fn(&mut GroupBuilder)| {
        let mut builder = GroupBuilder::new();
        fill(&mut builder);
        builder.finish(&SALT, 0, GroupPlace { shard: SHARD, slot: 0, position: 0 }).concat().split_off(64)
    };
    let append = body(&|builder| {
        builder.append(key(0), 0, bytes, 1, vec![batch(1)]);
        builder.append(key(1), 1, 0, 1, vec![batch(1), second.clone()]);
        builder.log_start(key(1), 1);
    });
    // The bytes of an extent are in the segment: those of the sample's file are zeros.
    let length = second.len();
    let crc = crc32c::crc32c(&vec![0; length]);
    let position = bytes + batch(1).len() as u64;
    let extent = body(&|builder| {
        builder.extent(key(0), 0, position, 2, length as u32, crc, &second[..61]);
    });
    let journal = [&[3 << 3], &piece(&append)[..], &[(1 << 3) | 1], &piece(&extent)[..]].concat();
    // One log is cut behind its first batch, one keeps nothing, and both go on.
    let restarts = body(&|builder| {
        let cut =
            Restart { history: 1, keep_below: 1, begin_at: 1, position: bytes, max_timestamp: 5, skipped_epoch: -1 };
        builder.restart(key(0), &cut);
        builder.append(key(0), 1, 0, 1, vec![batch(1)]);
        builder.restart(key(1), &Restart { keep_below: 0, begin_at: 2, position: 0, ..cut });
        builder.append(key(1), 2, 0, 2, vec![batch(2)]);
    });
    let restarted = [&journal[..], &[4 << 3], &piece(&restarts)[..]].concat();
    let checkpoint = sound_checkpoint(vec![checkpoint::partition(key(0))]);
    vec![
        [&[0, 3], &append[..]].concat(),
        [&[0, 1], &extent[..]].concat(),
        [&[1], &journal[..]].concat(),
        [&[1], &journal[..], &[4, 0, 2, 7, 7]].concat(),
        [&[0, 4], &restarts[..]].concat(),
        [&[1], &restarted[..]].concat(),
        [&[2], &piece(&checkpoint)[..], &journal[..]].concat(),
    ]
}
