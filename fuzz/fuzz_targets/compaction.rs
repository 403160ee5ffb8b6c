//! `scripts/fuzz.sh compaction`; what it does is in `src/targets/compaction.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (millstream_fuzz::targets::compaction::TARGET.run)(bytes));
