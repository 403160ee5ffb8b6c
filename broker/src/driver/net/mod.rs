//! A shard's connections: accepts them ([`accept`]), reads requests ([`receive`]), sends responses ([`send`]), and closes
//! those that do nothing ([`sweep`]).
//!
//! All of it happens within the shard's turn, which lends its ring and its inbox to every call that needs them: always the
//! same. Lines hold the names of connections; the one table holds the connections themselves.

mod accept;
mod connection;
mod greet;
mod receive;
mod send;
mod sweep;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::accept::{Accepted, Listeners};
use self::connection::{Connection, Phase};
pub use self::greet::PeerOptions;
use self::greet::{Greeter, Greeting};
use self::receive::{Reading, Receiver};
use self::send::Sender;
use self::sweep::Sweeper;
use super::clock::Clock;
use super::disk::Disk;
use super::frames::ReadMemory;
use super::inbox::Inbox;
use super::limits::ConnectionLimits;
use super::memory::{MemoryBudget, Pressure};
use super::put_off::Connections;
use super::ring::{Ring, Watch};
use super::sys::SocketBuffers;
use crate::config::ConnectionRules;
use crate::metrics::Sample;
use crate::shard::{ConnectionId, Event, SendPart, ShardIndex};

/// Bytes that one connection may bring before the others get their turn.
pub const READ_TURN_BYTES_MAX: usize = 1 << 20;

/// What the configuration says of connections.
#[derive(Clone, Debug)]
pub struct NetOptions {
    /// `socket.request.max.bytes`
    pub request_bytes_max: usize,
    /// `connections.max.idle.ms`; `None`: for ever.
    pub idle_max: Option<Duration>,
    /// Sizes of the kernel's buffers.
    pub buffers: SocketBuffers,
    /// The process's memory.
    pub memory: Arc<MemoryBudget>,
    /// Where other nodes come; none where this node is alone in tests.
    pub peers: Option<PeerOptions>,
}

/// A shard's hand on the network.
pub struct Net {
    shard: ShardIndex,
    clock: Clock,
    options: NetOptions,
    limits: Arc<ConnectionLimits>,
    listeners: Listeners,
    connections: HashMap<ConnectionId, Connection>,
    next_connection: u64,
    receiver: Receiver,
    sender: Sender,
    sweeper: Sweeper,
    greeter: Greeter,
    /// Connections that the limits do not count: at most [`accept::UNCOUNTED_MAX`].
    uncounted: usize,
    /// Connections of other nodes, and the shards that they mean.
    greeted: Vec<(ShardIndex, TcpStream, Bytes)>,
    /// Connections whose last request took long.
    heavy: HashSet<ConnectionId>,
}

impl Connections for Net {
    fn holds_memory(&self, connection: ConnectionId) -> bool {
        self.connections.get(&connection).is_some_and(|connection| connection.output.holds_memory())
    }

    fn is_heavy(&self, connection: ConnectionId) -> bool {
        self.heavy.contains(&connection)
    }
}

impl Net {
    /// A network without connections.
    pub fn new(shard: ShardIndex, clock: Clock, options: NetOptions, limits: Arc<ConnectionLimits>) -> Net {
        let memory = ReadMemory::new(options.memory.receiving_of_shard);
        Net {
            shard,
            clock,
            options,
            limits,
            listeners: Listeners::default(),
            connections: HashMap::new(),
            next_connection: 0,
            receiver: Receiver::new(memory),
            sender: Sender::default(),
            sweeper: Sweeper::new(clock.elapsed()),
            greeter: Greeter::default(),
            uncounted: 0,
            greeted: Vec::new(),
            heavy: HashSet::new(),
        }
    }

    /// Accepts connections on a listening socket, the `number`th of the configuration.
    pub fn listen(&mut self, ring: &mut Ring, number: usize, socket: OwnedFd) -> io::Result<()> {
        self.listeners.add(ring, number, socket)
    }

    /// Other rules hold for the new connections of the whole process.
    pub fn change_rules(&mut self, rules: Arc<ConnectionRules>) {
        self.limits.change(rules);
    }

    /// Accepts no more connections.
    pub fn stop_accepting(&mut self) {
        self.listeners.stop();
    }

    /// A watched socket is ready.
    pub fn ready(&mut self, ring: &mut Ring, watch: Watch, key: u64, has_ended: bool, must_renew: bool) {
        if watch == Watch::Accept {
            self.listeners.ready(ring, key, must_renew);
            return;
        }
        let Some(connection) = self.connections.get_mut(&connection::name(self.shard, key)) else { return };
        if watch == Watch::Read {
            connection.has_ended |= has_ended;
            if must_renew && !has_ended {
                ring.watch(&connection.stream, watch, key);
            }
            self.receiver.queue(connection);
        } else {
            connection.is_blocked = false;
            self.sender.mark(connection);
        }
    }

    /// Whether there is something to read or to accept, or may be.
    pub fn has_readable(&self) -> bool {
        self.receiver.readable() > 0 || self.listeners.are_due()
    }

    /// Accepts what waits, and reads from each readable connection once, until the time is up. What comes becomes events.
    pub fn receive(&mut self, ring: &mut Ring, inbox: &mut Inbox, until: Duration) {
        self.accept(ring, inbox);
        if self.receiver.has_stopped() && !self.must_stop(inbox) {
            self.receiver.go_on(&mut self.connections);
        }
        for _ in 0..self.receiver.readable() {
            let Some(id) = self.receiver.next() else { return };
            let must_stop = self.must_stop(inbox);
            // It has ended since it was put in line.
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.is_readable = false;
            match self.receiver.read(connection, inbox, self.clock, must_stop) {
                Reading::GoesOn => self.receiver.queue(connection),
                Reading::Drained | Reading::Held => {}
                Reading::Ended => self.end(ring, inbox, id),
                Reading::Greeted { hello, has_more } => self.hand_over(ring, inbox, id, hello, has_more),
            }
            self.receiver.give_memory(&mut self.connections);
            if self.clock.elapsed() >= until {
                return;
            }
        }
    }

    /// Whether no connection may be read from now.
    fn must_stop(&self, inbox: &Inbox) -> bool {
        self.options.memory.pressure() == Pressure::Full || inbox.is_crowded()
    }

    fn accept(&mut self, ring: &mut Ring, inbox: &mut Inbox) {
        let Net { listeners, connections, receiver, options, clock, limits, next_connection, shard, uncounted, .. } =
            self;
        let before = *uncounted;
        listeners.accept(limits, options, *clock, before, |Accepted { listener, stream, peer, is_counted }| {
            let id = connection::name(*shard, *next_connection);
            *next_connection += 1;
            let mut connection = Connection::new(id, listener, peer, stream, options.request_bytes_max);
            connection.is_counted = is_counted;
            *uncounted += usize::from(!is_counted);
            ring.watch(&connection.stream, Watch::Read, connection.key());
            inbox.push(Event::Connected { connection: id, listener, peer });
            // What came before the watch.
            receiver.queue(&mut connection);
            connections.insert(id, connection);
        });
    }

    /// A connection is another node's: it is none of the clients' any more.
    fn hand_over(&mut self, ring: &mut Ring, inbox: &mut Inbox, id: ConnectionId, hello: Bytes, has_more: bool) {
        let Some(connection) = self.forget(ring, inbox, id) else { return };
        let Connection { peer, listener, stream, .. } = connection;
        let greeting = Greeting { peer, listener, stream, hello, has_more };
        if let Some(shard) = self.greeter.address(self.clock.elapsed(), self.options.peers, &greeting) {
            self.greeted.push((shard, greeting.stream, greeting.hello));
        }
    }

    /// Takes the connections of other nodes, with the shards that they mean and their greetings.
    pub fn take_greeted(&mut self) -> impl Iterator<Item = (ShardIndex, TcpStream, Bytes)> + '_ {
        self.greeted.drain(..)
    }

    /// Both sides of a connection have ended, or it is broken: it is forgotten.
    fn end(&mut self, ring: &mut Ring, inbox: &mut Inbox, id: ConnectionId) {
        if let Some(mut connection) = self.forget(ring, inbox, id) {
            connection.end();
        }
    }

    /// A connection leaves the table, and all lines.
    fn forget(&mut self, ring: &mut Ring, inbox: &mut Inbox, id: ConnectionId) -> Option<Connection> {
        let mut connection = self.connections.remove(&id)?;
        ring.unwatch(Watch::Read, connection.key());
        if connection.is_blocked {
            ring.unwatch(Watch::Write, connection.key());
        }
        self.receiver.forget(&mut connection);
        self.heavy.remove(&id);
        match connection.is_counted {
            true => self.limits.leave(connection.peer.ip()),
            false => self.uncounted -= 1,
        }
        inbox.push(Event::Disconnected { connection: id });
        Some(connection)
    }

    /// Whether something must be tried again soon that nobody will wake for: connections that are not read from, and
    /// listeners that rest.
    pub fn must_retry(&self) -> bool {
        self.receiver.has_stopped() || self.listeners.any_rests()
    }

    /// Remembers whether a connection's last request took long.
    pub fn set_heavy(&mut self, connection: ConnectionId, is_heavy: bool) {
        if is_heavy {
            // The shard may handle requests of connections that have ended, whose name never comes again.
            if self.connections.contains_key(&connection) {
                self.heavy.insert(connection);
            }
        } else if !self.heavy.is_empty() {
            self.heavy.remove(&connection);
        }
    }

    /// Stops or goes on reading.
    pub fn set_reading(&mut self, connection: ConnectionId, on: bool) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.is_reading = on;
            if on {
                self.receiver.queue(connection);
            }
        }
    }

    /// Queues parts for a connection, with files of this disk; [`Net::flush`] sends them.
    pub fn queue(&mut self, disk: &mut Disk, connection: ConnectionId, parts: Vec<SendPart>) {
        // A connection that is gone is no error: the shard will hear of it.
        let Some(connection) = open(&mut self.connections, connection) else { return };
        if let Err((path, error)) = self.sender.queue(connection, disk, parts) {
            // The response's length is on its way already: only closing is left.
            super::warn("net", &format!("closing {}: cannot send {path}: {error}", connection.peer));
            connection.end();
            self.receiver.queue(connection);
        }
    }

    /// Closes a connection when its queue has left.
    pub fn close(&mut self, connection: ConnectionId) {
        if let Some(connection) = open(&mut self.connections, connection) {
            connection.phase = Phase::Closing;
            connection.closing_since = Some(Instant::now());
            self.receiver.queue(connection);
            self.sender.mark(connection);
        }
    }

    /// Sends what was queued, as far as the sockets have room; the ring says when one has some. Connections that have
    /// not had their turn when `until` comes, or have more to send than their share, wait for the next call:
    /// [`Net::has_unsent`].
    pub fn flush(&mut self, ring: &mut Ring, inbox: &mut Inbox, until: Duration) {
        let Net { sender, receiver, connections, clock, .. } = self;
        sender.flush(connections, ring, inbox, *clock, until, |broken| {
            broken.end();
            receiver.queue(broken);
        });
    }

    /// Whether [`Net::flush`] has not come to the end.
    pub fn has_unsent(&self) -> bool {
        self.sender.has_unsent()
    }

    /// Whether no connection has anything left to be sent.
    pub fn is_drained(&self) -> bool {
        self.connections.values().all(|connection| connection.output.is_empty())
    }

    /// When [`Net::sweep`] is to be called next.
    pub fn sweep_at(&self) -> Duration {
        self.sweeper.due_at()
    }

    /// Closes connections that do nothing, and gives back memory that nobody needs.
    pub fn sweep(&mut self, elapsed: Duration) {
        let now = Instant::now();
        self.receiver.memory.give_up_idle();
        self.listeners.close_refused(now);
        self.sweeper.sweep(now, elapsed, &self.options, &mut self.connections, &mut self.receiver);
        self.receiver.give_memory(&mut self.connections);
    }

    /// Counters for a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        self.listeners.samples(samples);
        self.sweeper.samples(samples);
        self.receiver.samples(self.options.memory.receiving_of_shard, samples);
        self.sender.samples(samples);
        self.greeter.samples(samples);
    }
}

/// A connection that may be sent to.
fn open(connections: &mut HashMap<ConnectionId, Connection>, id: ConnectionId) -> Option<&mut Connection> {
    connections.get_mut(&id).filter(|connection| connection.phase == Phase::Open)
}

#[cfg(test)]
mod tests {
    use super::super::disk::Pools;
    use super::super::files::tests::TestDirectory;
    use super::super::limits::tests::{limits, rules};
    use super::super::ring::Completion;
    use super::super::sys::{self, PortUse};
    use super::accept::ACCEPT_REST;
    use super::*;
    use crate::peer::stream::greeting::{Addressee, Answer, Hello, Lane, RejectReason};
    use std::collections::VecDeque;
    use std::io::{ErrorKind, Read, Write};
    use std::net::SocketAddr;
    use std::sync::mpsc::{Receiver, channel};

    const FILE_BYTES: usize = 5_000_000;
    const LISTENER: usize = 7;
    const ME: Addressee = Addressee { cluster_id: [1; 16], node: 2, shards: 4 };

    /// Serves connections on a thread of its own with an echo for a shard: `F` is answered with the file `big`
    /// between two words, `C` with `bye` and a close, `S` stops the reading until everything is sent;
    /// anything else comes back. Ends with the first connection that ends. Returns the address and what happened.
    fn serve(directory: &TestDirectory, limits: Arc<ConnectionLimits>) -> (SocketAddr, Receiver<String>) {
        serve_at(directory, limits, LISTENER)
    }

    /// The same, of which another listener may be that of brokers.
    fn serve_at(
        directory: &TestDirectory,
        limits: Arc<ConnectionLimits>,
        for_brokers: usize,
    ) -> (SocketAddr, Receiver<String>) {
        let any = "127.0.0.1:0".parse().expect("an address");
        let socket = sys::bind(any, PortUse::Shared).expect("bound");
        sys::listen(&socket, 10).expect("listens");
        let address = sys::local_address(&socket).expect("bound");
        let root = directory.0.clone();
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut inbox = Inbox::default();
            let mut ring = Ring::new().expect("a ring");
            let mut disk = Disk::new(&root, 10, Pools::start().expect("threads"), Arc::default());
            let options = NetOptions {
                request_bytes_max: 100_000,
                idle_max: None,
                buffers: SocketBuffers::default(),
                memory: Arc::new(MemoryBudget::for_tests()),
                peers: Some(PeerOptions { listener: for_brokers, addressee: ME }),
            };
            let mut net = Net::new(3, Clock::start(), options, limits);
            net.listen(&mut ring, LISTENER, socket).expect("it listens");
            let (mut events, mut completions) = (VecDeque::new(), Vec::new());
            let mut has_ended = false;
            loop {
                ring.submit().expect("submitted");
                ring.take(&mut completions).expect("taken");
                for completion in completions.drain(..) {
                    match completion {
                        Completion::Ready { watch, key, has_ended, must_renew } => {
                            net.ready(&mut ring, watch, key, has_ended, must_renew);
                        }
                        other => panic!("not of the network: {other:?}"),
                    }
                }
                net.receive(&mut ring, &mut inbox, Duration::MAX);
                net.sweep(net.clock.elapsed());
                inbox.take(&mut events);
                for happened in events.drain(..) {
                    match happened.event {
                        Event::Connected { listener, .. } => {
                            sender.send(format!("connected to {listener}")).expect("the test waits");
                        }
                        Event::Request { connection, frame } => answer(&mut net, &mut disk, connection, &frame),
                        Event::Drained { connection } => net.set_reading(connection, true),
                        Event::Disconnected { .. } => {
                            sender.send("disconnected".to_owned()).expect("the test waits");
                            has_ended = true;
                        }
                        other => panic!("not of the network: {other:?}"),
                    }
                }
                for (shard, stream, hello) in net.take_greeted() {
                    let bytes = hello.len();
                    sender.send(format!("{bytes} bytes for shard {shard}")).expect("the test waits");
                    // Whoever takes it over answers.
                    (&stream).write_all(b"taken").expect("sent");
                }
                if has_ended {
                    return;
                }
                net.flush(&mut ring, &mut inbox, Duration::MAX);
                std::thread::yield_now();
            }
        });
        (address, receiver)
    }

    fn answer(net: &mut Net, disk: &mut Disk, connection: ConnectionId, frame: &Bytes) {
        assert_eq!(connection.0 >> 48, 3, "the shard is part of the name");
        let memory = |text: &'static str| SendPart::Memory(Bytes::from_static(text.as_bytes()));
        let file = SendPart::File { path: "big".into(), position: 1, bytes: FILE_BYTES - 1 };
        match &frame[..] {
            b"F" => net.queue(disk, connection, vec![memory("begin"), file, memory("end")]),
            b"C" => {
                net.queue(disk, connection, vec![memory("bye")]);
                net.close(connection);
            }
            b"S" => {
                net.set_reading(connection, false);
                net.queue(disk, connection, vec![file, memory("S")]);
            }
            _ => net.queue(disk, connection, vec![SendPart::Memory(frame.clone())]),
        }
    }

    fn send(stream: &mut TcpStream, requests: &[&[u8]]) {
        let mut bytes = Vec::new();
        for request in requests {
            bytes.extend((request.len() as i32).to_be_bytes());
            bytes.extend(*request);
        }
        stream.write_all(&bytes).expect("sent");
    }

    fn receive(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
        let mut received = vec![0; bytes];
        stream.read_exact(&mut received).expect("received");
        received
    }

    fn hello() -> Hello {
        Hello {
            version_min: 1,
            version_max: 1,
            cluster_id: ME.cluster_id,
            node: 1,
            shard: 0,
            broker_epoch: 5,
            incarnation: [3; 16],
            to_node: ME.node,
            to_shard: 3,
            to_shards: ME.shards,
            to_broker_epoch: 6,
            lane: Lane::Live,
            window_bytes: 1,
            metadata_offset: 9,
        }
    }

    /// What comes back of a connection before it is closed.
    fn rest(stream: &mut TcpStream) -> Vec<u8> {
        let mut rest = Vec::new();
        // What was not read makes it a reset.
        let _ = stream.read_to_end(&mut rest);
        rest
    }

    #[test]
    fn a_connection_that_greets_as_a_node_is_handed_to_the_shard_that_it_means() {
        let directory = TestDirectory::new("net_greeting");
        let (address, happened) = serve(&directory, Arc::new(limits(1, 1)));
        let mut node = TcpStream::connect(address).expect("it listens");
        node.write_all(&hello().to_bytes()).expect("sent");
        assert_eq!(happened.recv().expect("served"), "connected to 7");
        assert_eq!(happened.recv().expect("served"), "disconnected", "it is no client's");
        let bytes = hello().to_bytes().len() - 4;
        assert_eq!(happened.recv().expect("served"), format!("{bytes} bytes for shard 3"));
        assert_eq!(rest(&mut node), b"taken");
    }

    #[test]
    fn who_means_somebody_else_or_does_not_wait_is_closed() {
        let stranger = Hello { cluster_id: [2; 16], ..hello() }.to_bytes();
        let another = Hello { to_node: 9, ..hello() }.to_bytes();
        let hasty = [hello().to_bytes(), hello().to_bytes()].concat().into();
        let cut_short = [&10i32.to_be_bytes()[..], &hello().to_bytes()[4..14]].concat().into();
        let (cluster, node) = (Some(RejectReason::Cluster), Some(RejectReason::Node));
        for (bytes, why) in [(stranger, cluster), (another, node), (hasty, None), (cut_short, None)] {
            let directory = TestDirectory::new("net_refusal");
            let (address, happened) = serve(&directory, Arc::new(limits(1, 1)));
            let mut node = TcpStream::connect(address).expect("it listens");
            node.write_all(&bytes).expect("sent");
            assert_eq!(happened.recv().expect("served"), "connected to 7");
            assert_eq!(happened.recv().expect("served"), "disconnected");
            let answer = rest(&mut node);
            let told = answer.get(4..).map(|answer| match Answer::decode(answer) {
                Ok(Answer::Reject(reject)) => reject.why,
                other => panic!("{other:?}"),
            });
            assert_eq!(told, why);
        }
    }

    #[test]
    fn nodes_come_in_where_clients_may_not_any_more() {
        let directory = TestDirectory::new("net_beyond");
        let (address, happened) = serve(&directory, Arc::new(limits(1, 9)));
        let _first = TcpStream::connect(address).expect("it listens");
        assert_eq!(happened.recv().expect("served"), "connected to 7");
        let mut node = TcpStream::connect(address).expect("it listens");
        node.write_all(&hello().to_bytes()).expect("sent");
        assert_eq!(happened.recv().expect("served"), "connected to 7");
        assert_eq!(happened.recv().expect("served"), "disconnected");
        assert!(happened.recv().expect("served").ends_with("for shard 3"));
        assert_eq!(rest(&mut node), b"taken");
    }

    #[test]
    fn what_is_no_node_is_closed_beyond_the_limits() {
        for bytes in [&b"\0\0\0\x01a"[..], b""] {
            let directory = TestDirectory::new("net_no_node");
            let (address, happened) = serve(&directory, Arc::new(limits(1, 9)));
            let _first = TcpStream::connect(address).expect("it listens");
            assert_eq!(happened.recv().expect("served"), "connected to 7");
            let mut second = TcpStream::connect(address).expect("it listens");
            second.write_all(bytes).expect("sent");
            assert_eq!(happened.recv().expect("served"), "connected to 7");
            assert_eq!(rest(&mut second), b"", "closed: at once, or for its silence");
            assert_eq!(happened.recv().expect("served"), "disconnected");
        }
    }

    fn big_file(directory: &TestDirectory) -> Vec<u8> {
        let contents: Vec<u8> = (0..FILE_BYTES).map(|byte| (byte % 253) as u8).collect();
        std::fs::write(directory.0.join("big"), &contents).expect("written");
        contents
    }

    #[test]
    fn responses_leave_in_order_however_large() {
        let directory = TestDirectory::new("net_order");
        let contents = big_file(&directory);
        let (address, happened) = serve(&directory, Arc::new(limits(1, 1)));
        let mut client = TcpStream::connect(address).expect("it listens");
        assert_eq!(happened.recv().expect("served"), "connected to 7");
        let long = vec![b'x'; 90_000];
        send(&mut client, &[b"a", b"F", b"F", &long, b"S", b"b", b"F", b"C"]);
        let file = [b"begin", &contents[1..], b"end"].concat();
        for expected in [b"a", &file[..], &file, &long, &[&contents[1..], b"S"].concat(), b"b", &file, b"bye"] {
            assert!(receive(&mut client, expected.len()) == expected);
        }
        assert_eq!(client.read(&mut [0]).expect("a clean end"), 0);
        drop(client);
        assert_eq!(happened.recv().expect("served"), "disconnected");
    }

    #[test]
    fn an_impossible_length_closes_the_connection() {
        let directory = TestDirectory::new("net_length");
        let (address, happened) = serve(&directory, Arc::new(limits(9, 9)));
        let mut client = TcpStream::connect(address).expect("it listens");
        assert_eq!(happened.recv().expect("served"), "connected to 7");
        send(&mut client, &[b"a"]);
        assert_eq!(receive(&mut client, 1), b"a");
        client.write_all(&100_001i32.to_be_bytes()).expect("sent");
        assert_eq!(client.read(&mut [0]).expect("closed"), 0);
        assert_eq!(happened.recv().expect("served"), "disconnected");
    }

    #[test]
    fn too_many_connections_of_an_address_are_closed_at_once() {
        let directory = TestDirectory::new("net_limit");
        let (address, happened) = serve_at(&directory, Arc::new(limits(9, 1)), LISTENER + 1);
        let first = TcpStream::connect(address).expect("it listens");
        assert_eq!(happened.recv().expect("served"), "connected to 7");
        let mut second = TcpStream::connect(address).expect("it listens");
        assert_eq!(second.read(&mut [0]).expect("closed"), 0);
        drop(first);
        assert_eq!(happened.recv().expect("served"), "disconnected");
    }

    #[test]
    fn too_many_connections_in_all_wait_until_there_may_be_more() {
        let directory = TestDirectory::new("net_wait");
        let limits = Arc::new(limits(1, 9));
        let (address, happened) = serve_at(&directory, Arc::clone(&limits), LISTENER + 1);
        let _first = TcpStream::connect(address).expect("it listens");
        assert_eq!(happened.recv().expect("served"), "connected to 7");
        let mut second = TcpStream::connect(address).expect("the kernel takes it");
        send(&mut second, &[b"a"]);
        second.set_read_timeout(Some(2 * ACCEPT_REST)).expect("set");
        assert_eq!(second.read(&mut [0]).expect_err("nobody answers").kind(), ErrorKind::WouldBlock);
        limits.change(Arc::new(rules(2, 9)));
        assert_eq!(happened.recv().expect("served"), "connected to 7");
        second.set_read_timeout(None).expect("set");
        assert_eq!(receive(&mut second, 1), b"a");
    }
}
