//! What a client may send as a partition's records, and what a disk may hold. `cargo +nightly fuzz run batch`

#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream_storage::batch::{BatchRules, Batches, TimestampType, assign, validate_client_batches, verify_crc};

fuzz_target!(|bytes: &[u8]| {
    for batch in Batches::new(bytes) {
        let Ok((header, batch)) = batch else { break };
        assert_eq!(header.batch_bytes(), Ok(batch.len()));
        let _ = (verify_crc(batch), header.last_offset(), header.codec());
    }
    // Without the right checksum nothing would get past it, so the fuzzer's bytes are given one.
    let mut sealed = bytes.to_vec();
    if Batches::new(bytes).next().is_some_and(|batch| batch.is_ok()) {
        let attributes = sealed[22];
        assign(&mut sealed, 0, -1, Some(0));
        sealed[22] = attributes;
        let crc = crc_of(&sealed);
        sealed[17..21].copy_from_slice(&crc.to_be_bytes());
    }
    for compacted in [false, true] {
        let rules = BatchRules {
            max_message_bytes: 1 << 20,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: i64::MAX,
            now_ms: 0,
            timestamp_type: TimestampType::CreateTime,
            compacted,
            zstd_allowed: true,
        };
        let _ = validate_client_batches(&sealed, &rules);
    }
});

/// The checksum that `verify_crc` computes, learnt from its error.
fn crc_of(batch: &[u8]) -> u32 {
    match verify_crc(batch) {
        Err(millstream_storage::batch::BatchError::Crc { computed, .. }) => computed,
        _ => u32::from_be_bytes([batch[17], batch[18], batch[19], batch[20]]),
    }
}
