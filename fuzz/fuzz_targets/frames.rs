//! `scripts/fuzz.sh frames`; what it does is in `src/targets/frames.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (millstream_fuzz::targets::frames::TARGET.run)(bytes));
