//! What the controller of a node tells operators of who decides, and of what others say that cannot be taken.

use std::time::Duration;

use super::{ControllerNode, Effect};

/// That nobody is known to decide is said when it has been so for this long: an election takes less.
const SILENCE_SAID_AFTER: Duration = Duration::from_secs(2);
/// What others say wrong is said once within this time.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// What was said.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// The node that decides, as was said last.
    leader: Option<i32>,
    /// Since when nobody is known to decide, until it is said.
    silent_since: Option<Duration>,
    /// When something was last said of what others say wrong, and how much was not said since.
    warned: Option<(Duration, u64)>,
}

impl Notices {
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.silent_since.map(|since| since + SILENCE_SAID_AFTER)
    }
}

impl ControllerNode {
    /// Says who decides, where that is somebody else than was said last.
    pub(super) fn notice_leader(&mut self, effects: &mut Vec<Effect>) {
        let (leader, me, term) = (self.leader(), self.options.node_id, self.quorum.term());
        if self.is_alone() {
            return;
        }
        match leader {
            None => {
                if self.notices.leader.is_some() {
                    self.notices.silent_since.get_or_insert(self.now.elapsed);
                }
            }
            // It may decide when it has an entry of its term committed.
            Some(leader) if leader == me && self.speculative.is_none() => {}
            Some(leader) => {
                self.notices.silent_since = None;
                if self.notices.leader.replace(leader) != Some(leader) {
                    let who = if leader == me { "this node".to_owned() } else { format!("node {leader}") };
                    effects.push(Effect::Say { message: format!("{who} is the controller, in term {term}") });
                }
            }
        }
    }

    /// Says that nobody is known to decide, when that has been so for a while.
    pub(super) fn notice_silence(&mut self, effects: &mut Vec<Effect>) {
        if self.notices.next_deadline().is_some_and(|at| at <= self.now.elapsed) {
            self.notices.silent_since = None;
            let before = self.notices.leader.take().map_or_else(String::new, |node| format!("; it was node {node}"));
            let message = format!("no controller is known{before}: what this node leads is served, nothing is decided");
            effects.push(Effect::Warn { message });
        }
    }

    /// Says that another node has said something that cannot be taken.
    pub(super) fn warn_of_peer(&mut self, message: String, effects: &mut Vec<Effect>) {
        match &mut self.notices.warned {
            Some((at, more)) if self.now.elapsed < *at + WARN_EVERY => *more += 1,
            warned => {
                let more = warned.map_or(0, |(_, more)| more);
                *warned = Some((self.now.elapsed, 0));
                let message = if more == 0 { message } else { format!("{message} ({more} more like it before)") };
                effects.push(Effect::Warn { message });
            }
        }
    }
}
