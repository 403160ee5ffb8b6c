//! The start of a node on a disk that loses power within any of its operations.

use std::sync::Arc;
use std::time::Duration;

use millstream_replication::config::Properties;
use millstream_replication::identity::{CLEAN_SHUTDOWN, META_PROPERTIES};
use millstream_replication::quorum::LOG_BYTES_MAX;
use millstream_storage::random::Random;
use millstream_storage::shard_log::{CleanerOptions, ShardLogOptions};

use super::*;
use crate::sim::disk::SimDisk;

const NODE: i32 = 3;

fn options() -> NodeOptions {
    NodeOptions {
        node_id: NODE,
        incarnation: [1; 16],
        shards: 2,
        file: Arc::new(Properties::new()),
        controller_address: None,
        voters: Vec::new(),
        bootstrap_servers: Vec::new(),
        joins_voters: false,
        session_timeout: Duration::from_secs(3),
        heartbeat_interval: Duration::from_millis(500),
        imbalance_check_interval: None,
        log_dir: "data".to_string(),
        listeners: Vec::new(),
        inter_broker_listener: String::new(),
        peer_window_bytes: 1 << 20,
        metadata_log_bytes_max: LOG_BYTES_MAX,
        journal_slots: 4,
        journal_slot_bytes: 8 << 10,
        log: ShardLogOptions {
            tail_memory_bytes_max: 64 << 10,
            free_space_floor_bytes: 0,
            extent_bytes_min: 64 << 10,
            retention_check_interval: Duration::from_secs(1),
            producer_expiration_ms: i64::MAX,
            producers_max: 1_000,
            replica_reserve_percent: 0,
            cleaner: CleanerOptions::default(),
        },
        replica_lag_time_max: Duration::from_secs(30),
        fetch_bytes_max: 1 << 20,
        group_bytes_max: 1 << 20,
        request_bytes_max: 1 << 20,
    }
}

fn recover(disk: &mut SimDisk, random: u64) -> Result<Node, RecoverError> {
    let now = Now { elapsed: Duration::ZERO, unix_ms: 1_700_000_000_000 };
    Node::recover(&mut |op| disk.execute(op), options(), now, Random::new(random).bytes())
}

/// A disk with a data directory that was made before there was a `meta.properties`.
fn old_directory(seed: u64) -> SimDisk {
    let mut disk = SimDisk::new(Random::new(seed));
    let log = include_bytes!("../../../replication/testdata/cluster-v1-node.bin");
    for op in [
        DiskOp::CreateDirectory { path: "metadata".into() },
        DiskOp::Replace { path: "metadata/00000000000000000000.log".into(), data: log.as_slice().into() },
    ] {
        disk.execute(op).expect("the disk has room");
    }
    disk
}

#[test]
fn a_first_start_and_a_migration_survive_a_loss_of_power_within_any_operation() {
    for make in [|seed| SimDisk::new(Random::new(seed)), old_directory] {
        let expected = recover(&mut make(0), 1).expect("it starts").controller.image().offset();
        let mut interrupted = 0;
        for operations in 0.. {
            let mut is_cut = false;
            for seed in 0..6 {
                let mut disk = make(seed);
                disk.cut_power_after(operations);
                is_cut = recover(&mut disk, 2).is_err();
                // What is durable by then stays as it is.
                let before = disk.peek_all(META_PROPERTIES);
                disk.go_down(seed % 2 == 0);
                let kept = disk.peek_all(META_PROPERTIES);
                assert!(before.is_none() || kept == before, "{operations} {seed}");
                if seed > 2 {
                    // The next start is interrupted as well.
                    disk.cut_power_after(operations / 2 + seed);
                    let _ = recover(&mut disk, 3);
                    disk.go_down(seed % 2 == 1);
                }
                disk.cut_power_after(u64::MAX);
                let node = recover(&mut disk, 4).unwrap_or_else(|why| panic!("{operations} {seed}: {why}"));
                let image = node.controller.image();
                assert_eq!((image.offset(), image.cluster()), (expected, Some(node.meta.cluster_id)));
                let stored = disk.peek_all(META_PROPERTIES).expect("it is there");
                assert_eq!(MetaProperties::decode(&stored), Ok(node.meta));
                assert!(kept.is_none() || kept == Some(stored), "it is made once");
                let again = recover(&mut disk, 5).expect("it starts");
                assert_eq!((again.meta, again.controller.image()), (node.meta, image));
            }
            interrupted += u64::from(is_cut);
            if !is_cut {
                break;
            }
        }
        assert!(interrupted > 15, "{interrupted}");
    }
}

#[test]
fn a_mark_of_a_clean_stop_lasts_until_a_start_has_succeeded() {
    let mut disk = SimDisk::new(Random::new(7));
    let node = recover(&mut disk, 1).expect("it starts");
    assert_eq!(node.counts.last_shutdown, LastShutdown::Never);
    disk.execute(node.meta.mark_clean_shutdown(5)).expect("the disk has room");
    let mut whole = 0;
    for operations in 0.. {
        let mut disk = disk.clone();
        disk.cut_power_after(operations);
        let first = recover(&mut disk, 2).map(|node| node.counts.last_shutdown);
        disk.go_down(operations % 2 == 0);
        disk.cut_power_after(u64::MAX);
        let is_marked = disk.peek_all(CLEAN_SHUTDOWN).is_some();
        let second = recover(&mut disk, 3).expect("it starts").counts.last_shutdown;
        let expected = if is_marked { LastShutdown::Clean } else { LastShutdown::Unclean { torn_groups: 0 } };
        assert_eq!(second, expected, "{operations}");
        assert_eq!(disk.peek_all(CLEAN_SHUTDOWN), None);
        match first {
            Ok(first) => {
                assert_eq!((first, is_marked), (LastShutdown::Clean, false));
                break;
            }
            Err(_) => whole += u64::from(is_marked),
        }
    }
    assert!(whole > 15, "only its last operation takes it away: {whole}");
}

#[test]
fn the_directory_of_another_node_is_refused_as_it_is() {
    let mut disk = old_directory(1);
    let mut others = options();
    others.node_id = 4;
    let now = Now { elapsed: Duration::ZERO, unix_ms: 0 };
    let before = disk.clone();
    let refused = Node::recover(&mut |op| disk.execute(op), others, now, [1; RANDOM_BYTES]).err().expect("refused");
    assert!(refused.to_string().contains("set node.id=3"), "{refused}");
    assert!(!disk.differs_from(&before, &["metadata", "shards", "topics", META_PROPERTIES], ""));
}
