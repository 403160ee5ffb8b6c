//! What the nodes of a cluster say to each other, and over which connections: `docs/cluster-protocol.md`.
//!
//! Pure: [`links`] decides whom to dial, what a greeting is worth and when a connection counts as dead; [`frame`] says
//! which bytes go over it, [`wire`] which bytes requests to the controller and its answers are. The sockets are
//! `driver/peers.rs`. [`stream`] is what shards say to each other, over connections of their own.

pub mod frame;
pub mod links;
pub mod stream;
pub mod wire;
