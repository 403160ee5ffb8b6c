//! One connection to a broker: blocking, for the calls around a run, and non-blocking, for the load itself.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use bytes::Bytes;
use rustix::net::sockopt;

use crate::error::BenchError;

/// The largest response that is taken.
const RESPONSE_BYTES_MAX: usize = 256 << 20;
/// How long an answer outside the load may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Memory that a non-blocking connection reads into at first; it grows to the largest response that comes.
const INBOX_BYTES: usize = 16 << 10;

/// Where and how to connect.
#[derive(Clone, Debug)]
pub struct Target {
    /// `host:port`
    pub address: String,
    /// TCP congestion control of the client's sockets; `None` leaves the system's.
    pub congestion: Option<String>,
}

impl Target {
    /// Another broker, to be connected to in the same way.
    pub fn at(&self, address: &str) -> Target {
        Target { address: address.to_string(), congestion: self.congestion.clone() }
    }

    fn open(&self) -> Result<TcpStream, BenchError> {
        let address = &self.address;
        let unreachable = |why: String| BenchError::Connection(format!("cannot connect to {address}: {why}"));
        let target = address
            .to_socket_addrs()
            .map_err(|error| unreachable(error.to_string()))?
            .next()
            .ok_or_else(|| unreachable("the name has no address".to_string()))?;
        let stream = TcpStream::connect_timeout(&target, TIMEOUT).map_err(|error| unreachable(error.to_string()))?;
        stream.set_nodelay(true)?;
        if let Some(name) = &self.congestion {
            sockopt::set_tcp_congestion(&stream, name).map_err(|error| {
                BenchError::Options(format!("congestion control {name} cannot be set: {}", std::io::Error::from(error)))
            })?;
        }
        Ok(stream)
    }
}

/// A blocking connection: one call at a time.
pub struct Connection {
    stream: TcpStream,
}

impl Connection {
    pub fn open(target: &Target) -> Result<Connection, BenchError> {
        let stream = target.open()?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Connection { stream })
    }

    /// Sends a request and waits for its response, which comes without its length.
    pub fn call(&mut self, request: Bytes) -> Result<Bytes, BenchError> {
        self.stream.write_all(&request)?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut response = vec![0; response_bytes(length)?];
        self.stream.read_exact(&mut response)?;
        Ok(Bytes::from(response))
    }
}

fn response_bytes(length: [u8; 4]) -> Result<usize, BenchError> {
    let length = u32::from_be_bytes(length) as usize;
    if length > RESPONSE_BYTES_MAX {
        return Err(BenchError::Response(format!("a response of {length} bytes")));
    }
    Ok(length)
}

/// A non-blocking connection: bytes out as the kernel takes them, whole responses in, through one buffer that is kept.
pub struct Socket {
    stream: TcpStream,
    inbox: Inbox,
}

impl Socket {
    pub fn open(target: &Target) -> Result<Socket, BenchError> {
        let stream = target.open()?;
        stream.set_nonblocking(true)?;
        Ok(Socket { stream, inbox: Inbox::new() })
    }

    /// For the poller only.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Writes what the kernel takes now; returns how many bytes that was, 0 when it takes none.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, BenchError> {
        match self.stream.write(bytes) {
            Ok(written) => Ok(written),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads once; `false` when nothing is there. Ask for the responses before reading again.
    pub fn read(&mut self) -> Result<bool, BenchError> {
        match self.stream.read(self.inbox.space()?) {
            Ok(0) => Err(BenchError::Connection("the broker closed the connection".to_string())),
            Ok(read) => {
                self.inbox.end += read;
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The next whole response that has been read, without its length.
    pub fn response(&mut self) -> Result<Option<&[u8]>, BenchError> {
        self.inbox.take()
    }
}

/// Bytes that came and were not taken yet: `bytes[start..end]`.
struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    fn new() -> Inbox {
        Inbox { bytes: vec![0; INBOX_BYTES], start: 0, end: 0 }
    }

    /// The length of the response that begins at `start`, with its prefix, once that is known.
    fn next_bytes(&self) -> Result<Option<usize>, BenchError> {
        match self.bytes[self.start..self.end].first_chunk::<4>() {
            Some(length) => Ok(Some(4 + response_bytes(*length)?)),
            None => Ok(None),
        }
    }

    /// Room to read into: at least for the rest of the response that has begun.
    fn space(&mut self) -> Result<&mut [u8], BenchError> {
        let wanted = self.next_bytes()?.unwrap_or(4);
        if self.start + wanted.max(INBOX_BYTES / 2) > self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if wanted > self.bytes.len() {
                self.bytes.resize(wanted.next_power_of_two(), 0);
            }
        }
        Ok(&mut self.bytes[self.end..])
    }

    fn take(&mut self) -> Result<Option<&[u8]>, BenchError> {
        let Some(wanted) = self.next_bytes()?.filter(|wanted| self.start + wanted <= self.end) else {
            if self.start == self.end {
                (self.start, self.end) = (0, 0);
            }
            return Ok(None);
        };
        let from = self.start + 4;
        self.start += wanted;
        Ok(Some(&self.bytes[from..self.start]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(fill: u8, bytes: usize) -> Vec<u8> {
        let mut response = (bytes as u32).to_be_bytes().to_vec();
        response.resize(4 + bytes, fill);
        response
    }

    /// Responses of all sizes arrive whole and in order, however the bytes are cut.
    #[test]
    fn responses_come_whole_however_they_are_cut() {
        let sizes = [0, 1, 60, 5_000, 40_000, 3, 200_000, 17, 16_380, 16_384];
        let stream: Vec<u8> = sizes.iter().enumerate().flat_map(|(at, &bytes)| response(at as u8, bytes)).collect();
        for piece in [1, 3, 7, 1_000, 16_384, usize::MAX] {
            let (mut inbox, mut rest, mut taken) = (Inbox::new(), stream.as_slice(), Vec::new());
            while !rest.is_empty() {
                let space = inbox.space().unwrap();
                let read = piece.min(space.len()).min(rest.len());
                assert!(read > 0, "there is always room to read into");
                space[..read].copy_from_slice(&rest[..read]);
                inbox.end += read;
                rest = &rest[read..];
                while let Some(whole) = inbox.take().unwrap() {
                    assert!(whole.iter().all(|byte| *byte == taken.len() as u8));
                    taken.push(whole.len());
                }
            }
            assert_eq!(taken, sizes);
        }
    }

    #[test]
    fn a_response_of_absurd_length_is_refused() {
        let mut inbox = Inbox::new();
        inbox.space().unwrap()[..4].copy_from_slice(&[0x7f, 0, 0, 0]);
        inbox.end = 4;
        assert!(inbox.take().is_err());
    }
}
