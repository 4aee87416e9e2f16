//! What makes a text a URI reference, a URL, a name or a region.
//!
//! Pure functions; each says what is wrong with a text, `None` if nothing is.

/// Why a text cannot stand in a `CloudEvents` attribute as it is: it would have to be escaped on NATS
/// (CloudEvents NATS binding, 3.1.3.2).
pub(crate) fn not_plain(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some("is empty".to_owned());
    }
    let bad = text.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '"' | '%'))?;
    Some(format!("`{text}` contains {bad:?}; expected visible ASCII without `\"` and `%`"))
}

/// Why a text is no URI reference without percent-encoding (RFC 3986, 4.1).
pub(crate) fn not_a_uri_reference(text: &str) -> Option<String> {
    if let Some(problem) = not_plain(text) {
        return Some(problem);
    }
    let allowed = |c: &char| c.is_ascii_alphanumeric() || "-._~:/?#[]@!$&'()*+,;=".contains(*c);
    if let Some(bad) = text.chars().find(|c| !allowed(c)) {
        return Some(format!("`{text}` is not a URI reference: {bad:?} may not be in one"));
    }
    if text.matches('#').count() > 1 {
        return Some(format!("`{text}` is not a URI reference: more than one `#`"));
    }
    if text.contains(['[', ']']) && !text.contains("//[") {
        return Some(format!("`{text}` is not a URI reference: brackets are for an IPv6 host"));
    }
    // A colon before the first slash makes what is left of it a scheme.
    let (scheme, _) = text.split_at(text.find([':', '/', '?', '#'])?);
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    (text[scheme.len()..].starts_with(':') && !is_scheme)
        .then(|| format!("`{text}` is not a URI reference: `{scheme}` is not a scheme"))
}

/// A URL of an endpoint, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Whether what is sent can be read on the way: plain http to another host.
    pub(crate) exposed: bool,
}

/// Reads `http(s)://host[:port][/path]`. The error never repeats a URL that holds a password.
pub(crate) fn endpoint(text: &str) -> Result<Endpoint, (String, Option<&'static str>)> {
    let wrong = |what: &str| (format!("`{text}` is not an endpoint: {what}"), None);
    let (plain, rest) = match text.split_once("://") {
        Some(("http", rest)) => (true, rest),
        Some(("https", rest)) => (false, rest),
        _ => {
            let hint = Some("write it with its scheme: `https://host`, `http://127.0.0.1:5055`");
            return Err(if text.contains('@') {
                ("is not an `http://` or `https://` URL".to_owned(), hint)
            } else {
                (format!("`{text}` is not an `http://` or `https://` URL"), hint)
            });
        }
    };
    // Behind the first slash, too: a password may hold one that was not encoded.
    if rest.contains('@') {
        return Err((
            "contains a user or password".to_owned(),
            Some("requests are signed; set `credentials`"),
        ));
    }
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    if text.contains(['?', '#']) || !text.chars().all(|c| c.is_ascii_graphic()) {
        return Err(wrong("only a scheme, a host, a port and a path belong in it"));
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']').ok_or_else(|| wrong("`]` is missing"))?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    if host.is_empty() {
        return Err(wrong("it has no host"));
    }
    if !port.is_empty() && port.strip_prefix(':').and_then(|port| port.parse::<u16>().ok()).is_none() {
        return Err(wrong("its port is not a number up to 65535"));
    }
    let loopback = match host.parse::<std::net::IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    };
    Ok(Endpoint { exposed: plain && !loopback })
}

/// The region of Cost Explorer for any region of its partition (AWS endpoint rules of service `ce`);
/// `None` where the text is no region.
pub(crate) fn signing_region(region: &str) -> Option<&'static str> {
    let mut parts = region.split('-');
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase());
    let shape = region.split('-').count() >= 3
        && parts.next_back().is_some_and(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
        && parts.all(word);
    if !shape {
        return None;
    }
    let by_prefix = [
        ("cn-", "cn-northwest-1"),
        ("us-gov-", "us-gov-west-1"),
        ("us-iso-", "us-iso-east-1"),
        ("us-isob-", "us-isob-east-1"),
        ("eu-isoe-", "eu-isoe-west-1"),
        ("us-isof-", "us-isof-south-1"),
        ("eusc-", "eusc-de-east-1"),
    ];
    Some(
        by_prefix
            .iter()
            .find(|(prefix, _)| region.starts_with(prefix))
            .map_or("us-east-1", |(_, region)| region),
    )
}

/// Whether a text is so many decimal digits.
pub(crate) fn is_digits(text: &str, count: usize) -> bool {
    text.len() == count && text.bytes().all(|b| b.is_ascii_digit())
}

/// Whether a text is `[a-z0-9][a-z0-9-]*`.
pub(crate) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Whether a text is `arn:aws*:iam::<12 digits>:role/<name>`.
pub(crate) fn is_role_arn(text: &str) -> bool {
    let parts: Vec<_> = text.splitn(6, ':').collect();
    let [arn, partition, service, region, account, resource] = parts.as_slice() else { return false };
    let partition_ok = partition.strip_prefix("aws").is_some_and(|rest| {
        rest.is_empty()
            || (rest.starts_with('-') && rest.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
    });
    let role = resource
        .strip_prefix("role/")
        .is_some_and(|name| !name.is_empty() && !name.contains(char::is_whitespace));
    *arn == "arn" && partition_ok && *service == "iam" && region.is_empty() && is_digits(account, 12) && role
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_references_are_told_from_other_texts() {
        for good in
            ["cloud.amazon.billing", "//host/x", "urn:x:y", "https://[::1]/a?b#c", "/a:b", "a/b:c", "#x"]
        {
            assert_eq!(not_a_uri_reference(good), None, "{good}");
        }
        for bad in ["", "a b", "a%20b", "a\"b", "ä", "a<b", "a#b#c", "1a:b", ":x", "a[b]", "a\\b"] {
            assert!(not_a_uri_reference(bad).is_some(), "{bad}");
        }
        assert_eq!(not_plain("a<b"), None);
    }

    #[test]
    fn endpoints_are_urls_and_plain_http_is_noticed() {
        for (text, exposed) in [
            ("https://ce.us-east-1.amazonaws.com", Some(false)),
            ("http://127.0.0.1:5055", Some(false)),
            ("http://localhost:5055/", Some(false)),
            ("http://[::1]:80/x", Some(false)),
            ("http://simulator:5055", Some(true)),
            ("http://10.0.0.1", Some(true)),
            ("ftp://host", None),
            ("127.0.0.1:5055", None),
            ("http://", None),
            ("http://:80", None),
            ("http://host:99999", None),
            ("http://host:", None),
            ("http://host?x", None),
            ("http://ho st", None),
            ("http://[::1", None),
            ("http://user:secret@host", None),
        ] {
            assert_eq!(endpoint(text).ok().map(|endpoint| endpoint.exposed), exposed, "{text}");
        }
        for text in ["http://user:hunter2@host", "http://user:hunter2/9@host", "ftp://user:hunter2@host"] {
            assert!(!endpoint(text).unwrap_err().0.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn every_partition_has_one_region_of_cost_explorer() {
        for (region, expected) in [
            ("us-east-1", Some("us-east-1")),
            ("eu-central-1", Some("us-east-1")),
            ("mx-central-1", Some("us-east-1")),
            ("cn-north-1", Some("cn-northwest-1")),
            ("us-gov-east-1", Some("us-gov-west-1")),
            ("us-iso-west-1", Some("us-iso-east-1")),
            ("us-isob-east-1", Some("us-isob-east-1")),
            ("eu-isoe-west-1", Some("eu-isoe-west-1")),
            ("us-isof-south-1", Some("us-isof-south-1")),
            ("eusc-de-east-1", Some("eusc-de-east-1")),
            ("us-east1", None),
            ("us-east-1a", None),
            ("US-EAST-1", None),
            ("", None),
        ] {
            assert_eq!(signing_region(region), expected, "{region}");
        }
    }

    #[test]
    fn roles_are_told_from_other_arns() {
        for good in ["arn:aws:iam::111122223333:role/x", "arn:aws-cn:iam::111122223333:role/a/b"] {
            assert!(is_role_arn(good), "{good}");
        }
        for bad in [
            "arn:aws:iam::11112222333:role/x",
            "arn:aws:iam::111122223333:user/x",
            "arn:aws:sts::111122223333:assumed-role/x/y",
            "arn:aws:iam::111122223333:role/",
            "arn:awsx:iam::111122223333:role/x",
            "role/x",
        ] {
            assert!(!is_role_arn(bad), "{bad}");
        }
    }
}
