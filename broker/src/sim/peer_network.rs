//! The network between nodes: connections that carry frames late and in order, cuts in one direction or both, and what a node
//! learns when the process, the machine or the way to it is gone.
//!
//! A process that ends has its kernel say so, as soon as the way is whole; a machine that loses its power says nothing. Where
//! the way is cut, what is under way waits, and arrives when it is whole again, or is lost with its connection. Who dials
//! is connected where a process listens, whether that runs or stands still; is refused by a machine on which none does; and
//! waits in vain otherwise.
//!
//! Calling contract. What a method adds to `later` happens after so many microseconds: [`Later::ToNode`] to the process of
//! that life, if it is still there, [`Later::Arrival`] by [`PeerNetwork::arrives`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use millstream_storage::random::Random;

use super::node::Place;
use crate::peer::frame;
use crate::peer::links::{DialError, Effect, Event, LinkId};
use crate::peer::stream::FRAME_BYTES_MAX;
use crate::peer::stream::greeting::{Addressee, Answer, Hello, Reject};

/// Where controllers listen to each other.
pub const CONTROLLER_PORT: u16 = 9093;
/// Where brokers listen, to each other as to clients.
pub const BROKER_PORT: u16 = 9092;
/// How long a connection may take to be made.
const DIAL_US_MAX: u64 = 1_000_000;
/// When the kernel tries again to send what waited for a cut to be mended, at the latest.
const RESEND_US_MAX: u64 = 200_000;
/// One connection in so many does not survive a cut that it has something to carry across.
const RESET_ONE_IN: u64 = 4;

/// What will happen.
#[derive(Debug)]
pub enum Later {
    /// To a process.
    ToNode { node: usize, life: u64, place: Place, event: Event },
    /// To the network.
    Arrival(Arrival),
}

/// A frame of a connection, or its end, arrives at one of its ends.
#[derive(Debug)]
pub struct Arrival {
    connection: u64,
    at_dialler: bool,
    what: Arriving,
}

#[derive(Debug)]
enum Arriving {
    /// A frame, or the end of the connection.
    Sent(Option<Bytes>),
    /// What was held while the way was cut, in its order.
    Held,
}

/// A machine.
#[derive(Clone, Copy, Debug)]
struct Host {
    /// It has power.
    is_on: bool,
    /// The process that listens.
    life: Option<u64>,
    /// The broker that listens: who it is to other brokers.
    broker: Option<Addressee>,
    accepted: u64,
}

/// The number of a connection at one of its ends, and the process there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    node: usize,
    life: u64,
    /// What speaks there: none before the greeting of a connection between shards has said which is meant.
    place: Option<Place>,
    link: LinkId,
}

#[derive(Debug)]
struct Connection {
    /// Who has dialled, and who has accepted.
    ends: [End; 2],
    /// When what was sent last arrives at each end.
    arrival_us: [u64; 2],
    /// What waits at a cut on its way to each end.
    held: [VecDeque<Option<Bytes>>; 2],
    /// The machine at this end has lost its power since, and knows nothing of the connection.
    is_forgotten: [bool; 2],
}

/// All that is between the nodes.
#[derive(Debug)]
pub struct PeerNetwork {
    hosts: Vec<Host>,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    /// Ways on which nothing arrives, from one node to another.
    cut: BTreeSet<(usize, usize)>,
}

/// The name of a node, under which others reach it.
pub fn host_name(node: usize) -> String {
    format!("n{}", node + 1)
}

impl PeerNetwork {
    /// So many machines on which nothing runs.
    pub fn new(nodes: usize) -> PeerNetwork {
        PeerNetwork {
            hosts: vec![Host { is_on: true, life: None, broker: None, accepted: 0 }; nodes],
            connections: BTreeMap::new(),
            next_connection: 0,
            cut: BTreeSet::new(),
        }
    }

    // ---- Machines and their processes ----

    /// The process of this life listens; the machine has its power back, if it had none.
    pub fn listens(&mut self, node: usize, life: u64) {
        self.hosts[node].is_on = true;
        self.hosts[node].life = Some(life);
    }

    /// The broker of the process listens, or does not any more.
    pub fn serves(&mut self, node: usize, broker: Option<Addressee>) {
        self.hosts[node].broker = broker;
    }

    /// The process is gone, or closes all that it has. Nobody listens any more.
    pub fn hang_up(&mut self, node: usize, now_us: u64, random: &mut Random, later: &mut Vec<(u64, Later)>) {
        self.hosts[node].life = None;
        self.hosts[node].broker = None;
        for (number, side) in self.sides_of(node) {
            self.carry(number, 1 - side, None, now_us, random, later);
        }
    }

    /// The machine is without power: nobody is told.
    pub fn lose_power(&mut self, node: usize) {
        self.hosts[node].is_on = false;
        self.hosts[node].life = None;
        self.hosts[node].broker = None;
        for (number, side) in self.sides_of(node) {
            self.connections.get_mut(&number).expect("it is there").is_forgotten[side] = true;
        }
    }

    /// The connections of the processes on a node, each with which of its ends that is.
    fn sides_of(&self, node: usize) -> Vec<(u64, usize)> {
        let all = self.connections.iter().flat_map(|(number, connection)| {
            let is_there = |side: &usize| connection.ends[*side].node == node && !connection.is_forgotten[*side];
            [0, 1].into_iter().filter(is_there).map(|side| (*number, side))
        });
        all.collect()
    }

    // ---- Ways ----

    /// Nothing arrives any more that one node sends to another.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    /// Nothing arrives any more that a node sends to others, or they to it.
    pub fn isolate(&mut self, node: usize) {
        for other in (0..self.hosts.len()).filter(|other| *other != node) {
            self.cut.extend([(node, other), (other, node)]);
        }
    }

    /// All ways are whole again. What waited arrives, or is lost with its connection.
    pub fn mend(&mut self, random: &mut Random, later: &mut Vec<(u64, Later)>) {
        self.cut.clear();
        let waiting = |connection: &Connection| connection.held.iter().any(|held| !held.is_empty());
        let numbers: Vec<u64> =
            self.connections.iter().filter(|(_, each)| waiting(each)).map(|(number, _)| *number).collect();
        for number in numbers {
            if random.one_in(RESET_ONE_IN) {
                let connection = self.connections.remove(&number).expect("it is there");
                for End { node, life, place, link } in connection.ends {
                    let Some(place) = place else { continue };
                    let delay_us = random.between(50, RESEND_US_MAX);
                    later.push((delay_us, Later::ToNode { node, life, place, event: Event::Closed { link } }));
                }
                continue;
            }
            for side in [0, 1] {
                // What was held goes first: what is on its way, or is sent meanwhile, waits behind it.
                let arrival = Arrival { connection: number, at_dialler: side == 0, what: Arriving::Held };
                later.push((random.below(RESEND_US_MAX), Later::Arrival(arrival)));
            }
        }
    }

    // ---- Connections ----

    /// Does what a process wants done.
    pub fn execute(
        &mut self,
        (node, life, place): (usize, u64, Place),
        effect: Effect,
        now_us: u64,
        random: &mut Random,
        later: &mut Vec<(u64, Later)>,
    ) {
        let place = Some(place);
        match effect {
            Effect::Dial { link, host, port } => {
                let to = (0..self.hosts.len()).find(|to| host_name(*to) == host).expect("the name of a node");
                self.dial(End { node, life, place, link }, (to, port), now_us, random, later);
            }
            Effect::Send { link, bytes } => {
                let Some((number, side)) = self.find(End { node, life, place, link }) else { return };
                let mut left = BytesMut::from(&bytes[..]);
                while let Ok(Some(frame)) = frame::cut(&mut left, FRAME_BYTES_MAX) {
                    self.carry(number, 1 - side, Some(frame), now_us, random, later);
                }
                assert!(left.is_empty(), "whole frames are sent");
            }
            Effect::Close { link } => {
                if let Some((number, side)) = self.find(End { node, life, place, link }) {
                    self.carry(number, 1 - side, None, now_us, random, later);
                }
            }
        }
    }

    fn dial(
        &mut self,
        from: End,
        (to, port): (usize, u16),
        now_us: u64,
        random: &mut Random,
        later: &mut Vec<(u64, Later)>,
    ) {
        let End { node, life, place, link } = from;
        let place = place.expect("who dials is known");
        let mut dialed = |delay_us, result| {
            later.push((delay_us, Later::ToNode { node, life, place, event: Event::Dialed { link, result } }));
        };
        let is_cut = self.cut.contains(&(node, to)) || self.cut.contains(&(to, node));
        let Host { is_on, life: listening, broker, accepted } = self.hosts[to];
        let took_us = random.between(100, 400);
        match listening {
            _ if is_cut || !is_on => dialed(DIAL_US_MAX, Err(DialError::Failed)),
            None => dialed(took_us, Err(DialError::Refused)),
            Some(_) if place != Place::Controller && broker.is_none() => dialed(took_us, Err(DialError::Refused)),
            // Clients are listened to somewhere else, and controllers say nothing there.
            Some(_) if place == Place::Controller && port != CONTROLLER_PORT => dialed(took_us, Ok(())),
            Some(listening) => {
                dialed(took_us, Ok(()));
                let is_for_controller = port == CONTROLLER_PORT;
                let place = is_for_controller.then_some(Place::Controller);
                let accepted = End { node: to, life: listening, place, link: LinkId(accepted) };
                self.hosts[to].accepted += 1;
                if is_for_controller {
                    let event = Event::Accepted { link: accepted.link };
                    let place = Place::Controller;
                    later.push((took_us, Later::ToNode { node: to, life: listening, place, event }));
                }
                let connection = Connection {
                    ends: [from, accepted],
                    // Behind what says that there is one.
                    arrival_us: [now_us + took_us + 1; 2],
                    held: Default::default(),
                    is_forgotten: [false; 2],
                };
                self.connections.insert(self.next_connection, connection);
                self.next_connection += 1;
            }
        }
    }

    /// The connection that a process knows by this number, and which of its ends that is.
    fn find(&self, end: End) -> Option<(u64, usize)> {
        self.connections.iter().find_map(|(number, connection)| {
            connection.ends.iter().position(|other| *other == end).map(|side| (*number, side))
        })
    }

    /// Something is on its way to one end of a connection, behind what was sent before.
    fn carry(
        &mut self,
        number: u64,
        side: usize,
        frame: Option<Bytes>,
        now_us: u64,
        random: &mut Random,
        later: &mut Vec<(u64, Later)>,
    ) {
        let delay_us = if random.one_in(40) { random.below(60_000) } else { random.between(50, 600) };
        let connection = self.connections.get_mut(&number).expect("it is there");
        let arrival_us = &mut connection.arrival_us[side];
        *arrival_us = (*arrival_us + 1).max(now_us + delay_us);
        let arrival = Arrival { connection: number, at_dialler: side == 0, what: Arriving::Sent(frame) };
        later.push((*arrival_us - now_us, Later::Arrival(arrival)));
    }

    /// A frame arrives, or the end of a connection does, unless the way is cut.
    pub fn arrives(&mut self, arrival: Arrival, now_us: u64, random: &mut Random, later: &mut Vec<(u64, Later)>) {
        let Arrival { connection: number, at_dialler, what } = arrival;
        let side = usize::from(!at_dialler);
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let frame = match what {
            Arriving::Sent(frame) => frame,
            Arriving::Held => {
                for frame in std::mem::take(&mut connection.held[side]) {
                    let arrival = Arrival { connection: number, at_dialler, what: Arriving::Sent(frame) };
                    self.arrives(arrival, now_us, random, later);
                }
                return;
            }
        };
        let End { node, life, place, link } = connection.ends[side];
        let way = (connection.ends[1 - side].node, node);
        if self.cut.contains(&way) || !connection.held[side].is_empty() {
            connection.held[side].push_back(frame);
            return;
        }
        if connection.is_forgotten[side] {
            match frame {
                // The kernel that knows nothing of the connection says so.
                Some(_) if self.hosts[node].is_on => {
                    if !connection.is_forgotten[1 - side] {
                        self.carry(number, 1 - side, None, now_us, random, later);
                    }
                }
                Some(_) => {}
                None => drop(self.connections.remove(&number)),
            }
            return;
        }
        let Some(place) = place else { return self.greets(number, side, frame, now_us, random, later) };
        let event = match frame {
            Some(bytes) => Event::Received { link, bytes },
            None => {
                self.connections.remove(&number);
                Event::Closed { link }
            }
        };
        later.push((0, Later::ToNode { node, life, place, event }));
    }

    /// The first frame has come where a broker listens: the connection is handed to the shard that it means.
    fn greets(
        &mut self,
        number: u64,
        side: usize,
        frame: Option<Bytes>,
        now_us: u64,
        random: &mut Random,
        later: &mut Vec<(u64, Later)>,
    ) {
        let connection = self.connections.get_mut(&number).expect("it is there");
        let end = &mut connection.ends[side];
        let Some(bytes) = frame else {
            self.connections.remove(&number);
            return;
        };
        let hello = Hello::decode(&bytes).expect("shards greet before anything else");
        let Some(addressee) = self.hosts[end.node].broker else {
            return self.carry(number, 1 - side, None, now_us, random, later);
        };
        match hello.shard_of(addressee) {
            Ok(shard) => {
                let place = Place::Shard(shard as usize);
                end.place = Some(place);
                let End { node, life, link, .. } = *end;
                for event in [Event::Accepted { link }, Event::Received { link, bytes }] {
                    later.push((0, Later::ToNode { node, life, place, event }));
                }
            }
            Err((why, text)) => {
                let reject =
                    Answer::Reject(Reject { why, shards: addressee.shards, broker_epoch: -1, text }).to_bytes();
                self.carry(number, 1 - side, Some(reject.slice(frame::LENGTH_BYTES..)), now_us, random, later);
                self.carry(number, 1 - side, None, now_us, random, later);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::frame::Frame;

    /// Two nodes and what has happened to each.
    struct Two {
        network: PeerNetwork,
        random: Random,
        now_us: u64,
        later: Vec<(u64, Later)>,
        happened: [Vec<Event>; 2],
    }

    const DIALLED: LinkId = LinkId(1 << 63);

    impl Two {
        fn new() -> Two {
            let mut network = PeerNetwork::new(2);
            network.listens(0, 1);
            network.listens(1, 1);
            Two { network, random: Random::new(1), now_us: 0, later: Vec::new(), happened: Default::default() }
        }

        fn connected() -> Two {
            let mut two = Two::new();
            two.execute(0, Effect::Dial { link: DIALLED, host: host_name(1), port: CONTROLLER_PORT });
            two.run();
            assert_eq!(two.take(0), [Event::Dialed { link: DIALLED, result: Ok(()) }]);
            assert_eq!(two.take(1), [Event::Accepted { link: LinkId(0) }]);
            two
        }

        fn execute(&mut self, node: usize, effect: Effect) {
            self.network.execute((node, 1, Place::Controller), effect, self.now_us, &mut self.random, &mut self.later);
        }

        fn send(&mut self, node: usize, link: LinkId) {
            self.execute(node, Effect::Send { link, bytes: Frame::Ping.to_bytes() });
        }

        fn mend(&mut self) {
            self.network.mend(&mut self.random, &mut self.later);
            self.run();
        }

        fn hang_up(&mut self, node: usize) {
            self.network.hang_up(node, self.now_us, &mut self.random, &mut self.later);
            self.run();
        }

        /// Until nothing is on its way.
        fn run(&mut self) {
            while let Some(at) = (0..self.later.len()).min_by_key(|at| self.later[*at].0) {
                let (delay_us, later) = self.later.remove(at);
                self.later.iter_mut().for_each(|(left, _)| *left -= delay_us);
                self.now_us += delay_us;
                match later {
                    Later::ToNode { node, event, .. } => self.happened[node].push(event),
                    Later::Arrival(arrival) => {
                        self.network.arrives(arrival, self.now_us, &mut self.random, &mut self.later);
                    }
                }
            }
        }

        fn take(&mut self, node: usize) -> Vec<Event> {
            std::mem::take(&mut self.happened[node])
        }
    }

    fn ping(link: LinkId) -> Event {
        Event::Received { link, bytes: Frame::Ping.to_bytes().slice(4..) }
    }

    #[test]
    fn frames_arrive_in_order_and_the_end_behind_them() {
        let mut two = Two::connected();
        two.send(0, DIALLED);
        two.send(0, DIALLED);
        two.execute(0, Effect::Close { link: DIALLED });
        two.run();
        assert_eq!(two.take(1), [ping(LinkId(0)), ping(LinkId(0)), Event::Closed { link: LinkId(0) }]);
        two.send(1, LinkId(0));
        two.run();
        assert_eq!(two.take(0), [], "there is no connection any more");
    }

    #[test]
    fn what_waits_at_a_cut_arrives_or_is_lost_with_its_connection() {
        let (mut arrived, mut lost) = (0, 0);
        for seed in 0..40 {
            let mut two = Two::connected();
            two.random = Random::new(seed);
            two.network.cut(0, 1);
            two.send(0, DIALLED);
            two.send(1, LinkId(0));
            two.run();
            assert_eq!((two.take(0), two.take(1)), (vec![ping(DIALLED)], vec![]), "the other way is whole");
            two.mend();
            match &two.take(1)[..] {
                [Event::Received { .. }] => arrived += 1,
                [Event::Closed { .. }] => {
                    assert_eq!(two.take(0), [Event::Closed { link: DIALLED }]);
                    lost += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(arrived > 5 && lost > 5, "{arrived} arrived, {lost} were lost");
    }

    #[test]
    fn what_was_held_arrives_before_what_is_on_its_way_when_a_cut_ends() {
        let mut arrived = 0;
        for seed in 0..40 {
            let mut two = Two::connected();
            two.random = Random::new(seed);
            two.network.cut(0, 1);
            two.send(0, DIALLED);
            two.run();
            two.execute(0, Effect::Send { link: DIALLED, bytes: Frame::Pong.to_bytes() });
            two.mend();
            let pong = Event::Received { link: LinkId(0), bytes: Frame::Pong.to_bytes().slice(4..) };
            let taken = two.take(1);
            if taken != [Event::Closed { link: LinkId(0) }] {
                assert_eq!(taken, [ping(LinkId(0)), pong]);
                arrived += 1;
            }
        }
        assert!(arrived > 5, "{arrived} arrived");
    }

    #[test]
    fn a_process_that_ends_is_noticed_and_a_machine_without_power_is_not() {
        let mut two = Two::connected();
        two.hang_up(1);
        assert_eq!(two.take(0), [Event::Closed { link: DIALLED }]);
        let again = LinkId((1 << 63) + 1);
        two.execute(0, Effect::Dial { link: again, host: host_name(1), port: CONTROLLER_PORT });
        two.run();
        assert_eq!(two.take(0), [Event::Dialed { link: again, result: Err(DialError::Refused) }]);

        let mut two = Two::connected();
        two.network.lose_power(1);
        two.send(0, DIALLED);
        two.execute(0, Effect::Dial { link: again, host: host_name(1), port: CONTROLLER_PORT });
        two.run();
        assert_eq!(two.take(0), [Event::Dialed { link: again, result: Err(DialError::Failed) }]);
        two.network.listens(1, 2);
        two.send(0, DIALLED);
        two.run();
        assert_eq!(two.take(0), [Event::Closed { link: DIALLED }], "the machine knows nothing of it");
    }
}
