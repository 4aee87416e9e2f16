// Prints what the CloudEvents SDK for Java makes of the first COUNT records, a JSON line each.
//
//     java Reader.java kafka SERVERS TOPIC COUNT

import com.fasterxml.jackson.databind.ObjectMapper;
import io.cloudevents.CloudEvent;
import io.cloudevents.kafka.CloudEventDeserializer;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.StringDeserializer;

class Reader {
  private static final ObjectMapper JSON = new ObjectMapper();

  public static void main(String[] arguments) throws Exception {
    var out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    int left = Integer.parseInt(arguments[3]);
    Map<String, Object> settings =
        Map.of(
            "bootstrap.servers", arguments[1],
            "group.id", "java-reader",
            "auto.offset.reset", "earliest",
            "enable.auto.commit", false,
            "isolation.level", "read_committed");
    try (var consumer =
        new KafkaConsumer<>(settings, new StringDeserializer(), new CloudEventDeserializer())) {
      consumer.subscribe(List.of(arguments[2]));
      long deadline = System.nanoTime() + Duration.ofMinutes(1).toNanos();
      while (left > 0) {
        if (System.nanoTime() > deadline) {
          throw new IllegalStateException(left + " records are missing");
        }
        for (var event : consumer.poll(Duration.ofSeconds(1))) {
          if (left-- > 0) {
            out.println(JSON.writeValueAsString(describe(event.value())));
          }
        }
      }
    }
  }

  private static Map<String, Object> describe(CloudEvent event) throws Exception {
    var attributes = new TreeMap<String, Object>();
    for (var name : event.getAttributeNames()) {
      attributes.put(name, plain(event.getAttribute(name)));
    }
    for (var name : event.getExtensionNames()) {
      attributes.put(name, plain(event.getExtension(name)));
    }
    return Map.of("attributes", attributes, "data", JSON.readTree(event.getData().toBytes()));
  }

  /** Numbers stay numbers; URIs and instants become texts. */
  private static Object plain(Object value) {
    return value instanceof Number || value instanceof Boolean ? value : value.toString();
  }
}
