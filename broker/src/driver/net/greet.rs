//! Connections by which other nodes come: the first frame says so. They leave the clients' here, and go to the shard that
//! they mean.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;

use super::super::sys;
use crate::metrics::{Kind, Sample};
use crate::peer::stream::greeting::{Addressee, Answer, Hello, Reject};
use crate::shard::ShardIndex;

/// How long a connection that the limits do not count may take to say that it is a node's.
pub(super) const GREETING_MAX: Duration = Duration::from_secs(1);
/// Refusals are not told more often than this.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Where other nodes come, and whom they must mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerOptions {
    /// The place in the configuration of the listener that `inter.broker.listener.name` names.
    pub listener: usize,
    /// This node.
    pub addressee: Addressee,
}

/// A connection that another node has opened.
#[derive(Debug)]
pub struct Greeting {
    /// Its address.
    pub peer: SocketAddr,
    /// The listener that it came by.
    pub listener: usize,
    /// The connection.
    pub stream: TcpStream,
    /// Its first frame, without its length.
    pub hello: Bytes,
    /// More has come, which is not to be before the answer.
    pub has_more: bool,
}

/// What became of greetings.
#[derive(Debug, Default)]
pub struct Greeter {
    taken: u64,
    refused: u64,
    told_at: Option<Duration>,
    untold: u64,
}

impl Greeter {
    /// The shard that a greeting means, to which its connection is handed over. One that means nobody here is closed, after
    /// it was said why as far as that is known.
    pub fn address(&mut self, now: Duration, options: Option<PeerOptions>, greeting: &Greeting) -> Option<ShardIndex> {
        match addressed(options, greeting) {
            Ok(shard) => {
                self.taken += 1;
                Some(shard)
            }
            Err(Refusal { answer, why }) => {
                self.refused += 1;
                if let Some(answer) = answer {
                    // Nothing else is in the way of it. Whoever does not get it is no worse off.
                    let bytes = Answer::Reject(answer).to_bytes();
                    let _ = sys::send_slices(&greeting.stream, &[std::io::IoSlice::new(&bytes)], false);
                }
                self.tell(now, greeting.peer, &why);
                None
            }
        }
    }

    fn tell(&mut self, now: Duration, peer: SocketAddr, why: &str) {
        if self.told_at.is_some_and(|at| now < at + TOLD_EVERY) {
            self.untold += 1;
            return;
        }
        let others = match std::mem::take(&mut self.untold) {
            0 => String::new(),
            others => format!(" ({others} others were refused since the last that was told)"),
        };
        self.told_at = Some(now);
        super::super::warn("net", &format!("closing {peer}, which greets as a node does: {why}{others}"));
    }

    /// Counters for a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        let mut counter = |name, help, value: u64| {
            samples.push(Sample { name, help, kind: Kind::Counter, labels: Vec::new(), value: value as f64 });
        };
        let help = "Connections of other nodes that were handed to the shard that they mean.";
        counter("millstream_peer_greetings_total", help, self.taken);
        let help = "Connections that greeted as nodes do, and were closed: they meant nobody here, or came by another listener.";
        counter("millstream_peer_greetings_refused_total", help, self.refused);
    }
}

struct Refusal {
    answer: Option<Reject>,
    why: String,
}

fn addressed(options: Option<PeerOptions>, greeting: &Greeting) -> Result<ShardIndex, Refusal> {
    let silently = |why: String| Refusal { answer: None, why };
    let Some(PeerOptions { addressee, .. }) = options.filter(|options| options.listener == greeting.listener) else {
        return Err(silently("this is not the listener that inter.broker.listener.name names".to_owned()));
    };
    let hello = Hello::decode(&greeting.hello).map_err(silently)?;
    if greeting.has_more {
        return Err(silently(format!("node {} does not wait for an answer", hello.node)));
    }
    let shard = hello.shard_of(addressee).map_err(|(why, text)| Refusal {
        answer: Some(Reject { why, shards: addressee.shards, broker_epoch: -1, text: text.clone() }),
        why: text,
    })?;
    Ok(shard as ShardIndex)
}
