//! One blocking connection to a broker.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use bytes::Bytes;

/// The largest response that is taken.
const RESPONSE_BYTES_MAX: usize = 256 << 20;
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Why a run ended early.
#[derive(Debug)]
pub enum BenchError {
    /// The broker cannot be reached, or the connection broke.
    Connection(String),
    /// The broker answered with this error code.
    Broker(&'static str, i16),
    /// A response is shorter than its own fields say.
    Truncated,
    /// The topic exists with fewer partitions than asked for.
    Partitions { topic: String, wanted: i32, found: i32 },
    /// There is nothing to consume.
    Empty(String),
}

impl std::fmt::Display for BenchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BenchError::Connection(why) => write!(f, "{why}"),
            BenchError::Broker(what, code) => write!(f, "{what}: the broker answered with Kafka error {code}"),
            BenchError::Truncated => write!(f, "a response ended too early"),
            BenchError::Partitions { topic, wanted, found } => {
                write!(f, "topic {topic} has {found} partitions, {wanted} are needed: use another --topic")
            }
            BenchError::Empty(topic) => write!(f, "topic {topic} holds no records"),
        }
    }
}

impl From<std::io::Error> for BenchError {
    fn from(error: std::io::Error) -> BenchError {
        BenchError::Connection(error.to_string())
    }
}

impl From<bytes::TryGetError> for BenchError {
    fn from(_: bytes::TryGetError) -> BenchError {
        BenchError::Truncated
    }
}

/// One blocking connection.
pub struct Connection {
    stream: TcpStream,
}

impl Connection {
    /// Connects to `host:port`.
    pub fn open(address: &str) -> Result<Connection, BenchError> {
        let unreachable = |why: String| BenchError::Connection(format!("cannot connect to {address}: {why}"));
        let target = address
            .to_socket_addrs()
            .map_err(|error| unreachable(error.to_string()))?
            .next()
            .ok_or_else(|| unreachable("the name has no address".to_string()))?;
        let stream = TcpStream::connect_timeout(&target, TIMEOUT).map_err(|error| unreachable(error.to_string()))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Connection { stream })
    }

    /// A second handle, so that one thread sends while another receives.
    pub fn split(&self) -> Result<Connection, BenchError> {
        Ok(Connection { stream: self.stream.try_clone()? })
    }

    /// Sends a whole request.
    pub fn send(&mut self, request: &[u8]) -> Result<(), BenchError> {
        Ok(self.stream.write_all(request)?)
    }

    /// Receives one response without its length, into `buffer`'s memory.
    pub fn receive_into(&mut self, buffer: &mut Vec<u8>) -> Result<(), BenchError> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > RESPONSE_BYTES_MAX {
            return Err(BenchError::Connection(format!("a response of {length} bytes")));
        }
        buffer.resize(length, 0);
        Ok(self.stream.read_exact(buffer)?)
    }

    /// Sends a request and waits for its response.
    pub fn call(&mut self, request: Bytes) -> Result<Bytes, BenchError> {
        self.send(&request)?;
        let mut buffer = Vec::new();
        self.receive_into(&mut buffer)?;
        Ok(Bytes::from(buffer))
    }
}
