#!/usr/bin/env python3
"""Consumer groups of real clients while members come, leave and are killed, and the broker restarts and is killed.

    groups.py --broker BINARY --data DIRECTORY --port PORT [--seconds N] [--members N] [--rate RECORDS_S] KIND...
    groups.py --cluster SCRIPT --bootstrap LIST ...    the same with nodes of a cluster that SCRIPT (scripts/cluster.sh) has started

KIND: CLIENT-PROTOCOL as in KINDS below; each has a group of its own, all read one topic side by side. `mixed` is one group of
members of both protocols. What is checked: group_check.py. Run by scripts/groups.sh and scripts/cluster-clients.sh, which install
the clients.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import group_check
from confluent_kafka import ConsumerGroupType, Producer
from confluent_kafka.admin import AdminClient, NewTopic

CLIENTS = Path(__file__).resolve().parent.parent
TOPIC, PARTITIONS = "events", 6
# Time to read and commit what is left when nothing happens any more, and to end.
DRAIN_S, END_S, READY_S = 90, 30, 30


def java(*arguments):
    classes, jars = os.environ["JAVA_CLASSES"], os.environ["JARS"]
    flags = ["-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Dorg.slf4j.simpleLogger.defaultLogLevel=off"]
    return ["java", *flags, "-cp", f"{classes}:{jars}/*", "GroupMember", *arguments]


def python(library):
    return lambda *arguments: [sys.executable, str(CLIENTS / "python/group_member.py"), library, *arguments]


def franz(*arguments):
    return [os.environ["FRANZ"], "member", *arguments]


def kafkajs(*arguments):
    return ["node", str(CLIENTS / "node/group_member.js"), *arguments[:4]]


# By kind: the program, its protocol, and whether its members are static.
KINDS = {
    "confluent-kafka-eager": (python("confluent-kafka"), "eager", False),
    "confluent-kafka-cooperative": (python("confluent-kafka"), "cooperative", False),
    "confluent-kafka-static": (python("confluent-kafka"), "cooperative", True),
    "confluent-kafka-consumer": (python("confluent-kafka"), "consumer", False),
    "confluent-kafka-consumer-static": (python("confluent-kafka"), "consumer", True),
    "kafka-python-eager": (python("kafka-python"), "eager", False),
    "kafka-python-static": (python("kafka-python"), "eager", True),
    "kafkajs-eager": (kafkajs, "eager", False),
    "franz-go-eager": (franz, "eager", False),
    "franz-go-cooperative": (franz, "cooperative", False),
    "franz-go-static": (franz, "cooperative", True),
    "franz-go-consumer": (franz, "consumer", False),
    "java-eager": (java, "eager", False),
    "java-cooperative": (java, "cooperative", False),
    "java-static": (java, "cooperative", True),
    "java-consumer": (java, "consumer", False),
    "java-consumer-static": (java, "consumer", True),
}


def say(text):
    print(text, flush=True)


class Broker:
    def __init__(self, binary, data, port):
        self.data, self.process = data, None
        overrides = {
            "listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "log.dirs": data,
            "millstream.http.listener": "",
            "millstream.shards": 2,
            "offsets.topic.num.partitions": 4,
            "group.initial.rebalance.delay.ms": 200,
            "group.consumer.session.timeout.ms": 6000,
            "group.consumer.min.session.timeout.ms": 6000,
            "group.consumer.heartbeat.interval.ms": 500,
            "group.consumer.min.heartbeat.interval.ms": 500,
        }
        self.command = [binary, "serve", *(word for name, value in overrides.items() for word in ("--override", f"{name}={value}"))]

    def start(self):
        with open(f"{self.data}.out", "ab") as output:
            begin = output.tell()
            self.process = subprocess.Popen(self.command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + READY_S
        while b"ready" not in Path(f"{self.data}.out").read_bytes()[begin:]:
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the broker did not become ready: {self.data}.out")
            time.sleep(0.02)

    def restart(self, how):
        self.stop(how)
        self.start()

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(END_S)

    def end(self):
        """Whatever has happened."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()


class Cluster:
    """Nodes that are there already: each time another one goes, and comes back after a moment."""

    AWAY_S = 2

    def __init__(self, script, bootstrap):
        self.script, self.nodes, self.next = script, len(bootstrap.split(",")), 1

    def do(self, *arguments):
        subprocess.run([self.script, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)

    def restart(self, how):
        node, self.next = self.next, self.next % self.nodes + 1
        self.do("kill" if how == signal.SIGKILL else "stop", node)
        time.sleep(self.AWAY_S)
        self.do("start", node)

    def start(self):
        pass

    def stop(self):
        pass

    def end(self):
        pass


class Load:
    """Produces until it is told to stop. An acknowledged record is one that has to be read."""

    def __init__(self, bootstrap, rate):
        self.ends = dict.fromkeys(range(PARTITIONS), 0)
        self.stopping = threading.Event()
        self.rate, self.failed = rate, 0
        self.producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5, "message.timeout.ms": 120000, "log_level": 0})
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def delivered(self, error, message):
        if error is not None:
            self.failed += 1
        else:
            self.ends[message.partition()] = max(self.ends[message.partition()], message.offset() + 1)

    def run(self):
        sent, began = 0, time.monotonic()
        while not self.stopping.is_set():
            while sent < (time.monotonic() - began) * self.rate:
                self.producer.produce(TOPIC, b"%d" % sent, partition=sent % PARTITIONS, on_delivery=self.delivered)
                sent += 1
            self.producer.poll(0.02)

    def stop(self):
        self.stopping.set()
        self.thread.join()
        self.producer.flush(120)
        if self.failed:
            sys.exit(f"{self.failed} records were not delivered")


class Members:
    """The processes of one group."""

    def __init__(self, name, kinds, bootstrap, members):
        self.group = group_check.Group(name)
        self.kinds, self.bootstrap, self.members = kinds, bootstrap, members
        self.processes, self.readers, self.started = {}, [], 0
        # What members complain about, shown when something is wrong.
        self.complaints = tempfile.TemporaryFile()

    def start(self, slot):
        program, protocol, is_static = KINDS[self.kinds[self.started % len(self.kinds)]]
        self.started += 1
        arguments = [self.bootstrap, self.group.name, TOPIC, str(self.members), protocol]
        if is_static:
            arguments.append(f"{self.group.name}-{slot}")
        environment = {**os.environ, "KAFKAJS_NO_PARTITIONER_WARNING": "1"}
        process = subprocess.Popen(program(*arguments), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, stderr=self.complaints, env=environment, text=True)
        self.processes[slot] = process
        reader = threading.Thread(target=self.read, args=(process,))
        reader.start()
        self.readers.append(reader)

    def read(self, process):
        for line in process.stdout:
            self.group.take(line)

    def end(self, slot, how):
        process = self.processes.pop(slot, None)
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            say(f"  {self.group.name}: a member did not end in {END_S} s")

    def end_all(self):
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for slot in list(self.processes):
            self.end(slot, signal.SIGTERM)
        for reader in self.readers:
            reader.join()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker")
    parser.add_argument("--data")
    parser.add_argument("--port", type=int)
    parser.add_argument("--cluster")
    parser.add_argument("--bootstrap")
    parser.add_argument("--seconds", type=int, default=40)
    parser.add_argument("--members", type=int, default=2)
    parser.add_argument("--rate", type=int, default=300)
    parser.add_argument("kinds", nargs="+", choices=[*KINDS, "mixed"], metavar="KIND")
    given = parser.parse_args()
    group_check.self_test()

    if given.cluster:
        bootstrap = given.bootstrap
        broker = Cluster(given.cluster, bootstrap)
    else:
        bootstrap = f"127.0.0.1:{given.port}"
        broker = Broker(given.broker, given.data, given.port)
    broker.start()
    groups = []
    load = None
    try:
        admin = AdminClient({"bootstrap.servers": bootstrap})
        admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])[TOPIC].result(20)
        load = Load(bootstrap, given.rate)
        singles = [kind for kind in given.kinds if kind != "mixed"]
        for kind in singles:
            groups.append(Members(kind, [kind], bootstrap, given.members))
        if "mixed" in given.kinds:
            # The first is classic, so that the group is upgraded when the next comes, and so on.
            classic = [kind for kind in singles if kind.endswith("cooperative")]
            consumer = [kind for kind in singles if kind.endswith("consumer")]
            kinds = [kind for pair in zip(classic, consumer) for kind in pair]
            groups.append(Members("mixed", kinds or ["confluent-kafka-cooperative", "confluent-kafka-consumer"], bootstrap, given.members))

        # What happens, by its time as a part of the whole: to each group a little apart, to the broker once.
        script = [
            (0.00, "start", 0), (0.10, "start", 1), (0.22, "kill", 0), (0.26, "start", 0), (0.50, "leave", 1),
            (0.58, "start", 2), (0.66, "start", 1), (0.82, "leave", 2),
        ]
        plan = [(0.38, None, "restart", 0), (0.74, None, "kill", 0)]
        if given.cluster:
            plan = [(0.16, None, "kill", 0), (0.38, None, "restart", 0), (0.60, None, "restart", 0), (0.74, None, "kill", 0)]
        for number, group in enumerate(groups):
            apart = 0.06 * number / len(groups)
            plan += [(at + apart, group, what, slot) for at, what, slot in script]
        began = time.monotonic()
        for at, group, what, slot in sorted(plan, key=lambda step: step[0]):
            time.sleep(max(0, began + at * given.seconds - time.monotonic()))
            if group is None:
                say(f"  {time.monotonic() - began:5.1f} s: broker: {what}")
                broker.restart(signal.SIGKILL if what == "kill" else signal.SIGTERM)
            elif what == "start":
                group.start(slot)
            else:
                threading.Thread(target=group.end, args=(slot, signal.SIGKILL if what == "kill" else signal.SIGTERM)).start()
        time.sleep(max(0, began + given.seconds - time.monotonic()))
        load.stop()
        ends = dict(load.ends)
        deadline = time.monotonic() + DRAIN_S
        while time.monotonic() < deadline and not all(group.group.has_committed(ends) for group in groups):
            time.sleep(0.2)
        wrong = []
        for group in groups:
            if not group.group.has_committed(ends):
                wrong.append(f"{group.group.name}: not everything was committed {DRAIN_S} s after the last record: {dict(group.group.committed)} of {ends}")
        types = {group.group_id: group.type for group in admin.list_consumer_groups().result().valid}
        for group in groups:
            # A client that fell back to the classic protocol has tested something else.
            if "consumer" in group.group.name.split("-") and types.get(group.group.name) != ConsumerGroupType.CONSUMER:
                wrong.append(f"{group.group.name}: the group is {types.get(group.group.name)}")
            group.end_all()
        total = sum(ends.values())
        for group in groups:
            found = group.group.check(ends)
            wrong += found
            say(f"  {group.group.name}: {total} records, {group.group.assigned} assignments, {group.group.again} read again with cause{', WRONG' if found else ''}")
        for sentence in wrong[:40]:
            say(f"  {sentence}")
        for group in groups:
            if any(sentence.startswith(f"{group.group.name}:") for sentence in wrong):
                group.complaints.seek(0)
                for line in group.complaints.read().decode(errors="replace").splitlines()[-20:]:
                    say(f"  {group.group.name} said: {line}")
        broker.stop()
        sys.exit(1 if wrong else 0)
    finally:
        if load is not None:
            load.stopping.set()
        for group in groups:
            for process in list(group.processes.values()):
                if process.poll() is None:
                    process.kill()
        broker.end()


if __name__ == "__main__":
    main()
