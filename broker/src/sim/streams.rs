//! Shards of two nodes as they are shipped, and the network between them: an image with partitions of two replicas has them
//! open streams to each other, which survive delays, and come back after cuts, crashes and new registrations.

use std::sync::Arc;
use std::time::Duration;

use millstream_replication::{Broker, ClusterImage, Endpoint, METADATA_VERSIONS, MetadataRecord, Partition};
use millstream_storage::random::Random;
use millstream_storage::seeds::{self, Options};
use millstream_storage::{Now, TopicId};

use super::disk::SimDisk;
use super::node::{Configuration, Place};
use super::peer_network::{BROKER_PORT, Later, PeerNetwork, host_name};
use super::schedule::{Schedule, Trace};
use crate::metrics::Scrape;
use crate::peer::links;
use crate::peer::stream::greeting::Addressee;
use crate::protocol::send::SendPart;
use crate::shard::{Effect, Event as ShardEvent, Message, Shard};

const CLUSTER: [u8; 16] = [7; 16];
const TOPIC: TopicId = TopicId([1; 16]);
const LISTENER: &str = "PLAINTEXT";
const PARTITIONS: i32 = 8;
/// Above all that a node's own start has put into its image.
const FIRST_OFFSET: u64 = 1_000;

/// Something that happens.
enum What {
    Later(Later),
    /// A shard's deadline may have come.
    Timer {
        node: usize,
        life: u64,
        shard: usize,
    },
    /// A node's shards are told what the cluster is.
    Image {
        node: usize,
        life: u64,
        image: Arc<ClusterImage>,
        records: Arc<Vec<MetadataRecord>>,
    },
}

struct Process {
    life: u64,
    shards: Vec<Shard>,
    timer_at: Vec<Option<u64>>,
    started_us: u64,
}

struct Streams {
    schedule: Schedule<What>,
    random: Random,
    trace: Trace,
    network: PeerNetwork,
    nodes: Vec<Option<Process>>,
    lives: u64,
    image: ClusterImage,
}

impl Streams {
    fn new(seed: u64, is_verbose: bool) -> Streams {
        let mut streams = Streams {
            schedule: Schedule::new(),
            random: Random::new(seed),
            trace: Trace::new(is_verbose),
            network: PeerNetwork::new(2),
            nodes: vec![None, None],
            lives: 0,
            image: ClusterImage::from_snapshot(FIRST_OFFSET, &[MetadataRecord::Cluster { cluster_id: CLUSTER }])
                .expect("an image"),
        };
        (0..2).for_each(|node| streams.start(node));
        let mut records = vec![MetadataRecord::Topic { topic_id: TOPIC, name: "t".into() }];
        for partition in 0..PARTITIONS {
            let leader = 1 + partition % 2;
            let replicas = [leader, 3 - leader];
            let (isr, replicas) = (replicas.into(), replicas.into());
            let state = Partition { replicas, isr, leader, leader_epoch: 0, partition_epoch: 0 };
            records.push(MetadataRecord::Partition { topic_id: TOPIC, partition, state });
        }
        streams.commit(records);
        streams
    }

    fn now_us(&self) -> u64 {
        self.schedule.now_us()
    }

    /// A process begins on a new disk, and is registered.
    fn start(&mut self, node: usize) {
        let mut configuration = Configuration::alone();
        configuration.node_id = node as i32 + 1;
        let mut disk = SimDisk::new(self.random.fork());
        let now = Now { elapsed: Duration::ZERO, unix_ms: 1_700_000_000_000 };
        let shards = self.random.between(1, 3) as usize;
        let opened = configuration.recover(&mut disk, &mut self.random, now, shards).expect("an empty disk");
        let (incarnation, shards) = opened.into_shards();
        self.lives += 1;
        let count = shards.len() as u32;
        let started_us = self.now_us();
        self.nodes[node] = Some(Process { life: self.lives, timer_at: vec![None; shards.len()], shards, started_us });
        self.network.listens(node, self.lives);
        let node_id = node as i32 + 1;
        self.network.serves(node, Some(Addressee { cluster_id: CLUSTER, node: node_id, shards: count }));
        let registration = MetadataRecord::Broker(Broker {
            node_id,
            epoch: self.image.offset() as i64 + 1,
            incarnation,
            directory_id: [node_id as u8; 16],
            shards: count,
            is_fenced: false,
            in_controlled_shutdown: false,
            endpoints: vec![Endpoint { listener: LISTENER.into(), host: host_name(node), port: BROKER_PORT }],
            rack: None,
            metadata_versions: METADATA_VERSIONS,
        });
        self.image.replay(&registration);
        // The process itself is told all that is there, as a snapshot brings it.
        let records = self.image.snapshot();
        self.tell(node, records);
        self.tell(1 - node, vec![registration]);
    }

    fn crash(&mut self, node: usize) {
        self.trace.line(self.schedule.now_us(), format!("node {} crashes", node + 1));
        self.nodes[node] = None;
        let mut later = Vec::new();
        self.network.hang_up(node, self.schedule.now_us(), &mut self.random, &mut later);
        self.later(later);
    }

    /// Records are committed: each node hears of them in its time.
    fn commit(&mut self, records: Vec<MetadataRecord>) {
        records.iter().for_each(|record| self.image.replay(record));
        (0..2).for_each(|node| self.tell(node, records.clone()));
    }

    fn tell(&mut self, node: usize, records: Vec<MetadataRecord>) {
        let Some(process) = &self.nodes[node] else { return };
        let image = Arc::new(self.image.clone());
        // In their order: a node's records come by one way.
        let at_us = self.now_us() + 2_000 * (self.image.offset() - FIRST_OFFSET) + self.random.below(2_000);
        let life = process.life;
        self.schedule.at(at_us, What::Image { node, life, image, records: Arc::new(records) });
    }

    fn later(&mut self, later: Vec<(u64, Later)>) {
        later.into_iter().for_each(|(delay_us, later)| self.schedule.after(delay_us, What::Later(later)));
    }

    /// A shard has a turn, with this event if there is one.
    fn turn(&mut self, node: usize, shard: usize, event: Option<ShardEvent>) {
        let now_us = self.now_us();
        let Some(process) = &mut self.nodes[node] else { return };
        let life = process.life;
        let elapsed = Duration::from_micros(now_us - process.started_us);
        let now = Now { elapsed, unix_ms: 1_700_000_000_000 + (now_us / 1000) as i64 };
        let mut effects = Vec::new();
        if let Some(event) = event {
            process.shards[shard].handle(now, event, &mut effects);
        }
        process.shards[shard].end_turn(now, &mut effects);
        if let Some(due) = process.shards[shard].next_deadline() {
            let at_us = (process.started_us + due.as_micros() as u64 + 1).max(now_us + 100);
            if process.timer_at[shard].is_none_or(|earlier| at_us < earlier) {
                process.timer_at[shard] = Some(at_us);
                self.schedule.at(at_us, What::Timer { node, life, shard });
            }
        }
        let mut later = Vec::new();
        for effect in effects {
            let effect = match effect {
                Effect::Dial { link, host, port } => links::Effect::Dial { link, host, port },
                Effect::HangUp { link } => links::Effect::Close { link },
                Effect::SendToPeer { link, parts } => {
                    let memory = |part| if let SendPart::Memory(bytes) = part { bytes } else { panic!("{part:?}") };
                    let bytes: Vec<u8> = parts.into_iter().flat_map(memory).collect();
                    links::Effect::Send { link, bytes: bytes.into() }
                }
                Effect::Warn { message } => {
                    self.trace.line(now_us, format!("node {}: {message}", node + 1));
                    continue;
                }
                // Nobody writes to these partitions: what the disk would do for them does not matter here.
                _ => continue,
            };
            let from = (node, life, Place::Shard(shard));
            self.trace.line(now_us, format!("node {} shard {shard}: {effect:?}", node + 1));
            self.network.execute(from, effect, now_us, &mut self.random, &mut later);
        }
        self.later(later);
    }

    fn is_alive(&self, node: usize, life: u64) -> bool {
        self.nodes[node].as_ref().is_some_and(|process| process.life == life)
    }

    fn run(&mut self, time_us: u64) {
        let until_us = self.now_us() + time_us;
        self.schedule.at(until_us, What::Timer { node: 0, life: 0, shard: 0 });
        while self.now_us() < until_us {
            let Some(what) = self.schedule.next_that(|_| true) else { return };
            match what {
                What::Later(Later::Arrival(arrival)) => {
                    let mut later = Vec::new();
                    self.network.arrives(arrival, self.schedule.now_us(), &mut self.random, &mut later);
                    self.later(later);
                }
                What::Later(Later::ToNode { node, life, place, event }) => {
                    let Place::Shard(shard) = place else { panic!("there are no controllers") };
                    if self.is_alive(node, life) {
                        self.turn(node, shard, Some(ShardEvent::Peer(event)));
                    }
                }
                What::Timer { node, life, shard } if self.is_alive(node, life) => {
                    if let Some(process) = &mut self.nodes[node] {
                        process.timer_at[shard] = None;
                    }
                    self.turn(node, shard, None);
                }
                What::Image { node, life, image, records } if self.is_alive(node, life) => {
                    let shards = self.nodes[node].as_ref().map_or(0, |process| process.shards.len());
                    for shard in 0..shards {
                        let (records, image) = (Arc::clone(&records), Arc::clone(&image));
                        let message = Message::Metadata { offset: image.offset(), records, image };
                        self.turn(node, shard, Some(ShardEvent::Message(message)));
                    }
                }
                What::Timer { .. } | What::Image { .. } => {}
            }
        }
    }

    /// Streams that are open over all shards of both nodes, as this counter of theirs says.
    fn sum(&mut self, name: &str) -> u64 {
        let mut sum = 0;
        for shard in self.nodes.iter_mut().flatten().flat_map(|process| &mut process.shards) {
            let mut scrape = Scrape::default();
            shard.samples(&mut scrape);
            sum += scrape
                .samples
                .iter()
                .filter(|sample| sample.name == name)
                .map(|sample| sample.value as u64)
                .sum::<u64>();
        }
        sum
    }

    /// Pairs of shards of which one leads a partition that the other follows.
    fn wanted(&self) -> u64 {
        let shards_of = |node_id: i32| self.image.broker(node_id).expect("registered").shards as usize;
        let topic = self.image.topic("t").expect("it was made");
        let mut pairs = std::collections::BTreeSet::new();
        for (partition, state) in topic.partitions.iter().enumerate() {
            let key = millstream_storage::PartitionKey { topic_id: TOPIC, partition: partition as i32 };
            let follower = 3 - state.leader;
            pairs.insert((follower, key.shard(shards_of(follower)), key.shard(shards_of(state.leader))));
        }
        pairs.len() as u64
    }

    fn check(&mut self, when: &str) -> Result<(), String> {
        let open = ["millstream_peer_streams_dialled", "millstream_peer_streams_accepted"].map(|name| self.sum(name));
        if open != [self.wanted(); 2] {
            return Err(format!("{when}: {open:?} streams are open, and {} are wanted", self.wanted()));
        }
        match self.sum("millstream_peer_streams_broken_total") {
            0 => Ok(()),
            broken => Err(format!("{when}: {broken} streams were closed for what came by them")),
        }
    }
}

/// What a seed came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcome {
    trace: u64,
    rejected: u64,
}

impl seeds::Outcome for Outcome {
    fn trace(&self) -> u64 {
        self.trace
    }
}

fn run(options: Options) -> Result<Outcome, String> {
    let mut streams = Streams::new(options.seed, options.is_verbose);
    // Longer than what is told late.
    streams.run(3_000_000);
    streams.check("at first")?;
    let opened = streams.sum("millstream_peer_streams_opened_total");
    streams.run(3_000_000);
    streams.check("after a while")?;
    if streams.sum("millstream_peer_streams_opened_total") != opened {
        return Err("a stream did not live on though nothing was wrong".to_string());
    }

    streams.network.isolate(0);
    streams.run(1_500_000);
    let open = ["millstream_peer_streams_dialled", "millstream_peer_streams_accepted"].map(|name| streams.sum(name));
    if open != [0, 0] {
        return Err(format!("{open:?} streams are open over a second of silence"));
    }
    let mut later = Vec::new();
    streams.network.mend(&mut streams.random, &mut later);
    streams.later(later);
    streams.run(4_000_000);
    streams.check("after a cut")?;

    // One way only: whoever hears nothing closes, and so does the other.
    streams.network.cut(0, 1);
    streams.run(2_500_000);
    if streams.sum("millstream_peer_streams_dialled") != 0 {
        return Err("a stream is open though one end hears nothing".to_string());
    }
    let mut later = Vec::new();
    streams.network.mend(&mut streams.random, &mut later);
    streams.later(later);
    streams.run(4_000_000);
    streams.check("after a cut of one way")?;

    let node = streams.random.index(2);
    streams.crash(node);
    let down_us = streams.random.below(500_000);
    streams.run(down_us);
    streams.start(node);
    streams.run(4_000_000);
    streams.check("after a crash")?;
    let rejected = streams.sum("millstream_peer_streams_rejected_total");
    Ok(Outcome { trace: streams.trace.finish(), rejected })
}

#[test]
fn shards_of_two_nodes_keep_streams_to_whom_they_follow() {
    let test = "sim::streams::shards_of_two_nodes_keep_streams_to_whom_they_follow";
    let outcomes = seeds::run(env!("CARGO_PKG_NAME"), test, 20, run);
    let rejected: u64 = outcomes.iter().map(|outcome| outcome.rejected).sum();
    println!("{} seeds, {rejected} greetings rejected", outcomes.len());
}
