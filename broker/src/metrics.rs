//! What a shard shows of itself: samples and histograms, rendered in Prometheus' text format by the HTTP port.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;

use crate::histogram::Histogram;

/// How a sample's values relate over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One measured value. Names follow Prometheus' rules: unit last, `_total` for counters.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// For example `millstream_fetch_sendfile_bytes_total`.
    pub name: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// Label pairs besides `shard`, which the renderer adds.
    pub labels: Vec<(&'static str, &'static str)>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// A value that only grows, without labels.
    pub fn counter(name: &'static str, help: &'static str, value: u64) -> Sample {
        Sample { name, help, kind: Kind::Counter, labels: Vec::new(), value: value as f64 }
    }

    /// A value that goes up and down, without labels.
    pub fn gauge(name: &'static str, help: &'static str, value: u64) -> Sample {
        Sample { name, help, kind: Kind::Gauge, labels: Vec::new(), value: value as f64 }
    }
}

/// One histogram, of durations. All shards' are added up: a label `shard` would make many series of little use.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramSample {
    /// For example `millstream_request_duration_seconds`.
    pub name: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// Label pairs.
    pub labels: Vec<(&'static str, &'static str)>,
    /// The counts.
    pub histogram: Histogram,
}

/// What one shard, or the process, has to show.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scrape {
    /// Counters and gauges.
    pub samples: Vec<Sample>,
    /// Distributions of times and sizes.
    pub histograms: Vec<HistogramSample>,
}

/// Renders what the process and its shards have to show in Prometheus' text format, version 0.0.4. The first of each
/// pair is the value of the label `shard`.
pub fn render(process: &Scrape, shards: &[(String, Scrape)]) -> String {
    let mut text = String::with_capacity(64 * 1024);
    render_samples(process, shards, &mut text);
    render_histograms(process, shards, &mut text);
    text
}

fn render_samples(process: &Scrape, shards: &[(String, Scrape)], text: &mut String) {
    let mut by_name: BTreeMap<&'static str, Vec<(Option<&str>, &Sample)>> = BTreeMap::new();
    for sample in &process.samples {
        by_name.entry(sample.name).or_default().push((None, sample));
    }
    for (shard, scrape) in shards {
        for sample in &scrape.samples {
            by_name.entry(sample.name).or_default().push((Some(shard), sample));
        }
    }
    for (name, samples) in by_name {
        let (_, first) = samples[0];
        let kind = match first.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        head(name, first.help, kind, text);
        for (shard, sample) in samples {
            let shard = shard.map(|shard| ("shard", shard));
            text.push_str(name);
            labels(shard.into_iter().chain(sample.labels.iter().copied()), text);
            put(text, format_args!(" {}\n", sample.value));
        }
    }
}

fn render_histograms(process: &Scrape, shards: &[(String, Scrape)], text: &mut String) {
    type OfName<'a> = Vec<(&'a [(&'static str, &'static str)], Histogram)>;
    let mut by_name: BTreeMap<&'static str, (&'static str, OfName<'_>)> = BTreeMap::new();
    for sample in [process].into_iter().chain(shards.iter().map(|(_, scrape)| scrape)).flat_map(|it| &it.histograms) {
        let (_, of_name) = by_name.entry(sample.name).or_insert((sample.help, Vec::new()));
        match of_name.iter_mut().find(|(labels, _)| **labels == sample.labels) {
            Some((_, sum)) => sum.add(&sample.histogram),
            None => of_name.push((&sample.labels, sample.histogram.clone())),
        }
    }
    for (name, (help, of_name)) in by_name {
        head(name, help, "histogram", text);
        for (labelled, histogram) in of_name {
            let count = histogram.count();
            let bounds = histogram.cumulative().map(|(bound, below)| (bound.as_secs_f64().to_string(), below));
            for (bound, below) in bounds.chain([("+Inf".to_owned(), count)]) {
                put(text, format_args!("{name}_bucket"));
                labels(labelled.iter().copied().chain([("le", &*bound)]), text);
                put(text, format_args!(" {below}\n"));
            }
            for (suffix, value) in [("sum", histogram.sum().as_secs_f64()), ("count", count as f64)] {
                put(text, format_args!("{name}_{suffix}"));
                labels(labelled.iter().copied(), text);
                put(text, format_args!(" {value}\n"));
            }
        }
    }
}

fn head(name: &str, help: &str, kind: &str, text: &mut String) {
    put(text, format_args!("# HELP {name} {}\n# TYPE {name} {kind}\n", escape(help)));
}

fn labels<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>, text: &mut String) {
    let mut opening = '{';
    for (label, value) in pairs {
        put(text, format_args!("{opening}{label}=\"{}\"", escape(value)));
        opening = ',';
    }
    if opening == ',' {
        text.push('}');
    }
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a string takes everything");
}

fn escape(text: &str) -> Cow<'_, str> {
    if text.contains(['\\', '"', '\n']) {
        Cow::Owned(text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn samples_of_one_name_stand_together() {
        let sample = |name, labels: &[(&'static str, &'static str)], value| Sample {
            name,
            help: "Help.",
            kind: Kind::Counter,
            labels: labels.to_vec(),
            value,
        };
        let scrape = |samples: Vec<Sample>| Scrape { samples, histograms: Vec::new() };
        let shards = [
            ("0".to_owned(), scrape(vec![sample("b_total", &[("api", "a\"\\\n")], 1.5), sample("a_total", &[], 2.0)])),
            ("1".to_owned(), scrape(vec![sample("a_total", &[], 1e12)])),
        ];
        let process = scrape(vec![sample("c", &[], 3.0)]);
        assert_eq!(
            render(&process, &shards),
            "# HELP a_total Help.\n# TYPE a_total counter\na_total{shard=\"0\"} 2\na_total{shard=\"1\"} \
             1000000000000\n# HELP b_total Help.\n# TYPE b_total counter\nb_total{shard=\"0\",api=\"a\\\"\\\\\\n\"} \
             1.5\n# HELP c Help.\n# TYPE c counter\nc 3\n"
        );
    }

    #[test]
    fn histograms_of_all_shards_are_added_up() {
        let of_shard = |nanoseconds| {
            let mut histogram = Histogram::default();
            histogram.record(nanoseconds);
            let sample = HistogramSample { name: "a_seconds", help: "Help.", labels: vec![("api", "b")], histogram };
            (String::new(), Scrape { samples: Vec::new(), histograms: vec![sample] })
        };
        let text =
            render(&Scrape::default(), &[of_shard(1_500), of_shard(Duration::from_secs(3600).as_nanos() as u64)]);
        assert!(
            text.starts_with(
                "# HELP a_seconds Help.\n# TYPE a_seconds histogram\na_seconds_bucket{api=\"b\",le=\"0.000001024\"} \
                 0\na_seconds_bucket{api=\"b\",le=\"0.000001536\"} 1\n"
            ),
            "{text}"
        );
        assert!(
            text.ends_with(
                "le=\"68.719476736\"} 1\na_seconds_bucket{api=\"b\",le=\"+Inf\"} 2\na_seconds_sum{api=\"b\"} \
                 3600.0000015\na_seconds_count{api=\"b\"} 2\n"
            ),
            "{text}"
        );
    }
}
