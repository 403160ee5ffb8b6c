"""What a broker must survive on its port, and the produce, fetch and delete calls that scripts/faults.sh needs around it.

    hostile.py NAME HOST PORT        one of the attacks below: 0 when the broker has answered it by closing the connection
    hostile.py works BOOTSTRAP       a record goes in and comes out again
    hostile.py full BOOTSTRAP TOPIC DOOMED  on a full disk: produce gets a retriable error, fetch and delete go on
    hostile.py recovered BOOTSTRAP TOPIC  produce works again
    hostile.py until_death BOOTSTRAP TOPIC FILE  produce until the broker is gone; the number of records acknowledged goes to FILE
    hostile.py all_there BOOTSTRAP TOPIC FILE    each of them is there once, at its offset
"""

import os
import random
import socket
import struct
import sys
import time
import uuid

from content import check, fail

CLOSE_SECONDS_MAX = 15


def connect(host, port):
    return socket.create_connection((host, int(port)), timeout=CLOSE_SECONDS_MAX)


def expect_close(connection, what):
    """Reads on: an error response is as good an answer, silence is not."""
    answered = 0
    try:
        while data := connection.recv(65536):
            answered += len(data)
            check(answered < 1 << 20, f"{what}: more than a MiB came back")
    except TimeoutError:
        fail(f"{what}: neither closed nor answered in {CLOSE_SECONDS_MAX} s")
    except ConnectionError:
        pass
    connection.close()


def frame(body):
    return struct.pack(">i", len(body)) + body


def header(key, version, client=b"hostile"):
    return struct.pack(">hhih", key, version, 7, len(client)) + client


def attack(host, port, payload, what):
    connection = connect(host, port)
    try:
        connection.sendall(payload)
    except ConnectionError:
        pass
    expect_close(connection, what)


def garbage(host, port):
    source = random.Random(1)
    attack(host, port, b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n", "an HTTP request")
    attack(host, port, bytes([22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]) + source.randbytes(500), "a TLS hello")
    for size in (1, 3, 8, 20, 200, 5000):
        # A frame of the right length with nonsense inside: the first bytes are no API that exists.
        attack(host, port, frame(b"\x7f" + source.randbytes(size - 1)), f"{size} bytes of nonsense in a frame")
    attack(host, port, frame(b""), "an empty frame")


def huge_length(host, port):
    for length in (0x7FFFFFFF, 0x40000000, -1, -0x80000000):
        attack(host, port, struct.pack(">i", length) + b"\0" * 64, f"a length of {length}")


def huge_count(host, port):
    """Counts of two milliards in front of nothing."""
    count, compact = b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff\x0f"
    for key, version, body in (
        (3, 1, count),  # Metadata
        (3, 9, b"\0" + compact),
        (0, 7, struct.pack(">hhi", -1, 1, 1000) + count),  # Produce
        (0, 9, b"\0\0" + struct.pack(">hi", 1, 1000) + compact),
        (1, 11, struct.pack(">iiiibii", -1, 0, 1, 1 << 20, 0, 0, -1) + count),  # Fetch
        (1, 12, b"\0" + struct.pack(">iiiibii", -1, 0, 1, 1 << 20, 0, 0, -1) + compact),
        (19, 4, count),  # CreateTopics
        (2, 5, struct.pack(">ib", -1, 0) + count),  # ListOffsets
    ):
        attack(host, port, frame(header(key, version) + body), f"API {key} version {version} with a huge count")


def truncated(host, port):
    """Half a frame and then nothing; half a frame and the end; a byte at a time."""
    waiting = connect(host, port)
    waiting.sendall(struct.pack(">i", 1000) + header(3, 1))
    for _ in range(20):
        gone = connect(host, port)
        gone.sendall(struct.pack(">i", 1000) + b"\0" * 10)
        gone.close()
    slow = connect(host, port)
    for byte in frame(header(18, 0)):
        slow.sendall(bytes([byte]))
        time.sleep(0.01)
    answer = slow.recv(4)
    check(len(answer) == 4 and struct.unpack(">i", answer)[0] > 10, "ApiVersions, sent a byte at a time, got no answer")
    slow.close()
    waiting.close()


def resident_bytes(process):
    with open(f"/proc/{process}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def promises(host, port, process):
    """A hundred connections promise 64 MiB each and send a little: memory must not follow the promise."""
    before = resident_bytes(process)
    connections = [connect(host, port) for _ in range(100)]
    for connection in connections:
        try:
            connection.sendall(struct.pack(">i", 64 << 20) + header(0, 7) + b"\0" * 1000)
        except ConnectionError:
            pass
    time.sleep(1)
    grown = resident_bytes(process) - before
    for connection in connections:
        connection.close()
    check(grown < 256 << 20, f"the process grew by {grown >> 20} MiB")


def works(bootstrap):
    import confluent_kafka as ck
    from with_confluent import consumer_for, create_topic

    topic = f"works-{uuid.uuid4()}"
    create_topic(bootstrap, topic, 1, {})
    produce(bootstrap, topic, b"here")
    consumer = consumer_for(bootstrap, "unused")
    consumer.assign([ck.TopicPartition(topic, 0, 0)])
    message = consumer.poll(20)
    check(message is not None and message.error() is None and message.value() == b"here", "the record did not come out")
    consumer.close()


def produce(bootstrap, topic, value, acks="all"):
    """One record without retries; the error, or None."""
    import confluent_kafka as ck

    errors = []
    producer = ck.Producer({"bootstrap.servers": bootstrap, "acks": acks, "retries": 0, "message.timeout.ms": 15000})
    producer.produce(topic, value, partition=0, on_delivery=lambda error, _: errors.append(error))
    check(producer.flush(20) == 0 and len(errors) == 1, "no answer to a produce")
    return errors[0]


def full(bootstrap, topic, doomed):
    """`topic` has records, `doomed` is there to be deleted."""
    import confluent_kafka as ck
    from with_confluent import admin_client, consumer_for, results

    deadline = time.monotonic() + 30
    while (error := produce(bootstrap, topic, b"x" * 100_000)) is None:
        check(time.monotonic() < deadline, "produce still works on a full disk")
    print(f"produce: {error}")
    # Both are retried by every client: the one that Kafka gives for a failed disk, and the one for too few replicas.
    check(error.code() in (ck.KafkaError.KAFKA_STORAGE_ERROR, ck.KafkaError.NOT_ENOUGH_REPLICAS), f"produce on a full disk got {error}")
    # The consumer has a group, so it looks for a coordinator that there may not be, on the connection that it fetches by.
    consumer = consumer_for(bootstrap, "unused")
    partition = ck.TopicPartition(topic, 0, 0)
    consumer.assign([partition])
    low, high = consumer.get_watermark_offsets(partition, timeout=20)
    read = 0
    while read < high - low:
        messages = consumer.consume(1000, 20)
        check(messages and not any(m.error() for m in messages), f"fetch on a full disk: {messages[:1]} after {read} of {high - low}")
        read += len(messages)
    consumer.close()
    client = admin_client(bootstrap)
    deleted = results(client.delete_records([ck.TopicPartition(topic, 0, high // 2)]))
    check(list(deleted.values())[0].low_watermark == high // 2, f"delete on a full disk: {deleted}")
    results(client.delete_topics([doomed], operation_timeout=20))
    print(f"fetch: {read} records; delete: up to {high // 2}, and a topic")


def recovered(bootstrap, topic):
    deadline = time.monotonic() + 30
    while (error := produce(bootstrap, topic, b"again")) is not None:
        check(time.monotonic() < deadline, f"no recovery in 30 s after space was freed: {error}")
        time.sleep(0.2)


def numbered(number):
    """A record's value: its number, and enough that does not compress on its way to the disk."""
    return b"%d:" % number + random.Random(number).randbytes(100_000)


def until_death(bootstrap, topic, file):
    import confluent_kafka as ck

    acknowledged = 0
    failed = []

    def delivered(error, message):
        nonlocal acknowledged
        if error is not None:
            failed.append(error)
        else:
            # One partition and one producer: the acknowledgements come in order, and the offsets are the numbers.
            check(message.offset() == acknowledged, f"record {acknowledged} got offset {message.offset()}")
            acknowledged += 1

    producer = ck.Producer({
        "bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True, "linger.ms": 0,
        "message.timeout.ms": 8000, "batch.num.messages": 10, "queue.buffering.max.messages": 100,
    })
    number = 0
    deadline = time.monotonic() + 100
    while not failed:
        check(time.monotonic() < deadline, "the disk failed and the broker goes on")
        try:
            producer.produce(topic, numbered(number), partition=0, on_delivery=delivered)
            number += 1
        except BufferError:
            producer.poll(0.1)
        producer.poll(0)
    producer.purge()
    with open(file, "w") as out:
        out.write(str(acknowledged))
    print(f"{acknowledged} acknowledged; then {failed[0]}")


def all_there(bootstrap, topic, file):
    import confluent_kafka as ck
    from with_confluent import consumer_for

    with open(file) as known:
        acknowledged = int(known.read())
    consumer = consumer_for(bootstrap, "unused")
    consumer.assign([ck.TopicPartition(topic, 0, 0)])
    for number in range(acknowledged):
        messages = consumer.consume(1, 20)
        check(messages and not messages[0].error(), f"{messages} instead of record {number} of {acknowledged}")
        check(messages[0].offset() == number and messages[0].value() == numbered(number), f"record {number} is another")
    consumer.close()
    print(f"all {acknowledged} are there")


if __name__ == "__main__":
    commands = {f.__name__: f for f in (garbage, huge_length, huge_count, truncated, promises, works, full, recovered, until_death, all_there)}
    if len(sys.argv) < 3 or sys.argv[1] not in commands:
        fail(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])
