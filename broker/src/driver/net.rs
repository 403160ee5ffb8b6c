//! A shard's connections: accepts them, reads requests, sends responses.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use glommio::timer::Timer;

use super::clock::Clock;
use super::disk::Disk;
use super::frames::{FrameReader, LINES, Line, ReadMemory};
use super::inbox::Inbox;
use super::memory::{MemoryBudget, Pressure};
use super::output::{Output, Piece, SendCounters, Sent};
use super::put_off::Connections;
use super::sys::{self, SocketBuffers};
use crate::metrics::{Kind, Sample};
use crate::shard::{ConnectionId, Event, SendPart, ShardIndex};

/// Bytes that one connection may bring before the other tasks of its core, and the kernel's completions, get their turn.
pub const READ_TURN_BYTES_MAX: usize = 1 << 20;
/// How long a connection may take for a large request besides [`RECEIVE_RATE_MIN`] while others wait for its memory.
const RECEIVE_TIME: Duration = Duration::from_secs(1);
/// The slowest that a large request may come while others wait for its memory, in bytes a second.
const RECEIVE_RATE_MIN: u64 = 4 << 20;
/// How long a connection may take no byte of its responses while memory is tight.
const STUCK_TIGHT: Duration = Duration::from_secs(5);
/// The same while memory is full, or send no byte of a request that it has begun.
const STUCK_FULL: Duration = Duration::from_secs(1);
/// How often connections that are not read from while memory is full are tried again.
const FULL_RETRY: Duration = Duration::from_millis(20);
/// The same while more requests wait than a turn can handle.
const CROWDED_RETRY: Duration = Duration::from_millis(1);
/// How often connections are looked at for idleness.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// The same while requests wait for memory.
const SWEEP_INTERVAL_WAITING: Duration = Duration::from_millis(250);
/// How long the peer of a connection that we have closed may take to read the rest and close its side.
const LINGER: Duration = Duration::from_secs(5);
/// How long accepting rests after an error, such as too many open files.
const ACCEPT_REST: Duration = Duration::from_millis(100);

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

/// Counts the connections of the whole process: `max.connections` and `max.connections.per.ip`.
#[derive(Debug)]
pub struct ConnectionLimits {
    connections_max: usize,
    per_address_max: usize,
    counts: Mutex<(usize, HashMap<IpAddr, usize>)>,
}

impl ConnectionLimits {
    /// At most so many connections, in all and from one address.
    pub fn new(connections_max: usize, per_address_max: usize) -> ConnectionLimits {
        ConnectionLimits { connections_max, per_address_max, counts: Mutex::default() }
    }

    fn admit(&self, address: IpAddr) -> bool {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, by_address) = &mut *counts;
        let of_address = by_address.get(&address).copied().unwrap_or(0);
        if *all >= self.connections_max || of_address >= self.per_address_max {
            return false;
        }
        *all += 1;
        by_address.insert(address, of_address + 1);
        true
    }

    fn leave(&self, address: IpAddr) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, by_address) = &mut *counts;
        *all -= 1;
        let of_address = by_address.get_mut(&address).expect("it was admitted");
        *of_address -= 1;
        if *of_address == 0 {
            by_address.remove(&address);
        }
    }
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
    stream: RefCell<TcpStream>,
    output: RefCell<Output>,
    reader: RefCell<FrameReader>,
    phase: Cell<Phase>,
    /// A task waits for room in the socket and sends the queue.
    is_writing: Cell<bool>,
    /// The queue has grown since the socket was last tried.
    is_dirty: Cell<bool>,
    reading: Cell<bool>,
    /// The reader task, while it waits to be allowed to read.
    reader_waker: RefCell<Option<Waker>>,
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

impl Connection {
    fn wake_reader(&self) {
        if let Some(waker) = self.reader_waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Ends both sides; the reader task notices and cleans up.
    fn cut(&self) {
        self.phase.set(Phase::Gone);
        self.output.borrow_mut().clear();
        sys::shut_down(&*self.stream.borrow(), true);
        self.wake_reader();
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
    connections: RefCell<HashMap<ConnectionId, Rc<Connection>>>,
    dirty: RefCell<Vec<Rc<Connection>>>,
    memory: RefCell<ReadMemory>,
    /// Connections whose large requests wait for memory, first come first.
    waiting: RefCell<[VecDeque<Rc<Connection>>; LINES]>,
    /// Connections whose last request took long.
    heavy: RefCell<HashSet<ConnectionId>>,
    /// Connections that are not read from because the process's memory is full.
    stopped: RefCell<Vec<Rc<Connection>>>,
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
    ) -> Net {
        let memory = ReadMemory::new(options.memory.receiving_of_shard);
        Net {
            shard,
            clock,
            options,
            limits,
            inbox,
            disk,
            connections: RefCell::default(),
            dirty: RefCell::default(),
            memory: RefCell::new(memory),
            waiting: RefCell::default(),
            stopped: RefCell::default(),
            heavy: RefCell::default(),
            next_connection: Cell::new(0),
            accepting: Cell::new(true),
            counters: RefCell::default(),
            sends: RefCell::default(),
        }
    }

    /// Accepts connections on a listening socket, the `listener`th of the configuration.
    pub fn listen(self: &Rc<Net>, listener: usize, socket: OwnedFd) {
        let net = Rc::clone(self);
        glommio::spawn_local(async move {
            let socket = sys::into_listener(socket);
            while net.accepting.get() {
                let accepted = socket.accept().await;
                match accepted {
                    // After the stop the kernel may still hand out one that waited: dropping it closes it.
                    Ok(stream) if net.accepting.get() => net.accepted(listener, stream),
                    Ok(_) => {}
                    // Out of descriptors or memory, or the peer has gone already. Trying again at once would spin.
                    Err(_) => drop(Timer::new(ACCEPT_REST).await),
                }
            }
        })
        .detach();
    }

    /// Accepts no more connections.
    pub fn stop_accepting(&self) {
        self.accepting.set(false);
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

    fn accepted(self: &Rc<Net>, listener: usize, stream: TcpStream) {
        let prepared = sys::prepare_connection(&stream, self.options.buffers);
        // A peer that has gone already has no address; dropping the stream closes it.
        let (Ok(()), Ok(peer)) = (prepared, stream.peer_addr()) else { return };
        if self.options.memory.pressure() == Pressure::Full || !self.limits.admit(peer.ip()) {
            self.counters.borrow_mut().refused += 1;
            return;
        }
        self.counters.borrow_mut().accepted += 1;
        let id = self.next_connection.get();
        self.next_connection.set(id + 1);
        let id = ConnectionId((self.shard as u64) << 48 | id);
        let connection = Rc::new(Connection {
            id,
            peer,
            stream: RefCell::new(stream),
            output: RefCell::default(),
            reader: RefCell::new(FrameReader::new(self.options.request_bytes_max)),
            phase: Cell::new(Phase::Open),
            is_writing: Cell::new(false),
            is_dirty: Cell::new(false),
            reading: Cell::new(true),
            reader_waker: RefCell::default(),
            is_waiting: Cell::new(false),
            is_stopped: Cell::new(false),
            receiving_since: Cell::new(None),
            moved_at: Cell::new(Instant::now()),
            closing_since: Cell::new(None),
        });
        self.connections.borrow_mut().insert(id, Rc::clone(&connection));
        self.inbox.push(Event::Connected { connection: id, listener, peer });
        let net = Rc::clone(self);
        glommio::spawn_local(async move {
            net.read(&connection).await;
            connection.cut();
            connection.reader.borrow_mut().release(&mut net.memory.borrow_mut());
            if connection.is_waiting.get() {
                // Its place would keep its socket open until its turn comes.
                for line in &mut *net.waiting.borrow_mut() {
                    line.retain(|waiting| !Rc::ptr_eq(waiting, &connection));
                }
            }
            net.give_memory();
            net.connections.borrow_mut().remove(&connection.id);
            net.heavy.borrow_mut().remove(&connection.id);
            net.limits.leave(connection.peer.ip());
            net.inbox.push(Event::Disconnected { connection: connection.id });
        })
        .detach();
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
                first.wake_reader();
            }
        }
    }

    /// When to look again, if no connection may be read from now.
    fn must_stop(&self) -> Option<Duration> {
        if self.options.memory.pressure() == Pressure::Full {
            Some(FULL_RETRY)
        } else {
            self.inbox.is_crowded().then_some(CROWDED_RETRY)
        }
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

    /// Whether a connection may be read from now, as far as memory goes; if not its reader is woken when it may.
    fn may_read(self: &Rc<Net>, connection: &Rc<Connection>) -> bool {
        if let Some(Line(line)) = connection.reader.borrow().waits_in() {
            if !connection.is_waiting.replace(true) {
                self.waiting.borrow_mut()[line].push_back(Rc::clone(connection));
            }
            return false;
        }
        if self.must_stop().is_none() {
            return true;
        }
        if connection.is_stopped.replace(true) {
            return false;
        }
        let mut stopped = self.stopped.borrow_mut();
        stopped.push(Rc::clone(connection));
        if stopped.len() == 1 {
            let net = Rc::clone(self);
            glommio::spawn_local(async move {
                while let Some(retry) = net.must_stop() {
                    Timer::new(retry).await;
                }
                for connection in net.stopped.take() {
                    connection.is_stopped.set(false);
                    connection.wake_reader();
                }
            })
            .detach();
        }
        false
    }

    /// Reads until the connection ends.
    async fn read(self: &Rc<Net>, connection: &Rc<Connection>) {
        let mut since_wait = 0;
        loop {
            let bytes = poll_fn(|context| {
                let polled = self.poll_read(connection, context);
                if polled.is_pending() {
                    since_wait = 0;
                }
                polled
            })
            .await;
            match bytes {
                Ok(0) | Err(_) => return,
                Ok(bytes) => since_wait += bytes,
            }
            if since_wait >= READ_TURN_BYTES_MAX {
                since_wait = 0;
                pass_the_ring().await;
            }
        }
    }

    fn poll_read(
        self: &Rc<Net>,
        connection: &Rc<Connection>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut stream = connection.stream.borrow_mut();
        match connection.phase.get() {
            Phase::Open if connection.reading.get() && self.may_read(connection) => {}
            // Back-pressure: the shard wants no more requests of this connection for now, or there is no memory for them.
            Phase::Open => {
                *connection.reader_waker.borrow_mut() = Some(context.waker().clone());
                return Poll::Pending;
            }
            Phase::Closing | Phase::Lingering => {
                let mut nowhere = [0; 4096];
                return Pin::new(&mut *stream).poll_read(context, &mut nowhere);
            }
            Phase::Gone => return Poll::Ready(Ok(0)),
        }
        let mut memory = self.memory.borrow_mut();
        let mut reader = connection.reader.borrow_mut();
        let buffer = reader.buffer(&mut memory);
        let bytes = match Pin::new(&mut *stream).poll_read(context, buffer) {
            Poll::Ready(Ok(bytes)) => bytes,
            other => return other,
        };
        if bytes == 0 {
            return Poll::Ready(Ok(0));
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
        match cut {
            Ok(()) => Poll::Ready(Ok(bytes)),
            Err(error) => {
                counters.illegal_frames += 1;
                Poll::Ready(Err(io::Error::other(error.to_string())))
            }
        }
    }

    /// Stops or goes on reading.
    pub fn set_reading(&self, connection: ConnectionId, on: bool) {
        if let Some(connection) = self.connections.borrow().get(&connection) {
            connection.reading.set(on);
            if on {
                connection.wake_reader();
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
                        connection.cut();
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
            connection.wake_reader();
            self.mark_dirty(connection);
        }
    }

    fn mark_dirty(&self, connection: &Rc<Connection>) {
        if !connection.is_dirty.replace(true) {
            self.dirty.borrow_mut().push(Rc::clone(connection));
        }
    }

    /// Sends what was queued in this turn, as far as the sockets have room; tasks send the rest. Connections that
    /// have not had their turn when `until` comes wait for the next call: [`Net::has_unsent`].
    pub fn flush(self: &Rc<Net>, until: Duration) {
        let mut dirty = std::mem::take(&mut *self.dirty.borrow_mut());
        let mut late = false;
        dirty.retain(|connection| {
            if late {
                return true;
            }
            connection.is_dirty.set(false);
            self.flush_one(connection);
            late = self.clock.at(connection.moved_at.get()) > until;
            false
        });
        // Nothing was added meanwhile.
        *self.dirty.borrow_mut() = dirty;
    }

    /// Whether [`Net::flush`] has not come to the end.
    pub fn has_unsent(&self) -> bool {
        !self.dirty.borrow().is_empty()
    }

    fn flush_one(self: &Rc<Net>, connection: &Rc<Connection>) {
        if connection.is_writing.get() || connection.phase.get() == Phase::Gone {
            return;
        }
        match self.send(connection) {
            Ok(Sent::All) => self.all_sent(connection),
            Ok(unfinished) => {
                connection.is_writing.set(true);
                let net = Rc::clone(self);
                let connection = Rc::clone(connection);
                glommio::spawn_local(async move {
                    if net.send_rest(&connection, unfinished).await.is_err() {
                        connection.cut();
                    }
                    connection.is_writing.set(false);
                })
                .detach();
            }
            Err(_) => connection.cut(),
        }
    }

    fn send(&self, connection: &Connection) -> io::Result<Sent> {
        let stream = connection.stream.borrow();
        let sent = connection.output.borrow_mut().send(&*stream, &mut self.sends.borrow_mut())?;
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
                sys::shut_down(&*connection.stream.borrow(), false);
            }
            Phase::Lingering | Phase::Gone => {}
        }
    }

    /// Sends the queue of a connection to its end, waiting for room in the socket.
    async fn send_rest(&self, connection: &Connection, mut last: Sent) -> io::Result<()> {
        while connection.phase.get() != Phase::Gone {
            match last {
                Sent::All => {
                    self.all_sent(connection);
                    return Ok(());
                }
                Sent::Paused => pass_the_ring().await,
                Sent::Blocked => {
                    // glommio waits for room only to write something.
                    let bytes = connection.output.borrow().next_bytes()?;
                    let sent = poll_fn(|context| {
                        let mut stream = connection.stream.borrow_mut();
                        Pin::new(&mut *stream).poll_write(context, &bytes)
                    })
                    .await?;
                    // A connection that was cut meanwhile has an empty queue.
                    if connection.phase.get() == Phase::Gone {
                        return Ok(());
                    }
                    connection.output.borrow_mut().advance(sent);
                    self.sends.borrow_mut().memory_bytes += sent as u64;
                }
            }
            last = self.send(connection)?;
        }
        Ok(())
    }

    /// Whether no connection has anything left to be sent.
    pub fn is_drained(&self) -> bool {
        self.connections.borrow().values().all(|connection| connection.output.borrow().is_empty())
    }

    fn sweep(&self, now: Instant) {
        let pressure = self.options.memory.pressure();
        let is_waited_for = self.waiting_count() > 0;
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
                connection.cut();
                continue;
            }
            // Nobody reads from it, so nobody would notice; its socket stays open until its turn comes.
            if connection.is_waiting.get()
                && quiet >= SWEEP_INTERVAL
                && sys::peer_has_ended(&*connection.stream.borrow())
            {
                connection.cut();
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
                connection.cut();
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
        let help = "Connections closed at once: max.connections or max.connections.per.ip.";
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

/// Lets every other runnable task run and the kernel's completions in, then goes on. A plain yield does not: glommio
/// looks at its rings only when no task is runnable.
async fn pass_the_ring() {
    // Over by the time the executor looks at its timers, but not yet when it is polled here, unless this thread is
    // interrupted just now; then the next pass is soon enough.
    Timer::new(Duration::from_micros(2)).await;
}

#[cfg(test)]
mod tests {
    use super::super::Inbound;
    use super::super::disk::Pools;
    use super::super::files::tests::TestDirectory;
    use super::super::mailbox::Mailbox;
    use super::super::sys::PortUse;
    use super::*;
    use bytes::Bytes;
    use std::collections::VecDeque;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::mpsc::{Receiver, channel};

    const FILE_BYTES: usize = 5_000_000;

    /// Serves connections on an executor of its own with an echo for a shard: `F` is answered with the file `big`
    /// between two words, `C` with `bye` and a close, `S` stops the reading until everything is sent;
    /// anything else comes back. Ends with the first connection that ends. Returns the address and what happened.
    fn serve(directory: &TestDirectory, limits: ConnectionLimits) -> (SocketAddr, Receiver<String>) {
        let any = "127.0.0.1:0".parse().expect("an address");
        let socket = sys::bind(any, PortUse::Shared).expect("bound");
        sys::listen(&socket, 10).expect("listens");
        let address = sys::local_address(&socket).expect("bound");
        let root = directory.0.clone();
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            glommio::LocalExecutor::default().run(async move {
                let inbox = Rc::new(Inbox::default());
                let mailbox: Arc<Mailbox<Inbound>> = Arc::default();
                let pools = Pools::start().expect("threads");
                let disk = Rc::new(Disk::new(&root, 10, pools, mailbox, Rc::clone(&inbox)));
                let options = NetOptions {
                    request_bytes_max: 100_000,
                    idle_max: None,
                    buffers: SocketBuffers::default(),
                    memory: Arc::new(MemoryBudget::for_tests()),
                };
                let net = Rc::new(Net::new(3, Clock::start(), options, Arc::new(limits), Rc::clone(&inbox), disk));
                net.listen(7, socket);
                let mut events = VecDeque::new();
                poll_fn(move |context| {
                    inbox.register(context.waker());
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
                                return Poll::Ready(());
                            }
                            other => panic!("not of the network: {other:?}"),
                        }
                    }
                    net.flush(Duration::MAX);
                    // What became of it is taken at once when there is any; the inbox wakes for the rest.
                    if !inbox.is_empty() {
                        context.waker().wake_by_ref();
                    }
                    Poll::Pending
                })
                .await
            })
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
        let (address, happened) = serve(&directory, ConnectionLimits::new(1, 1));
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
        let (address, happened) = serve(&directory, ConnectionLimits::new(9, 9));
        let mut client = TcpStream::connect(address).expect("it listens");
        assert_eq!(happened.recv().expect("served"), "connected to 7");
        send(&mut client, &[b"a"]);
        assert_eq!(receive(&mut client, 1), b"a");
        client.write_all(&100_001i32.to_be_bytes()).expect("sent");
        assert_eq!(client.read(&mut [0]).expect("closed"), 0);
        assert_eq!(happened.recv().expect("served"), "disconnected");
    }

    #[test]
    fn too_many_connections_are_closed_at_once() {
        for limits in [ConnectionLimits::new(1, 9), ConnectionLimits::new(9, 1)] {
            let directory = TestDirectory::new("net_limit");
            let (address, happened) = serve(&directory, limits);
            let first = TcpStream::connect(address).expect("it listens");
            assert_eq!(happened.recv().expect("served"), "connected to 7");
            let mut second = TcpStream::connect(address).expect("it listens");
            assert_eq!(second.read(&mut [0]).expect("closed"), 0);
            drop(first);
            assert_eq!(happened.recv().expect("served"), "disconnected");
        }
    }
}
