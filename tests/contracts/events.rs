//! Events as the program makes them: histories of one key through the real ledger, the real
//! comparison and the real factory.

use std::collections::BTreeMap;

use amazon_billing_source::{
    cost::{Amount, Amounts, CostMetric, CostRecord, Granularity, GroupBy, Period, Scope},
    dedup::{Change, Ledger, Status, Verdict, ZeroRows, classify},
    event::{Event, EventFactory, structured_json},
};
use jiff::Timestamp;
use proptest::{
    prelude::*,
    sample::{select, subsequence},
    strategy::ValueTree as _,
    test_runner::TestRunner,
};
use serde_json::Value;

/// What AWS states of one key, one answer after the other.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) scope: Scope,
    pub(crate) type_prefix: String,
    pub(crate) period: Period,
    pub(crate) service: String,
    /// The group's value, and what AWS calls it.
    pub(crate) group: Option<(String, Option<String>)>,
    pub(crate) observed_at: Timestamp,
    /// Figures and flag; `None` where the row is gone.
    pub(crate) answers: Vec<Option<(Amounts, bool)>>,
}

impl History {
    /// The events of the history, an hour apart.
    pub(crate) fn events(&self) -> Vec<Event> {
        let factory = EventFactory::new(self.scope.clone(), &self.type_prefix);
        let names = match &self.group {
            Some((value, Some(name))) => BTreeMap::from([(value.clone(), name.clone())]),
            _ => BTreeMap::new(),
        };
        let mut ledger = Ledger::new();
        let mut events = Vec::new();
        for (hour, answer) in (0..).zip(&self.answers) {
            let observed_at = Timestamp::from_second(self.observed_at.as_second() + hour * 3600).unwrap();
            let (amounts, estimated) = answer.clone().unwrap_or_default();
            let record = CostRecord {
                period: self.period,
                service: self.service.as_str().into(),
                group: self.group.as_ref().map(|(value, _)| value.as_str().into()),
                amounts,
                estimated,
            };
            let previous = ledger.previous(&record.key());
            let change = match (answer, previous) {
                (None, Some(previous)) if previous.status() == Status::Live => {
                    Change::retraction(record.key(), observed_at, previous)
                }
                (None, _) => continue,
                (Some(_), previous) => match classify(&record, observed_at, previous, ZeroRows::Publish) {
                    Verdict::Changed(kind) => Change::of_record(&record, kind, observed_at, previous),
                    _ => continue,
                },
            };
            events.push(factory.event(&change, &names));
            let statement = change.statement();
            ledger.apply(&record.key(), &statement);
        }
        events
    }

    /// The same as JSON.
    pub(crate) fn json(&self) -> Vec<Value> {
        self.events().into_iter().map(json).collect()
    }
}

/// An event in the JSON event format.
pub(crate) fn json(event: Event) -> Value {
    serde_json::from_slice(&structured_json(event).unwrap()).unwrap()
}

/// Any text that is taken for an amount, not only those AWS is known to write.
fn amount() -> impl Strategy<Value = Amount> {
    let text = prop_oneof![
        4 => "-?[0-9]{1,9}(\\.[0-9]{1,10})?",
        1 => "[-+]?[0-9]{1,3}\\.?[0-9]{0,3}[eE][-+]?[0-9]",
        1 => "[-+]?(\\.[0-9]{1,4}|[0-9]{1,4}\\.)",
        1 => "[-+0-9.eE_]{1,6}",
    ];
    let unit = select(vec!["USD", "CNY", "GB-Month", "N/A", ""]);
    (text, unit).prop_filter_map("no amount", |(text, unit)| Amount::parse(text, unit.to_owned()).ok())
}

fn answer() -> impl Strategy<Value = Option<(Amounts, bool)>> {
    let metrics = subsequence(CostMetric::ALL.to_vec(), 1..=CostMetric::ALL.len());
    let amounts = proptest::collection::vec(amount(), CostMetric::ALL.len());
    let figures = (metrics, amounts, any::<bool>()).prop_map(|(metrics, amounts, estimated)| {
        (metrics.into_iter().zip(amounts).collect::<Amounts>(), estimated)
    });
    proptest::option::weighted(0.7, figures)
}

fn group_by() -> impl Strategy<Value = GroupBy> {
    let name = any::<String>().prop_filter("blank", |name| !name.trim().is_empty());
    prop_oneof![
        select(vec!["LINKED_ACCOUNT", "REGION", "AZ"]).prop_map(|name| GroupBy::Dimension(name.to_owned())),
        name.clone().prop_map(GroupBy::Tag),
        name.prop_map(GroupBy::CostCategory),
    ]
}

prop_compose! {
    /// A history of one to five answers, whatever AWS calls things and however it is configured.
    pub(crate) fn histories()(
        source in select(vec!["cloud.amazon.billing", "https://billing.example/payer?x=1", "urn:x:y"]),
        type_prefix in select(vec!["amazon.billing", "acme", "com.example.cost.v2"]),
        account in "[0-9]{12}",
        filter in proptest::option::of("[a-z{}\"]{1,9}"),
        group in proptest::option::of((group_by(), any::<String>(), proptest::option::of(any::<String>()))),
        hourly: bool,
        // The years 1970 to 2096, and when AWS answered.
        second in 0_i64..4_000_000_000,
        asked in 0_i64..4_000_000_000,
        service in prop_oneof![select(vec!["Tax", "AWS Lambda", "EC2 - Other"]).prop_map(str::to_owned), any::<String>()],
        first in answer().prop_filter("the row is there at first", Option::is_some),
        rest in proptest::collection::vec(answer(), 0..4),
    ) -> History {
        let granularity = if hourly { Granularity::Hourly } else { Granularity::Daily };
        History {
            scope: Scope {
                source: source.to_owned(),
                account,
                group_by: group.as_ref().map(|(group_by, ..)| group_by.clone()),
                filter,
            },
            type_prefix: type_prefix.to_owned(),
            period: Period::containing(granularity, Timestamp::from_second(second).unwrap()),
            service,
            group: group.map(|(_, value, name)| (value, name)),
            observed_at: Timestamp::from_second(asked).unwrap(),
            answers: [first].into_iter().chain(rest).collect(),
        }
    }
}

/// The same histories in every run.
pub(crate) fn sample(count: usize) -> Vec<History> {
    let mut runner = TestRunner::deterministic();
    (0..count).map(|_| histories().new_tree(&mut runner).unwrap().current()).collect()
}

fn amounts(metrics: &[CostMetric], text: &str) -> Amounts {
    let amount = |metric: &CostMetric| (*metric, Amount::parse(text.to_owned(), "USD".to_owned()).unwrap());
    metrics.iter().map(amount).collect()
}

/// The database of the documentation: a day, new, then revised.
pub(crate) fn database() -> History {
    let metrics = [CostMetric::AmortizedCost, CostMetric::UnblendedCost];
    History {
        scope: Scope {
            source: "cloud.amazon.billing".to_owned(),
            account: "111122223333".to_owned(),
            group_by: None,
            filter: None,
        },
        type_prefix: "amazon.billing".to_owned(),
        period: Period::from_label("2023-01-27").unwrap(),
        service: "Amazon Relational Database Service".to_owned(),
        group: None,
        observed_at: "2023-01-28T05:11:10Z".parse().unwrap(),
        answers: vec![
            Some((amounts(&metrics, "0.21"), true)),
            Some((amounts(&metrics, "0.2672917174"), true)),
        ],
    }
}

/// An hour of a linked account's functions: new, then gone.
pub(crate) fn function() -> History {
    History {
        scope: Scope { group_by: Some(GroupBy::Dimension("LINKED_ACCOUNT".to_owned())), ..database().scope },
        period: Period::from_label("2023-01-27T13").unwrap(),
        service: "AWS Lambda".to_owned(),
        group: Some(("444455556666".to_owned(), Some("payments".to_owned()))),
        answers: vec![Some((amounts(&[CostMetric::UnblendedCost], "0.0000024"), true)), None],
        ..database()
    }
}
