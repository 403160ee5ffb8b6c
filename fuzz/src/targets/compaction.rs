//! Compaction of a segment of any bytes: it ends, well or with an error, and what it leaves can be compacted again.

use millstream_storage::batch::{BATCH_HEADER_BYTES, BatchBuilder, CRC_FROM, Codec, LENGTH_OVERHEAD_BYTES};
use millstream_storage::compaction::{Compaction, Plan, Source, Step};
use millstream_storage::records::{DECOMPRESSED_BYTES_MAX, recode};
use millstream_storage::segment::segment_path;
use millstream_storage::{DiskOp, PartitionKey, TopicId};

use crate::Target;
use crate::disk::Disk;
use crate::memory::{BASE_BYTES, bounded};

pub const TARGET: Target = Target { name: "compaction", run, seeds };

/// Steps of one compaction of a short segment: it has one piece, or as many as it has batches that are larger than a piece.
const STEPS_MAX: usize = 100;

fn run(bytes: &[u8]) {
    let mut disk = Disk::default();
    disk.execute(DiskOp::CreateDirectory { path: "t".into() }).expect("an empty disk");
    // With the checksums that a client would give them, too.
    for segment in [bytes.to_vec(), sealed(bytes)] {
        if segment.is_empty() {
            continue;
        }
        disk.put(&segment_path("t", 0, 0), segment.clone());
        let source = Source { base_offset: 0, version: 0, bytes: segment.len() as u64 };
        // A batch's records, those of them that stay, with other timestamps, compressed, in a batch, and waiting to be written.
        let bytes_max = BASE_BYTES + 6 * DECOMPRESSED_BYTES_MAX;
        let Some(left) = bounded(bytes_max, || compact(&mut disk, source, 1)) else { continue };
        assert!(
            bounded(bytes_max, || compact(&mut disk, left, 2)).is_some(),
            "what compaction writes can be compacted"
        );
    }
}

/// The same with the checksums that its batches should have.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut segment = bytes.to_vec();
    let mut rest = &mut segment[..];
    while let Some(length) = rest.get(8..12).and_then(<[u8]>::first_chunk) {
        let bytes = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0) + LENGTH_OVERHEAD_BYTES;
        if bytes < BATCH_HEADER_BYTES || bytes > rest.len() {
            break;
        }
        let (batch, after) = rest.split_at_mut(bytes);
        let crc = crc32c::crc32c(&batch[CRC_FROM..]);
        batch[CRC_FROM - 4..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
        rest = after;
    }
    segment
}

/// Compacts one segment; returns what is left of it.
fn compact(disk: &mut Disk, source: Source, version: u32) -> Option<Source> {
    let mut compaction = Compaction::new(Plan {
        key: PartitionKey { topic_id: TopicId([1; 16]), partition: 0 },
        directory: "t".into(),
        sources: vec![source.clone()],
        end_offset: i64::MAX / 2,
        first_dirty: 0,
        version,
        segment_bytes: 1 << 20,
        index_interval_bytes: 4096,
        delete_retention_ms: 1000,
        now_ms: 1_700_000_000_000,
        map_bytes_max: 1 << 12,
        secret: [5; 16],
    });
    for _ in 0..STEPS_MAX {
        match compaction.step(&mut |op| disk.execute(op)).ok()? {
            Step::Working => {}
            Step::Replaced(left) if left.bytes == 0 => return Some(source),
            Step::Replaced(left) => return Some(Source { base_offset: 0, version, bytes: left.bytes }),
            Step::Done => return None,
        }
    }
    panic!("no end");
}

fn seeds() -> Vec<Vec<u8>> {
    let mut segment = Vec::new();
    for (index, codec) in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd].into_iter().enumerate() {
        let batch = BatchBuilder::new()
            .producer(7, 0, 0)
            .record(1_000, Some(b"a"), Some(b"value"), &[("h", Some(b"x"))])
            .record(1_001, Some(b"b"), None, &[])
            .record(1_002, Some(&[index as u8]), Some(b""), &[])
            .build();
        let mut batch = recode(&batch, codec, None).expect("a good batch");
        millstream_storage::batch::assign(&mut batch, 3 * index as i64, 0, None);
        segment.extend_from_slice(&batch);
    }
    vec![segment]
}
