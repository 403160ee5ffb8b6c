//! The hash by which Java's producer chooses a key's partition: 32-bit MurmurHash2 with Kafka's seed. The same key must
//! go to the same partition whichever client writes it.

const SEED: u32 = 0x9747_b28c;
const MULTIPLIER: u32 = 0x5bd1_e995;
const SHIFT: u32 = 24;

/// The partition of a key among so many, which must be at least one.
pub fn partition(key: &[u8], partitions: i32) -> i32 {
    // Java takes the absolute value by clearing the sign.
    let positive = hash(key) & 0x7fff_ffff;
    i32::try_from(positive % u32::try_from(partitions).expect("there are partitions")).expect("it is below partitions")
}

fn hash(bytes: &[u8]) -> u32 {
    let mut hash = SEED ^ (bytes.len() as u32);
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        let mut word = u32::from_le_bytes(word.try_into().expect("four bytes"));
        word = word.wrapping_mul(MULTIPLIER);
        word ^= word >> SHIFT;
        hash = hash.wrapping_mul(MULTIPLIER) ^ word.wrapping_mul(MULTIPLIER);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (index, &byte) in rest.iter().enumerate() {
            hash ^= u32::from(byte) << (8 * index);
        }
        hash = hash.wrapping_mul(MULTIPLIER);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values that Kafka's own test demands (`UtilsTest.testMurmur2`).
    #[test]
    fn it_is_the_hash_of_the_java_client() {
        for (key, expected) in [
            ("21", -973932308),
            ("foobar", -790332482),
            ("a-little-bit-long-string", -985981536),
            ("a-little-bit-longer-string", -1486304829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
            ("abc", 479470107),
        ] {
            assert_eq!(hash(key.as_bytes()) as i32, expected, "{key}");
            assert_eq!(partition(key.as_bytes(), 1000), (expected & 0x7fff_ffff) % 1000);
        }
    }
}
