//! That the disk is as unkind as its documentation allows, and not more.

use super::*;

const FILE: &str = "d/file";

fn disk(seed: u64) -> SimDisk {
    println!("seed {seed}");
    let mut disk = SimDisk::new(Random::new(seed));
    disk.execute(DiskOp::CreateDirectory { path: "d".into() }).unwrap();
    disk.execute(DiskOp::Allocate { path: FILE.into(), bytes: 8_192 }).unwrap();
    disk
}

fn write(fill: u8, position: u64, durable: bool) -> DiskOp {
    DiskOp::Write { path: FILE.into(), position, data: vec![Bytes::from(vec![fill; 4_096])], durable }
}

fn content(disk: &mut SimDisk) -> Bytes {
    match disk.execute(DiskOp::Read { path: FILE.into(), position: 0, bytes: 1 << 20 }).unwrap() {
        DiskReply::Data(data) => data,
        other => panic!("{other:?}"),
    }
}

/// What each of many seeds leaves of sector 0.
fn outcomes(mut run: impl FnMut(&mut SimDisk)) -> BTreeSet<u8> {
    (0..200)
        .map(|seed| {
            let mut disk = disk(seed);
            run(&mut disk);
            disk.lose_power();
            content(&mut disk)[0]
        })
        .collect()
}

#[test]
fn what_is_durable_stays() {
    let left = outcomes(|disk| {
        disk.execute(write(1, 0, false)).unwrap();
        disk.execute(write(2, 0, true)).unwrap();
    });
    assert_eq!(left, BTreeSet::from([2]));
    let left = outcomes(|disk| {
        disk.execute(write(1, 0, false)).unwrap();
        disk.execute(DiskOp::Sync { path: FILE.into() }).unwrap();
    });
    assert_eq!(left, BTreeSet::from([1]));
}

#[test]
fn what_is_not_durable_may_stay_in_any_version() {
    let left = outcomes(|disk| {
        disk.execute(write(1, 0, true)).unwrap();
        disk.execute(write(2, 0, false)).unwrap();
        disk.execute(write(3, 0, false)).unwrap();
    });
    assert_eq!(left, BTreeSet::from([1, 2, 3]));
    let left = outcomes(|disk| {
        disk.submit(write(1, 0, true));
    });
    assert_eq!(left, BTreeSet::from([0, 1]), "under way");
}

#[test]
fn a_sync_covers_what_was_written_before_it_was_asked_for() {
    let left = outcomes(|disk| {
        let (sync, _) = disk.submit(DiskOp::Sync { path: FILE.into() });
        disk.execute(write(1, 0, false)).unwrap();
        disk.complete(sync).unwrap();
    });
    assert_eq!(left, BTreeSet::from([0, 1]));
}

#[test]
fn writes_are_torn_between_sectors_not_inside() {
    let mut torn = 0;
    for seed in 0..50 {
        let mut disk = disk(seed);
        disk.execute(write(7, 0, false)).unwrap();
        disk.lose_power();
        let content = content(&mut disk);
        let sectors: BTreeSet<&[u8]> = content[..4_096].chunks(SECTOR_BYTES).collect();
        assert!(sectors.iter().all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        torn += usize::from(sectors.len() > 1);
    }
    assert!(torn > 10);
}

#[test]
fn a_killed_process_loses_nothing_that_completed() {
    let mut disk = disk(1);
    disk.execute(write(1, 0, false)).unwrap();
    disk.kill();
    assert_eq!(content(&mut disk)[4_095], 1);
}

#[test]
fn a_name_that_only_a_write_made_may_vanish() {
    let survivors = (0..100)
        .filter(|seed| {
            let mut disk = SimDisk::new(Random::new(*seed));
            disk.execute(DiskOp::CreateDirectory { path: "d".into() }).unwrap();
            disk.execute(write(1, 0, true)).unwrap();
            disk.lose_power();
            disk.peek(FILE, 0, 4_096).is_some()
        })
        .count();
    assert!((20..80).contains(&survivors), "{survivors}");
}

#[test]
fn a_full_disk_refuses_and_harms_nothing() {
    let mut disk = disk(1);
    disk.execute(write(1, 0, true)).unwrap();
    disk.faults.capacity_bytes = Some(8_192);
    assert_eq!(disk.execute(write(2, 8_192, true)), Err(DiskError::NoSpace));
    assert_eq!(disk.execute(DiskOp::Allocate { path: FILE.into(), bytes: 8_193 }), Err(DiskError::NoSpace));
    assert_eq!(disk.execute(write(3, 4_096, true)), Ok(DiskReply::Done), "inside what is reserved");
    assert_eq!(disk.free_bytes(), 0);
    disk.execute(DiskOp::Remove { path: FILE.into() }).unwrap();
    assert_eq!(disk.free_bytes(), 8_192);
}

#[test]
fn nothing_is_durable_after_a_failed_sync() {
    let left = outcomes(|disk| {
        disk.execute(write(1, 0, false)).unwrap();
        disk.faults.fail_one_in = 1;
        let (sync, _) = disk.submit(DiskOp::Sync { path: FILE.into() });
        assert!(matches!(disk.complete(sync), Err(DiskError::Failed(_))));
        disk.faults.fail_one_in = 0;
        disk.execute(DiskOp::Sync { path: FILE.into() }).unwrap();
    });
    assert_eq!(left, BTreeSet::from([0, 1]));
}

#[test]
fn directories_are_renamed_listed_and_removed_with_all_they_hold() {
    let mut disk = disk(1);
    disk.execute(DiskOp::CreateDirectory { path: "d/e/f".into() }).unwrap();
    disk.execute(DiskOp::Rename { from: "d".into(), to: "g".into() }).unwrap();
    let Ok(DiskReply::Names(mut names)) = disk.execute(DiskOp::List { path: "g".into() }) else { panic!() };
    names.sort();
    assert_eq!(names, [("e".to_string(), true), ("file".to_string(), false)]);
    assert_eq!(disk.execute(DiskOp::List { path: "d".into() }), Ok(DiskReply::Names(Vec::new())));
    let Ok(DiskReply::Names(names)) = disk.execute(DiskOp::List { path: "".into() }) else { panic!() };
    assert_eq!(names, [("g".to_string(), true)]);
    disk.execute(DiskOp::Remove { path: "g".into() }).unwrap();
    assert_eq!(disk.listing().count(), 0);
    assert_eq!(disk.execute(DiskOp::Sync { path: "g/file".into() }), Err(DiskError::NotFound));
    assert_eq!(disk.execute(DiskOp::Remove { path: "g".into() }), Ok(DiskReply::Done));
}

#[test]
fn power_can_go_between_any_two_operations() {
    let mut disk = disk(3);
    disk.cut_power_after(1);
    assert!(!disk.is_out_of_power());
    disk.execute(write(1, 0, true)).unwrap();
    assert!(disk.execute(write(2, 4_096, true)).is_err());
    assert!(disk.is_out_of_power());
    assert!(disk.execute(write(3, 4_096, true)).is_err());
    disk.lose_power();
    assert_eq!(content(&mut disk)[0], 1);
}

/// Of two files that were created, written and synced at once, which keep their content; one that is lost is none.
fn synced_at_once(seed: u64, directories: &[&str], is_cut: bool) -> [Option<bool>; 2] {
    let mut disk = disk(seed);
    let files: Vec<FilePath> = vec!["d/e/0".into(), "d/e/1".into()];
    disk.execute(DiskOp::CreateDirectories { paths: vec!["d/e".into(), "d/f/g".into()] }).unwrap();
    for path in &files {
        let data = vec![Bytes::from(vec![7; 512])];
        disk.execute(DiskOp::Write { path: path.clone(), position: 0, data, durable: false }).unwrap();
    }
    let directories = directories.iter().map(|path| (*path).into()).collect();
    if is_cut {
        disk.cut_power_after(0);
    }
    let synced = disk.execute(DiskOp::SyncAll { files, directories });
    assert_eq!(synced.is_err(), is_cut);
    disk.lose_power();
    ["d/e/0", "d/e/1"].map(|path| {
        disk.peek(path, 0, 4_096).map(|content| content[..512] == [7; 512]).or(disk.peek_all(path).map(|_| false))
    })
}

#[test]
fn what_is_synced_at_once_is_durable_with_its_names_and_not_before() {
    let left = |directories: &'static [&'static str], is_cut| -> BTreeSet<_> {
        (0..300).map(|seed| synced_at_once(seed, directories, is_cut)).collect()
    };
    assert_eq!(left(&["d/e"], false), BTreeSet::from([[Some(true); 2]]));
    for directories in [&[] as &[_], &["d"], &["d/f"]] {
        let left = left(directories, false);
        assert!(left.contains(&[None, Some(true)]) && left.contains(&[Some(true), None]), "{left:?}");
        assert!(left.iter().flatten().all(|kept| *kept != Some(false)), "{left:?}");
    }
    let cut = left(&["d/e"], true);
    for kept in [[Some(true); 2], [None, Some(true)], [Some(true), None], [Some(false), Some(true)]] {
        assert!(cut.contains(&kept), "{cut:?}");
    }
    let mut disk = disk(1);
    for (file, directory) in [("d/none", "d"), (FILE, "none")] {
        let op = DiskOp::SyncAll { files: vec![file.into()], directories: vec![directory.into()] };
        assert_eq!(disk.execute(op), Err(DiskError::NotFound));
    }
}

#[test]
fn of_directories_created_at_once_any_may_be_there_after_an_interruption() {
    let mut left = BTreeSet::new();
    for seed in 0..200 {
        let mut disk = disk(seed);
        disk.cut_power_after(0);
        let paths = vec!["d/1".into(), "d/2".into()];
        assert!(disk.execute(DiskOp::CreateDirectories { paths }).is_err());
        disk.lose_power();
        let names = disk.list("d");
        left.insert(["1", "2"].map(|name| names.contains(&(name.to_string(), true))));
    }
    assert_eq!(left.len(), 4, "{left:?}");
}
