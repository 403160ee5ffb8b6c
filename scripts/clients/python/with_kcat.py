"""kcat: this program makes its input, reads its output, and creates the topic for it (kcat cannot) through confluent-kafka."""

import re
import subprocess
import sys

from content import Checker, Content, check, fail, run

# Longer than any chance match in the content, which is fixed: no record holds them.
KEY_END = b"<|key ends|>"
RECORD_END = b"<|record ends|>"
KCAT = ["kcat", "-q"]
READING = ["-X", "check.crcs=true", "-X", "fetch.wait.max.ms=100"]


def produce(bootstrap, topic, partitions, count, codec, acks, style):
    from with_confluent import create_topic

    create_topic(bootstrap, topic, partitions, {"retention.ms": "-1"})
    content = Content(topic, style)
    command = KCAT + ["-P", "-X", "linger.ms=10", "-b", bootstrap, "-t", topic, "-z", codec, "-K", KEY_END.decode(), "-D", RECORD_END.decode(), "-X", f"acks={acks}"]
    if acks == "all":
        command += ["-X", "enable.idempotence=true"]
    if style == "nulls":
        command += ["-Z"]
    elif style != "empties":
        fail("kcat writes the styles nulls and empties")
    for partition in range(partitions):
        with subprocess.Popen(command + ["-p", str(partition)], stdin=subprocess.PIPE) as kcat:
            buffered = []
            for index in range(partition, count, partitions):
                key, value, _, _ = content.record(index)
                buffered += [key or b"", KEY_END, value or b"", RECORD_END]
                if len(buffered) > 4000:
                    kcat.stdin.write(b"".join(buffered))
                    buffered = []
            kcat.stdin.write(b"".join(buffered))
            kcat.stdin.close()
            check(kcat.wait() == 0, f"kcat -P -p {partition} ended with {kcat.returncode}")


# Partition, offset, timestamp, key and value length (-1 is null), then the headers on their own line, then key and value.
FORMAT = "%p %o %T %K %S\n%h\n%k%s"


def headers_as_shown(headers):
    return b",".join(name.encode() + b"=" + (b"NULL" if value is None else value) for name, value in headers)


def take_all(stream, checker):
    """Reads kcat's output to its end. The headers come as text: they are compared as kcat shows them."""
    while line := stream.readline():
        partition, offset, timestamp, key_bytes, value_bytes = (int(field) for field in line.split())
        shown = stream.readline().rstrip(b"\n")
        key = None if key_bytes < 0 else stream.read(key_bytes)
        value = None if value_bytes < 0 else stream.read(value_bytes)
        headers = checker.content.record(partition + offset * checker.partitions)[2]
        if headers_as_shown(headers) != shown:
            fail(f"{checker.topic}-{partition}@{offset}: headers {shown!r}, expected {headers_as_shown(headers)!r}")
        checker.take(partition, offset, key, value, headers, timestamp)


def consume(bootstrap, topic, partitions, count, style):
    checker = Checker(topic, partitions, count, style)
    for partition in range(partitions):
        command = KCAT + READING + ["-C", "-b", bootstrap, "-t", topic, "-p", str(partition), "-o", "beginning", "-e", "-f", FORMAT]
        with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=1 << 20) as kcat:
            take_all(kcat.stdout, checker)
            check(kcat.wait() == 0, f"kcat -C -p {partition} ended with {kcat.returncode}")
    # kcat stops at the end offset, so what it has seen is what there is.
    checker.check_end(checker.next)


def group(bootstrap, topic, partitions, count, style, name):
    base = KCAT + READING + ["-b", bootstrap, "-X", "auto.offset.reset=earliest", "-f", FORMAT]
    checker = Checker(topic, partitions, count, style)
    # -c: a member of a group ends by itself after so many records.
    with subprocess.Popen(base + ["-c", str(count), "-G", name, topic], stdout=subprocess.PIPE, bufsize=1 << 20) as kcat:
        take_all(kcat.stdout, checker)
        check(kcat.wait() == 0, f"kcat -G ended with {kcat.returncode}")
    checker.check_end(checker.next)
    again = subprocess.run(base + ["-e", "-G", name, topic], stdout=subprocess.PIPE, timeout=60)
    check(again.returncode == 0 and again.stdout == b"", f"the group read {len(again.stdout)} bytes again after its commit")


def offsets(bootstrap, topic, _partitions, _count, *wanted):
    """kcat -Q: TIMESTAMP=OFFSET pairs of partition 0."""
    for pair in wanted:
        timestamp, expected = pair.split("=")
        out = subprocess.run(["kcat", "-Q", "-b", bootstrap, "-t", f"{topic}:0:{timestamp}"], stdout=subprocess.PIPE, timeout=60, check=True).stdout.decode()
        found = re.search(r"offset (-?\d+)", out)
        check(found and found.group(1) == expected, f"kcat -Q at {timestamp}: {out!r}, expected {expected}")


def metadata(bootstrap, topic, partitions, _count):
    out = subprocess.run(["kcat", "-L", "-b", bootstrap, "-t", topic], stdout=subprocess.PIPE, timeout=60, check=True).stdout.decode()
    check(f'topic "{topic}" with {partitions} partitions' in out and "leader" in out and "error" not in out.lower(), out)


if __name__ == "__main__":
    run({"produce": produce, "consume": consume, "group": group, "offsets": offsets, "metadata": metadata})
