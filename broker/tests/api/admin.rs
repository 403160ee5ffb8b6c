//! Quotas, elections, the quorum, brokers that go, and lists of resources, in every version.

use kafka_wire::add_raft_voter_request::AddRaftVoterRequest;
use kafka_wire::alter_client_quotas_request::{self as alter, AlterClientQuotasRequest};
use kafka_wire::describe_client_quotas_request::{ComponentData, DescribeClientQuotasRequest};
use kafka_wire::describe_quorum_request::{self, DescribeQuorumRequest};
use kafka_wire::elect_leaders_request::{ElectLeadersRequest, TopicPartitions};
use kafka_wire::list_config_resources_request::ListConfigResourcesRequest;
use kafka_wire::list_partition_reassignments_request::ListPartitionReassignmentsRequest;
use kafka_wire::remove_raft_voter_request::RemoveRaftVoterRequest;
use kafka_wire::unregister_broker_request::UnregisterBrokerRequest;
use kafka_wire_core::Uuid;
use millstream::protocol::versions::ApiKey;
use millstream_replication::ErrorCode;

use super::cluster::Cluster;

fn versions(key: ApiKey) -> std::ops::RangeInclusive<i16> {
    key.declaration().versions()
}

/// An entity by types and names; no name is the default.
fn entity(parts: &[(&str, Option<&str>)]) -> Vec<alter::EntityData> {
    let part = |(kind, name): &(&str, Option<&str>)| {
        let mut part = alter::EntityData::default();
        part.entity_type = (*kind).into();
        part.entity_name = name.map(Into::into);
        part
    };
    parts.iter().map(part).collect()
}

/// A value of `None` removes the key.
fn change(parts: &[(&str, Option<&str>)], values: &[(&str, Option<f64>)]) -> alter::EntryData {
    let mut entry = alter::EntryData::default();
    entry.entity = entity(parts);
    entry.ops = values
        .iter()
        .map(|(key, value)| {
            let mut op = alter::OpData::default();
            op.key = (*key).into();
            op.value = value.unwrap_or(0.0);
            op.remove = value.is_none();
            op
        })
        .collect();
    entry
}

fn alter_quotas(cluster: &mut Cluster, version: i16, is_dry: bool, entries: Vec<alter::EntryData>) -> Vec<i16> {
    let mut request = AlterClientQuotasRequest::default();
    request.validate_only = is_dry;
    request.entries = entries;
    let response = cluster.call(version, &request);
    assert_eq!(response.entries.len(), request.entries.len());
    for (answered, asked) in response.entries.iter().zip(&request.entries) {
        assert_eq!(answered.error_message.is_some(), answered.error_code != 0);
        let names = answered.entity.iter().map(|part| (part.entity_type.as_str(), part.entity_name.as_deref()));
        let asked = asked.entity.iter().map(|part| (part.entity_type.as_str(), part.entity_name.as_deref()));
        assert!(names.eq(asked));
    }
    response.entries.iter().map(|entry| entry.error_code).collect()
}

/// Each entity that matches, as text; the error where there is one.
fn describe_quotas(
    cluster: &mut Cluster,
    version: i16,
    is_strict: bool,
    components: &[(&str, i8, Option<&str>)],
) -> Result<Vec<String>, i16> {
    let mut request = DescribeClientQuotasRequest::default();
    request.strict = is_strict;
    request.components = components
        .iter()
        .map(|(kind, match_type, name)| {
            let mut component = ComponentData::default();
            component.entity_type = (*kind).into();
            component.match_type = *match_type;
            component.match_ = name.map(Into::into);
            component
        })
        .collect();
    let response = cluster.call(version, &request);
    let Some(entries) = response.entries else {
        assert!(response.error_message.is_some());
        return Err(response.error_code);
    };
    assert_eq!((response.error_code, response.error_message), (0, None));
    Ok(entries
        .iter()
        .map(|entry| {
            let names: Vec<String> = entry
                .entity
                .iter()
                .map(|part| format!("{}={}", part.entity_type, part.entity_name.as_deref().unwrap_or("<default>")))
                .collect();
            let values: Vec<String> =
                entry.values.iter().map(|value| format!("{}={}", value.key, value.value)).collect();
            format!("{}: {}", names.join(" "), values.join(" "))
        })
        .collect())
}

#[test]
fn client_quotas_are_set_listed_and_removed() {
    for version in versions(ApiKey::AlterClientQuotas) {
        let mut cluster = Cluster::new();
        let all = || {
            vec![
                change(
                    &[("client-id", Some("c"))],
                    &[("producer_byte_rate", Some(1024.0)), ("request_percentage", Some(12.5))],
                ),
                change(&[("client-id", None)], &[("consumer_byte_rate", Some(2048.0))]),
                change(&[("client-id", Some("c")), ("user", Some("u"))], &[("producer_byte_rate", Some(1.0))]),
                change(&[("user", None)], &[("controller_mutation_rate", Some(0.5))]),
                change(&[("ip", Some("10.0.0.1"))], &[("connection_creation_rate", Some(3.0))]),
            ]
        };
        assert_eq!(alter_quotas(&mut cluster, version, true, all()), [0; 5]);
        assert_eq!(describe_quotas(&mut cluster, version, false, &[]), Ok(vec![]));
        assert_eq!(alter_quotas(&mut cluster, version, false, all()), [0; 5]);
        let mut describe = |strict, components: &[_]| describe_quotas(&mut cluster, version, strict, components);
        let of_client = "client-id=c: producer_byte_rate=1024 request_percentage=12.5";
        let of_clients = "client-id=<default>: consumer_byte_rate=2048";
        let of_both = "user=u client-id=c: producer_byte_rate=1";
        let of_users = "user=<default>: controller_mutation_rate=0.5";
        let of_ip = "ip=10.0.0.1: connection_creation_rate=3";
        let list = |items: &[&str]| Ok(items.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(describe(false, &[]), list(&[of_clients, of_client, of_users, of_both, of_ip]));
        assert_eq!(describe(true, &[]), list(&[]));
        assert_eq!(describe(false, &[("client-id", 0, Some("c"))]), list(&[of_client, of_both]));
        assert_eq!(describe(true, &[("client-id", 0, Some("c"))]), list(&[of_client]));
        assert_eq!(describe(false, &[("client-id", 1, None)]), list(&[of_clients]));
        assert_eq!(describe(true, &[("client-id", 2, None)]), list(&[of_clients, of_client]));
        assert_eq!(describe(false, &[("user", 2, None), ("client-id", 2, None)]), list(&[of_both]));
        assert_eq!(describe(false, &[("ip", 2, None)]), list(&[of_ip]));

        let invalid = Err(ErrorCode::InvalidRequest.code());
        assert_eq!(describe(false, &[("ip", 2, None), ("user", 2, None)]), invalid);
        assert_eq!(describe(false, &[("user", 2, None), ("user", 1, None)]), invalid);
        assert_eq!(describe(false, &[("user", 0, None)]), invalid);
        assert_eq!(describe(false, &[("user", 1, Some("u"))]), invalid);
        assert_eq!(describe(false, &[("user", 3, None)]), invalid);
        assert_eq!(describe(false, &[("group", 2, None)]), Err(ErrorCode::UnsupportedVersion.code()));

        let remove = vec![change(&[("client-id", Some("c"))], &[("producer_byte_rate", None)])];
        assert_eq!(alter_quotas(&mut cluster, version, false, remove), [0]);
        let left = describe_quotas(&mut cluster, version, true, &[("client-id", 0, Some("c"))]);
        assert_eq!(left, list(&["client-id=c: request_percentage=12.5"]));
    }
}

#[test]
fn client_quotas_that_cannot_be_are_refused_one_by_one() {
    let mut cluster = Cluster::new();
    let rate = [("producer_byte_rate", Some(1.0))];
    let entries = vec![
        change(&[], &rate),
        change(&[("group", Some("g"))], &rate),
        change(&[("user", Some("u")), ("user", None)], &rate),
        change(&[("user", Some("u")), ("ip", None)], &rate),
        change(&[("user", Some(""))], &rate),
        change(&[("user", Some("u"))], &[("producer_byte_rate", Some(0.0))]),
        change(&[("user", Some("u"))], &[("connection_creation_rate", Some(1.0))]),
        change(&[("user", Some("good"))], &rate),
    ];
    let invalid = ErrorCode::InvalidRequest.code();
    let expected = [invalid, invalid, invalid, invalid, invalid, invalid, invalid, 0];
    assert_eq!(alter_quotas(&mut cluster, 1, false, entries), expected);
    let set = describe_quotas(&mut cluster, 1, false, &[]);
    assert_eq!(set, Ok(vec!["user=good: producer_byte_rate=1".to_string()]));
    let asked = cluster.asked;
    assert_eq!(alter_quotas(&mut cluster, 1, false, vec![change(&[], &rate)]), [invalid]);
    assert_eq!(cluster.asked, asked, "there was nothing to ask the controller");
}

#[test]
fn list_config_resources() {
    let mut cluster = Cluster::new();
    let mut list = |version, types: &[i8]| {
        let mut request = ListConfigResourcesRequest::default();
        request.resource_types = types.to_vec();
        let response = cluster.call(version, &request);
        let mut names: Vec<String> = response
            .config_resources
            .iter()
            .map(|resource| format!("{} {}", resource.resource_type, resource.resource_name))
            .collect();
        names.sort();
        (response.error_code, names.join(", "))
    };
    assert_eq!(list(0, &[]), (0, String::new()));
    assert_eq!(list(1, &[]), (0, "2 events, 2 other, 4 1".to_string()));
    assert_eq!(list(1, &[4]), (0, "4 1".to_string()));
    assert_eq!(list(1, &[16, 32, 8]), (0, String::new()));
    assert_eq!(list(1, &[3]), (ErrorCode::UnsupportedVersion.code(), String::new()));
    cluster.start(2);
    cluster.fence(1);
    let mut request = ListConfigResourcesRequest::default();
    request.resource_types = vec![4];
    let listed = cluster.call(1, &request).config_resources;
    assert_eq!(listed.iter().map(|resource| &*resource.resource_name).collect::<Vec<_>>(), ["2"]);
}

#[test]
fn elect_leaders_that_lead_already() {
    for version in versions(ApiKey::ElectLeaders) {
        let mut request = ElectLeadersRequest::default();
        request.topic_partitions = None;
        let response = Cluster::new().call(version, &request);
        assert_eq!((response.error_code, response.replica_election_results.len()), (0, 0));

        let mut asked = TopicPartitions::default();
        asked.topic = "events".into();
        asked.partitions = vec![2, 3];
        request.topic_partitions = Some(vec![asked]);
        let response = Cluster::new().call(version, &request);
        let results: Vec<_> = response.replica_election_results[0]
            .partition_result
            .iter()
            .map(|result| (result.partition_id, result.error_code))
            .collect();
        let unknown = ErrorCode::UnknownTopicOrPartition.code();
        assert_eq!(results, [(2, ErrorCode::ElectionNotNeeded.code()), (3, unknown)]);
    }
}

#[test]
fn elect_leaders_whose_brokers_are_away() {
    for version in versions(ApiKey::ElectLeaders) {
        let mut cluster = Cluster::new();
        cluster.start(2);
        cluster.fence(1);
        let mut elect = |election_type, partitions: Option<Vec<i32>>| {
            let mut request = ElectLeadersRequest::default();
            request.election_type = election_type;
            request.topic_partitions = partitions.map(|partitions| {
                let mut asked = TopicPartitions::default();
                asked.topic = "events".into();
                asked.partitions = partitions;
                vec![asked]
            });
            let results = cluster.call(version, &request).replica_election_results;
            let results = results.into_iter().flat_map(|topic| topic.partition_result);
            results.map(|result| (result.partition_id, result.error_code)).collect::<Vec<_>>()
        };
        let preferred = ErrorCode::PreferredLeaderNotAvailable.code();
        let unknown = ErrorCode::UnknownTopicOrPartition.code();
        assert_eq!(elect(0, Some(vec![0, 3])), [(0, preferred), (3, unknown)]);
        assert_eq!(elect(0, None).len(), 4, "all of both topics");
        if version >= 1 {
            let eligible = ErrorCode::EligibleLeadersNotAvailable.code();
            assert_eq!(elect(1, Some(vec![1])), [(1, eligible)]);
        }
    }
}

#[test]
fn brokers_are_unregistered() {
    for version in versions(ApiKey::UnregisterBroker) {
        let mut cluster = Cluster::new();
        cluster.start(2);
        let mut request = UnregisterBrokerRequest::default();
        for (broker_id, error) in [(7, ErrorCode::BrokerIdNotRegistered), (2, ErrorCode::None)] {
            request.broker_id = broker_id;
            let response = cluster.call(version, &request);
            assert_eq!(response.error_code, error.code());
            assert_eq!(response.error_message.is_some(), error != ErrorCode::None);
        }
        assert!(cluster.image().broker(2).is_none());
    }
}

#[test]
fn no_partition_is_being_reassigned() {
    let mut request = ListPartitionReassignmentsRequest::default();
    request.topics = None;
    let response = Cluster::new().call(0, &request);
    assert_eq!((response.error_code, response.topics.len()), (0, 0));
}

#[test]
fn the_quorum_is_as_its_leader_sees_it() {
    for version in versions(ApiKey::DescribeQuorum) {
        let mut cluster = Cluster::new();
        let mut request = DescribeQuorumRequest::default();
        request.topics = ["__cluster_metadata", "events"]
            .map(|name| {
                let mut topic = describe_quorum_request::TopicData::default();
                topic.topic_name = name.into();
                topic.partitions = vec![describe_quorum_request::PartitionData::default()];
                topic
            })
            .to_vec();
        let response = cluster.call(version, &request);
        assert_eq!(response.error_code, 0);
        let partition = &response.topics[0].partitions[0];
        assert_eq!((partition.error_code, partition.leader_id, partition.current_voters.len()), (0, 1, 1));
        let voter = &partition.current_voters[0];
        // The term of its own election follows that of the founding; every entry of it is committed.
        assert_eq!((partition.leader_epoch, voter.replica_id), (2, 1));
        assert!(partition.high_watermark > 1);
        assert_eq!(partition.high_watermark, voter.log_end_offset);
        assert!(version < 1 || voter.last_caught_up_timestamp > 0);
        assert_eq!(!voter.replica_directory_id.is_zero(), version >= 2);
        assert!(partition.observers.is_empty());
        assert_eq!(response.topics[1].partitions[0].error_code, ErrorCode::UnknownTopicOrPartition.code());
        assert_eq!(response.nodes.len(), usize::from(version >= 2));
    }
}

#[test]
fn who_votes_is_decided_by_the_rules_of_the_quorum() {
    let mut cluster = Cluster::new();
    for version in versions(ApiKey::AddRaftVoter) {
        let mut request = AddRaftVoterRequest::default();
        request.cluster_id = None;
        request.voter_id = 1;
        request.voter_directory_id = Uuid::from_bytes([7; 16]);
        let mut add = |request: &AddRaftVoterRequest| {
            let response = cluster.call(version, request);
            assert_eq!(response.error_message.is_some(), response.error_code != 0);
            response.error_code
        };
        assert_eq!(add(&request), ErrorCode::DuplicateVoter.code());
        request.voter_id = 2;
        assert_eq!(add(&request), ErrorCode::RequestTimedOut.code(), "nobody has heard of it");
        request.cluster_id = Some("another".into());
        assert_eq!(add(&request), ErrorCode::InconsistentClusterId.code());
        request.cluster_id = None;
        request.voter_id = -1;
        assert_eq!(add(&request), ErrorCode::InvalidRequest.code());
    }
    for version in versions(ApiKey::RemoveRaftVoter) {
        let mut request = RemoveRaftVoterRequest::default();
        request.cluster_id = None;
        request.voter_id = 1;
        request.voter_directory_id = Uuid::from_bytes([7; 16]);
        assert_eq!(cluster.call(version, &request).error_code, ErrorCode::VoterNotFound.code());
        request.voter_id = -1;
        assert_eq!(cluster.call(version, &request).error_code, ErrorCode::InvalidRequest.code());
    }
}
