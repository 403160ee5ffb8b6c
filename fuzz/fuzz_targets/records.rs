//! `scripts/fuzz.sh records`; what it does is in `src/targets/records.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (millstream_fuzz::targets::records::TARGET.run)(bytes));
