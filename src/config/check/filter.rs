//! `[connections.filter]`: a Cost Explorer expression, checked for what AWS would refuse.
//!
//! Values are not looked up: Cost Explorer answers an unknown value with no rows, not with an error.

use super::not_one_of;
use crate::config::{
    problem::{Problems, listed},
    settings::{FilterSettings, OperandSettings},
    types::{Filter, FilterValues},
};

/// The dimensions `GetCostAndUsage` filters by (data type `DimensionValues`, member `Key`), without
/// those of other operations.
const DIMENSIONS: [&str; 29] = [
    "AZ",
    "BILLING_ENTITY",
    "CACHE_ENGINE",
    "DATABASE_ENGINE",
    "DEPLOYMENT_OPTION",
    "INSTANCE_TYPE",
    "INSTANCE_TYPE_FAMILY",
    "INVOICING_ENTITY",
    "LEGAL_ENTITY_NAME",
    "LINKED_ACCOUNT",
    "LINKED_ACCOUNT_NAME",
    "OPERATING_SYSTEM",
    "OPERATION",
    "PAYER_ACCOUNT",
    "PAYMENT_OPTION",
    "PLATFORM",
    "PURCHASE_TYPE",
    "RECORD_TYPE",
    "REGION",
    "RESERVATION_ID",
    "SAVINGS_PLANS_TYPE",
    "SAVINGS_PLAN_ARN",
    "SCOPE",
    "SERVICE",
    "SERVICE_CODE",
    "SUBSCRIPTION_ID",
    "TENANCY",
    "USAGE_TYPE",
    "USAGE_TYPE_GROUP",
];

const OPERATORS: [&str; 7] = ["record_types", "And", "Or", "Not", "Dimensions", "Tags", "CostCategories"];

/// The filter; `None` only when a problem was added.
pub(crate) fn filter(key: &str, written: FilterSettings, problems: &mut Problems) -> Option<Filter> {
    let FilterSettings { record_types, and, or, not, dimensions, tags, cost_categories } = written;
    let present = [
        record_types.is_some(),
        and.is_some(),
        or.is_some(),
        not.is_some(),
        dimensions.is_some(),
        tags.is_some(),
        cost_categories.is_some(),
    ];
    let roots: Vec<_> =
        OPERATORS.iter().zip(present).filter(|(_, present)| *present).map(|(name, _)| *name).collect();
    let before = problems.count();
    if roots.len() > 1 {
        problems.add_hint(
            key,
            format!("has {} operators, {}; expected exactly one", roots.len(), listed(&roots, "and")),
            "put them into one `And = [...]` or `Or = [...]`",
        );
    } else if roots.is_empty() && !problems.attempted_within(key) {
        problems.add(key, format!("is empty; expected one of {}", listed(&OPERATORS, "or")));
    }

    let mut found = None;
    if let Some(types) = record_types {
        let operand = OperandSettings {
            key: Some("RECORD_TYPE".to_owned()),
            values: types,
            ..OperandSettings::default()
        };
        found = values(key, operand, "record_types", problems).map(Filter::Dimensions);
    }
    for (name, operands, make) in
        [("And", and, Filter::And as fn(Vec<Filter>) -> Filter), ("Or", or, Filter::Or)]
    {
        let Some(operands) = operands else { continue };
        let key = format!("{key}.{name}");
        if operands.len() < 2 {
            let count = operands.len();
            problems.add(
                &key,
                format!(
                    "has {count} {}; expected at least two",
                    if count == 1 { "operand" } else { "operands" }
                ),
            );
        }
        let operands: Option<Vec<_>> = operands
            .into_iter()
            .enumerate()
            .map(|(index, operand)| filter(&format!("{key}[{index}]"), operand, problems))
            // Collected twice, so that one bad operand does not hide the next.
            .collect::<Vec<_>>()
            .into_iter()
            .collect();
        found = operands.map(make);
    }
    if let Some(operand) = not {
        found =
            filter(&format!("{key}.Not"), *operand, problems).map(|operand| Filter::Not(Box::new(operand)));
    }
    for (name, operand, make) in [
        ("Dimensions", dimensions, Filter::Dimensions as fn(FilterValues) -> Filter),
        ("Tags", tags, Filter::Tags),
        ("CostCategories", cost_categories, Filter::CostCategories),
    ] {
        let Some(operand) = operand else { continue };
        found = values(&format!("{key}.{name}"), operand, name, problems).map(make);
    }
    found.filter(|_| problems.count() == before)
}

/// One operand: its key, values and options, sorted, so that the same filter has one text.
fn values(key: &str, written: OperandSettings, kind: &str, problems: &mut Problems) -> Option<FilterValues> {
    let before = problems.count();
    let OperandSettings { key: name, mut values, mut match_options } = written;
    let name_key = format!("{key}.Key");
    match name.as_deref() {
        None | Some("") => {
            if !problems.attempted(&name_key) {
                problems.add(&name_key, "is missing; expected the name of what is filtered by");
            }
        }
        Some("CHARGE_TYPE") if kind == "Dimensions" => problems.add_hint(
            &name_key,
            "`CHARGE_TYPE` is not a dimension",
            "Cost Explorer's name for it is `RECORD_TYPE`",
        ),
        Some(name) if kind == "Dimensions" && !DIMENSIONS.contains(&name) => {
            let (problem, hint) = not_one_of(name, "a dimension", &DIMENSIONS);
            problems.add_hint(&name_key, problem, hint);
        }
        Some(_) => {}
    }
    let options: &[&str] = match kind {
        "Dimensions" => &["EQUALS", "CASE_SENSITIVE"],
        _ => &["EQUALS", "CASE_SENSITIVE", "ABSENT"],
    };
    for option in &match_options {
        if !options.contains(&option.as_str()) {
            let (problem, hint) = not_one_of(option, "a match option here", options);
            problems.add_hint(format!("{key}.MatchOptions"), problem, hint);
        }
    }
    let values_key =
        if kind == "record_types" { format!("{key}.record_types") } else { format!("{key}.Values") };
    let absent = options.contains(&"ABSENT") && match_options.iter().any(|option| option == "ABSENT");
    if values.is_empty() && !absent && !problems.attempted_within(&values_key) {
        problems.add(&values_key, "is empty; expected at least one value");
    } else if !values.is_empty() && absent {
        problems.add(&values_key, "has values, but `ABSENT` asks for costs without any");
    }
    values.sort();
    values.dedup();
    match_options.sort();
    match_options.dedup();
    (problems.count() == before).then(|| FilterValues {
        key: name.unwrap_or_default(),
        values,
        match_options,
    })
}
