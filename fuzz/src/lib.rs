//! What Millstream does with bytes that it did not write, or that a disk may have damaged: one target for each kind.
//!
//! A target is a plain function, so that libFuzzer (`fuzz_targets/`, nightly Rust) and the runner in `main.rs` (any Rust)
//! call the same code. It fails by panicking, or by holding more memory than it may: see [`memory`].

#![forbid(unsafe_code)]

pub mod disk;
pub mod input;
pub mod memory;
pub mod mutate;

pub mod targets;

/// Something to be fuzzed.
#[derive(Clone, Copy)]
pub struct Target {
    /// What it is called on the command line.
    pub name: &'static str,
    /// Hands it one input.
    pub run: fn(&[u8]),
    /// Inputs to begin with: small, and together they reach every decoder that the target covers.
    pub seeds: fn() -> Vec<Vec<u8>>,
}
