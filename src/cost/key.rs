//! Identity: the scope of a connection, the key of a cost record, and the slugs in their texts.
//!
//! Two different keys never have the same text; the value of a key is no part of it.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use hashbrown::HashMap;
use sha2::{Digest, Sha256};

use super::{GroupBy, Period};

/// What a connection's keys belong to: the paying account, the configured `source` and the query.
///
/// The connection's name is no part of it, so that a renamed connection republishes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    /// CloudEvents `source` of every event of this scope.
    pub source: String,
    /// The paying account: 12 digits.
    pub account: String,
    /// The second grouping.
    pub group_by: Option<GroupBy>,
    /// The filter as canonical JSON, where there is one: other rows, so other keys.
    pub filter: Option<String>,
}

impl Scope {
    /// The scope's name in the state and in `transactional.id`: the account and ten hex digits of
    /// the SHA-256 over source, grouping and filter, `111122223333-5d41402abc`.
    pub fn id(&self) -> String {
        let group = self.group_by.as_ref().map(GroupBy::to_string);
        let text = serde_json::json!([self.source, group, self.filter]).to_string();
        format!("{}-{}", self.account, query_digest(&text))
    }

    /// The first segment of `partitionkey`: the account; with a filter also ten hex digits of the
    /// filter's SHA-256, because two filters over one account state different figures of one day.
    pub fn segment(&self) -> String {
        match &self.filter {
            None => self.account.clone(),
            Some(filter) => format!("{}-{}", self.account, query_digest(filter)),
        }
    }
}

/// The identity of a cost record: scope, period start, granularity, service and second group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CostKey<'a> {
    /// Day or hour, with its start.
    pub period: Period,
    /// AWS's display name.
    pub service: &'a str,
    /// The value of the second grouping.
    pub group: Option<&'a str>,
}

impl CostKey<'_> {
    /// `partitionkey`: `111122223333/daily/2023-01-27/amazon-relational-database-service`, with the
    /// second group's slug as a fifth segment where there is one.
    pub fn partition_key(&self, scope: &Scope) -> String {
        self.partition_key_of(&scope.segment(), &self.subject())
    }

    /// The same, of a scope's segment and the key's subject.
    pub fn partition_key_of(&self, segment: &str, subject: &str) -> String {
        [segment, self.period.granularity().name(), subject].join("/")
    }

    /// `subject`: `2023-01-27/amazon-relational-database-service`, and the second group's slug.
    pub fn subject(&self) -> String {
        self.subject_by(&Slugs::default())
    }

    /// The same, with slugs made before.
    pub fn subject_by(&self, slugs: &Slugs) -> String {
        let mut text = String::with_capacity(96);
        text.push_str(&self.period.label());
        for name in [Some(self.service), self.group].into_iter().flatten() {
            text.push('/');
            slugs.push(name, &mut text);
        }
        text
    }
}

impl fmt::Display for CostKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.period.granularity(), self.subject())
    }
}

/// A name for keys and subjects, a function of the name alone: lower case, every run of other
/// characters one `-`. A name of words `[A-Z][a-z0-9]*` joined by single spaces has the bare slug;
/// every other one gets `-` and the first ten hex digits of its SHA-256, so no two names share one.
pub fn slug(name: &str) -> String {
    let mut slug = String::with_capacity(name.len() + 11);
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    if slug.ends_with('-') {
        slug.pop();
    }
    if !is_plain(name) {
        if !slug.is_empty() {
            slug.push('-');
        }
        slug.push_str(&query_digest(name));
    }
    slug
}

/// Slugs by their names: a page has the same few services and accounts on each of its days.
#[derive(Debug, Default)]
pub struct Slugs(Mutex<HashMap<Box<str>, Box<str>>>);

impl Slugs {
    /// So many are kept; names of tags can be without number.
    const MOST: usize = 4096;

    /// Appends the [`slug`] of a name.
    pub fn push(&self, name: &str, text: &mut String) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slug) = known.get(name) {
            return text.push_str(slug);
        }
        if known.len() == Self::MOST {
            known.clear();
        }
        let slug = slug(name);
        text.push_str(&slug);
        known.insert(name.into(), slug.into());
    }
}

/// Whether the slug of the name can be read back: words `[A-Z][a-z0-9]*` with single spaces.
fn is_plain(name: &str) -> bool {
    name.split(' ').all(|word| {
        let mut bytes = word.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_uppercase())
            && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    })
}

/// The first ten hex digits of a text's SHA-256.
pub fn query_digest(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let mut hex = String::with_capacity(10);
    for byte in digest.iter().take(5) {
        for nibble in [byte >> 4, byte & 0xf] {
            hex.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
    }
    hex
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cost::Granularity;

    #[test]
    fn slugs_are_bare_only_for_names_that_can_be_read_back() {
        for (name, expected) in [
            ("Amazon Relational Database Service", "amazon-relational-database-service"),
            ("Tax", "tax"),
            ("Amazon Route 53", "amazon-route-53-"),
            ("AWS Lambda", "aws-lambda-"),
            ("EC2 - Other", "ec2-other-"),
            ("AmazonCloudWatch", "amazoncloudwatch-"),
            ("Amazon EC2 Container Registry (ECR)", "amazon-ec2-container-registry-ecr-"),
            ("444455556666", "444455556666-"),
            ("", ""),
            ("日本", ""),
        ] {
            let slug = slug(name);
            if expected.ends_with('-') || expected.is_empty() {
                assert_eq!(slug.len(), expected.len() + 10, "{name} {slug}");
                assert!(slug.starts_with(expected), "{name} {slug}");
            } else {
                assert_eq!(slug, expected);
            }
        }
        // SHA-256("") begins e3b0c44298: the value of a tag that is not set.
        assert_eq!(slug(""), "e3b0c44298");
    }

    #[test]
    fn a_key_has_the_documented_text() {
        let mut scope = Scope {
            source: "cloud.amazon.billing".to_owned(),
            account: "111122223333".to_owned(),
            group_by: None,
            filter: None,
        };
        let mut key = CostKey {
            period: Period::from_label("2023-01-27").unwrap(),
            service: "Amazon Relational Database Service",
            group: None,
        };
        let rest = "daily/2023-01-27/amazon-relational-database-service";
        assert_eq!(key.partition_key(&scope), format!("111122223333/{rest}"));
        key.group = Some("Payments");
        assert_eq!(key.partition_key(&scope), format!("111122223333/{rest}/payments"));
        key.period = Period::from_label("2023-01-27T13").unwrap();
        assert_eq!(key.period.granularity(), Granularity::Hourly);
        assert_eq!(key.subject(), "2023-01-27T13/amazon-relational-database-service/payments");
        scope.filter = Some(r#"{"record_types":["Usage"]}"#.to_owned());
        assert!(key.partition_key(&scope).starts_with("111122223333-"));
    }

    #[test]
    fn scopes_differ_by_account_source_grouping_and_filter() {
        let base = Scope {
            source: "s".to_owned(),
            account: "111122223333".to_owned(),
            group_by: None,
            filter: None,
        };
        let mut ids = vec![base.id()];
        ids.push(Scope { source: "t".to_owned(), ..base.clone() }.id());
        ids.push(Scope { account: "111122223334".to_owned(), ..base.clone() }.id());
        ids.push(Scope { group_by: Some(GroupBy::Tag("a".to_owned())), ..base.clone() }.id());
        ids.push(Scope { group_by: Some(GroupBy::CostCategory("a".to_owned())), ..base.clone() }.id());
        ids.push(Scope { filter: Some("{}".to_owned()), ..base.clone() }.id());
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count);
        assert_eq!(base.id(), base.clone().id());
    }

    proptest! {
        #[test]
        fn different_names_have_different_slugs(a in "[A-Za-z0-9 ()$-]{0,12}", b in "[A-Za-z0-9 ()$-]{0,12}") {
            prop_assert_eq!(slug(&a) == slug(&b), a == b);
        }

        #[test]
        fn a_slug_needs_no_percent_encoding(name in any::<String>()) {
            let slug = slug(&name);
            prop_assert!(!slug.is_empty());
            prop_assert!(slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{}", slug);
        }
    }
}
