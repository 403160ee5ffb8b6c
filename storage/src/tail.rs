//! The newest bytes of a partition, in memory: aligned blocks that lie as the disk wants them, shared with readers and writes.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::batch::{BatchHeader, Batches};
use crate::block::{Block, BlockPool};
use crate::disk::BLOCK_BYTES;
use crate::shard_log::{ReadPart, ReadPlan};

/// The first block of a quiet partition.
const TAIL_BLOCK_BYTES_MIN: usize = 8 << 10;
/// The block size that a busy partition with small batches grows to. What is not filled of it, and what is but not all
/// written back, is memory that a thousand busy partitions take a thousand times.
const TAIL_BLOCK_BYTES_SMALL: usize = 64 << 10;
/// The block size that one with larger batches grows to; still larger ones get a block of their own.
const TAIL_BLOCK_BYTES_MAX: usize = 256 << 10;
/// A block is to hold so many batches, or too much of it stays empty.
const TAIL_BLOCK_BATCHES: usize = 4;
/// A tail block remembers where a batch starts about once in this many bytes.
const TAIL_MARK_INTERVAL_BYTES: usize = 4096;
/// The newest bytes of a partition, in memory: whole batches, contiguous from the first block to the last.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    blocks: VecDeque<TailBlock>,
    capacity: usize,
}

#[derive(Debug)]
struct TailBlock {
    segment: i64,
    position: u64,
    first_offset: i64,
    /// Begins at a multiple of [`BLOCK_BYTES`] in the segment, so that the disk can be given it as it is: its first `skip`
    /// bytes lie before `position`.
    block: Block,
    skip: usize,
    /// Those bytes are the segment's.
    knows_skipped: bool,
    /// The segment was cut: what is in the memory behind these bytes is not the segment's.
    cut_to: Option<usize>,
    /// (base offset, position in the block behind `skip`) of a batch, about every [`TAIL_MARK_INTERVAL_BYTES`].
    marks: Vec<(i64, u32)>,
    /// Listed for eviction.
    is_queued: bool,
}

impl TailBlock {
    /// Where it begins in the segment with what it repeats of the block before.
    fn start(&self) -> u64 {
        self.position - self.skip as u64
    }

    /// Where it ends in the segment.
    fn end(&self) -> u64 {
        self.start() + self.used() as u64
    }

    /// Bytes of its memory up to the segment's end.
    fn used(&self) -> usize {
        self.cut_to.unwrap_or(self.block.len())
    }

    /// From where on its memory is the segment's.
    fn known_from(&self) -> u64 {
        if self.knows_skipped { self.start() } else { self.position }
    }

    /// Bytes from `position` on.
    fn len(&self) -> usize {
        self.used() - self.skip
    }

    /// A part of them.
    fn slice(&self, range: std::ops::Range<usize>) -> Bytes {
        self.block.slice(range.start + self.skip..range.end + self.skip)
    }

    /// All of them.
    fn filled(&self) -> &[u8] {
        &self.block.filled()[self.skip..self.used()]
    }

    /// The bytes `range` of the segment, from [`TailBlock::start`] on.
    fn part(&self, range: std::ops::Range<u64>) -> Bytes {
        self.block.slice((range.start - self.start()) as usize..(range.end - self.start()) as usize)
    }
}

impl Tail {
    /// Memory held, in bytes.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The first offset in memory.
    pub fn first_offset(&self) -> Option<i64> {
        self.blocks.front().map(|block| block.first_offset)
    }

    /// Where it ends: base offset of a segment, and a position in that.
    pub fn end(&self) -> Option<(i64, u64)> {
        self.blocks.back().map(|block| (block.segment, block.end()))
    }

    /// Room for a batch of `bytes` at `position` of `segment`; [`Tail::commit`] makes it part of the tail.
    pub fn reserve(
        &mut self,
        pool: &mut BlockPool,
        segment: i64,
        position: u64,
        first_offset: i64,
        bytes: usize,
    ) -> &mut [u8] {
        let last = self.blocks.back();
        assert!(
            last.is_none_or(|last| last.segment != segment || last.cut_to.is_none()),
            "a segment that was cut is over"
        );
        if last.is_none_or(|last| last.segment != segment || last.block.spare() < bytes) {
            let skip = (position % BLOCK_BYTES as u64) as usize;
            let before = last.filter(|last| last.segment == segment);
            let grown_max = (TAIL_BLOCK_BATCHES * bytes).clamp(TAIL_BLOCK_BYTES_SMALL, TAIL_BLOCK_BYTES_MAX);
            let grown = last.map_or(TAIL_BLOCK_BYTES_MIN, |last| (last.block.capacity() * 2).min(grown_max));
            let mut block = pool.take(grown.max(skip + bytes));
            assert!(
                last.is_none_or(|last| last.segment <= segment && last.first_offset < first_offset),
                "blocks ascend"
            );
            assert!(
                before.map_or(position == 0 || last.is_none(), |before| before.end() == position),
                "the tail is contiguous"
            );
            let start = position - skip as u64;
            let knows_skipped = skip == 0 || before.is_some_and(|before| before.known_from() <= start);
            match before {
                Some(before) => block.append(&before.block.filled()[before.block.len() - skip..]),
                None => block.commit(skip),
            }
            self.capacity += block.capacity();
            self.blocks.push_back(TailBlock {
                segment,
                position,
                first_offset,
                block,
                skip,
                knows_skipped,
                cut_to: None,
                marks: Vec::new(),
                is_queued: false,
            });
        }
        let last = self.blocks.back_mut().expect("there is one now");
        assert_eq!((last.segment, last.end()), (segment, position), "the tail is contiguous");
        &mut last.block.spare_mut()[..bytes]
    }

    /// Makes what was written to the room of [`Tail::reserve`] part of the tail.
    pub fn commit(&mut self, bytes: usize, base_offset: i64) {
        let last = self.blocks.back_mut().expect("reserved");
        let position = last.len() as u32;
        assert!(bytes > 0 && bytes <= last.block.spare(), "what was reserved is committed");
        assert!(last.marks.last().is_none_or(|&(offset, _)| offset < base_offset), "offsets ascend");
        if last.marks.last().is_none_or(|&(_, mark)| (position - mark) as usize >= TAIL_MARK_INTERVAL_BYTES) {
            last.marks.push((base_offset, position));
        }
        last.block.commit(bytes);
    }

    /// The slices that hold `from..to` of a segment; all of it must be here.
    pub fn slices(&self, segment: i64, from: u64, to: u64) -> Vec<Bytes> {
        let start = self.blocks.partition_point(|block| (block.segment, block.end()) <= (segment, from));
        let mut position = from;
        let mut slices = Vec::new();
        for block in self.blocks.iter().skip(start) {
            if position >= to {
                break;
            }
            assert!(block.segment == segment && block.position <= position, "the tail holds what is not written back");
            let end = to.min(block.end());
            slices.push(block.part(position..end));
            position = end;
        }
        assert_eq!(position, to, "the tail holds what is not written back");
        slices
    }

    /// What to write so that a segment that holds `written` bytes holds `to`: from the beginning of the block of the disk
    /// that `written` lies in, whose first bytes are `remainder`. All parts but the last are whole blocks of the disk, and
    /// lie in memory as the disk wants them, but for the first if the tail does not know what came before it.
    pub fn disk_parts(&self, segment: i64, written: u64, to: u64, remainder: &[u8]) -> Vec<Bytes> {
        const BLOCK: u64 = BLOCK_BYTES as u64;
        let mut position = written - written % BLOCK;
        assert_eq!(remainder.len() as u64, written - position);
        assert!(written < to, "there is something to write");
        let mut index = self.blocks.partition_point(|block| (block.segment, block.end()) <= (segment, written));
        let mut parts = Vec::new();
        if self.blocks.get(index).is_none_or(|block| block.segment != segment || block.known_from() > position) {
            let end = to.min(position + BLOCK);
            let mut first = remainder.to_vec();
            self.slices(segment, written, end).iter().for_each(|slice| first.extend_from_slice(slice));
            parts.push(Bytes::from(first));
            position = end;
        }
        while position < to {
            let block = &self.blocks[index];
            assert!(block.segment == segment && block.known_from() <= position, "the tail is contiguous");
            let end = block.end().min(to);
            let whole = end - end % BLOCK;
            if position < whole {
                parts.push(block.part(position..whole));
                position = whole;
            }
            if end == to && position < to {
                parts.push(block.part(position..to));
                position = to;
            }
            // The rest of this block is repeated at the beginning of the next.
            index += 1;
        }
        let bytes: usize = parts.iter().map(Bytes::len).sum();
        assert_eq!(bytes as u64, to - (written - written % BLOCK), "all of it is written, and once");
        parts
    }

    /// The last known start of a batch in `from..=from + bytes_max` of a segment, other than `from`, and the offset at which the
    /// batch before it ends.
    pub fn batch_boundary(&self, segment: i64, from: u64, bytes_max: u64) -> Option<(u64, i64)> {
        let limit = from + bytes_max;
        let end = self.blocks.partition_point(|block| (block.segment, block.position) <= (segment, limit));
        let block = &self.blocks[end.checked_sub(1)?];
        let mark =
            block.marks.partition_point(|&(_, mark)| block.position + u64::from(mark) <= limit).checked_sub(1)?;
        let position = block.position + u64::from(block.marks[mark].1);
        (block.segment == segment && position > from).then(|| (position, self.end_before(end - 1, mark)))
    }

    /// Where the batch ends, in offsets, that lies before a mark of a block. There is one in the same segment.
    fn end_before(&self, block: usize, mark: usize) -> i64 {
        let (block, mark, to) = match mark.checked_sub(1) {
            Some(before) => (&self.blocks[block], before, self.blocks[block].marks[mark].1 as usize),
            None => (&self.blocks[block - 1], self.blocks[block - 1].marks.len() - 1, self.blocks[block - 1].len()),
        };
        let batches = &block.filled()[block.marks[mark].1 as usize..to];
        let last = Batches::new(batches).last().expect("a mark is at a batch").expect("the tail holds whole batches");
        last.0.last_offset() + 1
    }

    /// The length of the batch at `position` of a segment, which must be here.
    pub fn first_batch_bytes(&self, segment: i64, position: u64) -> u64 {
        let bytes = self.at(segment, position).expect("what is not committed is in memory");
        batch_bytes(BatchHeader::read(&bytes).expect("the tail holds whole batches")) as u64
    }

    /// The bytes in memory from `position` of a segment to the end of their block.
    pub fn at(&self, segment: i64, position: u64) -> Option<Bytes> {
        let index = self.blocks.partition_point(|block| (block.segment, block.position) <= (segment, position));
        let block = self.blocks.get(index.checked_sub(1)?)?;
        (block.segment == segment && position < block.end()).then(|| block.part(position..block.end()))
    }

    /// Index of the block that holds the batch containing `offset`, and the batch's position in it.
    fn find(&self, offset: i64) -> Option<(usize, usize)> {
        let index = self.blocks.partition_point(|block| block.first_offset <= offset).checked_sub(1)?;
        let block = &self.blocks[index];
        let mark = block.marks.partition_point(|&(base, _)| base <= offset) - 1;
        let filled = block.filled();
        let mut position = block.marks[mark].1 as usize;
        while position < filled.len() {
            let header = BatchHeader::read(&filled[position..]).expect("the tail holds whole batches");
            if header.last_offset() >= offset {
                return Some((index, position));
            }
            position += batch_bytes(header);
        }
        // A gap: the batch is the first of the next block.
        (index + 1 < self.blocks.len()).then_some((index + 1, 0))
    }

    /// The slices from the batch containing `offset` up to the one containing `until_offset`.
    pub fn read(&self, offset: i64, until_offset: i64, bytes_max: usize) -> ReadPlan {
        let Some((first, start)) = self.find(offset) else { return ReadPlan::default() };
        let end = self.find(until_offset);
        let header = BatchHeader::read(&self.blocks[first].filled()[start..]).expect("found");
        let first_batch_bytes = batch_bytes(header);
        let mut plan = ReadPlan { first_batch_bytes, ..ReadPlan::default() };
        let limit = bytes_max.max(first_batch_bytes);
        let last = end.map_or(self.blocks.len(), |(index, _)| index + 1);
        for index in first..last {
            let block = &self.blocks[index];
            let from = if index == first { start } else { 0 };
            let to = match end {
                Some((end_index, position)) if end_index == index => position,
                _ => block.len(),
            };
            let to = to.min(from + (limit - plan.bytes));
            if to > from {
                plan.parts.push(ReadPart::Memory(block.slice(from..to)));
                plan.bytes += to - from;
            }
            if plan.bytes >= limit {
                break;
            }
        }
        if plan.bytes == 0 { ReadPlan::default() } else { plan }
    }

    /// Whole batches from the one containing `offset` on: at most `bytes_max`, but at least one. `None`: it is not in memory.
    pub fn read_whole(&self, offset: i64, bytes_max: usize) -> Option<ReadPlan> {
        let mut plan = self.read(offset, i64::MAX, bytes_max);
        let Some(ReadPart::Memory(last)) = plan.parts.pop() else { return None };
        // Blocks begin and end with a batch, so only the last slice may have been cut within one.
        let whole: usize = Batches::new(&last).map_while(|batch| Some(batch.ok()?.1.len())).sum();
        plan.bytes -= last.len() - whole;
        if whole > 0 {
            plan.parts.push(ReadPart::Memory(last.slice(..whole)));
        }
        Some(plan)
    }

    /// Drops the oldest block if what it holds is all in its segment's file: `is_written` says so of a segment and a
    /// position. Returns its capacity.
    pub fn evict_front(&mut self, pool: &mut BlockPool, is_written: impl FnOnce(i64, u64) -> bool) -> Option<usize> {
        let front = self.blocks.front_mut()?;
        front.is_queued = false;
        if !is_written(front.segment, front.end()) {
            return None;
        }
        Some(self.drop_front(pool))
    }

    /// How many more blocks have become evictable since the last call.
    pub fn take_evictable(&mut self, is_written: impl Fn(i64, u64) -> bool) -> usize {
        let evictable = self.blocks.iter_mut().take_while(|block| is_written(block.segment, block.end()));
        evictable.filter_map(|block| (!std::mem::replace(&mut block.is_queued, true)).then_some(())).count()
    }

    /// Frees blocks of segments before the one with this base offset. Returns the capacity freed.
    pub fn drop_before(&mut self, segment: i64, pool: &mut BlockPool) -> usize {
        let mut freed = 0;
        while self.blocks.front().is_some_and(|block| block.segment < segment) {
            freed += self.drop_front(pool);
        }
        freed
    }

    /// Forgets what lies behind `position` of a segment, where a batch begins, and all of the segments behind it; with no
    /// segment, everything. Memory that others have slices of stays as it is. Returns the capacity freed.
    pub fn truncate(&mut self, end: Option<(i64, u64)>, pool: &mut BlockPool) -> usize {
        let before = self.capacity;
        let is_over = |block: &TailBlock| end.is_none_or(|end| (block.segment, block.position) >= end);
        while self.blocks.back().is_some_and(is_over) {
            let last = self.blocks.pop_back().expect("just seen");
            self.capacity -= last.block.capacity();
            pool.give(last.block);
        }
        if let Some(last) = self.blocks.back_mut()
            && let Some((segment, position)) = end
            && last.segment == segment
            && position < last.end()
        {
            last.cut_to = Some((position - last.start()) as usize);
            let kept = last.len();
            last.marks.retain(|&(_, mark)| (mark as usize) < kept);
            assert!(!last.marks.is_empty(), "a block begins with a batch");
        }
        before - self.capacity
    }

    fn drop_front(&mut self, pool: &mut BlockPool) -> usize {
        let front = self.blocks.pop_front().expect("the caller has seen it");
        let capacity = front.block.capacity();
        assert!(capacity <= self.capacity, "no block gives back what it did not take");
        self.capacity -= capacity;
        pool.give(front.block);
        capacity
    }

    /// Gives all memory back.
    pub fn clear(&mut self, pool: &mut BlockPool) {
        for block in self.blocks.drain(..) {
            pool.give(block.block);
        }
        self.capacity = 0;
    }
}

/// The length of a batch that this log holds already.
fn batch_bytes(header: &BatchHeader) -> usize {
    header.batch_bytes().expect("validated before it was appended")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Whatever was appended and written before, the parts are the segment's bytes, and the disk can take them.
    #[test]
    fn what_is_written_lies_as_the_disk_wants_it() {
        const BLOCK: usize = BLOCK_BYTES;
        for seed in 0..100 {
            let mut random = Random::new(seed);
            let mut pool = BlockPool::new(1 << 20);
            let mut tail = Tail::default();
            // What an earlier process has written is not in memory.
            let is_old = random.index(2);
            let begin = is_old * random.index(3 * BLOCK);
            let mut contents: Vec<u8> = (0..begin).map(|_| random.below(256) as u8).collect();
            let mut written = begin;
            for _ in 0..20 {
                for _ in 0..random.below(6) {
                    let bytes_max = if random.below(3) == 0 { 100_000 } else { 3000 };
                    let bytes = 1 + random.index(bytes_max);
                    let at = contents.len();
                    let target = tail.reserve(&mut pool, 7, at as u64, at as i64, bytes);
                    target.fill_with(|| random.below(256) as u8);
                    contents.extend_from_slice(target);
                    tail.commit(bytes, at as i64);
                }
                let left = contents.len() - written;
                let keep = random.index(2);
                let to = contents.len() - keep * random.index(left + 1);
                if to == written {
                    continue;
                }
                let start = written - written % BLOCK;
                let parts = tail.disk_parts(7, written as u64, to as u64, &contents[start..written]);
                assert!(parts.concat() == contents[start..to], "seed {seed}");
                let (last, whole) = parts.split_last().expect("there is something to write");
                assert!(whole.iter().all(|part| part.len().is_multiple_of(BLOCK)), "seed {seed}");
                assert!(last.len() < BLOCK || last.len().is_multiple_of(BLOCK), "seed {seed}");
                let is_aligned = |part: &Bytes| part.as_ptr().addr().is_multiple_of(BLOCK);
                let first = usize::from(start < begin);
                assert!(parts.iter().skip(first).all(is_aligned), "seed {seed}");
                written = to;
            }
        }
    }
}
