//! What happens in a step, and the ending in which everything works.

use super::log::Record;
use super::network::{Link, ToFollower, ToLeader};
use super::world::{Outgoing, Waiter, World};
use super::{Outcome, trace};
use crate::error::ErrorCode;
use crate::record::NO_LEADER;
use crate::replica::{Event, StallReason};

/// How many rounds everything may take to come to rest.
const ROUNDS_MAX: usize = 300;

impl World {
    pub fn run(mut self) -> Result<Outcome, String> {
        let steps = self.random.between(150, 600);
        for _ in 0..steps {
            self.now_ms += match self.random.below(40) {
                0 => self.random.between(100, 1_500),
                _ => self.random.below(12),
            };
            self.step().map_err(|why| format!("at {} ms: {why}", self.now_ms))?;
            self.finish_step()?;
        }
        self.end()?;
        self.outcome.acknowledged = self.checks.acknowledged;
        self.outcome.committed = self.checks.committed_end() as u64;
        self.outcome.elections = self.controller.elections;
        Ok(self.outcome)
    }

    fn finish_step(&mut self) -> Result<(), String> {
        self.check().map_err(|why| format!("at {} ms: {why}", self.now_ms))?;
        self.links.retain(|link| !link.is_done());
        let ends =
            self.nodes.iter().fold(0, |sum, node| sum * 31 + node.log.end as u64 * 7 + node.log.durable_end as u64);
        let seen = ends ^ (self.checks.committed_end() as u64) << 40 ^ self.now_ms << 20;
        self.outcome.trace = trace(self.outcome.trace, seen);
        Ok(())
    }

    /// Any node.
    fn any(&mut self) -> i32 {
        self.random.index(self.nodes.len()) as i32 + 1
    }

    fn runs(&mut self, id: i32) -> bool {
        let now_ms = self.now_ms;
        self.process(id).is_some_and(|process| process.paused_until_ms <= now_ms)
    }

    fn step(&mut self) -> Result<(), String> {
        let id = self.any();
        match self.random.below(100) {
            0..36 => self.deliver(),
            36..46 => self.flush(id, false),
            46..52 => self.tell(id, false),
            52..62 => self.produce(id),
            62..74 => self.send(id, false),
            74..80 => self.controller_hears(),
            80..83 => self.tick(id),
            83..90 => self.connect(id),
            90..93 => self.clean_up(id),
            _ if self.random.below(20) < self.trouble => self.trouble(id),
            _ => self.recover(id),
        }
    }

    // ---- What goes on by itself ----

    fn deliver(&mut self) -> Result<(), String> {
        if self.links.is_empty() {
            return Ok(());
        }
        let at = self.random.index(self.links.len());
        let is_to_leader = self.random.coin();
        if self.links[at].is_closed && !self.random.one_in(5) {
            return Ok(());
        }
        // Much that is on its way arrives together.
        for _ in 0..self.random.between(1, 4) {
            self.deliver_one(at, is_to_leader)?;
        }
        Ok(())
    }

    fn deliver_one(&mut self, at: usize, is_to_leader: bool) -> Result<(), String> {
        let link = &self.links[at];
        if is_to_leader {
            let hears = self.is_running(link.leader, link.leader_epoch) && link.leader_hears_from_ms <= self.now_ms;
            if hears { self.leader_hears(at) } else { Ok(()) }
        } else {
            let hears =
                self.is_running(link.follower, link.follower_epoch) && link.follower_hears_from_ms <= self.now_ms;
            if hears { self.follower_hears(at) } else { Ok(()) }
        }
    }

    /// The disk of a node has done something: a part, or all.
    fn flush(&mut self, id: i32, is_all: bool) -> Result<(), String> {
        if !self.runs(id) {
            return Ok(());
        }
        let (low, high) = (self.node(id).log.durable_end as u64, self.node(id).log.end as u64);
        let to = if is_all { high } else { self.random.between(low, high) };
        let node = self.node(id);
        let process = node.process.as_mut().expect("it runs");
        if let Some((keep_below, begin_at, skipped_epoch)) = process.restart.take() {
            node.log.restart(keep_below, begin_at, skipped_epoch);
            let (log_start, log_end, last_epoch) = (node.log.start, node.log.end, node.log.last_epoch());
            return self.happen(id, Event::Restarted { log_start, log_end, last_epoch });
        }
        if to == low {
            return Ok(());
        }
        node.log.durable_end = to as i64;
        self.happen(id, Event::Durable { end: to as i64 })
    }

    /// A node is told of an image, perhaps not of the next one.
    fn tell(&mut self, id: i32, is_last: bool) -> Result<(), String> {
        let images = self.controller.images.len();
        if !self.runs(id) {
            return Ok(());
        }
        let next = self.process(id).expect("it runs").image;
        if next >= images {
            return Ok(());
        }
        let image = if is_last { images - 1 } else { self.random.between(next as u64, images as u64 - 1) as usize };
        self.process(id).expect("it runs").image = image + 1;
        let assigned = self.controller.images[image].clone();
        self.happen(id, Event::Assigned(assigned))
    }

    /// Who believes to lead appends.
    fn produce(&mut self, id: i32) -> Result<(), String> {
        if !self.runs(id) {
            return Ok(());
        }
        let is_acks_all = !self.random.one_in(4);
        for _ in 0..self.random.between(1, 2) {
            let value = self.new_id();
            let World { nodes, checks, .. } = self;
            let node = &mut nodes[id as usize - 1];
            let process = node.process.as_mut().expect("it runs");
            let (Some(epoch), Ok(())) = (process.replica.leads(), process.replica.may_append(is_acks_all)) else {
                return Ok(());
            };
            let offset = node.log.end;
            node.log.append(epoch, value);
            checks.appended(Record { offset, epoch, value })?;
            if is_acks_all {
                process.waiters.push(Waiter { epoch, offset, value });
            }
            self.happen(id, Event::Appended { log_end: offset + 1 })?;
        }
        Ok(())
    }

    /// Who leads sends a follower what comes next: of one epoch, durable or not.
    fn send(&mut self, id: i32, is_all: bool) -> Result<(), String> {
        if !self.runs(id) {
            return Ok(());
        }
        let World { nodes, random, .. } = self;
        let node = &mut nodes[id as usize - 1];
        let process = node.process.as_mut().expect("it runs");
        let (log, high_watermark) = (&node.log, process.replica.high_watermark());
        let mut messages = Vec::new();
        let mut ended = Vec::new();
        for (follower, outgoing) in &mut process.outgoing {
            if !is_all && random.coin() {
                continue;
            }
            let Outgoing { link, follow_id, handle, sent, marked } = outgoing;
            let (link, handle) = (*link, *handle);
            if *sent < log.start {
                let (error, log_start, log_end) = (ErrorCode::OffsetOutOfRange, log.start, log.end);
                messages.push((link, ToFollower::Refused { follow_id: *follow_id, error, log_start, log_end }));
                ended.push(*follower);
            } else if *sent < log.end {
                let epoch = log.epochs.epoch_of(*sent);
                let (_, end) = log.epochs.end_offset(epoch, log.end);
                let next = if is_all { end } else { random.between(*sent as u64 + 1, end as u64) as i64 };
                let is_in = |record: &&Record| (*sent..next).contains(&record.offset);
                let records: Vec<Record> = log.records.iter().filter(is_in).copied().collect();
                messages.push((
                    link,
                    match records.is_empty() {
                        true => ToFollower::Skip { handle, to: next, epoch, high_watermark },
                        false => ToFollower::Data { handle, epoch, base: *sent, next, high_watermark, records },
                    },
                ));
                *sent = next;
            } else if *marked != (high_watermark, log.start) {
                messages.push((link, ToFollower::Marks { handle, high_watermark, log_start: log.start }));
                *marked = (high_watermark, log.start);
            }
        }
        process.outgoing.retain(|follower, _| !ended.contains(follower));
        messages.into_iter().for_each(|(link, message)| self.send_follower(link, message));
        Ok(())
    }

    fn tick(&mut self, id: i32) -> Result<(), String> {
        let now = self.now();
        if !self.runs(id) {
            return Ok(());
        }
        match self.process(id).expect("it runs").replica.next_deadline() {
            Some(deadline) if deadline <= now => self.happen(id, Event::Tick),
            _ => Ok(()),
        }
    }

    /// A follower opens a stream to its leader, if it has none.
    fn connect(&mut self, id: i32) -> Result<(), String> {
        if !self.runs(id) {
            return Ok(());
        }
        let process = self.process(id).expect("it runs");
        let (Some(leader), None, follower_epoch) = (process.follows, process.link, process.broker_epoch) else {
            return Ok(());
        };
        let Some(leader_epoch) = self.process(leader).map(|process| process.broker_epoch) else { return Ok(()) };
        let link = self.new_id();
        self.links.push(Link {
            id: link,
            follower: id,
            leader,
            follower_epoch,
            leader_epoch,
            to_leader: Default::default(),
            to_follower: Default::default(),
            is_closed: false,
            leader_hears_from_ms: 0,
            follower_hears_from_ms: 0,
        });
        self.process(id).expect("it runs").link = Some(link);
        self.happen(id, Event::StreamOpen { node_id: leader })
    }

    /// A proposal comes to the controller, or an answer back: perhaps twice, perhaps never, perhaps when nobody waits for it.
    fn controller_hears(&mut self) -> Result<(), String> {
        if self.proposed.is_empty() {
            return Ok(());
        }
        let at = self.random.index(self.proposed.len());
        if self.proposed[at].is_orphan && !self.random.one_in(5) {
            return Ok(());
        }
        if self.random.below(60) < self.trouble {
            let proposed = &mut self.proposed[at];
            let (id, epoch, asked) = (proposed.node_id, proposed.broker_epoch, proposed.asked.partition_epoch);
            let has_waited = !proposed.is_orphan;
            if has_waited && !self.is_running(id, epoch) {
                return Ok(());
            }
            let proposed = &mut self.proposed[at];
            proposed.is_orphan = true;
            if proposed.answer.is_some() || self.random.one_in(3) {
                self.proposed.swap_remove(at);
            }
            return if has_waited {
                let result = Err(ErrorCode::RequestTimedOut);
                self.happen(id, Event::Altered { partition_epoch: asked, result })
            } else {
                Ok(())
            };
        }
        self.controller_does(at)
    }

    fn controller_does(&mut self, at: usize) -> Result<(), String> {
        let proposed = &mut self.proposed[at];
        let (id, epoch, partition_epoch) = (proposed.node_id, proposed.broker_epoch, proposed.asked.partition_epoch);
        let is_orphan = proposed.is_orphan;
        let Some(result) = proposed.answer.clone() else {
            let decided = self.controller.alter(id, epoch, &proposed.asked);
            self.outcome.altered += u64::from(decided.is_ok());
            self.outcome.refused += u64::from(decided.is_err());
            proposed.answer = Some(decided);
            let proposed = &self.proposed[at];
            self.line(|| format!("the controller decides of {id}: {:?}: {:?}", proposed.asked, proposed.answer));
            if is_orphan {
                self.proposed.swap_remove(at);
            }
            return Ok(());
        };
        let is_there = self.process(id).is_some_and(|process| process.broker_epoch == epoch);
        if is_there && !self.is_running(id, epoch) {
            return Ok(());
        }
        self.proposed.swap_remove(at);
        if is_there && !is_orphan { self.happen(id, Event::Altered { partition_epoch, result }) } else { Ok(()) }
    }

    /// Retention where it leads, compaction anywhere, and the high watermark is noted.
    fn clean_up(&mut self, id: i32) -> Result<(), String> {
        if !self.runs(id) {
            return Ok(());
        }
        let kind = if self.random.coin() { self.cleans } else { self.random.below(4) };
        let World { nodes, random, checks, .. } = self;
        let node = &mut nodes[id as usize - 1];
        let process = node.process.as_mut().expect("it runs");
        let high_watermark = process.replica.high_watermark();
        if process.restart.is_some() {
            return Ok(());
        }
        if kind < 2 {
            node.saved_high_watermark = high_watermark;
        } else if kind == 2 && process.replica.leads().is_some() && high_watermark > node.log.start {
            let start = random.between(node.log.start as u64 + 1, high_watermark as u64) as i64;
            node.log.delete_below(start);
            checks.deleted_to = checks.deleted_to.max(start);
            return self.happen(id, Event::LogStart { start });
        } else if kind == 3 {
            let committed = node.log.records.iter().filter(|record| record.offset < high_watermark).count();
            if committed > 0 {
                // All of an epoch, or one record.
                let chosen = node.log.records[random.index(committed)];
                let is_whole_epoch = random.coin();
                let goes = |record: &Record| {
                    record.offset < high_watermark
                        && (record.offset == chosen.offset || (is_whole_epoch && record.epoch == chosen.epoch))
                };
                node.log
                    .records
                    .iter()
                    .filter(|record| goes(record))
                    .for_each(|record| checks.compacted(record.offset));
                node.log.records.retain(|record| !goes(record));
            }
        }
        Ok(())
    }

    // ---- What goes wrong, and what is repaired ----

    fn trouble(&mut self, id: i32) -> Result<(), String> {
        match self.random.below(12) {
            0..3 => self.crash(id),
            3 => self.stop(id)?,
            4 => {
                let until = self.now_ms + self.random.between(20, 800);
                if let Some(process) = self.process(id) {
                    process.paused_until_ms = until;
                }
            }
            5..7 => self.fence(id),
            7..9 if !self.links.is_empty() => {
                let at = self.random.index(self.links.len());
                self.close(at)?;
            }
            9..11 if !self.links.is_empty() => {
                let (at, until) = (self.random.index(self.links.len()), self.now_ms + self.random.between(20, 800));
                match self.random.coin() {
                    true => self.links[at].leader_hears_from_ms = until,
                    false => self.links[at].follower_hears_from_ms = until,
                }
            }
            _ => {
                let why = if self.random.coin() { StallReason::NoSpace } else { StallReason::SlowDisk };
                if let Some(process) = self.process(id) {
                    let link = process.link;
                    process.is_stalled = link.is_some();
                    self.send_leader(link, ToLeader::Stalled(why));
                }
            }
        }
        Ok(())
    }

    fn crash(&mut self, id: i32) {
        let lies = self.disks_lie;
        let World { nodes, random, .. } = self;
        let node = &mut nodes[id as usize - 1];
        let Some(process) = node.process.take() else { return };
        if let Some((keep_below, begin_at, skipped)) = process.restart
            && random.coin()
        {
            node.log.restart(keep_below, begin_at, skipped);
        }
        node.log.lose_power(random, lies);
        node.saved_high_watermark = node.saved_high_watermark.min(node.log.durable_end);
        self.outcome.crashes += 1;
        self.line(|| format!("{id} crashes"));
        self.gone(id);
    }

    /// A controlled shutdown: it leads nothing any more, and everything is durable.
    fn stop(&mut self, id: i32) -> Result<(), String> {
        if !self.runs(id) || self.process(id).is_some_and(|process| process.restart.is_some()) {
            return Ok(());
        }
        let epoch = self.process(id).expect("it runs").broker_epoch;
        if self.controller.brokers[&id].epoch == epoch && !self.random.one_in(4) {
            self.controller.shut_down(id);
        }
        self.flush(id, true)?;
        let node = self.node(id);
        let process = node.process.take().expect("it runs");
        (node.was_stopped, node.saved_high_watermark) = (true, process.replica.high_watermark());
        self.line(|| format!("{id} stops"));
        self.gone(id);
        Ok(())
    }

    /// Its streams are closed; who it was connected with finds out later.
    fn gone(&mut self, id: i32) {
        for link in &mut self.links {
            if !link.is_closed && (link.follower == id || link.leader == id) {
                link.is_closed = true;
                link.to_leader.push_back(ToLeader::Closed);
            }
        }
    }

    fn close(&mut self, at: usize) -> Result<(), String> {
        let World { links, random, .. } = self;
        let link = &mut links[at];
        if link.is_closed {
            // What it still holds is lost.
            link.to_follower.clear();
            link.to_leader.retain(|message| matches!(message, ToLeader::Closed));
            return Ok(());
        }
        link.is_closed = true;
        let kept = random.index(link.to_follower.len() + 1);
        link.to_follower.truncate(kept);
        let kept = random.index(link.to_leader.len() + 1);
        link.to_leader.truncate(kept);
        link.to_leader.push_back(ToLeader::Closed);
        Ok(())
    }

    /// A follower whose stream is closed finds out.
    fn find_out(&mut self, id: i32) -> Result<(), String> {
        let Some(link) = self.process(id).and_then(|process| process.link) else { return Ok(()) };
        let is_closed = self.links.iter().find(|at| at.id == link).is_none_or(|at| at.is_closed);
        if !is_closed || !self.runs(id) {
            return Ok(());
        }
        let process = self.process(id).expect("it runs");
        process.link = None;
        let leader = process.follows.expect("it has a stream");
        self.happen(id, Event::StreamClosed { node_id: leader })
    }

    fn fence(&mut self, id: i32) {
        if !self.controller.brokers[&id].is_fenced {
            self.line(|| format!("{id} is fenced"));
            self.controller.fence(id);
        }
    }

    fn recover(&mut self, id: i32) -> Result<(), String> {
        if self.process(id).is_none() {
            self.start(id);
            return Ok(());
        }
        self.find_out(id)?;
        let process = self.process(id).expect("it runs");
        if std::mem::take(&mut process.is_stalled) {
            let link = process.link;
            self.send_leader(link, ToLeader::Resumed);
        }
        let process = self.process(id).expect("it runs");
        let (epoch, image) = (process.broker_epoch, process.image);
        let broker = &self.controller.brokers[&id];
        // It has applied its registration.
        let has_applied = image > 0
            && self.controller.images[image - 1]
                .brokers
                .iter()
                .any(|known| known.node_id == id && known.epoch == epoch);
        if broker.epoch == epoch && broker.is_fenced && !broker.in_controlled_shutdown && has_applied {
            self.line(|| format!("{id} is unfenced"));
            self.controller.unfence(id);
        }
        Ok(())
    }

    fn start(&mut self, id: i32) {
        // What it knew of the cluster before may be old.
        let images = self.controller.images.len();
        let known = self.random.between(images.saturating_sub(6) as u64, images as u64 - 1) as usize;
        let was_stopped = self.node(id).was_stopped;
        let is_clean = was_stopped || (self.intact_is_clean && !self.disks_lie);
        let epoch = self.controller.register(id, is_clean);
        self.line(|| format!("{id} starts, as {epoch}"));
        self.begin_process(id, epoch, known);
    }

    // ---- The ending ----

    /// Everything works again: D9, all who run are in sync and have the same.
    fn end(&mut self) -> Result<(), String> {
        self.line(|| "everything works again".to_string());
        for round in 0..ROUNDS_MAX {
            self.now_ms += 50;
            for id in 1..=self.nodes.len() as i32 {
                self.recover(id)?;
                self.process(id).expect("it was started").paused_until_ms = 0;
                self.tell(id, true)?;
                self.flush(id, true)?;
                self.connect(id)?;
                self.send(id, true)?;
                self.tick(id)?;
                self.finish_step()?;
            }
            for at in (0..self.proposed.len()).rev() {
                self.controller_does(at)?;
            }
            for at in 0..self.links.len() {
                (self.links[at].leader_hears_from_ms, self.links[at].follower_hears_from_ms) = (0, 0);
                let count = self.links[at].to_leader.len() + self.links[at].to_follower.len();
                for _ in 0..count {
                    self.deliver_one(at, true)?;
                    self.deliver_one(at, false)?;
                }
                let link = &mut self.links[at];
                if link.is_closed {
                    link.to_leader.clear();
                    link.to_follower.clear();
                }
            }
            self.finish_step()?;
            if round > 20 && self.has_settled() {
                return Ok(());
            }
        }
        let replicas = self.nodes.iter().map(|node| {
            let replica = node.process.as_ref().map(|process| &process.replica);
            format!("\n  {}: {} to {}, {replica:?}", node.id, node.log.start, node.log.end)
        });
        let replicas: String = replicas.collect();
        Err(format!("D9: it does not come to rest: {:?}{replicas}", self.controller.partition))
    }

    fn has_settled(&self) -> bool {
        let partition = &self.controller.partition;
        if partition.leader == NO_LEADER {
            // All who may have everything are gone for good: only an unclean election would help.
            return partition.isr.is_empty();
        }
        let leader = &self.nodes[partition.leader as usize - 1];
        let has_all = |node_id: &i32| {
            let node = &self.nodes[*node_id as usize - 1];
            let Some(process) = &node.process else { return false };
            let is_same = node.log.end == leader.log.end && node.log.durable_end == node.log.end;
            is_same && process.replica.high_watermark() == node.log.end && partition.isr.contains(node_id)
        };
        partition.replicas.iter().all(has_all)
            && leader.process.as_ref().is_some_and(|process| process.replica.leads() == Some(partition.leader_epoch))
    }
}
