//! What one run of a load has measured, of the broker and of each of its processes.

use std::time::Duration;

use crate::compare::results::{Metric, Sample};
use crate::limits::Floor;
use crate::machine::Resident;
use crate::report::Report;

/// Quantiles of the latency that are reported.
const QUANTILES: [(Metric, f64); 3] = [(Metric::P50, 0.5), (Metric::P99, 0.99), (Metric::P999, 0.999)];

/// What a run has measured.
pub struct Measured {
    /// Of the broker, all its processes together.
    pub all: Sample,
    /// Of each process, if there are several: processor time, for the bytes of the whole run, and memory.
    pub nodes: Vec<Sample>,
}

impl Measured {
    /// Of a load: processor time that each process had used before it and had after it, their memory after it, and what
    /// was not on the disk then.
    pub fn new(
        report: &Report,
        before: &[Duration],
        after: &[Duration],
        resident: &[Resident],
        dirty_bytes: u64,
    ) -> Measured {
        let gigabytes = report.payload_bytes as f64 / 1e9;
        let of_node = |((before, after), resident): ((&Duration, &Duration), &Resident)| {
            let mut sample = Sample::default();
            sample.set(Metric::Cpu, after.saturating_sub(*before).as_secs_f64() / gigabytes);
            sample.set(Metric::Resident, mebibytes(resident.now_bytes));
            sample.set(Metric::ResidentPeak, mebibytes(resident.peak_bytes));
            sample
        };
        let mut nodes: Vec<Sample> = before.iter().zip(after).zip(resident).map(of_node).collect();
        let mut all = Sample::default();
        all.set(Metric::Megabytes, report.megabytes_per_second());
        all.set(Metric::Records, report.records_per_second());
        QUANTILES.iter().for_each(|(metric, quantile)| all.set(*metric, report.latency_ms(*quantile)));
        all.set(Metric::Unanswered, report.unanswered as f64);
        for metric in [Metric::Cpu, Metric::Resident, Metric::ResidentPeak] {
            let of_each = nodes.iter().map(|node| node.get(metric)).collect::<Option<Vec<f64>>>();
            of_each.into_iter().for_each(|of_each| all.set(metric, of_each.iter().sum()));
        }
        all.set(Metric::Dirty, mebibytes(dirty_bytes));
        if nodes.len() == 1 {
            nodes.clear();
        }
        Measured { all, nodes }
    }

    /// Of a bare loop.
    pub fn of_floor(floor: &Floor) -> Measured {
        let mut all = Sample::default();
        all.set(Metric::Megabytes, floor.megabytes_per_second());
        all.set(Metric::Cpu, floor.cpu_seconds_per_gigabyte());
        if let Some(latency) = &floor.latency {
            all.set(Metric::Records, latency.len() as f64 / floor.seconds);
            for (metric, quantile) in QUANTILES {
                all.set(metric, latency.value_at_quantile(quantile) as f64 / 1e6);
            }
        }
        Measured { all, nodes: Vec::new() }
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new(2.0);
        report.payload_bytes = 2_000_000_000;
        report
    }

    fn measured(processes: usize) -> Measured {
        let seconds = |seconds: &[u64]| seconds.iter().copied().map(Duration::from_secs).collect::<Vec<_>>();
        let (before, after) = (seconds(&[1, 10, 5]), seconds(&[3, 11, 5]));
        let resident = Resident { now_bytes: 1 << 20, peak_bytes: 3 << 20 };
        Measured::new(&report(), &before[..processes], &after[..processes], &vec![resident; processes], 5 << 20)
    }

    #[test]
    fn a_cluster_uses_what_its_processes_use() {
        let Measured { all, nodes } = measured(3);
        let of_nodes: Vec<_> = nodes.iter().map(|node| node.get(Metric::Cpu)).collect();
        assert_eq!(of_nodes, [Some(1.0), Some(0.5), Some(0.0)]);
        assert!(nodes.iter().all(|node| node.get(Metric::ResidentPeak) == Some(3.0)));
        let metrics = [Metric::Cpu, Metric::Resident, Metric::ResidentPeak, Metric::Dirty, Metric::Megabytes];
        assert_eq!(metrics.map(|metric| all.get(metric).unwrap()), [1.5, 3.0, 9.0, 5.0, 1000.0]);
    }

    #[test]
    fn one_process_has_no_row_of_its_own() {
        let Measured { all, nodes } = measured(1);
        assert_eq!((all.get(Metric::Cpu), nodes.len()), (Some(1.0), 0));
    }
}
