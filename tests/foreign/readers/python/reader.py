"""Prints what the CloudEvents SDK for Python makes of the first COUNT messages, a JSON line each.

reader.py kafka SERVERS TOPIC COUNT
reader.py nats URL STREAM COUNT
"""

import asyncio
import json
import sys

import nats
from cloudevents.core.bindings import http, kafka
from cloudevents.core.formats.json import JSONFormat
from confluent_kafka import Consumer

PATIENCE = 60  # seconds without a message


def show(event):
    attributes = {
        name: value.isoformat() if name == "time" else value for name, value in event.get_attributes().items()
    }
    print(json.dumps({"attributes": attributes, "data": event.get_data()}), flush=True)


def read_kafka(servers, topic, count):
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "python-reader",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
        }
    )
    consumer.subscribe([topic])
    for _ in range(count):
        record = consumer.poll(PATIENCE)
        if record is None or record.error():
            raise SystemExit(f"no message: {record.error() if record else 'timeout'}")
        message = kafka.KafkaMessage(dict(record.headers() or []), record.key(), record.value())
        show(kafka.from_kafka_event(message))
    consumer.close()


def from_nats(headers, payload):
    """The NATS binding by the SDK's others: the JSON format, and HTTP's headers, which are the same
    but for one name."""
    headers = {name.lower(): value for name, value in headers.items()}
    if headers.get("content-type", "").lower().startswith("application/cloudevents"):
        return JSONFormat().read(None, payload)
    if "ce-specversion" not in headers:
        raise ValueError("the message is no CloudEvent")
    headers["content-type"] = headers.pop("ce-datacontenttype", "application/json")
    return http.from_binary_event(http.HTTPMessage(headers, payload))


async def read_nats(url, stream, count):
    connection = await nats.connect(url)
    messages = await connection.jetstream().subscribe(">", stream=stream, ordered_consumer=True)
    for _ in range(count):
        message = await messages.next_msg(timeout=PATIENCE)
        show(from_nats(message.headers or {}, message.data))
    await connection.close()


if __name__ == "__main__":
    kind, address, log, count = sys.argv[1:]
    if kind == "kafka":
        read_kafka(address, log, int(count))
    else:
        asyncio.run(read_nats(address, log, int(count)))
