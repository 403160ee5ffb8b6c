//! The tables of a comparison, in Markdown.

use crate::compare::results::{METRICS, Metric, Results, Spread};

/// The contestant that stands for a bare loop.
pub const FLOOR: &str = "bare loop";
/// The one whose loop polls for messages.
pub const FLOOR_POLLING: &str = "bare loop, polling";

/// Who is judged, and against whom.
pub struct Names<'a> {
    pub subject: &'a str,
    pub rival: Option<&'a str>,
    /// The rival when it flushes every message.
    pub variant: Option<&'a str>,
    /// What the subject may use at most.
    pub memory_budget_bytes: Option<u64>,
}

/// A workload's table: a row for each contestant, median [least..most] of the rounds; the ratios are those of each round.
pub fn workload(results: &Results, workload: &str, about: &str, subject: &str) -> String {
    let contestants = results.contestants(workload);
    let has = |metric: Metric| {
        contestants.iter().filter_map(|by| results.spread(workload, by, metric)).any(|spread| {
            // Nothing never answered is what is expected.
            metric != Metric::Unanswered || spread.max > 0.0
        })
    };
    let columns: Vec<Metric> = METRICS.into_iter().filter(|metric| has(*metric)).collect();
    let mut text = format!("### {workload}\n\n{about}\n\n|  |");
    columns.iter().for_each(|metric| text += &format!(" {} |", metric.heading()));
    let ratios: Vec<Metric> = [Metric::Megabytes, Metric::Cpu].into_iter().filter(|metric| has(*metric)).collect();
    for metric in &ratios {
        let what = if *metric == Metric::Cpu { "CPU" } else { "rate" };
        text += &format!(" {subject}'s {what} to it |");
    }
    text += &format!("\n|---|{}\n", "---:|".repeat(columns.len() + ratios.len()));
    for by in &contestants {
        text += &format!("| {by} |");
        for metric in &columns {
            text += &format!(" {} |", results.spread(workload, by, *metric).map_or("-".to_string(), cell));
        }
        for metric in &ratios {
            let ratios = results.ratios(workload, subject, by, *metric).filter(|_| *by != subject);
            text += &format!(" {} |", ratios.map_or("-".to_string(), times_spread));
        }
        text += "\n";
    }
    text
}

fn cell(spread: Spread) -> String {
    let Spread { median, min, max } = spread;
    if min == max { number(median) } else { format!("{} [{}..{}]", number(median), number(min), number(max)) }
}

/// Three digits, or all digits of a larger number, in groups.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 && digit.is_ascii_digit() && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    fraction.map_or(grouped.clone(), |fraction| format!("{grouped}.{fraction}"))
}

fn times(ratio: f64) -> String {
    format!("{ratio:.2} ×")
}

fn times_spread(spread: Spread) -> String {
    let Spread { median, min, max } = spread;
    if min == max { times(median) } else { format!("{median:.3} × [{min:.3}..{max:.3}]") }
}

fn ratio(part: Option<f64>, whole: Option<f64>) -> Option<f64> {
    Some(part? / whole?).filter(|ratio| ratio.is_finite())
}

/// What a measured value must be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn met(self, value: f64) -> bool {
        match self {
            Bound::AtLeast(bound) => value >= bound,
            Bound::AtMost(bound) => value <= bound,
        }
    }
}

/// A row of the table of targets.
struct Target {
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
        };
        let (measured, met) = match self.measured {
            Some(value) => (shown(value), if self.bound.met(value) { "met" } else { "**missed**" }),
            None => ("-".to_string(), "-"),
        };
        format!("| {} | {measured} | {target} | {met} |\n", self.what)
    }
}

/// The table of targets: a row for each, `-` where something it needs was not measured.
pub fn targets(results: &Results, names: &Names) -> String {
    let mut text = "| target | measured | wanted | |\n|---|---:|---:|---|\n".to_string();
    all_targets(results, names).iter().for_each(|target| text += &target.row());
    text
}

fn all_targets(results: &Results, names: &Names) -> Vec<Target> {
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

    fn results(runs: &[(&str, &str, Metric, f64)]) -> Results {
        let mut results = Results::default();
        for &(workload, contestant, metric, value) in runs {
            let mut sample = Sample::default();
            sample.set(metric, value);
            results.push(workload, contestant, sample);
        }
        results
    }

    const NAMES: Names =
        Names { subject: "m", rival: Some("k"), variant: Some("k flush"), memory_budget_bytes: Some(100 << 20) };

    fn row<'a>(table: &'a str, what: &str) -> &'a str {
        table.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{what} is not in {table}"))
    }

    #[test]
    fn numbers_have_three_digits_or_all() {
        for (value, text) in [
            (0.1234, "0.123"),
            (1.234, "1.23"),
            (12.34, "12.3"),
            (123.4, "123"),
            (1_234_567.0, "1,234,567"),
            (-1234.0, "-1,234"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_workload_shows_medians_ends_and_ratios() {
        let results = results(&[
            ("w", "m", Metric::Megabytes, 100.0),
            ("w", "m", Metric::Megabytes, 300.0),
            ("w", "m", Metric::Megabytes, 200.0),
            ("w", "k", Metric::Megabytes, 50.0),
            ("w", "k", Metric::Megabytes, 100.0),
            ("w", "k", Metric::Megabytes, 100.0),
        ]);
        let table = workload(&results, "w", "about it", "m");
        assert!(table.contains("| m | 200 [100..300] | - |"), "{table}");
        assert!(table.contains("| k | 100 [50.0..100] | 2.000 × [2.000..3.000] |"), "{table}");
        let mut results = results;
        let mut sample = Sample::default();
        sample.set(Metric::Unanswered, 0.0);
        results.push("w", "k", sample);
        let table = workload(&results, "w", "about it", "m");
        assert!(!table.contains("never answered"), "{table}");
    }

    #[test]
    fn targets_are_met_missed_or_unknown() {
        let results = results(&[
            ("bulk-4", "m", Metric::Megabytes, 900.0),
            ("bulk-4", FLOOR, Metric::Megabytes, 1000.0),
            ("bulk-4", "k", Metric::Megabytes, 800.0),
            ("small-5", "m", Metric::Records, 100.0),
            ("small-5000", "m", Metric::Records, 80.0),
            ("tail-1", "m", Metric::ResidentPeak, 99.0),
        ]);
        let table = targets(&results, &NAMES);
        assert!(row(&table, "4 partitions, to the bare loop").ends_with("| 0.90 × | ≥ 0.70 × | met |"), "{table}");
        assert!(row(&table, "4 partitions, to k").ends_with("| 1.12 × | ≥ 1.50 × | **missed** |"), "{table}");
        assert!(row(&table, "16 partitions, to k").ends_with("| - | ≥ 1.50 × | - |"), "{table}");
        assert!(row(&table, "5,000 partitions").ends_with("| 0.80 × | ≥ 0.70 × | met |"), "{table}");
        assert!(row(&table, "memory budget").ends_with("| 99.0 MiB | ≤ 100 MiB | met |"), "{table}");
    }

    #[test]
    fn without_a_rival_its_targets_are_unknown() {
        let names = Names { rival: None, variant: None, memory_budget_bytes: None, ..NAMES };
        let table = targets(&results(&[("bulk-4", "m", Metric::Megabytes, 900.0)]), &names);
        assert!(table.lines().skip(2).all(|line| line.ends_with("| - |")), "{table}");
    }
}
