//! Accounts, groupings, filters: what keeps keys apart and figures whole.

use std::collections::BTreeSet;

use amazon_billing_source::{cost::CostMetric, exit::Exit};
use jiff::civil::date;

use crate::support::{Aws, Connection, Home, aws::instant, events::text};

#[test]
fn two_accounts_share_state_and_output_and_keep_their_figures_apart() {
    let aws = Aws::at("2026-03-05T12:00:00Z");
    let url = aws.url();
    let home = Home::with(&[
        Connection::new("main", &url),
        Connection { account: 2, ..Connection::new("other", &url) },
    ]);
    for hour in ["12", "20"] {
        aws.clock.set(instant(&format!("2026-03-05T{hour}:00:00Z")));
        assert_eq!(home.poll(&aws.clock), Exit::Done);
        for account in ["111122223333", "444455556666"] {
            home.log().assert_is_the_bill_of(&aws, account, date(2026, 2, 1), date(2026, 4, 1));
        }
    }
    let bill = aws.bill();
    assert_eq!(bill.accounts.into_values().collect::<Vec<_>>(), [2, 2]);
}

/// Beside each other: the same account grouped and not grouped, which never collide.
#[test]
fn a_second_group_is_in_key_and_data_and_loses_no_cent() {
    let aws = Aws::at("2026-03-12T12:00:00Z");
    let url = aws.url();
    let home = Home::with(&[
        Connection { keys: "group_by = [\"LINKED_ACCOUNT\"]", ..Connection::new("accounts", &url) },
        Connection { keys: "group_by = [\"REGION\"]", ..Connection::new("regions", &url) },
    ]);
    assert_eq!(home.poll(&aws.clock), Exit::Done);
    let log = home.log();
    let (from, to) = (date(2026, 3, 1), date(2026, 4, 1));
    let theirs: rust_decimal::Decimal =
        aws.totals("111122223333", CostMetric::UnblendedCost, from, to).into_values().sum();
    for name in ["LINKED_ACCOUNT", "REGION"] {
        let of = |event: &&serde_json::Value| event["data"]["groups"].get(name).is_some();
        let part = crate::support::Log(log.0.iter().filter(of).cloned().collect());
        assert!(part.len() > 300, "{name} {}", part.len());
        let ours = part.totals("111122223333", CostMetric::UnblendedCost, from, to).into_values().sum();
        assert_eq!(theirs, ours, "{name}");
    }
    let linked =
        log.0.iter().map(|event| &event["data"]).filter(|data| data["groups"]["LINKED_ACCOUNT"].is_string());
    let names: BTreeSet<_> = linked
        .filter_map(|data| {
            Some((text(&data["groups"], "LINKED_ACCOUNT"), data["groupNames"]["LINKED_ACCOUNT"].as_str()?))
        })
        .collect();
    assert_eq!(names.len(), 4, "{names:?}");
    let linked =
        log.0.iter().find(|event| event["data"]["groups"]["LINKED_ACCOUNT"] == "222233334444").unwrap();
    assert_eq!(linked["data"]["accountId"], "111122223333", "the paying account");
    assert!(text(linked, "partitionkey").rsplit('/').next().unwrap().starts_with("222233334444"));
}

#[test]
fn a_tag_is_a_group_named_as_configured() {
    let aws = Aws::at("2026-03-12T12:00:00Z");
    let url = aws.url();
    let home =
        Home::with(&[Connection { keys: "group_by = [\"TAG:team\"]", ..Connection::new("main", &url) }]);
    assert_eq!(home.poll(&aws.clock), Exit::Done);
    let log = home.log();
    let teams: BTreeSet<_> = log.0.iter().map(|event| text(&event["data"]["groups"], "TAG:team")).collect();
    assert!(teams.len() > 2 && teams.iter().all(|team| !team.contains('$')), "{teams:?}");
    assert!(teams.contains(""), "what has no tag is a group too");
    log.assert_is_the_bill_of(&aws, "111122223333", date(2026, 3, 1), date(2026, 4, 1));
}

/// A filter is part of the scope: its figures are under keys of their own.
#[test]
fn a_filtered_connection_has_keys_of_its_own() {
    let aws = Aws::at("2026-03-12T12:00:00Z");
    let url = aws.url();
    let home = Home::with(&[
        Connection::new("all", &url),
        Connection {
            tables: "[connections.filter]\nrecord_types = [\"Tax\"]",
            ..Connection::new("tax", &url)
        },
    ]);
    assert_eq!(home.poll(&aws.clock), Exit::Done);
    let log = home.log();
    let own =
        |event: &&serde_json::Value| text(event, "partitionkey").split('/').next() != Some("111122223333");
    let filtered: Vec<_> = log.0.iter().filter(own).collect();
    assert!(!filtered.is_empty());
    assert!(filtered.iter().all(|event| event["data"]["service"] == "Tax"), "{filtered:?}");
    assert!(filtered.iter().all(|event| event["data"]["accountId"] == "111122223333"));
}
