//! The simulator: the shipped shard and log on virtual time, with a disk that loses power.

pub mod disk;
pub mod random;
