// Prints what the CloudEvents SDK for JavaScript makes of the first COUNT messages, a JSON line each.
//
//     reader.js kafka SERVERS TOPIC COUNT
//     reader.js nats URL STREAM COUNT

import { jetstream } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { HTTP, Kafka as KafkaBinding } from "cloudevents";
import kafkajs from "kafkajs";
import lz4 from "lz4js";

// kafkajs has no LZ4 of its own, and events are compressed with it.
kafkajs.CompressionCodecs[kafkajs.CompressionTypes.LZ4] = () => ({
  decompress: async (bytes) => Buffer.from(lz4.decompress(bytes)),
});

function show(event) {
  const { data, ...attributes } = event.toJSON();
  console.log(JSON.stringify({ attributes, data }));
}

async function readKafka(servers, topic, count) {
  const kafka = new kafkajs.Kafka({ brokers: servers.split(","), logLevel: kafkajs.logLevel.ERROR });
  const consumer = kafka.consumer({ groupId: "javascript-reader", readUncommitted: false });
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  await new Promise((resolve, reject) => {
    consumer.on(consumer.events.CRASH, ({ payload }) => reject(payload.error));
    consumer.run({
      autoCommit: false,
      eachMessage: async ({ message }) => {
        if (count <= 0) return;
        // The binding compares headers as text; kafkajs gives them as bytes.
        const headers = Object.fromEntries(
          Object.entries(message.headers).map(([name, value]) => [name, value.toString()]),
        );
        const key = message.key.toString();
        try {
          show(KafkaBinding.toEvent({ headers, key, value: message.value.toString() }));
        } catch (error) {
          reject(error);
        }
        if (--count === 0) resolve();
      },
    });
  });
  await consumer.disconnect();
}

// The NATS binding by the SDK's HTTP binding, whose headers are the same but for one name.
function fromNats(message) {
  const headers = Object.fromEntries(
    (message.headers?.keys() ?? []).map((name) => [name.toLowerCase(), message.headers.get(name)]),
  );
  if (!headers["content-type"]?.toLowerCase().startsWith("application/cloudevents")) {
    if (!headers["ce-specversion"]) throw new Error("the message is no CloudEvent");
    headers["content-type"] = headers["ce-datacontenttype"];
    delete headers["ce-datacontenttype"];
    // The HTTP binding leaves the percent-encoding of NATS as it is.
    for (const name of Object.keys(headers)) {
      if (name.startsWith("ce-")) headers[name] = decodeURIComponent(headers[name]);
    }
  }
  return HTTP.toEvent({ headers, body: message.string() });
}

async function readNats(servers, stream, count) {
  const connection = await connect({ servers });
  const consumer = await jetstream(connection).consumers.get(stream);
  for (; count > 0; count--) {
    const message = await consumer.next({ expires: 60_000 });
    if (message === null) throw new Error("no message for a minute");
    show(fromNats(message));
  }
  await connection.close();
}

const [kind, address, log, count] = process.argv.slice(2);
await (kind === "kafka" ? readKafka : readNats)(address, log, Number(count));
