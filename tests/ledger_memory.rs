//! What the ledger costs in memory, counted by the allocator: a program of its own because of it.

use std::alloc::System;

use amazon_billing_source::{
    cost::{Amount, CostKey, CostMetric, Granularity, Period},
    dedup::{Ledger, Statement, Status},
};
use jiff::Timestamp;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const KEYS: usize = 1_000_000;

/// With the figures of two metrics, last published.
const BYTES_PER_KEY: usize = 120;

const SERVICES: [&str; 8] = [
    "AWS Key Management Service",
    "AWS Lambda",
    "Amazon EC2 Container Registry (ECR)",
    "Amazon Elastic Compute Cloud - Compute",
    "Amazon Relational Database Service",
    "Amazon Simple Storage Service",
    "AmazonCloudWatch",
    "EC2 - Other",
];

/// From ten thousand keys to a million, and at no point more: also not when it has just grown.
#[test]
fn a_key_takes_at_most_120_bytes() {
    let mut service = String::with_capacity(64);
    let mut ledger = Ledger::new();
    let region = Region::new(ALLOCATOR);
    let mut worst = (0, 0);
    for key in 0..KEYS {
        // 125 services in 40 accounts, hour by hour.
        let (hour, in_hour) = (key / 5_000, key % 5_000);
        let (number, account) = (in_hour / 40, in_hour % 40);
        service.clear();
        service.push_str(SERVICES[number % SERVICES.len()]);
        service.push_str(&(number / SERVICES.len()).to_string());
        let account = (444_455_556_666 + account).to_string();
        let hours = 490_000 + i32::try_from(hour).unwrap();
        let key_of_row = CostKey {
            period: Period::from_hours(Granularity::Hourly, hours).unwrap(),
            service: &service,
            group: Some(&account),
        };
        ledger.apply(&key_of_row, &statement(key));
        if key >= 10_000 && key % 16 == 0 {
            let change = region.change();
            let held = change.bytes_allocated - change.bytes_deallocated;
            worst = worst.max((held / key, key));
        }
    }
    assert_eq!(ledger.len(), KEYS);
    let (bytes, keys) = worst;
    assert!(bytes <= BYTES_PER_KEY, "{bytes} bytes per key at {keys} keys");
    println!("at most {bytes} bytes per key, at {keys} keys");
}

fn statement(key: usize) -> Statement {
    let amount = |text: String| Amount::parse(text, "USD".to_owned()).unwrap();
    Statement {
        revision: 1,
        amounts: [
            (CostMetric::AmortizedCost, amount(format!("{}.{:010}", key % 97, key * 7_919))),
            (CostMetric::UnblendedCost, amount(format!("{}.{:010}", key % 89, key * 7_907))),
        ]
        .into_iter()
        .collect(),
        estimated: true,
        status: Status::Live,
        observed_at: Timestamp::from_second(1_772_000_000).unwrap(),
    }
}
