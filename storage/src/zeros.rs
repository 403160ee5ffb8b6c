//! Zeros to write: space of a file that was reserved and never written costs every durable write to it a commit of the
//! file system's own journal, which takes several times as long as the write itself.

use bytes::Bytes;

/// The memory that zeros are written from, again and again.
const ZERO_BYTES: usize = 64 << 10;

/// Aligned, so that a disk can be given it as it is.
#[repr(align(4096))]
struct Aligned([u8; ZERO_BYTES]);

static ZEROS: Aligned = Aligned([0; ZERO_BYTES]);

/// `bytes` zeros, in parts that take no memory of their own.
pub(crate) fn zeros(bytes: u64) -> Vec<Bytes> {
    let part = Bytes::from_static(&ZEROS.0);
    let whole = (bytes / ZERO_BYTES as u64) as usize;
    let mut parts = vec![part.clone(); whole];
    let rest = (bytes % ZERO_BYTES as u64) as usize;
    if rest > 0 {
        parts.push(part.slice(..rest));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_as_many_as_asked_for() {
        for bytes in [0, 1, 4096, ZERO_BYTES as u64, 3 * ZERO_BYTES as u64 + 8192] {
            let parts = zeros(bytes);
            assert_eq!(parts.iter().map(|part| part.len() as u64).sum::<u64>(), bytes);
            assert!(parts.iter().all(|part| part.as_ptr().addr().is_multiple_of(4096)));
            assert!(parts.iter().all(|part| part.iter().all(|byte| *byte == 0)));
        }
    }
}
