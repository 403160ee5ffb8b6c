//! What the partitions followed here ask of those who lead them, and what comes from them: one stream to each shard that leads
//! some of them.
//!
//! What comes by a stream is taken in its order. When the log has no room for batches, because the disk does not keep up,
//! the stream waits, and its leader with it, as it has no more under way than the window has room for.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::mem;

use millstream_replication::ErrorCode;
use millstream_replication::replica::{EpochEnd, Event};
use millstream_storage::PartitionKey;
use millstream_storage::batch::Batches;
use millstream_storage::shard_log::{LogId, ReplicateError, Replicated};

use super::replicas::Replicas;
use crate::metrics::Sample;
use crate::peer::links::LinkId;
use crate::peer::stream::frame::{
    Diverged, DurableRange, Follow, FollowOk, FromFollower, FromLeader, ITEMS_MAX, Mark, RefuseReason, Refused, Skip,
    StallReason,
};
use crate::peer::stream::section::Section;
use crate::shard::peers::Peers;
use crate::shard::peers::following::Leader;
use crate::shard::turn::Turn;

/// Answers of one stream that wait for the disk, at most: so many, or twice as many as there are questions if that is more.
/// Beyond that the stream is closed. Of data no more is under way than the window, and of marks the newest is kept of each
/// partition.
const ANSWERS_WAITING_MAX: usize = 4096;

/// What a partition asks, and has been answered.
#[derive(Clone, Copy, Debug)]
struct Asked {
    link: LinkId,
    /// As the stream has it.
    follow_id: u32,
    /// As the replica has it.
    own_id: u32,
    /// The leader's name for the partition, once it lets it follow.
    handle: Option<u32>,
}

/// A stream from a leader.
#[derive(Debug)]
struct Inbox {
    leader: Leader,
    /// What the leader's names mean.
    names: HashMap<u32, LogId>,
    /// What has come and is not taken yet.
    frames: VecDeque<Frame>,
    /// So many of them are answers.
    answers: usize,
    /// The names that they give.
    given: BTreeSet<u32>,
    /// The newest marks by name, which are taken after all that has come. What they say holds then, too: a high watermark and a
    /// log start only go forward.
    marks: BTreeMap<u32, Mark>,
    /// To be asked at the end of the turn.
    follows: Vec<Follow>,
    /// Not followed any more.
    unfollows: Vec<u32>,
}

#[derive(Debug)]
enum Frame {
    /// What is left of a data frame, and its bytes.
    Data(VecDeque<Section>, u64),
    Answer(FromLeader),
}

/// What is followed here.
#[derive(Debug, Default)]
pub struct FromLeaders {
    links: BTreeMap<LinkId, Inbox>,
    by_log: HashMap<LogId, Asked>,
    by_follow_id: HashMap<u32, LogId>,
    last_follow_id: u32,
    /// What has become durable of which logs, and where they start, to be said at the end of the turn.
    durable: BTreeMap<LogId, (i64, i64)>,
    bytes: u64,
    stalled: u64,
    restarts: u64,
    lost: u64,
}

impl Inbox {
    /// The leader has said what has changed without a record.
    fn mark(&mut self, marks: Vec<Mark>) {
        let is_meant = |mark: &Mark| self.names.contains_key(&mark.handle) || self.given.contains(&mark.handle);
        let marks: Vec<Mark> = marks.into_iter().filter(is_meant).collect();
        self.marks.extend(marks.into_iter().map(|mark| (mark.handle, mark)));
    }

    /// Nothing that has come is taken any more.
    fn drop_frames(&mut self) {
        self.frames.clear();
        self.given.clear();
        self.marks.clear();
        self.answers = 0;
    }
}

/// What became of a section.
enum Outcome {
    Taken,
    /// What the log takes at once is, and the rest is left.
    Begun,
    /// The log has no room for now.
    Waits,
    /// The leader has sent what it must not.
    Broken(String),
}

impl FromLeaders {
    /// A stream is open to a leader: whoever follows it may ask.
    pub fn opened(&mut self, link: LinkId, leader: Leader) {
        let inbox = Inbox {
            leader,
            names: HashMap::new(),
            frames: VecDeque::new(),
            answers: 0,
            given: BTreeSet::new(),
            marks: BTreeMap::new(),
            follows: Vec::new(),
            unfollows: Vec::new(),
        };
        self.links.insert(link, inbox);
    }

    /// A stream is gone, with all that has come by it and was not taken.
    pub fn closed(&mut self, turn: &Turn<'_>, replicas: &mut Replicas, link: LinkId) {
        let Some(inbox) = self.links.remove(&link) else { return };
        let mut logs: Vec<LogId> =
            self.by_log.iter().filter(|(_, asked)| asked.link == link).map(|(log, _)| *log).collect();
        logs.sort_unstable();
        for log in logs {
            self.forget(log);
            replicas.tell(turn.now.elapsed, log, Event::StreamClosed { node_id: inbox.leader.node });
        }
    }

    /// A replica asks its leader. Without a stream nothing happens until there is one.
    pub fn ask(&mut self, peers: &Peers, log: LogId, mut follow: Follow) {
        self.forget(log);
        let own_id = follow.follow_id;
        let key = PartitionKey { topic_id: follow.topic_id, partition: follow.partition };
        let link = peers.leader_of(key).and_then(|leader| peers.to_leader(leader));
        let Some((link, inbox)) = link.and_then(|link| Some((link, self.links.get_mut(&link)?))) else { return };
        while {
            self.last_follow_id = self.last_follow_id.wrapping_add(1);
            self.by_follow_id.contains_key(&self.last_follow_id)
        } {}
        follow.follow_id = self.last_follow_id;
        inbox.follows.push(follow);
        self.by_follow_id.insert(follow.follow_id, log);
        self.by_log.insert(log, Asked { link, follow_id: follow.follow_id, own_id, handle: None });
    }

    /// What a log was sent means nothing to it any more.
    fn forget(&mut self, log: LogId) -> Option<Asked> {
        let asked = self.by_log.remove(&log)?;
        self.by_follow_id.remove(&asked.follow_id);
        self.durable.remove(&log);
        if let Some(inbox) = self.links.get_mut(&asked.link) {
            if let Some(handle) = asked.handle {
                inbox.names.remove(&handle);
                inbox.marks.remove(&handle);
            }
            inbox.follows.retain(|follow| follow.follow_id != asked.follow_id);
        }
        Some(asked)
    }

    /// A log does not follow any more.
    pub fn unfollow(&mut self, log: LogId) {
        if let Some(asked) = self.forget(log)
            && let Some(inbox) = self.links.get_mut(&asked.link)
        {
            inbox.unfollows.push(asked.follow_id);
        }
    }

    /// Up to where a log is durable by now and where it starts, which the leader is told at the end of the turn.
    pub fn durable(&mut self, log: LogId, own_id: u32, (end, log_start): (i64, i64)) {
        if self.by_log.get(&log).is_some_and(|asked| asked.own_id == own_id) {
            self.durable.insert(log, (end, log_start));
        }
    }

    /// A log is to be cut.
    pub fn restarted(&mut self) {
        self.restarts += 1;
    }

    /// Committed records are cut.
    pub fn lost(&mut self) {
        self.lost += 1;
    }

    /// Something has come from a leader: it is taken at the end of the turn, or now, which is the same to it.
    pub fn received(&mut self, turn: &mut Turn<'_>, peers: &mut Peers, link: LinkId, frame: FromLeader, bytes: u64) {
        let Some(inbox) = self.links.get_mut(&link) else { return peers.consumed(link, bytes) };
        match frame {
            FromLeader::Pong => {}
            FromLeader::Data(sections) => inbox.frames.push_back(Frame::Data(sections.into(), bytes)),
            FromLeader::Marks(marks) => inbox.mark(marks),
            answer if inbox.answers < ANSWERS_WAITING_MAX.max(2 * self.by_log.len()) => {
                inbox.answers += 1;
                if let FromLeader::FollowOk(ok) = &answer {
                    inbox.given.insert(ok.handle);
                }
                inbox.frames.push_back(Frame::Answer(answer));
            }
            _ => peers.break_off(turn, link, "more is answered than was asked while the disk does not keep up"),
        }
    }

    /// Takes what has come, as far as the log has room for it. Returns whether there was anything to do.
    pub fn take(&mut self, turn: &mut Turn<'_>, replicas: &mut Replicas, peers: &mut Peers) -> bool {
        let mut any = false;
        for link in self.links.keys().copied().collect::<Vec<_>>() {
            while let Some(frame) = self.links.get_mut(&link).and_then(|inbox| inbox.frames.pop_front()) {
                match frame {
                    Frame::Answer(answer) => {
                        self.links.get_mut(&link).expect("its frame was taken").answers -= 1;
                        self.answered(turn, replicas, link, answer);
                    }
                    Frame::Data(mut sections, bytes) => {
                        match self.take_sections(turn, replicas, peers, link, &mut sections) {
                            Outcome::Taken | Outcome::Begun => peers.consumed(link, bytes),
                            Outcome::Waits => {
                                let inbox = self.links.get_mut(&link).expect("its frame was taken");
                                inbox.frames.push_front(Frame::Data(sections, bytes));
                                break;
                            }
                            Outcome::Broken(why) => {
                                let inbox = self.links.get_mut(&link).expect("its frame was taken");
                                inbox.drop_frames();
                                peers.break_off(turn, link, &why);
                                break;
                            }
                        }
                    }
                }
                any = true;
            }
            any |= self.take_marks(turn, replicas, link);
        }
        any
    }

    /// Takes the marks, if everything is taken that has come before them.
    fn take_marks(&mut self, turn: &Turn<'_>, replicas: &mut Replicas, link: LinkId) -> bool {
        let Some(inbox) = self.links.get_mut(&link).filter(|inbox| inbox.frames.is_empty()) else { return false };
        let marks = mem::take(&mut inbox.marks);
        for Mark { handle, high_watermark, log_start } in marks.values().copied() {
            if let Some(log) = inbox.names.get(&handle) {
                replicas.tell(turn.now.elapsed, *log, Event::Marks { handle, high_watermark, log_start });
            }
        }
        !marks.is_empty()
    }

    fn take_sections(
        &mut self,
        turn: &mut Turn<'_>,
        replicas: &mut Replicas,
        peers: &mut Peers,
        link: LinkId,
        sections: &mut VecDeque<Section>,
    ) -> Outcome {
        while let Some(section) = sections.front_mut() {
            match self.take_section(turn, replicas, peers, link, section) {
                Outcome::Taken => drop(sections.pop_front()),
                Outcome::Begun => {}
                other => return other,
            }
        }
        Outcome::Taken
    }

    fn take_section(
        &mut self,
        turn: &mut Turn<'_>,
        replicas: &mut Replicas,
        peers: &mut Peers,
        link: LinkId,
        section: &mut Section,
    ) -> Outcome {
        let &mut Section { handle, leader_epoch, base_offset, next_offset, high_watermark, .. } = section;
        let Some(log) = self.links.get(&link).and_then(|inbox| inbox.names.get(&handle)).copied() else {
            // Of an answer before the newest.
            return Outcome::Taken;
        };
        let Replicas { log: logs, partitions, .. } = replicas;
        let replica = partitions.get_mut(log).and_then(|partition| partition.replica.as_ref());
        let Some(replica) = replica.filter(|replica| replica.accepts(handle, base_offset)) else {
            return Outcome::Taken;
        };
        if replica.leader_epoch() != leader_epoch {
            return Outcome::Broken(format!("batches of epoch {leader_epoch} in epoch {}", replica.leader_epoch()));
        }
        let batches = section.batches.first_mut().expect("a section that was received has its batches in one slice");
        let piece = batches.slice(..piece_bytes(batches, logs.pending_bytes_max()));
        match logs.append_replicated(turn.now, log, &piece, leader_epoch) {
            Ok(Replicated { end, bytes }) if (end == next_offset) == (piece.len() == batches.len()) => {
                self.bytes += bytes;
                let last_epoch = logs.last_epoch(log);
                replicas.tell(turn.now.elapsed, log, Event::Accepted { log_end: end, last_epoch, high_watermark });
                if end == next_offset {
                    return Outcome::Taken;
                }
                let _ = batches.split_to(piece.len());
                section.base_offset = end;
                Outcome::Begun
            }
            Ok(Replicated { end, .. }) => {
                // What is here is not what the leader has said: it is asked anew, and cuts what is not its own.
                Outcome::Broken(format!("batches that end at {end} and are said to end at {next_offset}"))
            }
            Err(ReplicateError::Space) if logs.is_out_of_space() => {
                self.stalled += 1;
                self.refused(turn, replicas, log, ErrorCode::KafkaStorageError, (-1, -1));
                let stalled = FromFollower::Stalled { why: StallReason::NoSpace, handles: vec![handle] };
                peers.say_to_leader(turn, link, &stalled);
                Outcome::Taken
            }
            Err(ReplicateError::Space) => Outcome::Waits,
            Err(why @ (ReplicateError::Crc | ReplicateError::Order)) => {
                Outcome::Broken(format!("batches from {base_offset} to {next_offset} are not taken: {why:?}"))
            }
        }
    }

    fn answered(&mut self, turn: &mut Turn<'_>, replicas: &mut Replicas, link: LinkId, frame: FromLeader) {
        let now = turn.now.elapsed;
        match frame {
            FromLeader::Pong | FromLeader::Data(_) | FromLeader::Marks(_) => unreachable!("it is no answer"),
            FromLeader::FollowOk(FollowOk { follow_id, handle, high_watermark, log_start, .. }) => {
                self.links.get_mut(&link).expect("something came by it").given.remove(&handle);
                let Some((log, asked)) = self.of(link, follow_id) else { return };
                asked.handle = Some(handle);
                let follow_id = asked.own_id;
                self.links.get_mut(&link).expect("as above").names.insert(handle, log);
                replicas.tell(now, log, Event::FollowOk { follow_id, handle, high_watermark, log_start });
            }
            FromLeader::Diverged(Diverged { follow_id, epoch, end_offset }) => {
                let Some((log, asked)) = self.of(link, follow_id) else { return };
                let follow_id = asked.own_id;
                let (own_epoch, own_end) = replicas.log.end_offset_for_epoch(log, epoch);
                let event = Event::Diverged {
                    follow_id,
                    epoch_end: EpochEnd { epoch, end: end_offset },
                    own: EpochEnd { epoch: own_epoch, end: own_end },
                };
                replicas.tell(now, log, event);
            }
            FromLeader::Refused(Refused { follow_id, why, log_start, log_end, .. }) => {
                let Some((log, _)) = self.of(link, follow_id) else { return };
                let error = match why {
                    RefuseReason::NotLeader | RefuseReason::NotReplica => ErrorCode::NotLeaderOrFollower,
                    RefuseReason::FencedEpoch => ErrorCode::FencedLeaderEpoch,
                    RefuseReason::UnknownEpoch => ErrorCode::UnknownLeaderEpoch,
                    RefuseReason::UnknownPartition => ErrorCode::UnknownTopicId,
                    RefuseReason::OutOfRange if log_start >= 0 => ErrorCode::OffsetOutOfRange,
                    RefuseReason::OutOfRange | RefuseReason::NotInMemory => ErrorCode::KafkaStorageError,
                };
                self.refused(turn, replicas, log, error, (log_start, log_end));
            }
            FromLeader::Skip(Skip { handle, to_offset, epoch, high_watermark }) => {
                let Some(log) = self.named(link, handle) else { return };
                replicas.tell(now, log, Event::Skip { handle, to: to_offset, epoch, high_watermark });
            }
        }
    }

    fn refused(
        &mut self,
        turn: &Turn<'_>,
        replicas: &mut Replicas,
        log: LogId,
        error: ErrorCode,
        (log_start, log_end): (i64, i64),
    ) {
        let Some(asked) = self.forget(log) else { return };
        let follow_id = asked.own_id;
        replicas.tell(turn.now.elapsed, log, Event::Refused { follow_id, error, log_start, log_end });
    }

    /// What a follow id of a stream means.
    fn of(&mut self, link: LinkId, follow_id: u32) -> Option<(LogId, &mut Asked)> {
        let log = *self.by_follow_id.get(&follow_id)?;
        let asked = self.by_log.get_mut(&log).filter(|asked| asked.link == link)?;
        Some((log, asked))
    }

    /// What a leader's name on a stream means.
    fn named(&self, link: LinkId, handle: u32) -> Option<LogId> {
        self.links.get(&link)?.names.get(&handle).copied()
    }

    /// Ends a turn: asks, and says what has become durable.
    pub fn end_turn(&mut self, turn: &mut Turn<'_>, peers: &mut Peers) {
        for (link, inbox) in &mut self.links {
            for unfollowed in mem::take(&mut inbox.unfollows).chunks(ITEMS_MAX) {
                peers.say_to_leader(turn, *link, &FromFollower::Unfollow(unfollowed.to_vec()));
            }
            for follows in mem::take(&mut inbox.follows).chunks(ITEMS_MAX) {
                peers.say_to_leader(turn, *link, &FromFollower::Follow(follows.to_vec()));
            }
        }
        for (log, (end, log_start)) in mem::take(&mut self.durable) {
            if let Some(Asked { link, handle: Some(handle), .. }) = self.by_log.get(&log).copied() {
                peers.durable(link, DurableRange { handle, end, log_start });
            }
        }
    }

    /// Whether something is to be said at the end of a turn.
    pub fn is_due(&self) -> bool {
        let asks = |inbox: &Inbox| !inbox.follows.is_empty() || !inbox.unfollows.is_empty();
        !self.durable.is_empty() || self.links.values().any(asks)
    }

    /// What is counted, for a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        let waiting = self.links.values().map(|inbox| inbox.frames.len() as u64).sum();
        let help = "Partitions that follow a leader, or have asked it.";
        samples.push(Sample::gauge("millstream_replica_following", help, self.by_log.len() as u64));
        let help =
            "Frames of leaders that wait for the disk, over all streams: data within their windows, and answers.";
        samples.push(Sample::gauge("millstream_replica_frames_waiting", help, waiting));
        let mut counter = |name, help, value| samples.push(Sample::counter(name, help, value));
        counter("millstream_replica_bytes_in_total", "Bytes of batches appended that leaders have sent.", self.bytes);
        counter("millstream_replica_stalled_total", "Sections not taken as the disk is full.", self.stalled);
        counter("millstream_replica_restarts_total", "Logs cut to what their leaders have.", self.restarts);
        counter("millstream_replica_lost_total", "Cuts of committed records, after unclean elections.", self.lost);
    }
}

/// How many bytes of these batches a log takes at once: all, or as many whole ones as fit, but one at least.
fn piece_bytes(batches: &[u8], bytes_max: u64) -> usize {
    if batches.len() as u64 <= bytes_max {
        return batches.len();
    }
    let mut bytes = 0;
    for batch in Batches::new(batches) {
        match batch {
            Ok((_, batch)) if bytes == 0 || (bytes + batch.len()) as u64 <= bytes_max => bytes += batch.len(),
            Ok(_) => break,
            // Whoever appends says what is wrong with them.
            Err(_) => return batches.len(),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use millstream_storage::batch::BatchBuilder;

    use super::*;

    #[test]
    fn of_marks_that_wait_the_newest_is_kept_of_each_partition_that_has_a_name() {
        let mut inbox = Inbox {
            leader: Leader { node: 1, shard: 0 },
            names: HashMap::from([(1, LogId(0))]),
            frames: VecDeque::new(),
            follows: Vec::new(),
            unfollows: Vec::new(),
            answers: 1,
            given: BTreeSet::from([2]),
            marks: BTreeMap::new(),
        };
        let mark = |handle, high_watermark| Mark { handle, high_watermark, log_start: 0 };
        inbox.mark(vec![mark(1, 5), mark(3, 7)]);
        inbox.mark(vec![mark(1, 6), mark(2, 8)]);
        assert_eq!(inbox.marks.values().copied().collect::<Vec<_>>(), [mark(1, 6), mark(2, 8)]);
    }

    #[test]
    fn a_log_is_given_what_it_takes_at_once() {
        let batch = BatchBuilder::new().record(1, None, Some(&[7; 100]), &[]).build();
        let (one, three) = (batch.len(), batch.repeat(3));
        let table = [(3 * one, 3 * one), (3 * one - 1, 2 * one), (2 * one, 2 * one), (one, one), (1, one)];
        for (bytes_max, expected) in table {
            assert_eq!(piece_bytes(&three, bytes_max as u64), expected, "{bytes_max}");
        }
        assert_eq!(piece_bytes(&three[..3 * one - 1], one as u64), one, "the rest is looked at later");
        assert_eq!(piece_bytes(&three[1..], one as u64), 3 * one - 1, "no batch");
    }
}
