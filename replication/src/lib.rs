//! The controller: what the cluster knows of itself, the record log that says so, and the decisions that change it.
//!
//! Pure: [`Controller::handle`] takes an image and a request and returns records and a response; only the replay of a
//! committed record ([`ClusterImage::replay`]) changes an image. One node is a cluster of one.

#![forbid(unsafe_code)]

pub mod config;
pub mod controller;
pub mod error;
pub mod image;
pub mod log;
pub mod quota;
mod random_id;
pub mod record;
pub mod topic_name;

pub use controller::{Controller, ControllerRequest, ControllerResponse, Decision};
pub use error::{ApiError, ErrorCode};
pub use image::{Broker, ClusterImage, Topic};
pub use log::MetadataLog;
pub use quota::{ClientQuotas, QuotaEntity, QuotaValue};
pub use record::{ConfigOwner, Endpoint, MetadataRecord, Partition};
