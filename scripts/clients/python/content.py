"""The content of record i of a topic (README.md beside this folder), and the checks that the Python programs share."""

import struct
import sys
import time

POOL_BYTES = 524288
FIRST_TIMESTAMP_MS = 1_700_000_000_000
# Nothing new for this long ends a run with a failure.
IDLE_SECONDS_MAX = 30
MASK = 0xFFFFFFFF


def make_pool():
    state, chunks = 0x2545F491, []
    for chunk in range(POOL_BYTES // 64):
        if chunk % 2:
            chunks.append(bytes([97 + chunk % 26]) * 64)
            continue
        words = []
        for _ in range(16):
            state ^= (state << 13) & MASK
            state ^= state >> 17
            state ^= (state << 5) & MASK
            words.append(state)
        chunks.append(struct.pack("<16I", *words))
    return b"".join(chunks)


def fnv1a(data):
    value = 0x811C9DC5
    for byte in data:
        value = ((value ^ byte) * 0x01000193) & MASK
    return value


def mix(x):
    x &= MASK
    x ^= x >> 16
    x = (x * 0x85EBCA6B) & MASK
    x ^= x >> 13
    x = (x * 0xC2B2AE35) & MASK
    return x ^ (x >> 16)


class Content:
    """record(i) gives (key, value, headers, timestamp in ms); in the kcat styles headers are [] and the timestamp is None."""

    def __init__(self, topic, style):
        self.topic, self.style = topic, style
        self.base = fnv1a(topic.encode())
        self.pool = make_pool()

    def record(self, index):
        h = mix(self.base + index * 0x9E3779B1)
        k, v = h & 7, (h >> 3) & 31
        key = None if k == 0 else b"" if k == 1 else b"key-%d" % ((h >> 3) & 1023)
        if v == 0:
            value = None
        elif v == 1:
            value = b""
        else:
            if index % 5000 == 4999:
                size = 100_000 + (h >> 8) % 200_000
            elif index % 100 == 99:
                size = 1024 + (h >> 8) % 7168
            else:
                size = 8 + (h >> 8) % 185
            start = mix(h + 1) % (POOL_BYTES - size)
            value = b"%s/%d/" % (self.topic.encode(), index) + self.pool[start : start + size]
        if self.style in ("full", "plain"):
            headers = []
            if h >> 29 == 0:
                headers = [("h", b"%d" % index), ("h", b"again"), ("empty", b"")]
                if self.style == "full":
                    headers.append(("null", None))
            if self.style == "plain" and key is None and value is None:
                key = b""
            return key, value, headers, FIRST_TIMESTAMP_MS + index
        if self.style == "nulls":
            return key or None, value or None, [], None
        return key or b"", value or b"", [], None


def partition_count(count, partitions, partition):
    """How many of the records 0 … count−1 belong to this partition."""
    return (count - partition + partitions - 1) // partitions


class Checker:
    """Takes the records of all partitions as they come; every one must be the next of its partition, at the next offset."""

    def __init__(self, topic, partitions, count, style):
        self.content = Content(topic, style)
        self.topic, self.partitions, self.count = topic, partitions, count
        self.next = [0] * partitions
        self.seen = 0
        self.last_progress = time.monotonic()

    def take(self, partition, offset, key, value, headers, timestamp):
        position = self.next[partition]
        if offset != position:
            fail(f"{self.topic}-{partition}: offset {offset} where {position} is next")
        index = partition + position * self.partitions
        if index >= self.count:
            fail(f"{self.topic}-{partition}: more records than were written: offset {offset}")
        expected = self.content.record(index)
        if expected[3] is None:
            timestamp = None
        if (key, value, headers, timestamp) != expected:
            fail(f"{self.topic}-{partition}@{offset} (record {index}):\n got      {shown((key, value, headers, timestamp))}\n expected {shown(expected)}")
        self.next[partition] = position + 1
        self.seen += 1
        self.last_progress = time.monotonic()

    def done(self):
        return self.seen >= self.count

    def check_idle(self):
        if time.monotonic() - self.last_progress > IDLE_SECONDS_MAX:
            fail(f"{self.topic}: nothing new for {IDLE_SECONDS_MAX} s, at {self.next}, {self.seen} of {self.count} records")

    def check_end(self, ends):
        expected = [partition_count(self.count, self.partitions, p) for p in range(self.partitions)]
        if ends != expected:
            fail(f"{self.topic}: end offsets {ends}, expected {expected}")


def shown(record):
    return tuple(f"{field[:80]!r}… ({len(field)} bytes)" if isinstance(field, bytes) and len(field) > 80 else field for field in record)


def fail(message):
    print(message, file=sys.stderr, flush=True)
    sys.exit(1)


def check(condition, message):
    if not condition:
        fail(message)


def run(commands):
    """Calls the command that the first argument names; numbers become numbers."""
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        fail(f"one of: {', '.join(commands)}")
    name = sys.argv[1]
    arguments = sys.argv[2:]
    if name != "admin":
        arguments[2:4] = [int(arguments[2]), int(arguments[3])]
    commands[name](*arguments)
