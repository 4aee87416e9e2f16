//! A request of `GetCostAndUsage`: read from JSON, checked as AWS checks it.
//!
//! Nothing here computes an answer. Messages marked "AWS's own" are quoted from public reports;
//! for the others only the code is known.

use jiff::{Timestamp, civil::Date};
use serde_json::Value;

use super::{expression::Expression, refusal::Refusal};
use crate::cost::{CostMetric, midnight, query_digest, utc_date};

/// The length of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bucketing {
    Daily,
    Monthly,
    Hourly,
}

/// A dimension to group by or to filter by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Dimension {
    Service,
    LinkedAccount,
    Region,
    RecordType,
    /// One in which the invented charges do not differ.
    Other(&'static str),
}

const OTHERS: [&str; 10] = [
    "AZ",
    "INSTANCE_TYPE",
    "LEGAL_ENTITY_NAME",
    "INVOICING_ENTITY",
    "OPERATION",
    "PLATFORM",
    "PURCHASE_TYPE",
    "TENANCY",
    "USAGE_TYPE",
    "BILLING_ENTITY",
];

impl Dimension {
    /// The dimension of AWS's name, where it can be grouped and filtered by.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "SERVICE" => Self::Service,
            "LINKED_ACCOUNT" => Self::LinkedAccount,
            "REGION" => Self::Region,
            "RECORD_TYPE" => Self::RecordType,
            _ => Self::Other(OTHERS.into_iter().find(|other| *other == name)?),
        })
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Service => "SERVICE",
            Self::LinkedAccount => "LINKED_ACCOUNT",
            Self::Region => "REGION",
            Self::RecordType => "RECORD_TYPE",
            Self::Other(name) => name,
        }
    }
}

/// One `GroupBy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Dimension(Dimension),
    Tag(String),
    CostCategory(String),
    ProductAttribute(String),
}

impl Group {
    /// `Type` and `Key`, as in requests and in `GroupDefinitions`.
    pub(super) fn definition(&self) -> (&'static str, &str) {
        match self {
            Self::Dimension(dimension) => ("DIMENSION", dimension.name()),
            Self::Tag(key) => ("TAG", key),
            Self::CostCategory(key) => ("COST_CATEGORY", key),
            Self::ProductAttribute(key) => ("PRODUCT_ATTRIBUTE", key),
        }
    }

    /// Reads a `GroupDefinition`.
    pub(super) fn parse(json: &Value) -> Result<Self, Refusal> {
        let member = |name: &str| json.get(name).and_then(Value::as_str).unwrap_or_default();
        let key = member("Key").to_owned();
        match member("Type") {
            // AWS's own words.
            "DIMENSION" => Dimension::parse(&key)
                .map(Self::Dimension)
                .ok_or_else(|| Refusal::validation(&format!("Dimension {key} is not allowed."))),
            "TAG" | "COST_CATEGORY" | "PRODUCT_ATTRIBUTE" if key.is_empty() => {
                Err(Refusal::validation("Group Definition key is invalid."))
            }
            "TAG" => Ok(Self::Tag(key)),
            "COST_CATEGORY" => Ok(Self::CostCategory(key)),
            "PRODUCT_ATTRIBUTE" => Ok(Self::ProductAttribute(key)),
            // AWS's own words.
            _ => Err(Refusal::validation("Group Definition type is invalid.")),
        }
    }
}

/// A request that AWS would answer.
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub(super) granularity: Bucketing,
    /// First hour, counted from 1970-01-01T00:00Z.
    pub(super) start: i32,
    /// First hour after the period.
    pub(super) end: i32,
    /// In the order of the request, each once.
    pub(super) metrics: Vec<CostMetric>,
    pub(super) group_by: Vec<Group>,
    pub(super) filter: Option<Expression>,
    pub(super) token: Option<String>,
    /// Differs where any member but the token differs.
    pub(super) digest: String,
    /// Differs where grouping or filter differ.
    pub(super) shape: String,
}

/// How far a period may reach.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limits {
    /// As at AWS at an instant.
    At(Timestamp),
    /// Only the order of start and end: recorded answers are of years ago, and a caller may be ahead.
    Relaxed,
}

impl Query {
    /// Reads and checks a request body.
    ///
    /// # Errors
    /// The refusal AWS would answer with.
    pub(super) fn parse(body: &[u8], limits: Limits) -> Result<Self, Refusal> {
        let json: Value = serde_json::from_slice(body)
            .ok()
            .filter(Value::is_object)
            .ok_or_else(|| Refusal::serialization("the body is no JSON object"))?;
        let members =
            ["TimePeriod", "Granularity", "Filter", "Metrics", "GroupBy", "BillingViewArn", "NextPageToken"];
        let present = json.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        if let Some((unknown, _)) = present.clone().find(|(key, _)| !members.contains(&key.as_str())) {
            return Err(Refusal::serialization(&format!("unknown member {unknown}")));
        }
        let bound: Vec<_> = present.filter(|(key, _)| *key != "NextPageToken").collect();
        let granularity = granularity(&json)?;
        let (start, end) = period(&json, granularity, limits)?;
        let metrics = metrics(&json)?;
        let group_by = group_by(&json)?;
        let filter = json.get("Filter").filter(|filter| !filter.is_null());
        let digest = query_digest(&format!("{bound:?}"));
        let shape = query_digest(&format!("{group_by:?} {filter:?}"));
        let filter = filter.map(Expression::parse).transpose()?;
        let token = json.get("NextPageToken").and_then(Value::as_str).map(str::to_owned);
        Ok(Self { granularity, start, end, metrics, group_by, filter, token, digest, shape })
    }
}

/// Which granularity a body asks for, readable even where the rest of it is not valid.
pub(super) fn granularity(json: &Value) -> Result<Bucketing, Refusal> {
    match json.get("Granularity") {
        Some(Value::String(text)) => match text.as_str() {
            "DAILY" => Ok(Bucketing::Daily),
            "MONTHLY" => Ok(Bucketing::Monthly),
            "HOURLY" => Ok(Bucketing::Hourly),
            other => Err(Refusal::constraint(
                &format!("'{other}'"),
                "granularity",
                "satisfy enum value set: [DAILY, MONTHLY, HOURLY]",
            )),
        },
        _ => Err(Refusal::constraint("null", "granularity", "not be null")),
    }
}

fn metrics(json: &Value) -> Result<Vec<CostMetric>, Refusal> {
    let names = json.get("Metrics").and_then(Value::as_array).filter(|names| !names.is_empty());
    let names = names.ok_or_else(|| Refusal::constraint("null", "metrics", "not be null"))?;
    let mut metrics = Vec::with_capacity(names.len());
    for name in names {
        let name = name.as_str().unwrap_or_default();
        // UPPER_SNAKE works at AWS too.
        let plain: String = name.chars().filter(|c| *c != '_').collect();
        let metric = CostMetric::ALL.into_iter().find(|metric| {
            metric.aws_name() == name
                || (name == name.to_uppercase() && metric.aws_name().eq_ignore_ascii_case(&plain))
        });
        let metric = metric.ok_or_else(|| Refusal::validation(&format!("Metric {name} is not valid.")))?;
        if !metrics.contains(&metric) {
            metrics.push(metric);
        }
    }
    Ok(metrics)
}

fn group_by(json: &Value) -> Result<Vec<Group>, Refusal> {
    let groups = json.get("GroupBy").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if groups.len() > 2 {
        return Err(Refusal::validation("At most 2 Group Definitions are allowed."));
    }
    let groups = groups.iter().map(Group::parse).collect::<Result<Vec<_>, _>>()?;
    if groups.len() == 2 && groups[0] == groups[1] {
        return Err(Refusal::validation("Group Definitions must be different."));
    }
    Ok(groups)
}

fn period(json: &Value, granularity: Bucketing, limits: Limits) -> Result<(i32, i32), Refusal> {
    let period = json.get("TimePeriod").filter(|period| period.is_object());
    let period = period.ok_or_else(|| Refusal::constraint("null", "timePeriod", "not be null"))?;
    let start = hour(period, "Start", granularity)?;
    let end = hour(period, "End", granularity)?;
    if start >= end {
        return Err(Refusal::validation("Start date (and hour) should be before end date (and hour)"));
    }
    let Limits::At(now) = limits else {
        return Ok((start, end));
    };
    let today = utc_date(now);
    let first = today.first_of_month();
    if start > hours(now) {
        return Err(Refusal::validation("Start date should be no later than today"));
    }
    if end > hours(midnight(first.saturating_add(jiff::Span::new().months(1)))) {
        // AWS's own words.
        return Err(Refusal::validation("end date past the beginning of next month"));
    }
    if granularity == Bucketing::Hourly {
        // The last hour that began 336 hours ago is still there.
        if start < hours(now) - 336 {
            // AWS's own words.
            return Err(Refusal::validation(
                "Start date is more than 14 days ago for hourly granularity. Please adjust start date as we \
                 support only 14 days of data at hourly granularity.",
            ));
        }
        return Ok((start, end));
    }
    if start < hours(midnight(first.saturating_sub(jiff::Span::new().months(13)))) {
        let begins = utc_date(instant(start));
        if begins.day() != 1 {
            // AWS's own words.
            return Err(Refusal::validation(
                "To retrieve data beyond the past 14 months, your start date needs to be the first day of the month.",
            ));
        }
        return Err(Refusal::validation("You haven't enabled historical data beyond 14 months"));
    }
    Ok((start, end))
}

/// The hour of a date or a timestamp, in the form the granularity asks for.
fn hour(period: &Value, member: &str, granularity: Bucketing) -> Result<i32, Refusal> {
    let place = format!("timePeriod.{}", member.to_lowercase());
    let Some(text) = period.get(member).and_then(Value::as_str) else {
        return Err(Refusal::constraint("null", &place, "not be null"));
    };
    if text.len() > 40 || !is_well_formed(text) {
        let rule = r"satisfy regular expression pattern: (\d{4}-\d{2}-\d{2})(T\d{2}:\d{2}:\d{2}Z)?";
        return Err(Refusal::constraint(&format!("'{text}'"), &place, rule));
    }
    let instant = if text.contains('T') {
        text.parse::<Timestamp>().ok()
    } else {
        text.parse::<Date>().ok().map(midnight)
    };
    let Some(instant) = instant else {
        return Err(Refusal::validation(&format!("{text} is not a valid date.")));
    };
    let (aligned, form) = match granularity {
        Bucketing::Hourly => (text.contains('T') && instant.as_second() % 3600 == 0, "yyyy-MM-ddThh:00:00Z"),
        _ => (instant.as_second() % 86_400 == 0, "yyyy-MM-dd"),
    };
    if !aligned {
        let name = format!("{granularity:?}").to_uppercase();
        return Err(Refusal::validation(&format!("{name} granularity needs dates of the form {form}.")));
    }
    Ok(hours(instant))
}

/// The pattern of the service model: `(\d{4}-\d{2}-\d{2})(T\d{2}:\d{2}:\d{2}Z)?`.
fn is_well_formed(text: &str) -> bool {
    let form: &[u8] = if text.len() > 10 { b"0000-00-00T00:00:00Z" } else { b"0000-00-00" };
    text.len() == form.len()
        && text.bytes().zip(form).all(|(c, f)| if *f == b'0' { c.is_ascii_digit() } else { c == *f })
}

/// Whole hours since 1970-01-01T00:00Z.
pub(super) fn hours(instant: Timestamp) -> i32 {
    i32::try_from(instant.as_second().div_euclid(3600)).expect("every timestamp is within 2^31 hours of 1970")
}

/// The first instant of an hour.
pub(super) fn instant(hours: i32) -> Timestamp {
    Timestamp::from_second(i64::from(hours) * 3600).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
