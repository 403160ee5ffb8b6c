//! Every broker configuration, by name.

use super::{ConfigDefinition, ConfigType::*, DYNAMIC, FIXED, Served::*, Valid::*, table};

table! { BROKER_CONFIGS
    "add.partitions.to.txn.retry.backoff.max.ms" Int Some("100"), AtLeast(0), Accepted, FIXED, [],
        "Longest wait before a produce request that found its transaction busy is tried again inside the broker.";
    "add.partitions.to.txn.retry.backoff.ms" Int Some("20"), AtLeast(1), Accepted, FIXED, [],
        "Wait before a produce request that found its transaction busy is tried again inside the broker.";
    "advertised.listeners" List None, Any, Honoured, FIXED, [],
        "The endpoints told to clients, where they differ from listeners.";
    "allow.everyone.if.no.acl.found" Boolean Some("false"), Any, Accepted, FIXED, [],
        "What an authorizer does where no rule fits. No effect: there is no authorizer.";
    "alter.config.policy.class.name" Class None, Any, Refused("Java plug-ins cannot be loaded: a policy that is not enforced would mislead"), FIXED, [],
        "A class that may refuse configuration changes.";
    "alter.log.dirs.replication.quota.window.num" Int Some("11"), AtLeast(1), Accepted, FIXED, [],
        "Samples kept for the quota on moves between log directories.";
    "alter.log.dirs.replication.quota.window.size.seconds" Int Some("1"), AtLeast(1), Accepted, FIXED, [],
        "Length of one such sample in seconds.";
    "authorizer.class.name" String Some(""), Any, Refused("there is no authorizer yet: every client may do everything, which is not what this setting asks for"), FIXED, [],
        "The class that decides who may do what.";
    "auto.create.topics.enable" Boolean Some("true"), Any, Honoured, FIXED, [],
        "Whether asking for the metadata of an unknown topic creates it.";
    "auto.include.jmx.reporter" Boolean Some("true"), Any, Accepted, FIXED, [],
        "Removed in Kafka 4.0. No effect: metrics are scraped.";
    "auto.leader.rebalance.enable" Boolean Some("true"), Any, Honoured, FIXED, [],
        "Whether leadership returns to preferred replicas by itself.";
    "background.threads" Int Some("10"), AtLeast(1), Accepted, DYNAMIC, [],
        "Threads for background work. No effect: work runs on the shards.";
    "broker.heartbeat.interval.ms" Int Some("2000"), Any, Honoured, FIXED, [],
        "Milliseconds between a broker's heartbeats to the controller.";
    "broker.id" Int Some("-1"), Any, Honoured, FIXED, [],
        "The older name of node.id.";
    "broker.id.generation.enable" Boolean None, Any, Accepted, FIXED, [],
        "Removed in Kafka 4.0. No effect.";
    "broker.rack" String None, Any, Honoured, FIXED, [],
        "The rack this broker stands in, told to clients.";
    "broker.session.timeout.ms" Int Some("9000"), Any, Honoured, FIXED, [],
        "Milliseconds without heartbeat after which a broker counts as gone.";
    "client.quota.callback.class" Class None, Any, Refused("Java plug-ins cannot be loaded: a quota that is not enforced would mislead"), FIXED, [],
        "A class that computes client quotas.";
    "compression.gzip.level" Int Some("-1"), GzipLevel, Honoured, DYNAMIC, [],
        "Default of the topic configuration of this name.";
    "compression.lz4.level" Int Some("9"), Range(1, 17), Accepted, DYNAMIC, [],
        "Default of the topic configuration of this name.";
    "compression.type" String Some("producer"), OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]), Honoured, DYNAMIC, [],
        "Default of the topic configuration of this name.";
    "compression.zstd.level" Int Some("3"), Range(-131072, 22), Honoured, DYNAMIC, [],
        "Default of the topic configuration of this name.";
    "config.providers" List Some(""), Any, Refused("values are taken as they stand: no provider can be loaded to replace them"), FIXED, [],
        "Names of providers that replace ${...} in values.";
    "connection.failed.authentication.delay.ms" Int Some("100"), AtLeast(0), Accepted, FIXED, [],
        "Delay before a failed authentication is answered, in milliseconds.";
    "connections.max.idle.ms" Long Some("600000"), Any, Honoured, FIXED, [],
        "Milliseconds after which an idle connection is closed; negative means never.";
    "connections.max.reauth.ms" Long Some("0"), Any, Accepted, FIXED, [],
        "Longest time between authentications of a SASL connection, in milliseconds; 0 is no limit.";
    "control.plane.listener.name" String None, Any, Accepted, FIXED, [],
        "Removed in Kafka 4.0. No effect.";
    "controlled.shutdown.enable" Boolean Some("true"), Any, Honoured, FIXED, [],
        "Whether leadership is handed over before a stop.";
    "controlled.shutdown.max.retries" Int None, Any, Accepted, FIXED, [],
        "Removed in Kafka 4.0. No effect.";
    "controlled.shutdown.retry.backoff.ms" Long None, Any, Accepted, FIXED, [],
        "Removed in Kafka 4.0. No effect.";
    "controller.listener.names" List None, Any, Honoured, FIXED, [],
        "The listener, among those configured, at which other nodes reach this node's controller: one name.";
    "controller.quorum.append.linger.ms" Int Some("25"), AtLeast(0), Accepted, FIXED, [],
        "Milliseconds the controller gathers records before it writes them.";
    "controller.quorum.auto.join.enable" Boolean Some("false"), Any, Honoured, FIXED, [],
        "Whether a controller joins the voters by itself.";
    "controller.quorum.bootstrap.servers" List Some(""), Any, Honoured, FIXED, [],
        "Where controllers of the cluster are found, as host:port.";
    "controller.quorum.election.backoff.max.ms" Int Some("1000"), AtLeast(0), Accepted, FIXED, [],
        "Longest wait between controller elections, in milliseconds.";
    "controller.quorum.election.timeout.ms" Int Some("1000"), AtLeast(0), Accepted, FIXED, [],
        "Milliseconds a controller election may take.";
    "controller.quorum.fetch.max.bytes" Int Some("1048576"), AtLeast(1), Accepted, FIXED, [],
        "Bytes a controller fetches of the metadata log at once.";
    "controller.quorum.fetch.snapshot.max.bytes" Int Some("1048576"), AtLeast(1), Accepted, FIXED, [],
        "Bytes a controller fetches of a snapshot at once.";
    "controller.quorum.fetch.timeout.ms" Int Some("2000"), AtLeast(0), Honoured, FIXED, [],
        "Milliseconds a controller waits for the leader before it calls an election.";
    "controller.quorum.request.timeout.ms" Int Some("2000"), AtLeast(0), Accepted, FIXED, [],
        "Milliseconds a request between controllers may take.";
    "controller.quorum.retry.backoff.ms" Int Some("20"), AtLeast(0), Accepted, FIXED, [],
        "Milliseconds between tries of a request between controllers.";
    "controller.quorum.voters" List Some(""), Any, Honoured, FIXED, [],
        "The controllers that form the cluster, as id@host:port, this node among them. None: a cluster of its own.";
    "controller.quota.window.num" Int Some("11"), AtLeast(1), Accepted, FIXED, [],
        "Samples kept for the controller's mutation quota.";
    "controller.quota.window.size.seconds" Int Some("1"), AtLeast(1), Accepted, FIXED, [],
        "Length of one such sample in seconds.";
    "controller.socket.timeout.ms" Int Some("30000"), Any, Accepted, FIXED, [],
        "Milliseconds a request to the controller may take.";
    "cordoned.log.dirs" List Some(""), Any, Refused("there is one log directory, so none can be closed to new partitions"), FIXED, [],
        "Log directories that take no new partitions.";
    "create.topic.policy.class.name" Class None, Any, Refused("Java plug-ins cannot be loaded: a policy that is not enforced would mislead"), FIXED, [],
        "A class that may refuse new topics.";
    "default.replication.factor" Int Some("1"), Any, Honoured, FIXED, [],
        "Replicas of a topic that is created without saying how many.";
    "delegation.token.expiry.check.interval.ms" Long Some("3600000"), AtLeast(1), Accepted, FIXED, [],
        "Milliseconds between sweeps of expired delegation tokens.";
    "delegation.token.expiry.time.ms" Long Some("86400000"), AtLeast(1), Accepted, FIXED, [],
        "Milliseconds a delegation token is valid between renewals.";
    "delegation.token.max.lifetime.ms" Long Some("604800000"), AtLeast(1), Accepted, FIXED, [],
        "Longest life of a delegation token in milliseconds.";
    "delegation.token.secret.key" Password None, Any, Refused("delegation tokens are not supported"), FIXED, [],
        "The secret that signs delegation tokens.";
    "delete.records.purgatory.purge.interval.requests" Int Some("1"), Any, Accepted, FIXED, [],
        "How often finished DeleteRecords requests are swept. No effect.";
    "delete.topic.enable" Boolean Some("true"), Any, Honoured, FIXED, [],
        "Whether topics may be deleted.";
    "early.start.listeners" List None, Any, Accepted, FIXED, [],
        "Listeners opened before start-up is complete. No effect.";
    "fetch.max.bytes" Int Some("57671680"), AtLeast(1024), Honoured, FIXED, [],
        "Most bytes one fetch response holds, whatever the client asks for.";
    "fetch.purgatory.purge.interval.requests" Int Some("1000"), Any, Accepted, FIXED, [],
        "How often finished fetch requests are swept. No effect.";
    "follower.fetch.last.tiered.offset.enable" Boolean Some("false"), Any, Accepted, DYNAMIC, [],
        "Whether a new follower starts at the end of remote storage. No effect.";
    "follower.replication.throttled.rate" Long Some("9223372036854775807"), AtLeast(0), Accepted, DYNAMIC, [],
        "Bytes a second a follower takes for throttled replicas.";
    "group.consumer.assignment.interval.ms" Int Some("1000"), AtLeast(0), Accepted, DYNAMIC, [],
        "Shortest time between assignments of one consumer group, in milliseconds.";
    "group.consumer.assignors" List Some("uniform,range"), EachOf(&["uniform", "range", "org.apache.kafka.coordinator.group.assignor.UniformAssignor", "org.apache.kafka.coordinator.group.assignor.RangeAssignor"]), Honoured, FIXED, [],
        "Server-side assignors of the consumer protocol, the default first.";
    "group.consumer.heartbeat.interval.ms" Int Some("5000"), AtLeast(1), Honoured, FIXED, [],
        "Heartbeat interval told to members of the consumer protocol, in milliseconds.";
    "group.consumer.max.assignment.interval.ms" Int Some("15000"), AtLeast(0), Accepted, FIXED, [],
        "Upper bound of the assignment interval a group may configure.";
    "group.consumer.max.heartbeat.interval.ms" Int Some("15000"), AtLeast(1), Honoured, FIXED, [],
        "Upper bound of the heartbeat interval a group may configure.";
    "group.consumer.max.session.timeout.ms" Int Some("60000"), AtLeast(1), Honoured, FIXED, [],
        "Upper bound of the session timeout a group may configure.";
    "group.consumer.max.size" Int Some("2147483647"), AtLeast(1), Honoured, FIXED, [],
        "Most members of one group of the consumer protocol.";
    "group.consumer.migration.policy" String Some("bidirectional"), OneOfAnyCase(&["DISABLED", "DOWNGRADE", "UPGRADE", "BIDIRECTIONAL"]), Honoured, FIXED, [],
        "Which way a group may move between the classic and the consumer protocol while it runs.";
    "group.consumer.min.assignment.interval.ms" Int Some("0"), AtLeast(0), Accepted, FIXED, [],
        "Lower bound of the assignment interval a group may configure.";
    "group.consumer.min.heartbeat.interval.ms" Int Some("5000"), AtLeast(1), Honoured, FIXED, [],
        "Lower bound of the heartbeat interval a group may configure.";
    "group.consumer.min.session.timeout.ms" Int Some("45000"), AtLeast(1), Honoured, FIXED, [],
        "Lower bound of the session timeout a group may configure.";
    "group.consumer.session.timeout.ms" Int Some("45000"), AtLeast(1), Honoured, FIXED, [],
        "Session timeout of members of the consumer protocol, in milliseconds.";
    "group.coordinator.append.linger.ms" Int Some("-1"), AtLeast(-1), Accepted, FIXED, [],
        "Milliseconds the group coordinator gathers writes. No effect: commits are gathered by the journal.";
    "group.coordinator.background.threads" Int Some("2"), AtLeast(1), Accepted, FIXED, [],
        "Threads for slow work of the group coordinator. No effect: work runs on the shards.";
    "group.coordinator.cached.buffer.max.bytes" Int Some("1048588"), AtLeast(524288), Accepted, DYNAMIC, [],
        "Largest write buffer the group coordinator keeps. No effect.";
    "group.coordinator.rebalance.protocols" List Some("classic,consumer,streams"), EachOf(&["consumer", "classic", "share", "streams"]), Honoured, FIXED, [],
        "The rebalance protocols that groups may use: classic always, consumer if it is named, others are not served.";
    "group.coordinator.threads" Int Some("4"), AtLeast(1), Accepted, FIXED, [],
        "Threads of the group coordinator. No effect: work runs on the shards.";
    "group.initial.rebalance.delay.ms" Int Some("3000"), Any, Honoured, FIXED, [],
        "Milliseconds the first rebalance of an empty group waits for more members.";
    "group.max.session.timeout.ms" Int Some("1800000"), Any, Honoured, FIXED, [],
        "Longest session timeout a member may ask for, in milliseconds.";
    "group.max.size" Int Some("2147483647"), AtLeast(1), Honoured, FIXED, [],
        "Most members of one classic group.";
    "group.min.session.timeout.ms" Int Some("6000"), Any, Honoured, FIXED, [],
        "Shortest session timeout a member may ask for, in milliseconds.";
    "group.share.assignment.interval.ms" Int Some("1000"), AtLeast(0), Accepted, DYNAMIC, [],
        "Shortest time between assignments of one share group, in milliseconds.";
    "group.share.assignors" List Some("simple"), Any, Accepted, FIXED, [],
        "Assignors of share groups.";
    "group.share.delivery.count.limit" Int Some("5"), Range(2, 10), Accepted, FIXED, [],
        "Deliveries of one record to a share group before it is given up.";
    "group.share.heartbeat.interval.ms" Int Some("5000"), AtLeast(1), Accepted, FIXED, [],
        "Heartbeat interval of share group members, in milliseconds.";
    "group.share.max.assignment.interval.ms" Int Some("15000"), AtLeast(0), Accepted, FIXED, [],
        "Upper bound of the assignment interval a share group may configure.";
    "group.share.max.delivery.count.limit" Int Some("10"), Range(5, 25), Accepted, FIXED, [],
        "Upper bound of the delivery count a share group may configure.";
    "group.share.max.heartbeat.interval.ms" Int Some("15000"), AtLeast(1), Accepted, FIXED, [],
        "Upper bound of the heartbeat interval a share group may configure.";
    "group.share.max.partition.max.record.locks" Int Some("4000"), Range(2000, 10000), Accepted, FIXED, [],
        "Upper bound of the record locks a share group may configure.";
    "group.share.max.record.lock.duration.ms" Int Some("60000"), Range(30000, 3600000), Accepted, FIXED, [],
        "Upper bound of the lock duration a share group may configure.";
    "group.share.max.session.timeout.ms" Int Some("60000"), AtLeast(1), Accepted, FIXED, [],
        "Upper bound of the session timeout a share group may configure.";
    "group.share.max.share.sessions" Int Some("2000"), AtLeast(1), Accepted, FIXED, [],
        "Most share sessions of this broker.";
    "group.share.max.size" Int Some("200"), Range(1, 1000), Accepted, FIXED, [],
        "Most members of one share group.";
    "group.share.min.assignment.interval.ms" Int Some("0"), AtLeast(0), Accepted, FIXED, [],
        "Lower bound of the assignment interval a share group may configure.";
    "group.share.min.delivery.count.limit" Int Some("2"), Range(2, 5), Accepted, FIXED, [],
        "Lower bound of the delivery count a share group may configure.";
    "group.share.min.heartbeat.interval.ms" Int Some("5000"), AtLeast(1), Accepted, FIXED, [],
        "Lower bound of the heartbeat interval a share group may configure.";
    "group.share.min.partition.max.record.locks" Int Some("100"), Range(100, 2000), Accepted, FIXED, [],
        "Lower bound of the record locks a share group may configure.";
    "group.share.min.record.lock.duration.ms" Int Some("15000"), Range(1000, 30000), Accepted, FIXED, [],
        "Lower bound of the lock duration a share group may configure.";
    "group.share.min.session.timeout.ms" Int Some("45000"), AtLeast(1), Accepted, FIXED, [],
        "Lower bound of the session timeout a share group may configure.";
    "group.share.partition.max.record.locks" Int Some("2000"), Range(100, 10000), Accepted, FIXED, [],
        "Records of one partition a share group may hold locked.";
    "group.share.record.lock.duration.ms" Int Some("30000"), Range(1000, 3600000), Accepted, FIXED, [],
        "Milliseconds a share group member holds a record.";
    "group.share.session.timeout.ms" Int Some("45000"), AtLeast(1), Accepted, FIXED, [],
        "Session timeout of share group members, in milliseconds.";
    "group.streams.assignment.interval.ms" Int Some("1000"), AtLeast(0), Accepted, DYNAMIC, [],
        "Shortest time between assignments of one streams group, in milliseconds.";
    "group.streams.heartbeat.interval.ms" Int Some("5000"), AtLeast(1), Accepted, FIXED, [],
        "Heartbeat interval of streams group members, in milliseconds.";
    "group.streams.initial.rebalance.delay.ms" Int Some("3000"), AtLeast(0), Accepted, FIXED, [],
        "Milliseconds the first rebalance of a streams group waits for more members.";
    "group.streams.max.assignment.interval.ms" Int Some("15000"), AtLeast(0), Accepted, FIXED, [],
        "Upper bound of the assignment interval a streams group may configure.";
    "group.streams.max.heartbeat.interval.ms" Int Some("15000"), AtLeast(1), Accepted, FIXED, [],
        "Upper bound of the heartbeat interval a streams group may configure.";
    "group.streams.max.session.timeout.ms" Int Some("60000"), AtLeast(1), Accepted, FIXED, [],
        "Upper bound of the session timeout a streams group may configure.";
    "group.streams.max.size" Int Some("2147483647"), AtLeast(1), Accepted, FIXED, [],
        "Most members of one streams group.";
    "group.streams.max.standby.replicas" Int Some("2"), AtLeast(0), Accepted, FIXED, [],
        "Upper bound of the standby replicas a streams group may configure.";
    "group.streams.min.assignment.interval.ms" Int Some("0"), AtLeast(0), Accepted, FIXED, [],
        "Lower bound of the assignment interval a streams group may configure.";
    "group.streams.min.heartbeat.interval.ms" Int Some("5000"), AtLeast(1), Accepted, FIXED, [],
        "Lower bound of the heartbeat interval a streams group may configure.";
    "group.streams.min.session.timeout.ms" Int Some("45000"), AtLeast(1), Accepted, FIXED, [],
        "Lower bound of the session timeout a streams group may configure.";
    "group.streams.num.standby.replicas" Int Some("0"), AtLeast(0), Accepted, FIXED, [],
        "Standby replicas of each task of a streams group.";
    "group.streams.session.timeout.ms" Int Some("45000"), AtLeast(1), Accepted, FIXED, [],
        "Session timeout of streams group members, in milliseconds.";
    "initial.broker.registration.timeout.ms" Int Some("60000"), Any, Honoured, FIXED, [],
        "Milliseconds a broker tries to register before it gives up.";
    "inter.broker.listener.name" String None, Any, Honoured, FIXED, [],
        "The listener brokers use among themselves.";
    "inter.broker.protocol.version" String None, Any, Accepted, FIXED, [],
        "Removed in Kafka 4.0. No effect.";
    "kafka.metrics.polling.interval.secs" Int Some("10"), AtLeast(1), Accepted, FIXED, [],
        "Seconds between reports of metrics. No effect: metrics are scraped.";
    "kafka.metrics.reporters" List Some(""), Any, Accepted, FIXED, [],
        "Reporter classes for metrics. No effect: metrics are scraped.";
    "leader.imbalance.check.interval.seconds" Long Some("300"), AtLeast(1), Honoured, FIXED, [],
        "Seconds between checks of preferred leadership.";
    "leader.imbalance.per.broker.percentage" Int None, Any, Accepted, FIXED, [],
        "Removed in Kafka 4.0. No effect.";
    "leader.replication.throttled.rate" Long Some("9223372036854775807"), AtLeast(0), Accepted, DYNAMIC, [],
        "Bytes a second a leader sends to throttled replicas.";
    "listener.security.protocol.map" String Some("SASL_SSL:SASL_SSL,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT"), Any, Honoured, FIXED, [],
        "The security protocol of each listener name.";
    "listeners" List Some("PLAINTEXT://:9092"), Any, Honoured, FIXED, [],
        "The endpoints to open, as NAME://host:port. Only PLAINTEXT can be served yet.";
    "log.cleaner.backoff.ms" Long Some("15000"), AtLeast(0), Honoured, DYNAMIC, [],
        "Milliseconds the log cleaner sleeps when nothing is to be cleaned.";
    "log.cleaner.dedupe.buffer.size" Long Some("134217728"), Any, Honoured, FIXED, [],
        "Bytes for the log cleaner's map of keys, over all shards: a part of the memory budget, which is split at the start.";
    "log.cleaner.delete.retention.ms" Long Some("86400000"), AtLeast(0), Honoured, DYNAMIC, [],
        "Default of the topic configuration delete.retention.ms.";
    "log.cleaner.enable" Boolean Some("true"), Any, Honoured, FIXED, [],
        "Whether compacted topics are compacted.";
    "log.cleaner.io.buffer.load.factor" Double Some("0.9"), Any, Accepted, DYNAMIC, [],
        "How full the log cleaner's map of keys may get.";
    "log.cleaner.io.buffer.size" Int Some("524288"), AtLeast(0), Accepted, DYNAMIC, [],
        "Bytes for the log cleaner's reads and writes.";
    "log.cleaner.io.max.bytes.per.second" Double Some("1.7976931348623157E308"), Any, Honoured, DYNAMIC, [],
        "Most bytes a second the log cleaner reads and writes.";
    "log.cleaner.max.compaction.lag.ms" Long Some("9223372036854775807"), AtLeast(1), Honoured, DYNAMIC, [],
        "Default of the topic configuration max.compaction.lag.ms.";
    "log.cleaner.min.cleanable.ratio" Double Some("0.5"), Fraction, Honoured, DYNAMIC, [],
        "Default of the topic configuration min.cleanable.dirty.ratio.";
    "log.cleaner.min.compaction.lag.ms" Long Some("0"), AtLeast(0), Honoured, DYNAMIC, [],
        "Default of the topic configuration min.compaction.lag.ms.";
    "log.cleaner.threads" Int Some("1"), AtLeast(0), Accepted, DYNAMIC, [],
        "Threads of the log cleaner. No effect: there is one.";
    "log.cleanup.policy" List Some("delete"), EachOf(&["compact", "delete"]), Honoured, DYNAMIC, [],
        "Default of the topic configuration cleanup.policy.";
    "log.dir" List None, Single, Honoured, FIXED, [],
        "The data directory, where log.dirs is not given.";
    "log.dir.failure.timeout.ms" Long Some("30000"), AtLeast(1), Accepted, FIXED, [],
        "Milliseconds before a failed log directory stops the broker. No effect: a failed write stops it at once.";
    "log.dirs" List None, Single, Honoured, FIXED, [],
        "The data directory: exactly one.";
    "log.flush.interval.messages" Long Some("9223372036854775807"), AtLeast(1), Accepted, DYNAMIC, [],
        "Default of the topic configuration flush.messages. No effect: every acknowledged append is durable already.";
    "log.flush.interval.ms" Long None, Any, Accepted, DYNAMIC, [],
        "Default of the topic configuration flush.ms. No effect: every acknowledged append is durable already.";
    "log.flush.offset.checkpoint.interval.ms" Int Some("60000"), AtLeast(0), Accepted, FIXED, [],
        "Milliseconds between checkpoints of recovery points. No effect: recovery reads the journal.";
    "log.flush.scheduler.interval.ms" Long Some("9223372036854775807"), Any, Accepted, FIXED, [],
        "Milliseconds between checks for logs to sync. No effect: every acknowledged append is durable already.";
    "log.flush.start.offset.checkpoint.interval.ms" Int Some("60000"), AtLeast(0), Accepted, FIXED, [],
        "Milliseconds between checkpoints of log start offsets. No effect: they go through the journal.";
    "log.index.interval.bytes" Int Some("4096"), AtLeast(0), Honoured, DYNAMIC, [],
        "Default of the topic configuration index.interval.bytes.";
    "log.index.size.max.bytes" Int Some("10485760"), AtLeast(4), Accepted, DYNAMIC, [],
        "Default of the topic configuration segment.index.bytes.";
    "log.local.retention.bytes" Long Some("-2"), AtLeast(-2), Accepted, DYNAMIC, [],
        "Default of the topic configuration local.retention.bytes.";
    "log.local.retention.ms" Long Some("-2"), AtLeast(-2), Accepted, DYNAMIC, [],
        "Default of the topic configuration local.retention.ms.";
    "log.message.downconversion.enable" Boolean None, Any, Accepted, FIXED, [],
        "Removed in Kafka 4.0. No effect: records are never converted down.";
    "log.message.format.version" String None, Any, Accepted, FIXED, [],
        "Removed in Kafka 4.0. No effect: records are stored in format 2.";
    "log.message.timestamp.after.max.ms" Long Some("3600000"), AtLeast(0), Honoured, DYNAMIC, [],
        "Default of the topic configuration message.timestamp.after.max.ms.";
    "log.message.timestamp.before.max.ms" Long Some("9223372036854775807"), AtLeast(0), Honoured, DYNAMIC, [],
        "Default of the topic configuration message.timestamp.before.max.ms.";
    "log.message.timestamp.difference.max.ms" Long None, Any, Accepted, FIXED, [],
        "Removed in Kafka 4.0, where the before and after bounds replaced it. No effect.";
    "log.message.timestamp.type" String Some("CreateTime"), OneOf(&["CreateTime", "LogAppendTime"]), Honoured, DYNAMIC, [],
        "Default of the topic configuration message.timestamp.type.";
    "log.preallocate" Boolean Some("false"), Any, Accepted, DYNAMIC, [],
        "Default of the topic configuration preallocate.";
    "log.retention.bytes" Long Some("-1"), Any, Honoured, DYNAMIC, [],
        "Default of the topic configuration retention.bytes.";
    "log.retention.check.interval.ms" Long Some("300000"), AtLeast(1), Honoured, FIXED, [],
        "Milliseconds between looks for segments to remove.";
    "log.retention.hours" Int Some("168"), Any, Honoured, FIXED, [],
        "Default of the topic configuration retention.ms, in hours, where neither minutes nor milliseconds are given.";
    "log.retention.minutes" Int None, Any, Honoured, FIXED, [],
        "Default of the topic configuration retention.ms, in minutes, where milliseconds are not given.";
    "log.retention.ms" Long None, Any, Honoured, DYNAMIC, [],
        "Default of the topic configuration retention.ms.";
    "log.roll.hours" Int Some("168"), AtLeast(1), Honoured, FIXED, [],
        "Default of the topic configuration segment.ms, in hours, where milliseconds are not given.";
    "log.roll.jitter.hours" Int Some("0"), AtLeast(0), Accepted, FIXED, [],
        "Default of the topic configuration segment.jitter.ms, in hours.";
    "log.roll.jitter.ms" Long None, Any, Accepted, DYNAMIC, [],
        "Default of the topic configuration segment.jitter.ms.";
    "log.roll.ms" Long None, Any, Honoured, DYNAMIC, [],
        "Default of the topic configuration segment.ms.";
    "log.segment.bytes" Int Some("1073741824"), AtLeast(1048576), Honoured, DYNAMIC, [],
        "Default of the topic configuration segment.bytes.";
    "log.segment.delete.delay.ms" Long Some("60000"), AtLeast(0), Honoured, DYNAMIC, [],
        "Default of the topic configuration file.delete.delay.ms.";
    "max.connection.creation.rate" Int Some("2147483647"), AtLeast(0), Honoured, DYNAMIC, [],
        "New connections accepted in a second; more wait.";
    "max.connections" Int Some("2147483647"), AtLeast(0), Honoured, DYNAMIC, [],
        "Connections open at a time; more wait until one has ended.";
    "max.connections.per.ip" Int Some("2147483647"), AtLeast(0), Honoured, DYNAMIC, [],
        "Connections open at a time from one address.";
    "max.connections.per.ip.overrides" String Some(""), CountOfAddresses, Honoured, DYNAMIC, [],
        "Other bounds for single addresses, as address:count pairs. Names of hosts are not looked up.";
    "max.incremental.fetch.session.cache.slots" Int Some("1000"), AtLeast(0), Accepted, FIXED, [],
        "Fetch sessions kept. No effect: clients are answered that there is no session.";
    "max.request.partition.size.limit" Int Some("2000"), AtLeast(1), Honoured, FIXED, [],
        "Most partitions in one answer to DescribeTopicPartitions.";
    "message.max.bytes" Int Some("1048588"), AtLeast(0), Honoured, DYNAMIC, [],
        "Default of the topic configuration max.message.bytes.";
    "metadata.log.dir" String None, Any, Accepted, FIXED, [],
        "Where the metadata log lies. No effect: it lies in the data directory.";
    "metadata.log.max.record.bytes.between.snapshots" Long Some("20971520"), AtLeast(1), Accepted, FIXED, [],
        "Bytes of metadata records between two snapshots. No effect: the bound is built in.";
    "metadata.log.max.snapshot.interval.ms" Long Some("3600000"), AtLeast(0), Accepted, FIXED, [],
        "Milliseconds between two metadata snapshots. No effect.";
    "metadata.log.segment.bytes" Int Some("1073741824"), AtLeast(8388608), Accepted, FIXED, [],
        "Size of a segment of the metadata log. No effect.";
    "metadata.log.segment.ms" Long Some("604800000"), Any, Accepted, FIXED, [],
        "Age of a segment of the metadata log. No effect.";
    "metadata.max.idle.interval.ms" Int Some("500"), AtLeast(0), Accepted, FIXED, [],
        "Milliseconds between the controller's no-op records. No effect: there are none.";
    "metadata.max.retention.bytes" Long Some("104857600"), Any, Accepted, FIXED, [],
        "Bytes of old metadata kept. No effect.";
    "metadata.max.retention.ms" Long Some("604800000"), Any, Accepted, FIXED, [],
        "Milliseconds old metadata is kept. No effect.";
    "metric.reporters" List Some("org.apache.kafka.common.metrics.JmxReporter"), Any, Accepted, FIXED, [],
        "Reporter classes for metrics. No effect: metrics are scraped.";
    "metrics.num.samples" Int Some("2"), AtLeast(1), Accepted, FIXED, [],
        "Samples kept of a metric. No effect: metrics are scraped.";
    "metrics.recording.level" String Some("INFO"), Any, Accepted, FIXED, [],
        "How many metrics are recorded. No effect: metrics are scraped.";
    "metrics.sample.window.ms" Long Some("30000"), AtLeast(1), Accepted, FIXED, [],
        "Length of one metrics sample in milliseconds. No effect: metrics are scraped.";
    "millstream.extent.bytes" Int Some("65536"), AtLeast(4096), Honoured, FIXED, [],
        "Appends of one partition in one commit of at least this many bytes go straight to the segment.";
    "millstream.free.space.floor.bytes" Long Some("-1"), AtLeast(-1), Honoured, FIXED, [],
        "Free bytes of the file system below which produce requests are refused; -1 is the smaller of 1 GiB and 5 % of it.";
    "millstream.http.listener" String Some("127.0.0.1:9464"), Any, Honoured, FIXED, [],
        "Address of the HTTP endpoint for metrics and health; empty switches it off.";
    "millstream.journal.bytes" Long Some("134217728"), AtLeast(16777216), Honoured, FIXED, [],
        "Bytes of journal of one shard: what a restart reads at most.";
    "millstream.memory.bytes" Long Some("-1"), AtLeast(-1), Honoured, FIXED, [],
        "Bytes of memory that the process may use, from 192 MiB on; -1 is a quarter of the machine's or the control group's.";
    "millstream.poll.us" Int Some("200"), Range(0, 10000), Honoured, FIXED, [],
        "Microseconds that a core whose waits are short polls before it sleeps; 0 never polls.";
    "millstream.shards" Int None, Range(1, 1024), Honoured, FIXED, [],
        "Shards, one a core; the number of cores when nothing is given.";
    "millstream.tail.memory.bytes" Long Some("134217728"), AtLeast(1048576), Honoured, FIXED, [],
        "Bytes of one shard's memory that keep the newest records readable without the disk.";
    "min.insync.replicas" Int Some("1"), AtLeast(1), Honoured, DYNAMIC, [],
        "Default of the topic configuration of this name.";
    "node.id" Int Some("1"), AtLeast(0), Honoured, FIXED, [],
        "This node's number in the cluster; 1 when nothing is given. It cannot change once a data directory has one.";
    "num.io.threads" Int Some("8"), AtLeast(1), Accepted, DYNAMIC, [],
        "Threads that handle requests. No effect: see millstream.shards.";
    "num.network.threads" Int Some("3"), AtLeast(1), Accepted, DYNAMIC, [],
        "Threads that serve connections. No effect: see millstream.shards.";
    "num.partitions" Int Some("1"), AtLeast(1), Honoured, FIXED, [],
        "Partitions of a topic that is created without saying how many.";
    "num.recovery.threads.per.data.dir" Int Some("2"), AtLeast(1), Accepted, DYNAMIC, [],
        "Threads that recover logs at start. No effect: every shard recovers its own.";
    "num.replica.alter.log.dirs.threads" Int None, Any, Accepted, FIXED, [],
        "Threads that move replicas between log directories. No effect.";
    "num.replica.fetchers" Int Some("1"), AtLeast(1), Accepted, DYNAMIC, [],
        "Threads that replicate from each leader. No effect.";
    "offset.metadata.max.bytes" Int Some("4096"), Any, Honoured, FIXED, [],
        "Largest metadata text of an offset commit, in bytes.";
    "offsets.commit.required.acks" Short None, Any, Accepted, FIXED, [],
        "Removed in Kafka 4.0. No effect: offset commits wait for the in-sync replicas.";
    "offsets.commit.timeout.ms" Int Some("5000"), AtLeast(1), Accepted, FIXED, [],
        "Milliseconds an offset commit may wait for its replicas.";
    "offsets.load.buffer.size" Int Some("5242880"), AtLeast(1), Accepted, FIXED, [],
        "Bytes read at a time when a group coordinator loads.";
    "offsets.retention.check.interval.ms" Long Some("600000"), AtLeast(1), Honoured, FIXED, [],
        "Milliseconds between sweeps of expired offsets.";
    "offsets.retention.minutes" Int Some("10080"), AtLeast(1), Honoured, FIXED, [],
        "Minutes that offsets outlive the last member of their group.";
    "offsets.topic.compression.codec" Int Some("0"), Any, Accepted, FIXED, [],
        "Codec of the offsets topic, as a number.";
    "offsets.topic.num.partitions" Int Some("50"), AtLeast(1), Honoured, FIXED, [],
        "Partitions of the offsets topic; it cannot change once the topic exists.";
    "offsets.topic.replication.factor" Short Some("3"), AtLeast(1), Honoured, FIXED, [],
        "Replicas of the offsets topic; fewer where the cluster has fewer brokers.";
    "offsets.topic.segment.bytes" Int Some("104857600"), AtLeast(1), Honoured, FIXED, [],
        "Size of a segment of the offsets topic.";
    "principal.builder.class" Class Some("org.apache.kafka.common.security.authenticator.DefaultKafkaPrincipalBuilder"), Any, Accepted, FIXED, [],
        "A class that derives a client's principal. No effect: there is no authorizer.";
    "process.roles" List None, EachOf(&["broker", "controller"]), Honoured, FIXED, [],
        "The roles of this process: both broker and controller, for nothing else works yet.";
    "producer.id.expiration.ms" Int Some("86400000"), AtLeast(1), Honoured, DYNAMIC, [],
        "Milliseconds after its last write that a producer's sequence state is kept.";
    "producer.purgatory.purge.interval.requests" Int Some("1000"), Any, Accepted, FIXED, [],
        "How often finished produce requests are swept. No effect.";
    "queued.max.request.bytes" Long Some("-1"), Any, Honoured, FIXED, [],
        "Bytes of requests that may wait to be handled; -1 is no limit.";
    "queued.max.requests" Int Some("500"), AtLeast(1), Accepted, FIXED, [],
        "Requests that may wait to be handled. No effect: each connection has its own bound.";
    "quota.window.num" Int Some("11"), AtLeast(1), Honoured, FIXED, [],
        "Samples kept for client quotas.";
    "quota.window.size.seconds" Int Some("1"), AtLeast(1), Honoured, FIXED, [],
        "Length of one such sample in seconds.";
    "remote.fetch.max.wait.ms" Int Some("500"), AtLeast(1), Accepted, DYNAMIC, [],
        "Milliseconds a fetch waits for remote storage. No effect: there is none.";
    "remote.list.offsets.request.timeout.ms" Long Some("30000"), AtLeast(1), Accepted, DYNAMIC, [],
        "Milliseconds a ListOffsets request waits for remote storage. No effect: there is none.";
    "remote.log.index.file.cache.total.size.bytes" Long Some("1073741824"), AtLeast(1), Accepted, DYNAMIC, [],
        "Bytes of cached remote indexes. No effect: there is no remote storage.";
    "remote.log.manager.copier.thread.pool.size" Int Some("10"), AtLeast(1), Accepted, DYNAMIC, [],
        "Threads that copy to remote storage. No effect: there is none.";
    "remote.log.manager.copy.max.bytes.per.second" Long Some("9223372036854775807"), AtLeast(1), Accepted, DYNAMIC, [],
        "Bytes a second copied to remote storage. No effect: there is none.";
    "remote.log.manager.copy.quota.window.num" Int Some("11"), AtLeast(1), Accepted, FIXED, [],
        "Samples of the remote copy quota. No effect.";
    "remote.log.manager.copy.quota.window.size.seconds" Int Some("1"), AtLeast(1), Accepted, FIXED, [],
        "Length of one such sample in seconds. No effect.";
    "remote.log.manager.expiration.thread.pool.size" Int Some("10"), AtLeast(1), Accepted, DYNAMIC, [],
        "Threads that expire remote data. No effect.";
    "remote.log.manager.fetch.max.bytes.per.second" Long Some("9223372036854775807"), AtLeast(1), Accepted, DYNAMIC, [],
        "Bytes a second fetched from remote storage. No effect: there is none.";
    "remote.log.manager.fetch.quota.window.num" Int Some("11"), AtLeast(1), Accepted, FIXED, [],
        "Samples of the remote fetch quota. No effect.";
    "remote.log.manager.fetch.quota.window.size.seconds" Int Some("1"), AtLeast(1), Accepted, FIXED, [],
        "Length of one such sample in seconds. No effect.";
    "remote.log.manager.follower.thread.pool.size" Int Some("2"), AtLeast(1), Accepted, DYNAMIC, [],
        "Threads that follow remote data. No effect.";
    "remote.log.manager.task.interval.ms" Long Some("30000"), AtLeast(1), Accepted, FIXED, [],
        "Milliseconds between remote storage tasks. No effect.";
    "remote.log.manager.thread.pool.size" Int Some("2"), AtLeast(1), Accepted, FIXED, [],
        "Threads of remote storage tasks. No effect.";
    "remote.log.metadata.custom.metadata.max.bytes" Int Some("128"), AtLeast(0), Accepted, FIXED, [],
        "Bytes of custom metadata of a remote segment. No effect.";
    "remote.log.metadata.manager.class.name" String Some("org.apache.kafka.server.log.remote.metadata.storage.TopicBasedRemoteLogMetadataManager"), Any, Accepted, FIXED, [],
        "Class of the remote metadata store. No effect: there is no remote storage.";
    "remote.log.metadata.manager.class.path" String None, Any, Accepted, FIXED, [],
        "Class path of the remote metadata store. No effect.";
    "remote.log.metadata.manager.impl.prefix" String Some("rlmm.config."), Any, Accepted, FIXED, [],
        "Prefix of the remote metadata store's settings. No effect.";
    "remote.log.metadata.manager.listener.name" String None, Any, Accepted, FIXED, [],
        "Listener of the remote metadata store. No effect.";
    "remote.log.reader.max.pending.tasks" Int Some("100"), AtLeast(1), Accepted, FIXED, [],
        "Remote reads that may wait. No effect.";
    "remote.log.reader.threads" Int Some("10"), AtLeast(1), Accepted, DYNAMIC, [],
        "Threads that read from remote storage. No effect.";
    "remote.log.storage.manager.class.name" String None, Any, Accepted, FIXED, [],
        "Class of the remote store. No effect: there is no remote storage.";
    "remote.log.storage.manager.class.path" String None, Any, Accepted, FIXED, [],
        "Class path of the remote store. No effect.";
    "remote.log.storage.manager.impl.prefix" String Some("rsm.config."), Any, Accepted, FIXED, [],
        "Prefix of the remote store's settings. No effect.";
    "remote.log.storage.system.enable" Boolean Some("false"), Any, Refused("there is no remote storage: everything stays on the local disk"), FIXED, [],
        "Tiered storage.";
    "replica.alter.log.dirs.io.max.bytes.per.second" Long Some("9223372036854775807"), AtLeast(0), Accepted, DYNAMIC, [],
        "Bytes a second of moves between log directories. No effect.";
    "replica.fetch.backoff.ms" Int Some("1000"), AtLeast(0), Accepted, FIXED, [],
        "Milliseconds a follower waits after a failed fetch.";
    "replica.fetch.max.bytes" Int Some("1048576"), AtLeast(0), Accepted, FIXED, [],
        "Bytes of one partition a follower fetches at once.";
    "replica.fetch.min.bytes" Int Some("1"), Any, Accepted, FIXED, [],
        "Fewest bytes a follower's fetch waits for.";
    "replica.fetch.response.max.bytes" Int Some("10485760"), AtLeast(0), Accepted, FIXED, [],
        "Most bytes of one response to a follower.";
    "replica.fetch.wait.max.ms" Int Some("500"), Any, Accepted, FIXED, [],
        "Milliseconds a follower's fetch waits for data.";
    "replica.high.watermark.checkpoint.interval.ms" Long Some("5000"), Any, Accepted, FIXED, [],
        "Milliseconds between checkpoints of high watermarks. No effect: they are recovered from the journal.";
    "replica.lag.time.max.ms" Long Some("30000"), Any, Honoured, FIXED, [],
        "Milliseconds a follower may lag before it leaves the in-sync set.";
    "replica.selector.class" String None, Any, Accepted, FIXED, [],
        "How the replica that serves a consumer is chosen.";
    "replica.socket.receive.buffer.bytes" Int Some("65536"), Any, Accepted, FIXED, [],
        "Receive buffer of connections between brokers, in bytes.";
    "replica.socket.timeout.ms" Int Some("30000"), Any, Accepted, FIXED, [],
        "Milliseconds a request between brokers may take.";
    "replication.quota.window.num" Int Some("11"), AtLeast(1), Accepted, FIXED, [],
        "Samples kept for replication quotas.";
    "replication.quota.window.size.seconds" Int Some("1"), AtLeast(1), Accepted, FIXED, [],
        "Length of one such sample in seconds.";
    "request.timeout.ms" Int Some("30000"), Any, Accepted, FIXED, [],
        "Milliseconds a request this broker sends may take.";
    "reserved.broker.max.id" Int None, Any, Accepted, FIXED, [],
        "Removed in Kafka 4.0. No effect.";
    "sasl.client.callback.handler.class" Class None, Any, Accepted, FIXED, [],
        "SASL: client callback class. No effect without a SASL listener.";
    "sasl.enabled.mechanisms" List Some("GSSAPI"), Any, Accepted, FIXED, [],
        "SASL: mechanisms offered. No effect without a SASL listener.";
    "sasl.jaas.config" Password None, Any, Accepted, FIXED, [],
        "SASL: login settings. No effect without a SASL listener.";
    "sasl.kerberos.kinit.cmd" String Some("/usr/bin/kinit"), Any, Accepted, FIXED, [],
        "SASL: path of kinit. No effect without a SASL listener.";
    "sasl.kerberos.min.time.before.relogin" Long Some("60000"), Any, Accepted, FIXED, [],
        "SASL: milliseconds between Kerberos logins. No effect without a SASL listener.";
    "sasl.kerberos.principal.to.local.rules" List Some("DEFAULT"), Any, Accepted, FIXED, [],
        "SASL: rules from Kerberos principals to names. No effect without a SASL listener.";
    "sasl.kerberos.service.name" String None, Any, Accepted, FIXED, [],
        "SASL: Kerberos service name. No effect without a SASL listener.";
    "sasl.kerberos.ticket.renew.jitter" Double Some("0.05"), Any, Accepted, FIXED, [],
        "SASL: jitter of ticket renewal. No effect without a SASL listener.";
    "sasl.kerberos.ticket.renew.window.factor" Double Some("0.8"), Any, Accepted, FIXED, [],
        "SASL: share of a ticket's life before renewal. No effect without a SASL listener.";
    "sasl.login.callback.handler.class" Class None, Any, Accepted, FIXED, [],
        "SASL: login callback class. No effect without a SASL listener.";
    "sasl.login.class" Class None, Any, Accepted, FIXED, [],
        "SASL: login class. No effect without a SASL listener.";
    "sasl.login.connect.timeout.ms" Int None, Any, Accepted, FIXED, [],
        "SASL: milliseconds to connect to the identity provider. No effect without a SASL listener.";
    "sasl.login.read.timeout.ms" Int None, Any, Accepted, FIXED, [],
        "SASL: milliseconds to read from the identity provider. No effect without a SASL listener.";
    "sasl.login.refresh.buffer.seconds" Short Some("300"), Any, Accepted, FIXED, [],
        "SASL: seconds before expiry that a credential is renewed. No effect without a SASL listener.";
    "sasl.login.refresh.min.period.seconds" Short Some("60"), Any, Accepted, FIXED, [],
        "SASL: fewest seconds between renewals. No effect without a SASL listener.";
    "sasl.login.refresh.window.factor" Double Some("0.8"), Any, Accepted, FIXED, [],
        "SASL: share of a credential's life before renewal. No effect without a SASL listener.";
    "sasl.login.refresh.window.jitter" Double Some("0.05"), Any, Accepted, FIXED, [],
        "SASL: jitter of that share. No effect without a SASL listener.";
    "sasl.login.retry.backoff.max.ms" Long Some("10000"), Any, Accepted, FIXED, [],
        "SASL: longest wait between login tries, in milliseconds. No effect without a SASL listener.";
    "sasl.login.retry.backoff.ms" Long Some("100"), Any, Accepted, FIXED, [],
        "SASL: first wait between login tries, in milliseconds. No effect without a SASL listener.";
    "sasl.mechanism.controller.protocol" String Some("GSSAPI"), Any, Accepted, FIXED, [],
        "SASL: mechanism towards controllers. No effect without a SASL listener.";
    "sasl.mechanism.inter.broker.protocol" String Some("GSSAPI"), Any, Accepted, FIXED, [],
        "SASL: mechanism between brokers. No effect without a SASL listener.";
    "sasl.oauthbearer.assertion.algorithm" String Some("RS256"), OneOfAnyCase(&["ES256", "RS256"]), Accepted, FIXED, [],
        "OAuth: algorithm that signs assertions. No effect without a SASL listener.";
    "sasl.oauthbearer.assertion.claim.aud" String None, Any, Accepted, FIXED, [],
        "OAuth: audience claim of assertions. No effect without a SASL listener.";
    "sasl.oauthbearer.assertion.claim.exp.seconds" Int Some("300"), Range(0, 86400), Accepted, FIXED, [],
        "OAuth: seconds an assertion is valid. No effect without a SASL listener.";
    "sasl.oauthbearer.assertion.claim.iss" String None, Any, Accepted, FIXED, [],
        "OAuth: issuer claim of assertions. No effect without a SASL listener.";
    "sasl.oauthbearer.assertion.claim.jti.include" Boolean Some("false"), Any, Accepted, FIXED, [],
        "OAuth: whether assertions carry an identity. No effect without a SASL listener.";
    "sasl.oauthbearer.assertion.claim.nbf.seconds" Int Some("60"), Range(0, 3600), Accepted, FIXED, [],
        "OAuth: seconds an assertion is dated back. No effect without a SASL listener.";
    "sasl.oauthbearer.assertion.claim.sub" String None, Any, Accepted, FIXED, [],
        "OAuth: subject claim of assertions. No effect without a SASL listener.";
    "sasl.oauthbearer.assertion.file" String None, Any, Accepted, FIXED, [],
        "OAuth: file with an assertion. No effect without a SASL listener.";
    "sasl.oauthbearer.assertion.private.key.file" String None, Any, Accepted, FIXED, [],
        "OAuth: file with the key for assertions. No effect without a SASL listener.";
    "sasl.oauthbearer.assertion.private.key.passphrase" Password None, Any, Accepted, FIXED, [],
        "OAuth: passphrase of that key. No effect without a SASL listener.";
    "sasl.oauthbearer.assertion.template.file" String None, Any, Accepted, FIXED, [],
        "OAuth: template of assertions. No effect without a SASL listener.";
    "sasl.oauthbearer.client.credentials.client.id" String None, Any, Accepted, FIXED, [],
        "OAuth: client id. No effect without a SASL listener.";
    "sasl.oauthbearer.client.credentials.client.secret" Password None, Any, Accepted, FIXED, [],
        "OAuth: client secret. No effect without a SASL listener.";
    "sasl.oauthbearer.clock.skew.seconds" Int Some("30"), Any, Accepted, FIXED, [],
        "OAuth: seconds clocks may differ. No effect without a SASL listener.";
    "sasl.oauthbearer.expected.audience" List Some(""), Any, Accepted, FIXED, [],
        "OAuth: audiences accepted. No effect without a SASL listener.";
    "sasl.oauthbearer.expected.issuer" String None, Any, Accepted, FIXED, [],
        "OAuth: issuer accepted. No effect without a SASL listener.";
    "sasl.oauthbearer.jwks.endpoint.refresh.ms" Long Some("3600000"), Any, Accepted, FIXED, [],
        "OAuth: milliseconds between fetches of the key set. No effect without a SASL listener.";
    "sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms" Long Some("10000"), Any, Accepted, FIXED, [],
        "OAuth: longest wait between tries of that fetch. No effect without a SASL listener.";
    "sasl.oauthbearer.jwks.endpoint.retry.backoff.ms" Long Some("100"), Any, Accepted, FIXED, [],
        "OAuth: first wait between tries of that fetch. No effect without a SASL listener.";
    "sasl.oauthbearer.jwks.endpoint.url" String None, Any, Accepted, FIXED, [],
        "OAuth: where the key set lies. No effect without a SASL listener.";
    "sasl.oauthbearer.jwt.retriever.class" Class Some("org.apache.kafka.common.security.oauthbearer.DefaultJwtRetriever"), Any, Accepted, FIXED, [],
        "OAuth: class that gets tokens. No effect without a SASL listener.";
    "sasl.oauthbearer.jwt.validator.class" Class Some("org.apache.kafka.common.security.oauthbearer.DefaultJwtValidator"), Any, Accepted, FIXED, [],
        "OAuth: class that checks tokens. No effect without a SASL listener.";
    "sasl.oauthbearer.scope" String None, Any, Accepted, FIXED, [],
        "OAuth: scope asked for. No effect without a SASL listener.";
    "sasl.oauthbearer.scope.claim.name" String Some("scope"), Any, Accepted, FIXED, [],
        "OAuth: name of the scope claim. No effect without a SASL listener.";
    "sasl.oauthbearer.sub.claim.name" String Some("sub"), Any, Accepted, FIXED, [],
        "OAuth: name of the subject claim. No effect without a SASL listener.";
    "sasl.oauthbearer.token.endpoint.url" String None, Any, Accepted, FIXED, [],
        "OAuth: where tokens are got. No effect without a SASL listener.";
    "sasl.server.callback.handler.class" Class None, Any, Accepted, FIXED, [],
        "SASL: server callback class. No effect without a SASL listener.";
    "sasl.server.max.receive.size" Int Some("524288"), Any, Accepted, FIXED, [],
        "SASL: largest frame before authentication, in bytes. No effect without a SASL listener.";
    "security.inter.broker.protocol" String Some("PLAINTEXT"), OneOf(&["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]), Accepted, FIXED, [],
        "The security protocol between brokers.";
    "security.providers" String None, Any, Accepted, FIXED, [],
        "Java security providers. No effect.";
    "share.coordinator.append.linger.ms" Int Some("-1"), AtLeast(-1), Accepted, FIXED, [],
        "Milliseconds the share coordinator gathers writes. No effect.";
    "share.coordinator.cached.buffer.max.bytes" Int Some("1048588"), AtLeast(524288), Accepted, DYNAMIC, [],
        "Largest write buffer the share coordinator keeps. No effect.";
    "share.coordinator.load.buffer.size" Int Some("5242880"), AtLeast(1), Accepted, FIXED, [],
        "Bytes read at a time when a share coordinator loads. No effect.";
    "share.coordinator.snapshot.update.records.per.snapshot" Int Some("500"), Range(0, 500), Accepted, FIXED, [],
        "Updates between snapshots of share state. No effect.";
    "share.coordinator.state.topic.compression.codec" Int Some("0"), Any, Accepted, FIXED, [],
        "Codec of the share state topic. No effect.";
    "share.coordinator.state.topic.min.isr" Short Some("2"), AtLeast(1), Accepted, FIXED, [],
        "In-sync replicas the share state topic needs. No effect.";
    "share.coordinator.state.topic.num.partitions" Int Some("50"), AtLeast(1), Accepted, FIXED, [],
        "Partitions of the share state topic. No effect.";
    "share.coordinator.state.topic.replication.factor" Short Some("3"), AtLeast(1), Accepted, FIXED, [],
        "Replicas of the share state topic. No effect.";
    "share.coordinator.state.topic.segment.bytes" Int Some("104857600"), AtLeast(1), Accepted, FIXED, [],
        "Size of a segment of the share state topic. No effect.";
    "share.coordinator.threads" Int Some("1"), AtLeast(1), Accepted, FIXED, [],
        "Threads of the share coordinator. No effect.";
    "share.coordinator.write.timeout.ms" Int Some("5000"), AtLeast(1), Accepted, FIXED, [],
        "Milliseconds a write of share state may take. No effect.";
    "share.fetch.purgatory.purge.interval.requests" Int Some("1000"), Any, Accepted, FIXED, [],
        "How often finished share fetches are swept. No effect.";
    "socket.connection.setup.timeout.max.ms" Long Some("30000"), Any, Accepted, FIXED, [],
        "Longest time to open a connection to another node, in milliseconds.";
    "socket.connection.setup.timeout.ms" Long Some("10000"), Any, Accepted, FIXED, [],
        "First time allowed to open a connection to another node, in milliseconds.";
    "socket.listen.backlog.size" Int Some("50"), AtLeast(1), Honoured, FIXED, [],
        "Connections that may wait to be accepted.";
    "socket.receive.buffer.bytes" Int Some("102400"), Any, Honoured, FIXED, [],
        "Receive buffer of client sockets in bytes; -1 leaves it to the system.";
    "socket.request.max.bytes" Int Some("104857600"), AtLeast(1), Honoured, FIXED, [],
        "Largest request in bytes; a connection that sends a larger one is closed.";
    "socket.send.buffer.bytes" Int Some("102400"), Any, Honoured, FIXED, [],
        "Send buffer of client sockets in bytes; -1 leaves it to the system.";
    "ssl.allow.dn.changes" Boolean Some("false"), Any, Accepted, FIXED, [],
        "TLS: whether a renewed certificate may change its name. No effect without a TLS listener.";
    "ssl.allow.san.changes" Boolean Some("false"), Any, Accepted, FIXED, [],
        "TLS: whether a renewed certificate may change its alternative names. No effect without a TLS listener.";
    "ssl.cipher.suites" List Some(""), Any, Accepted, FIXED, [],
        "TLS: cipher suites. No effect without a TLS listener.";
    "ssl.client.auth" String Some("none"), OneOf(&["required", "requested", "none"]), Accepted, FIXED, [],
        "TLS: whether clients must show a certificate. No effect without a TLS listener.";
    "ssl.enabled.protocols" List Some("TLSv1.2,TLSv1.3"), Any, Accepted, FIXED, [],
        "TLS: versions offered. No effect without a TLS listener.";
    "ssl.endpoint.identification.algorithm" String Some("https"), Any, Accepted, FIXED, [],
        "TLS: how host names are checked. No effect without a TLS listener.";
    "ssl.engine.factory.class" Class None, Any, Accepted, FIXED, [],
        "TLS: class that makes engines. No effect without a TLS listener.";
    "ssl.key.password" Password None, Any, Accepted, FIXED, [],
        "TLS: password of the private key. No effect without a TLS listener.";
    "ssl.keymanager.algorithm" String Some("SunX509"), Any, Accepted, FIXED, [],
        "TLS: algorithm of the key manager. No effect without a TLS listener.";
    "ssl.keystore.certificate.chain" Password None, Any, Accepted, FIXED, [],
        "TLS: certificate chain in PEM. No effect without a TLS listener.";
    "ssl.keystore.key" Password None, Any, Accepted, FIXED, [],
        "TLS: private key in PEM. No effect without a TLS listener.";
    "ssl.keystore.location" String None, Any, Accepted, FIXED, [],
        "TLS: file with key and certificates. No effect without a TLS listener.";
    "ssl.keystore.password" Password None, Any, Accepted, FIXED, [],
        "TLS: password of that file. No effect without a TLS listener.";
    "ssl.keystore.type" String Some("JKS"), Any, Accepted, FIXED, [],
        "TLS: format of that file. No effect without a TLS listener.";
    "ssl.principal.mapping.rules" String Some("DEFAULT"), Any, Accepted, FIXED, [],
        "TLS: rules from certificate names to principals. No effect without a TLS listener.";
    "ssl.protocol" String Some("TLSv1.3"), Any, Accepted, FIXED, [],
        "TLS: version used first. No effect without a TLS listener.";
    "ssl.provider" String None, Any, Accepted, FIXED, [],
        "TLS: Java security provider. No effect without a TLS listener.";
    "ssl.secure.random.implementation" String None, Any, Accepted, FIXED, [],
        "TLS: source of randomness. No effect without a TLS listener.";
    "ssl.trustmanager.algorithm" String Some("PKIX"), Any, Accepted, FIXED, [],
        "TLS: algorithm of the trust manager. No effect without a TLS listener.";
    "ssl.truststore.certificates" Password None, Any, Accepted, FIXED, [],
        "TLS: trusted certificates in PEM. No effect without a TLS listener.";
    "ssl.truststore.location" String None, Any, Accepted, FIXED, [],
        "TLS: file with trusted certificates. No effect without a TLS listener.";
    "ssl.truststore.password" Password None, Any, Accepted, FIXED, [],
        "TLS: password of that file. No effect without a TLS listener.";
    "ssl.truststore.type" String Some("JKS"), Any, Accepted, FIXED, [],
        "TLS: format of that file. No effect without a TLS listener.";
    "super.users" String None, Any, Accepted, FIXED, [],
        "Principals that no authorizer refuses. No effect: there is no authorizer.";
    "telemetry.max.bytes" Int Some("1048576"), AtLeast(1), Accepted, FIXED, [],
        "Largest report of client metrics, in bytes. No effect.";
    "transaction.abort.timed.out.transaction.cleanup.interval.ms" Int Some("10000"), AtLeast(1), Accepted, FIXED, [],
        "Milliseconds between sweeps of timed-out transactions.";
    "transaction.max.timeout.ms" Int Some("900000"), AtLeast(1), Accepted, FIXED, [],
        "Longest transaction timeout a producer may ask for, in milliseconds.";
    "transaction.partition.verification.enable" Boolean Some("true"), Any, Accepted, DYNAMIC, [],
        "Whether a transactional write is checked against the coordinator.";
    "transaction.remove.expired.transaction.cleanup.interval.ms" Int Some("3600000"), AtLeast(1), Accepted, FIXED, [],
        "Milliseconds between sweeps of expired transactional ids.";
    "transaction.state.log.load.buffer.size" Int Some("5242880"), AtLeast(1), Accepted, FIXED, [],
        "Bytes read at a time when a transaction coordinator loads.";
    "transaction.state.log.min.isr" Int Some("2"), AtLeast(1), Accepted, FIXED, [],
        "In-sync replicas the transaction topic needs.";
    "transaction.state.log.num.partitions" Int Some("50"), AtLeast(1), Accepted, FIXED, [],
        "Partitions of the transaction topic.";
    "transaction.state.log.replication.factor" Short Some("3"), AtLeast(1), Accepted, FIXED, [],
        "Replicas of the transaction topic; fewer where the cluster has fewer brokers.";
    "transaction.state.log.segment.bytes" Int Some("104857600"), AtLeast(1), Accepted, FIXED, [],
        "Size of a segment of the transaction topic.";
    "transaction.two.phase.commit.enable" Boolean Some("false"), Any, Refused("two-phase commit by clients is not supported"), FIXED, [],
        "Whether clients may hold transactions open without a timeout.";
    "transactional.id.expiration.ms" Int Some("604800000"), AtLeast(1), Accepted, FIXED, [],
        "Milliseconds an unused transactional id is kept.";
    "unclean.leader.election.enable" Boolean Some("false"), Any, Accepted, DYNAMIC, [],
        "Default of the topic configuration of this name.";
    "zookeeper.connect" String None, Any, Accepted, FIXED, [],
        "Removed in Kafka 4.0. No effect: the cluster keeps its own metadata.";
    "zookeeper.connection.timeout.ms" Int None, Any, Accepted, FIXED, [],
        "Removed in Kafka 4.0. No effect.";
    "zookeeper.session.timeout.ms" Int None, Any, Accepted, FIXED, [],
        "Removed in Kafka 4.0. No effect.";
}
