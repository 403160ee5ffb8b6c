"""confluent-kafka (librdkafka). Arguments: README.md beside this folder."""

import time

import confluent_kafka as ck
from confluent_kafka import admin as cka

from content import Checker, Content, check, fail, run

TIMEOUT = 20


def admin_client(bootstrap):
    return cka.AdminClient({"bootstrap.servers": bootstrap})


def results(futures):
    return {key: future.result(TIMEOUT) for key, future in futures.items()}


def create_topic(bootstrap, topic, partitions, config, node=None):
    """With all partitions on one node, where one is named."""
    client = admin_client(bootstrap)
    if node is None:
        # As many replicas as the brokers' default.replication.factor says.
        new = cka.NewTopic(topic, partitions, -1, config=config)
    else:
        new = cka.NewTopic(topic, partitions, replica_assignment=[[node]] * partitions, config=config)
    results(client.create_topics([new], operation_timeout=TIMEOUT))
    wait_for_leaders(client, topic, partitions)
    return client


def wait_for_leaders(client, topic, partitions):
    deadline = time.monotonic() + TIMEOUT
    while True:
        described = client.list_topics(topic, timeout=TIMEOUT).topics[topic]
        if described.error is None and len(described.partitions) == partitions:
            if all(p.error is None and p.leader >= 0 for p in described.partitions.values()):
                # Kafka may name a leader before that leader has its log; a produce with acks=0 in between is lost without a word.
                listed = client.list_offsets({ck.TopicPartition(topic, p): cka.OffsetSpec.latest() for p in range(partitions)})
                if all(future.exception(TIMEOUT) is None for future in listed.values()):
                    return
        check(time.monotonic() < deadline, f"{topic}: no leaders after {TIMEOUT} s")
        time.sleep(0.05)


def produce(bootstrap, topic, partitions, count, codec, acks, style, pace=0):
    """A pace is in records a second; 0 for as fast as it goes."""
    create_topic(bootstrap, topic, partitions, {"retention.ms": "-1"})
    content = Content(topic, style)
    producer = ck.Producer({
        "bootstrap.servers": bootstrap,
        "compression.type": codec,
        "acks": acks,
        "enable.idempotence": acks == "all",
        "linger.ms": 10,
        "queue.buffering.max.messages": 200_000,
        "queue.buffering.max.kbytes": 262_144,
    })
    next_offset = [0] * partitions
    problems = []
    pauses = Pauses(partitions)
    started = time.monotonic()

    def delivered(error, message):
        partition = message.partition()
        if error is not None:
            problems.append(f"{topic}-{partition}: {error}")
        elif acks != "0" and message.offset() != next_offset[partition]:
            problems.append(f"{topic}-{partition}: acknowledged at {message.offset()} where {next_offset[partition]} is next")
        next_offset[partition] += 1
        pauses.acknowledged(partition)

    for index in range(count):
        if pace:
            producer.poll(max(0, started + index / int(pace) - time.monotonic()))
        key, value, headers, timestamp = content.record(index)
        while True:
            try:
                producer.produce(topic, value, key, index % partitions, headers=headers or None, timestamp=timestamp or 0, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.1)
        if index % 1000 == 0:
            producer.poll(0)
            if problems:
                fail("\n".join(problems[:10]))
    left = producer.flush(120)
    check(left == 0, f"{topic}: {left} records were not delivered in time")
    check(not problems, "\n".join(problems[:10]))
    check(sum(next_offset) == count, f"{topic}: {sum(next_offset)} of {count} records were delivered")
    if pace:
        print(pauses)


class Pauses:
    """The longest times between two acknowledgements, in seconds."""

    def __init__(self, partitions):
        self.last_of_all, self.longest_of_all = time.monotonic(), 0
        self.last, self.longest = [self.last_of_all] * partitions, [0] * partitions

    def acknowledged(self, partition):
        now = time.monotonic()
        self.longest[partition] = max(self.longest[partition], now - self.last[partition])
        self.longest_of_all = max(self.longest_of_all, now - self.last_of_all)
        self.last[partition] = self.last_of_all = now

    def __str__(self):
        shortest, longest = min(self.longest) * 1000, max(self.longest) * 1000
        return f"longest pause between acknowledgements in ms: of all {self.longest_of_all * 1000:.0f}, of a partition {shortest:.0f} to {longest:.0f}"


def read(consumer, checker):
    while not checker.done():
        for message in consumer.consume(2000, 1.0):
            if message.error():
                fail(str(message.error()))
            checker.take(message.partition(), message.offset(), message.key(), message.value(), message.headers() or [], message.timestamp()[1])
        checker.check_idle()


def consumer_for(bootstrap, group):
    return ck.Consumer({
        "bootstrap.servers": bootstrap,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "check.crcs": True,
        "fetch.wait.max.ms": 100,
    })


def check_ends(consumer, checker, topic, partitions):
    checker.check_end([consumer.get_watermark_offsets(ck.TopicPartition(topic, p), timeout=TIMEOUT)[1] for p in range(partitions)])


def consume(bootstrap, topic, partitions, count, style):
    consumer = consumer_for(bootstrap, "unused")
    consumer.assign([ck.TopicPartition(topic, p, 0) for p in range(partitions)])
    checker = Checker(topic, partitions, count, style)
    read(consumer, checker)
    check_ends(consumer, checker, topic, partitions)
    consumer.close()


def group(bootstrap, topic, partitions, count, style, name):
    consumer = consumer_for(bootstrap, name)
    consumer.subscribe([topic])
    checker = Checker(topic, partitions, count, style)
    read(consumer, checker)
    consumer.commit(asynchronous=False)
    committed = consumer.committed([ck.TopicPartition(topic, p) for p in range(partitions)], timeout=TIMEOUT)
    checker.check_end([c.offset for c in sorted(committed, key=lambda c: c.partition)])
    consumer.close()


def admin(bootstrap, topic, nodes=1):
    client = create_topic(bootstrap, topic, 2, {"retention.ms": "-1", "max.message.bytes": "2000000"})
    resource = cka.ConfigResource(cka.ResourceType.TOPIC, topic)

    # Created twice: refused by its name.
    try:
        results(client.create_topics([cka.NewTopic(topic, 2, 1)]))
        fail("a topic was created twice")
    except ck.KafkaException as error:
        check(error.args[0].code() == ck.KafkaError.TOPIC_ALREADY_EXISTS, str(error))

    def configs():
        return {name: entry.value for name, entry in results(client.describe_configs([resource]))[resource].items()}

    described = configs()
    check(described["retention.ms"] == "-1" and described["max.message.bytes"] == "2000000", f"created with configs, described as {described}")
    check(described["cleanup.policy"] == "delete" and "segment.bytes" in described, f"no defaults: {described}")

    entry = lambda name, value, operation: cka.ConfigEntry(name, value, incremental_operation=operation)
    change = cka.ConfigResource(cka.ResourceType.TOPIC, topic, incremental_configs=[
        entry("segment.bytes", "2097152", cka.AlterConfigOpType.SET),
        entry("max.message.bytes", None, cka.AlterConfigOpType.DELETE),
    ])
    results(client.incremental_alter_configs([change]))
    described = configs()
    check(described["segment.bytes"] == "2097152" and described["max.message.bytes"] != "2000000", f"after the change: {described}")
    unknown = cka.ConfigResource(cka.ResourceType.TOPIC, topic, incremental_configs=[entry("segment.bites", "1", cka.AlterConfigOpType.SET)])
    try:
        results(client.incremental_alter_configs([unknown]))
        fail("an unknown config was accepted")
    except ck.KafkaException as error:
        check(error.args[0].code() == ck.KafkaError.INVALID_CONFIG, str(error))

    broker = next(iter(client.list_topics(timeout=TIMEOUT).brokers))
    broker_resource = cka.ConfigResource(cka.ResourceType.BROKER, str(broker))
    check("log.dirs" in results(client.describe_configs([broker_resource]))[broker_resource], "the broker's configs have no log.dirs")

    results(client.create_partitions([cka.NewPartitions(topic, 4)]))
    wait_for_leaders(client, topic, 4)
    try:
        results(client.create_partitions([cka.NewPartitions(topic, 3)]))
        fail("a topic has lost a partition")
    except ck.KafkaException as error:
        check(error.args[0].code() == ck.KafkaError.INVALID_PARTITIONS, str(error))

    described = results(client.describe_topics(ck.TopicCollection([topic])))[topic]
    check(len(described.partitions) == 4 and str(described.topic_id) not in ("", "AAAAAAAAAAAAAAAAAAAAAA"), f"described as {described}")
    cluster = client.describe_cluster().result(TIMEOUT)
    check(cluster.cluster_id and len(cluster.nodes) == int(nodes), f"cluster {cluster.cluster_id} of {cluster.nodes}")

    # Ten records whose timestamps are 100, 200, … but for the highest, which lies in the middle.
    producer = ck.Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    times = [100, 200, 300, 400, 5000, 600, 700, 800, 900, 1000]
    for stamp in times:
        producer.produce(topic, b"v", partition=3, timestamp=stamp)
        producer.flush(TIMEOUT)
    partition = ck.TopicPartition(topic, 3)

    def offset(spec):
        return results(client.list_offsets({partition: spec}))[partition].offset

    found = {
        "earliest": offset(cka.OffsetSpec.earliest()),
        "latest": offset(cka.OffsetSpec.latest()),
        "max": offset(cka.OffsetSpec.max_timestamp()),
        "at 300": offset(cka.OffsetSpec.for_timestamp(300)),
        "at 301": offset(cka.OffsetSpec.for_timestamp(301)),
        "at 500": offset(cka.OffsetSpec.for_timestamp(500)),
        "at 6000": offset(cka.OffsetSpec.for_timestamp(6000)),
    }
    expected = {"earliest": 0, "latest": 10, "max": 4, "at 300": 2, "at 301": 3, "at 500": 4, "at 6000": -1}
    check(found == expected, f"offsets {found}, expected {expected}")

    deleted = results(client.delete_records([ck.TopicPartition(topic, 3, 4)]))
    check(list(deleted.values())[0].low_watermark == 4, f"deleted: {deleted}")
    check(offset(cka.OffsetSpec.earliest()) == 4, "the first offset after the deletion")
    try:
        results(client.delete_records([ck.TopicPartition(topic, 3, 11)]))
        fail("records past the end were deleted")
    except ck.KafkaException as error:
        check(error.args[0].code() == ck.KafkaError.OFFSET_OUT_OF_RANGE, str(error))
    consumer = consumer_for(bootstrap, "unused")
    consumer.assign([ck.TopicPartition(topic, 3, 0)])
    first = consumer.poll(TIMEOUT)
    check(first is not None and first.error() is None and first.offset() == 4, "the first record after the deletion")
    consumer.close()

    results(client.delete_topics([topic], operation_timeout=TIMEOUT))
    deadline = time.monotonic() + TIMEOUT
    while topic in client.list_topics(timeout=TIMEOUT).topics:
        check(time.monotonic() < deadline, "the topic is still listed")
        time.sleep(0.1)
    try:
        results(client.delete_topics([topic]))
        fail("a topic was deleted twice")
    except ck.KafkaException as error:
        check(error.args[0].code() == ck.KafkaError.UNKNOWN_TOPIC_OR_PART, str(error))


if __name__ == "__main__":
    run({"produce": produce, "consume": consume, "group": group, "admin": admin})
