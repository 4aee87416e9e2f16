//! A message of a broker as one line of the JSON event format, without a look at its data.
//!
//! Sources: CloudEvents Kafka and NATS protocol bindings, JSON event format. As in the bindings, a
//! `content-type` of `application/cloudevents` makes a message structured, everything else is binary.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use crate::event::{ATTRIBUTE_ORDER, Binding, percent_decode, put_text};

/// So many bytes of lines lie together: memory that one thread takes and another gives back costs both of
/// them a wait, and is asked for once in some hundred lines.
const PIECE: usize = 64 * 1024;

/// Takes lines from messages.
#[derive(Default)]
pub(crate) struct Lines {
    /// Where the next ones go.
    piece: BytesMut,
    /// The one being put together.
    line: Vec<u8>,
}

impl Lines {
    /// A structured message's payload as it is, a binary one's attributes and data written as one object.
    /// `owned` makes a payload one's own, where it is not copied into that object.
    ///
    /// # Errors
    /// Why it is no event, with what it holds.
    pub(crate) fn take<'a>(
        &mut self,
        binding: Binding,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
        payload: Option<&[u8]>,
        owned: impl Fn(&mut Self, &[u8]) -> Bytes,
    ) -> Result<Bytes, (String, Bytes)> {
        let Some(payload) = payload else {
            return Err(("it has no payload: a tombstone".to_owned(), Bytes::new()));
        };
        let mut attributes: SmallVec<[(Rank, &str, Cow<'_, str>); 12]> = SmallVec::new();
        let mut next = 0;
        for (header, value) in headers {
            if header.eq_ignore_ascii_case("content-type") && is_structured(value) {
                return match value.get(..29) {
                    Some(start) if start.eq_ignore_ascii_case(b"application/cloudevents-batch") => {
                        Err(("it is a batch of CloudEvents".to_owned(), owned(self, payload)))
                    }
                    _ => Ok(on_one_line(owned(self, payload))),
                };
            }
            let Some(name) = attribute(binding, header) else { continue };
            let value = std::str::from_utf8(value).ok().map(Cow::Borrowed);
            let value = match binding {
                Binding::Kafka => value,
                Binding::Nats => value.and_then(|value| {
                    if value.contains('%') {
                        percent_decode(&value).ok().map(Cow::Owned)
                    } else {
                        Some(value)
                    }
                }),
            };
            let Some(value) = value else {
                return Err((format!("its header `{header}` is no text"), owned(self, payload)));
            };
            let rank = rank(name, next);
            next = rank.saturating_add(1);
            attributes.push((rank, name, value));
        }
        if !attributes.iter().any(|(_, name, _)| *name == "specversion") {
            return Err(("it is no CloudEvent".to_owned(), owned(self, payload)));
        }
        if payload.is_empty() {
            return Err(("it is a CloudEvent without data".to_owned(), owned(self, payload)));
        }
        attributes.sort_unstable_by(|(a, one, _), (b, other, _)| (a, one).cmp(&(b, other)));
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        for (_, name, value) in &attributes {
            line.push(if line.is_empty() { b'{' } else { b',' });
            put_text(&mut line, name);
            line.push(b':');
            // The one attribute of ours that is a number; headers have no types.
            if *name == "revision" && is_number(value) {
                line.extend_from_slice(value.as_bytes());
            } else {
                put_text(&mut line, value);
            }
        }
        line.extend_from_slice(b",\"data\":");
        if has_line_feed(payload) {
            line.extend(payload.iter().copied().map(spaced));
        } else {
            line.extend_from_slice(payload);
        }
        line.push(b'}');
        let whole = self.copy(&line);
        self.line = line;
        Ok(whole)
    }

    /// Bytes among those of other lines.
    pub(crate) fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if self.piece.capacity() < bytes.len() {
            self.piece = BytesMut::with_capacity(PIECE.max(bytes.len()));
        }
        self.piece.extend_from_slice(bytes);
        self.piece.split().freeze()
    }
}

/// The place of an attribute in a line; extensions come behind the others, by their names.
type Rank = usize;

/// Headers of ours come in that order: the one behind the last is looked at first.
fn rank(name: &str, next: Rank) -> Rank {
    if ATTRIBUTE_ORDER.get(next) == Some(&name) {
        return next;
    }
    ATTRIBUTE_ORDER.iter().position(|known| *known == name).unwrap_or(Rank::MAX)
}

fn is_structured(content_type: &[u8]) -> bool {
    content_type.get(..23).is_some_and(|start| start.eq_ignore_ascii_case(b"application/cloudevents"))
}

fn attribute(binding: Binding, header: &str) -> Option<&str> {
    match binding {
        Binding::Kafka if header == "content-type" => Some("datacontenttype"),
        Binding::Kafka => header.strip_prefix("ce_"),
        Binding::Nats => header.strip_prefix("ce-"),
    }
}

/// As JSON writes a number without sign, so that text and number are the same.
fn is_number(text: &str) -> bool {
    (1..=10).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'))
}

/// Between the tokens of JSON a line feed is as good as a space, and within a text there is none.
fn on_one_line(json: Bytes) -> Bytes {
    if has_line_feed(&json) { json.iter().copied().map(spaced).collect::<Vec<_>>().into() } else { json }
}

fn has_line_feed(json: &[u8]) -> bool {
    memchr::memchr2(b'\n', b'\r', json).is_some()
}

const fn spaced(byte: u8) -> u8 {
    if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        consume::Event,
        event::{ContentMode, EventFactory, WireMessage, encode, structured_json, tests as fixtures},
    };

    fn line(binding: Binding, message: &WireMessage) -> Result<Bytes, (String, Bytes)> {
        let headers = message.headers.iter().map(|(name, value)| (&**name, value.as_bytes()));
        Lines::default().take(binding, headers, Some(&message.payload), Lines::copy)
    }

    /// Byte for byte what a file would hold, from either mode of either binding.
    #[test]
    fn every_form_of_an_event_is_the_same_line() {
        for source in ["cloud.amazon.billing", "https://example.com/%C3%A9?a=\"b\""] {
            let scope = crate::cost::Scope { source: source.to_owned(), ..fixtures::scope() };
            let factory = EventFactory::new(scope, "amazon.billing");
            let event = factory.event(&fixtures::change("2023-01-27T13", "AWS Lambda"), &BTreeMap::new());
            let expected = structured_json(event.clone()).unwrap();
            for binding in [Binding::Kafka, Binding::Nats] {
                for mode in [ContentMode::Binary, ContentMode::Structured] {
                    let message = encode(event.clone(), binding, mode).unwrap();
                    let line = line(binding, &message).unwrap();
                    assert_eq!(line, expected, "{binding:?} {mode:?}");
                    Event::read(&line).unwrap();
                }
            }
        }
    }

    #[test]
    fn a_record_is_the_same_line_however_its_headers_lie() {
        let factory = EventFactory::new(fixtures::scope(), "amazon.billing");
        let event = factory.event(&fixtures::change("2023-01-27", "AWS Lambda"), &BTreeMap::new());
        let expected = structured_json(event.clone()).unwrap();
        let message = encode(event, Binding::Kafka, ContentMode::Binary).unwrap();
        for place in 0..message.headers.len() {
            for other in 0..place {
                let mut moved = message.clone();
                moved.headers.swap(place, other);
                assert_eq!(line(Binding::Kafka, &moved).unwrap(), expected);
            }
        }
    }

    #[test]
    fn a_written_line_feed_breaks_no_line() {
        let payload = Bytes::from_static(b"{\n \"a\":\r\n \"b\\n\"}");
        let headers = [("Content-Type", &b"Application/CloudEvents+json"[..])];
        let line = Lines::default().take(Binding::Nats, headers.into_iter(), Some(&payload), Lines::copy);
        let line = line.unwrap();
        assert_eq!(line, "{  \"a\":   \"b\\n\"}");
        let headers = [("ce-x", &b"\n"[..]), ("ce-specversion", b"1.0")];
        let line = Lines::default().take(Binding::Nats, headers.into_iter(), Some(&payload), Lines::copy);
        assert_eq!(line.unwrap(), r#"{"specversion":"1.0","x":"\n","data":{  "a":   "b\n"}}"#);
    }

    #[test]
    fn what_is_no_event_says_why() {
        let check = |headers: &[(&str, &[u8])], payload: Option<&'static [u8]>, expected: &str| {
            let line = Lines::default().take(Binding::Nats, headers.iter().copied(), payload, Lines::copy);
            let (why, held) = line.unwrap_err();
            assert_eq!((&*why, &*held), (expected, payload.unwrap_or_default()));
        };
        check(&[], None, "it has no payload: a tombstone");
        check(&[], Some(b"hello"), "it is no CloudEvent");
        check(&[("ce_specversion", b"1.0")], Some(b"{}"), "it is no CloudEvent");
        check(&[("ce-specversion", b"1.0")], Some(b""), "it is a CloudEvent without data");
        check(&[("ce-id", b"\xff")], Some(b"{}"), "its header `ce-id` is no text");
        check(&[("ce-id", b"%FF")], Some(b"{}"), "its header `ce-id` is no text");
        let batch = &b"application/cloudevents-batch+json"[..];
        check(&[("content-type", batch)], Some(b"[]"), "it is a batch of CloudEvents");
    }
}
