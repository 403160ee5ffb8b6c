//! How a process that has started becomes the broker of its number, as a pure machine: the controller registers it; when every
//! shard has applied that, the broker says so, and is unfenced. As long as nobody decides, or the process that this broker
//! was before is not known to be gone, it is tried again, but not for ever.
//!
//! Calling contract. Whoever runs it has the controller answer [`Registration::request`], when every shard has applied what
//! the answer is about, and hands the answer to [`Registration::answered`], which says what to do next.

use std::time::Duration;

use millstream_replication::controller::HeartbeatReply;
use millstream_replication::{ApiError, ControllerRequest, ControllerResponse, ErrorCode};

/// A registration that may succeed later is tried again after this.
pub const REGISTER_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// A broker that is to be registered.
#[derive(Debug)]
pub struct Registration {
    node_id: i32,
    request: ControllerRequest,
    /// How long it is tried.
    wait: Duration,
    /// It is given up then.
    until: Duration,
    /// That of the registration that was answered last.
    epoch: i64,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Have the controller answer this.
    Ask(ControllerRequest),
    /// Wait for [`REGISTER_AGAIN_AFTER`], and have the controller answer [`Registration::request`] again.
    Rest {
        /// One line for people.
        why: String,
    },
    /// Nothing: the broker is registered with this epoch, and not fenced.
    Done {
        /// The offset of the registration.
        epoch: i64,
    },
    /// Exit with an error.
    Refused {
        /// One line for people.
        why: String,
    },
}

impl Registration {
    /// The broker of this number, with the request that registers it, which is tried for so long.
    pub fn new(node_id: i32, request: ControllerRequest, now: Duration, wait: Duration) -> Registration {
        Registration { node_id, request, wait, until: now + wait, epoch: -1 }
    }

    /// What the controller is asked first.
    pub fn request(&self) -> ControllerRequest {
        self.request.clone()
    }

    /// Takes the answer to what was asked last.
    pub fn answered(&mut self, now: Duration, response: ControllerResponse) -> Step {
        let (what, error) = match response {
            ControllerResponse::RegisterBroker(Ok(epoch)) => {
                self.epoch = epoch;
                return Step::Ask(self.heartbeat());
            }
            ControllerResponse::BrokerHeartbeat(Ok(HeartbeatReply { is_fenced: false, .. })) => {
                return Step::Done { epoch: self.epoch };
            }
            ControllerResponse::BrokerHeartbeat(Ok(_)) => {
                let why = "the broker stays fenced for a while: it was gone too often lately".to_owned();
                return self.rest(now, why);
            }
            ControllerResponse::RegisterBroker(Err(error)) => ("registered", error),
            ControllerResponse::BrokerHeartbeat(Err(error)) => ("unfenced", error),
            other => panic!("a broker that registers is not answered with {other:?}"),
        };
        let why = format!("the broker cannot be {what}: {error}");
        if may_pass(&error) { self.rest(now, why) } else { Step::Refused { why } }
    }

    /// The answer to the registration has come after every shard had applied it, and its offset is the epoch.
    fn heartbeat(&self) -> ControllerRequest {
        ControllerRequest::BrokerHeartbeat {
            node_id: self.node_id,
            epoch: self.epoch,
            applied_offset: u64::try_from(self.epoch).expect("offsets are not negative"),
            want_fence: false,
            want_shutdown: false,
        }
    }

    fn rest(&self, now: Duration, why: String) -> Step {
        if now < self.until {
            return Step::Rest { why };
        }
        let seconds = self.wait.as_secs();
        Step::Refused { why: format!("{why}; it was tried for {seconds} s (initial.broker.registration.timeout.ms)") }
    }
}

fn may_pass(error: &ApiError) -> bool {
    let passing = [ErrorCode::RequestTimedOut, ErrorCode::NotController, ErrorCode::DuplicateBrokerRegistration];
    passing.contains(&error.code)
}

#[cfg(test)]
mod tests {
    use millstream_replication::METADATA_VERSIONS;

    use super::*;

    const WAIT: Duration = Duration::from_secs(60);

    fn registration() -> Registration {
        let request = ControllerRequest::RegisterBroker {
            node_id: 3,
            incarnation: [1; 16],
            directory_id: [2; 16],
            shards: 1,
            endpoints: Vec::new(),
            rack: None,
            metadata_versions: METADATA_VERSIONS,
        };
        Registration::new(3, request, Duration::from_secs(1), WAIT)
    }

    fn fenced(is_fenced: bool) -> ControllerResponse {
        let reply = HeartbeatReply { is_caught_up: true, is_fenced, should_shut_down: false, lease_ms: 0 };
        ControllerResponse::BrokerHeartbeat(Ok(reply))
    }

    fn refused(code: ErrorCode) -> ControllerResponse {
        ControllerResponse::RegisterBroker(Err(ApiError::new(code, "no")))
    }

    #[test]
    fn it_says_that_it_has_applied_its_registration_and_is_there() {
        let mut registration = registration();
        let now = Duration::from_secs(2);
        assert!(matches!(registration.answered(now, refused(ErrorCode::NotController)), Step::Rest { .. }));
        let Step::Ask(request) = registration.answered(now, ControllerResponse::RegisterBroker(Ok(7))) else {
            panic!("it goes on")
        };
        let ControllerRequest::BrokerHeartbeat { node_id: 3, epoch: 7, applied_offset: 7, want_fence: false, .. } =
            request
        else {
            panic!("{request:?}")
        };
        assert!(matches!(registration.answered(now, fenced(true)), Step::Rest { .. }));
        assert_eq!(registration.answered(now, fenced(false)), Step::Done { epoch: 7 });
    }

    #[test]
    fn what_will_not_pass_or_takes_too_long_ends_it() {
        let mut registration = registration();
        let late = Duration::from_secs(1) + WAIT;
        let answer = registration.answered(Duration::from_secs(2), refused(ErrorCode::InvalidRegistration));
        let Step::Refused { why } = answer else { panic!("{answer:?}") };
        assert!(why.starts_with("the broker cannot be registered: no"), "{why}");
        let answer = registration.answered(Duration::from_secs(2), refused(ErrorCode::UnsupportedVersion));
        assert!(matches!(answer, Step::Refused { .. }), "it will not read the cluster's metadata later");
        let early = late - Duration::from_millis(1);
        let code = ErrorCode::DuplicateBrokerRegistration;
        assert!(matches!(registration.answered(early, refused(code)), Step::Rest { .. }));
        let Step::Refused { why } = registration.answered(late, refused(code)) else { panic!("it is given up") };
        assert!(why.contains("for 60 s"), "{why}");
    }
}
