//! Where partitions lie. Those that the cluster image knows lie below `topics/`. What it does not know at a start may only
//! be newer than the image, so nothing of it is deleted: it is *set aside* below `strays/`, named as Kafka names what it
//! sets aside, with its state beside its segments. A later image that knows it takes it back; it is removed when the
//! controller has confirmed that it is gone ([`crate::ShardLog::remove_confirmed`]).
//!
//! Every step may be done again. A partition has one directory at any time, because a directory is renamed as a whole;
//! the state in it counts where the last generation says nothing of the partition.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::disk::Disk;
use super::replay::ReplayedPartition;
use super::{CHECKPOINT_BYTES_MAX, KnownPartition, RecoveryError};
use crate::bug::{Bug, is_planted};
use crate::checkpoint::{Checkpoint, checkpoint_path};
use crate::disk::{DiskError, DiskOp, FilePath};
use crate::journal::Salt;
use crate::partition_log::partition_directory;
use crate::partition_state::{PartitionState, SegmentState};
use crate::segment::{index_path, segment_path};
use crate::{PartitionKey, TopicId};

const TOPICS: &str = "topics";
const STRAYS: &str = "strays";
/// Ends the name of what is set aside (Kafka: `LogManager.StrayDirSuffix`).
const STRAY_SUFFIX: &str = "-stray";
/// The name of a file or directory is no longer, in bytes (`NAME_MAX`).
const NAME_BYTES_MAX: usize = 255;
/// Stands for the topic's name where only the journal knew the partition, which does not say it.
const NO_TOPIC: &str = "unknown";

/// A partition that is set aside.
#[derive(Clone, Debug, PartialEq)]
pub struct Stray {
    /// The partition.
    pub key: PartitionKey,
    /// Its directory, relative to the data directory.
    pub directory: FilePath,
    /// Its state; none if something of it is missing, as it is when its removal was interrupted.
    pub state: Option<PartitionState>,
}

/// Where a partition set aside lies: `strays/<topic>-<partition>.<topic id>-stray`. Of a topic whose name is too long for that
/// the name is cut, as Kafka does: the id says which topic it is.
fn stray_directory(topic: &str, key: PartitionKey) -> String {
    let end = format!("-{}.{}{STRAY_SUFFIX}", key.partition, key.topic_id.to_base64());
    let mut bytes = topic.len().min(NAME_BYTES_MAX - end.len());
    while !topic.is_char_boundary(bytes) {
        bytes -= 1;
    }
    format!("{STRAYS}/{}{end}", &topic[..bytes])
}

/// The topic and the partition that the name of such a directory says.
fn stray_of(name: &str) -> Option<(&str, PartitionKey)> {
    let (left, id) = name.strip_suffix(STRAY_SUFFIX)?.rsplit_once('.')?;
    let (topic, partition) = left.rsplit_once('-')?;
    let key = PartitionKey { topic_id: TopicId::from_base64(id)?, partition: partition_of(partition)? };
    Some((topic, key))
}

/// The partition that the name of a directory below its topic id says.
fn partition_of(name: &str) -> Option<i32> {
    name.parse().ok().filter(|partition: &i32| *partition >= 0 && partition.to_string() == name)
}

/// A directory that was found.
#[derive(Clone, Debug)]
struct Place {
    topic: String,
    directory: String,
    is_stray: bool,
}

/// A state that lies beside a partition's segments.
pub(super) struct StateBeside {
    /// The generation whose journals it holds everything of; 0 if that is not known.
    pub generation: u64,
    pub state: PartitionState,
}

/// Where every partition lies that has a directory.
pub(super) struct Directories<'a> {
    known: &'a BTreeMap<PartitionKey, &'a KnownPartition>,
    places: BTreeMap<PartitionKey, Place>,
    /// The directories of topic ids that hold anything but partitions, and those of topics that hold anything else.
    foreign: BTreeSet<String>,
    /// The directories of topics.
    topics: BTreeSet<String>,
    /// The directories of topic ids.
    parents: BTreeSet<String>,
}

impl<'a> Directories<'a> {
    /// Looks for all of them.
    pub fn find(
        disk: &mut Disk<'_, '_>,
        known: &'a BTreeMap<PartitionKey, &'a KnownPartition>,
    ) -> Result<Directories<'a>, RecoveryError> {
        let mut found = Directories {
            known,
            places: BTreeMap::new(),
            foreign: BTreeSet::new(),
            topics: BTreeSet::new(),
            parents: BTreeSet::new(),
        };
        for (name, is_directory) in disk.list(STRAYS)? {
            if let Some((topic, key)) = stray_of(&name).filter(|_| is_directory) {
                let directory = format!("{STRAYS}/{name}");
                found.places.insert(key, Place { topic: topic.to_string(), directory, is_stray: true });
            }
        }
        for (topic, is_directory) in disk.list(TOPICS)? {
            if is_directory {
                found.find_topic(disk, &topic)?;
            }
        }
        Ok(found)
    }

    fn find_topic(&mut self, disk: &mut Disk<'_, '_>, topic: &str) -> Result<(), RecoveryError> {
        let topic_directory = format!("{TOPICS}/{topic}");
        self.topics.insert(topic_directory.clone());
        for (id, is_directory) in disk.list(&topic_directory)? {
            let Some(topic_id) = TopicId::from_base64(&id).filter(|_| is_directory) else {
                self.foreign.insert(topic_directory.clone());
                continue;
            };
            let parent = format!("{topic_directory}/{id}");
            self.parents.insert(parent.clone());
            for (name, is_directory) in disk.list(&parent)? {
                let Some(partition) = partition_of(&name).filter(|_| is_directory) else {
                    self.foreign.insert(parent.clone());
                    continue;
                };
                let key = PartitionKey { topic_id, partition };
                if self.known.get(&key).is_some_and(|known| known.topic != topic) {
                    // A copy that somebody made: what the image knows lies where its name says.
                    self.foreign.insert(parent.clone());
                    continue;
                }
                let directory = format!("{parent}/{name}");
                if let Some(other) = self.places.get(&key).map(|place| place.directory.clone()) {
                    // Whatever was made here and never written to is in nobody's way.
                    if disk.list(&directory)?.is_empty() {
                        continue;
                    }
                    return Err(RecoveryError::Corrupt(format!(
                        "{other} and {directory} hold the same partition: move the one that is a copy out of the data directory"
                    )));
                }
                self.places.insert(key, Place { topic: topic.to_string(), directory, is_stray: false });
            }
        }
        Ok(())
    }

    /// Whether the image knows the partition.
    pub fn is_known(&self, key: PartitionKey) -> bool {
        self.known.contains_key(&key)
    }

    /// Where a partition lies, or would if it had a directory; none if that is not known.
    pub fn of(&self, key: PartitionKey) -> Option<String> {
        let place = self.places.get(&key).map(|place| place.directory.clone());
        place.or_else(|| self.known.get(&key).map(|known| partition_directory(&known.topic, key)))
    }

    /// The states that lie beside partitions of which `has_state` says that the last generation knows nothing: they were
    /// set aside, or are being taken back.
    pub fn states_beside(
        &self,
        disk: &mut Disk<'_, '_>,
        has_state: impl Fn(PartitionKey) -> bool,
    ) -> Result<Vec<StateBeside>, RecoveryError> {
        let mut states = Vec::new();
        for (&key, place) in self.places.iter().filter(|(key, _)| !has_state(**key)) {
            let path = checkpoint_path(&place.directory);
            let bytes = match disk.read_all(&path, 0, CHECKPOINT_BYTES_MAX) {
                Ok(bytes) => bytes,
                Err(RecoveryError::Disk { error: DiskError::NotFound, .. }) => continue,
                Err(error) => return Err(error),
            };
            match Checkpoint::decode(bytes, 0).map(|checkpoint| (checkpoint.sequence, checkpoint.partitions)) {
                Ok((generation, mut partitions)) if partitions.len() == 1 && partitions[0].key == key => {
                    states.extend(partitions.pop().map(|state| StateBeside { generation, state }));
                }
                // Nobody may ever want it.
                _ if !self.is_known(key) => {}
                Ok(_) => return Err(RecoveryError::Corrupt(format!("{path} is damaged: it is of another partition"))),
                Err(unusable) => return Err(RecoveryError::Corrupt(format!("{path} is damaged: {}", unusable.0))),
            }
        }
        Ok(states)
    }

    /// The partitions that the image does not know, whose directory was never set aside and holds no more than open segments
    /// can leave, and of which the last generation (`has_state`) knows nothing: they were created just before the process
    /// ended, and nothing of them was ever durable. Indexes and states are written of what is durable only.
    pub fn unrecorded(
        &self,
        disk: &mut Disk<'_, '_>,
        has_state: impl Fn(PartitionKey) -> bool,
    ) -> Result<Vec<PartitionKey>, RecoveryError> {
        let mut unrecorded = Vec::new();
        let unknown = self.places.iter().filter(|(key, place)| !place.is_stray && !self.is_known(**key));
        for (&key, place) in unknown.filter(|(key, _)| !has_state(**key)) {
            if disk.list(&place.directory)?.iter().all(|(name, _)| name.ends_with(".log")) {
                unrecorded.push(key);
            }
        }
        Ok(unrecorded)
    }

    /// Brings partitions back that the image knows and an earlier one did not.
    pub fn take_back(
        &mut self,
        disk: &mut Disk<'_, '_>,
        has_state: impl Fn(PartitionKey) -> bool,
    ) -> Result<(), RecoveryError> {
        let known = self.known;
        let is_back = |key: &PartitionKey, place: &Place| place.is_stray && known.contains_key(key);
        let mut parents = BTreeSet::new();
        for (key, place) in self.places.iter().filter(|(key, place)| is_back(key, place)) {
            let topic = &known[key].topic;
            if !has_state(*key) {
                return Err(RecoveryError::Corrupt(format!(
                    "{} holds partition {} of topic {topic}, which exists, but not all of it",
                    place.directory, key.partition
                )));
            }
            let directory = partition_directory(topic, *key);
            let (parent, _) = directory.rsplit_once('/').expect("it lies below its topic");
            parents.insert(FilePath::from(parent));
        }
        disk.create_directories("creating the directories of topics", parents.into_iter().collect())?;
        let mut renames = Vec::new();
        for (key, place) in self.places.iter_mut().filter(|(key, place)| is_back(key, place)) {
            let topic = &known[key].topic;
            let directory = partition_directory(topic, *key);
            renames.push(DiskOp::Rename { from: place.directory.as_str().into(), to: directory.as_str().into() });
            *place = Place { directory, topic: topic.clone(), is_stray: false };
        }
        disk.all("taking partitions back", renames)
    }

    /// Where what the journal holds of a partition is written, and then its state, before it is set aside; none if nothing
    /// of it is to be written.
    pub fn kept_in(
        &self,
        disk: &mut Disk<'_, '_>,
        key: PartitionKey,
        replayed: &mut ReplayedPartition,
    ) -> Result<Option<String>, RecoveryError> {
        let place = self.places.get(&key);
        let is_nothing = replayed.state.log_end == 0 && replayed.state.history == 0;
        if is_planted(Bug::DeleteStrays) || !replayed.is_whole || place.is_none() && is_nothing {
            return Ok(None);
        }
        let directory = place.map_or_else(|| stray_directory(NO_TOPIC, key), |place| place.directory.clone());
        // Where not, what is left of it is of a removal that was interrupted.
        replayed.is_whole = holds_all(disk, &directory, replayed)?;
        let is_there = place.is_some_and(|place| place.is_stray) && replayed.is_beside;
        Ok(Some(directory).filter(|_| replayed.is_whole && !is_there))
    }

    /// Sets partitions aside that the image does not know. What was replayed of them is durable in their segments; where a
    /// state is given, it is written beside them first: that of the end of this generation's journals.
    pub fn set_aside(
        &mut self,
        disk: &mut Disk<'_, '_>,
        partitions: &[(PartitionKey, Option<&PartitionState>)],
        generation: u64,
    ) -> Result<(), RecoveryError> {
        if is_planted(Bug::DeleteStrays) {
            return self.delete(disk, partitions);
        }
        let (mut created, mut states, mut renames) = (Vec::new(), Vec::new(), Vec::new());
        for &(key, state) in partitions {
            assert!(!self.is_known(key), "what the image knows is recovered");
            let mut place = match self.places.get(&key) {
                Some(place) => place.clone(),
                // There is nothing of it, or all of it is removed already.
                None if state.is_none() => continue,
                None => {
                    let directory = stray_directory(NO_TOPIC, key);
                    created.push(directory.as_str().into());
                    Place { directory, topic: NO_TOPIC.to_string(), is_stray: true }
                }
            };
            // What it gave up stays: until the new generation is there, the next start may want it.
            states.extend(state.map(|state| write_state(&place.directory, state, generation)));
            if !place.is_stray {
                let directory = stray_directory(&place.topic, key);
                renames.push(DiskOp::Rename { from: place.directory.as_str().into(), to: directory.as_str().into() });
                place = Place { directory, is_stray: true, ..place };
            }
            self.places.insert(key, place);
        }
        if !renames.is_empty() {
            created.push(STRAYS.into());
        }
        disk.create_directories("creating the directories of what is set aside", created)?;
        disk.all("writing the states of partitions that are set aside", states)?;
        disk.all("setting partitions aside", renames)
    }

    /// What a bug does instead.
    fn delete(
        &mut self,
        disk: &mut Disk<'_, '_>,
        partitions: &[(PartitionKey, Option<&PartitionState>)],
    ) -> Result<(), RecoveryError> {
        let places = partitions.iter().filter_map(|(key, _)| self.places.remove(key));
        let removals = places.map(|place| DiskOp::Remove { path: place.directory.into() }).collect();
        disk.all("removing partitions", removals)
    }

    /// The partitions that have a directory and that the image does not know.
    pub fn unknown(&self) -> Vec<PartitionKey> {
        self.places.keys().copied().filter(|key| !self.is_known(*key)).collect()
    }

    /// Removes the directories of topics and topic ids that hold nothing.
    pub fn remove_empty(&self, disk: &mut Disk<'_, '_>) -> Result<(), RecoveryError> {
        let known = self.known.iter().map(|(key, known)| partition_directory(&known.topic, *key));
        let used: HashSet<String> = self
            .places
            .values()
            .filter(|place| !place.is_stray)
            .map(|place| place.directory.clone())
            .chain(known)
            .filter_map(|directory| directory.rsplit_once('/').map(|(parent, _)| parent.to_string()))
            .collect();
        // Those of partitions that the image knows may have been made just now.
        let mut full: HashSet<&str> =
            used.iter().filter_map(|parent| parent.rsplit_once('/')).map(|(topic, _)| topic).collect();
        let mut removals = Vec::new();
        for parent in &self.parents {
            if self.foreign.contains(parent) {
                full.extend(parent.rsplit_once('/').map(|(topic, _)| topic));
            } else if !used.contains(parent) {
                removals.push(DiskOp::Remove { path: parent.as_str().into() });
            }
        }
        disk.all("removing empty directories", removals)?;
        let is_empty = |topic: &&String| !full.contains(topic.as_str()) && !self.foreign.contains(*topic);
        let topics = self.topics.iter().filter(is_empty);
        let removals = topics.map(|topic| DiskOp::Remove { path: topic.as_str().into() }).collect();
        disk.all("removing empty directories", removals)
    }

    /// What is set aside, in the order of the partitions.
    pub fn strays(&self, mut replayed: BTreeMap<PartitionKey, ReplayedPartition>) -> Vec<Stray> {
        let of = |(&key, place): (&PartitionKey, &Place)| Stray {
            key,
            directory: place.directory.as_str().into(),
            state: replayed.remove(&key).filter(|replayed| replayed.is_whole).map(|replayed| replayed.state),
        };
        self.places.iter().filter(|(key, _)| !self.is_known(**key)).map(of).collect()
    }
}

/// The files of segments that a partition gave up, and the state that lies beside it, if one does: as long as the new
/// generation is not there, that may be all that is known of the partition.
pub(super) fn given_up(
    disk: &mut Disk<'_, '_>,
    directory: &str,
    state: &PartitionState,
) -> Result<(Vec<FilePath>, Option<FilePath>), RecoveryError> {
    let paths = |segment: &SegmentState| {
        let (base, version) = (segment.base_offset, segment.version);
        [segment_path(directory, base, version), index_path(directory, base, version)]
    };
    let expected: HashSet<FilePath> = state.segments.iter().flat_map(paths).collect();
    let beside = checkpoint_path(directory);
    let mut has_beside = false;
    let mut given_up = Vec::new();
    for (name, _) in disk.list(directory)? {
        let path = format!("{directory}/{name}");
        if path == *beside {
            has_beside = true;
        } else if !expected.contains(path.as_str()) {
            given_up.push(path.into());
        }
    }
    Ok((given_up, has_beside.then_some(beside)))
}

/// Whether every file is there that bytes of the partition lie in.
fn holds_all(disk: &mut Disk<'_, '_>, directory: &str, replayed: &ReplayedPartition) -> Result<bool, RecoveryError> {
    let names: HashSet<String> =
        disk.list(directory)?.into_iter().map(|(name, _)| format!("{directory}/{name}")).collect();
    Ok(replayed.state.segments.iter().filter(|segment| replayed.needs_file(segment)).all(|segment| {
        let path = segment_path(directory, segment.base_offset, segment.version);
        names.contains(&*path)
    }))
}

/// Writes the state of a partition beside its segments, all of whose bytes are durable: a checkpoint that holds nothing
/// else.
fn write_state(directory: &str, state: &PartitionState, generation: u64) -> DiskOp {
    let checkpoint = Checkpoint {
        shard: 0,
        salt: Salt::default(),
        sequence: generation,
        slots: 0,
        slot_bytes: 0,
        partitions: vec![state.clone()],
    };
    DiskOp::Replace { path: checkpoint_path(directory), data: checkpoint.encode() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_what_is_set_aside_says_what_it_is() {
        let key = PartitionKey { topic_id: TopicId([7; 16]), partition: 12 };
        for topic in ["t", "a.b-3.c", "-", "x-stray"] {
            let directory = stray_directory(topic, key);
            let name = directory.strip_prefix("strays/").expect("they lie there");
            assert_eq!(stray_of(name), Some((topic, key)), "{name}");
        }
        let long = "l".repeat(249);
        let directory = stray_directory(&long, key);
        let name = directory.strip_prefix("strays/").expect("they lie there");
        assert_eq!(name.len(), NAME_BYTES_MAX);
        assert!(stray_of(name).is_some_and(|(topic, of)| of == key && long.starts_with(topic)), "{name}");

        let id = key.topic_id.to_base64();
        for other in ["", "-stray", "t-1", "t-1.x-stray", &format!("t.{id}-stray"), &format!("t-01.{id}-stray")] {
            assert_eq!(stray_of(other), None, "{other}");
        }
    }
}
