use aws_sdk_costexplorer as ce;
use aws_smithy_http_client::tls;
use aws_smithy_types::error::metadata::ProvideErrorMetadata as _;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn sdk() -> aws_config::SdkConfig {
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
        .build_https();
    let keys = ce::config::Credentials::new("AKIASIMULATED00000002", "secret", None, None, "test");
    aws_config::SdkConfig::builder()
        .behavior_version(aws_config::BehaviorVersion::latest())
        .http_client(http)
        .region(aws_config::Region::new("us-east-1"))
        .credentials_provider(ce::config::SharedCredentialsProvider::new(keys))
        .build()
}

async fn start(options: Options, now: &str) -> (Simulator, Clock, ce::Client) {
    let clock = Clock::manual(at(now));
    let simulator = Simulator::start(options, clock.clone()).await.unwrap();
    let config = ce::config::Builder::from(&sdk())
        .endpoint_url(simulator.url())
        .retry_config(ce::config::retry::RetryConfig::disabled())
        .build();
    (simulator, clock, ce::Client::from_conf(config))
}

/// A request by service for two months.
fn ask(client: &ce::Client) -> ce::operation::get_cost_and_usage::builders::GetCostAndUsageFluentBuilder {
    let period = ce::types::DateInterval::builder().start("2026-08-01").end("2026-09-21").build().unwrap();
    let group = ce::types::GroupDefinition::builder().r#type("DIMENSION".into()).key("SERVICE").build();
    client
        .get_cost_and_usage()
        .time_period(period)
        .granularity(ce::types::Granularity::Daily)
        .metrics("UnblendedCost")
        .metrics("AmortizedCost")
        .group_by(group)
}

#[tokio::test]
async fn the_sdk_reads_what_the_book_says() {
    let (simulator, _, client) = start(Options::default(), "2026-09-20T12:00:00Z").await;
    let answer = ask(&client).send().await.unwrap();
    assert_eq!(answer.next_page_token(), None);
    assert_eq!(answer.group_definitions()[0].key(), Some("SERVICE"));
    assert_eq!(answer.results_by_time().len(), 51);
    let mut totals: BTreeMap<String, Decimal> = BTreeMap::new();
    for result in answer.results_by_time() {
        let august = result.time_period().unwrap().start() < "2026-09-01";
        assert_eq!(result.estimated(), !august);
        assert!(result.total().is_none_or(std::collections::HashMap::is_empty));
        for group in result.groups() {
            let figure = &group.metrics().unwrap()["UnblendedCost"];
            assert_eq!(figure.unit(), Some("USD"));
            let value = Amount::parse(figure.amount().unwrap().to_owned(), String::new()).unwrap().value();
            *totals.entry(group.keys()[0].clone()).or_default() += value;
        }
    }
    let (from, to) = ("2026-08-01".parse().unwrap(), "2026-09-21".parse().unwrap());
    assert_eq!(totals, simulator.totals("444455556666", CostMetric::UnblendedCost, from, to));
    assert_ne!(totals, simulator.totals(DEFAULT_ACCOUNT, CostMetric::UnblendedCost, from, to));
    assert_eq!(simulator.bill().cost(), "$0.01");
    assert_eq!(simulator.bill().accounts["444455556666"], 1);
}

#[tokio::test]
async fn the_sdk_sees_refusals_as_those_of_aws() {
    let (simulator, _, client) = start(Options::default(), "2026-09-20T12:00:00Z").await;
    for (fault, code) in [
        (Fault::Throttled, "LimitExceededException"),
        (Fault::DataUnavailable, "DataUnavailableException"),
        (Fault::InvalidNextToken, "InvalidNextTokenException"),
        (Fault::RequestChanged, "RequestChangedException"),
        (Fault::AccessDenied { message: None }, "AccessDeniedException"),
        (Fault::ExpiredToken, "ExpiredTokenException"),
        (Fault::InternalError, "InternalServerException"),
    ] {
        simulator.faults().once(fault);
        let error = ask(&client).send().await.unwrap_err().into_service_error();
        assert_eq!(error.code(), Some(code));
        assert!(error.message().is_some(), "{code}");
    }
    let error = ask(&client).metrics("Cost").send().await.unwrap_err().into_service_error();
    assert_eq!(error.code(), Some("ValidationException"));
    assert_eq!(simulator.bill().chargeable, 0);
    assert_eq!(simulator.bill().refused, 8);
}

#[tokio::test]
async fn faults_of_the_wire_reach_the_sdk() {
    let (simulator, _, client) = start(Options::default(), "2026-09-20T12:00:00Z").await;
    for (fault, status) in [
        (Fault::TooManyRequests, Some(429)),
        (Fault::Unavailable, Some(503)),
        (Fault::Html, Some(200)),
        (Fault::Truncated, Some(200)),
        (Fault::NumericAmount, Some(200)),
        (Fault::Reset, None),
        (Fault::Cut, None),
    ] {
        simulator.faults().once(fault.clone());
        let error = ask(&client).send().await.unwrap_err();
        let seen = error.raw_response().map(|response| response.status().as_u16());
        if status.is_some() {
            assert_eq!(seen, status, "{fault:?}");
        } else {
            assert!(error.as_service_error().is_none(), "{fault:?} {error:?}");
        }
        assert!(ask(&client).send().await.is_ok(), "after {fault:?}");
    }
    simulator.faults().once(Fault::Empty);
    assert_eq!(ask(&client).send().await.unwrap().results_by_time, None);
    simulator.faults().once(Fault::NoRows);
    let answer = ask(&client).send().await.unwrap();
    assert!(answer.results_by_time().iter().all(|result| result.groups().is_empty()));
    assert_eq!(answer.results_by_time().len(), 51);
}

#[tokio::test]
async fn a_stalled_request_ends_with_its_client_or_the_simulator() {
    let (simulator, _, client) = start(Options::default(), "2026-09-20T12:00:00Z").await;
    simulator.faults().times(2, Fault::Stall);
    let timeout = ce::config::timeout::TimeoutConfig::builder()
        .operation_timeout(std::time::Duration::from_millis(50))
        .build();
    let patched = ce::config::Config::builder().timeout_config(timeout);
    let error = ask(&client).customize().config_override(patched).send().await.unwrap_err();
    assert!(matches!(error, ce::error::SdkError::TimeoutError(_)), "{error:?}");
    let stalled = tokio::spawn(ask(&client).send());
    while simulator.bill().chargeable < 2 {
        tokio::task::yield_now().await;
    }
    simulator.shutdown().await;
    assert!(stalled.await.unwrap().is_err());
}

/// Every row of an answer, page by page, and the tokens.
async fn pages(client: &ce::Client) -> (Vec<String>, Vec<String>) {
    let (mut rows, mut tokens) = (Vec::new(), Vec::new());
    loop {
        let answer = ask(client).set_next_page_token(tokens.last().cloned()).send().await.unwrap();
        for result in answer.results_by_time() {
            for group in result.groups() {
                let start = result.time_period().unwrap().start();
                let figures = group.metrics().unwrap();
                let figures = [&figures["UnblendedCost"], &figures["AmortizedCost"]];
                rows.push(format!("{start} {:?} {figures:?}", group.keys()));
            }
        }
        match answer.next_page_token() {
            Some(token) => tokens.push(token.to_owned()),
            None => return (rows, tokens),
        }
    }
}

#[tokio::test]
async fn pages_of_any_size_hold_the_same_rows() {
    let now = "2026-09-20T12:00:00Z";
    let (_whole, _, client) = start(Options::default(), now).await;
    let (all, tokens) = pages(&client).await;
    assert!(all.len() > 3000 && tokens.is_empty(), "{}", all.len());
    for page_size in [101, 1000, all.len() - 1, all.len()] {
        let options = Options { page_size, ..Options::default() };
        let (simulator, clock, client) = start(options, now).await;
        simulator.faults().inject(Injection {
            after: 1,
            times: 0,
            ..Fault::Change { service: None, add: Decimal::ZERO }.into()
        });
        let (rows, tokens) = pages(&client).await;
        assert_eq!(rows, all, "{page_size}");
        assert_eq!(tokens.len(), (all.len() - 1) / page_size);
        assert_eq!(simulator.bill().chargeable, tokens.len() as u64 + 1);
        // What was asked first decides what the later pages show.
        if let Some(token) = tokens.first() {
            let page = || ask(&client).next_page_token(token).send();
            let before = page().await.unwrap();
            clock.set(at("2026-09-20T20:00:00Z"));
            assert_eq!(page().await.unwrap().results_by_time, before.results_by_time);
        }
    }
}

#[tokio::test]
async fn tokens_are_bound_to_the_request() {
    let options = Options { page_size: 1000, ..Options::default() };
    let (simulator, _, client) = start(options, "2026-09-20T12:00:00Z").await;
    let token = ask(&client).send().await.unwrap().next_page_token.unwrap();
    let changed = ask(&client).metrics("BlendedCost").next_page_token(&token).send().await;
    assert_eq!(changed.unwrap_err().code(), Some("RequestChangedException"));
    for bad in ["nonsense", &token[1..], &token.replace(".1000.", ".2000.")] {
        let error = ask(&client).next_page_token(bad).send().await.unwrap_err();
        assert_eq!(error.code(), Some("InvalidNextTokenException"), "{bad}");
    }
    simulator.faults().times(3, Fault::RepeatedToken);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let answer = ask(&client).set_next_page_token(seen.last().cloned()).send().await.unwrap();
        seen.push(answer.next_page_token.unwrap());
    }
    assert!(seen.iter().all(|token| *token == seen[0]), "{seen:?}");
    simulator.faults().times(9, Fault::EndlessPages);
    let mut tokens = Vec::new();
    for _ in 0..9 {
        let answer = ask(&client).set_next_page_token(tokens.last().cloned()).send().await.unwrap();
        assert!(!answer.results_by_time().is_empty());
        tokens.push(answer.next_page_token.unwrap());
    }
    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens.len(), 9);
}

#[tokio::test]
async fn data_can_be_dropped_changed_and_stale() {
    let (simulator, _, client) = start(Options::default(), "2026-09-20T12:00:00Z").await;
    let (before, _) = pages(&client).await;
    simulator.faults().once(Fault::DropService { service: "AWS Lambda".to_owned() });
    let (dropped, _) = pages(&client).await;
    assert!(dropped.iter().all(|row| !row.contains("AWS Lambda")));
    assert_eq!(before.len() - dropped.len(), before.iter().filter(|row| row.contains("AWS Lambda")).count());
    let add = Decimal::new(1, 2);
    simulator.faults().once(Fault::Change { service: Some("AWS Lambda".to_owned()), add });
    let (changed, _) = pages(&client).await;
    for (old, new) in before.iter().zip(&changed) {
        assert_eq!(old != new, old.contains("AWS Lambda"), "{old} {new}");
    }
    simulator.faults().once(Fault::Stale { hours: 48 });
    let (stale, _) = pages(&client).await;
    assert_ne!(stale, before);
    assert_eq!(pages(&client).await.0, before);
}

#[tokio::test]
async fn the_sdk_finds_its_account_and_assumes_roles() {
    let options = Options { external_id: Some("ours".to_owned()), ..Options::default() };
    let (simulator, _, _) = start(options, "2020-09-20T12:00:00Z").await;
    let config = aws_sdk_sts::config::Builder::from(&sdk()).endpoint_url(simulator.url()).build();
    let client = aws_sdk_sts::Client::from_conf(config);
    let identity = client.get_caller_identity().send().await.unwrap();
    assert_eq!(identity.account(), Some("444455556666"));
    let assume = |external_id: &str| {
        client
            .assume_role()
            .role_arn("arn:aws:iam::999988887777:role/billing")
            .role_session_name("session")
            .external_id(external_id)
            .send()
    };
    let error = assume("theirs").await.unwrap_err();
    assert_eq!(error.code(), Some("AccessDenied"));
    let role = assume("ours").await.unwrap();
    let keys = role.credentials().unwrap();
    assert!(keys.expiration().secs() > Clock::system().now().as_second());
    let keys = aws_sdk_sts::config::Credentials::new(
        keys.access_key_id(),
        keys.secret_access_key(),
        Some(keys.session_token().to_owned()),
        None,
        "role",
    );
    let config = aws_sdk_sts::config::Builder::from(&sdk())
        .endpoint_url(simulator.url())
        .credentials_provider(keys)
        .build();
    let identity = aws_sdk_sts::Client::from_conf(config).get_caller_identity().send().await.unwrap();
    assert_eq!(identity.account(), Some("999988887777"));
    assert_eq!((simulator.bill().sts, simulator.bill().requests()), (4, 0));
}
