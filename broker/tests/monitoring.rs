//! What operators watch by (`scripts/monitoring/`), held against the metrics that there are (`docs/metrics.md`, which another test
//! holds against what is exported) and against the runbook.

use std::collections::{BTreeMap, BTreeSet};

const METRICS: &str = include_str!("../../docs/metrics.md");
const ALERTS: &str = include_str!("../../scripts/monitoring/alerts.yml");
const TRIED: &str = include_str!("../../scripts/monitoring/alerts.test.yml");
const DASHBOARD: &str = include_str!("../../scripts/monitoring/dashboard.json");
const RUNBOOK: &str = include_str!("../../docs/operations/alerts.md");

/// Metrics by name, with their type and the labels that they have besides that of the shard.
fn documented() -> BTreeMap<&'static str, (&'static str, Vec<&'static str>)> {
    let (_, table) = METRICS.split_once("## All metrics").expect("the table");
    let row = |line: &'static str| {
        let (series, rest) = line.strip_prefix("| `")?.split_once('`')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()).collect();
        Some((name, (rest.split('|').nth(1)?.trim(), labels)))
    };
    table.lines().filter_map(row).collect()
}

/// Every word of a text that is the name of a series of ours, with what stands around it.
fn series(text: &'static str) -> Vec<(&'static str, &'static str, &'static str)> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(begin) = text[at..].find(is_part).map(|offset| at + offset) {
        let end = text[begin..].find(|character| !is_part(character)).map_or(text.len(), |offset| begin + offset);
        let word = &text[begin..end];
        if word.starts_with("millstream_") || word.starts_with("process_") {
            found.push((&text[..begin], word, &text[end..]));
        }
        at = end;
    }
    found
}

/// The metric of a series, and whether the series is a part of its histogram.
fn metric(series: &str) -> (&str, bool) {
    let part = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| series.strip_suffix(suffix));
    match part {
        Some(metric) if documented().contains_key(metric) => (metric, true),
        _ => (series, false),
    }
}

#[test]
fn dashboard_and_alerts_name_only_what_there_is() {
    let documented = documented();
    for (file, text, least) in
        [("alerts.yml", ALERTS, 20), ("dashboard.json", DASHBOARD, 40), ("alerts.test.yml", TRIED, 20)]
    {
        let mut names = BTreeSet::new();
        for (before, name, after) in series(text) {
            let (metric, is_part) = metric(name);
            let Some((kind, labels)) = documented.get(metric) else { panic!("{file}: there is no metric {name}") };
            assert_eq!(*kind == "histogram", is_part, "{file}: {name} is a {kind}");
            // What grows is looked at by its rate, and nothing else is.
            let function = ["rate(", "increase("].iter().any(|function| before.ends_with(function));
            if file != "alerts.test.yml" {
                assert_eq!(function, *kind != "gauge", "{file}: {name} is a {kind}");
            }
            let matchers =
                after.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(inside, _)| inside);
            for matcher in matchers.split(',').filter(|matcher| !matcher.is_empty()) {
                let label = matcher.split(['=', '!']).next().expect("a part").trim();
                let known = ["job", "instance", "shard", "le"].contains(&label) || labels.contains(&label);
                assert!(known, "{file}: {name} has no label {label}");
            }
            names.insert(name);
        }
        assert!(names.len() >= least, "{file}: only {} names", names.len());
    }
}

#[test]
fn every_alert_is_tried_and_has_its_entry_in_the_runbook() {
    let names = |text: &'static str, before: &str| -> BTreeSet<&'static str> {
        text.lines().filter_map(|line| line.trim_start().strip_prefix(before)).map(str::trim).collect()
    };
    let alerts = names(ALERTS, "- alert: ");
    assert!(alerts.len() >= 20, "{alerts:?}");
    assert_eq!(alerts, names(RUNBOOK, "### "), "those of docs/operations/alerts.md");
    assert_eq!(alerts, names(TRIED, "alertname: "), "those that alerts.test.yml tries");
    for alert in alerts {
        let place = format!("runbook: docs/operations/alerts.md#{}", alert.to_lowercase());
        assert!(ALERTS.contains(&place), "{alert} does not say where its entry is");
    }
}
