//! System calls that neither the standard library nor glommio offers. With [`super::ring`] the only files of this crate with
//! `unsafe` code; every function here is safe to call with any argument.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::{self, MaybeUninit};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use glommio::io::BufferedFile;
use libc::{c_int, c_void};

/// Turns the `-1` of a system call into `errno`.
fn check(result: isize) -> io::Result<usize> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as usize) }
}

/// Sends slices on a socket without waiting for room. `more`: further bytes follow at once, do not send a short packet.
pub fn send_slices(socket: &impl AsRawFd, slices: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
    // SAFETY: all-zero is a valid `msghdr`: null pointers with zero lengths.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    // `IoSlice` is guaranteed to have the layout of `iovec`; `sendmsg` only reads through the pointer.
    header.msg_iov = slices.as_ptr() as *mut libc::iovec;
    header.msg_iovlen = slices.len() as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 };
    // SAFETY: the header and the slices it names live across the call.
    check(unsafe { libc::sendmsg(socket.as_raw_fd(), &header, flags) })
}

/// Passes a file's bytes from the page cache on to a socket, or whatever else takes pages. Fewer when there is no room for more.
pub fn send_file(socket: &impl AsRawFd, file: &File, position: u64, bytes: usize) -> io::Result<usize> {
    let mut offset = position as libc::off_t;
    // SAFETY: `offset` lives across the call; the descriptors are only numbers to the kernel.
    check(unsafe { libc::sendfile(socket.as_raw_fd(), file.as_raw_fd(), &mut offset, bytes) })
}

/// Reads what the page cache holds of a file; `WouldBlock` when the first byte would need the disk.
pub fn read_resident(file: &File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    let vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast::<c_void>(), iov_len: buffer.len() };
    // SAFETY: the vector names `buffer`, which is exclusively ours and lives across the call.
    check(unsafe { libc::preadv2(file.as_raw_fd(), &vector, 1, position as libc::off_t, libc::RWF_NOWAIT) })
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
        Advice::WillNeed => libc::POSIX_FADV_WILLNEED,
        Advice::DontNeed => libc::POSIX_FADV_DONTNEED,
    };
    // SAFETY: no memory is passed.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), position as libc::off_t, bytes as libc::off_t, advice) };
}

/// Reserves space for the first `bytes` of a file and makes it at least that long.
pub fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    // SAFETY: no memory is passed.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes as libc::off_t) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
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
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let mut status = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path ends in NUL, the structure lives across the call.
    check(unsafe { libc::statvfs(path.as_ptr(), status.as_mut_ptr()) } as isize)?;
    // SAFETY: zeroed before the call and filled by it.
    let status = unsafe { status.assume_init() };
    let unit = status.f_frsize;
    Ok(Space { total_bytes: status.f_blocks * unit, free_bytes: status.f_bavail * unit })
}

/// Random bytes from the kernel.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        let rest = &mut bytes[filled..];
        // SAFETY: the kernel writes only into `rest`, which is ours.
        match check(unsafe { libc::getrandom(rest.as_mut_ptr().cast::<c_void>(), rest.len(), 0) }) {
            Ok(count) => filled += count,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::Interrupted, "getrandom cannot fail otherwise"),
        }
    }
    bytes
}

/// Takes an exclusive lock on an open file, or `WouldBlock` when another process holds it. It lasts as long as the file.
pub fn lock_exclusively(file: &File) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } as isize).map(drop)
}

fn set_option(socket: &impl AsRawFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let bytes = mem::size_of::<c_int>() as libc::socklen_t;
    // SAFETY: `value` is an int of the size given and lives across the call.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast::<c_void>(), bytes) };
    check(result as isize).map(drop)
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
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no memory is passed; the descriptor returned is new and ours.
    let socket = unsafe {
        let descriptor = check(libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) as isize)?;
        OwnedFd::from_raw_fd(descriptor as c_int)
    };
    // Connections of the last process that still wait in TIME_WAIT do not take the port.
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if port_use == PortUse::Shared {
        set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    }
    let result = match address {
        SocketAddr::V4(address) => {
            let name = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            };
            let bytes = mem::size_of_val(&name) as libc::socklen_t;
            // SAFETY: the name is a `sockaddr_in` of the size given.
            unsafe { libc::bind(socket.as_raw_fd(), (&raw const name).cast::<libc::sockaddr>(), bytes) }
        }
        SocketAddr::V6(address) => {
            let name = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            };
            let bytes = mem::size_of_val(&name) as libc::socklen_t;
            // SAFETY: the name is a `sockaddr_in6` of the size given.
            unsafe { libc::bind(socket.as_raw_fd(), (&raw const name).cast::<libc::sockaddr>(), bytes) }
        }
    };
    check(result as isize)?;
    Ok(socket)
}

/// Starts listening.
pub fn listen(socket: &OwnedFd, backlog: i32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog) } as isize).map(drop)
}

/// The address a socket is bound to.
pub fn local_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    std::net::TcpListener::from(socket.try_clone()?).local_addr()
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
        set_option(stream, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes)?;
    }
    if let Some(bytes) = buffers.receive_bytes {
        set_option(stream, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)?;
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
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure lives across the call; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Ends a socket's sending side only, or both sides; an error means that it was ended already.
pub fn shut_down(socket: &impl AsRawFd, both: bool) {
    let how = if both { libc::SHUT_RDWR } else { libc::SHUT_WR };
    // SAFETY: no memory is passed.
    unsafe { libc::shutdown(socket.as_raw_fd(), how) };
}

/// Tries to make an io_uring.
pub fn probe_io_uring() -> io::Result<()> {
    /// Larger than the kernel's `io_uring_params` (120 bytes), all zero.
    #[repr(C, align(8))]
    struct Parameters([u8; 256]);
    let mut parameters = Parameters([0; 256]);
    // SAFETY: the parameters are zeroed, as the call demands, larger than what it fills, and live across it.
    let descriptor = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4 as libc::c_long, &raw mut parameters) };
    let descriptor = check(descriptor as isize)?;
    // SAFETY: the descriptor is new and ours.
    drop(unsafe { OwnedFd::from_raw_fd(descriptor as c_int) });
    Ok(())
}

/// The soft limit on locked memory in bytes; `None`: unlimited.
pub fn locked_memory_limit() -> Option<u64> {
    limit(libc::RLIMIT_MEMLOCK).ok().and_then(|limit| (limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur))
}

fn limit(resource: libc::__rlimit_resource_t) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure lives across the call.
    check(unsafe { libc::getrlimit(resource, &mut limit) } as isize)?;
    Ok(limit)
}

/// Raises the soft limit of open files to the hard one, and says what it is now.
pub fn raise_open_files_limit() -> io::Result<u64> {
    let mut files = limit(libc::RLIMIT_NOFILE)?;
    if files.rlim_cur < files.rlim_max {
        files.rlim_cur = files.rlim_max;
        // SAFETY: the structure lives across the call.
        check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &files) } as isize)?;
    }
    Ok(files.rlim_cur)
}

/// The soft limit of open files, if there is one.
pub fn open_files_limit() -> Option<u64> {
    limit(libc::RLIMIT_NOFILE).ok().map(|limit| limit.rlim_cur)
}

/// The unit of times in `/proc`.
pub fn clock_ticks_per_second() -> f64 {
    // SAFETY: no memory is passed.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) as f64 }
}

/// The unit of memory sizes in `/proc`.
pub fn page_bytes() -> f64 {
    // SAFETY: no memory is passed.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as f64 }
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
    // SAFETY: all-zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the set has the size given and lives across the call.
    let result = unsafe { libc::sched_getaffinity(0, mem::size_of::<libc::cpu_set_t>(), &mut set) };
    if result != 0 {
        return vec![0];
    }
    // SAFETY: every index is below the set's size.
    (0..libc::CPU_SETSIZE as usize).filter(|&index| unsafe { libc::CPU_ISSET(index, &set) }).collect()
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
pub fn peer_has_ended(socket: &impl AsRawFd) -> bool {
    let mut polled = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one structure, which lives across the call.
    let ready = unsafe { libc::poll(&mut polled, 1, 0) };
    ready == 1 && polled.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
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
