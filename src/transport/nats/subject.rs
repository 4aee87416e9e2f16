//! Subjects: one per key, so that the newest message on it is the key's state.
//!
//! `<prefix>.<account>.<group>.<granularity>.<yyyy>.<mm>.<dd[Thh]>.<service>.<key>`
//!
//! The tokens before the last are for people and wildcards; the last one, the first 64 bits of the
//! exact key's digest, tells scopes and groups apart. Nothing here asks a server.

use sha2::{Digest, Sha256};

use crate::{
    cost::{CostKey, Slugs},
    event::put_text,
    poller::Window,
};

/// How many tokens follow the prefix.
const TOKENS: usize = 8;

/// In place of a second group where there is none; no slug is like it.
const NO_GROUP: &str = "-";

/// The paying account of a scope's id, `111122223333-5d41402abc`.
pub(super) fn account(scope: &str) -> &str {
    scope.rsplit_once('-').map_or(scope, |(account, _)| account)
}

/// The subjects of a scope's keys.
#[derive(Debug)]
pub(super) struct Subjects {
    /// Prefix and account, a dot behind each.
    start: String,
    scope: String,
    slugs: Slugs,
}

impl Subjects {
    pub(super) fn new(prefix: &str, scope: &str) -> Self {
        let start = format!("{prefix}.{}.", account(scope));
        Self { start, scope: scope.to_owned(), slugs: Slugs::default() }
    }

    /// The subject of a key.
    pub(super) fn of(&self, key: &CostKey<'_>) -> String {
        let period = key.period.label();
        let mut subject = String::with_capacity(160);
        subject.push_str(&self.start);
        match key.group {
            None => subject.push_str(NO_GROUP),
            // A linked account reads better as it is, and no slug is twelve digits.
            Some(group) if group.len() == 12 && group.bytes().all(|b| b.is_ascii_digit()) => {
                subject.push_str(group);
            }
            Some(group) => self.slugs.push(group, &mut subject),
        }
        subject.push('.');
        subject.push_str(key.period.granularity().name());
        subject.push('.');
        for c in period.chars() {
            subject.push(if c == '-' { '.' } else { c });
        }
        subject.push('.');
        self.slugs.push(key.service, &mut subject);
        subject.push('.');
        self.push_digest(&mut subject, key, &period);
        subject
    }

    /// The first 64 bits of the digest of the exact key: of a JSON array of its parts.
    fn push_digest(&self, subject: &mut String, key: &CostKey<'_>, period: &str) {
        let mut exact = Vec::with_capacity(160);
        let parts = [&*self.scope, key.period.granularity().name(), period, key.service];
        for (place, part) in parts.into_iter().chain(key.group).enumerate() {
            exact.push(if place == 0 { b'[' } else { b',' });
            put_text(&mut exact, part);
        }
        exact.extend_from_slice(if key.group.is_none() { b",null]" } else { b"]" });
        for byte in Sha256::digest(exact).iter().take(8) {
            for nibble in [byte >> 4, byte & 0xf] {
                subject.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
    }
}

/// Every subject of a scope, and those of the account's other scopes.
pub(super) fn filter(prefix: &str, scope: &str) -> String {
    format!("{prefix}.{}.>", account(scope))
}

/// The same for a window: one filter for each month it touches, as a token holds an hour with its
/// day and no wildcard is part of a token. They are read one after the other, as servers before
/// 2.10 have no consumer of several filters.
pub(super) fn window_filters(prefix: &str, scope: &str, window: &Window) -> Vec<String> {
    let start = format!("{prefix}.{}.*.{}", account(scope), window.granularity().name());
    window.months().map(|month| format!("{start}.{}.>", month.strftime("%Y.%m"))).collect()
}

/// Whether a subject has the shape of a key's: what is on it must be an event of ours.
pub(super) fn is_key(prefix: &str, subject: &str) -> bool {
    subject
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('.'))
        .is_some_and(|rest| rest.split('.').count() == TOKENS)
}

/// Whether everything that matches `wanted`, a filter or a subject, matches `pattern`: `*` is any one
/// token, `>` in the end all that follow.
///
/// Source: NATS documentation, "Subject-Based Messaging", Wildcards.
pub(super) fn covers(pattern: &str, wanted: &str) -> bool {
    let (mut pattern, mut wanted) = (pattern.split('.'), wanted.split('.'));
    loop {
        match (pattern.next(), wanted.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cost::Period;

    const SCOPE: &str = "111122223333-5d41402abc";

    fn subject(label: &str, service: &str, group: Option<&str>) -> String {
        let key = CostKey { period: Period::from_label(label).unwrap(), service, group };
        Subjects::new("aws.cost", SCOPE).of(&key)
    }

    /// Pinned: another layout would publish everything anew.
    #[test]
    fn subjects_have_the_documented_form() {
        assert_eq!(
            subject("2026-11-21", "Amazon Relational Database Service", Some("444455556666")),
            "aws.cost.111122223333.444455556666.daily.2026.11.21.amazon-relational-database-service.716451753a5deec1"
        );
        assert_eq!(
            subject("2026-11-21T05", "AWS Lambda", None),
            "aws.cost.111122223333.-.hourly.2026.11.21T05.aws-lambda-37e22690b3.140f6fe92d3d0d07"
        );
        assert!(
            subject("2026-11-21", "Tax", Some("eu-central-1"))
                .starts_with("aws.cost.111122223333.eu-central-1-")
        );
        assert_eq!(filter("aws.cost", SCOPE), "aws.cost.111122223333.>");
    }

    #[test]
    fn patterns_cover_what_they_match() {
        for (pattern, wanted, expected) in [
            ("a.b.>", "a.b.>", true),
            ("a.>", "a.b.>", true),
            (">", "a.b.>", true),
            ("*.b.>", "a.b.>", true),
            ("a.*.>", "a.b.>", true),
            ("a.b.*", "a.b.>", false),
            ("a.b", "a.b.>", false),
            ("a.c.>", "a.b.>", false),
            ("a.b.c.>", "a.b.>", false),
            ("aws.cost.1.>", "aws.cost.1.a.b", true),
            ("aws.cost.1.>", "aws.cost.1", false),
            ("aws.cost.1.>", "aws.cost.12.a", false),
            ("aws.cost.1.*.daily.2026.11.>", "aws.cost.1.-.daily.2026.11.21.x.y", true),
            ("aws.cost.1.*.daily.2026.11.>", "aws.cost.1.-.daily.2026.12.21.x.y", false),
            ("$KV.B.a", "$KV.B.a", true),
            ("$KV.B.a", "$KV.B.a.b", false),
            ("a.*", "a", false),
        ] {
            assert_eq!(covers(pattern, wanted), expected, "{pattern} {wanted}");
        }
    }

    /// The address in the AsyncAPI document, with its parameters filled in.
    #[test]
    fn subjects_are_those_of_the_contract() {
        let contract = include_str!("../../../schemas/asyncapi.yaml");
        let address = contract.lines().find_map(|line| line.strip_prefix("    address: '{prefix}."));
        let mut address = format!("{{prefix}}.{}", address.unwrap().trim_end_matches('\''));
        for (parameter, value) in [
            ("prefix", "aws.cost"),
            ("account", "111122223333"),
            ("group", "-"),
            ("granularity", "hourly"),
            ("year", "2026"),
            ("month", "11"),
            ("day", "21T05"),
            ("service", "aws-lambda-37e22690b3"),
            ("key", "140f6fe92d3d0d07"),
        ] {
            assert!(contract.contains(&format!("\n      {parameter}:\n")), "{parameter} is described");
            address = address.replace(&format!("{{{parameter}}}"), value);
        }
        assert_eq!(subject("2026-11-21T05", "AWS Lambda", None), address);
    }

    #[test]
    fn a_window_is_filtered_by_its_months() {
        let filters = |from: &str, until: &str| {
            let [from, until] = [from, until].map(|label| Period::from_label(label).unwrap());
            window_filters("aws.cost", SCOPE, &Window { from, until })
        };
        assert_eq!(
            filters("2025-12-01", "2026-01-03"),
            ["aws.cost.111122223333.*.daily.2025.12.>", "aws.cost.111122223333.*.daily.2026.01.>"]
        );
        assert_eq!(filters("2026-11-07T02", "2026-11-21T05"), ["aws.cost.111122223333.*.hourly.2026.11.>"]);
    }

    #[test]
    fn only_keys_have_the_shape_of_a_key() {
        assert!(is_key("aws.cost", &subject("2026-11-21", "Tax", None)));
        for other in ["aws.cost", "aws.cost.x", "aws.costs.1.2.3.4.5.6.7.8", "b.1.2.3.4.5.6.7.8"] {
            assert!(!is_key("aws.cost", other), "{other}");
        }
    }

    proptest! {
        /// Pinned: as `serde_json` writes a tuple of the parts.
        #[test]
        fn the_last_token_is_the_digest_of_the_exact_key(service: String, group in proptest::option::of(any::<String>())) {
            let exact = serde_json::to_vec(&(SCOPE, "daily", "2026-11-21", &service, &group)).unwrap();
            let first = Sha256::digest(exact)[..8].try_into().map(u64::from_be_bytes).unwrap();
            let subject = subject("2026-11-21", &service, group.as_deref());
            prop_assert!(subject.ends_with(&format!(".{first:016x}")), "{}", subject);
        }

        #[test]
        fn any_name_gives_one_valid_subject(service: String, group in proptest::option::of(any::<String>())) {
            let subject = subject("2026-11-21", &service, group.as_deref());
            prop_assert!(is_key("aws.cost", &subject), "{}", subject);
            prop_assert!(subject.bytes().all(|b| b.is_ascii_graphic() && b != b'*' && b != b'>'));
            prop_assert!(subject.split('.').all(|token| !token.is_empty()));
        }
    }
}
