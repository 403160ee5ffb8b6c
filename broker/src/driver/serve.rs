//! From a configuration to a broker that serves, and to its end.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use millstream_replication::log::MetadataLog;
use millstream_replication::{ClusterImage, Controller, ControllerRequest, ControllerResponse, Endpoint};
use millstream_storage::producer::PRODUCER_BYTES;
use millstream_storage::recovery::{
    KnownPartition, Recovered, RecoveredShard, RecoveryError, RecoveryOptions, recover,
};
use millstream_storage::shard_log::{CleanerOptions, ShardLogOptions};
use millstream_storage::{BLOCK_BYTES, DiskError, DiskOp, DiskReply, PartitionKey, ShardLog};

use super::clock::Clock;
use super::controller::{self, ControllerThread, ToController};
use super::disk::Pools;
use super::executor::{self, ExecutorOptions, Report, ShardHandle};
use super::http::{About, Node};
use super::limits::ConnectionLimits;
use super::memory::{self, MemoryBudget};
use super::net::NetOptions;
use super::sys::{self, SocketBuffers, Space};
use super::watchdog::{self, Watched};
use super::{Inbound, files, http, preflight};
use crate::config::{BrokerConfig, ConnectionRules, LogRules};
use crate::rate::Window;
use crate::shard::{Shard, ShardOptions};

/// How long a stop may take before the process ends anyway; nothing acknowledged is lost by that.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);
/// Slots of each shard's journal.
const JOURNAL_SLOTS: u32 = 8;
/// The part of one shard's journal that the requests in flight on all shards may fill, for they may all be for that one:
/// 1 / 4. What is appended but not durable when a checkpoint starts must fit the half of the journal that is free then.
const JOURNAL_REQUEST_SHARE: u64 = 4;
/// Descriptors for everything but connections and data files.
const OTHER_FILES: u64 = 128;
/// Idle data files that one shard keeps open, at most.
const SHARD_HANDLES_MAX: usize = 8192;
/// The floor of free space when none is configured: this, or a share of the file system if that is smaller...
const FREE_SPACE_FLOOR_BYTES: u64 = 1 << 30;
/// ...of 1 / 20.
const FREE_SPACE_FLOOR_SHARE: u64 = 20;

/// Runs the broker until it is told to stop. The error is one line for people.
pub fn serve(mut config: BrokerConfig) -> Result<(), String> {
    sys::hold_stop_signals();
    sys::give_back_large_allocations();
    abort_on_panic();
    let clock = Clock::start();

    preflight::check_io_uring()?;
    let processors = sys::processors();
    let shards = config.shards.unwrap_or(processors.len());
    let memory = Arc::new(MemoryBudget::plan(&mut config, shards, memory::machine_bytes())?);
    preflight::check_locked_memory(shards)?;
    let open_files_max = preflight::check_open_files()?;
    let wait = preflight::LAST_PROCESS_WAIT;
    let directory =
        preflight::open_data_directory(&config.data_directory, wait).map_err(|refusal| refusal.to_string())?;
    let listeners = preflight::bind_listeners(&config.listeners, shards, wait)?;
    let http = match &config.http_listener {
        Some((host, port)) => Some(preflight::listen_http(host, *port, wait)?),
        None => None,
    };

    let recovery = Instant::now();
    let state = Recovery::run(&config, &directory.path, shards, &clock)?;
    let took = recovery.elapsed();
    let recovered = &state.recovered;
    if recovered.groups > 0 || recovered.torn_groups > 0 {
        super::info(
            "recovery",
            &format!(
                "{} groups replayed from the journals, {} torn at the end and dropped, {} bytes written to segments",
                recovered.groups, recovered.torn_groups, recovered.bytes
            ),
        );
    }

    let handles: Vec<ShardHandle> = (0..shards).map(|_| ShardHandle::default()).collect();
    let (to_controller, controller_inbox) = channel();
    let pools = Pools::start().map_err(cannot_start_threads)?;
    let files_for_data = open_files_max / 4;
    let files_for_connections = open_files_max.saturating_sub(files_for_data + OTHER_FILES);
    let layers = state.image.config_layers(config.node_id, &config.properties);
    let limits = Arc::new(ConnectionLimits::new(
        usize::try_from(files_for_connections).unwrap_or(usize::MAX),
        Window::configured(&config.properties),
        ConnectionRules::new(&layers, state.image.quotas()),
    ));
    let addresses: Vec<SocketAddr> = listeners.iter().map(|(address, _)| *address).collect();
    let mut sockets: Vec<_> = (0..shards).map(|_| Vec::new()).collect();
    for (_, of_listener) in listeners {
        for (of_shard, socket) in sockets.iter_mut().zip(of_listener) {
            of_shard.push(socket);
        }
    }
    let endpoints = endpoints(&config, &addresses);

    let mut reports = Vec::new();
    let shared = Arc::new(Shared::new(&config, &memory, shards, &directory.path, &state.image)?);
    for (index, (recovered, sockets)) in state.recovered.shards.into_iter().zip(sockets).enumerate() {
        let options = ExecutorOptions {
            index,
            processor: processors[index % processors.len()],
            clock,
            root: directory.path.clone(),
            poll: config.poll,
            handles_max: (files_for_data as usize / shards).clamp(1, SHARD_HANDLES_MAX),
            pools: pools.clone(),
            net: NetOptions {
                request_bytes_max: config.request_bytes_max,
                idle_max: config.idle_max,
                buffers: SocketBuffers {
                    send_bytes: config.send_buffer_bytes,
                    receive_bytes: config.receive_buffer_bytes,
                },
                memory: Arc::clone(&memory),
            },
            limits: Arc::clone(&limits),
            sockets,
            backlog: config.backlog,
            shards: handles.clone(),
            controller: to_controller.clone(),
        };
        let shared = Arc::clone(&shared);
        let started = executor::start(options, move || shared.shard(index, shards, recovered));
        reports.push(started.map_err(cannot_start_threads)?);
    }
    let thread = ControllerThread {
        root: directory.path.clone(),
        clock,
        controller: Controller::new(config.properties.clone()),
        log: state.log,
        image: state.image,
        shards: handles.clone(),
    };
    controller::start(thread, controller_inbox).map_err(cannot_start_threads)?;
    let watched = handles.iter().map(|shard| Watched::new(Arc::clone(&shard.progress), Arc::clone(&shard.mailbox)));
    watchdog::start(clock, watched.collect(), directory.path.clone(), pools.files.clone())
        .map_err(cannot_start_threads)?;
    wait_for(&reports, |report| matches!(report, Report::Recovered))?;

    register(&to_controller, &config, endpoints)?;
    for shard in &handles {
        shard.mailbox.push(Inbound::Listen);
    }
    wait_for(&reports, |report| matches!(report, Report::Listening))?;
    let about = About {
        node_id: config.node_id,
        listeners: listener_names(&config, &addresses),
        data_directory: directory.path.clone(),
        free_space_floor_bytes: shared.log.free_space_floor_bytes,
    };
    let node = Arc::new(Node::new(handles.clone(), Arc::clone(&memory), about));
    if let Some(listener) = http {
        http::start(listener, Arc::clone(&node)).map_err(cannot_start_threads)?;
    }
    super::info("serve", &memory.describe());
    println!("{}", ready_line(&config, &addresses, shards, took));

    while !sys::wait_for_stop_signal(Duration::MAX) {}
    node.stops();
    stop(&handles, &reports);
    Ok(())
}

/// A panic anywhere is a bug; a broker that goes on with half its threads would be worse than none.
fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}

fn cannot_start_threads(error: std::io::Error) -> String {
    format!("cannot start a thread: {error}; raise the limit on processes (`ulimit -u`)")
}

/// What is there before the first shard runs.
struct Recovery {
    log: MetadataLog,
    image: ClusterImage,
    recovered: Recovered,
}

impl Recovery {
    fn run(config: &BrokerConfig, root: &Path, shards: usize, clock: &Clock) -> Result<Recovery, String> {
        let mut io = |operation: DiskOp| files::execute(root, &operation);
        let metadata = DiskOp::List { path: millstream_replication::log::DIRECTORY.into() };
        let metadata_is_new = match io(metadata) {
            Ok(DiskReply::Names(names)) => names.is_empty(),
            Ok(other) => panic!("a listing is names, not {other:?}"),
            Err(error) => return Err(format!("cannot read the data directory: {error}")),
        };
        let (log, image) =
            MetadataLog::open(&mut io, config.node_id, sys::random()).map_err(|error| error.to_string())?;
        let slot_bytes = config.journal_bytes / u64::from(JOURNAL_SLOTS);
        let options = RecoveryOptions {
            shards,
            salt: sys::random(),
            slots: JOURNAL_SLOTS,
            slot_bytes: slot_bytes - slot_bytes % BLOCK_BYTES as u64,
            partitions: &known_partitions(config, &image),
            metadata_is_new,
            now_ms: clock.now().unix_ms,
        };
        let recovered = recover(&mut io, &options).map_err(|error| match error {
            RecoveryError::Disk { error: DiskError::NoSpace, .. } => format!(
                "{error}: the journals of {shards} shards need {} MiB; free some space in {}, or lower \
                 millstream.journal.bytes",
                (config.journal_bytes * shards as u64).div_ceil(1 << 20),
                root.display()
            ),
            _ => error.to_string(),
        })?;
        Ok(Recovery { log, image, recovered })
    }
}

/// The partitions that this broker holds.
fn known_partitions(config: &BrokerConfig, image: &ClusterImage) -> Vec<KnownPartition> {
    let mut known = Vec::new();
    for topic in image.topics() {
        let settings = image.topic_settings(topic, config.node_id, &config.properties);
        for (index, partition) in (0..).zip(&topic.partitions) {
            if partition.replicas.contains(&config.node_id) {
                known.push(KnownPartition {
                    key: PartitionKey { topic_id: topic.id, partition: index },
                    topic: topic.name.to_string(),
                    index_interval_bytes: settings.log.index_interval_bytes,
                });
            }
        }
    }
    known
}

/// Free space below which produce requests are refused, in bytes.
pub fn free_space_floor(config: &BrokerConfig, space: &Space) -> u64 {
    let share = FREE_SPACE_FLOOR_BYTES.min(space.total_bytes / FREE_SPACE_FLOOR_SHARE);
    config.free_space_floor_bytes.unwrap_or(share)
}

/// What every shard is made from.
struct Shared {
    config: BrokerConfig,
    /// The data directory, absolute.
    root: String,
    properties: Arc<millstream_replication::config::Properties>,
    image: ClusterImage,
    log: ShardLogOptions,
    group_bytes_max: usize,
}

impl Shared {
    fn new(
        config: &BrokerConfig,
        memory: &MemoryBudget,
        shards: usize,
        root: &Path,
        image: &ClusterImage,
    ) -> Result<Shared, String> {
        let space = sys::space(root).map_err(|error| format!("cannot measure the free space: {error}"))?;
        let rules = LogRules::new(&image.config_layers(config.node_id, &config.properties), shards);
        Ok(Shared {
            properties: Arc::new(config.properties.clone()),
            image: image.clone(),
            log: ShardLogOptions {
                tail_memory_bytes_max: config.tail_memory_bytes,
                free_space_floor_bytes: free_space_floor(config, &space),
                extent_bytes_min: config.extent_bytes,
                retention_check_interval: config.retention_check_interval,
                producer_expiration_ms: rules.producer_expiration_ms,
                producers_max: memory.producers / PRODUCER_BYTES / shards,
                cleaner: CleanerOptions {
                    is_enabled: config.cleaner_enable,
                    map_bytes_max: (config.cleaner_map_bytes / shards as u64) as usize,
                    bytes_per_second_max: rules.cleaner_bytes_per_second_max,
                    backoff: rules.cleaner_backoff,
                },
            },
            group_bytes_max: memory.groups,
            root: std::path::absolute(root).unwrap_or_else(|_| root.to_owned()).display().to_string(),
            config: config.clone(),
        })
    }

    /// Makes a shard on its own thread.
    fn shard(&self, index: usize, shards: usize, recovered: RecoveredShard) -> Shard {
        let node_id = self.config.node_id;
        let log = ShardLog::new(self.log.clone(), recovered, |key| {
            let topic = self.image.topic_by_id(key.topic_id).expect("recovery keeps only partitions of the image");
            let settings = self.image.topic_settings(topic, node_id, &self.properties);
            (topic.name.to_string(), settings.log)
        });
        let options = ShardOptions {
            index,
            shards,
            node_id,
            file: Arc::clone(&self.properties),
            log_dir: self.root.clone(),
            listeners: self.config.listeners.iter().map(|listener| listener.name.clone()).collect(),
            fetch_bytes_max: self.config.fetch_bytes_max,
            group_bytes_max: self.group_bytes_max,
            request_bytes_max: {
                let journal = (self.config.journal_bytes / JOURNAL_REQUEST_SHARE) as usize;
                self.config.queued_request_bytes_max.unwrap_or(usize::MAX).min(journal) / shards
            },
        };
        Shard::new(options, log, self.image.clone())
    }
}

/// Where clients reach this broker.
fn endpoints(config: &BrokerConfig, addresses: &[SocketAddr]) -> Vec<Endpoint> {
    let endpoint = |(listener, address): (&crate::config::Listener, &SocketAddr)| Endpoint {
        listener: listener.name.clone(),
        host: listener.advertised_host.clone(),
        port: if listener.advertised_port == 0 { address.port() } else { listener.advertised_port },
    };
    config.listeners.iter().zip(addresses).map(endpoint).collect()
}

/// Says to the controller that this broker has started. Every shard has applied it when this returns.
fn register(controller: &Sender<ToController>, config: &BrokerConfig, endpoints: Vec<Endpoint>) -> Result<(), String> {
    let (reply, answer) = channel();
    let request = ControllerRequest::RegisterBroker { node_id: config.node_id, endpoints, rack: config.rack.clone() };
    let gone = || "the controller has ended".to_owned();
    controller.send(ToController::Ask { request, reply }).map_err(|_| gone())?;
    match answer.recv() {
        Ok(ControllerResponse::RegisterBroker(Err(error))) => Err(format!("the broker cannot be registered: {error}")),
        Ok(_) => Ok(()),
        Err(_) => Err(gone()),
    }
}

/// Waits until every shard has reported this; the error is the first shard's that failed.
fn wait_for(reports: &[Receiver<Report>], wanted: impl Fn(&Report) -> bool) -> Result<(), String> {
    for (index, reports) in reports.iter().enumerate() {
        match reports.recv() {
            Ok(report) if wanted(&report) => {}
            Ok(Report::Failed(why)) => return Err(why),
            Ok(other) => return Err(format!("shard {index} reports {other:?} too early")),
            Err(_) => return Err(format!("shard {index} has ended")),
        }
    }
    Ok(())
}

/// Where it listens, as `listeners` would say it.
fn listener_names(config: &BrokerConfig, addresses: &[SocketAddr]) -> Vec<String> {
    let name = |(listener, address): (&crate::config::Listener, &SocketAddr)| format!("{}://{address}", listener.name);
    config.listeners.iter().zip(addresses).map(name).collect()
}

fn ready_line(config: &BrokerConfig, addresses: &[SocketAddr], shards: usize, recovery: Duration) -> String {
    format!(
        "millstream {} ready: {}, node {}, {shards} shard{}, data in {}, recovered in {} ms",
        env!("CARGO_PKG_VERSION"),
        listener_names(config, addresses).join(", "),
        config.node_id,
        if shards == 1 { "" } else { "s" },
        config.data_directory.display(),
        recovery.as_millis()
    )
}

/// Lets the shards answer what is under way. A second signal ends the process at once.
fn stop(handles: &[ShardHandle], reports: &[Receiver<Report>]) {
    super::info("serve", "stopping");
    for shard in handles {
        shard.mailbox.push(Inbound::ShutDown);
    }
    let deadline = Instant::now() + SHUTDOWN_MAX;
    let mut running: Vec<&Receiver<Report>> = reports.iter().collect();
    while !running.is_empty() {
        if Instant::now() >= deadline {
            super::warn("serve", "some requests could not be answered in time; what was acknowledged is safe");
            break;
        }
        if sys::wait_for_stop_signal(Duration::from_millis(5)) {
            sys::exit_at_once(0);
        }
        running.retain(|reports| !matches!(reports.try_recv(), Ok(Report::ShutDown)));
    }
    // Executors are not unwound: everything they had to do is done.
    sys::exit_at_once(0);
}
