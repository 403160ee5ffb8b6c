"""Many connections and many partitions against one broker, with sockets alone; scripts/scale.sh starts it.

    scale.py BOOTSTRAP METRICS PID BENCH CONNECTIONS PARTITIONS BUDGET_MIB
"""

import os
import re
import resource
import socket
import struct
import subprocess
import sys
import time
import urllib.request

from content import check

TOPIC_PARTITIONS = 1000
CONNECTIONS_SECONDS_MAX = 300
# Requests for the metadata of every partition that a client sends without reading one response.
UNREAD_REQUESTS = 60
UNREAD_CLIENTS = 500
SCRAPES = 50
SCRAPE_INTERVAL = 5


def frame(api, version, body):
    request = struct.pack(">hhih", api, version, 1, 5) + b"scale" + body
    return struct.pack(">i", len(request)) + request


def text(value):
    return struct.pack(">h", len(value)) + value.encode()


def answer(connection):
    length = struct.unpack(">i", receive(connection, 4))[0]
    return receive(connection, length)


def receive(connection, length):
    data = b""
    while len(data) < length:
        piece = connection.recv(min(1 << 20, length - len(data)))
        check(piece, "the broker closed the connection")
        data += piece
    return data


class Scale:
    def __init__(self, bootstrap, metrics, pid, bench, connections, partitions, budget_mib):
        host, port = bootstrap.rsplit(":", 1)
        self.address, self.bootstrap, self.metrics = (host, int(port)), bootstrap, metrics
        self.pid, self.bench = int(pid), bench
        self.connections, self.partitions, self.budget = int(connections), int(partitions), int(budget_mib) << 20
        self.open = []
        print(f"{'':44} {'resident':>9} {'highest':>9} {'files':>6}   one record a request, 8 connections")

    def connect(self):
        return socket.create_connection(self.address, timeout=60)

    def resident(self):
        with open(f"/proc/{self.pid}/status") as status:
            fields = dict(line.split(":", 1) for line in status)
        return [int(fields[name].split()[0]) << 10 for name in ("VmRSS", "VmHWM")]

    def files(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def sample(self, name):
        page = urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=20).read().decode()
        values = [float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if re.match(name + r"[{ ]", line)]
        return sum(values)

    def latency(self):
        """p50, p99 and the largest in ms, and the rate."""
        command = [self.bench, "produce", "--bootstrap", self.bootstrap, "--topic", "latency", "--connections", "8",
                   "--batch-records", "1", "--warm-up", "1", "--seconds", "5"]
        out = subprocess.run(command, capture_output=True, text=True, timeout=120)
        check(out.returncode == 0, out.stderr)
        found = re.search(r"p50 ([\d.]+), p90 [\d.]+, p99 ([\d.]+), p99.9 [\d.]+, max ([\d.]+)", out.stdout)
        rate = re.search(r"([\d.]+) requests/s", out.stdout)
        return [float(value) for value in (*found.groups(), rate.group(1))]

    def show(self, what):
        resident, highest = self.resident()
        p50, p99, longest, rate = self.latency()
        mib = f"{resident >> 20:5} MiB {highest >> 20:5} MiB"
        print(f"{what:44} {mib} {self.files():6}   p50 {p50:.2f} ms, p99 {p99:.1f} ms, max {longest:.0f} ms, {rate:.0f}/s", flush=True)
        check(highest <= self.budget, f"{highest >> 20} MiB resident, the budget is {self.budget >> 20}")
        return p50, p99, longest

    def run(self):
        alone = self.show("nothing else")
        self.create()
        self.show(f"{self.partitions} partitions")
        self.scrapes()
        started = time.monotonic()
        while len(self.open) < self.connections:
            self.open.append(self.connect())
            check(time.monotonic() - started < CONNECTIONS_SECONDS_MAX, f"{len(self.open)} connections in {CONNECTIONS_SECONDS_MAX} s")
        took = time.monotonic() - started
        # Every one of them works: all ask, then all read.
        for connection in self.open:
            connection.sendall(frame(18, 0, b""))
        for connection in self.open:
            answer(connection)
        idle = self.show(f"and {self.connections} connections ({took:.0f} s)")
        for connection in self.open:
            connection.sendall(struct.pack(">i", 4000) + b"half")
        half = self.show("each has begun a request of 4 KB")
        before = self.sample("millstream_connections_stuck_closed_total")
        unread = [self.connect() for _ in range(UNREAD_CLIENTS)]
        for connection in unread:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(UNREAD_REQUESTS * frame(3, 1, struct.pack(">i", -1)))
        flooded = self.show(f"{UNREAD_CLIENTS} read none of {UNREAD_REQUESTS} large responses")
        closed = self.sample("millstream_connections_stuck_closed_total") - before
        pressure = self.sample("millstream_memory_pressure")
        print(f"  {closed:.0f} of them were closed, memory pressure {pressure:.0f}")
        for connection in self.open + unread:
            connection.close()
        deadline = time.monotonic() + 60
        while self.sample("millstream_connections") > 0:
            check(time.monotonic() < deadline, "connections are left")
            time.sleep(0.2)
        self.show("all closed")
        self.come_and_go()
        # Not a measurement, which a shared machine would spoil: nobody was kept out.
        for _, _, longest in (idle, half, flooded):
            check(longest < 10_000, f"a produce request took {longest:.0f} ms")
        check(idle[0] < 20 * alone[0] + 20, f"p50 of {idle[0]} ms instead of {alone[0]}")

    def processor_seconds(self):
        with open(f"/proc/{self.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return sum(int(field) for field in fields[11:13]) / os.sysconf("SC_CLK_TCK")

    def scrapes(self):
        """What a scrape costs: the whole process without load, the shards' cores under load."""
        before = self.processor_seconds()
        for _ in range(SCRAPES):
            self.sample("millstream_connections")
        whole = (self.processor_seconds() - before) / SCRAPES
        load = subprocess.Popen([self.bench, "produce", "--bootstrap", self.bootstrap, "--topic", "latency", "--seconds", "5",
                                 "--warm-up", "0"], stdout=subprocess.DEVNULL)
        counts = []
        while load.poll() is None:
            time.sleep(0.1)
            counts.append((self.sample("millstream_scrapes_total"), self.sample("millstream_scrape_seconds_total")))
        (first, began), (last, ended) = counts[0], counts[-1]
        shards = (ended - began) / (last - first) * self.sample("millstream_shards")
        share = max(whole, shards) / SCRAPE_INTERVAL
        print(f"  a scrape: {whole * 1e3:.1f} ms of processor time, {shards * 1e6:.0f} us of it on the shards' cores under load; "
              f"{share:.3%} of a core at one in {SCRAPE_INTERVAL} s")
        check(share < 0.01, "a scrape every few seconds costs more than 1 % of a core")

    def come_and_go(self):
        """Clients that wait for memory and go leave nothing behind while others hold it."""

        def begin():
            connection = self.connect()
            connection.sendall(struct.pack(">i", 10_000_000) + bytes(1000))
            return connection

        before = self.files()
        holding = [begin() for _ in range(100)]
        for _ in range(1000):
            begin().close()
        deadline = time.monotonic() + 20
        while (files := self.files()) > before + len(holding) + 50:
            check(time.monotonic() < deadline, f"{files} files are open, {before} before 1000 clients came and went")
            time.sleep(0.2)
        for connection in holding:
            connection.close()
        print(f"  1000 clients that waited for memory and went: {files - before - len(holding)} files left")

    def create(self):
        connection = self.connect()
        for index in range(self.partitions // TOPIC_PARTITIONS):
            name = text(f"scale-{index}")
            topic = name + struct.pack(">ihii", TOPIC_PARTITIONS, 1, 0, 0)
            connection.sendall(frame(19, 2, struct.pack(">i", 1) + topic + struct.pack(">ib", 60_000, 0)))
            response = answer(connection)
            # The request's number, the time to wait, the count of topics, the name.
            error = struct.unpack_from(">h", response, 12 + len(name))[0]
            check(error == 0, f"CreateTopics: error {error}")
        # One record into each partition, so that each has a file and a place in the journal.
        command = [self.bench, "produce", "--bootstrap", self.bootstrap, "--connections", "10", "--batch-records", "1",
                   "--record-bytes", "100", "--partitions", str(TOPIC_PARTITIONS), "--request-partitions", "100",
                   "--warm-up", "0", "--seconds", "1"]
        for index in range(self.partitions // TOPIC_PARTITIONS):
            out = subprocess.run([*command, "--topic", f"scale-{index}"], capture_output=True, text=True, timeout=120)
            check(out.returncode == 0, out.stderr)
        connection.close()


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    Scale(*sys.argv[1:]).run()
