//! Who takes part in the quorum. A member is a log directory, not a node number: its identity is drawn with the directory, so
//! that a directory that was lost and made anew never votes as the one before it (KIP-853).

use std::collections::BTreeMap;

use raft::eraftpb::ConfState;

use crate::log::codec::put_text;
use crate::reader::Reader;

/// Voters and learners of a quorum, at most.
pub const MEMBERS_MAX: usize = 32;
/// Bytes of a member's host name, at most.
pub const HOST_BYTES_MAX: usize = 255;

const ADD_VOTER: u8 = 1;
const ADD_LEARNER: u8 = 2;
const REMOVE: u8 = 3;

/// A member's identity: the first eight bytes of its directory's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

impl MemberId {
    /// That of a directory. Directory ids are random UUIDs, whose version bits are never all zero: no member has the
    /// number 0, which stands for nobody.
    pub fn of_directory(directory_id: [u8; 16]) -> MemberId {
        let [high, _] = crate::random_id::halves(u128::from_be_bytes(directory_id));
        MemberId(high)
    }
}

impl std::fmt::Display for MemberId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A member of the quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which one.
    pub id: MemberId,
    /// The node that it is on.
    pub node_id: i32,
    /// Its log directory.
    pub directory_id: [u8; 16],
    /// Where its node's controller listener is reached; none as long as it is alone.
    pub endpoint: Option<(String, u16)>,
}

impl Member {
    /// The member that keeps its log in this directory.
    pub fn new(node_id: i32, directory_id: [u8; 16], endpoint: Option<(String, u16)>) -> Member {
        Member { id: MemberId::of_directory(directory_id), node_id, directory_id, endpoint }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.node_id.to_le_bytes());
        out.extend(self.directory_id);
        match &self.endpoint {
            Some((host, port)) => {
                out.push(1);
                put_text(out, host);
                out.extend(port.to_le_bytes());
            }
            None => out.push(0),
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Member, String> {
        let node_id = reader.i32()?;
        let directory_id = reader.array()?;
        let endpoint = match reader.byte()? {
            0 => None,
            1 => Some((reader.text()?, u16::from_le_bytes(reader.array()?))),
            other => return Err(format!("{other} where 0 or 1 says whether an address follows")),
        };
        let member = Member::new(node_id, directory_id, endpoint);
        member.check().map(|()| member)
    }

    /// Whether there can be such a member; if not, why.
    fn check(&self) -> Result<(), String> {
        if self.endpoint.as_ref().is_some_and(|(host, _)| host.is_empty() || host.len() > HOST_BYTES_MAX) {
            return Err(format!("a host name of no length or of more than {HOST_BYTES_MAX} bytes"));
        }
        if self.node_id < 0 || self.id.0 == 0 {
            return Err(format!("node {} with member {}", self.node_id, self.id));
        }
        Ok(())
    }
}

/// What becomes of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChangeKind {
    /// It votes from now on. A voter that is there already gets another address.
    AddVoter,
    /// It is sent the log and does not vote, nor does it any more if it did.
    AddLearner,
    /// It is none any more.
    Remove,
}

/// A change of the members. They change one at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberChange {
    /// What becomes of it.
    pub kind: MemberChangeKind,
    /// Of whom.
    pub member: Member,
}

impl MemberChange {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![match self.kind {
            MemberChangeKind::AddVoter => ADD_VOTER,
            MemberChangeKind::AddLearner => ADD_LEARNER,
            MemberChangeKind::Remove => REMOVE,
        }];
        self.member.encode(&mut bytes);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<MemberChange, String> {
        let mut reader = Reader::new(bytes);
        let kind = match reader.byte()? {
            ADD_VOTER => MemberChangeKind::AddVoter,
            ADD_LEARNER => MemberChangeKind::AddLearner,
            REMOVE => MemberChangeKind::Remove,
            other => return Err(format!("change {other} of a member is not known")),
        };
        let member = Member::decode(&mut reader)?;
        match reader.rest() {
            [] => Ok(MemberChange { kind, member }),
            left => Err(format!("{} bytes follow a change of members", left.len())),
        }
    }
}

/// All members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// By id; the flag says who votes.
    members: BTreeMap<MemberId, (Member, bool)>,
}

impl Members {
    /// Voters, and nobody else.
    pub fn of_voters(voters: impl IntoIterator<Item = Member>) -> Members {
        Members { members: voters.into_iter().map(|member| (member.id, (member, true))).collect() }
    }

    /// Whether there is anybody.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Everybody, in order of their ids, and whether they vote.
    pub fn iter(&self) -> impl Iterator<Item = (&Member, bool)> {
        self.members.values().map(|(member, votes)| (member, *votes))
    }

    /// Those who vote.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.iter().filter(|(_, votes)| *votes).map(|(member, _)| member)
    }

    /// The member of this identity.
    pub fn get(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id).map(|(member, _)| member)
    }

    /// Whether this one votes.
    pub fn is_voter(&self, id: MemberId) -> bool {
        self.members.get(&id).is_some_and(|(_, votes)| *votes)
    }

    /// Whether this one votes, and nobody else does.
    pub fn is_sole_voter(&self, id: MemberId) -> bool {
        let mut voters = self.voters();
        voters.next().is_some_and(|voter| voter.id == id) && voters.next().is_none()
    }

    /// Whether a change can be made; if not, why.
    pub fn check(&self, change: &MemberChange) -> Result<(), String> {
        let id = change.member.id;
        change.member.check()?;
        match change.kind {
            MemberChangeKind::AddVoter | MemberChangeKind::AddLearner => {
                if self.get(id).is_none() && self.members.len() >= MEMBERS_MAX {
                    return Err(format!("there are {MEMBERS_MAX} members of the quorum already"));
                }
                if change.kind == MemberChangeKind::AddLearner && self.is_sole_voter(id) {
                    return Err("the last voter cannot be removed".into());
                }
                Ok(())
            }
            MemberChangeKind::Remove if self.get(id).is_none() => Err(format!("member {id} is not there")),
            MemberChangeKind::Remove if self.is_sole_voter(id) => Err("the last voter cannot be removed".into()),
            MemberChangeKind::Remove => Ok(()),
        }
    }

    /// Makes a committed change.
    pub(crate) fn apply(&mut self, change: &MemberChange) {
        let member = change.member.clone();
        match change.kind {
            MemberChangeKind::AddVoter => self.members.insert(member.id, (member, true)),
            MemberChangeKind::AddLearner => self.members.insert(member.id, (member, false)),
            MemberChangeKind::Remove => self.members.remove(&member.id),
        };
    }

    /// The crate's form of it.
    pub(crate) fn conf_state(&self) -> ConfState {
        let ids = |wanted: bool| -> Vec<u64> {
            self.iter().filter(|(_, votes)| *votes == wanted).map(|(member, _)| member.id.0).collect()
        };
        ConfState { voters: ids(true), learners: ids(false), ..Default::default() }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(u32::try_from(self.members.len()).expect("few members").to_le_bytes());
        for (member, votes) in self.iter() {
            out.push(u8::from(votes));
            member.encode(out);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Members, String> {
        let count = reader.u32()?;
        let mut members = BTreeMap::new();
        for _ in 0..count {
            let votes = match reader.byte()? {
                0 => false,
                1 => true,
                other => return Err(format!("{other} where 0 or 1 says whether a member votes")),
            };
            let member = Member::decode(reader)?;
            if members.last_key_value().is_some_and(|(last, _)| *last >= member.id) {
                return Err("members out of their order".into());
            }
            members.insert(member.id, (member, votes));
            if members.len() > MEMBERS_MAX {
                return Err(format!("more than {MEMBERS_MAX} members"));
            }
        }
        let members = Members { members };
        if members.voters().next().is_none() {
            return Err("a quorum without voters".into());
        }
        Ok(members)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The member on node `number`.
    pub(crate) fn member(number: u8) -> Member {
        let id = crate::random_id::uuid(u128::from(number) << 96 | 0x77);
        Member::new(i32::from(number), id, Some((format!("127.0.0.{number}"), 9093)))
    }

    fn change(kind: MemberChangeKind, number: u8) -> MemberChange {
        MemberChange { kind, member: member(number) }
    }

    #[test]
    fn changes_and_members_are_read_as_they_were_written() {
        let mut members = Members::of_voters([member(1), member(3)]);
        let joins = change(MemberChangeKind::AddLearner, 2);
        assert_eq!(MemberChange::decode(&joins.encode()), Ok(joins.clone()));
        members.apply(&joins);
        let mut bytes = Vec::new();
        members.encode(&mut bytes);
        let mut reader = Reader::new(&bytes);
        assert_eq!(Members::decode(&mut reader).as_ref(), Ok(&members));
        assert!(reader.rest().is_empty());
        for length in 0..bytes.len() {
            assert!(Members::decode(&mut Reader::new(&bytes[..length])).is_err(), "{length}");
        }
        let state = members.conf_state();
        assert_eq!((state.voters.len(), state.learners), (2, vec![member(2).id.0]));
    }

    #[test]
    fn a_member_is_added_and_removed_once_and_the_last_voter_stays() {
        let mut members = Members::of_voters([member(1)]);
        assert!(members.check(&change(MemberChangeKind::Remove, 1)).is_err());
        assert!(members.check(&change(MemberChangeKind::Remove, 2)).is_err());
        members.apply(&change(MemberChangeKind::AddLearner, 2));
        assert!(members.is_sole_voter(member(1).id), "a learner does not vote");
        assert!(members.check(&change(MemberChangeKind::Remove, 1)).is_err());
        members.apply(&change(MemberChangeKind::AddVoter, 2));
        assert!(members.check(&change(MemberChangeKind::Remove, 1)).is_ok());
        members.apply(&change(MemberChangeKind::Remove, 1));
        assert!(members.is_sole_voter(member(2).id));
        assert!(members.check(&change(MemberChangeKind::AddLearner, 2)).is_err());
        members.apply(&change(MemberChangeKind::AddVoter, 1));
        assert!(members.check(&change(MemberChangeKind::AddLearner, 2)).is_ok(), "it goes on following");
        members.apply(&change(MemberChangeKind::AddLearner, 2));
        assert!(members.is_sole_voter(member(1).id));
    }
}
