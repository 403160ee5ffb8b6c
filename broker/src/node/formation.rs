//! How nodes that hold nothing become those of a cluster, as a pure machine: `docs/quorum-protocol.md`, "Formation" and
//! "Joining".
//!
//! To found a cluster all of the configured voters have to be there once, each with a directory that belongs to no cluster. The
//! one with the lowest number then founds it: its first snapshot names all of them. It offers the others this snapshot
//! when it runs, as it does to a voter that was not there to take it. Where there is a cluster already, its members have
//! the directory let in as an observer's, and offer it a snapshot in which it is one.

use std::time::Duration;

use bytes::Bytes;
use millstream_replication::identity::Candidate;
use millstream_replication::quorum::{Founding, Member, MemberId, Snapshot, decode_snapshot};

use crate::peer::links::{Effect, Event, Identity, Links, Told};

/// A node that waits to become a member of a quorum.
#[derive(Debug)]
pub struct Formation {
    candidate: Candidate,
    /// `controller.quorum.voters`.
    voters: Vec<(i32, String, u16)>,
    /// What the cluster is called if this node founds it.
    cluster_id: [u8; 16],
    links: Links,
}

/// What has happened.
#[derive(Debug)]
pub enum Formed {
    /// The directory belongs to a cluster from now on, and begins with this.
    Begin(Box<Snapshot>),
    /// Something that an operator wants to know.
    Warn(String),
}

impl Formation {
    /// A node that found nothing in its directory. `servers` are others of which one may know the cluster; `random` names the
    /// cluster if this node founds it.
    pub fn new(
        candidate: Candidate,
        voters: Vec<(i32, String, u16)>,
        servers: Vec<(String, u16)>,
        incarnation: [u8; 16],
        address: Option<(String, u16)>,
        random: [u8; 24],
    ) -> Formation {
        let (cluster_id, seed) = random.split_first_chunk().expect("24 bytes are 16 and 8");
        let identity = Identity {
            cluster_id: None,
            node_id: candidate.node_id,
            directory_id: candidate.directory_id,
            incarnation,
            address,
            is_forming: true,
        };
        let mut links = Links::new(identity, u64::from_le_bytes(seed.try_into().expect("8 bytes are left")));
        let of_voters = voters.iter().map(|(node_id, host, port)| (Some(*node_id), host.clone(), *port));
        let of_servers = servers.into_iter().map(|(host, port)| (None, host, port));
        let peers: Vec<_> = of_voters.chain(of_servers).collect();
        links.set_peers(Duration::ZERO, &peers);
        Formation { candidate, voters, cluster_id: *cluster_id, links }
    }

    /// When [`Event::Tick`] is wanted.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.links.next_deadline()
    }

    /// What it waits for, in words.
    pub fn waits_for(&self) -> String {
        let settled: Vec<i32> = self.links.peers().filter(|peer| !peer.is_forming).map(|peer| peer.node_id).collect();
        if !settled.is_empty() {
            return format!("waiting to be let in by nodes {settled:?}, which belong to a cluster");
        }
        let others = self.voters.iter().map(|(node_id, ..)| *node_id).filter(|id| *id != self.candidate.node_id);
        let missing: Vec<i32> = others.filter(|node_id| !self.links.is_up(*node_id)).collect();
        if self.voters.is_empty() {
            return "waiting for one of controller.quorum.bootstrap.servers that belongs to a cluster; the first node of a new \
                    cluster is started without it, or with itself alone"
                .to_owned();
        }
        format!("waiting for the other controllers to form a cluster; not reached: {missing:?}")
    }

    /// Takes what has happened to a connection.
    pub fn handle(&mut self, now: Duration, event: Event, effects: &mut Vec<Effect>) -> Vec<Formed> {
        let mut told = Vec::new();
        self.links.handle(now, event, effects, &mut told);
        let mut formed = Vec::new();
        for told in told {
            match told {
                Told::Adopt { from, bytes } => match self.adopt(&bytes) {
                    Ok(snapshot) => formed.push(Formed::Begin(Box::new(snapshot))),
                    Err(why) => {
                        formed.push(Formed::Warn(format!("what node {} offers is refused: {why}", from.node_id)));
                    }
                },
                Told::Rejected { text, .. } => formed.push(Formed::Warn(text)),
                Told::Request { link, id, .. } => self.links.not_controller(link, id, -1, effects),
                // Nothing is known here yet that it could be told.
                Told::Client { link, .. } => self.links.close_client(link, effects),
                _ => {}
            }
        }
        if formed.is_empty()
            && let Some(snapshot) = self.found()
        {
            formed.push(Formed::Begin(Box::new(snapshot)));
        }
        formed
    }

    /// A snapshot of a cluster of which this directory is a member.
    fn adopt(&self, bytes: &Bytes) -> Result<Snapshot, String> {
        let snapshot = decode_snapshot("snapshot", bytes).map_err(|corrupt| corrupt.why)?;
        match snapshot.members.get(MemberId::of_directory(self.candidate.directory_id)) {
            Some(member) if member.node_id == self.candidate.node_id => Ok(snapshot),
            Some(member) => Err(format!("there this directory is that of node {}", member.node_id)),
            None => Err("this directory is not a member there".to_owned()),
        }
    }

    /// The first snapshot of a new cluster, if this node is to found it and all are there.
    fn found(&self) -> Option<Snapshot> {
        let founder = self.voters.iter().map(|(node_id, ..)| *node_id).min()?;
        if founder != self.candidate.node_id {
            return None;
        }
        let member = |(node_id, host, port): &(i32, String, u16)| {
            let endpoint = Some((host.clone(), *port));
            if *node_id == self.candidate.node_id {
                return Some(self.candidate.member(endpoint));
            }
            let peer = self.links.peers().find(|peer| peer.node_id == *node_id && peer.is_forming)?;
            Some(Member::new(*node_id, peer.directory_id, endpoint))
        };
        let members = self.voters.iter().map(member).collect::<Option<Vec<Member>>>()?;
        Some(Founding::new(self.cluster_id, members).snapshot())
    }
}
