//! Which coordinator a request goes to; requests about several groups are taken apart and their responses put together.

use bytes::Bytes;
use kafka_wire::find_coordinator_response::Coordinator as FoundCoordinator;
use kafka_wire::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, DeleteGroupsRequest, DeleteGroupsResponse,
    DescribeGroupsRequest, DescribeGroupsResponse, FindCoordinatorRequest, FindCoordinatorResponse, ListGroupsResponse,
    OffsetFetchResponse,
};
use kafka_wire_core::{DecodeError, StrBytes};

use super::request::{GroupRequest, RequestKind, decode, decode_response, encode};
use super::{error, reply};

/// `key_type` of FindCoordinator for groups.
const KEY_TYPE_GROUP: i8 = 0;
/// `key_type` of FindCoordinator for transactional ids.
const KEY_TYPE_TRANSACTION: i8 = 1;

/// The partition of `__consumer_offsets` that holds a group: Java's string hash, made positive as Kafka does it.
pub fn partition_for_group(group_id: &str, partitions: i32) -> i32 {
    assert!(partitions > 0, "__consumer_offsets has partitions");
    let hash = group_id.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    (hash & i32::MAX) % partitions
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// To the coordinator of this partition, whose response is the whole response.
    One(i32, GroupRequest),
    /// A part to each of these partitions' coordinators. [`merge`] puts the responses together by the first: a request
    /// of this kind and version.
    Parts(GroupRequest, Vec<(i32, GroupRequest)>),
    /// To all coordinators of this node; [`merge`] puts the responses together.
    All(GroupRequest),
}

/// Finds the way of a request when `__consumer_offsets` has this many partitions.
pub fn route(request: GroupRequest, partitions: i32) -> Route {
    let partition = |group_id: &str| partition_for_group(group_id, partitions);
    let version = request.version;
    match request.kind {
        RequestKind::Join(ref join) => Route::One(partition(&join.group_id), request),
        RequestKind::Sync(ref sync) => Route::One(partition(&sync.group_id), request),
        RequestKind::Heartbeat(ref beat) => Route::One(partition(&beat.group_id), request),
        RequestKind::Leave(ref leave) => Route::One(partition(&leave.group_id), request),
        RequestKind::OffsetCommit { request: ref commit, .. } => Route::One(partition(&commit.group_id), request),
        RequestKind::OffsetDelete { request: ref delete, .. } => Route::One(partition(&delete.group_id), request),
        RequestKind::OffsetFetch { ref groups, .. } if groups.len() == 1 => {
            Route::One(partition(&groups[0].group_id), request)
        }
        RequestKind::OffsetFetch { groups, require_stable } => parts(
            version,
            groups,
            |group| partition(&group.group_id),
            |groups| RequestKind::OffsetFetch { groups, require_stable },
        ),
        RequestKind::Describe(describe) => parts(
            version,
            describe.groups,
            |group_id| partition(group_id),
            |groups| {
                let mut part = DescribeGroupsRequest::default();
                part.groups = groups;
                part.include_authorized_operations = describe.include_authorized_operations;
                RequestKind::Describe(part)
            },
        ),
        RequestKind::Delete(delete) => parts(
            version,
            delete.groups_names,
            |group_id| partition(group_id),
            |groups| {
                let mut part = DeleteGroupsRequest::default();
                part.groups_names = groups;
                RequestKind::Delete(part)
            },
        ),
        RequestKind::ConsumerHeartbeat(ref beat) => Route::One(partition(&beat.group_id), request),
        RequestKind::ConsumerDescribe(describe) => parts(
            version,
            describe.group_ids,
            |group_id| partition(group_id),
            |group_ids| {
                let mut part = ConsumerGroupDescribeRequest::default();
                part.group_ids = group_ids;
                part.include_authorized_operations = describe.include_authorized_operations;
                RequestKind::ConsumerDescribe(part)
            },
        ),
        RequestKind::List(_) => Route::All(request),
    }
}

/// One request for each partition that holds some of the groups.
fn parts<G>(
    version: i16,
    groups: Vec<G>,
    partition: impl Fn(&G) -> i32,
    kind: impl Fn(Vec<G>) -> RequestKind,
) -> Route {
    let mut by_partition: std::collections::BTreeMap<i32, Vec<G>> = Default::default();
    for group in groups {
        by_partition.entry(partition(&group)).or_default().push(group);
    }
    let part = |groups| GroupRequest { version, kind: kind(groups) };
    let parts = by_partition.into_iter().map(|(partition, groups)| (partition, part(groups))).collect();
    Route::Parts(part(Vec::new()), parts)
}

/// Puts together the response to a request of this kind and version from those to its parts, which coordinators encoded in
/// the same version.
pub fn merge(request: &GroupRequest, parts: Vec<Bytes>) -> Result<Bytes, DecodeError> {
    let version = request.version;
    Ok(match &request.kind {
        RequestKind::OffsetFetch { .. } => {
            let mut groups = Vec::new();
            for part in parts {
                groups.extend(decode_response::<OffsetFetchResponse>(version, part)?.groups);
            }
            reply::offset_fetch(version, groups)
        }
        RequestKind::Describe(_) => {
            let mut whole = DescribeGroupsResponse::default();
            for part in parts {
                let part: DescribeGroupsResponse = decode_response(version, part)?;
                whole.groups.extend(part.groups);
            }
            encode(version, &whole)
        }
        RequestKind::ConsumerDescribe(_) => {
            let mut whole = ConsumerGroupDescribeResponse::default();
            for part in parts {
                let part: ConsumerGroupDescribeResponse = decode_response(version, part)?;
                whole.groups.extend(part.groups);
            }
            encode(version, &whole)
        }
        RequestKind::Delete(_) => {
            let mut whole = DeleteGroupsResponse::default();
            for part in parts {
                let part: DeleteGroupsResponse = decode_response(version, part)?;
                whole.results.extend(part.results);
            }
            encode(version, &whole)
        }
        RequestKind::List(_) => {
            let mut whole = ListGroupsResponse::default();
            for part in parts {
                let part: ListGroupsResponse = decode_response(version, part)?;
                // Its groups are led elsewhere by now, and are listed there.
                if part.error_code == error::NOT_COORDINATOR {
                    continue;
                }
                // One coordinator that cannot answer makes the list incomplete: the client has to know.
                if part.error_code != error::NONE {
                    whole.error_code = part.error_code;
                }
                whole.groups.extend(part.groups);
            }
            encode(version, &whole)
        }
        other => unreachable!("{other:?} goes to one coordinator"),
    })
}

/// Where a coordinator can be reached, or the error code that says why it cannot.
pub type Located = Result<Node, i16>;

/// A broker as clients are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The broker's id.
    pub id: i32,
    /// Its advertised host.
    pub host: String,
    /// Its advertised port.
    pub port: i32,
}

/// Answers FindCoordinator: `locate` is given each group's partition. Keys that are not groups (transactional ids, share
/// groups) have no coordinator.
pub fn find_coordinator(
    version: i16,
    body: Bytes,
    partitions: i32,
    locate: impl Fn(i32) -> Located,
) -> Result<Bytes, DecodeError> {
    let request: FindCoordinatorRequest = decode(version, body)?;
    let find = |key: &str| match request.key_type {
        KEY_TYPE_GROUP => locate(partition_for_group(key, partitions)),
        // Transactions are not served, and this is the error that every client takes for final.
        KEY_TYPE_TRANSACTION => Err(error::TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
        _ => Err(error::COORDINATOR_NOT_AVAILABLE),
    };
    let mut response = FindCoordinatorResponse::default();
    if version < 4 {
        let found = describe_located(request.key.clone(), find(&request.key));
        response.error_code = found.error_code;
        if version >= 1 {
            response.error_message = found.error_message;
        }
        response.node_id = found.node_id;
        response.host = found.host;
        response.port = found.port;
    } else {
        for key in &request.coordinator_keys {
            let found = describe_located(key.clone(), find(key));
            response.coordinators.push(found);
        }
    }
    Ok(encode(version, &response))
}

fn describe_located(key: StrBytes, located: Located) -> FoundCoordinator {
    let mut found = FoundCoordinator::default();
    found.key = key;
    match located {
        Ok(node) => {
            found.node_id = node.id;
            found.host = StrBytes::from(node.host);
            found.port = node.port;
        }
        Err(error_code) => {
            found.error_code = error_code;
            found.node_id = -1;
            found.port = -1;
            found.error_message = Some(StrBytes::from(match error_code {
                error::TRANSACTIONAL_ID_AUTHORIZATION_FAILED => "Transactions are not served.",
                _ => "The coordinator is not available.",
            }));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_wire::find_coordinator_request::FindCoordinatorRequest;

    #[test]
    fn groups_are_where_kafka_looks_for_them() {
        // java: ("readers".hashCode() & 0x7fffffff) % 50, and so on.
        assert_eq!(partition_for_group("", 50), 0);
        assert_eq!(partition_for_group("a", 50), 97 % 50);
        assert_eq!(partition_for_group("ab", 50), (97 * 31 + 98) % 50);
        // "polygenelubricants".hashCode() is Integer.MIN_VALUE.
        assert_eq!(partition_for_group("polygenelubricants", 50), 0);
        // U+1D11E is two UTF-16 units: d834 dd1e.
        assert_eq!(partition_for_group("\u{1d11e}", 1 << 20), (0xd834 * 31 + 0xdd1e) % (1 << 20));
    }

    fn find(version: i16, keys: &[&str], key_type: i8, located: Located) -> FindCoordinatorResponse {
        let mut request = FindCoordinatorRequest::default();
        if version >= 1 {
            request.key_type = key_type;
        }
        if version < 4 {
            request.key = StrBytes::from(keys[0]);
        } else {
            request.coordinator_keys = keys.iter().map(|key| StrBytes::from(*key)).collect();
        }
        let body = encode(version, &request);
        let response = find_coordinator(version, body, 50, |_| located.clone()).unwrap();
        decode(version, response).unwrap()
    }

    #[test]
    fn find_coordinator_speaks_every_version() {
        let node = Node { id: 7, host: "broker".into(), port: 9092 };
        for version in 0..=6 {
            let found = find(version, &["a", "b"], 0, Ok(node.clone()));
            let missing = find(version, &["a"], 0, Err(error::COORDINATOR_NOT_AVAILABLE));
            if version < 4 {
                assert_eq!((found.error_code, found.node_id, found.port), (0, 7, 9092));
                assert_eq!(&*found.host, "broker");
                assert_eq!((missing.error_code, missing.node_id), (15, -1));
            } else {
                assert_eq!(found.coordinators.len(), 2);
                assert_eq!(&*found.coordinators[1].key, "b");
                assert_eq!(found.coordinators[1].node_id, 7);
                assert_eq!(missing.coordinators[0].error_code, 15);
            }
            if version >= 1 {
                let transaction = find(version, &["t"], 1, Ok(node.clone()));
                let code = transaction.coordinators.first().map_or(transaction.error_code, |found| found.error_code);
                assert_eq!(code, error::TRANSACTIONAL_ID_AUTHORIZATION_FAILED);
            }
        }
    }
}
