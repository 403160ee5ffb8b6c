//! What a restart asks of the disk when many partitions have records that only the journal holds.

use super::*;

/// The operations of a recovery, as far as they take time or must be in order.
#[derive(Debug, Default, PartialEq)]
struct Asked {
    all: usize,
    /// Those that wait until something is durable.
    durable: usize,
    /// Files that were written to and not synced since.
    unsynced: BTreeSet<String>,
    /// Files that were created, in directories that were not synced since.
    unnamed: BTreeSet<String>,
}

impl Asked {
    /// Notes an operation that `disk` is about to execute.
    fn note(&mut self, disk: &MemoryDisk, op: &DiskOp) {
        self.all += 1;
        self.durable += usize::from(!matches!(
            op,
            DiskOp::Read { .. } | DiskOp::List { .. } | DiskOp::Write { durable: false, .. }
        ));
        match op {
            DiskOp::Write { path, durable, .. } => {
                let (directory, _) = path.rsplit_once('/').expect("it has a directory");
                assert!(disk.directories.contains(directory), "{directory} is there before {path}");
                if !disk.files.contains_key(&**path) {
                    self.unnamed.insert(path.to_string());
                }
                if !durable {
                    self.unsynced.insert(path.to_string());
                }
            }
            DiskOp::SyncAll { files, directories } => {
                self.unsynced.retain(|path| !files.iter().any(|file| **file == **path));
                let is_named = |path: &String| {
                    directories.iter().any(|directory| path.rsplit_once('/').is_some_and(|(of, _)| of == &**directory))
                };
                self.unnamed.retain(|path| !is_named(path));
            }
            DiskOp::Rename { from, .. } => {
                let is_settled = self.unsynced.is_empty() && self.unnamed.is_empty();
                assert!(is_settled, "{from} is renamed when all is durable that was written back: {self:?}");
            }
            DiskOp::All(ops) => {
                let all = self.all;
                let durable = self.durable;
                ops.iter().for_each(|op| self.note(disk, op));
                (self.all, self.durable) = (all, durable);
            }
            DiskOp::Replace { path, .. } => {
                assert!(self.unsynced.is_empty(), "{path} says what is durable: {self:?}");
            }
            _ => {}
        }
    }
}

/// What a node leaves that is killed as soon as a record in each of its partitions is durable in the journal.
fn killed(partitions: i32) -> MemoryDisk {
    let mut node = Node::start(MemoryDisk::default(), partitions, 256 << 10, 1);
    for partition in 0..partitions {
        node.append(partition, b"kept", 1);
    }
    while (0..partitions).any(|partition| node.log.durable_end(node.id(partition)) == 0) {
        node.end_turn();
        let group = node.ops.iter().position(|(_, op)| matches!(op, DiskOp::Write { durable: true, .. }));
        node.execute(group.expect("a group is written"));
    }
    assert!(!node.disk.files.keys().any(|path| path.starts_with("topics/")), "nothing is written back");
    node.disk
}

fn recover_counting(disk: &mut MemoryDisk, known: i32) -> Asked {
    let known: Vec<i32> = (0..known).collect();
    let mut asked = Asked::default();
    let mut io = |op: DiskOp| {
        asked.note(disk, &op);
        disk.execute(op)
    };
    let recovered = recover_by(&mut io, &known, 1).expect("recovers");
    assert!(recovered.bytes > 0);
    asked
}

#[test]
fn a_restart_waits_for_few_operations_however_many_partitions_are_written_back() {
    let (few, many) = (10, 300);
    let mut disk = killed(many);
    let asked = recover_counting(&mut disk, many);
    let least = recover_counting(&mut killed(few), few);
    assert_eq!(asked.durable, least.durable, "syncs do not become more with the partitions");
    assert!(least.durable <= 10, "{least:?}");
    // Each is listed, read and written.
    assert_eq!(asked.all - least.all, 3 * (many - few) as usize);
    let mut node = Node::start(disk, many, 256 << 10, 3);
    for partition in 0..many {
        assert_eq!(node.read_all(partition, 0, 1 << 20), [(0, b"kept".to_vec())]);
    }
}

#[test]
fn what_is_set_aside_is_durable_before_its_state_says_so() {
    let mut disk = killed(20);
    let asked = recover_counting(&mut disk, 0);
    assert_eq!(asked.durable, recover_counting(&mut killed(3), 0).durable);
    assert!(asked.durable <= 12, "{asked:?}");
    let mut node = Node::start(disk, 20, 256 << 10, 3);
    for partition in 0..20 {
        assert_eq!(node.read_all(partition, 0, 1 << 20), [(0, b"kept".to_vec())]);
    }
}

/// The power goes within every operation of a restart and of the next.
#[test]
fn a_restart_that_is_interrupted_anywhere_is_done_again() {
    let disk = killed(5);
    let mut cuts = 0;
    for operations in 0.. {
        let mut disk = MemoryDisk { power_lasts: Some(operations), ..disk.clone() };
        let is_cut = recover_knowing(&mut disk, &[0, 1, 2, 3, 4], 2).is_err();
        let mut node = Node::start(MemoryDisk { power_lasts: None, ..disk }, 5, 64 << 10, 3);
        for partition in 0..5 {
            assert_eq!(node.read_all(partition, 0, 1 << 20), [(0, b"kept".to_vec())], "{operations}");
        }
        if !is_cut {
            break;
        }
        cuts += 1;
    }
    assert!(cuts > 20, "{cuts}");
}
