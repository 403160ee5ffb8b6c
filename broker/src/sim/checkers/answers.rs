//! Reads, questions and deletions of records are answered soon, also while the disk is full.
//!
//! README, "What an acknowledgement means": on a full disk fetches and deletes go on. A disk that is slow makes everything
//! slow: nothing is promised then.

/// How long such an answer may take, on a disk that is not slow.
const ANSWER_US_MAX: u64 = 2_000_000;

/// Watches all clients.
#[derive(Clone, Debug)]
pub struct AnswersComeInTime {
    /// Since when each client waits for an answer that must come soon.
    since_us: Vec<Option<u64>>,
}

impl AnswersComeInTime {
    /// So many clients.
    pub fn new(clients: usize) -> AnswersComeInTime {
        AnswersComeInTime { since_us: vec![None; clients] }
    }

    /// A client waits, perhaps for longer already.
    pub fn waits(&mut self, client: usize, now_us: u64) {
        self.since_us[client].get_or_insert(now_us);
    }

    /// A client waits no more: it was answered, or its connection is gone.
    pub fn ends(&mut self, client: usize) {
        self.since_us[client] = None;
    }

    /// Looks at the time.
    pub fn check(&self, client: usize, now_us: u64) -> Result<(), String> {
        let waits_us = self.since_us[client].map_or(0, |since| now_us - since);
        if waits_us <= ANSWER_US_MAX { Ok(()) } else { Err(format!("waits for an answer for {waits_us} us")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_takes_long_is_noticed() {
        let mut checker = AnswersComeInTime::new(1);
        checker.waits(0, 10);
        checker.waits(0, 1_000);
        assert_eq!(checker.check(0, 10 + ANSWER_US_MAX), Ok(()));
        assert!(checker.check(0, 11 + ANSWER_US_MAX).is_err(), "it waits since the first time");
        checker.ends(0);
        assert_eq!(checker.check(0, 11 + ANSWER_US_MAX), Ok(()));
    }
}
