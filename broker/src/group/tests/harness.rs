//! A coordinator with its log, its clock and a way to ask it things.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_wire_core::{ApiVersion, DecodeError, KafkaDecode, KafkaEncode};
use millstream_replication::{ClusterImage, MetadataRecord, Partition};
use millstream_storage::{Now, TopicId};

use crate::group::request::decode;
use crate::group::{
    ClientInfo, Coordinator, GroupConfig, GroupEffect, GroupRequest, Moment, RecordBytes, RequestRef, WriteId,
};
use crate::protocol::versions::{ApiKey, Handler};

/// Decodes a request that coordinators answer.
pub fn decode_request(key: ApiKey, version: i16, body: Bytes) -> Result<GroupRequest, DecodeError> {
    let Handler::Group(api) = key.handler() else { panic!("{} is not a coordinator's", key.name()) };
    GroupRequest::decode(api, version, body)
}

pub struct Harness {
    pub coordinator: Coordinator,
    config: GroupConfig,
    /// The topics there are.
    pub cluster: ClusterImage,
    elapsed: Duration,
    /// What is durable.
    pub log: Vec<RecordBytes>,
    /// What is being written.
    pub writing: VecDeque<(WriteId, Vec<RecordBytes>)>,
    /// Writes stay under way until they are released.
    pub hold: bool,
    replies: BTreeMap<RequestRef, Bytes>,
    last_reference: u64,
}

impl Harness {
    pub fn new(config: GroupConfig) -> Self {
        let mut harness = Harness {
            coordinator: Coordinator::new(config.clone()),
            config,
            cluster: ClusterImage::new(),
            elapsed: Duration::ZERO,
            log: Vec::new(),
            writing: VecDeque::new(),
            hold: false,
            replies: BTreeMap::new(),
            last_reference: 0,
        };
        let moment = Moment { now: harness.now(), cluster: &harness.cluster };
        harness.coordinator.loaded(moment);
        harness
    }

    pub fn now(&self) -> Now {
        Now { elapsed: self.elapsed, unix_ms: 1_700_000_000_000 + self.elapsed.as_millis() as i64 }
    }

    /// Sends a request; its reply, if it comes at once or later, is found under the reference.
    pub fn ask<M: KafkaEncode>(&mut self, key: ApiKey, version: i16, client: &str, request: &M) -> RequestRef {
        let body = request.encode_to_bytes(ApiVersion::new(version)).unwrap();
        let request = decode_request(key, version, body).unwrap();
        self.ask_decoded(client, request)
    }

    pub fn ask_decoded(&mut self, client: &str, request: GroupRequest) -> RequestRef {
        self.last_reference += 1;
        let reference = RequestRef(self.last_reference);
        let client = ClientInfo { client_id: client.into(), client_host: "/127.0.0.1".into() };
        let random = self.last_reference.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let now = self.now();
        let mut effects = Vec::new();
        self.coordinator.handle(
            Moment { now, cluster: &self.cluster },
            request,
            reference,
            &client,
            random,
            &mut effects,
        );
        self.take(effects);
        reference
    }

    /// Takes the reply to a request, if it has come.
    pub fn reply<M: KafkaDecode>(&mut self, reference: RequestRef, version: i16) -> Option<M> {
        let body = self.replies.remove(&reference)?;
        Some(decode(version, body).expect("a reply in the request's version"))
    }

    /// Takes a reply that nobody reads.
    pub fn discard(&mut self, reference: RequestRef) {
        self.replies.remove(&reference);
    }

    /// References that have a reply to take.
    pub fn replied(&self) -> Vec<RequestRef> {
        self.replies.keys().copied().collect()
    }

    fn take(&mut self, effects: Vec<GroupEffect>) {
        for effect in effects {
            match effect {
                GroupEffect::Write { write, records } => self.writing.push_back((write, records)),
                GroupEffect::Reply { reference, body } => {
                    let earlier = self.replies.insert(reference, body);
                    assert_eq!(earlier, None, "{reference:?} is answered twice");
                }
            }
        }
        self.coordinator.check_invariants();
        if !self.hold {
            self.release();
        }
    }

    /// Ends all writes under way.
    pub fn release(&mut self) {
        while !self.writing.is_empty() {
            self.commit_one();
        }
    }

    pub fn commit_one(&mut self) {
        if let Some((write, records)) = self.writing.pop_front() {
            self.log.extend(records);
            let mut effects = Vec::new();
            let now = self.now();
            self.coordinator.committed(Moment { now, cluster: &self.cluster }, write, &mut effects);
            self.take(effects);
        }
    }

    pub fn fail_one(&mut self, error_code: i16) {
        if let Some((write, _)) = self.writing.pop_front() {
            let mut effects = Vec::new();
            let now = self.now();
            self.coordinator.write_failed(Moment { now, cluster: &self.cluster }, write, error_code, &mut effects);
            self.take(effects);
        }
    }

    /// Lets time pass, with every deadline kept.
    pub fn tick(&mut self, duration: Duration) {
        let end = self.elapsed + duration;
        while let Some(due) = self.coordinator.next_deadline()
            && due <= end
        {
            self.elapsed = self.elapsed.max(due);
            let mut effects = Vec::new();
            let now = self.now();
            self.coordinator.expire(Moment { now, cluster: &self.cluster }, &mut effects);
            let later = self.coordinator.next_deadline();
            assert!(later > Some(self.elapsed), "a deadline is done with");
            self.take(effects);
        }
        self.elapsed = end;
    }

    /// A topic is created, or gets more partitions. Its identity follows from its name.
    pub fn create_topic(&mut self, name: &str, partitions: i32) {
        let topic_id = topic_id(name);
        if self.cluster.topic(name).is_none() {
            self.cluster.replay(&MetadataRecord::Topic { topic_id, name: name.to_owned() });
        }
        let known = self.cluster.topic(name).map_or(0, |topic| topic.partitions.len() as i32);
        for partition in known..partitions {
            let state =
                Partition { replicas: [1].into(), isr: [1].into(), leader: 1, leader_epoch: 0, partition_epoch: 0 };
            self.cluster.replay(&MetadataRecord::Partition { topic_id, partition, state });
        }
    }

    /// A topic is gone.
    pub fn delete_topic(&mut self, name: &str) {
        if self.cluster.topic(name).is_some() {
            self.cluster.replay(&MetadataRecord::RemoveTopic { topic_id: topic_id(name) });
        }
        self.topics_deleted(&[name]);
    }

    fn topics_deleted(&mut self, topics: &[&str]) {
        let topics: Vec<Arc<str>> = topics.iter().map(|topic| (*topic).into()).collect();
        let mut effects = Vec::new();
        self.coordinator.topics_deleted(&topics, &mut effects);
        self.take(effects);
    }

    pub fn resign(&mut self) {
        let mut effects = Vec::new();
        self.coordinator.resign(self.now(), &mut effects);
        self.take(effects);
    }

    /// A new coordinator that has read the log.
    pub fn reread(&self) -> Coordinator {
        let mut coordinator = Coordinator::new(self.config.clone());
        for (key, value) in &self.log {
            coordinator.load(key, value.as_deref()).unwrap();
        }
        coordinator.loaded(Moment { now: self.now(), cluster: &self.cluster });
        coordinator.check_invariants();
        coordinator
    }

    /// The process dies: what was being written is lost, and nobody is answered.
    pub fn restart(&mut self) {
        self.writing.clear();
        self.coordinator = self.reread();
    }
}

/// The identity of a topic of this name.
pub fn topic_id(name: &str) -> TopicId {
    let mut id = [0; 16];
    let bytes = name.as_bytes();
    id[..bytes.len()].copy_from_slice(bytes);
    TopicId(id)
}
