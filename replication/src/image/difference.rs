//! What has become different between two images, where the records that were committed between them are not at hand: a snapshot
//! has brought the later one.

use std::collections::{BTreeMap, BTreeSet};

use super::{ClusterImage, NO_PROPERTIES, Topic};
use crate::config::Properties;
use crate::quota::{QuotaEntity, QuotaValue};
use crate::record::{ConfigOwner, MetadataRecord};

impl ClusterImage {
    /// What is different from an earlier image of the same cluster, as records of what is true now; in an order that depends on
    /// nothing but the two. There are at most as many as were committed between them.
    pub fn difference(&self, earlier: &ClusterImage) -> Vec<MetadataRecord> {
        let mut records = Vec::new();
        let gone = earlier.brokers().filter(|broker| self.broker(broker.node_id).is_none());
        records.extend(
            gone.map(|broker| MetadataRecord::UnregisterBroker { node_id: broker.node_id, epoch: broker.epoch }),
        );
        if self.metadata_version != earlier.metadata_version {
            records.push(MetadataRecord::MetadataVersion { level: self.metadata_version });
        }
        let changed = self.brokers().filter(|broker| earlier.broker(broker.node_id) != Some(*broker));
        records.extend(changed.cloned().map(MetadataRecord::Broker));
        configs(ConfigOwner::Cluster, &self.cluster_configs, &earlier.cluster_configs, &mut records);
        let owners: BTreeSet<i32> = self.broker_configs.keys().chain(earlier.broker_configs.keys()).copied().collect();
        for node_id in owners {
            let (now, before) = (self.broker_configs(node_id), earlier.broker_configs(node_id));
            configs(ConfigOwner::Broker(node_id), now, before, &mut records);
        }
        let gone = earlier.topics().filter(|topic| self.topic_by_id(topic.id).is_none());
        records.extend(gone.map(|topic| MetadataRecord::RemoveTopic { topic_id: topic.id }));
        for topic in self.topics() {
            topics(topic, earlier.topic_by_id(topic.id), &mut records);
        }
        let (now, before) = (quotas(self), quotas(earlier));
        records.extend(changes(&now, &before).map(|((entity, key), value)| MetadataRecord::Quota {
            entity: entity.clone(),
            key: key.clone(),
            value: value.copied(),
        }));
        if self.next_producer_id != earlier.next_producer_id {
            records.push(MetadataRecord::ProducerIds { next: self.next_producer_id });
        }
        records
    }
}

/// What was removed, without a value, then what was set.
fn changes<'a, K: Ord, V: PartialEq>(
    now: &'a BTreeMap<K, V>,
    before: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, Option<&'a V>)> {
    let removed = before.keys().filter(|key| !now.contains_key(*key)).map(|key| (key, None));
    let set = now.iter().filter(|(key, value)| before.get(*key) != Some(*value));
    removed.chain(set.map(|(key, value)| (key, Some(value))))
}

fn configs(owner: ConfigOwner, now: &Properties, before: &Properties, records: &mut Vec<MetadataRecord>) {
    let change = |(name, value): (&String, Option<&String>)| MetadataRecord::Config {
        owner,
        name: name.clone(),
        value: value.cloned(),
    };
    records.extend(changes(now, before).map(change));
}

fn topics(now: &Topic, before: Option<&Topic>, records: &mut Vec<MetadataRecord>) {
    let topic_id = now.id;
    if before.is_none() {
        records.push(MetadataRecord::Topic { topic_id, name: now.name.to_string() });
    }
    for (partition, state) in (0..).zip(&now.partitions) {
        if before.and_then(|before| before.partition(partition)) != Some(state) {
            records.push(MetadataRecord::Partition { topic_id, partition, state: state.clone() });
        }
    }
    let before = before.map_or(&NO_PROPERTIES, |before| &*before.configs);
    configs(ConfigOwner::Topic(topic_id), &now.configs, before, records);
}

fn quotas(image: &ClusterImage) -> BTreeMap<(QuotaEntity, String), QuotaValue> {
    let quotas = image.quotas.iter();
    let all = quotas.flat_map(|(entity, values)| values.iter().map(move |value| (entity, value)));
    all.map(|(entity, (key, value))| ((entity.clone(), (*key).to_string()), *value)).collect()
}
