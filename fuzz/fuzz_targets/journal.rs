//! `scripts/fuzz.sh journal`; what it does is in `src/targets/journal.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (millstream_fuzz::targets::journal::TARGET.run)(bytes));
