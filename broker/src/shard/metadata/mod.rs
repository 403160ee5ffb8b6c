//! What this shard knows of the cluster ([`view`]), and what metadata records mean for it ([`changes`]).

mod changes;
mod view;

pub use changes::{Changes, Consequence};
pub use view::{Metadata, NotHere};
