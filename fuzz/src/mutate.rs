//! Damage to good inputs, for the runner that knows nothing of coverage.

use millstream_storage::random::Random;

/// Lengths, counts and offsets that decoders trip over: big-endian, little-endian and as variable-length numbers.
const NASTY: [&[u8]; 16] = [
    &[0xff],
    &[0x7f],
    &[0x80],
    &[0, 0],
    &[0xff, 0xff],
    &[0x7f, 0xff],
    &[0xff, 0x7f],
    &[0, 0, 0, 0],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0x80, 0, 0, 0],
    &[0xff, 0xff, 0xff, 0x7f],
    &[0, 1, 0x86, 0xa0],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80],
    &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
];

/// Changes made to one input, at most.
const CHANGES_MAX: usize = 6;
/// Bytes that one change moves, removes or inserts, at most.
const RANGE_BYTES_MAX: usize = 64;
/// No input grows beyond this.
const INPUT_BYTES_MAX: usize = 128 << 10;

/// A damaged copy of one of the seeds.
pub fn mutated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.index(seeds.len())].clone();
    for _ in 0..1 + random.index(CHANGES_MAX) {
        change(&mut bytes, seeds, random);
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let at = random.index(bytes.len() + 1);
    let end = bytes.len().min(at + 1 + random.index(RANGE_BYTES_MAX));
    match random.below(9) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.index(8),
        1 if at < bytes.len() => bytes[at] = random.next() as u8,
        2 if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(if random.below(2) == 0 { 1 } else { 0xff }),
        3 => {
            let nasty = NASTY[random.index(NASTY.len())];
            let end = bytes.len().min(at + nasty.len());
            bytes[at..end].copy_from_slice(&nasty[..end - at]);
        }
        4 => bytes.truncate(at),
        5 => drop(bytes.drain(at..end)),
        6 => {
            let range = bytes[at..end].to_vec();
            bytes.splice(at..at, range);
        }
        7 => {
            let other = &seeds[random.index(seeds.len())];
            let from = random.index(other.len() + 1);
            bytes.splice(at.., other[from..].iter().copied());
        }
        _ => {
            let inserted: Vec<u8> = (0..1 + random.index(16)).map(|_| random.next() as u8).collect();
            bytes.splice(at..at, inserted);
        }
    }
}
