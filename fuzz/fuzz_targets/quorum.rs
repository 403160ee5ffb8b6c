//! `scripts/fuzz.sh quorum`; what it does is in `src/targets/quorum.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (millstream_fuzz::targets::quorum::TARGET.run)(bytes));
