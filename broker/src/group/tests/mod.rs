//! Tests of the whole coordinator: scenarios, all versions, random sequences.

mod consumers;
mod harness;
mod random;
mod scenarios;
mod versions;
