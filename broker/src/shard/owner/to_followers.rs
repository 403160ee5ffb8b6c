//! What the partitions led here send to those who follow them.
//!
//! What is in memory goes in the turn in which it was appended, before it is durable here: a follower that is ahead of a leader
//! that starts again is cut. What is in memory no more is read from the files first ([`super::catch_up`]).
//!
//! Nothing that is sent as one section spans an epoch, and what compaction has left out at an epoch's start or end is said by
//! name, so that the epochs of a follower start where the leader's do.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use millstream_replication::ErrorCode;
use millstream_replication::replica::{EpochEnd, Event, FollowRequest, StallReason as Stalled};
use millstream_storage::PartitionKey;
use millstream_storage::batch::Batches;
use millstream_storage::shard_log::{LogId, ReadPart, ReadPlan};

use super::replicas::Replicas;
use crate::metrics::Sample;
use crate::peer::links::LinkId;
use crate::peer::stream::frame::{
    Diverged, DurableRange, Follow, FollowOk, FromLeader, ITEMS_MAX, Mark, RefuseReason, Refused, Skip, StallReason,
};
use crate::peer::stream::section::Section;
use crate::shard::peers::Peers;
use crate::shard::peers::stream::Peer;
use crate::shard::peers::table::{Filled, Room};
use crate::shard::turn::Turn;

/// A high watermark that has moved is told with the next batches, or after this time.
const MARKS_AFTER: Duration = Duration::from_millis(10);

/// Who follows a partition.
#[derive(Debug)]
pub(super) struct Follower {
    link: LinkId,
    pub follow_id: u32,
    broker_epoch: i64,
    /// What it is sent, once it may follow.
    sending: Option<Sending>,
}

#[derive(Debug)]
pub(super) struct Sending {
    /// Names the partition on the stream: new for each answer, so that what is said about one before is not taken for it.
    handle: u32,
    pub next_offset: i64,
    pub source: Source,
    /// Where the log starts, as it was told last.
    told_log_start: i64,
}

/// Where the next batches come from.
#[derive(Debug)]
pub(super) enum Source {
    Memory,
    /// From files, when others have been read.
    Queued,
    /// The log looks for where they are, those below an offset.
    Seeks {
        until: i64,
    },
    /// They are being read.
    Reads {
        parts: Vec<Option<Bytes>>,
        missing: usize,
        failed: bool,
        until: i64,
    },
    /// They are read: whole batches, and none if nothing was left below the offset.
    Read {
        bytes: Bytes,
        until: i64,
    },
    /// It was told to leave offsets out: it asks anew when it has.
    Skipped,
}

/// A stream to a follower.
#[derive(Debug)]
pub(super) struct Outbox {
    node: i32,
    names: HashMap<u32, LogId>,
    last_handle: u32,
    /// Names of partitions of which something is to be said though there is nothing to send.
    marks: BTreeSet<u32>,
    marks_at: Option<Duration>,
    /// Those that are read from files, and those that wait for that.
    pub reading: BTreeSet<u32>,
    pub queued: VecDeque<u32>,
}

/// Names what a partition sends on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The stream.
    pub link: LinkId,
    /// The partition's name on it.
    pub handle: u32,
}

/// Who follows what is led here.
#[derive(Debug, Default)]
pub struct ToFollowers {
    followers: BTreeMap<(LogId, i32), Follower>,
    pub(super) links: BTreeMap<LinkId, Outbox>,
    pub(super) files: super::catch_up::Files,
    /// What a log starts with, where its start lies within a batch: the log start, and where the batch begins.
    starts: BTreeMap<LogId, (i64, i64)>,
    /// More can be sent at once.
    has_more: bool,
    bytes: u64,
}

/// What is next for a follower.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// These whole batches, up to an offset.
    Batches { batches: Vec<Bytes>, next_offset: i64 },
    /// No batch is left up to an offset.
    Skip { to: i64 },
    /// The next batch is larger than there is room for.
    Larger,
    /// The offset lies within a batch, which begins earlier, there.
    Before(i64),
    /// There is no batch.
    Nothing,
}

impl ToFollowers {
    /// A stream is open from a follower.
    pub fn opened(&mut self, link: LinkId, follower: Peer) {
        let outbox = Outbox {
            node: follower.key.node,
            names: HashMap::new(),
            last_handle: 0,
            marks: BTreeSet::new(),
            marks_at: None,
            reading: BTreeSet::new(),
            queued: VecDeque::new(),
        };
        self.links.insert(link, outbox);
    }

    /// A stream is gone.
    pub fn closed(&mut self, turn: &Turn<'_>, replicas: &mut Replicas, link: LinkId) {
        let Some(outbox) = self.links.remove(&link) else { return };
        let of_link = self.followers.iter().filter(|(_, follower)| follower.link == link);
        for (log, node_id) in of_link.map(|(at, _)| *at).collect::<Vec<_>>() {
            assert_eq!(node_id, outbox.node, "a stream is to one node");
            self.followers.remove(&(log, node_id));
            replicas.tell(turn.now.elapsed, log, Event::StreamClosed { node_id });
        }
    }

    /// A follower asks to follow a partition.
    pub fn follow(
        &mut self,
        turn: &mut Turn<'_>,
        replicas: &mut Replicas,
        peers: &mut Peers,
        (link, follower): (LinkId, Peer),
        follow: Follow,
    ) {
        let key = PartitionKey { topic_id: follow.topic_id, partition: follow.partition };
        let node_id = follower.key.node;
        let is_known = turn.metadata.image().topic_by_id(key.topic_id).is_some();
        let log = replicas.partitions.find(key);
        let mut has_replica =
            |log| replicas.partitions.get_mut(log).is_some_and(|partition| partition.replica.is_some());
        let Some(log) = log.filter(|log| has_replica(*log)) else {
            let why = if is_known { RefuseReason::NotLeader } else { RefuseReason::UnknownPartition };
            return peers.say_to_follower(turn, link, &refusal(follow.follow_id, why, (-1, -1)));
        };
        self.forget(replicas, log, node_id);
        let broker_epoch = follower.broker_epoch;
        let asks = Follower { link, follow_id: follow.follow_id, broker_epoch, sending: None };
        self.followers.insert((log, node_id), asks);
        let (epoch, end) = replicas.log.end_offset_for_epoch(log, follow.last_epoch);
        let asked = FollowRequest {
            node_id,
            broker_epoch,
            follow_id: follow.follow_id,
            leader_epoch: follow.leader_epoch,
            offset: follow.fetch_offset,
            last_epoch: follow.last_epoch,
            log_start: follow.log_start,
        };
        let (log_start, start_epoch) = (self.first_offset(replicas, log), replicas.log.start_epoch(log));
        let epoch_end = EpochEnd { epoch, end };
        replicas.tell(turn.now.elapsed, log, Event::Follow { asked, epoch_end, log_start, start_epoch });
    }

    /// A follower does not follow any more what it asked for by these ids.
    pub fn unfollow(&mut self, turn: &Turn<'_>, replicas: &mut Replicas, link: LinkId, follow_ids: &[u32]) {
        let gone: BTreeSet<u32> = follow_ids.iter().copied().collect();
        let is_gone = |follower: &Follower| follower.link == link && gone.contains(&follower.follow_id);
        let of_link = self.followers.iter().filter(|(_, follower)| is_gone(follower));
        for (log, node_id) in of_link.map(|(at, _)| *at).collect::<Vec<_>>() {
            self.drop_follower(turn.now.elapsed, replicas, log, node_id);
        }
    }

    /// A follower has said how far partitions are durable, and where they start.
    pub fn acknowledged(&self, turn: &Turn<'_>, replicas: &mut Replicas, link: LinkId, ranges: &[DurableRange]) {
        for &DurableRange { handle, end: durable_end, log_start } in ranges {
            let Some((log, node_id, follower)) = self.find(Subscription { link, handle }) else { continue };
            let (broker_epoch, follow_id) = (follower.broker_epoch, follower.follow_id);
            let event = Event::Ack { node_id, broker_epoch, follow_id, durable_end, log_start };
            replicas.tell(turn.now.elapsed, log, event);
        }
    }

    /// A follower does not take these partitions for now.
    pub fn stalled(
        &self,
        turn: &Turn<'_>,
        replicas: &mut Replicas,
        link: LinkId,
        (why, handles): (StallReason, &[u32]),
    ) {
        let why = match why {
            StallReason::NoSpace => Stalled::NoSpace,
            StallReason::SlowDisk => Stalled::SlowDisk,
        };
        for &handle in handles {
            if let Some((log, node_id, _)) = self.find(Subscription { link, handle }) {
                replicas.tell(turn.now.elapsed, log, Event::Stalled { node_id, why });
            }
        }
    }

    /// A log is led here no more.
    pub fn resign(&mut self, replicas: &mut Replicas, log: LogId) {
        let nodes = self.followers.range((log, i32::MIN)..=(log, i32::MAX)).map(|((_, node_id), _)| *node_id);
        for node_id in nodes.collect::<Vec<_>>() {
            self.forget(replicas, log, node_id);
        }
        self.starts.remove(&log);
        self.files.resign(log);
    }

    // ---- What a replica has decided ----

    /// A follower is let follow, from an offset on.
    pub fn accept(
        &mut self,
        turn: &mut Turn<'_>,
        replicas: &mut Replicas,
        peers: &mut Peers,
        (log, node_id): (LogId, i32),
        (follow_id, offset): (u32, i64),
    ) {
        let Some(follower) = self.followers.get_mut(&(log, node_id)) else { return };
        assert_eq!(follower.follow_id, follow_id, "the newest question is answered");
        let Some(outbox) = self.links.get_mut(&follower.link) else { return };
        while {
            outbox.last_handle = outbox.last_handle.wrapping_add(1);
            outbox.names.contains_key(&outbox.last_handle)
        } {}
        let handle = outbox.last_handle;
        outbox.names.insert(handle, log);
        let told_log_start = replicas.log.log_start(log);
        follower.sending = Some(Sending { handle, next_offset: offset, source: Source::Memory, told_log_start });
        let Some(partition) = replicas.partitions.get_mut(log) else { return };
        let leader_epoch = partition.leader_epoch().expect("who leads lets follow");
        let high_watermark = partition.high_watermark();
        let logs = &replicas.log;
        let (_, epoch_start) = logs.end_offset_for_epoch(log, leader_epoch - 1);
        let ok = FollowOk {
            follow_id,
            handle,
            high_watermark,
            log_start: told_log_start,
            log_end: logs.log_end(log),
            epoch_start: epoch_start.max(0),
        };
        peers.say_to_follower(turn, follower.link, &FromLeader::FollowOk(ok));
    }

    /// A follower is to cut its log first.
    pub fn diverged(
        &mut self,
        turn: &mut Turn<'_>,
        replicas: &mut Replicas,
        peers: &mut Peers,
        (log, node_id): (LogId, i32),
        (follow_id, EpochEnd { epoch, end }): (u32, EpochEnd),
    ) {
        if let Some(follower) = self.forget(replicas, log, node_id) {
            let diverged = FromLeader::Diverged(Diverged { follow_id, epoch, end_offset: end });
            peers.say_to_follower(turn, follower.link, &diverged);
        }
    }

    /// A follower may not follow.
    pub fn refuse(
        &mut self,
        turn: &mut Turn<'_>,
        replicas: &mut Replicas,
        peers: &mut Peers,
        (log, node_id): (LogId, i32),
        (follow_id, error): (u32, ErrorCode),
    ) {
        let Some(follower) = self.forget(replicas, log, node_id) else { return };
        let why = match error {
            ErrorCode::OffsetOutOfRange => RefuseReason::OutOfRange,
            ErrorCode::FencedLeaderEpoch => RefuseReason::FencedEpoch,
            ErrorCode::UnknownLeaderEpoch | ErrorCode::StaleBrokerEpoch => RefuseReason::UnknownEpoch,
            _ => RefuseReason::NotLeader,
        };
        let bounds = (self.first_offset(replicas, log), replicas.log.log_end(log));
        peers.say_to_follower(turn, follower.link, &refusal(follow_id, why, bounds));
    }

    /// There is something to send to a follower.
    pub fn mark(&mut self, peers: &mut Peers, log: LogId, node_id: i32) {
        if let Some(Follower { link, sending: Some(sending), .. }) = self.followers.get(&(log, node_id)) {
            peers.mark(*link, sending.handle);
        }
    }

    /// The high watermark of a log has moved, or its start.
    pub fn moved(&mut self, now: Duration, log: LogId) {
        for (_, follower) in self.followers.range((log, i32::MIN)..=(log, i32::MAX)) {
            if let (Some(sending), Some(outbox)) = (&follower.sending, self.links.get_mut(&follower.link)) {
                outbox.marks.insert(sending.handle);
                outbox.marks_at.get_or_insert(now + MARKS_AFTER);
            }
        }
    }

    // ---- Sending ----

    /// Sends what there is to send, as far as followers have room for it, and what is to be said.
    pub fn send(&mut self, turn: &mut Turn<'_>, replicas: &mut Replicas, peers: &mut Peers) {
        for Subscription { link, handle } in self.files.take_read() {
            peers.mark(link, handle);
        }
        let mut said = Vec::new();
        let now = turn.now.elapsed;
        let fill = peers
            .fill(turn, |link, handle, room| self.next(now, replicas, Subscription { link, handle }, room, &mut said));
        self.has_more = fill.has_more || self.files.has_read();
        for (link, frame) in said {
            peers.say_to_follower(turn, link, &frame);
        }
        self.say_marks(turn, replicas, peers);
    }

    fn say_marks(&mut self, turn: &mut Turn<'_>, replicas: &mut Replicas, peers: &mut Peers) {
        for (link, outbox) in &mut self.links {
            if outbox.marks_at.is_none_or(|at| at > turn.now.elapsed) {
                continue;
            }
            outbox.marks_at = None;
            let mut marks = Vec::with_capacity(outbox.marks.len());
            while let Some(handle) = outbox.marks.pop_first() {
                let Some(log) = outbox.names.get(&handle) else { continue };
                let Some(partition) = replicas.partitions.get_mut(*log) else { continue };
                let (high_watermark, log_start) = (partition.high_watermark(), replicas.log.log_start(*log));
                if let Some(Follower { sending: Some(sending), .. }) = self.followers.get_mut(&(*log, outbox.node)) {
                    sending.told_log_start = log_start;
                }
                marks.push(Mark { handle, high_watermark, log_start });
            }
            for marks in marks.chunks(ITEMS_MAX) {
                peers.say_to_follower(turn, *link, &FromLeader::Marks(marks.to_vec()));
            }
        }
    }

    /// What is next of a partition on a stream.
    fn next(
        &mut self,
        now: Duration,
        replicas: &mut Replicas,
        of: Subscription,
        room: Room,
        said: &mut Vec<(LinkId, FromLeader)>,
    ) -> Filled {
        let nothing = Filled::default();
        let Some((log, node_id, _)) = self.find(of) else { return nothing };
        let first_offset = self.first_offset(replicas, log);
        let follower = self.followers.get_mut(&(log, node_id)).expect("it was found");
        let follow_id = follower.follow_id;
        let sending = follower.sending.as_mut().expect("it was found by its name");
        let Some(partition) = replicas.partitions.get_mut(log) else { return nothing };
        let Some(leader_epoch) = partition.leader_epoch() else { return nothing };
        let high_watermark = partition.high_watermark();
        let logs = &mut replicas.log;
        let (log_start, log_end) = (logs.log_start(log), logs.log_end(log));
        let at = sending.next_offset;
        if at >= log_end {
            return nothing;
        }
        let (batches, until) = match &sending.source {
            _ if at < first_offset => (Vec::new(), at),
            Source::Memory => match logs.read_uncommitted(log, at.max(log_start), room.bytes_max) {
                Some(plan) => (memory_parts(plan), log_end),
                None => {
                    sending.source = Source::Queued;
                    let has_more = self.read_or_queue(replicas, of);
                    return Filled { section: None, has_more };
                }
            },
            Source::Read { bytes, until } => (vec![bytes.clone()], *until),
            Source::Queued | Source::Seeks { .. } | Source::Reads { .. } | Source::Skipped => return nothing,
        };
        let range = logs.epoch_range(log, at);
        let refused = match next(&batches, at, range, room) {
            Next::Larger => return Filled { section: None, has_more: true },
            Next::Batches { batches, next_offset } => {
                sending.next_offset = next_offset;
                let bytes: usize = batches.iter().map(Bytes::len).sum();
                self.bytes += bytes as u64;
                self.sent(replicas, of, bytes);
                let section =
                    Section { handle: of.handle, leader_epoch, base_offset: at, next_offset, high_watermark, batches };
                return Filled { section: Some(section), has_more: next_offset < log_end };
            }
            // That a log leaves offsets out at its end is known, not concluded from what was not found.
            Next::Nothing if at >= first_offset && logs.ends_in_gap(log) => {
                return self.skip(replicas, of, (range, range.2.min(until)), high_watermark, said);
            }
            Next::Skip { to } => return self.skip(replicas, of, (range, to), high_watermark, said),
            // A follower can only begin where a batch does. Its log starts within this one and holds nothing: nothing else ends
            // there. It began where this log starts, or where that of a leader before this one does, which has deleted more.
            Next::Before(first) => {
                if at <= log_start {
                    self.starts.insert(log, (log_start, first));
                }
                (RefuseReason::OutOfRange, first)
            }
            Next::Nothing if at < first_offset => (RefuseReason::OutOfRange, first_offset),
            // What was read is not what was looked for.
            Next::Nothing => (RefuseReason::NotInMemory, first_offset),
        };
        said.push((of.link, refusal(follow_id, refused.0, (refused.1, log_end))));
        self.drop_follower(now, replicas, log, node_id);
        nothing
    }

    /// A follower is told to leave offsets out.
    fn skip(
        &mut self,
        replicas: &mut Replicas,
        of: Subscription,
        ((epoch, ..), to): ((i32, i64, i64), i64),
        high_watermark: i64,
        said: &mut Vec<(LinkId, FromLeader)>,
    ) -> Filled {
        let skip = Skip { handle: of.handle, to_offset: to, epoch, high_watermark };
        said.push((of.link, FromLeader::Skip(skip)));
        if let Some((_, sending)) = self.sending(of) {
            sending.source = Source::Skipped;
        }
        self.read_ended(replicas, of);
        Filled::default()
    }

    /// Batches of a partition are sent: the high watermark with them, but not where the log starts.
    fn sent(&mut self, replicas: &mut Replicas, of: Subscription, bytes: usize) {
        let Some((log, sending)) = self.sending(of) else { return };
        let knows_start = sending.told_log_start == replicas.log.log_start(log);
        if let Source::Read { bytes: rest, .. } = &mut sending.source {
            let _ = rest.split_to(bytes);
            let is_all = rest.is_empty();
            if is_all {
                sending.source = Source::Memory;
                self.read_ended(replicas, of);
            }
            self.files.sent(bytes);
        }
        if let Some(outbox) = self.links.get_mut(&of.link).filter(|_| knows_start) {
            outbox.marks.remove(&of.handle);
        }
    }

    /// When something is due though nothing happens.
    pub fn next_deadline(&self) -> Option<Duration> {
        let at_once = self.has_more.then_some(Duration::ZERO);
        self.links.values().filter_map(|outbox| outbox.marks_at).chain(at_once).min()
    }

    /// What is counted, for a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        let help = "Followers of partitions led here that are sent what they lack, or have asked.";
        samples.push(Sample::gauge("millstream_replica_followers", help, self.followers.len() as u64));
        let help = "Bytes of batches sent to followers.";
        samples.push(Sample::counter("millstream_replica_bytes_out_total", help, self.bytes));
        self.files.samples(self.links.values().map(|outbox| outbox.reading.len()).sum(), samples);
    }

    // ---- Who is meant ----

    /// The partition and the follower that a name means.
    pub(super) fn find(&self, of: Subscription) -> Option<(LogId, i32, &Follower)> {
        let outbox = self.links.get(&of.link)?;
        let log = *outbox.names.get(&of.handle)?;
        Some((log, outbox.node, self.followers.get(&(log, outbox.node))?))
    }

    /// The partition that a name means, and what is sent of it.
    pub(super) fn sending(&mut self, of: Subscription) -> Option<(LogId, &mut Sending)> {
        let (log, node_id, _) = self.find(of)?;
        Some((log, self.followers.get_mut(&(log, node_id))?.sending.as_mut()?))
    }

    /// Where the first batch of a log begins: at the log start, but where that lies within a batch and this is known.
    pub(super) fn first_offset(&self, replicas: &Replicas, log: LogId) -> i64 {
        let log_start = replicas.log.log_start(log);
        match self.starts.get(&log) {
            Some((start, first)) if *start == log_start => *first,
            _ => log_start,
        }
    }

    /// A follower is sent nothing more before it has asked anew, of which its leader knows.
    pub(super) fn drop_follower(&mut self, now: Duration, replicas: &mut Replicas, log: LogId, node_id: i32) {
        if self.forget(replicas, log, node_id).is_some() {
            replicas.tell(now, log, Event::StreamClosed { node_id });
        }
    }

    fn forget(&mut self, replicas: &mut Replicas, log: LogId, node_id: i32) -> Option<Follower> {
        let follower = self.followers.remove(&(log, node_id))?;
        if let (Some(sending), Some(outbox)) = (&follower.sending, self.links.get_mut(&follower.link)) {
            outbox.names.remove(&sending.handle);
            outbox.marks.remove(&sending.handle);
            outbox.queued.retain(|handle| *handle != sending.handle);
            self.read_ended(replicas, Subscription { link: follower.link, handle: sending.handle });
        }
        Some(follower)
    }
}

pub(super) fn refusal(follow_id: u32, why: RefuseReason, (log_start, log_end): (i64, i64)) -> FromLeader {
    FromLeader::Refused(Refused { follow_id, why, leader: -1, leader_epoch: -1, log_start, log_end })
}

fn memory_parts(plan: ReadPlan) -> Vec<Bytes> {
    let memory = |part| match part {
        ReadPart::Memory(bytes) => bytes,
        ReadPart::File { .. } => unreachable!("what is in memory is read"),
    };
    plan.parts.into_iter().map(memory).collect()
}

/// What is next at an offset: of these whole batches, of which the first is the one at the offset or behind it, those of the
/// epoch there for which there is room. The range is the epoch's, its start and its end.
fn next(slices: &[Bytes], at: i64, (_, epoch_start, epoch_end): (i32, i64, i64), room: Room) -> Next {
    let (mut batches, mut bytes_left, mut next_offset) = (Vec::new(), room.bytes_max, at);
    'slices: for slice in slices {
        let mut taken = 0;
        for batch in Batches::new(slice) {
            let (header, batch) = batch.expect("whole batches");
            let is_first = taken == 0 && batches.is_empty();
            match header.base_offset() {
                first if is_first && first < at => {
                    return if at <= header.last_offset() { Next::Before(first) } else { Next::Nothing };
                }
                first if is_first && first >= epoch_end => return Next::Skip { to: epoch_end },
                first if is_first && first > at && at == epoch_start => return Next::Skip { to: first },
                _ if is_first && batch.len() > bytes_left && !room.is_first => return Next::Larger,
                _ if is_first => {}
                first if first < epoch_end && batch.len() <= bytes_left => {}
                _ => {
                    batches.extend((taken > 0).then(|| slice.slice(..taken)));
                    break 'slices;
                }
            }
            taken += batch.len();
            bytes_left = bytes_left.saturating_sub(batch.len());
            next_offset = header.last_offset() + 1;
        }
        batches.extend((taken > 0).then(|| slice.slice(..taken)));
    }
    if batches.is_empty() { Next::Nothing } else { Next::Batches { batches, next_offset } }
}

#[cfg(test)]
mod tests {
    use millstream_storage::batch::{BatchBuilder, assign};

    use super::*;

    const ROOM: Room = Room { bytes_max: 10_000, is_first: false };

    fn batch(offset: i64, epoch: i32) -> Bytes {
        let mut batch = BatchBuilder::new().record(1, None, Some(b"value"), &[]).build();
        assign(&mut batch, offset, epoch, None);
        batch.into()
    }

    #[test]
    fn a_section_does_not_span_an_epoch_nor_hide_where_one_starts() {
        let (ten, eleven, twenty) = (batch(10, 1), batch(11, 1), batch(20, 2));
        let slices = [Bytes::from([&ten[..], &eleven[..]].concat()), twenty.clone()];
        let first = Next::Batches { batches: vec![slices[0].clone()], next_offset: 12 };
        assert_eq!(next(&slices, 10, (1, 10, 15), ROOM), first);
        assert_eq!(next(&slices, 8, (1, 5, 15), ROOM), first, "a gap within an epoch");
        assert_eq!(next(&slices, 8, (1, 8, 15), ROOM), Next::Skip { to: 10 }, "a gap where one starts");
        assert_eq!(next(&slices[1..], 12, (1, 5, 15), ROOM), Next::Skip { to: 15 }, "a gap where one ends");
        assert_eq!(next(&slices[1..], 15, (2, 15, 30), ROOM), Next::Skip { to: 20 });
        let last = Next::Batches { batches: vec![twenty], next_offset: 21 };
        assert_eq!(next(&slices[1..], 20, (2, 15, 30), ROOM), last);
        assert_eq!(next(&slices, 12, (1, 5, 15), ROOM), Next::Nothing, "what was read lies before");
        let two = BatchBuilder::new().record(1, None, Some(b"a"), &[]).record(1, None, Some(b"b"), &[]);
        let mut two = two.build();
        assign(&mut two, 10, 1, None);
        let two = [Bytes::from(two)];
        assert_eq!(next(&two, 11, (1, 5, 15), ROOM), Next::Before(10));
        assert_eq!(next(&[], 11, (1, 5, 15), ROOM), Next::Nothing);
    }

    #[test]
    fn no_more_is_sent_than_there_is_room_for_but_a_single_batch() {
        let (ten, eleven) = (batch(10, 1), batch(11, 1));
        let bytes = ten.len();
        let slices = [Bytes::from([&ten[..], &eleven[..]].concat())];
        let room = |bytes_max, is_first| Room { bytes_max, is_first };
        let one = Next::Batches { batches: vec![ten], next_offset: 11 };
        assert_eq!(next(&slices, 10, (1, 10, 15), room(2 * bytes - 1, false)), one);
        assert_eq!(next(&slices, 10, (1, 10, 15), room(bytes - 1, true)), one);
        assert_eq!(next(&slices, 10, (1, 10, 15), room(bytes - 1, false)), Next::Larger);
    }
}
