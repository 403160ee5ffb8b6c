//! `scripts/fuzz.sh peer`; what it does is in `src/targets/peer.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (millstream_fuzz::targets::peer::TARGET.run)(bytes));
