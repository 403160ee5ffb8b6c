"""What a monitor (kafkatop, from PyPI) says of topics, groups and lag. Arguments: BOOTSTRAP TOPIC KAFKATOP."""

import json
import subprocess
import sys

import confluent_kafka as ck
import confluent_kafka.admin as cka

from content import check

TIMEOUT = 20
GROUP_TIMEOUT = 60


def monitor(program, bootstrap, *arguments):
    command = [program, "--kafka-broker", bootstrap, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=GROUP_TIMEOUT)
    check(done.returncode == 0, f"{command} ended with {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)


def main(bootstrap, topic, program):
    group = f"{topic}-group"
    client = cka.AdminClient({"bootstrap.servers": bootstrap})
    for future in client.create_topics([cka.NewTopic(topic, 3, 1)], operation_timeout=TIMEOUT).values():
        future.result(TIMEOUT)
    producer = ck.Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    for index in range(300):
        producer.produce(topic, b"v", partition=index % 3)
    check(producer.flush(TIMEOUT) == 0, "not all was produced")

    consumer = ck.Consumer({"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False})
    consumer.subscribe([topic])
    check(consumer.poll(GROUP_TIMEOUT) is not None, "the consumer reads nothing")
    committed = {0: 100, 1: 40, 2: 7}
    consumer.commit(offsets=[ck.TopicPartition(topic, *item) for item in committed.items()], asynchronous=False)

    topics = monitor(program, bootstrap, "--topicinfo")["topics"]
    check(topics[topic]["partitions"] == 3, f"topics {topics}")
    groups = monitor(program, bootstrap, "--summary-json", "--group-filter-pattern", group)
    check(list(groups) == [group] and groups[group]["state"].endswith("STABLE"), f"groups {groups}")
    lag = groups[group]["topics"][topic]
    check((lag["partitions"], lag["lag_max"], lag["lag_min"]) == (3, 93, 0), f"lag {lag}")
    consumer.close()
    empty = monitor(program, bootstrap, "--summary-json", "--all", "--group-filter-pattern", group)
    check(empty[group]["state"].endswith("EMPTY") and empty[group]["topics"][topic]["lag_max"] == 93, f"groups {empty}")


if __name__ == "__main__":
    main(*sys.argv[1:])
