//! Every error AWS is known to answer: kind, hint, attempts, price.

use jiff::SignedDuration;

use super::{
    server::{Answer, Server},
    *,
};
use crate::cost::GroupBy;

/// Asks once and tells what came of it.
async fn outcome(change: impl FnOnce(&mut ConnectionConfig), window: Window, answer: Answer) -> String {
    let server = Server::start([answer]).await;
    let mut connection = connection(&server.url);
    change(&mut connection);
    let client = client(&connection).await;
    let error = client.page(&window, None).await.unwrap_err();
    assert_eq!(client.requests().unsent, 0);
    let text =
        format!("{}\n{} attempts, {} to pay", rendered(&error), server.requests().len(), client.take_spent());
    text.replace(&server.url, "http://server")
}

async fn daily(code: &str, message: &str) -> String {
    outcome(|_| (), window(), Answer::error(400, code, message)).await
}

#[tokio::test]
async fn throttling_is_tried_three_times() {
    insta::assert_snapshot!(daily("LimitExceededException", "Rate limit exceeded").await, @"
        throttled LimitExceededException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `LimitExceededException`: Rate limit exceeded (request id 11111111-2222)
        hint: nothing to do, the next poll asks again: if it recurs, lengthen `poll.interval` or stop other clients of Cost Explorer in this account
        3 attempts, 0 to pay
        ");
    insta::assert_snapshot!(daily("com.amazonaws.ce#LimitExceededException", "Rate limit exceeded").await, @"
        throttled LimitExceededException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `LimitExceededException`: Rate limit exceeded (request id 11111111-2222)
        hint: nothing to do, the next poll asks again: if it recurs, lengthen `poll.interval` or stop other clients of Cost Explorer in this account
        3 attempts, 0 to pay
        ");
    insta::assert_snapshot!(daily("ThrottlingException", "Rate exceeded").await, @"
        throttled ThrottlingException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `ThrottlingException`: Rate exceeded (request id 11111111-2222)
        hint: nothing to do, the next poll asks again: if it recurs, lengthen `poll.interval` or stop other clients of Cost Explorer in this account
        3 attempts, 0 to pay
        ");
}

#[tokio::test]
async fn an_empty_429_is_throttling_too() {
    let empty = Answer::Http(429, vec![], String::new());
    insta::assert_snapshot!(outcome(|_| (), window(), empty).await, @"
        throttled -: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: the answer was HTTP 429
        hint: nothing to do, the next poll asks again: if it recurs, lengthen `poll.interval` or stop other clients of Cost Explorer in this account
        1 attempts, 0 to pay
        ");
}

#[tokio::test]
async fn no_data_yet_is_no_fault() {
    insta::assert_snapshot!(daily(
        "DataUnavailableException",
        "Data is not available. Please try to adjust the time period. If just enabled Cost Explorer, data might \
         not be ingested yet",
    ).await, @"
        not_ready DataUnavailableException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `DataUnavailableException`: Data is not available. Please try to adjust the time period. If just enabled Cost Explorer, data might not be ingested yet (request id 11111111-2222)
        hint: nothing to do: after Cost Explorer was enabled or an account was made, AWS needs 24 hours or more until there is data
        1 attempts, 0 to pay
        ");
    insta::assert_snapshot!(daily("BillExpirationException", "update the date interval").await, @"
        not_ready BillExpirationException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `BillExpirationException`: update the date interval (request id 11111111-2222)
        hint: nothing to do: the next poll asks for current dates
        1 attempts, 0 to pay
        ");
    insta::assert_snapshot!(daily("BillingViewHealthStatusException", "").await, @"
        not_ready BillingViewHealthStatusException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `BillingViewHealthStatusException` (request id 11111111-2222)
        hint: nothing to do: AWS is rebuilding the billing view, and the next poll asks again
        1 attempts, 0 to pay
        ");
}

#[tokio::test]
async fn a_token_that_no_longer_fits_restarts_the_query() {
    insta::assert_snapshot!(daily("InvalidNextTokenException", "bad token").await, @"
        restart_query InvalidNextTokenException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `InvalidNextTokenException`: bad token (request id 11111111-2222)
        hint: nothing to do: the pages are asked for again from the first
        1 attempts, 0 to pay
        ");
    insta::assert_snapshot!(daily("RequestChangedException", "").await, @"
        restart_query RequestChangedException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `RequestChangedException` (request id 11111111-2222)
        hint: nothing to do: the pages are asked for again from the first
        1 attempts, 0 to pay
        ");
}

#[tokio::test]
async fn denials_say_which_switch_is_off() {
    insta::assert_snapshot!(
        daily("AccessDeniedException", "User not enabled for cost explorer access").await,
        @"
        denied AccessDeniedException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `AccessDeniedException`: User not enabled for cost explorer access (request id 11111111-2222)
        hint: open the Cost Explorer page of the AWS console once in the paying account to enable it (no API can); data comes within 24 hours
        1 attempts, 0 to pay
        "
    );
    let not_authorized = "User: arn:aws:iam::111122223333:user/bill is not authorized to perform: \
                          ce:GetCostAndUsage on resource: arn:aws:ce:us-east-1:111122223333:/GetCostAndUsage \
                          because no identity-based policy allows the ce:GetCostAndUsage action";
    insta::assert_snapshot!(daily("AccessDeniedException", not_authorized).await, @"
        denied AccessDeniedException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `AccessDeniedException`: User: arn:aws:iam::111122223333:user/bill is not authorized to perform: ce:GetCostAndUsage on resource: arn:aws:ce:us-east-1:111122223333:/GetCostAndUsage because no identity-based policy allows the ce:GetCostAndUsage action (request id 11111111-2222)
        hint: allow the IAM action `ce:GetCostAndUsage` to these credentials; `amazon-billing-source policy` prints the policy
        1 attempts, 0 to pay
        ");
    let denied = || Answer::error(400, "AccessDeniedException", not_authorized);
    insta::assert_snapshot!(
        outcome(|c| c.metrics = vec![CostMetric::NetUnblendedCost], window(), denied()).await,
        @"
        denied AccessDeniedException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `AccessDeniedException`: User: arn:aws:iam::111122223333:user/bill is not authorized to perform: ce:GetCostAndUsage on resource: arn:aws:ce:us-east-1:111122223333:/GetCostAndUsage because no identity-based policy allows the ce:GetCostAndUsage action (request id 11111111-2222)
        hint: allow the IAM action `ce:GetCostAndUsage` to these credentials; `amazon-billing-source policy` prints the policy; if it is allowed already, have the management account grant members their discounts, or remove the Net metrics
        1 attempts, 0 to pay
        "
    );
    insta::assert_snapshot!(
        daily("AccessDeniedException", "not authorized to perform: ce:GetCostAndUsage with an explicit deny in a service control policy").await,
        @"
        denied AccessDeniedException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `AccessDeniedException`: not authorized to perform: ce:GetCostAndUsage with an explicit deny in a service control policy (request id 11111111-2222)
        hint: allow the IAM action `ce:GetCostAndUsage` to these credentials; `amazon-billing-source policy` prints the policy, and a policy that denies it explicitly has to be lifted as well
        1 attempts, 0 to pay
        "
    );
    let off = Answer::error(400, "AccessDeniedException", "Hourly data is not available");
    insta::assert_snapshot!(outcome(|_| (), hours(), off).await, @r#"
        denied AccessDeniedException: could not read hourly costs from 2026-03-01T10 to 2026-03-15T08 for connection `main`: AWS answered `AccessDeniedException`: Hourly data is not available (request id 11111111-2222)
        hint: enable hourly data in the console of the management account (Billing and Cost Management > Cost Management preferences; AWS charges for it), or remove "hourly" from `granularity`
        1 attempts, 0 to pay
        "#);
    insta::assert_snapshot!(outcome(|_| (), hours(), denied()).await, @"
        denied AccessDeniedException: could not read hourly costs from 2026-03-01T10 to 2026-03-15T08 for connection `main`: AWS answered `AccessDeniedException`: User: arn:aws:iam::111122223333:user/bill is not authorized to perform: ce:GetCostAndUsage on resource: arn:aws:ce:us-east-1:111122223333:/GetCostAndUsage because no identity-based policy allows the ce:GetCostAndUsage action (request id 11111111-2222)
        hint: allow the IAM action `ce:GetCostAndUsage` to these credentials; `amazon-billing-source policy` prints the policy
        1 attempts, 0 to pay
        ");
    insta::assert_snapshot!(daily("OptInRequired", "").await, @"
        denied OptInRequired: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `OptInRequired` (request id 11111111-2222)
        hint: open the Cost Explorer page of the AWS console once in the paying account to enable it (no API can); data comes within 24 hours
        1 attempts, 0 to pay
        ");
}

#[tokio::test]
async fn credentials_that_are_refused() {
    let expired = || {
        Answer::error(400, "ExpiredTokenException", "The security token included in the request is expired")
    };
    insta::assert_snapshot!(outcome(|_| (), window(), expired()).await, @"
        denied ExpiredTokenException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `ExpiredTokenException`: The security token included in the request is expired (request id 11111111-2222)
        hint: put new temporary keys in place of the expired ones, or use a role or profile, which renews itself
        1 attempts, 0 to pay
        ");
    insta::assert_snapshot!(
        daily("UnrecognizedClientException", "The security token included in the request is invalid.").await,
        @"
        denied UnrecognizedClientException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `UnrecognizedClientException`: The security token included in the request is invalid (request id 11111111-2222)
        hint: check `access_key_id`: it was deleted or deactivated, its session token is missing or of another key, or it belongs to another AWS partition than the region `us-east-1`
        1 attempts, 0 to pay
        "
    );
    insta::assert_snapshot!(daily("MissingAuthenticationTokenException", "Missing Authentication Token").await, @"
        denied MissingAuthenticationTokenException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `MissingAuthenticationTokenException`: Missing Authentication Token (request id 11111111-2222)
        hint: check `access_key_id`, which is perhaps none (they begin with `AKIA` or `ASIA`); or let the proxy pass the `Authorization` header that it takes off requests
        1 attempts, 0 to pay
        ");
}

#[tokio::test]
async fn a_bad_signature_is_the_key_or_the_clock() {
    let message = "The request signature we calculated does not match the signature you provided. Check your AWS \
                   Secret Access Key and signing method.\n\nThe Canonical String for this request should have \
                   been\n'POST\n/\nx-amz-security-token:SESSION-TOKEN'";
    insta::assert_snapshot!(daily("InvalidSignatureException", message).await, @"
        denied InvalidSignatureException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `InvalidSignatureException`: The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method (request id 11111111-2222)
        hint: check the secret access key, it does not belong to the access key id (this machine's clock agrees with AWS's)
        1 attempts, 0 to pay
        ");

    // The SDK corrects its clock by AWS's, so here it is not the clock alone.
    let dated = |date: String| {
        let body = serde_json::json!({"__type": "InvalidSignatureException", "message": "Signature expired"});
        Answer::Http(403, vec![("date", date)], body.to_string())
    };
    insta::assert_snapshot!(
        outcome(|_| (), window(), dated(server::date(SignedDuration::from_secs(17 * 60 + 30)))).await,
        @"
        denied InvalidSignatureException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `InvalidSignatureException`: Signature expired
        hint: set this machine's clock (NTP): it is 17 minutes behind AWS's
        3 attempts, 0 to pay
        "
    );
    insta::assert_snapshot!(
        outcome(|_| (), window(), dated(server::date(-SignedDuration::from_mins(25 * 60 + 30)))).await,
        @"
        denied InvalidSignatureException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `InvalidSignatureException`: Signature expired
        hint: set this machine's clock (NTP): it is 25 hours ahead of AWS's
        3 attempts, 0 to pay
        "
    );
    insta::assert_snapshot!(outcome(|_| (), window(), dated("today".to_owned())).await, @"
        denied InvalidSignatureException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `InvalidSignatureException`: Signature expired
        hint: check the secret access key and this machine's clock: one of them is wrong
        1 attempts, 0 to pay
        ");
}

#[tokio::test]
async fn what_aws_calls_invalid_names_the_key_to_correct() {
    // As recorded: a bare type, and `message` in lower case.
    let body = r#"{"__type":"ValidationException","message":"Group Definition type is invalid."}"#;
    let recorded = Answer::Http(400, server::dated(), body.to_owned());
    insta::assert_snapshot!(outcome(|_| (), window(), recorded).await, @"
        invalid ValidationException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `ValidationException`: Group Definition type is invalid
        hint: correct `group_by`: a dimension of Cost Explorer, `TAG:<key>` or `COST_CATEGORY:<name>`
        1 attempts, 0 to pay
        ");

    let mut texts = Vec::new();
    for message in [
        "end date past the beginning of next month",
        "Start date is more than 14 days ago for hourly granularity. Please adjust start date as we support only \
         14 days of data at hourly granularity.",
        "To retrieve data beyond the past 14 months, your start date needs to be the first day of the month.",
        "Dimension RESOURCE_ID is not allowed.",
        "And expression must have at least 2 operands",
        "Expression has more than one roots.",
        "Invalid metric",
        "Something new.",
    ] {
        texts.push(daily("ValidationException", message).await);
    }
    insta::assert_snapshot!(texts.join("\n\n"), @"
        invalid ValidationException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `ValidationException`: end date past the beginning of next month (request id 11111111-2222)
        hint: check this machine's clock: no window ends after tomorrow, unless the time is wrong
        1 attempts, 0 to pay

        invalid ValidationException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `ValidationException`: Start date is more than 14 days ago for hourly granularity. Please adjust start date as we support only 14 days of data at hourly granularity (request id 11111111-2222)
        hint: check this machine's clock: no window starts before what AWS keeps, unless the time is wrong
        1 attempts, 0 to pay

        invalid ValidationException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `ValidationException`: To retrieve data beyond the past 14 months, your start date needs to be the first day of the month (request id 11111111-2222)
        hint: check this machine's clock: no window starts before what AWS keeps, unless the time is wrong
        1 attempts, 0 to pay

        invalid ValidationException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `ValidationException`: Dimension RESOURCE_ID is not allowed (request id 11111111-2222)
        hint: correct the dimension in `group_by` or `filter`: Cost Explorer does not take this one
        1 attempts, 0 to pay

        invalid ValidationException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `ValidationException`: And expression must have at least 2 operands (request id 11111111-2222)
        hint: correct `filter`: each level has one operator, and `And` and `Or` have at least two operands
        1 attempts, 0 to pay

        invalid ValidationException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `ValidationException`: Expression has more than one roots (request id 11111111-2222)
        hint: correct `filter`: each level has one operator, and `And` and `Or` have at least two operands
        1 attempts, 0 to pay

        invalid ValidationException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `ValidationException`: Invalid metric (request id 11111111-2222)
        hint: correct `metrics`: Cost Explorer does not take one of them
        1 attempts, 0 to pay

        invalid ValidationException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `ValidationException`: Something new (request id 11111111-2222)
        hint: correct `group_by`, `filter` or `metrics` of this connection: AWS does not take the request as it is
        1 attempts, 0 to pay
        ");
    insta::assert_snapshot!(daily("ResourceNotFoundException", "no such view").await, @"
        invalid ResourceNotFoundException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `ResourceNotFoundException`: no such view (request id 11111111-2222)
        hint: name a billing view that exists and that these credentials may read
        1 attempts, 0 to pay
        ");
    insta::assert_snapshot!(daily("SomethingNewException", "").await, @"
        invalid SomethingNewException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `SomethingNewException` (request id 11111111-2222)
        hint: correct `group_by`, `filter` or `metrics` of this connection: AWS does not take the request as it is
        1 attempts, 0 to pay
        ");
}

#[tokio::test]
async fn what_is_not_aws_is_said_so() {
    insta::assert_snapshot!(outcome(|_| (), window(), Answer::html(200)).await, @"
        malformed -: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: the answer was HTML instead of JSON
        hint: check `endpoint_url`: what answers at `http://server` is not AWS
        1 attempts, 1 to pay
        ");
    insta::assert_snapshot!(outcome(|_| (), window(), Answer::html(403)).await, @"
        malformed -: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: the answer was HTTP 403 with HTML
        hint: check `endpoint_url`: what answers at `http://server` is not AWS
        1 attempts, 0 to pay
        ");
    insta::assert_snapshot!(outcome(|_| (), window(), Answer::Http(404, vec![], String::new())).await, @"
        malformed -: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: the answer was HTTP 404 with no error code
        hint: check `endpoint_url`: what answers at `http://server` is not AWS
        1 attempts, 0 to pay
        ");
    // A number where AWS documents a text.
    let number = r#"{"ResultsByTime":[{"TimePeriod":{"Start":"2026-03-01","End":"2026-03-02"},"Groups":[
        {"Keys":["Tax"],"Metrics":{"UnblendedCost":{"Amount":1.5,"Unit":"USD"}}}]}]}"#;
    insta::assert_snapshot!(outcome(|_| (), window(), Answer::json(number)).await, @"
        malformed -: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: the answer was no JSON of Cost Explorer
        hint: check what answers at `http://server` (`endpoint_url`); nothing of this page was taken
        1 attempts, 1 to pay
        ");
    insta::assert_snapshot!(outcome(|_| (), window(), Answer::json(r#"{"ResultsByTime":["#)).await, @"
        malformed -: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: the answer was no JSON of Cost Explorer
        hint: check what answers at `http://server` (`endpoint_url`); nothing of this page was taken
        1 attempts, 1 to pay
        ");
}

#[tokio::test]
async fn trouble_of_aws_is_tried_three_times() {
    insta::assert_snapshot!(
        outcome(|_| (), window(), Answer::error(500, "InternalServerException", "oops")).await,
        @"
        unavailable InternalServerException: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `InternalServerException`: oops (request id 11111111-2222)
        hint: nothing to do: the trouble is AWS's, and the next poll asks again
        3 attempts, 0 to pay
        "
    );
    insta::assert_snapshot!(outcome(|_| (), window(), Answer::html(503)).await, @"
        unavailable -: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: the answer was HTTP 503
        hint: nothing to do: the trouble is AWS's, and the next poll asks again
        3 attempts, 0 to pay
        ");
}

#[tokio::test]
async fn after_a_retry_that_helps_only_the_page_is_paid() {
    let refused = || Answer::error(400, "ThrottlingException", "Rate exceeded");
    let server = Server::start([refused(), Answer::html(503), Answer::json("{}")]).await;
    let client = client(&connection(&server.url)).await;
    let page = client.page(&window(), None).await.unwrap();
    assert!(page.records.is_empty() && page.next.is_none());
    let counts = client.requests();
    assert_eq!((counts.charged, counts.refused, counts.unknown, counts.unsent), (1, 2, 0, 0));
    assert_eq!(client.take_spent(), 1);
}

#[tokio::test]
async fn one_throttled_connection_leaves_the_others_their_retries() {
    let throttled = Server::start([Answer::error(400, "ThrottlingException", "Rate exceeded")]).await;
    let mut first = connection(&throttled.url);
    first.name = "first".to_owned();
    let http = http_client();
    let first = client_with(&first, &http, PATIENT).await;
    // 500 tokens, 10 for each of the two retries of a call: exhausted well before 60 calls.
    for _ in 0..60 {
        first.page(&window(), None).await.unwrap_err();
    }
    let before = throttled.requests().len();
    assert!(before < 180, "the allowance was never exhausted: {before}");
    let mut second = connection(&throttled.url);
    second.group_by = Some(GroupBy::Dimension("LINKED_ACCOUNT".to_owned()));
    let second = client_with(&second, &http, PATIENT).await;
    second.page(&window(), None).await.unwrap_err();
    assert_eq!(throttled.requests().len() - before, 3);
}
