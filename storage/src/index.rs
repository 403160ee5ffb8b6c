//! The sparse index of one segment: where to begin looking for an offset or a time. Kafka's offset index and time index in
//! one.
//!
//! In memory while the segment exists, at most [`INDEX_ENTRIES_MAX`] entries; written beside the segment when it is
//! closed. It only shortens a search: losing it costs a walk over the segment's batch headers, which feeds
//! [`SparseIndex::note`] again. File format (numbers little-endian): `docs/storage-format.md`.

use bytes::Bytes;

use crate::PartitionKey;
use crate::batch::BatchHeader;

/// Entries of one segment's index, 16 bytes each. When it is full, every second one goes and the interval doubles: a
/// segment of 1 GiB ends with an entry for every 512 KiB or less.
pub const INDEX_ENTRIES_MAX: usize = 4_096;

/// The largest index file that is read, in bytes; a larger one is none of ours, and is made anew.
pub(crate) const INDEX_FILE_BYTES_MAX: usize = 1 << 20;

const MAGIC: &[u8; 4] = b"MSIX";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 80;
const ENTRY_BYTES: usize = 16;
const CRC_BYTES: usize = 4;
/// No segment is longer, in bytes: positions in it are 32 bits wide.
pub(crate) const SEGMENT_BYTES_MAX: u64 = u32::MAX as u64;

/// The timestamp of a segment that has no batch yet: below every other.
const NO_TIMESTAMP_YET: i64 = i64::MIN;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// Base offset of the batch at `position`, after the segment's.
    relative_offset: u32,
    /// Where the batch begins in the segment file.
    position: u32,
    /// The largest timestamp of all batches before this one.
    max_timestamp_before: i64,
}

impl Entry {
    /// Whether the other may come next.
    fn precedes(&self, next: &Entry) -> bool {
        self.relative_offset < next.relative_offset
            && self.position < next.position
            && self.max_timestamp_before <= next.max_timestamp_before
    }
}

/// The batch with a segment's largest timestamp, the first if several have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxTimestamp {
    /// The timestamp, as the batch's header declares it, in milliseconds.
    pub timestamp: i64,
    /// Where the batch begins in the segment file; 0 if the segment was cut since, and it is not known any more.
    pub position: u64,
}

/// A batch from which a search goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Where it begins in the segment file.
    pub position: u64,
    /// Its base offset.
    pub base_offset: i64,
}

/// The index of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SparseIndex {
    base_offset: i64,
    interval_bytes: u32,
    covered_bytes: u64,
    last_offset: i64,
    max: MaxTimestamp,
    entries: Vec<Entry>,
}

/// Why an index file is not used. The index is rebuilt from the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexError {
    /// The file is cut short, longer than it says, or its checksum is wrong.
    Damaged,
    /// The file was written by another version.
    Version(u32),
    /// The file belongs to another partition or segment.
    Foreign,
}

impl std::fmt::Display for IndexError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            IndexError::Damaged => write!(f, "the index file is damaged"),
            IndexError::Version(version) => {
                write!(f, "the index file has version {version}, not {VERSION}")
            }
            IndexError::Foreign => write!(f, "the index file belongs to another segment"),
        }
    }
}

impl std::error::Error for IndexError {}

impl SparseIndex {
    /// The index of an empty segment that begins at `base_offset`, with an entry for every `interval_bytes`
    /// (`index.interval.bytes`) or so.
    pub fn new(base_offset: i64, interval_bytes: u32) -> SparseIndex {
        SparseIndex {
            base_offset,
            interval_bytes: interval_bytes.max(1),
            covered_bytes: 0,
            last_offset: base_offset.saturating_sub(1),
            max: MaxTimestamp { timestamp: NO_TIMESTAMP_YET, position: 0 },
            entries: Vec::new(),
        }
    }

    /// Takes note of the next batch of the segment, which begins at `position` bytes. Batches come in order; one that was
    /// noted before is passed over.
    pub fn note(&mut self, header: &BatchHeader, position: u64) {
        let Ok(bytes) = header.batch_bytes() else {
            return;
        };
        if position < self.covered_bytes {
            return;
        }
        let indexed_to = self.entries.last().map_or(0, |entry| u64::from(entry.position));
        if position - indexed_to >= u64::from(self.interval_bytes)
            && let Ok(relative_offset) = u32::try_from(header.base_offset().saturating_sub(self.base_offset))
            && let Ok(position) = u32::try_from(position)
        {
            self.add(Entry { relative_offset, position, max_timestamp_before: self.max.timestamp });
        }
        if header.max_timestamp() > self.max.timestamp || self.covered_bytes == 0 {
            self.max = MaxTimestamp { timestamp: header.max_timestamp(), position };
        }
        self.last_offset = header.last_offset();
        self.covered_bytes = position + bytes as u64;
        assert!(self.max.position < self.covered_bytes, "the largest timestamp is that of a batch noted");
    }

    /// The index of a segment of this length of which nothing is known but its ends: every search in it begins at its start.
    pub(crate) fn of_unknown(
        base_offset: i64,
        interval_bytes: u32,
        bytes: u64,
        last_offset: i64,
        max_timestamp: i64,
    ) -> SparseIndex {
        assert!(bytes > 0 && last_offset >= base_offset, "the segment has batches");
        let max = MaxTimestamp { timestamp: max_timestamp, position: 0 };
        let empty = SparseIndex::new(base_offset, interval_bytes);
        SparseIndex { covered_bytes: bytes, last_offset, max, ..empty }
    }

    /// The segment is cut: a batch, whose offset is above `last_offset`, began at `position` and is gone with all behind it.
    /// The largest timestamp before it is `max_timestamp`. `false` if the index does not fit that: it is of no use then.
    pub(crate) fn cut(&mut self, position: u64, last_offset: i64, max_timestamp: i64) -> bool {
        if position > self.covered_bytes {
            return false;
        }
        let kept = self.entries.partition_point(|entry| u64::from(entry.position) < position);
        self.entries.truncate(kept);
        if self.max.position >= position || self.max.timestamp != max_timestamp {
            self.max = MaxTimestamp { timestamp: max_timestamp, position: 0 };
        }
        (self.covered_bytes, self.last_offset) = (position, last_offset);
        self.is_sound()
    }

    /// A timestamp that all batches before the one at [`SparseIndex::lookup_offset`] of `offset` stay within.
    pub(crate) fn max_timestamp_before(&self, offset: i64) -> i64 {
        let relative = offset.saturating_sub(self.base_offset);
        let after = self.entries.partition_point(|entry| i64::from(entry.relative_offset) <= relative);
        after.checked_sub(1).map_or(NO_TIMESTAMP_YET, |index| self.entries[index].max_timestamp_before)
    }

    fn add(&mut self, entry: Entry) {
        if self.entries.len() == INDEX_ENTRIES_MAX {
            let mut index = 0;
            self.entries.retain(|_| {
                index += 1;
                index % 2 == 0
            });
            self.interval_bytes = self.interval_bytes.saturating_mul(2);
        }
        assert!(self.entries.len() < INDEX_ENTRIES_MAX, "a full index was thinned out");
        assert!(self.entries.last().is_none_or(|last| last.precedes(&entry)), "entries ascend: {entry:?}");
        self.entries.push(entry);
    }

    /// How many bytes of the segment the index knows: where the last batch noted ends.
    pub fn covered_bytes(&self) -> u64 {
        self.covered_bytes
    }

    /// Memory that the entries take.
    pub fn memory_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
    }

    /// Offset of the last record noted; one below the segment's base offset if there is none.
    pub fn last_offset(&self) -> i64 {
        self.last_offset
    }

    /// The batch with the largest timestamp, if any batch was noted.
    pub fn max_timestamp(&self) -> Option<MaxTimestamp> {
        (self.covered_bytes > 0).then_some(self.max)
    }

    /// A batch that lies at or before the one with `offset`: the search goes on from there.
    pub fn lookup_offset(&self, offset: i64) -> Start {
        let relative = offset.saturating_sub(self.base_offset);
        let after = self.entries.partition_point(|entry| i64::from(entry.relative_offset) <= relative);
        self.start_before(after)
    }

    /// A batch that lies at or before the first with a timestamp of at least this one (milliseconds): the search goes
    /// on from there.
    pub fn lookup_time(&self, timestamp: i64) -> Start {
        let after = self.entries.partition_point(|entry| entry.max_timestamp_before < timestamp);
        self.start_before(after)
    }

    fn start_before(&self, after: usize) -> Start {
        match after.checked_sub(1).and_then(|index| self.entries.get(index)) {
            None => Start { position: 0, base_offset: self.base_offset },
            Some(entry) => Start {
                position: u64::from(entry.position),
                base_offset: self.base_offset.saturating_add(i64::from(entry.relative_offset)),
            },
        }
    }

    /// The index file of this segment of a partition.
    pub fn encode(&self, key: PartitionKey) -> Bytes {
        assert!(self.is_sound(), "this would be refused when it is read: {self:?}");
        let mut out = Vec::with_capacity(HEADER_BYTES + self.entries.len() * ENTRY_BYTES + CRC_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&key.topic_id.0);
        out.extend_from_slice(&key.partition.to_le_bytes());
        out.extend_from_slice(&self.interval_bytes.to_le_bytes());
        out.extend_from_slice(&self.base_offset.to_le_bytes());
        out.extend_from_slice(&self.last_offset.to_le_bytes());
        out.extend_from_slice(&self.covered_bytes.to_le_bytes());
        out.extend_from_slice(&self.max.timestamp.to_le_bytes());
        out.extend_from_slice(&self.max.position.to_le_bytes());
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        // The rest of the header is reserved.
        out.resize(HEADER_BYTES, 0);
        for entry in &self.entries {
            out.extend_from_slice(&entry.relative_offset.to_le_bytes());
            out.extend_from_slice(&entry.position.to_le_bytes());
            out.extend_from_slice(&entry.max_timestamp_before.to_le_bytes());
        }
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        Bytes::from(out)
    }

    /// Reads an index file back and makes sure that it belongs to this segment of this partition.
    pub fn decode(bytes: &[u8], key: PartitionKey, base_offset: i64) -> Result<SparseIndex, IndexError> {
        let (contents, crc) = bytes.split_last_chunk::<CRC_BYTES>().ok_or(IndexError::Damaged)?;
        if u32::from_le_bytes(*crc) != crc32c::crc32c(contents) {
            return Err(IndexError::Damaged);
        }
        let (header, entries) = contents.split_first_chunk::<HEADER_BYTES>().ok_or(IndexError::Damaged)?;
        if header[..4] != *MAGIC {
            return Err(IndexError::Damaged);
        }
        let version = u32::from_le_bytes(field(header, 4));
        if version != VERSION {
            return Err(IndexError::Version(version));
        }
        let index = SparseIndex {
            interval_bytes: u32::from_le_bytes(field(header, 28)),
            base_offset: i64::from_le_bytes(field(header, 32)),
            last_offset: i64::from_le_bytes(field(header, 40)),
            covered_bytes: u64::from_le_bytes(field(header, 48)),
            max: MaxTimestamp {
                timestamp: i64::from_le_bytes(field(header, 56)),
                position: u64::from_le_bytes(field(header, 64)),
            },
            entries: decode_entries(entries, u32::from_le_bytes(field(header, 72)))?,
        };
        if header[8..24] != key.topic_id.0
            || i32::from_le_bytes(field(header, 24)) != key.partition
            || index.base_offset != base_offset
        {
            return Err(IndexError::Foreign);
        }
        if index.is_sound() { Ok(index) } else { Err(IndexError::Damaged) }
    }

    /// What is true of every index that was noted batch by batch; that entries ascend is checked one by one.
    fn is_sound(&self) -> bool {
        let SparseIndex { base_offset, interval_bytes, covered_bytes, last_offset, max, ref entries } = *self;
        let is_last_noted = entries.last().is_none_or(|entry| {
            u64::from(entry.position) < covered_bytes
                && base_offset.saturating_add(i64::from(entry.relative_offset)) <= last_offset
                && entry.max_timestamp_before <= max.timestamp
        });
        interval_bytes > 0
            && covered_bytes <= SEGMENT_BYTES_MAX
            && max.position <= covered_bytes
            && entries.len() <= INDEX_ENTRIES_MAX
            && is_last_noted
    }
}

fn field<const BYTES: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; BYTES] {
    let mut value = [0; BYTES];
    value.copy_from_slice(&header[at..at + BYTES]);
    value
}

fn decode_entries(bytes: &[u8], count: u32) -> Result<Vec<Entry>, IndexError> {
    let count = usize::try_from(count)
        .ok()
        .filter(|count| *count <= INDEX_ENTRIES_MAX && *count * ENTRY_BYTES == bytes.len())
        .ok_or(IndexError::Damaged)?;
    let mut entries: Vec<Entry> = Vec::with_capacity(count);
    let (chunks, _) = bytes.as_chunks::<ENTRY_BYTES>();
    for chunk in chunks {
        let bits = u128::from_le_bytes(*chunk);
        let entry = Entry {
            relative_offset: bits as u32,
            position: (bits >> 32) as u32,
            max_timestamp_before: (bits >> 64) as u64 as i64,
        };
        if entries.last().is_some_and(|last| !last.precedes(&entry)) {
            return Err(IndexError::Damaged);
        }
        entries.push(entry);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TopicId;
    use crate::batch::{BatchBuilder, assign};
    use crate::random::Random;
    use crate::testing::{assert_survives_mutation, frozen};

    const KEY: PartitionKey = PartitionKey { topic_id: TopicId([9; 16]), partition: 3 };

    /// (base offset, position, max timestamp) of every batch put into an index.
    type Noted = Vec<(i64, u64, i64)>;

    fn filled(seed: u64, batches: usize, interval_bytes: u32) -> (SparseIndex, Noted) {
        let mut random = Random::new(seed);
        let mut index = SparseIndex::new(1_000, interval_bytes);
        let mut noted = Noted::new();
        let (mut offset, mut position) = (1_000, 0);
        for number in 0..batches {
            let timestamp = 10 * number as i64 + random.below(100) as i64;
            let mut builder = BatchBuilder::new();
            for _ in 0..=random.below(3) {
                builder = builder.record(timestamp, None, Some(&[0; 20]), &[]);
            }
            let mut bytes = builder.build();
            assign(&mut bytes, offset, 0, None);
            let header = BatchHeader::read(&bytes).unwrap();
            index.note(header, position);
            noted.push((offset, position, timestamp));
            offset = header.last_offset() + 1;
            position += bytes.len() as u64;
        }
        (index, noted)
    }

    fn assert_lookups(index: &SparseIndex, noted: &Noted) {
        let end = noted.last().map_or(1_000, |last| last.0) + 10;
        for offset in 1_000..end {
            let containing = noted.iter().rev().find(|batch| batch.0 <= offset).unwrap().1;
            let found = index.lookup_offset(offset).position;
            assert!(found <= containing);
            assert!(noted.iter().any(|batch| batch.1 == found), "a batch begins there");
        }
        for timestamp in -1..10 * noted.len() as i64 + 200 {
            let found = index.lookup_time(timestamp).position;
            if let Some(first) = noted.iter().find(|batch| batch.2 >= timestamp) {
                assert!(found <= first.1);
            }
        }
        let max = noted.iter().map(|batch| batch.2).max().unwrap();
        let first = noted.iter().find(|batch| batch.2 == max).unwrap();
        assert_eq!(index.max_timestamp(), Some(MaxTimestamp { timestamp: max, position: first.1 }));
    }

    #[test]
    fn searches_begin_at_or_before_what_they_look_for() {
        for seed in 0..20 {
            println!("seed {seed}");
            let (index, noted) = filled(seed, 200, 300);
            assert!(index.entries.len() > 20, "it has entries at all");
            assert_lookups(&index, &noted);
            // Close, too: an interval and a batch at most.
            for batch in &noted {
                assert!(batch.1 - index.lookup_offset(batch.0).position <= 300 + 200);
            }
        }
    }

    #[test]
    fn a_full_index_thins_itself_out() {
        let (index, noted) = filled(1, INDEX_ENTRIES_MAX * 3, 1);
        assert!(index.entries.len() <= INDEX_ENTRIES_MAX);
        assert!(index.entries.len() > INDEX_ENTRIES_MAX / 4);
        assert!(index.interval_bytes > 1);
        for batch in noted.iter().step_by(97) {
            assert!(index.lookup_offset(batch.0).position <= batch.1);
        }
        let decoded = SparseIndex::decode(&index.encode(KEY), KEY, 1_000);
        assert_eq!(decoded, Ok(index));
    }

    #[test]
    fn an_empty_index_starts_at_the_beginning() {
        let index = SparseIndex::new(5, 4_096);
        assert_eq!(index.lookup_offset(7).position, 0);
        assert_eq!(index.lookup_time(7).position, 0);
        assert_eq!(index.max_timestamp(), None);
        assert_eq!(index.last_offset(), 4);
        assert_eq!(SparseIndex::decode(&index.encode(KEY), KEY, 5), Ok(index));
    }

    #[test]
    fn noting_a_segment_again_changes_nothing() {
        let (mut index, _) = filled(3, 10, 100);
        let before = index.clone();
        let bytes = BatchBuilder::new().record(1 << 50, None, None, &[]).build();
        index.note(BatchHeader::read(&bytes).unwrap(), 0);
        assert_eq!(index, before);
    }

    #[test]
    fn offsets_that_do_not_fit_are_not_indexed() {
        let mut index = SparseIndex::new(0, 1);
        for (offset, position) in [(0, 0), (1 << 33, 100), (1 << 34, 1 << 33)] {
            let mut bytes = BatchBuilder::new().record(0, None, None, &[]).build();
            assign(&mut bytes, offset, 0, None);
            index.note(BatchHeader::read(&bytes).unwrap(), position);
        }
        assert!(index.entries.is_empty());
        assert_eq!(index.last_offset(), 1 << 34);
    }

    #[test]
    fn a_cut_index_knows_what_is_left() {
        let (whole, noted) = filled(5, 300, 256);
        for at in [1, 2, 150, 299] {
            let (offset, position, _) = noted[at];
            let max = noted[..at].iter().map(|noted| noted.2).max().expect("some are left");
            let mut cut = whole.clone();
            assert!(cut.cut(position, offset - 1, max));
            assert_eq!((cut.covered_bytes(), cut.last_offset()), (position, offset - 1));
            assert_eq!(cut.max_timestamp().map(|max| max.timestamp), Some(max));
            assert_eq!(SparseIndex::decode(&cut.encode(KEY), KEY, 1_000).as_ref(), Ok(&cut));
            for &(offset, position, timestamp) in &noted[..at] {
                assert!(cut.lookup_offset(offset).position <= position);
                assert!(cut.lookup_time(timestamp).position <= position);
                let start = cut.lookup_offset(offset).position;
                let before = noted.iter().filter(|noted| noted.1 < start).map(|noted| noted.2).max();
                assert_eq!(cut.max_timestamp_before(offset), before.unwrap_or(NO_TIMESTAMP_YET));
            }
        }
        let (offset, position, _) = noted[150];
        assert!(!whole.clone().cut(position, 1_000, i64::MAX), "offsets above the last are left");
        assert!(!whole.clone().cut(u64::MAX, offset, 0));
        let bound = SparseIndex::of_unknown(1_000, 256, position, offset - 1, 7);
        assert_eq!(bound.lookup_offset(offset), Start { position: 0, base_offset: 1_000 });
        assert_eq!(SparseIndex::decode(&bound.encode(KEY), KEY, 1_000), Ok(bound));
    }

    #[test]
    fn the_file_is_frozen_and_knows_whose_it_is() {
        let entry = |(relative_offset, position, max_timestamp_before)| Entry {
            relative_offset,
            position,
            max_timestamp_before,
        };
        let entries = [
            (3, 142, 28),
            (6, 284, 28),
            (9, 426, 100),
            (11, 541, 100),
            (15, 771, 126),
            (17, 947, 126),
            (19, 1062, 126),
            (21, 1177, 180),
            (23, 1292, 180),
        ];
        let index = SparseIndex {
            covered_bytes: 1380,
            last_offset: 1023,
            max: MaxTimestamp { timestamp: 180, position: 1062 },
            entries: entries.map(entry).into(),
            ..SparseIndex::new(1_000, 100)
        };
        let bytes = index.encode(KEY);
        frozen("sparse-index-v1.bin", &bytes);
        assert_eq!(SparseIndex::decode(&bytes, KEY, 1_000), Ok(index));
        let other = PartitionKey { partition: 4, ..KEY };
        assert_eq!(SparseIndex::decode(&bytes, other, 1_000), Err(IndexError::Foreign));
        assert_eq!(SparseIndex::decode(&bytes, KEY, 1_001), Err(IndexError::Foreign));
    }

    /// Found by fuzzing: behind a right checksum, more bytes than a segment can have made the next batch's end overflow.
    #[test]
    fn more_bytes_than_a_segment_has_are_damage() {
        const COVERED_BYTES_AT: usize = 48;
        let (index, _) = filled(11, 12, 100);
        let mut bytes = index.encode(KEY).to_vec();
        assert_eq!(bytes[COVERED_BYTES_AT..][..8], index.covered_bytes.to_le_bytes());
        bytes[COVERED_BYTES_AT..][..8].fill(0xff);
        bytes.truncate(bytes.len() - CRC_BYTES);
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        assert_eq!(SparseIndex::decode(&bytes, KEY, 1_000), Err(IndexError::Damaged));
    }

    #[test]
    fn damage_is_noticed() {
        let (index, _) = filled(11, 12, 100);
        let bytes = index.encode(KEY);
        assert_survives_mutation(&bytes, |damaged| {
            if damaged != bytes {
                assert!(SparseIndex::decode(damaged, KEY, 1_000).is_err());
            }
            // Behind a checksum that is right, too.
            let mut sealed = damaged.to_vec();
            sealed.extend_from_slice(&crc32c::crc32c(damaged).to_le_bytes());
            if let Ok(index) = SparseIndex::decode(&sealed, KEY, 1_000) {
                index.lookup_offset(1_005);
                index.lookup_time(50);
            }
        });
        let contents = &bytes[..bytes.len() - CRC_BYTES];
        assert_survives_mutation(contents, |damaged| {
            let mut sealed = damaged.to_vec();
            sealed.extend_from_slice(&crc32c::crc32c(damaged).to_le_bytes());
            if let Ok(index) = SparseIndex::decode(&sealed, KEY, 1_000) {
                index.lookup_offset(1_005);
                index.lookup_time(50);
                assert_eq!(SparseIndex::decode(&index.encode(KEY), KEY, 1_000), Ok(index));
            }
        });
    }
}
