//! Index files. `cargo +nightly fuzz run index`

#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream_storage::PartitionKey;
use millstream_storage::index::SparseIndex;

fuzz_target!(|bytes: &[u8]| {
    let key = PartitionKey::default();
    // With a checksum that is right, so that what lies behind it is reached.
    let mut sealed = bytes.to_vec();
    sealed.extend_from_slice(&crc32c::crc32c(bytes).to_le_bytes());
    for bytes in [bytes, &sealed] {
        if let Ok(index) = SparseIndex::decode(bytes, key, 0) {
            let _ = (index.lookup_offset(7), index.lookup_time(7));
            assert_eq!(SparseIndex::decode(&index.encode(key), key, 0), Ok(index));
        }
    }
});
