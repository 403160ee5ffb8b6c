"""What the members of a group said, and whether it can be so.

A line of a member: EVENT MICROSECONDS MEMBER PARTITION FIRST LAST, where EVENT is
    assign  the partition is the member's from now on; its offset is fetched after this
    revoke  it gave the partition back; nothing is read or committed for it after this
    lost    the partition was taken from it
    read    it read the records FIRST to LAST
    commit  the broker has acknowledged FIRST as the next offset to read

Checked, for each group:
* every record that was acknowledged to the producer was read;
* a record is read again only for a cause: it had not been committed when the partition was assigned to who reads it again;
* no commit is acknowledged to a member for a partition that was assigned to another meanwhile.
"""

from collections import defaultdict

# The clocks are those of one machine; some members tell the time in milliseconds.
CLOCK_US = 2000


class Group:
    def __init__(self, name):
        self.name = name
        self.events = []
        self.committed = defaultdict(int)
        self.again = 0
        self.assigned = 0

    def take(self, line):
        """One line of a member; what is cut off by a kill is left out."""
        words = line.split()
        if len(words) != 6 or words[0] not in ("assign", "revoke", "lost", "read", "commit"):
            return
        event, at, member, partition, first, last = words
        try:
            entry = (int(at), event, member, int(partition), int(first), int(last))
        except ValueError:
            return
        self.events.append(entry)
        if event == "commit":
            self.committed[entry[3]] = max(self.committed[entry[3]], entry[4])

    def has_committed(self, ends):
        return all(self.committed[partition] >= end for partition, end in ends.items())

    def check(self, ends, eager_clients=("kafkajs",)):
        """What is wrong, as sentences. ends: by partition, the offset behind the last record acknowledged to the producer."""
        wrong = []
        by_partition = defaultdict(list)
        for entry in self.events:
            by_partition[entry[3]].append(entry)
        for partition, end in ends.items():
            events = sorted(by_partition[partition], key=lambda entry: entry[0])
            wrong += self._check_partition(partition, end, events, eager_clients)
        return [f"{self.name}: {sentence}" for sentence in wrong]

    def _check_partition(self, partition, end, events, eager_clients):
        wrong = []
        commits = [(at, first) for at, event, _, _, first, _ in events if event == "commit"]
        seen = bytearray(end)
        assigned_at, next_offset, owner = {}, {}, None
        for at, event, member, _, first, last in events:
            if event == "assign":
                assigned_at[member] = at
                next_offset.pop(member, None)
                owner = member
                self.assigned += 1
            elif event in ("revoke", "lost"):
                assigned_at.pop(member, None)
            elif event == "commit":
                is_late = owner != member and assigned_at.get(owner, at) < at - CLOCK_US
                if is_late and not member.startswith(eager_clients):
                    wrong.append(f"partition {partition}: {member} committed {first} after it was assigned to {owner}")
            elif event == "read":
                if member not in assigned_at:
                    wrong.append(f"partition {partition}: {member} read {first} to {last} without having it")
                    continue
                expected = next_offset.get(member)
                if expected is None:
                    # What was committed before the partition was assigned must not be read again.
                    before = max((to for when, to in commits if when < assigned_at[member] - CLOCK_US), default=0)
                    if first < before:
                        wrong.append(f"partition {partition}: {member} began at {first}, but {before} was committed before")
                elif first < expected:
                    wrong.append(f"partition {partition}: {member} read {first} twice without a rebalance")
                next_offset[member] = last + 1
                for offset in range(first, min(last + 1, end)):
                    self.again += seen[offset]
                    seen[offset] = 1
        missing = seen.count(0)
        if missing:
            wrong.append(f"partition {partition}: {missing} of {end} records were never read, the first {seen.index(0)}")
        return wrong


def self_test():
    """The checker finds what it is there for."""

    def problems(*lines, end=4):
        group = Group("g")
        for line in lines:
            group.take(line)
        return len(group.check({0: end}))

    begin = ("assign 1000000 a 0 -1 -1", "read 1100000 a 0 0 1", "commit 1200000 a 0 2 -1")
    rest = ("read 2200000 b 0 2 3",)
    taken = "assign 2000000 b 0 -1 -1"
    assert problems(*begin, "read 1300000 a 0 2 3") == 0
    assert problems(*begin) == 1, "records that nobody read"
    assert problems(*begin, "revoke 1300000 a 0 -1 -1", taken, *rest) == 0
    assert problems(*begin, taken, "read 2100000 b 0 1 3") == 1, "read again although committed"
    assert problems(*begin, "read 1900000 a 0 2 3", taken, *rest) == 0, "read again, not committed"
    assert problems(*begin, "read 1300000 a 0 1 3") == 1, "read twice by one member"
    assert problems(*begin, taken, *rest, "commit 2300000 a 0 3 -1") == 1, "a commit of who has it no more"
    assert problems(*begin, "revoke 1300000 a 0 -1 -1", "read 1400000 a 0 2 3") == 2, "read without having it"


if __name__ == "__main__":
    self_test()
