//! What follows from what the crate has ready: entries and votes that are to be written, entries that are committed, and what
//! is told of them.

use std::sync::Arc;

use millstream_storage::bug::{Bug, is_planted};
use raft::StateRole;
use raft::eraftpb::{self, Entry, Message, MessageType};

use super::entry::{Payload, conf_change, encoded_bytes, payload};
use super::file::{HardState, Position};
use super::members::MemberId;
use super::message::{encode_message, is_same, snapshot_of};
use super::output::Output;
use super::{Quorum, Told};
use crate::image::ClusterImage;
use crate::record::MetadataRecord;

impl Quorum {
    // ---- What follows ----

    pub(super) fn fail(&mut self, reason: String) {
        if !std::mem::replace(&mut self.has_failed, true) {
            self.outputs.push(Output::Failed { reason });
        }
    }

    /// Does all that the crate has ready, then says who leads, then goes on with the disk.
    pub(super) fn go_on(&mut self) {
        while !self.has_failed && self.raft.has_ready() {
            self.take_ready();
        }
        if self.has_failed {
            return;
        }
        self.tell_rest();
        self.tell_leader();
        self.next_operation();
    }

    fn take_ready(&mut self) {
        let mut ready = self.raft.ready();
        // A leader says what it has before that is durable here, but not that it leads: an only voter is elected by nobody
        // else, and would be elected again in the same term if it lost this one in a crash.
        let term = self.durable.1.term;
        let (held, free): (Vec<Message>, Vec<Message>) =
            ready.take_messages().into_iter().partition(|message| message.term > term);
        free.iter().for_each(|message| self.send(message));
        if let Some(hard) = ready.hs() {
            let eraftpb::HardState { term, vote, commit, .. } = hard.clone();
            self.raft.mut_store().state = HardState { term, vote, commit };
        }
        if !ready.snapshot().is_empty() {
            self.install(ready.snapshot());
        }
        if !ready.entries().is_empty() {
            self.append(ready.entries());
        }
        if ready.must_sync() {
            self.pending.must_write = true;
        }
        let mut messages = ready.take_persisted_messages();
        messages.extend(held);
        let committed = ready.take_committed_entries();
        let confirmed = ready.take_read_states();
        let number = ready.number();
        self.raft.advance_append_async(ready);
        if self.pending.is_empty() && !self.is_writing() {
            // Nothing of it needs the disk.
            self.raft.on_persist_ready(number);
            messages.iter().for_each(|message| self.send(message));
        } else if is_planted(Bug::SayBeforeWrite) {
            self.pending.number = number;
            messages.iter().for_each(|message| self.send(message));
        } else {
            self.pending.number = number;
            self.pending.messages.extend(messages);
            // Behind a write that is under way: a frame of nothing but what is known to be committed.
            self.pending.must_write = true;
        }
        for entry in &committed {
            if let Err(why) = self.apply(entry) {
                let at = entry.index;
                return self.fail(format!("the committed entry at index {at} cannot be applied: {why}; this is a bug"));
            }
        }
        if let Some(last) = committed.last() {
            self.raft.advance_apply_to(last.index);
        }
        for state in confirmed {
            let number = state.request_ctx.try_into().expect("what was asked");
            self.confirmed(u64::from_le_bytes(number));
        }
        if self.is_alone() {
            // There is nobody to be sent an entry.
            let applied = self.raft.store().applied;
            self.raft.mut_store().begin_at(applied);
        }
    }

    pub(super) fn send(&mut self, message: &Message) {
        let to = MemberId(message.to);
        if message.get_msg_type() == MessageType::MsgSnapshot {
            self.snapshots.insert(to, self.ticks);
        }
        self.outputs.push(Output::Send { to, message: encode_message(message) });
    }

    fn append(&mut self, entries: &[Entry]) {
        self.raft.mut_store().append(entries);
        let first = entries.first().map_or(0, |entry| entry.index);
        self.pending.entries.retain(|entry| entry.index < first);
        self.pending.entries.extend(entries.iter().cloned());
        self.pending.bytes = self.pending.entries.iter().map(encoded_bytes).sum();
    }

    /// Becomes what the leader's snapshot says; it is not durable yet.
    fn install(&mut self, snapshot: &eraftpb::Snapshot) {
        match snapshot_of(snapshot) {
            Ok(mut snapshot) => {
                if is_planted(Bug::KeepOldImage) {
                    snapshot.image = self.image().clone();
                }
                self.raft.mut_store().restore(snapshot);
                self.pending.entries.clear();
                self.pending.bytes = 0;
                self.pending.installs = true;
                // It holds what was to be told before.
                self.untold.clear();
                let image = Arc::new(self.image().clone());
                self.note_sole(self.applied().index);
                self.tell(self.applied().index, Output::Installed { image }, true);
                self.tell(self.applied().index, Output::Members { at: self.applied() }, false);
            }
            Err(why) => self.fail(format!("a snapshot that was judged cannot be read: {why}; this is a bug")),
        }
    }

    /// An entry is committed: it becomes true.
    fn apply(&mut self, entry: &Entry) -> Result<(), String> {
        let at = Position { index: entry.index, term: entry.term };
        let store = self.raft.mut_store();
        assert_eq!(at.index, store.applied.index + 1, "entries are applied one after the other");
        assert_eq!(store.term_at(at.index), Some(at.term), "what is committed is in the log");
        store.applied = at;
        match payload(entry)? {
            Payload::Nothing => {}
            Payload::Records { .. } if is_planted(Bug::SkipEntry) && at.index.is_multiple_of(50) => {}
            Payload::Records { offset, records } => {
                replay(&mut store.image, offset, &records)?;
                let (offset, image) = (store.image.offset(), Arc::new(store.image.clone()));
                let removes = records.iter().any(|record| matches!(record, MetadataRecord::RemoveTopic { .. }));
                self.tell(at.index, Output::Committed { at, offset, records, image }, removes);
            }
            Payload::Member(change) => {
                store.members.apply(&change);
                let ours = store.members.conf_state();
                let conf = conf_change(&change);
                let theirs = self.raft.apply_conf_change(&conf).map_err(|error| error.to_string())?;
                assert!(is_same(&ours, &theirs), "members {ours:?}, and {theirs:?}");
                self.note_sole(at.index);
                // Who votes decides what counts after a crash: it is done when it would be known then.
                self.tell(at.index, Output::Members { at }, true);
                if !self.members().is_voter(self.me) && self.raft.raft.state == StateRole::Leader {
                    let term = self.raft.raft.term;
                    self.raft.raft.become_follower(term, raft::INVALID_ID);
                }
            }
        }
        Ok(())
    }

    /// The members are as of this entry.
    fn note_sole(&mut self, index: u64) {
        let is_sole = self.members().is_sole_voter(self.me);
        self.sole_since = is_sole.then(|| self.sole_since.unwrap_or(index));
    }

    /// Tells what is true. What removes something is told when it would be known after a crash, too: files that are gone
    /// would be missing to an image that still has their topic.
    fn tell(&mut self, index: u64, output: Output, removes: bool) {
        let waits = removes && !self.is_known_for_ever(index) && !is_planted(Bug::TellBeforeWrite);
        self.pending.must_write |= waits;
        if waits || !self.untold.is_empty() {
            self.untold.push_back((if waits { index } else { 0 }, output));
        } else {
            self.outputs.push(output);
        }
    }

    /// Tells what had to wait.
    fn tell_rest(&mut self) {
        while self.untold.front().is_some_and(|(index, _)| self.is_known_for_ever(*index)) {
            self.outputs.extend(self.untold.pop_front().map(|(_, output)| output));
        }
    }

    /// Whether this member would know after a crash that the entry at this index is committed. What the only voter has
    /// written is.
    fn is_known_for_ever(&self, index: u64) -> bool {
        let commit = self.durable.1.commit;
        index <= commit || self.sole_since.is_some_and(|since| since <= commit)
    }

    fn tell_leader(&mut self) {
        let raft = &self.raft.raft;
        let term = raft.term;
        let has_own_entry = self.raft.store().applied.term == term || is_planted(Bug::DecideBeforeOwnTerm);
        let leads = raft.state == StateRole::Leader && has_own_entry;
        let leader = self.leader().filter(|leader| *leader != self.me || leads);
        let told = Told { term, leader, leads };
        if std::mem::replace(&mut self.told, told) == told {
            return;
        }
        // The crate has forgotten it, too: whoever leads begins anew.
        self.confirming = None;
        self.outputs.push(if leads { Output::Leads { term } } else { Output::Follows { term, leader } });
    }
}

/// Replays the records of an entry, of which the first has this offset.
pub(super) fn replay(image: &mut ClusterImage, offset: u64, records: &[MetadataRecord]) -> Result<(), String> {
    if offset != image.offset() + 1 {
        return Err(format!("its records begin at offset {offset}, and {} were applied", image.offset()));
    }
    for record in records {
        image.check(record)?;
        image.replay(record);
    }
    Ok(())
}
