//! The Millstream broker: a pure core ([`shard`]) that speaks the Kafka protocol ([`protocol`], [`api`], [`group`]), beside
//! it the [`controller`], both put together by [`node`], and what nodes say to each other ([`peer`]); a thin driver
//! ([`driver`]) that runs them, one glommio executor a core; and a command line for clusters ([`cli`]).

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod api;
pub mod cli;
pub mod config;
pub mod controller;
pub mod driver;
pub mod group;
pub mod histogram;
pub mod json;
pub mod metrics;
pub mod node;
pub mod peer;
pub mod protocol;
mod rate;
pub mod shard;
mod slab;

#[cfg(test)]
mod sim;
