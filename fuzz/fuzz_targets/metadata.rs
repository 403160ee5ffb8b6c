//! `scripts/fuzz.sh metadata`; what it does is in `src/targets/metadata.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (millstream_fuzz::targets::metadata::TARGET.run)(bytes));
