//! What the nodes of a cluster say to each other, and over which connections: `docs/cluster-protocol.md`.
//!
//! Pure: [`frame`] says which bytes go over them, [`wire`] which bytes requests to the controller and its answers are.

pub mod frame;
mod reader;
pub mod wire;
