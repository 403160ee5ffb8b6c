"""Compacted topics with confluent-kafka (librdkafka): each codec, deletions, records without a key.

    with_compaction.py BOOTSTRAP

The broker must look for something to compact every second or so (log.cleaner.backoff.ms).
"""

import os
import random
import sys
import time

import confluent_kafka as ck
from confluent_kafka import admin as cka

from content import check, fail

TIMEOUT = 30
# For one codec to be compacted.
PATIENCE = 120
KEYS = 400
RECORDS = 20_000
CONFIG = {
    "cleanup.policy": "compact",
    "segment.bytes": str(1 << 20),
    "min.cleanable.dirty.ratio": "0.01",
    "file.delete.delay.ms": "1000",
}


def create(admin, topic, config):
    futures = admin.create_topics([cka.NewTopic(topic, 1, 1, config=config)], operation_timeout=TIMEOUT)
    [future.result(TIMEOUT) for future in futures.values()]


def producer(bootstrap, codec):
    return ck.Producer({"bootstrap.servers": bootstrap, "compression.type": codec, "linger.ms": 5, "enable.idempotence": True})


def fill(bootstrap, topic, codec, seed):
    """Writes keys in random order, some with deletions. Returns everything by offset."""
    rng = random.Random(seed)
    sender = producer(bootstrap, codec)
    written = {}

    def delivered(record):
        def done(error, message):
            check(error is None, f"{topic}: {error}")
            written[message.offset()] = record
        return done

    for index in range(RECORDS):
        key = f"key-{rng.randrange(KEYS)}".encode()
        # Random bytes, so that no codec makes the segments too short to be closed.
        value = None if rng.random() < 0.1 else os.urandom(rng.randrange(100, 500))
        headers = [("n", str(index).encode()), ("n", None)] if index % 3 == 0 else None
        stamp = 1_700_000_000_000 + index
        record = (key, value, headers, stamp)
        sender.produce(topic, value, key, headers=headers, timestamp=stamp, on_delivery=delivered(record))
        if index % 500 == 0:
            sender.poll(0.01)
    check(sender.flush(60) == 0 and len(written) == RECORDS, f"{topic}: {len(written)} of {RECORDS} records were delivered")
    return written


def read(bootstrap, topic, end):
    consumer = ck.Consumer({"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False, "check.crcs": True, "enable.partition.eof": True})
    consumer.assign([ck.TopicPartition(topic, 0, 0)])
    found = {}
    last = -1
    deadline = time.monotonic() + TIMEOUT
    while True:
        check(time.monotonic() < deadline, f"{topic}: no end after offset {last}")
        for message in consumer.consume(2000, 1.0):
            if message.error():
                if message.error().code() == ck.KafkaError._PARTITION_EOF:
                    consumer.close()
                    return found
                fail(str(message.error()))
            check(message.offset() > last, f"{topic}: offset {message.offset()} behind {last}")
            last = message.offset()
            check(last < end, f"{topic}: offset {last}, the end is {end}")
            found[last] = (message.key(), message.value(), message.headers(), message.timestamp()[1])


def judge(topic, written, found):
    """Everything found was written, just so; the last value of every key is there."""
    for offset, record in found.items():
        check(written[offset] == record, f"{topic}: offset {offset} was {written[offset]}, is {record}")
    last = {}
    for offset in sorted(written):
        last[written[offset][0]] = offset
    seen = {}
    for offset in sorted(found):
        seen[found[offset][0]] = offset
    for key, offset in last.items():
        if written[offset][1] is not None:
            check(offset in found, f"{topic}: the last value of {key}, at offset {offset}, is lost")
        elif key in seen:
            check(seen[key] == offset, f"{topic}: {key} was deleted at offset {offset}, but comes back at {seen[key]}")


def compacted(bootstrap, admin, topic, codec):
    create(admin, topic, CONFIG)
    written = fill(bootstrap, topic, codec, codec)
    end = max(written) + 1
    deadline = time.monotonic() + PATIENCE
    while True:
        found = read(bootstrap, topic, end)
        judge(topic, written, found)
        # What is in the newest segment stays; the rest is one record a key.
        if len(found) < RECORDS // 2:
            break
        check(time.monotonic() < deadline, f"{topic}: {len(found)} of {RECORDS} records are still there")
        time.sleep(1)
    print(f"ok   {codec}: {len(found)} of {RECORDS} records are left, the last of every key among them", flush=True)


def keyless(bootstrap, admin, topic):
    create(admin, topic, CONFIG)
    problems = []
    sender = ck.Producer({"bootstrap.servers": bootstrap})
    sender.produce(topic, b"value", on_delivery=lambda error, _: problems.append(error))
    sender.flush(TIMEOUT)
    check(len(problems) == 1 and problems[0] is not None and problems[0].code() == ck.KafkaError.INVALID_RECORD, f"a record without a key: {problems}")
    sender.produce(topic, b"value", b"", on_delivery=lambda error, _: problems.append(error))
    sender.flush(TIMEOUT)
    check(problems[1:] == [None], f"an empty key is a key: {problems}")
    print("ok   a record without a key is refused (INVALID_RECORD)", flush=True)


def main():
    bootstrap = sys.argv[1]
    admin = cka.AdminClient({"bootstrap.servers": bootstrap})
    keyless(bootstrap, admin, "keyless")
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        compacted(bootstrap, admin, f"compacted-{codec}", codec)


main()
