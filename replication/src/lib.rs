//! What the nodes of a cluster agree on: the cluster image (Kafka's `MetadataImage`), the metadata log of which it is the
//! replay, the controller's decisions that add to that log, configurations and error codes by Kafka's names.
//!
//! Pure: [`Controller::handle`] takes an image and a request and returns records and a response; only the replay of a
//! committed record ([`ClusterImage::replay`]) changes an image. One node is a cluster of one.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod broker_ids;
pub mod config;
pub mod controller;
pub mod error;
pub mod identity;
pub mod image;
pub mod log;
pub mod quorum;
pub mod quota;
mod random_id;
pub mod reader;
pub mod record;
pub mod replica;
pub mod rule;
pub mod topic_name;

pub use broker_ids::BrokerIds;
pub use controller::{Controller, ControllerRequest, ControllerResponse, Decision};
pub use error::{ApiError, ErrorCode};
pub use identity::MetaProperties;
pub use image::{ClusterImage, SharedVec, Topic};
pub use quorum::Quorum;
pub use quota::{ClientQuotas, QuotaEntity, QuotaValue};
pub use record::{Broker, ConfigOwner, Endpoint, LevelRange, METADATA_VERSIONS, MetadataRecord, NO_LEADER, Partition};
pub use replica::Replica;
