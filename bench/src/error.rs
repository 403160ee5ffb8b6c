//! Why a run ended early.

#[derive(Debug)]
pub enum BenchError {
    /// The broker cannot be reached, or the connection broke.
    Connection(String),
    /// The broker answered with this error code.
    Broker(&'static str, i16),
    /// A response is shorter than its own fields say.
    Truncated,
    /// A response does not answer what was asked.
    Response(String),
    /// The topic exists with fewer partitions than asked for.
    Partitions { topic: String, wanted: i32, found: i32 },
    /// There is nothing to consume.
    Empty(String),
    /// Options that do not go together, or that this machine cannot follow.
    Options(String),
    /// A file or the machine's own interfaces.
    Machine(String),
    /// A broker that `compare` runs does not start or has ended.
    Contestant(String),
}

impl BenchError {
    /// A failed operation on a file or on the machine, with what was tried.
    pub fn machine(what: impl std::fmt::Display) -> impl Fn(std::io::Error) -> BenchError {
        move |error| BenchError::Machine(format!("{what}: {error}"))
    }
}

impl std::fmt::Display for BenchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BenchError::Connection(why)
            | BenchError::Response(why)
            | BenchError::Options(why)
            | BenchError::Machine(why)
            | BenchError::Contestant(why) => write!(f, "{why}"),
            BenchError::Broker(what, code) => write!(f, "{what}: the broker answered with Kafka error {code}"),
            BenchError::Truncated => write!(f, "a response ended too early"),
            BenchError::Partitions { topic, wanted, found } => {
                write!(f, "topic {topic} has {found} partitions, {wanted} are needed: use another --topic")
            }
            BenchError::Empty(topic) => write!(f, "topic {topic} holds no records"),
        }
    }
}

impl From<std::io::Error> for BenchError {
    fn from(error: std::io::Error) -> BenchError {
        BenchError::Connection(error.to_string())
    }
}

impl From<rustix::io::Errno> for BenchError {
    fn from(error: rustix::io::Errno) -> BenchError {
        BenchError::Connection(std::io::Error::from(error).to_string())
    }
}

impl From<bytes::TryGetError> for BenchError {
    fn from(_: bytes::TryGetError) -> BenchError {
        BenchError::Truncated
    }
}
