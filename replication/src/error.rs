//! The protocol's error codes, and an error with its explanation.

/// Why a request, or an item of it, failed: the names and numbers of Apache Kafka 4.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i16)]
pub enum ErrorCode {
    /// UNKNOWN_SERVER_ERROR
    UnknownServerError = -1,
    /// NONE
    None = 0,
    /// OFFSET_OUT_OF_RANGE
    OffsetOutOfRange = 1,
    /// CORRUPT_MESSAGE
    CorruptMessage = 2,
    /// UNKNOWN_TOPIC_OR_PARTITION
    UnknownTopicOrPartition = 3,
    /// INVALID_FETCH_SIZE
    InvalidFetchSize = 4,
    /// LEADER_NOT_AVAILABLE
    LeaderNotAvailable = 5,
    /// NOT_LEADER_OR_FOLLOWER
    NotLeaderOrFollower = 6,
    /// REQUEST_TIMED_OUT
    RequestTimedOut = 7,
    /// BROKER_NOT_AVAILABLE
    BrokerNotAvailable = 8,
    /// REPLICA_NOT_AVAILABLE
    ReplicaNotAvailable = 9,
    /// MESSAGE_TOO_LARGE
    MessageTooLarge = 10,
    /// STALE_CONTROLLER_EPOCH
    StaleControllerEpoch = 11,
    /// OFFSET_METADATA_TOO_LARGE
    OffsetMetadataTooLarge = 12,
    /// NETWORK_EXCEPTION
    NetworkException = 13,
    /// COORDINATOR_LOAD_IN_PROGRESS
    CoordinatorLoadInProgress = 14,
    /// COORDINATOR_NOT_AVAILABLE
    CoordinatorNotAvailable = 15,
    /// NOT_COORDINATOR
    NotCoordinator = 16,
    /// INVALID_TOPIC_EXCEPTION
    InvalidTopicException = 17,
    /// RECORD_LIST_TOO_LARGE
    RecordListTooLarge = 18,
    /// NOT_ENOUGH_REPLICAS
    NotEnoughReplicas = 19,
    /// NOT_ENOUGH_REPLICAS_AFTER_APPEND
    NotEnoughReplicasAfterAppend = 20,
    /// INVALID_REQUIRED_ACKS
    InvalidRequiredAcks = 21,
    /// ILLEGAL_GENERATION
    IllegalGeneration = 22,
    /// INCONSISTENT_GROUP_PROTOCOL
    InconsistentGroupProtocol = 23,
    /// INVALID_GROUP_ID
    InvalidGroupId = 24,
    /// UNKNOWN_MEMBER_ID
    UnknownMemberId = 25,
    /// INVALID_SESSION_TIMEOUT
    InvalidSessionTimeout = 26,
    /// REBALANCE_IN_PROGRESS
    RebalanceInProgress = 27,
    /// INVALID_COMMIT_OFFSET_SIZE
    InvalidCommitOffsetSize = 28,
    /// TOPIC_AUTHORIZATION_FAILED
    TopicAuthorizationFailed = 29,
    /// GROUP_AUTHORIZATION_FAILED
    GroupAuthorizationFailed = 30,
    /// CLUSTER_AUTHORIZATION_FAILED
    ClusterAuthorizationFailed = 31,
    /// INVALID_TIMESTAMP
    InvalidTimestamp = 32,
    /// UNSUPPORTED_SASL_MECHANISM
    UnsupportedSaslMechanism = 33,
    /// ILLEGAL_SASL_STATE
    IllegalSaslState = 34,
    /// UNSUPPORTED_VERSION
    UnsupportedVersion = 35,
    /// TOPIC_ALREADY_EXISTS
    TopicAlreadyExists = 36,
    /// INVALID_PARTITIONS
    InvalidPartitions = 37,
    /// INVALID_REPLICATION_FACTOR
    InvalidReplicationFactor = 38,
    /// INVALID_REPLICA_ASSIGNMENT
    InvalidReplicaAssignment = 39,
    /// INVALID_CONFIG
    InvalidConfig = 40,
    /// NOT_CONTROLLER
    NotController = 41,
    /// INVALID_REQUEST
    InvalidRequest = 42,
    /// UNSUPPORTED_FOR_MESSAGE_FORMAT
    UnsupportedForMessageFormat = 43,
    /// POLICY_VIOLATION
    PolicyViolation = 44,
    /// OUT_OF_ORDER_SEQUENCE_NUMBER
    OutOfOrderSequenceNumber = 45,
    /// DUPLICATE_SEQUENCE_NUMBER
    DuplicateSequenceNumber = 46,
    /// INVALID_PRODUCER_EPOCH
    InvalidProducerEpoch = 47,
    /// INVALID_TXN_STATE
    InvalidTxnState = 48,
    /// INVALID_PRODUCER_ID_MAPPING
    InvalidProducerIdMapping = 49,
    /// INVALID_TRANSACTION_TIMEOUT
    InvalidTransactionTimeout = 50,
    /// CONCURRENT_TRANSACTIONS
    ConcurrentTransactions = 51,
    /// TRANSACTION_COORDINATOR_FENCED
    TransactionCoordinatorFenced = 52,
    /// TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    TransactionalIdAuthorizationFailed = 53,
    /// SECURITY_DISABLED
    SecurityDisabled = 54,
    /// OPERATION_NOT_ATTEMPTED
    OperationNotAttempted = 55,
    /// KAFKA_STORAGE_ERROR
    KafkaStorageError = 56,
    /// LOG_DIR_NOT_FOUND
    LogDirNotFound = 57,
    /// SASL_AUTHENTICATION_FAILED
    SaslAuthenticationFailed = 58,
    /// UNKNOWN_PRODUCER_ID
    UnknownProducerId = 59,
    /// REASSIGNMENT_IN_PROGRESS
    ReassignmentInProgress = 60,
    /// DELEGATION_TOKEN_AUTH_DISABLED
    DelegationTokenAuthDisabled = 61,
    /// DELEGATION_TOKEN_NOT_FOUND
    DelegationTokenNotFound = 62,
    /// DELEGATION_TOKEN_OWNER_MISMATCH
    DelegationTokenOwnerMismatch = 63,
    /// DELEGATION_TOKEN_REQUEST_NOT_ALLOWED
    DelegationTokenRequestNotAllowed = 64,
    /// DELEGATION_TOKEN_AUTHORIZATION_FAILED
    DelegationTokenAuthorizationFailed = 65,
    /// DELEGATION_TOKEN_EXPIRED
    DelegationTokenExpired = 66,
    /// INVALID_PRINCIPAL_TYPE
    InvalidPrincipalType = 67,
    /// NON_EMPTY_GROUP
    NonEmptyGroup = 68,
    /// GROUP_ID_NOT_FOUND
    GroupIdNotFound = 69,
    /// FETCH_SESSION_ID_NOT_FOUND
    FetchSessionIdNotFound = 70,
    /// INVALID_FETCH_SESSION_EPOCH
    InvalidFetchSessionEpoch = 71,
    /// LISTENER_NOT_FOUND
    ListenerNotFound = 72,
    /// TOPIC_DELETION_DISABLED
    TopicDeletionDisabled = 73,
    /// FENCED_LEADER_EPOCH
    FencedLeaderEpoch = 74,
    /// UNKNOWN_LEADER_EPOCH
    UnknownLeaderEpoch = 75,
    /// UNSUPPORTED_COMPRESSION_TYPE
    UnsupportedCompressionType = 76,
    /// STALE_BROKER_EPOCH
    StaleBrokerEpoch = 77,
    /// OFFSET_NOT_AVAILABLE
    OffsetNotAvailable = 78,
    /// MEMBER_ID_REQUIRED
    MemberIdRequired = 79,
    /// PREFERRED_LEADER_NOT_AVAILABLE
    PreferredLeaderNotAvailable = 80,
    /// GROUP_MAX_SIZE_REACHED
    GroupMaxSizeReached = 81,
    /// FENCED_INSTANCE_ID
    FencedInstanceId = 82,
    /// ELIGIBLE_LEADERS_NOT_AVAILABLE
    EligibleLeadersNotAvailable = 83,
    /// ELECTION_NOT_NEEDED
    ElectionNotNeeded = 84,
    /// NO_REASSIGNMENT_IN_PROGRESS
    NoReassignmentInProgress = 85,
    /// GROUP_SUBSCRIBED_TO_TOPIC
    GroupSubscribedToTopic = 86,
    /// INVALID_RECORD
    InvalidRecord = 87,
    /// UNSTABLE_OFFSET_COMMIT
    UnstableOffsetCommit = 88,
    /// THROTTLING_QUOTA_EXCEEDED
    ThrottlingQuotaExceeded = 89,
    /// PRODUCER_FENCED
    ProducerFenced = 90,
    /// RESOURCE_NOT_FOUND
    ResourceNotFound = 91,
    /// DUPLICATE_RESOURCE
    DuplicateResource = 92,
    /// UNACCEPTABLE_CREDENTIAL
    UnacceptableCredential = 93,
    /// INCONSISTENT_VOTER_SET
    InconsistentVoterSet = 94,
    /// INVALID_UPDATE_VERSION
    InvalidUpdateVersion = 95,
    /// FEATURE_UPDATE_FAILED
    FeatureUpdateFailed = 96,
    /// PRINCIPAL_DESERIALIZATION_FAILURE
    PrincipalDeserializationFailure = 97,
    /// SNAPSHOT_NOT_FOUND
    SnapshotNotFound = 98,
    /// POSITION_OUT_OF_RANGE
    PositionOutOfRange = 99,
    /// UNKNOWN_TOPIC_ID
    UnknownTopicId = 100,
    /// DUPLICATE_BROKER_REGISTRATION
    DuplicateBrokerRegistration = 101,
    /// BROKER_ID_NOT_REGISTERED
    BrokerIdNotRegistered = 102,
    /// INCONSISTENT_TOPIC_ID
    InconsistentTopicId = 103,
    /// INCONSISTENT_CLUSTER_ID
    InconsistentClusterId = 104,
    /// TRANSACTIONAL_ID_NOT_FOUND
    TransactionalIdNotFound = 105,
    /// FETCH_SESSION_TOPIC_ID_ERROR
    FetchSessionTopicIdError = 106,
    /// INELIGIBLE_REPLICA
    IneligibleReplica = 107,
    /// NEW_LEADER_ELECTED
    NewLeaderElected = 108,
    /// OFFSET_MOVED_TO_TIERED_STORAGE
    OffsetMovedToTieredStorage = 109,
    /// FENCED_MEMBER_EPOCH
    FencedMemberEpoch = 110,
    /// UNRELEASED_INSTANCE_ID
    UnreleasedInstanceId = 111,
    /// UNSUPPORTED_ASSIGNOR
    UnsupportedAssignor = 112,
    /// STALE_MEMBER_EPOCH
    StaleMemberEpoch = 113,
    /// MISMATCHED_ENDPOINT_TYPE
    MismatchedEndpointType = 114,
    /// UNSUPPORTED_ENDPOINT_TYPE
    UnsupportedEndpointType = 115,
    /// UNKNOWN_CONTROLLER_ID
    UnknownControllerId = 116,
    /// UNKNOWN_SUBSCRIPTION_ID
    UnknownSubscriptionId = 117,
    /// TELEMETRY_TOO_LARGE
    TelemetryTooLarge = 118,
    /// INVALID_REGISTRATION
    InvalidRegistration = 119,
    /// TRANSACTION_ABORTABLE
    TransactionAbortable = 120,
    /// INVALID_RECORD_STATE
    InvalidRecordState = 121,
    /// SHARE_SESSION_NOT_FOUND
    ShareSessionNotFound = 122,
    /// INVALID_SHARE_SESSION_EPOCH
    InvalidShareSessionEpoch = 123,
    /// FENCED_STATE_EPOCH
    FencedStateEpoch = 124,
    /// INVALID_VOTER_KEY
    InvalidVoterKey = 125,
    /// DUPLICATE_VOTER
    DuplicateVoter = 126,
    /// VOTER_NOT_FOUND
    VoterNotFound = 127,
    /// INVALID_REGULAR_EXPRESSION
    InvalidRegularExpression = 128,
    /// REBOOTSTRAP_REQUIRED
    RebootstrapRequired = 129,
    /// STREAMS_INVALID_TOPOLOGY
    StreamsInvalidTopology = 130,
    /// STREAMS_INVALID_TOPOLOGY_EPOCH
    StreamsInvalidTopologyEpoch = 131,
    /// STREAMS_TOPOLOGY_FENCED
    StreamsTopologyFenced = 132,
    /// SHARE_SESSION_LIMIT_REACHED
    ShareSessionLimitReached = 133,
}

/// All of them, in the order of their numbers.
const ALL: [ErrorCode; 135] = [
    ErrorCode::UnknownServerError,
    ErrorCode::None,
    ErrorCode::OffsetOutOfRange,
    ErrorCode::CorruptMessage,
    ErrorCode::UnknownTopicOrPartition,
    ErrorCode::InvalidFetchSize,
    ErrorCode::LeaderNotAvailable,
    ErrorCode::NotLeaderOrFollower,
    ErrorCode::RequestTimedOut,
    ErrorCode::BrokerNotAvailable,
    ErrorCode::ReplicaNotAvailable,
    ErrorCode::MessageTooLarge,
    ErrorCode::StaleControllerEpoch,
    ErrorCode::OffsetMetadataTooLarge,
    ErrorCode::NetworkException,
    ErrorCode::CoordinatorLoadInProgress,
    ErrorCode::CoordinatorNotAvailable,
    ErrorCode::NotCoordinator,
    ErrorCode::InvalidTopicException,
    ErrorCode::RecordListTooLarge,
    ErrorCode::NotEnoughReplicas,
    ErrorCode::NotEnoughReplicasAfterAppend,
    ErrorCode::InvalidRequiredAcks,
    ErrorCode::IllegalGeneration,
    ErrorCode::InconsistentGroupProtocol,
    ErrorCode::InvalidGroupId,
    ErrorCode::UnknownMemberId,
    ErrorCode::InvalidSessionTimeout,
    ErrorCode::RebalanceInProgress,
    ErrorCode::InvalidCommitOffsetSize,
    ErrorCode::TopicAuthorizationFailed,
    ErrorCode::GroupAuthorizationFailed,
    ErrorCode::ClusterAuthorizationFailed,
    ErrorCode::InvalidTimestamp,
    ErrorCode::UnsupportedSaslMechanism,
    ErrorCode::IllegalSaslState,
    ErrorCode::UnsupportedVersion,
    ErrorCode::TopicAlreadyExists,
    ErrorCode::InvalidPartitions,
    ErrorCode::InvalidReplicationFactor,
    ErrorCode::InvalidReplicaAssignment,
    ErrorCode::InvalidConfig,
    ErrorCode::NotController,
    ErrorCode::InvalidRequest,
    ErrorCode::UnsupportedForMessageFormat,
    ErrorCode::PolicyViolation,
    ErrorCode::OutOfOrderSequenceNumber,
    ErrorCode::DuplicateSequenceNumber,
    ErrorCode::InvalidProducerEpoch,
    ErrorCode::InvalidTxnState,
    ErrorCode::InvalidProducerIdMapping,
    ErrorCode::InvalidTransactionTimeout,
    ErrorCode::ConcurrentTransactions,
    ErrorCode::TransactionCoordinatorFenced,
    ErrorCode::TransactionalIdAuthorizationFailed,
    ErrorCode::SecurityDisabled,
    ErrorCode::OperationNotAttempted,
    ErrorCode::KafkaStorageError,
    ErrorCode::LogDirNotFound,
    ErrorCode::SaslAuthenticationFailed,
    ErrorCode::UnknownProducerId,
    ErrorCode::ReassignmentInProgress,
    ErrorCode::DelegationTokenAuthDisabled,
    ErrorCode::DelegationTokenNotFound,
    ErrorCode::DelegationTokenOwnerMismatch,
    ErrorCode::DelegationTokenRequestNotAllowed,
    ErrorCode::DelegationTokenAuthorizationFailed,
    ErrorCode::DelegationTokenExpired,
    ErrorCode::InvalidPrincipalType,
    ErrorCode::NonEmptyGroup,
    ErrorCode::GroupIdNotFound,
    ErrorCode::FetchSessionIdNotFound,
    ErrorCode::InvalidFetchSessionEpoch,
    ErrorCode::ListenerNotFound,
    ErrorCode::TopicDeletionDisabled,
    ErrorCode::FencedLeaderEpoch,
    ErrorCode::UnknownLeaderEpoch,
    ErrorCode::UnsupportedCompressionType,
    ErrorCode::StaleBrokerEpoch,
    ErrorCode::OffsetNotAvailable,
    ErrorCode::MemberIdRequired,
    ErrorCode::PreferredLeaderNotAvailable,
    ErrorCode::GroupMaxSizeReached,
    ErrorCode::FencedInstanceId,
    ErrorCode::EligibleLeadersNotAvailable,
    ErrorCode::ElectionNotNeeded,
    ErrorCode::NoReassignmentInProgress,
    ErrorCode::GroupSubscribedToTopic,
    ErrorCode::InvalidRecord,
    ErrorCode::UnstableOffsetCommit,
    ErrorCode::ThrottlingQuotaExceeded,
    ErrorCode::ProducerFenced,
    ErrorCode::ResourceNotFound,
    ErrorCode::DuplicateResource,
    ErrorCode::UnacceptableCredential,
    ErrorCode::InconsistentVoterSet,
    ErrorCode::InvalidUpdateVersion,
    ErrorCode::FeatureUpdateFailed,
    ErrorCode::PrincipalDeserializationFailure,
    ErrorCode::SnapshotNotFound,
    ErrorCode::PositionOutOfRange,
    ErrorCode::UnknownTopicId,
    ErrorCode::DuplicateBrokerRegistration,
    ErrorCode::BrokerIdNotRegistered,
    ErrorCode::InconsistentTopicId,
    ErrorCode::InconsistentClusterId,
    ErrorCode::TransactionalIdNotFound,
    ErrorCode::FetchSessionTopicIdError,
    ErrorCode::IneligibleReplica,
    ErrorCode::NewLeaderElected,
    ErrorCode::OffsetMovedToTieredStorage,
    ErrorCode::FencedMemberEpoch,
    ErrorCode::UnreleasedInstanceId,
    ErrorCode::UnsupportedAssignor,
    ErrorCode::StaleMemberEpoch,
    ErrorCode::MismatchedEndpointType,
    ErrorCode::UnsupportedEndpointType,
    ErrorCode::UnknownControllerId,
    ErrorCode::UnknownSubscriptionId,
    ErrorCode::TelemetryTooLarge,
    ErrorCode::InvalidRegistration,
    ErrorCode::TransactionAbortable,
    ErrorCode::InvalidRecordState,
    ErrorCode::ShareSessionNotFound,
    ErrorCode::InvalidShareSessionEpoch,
    ErrorCode::FencedStateEpoch,
    ErrorCode::InvalidVoterKey,
    ErrorCode::DuplicateVoter,
    ErrorCode::VoterNotFound,
    ErrorCode::InvalidRegularExpression,
    ErrorCode::RebootstrapRequired,
    ErrorCode::StreamsInvalidTopology,
    ErrorCode::StreamsInvalidTopologyEpoch,
    ErrorCode::StreamsTopologyFenced,
    ErrorCode::ShareSessionLimitReached,
];

impl ErrorCode {
    /// The number on the wire.
    pub fn code(self) -> i16 {
        self as i16
    }

    /// The one of this number, if Kafka 4.3 has one.
    pub fn of_code(code: i16) -> Option<ErrorCode> {
        let place = usize::try_from(i32::from(code) - ErrorCode::UnknownServerError as i32).ok()?;
        ALL.get(place).copied()
    }
}

/// The failure of one item of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// What the client's program looks at.
    pub code: ErrorCode,
    /// What its user reads: one sentence.
    pub message: String,
}

impl ApiError {
    /// An error and its explanation.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        ApiError { code, message: message.into() }
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:?}, {})", self.message, self.code, self.code.code())
    }
}

impl std::error::Error for ApiError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_its_code() {
        for code in i16::MIN..=i16::MAX {
            match ErrorCode::of_code(code) {
                Some(known) => assert_eq!(known.code(), code),
                None => assert!(!(-1..=133).contains(&code)),
            }
        }
    }

    /// Each variant with the name that Kafka gives its number.
    #[test]
    fn names_and_numbers_are_those_of_kafka() {
        let kafka: Vec<(&str, &str)> = include_str!("../testdata/kafka-errors.tsv")
            .lines()
            .skip(1)
            .map(|line| line.split_once('\t').expect("a number and a name"))
            .collect();
        let (variants, _) = include_str!("error.rs").split_once("\n}\n").expect("the enumeration ends");
        let ours: Vec<(&str, &str)> = variants
            .split("    /// ")
            .skip(1)
            .map(|variant| {
                let (name, declaration) = variant.split_once('\n').expect("a line each");
                let (camel, number) = declaration.trim().trim_end_matches(',').split_once(" = ").expect("a number");
                assert_eq!(camel.to_uppercase(), name.replace('_', ""));
                (number, name)
            })
            .collect();
        assert_eq!(ours, kafka);
    }
}
