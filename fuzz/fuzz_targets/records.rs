//! Records behind a checksum that was right. `cargo +nightly fuzz run records`

#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream_storage::batch::Codec;
use millstream_storage::records::{OpenBatch, first_at_or_after, max_timestamp, recode};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(open) = OpenBatch::new(bytes) {
        for record in open.records().flatten() {
            let _ = (open.offset(&record), open.timestamp(&record));
            record.headers().for_each(drop);
        }
    }
    let _ = first_at_or_after(bytes, 0);
    let _ = max_timestamp(bytes);
    if let Ok(recoded) = recode(bytes, Codec::Lz4, None) {
        let before = OpenBatch::new(bytes).expect("it was recoded");
        let after = OpenBatch::new(&recoded).expect("we wrote it");
        assert_eq!(before.body(), after.body());
    }
});
