//! Who becomes a member of the quorum, a voter, or none any more (KIP-853, KIP-1186; in Kafka `AddVoterHandler`,
//! `RemoveVoterHandler`, `UpdateVoterHandler`). Members change by entries of the log of their own, one at a time, so what is
//! decided here is a change of members and not a record of the image.

use super::ControllerRequest;
use crate::error::{ApiError, ErrorCode};
use crate::quorum::{Member, MemberChange, MemberChangeKind, MemberId, Members};

/// How many entries a learner may lack that is to become a voter.
const BEHIND_MAX: u64 = 1_000;

/// The active controller's view of the quorum.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// All members.
    pub members: &'a Members,
    /// The member that decides.
    pub me: MemberId,
    /// How many entries a member lacks, if it was heard of lately.
    pub behind: &'a dyn Fn(MemberId) -> Option<u64>,
    /// Whether the process that has a member's directory is connected.
    pub is_connected: &'a dyn Fn(&Member) -> bool,
}

/// What one of these requests comes to: a change, or nothing where it is so already. The error changes nothing.
///
/// # Panics
/// When the request changes no members.
pub fn change(view: View<'_>, request: &ControllerRequest) -> Result<Option<MemberChange>, ApiError> {
    let change = match request {
        ControllerRequest::AddObserver { node_id, directory_id, endpoint } => {
            add_observer(view, Member::new(*node_id, *directory_id, endpoint.clone()))?
        }
        ControllerRequest::AddRaftVoter { node_id, directory_id, endpoint } => {
            add_voter(view, Member::new(*node_id, *directory_id, endpoint.clone()))?
        }
        ControllerRequest::UpdateRaftVoter { node_id, directory_id, endpoint } => {
            update_voter(view, Member::new(*node_id, *directory_id, endpoint.clone()))?
        }
        ControllerRequest::RemoveRaftVoter { node_id, directory_id } => remove_voter(view, *node_id, *directory_id)?,
        other => panic!("{other:?} changes no members"),
    };
    if let Some(change) = &change {
        let invalid = |why| ApiError::new(ErrorCode::InvalidRequest, why);
        view.members.check(change).map_err(invalid)?;
    }
    Ok(change)
}

/// A directory is to be sent the log. One that was the same node's before, and is not there any more, goes first.
fn add_observer(view: View<'_>, member: Member) -> Result<Option<MemberChange>, ApiError> {
    let mut gone = None;
    let is_before = |known: &Member| known.node_id == member.node_id && known.id != member.id;
    for (known, votes) in view.members.iter().filter(|(known, _)| is_before(known)) {
        if known.id == view.me || (view.is_connected)(known) {
            let why =
                format!("node {} is there already, with another data directory (member {})", known.node_id, known.id);
            return Err(ApiError::new(ErrorCode::DuplicateVoter, why));
        }
        gone = gone.or((!votes).then_some(known));
    }
    if let Some(learner) = gone {
        return Ok(Some(MemberChange { kind: MemberChangeKind::Remove, member: learner.clone() }));
    }
    let is_so = |known: &Member| *known == member || view.members.is_voter(known.id);
    if view.members.get(member.id).is_some_and(is_so) {
        return Ok(None);
    }
    Ok(Some(MemberChange { kind: MemberChangeKind::AddLearner, member }))
}

fn add_voter(view: View<'_>, asked: Member) -> Result<Option<MemberChange>, ApiError> {
    if let Some(voter) = view.members.voters().find(|voter| voter.node_id == asked.node_id) {
        return Err(ApiError::new(
            ErrorCode::DuplicateVoter,
            format!("node {} is a voter already, with member {}", voter.node_id, voter.id),
        ));
    }
    let not_yet = |why: String| ApiError::new(ErrorCode::RequestTimedOut, why);
    let Some(learner) = view.members.get(asked.id).filter(|learner| learner.node_id == asked.node_id) else {
        return Err(not_yet(format!(
            "node {} with this directory is not connected: start it with controller.quorum.bootstrap.servers",
            asked.node_id
        )));
    };
    let endpoint = learner.endpoint.clone().or(asked.endpoint);
    if endpoint.is_none() {
        return Err(ApiError::new(
            ErrorCode::InvalidRequest,
            format!("node {} has no controller listener: it cannot vote", asked.node_id),
        ));
    }
    match (view.behind)(learner.id) {
        None => Err(not_yet(format!("node {} has not been heard of lately", asked.node_id))),
        Some(behind) if behind > BEHIND_MAX => {
            Err(not_yet(format!("node {} lacks {behind} entries of the metadata still", asked.node_id)))
        }
        Some(_) => {
            let member = Member { endpoint, ..learner.clone() };
            Ok(Some(MemberChange { kind: MemberChangeKind::AddVoter, member }))
        }
    }
}

fn update_voter(view: View<'_>, member: Member) -> Result<Option<MemberChange>, ApiError> {
    let voter = find_voter(view, member.node_id, member.directory_id)?;
    let is_new = voter.endpoint != member.endpoint;
    Ok(is_new.then_some(MemberChange { kind: MemberChangeKind::AddVoter, member }))
}

/// A voter that is there goes on following as an observer; one that is gone is forgotten, also an observer.
fn remove_voter(view: View<'_>, node_id: i32, directory_id: [u8; 16]) -> Result<Option<MemberChange>, ApiError> {
    let is_meant = |member: &Member| (member.node_id, member.directory_id) == (node_id, directory_id);
    if let Some((observer, _)) = view.members.iter().find(|(member, votes)| !votes && is_meant(member)) {
        let is_gone = observer.id != view.me && !(view.is_connected)(observer);
        return Ok(is_gone.then(|| MemberChange { kind: MemberChangeKind::Remove, member: observer.clone() }));
    }
    let voter = find_voter(view, node_id, directory_id)?;
    if view.members.is_sole_voter(voter.id) {
        let why = format!("node {node_id} is the only voter: add another one first");
        return Err(ApiError::new(ErrorCode::InvalidRequest, why));
    }
    let is_there = voter.id == view.me || (view.is_connected)(voter);
    let kind = if is_there { MemberChangeKind::AddLearner } else { MemberChangeKind::Remove };
    Ok(Some(MemberChange { kind, member: voter.clone() }))
}

fn find_voter(view: View<'_>, node_id: i32, directory_id: [u8; 16]) -> Result<&Member, ApiError> {
    let is_meant = |voter: &&Member| (voter.node_id, voter.directory_id) == (node_id, directory_id);
    view.members.voters().find(is_meant).ok_or_else(|| {
        ApiError::new(ErrorCode::VoterNotFound, format!("node {node_id} is no voter with this directory"))
    })
}

/// The quorum as its leader sees it (KIP-595, KIP-836). Offsets are indexes of the Raft log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuorumInfo {
    /// The node that leads.
    pub leader: i32,
    /// Its term.
    pub term: u64,
    /// The last entry that is committed.
    pub high_watermark: u64,
    /// All members.
    pub replicas: Vec<QuorumReplica>,
}

/// A member of the quorum as the leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuorumReplica {
    /// Its node.
    pub node_id: i32,
    /// Its log directory.
    pub directory_id: [u8; 16],
    /// It votes; otherwise it observes.
    pub is_voter: bool,
    /// The last entry that it is known to have durably.
    pub log_end: u64,
    /// When it was heard of last, in ms since 1970; -1: not by this leader.
    pub heard_ms: i64,
    /// When it last had everything, in ms since 1970; -1: not since this leader leads.
    pub caught_up_ms: i64,
    /// Where its controller listener is reached, if it has one.
    pub endpoint: Option<(String, u16)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quorum::members_tests::member;

    struct Case {
        members: Members,
        connected: Vec<u8>,
    }

    impl Case {
        /// 1, 2 and 3 vote, of which 1 decides; 4 observes.
        fn new(connected: &[u8]) -> Case {
            let mut members = Members::of_voters([1, 2, 3].map(member));
            members.apply(&MemberChange { kind: MemberChangeKind::AddLearner, member: member(4) });
            Case { members, connected: connected.to_vec() }
        }

        fn change(&self, request: &ControllerRequest) -> Result<Option<(MemberChangeKind, Member)>, ErrorCode> {
            let is_connected = |asked: &Member| self.connected.iter().any(|number| member(*number).id == asked.id);
            // The fourth lacks a few, the others that are connected nothing.
            let behind = |id: MemberId| {
                let number = (1..9).find(|number| member(*number).id == id)?;
                let lacks = if number == 4 { BEHIND_MAX } else { 0 };
                self.connected.contains(&number).then_some(lacks)
            };
            let view = View { members: &self.members, me: member(1).id, behind: &behind, is_connected: &is_connected };
            let changed = change(view, request).map_err(|error| error.code)?;
            Ok(changed.map(|change| (change.kind, change.member)))
        }
    }

    /// A directory of node `number` that is not the one that the others know.
    fn wiped(number: u8) -> Member {
        let directory_id = crate::random_id::uuid(u128::from(number) << 96 | 0x99 << 64);
        Member { id: MemberId::of_directory(directory_id), directory_id, ..member(number) }
    }

    fn observe(member: &Member) -> ControllerRequest {
        let Member { node_id, directory_id, endpoint, .. } = member.clone();
        ControllerRequest::AddObserver { node_id, directory_id, endpoint }
    }

    fn vote(member: &Member) -> ControllerRequest {
        let Member { node_id, directory_id, endpoint, .. } = member.clone();
        ControllerRequest::AddRaftVoter { node_id, directory_id, endpoint }
    }

    fn remove(member: &Member) -> ControllerRequest {
        ControllerRequest::RemoveRaftVoter { node_id: member.node_id, directory_id: member.directory_id }
    }

    #[test]
    fn whoever_calls_observes_unless_its_node_is_there_already() {
        let case = Case::new(&[2]);
        assert_eq!(case.change(&observe(&member(5))), Ok(Some((MemberChangeKind::AddLearner, member(5)))));
        assert_eq!(case.change(&observe(&member(4))), Ok(None));
        assert_eq!(case.change(&observe(&member(2))), Ok(None));
        let moved = Member { endpoint: Some(("elsewhere".to_owned(), 1)), ..member(4) };
        assert_eq!(case.change(&observe(&moved)), Ok(Some((MemberChangeKind::AddLearner, moved))));
        // A disk that was lost: a voter stays until another one takes its place, an observer goes at once.
        assert_eq!(case.change(&observe(&wiped(3))), Ok(Some((MemberChangeKind::AddLearner, wiped(3)))));
        assert_eq!(case.change(&observe(&wiped(4))), Ok(Some((MemberChangeKind::Remove, member(4)))));
        assert_eq!(case.change(&observe(&wiped(2))), Err(ErrorCode::DuplicateVoter));
        let mut both = Case::new(&[2, 3]);
        both.members.apply(&MemberChange { kind: MemberChangeKind::AddLearner, member: wiped(3) });
        assert_eq!(
            both.change(&observe(&member(3))),
            Ok(Some((MemberChangeKind::Remove, wiped(3)))),
            "what was left of it goes also when it votes"
        );
        assert_eq!(case.change(&observe(&wiped(1))), Err(ErrorCode::DuplicateVoter));
        let nobody = Member { node_id: -1, ..member(5) };
        let nowhere = Member { endpoint: Some(("x".repeat(256), 1)), ..member(5) };
        for wrong in [nobody, nowhere] {
            assert_eq!(case.change(&observe(&wrong)), Err(ErrorCode::InvalidRequest));
        }
    }

    #[test]
    fn an_observer_that_has_caught_up_becomes_a_voter() {
        let case = Case::new(&[2, 4]);
        assert_eq!(case.change(&vote(&member(4))), Ok(Some((MemberChangeKind::AddVoter, member(4)))));
        assert_eq!(case.change(&vote(&member(2))), Err(ErrorCode::DuplicateVoter));
        assert_eq!(case.change(&vote(&wiped(2))), Err(ErrorCode::DuplicateVoter));
        assert_eq!(case.change(&vote(&member(5))), Err(ErrorCode::RequestTimedOut), "nobody has heard of it");
        assert_eq!(case.change(&vote(&wiped(4))), Err(ErrorCode::RequestTimedOut), "another directory");
        assert_eq!(Case::new(&[2]).change(&vote(&member(4))), Err(ErrorCode::RequestTimedOut), "it is silent");
        // Without a controller listener nobody could reach it.
        let mut case = Case::new(&[4]);
        let broker = Member { endpoint: None, ..member(4) };
        case.members.apply(&MemberChange { kind: MemberChangeKind::AddLearner, member: broker.clone() });
        assert_eq!(case.change(&vote(&broker)), Err(ErrorCode::InvalidRequest));
        assert_eq!(case.change(&vote(&member(4))), Ok(Some((MemberChangeKind::AddVoter, member(4)))));
    }

    #[test]
    fn a_voter_that_is_removed_observes_if_it_is_there() {
        let case = Case::new(&[2]);
        assert_eq!(case.change(&remove(&member(2))), Ok(Some((MemberChangeKind::AddLearner, member(2)))));
        assert_eq!(case.change(&remove(&member(1))), Ok(Some((MemberChangeKind::AddLearner, member(1)))));
        assert_eq!(case.change(&remove(&member(3))), Ok(Some((MemberChangeKind::Remove, member(3)))));
        assert_eq!(case.change(&remove(&member(4))), Ok(Some((MemberChangeKind::Remove, member(4)))));
        assert_eq!(Case::new(&[4]).change(&remove(&member(4))), Ok(None), "it does not vote, and follows");
        assert_eq!(case.change(&remove(&wiped(3))), Err(ErrorCode::VoterNotFound));
        let alone = Case { members: Members::of_voters([member(1)]), connected: Vec::new() };
        assert_eq!(alone.change(&remove(&member(1))), Err(ErrorCode::InvalidRequest));
    }

    #[test]
    fn a_voter_says_where_it_is() {
        let case = Case::new(&[]);
        let moved = Member { endpoint: Some(("elsewhere".to_owned(), 1)), ..member(2) };
        let update = |member: &Member| {
            let Member { node_id, directory_id, endpoint, .. } = member.clone();
            ControllerRequest::UpdateRaftVoter { node_id, directory_id, endpoint }
        };
        assert_eq!(case.change(&update(&moved)), Ok(Some((MemberChangeKind::AddVoter, moved))));
        assert_eq!(case.change(&update(&member(2))), Ok(None));
        assert_eq!(case.change(&update(&member(4))), Err(ErrorCode::VoterNotFound));
    }
}
