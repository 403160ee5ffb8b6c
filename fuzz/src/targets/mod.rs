//! One module for each target. `README.md` says which decoder is where.

pub mod api;
pub mod batch;
pub mod checkpoint;
pub mod compaction;
pub mod frames;
pub mod groups;
pub mod hot_path;
pub mod journal;
pub mod metadata;
pub mod peer;
pub mod quorum;
pub mod records;
pub mod requests;
pub mod shard;
pub mod stream;
pub mod text;

use crate::Target;

/// All of them.
pub const ALL: [Target; 15] = [
    api::TARGET,
    batch::TARGET,
    checkpoint::TARGET,
    compaction::TARGET,
    frames::TARGET,
    groups::TARGET,
    hot_path::TARGET,
    journal::TARGET,
    metadata::TARGET,
    peer::TARGET,
    quorum::TARGET,
    records::TARGET,
    shard::TARGET,
    stream::TARGET,
    text::TARGET,
];
