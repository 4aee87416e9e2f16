use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::simulator::query::Limits;

/// A date, the flag, and rows of service and amount.
type Recording<'a> = (&'a str, bool, &'a [(&'a str, &'a str)]);

fn answer(days: &[Recording<'_>]) -> Value {
    let results: Vec<_> = days
        .iter()
        .map(|(date, estimated, rows)| {
            let next = date.parse::<Date>().unwrap().tomorrow().unwrap().to_string();
            let groups: Vec<_> = rows
                .iter()
                .map(|(service, amount)| {
                    json!({"Keys": [service], "Metrics": {"UnblendedCost": {"Amount": amount, "Unit": "USD"}}})
                })
                .collect();
            json!({"TimePeriod": {"Start": date, "End": next}, "Total": {}, "Groups": groups, "Estimated": estimated})
        })
        .collect();
    json!({"GroupDefinitions": [{"Type": "DIMENSION", "Key": "SERVICE"}], "ResultsByTime": results})
}

fn folder(files: &[(&str, String)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn query(granularity: &str, start: &str, end: &str, group: &str) -> Query {
    let body = json!({
        "TimePeriod": {"Start": start, "End": end},
        "Granularity": granularity,
        "Metrics": ["UnblendedCost", "AmortizedCost"],
        "GroupBy": [{"Type": "DIMENSION", "Key": group}],
    });
    Query::parse(body.to_string().as_bytes(), Limits::Relaxed).unwrap()
}

/// Periods and rows of an answer, as text.
fn served(recorded: &Recorded, query: &Query) -> Vec<String> {
    let buckets = recorded.buckets(query);
    let row = |row: &Row| format!("{}={}", row.keys.join("/"), row.figures[0].1.amount);
    let rows = |bucket: &Bucket| bucket.rows.iter().map(row).collect::<Vec<_>>().join(" ");
    buckets
        .iter()
        .map(|bucket| format!("{} {} {}", bucket.start / 24, bucket.estimated, rows(bucket)))
        .collect()
}

#[test]
fn what_was_recorded_is_served_as_it_was() {
    let first = answer(&[
        ("2014-02-01", false, &[("AWS Lambda", "0"), ("Tax", "3.30")]),
        ("2014-02-02", false, &[("AWS Lambda", "0.0000000001")]),
    ]);
    let second = answer(&[("2014-02-02", true, &[("Tax", "1E-3")]), ("2014-02-04", true, &[])]);
    let folder = folder(&[("a.json", first.to_string()), ("b.json", json!([second]).to_string())]);
    let recorded = Recorded::load(folder.path()).unwrap();
    let date = |text: &str| text.parse::<Date>().unwrap();
    assert_eq!(recorded.days(), Some((date("2014-02-01"), date("2014-02-04"))));
    assert_eq!(recorded.metrics(), [CostMetric::UnblendedCost]);
    assert_eq!(recorded.count(CostMetric::UnblendedCost), (4, 3));
    assert_eq!(recorded.totals(CostMetric::UnblendedCost)["Tax"], Decimal::new(3301, 3));
    let all = served(&recorded, &query("DAILY", "2014-01-01", "2015-01-01", "SERVICE"));
    let expected =
        ["16102 false AWS Lambda=0 Tax=3.30", "16103 true AWS Lambda=0.0000000001 Tax=1E-3", "16105 true "];
    assert_eq!(all, expected);
    for (granularity, start, end, group, count) in [
        ("DAILY", "2014-02-02", "2014-02-04", "SERVICE", 1),
        ("DAILY", "2014-02-02", "2014-02-05", "SERVICE", 2),
        ("DAILY", "2015-02-02", "2015-02-05", "SERVICE", 0),
        ("DAILY", "2014-02-02", "2014-02-05", "REGION", 0),
        ("MONTHLY", "2014-02-01", "2014-03-01", "SERVICE", 0),
    ] {
        let query = query(granularity, start, end, group);
        assert_eq!(recorded.buckets(&query).len(), count, "{granularity} {start} {end} {group}");
    }
}

#[test]
fn other_files_are_listed_and_bad_figures_refused_by_row() {
    let good = answer(&[("2014-02-01", false, &[("Tax", "3.30")])]).to_string();
    let bad = answer(&[("2014-02-01", false, &[("Tax", "3.30"), ("AWS Lambda", "x.xx")])]).to_string();
    let folder = folder(&[
        ("bad.json", bad),
        ("error.json", r#"{"__type": "ValidationException"}"#.to_owned()),
        ("good.json", good),
        ("notes.md", "no JSON".to_owned()),
        ("text.json", "no JSON".to_owned()),
    ]);
    let recorded = Recorded::load(folder.path()).unwrap();
    let skipped: Vec<_> = recorded
        .skipped
        .iter()
        .map(|file| (file.path.file_name().unwrap().to_str().unwrap(), file.reason.as_str()))
        .collect();
    assert_eq!(skipped[0].0, "bad.json");
    let row = "period 2014-02-01, row `AWS Lambda`, UnblendedCost: `x.xx` is not a decimal amount";
    assert!(skipped[0].1.starts_with(row), "{}", skipped[0].1);
    assert_eq!(skipped[1].0, "error.json");
    assert!(skipped[1].1.contains("`ResultsByTime`"));
    assert_eq!(skipped[2].0, "text.json");
    assert_eq!(skipped.len(), 3);
    let error = Recorded::load(&folder.path().join("bad.json")).unwrap_err().to_string();
    assert!(error.contains("bad.json") && error.contains(row), "{error}");
    assert!(matches!(Recorded::load(&folder.path().join("none")), Err(RecordedError::Unreadable { .. })));
    fs::remove_file(folder.path().join("good.json")).unwrap();
    let error = Recorded::load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("no recorded answers in") && error.contains("x.xx"), "{error}");
}

#[test]
fn granularity_and_grouping_are_told_by_the_answer() {
    let mut month = answer(&[("2014-02-01", false, &[("Tax", "3.30")])]);
    month["ResultsByTime"][0]["TimePeriod"]["End"] = json!("2014-03-01");
    let mut hour = answer(&[("2014-02-01", true, &[("Tax", "3.30")])]);
    hour["ResultsByTime"][0]["TimePeriod"] =
        json!({"Start": "2014-02-01T05:00:00Z", "End": "2014-02-01T06:00:00Z"});
    let mut bare = answer(&[("2014-02-01", false, &[("Tax", "4")])]);
    bare.as_object_mut().unwrap().remove("GroupDefinitions");
    for (json, granularity, time) in
        [(month, "MONTHLY", ""), (hour, "HOURLY", "T00:00:00Z"), (bare.clone(), "DAILY", "")]
    {
        let mut recorded = Recorded::default();
        recorded.add(&json.to_string()).unwrap();
        let (start, end) = (format!("2014-02-01{time}"), format!("2014-03-01{time}"));
        assert_eq!(recorded.buckets(&query(granularity, &start, &end, "SERVICE")).len(), 1, "{granularity}");
        assert_eq!(recorded.days().is_some(), granularity == "DAILY");
    }
    bare["ResultsByTime"][0]["Groups"][0]["Keys"] = json!(["Tax", "111122223333"]);
    assert!(Recorded::default().add(&bare.to_string()).unwrap_err().contains("`GroupDefinitions`"));
}

#[tokio::test]
async fn the_simulator_serves_recorded_days_of_any_year() {
    let text = answer(&[("2014-02-01", true, &[("Tax", "3.30")])]).to_string();
    let folder = folder(&[("a.json", text)]);
    let options = crate::simulator::Options {
        recorded: Some(Recorded::load(folder.path()).unwrap()),
        ..crate::simulator::Options::default()
    };
    let simulator = crate::simulator::Simulator::start(options, crate::clock::Clock::system()).await.unwrap();
    let (from, to) = ("2014-02-01".parse().unwrap(), "2014-02-03".parse().unwrap());
    let totals = simulator.totals("111122223333", CostMetric::UnblendedCost, from, to);
    assert_eq!(totals, BTreeMap::from([("Tax".to_owned(), Decimal::new(330, 2))]));
    assert!(simulator.totals("111122223333", CostMetric::BlendedCost, from, to).is_empty());
    assert!(simulator.estimated("111122223333", from));
    assert!(!simulator.estimated("111122223333", to));
}
