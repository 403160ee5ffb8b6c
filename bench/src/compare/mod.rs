//! Brokers side by side on one machine, in one command: the same loads in turn, warm against warm, beside the bare loops
//! of `limits`.

mod broker;
pub mod cleanup;
mod measured;
mod results;
mod runner;
mod table;
mod targets;
mod workload;

use std::path::{Path, PathBuf};

use clap::Args;

use crate::compare::broker::{Broker, Ports, Spec};
use crate::compare::cleanup::Cleanup;
use crate::compare::runner::{Runner, Scale};
use crate::error::BenchError;
use crate::load;
use crate::machine::{self, Placement};

/// Replicas of each partition in a cluster, where no other number is asked for.
const REPLICAS: usize = 3;

/// Options of `compare`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// A broker: a command that runs it in the foreground with its data in {data}, which is not there yet, listens on
    /// {port} of 127.0.0.1, and prints a line with `ready`; {metrics} is a port for its metrics. The first one named is
    /// judged, the second is what it is held against. The command must end in the broker's own process (`exec`), whose
    /// processor time and memory are measured. With --nodes it is run once for each: {node} is its number, from 1 on, and
    /// {voters} what `controller.quorum.voters` is to be, in which the node finds its own port for controllers.
    #[arg(long = "broker", required = true, value_parser = Spec::parse, value_name = "NAME=COMMAND")]
    brokers: Vec<Spec>,
    /// A broker again, with a config of its topics: NAME=BROKER KEY=VALUE. It takes part in the workload of 1,000 partitions;
    /// with --nodes in all that only produce as fast as they can.
    #[arg(long = "variant", value_parser = Variant::parse, value_name = "NAME=BROKER KEY=VALUE")]
    variants: Vec<Variant>,
    /// Processes of each broker, which form a cluster; the report says what each of them uses.
    #[arg(long, default_value_t = 1, value_parser = load::replicas)]
    nodes: usize,
    /// Replicas of each partition, laid out alike in all brokers; without it, as many as there are nodes, 3 at most.
    #[arg(long, value_parser = load::replicas)]
    replication_factor: Option<usize>,
    /// Config of every topic; may be given several times.
    #[arg(long = "topic-config", value_parser = load::key_value, value_name = "KEY=VALUE")]
    topic_configs: Vec<(String, String)>,
    /// Workloads to run, by name or by the beginning of it up to `-`; all without it.
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<String>,
    /// Seconds measured in each run.
    #[arg(long, default_value_t = 5.0, value_parser = load::seconds)]
    seconds: f64,
    /// Seconds before them in each run; before the first round of a workload comes a whole run that is not counted.
    #[arg(long, default_value_t = 1.0, value_parser = load::seconds)]
    warm_up: f64,
    /// Seconds of load on each broker before everything else: a virtual machine compiles what is used often.
    #[arg(long, default_value_t = 30.0)]
    first_load: f64,
    /// Rounds: each broker once in each, in turn.
    #[arg(long, default_value_t = 3, value_parser = load::at_least_one)]
    rounds: usize,
    /// Every workload, but for a moment, with few partitions and small topics: does it all still run?
    #[arg(long)]
    tiny: bool,
    /// Processors of the brokers, for example 0-3; without it, the first half.
    #[arg(long)]
    server_cpus: Option<String>,
    /// Processors of the load; without it, the second half.
    #[arg(long)]
    load_cpus: Option<String>,
    /// TCP congestion control: of the system while this runs, where that may be set, else of the load's sockets.
    #[arg(long, default_value = "cubic")]
    congestion: String,
    /// Directory in which a directory for all data is made, on the disk to be measured.
    #[arg(long, default_value = ".")]
    data_parent: PathBuf,
    /// Range of ports to take, first-last; without it, any.
    #[arg(long)]
    ports: Option<String>,
    /// MiB of the topics of the tail workloads: what a consumer at the tail has not read yet, so what a broker has in
    /// memory.
    #[arg(long, default_value_t = 64)]
    tail_mebibytes: u64,
    /// MiB of the topics that are read from the disk.
    #[arg(long, default_value_t = 3072)]
    cold_mebibytes: u64,
    /// GiB that one broker may have in the topic of one workload, all replicas counted: one that would grow larger, or fill the disk, is deleted
    /// between two rounds, created again and warmed up again. It holds two runs at least.
    #[arg(long, default_value_t = 12)]
    topic_gibibytes: u64,
    /// Bytes of memory that the first broker may use; without it, what its metric millstream_memory_budget_bytes says.
    #[arg(long)]
    memory_budget: Option<u64>,
    /// What the first broker was built from, for the report.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// Write the report to this file, too.
    #[arg(long)]
    markdown: Option<PathBuf>,
}

/// A broker with a config of its topics.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Variant {
    name: String,
    broker: String,
    config: (String, String),
}

impl Variant {
    fn parse(text: &str) -> Result<Variant, String> {
        let parsed = || {
            let (name, rest) = text.split_once('=')?;
            let (broker, config) = rest.rsplit_once(' ')?;
            let config = load::key_value(config).ok()?;
            Some(Variant { name: name.to_string(), broker: broker.to_string(), config })
        };
        parsed().ok_or("it is written NAME=BROKER KEY=VALUE".to_string())
    }
}

/// Runs the comparison and prints its report.
pub fn run(options: &Options) -> Result<(), BenchError> {
    let all = workload::all(options.tiny, options.nodes);
    let workloads = workload::select(all, &options.workloads).map_err(BenchError::Options)?;
    if let Some(variant) = options.variants.iter().find(|v| !options.brokers.iter().any(|b| b.name == v.broker)) {
        return Err(BenchError::Options(format!("--variant {}: no broker is named {}", variant.name, variant.broker)));
    }
    if let Some(spec) = options.brokers.iter().find(|spec| options.nodes > 1 && !spec.has_nodes()) {
        return Err(BenchError::Options(format!(
            "--nodes: {{node}} and {{voters}} are not in the command of {}",
            spec.name
        )));
    }
    if options.replication_factor.is_some_and(|replicas| replicas > options.nodes) {
        return Err(BenchError::Options(format!(
            "--replication-factor: there are {} nodes of each broker",
            options.nodes
        )));
    }
    let placement = Placement::new(options.server_cpus.as_deref(), options.load_cpus.as_deref())?;
    machine::raise_open_files();
    let mut cleanup = Cleanup::start()?;
    let parent = data_directory(&options.data_parent)?;
    cleanup.directory(&parent)?;
    let (congestion, congestion_said) = congestion(&options.congestion, &mut cleanup)?;
    let mut ports = Ports::new(options.ports.as_deref())?;
    let mut brokers = Vec::new();
    for spec in &options.brokers {
        say(&format!("starting {}", spec.name));
        brokers.push(Broker::start(spec, options.nodes, &parent, &placement, &mut ports, &mut cleanup)?);
    }
    machine::confine(&placement.load)?;
    let budget = options.memory_budget.or_else(|| brokers[0].memory_budget_bytes());
    let head = format!(
        "- {}\n- {}, commit {}\n- servers on processors {:?}, load on {:?}; congestion control {congestion_said}\n- {}\n",
        machine::description(),
        date(),
        options.commit,
        placement.server,
        placement.load,
        scale(options).describe(),
    );
    let mut runner = Runner::new(brokers, &parent, placement.clone(), congestion, scale(options));
    runner.topic_configs = options.topic_configs.clone();
    runner.variants = options.variants.iter().map(|v| (v.name.clone(), v.broker.clone(), v.config.clone())).collect();
    runner.warm_up()?;
    runner.idle()?;
    for workload in &workloads {
        runner.run(workload)?;
    }
    let names = targets::Names {
        subject: &options.brokers[0].name,
        rival: options.brokers.get(1).map(|spec| spec.name.as_str()),
        variant: options.variants.first().map(|variant| variant.name.as_str()),
        memory_budget_bytes: budget,
    };
    let mut report = format!("{head}\n");
    for name in runner.results.workloads() {
        report += &format!("{}\n", table::workload(&runner.results, name, workload::about(name), names.subject));
    }
    runner.notes.iter().chain(&runner.notes_of_moves()).for_each(|note| report += &format!("- {note}\n"));
    let targets = match options.nodes {
        1 => targets::single(&runner.results, &names),
        _ => targets::cluster(&runner.results, &names),
    };
    report += &format!("\n### Targets\n\n{}", targets::table(&targets));
    println!("{report}");
    if let Some(path) = &options.markdown {
        std::fs::write(path, &report).map_err(BenchError::machine(path.display()))?;
    }
    Ok(())
}

fn scale(options: &Options) -> Scale {
    let asked = Scale {
        seconds: options.seconds,
        warm_up: options.warm_up,
        first_load_seconds: options.first_load,
        rounds: options.rounds,
        nodes: options.nodes,
        replicas: options.replication_factor.unwrap_or(options.nodes.min(REPLICAS)),
        tail_bytes: options.tail_mebibytes << 20,
        cold_bytes: options.cold_mebibytes << 20,
        topic_bytes_max: options.topic_gibibytes << 30,
        free_bytes_min: 6 << 30,
        floor_file_bytes: 1 << 30,
        tiny: false,
    };
    if !options.tiny {
        return asked;
    }
    Scale {
        seconds: 0.4,
        warm_up: 0.1,
        first_load_seconds: 0.0,
        rounds: 1,
        tail_bytes: 16 << 20,
        cold_bytes: 64 << 20,
        free_bytes_min: 2 << 30,
        floor_file_bytes: 64 << 20,
        tiny: true,
        ..asked
    }
}

/// Progress, to standard error.
fn say(text: &str) {
    eprintln!("{} {text}", &date()[11..]);
}

/// A new directory, in the one given.
fn data_directory(parent: &Path) -> Result<PathBuf, BenchError> {
    let parent = parent.canonicalize().map_err(BenchError::machine(parent.display()))?;
    let directory = parent.join(format!("millstream-compare.{}", std::process::id()));
    std::fs::create_dir(&directory).map_err(BenchError::machine(directory.display()))?;
    Ok(directory)
}

/// Sets the system's congestion control. Where that is not allowed: returns what the load's sockets are to be set to.
/// Returns also what the report says.
fn congestion(wanted: &str, cleanup: &mut Cleanup) -> Result<(Option<String>, String), BenchError> {
    let before = machine::congestion_control();
    if before == wanted {
        return Ok((None, wanted.to_string()));
    }
    if machine::set_congestion_control(wanted).is_ok() && machine::congestion_control() == wanted {
        cleanup.congestion(&before)?;
        return Ok((None, format!("{wanted} (set for the comparison; otherwise {before})")));
    }
    Ok((
        Some(wanted.to_string()),
        format!("{wanted} in the load, {before} in the brokers: the system's could not be set"),
    ))
}

/// The date and time of day, UTC, as in `2026-11-21 14:05:09`.
fn date() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (year, month, day) = civil((now / 86_400) as i64);
    let (hours, minutes, seconds) = (now / 3600 % 24, now / 60 % 60, now % 60);
    format!("{year}-{month:02}-{day:02} {hours:02}:{minutes:02}:{seconds:02}")
}

/// Year, month and day of a day counted from 1970-01-01: <https://howardhinnant.github.io/date_algorithms.html>
fn civil(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    let (era, day_of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_dates() {
        for (day, date) in [(0, (1970, 1, 1)), (11_016, (2000, 2, 29)), (20_778, (2026, 11, 21)), (-1, (1969, 12, 31))]
        {
            assert_eq!(civil(day), date);
        }
    }

    #[test]
    fn variants_are_parsed() {
        let variant = Variant::parse("kafka flush=kafka flush.messages=1").unwrap();
        assert_eq!((variant.name.as_str(), variant.broker.as_str()), ("kafka flush", "kafka"));
        assert_eq!(variant.config, ("flush.messages".to_string(), "1".to_string()));
        assert!(Variant::parse("kafka flush").is_err() && Variant::parse("a=b").is_err());
    }
}
