//! Reads requests: from which connections, in turn, and into which memory.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read};
use std::mem;
use std::time::Instant;

use bytes::Bytes;

use super::super::clock::Clock;
use super::super::frames::{LINES, Line, ReadMemory};
use super::super::inbox::Inbox;
use super::READ_TURN_BYTES_MAX;
use super::connection::{Connection, Phase};
use crate::metrics::{Kind, Sample};
use crate::peer::stream::greeting::is_hello;
use crate::shard::{ConnectionId, Event};

/// How far the reading of a connection has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// There may be more.
    GoesOn,
    /// The ring says when there is more.
    Drained,
    /// Whoever keeps it from being read says when it may be.
    Held,
    /// Both sides are done.
    Ended,
    /// It is another node's, which its first frame says.
    Greeted {
        /// That frame, without its length.
        hello: Bytes,
        /// More has come.
        has_more: bool,
    },
}

/// Which connections are to be read from, and those that must wait before they are.
pub(super) struct Receiver {
    /// Connections to be read from, in turn.
    readable: VecDeque<ConnectionId>,
    pub memory: ReadMemory,
    /// Connections whose large requests wait for memory, first come first.
    waiting: [VecDeque<ConnectionId>; LINES],
    /// Connections that are not read from because the process's memory is full, or the shard has too much to do.
    stopped: Vec<ConnectionId>,
    /// One that waited has left its line: those behind it may have to wait no longer.
    has_left_line: bool,
    illegal_frames: u64,
    requests: u64,
    read_bytes: u64,
}

impl Receiver {
    /// Reads into this memory.
    pub fn new(memory: ReadMemory) -> Receiver {
        Receiver {
            readable: VecDeque::new(),
            memory,
            waiting: Default::default(),
            stopped: Vec::new(),
            has_left_line: false,
            illegal_frames: 0,
            requests: 0,
            read_bytes: 0,
        }
    }

    /// Has a connection read from soon.
    pub fn queue(&mut self, connection: &mut Connection) {
        if !mem::replace(&mut connection.is_readable, true) {
            self.readable.push_back(connection.id);
        }
    }

    /// Connections that stand in line.
    pub fn readable(&self) -> usize {
        self.readable.len()
    }

    /// The next in line, which leaves it.
    pub fn next(&mut self) -> Option<ConnectionId> {
        self.readable.pop_front()
    }

    /// Whether connections are not read from that may be once there is less to do: nobody wakes for them.
    pub fn has_stopped(&self) -> bool {
        !self.stopped.is_empty()
    }

    /// Has those read from that were not because there was too much to do.
    pub fn go_on(&mut self, connections: &mut HashMap<ConnectionId, Connection>) {
        for id in mem::take(&mut self.stopped) {
            let connection = connections.get_mut(&id).expect("whoever ends leaves those that are stopped");
            connection.is_stopped = false;
            self.queue(connection);
        }
    }

    /// Lets those go on that wait for memory, in their order, while there is some. Costs nothing when none was given back.
    pub fn give_memory(&mut self, connections: &mut HashMap<ConnectionId, Connection>) {
        let has_released = self.memory.take_released();
        if !mem::take(&mut self.has_left_line) && !has_released {
            return;
        }
        for line in &mut self.waiting {
            while let Some(id) = line.front() {
                let first = connections.get_mut(id).expect("whoever ends leaves its line");
                if !first.reader.try_promise(&mut self.memory) {
                    break;
                }
                line.pop_front();
                first.is_waiting = false;
                first.receiving_since = Some(Instant::now());
                if !mem::replace(&mut first.is_readable, true) {
                    self.readable.push_back(first.id);
                }
            }
        }
    }

    /// Connections whose large requests wait for memory.
    pub fn waiting(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    /// A connection has ended: it waits for nothing any more and holds no memory. [`Receiver::give_memory`] is to follow.
    pub fn forget(&mut self, connection: &mut Connection) {
        connection.reader.release(&mut self.memory);
        if connection.is_waiting {
            self.has_left_line = true;
            for line in &mut self.waiting {
                line.retain(|waiting| *waiting != connection.id);
            }
        }
        if connection.is_stopped {
            self.stopped.retain(|stopped| *stopped != connection.id);
        }
    }

    /// Reads from a connection once; whole requests become events. `must_stop`: none may be read from now.
    /// [`Receiver::give_memory`] is to follow.
    pub fn read(&mut self, connection: &mut Connection, inbox: &mut Inbox, clock: Clock, must_stop: bool) -> Reading {
        match self.try_read(connection, inbox, clock, must_stop) {
            Ok(reading) => reading,
            // Whoever has ended has something to read, if only the end: the watch has failed, and nobody would notice.
            Err(error) if error.kind() == ErrorKind::WouldBlock && connection.has_ended => Reading::Ended,
            Err(error) if error.kind() == ErrorKind::WouldBlock => Reading::Drained,
            Err(error) if error.kind() == ErrorKind::Interrupted => Reading::GoesOn,
            Err(_) => Reading::Ended,
        }
    }

    fn try_read(
        &mut self,
        connection: &mut Connection,
        inbox: &mut Inbox,
        clock: Clock,
        must_stop: bool,
    ) -> io::Result<Reading> {
        match connection.phase {
            // Back-pressure: the shard wants no more requests of this connection for now, or there is no memory for them.
            Phase::Open => {
                if !connection.is_reading || !self.may_read(connection, must_stop) {
                    return Ok(Reading::Held);
                }
            }
            Phase::Closing | Phase::Lingering => {
                let bytes = connection.stream.read(&mut [0; 4096])?;
                return Ok(if bytes == 0 { Reading::Ended } else { Reading::GoesOn });
            }
            Phase::Gone => return Ok(Reading::Ended),
        }
        let buffer = connection.reader.buffer(&mut self.memory);
        let room = buffer.len().min(READ_TURN_BYTES_MAX);
        let bytes = connection.stream.read(&mut buffer[..room])?;
        if bytes == 0 {
            return Ok(Reading::Ended);
        }
        let now = Instant::now();
        connection.moved_at = now;
        self.read_bytes += bytes as u64;
        let requests = self.requests;
        let (mut hello, mut has_more, mut is_stranger) = (None, false, false);
        let cut = connection.reader.received(bytes, &mut self.memory, |frame| {
            if !mem::replace(&mut connection.has_begun, true) && is_hello(&frame) {
                hello = Some(frame);
                return;
            }
            if hello.is_some() {
                has_more = true;
                return;
            }
            if !connection.is_counted {
                is_stranger = true;
                return;
            }
            self.requests += 1;
            inbox.push_at(clock.at(now), Event::Request { connection: connection.id, frame });
        });
        if let Some(hello) = hello {
            has_more |= cut.is_err() || connection.reader.is_partial();
            return Ok(Reading::Greeted { hello, has_more });
        }
        if is_stranger {
            return Ok(Reading::Ended);
        }
        if !connection.reader.is_partial() {
            connection.receiving_since = None;
        } else if self.requests > requests || connection.receiving_since.is_none() {
            connection.receiving_since = Some(now);
        }
        if cut.is_err() {
            self.illegal_frames += 1;
            return Ok(Reading::Ended);
        }
        // The kernel had no more than that; what comes later is announced.
        let is_drained = bytes < room && !connection.has_ended;
        Ok(if is_drained { Reading::Drained } else { Reading::GoesOn })
    }

    /// Whether a connection may be read from now, as far as memory goes; if not it is read from when it may.
    fn may_read(&mut self, connection: &mut Connection, must_stop: bool) -> bool {
        if let Some(Line(line)) = connection.reader.waits_in() {
            if !mem::replace(&mut connection.is_waiting, true) {
                self.waiting[line].push_back(connection.id);
            }
            return false;
        }
        let must_stop = must_stop && connection.is_counted;
        if must_stop && !mem::replace(&mut connection.is_stopped, true) {
            self.stopped.push(connection.id);
        }
        !must_stop
    }

    /// Counters for a scrape; `receiving_bytes_max`: the bound of the memory.
    pub fn samples(&self, receiving_bytes_max: usize, samples: &mut Vec<Sample>) {
        let mut sample = |name, help, kind, value: u64| {
            samples.push(Sample { name, help, kind, labels: Vec::new(), value: value as f64 });
        };
        let (counter, gauge) = (Kind::Counter, Kind::Gauge);
        let help = "Connections closed for an impossible request length.";
        sample("millstream_illegal_frames_total", help, counter, self.illegal_frames);
        sample("millstream_requests_received_total", "Whole requests received.", counter, self.requests);
        sample("millstream_received_bytes_total", "Bytes received from clients.", counter, self.read_bytes);
        let help = "Memory of large requests that are being received.";
        sample("millstream_receive_bytes", help, gauge, self.memory.promised_bytes() as u64);
        let help = "Connections whose large requests wait for memory.";
        sample("millstream_receive_waiting", help, gauge, self.waiting() as u64);
        let help = "The bound of millstream_receive_bytes; one request may go beyond it.";
        sample("millstream_receive_bytes_max", help, gauge, receiving_bytes_max as u64);
    }
}
