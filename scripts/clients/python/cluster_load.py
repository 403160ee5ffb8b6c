"""What scripts/cluster-load.sh needs of a cluster.

    cluster_load.py state TOPIC NODE...    one line that changes when a term of the quorum begins or a broker is fenced: the newest
                                           term, who leads the quorum, and the leader epoch of every partition of the topic, which
                                           grows when its leader is fenced; of each NODE (its address for clients, host:port)
    cluster_load.py squeeze TOPIC SECONDS NODE...    takes memory of each node that strangers can get: large requests that are not sent
                                           to their ends, responses that nobody reads, large records without pause;
                                           says how full the nodes became. NODE: of nodes 1, 2, ... in this order
    cluster_load.py hold PROCESS SECONDS [NAME]    holds the threads of a process whose names begin so (shard-); the others go on
"""

import ctypes
import os
import socket
import struct
import sys
import threading
import time
import urllib.request

import siege
from cluster_scale import record_batch
from content import check, fail
from hostile import header
from scale import answer, frame, text

PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
WALL = 0x40000000

FLOOD_CONNECTIONS = 4
FLOOD_RECORD_BYTES = 900_000
# Requests on their way on one connection.
FLOOD_AHEAD = 8
# On one connection in all: it must not fill the disk.
FLOOD_REQUESTS_MAX = 400


def metric(host, name):
    page = urllib.request.urlopen(f"http://{host}:9644/metrics", timeout=30).read().decode()
    return next(int(float(line.split(" ")[1])) for line in page.splitlines() if line.startswith(f"{name} "))


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        values = struct.unpack_from(">" + form, self.data, self.at)
        self.at += struct.calcsize(">" + form)
        return values if len(values) > 1 else values[0]

    def string(self):
        length = self.take("h")
        value = self.data[self.at : self.at + max(0, length)]
        self.at += max(0, length)
        return value.decode()

    def numbers(self):
        return [self.take("i") for _ in range(self.take("i"))]


def leader_epochs(host, port, topic):
    """Leader and epoch of each partition, by Metadata version 7."""
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.sendall(frame(3, 7, struct.pack(">i", 1) + text(topic) + b"\0"))
        reader = Reader(answer(connection))
    # The request's number, the throttle time; brokers with their racks; the cluster and its controller.
    reader.take("ii")
    for _ in range(reader.take("i")):
        reader.take("i"), reader.string(), reader.take("i"), reader.string()
    reader.string(), reader.take("i")
    check(reader.take("i") == 1 and reader.take("h") == 0 and reader.string() == topic, f"there is no topic {topic}")
    reader.take("b")
    found = {}
    for _ in range(reader.take("i")):
        error, index, leader, epoch = reader.take("hiii")
        reader.numbers(), reader.numbers(), reader.numbers()
        found[index] = f"{leader}@{epoch}" if error == 0 else f"error{error}"
    return " ".join(found[index] for index in sorted(found))


def state(topic, *nodes):
    for node in nodes:
        host, port = node.split(":")
        term, leader = metric(host, "millstream_quorum_term"), metric(host, "millstream_quorum_leader")
        print(f"term {term}, led by {leader}, partitions {leader_epochs(host, int(port), topic)};", end=" ")
    print()


def address(node):
    host, port = node.split(":")
    return host, int(port)


def flood(stopping, node, topic, partitions, batch):
    """Writes to the partitions that the node leads, several requests ahead of the answers, and comes again when it is thrown out."""
    requests = [
        frame(0, 3, struct.pack(">hhii", -1, -1, 10_000, 1) + text(topic) + struct.pack(">iii", 1, partition, len(batch)) + batch)
        for partition in partitions
    ]
    sent = 0
    while not stopping.is_set():
        try:
            with socket.create_connection(address(node), timeout=15) as connection:
                ahead = 0
                while not stopping.is_set() and sent < FLOOD_REQUESTS_MAX:
                    connection.sendall(requests[sent % len(requests)])
                    sent, ahead = sent + 1, ahead + 1
                    if ahead == FLOOD_AHEAD:
                        answer(connection)
                        ahead -= 1
        except (OSError, SystemExit):
            pass
        if sent >= FLOOD_REQUESTS_MAX:
            return


def squeeze(topic, seconds, *nodes):
    fetch = struct.pack(">i", len(header(1, 4) + siege.fetch_body(topic.encode(), range(12)))) + header(1, 4)
    fetch += siege.fetch_body(topic.encode(), range(12))

    def ask(connection, index):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(fetch * 100)

    stopping = threading.Event()
    batch = record_batch(os.urandom(FLOOD_RECORD_BYTES))
    led = [place.split("@")[0] for place in leader_epochs(*address(nodes[0]), topic).split(" ")]
    flooding = []
    for number, node in enumerate(nodes, 1):
        partitions = [index for index, leader in enumerate(led) if leader == str(number)]
        for _ in range(FLOOD_CONNECTIONS):
            flooding.append(threading.Thread(target=flood, args=(stopping, node, topic, partitions, batch)))
            flooding[-1].start()
    all_holders = []
    for node in nodes:
        host, port = node.split(":")
        holders = siege.Holders(host, int(port))
        holders.open(siege.DEAF_CONNECTIONS, ask)
        siege.hold_promises(holders, None)
        siege.hold_partial(holders, None)
        all_holders.append(holders)
    pressure, heap = [0] * len(nodes), [0] * len(nodes)
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        for index, node in enumerate(nodes):
            host = node.split(":")[0]
            pressure[index] = max(pressure[index], metric(host, "millstream_memory_pressure"))
            heap[index] = max(heap[index], metric(host, "millstream_memory_heap_bytes"))
        for holders in all_holders:
            holders.trickle()
        time.sleep(0.2)
    stopping.set()
    for holders in all_holders:
        holders.close()
    for thread in flooding:
        thread.join()
    budget = metric(nodes[0].split(":")[0], "millstream_memory_budget_bytes")
    print(f"memory pressure of the nodes at most {pressure}, heap {[value >> 20 for value in heap]} MiB of {budget >> 20}")
    check(max(heap) < budget, "the heap is larger than the budget")


def hold(process, seconds, name="shard-"):
    """By ptrace, which stops a single thread where signals stop the whole process."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    held = []
    for thread in os.listdir(f"/proc/{process}/task"):
        with open(f"/proc/{process}/task/{thread}/comm") as file:
            if file.read().startswith(name):
                held.append(int(thread))
    check(held, f"process {process} has no thread {name}")

    def call(request, thread):
        if libc.ptrace(request, thread, None, None) != 0:
            fail(f"ptrace of thread {thread}: {os.strerror(ctypes.get_errno())}")

    for thread in held:
        call(PTRACE_SEIZE, thread)
        call(PTRACE_INTERRUPT, thread)
    for thread in held:
        os.waitpid(thread, WALL)
    began = time.monotonic()
    time.sleep(float(seconds))
    for thread in held:
        call(PTRACE_DETACH, thread)
    print(f"{len(held)} threads were held for {(time.monotonic() - began) * 1000:.0f} ms")


if __name__ == "__main__":
    commands = {"state": state, "squeeze": squeeze, "hold": hold}
    if len(sys.argv) < 3 or sys.argv[1] not in commands:
        fail(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])
