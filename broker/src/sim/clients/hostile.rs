//! Sends what no client sends: good requests with some bytes changed or cut, and nonsense. Whatever it is told, it
//! deserves it.

use bytes::Bytes;
use kafka_wire::{InitProducerIdRequest, ProduceRequest};
use millstream_storage::random::Random;

use super::consumer::fetch_some;
use super::wire::Request;
use super::{Knowledge, Outgoing, Reaction, Role, requests, wire};
use crate::sim::record::{RecordId, batch_of};

#[derive(Debug)]
pub struct Hostile {
    client: u32,
}

impl Hostile {
    pub fn new(client: u32) -> Hostile {
        Hostile { client }
    }
}

impl Role for Hostile {
    fn pause_us(&self, random: &mut Random) -> u64 {
        random.between(200, 5_000)
    }

    fn asks_ahead(&self) -> bool {
        true
    }

    fn is_hostile(&self) -> bool {
        true
    }

    fn next(&mut self, random: &mut Random, knowledge: &mut Knowledge) -> Option<Outgoing> {
        Some(Outgoing::Anything(frame(self.client, random, knowledge)))
    }

    fn answered(&mut self, _: Bytes, _: &Knowledge, _: &mut Reaction) -> Result<(), String> {
        unreachable!("a hostile client listens to nothing")
    }
}

fn frame(client: u32, random: &mut Random, knowledge: &Knowledge) -> Bytes {
    let partition = random.index(knowledge.partitions.len());
    let mut frame = match random.below(6) {
        0 => {
            let id = RecordId { client, number: random.below(1_000) as u32 };
            let records = batch_of(id, 1, random.coin().then_some((random.next() as i64, 0, 0)));
            requests::produce(wire::topic(), partition, -1, 30_000, records).frame(0)
        }
        1 => fetch_some(&(0..=partition).collect::<Vec<_>>(), &vec![0; partition + 1], random, knowledge).1.frame(0),
        2 => requests::list_offsets(partition, -random.between(1, 5).cast_signed()).frame(0),
        3 => Request::new(wire::INIT_PRODUCER_ID, &InitProducerIdRequest::default()).frame(0),
        4 => {
            // The header of any request, and nonsense behind it.
            let mut frame = Request::new(wire::PRODUCE, &ProduceRequest::default()).frame(0).to_vec();
            frame[1] = random.below(80) as u8;
            frame[3] = random.below(18) as u8;
            frame.extend((0..random.below(200)).map(|_| random.next() as u8));
            return frame.into();
        }
        _ => (0..random.below(300)).map(|_| random.next() as u8).collect(),
    }
    .to_vec();
    for _ in 0..random.below(4) {
        let position = random.index(frame.len());
        match random.below(3) {
            0 => frame.truncate(position),
            1 if position < frame.len() => frame[position] = random.next() as u8,
            _ => {
                let end = (position + 4).min(frame.len());
                frame[position..end].fill([0xff, 0x7f, 0x80, 0x00][random.index(4)]);
            }
        }
    }
    frame.into()
}
