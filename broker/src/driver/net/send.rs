//! Sends responses, as far as the sockets have room, to one connection after the other.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::time::{Duration, Instant};

use millstream_storage::FilePath;

use super::super::clock::Clock;
use super::super::disk::Disk;
use super::super::inbox::Inbox;
use super::super::output::{Piece, SendCounters, Sent};
use super::super::ring::{Ring, Watch};
use super::super::sys;
use super::connection::{Connection, Phase};
use crate::metrics::Sample;
use crate::shard::{ConnectionId, Event, SendPart};

/// What became of an attempt to send a connection's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flushed {
    /// As much as there is, or as there is room for.
    Done,
    /// It has more to send at once.
    Paused,
    /// The connection is broken.
    Broken,
}

/// Which connections have something to send.
#[derive(Default)]
pub(super) struct Sender {
    /// Connections whose queue has grown since the socket was last tried, or was not tried to its end.
    dirty: Vec<ConnectionId>,
    counters: SendCounters,
}

impl Sender {
    /// Adds parts to a connection's queue. An error says which file cannot be sent from.
    pub fn queue(
        &mut self,
        connection: &mut Connection,
        disk: &mut Disk,
        parts: Vec<SendPart>,
    ) -> Result<(), (FilePath, io::Error)> {
        for part in parts {
            let piece = match part {
                SendPart::Memory(bytes) => Piece::Memory(bytes),
                SendPart::File { path, position, bytes } => match disk.buffered(&path) {
                    Ok(file) => Piece::File { file, position, bytes },
                    Err(error) => return Err((path, error)),
                },
            };
            connection.output.push(piece);
        }
        self.mark(connection);
        Ok(())
    }

    /// Has the queue of a connection sent soon.
    pub fn mark(&mut self, connection: &mut Connection) {
        if !mem::replace(&mut connection.is_dirty, true) {
            self.dirty.push(connection.id);
        }
    }

    /// Whether [`Sender::flush`] has not come to the end.
    pub fn has_unsent(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Sends what was queued. Connections that have not had their turn when `until` comes, or have more to send than their
    /// share, wait for the next call. Gives those that are broken to `broken`.
    pub fn flush(
        &mut self,
        connections: &mut HashMap<ConnectionId, Connection>,
        ring: &mut Ring,
        inbox: &mut Inbox,
        clock: Clock,
        until: Duration,
        mut broken: impl FnMut(&mut Connection),
    ) {
        let counters = &mut self.counters;
        let mut is_late = false;
        self.dirty.retain(|id| {
            if is_late {
                return true;
            }
            let Some(connection) = connections.get_mut(id) else { return false };
            let flushed = flush_one(connection, counters, ring, inbox, clock);
            connection.is_dirty = flushed == Flushed::Paused;
            is_late = clock.at(connection.moved_at) > until;
            if flushed == Flushed::Broken {
                broken(connection);
            }
            connection.is_dirty
        });
    }

    /// Counters for a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        self.counters.samples(samples);
    }
}

fn flush_one(
    connection: &mut Connection,
    counters: &mut SendCounters,
    ring: &mut Ring,
    inbox: &mut Inbox,
    clock: Clock,
) -> Flushed {
    if connection.is_blocked || connection.phase == Phase::Gone {
        return Flushed::Done;
    }
    let Ok(sent) = connection.output.send(&connection.stream, counters) else { return Flushed::Broken };
    connection.moved_at = Instant::now();
    match sent {
        Sent::All => all_sent(connection, inbox, clock),
        Sent::Paused => return Flushed::Paused,
        Sent::Blocked => {
            connection.is_blocked = true;
            ring.watch(&connection.stream, Watch::Write, connection.key());
        }
    }
    Flushed::Done
}

fn all_sent(connection: &mut Connection, inbox: &mut Inbox, clock: Clock) {
    match connection.phase {
        Phase::Open => {
            let at = clock.at(connection.moved_at);
            inbox.push_at(at, Event::Drained { connection: connection.id });
        }
        Phase::Closing => {
            connection.phase = Phase::Lingering;
            sys::shut_down(&connection.stream, false);
        }
        Phase::Lingering | Phase::Gone => {}
    }
}
