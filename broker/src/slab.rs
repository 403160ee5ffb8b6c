//! A table whose places are reused: for what is under way and named by a small number.

/// A table of `T`, by place.
#[derive(Debug)]
pub struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Puts a value into a free place, which is returned and stays the value's until it is removed.
    pub fn insert(&mut self, value: T) -> u32 {
        match self.free.pop() {
            Some(place) => {
                self.places[place as usize] = Some(value);
                place
            }
            None => {
                self.places.push(Some(value));
                u32::try_from(self.places.len() - 1).expect("far fewer than 2^32 things are under way")
            }
        }
    }

    /// The value at a place in use.
    pub fn get_mut(&mut self, place: u32) -> &mut T {
        self.places[place as usize].as_mut().expect("the place is in use")
    }

    /// The value at a place, if it is in use.
    pub fn find_mut(&mut self, place: u32) -> Option<&mut T> {
        self.places.get_mut(place as usize)?.as_mut()
    }

    /// Takes the value from a place in use.
    pub fn remove(&mut self, place: u32) -> T {
        let value = self.places[place as usize].take().expect("the place is in use");
        self.free.push(place);
        value
    }

    /// Values in the table.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_reused() {
        let mut slab = Slab::default();
        let (a, b) = (slab.insert('a'), slab.insert('b'));
        assert_eq!((slab.len(), *slab.get_mut(b)), (2, 'b'));
        assert_eq!(slab.remove(a), 'a');
        assert!(slab.find_mut(a).is_none() && slab.find_mut(9).is_none());
        assert_eq!(slab.insert('c'), a);
        assert_eq!((slab.remove(a), slab.remove(b), slab.len()), ('c', 'b', 0));
    }
}
