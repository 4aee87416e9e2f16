//! The records of the state topic: a key's state and a connection's, as JSON with a version.
//!
//! The layout is fixed: a later version reads what this one wrote.

use std::{borrow::Cow, fmt::Display};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    cost::CostKey,
    dedup::ConnectionState,
    event::Object,
    transport::{RecordError, Scan, StateRef, TransportError, TransportErrorKind as Kind},
};

/// The version of connection records this program writes, and the newest it reads.
const VERSION: u32 = 1;

/// Of a record that is perhaps a newer version's.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// What a record is about: compaction keeps the newest of each.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordKey<'a> {
    #[serde(borrow)]
    scope: Cow<'a, str>,
    #[serde(borrow, default)]
    period: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    service: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    group: Option<Cow<'a, str>>,
}

impl<'a> RecordKey<'a> {
    /// A key just as [`put_key`] writes it.
    fn as_written(json: &'a [u8]) -> Option<Self> {
        let mut scan = Scan::new(std::str::from_utf8(json).ok()?);
        let scope = scan.skip(br#"{"scope":""#)?.text()?.into();
        let period = if scan.skips(br#","period":""#) { Some(scan.text()?.into()) } else { None };
        let service = if scan.skips(br#","service":""#) { Some(scan.text()?.into()) } else { None };
        let group = if scan.skips(br#","group":""#) { Some(scan.text()?.into()) } else { None };
        scan.end("}")?;
        Some(Self { scope, period, service, group })
    }

    const fn is_connection(&self) -> bool {
        self.period.is_none()
    }
}

/// Appends the key of a connection's record, or of the record of one of its keys.
pub(super) fn put_key(json: &mut Vec<u8>, scope: &str, of: Option<&CostKey<'_>>) {
    let mut key = Object::open(json);
    key.text("scope", scope);
    if let Some(of) = of {
        key.text("period", &of.period.label()).text("service", of.service);
        if let Some(group) = of.group {
            key.text("group", group);
        }
    }
    key.close();
}

/// A connection's record: the last of every batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConnectionRecord {
    version: u32,
    /// The state topic's partitions when it was written: the scope's place depends on it.
    pub(super) partitions: i32,
    /// Made up when a scope's first record is written, kept ever after. Another one is another log.
    pub(super) lineage: String,
    pub(super) state: ConnectionState,
}

impl ConnectionRecord {
    pub(super) fn new(partitions: i32, lineage: String, state: ConnectionState) -> Self {
        Self { version: VERSION, partitions, lineage, state }
    }

    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain data")
    }
}

/// The partition of a scope's records.
pub(super) fn partition_of(scope: &str, partitions: i32) -> i32 {
    let digest = Sha256::digest(scope.as_bytes());
    let number = digest.iter().take(4).fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
    let partitions = u32::try_from(partitions).unwrap_or(1).max(1);
    i32::try_from(number % partitions).unwrap_or(0)
}

/// Which records of a partition are read; the others are passed over.
#[derive(Clone, Copy)]
pub(super) enum Wanted<'a> {
    Everything,
    Connections,
    /// The connections' and a scope's keys'.
    KeysOf(&'a str),
}

impl Wanted<'_> {
    /// Whether a record is one of the keys wanted, as far as that is to be seen from the beginning of its
    /// key: then the rest of the key, which the record holds as well, need not be read.
    fn is_plainly(self, key: &[u8]) -> bool {
        let Self::KeysOf(scope) = self else { return false };
        let rest = key.strip_prefix(br#"{"scope":""#).and_then(|rest| rest.strip_prefix(scope.as_bytes()));
        rest.is_some_and(|rest| rest.starts_with(br#"","period":""#))
    }

    fn is(self, key: &RecordKey<'_>) -> bool {
        match self {
            Self::Everything => true,
            Self::Connections => key.is_connection(),
            Self::KeysOf(scope) => key.is_connection() || key.scope == scope,
        }
    }
}

/// A record of the state topic, as read.
pub(super) enum Read<'a, 'b> {
    Key { scope: &'a str, record: &'a StateRef<'b> },
    Connection { scope: String, record: Box<ConnectionRecord> },
}

/// Reads a record and gives it to `take`; of one that is not wanted only its key is read.
///
/// # Errors
/// `Foreign`: another program's, or a newer version's.
#[inline]
pub(super) fn read(
    place: impl Display,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    wanted: Wanted<'_>,
    take: impl FnOnce(Read<'_, '_>) -> Result<(), TransportError>,
) -> Result<(), TransportError> {
    let foreign = |why: &dyn Display| {
        TransportError::new(Kind::Foreign, format!("the record `{place}` is not of this program: {why}"))
            .with_hint("it was left as it is; give this program a `kafka.state_topic` of its own")
    };
    let (Some(key), Some(value)) = (key, value) else {
        return Err(foreign(&"it has no key or no value"));
    };
    let text = || std::str::from_utf8(value).map_err(|e| foreign(&e));
    let refused = |error| match error {
        RecordError::Newer(_) => newer(&place, &error.to_string()),
        RecordError::Malformed(_) => foreign(&error),
    };
    if wanted.is_plainly(key)
        && let Wanted::KeysOf(scope) = wanted
    {
        return StateRef::read(text()?, |record| take(Read::Key { scope, record })).map_err(refused)?;
    }
    let key = match RecordKey::as_written(key) {
        Some(key) => key,
        None => serde_json::from_slice(key).map_err(|e| foreign(&e))?,
    };
    if !wanted.is(&key) {
        return Ok(());
    }
    if !key.is_connection() {
        let scope = &*key.scope;
        return StateRef::read(text()?, |record| take(Read::Key { scope, record })).map_err(refused)?;
    }
    let Versioned { version } = serde_json::from_slice(value).map_err(|e| foreign(&e))?;
    if version > VERSION {
        return Err(newer(&place, &format!("version {version}, this program reads up to {VERSION}")));
    }
    let record = serde_json::from_slice(value).map_err(|e| foreign(&e))?;
    take(Read::Connection { scope: key.scope.into_owned(), record: Box::new(record) })
}

fn newer(place: &dyn Display, why: &str) -> TransportError {
    TransportError::new(Kind::Foreign, format!("the record `{place}` was written by a newer version: {why}"))
        .with_hint("start that version, or a newer one; an older one would undo what it does not know of")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pinned: where a scope's state lies must never change.
    #[test]
    fn a_scope_stays_in_its_partition() {
        for (scope, partitions, expected) in
            [("111122223333-5d41402abc", 8, 7), ("111122223333-5d41402abc", 1, 0), ("a", 8, 2), ("b", 8, 6)]
        {
            assert_eq!(partition_of(scope, partitions), expected, "{scope}");
        }
    }

    /// Pinned: what is stored today is read by every later version.
    #[test]
    fn a_connection_record_has_the_documented_form_and_reads_back() {
        let state = ConnectionState { name: "main".to_owned(), ..Default::default() };
        let record = ConnectionRecord::new(8, "l".to_owned(), state);
        let mut key = Vec::new();
        put_key(&mut key, "s", None);
        assert_eq!(key, br#"{"scope":"s"}"#);
        let json = record.to_json();
        assert!(
            json.starts_with(r#"{"version":1,"partitions":8,"lineage":"l","state":{"name":"main","#),
            "{json}"
        );
        let mut found = None;
        read("t/0/0", Some(&*key), Some(json.as_bytes()), Wanted::Everything, |read| {
            let Read::Connection { record, .. } = read else { panic!("a key's") };
            found = Some(record.to_json());
            Ok(())
        })
        .unwrap();
        assert_eq!(found, Some(json));
    }

    #[test]
    fn a_key_is_the_same_however_it_is_read() {
        for (json, as_written) in [
            (r#"{"scope":"s","period":"2026-01-01","service":"x"}"#, true),
            (r#"{"scope":"s","period":"2026-01-01","service":"x","group":""}"#, true),
            (r#"{"scope":"s"}"#, true),
            (r#"{"scope":"s","period":"2026-01-01","service":"a \"b\""}"#, false),
            (r#"{"period":"2026-01-01","scope":"s","service":"x"}"#, false),
            (r#"{"scope":"s" }"#, false),
        ] {
            let scanned = RecordKey::as_written(json.as_bytes());
            assert_eq!(scanned.is_some(), as_written, "{json}");
            let parsed: RecordKey<'_> = serde_json::from_str(json).unwrap();
            assert!(scanned.is_none_or(|scanned| scanned == parsed), "{json}");
        }
        for near in [r#"{"scope":"s","other":"x"}"#, r#"{"scope":"s"}}"#, "{\"scope\":\"a\nb\"}"] {
            assert!(RecordKey::as_written(near.as_bytes()).is_none(), "{near}");
            assert!(serde_json::from_str::<RecordKey<'_>>(near).is_err(), "{near}");
        }
    }

    #[test]
    fn foreign_and_newer_records_are_refused() {
        for (key, value, words) in [
            (None, Some("{}"), "no key"),
            (Some(r#"{"scope":"s"}"#), None, "no value"),
            (Some("hello"), Some("{}"), "not of this program"),
            (Some(r#"{"scope":"s"}"#), Some("{}"), "not of this program"),
            (Some(r#"{"scope":"s"}"#), Some(r#"{"version":2}"#), "newer version"),
            (
                Some(r#"{"scope":"s","period":"2026-01-01","service":"x"}"#),
                Some(r#"{"version":2}"#),
                "newer version",
            ),
        ] {
            let [key, value] = [key, value].map(|text| text.map(str::as_bytes));
            let read = read("t/0/0", key, value, Wanted::Everything, |_| panic!("nothing was to be read"));
            let error = read.expect_err("refused");
            assert_eq!(error.kind, Kind::Foreign);
            assert!(error.message.contains(words), "{error}");
        }
    }
}
