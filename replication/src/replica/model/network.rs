//! The streams between replicas: in order each way, until they are closed. What an old one still holds may arrive after its
//! successor was opened.

use std::collections::VecDeque;

use super::log::Record;
use crate::error::ErrorCode;
use crate::replica::{EpochEnd, FollowRequest, StallReason};

#[derive(Clone, Debug)]
pub(super) enum ToLeader {
    Follow(FollowRequest),
    Ack { follow_id: u32, durable_end: i64, log_start: i64 },
    Stalled(StallReason),
    Resumed,
    Closed,
}

#[derive(Clone, Debug)]
pub(super) enum ToFollower {
    FollowOk { follow_id: u32, handle: u32, high_watermark: i64, log_start: i64 },
    Diverged { follow_id: u32, epoch_end: EpochEnd },
    Refused { follow_id: u32, error: ErrorCode, log_start: i64, log_end: i64 },
    Data { handle: u32, epoch: i32, base: i64, next: i64, high_watermark: i64, records: Vec<Record> },
    Skip { handle: u32, to: i64, epoch: i32, high_watermark: i64 },
    Marks { handle: u32, high_watermark: i64, log_start: i64 },
}

#[derive(Debug)]
pub(super) struct Link {
    pub id: u64,
    pub follower: i32,
    pub leader: i32,
    /// The processes that it connects, by their broker epochs.
    pub follower_epoch: i64,
    pub leader_epoch: i64,
    pub to_leader: VecDeque<ToLeader>,
    pub to_follower: VecDeque<ToFollower>,
    pub is_closed: bool,
    /// Nothing passes before, each way.
    pub leader_hears_from_ms: u64,
    pub follower_hears_from_ms: u64,
}

impl Link {
    pub fn is_done(&self) -> bool {
        self.is_closed && self.to_leader.is_empty() && self.to_follower.is_empty()
    }
}
