//! The controller, by the decisions that are shipped: what it knows, and every image that there was.

use std::collections::BTreeMap;

use crate::controller::{AlterPartition, AlteredPartition, Leaving, change_partition, isr};
use crate::error::ErrorCode;
use crate::record::{Broker, NO_LEADER, Partition};
use crate::replica::{Assignment, Registered};

pub(super) struct Controller {
    pub partition: Partition,
    pub brokers: BTreeMap<i32, Broker>,
    pub min_insync: usize,
    /// What was published, in its order. The last is the present one.
    pub images: Vec<Assignment>,
    next_epoch: i64,
    /// What is wrong with the last change, if anything is.
    pub wrong: Option<String>,
    pub elections: u64,
}

impl Controller {
    pub fn new(replicas: Vec<i32>, min_insync: usize) -> Controller {
        let partition = Partition {
            isr: replicas.clone().into(),
            leader: replicas[0],
            replicas: replicas.clone().into(),
            leader_epoch: 0,
            partition_epoch: 0,
        };
        let brokers = replicas
            .iter()
            .map(|node_id| (*node_id, Broker { node_id: *node_id, epoch: i64::from(*node_id), ..Broker::default() }));
        let mut controller = Controller {
            partition,
            brokers: brokers.collect(),
            min_insync,
            images: Vec::new(),
            next_epoch: 100,
            wrong: None,
            elections: 0,
        };
        controller.publish();
        controller
    }

    fn publish(&mut self) {
        let brokers = self.brokers.values().map(|broker| Registered {
            node_id: broker.node_id,
            epoch: broker.epoch,
            is_usable: broker.is_usable(),
        });
        let brokers = brokers.collect();
        self.images.push(Assignment { partition: self.partition.clone(), brokers, min_insync: self.min_insync });
    }

    /// C1, C2 and C6: epochs grow, a new leader was in sync, and nobody is elected who is not usable.
    fn set(&mut self, after: Partition) {
        let before = std::mem::replace(&mut self.partition, after);
        let after = &self.partition;
        let is_elected = after.leader != before.leader && after.leader != NO_LEADER;
        let wrong = if let Err(why) = after.check() {
            Some(format!("C1: {why}"))
        } else if after.partition_epoch <= before.partition_epoch
            || after.leader_epoch < before.leader_epoch
            || (after.leader != before.leader && after.leader_epoch == before.leader_epoch)
        {
            Some(format!("C2: {before:?} becomes {after:?}"))
        } else if is_elected && !(before.isr.contains(&after.leader) && self.brokers[&after.leader].is_usable()) {
            Some(format!("C6: {before:?} becomes {after:?}"))
        } else {
            None
        };
        self.wrong = self.wrong.take().or(wrong);
        self.elections += u64::from(is_elected);
    }

    fn broker_changed(&mut self, leaving: Option<Leaving>) {
        let usable: Vec<i32> = self.brokers.values().filter(|broker| broker.is_usable()).map(|b| b.node_id).collect();
        if let Some(after) = change_partition(&self.partition, &usable, leaving) {
            self.set(after);
        }
        self.publish();
    }

    fn broker(&mut self, node_id: i32) -> &mut Broker {
        self.brokers.get_mut(&node_id).expect("a replica's broker")
    }

    pub fn fence(&mut self, node_id: i32) {
        self.broker(node_id).is_fenced = true;
        self.broker_changed(Some(Leaving::Fenced(node_id)));
    }

    pub fn unfence(&mut self, node_id: i32) {
        self.broker(node_id).is_fenced = false;
        self.broker_changed(None);
    }

    pub fn shut_down(&mut self, node_id: i32) {
        self.broker(node_id).in_controlled_shutdown = true;
        self.broker_changed(Some(Leaving::Fenced(node_id)));
    }

    /// Its epoch from now on.
    pub fn register(&mut self, node_id: i32, is_clean: bool) -> i64 {
        self.next_epoch += 1;
        let epoch = self.next_epoch;
        *self.broker(node_id) = Broker { node_id, epoch, is_fenced: true, ..Broker::default() };
        let leaving = if is_clean { Leaving::Fenced(node_id) } else { Leaving::Unclean(node_id) };
        self.broker_changed(Some(leaving));
        epoch
    }

    pub fn alter(&mut self, from: i32, epoch: i64, asked: &AlterPartition) -> Result<AlteredPartition, ErrorCode> {
        if self.brokers[&from].epoch != epoch {
            return Err(ErrorCode::StaleBrokerEpoch);
        }
        let after = isr::decide(&self.partition, from, asked, |node_id| self.brokers.get(&node_id));
        let after = after.map_err(|error| error.code)?;
        self.set(after);
        self.publish();
        let Partition { leader, leader_epoch, partition_epoch, .. } = self.partition;
        Ok(AlteredPartition { leader, leader_epoch, isr: self.partition.isr.to_vec(), partition_epoch })
    }
}
