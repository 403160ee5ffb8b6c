"""Very many topics in a cluster: how long each step takes and what memory it needs. Run by scripts/cluster-scale.sh.

    cluster_scale.py CLUSTER_SCRIPT DIRECTORY BOOTSTRAP --topics N --partitions N --replicas N --batch N [--no-records] [--tools COMMAND...]

CLUSTER_SCRIPT is scripts/cluster.sh, DIRECTORY where it keeps its nodes. COMMAND runs kafka-topics with the arguments that follow.
"""

import argparse
import concurrent.futures
import os
import socket
import struct
import subprocess
import time
import urllib.request

import confluent_kafka as ck
from confluent_kafka import admin as cka

from content import check
from scale import answer, frame, text
from siege import varint

TIMEOUT = 120
READY_SECONDS_MAX = 600


def record_batch(value):
    """A batch of one record, of no producer."""
    record = struct.pack(">bbbb", 0, 0, 0, 1) + varint(2 * len(value)) + value + b"\0"
    record = varint(2 * len(record)) + record
    now = int(time.time() * 1000)
    checked = struct.pack(">hiqqqhii", 0, 0, now, now, -1, -1, -1, 1) + record
    return struct.pack(">qiibI", 0, 9 + len(checked), -1, 2, crc32c(checked)) + checked


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def produce_errors(response):
    """The partitions that were refused in a response of version 3."""
    errors, at = [], 8
    for _ in range(struct.unpack_from(">i", response, 4)[0]):
        length = struct.unpack_from(">h", response, at)[0]
        name, at = response[at + 2 : at + 2 + length].decode(), at + 2 + length
        count, at = struct.unpack_from(">i", response, at)[0], at + 4
        for _ in range(count):
            partition, error = struct.unpack_from(">ih", response, at)
            at += 22
            if error:
                errors.append((name, partition, error))
    return errors


class Cluster:
    def __init__(self, script, directory, bootstrap):
        self.script, self.directory, self.servers = script, directory, bootstrap.split(",")
        self.nodes = range(1, len(self.servers) + 1)

    def do(self, *arguments):
        done = subprocess.run([self.script, *map(str, arguments)], capture_output=True, text=True)
        # What takes longer than that script waits is waited for below.
        return done.returncode == 0

    def pid(self, node):
        with open(f"{self.directory}/{node}/pid") as file:
            return int(file.read())

    def resident_mib(self, node, name="VmRSS"):
        with open(f"/proc/{self.pid(node)}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith(name)) / 1024

    def processor_seconds(self):
        total = 0
        for node in self.nodes:
            with open(f"/proc/{self.pid(node)}/stat") as stat:
                fields = stat.read().rsplit(")", 1)[1].split()
            total += sum(int(field) for field in fields[11:13]) / os.sysconf("SC_CLK_TCK")
        return total

    def files(self, node):
        return len(os.listdir(f"/proc/{self.pid(node)}/fd"))

    def metric(self, node, name):
        host = self.servers[node - 1].split(":")[0]
        page = urllib.request.urlopen(f"http://{host}:9644/metrics", timeout=20).read().decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.split("{")[0].split(" ")[0] == name)

    def wait_ready(self, node):
        """Until the node takes clients; what it says of its start."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        while True:
            with open(f"{self.directory}/{node}/output") as output:
                lines = output.read().splitlines()
            ready = [line.rsplit(", ", 1)[1] for line in lines if " ready: " in line]
            if ready:
                return ready[0] + "".join(f", {line}" for line in lines if "trying again" in line)
            check(os.path.exists(f"/proc/{self.pid(node)}"), f"node {node} has ended")
            check(time.monotonic() < deadline, f"node {node} is not ready after {READY_SECONDS_MAX} s")
            time.sleep(0.05)

    def wait_ended(self, node):
        """Until the process does nothing any more, whether or not it has been collected."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        try:
            pid = self.pid(node)
            while True:
                with open(f"/proc/{pid}/stat") as stat:
                    if stat.read().rsplit(")", 1)[1].split()[0] == "Z":
                        return
                check(time.monotonic() < deadline, f"node {node} has not ended")
                time.sleep(0.01)
        except OSError:
            return


class Scale:
    def __init__(self, cluster, topics, partitions, replicas, batch):
        self.cluster, self.batch, self.partitions, self.replicas = cluster, batch, partitions, replicas
        self.names = [f"scale-{number:05}" for number in range(topics)]
        self.total = topics * partitions
        print(f"{'':52} {'time':>9}   resident MiB of each node", flush=True)

    def admin(self, node):
        return cka.AdminClient({"bootstrap.servers": self.cluster.servers[node - 1], "log_level": 0, "socket.timeout.ms": TIMEOUT * 1000,
                                "receive.message.max.bytes": 500_000_000})

    def step(self, what, act, *arguments):
        began = time.monotonic()
        said = act(*arguments)
        self.show(what, time.monotonic() - began, said)

    def show(self, what, seconds, said=None):
        memory = " ".join(f"{self.cluster.resident_mib(node):6.0f}" for node in self.cluster.nodes)
        print(f"{what:52} {seconds:7.1f} s   {memory}{'   ' + said if said else ''}", flush=True)

    def create(self):
        """Batches of topics, through one node after the other; the slowest batch, and what the last tenth took."""
        admins = {node: self.admin(node) for node in self.cluster.nodes}
        took = []
        for place, first in enumerate(range(0, len(self.names), self.batch)):
            began = time.monotonic()
            topics = [cka.NewTopic(name, self.partitions, self.replicas) for name in self.names[first : first + self.batch]]
            admin = admins[place % len(self.cluster.nodes) + 1]
            for future in admin.create_topics(topics, operation_timeout=TIMEOUT, request_timeout=TIMEOUT).values():
                future.result(TIMEOUT)
            took.append((time.monotonic() - began) * 1000)
        tenth = max(1, len(took) // 10)
        return (f"a batch of {self.batch}: first tenth {sum(took[:tenth]) / tenth:.0f} ms, last tenth {sum(took[-tenth:]) / tenth:.0f} ms, "
                f"slowest {max(took):.0f} ms")

    def listed(self, node):
        topics = self.admin(node).list_topics(timeout=TIMEOUT).topics
        partitions = [part for name in self.names for part in (topics[name].partitions.values() if name in topics else ())]
        return len(partitions), sum(part.leader >= 0 for part in partitions)

    def list(self, node):
        found, led = self.listed(node)
        check(found == led == self.total, f"node {node}: {found} of {self.total} partitions, {led} are led")

    def until_led(self):
        """Until every node says that every partition has a leader."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            found = [self.listed(node) for node in self.cluster.nodes]
            if all(each == (self.total, self.total) for each in found):
                return
            check(time.monotonic() < deadline, f"found and led: {found}, of {self.total}")
            time.sleep(0.2)

    def describe(self, node):
        admin = self.admin(node)
        for first in range(0, len(self.names), self.batch):
            described = admin.describe_topics(ck.TopicCollection(self.names[first : first + self.batch]), request_timeout=TIMEOUT)
            for future in described.values():
                check(len(future.result(TIMEOUT).partitions) == self.partitions, "a topic lacks partitions")

    def configs(self, node):
        admin = self.admin(node)
        for first in range(0, len(self.names), self.batch):
            resources = [cka.ConfigResource(cka.ResourceType.TOPIC, name) for name in self.names[first : first + self.batch]]
            for future in admin.describe_configs(resources, request_timeout=TIMEOUT).values():
                future.result(TIMEOUT)

    def tool(self, command, *arguments):
        done = subprocess.run([*command, "--bootstrap-server", self.cluster.servers[0], *arguments], capture_output=True, text=True)
        check(done.returncode == 0, done.stderr[-2000:])
        found = sum("scale-" in line for line in done.stdout.splitlines())
        return f"{found} lines"

    def records(self):
        """One record into each partition, so that each has a file and a place in the journal: in requests of many partitions."""
        known = self.admin(1).list_topics(timeout=TIMEOUT).topics
        batch = record_batch(b"one")
        requests = 0
        for node, server in zip(self.cluster.nodes, self.cluster.servers):
            host, port = server.split(":")
            with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
                for first in range(0, len(self.names), self.batch):
                    topics = []
                    for name in self.names[first : first + self.batch]:
                        led = [part.id for part in known[name].partitions.values() if part.leader == node]
                        if led:
                            parts = b"".join(struct.pack(">ii", part, len(batch)) + batch for part in led)
                            topics.append(text(name) + struct.pack(">i", len(led)) + parts)
                    # No transaction, acks=all, a time to wait.
                    body = struct.pack(">hhii", -1, -1, TIMEOUT * 1000, len(topics)) + b"".join(topics)
                    connection.sendall(frame(0, 3, body))
                    errors = produce_errors(answer(connection))
                    check(not errors, f"node {node}: errors {errors}")
                    requests += 1
        return f"{requests} requests"

    def restart(self, nodes, how):
        """What becomes of nodes that end at the same time and start again."""
        with concurrent.futures.ThreadPoolExecutor() as pool:
            began = time.monotonic()
            stopping = [pool.submit(self.cluster.do, how, node) for node in nodes]
            for node in nodes:
                self.cluster.wait_ended(node)
            ended = time.monotonic() - began
            # The script waits longer: until its processes are collected too.
            concurrent.futures.wait(stopping)
            began = time.monotonic()
            list(pool.map(lambda node: self.cluster.do("start", node), nodes))
        said = [self.cluster.wait_ready(node) for node in nodes]
        ready = time.monotonic()
        self.until_led()
        return f"ended in {ended:.1f} s, ready {ready - began:.1f} s after the start ({'; '.join(said)}), all are led {time.monotonic() - ready:.1f} s later"

    def delete(self):
        admin = self.admin(1)
        for first in range(0, len(self.names), self.batch):
            for future in admin.delete_topics(self.names[first : first + self.batch], operation_timeout=TIMEOUT, request_timeout=TIMEOUT).values():
                future.result(TIMEOUT)

    def quiet_share(self, seconds=10):
        before = self.cluster.processor_seconds()
        time.sleep(seconds)
        return (self.cluster.processor_seconds() - before) / seconds


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    for name in ("script", "directory", "bootstrap"):
        parser.add_argument(name)
    parser.add_argument("--topics", type=int, required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--no-records", action="store_true")
    parser.add_argument("--tools", nargs="+")
    options = parser.parse_args()
    cluster = Cluster(options.script, options.directory, options.bootstrap)
    scale = Scale(cluster, options.topics, options.partitions, options.replicas, options.batch)
    before = {node: cluster.resident_mib(node) for node in cluster.nodes}
    scale.show("nothing", 0)
    idle = scale.quiet_share(5)
    terms = cluster.metric(1, "millstream_quorum_term")

    scale.step(f"{options.topics} topics created, {scale.total} partitions × {options.replicas}", scale.create)
    scale.step("every node says that all are led", scale.until_led)
    after = {node: cluster.resident_mib(node) for node in cluster.nodes}
    for node in cluster.nodes:
        scale.step(f"all listed by node {node} (Metadata)", scale.list, node)
    scale.step("all described (Metadata, by names)", scale.describe, 2)
    scale.step("all configs described", scale.configs, 3)
    if options.tools:
        scale.step("kafka-topics --list", scale.tool, options.tools, "--list")
        scale.step("kafka-topics --describe", scale.tool, options.tools, "--describe")
    if not options.no_records:
        scale.step("one record into each partition", scale.records)
        with_records = {node: cluster.resident_mib(node) for node in cluster.nodes}
    print(f"processor time of all nodes without load: {idle:.1%} of a core with no topic, {scale.quiet_share():.1%} with all", flush=True)
    for node in cluster.nodes:
        scale.step(f"node {node} restarted", scale.restart, [node], "stop")
    scale.step("all restarted at once", scale.restart, cluster.nodes, "stop")
    scale.step("all killed and started at once", scale.restart, cluster.nodes, "kill")
    for node in cluster.nodes:
        grown = (after[node] - before[node]) * 1024
        line = f"node {node}: {before[node]:.0f} MiB before, {after[node]:.0f} MiB with all topics: {grown / scale.total * 1024:.0f} bytes a partition of the cluster"
        line += f", {grown / (scale.total * scale.replicas / len(cluster.nodes)):.2f} KiB a replica of its own"
        if not options.no_records:
            line += f"; {with_records[node]:.0f} MiB with a record in each"
        print(f"{line}; at most {cluster.resident_mib(node, 'VmHWM'):.0f} MiB since the last start; {cluster.files(node)} files open")
    scale.step("all deleted", scale.delete)
    print(f"term {terms:.0f} at the beginning, {cluster.metric(1, 'millstream_quorum_term'):.0f} at the end")


if __name__ == "__main__":
    main()
