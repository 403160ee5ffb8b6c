//! A small blocking client: finds out which brokers there are, and asks each for what it leads.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use kafka_wire::list_offsets_request::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use kafka_wire::metadata_request::{MetadataRequest, MetadataRequestTopic};
use kafka_wire::metadata_response::{MetadataResponse, MetadataResponseTopic};
use kafka_wire::{FindCoordinatorRequest, ListOffsetsResponse};

use super::connection::Connection;
use super::error::{CliError, ErrorText};

/// How long to wait before what failed for a passing reason is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// ListOffsets: the high watermark.
pub const LATEST: i64 = -1;
/// ListOffsets: the log start offset.
pub const EARLIEST: i64 = -2;
/// ListOffsets: the record with the largest timestamp (KIP-734).
pub const MAX_TIMESTAMP: i64 = -3;

/// A topic's partition.
pub type TopicPartition = (String, i32);

/// What ListOffsets found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundOffset {
    /// -1 when there is no such record.
    pub offset: i64,
    /// Of the record; -1 when none was asked for.
    pub timestamp: i64,
}

/// Connections to a cluster's brokers.
#[derive(Debug)]
pub struct Client {
    timeout: Duration,
    bootstrap: Connection,
    /// Addresses by node id, as of the last metadata.
    brokers: BTreeMap<i32, String>,
    controller_id: i32,
    connections: HashMap<i32, Connection>,
}

impl Client {
    /// Connects to the first of these brokers that answers.
    pub fn connect(bootstrap: &str, timeout: Duration) -> Result<Client, CliError> {
        let mut failure = CliError::Usage("--bootstrap-server names no broker".to_owned());
        for address in bootstrap.split(',').map(str::trim).filter(|address| !address.is_empty()) {
            // Kafka's own default.
            let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            let address = if has_port { address.to_owned() } else { format!("{address}:9092") };
            match Connection::open(&address, timeout) {
                Ok(bootstrap) => {
                    return Ok(Client {
                        timeout,
                        bootstrap,
                        brokers: BTreeMap::new(),
                        controller_id: -1,
                        connections: HashMap::new(),
                    });
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// How long the cluster may take to do what is asked.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The same for the requests that say it.
    pub fn timeout_ms(&self) -> i32 {
        i32::try_from(self.timeout.as_millis()).unwrap_or(i32::MAX)
    }

    /// The broker that was connected to first.
    pub fn any(&mut self) -> &mut Connection {
        &mut self.bootstrap
    }

    /// Metadata of some topics, or of all. No topic is created by asking for it.
    pub fn metadata(&mut self, topics: Option<&[String]>) -> Result<MetadataResponse, CliError> {
        let mut request = MetadataRequest::default();
        request.topics = topics.map(|topics| {
            let topic = |name: &String| {
                let mut topic = MetadataRequestTopic::default();
                topic.name = Some(name.as_str().into());
                topic
            };
            topics.iter().map(topic).collect()
        });
        request.allow_auto_topic_creation = false;
        let response = self.bootstrap.call(4..=12, &request)?;
        self.brokers = response
            .brokers
            .iter()
            .map(|broker| (broker.node_id, format!("{}:{}", broker.host, broker.port)))
            .collect();
        self.controller_id = response.controller_id;
        Ok(response)
    }

    /// The topics of these names. Those that do not exist are an error.
    pub fn topics(&mut self, names: &[String]) -> Result<Vec<MetadataResponseTopic>, CliError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let topics = self.metadata(Some(names))?.topics;
            let error = topics.iter().find_map(|topic| {
                let error = ErrorText::new(topic.error_code, None)?;
                Some((topic.name.as_deref().unwrap_or_default().to_owned(), error))
            });
            match error {
                None => return Ok(topics),
                // A topic whose leaders are being chosen will soon have them; one that is not there will not come.
                Some((_, error)) if error.code() == 5 && Instant::now() < deadline => {
                    std::thread::sleep(RETRY_INTERVAL);
                }
                Some((name, error)) => return Err(CliError::refused(format!("topic {name}"), &error)),
            }
        }
    }

    /// All partitions of a topic.
    pub fn partitions(&mut self, topic: &str) -> Result<Vec<TopicPartition>, CliError> {
        let topics = self.topics(&[topic.to_owned()])?;
        let mut partitions: Vec<TopicPartition> = topics
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|partition| partition.partition_index))
            .map(|partition| (topic.to_owned(), partition))
            .collect();
        partitions.sort_unstable();
        Ok(partitions)
    }

    /// The brokers' node ids.
    pub fn broker_ids(&mut self) -> Result<Vec<i32>, CliError> {
        self.metadata(Some(&[]))?;
        Ok(self.brokers.keys().copied().collect())
    }

    /// The broker that decides about topics; where any may be asked, any.
    pub fn controller(&mut self) -> Result<&mut Connection, CliError> {
        self.metadata(Some(&[]))?;
        let controller_id = self.controller_id;
        if self.brokers.contains_key(&controller_id) { self.broker(controller_id) } else { Ok(&mut self.bootstrap) }
    }

    /// A broker of the last metadata.
    pub fn broker(&mut self, node_id: i32) -> Result<&mut Connection, CliError> {
        if !self.connections.contains_key(&node_id) {
            let address = self
                .brokers
                .get(&node_id)
                .ok_or_else(|| CliError::Refused(format!("there is no broker {node_id} in the cluster")))?;
            let connection = Connection::open(address, self.timeout).map_err(|error| match error {
                CliError::Unreachable(why) => CliError::Unreachable(format!(
                    "the cluster says that broker {node_id} is at {address} (advertised.listeners), but {why}"
                )),
                other => other,
            })?;
            self.connections.insert(node_id, connection);
        }
        Ok(self.connections.get_mut(&node_id).expect("it is there now"))
    }

    /// Forgets a connection that failed.
    pub fn disconnect(&mut self, node_id: i32) {
        self.connections.remove(&node_id);
    }

    /// The node id of a group's coordinator.
    pub fn coordinator(&mut self, group: &str) -> Result<i32, CliError> {
        let deadline = Instant::now() + self.timeout;
        let mut request = FindCoordinatorRequest::default();
        request.key = group.into();
        loop {
            let response = self.bootstrap.call(0..=3, &request)?;
            match ErrorText::new(response.error_code, response.error_message.as_deref()) {
                None => {
                    self.brokers.insert(response.node_id, format!("{}:{}", response.host, response.port));
                    return Ok(response.node_id);
                }
                Some(error) if error.is_retriable() && Instant::now() < deadline => {
                    std::thread::sleep(RETRY_INTERVAL);
                }
                Some(error) => return Err(CliError::refused(format!("group {group}"), &error)),
            }
        }
    }

    /// Asks a group's coordinator something, until it is no longer just starting or moving. `error` looks for that.
    pub fn ask_coordinator<T>(
        &mut self,
        group: &str,
        ask: impl Fn(&mut Connection) -> Result<T, CliError>,
        error: impl Fn(&T) -> i16,
    ) -> Result<T, CliError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let node_id = self.coordinator(group)?;
            let answer = ask(self.broker(node_id)?)?;
            if !matches!(error(&answer), 14..=16) || Instant::now() >= deadline {
                return Ok(answer);
            }
            std::thread::sleep(RETRY_INTERVAL);
        }
    }

    /// Partitions by the node that leads them, as of now; those without a leader under -1. Topics that do not exist are
    /// an error.
    pub fn by_leader<T>(
        &mut self,
        items: impl IntoIterator<Item = (TopicPartition, T)>,
    ) -> Result<BTreeMap<i32, Vec<(TopicPartition, T)>>, CliError> {
        let items: Vec<(TopicPartition, T)> = items.into_iter().collect();
        let mut names: Vec<String> = items.iter().map(|((topic, _), _)| topic.clone()).collect();
        names.sort_unstable();
        names.dedup();
        let leaders: HashMap<TopicPartition, i32> = self
            .topics(&names)?
            .iter()
            .flat_map(|topic| {
                let name = topic.name.as_deref().unwrap_or_default().to_owned();
                topic.partitions.iter().map(move |part| ((name.clone(), part.partition_index), part.leader_id))
            })
            .collect();
        let mut by_leader: BTreeMap<i32, Vec<(TopicPartition, T)>> = BTreeMap::new();
        for (partition, item) in items {
            let leader = *leaders
                .get(&partition)
                .ok_or_else(|| CliError::Refused(format!("topic {} has no partition {}", partition.0, partition.1)))?;
            by_leader.entry(leader).or_default().push((partition, item));
        }
        Ok(by_leader)
    }

    /// Asks the leaders of partitions for the offset of a timestamp each: [`LATEST`], [`EARLIEST`], [`MAX_TIMESTAMP`] or
    /// Unix milliseconds.
    pub fn offsets(
        &mut self,
        wanted: impl IntoIterator<Item = (TopicPartition, i64)>,
    ) -> Result<BTreeMap<TopicPartition, FoundOffset>, CliError> {
        let deadline = Instant::now() + self.timeout;
        let mut wanted: Vec<(TopicPartition, i64)> = wanted.into_iter().collect();
        let mut found = BTreeMap::new();
        loop {
            let mut again = Vec::new();
            let mut last_error = None;
            for (leader, items) in self.by_leader(wanted)? {
                if leader < 0 {
                    last_error = ErrorText::new(5, None).map(|error| (items[0].0.clone(), error));
                    again.extend(items);
                    continue;
                }
                let timestamps: HashMap<TopicPartition, i64> = items.iter().cloned().collect();
                let response = self.broker(leader)?.call(1..=7, &list_offsets(&items))?;
                for (partition, result) in answers(response) {
                    match result {
                        Ok(offset) => {
                            found.insert(partition, offset);
                        }
                        Err(error) if error.is_retriable() => {
                            again.push((partition.clone(), timestamps[&partition]));
                            last_error = Some((partition, error));
                        }
                        Err(error) => return Err(refused(&partition, &error)),
                    }
                }
            }
            match last_error {
                None => return Ok(found),
                Some((partition, error)) if Instant::now() >= deadline => return Err(refused(&partition, &error)),
                Some(_) => std::thread::sleep(RETRY_INTERVAL),
            }
            wanted = again;
        }
    }
}

fn refused((topic, partition): &TopicPartition, error: &ErrorText) -> CliError {
    CliError::refused(format!("partition {partition} of topic {topic}"), error)
}

/// Puts items together by their topics, in order.
pub fn by_topic<T>(items: impl IntoIterator<Item = (TopicPartition, T)>) -> BTreeMap<String, Vec<(i32, T)>> {
    let mut topics: BTreeMap<String, Vec<(i32, T)>> = BTreeMap::new();
    for ((topic, partition), item) in items {
        topics.entry(topic).or_default().push((partition, item));
    }
    topics
}

fn list_offsets(items: &[(TopicPartition, i64)]) -> ListOffsetsRequest {
    let mut request = ListOffsetsRequest::default();
    request.replica_id = -1;
    request.topics = by_topic(items.iter().cloned())
        .into_iter()
        .map(|(name, partitions)| {
            let mut topic = ListOffsetsTopic::default();
            topic.name = name.into();
            topic.partitions = partitions
                .into_iter()
                .map(|(index, timestamp)| {
                    let mut partition = ListOffsetsPartition::default();
                    partition.partition_index = index;
                    partition.current_leader_epoch = -1;
                    partition.timestamp = timestamp;
                    partition
                })
                .collect();
            topic
        })
        .collect();
    request
}

fn answers(response: ListOffsetsResponse) -> impl Iterator<Item = (TopicPartition, Result<FoundOffset, ErrorText>)> {
    response.topics.into_iter().flat_map(|topic| {
        let name = topic.name.to_string();
        topic.partitions.into_iter().map(move |partition| {
            let found = FoundOffset { offset: partition.offset, timestamp: partition.timestamp };
            let result = ErrorText::check(partition.error_code, None).map(|()| found);
            ((name.clone(), partition.partition_index), result)
        })
    })
}
