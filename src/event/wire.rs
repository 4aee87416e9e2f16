//! Wire messages: an event as bytes and headers, before any client library sees it.
//!
//! Both bindings and both content modes, in both directions. Sources: CloudEvents Kafka protocol
//! binding, NATS protocol binding 1.0.3, JSON event format.

use std::borrow::Cow;

use chrono::{DateTime, SecondsFormat, Utc};
use cloudevents::{
    AttributesReader as _, Event,
    event::{ExtensionValue, SpecVersion},
    message::{
        BinaryDeserializer, BinarySerializer, Encoding, Error, MessageAttributeValue, MessageDeserializer,
        Result, StructuredDeserializer, StructuredSerializer,
    },
};
use smallvec::SmallVec;

use super::Object;

/// How attributes are ordered in the JSON event format; extensions follow by name.
pub(crate) const ATTRIBUTE_ORDER: [&str; 8] =
    ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"];

const STRUCTURED: &str = "application/cloudevents+json";

/// The protocol a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Headers `ce_<name>` as raw UTF-8, `content-type` for `datacontenttype`.
    Kafka,
    /// Headers `ce-<name>`, percent-encoded, `ce-datacontenttype` among them.
    Nats,
}

/// How an event lies in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentMode {
    /// Attributes in headers, `data` as the payload.
    Binary,
    /// The whole event as one JSON payload.
    Structured,
}

/// An event ready for a client library.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WireMessage {
    /// The Kafka record key: `partitionkey`. NATS has none.
    pub key: Option<String>,
    /// Name and value, in the order of the attributes.
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// The bytes.
    pub payload: Vec<u8>,
}

/// A message that is no event, or an event that is no message.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct WireError(#[from] Error);

/// Encodes an event for a binding.
///
/// # Errors
/// When the event has no data, which Kafka would read as a tombstone.
pub fn encode(
    event: Event,
    binding: Binding,
    mode: ContentMode,
) -> std::result::Result<WireMessage, WireError> {
    let key = match binding {
        Binding::Kafka => event.extension("partitionkey").map(ToString::to_string),
        Binding::Nats => None,
    };
    let mut message = match mode {
        ContentMode::Binary => {
            let mut writer =
                BinaryWriter { binding, attributes: Default::default(), extensions: SmallVec::new() };
            BinaryDeserializer::deserialize_binary(event, &mut writer)?
        }
        ContentMode::Structured => {
            let (name, value) = match binding {
                Binding::Kafka => ("content-type", "application/cloudevents+json; charset=UTF-8"),
                Binding::Nats => ("Content-Type", STRUCTURED),
            };
            WireMessage {
                key: None,
                headers: vec![(Cow::Borrowed(name), value.to_owned())],
                payload: structured_json(event)?,
            }
        }
    };
    message.key = key;
    Ok(message)
}

/// The JSON event format: attributes in the specification's order, extensions by name, then
/// `data`. The same event gives the same bytes, which `Event`'s own serialisation does not.
///
/// # Errors
/// When the event has no JSON data.
pub fn structured_json(mut event: Event) -> std::result::Result<Vec<u8>, WireError> {
    let (content_type, schema, data) = event.take_data();
    let data: Vec<u8> =
        data.ok_or_else(|| other("an event without data"))?.try_into().map_err(Error::from)?;
    let mut json = Vec::with_capacity(640 + data.len());
    let mut object = Object::open(&mut json);
    object
        .text("specversion", event.specversion().as_str())
        .text("id", event.id())
        .text("source", event.source())
        .text("type", event.ty());
    if let Some(subject) = event.subject() {
        object.text("subject", subject);
    }
    if let Some(time) = event.time() {
        object.text("time", &rfc3339(time));
    }
    if let Some(content_type) = &content_type {
        object.text("datacontenttype", content_type);
    }
    if let Some(schema) = &schema {
        object.text("dataschema", schema.as_str());
    }
    let mut extensions: SmallVec<[_; 4]> = event.iter_extensions().collect();
    extensions.sort_unstable_by_key(|&(name, _)| name);
    for (name, value) in extensions {
        match value {
            ExtensionValue::String(text) => object.text(name, text),
            ExtensionValue::Boolean(flag) => object.flag(name, *flag),
            ExtensionValue::Integer(number) => object.number(name, *number),
        };
    }
    object.value("data").extend_from_slice(&data);
    object.close();
    Ok(json)
}

/// Reads an event back from a message of either mode.
///
/// # Errors
/// When the message is no event.
pub fn decode(message: WireMessage, binding: Binding) -> std::result::Result<Event, WireError> {
    let reader = Reader { binding, message };
    if reader.encoding() == Encoding::UNKNOWN {
        return Err(other("the message is no CloudEvent").into());
    }
    Ok(MessageDeserializer::into_event(reader)?)
}

/// One text in both modes: whole seconds end in `Z`.
fn canonical(value: MessageAttributeValue) -> String {
    match value {
        MessageAttributeValue::DateTime(time) => rfc3339(&time),
        MessageAttributeValue::String(text) => text,
        other => other.to_string(),
    }
}

fn rfc3339(time: &DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

struct BinaryWriter {
    binding: Binding,
    /// By [`ATTRIBUTE_ORDER`].
    attributes: [Option<String>; ATTRIBUTE_ORDER.len()],
    extensions: SmallVec<[(Cow<'static, str>, String); 4]>,
}

impl BinaryWriter {
    fn text(&self, value: MessageAttributeValue) -> String {
        let value = canonical(value);
        match self.binding {
            Binding::Kafka => value,
            Binding::Nats => percent_encode(value),
        }
    }
}

/// By reference: it is handed on with every attribute, and moving it each time was a quarter of the work.
impl BinarySerializer<WireMessage> for &mut BinaryWriter {
    fn set_spec_version(self, version: SpecVersion) -> Result<Self> {
        self.set_attribute("specversion", MessageAttributeValue::String(version.as_str().to_owned()))
    }

    fn set_attribute(self, name: &str, value: MessageAttributeValue) -> Result<Self> {
        let Some(place) = ATTRIBUTE_ORDER.iter().position(|known| *known == name) else {
            return self.set_extension(name, value);
        };
        self.attributes[place] = Some(self.text(value));
        Ok(self)
    }

    fn set_extension(self, name: &str, value: MessageAttributeValue) -> Result<Self> {
        self.extensions.push((header(self.binding, name), self.text(value)));
        Ok(self)
    }

    fn end_with_data(self, bytes: Vec<u8>) -> Result<WireMessage> {
        let mut headers = Vec::with_capacity(12);
        for (name, value) in ATTRIBUTE_ORDER.into_iter().zip(&mut self.attributes) {
            headers.extend(value.take().map(|value| (header(self.binding, name), value)));
        }
        // They come from a hash map: sorted, equal events are equal messages.
        self.extensions.sort_unstable();
        headers.extend(self.extensions.drain(..));
        Ok(WireMessage { key: None, headers, payload: bytes })
    }

    fn end(self) -> Result<WireMessage> {
        Err(other("an event without data would be a tombstone on a compacted topic"))
    }
}

/// The header of an attribute; only of one that is not ours it has to be made.
fn header(binding: Binding, name: &str) -> Cow<'static, str> {
    let known = match name {
        "specversion" => ("ce_specversion", "ce-specversion"),
        "id" => ("ce_id", "ce-id"),
        "source" => ("ce_source", "ce-source"),
        "type" => ("ce_type", "ce-type"),
        "subject" => ("ce_subject", "ce-subject"),
        "time" => ("ce_time", "ce-time"),
        "datacontenttype" => ("content-type", "ce-datacontenttype"),
        "dataschema" => ("ce_dataschema", "ce-dataschema"),
        "change" => ("ce_change", "ce-change"),
        "partitionkey" => ("ce_partitionkey", "ce-partitionkey"),
        "revision" => ("ce_revision", "ce-revision"),
        _ => {
            let prefix = if binding == Binding::Kafka { "ce_" } else { "ce-" };
            return Cow::Owned([prefix, name].concat());
        }
    };
    Cow::Borrowed(if binding == Binding::Kafka { known.0 } else { known.1 })
}

struct Reader {
    binding: Binding,
    message: WireMessage,
}

impl Reader {
    /// The bare attribute name of a header, where it is one.
    fn attribute<'a>(&self, header: &'a str) -> Option<&'a str> {
        match self.binding {
            Binding::Kafka if header == "content-type" => Some("datacontenttype"),
            Binding::Kafka => header.strip_prefix("ce_"),
            Binding::Nats => header.strip_prefix("ce-"),
        }
    }
}

impl BinaryDeserializer for Reader {
    fn deserialize_binary<R: Sized, V: BinarySerializer<R>>(self, mut visitor: V) -> Result<R> {
        visitor = visitor.set_spec_version(SpecVersion::V10)?;
        for (header, value) in &self.message.headers {
            let Some(name) = self.attribute(header) else { continue };
            let value = match self.binding {
                Binding::Kafka => value.clone(),
                Binding::Nats => percent_decode(value)?,
            };
            let value = MessageAttributeValue::String(value);
            visitor = match name {
                "specversion" => visitor,
                "id" | "source" | "type" | "subject" | "time" | "datacontenttype" | "dataschema" => {
                    visitor.set_attribute(name, value)?
                }
                _ => visitor.set_extension(name, value)?,
            };
        }
        visitor.end_with_data(self.message.payload)
    }
}

impl StructuredDeserializer for Reader {
    fn deserialize_structured<R: Sized, V: StructuredSerializer<R>>(self, visitor: V) -> Result<R> {
        visitor.set_structured_event(self.message.payload)
    }
}

impl MessageDeserializer for Reader {
    fn encoding(&self) -> Encoding {
        let structured = self.message.headers.iter().any(|(name, value)| {
            name.eq_ignore_ascii_case("content-type")
                && value.get(..23).is_some_and(|v| v.eq_ignore_ascii_case("application/cloudevents"))
        });
        let binary = self
            .message
            .headers
            .iter()
            .any(|(name, value)| self.attribute(name) == Some("specversion") && value == "1.0");
        match (structured, binary) {
            (true, _) => Encoding::STRUCTURED,
            (false, true) => Encoding::BINARY,
            (false, false) => Encoding::UNKNOWN,
        }
    }
}

/// NATS binding 3.1.3.2 and HTTP binding 3.1.3.2: everything outside U+0021..U+007E, `"` and `%`, byte by byte.
pub(crate) fn percent_encode(text: String) -> String {
    if super::is_unencoded(&text) {
        return text;
    }
    let mut encoded = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        match byte {
            0x21..=0x7e if byte != b'"' && byte != b'%' => encoded.push(char::from(byte)),
            _ => {
                encoded.push('%');
                for nibble in [byte >> 4, byte & 0xf] {
                    encoded.push(char::from(b"0123456789ABCDEF"[usize::from(nibble)]));
                }
            }
        }
    }
    encoded
}

/// One round of decoding; a byte sequence that is no UTF-8 is refused.
pub(crate) fn percent_decode(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let hex = (byte == b'%').then(|| tail.get(..2)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &tail[2..];
            }
            None => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| other("a header is not percent-encoded UTF-8"))
}

fn other(message: &'static str) -> Error {
    Error::Other { source: message.into() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use cloudevents::{AttributesReader as _, EventBuilder as _, EventBuilderV10};
    use serde_json::Value;

    use super::*;
    use crate::event::{EventFactory, tests};

    fn event() -> Event {
        let factory = EventFactory::new(tests::scope(), "amazon.billing");
        factory.event(&tests::change("2023-01-27", "AWS Lambda"), &BTreeMap::new())
    }

    fn render(message: &WireMessage) -> String {
        let headers: Vec<_> = message.headers.iter().map(|(n, v)| format!("{n}: {v}")).collect();
        let payload = String::from_utf8(message.payload.clone()).unwrap();
        format!("key {:?}\n{}\n\n{payload}", message.key, headers.join("\n"))
    }

    /// Golden vectors, one per binding and mode.
    #[test]
    fn kafka_binary() {
        let message = encode(event(), Binding::Kafka, ContentMode::Binary).unwrap();
        insta::assert_snapshot!(render(&message), @r#"
key Some("111122223333/daily/2023-01-27/aws-lambda-37e22690b3")
ce_specversion: 1.0
ce_id: 7823fd7b-5c40-5921-83ae-9839171bc0fc
ce_source: cloud.amazon.billing
ce_type: amazon.billing.daily
ce_subject: 2023-01-27/aws-lambda-37e22690b3
ce_time: 2023-01-28T06:11:10Z
content-type: application/json
ce_dataschema: https://amazon-billing-source.github.io/schemas/amazon.billing.daily/1.0.0.json
ce_change: revised
ce_partitionkey: 111122223333/daily/2023-01-27/aws-lambda-37e22690b3
ce_revision: 2

{"date":"2023-01-27","service":"AWS Lambda","amortizedCost":{"amount":"0.2672917174","unit":"USD"},"unblendedCost":{"amount":"0.2672917174","unit":"USD"},"granularity":"DAILY","periodStart":"2023-01-27T00:00:00Z","periodEnd":"2023-01-28T00:00:00Z","accountId":"111122223333","estimated":true,"previous":{"amortizedCost":{"amount":"0.21","unit":"USD"},"unblendedCost":{"amount":"0.21","unit":"USD"},"estimated":true}}
"#);
    }

    #[test]
    fn kafka_structured() {
        let message = encode(event(), Binding::Kafka, ContentMode::Structured).unwrap();
        insta::assert_snapshot!(render(&message), @r#"
key Some("111122223333/daily/2023-01-27/aws-lambda-37e22690b3")
content-type: application/cloudevents+json; charset=UTF-8

{"specversion":"1.0","id":"7823fd7b-5c40-5921-83ae-9839171bc0fc","source":"cloud.amazon.billing","type":"amazon.billing.daily","subject":"2023-01-27/aws-lambda-37e22690b3","time":"2023-01-28T06:11:10Z","datacontenttype":"application/json","dataschema":"https://amazon-billing-source.github.io/schemas/amazon.billing.daily/1.0.0.json","change":"revised","partitionkey":"111122223333/daily/2023-01-27/aws-lambda-37e22690b3","revision":2,"data":{"date":"2023-01-27","service":"AWS Lambda","amortizedCost":{"amount":"0.2672917174","unit":"USD"},"unblendedCost":{"amount":"0.2672917174","unit":"USD"},"granularity":"DAILY","periodStart":"2023-01-27T00:00:00Z","periodEnd":"2023-01-28T00:00:00Z","accountId":"111122223333","estimated":true,"previous":{"amortizedCost":{"amount":"0.21","unit":"USD"},"unblendedCost":{"amount":"0.21","unit":"USD"},"estimated":true}}}
"#);
    }

    #[test]
    fn nats_binary() {
        let message = encode(event(), Binding::Nats, ContentMode::Binary).unwrap();
        insta::assert_snapshot!(render(&message), @r#"
key None
ce-specversion: 1.0
ce-id: 7823fd7b-5c40-5921-83ae-9839171bc0fc
ce-source: cloud.amazon.billing
ce-type: amazon.billing.daily
ce-subject: 2023-01-27/aws-lambda-37e22690b3
ce-time: 2023-01-28T06:11:10Z
ce-datacontenttype: application/json
ce-dataschema: https://amazon-billing-source.github.io/schemas/amazon.billing.daily/1.0.0.json
ce-change: revised
ce-partitionkey: 111122223333/daily/2023-01-27/aws-lambda-37e22690b3
ce-revision: 2

{"date":"2023-01-27","service":"AWS Lambda","amortizedCost":{"amount":"0.2672917174","unit":"USD"},"unblendedCost":{"amount":"0.2672917174","unit":"USD"},"granularity":"DAILY","periodStart":"2023-01-27T00:00:00Z","periodEnd":"2023-01-28T00:00:00Z","accountId":"111122223333","estimated":true,"previous":{"amortizedCost":{"amount":"0.21","unit":"USD"},"unblendedCost":{"amount":"0.21","unit":"USD"},"estimated":true}}
"#);
    }

    #[test]
    fn nats_structured() {
        let message = encode(event(), Binding::Nats, ContentMode::Structured).unwrap();
        insta::assert_snapshot!(render(&message), @r#"
key None
Content-Type: application/cloudevents+json

{"specversion":"1.0","id":"7823fd7b-5c40-5921-83ae-9839171bc0fc","source":"cloud.amazon.billing","type":"amazon.billing.daily","subject":"2023-01-27/aws-lambda-37e22690b3","time":"2023-01-28T06:11:10Z","datacontenttype":"application/json","dataschema":"https://amazon-billing-source.github.io/schemas/amazon.billing.daily/1.0.0.json","change":"revised","partitionkey":"111122223333/daily/2023-01-27/aws-lambda-37e22690b3","revision":2,"data":{"date":"2023-01-27","service":"AWS Lambda","amortizedCost":{"amount":"0.2672917174","unit":"USD"},"unblendedCost":{"amount":"0.2672917174","unit":"USD"},"granularity":"DAILY","periodStart":"2023-01-27T00:00:00Z","periodEnd":"2023-01-28T00:00:00Z","accountId":"111122223333","estimated":true,"previous":{"amortizedCost":{"amount":"0.21","unit":"USD"},"unblendedCost":{"amount":"0.21","unit":"USD"},"estimated":true}}}
"#);
    }

    #[test]
    fn every_form_reads_back_as_the_same_event() {
        let expected: Value = serde_json::from_slice(&structured_json(event()).unwrap()).unwrap();
        for binding in [Binding::Kafka, Binding::Nats] {
            for mode in [ContentMode::Binary, ContentMode::Structured] {
                let message = encode(event(), binding, mode).unwrap();
                assert_eq!(message, encode(event(), binding, mode).unwrap(), "equal bytes");
                let read = decode(message, binding).unwrap();
                assert_eq!(read.id(), event().id());
                assert_eq!(read.time(), event().time());
                let mut json: Value = serde_json::from_slice(&as_json(read)).unwrap();
                // Headers have no types: binary mode gives every extension as a text.
                if mode == ContentMode::Binary {
                    assert_eq!(json["revision"], "2");
                    json["revision"] = 2.into();
                }
                assert_eq!(json, expected, "{binding:?} {mode:?}");
            }
        }
    }

    fn as_json(event: Event) -> Vec<u8> {
        structured_json(event).unwrap()
    }

    /// The vector of the NATS binding, and its way back.
    #[test]
    fn nats_headers_are_percent_encoded() {
        let raw = "Euro € 😀 100%\"";
        let encoded = percent_encode(raw.to_owned());
        assert_eq!(encoded, "Euro%20%E2%82%AC%20%F0%9F%98%80%20100%25%22");
        assert_eq!(percent_decode(&encoded).unwrap(), raw);
        assert_eq!(percent_decode("%252F").unwrap(), "%2F", "one round only");
        assert!(percent_decode("%FF").is_err());
        assert_eq!(percent_decode("50%").unwrap(), "50%");
    }

    #[test]
    fn an_event_without_data_is_refused() {
        let event = EventBuilderV10::new().id("1").source("s").ty("t").build().unwrap();
        assert!(encode(event.clone(), Binding::Kafka, ContentMode::Binary).is_err());
        assert!(encode(event, Binding::Nats, ContentMode::Structured).is_err());
    }

    #[test]
    fn a_foreign_message_is_no_event() {
        let message = WireMessage { payload: b"hello".to_vec(), ..Default::default() };
        assert!(decode(message.clone(), Binding::Kafka).is_err());
        assert!(decode(message, Binding::Nats).is_err());
    }
}
