//! The journal's on-disk format: commit groups in a preallocated file, which is divided into a ring of slots.
//!
//! A group is what one shard appended in one turn, over all its partitions. It starts at a multiple of
//! [`BLOCK_BYTES`], is written by one direct write and is durable as a whole or not there. Its checksum covers the
//! generation's secret salt, its sequence number and its own place, so that a stale group, a group of another shard, a
//! group that landed in the wrong place, and bytes that a client made to look like a group are all told apart from the
//! real one. `docs/storage-format.md` has the layout.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::batch::BATCH_HEADER_BYTES;
use crate::block::{Block, BlockPool};
use crate::bug::{Bug, is_planted};
use crate::checkpoint::NUMBER_MAX;
use crate::compaction::Replacement;
use crate::disk::BLOCK_BYTES;
use crate::index::SEGMENT_BYTES_MAX;
use crate::{PartitionKey, TopicId};

/// `MSJG`, little-endian.
const GROUP_MAGIC: u32 = 0x474a_534d;
/// Version of the group format.
const GROUP_VERSION: u16 = 2;
/// The version before logs could be cut: the same without [`Entry::Restart`].
const UNCUT_VERSION: u16 = 1;
/// Bytes of a group's header.
pub const GROUP_HEADER_BYTES: usize = 64;
/// Bytes of an append entry before its data.
pub const APPEND_HEADER_BYTES: usize = 1 + 20 + 8 + 8 + 8 + 4;
/// Bytes of an extent entry before its batches' headers.
const EXTENT_HEADER_BYTES: usize = 1 + 20 + 8 + 8 + 8 + 4 + 4 + 4;
/// Bytes of an entry of a log start.
const LOG_START_BYTES: usize = 1 + 20 + 8;
/// Bytes of an entry of a compacted segment.
const REPLACEMENT_BYTES: usize = 1 + 20 + 8 + 8 + 8 + 4 + 8 + 8 + 8;
/// Bytes of an entry of a log that begins anew.
const RESTART_BYTES: usize = 1 + 20 + 8 + 8 + 8 + 8 + 8 + 4;
/// Where the checksum lies in the header; everything behind it is covered.
const CRC_POSITION: usize = 8;
const CRC_END: usize = CRC_POSITION + 4;

/// The random value that makes one generation's checksums differ from every other's.
pub type Salt = [u8; 16];

/// Whose journal it is, and where in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupPlace {
    /// The shard's index.
    pub shard: u16,
    /// The slot's index.
    pub slot: u32,
    /// Where the group starts in the slot, bytes.
    pub position: u64,
}

/// One thing that a group makes durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Whole batches appended to a segment, here in full.
    Append {
        /// The partition.
        key: PartitionKey,
        /// Base offset of the segment.
        segment: i64,
        /// Where in the segment the bytes belong.
        position: u64,
        /// Offset of the first record.
        base_offset: i64,
        /// The batches.
        data: Bytes,
    },
    /// Whole batches appended to a segment and already written there, durably, before this group counts.
    Extent {
        /// The partition.
        key: PartitionKey,
        /// Base offset of the segment.
        segment: i64,
        /// Where in the segment the bytes are.
        position: u64,
        /// Offset of the first record.
        base_offset: i64,
        /// How many bytes.
        bytes: u32,
        /// CRC-32C of the bytes, to tell whether the write arrived.
        crc: u32,
        /// The batches' headers, [`BATCH_HEADER_BYTES`] each: enough to replay all but the payload.
        headers: Bytes,
    },
    /// The log start offset moved up.
    LogStart {
        /// The partition.
        key: PartitionKey,
        /// The first offset that may be read from now on.
        offset: i64,
    },
    /// A compacted segment, which is durable, takes the place of others.
    Replaced {
        /// The partition.
        key: PartitionKey,
        /// The new segment and those that it takes the place of.
        replacement: Replacement,
    },
    /// The end of the log is cut off, and it goes on in a new segment.
    Restart {
        /// The partition.
        key: PartitionKey,
        /// What is cut, and where it goes on.
        restart: Restart,
    },
}

/// A log's end is cut off, and it goes on in a new segment: a truncation, a reset or a skip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// How often the log was restarted, this time included. A state that has the number already has the restart.
    pub history: u64,
    /// Records below stay, unless the log starts here or later: then none does, and it starts where it goes on. A batch
    /// begins here, or the log ends here.
    pub keep_below: i64,
    /// Where the log goes on: the base offset of the new segment.
    pub begin_at: i64,
    /// Where the last segment that stays ends from now on; it is the last that begins below `keep_below`. 0 if none stays.
    pub position: u64,
    /// The largest timestamp in that segment from now on, or -1.
    pub max_timestamp: i64,
    /// The leader epoch of what is left out between the two offsets: it starts at the first of them, unless the log knows it
    /// already. -1: none.
    pub skipped_epoch: i32,
}

impl Restart {
    /// What is true of every restart that is written.
    pub fn is_sound(&self) -> bool {
        let is_in_order = 0 <= self.keep_below && self.keep_below <= self.begin_at;
        let is_epoch = self.skipped_epoch == -1 || (self.skipped_epoch >= 0 && self.keep_below < self.begin_at);
        let is_possible = self.begin_at <= NUMBER_MAX as i64 && self.position <= SEGMENT_BYTES_MAX;
        is_in_order && is_epoch && self.history > 0 && is_possible
    }
}

impl Entry {
    /// The partition that it is of.
    pub fn key(&self) -> PartitionKey {
        match self {
            Entry::Append { key, .. }
            | Entry::Extent { key, .. }
            | Entry::LogStart { key, .. }
            | Entry::Replaced { key, .. }
            | Entry::Restart { key, .. } => *key,
        }
    }
}

const KIND_APPEND: u8 = 1;
const KIND_EXTENT: u8 = 2;
const KIND_LOG_START: u8 = 3;
const KIND_REPLACED: u8 = 4;
const KIND_RESTART: u8 = 5;

/// Appends up to this length are copied next to their entry; longer ones travel as slices of their own.
const COPY_BYTES_MAX: usize = 8192;

/// Blocks that headers and small appends are copied to. Those of one group are reused when it is written.
const COPY_BLOCK_BYTES: usize = 64 << 10;
/// Memory of such blocks, for the groups being written and being put together, in bytes: of what is more, none is kept.
const COPY_MEMORY_BYTES_MAX: usize = 10 << 20;

/// Puts groups together, one after the other. Data stays shared with the tail; only headers and small appends are copied.
pub struct GroupBuilder {
    /// Finished parts, without the group's header.
    parts: Vec<Bytes>,
    /// What is copied, from `start` on not yet made a part.
    block: Option<Block>,
    start: usize,
    pool: BlockPool,
    bytes: usize,
    entries: u32,
}

impl GroupBuilder {
    /// At an empty group.
    pub fn new() -> GroupBuilder {
        GroupBuilder {
            parts: Vec::new(),
            block: None,
            start: 0,
            pool: BlockPool::new(COPY_MEMORY_BYTES_MAX),
            bytes: GROUP_HEADER_BYTES,
            entries: 0,
        }
    }

    /// Length so far with the header, without the padding.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Adds an append of `data`, given as slices back to back.
    pub fn append(&mut self, key: PartitionKey, segment: i64, position: u64, base_offset: i64, data: Vec<Bytes>) {
        let data_bytes: usize = data.iter().map(Bytes::len).sum();
        assert!(data_bytes > 0 && base_offset >= segment, "batches lie in their segment");
        let mut fields = [0; APPEND_HEADER_BYTES];
        let mut rest = &mut fields[..];
        rest.put_u8(KIND_APPEND);
        put_key(&mut rest, key);
        rest.put_i64_le(segment);
        rest.put_u64_le(position);
        rest.put_i64_le(base_offset);
        rest.put_u32_le(u32::try_from(data_bytes).expect("a group is smaller than 4 GiB"));
        assert!(rest.is_empty());
        self.copy(&fields);
        for slice in data {
            if slice.len() <= COPY_BYTES_MAX {
                self.copy(&slice);
            } else {
                self.end_part();
                self.bytes += slice.len();
                self.parts.push(slice);
            }
        }
        self.entries += 1;
    }

    /// Adds bytes to the part under way.
    fn copy(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len();
        while !bytes.is_empty() {
            let spare = self.block.as_ref().map_or(0, Block::spare);
            if spare == 0 {
                self.end_part();
                let full = self.block.replace(self.pool.take(COPY_BLOCK_BYTES));
                full.into_iter().for_each(|full| self.pool.give(full));
                self.start = 0;
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(spare));
            self.block.as_mut().expect("it has room").append(now);
            bytes = later;
        }
    }

    /// Makes a part of what has been copied since the last.
    fn end_part(&mut self) {
        if let Some(block) = self.block.as_ref().filter(|block| block.len() > self.start) {
            self.parts.push(block.slice(self.start..block.len()));
            self.start = block.len();
        }
    }

    /// Memory kept for the next groups, in bytes.
    pub fn kept_bytes(&self) -> usize {
        self.pool.kept_bytes()
    }

    /// Frees blocks that no group needed since the last call. Call it at intervals.
    pub fn give_up_idle(&mut self) {
        self.pool.give_up_idle();
    }

    /// Adds an extent.
    #[allow(clippy::too_many_arguments, reason = "the fields of an entry, one by one")]
    pub fn extent(
        &mut self,
        key: PartitionKey,
        segment: i64,
        position: u64,
        base_offset: i64,
        bytes: u32,
        crc: u32,
        headers: &[u8],
    ) {
        assert!(!headers.is_empty() && headers.len().is_multiple_of(BATCH_HEADER_BYTES), "an extent holds batches");
        assert!(bytes as usize >= headers.len() && base_offset >= segment, "batches lie in their segment");
        let mut fields = [0; EXTENT_HEADER_BYTES];
        let mut rest = &mut fields[..];
        rest.put_u8(KIND_EXTENT);
        put_key(&mut rest, key);
        rest.put_i64_le(segment);
        rest.put_u64_le(position);
        rest.put_i64_le(base_offset);
        rest.put_u32_le(bytes);
        rest.put_u32_le(crc);
        rest.put_u32_le((headers.len() / BATCH_HEADER_BYTES) as u32);
        assert!(rest.is_empty());
        self.copy(&fields);
        self.copy(headers);
        self.entries += 1;
    }

    /// Adds a move of the log start offset.
    pub fn log_start(&mut self, key: PartitionKey, offset: i64) {
        let mut fields = [0; LOG_START_BYTES];
        let mut rest = &mut fields[..];
        rest.put_u8(KIND_LOG_START);
        put_key(&mut rest, key);
        rest.put_i64_le(offset);
        assert!(rest.is_empty());
        self.copy(&fields);
        self.entries += 1;
    }

    /// Adds a compacted segment.
    pub fn replaced(&mut self, key: PartitionKey, replacement: &Replacement) {
        assert!(replacement.from < replacement.until && replacement.version > 0, "it takes the place of something");
        let mut fields = [0; REPLACEMENT_BYTES];
        let mut rest = &mut fields[..];
        rest.put_u8(KIND_REPLACED);
        put_key(&mut rest, key);
        rest.put_i64_le(replacement.from);
        rest.put_i64_le(replacement.until);
        rest.put_i64_le(replacement.first_dirty);
        rest.put_u32_le(replacement.version);
        rest.put_u64_le(replacement.bytes);
        rest.put_i64_le(replacement.first_timestamp);
        rest.put_i64_le(replacement.max_timestamp);
        assert!(rest.is_empty());
        self.copy(&fields);
        self.entries += 1;
    }

    /// Adds a log that begins anew.
    pub fn restart(&mut self, key: PartitionKey, restart: &Restart) {
        assert!(restart.is_sound(), "recovery would refuse this: {restart:?}");
        let mut fields = [0; RESTART_BYTES];
        let mut rest = &mut fields[..];
        rest.put_u8(KIND_RESTART);
        put_key(&mut rest, key);
        rest.put_u64_le(restart.history);
        rest.put_i64_le(restart.keep_below);
        rest.put_i64_le(restart.begin_at);
        rest.put_u64_le(restart.position);
        rest.put_i64_le(restart.max_timestamp);
        rest.put_i32_le(restart.skipped_epoch);
        assert!(rest.is_empty());
        self.copy(&fields);
        self.entries += 1;
    }

    /// The group's bytes, to be written at its place; the disk pads the last block with zeros. The builder is at the next
    /// group then.
    pub fn finish(&mut self, salt: &Salt, sequence: u64, place: GroupPlace) -> Vec<Bytes> {
        assert!(place.position.is_multiple_of(BLOCK_BYTES as u64), "groups begin at a block");
        self.end_part();
        if let Some(block) = self.block.take() {
            self.pool.give(block);
        }
        let parts_bytes: usize = self.parts.iter().map(Bytes::len).sum();
        assert_eq!(GROUP_HEADER_BYTES + parts_bytes, self.bytes, "a group is as long as it says");
        let mut header = BytesMut::with_capacity(GROUP_HEADER_BYTES);
        header.put_u32_le(GROUP_MAGIC);
        header.put_u16_le(GROUP_VERSION);
        header.put_u16_le(place.shard);
        header.put_u32_le(0);
        header.put_u32_le(u32::try_from(self.bytes).expect("a group is smaller than 4 GiB"));
        header.put_u64_le(sequence);
        header.put_u64_le(place.position);
        header.put_u32_le(place.slot);
        header.put_u32_le(self.entries);
        header.resize(GROUP_HEADER_BYTES, 0);
        let mut crc = crc32c::crc32c_append(crc32c::crc32c(salt), &header[CRC_END..]);
        for part in &self.parts {
            crc = crc32c::crc32c_append(crc, part);
        }
        header[CRC_POSITION..CRC_END].copy_from_slice(&crc.to_le_bytes());
        let mut parts = Vec::with_capacity(self.parts.len() + 1);
        parts.push(header.freeze());
        parts.append(&mut self.parts);
        (self.start, self.bytes, self.entries) = (0, GROUP_HEADER_BYTES, 0);
        parts
    }
}

impl Default for GroupBuilder {
    fn default() -> Self {
        Self::new()
    }
}

/// A group found in a slot, checked against its checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its place in the order of groups; the next one's is one more.
    pub sequence: u64,
    /// Where it was found.
    pub place: GroupPlace,
    /// Of its format.
    version: u16,
    /// The bytes of its entries.
    body: Bytes,
    entries: u32,
}

/// A group whose checksum is right but whose entries make no sense: written by a faulty or newer version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

impl Group {
    /// Length in the slot with header and padding.
    pub fn padded_bytes(&self) -> u64 {
        (self.body.len() + GROUP_HEADER_BYTES).next_multiple_of(BLOCK_BYTES) as u64
    }

    /// The entries, in order.
    pub fn entries(&self) -> Result<Vec<Entry>, Malformed> {
        let mut body = self.body.clone();
        let mut entries = Vec::new();
        for index in 0..self.entries {
            let entry = read_entry(&mut body, self.version)
                .ok_or_else(|| Malformed(format!("entry {index} of journal group {} does not parse", self.sequence)))?;
            entries.push(entry);
        }
        if body.is_empty() {
            Ok(entries)
        } else {
            Err(Malformed(format!("journal group {} has bytes behind its last entry", self.sequence)))
        }
    }
}

/// How long the group at the front of these bytes says it is, without its padding; nothing is checked but that it could
/// be a group. For reading no more of it than there is.
pub fn claimed_bytes(front: &[u8]) -> Option<usize> {
    let mut header = front.get(..GROUP_HEADER_BYTES)?;
    (header.get_u32_le() == GROUP_MAGIC).then(|| {
        header.advance(8);
        header.get_u32_le() as usize
    })
}

/// The group at the front of a slot, if there is one.
pub fn first(front: &Bytes, salt: &Salt, shard: u16, slot: u32) -> Option<Group> {
    let place = GroupPlace { shard, slot, position: 0 };
    (front.len() >= GROUP_HEADER_BYTES).then(|| read_group(front.clone(), salt, place)).flatten()
}

/// All the groups in a slot's bytes that belong to this generation and place, in any order. Stale and torn ones among
/// them are for the caller to sort out by their sequence numbers.
pub fn scan(slot_bytes: &Bytes, salt: &Salt, shard: u16, slot: u32) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut position = 0;
    while position + GROUP_HEADER_BYTES <= slot_bytes.len() {
        let place = GroupPlace { shard, slot, position: position as u64 };
        match read_group(slot_bytes.slice(position..), salt, place) {
            Some(group) => {
                position += group.padded_bytes() as usize;
                groups.push(group);
            }
            None => position += BLOCK_BYTES,
        }
        assert!(position.is_multiple_of(BLOCK_BYTES), "groups begin at a block");
    }
    groups
}

fn read_group(bytes: Bytes, salt: &Salt, place: GroupPlace) -> Option<Group> {
    let mut header = &bytes[..GROUP_HEADER_BYTES];
    if header.get_u32_le() != GROUP_MAGIC {
        return None;
    }
    let version = header.get_u16_le();
    if !(UNCUT_VERSION..=GROUP_VERSION).contains(&version) || header.get_u16_le() != place.shard {
        return None;
    }
    let crc = header.get_u32_le();
    let length = header.get_u32_le() as usize;
    let sequence = header.get_u64_le();
    let position = header.get_u64_le();
    let slot = header.get_u32_le();
    let entries = header.get_u32_le();
    if slot != place.slot || position != place.position || length < GROUP_HEADER_BYTES || length > bytes.len() {
        return None;
    }
    let computed = crc32c::crc32c_append(crc32c::crc32c(salt), &bytes[CRC_END..length]);
    if computed != crc && !is_planted(Bug::SkipChecksum) {
        return None;
    }
    Some(Group { sequence, place, version, body: bytes.slice(GROUP_HEADER_BYTES..length), entries })
}

/// The next entry. None: it does not parse, or says what [`GroupBuilder`] never writes.
fn read_entry(body: &mut Bytes, version: u16) -> Option<Entry> {
    let kind = body.try_get_u8().ok()?;
    let key = get_key(body)?;
    match kind {
        KIND_APPEND => {
            let segment = body.try_get_i64_le().ok()?;
            let position = body.try_get_u64_le().ok()?;
            let base_offset = body.try_get_i64_le().ok()?;
            let bytes = body.try_get_u32_le().ok()? as usize;
            let is_sound = bytes > 0 && base_offset >= segment;
            (is_sound && bytes <= body.len()).then(|| Entry::Append {
                key,
                segment,
                position,
                base_offset,
                data: body.split_to(bytes),
            })
        }
        KIND_EXTENT => {
            let segment = body.try_get_i64_le().ok()?;
            let position = body.try_get_u64_le().ok()?;
            let base_offset = body.try_get_i64_le().ok()?;
            let bytes = body.try_get_u32_le().ok()?;
            let crc = body.try_get_u32_le().ok()?;
            let headers = (body.try_get_u32_le().ok()? as usize).checked_mul(BATCH_HEADER_BYTES)?;
            let is_sound = headers > 0 && bytes as usize >= headers && base_offset >= segment;
            (is_sound && headers <= body.len()).then(|| Entry::Extent {
                key,
                segment,
                position,
                base_offset,
                bytes,
                crc,
                headers: body.split_to(headers),
            })
        }
        KIND_LOG_START => Some(Entry::LogStart { key, offset: body.try_get_i64_le().ok()? }),
        KIND_REPLACED => {
            let replacement = Replacement {
                from: body.try_get_i64_le().ok()?,
                until: body.try_get_i64_le().ok()?,
                first_dirty: body.try_get_i64_le().ok()?,
                version: body.try_get_u32_le().ok()?,
                bytes: body.try_get_u64_le().ok()?,
                first_timestamp: body.try_get_i64_le().ok()?,
                max_timestamp: body.try_get_i64_le().ok()?,
            };
            let is_sound = replacement.from < replacement.until && replacement.version > 0;
            is_sound.then_some(Entry::Replaced { key, replacement })
        }
        KIND_RESTART if version > UNCUT_VERSION => {
            let restart = Restart {
                history: body.try_get_u64_le().ok()?,
                keep_below: body.try_get_i64_le().ok()?,
                begin_at: body.try_get_i64_le().ok()?,
                position: body.try_get_u64_le().ok()?,
                max_timestamp: body.try_get_i64_le().ok()?,
                skipped_epoch: body.try_get_i32_le().ok()?,
            };
            restart.is_sound().then_some(Entry::Restart { key, restart })
        }
        _ => None,
    }
}

/// Writes a partition's identity: topic id, then index.
pub(crate) fn put_key(buffer: &mut impl BufMut, key: PartitionKey) {
    buffer.put_slice(&key.topic_id.0);
    buffer.put_i32_le(key.partition);
}

/// Reads what [`put_key`] wrote.
pub(crate) fn get_key(bytes: &mut Bytes) -> Option<PartitionKey> {
    let mut topic_id = TopicId::default();
    bytes.try_copy_to_slice(&mut topic_id.0).ok()?;
    Some(PartitionKey { topic_id, partition: bytes.try_get_i32_le().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{frozen, testdata};

    const SALT: Salt = [9; 16];

    fn key(partition: i32) -> PartitionKey {
        PartitionKey { topic_id: TopicId([3; 16]), partition }
    }

    fn place(position: u64) -> GroupPlace {
        GroupPlace { shard: 1, slot: 2, position }
    }

    fn sample(sequence: u64, position: u64) -> Vec<u8> {
        let mut group = GroupBuilder::new();
        group.append(key(0), 0, 0, 0, vec![Bytes::from_static(b"small"), Bytes::from(vec![7; COPY_BYTES_MAX + 1])]);
        group.extent(key(1), 100, 4096, 120, 70_000, 0xdead_beef, &[5; 2 * BATCH_HEADER_BYTES]);
        group.log_start(key(2), 17);
        let length = group.bytes();
        let bytes = group.finish(&SALT, sequence, place(position)).concat();
        assert_eq!(bytes.len(), length);
        bytes
    }

    const REPLACEMENT: Replacement = Replacement {
        from: 3,
        until: 90,
        first_dirty: 80,
        version: 2,
        bytes: 70_000,
        first_timestamp: 1_000,
        max_timestamp: 2_000,
    };

    /// Found by fuzzing: behind a right checksum, entries that the builder would refuse.
    #[test]
    fn entries_that_are_never_written_do_not_parse() {
        let body = |fields: &[&[u8]]| {
            let mut body = vec![fields[0][0]];
            put_key(&mut body, key(0));
            fields[1..].iter().for_each(|field| body.extend_from_slice(field));
            Bytes::from(body)
        };
        let (zero, one) = (0i64.to_le_bytes(), 1i64.to_le_bytes());
        let headers = [5; BATCH_HEADER_BYTES];
        let few = (BATCH_HEADER_BYTES as u32).to_le_bytes();
        let append = |segment: &[u8], data: &[u8]| {
            body(&[&[KIND_APPEND], segment, &zero, &zero, &(data.len() as u32).to_le_bytes(), data])
        };
        let extent = |segment: &[u8], bytes: &[u8], headers: &[u8]| {
            let count = (headers.len() / BATCH_HEADER_BYTES) as u32;
            body(&[&[KIND_EXTENT], segment, &zero, &zero, bytes, &[0; 4], &count.to_le_bytes(), headers])
        };
        let replaced = |from: &[u8], until: &[u8], version: u32| {
            body(&[&[KIND_REPLACED], from, until, &zero, &version.to_le_bytes(), &zero, &zero, &zero])
        };
        for sound in [append(&zero, b"a"), extent(&zero, &few, &headers), replaced(&zero, &one, 1)] {
            let mut rest = sound.clone();
            assert!(read_entry(&mut rest, UNCUT_VERSION).is_some() && rest.is_empty(), "{sound:?}");
        }
        for refused in [
            append(&one, b"a"),
            append(&zero, b""),
            extent(&one, &few, &headers),
            extent(&zero, &few, b""),
            extent(&zero, &1u32.to_le_bytes(), &headers),
            replaced(&one, &one, 1),
            replaced(&zero, &one, 0),
        ] {
            assert_eq!(read_entry(&mut refused.clone(), GROUP_VERSION), None, "{refused:?}");
        }
    }

    #[test]
    fn a_replacement_comes_back_and_is_frozen() {
        let mut group = GroupBuilder::new();
        group.replaced(key(4), &REPLACEMENT);
        let bytes = group.finish(&SALT, 5, place(0)).concat();
        frozen("journal-replacement-v2.bin", &bytes);
        let before = std::fs::read(testdata("journal-replacement-v1.bin")).expect("it is there");
        for bytes in [bytes, before] {
            let groups = scan(&Bytes::from(padded(bytes)), &SALT, 1, 2);
            let entries = groups[0].entries().expect("parses");
            assert_eq!(entries, [Entry::Replaced { key: key(4), replacement: REPLACEMENT }]);
        }
    }

    const RESTART: Restart = Restart {
        history: 3,
        keep_below: 90,
        begin_at: 120,
        position: 70_000,
        max_timestamp: 1_700_000_000_000,
        skipped_epoch: 6,
    };

    #[test]
    fn a_restart_comes_back_and_is_frozen() {
        let mut group = GroupBuilder::new();
        group.restart(key(4), &RESTART);
        let bytes = group.finish(&SALT, 5, place(0)).concat();
        frozen("journal-restart-v2.bin", &bytes);
        let groups = scan(&Bytes::from(padded(bytes)), &SALT, 1, 2);
        assert_eq!(groups[0].entries(), Ok(vec![Entry::Restart { key: key(4), restart: RESTART }]));
    }

    #[test]
    fn restarts_that_are_never_written_do_not_parse() {
        let read = |restart: Restart, version| {
            let mut group = GroupBuilder::new();
            group.restart(key(4), &RESTART);
            let mut body = group.finish(&SALT, 5, place(0)).concat().split_off(GROUP_HEADER_BYTES);
            let fields = body.len() - RESTART_BYTES + 21;
            body.truncate(fields);
            body.extend_from_slice(&restart.history.to_le_bytes());
            body.extend_from_slice(&restart.keep_below.to_le_bytes());
            body.extend_from_slice(&restart.begin_at.to_le_bytes());
            body.extend_from_slice(&restart.position.to_le_bytes());
            body.extend_from_slice(&restart.max_timestamp.to_le_bytes());
            body.extend_from_slice(&restart.skipped_epoch.to_le_bytes());
            read_entry(&mut body.into(), version)
        };
        assert_eq!(read(RESTART, GROUP_VERSION), Some(Entry::Restart { key: key(4), restart: RESTART }));
        assert_eq!(read(RESTART, UNCUT_VERSION), None, "no version before had one");
        for refused in [
            Restart { history: 0, ..RESTART },
            Restart { keep_below: -1, ..RESTART },
            Restart { begin_at: RESTART.keep_below - 1, ..RESTART },
            Restart { begin_at: i64::MAX, ..RESTART },
            Restart { position: u64::MAX, ..RESTART },
            Restart { skipped_epoch: -2, ..RESTART },
            Restart { begin_at: RESTART.keep_below, ..RESTART },
        ] {
            assert_eq!(read(refused, GROUP_VERSION), None, "{refused:?}");
        }
    }

    fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        bytes
    }

    #[test]
    fn groups_come_back_as_they_were_written() {
        let first = padded(sample(41, 0));
        let mut slot = first.clone();
        slot.extend(padded(sample(42, first.len() as u64)));
        let groups = scan(&Bytes::from(slot), &SALT, 1, 2);
        assert_eq!(groups.iter().map(|group| group.sequence).collect::<Vec<_>>(), [41, 42]);
        let entries = groups[1].entries().expect("parses");
        let mut data = b"small".to_vec();
        data.extend(vec![7; COPY_BYTES_MAX + 1]);
        assert_eq!(
            entries,
            [
                Entry::Append { key: key(0), segment: 0, position: 0, base_offset: 0, data: data.into() },
                Entry::Extent {
                    key: key(1),
                    segment: 100,
                    position: 4096,
                    base_offset: 120,
                    bytes: 70_000,
                    crc: 0xdead_beef,
                    headers: Bytes::from(vec![5; 2 * BATCH_HEADER_BYTES]),
                },
                Entry::LogStart { key: key(2), offset: 17 },
            ]
        );
    }

    #[test]
    fn the_next_group_reuses_the_memory_of_the_last() {
        let mut builder = GroupBuilder::new();
        for sequence in 1..=10 {
            for partition in 0..100 {
                builder.append(key(partition), 0, 0, 0, vec![Bytes::from(vec![sequence as u8; 2_000])]);
            }
            let length = builder.bytes();
            let group = builder.finish(&SALT, sequence, place(0)).concat();
            assert_eq!(group.len(), length);
            let group = scan(&Bytes::from(padded(group)), &SALT, 1, 2).remove(0);
            assert_eq!(group.sequence, sequence);
            let entries = group.entries().expect("parses");
            assert_eq!(entries.len(), 100);
            let whole =
                |entry: &Entry| matches!(entry, Entry::Append { data, .. } if **data == [sequence as u8; 2_000]);
            assert!(entries.iter().all(whole), "also those that were cut between two blocks");
            assert!(builder.is_empty());
        }
        let fresh = builder.pool.stats().fresh;
        assert_eq!(fresh, 205_000_usize.div_ceil(COPY_BLOCK_BYTES) as u64);
        builder.give_up_idle();
        builder.give_up_idle();
        assert_eq!(builder.kept_bytes(), 0);
    }

    #[test]
    fn a_group_counts_only_in_its_own_place_and_generation() {
        let slot = Bytes::from(padded(sample(1, 0)));
        assert_eq!(scan(&slot, &SALT, 1, 2).len(), 1);
        assert!(scan(&slot, &[8; 16], 1, 2).is_empty(), "another generation");
        assert!(scan(&slot, &SALT, 0, 2).is_empty(), "another shard");
        assert!(scan(&slot, &SALT, 1, 3).is_empty(), "another slot");
        let mut moved = vec![0; BLOCK_BYTES];
        moved.extend_from_slice(&slot);
        assert!(scan(&moved.into(), &SALT, 1, 2).is_empty(), "another position");
    }

    #[test]
    fn a_torn_or_flipped_group_is_no_group() {
        let whole = sample(1, 0);
        for length in (0..whole.len()).step_by(512) {
            let mut torn = whole[..length].to_vec();
            torn.resize(whole.len().next_multiple_of(BLOCK_BYTES), 0);
            assert!(scan(&torn.into(), &SALT, 1, 2).is_empty(), "cut at {length}");
        }
        for bit in 0..whole.len() * 8 {
            let mut flipped = padded(whole.clone());
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(scan(&flipped.into(), &SALT, 1, 2).is_empty(), "bit {bit}");
        }
    }

    /// The format is frozen: data written by this version must be readable by every later one.
    #[test]
    fn frozen_bytes() {
        let bytes = sample(0x0102_0304_0506_0708, 0);
        frozen("journal-group-v2.bin", &bytes);
        let before = std::fs::read(testdata("journal-group-v1.bin")).expect("it is there");
        let [entries, entries_before] = [bytes, before].map(|bytes| {
            let groups = scan(&Bytes::from(padded(bytes)), &SALT, 1, 2);
            groups[0].entries().expect("parses")
        });
        assert_eq!(entries, entries_before, "but for the version they are the same");
    }
}
