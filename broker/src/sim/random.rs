//! The simulator's only source of chance.

pub use millstream_storage::random::Random;
