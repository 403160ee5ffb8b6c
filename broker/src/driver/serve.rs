//! From a configuration to a broker that serves, and to its end.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use millstream_replication::identity::{self, Found, OpenedDirectory};
use millstream_replication::{ControllerRequest, ControllerResponse, Endpoint, METADATA_VERSIONS};
use millstream_storage::recovery::{LastShutdown, RecoveryError};
use millstream_storage::{DiskError, DiskOp};

use super::clock::Clock;
use super::controller::{self, ControllerHandle, ControllerThread, ToController};
use super::disk::Pools;
use super::executor::{self, ExecutorOptions, Report, ShardHandle};
use super::http::{self, About};
use super::limits::ConnectionLimits;
use super::memory::{self, MemoryBudget};
use super::names::NameThreads;
use super::net::{NetOptions, PeerOptions};
use super::sys::{self, SocketBuffers, Space};
use super::watchdog::{self, Watched};
use super::{Inbound, files, preflight};
use crate::config::{BrokerConfig, ConnectionRules};
use crate::node::registration::{REGISTER_AGAIN_AFTER, Registration, Step};
use crate::node::{Formation, Node, NodeMemory, NodeOptions, RecoverError, RecoveryCounts};
use crate::peer::stream::greeting::Addressee;
use crate::rate::Window;

/// How long a stop may take before the process ends anyway; nothing acknowledged is lost by that.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);
/// How long a stop waits for the controller to know of it.
const LEAVE_MAX: Duration = Duration::from_secs(2);
/// Descriptors for everything but connections and data files.
const OTHER_FILES: u64 = 128;
/// Idle data files that one shard keeps open, at most.
const SHARD_HANDLES_MAX: usize = 8192;
/// The floor of free space when none is configured: this, or a share of the file system if that is smaller...
const FREE_SPACE_FLOOR_BYTES: u64 = 1 << 30;
/// ...of 1 / 20.
const FREE_SPACE_FLOOR_SHARE: u64 = 20;

/// What the mark of a clean stop says in a node that is no broker.
const NO_BROKER_EPOCH: i64 = -1;

/// Runs the broker until it is told to stop. The error is one line for people.
pub fn serve(mut config: BrokerConfig) -> Result<(), String> {
    sys::hold_stop_signals();
    sys::give_back_large_allocations();
    abort_on_panic();
    let (clock, controllers_clock) = (Clock::start(), Clock::start_counting_suspension());

    preflight::check_io_uring()?;
    let processors = sys::processors();
    let shards = if config.quorum.roles.is_broker { config.shards.unwrap_or(processors.len()) } else { 0 };
    let memory = Arc::new(MemoryBudget::plan(&mut config, shards.max(1), memory::machine_bytes())?);
    preflight::check_locked_memory(shards)?;
    let open_files_max = preflight::check_open_files()?;
    let wait = preflight::LAST_PROCESS_WAIT;
    let directory =
        preflight::open_data_directory(&config.data_directory, wait).map_err(|refusal| refusal.to_string())?;
    let listeners = preflight::bind_listeners(&config.listeners, shards, wait)?;
    let for_controllers = match &config.quorum.controller_listener {
        Some(listener) => preflight::bind_listeners(std::slice::from_ref(listener), 1, wait)?,
        None => Vec::new(),
    };
    let http = match &config.http_listener {
        Some((host, port)) => Some(preflight::listen_http(host, *port, wait)?),
        None => None,
    };

    let recovery = Instant::now();
    let space = sys::space(&directory.path).map_err(|error| format!("cannot measure the free space: {error}"))?;
    let free_space_floor_bytes = free_space_floor(&config, &space);
    let log_dir = std::path::absolute(&directory.path).unwrap_or_else(|_| directory.path.clone()).display().to_string();
    let for_node = NodeMemory { groups: memory.groups, producers: memory.producers };
    let incarnation = sys::random();
    let options = NodeOptions::new(&config, incarnation, shards, for_node, log_dir, free_space_floor_bytes);
    let sockets = for_controllers.into_iter().flat_map(|(_, sockets)| sockets).collect();
    let (to_controller, mut controller_inbox) = controller::prepare(controllers_clock, sockets, config.backlog)
        .map_err(|error| format!("cannot wait for nodes: {error}"))?;
    let Some(opened) = open(&config, incarnation, &directory.path, controllers_clock, &mut controller_inbox)? else {
        // It was told to stop before it belonged to a cluster.
        return Ok(());
    };
    check_reachable(&config, &opened)?;
    if let Some(strangers) = strangers(&config, &opened) {
        super::warn("controller", &strangers);
    }
    let node = recover(&config, opened, options, &directory.path, &clock)?;
    let took = recovery.elapsed();
    let recovered = &node.counts;
    report_recovery(recovered);
    let meta = node.meta;

    let handles: Vec<ShardHandle> = (0..shards).map(|_| ShardHandle::default()).collect();
    let pools = Pools::start().map_err(cannot_start_threads)?;
    let names = NameThreads::default();
    let files_for_data = open_files_max / 4;
    let files_for_connections = open_files_max.saturating_sub(files_for_data + OTHER_FILES);
    let image = node.controller.image().clone();
    let layers = image.config_layers(config.node_id, &config.properties);
    let limits = Arc::new(ConnectionLimits::new(
        usize::try_from(files_for_connections).unwrap_or(usize::MAX),
        Window::configured(&config.properties),
        ConnectionRules::new(&layers, image.quotas()),
    ));
    let addresses: Vec<SocketAddr> = listeners.iter().map(|(address, _)| *address).collect();
    let mut sockets: Vec<_> = (0..shards).map(|_| Vec::new()).collect();
    for (_, of_listener) in listeners {
        for (of_shard, socket) in sockets.iter_mut().zip(of_listener) {
            of_shard.push(socket);
        }
    }
    let endpoints = endpoints(&config, &addresses);

    let addressee = Addressee { cluster_id: meta.cluster_id, node: config.node_id, shards: shards as u32 };
    let peers = config.inter_broker_listener().map(|listener| PeerOptions { listener, addressee });
    let mut reports = Vec::new();
    for (index, (shard, sockets)) in node.shards.into_iter().zip(sockets).enumerate() {
        let options = ExecutorOptions {
            index,
            processor: processors[index % processors.len()],
            clock,
            root: directory.path.clone(),
            poll: config.poll,
            handles_max: (files_for_data as usize / shards).clamp(1, SHARD_HANDLES_MAX),
            pools: pools.clone(),
            names: names.clone(),
            net: NetOptions {
                request_bytes_max: config.request_bytes_max,
                idle_max: config.idle_max,
                buffers: SocketBuffers {
                    send_bytes: config.send_buffer_bytes,
                    receive_bytes: config.receive_buffer_bytes,
                },
                memory: Arc::clone(&memory),
                peers,
            },
            limits: Arc::clone(&limits),
            sockets,
            backlog: config.backlog,
            shards: handles.clone(),
            controller: to_controller.clone(),
        };
        let started = executor::start(options, move || shard.open().start());
        reports.push(started.map_err(cannot_start_threads)?);
    }
    let thread = ControllerThread {
        root: directory.path.clone(),
        clock: controllers_clock,
        controller: node.controller,
        shards: handles.clone(),
    };
    controller::start(thread, controller_inbox, to_controller.clone()).map_err(cannot_start_threads)?;
    let watched = handles.iter().map(|shard| Watched::new(Arc::clone(&shard.progress), Arc::clone(&shard.mailbox)));
    watchdog::start(clock, watched.collect(), directory.path.clone(), pools.files.clone())
        .map_err(cannot_start_threads)?;
    wait_for(&reports, |report| matches!(report, Report::Recovered))?;

    let mut broker_epoch = NO_BROKER_EPOCH;
    if config.quorum.roles.is_broker {
        let registration = ControllerRequest::RegisterBroker {
            node_id: config.node_id,
            incarnation,
            directory_id: meta.directory_id,
            shards: u32::try_from(shards).expect("a process has few shards"),
            endpoints,
            rack: config.rack.clone(),
            metadata_versions: METADATA_VERSIONS,
        };
        let wait = config.quorum.registration_timeout;
        let registration = Registration::new(config.node_id, registration, clock.elapsed(), wait);
        let registered = register(&to_controller, &clock, registration)?;
        let Some(epoch) = registered else { return Ok(()) };
        broker_epoch = epoch;
    }
    for shard in &handles {
        shard.mailbox.push(Inbound::Listen);
    }
    wait_for(&reports, |report| matches!(report, Report::Listening))?;
    let about = About {
        node_id: config.node_id,
        listeners: listener_names(&config, &addresses),
        data_directory: directory.path.clone(),
        free_space_floor_bytes,
    };
    let shown = Arc::new(http::Node::new(handles.clone(), Arc::clone(&memory), to_controller.clone(), about));
    if let Some(listener) = http {
        http::start(listener, Arc::clone(&shown)).map_err(cannot_start_threads)?;
    }
    super::info("serve", &memory.describe());
    println!("{}", ready_line(&config, &addresses, shards, took));

    while !sys::wait_for_stop_signal(Duration::MAX) {}
    shown.stops();
    if config.quorum.roles.is_broker && config.quorum.controlled_shutdown && !to_controller.standing().is_alone {
        leave(&to_controller, config.node_id, broker_epoch);
    }
    stop(&handles, &reports, &to_controller, meta.mark_clean_shutdown(broker_epoch));
    Ok(())
}

/// Says what the recovery has found, if it is worth a line.
fn report_recovery(recovered: &RecoveryCounts) {
    let replayed = format!(
        "{} groups replayed from the journals, {} bytes written to segments",
        recovered.groups, recovered.bytes
    );
    match recovered.last_shutdown {
        LastShutdown::Unclean { torn_groups } => super::warn(
            "recovery",
            &format!(
                "the last run did not end with a clean stop; nothing acknowledged is lost: {replayed}, {torn_groups} torn at \
                 the end and dropped"
            ),
        ),
        LastShutdown::Never | LastShutdown::Clean if recovered.groups > 0 => super::info("recovery", &replayed),
        LastShutdown::Never | LastShutdown::Clean => {}
    }
    if recovered.strays > 0 {
        let message = format!(
            "{} partitions that the metadata does not know are set aside below strays/ until the controller has \
             confirmed that they are gone",
            recovered.strays
        );
        super::info("recovery", &message);
    }
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

/// Opens the data directory, of a node that is alone or one of several; the second waits for the others where it holds nothing.
/// None: the process is told to stop meanwhile.
fn open(
    config: &BrokerConfig,
    incarnation: [u8; 16],
    root: &Path,
    clock: Clock,
    inbox: &mut controller::Inbox,
) -> Result<Option<OpenedDirectory>, String> {
    let mut io = |operation: DiskOp| files::execute(root, &operation);
    let random = sys::random();
    let shown = |error: identity::OpenError| error.to_string();
    if !config.quorum.has_others() {
        return identity::open(&mut io, config.node_id, random).map(Some).map_err(shown);
    }
    let candidate = match identity::find(&mut io, config.node_id, random).map_err(shown)? {
        Found::Member(opened) => return Ok(Some(*opened)),
        Found::Candidate(candidate) => candidate,
    };
    let quorum = &config.quorum;
    let (voters, servers) = (quorum.voters.clone(), quorum.bootstrap_servers.clone());
    let formation = Formation::new(candidate, voters, servers, incarnation, quorum.address(), sys::random());
    let Some(snapshot) = inbox.form(clock, formation) else { return Ok(None) };
    super::info("controller", "this node belongs to a cluster now");
    identity::begin(&mut io, candidate, snapshot, random).map(Some).map_err(shown)
}

/// Refuses to run a voter that the other voters could not dial: it might lead, and nobody could ask it.
fn check_reachable(config: &BrokerConfig, opened: &OpenedDirectory) -> Result<(), String> {
    let (members, me) = (opened.quorum.members(), opened.quorum.me());
    if config.quorum.address().is_some() || !members.is_voter(me) || members.iter().count() == 1 {
        return Ok(());
    }
    Err(format!(
        "node {} votes in a quorum of several, and has no listener for controllers: give it one by listeners and \
         controller.listener.names, or take its vote away first (kafka-metadata-quorum remove-controller)",
        config.node_id
    ))
}

/// Says which of the configured voters are none in the quorum to which the directory belongs, if any.
fn strangers(config: &BrokerConfig, opened: &OpenedDirectory) -> Option<String> {
    let voters = config.quorum.voters.iter().map(|(node_id, ..)| *node_id);
    let is_voter = |node_id: &i32| opened.quorum.members().voters().any(|voter| voter.node_id == *node_id);
    let strangers: Vec<i32> = voters.filter(|node_id| !is_voter(node_id)).collect();
    (!strangers.is_empty()).then(|| {
        format!(
            "controller.quorum.voters names the nodes {strangers:?}, which do not vote in the quorum that this data directory \
             belongs to: they will when they have joined it, with empty data directories"
        )
    })
}

/// Recovers what the data directory holds.
fn recover(
    config: &BrokerConfig,
    opened: OpenedDirectory,
    options: NodeOptions,
    root: &Path,
    clock: &Clock,
) -> Result<Node, String> {
    let mut io = |operation: DiskOp| files::execute(root, &operation);
    let shards = options.shards;
    Node::recover_opened(&mut io, opened, options, clock.now(), sys::random()).map_err(|error| match error {
        RecoverError::Partitions(RecoveryError::Disk { error: DiskError::NoSpace, .. }) => format!(
            "{error}: the journals of {shards} shards need {} MiB; free some space in {}, or lower \
             millstream.journal.bytes",
            (config.journal_bytes * shards as u64).div_ceil(1 << 20),
            root.display()
        ),
        _ => error.to_string(),
    })
}

/// Free space below which produce requests are refused, in bytes.
pub fn free_space_floor(config: &BrokerConfig, space: &Space) -> u64 {
    let share = FREE_SPACE_FLOOR_BYTES.min(space.total_bytes / FREE_SPACE_FLOOR_SHARE);
    config.free_space_floor_bytes.unwrap_or(share)
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

/// Has the controller register the broker and unfence it; returns its epoch, or none where the process is told to stop
/// meanwhile.
fn register(
    controller: &ControllerHandle,
    clock: &Clock,
    mut registration: Registration,
) -> Result<Option<i64>, String> {
    let mut request = registration.request();
    loop {
        let response = ask(controller, request)?;
        request = match registration.answered(clock.elapsed(), response) {
            Step::Ask(request) => request,
            Step::Rest { why } => {
                super::info("serve", &format!("{why}; trying again"));
                if sys::wait_for_stop_signal(REGISTER_AGAIN_AFTER) {
                    return Ok(None);
                }
                registration.request()
            }
            Step::Done { epoch } => return Ok(Some(epoch)),
            Step::Refused { why } => return Err(why),
        };
    }
}

/// Has the controller decide, and waits until every shard has applied it.
fn ask(controller: &ControllerHandle, request: ControllerRequest) -> Result<ControllerResponse, String> {
    let (reply, answer) = channel();
    let gone = || "the controller has ended".to_owned();
    controller.send(ToController::Ask { request, reply }).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())
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

/// Where it listens, as `listeners` would say it: for clients, or where there are none, for nodes.
fn listener_names(config: &BrokerConfig, addresses: &[SocketAddr]) -> Vec<String> {
    if let (false, Some(listener)) = (config.quorum.roles.is_broker, &config.quorum.controller_listener) {
        return vec![format!("{}://{}:{}", listener.name, listener.host, listener.port)];
    }
    let name = |(listener, address): (&crate::config::Listener, &SocketAddr)| format!("{}://{address}", listener.name);
    config.listeners.iter().zip(addresses).map(name).collect()
}

fn ready_line(config: &BrokerConfig, addresses: &[SocketAddr], shards: usize, recovery: Duration) -> String {
    let what = match shards {
        0 => "controller".to_owned(),
        1 => "1 shard".to_owned(),
        more => format!("{more} shards"),
    };
    format!(
        "millstream {} ready: {}, node {}, {what}, data in {}, recovered in {} ms",
        env!("CARGO_PKG_VERSION"),
        listener_names(config, addresses).join(", "),
        config.node_id,
        config.data_directory.display(),
        recovery.as_millis()
    )
}

/// Tells the cluster that this broker is about to stop (`controlled.shutdown.enable`): it leads nothing any more, and clients
/// hear so from it before it is gone. Where nobody decides it stops without. A second signal ends the process at once.
fn leave(controller: &ControllerHandle, node_id: i32, epoch: i64) {
    let (reply, answer) = channel();
    let request = ControllerRequest::BrokerHeartbeat {
        node_id,
        epoch,
        // It is not to be unfenced by this.
        applied_offset: 0,
        want_fence: false,
        want_shutdown: true,
    };
    if controller.send(ToController::Ask { request, reply }).is_err() {
        return;
    }
    let deadline = Instant::now() + LEAVE_MAX;
    while matches!(answer.try_recv(), Err(TryRecvError::Empty)) {
        if Instant::now() >= deadline {
            super::warn("serve", "the controller was not told in time that this broker stops");
            return;
        }
        if sys::wait_for_stop_signal(Duration::from_millis(1)) {
            sys::exit_at_once(0);
        }
    }
}

/// Lets the shards answer what is under way, and then marks the data directory as one that was shut down cleanly. A second
/// signal ends the process at once.
fn stop(handles: &[ShardHandle], reports: &[Receiver<Report>], controller: &ControllerHandle, mark: DiskOp) {
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
    if running.is_empty() && !is_marked(controller, mark, deadline) {
        super::warn("serve", "the clean stop could not be noted: the next start may take it for a crash");
    }
    // Executors are not unwound: everything they had to do is done.
    sys::exit_at_once(0);
}

/// Has the controller's thread, which has nothing else to do any more, mark the data directory. Whether it has by then.
fn is_marked(controller: &ControllerHandle, mark: DiskOp, deadline: Instant) -> bool {
    let (reply, marked) = channel();
    if controller.send(ToController::End { last: mark, reply }).is_err() {
        return false;
    }
    loop {
        match marked.try_recv() {
            Ok(result) => return result.is_ok(),
            Err(TryRecvError::Disconnected) => return false,
            Err(TryRecvError::Empty) if Instant::now() >= deadline => return false,
            Err(TryRecvError::Empty) => {}
        }
        if sys::wait_for_stop_signal(Duration::from_millis(1)) {
            sys::exit_at_once(0);
        }
    }
}
