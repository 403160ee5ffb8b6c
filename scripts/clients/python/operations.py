"""What operators do, through confluent-kafka's AdminClient. Arguments: BOOTSTRAP TOPIC."""

import sys
import time

import confluent_kafka as ck
import confluent_kafka.admin as cka

from content import check, fail

TIMEOUT = 20


def results(futures):
    return {key: future.result(TIMEOUT) for key, future in futures.items()}


def broker_configs(client, node):
    name = "max.connections.per.ip"
    broker = cka.ConfigResource(cka.ResourceType.BROKER, node)

    def found():
        entry = results(client.describe_configs([broker]))[broker][name]
        return entry.value, cka.ConfigSource(entry.source)

    def change(name, value, operation):
        entry = cka.ConfigEntry(name, value, incremental_operation=operation)
        results(client.incremental_alter_configs([cka.ConfigResource(cka.ResourceType.BROKER, node, incremental_configs=[entry])]))

    check(found()[1] == cka.ConfigSource.DEFAULT_CONFIG, f"{name} is {found()}")
    change(name, "900", cka.AlterConfigOpType.SET)
    check(found() == ("900", cka.ConfigSource.DYNAMIC_BROKER_CONFIG), f"{name} is {found()}")
    change(name, None, cka.AlterConfigOpType.DELETE)
    check(found()[1] == cka.ConfigSource.DEFAULT_CONFIG, f"{name} is {found()}")
    for refused, code in [("num.partitions", ck.KafkaError.INVALID_REQUEST), ("num.partition", ck.KafkaError.INVALID_CONFIG)]:
        try:
            change(refused, "3", cka.AlterConfigOpType.SET)
            fail(f"{refused} was changed")
        except ck.KafkaException as error:
            check(error.args[0].code() == code, str(error))


def groups(client, topic):
    group = f"{topic}-group"
    first, second = ck.TopicPartition(topic, 0, 3), ck.TopicPartition(topic, 1, 0)
    results(client.alter_consumer_group_offsets([ck.ConsumerGroupTopicPartitions(group, [first, second])]))
    listed = client.list_consumer_groups().result(TIMEOUT)
    check(not listed.errors and group in [known.group_id for known in listed.valid], "the group is not listed")
    described = results(client.describe_consumer_groups([group]))[group]
    check(not described.members and described.state == ck.ConsumerGroupState.EMPTY, f"described as {described.state}")
    offsets = results(client.list_consumer_group_offsets([ck.ConsumerGroupTopicPartitions(group)]))[group]
    found = sorted((known.partition, known.offset) for known in offsets.topic_partitions)
    check(found == [(0, 3), (1, 0)], f"offsets {found}")
    results(client.delete_consumer_groups([group]))
    listed = client.list_consumer_groups().result(TIMEOUT)
    check(group not in [known.group_id for known in listed.valid], "the group is still listed")


def main(bootstrap, topic):
    client = cka.AdminClient({"bootstrap.servers": bootstrap})
    results(client.create_topics([cka.NewTopic(topic, 2, 1)], operation_timeout=TIMEOUT))
    nodes = client.describe_cluster().result(TIMEOUT).nodes
    check(len(nodes) == 1, f"nodes {nodes}")
    broker_configs(client, str(nodes[0].id))
    groups(client, topic)
    elected = client.elect_leaders(ck.ElectionType.PREFERRED, [ck.TopicPartition(topic, 0)]).result(TIMEOUT)
    errors = [error.code() for error in elected.values()]
    check(errors == [ck.KafkaError.ELECTION_NOT_NEEDED], f"elections {errors}")
    results(client.delete_topics([topic], operation_timeout=TIMEOUT))
    deadline = time.monotonic() + TIMEOUT
    while topic in client.list_topics(timeout=TIMEOUT).topics:
        check(time.monotonic() < deadline, "the topic is still listed")
        time.sleep(0.1)


if __name__ == "__main__":
    main(*sys.argv[1:])
