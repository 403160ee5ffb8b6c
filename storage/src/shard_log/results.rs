//! What follows from the result of each disk operation.

use super::*;

/// How long an operation that found the disk full waits before it is tried again.
const NO_SPACE_RETRY: Duration = Duration::from_millis(250);

impl ShardLog {
    /// Takes the result of an operation.
    pub fn on_disk(
        &mut self,
        now: Now,
        token: DiskToken,
        result: Result<DiskReply, DiskError>,
        ops: &mut Ops,
        progress: &mut Vec<Progress>,
    ) -> Result<(), Fatal> {
        self.clock = now.elapsed;
        let (purpose, op) = self.purposes.remove(&token).expect("every token is answered once");
        let tries_again = result == Err(DiskError::NoSpace)
            || (is_planted(Bug::RetryFailedSync) && matches!(result, Err(DiskError::Failed(_))));
        if tries_again && op.is_some() {
            self.stats.no_space += 1;
            self.purposes.insert(token, (purpose, op));
            self.retries.push_back((now.elapsed + NO_SPACE_RETRY, token));
            return Ok(());
        }
        let reply = match (result, &purpose) {
            (Ok(reply), _) => reply,
            // What cannot be filled is used as it is.
            (Err(DiskError::NoSpace), Purpose::Fill) => DiskReply::Done,
            (Err(error), Purpose::Compact { log }) => {
                self.on_compaction_failed(now, *log, error, progress);
                return Ok(());
            }
            (Err(error), Purpose::Walk(_)) => {
                let Purpose::Walk(walk) = purpose else { unreachable!() };
                return self.on_walk_failed(*walk, error, ops, progress);
            }
            (Err(error), _) => {
                return Err(Fatal(format!("shard {}: {}: {error}", self.shard, describe(&purpose, op.as_ref()))));
            }
        };
        match purpose {
            Purpose::Group => self.finish_group_part(progress),
            Purpose::Fill => {
                self.fill.is_writing = false;
                self.fill_journal(ops);
            }
            Purpose::Extent { log, segment, from, to, remainder } => {
                let partition = self.log_mut(log);
                partition.operations -= 1;
                if let Some(segment) = partition.segment_mut(segment) {
                    segment.writing = false;
                    segment.written = to;
                    segment.remainder = Some(remainder);
                    // Durable as far as it reaches back without a gap.
                    if segment.synced >= from {
                        segment.synced = to;
                    }
                }
                self.note_synced(log);
                self.finish_write(log);
                self.finish_group_part(progress);
                self.finish_removal(log);
            }
            Purpose::WriteBack { log, segment, to, remainder } => {
                if let Some(segment) = self.log_mut(log).segment_mut(segment) {
                    segment.writing = false;
                    segment.written = to;
                    segment.remainder = Some(remainder);
                }
                self.finish_write(log);
                self.finish(log);
            }
            Purpose::LoadRemainder { log, segment } => {
                let DiskReply::Data(data) = reply else { unreachable!("a read answers with data") };
                if let Some(segment) = self.log_mut(log).segment_mut(segment) {
                    let expected = (segment.written % BLOCK_BYTES as u64) as usize;
                    if data.len() != expected {
                        return Err(Fatal(format!(
                            "{} is shorter than its {} bytes: it was changed by something else",
                            segment.path, segment.written
                        )));
                    }
                    segment.writing = false;
                    segment.remainder = Some(data.to_vec());
                }
                self.finish(log);
            }
            Purpose::Sync { log, segment, to } => {
                if let Some(segment) = self.log_mut(log).segment_mut(segment) {
                    segment.syncing = false;
                    segment.synced = segment.synced.max(to);
                }
                self.note_synced(log);
                self.finish(log);
            }
            Purpose::CreateDirectory { log } => {
                let partition = self.log_mut(log);
                partition.creating_directory = false;
                partition.directory_created = true;
                self.finish(log);
            }
            Purpose::Allocate { log, segment, bytes } => {
                if let Some(segment) = self.log_mut(log).segment_mut(segment) {
                    segment.allocating = false;
                    segment.allocated = segment.allocated.max(bytes);
                    segment.file = FileState::Present;
                }
                self.finish(log);
            }
            Purpose::CloseTruncate { log, segment: base } => {
                let partition = self.log_mut(log);
                let key = partition.key;
                let path = index_path(&partition.directory, base, 0);
                let segment = partition.segment_mut(base).expect("a closing segment is not dropped");
                segment.synced = segment.bytes;
                let data = segment.index.as_ref().expect("an open segment's index is in memory").encode(key);
                self.note_synced(log);
                self.start(Purpose::CloseIndex { log, segment: base }, log, DiskOp::Replace { path, data }, ops);
                self.finish(log);
            }
            Purpose::CloseIndex { log, segment: base } => {
                let partition = self.log_mut(log);
                let segment = partition.segment_mut(base).expect("a closing segment is not dropped");
                segment.closing = false;
                segment.closed = true;
                segment.remainder = None;
                let bytes = segment.index.as_ref().map_or(0, |index| index.memory_bytes());
                self.keep_index(log, base, bytes);
                self.finish(log);
            }
            Purpose::Walk(mut walk) => {
                let DiskReply::Data(data) = reply else { unreachable!("a read answers with data") };
                let log = walk.log;
                self.log_mut(log).operations -= 1;
                if self.log(log).removing {
                    progress.push(walk.failed(DiskError::NotFound));
                    self.finish_removal(log);
                    return Ok(());
                }
                walk.supply(data);
                if let Ok((token, outcome)) = self.walk(*walk, ops) {
                    progress.push(outcome.into_progress(token));
                }
            }
            Purpose::Checkpoint => {
                let checkpoint = self.checkpoint.take().expect("one is being published");
                self.checkpointed = checkpoint.cut;
                self.stats.checkpoints += 1;
                if let Some(DiskOp::Replace { data, .. }) = op {
                    self.checkpoint_file = data;
                }
            }
            Purpose::Remove => self.removing -= 1,
            Purpose::Compact { log } => {
                let DiskReply::Compacted(compaction, step) = reply else { unreachable!("it answers with itself") };
                self.on_compacted(now, log, compaction, step);
            }
        }
        Ok(())
    }

    pub(super) fn finish_group_part(&mut self, progress: &mut Vec<Progress>) {
        let group = self.group.as_mut().expect("a group is under way");
        group.outstanding -= 1;
        if group.outstanding == 0 {
            self.finish_group(progress);
        }
    }

    /// An operation of [`ShardLog::start`] ended: the partition goes on with the next.
    pub(super) fn finish(&mut self, log: LogId) {
        self.log_mut(log).operations -= 1;
        self.write_backs -= 1;
        self.enqueue(log);
        self.finish_removal(log);
    }

    pub(super) fn finish_write(&mut self, log: LogId) {
        let evictable = self.log_mut(log).take_evictable();
        self.evictable.extend(std::iter::repeat_n(log, evictable));
        self.enqueue(log);
    }

    /// A read failed: what it was for is told so, unless the index was only missing and can be rebuilt.
    pub(super) fn on_walk_failed(
        &mut self,
        mut walk: Walk,
        error: DiskError,
        ops: &mut Ops,
        progress: &mut Vec<Progress>,
    ) -> Result<(), Fatal> {
        let log = walk.log;
        self.log_mut(log).operations -= 1;
        if error == DiskError::NotFound && !self.log(log).removing && walk.index_is_missing() {
            if let Ok((token, outcome)) = self.walk(walk, ops) {
                progress.push(outcome.into_progress(token));
            }
            return Ok(());
        }
        progress.push(walk.failed(error));
        self.finish_removal(log);
        Ok(())
    }
}

fn describe(purpose: &Purpose, op: Option<&DiskOp>) -> String {
    match (purpose, op) {
        (Purpose::Group | Purpose::Fill, _) => "writing the journal failed".to_string(),
        (_, Some(DiskOp::Write { path, .. })) => format!("writing {path} failed"),
        (_, Some(DiskOp::Sync { path })) => format!("syncing {path} failed"),
        (_, Some(DiskOp::Allocate { path, .. })) => format!("reserving space for {path} failed"),
        (_, Some(DiskOp::Replace { path, .. })) => format!("replacing {path} failed"),
        (_, Some(DiskOp::Truncate { path, .. })) => format!("truncating {path} failed"),
        (_, Some(DiskOp::CreateDirectory { path })) => format!("creating {path} failed"),
        (_, Some(DiskOp::Remove { path })) => format!("removing {path} failed"),
        _ => "a disk operation failed".to_string(),
    }
}
