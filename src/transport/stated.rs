//! What an event states, read from its data: the figures as the state of its key.
//!
//! Only the members that make up the state are read, straight from the bytes: a million events are
//! read at every start.

use std::borrow::Cow;

use jiff::Timestamp;
use uuid::Uuid;

use super::StateRecord;
use crate::{
    cost::{Amount, Amounts, CostMetric, Granularity, Period, parse_instant},
    dedup::{ChangeKind, Statement, Status},
    event::{MemberValue, members},
};

/// The members of an event's data that are the key's state.
pub(crate) struct StatedData<'a> {
    service: Cow<'a, str>,
    period: Period,
    estimated: bool,
    /// What the second group is called, and its value.
    group: Option<(Cow<'a, str>, Cow<'a, str>)>,
    amounts: Amounts,
}

impl<'a> StatedData<'a> {
    /// Reads the data of an event, a JSON object.
    ///
    /// # Errors
    /// Why it is not what an event of ours states, in words.
    pub(crate) fn read(data: &'a str) -> Result<Self, String> {
        let [mut service, mut granularity, mut start, mut estimated] = [None; 4];
        let mut group = None;
        let mut amounts = Amounts::new();
        let mut problem = None;
        let whole = members(data, |name, value| match &*name {
            "service" => service = Some(value),
            "granularity" => granularity = Some(value),
            "periodStart" => start = Some(value),
            "estimated" => estimated = Some(value),
            _ if value.json() == "null" => {}
            "groups" => match first_group(value.json()) {
                Some(first) => group = Some(first),
                None => problem = Some("its `groups` hold no group".to_owned()),
            },
            name => {
                if let Some(metric) = CostMetric::from_member_name(name) {
                    match figure(value.json()) {
                        Ok(amount) => amounts.push((metric, amount)),
                        Err(why) => problem = Some(format!("its `{name}` {why}")),
                    }
                }
            }
        });
        whole.map_err(|at| format!("its data is no JSON object: byte {at}"))?;
        if let Some(problem) = problem {
            return Err(problem);
        }
        let member = |name: &str, value: Option<MemberValue<'a>>| {
            value.ok_or_else(|| format!("its data has no `{name}`"))
        };
        let service = member("service", service)?.text().ok_or("its `service` is no text")?;
        let granularity = member("granularity", granularity)?.text();
        let granularity = granularity
            .and_then(|name| Granularity::from_aws_name(&name))
            .ok_or("its granularity is not known")?;
        let start = member("periodStart", start)?.text().and_then(|start| parse_instant(&start));
        let start = start.ok_or("its `periodStart` is no time")?;
        let period = Period::containing(granularity, start);
        if period.start() != start {
            return Err("its period begins within another one".to_owned());
        }
        let estimated = match member("estimated", estimated)?.json() {
            "true" => true,
            "false" => false,
            _ => return Err("its `estimated` is neither true nor false".to_owned()),
        };
        // In the order of their names, as they are written; somebody else may have another order.
        amounts.sort_unstable_by_key(|(metric, _)| *metric);
        if amounts.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err("it has a figure twice".to_owned());
        }
        Ok(Self { service, period, estimated, group, amounts })
    }

    /// What the second group is called: `LINKED_ACCOUNT`, `TAG:team`.
    pub(crate) fn group_by(&self) -> Option<&str> {
        self.group.as_ref().map(|(name, _)| &**name)
    }

    /// The state of the key, with what the attributes say.
    pub(crate) fn record(
        self,
        event_id: Uuid,
        observed_at: Timestamp,
        revision: u32,
        change: &str,
    ) -> StateRecord {
        let removed = change == ChangeKind::Removed.name();
        StateRecord {
            period: self.period,
            service: self.service.into(),
            group: self.group.map(|(_, value)| value.into()),
            statement: Statement {
                revision,
                amounts: self.amounts,
                estimated: self.estimated,
                status: if removed { Status::Removed } else { Status::Live },
                observed_at,
            },
            event_id,
            place: None,
        }
    }
}

/// The name and the value of the second group; there is one.
fn first_group(groups: &str) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    let mut first = None;
    members(groups, |name, value| {
        if first.is_none() {
            first = value.text().map(|value| (name, value));
        }
    })
    .ok()?;
    first
}

fn figure(value: &str) -> Result<Amount, String> {
    let [mut amount, mut unit] = [None, None];
    let whole = members(value, |name, value| match &*name {
        "amount" => amount = value.text(),
        "unit" => unit = value.text(),
        _ => {}
    });
    match (whole, amount, unit) {
        (Ok(()), Some(amount), Some(unit)) => {
            Amount::parse(amount, unit).map_err(|error| format!("is no figure: {error}"))
        }
        _ => Err("is no figure".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: &str = r#"{"date":"2023-01-27","service":"AWS \u004cambda","unblendedCost":{"amount":"0.26","unit":"USD"},"amortizedCost":{"unit":"USD","amount":"0.25"},"granularity":"DAILY","periodStart":"2023-01-27T00:00:00Z","estimated":true,"groups":{"TAG:team":""},"previous":{"estimated":false}}"#;

    #[test]
    fn data_is_read_whatever_the_order_of_its_members() {
        let data = StatedData::read(DATA).unwrap();
        assert_eq!(data.group_by(), Some("TAG:team"));
        let record = data.record(Uuid::nil(), Timestamp::UNIX_EPOCH, 3, "removed");
        assert_eq!((&*record.service, record.group.as_deref()), ("AWS Lambda", Some("")));
        assert_eq!((record.statement.revision, record.statement.status), (3, Status::Removed));
        let amounts: Vec<_> = record.statement.amounts.iter().map(|(m, a)| (*m, a.text())).collect();
        assert_eq!(amounts, [(CostMetric::AmortizedCost, "0.25"), (CostMetric::UnblendedCost, "0.26")]);
        let without = DATA.replace(r#"{"TAG:team":""}"#, "null");
        assert_eq!(StatedData::read(&without).unwrap().group_by(), None);
    }

    #[test]
    fn what_is_no_statement_says_why() {
        for (from, to, why) in [
            ("{\"date", "[\"date", "its data is no JSON object: byte 0"),
            ("\"service\"", "\"servant\"", "its data has no `service`"),
            ("\"AWS \\u004cambda\"", "7", "its `service` is no text"),
            ("DAILY", "WEEKLY", "its granularity is not known"),
            ("27T00:00:00Z", "27T00:00:61Z", "its `periodStart` is no time"),
            ("27T00:00:00Z", "27T01:00:00Z", "its period begins within another one"),
            (":true", ":1", "its `estimated` is neither true nor false"),
            ("{\"TAG:team\":\"\"}", "{}", "its `groups` hold no group"),
            ("\"0.26\"", "0.26", "its `unblendedCost` is no figure"),
            (
                "0.26",
                "x",
                "its `unblendedCost` is no figure: `x` is not a decimal amount of at most 28 digits",
            ),
            ("unblendedCost", "amortizedCost", "it has a figure twice"),
        ] {
            let data = DATA.replacen(from, to, 1);
            assert_ne!(data, DATA, "{from}");
            assert_eq!(StatedData::read(&data).err().as_deref(), Some(why), "{data}");
        }
    }
}
