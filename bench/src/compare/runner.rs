//! Runs the workloads: each broker in turn, warm against warm, and the bare loops beside them.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::compare::broker::Broker;
use crate::compare::measured::Measured;
use crate::compare::results::{Metric, Results};
use crate::compare::say;
use crate::compare::table::{FLOOR, FLOOR_POLLING};
use crate::compare::workload::{self, Floor, Kind, Load, Workload};
use crate::connection::Target;
use crate::error::BenchError;
use crate::limits::{Cut, Limits};
use crate::load::{Common, Mark};
use crate::machine::{self, Placement};
use crate::report::Report;
use crate::{consume, produce, topics};

/// The topic that is read from the disk: written once, for several workloads.
const COLD_TOPIC: &str = "cold";
/// Connections that the reading workloads, but for `tail-1`, and the bulk loops have.
const CONNECTIONS: u32 = 4;

/// Runs before the measured ones, at most.
const WARM_UPS_MAX: usize = 5;
/// How often a run is begun again because a partition has moved meanwhile.
const RUNS_AGAIN_MAX: usize = 3;

/// How much is run.
#[derive(Clone, Debug)]
pub struct Scale {
    pub seconds: f64,
    pub warm_up: f64,
    /// Load before everything else.
    pub first_load_seconds: f64,
    pub rounds: usize,
    /// Processes of each broker, and replicas of each topic.
    pub nodes: usize,
    pub replicas: usize,
    pub tail_bytes: u64,
    pub cold_bytes: u64,
    /// What a topic that is produced to may hold, all replicas counted.
    pub topic_bytes_max: u64,
    /// What must be free on the disk before each run.
    pub free_bytes_min: u64,
    /// Of the file that the bare loops write to.
    pub floor_file_bytes: u64,
    pub tiny: bool,
}

impl Scale {
    pub fn describe(&self) -> String {
        let nodes = match self.nodes {
            1 => String::new(),
            nodes => format!("{nodes} processes of each broker, replication factor {}; ", self.replicas),
        };
        format!(
            "{nodes}{} rounds of {} s, each after {} s of the same load, the first after a whole run; medians [least..most]; \
             MB = 10^6 bytes",
            self.rounds, self.seconds, self.warm_up
        )
    }
}

/// A broker with the topic of a workload.
struct Contestant {
    name: String,
    broker: usize,
    topic: String,
    configs: Vec<(String, String)>,
    /// About what has been written to the topic, and by one run, all replicas counted.
    bytes: u64,
    run_bytes: u64,
    /// Runs since the topic was created.
    runs: u32,
}

pub struct Runner {
    brokers: Vec<Broker>,
    placement: Placement,
    congestion: Option<String>,
    scale: Scale,
    limits: Limits,
    pub topic_configs: Vec<(String, String)>,
    /// Name, broker, and config of its topics.
    pub variants: Vec<(String, String, (String, String))>,
    /// Records a second that are half of the rival's maximum.
    half_rate: Option<u64>,
    /// Runs that were begun again because a partition had moved, by the brokers' order.
    again: Vec<usize>,
    /// Brokers that have the cold topic.
    with_cold_topic: HashSet<usize>,
    pub results: Results,
    /// For the report.
    pub notes: Vec<String>,
}

/// Another one begins the next round: whoever comes second finds the disk as the first has left it, and is the faster
/// one of two equals by several percent.
fn next_first(contestants: &mut [Contestant]) {
    if !contestants.is_empty() {
        contestants.rotate_left(1);
    }
}

impl Runner {
    pub fn new(
        brokers: Vec<Broker>,
        directory: &Path,
        placement: Placement,
        congestion: Option<String>,
        scale: Scale,
    ) -> Runner {
        let sizes = (scale.floor_file_bytes, scale.cold_bytes);
        Runner {
            limits: Limits::new(directory, placement.clone(), congestion.clone(), sizes),
            again: vec![0; brokers.len()],
            brokers,
            placement,
            congestion,
            scale,
            topic_configs: Vec::new(),
            variants: Vec::new(),
            half_rate: None,
            with_cold_topic: HashSet::new(),
            results: Results::default(),
            notes: Vec::new(),
        }
    }

    /// Loads each broker for a while, for those that compile what is used often while they run.
    pub fn warm_up(&mut self) -> Result<(), BenchError> {
        let load = workload::half_rate_load();
        let runs = (self.scale.first_load_seconds / (self.scale.seconds + self.scale.warm_up)).ceil() as usize;
        for mut contestant in self.contestants("first-load", false) {
            say(&format!("first load of {}", contestant.name));
            for _ in 0..runs {
                self.produced(&mut contestant, &load, 0)?;
            }
            if runs > 0 {
                self.delete(&contestant)?;
            }
        }
        Ok(())
    }

    /// Notes what each broker uses while none has anything to do: that much of the processors is lost to the one that is
    /// measured.
    pub fn idle(&mut self) -> Result<(), BenchError> {
        machine::settle()?;
        let cpu = |broker: &Broker| -> Result<Duration, BenchError> {
            broker.pids().iter().map(|pid| machine::process_cpu(*pid)).sum()
        };
        let before = self.brokers.iter().map(cpu).collect::<Result<Vec<_>, _>>()?;
        std::thread::sleep(self.time());
        for (broker, before) in self.brokers.iter().zip(before) {
            let share = (cpu(broker)? - before).as_secs_f64() / self.scale.seconds;
            self.notes.push(format!("{} without load: {:.1} % of a processor", broker.name, share * 100.0));
        }
        Ok(())
    }

    pub fn run(&mut self, workload: &Workload) -> Result<(), BenchError> {
        say(&format!("{}: {}", workload.name, workload.about));
        match &workload.kind {
            Kind::Produce { load, floor, variants } => self.produce(workload.name, load, *floor, *variants),
            Kind::HalfRate => self.half_rate(),
            Kind::Backfill => self.backfill(),
            Kind::Tail { connections } => self.tail(workload.name, *connections),
            Kind::Cold => self.cold(),
        }
    }

    /// As fast as each broker takes it.
    fn produce(&mut self, name: &str, load: &Load, floor: Option<Floor>, variants: bool) -> Result<(), BenchError> {
        let mut contestants = self.contestants(name, variants || self.scale.nodes > 1);
        for contestant in &mut contestants {
            self.fill(contestant, load, 0)?;
        }
        for round in 1..=self.scale.rounds {
            for contestant in &mut contestants {
                self.make_room(contestant, load, 0)?;
                let sample = self.produced(contestant, load, 0)?;
                self.note(name, &contestant.name, round, sample);
            }
            next_first(&mut contestants);
            if let Some(floor) = floor {
                self.floor(name, floor, round)?;
            }
        }
        contestants.iter().try_for_each(|contestant| self.delete(contestant))
    }

    /// At half of what the rival takes, or of what the only broker does.
    fn half_rate(&mut self) -> Result<(), BenchError> {
        let (rate, load) = (self.find_half_rate()?, workload::half_rate_load());
        let mut contestants = self.contestants("half-rate", false);
        for contestant in &mut contestants {
            self.fill(contestant, &load, rate)?;
        }
        for round in 1..=self.scale.rounds {
            for contestant in &mut contestants {
                self.make_room(contestant, &load, rate)?;
                let sample = self.produced(contestant, &load, rate)?;
                self.note("half-rate", &contestant.name, round, sample);
            }
            next_first(&mut contestants);
        }
        contestants.iter().try_for_each(|contestant| self.delete(contestant))
    }

    /// Measures the maximum at the shape of `half-rate`, once; the rate is half of the rival's.
    fn find_half_rate(&mut self) -> Result<u64, BenchError> {
        if let Some(rate) = self.half_rate {
            return Ok(rate);
        }
        let load = workload::half_rate_load();
        for mut contestant in self.contestants("half-rate-maximum", false) {
            self.fill(&mut contestant, &load, 0)?;
            let sample = self.produced(&mut contestant, &load, 0)?;
            self.note("half-rate-maximum", &contestant.name, 1, sample);
            self.delete(&contestant)?;
        }
        let rival = self.brokers.get(1).unwrap_or(&self.brokers[0]).name.clone();
        let most = self.results.median("half-rate-maximum", &rival, Metric::Records).unwrap_or(0.0);
        let rate = (most / 2.0).max(1.0) as u64;
        self.notes.push(format!("half rate: {rate} records/s, half of what {rival} took at most"));
        self.half_rate = Some(rate);
        Ok(rate)
    }

    /// The half rate without and with a consumer of old records.
    fn backfill(&mut self) -> Result<(), BenchError> {
        let (rate, load) = (self.find_half_rate()?, workload::half_rate_load());
        self.write_cold_topics()?;
        let mut contestants = self.contestants("backfill", false);
        for contestant in &mut contestants {
            self.fill(contestant, &load, rate)?;
        }
        for round in 1..=self.scale.rounds {
            for contestant in &mut contestants {
                self.make_room(contestant, &load, rate)?;
                let sample = self.produced(contestant, &load, rate)?;
                self.note("backfill-without", &contestant.name, round, sample);
                let sample = self.produced_beside_cold_consumer(contestant, &load, rate)?;
                self.note("backfill-with", &contestant.name, round, sample);
            }
            next_first(&mut contestants);
        }
        contestants.iter().try_for_each(|contestant| self.delete(contestant))
    }

    /// Consumes the cold topic, from the disk again whenever it is through, for as long as the producers run.
    fn produced_beside_cold_consumer(
        &mut self,
        contestant: &mut Contestant,
        load: &Load,
        rate: u64,
    ) -> Result<Measured, BenchError> {
        let options = self.consumer(contestant.broker, COLD_TOPIC, CONNECTIONS);
        let data = self.brokers[contestant.broker].data().to_path_buf();
        let (stop, mut consumed) = (AtomicBool::new(false), 0);
        let (sample, reading) = std::thread::scope(|scope| {
            let consumer = scope.spawn(|| -> Result<(), BenchError> {
                while !stop.load(Ordering::Relaxed) {
                    machine::drop_directory_from_page_cache(&data)?;
                    consumed += consume::run(&options, &stop, |_| {})?.payload_bytes;
                }
                Ok(())
            });
            let sample = self.produced(contestant, load, rate);
            stop.store(true, Ordering::Relaxed);
            (sample, consumer.join().expect("the consumer does not panic"))
        });
        reading?;
        say(&format!("  {} MB consumed beside it", consumed / 1_000_000));
        sample
    }

    /// A topic written just before, read over and over.
    fn tail(&mut self, name: &str, connections: u32) -> Result<(), BenchError> {
        let mut contestants = self.contestants(name, false);
        for contestant in &contestants {
            self.write(contestant, self.scale.tail_bytes)?;
            self.read_over_and_over(contestant, connections)?;
        }
        for round in 1..=self.scale.rounds {
            for contestant in &contestants {
                let sample = self.read_over_and_over(contestant, connections)?;
                self.note(name, &contestant.name, round, sample);
            }
            next_first(&mut contestants);
            // A consumer has a connection to each leader.
            let connections = (connections as usize * self.scale.nodes).min(CONNECTIONS as usize);
            let floor = self.limits.sendfile_warm(connections, self.time())?;
            self.note(name, FLOOR, round, Measured::of_floor(&floor));
        }
        contestants.iter().try_for_each(|contestant| self.delete(contestant))
    }

    fn read_over_and_over(&mut self, contestant: &Contestant, connections: u32) -> Result<Measured, BenchError> {
        let mut options = self.consumer(contestant.broker, &contestant.topic, connections);
        (options.repeat, options.warm_up) = (Some(self.scale.seconds), self.scale.warm_up);
        self.measured(contestant.broker, |mark| consume::run(&options, &AtomicBool::new(false), mark))
    }

    /// A topic written earlier, read from the disk once.
    fn cold(&mut self) -> Result<(), BenchError> {
        self.write_cold_topics()?;
        for round in 1..=self.scale.rounds {
            for broker in 0..self.brokers.len() {
                machine::settle()?;
                machine::drop_directory_from_page_cache(self.brokers[broker].data())?;
                let options = self.consumer(broker, COLD_TOPIC, CONNECTIONS);
                let sample = self.measured(broker, |mark| consume::run(&options, &AtomicBool::new(false), mark))?;
                let name = self.brokers[broker].name.clone();
                self.note("cold", &name, round, sample);
            }
            let floor = self.limits.sendfile_cold(CONNECTIONS as usize)?;
            self.note("cold", FLOOR, round, Measured::of_floor(&floor));
        }
        Ok(())
    }

    fn write_cold_topics(&mut self) -> Result<(), BenchError> {
        for broker in 0..self.brokers.len() {
            if self.with_cold_topic.insert(broker) {
                say(&format!("  {}: writing the cold topic", self.brokers[broker].name));
                let contestant = self.contestant(self.brokers[broker].name.clone(), broker, COLD_TOPIC, None);
                self.write(&contestant, self.scale.cold_bytes)?;
            }
        }
        Ok(())
    }

    /// A bare loop, in the table of a workload.
    fn floor(&mut self, name: &str, floor: Floor, round: usize) -> Result<(), BenchError> {
        machine::settle()?;
        let (time, replicas) = (self.time(), self.scale.replicas);
        match floor {
            Floor::Ingest => {
                let connections = CONNECTIONS as usize;
                let cut = match self.scale.tiny {
                    true => Cut { piece_bytes: 512 << 10, depth: 4 },
                    false => self.limits.fastest_cut(replicas, connections, Duration::from_millis(300))?,
                };
                let note = format!("bare loop of durable ingest: {cut}");
                if !self.notes.contains(&note) {
                    self.notes.push(note);
                }
                let floor = self.limits.ingest(replicas, connections, cut, time)?;
                self.note(name, FLOOR, round, Measured::of_floor(&floor));
            }
            Floor::PingPong => {
                for (spin, by) in [(false, FLOOR), (true, FLOOR_POLLING)] {
                    let floor = self.limits.ping_pong(replicas, spin, time)?;
                    self.note(name, by, round, Measured::of_floor(&floor));
                }
            }
        }
        Ok(())
    }

    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.scale.seconds)
    }

    /// All brokers, and where asked the variants, each with a topic of its own.
    fn contestants(&self, topic: &str, variants: bool) -> Vec<Contestant> {
        let plain = self.brokers.iter().enumerate();
        let mut all: Vec<Contestant> =
            plain.map(|(index, broker)| self.contestant(broker.name.clone(), index, topic, None)).collect();
        for (index, (name, of, config)) in self.variants.iter().enumerate().filter(|_| variants) {
            let broker = self.brokers.iter().position(|broker| broker.name == *of).expect("the options were checked");
            all.push(self.contestant(name.clone(), broker, &format!("{topic}-variant-{index}"), Some(config.clone())));
        }
        all
    }

    fn contestant(&self, name: String, broker: usize, topic: &str, config: Option<(String, String)>) -> Contestant {
        let configs = self.topic_configs.iter().cloned().chain(config).collect();
        Contestant { name, broker, topic: topic.to_string(), configs, bytes: 0, run_bytes: 0, runs: 0 }
    }

    /// Creates the topic, and runs what will be measured without counting it, until that becomes no faster: some brokers
    /// are busy with a thousand new partitions for a while.
    fn fill(&mut self, contestant: &mut Contestant, load: &Load, rate: u64) -> Result<(), BenchError> {
        say(&format!("  {}: creating the topic, warming up", contestant.name));
        (contestant.bytes, contestant.runs) = (0, 0);
        let mut before = 0;
        for _ in 0..WARM_UPS_MAX {
            self.produced(contestant, load, rate)?;
            if contestant.run_bytes <= before * 3 / 2 {
                break;
            }
            before = contestant.run_bytes;
        }
        contestant.runs = 1;
        Ok(())
    }

    /// Starts the topic anew, if it has been measured since it was, when another run would make it too large or fill the
    /// disk.
    fn make_room(&mut self, contestant: &mut Contestant, load: &Load, rate: u64) -> Result<(), BenchError> {
        let free = machine::free_bytes(self.brokers[contestant.broker].data())?;
        let too_large = contestant.bytes + contestant.run_bytes > self.scale.topic_bytes_max
            || free < contestant.run_bytes + self.scale.free_bytes_min;
        if too_large && contestant.runs > 1 {
            say(&format!("  {}: its topic holds {} MB", contestant.name, contestant.bytes / 1_000_000));
            self.delete(contestant)?;
            // Files of deleted topics are removed a moment later.
            std::thread::sleep(Duration::from_secs(2));
            self.fill(contestant, load, rate)?;
        }
        Ok(())
    }

    /// Produces once and measures it.
    fn produced(&mut self, contestant: &mut Contestant, load: &Load, rate: u64) -> Result<Measured, BenchError> {
        let options = self.producer(contestant, load, rate, None);
        machine::settle()?;
        let mut bytes = 0;
        let sample = self.measured(contestant.broker, |mark| {
            let report = produce::run(&options, mark)?;
            bytes = report.payload_bytes;
            Ok(report)
        })?;
        let with_warm_up = bytes as f64 * (1.0 + self.scale.warm_up / self.scale.seconds);
        contestant.run_bytes = (with_warm_up * self.scale.replicas as f64) as u64;
        contestant.bytes += contestant.run_bytes;
        contestant.runs += 1;
        Ok(sample)
    }

    /// Writes so many bytes to the topic, and waits until they are on the disk.
    fn write(&mut self, contestant: &Contestant, bytes: u64) -> Result<(), BenchError> {
        let load = workload::writing_load();
        let records = bytes / load.shape.record_bytes as u64;
        let options = self.producer(contestant, &load, 0, Some(records));
        self.measured(contestant.broker, |mark| produce::run(&options, mark))?;
        machine::settle()
    }

    fn producer(&self, contestant: &Contestant, load: &Load, rate: u64, records: Option<u64>) -> produce::Options {
        produce::Options {
            common: self.common(contestant.broker, &contestant.topic, load.connections, load.spin),
            partitions: load.partitions,
            replication_factor: self.scale.replicas,
            topic_configs: contestant.configs.clone(),
            shape: load.shape.clone(),
            acks: produce::Acks::All,
            rate,
            warm_up: self.scale.warm_up,
            seconds: self.scale.seconds,
            records,
        }
    }

    fn consumer(&self, broker: usize, topic: &str, connections: u32) -> consume::Options {
        let common = self.common(broker, topic, connections, false);
        consume::Options { common, partition_bytes_max: 1 << 20, repeat: None, tail: None, warm_up: 0.0 }
    }

    fn common(&self, broker: usize, topic: &str, connections: u32, spin: bool) -> Common {
        Common {
            bootstrap: self.brokers[broker].bootstrap.clone(),
            topic: topic.to_string(),
            connections,
            threads: self.placement.load.len().min(connections as usize),
            spin,
            congestion: self.congestion.clone(),
        }
    }

    fn delete(&self, contestant: &Contestant) -> Result<(), BenchError> {
        let address = self.brokers[contestant.broker].bootstrap.clone();
        topics::delete(&Target { address, congestion: self.congestion.clone() }, &contestant.topic)
    }

    /// Runs a load, again when a partition has moved meanwhile, and adds to its report what the broker used in exactly the
    /// measured time.
    fn measured(
        &mut self,
        broker: usize,
        mut load: impl FnMut(&mut dyn FnMut(Mark)) -> Result<Report, BenchError>,
    ) -> Result<Measured, BenchError> {
        for _ in 0..RUNS_AGAIN_MAX {
            match self.measured_once(broker, &mut load) {
                Err(error) if topics::has_moved(&error) => {
                    say(&format!("  {}: the run begins again: {error}", self.brokers[broker].name));
                    self.again[broker] += 1;
                }
                outcome => return outcome,
            }
        }
        self.measured_once(broker, &mut load)
    }

    fn measured_once(
        &mut self,
        broker: usize,
        load: &mut impl FnMut(&mut dyn FnMut(Mark)) -> Result<Report, BenchError>,
    ) -> Result<Measured, BenchError> {
        let broker = &mut self.brokers[broker];
        broker.check()?;
        let free = machine::free_bytes(broker.data())?;
        if free < self.scale.free_bytes_min {
            return Err(BenchError::Machine(format!("only {} MB are free on the disk", free / 1_000_000)));
        }
        let pids = broker.pids();
        let (mut used, mut dirty) = (Vec::new(), Ok(0));
        let cpu = || pids.iter().map(|pid| machine::process_cpu(*pid)).collect::<Result<Vec<Duration>, _>>();
        let outcome = load(&mut |mark| {
            used.push(cpu());
            if mark == Mark::Until {
                dirty = machine::dirty_bytes();
            }
        });
        // That the broker has ended says more than that a connection broke.
        broker.check()?;
        let report = outcome?;
        let used = used.into_iter().collect::<Result<Vec<_>, _>>()?;
        let resident = pids.iter().map(|pid| machine::resident(*pid)).collect::<Result<Vec<_>, _>>()?;
        Ok(Measured::new(&report, &used[0], &used[1], &resident, dirty?))
    }

    /// What is to be said of the runs that were begun again.
    pub fn notes_of_moves(&self) -> Vec<String> {
        let again = self.brokers.iter().zip(&self.again).filter(|(_, times)| **times > 0);
        again
            .map(|(broker, times)| format!("{}: {times} runs were begun again: a partition had moved", broker.name))
            .collect()
    }

    fn note(&mut self, workload: &str, by: &str, round: usize, measured: Measured) {
        let Measured { all, nodes } = measured;
        let shown = |metric: Metric| all.get(metric).map_or("-".to_string(), |value| format!("{value:.3}"));
        say(&format!(
            "  {workload} {round}/{} {by}: {} MB/s, p50 {} ms, p99.9 {} ms, {} CPU s/GB",
            self.scale.rounds,
            shown(Metric::Megabytes),
            shown(Metric::P50),
            shown(Metric::P999),
            shown(Metric::Cpu)
        ));
        self.results.push(workload, by, all);
        for (index, node) in nodes.into_iter().enumerate() {
            self.results.push(workload, &format!("{by}, node {}", index + 1), node);
        }
    }
}
