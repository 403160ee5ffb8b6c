import java.time.Duration;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.LogDirDescription;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.ProducerState;
import org.apache.kafka.clients.admin.QuorumInfo;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.KafkaFuture;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.InvalidRequestException;
import org.apache.kafka.common.quota.ClientQuotaAlteration;
import org.apache.kafka.common.quota.ClientQuotaEntity;
import org.apache.kafka.common.quota.ClientQuotaFilter;
import org.apache.kafka.common.quota.ClientQuotaFilterComponent;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** What operators do, through the Java client's Admin. Arguments: BOOTSTRAP TOPIC. */
public final class Operations {
    private static final int TIMEOUT_SECONDS = 20;

    private static void check(boolean ok, String message) {
        if (!ok) {
            throw new IllegalStateException(message);
        }
    }

    private static <T> T get(KafkaFuture<T> future) throws Exception {
        return future.get(TIMEOUT_SECONDS, TimeUnit.SECONDS);
    }

    private static void refused(Class<? extends Exception> expected, KafkaFuture<?> future) throws Exception {
        try {
            get(future);
        } catch (ExecutionException e) {
            check(expected.isInstance(e.getCause()), "expected " + expected.getSimpleName() + ", got " + e.getCause());
            return;
        }
        throw new IllegalStateException("not refused with " + expected.getSimpleName());
    }

    private static void quotas(Admin admin, String client) throws Exception {
        ClientQuotaEntity entity = new ClientQuotaEntity(Map.of(ClientQuotaEntity.CLIENT_ID, client));
        Map<String, String> unnamed = new HashMap<>();
        unnamed.put(ClientQuotaEntity.USER, null);
        ClientQuotaEntity users = new ClientQuotaEntity(unnamed);
        get(admin.alterClientQuotas(List.of(
            new ClientQuotaAlteration(entity, List.of(
                new ClientQuotaAlteration.Op("producer_byte_rate", 20_000.0), new ClientQuotaAlteration.Op("request_percentage", 12.5))),
            new ClientQuotaAlteration(users, List.of(new ClientQuotaAlteration.Op("consumer_byte_rate", 1e9))))).all());
        refused(InvalidRequestException.class, admin.alterClientQuotas(List.of(
            new ClientQuotaAlteration(entity, List.of(new ClientQuotaAlteration.Op("producer_bite_rate", 1.0))))).all());
        ClientQuotaFilter filter = ClientQuotaFilter.containsOnly(List.of(ClientQuotaFilterComponent.ofEntity(ClientQuotaEntity.CLIENT_ID, client)));
        Map<ClientQuotaEntity, Map<String, Double>> found = get(admin.describeClientQuotas(filter).entities());
        check(found.equals(Map.of(entity, Map.of("producer_byte_rate", 20_000.0, "request_percentage", 12.5))), "quotas " + found);
        check(get(admin.describeClientQuotas(ClientQuotaFilter.all()).entities()).containsKey(users), "the default user has no quota");
    }

    /** 400 kB at 20 kB/s of which a window of 10 s is free: at least 8 s. The time is the broker's, not this machine's. */
    private static void throttled(String bootstrap, String topic, String client) throws Exception {
        Map<String, Object> properties = Map.of("bootstrap.servers", bootstrap, "client.id", client, "acks", "all", "batch.size", "20000", "linger.ms", "1000");
        long began = System.nanoTime();
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(properties, new ByteArraySerializer(), new ByteArraySerializer())) {
            for (int i = 0; i < 400; i++) {
                producer.send(new ProducerRecord<>(topic, 0, null, new byte[1000]));
            }
            producer.flush();
            double seconds = (System.nanoTime() - began) / 1e9;
            check(seconds >= 8, "400 kB took " + seconds + " s");
            double waited = producer.metrics().entrySet().stream().filter(metric -> metric.getKey().name().equals("produce-throttle-time-max"))
                .mapToDouble(metric -> (Double) metric.getValue().metricValue()).max().orElse(0);
            check(waited > 0, "the producer was not told that it is throttled");
        }
    }

    private static void brokerConfigs(Admin admin, String node) throws Exception {
        ConfigResource broker = new ConfigResource(ConfigResource.Type.BROKER, node);
        ConfigResource all = new ConfigResource(ConfigResource.Type.BROKER, "");
        ConfigEntry.ConfigSource[] sources = {
            ConfigEntry.ConfigSource.DEFAULT_CONFIG, ConfigEntry.ConfigSource.DYNAMIC_DEFAULT_BROKER_CONFIG,
            ConfigEntry.ConfigSource.DYNAMIC_BROKER_CONFIG, ConfigEntry.ConfigSource.DYNAMIC_DEFAULT_BROKER_CONFIG,
        };
        for (int step = 0; step < sources.length; step++) {
            if (step > 0) {
                ConfigEntry entry = new ConfigEntry("max.connections.per.ip", Integer.toString(1000 + step));
                AlterConfigOp.OpType type = step == 3 ? AlterConfigOp.OpType.DELETE : AlterConfigOp.OpType.SET;
                get(admin.incrementalAlterConfigs(Map.of(step == 1 ? all : broker, List.of(new AlterConfigOp(entry, type)))).all());
            }
            Config config = get(admin.describeConfigs(List.of(broker)).all()).get(broker);
            ConfigEntry found = config.get("max.connections.per.ip");
            check(found.source() == sources[step] && !found.isReadOnly(), "step " + step + ": " + found);
        }
        get(admin.incrementalAlterConfigs(Map.of(all, List.of(
            new AlterConfigOp(new ConfigEntry("max.connections.per.ip", ""), AlterConfigOp.OpType.DELETE)))).all());
        check(get(admin.describeConfigs(List.of(all)).all()).get(all).get("max.connections.per.ip") == null, "the default is still set");
        refused(InvalidRequestException.class, admin.incrementalAlterConfigs(Map.of(broker, List.of(
            new AlterConfigOp(new ConfigEntry("num.partitions", "3"), AlterConfigOp.OpType.SET)))).all());
    }

    private static void inside(Admin admin, String topic, int node) throws Exception {
        TopicPartition first = new TopicPartition(topic, 0);
        Map<String, LogDirDescription> directories = get(admin.describeLogDirs(List.of(node)).allDescriptions()).get(node);
        LogDirDescription directory = directories.values().iterator().next();
        check(directory.error() == null && directory.replicaInfos().get(first).size() > 400_000, "log directories " + directories);
        check(directory.totalBytes().orElse(0) >= directory.usableBytes().orElse(1), "space of " + directories);
        List<ProducerState> producers = get(admin.describeProducers(List.of(first)).all()).get(first).activeProducers();
        check(producers.size() == 1 && producers.get(0).lastSequence() == 399, "producers " + producers);
        QuorumInfo quorum = get(admin.describeMetadataQuorum().quorumInfo());
        check(quorum.leaderId() == node && quorum.voters().size() == 1, "quorum " + quorum);
        Collection<ConfigResource> resources = get(admin.listConfigResources(Set.of(ConfigResource.Type.TOPIC), new org.apache.kafka.clients.admin.ListConfigResourcesOptions()).all());
        check(resources.contains(new ConfigResource(ConfigResource.Type.TOPIC, topic)), "resources " + resources);
        check(get(admin.listPartitionReassignments().reassignments()).isEmpty(), "there are reassignments");
        check(get(admin.electLeaders(ElectionType.PREFERRED, null).partitions()).isEmpty(), "there were elections");
    }

    private static void groups(Admin admin, String bootstrap, String topic) throws Exception {
        String group = topic + "-group";
        TopicPartition first = new TopicPartition(topic, 0);
        TopicPartition second = new TopicPartition(topic, 1);
        get(admin.alterConsumerGroupOffsets(group, Map.of(first, new OffsetAndMetadata(100, "here"), second, new OffsetAndMetadata(0))).all());
        check(get(admin.listGroups().all()).stream().anyMatch(listed -> listed.groupId().equals(group)), "the group is not listed");
        check(get(admin.describeConsumerGroups(List.of(group)).all()).get(group).members().isEmpty(), "the group has members");
        Map<TopicPartition, OffsetAndMetadata> offsets = get(admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata());
        check(offsets.get(first).offset() == 100 && offsets.get(first).metadata().equals("here"), "offsets " + offsets);
        Map<String, Object> properties = Map.of("bootstrap.servers", bootstrap, ConsumerConfig.GROUP_ID_CONFIG, group, "enable.auto.commit", "false");
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.assign(List.of(first));
            check(consumer.poll(Duration.ofSeconds(TIMEOUT_SECONDS)).iterator().next().offset() == 100, "the consumer does not begin where the offset was set");
        }
        get(admin.deleteConsumerGroupOffsets(group, Set.of(second)).all());
        check(get(admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata()).keySet().equals(Set.of(first)), "an offset was not deleted");
        get(admin.deleteConsumerGroups(List.of(group)).all());
        check(get(admin.listGroups().all()).stream().noneMatch(listed -> listed.groupId().equals(group)), "the group is still listed");
    }

    public static void main(String[] a) {
        String bootstrap = a[0];
        String topic = a[1];
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap, "request.timeout.ms", "10000", "default.api.timeout.ms", "20000"))) {
            get(admin.createTopics(List.of(new NewTopic(topic, 2, (short) 1))).all());
            int node = get(admin.describeCluster().nodes()).iterator().next().id();
            quotas(admin, topic);
            throttled(bootstrap, topic, topic);
            brokerConfigs(admin, Integer.toString(node));
            inside(admin, topic, node);
            groups(admin, bootstrap, topic);
            get(admin.deleteTopics(List.of(topic)).all());
        } catch (Throwable e) {
            e.printStackTrace();
            System.exit(1);
        }
        System.exit(0);
    }
}
