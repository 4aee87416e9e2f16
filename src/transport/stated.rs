//! What an event states, read from its data: the figures as the state of its key.
//!
//! Only the members that make up the state are read, straight from the bytes: a million events are
//! read at every start.

use std::{borrow::Cow, collections::BTreeMap};

use jiff::Timestamp;
use serde::Deserialize;
use uuid::Uuid;

use super::StateRecord;
use crate::{
    cost::{Amount, Amounts, CostMetric, Granularity, Period},
    dedup::{ChangeKind, Statement, Status},
};

/// The members of an event's data that are the key's state.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StatedData<'a> {
    #[serde(borrow)]
    service: Cow<'a, str>,
    #[serde(borrow)]
    granularity: Cow<'a, str>,
    period_start: Timestamp,
    estimated: bool,
    groups: Option<BTreeMap<String, String>>,
    #[serde(borrow)]
    amortized_cost: Option<Figure<'a>>,
    #[serde(borrow)]
    blended_cost: Option<Figure<'a>>,
    #[serde(borrow)]
    net_amortized_cost: Option<Figure<'a>>,
    #[serde(borrow)]
    net_unblended_cost: Option<Figure<'a>>,
    #[serde(borrow)]
    normalized_usage_amount: Option<Figure<'a>>,
    #[serde(borrow)]
    unblended_cost: Option<Figure<'a>>,
    #[serde(borrow)]
    usage_quantity: Option<Figure<'a>>,
}

#[derive(Deserialize)]
struct Figure<'a> {
    #[serde(borrow)]
    amount: Cow<'a, str>,
    #[serde(borrow)]
    unit: Cow<'a, str>,
}

impl StatedData<'_> {
    /// What the second group is called: `LINKED_ACCOUNT`, `TAG:team`.
    pub(crate) fn group_by(&self) -> Option<&str> {
        self.groups.as_ref()?.keys().next().map(String::as_str)
    }

    /// The state of the key, with what the attributes say.
    ///
    /// # Errors
    /// Why it is no event of ours, in words.
    pub(crate) fn record(
        self,
        event_id: Uuid,
        observed_at: Timestamp,
        revision: u32,
        change: &str,
    ) -> Result<StateRecord, String> {
        let granularity = Granularity::ALL
            .into_iter()
            .find(|granularity| granularity.aws_name() == self.granularity)
            .ok_or("its granularity is not known")?;
        let period = Period::containing(granularity, self.period_start);
        if period.start() != self.period_start {
            return Err("its period begins within another one".to_owned());
        }
        let figures = [
            self.amortized_cost,
            self.blended_cost,
            self.net_amortized_cost,
            self.net_unblended_cost,
            self.normalized_usage_amount,
            self.unblended_cost,
            self.usage_quantity,
        ];
        let mut amounts = Amounts::new();
        for (metric, figure) in CostMetric::ALL.into_iter().zip(figures) {
            if let Some(Figure { amount, unit }) = figure {
                amounts.push((metric, Amount::parse(amount, unit).map_err(|e| e.to_string())?));
            }
        }
        let removed = change == ChangeKind::Removed.name();
        Ok(StateRecord {
            period,
            service: self.service.into(),
            group: self.groups.and_then(|groups| groups.into_values().next()).map(Into::into),
            statement: Statement {
                revision,
                amounts,
                estimated: self.estimated,
                status: if removed { Status::Removed } else { Status::Live },
                observed_at,
            },
            event_id,
        })
    }
}
