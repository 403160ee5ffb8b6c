//! The thin driver: glommio executors, sockets, files, timers, threads. glommio is named nowhere else.
//!
//! One executor a core runs one [`crate::shard::Shard`] ([`executor`]). Its connections ([`net`]) and disk operations
//! ([`disk`]) share an io_uring of its own ([`ring`]); what they bring become events in the shard's [`inbox`]; other threads
//! (other shards, the [`pool`], the [`controller`], [`http`]) leave theirs in its [`mailbox`]. A [`turn`] takes them all,
//! calls the shard, and executes the effects; what is for other threads leaves through the [`outbox`]. Turns follow each
//! other while there is something to do, for a while after that ([`patience`]), and then the executor sleeps until the ring
//! or another thread wakes it, or something is due.

#![warn(missing_docs)]

pub mod allocator;
pub mod clock;
pub mod control_group;
pub mod controller;
pub mod disk;
pub mod executor;
pub mod files;
pub mod frames;
pub mod http;
pub mod inbox;
mod limits;
pub mod mailbox;
pub mod memory;
pub mod meter;
pub mod names;
pub mod net;
pub mod open_files;
pub mod outbox;
pub mod output;
pub mod patience;
pub mod peers;
pub mod pool;
pub mod preflight;
pub mod process;
pub mod put_off;
pub mod ring;
pub mod serve;
pub mod streams;
pub mod sys;
pub mod turn;
pub mod watchdog;

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use bytes::Bytes;
use millstream_storage::FilePath;

use crate::group::GroupRow;
use crate::metrics::Scrape;
use crate::shard::{Event, GroupCursor, PartitionRow, Piece};

/// What other threads say to a shard's executor.
#[derive(Debug)]
pub enum Inbound {
    /// Something happened that concerns the shard itself.
    Event(Event),
    /// A thread of the pool has opened a file that the disk may keep.
    Opened {
        /// That of the [`open_files::OpenFiles`] before: a name may have changed since.
        generation: u64,
        /// Below the data directory.
        path: FilePath,
        /// Opened for reads through the page cache.
        file: Arc<File>,
    },
    /// The same for direct writes, which wait for it.
    OpenedDirect {
        /// As in [`Inbound::Opened`].
        generation: u64,
        /// Below the data directory.
        path: FilePath,
        /// Or why it could not be opened.
        result: io::Result<Arc<File>>,
    },
    /// Somebody wants the shard's samples.
    Samples(SyncSender<Scrape>),
    /// Somebody wants a piece of the list of partitions.
    Partitions {
        /// Where the last piece ended; 0 at first.
        from: usize,
        /// Who waits for it.
        reply: SyncSender<Piece<PartitionRow, usize>>,
    },
    /// Somebody wants a piece of the list of groups.
    Groups {
        /// Where the last piece ended.
        from: GroupCursor,
        /// Who waits for it.
        reply: SyncSender<Piece<GroupRow, GroupCursor>>,
    },
    /// Somebody wants to know whether the shard comes to a turn.
    Ping(SyncSender<()>),
    /// A connection on which another node's shard has greeted this one.
    Adopt {
        /// The connection.
        stream: TcpStream,
        /// What was read of it: the greeting, without its length. Nothing follows it until it is answered.
        hello: Bytes,
    },
    /// A name was looked up that the shard dials.
    Named {
        /// With its port.
        name: names::Name,
        /// Its address, if it has one.
        address: Option<SocketAddr>,
    },
    /// Begin to listen on the sockets.
    Listen,
    /// Stop accepting work, finish what is under way, and say so.
    ShutDown,
}

/// One line of the log, on stderr.
pub fn log(level: &str, target: &str, message: &str) {
    eprintln!("{level} {target} {message}");
}

/// Logs something that went wrong and was survived.
pub fn warn(target: &str, message: &str) {
    log("WARN", target, message);
}

/// Logs something worth knowing.
pub fn info(target: &str, message: &str) {
    log("INFO", target, message);
}
