//! Records behind a checksum that was right, from a client or a disk: every codec, decompression bombs, the questions
//! about time, and compressing anew.

use millstream_storage::batch::{BatchBuilder, Codec};
use millstream_storage::records::{OpenBatch, first_at_or_after, max_timestamp, recode};

use super::batch::{OPEN_BYTES_MAX, sealed};
use crate::Target;
use crate::memory::bounded;

pub const TARGET: Target = Target { name: "records", run, seeds };

/// Larger bodies are not compressed anew: it takes long and shows nothing more.
const RECODED_BYTES_MAX: usize = 256 << 10;

fn run(bytes: &[u8]) {
    let batch = sealed(bytes);
    bounded(OPEN_BYTES_MAX, || {
        let Ok(open) = OpenBatch::new(&batch) else { return };
        for record in open.records().flatten() {
            let _ = (open.offset(&record), open.timestamp(&record));
            assert_eq!(record.headers().count(), record.header_count as usize);
        }
        if open.body().len() <= RECODED_BYTES_MAX {
            // The base offset is no part of what was sealed.
            let codec = Codec::from_id(i16::from(bytes[0] % 5)).expect("there are five");
            let recoded = recode(&batch, codec, None).expect("what was opened can be written");
            let again = OpenBatch::new(&recoded).expect("we wrote it");
            assert_eq!(again.body(), open.body());
        }
    });
    let found = bounded(OPEN_BYTES_MAX, || first_at_or_after(&batch, i64::from(bytes.first().copied().unwrap_or(0))));
    let max = bounded(OPEN_BYTES_MAX, || max_timestamp(&batch));
    if let (Ok(Some((_, found))), Ok((_, max))) = (found, max) {
        assert!(found <= max, "a record is newer than the newest");
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let small = BatchBuilder::new()
        .record(1_000, Some(b"k"), Some(b"value"), &[("h", Some(b"x")), ("h", None)])
        .record(990, None, Some(&[7; 200]), &[])
        .build();
    // Long enough for more than one block of each codec's framing.
    let long = BatchBuilder::new().record(0, None, Some(&[0; 70_000]), &[]).build();
    let mut seeds = Vec::new();
    for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        seeds.push(recode(&small, codec, None).expect("a small batch"));
        if codec != Codec::None {
            seeds.push(recode(&long, codec, None).expect("a small batch"));
        }
    }
    // One raw block, as librdkafka sends it, instead of the framing of snappy-java: "aaaa...".
    let mut raw = small[..61].to_vec();
    raw[22] = 2;
    raw.extend([8, 0, b'a', 0b0001_0001, 1]);
    seeds.push(raw);
    seeds
}
