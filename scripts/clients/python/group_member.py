#!/usr/bin/env python3
"""Members of a consumer group that say what happens to them, with confluent-kafka or kafka-python.

    group_member.py confluent-kafka|kafka-python BOOTSTRAP GROUP TOPIC MEMBERS PROTOCOL [INSTANCE]

PROTOCOL: eager, cooperative (confluent-kafka), consumer (KIP-848, confluent-kafka). INSTANCE makes the members static.
The lines are those that group_check.py reads. SIGTERM: commit, leave and end.
"""

import signal
import sys
import threading
import time

library, bootstrap, group, topic, members, protocol = sys.argv[1:7]
instance = sys.argv[7] if len(sys.argv) > 7 else None
stopping = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopping.set())
COMMIT_EVERY_S = 0.3


def say(event, member, partition, first=-1, last=-1):
    # One write of a whole line: threads share the pipe.
    sys.stdout.write(f"{event} {time.time_ns() // 1000} {member} {partition} {first} {last}\n")
    sys.stdout.flush()


def name(number):
    return f"{instance}-{number}" if instance else f"{library}-{protocol}-{time.time_ns()}-{number}"


class Runs:
    """Reads of consecutive offsets as one line each, and the positions to commit."""

    def __init__(self, member):
        self.member, self.runs, self.positions = member, {}, {}

    def read(self, partition, offset):
        first, last = self.runs.get(partition, (offset, offset - 1))
        if offset != last + 1:
            say("read", self.member, partition, first, last)
            first = offset
        self.runs[partition] = (first, offset)
        self.positions[partition] = offset + 1

    def flush(self):
        for partition, (first, last) in self.runs.items():
            say("read", self.member, partition, first, last)
        self.runs = {}

    def forget(self, partitions):
        for partition in partitions:
            self.positions.pop(partition, None)


def with_confluent(number):
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    me = name(number)
    runs = Runs(me)
    settings = {
        "bootstrap.servers": bootstrap,
        "group.id": group,
        "client.id": me,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "log_level": 0,
        "reconnect.backoff.max.ms": 500,
    }
    if protocol == "consumer":
        settings["group.protocol"] = "consumer"
    else:
        settings["session.timeout.ms"] = 6000
        settings["heartbeat.interval.ms"] = 500
        settings["partition.assignment.strategy"] = "cooperative-sticky" if protocol == "cooperative" else "range"
    if instance:
        settings["group.instance.id"] = me
    consumer = Consumer(settings)

    def commit():
        offsets = [TopicPartition(topic, partition, position) for partition, position in runs.positions.items()]
        if not offsets:
            return
        try:
            done = consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException:
            # It is tried again, or the partitions are gone.
            return
        for part in done:
            if part.error is None:
                say("commit", me, part.partition, part.offset)

    def assigned(_, partitions):
        for part in partitions:
            say("assign", me, part.partition)

    def revoked(_, partitions):
        commit()
        runs.forget([part.partition for part in partitions])
        for part in partitions:
            say("revoke", me, part.partition)

    def lost(_, partitions):
        runs.forget([part.partition for part in partitions])
        for part in partitions:
            say("lost", me, part.partition)

    consumer.subscribe([topic], on_assign=assigned, on_revoke=revoked, on_lost=lost)
    commit_at = time.monotonic() + COMMIT_EVERY_S
    while not stopping.is_set():
        for message in consumer.consume(200, 0.1):
            if message.error() is None:
                runs.read(message.partition(), message.offset())
        runs.flush()
        if time.monotonic() >= commit_at:
            commit()
            commit_at = time.monotonic() + COMMIT_EVERY_S
    consumer.close()


def with_kafka_python(number):
    from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata, TopicPartition
    from kafka.errors import KafkaError

    me = name(number)
    runs = Runs(me)
    settings = {"group_instance_id": me} if instance else {}
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=group,
        client_id=me,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=6000,
        heartbeat_interval_ms=500,
        max_poll_records=200,
        reconnect_backoff_max_ms=500,
        **settings,
    )

    def commit():
        positions = dict(runs.positions)
        if not positions:
            return
        try:
            consumer.commit({TopicPartition(topic, partition): OffsetAndMetadata(position, "", -1) for partition, position in positions.items()})
        except KafkaError:
            return
        for partition, position in positions.items():
            say("commit", me, partition, position)

    # It runs on the client's own thread, where nothing may wait: what is not committed then is read again.
    class Listener(ConsumerRebalanceListener):
        def on_partitions_revoked(self, revoked):
            runs.forget([part.partition for part in revoked])
            for part in revoked:
                say("revoke", me, part.partition)

        def on_partitions_lost(self, lost):
            runs.forget([part.partition for part in lost])
            for part in lost:
                say("lost", me, part.partition)

        def on_partitions_assigned(self, assigned):
            for part in assigned:
                say("assign", me, part.partition)

    consumer.subscribe([topic], listener=Listener())
    commit_at = time.monotonic() + COMMIT_EVERY_S
    while not stopping.is_set():
        try:
            polled = consumer.poll(timeout_ms=100)
        except KafkaError:
            time.sleep(0.1)
            continue
        for part, records in polled.items():
            for record in records:
                runs.read(part.partition, record.offset)
        runs.flush()
        if time.monotonic() >= commit_at:
            commit()
            commit_at = time.monotonic() + COMMIT_EVERY_S
    commit()
    consumer.close()


threads = [
    threading.Thread(target=with_confluent if library == "confluent-kafka" else with_kafka_python, args=(number,))
    for number in range(int(members))
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
