//! What the instrument asks of Linux: which processors a thread runs on, what a process has used, what is not on the
//! disk yet, how TCP controls congestion.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::thread::CpuSet;

use crate::error::BenchError;

/// Written pages below which the disk counts as quiet.
const QUIET_BYTES: u64 = 32 << 20;
/// How long to wait for that.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(60);
const CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// The processors of the servers and of the load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub server: Vec<usize>,
    pub load: Vec<usize>,
}

impl Placement {
    /// The first half of the processors that this process may use for the servers, the others for the load, where none
    /// are named. A machine with one processor uses it for both.
    pub fn new(server: Option<&str>, load: Option<&str>) -> Result<Placement, BenchError> {
        let set =
            rustix::thread::sched_getaffinity(None).map_err(|error| BenchError::machine("processors")(error.into()))?;
        let all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect();
        let (first, second) = halves(&all);
        let named = |text: Option<&str>, otherwise| text.map_or(Ok(otherwise), parse_cpus);
        Ok(Placement { server: named(server, first)?, load: named(load, second)? })
    }
}

fn halves(all: &[usize]) -> (Vec<usize>, Vec<usize>) {
    if all.len() < 2 {
        return (all.to_vec(), all.to_vec());
    }
    let (first, second) = all.split_at(all.len() / 2);
    (first.to_vec(), second.to_vec())
}

/// Parses a list of processors as in `0-3,8`.
fn parse_cpus(text: &str) -> Result<Vec<usize>, BenchError> {
    let bad = || BenchError::Options(format!("not a list of processors, for example 0-3,8: {text}"));
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
        if first > last || last >= CpuSet::MAX_CPU {
            return Err(bad());
        }
        cpus.extend(first..=last);
    }
    Ok(cpus)
}

/// Confines the calling thread, and what it starts from now on, to these processors.
pub fn confine(cpus: &[usize]) -> Result<(), BenchError> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    rustix::thread::sched_setaffinity(None, &set)
        .map_err(|error| BenchError::machine(format!("confining a thread to processors {cpus:?}"))(error.into()))
}

/// Processor time that the calling thread has used.
pub fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Processor time, of user and system, that all threads of a process have used, those that ended too.
pub fn process_cpu(pid: u32) -> Result<Duration, BenchError> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).map_err(BenchError::machine(&path))?;
    let ticks = stat_ticks(&text).ok_or_else(|| BenchError::Machine(format!("{path} is not as proc(5) says")))?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// `utime` + `stime` of a line of /proc/PID/stat. The command before them may hold spaces and brackets.
fn stat_ticks(line: &str) -> Option<u64> {
    let mut fields = line.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Resident memory of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resident {
    pub now_bytes: u64,
    /// The most since the process began.
    pub peak_bytes: u64,
}

pub fn resident(pid: u32) -> Result<Resident, BenchError> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).map_err(BenchError::machine(&path))?;
    match (kilobytes(&text, "VmRSS"), kilobytes(&text, "VmHWM")) {
        (Some(now_bytes), Some(peak_bytes)) => Ok(Resident { now_bytes, peak_bytes }),
        _ => Err(BenchError::Machine(format!("{path} names no resident memory"))),
    }
}

/// Bytes in the page cache that are not on the disk yet.
pub fn dirty_bytes() -> Result<u64, BenchError> {
    let text = fs::read_to_string("/proc/meminfo").map_err(BenchError::machine("/proc/meminfo"))?;
    Ok(kilobytes(&text, "Dirty").unwrap_or(0) + kilobytes(&text, "Writeback").unwrap_or(0))
}

/// The bytes of a line `name: n kB`.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Has everything written to the disk, and waits until the disk is quiet, a minute at most.
pub fn settle() -> Result<(), BenchError> {
    let begun = Instant::now();
    rustix::fs::sync();
    while dirty_bytes()? > QUIET_BYTES && begun.elapsed() < QUIET_WAIT_MAX {
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Bytes that are free to unprivileged users on the file system of `path`.
pub fn free_bytes(path: &Path) -> Result<u64, BenchError> {
    let stat = rustix::fs::statvfs(path).map_err(|error| BenchError::machine(path.display())(error.into()))?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// Writes a file's pages to the disk and drops them from the page cache.
pub fn drop_from_page_cache(file: &fs::File) -> std::io::Result<()> {
    file.sync_data()?;
    Ok(rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?)
}

/// The same for all files under a directory; what vanishes meanwhile is passed over.
pub fn drop_directory_from_page_cache(directory: &Path) -> Result<(), BenchError> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for entry in entries.flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => drop_directory_from_page_cache(&path)?,
            Ok(kind) if kind.is_file() => {
                if let Ok(file) = fs::File::open(&path) {
                    drop_from_page_cache(&file).map_err(BenchError::machine(path.display()))?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The congestion control of new sockets.
pub fn congestion_control() -> String {
    fs::read_to_string(CONGESTION_CONTROL).map_or("unknown".to_string(), |name| name.trim().to_string())
}

pub fn set_congestion_control(name: &str) -> std::io::Result<()> {
    fs::write(CONGESTION_CONTROL, name)
}

/// Lets this process and what it starts open as many files as the system allows it: a connection and a partition's
/// segment each are one.
pub fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// One line about the machine.
pub fn description() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| kilobytes(&text, "MemTotal")).unwrap_or(0);
    format!(
        "{}, {cores} processors, {:.0} GiB, Linux {}",
        model.trim_start_matches([' ', '\t', ':']),
        memory as f64 / f64::from(1 << 30),
        rustix::system::uname().release().to_string_lossy()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_parsed_and_halved() {
        assert_eq!(parse_cpus("0-2,5").unwrap(), [0, 1, 2, 5]);
        for bad in ["", "a", "3-1", "1-", "99999"] {
            assert!(parse_cpus(bad).is_err(), "{bad}");
        }
        assert_eq!(halves(&[0, 1, 2]), (vec![0], vec![1, 2]));
        assert_eq!(halves(&[4]), (vec![4], vec![4]));
    }

    #[test]
    fn processor_time_is_found_behind_any_command() {
        let line = "12 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0 100 200 300";
        assert_eq!(stat_ticks(line), Some(300));
        assert_eq!(stat_ticks("12 (a"), None);
        assert_eq!(stat_ticks("12 (a) S 1 2"), None);
    }

    #[test]
    fn kilobytes_are_found_by_their_whole_name() {
        let text = "DirtyMore: 1 kB\nDirty:      12 kB\nWriteback:  x kB\n";
        assert_eq!((kilobytes(text, "Dirty"), kilobytes(text, "Writeback")), (Some(12 << 10), None));
    }

    #[test]
    fn this_process_has_used_time_and_memory() {
        let mut sum = 0u64;
        let before = thread_cpu();
        (0..1_000_000u64).for_each(|number| sum = std::hint::black_box(sum ^ number));
        assert!(thread_cpu() > before);
        assert!(process_cpu(std::process::id()).is_ok());
        let resident = resident(std::process::id()).unwrap();
        assert!(resident.now_bytes > 0 && resident.peak_bytes >= resident.now_bytes);
    }
}
