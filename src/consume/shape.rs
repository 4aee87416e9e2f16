//! Shapes: what the events of a log have in common as texts.
//!
//! Whoever writes events writes them alike: between two of them only what stands within strings
//! differs, and numbers and truth values. So a text that was once checked and taken apart answers for
//! those that follow: where all the rest is the same, byte for byte, and a value is of the same kind,
//! the text is JSON with the same members in the same places. That is a third of the work. Whatever
//! fits no shape is read as if there were none.

use std::ops::Range;

use super::{Event, NotOurs};
use crate::{
    cost::Granularity,
    event::{plain_ascii_run, plain_run},
};

/// So many shapes are kept: by change, granularity and grouping a log has a few.
const KEPT: usize = 8;

/// Of what was read so many events allow one shape to be learned, which costs as much as reading some of them.
const EVENTS_A_SHAPE: usize = 16;

/// A longer line is not learned.
const LONGEST: usize = 16 * 1024;

/// Attributes that say what an event is, the same in all of a shape.
const FIXED: [&str; 5] = ["specversion", "type", "datacontenttype", "dataschema", "source"];

/// Reads events, and learns their shapes on the way.
#[derive(Debug)]
pub struct Shapes {
    /// The one that fitted last comes first.
    known: Vec<Shape>,
    /// Of the text that fitted last.
    shifts: Vec<usize>,
    /// Events read that have not allowed a shape yet.
    events: usize,
}

impl Default for Shapes {
    fn default() -> Self {
        Self { known: Vec::new(), shifts: Vec::new(), events: KEPT * EVENTS_A_SHAPE }
    }
}

impl Shapes {
    /// What [`Event::read`] reads.
    ///
    /// # Errors
    /// As there.
    pub fn read<'a>(&'a mut self, line: &'a [u8]) -> Result<Event<'a>, NotOurs> {
        self.events = (self.events + 1).min(KEPT * EVENTS_A_SHAPE);
        if let Some(place) = self.known.iter().position(|shape| shape.fits(line, &mut self.shifts)) {
            self.known.swap(0, place);
            let event = self.known[0].event(line, &self.shifts);
            return event.map_or_else(|| Event::read(line), Ok);
        }
        let event = Event::read(line)?;
        if self.events >= EVENTS_A_SHAPE
            && let Some(shape) = Shape::of(&event)
        {
            self.events -= EVENTS_A_SHAPE;
            self.known.truncate(KEPT - 1);
            self.known.insert(0, shape);
        }
        Ok(event)
    }
}

/// The shape of an event.
#[derive(Debug)]
struct Shape {
    /// The event it was learned from.
    text: Box<str>,
    /// What differs, in its order.
    values: Vec<Value>,
    attributes: Vec<(Box<str>, Part)>,
    data: Part,
    granularity: Granularity,
}

/// A value that differs from event to event, by where it lies in the text; of a string what is within quotes.
#[derive(Debug)]
struct Value {
    range: Range<usize>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A string of which every byte stands for itself.
    Text,
    /// The same, not empty.
    Attribute,
    /// An integer from 1.
    Number,
    /// `true` or `false`.
    Truth,
}

impl Kind {
    /// How long a value is that begins a text. That it ends there shows in what is behind it.
    #[inline]
    fn length(self, text: &[u8], ascii: &mut bool) -> Option<usize> {
        match self {
            Self::Text => Some(run(text, ascii)),
            Self::Attribute => Some(run(text, ascii)).filter(|length| *length > 0),
            Self::Number => {
                let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
                (digits > 0 && text[0] != b'0').then_some(digits)
            }
            Self::Truth if text.starts_with(b"true") => Some(4),
            Self::Truth => text.starts_with(b"false").then_some(5),
        }
    }

    /// Of what is no string: `true`, `false` and integers from 1.
    fn of(token: &[u8]) -> Option<Self> {
        match token {
            b"true" | b"false" => Some(Self::Truth),
            [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => Some(Self::Number),
            _ => None,
        }
    }
}

/// How many bytes of a string stand for themselves, and whether they are all ASCII, as nearly ever.
#[inline]
fn run(text: &[u8], ascii: &mut bool) -> usize {
    let length = plain_ascii_run(text);
    if text.get(length).is_none_or(u8::is_ascii) {
        return length;
    }
    *ascii = false;
    length + plain_run(&text[length..])
}

/// A part of the text, and how many values end before its start and before its end.
#[derive(Clone, Debug, Default)]
struct Part {
    range: Range<usize>,
    values: Range<usize>,
}

impl Part {
    /// The same part of another text of the shape: by how much that is longer, modulo 2^64, `shifts` says for
    /// where each value ends.
    fn of<'a>(&self, text: &'a [u8], shifts: &[usize]) -> Option<&'a [u8]> {
        let start = self.range.start.wrapping_add(*shifts.get(self.values.start)?);
        text.get(start..self.range.end.wrapping_add(*shifts.get(self.values.end)?))
    }
}

/// The attributes of an event that has a shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fitted<'a> {
    text: &'a [u8],
    shape: &'a Shape,
    shifts: &'a [usize],
}

impl<'a> Fitted<'a> {
    pub(super) fn get(self, name: &str) -> Option<&'a str> {
        let (_, value) = self.shape.attributes.iter().find(|(known, _)| **known == *name)?;
        self.text(value)
    }

    pub(super) fn nth(self, place: usize) -> Option<(&'a str, &'a str)> {
        let (name, value) = self.shape.attributes.get(place)?;
        Some((name, self.text(value)?))
    }

    fn text(self, value: &Part) -> Option<&'a str> {
        std::str::from_utf8(value.of(self.text, self.shifts)?).ok()
    }
}

impl Shape {
    /// Whether a text has this shape, and its shifts. One that has is UTF-8.
    fn fits(&self, text: &[u8], shifts: &mut Vec<usize>) -> bool {
        shifts.resize(self.values.len() + 1, 0);
        // What is the same is UTF-8, and so is what is ASCII.
        self.walk(text, &mut shifts[1..]).is_some_and(|ascii| ascii || std::str::from_utf8(text).is_ok())
    }

    /// Whether the values of a text that has this shape are ASCII.
    fn walk(&self, text: &[u8], shifts: &mut [usize]) -> Option<bool> {
        let known = self.text.as_bytes();
        // A first figure and a revision are alike almost to the end: that tells them apart before it is walked to.
        let last = self.values.last()?;
        let before = text.strip_suffix(&known[last.range.end..])?;
        if last.kind == Kind::Truth && before.last() != Some(&b'e') {
            return None;
        }
        let (mut from, mut rest, mut ascii) = (0, text, true);
        for (Value { range, kind }, shift) in self.values.iter().zip(shifts) {
            rest = rest.strip_prefix(&known[from..range.start])?;
            rest = &rest[kind.length(rest, &mut ascii)?..];
            from = range.end;
            *shift = (text.len() - rest.len()).wrapping_sub(from);
        }
        (text.len() - rest.len() == before.len()).then_some(ascii)
    }

    /// The event of a text that has this shape.
    fn event<'a>(&'a self, text: &'a [u8], shifts: &'a [usize]) -> Option<Event<'a>> {
        let fitted = Fitted { text, shape: self, shifts };
        Event::fitted(text, fitted, self.data.of(text, shifts)?, self.granularity)
    }

    /// The shape of an event that was read; `None` where there is something unusual about it.
    fn of(event: &Event<'_>) -> Option<Self> {
        let text = std::str::from_utf8(event.json()).ok()?;
        if text.len() > LONGEST || text.contains('\\') {
            return None;
        }
        let shape = Self::learn(text, event.granularity());
        // It is taken at its word only where it says the same of what it was learned from.
        let mut shifts = Vec::new();
        let same = shape.fits(event.json(), &mut shifts)
            && shape.event(event.json(), &shifts).is_some_and(|fitted| fitted.is_read_as(event));
        same.then_some(shape)
    }

    /// Takes a text apart that is an event, and has no escapes.
    fn learn(text: &str, granularity: Granularity) -> Self {
        let bytes = text.as_bytes();
        let mut shape = Self {
            text: text.into(),
            values: Vec::new(),
            attributes: Vec::new(),
            data: Part::default(),
            granularity,
        };
        let (mut at, mut depth) = (0, 0);
        // The attribute whose value comes next.
        let mut name = "";
        while let Some(byte) = bytes.get(at) {
            let before = shape.values.len();
            let start = at;
            at += 1;
            let (range, kind) = match byte {
                b'{' | b'[' => {
                    depth += 1;
                    if depth == 2 {
                        shape.data = Part { range: start..start, values: before..before };
                    }
                    continue;
                }
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 1 {
                        shape.data.range.end = at;
                        shape.data.values.end = before;
                    }
                    continue;
                }
                b'"' => {
                    let range = at..at + plain_run(&bytes[at..]);
                    at = range.end + 1;
                    if bytes[at..].trim_ascii_start().starts_with(b":") {
                        name = &text[range];
                        continue;
                    }
                    (range, Some(if depth == 1 { Kind::Attribute } else { Kind::Text }))
                }
                b',' | b':' | b' ' | b'\n' | b'\r' | b'\t' => continue,
                _ => {
                    at = start
                        + bytes[start..].iter().take_while(|byte| !b",}] \n\r\t".contains(byte)).count();
                    (start..at, Kind::of(&bytes[start..at]))
                }
            };
            let fixed = depth == 1 && FIXED.contains(&name);
            if let Some(kind) = kind.filter(|_| !fixed) {
                shape.values.push(Value { range: range.clone(), kind });
            }
            // One that is null is not set.
            if depth == 1 && bytes[start] != b'n' {
                shape.attributes.push((name.into(), Part { range, values: before..shape.values.len() }));
            }
        }
        shape
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        cost::{GroupBy, Scope},
        dedup::ChangeKind,
        event::{EventFactory, structured_json, tests as fixtures},
    };

    /// Reads it both ways, which must say the same; whether a shape fitted.
    fn read(shapes: &mut Shapes, line: &[u8]) -> bool {
        let fits = shapes.known.iter().any(|shape| shape.fits(line, &mut Vec::new()));
        match (shapes.read(line), Event::read(line)) {
            (Ok(ours), Ok(other)) => {
                assert!(ours.is_read_as(&other), "{}:\n{ours:?}\n{other:?}", line.escape_ascii());
            }
            (ours, other) => assert_eq!(ours.unwrap_err(), other.unwrap_err(), "{}", line.escape_ascii()),
        }
        fits
    }

    /// Whether an event is known again.
    fn is_learned(line: &str) -> bool {
        Event::read(line.as_bytes()).is_ok_and(|event| Shape::of(&event).is_some())
    }

    /// Events of every kind, of days and hours, with and without a second grouping.
    fn events() -> Vec<String> {
        let mut lines = Vec::new();
        for group in [None, Some("444455556666")] {
            let group_by = group.map(|_| GroupBy::Dimension("LINKED_ACCOUNT".to_owned()));
            let factory = EventFactory::new(Scope { group_by, ..fixtures::scope() }, "amazon.billing");
            for label in ["2023-01-27", "2023-01-27T13"] {
                for service in ["AWS Lambda", "Amazon Élan \"quoted\"", "EC2 - Other"] {
                    for kind in [ChangeKind::New, ChangeKind::Revised, ChangeKind::Removed] {
                        for revision in [1, 12] {
                            let mut change = fixtures::change(label, service);
                            (change.kind, change.revision, change.key.group) = (kind, revision, group);
                            change.estimated = revision == 1;
                            if kind == ChangeKind::New {
                                change.previous = None;
                            }
                            let event = factory.event(&change, &BTreeMap::new());
                            lines.push(String::from_utf8(structured_json(event).unwrap()).unwrap());
                        }
                    }
                }
            }
        }
        lines
    }

    #[test]
    fn what_is_written_alike_has_one_shape() {
        let mut shapes = Shapes::default();
        let lines = events();
        let fitted = lines.iter().filter(|line| read(&mut shapes, line.as_bytes())).count();
        let plain = lines.iter().filter(|line| !line.contains('\\')).count();
        assert_eq!(fitted, plain - shapes.known.len(), "all but the first of each");
    }

    /// Whatever else is written where a value was, or around it.
    #[test]
    fn what_has_no_shape_is_read_as_without() {
        let line = events()[2].clone();
        for (from, to, fits) in [
            ("AWS Lambda", "Amazon \u{c9}lan", true),
            ("AWS Lambda", "", true),
            ("AWS Lambda", "a\\u0041", false),
            ("AWS Lambda", "a\\q", false),
            ("AWS Lambda", "a\tb", false),
            ("AWS Lambda", "a\",\"b\":\"c", false),
            (r#""AWS Lambda""#, "17", false),
            (r#""subject":"2023"#, r#""subject":"2024"#, true),
            (r#""time":"2023-01-28T06:11:10Z""#, r#""time":"""#, false),
            (r#""time":"2023-01-28T06:11:10Z""#, r#""time":null"#, false),
            ("amazon.billing.daily\"", "acme.daily\"", false),
            ("/1.0.0.json", "/1.7.0.json", false),
            ("/1.0.0.json", "/2.0.0.json", false),
            (r#""revision":1"#, r#""revision":4294967295"#, true),
            (r#""revision":1"#, r#""revision":4294967296"#, true),
            (r#""revision":1"#, r#""revision":0"#, false),
            (r#""revision":1"#, r#""revision":01"#, false),
            (r#""revision":1"#, r#""revision":1.5"#, false),
            (r#""revision":1"#, r#""revision":1e1"#, false),
            (r#""revision":1"#, r#""revision":"1""#, false),
            (r#""revision":1"#, r#""revision":"#, false),
            (r#""estimated":true"#, r#""estimated":false"#, true),
            (r#""estimated":true"#, r#""estimated":truest"#, false),
            (r#""estimated":true"#, r#""estimated":null"#, false),
            (r#","revision""#, r#", "revision""#, false),
            (r#","data":{"#, r#","data":{"more":1,"#, false),
            (r#","data":{"#, r#","more":"1","data":{"#, false),
            ("true}}}", "true}}} ", false),
            ("true}}}", "true}}", false),
            ("true}}}", "}}}", false),
            ("true}}}", "e}}}", false),
            ("true}}}", "true,\"more\":true}}}", false),
        ] {
            let mut shapes = Shapes::default();
            assert!(!read(&mut shapes, line.as_bytes()));
            assert!(line.contains(from), "{from}");
            let other = line.replacen(from, to, 1);
            assert_eq!(read(&mut shapes, other.as_bytes()), fits, "{from} {to}");
            assert_eq!(
                read(&mut shapes, other.as_bytes()),
                fits || is_learned(&other),
                "learned: {from} {to}"
            );
        }
        assert!(!read(&mut Shapes::default(), b"\xff"));
    }

    /// In what fits but for that, too.
    #[test]
    fn what_is_no_utf_8_is_no_event() {
        let line = events()[2].clone();
        let mut shapes = Shapes::default();
        for (put, fits) in [(&b"Lambda"[..], false), (b"\xc3\x89", true), (b"\xc3", false), (b"\x89", false)]
        {
            let (before, behind) = line.split_once("Lambda").unwrap();
            let other = [before.as_bytes(), put, behind.as_bytes()].concat();
            assert_eq!(read(&mut shapes, &other), fits, "{}", put.escape_ascii());
        }
    }

    /// An attribute that is not set is no value; one that is empty would not fit again.
    #[test]
    fn what_would_not_be_known_again_is_not_learned() {
        let line = events()[2].clone();
        let with = |member: &str| line.replacen(r#","data":{"#, &format!(r#",{member},"data":{{"#), 1);
        let long = |length: usize| {
            let padding = "a".repeat(length - with(r#""more":"""#).len());
            with(&format!(r#""more":"{padding}""#))
        };
        for (line, learned) in [
            (with(r#""more":"a""#), true),
            (with(r#""more":null"#), true),
            (with(r#""more":"""#), false),
            (with(r#""more":"\u0061""#), false),
            (long(LONGEST), true),
            (long(LONGEST + 1), false),
        ] {
            assert_eq!(is_learned(&line), learned, "{line}");
            let mut shapes = Shapes::default();
            read(&mut shapes, line.as_bytes());
            assert_eq!(shapes.known.len(), usize::from(learned), "{line}");
        }
    }

    /// A log whose events are all different costs little more than without shapes.
    #[test]
    fn what_is_never_seen_again_is_rarely_learned() {
        let line = events()[0].clone();
        let mut shapes = Shapes::default();
        let learned = (0..1600).filter(|n| {
            let other = line.replacen(r#","data":{"#, &format!(r#","data":{{"more{n}":1,"#), 1);
            assert!(!read(&mut shapes, other.as_bytes()));
            shapes.known.first().is_some_and(|shape| *shape.text == *other)
        });
        assert!((100..=108).contains(&learned.count()), "of 1,600 events, beside the first ones");
        assert_eq!(shapes.known.len(), KEPT);
    }

    proptest! {
        /// With any character more, less, or another one, however many shapes are known.
        #[test]
        fn a_damaged_event_is_read_as_without_shapes(
            damage in prop::collection::vec(
                (any::<prop::sample::Index>(), any::<prop::sample::Index>(), "(|[\"\\\\,:{}0-9a-z \\PC]{1,3})", 0..3_usize),
                1..40,
            ),
        ) {
            let lines = events();
            let mut shapes = Shapes::default();
            for line in &lines {
                read(&mut shapes, line.as_bytes());
            }
            for (which, place, put, cut) in damage {
                let line = which.get(&lines);
                let place = place.index(line.chars().count() + 1);
                let before = line.chars().take(place);
                let other: String = before.chain(put.chars()).chain(line.chars().skip(place + cut)).collect();
                read(&mut shapes, other.as_bytes());
            }
        }
    }
}
