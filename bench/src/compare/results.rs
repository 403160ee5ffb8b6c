//! What the runs of a comparison have measured, and what to make of several rounds.

/// What a run measures; tables have a column for each that a workload has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// 10^6 payload bytes a second.
    Megabytes,
    /// Records, or messages, a second.
    Records,
    /// Percentiles of the latency of requests, in milliseconds.
    P50,
    P99,
    P999,
    /// Processor seconds of the broker for 10^9 payload bytes.
    Cpu,
    /// MiB of resident memory after the run, and the most so far.
    Resident,
    ResidentPeak,
    /// MiB that were acknowledged and not on the disk when the run ended.
    Dirty,
    /// Requests that were due and never answered.
    Unanswered,
}

pub const METRICS: [Metric; 10] = [
    Metric::Megabytes,
    Metric::Records,
    Metric::P50,
    Metric::P99,
    Metric::P999,
    Metric::Cpu,
    Metric::Resident,
    Metric::ResidentPeak,
    Metric::Dirty,
    Metric::Unanswered,
];

impl Metric {
    pub fn heading(self) -> &'static str {
        match self {
            Metric::Megabytes => "MB/s",
            Metric::Records => "records/s",
            Metric::P50 => "p50 ms",
            Metric::P99 => "p99 ms",
            Metric::P999 => "p99.9 ms",
            Metric::Cpu => "CPU s/GB",
            Metric::Resident => "RSS MiB",
            Metric::ResidentPeak => "most RSS MiB",
            Metric::Dirty => "not on disk at the end, MiB",
            Metric::Unanswered => "never answered",
        }
    }
}

/// The values of one run, in the order of `METRICS`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample([Option<f64>; METRICS.len()]);

impl Sample {
    pub fn set(&mut self, metric: Metric, value: f64) {
        self.0[metric as usize] = Some(value).filter(|value| value.is_finite());
    }

    pub fn get(&self, metric: Metric) -> Option<f64> {
        self.0[metric as usize]
    }
}

/// Several rounds of one value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// `None` of nothing. The median of an even number is the mean of the two in the middle.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let median = (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
        Some(Spread { median, min, max })
    }
}

/// All runs: of each workload and contestant, in the order in which they were first seen.
#[derive(Default)]
pub struct Results {
    runs: Vec<(String, String, Vec<Sample>)>,
}

impl Results {
    pub fn push(&mut self, workload: &str, contestant: &str, sample: Sample) {
        match self.runs.iter_mut().find(|(of, by, _)| of == workload && by == contestant) {
            Some((_, _, samples)) => samples.push(sample),
            None => self.runs.push((workload.to_string(), contestant.to_string(), vec![sample])),
        }
    }

    /// Of runs that each measured one value.
    #[cfg(test)]
    pub fn of(runs: &[(&str, &str, Metric, f64)]) -> Results {
        let mut results = Results::default();
        for &(workload, contestant, metric, value) in runs {
            let mut sample = Sample::default();
            sample.set(metric, value);
            results.push(workload, contestant, sample);
        }
        results
    }

    pub fn workloads(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for (workload, _, _) in &self.runs {
            if !names.contains(&workload.as_str()) {
                names.push(workload);
            }
        }
        names
    }

    pub fn contestants(&self, workload: &str) -> Vec<&str> {
        self.runs.iter().filter(|(of, _, _)| of == workload).map(|(_, by, _)| by.as_str()).collect()
    }

    pub fn spread(&self, workload: &str, contestant: &str, metric: Metric) -> Option<Spread> {
        let (_, _, samples) = self.runs.iter().find(|(of, by, _)| of == workload && by == contestant)?;
        Spread::of(samples.iter().filter_map(|sample| sample.get(metric)))
    }

    pub fn median(&self, workload: &str, contestant: &str, metric: Metric) -> Option<f64> {
        self.spread(workload, contestant, metric).map(|spread| spread.median)
    }

    /// One contestant's values to another's, round by round: what slows the machine down in a round slows both.
    pub fn ratios(&self, workload: &str, part: &str, whole: &str, metric: Metric) -> Option<Spread> {
        let values = |contestant: &str| {
            let (_, _, samples) = self.runs.iter().find(|(of, by, _)| of == workload && by == contestant)?;
            samples.iter().map(|sample| sample.get(metric)).collect::<Option<Vec<f64>>>()
        };
        let (parts, wholes) = (values(part)?, values(whole)?);
        let ratios = parts.iter().zip(&wholes).map(|(part, whole)| part / whole);
        Spread::of(ratios.filter(|ratio| ratio.is_finite())).filter(|_| parts.len() == wholes.len())
    }

    /// The largest value in any run of a contestant.
    pub fn most(&self, contestant: &str, metric: Metric) -> Option<f64> {
        let samples = self.runs.iter().filter(|(_, by, _)| by == contestant).flat_map(|(_, _, samples)| samples);
        Spread::of(samples.filter_map(|sample| sample.get(metric))).map(|spread| spread.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ends() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
    }

    #[test]
    fn metrics_are_in_the_order_of_their_list() {
        for (index, metric) in METRICS.into_iter().enumerate() {
            assert_eq!(metric as usize, index);
        }
    }

    #[test]
    fn runs_are_kept_apart_by_workload_and_contestant() {
        let mut results = Results::default();
        for (workload, contestant, value) in [("a", "x", 1.0), ("a", "y", 9.0), ("a", "x", 3.0), ("b", "x", 5.0)] {
            let mut sample = Sample::default();
            sample.set(Metric::Cpu, value);
            sample.set(Metric::Dirty, f64::NAN);
            results.push(workload, contestant, sample);
        }
        assert_eq!((results.workloads(), results.contestants("a")), (vec!["a", "b"], vec!["x", "y"]));
        assert_eq!(results.median("a", "x", Metric::Cpu), Some(2.0));
        assert_eq!(results.most("x", Metric::Cpu), Some(5.0));
        assert_eq!(results.median("a", "x", Metric::Dirty), None);
        assert_eq!(results.median("c", "x", Metric::Cpu), None);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let mut results = Results::default();
        for (contestant, value) in [("x", 10.0), ("y", 20.0), ("x", 90.0), ("y", 100.0), ("x", 30.0), ("y", 30.0)] {
            let mut sample = Sample::default();
            sample.set(Metric::Megabytes, value);
            results.push("a", contestant, sample);
        }
        let expected = Some(Spread { median: 0.9, min: 0.5, max: 1.0 });
        assert_eq!(results.ratios("a", "x", "y", Metric::Megabytes), expected);
        assert_eq!(results.ratios("a", "x", "y", Metric::Cpu), None);
        results.push("a", "x", Sample::default());
        assert_eq!(results.ratios("a", "x", "y", Metric::Megabytes), None, "a round was not measured");
    }
}
