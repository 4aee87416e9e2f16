//! What goes over the wire, without an SDK in between.

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;

struct Answer {
    status: u16,
    head: String,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }
}

async fn http(simulator: &Simulator, head: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(simulator.addr()).await.unwrap();
    let request = format!(
        "{head}\r\nHost: simulated\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, text) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), text: text.to_owned() }
}

/// The head of a signed request.
fn signed(region: &str) -> String {
    format!(
        "POST / HTTP/1.1\r\nContent-Type: application/x-amz-json-1.1\r\n\
         X-Amz-Target: AWSInsightsIndexService.GetCostAndUsage\r\nX-Amz-Date: 20260920T000000Z\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=AKIASIMULATED00000001/20260920/{region}/ce/aws4_request, \
         SignedHeaders=host, Signature=00"
    )
}

async fn ask(simulator: &Simulator, period: (&str, &str), granularity: &str, members: Value) -> Value {
    let mut body = json!({
        "TimePeriod": {"Start": period.0, "End": period.1},
        "Granularity": granularity,
        "Metrics": ["UnblendedCost", "UsageQuantity"],
    });
    for (name, value) in members.as_object().unwrap() {
        body[name] = value.clone();
    }
    let answer = http(simulator, &signed("us-east-1"), &body.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

async fn start(options: Options, now: &str) -> Simulator {
    Simulator::start(options, Clock::manual(now.parse().unwrap())).await.unwrap()
}

const NOW: &str = "2026-09-20T12:34:56Z";

fn groups(groups: &[(&str, &str)]) -> Value {
    let groups: Vec<_> = groups.iter().map(|(kind, key)| json!({"Type": kind, "Key": key})).collect();
    json!({"GroupBy": groups})
}

#[tokio::test]
async fn an_answer_has_the_date_of_the_clock_and_a_request_id() {
    let simulator = start(Options::default(), NOW).await;
    let body = r#"{"TimePeriod": {"Start": "2026-09-01", "End": "2026-09-02"}, "Granularity": "DAILY",
                   "Metrics": ["UnblendedCost"]}"#;
    let first = http(&simulator, &signed("us-east-1"), body).await;
    assert!(first.head.contains("date: Sun, 20 Sep 2026 12:34:56 GMT"), "{}", first.head);
    assert!(first.head.contains("content-type: application/x-amz-json-1.1"), "{}", first.head);
    let id = |answer: &Answer| answer.head.split_once("x-amzn-requestid: ").unwrap().1[..36].to_owned();
    let second = http(&simulator, &signed("us-east-1"), body).await;
    assert_eq!(first.text, second.text);
    assert_ne!(id(&first), id(&second));
    let other = start(Options::default(), NOW).await;
    assert_eq!(http(&other, &signed("us-east-1"), body).await.text, first.text);
    let seeded = start(Options { seed: 2, ..Options::default() }, NOW).await;
    assert_ne!(http(&seeded, &signed("us-east-1"), body).await.text, first.text);
    simulator.faults().once(Fault::Stale { hours: 36 });
    let stale = http(&simulator, &signed("us-east-1"), body).await;
    assert!(stale.head.contains("date: Sat, 19 Sep 2026 00:34:56 GMT"), "{}", stale.head);
}

#[tokio::test]
async fn a_caller_may_be_ahead_only_where_any_period_is_taken() {
    let body = r#"{"TimePeriod": {"Start": "2026-09-01", "End": "2026-10-02"}, "Granularity": "DAILY",
                   "Metrics": ["UnblendedCost"]}"#;
    for (any_period, status) in [(false, 400), (true, 200)] {
        let simulator = start(Options { any_period, ..Options::default() }, NOW).await;
        let answer = http(&simulator, &signed("us-east-1"), body).await;
        assert_eq!(answer.status, status, "{}", answer.text);
    }
}

#[tokio::test]
async fn totals_and_groups_exclude_each_other() {
    let simulator = start(Options::default(), NOW).await;
    let days = ("2026-09-01", "2026-09-03");
    let total = ask(&simulator, days, "DAILY", json!({})).await;
    assert_eq!(total["ResultsByTime"][0]["Groups"], json!([]));
    assert_eq!(total["ResultsByTime"][0]["Total"]["UnblendedCost"]["Unit"], "USD");
    assert_eq!(total["ResultsByTime"][0]["Total"]["UsageQuantity"]["Unit"], "N/A");
    assert_eq!(total["GroupDefinitions"], json!([]));
    let grouped = ask(&simulator, days, "DAILY", groups(&[("DIMENSION", "SERVICE")])).await;
    assert_eq!(grouped["ResultsByTime"][0]["Total"], json!({}));
    assert_eq!(grouped["GroupDefinitions"], json!([{"Type": "DIMENSION", "Key": "SERVICE"}]));
    assert_eq!(grouped["DimensionValueAttributes"], json!([]));
    assert_eq!(grouped["NextPageToken"], Value::Null);
}

#[tokio::test]
async fn keys_follow_the_groups_and_accounts_have_names() {
    let simulator = start(Options::default(), NOW).await;
    let asked = groups(&[("TAG", "team"), ("DIMENSION", "LINKED_ACCOUNT")]);
    let answer = ask(&simulator, ("2026-09-01", "2026-09-02"), "DAILY", asked).await;
    let keys: Vec<_> =
        answer["ResultsByTime"][0]["Groups"].as_array().unwrap().iter().map(|g| &g["Keys"]).collect();
    assert_eq!(*keys[0], json!(["team$", "111122223333"]));
    assert!(keys.contains(&&json!(["team$payments", "222233334444"])), "{keys:?}");
    let names = answer["DimensionValueAttributes"].as_array().unwrap();
    assert_eq!(names.len(), 4);
    assert_eq!(
        names[1],
        json!({"Value": "222233334444", "Attributes": {"description": "Example Production"}})
    );
}

#[tokio::test]
async fn months_are_clamped_hours_are_timestamps_and_the_future_is_empty() {
    let simulator = start(Options::default(), NOW).await;
    let service = || groups(&[("DIMENSION", "SERVICE")]);
    let periods = |answer: &Value| -> Vec<String> {
        let results = answer["ResultsByTime"].as_array().unwrap().iter();
        results
            .map(|r| format!("{}..{}", r["TimePeriod"]["Start"], r["TimePeriod"]["End"]).replace('"', ""))
            .collect()
    };
    let months = ask(&simulator, ("2026-07-24", "2026-09-21"), "MONTHLY", service()).await;
    let expected = ["2026-07-24..2026-08-01", "2026-08-01..2026-09-01", "2026-09-01..2026-09-21"];
    assert_eq!(periods(&months), expected);
    assert_eq!(months["ResultsByTime"][1]["Estimated"], false);
    assert_eq!(months["ResultsByTime"][2]["Estimated"], true);
    let hours = ask(&simulator, ("2026-09-19T22:00:00Z", "2026-09-20T00:00:00Z"), "HOURLY", service()).await;
    let expected =
        ["2026-09-19T22:00:00Z..2026-09-19T23:00:00Z", "2026-09-19T23:00:00Z..2026-09-20T00:00:00Z"];
    assert_eq!(periods(&hours), expected);
    assert!(hours["ResultsByTime"][0]["Groups"].as_array().unwrap().len() > 10);
    let days = ask(&simulator, ("2026-09-20", "2026-09-23"), "DAILY", service()).await;
    assert_eq!(days["ResultsByTime"][2]["Groups"], json!([]));
    assert_eq!(days["ResultsByTime"][2]["Estimated"], true);
}

#[tokio::test]
async fn china_is_billed_in_yuan() {
    let simulator = start(Options::default(), NOW).await;
    let body = r#"{"TimePeriod": {"Start": "2026-09-01", "End": "2026-09-02"}, "Granularity": "DAILY",
                   "Metrics": ["UnblendedCost"]}"#;
    let answer = http(&simulator, &signed("cn-northwest-1"), body).await.json();
    assert_eq!(answer["ResultsByTime"][0]["Total"]["UnblendedCost"]["Unit"], "CNY");
}

#[tokio::test]
async fn errors_have_the_forms_of_aws() {
    let simulator = start(Options::default(), NOW).await;
    let head = signed("us-east-1");
    for (head, body, status, expected) in [
        (
            head.clone(),
            "{",
            400,
            json!({"__type": "SerializationException", "message": "the body is no JSON object"}),
        ),
        (
            head.replace("GetCostAndUsage", "GetTags"),
            "{}",
            400,
            json!({"__type": "UnknownOperationException", "message": ""}),
        ),
        (
            "POST / HTTP/1.1".to_owned(),
            "{}",
            403,
            json!({"__type": "MissingAuthenticationTokenException", "message": "Missing Authentication Token"}),
        ),
        (
            head.replace("us-east-1", "eu-west-1"),
            "{}",
            400,
            json!({"__type": "InvalidSignatureException", "message": "Credential should be scoped to a valid region."}),
        ),
    ] {
        let answer = http(&simulator, &head, body).await;
        assert_eq!((answer.status, answer.json()), (status, expected));
    }
    simulator.faults().once(Fault::Throttled);
    let limited = json!({"__type": "com.amazonaws.costexplorer#LimitExceededException", "Message": "Rate limit exceeded"});
    assert_eq!(http(&simulator, &head, "{}").await.json(), limited);
    assert_eq!(http(&simulator, "GET / HTTP/1.1", "").await.status, 404);
}

#[tokio::test]
async fn scripts_steer_the_simulator_over_http() {
    let simulator = start(Options::default(), NOW).await;
    let post = "POST /_simulator/faults HTTP/1.1";
    let faults =
        r#"[{"fault": "throttled", "times": 2}, {"fault": "access-denied", "message": "no", "after": 1}]"#;
    assert_eq!(http(&simulator, post, faults).await.json(), json!({"pending": 2}));
    assert_eq!(http(&simulator, post, r#"{"fault": "none"}"#).await.status, 400);
    for code in ["LimitExceededException", "LimitExceededException", "AccessDeniedException", "Serialization"]
    {
        let refused = http(&simulator, &signed("us-east-1"), "{").await;
        assert!(refused.text.contains(code), "{code} {}", refused.text);
    }
    ask(&simulator, ("2026-09-01", "2026-09-02"), "DAILY", json!({})).await;
    let bill = http(&simulator, "GET /_simulator/bill HTTP/1.1", "").await.json();
    assert_eq!(
        (&bill["requests"], &bill["chargeable"], &bill["cost"]),
        (&json!(5), &json!(1), &json!("$0.01"))
    );
    assert_eq!(bill["refusals"]["LimitExceededException"], 2);
    assert_eq!(simulator.bill().to_json(), bill);
    http(&simulator, post, r#"{"fault": "stall", "times": 0}"#).await;
    let cleared = http(&simulator, "DELETE /_simulator/faults HTTP/1.1", "").await;
    assert_eq!((cleared.json(), simulator.faults().pending()), (json!({"pending": 0}), 0));
    assert_eq!(http(&simulator, "GET /_simulator/other HTTP/1.1", "").await.status, 404);
}

#[tokio::test]
async fn only_a_manual_clock_can_be_set() {
    let set = "POST /_simulator/clock HTTP/1.1";
    let to = r#"{"now": "2026-09-21T00:00:00Z"}"#;
    let manual = start(Options::default(), NOW).await;
    assert_eq!(http(&manual, set, to).await.json(), json!({"now": "2026-09-21T00:00:00Z"}));
    let now = http(&manual, "GET /_simulator/clock HTTP/1.1", "").await.json();
    assert_eq!(now, json!({"now": "2026-09-21T00:00:00Z"}));
    assert_eq!(http(&manual, set, "{}").await.status, 400);
    let running = Simulator::start(Options::default(), Clock::system()).await.unwrap();
    assert_eq!(http(&running, set, to).await.status, 409);
}

#[tokio::test]
async fn scenarios_refuse_what_they_say() {
    for (name, granularity, expected) in [
        ("company", "DAILY", None),
        ("hourly-disabled", "DAILY", None),
        ("hourly-disabled", "HOURLY", Some("AccessDeniedException")),
        ("new-account", "DAILY", Some("DataUnavailableException")),
        ("not-enabled", "DAILY", Some("User not enabled for cost explorer access")),
        ("denied", "DAILY", Some("is not authorized to perform: ce:GetCostAndUsage")),
        ("throttled", "HOURLY", Some("LimitExceededException")),
        ("unavailable", "DAILY", Some("<html>")),
        ("expired", "DAILY", Some("ExpiredTokenException")),
        ("wrong-clock", "DAILY", Some("InvalidSignatureException")),
    ] {
        let scenario = Scenario::from_name(name).unwrap();
        let simulator = start(Options { scenario, ..Options::default() }, NOW).await;
        let time = if granularity == "HOURLY" { "T00:00:00Z" } else { "" };
        let body = json!({
            "TimePeriod": {"Start": format!("2026-09-19{time}"), "End": format!("2026-09-20{time}")},
            "Granularity": granularity,
            "Metrics": ["UnblendedCost"],
        });
        let answer = http(&simulator, &signed("us-east-1"), &body.to_string()).await;
        assert_eq!(answer.status == 200, expected.is_none(), "{name}");
        assert!(expected.is_none_or(|part| answer.text.contains(part)), "{name} {}", answer.text);
    }
}

#[tokio::test]
async fn faults_of_sts_leave_cost_explorer_and_the_bill_alone() {
    let simulator = start(Options::default(), NOW).await;
    for fault in [Fault::Unavailable, Fault::ExpiredToken] {
        simulator.faults().inject(Injection { sts: true, ..fault.into() });
    }
    ask(&simulator, ("2026-09-01", "2026-09-02"), "DAILY", json!({})).await;
    let head =
        signed("us-east-1").replace("/ce/", "/sts/").replace("x-amz-json-1.1", "x-www-form-urlencoded");
    for (status, part) in
        [(503, "<html>"), (400, "<Code>ExpiredToken</Code>"), (200, "<Account>111122223333</Account>")]
    {
        let answer = http(&simulator, &head, "Action=GetCallerIdentity&Version=2011-06-15").await;
        assert_eq!(answer.status, status, "{}", answer.text);
        assert!(answer.text.contains(part), "{}", answer.text);
    }
    assert_eq!((simulator.bill().chargeable, simulator.bill().refused, simulator.bill().sts), (1, 0, 3));
}
