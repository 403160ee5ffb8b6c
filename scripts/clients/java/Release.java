import java.util.Map;
import java.util.TreeMap;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.common.message.ApiMessageType.ListenerType;
import org.apache.kafka.common.protocol.ApiKeys;
import org.apache.kafka.common.protocol.Errors;
import org.apache.kafka.server.config.DynamicBrokerConfig;
import org.apache.kafka.storage.internals.log.LogConfig;

/** What the release of Kafka on the class path declares, an item a line. Arguments: apis | errors | broker-configs | topic-configs. */
public final class Release {
    /** Number, name, least and greatest version that a broker serves; unstable versions left out. */
    private static void apis() {
        for (ApiKeys key : ApiKeys.apisForListener(ListenerType.BROKER)) {
            if (key.latestVersion(false) >= key.oldestVersion()) {
                line(key.id, key.messageType.name, key.oldestVersion(), key.latestVersion(false));
            }
        }
    }

    /** Number and name. */
    private static void errors() {
        for (Errors error : Errors.values()) {
            line(error.code(), error.name());
        }
    }

    /** Name, type, default after an equals sign or null, whether it is dynamic, and what Kafka says of valid values. */
    private static void configs(ConfigDef definition, boolean ofTopics) {
        for (Map.Entry<String, ConfigDef.ConfigKey> entry : new TreeMap<>(definition.configKeys()).entrySet()) {
            ConfigDef.ConfigKey key = entry.getValue();
            // Those that Kafka's documentation does not name.
            if (key.internalConfig) {
                continue;
            }
            boolean none = !key.hasDefault() || key.defaultValue == null;
            boolean dynamic = ofTopics || DynamicBrokerConfig.ALL_DYNAMIC_CONFIGS.contains(key.name);
            line(key.name, key.type, none ? "null" : "=" + ConfigDef.convertToString(key.defaultValue, key.type),
                dynamic ? "dynamic" : "fixed", String.valueOf(key.validator).isEmpty() ? "null" : key.validator);
        }
    }

    private static void line(Object first, Object... others) {
        StringBuilder line = new StringBuilder(String.valueOf(first));
        for (Object other : others) {
            line.append('\t').append(other);
        }
        System.out.println(line);
    }

    public static void main(String[] arguments) {
        switch (arguments[0]) {
            case "apis" -> apis();
            case "errors" -> errors();
            case "broker-configs" -> configs(kafka.server.KafkaConfig.configDef(), false);
            case "topic-configs" -> configs(LogConfig.configDefCopy(), true);
            default -> throw new IllegalArgumentException(arguments[0]);
        }
    }
}
