//! An answer of `GetCostAndUsage`: buckets of rows, cut into pages, as JSON.
//!
//! Where the rows come from is no matter here; amounts are texts and are never computed with.

use std::{borrow::Cow, fmt::Write as _, sync::Arc};

use super::{
    query::{Bucketing, Dimension, Group, Query},
    refusal::Refusal,
};
use crate::cost::{CostMetric, query_digest};

/// An amount as AWS writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Figure {
    pub(super) amount: String,
    pub(super) unit: Cow<'static, str>,
}

/// One Group of one bucket; without keys it is the bucket's `Total`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) keys: Vec<String>,
    pub(super) figures: Vec<(CostMetric, Figure)>,
}

/// One `ResultByTime`.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    /// First hour, counted from 1970-01-01T00:00Z.
    pub(super) start: i32,
    /// First hour after it.
    pub(super) end: i32,
    pub(super) estimated: bool,
    pub(super) rows: Arc<Vec<Row>>,
}

/// Which part of an answer a page holds, and the token of the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) offset: usize,
    pub(super) size: usize,
    pub(super) next: Option<String>,
}

/// Rows over all buckets; a bucket without rows counts as one, it is part of the answer too.
pub(super) fn length(buckets: &[Bucket]) -> usize {
    buckets.iter().map(|bucket| bucket.rows.len().max(1)).sum()
}

/// What a token says once it is found genuine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) offset: usize,
    /// The second whose books the first page showed; later pages show the same.
    pub(super) at: i64,
}

/// The token of a position, bound to the request and to the paying account.
pub(super) fn token(query: &Query, payer: &str, seed: u64, position: Position) -> String {
    let text = format!("{}.{}.{}", query.digest, position.offset, position.at);
    let check = query_digest(&format!("{seed}/{payer}/{text}"));
    format!("{text}.{check}")
}

/// Reads the token of a request.
///
/// # Errors
/// `InvalidNextTokenException` for a token that was never given out, `RequestChangedException` for
/// one that was given out for another request.
pub(super) fn position(query: &Query, payer: &str, seed: u64, token: &str) -> Result<Position, Refusal> {
    let invalid = || Refusal::new("InvalidNextTokenException", "Invalid next page token.");
    let (text, check) = token.rsplit_once('.').ok_or_else(invalid)?;
    if query_digest(&format!("{seed}/{payer}/{text}")) != check {
        return Err(invalid());
    }
    let mut parts = text.splitn(3, '.');
    let mut part = || parts.next().ok_or_else(invalid);
    if part()? != query.digest {
        return Err(Refusal::new(
            "RequestChangedException",
            "Your request parameters changed between pages. Try again with the old parameters or without a \
             pagination token.",
        ));
    }
    let offset = part()?.parse().map_err(|_| invalid())?;
    let at = part()?.parse().map_err(|_| invalid())?;
    Ok(Position { offset, at })
}

/// Writes a page. `names` are the linked accounts with their names.
pub(super) fn render(query: &Query, buckets: &[Bucket], page: &Page, names: &[(String, &str)]) -> String {
    let mut text = String::with_capacity(64 * 1024);
    let mut accounts: Vec<&str> = Vec::new();
    let account_place =
        query.group_by.iter().position(|group| *group == Group::Dimension(Dimension::LinkedAccount));
    if let Some(next) = &page.next {
        text.push_str("{\"NextPageToken\":");
        push_text(&mut text, next);
        text.push_str(",\"GroupDefinitions\":[");
    } else {
        text.push_str("{\"GroupDefinitions\":[");
    }
    for (number, group) in query.group_by.iter().enumerate() {
        let (kind, key) = group.definition();
        comma(&mut text, number);
        push_all(&mut text, &["{\"Type\":\"", kind, "\",\"Key\":"]);
        push_text(&mut text, key);
        text.push('}');
    }
    text.push_str("],\"ResultsByTime\":[");
    let (first, last) = (page.offset, page.offset.saturating_add(page.size));
    let (mut at, mut written) = (0, 0);
    for bucket in buckets {
        let from = at;
        at += bucket.rows.len().max(1);
        if at <= first || from >= last {
            continue;
        }
        let rows = bucket.rows.iter().skip(first.saturating_sub(from)).take(last - from.max(first));
        comma(&mut text, written);
        written += 1;
        push_bucket(&mut text, query, bucket, rows.clone());
        if let Some(place) = account_place {
            accounts.extend(rows.filter_map(|row| row.keys.get(place).map(String::as_str)));
        }
    }
    text.push_str("],\"DimensionValueAttributes\":[");
    accounts.sort_unstable();
    accounts.dedup();
    for (number, account) in accounts.into_iter().enumerate() {
        comma(&mut text, number);
        text.push_str("{\"Value\":");
        push_text(&mut text, account);
        text.push_str(",\"Attributes\":{");
        if let Some((_, name)) = names.iter().find(|(id, _)| id == account) {
            text.push_str("\"description\":");
            push_text(&mut text, name);
        }
        text.push_str("}}");
    }
    text.push_str("]}");
    text
}

fn push_bucket<'a>(text: &mut String, query: &Query, bucket: &Bucket, rows: impl Iterator<Item = &'a Row>) {
    let (start, end) = (label(bucket.start, query.granularity), label(bucket.end, query.granularity));
    push_all(text, &["{\"TimePeriod\":{\"Start\":\"", &start, "\",\"End\":\"", &end, "\"},\"Total\":"]);
    let grouped = !query.group_by.is_empty();
    text.push_str(if grouped { "{},\"Groups\":[" } else { "" });
    let mut total = false;
    for (number, row) in rows.enumerate() {
        if grouped {
            comma(text, number);
            text.push_str("{\"Keys\":[");
            for (place, key) in row.keys.iter().enumerate() {
                comma(text, place);
                push_text(text, key);
            }
            text.push_str("],\"Metrics\":");
        }
        push_figures(text, query, row);
        text.push_str(if grouped { "}" } else { "" });
        total = true;
    }
    if grouped {
        text.push(']');
    } else {
        text.push_str(if total { ",\"Groups\":[]" } else { "{},\"Groups\":[]" });
    }
    push_all(text, &[",\"Estimated\":", if bucket.estimated { "true" } else { "false" }, "}"]);
}

fn push_figures(text: &mut String, query: &Query, row: &Row) {
    text.push('{');
    let mut written = 0;
    for metric in &query.metrics {
        let Some((_, figure)) = row.figures.iter().find(|(of, _)| of == metric) else {
            continue;
        };
        comma(text, written);
        written += 1;
        push_all(text, &["\"", metric.aws_name(), "\":{\"Amount\":\"", &figure.amount, "\",\"Unit\":"]);
        push_text(text, &figure.unit);
        text.push('}');
    }
    text.push('}');
}

/// A date, or a timestamp for hours.
fn label(hour: i32, granularity: Bucketing) -> String {
    let time = jiff::tz::Offset::UTC.to_datetime(super::query::instant(hour));
    match granularity {
        Bucketing::Hourly => time.strftime("%Y-%m-%dT%H:00:00Z").to_string(),
        _ => time.date().to_string(),
    }
}

fn comma(text: &mut String, number: usize) {
    if number > 0 {
        text.push(',');
    }
}

fn push_all(text: &mut String, parts: &[&str]) {
    for part in parts {
        text.push_str(part);
    }
}

/// A JSON string.
fn push_text(text: &mut String, value: &str) {
    if value.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\') {
        push_all(text, &["\"", value, "\""]);
    } else {
        write!(text, "{}", serde_json::Value::from(value)).expect("a String takes all that is written");
    }
}
