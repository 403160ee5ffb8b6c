//! The quorum alone, with disks: members as they are shipped on disks that crash and a network that delays, loses, doubles
//! and cuts one way, on virtual time. What must hold is checked at every step; `docs/quorum-protocol.md` numbers it. Everything
//! follows from the seed.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use millstream_storage::random::Random;
use millstream_storage::seeds::{self, Options};
use millstream_storage::{BLOCK_BYTES, DiskOp};
use raft::eraftpb::Entry;

use super::entry::{Payload, payload};
use super::members::tests::member;
use super::*;
use crate::log::FileId;
use crate::log::disk::Disk;
use crate::record::ConfigOwner;

mod rules;

/// How long things go wrong, in microseconds.
const TROUBLE_US: u64 = 12_000_000;
/// How long everything may take to come to rest afterwards.
const ENDING_US_MAX: u64 = 20_000_000;
const NODES_MAX: usize = 5;

/// What a simulation that found nothing wrong did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Outcome {
    trace: u64,
    acknowledged: usize,
    leaders: usize,
    crashes: u64,
    installed: u64,
    member_changes: u64,
    wiped: u64,
    confirmed: u64,
}

impl seeds::Outcome for Outcome {
    fn trace(&self) -> u64 {
        self.trace
    }
}

#[derive(Clone, Debug)]
enum Event {
    Deliver { node: usize, from: MemberId, message: Bytes },
    Disk { node: usize, life: u64 },
    Tick { node: usize, life: u64 },
    Start { node: usize },
    Resume { node: usize, life: u64 },
    Propose,
    Fault,
}

/// A node: its disk, and the member on it while it runs.
struct Node {
    /// Number of its present log directory: a wiped one gets another.
    directory: u8,
    disk: Disk,
    quorum: Option<Quorum>,
    /// Counts its processes and directories: what was meant for an earlier one does not happen.
    life: u64,
    under_way: Option<DiskOp>,
    is_paused: bool,
    /// What happened while it was paused.
    missed: VecDeque<Event>,
    started_us: u64,
    /// Faster or slower than the world's, in thousandths.
    clock: u64,
    disk_us: u64,
    is_full: bool,
    /// Where the members stood that it was told last: it finds them after a crash.
    told_members: u64,
    /// The members as of the last output that was looked at, and those before.
    members: [Members; 2],
    /// What it has said to others: the newest term, and for whom it voted in it.
    promised_term: u64,
    promised_votes: BTreeMap<u64, u64>,
    /// The last entry that it has said to have, and its term then.
    promised_entry: (u64, u64),
}

impl Node {
    fn id(&self) -> MemberId {
        member(self.directory).id
    }
}

/// One entry that some member has applied.
#[derive(Clone, Debug, PartialEq)]
struct Applied {
    term: u64,
    offset: u64,
    records: Vec<MetadataRecord>,
}

struct World {
    random: Random,
    now_us: u64,
    sequence: u64,
    heap: BinaryHeap<std::cmp::Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    nodes: Vec<Node>,
    /// Directed links that let nothing through.
    cut: BTreeSet<(usize, usize)>,
    /// Lost of a thousand messages, and doubled.
    lost: u64,
    doubled: u64,
    next_directory: u8,
    /// What was applied anywhere, by index.
    history: BTreeMap<u64, Applied>,
    leaders: BTreeMap<u64, MemberId>,
    /// The newest term in which somebody led when a node asked last whether it still does.
    asked_in: BTreeMap<usize, (u64, u64)>,
    /// Proposals that were not answered yet, and the values of those that were committed where their leader said.
    proposed: BTreeMap<Position, u64>,
    acknowledged: BTreeMap<u64, u64>,
    next_value: u64,
    is_ending: bool,
    is_verbose: bool,
    outcome: Outcome,
}

impl World {
    fn new(options: &Options) -> World {
        let mut random = Random::new(options.seed);
        let count = [1, 2, 3, 3, 3, 5, 5][random.index(7)];
        let mut world = World {
            now_us: 0,
            sequence: 0,
            heap: BinaryHeap::new(),
            events: BTreeMap::new(),
            nodes: Vec::new(),
            cut: BTreeSet::new(),
            lost: [0, 0, 20, 200][random.index(4)],
            doubled: [0, 10, 100][random.index(3)],
            next_directory: NODES_MAX as u8 + 2,
            history: BTreeMap::new(),
            leaders: BTreeMap::new(),
            asked_in: BTreeMap::new(),
            proposed: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            next_value: 0,
            is_ending: false,
            is_verbose: options.is_verbose,
            outcome: Outcome::default(),
            random,
        };
        // Two more that may join later.
        let voters: Vec<Member> = (1..=count as u8).map(member).collect();
        for number in 1..=(count as u8 + 2).min(NODES_MAX as u8 + 1) {
            let mut disk = Disk { torn: world.random.fork(), ..Disk::new() };
            if usize::from(number) <= count {
                let founding = Founding::new([9; 16], voters.clone()).snapshot();
                create(&mut |op| disk.run(op), member(number).id, FileId([number; 16]), founding, 1).expect("room");
            }
            world.nodes.push(Node {
                directory: number,
                disk,
                quorum: None,
                life: 0,
                under_way: None,
                is_paused: false,
                missed: VecDeque::new(),
                started_us: 0,
                clock: world.random.between(970, 1030),
                disk_us: world.random.between(20, 3_000),
                is_full: false,
                members: Default::default(),
                promised_term: 0,
                promised_votes: BTreeMap::new(),
                promised_entry: (0, 0),
                told_members: 0,
            });
        }
        let first = member(1);
        let mut image = ClusterImage::new();
        image.replay(&MetadataRecord::Cluster { cluster_id: [9; 16] });
        world.history.insert(1, Applied { term: 1, offset: image.offset(), records: Vec::new() });
        assert!(first.id.0 != 0);
        for node in 0..count {
            let at = world.random.below(50_000);
            world.at(at, Event::Start { node });
        }
        world.at(1_000, Event::Propose);
        world.at(10_000, Event::Fault);
        world
    }

    fn at(&mut self, at_us: u64, event: Event) {
        self.sequence += 1;
        self.heap.push(std::cmp::Reverse((at_us.max(self.now_us), self.sequence)));
        self.events.insert(self.sequence, event);
    }

    fn after(&mut self, delay_us: u64, event: Event) {
        self.at(self.now_us + delay_us, event);
    }

    fn line(&mut self, text: impl FnOnce() -> String) {
        if self.is_verbose {
            println!("{:>10} {}", self.now_us, text());
        }
    }

    fn trace(&mut self, value: u64) {
        self.outcome.trace = random_id::mix(self.outcome.trace ^ value ^ self.now_us);
    }

    fn run(mut self) -> Result<Outcome, String> {
        while let Some(std::cmp::Reverse((at_us, sequence))) = self.heap.pop() {
            self.now_us = at_us;
            let event = self.events.remove(&sequence).expect("an event of the heap");
            self.trace(sequence);
            self.happen(event).map_err(|why| format!("at {} us: {why}", self.now_us))?;
            if !self.is_ending && self.now_us > TROUBLE_US {
                self.heal();
            }
            if self.is_ending && self.has_settled() {
                break;
            }
            if self.now_us > TROUBLE_US + ENDING_US_MAX {
                return Err(format!("it does not come to rest: {}", self.describe()));
            }
        }
        self.check_acknowledged()?;
        self.outcome.acknowledged = self.acknowledged.len();
        self.outcome.leaders = self.leaders.len();
        Ok(self.outcome)
    }

    fn describe(&self) -> String {
        let nodes = self.nodes.iter().map(|node| match &node.quorum {
            Some(quorum) => format!(
                "[{} term {} leader {:?} applied {:?} last {} voter {} busy {}]",
                node.directory,
                quorum.term(),
                quorum.leader(),
                quorum.applied(),
                quorum.last(),
                quorum.members().is_voter(node.id()),
                node.under_way.is_some(),
            ),
            None => format!("[{} down]", node.directory),
        });
        nodes.collect::<Vec<_>>().join(" ")
    }

    // ---- What happens ----

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Start { node } => return self.start(node),
            Event::Resume { node, life } => return self.resume(node, life),
            Event::Propose => return self.propose(),
            Event::Fault => return self.fault(),
            Event::Deliver { node, .. } if self.nodes[node].quorum.is_none() => return Ok(()),
            Event::Disk { node, life } | Event::Tick { node, life } if self.nodes[node].life != life => return Ok(()),
            Event::Deliver { node, .. } | Event::Disk { node, .. } | Event::Tick { node, .. }
                if self.nodes[node].is_paused =>
            {
                self.nodes[node].missed.push_back(event);
                return Ok(());
            }
            Event::Deliver { .. } | Event::Disk { .. } | Event::Tick { .. } => {}
        }
        match event {
            Event::Deliver { node, from, message } => {
                let quorum = self.nodes[node].quorum.as_mut().expect("it runs");
                let to = MemberId(decode_message(&message)?.message.to);
                if to == quorum.me() {
                    quorum.step(from, &message).map_err(|why| format!("a message of {from} is refused: {why}"))?;
                }
                self.outputs(node)
            }
            Event::Disk { node, .. } => {
                let at = &mut self.nodes[node];
                let op = at.under_way.take().expect("an operation is under way");
                at.disk.full = at.is_full;
                let result = at.disk.run(op);
                at.quorum.as_mut().expect("it runs").disk(result);
                self.outputs(node)
            }
            Event::Tick { node, .. } => {
                let now = self.process_now(node);
                self.nodes[node].quorum.as_mut().expect("it runs").tick(now);
                self.outputs(node)?;
                self.tick_later(node);
                Ok(())
            }
            other => panic!("{other:?} was dealt with"),
        }
    }

    fn process_now(&self, node: usize) -> Duration {
        let node = &self.nodes[node];
        Duration::from_micros((self.now_us - node.started_us) * node.clock / 1000)
    }

    fn tick_later(&mut self, node: usize) {
        let at = &self.nodes[node];
        let Some(quorum) = &at.quorum else { return };
        let life = at.life;
        // The only voter needs none, but may not stay the only one.
        let delay = match quorum.next_deadline() {
            Some(deadline) => deadline.saturating_sub(self.process_now(node)).as_micros() as u64 + 1,
            None => TICK.as_micros() as u64,
        };
        let late = if self.random.one_in(30) { self.random.below(80_000) } else { self.random.below(500) };
        self.after(delay + late, Event::Tick { node, life });
    }

    fn start(&mut self, node: usize) -> Result<(), String> {
        let at = &mut self.nodes[node];
        if at.quorum.is_some() {
            return Ok(());
        }
        let seed = self.random.next();
        let id = at.id();
        let opened = open(&mut |op| at.disk.run(op), id, seed).map_err(|why| why.to_string())?;
        let Some(quorum) = opened else { return Ok(()) };
        let log_bytes_max = self.random.between(3, 30) * BLOCK_BYTES as u64;
        let mut quorum = quorum.with_log_bytes_max(log_bytes_max);
        at.life += 1;
        at.started_us = self.now_us;
        // What it said before is what it finds.
        let state = quorum.raft.store().state;
        if state.term < at.promised_term {
            return Err(format!("R6: node {node} said it was in term {}, and finds {}", at.promised_term, state.term));
        }
        if let Some(vote) = at.promised_votes.get(&state.term)
            && *vote != state.vote
        {
            return Err(format!(
                "R6: node {node} voted for {vote:x} in term {}, and finds {:x}",
                state.term, state.vote
            ));
        }
        if quorum.applied().index < at.told_members {
            return Err(format!(
                "node {node} knew the members of index {}, and finds {:?}",
                at.told_members,
                quorum.applied()
            ));
        }
        let (index, term) = at.promised_entry;
        if term == state.term && quorum.last() < index {
            return Err(format!("R6: node {node} had entry {index} in term {term}, and finds {}", quorum.last()));
        }
        // An only voter finds more in its log than it had time to tell.
        let store = quorum.raft.store();
        let mut offset = 0;
        for entry in store.between(1, store.applied.index) {
            if let Ok(Payload::Records { offset: first, records }) = payload(&entry) {
                offset = first + records.len() as u64 - 1;
                let found = Applied { term: entry.term, offset, records };
                if *self.history.entry(entry.index).or_insert_with(|| found.clone()) != found {
                    return Err(format!("R2: index {} at node {node} is {found:?}", entry.index));
                }
            }
        }
        if offset > quorum.image().offset() {
            return Err(format!("R3: node {node} has applied offset {offset} and has {}", quorum.image().offset()));
        }
        if quorum.members().is_sole_voter(quorum.me()) {
            quorum.campaign();
        }
        at.members = [quorum.members().clone(), quorum.members().clone()];
        at.quorum = Some(quorum);
        self.line(|| format!("node {node} starts"));
        self.check_image(node, &self.quorum(node).image().clone())?;
        self.outputs(node)?;
        self.tick_later(node);
        Ok(())
    }

    fn resume(&mut self, node: usize, life: u64) -> Result<(), String> {
        let at = &mut self.nodes[node];
        if at.life != life || !std::mem::take(&mut at.is_paused) {
            return Ok(());
        }
        self.line(|| format!("node {node} goes on"));
        let mut missed = std::mem::take(&mut self.nodes[node].missed);
        while let Some(event) = missed.pop_front() {
            self.happen(event)?;
        }
        Ok(())
    }

    fn propose(&mut self) -> Result<(), String> {
        let pause = if self.is_ending { 50_000 } else { self.random.between(100, 30_000) };
        self.after(pause, Event::Propose);
        let leading: Vec<usize> = (0..self.nodes.len()).filter(|node| self.leads(*node)).collect();
        let Some(&node) = leading.get(self.random.index(leading.len())) else { return Ok(()) };
        self.adopt_joiners(node)?;
        self.confirm(node)?;
        if !self.leads(node) {
            return Ok(());
        }
        let count = if self.random.one_in(10) { self.random.below(30) } else { self.random.below(3) };
        for _ in 0..=count {
            self.next_value += 1;
            let value = self.next_value;
            let bytes = if self.random.one_in(20) { self.random.index(9_000) } else { 8 };
            let name = format!("k{}", self.random.below(40));
            let quorum = self.nodes[node].quorum.as_mut().expect("it leads");
            let text = format!("{value}.{}", "x".repeat(bytes));
            let records = [MetadataRecord::Config { owner: ConfigOwner::Cluster, name, value: Some(text) }];
            // As a controller does: behind all that was proposed before.
            let waiting: u64 =
                quorum.raft.store().between(quorum.applied().index + 1, quorum.last()).iter().map(records_in).sum();
            let offset = quorum.image().offset() + waiting + 1;
            if let Ok(at) = quorum.propose(offset, &records) {
                self.proposed.insert(at, value);
            }
            self.outputs(node)?;
            if !self.leads(node) {
                break;
            }
        }
        Ok(())
    }

    fn leads(&self, node: usize) -> bool {
        let at = &self.nodes[node];
        !at.is_paused && at.quorum.as_ref().is_some_and(Quorum::leads)
    }

    /// Does what a member wants done, and looks at what it says.
    fn outputs(&mut self, node: usize) -> Result<(), String> {
        loop {
            let Some(quorum) = &mut self.nodes[node].quorum else { return Ok(()) };
            let outputs = quorum.outputs();
            if outputs.is_empty() {
                return Ok(());
            }
            for output in outputs {
                self.output(node, output)?;
            }
        }
    }

    fn output(&mut self, node: usize, output: Output) -> Result<(), String> {
        match output {
            Output::Disk(op) => {
                let at = &mut self.nodes[node];
                assert!(at.under_way.replace(op).is_none(), "one operation at a time");
                let (life, usual) = (at.life, at.disk_us);
                let delay = if self.random.one_in(40) { self.random.below(60_000) } else { self.random.below(usual) };
                self.after(delay, Event::Disk { node, life });
            }
            Output::Send { to, message } => self.send(node, to, message)?,
            Output::Committed { at, offset, records, .. } => self.committed(node, at, offset, records)?,
            Output::Installed { image } => {
                self.outcome.installed += 1;
                self.line(|| format!("node {node} installs a snapshot"));
                self.check_image(node, &image)?;
            }
            Output::Members { at } => {
                self.nodes[node].told_members = at.index;
                let members = self.quorum(node).members().clone();
                self.line(|| format!("node {node} has the members {:?}", members.conf_state()));
                let before = &mut self.nodes[node].members;
                before.rotate_right(1);
                before[0] = members;
                self.adopt_joiners(node)?;
            }
            Output::Leads { term } => self.leads_now(node, term)?,
            Output::Follows { term, leader } => {
                self.line(|| format!("node {node} follows {leader:?} in term {term}"));
            }
            Output::Confirmed { number } => self.confirmed(node, number)?,
            Output::Reserved { .. } => {}
            Output::Failed { reason } => return Err(format!("node {node} gives up: {reason}")),
        }
        Ok(())
    }

    fn quorum(&self, node: usize) -> &Quorum {
        self.nodes[node].quorum.as_ref().expect("it runs")
    }

    fn send(&mut self, from: usize, to: MemberId, bytes: Bytes) -> Result<(), String> {
        let sender = self.nodes[from].id();
        let message = decode_message(&bytes)?.message;
        let at = &mut self.nodes[from];
        let is_pre_vote =
            matches!(message.get_msg_type(), MessageType::MsgRequestPreVote | MessageType::MsgRequestPreVoteResponse);
        if !is_pre_vote {
            at.promised_term = at.promised_term.max(message.term);
        }
        let vote = match message.get_msg_type() {
            MessageType::MsgRequestVote => Some(sender.0),
            MessageType::MsgRequestVoteResponse if !message.reject => Some(to.0),
            _ => None,
        };
        if let Some(vote) = vote
            && *at.promised_votes.entry(message.term).or_insert(vote) != vote
        {
            return Err(format!("R6: node {from} votes twice in term {}", message.term));
        }
        if message.get_msg_type() == MessageType::MsgAppendResponse && !message.reject {
            at.promised_entry = (message.index, message.term);
        }
        let Some(node) = self.nodes.iter().position(|node| node.id() == to) else { return Ok(()) };
        if self.cut.contains(&(from, node)) || self.random.below(1000) < self.lost {
            if self.random.coin() {
                self.nodes[from].quorum.as_mut().expect("it runs").unreachable(to);
            }
            return Ok(());
        }
        let times = 1 + u64::from(self.random.below(1000) < self.doubled);
        for _ in 0..times {
            let delay =
                if self.random.one_in(50) { self.random.below(300_000) } else { self.random.between(50, 2_000) };
            self.after(delay, Event::Deliver { node, from: sender, message: bytes.clone() });
        }
        Ok(())
    }

    fn leads_now(&mut self, node: usize, term: u64) -> Result<(), String> {
        let id = self.nodes[node].id();
        self.line(|| format!("node {node} leads in term {term}"));
        if let Some(other) = self.leaders.insert(term, id)
            && other != id
        {
            return Err(format!("R1: {other} and {id} lead in term {term}"));
        }
        let applied = self.quorum(node).applied().index;
        match self.history.iter().rev().find(|(_, entry)| entry.term < term) {
            Some((index, _)) if *index > applied => {
                Err(format!("R4: node {node} leads in term {term} and has applied {applied}, of {index}"))
            }
            _ => Ok(()),
        }
    }

    /// A node asks whether it still leads.
    fn confirm(&mut self, node: usize) -> Result<(), String> {
        let newest = self.leaders.last_key_value().map_or(0, |(term, _)| *term);
        if let Ok(number) = self.nodes[node].quorum.as_mut().expect("it leads").confirm() {
            self.asked_in.insert(node, (number, newest));
        }
        self.outputs(node)
    }

    /// A node that is confirmed was the newest leader when it asked.
    fn confirmed(&mut self, node: usize, number: u64) -> Result<(), String> {
        let term = self.quorum(node).term();
        self.outcome.confirmed += 1;
        match self.asked_in.remove(&node) {
            Some((asked, newest)) if asked == number && newest <= term => Ok(()),
            asked => Err(format!("R12: node {node} is confirmed in term {term} by {number}, and asked: {asked:?}")),
        }
    }

    fn committed(
        &mut self,
        node: usize,
        at: Position,
        offset: u64,
        records: Vec<MetadataRecord>,
    ) -> Result<(), String> {
        let found = Applied { term: at.term, offset, records };
        match self.history.get(&at.index) {
            Some(known) if *known != found => {
                return Err(format!("R2: index {} is {known:?}, and at node {node} {found:?}", at.index));
            }
            Some(_) => {}
            None => {
                self.check_majority(node, at)?;
                self.history.insert(at.index, found);
            }
        }
        if self.quorum(node).leads()
            && let Some(value) = self.proposed.remove(&at)
        {
            self.acknowledged.insert(value, at.index);
        }
        Ok(())
    }

    /// What is committed is durable at most voters: of those that whoever leads counts, or this node does, or did before the
    /// last change. A change of members counts when it is applied, so what was committed together with it was by those
    /// before; and a leader whose disk is full applies nothing (seed 305267 of 7ff645c).
    fn check_majority(&mut self, node: usize, at: Position) -> Result<(), String> {
        if !self.random.one_in(8) {
            return Ok(());
        }
        let mut counts = Vec::new();
        let leading = self.nodes.iter().filter_map(|node| node.quorum.as_ref()).filter(|quorum| quorum.leads());
        let leading = leading.max_by_key(|quorum| quorum.term()).map(Quorum::members);
        for members in self.nodes[node].members.iter().chain(leading) {
            let voters = members.voters().count();
            let have = members.voters().filter(|voter| self.has_durably(voter.id, at)).count();
            if have * 2 > voters {
                return Ok(());
            }
            counts.push((have, voters));
        }
        Err(format!(
            "R9: {at:?} is durable at {counts:?}, now, before the last change of members, and of whoever leads"
        ))
    }

    fn has_durably(&self, id: MemberId, at: Position) -> bool {
        let Some(node) = self.nodes.iter().find(|node| node.id() == id) else { return false };
        let Some(bytes) = node.disk.files.get(crate::log::SNAPSHOT) else { return false };
        let Ok(snapshot) = decode_snapshot("s", bytes) else { return false };
        if snapshot.index >= at.index {
            return true;
        }
        let path = disk::log_path(snapshot.index).to_string();
        let Some(Ok(found)) = node.disk.files.get(&path).map(|bytes| scan(&path, bytes)) else { return false };
        found.entries.iter().any(|entry| entry.index == at.index && entry.term == at.term)
    }

    /// An image is the replay of what was applied before.
    fn check_image(&self, node: usize, found: &ClusterImage) -> Result<(), String> {
        if self.history.values().next_back().is_none_or(|last| last.offset < found.offset()) {
            // A leader may send what it has applied before it tells of it: there is nothing to compare with yet.
            return Ok(());
        }
        let mut image = ClusterImage::new();
        image.replay(&MetadataRecord::Cluster { cluster_id: [9; 16] });
        for entry in self.history.values().take_while(|entry| entry.offset <= found.offset()) {
            entry.records.iter().for_each(|record| image.replay(record));
        }
        if *found == image {
            return Ok(());
        }
        Err(format!("R8: node {node} has offset {}, and not {}", found.offset(), image.offset()))
    }

    /// What was acknowledged is still where it was.
    fn check_acknowledged(&self) -> Result<(), String> {
        let Some(leader) = (0..self.nodes.len()).find(|node| self.leads(*node)) else { return Err("no leader".into()) };
        let applied = self.quorum(leader).applied().index;
        for (value, index) in &self.acknowledged {
            let is_there = self.history.get(index).is_some_and(|entry| {
                entry.records.iter().any(|record| {
                    matches!(record, MetadataRecord::Config { value: Some(text), .. }
                    if text.split('.').next() == Some(value.to_string().as_str()))
                })
            });
            if !is_there || *index > applied {
                return Err(format!("R5: value {value} was acknowledged at index {index} and is not there"));
            }
        }
        Ok(())
    }

    // ---- Faults ----

    fn go_down(&mut self, node: usize) {
        let at = &mut self.nodes[node];
        if at.quorum.take().is_none() {
            return;
        }
        at.life += 1;
        at.is_paused = false;
        at.missed.clear();
        if let Some(op) = at.under_way.take() {
            at.disk.full = false;
            at.disk.tear(op);
            at.disk.crashed = false;
        }
        self.outcome.crashes += 1;
        let pause = if self.random.coin() { self.random.below(20_000) } else { self.random.below(2_000_000) };
        self.line(|| format!("node {node} goes down"));
        self.after(pause, Event::Start { node });
    }

    fn fault(&mut self) -> Result<(), String> {
        if self.is_ending {
            return Ok(());
        }
        let pause = if self.random.one_in(4) { self.random.below(20_000) } else { self.random.below(900_000) };
        self.after(pause, Event::Fault);
        let node = self.random.index(self.nodes.len());
        let other = self.random.index(self.nodes.len());
        let leader = (0..self.nodes.len()).find(|node| self.leads(*node));
        // Whoever leads is met most.
        let node = if self.random.coin() { leader.unwrap_or(node) } else { node };
        match self.random.below(12) {
            0..=2 => self.go_down(node),
            3 | 4 => {
                let at = &mut self.nodes[node];
                if at.quorum.is_some() && !std::mem::replace(&mut at.is_paused, true) {
                    let (life, pause) = (at.life, self.random.below(3_000_000));
                    self.line(|| format!("node {node} is paused for {pause} us"));
                    self.after(pause, Event::Resume { node, life });
                }
            }
            5 => {
                self.cut.insert((node, other));
            }
            6 => {
                self.cut.extend([(node, other), (other, node)]);
            }
            7 => {
                for other in 0..self.nodes.len() {
                    self.cut.extend([(node, other), (other, node)]);
                }
            }
            8 | 9 => self.cut.clear(),
            10 => {
                let at = &mut self.nodes[node];
                at.is_full = !at.is_full && self.random.coin();
            }
            _ => self.change_members()?,
        }
        Ok(())
    }

    /// A node joins or leaves, or its disk is lost and it joins anew; one change at a time, as an operator does it.
    fn change_members(&mut self) -> Result<(), String> {
        let Some(leader) = (0..self.nodes.len()).find(|node| self.leads(*node)) else { return Ok(()) };
        let members = self.quorum(leader).members().clone();
        let node = self.random.index(self.nodes.len());
        let this = member(self.nodes[node].directory);
        let voters = members.voters().count();
        let learner = members.iter().find(|(_, votes)| !votes).map(|(member, _)| member.clone());
        let (kind, member) = match learner {
            Some(learner) if self.random.below(4) > 0 => (MemberChangeKind::AddVoter, learner),
            Some(learner) => (MemberChangeKind::Remove, learner),
            None if members.get(this.id).is_none() => (MemberChangeKind::AddLearner, this),
            None if voters > 1 && node != leader && self.random.coin() && voters >= 3 => {
                (MemberChangeKind::Remove, this)
            }
            // It goes on following, also where it leads.
            None if voters > 1 && self.random.one_in(3) => (MemberChangeKind::AddLearner, this),
            // A voter's disk is lost, while the others have everything.
            None if voters >= 3 && node != leader && self.have_everything(leader, node) => {
                self.wipe(node);
                (MemberChangeKind::Remove, this)
            }
            None => return Ok(()),
        };
        let quorum = self.nodes[leader].quorum.as_mut().expect("it leads");
        if quorum.change_members(&MemberChange { kind, member: member.clone() }).is_ok() {
            self.outcome.member_changes += 1;
            self.line(|| format!("{kind:?} {}", member.id));
        }
        self.outputs(leader)
    }

    /// Whether every voter but this one has durably what the leader has, and all of it is committed. One whose disk was lost
    /// and that was not removed yet has nothing.
    fn have_everything(&self, leader: usize, but: usize) -> bool {
        let quorum = self.quorum(leader);
        let (last, term) = (quorum.last(), quorum.term());
        let has_it = |voter: &Member| {
            let mut nodes = self.nodes.iter().filter(|node| node.id() == voter.id);
            let running = nodes.next().and_then(|node| node.quorum.as_ref());
            running.is_some_and(|other| other.durable.0 == last && other.term() == term)
        };
        let but = self.nodes[but].id();
        quorum.applied().index == last && quorum.members().voters().filter(|voter| voter.id != but).all(has_it)
    }

    fn wipe(&mut self, node: usize) {
        self.go_down(node);
        let torn = self.random.fork();
        let at = &mut self.nodes[node];
        at.disk = Disk { torn, ..Disk::new() };
        at.directory = self.next_directory;
        (at.promised_term, at.promised_entry, at.told_members) = (0, (0, 0), 0);
        at.promised_votes.clear();
        self.next_directory += 1;
        self.outcome.wiped += 1;
        self.line(|| format!("node {node} loses its disk"));
    }

    /// Whoever was made a member and has no log yet is given one to begin with.
    fn adopt_joiners(&mut self, node: usize) -> Result<(), String> {
        if !self.quorum(node).leads() {
            return Ok(());
        }
        let snapshot = decode_snapshot("s", &self.quorum(node).snapshot()).map_err(|why| why.to_string())?;
        for joiner in 0..self.nodes.len() {
            let at = &mut self.nodes[joiner];
            let is_new = at.quorum.is_none() && !at.disk.files.contains_key(crate::log::SNAPSHOT);
            if is_new && snapshot.members.get(at.id()).is_some() {
                let (id, file_id) = (at.id(), FileId([at.directory; 16]));
                let created = create(&mut |op| at.disk.run(op), id, file_id, snapshot.clone(), 1);
                created.map_err(|why| why.to_string())?;
                self.after(1_000, Event::Start { node: joiner });
            }
        }
        Ok(())
    }

    fn heal(&mut self) {
        self.is_ending = true;
        self.line(|| "everything works again".to_string());
        self.cut.clear();
        (self.lost, self.doubled) = (0, 0);
        for node in 0..self.nodes.len() {
            self.nodes[node].is_full = false;
            let life = self.nodes[node].life;
            self.at(self.now_us, Event::Resume { node, life });
            self.at(self.now_us, Event::Start { node });
        }
    }

    /// One leads, and everybody has what it has.
    fn has_settled(&self) -> bool {
        let leading: Vec<usize> = (0..self.nodes.len()).filter(|node| self.leads(*node)).collect();
        let [leader] = leading[..] else { return false };
        let quorum = self.quorum(leader);
        let applied = quorum.applied();
        quorum.last() == applied.index
            && self.nodes.iter().all(|node| match &node.quorum {
                Some(other) if quorum.members().get(node.id()).is_some() => {
                    other.applied() == applied && other.term() == quorum.term()
                }
                // Whoever is none any more may not have heard of it.
                Some(_) => true,
                None => quorum.members().get(node.id()).is_none(),
            })
    }
}

/// How many records an entry holds.
fn records_in(entry: &Entry) -> u64 {
    match payload(entry) {
        Ok(Payload::Records { records, .. }) => records.len() as u64,
        _ => 0,
    }
}

fn simulate(options: Options) -> Result<Outcome, String> {
    World::new(&options).run()
}

const TEST: &str = "quorum::sim::members_agree";

#[test]
fn members_agree() {
    let outcomes = seeds::run(env!("CARGO_PKG_NAME"), TEST, 120, simulate);
    let sum = |count: fn(&Outcome) -> u64| outcomes.iter().map(count).sum::<u64>();
    let all = [
        ("acknowledged", sum(|outcome| outcome.acknowledged as u64)),
        ("terms", sum(|outcome| outcome.leaders as u64)),
        ("crashes", sum(|outcome| outcome.crashes)),
        ("snapshots installed", sum(|outcome| outcome.installed)),
        ("changes of members", sum(|outcome| outcome.member_changes)),
        ("disks lost", sum(|outcome| outcome.wiped)),
        ("leaders confirmed", sum(|outcome| outcome.confirmed)),
    ];
    println!("{all:?}");
    // Disks are lost with few seeds.
    if outcomes.len() >= 120 {
        assert!(all.iter().all(|(_, count)| *count > 0), "{all:?}");
    }
}

/// What these have found: a snapshot that was lost and never sent again, and entries written behind a snapshot that had found
/// no space.
#[test]
fn seeds_that_have_failed_pass() {
    for seed in [5043, 5501] {
        let outcome = simulate(Options { seed, is_verbose: false });
        assert!(outcome.is_ok(), "seed {seed}: {outcome:?}");
    }
}
