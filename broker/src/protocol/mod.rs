//! Wire formats: frames, the produce and fetch hot paths, and the advertised API table.

pub mod header;
pub mod versions;
pub mod wire;
