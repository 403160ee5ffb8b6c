//! The workloads of a comparison: what is sent, and which bare loop it is held against.

use crate::produce::Shape;

/// One workload. Several have a common beginning up to `-`, by which they can be selected together.
#[derive(Clone, Debug)]
pub struct Workload {
    pub name: &'static str,
    pub about: &'static str,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub enum Kind {
    /// Producing as fast as the broker takes it.
    Produce { load: Load, floor: Option<Floor>, variants: bool },
    /// Producing at half of the rival's maximum, at fixed times.
    HalfRate,
    /// The same, with and without a consumer of old records.
    Backfill,
    /// Reading what was just written, over and over.
    Tail { connections: u32 },
    /// Reading what was written earlier, from the disk.
    Cold,
}

/// A producing load.
#[derive(Clone, Debug)]
pub struct Load {
    pub partitions: i32,
    pub connections: u32,
    pub shape: Shape,
    pub spin: bool,
}

/// The bare loop beside a producing load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floor {
    Ingest,
    PingPong,
}

/// What half of the maximum is measured with: Kafka's default batch.size of 16 KiB, 16 partitions, 8 producers.
pub fn half_rate_load() -> Load {
    load(16, 8, 1024, 16, 5)
}

/// What topics to be read are written with.
pub fn writing_load() -> Load {
    load(4, 4, 1024, 256, 5)
}

fn load(partitions: i32, connections: u32, record_bytes: usize, batch_records: usize, in_flight: usize) -> Load {
    let shape = Shape { record_bytes, batch_records, request_partitions: 1, in_flight };
    Load { partitions, connections, shape, spin: false }
}

/// All workloads, for brokers of so many nodes. A `tiny` one has fewer partitions.
pub fn all(tiny: bool, nodes: usize) -> Vec<Workload> {
    let partitions = |full: i32| if tiny { full.min(50) } else { full };
    let produce = |name, about, load, floor| {
        let kind = Kind::Produce { load, floor, variants: name == "small-1000" };
        Workload { name, about, kind }
    };
    // A producer has a request under way to each leader: of several nodes, one partition keeps it to one.
    let single_partitions = |connections: u32| if nodes == 1 { 8 } else { connections as i32 };
    let single = |connections| Load { spin: true, ..load(single_partitions(connections), connections, 1024, 1, 1) };
    let small = |full| load(partitions(full), 50, 100, 10, 5);
    let other = |name, about, kind| Workload { name, about, kind };
    vec![
        produce(
            "bulk-4",
            "1 KiB records, 256 a batch, 4 partitions, 4 producers",
            load(4, 4, 1024, 256, 5),
            Some(Floor::Ingest),
        ),
        produce(
            "bulk-16",
            "1 KiB records, 256 a batch, 16 partitions, 4 producers",
            load(16, 4, 1024, 256, 5),
            Some(Floor::Ingest),
        ),
        produce(
            "single-1",
            "one 1 KiB record a request, one in flight, 1 producer that polls",
            single(1),
            Some(Floor::PingPong),
        ),
        produce("single-8", "one 1 KiB record a request, one in flight, 8 producers that poll", single(8), None),
        produce("small-5", "100 B records, 10 a batch, 5 partitions, 50 producers", small(5), None),
        produce("small-1000", "100 B records, 10 a batch, 1,000 partitions, 50 producers", small(1000), None),
        produce("small-5000", "100 B records, 10 a batch, 5,000 partitions, 50 producers", small(5000), None),
        other("half-rate", "1 KiB records, 16 a batch, 16 partitions, 8 producers, at fixed times", Kind::HalfRate),
        other("tail-1", "a topic written just before, read over and over, 1 consumer", Kind::Tail { connections: 1 }),
        other("tail-4", "a topic written just before, read over and over, 4 consumers", Kind::Tail { connections: 4 }),
        other("cold", "a topic that is not in the page cache, read once, 4 consumers", Kind::Cold),
        other("backfill", "half-rate with and without a consumer of a cold topic beside it", Kind::Backfill),
    ]
}

/// What the runs of this name in the results were: some workloads have two.
pub fn about(name: &str) -> &'static str {
    match name {
        "half-rate-maximum" => "the shape of half-rate, as fast as the broker takes it",
        "backfill-without" => "half-rate alone",
        "backfill-with" => "half-rate with a consumer of a cold topic beside it",
        _ => all(false, 1).iter().find(|workload| workload.name == name).map_or("", |workload| workload.about),
    }
}

/// Those that are named, whole or by their beginning up to `-`; all when none is named.
pub fn select(all: Vec<Workload>, names: &[String]) -> Result<Vec<Workload>, String> {
    let is = |workload: &Workload, name: &str| workload.name == name || workload.name.split('-').next() == Some(name);
    if let Some(unknown) = names.iter().find(|name| !all.iter().any(|workload| is(workload, name))) {
        let known: Vec<&str> = all.iter().map(|workload| workload.name).collect();
        return Err(format!("no workload {unknown}; there are: {}", known.join(", ")));
    }
    Ok(all.into_iter().filter(|workload| names.is_empty() || names.iter().any(|name| is(workload, name))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(selected: &[&str]) -> Result<Vec<&'static str>, String> {
        let selected: Vec<String> = selected.iter().map(|name| name.to_string()).collect();
        Ok(select(all(false, 1), &selected)?.iter().map(|workload| workload.name).collect())
    }

    #[test]
    fn workloads_are_selected_whole_or_by_their_beginning() {
        assert_eq!(names(&["cold", "bulk"]).unwrap(), ["bulk-4", "bulk-16", "cold"]);
        assert_eq!(names(&["half-rate"]).unwrap(), ["half-rate"]);
        assert_eq!(names(&[]).unwrap().len(), all(true, 3).len());
        assert!(names(&["bulk-5"]).is_err());
    }

    #[test]
    fn results_say_what_they_are_of() {
        assert!(about("small-5000").contains("5,000 partitions") && about("small-5").contains(" 5 partitions"));
        assert!(about("backfill-with").contains("cold topic") && about("half-rate-maximum").contains("as fast as"));
    }

    #[test]
    fn no_two_workloads_have_the_same_name() {
        let mut unique: Vec<_> = all(false, 1).iter().map(|workload| workload.name).collect();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), all(false, 1).len());
    }
}
