//! Logs that follow others: replicated appends, what is committed, and restarts.

use super::*;
use crate::disk::FilePath;
use crate::epochs::UNKNOWN;

/// A batch with one record, as a leader has appended it.
fn batch(offset: i64, epoch: i32, value: &[u8]) -> Vec<u8> {
    let mut batch = BatchBuilder::new().record(offset, Some(b"k"), Some(value), &[]).build();
    assign(&mut batch, offset, epoch, None);
    batch
}

/// A batch of an idempotent producer, not appended yet.
fn sequenced(id: i64, epoch: i16, sequence: i32) -> Vec<u8> {
    BatchBuilder::new().producer(id, epoch, sequence).record(7, None, Some(b"v"), &[]).build()
}

/// A node whose logs are not committed by being durable.
fn follower(disk: MemoryDisk, partitions: i32, salt: u8, config: LogConfig) -> Node {
    let all: Vec<i32> = (0..partitions).collect();
    let mut node = Node::start_knowing(disk, (&all, &[]), 64 << 10, salt, config.clone());
    for partition in all {
        node.log.create_partition(key(partition), "t", config.clone());
    }
    node
}

impl Node {
    fn replicate(&mut self, partition: i32, batches: &[u8]) -> Result<Replicated, ReplicateError> {
        let id = self.id(partition);
        self.log.append_replicated(now(self.time), id, batches, i32::MAX)
    }

    /// Restarts a log, and goes on until that is durable. Returns where it ends.
    fn restart(&mut self, partition: i32, keep_below: i64, begin_at: i64) -> i64 {
        let id = self.id(partition);
        let is_skip = keep_below == self.log.log_end(id) && keep_below < begin_at;
        self.log.restart(id, keep_below, begin_at, is_skip.then_some(2));
        self.settle();
        let is_done = |progress: &Progress| matches!(progress, Progress::Restarted { log, .. } if *log == id);
        let at = self.progress.iter().position(is_done).expect("it is done");
        let Progress::Restarted { end, .. } = self.progress.remove(at) else { unreachable!() };
        assert_eq!(end, self.log.log_end(id));
        end
    }

    /// The records of a log with their offsets, as a follower of it would read them from its disk.
    fn catch_up(&mut self, partition: i32) -> Vec<(i64, Vec<u8>)> {
        let id = self.id(partition);
        let mut offset = self.log.log_start(id);
        let mut records = Vec::new();
        while offset < self.log.log_end(id) {
            let plan = match self.log.read_for_catch_up(id, offset, 30_000, &mut self.ops) {
                Read::Ready(plan) => plan,
                Read::Pending(token) => self.read_done(token).expect("reads"),
            };
            if plan.bytes == 0 {
                break;
            }
            let bytes = self.fetch(plan);
            let before = offset;
            offset = take_records(&bytes, offset, &mut records);
            assert!(offset > before, "progress");
        }
        records
    }

    /// What a consumer gets: the offsets of whole batches.
    fn consume(&mut self, offset: i64, until: i64, bytes_max: usize) -> Vec<i64> {
        let id = self.id(0);
        let plan = match self.log.read(id, offset, until, bytes_max, &mut self.ops) {
            Read::Ready(plan) => plan,
            Read::Pending(token) => self.read_done(token).expect("reads"),
        };
        let bytes = self.fetch(plan);
        let whole = Batches::new(&bytes).map_while(Result::ok);
        whole.map(|(header, _)| header.base_offset()).collect()
    }
}

#[test]
fn batches_of_a_leader_are_appended_as_they_are() {
    let mut node = follower(MemoryDisk::default(), 1, 1, config());
    let id = node.id(0);
    let first = [batch(0, 3, b"a"), batch(1, 3, b"b"), batch(7, 4, b"c")].concat();
    assert_eq!(node.replicate(0, &first), Ok(Replicated { end: 8, bytes: first.len() as u64 }));
    assert_eq!((node.log.log_end(id), node.log.last_epoch(id)), (8, 4));
    assert_eq!(node.replicate(0, &batch(7, 4, b"again")), Err(ReplicateError::Order), "an offset that is there");
    assert_eq!(node.replicate(0, &batch(8, 3, b"older")), Err(ReplicateError::Order), "an epoch that is over");
    let both = [batch(8, 4, b"good"), batch(8, 4, b"bad")].concat();
    assert_eq!(node.replicate(0, &both), Err(ReplicateError::Order), "all or none");
    let mut damaged = batch(8, 4, b"damaged");
    *damaged.last_mut().expect("it has bytes") ^= 1;
    assert_eq!(node.replicate(0, &damaged), Err(ReplicateError::Crc));
    let whole = batch(8, 4, b"cut short");
    assert_eq!(node.replicate(0, &whole[..whole.len() - 1]), Err(ReplicateError::Crc));
    assert_eq!(node.log.log_end(id), 8);
    let uncommitted = node.log.read_uncommitted(id, 0, 1 << 20).expect("in memory");
    assert_eq!(node.fetch(uncommitted), first, "before any of it is durable");
    node.settle();
    let expected = [(0, b"a".to_vec()), (1, b"b".to_vec()), (7, b"c".to_vec())];
    assert_eq!(node.catch_up(0), expected);
    let mut node = follower(node.disk, 1, 2, config());
    assert_eq!(node.catch_up(0), expected, "the journal may leave offsets out");
    assert_eq!(node.log.end_offset_for_epoch(node.id(0), 3), (3, 7));
    assert_eq!(node.replicate(0, &batch(20, 5, b"d")).map(|it| it.end), Ok(21));
    node.settle();
    let mut node = follower(node.disk, 1, 3, config());
    assert_eq!(node.catch_up(0).last(), Some(&(20, b"d".to_vec())));
}

#[test]
fn what_is_sent_to_followers_is_whole_batches_from_memory() {
    let mut node = follower(MemoryDisk::default(), 1, 1, config());
    let id = node.id(0);
    for offset in 0..200 {
        node.replicate(0, &batch(offset, 0, &[7; 1000])).expect("appends");
        if offset % 20 == 0 {
            node.settle();
        }
    }
    let one = batch(0, 0, &[7; 1000]).len();
    for (bytes_max, whole) in [(1, 1), (one, 1), (2 * one - 1, 1), (5 * one + 3, 5)] {
        let from = node.log.log_end(id) - 30;
        let plan = node.log.read_uncommitted(id, from, bytes_max).expect("in memory");
        assert_eq!((plan.bytes, plan.first_batch_bytes), (whole * one, one), "{bytes_max}");
    }
    assert_eq!(node.log.read_uncommitted(id, 200, 100), Some(ReadPlan::default()), "nothing there yet");
    node.settle();
    assert_eq!(node.log.read_uncommitted(id, 0, 100), None, "it is in a file only");
    assert_eq!(node.catch_up(0).len(), 200, "whatever is committed");
}

#[test]
fn consumers_get_nothing_above_what_is_committed_from_a_file_either() {
    let mut node = follower(MemoryDisk::default(), 1, 1, config());
    let id = node.id(0);
    for offset in 0..300 {
        node.replicate(0, &batch(2 * offset, 0, &[7; 500])).expect("appends");
        node.settle();
    }
    assert_eq!(node.log.read_uncommitted(id, 0, 1), None, "it is in a file only");
    for committed in [0, 1, 2, 33, 100, 301, 400, 600] {
        node.log.set_committed(id, node.log.durable_end(id).min(committed));
        let committed = node.log.committed(id);
        for from in [0, 2, 31, 98, 99] {
            for bytes_max in [1, 3_000, 1 << 20] {
                let found = node.consume(from, i64::MAX, bytes_max);
                assert!(found.iter().all(|base| *base < committed), "{from} {committed} {bytes_max}: {found:?}");
                let is_there = (from + from % 2) < committed;
                assert_eq!(!found.is_empty(), is_there, "{from} {committed} {bytes_max}");
            }
        }
        let query = TimeQuery::Max;
        let found = match node.log.find_time(id, query, i64::MAX, &mut node.ops) {
            TimeLookup::Ready(found) => found,
            TimeLookup::Pending(_) => loop {
                node.execute(node.ops.len() - 1);
                if let Some(Progress::TimeDone { result, .. }) = node.progress.pop() {
                    break result.expect("finds");
                }
            },
        };
        let last = (committed + 1) / 2 * 2 - 2;
        assert_eq!(found.map(|found| found.offset), (committed > 0).then_some(last), "{committed}");
    }
}

#[test]
fn an_epoch_that_is_led_starts_where_the_log_ended() {
    let mut node = follower(MemoryDisk::default(), 1, 1, config());
    let id = node.id(0);
    assert_eq!(node.log.lead(id, 2), 0);
    node.append(0, b"a", 3);
    assert_eq!(node.log.lead(id, 5), 3);
    assert_eq!(node.log.end_offset_for_epoch(id, 5), (5, 3));
    assert_eq!(node.log.end_offset_for_epoch(id, 4), (2, 3), "a leader that this log knows nothing of");
    assert_eq!(node.log.end_offset_for_epoch(id, 6), UNKNOWN);
    assert_eq!(node.log.last_epoch(id), 2);
    node.append(0, b"b", 1);
    assert_eq!((node.log.last_epoch(id), node.log.end_offset_for_epoch(id, 2)), (5, (2, 3)));
    node.settle();
    assert_eq!(node.restart(0, 3, 3), 3);
    assert_eq!(node.log.end_offset_for_epoch(id, 5), UNKNOWN);
}

#[test]
fn what_is_committed_bounds_deletion_and_is_kept_as_a_lower_bound() {
    let small = LogConfig { segment_bytes: 10_000, retention_bytes: 0, ..config() };
    let mut node = follower(MemoryDisk::default(), 1, 1, small.clone());
    let id = node.id(0);
    for offset in 0..100 {
        node.replicate(0, &batch(offset, 0, &[7; 1000])).expect("appends");
        node.settle();
    }
    node.time += 5_000;
    node.settle();
    node.settle();
    assert_eq!((node.log.log_start(id), node.log.committed(id)), (0, 0));
    node.log.set_committed(id, 55);
    node.log.set_committed(id, 50);
    assert_eq!(node.log.committed(id), 55, "it does not go back");
    node.time += 5_000;
    node.settle();
    node.settle();
    let start = node.log.log_start(id);
    assert!(start > 0 && start <= 55, "{start}");
    // Until a checkpoint is published that holds it.
    let checkpoints = node.log.stats().checkpoints;
    while node.log.stats().checkpoints == checkpoints {
        let offset = node.log.log_end(id);
        node.replicate(0, &batch(offset, 0, &[7; 1000])).expect("appends");
        node.settle();
    }
    let node = follower(node.disk, 1, 2, small);
    assert_eq!(node.log.committed(node.id(0)), 55);
}

#[test]
fn clients_leave_room_for_what_is_replicated() {
    let mut node = follower(MemoryDisk::default(), 1, 1, config());
    node.log.options.replica_reserve_percent = 50;
    let pending_max = u64::from(SLOTS) * (64 << 10) / PENDING_SHARE;
    assert_eq!(node.log.replica_reserve(), pending_max / 2);
    while node.try_append(0, &[7; 1000], 1).is_ok() {}
    let pending = node.log.stats().pending_bytes;
    assert!(pending <= pending_max / 2 && pending > pending_max / 2 - 1100, "{pending}");
    let mut taken = 0;
    while node.replicate(0, &batch(node.log.log_end(node.id(0)), 9, &[7; 1000])).is_ok() {
        taken += 1;
    }
    assert!(taken > 50 && node.log.stats().pending_bytes > pending_max - 1100, "{taken}");
    assert_eq!(node.replicate(0, &batch(1000, 9, &[7; 1000])), Err(ReplicateError::Space));
    node.settle();
    let too_many: Vec<u8> = (0..200).flat_map(|at| batch(1000 + at, 9, &[7; 1000])).collect();
    assert_eq!(node.replicate(0, &too_many), Err(ReplicateError::Space), "no journal takes so much at once");
    assert!(node.replicate(0, &batch(1000, 9, &[7; 190_000])).is_ok(), "but a single batch");
}

#[test]
fn the_epoch_of_what_is_skipped_is_known_after_a_crash() {
    let mut node = follower(MemoryDisk::default(), 1, 1, config());
    node.replicate(0, &batch(0, 1, b"first")).expect("appends");
    let id = node.id(0);
    node.log.restart(id, 1, 5, Some(3));
    node.settle();
    node.replicate(0, &batch(7, 4, b"behind")).expect("appends");
    node.settle();
    for generation in 2..4 {
        let id = node.id(0);
        let ends = [1, 2, 3, 4].map(|epoch| node.log.end_offset_for_epoch(id, epoch));
        assert_eq!(ends, [(1, 1), (1, 1), (3, 7), (4, 8)]);
        node = follower(node.disk, 1, generation, config());
    }
}

#[test]
fn a_truncation_a_reset_and_a_skip_survive_a_crash() {
    let small = LogConfig { segment_bytes: 10_000, ..config() };
    for is_settled in [false, true] {
        let mut node = follower(MemoryDisk::default(), 1, 1, small.clone());
        for offset in 0..40 {
            node.replicate(0, &batch(offset, 1, &[offset as u8; 1000])).expect("appends");
            if is_settled {
                node.settle();
            }
        }
        let id = node.id(0);
        let end = node.restart(0, 23, 23);
        // What had not begun its way to the disk is dropped, too.
        assert_eq!(end, if is_settled { 23 } else { 0 });
        for offset in end..30 {
            node.replicate(0, &batch(offset, 2, b"other")).expect("appends");
        }
        assert_eq!((node.log.history(id), node.log.last_epoch(id)), (1, 2));
        assert_eq!(node.restart(0, 30, 50), 50, "a skip keeps what is there, once that is durable");
        assert_eq!(node.replicate(0, &batch(40, 2, b"left out")), Err(ReplicateError::Order));
        node.replicate(0, &batch(51, 2, b"behind")).expect("appends");
        node.settle();
        let before: Vec<_> = (0..end).map(|offset| (offset, vec![offset as u8; 1000])).collect();
        let others = (end..30).map(|offset| (offset, b"other".to_vec()));
        let expected: Vec<_> = before.into_iter().chain(others).chain([(51, b"behind".to_vec())]).collect();
        assert_eq!(node.catch_up(0), expected);
        let mut node = follower(node.disk, 1, 2, small.clone());
        let id = node.id(0);
        assert_eq!((node.catch_up(0), node.log.history(id)), (expected, 2));
        assert_eq!(node.restart(0, 0, 500), 500);
        assert_eq!((node.log.log_start(id), node.log.committed(id), node.log.last_epoch(id)), (500, 500, -1));
        assert_eq!(node.catch_up(0), []);
        node.replicate(0, &batch(500, 3, b"new")).expect("appends");
        node.settle();
        let files = node.disk.files.keys().filter(|path| path.ends_with(".log")).count();
        assert_eq!(files, 1, "what was dropped is removed: {:?}", node.disk.files.keys());
        let mut node = follower(node.disk, 1, 3, small.clone());
        assert_eq!(node.catch_up(0), [(500, b"new".to_vec())]);
        assert_eq!((node.log.log_start(node.id(0)), node.log.history(node.id(0))), (500, 3));
    }
}

#[test]
fn a_cut_falls_between_batches_and_into_segments_that_are_closed() {
    let small = LogConfig { segment_bytes: 30_000, ..config() };
    for cut in [1, 5, 29, 30, 61, 88, 119, 120, 121] {
        for is_reopened in [false, true] {
            let mut node = follower(MemoryDisk::default(), 1, 1, small.clone());
            // Three records a batch.
            for _ in 0..40 {
                node.append(0, &[7; 900], 3);
                node.settle();
            }
            if is_reopened {
                node = follower(node.disk, 1, 2, small.clone());
            }
            let end = node.restart(0, cut, cut.max(1));
            assert_eq!(end, if cut > 120 { cut } else { cut / 3 * 3 }, "at the batch that has it");
            let kept = end.min(120);
            assert_eq!(node.catch_up(0).len(), kept as usize);
            assert_eq!(node.find_time(TimeQuery::Max), Ok(None), "nothing is committed");
            node.log.set_committed(node.id(0), end);
            let found = node.find_time(TimeQuery::Max).expect("reads").map(|found| found.offset);
            assert_eq!(found.is_some(), kept > 0, "the largest timestamp is that of what is left");
            let other = node.append(0, b"other", 1);
            assert_eq!(other.base_offset, end);
            node.settle();
            let mut node = follower(node.disk, 1, 3, small.clone());
            let records = node.catch_up(0);
            assert_eq!(records.len(), kept as usize + 1, "cut {cut}");
            assert_eq!(records.last(), Some(&(end, b"other".to_vec())));
        }
    }
}

/// A segment of the name that another had begins when that one's file is gone, however long files are kept otherwise.
#[test]
fn a_file_of_the_same_name_waits_until_the_old_one_is_removed() {
    let small = LogConfig { segment_bytes: 10_000, file_delete_delay_ms: 1_000_000, ..config() };
    let mut node = follower(MemoryDisk::default(), 1, 1, small);
    let id = node.id(0);
    for offset in 0..40 {
        node.replicate(0, &batch(offset, 1, &[offset as u8; 1000])).expect("appends");
        node.settle();
    }
    node.log.set_committed(id, 40);
    assert!(!node.log.delete_records(id, 35));
    node.settle();
    assert!(node.disk.files.keys().any(|path| path.ends_with("00000000000000000000.log")), "it stays for a while");
    assert_eq!(node.restart(0, 0, 0), 0, "the leader's log begins earlier");
    for offset in 0..30 {
        node.replicate(0, &batch(offset, 2, &[1; 1000])).expect("appends");
        node.settle();
    }
    let expected: Vec<_> = (0..30).map(|offset| (offset, vec![1; 1000])).collect();
    assert_eq!(node.catch_up(0), expected);
    let mut node = follower(node.disk, 1, 2, config());
    assert_eq!(node.catch_up(0), expected);
}

#[test]
fn a_file_that_goes_twice_is_waited_for_twice() {
    let mut node = follower(MemoryDisk::default(), 1, 1, config());
    let id = node.id(0);
    node.replicate(0, &batch(0, 1, b"stays")).expect("appends");
    node.settle();
    assert_eq!(node.restart(0, 1, 1), 1);
    // What is cut from now on begins where the log goes on.
    let is_file = |path: &FilePath| path.ends_with("00000000000000000001.log");
    let is_removal = |(_, op): &(DiskToken, DiskOp)| matches!(op, DiskOp::Remove { path } if is_file(path));
    node.log.restart(id, 1, 1, None);
    while !node.ops.iter().any(is_removal) {
        node.end_turn();
        if let Some(at) = node.ops.iter().position(|op| !is_removal(op)) {
            node.execute(at);
        }
    }
    let at = node.ops.iter().position(is_removal).expect("it is under way");
    let late = node.ops.remove(at);
    assert_eq!(node.restart(0, 1, 1), 1, "its removal of the same name ends before the other");
    node.replicate(0, &batch(1, 2, &[7; 100_000])).expect("appends");
    for _ in 0..1_000 {
        node.end_turn();
        let makes =
            |op: &DiskOp| matches!(op, DiskOp::Write { path, .. } | DiskOp::Allocate { path, .. } if is_file(path));
        assert!(!node.ops.iter().any(|(_, op)| makes(op)), "the late removal would take it away");
        if !node.ops.is_empty() {
            node.execute(0);
        }
    }
    node.ops.push(late);
    node.settle();
    let expected = vec![(0, b"stays".to_vec()), (1, vec![7; 100_000])];
    assert_eq!(node.catch_up(0), expected);
    let mut node = follower(node.disk, 1, 2, config());
    assert_eq!(node.catch_up(0), expected);
}

#[test]
fn producers_are_as_they_were_before_what_is_cut() {
    let known = |node: &Node| -> Vec<(i64, i16, i32)> {
        let views = node.log.producers(node.id(0)).into_iter();
        views.map(|view| (view.producer_id, view.epoch, view.last_sequence)).collect()
    };
    for is_recovered in [false, true] {
        let mut node = follower(MemoryDisk::default(), 1, 1, config());
        let id = node.id(0);
        node.log.lead(id, 1);
        let mut states: Vec<Vec<(i64, i16, i32)>> = Vec::new();
        let sent = [(1, 0, 0), (2, 3, 0), (1, 0, 1), (1, 1, 0), (2, 3, 1), (3, 0, 9)];
        for (producer, epoch, sequence) in sent {
            states.push(known(&node));
            node.log.append(now(0), id, &sequenced(producer, epoch, sequence)).expect("appends");
        }
        node.settle();
        for cut in (1..sent.len()).rev() {
            if is_recovered {
                node = follower(node.disk, 1, 2 + cut as u8, config());
            }
            assert_eq!(node.restart(0, cut as i64, cut as i64), cut as i64);
            let id = node.id(0);
            assert_eq!(known(&node), states[cut], "cut at {cut}");
            node.log.lead(id, 20 + (sent.len() - cut) as i32);
            let (producer, epoch, sequence) = sent[cut];
            let again = node.log.append(now(0), id, &sequenced(producer, epoch, sequence)).expect("it is new again");
            assert_eq!((again.base_offset, again.duplicate), (cut as i64, false));
            node.settle();
        }
    }
}

/// Issues where a checkpoint and a restart could lie to each other: it holds what was appended and was then cut before it was
/// durable. The checkpoint is published when the restart is durable and not before.
#[test]
fn a_checkpoint_waits_for_the_restart_of_what_it_holds() {
    let mut node = follower(MemoryDisk::default(), 2, 1, config());
    let id = node.id(0);
    // Almost half of the journal, of the other log.
    while (node.log.journal.used_slots() + 1) * 2 < node.log.journal.slots() {
        let offset = node.log.log_end(node.id(1));
        node.replicate(1, &batch(offset, 0, &[1; 3000])).expect("appends");
        node.settle();
    }
    // What is appended while a group is being written is not durable when the checkpoint begins.
    while !node.log.checkpoints.is_under_way() {
        let offset = node.log.log_end(node.id(1));
        node.replicate(1, &batch(offset, 0, &[1; 3000])).expect("appends");
        node.end_turn();
        let offset = node.log.log_end(id);
        node.replicate(0, &batch(offset, 0, b"cut")).expect("appends");
        while let Some(at) = node.ops.iter().position(|(_, op)| matches!(op, DiskOp::Write { durable: true, .. })) {
            node.execute(at);
            if node.log.checkpoints.is_under_way() {
                break;
            }
        }
        node.log.advance_checkpoint(&mut node.ops);
    }
    assert!(node.log.durable_end(id) < node.log.log_end(id));
    let end = node.log.durable_end(id);
    node.log.restart(id, end, end, None);
    let is_group = |(_, op): &(DiskToken, DiskOp)| matches!(op, DiskOp::Write { durable: true, path, .. } if path.ends_with("journal"));
    let is_checkpoint =
        |(_, op): &(DiskToken, DiskOp)| matches!(op, DiskOp::Replace { path, .. } if path.ends_with("checkpoint"));
    // Everything goes on but the group that has the restart.
    for _ in 0..1_000 {
        node.end_turn();
        let is_cut = node.log.history(id) == 1 && node.log.is_restarting(id);
        assert!(!is_cut || !node.ops.iter().any(is_checkpoint), "it waits");
        let is_ready = node.log.history(id) == 1 && node.log.is_restarting(id);
        match node.ops.iter().position(|op| !(is_ready && is_group(op))) {
            Some(index) => node.execute(index),
            None if is_ready => break,
            None => {}
        }
    }
    assert!(node.log.is_restarting(id) && node.log.checkpoints.is_under_way(), "it waits");
    // The power goes: the checkpoint must not have said what is not so.
    let mut crashed = follower(node.disk.clone(), 2, 2, config());
    assert_eq!(crashed.catch_up(0).len() as i64, crashed.log.log_end(crashed.id(0)));
    node.settle();
    assert!(!node.log.checkpoints.is_under_way() && !node.log.is_restarting(id));
    let mut crashed = follower(node.disk, 2, 2, config());
    assert_eq!(crashed.catch_up(0).len() as i64, end);
}

#[test]
fn a_restart_waits_for_what_is_under_way_and_keeps_reads_off() {
    let mut node = follower(MemoryDisk::default(), 1, 1, config());
    let id = node.id(0);
    for offset in 0..200 {
        node.replicate(0, &batch(offset, 0, &[7; 1000])).expect("appends");
        node.settle();
    }
    node.log.set_committed(id, 200);
    let Read::Pending(before) = node.log.read(id, 0, 200, 100, &mut node.ops) else { panic!("it is in a file only") };
    node.log.restart(id, 150, 150, None);
    assert!(node.log.is_restarting(id));
    assert_eq!(node.replicate(0, &batch(200, 0, b"no")), Err(ReplicateError::Order));
    assert_eq!(node.try_append(0, b"no", 1), Err(AppendError::Restarting));
    let Read::Pending(after) = node.log.read(id, 0, 200, 100, &mut node.ops) else { panic!("it cannot begin") };
    node.settle();
    for token in [before, after] {
        let gone = Progress::ReadDone { token, result: Err(DiskError::NotFound) };
        assert!(node.progress.contains(&gone), "{token:?}: {:?}", node.progress);
    }
    assert!(node.progress.contains(&Progress::Restarted { log: id, end: 150 }));
    assert_eq!(node.log.committed(id), 150);
    assert_eq!(node.log.stats().restarts, 1);
}

#[test]
fn a_partition_that_is_removed_while_it_is_restarted_is_gone() {
    for turns in 0..6 {
        let mut node = follower(MemoryDisk::default(), 1, 1, config());
        let id = node.id(0);
        for offset in 0..50 {
            node.replicate(0, &batch(offset, 0, &[7; 1000])).expect("appends");
        }
        node.end_turn();
        node.log.restart(id, 20, 20, None);
        for _ in 0..turns {
            node.end_turn();
            if !node.ops.is_empty() {
                node.execute(0);
            }
        }
        node.log.remove_partition(id);
        node.settle();
        assert!(node.log.is_idle() && node.log.stats().pending_bytes == 0);
        assert!(!node.disk.files.keys().any(|path| path.starts_with("topics/")), "{:?}", node.disk.files.keys());
    }
}

/// A cut that meets damage takes the whole segment: who is followed has what was in it.
#[test]
fn what_cannot_be_read_is_cut_too() {
    let small = LogConfig { segment_bytes: 20_000, ..config() };
    let mut node = follower(MemoryDisk::default(), 1, 1, small.clone());
    for offset in 0..60 {
        node.replicate(0, &batch(offset, 0, &[7; 1000])).expect("appends");
        node.settle();
    }
    let mut node = follower(node.disk, 1, 2, small.clone());
    let segments: Vec<i64> =
        node.log.logs.get(node.id(0)).segments().iter().map(|segment| segment.base_offset).collect();
    let path = format!("topics/t/{}/0/{:020}.log", key(0).topic_id.to_base64(), segments[1]);
    node.disk.files.get_mut(&path).expect("it is there").fill(0xff);
    let (cut, disk) = (segments[2] - 3, node.disk.clone());
    assert!(node.log.committed(node.id(0)) <= segments[1]);
    assert_eq!(node.restart(0, cut, cut), segments[1]);
    assert_eq!(node.catch_up(0).len() as i64, segments[1]);

    // What is committed goes only as far as the leader has said.
    let mut node = follower(disk, 1, 3, small.clone());
    let (id, written) = (node.id(0), node.log.stats().groups);
    node.log.set_committed(id, segments[1] + 1);
    node.log.restart(id, cut, cut, None);
    node.end_turn();
    let refused = loop {
        let (token, op) = node.ops.swap_remove(0);
        let result = node.disk.execute(op);
        if let Err(Fatal(why)) = node.log.on_disk(now(node.time), token, result, &mut node.ops, &mut node.progress) {
            break why;
        }
        node.end_turn();
    };
    let first = segments[1];
    let expected = format!("Records from offset {first} on are committed");
    assert!(refused.contains(&expected) && refused.contains(&path), "{refused}");
    assert_eq!(node.log.stats().groups, written, "nothing is cut");
    let mut node = follower(node.disk, 1, 4, small);
    assert_eq!(node.log.log_end(node.id(0)), 60);
    let id = node.id(0);
    node.log.set_committed(id, cut);
    assert_eq!(node.restart(0, first, first), first, "nothing of the segment is to stay");
}

/// What a log should be: what was appended and not cut.
#[derive(Clone, Default)]
struct Model {
    records: BTreeMap<i64, Vec<u8>>,
    log_start: i64,
    history: u64,
    durable_end: i64,
    epoch: i32,
    /// Asked for and not told yet: what is kept, and where it goes on.
    restart: Option<(i64, i64)>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Model { log_start, history, durable_end, restart, .. } = self;
        write!(f, "from {log_start}, durable to {durable_end}, restarted {history} times, to be restarted {restart:?}")
    }
}

impl Model {
    /// The restart has happened, and the log ends here.
    fn restarted(&mut self, end: i64) {
        let (keep_below, begin_at) = self.restart.take().expect("asked for");
        if keep_below <= self.log_start {
            self.records.clear();
            self.log_start = end;
        } else {
            self.records.split_off(&if keep_below == begin_at { end } else { keep_below });
            self.log_start = self.log_start.min(end);
        }
        self.history += 1;
        self.durable_end = end;
    }
}

/// Appends, restarts and deletes at random; stops at random, also in the middle of operations; after each the log is as it was
/// or as it is to be.
#[test]
fn whatever_is_cut_a_log_has_one_history() {
    let mut restarts = 0;
    for seed in 0..300 {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let small = LogConfig { segment_bytes: 80_000, file_delete_delay_ms: 5, ..config() };
        let mut disk = MemoryDisk::default();
        let mut models = [Model::default(), Model::default()];
        for round in 1..8u8 {
            let mut node = follower(disk, 2, round, small.clone());
            for (partition, model) in models.iter_mut().enumerate() {
                let id = node.id(partition as i32);
                let (log_start, log_end) = (node.log.log_start(id), node.log.log_end(id));
                let history = node.log.history(id);
                if history == model.history + 1 && model.restart.is_some() {
                    model.restarted(log_end);
                }
                model.restart = None;
                assert_eq!(history, model.history, "seed {seed} round {round} partition {partition}: {model:?}");
                assert!(log_end >= model.durable_end, "{log_end}: {model:?}");
                assert!(log_start >= model.log_start && log_start <= log_end);
                model.records.split_off(&log_end);
                (model.log_start, model.durable_end) = (log_start, log_end);
                let expected: Vec<_> =
                    model.records.range(log_start..).map(|(at, value)| (*at, value.clone())).collect();
                let found = node.catch_up(partition as i32);
                assert!(found == expected, "seed {seed} round {round} partition {partition}");
                model.epoch += 1;
                node.log.lead(id, model.epoch);
            }
            for step in 0..random.index(300) {
                let partition = random.index(2);
                let model = &mut models[partition];
                let id = node.id(partition as i32);
                let value =
                    vec![(seed as usize + step) as u8; if random.one_in(10) { 70_000 } else { random.index(3000) }];
                match random.below(40) {
                    0 if model.restart.is_none() => {
                        let (log_start, log_end) = (node.log.log_start(id), node.log.log_end(id));
                        let at = random.between(log_start.max(1) as u64, log_end.max(log_start).max(1) as u64) as i64;
                        let (keep_below, begin_at) = match random.below(4) {
                            0 => (log_end, log_end + random.below(20) as i64),
                            1 => (0, random.below(2 * log_end as u64 + 10) as i64),
                            _ => (at, at),
                        };
                        // Where a truncation leaves nothing it is a reset, and where it cuts nothing a skip.
                        let is_skip = keep_below >= log_end && log_end < begin_at;
                        node.log.restart(id, keep_below, begin_at, is_skip.then_some(model.epoch));
                        model.restart = Some((keep_below.min(log_end), begin_at));
                        if keep_below > log_end || keep_below == begin_at {
                            model.restart = Some((keep_below, begin_at));
                        }
                        restarts += 1;
                    }
                    1 if model.restart.is_none() => {
                        node.log.set_committed(id, node.log.durable_end(id));
                        let to = random.between(node.log.log_start(id) as u64, node.log.committed(id) as u64);
                        node.log.delete_records(id, to as i64);
                    }
                    2..14 if model.restart.is_none() => {
                        if let Ok(at) = node.try_append(partition as i32, &value, 1) {
                            model.records.insert(at.base_offset, value);
                        }
                    }
                    14..24 if model.restart.is_none() => {
                        let offset = node.log.log_end(id) + if random.one_in(10) { random.below(5) as i64 } else { 0 };
                        if node.replicate(partition as i32, &batch(offset, model.epoch, &value)).is_ok() {
                            model.records.insert(offset, value);
                        }
                    }
                    _ => {}
                }
                if random.coin() {
                    node.end_turn();
                }
                if !node.ops.is_empty() && random.coin() {
                    node.execute(random.index(node.ops.len()));
                }
                for progress in node.progress.drain(..) {
                    match progress {
                        Progress::Durable { log, offset } => {
                            let of = (0..2).position(|index| node.log.find(key(index)) == Some(log)).expect("known");
                            models[of].durable_end = models[of].durable_end.max(offset);
                        }
                        Progress::Restarted { log, end } => {
                            let of = (0..2).position(|index| node.log.find(key(index)) == Some(log)).expect("known");
                            models[of].restarted(end);
                            models[of].epoch += 1;
                            node.log.lead(log, models[of].epoch);
                        }
                        Progress::LogStart { .. } => {}
                        other => panic!("nothing is read: {other:?}"),
                    }
                }
            }
            disk = node.disk;
        }
    }
    assert!(restarts > 500, "{restarts}");
}
