//! A shard's connections: accepts them, reads requests, sends responses.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use glommio::timer::Timer;

use super::clock::Clock;
use super::disk::Disk;
use super::frames::{FrameReader, LINES, Line, ReadMemory};
use super::inbox::Inbox;
use super::limits::{Admission, ConnectionLimits};
use super::memory::{MemoryBudget, Pressure};
use super::output::{Output, Piece, SendCounters, Sent};
use super::put_off::Connections;
use super::ring::{Ring, Watch};
use super::sys::{self, SocketBuffers};
use crate::config::ConnectionRules;
use crate::metrics::{Kind, Sample};
use crate::shard::{ConnectionId, Event, SendPart, ShardIndex};

/// Bytes that one connection may bring before the others get their turn.
pub const READ_TURN_BYTES_MAX: usize = 1 << 20;
/// Connections that are accepted before the others get their turn.
const ACCEPTED_AT_ONCE_MAX: usize = 64;
/// How long a connection may take for a large request besides [`RECEIVE_RATE_MIN`] while others wait for its memory.
const RECEIVE_TIME: Duration = Duration::from_secs(1);
/// The slowest that a large request may come while others wait for its memory, in bytes a second.
const RECEIVE_RATE_MIN: u64 = 4 << 20;
/// How long a connection may take no byte of its responses while memory is tight.
const STUCK_TIGHT: Duration = Duration::from_secs(5);
/// The same while memory is full, or send no byte of a request that it has begun.
const STUCK_FULL: Duration = Duration::from_secs(1);
/// How often connections are looked at for idleness.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// The same while requests wait for memory.
const SWEEP_INTERVAL_WAITING: Duration = Duration::from_millis(250);
/// How long the peer of a connection that we have closed may take to read the rest and close its side.
const LINGER: Duration = Duration::from_secs(5);
/// A connection's name holds its shard above this bit, and below it its key on the ring.
const SHARD_SHIFT: u32 = 48;
/// How long accepting rests after an error, such as too many open files, or when there are as many connections as there
/// may be.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// The longest that accepting rests at once because connections come too fast: the limit may change.
const ACCEPT_REST_MAX: Duration = Duration::from_secs(1);
/// Connections that are kept, unread, to be closed later because their address opens them too fast. More are closed at
/// once.
const TOO_FAST_KEPT_MAX: usize = 1024;
/// The longest that one of them is kept.
const TOO_FAST_TIME_MAX: Duration = Duration::from_secs(10);

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
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// The shard has closed it: what is queued leaves, then our side ends.
    Closing,
    /// Our side has ended: what the peer still sends is read and thrown away, for a reset could overtake our last bytes.
    Lingering,
    /// Broken, or both sides have ended.
    Gone,
}

struct Connection {
    id: ConnectionId,
    peer: SocketAddr,
    stream: TcpStream,
    output: RefCell<Output>,
    reader: RefCell<FrameReader>,
    phase: Cell<Phase>,
    /// The socket has no room: the ring says when there is some.
    is_blocked: Cell<bool>,
    /// The queue has grown since the socket was last tried, or it has not been tried to its end.
    is_dirty: Cell<bool>,
    /// The shard takes requests.
    reading: Cell<bool>,
    /// It is in `Net::readable`.
    is_readable: Cell<bool>,
    /// The peer has ended its side, or the connection is broken: reading goes on until it says so.
    has_ended: Cell<bool>,
    /// It is in `Net::waiting`.
    is_waiting: Cell<bool>,
    /// It is in `Net::stopped`.
    is_stopped: Cell<bool>,
    /// When the request that is being received began.
    receiving_since: Cell<Option<Instant>>,
    /// When bytes last moved, in either direction.
    moved_at: Cell<Instant>,
    closing_since: Cell<Option<Instant>>,
}

/// How far the reading of a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// There may be more.
    GoesOn,
    /// The ring says when there is more.
    Drained,
    /// Whoever keeps it from being read says when it may be.
    Held,
    /// Both sides are done.
    Ended,
}

/// A listening socket.
struct Listener {
    socket: TcpListener,
    /// Its place in the configuration.
    number: usize,
    /// Connections wait.
    is_ready: bool,
    /// After an error, such as too many open files, it rests until then.
    rests_until: Option<Instant>,
}

impl Listener {
    fn is_due(&self) -> bool {
        self.is_ready && self.rests_until.is_none()
    }
}

/// A shard's hand on the network.
pub struct Net {
    shard: ShardIndex,
    clock: Clock,
    options: NetOptions,
    limits: Arc<ConnectionLimits>,
    inbox: Rc<Inbox>,
    disk: Rc<Disk>,
    ring: Rc<Ring>,
    listeners: RefCell<Vec<Listener>>,
    connections: RefCell<HashMap<ConnectionId, Rc<Connection>>>,
    /// Connections to be read from, in turn.
    readable: RefCell<VecDeque<Rc<Connection>>>,
    dirty: RefCell<Vec<Rc<Connection>>>,
    memory: RefCell<ReadMemory>,
    /// Connections whose large requests wait for memory, first come first.
    waiting: RefCell<[VecDeque<Rc<Connection>>; LINES]>,
    /// Connections whose last request took long.
    heavy: RefCell<HashSet<ConnectionId>>,
    /// Connections that are not read from because the process's memory is full.
    stopped: RefCell<Vec<Rc<Connection>>>,
    /// Refused connections, by when they are closed.
    too_fast: RefCell<Vec<(Instant, TcpStream)>>,
    next_connection: Cell<u64>,
    accepting: Cell<bool>,
    counters: RefCell<Counters>,
    sends: RefCell<SendCounters>,
}

impl Connections for Net {
    fn holds_memory(&self, connection: ConnectionId) -> bool {
        let connections = self.connections.borrow();
        connections.get(&connection).is_some_and(|connection| connection.output.borrow().holds_memory())
    }

    fn is_heavy(&self, connection: ConnectionId) -> bool {
        self.heavy.borrow().contains(&connection)
    }
}

#[derive(Default)]
struct Counters {
    accepted: u64,
    refused: u64,
    illegal_frames: u64,
    idle_closed: u64,
    /// For holding memory that others wait for.
    stuck_closed: u64,
    requests: u64,
    read_bytes: u64,
}

impl Net {
    /// A network without connections.
    pub fn new(
        shard: ShardIndex,
        clock: Clock,
        options: NetOptions,
        limits: Arc<ConnectionLimits>,
        inbox: Rc<Inbox>,
        disk: Rc<Disk>,
        ring: Rc<Ring>,
    ) -> Net {
        let memory = ReadMemory::new(options.memory.receiving_of_shard);
        Net {
            shard,
            clock,
            options,
            limits,
            inbox,
            disk,
            ring,
            listeners: RefCell::default(),
            connections: RefCell::default(),
            readable: RefCell::default(),
            dirty: RefCell::default(),
            memory: RefCell::new(memory),
            waiting: RefCell::default(),
            stopped: RefCell::default(),
            too_fast: RefCell::default(),
            heavy: RefCell::default(),
            next_connection: Cell::new(0),
            accepting: Cell::new(true),
            counters: RefCell::default(),
            sends: RefCell::default(),
        }
    }

    /// Accepts connections on a listening socket, the `number`th of the configuration.
    pub fn listen(&self, number: usize, socket: OwnedFd) -> io::Result<()> {
        let socket = TcpListener::from(socket);
        socket.set_nonblocking(true)?;
        let mut listeners = self.listeners.borrow_mut();
        self.ring.watch(&socket, Watch::Accept, listeners.len() as u64);
        listeners.push(Listener { socket, number, is_ready: false, rests_until: None });
        Ok(())
    }

    /// Other rules hold for the new connections of the whole process.
    pub fn change_rules(&self, rules: Arc<ConnectionRules>) {
        self.limits.change(rules);
    }

    /// Accepts no more connections.
    pub fn stop_accepting(&self) {
        self.accepting.set(false);
    }

    /// A watched socket is ready.
    pub fn ready(&self, watch: Watch, key: u64, has_ended: bool, must_renew: bool) {
        if watch == Watch::Accept {
            let listener = &mut self.listeners.borrow_mut()[key as usize];
            listener.is_ready = true;
            if must_renew {
                self.ring.watch(&listener.socket, watch, key);
            }
            return;
        }
        let connections = self.connections.borrow();
        let Some(connection) = connections.get(&self.connection_id(key)) else { return };
        if watch == Watch::Read {
            connection.has_ended.set(connection.has_ended.get() || has_ended);
            if must_renew && !has_ended {
                self.ring.watch(&connection.stream, watch, key);
            }
            self.queue_read(connection);
        } else {
            connection.is_blocked.set(false);
            self.mark_dirty(connection);
        }
    }

    fn connection_id(&self, key: u64) -> ConnectionId {
        ConnectionId((self.shard as u64) << SHARD_SHIFT | key)
    }

    /// Has a connection read from soon.
    fn queue_read(&self, connection: &Rc<Connection>) {
        if !connection.is_readable.replace(true) {
            self.readable.borrow_mut().push_back(Rc::clone(connection));
            self.inbox.wake();
        }
    }

    /// Ends both sides of a connection; the next read cleans up.
    fn cut(&self, connection: &Rc<Connection>) {
        connection.phase.set(Phase::Gone);
        connection.output.borrow_mut().clear();
        sys::shut_down(&connection.stream, true);
        self.queue_read(connection);
    }

    /// Whether there is something to read or to accept, or may be.
    pub fn has_readable(&self) -> bool {
        !self.readable.borrow().is_empty() || self.listeners.borrow().iter().any(Listener::is_due)
    }

    /// Accepts what waits, and reads from each readable connection once, until the time is up. What comes becomes events.
    pub fn receive(&self, until: Duration) {
        self.accept();
        if !self.stopped.borrow().is_empty() && !self.must_stop() {
            for connection in self.stopped.take() {
                connection.is_stopped.set(false);
                self.queue_read(&connection);
            }
        }
        let count = self.readable.borrow().len();
        for _ in 0..count {
            let Some(connection) = self.readable.borrow_mut().pop_front() else { return };
            connection.is_readable.set(false);
            let reading = match self.read(&connection) {
                Ok(reading) => reading,
                // Whoever has ended has something to read, if only the end: the watch has failed, and nobody would notice.
                Err(error) if error.kind() == ErrorKind::WouldBlock && connection.has_ended.get() => Reading::Ended,
                Err(error) if error.kind() == ErrorKind::WouldBlock => Reading::Drained,
                Err(error) if error.kind() == ErrorKind::Interrupted => Reading::GoesOn,
                Err(_) => Reading::Ended,
            };
            match reading {
                Reading::GoesOn => self.queue_read(&connection),
                Reading::Drained | Reading::Held => {}
                Reading::Ended => self.end(&connection),
            }
            if self.clock.elapsed() >= until {
                return;
            }
        }
    }

    fn accept(&self) {
        let mut listeners = self.listeners.borrow_mut();
        for listener in listeners.iter_mut().filter(|listener| listener.is_ready) {
            if listener.rests_until.is_some_and(|until| Instant::now() < until) {
                continue;
            }
            listener.rests_until = None;
            for _ in 0..ACCEPTED_AT_ONCE_MAX {
                if let Some(wait) = self.limits.must_wait(self.clock.elapsed()) {
                    listener.rests_until = Some(Instant::now() + wait.clamp(ACCEPT_REST, ACCEPT_REST_MAX));
                    break;
                }
                match listener.socket.accept() {
                    // After the stop the kernel may still hand out one that waited: dropping it closes it.
                    Ok((stream, peer)) if self.accepting.get() => self.accepted(listener.number, stream, peer),
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        listener.is_ready = false;
                        break;
                    }
                    // The peer has gone already, or there are no descriptors or no memory. Trying again at once would spin.
                    Err(_) => {
                        listener.rests_until = Some(Instant::now() + ACCEPT_REST);
                        break;
                    }
                }
            }
        }
    }

    /// Watches for idle connections.
    pub fn watch_idle(self: &Rc<Net>) {
        let net = Rc::clone(self);
        glommio::spawn_local(async move {
            loop {
                let interval = if net.waiting_count() > 0 { SWEEP_INTERVAL_WAITING } else { SWEEP_INTERVAL };
                Timer::new(interval).await;
                net.sweep(Instant::now());
            }
        })
        .detach();
    }

    fn accepted(&self, listener: usize, stream: TcpStream, peer: SocketAddr) {
        // A peer that has gone already; dropping the stream closes it.
        if sys::prepare_connection(&stream, self.options.buffers).is_err() {
            return;
        }
        let admission = match self.options.memory.pressure() {
            Pressure::Full => Admission::TooMany,
            _ => self.limits.admit(self.clock.elapsed(), peer.ip()),
        };
        if admission != Admission::Admitted {
            self.counters.borrow_mut().refused += 1;
            let mut kept = self.too_fast.borrow_mut();
            if let Admission::TooFast(wait) = admission
                && kept.len() < TOO_FAST_KEPT_MAX
            {
                kept.push((Instant::now() + wait.min(TOO_FAST_TIME_MAX), stream));
            }
            return;
        }
        self.counters.borrow_mut().accepted += 1;
        let key = self.next_connection.get();
        self.next_connection.set(key + 1);
        let id = self.connection_id(key);
        self.ring.watch(&stream, Watch::Read, key);
        let connection = Rc::new(Connection {
            id,
            peer,
            stream,
            output: RefCell::default(),
            reader: RefCell::new(FrameReader::new(self.options.request_bytes_max)),
            phase: Cell::new(Phase::Open),
            is_blocked: Cell::new(false),
            is_dirty: Cell::new(false),
            reading: Cell::new(true),
            is_readable: Cell::new(false),
            has_ended: Cell::new(false),
            is_waiting: Cell::new(false),
            is_stopped: Cell::new(false),
            receiving_since: Cell::new(None),
            moved_at: Cell::new(Instant::now()),
            closing_since: Cell::new(None),
        });
        self.inbox.push(Event::Connected { connection: id, listener, peer });
        // What came before the watch.
        self.queue_read(&connection);
        self.connections.borrow_mut().insert(id, connection);
    }

    /// Both sides of a connection have ended, or it is broken.
    fn end(&self, connection: &Rc<Connection>) {
        connection.phase.set(Phase::Gone);
        connection.output.borrow_mut().clear();
        sys::shut_down(&connection.stream, true);
        let ConnectionId(id) = connection.id;
        let key = id & !(u64::MAX << SHARD_SHIFT);
        self.ring.unwatch(Watch::Read, key);
        if connection.is_blocked.get() {
            self.ring.unwatch(Watch::Write, key);
        }
        connection.reader.borrow_mut().release(&mut self.memory.borrow_mut());
        if connection.is_waiting.get() {
            // Its place would keep its socket open until its turn comes.
            for line in &mut *self.waiting.borrow_mut() {
                line.retain(|waiting| !Rc::ptr_eq(waiting, connection));
            }
        }
        if connection.is_stopped.get() {
            self.stopped.borrow_mut().retain(|stopped| !Rc::ptr_eq(stopped, connection));
        }
        self.give_memory();
        if self.connections.borrow_mut().remove(&connection.id).is_some() {
            self.heavy.borrow_mut().remove(&connection.id);
            self.limits.leave(connection.peer.ip());
            self.inbox.push(Event::Disconnected { connection: connection.id });
        }
    }

    /// Lets those go on that wait for memory, in their order, while there is some.
    fn give_memory(&self) {
        for line in &mut *self.waiting.borrow_mut() {
            while let Some(first) = line.front() {
                if !first.reader.borrow_mut().try_promise(&mut self.memory.borrow_mut()) {
                    break;
                }
                let first = line.pop_front().expect("it was just seen");
                first.is_waiting.set(false);
                first.receiving_since.set(Some(Instant::now()));
                self.queue_read(&first);
            }
        }
    }

    /// Whether no connection may be read from now.
    fn must_stop(&self) -> bool {
        self.options.memory.pressure() == Pressure::Full || self.inbox.is_crowded()
    }

    /// Whether something must be tried again soon that nobody will wake for: connections that are not read from, and
    /// listeners that rest.
    pub fn must_retry(&self) -> bool {
        !self.stopped.borrow().is_empty()
            || self.listeners.borrow().iter().any(|listener| listener.rests_until.is_some())
    }

    /// Connections whose large requests wait for memory.
    fn waiting_count(&self) -> usize {
        self.waiting.borrow().iter().map(VecDeque::len).sum()
    }

    /// Remembers whether a connection's last request took long.
    pub fn set_heavy(&self, connection: ConnectionId, is_heavy: bool) {
        let mut heavy = self.heavy.borrow_mut();
        if is_heavy {
            heavy.insert(connection);
        } else if !heavy.is_empty() {
            heavy.remove(&connection);
        }
    }

    /// Whether a connection may be read from now, as far as memory goes; if not it is read from when it may.
    fn may_read(&self, connection: &Rc<Connection>) -> bool {
        if let Some(Line(line)) = connection.reader.borrow().waits_in() {
            if !connection.is_waiting.replace(true) {
                self.waiting.borrow_mut()[line].push_back(Rc::clone(connection));
            }
            return false;
        }
        let must_stop = self.must_stop();
        if must_stop && !connection.is_stopped.replace(true) {
            self.stopped.borrow_mut().push(Rc::clone(connection));
        }
        !must_stop
    }

    /// Reads from a connection once.
    fn read(&self, connection: &Rc<Connection>) -> io::Result<Reading> {
        match connection.phase.get() {
            Phase::Open if connection.reading.get() && self.may_read(connection) => {}
            // Back-pressure: the shard wants no more requests of this connection for now, or there is no memory for them.
            Phase::Open => return Ok(Reading::Held),
            Phase::Closing | Phase::Lingering => {
                let bytes = (&connection.stream).read(&mut [0; 4096])?;
                return Ok(if bytes == 0 { Reading::Ended } else { Reading::GoesOn });
            }
            Phase::Gone => return Ok(Reading::Ended),
        }
        let mut memory = self.memory.borrow_mut();
        let mut reader = connection.reader.borrow_mut();
        let buffer = reader.buffer(&mut memory);
        let room = buffer.len().min(READ_TURN_BYTES_MAX);
        let bytes = (&connection.stream).read(&mut buffer[..room])?;
        if bytes == 0 {
            return Ok(Reading::Ended);
        }
        let now = Instant::now();
        connection.moved_at.set(now);
        let mut counters = self.counters.borrow_mut();
        counters.read_bytes += bytes as u64;
        let requests = counters.requests;
        let promised = memory.promised_bytes();
        let cut = reader.received(bytes, &mut memory, |frame| {
            counters.requests += 1;
            self.inbox.push_at(self.clock.at(now), Event::Request { connection: connection.id, frame });
        });
        if !reader.is_partial() {
            connection.receiving_since.set(None);
        } else if counters.requests > requests || connection.receiving_since.get().is_none() {
            connection.receiving_since.set(Some(now));
        }
        let has_released = memory.promised_bytes() < promised;
        drop((reader, memory));
        if has_released {
            self.give_memory();
        }
        if cut.is_err() {
            counters.illegal_frames += 1;
            return Ok(Reading::Ended);
        }
        // The kernel had no more than that; what comes later is announced.
        let is_drained = bytes < room && !connection.has_ended.get();
        Ok(if is_drained { Reading::Drained } else { Reading::GoesOn })
    }

    /// Stops or goes on reading.
    pub fn set_reading(&self, connection: ConnectionId, on: bool) {
        if let Some(connection) = self.connections.borrow().get(&connection) {
            connection.reading.set(on);
            if on {
                self.queue_read(connection);
            }
        }
    }

    /// Queues parts for a connection; [`Net::flush`] sends them.
    pub fn queue(&self, connection: ConnectionId, parts: Vec<SendPart>) {
        let connections = self.connections.borrow();
        // A connection that is gone is no error: the shard will hear of it.
        let Some(connection) = connections.get(&connection).filter(|known| known.phase.get() == Phase::Open) else {
            return;
        };
        for part in parts {
            let piece = match part {
                SendPart::Memory(bytes) => Piece::Memory(bytes),
                SendPart::File { path, position, bytes } => match self.disk.buffered(&path) {
                    Ok(file) => Piece::File { file, position, bytes },
                    Err(error) => {
                        // The response's length is on its way already: only closing is left.
                        super::warn("net", &format!("closing {}: cannot send {path}: {error}", connection.peer));
                        self.cut(connection);
                        return;
                    }
                },
            };
            connection.output.borrow_mut().push(piece);
        }
        self.mark_dirty(connection);
    }

    /// Closes a connection when its queue has left.
    pub fn close(&self, connection: ConnectionId) {
        let connections = self.connections.borrow();
        if let Some(connection) = connections.get(&connection).filter(|known| known.phase.get() == Phase::Open) {
            connection.phase.set(Phase::Closing);
            connection.closing_since.set(Some(Instant::now()));
            self.queue_read(connection);
            self.mark_dirty(connection);
        }
    }

    fn mark_dirty(&self, connection: &Rc<Connection>) {
        if !connection.is_dirty.replace(true) {
            self.dirty.borrow_mut().push(Rc::clone(connection));
        }
    }

    /// Sends what was queued, as far as the sockets have room; the ring says when one has some. Connections that have
    /// not had their turn when `until` comes, or have more to send than their share, wait for the next call:
    /// [`Net::has_unsent`].
    pub fn flush(&self, until: Duration) {
        let mut dirty = std::mem::take(&mut *self.dirty.borrow_mut());
        let mut late = false;
        dirty.retain(|connection| {
            if late {
                return true;
            }
            let is_paused = self.flush_one(connection);
            connection.is_dirty.set(is_paused);
            late = self.clock.at(connection.moved_at.get()) > until;
            is_paused
        });
        // Nothing was added meanwhile.
        *self.dirty.borrow_mut() = dirty;
    }

    /// Whether [`Net::flush`] has not come to the end.
    pub fn has_unsent(&self) -> bool {
        !self.dirty.borrow().is_empty()
    }

    /// Sends a connection's share; whether it has more to send at once.
    fn flush_one(&self, connection: &Rc<Connection>) -> bool {
        if connection.is_blocked.get() || connection.phase.get() == Phase::Gone {
            return false;
        }
        match self.send(connection) {
            Ok(Sent::All) => self.all_sent(connection),
            Ok(Sent::Paused) => return true,
            Ok(Sent::Blocked) => {
                connection.is_blocked.set(true);
                let ConnectionId(id) = connection.id;
                self.ring.watch(&connection.stream, Watch::Write, id & !(u64::MAX << SHARD_SHIFT));
            }
            Err(_) => self.cut(connection),
        }
        false
    }

    fn send(&self, connection: &Connection) -> io::Result<Sent> {
        let sent = connection.output.borrow_mut().send(&connection.stream, &mut self.sends.borrow_mut())?;
        connection.moved_at.set(Instant::now());
        Ok(sent)
    }

    fn all_sent(&self, connection: &Connection) {
        match connection.phase.get() {
            Phase::Open => {
                let at = self.clock.at(connection.moved_at.get());
                self.inbox.push_at(at, Event::Drained { connection: connection.id });
            }
            Phase::Closing => {
                connection.phase.set(Phase::Lingering);
                sys::shut_down(&connection.stream, false);
            }
            Phase::Lingering | Phase::Gone => {}
        }
    }

    /// Whether no connection has anything left to be sent.
    pub fn is_drained(&self) -> bool {
        self.connections.borrow().values().all(|connection| connection.output.borrow().is_empty())
    }

    fn sweep(&self, now: Instant) {
        let pressure = self.options.memory.pressure();
        let is_waited_for = self.waiting_count() > 0;
        self.memory.borrow_mut().give_up_idle();
        // Dropping them closes them.
        self.too_fast.borrow_mut().retain(|(until, _)| now < *until);
        let connections: Vec<Rc<Connection>> = self.connections.borrow().values().cloned().collect();
        let (mut stuck, mut last_stuck) = (0, None);
        for connection in connections {
            let quiet = now.saturating_duration_since(connection.moved_at.get());
            if quiet >= SWEEP_INTERVAL {
                connection.reader.borrow_mut().release_idle(&mut self.memory.borrow_mut());
            }
            if self.is_stuck(&connection, now, quiet, pressure, is_waited_for) {
                stuck += 1;
                last_stuck = Some(connection.peer);
                self.cut(&connection);
                continue;
            }
            // Nobody reads from it, so nobody would notice; its socket stays open until its turn comes.
            if connection.is_waiting.get() && quiet >= SWEEP_INTERVAL && sys::peer_has_ended(&connection.stream) {
                self.cut(&connection);
                continue;
            }
            let lingers = connection.closing_since.get();
            let overdue =
                lingers.is_some_and(|since| now.saturating_duration_since(since) >= LINGER && quiet >= LINGER);
            // While the shard holds back its requests, the peer cannot be blamed for silence, unless it does not take its
            // responses.
            let is_waited_for = connection.reading.get() || !connection.output.borrow().is_empty();
            let idle = is_waited_for && self.options.idle_max.is_some_and(|max| quiet >= max);
            if idle {
                self.counters.borrow_mut().idle_closed += 1;
            }
            if overdue || idle {
                self.cut(&connection);
            }
        }
        self.counters.borrow_mut().stuck_closed += stuck;
        if let Some(peer) = last_stuck {
            super::warn("net", &format!("closed {stuck} connections that held memory others need, such as {peer}"));
        }
    }

    /// Whether a connection holds memory that is needed elsewhere and does nothing with it.
    fn is_stuck(
        &self,
        connection: &Connection,
        now: Instant,
        quiet: Duration,
        pressure: Pressure,
        is_waited_for: bool,
    ) -> bool {
        let reader = connection.reader.borrow();
        // While we do not read from it, the peer cannot be blamed.
        let is_read = connection.reading.get() && !reader.is_waiting() && !connection.is_stopped.get();
        let receives = is_read && reader.is_partial();
        let since = connection.receiving_since.get().filter(|_| receives);
        let time_max = RECEIVE_TIME + Duration::from_secs(reader.promised_bytes() as u64 / RECEIVE_RATE_MIN);
        let holds_up = is_waited_for
            && reader.promised_bytes() > 0
            && since.is_some_and(|since| now.saturating_duration_since(since) > time_max);
        let takes_nothing = || connection.output.borrow().holds_memory();
        holds_up
            || match pressure {
                Pressure::None => false,
                Pressure::Tight => quiet >= STUCK_TIGHT && takes_nothing(),
                Pressure::Full => quiet >= STUCK_FULL && (receives || takes_nothing()),
            }
    }

    /// Counters for a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        let counters = self.counters.borrow();
        let mut sample = |name, help, kind, value: u64| {
            samples.push(Sample { name, help, kind, labels: Vec::new(), value: value as f64 });
        };
        let counter = Kind::Counter;
        sample("millstream_connections_accepted_total", "Connections accepted.", counter, counters.accepted);
        let help = "Connections closed at once: max.connections.per.ip, or the connection rate of their address.";
        sample("millstream_connections_refused_total", help, counter, counters.refused);
        let help = "Connections closed for connections.max.idle.ms.";
        sample("millstream_connections_idle_closed_total", help, counter, counters.idle_closed);
        let help = "Connections closed because they held memory that others needed.";
        sample("millstream_connections_stuck_closed_total", help, counter, counters.stuck_closed);
        let help = "Connections closed for an impossible request length.";
        sample("millstream_illegal_frames_total", help, counter, counters.illegal_frames);
        sample("millstream_requests_received_total", "Whole requests received.", counter, counters.requests);
        sample("millstream_received_bytes_total", "Bytes received from clients.", counter, counters.read_bytes);
        self.sends.borrow().samples(samples);
        let mut gauge = |name, help, value: usize| {
            samples.push(Sample { name, help, kind: Kind::Gauge, labels: Vec::new(), value: value as f64 });
        };
        let promised = self.memory.borrow().promised_bytes();
        gauge("millstream_receive_bytes", "Memory of large requests that are being received.", promised);
        let help = "Connections whose large requests wait for memory.";
        gauge("millstream_receive_waiting", help, self.waiting_count());
        gauge(
            "millstream_receive_bytes_max",
            "The bound of millstream_receive_bytes; one request may go beyond it.",
            self.options.memory.receiving_of_shard,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::Inbound;
    use super::super::disk::Pools;
    use super::super::files::tests::TestDirectory;
    use super::super::limits::tests::{limits, rules};
    use super::super::mailbox::Mailbox;
    use super::super::ring::Completion;
    use super::super::sys::PortUse;
    use super::*;
    use bytes::Bytes;
    use std::collections::VecDeque;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::mpsc::{Receiver, channel};

    const FILE_BYTES: usize = 5_000_000;

    /// Serves connections on a thread of its own with an echo for a shard: `F` is answered with the file `big`
    /// between two words, `C` with `bye` and a close, `S` stops the reading until everything is sent;
    /// anything else comes back. Ends with the first connection that ends. Returns the address and what happened.
    fn serve(directory: &TestDirectory, limits: Arc<ConnectionLimits>) -> (SocketAddr, Receiver<String>) {
        let any = "127.0.0.1:0".parse().expect("an address");
        let socket = sys::bind(any, PortUse::Shared).expect("bound");
        sys::listen(&socket, 10).expect("listens");
        let address = sys::local_address(&socket).expect("bound");
        let root = directory.0.clone();
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let inbox = Rc::new(Inbox::default());
            let mailbox: Arc<Mailbox<Inbound>> = Arc::default();
            let pools = Pools::start().expect("threads");
            let ring = Rc::new(Ring::new().expect("a ring"));
            let disk = Rc::new(Disk::new(&root, Rc::clone(&ring), 10, pools, mailbox, Rc::clone(&inbox)));
            let options = NetOptions {
                request_bytes_max: 100_000,
                idle_max: None,
                buffers: SocketBuffers::default(),
                memory: Arc::new(MemoryBudget::for_tests()),
            };
            let clock = Clock::start();
            let net = Rc::new(Net::new(3, clock, options, limits, Rc::clone(&inbox), disk, Rc::clone(&ring)));
            net.listen(7, socket).expect("it listens");
            let (mut events, mut completions) = (VecDeque::new(), Vec::new());
            loop {
                ring.submit().expect("submitted");
                ring.take(&mut completions).expect("taken");
                for completion in completions.drain(..) {
                    match completion {
                        Completion::Ready { watch, key, has_ended, must_renew } => {
                            net.ready(watch, key, has_ended, must_renew);
                        }
                        other => panic!("not of the network: {other:?}"),
                    }
                }
                net.receive(Duration::MAX);
                inbox.take(&mut events);
                for happened in events.drain(..) {
                    match happened.event {
                        Event::Connected { listener, .. } => {
                            sender.send(format!("connected to {listener}")).expect("the test waits");
                        }
                        Event::Request { connection, frame } => answer(&net, connection, &frame),
                        Event::Drained { connection } => net.set_reading(connection, true),
                        Event::Disconnected { .. } => {
                            sender.send("disconnected".to_owned()).expect("the test waits");
                            return;
                        }
                        other => panic!("not of the network: {other:?}"),
                    }
                }
                net.flush(Duration::MAX);
                std::thread::yield_now();
            }
        });
        (address, receiver)
    }

    fn answer(net: &Rc<Net>, connection: ConnectionId, frame: &Bytes) {
        assert_eq!(connection.0 >> 48, 3, "the shard is part of the name");
        let memory = |text: &'static str| SendPart::Memory(Bytes::from_static(text.as_bytes()));
        let file = SendPart::File { path: "big".into(), position: 1, bytes: FILE_BYTES - 1 };
        match &frame[..] {
            b"F" => net.queue(connection, vec![memory("begin"), file, memory("end")]),
            b"C" => {
                net.queue(connection, vec![memory("bye")]);
                net.close(connection);
            }
            b"S" => {
                net.set_reading(connection, false);
                net.queue(connection, vec![file, memory("S")]);
            }
            _ => net.queue(connection, vec![SendPart::Memory(frame.clone())]),
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
        let (address, happened) = serve(&directory, Arc::new(limits(9, 1)));
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
        let (address, happened) = serve(&directory, Arc::clone(&limits));
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
