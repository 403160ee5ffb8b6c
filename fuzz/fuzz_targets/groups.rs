//! `scripts/fuzz.sh groups`; what it does is in `src/targets/groups.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (millstream_fuzz::targets::groups::TARGET.run)(bytes));
