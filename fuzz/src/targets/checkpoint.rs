//! A checkpoint file and what lies inside it. The first byte chooses: index, producers, leader epochs, the whole file.

use bytes::Bytes;
use millstream_storage::batch::{BatchBuilder, BatchHeader};
use millstream_storage::checkpoint::Checkpoint;
use millstream_storage::epochs::LeaderEpochs;
use millstream_storage::index::SparseIndex;
use millstream_storage::partition_state::PartitionState;
use millstream_storage::producer::ProducerStates;
use millstream_storage::{PartitionKey, TopicId};

use crate::Target;
use crate::memory::{BASE_BYTES, bounded};

pub const TARGET: Target = Target { name: "checkpoint", run, seeds };

/// A producer with one batch takes 43 bytes in the file, and in memory 160 and its part of a map's node.
const MEMORY_PER_BYTE: usize = 16;

const KEY: PartitionKey = PartitionKey { topic_id: TopicId([3; 16]), partition: 1 };

fn run(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let bytes_max = BASE_BYTES + MEMORY_PER_BYTE * bytes.len();
    match choice % 4 {
        0 => {
            // With and without a checksum that is right.
            let sealed = [bytes, &crc32c::crc32c(bytes).to_le_bytes()].concat();
            for bytes in [bytes, &sealed] {
                if let Ok(index) = bounded(bytes_max, || SparseIndex::decode(bytes, KEY, 100)) {
                    check_index(index, 100);
                }
            }
        }
        1 => {
            let mut rest = bytes;
            if let Some(states) = bounded(bytes_max, || ProducerStates::decode(&mut rest)) {
                check_producers(states, rest);
            }
        }
        2 => {
            if let Some(epochs) = bounded(bytes_max, || LeaderEpochs::decode(&mut &bytes[..])) {
                check_epochs(epochs);
            }
        }
        _ => {
            for file in [bytes.to_vec(), seal(bytes)] {
                let file = Bytes::from(file);
                if let Ok(checkpoint) = bounded(bytes_max, || Checkpoint::decode(file, 1)) {
                    check_checkpoint(checkpoint);
                }
            }
        }
    }
}

/// A checkpoint file of these bytes, with a checksum that is right.
pub(super) fn seal(bytes: &[u8]) -> Vec<u8> {
    let mut file = bytes.to_vec();
    if file.len() >= 12 {
        let crc = crc32c::crc32c(&file[12..]);
        file[8..12].copy_from_slice(&crc.to_le_bytes());
    }
    file
}

fn check_index(mut index: SparseIndex, base_offset: i64) {
    assert_eq!(SparseIndex::decode(&index.encode(KEY), KEY, base_offset).as_ref(), Ok(&index));
    for query in [i64::MIN, 0, 101, i64::MAX] {
        assert!(index.lookup_offset(query).position <= index.covered_bytes());
        assert!(index.lookup_time(query).position <= index.covered_bytes());
    }
    let batch = BatchBuilder::new().record(5, None, None, &[]).build();
    index.note(BatchHeader::read(&batch).expect("a whole batch"), index.covered_bytes());
}

fn check_producers(mut states: ProducerStates, rest: &[u8]) {
    let mut again = Vec::new();
    states.encode(&mut again);
    assert_eq!(ProducerStates::decode(&mut &again[..]).as_ref(), Some(&states));
    if let Some(header) = BatchHeader::read(rest) {
        let _ = states.check(header);
    }
    for end in [states.end_offset(), 5, 0] {
        states.truncate(end);
        assert!(states.end_offset() <= end);
        let mut again = Vec::new();
        states.encode(&mut again);
        assert_eq!(ProducerStates::decode(&mut &again[..]).as_ref(), Some(&states));
    }
    states.expire(0, 1);
}

fn check_epochs(mut epochs: LeaderEpochs) {
    let mut again = Vec::new();
    epochs.encode(&mut again);
    assert_eq!(LeaderEpochs::decode(&mut &again[..]).as_ref(), Some(&epochs));
    for epoch in [-1, 0, 3, i32::MAX] {
        let _ = (epochs.end_offset(epoch, i64::MAX), epochs.epoch_of(i64::from(epoch)));
    }
    if epochs.latest() < i32::MAX {
        let led = epochs.latest().max(0) + 1;
        assert_eq!(epochs.lead(led, 1 << 40), 1 << 40);
        assert_eq!(epochs.end_offset(led, 1 << 40), (led, 1 << 40));
        let _ = epochs.end_offset(led - 1, 1 << 40);
    }
    epochs.truncate_start(5);
    epochs.truncate_end(9);
}

fn check_checkpoint(checkpoint: Checkpoint) {
    let again = Checkpoint::decode(checkpoint.encode(), checkpoint.shard);
    assert_eq!(again.as_ref(), Ok(&checkpoint));
    for partition in checkpoint.partitions {
        check_epochs(partition.epochs);
        check_producers(partition.producers, &[]);
    }
}

/// A checkpoint with all of its parts.
pub(super) fn sample(partitions: Vec<PartitionState>) -> Checkpoint {
    Checkpoint { shard: 1, salt: [9; 16], sequence: 40, slots: 4, slot_bytes: 1 << 16, partitions }
}

/// What the version before wrote: producers without an epoch for each batch.
const PRODUCERS_BEFORE: &[u8] = include_bytes!("../../../storage/testdata/producer-states-v1.bin");

/// The state of a partition that holds one batch, and its segment's bytes.
pub(super) fn partition(key: PartitionKey) -> PartitionState {
    let batch = BatchBuilder::new().producer(7, 0, 0).record(5, None, Some(b"value"), &[]).build();
    let header = BatchHeader::read(&batch).expect("a whole batch");
    let mut state = PartitionState::empty(key, 1);
    let segment = state.segments.last_mut().expect("never empty");
    segment.index.as_mut().expect("an open segment has one").note(header, 0);
    segment.bytes = batch.len() as u64;
    segment.first_timestamp = 5;
    segment.max_timestamp = 5;
    state.producers.record(header, 5, 0);
    state.epochs.assign(0, 0);
    state.log_end = 1;
    state
}

fn seeds() -> Vec<Vec<u8>> {
    let state = partition(KEY);
    let batch = BatchBuilder::new().record(5, None, None, &[]).build();
    let header = BatchHeader::read(&batch).expect("a whole batch");
    let mut index = SparseIndex::new(100, 1);
    for position in 0..3 {
        index.note(header, position * batch.len() as u64);
    }
    let index = index.encode(KEY);
    let (mut producers, mut epochs) = (vec![1], vec![2]);
    state.producers.encode(&mut producers);
    producers.extend(&batch);
    state.epochs.encode(&mut epochs);
    vec![
        [&[0], &index[..index.len() - 4]].concat(),
        producers,
        [&[1], PRODUCERS_BEFORE].concat(),
        epochs,
        [&[3], &include_bytes!("../../../storage/testdata/checkpoint-v2.bin")[..]].concat(),
        [&[3], &sample(vec![state]).encode()[..]].concat(),
        [&[3], &sample(Vec::new()).encode()[..]].concat(),
    ]
}
