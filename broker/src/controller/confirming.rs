//! Heartbeats whose answer grants a lease. They are answered when the quorum has confirmed that this node still decides, asked
//! after they had come: nobody else was elected before, and whoever is fences nobody before a full session. One question
//! covers all that had come before it.

use std::collections::VecDeque;

use super::Asked;

/// Heartbeats that are not answered yet; they count among [`super::REQUESTS_HELD_MAX`]. None waits for long: a leader that is not
/// confirmed steps down within an election time-out.
#[derive(Debug, Default)]
pub(super) struct Confirming {
    /// The question under way, and what it covers.
    asked: Option<(u64, Vec<Asked>)>,
    /// Came later.
    next: Vec<Asked>,
    /// Covered by a question that was answered: they are decided on what is true now.
    confirmed: VecDeque<Asked>,
}

impl Confirming {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.asked.as_ref().map_or(0, |(_, covered)| covered.len()) + self.next.len() + self.confirmed.len()
    }

    /// A heartbeat has come that the next question covers.
    pub(super) fn push(&mut self, asked: Asked) {
        self.next.push(asked);
    }

    /// Whether a question is wanted: there is never more than one.
    pub(super) fn wants_question(&self) -> bool {
        self.asked.is_none() && !self.next.is_empty()
    }

    /// The question of this number is under way.
    pub(super) fn begin(&mut self, number: u64) {
        assert!(self.asked.is_none(), "one question at a time");
        self.asked = Some((number, std::mem::take(&mut self.next)));
    }

    /// The question of this number is answered.
    pub(super) fn confirm(&mut self, number: u64) {
        let Some((asked, covered)) = self.asked.take() else { panic!("question {number} was not asked") };
        assert_eq!(asked, number, "the answer to another question");
        self.confirmed.extend(covered);
    }

    /// Takes the next heartbeat that can be answered.
    pub(super) fn next_confirmed(&mut self) -> Option<Asked> {
        self.confirmed.pop_front()
    }

    /// Takes everything: this node does not decide any more.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Asked> {
        let Confirming { asked, next, confirmed } = std::mem::take(self);
        confirmed.into_iter().chain(asked.into_iter().flat_map(|(_, covered)| covered)).chain(next)
    }
}
