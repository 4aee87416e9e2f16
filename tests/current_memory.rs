//! What the current state costs in memory, counted by the allocator: a program of its own because of it.

#![allow(clippy::print_stdout, reason = "the figure is worth knowing: `--nocapture`")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::alloc::System;

use amazon_billing_source::consume::{Current, Event};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const KEYS: usize = 100_000;

/// With the figures of two metrics.
const BYTES_PER_KEY: usize = 200;

/// As `replay --current` reads it: a hundred thousand keys of thirty services and forty accounts, each
/// revised, and at no point more memory than that.
#[test]
fn a_key_takes_at_most_200_bytes() {
    let mut current = Current::default();
    let region = Region::new(ALLOCATOR);
    let mut worst = (0, 0);
    for number in 0..3 * KEYS {
        let (revision, key) = (number / KEYS + 1, number % KEYS);
        let line = line(key, revision);
        current.apply(&Event::read(line.as_bytes()).unwrap()).unwrap();
        drop(line);
        if number >= 10_000 && number % 16 == 0 {
            let change = region.change();
            let held = change.bytes_allocated - change.bytes_deallocated;
            worst = worst.max((held / (number + 1).min(KEYS), number));
        }
    }
    assert_eq!(current.len(), KEYS);
    let (bytes, events) = worst;
    assert!(bytes <= BYTES_PER_KEY, "{bytes} bytes per key after {events} events");
    println!("at most {bytes} bytes per key, after {events} events");
}

fn line(key: usize, revision: usize) -> String {
    let (day, in_day) = (key / 1_200, key % 1_200);
    let (month, day) = (day / 28 + 1, day % 28 + 1);
    let date = format!("2026-{month:02}-{day:02}");
    let (service, account) = (in_day / 40, 444_455_556_666 + in_day % 40);
    let amount = format!("{}.{:010}", key % 97, key * 7_919 + revision);
    format!(
        r#"{{"specversion":"1.0","id":"0d2b6f0e-5d0e-5c4f-9a43-0b7a1f0b8f11","source":"cloud.amazon.billing","type":"amazon.billing.daily","subject":"{date}/s","time":"2026-04-02T06:11:10Z","datacontenttype":"application/json","dataschema":"https://amazon-billing-source.github.io/schemas/amazon.billing.daily/1.0.0.json","change":"revised","partitionkey":"111122223333/daily/{date}/s/{account}","revision":{revision},"data":{{"date":"{date}","service":"Amazon Service Number {service}","amortizedCost":{{"amount":"{amount}","unit":"USD"}},"unblendedCost":{{"amount":"{amount}","unit":"USD"}},"granularity":"DAILY","periodStart":"{date}T00:00:00Z","periodEnd":"2026-12-31T00:00:00Z","accountId":"111122223333","estimated":true,"groups":{{"LINKED_ACCOUNT":"{account}"}}}}}}"#
    )
}
