"""A producer and a consumer that must notice nothing of what happens to others: scripts/hostile.sh runs this beside its attacks.

    good_client.py BOOTSTRAP TOPIC    reads commands from standard input, a line each:
        PHASE    latencies from now on count for the phase of this name
        end      stop producing, read to the end, print what was measured as JSON

An idempotent producer writes RECORDS_PER_SECOND records to PARTITIONS partitions; a member of a group reads them. Every record
must be acknowledged at the next offset of its partition and come out once, in order; no client may report an error.
"""

import json
import struct
import sys
import threading
import time

import confluent_kafka as ck

from content import check, fail
from with_confluent import create_topic

PARTITIONS = 3
RECORDS_PER_SECOND = 1000
RECORD_BYTES = 1024
END_SECONDS_MAX = 60


class Phase:
    """What was measured while one phase lasted, in seconds."""

    def __init__(self):
        self.acknowledged, self.end_to_end = [], []
        self.gaps = {"producer": 0.0, "consumer": 0.0}

    def summary(self):
        def quantiles(values):
            values = sorted(values)
            at = lambda share: round(values[min(len(values) - 1, int(share * len(values)))] * 1000, 1) if values else None
            return {"records": len(values), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0)}

        return {
            "acknowledged": quantiles(self.acknowledged),
            "end_to_end": quantiles(self.end_to_end),
            "longest_gap_ms": {who: round(gap * 1000, 1) for who, gap in self.gaps.items()},
        }


class Good:
    def __init__(self, bootstrap, topic):
        self.bootstrap, self.topic = bootstrap, topic
        self.problems = []
        self.phases = {"before": Phase()}
        self.phase = self.phases["before"]
        self.produced = [0] * PARTITIONS
        self.delivered = [0] * PARTITIONS
        self.consumed = [0] * PARTITIONS
        self.ending = threading.Event()
        self.last = {"producer": None, "consumer": None}

    def problem(self, text):
        self.problems.append(text)

    def moved(self, who, now):
        self.note_gap(who, now)
        self.last[who] = now

    def note_gap(self, who, now):
        if self.last[who] is not None:
            gaps = self.phase.gaps
            gaps[who] = max(gaps[who], now - self.last[who])

    def enter(self, name):
        # Who stands still now has stood still in the phase that ends.
        for who in self.last:
            self.note_gap(who, time.monotonic())
        self.phase = self.phases.setdefault(name, Phase())

    def is_under_way(self):
        return sum(self.consumed) > 0 and sum(self.produced) - sum(self.consumed) < RECORDS_PER_SECOND / 4

    def produce(self):
        producer = ck.Producer({
            "bootstrap.servers": self.bootstrap,
            "enable.idempotence": True,
            "linger.ms": 5,
            "error_cb": lambda error: self.problem(f"the producer reports {error}"),
        })
        padding = b"x" * (RECORD_BYTES - 16)

        def delivered(error, message):
            now, partition = time.monotonic(), message.partition()
            if error is not None:
                return self.problem(f"not delivered to partition {partition}: {error}")
            if message.offset() != self.delivered[partition]:
                self.problem(f"partition {partition}: acknowledged at {message.offset()} where {self.delivered[partition]} is next")
            self.delivered[partition] += 1
            self.phase.acknowledged.append(now - struct.unpack_from(">d", message.value(), 8)[0])
            self.moved("producer", now)

        due = time.monotonic()
        while not self.ending.is_set():
            partition = min(range(PARTITIONS), key=lambda index: self.produced[index])
            value = struct.pack(">qd", self.produced[partition], time.monotonic()) + padding
            try:
                producer.produce(self.topic, value, partition=partition, on_delivery=delivered)
                self.produced[partition] += 1
            except BufferError:
                pass
            due += 1 / RECORDS_PER_SECOND
            producer.poll(max(0, due - time.monotonic()))
        left = producer.flush(END_SECONDS_MAX)
        if left:
            self.problem(f"{left} records are not acknowledged {END_SECONDS_MAX} s after the end")

    def consume(self):
        consumer = ck.Consumer({
            "bootstrap.servers": self.bootstrap,
            "group.id": self.topic,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "check.crcs": True,
            "fetch.wait.max.ms": 100,
            "error_cb": lambda error: self.problem(f"the consumer reports {error}"),
        })
        consumer.subscribe([self.topic])
        commit_at = deadline = None
        while True:
            for message in consumer.consume(500, 0.1):
                now = time.monotonic()
                if message.error():
                    self.problem(f"the consumer got {message.error()}")
                    continue
                partition, place = message.partition(), self.consumed[message.partition()]
                number, sent = struct.unpack_from(">qd", message.value())
                if (message.offset(), number) != (place, place):
                    self.problem(f"partition {partition}: record {number} at offset {message.offset()} where {place} is next")
                self.consumed[partition] += 1
                self.phase.end_to_end.append(now - sent)
                self.moved("consumer", now)
            now = time.monotonic()
            if commit_at is None or now >= commit_at:
                if any(self.consumed):
                    consumer.commit(offsets=[ck.TopicPartition(self.topic, p, n) for p, n in enumerate(self.consumed)], asynchronous=True)
                commit_at = now + 1
            if not self.ending.is_set():
                continue
            deadline = deadline or now + END_SECONDS_MAX
            if self.delivered == self.produced == self.consumed:
                break
            if now > deadline:
                self.problem(f"produced {self.produced}, acknowledged {self.delivered}, read {self.consumed}")
                break
        consumer.close()


def main(bootstrap, topic):
    create_topic(bootstrap, topic, PARTITIONS, {"retention.ms": "-1"})
    good = Good(bootstrap, topic)
    threads = [threading.Thread(target=work, daemon=True) for work in (good.produce, good.consume)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + END_SECONDS_MAX
    while not good.is_under_way():
        check(time.monotonic() < deadline, "the good clients do not get under way")
        time.sleep(0.1)
    print("started", flush=True)
    for line in sys.stdin:
        if line.strip() == "end":
            break
        good.enter(line.strip())
    good.ending.set()
    for thread in threads:
        thread.join(2 * END_SECONDS_MAX + 10)
        check(not thread.is_alive(), "a good client does not end")
    print(json.dumps({
        "records": sum(good.consumed),
        "problems": good.problems[:20],
        "phases": {name: phase.summary() for name, phase in good.phases.items()},
    }), flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        fail(__doc__)
    main(*sys.argv[1:])
