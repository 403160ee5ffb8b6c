//! Wire formats: frames, the produce and fetch hot paths, and the advertised API table.

pub mod fetch;
pub mod header;
pub mod produce;
pub mod send;
pub mod topic;
pub mod versions;
pub mod wire;
