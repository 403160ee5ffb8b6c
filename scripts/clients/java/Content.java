import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;

/** The content of record i of a topic: README.md beside this folder. */
final class Content {
    static final int POOL_BYTES = 524288;
    static final long FIRST_TIMESTAMP_MS = 1_700_000_000_000L;

    final String topic;
    final String style;
    private final int base;
    private final byte[] pool;

    Content(String topic, String style) {
        this.topic = topic;
        this.style = style;
        int hash = 0x811C9DC5;
        for (byte b : topic.getBytes(StandardCharsets.UTF_8)) {
            hash = (hash ^ (b & 0xFF)) * 0x01000193;
        }
        base = hash;
        ByteBuffer bytes = ByteBuffer.allocate(POOL_BYTES).order(ByteOrder.LITTLE_ENDIAN);
        int state = 0x2545F491;
        for (int chunk = 0; chunk < POOL_BYTES / 64; chunk++) {
            for (int word = 0; chunk % 2 == 0 && word < 16; word++) {
                state ^= state << 13;
                state ^= state >>> 17;
                state ^= state << 5;
                bytes.putInt(state);
            }
            for (int i = 0; chunk % 2 == 1 && i < 64; i++) {
                bytes.put((byte) ('a' + chunk % 26));
            }
        }
        pool = bytes.array();
    }

    private static int mix(int x) {
        x ^= x >>> 16;
        x *= 0x85EBCA6B;
        x ^= x >>> 13;
        x *= 0xC2B2AE35;
        return x ^ (x >>> 16);
    }

    /** In kcat's styles the timestamp is null. */
    ProducerRecord<byte[], byte[]> record(int index, int partition) {
        int h = mix(base + index * 0x9E3779B1);
        int k = h & 7;
        int v = (h >>> 3) & 31;
        byte[] key = k == 0 ? null : k == 1 ? new byte[0] : ("key-" + ((h >>> 3) & 1023)).getBytes(StandardCharsets.UTF_8);
        byte[] value = null;
        if (v == 1) {
            value = new byte[0];
        } else if (v > 1) {
            int size = 8 + (h >>> 8) % 185;
            if (index % 5000 == 4999) {
                size = 100_000 + (h >>> 8) % 200_000;
            } else if (index % 100 == 99) {
                size = 1024 + (h >>> 8) % 7168;
            }
            int start = Integer.remainderUnsigned(mix(h + 1), POOL_BYTES - size);
            byte[] prefix = (topic + "/" + index + "/").getBytes(StandardCharsets.UTF_8);
            value = Arrays.copyOf(prefix, prefix.length + size);
            System.arraycopy(pool, start, value, prefix.length, size);
        }
        List<Header> headers = new ArrayList<>();
        Long timestamp = null;
        switch (style) {
            case "full":
            case "plain":
                if (h >>> 29 == 0) {
                    headers.add(new RecordHeader("h", Integer.toString(index).getBytes(StandardCharsets.UTF_8)));
                    headers.add(new RecordHeader("h", "again".getBytes(StandardCharsets.UTF_8)));
                    headers.add(new RecordHeader("empty", new byte[0]));
                    if (style.equals("full")) {
                        headers.add(new RecordHeader("null", (byte[]) null));
                    }
                }
                if (style.equals("plain") && key == null && value == null) {
                    key = new byte[0];
                }
                timestamp = FIRST_TIMESTAMP_MS + index;
                break;
            case "nulls":
                key = key == null || key.length == 0 ? null : key;
                value = value == null || value.length == 0 ? null : value;
                break;
            default:
                key = key == null ? new byte[0] : key;
                value = value == null ? new byte[0] : value;
        }
        return new ProducerRecord<>(topic, partition, timestamp, key, value, headers);
    }
}
