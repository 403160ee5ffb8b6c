//! The frames of a stream after its greeting. Each direction has its own: a frame that the other side sends is none here.

use bytes::Bytes;
use millstream_replication::reader::Reader;
use millstream_storage::TopicId;

use super::section::{DATA, Section};
use super::{FRAME_BYTES_MAX, begin, end, section};

/// Logs begin and go on below: [`millstream_storage::ShardLog::restart`].
const BEGIN_AT_MAX: i64 = 1 << 62;
/// Items of one frame that is a list, at most.
pub const ITEMS_MAX: usize = 4096;

const PING: u8 = 34;
const PONG: u8 = 35;
const FOLLOW: u8 = 36;
const UNFOLLOW: u8 = 37;
const ACK: u8 = 38;
const STALLED: u8 = 39;
const FOLLOW_OK: u8 = 40;
const DIVERGED: u8 = 41;
const REFUSED: u8 = 42;
const SKIP: u8 = 44;
const MARKS: u8 = 45;

/// A partition that is followed from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follow {
    /// New on this stream: what answers it is told from answers to those before.
    pub follow_id: u32,
    /// The partition's topic.
    pub topic_id: TopicId,
    /// Its number.
    pub partition: i32,
    /// The leader's epoch, as far as the follower knows.
    pub leader_epoch: i32,
    /// Where the follower's log ends.
    pub fetch_offset: i64,
    /// The leader epoch of its last batch; -1: it has none.
    pub last_epoch: i32,
    /// Where the follower's log begins.
    pub log_start: i64,
}

/// What a partition has durably at the follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurableRange {
    /// The leader's name for the partition.
    pub handle: u32,
    /// One past the last offset that survives a loss of power.
    pub end: i64,
    /// Where its log begins, which does not go back by a loss of power either; at most `end`.
    pub log_start: i64,
}

/// Why a follower takes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StallReason {
    /// Its disk is full.
    NoSpace = 1,
    /// Its disk does not keep up.
    SlowDisk = 2,
}

/// What a follower says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromFollower {
    /// Is anybody there? Answered with [`FromLeader::Pong`].
    Ping,
    /// These partitions are followed, from where their logs end.
    Follow(Vec<Follow>),
    /// Those of these follow ids are not any more.
    Unfollow(Vec<u32>),
    /// What was taken, and what is durable.
    Ack {
        /// Bytes of data frames that were taken since the stream began, their lengths included.
        consumed_bytes: u64,
        /// What is durable, or deleted, since it was said last.
        ranges: Vec<DurableRange>,
    },
    /// These partitions are not taken for now.
    Stalled {
        /// Why not.
        why: StallReason,
        /// The leader's names for them.
        handles: Vec<u32>,
    },
}

/// A partition that a leader lets be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowOk {
    /// Of the [`Follow`] that this answers.
    pub follow_id: u32,
    /// The leader's name for the partition.
    pub handle: u32,
    /// Its high watermark.
    pub high_watermark: i64,
    /// Where its log begins.
    pub log_start: i64,
    /// Where its log ends.
    pub log_end: i64,
    /// Where its epoch began.
    pub epoch_start: i64,
}

/// A follower's log is not the beginning of the leader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Diverged {
    /// Of the [`Follow`] that this answers.
    pub follow_id: u32,
    /// The largest epoch that the leader knows at or below the follower's last (KIP-595).
    pub epoch: i32,
    /// Where it ended.
    pub end_offset: i64,
}

/// Why a partition may not be followed, or not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefuseReason {
    /// It is led elsewhere, or by nobody.
    NotLeader = 1,
    /// It is led here in a later epoch.
    FencedEpoch = 2,
    /// It is led in an epoch of which this node has not heard within a second.
    UnknownEpoch = 3,
    /// There is no such partition.
    UnknownPartition = 4,
    /// Whoever asks holds no replica of it.
    NotReplica = 5,
    /// The log does not reach back so far, or not so far ahead.
    OutOfRange = 6,
    /// The position is not in memory: it is caught up on the other lane.
    NotInMemory = 7,
}

const REFUSE_REASONS: [RefuseReason; 7] = [
    RefuseReason::NotLeader,
    RefuseReason::FencedEpoch,
    RefuseReason::UnknownEpoch,
    RefuseReason::UnknownPartition,
    RefuseReason::NotReplica,
    RefuseReason::OutOfRange,
    RefuseReason::NotInMemory,
];

/// A partition that may not be followed, or not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Of the [`Follow`] that this answers.
    pub follow_id: u32,
    /// Why not.
    pub why: RefuseReason,
    /// Who leads it, as far as is known; -1: nobody.
    pub leader: i32,
    /// In which epoch; -1: that is not known.
    pub leader_epoch: i32,
    /// Where the log begins; -1: it is not here.
    pub log_start: i64,
    /// Where it ends; -1: it is not here.
    pub log_end: i64,
}

/// Nothing is left of a partition below an offset: compaction has removed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skip {
    /// The leader's name for the partition.
    pub handle: u32,
    /// What follows begins there.
    pub to_offset: i64,
    /// The leader epoch of what was there; -1: it is not known any more.
    pub epoch: i32,
    /// The leader's high watermark.
    pub high_watermark: i64,
}

/// What has moved of a partition though nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The leader's name for the partition.
    pub handle: u32,
    /// The leader's high watermark.
    pub high_watermark: i64,
    /// Where its log begins.
    pub log_start: i64,
}

/// What a leader says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromLeader {
    /// Somebody is there.
    Pong,
    /// A partition may be followed.
    FollowOk(FollowOk),
    /// The follower's log has to be cut first.
    Diverged(Diverged),
    /// It may not.
    Refused(Refused),
    /// Batches.
    Data(Vec<Section>),
    /// A gap.
    Skip(Skip),
    /// High watermarks and log starts.
    Marks(Vec<Mark>),
}

impl FromFollower {
    /// The frame with its length. Lists have at most [`ITEMS_MAX`] items.
    pub fn to_bytes(&self) -> Bytes {
        let mut out;
        match self {
            FromFollower::Ping => out = begin(PING),
            FromFollower::Follow(follows) => {
                out = begin(FOLLOW);
                put_count(&mut out, follows.len());
                for follow in follows {
                    out.extend(follow.follow_id.to_le_bytes());
                    out.extend(follow.topic_id.0);
                    out.extend(follow.partition.to_le_bytes());
                    out.extend(follow.leader_epoch.to_le_bytes());
                    out.extend(follow.fetch_offset.to_le_bytes());
                    out.extend(follow.last_epoch.to_le_bytes());
                    out.extend(follow.log_start.to_le_bytes());
                }
            }
            FromFollower::Unfollow(follow_ids) => {
                out = begin(UNFOLLOW);
                put_numbers(&mut out, follow_ids);
            }
            FromFollower::Ack { consumed_bytes, ranges } => {
                out = begin(ACK);
                out.extend(consumed_bytes.to_le_bytes());
                put_count(&mut out, ranges.len());
                for DurableRange { handle, end, log_start } in ranges {
                    out.extend(handle.to_le_bytes());
                    out.extend(end.to_le_bytes());
                    out.extend(log_start.to_le_bytes());
                }
            }
            FromFollower::Stalled { why, handles } => {
                out = begin(STALLED);
                out.push(*why as u8);
                put_numbers(&mut out, handles);
            }
        }
        end(&mut out, 0);
        out.into()
    }

    /// Reads a frame of which the length was cut off. The error is for people.
    pub fn decode(frame: &Bytes) -> Result<FromFollower, String> {
        let mut reader = checked(frame)?;
        let decoded = match reader.byte()? {
            PING => FromFollower::Ping,
            FOLLOW => FromFollower::Follow(list(&mut reader, 48, follow)?),
            UNFOLLOW => FromFollower::Unfollow(list(&mut reader, 4, handle)?),
            ACK => {
                let consumed_bytes = reader.u64()?;
                FromFollower::Ack { consumed_bytes, ranges: items(&mut reader, 20, range)? }
            }
            STALLED => {
                let why = match reader.byte()? {
                    1 => StallReason::NoSpace,
                    2 => StallReason::SlowDisk,
                    other => return Err(format!("{other} is no reason to stall")),
                };
                FromFollower::Stalled { why, handles: list(&mut reader, 4, handle)? }
            }
            other => return Err(format!("followers send no frames of kind {other}")),
        };
        ended(&reader, decoded)
    }
}

impl FromLeader {
    /// The frame with its length, as slices of memory. Lists have at most [`ITEMS_MAX`] items, data frames
    /// [`section::SECTIONS_MAX`].
    pub fn to_slices(&self) -> Vec<Bytes> {
        let mut out;
        match self {
            FromLeader::Data(sections) => return section::encode(sections),
            FromLeader::Pong => out = begin(PONG),
            FromLeader::FollowOk(ok) => {
                out = begin(FOLLOW_OK);
                out.extend(ok.follow_id.to_le_bytes());
                out.extend(ok.handle.to_le_bytes());
                for offset in [ok.high_watermark, ok.log_start, ok.log_end, ok.epoch_start] {
                    out.extend(offset.to_le_bytes());
                }
            }
            FromLeader::Diverged(diverged) => {
                out = begin(DIVERGED);
                out.extend(diverged.follow_id.to_le_bytes());
                out.extend(diverged.epoch.to_le_bytes());
                out.extend(diverged.end_offset.to_le_bytes());
            }
            FromLeader::Refused(refused) => {
                out = begin(REFUSED);
                out.extend(refused.follow_id.to_le_bytes());
                out.push(refused.why as u8);
                out.extend(refused.leader.to_le_bytes());
                out.extend(refused.leader_epoch.to_le_bytes());
                out.extend(refused.log_start.to_le_bytes());
                out.extend(refused.log_end.to_le_bytes());
            }
            FromLeader::Skip(skip) => {
                out = begin(SKIP);
                out.extend(skip.handle.to_le_bytes());
                out.extend(skip.to_offset.to_le_bytes());
                out.extend(skip.epoch.to_le_bytes());
                out.extend(skip.high_watermark.to_le_bytes());
            }
            FromLeader::Marks(marks) => {
                out = begin(MARKS);
                put_count(&mut out, marks.len());
                for mark in marks {
                    out.extend(mark.handle.to_le_bytes());
                    out.extend(mark.high_watermark.to_le_bytes());
                    out.extend(mark.log_start.to_le_bytes());
                }
            }
        }
        end(&mut out, 0);
        vec![out.into()]
    }

    /// Reads a frame of which the length was cut off; batches share its memory. The error is for people.
    pub fn decode(frame: &Bytes) -> Result<FromLeader, String> {
        let mut reader = checked(frame)?;
        let decoded = match reader.byte()? {
            PONG => FromLeader::Pong,
            FOLLOW_OK => FromLeader::FollowOk(FollowOk {
                follow_id: reader.u32()?,
                handle: reader.u32()?,
                high_watermark: offset(reader.i64()?)?,
                log_start: offset(reader.i64()?)?,
                log_end: offset(reader.i64()?)?,
                epoch_start: offset(reader.i64()?)?,
            }),
            DIVERGED => FromLeader::Diverged(Diverged {
                follow_id: reader.u32()?,
                epoch: reader.i32()?,
                end_offset: reader.i64()?,
            }),
            REFUSED => {
                let follow_id = reader.u32()?;
                let why = reader.byte()?;
                let known = REFUSE_REASONS.into_iter().find(|reason| *reason as u8 == why);
                FromLeader::Refused(Refused {
                    follow_id,
                    why: known.ok_or_else(|| format!("{why} is no reason to refuse"))?,
                    leader: reader.i32()?,
                    leader_epoch: reader.i32()?,
                    log_start: begin_at(reader.i64()?)?,
                    log_end: reader.i64()?,
                })
            }
            DATA => FromLeader::Data(section::decode(frame, &mut reader)?),
            SKIP => FromLeader::Skip(Skip {
                handle: reader.u32()?,
                to_offset: offset(reader.i64()?).and_then(begin_at)?,
                epoch: reader.i32()?,
                high_watermark: offset(reader.i64()?)?,
            }),
            MARKS => FromLeader::Marks(list(&mut reader, 20, mark)?),
            other => return Err(format!("leaders send no frames of kind {other}")),
        };
        ended(&reader, decoded)
    }
}

fn follow(reader: &mut Reader<'_>) -> Result<Follow, String> {
    let follow = Follow {
        follow_id: reader.u32()?,
        topic_id: TopicId(reader.array()?),
        partition: reader.i32()?,
        leader_epoch: reader.i32()?,
        fetch_offset: offset(reader.i64()?)?,
        last_epoch: reader.i32()?,
        log_start: offset(reader.i64()?)?,
    };
    if follow.partition < 0
        || follow.leader_epoch < 0
        || follow.last_epoch < -1
        || follow.log_start > follow.fetch_offset
    {
        return Err(format!("{follow:?} cannot be"));
    }
    Ok(follow)
}

fn range(reader: &mut Reader<'_>) -> Result<DurableRange, String> {
    let range = DurableRange { handle: reader.u32()?, end: offset(reader.i64()?)?, log_start: offset(reader.i64()?)? };
    if range.log_start > range.end { Err(format!("{range:?} cannot be")) } else { Ok(range) }
}

fn handle(reader: &mut Reader<'_>) -> Result<u32, String> {
    reader.u32()
}

fn mark(reader: &mut Reader<'_>) -> Result<Mark, String> {
    Ok(Mark { handle: reader.u32()?, high_watermark: offset(reader.i64()?)?, log_start: offset(reader.i64()?)? })
}

fn checked(frame: &Bytes) -> Result<Reader<'_>, String> {
    match frame.len() {
        0..=FRAME_BYTES_MAX => Ok(Reader::new(frame)),
        more => Err(format!("a frame of {more} bytes")),
    }
}

fn ended<T>(reader: &Reader<'_>, decoded: T) -> Result<T, String> {
    match reader.rest().len() {
        0 => Ok(decoded),
        left => Err(format!("{left} bytes follow a frame")),
    }
}

fn offset(offset: i64) -> Result<i64, String> {
    if offset < 0 { Err(format!("{offset} is no offset")) } else { Ok(offset) }
}

/// Where a log may begin or go on.
fn begin_at(offset: i64) -> Result<i64, String> {
    if offset < BEGIN_AT_MAX { Ok(offset) } else { Err(format!("no log begins at {offset}")) }
}

/// The number of items that follow, of at least so many bytes each.
pub(super) fn count(reader: &mut Reader<'_>, items_max: usize, item_bytes: usize) -> Result<usize, String> {
    let count = reader.u32()? as usize;
    if count > items_max || count * item_bytes > reader.rest().len() {
        return Err(format!("{count} items where {} bytes follow", reader.rest().len()));
    }
    Ok(count)
}

/// A list of items of so many bytes each.
fn items<T>(
    reader: &mut Reader<'_>,
    item_bytes: usize,
    item: impl Fn(&mut Reader<'_>) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let count = count(reader, ITEMS_MAX, item_bytes)?;
    (0..count).map(|_| item(reader)).collect()
}

/// A list that would not be sent if it were empty.
fn list<T>(
    reader: &mut Reader<'_>,
    item_bytes: usize,
    item: impl Fn(&mut Reader<'_>) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let items = items(reader, item_bytes, item)?;
    if items.is_empty() { Err("an empty list".into()) } else { Ok(items) }
}

fn put_count(out: &mut Vec<u8>, items: usize) {
    assert!(items <= ITEMS_MAX, "{items} items in a frame");
    out.extend((items as u32).to_le_bytes());
}

fn put_numbers(out: &mut Vec<u8>, numbers: &[u32]) {
    put_count(out, numbers.len());
    out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
}
