//! `scripts/fuzz.sh api`; what it does is in `src/targets/api.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (millstream_fuzz::targets::api::TARGET.run)(bytes));
