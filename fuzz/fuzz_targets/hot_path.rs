//! `scripts/fuzz.sh hot_path`; what it does is in `src/targets/hot_path.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (millstream_fuzz::targets::hot_path::TARGET.run)(bytes));
