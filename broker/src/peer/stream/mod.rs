//! What a follower's shard and its leader's say to each other, over a stream of their own: `docs/cluster-protocol.md`.
//!
//! Pure: [`greeting`] is how a stream begins and between whom, [`frame`] what goes over it in either direction, [`section`]
//! the batches. Who dials, and when a stream counts as dead, is decided where partitions are known: `shard/peers/`.

pub mod frame;
pub mod greeting;
pub mod section;
#[cfg(test)]
mod tests;

/// The largest frame of a stream, without its length: [`section::FRAME_BYTES_TARGET`] but for one batch that is larger.
pub const FRAME_BYTES_MAX: usize = 256 << 20;

use crate::peer::frame::LENGTH_BYTES;

/// Begins a frame, whose length follows from what is appended until [`end`].
fn begin(kind: u8) -> Vec<u8> {
    let mut out = vec![0; LENGTH_BYTES];
    out.push(kind);
    out
}

/// Ends a frame of which so many bytes follow elsewhere.
fn end(out: &mut [u8], bytes_elsewhere: usize) {
    let length = out.len() - LENGTH_BYTES + bytes_elsewhere;
    assert!(length <= FRAME_BYTES_MAX, "frames are bounded, not of {length} bytes");
    out[..LENGTH_BYTES].copy_from_slice(&(length as i32).to_be_bytes());
}
