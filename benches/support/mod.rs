//! What the measurements share: an account's answers of any size, in Cost Explorer's JSON.
//!
//! Nothing here is random: the same shape is the same bytes.

use std::fmt::Write as _;

use jiff::{ToSpan as _, civil::Date};

/// Services of a real account, as Cost Explorer names them.
pub(crate) const SERVICES: [&str; 30] = [
    "AWS Backup",
    "AWS CloudTrail",
    "AWS Config",
    "AWS Cost Explorer",
    "AWS Data Transfer",
    "AWS Glue",
    "AWS Key Management Service",
    "AWS Lambda",
    "AWS Secrets Manager",
    "AWS Step Functions",
    "AWS Support (Business)",
    "AWS WAF",
    "Amazon CloudFront",
    "Amazon DynamoDB",
    "Amazon EC2 Container Registry (ECR)",
    "Amazon ElastiCache",
    "Amazon Elastic Compute Cloud - Compute",
    "Amazon Elastic File System",
    "Amazon Elastic Load Balancing",
    "Amazon GuardDuty",
    "Amazon Kinesis",
    "Amazon Managed Streaming for Apache Kafka",
    "Amazon Relational Database Service",
    "Amazon Route 53",
    "Amazon Simple Notification Service",
    "Amazon Simple Queue Service",
    "Amazon Simple Storage Service",
    "Amazon Virtual Private Cloud",
    "AmazonCloudWatch",
    "EC2 - Other",
];

/// Which rows an account has: every service in every linked account on every day.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// The first day.
    pub(crate) from: Date,
    /// How many days.
    pub(crate) days: usize,
    /// How many linked accounts.
    pub(crate) accounts: usize,
}

impl Shape {
    /// Rows in all.
    pub(crate) const fn rows(self) -> usize {
        self.days * SERVICES.len() * self.accounts
    }

    /// One answer with so many rows from the `first` on, days in order. `version` is in every amount:
    /// another version is another amount in every row. `next`: the token of the page after it.
    pub(crate) fn answer(self, first: usize, rows: usize, version: usize, next: Option<usize>) -> String {
        let per_day = SERVICES.len() * self.accounts;
        let end = (first + rows).min(self.rows());
        let mut json = String::with_capacity(rows * 230 + 1024);
        json.push('{');
        if let Some(next) = next {
            write!(json, "\"NextPageToken\":\"{next}\",").expect("a String takes everything");
        }
        json.push_str("\"GroupDefinitions\":[{\"Key\":\"SERVICE\",\"Type\":\"DIMENSION\"},{\"Key\":\"LINKED_ACCOUNT\",\"Type\":\"DIMENSION\"}],\"ResultsByTime\":[");
        for row in first..end {
            let (day, in_day) = (row / per_day, row % per_day);
            if row == first || in_day == 0 {
                if row != first {
                    json.push_str("]},");
                }
                let start = self.from.saturating_add(i64::try_from(day).expect("few days").days());
                let end = start.saturating_add(1.day());
                write!(json, "{{\"Estimated\":true,\"TimePeriod\":{{\"End\":\"{end}\",\"Start\":\"{start}\"}},\"Total\":{{}},\"Groups\":[")
                    .expect("a String takes everything");
            } else {
                json.push(',');
            }
            group(&mut json, in_day, row, version, self.accounts);
        }
        json.push_str(if end > first { "]}]" } else { "]" });
        json.push_str(",\"DimensionValueAttributes\":[");
        for account in 0..self.accounts {
            let comma = if account == 0 { "" } else { "," };
            write!(
                json,
                "{comma}{{\"Attributes\":{{\"description\":\"team {account}\"}},\"Value\":\"{}\"}}",
                id(account)
            )
            .expect("a String takes everything");
        }
        json.push_str("]}");
        json
    }
}

fn group(json: &mut String, in_day: usize, row: usize, version: usize, accounts: usize) {
    let service = SERVICES[in_day / accounts];
    let account = id(in_day % accounts);
    // Ten decimals, as most of Cost Explorer's figures have.
    let digits = (row * 7_919 + version * 104_729) % 9_999_999_999 + 1;
    let whole = row % 97;
    write!(
        json,
        "{{\"Keys\":[\"{service}\",\"{account}\"],\"Metrics\":{{\"AmortizedCost\":{{\"Amount\":\"{whole}.{digits:010}\",\"Unit\":\"USD\"}},\"UnblendedCost\":{{\"Amount\":\"{whole}.{digits:010}\",\"Unit\":\"USD\"}}}}}}"
    )
    .expect("a String takes everything");
}

/// A linked account's number.
fn id(account: usize) -> String {
    format!("{}", 444_455_556_666 + account)
}
