//! What `/metrics` shows, as JSON for the page: the same names, the shards' values beside each other.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;

use super::About;
use crate::histogram::Histogram;
use crate::json::Json;
use crate::metrics::Scrape;

/// Everything that the process and its shards have to show. `shards` has `None` for those that did not answer.
///
/// `process` has the numbers of the process; `shards` those of the shards, an array each with `null` for a shard that did
/// not answer; `histograms` the durations in seconds of all shards together, `buckets` as pairs of an upper bound and
/// the count of its own, only those that counted anything, the last bound `null` for none.
pub fn status(about: &About, trouble: Option<&str>, process: &Scrape, shards: &[Option<Scrape>]) -> Json {
    let mut samples: BTreeMap<String, Vec<Json>> = BTreeMap::new();
    let mut histograms: BTreeMap<String, Histogram> = BTreeMap::new();
    for (index, scrape) in shards.iter().enumerate() {
        for sample in scrape.iter().flat_map(|scrape| &scrape.samples) {
            let values =
                samples.entry(key(sample.name, &sample.labels)).or_insert_with(|| vec![Json::Null; shards.len()]);
            values[index] = sample.value.into();
        }
        for sample in scrape.iter().flat_map(|scrape| &scrape.histograms) {
            histograms.entry(key(sample.name, &sample.labels)).or_default().add(&sample.histogram);
        }
    }
    let of_process =
        process.samples.iter().map(|sample| (Cow::Owned(key(sample.name, &sample.labels)), sample.value.into()));
    Json::object([
        ("version", env!("CARGO_PKG_VERSION").into()),
        ("node", about.node_id.into()),
        ("listeners", Json::array(about.listeners.iter().map(String::as_str))),
        ("data_directory", about.data_directory.display().to_string().into()),
        ("trouble", trouble.into()),
        ("process", Json::Object(of_process.collect())),
        ("shards", Json::Object(samples.into_iter().map(|(key, values)| (key.into(), Json::Array(values))).collect())),
        (
            "histograms",
            Json::Object(histograms.into_iter().map(|(key, value)| (key.into(), histogram(&value))).collect()),
        ),
    ])
}

/// A metric's name with its labels, as `/metrics` writes it.
fn key(name: &str, labels: &[(&'static str, &'static str)]) -> String {
    let mut key = name.to_owned();
    for (index, (label, value)) in labels.iter().enumerate() {
        let opening = if index == 0 { '{' } else { ',' };
        write!(key, "{opening}{label}=\"{value}\"").expect("a string takes everything");
    }
    if !labels.is_empty() {
        key.push('}');
    }
    key
}

fn histogram(histogram: &Histogram) -> Json {
    let mut buckets = Vec::new();
    let mut before = 0;
    let bounds = histogram.cumulative().map(|(bound, below)| (Some(bound.as_secs_f64()), below));
    for (bound, below) in bounds.chain([(None, histogram.count())]) {
        if below > before {
            buckets.push(Json::Array(vec![bound.into(), (below - before).into()]));
        }
        before = below;
    }
    Json::object([
        ("count", histogram.count().into()),
        ("sum", histogram.sum().as_secs_f64().into()),
        ("buckets", Json::Array(buckets)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{HistogramSample, Kind, Sample};

    #[test]
    fn shards_stand_beside_each_other() {
        let sample = |name, labels: &[(&'static str, &'static str)], value| Sample {
            name,
            help: "",
            kind: Kind::Gauge,
            labels: labels.to_vec(),
            value,
        };
        let of_shard = |value| {
            let mut counted = Histogram::default();
            counted.record(1_000);
            counted.record(u64::MAX / 2);
            let of_api = HistogramSample { name: "d", help: "", labels: vec![("api", "x")], histogram: counted };
            Some(Scrape { samples: vec![sample("a", &[("b", "c"), ("d", "e")], value)], histograms: vec![of_api] })
        };
        let process = Scrape { samples: vec![sample("p", &[], 0.5)], ..Scrape::default() };
        let text =
            status(&About::for_tests(), Some("late"), &process, &[of_shard(1.0), None, of_shard(3.0)]).to_string();
        let expected = "\"trouble\":\"late\",\"process\":{\"p\":0.5},\"shards\":{\"a{b=\\\"c\\\",d=\\\"e\\\"}\":\
                        [1,null,3]},\"histograms\":{\"d{api=\\\"x\\\"}\":{\"count\":4,\"sum\":18446744073.709553,\
                        \"buckets\":[[0.000001024,2],[null,2]]}}}";
        assert!(text.ends_with(expected), "{text}");
    }
}
