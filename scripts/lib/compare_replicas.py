"""Compares what the replicas of topics hold, byte by byte, in the segments of nodes that do not run.

  compare_replicas.py DATA-DIRECTORY... -- TOPIC...

A line a topic, with its batches and bytes; a line for each partition whose replicas differ. What a node still has only in its
journal it brings to its segments when it starts: a node that was started and stopped without a record in between has everything
there. Layout: docs/storage-format.md; batches: Kafka's format, magic 2.
"""

import hashlib
import mmap
import struct
import sys
from pathlib import Path

# Base offset, length behind it, leader epoch, magic, checksum, attributes, last offset delta, two timestamps, producer id, its epoch,
# first sequence number, number of records.
HEADER = struct.Struct(">qiibIhiqqqhii")


class Batch:
    def __init__(self, data, position):
        (self.base, length, self.epoch, self.magic, self.checksum, _, last, _, _, self.producer, self.producer_epoch, self.sequence, self.records) = HEADER.unpack_from(data, position)
        self.bytes = 12 + length
        self.next = self.base + last + 1
        self.digest = hashlib.blake2b(data[position : position + self.bytes], digest_size=16).digest()

    def __str__(self):
        return (
            f"offsets {self.base} to {self.next - 1} ({self.records} records, {self.bytes} bytes), leader epoch {self.epoch}, "
            f"checksum {self.checksum:08x}, producer {self.producer} epoch {self.producer_epoch} from {self.sequence}"
        )


def batches_of(file, first):
    """Of a segment: up to its end, or to the zeros that are reserved behind it. `first` is the offset that the name says."""
    if file.stat().st_size < HEADER.size:
        return
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        position, expected = 0, first
        while position + HEADER.size <= len(data) and any(data[position : position + 17]):
            batch = Batch(data, position)
            if batch.magic != 2 or batch.base != expected or batch.next <= batch.base or position + batch.bytes > len(data):
                raise ValueError(f"{file}, byte {position}: no batch at offset {expected}: {batch}")
            yield batch
            position, expected = position + batch.bytes, batch.next


def log_of(partition):
    """All batches of a partition, over its segments."""
    # Of the segments that begin at an offset, the one with the highest version: what compaction wrote last.
    segments = {}
    for file in sorted(partition.glob("*.log")):
        base, *version = file.name.split(".")[:-1]
        held = segments.get(int(base), (-1, None))
        segments[int(base)] = max(held, (int(version[0]) if version else 0, file), key=lambda one: one[0])
    log = []
    for base, (_, file) in sorted(segments.items()):
        if log and log[-1].next != base:
            raise ValueError(f"{file}: the segment before ends at {log[-1].next}")
        log.extend(batches_of(file, base))
    return log


def compare(name, logs):
    """What differs in a partition, in words, and the batches and bytes that were compared."""
    wrong = []
    starts, ends = [log[0].base if log else 0 for log in logs], [log[-1].next if log else 0 for log in logs]
    if len(set(ends)) > 1:
        wrong.append(f"{name}: the replicas end at {ends}")
    first, end = max(starts), min(ends)
    common = [[batch for batch in log if batch.base >= first and batch.next <= end] for log in logs]
    for held in zip(*common):
        if len({batch.digest for batch in held}) > 1:
            wrong.append(f"{name}: the replicas differ:" + "".join(f"\n    {batch}" for batch in held))
            break
    else:
        if len({len(log) for log in common}) > 1:
            wrong.append(f"{name}: from {first} to {end} the replicas hold {[len(log) for log in common]} batches")
    return wrong, len(common[0]), sum(batch.bytes for batch in common[0])


def main(arguments):
    split = arguments.index("--")
    directories, topics = [Path(one) for one in arguments[:split]], arguments[split + 1 :]
    all_wrong, total = [], 0
    for topic in topics:
        # By partition: the topic has one id, so one directory.
        partitions = sorted({int(found.name) for found in directories[0].glob(f"topics/{topic}/*/[0-9]*")})
        batches = size = epochs = 0
        for number in partitions:
            name, logs = f"{topic}-{number}", []
            try:
                for directory in directories:
                    (found,) = directory.glob(f"topics/{topic}/*/{number}")
                    logs.append(log_of(found))
            except ValueError as error:
                all_wrong.append(f"{name}: {error}")
                continue
            wrong, count, length = compare(name, logs)
            all_wrong += wrong
            batches += count
            size += length
            epochs += len({batch.epoch for batch in logs[0]})
        print(f"{topic}: {len(partitions)} partitions, {batches} batches of {epochs} leader epochs, {size} bytes")
        total += size
    print(f"{total} bytes, {len(directories)} replicas, {len(all_wrong)} differences")
    for line in all_wrong:
        print(line)
    return 1 if all_wrong or not total else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
