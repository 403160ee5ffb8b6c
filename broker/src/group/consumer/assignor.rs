//! The server-side assignors (KIP-848): which member is to have which partitions. Pure functions of the subscriptions and
//! of the assignment before.
//!
//! Both give every partition of a topic that somebody subscribes to, to exactly one of its subscribers.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use millstream_storage::TopicId;

use crate::group::partitions::PartitionSet;

/// How often all topics are gone over to even out members that subscribe to different ones. Each move makes the members
/// more equal, so that it ends by itself; the bound is for time.
const BALANCING_ROUNDS_MAX: usize = 8;

/// An assignor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    /// As equal as can be, and of those the one with the fewest moves.
    Uniform,
    /// Of each topic a row of partitions for each member, in the order of their names.
    Range,
}

impl Assignor {
    /// The assignor of this name, or of Kafka's class of it.
    pub fn named(name: &str) -> Option<Assignor> {
        match name.strip_prefix("org.apache.kafka.coordinator.group.assignor.").unwrap_or(name) {
            "uniform" | "UniformAssignor" => Some(Assignor::Uniform),
            "range" | "RangeAssignor" => Some(Assignor::Range),
            _ => None,
        }
    }

    /// What clients call it.
    pub fn name(self) -> &'static str {
        match self {
            Assignor::Uniform => "uniform",
            Assignor::Range => "range",
        }
    }

    /// What each member is to have, in the order of the members.
    pub fn assign(self, topics: &[AssignedTopic], members: &[Subscriber<'_>]) -> Vec<PartitionSet> {
        match self {
            Assignor::Uniform => uniform(topics, members),
            Assignor::Range => range(topics, members),
        }
    }
}

/// A topic to be shared out.
#[derive(Clone, Copy, Debug)]
pub struct AssignedTopic {
    /// The topic.
    pub id: TopicId,
    /// How many partitions it has.
    pub partitions: i32,
}

/// A member that takes part.
#[derive(Clone, Debug)]
pub struct Subscriber<'a> {
    /// By this it stands in a row: the instance id of a static member, so that its place stays, or the member id.
    pub name: &'a str,
    /// The places of its topics.
    pub topics: Vec<usize>,
    /// What it was to have before.
    pub before: Option<&'a PartitionSet>,
}

/// The subscribers of each topic, in their order.
fn subscribers(topics: &[AssignedTopic], members: &[Subscriber<'_>]) -> Vec<Vec<usize>> {
    let mut subscribers = vec![Vec::new(); topics.len()];
    for (member, subscriber) in members.iter().enumerate() {
        for &topic in &subscriber.topics {
            subscribers[topic].push(member);
        }
    }
    subscribers
}

fn range(topics: &[AssignedTopic], members: &[Subscriber<'_>]) -> Vec<PartitionSet> {
    let mut assigned = vec![PartitionSet::default(); members.len()];
    for (topic, mut row) in topics.iter().zip(subscribers(topics, members)) {
        if row.is_empty() {
            continue;
        }
        row.sort_by_key(|member| members[*member].name);
        let (each, rest) = (topic.partitions as usize / row.len(), topic.partitions as usize % row.len());
        let mut next = 0..topic.partitions;
        for (place, member) in row.into_iter().enumerate() {
            for partition in next.by_ref().take(each + usize::from(place < rest)) {
                assigned[member].insert(topic.id, partition);
            }
        }
    }
    assigned
}

/// Topics with the same subscribers, and who has which of their partitions.
struct Class {
    subscribers: Vec<usize>,
    /// By member: topic and partition.
    has: BTreeMap<usize, Vec<(usize, i32)>>,
    /// Nobody had them.
    free: Vec<(usize, i32)>,
}

fn uniform(topics: &[AssignedTopic], members: &[Subscriber<'_>]) -> Vec<PartitionSet> {
    let places: HashMap<TopicId, usize> = topics.iter().enumerate().map(|(place, topic)| (topic.id, place)).collect();
    let subscribed: Vec<BTreeSet<usize>> =
        members.iter().map(|member| member.topics.iter().copied().collect()).collect();
    let mut owners: Vec<Vec<Option<usize>>> =
        topics.iter().map(|topic| vec![None; topic.partitions as usize]).collect();
    let mut load = vec![0usize; members.len()];
    for (member, subscriber) in members.iter().enumerate() {
        for (id, partition) in subscriber.before.into_iter().flat_map(PartitionSet::iter) {
            let Some(&topic) = places.get(&id).filter(|topic| subscribed[member].contains(topic)) else { continue };
            let owner = usize::try_from(partition).ok().and_then(|partition| owners[topic].get_mut(partition));
            if let Some(owner @ None) = owner {
                *owner = Some(member);
                load[member] += 1;
            }
        }
    }
    // Topics with few subscribers first: the others can make up for what these leave uneven.
    let mut classes: BTreeMap<(usize, Vec<usize>), Class> = BTreeMap::new();
    for (topic, row) in subscribers(topics, members).into_iter().enumerate() {
        if row.is_empty() {
            continue;
        }
        let class = classes.entry((row.len(), row)).or_insert_with_key(|(_, row)| Class {
            subscribers: row.clone(),
            has: BTreeMap::new(),
            free: Vec::new(),
        });
        for (partition, owner) in (0..).zip(&owners[topic]) {
            match owner {
                Some(member) => class.has.entry(*member).or_default().push((topic, partition)),
                None => class.free.push((topic, partition)),
            }
        }
    }
    for class in classes.values_mut() {
        let mut by_load: BTreeSet<(usize, usize)> =
            class.subscribers.iter().map(|member| (load[*member], *member)).collect();
        for partition in std::mem::take(&mut class.free) {
            let (least, member) = by_load.pop_first().expect("a class has subscribers");
            by_load.insert((least + 1, member));
            load[member] += 1;
            class.has.entry(member).or_default().push(partition);
        }
    }
    for _ in 0..BALANCING_ROUNDS_MAX {
        let moved: usize = classes.values_mut().map(|class| even_out(class, &mut load)).sum();
        if moved == 0 || classes.len() == 1 {
            break;
        }
    }
    let mut assigned = vec![PartitionSet::default(); members.len()];
    for class in classes.into_values() {
        for (member, partitions) in class.has {
            for (topic, partition) in partitions {
                assigned[member].insert(topics[topic].id, partition);
            }
        }
    }
    assigned
}

/// Moves partitions of a class from who has most of all topics to who has least, while that makes them more equal;
/// returns how many.
fn even_out(class: &mut Class, load: &mut [usize]) -> usize {
    let mut by_load: BTreeSet<(usize, usize)> =
        class.subscribers.iter().map(|member| (load[*member], *member)).collect();
    let mut moved = 0;
    loop {
        let Some(&least) = by_load.first() else { return moved };
        let has_some = |member: &usize| class.has.get(member).is_some_and(|has| !has.is_empty());
        let giver =
            by_load.iter().rev().take_while(|(load, _)| *load > least.0 + 1).find(|(_, member)| has_some(member));
        let Some(&most) = giver else { return moved };
        let partition = class.has.get_mut(&most.1).and_then(Vec::pop).expect("the giver has some");
        class.has.entry(least.1).or_default().push(partition);
        by_load.remove(&least);
        by_load.remove(&most);
        load[least.1] += 1;
        load[most.1] -= 1;
        by_load.insert((load[least.1], least.1));
        by_load.insert((load[most.1], most.1));
        moved += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(partitions: &[i32]) -> Vec<AssignedTopic> {
        (1..)
            .zip(partitions)
            .map(|(id, partitions)| AssignedTopic { id: TopicId([id; 16]), partitions: *partitions })
            .collect()
    }

    fn members<'a>(
        names: &'a [&'a str],
        subscriptions: &[&[usize]],
        before: &'a [PartitionSet],
    ) -> Vec<Subscriber<'a>> {
        names
            .iter()
            .zip(subscriptions)
            .enumerate()
            .map(|(at, (name, topics))| Subscriber { name, topics: topics.to_vec(), before: before.get(at) })
            .collect()
    }

    fn sizes(assigned: &[PartitionSet]) -> Vec<usize> {
        assigned.iter().map(PartitionSet::len).collect()
    }

    /// Every partition that has subscribers is given to one of them, and none twice.
    fn check(topics: &[AssignedTopic], members: &[Subscriber<'_>], assigned: &[PartitionSet]) {
        let mut given = BTreeSet::new();
        for (member, partitions) in members.iter().zip(assigned) {
            for (id, partition) in partitions.iter() {
                let topic = topics.iter().position(|topic| topic.id == id).unwrap();
                assert!(member.topics.contains(&topic));
                assert!((0..topics[topic].partitions).contains(&partition));
                assert!(given.insert((id, partition)), "given twice");
            }
        }
        let subscribed: BTreeSet<usize> = members.iter().flat_map(|member| member.topics.clone()).collect();
        let all: i32 = subscribed.iter().map(|topic| topics[*topic].partitions).sum();
        assert_eq!(given.len(), all as usize);
    }

    #[test]
    fn range_gives_rows_in_the_order_of_names() {
        let topics = topics(&[5, 2]);
        let names = ["b", "a"];
        let members = members(&names, &[&[0, 1], &[0, 1]], &[]);
        let assigned = Assignor::Range.assign(&topics, &members);
        check(&topics, &members, &assigned);
        let of = |at: usize| assigned[at].iter().map(|(id, partition)| (id.0[0], partition)).collect::<Vec<_>>();
        assert_eq!(of(1), [(1, 0), (1, 1), (1, 2), (2, 0)]);
        assert_eq!(of(0), [(1, 3), (1, 4), (2, 1)]);
    }

    #[test]
    fn uniform_moves_no_more_than_it_has_to() {
        let topics = topics(&[7, 5]);
        let names = ["a", "b", "c", "d"];
        let all: &[usize] = &[0, 1];
        let two = Assignor::Uniform.assign(&topics, &members(&names[..2], &[all; 2], &[]));
        assert_eq!(sizes(&two), [6, 6]);
        let three = Assignor::Uniform.assign(&topics, &members(&names[..3], &[all; 3], &two));
        assert_eq!(sizes(&three), [4, 4, 4]);
        assert!(three[0].is_subset(&two[0]) && three[1].is_subset(&two[1]));
        // One goes: the others keep what they have.
        let left = Assignor::Uniform.assign(&topics, &members(&names[..2], &[all; 2], &three));
        assert_eq!(sizes(&left), [6, 6]);
        assert!(three[0].is_subset(&left[0]) && three[1].is_subset(&left[1]));
        // Partitions are added: everybody keeps what it has.
        let more = super::tests::topics(&[8, 5]);
        let grown = Assignor::Uniform.assign(&more, &members(&names[..3], &[all; 3], &three));
        check(&more, &members(&names[..3], &[all; 3], &three), &grown);
        assert!((0..3).all(|at| three[at].is_subset(&grown[at])));
        // A topic is gone.
        let fewer = &topics[..1];
        let shrunk = Assignor::Uniform.assign(fewer, &members(&names[..3], &[&all[..1]; 3], &three));
        check(fewer, &members(&names[..3], &[&all[..1]; 3], &three), &shrunk);
    }

    #[test]
    fn uniform_makes_up_for_different_subscriptions() {
        let topics = topics(&[6, 6]);
        let names = ["a", "b"];
        // The first may read one topic only: the second gets the other whole, and nothing of the first.
        let members = members(&names, &[&[0], &[0, 1]], &[]);
        let assigned = Assignor::Uniform.assign(&topics, &members);
        check(&topics, &members, &assigned);
        assert_eq!(sizes(&assigned), [6, 6]);
    }

    #[test]
    fn random_subscriptions_are_shared_out_and_even() {
        let mut state = 7u64;
        let mut below = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        for _ in 0..300 {
            let topics = topics(&(0..1 + below(4)).map(|_| below(9) as i32).collect::<Vec<_>>());
            let names: Vec<String> = (0..1 + below(6)).map(|at| format!("m{at}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let same = below(2) == 0;
            let subscriptions: Vec<Vec<usize>> =
                names.iter().map(|_| (0..topics.len()).filter(|_| same || below(3) > 0).collect()).collect();
            let subscriptions: Vec<&[usize]> = subscriptions.iter().map(Vec::as_slice).collect();
            let mut before: Vec<PartitionSet> = Vec::new();
            for _ in 0..below(4) {
                let assignor = [Assignor::Uniform, Assignor::Range][below(2) as usize];
                let given = members(&names, &subscriptions, &before);
                let assigned = assignor.assign(&topics, &given);
                check(&topics, &given, &assigned);
                if same && assignor == Assignor::Uniform {
                    let sizes = sizes(&assigned);
                    assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{sizes:?}");
                }
                let again = Assignor::Uniform.assign(&topics, &members(&names, &subscriptions, &assigned));
                if assignor == Assignor::Uniform {
                    assert_eq!(again, assigned, "nothing changed and nothing moves");
                }
                before = assigned;
            }
        }
    }
}
