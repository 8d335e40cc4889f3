// Writes Kafka's own definitions of its settings, one a line: kind, name, type,
// default, valid values, and "dynamic" for a broker setting that may change while
// the broker runs. Run with Kafka's jars:
//
//   java -cp 'libs/*' DumpConfigs.java > kafka-4.4.tsv
import java.util.Set;
import java.util.TreeMap;

import org.apache.kafka.common.config.ConfigDef;

public class DumpConfigs {
    public static void main(String[] args) throws Exception {
        dump("topic", org.apache.kafka.storage.internals.log.LogConfig.configDefCopy(), Set.of());
        dump("group", org.apache.kafka.coordinator.group.GroupConfig.CONFIG_DEF, Set.of());
        dump("broker", kafka.server.KafkaConfig.configDef(), org.apache.kafka.server.config.DynamicBrokerConfig.ALL_DYNAMIC_CONFIGS);
    }

    static void dump(String kind, ConfigDef definitions, Set<String> dynamic) {
        for (ConfigDef.ConfigKey key : new TreeMap<>(definitions.configKeys()).values()) {
            if (key.internalConfig)
                continue;
            String value = key.defaultValue == null ? "null"
                : key.defaultValue == ConfigDef.NO_DEFAULT_VALUE ? "required"
                : "=" + ConfigDef.convertToString(key.defaultValue, key.type);
            System.out.println(String.join("\t", kind, key.name, key.type.toString(), value,
                key.validator == null ? "" : key.validator.toString(), dynamic.contains(key.name) ? "dynamic" : ""));
        }
    }
}
