//! The idempotent producers in a checkpoint. `cargo +nightly fuzz run producer`

#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream_storage::batch::BatchHeader;
use millstream_storage::producer::ProducerStates;

fuzz_target!(|bytes: &[u8]| {
    let rest = &mut &bytes[..];
    if let Some(mut states) = ProducerStates::decode(rest) {
        let mut again = Vec::new();
        states.encode(&mut again);
        assert_eq!(ProducerStates::decode(&mut &again[..]).as_ref(), Some(&states));
        if let Some(header) = BatchHeader::read(rest) {
            let _ = states.check(header);
        }
        states.expire(0, 1);
    }
});
