//! The clients of this shard, as every request needs them: their connections, the quotas they are under, the deadlines
//! of their requests, and what is counted of them all.

use std::time::Duration;

use bytes::Bytes;
use millstream_replication::config::Properties;

use super::connection::{Connections, Response};
use super::counters::Counters;
use super::quotas::{Charge, Quotas, RELEASED_AT_ONCE_MAX};
use super::stages::Stage;
use super::timer::Timers;
use crate::protocol::send::SendPart;
use crate::shard::event::{ConnectionId, RequestId};
use crate::shard::message::Direction;
use crate::shard::turn::Turn;

/// The clients of a shard.
#[derive(Debug)]
pub struct Clients {
    /// Their connections.
    pub connections: Connections,
    /// What they may use.
    pub quotas: Quotas,
    /// When their requests have to be answered.
    pub timers: Timers,
    /// What they asked for and got.
    pub counters: Counters,
}

impl Clients {
    /// None yet; `request_bytes_max` bounds the memory of their requests in flight.
    pub fn new(file: &Properties, request_bytes_max: usize) -> Clients {
        Clients {
            connections: Connections::new(request_bytes_max),
            quotas: Quotas::new(file),
            timers: Timers::default(),
            counters: Counters::default(),
        }
    }

    /// The name of the listener a connection came in by.
    pub fn listener<'a>(&self, turn: &Turn<'a>, connection: ConnectionId) -> &'a str {
        self.connections.listener(connection).map_or("", |listener| &turn.options.listeners[listener])
    }

    /// Sends a frame.
    pub fn reply(&mut self, turn: &mut Turn<'_>, id: RequestId, frame: Bytes) {
        self.connections.respond(id, Response::Parts(vec![SendPart::Memory(frame)]), turn.effects);
    }

    /// Sends a frame, or closes the connection that cannot be answered.
    pub fn reply_or_close<E>(&mut self, turn: &mut Turn<'_>, id: RequestId, frame: Result<Bytes, E>) {
        match frame {
            Ok(frame) => self.reply(turn, id, frame),
            Err(_) => self.close(turn, id),
        }
    }

    /// Closes the connection of a request that cannot be read or answered.
    pub fn close(&mut self, turn: &mut Turn<'_>, id: RequestId) {
        self.counters.closed_for_error += 1;
        self.connections.respond(id, Response::Close, turn.effects);
    }

    /// A request enters another stage of its way.
    pub fn enter(&mut self, id: RequestId, stage: Stage, now: Duration) {
        if let Some(timeline) = self.connections.timeline(id) {
            timeline.enter(stage, now);
        }
    }

    /// The limit that a client's request is under, if it is under one.
    pub fn charge(&mut self, turn: &Turn<'_>, direction: Direction, client_id: Option<&str>) -> Option<Charge> {
        self.quotas.charge(turn.metadata.image().quotas(), direction, client_id)
    }

    /// Counts bytes towards a limit, and does not read from the client for as long as they are too many. Returns how
    /// long that is, for the response.
    pub fn pay(
        &mut self,
        turn: &mut Turn<'_>,
        connection: ConnectionId,
        charge: Option<Charge>,
        bytes: usize,
    ) -> Duration {
        let Some(charge) = charge else { return Duration::ZERO };
        let throttle = self.quotas.used(turn.now, &charge, bytes, turn.options.shards);
        self.mute(turn, connection, throttle);
        throttle
    }

    /// Does not read from a connection for a time; a longer one that was given before holds.
    pub fn mute(&mut self, turn: &mut Turn<'_>, connection: ConnectionId, time: Duration) {
        if time.is_zero() {
            return;
        }
        let until = turn.now.elapsed.saturating_add(time);
        if let Some(before) = self.connections.mute(connection, until, turn.effects) {
            self.quotas.mute(connection, before, until);
        }
    }

    /// Reads again from those who have waited, and tells the other shards what was used. Returns whether there was
    /// anything to do.
    pub fn advance_quotas(&mut self, turn: &mut Turn<'_>) -> bool {
        let mut has_worked = false;
        for _ in 0..RELEASED_AT_ONCE_MAX {
            let Some(connection) = self.quotas.take_released(turn.now.elapsed) else { break };
            self.connections.unmute(connection, turn.effects);
            has_worked = true;
        }
        self.quotas.tell(turn) || has_worked
    }
}
