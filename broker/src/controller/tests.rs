//! The controller, event by event: what it wants of the disk and in which order it speaks.

use std::collections::VecDeque;

use millstream_replication::METADATA_VERSIONS;
use millstream_replication::config::Properties;
use millstream_replication::controller::{NewTopic, TopicReference};
use millstream_replication::identity::{self, OpenedDirectory};
use millstream_replication::quorum::LOG_BYTES_MAX;
use millstream_storage::random::Random;
use millstream_storage::{BLOCK_BYTES, DiskError, DiskOp, DiskReply};

use super::*;
use crate::sim::disk::SimDisk;

const NODE_ID: i32 = 1;
/// That of the broker's registration: the second record of the log.
const EPOCH: i64 = 2;
const NOW: Now = Now { elapsed: Duration::ZERO, unix_ms: 1_700_000_000_000 };

/// The controller of a broker that is registered.
fn open(disk: &mut SimDisk, shards: usize, log_bytes_max: u64) -> ControllerNode {
    let random = std::array::from_fn(|at| at as u8);
    let opened = identity::open(&mut |op| disk.execute(op), NODE_ID, random).expect("the data directory opens");
    let OpenedDirectory { quorum, meta, .. } = opened;
    let is_new = quorum.image().broker(NODE_ID).is_none();
    let quorum = quorum.with_log_bytes_max(log_bytes_max);
    let options = ControllerOptions {
        node_id: NODE_ID,
        incarnation: [1; 16],
        directory_id: meta.directory_id,
        address: None,
        voters: Vec::new(),
        bootstrap_servers: Vec::new(),
        joins_voters: false,
        session_timeout: Duration::from_secs(3),
        heartbeat_interval: Duration::from_millis(500),
        imbalance_check_interval: None,
        shards,
        seed: 1,
    };
    let mut controller = ControllerNode::new(Controller::new(Properties::new()), quorum, options);
    // The only voter has elected itself, and writes so.
    assert_eq!(settle(&mut controller, Event::Tick, |op| disk.execute(op)), []);
    if is_new {
        for request in [register(), heartbeat()] {
            let told = settle(&mut controller, asked(0, request), |op| disk.execute(op));
            let Some(Effect::Publish { offset, .. }) = told.first() else { panic!("{told:?}") };
            (0..shards).for_each(|shard| drop(handle(&mut controller, Event::Applied { shard, offset: *offset })));
        }
        let broker = controller.image().broker(NODE_ID).expect("it is registered");
        assert_eq!((broker.epoch, broker.is_fenced), (EPOCH, false));
    }
    assert!(controller.is_idle());
    controller
}

fn empty(shards: usize) -> ControllerNode {
    open(&mut SimDisk::new(Random::new(1)), shards, LOG_BYTES_MAX)
}

fn handle(controller: &mut ControllerNode, event: Event) -> Vec<Effect> {
    let mut effects = Vec::new();
    controller.handle(NOW, event, &mut effects);
    effects
}

const PRODUCER_IDS: ControllerRequest = ControllerRequest::AllocateProducerIds { node_id: NODE_ID, epoch: EPOCH };

fn asked(token: u64, request: ControllerRequest) -> Event {
    Event::Asked { asker: Asker::Shard { shard: 0, token }, request, random_id: [token as u8; 16] }
}

fn create(name: &str, validate_only: bool) -> ControllerRequest {
    let topic = NewTopic {
        name: name.to_string(),
        partitions: 1,
        replication_factor: 1,
        assignments: Vec::new(),
        configs: Vec::new(),
    };
    ControllerRequest::CreateTopics { topics: vec![topic], validate_only }
}

fn delete(name: &str) -> ControllerRequest {
    ControllerRequest::DeleteTopics { topics: vec![TopicReference::Name(name.to_string())] }
}

fn register() -> ControllerRequest {
    ControllerRequest::RegisterBroker {
        node_id: NODE_ID,
        incarnation: [1; 16],
        directory_id: [2; 16],
        shards: 1,
        endpoints: Vec::new(),
        rack: None,
        metadata_versions: METADATA_VERSIONS,
    }
}

fn heartbeat() -> ControllerRequest {
    ControllerRequest::BrokerHeartbeat {
        node_id: NODE_ID,
        epoch: EPOCH,
        applied_offset: EPOCH as u64,
        want_fence: false,
        want_shutdown: false,
    }
}

/// The only effect, which is a disk operation.
fn only_disk(effects: Vec<Effect>) -> (DiskToken, DiskOp) {
    match <[Effect; 1]>::try_from(effects) {
        Ok([Effect::Disk { token, op }]) => (token, op),
        other => panic!("one disk operation is wanted: {other:?}"),
    }
}

fn done(token: DiskToken) -> Event {
    Event::Disk { token, result: Ok(DiskReply::Done) }
}

/// Executes what is wanted of the disk until nothing is under way; the other effects.
fn settle(controller: &mut ControllerNode, event: Event, mut disk: impl FnMut(DiskOp) -> DiskResult) -> Vec<Effect> {
    let mut events = VecDeque::from([event]);
    let mut others = Vec::new();
    while let Some(event) = events.pop_front() {
        for effect in handle(controller, event) {
            match effect {
                Effect::Disk { token, op } => events.push_back(Event::Disk { token, result: disk(op) }),
                other => others.push(other),
            }
        }
    }
    others
}

type DiskResult = Result<DiskReply, DiskError>;

fn keeps_nothing(_: DiskOp) -> DiskResult {
    Ok(DiskReply::Done)
}

#[test]
fn an_answer_waits_until_every_shard_has_applied_it() {
    let mut controller = empty(2);
    let first = controller.image().offset();
    let asker = Asker::Shard { shard: 1, token: 5 };
    let asked = Event::Asked { asker, request: PRODUCER_IDS, random_id: [0; 16] };
    let published = settle(&mut controller, asked, keeps_nothing);
    assert!(matches!(&published[..], [Effect::Publish { offset, records, .. }]
        if *offset == first + 1 && records.len() == 1));
    assert_eq!(handle(&mut controller, Event::Applied { shard: 0, offset: first + 1 }), []);
    let answered = handle(&mut controller, Event::Applied { shard: 1, offset: first + 1 });
    assert!(
        matches!(&answered[..], [Effect::Answer { asker: to, response: ControllerResponse::AllocateProducerIds(Ok(_)) }]
        if *to == asker)
    );
}

#[test]
fn nobody_is_told_of_a_decision_before_it_is_durable() {
    let mut controller = empty(1);
    let before = controller.image().clone();
    let (write, op) = only_disk(handle(&mut controller, asked(0, PRODUCER_IDS)));
    assert!(matches!(op, DiskOp::Write { durable: true, .. }), "{op:?}");
    assert_eq!(*controller.image(), before, "what is not durable is not true");
    let told = handle(&mut controller, done(write));
    assert!(matches!(&told[..], [Effect::Publish { .. }]), "{told:?}");
    assert_eq!(controller.image().offset(), before.offset() + 1);
}

#[test]
fn decisions_that_come_during_a_write_build_on_each_other_and_are_one_write() {
    let mut controller = empty(1);
    let first = controller.image().offset();
    let (write, _) = only_disk(handle(&mut controller, asked(0, PRODUCER_IDS)));
    for token in 1..=3 {
        assert_eq!(handle(&mut controller, asked(token, PRODUCER_IDS)), [], "one write at a time");
    }
    // What nothing has to be written for waits for those before it, too.
    assert_eq!(handle(&mut controller, asked(4, create("t", true))), []);
    let effects = handle(&mut controller, done(write));
    let [Effect::Publish { .. }, Effect::Disk { token, .. }] = effects[..] else { panic!("{effects:?}") };
    let published = handle(&mut controller, done(token));
    assert_eq!(published.len(), 3, "{published:?}");
    let answers = handle(&mut controller, Event::Applied { shard: 0, offset: first + 4 });
    let blocks: Vec<_> = answers
        .iter()
        .filter_map(|answer| match answer {
            Effect::Answer { response: ControllerResponse::AllocateProducerIds(Ok((first, _))), .. } => Some(*first),
            _ => None,
        })
        .collect();
    assert_eq!((answers.len(), blocks), (5, vec![0, 1000, 2000, 3000]));
    assert!(controller.is_idle());
}

#[test]
fn a_full_disk_refuses_what_frees_no_space_and_says_so_once() {
    let mut controller = empty(0);
    settle(&mut controller, asked(1, create("t", false)), keeps_nothing);
    let full = |op: DiskOp| match op {
        DiskOp::Allocate { .. } => Err(DiskError::NoSpace),
        _ => Ok(DiskReply::Done),
    };
    // What was allocated ahead is used first.
    let is_refused = |effects: &[Effect]| matches!(effects[0], Effect::Warn { .. });
    let decisions = (0..).take_while(|_| !is_refused(&settle(&mut controller, asked(2, PRODUCER_IDS), full))).count();
    assert!((1..1_000).contains(&decisions), "{decisions}");
    let offset = controller.image().offset();
    for token in [3, 4] {
        let effects = settle(&mut controller, asked(token, create("u", false)), full);
        let [Effect::Answer { response: ControllerResponse::CreateTopics(topics), .. }] = &effects[..] else {
            panic!("{effects:?}");
        };
        assert_eq!(topics[0].1.as_ref().map_err(|error| error.code), Err(ErrorCode::KafkaStorageError));
    }
    assert_eq!(controller.image().offset(), offset, "nothing was done");
    let effects = settle(&mut controller, asked(5, delete("t")), full);
    assert!(matches!(&effects[..], [Effect::Publish { .. }, Effect::Answer { .. }]), "a way out: {effects:?}");
    assert!(controller.image().topic("t").is_none());
    // It was room enough for that: the next lack of it is told again.
    assert!(is_refused(&settle(&mut controller, asked(6, create("u", false)), full)));
    settle(&mut controller, asked(7, create("u", false)), keeps_nothing);
    assert!(controller.image().topic("u").is_some());
}

#[test]
fn after_a_failed_write_nothing_is_answered() {
    let mut controller = empty(0);
    let effects = settle(&mut controller, asked(0, PRODUCER_IDS), |op| match op {
        DiskOp::Write { .. } => Err(DiskError::Failed("broken".to_string())),
        _ => Ok(DiskReply::Done),
    });
    assert_eq!(effects, [Effect::Fail { reason: "the metadata cannot be written: broken".to_string() }]);
    assert_eq!(handle(&mut controller, asked(1, create("t", true))), []);
    assert_eq!(handle(&mut controller, Event::Tick), []);
}

#[test]
fn more_requests_than_can_be_held_are_refused() {
    let mut controller = empty(1);
    let (write, _) = only_disk(handle(&mut controller, asked(0, PRODUCER_IDS)));
    for token in 1..REQUESTS_HELD_MAX as u64 {
        assert_eq!(handle(&mut controller, asked(token, PRODUCER_IDS)), []);
    }
    let effects = handle(&mut controller, asked(u64::MAX, PRODUCER_IDS));
    let [Effect::Answer { asker: Asker::Shard { token: u64::MAX, .. }, response }] = &effects[..] else {
        panic!("{effects:?}");
    };
    let ControllerResponse::AllocateProducerIds(Err(error)) = response else { panic!("{response:?}") };
    assert_eq!(error.code, ErrorCode::RequestTimedOut);
    assert!(!handle(&mut controller, done(write)).is_empty(), "it goes on");
}

#[test]
fn a_snapshot_that_finds_no_room_is_not_taken() {
    for refused in [".log", "/snapshot"] {
        let mut disk = SimDisk::new(Random::new(1));
        let mut controller = open(&mut disk, 0, 2 * BLOCK_BYTES as u64);
        let mut replaced = Vec::new();
        let mut execute = |op: DiskOp| {
            if let DiskOp::Replace { path, .. } = &op {
                replaced.push(path.to_string());
                if path.ends_with(refused) {
                    return Err(DiskError::NoSpace);
                }
            }
            disk.execute(op)
        };
        for token in 0..8 {
            let effects = settle(&mut controller, asked(token, PRODUCER_IDS), &mut execute);
            assert!(matches!(&effects[..], [Effect::Publish { .. }, Effect::Answer { .. }]), "{effects:?}");
        }
        assert!(replaced.iter().any(|path| path.ends_with(refused)), "{replaced:?}");
        assert!(replaced.len() > 2, "it is tried again when the log has grown: {replaced:?}");
        let image = controller.image().clone();
        assert_eq!(*open(&mut disk, 0, LOG_BYTES_MAX).image(), image);
    }
}

/// Decisions, and the snapshots that follow from them, until the power goes: during the operation after so many.
fn decide(disk: &mut SimDisk, operations: u64) -> (ControllerNode, usize) {
    let mut controller = open(disk, 0, 2 * BLOCK_BYTES as u64);
    disk.cut_power_after(operations);
    let mut snapshots = 0;
    for token in 0..6 {
        settle(&mut controller, asked(token, PRODUCER_IDS), |op| {
            snapshots += usize::from(matches!(&op, DiskOp::Replace { path, .. } if path.ends_with("snapshot")));
            disk.execute(op)
        });
    }
    (controller, snapshots)
}

#[test]
fn a_crash_within_any_operation_of_a_snapshot_keeps_what_was_published() {
    let mut begun = SimDisk::new(Random::new(0));
    drop(open(&mut begun, 0, LOG_BYTES_MAX));
    let (_, snapshots) = decide(&mut begun.clone(), u64::MAX);
    assert!(snapshots > 1, "{snapshots}");
    let mut crashes = 0;
    for is_power in [true, false] {
        for operations in 0.. {
            let mut disk = begun.clone();
            let (controller, _) = decide(&mut disk, operations);
            if !disk.is_out_of_power() {
                break;
            }
            crashes += 1;
            disk.go_down(is_power);
            let published = controller.image().offset();
            let again = open(&mut disk, 0, LOG_BYTES_MAX);
            let found = again.image().offset();
            assert!(found == published || found == published + 1, "{published} published, {found} found");
            assert!(again.image().next_producer_id() >= controller.image().next_producer_id());
        }
    }
    assert!(crashes > 20, "{crashes}");
}

/// Whoever is silent is fenced once, and not before that can be decided: a controller that cannot do it yet neither wants to be
/// called again at once nor does more each time that it is.
#[test]
fn a_silent_broker_is_fenced_once_when_that_can_be_decided() {
    let mut controller = empty(0);
    let register = ControllerRequest::RegisterBroker {
        node_id: 2,
        incarnation: [5; 16],
        directory_id: [6; 16],
        shards: 1,
        endpoints: Vec::new(),
        rack: None,
        metadata_versions: METADATA_VERSIONS,
    };
    settle(&mut controller, asked(0, register), keeps_nothing);
    let epoch = controller.image().broker(2).expect("it is registered").epoch;
    let heartbeat = ControllerRequest::BrokerHeartbeat {
        node_id: 2,
        epoch,
        applied_offset: epoch as u64,
        want_fence: false,
        want_shutdown: false,
    };
    settle(&mut controller, asked(1, heartbeat), keeps_nothing);
    assert!(controller.image().broker(2).is_some_and(|broker| !broker.is_fenced));

    let (write, _) = only_disk(handle(&mut controller, asked(2, PRODUCER_IDS)));
    for token in 0..PROPOSED_MAX as u64 {
        assert_eq!(handle(&mut controller, asked(3 + token, PRODUCER_IDS)), []);
    }
    let late = Now { elapsed: Duration::from_secs(4), ..NOW };
    let mut effects = Vec::new();
    for _ in 0..3 {
        controller.handle(late, Event::Tick, &mut effects);
    }
    assert_eq!((effects.len(), controller.next_deadline()), (0, None), "{effects:?}");

    settle(&mut controller, done(write), keeps_nothing);
    assert!(controller.next_deadline().is_some_and(|at| at <= late.elapsed), "now it can");
    for _ in 0..3 {
        controller.handle(late, Event::Tick, &mut effects);
    }
    let [Effect::Warn { .. }, Effect::Disk { token, .. }] = effects[..] else { panic!("{effects:?}") };
    settle(&mut controller, done(token), keeps_nothing);
    assert!(controller.image().broker(2).is_some_and(|broker| broker.is_fenced));
    assert_eq!(controller.next_deadline(), None);
}

#[test]
fn what_another_node_has_decided_and_does_not_come_here_is_answered_in_time() {
    let mut controller = empty(1);
    let behind = controller.image().offset() + 1;
    let (mut effects, response) = (Vec::new(), ControllerResponse::FenceBroker(Ok(())));
    controller.give(Asker::Node { token: 1 }, behind, response.clone(), &mut effects);
    controller.give(Asker::Node { token: 2 }, behind - 1, response.clone(), &mut effects);
    assert_eq!((effects.len(), controller.standing().held), (0, 2));
    let told = handle(&mut controller, Event::Tick);
    assert_eq!(told, [Effect::Answer { asker: Asker::Node { token: 2 }, response }]);

    let late = Now { elapsed: forwarding::REQUEST_MAX, ..NOW };
    controller.handle(late, Event::Tick, &mut effects);
    let [Effect::Answer { asker: Asker::Node { token: 1 }, response }] = &effects[..] else { panic!("{effects:?}") };
    let ControllerResponse::FenceBroker(Err(error)) = response else { panic!("{response:?}") };
    assert_eq!(error.code, ErrorCode::RequestTimedOut);
    assert_eq!((controller.standing().held, controller.answers.next_deadline()), (0, None));
}

#[test]
fn what_others_say_wrong_is_said_now_and_then() {
    let mut controller = empty(1);
    let mut effects = Vec::new();
    for second in 0..25 {
        controller.now.elapsed = Duration::from_secs(second);
        controller.warn_of_peer(format!("at {second}"), &mut effects);
    }
    let said: Vec<&str> = effects
        .iter()
        .filter_map(|effect| if let Effect::Warn { message } = effect { Some(&message[..]) } else { None })
        .collect();
    assert_eq!(said, ["at 0", "at 10 (9 more like it before)", "at 20 (9 more like it before)"]);
}

/// Gives a frame to the controller as a client's at its listener.
fn client_says(controller: &mut ControllerNode, link: u64, frame: Vec<u8>) -> Vec<Effect> {
    let event = links::Event::Received { link: LinkId(link), bytes: Bytes::from(frame) };
    handle(controller, Event::Link(event))
}

/// A request without a body that says anything, in the flexible header.
fn request(key: i16, version: i16, correlation_id: i32, body: &[u8]) -> Vec<u8> {
    let mut frame = [key.to_be_bytes(), version.to_be_bytes()].concat();
    frame.extend(correlation_id.to_be_bytes());
    // A client id of no bytes, no tagged fields.
    frame.extend([0, 0, 0]);
    frame.extend(body);
    frame
}

/// The correlation ids of what was sent to clients, and those who were closed.
fn answers(effects: &[Effect]) -> (Vec<i32>, Vec<LinkId>) {
    let (mut answered, mut closed) = (Vec::new(), Vec::new());
    for effect in effects {
        match effect {
            Effect::Link(links::Effect::Send { bytes, .. }) => {
                answered.push(i32::from_be_bytes(bytes[4..8].try_into().expect("a header")));
            }
            Effect::Link(links::Effect::Close { link }) => closed.push(*link),
            _ => {}
        }
    }
    (answered, closed)
}

#[test]
fn clients_of_controllers_are_answered_in_order() {
    const DESCRIBE_CLUSTER: i16 = 60;
    const DESCRIBE_QUORUM: i16 = 55;
    const UNREGISTER_BROKER: i16 = 64;
    const METADATA: i16 = 3;
    let mut disk = SimDisk::new(Random::new(1));
    let mut controller = open(&mut disk, 1, LOG_BYTES_MAX);
    for link in 0..4 {
        handle(&mut controller, Event::Link(links::Event::Accepted { link: LinkId(link) }));
    }
    // Controllers are asked for, and described.
    let described = client_says(&mut controller, 0, request(DESCRIBE_CLUSTER, 1, 7, &[0, 2, 0]));
    assert_eq!(answers(&described), (vec![7], vec![]));
    let quorum = client_says(&mut controller, 0, request(DESCRIBE_QUORUM, 0, 8, &[1, 0]));
    assert_eq!(answers(&quorum), (vec![8], vec![]));
    // What has to be decided is waited for, and what comes behind it waits.
    let unregister = client_says(&mut controller, 1, request(UNREGISTER_BROKER, 0, 9, &[0, 0, 0, 77, 0]));
    let behind = client_says(&mut controller, 1, request(DESCRIBE_CLUSTER, 1, 10, &[0, 2, 0]));
    assert_eq!(
        (answers(&unregister), answers(&behind)),
        ((vec![9], vec![]), (vec![10], vec![])),
        "there is no such broker"
    );
    // Its own broker: that is written first.
    let [Effect::Disk { token, op }] =
        &client_says(&mut controller, 1, request(UNREGISTER_BROKER, 0, 11, &[0, 0, 0, 1, 0]))[..]
    else {
        panic!("it is written")
    };
    let behind = client_says(&mut controller, 1, request(DESCRIBE_CLUSTER, 1, 12, &[0, 2, 0]));
    assert_eq!(answers(&behind), (vec![], vec![]));
    let result = disk.execute(op.clone());
    let written = handle(&mut controller, Event::Disk { token: *token, result });
    let offset = controller.image().offset();
    let applied = handle(&mut controller, Event::Applied { shard: 0, offset });
    let all = [written, applied].concat();
    assert_eq!(answers(&all), (vec![11, 12], vec![]));
    // Several that ask the controller, at once.
    let twice = [request(DESCRIBE_QUORUM, 0, 20, &[1, 0]), request(DESCRIBE_QUORUM, 0, 21, &[1, 0])];
    let mut both = Vec::new();
    twice.into_iter().for_each(|frame| controller.client_sent(NOW, LinkId(0), frame.into(), &mut both));
    both.extend(handle(&mut controller, Event::Tick));
    assert_eq!(answers(&both), (vec![20, 21], vec![]));
    // What is a broker's matter, what cannot be read, and more than can wait.
    let closed = client_says(&mut controller, 2, request(METADATA, 12, 13, &[]));
    assert_eq!(answers(&closed), (vec![], vec![LinkId(2)]));
    let closed = client_says(&mut controller, 3, request(DESCRIBE_QUORUM, 99, 14, &[]));
    assert_eq!(answers(&closed), (vec![], vec![LinkId(3)]));
}
