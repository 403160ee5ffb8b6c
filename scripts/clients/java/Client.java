import java.time.Duration;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ListOffsetsResult.ListOffsetsResultInfo;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaFuture;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.errors.InvalidPartitionsException;
import org.apache.kafka.common.errors.OffsetOutOfRangeException;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** The Java client. Arguments: README.md beside this folder. */
public final class Client {
    private static final long TIMEOUT_SECONDS = 20;
    /** Nothing new for this long ends a run with a failure. */
    private static final long IDLE_MS_MAX = 30_000;

    @SuppressWarnings("serial")
    private static final class Failed extends RuntimeException {
        Failed(String message) {
            super(message);
        }
    }

    private static void check(boolean ok, String message) {
        if (!ok) {
            throw new Failed(message);
        }
    }

    private static <T> T get(KafkaFuture<T> future) throws Exception {
        return future.get(TIMEOUT_SECONDS, TimeUnit.SECONDS);
    }

    private static Admin admin(String bootstrap) {
        return Admin.create(Map.of("bootstrap.servers", bootstrap, "request.timeout.ms", "10000", "default.api.timeout.ms", "20000"));
    }

    private static Map<TopicPartition, Long> offsets(Admin admin, String topic, int partitions, OffsetSpec spec) throws Exception {
        Map<TopicPartition, OffsetSpec> wanted = IntStream.range(0, partitions).boxed().collect(Collectors.toMap(p -> new TopicPartition(topic, p), p -> spec));
        Map<TopicPartition, Long> found = new HashMap<>();
        for (Map.Entry<TopicPartition, ListOffsetsResultInfo> entry : get(admin.listOffsets(wanted).all()).entrySet()) {
            found.put(entry.getKey(), entry.getValue().offset());
        }
        return found;
    }

    private static TopicDescription waitForLeaders(Admin admin, String topic, int partitions) throws Exception {
        for (long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(TIMEOUT_SECONDS); ; Thread.sleep(50)) {
            try {
                TopicDescription described = get(admin.describeTopics(List.of(topic)).allTopicNames()).get(topic);
                if (described.partitions().size() == partitions && described.partitions().stream().allMatch(p -> p.leader() != null)) {
                    // Kafka may name a leader before that leader has its log; a produce with acks=0 in between is lost without
                    // a word. This call tries again until every leader has answered.
                    offsets(admin, topic, partitions, OffsetSpec.latest());
                    return described;
                }
            } catch (ExecutionException e) {
                check(e.getCause() instanceof UnknownTopicOrPartitionException, topic + ": " + e.getCause());
            }
            check(System.nanoTime() < deadline, topic + ": no leaders");
        }
    }

    private static Admin createTopic(String bootstrap, String topic, int partitions, Map<String, String> configs) throws Exception {
        Admin admin = admin(bootstrap);
        // As many replicas as the brokers' default.replication.factor says.
        get(admin.createTopics(List.of(new NewTopic(topic, Optional.of(partitions), Optional.empty()).configs(configs))).all());
        waitForLeaders(admin, topic, partitions);
        return admin;
    }

    private static KafkaProducer<byte[], byte[]> producer(String bootstrap, String codec, String acks) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        properties.put("compression.type", codec);
        properties.put("acks", acks);
        properties.put("enable.idempotence", Boolean.toString(acks.equals("all")));
        properties.put("linger.ms", "10");
        properties.put("batch.size", "131072");
        return new KafkaProducer<>(properties, new ByteArraySerializer(), new ByteArraySerializer());
    }

    /** A pace is in records a second; 0 for as fast as it goes. */
    private static void produce(String bootstrap, String topic, int partitions, int count, String codec, String acks, String style, int pace) throws Exception {
        createTopic(bootstrap, topic, partitions, Map.of("retention.ms", "-1")).close();
        Content content = new Content(topic, style);
        AtomicReference<String> problem = new AtomicReference<>();
        // Written by the producer's own thread only; read after it has ended.
        long[] next = new long[partitions];
        Pauses pauses = new Pauses(partitions);
        long started = System.nanoTime();
        try (KafkaProducer<byte[], byte[]> producer = producer(bootstrap, codec, acks)) {
            for (int index = 0; index < count && problem.get() == null; index++) {
                if (pace > 0) {
                    long early = started + index * 1_000_000_000L / pace - System.nanoTime();
                    if (early > 1_000_000) {
                        Thread.sleep(early / 1_000_000);
                    }
                }
                int partition = index % partitions;
                producer.send(content.record(index, partition), (metadata, error) -> {
                    if (error != null) {
                        problem.compareAndSet(null, topic + "-" + partition + ": " + error);
                    } else if (!acks.equals("0") && metadata.offset() != next[partition]) {
                        problem.compareAndSet(null, topic + "-" + partition + ": acknowledged at " + metadata.offset() + " where " + next[partition] + " is next");
                    }
                    next[partition]++;
                    pauses.acknowledged(partition);
                });
            }
            producer.flush();
        }
        check(problem.get() == null, problem.get());
        check(Arrays.stream(next).sum() == count, topic + ": " + Arrays.stream(next).sum() + " of " + count + " records were delivered");
        if (pace > 0) {
            System.out.println(pauses);
        }
    }

    /** The longest times between two acknowledgements. */
    private static final class Pauses {
        private final long[] last;
        private final long[] longest;
        private long lastOfAll = System.nanoTime();
        private long longestOfAll;

        Pauses(int partitions) {
            last = new long[partitions];
            longest = new long[partitions];
            Arrays.fill(last, lastOfAll);
        }

        void acknowledged(int partition) {
            long now = System.nanoTime();
            longest[partition] = Math.max(longest[partition], now - last[partition]);
            longestOfAll = Math.max(longestOfAll, now - lastOfAll);
            last[partition] = lastOfAll = now;
        }

        @Override
        public String toString() {
            long[] sorted = longest.clone();
            Arrays.sort(sorted);
            return "longest pause between acknowledgements in ms: of all " + longestOfAll / 1_000_000
                + ", of a partition " + sorted[0] / 1_000_000 + " to " + sorted[sorted.length - 1] / 1_000_000;
        }
    }

    private static KafkaConsumer<byte[], byte[]> consumer(String bootstrap, String group, String protocol) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        properties.put("auto.offset.reset", "earliest");
        properties.put("enable.auto.commit", "false");
        properties.put("fetch.max.wait.ms", "100");
        properties.put("max.poll.records", "5000");
        if (group != null) {
            properties.put("group.id", group);
            properties.put("group.protocol", protocol);
        }
        return new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private static List<TopicPartition> allPartitions(String topic, int partitions) {
        return IntStream.range(0, partitions).mapToObj(p -> new TopicPartition(topic, p)).collect(Collectors.toList());
    }

    private static String shown(Iterable<?> headers, Object timestamp, byte[] key, byte[] value) {
        String start = value == null ? "null" : new String(value, 0, Math.min(80, value.length)) + "… (" + value.length + " bytes)";
        return "key " + (key == null ? "null" : '"' + new String(key) + '"') + " value " + start + " headers " + headers + " at " + timestamp;
    }

    private static void read(KafkaConsumer<byte[], byte[]> consumer, Content content, int partitions, int count) {
        int[] next = new int[partitions];
        long lastProgress = System.currentTimeMillis();
        for (int seen = 0; seen < count; ) {
            for (ConsumerRecord<byte[], byte[]> got : consumer.poll(Duration.ofSeconds(1))) {
                int p = got.partition();
                String at = content.topic + "-" + p + "@" + got.offset();
                check(got.offset() == next[p], at + ": " + next[p] + " is next");
                int index = p + next[p] * partitions;
                check(index < count, at + ": more records than were written");
                ProducerRecord<byte[], byte[]> expected = content.record(index, p);
                boolean same = Arrays.equals(got.key(), expected.key()) && Arrays.equals(got.value(), expected.value())
                    && got.headers().equals(expected.headers())
                    && (expected.timestamp() == null || got.timestamp() == expected.timestamp());
                if (!same) {
                    throw new Failed(at + " (record " + index + "):\n got      " + shown(got.headers(), got.timestamp(), got.key(), got.value())
                        + "\n expected " + shown(expected.headers(), expected.timestamp(), expected.key(), expected.value()));
                }
                next[p]++;
                seen++;
                lastProgress = System.currentTimeMillis();
            }
            check(System.currentTimeMillis() - lastProgress < IDLE_MS_MAX, content.topic + ": nothing new for " + IDLE_MS_MAX + " ms, at " + Arrays.toString(next));
        }
    }

    private static void checkEnd(String what, String topic, int partitions, int count, Map<TopicPartition, Long> ends) {
        for (TopicPartition partition : allPartitions(topic, partitions)) {
            long expected = (count - partition.partition() + partitions - 1) / partitions;
            check(Long.valueOf(expected).equals(ends.get(partition)), partition + ": " + what + " is " + ends.get(partition) + ", expected " + expected);
        }
    }

    private static void consume(String bootstrap, String topic, int partitions, int count, String style) {
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(bootstrap, null, null)) {
            consumer.assign(allPartitions(topic, partitions));
            read(consumer, new Content(topic, style), partitions, count);
            checkEnd("the end", topic, partitions, count, consumer.endOffsets(allPartitions(topic, partitions)));
        }
    }

    private static void group(String bootstrap, String topic, int partitions, int count, String style, String group) {
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(bootstrap, group, "classic")) {
            consumer.subscribe(List.of(topic));
            read(consumer, new Content(topic, style), partitions, count);
            consumer.commitSync();
            Map<TopicPartition, Long> committed = new HashMap<>();
            consumer.committed(Set.copyOf(allPartitions(topic, partitions))).forEach((p, offset) -> committed.put(p, offset == null ? null : offset.offset()));
            checkEnd("what was committed", topic, partitions, count, committed);
        }
    }

    private static void refused(Class<? extends Exception> expected, KafkaFuture<?> future) throws Exception {
        try {
            get(future);
        } catch (ExecutionException e) {
            check(expected.isInstance(e.getCause()), "expected " + expected.getSimpleName() + ", got " + e.getCause());
            return;
        }
        throw new Failed("expected " + expected.getSimpleName() + ", got no error");
    }

    private static void admin(String bootstrap, String topic, int nodes) throws Exception {
        Admin admin = createTopic(bootstrap, topic, 2, Map.of("retention.ms", "-1", "max.message.bytes", "2000000"));
        refused(TopicExistsException.class, admin.createTopics(List.of(new NewTopic(topic, 2, (short) 1))).all());

        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        Config described = get(admin.describeConfigs(List.of(resource)).all()).get(resource);
        check(described.get("retention.ms").value().equals("-1") && described.get("retention.ms").source() == ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG, "created with configs: " + described);
        check(described.get("cleanup.policy").value().equals("delete") && described.get("cleanup.policy").isDefault(), "no defaults: " + described);
        get(admin.incrementalAlterConfigs(Map.of(resource, List.of(
            new AlterConfigOp(new ConfigEntry("segment.bytes", "2097152"), AlterConfigOp.OpType.SET),
            new AlterConfigOp(new ConfigEntry("max.message.bytes", ""), AlterConfigOp.OpType.DELETE)))).all());
        described = get(admin.describeConfigs(List.of(resource)).all()).get(resource);
        check(described.get("segment.bytes").value().equals("2097152") && described.get("max.message.bytes").isDefault(), "after the change: " + described);
        refused(InvalidConfigurationException.class, admin.incrementalAlterConfigs(Map.of(resource, List.of(
            new AlterConfigOp(new ConfigEntry("segment.bites", "1"), AlterConfigOp.OpType.SET)))).all());
        refused(InvalidConfigurationException.class, admin.incrementalAlterConfigs(Map.of(resource, List.of(
            new AlterConfigOp(new ConfigEntry("segment.bytes", "many"), AlterConfigOp.OpType.SET)))).all());

        check(!get(admin.describeCluster().clusterId()).isEmpty() && get(admin.describeCluster().nodes()).size() == nodes, "the cluster");
        String node = get(admin.describeCluster().nodes()).iterator().next().idString();
        ConfigResource broker = new ConfigResource(ConfigResource.Type.BROKER, node);
        check(get(admin.describeConfigs(List.of(broker)).all()).get(broker).get("log.dirs") != null, "the broker's configs have no log.dirs");
        check(get(admin.listTopics().names()).contains(topic), "the topic is not listed");

        get(admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(4))).all());
        TopicDescription description = waitForLeaders(admin, topic, 4);
        check(!description.topicId().equals(Uuid.ZERO_UUID), "no topic id");
        refused(InvalidPartitionsException.class, admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(3))).all());

        TopicPartition partition = new TopicPartition(topic, 3);
        try (KafkaProducer<byte[], byte[]> producer = producer(bootstrap, "none", "all")) {
            for (long timestamp : new long[] {100, 200, 300, 400, 5000, 600, 700, 800, 900, 1000}) {
                producer.send(new ProducerRecord<>(topic, 3, timestamp, null, new byte[] {1})).get(TIMEOUT_SECONDS, TimeUnit.SECONDS);
            }
        }
        StringBuilder found = new StringBuilder();
        for (OffsetSpec spec : List.of(OffsetSpec.earliest(), OffsetSpec.latest(), OffsetSpec.maxTimestamp(),
            OffsetSpec.forTimestamp(300), OffsetSpec.forTimestamp(301), OffsetSpec.forTimestamp(500), OffsetSpec.forTimestamp(6000))) {
            found.append(get(admin.listOffsets(Map.of(partition, spec)).all()).get(partition).offset()).append(' ');
        }
        check(found.toString().equals("0 10 4 2 3 4 -1 "), "offsets " + found);

        check(get(admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(4))).lowWatermarks().get(partition)).lowWatermark() == 4, "deleted records");
        check(get(admin.listOffsets(Map.of(partition, OffsetSpec.earliest())).all()).get(partition).offset() == 4, "the first offset after the deletion");
        refused(OffsetOutOfRangeException.class, admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(11))).all());
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(bootstrap, null, null)) {
            consumer.assign(List.of(partition));
            consumer.seek(partition, 0);
            ConsumerRecord<byte[], byte[]> first = null;
            for (int tries = 0; first == null && tries < TIMEOUT_SECONDS; tries++) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                    first = first == null ? record : first;
                }
            }
            check(first != null && first.offset() == 4, "the first record after the deletion: " + first);
            OffsetAndTimestamp byTime = consumer.offsetsForTimes(Map.of(partition, 501L)).get(partition);
            check(byTime.offset() == 4 && byTime.timestamp() == 5000, "the offset for 501: " + byTime);
        }

        get(admin.deleteTopics(List.of(topic)).all());
        for (int tries = 0; get(admin.listTopics().names()).contains(topic); tries++) {
            check(tries < TIMEOUT_SECONDS * 10, "the topic is still listed");
            Thread.sleep(100);
        }
        refused(UnknownTopicOrPartitionException.class, admin.deleteTopics(List.of(topic)).all());
        admin.close();
    }

    public static void main(String[] a) {
        try {
            String command = a.length == 0 ? "" : a[0];
            if (command.equals("produce") && (a.length == 8 || a.length == 9)) {
                produce(a[1], a[2], Integer.parseInt(a[3]), Integer.parseInt(a[4]), a[5], a[6], a[7], a.length == 9 ? Integer.parseInt(a[8]) : 0);
            } else if (command.equals("consume") && a.length == 6) {
                consume(a[1], a[2], Integer.parseInt(a[3]), Integer.parseInt(a[4]), a[5]);
            } else if (command.equals("group") && a.length == 7) {
                group(a[1], a[2], Integer.parseInt(a[3]), Integer.parseInt(a[4]), a[5], a[6]);
            } else if (command.equals("admin") && (a.length == 3 || a.length == 4)) {
                admin(a[1], a[2], a.length == 4 ? Integer.parseInt(a[3]) : 1);
            } else {
                throw new Failed("wrong arguments: " + String.join(" ", a));
            }
        } catch (Failed e) {
            System.err.println(e.getMessage());
            System.exit(1);
        } catch (Throwable e) {
            e.printStackTrace();
            System.exit(1);
        }
        System.exit(0);
    }
}
