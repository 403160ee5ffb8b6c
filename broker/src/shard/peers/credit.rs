//! How much a leader may have under way on a stream: so many bytes of data frames, their lengths included, as the follower's
//! window has room for. A frame is always let go when nothing is under way, however large its one batch is.

use std::collections::{HashSet, VecDeque};

/// The leader's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    window_bytes: u64,
    sent_bytes: u64,
    consumed_bytes: u64,
}

impl Credit {
    /// Nothing was sent yet.
    pub fn new(window_bytes: u32) -> Credit {
        Credit { window_bytes: u64::from(window_bytes), sent_bytes: 0, consumed_bytes: 0 }
    }

    /// Bytes that the follower has not taken yet.
    pub fn outstanding(&self) -> u64 {
        self.sent_bytes - self.consumed_bytes
    }

    /// Bytes that may be sent.
    pub fn room(&self) -> u64 {
        self.window_bytes.saturating_sub(self.outstanding())
    }

    /// A frame of so many bytes is sent.
    pub fn sent(&mut self, bytes: u64) {
        assert!(self.outstanding() == 0 || bytes <= self.room(), "more is sent than there is room for");
        self.sent_bytes += bytes;
    }

    /// The follower has taken so many bytes since the stream began. The error is why that cannot be.
    pub fn consumed(&mut self, consumed_bytes: u64) -> Result<(), String> {
        if consumed_bytes < self.consumed_bytes || consumed_bytes > self.sent_bytes {
            let (sent, before) = (self.sent_bytes, self.consumed_bytes);
            return Err(format!("{consumed_bytes} bytes are taken of {sent}, and were {before} before"));
        }
        self.consumed_bytes = consumed_bytes;
        Ok(())
    }
}

/// The follower's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    window_bytes: u64,
    received_bytes: u64,
    consumed_bytes: u64,
    /// Of those, what the leader knows.
    said_bytes: u64,
}

impl Taken {
    /// Nothing has come yet.
    pub fn new(window_bytes: u32) -> Taken {
        Taken { window_bytes: u64::from(window_bytes), received_bytes: 0, consumed_bytes: 0, said_bytes: 0 }
    }

    /// A frame of so many bytes has come. The error is why it should not have.
    pub fn received(&mut self, bytes: u64) -> Result<(), String> {
        let outstanding = self.received_bytes - self.consumed_bytes;
        if outstanding > 0 && outstanding + bytes > self.window_bytes {
            return Err(format!("{bytes} bytes came where {outstanding} of {} wait", self.window_bytes));
        }
        self.received_bytes += bytes;
        Ok(())
    }

    /// So many bytes more are taken.
    pub fn consumed(&mut self, bytes: u64) {
        self.consumed_bytes += bytes;
        assert!(self.consumed_bytes <= self.received_bytes, "what is taken has come");
    }

    /// Whether the leader should hear how much is taken though nothing else is to be said: it may wait for it.
    pub fn must_say(&self) -> bool {
        let unsaid = self.consumed_bytes - self.said_bytes;
        unsaid > 0 && (unsaid >= self.window_bytes / 4 || self.consumed_bytes == self.received_bytes)
    }

    /// How much is taken, which the leader is told now.
    pub fn say(&mut self) -> u64 {
        self.said_bytes = self.consumed_bytes;
        self.consumed_bytes
    }
}

/// Partitions that have something to send on a stream, each once, in turn.
#[derive(Clone, Debug, Default)]
pub struct Dirty {
    line: VecDeque<u32>,
    waiting: HashSet<u32>,
}

impl Dirty {
    /// A partition has something to send.
    pub fn push(&mut self, handle: u32) {
        if self.waiting.insert(handle) {
            self.line.push_back(handle);
        }
    }

    /// The next in turn, which leaves the line.
    pub fn pop(&mut self) -> Option<u32> {
        let handle = self.line.pop_front()?;
        self.waiting.remove(&handle);
        Some(handle)
    }

    /// One that could not be served is the next again.
    pub fn put_back(&mut self, handle: u32) {
        if self.waiting.insert(handle) {
            self.line.push_front(handle);
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.line.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.line.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_under_way_than_the_window_but_for_one_frame() {
        let mut credit = Credit::new(100);
        let mut taken = Taken::new(100);
        for bytes in [60, 40] {
            credit.sent(bytes);
            taken.received(bytes).expect("there is room");
        }
        assert_eq!((credit.outstanding(), credit.room()), (100, 0));
        assert!(taken.received(1).is_err());
        taken.consumed(60);
        assert!(taken.must_say());
        credit.consumed(taken.say()).expect("it was sent");
        assert_eq!((credit.room(), taken.must_say()), (60, false));
        taken.consumed(40);
        credit.consumed(taken.say()).expect("it was sent");
        credit.sent(1000);
        taken.received(1000).expect("nothing waits");
        assert_eq!(credit.room(), 0);
        assert!(credit.consumed(1101).is_err() && credit.consumed(99).is_err());
    }

    #[test]
    fn little_is_not_worth_a_frame_unless_nothing_else_comes() {
        let mut taken = Taken::new(100);
        taken.received(50).expect("there is room");
        taken.consumed(24);
        assert!(!taken.must_say());
        taken.consumed(1);
        assert!(taken.must_say());
        taken.say();
        taken.consumed(24);
        assert!(!taken.must_say());
        taken.consumed(1);
        assert!(taken.must_say(), "the leader may have nothing to send but what waits for this");
    }

    #[test]
    fn dirty_partitions_stand_in_line_once() {
        let mut dirty = Dirty::default();
        [1, 2, 1, 3].into_iter().for_each(|handle| dirty.push(handle));
        assert_eq!((dirty.len(), dirty.pop()), (3, Some(1)));
        dirty.push(1);
        dirty.put_back(9);
        assert_eq!(std::iter::from_fn(|| dirty.pop()).collect::<Vec<_>>(), [9, 2, 3, 1]);
        assert!(dirty.is_empty());
    }
}
