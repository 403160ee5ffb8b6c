//! Brokers that come and go (KIP-631; in Kafka `ClusterControlManager` and `BrokerHeartbeatManager`). A broker registers
//! and is fenced, catches up with its own registration, and leads from then on, until it wants to stop or is not heard of.
//! Whatever happens to it, [`election`] says who is in sync in its partitions then, and who leads them: in the decision that
//! says what happens to the broker, so that nobody ever sees a fenced one in sync beside others.

use std::time::Duration;

use millstream_storage::bug::{Bug, is_planted};

use super::election::{self, Leaving};
use super::sessions::Sessions;
use super::{ControllerResponse, Decision, HeartbeatReply};
use crate::error::{ApiError, ErrorCode};
use crate::image::ClusterImage;
use crate::record::{Broker, MetadataRecord};

/// A process has started: `broker` as it describes itself, without an epoch. What it led as another process it leads no
/// more: clients and followers can tell by the leader epochs that what they learnt before the restart is old (KIP-320).
///
/// It leaves the in-sync sets as who is fenced does: whatever it had acknowledged is in its directory still. With another
/// directory it has nothing of that. Nor is anything known of the directory of a broker that was forgotten meanwhile.
pub(super) fn register(image: &ClusterImage, sessions: &Sessions, now: Duration, broker: Broker) -> Decision {
    let node_id = broker.node_id;
    let decide = |records, outcome| Decision { records, response: ControllerResponse::RegisterBroker(outcome) };
    let refuse = |code, why: String| decide(Vec::new(), Err(ApiError::new(code, why)));
    if node_id < 0 {
        return refuse(ErrorCode::InvalidRegistration, format!("a broker's number is at least 0, not {node_id}"));
    }
    let (level, levels) = (image.metadata_version(), broker.metadata_versions);
    if levels.check().is_err() || !levels.contains(level) {
        return refuse(
            ErrorCode::UnsupportedVersion,
            format!(
                "it reads millstream.metadata.version {} to {}, and the cluster is at {level}: start it with a version of \
                 Millstream that reads that",
                levels.min, levels.max
            ),
        );
    }
    if let Some(known) = image.broker(node_id) {
        if known.incarnation == broker.incarnation {
            return decide(Vec::new(), Ok(known.epoch));
        }
        if !known.is_fenced && sessions.is_alive(now, node_id) {
            return refuse(
                ErrorCode::DuplicateBrokerRegistration,
                format!(
                    "a broker {node_id} is registered and alive; if it was just restarted this resolves itself when the \
                     session of the process before has ended"
                ),
            );
        }
    }
    // The offset of the record itself: it grows, whatever happened before.
    let epoch = i64::try_from(image.offset() + 1).expect("fewer records than 2^63");
    let has_its_directory = image.broker(node_id).is_some_and(|known| is_one_directory(known, &broker));
    let leaving = if has_its_directory { Leaving::Fenced(node_id) } else { Leaving::Unclean(node_id) };
    let mut records = vec![MetadataRecord::Broker(Broker { epoch, is_fenced: true, ..broker })];
    records.extend(election::elect(image, &usable_brokers_but(image, node_id), Some(leaving)));
    decide(records, Ok(epoch))
}

/// Whether two processes of a broker have one directory, as far as is known: of processes that registered before directories
/// were told it is not, and they are taken at their word.
fn is_one_directory(before: &Broker, after: &Broker) -> bool {
    before.directory_id == after.directory_id || before.directory_id == [0; 16]
}

/// A broker is there. It is unfenced when it has applied its own registration, unless it does not want to or has been
/// fenced too often lately. Once it has wanted to stop it leads no more, whatever it says then, until it registers again.
pub(super) fn heartbeat(
    image: &ClusterImage,
    sessions: &Sessions,
    now: Duration,
    (node_id, epoch): (i32, i64),
    applied_offset: u64,
    wants: Wants,
) -> Decision {
    let broker = match registered(image, node_id, epoch) {
        Ok(broker) => broker,
        Err(error) => {
            return Decision { records: Vec::new(), response: ControllerResponse::BrokerHeartbeat(Err(error)) };
        }
    };
    let is_caught_up = i64::try_from(applied_offset).is_ok_and(|offset| offset >= broker.epoch)
        || is_planted(Bug::UnfenceBeforeCaughtUp);
    let in_controlled_shutdown = broker.in_controlled_shutdown || wants.shutdown;
    let may_lead = !broker.is_fenced || (is_caught_up && sessions.may_unfence(now, node_id));
    let is_fenced = in_controlled_shutdown || wants.fence || !may_lead;
    let lease_ms = if is_fenced { 0 } else { sessions.lease_ms() };
    let reply = HeartbeatReply { is_caught_up, is_fenced, should_shut_down: in_controlled_shutdown, lease_ms };
    Decision {
        records: change(image, broker, is_fenced, in_controlled_shutdown),
        response: ControllerResponse::BrokerHeartbeat(Ok(reply)),
    }
}

/// What a heartbeat asks for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wants {
    /// To be fenced, or to stay so.
    pub fence: bool,
    /// To stop.
    pub shutdown: bool,
}

/// A broker is not heard of any more.
pub(super) fn fence(image: &ClusterImage, node_id: i32, epoch: i64) -> Decision {
    let (records, outcome) = match registered(image, node_id, epoch) {
        Ok(broker) => (change(image, broker, true, broker.in_controlled_shutdown), Ok(())),
        Err(error) => (Vec::new(), Err(error)),
    };
    Decision { records, response: ControllerResponse::FenceBroker(outcome) }
}

/// A broker is to be forgotten. As in Kafka it may be alive: then it leads nothing until it registers again.
pub(super) fn unregister(image: &ClusterImage, node_id: i32) -> Decision {
    let Some(broker) = image.broker(node_id) else {
        return Decision {
            records: Vec::new(),
            response: ControllerResponse::UnregisterBroker(Err(not_registered(node_id))),
        };
    };
    let mut records = election::elect(image, &usable_brokers_but(image, node_id), Some(Leaving::Fenced(node_id)));
    records.push(MetadataRecord::UnregisterBroker { node_id, epoch: broker.epoch });
    Decision { records, response: ControllerResponse::UnregisterBroker(Ok(())) }
}

/// The records that make a broker this, and give its partitions the leaders that follow; none when it is this already. Who
/// may not lead does not stay in sync either.
fn change(image: &ClusterImage, broker: &Broker, is_fenced: bool, in_controlled_shutdown: bool) -> Vec<MetadataRecord> {
    let Broker { node_id, epoch, .. } = *broker;
    if (broker.is_fenced, broker.in_controlled_shutdown) == (is_fenced, in_controlled_shutdown) {
        return Vec::new();
    }
    let mut usable = usable_brokers_but(image, node_id);
    let is_usable = !is_fenced && !in_controlled_shutdown;
    if is_usable {
        usable.push(node_id);
    }
    let leaving = (!is_usable).then_some(Leaving::Fenced(node_id));
    let mut records = vec![MetadataRecord::BrokerChange { node_id, epoch, is_fenced, in_controlled_shutdown }];
    records.extend(election::elect(image, &usable, leaving));
    records
}

fn usable_brokers_but(image: &ClusterImage, node_id: i32) -> Vec<i32> {
    let mut usable = election::usable_brokers(image);
    usable.retain(|usable| *usable != node_id);
    usable
}

/// The broker, if it is registered with this epoch.
fn registered(image: &ClusterImage, node_id: i32, epoch: i64) -> Result<&Broker, ApiError> {
    match image.broker(node_id) {
        None => Err(not_registered(node_id)),
        Some(broker) if broker.epoch != epoch => Err(stale(node_id, epoch)),
        Some(broker) => Ok(broker),
    }
}

fn not_registered(node_id: i32) -> ApiError {
    ApiError::new(ErrorCode::BrokerIdNotRegistered, format!("there is no broker {node_id}"))
}

/// The error for a request of a registration that has been followed by another, or is there no more.
pub(super) fn stale(node_id: i32, epoch: i64) -> ApiError {
    ApiError::new(ErrorCode::StaleBrokerEpoch, format!("{epoch} is not the epoch of broker {node_id}"))
}
