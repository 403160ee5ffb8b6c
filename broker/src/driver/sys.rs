//! System calls that the standard library does not offer: through rustix where it has them, and else by hand. Every
//! function here is safe to call with any argument.
//!
//! One of the three files of this crate with `unsafe` code; the others are [`super::ring`] and [`super::allocator`].
#![allow(unsafe_code, reason = "system calls that rustix lacks")]

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::{self, MaybeUninit};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use glommio::io::BufferedFile;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::{Errno, ReadWriteFlags};
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, Rlimit};
use rustix::rand::GetRandomFlags;
use rustix::thread::CpuSet;
use rustix::time::ClockId;

/// Sends slices on a socket without waiting for room. `more`: further bytes follow at once, do not send a short packet.
pub fn send_slices(socket: &impl AsFd, slices: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
    let more = if more { SendFlags::MORE } else { SendFlags::empty() };
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL | more;
    Ok(rustix::net::sendmsg(socket, slices, &mut SendAncillaryBuffer::default(), flags)?)
}

/// Passes a file's bytes from the page cache on to a socket, or whatever else takes pages. Fewer when there is no room for more.
pub fn send_file(socket: &impl AsFd, file: &File, position: u64, bytes: usize) -> io::Result<usize> {
    let mut offset = position;
    Ok(rustix::fs::sendfile(socket, file, Some(&mut offset), bytes)?)
}

/// Reads what the page cache holds of a file; `WouldBlock` when the first byte would need the disk.
pub fn read_resident(file: &File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    Ok(rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], position, ReadWriteFlags::NOWAIT)?)
}

/// The pieces of a file that [`is_resident`] tries: smaller than what the kernel reads from a disk in one go.
const RESIDENCY_STEP_BYTES: usize = 32 * 1024;

/// Whether the page cache holds a whole range of a file. `false` where the kernel (before 6.5) cannot say.
pub fn is_resident(file: &File, position: u64, bytes: usize) -> bool {
    #[repr(C)]
    struct Range {
        offset: u64,
        bytes: u64,
    }
    #[repr(C)]
    #[derive(Default)]
    struct Pages {
        cached: u64,
        dirty: u64,
        writeback: u64,
        evicted: u64,
        recently_evicted: u64,
    }
    /// The same number on every architecture.
    const SYS_CACHESTAT: libc::c_long = 451;
    const PAGE_BYTES: u64 = 4096;
    if bytes == 0 {
        return true;
    }
    let range = Range { offset: position, bytes: bytes as u64 };
    let mut pages = Pages::default();
    // SAFETY: both structures have the kernel's layout and live across the call.
    let result = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd() as libc::c_long, &range, &mut pages, 0 as libc::c_long)
    };
    let end = position + bytes as u64;
    let wanted = end.div_ceil(PAGE_BYTES) - position / PAGE_BYTES;
    // Pages that are being read count as cached, and reads finish in any order: each piece is there when a byte of it can
    // be read at once.
    let is_there = |at: u64| read_resident(file, &mut [0], at).is_ok_and(|bytes| bytes == 1);
    result == 0
        && pages.cached >= wanted
        && (position..end).step_by(RESIDENCY_STEP_BYTES).chain([end - 1]).all(is_there)
}

/// What a caller knows of its use of a file range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// It will be read soon: start reading it.
    WillNeed,
    /// It will not be read again: drop its clean pages.
    DontNeed,
}

/// `posix_fadvise`; a hint, so its failure changes nothing.
pub fn advise(file: &File, position: u64, bytes: usize, advice: Advice) {
    let advice = match advice {
        Advice::WillNeed => rustix::fs::Advice::WillNeed,
        Advice::DontNeed => rustix::fs::Advice::DontNeed,
    };
    let _ = rustix::fs::fadvise(file, position, NonZeroU64::new(bytes as u64), advice);
}

/// Reserves space for the first `bytes` of a file, opened for appending, and makes it at least that long.
pub fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        // A file system that cannot reserve space gives it to what is written.
        Err(Errno::OPNOTSUPP) => extend(file, bytes),
        other => Ok(other?),
    }
}

/// Writes zeros to the end of a file until it is `bytes` long.
fn extend(mut file: &File, bytes: u64) -> io::Result<()> {
    const STEP_BYTES: usize = 64 * 1024;
    let mut missing = bytes.saturating_sub(file.metadata()?.len());
    while missing > 0 {
        let step = missing.min(STEP_BYTES as u64);
        file.write_all(&[0; STEP_BYTES][..step as usize])?;
        missing -= step;
    }
    Ok(())
}

/// The space of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All of it, in bytes.
    pub total_bytes: u64,
    /// What an unprivileged process may still use, in bytes.
    pub free_bytes: u64,
}

/// The space of a path's file system.
pub fn space(path: &Path) -> io::Result<Space> {
    let status = rustix::fs::statvfs(path)?;
    let unit = status.f_frsize;
    Ok(Space { total_bytes: status.f_blocks * unit, free_bytes: status.f_bavail * unit })
}

/// Random bytes from the kernel.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match rustix::rand::getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(error) => assert_eq!(error, Errno::INTR, "getrandom cannot fail otherwise"),
        }
    }
    bytes
}

/// Takes an exclusive lock on an open file, or `WouldBlock` when another process holds it. It lasts as long as the file.
pub fn lock_exclusively(file: &File) -> io::Result<()> {
    Ok(rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)?)
}

/// How a listening socket is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortUse {
    /// No other socket may listen there.
    Exclusive,
    /// Other sockets of this user share the port: the kernel spreads the connections.
    Shared,
}

/// A TCP socket bound to an address; it does not listen yet.
pub fn bind(address: SocketAddr, port_use: PortUse) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Connections of the last process that still wait in TIME_WAIT do not take the port.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if port_use == PortUse::Shared {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// Has the kernel queue up to `backlog` connections of a bound socket until they are accepted.
pub fn listen(socket: &OwnedFd, backlog: i32) -> io::Result<()> {
    Ok(rustix::net::listen(socket, backlog)?)
}

/// The address a socket is bound to.
pub fn local_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    std::net::TcpListener::from(socket.try_clone()?).local_addr()
}

/// Begins to connect, without waiting for the end: the socket can be written to when that is decided, and its error says how.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(socket.into()),
        Err(error) => Err(error.into()),
    }
}

/// An eventfd that the current executor can wait for: a read of it ends when it is signalled.
pub fn event_for_glommio(event: OwnedFd) -> BufferedFile {
    // SAFETY: the descriptor is owned and given away.
    unsafe { BufferedFile::from_raw_fd(event.into_raw_fd()) }
}

/// Sizes of a socket's buffers in the kernel, in bytes; `None` leaves them to the system, which adapts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketBuffers {
    /// `socket.send.buffer.bytes`
    pub send_bytes: Option<i32>,
    /// `socket.receive.buffer.bytes`
    pub receive_bytes: Option<i32>,
}

/// Makes an accepted socket what we need: non-blocking, without Nagle's delay. The standard library has set it to be closed
/// on exec.
pub fn prepare_connection(stream: &TcpStream, buffers: SocketBuffers) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    if let Some(bytes) = buffers.send_bytes {
        sockopt::set_socket_send_buffer_size(stream, usize::try_from(bytes).unwrap_or(0))?;
    }
    if let Some(bytes) = buffers.receive_bytes {
        sockopt::set_socket_recv_buffer_size(stream, usize::try_from(bytes).unwrap_or(0))?;
    }
    Ok(())
}

/// How often this thread has waited for something (a disk, a lock) so far; being interrupted does not count.
pub fn waits_of_this_thread() -> u64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the structure lives across the call.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
    // SAFETY: all-zero is valid, and the call only fills it.
    unsafe { usage.assume_init() }.ru_nvcsw as u64
}

/// Has this thread give way to others: 0 to 19, and ask for the processor for `slice` at a time (Linux 6.12, from 0.1 to 100 ms;
/// earlier kernels choose). That is always allowed; where it fails all the same nothing is lost.
pub fn set_niceness(niceness: i32, slice: Duration) {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        sched_nice: niceness,
        sched_priority: 0,
        sched_runtime: slice.as_nanos() as u64,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads the structure, which says its own size, and keeps nothing of it. 0 is the calling thread.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &attributes, 0) };
}

/// How long this thread has run so far.
pub fn thread_processor_time() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Ends a socket's sending side only, or both sides; an error means that it was ended already.
pub fn shut_down(socket: &impl AsFd, both: bool) {
    let _ = rustix::net::shutdown(socket, if both { Shutdown::Both } else { Shutdown::Write });
}

/// The soft limit on locked memory in bytes; `None`: unlimited.
pub fn locked_memory_limit() -> Option<u64> {
    rustix::process::getrlimit(Resource::Memlock).current
}

/// Raises the soft limit of open files to the hard one, and says what it is now.
pub fn raise_open_files_limit() -> io::Result<u64> {
    let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
    if current != maximum {
        rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(maximum.unwrap_or(u64::MAX))
}

/// The soft limit of open files, if there is one.
pub fn open_files_limit() -> Option<u64> {
    rustix::process::getrlimit(Resource::Nofile).current
}

/// The unit of times in `/proc`.
pub fn clock_ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

/// The unit of memory sizes in `/proc`.
pub fn page_bytes() -> f64 {
    rustix::param::page_size() as f64
}

/// Whether the system's clock is kept in step with others, as NTP daemons tell the kernel (adjtimex(2)). `None` when the
/// kernel does not say.
pub fn clock_is_synchronised() -> Option<bool> {
    // SAFETY: all-zero asks for nothing to be changed.
    let mut state: libc::timex = unsafe { mem::zeroed() };
    // SAFETY: the structure lives across the call.
    let result = unsafe { libc::adjtimex(&mut state) };
    (result >= 0).then_some(result != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0)
}

/// Whether the limit on locked memory does not apply to this process (`CAP_IPC_LOCK`).
pub fn may_lock_memory() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|capabilities| capabilities & (1 << CAP_IPC_LOCK) != 0)
}

/// The processors this process may run on, ascending; at least one.
pub fn processors() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU).filter(|&index| set.is_set(index)).collect(),
        Err(_) => vec![0],
    }
}

fn stop_signals() -> libc::sigset_t {
    // SAFETY: `sigemptyset` initialises the set before it is used.
    unsafe {
        let mut signals: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut signals);
        libc::sigaddset(&mut signals, libc::SIGINT);
        libc::sigaddset(&mut signals, libc::SIGTERM);
        signals
    }
}

/// Whether the peer of a connection sends no more, also where what it has sent was not read yet.
pub fn peer_has_ended(socket: &impl AsFd) -> bool {
    let mut polled = [PollFd::new(socket, PollFlags::RDHUP)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let ready = rustix::event::poll(&mut polled, Some(&at_once));
    ready == Ok(1) && polled[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
}

/// Allocations from this size on are given back to the system when they are freed, in bytes. Left alone, glibc raises its
/// own threshold to the largest that it has seen, up to 32 MiB, and keeps what lies below.
const GIVEN_BACK_BYTES_MIN: libc::c_int = 128 * 1024;

/// Has the allocator give large blocks back to the system. Call before any thread starts.
pub fn give_back_large_allocations() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no memory is passed, and no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, GIVEN_BACK_BYTES_MIN);
    }
}

/// Keeps SIGINT and SIGTERM from ending the process: [`wait_for_stop_signal`] takes them. Call before any thread starts.
pub fn hold_stop_signals() {
    // SAFETY: the set lives across the call; the old one is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &stop_signals(), std::ptr::null_mut()) };
}

/// Waits until SIGINT or SIGTERM comes (`true`) or the time is up.
pub fn wait_for_stop_signal(timeout: Duration) -> bool {
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs().min(i64::MAX as u64) as libc::time_t,
        tv_nsec: timeout.subsec_nanos() as libc::c_long,
    };
    // SAFETY: the set and the time live across the call; details of the signal are not asked for.
    unsafe { libc::sigtimedwait(&stop_signals(), std::ptr::null_mut(), &timeout) > 0 }
}

/// Ends the process at once: no destructor runs, no other thread gets to send anything.
pub fn exit_at_once(code: i32) -> ! {
    // SAFETY: `_exit` takes no memory and does not return.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn slices_and_a_file_leave_in_order() {
        let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
        ours.set_nonblocking(true).expect("non-blocking");
        let mut file = tempfile("sys_send");
        file.write_all(b"0123456789").expect("written");
        let sent = send_slices(&ours, &[IoSlice::new(b"a"), IoSlice::new(b"bc")], true).expect("sent");
        assert_eq!(sent, 3);
        assert_eq!(send_file(&ours, &file, 2, 5).expect("sent"), 5);
        let mut received = [0; 8];
        theirs.read_exact(&mut received).expect("received");
        assert_eq!(&received, b"abc23456");
    }

    #[test]
    fn a_full_socket_does_not_block() {
        let (ours, _theirs) = UnixStream::pair().expect("a socket pair");
        ours.set_nonblocking(true).expect("non-blocking");
        let bytes = vec![0; 1 << 20];
        let error = loop {
            if let Err(error) = send_slices(&ours, &[IoSlice::new(&bytes)], false) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn freshly_written_pages_are_resident() {
        let mut file = tempfile("sys_resident");
        file.write_all(&[7; 3 * 4096]).expect("written");
        assert!(is_resident(&file, 100, 2 * 4096));
        assert!(!is_resident(&file, 0, 4 * 4096), "the file has no fourth page");
        let mut buffer = [0; 10];
        assert_eq!(read_resident(&file, &mut buffer, 4096).expect("resident"), 10);
        assert_eq!(buffer, [7; 10]);
    }

    #[test]
    fn an_exclusive_bind_notices_a_shared_one() {
        let any = "127.0.0.1:0".parse().expect("an address");
        let first = bind(any, PortUse::Shared).expect("bound");
        listen(&first, 1).expect("listens");
        let address = local_address(&first).expect("bound");
        let error = bind(address, PortUse::Exclusive).expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        bind(address, PortUse::Shared).expect("shared with another of our sockets");
    }

    fn tempfile(name: &str) -> File {
        let path = std::env::temp_dir().join(format!("millstream_{name}_{}", std::process::id()));
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&path).expect("created");
        std::fs::remove_file(&path).expect("removed");
        file
    }
}
