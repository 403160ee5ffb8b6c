//! `scripts/fuzz.sh batch`; what it does is in `src/targets/batch.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (millstream_fuzz::targets::batch::TARGET.run)(bytes));
