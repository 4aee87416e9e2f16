//! The MUSTs of the CloudEvents specification 1.0 that an event's values can break.
//!
//! The SDK checks hardly any of them. What concerns several events at once (unique ids) is not
//! checked here but follows from the recipe of the id.

use std::fmt;

use cloudevents::{
    AttributesReader as _, Event,
    event::{AttributeValue, ExtensionValue},
};

/// A rule an event breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The attribute.
    pub attribute: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.attribute, self.problem)
    }
}

/// Whether a text needs no percent-encoding in any binding: U+0021..U+007E without `"` and `%`.
pub fn is_unencoded(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, 0x21..=0x7e) && byte != b'"' && byte != b'%')
}

/// Every rule an event breaks; none for a valid one.
///
/// Source: CloudEvents specification 1.0, sections "Naming Conventions", "Type System", "Required
/// Attributes", "Optional Attributes".
pub fn validate(event: &Event) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut report = |attribute: &str, problem| {
        violations.push(Violation { attribute: attribute.to_owned(), problem });
    };
    if event.specversion().as_str() != "1.0" {
        report("specversion", "is not `1.0`");
    }
    for (name, value) in event.iter_attributes() {
        let text = match value {
            AttributeValue::String(text) => text.to_owned(),
            AttributeValue::URIRef(reference) => {
                if !is_uri_reference(reference) {
                    report(name, "is no URI reference");
                }
                reference.clone()
            }
            AttributeValue::URI(uri) => uri.to_string(),
            // Typed by the SDK.
            _ => continue,
        };
        if text.is_empty() {
            report(name, "is empty");
        }
        if has_forbidden_characters(&text) {
            report(name, "has control characters");
        }
        if name == "datacontenttype" && !is_media_type(&text) {
            report(name, "is no media type");
        }
    }
    for (name, value) in event.iter_extensions() {
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
            report(name, "is no attribute name: only a-z and 0-9");
        }
        if name == "data" || name == "data_base64" {
            report(name, "is the name of the payload");
        }
        match value {
            ExtensionValue::Integer(number) if i32::try_from(*number).is_err() => {
                report(name, "does not fit a signed 32-bit integer");
            }
            ExtensionValue::String(text) if has_forbidden_characters(text) => {
                report(name, "has control characters");
            }
            ExtensionValue::String(text) if name == "partitionkey" && text.is_empty() => {
                report(name, "is empty");
            }
            _ => {}
        }
    }
    violations
}

/// U+0000-001F, U+007F-009F and noncharacters; lone surrogates no Rust string has.
fn has_forbidden_characters(text: &str) -> bool {
    text.chars().any(|c| {
        let code = u32::from(c);
        c.is_control() || (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe
    })
}

/// RFC 3986 4.1, the characters only; a colon in the first segment makes it a scheme.
fn is_uri_reference(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let fine = match byte {
            b'%' => [bytes.next(), bytes.next()].iter().all(|b| b.is_some_and(|b| b.is_ascii_hexdigit())),
            _ => byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=".contains(&byte),
        };
        if !fine {
            return false;
        }
    }
    match text.find([':', '/', '?', '#']) {
        Some(colon) if text.as_bytes()[colon] == b':' => {
            text.starts_with(|c: char| c.is_ascii_alphabetic())
                && text[..colon].bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        }
        _ => true,
    }
}

/// RFC 2046: type, slash, subtype, then perhaps parameters.
fn is_media_type(text: &str) -> bool {
    let essence = text.split(';').next().unwrap_or_default().trim_end();
    let token = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    essence.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use cloudevents::{EventBuilder as _, EventBuilderV10};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        cost::CostKey,
        event::{EventFactory, tests},
    };

    fn base() -> EventBuilderV10 {
        EventBuilderV10::new().id("1").source("cloud.amazon.billing").ty("amazon.billing.daily")
    }

    fn check(builder: EventBuilderV10, expected: &[&str]) {
        let event = builder.build().unwrap();
        let found: Vec<_> = validate(&event).iter().map(ToString::to_string).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn every_rule_is_enforced() {
        check(base(), &[]);
        check(base().source("https://ce.us-east-1.amazonaws.com/111122223333"), &[]);
        check(base().id(""), &["`id` is empty"]);
        check(base().ty(""), &["`type` is empty"]);
        check(base().subject(""), &["`subject` is empty"]);
        check(base().subject("a\u{7}"), &["`subject` has control characters"]);
        check(base().subject("a\u{fffe}"), &["`subject` has control characters"]);
        check(base().source("not a uri %%"), &["`source` is no URI reference"]);
        check(base().source("1:b"), &["`source` is no URI reference"]);
        check(base().source("%2"), &["`source` is no URI reference"]);
        check(base().data("text", "x"), &["`datacontenttype` is no media type"]);
        check(base().extension("Bad_Name", "x"), &["`Bad_Name` is no attribute name: only a-z and 0-9"]);
        check(base().extension("data", "x"), &["`data` is the name of the payload"]);
        check(base().extension("partitionkey", ""), &["`partitionkey` is empty"]);
        check(base().extension("x", "\u{85}"), &["`x` has control characters"]);
        check(
            base().extension("revision", i64::from(i32::MAX) + 1),
            &["`revision` does not fit a signed 32-bit integer"],
        );
    }

    proptest! {
        /// Whatever a service or a tag is called, the event is valid, needs no encoding, and is small.
        #[test]
        fn our_events_are_valid(service in any::<String>(), group in proptest::option::of(any::<String>()), hourly: bool) {
            let label = if hourly { "2023-01-27T13" } else { "2023-01-27" };
            let mut change = tests::change(label, "Tax");
            change.key = CostKey { service: &service, group: group.as_deref(), ..change.key };
            let event = EventFactory::new(tests::scope(), "amazon.billing").event(&change, &BTreeMap::new());
            prop_assert_eq!(validate(&event), vec![]);
            prop_assert!(is_unencoded(event.subject().unwrap()));
            prop_assert!(is_unencoded(&event.extension("partitionkey").unwrap().to_string()));
            prop_assert!(crate::event::structured_json(event).unwrap().len() < 64 * 1024);
        }
    }
}
