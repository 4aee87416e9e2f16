// The current figure of every key as a Kafka topic: the highest revision, removed rows gone.
//
//     mvn -q dependency:copy-dependencies -DoutputDirectory=lib
//     java -cp 'lib/*' CurrentTable.java [SERVERS] [TOPIC]   # localhost:9092 amazon-billing
//
// The table is the compacted topic TOPIC-current, keyed by partitionkey; read it committed.
// Position, highest revisions and table move in one transaction: whatever is killed when, the
// table is right. Several processes share the partitions and take over from each other, from a
// killed one after 45 seconds. Ctrl-C ends it.

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.cloudevents.CloudEvent;
import io.cloudevents.kafka.CloudEventDeserializer;
import io.cloudevents.kafka.CloudEventSerializer;
import java.nio.file.Files;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.errors.LogAndContinueExceptionHandler;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.state.Stores;

class CurrentTable {
  private static final ObjectMapper JSON = new ObjectMapper();

  public static void main(String[] arguments) throws Exception {
    var servers = arguments.length > 0 ? arguments[0] : "localhost:9092";
    var events = arguments.length > 1 ? arguments[1] : "amazon-billing";
    var table = events + "-current";
    try (var admin = Admin.create(Map.<String, Object>of("bootstrap.servers", servers))) {
      var topic = new NewTopic(table, -1, (short) -1).configs(Map.of("cleanup.policy", "compact"));
      admin.createTopics(List.of(topic)).all().get();
    } catch (ExecutionException e) {
      if (!(e.getCause() instanceof TopicExistsException)) throw e;
    }

    var event = Serdes.serdeFrom(new CloudEventSerializer(), new CloudEventDeserializer());
    var builder = new StreamsBuilder();
    builder.stream(events, Consumed.with(Serdes.String(), event))
        .mapValues(CurrentTable::figure)
        .filter((key, figure) -> figure != null)
        .groupByKey()
        .reduce(
            (a, b) -> parse(b).get("revision").asInt() > parse(a).get("revision").asInt() ? b : a,
            Materialized.as(Stores.inMemoryKeyValueStore("highest")))
        .toStream()
        // A removed row stays among the highest revisions, so that no older one comes back.
        .mapValues(figure -> parse(figure).get("change").asText().equals("removed") ? null : figure)
        .to(table);

    var settings = new Properties();
    settings.put("bootstrap.servers", servers);
    settings.put("application.id", table);
    settings.put("processing.guarantee", "exactly_once_v2");
    settings.put("deserialization.exception.handler", LogAndContinueExceptionHandler.class);
    settings.put("default.key.serde", Serdes.StringSerde.class);
    settings.put("default.value.serde", Serdes.StringSerde.class);
    // Nothing on the disk is needed again: the highest revisions lie in Kafka too.
    settings.put("state.dir", Files.createTempDirectory("current-table").toString());
    var streams = new KafkaStreams(builder.build(), settings);
    streams.setUncaughtExceptionHandler(e -> StreamThreadExceptionResponse.SHUTDOWN_CLIENT);
    Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
    streams.start();
  }

  /** {"revision": 2, "change": "revised", "data": {...}}, or null for what is no figure. */
  private static String figure(String key, CloudEvent event) {
    try {
      var figure = JSON.createObjectNode();
      // A text in binary mode.
      figure.put("revision", Integer.parseInt(event.getExtension("revision").toString()));
      figure.put("change", event.getExtension("change").toString());
      return figure.set("data", JSON.readTree(event.getData().toBytes())).toString();
    } catch (Exception e) { // Others may write here: said, and left aside.
      System.err.println(key + " is left aside: " + e);
      return null;
    }
  }

  private static JsonNode parse(String figure) {
    try {
      return JSON.readTree(figure);
    } catch (JsonProcessingException e) {
      throw new IllegalStateException(e);
    }
  }
}
