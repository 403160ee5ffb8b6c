//! A tiny HTTP server for `/metrics` and `/healthz`: one request a connection, everything bounded.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use super::Inbound;
use super::executor::ShardHandle;
use crate::metrics::{self, Sample};

/// The longest request head, in bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Connections served at a time; more are closed at once.
const CONNECTIONS_MAX: usize = 8;
/// How long a client may take to send its request, and each piece of the response to leave.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a shard may take to give its samples.
const SAMPLES_TIMEOUT: Duration = Duration::from_secs(1);
/// How long accepting rests after an error, such as too many open files.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// `/metrics`
    Metrics,
    /// `/healthz`
    Health,
}

/// Why a request gets no answer but an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not HTTP/1.
    BadRequest,
    /// Nothing is served under this path.
    NotFound,
    /// Only GET is served.
    MethodNotAllowed,
    /// Its head is too long.
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

/// Serves on a listening socket for as long as the process lives.
pub fn start(listener: TcpListener, shards: Vec<ShardHandle>) -> io::Result<()> {
    let shards = Arc::new(shards);
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
            let (shards, counter) = (Arc::clone(&shards), Arc::clone(&serving));
            let serve = move || {
                // A client that goes away in the middle is its own affair.
                let _ = answer(stream, &shards);
                counter.fetch_sub(1, Ordering::Relaxed);
            };
            if std::thread::Builder::new().name("http-client".to_owned()).spawn(serve).is_err() {
                serving.fetch_sub(1, Ordering::Relaxed);
            }
        }
    };
    std::thread::Builder::new().name("http".to_owned()).spawn(accept).map(drop)
}

fn answer(mut stream: TcpStream, shards: &[ShardHandle]) -> io::Result<()> {
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
        Ok(Request::Metrics) => ("200 OK", metrics::render(&samples(shards))),
        Ok(Request::Health) => {
            let silent = shards.len() - samples(shards).len();
            if silent == 0 {
                ("200 OK", "ok\n".to_owned())
            } else {
                ("503 Service Unavailable", format!("{silent} of {} shards do not answer\n", shards.len()))
            }
        }
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

/// The samples of every shard that answers in time, by its index.
fn samples(shards: &[ShardHandle]) -> Vec<(String, Vec<Sample>)> {
    let replies: Vec<_> = shards
        .iter()
        .map(|shard| {
            let (sender, receiver) = sync_channel(1);
            shard.mailbox.push(Inbound::Samples(sender));
            receiver
        })
        .collect();
    let deadline = Instant::now() + SAMPLES_TIMEOUT;
    let mut answered = Vec::new();
    for (index, reply) in replies.iter().enumerate() {
        if let Ok(samples) = reply.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            answered.push((index.to_string(), samples));
        }
    }
    answered
}

/// Understands a request once its head is complete; `None` before.
pub fn parse(head: &[u8]) -> Result<Option<Request>, Refusal> {
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
    use crate::metrics::Kind;

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

    #[test]
    fn every_shard_is_asked() {
        let shards = vec![ShardHandle::default(), ShardHandle::default()];
        for (index, shard) in shards.iter().enumerate() {
            let mailbox = Arc::clone(&shard.mailbox);
            std::thread::spawn(move || {
                let mut inbound = Vec::new();
                loop {
                    mailbox.drain(&mut inbound);
                    for item in inbound.drain(..) {
                        let Inbound::Samples(reply) = item else { panic!("only the server asks") };
                        let sample = Sample {
                            name: "index",
                            help: "Which.",
                            kind: Kind::Gauge,
                            labels: Vec::new(),
                            value: index as f64,
                        };
                        reply.try_send(vec![sample]).expect("room for one");
                    }
                    std::thread::yield_now();
                }
            });
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        start(listener, shards).expect("a thread");
        assert!(get(port, "/healthz").starts_with("HTTP/1.1 200 OK\r\n"));
        let metrics = get(port, "/metrics");
        assert!(metrics.ends_with("# TYPE index gauge\nindex{shard=\"0\"} 0\nindex{shard=\"1\"} 1\n"), "{metrics}");
        assert!(get(port, "/elsewhere").starts_with("HTTP/1.1 404 "));
    }

    #[test]
    fn a_silent_shard_makes_the_process_unhealthy() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        start(listener, vec![ShardHandle::default()]).expect("a thread");
        let response = get(port, "/healthz");
        assert!(response.starts_with("HTTP/1.1 503 ") && response.ends_with("1 of 1 shards do not answer\n"));
    }
}
