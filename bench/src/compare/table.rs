//! The tables of a comparison, in Markdown.

use crate::compare::results::{METRICS, Metric, Results, Spread};

/// The contestant that stands for a bare loop.
pub const FLOOR: &str = "bare loop";
/// The one whose loop polls for messages.
pub const FLOOR_POLLING: &str = "bare loop, polling";

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
            // One process of a broker has no rate of its own, nor processor time for one.
            let is_whole = *by != subject && results.spread(workload, by, Metric::Megabytes).is_some();
            let ratios = results.ratios(workload, subject, by, *metric).filter(|_| is_whole);
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
pub fn number(value: f64) -> String {
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

pub fn times(ratio: f64) -> String {
    format!("{ratio:.2} ×")
}

pub fn times_spread(spread: Spread) -> String {
    let Spread { median, min, max } = spread;
    if min == max { times(median) } else { format!("{median:.3} × [{min:.3}..{max:.3}]") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::results::Sample;

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
        let results = Results::of(&[
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
}
