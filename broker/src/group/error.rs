//! Kafka's error codes that the group APIs answer with, as the numbers that responses carry.

use millstream_replication::ErrorCode;

pub const NONE: i16 = ErrorCode::None as i16;
pub const UNKNOWN_SERVER_ERROR: i16 = ErrorCode::UnknownServerError as i16;
pub const UNKNOWN_TOPIC_OR_PARTITION: i16 = ErrorCode::UnknownTopicOrPartition as i16;
pub const NOT_LEADER_OR_FOLLOWER: i16 = ErrorCode::NotLeaderOrFollower as i16;
pub const REQUEST_TIMED_OUT: i16 = ErrorCode::RequestTimedOut as i16;
pub const MESSAGE_TOO_LARGE: i16 = ErrorCode::MessageTooLarge as i16;
pub const OFFSET_METADATA_TOO_LARGE: i16 = ErrorCode::OffsetMetadataTooLarge as i16;
/// The coordinator is still reading the records of its partition; clients ask again.
pub const COORDINATOR_LOAD_IN_PROGRESS: i16 = ErrorCode::CoordinatorLoadInProgress as i16;
/// There is no coordinator now; clients look for it again.
pub const COORDINATOR_NOT_AVAILABLE: i16 = ErrorCode::CoordinatorNotAvailable as i16;
/// The group belongs to another coordinator, or has none here any more; clients look for it again.
pub const NOT_COORDINATOR: i16 = ErrorCode::NotCoordinator as i16;
pub const RECORD_LIST_TOO_LARGE: i16 = ErrorCode::RecordListTooLarge as i16;
pub const NOT_ENOUGH_REPLICAS: i16 = ErrorCode::NotEnoughReplicas as i16;
pub const NOT_ENOUGH_REPLICAS_AFTER_APPEND: i16 = ErrorCode::NotEnoughReplicasAfterAppend as i16;
pub const ILLEGAL_GENERATION: i16 = ErrorCode::IllegalGeneration as i16;
pub const INCONSISTENT_GROUP_PROTOCOL: i16 = ErrorCode::InconsistentGroupProtocol as i16;
pub const INVALID_GROUP_ID: i16 = ErrorCode::InvalidGroupId as i16;
pub const UNKNOWN_MEMBER_ID: i16 = ErrorCode::UnknownMemberId as i16;
pub const INVALID_SESSION_TIMEOUT: i16 = ErrorCode::InvalidSessionTimeout as i16;
pub const REBALANCE_IN_PROGRESS: i16 = ErrorCode::RebalanceInProgress as i16;
pub const INVALID_COMMIT_OFFSET_SIZE: i16 = ErrorCode::InvalidCommitOffsetSize as i16;
pub const INVALID_REQUEST: i16 = ErrorCode::InvalidRequest as i16;
pub const POLICY_VIOLATION: i16 = ErrorCode::PolicyViolation as i16;
pub const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: i16 = ErrorCode::TransactionalIdAuthorizationFailed as i16;
pub const KAFKA_STORAGE_ERROR: i16 = ErrorCode::KafkaStorageError as i16;
pub const NON_EMPTY_GROUP: i16 = ErrorCode::NonEmptyGroup as i16;
pub const GROUP_ID_NOT_FOUND: i16 = ErrorCode::GroupIdNotFound as i16;
pub const MEMBER_ID_REQUIRED: i16 = ErrorCode::MemberIdRequired as i16;
pub const GROUP_MAX_SIZE_REACHED: i16 = ErrorCode::GroupMaxSizeReached as i16;
pub const FENCED_INSTANCE_ID: i16 = ErrorCode::FencedInstanceId as i16;
pub const UNSUPPORTED_VERSION: i16 = ErrorCode::UnsupportedVersion as i16;
pub const FENCED_MEMBER_EPOCH: i16 = ErrorCode::FencedMemberEpoch as i16;
pub const UNRELEASED_INSTANCE_ID: i16 = ErrorCode::UnreleasedInstanceId as i16;
pub const UNSUPPORTED_ASSIGNOR: i16 = ErrorCode::UnsupportedAssignor as i16;
pub const STALE_MEMBER_EPOCH: i16 = ErrorCode::StaleMemberEpoch as i16;
pub const INVALID_REGULAR_EXPRESSION: i16 = ErrorCode::InvalidRegularExpression as i16;
pub const GROUP_SUBSCRIBED_TO_TOPIC: i16 = ErrorCode::GroupSubscribedToTopic as i16;

/// What a client is told when appending to `__consumer_offsets` failed with `append_error`. Clients know these answers
/// of a coordinator and look for it again or retry; the error of the append itself would surprise them.
pub fn for_failed_write(append_error: i16) -> i16 {
    match append_error {
        UNKNOWN_TOPIC_OR_PARTITION | NOT_ENOUGH_REPLICAS | NOT_ENOUGH_REPLICAS_AFTER_APPEND | REQUEST_TIMED_OUT => {
            COORDINATOR_NOT_AVAILABLE
        }
        NOT_LEADER_OR_FOLLOWER | KAFKA_STORAGE_ERROR => NOT_COORDINATOR,
        MESSAGE_TOO_LARGE | RECORD_LIST_TOO_LARGE => UNKNOWN_SERVER_ERROR,
        other => other,
    }
}
