//! A tiny HTTP server for `/metrics`, `/healthz` and a page for people with its data: one request a connection,
//! everything bounded.
//!
//! It must answer when the shards do not, so it runs on threads of its own and asks the shards through their mailboxes.
//! The page (`/`, `/page.css`, `/page.js`) is embedded in the program and loads nothing from elsewhere; it asks for
//! `/status.json` ([`status`]), `/partitions.json` and `/groups.json` ([`overview`]) every few seconds.

mod overview;
mod request;
mod status;

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::Inbound;
use super::controller::ControllerHandle;
use super::executor::ShardHandle;
use super::memory::MemoryBudget;
use super::{process, sys};
use crate::controller::REQUESTS_HELD_MAX;
use crate::json::Json;
use crate::metrics::{self, Kind, Sample, Scrape};
use overview::Overviews;
pub use request::{Refusal, Request, parse};

/// Connections served at a time; more are closed at once.
const CONNECTIONS_MAX: usize = 8;
/// How long a client may take to send its request, and each piece of the response to leave.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the shards may take to answer. A shard that takes longer to come to a turn is not healthy.
const SHARDS_TIMEOUT: Duration = Duration::from_secs(3);
/// What the page may load and do: only what comes from this port.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                                       img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// How long accepting rests after an error, such as too many open files.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// What does not change while the process runs.
#[derive(Clone, Debug)]
pub struct About {
    /// `node.id`
    pub node_id: i32,
    /// Where clients connect: `PLAINTEXT://127.0.0.1:9092`.
    pub listeners: Vec<String>,
    /// Where the data is.
    pub data_directory: PathBuf,
    /// Free space below which produce requests are refused, in bytes.
    pub free_space_floor_bytes: u64,
}

impl About {
    #[cfg(test)]
    fn for_tests() -> About {
        About {
            node_id: 1,
            listeners: vec!["PLAINTEXT://127.0.0.1:9092".to_owned()],
            data_directory: PathBuf::from("/"),
            free_space_floor_bytes: 0,
        }
    }
}

/// What is asked for its health and shown.
#[derive(Debug)]
pub struct Node {
    shards: Vec<ShardHandle>,
    is_stopping: AtomicBool,
    memory: Arc<MemoryBudget>,
    controller: ControllerHandle,
    about: About,
    overviews: Overviews,
}

impl Node {
    /// A process with these shards.
    pub fn new(
        shards: Vec<ShardHandle>,
        memory: Arc<MemoryBudget>,
        controller: ControllerHandle,
        about: About,
    ) -> Node {
        let is_stopping = AtomicBool::new(false);
        Node { shards, is_stopping, memory, controller, about, overviews: Overviews::default() }
    }

    /// The process is told to stop: it is not healthy any more.
    pub fn stops(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }
}

/// Serves on a listening socket for as long as the process lives.
pub fn start(listener: TcpListener, node: Arc<Node>) -> io::Result<()> {
    let serving = Arc::new(AtomicUsize::new(0));
    let accept = move || {
        loop {
            let Ok((stream, _)) = listener.accept() else {
                std::thread::sleep(ACCEPT_REST);
                continue;
            };
            if serving.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
                serving.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let (node, counter) = (Arc::clone(&node), Arc::clone(&serving));
            let serve = move || {
                // A client that goes away in the middle is its own affair.
                let _ = answer(stream, &node);
                counter.fetch_sub(1, Ordering::Relaxed);
            };
            if std::thread::Builder::new().name("http-client".to_owned()).spawn(serve).is_err() {
                serving.fetch_sub(1, Ordering::Relaxed);
            }
        }
    };
    std::thread::Builder::new().name("http".to_owned()).spawn(accept).map(drop)
}

fn answer(mut stream: TcpStream, node: &Node) -> io::Result<()> {
    stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let deadline = Instant::now() + CLIENT_TIMEOUT;
    let mut head = Vec::new();
    let request = loop {
        match parse(&head) {
            Ok(Some(request)) => break Ok(request),
            Ok(None) => {}
            Err(refusal) => break Err(refusal),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        stream.set_read_timeout(Some(left))?;
        let mut buffer = [0; 1024];
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            bytes => head.extend(&buffer[..bytes]),
        }
    };
    let Response { status, content_type, body } = respond(request, node);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nContent-Security-Policy: {CONTENT_SECURITY_POLICY}\r\n\
         X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

/// What is sent.
struct Response {
    status: &'static str,
    content_type: &'static str,
    body: Cow<'static, str>,
}

fn respond(request: Result<Request, Refusal>, node: &Node) -> Response {
    let ok = |content_type, body| Response { status: "200 OK", content_type, body };
    let text = |status, body: String| Response { status, content_type: "text/plain", body: body.into() };
    let data = |json: Json| ok("application/json", json.to_string().into());
    match request {
        Err(refusal) => text(refusal.status(), format!("{}\n", refusal.status())),
        Ok(Request::Metrics) => ok("text/plain; version=0.0.4", metrics_text(node).into()),
        Ok(Request::Health) => match unhealthy(node, ask(&node.shards, Inbound::Ping)) {
            None => text("200 OK", "ok\n".to_owned()),
            Some(reason) => text("503 Service Unavailable", format!("{reason}\n")),
        },
        Ok(Request::Page) => ok("text/html", include_str!("http/page.html").into()),
        Ok(Request::Style) => ok("text/css", include_str!("http/page.css").into()),
        Ok(Request::Script) => ok("text/javascript", include_str!("http/page.js").into()),
        Ok(Request::Status) => data(status_json(node)),
        Ok(Request::Partitions(selection)) => data(node.overviews.get(&node.shards).partitions(&selection)),
        Ok(Request::Groups(selection)) => data(node.overviews.get(&node.shards).groups(&selection)),
    }
}

fn status_json(node: &Node) -> Json {
    let answers = ask(&node.shards, Inbound::Samples);
    let trouble = unhealthy(node, answers.iter().map(|answer| answer.as_ref().map(drop)).collect());
    let process = process_scrape(node, answers.iter().flatten().count());
    status::status(&node.about, trouble.as_deref(), &process, &answers)
}

fn metrics_text(node: &Node) -> String {
    let answers = ask(&node.shards, Inbound::Samples);
    let shards: Vec<_> =
        (0..).zip(answers).filter_map(|(index, scrape)| Some((usize::to_string(&index), scrape?))).collect();
    metrics::render(&process_scrape(node, shards.len()), &shards)
}

/// What the process shows of itself; `shards`: how many of them answered.
fn process_scrape(node: &Node, shards: usize) -> Scrape {
    let mut process = process::scrape(shards);
    node.memory.samples(&mut process.samples);
    let mut sample = |name, help, bytes: u64| {
        process.samples.push(Sample { name, help, kind: Kind::Gauge, labels: Vec::new(), value: bytes as f64 });
    };
    if let Ok(space) = sys::space(&node.about.data_directory) {
        sample("millstream_data_free_bytes", "Free space of the data directory's file system.", space.free_bytes);
        sample("millstream_data_total_bytes", "Size of the data directory's file system.", space.total_bytes);
    }
    let help = "Free space below which produce requests are refused.";
    sample("millstream_data_free_floor_bytes", help, node.about.free_space_floor_bytes);
    let standing = node.controller.standing();
    let mut gauge = |name, help, value| {
        process.samples.push(Sample { name, help, kind: Kind::Gauge, labels: Vec::new(), value });
    };
    let is_active = f64::from(u8::from(standing.is_active));
    gauge("millstream_controller_is_active", "1 where this node is the cluster's controller.", is_active);
    let help = "The node that leads the quorum of controllers, -1 while none is known.";
    gauge("millstream_quorum_leader", help, f64::from(standing.leader));
    gauge("millstream_quorum_term", "The newest term of the quorum that is known here.", standing.term as f64);
    let help = "The offset of the last metadata record that is known here to be committed.";
    gauge("millstream_metadata_offset", help, standing.offset as f64);
    let help = "Brokers that are registered in the cluster, as is known here.";
    gauge("millstream_brokers", help, standing.brokers as f64);
    let help = "Brokers that are registered and fenced: they lead nothing.";
    gauge("millstream_brokers_fenced", help, standing.fenced as f64);
    let help = "Partitions of the cluster that nobody leads, as is known here. Kafka: OfflinePartitionsCount.";
    gauge("millstream_partitions_offline", help, standing.offline_partitions as f64);
    let help = "1 while this node's broker has its lease: no controller has fenced it for its silence.";
    gauge("millstream_broker_has_lease", help, f64::from(u8::from(node.controller.has_lease())));
    let help = "Requests to the controller that were asked here and not answered.";
    gauge("millstream_controller_requests", help, standing.held as f64);
    let help = "How many of them there may be; beyond them a request is refused.";
    gauge("millstream_controller_requests_max", help, REQUESTS_HELD_MAX as f64);
    process
}

/// Why this node should get no traffic, if so. `answers`: which shards came to a turn.
fn unhealthy(node: &Node, answers: Vec<Option<()>>) -> Option<String> {
    if node.is_stopping.load(Ordering::Relaxed) {
        return Some("shutting down".to_owned());
    }
    let silent: Vec<String> =
        (0..).zip(&answers).filter(|(_, answer)| answer.is_none()).map(|(index, _)| usize::to_string(&index)).collect();
    (!silent.is_empty()).then(|| {
        let plural = if silent.len() == 1 { "" } else { "s" };
        format!("shard{plural} {} did not come to a turn within {} s", silent.join(", "), SHARDS_TIMEOUT.as_secs())
    })
}

/// Asks one shard; `None` if it gives no answer in time.
fn ask_one<T>(shard: &ShardHandle, deadline: Instant, question: impl FnOnce(SyncSender<T>) -> Inbound) -> Option<T> {
    let (sender, receiver) = sync_channel(1);
    shard.mailbox.push(question(sender));
    receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
}

/// Asks all shards at once: the answers in their order, `None` for those that give none in time.
fn ask<T>(shards: &[ShardHandle], question: impl Fn(SyncSender<T>) -> Inbound) -> Vec<Option<T>> {
    let replies: Vec<_> = shards
        .iter()
        .map(|shard| {
            let (sender, receiver) = sync_channel(1);
            shard.mailbox.push(question(sender));
            receiver
        })
        .collect();
    let deadline = Instant::now() + SHARDS_TIMEOUT;
    let answer = |reply: &std::sync::mpsc::Receiver<T>| {
        reply.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    };
    replies.iter().map(answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::clock::Clock;
    use crate::driver::controller;

    fn get(port: u16, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        write!(stream, "GET {path} HTTP/1.1\r\n\r\n").expect("sent");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("received");
        response
    }

    /// Nothing when the server has no place for another connection.
    fn try_get(port: u16, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        let mut response = String::new();
        let got = write!(stream, "GET {path} HTTP/1.1\r\n\r\n").and_then(|()| stream.read_to_string(&mut response));
        got.map_or(String::new(), |_| response)
    }

    fn serve(shards: Vec<ShardHandle>) -> (u16, Arc<Node>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let (controller, _inbox) = controller::prepare(Clock::start(), Vec::new(), 1).expect("nothing to listen on");
        let memory = Arc::new(MemoryBudget::for_tests());
        let node = Arc::new(Node::new(shards, memory, controller, About::for_tests()));
        start(listener, Arc::clone(&node)).expect("a thread");
        (port, node)
    }

    /// Shards that answer, each with a sample of its index.
    fn answering(count: usize) -> Vec<ShardHandle> {
        let shards: Vec<ShardHandle> = (0..count).map(|_| ShardHandle::default()).collect();
        for (index, shard) in shards.iter().enumerate() {
            let mailbox = Arc::clone(&shard.mailbox);
            std::thread::spawn(move || {
                let mut inbound = Vec::new();
                loop {
                    mailbox.drain(&mut inbound);
                    for item in inbound.drain(..) {
                        let sample = Sample {
                            name: "index",
                            help: "Which.",
                            kind: Kind::Gauge,
                            labels: Vec::new(),
                            value: index as f64,
                        };
                        let sent = match item {
                            Inbound::Samples(reply) => {
                                reply.try_send(Scrape { samples: vec![sample], ..Scrape::default() }).is_ok()
                            }
                            Inbound::Ping(reply) => reply.try_send(()).is_ok(),
                            other => panic!("the server does not send {other:?}"),
                        };
                        assert!(sent, "room for one");
                    }
                    std::thread::yield_now();
                }
            });
        }
        shards
    }

    #[test]
    fn every_shard_is_asked() {
        let (port, node) = serve(answering(2));
        let health = get(port, "/healthz");
        assert!(health.starts_with("HTTP/1.1 200 OK\r\n") && health.ends_with("\r\n\r\nok\n"), "{health}");
        let metrics = get(port, "/metrics");
        assert!(metrics.contains("# TYPE index gauge\nindex{shard=\"0\"} 0\nindex{shard=\"1\"} 1\n"), "{metrics}");
        assert!(get(port, "/elsewhere").starts_with("HTTP/1.1 404 "));
        let status = get(port, "/status.json");
        assert!(status.contains("\r\nContent-Type: application/json; charset=utf-8\r\n"), "{status}");
        assert!(status.contains("\"trouble\":null,") && status.contains("\"shards\":{\"index\":[0,1]}"), "{status}");
        node.stops();
        let health = get(port, "/healthz");
        assert!(health.starts_with("HTTP/1.1 503 ") && health.ends_with("\nshutting down\n"), "{health}");
    }

    #[test]
    fn the_page_loads_only_what_this_port_serves() {
        let (port, _) = serve(answering(1));
        let page = get(port, "/");
        assert!(page.contains("\r\nContent-Security-Policy: default-src 'none'; script-src 'self'; "), "{page}");
        let links = page.split(['"', '\'']).filter(|part| part.starts_with('/') && part.contains('.'));
        let links: Vec<&str> = links.collect();
        assert_eq!(links, ["/page.css", "/page.js"]);
        for (link, content_type) in links.iter().zip(["text/css", "text/javascript"]) {
            let part = get(port, link);
            assert!(part.starts_with("HTTP/1.1 200 OK\r\n"), "{part}");
            assert!(part.contains(&format!("\r\nContent-Type: {content_type}; charset=utf-8\r\n")), "{part}");
        }
    }

    #[test]
    fn lists_name_the_shards_that_do_not_answer() {
        let (port, _) = serve(vec![ShardHandle::default()]);
        let list = get(port, "/groups.json");
        assert!(list.contains("\"total\":0,") && list.ends_with("\"silent_shards\":[0],\"rows\":[]}"), "{list}");
    }

    #[test]
    fn a_silent_shard_makes_the_process_unhealthy() {
        let mut shards = answering(1);
        shards.push(ShardHandle::default());
        let (port, _) = serve(shards);
        let health = get(port, "/healthz");
        assert!(health.starts_with("HTTP/1.1 503 "), "{health}");
        assert!(health.ends_with("\nshard 1 did not come to a turn within 3 s\n"), "{health}");
        assert!(get(port, "/metrics").contains("\nindex{shard=\"0\"} 0\n"), "the others are shown");
    }

    #[test]
    fn slow_and_garbled_clients_keep_nobody_out_for_long() {
        let (port, _) = serve(answering(1));
        let mut garbled = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        garbled.write_all(&[0xff; 100]).and_then(|()| garbled.write_all(b"\r\n\r\n")).expect("sent");
        let mut response = String::new();
        garbled.read_to_string(&mut response).expect("received");
        assert!(response.starts_with("HTTP/1.1 400 "), "{response}");

        let slow: Vec<TcpStream> = (0..CONNECTIONS_MAX)
            .map(|_| {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
                stream.write_all(b"GET /metrics").expect("sent");
                stream
            })
            .collect();
        // They are cut off one by one: whoever comes after gets in, sooner or later.
        for mut stream in slow {
            assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "closed without an answer");
        }
        while !try_get(port, "/healthz").starts_with("HTTP/1.1 200 OK\r\n") {}
    }
}
