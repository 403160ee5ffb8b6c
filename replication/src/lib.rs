//! The controller: what the cluster knows of itself, the record log that says so, and the decisions that change it.

#![deny(unsafe_code)]

pub mod config;

/// A committed change of the cluster image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataRecord {}

/// What brokers ask of the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControllerRequest {}

/// The controller's answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControllerResponse {}
