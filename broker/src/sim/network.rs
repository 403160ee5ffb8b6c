//! Connections between clients and nodes: requests and responses in order and late, and what waits to be read or sent.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::shard::{ConnectionId, SendPart};

/// One direction between two places: what is sent arrives in order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Link {
    last_arrival_us: u64,
}

impl Link {
    /// When something arrives that would by itself take until `at_us`.
    pub fn arrival_us(&mut self, at_us: u64) -> u64 {
        self.last_arrival_us = self.last_arrival_us.max(at_us);
        self.last_arrival_us
    }
}

/// A connection of a client with a shard of a node.
#[derive(Debug)]
pub struct Connection {
    pub client: usize,
    pub node: usize,
    pub shard: usize,
    /// From the client to the node.
    requests: Link,
    is_read: bool,
    is_closing: bool,
    /// Requests that came while the shard does not read.
    unread: VecDeque<Bytes>,
    /// What the shard sends, a response or a part of one each.
    outgoing: VecDeque<Vec<SendPart>>,
}

/// What has left the node.
#[derive(Debug)]
pub struct Sent {
    pub client: usize,
    pub node: usize,
    pub shard: usize,
    pub parts: Vec<SendPart>,
    /// Nothing more is to be sent for now.
    pub is_drained: bool,
    /// The node closes the connection when nothing more is to be sent.
    pub is_closing: bool,
}

/// All connections there are.
#[derive(Debug, Default)]
pub struct Network {
    connections: BTreeMap<ConnectionId, Connection>,
    next_connection: u64,
}

impl Network {
    /// The id of the next connection.
    pub fn next_id(&mut self) -> ConnectionId {
        self.next_connection += 1;
        ConnectionId(self.next_connection - 1)
    }

    /// A client connects.
    pub fn connect(&mut self, connection: ConnectionId, client: usize, node: usize, shard: usize) {
        let before = self.connections.insert(
            connection,
            Connection {
                client,
                node,
                shard,
                requests: Link::default(),
                is_read: true,
                is_closing: false,
                unread: VecDeque::new(),
                outgoing: VecDeque::new(),
            },
        );
        assert!(before.is_none(), "{connection:?} is there already");
    }

    /// A connection is gone, and what was on its way with it.
    pub fn disconnect(&mut self, connection: ConnectionId) -> Option<Connection> {
        self.connections.remove(&connection)
    }

    /// When a request arrives that takes until `at_us` by itself: those before it arrive first.
    pub fn request_arrives_us(&mut self, connection: ConnectionId, at_us: u64) -> u64 {
        self.connections.get_mut(&connection).expect("who sends is connected").requests.arrival_us(at_us)
    }

    /// A request has arrived at a node: the shard that takes it now, if one does.
    pub fn arrived(&mut self, connection: ConnectionId, frame: Bytes) -> Option<(usize, Bytes)> {
        let to = self.connections.get_mut(&connection).filter(|to| !to.is_closing)?;
        if to.is_read {
            return Some((to.shard, frame));
        }
        to.unread.push_back(frame);
        None
    }

    /// The shard reads from a connection from now on, or does not. The requests that came meanwhile.
    pub fn set_reading(&mut self, connection: ConnectionId, on: bool) -> Vec<Bytes> {
        let Some(to) = self.connections.get_mut(&connection) else { return Vec::new() };
        to.is_read = on;
        if on { to.unread.drain(..).collect() } else { Vec::new() }
    }

    /// The shard sends this when it has sent all before. Whether that is now.
    pub fn queue(&mut self, connection: ConnectionId, parts: Vec<SendPart>) -> bool {
        let Some(to) = self.connections.get_mut(&connection) else { return false };
        to.outgoing.push_back(parts);
        to.outgoing.len() == 1
    }

    /// The shard closes a connection when it has sent everything. Whether that is now.
    pub fn close(&mut self, connection: ConnectionId) -> bool {
        let Some(to) = self.connections.get_mut(&connection) else { return false };
        to.is_closing = true;
        to.outgoing.is_empty()
    }

    /// The next that was to be sent has left.
    pub fn sent(&mut self, connection: ConnectionId) -> Option<Sent> {
        let from = self.connections.get_mut(&connection)?;
        let parts = from.outgoing.pop_front().expect("something was to be sent");
        let Connection { client, node, shard, is_closing, .. } = *from;
        Some(Sent { client, node, shard, parts, is_drained: from.outgoing.is_empty(), is_closing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECTION: ConnectionId = ConnectionId(0);

    fn connected() -> Network {
        let mut network = Network::default();
        let connection = network.next_id();
        assert_eq!(connection, CONNECTION);
        network.connect(connection, 1, 0, 2);
        network
    }

    fn frame(byte: u8) -> Bytes {
        vec![byte].into()
    }

    #[test]
    fn requests_arrive_in_order_and_wait_until_they_are_read() {
        let mut network = connected();
        assert_eq!(network.request_arrives_us(CONNECTION, 100), 100);
        assert_eq!(network.request_arrives_us(CONNECTION, 50), 100, "behind the one before");
        assert_eq!(network.arrived(CONNECTION, frame(1)), Some((2, frame(1))));
        assert_eq!(network.set_reading(CONNECTION, false), Vec::<Bytes>::new());
        assert_eq!(network.arrived(CONNECTION, frame(2)), None);
        assert_eq!(network.set_reading(CONNECTION, true), [frame(2)]);
        assert!(network.close(CONNECTION), "nothing is to be sent");
        assert_eq!(network.arrived(CONNECTION, frame(3)), None, "who closes does not read");
        assert!(network.disconnect(CONNECTION).is_some() && network.disconnect(CONNECTION).is_none());
        assert_eq!(network.arrived(CONNECTION, frame(4)), None, "lost with its connection");
    }

    #[test]
    fn responses_leave_one_after_the_other_and_the_connection_closes_behind_them() {
        let mut network = connected();
        assert!(network.queue(CONNECTION, Vec::new()), "the first leaves now");
        assert!(!network.queue(CONNECTION, Vec::new()));
        assert!(!network.close(CONNECTION), "two are to be sent");
        let first = network.sent(CONNECTION).unwrap();
        assert_eq!((first.client, first.shard, first.is_drained, first.is_closing), (1, 2, false, true));
        assert!(network.sent(CONNECTION).unwrap().is_drained);
        network.disconnect(CONNECTION);
        assert!(network.sent(CONNECTION).is_none());
    }
}
