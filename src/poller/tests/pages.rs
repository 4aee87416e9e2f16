//! What a page becomes, and what is refused.

use super::{
    server::{Answer, Server},
    *,
};
use crate::{cost::GroupBy, poller::PageGuard};

const TWO_DAYS: &str = r#"{"ResultsByTime":[
 {"TimePeriod":{"Start":"2026-03-01","End":"2026-03-02"},"Total":{},"Estimated":true,"Groups":[
  {"Keys":["Amazon Simple Storage Service"],"Metrics":{"UnblendedCost":{"Amount":"0.2672917174","Unit":"USD"}}},
  {"Keys":["Tax"],"Metrics":{"UnblendedCost":{"Amount":"0","Unit":"USD"}}}]},
 {"TimePeriod":{"Start":"2026-03-02","End":"2026-03-03"},"Total":{},"Groups":[
  {"Keys":["AmazonCloudWatch"],"Metrics":{"UnblendedCost":{"Amount":"-0.0000000289","Unit":"USD"}}}]},
 {"TimePeriod":{"Start":"2026-03-03","End":"2026-03-04"},"Total":{},"Groups":[],"Estimated":true}],
 "GroupDefinitions":[{"Type":"DIMENSION","Key":"SERVICE"}],"NextPageToken":"token-2"}"#;

#[tokio::test]
async fn a_page_is_every_group_of_every_period() {
    let headers = vec![("date", "Sun, 15 Mar 2026 08:01:00 GMT".to_owned())];
    let server = Server::start([Answer::Http(200, headers, TWO_DAYS.to_owned())]).await;
    let client = client(&connection(&server.url)).await;
    let page = client.page(&window(), None).await.unwrap();
    insta::assert_snapshot!(lines(&page), @"
        2026-03-01 Amazon Simple Storage Service: UnblendedCost 0.2672917174 USD estimated
        2026-03-01 Tax: UnblendedCost 0 USD estimated
        2026-03-02 AmazonCloudWatch: UnblendedCost -0.0000000289 USD
        ");
    assert_eq!(page.next.as_deref(), Some("token-2"));
    assert_eq!(page.observed_at, at("2026-03-15T08:01:00Z"));
    assert_eq!(client.take_spent(), 1);
    assert_eq!(client.take_spent(), 0);
}

/// The page of one answer, or the error.
async fn read(
    window: Window,
    answer: Answer,
    change: impl FnOnce(&mut ConnectionConfig),
) -> Result<Page, FetchError> {
    let server = Server::start([answer]).await;
    let mut connection = connection(&server.url);
    change(&mut connection);
    let client = client(&connection).await;
    let page = client.page(&window, None).await;
    assert_eq!(client.take_spent(), 1, "read or not, it was a page");
    page.map_err(|mut error| {
        error.hint = error.hint.map(|hint| hint.replace(&server.url, "http://server"));
        error
    })
}

/// A day's answer with these groups.
fn day(groups: &serde_json::Value) -> Answer {
    let result = serde_json::json!({
        "TimePeriod": {"Start": "2026-03-01", "End": "2026-03-02"}, "Estimated": true, "Groups": groups,
    });
    Answer::json(&serde_json::json!({ "ResultsByTime": [result] }).to_string())
}

fn usd(text: &str) -> serde_json::Value {
    serde_json::json!({ "UnblendedCost": {"Amount": text, "Unit": "USD"} })
}

#[tokio::test]
async fn two_pages_of_three_days() {
    let page = |next: &str, service: &str| {
        let days = (1..=3).map(|day| {
            serde_json::json!({
                "TimePeriod": {"Start": format!("2026-03-0{day}"), "End": format!("2026-03-0{}", day + 1)},
                "Groups": [{"Keys": [service], "Metrics": usd(&format!("{day}.5"))}],
            })
        });
        let days: Vec<_> = days.collect();
        Answer::json(&serde_json::json!({"ResultsByTime": days, "NextPageToken": next}).to_string())
    };
    let server = Server::start([page("2", "Tax"), page("", "AWS Lambda")]).await;
    let client = client(&connection(&server.url)).await;
    let mut guard = PageGuard::new(2);
    let mut texts = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let page = client.page(&window(), token.as_deref()).await.unwrap();
        guard.follow(page.next.as_deref()).unwrap();
        texts.push(lines(&page));
        token = page.next;
        if token.is_none() {
            break;
        }
    }
    insta::assert_snapshot!(texts.join("\n"), @"
        2026-03-01 Tax: UnblendedCost 1.5 USD
        2026-03-02 Tax: UnblendedCost 2.5 USD
        2026-03-03 Tax: UnblendedCost 3.5 USD
        2026-03-01 AWS Lambda: UnblendedCost 1.5 USD
        2026-03-02 AWS Lambda: UnblendedCost 2.5 USD
        2026-03-03 AWS Lambda: UnblendedCost 3.5 USD
        ");
    assert_eq!(client.take_spent(), 2);
}

#[tokio::test]
async fn an_empty_answer_is_a_page_without_records() {
    for body in ["{}", r#"{"ResultsByTime":[],"NextPageToken":""}"#] {
        let page = read(window(), Answer::json(body), |_| ()).await.unwrap();
        assert!(page.records.is_empty() && page.group_names.is_empty() && page.next.is_none());
    }
}

#[tokio::test]
async fn tags_and_categories_lose_their_key_and_may_be_empty() {
    let groups = serde_json::json!([
        {"Keys": ["Tax", "team$"], "Metrics": usd("1")},
        {"Keys": ["Tax", "team$web$1"], "Metrics": usd("2")},
        {"Keys": ["Tax", "team$team$"], "Metrics": usd("3")},
    ]);
    for group_by in [GroupBy::Tag("team".to_owned()), GroupBy::CostCategory("team".to_owned())] {
        let page = read(window(), day(&groups), |c| c.group_by = Some(group_by)).await.unwrap();
        let values: Vec<_> = page.records.iter().map(|record| record.group.as_deref().unwrap()).collect();
        assert_eq!(values, ["", "web$1", "team$"]);
    }
    let page =
        read(window(), day(&groups), |c| c.group_by = Some(GroupBy::Dimension("REGION".to_owned()))).await;
    assert_eq!(page.unwrap().records[1].group.as_deref(), Some("team$web$1"));
}

#[tokio::test]
async fn accounts_have_names() {
    let body = serde_json::json!({
        "ResultsByTime": [{"TimePeriod": {"Start": "2026-03-01", "End": "2026-03-02"}, "Groups": [
            {"Keys": ["Tax", "111122223333"], "Metrics": usd("1E-7")},
        ]}],
        "DimensionValueAttributes": [
            {"Value": "111122223333", "Attributes": {"description": "production"}},
            {"Value": "444455556666", "Attributes": {"other": "x"}},
            {"Value": "777788889999"},
            {"Attributes": {"description": "of nothing"}},
        ],
    });
    let answer = Answer::json(&body.to_string());
    let linked =
        |c: &mut ConnectionConfig| c.group_by = Some(GroupBy::Dimension("LINKED_ACCOUNT".to_owned()));
    let page = read(window(), answer, linked).await.unwrap();
    assert_eq!(
        page.group_names.into_iter().collect::<Vec<_>>(),
        [("111122223333".to_owned(), "production".to_owned())]
    );
    assert_eq!(page.records[0].group.as_deref(), Some("111122223333"));
}

#[tokio::test]
async fn metrics_come_in_their_order_whatever_the_answers() {
    let value = serde_json::json!({"Amount": "1", "Unit": "USD"});
    let groups = serde_json::json!([{"Keys": ["Tax"], "Metrics": {
        "UsageQuantity": {"Amount": "7", "Unit": "N/A"}, "UnblendedCost": value, "NormalizedUsageAmount": value,
        "NetUnblendedCost": value, "NetAmortizedCost": value, "BlendedCost": value, "AmortizedCost": value,
    }}]);
    let page = read(window(), day(&groups), |c| c.metrics = CostMetric::ALL.to_vec()).await.unwrap();
    let metrics: Vec<_> = page.records[0].amounts.iter().map(|&(metric, _)| metric).collect();
    assert_eq!(metrics, CostMetric::ALL);
}

#[tokio::test]
async fn hours_are_read() {
    let body = serde_json::json!({"ResultsByTime": [{
        "TimePeriod": {"Start": "2026-03-15T06:00:00Z", "End": "2026-03-15T07:00:00Z"},
        "Groups": [{"Keys": ["Tax"], "Metrics": usd("1")}],
    }]});
    let page = read(hours(), Answer::json(&body.to_string()), |_| ()).await.unwrap();
    insta::assert_snapshot!(lines(&page), @"2026-03-15T06 Tax: UnblendedCost 1 USD");
}

#[tokio::test]
async fn what_does_not_fit_is_refused_by_name() {
    let result = |start: &str, end: &str| {
        let groups = serde_json::json!([{"Keys": ["Tax"], "Metrics": usd("1")}]);
        let result = serde_json::json!({"TimePeriod": {"Start": start, "End": end}, "Groups": groups});
        Answer::json(&serde_json::json!({ "ResultsByTime": [result] }).to_string())
    };
    let group = |keys: serde_json::Value, metrics: serde_json::Value| {
        day(&serde_json::json!([{"Keys": keys, "Metrics": metrics}]))
    };
    let grouped = Some(GroupBy::Tag("team".to_owned()));
    let mut texts = Vec::new();
    for (answer, group_by) in [
        (Answer::json(r#"{"ResultsByTime":[{"Groups":[]}]}"#), None),
        (result("2026-03-01", "2026-04-01"), None),
        (result("2026-03-01T00:00:00Z", "2026-03-01T01:00:00Z"), None),
        (result("2026-01-31", "2026-02-01"), None),
        (result("2026-03-16", "2026-03-17"), None),
        (group(serde_json::json!([]), usd("1")), None),
        (group(serde_json::json!(["Tax", "more"]), usd("1")), None),
        (group(serde_json::json!(["Tax"]), usd("1")), grouped.clone()),
        (group(serde_json::json!(["Tax", "team$a", "b"]), usd("1")), grouped.clone()),
        (group(serde_json::json!(["Tax", "other$a"]), usd("1")), grouped),
        (group(serde_json::json!(["Tax"]), usd("x.xx")), None),
        (group(serde_json::json!(["Tax"]), usd("")), None),
        (group(serde_json::json!(["Tax"]), serde_json::json!({})), None),
        (
            group(
                serde_json::json!(["Tax"]),
                serde_json::json!({"BlendedCost": {"Amount": "1", "Unit": "USD"}}),
            ),
            None,
        ),
        (
            group(serde_json::json!(["Tax"]), serde_json::json!({"NewCost": {"Amount": "1", "Unit": "USD"}})),
            None,
        ),
        (group(serde_json::json!(["Tax"]), serde_json::json!({"UnblendedCost": {"Amount": "1"}})), None),
        (group(serde_json::json!(["Tax"]), serde_json::json!({"UnblendedCost": {"Unit": "USD"}})), None),
        (day(&serde_json::json!([{}])), None),
        (
            Answer::json(
                r#"{"ResultsByTime":[{"TimePeriod":{"Start":"2026-03-01","End":"2026-03-02"},"Groups":[{"Keys":["Tax"],
                "Metrics":{"UnblendedCost":{"Amount":"1","Unit":"USD"},"UnblendedCost":{"Amount":"2","Unit":"USD"}}}]}]}"#,
            ),
            None,
        ),
        (Answer::json(r#"{"ResultsByTime":[],"ResultsByTime":[]}"#), None),
    ] {
        let error = read(window(), answer, |c| c.group_by = group_by).await.unwrap_err();
        assert_eq!(error.kind.name(), "malformed");
        let message = error.to_string();
        texts.push(message.split_once("`main`: ").unwrap().1.to_owned());
    }
    insta::assert_snapshot!(texts.join("\n"), @"
        a result has no `TimePeriod`
        the period `2026-03-01` to `2026-04-01` is no daily period
        the period `2026-03-01T00:00:00Z` to `2026-03-01T01:00:00Z` is no daily period
        the period `2026-01-31` was not asked for
        the period `2026-03-16` was not asked for
        a row of `2026-03-01` has 0 keys instead of 1
        a row of `2026-03-01` has 2 keys instead of 1
        a row of `2026-03-01` has 1 keys instead of 2
        a row of `2026-03-01` has 3 keys instead of 2
        the row `Tax` of `2026-03-01` has the group key `other$a` without its name
        the row `Tax` of `2026-03-01` has a bad `UnblendedCost`: `x.xx` is not a decimal amount of at most 28 digits
        the row `Tax` of `2026-03-01` has a bad `UnblendedCost`: `` is not a decimal amount of at most 28 digits
        the row `Tax` of `2026-03-01` has no `UnblendedCost`
        the row `Tax` of `2026-03-01` has the metric `BlendedCost`, which was not asked for
        the row `Tax` of `2026-03-01` has the metric `NewCost`, which was not asked for
        the row `Tax` of `2026-03-01` has no unit of `UnblendedCost`
        the row `Tax` of `2026-03-01` has no amount of `UnblendedCost`
        a row of `2026-03-01` has 0 keys instead of 1
        the row `Tax` of `2026-03-01` has `UnblendedCost` twice
        the answer was no JSON of Cost Explorer: duplicate field `ResultsByTime` at line 1 column 35
        ");
}

#[tokio::test]
async fn the_error_of_a_page_has_the_request_id() {
    let headers = vec![("x-amzn-requestid", "33333333-4444".to_owned())];
    let body = day(&serde_json::json!([{"Keys": ["Tax"], "Metrics": usd("x.xx")}]));
    let Answer::Http(_, _, body) = body else { unreachable!() };
    let error = read(window(), Answer::Http(200, headers, body), |_| ()).await.unwrap_err();
    insta::assert_snapshot!(rendered(&error), @"
        malformed -: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: the row `Tax` of `2026-03-01` has a bad `UnblendedCost`: `x.xx` is not a decimal amount of at most 28 digits (request id 33333333-4444)
        hint: check what answers at `http://server` (`endpoint_url`); nothing of this page was taken
        ");
}

#[tokio::test]
async fn without_a_date_the_clock_tells() {
    for headers in [vec![], vec![("date", "soon".to_owned())]] {
        let server = Server::start([Answer::Http(200, headers, "{}".to_owned())]).await;
        let clock = Clock::manual(at(NOW));
        let client = CostExplorer::with(&connection(&server.url), &http_client(), clock, PATIENT, None).await;
        assert_eq!(client.page(&window(), None).await.unwrap().observed_at, at(NOW));
    }
}

#[test]
fn pages_that_never_end_are_stopped() {
    let mut guard = PageGuard::new(3);
    guard.follow(Some("a")).unwrap();
    insta::assert_snapshot!(rendered(&guard.follow(Some("a")).unwrap_err()), @"
        malformed -: page 2 names a next page that came before
        hint: the pages would never end and each costs $0.01: nothing to do if AWS itself answered, else repair the endpoint behind `endpoint_url`
        ");

    let mut guard = PageGuard::new(2);
    guard.follow(Some("a")).unwrap();
    guard.follow(None).unwrap();
    assert_eq!(guard.pages(), 2);

    let mut guard = PageGuard::new(2);
    guard.follow(Some("a")).unwrap();
    insta::assert_snapshot!(rendered(&guard.follow(Some("b")).unwrap_err()), @"
        malformed -: there are more pages than `poll.max_pages` allows (2)
        hint: raise `poll.max_pages` if so many rows are expected (each page costs $0.01), or group by a dimension with fewer values
        ");
}
