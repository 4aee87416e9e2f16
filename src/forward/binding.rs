//! Events as HTTP requests: the CloudEvents HTTP protocol binding, all three content modes. Pure.
//!
//! Source: CloudEvents HTTP protocol binding 1.0.2, sections 3.1 to 3.3.

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use crate::{consume::Event, event::percent_encode};

/// How events lie in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum HttpMode {
    /// One event, all of it in the body as JSON
    #[default]
    Structured,
    /// One event: its attributes in headers, its data as the body
    Binary,
    /// Many events, a JSON array of them in the body
    Batch,
}

/// What a request carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    /// `content-type`, and in binary mode `ce-` headers.
    pub(super) headers: HeaderMap,
    /// What is sent, and signed.
    pub(super) body: Bytes,
}

/// One event in structured mode, from its JSON form.
pub(super) fn structured(json: Bytes) -> Content {
    of_type("application/cloudevents+json", json)
}

/// Many events, from their JSON forms.
pub(super) fn batch<'a>(events: impl IntoIterator<Item = &'a [u8], IntoIter: Clone>) -> Content {
    let events = events.into_iter();
    let mut body = Vec::with_capacity(events.clone().map(|json| json.len() + 1).sum::<usize>() + 1);
    body.push(b'[');
    for json in events {
        if body.len() > 1 {
            body.push(b',');
        }
        body.extend_from_slice(json);
    }
    body.push(b']');
    of_type("application/cloudevents-batch+json", body.into())
}

fn of_type(content_type: &'static str, body: Bytes) -> Content {
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
    Content { headers, body }
}

/// One event in binary mode.
///
/// # Errors
/// When an attribute's name cannot be a header's, which none of a `CloudEvent` is.
pub(super) fn binary(event: &Event<'_>) -> Result<Content, String> {
    let mut headers = HeaderMap::with_capacity(16);
    for (name, value) in event.attributes() {
        let (header, value) = if name == "datacontenttype" {
            (CONTENT_TYPE, HeaderValue::from_str(value).ok())
        } else {
            let header = HeaderName::try_from(format!("ce-{name}"));
            let header = header.map_err(|_| format!("its attribute `{name}` cannot be a header"))?;
            (header, HeaderValue::try_from(percent_encode(value.to_owned())).ok())
        };
        let value =
            value.ok_or_else(|| format!("the value of its attribute `{name}` cannot be a header's"))?;
        headers.insert(header, value);
    }
    Ok(Content { headers, body: Bytes::copy_from_slice(event.data().as_bytes()) })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fmt::Write as _};

    use super::*;
    use crate::event::{EventFactory, structured_json, tests as fixtures};

    fn json(source: &str) -> Bytes {
        let scope = crate::cost::Scope { source: source.to_owned(), ..fixtures::scope() };
        let factory = EventFactory::new(scope, "amazon.billing");
        let event = factory.event(&fixtures::change("2023-01-27", "AWS Lambda"), &BTreeMap::new());
        structured_json(event).unwrap().into()
    }

    fn render(content: &Content) -> String {
        let mut lines: Vec<_> = content
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        let mut text = lines.join("\n");
        write!(text, "\n\n{}", String::from_utf8_lossy(&content.body)).unwrap();
        text
    }

    /// Golden vectors, one per mode.
    #[test]
    fn a_binary_request() {
        let json = json("cloud.amazon.billing");
        insta::assert_snapshot!(render(&binary(&Event::read(&json).unwrap()).unwrap()), @r#"
ce-change: revised
ce-dataschema: https://amazon-billing-source.github.io/schemas/amazon.billing.daily/1.0.0.json
ce-id: 7823fd7b-5c40-5921-83ae-9839171bc0fc
ce-partitionkey: 111122223333/daily/2023-01-27/aws-lambda-37e22690b3
ce-revision: 2
ce-source: cloud.amazon.billing
ce-specversion: 1.0
ce-subject: 2023-01-27/aws-lambda-37e22690b3
ce-time: 2023-01-28T06:11:10Z
ce-type: amazon.billing.daily
content-type: application/json

{"date":"2023-01-27","service":"AWS Lambda","amortizedCost":{"amount":"0.2672917174","unit":"USD"},"unblendedCost":{"amount":"0.2672917174","unit":"USD"},"granularity":"DAILY","periodStart":"2023-01-27T00:00:00Z","periodEnd":"2023-01-28T00:00:00Z","accountId":"111122223333","estimated":true,"previous":{"amortizedCost":{"amount":"0.21","unit":"USD"},"unblendedCost":{"amount":"0.21","unit":"USD"},"estimated":true}}
"#);
    }

    #[test]
    fn a_structured_request() {
        insta::assert_snapshot!(render(&structured(json("cloud.amazon.billing"))), @r#"
content-type: application/cloudevents+json

{"specversion":"1.0","id":"7823fd7b-5c40-5921-83ae-9839171bc0fc","source":"cloud.amazon.billing","type":"amazon.billing.daily","subject":"2023-01-27/aws-lambda-37e22690b3","time":"2023-01-28T06:11:10Z","datacontenttype":"application/json","dataschema":"https://amazon-billing-source.github.io/schemas/amazon.billing.daily/1.0.0.json","change":"revised","partitionkey":"111122223333/daily/2023-01-27/aws-lambda-37e22690b3","revision":2,"data":{"date":"2023-01-27","service":"AWS Lambda","amortizedCost":{"amount":"0.2672917174","unit":"USD"},"unblendedCost":{"amount":"0.2672917174","unit":"USD"},"granularity":"DAILY","periodStart":"2023-01-27T00:00:00Z","periodEnd":"2023-01-28T00:00:00Z","accountId":"111122223333","estimated":true,"previous":{"amortizedCost":{"amount":"0.21","unit":"USD"},"unblendedCost":{"amount":"0.21","unit":"USD"},"estimated":true}}}
"#);
    }

    #[test]
    fn a_batch_is_an_array_of_the_same_bytes() {
        let (a, b) = (json("a"), json("b"));
        for (events, expected) in [
            (&[][..], "[]".to_owned()),
            (&[&a[..]], format!("[{}]", String::from_utf8_lossy(&a))),
            (&[&a, &b], format!("[{},{}]", String::from_utf8_lossy(&a), String::from_utf8_lossy(&b))),
        ] {
            let content = batch(events.iter().copied());
            assert_eq!(content.body, expected);
            assert_eq!(content.headers[CONTENT_TYPE], "application/cloudevents-batch+json");
        }
    }

    /// The vector of the binding, 3.1.3.2.
    #[test]
    fn header_values_are_percent_encoded() {
        let line = String::from_utf8(json("x").to_vec()).unwrap();
        let line = line.replace(r#""source":"x""#, r#""source":"Euro € 😀""#);
        let content = binary(&Event::read(line.as_bytes()).unwrap()).unwrap();
        assert_eq!(content.headers["ce-source"], "Euro%20%E2%82%AC%20%F0%9F%98%80");
    }
}
