//! What a start makes of what a stop, a crash or damage has left.

use super::*;

#[test]
fn damage_inside_the_journal_refuses_the_start_and_changes_nothing() {
    let mut disk = three_groups();
    damage(&mut disk, "/journal", 100);
    let before = disk.files.clone();
    let Err(RecoveryError::Corrupt(why)) = recover_on(&mut disk, 1) else { panic!("must refuse") };
    assert!(why.contains("group 1 is damaged or missing, but group 2"), "{why}");
    assert!(disk.files == before);
}

#[test]
fn a_torn_last_group_is_dropped_with_its_extent() {
    for (suffix, at) in [("/journal", 2 * BLOCK_BYTES + 20), ("00000000000000000000.log", 5000)] {
        let mut disk = three_groups();
        damage(&mut disk, suffix, at);
        let recovered = recover_on(&mut disk, 1).expect("recovers");
        assert_eq!(recovered.groups, 2, "{suffix}");
        assert_eq!(recovered.shards[0].checkpoint.partitions[0].log_end, 2);
        let mut node = Node::start(disk, 1, 64 << 10, 3);
        assert_eq!(node.append(0, b"again", 1).base_offset, 2);
        node.settle();
        assert_eq!(node.read_all(0, 0, 1 << 20), [(0, vec![1; 100]), (1, vec![2; 100]), (2, b"again".to_vec())]);
    }
}

/// Found by fuzzing: entries that no shard writes, under a right checksum, overflowed, or were recovered into a checkpoint
/// that the next start could not read.
#[test]
fn entries_that_make_no_sense_refuse_the_start() {
    let batch =
        |producer_id, sequence| BatchBuilder::new().producer(producer_id, 0, sequence).record(0, None, None, &[]);
    let good = Bytes::from(batch(7, 0).build());
    let mut endless = good.to_vec();
    endless[23..27].copy_from_slice(&(-2i32).to_be_bytes());
    let cut = good.slice(..good.len() - 1);
    type Fill<'a> = &'a dyn Fn(&mut GroupBuilder);
    let cases: [(&str, Fill); 8] = [
        ("a place beyond any segment", &|group| group.append(key(0), 0, u64::MAX - 8, 0, vec![good.clone()])),
        ("a batch that is cut", &|group| group.append(key(0), 0, 0, 0, vec![cut.clone()])),
        ("offsets that go back", &|group| group.append(key(0), 0, 0, 0, vec![endless.clone().into()])),
        ("a negative producer id", &|group| group.append(key(0), 0, 0, 0, vec![batch(-2, 0).build().into()])),
        ("a negative sequence", &|group| group.append(key(0), 0, 0, 0, vec![batch(7, -1).build().into()])),
        ("a start behind the end", &|group| group.log_start(key(0), 1)),
        ("bytes that lie elsewhere", &|group| {
            group.append(key(0), 0, 0, 0, vec![good.clone()]);
            group.append(key(0), 0, 5000, 0, vec![good.clone()]);
        }),
        ("a place at the very end", &|group| group.append(key(0), 0, u64::from(u32::MAX), 0, vec![good.clone()])),
    ];
    for (what, fill) in cases {
        let mut disk = MemoryDisk::default();
        let recovered = recover_on(&mut disk, 1).expect("an empty disk");
        let mut group = GroupBuilder::new();
        fill(&mut group);
        let place = GroupPlace { shard: 0, slot: 0, position: 0 };
        let group = group.finish(&[9; 16], recovered.shards[0].checkpoint.sequence + 1, place).concat();
        let (_, journal) = disk.files.iter_mut().find(|(name, _)| name.ends_with("/journal")).expect("there");
        journal[..group.len()].copy_from_slice(&group);
        let before = disk.files.clone();
        assert!(matches!(recover_on(&mut disk, 1), Err(RecoveryError::Corrupt(_))), "{what}");
        assert!(disk.files == before, "{what}");
    }
}

/// Found by the simulator, seed 16065402310530: the segment was kept, open, before closed ones, and its file was gone.
#[test]
fn a_segment_below_the_start_goes_though_the_next_was_compacted_away() {
    let mut disk = MemoryDisk::default();
    let recovered = recover_on(&mut disk, 1).expect("an empty disk");
    let mut group = GroupBuilder::new();
    for offset in 0..3 {
        let mut batch = BatchBuilder::new().record(0, None, None, &[]).build();
        assign(&mut batch, offset, 0, None);
        group.append(key(0), offset, 0, offset, vec![batch.into()]);
    }
    group.log_start(key(0), 1);
    let (from, until, first_dirty, version, bytes) = (1, 2, 2, 1, 0);
    let (first_timestamp, max_timestamp) = (-1, -1);
    let nothing_is_left = Replacement { from, until, first_dirty, version, bytes, first_timestamp, max_timestamp };
    group.replaced(key(0), &nothing_is_left);
    let place = GroupPlace { shard: 0, slot: 0, position: 0 };
    let group = group.finish(&[9; 16], recovered.shards[0].checkpoint.sequence + 1, place).concat();
    let (_, journal) = disk.files.iter_mut().find(|(name, _)| name.ends_with("/journal")).expect("there");
    journal[..group.len()].copy_from_slice(&group);
    let recovered = recover_on(&mut disk, 1).expect("recovers");
    let segments = &recovered.shards[0].checkpoint.partitions[0].segments;
    assert_eq!(segments.iter().map(|segment| segment.base_offset).collect::<Vec<_>>(), [2]);
}

#[test]
fn another_number_of_shards_finds_every_partition() {
    let mut disk = three_groups();
    for shards in [3, 2, 5, 1] {
        let recovered = recover_on(&mut disk, shards).expect("recovers");
        assert_eq!(recovered.shards.len(), shards);
        let holders: Vec<usize> = (0..shards)
            .filter(|&shard| recovered.shards[shard].checkpoint.partitions.iter().any(|state| state.log_end == 3))
            .collect();
        assert_eq!(holders, [key(0).shard(shards)]);
    }
}

/// Found by random restarts: recovery wanted the file of a segment that was gone, to write to it what only the journal had.
#[test]
fn a_segment_of_which_everything_is_deleted_need_not_be_there() {
    let mut node = Node::start(MemoryDisk::default(), 1, 64 << 10, 1);
    node.append(0, &[1; 1_000], 1);
    node.settle();
    let mut node = Node::start(node.disk, 1, 64 << 10, 2);
    let id = node.id(0);
    node.append(0, &[2; 1_000], 1);
    node.settle();
    node.log.set_config(id, LogConfig { retention_ms: 10_000, ..config() });
    node.time += 20_000;
    (0..10).for_each(|_| node.settle());
    node.time += 5_000;
    (0..10).for_each(|_| node.settle());
    assert_eq!(node.log.log_start(id), 2);
    let path = crate::segment::segment_path(&partition_directory("t", key(0)), 0, 0);
    assert!(!node.disk.files.contains_key(&*path), "{:?}", node.disk.files.keys());
    let mut node = Node::start(node.disk, 1, 64 << 10, 3);
    assert_eq!((node.log.log_start(id), node.append(0, b"next", 1).base_offset), (2, 2));
    node.settle();
    let mut node = Node::start(node.disk, 1, 64 << 10, 4);
    assert_eq!(node.read_all(0, 2, 1 << 20), [(2, b"next".to_vec())]);
}
