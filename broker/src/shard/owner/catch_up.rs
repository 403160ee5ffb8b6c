//! What followers need that has left memory: it is read from the files, a piece of a few partitions of a stream at a time, and
//! waits in memory until the follower has room for it. A follower that is slow holds up nobody but itself.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use bytes::{Bytes, BytesMut};
use millstream_storage::batch::{Batches, verify_crc};
use millstream_storage::shard_log::{LogId, Read, ReadPart, ReadPlan};
use millstream_storage::{DiskError, DiskOp, DiskReply};

use super::reader::Reader;
use super::replicas::Replicas;
use super::to_followers::{Source, Subscription, ToFollowers, refusal};
use crate::metrics::Sample;
use crate::peer::stream::frame::RefuseReason;
use crate::shard::event::Effect;
use crate::shard::peers::Peers;
use crate::shard::turn::Turn;

/// Bytes that are read at once of a partition, but for a batch that is larger.
const PIECE_BYTES_MAX: usize = 1 << 20;
/// Partitions of one stream of which a piece is read, or waits to be sent, at a time.
const PIECES_MAX: usize = 4;

/// Reads for followers.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// Parts of pieces that are being read.
    reads: BTreeMap<u64, (Subscription, usize)>,
    last_read: u64,
    /// Pieces that were there at once when their turn came.
    read: Vec<Subscription>,
    /// Logs of which a damaged batch was found, and said so.
    damaged: BTreeSet<LogId>,
    bytes: u64,
}

impl Files {
    /// Takes the pieces that can be sent now.
    pub fn take_read(&mut self) -> Vec<Subscription> {
        mem::take(&mut self.read)
    }

    /// Whether there are some.
    pub fn has_read(&self) -> bool {
        !self.read.is_empty()
    }

    /// So many bytes of a piece are sent.
    pub fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// A log is led here no more.
    pub fn resign(&mut self, log: LogId) {
        self.damaged.remove(&log);
    }

    /// What is counted, for a scrape.
    pub fn samples(&self, pieces: usize, samples: &mut Vec<Sample>) {
        let help =
            "Pieces of files that are being read for followers, or wait until they have room; a stream has 4 at most.";
        samples.push(Sample::gauge("millstream_replica_catch_up_pieces", help, pieces as u64));
        let help = "Bytes of batches sent to followers that had left memory.";
        samples.push(Sample::counter("millstream_replica_catch_up_bytes_out_total", help, self.bytes));
    }
}

impl ToFollowers {
    /// Reads the next piece of a partition, or puts it in line. Returns whether it was there at once.
    pub(super) fn read_or_queue(&mut self, replicas: &mut Replicas, of: Subscription) -> bool {
        let Some(outbox) = self.links.get_mut(&of.link) else { return false };
        if outbox.reading.len() >= PIECES_MAX {
            outbox.queued.push_back(of.handle);
            return false;
        }
        outbox.reading.insert(of.handle);
        let Some((log, sending)) = self.sending(of) else { return false };
        let from = sending.next_offset.max(replicas.log.log_start(log));
        sending.source = Source::Seeks { until: replicas.log.log_end(log) };
        match replicas.log.read_for_catch_up(log, from, PIECE_BYTES_MAX, &mut replicas.ops) {
            Read::Ready(plan) => self.take_plan(replicas, of, plan),
            Read::Pending(token) => {
                replicas.readers.insert(token, Reader::CatchUp(of));
                false
            }
        }
    }

    /// A piece was sent, or is of no use: the next in line is read.
    pub(super) fn read_ended(&mut self, replicas: &mut Replicas, of: Subscription) {
        let Some(outbox) = self.links.get_mut(&of.link) else { return };
        if !outbox.reading.remove(&of.handle) {
            return;
        }
        while let Some(outbox) = self.links.get_mut(&of.link)
            && outbox.reading.len() < PIECES_MAX
            && let Some(handle) = outbox.queued.pop_front()
        {
            let next = Subscription { handle, ..of };
            if self.read_or_queue(replicas, next) {
                self.files.read.push(next);
            }
        }
    }

    /// The log has said where a piece is, or could not.
    pub fn read_done(
        &mut self,
        turn: &mut Turn<'_>,
        replicas: &mut Replicas,
        peers: &mut Peers,
        of: Subscription,
        result: Result<ReadPlan, DiskError>,
    ) {
        match result {
            Ok(plan) => {
                if self.take_plan(replicas, of, plan) {
                    peers.mark(of.link, of.handle);
                }
            }
            Err(_) => self.read_failed(turn, replicas, peers, of),
        }
    }

    /// The log has said where a piece is: gets its bytes. Returns whether they are all there.
    fn take_plan(&mut self, replicas: &mut Replicas, of: Subscription, plan: ReadPlan) -> bool {
        let Some((_, sending)) = self.sending(of) else { return false };
        let Source::Seeks { until } = sending.source else { return false };
        let (mut parts, mut reads) = (Vec::with_capacity(plan.parts.len()), Vec::new());
        for (part, from) in plan.parts.into_iter().enumerate() {
            match from {
                ReadPart::Memory(bytes) => parts.push(Some(bytes)),
                ReadPart::File { path, position, bytes } => {
                    parts.push(None);
                    reads.push((part, DiskOp::Read { path, position, bytes }));
                }
            }
        }
        if reads.is_empty() {
            sending.source = Source::Read { bytes: whole_batches(parts, |_| true), until };
            return true;
        }
        sending.source = Source::Reads { parts, missing: reads.len(), failed: false, until };
        for (part, read) in reads {
            self.files.last_read += 1;
            self.files.reads.insert(self.files.last_read, (of, part));
            replicas.read_for_follower(self.files.last_read, read);
        }
        false
    }

    /// A part of a piece was read, or could not be.
    pub fn file_read(
        &mut self,
        turn: &mut Turn<'_>,
        replicas: &mut Replicas,
        peers: &mut Peers,
        number: u64,
        result: Result<DiskReply, DiskError>,
    ) {
        let (of, part) = self.files.reads.remove(&number).expect("an operation finishes once");
        let Some((log, sending)) = self.sending(of) else { return };
        let Source::Reads { parts, missing, failed, until } = &mut sending.source else { return };
        *missing -= 1;
        match result {
            Ok(DiskReply::Data(bytes)) => parts[part] = Some(bytes),
            _ => *failed = true,
        }
        if *missing > 0 {
            return;
        }
        if *failed {
            return self.read_failed(turn, replicas, peers, of);
        }
        let bytes = whole_batches(mem::take(parts), |batch| verify_crc(batch).is_ok());
        if !bytes.is_empty() {
            sending.source = Source::Read { bytes, until: *until };
            return peers.mark(of.link, of.handle);
        }
        if self.files.damaged.insert(log) {
            let key = replicas.partitions.get_mut(log).map(|partition| partition.key);
            let message = format!("what a follower of partition {key:?} needs is damaged, and not sent");
            turn.effects.push(Effect::Warn { message });
        }
        self.read_failed(turn, replicas, peers, of);
    }

    /// A piece could not be read: the follower asks anew.
    fn read_failed(&mut self, turn: &mut Turn<'_>, replicas: &mut Replicas, peers: &mut Peers, of: Subscription) {
        let Some((log, node_id, follower)) = self.find(of) else { return };
        let bounds = (self.first_offset(replicas, log), replicas.log.log_end(log));
        let refused = refusal(follower.follow_id, RefuseReason::NotInMemory, bounds);
        peers.say_to_follower(turn, of.link, &refused);
        self.drop_follower(turn.now.elapsed, replicas, log, node_id);
    }
}

/// Of these parts the whole batches from the front that are good.
fn whole_batches(parts: Vec<Option<Bytes>>, is_good: impl Fn(&[u8]) -> bool) -> Bytes {
    let mut piece = BytesMut::new();
    parts.into_iter().flatten().for_each(|part| piece.extend_from_slice(&part));
    let piece = piece.freeze();
    let batches = Batches::new(&piece).map_while(|batch| Some(batch.ok()?.1));
    let whole: usize = batches.take_while(|batch| is_good(batch)).map(<[u8]>::len).sum();
    piece.slice(..whole)
}
