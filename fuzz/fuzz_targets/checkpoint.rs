//! `scripts/fuzz.sh checkpoint`; what it does is in `src/targets/checkpoint.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (millstream_fuzz::targets::checkpoint::TARGET.run)(bytes));
