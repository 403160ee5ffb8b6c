//! What a comparison is to show, and whether it does.

use crate::compare::results::{Metric, Results};
use crate::compare::table::{FLOOR, number, times};

/// Who is judged, and against whom.
pub struct Names<'a> {
    pub subject: &'a str,
    pub rival: Option<&'a str>,
    /// The rival when it flushes every message.
    pub variant: Option<&'a str>,
    /// What the subject may use at most.
    pub memory_budget_bytes: Option<u64>,
}

fn ratio(part: Option<f64>, whole: Option<f64>) -> Option<f64> {
    Some(part? / whole?).filter(|ratio| ratio.is_finite())
}

/// What a measured value must be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// A ratio of rates that must not be worse than the other's, and is to become this one.
    Towards(f64),
}

impl Bound {
    fn met(self, value: f64) -> bool {
        match self {
            Bound::AtLeast(bound) => value >= bound,
            Bound::AtMost(bound) => value <= bound,
            Bound::Towards(aim) => value >= aim.min(1.0),
        }
    }
}

/// A row of the table of targets.
pub struct Target {
    what: String,
    measured: Option<f64>,
    bound: Bound,
    /// Of the measured value and the bound; a ratio has none.
    unit: &'static str,
}

impl Target {
    fn row(&self) -> String {
        let shown = |value: f64| match self.unit {
            "" => times(value),
            unit => format!("{} {unit}", number(value)),
        };
        let target = match self.bound {
            Bound::AtLeast(bound) => format!("≥ {}", shown(bound)),
            Bound::AtMost(bound) => format!("≤ {}", shown(bound)),
            Bound::Towards(aim) => format!("≥ {}, aim {}", shown(1.0), shown(aim)),
        };
        let met = match (self.measured, self.bound) {
            (None, _) => "-",
            (Some(value), bound) if !bound.met(value) => "**missed**",
            (Some(value), Bound::Towards(aim)) if value < aim => "not worse",
            (Some(_), _) => "met",
        };
        let measured = self.measured.map_or("-".to_string(), shown);
        format!("| {} | {measured} | {target} | {met} |\n", self.what)
    }
}

/// The table of targets: a row for each.
pub fn table(targets: &[Target]) -> String {
    let mut text = "| target | measured | wanted | |\n|---|---:|---:|---|\n".to_string();
    targets.iter().for_each(|target| text += &target.row());
    text
}

/// What a cluster is to reach: in no workload worse than any broker that is compared with it, each with its replicas; the
/// ratios are the medians of those of each round.
pub fn cluster(results: &Results, names: &Names) -> Vec<Target> {
    let mut rows = Vec::new();
    for workload in results.workloads() {
        for other in [names.rival, names.variant].into_iter().flatten() {
            if results.median(workload, other, Metric::Megabytes).is_none() {
                continue;
            }
            let mut row = |what: &str, metric, bound| {
                let ratio = results.ratios(workload, names.subject, other, metric).map(|spread| spread.median);
                rows.push(Target { what: format!("{workload}: {what} to {other}"), measured: ratio, bound, unit: "" });
            };
            // At fixed times both take the same.
            if workload != "half-rate" && !workload.starts_with("backfill") {
                row("rate", Metric::Megabytes, Bound::Towards(2.0));
            }
            row("p50", Metric::P50, Bound::AtMost(1.0));
            row("p99.9", Metric::P999, Bound::AtMost(1.0));
            row("CPU", Metric::Cpu, Bound::AtMost(1.0));
        }
    }
    let rival = names.rival.unwrap_or("another broker");
    let most = |of: &str| results.most(of, Metric::ResidentPeak);
    let measured = ratio(most(names.subject), most(rival));
    let what = format!("most resident memory of all processes, to {rival}");
    rows.push(Target { what, measured, bound: Bound::AtMost(1.0), unit: "" });
    rows
}

/// What one process is to reach: `-` where something it needs was not measured.
pub fn single(results: &Results, names: &Names) -> Vec<Target> {
    let own = |workload: &str, metric| results.median(workload, names.subject, metric);
    let by = |workload: &str, by: &str, metric| ratio(own(workload, metric), results.median(workload, by, metric));
    let rival = names.rival.unwrap_or("another broker");
    let variant = names.variant.unwrap_or("another broker that flushes every message");
    let mut rows = Vec::new();
    let mut row = |what: String, measured, bound, unit| rows.push(Target { what, measured, bound, unit });
    let third = 1.0 / 3.0;

    for partitions in [4, 16] {
        let (workload, what) =
            (format!("bulk-{partitions}"), format!("durable bulk ingest, 1 KiB records, {partitions} partitions"));
        let rate = |to: &str| by(&workload, to, Metric::Megabytes);
        row(format!("{what}, to the bare loop"), rate(FLOOR), Bound::AtLeast(0.7), "");
        row(format!("{what}, to {rival}"), rate(rival), Bound::AtLeast(1.5), "");
        row(format!("{what}: CPU"), own(&workload, Metric::Cpu), Bound::AtMost(0.6), "s/GB");
        row(format!("{what}: CPU to {rival}"), by(&workload, rival, Metric::Cpu), Bound::AtMost(third), "");
    }
    let small = "100 B records, 1,000 partitions, 50 producers";
    let records = |to: &str| by("small-1000", to, Metric::Records);
    row(format!("{small}, to {rival}"), records(rival), Bound::AtLeast(3.0), "");
    row(format!("{small}, to {variant}"), records(variant), Bound::AtLeast(10.0), "");
    for (connections, workload) in [("1 connection", "single-1"), ("8 connections", "single-8")] {
        let what = format!("one 1 KiB record a request, {connections}");
        row(format!("{what}: rate to {rival}"), by(workload, rival, Metric::Records), Bound::AtLeast(3.0), "");
        row(format!("{what}: p50 to {rival}"), by(workload, rival, Metric::P50), Bound::AtMost(0.5), "");
    }
    let many = ratio(own("small-5000", Metric::Records), own("small-5", Metric::Records));
    row("records/s at 5,000 partitions, to those at 5".to_string(), many, Bound::AtLeast(0.7), "");
    let half = format!("p99.9 at half of {rival}'s maximum rate");
    row(format!("{half}, to {rival}"), by("half-rate", rival, Metric::P999), Bound::AtMost(third), "");
    let own_tail = ratio(own("half-rate", Metric::P999), own("half-rate", Metric::P50));
    row(format!("{half}, to the own p50"), own_tail, Bound::AtMost(10.0), "");
    let backfill = ratio(own("backfill-with", Metric::P999), own("backfill-without", Metric::P999));
    row("p99.9 of producers with a cold consumer, to that without".to_string(), backfill, Bound::AtMost(1.1), "");
    for (workload, what) in
        [("tail-1", "tail fetch, 1 consumer"), ("tail-4", "tail fetch, 4 consumers"), ("cold", "cold fetch")]
    {
        row(format!("{what}, to the bare loop"), by(workload, FLOOR, Metric::Megabytes), Bound::AtLeast(0.8), "");
    }
    let peak = results.most(names.subject, Metric::ResidentPeak);
    let rival_peak = results.most(rival, Metric::ResidentPeak);
    row(format!("most resident memory, to {rival}"), ratio(peak, rival_peak), Bound::AtMost(0.25), "");
    let budget = names.memory_budget_bytes.map(|bytes| bytes as f64 / f64::from(1 << 20));
    row(
        "most resident memory, under the memory budget".to_string(),
        peak.filter(|_| budget.is_some()),
        Bound::AtMost(budget.unwrap_or(f64::NAN)),
        "MiB",
    );
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::results::Sample;

    const NAMES: Names =
        Names { subject: "m", rival: Some("k"), variant: Some("k flush"), memory_budget_bytes: Some(100 << 20) };

    fn row<'a>(table: &'a str, what: &str) -> &'a str {
        table.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{what} is not in {table}"))
    }

    #[test]
    fn targets_are_met_missed_or_unknown() {
        let results = Results::of(&[
            ("bulk-4", "m", Metric::Megabytes, 900.0),
            ("bulk-4", FLOOR, Metric::Megabytes, 1000.0),
            ("bulk-4", "k", Metric::Megabytes, 800.0),
            ("small-5", "m", Metric::Records, 100.0),
            ("small-5000", "m", Metric::Records, 80.0),
            ("tail-1", "m", Metric::ResidentPeak, 99.0),
        ]);
        let table = table(&single(&results, &NAMES));
        assert!(row(&table, "4 partitions, to the bare loop").ends_with("| 0.90 × | ≥ 0.70 × | met |"), "{table}");
        assert!(row(&table, "4 partitions, to k").ends_with("| 1.12 × | ≥ 1.50 × | **missed** |"), "{table}");
        assert!(row(&table, "16 partitions, to k").ends_with("| - | ≥ 1.50 × | - |"), "{table}");
        assert!(row(&table, "5,000 partitions").ends_with("| 0.80 × | ≥ 0.70 × | met |"), "{table}");
        assert!(row(&table, "memory budget").ends_with("| 99.0 MiB | ≤ 100 MiB | met |"), "{table}");
    }

    #[test]
    fn without_a_rival_its_targets_are_unknown() {
        let names = Names { rival: None, variant: None, memory_budget_bytes: None, ..NAMES };
        let table = table(&single(&Results::of(&[("bulk-4", "m", Metric::Megabytes, 900.0)]), &names));
        assert!(table.lines().skip(2).all(|line| line.ends_with("| - |")), "{table}");
    }

    /// Each against each other broker, in rounds; what is not faster is not yet worse.
    #[test]
    fn a_cluster_is_held_against_each_other_broker() {
        let mut results = Results::default();
        let mut push = |workload: &str, by: &str, rate: f64, p50: f64| {
            let mut sample = Sample::default();
            sample.set(Metric::Megabytes, rate);
            sample.set(Metric::P50, p50);
            sample.set(Metric::ResidentPeak, 50.0);
            results.push(workload, by, sample);
        };
        push("bulk-4", "m", 150.0, 2.0);
        push("bulk-4", "k", 100.0, 1.0);
        push("bulk-4", "k flush", 50.0, 4.0);
        push("single-1", "m", 90.0, 1.0);
        push("single-1", "k", 100.0, 1.0);
        push("half-rate", "m", 99.9, 1.0);
        push("half-rate", "k", 100.0, 1.0);
        let table = table(&cluster(&results, &NAMES));
        for (what, ends) in [
            ("bulk-4: rate to k |", "| 1.50 × | ≥ 1.00 ×, aim 2.00 × | not worse |"),
            ("bulk-4: rate to k flush", "| 3.00 × | ≥ 1.00 ×, aim 2.00 × | met |"),
            ("bulk-4: p50 to k |", "| 2.00 × | ≤ 1.00 × | **missed** |"),
            ("bulk-4: p99.9 to k |", "| - | ≤ 1.00 × | - |"),
            ("single-1: rate to k |", "| 0.90 × | ≥ 1.00 ×, aim 2.00 × | **missed** |"),
            ("most resident memory", "| 1.00 × | ≤ 1.00 × | met |"),
        ] {
            assert!(row(&table, what).ends_with(ends), "{table}");
        }
        assert!(!table.contains("half-rate: rate") && !table.contains("single-1: rate to k flush"), "{table}");
    }
}
