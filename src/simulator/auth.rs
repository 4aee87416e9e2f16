//! Who calls: presence and scope of the `SigV4` signature, and the account of an access key.
//!
//! Signatures are not verified; nobody here knows a secret. Nor are their dates: the clock is virtual.

use axum::http::HeaderMap;

use super::{DEFAULT_ACCOUNT, refusal::Refusal};

/// Access keys of paying accounts; every other key belongs to [`DEFAULT_ACCOUNT`].
pub(super) const KNOWN_KEYS: [(&str, &str); 3] = [
    ("AKIASIMULATED00000001", "111122223333"),
    ("AKIASIMULATED00000002", "444455556666"),
    ("AKIASIMULATED00000003", "888899990000"),
];

/// The signer of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) account: String,
    /// Whether the key came from `AssumeRole`.
    pub(super) assumed: bool,
    /// The region the request is signed for.
    pub(super) region: String,
    /// `ce` or `sts`.
    pub(super) service: String,
}

/// Reads the `Authorization` header.
///
/// # Errors
/// Where it is missing, no `SigV4`, or scoped to another service or region.
pub(super) fn authenticate(headers: &HeaderMap, service: &str) -> Result<Caller, Refusal> {
    let header = headers.get("authorization").and_then(|value| value.to_str().ok());
    let Some(header) = header else {
        let refusal = Refusal::new("MissingAuthenticationTokenException", "Missing Authentication Token");
        return Err(Refusal { status: 403, ..refusal });
    };
    let incomplete = |what: &str| {
        let message = format!("Authorization header requires '{what}' parameter.");
        Err(Refusal { status: 403, ..Refusal::new("IncompleteSignatureException", &message) })
    };
    let Some(parameters) = header.strip_prefix("AWS4-HMAC-SHA256 ") else {
        return incomplete("AWS4-HMAC-SHA256");
    };
    let parameter = |name: &str| {
        let mut parts = parameters.split(',').map(str::trim);
        parts.find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
    };
    for name in ["SignedHeaders", "Signature"] {
        if parameter(name).is_none_or(str::is_empty) {
            return incomplete(name);
        }
    }
    let scope: Vec<_> = parameter("Credential").unwrap_or_default().split('/').collect();
    let [key, date, region, signed_service, "aws4_request"] = scope[..] else {
        return incomplete("Credential");
    };
    if date.len() != 8 || headers.get("x-amz-date").is_none() {
        return incomplete("X-Amz-Date");
    }
    let unsigned = |message: &str| Err(Refusal::new("InvalidSignatureException", message));
    if signed_service != service {
        return unsigned(&format!("Credential should be scoped to correct service: '{service}'."));
    }
    if service == "ce" && !["us-east-1", "cn-northwest-1"].contains(&region) {
        return unsigned("Credential should be scoped to a valid region.");
    }
    let assumed = key.starts_with("ASIA");
    if assumed && headers.get("x-amz-security-token").is_none() {
        let message = "The security token included in the request is invalid.";
        return Err(Refusal::new("UnrecognizedClientException", message));
    }
    Ok(Caller { account: account(key), assumed, region: region.to_owned(), service: service.to_owned() })
}

/// The account of an access key.
fn account(key: &str) -> String {
    let issued = key.strip_prefix("ASIA").and_then(|rest| rest.get(..12));
    if let Some(account) = issued.filter(|account| account.bytes().all(|b| b.is_ascii_digit())) {
        return account.to_owned();
    }
    let known = KNOWN_KEYS.iter().find(|(known, _)| *known == key);
    known.map_or(DEFAULT_ACCOUNT, |(_, account)| account).to_owned()
}

/// The access key of a role's account: the account can be read back, in any process.
pub(super) fn issued_key(account: &str) -> String {
    format!("ASIA{account}ROLE")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNED: &str = "AWS4-HMAC-SHA256 Credential=KEY/20240201/REGION/ce/aws4_request, \
                          SignedHeaders=host;x-amz-date, Signature=00";

    fn check(header: Option<&str>, token: bool, expected: Result<&str, &str>) {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-date", "20240201T000000Z".parse().unwrap());
        if let Some(header) = header {
            headers.insert("authorization", header.parse().unwrap());
        }
        if token {
            headers.insert("x-amz-security-token", "t".parse().unwrap());
        }
        match (authenticate(&headers, "ce"), expected) {
            (Ok(caller), Ok(account)) => assert_eq!(caller.account, account, "{header:?}"),
            (Err(refusal), Err(code)) => assert_eq!(refusal.code, code, "{header:?}"),
            (result, _) => panic!("{header:?} {result:?}"),
        }
    }

    #[test]
    fn requests_are_signed_for_the_service_and_its_region() {
        let signed = |key: &str, region: &str| SIGNED.replace("KEY", key).replace("REGION", region);
        let good = signed("AKIASIMULATED00000001", "us-east-1");
        check(Some(&good), false, Ok("111122223333"));
        check(Some(&signed("AKIASIMULATED00000002", "cn-northwest-1")), false, Ok("444455556666"));
        check(Some(&signed("AKIAOTHER", "us-east-1")), false, Ok("111122223333"));
        check(Some(&signed(&issued_key("999988887777"), "us-east-1")), true, Ok("999988887777"));
        check(
            Some(&signed(&issued_key("999988887777"), "us-east-1")),
            false,
            Err("UnrecognizedClientException"),
        );
        check(Some(&signed("K", "eu-west-1")), false, Err("InvalidSignatureException"));
        check(Some(&good.replace("/ce/", "/sts/")), false, Err("InvalidSignatureException"));
        check(Some(&good.replace("Signature=00", "")), false, Err("IncompleteSignatureException"));
        check(Some(&good.replace("/aws4_request", "")), false, Err("IncompleteSignatureException"));
        check(Some("Basic dTpw"), false, Err("IncompleteSignatureException"));
        check(None, false, Err("MissingAuthenticationTokenException"));
    }
}
