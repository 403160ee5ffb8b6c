//! A tiny HTTP server for `/metrics` and `/healthz`: one request a connection, everything bounded.
//!
//! It must answer when the shards do not, so it runs on threads of its own and asks the shards through their mailboxes.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::Inbound;
use super::executor::ShardHandle;
use super::memory::MemoryBudget;
use super::process;
use crate::metrics;

/// The longest request head, in bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Connections served at a time; more are closed at once.
const CONNECTIONS_MAX: usize = 8;
/// How long a client may take to send its request, and each piece of the response to leave.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the shards may take to answer. A shard that takes longer to come to a turn is not healthy.
const SHARDS_TIMEOUT: Duration = Duration::from_secs(3);
/// How long accepting rests after an error, such as too many open files.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Metrics,
    Health,
}

/// Why a request gets no answer but an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    BadRequest,
    NotFound,
    MethodNotAllowed,
    TooLarge,
}

impl Refusal {
    fn status(self) -> &'static str {
        match self {
            Refusal::BadRequest => "400 Bad Request",
            Refusal::NotFound => "404 Not Found",
            Refusal::MethodNotAllowed => "405 Method Not Allowed",
            Refusal::TooLarge => "431 Request Header Fields Too Large",
        }
    }
}

/// What is asked for its health.
#[derive(Debug)]
pub struct Node {
    /// The shards of the process.
    pub shards: Vec<ShardHandle>,
    /// The process is told to stop.
    pub is_stopping: AtomicBool,
    /// The process's memory.
    pub memory: Arc<MemoryBudget>,
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
    let (status, body) = match request {
        Err(refusal) => (refusal.status(), format!("{}\n", refusal.status())),
        Ok(Request::Metrics) => ("200 OK", metrics_text(node)),
        Ok(Request::Health) => match unhealthy(node) {
            None => ("200 OK", "ok\n".to_owned()),
            Some(reason) => ("503 Service Unavailable", format!("{reason}\n")),
        },
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

fn metrics_text(node: &Node) -> String {
    let answers = ask(&node.shards, Inbound::Samples);
    let shards: Vec<_> =
        (0..).zip(answers).filter_map(|(index, scrape)| Some((usize::to_string(&index), scrape?))).collect();
    let mut process = process::scrape(shards.len());
    node.memory.samples(&mut process.samples);
    metrics::render(&process, &shards)
}

/// Why this node should get no traffic, if so.
fn unhealthy(node: &Node) -> Option<String> {
    if node.is_stopping.load(Ordering::Relaxed) {
        return Some("shutting down".to_owned());
    }
    let answers = ask(&node.shards, Inbound::Ping);
    let silent: Vec<String> =
        (0..).zip(&answers).filter(|(_, answer)| answer.is_none()).map(|(index, _)| usize::to_string(&index)).collect();
    (!silent.is_empty()).then(|| {
        let plural = if silent.len() == 1 { "" } else { "s" };
        format!("shard{plural} {} did not come to a turn within {} s", silent.join(", "), SHARDS_TIMEOUT.as_secs())
    })
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

/// Understands a request once its head is complete; `None` before.
fn parse(head: &[u8]) -> Result<Option<Request>, Refusal> {
    let end = head.windows(4).position(|window| window == b"\r\n\r\n");
    if end.unwrap_or(head.len()) > HEAD_BYTES_MAX {
        return Err(Refusal::TooLarge);
    }
    let Some(end) = end else { return Ok(None) };
    let head = std::str::from_utf8(&head[..end]).map_err(|_| Refusal::BadRequest)?;
    let mut line = head.lines().next().unwrap_or_default().split(' ');
    let (method, target, version) = (line.next(), line.next(), line.next());
    if line.next().is_some() || !version.is_some_and(|version| version.starts_with("HTTP/1.")) {
        return Err(Refusal::BadRequest);
    }
    if method != Some("GET") {
        return Err(Refusal::MethodNotAllowed);
    }
    match target.unwrap_or_default().split('?').next() {
        Some("/metrics") => Ok(Some(Request::Metrics)),
        Some("/healthz") => Ok(Some(Request::Health)),
        _ => Err(Refusal::NotFound),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Kind, Sample, Scrape};

    #[test]
    fn requests_are_understood_when_they_are_complete() {
        let whole = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]), Ok(None));
        }
        assert_eq!(parse(whole), Ok(Some(Request::Metrics)));
        assert_eq!(parse(b"GET /healthz?x=1 HTTP/1.0\r\n\r\n"), Ok(Some(Request::Health)));
        assert_eq!(parse(b"POST /metrics HTTP/1.1\r\n\r\n"), Err(Refusal::MethodNotAllowed));
        assert_eq!(parse(b"GET / HTTP/1.1\r\n\r\n"), Err(Refusal::NotFound));
        for broken in
            ["\r\n\r\n", "GET /metrics\r\n\r\n", "GET /metrics HTTP/1.1 x\r\n\r\n", "GET /metrics HTTP/2\r\n\r\n"]
        {
            assert_eq!(parse(broken.as_bytes()), Err(Refusal::BadRequest), "{broken:?}");
        }
        assert_eq!(parse(b"GET /\xff HTTP/1.1\r\n\r\n"), Err(Refusal::BadRequest));
        assert_eq!(parse(&[b'a'; HEAD_BYTES_MAX]), Ok(None));
        assert_eq!(parse(&[b'a'; HEAD_BYTES_MAX + 1]), Err(Refusal::TooLarge));
    }

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
        let node =
            Arc::new(Node { shards, is_stopping: AtomicBool::new(false), memory: Arc::new(MemoryBudget::for_tests()) });
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
        node.is_stopping.store(true, Ordering::Relaxed);
        let health = get(port, "/healthz");
        assert!(health.starts_with("HTTP/1.1 503 ") && health.ends_with("\nshutting down\n"), "{health}");
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
