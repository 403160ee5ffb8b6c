//! An index of places by hash that is cheap to clone, and cheap to change after that.

use std::fmt;
use std::sync::Arc;

/// Children of one branch.
const FAN_OUT: usize = 32;
const FAN_OUT_BITS: u32 = FAN_OUT.ilog2();

/// Entries of one bucket, at most, while their hashes have bits left by which to tell them apart.
const BUCKET_ENTRIES_MAX: usize = 16;

/// Where things are in a list, by the hashes of what they are looked for by. It holds no keys: who looks says which of the
/// places with a hash is the right one.
///
/// It is a trie over the bits of the hashes, the lowest first, whose pieces are behind `Arc`. A clone takes one more count
/// of the root. A change copies the pieces on its way that a clone holds too: a branch for every factor of 32 in the number
/// of entries, and one bucket. Nothing ever walks over an index, so that its order means nothing.
///
/// Hashes that agree in their low bits make the trie deeper, and each further level takes 32 times as many keys to be tried
/// by somebody who looks for such. So a hash that is the same in every process will do, if it is a good one: those who name
/// topics are not trusted.
#[derive(Clone)]
pub struct PlaceIndex {
    root: Node,
}

#[derive(Clone)]
enum Node {
    Bucket(Arc<[Entry]>),
    Branch(Arc<[Node; FAN_OUT]>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    hash: u64,
    place: usize,
}

/// Which child of a branch leads to a hash, of whose bits so many led to the branch.
fn child(hash: u64, bits: u32) -> usize {
    (hash >> bits) as usize % FAN_OUT
}

impl PlaceIndex {
    /// An empty index.
    pub fn new() -> Self {
        PlaceIndex { root: Node::Bucket(Arc::default()) }
    }

    /// What `take` makes of a place with this hash, the first of which it makes something.
    pub fn find<T>(&self, hash: u64, take: impl FnMut(usize) -> Option<T>) -> Option<T> {
        let (mut node, mut bits) = (&self.root, 0);
        loop {
            match node {
                Node::Bucket(entries) => {
                    return entries.iter().filter(|entry| entry.hash == hash).map(|entry| entry.place).find_map(take);
                }
                Node::Branch(children) => node = &children[child(hash, bits)],
            }
            bits += FAN_OUT_BITS;
        }
    }

    /// Adds a place.
    pub fn insert(&mut self, hash: u64, place: usize) {
        let (node, bits) = self.bucket_mut(hash);
        let Node::Bucket(entries) = node else { unreachable!("a bucket was looked for") };
        *entries = entries.iter().copied().chain([Entry { hash, place }]).collect();
        if entries.len() > BUCKET_ENTRIES_MAX && bits < u64::BITS {
            let mut buckets: [Vec<Entry>; FAN_OUT] = Default::default();
            entries.iter().for_each(|entry| buckets[child(entry.hash, bits)].push(*entry));
            *node = Node::Branch(Arc::new(buckets.map(|bucket| Node::Bucket(bucket.into()))));
        }
    }

    /// Removes a place that was added with this hash.
    pub fn remove(&mut self, hash: u64, place: usize) {
        self.root.remove(Entry { hash, place }, 0);
    }

    /// The bucket of a hash, of whose bits so many lead to it; it and the way to it are no other index's from now on.
    fn bucket_mut(&mut self, hash: u64) -> (&mut Node, u32) {
        let (mut node, mut bits) = (&mut self.root, 0);
        while let Node::Branch(children) = node {
            node = &mut Arc::make_mut(children)[child(hash, bits)];
            bits += FAN_OUT_BITS;
        }
        (node, bits)
    }
}

impl Node {
    /// Removes an entry, of whose hash so many bits led to here.
    fn remove(&mut self, removed: Entry, bits: u32) {
        match self {
            Node::Bucket(entries) => {
                let left: Arc<[Entry]> = entries.iter().copied().filter(|entry| *entry != removed).collect();
                assert_eq!(left.len() + 1, entries.len(), "a place that was added");
                *entries = left;
            }
            Node::Branch(children) => {
                let children = Arc::make_mut(children);
                children[child(removed.hash, bits)].remove(removed, bits + FAN_OUT_BITS);
                // Who has hashes made for it gets no branches that stay.
                if let Some(entries) = entries_of_few(children) {
                    *self = Node::Bucket(entries);
                }
            }
        }
    }
}

/// The entries of a branch which has so few that they are better off in one bucket.
fn entries_of_few(children: &[Node; FAN_OUT]) -> Option<Arc<[Entry]>> {
    let mut count = 0;
    for child in children {
        match child {
            Node::Bucket(entries) => count += entries.len(),
            Node::Branch(_) => return None,
        }
        if count > BUCKET_ENTRIES_MAX / 2 {
            return None;
        }
    }
    let buckets = children.iter().filter_map(|child| match child {
        Node::Bucket(entries) => Some(entries),
        Node::Branch(_) => None,
    });
    Some(buckets.flat_map(|entries| entries.iter().copied()).collect())
}

impl Default for PlaceIndex {
    fn default() -> Self {
        PlaceIndex::new()
    }
}

impl fmt::Debug for PlaceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlaceIndex").finish_non_exhaustive()
    }
}

#[cfg(test)]
impl PlaceIndex {
    /// Where every piece is: what two indexes share is at one address.
    pub(super) fn pieces(&self, addresses: &mut Vec<usize>) {
        fn walk(node: &Node, addresses: &mut Vec<usize>) {
            match node {
                Node::Bucket(entries) => addresses.push(Arc::as_ptr(entries).addr()),
                Node::Branch(children) => {
                    addresses.push(Arc::as_ptr(children).addr());
                    children.iter().for_each(|child| walk(child, addresses));
                }
            }
        }
        walk(&self.root, addresses);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use millstream_storage::random::Random;

    use super::*;

    fn places(index: &PlaceIndex, hash: u64) -> BTreeSet<usize> {
        let mut places = BTreeSet::new();
        let none: Option<()> = index.find(hash, |place| {
            assert!(places.insert(place), "each place once");
            None
        });
        assert_eq!(none, None);
        places
    }

    /// Whatever the hashes have in common: their low bits, their high bits, everything.
    #[test]
    fn it_finds_what_was_added_and_not_removed_and_so_does_every_clone_of_it() {
        for (seed, mask) in (0..).zip([u64::MAX, 0xff, 0xff << 56, 0, 0xf0f0, u64::MAX << 32]) {
            let mut random = Random::new(seed);
            let hashes: Vec<u64> = (0..300).map(|_| random.next() & mask).collect();
            let mut indexes = vec![(PlaceIndex::new(), BTreeSet::new())];
            for step in 0..3_000 {
                if step % 500 == 499 {
                    indexes.push(indexes[random.index(indexes.len())].clone());
                }
                let at = random.index(indexes.len());
                let (index, model) = &mut indexes[at];
                let place = random.index(hashes.len());
                if model.insert(place) {
                    index.insert(hashes[place], place);
                } else if random.coin() {
                    model.remove(&place);
                    index.remove(hashes[place], place);
                }
            }
            for (index, model) in &indexes {
                for hash in &hashes {
                    let expected = model.iter().copied().filter(|place| hashes[*place] == *hash);
                    assert_eq!(places(index, *hash), expected.collect());
                }
                assert_eq!(places(index, random.next() | 1), [].into());
                let mut emptied = index.clone();
                model.iter().for_each(|place| emptied.remove(hashes[*place], *place));
                assert!(matches!(&emptied.root, Node::Bucket(entries) if entries.is_empty()), "nothing is left over");
            }
        }
    }

    #[test]
    fn a_change_after_a_clone_copies_one_way_from_the_root() {
        let mut random = Random::new(1);
        let hashes: Vec<u64> = (0..100_000).map(|_| random.next()).collect();
        let mut before = PlaceIndex::new();
        hashes.iter().enumerate().for_each(|(place, hash)| before.insert(*hash, place));
        let pieces = |index: &PlaceIndex| {
            let mut addresses = Vec::new();
            index.pieces(&mut addresses);
            addresses.into_iter().collect::<BTreeSet<usize>>()
        };
        let mut after = before.clone();
        assert_eq!(pieces(&before), pieces(&after));
        after.remove(hashes[7], 7);
        after.insert(hashes[7], 100_000);
        // Three branches lead to the bucket.
        assert_eq!(pieces(&after).difference(&pieces(&before)).count(), 4);
        assert_eq!(places(&before, hashes[7]), [7].into());
        assert_eq!(places(&after, hashes[7]), [100_000].into());
    }
}
