//! The records that the simulated clients write: everything in one follows from its number, so that a reader can tell
//! whether it is whole.

use bytes::Bytes;
use millstream_storage::batch::{BatchBuilder, BatchError, Batches, verify_crc};
use millstream_storage::random::Random;
use millstream_storage::records::{OpenBatch, Record, recode};

use super::schedule::EPOCH_MS;

/// Names a record: its client, and how many that client wrote before. Never written into two places by an idempotent
/// producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// The client.
    pub client: u32,
    /// The client's count.
    pub number: u32,
}

impl RecordId {
    /// The record's timestamp in milliseconds: within ten minutes before the simulation began, in no order.
    pub fn timestamp(self) -> i64 {
        EPOCH_MS - Random::new(self.seed()).below(600_000) as i64
    }

    /// The record's key in a compacted topic: one of few, whichever client writes it.
    pub fn key(self) -> u8 {
        Random::new(self.seed() ^ 0x6b6b).below(KEYS) as u8
    }

    /// Whether the record deletes its key, in a compacted topic.
    pub fn is_tombstone(self) -> bool {
        Random::new(self.seed() ^ 0x7474).one_in(6)
    }

    fn seed(self) -> u64 {
        u64::from(self.client) << 32 | u64::from(self.number)
    }

    /// The record's value: its number, and bytes that follow from it. Mostly short.
    pub fn value(self) -> Vec<u8> {
        let mut random = Random::new(self.seed() ^ 0x5a5a);
        let bytes = match random.below(60) {
            0 => random.between(60_000, 90_000),
            1..6 => random.between(1_000, 10_000),
            _ => random.below(300),
        };
        let mut value = self.seed().to_be_bytes().to_vec();
        let fill = random.next();
        for index in 0..bytes.div_ceil(8) {
            value.extend_from_slice(&fill.wrapping_add(index * 0x0101_0101).to_le_bytes());
        }
        value.truncate(8 + bytes as usize);
        value
    }

    fn of_seed(seed: &[u8]) -> Option<RecordId> {
        let seed = u64::from_be_bytes(*seed.first_chunk::<8>()?);
        Some(RecordId { client: (seed >> 32) as u32, number: seed as u32 })
    }

    /// Which record this is, if it is exactly that.
    fn of(record: &Record<'_>) -> Option<RecordId> {
        match record.key {
            None => RecordId::of_seed(record.value?).filter(|id| record.value == Some(&id.value())),
            Some(key) => {
                let (name, seed) = record.headers().next()?;
                let id = RecordId::of_seed(seed?).filter(|id| name == ID_HEADER.as_bytes() && key == [id.key()])?;
                (record.value == id.keyed_value().as_deref()).then_some(id)
            }
        }
    }

    /// The record's value in a compacted topic.
    fn keyed_value(self) -> Option<Vec<u8>> {
        let mut value = self.value();
        value.truncate(KEYED_VALUE_BYTES_MAX);
        (!self.is_tombstone()).then_some(value)
    }
}

/// Keys of a compacted topic.
const KEYS: u64 = 24;
/// The largest value in a compacted topic, so that several segments are filled in a short time.
const KEYED_VALUE_BYTES_MAX: usize = 1_000;
/// Tells which record one in a compacted topic is.
const ID_HEADER: &str = "id";

/// A batch of records of one client, consecutive from `first`; with a producer id it is an idempotent producer's.
pub fn batch_of(first: RecordId, count: u32, producer: Option<(i64, i16, i32)>) -> Bytes {
    batch(first, count, producer, false)
}

/// The same for a compacted topic.
pub fn keyed_batch_of(first: RecordId, count: u32, producer: Option<(i64, i16, i32)>) -> Bytes {
    batch(first, count, producer, true)
}

fn batch(first: RecordId, count: u32, producer: Option<(i64, i16, i32)>, is_keyed: bool) -> Bytes {
    let mut builder = BatchBuilder::new();
    if let Some((id, epoch, sequence)) = producer {
        builder = builder.producer(id, epoch, sequence);
    }
    for index in 0..count {
        let id = RecordId { number: first.number + index, ..first };
        builder = if is_keyed {
            let headers = [(ID_HEADER, Some(&id.seed().to_be_bytes()[..]))];
            builder.record(id.timestamp(), Some(&[id.key()]), id.keyed_value().as_deref(), &headers)
        } else {
            builder.record(id.timestamp(), None, Some(&id.value()), &[])
        };
    }
    let batch = builder.build();
    match first.number % 5 {
        // Compressed batches take other paths when times are looked up.
        0 => recode(&batch, millstream_storage::batch::Codec::Lz4, None).expect("a good batch").into(),
        _ => batch.into(),
    }
}

/// A record as a reader found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Found {
    /// Its offset.
    pub offset: i64,
    /// Which it is.
    pub id: RecordId,
}

/// Why the bytes that a fetch returned cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// A reader notices: they are no batches, or a checksum is wrong.
    Damaged(String),
    /// A reader takes them for good, but nobody wrote them.
    Wrong(String),
}

impl From<Unreadable> for String {
    fn from(unreadable: Unreadable) -> String {
        let (Unreadable::Damaged(why) | Unreadable::Wrong(why)) = unreadable;
        why
    }
}

/// The records at or after `offset` in what a fetch returned: whole batches, and perhaps a piece of one more. Also where
/// to go on.
pub fn records_in(bytes: &[u8], offset: i64) -> Result<(Vec<Found>, i64), Unreadable> {
    let mut found = Vec::new();
    let mut next = offset;
    for batch in Batches::new(bytes) {
        let (header, batch) = match batch {
            Ok(batch) => batch,
            Err(BatchError::Truncated) => break,
            Err(error) => {
                return Err(Unreadable::Damaged(format!("a reader at offset {next} found garbage: {error}")));
            }
        };
        let damage = |error| format!("a reader at offset {} found damage: {error}", header.base_offset());
        verify_crc(batch).map_err(damage).map_err(Unreadable::Damaged)?;
        let wrong = |error: BatchError| Unreadable::Wrong(error.to_string());
        let open = OpenBatch::new(batch).map_err(wrong)?;
        for record in open.records() {
            let record = record.map_err(wrong)?;
            let at = open.offset(&record);
            let nobodys = || Unreadable::Wrong(format!("offset {at} holds a record that nobody wrote"));
            let id = RecordId::of(&record).ok_or_else(nobodys)?;
            if at >= offset {
                found.push(Found { offset: at, id });
            }
        }
        next = next.max(header.last_offset() + 1);
    }
    Ok((found, next))
}
