//! One member, operation by operation: what it writes, what it says and when; and on a disk that crashes: whatever was under
//! way, all that was committed is there again, in order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use millstream_storage::random::Random;
use millstream_storage::{BLOCK_BYTES, DiskError, DiskOp, DiskReply};
use raft::eraftpb::Message;

use super::members::tests::member;
use super::message::encode_message;
use super::writing::NO_SPACE_TICKS;
use super::*;
use crate::log::disk::Disk;
use crate::log::{Corrupt, FileId, OpenError, SNAPSHOT};

const CLUSTER: [u8; 16] = [9; 16];

fn founded(disk: &mut Disk, voters: &[u8], me: u8) -> Quorum {
    let voters = voters.iter().map(|number| member(*number)).collect();
    let founding = Founding::new(CLUSTER, voters).snapshot();
    create(&mut |op| disk.run(op), member(me).id, FileId([me; 16]), founding, 1).expect("the disk has room")
}

fn reopened(disk: &mut Disk) -> Quorum {
    let opened = open(&mut |op| disk.run(op), member(1).id, 2).expect("it opens");
    opened.expect("there is a log")
}

/// Executes everything; what is left are the other outputs.
fn settle(quorum: &mut Quorum, disk: &mut Disk) -> Result<Vec<Output>, DiskError> {
    let mut others = Vec::new();
    let mut outputs = VecDeque::from(quorum.outputs());
    while let Some(output) = outputs.pop_front() {
        match output {
            Output::Disk(op) => {
                let result = disk.run(op);
                if let Err(error @ DiskError::Failed(_)) = result {
                    return Err(error);
                }
                quorum.disk(result);
                outputs.extend(quorum.outputs());
            }
            other => others.push(other),
        }
    }
    Ok(others)
}

fn ids(next: i64) -> [MetadataRecord; 1] {
    [MetadataRecord::ProducerIds { next }]
}

fn propose(quorum: &mut Quorum, next: i64) -> Position {
    let offset = quorum.image().offset() + 1;
    quorum.propose(offset, &ids(next)).expect("it leads")
}

/// A quorum of one that leads.
fn alone(disk: &mut Disk) -> Quorum {
    let mut quorum = founded(disk, &[1], 1);
    quorum.campaign();
    settle(&mut quorum, disk).expect("the disk works");
    quorum
}

#[test]
fn a_quorum_of_one_elects_itself_with_one_write_and_needs_no_ticks() {
    let mut disk = Disk::new();
    let mut quorum = founded(&mut disk, &[1], 1);
    let changes = disk.changes;
    assert!(!quorum.leads());
    quorum.campaign();
    let told = settle(&mut quorum, &mut disk).unwrap();
    assert_eq!(told.last(), Some(&Output::Leads { term: 2 }), "{told:?}");
    assert_eq!(disk.changes, changes + 2, "space and one frame");
    assert_eq!((quorum.next_deadline(), quorum.is_idle()), (None, true));
    let at = propose(&mut quorum, 1000);
    let told = settle(&mut quorum, &mut disk).unwrap();
    let image = Arc::new(quorum.image().clone());
    assert_eq!(told, [Output::Committed { at, offset: 2, records: ids(1000).to_vec(), image }]);
    let again = reopened(&mut disk);
    assert_eq!((again.image(), again.applied()), (quorum.image(), at));
}

#[test]
fn nothing_is_true_before_it_is_durable_and_what_comes_meanwhile_is_one_write() {
    let mut disk = Disk::new();
    let mut quorum = alone(&mut disk);
    propose(&mut quorum, 1000);
    let outputs = quorum.outputs();
    assert!(matches!(outputs[..], [Output::Disk(DiskOp::Write { durable: true, .. })]), "{outputs:?}");
    let offset = quorum.image().offset();
    for next in 2..10 {
        quorum.propose(offset + next as u64, &ids(next * 1000)).expect("it leads");
    }
    assert_eq!(quorum.outputs(), [], "one write at a time");
    assert_eq!(quorum.image().next_producer_id(), 0);
    quorum.disk(Ok(DiskReply::Done));
    let outputs = quorum.outputs();
    assert!(matches!(outputs[..], [Output::Committed { .. }, Output::Disk(_)]), "{outputs:?}");
    quorum.disk(Ok(DiskReply::Done));
    assert_eq!(quorum.image().next_producer_id(), 9000);
    let committed = quorum.outputs().iter().filter(|output| matches!(output, Output::Committed { .. })).count();
    assert_eq!(committed, 8);
}

#[test]
fn a_vote_leaves_when_it_is_durable_and_is_kept() {
    let mut disk = Disk::new();
    let mut quorum = founded(&mut disk, &[1, 2, 3], 1);
    let mut vote = Message { from: member(2).id.0, to: member(1).id.0, term: 7, ..Default::default() };
    vote.set_msg_type(MessageType::MsgRequestVote);
    (vote.index, vote.log_term) = (1, 1);
    quorum.step(member(2).id, &encode_message(&vote)).expect("it is a message");
    let outputs = quorum.outputs();
    let [Output::Follows { term: 7, leader: None }, Output::Disk(op)] = &outputs[..] else { panic!("{outputs:?}") };
    assert!(matches!(op, DiskOp::Allocate { .. }), "{op:?}");
    disk.run(op.clone()).unwrap();
    quorum.disk(Ok(DiskReply::Done));
    let outputs = quorum.outputs();
    let [Output::Disk(op)] = &outputs[..] else { panic!("{outputs:?}") };
    disk.run(op.clone()).unwrap();
    quorum.disk(Ok(DiskReply::Done));
    let outputs = quorum.outputs();
    let [Output::Send { to, message }] = &outputs[..] else { panic!("{outputs:?}") };
    let answer = decode_message(message).unwrap().message;
    assert_eq!((*to, answer.get_msg_type(), answer.reject), (member(2).id, MessageType::MsgRequestVoteResponse, false));

    // Another one of the same term does not get it, not even after a restart.
    let mut quorum = reopened(&mut disk);
    vote.from = member(3).id.0;
    quorum.step(member(3).id, &encode_message(&vote)).expect("it is a message");
    let outputs = settle(&mut quorum, &mut disk).unwrap();
    let answers: Vec<bool> = outputs
        .iter()
        .filter_map(|output| match output {
            Output::Send { message, .. } => Some(decode_message(message).unwrap().message.reject),
            _ => None,
        })
        .collect();
    assert_eq!(answers, [true]);
}

#[test]
fn a_failed_write_is_the_end() {
    let mut disk = Disk::new();
    let mut quorum = alone(&mut disk);
    propose(&mut quorum, 1000);
    quorum.outputs();
    quorum.disk(Err(DiskError::Failed("broken".into())));
    assert_eq!(quorum.outputs(), [Output::Failed { reason: "the metadata cannot be written: broken".into() }]);
    quorum.tick(Duration::from_secs(9));
    assert_eq!((quorum.outputs(), quorum.next_deadline()), (Vec::new(), None));
}

#[test]
fn decisions_ask_for_space_first_and_votes_use_what_is_kept() {
    let mut disk = Disk::new();
    let mut quorum = alone(&mut disk);
    disk.full = true;
    let mut refused = 0;
    for next in 1..2_000 {
        if quorum.reserve(&ids(next)) == Room::Asked {
            match settle(&mut quorum, &mut disk).unwrap()[..] {
                [Output::Reserved { is_there }] => refused += u64::from(!is_there),
                ref other => panic!("{other:?}"),
            }
            if refused > 3 {
                break;
            }
            continue;
        }
        propose(&mut quorum, next);
        settle(&mut quorum, &mut disk).unwrap();
    }
    assert_eq!(refused, 4, "what was allocated ahead is used up");
    // What frees space is written into what is kept for it, and no further.
    let written = (0..2_000)
        .take_while(|next| {
            propose(&mut quorum, 10_000 + next);
            settle(&mut quorum, &mut disk).unwrap().iter().any(|output| matches!(output, Output::Committed { .. }))
        })
        .count();
    assert_eq!(written as u64, RESERVE_BYTES / BLOCK_BYTES as u64);
    assert!(quorum.next_deadline().is_some(), "it is tried again");
    disk.full = false;
    for tick in 0..=NO_SPACE_TICKS as u32 {
        quorum.tick(TICK * tick * 2);
    }
    let told = settle(&mut quorum, &mut disk).unwrap();
    assert!(matches!(told[..], [Output::Committed { .. }]), "{told:?}");
    assert_eq!(reopened(&mut disk).image(), quorum.image());
}

/// Decisions until the power goes; what was committed, and what may have been.
fn decide(disk: &mut Disk, seed: u64) -> (ClusterImage, ClusterImage) {
    let mut random = Random::new(seed);
    let founding = Founding::new(CLUSTER, vec![member(1)]).snapshot();
    let nothing = ClusterImage::new();
    let Ok(quorum) = create(&mut |op| disk.run(op), member(1).id, FileId([1; 16]), founding, seed) else {
        return (nothing.clone(), nothing);
    };
    let mut quorum = quorum.with_log_bytes_max(6 * BLOCK_BYTES as u64);
    quorum.campaign();
    let mut maybe = quorum.image().clone();
    let mut next = 1;
    for _ in 0..40 {
        if settle(&mut quorum, disk).is_err() {
            break;
        }
        for _ in 0..=random.below(3) {
            let records: Vec<MetadataRecord> = (0..=random.below(2))
                .map(|_| {
                    next += 1;
                    MetadataRecord::Config {
                        owner: crate::record::ConfigOwner::Cluster,
                        name: format!("name{}", random.below(5)),
                        value: Some("x".repeat(random.index(6_000))),
                    }
                })
                .collect();
            quorum.propose(maybe.offset() + 1, &records).expect("it leads");
            records.iter().for_each(|record| maybe.replay(record));
        }
    }
    (quorum.image().clone(), maybe)
}

#[test]
fn a_crash_within_any_operation_keeps_what_was_committed() {
    let mut snapshots = 0;
    for seed in 0..4 {
        let mut whole = Disk::new();
        let (last, _) = decide(&mut whole, seed);
        assert_eq!(reopened(&mut whole).image(), &last);
        for crash in 0..whole.changes {
            let torn = Random::new(seed << 32 | crash);
            let mut disk = Disk { until_crash: Some(crash), torn, ..Disk::new() };
            let (committed, maybe) = decide(&mut disk, seed);
            assert!(disk.crashed);
            let files = disk.restarted().files;
            // The restart may crash as well, within each of its own operations.
            for restart in 0.. {
                let torn = Random::new(crash << 8 | restart);
                let mut disk = Disk { files: files.clone(), until_crash: Some(restart), torn, ..Disk::new() };
                let opened = open(&mut |op| disk.run(op), member(1).id, 3);
                let is_whole = !disk.crashed;
                let opened = if is_whole {
                    opened
                } else {
                    disk = disk.restarted();
                    open(&mut |op| disk.run(op), member(1).id, 3)
                };
                let opened = opened.unwrap_or_else(|why| panic!("seed {seed} crash {crash} {restart}: {why}"));
                let Some(quorum) = opened else {
                    assert_eq!(committed.offset(), 0, "seed {seed} crash {crash}");
                    break;
                };
                let found = quorum.image().offset();
                assert!(
                    committed.offset() <= found && found <= maybe.offset().max(1),
                    "seed {seed} crash {crash}: {found} found, {} committed, {} proposed",
                    committed.offset(),
                    maybe.offset()
                );
                if found == committed.offset() {
                    assert_eq!(quorum.image(), &committed);
                }
                if is_whole {
                    snapshots += usize::from(quorum.file_index() > 1);
                    // Nothing is left lying about: no file of before, no rest of a torn write.
                    assert!(disk.files.len() <= 2, "{:?}", disk.files.keys());
                    for (path, bytes) in disk.files.iter().filter(|(path, _)| path.ends_with(".log")) {
                        let end = scan(path, bytes).unwrap().valid_bytes as usize;
                        assert!(bytes[end..].iter().all(|byte| *byte == 0));
                    }
                    break;
                }
            }
        }
    }
    assert!(snapshots > 100, "{snapshots} restarts with a snapshot");
}

impl Quorum {
    /// The index of the snapshot that its log file belongs to.
    fn file_index(&self) -> u64 {
        self.file.snapshot_index()
    }
}

#[test]
fn missing_and_old_files_are_refused_and_named() {
    let mut whole = Disk::new();
    let mut quorum = alone(&mut whole).with_log_bytes_max(6 * BLOCK_BYTES as u64);
    while quorum.file_index() == 1 {
        let next = quorum.image().next_producer_id() + 1;
        propose(&mut quorum, next);
        settle(&mut quorum, &mut whole).unwrap();
    }
    propose(&mut quorum, 1 << 20);
    settle(&mut quorum, &mut whole).unwrap();
    let log = whole.files.keys().find(|name| name.ends_with(".log")).unwrap();
    let refused = |files: BTreeMap<String, Vec<u8>>| {
        let mut disk = Disk { files, ..Disk::new() };
        let before = disk.files.clone();
        let opened = open(&mut |op| disk.run(op), member(1).id, 1).map(|opened| opened.is_some());
        assert_eq!(disk.files, before, "nothing is changed");
        match opened {
            Err(OpenError::Corrupt(Corrupt { path, .. })) => path,
            other => panic!("{other:?}"),
        }
    };
    let mut without = whole.files.clone();
    without.remove(log);
    assert_eq!(refused(without.clone()), *log);

    // The snapshot of another day, with the log that belonged to it: the newer log's entries would be lost.
    let mut old = Disk::new();
    drop(founded(&mut old, &[1], 1));
    let mut mixed = whole.files.clone();
    mixed.extend(old.files);
    assert_eq!(refused(mixed), SNAPSHOT);

    // A log under another name.
    let mut renamed = without;
    renamed.insert(
        disk::log_path(quorum.file_index()).to_string(),
        encode_header(&Header { file_id: FileId([1; 16]), snapshot_index: 3, base: Position { index: 3, term: 1 } })
            .to_vec(),
    );
    assert_eq!(refused(renamed), *log);
}

#[test]
fn a_snapshot_for_which_there_is_no_room_is_tried_again_later() {
    let mut disk = Disk::new();
    let mut quorum = alone(&mut disk).with_log_bytes_max(40 * BLOCK_BYTES as u64);
    let mut attempts = 0;
    for next in 1..100 {
        propose(&mut quorum, next);
        let mut outputs = VecDeque::from(quorum.outputs());
        while let Some(output) = outputs.pop_front() {
            if let Output::Disk(op) = output {
                let is_snapshot = matches!(op, DiskOp::Replace { .. });
                attempts += usize::from(is_snapshot);
                quorum.disk(if is_snapshot { Err(DiskError::NoSpace) } else { disk.run(op) });
                outputs.extend(quorum.outputs());
            }
        }
    }
    assert_eq!(attempts, 6, "one whenever the log has grown by more than a quarter of its bound");
    assert_eq!(reopened(&mut disk).image(), quorum.image());
}

/// Three members on disks that work.
struct Three {
    disks: [Disk; 3],
    members: [Quorum; 3],
    /// What was said and has not arrived: from whom, to whom.
    said: Vec<(usize, usize, Bytes)>,
    /// What the members have told otherwise.
    told: Vec<(usize, Output)>,
}

impl Three {
    /// The first leads, and all know it.
    fn new() -> Three {
        let mut disks = [1, 2, 3].map(|_| Disk::new());
        let members = [0, 1, 2].map(|at| founded(&mut disks[at], &[1, 2, 3], at as u8 + 1));
        let mut three = Three { disks, members, said: Vec::new(), told: Vec::new() };
        three.members[0].campaign();
        three.settle(|_, _| true);
        assert!(three.members[0].leads());
        three
    }

    fn outputs(&mut self, at: usize) {
        for output in settle(&mut self.members[at], &mut self.disks[at]).expect("the disk works") {
            match output {
                Output::Send { to, message } => {
                    let to = self.members.iter().position(|member| member.me() == to).expect("one of three");
                    self.said.push((at, to, message));
                }
                other => self.told.push((at, other)),
            }
        }
    }

    /// Lets arrive what is said from whom to whom it may, until nothing more is; the rest stays on its way.
    fn settle(&mut self, may: impl Fn(usize, usize) -> bool) {
        (0..3).for_each(|at| self.outputs(at));
        while let Some(next) = self.said.iter().position(|(from, to, _)| may(*from, *to)) {
            let (from, to, message) = self.said.remove(next);
            let from = self.members[from].me();
            self.members[to].step(from, &message).expect("what a member says is taken");
            self.outputs(to);
        }
    }

    fn was_confirmed(&mut self, number: u64) -> bool {
        std::mem::take(&mut self.told).contains(&(0, Output::Confirmed { number }))
    }
}

#[test]
fn a_leader_is_confirmed_by_most_voters_and_not_where_another_one_leads() {
    let mut three = Three::new();
    let number = three.members[0].confirm().expect("it leads");
    assert_eq!(three.members[0].confirm(), Err(NotProposed::Busy));
    three.settle(|_, _| false);
    assert!(!three.was_confirmed(number), "nobody was asked yet");
    three.settle(|from, to| from != 2 && to != 2);
    assert!(three.was_confirmed(number), "two of three");

    // A question that was lost is asked again.
    let number = three.members[0].confirm().expect("it leads");
    three.settle(|_, _| false);
    three.said.clear();
    for tick in 1..=HEARTBEAT_TICKS as u32 {
        three.members[0].tick(TICK * tick);
    }
    three.settle(|_, _| true);
    assert!(three.was_confirmed(number));

    // Others elect one of them, and the first does not hear of it before it asks.
    for candidate in [1, 2] {
        three.members[candidate].campaign();
        three.settle(|from, to| from != 0 && to != 0);
    }
    assert!(three.members[2].leads() && three.members[0].leads());
    three.told.clear();
    let number = three.members[0].confirm().expect("it does not know that it does not");
    three.settle(|_, _| true);
    assert!(!three.was_confirmed(number));
    assert!(!three.members[0].leads());
    assert_eq!(three.members[0].confirm(), Err(NotProposed::NotLeader));
    assert_eq!(three.members[1].confirm(), Err(NotProposed::NotLeader));
}

#[test]
fn the_only_voter_is_confirmed_at_once() {
    let mut disk = Disk::new();
    let mut quorum = founded(&mut disk, &[1], 1);
    assert_eq!(quorum.confirm(), Err(NotProposed::NotLeader));
    quorum.campaign();
    settle(&mut quorum, &mut disk).expect("the disk works");
    for number in 1..3 {
        assert_eq!(quorum.confirm(), Ok(number));
        assert_eq!(quorum.outputs(), [Output::Confirmed { number }]);
    }
}
