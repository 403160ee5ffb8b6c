//! A list of brokers: the replicas of a partition, or those of them that are in sync.

use std::fmt;
use std::ops::Deref;

/// As many brokers as a list holds without an allocation of its own: more replicas than hardly any topic has.
const INLINE_MAX: usize = 5;

/// Numbers of brokers, in an order that means something. There are two of these for every partition of a cluster, so that
/// a short list takes no memory elsewhere.
///
/// A list has one form only, so that what is equal is equal byte by byte: the places that it does not use are 0.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerIds(Form);

#[derive(Clone, PartialEq, Eq)]
enum Form {
    Inline { len: u8, ids: [i32; INLINE_MAX] },
    Allocated(Box<[i32]>),
}

impl Deref for BrokerIds {
    type Target = [i32];

    fn deref(&self) -> &[i32] {
        match &self.0 {
            Form::Inline { len, ids } => &ids[..usize::from(*len)],
            Form::Allocated(ids) => ids,
        }
    }
}

impl Default for BrokerIds {
    fn default() -> Self {
        [].as_slice().into()
    }
}

impl From<&[i32]> for BrokerIds {
    fn from(list: &[i32]) -> Self {
        BrokerIds(if list.len() <= INLINE_MAX {
            let mut ids = [0; INLINE_MAX];
            ids[..list.len()].copy_from_slice(list);
            Form::Inline { len: list.len() as u8, ids }
        } else {
            Form::Allocated(list.into())
        })
    }
}

impl From<Vec<i32>> for BrokerIds {
    fn from(list: Vec<i32>) -> Self {
        list.as_slice().into()
    }
}

impl<const COUNT: usize> From<[i32; COUNT]> for BrokerIds {
    fn from(list: [i32; COUNT]) -> Self {
        list.as_slice().into()
    }
}

impl FromIterator<i32> for BrokerIds {
    fn from_iter<I: IntoIterator<Item = i32>>(ids: I) -> Self {
        ids.into_iter().collect::<Vec<i32>>().into()
    }
}

impl<'a> IntoIterator for &'a BrokerIds {
    type Item = &'a i32;
    type IntoIter = std::slice::Iter<'a, i32>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<const COUNT: usize> PartialEq<[i32; COUNT]> for BrokerIds {
    fn eq(&self, other: &[i32; COUNT]) -> bool {
        **self == *other
    }
}

impl fmt::Debug for BrokerIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_what_it_was_made_of_however_long() {
        assert_eq!(BrokerIds::default(), []);
        for len in 0..10 {
            let list: Vec<i32> = (0..len).map(|id| id * 3 - 1).collect();
            let ids = BrokerIds::from(list.clone());
            assert_eq!(*ids, *list);
            assert_eq!(ids, list.iter().copied().collect::<BrokerIds>());
            assert_eq!(ids.clone(), BrokerIds::from(list.as_slice()));
            assert_eq!(format!("{ids:?}"), format!("{list:?}"));
            assert_ne!(ids, BrokerIds::from([list.as_slice(), &[0]].concat()), "0 is a broker's number, too");
        }
        assert_eq!(BrokerIds::from([3, 1]), [3, 1]);
        assert_eq!(size_of::<BrokerIds>(), 24);
    }
}
