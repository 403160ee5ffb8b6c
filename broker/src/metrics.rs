//! What a shard shows of itself: samples, rendered in Prometheus' text format by the HTTP port.

use std::collections::BTreeMap;

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
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: f64,
}

/// Renders the samples of several shards in Prometheus' text format, version 0.0.4. The first of each pair is the value
/// of the label `shard`.
pub fn render(shards: &[(String, Vec<Sample>)]) -> String {
    let mut by_name: BTreeMap<&'static str, Vec<(&str, &Sample)>> = BTreeMap::new();
    for (shard, samples) in shards {
        for sample in samples {
            by_name.entry(sample.name).or_default().push((shard, sample));
        }
    }
    let mut text = String::new();
    for (name, samples) in by_name {
        let (_, first) = samples[0];
        let kind = match first.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        text.push_str(&format!("# HELP {name} {}\n# TYPE {name} {kind}\n", escape(first.help)));
        for (shard, sample) in samples {
            text.push_str(&format!("{name}{{shard=\"{}\"", escape(shard)));
            for (label, value) in &sample.labels {
                text.push_str(&format!(",{label}=\"{}\"", escape(value)));
            }
            text.push_str(&format!("}} {}\n", sample.value));
        }
    }
    text
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_name_stand_together() {
        let sample = |name, labels: &[(&'static str, &str)], value| Sample {
            name,
            help: "Help.",
            kind: Kind::Counter,
            labels: labels.iter().map(|(label, text)| (*label, text.to_string())).collect(),
            value,
        };
        let shards = [
            ("0".to_owned(), vec![sample("b_total", &[("api", "a\"\\\n")], 1.5), sample("a_total", &[], 2.0)]),
            ("1".to_owned(), vec![sample("a_total", &[], 1e12)]),
        ];
        assert_eq!(
            render(&shards),
            "# HELP a_total Help.\n# TYPE a_total counter\na_total{shard=\"0\"} 2\na_total{shard=\"1\"} \
             1000000000000\n# HELP b_total Help.\n# TYPE b_total counter\nb_total{shard=\"0\",api=\"a\\\"\\\\\\n\"} \
             1.5\n"
        );
    }
}
