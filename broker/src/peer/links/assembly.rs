//! Puts the pieces of a message together again.

use bytes::Bytes;

/// What a message is, as every piece of it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    Raft,
    Request { id: u64 },
    Response { id: u64, offset: u64 },
    Adopt,
}

/// The message that comes over one connection. Messages come one after the other.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    head: Option<Head>,
    bytes: Vec<u8>,
}

impl Assembly {
    /// Bytes that are kept.
    pub(super) fn kept_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Takes a piece of a message of at most so many bytes. Returns the message if it is complete; the error says what the
    /// other side has done wrong.
    pub(super) fn add(
        &mut self,
        head: Head,
        is_last: bool,
        piece: Bytes,
        bytes_max: usize,
    ) -> Result<Option<Bytes>, &'static str> {
        match self.head {
            None if is_last => return Ok(Some(piece)),
            Some(begun) if begun != head => return Err("a message begins before the last one ends"),
            _ => {}
        }
        if self.bytes.len() + piece.len() > bytes_max {
            return Err("a message is too large");
        }
        self.head = (!is_last).then_some(head);
        self.bytes.extend_from_slice(&piece);
        Ok(is_last.then(|| std::mem::take(&mut self.bytes).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_a_message() {
        let mut assembly = Assembly::default();
        let mut add = |head, is_last| assembly.add(head, is_last, Bytes::from_static(b"ab"), 4);
        assert_eq!(add(Head::Raft, true), Ok(Some("ab".into())));
        assert_eq!(add(Head::Request { id: 1 }, false), Ok(None));
        assert!(add(Head::Request { id: 2 }, true).is_err());
        assert!(add(Head::Raft, false).is_err());
        assert_eq!(add(Head::Request { id: 1 }, true), Ok(Some("abab".into())));
        assert_eq!(add(Head::Adopt, false), Ok(None));
        assert_eq!(add(Head::Adopt, false), Ok(None));
        assert!(add(Head::Adopt, true).is_err(), "too large");
        assert_eq!(assembly.kept_bytes(), 4);
    }
}
