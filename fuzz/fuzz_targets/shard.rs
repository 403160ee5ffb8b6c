//! `scripts/fuzz.sh shard`; what it does is in `src/targets/shard.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (millstream_fuzz::targets::shard::TARGET.run)(bytes));
