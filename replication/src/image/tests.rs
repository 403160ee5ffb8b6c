//! Images: what records make of them, and what two of them share.

use std::collections::BTreeSet;

use millstream_storage::random::Random;

use super::*;
use crate::broker_ids::BrokerIds;
use crate::quota::{PRODUCER_BYTE_RATE, QuotaEntity, QuotaValue};
use crate::record::{LevelRange, METADATA_VERSION_FIRST, METADATA_VERSIONS, NO_LEADER};

fn partition(leader_epoch: i32, partition_epoch: i32) -> Partition {
    Partition { replicas: [1].into(), isr: [1].into(), leader: 1, leader_epoch, partition_epoch }
}

fn topic(id: u8, name: &str) -> MetadataRecord {
    MetadataRecord::Topic { topic_id: TopicId([id; 16]), name: name.into() }
}

fn add_partition(id: u8, partition: i32, state: Partition) -> MetadataRecord {
    MetadataRecord::Partition { topic_id: TopicId([id; 16]), partition, state }
}

#[test]
fn topics_are_found_by_name_and_id_until_they_are_removed() {
    let mut image = ClusterImage::new();
    image.replay(&topic(1, "a.b"));
    image.replay(&add_partition(1, 0, partition(0, 0)));
    image.replay(&add_partition(1, 1, partition(0, 0)));
    image.replay(&topic(2, "c"));
    assert_eq!(image.topic("a.b").unwrap().partitions.len(), 2);
    assert_eq!(&*image.topic_by_id(TopicId([2; 16])).unwrap().name, "c");
    assert_eq!(&*image.colliding_topic("a_b").unwrap().name, "a.b");
    assert_eq!(image.partition_count(), 2);
    assert_eq!(image.offset(), 4);

    image.replay(&MetadataRecord::RemoveTopic { topic_id: TopicId([1; 16]) });
    assert!(image.topic("a.b").is_none());
    assert!(image.topic_by_id(TopicId([1; 16])).is_none());
    assert!(image.colliding_topic("a_b").is_none());
    assert_eq!(image.partition_count(), 0);

    // Its place is used again; the topic beside it is untouched.
    image.replay(&topic(3, "a.b"));
    assert_eq!(image.topic("a.b").unwrap().id, TopicId([3; 16]));
    assert_eq!(image.topic("c").unwrap().id, TopicId([2; 16]));
    assert_eq!(image.topics().count(), 2);
}

#[test]
fn partitions_that_nobody_leads_are_counted() {
    let mut image = ClusterImage::new();
    let led = |partition_epoch| partition(0, partition_epoch);
    let offline = |partition_epoch| Partition { leader: NO_LEADER, ..partition(0, partition_epoch) };
    image.replay(&topic(1, "a"));
    image.replay(&topic(2, "b"));
    for (id, index, state, expected) in [
        (1, 0, offline(0), 1),
        (1, 1, led(0), 1),
        (2, 0, led(0), 1),
        (2, 0, offline(1), 2),
        (2, 0, offline(2), 2),
        (1, 0, led(1), 1),
        (1, 1, offline(1), 2),
    ] {
        image.replay(&add_partition(id, index, state));
        assert_eq!(image.offline_count(), expected, "topic {id}, partition {index}");
    }
    image.replay(&MetadataRecord::RemoveTopic { topic_id: TopicId([1; 16]) });
    assert_eq!(image.offline_count(), 1);
}

#[test]
fn records_that_cannot_follow_are_refused() {
    let mut image = ClusterImage::new();
    image.replay(&topic(1, "a"));
    image.replay(&add_partition(1, 0, partition(5, 5)));
    let broker = |epoch| MetadataRecord::Broker(Broker { node_id: 1, epoch, ..Broker::default() });
    let change = |node_id, epoch| MetadataRecord::BrokerChange {
        node_id,
        epoch,
        is_fenced: true,
        in_controlled_shutdown: false,
    };
    image.replay(&broker(7));
    assert_eq!(image.check(&change(1, 7)), Ok(()));
    image.replay(&MetadataRecord::ProducerIds { next: 1000 });
    for refused in [
        topic(1, "b"),
        topic(2, "a"),
        topic(2, "a/b"),
        add_partition(1, 2, partition(0, 0)),
        add_partition(1, -1, partition(0, 0)),
        add_partition(2, 0, partition(0, 0)),
        add_partition(1, 0, partition(4, 6)),
        add_partition(1, 0, partition(5, 5)),
        add_partition(1, 0, Partition { leader: 2, ..partition(6, 6) }),
        add_partition(1, 0, Partition { isr: [1, 2].into(), ..partition(6, 6) }),
        add_partition(1, 0, Partition { isr: [1, 1].into(), ..partition(6, 6) }),
        add_partition(1, 0, Partition { isr: [].into(), ..partition(6, 6) }),
        add_partition(1, 0, Partition { replicas: [1, 1].into(), ..partition(6, 6) }),
        add_partition(1, 0, partition(6, -1)),
        broker(7),
        change(1, 6),
        change(1, 8),
        change(2, 7),
        MetadataRecord::UnregisterBroker { node_id: 1, epoch: 7 },
        MetadataRecord::UnregisterBroker { node_id: 2, epoch: 7 },
        MetadataRecord::ProducerIds { next: 999 },
        MetadataRecord::RemoveTopic { topic_id: TopicId([2; 16]) },
        MetadataRecord::Config {
            owner: ConfigOwner::Topic(TopicId([2; 16])),
            name: "retention.ms".into(),
            value: None,
        },
    ] {
        assert!(image.check(&refused).is_err(), "{refused:?}");
    }
}

#[test]
fn brokers_change_and_go_and_partitions_have_no_leader_meanwhile() {
    let mut image = ClusterImage::new();
    for node_id in [2, 1] {
        let epoch = i64::from(node_id) + 3;
        let broker = Broker { node_id, epoch, shards: 4, is_fenced: true, ..Broker::default() };
        image.replay(&MetadataRecord::Broker(broker));
    }
    assert_eq!((image.controller_id(1), image.brokers().len()), (None, 2), "who is fenced controls nothing");
    let change = |node_id: i32, is_fenced, in_controlled_shutdown| MetadataRecord::BrokerChange {
        node_id,
        epoch: i64::from(node_id) + 3,
        is_fenced,
        in_controlled_shutdown,
    };
    image.replay(&change(2, false, false));
    assert_eq!(image.controller_id(1), Some(2));
    image.replay(&change(1, false, true));
    assert_eq!((image.controller_id(1), image.controller_id(2), image.controller_id(3)), (Some(1), Some(2), Some(1)));
    let [one, two] = [1, 2].map(|node_id| image.broker(node_id).unwrap().clone());
    assert_eq!((one.shards, one.is_usable(), two.is_usable()), (4, false, true));

    image.replay(&topic(1, "a"));
    image.replay(&add_partition(1, 0, partition(0, 0)));
    let gone = MetadataRecord::UnregisterBroker { node_id: 1, epoch: 4 };
    assert!(image.check(&gone).is_err(), "it leads");
    image.replay(&add_partition(1, 0, Partition { leader: NO_LEADER, ..partition(1, 1) }));
    image.replay(&gone);
    assert_eq!((image.broker(1), image.controller_id(1)), (None, Some(2)));
    let again = ClusterImage::from_snapshot(image.offset(), &image.snapshot()).unwrap();
    assert_eq!(again, image);
}

#[test]
fn configs_are_layered_and_empty_owners_are_forgotten() {
    let mut image = ClusterImage::new();
    let set = |owner, name: &str, value: Option<&str>| MetadataRecord::Config {
        owner,
        name: name.into(),
        value: value.map(str::to_string),
    };
    image.replay(&topic(1, "a"));
    image.replay(&set(ConfigOwner::Cluster, "log.retention.ms", Some("1")));
    image.replay(&set(ConfigOwner::Broker(4), "log.retention.ms", Some("2")));
    let retention = |image: &ClusterImage, node| {
        let topic = image.topic("a").unwrap();
        image.topic_settings(topic, node, &Properties::new()).log.retention_ms
    };
    assert_eq!(retention(&image, 4), 2);
    assert_eq!(retention(&image, 5), 1);
    image.replay(&set(ConfigOwner::Topic(TopicId([1; 16])), "retention.ms", Some("3")));
    assert_eq!(retention(&image, 4), 3);

    image.replay(&set(ConfigOwner::Broker(4), "log.retention.ms", None));
    assert!(image.broker_configs(4).is_empty());
    assert!(!image.snapshot().contains(&set(ConfigOwner::Broker(4), "log.retention.ms", None)));
    assert_eq!(image.snapshot().len(), 3);
}

#[test]
fn quotas_are_in_the_image_and_in_its_snapshot() {
    let records = crate::log::samples::quotas();
    let mut image = ClusterImage::new();
    records.iter().for_each(|record| image.replay(record));
    assert_eq!(image.quotas().len(), 7);
    let again = ClusterImage::from_snapshot(image.offset(), &image.snapshot()).unwrap();
    assert_eq!(again, image);
    let of_nobody =
        MetadataRecord::Quota { entity: QuotaEntity::Ip(None), key: PRODUCER_BYTE_RATE.into(), value: None };
    assert!(image.check(&of_nobody).is_err());
}

#[test]
fn a_partition_takes_little_memory() {
    assert!(size_of::<Partition>() <= 96);
    let replicas = BrokerIds::from([1, 2, 3]);
    let inside = replicas.as_ptr().addr() - (&raw const replicas).addr();
    assert!(inside < size_of::<BrokerIds>(), "three replicas take no memory elsewhere");
}

/// Where every piece is that an image may share with another one.
fn pieces(image: &ClusterImage) -> BTreeSet<usize> {
    let mut addresses = Vec::new();
    image.places.pieces(&mut addresses);
    for topic in image.places.iter().filter_map(|place| match place {
        Place::Taken(topic) => Some(topic),
        Place::Free { .. } => None,
    }) {
        addresses.push(Arc::as_ptr(topic).addr());
        addresses.push(Arc::as_ptr(&topic.configs).addr());
        topic.partitions.pieces(&mut addresses);
    }
    for index in [&image.places_by_name, &image.places_by_id, &image.places_by_collision] {
        index.pieces(&mut addresses);
    }
    addresses.push(Arc::as_ptr(&image.brokers).addr());
    addresses.push(Arc::as_ptr(&image.broker_configs).addr());
    addresses.push(Arc::as_ptr(&image.cluster_configs).addr());
    addresses.push(Arc::as_ptr(&image.quotas).addr());
    addresses.into_iter().collect()
}

#[test]
fn a_change_after_a_clone_copies_a_few_pieces_at_any_size() {
    let id = |number: u32| TopicId(u128::from(number).to_be_bytes());
    let mut image = ClusterImage::new();
    for number in 0..10_000 {
        image.replay(&MetadataRecord::Topic { topic_id: id(number), name: format!("topic.{number}") });
        for index in 0..10 {
            let state = partition(0, 0);
            image.replay(&MetadataRecord::Partition { topic_id: id(number), partition: index, state });
        }
    }
    let old = Arc::new(image);
    let pieces_of_old = pieces(&old);
    assert!(pieces_of_old.len() > 30_000, "{}", pieces_of_old.len());
    let mut image = Arc::clone(&old);
    assert!(Arc::ptr_eq(&old, &image));

    // A leaf and two branches of the places, the topic, the one leaf of its partitions.
    let change = |leader_epoch, partition_epoch| {
        let state = partition(leader_epoch, partition_epoch);
        MetadataRecord::Partition { topic_id: id(7_000), partition: 3, state }
    };
    Arc::make_mut(&mut image).replay(&change(1, 1));
    let changed = pieces(&image);
    assert_eq!(changed.difference(&pieces_of_old).count(), 5);
    assert_eq!(pieces_of_old.difference(&changed).count(), 5);
    // Nobody else has these: no record copies them again until the image is published.
    Arc::make_mut(&mut image).replay(&change(2, 2));
    assert_eq!(pieces(&image), changed);

    // Each of the three indexes copies at most three branches and a bucket, which may become as many as a branch has.
    let published = Arc::clone(&image);
    let topic = MetadataRecord::Topic { topic_id: id(10_000), name: "topic.x".into() };
    Arc::make_mut(&mut image).replay(&topic);
    assert!(pieces(&image).difference(&pieces(&published)).count() <= 3 + 3 + 3 * (4 + 32));
    let published = Arc::clone(&image);
    Arc::make_mut(&mut image).replay(&MetadataRecord::RemoveTopic { topic_id: id(1) });
    assert!(pieces(&image).difference(&pieces(&published)).count() <= 3 + 3 * 4);

    // The old image is what it was.
    assert_eq!(pieces(&old), pieces_of_old);
    assert_eq!(old.offset(), 110_000);
    assert_eq!(old.topic("topic.7000").unwrap().partitions[3], partition(0, 0));
    assert!(old.topic("topic.1").is_some() && old.topic("topic.x").is_none());
    assert_eq!(image.topic("topic.7000").unwrap().partitions[3], partition(2, 2));
    assert!(image.topic("topic.1").is_none() && image.topic("topic.x").is_some());
    assert_eq!(image.partition_count(), 100_000 - 10);
}

/// A record that may follow.
fn any_record(image: &ClusterImage, random: &mut Random) -> MetadataRecord {
    let number = random.below(60);
    let topic_id = match image.topics().count() {
        0 => TopicId([0; 16]),
        count => image.topics().nth(random.index(count)).unwrap().id,
    };
    loop {
        let record = match random.below(12) {
            0 => MetadataRecord::Cluster { cluster_id: [4; 16] },
            1 => MetadataRecord::Broker(Broker {
                node_id: (number % 4) as i32,
                epoch: image.offset() as i64,
                endpoints: Vec::new(),
                rack: random.coin().then(|| number.to_string()),
                ..Broker::default()
            }),
            2..5 => MetadataRecord::Topic {
                topic_id: TopicId(random.bytes()),
                name: format!("{}{}{number}", ["t", "u"][random.index(2)], [".", "_", "-"][random.index(3)]),
            },
            5..8 => {
                let partitions = image.topic_by_id(topic_id).map(|topic| &topic.partitions);
                let count = partitions.map_or(0, SharedVec::len);
                let index = random.index(count + 1);
                let epoch = partitions.and_then(|list| Some(list.get(index)?.partition_epoch + 1)).unwrap_or(0);
                MetadataRecord::Partition { topic_id, partition: index as i32, state: partition(epoch / 2, epoch) }
            }
            8 => MetadataRecord::RemoveTopic { topic_id },
            9 => MetadataRecord::Config {
                owner: match random.below(3) {
                    0 => ConfigOwner::Topic(topic_id),
                    1 => ConfigOwner::Broker((number % 4) as i32),
                    _ => ConfigOwner::Cluster,
                },
                name: format!("config.{}", number % 3),
                value: random.coin().then(|| number.to_string()),
            },
            10 => MetadataRecord::Quota {
                entity: QuotaEntity::Client(Some((number % 4).to_string())),
                key: PRODUCER_BYTE_RATE.into(),
                value: QuotaValue::new(number as f64),
            },
            _ => MetadataRecord::ProducerIds { next: image.next_producer_id() + number as i64 },
        };
        if image.check(&record).is_ok() {
            return record;
        }
    }
}

/// The order of topics, by the rule that a topic gets the place that became free last.
#[derive(Clone, Default)]
struct Order {
    places: Vec<Option<TopicId>>,
    free: Vec<usize>,
}

impl Order {
    fn replay(&mut self, record: &MetadataRecord) {
        match record {
            MetadataRecord::Topic { topic_id, .. } => match self.free.pop() {
                Some(place) => self.places[place] = Some(*topic_id),
                None => self.places.push(Some(*topic_id)),
            },
            MetadataRecord::RemoveTopic { topic_id } => {
                let place = self.places.iter().position(|id| *id == Some(*topic_id)).unwrap();
                self.places[place] = None;
                self.free.push(place);
            }
            _ => {}
        }
    }
}

#[test]
fn every_clone_goes_its_own_way_as_if_it_were_the_only_one() {
    for seed in 0..30 {
        let mut random = Random::new(seed);
        let mut histories = vec![(Arc::new(ClusterImage::new()), Vec::new(), Order::default())];
        for step in 0..1_500 {
            if step % 250 == 249 {
                histories.push(histories[random.index(histories.len())].clone());
            }
            let at = random.index(histories.len());
            let (image, records, order) = &mut histories[at];
            let record = any_record(image, &mut random);
            Arc::make_mut(image).replay(&record);
            order.replay(&record);
            records.push(record);
        }
        for (image, records, order) in &histories {
            let mut replayed = ClusterImage::new();
            records.iter().for_each(|record| replayed.replay(record));
            assert_eq!(**image, replayed, "seed {seed}");
            let ids = |image: &ClusterImage| image.topics().map(|topic| topic.id).collect::<Vec<TopicId>>();
            assert_eq!(ids(image), ids(&replayed), "seed {seed}");
            assert!(order.places.iter().flatten().eq(&ids(image)), "seed {seed}");
            assert_eq!(image.partition_count(), image.topics().map(|topic| topic.partitions.len()).sum());
            let offline = |partition: &&Partition| partition.leader == NO_LEADER;
            let partitions = image.topics().flat_map(|topic| topic.partitions.iter());
            assert_eq!(image.offline_count(), partitions.filter(offline).count());
            for topic in image.topics() {
                assert_eq!(image.topic(&topic.name).map(|found| found.id), Some(topic.id));
                assert_eq!(image.topic_by_id(topic.id).map(|found| &found.name), Some(&topic.name));
                let colliding = image.colliding_topic(&topic.name).map(|found| &*found.name);
                let expected = topic_name::colliding(&topic.name);
                assert_eq!(colliding.and_then(topic_name::colliding), expected);
            }
            let snapshot = image.snapshot();
            assert_eq!(snapshot, replayed.snapshot(), "seed {seed}");
            assert_eq!(ClusterImage::from_snapshot(image.offset(), &snapshot).as_ref(), Ok(&replayed));
            for record in records {
                if let MetadataRecord::Topic { topic_id, name } = record {
                    let is_there = image.topics().any(|topic| topic.id == *topic_id);
                    assert_eq!(image.topic_by_id(*topic_id).is_some(), is_there);
                    let is_there = image.topics().any(|topic| *topic.name == **name);
                    assert_eq!(image.topic(name).is_some(), is_there);
                }
            }
        }
    }
}

#[test]
fn a_snapshot_makes_the_same_image() {
    let mut image = ClusterImage::new();
    image.replay(&MetadataRecord::Cluster { cluster_id: [9; 16] });
    for id in [3, 1, 2] {
        image.replay(&topic(id, &format!("t{id}")));
        image.replay(&add_partition(id, 0, partition(0, 0)));
    }
    image.replay(&add_partition(1, 0, partition(1, 1)));
    image.replay(&MetadataRecord::RemoveTopic { topic_id: TopicId([3; 16]) });
    image.replay(&MetadataRecord::ProducerIds { next: 3000 });
    let again = ClusterImage::from_snapshot(image.offset(), &image.snapshot()).unwrap();
    assert_eq!(again, image);
    assert_eq!(again.topic("t1").unwrap().partitions[0].leader_epoch, 1);
    assert!(ClusterImage::from_snapshot(2, &image.snapshot()).is_err());
}

/// What is new is what a snapshot holds and an earlier one did not; what is gone, the other way round.
#[test]
fn the_difference_is_what_snapshots_differ_in() {
    let mut removals = 0;
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let mut image = ClusterImage::new();
        image.replay(&MetadataRecord::Cluster { cluster_id: [4; 16] });
        for _ in 0..random.below(400) {
            image.replay(&any_record(&image, &mut random));
        }
        let earlier = image.clone();
        assert_eq!(image.difference(&earlier), []);
        for _ in 0..random.below(400) {
            image.replay(&any_record(&image, &mut random));
        }
        let difference = image.difference(&earlier);
        assert!(difference.len() as u64 <= image.offset() - earlier.offset(), "seed {seed}");
        let is_removal = |record: &&MetadataRecord| {
            matches!(
                record,
                MetadataRecord::RemoveTopic { .. }
                    | MetadataRecord::UnregisterBroker { .. }
                    | MetadataRecord::Config { value: None, .. }
                    | MetadataRecord::Quota { value: None, .. }
            )
        };
        let (gone, new): (Vec<&MetadataRecord>, Vec<&MetadataRecord>) = difference.iter().partition(is_removal);
        let (now, before) = (image.snapshot(), earlier.snapshot());
        let expected: Vec<&MetadataRecord> = now.iter().filter(|record| !before.contains(record)).collect();
        assert_eq!(new.len(), expected.len(), "seed {seed}");
        assert!(expected.iter().all(|record| new.contains(record)), "seed {seed}");
        for record in &gone {
            let was_there = match record {
                MetadataRecord::RemoveTopic { topic_id } => {
                    earlier.topic_by_id(*topic_id).is_some() && image.topic_by_id(*topic_id).is_none()
                }
                MetadataRecord::Config { owner, name, .. } => {
                    let is_set = |records: &[MetadataRecord]| {
                        records.iter().any(|record| {
                            matches!(record, MetadataRecord::Config { owner: of, name: set, .. }
                            if of == owner && set == name)
                        })
                    };
                    is_set(&before) && !is_set(&now)
                }
                MetadataRecord::Quota { entity, key, .. } => {
                    earlier.quotas().value(entity, key).is_some() && image.quotas().value(entity, key).is_none()
                }
                other => panic!("nothing else is removed here: {other:?}"),
            };
            assert!(was_there, "seed {seed}: {record:?}");
        }
        let topics_gone = earlier.topics().filter(|topic| image.topic_by_id(topic.id).is_none()).count();
        let told = gone.iter().filter(|record| matches!(record, MetadataRecord::RemoveTopic { .. })).count();
        assert_eq!(told, topics_gone, "seed {seed}");
        removals += gone.len();
    }
    assert!(removals > 100, "{removals}");
}

#[test]
fn the_metadata_version_is_one_that_is_read_here_and_never_goes_back() {
    let mut image = ClusterImage::new();
    assert_eq!(image.metadata_version(), METADATA_VERSION_FIRST);
    let level = |level| MetadataRecord::MetadataVersion { level };
    assert_eq!(image.check(&level(METADATA_VERSIONS.max)), Ok(()));
    for wrong in [-1, 0, METADATA_VERSIONS.max + 1] {
        assert!(image.check(&level(wrong)).is_err(), "{wrong}");
    }
    let broker = |min, max| {
        let metadata_versions = LevelRange { min, max };
        MetadataRecord::Broker(Broker { node_id: 1, epoch: 1, metadata_versions, ..Broker::default() })
    };
    assert!(image.check(&broker(2, 3)).is_err());
    assert_eq!(image.check(&broker(1, 3)), Ok(()));
    // One of a later Millstream, which this one would not replay.
    image.metadata_version = 2;
    assert!(image.check(&level(1)).is_err(), "it goes back");
    assert!(image.check(&broker(1, 1)).is_err());
    assert_eq!(image.difference(&ClusterImage::new()), [level(2)]);
    assert_eq!(image.snapshot(), [level(2)]);
    assert!(ClusterImage::from_snapshot(5, &image.snapshot()).is_err());
}
