//! The versioned record of one key's state, as every transport stores it.

use std::borrow::Cow;

use compact_str::CompactString;
use jiff::Timestamp;
use serde::Deserialize;
use uuid::Uuid;

use super::Scan;
use crate::{
    cost::{Amount, AmountRef, AmountRefs, CostKey, CostMetric, Period, parse_instant},
    dedup::{Stated, Statement, Status},
    event::{Object, put_number, put_text},
};

/// The version this program writes and the newest it reads.
const VERSION: u32 = 1;

/// What the newest event of a key stated: enough to go on from, and to name the row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRecord {
    /// The period of the key.
    pub period: Period,
    /// AWS's display name of the service.
    pub service: CompactString,
    /// The second group's value.
    pub group: Option<CompactString>,
    /// The state.
    pub statement: Statement,
    /// The newest event's id.
    pub event_id: Uuid,
    /// Where that event lies, partition and offset, where it is kept apart from its state.
    pub place: Option<(i32, u64)>,
}

/// The same, where it was read: nothing is copied.
#[derive(Clone, Debug)]
pub struct StateRef<'a> {
    /// Whose state it is.
    pub key: CostKey<'a>,
    /// The state.
    pub stated: Stated<'a>,
    /// The newest event's id.
    pub event_id: Uuid,
    /// Where that event lies, partition and offset.
    pub place: Option<(i32, u64)>,
}

/// A record this version cannot read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Written by a later version.
    #[error("the state record has version {0}, this program reads up to {VERSION}")]
    Newer(u32),
    /// Not a state record.
    #[error("not a state record: {0}")]
    Malformed(String),
}

/// As stored: JSON with short stable names.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored<'a> {
    version: u32,
    #[serde(borrow)]
    period: Cow<'a, str>,
    #[serde(borrow)]
    service: Cow<'a, str>,
    #[serde(borrow, default)]
    group: Option<Cow<'a, str>>,
    revision: u32,
    /// `[["UnblendedCost", "0.21", "USD"], ...]`.
    #[serde(borrow)]
    amounts: Vec<Figure<'a>>,
    estimated: bool,
    #[serde(borrow)]
    status: Cow<'a, str>,
    observed_at: Timestamp,
    event_id: Uuid,
    /// `[3, 17]`.
    #[serde(default)]
    place: Option<(i32, u64)>,
}

/// Metric, amount, unit.
#[derive(Deserialize)]
struct Figure<'a>(
    #[serde(borrow)] Cow<'a, str>,
    #[serde(borrow)] Cow<'a, str>,
    #[serde(borrow)] Cow<'a, str>,
);

/// The figures of a record just as [`StateRecord::to_json`] writes them.
fn amounts_as_written<'a>(scan: &mut Scan<'a>) -> Option<AmountRefs<'a>> {
    let mut amounts = AmountRefs::new();
    scan.skip(br#","amounts":["#)?;
    while if amounts.is_empty() { scan.skips(b"[\"") } else { scan.skips(b",[\"") } {
        let metric = CostMetric::from_aws_name(scan.text()?)?;
        let text = scan.skip(b",\"")?.text()?;
        let unit = scan.skip(b",\"")?.text()?;
        scan.skip(b"]")?;
        let before = amounts.last().map(|(_, amount)| *amount);
        let amount = AmountRef::parse_after(before, text, unit).ok()?;
        amounts.push((metric, amount));
    }
    scan.skip(b"]")?;
    Some(amounts)
}

impl StateRecord {
    /// The record's key.
    pub fn key(&self) -> CostKey<'_> {
        CostKey { period: self.period, service: &self.service, group: self.group.as_deref() }
    }

    /// As stored.
    pub fn to_json(&self) -> String {
        let mut json = Vec::with_capacity(320);
        self.put_json(&mut json, self.place);
        String::from_utf8(json).expect("texts and punctuation are UTF-8")
    }

    /// The same at the end of a text, once it is known where its event lies.
    pub(crate) fn put_json(&self, json: &mut Vec<u8>, place: Option<(i32, u64)>) {
        let statement = &self.statement;
        let mut record = Object::open(json);
        record
            .number("version", i64::from(VERSION))
            .text("period", &self.period.label())
            .text("service", &self.service);
        if let Some(group) = &self.group {
            record.text("group", group);
        }
        let amounts = record.number("revision", i64::from(statement.revision)).value("amounts");
        for (place, (metric, amount)) in statement.amounts.iter().enumerate() {
            amounts.extend_from_slice(if place == 0 { b"[[" } else { b",[" });
            put_text(amounts, metric.aws_name());
            amounts.push(b',');
            put_text(amounts, amount.text());
            amounts.push(b',');
            put_text(amounts, amount.unit());
            amounts.push(b']');
        }
        amounts.extend_from_slice(if statement.amounts.is_empty() { b"[]" } else { b"]" });
        let mut id = Uuid::encode_buffer();
        record
            .flag("estimated", statement.estimated)
            .text("status", statement.status.name())
            .text("observedAt", &statement.observed_at.to_string())
            .text("eventId", self.event_id.hyphenated().encode_lower(&mut id));
        if let Some((partition, offset)) = place {
            let place = record.value("place");
            place.push(b'[');
            put_number(place, i64::from(partition));
            place.push(b',');
            put_number(place, i64::try_from(offset).unwrap_or(i64::MAX));
            place.push(b']');
        }
        record.close();
    }

    /// Where it is.
    pub fn borrowed(&self) -> StateRef<'_> {
        let Self { event_id, place, .. } = *self;
        StateRef { key: self.key(), stated: self.statement.borrowed(), event_id, place }
    }

    /// Reads what [`StateRecord::to_json`] wrote.
    ///
    /// # Errors
    /// When it was written by a newer version, or is something else.
    pub fn from_json(json: &str) -> Result<Self, RecordError> {
        StateRef::as_written(json).map_or_else(|| Self::as_json(json), |record| Ok(record.to_record()))
    }

    /// Any record, and why a text is none.
    fn as_json(json: &str) -> Result<Self, RecordError> {
        let malformed = |error: &dyn std::fmt::Display| RecordError::Malformed(error.to_string());
        // Only a record that cannot be read whole is asked for its version alone.
        let stored = serde_json::from_str::<Stored<'_>>(json)
            .map_err(|e| newer(json).unwrap_or_else(|| malformed(&e)))?;
        if stored.version > VERSION {
            return Err(RecordError::Newer(stored.version));
        }
        let amounts = stored
            .amounts
            .into_iter()
            .map(|Figure(metric, text, unit)| {
                let metric = CostMetric::from_aws_name(&metric)
                    .ok_or_else(|| malformed(&format!("no metric `{metric}`")))?;
                let amount = Amount::parse(text, unit);
                Ok((metric, amount.map_err(|e| malformed(&e))?))
            })
            .collect::<Result<_, RecordError>>()?;
        let status = Status::from_name(&stored.status)
            .ok_or_else(|| malformed(&format!("no status `{}`", stored.status)))?;
        Ok(Self {
            period: Period::from_label(&stored.period)
                .ok_or_else(|| malformed(&format!("no period `{}`", stored.period)))?,
            service: stored.service.into(),
            group: stored.group.map(Into::into),
            statement: Statement {
                revision: stored.revision,
                amounts,
                estimated: stored.estimated,
                status,
                observed_at: stored.observed_at,
            },
            event_id: stored.event_id,
            place: stored.place,
        })
    }
}

impl<'a> StateRef<'a> {
    /// Gives `take` the record in a text.
    ///
    /// # Errors
    /// As [`StateRecord::from_json`].
    #[inline]
    pub fn read<T>(json: &str, take: impl FnOnce(&StateRef<'_>) -> T) -> Result<T, RecordError> {
        match StateRef::as_written(json) {
            Some(record) => Ok(take(&record)),
            None => StateRecord::as_json(json).map(|record| take(&record.borrowed())),
        }
    }

    /// A record just as [`StateRecord::to_json`] writes it, as nearly every one is.
    #[inline]
    fn as_written(json: &'a str) -> Option<Self> {
        let mut scan = Scan::new(json);
        let period = Period::from_label(scan.skip(br#"{"version":1,"period":""#)?.text()?)?;
        let service = scan.skip(br#","service":""#)?.text()?;
        let group = if scan.skips(br#","group":""#) { Some(scan.text()?) } else { None };
        let revision = scan.skip(br#","revision":"#)?.number()?;
        let amounts = amounts_as_written(&mut scan)?;
        let estimated = scan.skip(br#","estimated":"#)?.flag()?;
        let status = Status::from_name(scan.skip(br#","status":""#)?.text()?)?;
        let observed_at = parse_instant(scan.skip(br#","observedAt":""#)?.text()?)?;
        let event_id = Uuid::try_parse(scan.skip(br#","eventId":""#)?.text()?).ok()?;
        let mut place = None;
        if scan.skips(br#","place":["#) {
            let partition = scan.number()?;
            place = Some((partition, scan.skip(b",")?.number()?));
            scan.skip(b"]")?;
        }
        scan.end("}")?;
        let key = CostKey { period, service, group };
        Some(Self {
            key,
            stated: Stated { revision, amounts, estimated, status, observed_at },
            event_id,
            place,
        })
    }

    /// A copy that is its own.
    pub fn to_record(&self) -> StateRecord {
        StateRecord {
            period: self.key.period,
            service: self.key.service.into(),
            group: self.key.group.map(Into::into),
            statement: self.stated.to_statement(),
            event_id: self.event_id,
            place: self.place,
        }
    }
}

/// Whether a text that is no record of this version is one of a newer.
fn newer(json: &str) -> Option<RecordError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = serde_json::from_str(json).ok()?;
    (version > VERSION).then_some(RecordError::Newer(version))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> StateRecord {
        StateRecord {
            period: Period::from_label("2026-03-01T05").unwrap(),
            service: "EC2 - Other".into(),
            group: Some(CompactString::default()),
            statement: Statement {
                revision: 7,
                amounts: crate::event::tests::amounts("-0.0000000289"),
                estimated: false,
                status: Status::Removed,
                observed_at: "2026-03-02T00:00:01Z".parse().unwrap(),
            },
            event_id: Uuid::nil(),
            place: None,
        }
    }

    /// Pinned: what is stored today is read by every later version.
    #[test]
    fn a_record_has_the_documented_form_and_reads_back() {
        let json = record().to_json();
        insta::assert_snapshot!(json, @r#"{"version":1,"period":"2026-03-01T05","service":"EC2 - Other","group":"","revision":7,"amounts":[["AmortizedCost","-0.0000000289","USD"],["UnblendedCost","-0.0000000289","USD"]],"estimated":false,"status":"removed","observedAt":"2026-03-02T00:00:01Z","eventId":"00000000-0000-0000-0000-000000000000"}"#);
        assert_eq!(StateRecord::from_json(&json), Ok(record()));
        let placed = StateRecord { place: Some((5, 4_294_967_296)), ..record() };
        let json = placed.to_json();
        assert!(json.ends_with(r#"-000000000000","place":[5,4294967296]}"#), "{json}");
        assert_eq!(StateRef::as_written(&json).map(|record| record.to_record()), Some(placed.clone()));
        let mut behind = b"x".to_vec();
        record().put_json(&mut behind, placed.place);
        assert_eq!(behind, format!("x{json}").into_bytes());
    }

    /// What is written in another way is the same record, and what is nearly one is none.
    #[test]
    fn a_record_is_the_same_however_it_is_read() {
        let mut plain = record();
        let mut many = record();
        let placed = StateRecord { place: Some((0, 17)), ..record() };
        plain.group = None;
        plain.service = "Data \"Transfer\" \\ Ünï".into();
        many.statement.amounts.clear();
        for record in [record(), plain, many, placed] {
            let json = record.to_json();
            let tree: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(StateRecord::from_json(&json), Ok(record.clone()), "{json}");
            assert_eq!(
                StateRecord::from_json(&tree.to_string()),
                Ok(record.clone()),
                "members in another order"
            );
            assert_eq!(StateRecord::from_json(&serde_json::to_string_pretty(&tree).unwrap()), Ok(record));
        }
        let json = record().to_json();
        assert!(StateRef::as_written(&json).is_some());
        for (from, to) in [
            ("EC2", "EC2\n"),
            (":7,", ":07,"),
            (":7,", ":-7,"),
            (":7,", ":4294967296,"),
            ("false", "no"),
            ("\"]]", "\"]"),
            ("\"]]", "\"],]"),
            ("T00:00:01Z", "T00:00:61Z"),
            ("-000000000000\"}", "\"}"),
            ("\"}", "\"}}"),
            ("\"}", "\""),
        ] {
            let near = json.replacen(from, to, 1);
            assert_ne!(near, json, "{from}");
            assert!(StateRef::as_written(&near).is_none(), "{near}");
            assert!(matches!(StateRecord::from_json(&near), Err(RecordError::Malformed(_))), "{near}");
        }
    }

    #[test]
    fn newer_and_foreign_records_are_told_apart() {
        let newer = record().to_json().replace(r#""version":1"#, r#""version":2"#);
        assert_eq!(StateRecord::from_json(&newer), Err(RecordError::Newer(2)));
        // Of a shape this version knows nothing of.
        assert_eq!(StateRecord::from_json(r#"{"version":3,"key":"x"}"#), Err(RecordError::Newer(3)));
        for foreign in ["", "hello", "{}", r#"{"version":1}"#] {
            assert!(matches!(StateRecord::from_json(foreign), Err(RecordError::Malformed(_))), "{foreign}");
        }
    }
}
