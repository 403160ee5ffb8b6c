//! The last offset of every key, in memory of a fixed size: what a compaction knows of the part of a log that it has
//! looked through.
//!
//! A key is represented by 96 bits of its SipHash-1-3 under a secret of this generation, so that nobody can make keys
//! collide. Two different keys taken for one would cost one of them its value: among ten million keys the odds are below
//! one in 10^15.

use siphasher::sip128::SipHasher13;

use crate::journal::Salt;

/// Bytes of one slot: 12 of the hash, 4 of the offset.
pub const SLOT_BYTES: usize = 16;

/// Filled beyond this share, looking a key up takes too many steps: 4 / 5, in which the search for a missing one takes 13.
const LOAD: (usize, usize) = (4, 5);

/// Slots at least, however little memory is given.
const SLOTS_MIN: usize = 64;

/// Three words of hash, then the offset after the first plus one; 0 is an empty slot. Arrays, so that fresh memory is not
/// touched before it is used.
type Slot = [u32; SLOT_BYTES / 4];

/// An open-addressing table of keys' hashes and their last offsets.
#[derive(Clone)]
pub struct OffsetMap {
    slots: Vec<Slot>,
    entries: usize,
    first_offset: i64,
    hasher: SipHasher13,
}

impl std::fmt::Debug for OffsetMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OffsetMap({} keys in {} slots)", self.entries, self.slots.len())
    }
}

impl OffsetMap {
    /// An empty map for offsets from `first_offset` on, of at most `bytes_max` bytes of memory, and no larger than
    /// `keys_max` keys need.
    pub fn new(first_offset: i64, keys_max: u64, bytes_max: usize, secret: &Salt) -> OffsetMap {
        let wanted = keys_max.saturating_mul(LOAD.1 as u64) / LOAD.0 as u64 + 1;
        let slots = usize::try_from(wanted).unwrap_or(usize::MAX).min(bytes_max / SLOT_BYTES).max(SLOTS_MIN);
        OffsetMap {
            slots: vec![[0; SLOT_BYTES / 4]; slots],
            entries: 0,
            first_offset,
            hasher: SipHasher13::new_with_key(secret),
        }
    }

    /// Memory of the table, in bytes.
    pub fn bytes(&self) -> usize {
        self.slots.len() * SLOT_BYTES
    }

    /// Keys in it.
    pub fn keys(&self) -> usize {
        self.entries
    }

    /// Notes that a key's last offset is `offset`. `false`: there is no room for another key, or the offset is too far
    /// from the first one; nothing has changed.
    pub fn put(&mut self, key: &[u8], offset: i64) -> bool {
        let relative = offset.checked_sub(self.first_offset).and_then(|after| u32::try_from(after).ok());
        let Some(value) = relative.and_then(|relative| relative.checked_add(1)) else { return false };
        let (at, hash) = self.find(key);
        if self.slots[at][3] == 0 {
            if self.entries >= self.slots.len() * LOAD.0 / LOAD.1 {
                return false;
            }
            self.entries += 1;
        }
        self.slots[at] = [hash[0], hash[1], hash[2], value];
        true
    }

    /// The last offset of a key, if it was put.
    pub fn get(&self, key: &[u8]) -> Option<i64> {
        let (at, _) = self.find(key);
        let relative = self.slots[at][3].checked_sub(1)?;
        Some(self.first_offset + i64::from(relative))
    }

    /// The slot that holds a key, or the empty one where it belongs; and its hash.
    fn find(&self, key: &[u8]) -> (usize, [u32; 3]) {
        let hash = self.hasher.hash(key);
        let words = [hash.h1 as u32, (hash.h1 >> 32) as u32, hash.h2 as u32];
        // The high half of the product spreads the hashes evenly over any number of slots.
        let mut at = ((u128::from(hash.h1) * self.slots.len() as u128) >> 64) as usize;
        loop {
            let slot = &self.slots[at];
            if slot[3] == 0 || slot[..3] == words {
                return (at, words);
            }
            at = if at + 1 == self.slots.len() { 0 } else { at + 1 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use std::collections::HashMap;

    #[test]
    fn it_remembers_what_a_map_does() {
        let mut random = Random::new(1);
        let mut map = OffsetMap::new(1_000, 2_000, 1 << 20, &[7; 16]);
        let mut model = HashMap::new();
        for offset in 1_000..9_000 {
            let key = (random.below(2_000) as u32).to_le_bytes();
            assert!(map.put(&key, offset));
            model.insert(key, offset);
        }
        assert_eq!(map.keys(), model.len());
        for key in 0..3_000u32 {
            assert_eq!(map.get(&key.to_le_bytes()), model.get(&key.to_le_bytes()).copied(), "key {key}");
        }
    }

    #[test]
    fn memory_is_bounded_and_what_is_in_it_stays() {
        let mut map = OffsetMap::new(0, u64::MAX, 16_000, &[7; 16]);
        assert_eq!(map.bytes(), 16_000);
        let fits = (0..).take_while(|&key: &u32| map.put(&key.to_le_bytes(), i64::from(key))).count();
        assert_eq!(fits, 800, "four fifths of a thousand slots");
        assert!(map.put(&5u32.to_le_bytes(), 5_000), "a key that is there needs no room");
        assert_eq!((map.get(&5u32.to_le_bytes()), map.get(&799u32.to_le_bytes())), (Some(5_000), Some(799)));
        assert_eq!(map.get(&800u32.to_le_bytes()), None);
    }

    #[test]
    fn offsets_too_far_apart_do_not_fit() {
        let mut map = OffsetMap::new(10, 5, 1 << 20, &[7; 16]);
        assert!(map.put(b"", 10 + i64::from(u32::MAX) - 1));
        assert!(!map.put(b"", 10 + i64::from(u32::MAX)));
        assert!(!map.put(b"a", 9), "what lies before the first offset is not its business");
        assert_eq!(map.get(b""), Some(10 + i64::from(u32::MAX) - 1));
    }
}
