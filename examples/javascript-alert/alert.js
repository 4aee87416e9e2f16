// Budget alerts from Kafka: one each time a month's spend passes 50, 80 or 100 % of the budget.
//
//     npm ci
//     node alert.js BUDGET [SERVERS] [TOPIC]     # until stopped; localhost:9092 amazon-billing
//
// An alert is a file in alerts/, 2026-11-USD-80.json, which is made once and never changed: whatever is
// killed when, and however many processes watch. Send it from there, or where it is printed here.
// The topic is the state: each start reads it from its beginning, so there is no position that could run
// ahead of an alert. Each process is a group of its own, since a sum needs every partition.

import { randomUUID } from "node:crypto";
import fs from "node:fs";
import Big from "big.js";
import { Kafka as Binding } from "cloudevents";
import kafkajs from "kafkajs";
import lz4 from "lz4js";

const [budget, servers = "localhost:9092", topic = "amazon-billing"] = process.argv.slice(2);
if (!(budget > 0)) throw new Error("usage: node alert.js BUDGET [SERVERS] [TOPIC]");
const SHARES = [50, 80, 100];
const QUIET = 1000; // milliseconds

// kafkajs has no LZ4 of its own, and events are compressed with it.
kafkajs.CompressionCodecs[kafkajs.CompressionTypes.LZ4] = () => ({
  decompress: async (bytes) => Buffer.from(lz4.decompress(bytes)),
});

/** The highest revision per key; `name` is month and unit, 2026-11-USD. */
const newest = new Map();

function keep({ headers, key, value }) {
  // The binding compares headers as text; kafkajs gives them as bytes.
  const texts = Object.fromEntries(Object.entries(headers).map(([name, bytes]) => [name, String(bytes)]));
  const event = Binding.toEvent({ headers: texts, key: String(key), value: String(value) });
  const { date, granularity, groups, unblendedCost } = event.data;
  // Hours, and a second grouping, are the same money again.
  if (granularity !== "DAILY" || groups) return;
  const revision = Number(event.revision); // A text in binary mode.
  if (!(revision > (newest.get(event.partitionkey)?.revision ?? 0))) return;
  // A removed row is a revision with the amount 0.
  const name = `${date.slice(0, 7)}-${unblendedCost.unit}`;
  newest.set(event.partitionkey, { revision, name, amount: Big(unblendedCost.amount) });
}

function judge() {
  const sums = new Map();
  for (const { name, amount } of newest.values()) sums.set(name, amount.plus(sums.get(name) ?? 0));
  for (const [name, spend] of sums) {
    for (const share of SHARES) {
      const passed = spend.times(100).gte(Big(budget).times(share));
      if (passed) alert(`${name}-${share}`, { name, share, budget, spend: spend.toFixed() });
    }
  }
}

/** Whole and on the disk before it has its name; the one who gives it the name has given the alert. */
function alert(name, content) {
  if (fs.existsSync(`alerts/${name}.json`)) return;
  const draft = `alerts/.${randomUUID()}`;
  const text = JSON.stringify(content);
  fs.writeFileSync(draft, `${text}\n`, { flush: true });
  try {
    fs.linkSync(draft, `alerts/${name}.json`);
    console.log(text);
  } catch (error) {
    if (error.code !== "EEXIST") throw error;
  } finally {
    fs.unlinkSync(draft);
  }
}

fs.mkdirSync("alerts", { recursive: true });
const kafka = new kafkajs.Kafka({ clientId: "budget-alert", brokers: servers.split(",") });
const consumer = kafka.consumer({ groupId: `budget-alert-${randomUUID()}`, readUncommitted: false });
consumer.on(consumer.events.CRASH, ({ payload }) => payload.restart || process.exit(1));
await consumer.connect();
await consumer.subscribe({ topic, fromBeginning: true });
let timer;
await consumer.run({
  autoCommit: false,
  eachMessage: async ({ partition, message }) => {
    try {
      keep(message);
    } catch (error) {
      console.error(`${topic}[${partition}]@${message.offset}: ${error}`); // Others may write here: left aside.
    }
    // A poll's changes come together; half of them are no sum.
    clearTimeout(timer);
    timer = setTimeout(judge, QUIET);
  },
});
