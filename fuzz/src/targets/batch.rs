//! What a client sends as a partition's records: walking batches, and whether one may be appended. What was taken is
//! handed to everything that relies on it.

use millstream_storage::batch::{
    BatchBuilder, BatchHeader, BatchRules, Batches, Codec, TimestampType, assign, validate_client_batches, verify_crc,
};
use millstream_storage::index::SparseIndex;
use millstream_storage::producer::ProducerStates;
use millstream_storage::records::{DECOMPRESSED_BYTES_MAX, OpenBatch, recode};

use crate::Target;
use crate::memory::{BASE_BYTES, bounded};

pub const TARGET: Target = Target { name: "batch", run, seeds };

/// A batch is checked in place; a refusal has a line of text.
const CHECK_BYTES_MAX: usize = BASE_BYTES;
/// A compacted topic's batch is opened: what it decompresses to has a bound of its own, a growing vector holds at most
/// twice as much, and the decoders have windows and blocks of a few MiB.
pub(super) const OPEN_BYTES_MAX: usize = BASE_BYTES + 2 * DECOMPRESSED_BYTES_MAX + (16 << 20);

fn run(bytes: &[u8]) {
    bounded(CHECK_BYTES_MAX, || {
        for batch in Batches::new(bytes) {
            let Ok((header, batch)) = batch else { break };
            assert_eq!(header.batch_bytes(), Ok(batch.len()));
            let _ = (verify_crc(batch), header.last_offset(), header.last_sequence(), header.codec());
        }
    });
    check(bytes);
    check(&sealed(bytes));
}

/// The same bytes with a length, a version and a checksum that are right: without them nothing gets past the door.
pub(super) fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut sealed = bytes.to_vec();
    if sealed.len() >= 61 {
        sealed[..8].fill(0);
        let length = (sealed.len() - 12) as i32;
        sealed[8..12].copy_from_slice(&length.to_be_bytes());
        sealed[16] = 2;
        let crc = crc32c::crc32c(&sealed[21..]);
        sealed[17..21].copy_from_slice(&crc.to_be_bytes());
    }
    sealed
}

fn check(bytes: &[u8]) {
    for (compacted, zstd_allowed) in [(false, false), (true, true)] {
        let rules = BatchRules {
            max_message_bytes: 1 << 20,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: i64::MAX,
            now_ms: 1_700_000_000_000,
            timestamp_type: TimestampType::CreateTime,
            compacted,
            zstd_allowed,
        };
        let bytes_max = if compacted { OPEN_BYTES_MAX } else { CHECK_BYTES_MAX };
        if bounded(bytes_max, || validate_client_batches(bytes, &rules)).is_ok() {
            append(bytes, compacted);
        }
    }
}

/// What a leader does with a batch that it has taken.
fn append(bytes: &[u8], was_opened: bool) {
    let mut batch = bytes.to_vec();
    assign(&mut batch, 1 << 40, 7, None);
    verify_crc(&batch).expect("what a leader assigns is not covered");
    let header = BatchHeader::read(&batch).expect("it was taken");
    if was_opened || header.codec() == Ok(Codec::None) {
        let open = OpenBatch::new(&batch).expect("it was opened before");
        let records: Result<Vec<_>, _> = open.records().collect();
        assert_eq!(records.expect("each was read before").len() as i32, header.record_count());
    }
    let mut producers = ProducerStates::new();
    producers.record(header, 0, 0);
    let _ = producers.check(header);
    let mut index = SparseIndex::new(0, 1);
    for position in [0, batch.len() as u64] {
        index.note(header, position);
    }
    let mut encoded = Vec::new();
    producers.encode(&mut encoded);
    assert_eq!(ProducerStates::decode(&mut &encoded[..]), Some(producers));
    let key = Default::default();
    assert_eq!(SparseIndex::decode(&index.encode(key), key, 0), Ok(index));
}

fn seeds() -> Vec<Vec<u8>> {
    let plain = BatchBuilder::new()
        .producer(7, 1, 40)
        .record(1_000, Some(b"k"), Some(b"value"), &[("h", Some(b"x"))])
        .record(1_005, Some(b""), None, &[])
        .build();
    let mut seeds = vec![[&plain[..], &plain[..]].concat()];
    for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        seeds.push(recode(&plain, codec, None).expect("a small batch"));
    }
    seeds
}
