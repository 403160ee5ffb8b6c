//! Kafka's record batch, version 2 (KIP-98): its header, walking batches that lie back to back, what a leader writes into
//! a batch it appends, and building batches. Records inside a batch are the business of [`crate::records`], and whether
//! a client's batch may be appended that of [`crate::validate`].
//!
//! A batch is stored exactly as it came over the wire but for the fields that a leader assigns ([`assign`]).

use zerocopy::byteorder::big_endian::{I16, I32, I64, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub use crate::validate::{BatchRules, Refusal, RefusalError, validate_client_batches};

/// Length of a batch's header, in bytes: everything before the records.
pub const BATCH_HEADER_BYTES: usize = 61;

/// Bytes of a batch that its length field does not count: the base offset and the length itself.
pub const LENGTH_OVERHEAD_BYTES: usize = 12;

/// Where the bytes that the checksum covers begin: at the attributes. What the leader assigns lies before, so that it
/// need not compute a checksum.
pub const CRC_FROM: usize = 21;

/// The only batch version that exists today.
pub const MAGIC: i8 = 2;

/// The timestamp of a record that has none.
pub const NO_TIMESTAMP: i64 = -1;

/// The producer id of a batch from a producer that is not idempotent.
pub const NO_PRODUCER_ID: i64 = -1;

const CODEC_MASK: i16 = 0x07;
const LOG_APPEND_TIME_BIT: i16 = 0x08;
const TRANSACTIONAL_BIT: i16 = 0x10;
const CONTROL_BIT: i16 = 0x20;
const DELETE_HORIZON_BIT: i16 = 0x40;

/// Whose clock stamps the records: `message.timestamp.type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    #[default]
    CreateTime,
    /// The broker's, when it appends.
    LogAppendTime,
}

/// How a batch's records are compressed, as one block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// A gzip stream (RFC 1952).
    Gzip,
    /// Snappy blocks in the framing of snappy-java ("xerial"), or one raw block.
    Snappy,
    /// An LZ4 frame.
    Lz4,
    /// A Zstandard frame (KIP-110).
    Zstd,
}

impl Codec {
    /// The codec's number in a batch's attributes.
    pub fn id(self) -> i16 {
        match self {
            Codec::None => 0,
            Codec::Gzip => 1,
            Codec::Snappy => 2,
            Codec::Lz4 => 3,
            Codec::Zstd => 4,
        }
    }

    /// The codec of this number, if there is one.
    pub fn from_id(id: i16) -> Option<Codec> {
        Some(match id {
            0 => Codec::None,
            1 => Codec::Gzip,
            2 => Codec::Snappy,
            3 => Codec::Lz4,
            4 => Codec::Zstd,
            _ => return None,
        })
    }
}

/// What is wrong with the bytes of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchError {
    /// Fewer bytes than the batch says it has, or than a header needs.
    Truncated,
    /// The length field is impossible.
    Length(i32),
    /// Not version 2.
    Magic(i8),
    /// The checksum in the header is not that of the bytes.
    Crc {
        /// What the header says.
        expected: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// No codec has this number.
    UnknownCodec(i16),
    /// A record is malformed, or the records and the header disagree.
    Record(&'static str),
    /// Decompressed, the records would be larger than [`crate::records::DECOMPRESSED_BYTES_MAX`].
    TooLarge,
    /// The compressed block is malformed.
    Compression(String),
}

impl std::fmt::Display for BatchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BatchError::Truncated => write!(f, "the batch is cut short"),
            BatchError::Length(length) => write!(f, "impossible batch length {length}"),
            BatchError::Magic(magic) => write!(f, "batch version {magic}, not {MAGIC}"),
            BatchError::Crc { expected, computed } => {
                write!(f, "checksum {computed:#010x}, the header says {expected:#010x}")
            }
            BatchError::UnknownCodec(id) => write!(f, "unknown compression codec {id}"),
            BatchError::Record(why) => write!(f, "{why}"),
            BatchError::TooLarge => write!(f, "the decompressed records are too large"),
            BatchError::Compression(why) => write!(f, "cannot decompress the records: {why}"),
        }
    }
}

impl std::error::Error for BatchError {}

/// The first [`BATCH_HEADER_BYTES`] of a batch, in place.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct BatchHeader {
    base_offset: I64,
    batch_length: I32,
    leader_epoch: I32,
    magic: i8,
    crc: U32,
    attributes: I16,
    last_offset_delta: I32,
    base_timestamp: I64,
    max_timestamp: I64,
    producer_id: I64,
    producer_epoch: I16,
    base_sequence: I32,
    record_count: I32,
}

const _: () = assert!(size_of::<BatchHeader>() == BATCH_HEADER_BYTES);

impl BatchHeader {
    /// The header at the start of `bytes`, unless they are too few. Nothing in it has been checked.
    pub fn read(bytes: &[u8]) -> Option<&BatchHeader> {
        BatchHeader::ref_from_prefix(bytes).ok().map(|(header, _)| header)
    }

    /// Offset of the first record.
    pub fn base_offset(&self) -> i64 {
        self.base_offset.get()
    }

    /// The batch's total length in bytes, header and length field included, at least [`BATCH_HEADER_BYTES`].
    pub fn batch_bytes(&self) -> Result<usize, BatchError> {
        let length = self.batch_length.get();
        usize::try_from(length)
            .ok()
            .and_then(|bytes| bytes.checked_add(LENGTH_OVERHEAD_BYTES))
            .filter(|bytes| *bytes >= BATCH_HEADER_BYTES)
            .ok_or(BatchError::Length(length))
    }

    /// The epoch of the leader that appended the batch.
    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch.get()
    }

    /// The batch's version.
    pub fn magic(&self) -> i8 {
        self.magic
    }

    /// CRC-32C of everything from the attributes to the batch's end.
    pub fn crc(&self) -> u32 {
        self.crc.get()
    }

    /// All flags as they are stored.
    pub fn attributes(&self) -> i16 {
        self.attributes.get()
    }

    /// How the records are compressed.
    pub fn codec(&self) -> Result<Codec, BatchError> {
        let id = self.attributes() & CODEC_MASK;
        Codec::from_id(id).ok_or(BatchError::UnknownCodec(id))
    }

    /// Whose clock stamped the records.
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes() & LOG_APPEND_TIME_BIT == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// Whether the records belong to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes() & TRANSACTIONAL_BIT != 0
    }

    /// Whether the batch holds a control record (a transaction marker) rather than data.
    pub fn is_control(&self) -> bool {
        self.attributes() & CONTROL_BIT != 0
    }

    /// Whether the base timestamp is the horizon after which tombstones go (KIP-534). Only compaction sets this.
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes() & DELETE_HORIZON_BIT != 0
    }

    /// Attribute bits that nothing has given a meaning.
    pub fn unknown_attributes(&self) -> i16 {
        const KNOWN: i16 = CODEC_MASK | LOG_APPEND_TIME_BIT | TRANSACTIONAL_BIT | CONTROL_BIT | DELETE_HORIZON_BIT;
        self.attributes() & !KNOWN
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset().saturating_add(i64::from(self.last_offset_delta()))
    }

    /// The last record's offset minus the first's.
    pub fn last_offset_delta(&self) -> i32 {
        self.last_offset_delta.get()
    }

    /// The timestamp that the records' are relative to, in milliseconds.
    pub fn base_timestamp(&self) -> i64 {
        self.base_timestamp.get()
    }

    /// The largest timestamp in the batch as its writer declares it, in milliseconds.
    pub fn max_timestamp(&self) -> i64 {
        self.max_timestamp.get()
    }

    /// The idempotent producer's id, or [`NO_PRODUCER_ID`].
    pub fn producer_id(&self) -> i64 {
        self.producer_id.get()
    }

    /// The idempotent producer's epoch.
    pub fn producer_epoch(&self) -> i16 {
        self.producer_epoch.get()
    }

    /// Sequence number of the first record.
    pub fn base_sequence(&self) -> i32 {
        self.base_sequence.get()
    }

    /// Sequence number of the last record; sequences wrap from `i32::MAX` to 0.
    pub fn last_sequence(&self) -> i32 {
        sequence_after(self.base_sequence(), self.last_offset_delta())
    }

    /// How many records the batch says it holds.
    pub fn record_count(&self) -> i32 {
        self.record_count.get()
    }
}

/// The sequence number `delta` after `sequence`. Both are expected not to be negative; sequences wrap from `i32::MAX` to 0.
pub fn sequence_after(sequence: i32, delta: i32) -> i32 {
    sequence.wrapping_add(delta) & i32::MAX
}

/// Walks batches that lie back to back, up to the end or to the first that is malformed or does not fit. Checksums are
/// not looked at.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    rest: &'a [u8],
}

impl<'a> Batches<'a> {
    /// Starts at the first byte of a batch.
    pub fn new(bytes: &'a [u8]) -> Batches<'a> {
        Batches { rest: bytes }
    }

    /// The bytes not walked yet; after an error, from the batch that caused it.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn split(&self) -> Result<(&'a BatchHeader, &'a [u8], &'a [u8]), BatchError> {
        let header = BatchHeader::read(self.rest).ok_or(BatchError::Truncated)?;
        if header.magic() != MAGIC {
            return Err(BatchError::Magic(header.magic()));
        }
        let bytes = header.batch_bytes()?;
        let (batch, rest) = self.rest.split_at_checked(bytes).ok_or(BatchError::Truncated)?;
        Ok((header, batch, rest))
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<(&'a BatchHeader, &'a [u8]), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match self.split() {
            Ok((header, batch, rest)) => {
                self.rest = rest;
                Some(Ok((header, batch)))
            }
            Err(error) => {
                // Where the next batch begins is unknown: nothing follows an error.
                self.rest = &[];
                Some(Err(error))
            }
        }
    }
}

/// Compares a whole batch's checksum with its bytes.
pub fn verify_crc(batch: &[u8]) -> Result<(), BatchError> {
    let header = BatchHeader::read(batch).ok_or(BatchError::Truncated)?;
    let computed = crc32c::crc32c(&batch[CRC_FROM..]);
    if computed == header.crc() { Ok(()) } else { Err(BatchError::Crc { expected: header.crc(), computed }) }
}

fn header_mut(batch: &mut [u8]) -> &mut BatchHeader {
    let (header, _) = BatchHeader::mut_from_prefix(batch).expect("a whole batch is at least a header long");
    header
}

/// Computes a whole batch's checksum anew.
pub(crate) fn seal(batch: &mut [u8]) {
    let crc = crc32c::crc32c(&batch[CRC_FROM..]);
    header_mut(batch).crc = U32::new(crc);
}

/// Writes what a leader decides into a batch: the offset of its first record, the leader's epoch and, for a topic with
/// LogAppendTime, the time of every record in it, in milliseconds.
///
/// # Panics
/// If `batch` is not one whole batch: the caller has validated it.
pub fn assign(batch: &mut [u8], base_offset: i64, leader_epoch: i32, log_append_time: Option<i64>) {
    let header = header_mut(batch);
    header.base_offset = I64::new(base_offset);
    header.leader_epoch = I32::new(leader_epoch);
    if let Some(time) = log_append_time {
        header.max_timestamp = I64::new(time);
        header.attributes = I16::new(header.attributes.get() | LOG_APPEND_TIME_BIT);
        seal(batch);
    }
}

/// Puts other records into a batch, compressed with `codec`; everything else in the header stays.
pub(crate) fn with_records(header: &BatchHeader, codec: Codec, records: &[u8]) -> Option<Vec<u8>> {
    let bytes = BATCH_HEADER_BYTES.checked_add(records.len())?;
    let mut header = *header;
    header.batch_length = I32::new(i32::try_from(bytes - LENGTH_OVERHEAD_BYTES).ok()?);
    header.attributes = I16::new((header.attributes.get() & !CODEC_MASK) | codec.id());
    let mut batch = Vec::with_capacity(bytes);
    batch.extend_from_slice(header.as_bytes());
    batch.extend_from_slice(records);
    seal(&mut batch);
    Some(batch)
}

/// What compaction leaves of a batch: fewer records, compressed as before. With a delete horizon (KIP-534) that takes the
/// place of the base timestamp, and the records' timestamps are relative to it.
pub(crate) fn with_kept_records(
    header: &BatchHeader,
    record_count: i32,
    max_timestamp: i64,
    delete_horizon: Option<i64>,
    records: &[u8],
) -> Option<Vec<u8>> {
    let mut header = *header;
    header.record_count = I32::new(record_count);
    header.max_timestamp = I64::new(max_timestamp);
    if let Some(horizon) = delete_horizon {
        header.base_timestamp = I64::new(horizon);
        header.attributes = I16::new(header.attributes.get() | DELETE_HORIZON_BIT);
    }
    with_records(&header, header.codec().ok()?, records)
}

/// Builds an uncompressed batch, record by record, for what the broker itself writes.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    header: BatchHeader,
    records: Vec<u8>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        BatchBuilder::new()
    }
}

impl BatchBuilder {
    /// An empty batch of a producer that is not idempotent.
    pub fn new() -> BatchBuilder {
        BatchBuilder {
            header: BatchHeader {
                base_offset: I64::new(0),
                batch_length: I32::new(0),
                leader_epoch: I32::new(-1),
                magic: MAGIC,
                crc: U32::new(0),
                attributes: I16::new(0),
                last_offset_delta: I32::new(-1),
                base_timestamp: I64::new(NO_TIMESTAMP),
                max_timestamp: I64::new(NO_TIMESTAMP),
                producer_id: I64::new(NO_PRODUCER_ID),
                producer_epoch: I16::new(-1),
                base_sequence: I32::new(-1),
                record_count: I32::new(0),
            },
            records: Vec::new(),
        }
    }

    /// The batch of an idempotent producer.
    pub fn producer(mut self, id: i64, epoch: i16, base_sequence: i32) -> BatchBuilder {
        self.header.producer_id = I64::new(id);
        self.header.producer_epoch = I16::new(epoch);
        self.header.base_sequence = I32::new(base_sequence);
        self
    }

    /// Appends a record. The first one's timestamp (milliseconds) becomes the batch's base timestamp.
    pub fn record(
        mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> BatchBuilder {
        let index = self.header.record_count.get();
        if index == 0 {
            self.header.base_timestamp = I64::new(timestamp);
        }
        let max = self.header.max_timestamp.get().max(timestamp);
        self.header.max_timestamp = I64::new(max);
        self.header.last_offset_delta = I32::new(index);
        self.header.record_count = I32::new(index + 1);
        crate::records::encode_record(
            &mut self.records,
            timestamp.wrapping_sub(self.header.base_timestamp.get()),
            index,
            key,
            value,
            headers,
        );
        self
    }

    /// How many bytes [`BatchBuilder::build`] will return.
    pub fn batch_bytes(&self) -> usize {
        BATCH_HEADER_BYTES + self.records.len()
    }

    /// The batch, with base offset 0 and leader epoch -1 as a client sends it.
    ///
    /// # Panics
    /// If it has no record, or is larger than the 2 GiB that the format can express: our own bugs.
    pub fn build(self) -> Vec<u8> {
        assert!(self.header.record_count.get() > 0, "a batch has at least one record");
        with_records(&self.header, Codec::None, &self.records).expect("a batch is below 2 GiB")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Vec<u8> {
        BatchBuilder::new()
            .producer(7, 1, 40)
            .record(1_000, Some(b"k"), Some(b"value"), &[("h", Some(b"x"))])
            .record(990, None, None, &[("h", None), ("h", Some(b""))])
            .record(1_005, Some(b""), Some(b""), &[])
            .build()
    }

    #[test]
    fn the_header_says_what_was_built() {
        let bytes = batch();
        let header = BatchHeader::read(&bytes).unwrap();
        assert_eq!(header.batch_bytes(), Ok(bytes.len()));
        assert_eq!(header.base_offset(), 0);
        assert_eq!(header.leader_epoch(), -1);
        assert_eq!(header.magic(), 2);
        assert_eq!(header.codec(), Ok(Codec::None));
        assert_eq!(header.timestamp_type(), TimestampType::CreateTime);
        assert_eq!(header.last_offset_delta(), 2);
        assert_eq!(header.record_count(), 3);
        assert_eq!(header.base_timestamp(), 1_000);
        assert_eq!(header.max_timestamp(), 1_005);
        assert_eq!((header.producer_id(), header.producer_epoch()), (7, 1));
        assert_eq!((header.base_sequence(), header.last_sequence()), (40, 42));
        assert!(!header.is_control() && !header.is_transactional());
        verify_crc(&bytes).unwrap();
    }

    #[test]
    fn a_leader_assigns_without_breaking_the_checksum() {
        let mut bytes = batch();
        assign(&mut bytes, 1 << 40, 9, None);
        verify_crc(&bytes).unwrap();
        let header = BatchHeader::read(&bytes).unwrap();
        assert_eq!(header.base_offset(), 1 << 40);
        assert_eq!(header.last_offset(), (1 << 40) + 2);
        assert_eq!(header.leader_epoch(), 9);
        assert_eq!(header.max_timestamp(), 1_005);

        assign(&mut bytes, 5, 10, Some(77_777));
        verify_crc(&bytes).unwrap();
        let header = BatchHeader::read(&bytes).unwrap();
        assert_eq!(header.timestamp_type(), TimestampType::LogAppendTime);
        assert_eq!(header.max_timestamp(), 77_777);
        assert_eq!(header.base_timestamp(), 1_000);
    }

    #[test]
    fn batches_are_walked_to_the_first_that_does_not_fit() {
        let one = batch();
        let mut bytes = [one.clone(), one.clone(), one.clone()].concat();
        assert_eq!(Batches::new(&bytes).filter(|b| b.is_ok()).count(), 3);
        bytes.truncate(bytes.len() - 1);
        let walked: Vec<_> = Batches::new(&bytes).map(|b| b.map(|_| ())).collect();
        assert_eq!(walked, [Ok(()), Ok(()), Err(BatchError::Truncated)]);

        bytes[one.len() + 16] = 1;
        let walked: Vec<_> = Batches::new(&bytes).map(|b| b.map(|_| ())).collect();
        assert_eq!(walked, [Ok(()), Err(BatchError::Magic(1))]);

        bytes[8..12].copy_from_slice(&48i32.to_be_bytes());
        let walked: Vec<_> = Batches::new(&bytes).map(|b| b.map(|_| ())).collect();
        assert_eq!(walked, [Err(BatchError::Length(48))]);
        bytes[8..12].copy_from_slice(&(-1i32).to_be_bytes());
        assert_eq!(Batches::new(&bytes).next().unwrap().map(|_| ()), Err(BatchError::Length(-1)));
    }

    #[test]
    fn sequences_wrap_to_zero() {
        assert_eq!(sequence_after(i32::MAX, 1), 0);
        assert_eq!(sequence_after(i32::MAX - 1, 4), 2);
        assert_eq!(sequence_after(3, 0), 3);
    }

    #[test]
    fn the_checksum_covers_every_byte_from_the_attributes_on() {
        let bytes = batch();
        for position in CRC_FROM..bytes.len() {
            let mut changed = bytes.clone();
            changed[position] ^= 0x10;
            assert!(matches!(verify_crc(&changed), Err(BatchError::Crc { .. })), "{position}");
        }
    }
}
