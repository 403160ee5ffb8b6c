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
mod ready;
#[cfg(test)]
mod sim;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;
mod writing;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use millstream_storage::bug::{self, Bug, is_planted};
use raft::eraftpb::MessageType;
use raft::{ProgressState, RawNode, SnapshotStatus, StateRole};

use crate::image::ClusterImage;
use crate::random_id;
use crate::record::MetadataRecord;
use disk::LogFile;
use entry::{conf_change, encode_records};
use message::{View, judge};
use store::Store;
use writing::{Operation, Pending};

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
/// A snapshot that was sent and not answered for so many ticks was lost.
const SNAPSHOT_TICKS_MAX: u64 = 100;
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

    /// What is to be done, in order.
    pub fn outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }
}
