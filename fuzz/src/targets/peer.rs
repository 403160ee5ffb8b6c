//! What other nodes send. The first byte chooses: a frame, a request to the controller, its answer, or a node's connections,
//! to which anything happens in any order.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use millstream::peer::frame::{FRAME_BYTES_MAX, Frame, Hello, LENGTH_BYTES, RejectReason, Welcome, cut};
use millstream::peer::links::{ACCEPTED_MAX, DialError, Effect, Event, Identity, LinkId, Links, Told};
use millstream::peer::wire;
use millstream_replication::config::Properties;
use millstream_replication::controller::{
    Assignment, ConfigChange, ConfigOperation, ConfigResource, CreatedTopic, DeletedTopic, MorePartitions, NewTopic,
    QuotaChange, TopicReference,
};
use millstream_replication::{
    ApiError, ControllerRequest, ControllerResponse, Endpoint, ErrorCode, METADATA_VERSIONS, QuotaEntity,
};
use millstream_storage::TopicId;

use crate::Target;
use crate::input::{Input, piece};
use crate::memory::{BASE_BYTES, bounded};

pub const TARGET: Target = Target { name: "peer", run, seeds };

/// An item of an answer takes 3 bytes and 80 in memory, in a vector that may have twice the room while the old one is copied.
const MEMORY_PER_BYTE: usize = 128;
/// Connections and what a node knows of its peers, beside messages.
const LINKS_BYTES: usize = 256 << 10;

fn run(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let bytes_max = BASE_BYTES + MEMORY_PER_BYTE * bytes.len();
    match choice % 4 {
        0 => frames(bytes),
        1 => {
            if let Ok(request) = bounded(bytes_max, || wire::decode_request(bytes)) {
                assert_eq!(wire::encode_request(&request), bytes);
            }
        }
        2 => {
            if let Ok(response) = bounded(bytes_max, || wire::decode_response(bytes)) {
                // Codes that nobody knows become one that is known.
                assert_eq!(wire::decode_response(&wire::encode_response(&response)), Ok(response));
            }
        }
        _ => bounded(bytes_max + LINKS_BYTES, || connections(Input::new(bytes))),
    }
}

/// The bytes as they are, and as what was received of a connection.
fn frames(bytes: &[u8]) {
    let whole = Bytes::copy_from_slice(bytes);
    frame(&whole);
    let mut received = BytesMut::from(bytes);
    while let Ok(Some(bytes)) = cut(&mut received, FRAME_BYTES_MAX) {
        frame(&bytes);
    }
}

fn frame(bytes: &Bytes) {
    let Ok(decoded) = bounded(BASE_BYTES, || Frame::decode(bytes)) else { return };
    let again = decoded.to_bytes().slice(LENGTH_BYTES..);
    match decoded {
        // Its correlation id means nothing, and what follows the fields neither.
        Frame::Hello(_) => assert_eq!(again[10..], bytes[10..again.len()]),
        Frame::Reject { .. } => assert_eq!(again, bytes[..again.len()]),
        _ => assert_eq!(again, bytes),
    }
}

fn identity() -> Identity {
    Identity {
        cluster_id: Some([1; 16]),
        node_id: 1,
        directory_id: [1; 16],
        incarnation: [1; 16],
        address: Some(("me".into(), 1)),
        is_forming: false,
    }
}

/// A node, and what a driver knows of its connections.
struct Node {
    links: Links,
    now: Duration,
    accepted: u64,
    dialling: BTreeSet<LinkId>,
    open: BTreeSet<LinkId>,
    told: Vec<Told>,
}

impl Node {
    fn happens(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.links.handle(self.now, event, &mut effects, &mut self.told);
        self.execute(effects);
    }

    fn execute(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Dial { link, .. } => assert!(self.dialling.insert(link), "dialled twice"),
                Effect::Send { link, bytes } => {
                    assert!(self.open.contains(&link), "sent to nobody");
                    let mut sent = BytesMut::from(&bytes[..]);
                    while let Some(frame) = cut(&mut sent, FRAME_BYTES_MAX).expect("a length of ours") {
                        Frame::decode(&frame).expect("a frame of ours");
                    }
                    assert!(sent.is_empty(), "half a frame");
                }
                Effect::Close { link } => {
                    // It may be closed already: the other side was faster.
                    let _ = self.open.remove(&link) || self.dialling.remove(&link);
                }
            }
        }
    }

    fn pick(&self, among: &BTreeSet<LinkId>, number: u8) -> Option<LinkId> {
        among.iter().nth(usize::from(number) % among.len().max(1)).copied()
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let choice = input.byte();
        let number = input.byte();
        let open = self.pick(&self.open, number);
        let dialling = self.pick(&self.dialling, number);
        match (choice % 10, open, dialling) {
            (0, ..) => {
                let link = LinkId(self.accepted);
                self.accepted += 1;
                self.open.insert(link);
                self.happens(Event::Accepted { link });
            }
            (1 | 2, Some(link), _) => {
                let bytes = Bytes::copy_from_slice(input.piece());
                self.happens(Event::Received { link, bytes });
            }
            (3, Some(link), _) => {
                self.open.remove(&link);
                self.happens(Event::Closed { link });
            }
            (4, _, Some(link)) => {
                self.dialling.remove(&link);
                self.open.insert(link);
                self.happens(Event::Dialed { link, result: Ok(()) });
            }
            (5, _, Some(link)) => {
                self.dialling.remove(&link);
                let error = if number < 128 { DialError::Refused } else { DialError::Failed };
                self.happens(Event::Dialed { link, result: Err(error) });
            }
            (6, ..) => {
                let peers =
                    [(Some(2), "two".to_owned(), 2), (None, "some".to_owned(), 3), (Some(1), "me".to_owned(), 1)];
                self.links.set_peers(self.now, &peers[..usize::from(number) % 4]);
            }
            (7, ..) => self.links.set_identity(Identity { is_forming: number.is_multiple_of(2), ..identity() }),
            (8, ..) => {
                let mut effects = Vec::new();
                for told in std::mem::take(&mut self.told) {
                    match told {
                        Told::Request { link, id, request, .. } => {
                            self.links.respond(link, id, 1, request, &mut effects);
                            self.links.not_controller(link, id, 2, &mut effects);
                        }
                        Told::Client { link, .. } if number < 64 => self.links.close_client(link, &mut effects),
                        Told::Gone { peer } => self.links.probe(peer.node_id, "gone".to_owned(), 4),
                        _ => {}
                    }
                }
                self.links.raft([2; 16], Bytes::from_static(b"raft"), &mut effects);
                self.links.request(2, 7, Bytes::new(), &mut effects);
                self.links.adopt([3; 16], Bytes::new(), &mut effects);
                // Connections of which the node does not want anything any more are closed by the next event.
                self.execute(effects);
            }
            _ => {
                self.now += Duration::from_millis(u64::from(number) * 10);
                self.happens(Event::Tick);
            }
        }
    }
}

fn connections(mut input: Input<'_>) {
    let mut links = Links::new(identity(), 1);
    links.set_peers(Duration::ZERO, &[(Some(2), "two".to_owned(), 2), (None, "some".to_owned(), 3)]);
    let mut node = Node {
        links,
        now: Duration::ZERO,
        accepted: 0,
        dialling: BTreeSet::new(),
        open: BTreeSet::new(),
        told: Vec::new(),
    };
    while !input.is_empty() {
        node.step(&mut input);
        let accepted = node.open.iter().filter(|link| !link.is_dialled()).count();
        assert!(accepted <= ACCEPTED_MAX && node.dialling.len() <= 72);
        assert!(node.links.peers().count() <= node.open.len());
    }
    // All that is left undone is done in the end: no deadline lies in the past for ever.
    node.happens(Event::Tick);
    let due = node.links.next_deadline();
    assert!(due.is_none_or(|due| due > node.now), "{due:?} at {:?}", node.now);
}

fn one_of_each() -> Vec<Frame> {
    let hello = Hello {
        version_min: 2,
        version_max: 2,
        cluster_id: Some([1; 16]),
        node_id: 2,
        directory_id: [2; 16],
        incarnation: [2; 16],
        to_node: 1,
        address: Some(("two".into(), 2)),
        is_forming: false,
    };
    let welcome = Welcome {
        version: 2,
        cluster_id: Some([1; 16]),
        node_id: 2,
        directory_id: [2; 16],
        incarnation: [2; 16],
        is_forming: false,
    };
    let bytes = Bytes::from_static(b"message");
    vec![
        Frame::Hello(hello),
        Frame::Welcome(welcome),
        Frame::Reject { why: RejectReason::Cluster, text: "another cluster".into() },
        Frame::Ping,
        Frame::Pong,
        Frame::Raft { is_last: false, bytes: bytes.clone() },
        Frame::Raft { is_last: true, bytes: bytes.clone() },
        Frame::Request { id: 7, is_last: true, request: bytes.clone() },
        Frame::Response { id: 7, offset: 5, is_last: true, response: bytes.clone() },
        Frame::NotController { id: 7, leader: 3 },
        Frame::Adopt { is_last: true, bytes },
    ]
}

fn requests() -> Vec<ControllerRequest> {
    let validate_only = true;
    let endpoint = Endpoint { listener: "PLAINTEXT".into(), host: "h".into(), port: 9092 };
    let configs = vec![("retention.ms".to_owned(), Some("5".to_owned())), ("cleanup.policy".to_owned(), None)];
    let change = ConfigChange { name: "n".into(), operation: ConfigOperation::Append, value: Some("v".into()) };
    let topic = NewTopic {
        name: "t".into(),
        partitions: 1,
        replication_factor: -1,
        assignments: vec![Assignment { partition: 0, brokers: vec![1, 2] }],
        configs: configs.clone(),
    };
    let entity = QuotaEntity::UserClient(Some("u".into()), None);
    vec![
        ControllerRequest::RegisterBroker {
            node_id: 1,
            incarnation: [3; 16],
            directory_id: [4; 16],
            shards: 2,
            endpoints: vec![endpoint],
            rack: Some("r".into()),
            metadata_versions: METADATA_VERSIONS,
        },
        ControllerRequest::BrokerHeartbeat {
            node_id: 1,
            epoch: 5,
            applied_offset: 9,
            want_fence: false,
            want_shutdown: true,
        },
        ControllerRequest::FenceBroker { node_id: 1, epoch: 5 },
        ControllerRequest::UnregisterBroker { node_id: 1 },
        ControllerRequest::CreateTopics { topics: vec![topic], validate_only },
        ControllerRequest::DeleteTopics {
            topics: vec![TopicReference::Name("t".into()), TopicReference::Id(TopicId([1; 16]))],
        },
        ControllerRequest::CreatePartitions {
            topics: vec![MorePartitions { name: "t".into(), count: 3, assignments: Some(vec![vec![1], vec![2, 3]]) }],
            validate_only,
        },
        ControllerRequest::IncrementalAlterConfigs {
            resources: vec![(ConfigResource::Topic("t".into()), vec![change]), (ConfigResource::Cluster, vec![])],
            validate_only,
        },
        ControllerRequest::AlterConfigs { resources: vec![(ConfigResource::Broker(1), configs)], validate_only },
        ControllerRequest::AlterClientQuotas {
            changes: vec![QuotaChange { entity, values: vec![("k".into(), Some(1.5)), ("l".into(), None)] }],
            validate_only,
        },
        ControllerRequest::AllocateProducerIds { node_id: 1, epoch: 5 },
    ]
}

fn responses() -> Vec<ControllerResponse> {
    let error = || ApiError::new(ErrorCode::PolicyViolation, "why");
    let created = CreatedTopic {
        topic_id: TopicId([1; 16]),
        partitions: 1,
        replication_factor: 1,
        configs: Properties::from([("a".to_owned(), "b".to_owned()), ("c".to_owned(), "d".to_owned())]),
    };
    let deleted = DeletedTopic { name: Some("t".into()), topic_id: TopicId([1; 16]), outcome: Err(error()) };
    vec![
        ControllerResponse::RegisterBroker(Ok(5)),
        ControllerResponse::CreateTopics(vec![("t".into(), Ok(created)), ("u".into(), Err(error()))]),
        ControllerResponse::DeleteTopics(vec![deleted]),
        ControllerResponse::CreatePartitions(vec![("t".into(), Ok(()))]),
        ControllerResponse::AlterConfigs(vec![(ConfigResource::Cluster, Err(error()))]),
        ControllerResponse::AlterClientQuotas(vec![(QuotaEntity::Ip(None), Ok(()))]),
        ControllerResponse::AllocateProducerIds(Ok((1000, 1000))),
    ]
}

/// A step in which a frame comes over the connection of this place.
fn received(place: u8, frame: &Frame) -> Vec<u8> {
    [&[1, place], &piece(&frame.to_bytes()[LENGTH_BYTES..])[..]].concat()
}

fn seeds() -> Vec<Vec<u8>> {
    let all = one_of_each();
    let [hello, welcome, reject, ping, pong, begin, end, request, response, not_controller, adopt] = &all[..] else {
        panic!("one of each")
    };
    // Somebody calls, and says all that a caller may say; it is answered.
    let mut called = vec![3, 0, 0];
    for frame in [hello, ping, begin, end, request, adopt] {
        called.extend(received(0, frame));
    }
    called.extend([8, 0, 0, 0]);
    called.extend(received(1, hello));
    // Both targets are dialled, one takes the connection, and then it goes.
    let mut dialled = vec![3, 9, 0, 4, 0, 5, 0];
    for frame in [welcome, pong, response, not_controller] {
        dialled.extend(received(0, frame));
    }
    dialled.extend([8, 0, 9, 60, 3, 0, 5, 0, 9, 200, 7, 0, 6, 1, 9, 250]);
    // The other one does not, and this node rejects somebody else's answer.
    let mut rejected = vec![3, 9, 0, 4, 1, 5, 200];
    rejected.extend(received(0, reject));
    rejected.extend([9, 250, 4, 0]);
    rejected.extend(received(0, end));
    let mut seeds = vec![called, dialled, rejected];
    seeds.extend(all.iter().map(|frame| [&[0], &frame.to_bytes()[LENGTH_BYTES..]].concat()));
    seeds.push([&[0][..], &hello.to_bytes(), &begin.to_bytes(), &ping.to_bytes()].concat());
    seeds.extend(requests().iter().map(|request| [vec![1], wire::encode_request(request)].concat()));
    seeds.extend(responses().iter().map(|response| [vec![2], wire::encode_response(response)].concat()));
    seeds
}
