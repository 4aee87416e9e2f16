//! What is read of an answer is what the SDK reads.

use std::sync::Arc;

use aws_sdk_costexplorer::operation::get_cost_and_usage::{GetCostAndUsage, GetCostAndUsageOutput};
use aws_smithy_runtime_api::{
    client::{
        orchestrator::HttpResponse,
        runtime_plugin::RuntimePlugin as _,
        ser_de::{DeserializeResponse as _, SharedResponseDeserializer},
    },
    http::StatusCode,
};
use aws_smithy_types::{body::SdkBody, config_bag::ConfigBag};
use proptest::{collection::vec, option, prelude::*};
use serde_json::{Value, json};

use super::{super::answer::Reader, super::query::Query, *};
use crate::cost::{CostMetric, GroupBy};

fn grouped() -> Query {
    let mut connection = connection("http://127.0.0.1:9");
    connection.metrics = vec![CostMetric::AmortizedCost, CostMetric::UnblendedCost];
    connection.group_by = Some(GroupBy::Dimension("LINKED_ACCOUNT".to_owned()));
    Query::new(&connection)
}

/// Rows, names and next page as the product reads them.
fn ours(body: &str) -> String {
    let rows = Reader::new(window(), Arc::new(grouped())).read(body.as_bytes()).unwrap().unwrap();
    let records = lines(&Page {
        records: rows.records,
        group_names: rows.group_names.clone(),
        observed_at: at(NOW),
        next: None,
    });
    format!("{records}\n{:?} {:?}", rows.group_names, rows.next)
}

/// The same of the SDK's own output.
fn sdks(body: &str) -> String {
    let operation = GetCostAndUsage::new().config().unwrap();
    let response = HttpResponse::new(StatusCode::try_from(200).unwrap(), SdkBody::from(body));
    let deserializer = operation.load::<SharedResponseDeserializer>().unwrap();
    let output = deserializer.deserialize_nonstreaming_with_config(&response, &ConfigBag::base()).unwrap();
    let output = output.downcast::<GetCostAndUsageOutput>().unwrap();
    let mut records = Vec::new();
    for result in output.results_by_time() {
        for group in result.groups() {
            let metrics = group.metrics().unwrap();
            let mut metrics: Vec<_> = metrics
                .iter()
                .map(|(name, value)| format!("{name} {} {}", value.amount().unwrap(), value.unit().unwrap()))
                .collect();
            metrics.sort_unstable();
            let [service, account] = group.keys() else { panic!("two keys") };
            let start = result.time_period().unwrap().start();
            let estimated = if result.estimated() { " estimated" } else { "" };
            records.push(format!("{start} {service} [{account}]: {}{estimated}", metrics.join(", ")));
        }
    }
    let names: std::collections::BTreeMap<_, _> = output
        .dimension_value_attributes()
        .iter()
        .filter_map(|value| Some((value.value()?, value.attributes()?.get("description")?)))
        .collect();
    let next = output.next_page_token().filter(|token| !token.is_empty());
    format!("{}\n{names:?} {next:?}", records.join("\n"))
}

prop_compose! {
    fn group()(service in ".{0,12}", account in "[0-9]{12}", amounts in vec(-9_999_i64..9_999, 2), unit in "[A-Z]{1,4}|N/A") -> Value {
        let value = |amount: i64| json!({"Unit": unit, "Amount": format!("{}.{:04}", amount, amount.abs())});
        json!({"Keys": [service, account], "New": {"list": [1, null]},
            "Metrics": {"UnblendedCost": value(amounts[0]), "AmortizedCost": value(amounts[1])}})
    }
}

prop_compose! {
    fn result()(day in 1..15, groups in option::of(vec(group(), 0..4)), estimated in option::of(any::<bool>())) -> Value {
        let end = format!("2026-03-{:02}", day + 1);
        json!({"TimePeriod": {"End": end, "Start": format!("2026-03-{day:02}")}, "Total": {}, "Groups": groups, "Estimated": estimated})
    }
}

proptest! {
    /// Members in any order, missing, null and unknown; texts with everything JSON may write as an escape.
    #[test]
    fn the_sdk_reads_the_same(
        results in option::of(vec(result(), 0..4)),
        names in option::of(vec(("[0-9]{12}", option::of(".{0,6}")), 0..3)),
        next in option::of(".{0,6}"),
        escaped in any::<bool>(),
    ) {
        let names = names.map(|names| {
            let named = |(value, name): (String, Option<String>)| {
                json!({"Value": value, "Attributes": {"description": name.unwrap_or_default(), "other": ""}})
            };
            names.into_iter().map(named).collect::<Vec<_>>()
        });
        let answer = json!({"ResultsByTime": results, "DimensionValueAttributes": names, "NextPageToken": next});
        let mut body = answer.to_string();
        if escaped {
            // In texts and in the names of members alike.
            body = body.replace('e', "\\u0065").replace("null", "  null\n").replace("tru\\u0065", "true").replace("fals\\u0065", "false");
        }
        prop_assert_eq!(ours(&body), sdks(&body));
    }
}
