"""Spend per service in SQLite, from Kafka: the highest revision per key, every amount exact.

    python3 -m venv .venv && .venv/bin/pip install -r requirements.txt
    .venv/bin/python spend.py follow [SERVERS] [TOPIC]     # until stopped; localhost:9092 amazon-billing
    .venv/bin/python spend.py show                         # what it came to, any time

Figures and positions move in one transaction of the database, so that whatever is killed when, none is
lost and none counted twice. Several processes may follow with one database: they share the partitions.
A topic that was made anew begins anew: remove spend.db then.
"""

import contextlib
import sqlite3
import sys
from decimal import Decimal, Inexact, getcontext

from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka_event
from confluent_kafka import Consumer, KafkaException, TopicPartition

TABLES = """
CREATE TABLE IF NOT EXISTS figure (key TEXT PRIMARY KEY, revision INTEGER, date TEXT, service TEXT,
                                   amount TEXT, unit TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS position (topic TEXT, partition INTEGER, next INTEGER, PRIMARY KEY (topic, partition));
"""
# The whole rule. A removed row is a revision with the amount 0: kept, so that no older one comes back.
KEEP = """
INSERT INTO figure VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET
revision = excluded.revision, amount = excluded.amount, unit = excluded.unit WHERE excluded.revision > revision
"""


def open_database():
    database = sqlite3.connect("spend.db", timeout=60, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.executescript(TABLES)
    return database


def figure(record):
    """The row of a record, or None for what is not counted here."""
    headers, key, value = dict(record.headers() or []), record.key(), record.value()
    try:
        event = from_kafka_event(KafkaMessage(headers, key, value))
        data = event.get_data()
        # Hours, and a second grouping, are the same money again.
        if data["granularity"] != "DAILY" or "groups" in data:
            return None
        cost = data["unblendedCost"]
        Decimal(cost["amount"])  # What is no number shall not be kept.
        revision = int(event.get_extension("revision"))  # A text in binary mode.
        row = (event.get_extension("partitionkey"), revision, data["date"], data["service"])
        return row + (cost["amount"], cost["unit"])
    except Exception as error:  # Others may write here: said, and left aside.
        print(f"{record.topic()}[{record.partition()}]@{record.offset()}: {error!r}", file=sys.stderr)
        return None


def follow(servers="localhost:9092", topic="amazon-billing"):
    database = open_database()
    settings = {"bootstrap.servers": servers, "group.id": "spend-per-service", "enable.auto.commit": False}
    settings |= {"isolation.level": "read_committed", "auto.offset.reset": "earliest"}
    settings |= {"session.timeout.ms": 10_000}  # Then others take over what a killed one had.
    consumer = Consumer(settings)

    def start(consumer, partitions):
        known = dict(database.execute("SELECT partition, next FROM position WHERE topic = ?", (topic,)))
        at = [TopicPartition(topic, p.partition, known.get(p.partition, p.offset)) for p in partitions]
        consumer.assign(at)

    consumer.subscribe([topic], on_assign=start)
    while True:
        records = consumer.consume(500, timeout=1.0)
        if failed := next((record.error() for record in records if record.error()), None):
            raise KafkaException(failed)
        if records:
            database.execute("BEGIN IMMEDIATE")
            database.executemany(KEEP, filter(None, map(figure, records)))
            # In the order read: of a partition the last one stays.
            seen = [(topic, record.partition(), record.offset() + 1) for record in records]
            database.executemany("INSERT OR REPLACE INTO position VALUES (?, ?, ?)", seen)
            database.execute("COMMIT")


def show():
    getcontext().prec = 100  # The usual 28 digits round a long sum.
    getcontext().traps[Inexact] = True
    totals = {}
    for service, unit, amount in open_database().execute("SELECT service, unit, amount FROM figure"):
        totals[service, unit] = totals.get((service, unit), Decimal(0)) + Decimal(amount)
    for (service, unit), total in sorted(totals.items(), key=lambda item: -item[1]):
        print(f"{total:>24f} {unit}  {service}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        {"follow": follow, "show": show}[sys.argv[1]](*sys.argv[2:])
