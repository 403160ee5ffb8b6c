//! Checksums of bytes whose parts' checksums are known already, without reading them again.

use crate::batch::{BatchHeader, CRC_FROM};

/// CRC-32C's polynomial, bits reversed: the highest bit stands for x^0.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Bits of the largest length, in bytes, and three more for its length in bits.
const POWERS: usize = 32 + 3;
/// x^(2^n) modulo the polynomial.
static POWERS_OF_X: [u32; POWERS] = {
    let mut powers = [1 << 30; POWERS];
    let mut n = 1;
    while n < POWERS {
        powers[n] = multiply(powers[n - 1], powers[n - 1]);
        n += 1;
    }
    powers
};

/// Shorter pieces are read again: that takes less than [`combine`].
const COMBINE_BYTES_MIN: usize = 16 << 10;

const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        product ^= b & ((a >> bit) & 1).wrapping_neg();
        b = (b >> 1) ^ (POLYNOMIAL & (b & 1).wrapping_neg());
    }
    product
}

/// The checksum of two pieces back to back, of which the second is `bytes` long. In a third of a microsecond, where
/// `crc32c::crc32c_combine` takes some.
fn combine(first: u32, second: u32, bytes: u32) -> u32 {
    let mut shifted = first;
    let mut rest = bytes;
    while rest != 0 {
        let bit = rest.trailing_zeros();
        shifted = multiply(POWERS_OF_X[bit as usize + 3], shifted);
        rest &= rest - 1;
    }
    shifted ^ second
}

/// Extends a checksum (CRC-32C) by bytes.
pub fn append(crc: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, bytes)
}

/// Extends a checksum by a whole batch of which the header says `batch_crc`. A large one is not read: where its header is
/// wrong, so is the outcome.
pub fn append_batch(crc: u32, batch_crc: u32, batch: &[u8]) -> u32 {
    if batch.len() < COMBINE_BYTES_MIN {
        return append(crc, batch);
    }
    let (front, covered) = batch.split_at(CRC_FROM);
    let covered_bytes = u32::try_from(covered.len()).expect("a batch is smaller than a segment");
    combine(append(crc, front), batch_crc, covered_bytes)
}

/// Extends a checksum by batches that stand back to back, as [`append_batch`] does. What is no whole batch is read.
pub fn append_batches(mut crc: u32, mut bytes: &[u8]) -> u32 {
    while let Some(header) = BatchHeader::read(bytes)
        && let Ok(length) = header.batch_bytes()
        && length <= bytes.len()
    {
        let (batch, rest) = bytes.split_at(length);
        crc = append_batch(crc, header.crc(), batch);
        bytes = rest;
    }
    append(crc, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::BatchBuilder;
    use crate::random::Random;

    #[test]
    fn combined_is_what_reading_all_gives() {
        let mut random = Random::new(1);
        let bytes: Vec<u8> = (0..70_000).map(|_| random.next() as u8).collect();
        for _ in 0..1000 {
            let end = random.index(bytes.len() + 1);
            let cut = random.index(end + 1);
            let (first, second) = (crc32c::crc32c(&bytes[..cut]), crc32c::crc32c(&bytes[cut..end]));
            assert_eq!(combine(first, second, (end - cut) as u32), crc32c::crc32c(&bytes[..end]));
        }
        for length in [1, 1 << 31, u32::MAX] {
            let (first, second) = (random.next() as u32, random.next() as u32);
            assert_eq!(combine(first, second, length), crc32c::crc32c_combine(first, second, length as usize));
        }
    }
    #[test]
    fn batches_are_summed_without_reading_large_ones() {
        let value = vec![7; 3 * COMBINE_BYTES_MIN];
        let small = BatchBuilder::new().record(0, None, Some(b"v"), &[]).build();
        let large = BatchBuilder::new().record(0, None, Some(&value), &[]).build();
        let bytes = [&small[..], &large, &small, &large[..large.len() - 1]].concat();
        assert_eq!(append_batches(append(0, b"fields"), &bytes), append(append(0, b"fields"), &bytes));
        // What the header says of a large batch counts, whatever follows it.
        let mut damaged = large.to_vec();
        *damaged.last_mut().expect("not empty") ^= 1;
        assert_eq!(append_batches(0, &damaged), append(0, &large));
        damaged[CRC_FROM - 5] ^= 1;
        assert_ne!(append_batches(0, &damaged), append(0, &large), "a leader epoch");
    }
}
