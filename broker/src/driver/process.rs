//! What the process shows of itself, under the names that every Prometheus client library uses, from `/proc`.

use std::fs;
use std::sync::LazyLock;

use super::sys;
use crate::metrics::{Kind, Sample, Scrape};

/// Samples of the process; `shards`: how many of them answered.
pub fn scrape(shards: usize) -> Scrape {
    let mut samples = Vec::new();
    let mut sample = |name, help, kind, value| {
        samples.push(Sample { name, help, kind, labels: Vec::new(), value });
    };
    sample("millstream_shards", "Shards that answered this scrape.", Kind::Gauge, shards as f64);
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    if let Some(Stat { processor_ticks, started_ticks, resident_pages }) = parse_stat(&stat) {
        let ticks = sys::clock_ticks_per_second();
        let processor = processor_ticks / ticks;
        sample("process_cpu_seconds_total", "User and system processor time.", Kind::Counter, processor);
        let resident = resident_pages * sys::page_bytes();
        sample("process_resident_memory_bytes", "Resident memory.", Kind::Gauge, resident);
        let started = BOOTED.map(|booted| booted + started_ticks / ticks);
        if let Some(started) = started {
            sample("process_start_time_seconds", "When the process started, since 1970.", Kind::Gauge, started);
        }
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        // One of them is the directory itself.
        let files = files.count().saturating_sub(1) as f64;
        sample("process_open_fds", "Open file descriptors.", Kind::Gauge, files);
    }
    if let Some(files) = sys::open_files_limit() {
        sample("process_max_fds", "The limit on open file descriptors.", Kind::Gauge, files as f64);
    }
    samples.push(Sample {
        name: "millstream_build_info",
        help: "Always 1; the label says which version runs.",
        kind: Kind::Gauge,
        labels: vec![("version", env!("CARGO_PKG_VERSION"))],
        value: 1.0,
    });
    Scrape { samples, histograms: Vec::new() }
}

/// When the machine was booted, in seconds since 1970.
static BOOTED: LazyLock<Option<f64>> = LazyLock::new(|| {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
});

#[derive(Clone, Copy, Debug, PartialEq)]
struct Stat {
    processor_ticks: f64,
    started_ticks: f64,
    resident_pages: f64,
}

/// Reads `/proc/self/stat` (proc_pid_stat(5)). The name in parentheses may hold anything.
fn parse_stat(stat: &str) -> Option<Stat> {
    let (_, fields) = stat.rsplit_once(") ")?;
    // The first is the third of the manual page.
    let fields: Vec<&str> = fields.split(' ').collect();
    let number = |field: usize| fields.get(field - 3)?.trim().parse::<f64>().ok();
    Some(Stat { processor_ticks: number(14)? + number(15)?, started_ticks: number(22)?, resident_pages: number(24)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_found() {
        let scrape = scrape(2);
        let value = |name| {
            scrape.samples.iter().find(|sample| sample.name == name).unwrap_or_else(|| panic!("no {name}")).value
        };
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_start_time_seconds") > 1e9);
        assert!(value("process_open_fds") >= 3.0 && value("process_max_fds") > value("process_open_fds"));
        assert!(value("process_cpu_seconds_total") >= 0.0);
    }

    #[test]
    fn a_name_with_anything_in_it_is_passed_over() {
        let stat = "7 (a) b (c) R 1 7 7 0 -1 4194560 1 0 0 0 300 40 0 0 20 0 1 0 5000 123456 77 18446744073709551615";
        let expected = Stat { processor_ticks: 340.0, started_ticks: 5000.0, resident_pages: 77.0 };
        assert_eq!(parse_stat(stat), Some(expected));
        assert_eq!(parse_stat("nonsense"), None);
    }
}
