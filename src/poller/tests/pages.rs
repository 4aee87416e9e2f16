//! What a page becomes, and what is refused.

use super::{server::Answer, server::Server, *};

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
    let server = Server::start([Answer::json(TWO_DAYS)]).await;
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
