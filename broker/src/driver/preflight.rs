//! What must be true before the broker starts, each with one clear line that names the fix where it is not.

use std::fmt::{self, Display, Formatter};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::ring::Ring;
use super::sys::{self, PortUse};
use crate::config::{self, Listener};
use millstream_storage::BLOCK_BYTES;
use millstream_storage::block::Block;

/// The file, below the data directory, whose lock keeps a second process out.
const LOCK_FILE: &str = ".lock";
/// Rings of an executor.
const RINGS: u64 = 3;
/// Memory that glommio registers with each of an executor's rings: the least, for our own ring does the work.
pub const EXECUTOR_MEMORY_BYTES: usize = 64 << 10;
/// What an executor's rings and our own lock themselves, on older kernels.
const EXECUTOR_RINGS_BYTES: u64 = 192 << 10;
/// The file that a start writes to directly, below the data directory.
const PROBE_FILE: &str = ".probe";
/// How long a process that was killed may take to let go of its data directory and its ports: the kernel first ends what
/// its rings have under way.
pub const LAST_PROCESS_WAIT: Duration = Duration::from_secs(3);
/// How often it is tried meanwhile.
const LAST_PROCESS_RETRY: Duration = Duration::from_millis(10);
/// Open files below which a broker with a few hundred connections would fail.
const OPEN_FILES_MIN: u64 = 1024;

/// io_uring can be used.
pub fn check_io_uring() -> Result<(), String> {
    Ring::probe().map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::NOSYS) => {
            "io_uring is missing: the kernel is too old or built without it; Linux 5.13 or later is needed".to_owned()
        }
        Some(Errno::PERM | Errno::ACCESS) => "io_uring is forbidden: in a container, allow io_uring_setup, \
             io_uring_enter and io_uring_register in its seccomp profile; elsewhere set sysctl \
             kernel.io_uring_disabled=0"
            .to_owned(),
        Some(Errno::NOMEM) => memory_message(None),
        _ => format!("io_uring does not work: {error}"),
    })
}

/// The limit on locked memory is high enough for so many executors.
pub fn check_locked_memory(shards: usize) -> Result<(), String> {
    let limit = if sys::may_lock_memory() { None } else { sys::locked_memory_limit() };
    check_locked_memory_under(limit, shards)
}

fn check_locked_memory_under(limit: Option<u64>, shards: usize) -> Result<(), String> {
    let needed = shards as u64 * (RINGS * EXECUTOR_MEMORY_BYTES as u64 + EXECUTOR_RINGS_BYTES);
    match limit {
        Some(limit) if limit < needed => Err(memory_message(Some((limit, needed, shards)))),
        _ => Ok(()),
    }
}

fn memory_message(amounts: Option<(u64, u64, usize)>) -> String {
    let what = match amounts {
        Some((limit, needed, shards)) => {
            let plural = if shards == 1 { " needs" } else { "s need" };
            let (limit, needed) = (limit / 1024, needed.div_ceil(1024));
            format!("the limit on locked memory is {limit} KiB, {shards} shard{plural} {needed} KiB")
        }
        None => "the limit on locked memory is too low for io_uring".to_owned(),
    };
    let value = amounts.map_or("unlimited".to_owned(), |(_, needed, _)| needed.div_ceil(1024).to_string());
    format!(
        "{what}: raise it with `ulimit -l {value}`, LimitMEMLOCK=infinity in a systemd unit, or --ulimit memlock=-1"
    )
}

/// Raises the soft limit on open files to the hard one; returns it.
pub fn check_open_files() -> Result<u64, String> {
    let limit =
        sys::raise_open_files_limit().map_err(|error| format!("cannot read the limit on open files: {error}"))?;
    if limit < OPEN_FILES_MIN {
        return Err(format!(
            "the limit on open files is {limit}: raise it to {OPEN_FILES_MIN} or more with `ulimit -n` or LimitNOFILE="
        ));
    }
    Ok(limit)
}

/// The data directory, ours alone for as long as this lives.
#[derive(Debug)]
pub struct DataDirectory {
    /// Its absolute path.
    pub path: PathBuf,
    _lock: File,
}

/// Why a data directory cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryRefusal {
    /// This process uses it.
    InUse {
        /// The directory as it was given.
        shown: String,
        /// The process's id.
        process: String,
    },
    /// Anything else: one line for people.
    Unusable(String),
}

impl Display for DirectoryRefusal {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            DirectoryRefusal::InUse { shown, process } => {
                write!(formatter, "the data directory {shown} is in use by process {process}")
            }
            DirectoryRefusal::Unusable(why) => formatter.write_str(why),
        }
    }
}

/// Creates the data directory if need be, locks it, and writes to it directly. A process that has it gets this long to
/// let go of it.
pub fn open_data_directory(path: &Path, wait: Duration) -> Result<DataDirectory, DirectoryRefusal> {
    let shown = path.display();
    let unusable = DirectoryRefusal::Unusable;
    fs::create_dir_all(path).map_err(|error| {
        unusable(format!("cannot create the data directory {shown}: {error}; give another with log.dirs"))
    })?;
    let path =
        path.canonicalize().map_err(|error| unusable(format!("cannot use the data directory {shown}: {error}")))?;
    let lock = retry(ErrorKind::WouldBlock, wait, || lock(&path)).map_err(|error| match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => unusable(disk_full(&path)),
        ErrorKind::WouldBlock => DirectoryRefusal::InUse { shown: shown.to_string(), process: error.to_string() },
        _ => unusable(format!("cannot write to the data directory {shown}: {error}; check its owner and mode")),
    })?;
    write_directly(&path.join(PROBE_FILE)).map_err(|error| {
        unusable(match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => disk_full(&path),
            ErrorKind::InvalidInput => format!(
                "the file system of {shown} cannot write directly (O_DIRECT); put log.dirs on ext4 or xfs, \
                 not on tmpfs or an overlay"
            ),
            _ => format!("cannot write to the data directory {shown}: {error}"),
        })
    })?;
    Ok(DataDirectory { path, _lock: lock })
}

fn disk_full(path: &Path) -> String {
    format!("no space is left for the data directory {}; free some, or give another with log.dirs", path.display())
}

/// Tries something again for as long as it fails in this way and the process before us may still be ending.
fn retry<T>(kind: ErrorKind, wait: Duration, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + wait;
    loop {
        match attempt() {
            Err(error) if error.kind() == kind && Instant::now() < deadline => std::thread::sleep(LAST_PROCESS_RETRY),
            result => return result,
        }
    }
}

/// Locks the directory and leaves our process id in the lock file. The error of a lock that another process holds is
/// `WouldBlock` with that process's id as its text.
fn lock(directory: &Path) -> io::Result<File> {
    let mut file =
        File::options().create(true).truncate(false).read(true).write(true).open(directory.join(LOCK_FILE))?;
    if let Err(error) = sys::lock_exclusively(&file) {
        let mut owner = String::new();
        if error.kind() != ErrorKind::WouldBlock || file.read_to_string(&mut owner).is_err() {
            return Err(error);
        }
        return Err(io::Error::new(ErrorKind::WouldBlock, owner.trim().to_owned()));
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// Writes a block past the page cache.
fn write_directly(path: &Path) -> io::Result<()> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .custom_flags(OFlags::DIRECT.bits() as i32)
        .open(path)?;
    let mut block = Block::new(BLOCK_BYTES);
    block.commit(BLOCK_BYTES);
    file.write_all_at(block.filled(), 0)
}

/// Binds every listener once for each shard. Nothing listens yet. A process that has a port gets this long to let go of
/// it.
pub fn bind_listeners(
    listeners: &[Listener],
    shards: usize,
    wait: Duration,
) -> Result<Vec<(SocketAddr, Vec<OwnedFd>)>, String> {
    listeners
        .iter()
        .map(|listener| {
            let shown = format!("{}:{}", listener.host, listener.port);
            let mut address =
                listener.address().map_err(|error| format!("listeners: cannot resolve {shown}: {error}"))?;
            // Our own sockets share the port, and so would those of another broker: an exclusive one notices it.
            let refused = |error: &io::Error| bind_message("listeners", &shown, error);
            let exclusive = retry(ErrorKind::AddrInUse, wait, || sys::bind(address, PortUse::Exclusive));
            drop(exclusive.map_err(|error| refused(&error))?);
            let mut sockets = Vec::new();
            for _ in 0..shards {
                let socket = sys::bind(address, PortUse::Shared).map_err(|error| refused(&error))?;
                address = sys::local_address(&socket).map_err(|error| refused(&error))?;
                sockets.push(socket);
            }
            Ok((address, sockets))
        })
        .collect()
}

/// Listens for HTTP. A process that has the port gets this long to let go of it.
pub fn listen_http(host: &str, port: u16, wait: Duration) -> Result<TcpListener, String> {
    let shown = format!("{host}:{port}");
    let host = if host.is_empty() { "0.0.0.0" } else { host };
    let address = config::resolve(host, port);
    let address = address.map_err(|error| format!("millstream.http.listener: cannot resolve {shown}: {error}"))?;
    retry(ErrorKind::AddrInUse, wait, || TcpListener::bind(address))
        .map_err(|error| bind_message("millstream.http.listener", &shown, &error))
}

fn bind_message(property: &str, address: &str, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => {
            format!("{property}: {address} is taken by another process; stop it, or give another port with {property}")
        }
        ErrorKind::AddrNotAvailable => format!("{property}: {address} is not an address of this machine"),
        ErrorKind::PermissionDenied => {
            format!("{property}: no permission to listen on {address}; use a port above 1023")
        }
        _ => format!("{property}: cannot listen on {address}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::TestDirectory;
    use super::*;

    /// Whoever has it keeps it.
    const WAIT: Duration = Duration::ZERO;

    #[test]
    fn a_data_directory_belongs_to_one() {
        let root = TestDirectory::new("preflight");
        let path = root.0.join("a/b");
        let first = open_data_directory(&path, WAIT).expect("created");
        assert_eq!(fs::metadata(first.path.join(PROBE_FILE)).expect("there").len(), BLOCK_BYTES as u64);
        let error = open_data_directory(&path, WAIT).expect_err("locked").to_string();
        assert!(error.ends_with(&format!("is in use by process {}", std::process::id())), "{error}");
        drop(first);
        open_data_directory(&path, WAIT).expect("free again");
        fs::write(root.0.join("file"), "").expect("written");
        let error = open_data_directory(&root.0.join("file"), WAIT).expect_err("not a directory").to_string();
        assert!(error.contains("cannot create the data directory") && error.contains("log.dirs"), "{error}");
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = other.local_addr().expect("bound").port();
        let listener = |host: &str, port| Listener {
            name: "PLAINTEXT".to_owned(),
            host: host.to_owned(),
            port,
            advertised_host: host.to_owned(),
            advertised_port: port,
        };
        let error = bind_listeners(&[listener("127.0.0.1", port)], 2, WAIT).expect_err("taken");
        assert!(error.starts_with(&format!("listeners: 127.0.0.1:{port} is taken by another process")), "{error}");
        let error = listen_http("127.0.0.1", port, WAIT).expect_err("taken");
        assert!(error.starts_with("millstream.http.listener: "), "{error}");
        let error = bind_listeners(&[listener("192.0.2.1", 1)], 1, WAIT).expect_err("a documentation address");
        assert!(error.ends_with("is not an address of this machine"), "{error}");

        let bound = bind_listeners(&[listener("127.0.0.1", 0)], 3, WAIT).expect("bound");
        let (address, sockets) = &bound[0];
        assert_ne!(address.port(), 0);
        assert_eq!(sockets.len(), 3);
        for socket in sockets {
            assert_eq!(sys::local_address(socket).expect("bound"), *address);
        }
    }

    #[test]
    fn locked_memory_must_do_for_all_executors() {
        assert_eq!(check_locked_memory_under(None, 64), Ok(()));
        // The default of many distributions.
        assert_eq!(check_locked_memory_under(Some(8 << 20), 16), Ok(()));
        let message = check_locked_memory_under(Some(64 << 10), 2).expect_err("too little");
        assert!(message.starts_with("the limit on locked memory is 64 KiB, 2 shards need 768 KiB"), "{message}");
        assert!(message.contains("ulimit -l 768") && message.contains("LimitMEMLOCK="), "{message}");
    }
}
