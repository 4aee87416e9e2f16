//! An event as it is read: its attributes, and its data as it is written.
//!
//! Only attributes are looked at. What cannot be an event of this program is told apart, with the
//! reason; what the figures are is not asked here.

use std::{borrow::Cow, fmt};

use super::{Segments, shape::Fitted};
use crate::{
    cost::Granularity,
    event::{SCHEMA_BASE, SCHEMA_VERSION, members},
};

/// What every event of ours has beside its version, revision and data.
const REQUIRED: [&str; 7] = ["id", "source", "type", "subject", "time", "partitionkey", "change"];

/// An event of this program, borrowed from the message it came in.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    /// UTF-8, and so is the data: of a text that has a shape, that it is was seen with the shape.
    line: &'a [u8],
    attributes: Attributes<'a>,
    data: &'a [u8],
    granularity: Granularity,
    revision: u32,
}

/// Attributes, with their canonical texts, in the order of the message.
#[derive(Clone, Debug)]
enum Attributes<'a> {
    /// Taken apart.
    Apart(Vec<(Cow<'a, str>, Cow<'a, str>)>),
    /// Where a shape says that they are.
    Fitted(Fitted<'a>),
}

/// Why a message is no event of this program, or none it can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotOurs(pub(super) String);

impl NotOurs {
    /// For a reason found further inside.
    pub(crate) fn because(why: String) -> Self {
        Self(why)
    }
}

impl fmt::Display for NotOurs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'a> Event<'a> {
    /// Reads an event in the JSON event format.
    ///
    /// # Errors
    /// When it is none of this program, or of a type or version this program does not know.
    pub fn read(line: &'a [u8]) -> Result<Self, NotOurs> {
        Self::parse(std::str::from_utf8(line).map_err(|e| NotOurs(format!("it is no UTF-8: {e}")))?)
    }

    /// An event that fits a shape; `None` where its revision is none.
    pub(super) fn fitted(
        line: &'a [u8],
        fitted: Fitted<'a>,
        data: &'a [u8],
        granularity: Granularity,
    ) -> Option<Self> {
        let revision = fitted.get("revision").and_then(revision)?;
        Some(Self { line, attributes: Attributes::Fitted(fitted), data, granularity, revision })
    }

    /// Takes a text apart.
    fn parse(text: &'a str) -> Result<Self, NotOurs> {
        let no = |why: String| NotOurs(why);
        let mut attributes = Vec::with_capacity(12);
        let mut data = None;
        let mut seen = 0_u8;
        let mut problem = None;
        let whole = members(text, |name, value| {
            let value = match (name.as_ref(), value.json().as_bytes().first()) {
                ("data", _) => return data = Some(value.json()),
                ("data_base64", _) => return problem = Some("its data is binary".to_owned()),
                // Unset.
                (_, Some(b'n')) => return,
                (_, Some(b'"')) => match value.text() {
                    Some(text) => text,
                    None => return problem = Some(format!("`{name}` is no text")),
                },
                (_, Some(b'{' | b'[')) => return problem = Some(format!("`{name}` is no attribute")),
                _ => Cow::Borrowed(value.json()),
            };
            if !value.is_empty()
                && let Some(place) = REQUIRED.iter().position(|required| *required == name)
            {
                seen |= 1 << place;
            }
            attributes.push((name, value));
        });
        whole.map_err(|at| no(format!("it is no JSON object: byte {at}")))?;
        if let Some(problem) = problem {
            return Err(no(problem));
        }
        let get = |name: &str| {
            attributes.iter().find(|(known, _)| known == name).map(|(_, value): &(_, Cow<'_, str>)| &**value)
        };
        let granularity = check_version(get)?;
        if let Some(missing) = (0..REQUIRED.len()).find(|place| seen & (1 << place) == 0) {
            return Err(no(format!("it has no `{}`", REQUIRED[missing])));
        }
        let stated = get("revision").unwrap_or_default();
        let revision =
            revision(stated).ok_or_else(|| no(format!("its revision `{stated}` is no number from 1")))?;
        let data = match data {
            Some(data) if data.starts_with('{') => data.as_bytes(),
            _ => return Err(no("its data is no JSON object".to_owned())),
        };
        Ok(Self {
            line: text.as_bytes(),
            attributes: Attributes::Apart(attributes),
            data,
            granularity,
            revision,
        })
    }

    /// Whether both say the same.
    pub(super) fn is_read_as(&self, other: &Self) -> bool {
        self.attributes().eq(other.attributes())
            && (self.line, self.data, self.granularity, self.revision)
                == (other.line, other.data, other.granularity, other.revision)
    }

    /// An attribute in its canonical text: `revision` is `2`, also where it is a number.
    pub fn get(&self, name: &str) -> Option<&str> {
        match &self.attributes {
            Attributes::Apart(apart) => {
                apart.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
            }
            Attributes::Fitted(fitted) => fitted.get(name),
        }
    }

    /// Every attribute that is set, extensions included, with its canonical text, in the order of
    /// the message.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        (0..).map_while(|place| match &self.attributes {
            Attributes::Apart(apart) => apart.get(place).map(|(name, value)| (&**name, &**value)),
            Attributes::Fitted(fitted) => fitted.nth(place),
        })
    }

    /// `id`.
    pub fn id(&self) -> &str {
        self.get("id").unwrap_or_default()
    }

    /// `partitionkey`: whose figure it is. Of all events of a key the highest revision counts.
    pub fn key(&self) -> &str {
        self.get("partitionkey").unwrap_or_default()
    }

    /// `revision`, from 1.
    pub const fn revision(&self) -> u32 {
        self.revision
    }

    /// Daily or hourly, by the schema, whatever the type's prefix.
    pub const fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// `data` as it is written: a JSON object.
    pub fn data(&self) -> &'a str {
        std::str::from_utf8(self.data).expect("seen when the event was read")
    }

    /// The whole event in the JSON event format.
    pub const fn json(&self) -> &'a [u8] {
        self.line
    }

    /// The account, the granularity, the period's label, the service's slug and the second group's:
    /// the segments of `partitionkey`.
    pub fn segments(&self) -> Segments<'_> {
        Segments::of(self.key())
    }
}

/// That an event with these attributes is of a type and version this program reads; hourly or daily.
fn check_version<'e>(get: impl Fn(&str) -> Option<&'e str>) -> Result<Granularity, NotOurs> {
    match get("specversion") {
        Some("1.0") => {}
        Some(other) => {
            return Err(NotOurs(format!("its CloudEvents version is `{other}`; this program reads 1.0")));
        }
        None => return Err(NotOurs("it is no CloudEvent".to_owned())),
    }
    let ty = get("type").unwrap_or_default();
    let schema = get("dataschema").unwrap_or_default();
    let Some(schema) = schema.strip_prefix(SCHEMA_BASE).and_then(|rest| rest.strip_prefix('/')) else {
        return Err(NotOurs(format!("it is a CloudEvent of another program: type `{ty}`")));
    };
    let (name, version) = schema.split_once('/').unwrap_or((schema, ""));
    let granularity = name.strip_prefix("amazon.billing.").and_then(Granularity::from_name);
    let Some(granularity) = granularity else {
        return Err(NotOurs(format!("its type `{name}` is not known to this version of the program")));
    };
    // Another minor version only adds members.
    let major = |version: &'static str| version.split('.').next().unwrap_or_default();
    if version.split('.').next() != Some(major(SCHEMA_VERSION)) {
        let version = version.trim_end_matches(".json");
        return Err(NotOurs(format!(
            "its schema `{name}` has version {version}; this program reads {SCHEMA_VERSION}"
        )));
    }
    Ok(granularity)
}

/// A number from 1.
fn revision(text: &str) -> Option<u32> {
    text.parse().ok().filter(|revision| *revision > 0)
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::event::{EventFactory, structured_json, tests as fixtures};

    /// The event of the documentation.
    pub(in crate::consume) fn line() -> Vec<u8> {
        let change = fixtures::change("2023-01-27", "AWS Lambda");
        let factory = EventFactory::new(fixtures::scope(), "amazon.billing");
        structured_json(factory.event(&change, &BTreeMap::new())).unwrap()
    }

    #[test]
    fn an_event_is_read_with_its_attributes_and_data() {
        let line = line();
        let event = Event::read(&line).unwrap();
        assert_eq!(event.get("type"), Some("amazon.billing.daily"));
        assert_eq!(event.get("revision"), Some("2"));
        assert_eq!(event.get("nothing"), None);
        assert_eq!((event.revision(), event.granularity()), (2, Granularity::Daily));
        assert!(event.data().starts_with(r#"{"date":"2023-01-27","service":"AWS Lambda""#));
        assert_eq!(event.json(), line);
        let segments = event.segments();
        assert_eq!((segments.account, segments.period), ("111122223333", "2023-01-27"));
        assert_eq!((segments.service, segments.group), ("aws-lambda-37e22690b3", None));
        assert_eq!(event.attributes().count(), 11);
    }

    #[test]
    fn what_is_no_event_of_ours_says_why() {
        let text = String::from_utf8(line()).unwrap();
        let with = |from: &str, to: &str| {
            assert!(text.contains(from), "{from}");
            text.replacen(from, to, 1)
        };
        for (line, expected) in [
            ("hello".to_owned(), "it is no JSON object: byte 0"),
            (text[..100].to_owned(), "it is no JSON object: byte 100"),
            ("{}".to_owned(), "it is no CloudEvent"),
            (
                with(r#"specversion":"1.0"#, r#"specversion":"2.0"#),
                "its CloudEvents version is `2.0`; this program reads 1.0",
            ),
            (
                with("https://amazon-billing-source.github.io/", "https://example.com/"),
                "it is a CloudEvent of another program: type `amazon.billing.daily`",
            ),
            (
                with("schemas/amazon.billing.daily", "schemas/amazon.billing.weekly"),
                "its type `amazon.billing.weekly` is not known to this version of the program",
            ),
            (
                with("/1.0.0.json", "/2.1.0.json"),
                "its schema `amazon.billing.daily` has version 2.1.0; this program reads 1.0.0",
            ),
            (with(r#""id":"#, r#""uid":"#), "it has no `id`"),
            (with(r#""revision":2"#, r#""revision":0"#), "its revision `0` is no number from 1"),
            (with(r#""revision":2"#, r#""revision":"x""#), "its revision `x` is no number from 1"),
            (
                text[..text.find(r#""data""#).unwrap()].to_owned() + r#""data":[]}"#,
                "its data is no JSON object",
            ),
            (with(r#""data":{"#, r#""data_base64":{"#), "its data is binary"),
            (with(r#""change":"revised""#, r#""change":["revised"]"#), "`change` is no attribute"),
        ] {
            assert_eq!(Event::read(line.as_bytes()).unwrap_err().to_string(), expected, "{line}");
        }
        // A minor version only adds members; a type may have another prefix.
        for line in [
            with("/1.0.0.json", "/1.7.0.json"),
            with(r#""type":"amazon.billing.daily""#, r#""type":"acme.daily""#),
        ] {
            Event::read(line.as_bytes()).unwrap();
        }
        assert!(Event::read(b"{\"\xff\":1}").unwrap_err().to_string().starts_with("it is no UTF-8"));
    }
}
