//! Records inside a batch: decoding, decompression, the questions about time that only records can answer, and
//! compressing anew for a topic that asks for another codec than the producer's.
//!
//! Everything here reads bytes that a client or a disk may have damaged: no function panics on them, and none allocates
//! more than [`DECOMPRESSED_BYTES_MAX`].

use std::borrow::Cow;
use std::io::{Read, Write};

use crate::batch::{BATCH_HEADER_BYTES, BatchError, BatchHeader, Codec, TimestampType, with_records};

/// Largest size of a batch's records, decompressed, in bytes. Larger ones are refused where they must be opened. It lies
/// above `socket.request.max.bytes`, so no batch of an honest client with sane settings comes near.
pub const DECOMPRESSED_BYTES_MAX: usize = 128 << 20;

/// Snappy cannot compress better than this (a three-byte copy yields 64 bytes), so a block that declares more is refused
/// before memory is reserved for it.
const SNAPPY_RATIO_MAX: usize = 22;

/// Records gathered into one block when we write the xerial framing; what snappy-java uses.
const XERIAL_BLOCK_BYTES: usize = 32 << 10;

const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
const XERIAL_HEADER_BYTES: usize = 16;

/// Decompressed bytes are read in pieces of this size, so that a hostile stream meets the bound soon.
const READ_PIECE_BYTES: usize = 64 << 10;

/// One record, borrowed from its batch's decompressed body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Milliseconds after the batch's base timestamp.
    pub timestamp_delta: i64,
    /// Offsets after the batch's base offset.
    pub offset_delta: i32,
    /// The key, which may be absent, and may be empty.
    pub key: Option<&'a [u8]>,
    /// The value, which may be absent (a tombstone), and may be empty.
    pub value: Option<&'a [u8]>,
    /// How many headers follow.
    pub header_count: i32,
    headers: &'a [u8],
    attributes: u8,
    /// Everything behind the timestamp.
    after_timestamp: &'a [u8],
}

impl<'a> Record<'a> {
    /// The headers in order; one key may come several times. They were found well-formed when the record was decoded.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let mut cursor = Cursor { rest: self.headers };
        (0..self.header_count).map_while(move |_| read_header(&mut cursor).ok())
    }
}

/// Walks the records of a decompressed body: exactly `count` of them, with offset deltas that grow, and no byte left
/// over.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    cursor: Cursor<'a>,
    left: i32,
}

impl<'a> Records<'a> {
    /// The records in `body`, of which the batch's header says that there are `count`.
    pub fn new(body: &'a [u8], count: i32) -> Records<'a> {
        Records { cursor: Cursor { rest: body }, left: count }
    }

    /// The bytes of the records still to come.
    pub fn rest(&self) -> &'a [u8] {
        self.cursor.rest
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            let left_over = !self.cursor.rest.is_empty();
            self.cursor.rest = &[];
            return left_over.then_some(Err(BatchError::Record("bytes follow the last record of the batch")));
        }
        let record = read_record(&mut self.cursor);
        if record.is_ok() {
            self.left -= 1;
        } else {
            self.left = 0;
            self.cursor.rest = &[];
        }
        Some(record)
    }
}

/// A batch whose records can be read.
#[derive(Clone, Debug)]
pub struct OpenBatch<'a> {
    /// The batch's header.
    pub header: &'a BatchHeader,
    body: Cow<'a, [u8]>,
}

impl<'a> OpenBatch<'a> {
    /// Decompresses a whole batch if need be. Its checksum is not looked at.
    pub fn new(batch: &'a [u8]) -> Result<OpenBatch<'a>, BatchError> {
        let header = BatchHeader::read(batch).ok_or(BatchError::Truncated)?;
        let bytes = header.batch_bytes()?;
        let body = batch.get(BATCH_HEADER_BYTES..bytes).ok_or(BatchError::Truncated)?;
        let body = match header.codec()? {
            Codec::None => Cow::Borrowed(body),
            codec => Cow::Owned(decompress(codec, body)?),
        };
        Ok(OpenBatch { header, body })
    }

    /// The records in order.
    pub fn records(&self) -> Records<'_> {
        Records::new(&self.body, self.header.record_count())
    }

    /// The records' bytes, decompressed.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// A record's offset in the log.
    pub fn offset(&self, record: &Record<'_>) -> i64 {
        self.header.base_offset().saturating_add(i64::from(record.offset_delta))
    }

    /// A record's timestamp in milliseconds.
    pub fn timestamp(&self, record: &Record<'_>) -> i64 {
        match self.header.timestamp_type() {
            TimestampType::LogAppendTime => self.header.max_timestamp(),
            TimestampType::CreateTime => self.header.base_timestamp().saturating_add(record.timestamp_delta),
        }
    }
}

/// The first record of a batch whose timestamp (milliseconds) is at or after this one: its offset and timestamp. None
/// if the batch has none, even if its header promises one.
pub fn first_at_or_after(batch: &[u8], timestamp: i64) -> Result<Option<(i64, i64)>, BatchError> {
    let header = BatchHeader::read(batch).ok_or(BatchError::Truncated)?;
    if header.timestamp_type() == TimestampType::LogAppendTime {
        let time = header.max_timestamp();
        return Ok((time >= timestamp).then_some((header.base_offset(), time)));
    }
    let open = OpenBatch::new(batch)?;
    for record in open.records() {
        let record = record?;
        let found = open.timestamp(&record);
        if found >= timestamp {
            return Ok(Some((open.offset(&record), found)));
        }
    }
    Ok(None)
}

/// The largest timestamp among a batch's records, in milliseconds, and the offset of the first record that has it:
/// (offset, timestamp).
pub fn max_timestamp(batch: &[u8]) -> Result<(i64, i64), BatchError> {
    let header = BatchHeader::read(batch).ok_or(BatchError::Truncated)?;
    if header.timestamp_type() == TimestampType::LogAppendTime {
        return Ok((header.base_offset(), header.max_timestamp()));
    }
    let open = OpenBatch::new(batch)?;
    let mut max: Option<(i64, i64)> = None;
    for record in open.records() {
        let record = record?;
        let timestamp = open.timestamp(&record);
        if max.is_none_or(|(_, largest)| timestamp > largest) {
            max = Some((open.offset(&record), timestamp));
        }
    }
    max.ok_or(BatchError::Record("the batch has no record"))
}

/// Compresses a batch's records anew for a topic whose `compression.type` is not `producer`. `level` is the codec's own
/// (`compression.gzip.level`, `compression.zstd.level`); None is the codec's default. LZ4 and Snappy have one level here.
pub fn recode(batch: &[u8], codec: Codec, level: Option<i32>) -> Result<Vec<u8>, BatchError> {
    let open = OpenBatch::new(batch)?;
    let compressed = compress(codec, level, &open.body)?;
    with_records(open.header, codec, &compressed).ok_or(BatchError::TooLarge)
}

fn compression_error(error: impl std::fmt::Display) -> BatchError {
    BatchError::Compression(error.to_string())
}

fn read_to_bound(mut from: impl Read, bytes_max: usize) -> Result<Vec<u8>, BatchError> {
    let mut body = Vec::new();
    let mut piece = vec![0; READ_PIECE_BYTES];
    loop {
        let read = from.read(&mut piece).map_err(compression_error)?;
        if read == 0 {
            return Ok(body);
        }
        if body.len() + read > bytes_max {
            return Err(BatchError::TooLarge);
        }
        body.extend_from_slice(&piece[..read]);
    }
}

/// Decompresses one block of records, to at most [`DECOMPRESSED_BYTES_MAX`].
pub fn decompress(codec: Codec, bytes: &[u8]) -> Result<Vec<u8>, BatchError> {
    decompress_to(codec, bytes, DECOMPRESSED_BYTES_MAX)
}

fn decompress_to(codec: Codec, bytes: &[u8], bytes_max: usize) -> Result<Vec<u8>, BatchError> {
    match codec {
        Codec::None if bytes.len() > bytes_max => Err(BatchError::TooLarge),
        Codec::None => Ok(bytes.to_vec()),
        Codec::Gzip => read_to_bound(flate2::read::MultiGzDecoder::new(bytes), bytes_max),
        Codec::Snappy => decompress_snappy(bytes, bytes_max),
        Codec::Lz4 => read_to_bound(lz4_flex::frame::FrameDecoder::new(bytes), bytes_max),
        Codec::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(bytes).map_err(compression_error)?;
            read_to_bound(decoder, bytes_max)
        }
    }
}

fn decompress_snappy(bytes: &[u8], bytes_max: usize) -> Result<Vec<u8>, BatchError> {
    let mut body = Vec::new();
    if !bytes.starts_with(XERIAL_MAGIC) {
        snappy_block(bytes, &mut body, bytes_max)?;
        return Ok(body);
    }
    // Two version numbers follow the magic; like snappy-java's, this reader needs neither.
    let mut rest =
        bytes.get(XERIAL_HEADER_BYTES..).ok_or_else(|| compression_error("the snappy header is cut short"))?;
    while !rest.is_empty() {
        // Streams put end to end repeat the header.
        if let Some(next) = rest.get(XERIAL_HEADER_BYTES..).filter(|_| rest.starts_with(XERIAL_MAGIC)) {
            rest = next;
            continue;
        }
        let cut_short = || compression_error("a snappy block is cut short");
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(cut_short)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(compression_error)?;
        let (block, after) = after.split_at_checked(length).ok_or_else(cut_short)?;
        snappy_block(block, &mut body, bytes_max)?;
        rest = after;
    }
    Ok(body)
}

fn snappy_block(block: &[u8], body: &mut Vec<u8>, bytes_max: usize) -> Result<(), BatchError> {
    let declared = snap::raw::decompress_len(block).map_err(compression_error)?;
    if declared > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
        return Err(compression_error("a snappy block declares too many bytes"));
    }
    let start = body.len();
    if declared > bytes_max - start {
        return Err(BatchError::TooLarge);
    }
    body.resize(start + declared, 0);
    let written = snap::raw::Decoder::new().decompress(block, &mut body[start..]).map_err(compression_error)?;
    body.truncate(start + written);
    Ok(())
}

pub(crate) fn compress(codec: Codec, level: Option<i32>, body: &[u8]) -> Result<Vec<u8>, BatchError> {
    match codec {
        Codec::None => Ok(body.to_vec()),
        Codec::Gzip => {
            // Kafka's -1 is the codec's default.
            let level = level
                .and_then(|level| u32::try_from(level).ok())
                .map_or_else(flate2::Compression::default, |level| flate2::Compression::new(level.min(9)));
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(body).map_err(compression_error)?;
            encoder.finish().map_err(compression_error)
        }
        Codec::Snappy => {
            let mut out = Vec::new();
            out.extend_from_slice(XERIAL_MAGIC);
            out.extend_from_slice(&1u32.to_be_bytes());
            out.extend_from_slice(&1u32.to_be_bytes());
            let mut encoder = snap::raw::Encoder::new();
            for block in body.chunks(XERIAL_BLOCK_BYTES) {
                let block = encoder.compress_vec(block).map_err(compression_error)?;
                let length = u32::try_from(block.len()).expect("a block is below 4 GiB");
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(&block);
            }
            Ok(out)
        }
        Codec::Lz4 => {
            // The Java client reads only frames whose blocks do not depend on each other.
            let frame = lz4_flex::frame::FrameInfo::new()
                .block_mode(lz4_flex::frame::BlockMode::Independent)
                .block_size(lz4_flex::frame::BlockSize::Max64KB);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, Vec::new());
            encoder.write_all(body).map_err(compression_error)?;
            encoder.finish().map_err(compression_error)
        }
        Codec::Zstd => {
            let level = level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL);
            zstd::stream::encode_all(body, level).map_err(compression_error)
        }
    }
}

/// Reads from the front of a slice.
#[derive(Clone, Debug)]
struct Cursor<'a> {
    rest: &'a [u8],
}

const CUT_SHORT: BatchError = BatchError::Record("a record is cut short");

impl<'a> Cursor<'a> {
    fn byte(&mut self) -> Result<u8, BatchError> {
        let (byte, rest) = self.rest.split_first().ok_or(CUT_SHORT)?;
        self.rest = rest;
        Ok(*byte)
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], BatchError> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(CUT_SHORT)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A zigzag varint of at most 32 bits.
    fn varint(&mut self) -> Result<i32, BatchError> {
        let first = self.byte()?;
        let mut value = u32::from(first & 0x7f);
        let mut last = first;
        let mut shift = 7;
        while last & 0x80 != 0 {
            if shift > 28 {
                return Err(BatchError::Record("a record has an endless number"));
            }
            last = self.byte()?;
            value |= u32::from(last & 0x7f) << shift;
            shift += 7;
        }
        Ok((value >> 1) as i32 ^ -((value & 1) as i32))
    }

    /// A zigzag varint of at most 64 bits.
    fn varlong(&mut self) -> Result<i64, BatchError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(BatchError::Record("a record has an endless number"))
    }

    /// Bytes with their length before them, -1 for none.
    fn nullable(&mut self) -> Result<Option<&'a [u8]>, BatchError> {
        match self.varint()? {
            -1 => Ok(None),
            length => {
                let length =
                    usize::try_from(length).map_err(|_| BatchError::Record("a record has a negative length"))?;
                self.take(length).map(Some)
            }
        }
    }
}

fn read_record<'a>(cursor: &mut Cursor<'a>) -> Result<Record<'a>, BatchError> {
    let length = usize::try_from(cursor.varint()?).map_err(|_| BatchError::Record("a record has a negative length"))?;
    let mut inside = Cursor { rest: cursor.take(length)? };
    // The record's own attributes have no meaning yet.
    let attributes = inside.byte()?;
    let timestamp_delta = inside.varlong()?;
    let after_timestamp = inside.rest;
    let offset_delta = inside.varint()?;
    let key = inside.nullable()?;
    let value = inside.nullable()?;
    let header_count = inside.varint()?;
    if header_count < 0 {
        return Err(BatchError::Record("a record has a negative header count"));
    }
    let headers = inside.rest;
    for _ in 0..header_count {
        read_header(&mut inside)?;
    }
    if !inside.rest.is_empty() {
        return Err(BatchError::Record("a record is longer than its fields"));
    }
    Ok(Record { timestamp_delta, offset_delta, key, value, header_count, headers, attributes, after_timestamp })
}

fn read_header<'a>(cursor: &mut Cursor<'a>) -> Result<(&'a [u8], Option<&'a [u8]>), BatchError> {
    let key = cursor.nullable()?.ok_or(BatchError::Record("a record has a header without a key"))?;
    Ok((key, cursor.nullable()?))
}

fn put_varlong(out: &mut Vec<u8>, value: i64) {
    let mut value = ((value << 1) ^ (value >> 63)) as u64;
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => put_varlong(out, -1),
        Some(bytes) => {
            put_varlong(out, i64::try_from(bytes.len()).expect("a slice is shorter than i64::MAX"));
            out.extend_from_slice(bytes);
        }
    }
}

/// Appends a record that was read, as it is but for its timestamp: later by `shift_ms`.
pub(crate) fn put_shifted(out: &mut Vec<u8>, record: &Record<'_>, shift_ms: i64) {
    let mut front = vec![record.attributes];
    put_varlong(&mut front, record.timestamp_delta.wrapping_add(shift_ms));
    let bytes = front.len() + record.after_timestamp.len();
    put_varlong(out, i64::try_from(bytes).expect("a slice is shorter than i64::MAX"));
    out.extend_from_slice(&front);
    out.extend_from_slice(record.after_timestamp);
}

/// Appends one record to a body.
pub(crate) fn encode_record(
    out: &mut Vec<u8>,
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[(&str, Option<&[u8]>)],
) {
    let mut record = vec![0];
    put_varlong(&mut record, timestamp_delta);
    put_varlong(&mut record, i64::from(offset_delta));
    put_nullable(&mut record, key);
    put_nullable(&mut record, value);
    put_varlong(&mut record, i64::try_from(headers.len()).expect("a slice is shorter than i64::MAX"));
    for (name, header) in headers {
        put_nullable(&mut record, Some(name.as_bytes()));
        put_nullable(&mut record, *header);
    }
    put_varlong(out, i64::try_from(record.len()).expect("a vector is shorter than i64::MAX"));
    out.extend_from_slice(&record);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchBuilder, assign, verify_crc};
    use crate::testing::{assert_survives_mutation, testdata};

    const CODECS: [(Codec, &str); 5] = [
        (Codec::None, "none"),
        (Codec::Gzip, "gzip"),
        (Codec::Snappy, "snappy"),
        (Codec::Lz4, "lz4"),
        (Codec::Zstd, "zstd"),
    ];

    /// The batch that kafka-python 3.0.12 made of the same hundred records with each codec.
    fn from_kafka_python(name: &str) -> Vec<u8> {
        std::fs::read(testdata(&format!("kafka-python-{name}.batch"))).unwrap()
    }

    fn assert_the_hundred_records(batch: &[u8]) {
        let open = OpenBatch::new(batch).unwrap();
        assert_eq!(open.header.producer_id(), 4_000);
        assert_eq!(open.header.base_sequence(), 7);
        let mut count = 0;
        for (index, record) in open.records().enumerate() {
            let record = record.unwrap();
            let key = format!("key-{index:03}");
            let value = format!("value-{index:03}-").repeat(if index == 99 { 40 } else { 5 });
            assert_eq!(record.key, (index % 10 != 0).then_some(key.as_bytes()), "{index}");
            assert_eq!(record.value, (index != 50).then_some(value.as_bytes()));
            assert_eq!(open.offset(&record), index as i64);
            assert_eq!(open.timestamp(&record), 1_700_000_000_000 + (index as i64 * 7) % 50);
            let headers: Vec<_> = record.headers().collect();
            if index % 3 == 0 {
                let first = format!("x{index}");
                assert_eq!(headers, [(&b"h"[..], Some(first.as_bytes())), (&b"h"[..], None)]);
            } else {
                assert!(headers.is_empty());
            }
            count += 1;
        }
        assert_eq!(count, 100);
    }

    #[test]
    fn batches_of_a_real_client_are_read_with_every_codec() {
        for (codec, name) in CODECS {
            let batch = from_kafka_python(name);
            verify_crc(&batch).unwrap();
            assert_eq!(BatchHeader::read(&batch).unwrap().codec(), Ok(codec));
            assert_the_hundred_records(&batch);
        }
    }

    #[test]
    fn every_codec_can_be_changed_into_every_other() {
        for (_, from) in CODECS {
            let mut batch = from_kafka_python(from);
            assign(&mut batch, 0, 3, None);
            for (to, _) in CODECS {
                for level in [None, Some(1), Some(9), Some(-1)] {
                    let recoded = recode(&batch, to, level).unwrap();
                    verify_crc(&recoded).unwrap();
                    let header = BatchHeader::read(&recoded).unwrap();
                    assert_eq!(header.codec(), Ok(to));
                    assert_eq!(header.batch_bytes(), Ok(recoded.len()));
                    assert_eq!(header.leader_epoch(), 3);
                    assert_eq!(header.max_timestamp(), 1_700_000_000_049);
                    assert_the_hundred_records(&recoded);
                }
            }
        }
    }

    #[test]
    fn raw_snappy_and_streams_end_to_end_are_read() {
        let body = b"some body, some body, some body".repeat(10);
        let raw = snap::raw::Encoder::new().compress_vec(&body).unwrap();
        assert_eq!(decompress(Codec::Snappy, &raw).unwrap(), body);
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Zstd] {
            let once = compress(codec, None, &body).unwrap();
            let twice = [once.clone(), once].concat();
            assert_eq!(decompress(codec, &twice).unwrap(), body.repeat(2), "{codec:?}");
        }
    }

    #[test]
    fn time_is_looked_up_by_record() {
        for (_, name) in CODECS {
            let mut batch = from_kafka_python(name);
            assign(&mut batch, 500, 0, None);
            let start = 1_700_000_000_000;
            // Record i has the timestamp start + 7 i mod 50: 0 7 14 21 28 35 42 49 6 ...
            assert_eq!(first_at_or_after(&batch, 0), Ok(Some((500, start))));
            assert_eq!(first_at_or_after(&batch, start + 22), Ok(Some((504, start + 28))));
            assert_eq!(first_at_or_after(&batch, start + 49), Ok(Some((507, start + 49))));
            assert_eq!(first_at_or_after(&batch, start + 50), Ok(None));
            assert_eq!(max_timestamp(&batch), Ok((507, start + 49)));

            assign(&mut batch, 500, 0, Some(9_999));
            assert_eq!(first_at_or_after(&batch, 9_999), Ok(Some((500, 9_999))));
            assert_eq!(first_at_or_after(&batch, 10_000), Ok(None));
            assert_eq!(max_timestamp(&batch), Ok((500, 9_999)));
        }
    }

    #[test]
    fn bombs_are_refused_at_the_bound() {
        let zeros = vec![0; 1 << 20];
        for (codec, name) in CODECS {
            let packed = compress(codec, None, &zeros).unwrap();
            assert_eq!(decompress_to(codec, &packed, zeros.len()).map(|body| body.len()), Ok(zeros.len()), "{name}");
            assert_eq!(decompress_to(codec, &packed, zeros.len() - 1), Err(BatchError::TooLarge), "{name}");
        }
        // Four bytes that declare four gigabytes.
        let bomb = [0xff, 0xff, 0xff, 0xff, 0x0f, 0];
        assert!(matches!(decompress(Codec::Snappy, &bomb), Err(BatchError::Compression(_))));
    }

    #[test]
    fn numbers_keep_their_extremes() {
        for value in [0, 1, -1, 63, 64, -64, -65, i64::MAX, i64::MIN] {
            let mut bytes = Vec::new();
            put_varlong(&mut bytes, value);
            let mut cursor = Cursor { rest: &bytes };
            assert_eq!(cursor.varlong(), Ok(value));
            assert!(cursor.rest.is_empty());
        }
        for value in [0, 1, -1, i32::MAX, i32::MIN] {
            let mut bytes = Vec::new();
            put_varlong(&mut bytes, i64::from(value));
            assert_eq!(Cursor { rest: &bytes }.varint(), Ok(value));
        }
        let endless = [0x80; 11];
        assert!(Cursor { rest: &endless }.varint().is_err());
        assert!(Cursor { rest: &endless }.varlong().is_err());
    }

    #[test]
    fn timestamps_at_the_edge_do_not_overflow() {
        let batch = BatchBuilder::new()
            .record(i64::MAX, None, None, &[])
            .record(0, None, None, &[])
            .record(i64::MIN, None, None, &[])
            .build();
        let open = OpenBatch::new(&batch).unwrap();
        assert!(open.records().all(|record| record.is_ok()));
        assert_eq!(max_timestamp(&batch), Ok((0, i64::MAX)));
    }

    #[test]
    fn damaged_batches_are_survived() {
        for (codec, name) in CODECS {
            let batch = from_kafka_python(name);
            assert_survives_mutation(&batch, |damaged| {
                // No checksum in front: what lies behind it must hold on its own.
                if let Ok(open) = OpenBatch::new(damaged) {
                    for record in open.records().flatten() {
                        assert!(record.headers().count() <= damaged.len() * 300);
                        open.offset(&record);
                        open.timestamp(&record);
                    }
                }
                let _ = first_at_or_after(damaged, 1_700_000_000_030);
                let _ = max_timestamp(damaged);
            });
            let body = &batch[BATCH_HEADER_BYTES..];
            assert_survives_mutation(body, |damaged| {
                if let Ok(body) = decompress_to(codec, damaged, 1 << 20) {
                    Records::new(&body, i32::MAX).for_each(drop);
                }
            });
        }
    }
}
