//! The leader epochs in a checkpoint. `cargo +nightly fuzz run epochs`

#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream_storage::epochs::LeaderEpochs;

fuzz_target!(|bytes: &[u8]| {
    if let Some(mut epochs) = LeaderEpochs::decode(&mut &bytes[..]) {
        let mut again = Vec::new();
        epochs.encode(&mut again);
        assert_eq!(LeaderEpochs::decode(&mut &again[..]).as_ref(), Some(&epochs));
        let _ = epochs.end_offset(3, i64::MAX);
        epochs.truncate_start(5);
        epochs.truncate_end(9);
    }
});
