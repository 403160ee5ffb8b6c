//! Every topic configuration, by name.

use super::{ConfigDefinition, ConfigType::*, DYNAMIC, Served::*, Valid::*, table};

table! { TOPIC_CONFIGS
    "cleanup.policy" List Some("delete"), EachOf(&["compact", "delete"]), Honoured, DYNAMIC, ["log.cleanup.policy"],
        "What happens to old segments: delete removes them by age and size, compact keeps the newest record of each key; both may be given.";
    "compression.gzip.level" Int Some("-1"), GzipLevel, Honoured, DYNAMIC, ["compression.gzip.level"],
        "Level for gzip where the broker compresses.";
    "compression.lz4.level" Int Some("9"), Range(1, 17), Accepted, DYNAMIC, ["compression.lz4.level"],
        "Level for lz4 where the broker compresses.";
    "compression.type" String Some("producer"), OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]), Honoured, DYNAMIC, ["compression.type"],
        "How records are stored: producer keeps the producer's codec, any other value is the codec batches are stored in.";
    "compression.zstd.level" Int Some("3"), Range(-131072, 22), Honoured, DYNAMIC, ["compression.zstd.level"],
        "Level for zstd where the broker compresses; from 19 on they are the same.";
    "delete.retention.ms" Long Some("86400000"), AtLeast(0), Honoured, DYNAMIC, ["log.cleaner.delete.retention.ms"],
        "How long a compacted topic keeps a tombstone after its key was compacted, in milliseconds.";
    "file.delete.delay.ms" Long Some("60000"), AtLeast(0), Honoured, DYNAMIC, ["log.segment.delete.delay.ms"],
        "How long the files of a removed segment stay on disk for reads under way, in milliseconds.";
    "flush.messages" Long Some("9223372036854775807"), AtLeast(1), Accepted, DYNAMIC, ["log.flush.interval.messages"],
        "Records between forced syncs. No effect: every acknowledged append is durable already.";
    "flush.ms" Long Some("9223372036854775807"), AtLeast(0), Accepted, DYNAMIC, ["log.flush.interval.ms", "log.flush.scheduler.interval.ms"],
        "Milliseconds between forced syncs. No effect: every acknowledged append is durable already.";
    "follower.replication.throttled.replicas" List Some(""), Any, Accepted, DYNAMIC, [],
        "Replicas whose replication is throttled on the follower, as partition:broker pairs, or *.";
    "index.interval.bytes" Int Some("4096"), AtLeast(0), Honoured, DYNAMIC, ["log.index.interval.bytes"],
        "Bytes of records between two entries of the offset index.";
    "leader.replication.throttled.replicas" List Some(""), Any, Accepted, DYNAMIC, [],
        "Replicas whose replication is throttled on the leader, as partition:broker pairs, or *.";
    "local.retention.bytes" Long Some("-2"), AtLeast(-2), Accepted, DYNAMIC, ["log.local.retention.bytes"],
        "Bytes kept locally when remote storage is on; -2 means retention.bytes. No effect: there is no remote storage.";
    "local.retention.ms" Long Some("-2"), AtLeast(-2), Accepted, DYNAMIC, ["log.local.retention.ms"],
        "Milliseconds kept locally when remote storage is on; -2 means retention.ms. No effect: there is no remote storage.";
    "max.compaction.lag.ms" Long Some("9223372036854775807"), AtLeast(1), Honoured, DYNAMIC, ["log.cleaner.max.compaction.lag.ms"],
        "Longest time a record may stay uncompacted, in milliseconds.";
    "max.message.bytes" Int Some("1048588"), AtLeast(0), Honoured, DYNAMIC, ["message.max.bytes"],
        "Largest record batch accepted, in bytes, as it comes over the wire (compressed).";
    "message.downconversion.enable" Boolean Some("true"), Any, Accepted, DYNAMIC, [],
        "Removed in Kafka 4.0. No effect: records are never converted down.";
    "message.format.version" String None, Any, Accepted, DYNAMIC, [],
        "Removed in Kafka 4.0. No effect: records are stored in format 2.";
    "message.timestamp.after.max.ms" Long Some("3600000"), AtLeast(0), Honoured, DYNAMIC, ["log.message.timestamp.after.max.ms"],
        "How far a record's timestamp may lie ahead of the broker's clock, in milliseconds.";
    "message.timestamp.before.max.ms" Long Some("9223372036854775807"), AtLeast(0), Honoured, DYNAMIC, ["log.message.timestamp.before.max.ms"],
        "How far a record's timestamp may lie behind the broker's clock, in milliseconds.";
    "message.timestamp.difference.max.ms" Long Some("9223372036854775807"), AtLeast(0), Accepted, DYNAMIC, [],
        "Removed in Kafka 4.0, where the before and after bounds replaced it. No effect.";
    "message.timestamp.type" String Some("CreateTime"), OneOf(&["CreateTime", "LogAppendTime"]), Honoured, DYNAMIC, ["log.message.timestamp.type"],
        "Whose clock stamps the records: CreateTime is the producer's, LogAppendTime the broker's.";
    "min.cleanable.dirty.ratio" Double Some("0.5"), Fraction, Honoured, DYNAMIC, ["log.cleaner.min.cleanable.ratio"],
        "Share of a compacted log that must be uncompacted before it is compacted again.";
    "min.compaction.lag.ms" Long Some("0"), AtLeast(0), Honoured, DYNAMIC, ["log.cleaner.min.compaction.lag.ms"],
        "Shortest time a record stays uncompacted, in milliseconds.";
    "min.insync.replicas" Int Some("1"), AtLeast(1), Honoured, DYNAMIC, ["min.insync.replicas"],
        "In-sync replicas that a write with acks=all needs to be accepted.";
    "preallocate" Boolean Some("false"), Any, Accepted, DYNAMIC, ["log.preallocate"],
        "Whether segment files reserve their space when they are created. No effect.";
    "remote.log.copy.disable" Boolean Some("false"), Any, Accepted, DYNAMIC, [],
        "Stops copying to remote storage. No effect: there is no remote storage.";
    "remote.log.delete.on.disable" Boolean Some("false"), Any, Accepted, DYNAMIC, [],
        "Deletes remote data when remote storage is switched off. No effect: there is no remote storage.";
    "remote.storage.enable" Boolean Some("false"), Any, Refused("there is no remote storage: everything stays on the local disk"), DYNAMIC, [],
        "Tiered storage for this topic.";
    "retention.bytes" Long Some("-1"), Any, Honoured, DYNAMIC, ["log.retention.bytes"],
        "Bytes a partition may hold before its oldest segments are removed; -1 is no limit.";
    "retention.ms" Long Some("604800000"), AtLeast(-1), Honoured, DYNAMIC, ["log.retention.ms", "log.retention.minutes", "log.retention.hours"],
        "Milliseconds after which a segment's records may be removed; -1 is no limit.";
    "segment.bytes" Int Some("1073741824"), AtLeast(1048576), Honoured, DYNAMIC, ["log.segment.bytes"],
        "Size at which a segment is closed and a new one begun, in bytes.";
    "segment.index.bytes" Int Some("10485760"), AtLeast(4), Accepted, DYNAMIC, ["log.index.size.max.bytes"],
        "Largest size of a segment's index file. No effect: indexes are sized by their contents.";
    "segment.jitter.ms" Long Some("0"), AtLeast(0), Accepted, DYNAMIC, ["log.roll.jitter.ms", "log.roll.jitter.hours"],
        "Largest random reduction of segment.ms, in milliseconds. No effect.";
    "segment.ms" Long Some("604800000"), AtLeast(1), Honoured, DYNAMIC, ["log.roll.ms", "log.roll.hours"],
        "Age at which a segment is closed though it is not full, in milliseconds.";
    "unclean.leader.election.enable" Boolean Some("false"), Any, Accepted, DYNAMIC, ["unclean.leader.election.enable"],
        "Whether a replica outside the in-sync set may become leader, losing records, when nothing else is left. No effect: no such replica leads.";
}
