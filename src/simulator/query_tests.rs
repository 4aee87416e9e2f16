use super::*;

const NOW: &str = "2026-11-24T15:30:00Z";

fn parse(body: &str) -> Result<Query, Refusal> {
    Query::parse(body.as_bytes(), Limits::At(NOW.parse().unwrap()))
}

fn body(granularity: &str, start: &str, end: &str) -> String {
    format!(
        r#"{{"TimePeriod": {{"Start": "{start}", "End": "{end}"}}, "Granularity": "{granularity}",
             "Metrics": ["UnblendedCost"]}}"#
    )
}

#[track_caller]
fn check(body: &str, expected: Option<&str>) {
    match (parse(body), expected) {
        (Ok(_), None) => {}
        (Err(refusal), Some(message)) => assert!(refusal.message.contains(message), "{body}\n{refusal:?}"),
        (result, expected) => panic!("{body}\n{result:?}\n{expected:?}"),
    }
}

#[test]
fn periods_are_accepted_or_refused_as_at_aws() {
    const MONTHS: &str =
        "To retrieve data beyond the past 14 months, your start date needs to be the first day of the month.";
    const HOURS: &str = "Start date is more than 14 days ago for hourly granularity.";
    const ORDER: &str = "Start date (and hour) should be before end date (and hour)";
    const PATTERN: &str = "failed to satisfy constraint: Member must satisfy regular expression pattern";
    for (granularity, start, end, expected) in [
        ("DAILY", "2026-11-01", "2026-11-25", None),
        ("DAILY", "2026-11-24", "2026-11-25", None),
        ("DAILY", "2026-11-01", "2026-12-01", None),
        ("DAILY", "2026-11-01", "2026-12-02", Some("end date past the beginning of next month")),
        ("MONTHLY", "2026-01-24", "2026-12-01", None),
        ("DAILY", "2026-11-25", "2026-11-26", Some("no later than today")),
        ("DAILY", "2026-11-24", "2026-11-24", Some(ORDER)),
        ("DAILY", "2026-11-24", "2026-11-23", Some(ORDER)),
        ("DAILY", "2025-10-01", "2026-11-25", None),
        ("DAILY", "2025-09-30", "2026-11-25", Some(MONTHS)),
        ("MONTHLY", "2025-09-30", "2026-11-25", Some(MONTHS)),
        ("DAILY", "2025-09-01", "2026-11-25", Some("historical data beyond 14 months")),
        ("DAILY", "2026-11-1", "2026-11-25", Some(PATTERN)),
        ("DAILY", "2026-11-01T00:00:00", "2026-11-25", Some(PATTERN)),
        ("DAILY", "2026-02-30", "2026-11-25", Some("is not a valid date")),
        ("DAILY", "2026-11-01T00:00:00Z", "2026-11-25T00:00:00Z", None),
        ("DAILY", "2026-11-01T01:00:00Z", "2026-11-25", Some("DAILY granularity needs dates")),
        ("HOURLY", "2026-11-24T00:00:00Z", "2026-11-25T00:00:00Z", None),
        ("HOURLY", "2026-11-10T15:00:00Z", "2026-11-24T16:00:00Z", None),
        ("HOURLY", "2026-11-10T14:00:00Z", "2026-11-24T16:00:00Z", Some(HOURS)),
        ("HOURLY", "2026-11-24", "2026-11-25", Some("HOURLY granularity needs dates")),
        ("HOURLY", "2026-11-24T00:30:00Z", "2026-11-25T00:00:00Z", Some("HOURLY granularity needs dates")),
        ("WEEKLY", "2026-11-01", "2026-11-25", Some("Value 'WEEKLY' at 'granularity'")),
    ] {
        check(&body(granularity, start, end), expected);
    }
}

#[test]
fn recorded_answers_may_be_of_any_year() {
    let asked = body("DAILY", "2014-02-03", "2014-02-05");
    assert!(Query::parse(asked.as_bytes(), Limits::Relaxed).is_ok());
    let hourly = body("HOURLY", "2014-02-03T00:00:00Z", "2014-02-05T00:00:00Z");
    assert!(Query::parse(hourly.as_bytes(), Limits::Relaxed).is_ok());
}

#[test]
fn other_members_are_accepted_or_refused_as_at_aws() {
    let valid = body("DAILY", "2026-11-01", "2026-11-25");
    let with = |members: &str| format!("{}, {members}}}", valid.trim_end_matches('}'));
    let group = |kind: &str, key: &str| format!(r#"{{"Type": "{kind}", "Key": "{key}"}}"#);
    let groups = |groups: &[String]| with(&format!(r#""GroupBy": [{}]"#, groups.join(",")));
    let service = group("DIMENSION", "SERVICE");
    check(&groups(std::slice::from_ref(&service)), None);
    check(&groups(&[service.clone(), group("TAG", "team")]), None);
    check(&groups(&[service.clone(), group("COST_CATEGORY", "unit")]), None);
    check(&groups(&[group("DIMENSION", "REGION"), group("DIMENSION", "AZ")]), None);
    check(&groups(&[service.clone(), group("TAG", "team"), group("TAG", "env")]), Some("At most 2"));
    check(&groups(&[service.clone(), service]), Some("different"));
    check(&groups(&[group("SERVICE", "SERVICE")]), Some("Group Definition type is invalid."));
    check(&groups(&[group("DIMENSION", "RESOURCE_ID")]), Some("Dimension RESOURCE_ID is not allowed."));
    check(&groups(&[group("TAG", "")]), Some("key is invalid"));
    check(&valid.replace(r#"["UnblendedCost"]"#, r#"["UNBLENDED_COST", "UnblendedCost"]"#), None);
    check(&valid.replace("UnblendedCost", "Unblended"), Some("Metric Unblended is not valid"));
    check(&valid.replace(r#"["UnblendedCost"]"#, "[]"), Some("Value null at 'metrics'"));
    check(&valid.replace("Metrics", "metrics"), Some("unknown member metrics"));
    check(&with(r#""Filter": {"And": []}"#), Some("And expression must have at least 2 operands"));
    check(r#"{"Granularity": "DAILY", "Metrics": ["UnblendedCost"]}"#, Some("Value null at 'timePeriod'"));
    check(r#"{"Metrics": ["UnblendedCost"]}"#, Some("Value null at 'granularity'"));
    check("[]", Some("no JSON object"));
    check("{", Some("no JSON object"));
}

#[test]
fn a_digest_covers_all_but_the_token() {
    let valid = body("DAILY", "2026-11-01", "2026-11-25");
    let with = |members: &str| parse(&format!("{}, {members}}}", valid.trim_end_matches('}'))).unwrap();
    let plain = parse(&valid).unwrap();
    assert_eq!(with(r#""NextPageToken": "t""#).digest, plain.digest);
    assert_eq!(with(r#""NextPageToken": null"#).token, None);
    let view = r#""BillingViewArn": "arn:aws:billing::111122223333:billingview/primary""#;
    assert_ne!(with(view).digest, plain.digest);
    assert_ne!(parse(&valid.replace("11-25", "11-24")).unwrap().digest, plain.digest);
}
