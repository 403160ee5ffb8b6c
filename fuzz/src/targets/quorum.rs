//! One of three voters among hostile ones: messages of any bytes, and messages that can be read and say anything, between time
//! that passes, operations that end and decisions. Whatever comes, it goes on; what it has committed stays.

use millstream_replication::MetadataRecord;
use millstream_replication::log::FileId;
use millstream_replication::quorum::{Founding, Member, Output, Quorum, create};
use millstream_storage::DiskOp;

use super::metadata::entry_payload;
use crate::Target;
use crate::disk::Disk;
use crate::input::Input;
use crate::memory::{BASE_BYTES, bounded};

pub const TARGET: Target = Target { name: "quorum", run, seeds };

/// An entry is kept in the log, waits to be written and to be sent to two members, and lies in the files.
const MEMORY_PER_BYTE: usize = 512;
/// What the crate and the files' space take.
const QUORUM_BYTES: usize = 16 << 20;

fn member(node_id: i32) -> Member {
    let mut directory_id = [7; 16];
    directory_id[0] = node_id as u8;
    Member::new(node_id, directory_id, Some((format!("h{node_id}"), 9093)))
}

fn run(bytes: &[u8]) {
    let bytes_max = BASE_BYTES + QUORUM_BYTES + MEMORY_PER_BYTE * bytes.len();
    bounded(bytes_max, || Machine::new().go(Input::new(bytes)));
}

struct Machine {
    quorum: Quorum,
    disk: Disk,
    under_way: Option<DiskOp>,
    /// The offset and what was true then.
    committed: u64,
}

impl Machine {
    fn new() -> Machine {
        let mut disk = Disk::default();
        let founding = Founding::new([2; 16], (1..4).map(member).collect()).snapshot();
        let created = create(&mut |op| disk.execute(op), member(1).id, FileId([5; 16]), founding, 1);
        Machine { quorum: created.expect("an empty disk"), disk, under_way: None, committed: 1 }
    }

    fn go(mut self, mut input: Input<'_>) {
        let mut now = std::time::Duration::ZERO;
        while !input.is_empty() {
            let choice = input.byte();
            match choice % 8 {
                0 => {
                    let bytes = input.piece();
                    drop(self.quorum.step(member(i32::from(choice / 8 % 3)).id, bytes));
                }
                1..=4 => {
                    let from = 2 + i32::from(choice / 8 % 2);
                    let message = self.message(&mut input, from);
                    drop(self.quorum.step(member(from).id, &message));
                }
                5 => {
                    for _ in 0..=input.byte() % 32 {
                        now += millstream_replication::quorum::TICK;
                        self.quorum.tick(now);
                        self.outputs();
                    }
                }
                6 => {
                    if let Some(op) = self.under_way.take() {
                        self.quorum.disk(self.disk.execute(op));
                    }
                }
                _ if choice / 8 % 2 == 1 => {
                    let _ = self.quorum.confirm();
                }
                _ => {
                    let next = self.quorum.image().next_producer_id() + 1;
                    let offset = self.quorum.image().offset() + 1;
                    let _ = self.quorum.propose(offset, &[MetadataRecord::ProducerIds { next }]);
                }
            }
            self.outputs();
        }
    }

    /// A message that says what the input says, near to what this member has.
    fn message(&self, input: &mut Input<'_>, from: i32) -> Vec<u8> {
        let near = |what: u64, byte: u8| match byte {
            0..=15 => what.saturating_add(u64::from(byte)).saturating_sub(8),
            255 => u64::MAX - 1,
            other => u64::from(other) - 16,
        };
        let mut bytes = vec![input.byte() % 12, input.byte() & 3];
        let mut numbers = vec![member(from).id.0, member(1).id.0];
        numbers.push(near(self.quorum.term(), input.byte()));
        numbers.push(near(self.quorum.applied().term, input.byte()));
        for _ in 0..2 {
            numbers.push(near(self.quorum.last(), input.byte()));
        }
        numbers.push(near(self.quorum.applied().term, input.byte()));
        numbers.push(near(self.quorum.last(), input.byte()));
        // A question, or its answer: mostly none, or one of the first.
        numbers.push(near(8, input.byte()).saturating_sub(8));
        numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        let count = input.byte() % 4;
        bytes.extend(u32::from(count).to_le_bytes());
        for more in 1..=u64::from(count) {
            let index = near(numbers[4].saturating_add(more), input.byte() % 16);
            bytes.extend(index.to_le_bytes());
            bytes.extend(near(numbers[2], input.byte()).to_le_bytes());
            bytes.push(input.byte() % 4);
            let payload = entry_payload(input);
            bytes.extend((payload.len() as u32).to_le_bytes());
            bytes.extend(payload);
        }
        if bytes[0] == 9 {
            bytes.extend(self.quorum.snapshot());
        }
        bytes
    }

    fn outputs(&mut self) {
        for output in self.quorum.outputs() {
            match output {
                Output::Disk(op) => self.under_way = Some(op),
                Output::Committed { offset, .. } => {
                    assert!(offset > self.committed, "offsets grow");
                    self.committed = offset;
                }
                Output::Confirmed { .. } => assert!(self.quorum.leads(), "only a leader is confirmed"),
                // Two of three that lie can have anything committed, also what cannot be applied.
                Output::Failed { reason } => assert!(reason.contains("cannot be applied"), "{reason}"),
                _ => {}
            }
        }
        assert!(self.quorum.image().offset() >= self.committed);
    }
}

fn seeds() -> Vec<Vec<u8>> {
    // A vote, time, an append of nothing, its write, an acknowledgement.
    vec![
        vec![1, 3, 0, 9, 8, 8, 8, 0, 8, 8, 0, 6, 6, 5, 31, 6, 6],
        vec![1, 1, 0, 9, 8, 8, 8, 0, 8, 8, 1, 8, 8, 0, 0, 6, 6, 1, 7, 0, 8, 8, 9, 9, 0, 8, 10, 0, 6],
        vec![5, 31, 6, 6, 1, 6, 0, 9, 8, 8, 8, 0, 8, 8, 0, 6, 1, 4, 0, 8, 8, 8, 8, 0, 8, 8, 0, 6, 7, 6],
        // One that leads asks whether it does, and is told so.
        vec![
            5, 31, 6, 6, 1, 6, 0, 9, 8, 8, 8, 0, 8, 8, 0, 6, 1, 4, 0, 8, 8, 8, 8, 0, 8, 8, 0, 6, 6, 1, 2, 0, 8, 8, 8,
            8, 0, 8, 8, 0, 6, 15, 1, 8, 0, 8, 8, 8, 8, 0, 8, 9, 0, 15,
        ],
        vec![1, 9, 0, 9, 8, 8, 8, 0, 8, 8, 0, 6, 6, 6, 6],
        [&[0, 0, 40], &[1; 40][..]].concat(),
    ]
}
