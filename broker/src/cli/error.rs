//! What can go wrong, with what to do about it.

use std::fmt::{self, Display, Formatter};
use std::io;

/// Why a command failed.
#[derive(Debug)]
pub enum CliError {
    /// No broker answers.
    Unreachable(String),
    /// The cluster refused something, or part of it.
    Refused(String),
    /// Something given by the user makes no sense.
    Usage(String),
    /// A file, or standard input or output, failed.
    Io(String),
    /// Nobody reads our output any more.
    OutputClosed,
}

impl CliError {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            CliError::Refused(_) | CliError::Io(_) | CliError::OutputClosed => 1,
            CliError::Usage(_) => 2,
            CliError::Unreachable(_) => 3,
        }
    }

    /// What a broker answered, about something.
    pub fn refused(about: impl Display, error: &ErrorText) -> CliError {
        CliError::Refused(format!("{about}: {error}"))
    }
}

impl Display for CliError {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            CliError::Unreachable(text) | CliError::Refused(text) | CliError::Usage(text) | CliError::Io(text) => {
                formatter.write_str(text)
            }
            CliError::OutputClosed => formatter.write_str("the output was closed"),
        }
    }
}

impl std::error::Error for CliError {}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> CliError {
        match error.kind() {
            io::ErrorKind::BrokenPipe => CliError::OutputClosed,
            _ => CliError::Io(error.to_string()),
        }
    }
}

/// An error code of the Kafka protocol, for people: its name, what the broker said, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorText {
    code: i16,
    message: Option<String>,
}

impl ErrorText {
    /// `None` for no error.
    pub fn new(code: i16, message: Option<&str>) -> Option<ErrorText> {
        let message = message.filter(|message| !message.is_empty()).map(str::to_owned);
        (code != 0).then_some(ErrorText { code, message })
    }

    /// `Err` unless the code says that there is no error.
    pub fn check(code: i16, message: Option<&str>) -> Result<(), ErrorText> {
        ErrorText::new(code, message).map_or(Ok(()), Err)
    }

    /// The code's name.
    pub fn name(&self) -> String {
        known(self.code).map_or_else(|| format!("error {}", self.code), |(name, _)| name.to_owned())
    }

    /// The number on the wire.
    pub fn code(&self) -> i16 {
        self.code
    }

    /// The same may succeed if it is tried again.
    pub fn is_retriable(&self) -> bool {
        matches!(self.code, 3 | 5 | 6 | 7 | 8 | 13 | 14 | 15 | 16 | 19 | 20 | 56 | 74 | 75 | 78 | 100)
    }
}

impl Display for ErrorText {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let advice = known(self.code).map(|(_, advice)| advice).filter(|advice| !advice.is_empty());
        match (&self.message, advice) {
            (Some(message), Some(advice)) => write!(formatter, "{message} ({}; {advice})", self.name()),
            (Some(message), None) => write!(formatter, "{message} ({})", self.name()),
            (None, Some(advice)) => write!(formatter, "{}; {advice}", self.name()),
            (None, None) => write!(formatter, "{}", self.name()),
        }
    }
}

/// Kafka's name of a code, and what to do.
fn known(code: i16) -> Option<(&'static str, &'static str)> {
    Some(match code {
        -1 => ("UNKNOWN_SERVER_ERROR", "the broker's log says more"),
        1 => ("OFFSET_OUT_OF_RANGE", "`millstream offsets TOPIC` shows which offsets there are"),
        2 => ("CORRUPT_MESSAGE", ""),
        3 => ("UNKNOWN_TOPIC_OR_PARTITION", "`millstream topic list` shows which topics there are"),
        5 => ("LEADER_NOT_AVAILABLE", "a leader is being chosen; try again"),
        6 => ("NOT_LEADER_OR_FOLLOWER", "the leader has just moved; try again"),
        7 => ("REQUEST_TIMED_OUT", "try again, with a larger --timeout"),
        10 => ("MESSAGE_TOO_LARGE", "raise max.message.bytes of the topic, or send smaller records"),
        14 => ("COORDINATOR_LOAD_IN_PROGRESS", "the coordinator is starting; try again"),
        15 => ("COORDINATOR_NOT_AVAILABLE", "the coordinator is starting; try again"),
        16 => ("NOT_COORDINATOR", "the coordinator has just moved; try again"),
        17 => ("INVALID_TOPIC_EXCEPTION", "use letters, digits, '.', '_' and '-', at most 249 of them"),
        19 => ("NOT_ENOUGH_REPLICAS", "fewer replicas are in sync than min.insync.replicas asks for"),
        20 => ("NOT_ENOUGH_REPLICAS_AFTER_APPEND", "fewer replicas are in sync than min.insync.replicas asks for"),
        24 => ("INVALID_GROUP_ID", ""),
        25 => ("UNKNOWN_MEMBER_ID", "the group has members: stop its consumers first"),
        29 => ("TOPIC_AUTHORIZATION_FAILED", "ask for the rights on the topic"),
        30 => ("GROUP_AUTHORIZATION_FAILED", "ask for the rights on the group"),
        31 => ("CLUSTER_AUTHORIZATION_FAILED", "ask for the rights on the cluster"),
        35 => ("UNSUPPORTED_VERSION", "the broker is too old or too new for this"),
        36 => ("TOPIC_ALREADY_EXISTS", "--if-not-exists takes that for success"),
        37 => ("INVALID_PARTITIONS", "partitions can only be added"),
        38 => ("INVALID_REPLICATION_FACTOR", "it cannot be larger than the number of brokers"),
        39 => ("INVALID_REPLICA_ASSIGNMENT", ""),
        40 => ("INVALID_CONFIG", "`millstream config describe --all` shows names and values"),
        41 => ("NOT_CONTROLLER", "the controller has just moved; try again"),
        42 => ("INVALID_REQUEST", ""),
        44 => ("POLICY_VIOLATION", ""),
        56 => ("KAFKA_STORAGE_ERROR", "the broker's disk is full or failed; its log and its page say which"),
        58 => ("SASL_AUTHENTICATION_FAILED", "this listener wants SASL, which this program does not speak"),
        60 => ("REASSIGNMENT_IN_PROGRESS", "try again when it has ended"),
        68 => ("NON_EMPTY_GROUP", "the group has members: stop its consumers first"),
        69 => ("GROUP_ID_NOT_FOUND", "`millstream group list` shows which groups there are"),
        73 => ("TOPIC_DELETION_DISABLED", "the brokers are configured with delete.topic.enable=false"),
        74 => ("FENCED_LEADER_EPOCH", "the leader has just moved; try again"),
        75 => ("UNKNOWN_LEADER_EPOCH", "the leader has just moved; try again"),
        78 => ("OFFSET_NOT_AVAILABLE", "a leader has just been chosen; try again"),
        86 => ("GROUP_SUBSCRIBED_TO_TOPIC", "members of the group read the topic: stop them first"),
        87 => ("INVALID_RECORD", ""),
        89 => ("THROTTLING_QUOTA_EXCEEDED", "try again later"),
        100 => ("UNKNOWN_TOPIC_ID", "`millstream topic list` shows which topics there are"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_the_broker_said_and_what_to_do() {
        let text = |code, message| ErrorText::new(code, message).expect("an error").to_string();
        assert_eq!(ErrorText::new(0, Some("x")), None);
        assert_eq!(
            text(36, Some("Topic 'a' already exists.")),
            "Topic 'a' already exists. (TOPIC_ALREADY_EXISTS; --if-not-exists takes that for success)"
        );
        assert_eq!(text(2, None), "CORRUPT_MESSAGE");
        assert_eq!(text(3, Some("")), format!("UNKNOWN_TOPIC_OR_PARTITION; {}", known(3).expect("known").1));
        assert_eq!(text(999, Some("odd")), "odd (error 999)");
    }
}
