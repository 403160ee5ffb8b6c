//! Appends of what a leader sends: whole batches as they are.

use super::{Before, LogId, ShardLog};
use crate::Now;
use crate::batch::{BatchHeader, Batches, NO_PRODUCER_ID, verify_crc};
use crate::checkpoint::NUMBER_MAX;

/// What was appended of a leader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicated {
    /// One past the last offset.
    pub end: i64,
    /// How many bytes.
    pub bytes: u64,
}

/// Why a leader's batches were refused; nothing of them was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicateError {
    /// They are not whole batches, or a checksum is wrong: something is broken on the way from the leader.
    Crc,
    /// They do not follow what is here: an offset lies below the log's end, an epoch before its last or above the leader's.
    /// Or the log is being restarted. The follower asks its leader anew where to go on.
    Order,
    /// Free space is below the floor, or more waits for the disk than the journal can take.
    Space,
}

impl ShardLog {
    /// Appends the whole batches of a leader as they are: with its offsets, which may leave some out where it has compacted,
    /// and its epochs, none above `leader_epoch`, in which it leads. No producer is asked whether it may: the leader has done
    /// that. At most what may be pending ([`ShardLog::pending_bytes_max`]) fits, unless it is a single batch; clients' appends
    /// leave a reserve of that free ([`ShardLog::replica_reserve`]).
    pub fn append_replicated(
        &mut self,
        now: Now,
        log: LogId,
        batches: &[u8],
        leader_epoch: i32,
    ) -> Result<Replicated, ReplicateError> {
        let partition = self.logs.get(log);
        if partition.refuses_appends() {
            return Err(ReplicateError::Order);
        }
        let (mut end, mut epoch, mut count) = (partition.log_end(), partition.epochs.latest().max(0), 0);
        for batch in Batches::new(batches) {
            let (header, batch) = batch.map_err(|_| ReplicateError::Crc)?;
            if verify_crc(batch).is_err() || !is_possible(header) {
                return Err(ReplicateError::Crc);
            }
            if header.base_offset() < end || !(epoch..=leader_epoch).contains(&header.leader_epoch()) {
                return Err(ReplicateError::Order);
            }
            (end, epoch) = (header.last_offset() + 1, header.leader_epoch());
            count += 1;
        }
        let bytes = batches.len() as u64;
        let fits = self.has_room(bytes, 0) && (count <= 1 || bytes <= self.pending_bytes_max());
        if self.is_out_of_space() || !fits {
            return Err(ReplicateError::Space);
        }
        self.encode_log(log);
        let steady_ms = self.steady_ms(now);
        for batch in Batches::new(batches) {
            let (_, batch) = batch.expect("checked above");
            let partition = self.logs.get_mut(log);
            let before = Before::of(partition);
            partition.append_replicated(steady_ms, batch, &mut self.pool);
            self.note_appended(log, &before, batch.len() as u64);
        }
        assert_eq!(self.log_end(log), end, "all of it was appended");
        Ok(Replicated { end, bytes })
    }
}

/// What every batch has that a leader has appended.
fn is_possible(header: &BatchHeader) -> bool {
    let is_sequenced = header.producer_id() >= 0 && header.base_sequence() >= 0;
    header.last_offset_delta() >= 0
        && header.last_offset() < NUMBER_MAX as i64
        && (is_sequenced || header.producer_id() == NO_PRODUCER_ID)
}
