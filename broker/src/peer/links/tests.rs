//! Nodes against each other over a network that is a queue: connections that break, dials that are refused, processes that
//! end and come back, machines that fall silent.

use std::collections::{BTreeMap, BTreeSet};

use bytes::BytesMut;

use super::*;
use crate::peer::frame::{FRAME_BYTES_MAX, PIECE_BYTES_MAX, cut};

const LATENCY: Duration = Duration::from_micros(100);
const PORT: u16 = 9093;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn identity(node_id: i32, incarnation: u8) -> Identity {
    Identity {
        cluster_id: Some([9; 16]),
        node_id,
        directory_id: [node_id as u8; 16],
        incarnation: [incarnation; 16],
        address: Some((host(node_id), PORT)),
        is_forming: false,
    }
}

fn host(node_id: i32) -> String {
    format!("host{node_id}")
}

fn peers(node_ids: &[i32]) -> Vec<(Option<i32>, String, u16)> {
    node_ids.iter().map(|node_id| (Some(*node_id), host(*node_id), PORT)).collect()
}

/// A process, by the number of its host.
struct Node {
    links: Links,
    told: Vec<Told>,
    accepted: u64,
}

/// What the network does, later.
#[derive(Debug)]
enum Later {
    Happens { at: i32, event: Event },
    Arrives { from: (i32, LinkId), bytes: Bytes },
    Connects { from: (i32, LinkId), to: i32 },
    HangsUp { from: (i32, LinkId) },
}

#[derive(Default)]
struct World {
    now: Duration,
    nodes: BTreeMap<i32, Node>,
    queue: BTreeMap<(Duration, u64), Later>,
    queued: u64,
    /// Both directions of each.
    connections: BTreeMap<(i32, LinkId), (i32, LinkId)>,
    /// Hosts that neither send nor receive: nobody hears that.
    silent: BTreeSet<i32>,
    /// Hosts whose connections are closed by nobody when their process ends: the kernel is not done yet.
    lingering: BTreeSet<i32>,
    dials: Vec<(Duration, i32, String)>,
    seed: u64,
}

impl World {
    fn start(&mut self, identity: Identity, to: &[(Option<i32>, String, u16)]) {
        self.seed += 1;
        let node_id = identity.node_id;
        let mut links = Links::new(identity, self.seed);
        links.set_peers(self.now, to);
        self.nodes.insert(node_id, Node { links, told: Vec::new(), accepted: 0 });
        self.later(Duration::ZERO, Later::Happens { at: node_id, event: Event::Tick });
    }

    fn of(node_ids: &[i32]) -> World {
        let mut world = World::default();
        for node_id in node_ids {
            world.start(identity(*node_id, *node_id as u8), &peers(node_ids));
        }
        world.run(ms(100));
        world
    }

    fn later(&mut self, after: Duration, later: Later) {
        self.queue.insert((self.now + after, self.queued), later);
        self.queued += 1;
    }

    fn links(&mut self, node_id: i32) -> &mut Links {
        &mut self.nodes.get_mut(&node_id).expect("it runs").links
    }

    /// What it was told but of who has connected.
    fn told(&mut self, node_id: i32) -> Vec<Told> {
        let mut told = mem::take(&mut self.nodes.get_mut(&node_id).expect("it runs").told);
        told.retain(|told| !matches!(told, Told::Called { .. }));
        told
    }

    fn happens(&mut self, at: i32, event: Event) {
        let Some(node) = self.nodes.get_mut(&at) else { return };
        let mut effects = Vec::new();
        node.links.handle(self.now, event, &mut effects, &mut node.told);
        self.execute(at, effects);
    }

    fn execute(&mut self, at: i32, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Dial { link, host, port } => {
                    assert_eq!(port, PORT);
                    self.dials.push((self.now, at, host.clone()));
                    let to = host.strip_prefix("host").expect("a name").parse().expect("a number");
                    self.later(LATENCY, Later::Connects { from: (at, link), to });
                }
                Effect::Send { link, bytes } => self.later(LATENCY, Later::Arrives { from: (at, link), bytes }),
                Effect::Close { link } => self.later(LATENCY, Later::HangsUp { from: (at, link) }),
            }
        }
    }

    fn cut_off(&self, one: i32, other: i32) -> bool {
        self.silent.contains(&one) || self.silent.contains(&other)
    }

    fn comes(&mut self, later: Later) {
        match later {
            Later::Happens { at, event } => self.happens(at, event),
            Later::Connects { from: (node, link), to } if self.cut_off(node, to) => {
                let event = Event::Dialed { link, result: Err(DialError::Failed) };
                self.later(ms(1000), Later::Happens { at: node, event });
            }
            Later::Connects { from: (node, link), to } => {
                let result = match self.nodes.get_mut(&to) {
                    None if self.lingering.contains(&to) => {
                        // Taken, and ended with the process.
                        self.later(LATENCY, Later::Happens { at: node, event: Event::Closed { link } });
                        Ok(())
                    }
                    None => Err(DialError::Refused),
                    Some(other) => {
                        other.accepted += 1;
                        let accepted = LinkId(other.accepted);
                        self.connections.insert((node, link), (to, accepted));
                        self.connections.insert((to, accepted), (node, link));
                        self.happens(to, Event::Accepted { link: accepted });
                        Ok(())
                    }
                };
                self.happens(node, Event::Dialed { link, result });
            }
            Later::Arrives { from, bytes } => {
                let Some(&(to, link)) = self.connections.get(&from) else { return };
                if self.cut_off(from.0, to) {
                    return;
                }
                let mut bytes = BytesMut::from(&bytes[..]);
                while let Some(bytes) = cut(&mut bytes, FRAME_BYTES_MAX).expect("frames") {
                    if self.connections.contains_key(&from) {
                        self.happens(to, Event::Received { link, bytes });
                    }
                }
                assert!(bytes.is_empty());
            }
            Later::HangsUp { from } => {
                let Some((to, link)) = self.connections.remove(&from) else { return };
                self.connections.remove(&(to, link));
                if !self.cut_off(from.0, to) {
                    self.happens(to, Event::Closed { link });
                }
            }
        }
    }

    /// Runs for so long.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let due = self.nodes.iter().filter_map(|(id, node)| Some((node.links.next_deadline()?, *id))).min();
            let next = self.queue.first_key_value().map(|(key, _)| *key);
            match (next, due) {
                (Some(key), due) if key.0 <= end && due.is_none_or(|(at, _)| key.0 <= at) => {
                    self.now = self.now.max(key.0);
                    let later = self.queue.remove(&key).expect("it is there");
                    self.comes(later);
                }
                (_, Some((at, node_id))) if at <= end => {
                    self.now = self.now.max(at);
                    self.happens(node_id, Event::Tick);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// The process ends as the kernel ends one: all its connections are closed.
    fn kill(&mut self, node_id: i32) {
        self.nodes.remove(&node_id).expect("it runs");
        let own: Vec<_> = self.connections.keys().filter(|(node, _)| *node == node_id).copied().collect();
        for from in own {
            self.later(LATENCY, Later::HangsUp { from });
        }
    }

    /// All connections between two nodes break, and both hear of it.
    fn break_connections(&mut self, one: i32, other: i32) {
        let pairs: Vec<_> = self.connections.iter().map(|(from, to)| (*from, *to)).collect();
        for (from, to) in pairs {
            if (from.0, to.0) == (one, other) {
                self.connections.remove(&from);
                self.connections.remove(&to);
                self.later(LATENCY, Later::Happens { at: from.0, event: Event::Closed { link: from.1 } });
                self.later(LATENCY, Later::Happens { at: to.0, event: Event::Closed { link: to.1 } });
            }
        }
    }

    /// Has a node say something to another one.
    fn says(&mut self, node_id: i32, say: impl FnOnce(&mut Links, &mut Vec<Effect>) -> bool) -> bool {
        let mut effects = Vec::new();
        let is_sent = say(self.links(node_id), &mut effects);
        self.execute(node_id, effects);
        is_sent
    }
}

fn ups(told: &[Told]) -> Vec<(i32, u8)> {
    let up = |told: &Told| match told {
        Told::Up { peer } => Some((peer.node_id, peer.incarnation[0])),
        _ => None,
    };
    told.iter().filter_map(up).collect()
}

fn down(node_id: i32, is_refused: bool) -> Told {
    Told::Down { node_id, is_refused }
}

#[test]
fn three_nodes_find_each_other_and_stay_quiet() {
    let mut world = World::of(&[1, 2, 3]);
    for node_id in [1, 2, 3] {
        let told = world.told(node_id);
        let mut found = ups(&told);
        found.sort_unstable();
        let others: Vec<_> = [1, 2, 3].into_iter().filter(|other| *other != node_id).map(|id| (id, id as u8)).collect();
        assert_eq!(found, others);
        // Whoever was started first was refused before.
        assert!(told.iter().all(|told| matches!(told, Told::Up { .. } | Told::Down { is_refused: true, .. })));
        assert_eq!(world.links(node_id).peers().count(), 2);
    }
    let dials = world.dials.len();
    world.run(ms(60_000));
    assert_eq!(world.dials.len(), dials, "nothing is lost");
    for node_id in [1, 2, 3] {
        assert_eq!(world.told(node_id), []);
    }
}

#[test]
fn what_is_said_arrives_in_order_whatever_its_length() {
    let mut world = World::of(&[1, 2]);
    world.told(2);
    let long: Bytes = (0..3 * PIECE_BYTES_MAX + 7).map(|at| (at / 13) as u8).collect();
    let short = Bytes::from_static(b"short");
    assert!(world.says(1, |links, effects| links.raft([2; 16], long.clone(), effects)));
    assert!(world.says(1, |links, effects| links.raft([2; 16], Bytes::new(), effects)));
    assert!(world.says(1, |links, effects| links.request(2, 77, short.clone(), effects)));
    assert!(world.says(1, |links, effects| links.adopt([2; 16], long.clone(), effects)));
    assert!(!world.says(1, |links, effects| links.raft([3; 16], short.clone(), effects)), "another directory");
    assert!(!world.says(1, |links, effects| links.request(3, 1, short.clone(), effects)));
    world.run(ms(10));
    let told = world.told(2);
    let [
        Told::Raft { from, bytes: first },
        Told::Raft { bytes: second, .. },
        Told::Request { link, id: 77, request, .. },
        Told::Adopt { bytes: snapshot, .. },
    ] = &told[..]
    else {
        panic!("{told:?}")
    };
    assert_eq!((from.node_id, from.directory_id, &from.address), (1, [1; 16], &Some((host(1), PORT))));
    assert_eq!((first, second.len(), request, snapshot), (&long, 0, &short, &long));

    let mut effects = Vec::new();
    let links = world.links(2);
    links.respond(*link, 77, 5, long.clone(), &mut effects);
    links.not_controller(*link, 78, 3, &mut effects);
    links.respond(LinkId(999), 79, 5, short, &mut effects);
    world.execute(2, effects);
    world.told(1);
    world.run(ms(10));
    let told = world.told(1);
    let [Told::Response { from, id: 77, offset: 5, response }, Told::NotController { id: 78, leader: 3, .. }] =
        &told[..]
    else {
        panic!("{told:?}")
    };
    assert_eq!((from.node_id, response), (2, &long));
}

#[test]
fn a_process_that_ended_is_told_from_a_connection_that_was_lost() {
    let mut world = World::of(&[1, 2]);
    world.told(1);
    world.run(ms(5000));
    let now = world.now;
    world.break_connections(1, 2);
    world.run(ms(2));
    let told = world.told(1);
    assert_eq!((&told[0], ups(&told)), (&down(2, false), vec![(2, 2)]));
    assert!(world.dials.contains(&(now + LATENCY, 1, host(2))), "at once");
    assert!(world.links(1).is_up(2) && !world.links(1).is_refused(2));

    world.run(ms(5000));
    world.told(1);
    world.kill(2);
    world.run(ms(1));
    assert_eq!(world.told(1), [down(2, true)]);
    assert!(!world.links(1).is_up(2) && world.links(1).is_refused(2));
    assert!(!world.says(1, |links, effects| links.request(2, 1, Bytes::new(), effects)), "nothing is kept");
    world.run(ms(60_000));
    assert_eq!(world.told(1), [], "told once");
    let dials = world.dials.iter().filter(|(at, ..)| *at > ms(30_000)).count();
    assert!((30..60).contains(&dials), "about every second: {dials}");

    world.start(identity(2, 22), &peers(&[1, 2]));
    world.run(ms(2000));
    assert_eq!(ups(&world.told(1)), [(2, 22)]);
    assert!(!world.links(1).is_refused(2));
}

#[test]
fn a_process_that_is_just_ending_is_dialled_until_it_is_gone() {
    let mut world = World::of(&[1, 2]);
    world.run(ms(5000));
    world.told(1);
    world.lingering.insert(2);
    world.kill(2);
    world.run(ms(30));
    assert_eq!(world.told(1), [], "nobody knows");
    world.lingering.clear();
    world.run(ms(100));
    assert_eq!(world.told(1), [down(2, true)]);

    // Whatever closes connections for ever is not gone.
    world.start(identity(2, 3), &peers(&[1, 2]));
    world.run(ms(5000));
    world.told(1);
    world.lingering.insert(2);
    world.kill(2);
    world.run(ms(5000));
    assert_eq!(world.told(1), [down(2, false)]);
    world.lingering.clear();
    world.run(ms(5000));
    assert_eq!(world.told(1), [down(2, true)], "now it is");
}

#[test]
fn silence_closes_the_connection_and_says_nothing_of_the_process() {
    let mut world = World::of(&[1, 2, 3]);
    world.run(ms(5000));
    [1, 2, 3].iter().for_each(|node_id| drop(world.told(*node_id)));
    let silent_from = world.now;
    world.silent.insert(2);
    world.run(ms(1400));
    assert!(world.links(1).is_up(2));
    world.run(ms(700));
    assert!(!world.links(1).is_up(2) && world.links(1).is_up(3));
    world.run(ms(1500));
    assert_eq!(world.told(1), [down(2, false)]);
    assert!(!world.links(1).is_refused(2));
    world.run(ms(10_000));
    assert_eq!(world.told(1), [], "told once");
    let dials = world.dials.iter().filter(|(at, from, _)| *at > silent_from && *from == 1).count();
    assert!(dials < 15, "{dials}");

    world.silent.clear();
    world.run(ms(5000));
    assert_eq!(ups(&world.told(1)), [(2, 2)]);
    assert_eq!(world.told(2)[..2], [down(1, false), down(3, false)]);
}

#[test]
fn a_greeting_that_is_not_answered_ends() {
    let mut links = Links::new(identity(1, 1), 1);
    links.set_peers(ms(0), &peers(&[2]));
    let (mut effects, mut told) = (Vec::new(), Vec::new());
    links.handle(ms(0), Event::Tick, &mut effects, &mut told);
    let Some(Effect::Dial { link, .. }) = effects.pop() else { panic!("it dials") };
    links.handle(ms(3), Event::Dialed { link, result: Ok(()) }, &mut effects, &mut told);
    assert!(matches!(&effects[..], [Effect::Send { .. }]));
    assert_eq!(links.next_deadline(), Some(ms(1003)));
    effects.clear();
    links.handle(ms(1003), Event::Tick, &mut effects, &mut told);
    assert_eq!(effects, [Effect::Close { link }]);
    let again = links.next_deadline().expect("it is dialled again");
    assert!((ms(1018)..=ms(1028)).contains(&again), "{again:?}");
    assert!(told.is_empty(), "it was never up");
}

#[test]
fn a_process_that_was_started_anew_takes_the_place_of_the_one_before() {
    let mut world = World::of(&[1, 2]);
    world.run(ms(5000));
    world.told(1);
    // The connections of the first process are not known to be lost: its machine was reset.
    world.nodes.remove(&2);
    let own: Vec<_> = world.connections.keys().filter(|(node, _)| *node == 2).copied().collect();
    for from in own {
        let to = world.connections.remove(&from).expect("it is there");
        world.connections.remove(&to);
    }
    world.start(identity(2, 22), &peers(&[1, 2]));
    world.run(ms(10));
    assert_eq!(world.told(1)[0], down(2, false));
    assert_eq!(world.links(1).peers().map(|peer| peer.incarnation[0]).collect::<Vec<_>>(), [22]);
    assert!(world.says(2, |links, effects| links.request(1, 5, Bytes::new(), effects)));
    world.run(ms(10));
    let told = world.told(1);
    assert!(matches!(&told[..], [Told::Request { from, .. }] if from.incarnation[0] == 22), "{told:?}");
    assert_eq!(world.links(1).callers.len(), 1);
}

#[test]
fn of_two_connections_of_one_process_the_newest_counts() {
    let mut links = Links::new(identity(1, 1), 1);
    let mut effects = Vec::new();
    let mut told = Vec::new();
    let hello = hello_of(&identity(2, 2), 1);
    for link in [LinkId(1), LinkId(2)] {
        links.handle(ms(0), Event::Accepted { link }, &mut effects, &mut told);
        links.handle(ms(0), Event::Received { link, bytes: hello.clone() }, &mut effects, &mut told);
    }
    assert!(matches!(effects[0], Effect::Send { link: LinkId(1), .. }));
    assert!(matches!(effects[1], Effect::Send { link: LinkId(2), .. }));
    assert_eq!(effects[2], Effect::Close { link: LinkId(1) });
    assert_eq!(links.callers.len(), 1);
}

/// The greeting of a node, without its length.
fn hello_of(identity: &Identity, to_node: i32) -> Bytes {
    let Identity { cluster_id, node_id, directory_id, incarnation, address, is_forming } = identity.clone();
    let hello = Hello {
        version_min: 2,
        version_max: 2,
        cluster_id,
        node_id,
        directory_id,
        incarnation,
        to_node,
        address,
        is_forming,
    };
    frame(&Frame::Hello(hello))
}

fn frame(frame: &Frame) -> Bytes {
    frame.to_bytes().slice(4..)
}

#[test]
fn wrong_greetings_are_rejected_and_told_once() {
    let cases: [(Identity, i32, RejectReason); 3] = [
        (Identity { cluster_id: Some([8; 16]), ..identity(2, 2) }, 1, RejectReason::Cluster),
        (identity(1, 7), -1, RejectReason::Node),
        (identity(2, 2), 3, RejectReason::Node),
    ];
    for (identity_of_caller, to_node, expected) in cases {
        let mut links = Links::new(identity(1, 1), 1);
        let (mut effects, mut told) = (Vec::new(), Vec::new());
        let link = LinkId(1);
        links.handle(ms(0), Event::Accepted { link }, &mut effects, &mut told);
        let bytes = hello_of(&identity_of_caller, to_node);
        links.handle(ms(0), Event::Received { link, bytes }, &mut effects, &mut told);
        let [Effect::Send { bytes, .. }, Effect::Close { .. }] = &effects[..] else { panic!("{effects:?}") };
        let decoded = Frame::decode(&bytes.slice(4..));
        assert!(matches!(decoded, Ok(Frame::Reject { why, .. }) if why == expected), "{decoded:?}");
        assert!(told.is_empty() && links.callers.is_empty());
    }

    let mut world = World::default();
    world.start(Identity { cluster_id: Some([8; 16]), ..identity(1, 1) }, &peers(&[2]));
    world.start(identity(2, 2), &peers(&[1]));
    world.run(ms(10_000));
    let told = world.told(1);
    let [Told::Rejected { node_id: 2, why: RejectReason::Cluster, text }] = &told[..] else { panic!("{told:?}") };
    assert!(text.starts_with("host2:9093: this node is not let in: its cluster is "), "{text}");
    assert_eq!(world.links(1).peers().count(), 0);
}

#[test]
fn versions_must_meet() {
    let hello = |version_min, version_max| Hello {
        version_min,
        version_max,
        cluster_id: None,
        node_id: 2,
        directory_id: [2; 16],
        incarnation: [2; 16],
        to_node: 1,
        address: None,
        is_forming: true,
    };
    for (versions, answer) in [((2, 2), Some(2)), ((2, 9), Some(2)), ((1, 2), Some(2)), ((3, 9), None), ((1, 1), None)]
    {
        let mut links = Links::new(identity(1, 1), 1);
        let (mut effects, mut told) = (Vec::new(), Vec::new());
        let link = LinkId(1);
        links.handle(ms(0), Event::Accepted { link }, &mut effects, &mut told);
        let bytes = frame(&Frame::Hello(hello(versions.0, versions.1)));
        links.handle(ms(0), Event::Received { link, bytes }, &mut effects, &mut told);
        let Effect::Send { bytes, .. } = &effects[0] else { panic!("{effects:?}") };
        match (Frame::decode(&bytes.slice(4..)).expect("ours"), answer) {
            (Frame::Welcome(welcome), Some(version)) => assert_eq!(welcome.version, version),
            (Frame::Reject { why: RejectReason::Version, .. }, None) => {}
            other => panic!("{versions:?}: {other:?}"),
        }
    }
}

#[test]
fn a_node_without_a_cluster_may_speak_to_one_with() {
    let mut world = World::default();
    let empty = Identity { cluster_id: None, is_forming: true, ..identity(1, 1) };
    world.start(empty.clone(), &peers(&[2]));
    world.start(identity(2, 2), &peers(&[1]));
    world.run(ms(100));
    let told = world.told(2);
    let [Told::Up { peer }] = &told[..] else { panic!("{told:?}") };
    assert_eq!((peer.cluster_id, peer.is_forming), (None, true));
    world.told(1);

    // It has joined: both hear of it.
    world.links(1).set_identity(Identity { cluster_id: Some([9; 16]), is_forming: false, ..empty });
    assert!(world.links(1).next_deadline().is_some_and(|at| at <= ms(100)));
    world.run(ms(100));
    let told = world.told(2);
    let Some(Told::Up { peer }) = told.last() else { panic!("{told:?}") };
    assert_eq!((peer.cluster_id, peer.is_forming), (Some([9; 16]), false));
    assert_eq!(told[0], down(1, false));
    assert!(world.links(1).is_up(2) && world.links(2).is_up(1));
}

#[test]
fn a_node_finds_others_by_address_and_does_not_speak_to_itself() {
    let mut world = World::default();
    let anybody = |node_id: i32| (None, host(node_id), PORT);
    world.start(identity(1, 1), &[anybody(1), anybody(2), anybody(3), (Some(2), host(2), PORT)]);
    world.start(identity(2, 2), &[]);
    world.run(ms(100));
    let told = world.told(1);
    // Two addresses lead to it; the newest connection counts.
    assert!(matches!(ups(&told)[..], [(2, 2)] | [(2, 2), (2, 2)]), "{told:?}");
    world.run(ms(3000));
    assert_eq!(world.told(1), []);
    let dials = world.dials.iter().filter(|(_, _, host)| host == "host1").count();
    assert_eq!(dials, 1);
    world.run(ms(3000));
    assert!(!world.links(1).is_refused(1));

    world.kill(2);
    world.run(ms(3000));
    assert_eq!(world.told(1), [down(2, true)]);
    world.start(identity(2, 22), &[]);
    world.start(identity(3, 3), &[]);
    world.run(ms(3000));
    let mut found = ups(&world.told(1));
    found.sort_unstable();
    assert_eq!(found, [(2, 22), (3, 3)]);

    // What was found by its address may be asked for by its number from now on.
    let dials = world.dials.len();
    let now = world.now;
    world.links(1).set_peers(now, &peers(&[1, 2, 3]));
    world.run(ms(3000));
    assert_eq!(world.told(1), []);
    assert_eq!(world.dials.len(), dials);
    world.links(1).set_peers(now, &peers(&[2]));
    world.run(ms(3000));
    assert_eq!(world.told(1), [], "nothing is told of those who are not dialled any more");
    assert!(world.links(1).is_up(2) && !world.links(1).is_up(3));
}

#[test]
fn who_is_refused_and_calls_is_not_gone() {
    // Node 2 is given the wrong address of node 3, which reaches node 2.
    let mut world = World::of(&[2]);
    world.links(2).set_peers(ms(100), &[(Some(3), host(4), PORT)]);
    world.start(identity(3, 3), &peers(&[2]));
    world.run(ms(5000));
    // It was refused before it called.
    assert!(matches!(&world.told(2)[..], [] | [Told::Down { node_id: 3, is_refused: true }]));
    assert!(!world.links(2).is_refused(3));
    world.kill(3);
    world.run(ms(1));
    assert!(world.links(2).is_refused(3));
}

#[test]
fn strangers_are_turned_away() {
    let mut links = Links::new(identity(1, 1), 1);
    let (mut effects, mut told) = (Vec::new(), Vec::new());
    let close = |link| Effect::Close { link };
    // Garbage; a frame before the greeting; a second greeting; an answer that nobody asked for.
    let garbage = Bytes::from_static(&[0xff, 3, 0, 9, 0, 0, 0, 1, 0xff, 0xff]);
    let hello = hello_of(&identity(2, 2), 1);
    let pong = frame(&Frame::Pong);
    let cases =
        [vec![garbage], vec![frame(&Frame::Ping)], vec![hello.clone(), hello.clone()], vec![hello.clone(), pong]];
    for (number, frames) in (1..).zip(cases) {
        let link = LinkId(number);
        links.handle(ms(0), Event::Accepted { link }, &mut effects, &mut told);
        for bytes in frames {
            links.handle(ms(0), Event::Received { link, bytes }, &mut effects, &mut told);
        }
        assert_eq!(effects.pop(), Some(close(link)), "{number}");
        assert!(links.callers.is_empty());
    }
    // Whoever says nothing is closed after a second, and whoever falls silent after two.
    for link in [LinkId(10), LinkId(11)] {
        links.handle(ms(0), Event::Accepted { link }, &mut effects, &mut told);
    }
    links.handle(ms(500), Event::Received { link: LinkId(11), bytes: hello }, &mut effects, &mut told);
    effects.clear();
    assert_eq!(links.next_deadline(), Some(ms(1000)));
    links.handle(ms(1000), Event::Tick, &mut effects, &mut told);
    assert_eq!(effects, [close(LinkId(10))]);
    assert_eq!(links.next_deadline(), Some(ms(2500)));
    effects.clear();
    links.handle(ms(2500), Event::Tick, &mut effects, &mut told);
    assert_eq!(effects, [close(LinkId(11))]);
    let comes_and_goes = |told: &Told| matches!(told, Told::Called { .. } | Told::Gone { .. });
    assert!(told.iter().all(comes_and_goes) && links.next_deadline().is_none());
}

#[test]
fn who_cannot_be_dialled_is_spoken_to_when_it_calls() {
    let mut world = World::of(&[1]);
    let nowhere = Identity { address: None, ..identity(2, 2) };
    let called = |world: &mut World| {
        let told = mem::take(&mut world.nodes.get_mut(&1).expect("it runs").told);
        told.iter().filter(|told| matches!(told, Told::Called { peer } if peer.node_id == 2)).count()
    };
    world.start(nowhere.clone(), &peers(&[1]));
    world.run(ms(100));
    assert_eq!(called(&mut world), 1);
    assert_eq!(world.links(1).callers().map(|peer| peer.directory_id).collect::<Vec<_>>(), [[2; 16]]);
    world.told(2);
    let long: Bytes = (0..2 * PIECE_BYTES_MAX + 7).map(|at| (at / 13) as u8).collect();
    assert!(world.says(1, |links, effects| links.raft([2; 16], long.clone(), effects)));
    assert!(world.says(1, |links, effects| links.adopt([2; 16], long.clone(), effects)));
    assert!(!world.says(1, |links, effects| links.request(2, 1, long.clone(), effects)), "nobody forwards to it");
    assert!(!world.says(1, |links, effects| links.raft([3; 16], long.clone(), effects)));
    world.run(ms(10));
    let told = world.told(2);
    let [Told::Raft { from, bytes }, Told::Adopt { bytes: snapshot, .. }] = &told[..] else { panic!("{told:?}") };
    assert_eq!((from.node_id, bytes, snapshot), (1, &long, &long));

    // Another process with its number, and another directory, is not let in as long as it is there.
    let twin = Identity { directory_id: [7; 16], incarnation: [7; 16], ..nowhere.clone() };
    let link = LinkId(77);
    world.happens(1, Event::Accepted { link });
    world.happens(1, Event::Received { link, bytes: hello_of(&twin, 1) });
    assert_eq!(world.links(1).callers().map(|peer| peer.directory_id).collect::<Vec<_>>(), [[2; 16]]);
    assert_eq!(called(&mut world), 0);
    world.kill(2);
    world.run(ms(10));
    world.start(twin, &peers(&[1]));
    world.run(ms(100));
    assert_eq!(called(&mut world), 1);
    assert!(world.says(1, |links, effects| links.raft([7; 16], Bytes::new(), effects)));
    assert!(!world.says(1, |links, effects| links.raft([2; 16], Bytes::new(), effects)));
}

#[test]
fn a_node_that_is_not_dialled_is_looked_for_where_clients_find_it() {
    // Its clients' listener is on another host of this world.
    let mut world = World::of(&[1]);
    let nowhere = |incarnation| Identity { address: None, ..identity(2, incarnation) };
    world.start(nowhere(2), &peers(&[1]));
    world.start(identity(9, 9), &[]);
    world.run(ms(100));
    let gone =
        |told: &[Told]| told.iter().filter(|told| matches!(told, Told::Gone { peer } if peer.node_id == 2)).count();

    world.told(1);
    world.kill(2);
    world.run(ms(1));
    assert_eq!(gone(&world.told(1)), 1);
    world.links(1).probe(2, host(9), PORT);
    world.links(1).probe(2, host(9), PORT);
    assert!(world.links(1).next_deadline().is_some_and(|at| at <= world.now));
    let dials = world.dials.len();
    world.run(ms(200));
    assert_eq!(world.told(1), [], "somebody listens");
    assert_eq!(world.dials.len() - dials, 4, "it is tried a few times");
    assert!(world.links(1).probes.is_empty());

    // The listener goes a moment later than the connection.
    world.start(nowhere(22), &peers(&[1]));
    world.run(ms(100));
    world.kill(2);
    world.links(1).probe(2, host(9), PORT);
    world.run(ms(15));
    world.kill(9);
    world.run(ms(200));
    assert_eq!(world.told(1).last(), Some(&down(2, true)));

    // Whoever calls again is not gone, whatever is found.
    world.start(nowhere(23), &peers(&[1]));
    world.run(ms(100));
    world.links(1).probe(2, host(9), PORT);
    world.told(1);
    world.run(ms(200));
    assert_eq!(world.told(1), []);
}

#[test]
fn clients_are_told_from_nodes_and_leave_room_for_them() {
    let mut links = Links::new(identity(1, 1), 1);
    let (mut effects, mut told) = (Vec::new(), Vec::new());
    let versions = Bytes::from_static(&[0, 18, 0, 3, 0, 0, 0, 1, 0xff, 0xff]);
    for number in 0..=CLIENTS_MAX as u64 {
        let link = LinkId(number);
        links.handle(ms(0), Event::Accepted { link }, &mut effects, &mut told);
        links.handle(ms(0), Event::Received { link, bytes: versions.clone() }, &mut effects, &mut told);
    }
    assert_eq!(told.len(), CLIENTS_MAX);
    assert_eq!(effects, [Effect::Close { link: LinkId(CLIENTS_MAX as u64) }]);
    told.clear();
    // Whatever it sends from now on is its own matter; it is no node.
    let bytes = hello_of(&identity(2, 2), 1);
    links.handle(ms(1), Event::Received { link: LinkId(0), bytes: bytes.clone() }, &mut effects, &mut told);
    assert_eq!(told, [Told::Client { link: LinkId(0), bytes: bytes.clone() }]);
    links.handle(ms(1), Event::Closed { link: LinkId(0) }, &mut effects, &mut told);
    assert_eq!(told.pop(), Some(Told::ClientGone { link: LinkId(0) }));
    effects.clear();
    links.close_client(LinkId(1), &mut effects);
    assert_eq!(effects, [Effect::Close { link: LinkId(1) }]);
    // There is room for another one, and for nodes.
    for (link, bytes) in [(LinkId(90), versions), (LinkId(91), bytes)] {
        links.handle(ms(2), Event::Accepted { link }, &mut effects, &mut told);
        links.handle(ms(2), Event::Received { link, bytes }, &mut effects, &mut told);
    }
    assert!(matches!(&told[1..], [Told::Client { .. }, Told::Called { .. }]), "{told:?}");
    told.clear();
    links.handle(CLIENT_IDLE_MAX + ms(1), Event::Tick, &mut effects, &mut told);
    assert_eq!(told.iter().filter(|told| matches!(told, Told::ClientGone { .. })).count(), CLIENTS_MAX - 2);
}

#[test]
fn connections_that_others_open_are_bounded() {
    let mut links = Links::new(identity(1, 1), 1);
    let (mut effects, mut told) = (Vec::new(), Vec::new());
    for number in 0..ACCEPTED_MAX as u64 {
        links.handle(ms(0), Event::Accepted { link: LinkId(number) }, &mut effects, &mut told);
    }
    assert!(effects.is_empty());
    let link = LinkId(1000);
    links.handle(ms(0), Event::Accepted { link }, &mut effects, &mut told);
    let [Effect::Send { bytes, .. }, Effect::Close { .. }] = &effects[..] else { panic!("{effects:?}") };
    assert!(matches!(Frame::decode(&bytes.slice(4..)), Ok(Frame::Reject { why: RejectReason::Busy, .. })));
    links.handle(ms(0), Event::Closed { link: LinkId(5) }, &mut effects, &mut told);
    effects.clear();
    links.handle(ms(0), Event::Accepted { link: LinkId(1001) }, &mut effects, &mut told);
    assert!(effects.is_empty());
}

#[test]
fn what_waits_for_its_last_piece_is_bounded_over_all_connections() {
    let mut links = Links::new(identity(1, 1), 1);
    let (mut effects, mut told) = (Vec::new(), Vec::new());
    let pieces_max = 4;
    links.message_bytes_max = pieces_max * PIECE_BYTES_MAX;
    let piece = frame(&Frame::Raft { is_last: false, bytes: vec![0; PIECE_BYTES_MAX].into() });
    let mut closed = Vec::new();
    for node_id in 2..5 {
        let link = LinkId(node_id as u64);
        links.handle(ms(0), Event::Accepted { link }, &mut effects, &mut told);
        let bytes = hello_of(&identity(node_id, node_id as u8), 1);
        links.handle(ms(0), Event::Received { link, bytes }, &mut effects, &mut told);
        for _ in 0..pieces_max {
            links.handle(ms(0), Event::Received { link, bytes: piece.clone() }, &mut effects, &mut told);
        }
        closed.extend(effects.drain(..).filter(|effect| matches!(effect, Effect::Close { .. })));
    }
    assert_eq!(closed, [Effect::Close { link: LinkId(4) }], "the third has no room");
    let mut over = |link| {
        links.handle(ms(0), Event::Received { link, bytes: piece.clone() }, &mut effects, &mut told);
        matches!(effects.pop(), Some(Effect::Close { .. }))
    };
    assert!(over(LinkId(2)), "a message is bounded");
}

#[test]
fn messages_that_nobody_could_take_are_not_sent() {
    let mut world = World::of(&[1, 2]);
    [1, 2].iter().for_each(|node_id| world.links(*node_id).message_bytes_max = 100);
    let large = Bytes::from(vec![0; 101]);
    assert!(!world.says(1, |links, effects| links.raft([2; 16], large.clone(), effects)));
    let link = *world.links(2).callers.keys().next().expect("node 1 has called");
    let mut effects = Vec::new();
    world.links(2).respond(link, 1, 1, large, &mut effects);
    assert_eq!(effects, [Effect::Close { link }]);
}

#[test]
fn a_peer_that_hangs_up_again_and_again_is_not_dialled_in_a_loop() {
    let mut links = Links::new(identity(1, 1), 1);
    links.set_peers(ms(0), &peers(&[2]));
    let (mut effects, mut told) = (Vec::new(), Vec::new());
    links.handle(ms(0), Event::Tick, &mut effects, &mut told);
    let welcome = Welcome {
        version: 2,
        cluster_id: None,
        node_id: 2,
        directory_id: [2; 16],
        incarnation: [2; 16],
        is_forming: false,
    };
    let welcome = frame(&Frame::Welcome(welcome));
    let mut dials = 0;
    let mut now = ms(0);
    while now < ms(10_000) {
        let dialled = effects.drain(..).find_map(|effect| match effect {
            Effect::Dial { link, .. } => Some(link),
            _ => None,
        });
        match dialled {
            Some(link) => {
                dials += 1;
                for event in [
                    Event::Dialed { link, result: Ok(()) },
                    Event::Received { link, bytes: welcome.clone() },
                    Event::Closed { link },
                ] {
                    links.handle(now, event, &mut effects, &mut told);
                }
            }
            None => {
                now = links.next_deadline().expect("it is dialled again");
                links.handle(now, Event::Tick, &mut effects, &mut told);
            }
        }
    }
    assert!((10..100).contains(&dials), "{dials} in ten seconds");
    let losses = told.iter().filter(|told| matches!(told, Told::Down { .. })).count();
    assert_eq!(ups(&told).len(), dials);
    assert_eq!(losses, dials - 1, "every loss is told before the peer is up again");
}

#[test]
fn the_same_seed_does_the_same() {
    let run = || {
        let mut world = World::of(&[1, 2, 3]);
        world.kill(3);
        world.run(ms(5000));
        world.break_connections(1, 2);
        world.run(ms(5000));
        (world.dials.clone(), world.told(1), world.told(2))
    };
    assert_eq!(run(), run());
}
