//! What goes over the wire.

use super::{
    server::{Answer, Server},
    *,
};
use crate::{
    config::{Filter, FilterValues},
    cost::GroupBy,
};

async fn body(window: Window, token: Option<&str>, change: impl FnOnce(&mut ConnectionConfig)) -> String {
    let server = Server::start([Answer::json("{}")]).await;
    let mut connection = connection(&server.url);
    change(&mut connection);
    client(&connection).await.page(&window, token).await.unwrap();
    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].header("x-amz-target"), "AWSInsightsIndexService.GetCostAndUsage");
    assert_eq!(requests[0].header("content-type"), "application/x-amz-json-1.1");
    requests[0].body.clone()
}

fn values(key: &str, values: &[&str], options: &[&str]) -> FilterValues {
    let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    FilterValues { key: key.to_owned(), values: owned(values), match_options: owned(options) }
}

#[tokio::test]
async fn the_plain_request() {
    insta::assert_snapshot!(body(window(), None, |_| ()).await, @r#"{"TimePeriod":{"Start":"2026-03-01","End":"2026-03-16"},"Granularity":"DAILY","Metrics":["UnblendedCost"],"GroupBy":[{"Type":"DIMENSION","Key":"SERVICE"}]}"#);
}

#[tokio::test]
async fn hours_metrics_and_a_token() {
    let text = body(hours(), Some("token-2"), |c| c.metrics = CostMetric::ALL.to_vec()).await;
    insta::assert_snapshot!(text, @r#"{"TimePeriod":{"Start":"2026-03-01T10:00:00Z","End":"2026-03-15T08:00:00Z"},"Granularity":"HOURLY","Metrics":["AmortizedCost","BlendedCost","NetAmortizedCost","NetUnblendedCost","NormalizedUsageAmount","UnblendedCost","UsageQuantity"],"GroupBy":[{"Type":"DIMENSION","Key":"SERVICE"}],"NextPageToken":"token-2"}"#);
}

#[tokio::test]
async fn groupings() {
    let mut texts = Vec::new();
    for group in [
        GroupBy::Dimension("LINKED_ACCOUNT".to_owned()),
        GroupBy::Dimension("REGION".to_owned()),
        GroupBy::Tag("team".to_owned()),
        GroupBy::CostCategory("unit".to_owned()),
    ] {
        let text = body(window(), None, |c| c.group_by = Some(group)).await;
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        texts.push(json["GroupBy"].to_string());
    }
    insta::assert_snapshot!(texts.join("\n"), @r#"
        [{"Type":"DIMENSION","Key":"SERVICE"},{"Type":"DIMENSION","Key":"LINKED_ACCOUNT"}]
        [{"Type":"DIMENSION","Key":"SERVICE"},{"Type":"DIMENSION","Key":"REGION"}]
        [{"Type":"DIMENSION","Key":"SERVICE"},{"Type":"TAG","Key":"team"}]
        [{"Type":"DIMENSION","Key":"SERVICE"},{"Type":"COST_CATEGORY","Key":"unit"}]
        "#);
}

#[tokio::test]
async fn filters() {
    let filter = Filter::And(vec![
        Filter::Dimensions(values("RECORD_TYPE", &["Usage", "Tax"], &[])),
        Filter::Not(Box::new(Filter::Tags(values("team", &[""], &["ABSENT"])))),
        Filter::Or(vec![
            Filter::CostCategories(values("unit", &["a"], &["EQUALS"])),
            Filter::Dimensions(values("SOMETHING_NEW", &["b"], &["SOME_OPTION"])),
        ]),
    ]);
    let text = body(window(), None, |c| c.filter = Some(filter)).await;
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    insta::assert_snapshot!(json["Filter"].to_string(), @r#"{"And":[{"Dimensions":{"Key":"RECORD_TYPE","Values":["Usage","Tax"]}},{"Not":{"Tags":{"Key":"team","Values":[""],"MatchOptions":["ABSENT"]}}},{"Or":[{"CostCategories":{"Key":"unit","Values":["a"],"MatchOptions":["EQUALS"]}},{"Dimensions":{"Key":"SOMETHING_NEW","Values":["b"],"MatchOptions":["SOME_OPTION"]}}]}]}"#);
}

#[tokio::test]
async fn a_tokens_page_repeats_the_request() {
    let server = Server::start([Answer::json(r#"{"NextPageToken":"t"}"#), Answer::json("{}")]).await;
    let client = client(&connection(&server.url)).await;
    let first = client.page(&window(), None).await.unwrap();
    client.page(&window(), first.next.as_deref()).await.unwrap();
    let mut bodies: Vec<_> = server.requests().iter().map(server::Request::json).collect();
    assert_eq!(bodies[1].as_object_mut().unwrap().remove("NextPageToken").unwrap(), "t");
    assert_eq!(bodies[0], bodies[1]);
}

#[tokio::test]
async fn the_configured_region_signs_for_an_endpoint_of_ones_own() {
    for region in ["us-east-1", "cn-northwest-1"] {
        let server = Server::start([Answer::json("{}")]).await;
        let mut connection = connection(&server.url);
        connection.region = region.to_owned();
        client(&connection).await.page(&window(), None).await.unwrap();
        let requests = server.requests();
        let authorization = requests[0].header("authorization");
        assert!(authorization.contains(&format!("/{region}/ce/aws4_request")), "{authorization}");
        assert_eq!(requests[0].header("x-amz-security-token"), "SESSION-TOKEN");
    }
}
