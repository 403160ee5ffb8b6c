//! A list that is cheap to clone, and cheap to change after that.

use std::fmt;
use std::ops::Index;
use std::sync::Arc;

/// Elements of one leaf, and children of one branch, at most.
const FAN_OUT: usize = 64;
const FAN_OUT_BITS: u32 = FAN_OUT.ilog2();

/// A list of which clones share all that neither has changed since.
///
/// It is a tree of pieces behind `Arc`, each of 64 elements or pieces at most. A clone takes one more count of
/// the root. A change copies the pieces from the root to the element's leaf that a clone holds too, and no other: one for
/// 64 elements, three for a hundred thousand.
#[derive(Clone)]
pub struct SharedVec<T> {
    root: Piece<T>,
    len: usize,
}

#[derive(Clone)]
enum Piece<T> {
    Leaf(Arc<Vec<T>>),
    /// What holds nothing yet is an empty leaf.
    Branch(Arc<[Piece<T>; FAN_OUT]>),
}

impl<T> Piece<T> {
    fn empty_leaf() -> Self {
        Piece::Leaf(Arc::default())
    }

    fn branch(first: Piece<T>) -> Self {
        let empty = Arc::default();
        let mut children = std::array::from_fn(|_| Piece::Leaf(Arc::clone(&empty)));
        children[0] = first;
        Piece::Branch(Arc::new(children))
    }
}

/// How many branches are above each leaf.
fn height(len: usize) -> u32 {
    len.saturating_sub(1).checked_ilog2().map_or(0, |bits| bits / FAN_OUT_BITS)
}

/// Which child of a branch leads to an element. So many branches are above a leaf, this one among them.
fn child(at: usize, height: u32) -> usize {
    (at >> (FAN_OUT_BITS * height)) % FAN_OUT
}

impl<T> SharedVec<T> {
    /// An empty list.
    pub fn new() -> Self {
        SharedVec { root: Piece::empty_leaf(), len: 0 }
    }

    /// How many elements it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The element at this place.
    pub fn get(&self, at: usize) -> Option<&T> {
        (at < self.len).then(|| &self.leaf(at)[at % FAN_OUT])
    }

    /// Every element, in order.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter { list: self, leaf: [].iter(), next_leaf: 0 }
    }

    /// The leaf in which an element is.
    fn leaf(&self, at: usize) -> &[T] {
        let (mut piece, mut height) = (&self.root, height(self.len));
        loop {
            match piece {
                Piece::Leaf(elements) => return elements,
                Piece::Branch(children) => piece = &children[child(at, height)],
            }
            height -= 1;
        }
    }
}

impl<T: Clone> SharedVec<T> {
    /// The element at this place, to be changed: it is no other list's from now on.
    pub fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        if at >= self.len {
            return None;
        }
        let (mut piece, mut height) = (&mut self.root, height(self.len));
        loop {
            match piece {
                Piece::Leaf(elements) => return Arc::make_mut(elements).get_mut(at % FAN_OUT),
                Piece::Branch(children) => piece = &mut Arc::make_mut(children)[child(at, height)],
            }
            height -= 1;
        }
    }

    /// Adds an element behind the last one.
    pub fn push(&mut self, element: T) {
        let at = self.len;
        self.len += 1;
        let mut height = height(self.len);
        if height > 0 && at == FAN_OUT.pow(height) {
            let full = std::mem::replace(&mut self.root, Piece::empty_leaf());
            self.root = Piece::branch(full);
        }
        let mut piece = &mut self.root;
        loop {
            match piece {
                Piece::Leaf(elements) => {
                    let elements = Arc::make_mut(elements);
                    // Most lists stay as short as they are at first: little room is left over.
                    if elements.len() == elements.capacity() {
                        elements.reserve_exact((elements.len() / 4).clamp(1, FAN_OUT - elements.len()));
                    }
                    elements.push(element);
                    return;
                }
                Piece::Branch(children) => {
                    piece = &mut Arc::make_mut(children)[child(at, height)];
                    height -= 1;
                    if height > 0 && matches!(piece, Piece::Leaf(_)) {
                        *piece = Piece::branch(Piece::empty_leaf());
                    }
                }
            }
        }
    }
}

impl<T> Default for SharedVec<T> {
    fn default() -> Self {
        SharedVec::new()
    }
}

impl<T> Index<usize> for SharedVec<T> {
    type Output = T;

    fn index(&self, at: usize) -> &T {
        assert!(at < self.len, "element {at} of {}", self.len);
        &self.leaf(at)[at % FAN_OUT]
    }
}

impl<T: Clone> FromIterator<T> for SharedVec<T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        let mut list = SharedVec::new();
        elements.into_iter().for_each(|element| list.push(element));
        list
    }
}

impl<'a, T> IntoIterator for &'a SharedVec<T> {
    type Item = &'a T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<T: PartialEq> PartialEq for SharedVec<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other)
    }
}

impl<T: Eq> Eq for SharedVec<T> {}

impl<T: fmt::Debug> fmt::Debug for SharedVec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

/// The elements of a list, in order.
#[derive(Clone)]
pub struct Iter<'a, T> {
    list: &'a SharedVec<T>,
    leaf: std::slice::Iter<'a, T>,
    /// Where the leaf after this one begins.
    next_leaf: usize,
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        if self.leaf.len() == 0 && self.next_leaf < self.list.len {
            self.leaf = self.list.leaf(self.next_leaf).iter();
            self.next_leaf += FAN_OUT;
        }
        self.leaf.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.leaf.len() + self.list.len.saturating_sub(self.next_leaf);
        (left, Some(left))
    }
}

impl<T> ExactSizeIterator for Iter<'_, T> {}

#[cfg(test)]
impl<T> SharedVec<T> {
    /// Where every piece is: what two lists share is at one address.
    pub(super) fn pieces(&self, addresses: &mut Vec<usize>) {
        fn walk<T>(piece: &Piece<T>, addresses: &mut Vec<usize>) {
            match piece {
                Piece::Leaf(elements) => addresses.push(Arc::as_ptr(elements).addr()),
                Piece::Branch(children) => {
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

    fn assert_same(list: &SharedVec<u64>, model: &[u64]) {
        assert_eq!(list.len(), model.len());
        assert_eq!(list.is_empty(), model.is_empty());
        assert_eq!(list.iter().len(), model.len());
        assert!(list.iter().eq(model));
        assert!((0..model.len()).all(|at| list[at] == model[at] && list.get(at) == Some(&model[at])));
        assert_eq!(list.get(model.len()), None);
        assert_eq!(*list, model.iter().copied().collect());
    }

    #[test]
    fn it_is_a_list_and_so_is_every_clone_of_it() {
        for seed in 0..20 {
            let mut random = Random::new(seed);
            let mut lists = vec![(SharedVec::new(), Vec::new())];
            for _ in 0..100 {
                let at = random.index(lists.len());
                let (list, model) = &mut lists[at];
                match random.below(8) {
                    0 => {
                        let clone = (list.clone(), model.clone());
                        lists.push(clone);
                    }
                    1 => {
                        for _ in 0..random.below(300) {
                            let value = random.next();
                            list.push(value);
                            model.push(value);
                        }
                    }
                    2 | 3 => {
                        list.push(seed);
                        model.push(seed);
                    }
                    _ => {
                        let at = random.index(model.len() + 1);
                        assert_eq!(list.get_mut(at).is_some(), at < model.len());
                        if let (Some(element), Some(expected)) = (list.get_mut(at), model.get_mut(at)) {
                            *element = random.next();
                            *expected = *element;
                        }
                    }
                }
            }
            lists.iter().for_each(|(list, model)| assert_same(list, model));
        }
    }

    #[test]
    fn it_grows_by_a_level_where_the_tree_is_full() {
        let mut list = SharedVec::new();
        let mut clones = Vec::new();
        let edges = [0, 1, 63, 64, 65, 4095, 4096, 4097, 262_143, 262_144, 262_145];
        for value in 0..=edges[edges.len() - 1] {
            if edges.contains(&value) {
                clones.push(list.clone());
            }
            list.push(value);
        }
        for (clone, len) in clones.iter().zip(edges) {
            assert_eq!(clone.len(), len);
            assert!(clone.iter().copied().eq(0..len));
        }
        assert_eq!(size_of_val(&list), size_of::<Vec<u64>>());
    }

    #[test]
    fn a_change_after_a_clone_copies_one_way_from_the_root() {
        let before: SharedVec<u64> = (0..100_000).collect();
        let shared = |list: &SharedVec<u64>| {
            let mut addresses = Vec::new();
            list.pieces(&mut addresses);
            addresses.into_iter().collect::<BTreeSet<usize>>()
        };
        let mut after = before.clone();
        assert_eq!(shared(&before), shared(&after));
        *after.get_mut(70_000).unwrap() = 0;
        assert_eq!(shared(&after).difference(&shared(&before)).count(), 3);
        assert_eq!(before[70_000], 70_000);
        // What was copied is its own by now.
        let once = shared(&after);
        *after.get_mut(70_001).unwrap() = 0;
        assert_eq!(shared(&after), once);
    }
}
