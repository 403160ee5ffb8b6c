//! The simulator: what is shipped on virtual time, with disks that lose power.

mod bugs;
pub mod checkers;
pub mod clients;
pub mod damage;
pub mod disk;
pub mod logs;
pub mod network;
pub mod node;
pub mod peer_network;
pub mod record;
pub mod restart;
pub mod scenario;
pub mod schedule;
pub mod snapshots;
mod streams;
pub mod swarm;
pub mod timeline;
pub mod witness;
pub mod world;
