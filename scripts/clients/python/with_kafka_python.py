"""kafka-python. Arguments: README.md beside this folder."""

import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic, OffsetSpec
from kafka import errors

from content import Checker, Content, check, fail, run

TIMEOUT = 20


def admin_client(bootstrap):
    return KafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=TIMEOUT * 1000)


def wait_for_leaders(client, topic, partitions):
    deadline = time.monotonic() + TIMEOUT
    while True:
        described = client.describe_topics([topic])[0]
        found = described["partitions"]
        if described["error_code"] == 0 and len(found) == partitions and all(p["error_code"] == 0 for p in found):
            # Kafka may name a leader before that leader has its log; a produce with acks=0 in between is lost without a word.
            # This call tries again until every leader has answered.
            client.list_partition_offsets({TopicPartition(topic, p): OffsetSpec.LATEST for p in range(partitions)})
            return described
        check(time.monotonic() < deadline, f"{topic}: no leaders after {TIMEOUT} s")
        time.sleep(0.05)


def create_topic(bootstrap, topic, partitions, configs):
    client = admin_client(bootstrap)
    client.create_topics([NewTopic(topic, partitions, 1, topic_configs=configs)])
    wait_for_leaders(client, topic, partitions)
    return client


def produce(bootstrap, topic, partitions, count, codec, acks, style):
    create_topic(bootstrap, topic, partitions, {"retention.ms": "-1"}).close()
    content = Content(topic, style)
    producer = KafkaProducer(
        bootstrap_servers=bootstrap,
        compression_type=None if codec == "none" else codec,
        acks="all" if acks == "all" else int(acks),
        enable_idempotence=acks == "all",
        linger_ms=10,
        max_block_ms=60_000,
        max_request_size=1_000_000,
    )
    futures = []

    def check_acknowledged():
        for index, future in futures:
            acknowledged = future.get(timeout=60)
            if acks != "0" and acknowledged.offset != index // partitions:
                fail(f"{topic}: record {index} acknowledged at {acknowledged.offset}")
        futures.clear()

    for index in range(count):
        key, value, headers, timestamp = content.record(index)
        futures.append((index, producer.send(topic, value, key, headers, index % partitions, timestamp)))
        if len(futures) >= 20_000:
            check_acknowledged()
    producer.flush(timeout=120)
    check_acknowledged()
    producer.close(timeout=60)


def consumer_for(bootstrap, group):
    return KafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        check_crcs=True,
        fetch_max_wait_ms=100,
        max_poll_records=5000,
    )


def read(consumer, checker):
    while not checker.done():
        for records in consumer.poll(timeout_ms=1000).values():
            for r in records:
                checker.take(r.partition, r.offset, r.key, r.value, list(r.headers), r.timestamp)
        checker.check_idle()


def check_ends(consumer, checker, topic, partitions):
    ends = consumer.end_offsets([TopicPartition(topic, p) for p in range(partitions)])
    checker.check_end([ends[TopicPartition(topic, p)] for p in range(partitions)])


def consume(bootstrap, topic, partitions, count, style):
    consumer = consumer_for(bootstrap, None)
    consumer.assign([TopicPartition(topic, p) for p in range(partitions)])
    checker = Checker(topic, partitions, count, style)
    read(consumer, checker)
    check_ends(consumer, checker, topic, partitions)
    consumer.close()


def group(bootstrap, topic, partitions, count, style, name):
    consumer = consumer_for(bootstrap, name)
    consumer.subscribe([topic])
    checker = Checker(topic, partitions, count, style)
    read(consumer, checker)
    consumer.commit()
    checker.check_end([consumer.committed(TopicPartition(topic, p)) for p in range(partitions)])
    consumer.close()


def refused(error, call):
    try:
        answer = call()
    except error:
        return
    fail(f"expected {error.__name__}, got {answer}")


def admin(bootstrap, topic):
    client = create_topic(bootstrap, topic, 2, {"retention.ms": "-1", "max.message.bytes": "2000000"})
    refused(errors.TopicAlreadyExistsError, lambda: client.create_topics([NewTopic(topic, 2, 1)]))

    def configs(kind=ConfigResourceType.TOPIC, name=topic):
        answer = client.describe_configs([ConfigResource(kind, name)], config_filter="all")
        return next(iter(next(iter(answer.values())).values()))

    def value(name):
        entry = configs()[name]
        return entry["value"] if isinstance(entry, dict) else entry

    check(value("retention.ms") == "-1" and value("max.message.bytes") == "2000000", f"created with configs, described as {configs()}")
    check(value("cleanup.policy") == "delete", f"no defaults: {configs()}")

    # Incrementally, then (incremental=False) the old way, in which what is not named goes back to its default.
    change = {"segment.bytes": ("SET", "2097152"), "max.message.bytes": ("DELETE", None)}
    client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, change)], incremental=True)
    check(value("segment.bytes") == "2097152" and value("max.message.bytes") != "2000000", f"after the change: {configs()}")
    client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"retention.ms": "86400000"})], incremental=False)
    check(value("retention.ms") == "86400000", f"after the old way: {configs()}")
    wrong = ConfigResource(ConfigResourceType.TOPIC, topic, {"segment.bites": ("SET", "1")})
    refused((errors.InvalidConfigurationError, ValueError), lambda: client.alter_configs([wrong], incremental=True))
    client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"retention.ms": ("SET", "-1")})], incremental=True)

    cluster = client.describe_cluster()
    check(cluster["cluster_id"] and len(cluster["brokers"]) == 1, f"cluster: {cluster}")
    node = str(cluster["brokers"][0].get("node_id", cluster["brokers"][0].get("broker_id")))
    check("log.dirs" in configs(ConfigResourceType.BROKER, node), "the broker's configs have no log.dirs")

    client.create_partitions({topic: 4})
    described = wait_for_leaders(client, topic, 4)
    check(str(described["topic_id"]).strip("0-") != "", f"no topic id: {described}")
    refused(errors.InvalidPartitionsError, lambda: client.create_partitions({topic: 3}))

    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
    for stamp in [100, 200, 300, 400, 5000, 600, 700, 800, 900, 1000]:
        producer.send(topic, b"v", partition=3, timestamp_ms=stamp).get(timeout=TIMEOUT)
    producer.close(timeout=TIMEOUT)
    partition = TopicPartition(topic, 3)

    def offset(spec):
        return client.list_partition_offsets({partition: spec})[partition].offset

    found = [offset(spec) for spec in (OffsetSpec.EARLIEST, OffsetSpec.LATEST, OffsetSpec.MAX_TIMESTAMP, 300, 301, 500, 6000)]
    check(found == [0, 10, 4, 2, 3, 4, -1], f"offsets {found}")
    consumer = consumer_for(bootstrap, None)
    by_time = consumer.offsets_for_times({partition: 301})[partition]
    check((by_time.offset, by_time.timestamp) == (3, 400), f"offset for 301: {by_time}")
    check(consumer.offsets_for_times({partition: 6000})[partition] is None, "an offset for a time after the last record")

    deleted = client.delete_records({partition: 4})
    check(deleted[partition]["low_watermark"] == 4, f"deleted: {deleted}")
    check(offset(OffsetSpec.EARLIEST) == 4, "the first offset after the deletion")
    refused(errors.OffsetOutOfRangeError, lambda: client.delete_records({partition: 11}))
    consumer.assign([partition])
    consumer.seek_to_beginning(partition)
    records = consumer.poll(timeout_ms=TIMEOUT * 1000)
    check(records and records[partition][0].offset == 4, f"the first record after the deletion: {records}")
    consumer.close()

    client.delete_topics([topic])
    deadline = time.monotonic() + TIMEOUT
    while topic in client.list_topics():
        check(time.monotonic() < deadline, "the topic is still listed")
        time.sleep(0.1)
    refused(errors.UnknownTopicOrPartitionError, lambda: client.delete_topics([topic]))
    client.close()


if __name__ == "__main__":
    run({"produce": produce, "consume": consume, "group": group, "admin": admin})
