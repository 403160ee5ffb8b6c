//! A member of a classic group.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use kafka_wire::join_group_request::JoinGroupRequestProtocol;

use super::RequestRef;
use super::config::CLIENT_ID_BYTES_MAX;
use super::record::MemberMetadata;

/// What a member takes beside its texts, in a coordinator's count of its memory.
pub const MEMBER_BYTES: usize = 512;

/// A request whose answer has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parked {
    /// The caller's name for it.
    pub reference: RequestRef,
    /// The version to answer in.
    pub version: i16,
}

/// A protocol (an assignor) that a member offers, with what it has to say to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// The protocol's name.
    pub name: Arc<str>,
    /// The subscription; opaque.
    pub metadata: Bytes,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The id the coordinator gave it.
    pub id: Arc<str>,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<Arc<str>>,
    /// The client id of its requests.
    pub client_id: Arc<str>,
    /// Its address.
    pub client_host: Arc<str>,
    /// How long it may take to rejoin, milliseconds.
    pub rebalance_timeout_ms: i32,
    /// How long it may be silent, milliseconds.
    pub session_timeout_ms: i32,
    /// What it offers, the preferred first.
    pub protocols: Vec<Protocol>,
    /// What the leader gave it in this generation.
    pub assignment: Bytes,
    /// What it was given last, and may go on with while it joins again (KIP-429).
    pub held: Bytes,
    /// Its JoinGroup request that waits for the rebalance.
    pub awaiting_join: Option<Parked>,
    /// Its SyncGroup request that waits for the leader's.
    pub awaiting_sync: Option<Parked>,
    /// It has joined this generation and not asked for its assignment yet.
    pub pending_sync: bool,
    /// It has not been told of any generation yet, so that it cannot send heartbeats.
    pub is_new: bool,
}

impl Member {
    /// What it says to a protocol.
    pub fn metadata(&self, protocol: Option<&str>) -> Bytes {
        self.protocols
            .iter()
            .find(|offered| Some(&*offered.name) == protocol)
            .map(|offered| offered.metadata.clone())
            .unwrap_or_default()
    }

    /// Its first protocol among the candidates.
    pub fn vote(&self, candidates: &BTreeSet<Arc<str>>) -> Option<&Arc<str>> {
        self.protocols.iter().map(|offered| &offered.name).find(|name| candidates.contains(*name))
    }

    /// Whether it offers exactly these protocols in this order, with the same metadata.
    pub fn offers(&self, protocols: &[JoinGroupRequestProtocol]) -> bool {
        self.protocols.len() == protocols.len()
            && self
                .protocols
                .iter()
                .zip(protocols)
                .all(|(mine, other)| *mine.name == *other.name && mine.metadata == other.metadata)
    }

    /// Whether it may be silent for now: it is waiting for the coordinator, not the other way round.
    pub fn is_waiting(&self) -> bool {
        !self.is_new && (self.awaiting_join.is_some() || self.awaiting_sync.is_some())
    }

    /// The memory it takes, in a coordinator's count.
    pub fn bytes(&self) -> usize {
        let protocols: usize =
            self.protocols.iter().map(|protocol| 64 + protocol.name.len() + protocol.metadata.len()).sum();
        MEMBER_BYTES
            + 2 * self.id.len()
            + self.instance_id.as_ref().map_or(0, |id| id.len())
            + self.client_id.len()
            + self.client_host.len()
            + protocols
            + self.held.len()
    }

    /// Its part of the group's record, with the assignment it is to have.
    pub fn to_metadata(&self, protocol: Option<&str>, assignment: Bytes) -> MemberMetadata {
        MemberMetadata {
            member_id: self.id.clone(),
            instance_id: self.instance_id.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            session_timeout_ms: self.session_timeout_ms,
            subscription: self.metadata(protocol),
            assignment,
        }
    }

    /// The member that a record describes. It offers the chosen protocol only: the others were not recorded.
    pub fn from_metadata(metadata: MemberMetadata, protocol: Option<&Arc<str>>) -> Self {
        Member {
            id: metadata.member_id,
            instance_id: metadata.instance_id,
            client_id: metadata.client_id,
            client_host: metadata.client_host,
            rebalance_timeout_ms: metadata.rebalance_timeout_ms,
            session_timeout_ms: metadata.session_timeout_ms,
            protocols: protocol
                .map(|name| Protocol { name: name.clone(), metadata: metadata.subscription })
                .into_iter()
                .collect(),
            held: metadata.assignment.clone(),
            assignment: metadata.assignment,
            awaiting_join: None,
            awaiting_sync: None,
            pending_sync: false,
            is_new: false,
        }
    }
}

/// Copies the protocols of a request: slices would keep its whole frame in memory.
pub fn copy_protocols(protocols: &[JoinGroupRequestProtocol]) -> Vec<Protocol> {
    protocols
        .iter()
        .map(|protocol| Protocol {
            name: protocol.name.as_str().into(),
            metadata: Bytes::copy_from_slice(&protocol.metadata),
        })
        .collect()
}

/// A member id: `prefix` and a random (version 4) UUID drawn from `random`.
pub fn new_member_id(prefix: &str, random: u64) -> Arc<str> {
    let mut end = prefix.len().min(CLIENT_ID_BYTES_MAX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    // The second half: one step of SplitMix64 from the first.
    let mut low = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    low = (low ^ (low >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    low = (low ^ (low >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    low ^= low >> 31;
    format!(
        "{}-{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        &prefix[..end],
        random >> 32,
        (random >> 16) & 0xffff,
        random & 0xfff,
        0x8000 | ((low >> 48) & 0x3fff),
        low & 0xffff_ffff_ffff,
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_ids_are_a_short_prefix_and_a_uuid() {
        let id = new_member_id("app", 0x0123_4567_89ab_cdef);
        let uuid = id.strip_prefix("app-").unwrap();
        assert_eq!(uuid.len(), 36);
        assert_eq!(&uuid[..18], "01234567-89ab-4def");
        assert_ne!(id, new_member_id("app", 0x0123_4567_89ab_cdee));
        let long = "ü".repeat(CLIENT_ID_BYTES_MAX);
        assert_eq!(new_member_id(&long, 1).len(), CLIENT_ID_BYTES_MAX + 37);
    }
}
