//! The checkpoint file: everything a shard must know of its partitions that the journal no longer holds.
//!
//! One file a shard and generation, replaced atomically. Its checksum covers the generation's salt and the shard's
//! index, so that a checkpoint of another shard or generation is refused. `docs/storage-format.md` has the layout.

use bytes::{Buf, BufMut, Bytes};

use crate::disk::FilePath;
use crate::epochs::LeaderEpochs;
use crate::index::SparseIndex;
use crate::journal::{Salt, get_key, put_key};
use crate::partition_state::{PartitionState, PartitionView, SegmentState};
use crate::producer::ProducerStates;

/// `MSCP`, little-endian.
const CHECKPOINT_MAGIC: u32 = 0x5043_534d;
/// Version of the format.
const CHECKPOINT_VERSION: u16 = 3;
/// The version before logs could be cut: they have no history, and what was appended is committed.
const UNCUT_VERSION: u16 = 2;
/// The version before compaction: no segment has a version, and nothing was compacted.
const UNCOMPACTED_VERSION: u16 = 1;
const HEADER_BYTES: usize = 56;
const CRC_POSITION: usize = 8;
const CRC_END: usize = CRC_POSITION + 4;
/// A journal has no more slots.
const SLOTS_MAX: u32 = 1024;
/// No journal is longer, in bytes.
const JOURNAL_BYTES_MAX: u64 = 1 << 40;
/// Sequence numbers and offsets stay below, so that what is added to them does not overflow.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// What a checkpoint holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The shard's index.
    pub shard: u16,
    /// The generation's salt, which the journal's groups must carry too.
    pub salt: Salt,
    /// Journal groups up to and including this one are not needed any more.
    pub sequence: u64,
    /// Number and size of the journal's slots.
    pub slots: u32,
    /// Bytes of one slot.
    pub slot_bytes: u64,
    /// The shard's partitions.
    pub partitions: Vec<PartitionState>,
}

/// Why a checkpoint cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable(pub String);

/// The directory of a generation: all shards' journals and checkpoints since one start of the process.
pub fn generation_directory(generation: u64) -> String {
    format!("shards/gen-{generation:010}")
}

/// A shard's directory below its generation's.
pub fn shard_directory(generation_directory: &str, shard: usize) -> String {
    format!("{generation_directory}/shard-{shard}")
}

/// The checkpoint file in a shard's directory.
pub fn checkpoint_path(shard_directory: &str) -> FilePath {
    format!("{shard_directory}/checkpoint").into()
}

/// The journal in a shard's directory: its slots, one after the other.
pub fn journal_path(shard_directory: &str) -> FilePath {
    format!("{shard_directory}/journal").into()
}

/// What a checkpoint says of itself, before its partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointHeader {
    /// The shard's index.
    pub shard: u16,
    /// The generation's salt.
    pub salt: Salt,
    /// Journal groups up to and including this one are not needed any more.
    pub sequence: u64,
    /// Number of the journal's slots.
    pub slots: u32,
    /// Bytes of one slot.
    pub slot_bytes: u64,
}

/// Builds the file one partition after the other, so that no step takes long, however many there are.
#[derive(Debug)]
pub struct CheckpointBuilder {
    buffer: Vec<u8>,
    partitions: u32,
    /// The checksum of the partitions so far.
    crc: u32,
}

impl CheckpointBuilder {
    /// A file without partitions in an empty buffer. The buffer's capacity is about the file's length in the end: growing
    /// beyond it costs a copy.
    pub fn new(mut buffer: Vec<u8>) -> CheckpointBuilder {
        assert!(buffer.is_empty());
        buffer.resize(HEADER_BYTES, 0);
        CheckpointBuilder { buffer, partitions: 0, crc: 0 }
    }

    /// Adds a partition.
    pub fn partition(&mut self, partition: &PartitionView<'_>) {
        let start = self.buffer.len();
        put_partition(&mut self.buffer, partition);
        self.crc = crc32c::crc32c_append(self.crc, &self.buffer[start..]);
        self.partitions += 1;
    }

    /// Bytes so far.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The file's bytes.
    pub fn finish(mut self, header: &CheckpointHeader) -> Bytes {
        let mut head = Vec::with_capacity(HEADER_BYTES);
        head.put_u32_le(CHECKPOINT_MAGIC);
        head.put_u16_le(CHECKPOINT_VERSION);
        head.put_u16_le(header.shard);
        head.put_u32_le(0);
        head.put_u32_le(self.partitions);
        head.put_u64_le(header.sequence);
        head.put_u64_le(header.slot_bytes);
        head.put_u32_le(header.slots);
        head.put_u32_le(0);
        head.put_slice(&header.salt);
        assert_eq!(head.len(), HEADER_BYTES);
        assert!(self.buffer.len() >= HEADER_BYTES, "the header's place is there");
        let crc = crc32c::crc32c(&head[CRC_END..]);
        let crc = crc32c::crc32c_combine(crc, self.crc, self.buffer.len() - HEADER_BYTES);
        head[CRC_POSITION..CRC_END].copy_from_slice(&crc.to_le_bytes());
        self.buffer[..HEADER_BYTES].copy_from_slice(&head);
        Bytes::from(self.buffer)
    }
}

impl Checkpoint {
    /// The file's bytes, in one go.
    pub fn encode(&self) -> Bytes {
        let &Checkpoint { shard, salt, sequence, slots, slot_bytes, .. } = self;
        let mut builder = CheckpointBuilder::new(Vec::with_capacity(HEADER_BYTES + self.partitions.len() * 128));
        for partition in &self.partitions {
            builder.partition(&partition.view());
        }
        builder.finish(&CheckpointHeader { shard, salt, sequence, slots, slot_bytes })
    }

    /// Reads a file's bytes; `shard` is the one whose directory it was found in.
    pub fn decode(bytes: Bytes, shard: u16) -> Result<Checkpoint, Unusable> {
        let unusable = |why: &str| Unusable(format!("checkpoint of shard {shard}: {why}"));
        if bytes.len() < HEADER_BYTES {
            return Err(unusable("shorter than its header"));
        }
        let mut rest = bytes.clone();
        if rest.get_u32_le() != CHECKPOINT_MAGIC {
            return Err(unusable("not a checkpoint"));
        }
        let version = rest.get_u16_le();
        if !(UNCOMPACTED_VERSION..=CHECKPOINT_VERSION).contains(&version) {
            let known = format!("this program knows {UNCOMPACTED_VERSION} to {CHECKPOINT_VERSION}");
            return Err(unusable(&format!("format version {version}, {known}")));
        }
        let owner = rest.get_u16_le();
        let crc = rest.get_u32_le();
        if crc32c::crc32c(&bytes[CRC_END..]) != crc {
            return Err(unusable("checksum mismatch"));
        }
        if owner != shard {
            return Err(unusable(&format!("belongs to shard {owner}")));
        }
        let count = rest.get_u32_le();
        let sequence = rest.get_u64_le();
        let slot_bytes = rest.get_u64_le();
        let slots = rest.get_u32_le();
        rest.advance(4);
        let mut salt = Salt::default();
        rest.copy_to_slice(&mut salt);
        let journal_bytes = slot_bytes.checked_mul(u64::from(slots));
        if sequence > NUMBER_MAX || slots > SLOTS_MAX || journal_bytes.is_none_or(|bytes| bytes > JOURNAL_BYTES_MAX) {
            return Err(unusable("impossible sequence number or size of the journal"));
        }
        let mut partitions = Vec::new();
        for index in 0..count {
            let partition = get_partition(&mut rest, version)
                .ok_or_else(|| unusable(&format!("partition {index} does not parse")))?;
            partitions.push(partition);
        }
        if !rest.is_empty() {
            return Err(unusable("bytes behind the last partition"));
        }
        Ok(Checkpoint { shard, salt, sequence, slots, slot_bytes, partitions })
    }
}

fn put_partition(buffer: &mut Vec<u8>, partition: &PartitionView<'_>) {
    put_key(buffer, partition.key);
    buffer.put_i64_le(partition.log_start);
    buffer.put_i64_le(partition.log_end);
    buffer.put_i64_le(partition.first_dirty);
    buffer.put_u64_le(partition.history);
    buffer.put_i64_le(partition.committed);
    put_blob(buffer, |blob| partition.epochs.encode(blob));
    put_blob(buffer, |blob| partition.producers.encode(blob));
    buffer.put_u32_le(partition.segments.len() as u32);
    for segment in &partition.segments {
        buffer.put_i64_le(segment.base_offset);
        buffer.put_u32_le(segment.version);
        buffer.put_u64_le(segment.bytes);
        buffer.put_u64_le(segment.synced);
        buffer.put_i64_le(segment.first_timestamp);
        buffer.put_i64_le(segment.max_timestamp);
        buffer.put_u8(u8::from(segment.closed));
        buffer.put_u8(u8::from(segment.has_gaps));
        buffer.put_u8(u8::from(segment.index.is_some()));
        if let Some(index) = segment.index {
            put_blob(buffer, |blob| blob.extend_from_slice(&index.encode(partition.key)));
        }
    }
}

fn get_partition(bytes: &mut Bytes, version: u16) -> Option<PartitionState> {
    let (knows_compaction, knows_cuts) = (version > UNCOMPACTED_VERSION, version > UNCUT_VERSION);
    let key = get_key(bytes)?;
    let log_start = bytes.try_get_i64_le().ok()?;
    let log_end = bytes.try_get_i64_le().ok()?;
    let first_dirty = if knows_compaction { bytes.try_get_i64_le().ok()? } else { 0 };
    let history = if knows_cuts { bytes.try_get_u64_le().ok()? } else { 0 };
    let committed = if knows_cuts { bytes.try_get_i64_le().ok()? } else { log_end };
    let epochs = LeaderEpochs::decode(&mut &get_blob(bytes)?[..])?;
    let producers = ProducerStates::decode(&mut &get_blob(bytes)?[..])?;
    let count = bytes.try_get_u32_le().ok()?;
    let mut segments = Vec::new();
    for _ in 0..count {
        let base_offset = bytes.try_get_i64_le().ok()?;
        let segment_version = if knows_compaction { bytes.try_get_u32_le().ok()? } else { 0 };
        let segment = SegmentState {
            base_offset,
            version: segment_version,
            bytes: bytes.try_get_u64_le().ok()?,
            synced: bytes.try_get_u64_le().ok()?,
            first_timestamp: bytes.try_get_i64_le().ok()?,
            max_timestamp: bytes.try_get_i64_le().ok()?,
            closed: bytes.try_get_u8().ok()? != 0,
            has_gaps: if knows_cuts { bytes.try_get_u8().ok()? != 0 } else { segment_version > 0 },
            index: match bytes.try_get_u8().ok()? {
                0 => None,
                _ => Some(SparseIndex::decode(&get_blob(bytes)?, key, base_offset).ok()?),
            },
        };
        segments.push(segment);
    }
    let partition =
        PartitionState { key, log_start, log_end, first_dirty, history, committed, segments, epochs, producers };
    partition.view().is_sound().then_some(partition)
}

fn put_blob(buffer: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    buffer.put_u32_le(0);
    let start = buffer.len();
    fill(buffer);
    let bytes = u32::try_from(buffer.len() - start).expect("bounded by the caller");
    buffer[start - size_of::<u32>()..start].copy_from_slice(&bytes.to_le_bytes());
}

fn get_blob(bytes: &mut Bytes) -> Option<Bytes> {
    let length = bytes.try_get_u32_le().ok()? as usize;
    (length <= bytes.len()).then(|| bytes.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchBuilder, BatchHeader};
    use crate::testing::{assert_survives_mutation, frozen};
    use crate::{PartitionKey, TopicId};

    fn sample() -> Checkpoint {
        let key = PartitionKey { topic_id: TopicId([4; 16]), partition: 3 };
        let mut partition = PartitionState::empty(key, 4096);
        partition.log_start = 5;
        partition.log_end = 12;
        partition.history = 2;
        partition.committed = 9;
        partition.epochs.assign(2, 0);
        let batch = BatchBuilder::new().producer(77, 1, 0).record(1_700_000_000_000, None, Some(b"value"), &[]).build();
        let header = BatchHeader::read(&batch).expect("built");
        partition.producers.record(header, 1_700_000_000_000, 0);
        let segment = &mut partition.segments[0];
        segment.index.as_mut().expect("open").note(header, 0);
        segment.bytes = batch.len() as u64;
        segment.synced = 40;
        segment.first_timestamp = 1;
        segment.max_timestamp = 2;
        let closed = SegmentState { closed: true, index: None, bytes: 9, synced: 9, ..SegmentState::empty(-1, 1) };
        let closed = SegmentState { version: 7, has_gaps: true, ..closed };
        partition.first_dirty = -1;
        partition.segments.insert(0, closed);
        Checkpoint { shard: 1, salt: [6; 16], sequence: 99, slots: 8, slot_bytes: 1 << 20, partitions: vec![partition] }
    }

    #[test]
    fn comes_back_as_it_was_and_is_frozen() {
        let checkpoint = sample();
        let bytes = checkpoint.encode();
        assert_eq!(Checkpoint::decode(bytes.clone(), 1), Ok(checkpoint));
        assert!(Checkpoint::decode(bytes.clone(), 2).is_err(), "another shard's");
        frozen("checkpoint-v3.bin", &bytes);
    }

    fn read(name: &str) -> Bytes {
        std::fs::read(crate::testing::testdata(name)).expect("it is there").into()
    }

    #[test]
    fn what_was_written_before_logs_could_be_cut_is_read() {
        let mut expected = sample();
        expected.partitions[0].history = 0;
        expected.partitions[0].committed = 12;
        assert_eq!(Checkpoint::decode(read("checkpoint-v2.bin"), 1), Ok(expected));
    }

    #[test]
    fn what_was_written_before_compaction_is_read() {
        let mut expected = sample();
        expected.partitions[0].history = 0;
        expected.partitions[0].committed = 12;
        expected.partitions[0].first_dirty = 0;
        expected.partitions[0].segments[0].version = 0;
        expected.partitions[0].segments[0].has_gaps = false;
        assert_eq!(Checkpoint::decode(read("checkpoint-v1.bin"), 1), Ok(expected));
    }

    /// Found by fuzzing: what recovery calculates with these overflowed.
    #[test]
    fn what_no_shard_writes_is_refused() {
        let refused = |change: &dyn Fn(&mut Checkpoint)| {
            let mut checkpoint = sample();
            change(&mut checkpoint);
            assert!(Checkpoint::decode(checkpoint.encode(), 1).is_err(), "{checkpoint:?}");
        };
        refused(&|checkpoint| checkpoint.sequence = u64::MAX);
        refused(&|checkpoint| checkpoint.slots = u32::MAX);
        refused(&|checkpoint| checkpoint.slot_bytes = u64::MAX);
        refused(&|checkpoint| checkpoint.partitions[0].log_end = i64::MAX);
        refused(&|checkpoint| checkpoint.partitions[0].log_start = 13);
        refused(&|checkpoint| checkpoint.partitions[0].log_start = -1);
        refused(&|checkpoint| checkpoint.partitions[0].log_end = 0);
        refused(&|checkpoint| checkpoint.partitions[0].committed = 4);
        refused(&|checkpoint| checkpoint.partitions[0].committed = 13);
        refused(&|checkpoint| checkpoint.partitions[0].history = u64::MAX);
        refused(&|checkpoint| checkpoint.partitions[0].segments[0].closed = false);
        refused(&|checkpoint| checkpoint.partitions[0].first_dirty = 1);
        refused(&|checkpoint| checkpoint.partitions[0].segments[1].version = 1);
        refused(&|checkpoint| checkpoint.partitions[0].segments[1].bytes += 1);
        refused(&|checkpoint| checkpoint.partitions[0].segments[0].synced = 10);
        refused(&|checkpoint| checkpoint.partitions[0].segments[0].bytes = u64::MAX);
        refused(&|checkpoint| checkpoint.partitions[0].segments.reverse());
        refused(&|checkpoint| checkpoint.partitions[0].segments.clear());
    }

    #[test]
    fn damage_is_noticed() {
        let good = sample().encode();
        for bit in 0..good.len() * 8 {
            let mut flipped = good.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Checkpoint::decode(flipped.into(), 1).is_err(), "bit {bit}");
        }
        assert_survives_mutation(&good, |bytes| {
            // With a right checksum the decoder itself has to cope.
            let mut bytes = bytes.to_vec();
            if bytes.len() > HEADER_BYTES {
                let crc = crc32c::crc32c(&bytes[CRC_END..]);
                bytes[CRC_POSITION..CRC_END].copy_from_slice(&crc.to_le_bytes());
            }
            let _ = Checkpoint::decode(bytes.into(), 1);
        });
    }
}
