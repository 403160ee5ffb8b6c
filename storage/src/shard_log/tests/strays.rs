//! Partitions that the image of a start does not know: nothing of them is lost before the controller has confirmed that
//! they are gone.

use super::*;
use crate::recovery::{LastShutdown, Recovered};

const SLOT_BYTES: u64 = 64 << 10;

/// A disk on which partitions 0 and 1 have records: in segments, in extents and only in the journal. Returns the records
/// of partition 0, too.
fn two_partitions(rounds: usize) -> (MemoryDisk, Vec<(i64, Vec<u8>)>) {
    let mut node = Node::start(MemoryDisk::default(), 2, SLOT_BYTES, 1);
    for round in 0..rounds {
        node.append(0, &vec![round as u8; if round % 5 == 4 { 70_000 } else { 2_000 }], 1);
        node.append(1, &[round as u8; 3_000], 1);
        node.settle();
    }
    let records = node.read_all(0, 0, 1 << 20);
    assert_eq!(records.len(), rounds);
    (node.disk, records)
}

fn start(disk: MemoryDisk, known: &[i32], created: &[i32], salt: u8) -> Node {
    Node::start_knowing(disk, (known, created), SLOT_BYTES, salt, config())
}

fn below<'a>(disk: &'a MemoryDisk, directory: &'a str) -> impl Iterator<Item = &'a String> {
    disk.files.keys().filter(move |name| name.starts_with(directory))
}

fn stray(recovered: &Recovered) -> &crate::recovery::Stray {
    let strays = &recovered.shards[0].strays;
    assert_eq!(strays.len(), 1, "{strays:?}");
    &strays[0]
}

#[test]
fn what_an_image_does_not_know_is_set_aside_and_a_later_one_takes_it_back() {
    for rounds in [1, 3, 40, 90] {
        let (mut disk, records) = two_partitions(rounds);
        let recovered = recover_knowing(&mut disk, &[1], 1).expect("recovers");
        assert_eq!(recovered.shards[0].checkpoint.partitions.len(), 1);
        let stray = stray(&recovered);
        assert_eq!((stray.key, stray.state.as_ref().map(|state| state.log_end)), (key(0), Some(rounds as i64)));
        let directory = stray.directory.to_string();
        assert!(directory.starts_with("strays/") && directory.ends_with("-stray"), "{directory}");
        assert!(below(&disk, &directory).count() >= 2, "a segment and the state");

        // It outlives starts that do not know it, and a journal that is used many times over.
        let mut node = start(disk, &[1], &[1], 3);
        for _ in 0..200 {
            node.append(1, &[9; 3_000], 1);
            node.settle();
        }
        assert!(node.log.stats().checkpoints > 0);
        assert_eq!(node.log.strays().collect::<Vec<_>>(), [key(0)]);
        let mut disk = node.disk;
        assert_eq!(recover_knowing(&mut disk, &[1], 3).expect("recovers").shards.len(), 3);

        let mut node = start(disk, &[0, 1], &[0, 1], 5);
        assert_eq!(node.read_all(0, 0, 1 << 20), records, "{rounds} rounds");
        assert_eq!(below(&node.disk, "strays/").count(), 0);
        assert_eq!(node.append(0, b"next", 1).base_offset, rounds as i64);
        node.settle();
        node.time += 2_000;
        node.settle();
        let beside = crate::partition_log::partition_directory("t", key(0)) + "/checkpoint";
        assert!(!node.disk.files.contains_key(&beside), "what lay beside it is removed");
        assert_eq!(start(node.disk, &[0, 1], &[0, 1], 6).read_all(0, 0, 1 << 20).len(), rounds + 1);
    }
}

/// The process ends when a partition has a directory, and even bytes in it, and nothing durable. Which image is older than
/// the partition is chance: a follower of the quorum may find less committed after a crash than it had told its shards.
#[test]
fn a_partition_of_which_nothing_was_ever_durable_is_empty_when_a_later_image_knows_it() {
    for has_bytes in [false, true] {
        let mut node = Node::start(MemoryDisk::default(), 2, SLOT_BYTES, 1);
        node.append(1, b"kept", 1);
        node.settle();
        let directory = crate::partition_log::partition_directory("t", key(0));
        if has_bytes {
            // An extent is written while the group that says so is not.
            node.append(0, &[7; 70_000], 1);
            node.end_turn();
            let is_group = |op: &DiskOp| matches!(op, DiskOp::Write { durable: true, .. });
            while let Some(op) = node.ops.iter().position(|(_, op)| !is_group(op)) {
                node.execute(op);
                node.end_turn();
            }
            assert!(below(&node.disk, &directory).count() > 0);
        }
        assert_eq!(node.log.durable_end(node.id(0)), 0);
        node.disk.directories.insert(directory);
        let mut disk = node.disk;
        for _ in 0..2 {
            let recovered = recover_knowing(&mut disk, &[1], 1).expect("recovers");
            assert_eq!(stray(&recovered).state.as_ref().map(|state| state.log_end), Some(0));
        }
        // The image that knows it comes while the shard runs, or with the next start.
        for known in [&[1][..], &[0, 1]] {
            let mut node = start(disk.clone(), known, &[0, 1], 3);
            assert_eq!(node.read_all(0, 0, 1 << 20), []);
            assert_eq!(node.append(0, b"first", 1).base_offset, 0);
            node.settle();
            let mut node = start(node.disk, &[0, 1], &[0, 1], 4);
            assert_eq!(node.read_all(0, 0, 1 << 20), [(0, b"first".to_vec())]);
            assert_eq!(node.read_all(1, 0, 1 << 20), [(0, b"kept".to_vec())]);
        }
    }
}

/// Indexes and states are written of what is durable: where they are and no generation knows anything, a journal was lost.
#[test]
fn what_no_journal_knows_and_holds_more_than_open_segments_is_not_taken_for_empty() {
    for name in ["00000000000000000000.index", "checkpoint"] {
        let mut node = Node::start(MemoryDisk::default(), 2, SLOT_BYTES, 1);
        node.append(1, b"kept", 1);
        node.settle();
        let mut disk = node.disk;
        let directory = crate::partition_log::partition_directory("t", key(0));
        disk.files.insert(format!("{directory}/{name}"), vec![1; 100]);
        disk.directories.insert(directory);
        let recovered = recover_knowing(&mut disk, &[1], 1).expect("recovers");
        assert!(stray(&recovered).state.is_none(), "{name}");
        let refused = recover_knowing(&mut disk, &[0, 1], 1);
        assert!(matches!(refused, Err(RecoveryError::Corrupt(_))), "{name}");
    }
}

/// The power goes within every operation of a start whose image is old, and of the next whose image is not.
#[test]
fn a_crash_within_any_operation_loses_nothing() {
    let (disk, records) = two_partitions(8);
    let mut cuts = 0;
    for first in 0.. {
        let mut disk = MemoryDisk { power_lasts: Some(first), ..disk.clone() };
        let is_cut = recover_knowing(&mut disk, &[1], 1).is_err();
        // One in seven, or this takes a minute; all of them after seven of the first.
        for second in (first % 7..).step_by(7) {
            let mut disk = MemoryDisk { power_lasts: Some(second), ..disk.clone() };
            let is_cut = recover_knowing(&mut disk, &[0, 1], 1).is_err();
            // The last image is old again in every second case.
            let mut disk = MemoryDisk { power_lasts: None, ..disk };
            if second % 2 == 0 {
                recover_knowing(&mut disk, &[1], 1).expect("recovers");
            }
            let mut node = start(disk, &[0, 1], &[0, 1], 7);
            assert_eq!(node.read_all(0, 0, 1 << 20), records, "{first} {second}");
            cuts += usize::from(is_cut);
            if !is_cut {
                break;
            }
        }
        if !is_cut {
            break;
        }
    }
    assert!(cuts > 300, "{cuts}");
}

/// A running shard is told of a partition that the image of its start did not know.
#[test]
fn a_running_shard_takes_a_partition_back_where_it_lies() {
    for turns in [0, 1, 5, 200] {
        let (disk, mut records) = two_partitions(43);
        let mut node = start(disk, &[1], &[0, 1], 3);
        assert_eq!(node.log.strays().count(), 0);
        assert_eq!(node.read_all(0, 0, 1 << 20), records);
        for turn in 0..turns {
            assert_eq!(node.append(0, &[turn as u8; 3_000], 1).base_offset, 43 + turn);
            node.settle();
            records.push((43 + turn, vec![turn as u8; 3_000]));
        }
        assert_eq!(node.log.stats().checkpoints > 0, turns == 200);
        // The next image is old, or not.
        let mut node = start(node.disk.clone(), &[1], &[0, 1], 4);
        assert_eq!(node.read_all(0, 0, 1 << 20), records, "{turns} turns");
        let mut node = start(node.disk, &[0, 1], &[0, 1], 5);
        assert_eq!(node.read_all(0, 0, 1 << 20), records, "{turns} turns");
    }
}

#[test]
fn what_the_controller_has_confirmed_is_removed_and_nothing_else() {
    let (disk, records) = two_partitions(43);
    let mut node = start(disk, &[], &[], 3);
    assert_eq!(node.log.remove_confirmed(|_| true), 0);
    assert_eq!(node.log.strays().collect::<Vec<_>>(), [key(0), key(1)]);
    assert_eq!(node.log.remove_confirmed(|asked| asked == key(0)), 1);
    node.time += 2_000;
    node.settle();
    let names: Vec<&String> = below(&node.disk, "strays/").collect();
    assert!(!names.is_empty() && names.iter().all(|name| name.contains("t-0.")), "{names:?}");
    assert_eq!(below(&node.disk, "topics/").count(), 0);
    assert_eq!(start(node.disk, &[0], &[0], 4).read_all(0, 0, 1 << 20), records);
}

/// A partition that was being removed when the process was killed: some of its files are gone, and some of its entries may
/// be in the journal and not what they follow.
#[test]
fn the_rest_of_a_removal_does_not_keep_a_start_from_succeeding() {
    let (disk, _) = two_partitions(90);
    let directory = crate::partition_log::partition_directory("t", key(0));
    let names: Vec<String> = below(&disk, &directory).cloned().collect();
    assert!(names.len() > 3, "{names:?}");
    for gone in 0..names.len() {
        let mut disk = disk.clone();
        disk.files.remove(&names[gone]);
        let recovered = recover_knowing(&mut disk, &[1], 1).expect("recovers");
        // The journal may have all of the last one.
        let is_needed = names[gone].ends_with(".log") && gone + 1 < names.len();
        assert!(gone + 1 == names.len() || stray(&recovered).state.is_none() == is_needed, "{}", names[gone]);
        if is_needed {
            // Should an image know it all the same, it is not begun anew over what is left.
            let Err(RecoveryError::Corrupt(why)) = recover_knowing(&mut disk, &[0, 1], 1) else { panic!("refused") };
            assert!(why.contains("strays/t-0."), "{why}");
        }
        let mut node = start(disk, &[1], &[1], 3);
        assert_eq!(node.log.remove_confirmed(|_| false), 1);
        node.time += 2_000;
        node.settle();
        assert_eq!(below(&node.disk, "strays/").count(), 0);
    }
    let mut disk = disk.clone();
    disk.execute(DiskOp::Remove { path: directory.into() }).expect("it is there");
    assert_eq!(recover_knowing(&mut disk, &[1], 1).expect("recovers").shards[0].strays, []);

    // An entry of a partition that no checkpoint knows, behind the first.
    let mut disk = MemoryDisk::default();
    let recovered = recover_knowing(&mut disk, &[1], 1).expect("an empty disk");
    let mut batch = BatchBuilder::new().record(0, None, Some(b"x"), &[]).build();
    batch[..8].copy_from_slice(&7i64.to_be_bytes());
    let mut group = GroupBuilder::new();
    group.append(key(0), 0, 700, 7, vec![batch.into()]);
    let place = GroupPlace { shard: 0, slot: 0, position: 0 };
    let group = group.finish(&[9; 16], recovered.shards[0].checkpoint.sequence + 1, place).concat();
    let (_, journal) = disk.files.iter_mut().find(|(name, _)| name.ends_with("/journal")).expect("there");
    journal[..group.len()].copy_from_slice(&group);
    assert!(matches!(recover_knowing(&mut disk.clone(), &[0], 1), Err(RecoveryError::Corrupt(_))));
    assert_eq!(recover_knowing(&mut disk, &[1], 1).expect("recovers").shards[0].strays, []);
}

#[test]
fn a_damaged_state_refuses_the_start_only_if_it_is_wanted() {
    let (mut disk, _) = two_partitions(43);
    let directory = stray(&recover_knowing(&mut disk, &[1], 1).expect("recovers")).directory.to_string();
    let path = format!("{directory}/checkpoint");
    disk.files.get_mut(&path).expect("it is there")[70] ^= 1;
    assert_eq!(stray(&recover_knowing(&mut disk, &[1], 1).expect("recovers")).state, None);
    let before = disk.files.clone();
    let Err(RecoveryError::Corrupt(why)) = recover_knowing(&mut disk, &[0, 1], 1) else { panic!("must refuse") };
    assert!(why.contains(&path), "{why}");
    assert!(disk.files == before);
}

#[test]
fn foreign_files_stay_and_empty_directories_go() {
    let (mut disk, _) = two_partitions(3);
    for foreign in ["topics/notes", "topics/t/notes", "topics/u/notes", "strays/notes"] {
        disk.files.insert(foreign.into(), b"mine".to_vec());
    }
    for empty in ["topics/v", "topics/w/AAAAAAAAAAAAAAAAAAAAAA", "strays/odd-stray"] {
        disk.directories.insert(empty.into());
    }
    recover_knowing(&mut disk, &[], 1).expect("recovers");
    let left: Vec<&String> = disk.files.keys().filter(|name| name.ends_with("notes")).collect();
    assert_eq!(left.len(), 4, "{left:?}");
    assert_eq!(below(&disk, "topics/").count(), 3);
    let id = key(0).topic_id.to_base64();
    assert!(!disk.directories.contains(&format!("topics/t/{id}/0")));
    for gone in ["topics/v", "topics/w"] {
        assert!(!disk.directories.iter().any(|name| name.starts_with(gone)), "{:?}", disk.directories);
    }
}

#[test]
fn recovery_says_how_the_last_run_ended() {
    let ended = |disk: &mut MemoryDisk, is_marked_clean: bool| {
        let known = [known_partition(0)];
        let options = RecoveryOptions {
            shards: 1,
            salt: [9; 16],
            slots: SLOTS,
            slot_bytes: SLOT_BYTES,
            partitions: &known,
            is_marked_clean,
            now_ms: 0,
        };
        recover(&mut |op| disk.execute(op), &options).expect("recovers").last_shutdown
    };
    assert_eq!(ended(&mut MemoryDisk::default(), false), LastShutdown::Never);
    assert_eq!(ended(&mut three_groups(), true), LastShutdown::Clean);
    assert_eq!(ended(&mut three_groups(), false), LastShutdown::Unclean { torn_groups: 0 });
    for is_marked_clean in [false, true] {
        let mut torn = three_groups();
        damage(&mut torn, "00000000000000000000.log", 5000);
        assert_eq!(ended(&mut torn, is_marked_clean), LastShutdown::Unclean { torn_groups: 1 });
    }
}

/// Somebody has copied a topic's directory within the data directory.
#[test]
fn a_copy_of_a_partition_is_not_taken_for_it() {
    let (disk, records) = two_partitions(43);
    let copy = |disk: &MemoryDisk| {
        let mut disk = disk.clone();
        let copies: Vec<(String, Vec<u8>)> = below(&disk, "topics/t/")
            .map(|name| (name.replacen("topics/t/", "topics/t.bak/", 1), disk.files[name].clone()))
            .collect();
        assert!(copies.len() >= 4);
        disk.files.extend(copies);
        disk
    };
    // Of what the image knows the copy is left alone...
    let copied = copy(&disk);
    let before: Vec<_> =
        below(&copied, "topics/t.bak/").map(|name| (name.clone(), copied.files[name].clone())).collect();
    let mut node = start(copied, &[0, 1], &[0, 1], 3);
    assert_eq!(node.read_all(0, 0, 1 << 20), records);
    assert!(before.iter().all(|(name, data)| node.disk.files.get(name) == Some(data)));
    // ...and of what it does not know nobody can say which is the one.
    let mut copied = copy(&disk);
    let before = copied.files.len();
    let Err(RecoveryError::Corrupt(why)) = recover_knowing(&mut copied, &[], 1) else { panic!("it starts") };
    assert!(why.contains("topics/t/") && why.contains("topics/t.bak/"), "{why}");
    assert_eq!(copied.files.len(), before, "nothing was changed");
}
