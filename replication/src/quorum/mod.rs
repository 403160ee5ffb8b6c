//! The quorum that agrees on the metadata log: Raft, pure. `docs/quorum-protocol.md` says what members say to each other,
//! `docs/metadata-format.md` what they keep.
//!
//! The algorithm is the `raft` crate's; it stays behind this module, which brings what the crate leaves open: a log, a vote
//! and snapshots on disk that are durable before anything is said that depends on them, messages that are judged before
//! the crate sees them, members with identities, and the image that committed records make.
//!
//! Calling contract. [`open()`] or [`create`] runs to its end before anything else. Then [`Quorum::tick`],
//! [`Quorum::step`], [`Quorum::propose`], [`Quorum::disk`] in any order; after each of them [`Quorum::outputs`] says
//! what is to be done. It performs no I/O, reads no clock, and draws chance from its seed. There is never more than one of its
//! disk operations under way.

mod disk;
mod entry;
mod file;
mod members;
mod message;
mod open;
mod output;
#[cfg(test)]
mod sim;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_storage::bug::{self, Bug, is_planted};
use millstream_storage::{DiskError, DiskOp, DiskReply};
use raft::eraftpb::{self, Entry, Message, MessageType};
use raft::{ProgressState, RawNode, SnapshotStatus, StateRole};

use crate::image::ClusterImage;
use crate::random_id;
use crate::record::MetadataRecord;
use disk::{LogFile, NextFile};
use entry::{Payload, conf_change, encode_records, encoded_bytes, payload};
use message::{View, encode_message, is_same, judge, snapshot_of};
use store::{Store, TRAIL_SHARE};

pub use disk::{LOG_BYTES_MAX, RESERVE_BYTES};
pub use entry::{ENTRY_PAYLOAD_BYTES_MAX, INDEX_MAX};
pub use file::{HardState, Header, Position, Scan, encode_frame, encode_header, scan};
#[cfg(test)]
pub(crate) use members::tests as members_tests;
pub use members::{HOST_BYTES_MAX, MEMBERS_MAX, Member, MemberChange, MemberChangeKind, MemberId, Members};
pub use message::{Incoming, decode_message};
pub use open::{Founding, create, open};
pub use output::{MemberProgress, NotProposed, Output, Room};
pub use snapshot::{Snapshot, decode_snapshot, encode_snapshot};

/// How often [`Quorum::tick`] is wanted by a member that is not alone.
pub const TICK: Duration = Duration::from_millis(50);
/// A leader says that it is there every so many ticks.
const HEARTBEAT_TICKS: usize = 2;
/// A follower that has heard of no leader for so many ticks, and for less than twice as many by chance, asks for votes.
const ELECTION_TICKS: usize = 12;
/// Entries that one message brings, in bytes; more only when one alone is larger.
const MESSAGE_BYTES_MAX: u64 = 1024 * 1024;
/// Messages on their way to one member that were not answered.
const MESSAGES_MAX: usize = 64;
/// Entries that were proposed and are not committed, in bytes; beyond them nothing more is taken.
const UNCOMMITTED_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Entries of one frame, in bytes; more only when one alone is larger.
const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A snapshot that was sent and not answered for so many ticks was lost.
const SNAPSHOT_TICKS_MAX: u64 = 100;
/// A write for which there was no space is tried again after so many ticks.
const NO_SPACE_TICKS: u64 = 20;

/// A frame, or a snapshot, that is to be written, and what is said when it is durable.
#[derive(Default)]
struct Pending {
    entries: Vec<Entry>,
    bytes: usize,
    /// A vote or a term has to be written, with or without entries.
    must_write: bool,
    /// A snapshot from the leader takes the place of the log.
    installs: bool,
    /// The crate is told that all up to this number is durable.
    number: u64,
    messages: Vec<Message>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.entries.is_empty() && !self.must_write && !self.installs
    }
}

/// The disk operation under way.
enum Operation {
    /// Space, for a decision that waits for it or for the frame that is to be written.
    Allocate { bytes: u64, for_decision: bool },
    /// A frame. When it is durable the crate is told so of this number.
    Frame { bytes: u64, state: HardState, entries: Vec<Entry>, number: Option<u64>, messages: Vec<Message> },
    /// The file that follows a snapshot, then the snapshot.
    BeginFile { next: NextFile, snapshot: DiskOp, durable: (u64, HardState), installed: Option<Installed> },
    /// The snapshot, then the removal of the file before. With it what the file holds is durable.
    Snapshot { next: NextFile, durable: (u64, HardState), installed: Option<Installed> },
    /// The removal of the file before a snapshot.
    RemoveFile,
}

/// A snapshot from the leader: what is said when it is durable.
struct Installed {
    number: u64,
    messages: Vec<Message>,
}

/// What a member last said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    term: u64,
    leader: Option<MemberId>,
    leads: bool,
}

/// One member of the quorum.
pub struct Quorum {
    me: MemberId,
    raft: RawNode<Store>,
    file: LogFile,
    pending: Pending,
    operation: Option<Operation>,
    /// The last entry that is durable here, and the vote.
    durable: (u64, HardState),
    /// A decision waits for space.
    wants_space: Option<u64>,
    /// No write before this tick: the last one found no space.
    paused_until: u64,
    ticks: u64,
    next_tick: Duration,
    /// State of the generator of election time-outs.
    chance: u64,
    election_ticks: usize,
    /// Snapshots that were sent: to whom, and when.
    snapshots: BTreeMap<MemberId, u64>,
    told: Told,
    /// What is true and not told yet, in order: each from the commit index on that is to be durable here before.
    untold: VecDeque<(u64, Output)>,
    /// This member is the only voter since this entry, if it is. What the only voter has is committed, also when it is found
    /// after a crash, but only where it finds that it was the only one.
    sole_since: Option<u64>,
    /// How often it was asked whether this member still leads: the last number.
    confirmations: u64,
    /// The number that was asked and not answered yet.
    confirming: Option<u64>,
    outputs: Vec<Output>,
    has_failed: bool,
}

impl Quorum {
    fn new(me: MemberId, store: Store, file: LogFile, durable: HardState, seed: u64) -> Quorum {
        let config = raft::Config {
            id: me.0,
            applied: store.applied.index,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: MESSAGES_MAX,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            check_quorum: true,
            pre_vote: true,
            ..Default::default()
        };
        let last = store.last().index;
        let term = store.state.term;
        let sole_since = store.members.is_sole_voter(me).then_some(0);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raft =
            RawNode::new(&config, store, &logger).expect("a configuration of constants, a store that never fails");
        Quorum {
            me,
            raft,
            file,
            pending: Pending::default(),
            operation: None,
            durable: (last, durable),
            wants_space: None,
            paused_until: 0,
            ticks: 0,
            next_tick: Duration::ZERO,
            chance: seed,
            election_ticks: ELECTION_TICKS,
            snapshots: BTreeMap::new(),
            told: Told { term, leader: None, leads: false },
            untold: VecDeque::new(),
            sole_since,
            confirmations: 0,
            confirming: None,
            outputs: Vec::new(),
            has_failed: false,
        }
    }

    /// The log is replaced by a snapshot when it is larger than `bytes`, instead of [`LOG_BYTES_MAX`], and than the
    /// snapshot before it.
    pub fn with_log_bytes_max(mut self, bytes: u64) -> Quorum {
        self.file.set_log_bytes_max(bytes);
        self
    }

    // ---- What it knows ----

    /// This member.
    pub fn me(&self) -> MemberId {
        self.me
    }

    /// What is true: all that was committed and has come here.
    pub fn image(&self) -> &ClusterImage {
        &self.raft.store().image
    }

    /// The members as of the same entry.
    pub fn members(&self) -> &Members {
        &self.raft.store().members
    }

    /// The last entry that the image knows.
    pub fn applied(&self) -> Position {
        self.raft.store().applied
    }

    /// The last entry of the log, committed or not.
    pub fn last(&self) -> u64 {
        self.raft.raft.raft_log.last_index()
    }

    /// The newest term that this member knows.
    pub fn term(&self) -> u64 {
        self.raft.raft.term
    }

    /// Who leads, as far as this member knows.
    pub fn leader(&self) -> Option<MemberId> {
        Some(MemberId(self.raft.raft.leader_id)).filter(|leader| leader.0 != 0)
    }

    /// Whether this member leads and may decide.
    pub fn leads(&self) -> bool {
        self.told.leads
    }

    /// Whether no disk operation is under way and none is wanted.
    pub fn is_idle(&self) -> bool {
        self.operation.is_none() && self.pending.is_empty()
    }

    /// What the leader knows of the members; nothing at another.
    pub fn progress(&self) -> Vec<MemberProgress> {
        if self.raft.raft.state != StateRole::Leader {
            return Vec::new();
        }
        let mut found: Vec<MemberProgress> = self
            .members()
            .iter()
            .filter_map(|(member, _)| {
                let progress = self.raft.raft.prs().get(member.id.0)?;
                let is_me = member.id == self.me;
                Some(MemberProgress {
                    id: member.id,
                    matched: progress.matched,
                    is_recent: is_me || progress.recent_active,
                })
            })
            .collect();
        found.sort_unstable_by_key(|progress| progress.id);
        found
    }

    /// How many entries a member lacks, as far as the leader knows; nothing of one that was not heard of lately, or where
    /// this member does not lead.
    pub fn behind(&self, id: MemberId) -> Option<u64> {
        if self.raft.raft.state != StateRole::Leader {
            return None;
        }
        let progress = self.raft.raft.prs().get(id.0)?;
        (id == self.me || progress.recent_active).then(|| self.last().saturating_sub(progress.matched))
    }

    /// What was applied here, as a snapshot: what a new member begins with.
    pub fn snapshot(&self) -> Bytes {
        let store = self.raft.store();
        encode_snapshot(store.applied.index, store.applied.term, &store.members, &store.image)
    }

    /// When [`Quorum::tick`] is wanted next. Never by the only voter, whom nobody can depose.
    pub fn next_deadline(&self) -> Option<Duration> {
        let is_alone = self.is_alone() && self.raft.raft.state == StateRole::Leader && self.paused_until == 0;
        (!is_alone && !self.has_failed).then_some(self.next_tick)
    }

    fn is_alone(&self) -> bool {
        self.members().is_sole_voter(self.me) && self.members().iter().count() == 1
    }

    // ---- What happens to it ----

    /// Time passes. A member that did not get to run for long does not make up for it: it has heard of nobody meanwhile,
    /// and nobody of it, but what was sent to it comes first.
    pub fn tick(&mut self, now: Duration) {
        if self.has_failed || now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK;
        self.ticks += 1;
        let raft = &mut self.raft.raft;
        if raft.election_elapsed == 0 {
            self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let more = (random_id::mix(self.chance ^ bug::outside_the_seed()) % ELECTION_TICKS as u64) as usize;
            self.election_ticks = ELECTION_TICKS + more;
        }
        raft.set_randomized_election_timeout(self.election_ticks);
        if !self.is_installing() {
            self.raft.tick();
        }
        let (ticks, raft) = (self.ticks, &mut self.raft);
        self.snapshots.retain(|to, sent| {
            let progress = raft.raft.prs().get(to.0);
            let is_waited_for = progress.is_some_and(|progress| progress.state == ProgressState::Snapshot);
            let is_late = ticks - *sent > SNAPSHOT_TICKS_MAX && !is_planted(Bug::ForgetLostSnapshots);
            let is_lost = is_waited_for && is_late;
            if is_lost {
                raft.report_snapshot(to.0, SnapshotStatus::Failure);
            }
            is_waited_for && !is_lost
        });
        if self.paused_until <= self.ticks {
            self.paused_until = 0;
        }
        self.go_on();
    }

    /// Asks for votes at once: the leader is known to be gone, or there cannot be another one.
    pub fn campaign(&mut self) {
        let is_leader = self.raft.raft.state == StateRole::Leader;
        if self.has_failed || is_leader || self.is_installing() || !self.members().is_voter(self.me) {
            return;
        }
        let term = self.raft.raft.term;
        // Whoever hears of a leader takes no part in an election: for this member there is none any more.
        self.raft.raft.become_follower(term, raft::INVALID_ID);
        self.raft.campaign().expect("asking for votes is always possible");
        self.go_on();
    }

    /// A message came from a member. The error says why it was not taken; nothing has changed then.
    pub fn step(&mut self, from: MemberId, bytes: &[u8]) -> Result<(), String> {
        if self.has_failed {
            return Ok(());
        }
        let incoming = decode_message(bytes)?;
        let is_leader = self.raft.raft.state == StateRole::Leader;
        judge(&incoming, from, self.me, View { store: self.raft.store(), last: self.last(), is_leader })?;
        let Incoming { mut message, .. } = incoming;
        match message.get_msg_type() {
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote if is_planted(Bug::VoteForAnybody) => {
                (message.index, message.log_term) = (self.last(), self.term());
            }
            MessageType::MsgRequestVote if is_planted(Bug::VoteAgain) && message.term == self.term() && !is_leader => {
                self.raft.raft.vote = raft::INVALID_ID;
            }
            _ => {}
        }
        match message.get_msg_type() {
            MessageType::MsgTimeoutNow if self.is_installing() => return Ok(()),
            // A vote that was not asked for: whoever asks does so when all that it has is durable.
            MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse
                if self.durable.0 != self.last() || self.durable.1.term < self.term() =>
            {
                return Ok(());
            }
            _ => {}
        }
        match self.raft.step(message) {
            // An answer to a member that is none any more.
            Ok(()) | Err(raft::Error::StepPeerNotFound) => {}
            Err(error) => return Err(error.to_string()),
        }
        self.go_on();
        Ok(())
    }

    /// A member cannot be reached: what was sent to it may be lost.
    pub fn unreachable(&mut self, member: MemberId) {
        if self.has_failed {
            return;
        }
        if self.snapshots.remove(&member).is_some() {
            self.raft.report_snapshot(member.0, SnapshotStatus::Failure);
        }
        self.raft.report_unreachable(member.0);
        self.go_on();
    }

    /// Asks for space for a decision of these records, before it is proposed: one that finds none can still be refused.
    pub fn reserve(&mut self, records: &[MetadataRecord]) -> Room {
        let mut bytes = Vec::new();
        records.iter().for_each(|record| record.encode(&mut bytes));
        let wanted = self.pending.bytes as u64 + self.under_way() + bytes.len() as u64;
        if self.file.allocate(wanted).is_none() {
            return Room::There;
        }
        self.wants_space = Some(wanted);
        self.go_on();
        Room::Asked
    }

    /// Bytes of the frame that is being written.
    fn under_way(&self) -> u64 {
        match &self.operation {
            Some(Operation::Frame { bytes, .. }) => *bytes,
            _ => 0,
        }
    }

    /// Proposes records, all or none. They are committed when [`Output::Committed`] names this position; if it names the
    /// index with another term, or this member does not lead any more, nobody knows what becomes of them.
    pub fn propose(&mut self, offset: u64, records: &[MetadataRecord]) -> Result<Position, NotProposed> {
        if !self.leads() {
            return Err(NotProposed::NotLeader);
        }
        let data = encode_records(offset, records);
        match self.raft.propose(Vec::new(), data) {
            Ok(()) => {}
            Err(_) => return Err(NotProposed::Busy),
        }
        let at = Position { index: self.last(), term: self.term() };
        self.go_on();
        Ok(at)
    }

    /// Asks the other voters whether this member still leads, one question at a time. [`Output::Confirmed`] brings the number
    /// back when most of the voters, this member among them, have said in its term that they heard the question: nobody had
    /// been elected in a later term when it was asked. Nothing comes where this member does not lead any more, and a question
    /// that was lost is repeated with each heartbeat. The only voter has the answer at once. It is what Raft calls a read index
    /// (dissertation, 6.4). The error: this member does not lead, or the last question is not answered.
    pub fn confirm(&mut self) -> Result<u64, NotProposed> {
        if !self.leads() || self.has_failed {
            return Err(NotProposed::NotLeader);
        }
        if self.confirming.is_some() {
            return Err(NotProposed::Busy);
        }
        self.confirmations += 1;
        let number = self.confirmations;
        self.confirming = Some(number);
        if is_planted(Bug::ConfirmUnasked) {
            self.confirmed(number);
        } else {
            self.raft.read_index(number.to_le_bytes().to_vec());
            self.go_on();
        }
        Ok(number)
    }

    /// The question of this number has its answer.
    fn confirmed(&mut self, number: u64) {
        assert_eq!(self.confirming.take(), Some(number), "one question at a time, and only a leader's is answered");
        self.outputs.push(Output::Confirmed { number });
    }

    /// Proposes a change of the members. The error says why it was not taken.
    pub fn change_members(&mut self, change: &MemberChange) -> Result<Position, String> {
        if !self.leads() {
            return Err("this member does not lead".into());
        }
        self.members().check(change)?;
        if self.raft.raft.has_pending_conf() {
            return Err("another change of the members is on its way".into());
        }
        let proposed = self.raft.propose_conf_change(change.encode(), conf_change(change));
        proposed.map_err(|error| format!("the change was not taken: {error}"))?;
        let at = Position { index: self.last(), term: self.term() };
        self.go_on();
        Ok(at)
    }

    /// A disk operation has ended. A full disk is survived; after any other failure nothing may be promised.
    pub fn disk(&mut self, result: Result<DiskReply, DiskError>) {
        let operation = self.operation.take().expect("what ends was under way");
        let has_room = match result {
            Ok(_) => true,
            Err(DiskError::NoSpace) => false,
            Err(error) => return self.fail(format!("the metadata cannot be written: {error}")),
        };
        match operation {
            Operation::Allocate { bytes, for_decision } => {
                if has_room {
                    self.file.allocated(bytes);
                }
                if for_decision {
                    self.wants_space = None;
                    self.outputs.push(Output::Reserved { is_there: has_room });
                } else if !has_room && !self.pending.installs {
                    // Into what was kept for it.
                    self.write_frame();
                }
            }
            Operation::Frame { bytes, state, entries, number, messages } if has_room => {
                self.file.written(bytes);
                if let Some(first) = entries.first() {
                    let last = first.index + entries.len() as u64 - 1;
                    self.durable.0 = last;
                }
                self.durable.1 = state;
                if let Some(number) = number {
                    self.raft.on_persist_ready(number);
                }
                messages.iter().for_each(|message| self.send(message));
            }
            Operation::Frame { entries, number, messages, .. } => {
                // It is tried again, with what has come meanwhile. What has come may replace a part of it.
                let later = std::mem::take(&mut self.pending);
                let keep = later
                    .entries
                    .first()
                    .map_or(usize::MAX, |later| entries.iter().take_while(|entry| entry.index < later.index).count());
                // What a snapshot takes the place of is not written at all.
                let earlier = entries.into_iter().take(if later.installs { 0 } else { keep });
                let entries: Vec<Entry> = earlier.chain(later.entries).collect();
                self.pending = Pending {
                    bytes: entries.iter().map(encoded_bytes).sum(),
                    entries,
                    must_write: true,
                    installs: later.installs,
                    number: later.number.max(number.unwrap_or_default()),
                    messages: messages.into_iter().chain(later.messages).collect(),
                };
                self.paused_until = self.ticks + NO_SPACE_TICKS;
            }
            Operation::BeginFile { next, snapshot, durable, installed } if has_room => {
                self.start(Operation::Snapshot { next, durable, installed }, snapshot);
            }
            Operation::Snapshot { next, durable, installed } if has_room => {
                let remove = self.file.replaced(&next);
                self.durable = durable;
                if let Some(Installed { number, messages }) = installed {
                    self.raft.on_persist_ready(number);
                    // Only what is durable counts as applied.
                    self.raft.advance_apply_to(next.snapshot_index());
                    messages.iter().for_each(|message| self.send(message));
                }
                self.start(Operation::RemoveFile, remove);
            }
            Operation::BeginFile { installed, .. } | Operation::Snapshot { installed, .. } => {
                // The log goes on as it was; one from the leader is tried again.
                if let Some(Installed { number, messages }) = installed {
                    self.pending.installs = true;
                    self.pending.number = self.pending.number.max(number);
                    self.pending.messages.splice(0..0, messages);
                    self.paused_until = self.ticks + NO_SPACE_TICKS;
                }
            }
            // The old file is only in the way: what is left of it is removed at the next start.
            Operation::RemoveFile => {}
        }
        self.go_on();
    }

    /// What is to be done, in order.
    pub fn outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    // ---- What follows ----

    fn fail(&mut self, reason: String) {
        if !std::mem::replace(&mut self.has_failed, true) {
            self.outputs.push(Output::Failed { reason });
        }
    }

    /// Does all that the crate has ready, then says who leads, then goes on with the disk.
    fn go_on(&mut self) {
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

    /// Whether something is being written that was promised nowhere yet.
    fn is_writing(&self) -> bool {
        match &self.operation {
            Some(Operation::Frame { .. }) => true,
            Some(Operation::BeginFile { installed, .. } | Operation::Snapshot { installed, .. }) => installed.is_some(),
            Some(Operation::Allocate { .. } | Operation::RemoveFile) | None => false,
        }
    }

    /// Whether a snapshot from the leader is on its way to the disk: until it is there nobody is asked for votes, for the
    /// crate would look for entries that the snapshot has taken the place of.
    fn is_installing(&self) -> bool {
        self.pending.installs
            || matches!(
                &self.operation,
                Some(Operation::BeginFile { installed: Some(_), .. } | Operation::Snapshot { installed: Some(_), .. })
            )
    }

    fn send(&mut self, message: &Message) {
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

    // ---- The disk ----

    fn start(&mut self, operation: Operation, op: DiskOp) {
        assert!(self.operation.replace(operation).is_none(), "one operation at a time");
        self.outputs.push(Output::Disk(op));
    }

    fn next_operation(&mut self) {
        if self.operation.is_some() {
            return;
        }
        let is_paused = self.paused_until > self.ticks;
        if self.pending.installs && !is_paused {
            self.write_installed();
        } else if let Some(bytes) = self.wants_space {
            match self.file.allocate(bytes) {
                Some(op) => self.allocate(op, true),
                None => {
                    self.wants_space = None;
                    self.outputs.push(Output::Reserved { is_there: true });
                    self.next_operation();
                }
            }
        } else if !self.pending.is_empty() && !is_paused {
            match self.file.allocate(self.pending.bytes.min(FRAME_BYTES_MAX) as u64) {
                Some(op) => self.allocate(op, false),
                None => self.write_frame(),
            }
        } else if !self.pending.installs
            && self.file.wants_snapshot()
            && self.applied().index > self.file.snapshot_index()
        {
            self.write_snapshot();
        }
    }

    fn allocate(&mut self, op: DiskOp, for_decision: bool) {
        let DiskOp::Allocate { bytes, .. } = op else { panic!("space is wanted, not {op:?}") };
        self.start(Operation::Allocate { bytes, for_decision }, op);
    }

    fn write_frame(&mut self) {
        assert!(!self.pending.installs, "a snapshot takes the place of the log before anything is written behind it");
        let Pending { entries, messages, number, .. } = std::mem::take(&mut self.pending);
        let mut bytes = 0;
        let count = entries
            .iter()
            .take_while(|entry| {
                bytes += encoded_bytes(entry);
                bytes <= FRAME_BYTES_MAX
            })
            .count()
            .max(1)
            .min(entries.len());
        let (now, later) = entries.split_at(count);
        let (now, later) = (now.to_vec(), later.to_vec());
        let last = now.last().map_or(self.durable.0, |entry| entry.index);
        let mut state = self.raft.store().state;
        // Only what the file holds can be said to be committed in it.
        state.commit = state.commit.min(last).max(self.durable.1.commit);
        if is_planted(Bug::ForgetVote) {
            state.vote = 0;
        }
        let (op, bytes) = self.file.frame(state, &now);
        let (number, messages) = if later.is_empty() {
            (Some(number), messages)
        } else {
            let bytes = later.iter().map(encoded_bytes).sum();
            self.pending = Pending { entries: later, bytes, must_write: true, installs: false, number, messages };
            (None, Vec::new())
        };
        self.start(Operation::Frame { bytes, state, entries: now, number, messages }, op);
    }

    /// What was applied takes the place of the log up to there.
    fn write_snapshot(&mut self) {
        self.file.tries_snapshot();
        let (durable_last, durable) = self.durable;
        let store = self.raft.mut_store();
        let base = store.trail(self.file.log_bytes_max() / TRAIL_SHARE);
        store.begin_at(base);
        let Position { index, term } = store.applied;
        let snapshot = encode_snapshot(index, term, &store.members, &store.image);
        // Entries that others are about to replace are not committed: they can go.
        let replaced_from = self.pending.entries.first().map_or(u64::MAX, |entry| entry.index);
        let last = durable_last.min(replaced_from - 1).max(index);
        let entries = store.between(base.index + 1, last);
        let state = HardState { commit: index.max(durable.commit.min(last)), ..durable };
        let (ops, next) = self.file.replace(index, base, state, &entries, snapshot);
        let [begin, snapshot] = ops;
        self.start(Operation::BeginFile { next, snapshot, durable: (last, state), installed: None }, begin);
    }

    /// The leader's snapshot takes the place of everything.
    fn write_installed(&mut self) {
        let Pending { messages, number, .. } = std::mem::take(&mut self.pending);
        let store = self.raft.store();
        let Position { index, term } = store.applied;
        assert_eq!(store.base, store.applied, "nothing is applied behind a snapshot that is not durable");
        let snapshot = encode_snapshot(index, term, &store.members, &store.image);
        // All that has come behind it, also what an attempt that found no space was to write.
        let last = store.last().index;
        let entries = store.between(index + 1, last);
        let state = HardState { commit: index, ..store.state };
        let (ops, next) = self.file.replace(index, store.base, state, &entries, snapshot);
        let [begin, snapshot] = ops;
        let installed = Some(Installed { number, messages });
        self.start(Operation::BeginFile { next, snapshot, durable: (last, state), installed }, begin);
    }
}

/// Replays the records of an entry, of which the first has this offset.
fn replay(image: &mut ClusterImage, offset: u64, records: &[MetadataRecord]) -> Result<(), String> {
    if offset != image.offset() + 1 {
        return Err(format!("its records begin at offset {offset}, and {} were applied", image.offset()));
    }
    for record in records {
        image.check(record)?;
        image.replay(record);
    }
    Ok(())
}
