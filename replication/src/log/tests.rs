//! The log on a disk that crashes: whatever was under way, all that was committed is there again, in order.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use millstream_storage::random::Random;
use millstream_storage::{BLOCK_BYTES, DiskError, DiskOp, Now};

use super::disk::Disk;
use super::*;
use crate::controller::{
    ConfigChange, ConfigOperation, ConfigResource, Controller, ControllerRequest, MorePartitions, NewTopic, Sessions,
    TopicReference,
};
use crate::identity::{self, OpenedDirectory};
use crate::record::Endpoint;

/// One process: what it replayed, and what of that was committed.
struct Process<'a> {
    disk: &'a RefCell<Disk>,
    log: MetadataLog,
    image: ClusterImage,
    controller: Controller,
    /// The records of the last append.
    appended: Vec<MetadataRecord>,
}

const NODE: i32 = 1;

fn open(disk: &RefCell<Disk>) -> Result<Process<'_>, identity::OpenError> {
    let opened = identity::open(&mut |op| disk.borrow_mut().run(op), NODE, [7; 48])?;
    let OpenedDirectory { mut log, image, .. } = opened;
    log.log_bytes_max = 6 * BLOCK_BYTES as u64;
    Ok(Process { disk, log, image, controller: Controller::new(BTreeMap::new()), appended: Vec::new() })
}

/// The process of a broker that is registered and unfenced.
fn open_registered(disk: &RefCell<Disk>) -> Process<'_> {
    let mut process = open(disk).unwrap();
    let mut random = Random::new(0);
    process.request(register(1, 1), &mut random).unwrap();
    process.request(heartbeat(&process.image, false), &mut random).unwrap();
    process
}

impl Process<'_> {
    fn run(&mut self, op: DiskOp) -> Result<(), DiskError> {
        self.disk.borrow_mut().run(op).map(|_| ())
    }

    fn request(&mut self, request: ControllerRequest, random: &mut Random) -> Result<(), DiskError> {
        let now = Now { elapsed: Duration::ZERO, unix_ms: 0 };
        let frees_space = request.frees_space();
        let mut id = [0; 16];
        id[..8].copy_from_slice(&random.next().to_le_bytes());
        let decision = self.controller.handle(&self.image, &Sessions::default(), request, now, id);
        if decision.records.is_empty() {
            return Ok(());
        }
        let write = self.log.append(&decision.records);
        self.appended.clone_from(&decision.records);
        if let Some(allocate) = self.log.allocate() {
            match self.run(allocate) {
                Ok(()) => self.log.allocated(),
                Err(DiskError::NoSpace) if frees_space => {}
                Err(error) => return Err(error),
            }
        }
        self.run(write)?;
        self.log.committed();
        for record in &decision.records {
            self.image.replay(record);
        }
        if self.log.wants_snapshot() {
            for op in self.log.compact(&self.image) {
                self.run(op)?;
            }
            let remove = self.log.compacted();
            self.run(remove)?;
        }
        Ok(())
    }
}

/// The registration of a new process of the broker, whose host has a name of so many letters.
fn register(incarnation: u8, host_bytes: usize) -> ControllerRequest {
    ControllerRequest::RegisterBroker {
        node_id: NODE,
        incarnation: [incarnation; 16],
        directory_id: [1; 16],
        shards: 1,
        endpoints: vec![Endpoint { listener: "PLAINTEXT".into(), host: "x".repeat(host_bytes), port: 9092 }],
        rack: (host_bytes < 3000).then(|| "r".into()),
    }
}

/// A heartbeat of the broker, which has applied everything.
fn heartbeat(image: &ClusterImage, want_shutdown: bool) -> ControllerRequest {
    ControllerRequest::BrokerHeartbeat {
        node_id: NODE,
        epoch: epoch(image),
        applied_offset: image.offset(),
        want_fence: false,
        want_shutdown,
    }
}

fn producer_ids(image: &ClusterImage) -> ControllerRequest {
    ControllerRequest::AllocateProducerIds { node_id: NODE, epoch: epoch(image) }
}

/// That of the broker, as long as it is registered.
fn epoch(image: &ClusterImage) -> i64 {
    image.broker(NODE).map_or(-1, |broker| broker.epoch)
}

fn random_request(random: &mut Random, image: &ClusterImage) -> ControllerRequest {
    let name = |random: &mut Random| format!("topic{}", random.below(8));
    match random.below(13) {
        0 => register(random.next() as u8, random.index(6000)),
        10 | 11 => heartbeat(image, random.below(8) == 0),
        12 => match random.below(3) {
            0 => ControllerRequest::UnregisterBroker { node_id: NODE },
            _ => ControllerRequest::FenceBroker { node_id: NODE, epoch: epoch(image) },
        },
        1..=3 => ControllerRequest::CreateTopics {
            topics: (0..=random.below(3))
                .map(|_| NewTopic {
                    name: name(random),
                    partitions: random.below(150) as i32,
                    replication_factor: -1,
                    assignments: Vec::new(),
                    configs: vec![("retention.ms".into(), Some(random.below(9).to_string()))],
                })
                .collect(),
            validate_only: random.below(8) == 0,
        },
        4 => ControllerRequest::DeleteTopics { topics: vec![TopicReference::Name(name(random))] },
        5 => ControllerRequest::CreatePartitions {
            topics: vec![MorePartitions { name: name(random), count: random.below(200) as i32, assignments: None }],
            validate_only: false,
        },
        6 | 7 => {
            let operation = match random.below(4) {
                0 => ConfigOperation::Set,
                1 => ConfigOperation::Delete,
                2 => ConfigOperation::Append,
                _ => ConfigOperation::Subtract,
            };
            let resource = match random.below(3) {
                0 => ConfigResource::Topic(name(random)),
                1 => ConfigResource::Broker(1),
                _ => ConfigResource::Cluster,
            };
            let config = match resource {
                ConfigResource::Topic(_) => "cleanup.policy",
                _ => "log.cleanup.policy",
            };
            let value = ["compact", "delete", "compact,delete"][random.index(3)];
            ControllerRequest::IncrementalAlterConfigs {
                resources: vec![(
                    resource,
                    vec![ConfigChange { name: config.into(), operation, value: Some(value.into()) }],
                )],
                validate_only: false,
            }
        }
        8 => ControllerRequest::AlterConfigs {
            resources: vec![(ConfigResource::Topic(name(random)), vec![("segment.ms".into(), Some("5".into()))])],
            validate_only: false,
        },
        _ => producer_ids(image),
    }
}

/// Requests until the disk crashes or there were enough; the images before the one under way and after it.
fn run_until_crash(disk: &RefCell<Disk>, seed: u64, requests: u64) -> (ClusterImage, ClusterImage) {
    let mut random = Random::new(seed);
    let Ok(mut process) = open(disk) else {
        return (ClusterImage::new(), ClusterImage::new());
    };
    let mut ids = Random::new(seed ^ 1);
    let mut number = 0;
    loop {
        let committed = process.image.clone();
        let request = match number {
            0 => register(1, 1),
            1 => heartbeat(&committed, false),
            number if number <= requests => random_request(&mut random, &committed),
            _ => return (committed.clone(), committed),
        };
        number += 1;
        if process.request(request, &mut ids).is_err() {
            return match process.log.pending {
                // It may have reached the disk and is not known to have: either is right.
                Some(Pending::Append { .. }) => {
                    let mut maybe = committed.clone();
                    for record in &process.appended {
                        maybe.replay(record);
                    }
                    (committed, maybe)
                }
                _ => (process.image.clone(), process.image),
            };
        }
    }
}

fn reopen_copy(disk: &RefCell<Disk>) -> (MetadataLog, ClusterImage) {
    let copy = RefCell::new(Disk { files: disk.borrow().files.clone(), ..Disk::new() });
    let opened = identity::open(&mut |op| copy.borrow_mut().run(op), NODE, [8; 48]).expect("a log that opens");
    (opened.log, opened.image)
}

#[test]
fn a_crash_within_any_operation_keeps_what_was_committed() {
    let mut compactions = 0;
    for seed in 0..6 {
        let whole = RefCell::new(Disk::new());
        let (last, _) = run_until_crash(&whole, seed, 60);
        let changes = whole.borrow().changes;
        compactions += u64::from(whole.borrow().files.contains_key("metadata/snapshot"));
        assert_eq!(reopen_copy(&whole).1, last);
        for crash in 0..changes {
            let mut disk = Disk::new();
            disk.until_crash = Some(crash);
            disk.torn = Random::new(seed << 32 | crash);
            let disk = RefCell::new(disk);
            let (committed, maybe) = run_until_crash(&disk, seed, 60);
            let disk = disk.into_inner();
            assert!(disk.crashed);

            // The restart may crash as well, within each of its own operations.
            let mut restart = 0;
            let (files, found) = loop {
                let again = RefCell::new(Disk {
                    files: disk.files.clone(),
                    until_crash: Some(restart),
                    torn: Random::new(crash << 8 | restart),
                    ..Disk::new()
                });
                match open(&again).map(|process| process.image) {
                    Ok(found) => break (again.into_inner(), found),
                    Err(identity::OpenError::Log(OpenError::Disk { .. })) => {
                        let again = RefCell::new(again.into_inner().restarted());
                        let found = open(&again).map(|process| process.image);
                        let found = found.unwrap_or_else(|why| panic!("seed {seed} crash {crash} {restart}: {why}"));
                        check(&found, &committed, &maybe, seed, crash);
                    }
                    Err(why) => panic!("seed {seed} crash {crash}: {why}"),
                }
                restart += 1;
            };
            check(&found, &committed, &maybe, seed, crash);
            // Nothing is left lying about: no file of before, no rest of a torn write.
            assert!(files.files.len() <= 3, "{:?}", files.files.keys());
            for (path, bytes) in files.files.iter().filter(|(path, _)| path.ends_with(".log")) {
                let end = scan(path, bytes).unwrap().valid_bytes as usize;
                assert!(bytes[end..].iter().all(|byte| *byte == 0));
            }
        }
    }
    assert!(compactions > 0, "the test never came to a snapshot");
}

fn check(found: &ClusterImage, committed: &ClusterImage, maybe: &ClusterImage, seed: u64, crash: u64) {
    if committed.offset() <= 1 && found.offset() == 1 {
        // Nothing but the cluster's identity, which a crash at the first start may have made anew.
        return;
    }
    assert!(
        found == committed || found == maybe,
        "seed {seed} crash {crash}: found offset {}, committed {}",
        found.offset(),
        committed.offset()
    );
}

#[test]
fn the_replay_of_random_requests_makes_equal_images_everywhere() {
    for seed in 0..20 {
        let disk = RefCell::new(Disk::new());
        let mut process = open(&disk).unwrap();
        let mut follower = process.image.clone();
        let mut random = Random::new(seed);
        for _ in 0..100 {
            let now = Now { elapsed: Duration::ZERO, unix_ms: 0 };
            let request = random_request(&mut random, &process.image);
            let id = [random.next() as u8; 16];
            let decision = process.controller.handle(&process.image, &Sessions::default(), request.clone(), now, id);
            let again = process.controller.handle(&process.image, &Sessions::default(), request, now, id);
            assert_eq!(decision, again);
            for record in &decision.records {
                process.image.replay(record);
                follower.check(record).unwrap();
                follower.replay(record);
            }
            assert_eq!(follower, process.image);
        }
        let snapshot = ClusterImage::from_snapshot(follower.offset(), &follower.snapshot());
        assert_eq!(snapshot, Ok(follower));
    }
}

/// A disk with a snapshot and, after it, a log of at least one entry.
fn compacted_disk() -> Disk {
    let disk = RefCell::new(Disk::new());
    let mut process = open_registered(&disk);
    let mut random = Random::new(3);
    while process.log.base_offset == 0 || process.log.offset == process.log.base_offset {
        process.request(producer_ids(&process.image), &mut random).unwrap();
    }
    disk.into_inner()
}

#[test]
fn missing_and_old_files_are_refused_and_named() {
    let whole = compacted_disk();
    let log = whole.files.keys().find(|name| name.ends_with(".log")).unwrap();
    let refused = |files: BTreeMap<String, Vec<u8>>| {
        let mut disk = Disk { files, ..Disk::new() };
        let before = disk.files.clone();
        let why = MetadataLog::open(&mut |op| disk.run(op)).unwrap_err();
        assert_eq!(disk.files, before, "nothing is changed");
        match why {
            OpenError::Corrupt(corrupt) => corrupt.path,
            other => panic!("{other:?}"),
        }
    };
    let without = |name: &str| {
        let mut files = whole.files.clone();
        files.remove(name);
        files
    };
    assert_eq!(refused(without("metadata/snapshot")), "metadata/snapshot");
    assert_eq!(refused(without(log)), *log);

    // The snapshot of another day, with the log that belonged to it: the newer log's records would be lost.
    let mut old = RefCell::new(Disk::new());
    drop(open(&old).unwrap());
    let mut mixed = whole.files.clone();
    mixed.remove("metadata/snapshot");
    mixed.extend(std::mem::take(&mut old.get_mut().files));
    assert_eq!(refused(mixed), "metadata/snapshot");

    // A log under another name.
    let mut renamed = without(log);
    renamed.remove("metadata/snapshot");
    renamed.insert("metadata/00000000000000000000.log".into(), whole.files[log].clone());
    assert_eq!(refused(renamed), "metadata/00000000000000000000.log");
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    let disk = RefCell::new(Disk::new());
    let mut process = open_registered(&disk);
    process.log.log_bytes_max = u64::MAX;
    let mut random = Random::new(5);
    let mut refused = 0;
    for round in 0..2_000 {
        disk.borrow_mut().full = round % 700 > 300;
        match process.request(producer_ids(&process.image), &mut random) {
            Ok(()) => {}
            Err(DiskError::NoSpace) => refused += 1,
            Err(other) => panic!("{other}"),
        }
        if round % 50 == 0 {
            assert_eq!(reopen_copy(&disk).1, process.image);
        }
    }
    assert!(refused > 0 && refused < 1_000, "{refused}");
}

#[test]
fn on_a_full_disk_topics_can_still_be_deleted() {
    let disk = RefCell::new(Disk::new());
    let mut process = open_registered(&disk);
    process.log.log_bytes_max = u64::MAX;
    let mut random = Random::new(5);
    let topic = |name: usize| NewTopic {
        name: format!("topic{name}"),
        partitions: 1,
        replication_factor: 1,
        assignments: Vec::new(),
        configs: Vec::new(),
    };
    let mut created = 0;
    let mut create = |process: &mut Process, random: &mut Random| {
        created += 1;
        let request = ControllerRequest::CreateTopics { topics: vec![topic(created)], validate_only: false };
        process.request(request, random).map(|()| created)
    };
    for _ in 0..200 {
        create(&mut process, &mut random).unwrap();
    }
    disk.borrow_mut().full = true;
    // What was allocated ahead is used up, then no more topics are made.
    while create(&mut process, &mut random).is_ok() {}
    let mut deleted = 0;
    for name in 1..=200 {
        let topics = vec![TopicReference::Name(format!("topic{name}"))];
        process.request(ControllerRequest::DeleteTopics { topics }, &mut random).unwrap();
        deleted += 1;
    }
    assert!(deleted * BLOCK_BYTES as u64 <= RESERVE_BYTES);
    assert_eq!(create(&mut process, &mut random), Err(DiskError::NoSpace), "the reserve is for deletions");
    assert_eq!(reopen_copy(&disk).1, process.image);
    // The restart of a process on the full disk finds what is left of the reserve.
    let allocated = process.log.allocated;
    assert_eq!(open(&disk).unwrap().log.allocated, allocated);
    disk.borrow_mut().full = false;
    create(&mut process, &mut random).unwrap();
}

#[test]
fn a_snapshot_for_which_there_is_no_room_is_tried_again_later_and_leaves_few_files() {
    let disk = RefCell::new(Disk::new());
    let mut process = open(&disk).unwrap();
    process.log.log_bytes_max = 40 * BLOCK_BYTES as u64;
    let mut attempts = 0;
    for _ in 0..100 {
        let records = [MetadataRecord::ProducerIds { next: process.image.next_producer_id() + 1 }];
        let write = process.log.append(&records);
        process.run(write).unwrap();
        process.log.committed();
        process.image.replay(&records[0]);
        if process.log.wants_snapshot() {
            attempts += 1;
            let [create, _] = process.log.compact(&process.image);
            process.run(create).unwrap();
        }
    }
    assert_eq!(attempts, 6, "one whenever the log has grown by more than a quarter of its bound");
    assert_eq!(reopen_copy(&disk).1, process.image);

    for op in process.log.compact(&process.image) {
        process.run(op).unwrap();
    }
    let remove = process.log.compacted();
    process.run(remove).unwrap();
    assert_eq!(open(&disk).unwrap().image, process.image);
    assert_eq!(disk.borrow().files.len(), 3, "the start has removed the rest");
}

#[test]
fn large_files_are_read_in_pieces() {
    let disk = RefCell::new(Disk::new());
    let mut process = open_registered(&disk);
    process.log.log_bytes_max = u64::MAX;
    let mut random = Random::new(9);
    while process.log.position < 3 * READ_BYTES as u64 {
        process.request(producer_ids(&process.image), &mut random).unwrap();
    }
    assert_eq!(process.log.position, 3 * READ_BYTES as u64);
    assert_eq!(reopen_copy(&disk).1, process.image);
}
