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
    event::{MemberValue, Scan, descend},
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

/// The members of an event's data, being read.
#[derive(Default)]
pub(crate) struct Stating<'a> {
    service: Option<MemberValue<'a>>,
    granularity: Option<MemberValue<'a>>,
    start: Option<MemberValue<'a>>,
    estimated: Option<MemberValue<'a>>,
    group: Option<(Cow<'a, str>, Cow<'a, str>)>,
    amounts: Amounts,
    problem: Option<String>,
}

impl<'a> Stating<'a> {
    /// Takes a member; `None` where its value is none.
    pub(crate) fn take(&mut self, name: &str, scan: &mut Scan<'a>) -> Option<()> {
        match name {
            "service" => self.service = Some(scan.member()?),
            "granularity" => self.granularity = Some(scan.member()?),
            "periodStart" => self.start = Some(scan.member()?),
            "estimated" => self.estimated = Some(scan.member()?),
            _ if scan.is_null() => drop(scan.member()?),
            "groups" => {
                let mut first = None;
                scan.object(&mut |name, scan| {
                    let value = scan.member()?;
                    if first.is_none() {
                        first = value.text().map(|value| (name, value));
                    }
                    Some(())
                })?;
                if first.is_none() {
                    self.problem = Some("its `groups` hold no group".to_owned());
                }
                self.group = first;
            }
            name => match CostMetric::from_member_name(name) {
                None => drop(scan.member()?),
                Some(metric) => match figure(scan)? {
                    Ok(amount) => self.amounts.push((metric, amount)),
                    Err(why) => self.problem = Some(format!("its `{name}` {why}")),
                },
            },
        }
        Some(())
    }

    /// What was stated.
    ///
    /// # Errors
    /// Why it is not what an event of ours states, in words.
    pub(crate) fn finish(self) -> Result<StatedData<'a>, String> {
        let Self { service, granularity, start, estimated, group, mut amounts, problem } = self;
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
        Ok(StatedData { service, period, estimated, group, amounts })
    }
}

impl<'a> StatedData<'a> {
    /// Reads the data of an event, a JSON object.
    ///
    /// # Errors
    /// As [`Stating::finish`], and where it is no object.
    pub(crate) fn read(data: &'a str) -> Result<Self, String> {
        let mut stating = Stating::default();
        descend(data, |name, scan| stating.take(&name, scan))
            .map_err(|at| format!("its data is no JSON object: byte {at}"))?;
        stating.finish()
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

/// The figure that begins here; `None` where no value does.
fn figure(scan: &mut Scan<'_>) -> Option<Result<Amount, String>> {
    let [mut amount, mut unit] = [None, None];
    scan.object(&mut |name, scan| {
        let value = scan.member()?;
        match &*name {
            "amount" => amount = value.text(),
            "unit" => unit = value.text(),
            _ => {}
        }
        Some(())
    })?;
    Some(match (amount, unit) {
        (Some(amount), Some(unit)) => {
            Amount::parse(amount, unit).map_err(|error| format!("is no figure: {error}"))
        }
        _ => Err("is no figure".to_owned()),
    })
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
