import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Members of a consumer group that say what happens to them, with the Java client. The lines are those that group_check.py
 * reads. Arguments: bootstrap, group, topic, members, protocol (eager, cooperative, consumer), and for static members an
 * instance id. SIGTERM: commit, leave and end.
 */
public final class GroupMember implements ConsumerRebalanceListener {
    private static final long COMMIT_EVERY_MS = 300;
    private static volatile boolean stopping;

    private final String name;
    private final String topic;
    private final KafkaConsumer<byte[], byte[]> consumer;
    private final Map<Integer, long[]> runs = new HashMap<>();
    private final Map<Integer, Long> positions = new HashMap<>();

    private GroupMember(String name, String topic, Properties properties) {
        this.name = name;
        this.topic = topic;
        this.consumer = new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private void say(String event, int partition, long first, long last) {
        long us = System.currentTimeMillis() * 1000;
        System.out.println(event + " " + us + " " + name + " " + partition + " " + first + " " + last);
    }

    private void flush() {
        runs.forEach((partition, run) -> say("read", partition, run[0], run[1]));
        runs.clear();
    }

    private void read(int partition, long offset) {
        long[] run = runs.get(partition);
        if (run != null && run[1] + 1 != offset) {
            say("read", partition, run[0], run[1]);
            run = null;
        }
        if (run == null) {
            runs.put(partition, new long[] {offset, offset});
        } else {
            run[1] = offset;
        }
        positions.put(partition, offset + 1);
    }

    private void commit() {
        Map<Integer, Long> committed = new HashMap<>(positions);
        if (committed.isEmpty()) {
            return;
        }
        Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
        committed.forEach((partition, position) -> offsets.put(new TopicPartition(topic, partition), new OffsetAndMetadata(position)));
        try {
            consumer.commitSync(offsets, Duration.ofSeconds(3));
            committed.forEach((partition, position) -> say("commit", partition, position, -1));
        } catch (KafkaException failed) {
            // It is tried again, or the partitions are gone.
        }
    }

    @Override
    public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
        partitions.forEach(part -> say("assign", part.partition(), -1, -1));
    }

    @Override
    public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
        commit();
        forget("revoke", partitions);
    }

    @Override
    public void onPartitionsLost(Collection<TopicPartition> partitions) {
        forget("lost", partitions);
    }

    private void forget(String event, Collection<TopicPartition> partitions) {
        for (TopicPartition part : partitions) {
            positions.remove(part.partition());
            say(event, part.partition(), -1, -1);
        }
    }

    private void run() {
        consumer.subscribe(List.of(topic), this);
        long commitAt = System.nanoTime() + COMMIT_EVERY_MS * 1_000_000;
        while (!stopping) {
            try {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(100))) {
                    read(record.partition(), record.offset());
                }
                flush();
            } catch (WakeupException awake) {
                break;
            }
            if (System.nanoTime() >= commitAt) {
                commit();
                commitAt = System.nanoTime() + COMMIT_EVERY_MS * 1_000_000;
            }
        }
        commit();
        consumer.close();
    }

    public static void main(String[] args) throws Exception {
        String protocol = args[4];
        List<Thread> threads = new ArrayList<>();
        for (int number = 0; number < Integer.parseInt(args[3]); number++) {
            String instance = args.length > 5 ? args[5] + "-" + number : null;
            String name = instance != null ? instance : "java-" + protocol + "-" + ProcessHandle.current().pid() + "-" + number;
            Properties properties = new Properties();
            properties.put("bootstrap.servers", args[0]);
            properties.put("group.id", args[1]);
            properties.put("client.id", name);
            properties.put("auto.offset.reset", "earliest");
            properties.put("enable.auto.commit", "false");
            properties.put("max.poll.records", "200");
            properties.put("reconnect.backoff.max.ms", "500");
            properties.put("group.protocol", protocol.equals("consumer") ? "consumer" : "classic");
            if (!protocol.equals("consumer")) {
                properties.put("session.timeout.ms", "6000");
                properties.put("heartbeat.interval.ms", "500");
                String assignor = protocol.equals("cooperative") ? "CooperativeStickyAssignor" : "RangeAssignor";
                properties.put("partition.assignment.strategy", "org.apache.kafka.clients.consumer." + assignor);
            }
            if (instance != null) {
                properties.put("group.instance.id", instance);
            }
            Thread thread = new Thread(() -> new GroupMember(name, args[2], properties).run());
            thread.start();
            threads.add(thread);
        }
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            stopping = true;
            for (Thread thread : threads) {
                try {
                    thread.join();
                } catch (InterruptedException interrupted) {
                    return;
                }
            }
        }));
        for (Thread thread : threads) {
            thread.join();
        }
    }
}
