//! `scripts/fuzz.sh stream`; what it does is in `src/targets/stream.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (millstream_fuzz::targets::stream::TARGET.run)(bytes));
