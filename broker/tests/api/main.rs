//! The APIs outside the hot path, through the same two functions as the shard uses them, with the real controller and
//! an independent encoder and decoder on the client's side.

mod admin;
mod cluster;
mod errors;
mod hostile;
mod versions;
