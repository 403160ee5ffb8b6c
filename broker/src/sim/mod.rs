//! The simulator: the shipped shard and log on virtual time, with a disk that loses power.

mod bugs;
pub mod checkers;
pub mod clients;
pub mod cluster;
pub mod damage;
pub mod disk;
pub mod logs;
pub mod random;
pub mod record;
pub mod restart;
pub mod schedule;
pub mod seeds;
