//! `scripts/fuzz.sh text`; what it does is in `src/targets/text.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (millstream_fuzz::targets::text::TARGET.run)(bytes));
