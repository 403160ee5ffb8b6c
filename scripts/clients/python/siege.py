"""Attacks a broker on all sides while good clients are at work: scripts/hostile.sh.

    siege.py BOOTSTRAP HTTP_PORT PROCESS FRAMES --seconds N --memory-mib N [--node N]

PROCESS is the broker's id, FRAMES a file of good request frames of every API and version, the node is the one that is attacked of a
cluster of several. Fails when a good client notices
more than latency, when the broker's memory goes beyond its budget, or when sockets are left over afterwards.
"""

import argparse
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid

import hostile
from content import check, fail
from hostile import connect, frame, header
from with_confluent import create_topic

# No good client may stand still for longer: this is no measurement, but the difference between slow and stuck.
STALL_SECONDS_MAX = 10
# Until everything that was attacked from is closed on the broker's side too.
SOCKETS_GONE_SECONDS_MAX = 20
# Before the attacks, to have something to compare with.
CALM_SECONDS = 5

SILENT_CONNECTIONS = 200
DEAF_CONNECTIONS = 30
SLOW_CONNECTIONS = 30
PROMISING_CONNECTIONS = 300
PROMISED_BYTES = 64 << 20
PARTIAL_CONNECTIONS = 8
PARTIAL_BYTES = 8 << 20
# What the deaf ask for again and again.
BULK_RECORDS, BULK_RECORD_BYTES = 600, 100_000
REPEATED_MAX = 100_000
AMPLIFIED_SECONDS_MAX = 20


class Broker:
    """The process under attack, as /proc shows it."""

    def __init__(self, process):
        self.directory = f"/proc/{process}"

    def status_mib(self, name):
        try:
            with open(f"{self.directory}/status") as status:
                return next(int(line.split()[1]) for line in status if line.startswith(name)) / 1024
        except (OSError, StopIteration):
            fail("the broker is gone")

    def descriptors(self):
        """Numbers of sockets, and of everything else that is open."""
        sockets = others = 0
        for name in os.listdir(f"{self.directory}/fd"):
            try:
                target = os.readlink(f"{self.directory}/fd/{name}")
            except OSError:
                continue
            sockets += target.startswith("socket:")
            others += not target.startswith("socket:")
        return sockets, others


def quietly(action):
    """For attackers: the broker may close or reset at any time."""
    try:
        return action()
    except OSError:
        return None


def read_all(connection, seconds):
    """Reads until nothing comes for so long, or the end; the number of bytes."""
    connection.settimeout(seconds)
    total = 0
    while data := quietly(lambda: connection.recv(1 << 20)):
        total += len(data)
    return total


class Holders:
    """Connections that are kept for as long as the siege lasts, and do something now and then."""

    def __init__(self, host, port):
        self.host, self.port = host, port
        self.kept, self.trickling = [], []

    def open(self, count, prepare, trickles=False):
        for index in range(count):
            connection = quietly(lambda: connect(self.host, self.port))
            if connection is None:
                continue
            connection.settimeout(0.2)
            quietly(lambda: prepare(connection, index))
            (self.trickling if trickles else self.kept).append(connection)

    def trickle(self):
        """Another byte on each connection that sends slowly; those that were closed come again."""
        for connection in self.trickling:
            quietly(lambda: connection.send(b"\0", socket.MSG_DONTWAIT))

    def close(self):
        for connection in self.kept + self.trickling:
            connection.close()


def hold_silent(holders, _):
    holders.open(SILENT_CONNECTIONS, lambda connection, index: None)


def fetch_body(topic, partitions):
    body = struct.pack(">iiiib", -1, 500, 1, 100 << 20, 0) + struct.pack(">i", 1)
    body += struct.pack(">h", len(topic)) + topic + struct.pack(">i", len(partitions))
    for partition in partitions:
        body += struct.pack(">iqi", partition, 0, 100 << 20)
    return body


def hold_deaf(holders, topic):
    """Asks for a large fetch again and again and never reads."""
    request = frame(header(1, 4) + fetch_body(topic, [0]))

    def ask(connection, index):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(request * 100)

    holders.open(DEAF_CONNECTIONS, ask)


def hold_slow(holders, _):
    """Half of a frame, and then a byte now and then."""
    begun = struct.pack(">i", 1 << 20) + header(0, 7)
    holders.open(SLOW_CONNECTIONS, lambda connection, index: connection.sendall(begun), trickles=True)


def hold_promises(holders, _):
    begun = struct.pack(">i", PROMISED_BYTES) + header(0, 7) + b"\0" * 1000
    holders.open(PROMISING_CONNECTIONS, lambda connection, index: connection.sendall(begun), trickles=True)


def hold_partial(holders, _):
    """A part of a large request that is worth keeping, and then a byte now and then."""
    begun = struct.pack(">i", PROMISED_BYTES) + header(0, 7) + b"\0" * PARTIAL_BYTES

    # The broker need not take it: what does not go within the time that every holder has stays away.
    holders.open(PARTIAL_CONNECTIONS, lambda connection, index: connection.sendall(begun), trickles=True)


class Siege:
    """The attacks that take turns. Each gets the time until which it may go on."""

    def __init__(self, host, port, http_port, frames, topic, group, source):
        self.host, self.port, self.http_port = host, port, http_port
        self.frames, self.topic, self.group, self.random = frames, topic, group, source
        self.notes = {}

    def note(self, text, count=1):
        self.notes[text] = self.notes.get(text, 0) + count

    def connect(self):
        return quietly(lambda: connect(self.host, self.port))

    def garbage(self, until):
        while time.monotonic() < until:
            connection = self.connect()
            if connection is None:
                continue
            size = self.random.choice((1, 3, 4, 5, 60, 4000, 300_000))
            quietly(lambda: connection.sendall(self.random.randbytes(size)))
            connection.close()
            self.note("connections with garbage")

    def checked(self, until):
        """The attacks whose answer is looked at: each must be refused, and soon."""
        for attack in (hostile.garbage, hostile.huge_length, hostile.huge_count, hostile.truncated):
            attack(self.host, self.port)
            self.note("kinds of hostile frames answered or refused")

    def mutated(self, until):
        """Good headers with damaged bodies, of every API and version in turn."""
        connection, since = None, 0
        order = list(range(len(self.frames)))
        self.random.shuffle(order)
        while time.monotonic() < until:
            for place in order:
                if connection is None or since == 20:
                    if connection is not None:
                        read_all(connection, 0.002)
                        connection.close()
                    connection, since = self.connect(), 0
                    if connection is None:
                        continue
                    connection.settimeout(1)
                since += 1
                if quietly(lambda: connection.sendall(frame(self.damaged(self.frames[place]))) or True) is None:
                    connection.close()
                    connection = None
                self.note("damaged requests")
                if time.monotonic() > until:
                    break
        if connection is not None:
            connection.close()

    def damaged(self, request):
        body = bytearray(request)
        # The header stays as it is: key, version, correlation id, a client id of one letter.
        for _ in range(self.random.randrange(4)):
            at = self.random.randrange(11, len(body) + 1) if len(body) >= 11 else 0
            kind = self.random.randrange(5)
            if kind == 0:
                del body[max(at, 11):]
            elif kind == 1:
                body[at:at] = self.random.randbytes(self.random.randrange(1, 20))
            elif kind == 2:
                body[at : at + 4] = self.random.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\1\x86\xa0"))
            elif at < len(body):
                body[at] = self.random.randrange(256)
        return bytes(body)

    def connects(self, until):
        """Connections that come and go, half of them with a reset."""
        while time.monotonic() < until:
            connection = self.connect()
            if connection is None:
                continue
            if self.random.random() < 0.5:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
            self.note("connections opened and closed")

    def small_requests(self, until):
        """One connection sends small requests as fast as the broker takes them, and reads only now and then."""
        request = frame(header(18, 0))
        connection = self.connect()
        if connection is None:
            return
        connection.settimeout(0.05)
        while time.monotonic() < until:
            sent = 0
            while sent < 1 << 20:
                took = quietly(lambda: connection.send(request * 1000))
                if not took:
                    break
                sent += took
            self.note("small requests on one connection", sent // len(request))
            # What was cut would make the next request a wrong one.
            quietly(lambda: connection.sendall(request[sent % len(request) :] if sent % len(request) else b""))
            read_all(connection, 0.005)
        connection.close()

    def http(self, until):
        """Garbage, half requests and silence on the port for metrics."""
        kept = []
        while time.monotonic() < until:
            connection = quietly(lambda: connect(self.host, self.http_port))
            if connection is None:
                continue
            payload = self.random.choice((
                b"", b"GET /metrics HTTP/1.1\r\n", b"GET " + b"/" * 9000, self.random.randbytes(500),
                b"POST /metrics HTTP/1.1\r\n\r\n", b"GET /metrics HTTP/1.1\r\n\r\n" * 50,
            ))
            quietly(lambda: connection.sendall(payload))
            kept.append(connection)
            self.note("connections to the metrics port")
            if len(kept) > 50:
                kept.pop(0).close()
            time.sleep(0.001)
        for connection in kept:
            connection.close()

    def amplifiers(self, until):
        """Requests that name one thing very often, or ask for much: the answer, and what is kept for it, is bounded."""
        text = lambda value: struct.pack(">h", len(value)) + value
        repeated = lambda element: struct.pack(">i", REPEATED_MAX) + element * REPEATED_MAX
        topic, group = text(self.topic), text(self.group)
        for what, key, version, body in (
            ("DescribeGroups", 15, 0, repeated(group)),
            ("DescribeConfigs", 32, 1, repeated(b"\x04" + text(b"1") + struct.pack(">i", -1)) + b"\x01"),
            ("Metadata", 3, 4, repeated(topic) + b"\0"),
            ("FindCoordinator", 10, 4, b"\0\0" + varint(REPEATED_MAX + 1) + b"\x02a" * REPEATED_MAX + b"\0"),
            ("OffsetFetch", 9, 5, group + struct.pack(">i", 1) + topic + repeated(struct.pack(">i", 0))),
            ("ListOffsets by time", 2, 4, struct.pack(">ib", -1, 0) + struct.pack(">i", 1) + topic
             + struct.pack(">i", 2000) + struct.pack(">iiq", 0, -1, 1) * 2000),
            ("Fetch", 1, 4, fetch_body(self.topic, [0] * 2000)),
            ("DeleteGroups", 42, 0, repeated(text(b"nobody"))),
        ):
            connection = self.connect()
            if connection is None:
                continue
            connection.settimeout(10)
            began = time.monotonic()
            quietly(lambda: connection.sendall(frame(header(key, version) + body)))
            answered = quietly(lambda: connection.recv(4)) or b""
            length = struct.unpack(">i", answered)[0] if len(answered) == 4 else 0
            got = 0
            while got < length and (data := quietly(lambda: connection.recv(1 << 20))):
                got += len(data)
            self.note(f"bytes answered to a {what} of {len(body)} bytes, in {time.monotonic() - began:.1f} s", got)
            connection.close()
            if time.monotonic() > until:
                return


def varint(value):
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(encoded + bytes([value]))


# IncrementalAlterConfigs, AlterConfigs and AlterClientQuotas: whoever may send them may slow others down, and that is no fault.
CHANGES_FOR_OTHERS = (33, 44, 49)


def read_frames(path):
    frames, data = [], open(path, "rb").read()
    while data:
        length = struct.unpack_from(">i", data)[0]
        frame = data[4 : 4 + length]
        if struct.unpack_from(">h", frame)[0] not in CHANGES_FOR_OTHERS:
            frames.append(frame)
        data = data[4 + length :]
    return frames


def fill(bootstrap, topic, node):
    import confluent_kafka as ck

    create_topic(bootstrap, topic, 1, {"retention.ms": "-1"}, node)
    producer = ck.Producer({"bootstrap.servers": bootstrap, "linger.ms": 50})
    for _ in range(BULK_RECORDS):
        producer.produce(topic, os.urandom(BULK_RECORD_BYTES), partition=0)
        producer.poll(0)
    check(producer.flush(60) == 0, "the topic for the deaf was not filled in time")


class Good:
    """The good clients' process."""

    def __init__(self, bootstrap, topic):
        program = os.path.join(os.path.dirname(__file__), "good_client.py")
        self.process = subprocess.Popen([sys.executable, program, bootstrap, topic], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        check(self.process.stdout.readline() == "started\n", "the good clients do not start")

    def say(self, line):
        try:
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()
        except OSError:
            fail("the good clients are gone")

    def end(self):
        self.say("end")
        line = self.process.stdout.readline()
        check(self.process.wait() == 0 and line, "the good clients failed")
        return json.loads(line)


def besiege(siege, holders, good, broker, bulk, seconds):
    """Everything at once: holders first, then the attacks take turns. Returns the stages, with the memory after each."""
    stages = []

    def stage(act, argument):
        good.say(act.__name__)
        began = time.monotonic()
        act(argument)
        stages.append((act.__name__, broker.status_mib("VmRSS")))
        print(f"  {act.__name__}: {time.monotonic() - began:.1f} s, {stages[-1][1]:.0f} MiB", flush=True)

    def hold(act):
        def holding(argument):
            act(holders, argument)
            time.sleep(0.5)

        holding.__name__ = act.__name__
        return holding

    # First, while there is memory to be had for large requests: the holders take what strangers can get.
    stage(siege.amplifiers, time.monotonic() + AMPLIFIED_SECONDS_MAX)
    for holding in (hold_silent, hold_slow, hold_promises, hold_partial, hold_deaf):
        stage(hold(holding), bulk)
    attacks = [siege.garbage, siege.checked, siege.connects, siege.small_requests, siege.http, siege.mutated]
    end = time.monotonic() + seconds
    stopping = threading.Event()

    def trickle():
        while not stopping.wait(0.5):
            holders.trickle()

    trickler = threading.Thread(target=trickle, daemon=True)
    trickler.start()
    for place, attack in enumerate(attacks):
        left = end - time.monotonic()
        stage(attack, time.monotonic() + max(1.0, left / (len(attacks) - place)))
    stopping.set()
    trickler.join()
    return stages


def table(stages, phases):
    """What the good clients had of each stage."""
    print(f"  {'stage':16} {'records':>8} {'acknowledged p50':>17} {'p99':>9} {'end to end p99':>15} {'longest gap':>12} {'memory after':>13}")
    for name, mib in stages:
        phase = phases.get(name)
        if phase is None:
            continue
        shown = lambda value, unit: "-" if value is None else f"{value:.0f} {unit}"
        acknowledged, end_to_end = phase["acknowledged"], phase["end_to_end"]
        gap = max(phase["longest_gap_ms"].values())
        print(f"  {name:16} {acknowledged['records']:8} {shown(acknowledged['p50_ms'], 'ms'):>17} {shown(acknowledged['p99_ms'], 'ms'):>9} "
              f"{shown(end_to_end['p99_ms'], 'ms'):>15} {shown(gap, 'ms'):>12} {shown(mib, 'MiB'):>13}")


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    for name in ("bootstrap", "http_port", "process", "frames"):
        parser.add_argument(name)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--memory-mib", type=int, required=True)
    parser.add_argument("--node", type=int)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    host, port = options.bootstrap.split(":")
    broker = Broker(options.process)
    topic, bulk = f"good-{uuid.uuid4()}", f"bulk-{uuid.uuid4()}"
    fill(options.bootstrap, bulk, options.node)
    good = Good(options.bootstrap, topic)
    good.say("calm")
    time.sleep(CALM_SECONDS)
    sockets, others = broker.descriptors()
    calm_mib = broker.status_mib("VmRSS")

    holders = Holders(host, port)
    siege = Siege(host, port, options.http_port, read_frames(options.frames), topic.encode(), topic.encode(), random.Random(options.seed))
    stages = [("calm", calm_mib)] + besiege(siege, holders, good, broker, bulk.encode(), options.seconds)
    during = broker.descriptors()
    good.say("after")
    holders.close()
    deadline = time.monotonic() + SOCKETS_GONE_SECONDS_MAX
    while broker.descriptors()[0] > sockets and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(2)
    left_over, others_after = broker.descriptors()
    stages.append(("after", broker.status_mib("VmRSS")))
    result = good.end()
    at_most_mib = broker.status_mib("VmHWM")

    for what, count in sorted(siege.notes.items()):
        print(f"  {count} {what}")
    phases = result["phases"]
    table(stages, phases)
    calm = phases["calm"]
    for what in ("acknowledged", "end_to_end"):
        before = calm[what]["p99_ms"]
        p99s = [phase[what]["p99_ms"] for name, phase in phases.items() if name not in ("before", "calm", "after") and phase[what]["p99_ms"]]
        if before and p99s:
            print(f"{what}: p99 {max(p99s) / before:.1f} times that before in the worst stage ({before} ms, {max(p99s)} ms)")
    print(f"memory: {calm_mib:.0f} MiB before, {at_most_mib:.0f} at most, budget {options.memory_mib}")
    print(f"descriptors: {sockets} sockets and {others} others before, {during[0]} and {during[1]} during, {left_over} and {others_after} afterwards")

    check(not result["problems"], "good clients noticed: " + "; ".join(result["problems"]))
    check(result["records"] > 0, "the good clients did nothing")
    for name, phase in phases.items():
        for who, gap in phase["longest_gap_ms"].items():
            check(name == "before" or gap <= STALL_SECONDS_MAX * 1000, f"{name}: the good {who} stood still for {gap:.0f} ms")
    check(at_most_mib <= options.memory_mib, f"{at_most_mib:.0f} MiB of memory, the budget is {options.memory_mib}")
    check(left_over <= sockets, f"{left_over - sockets} sockets are left over")
    print(f"{result['records']} records of the good clients, each acknowledged in order and read once")


if __name__ == "__main__":
    main()
