//! The two operations of STS that a poller needs, in STS's Query protocol: who am I, and a role.
//!
//! Trust policies are not evaluated, but for one external id.

use jiff::{SignedDuration, Timestamp};

use super::{
    auth::{Caller, issued_key},
    refusal::Refusal,
};

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// Answers a form body.
///
/// # Errors
/// Where STS refuses.
pub(super) fn answer(
    form: &str,
    caller: &Caller,
    external_id: Option<&str>,
    now: Timestamp,
    request_id: &str,
) -> Result<String, Refusal> {
    let member = |name: &str| {
        let mut pairs = form.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| decode(value))
    };
    let action = member("Action").unwrap_or_default();
    let result = match action.as_str() {
        "GetCallerIdentity" => identity(caller),
        "AssumeRole" => {
            let role = Role {
                arn: member("RoleArn").unwrap_or_default(),
                session: member("RoleSessionName").unwrap_or_default(),
                external_id: member("ExternalId"),
                seconds: member("DurationSeconds").and_then(|text| text.parse().ok()).unwrap_or(3600),
            };
            role.assume(caller, external_id, now)?
        }
        other => {
            let message = format!("Could not find operation {other} for version 2011-06-15");
            return Err(Refusal::new("InvalidAction", &message));
        }
    };
    Ok(format!(
        "<{action}Response xmlns=\"{NAMESPACE}\"><{action}Result>{result}</{action}Result>\
         <ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{action}Response>"
    ))
}

/// An error as STS writes it.
pub(super) fn error(refusal: &Refusal, request_id: &str) -> String {
    // STS has older names for what all services answer.
    let code = match refusal.code.as_str() {
        "UnrecognizedClientException" => "InvalidClientTokenId",
        "InvalidSignatureException" => "SignatureDoesNotMatch",
        code => code.trim_end_matches("Exception"),
    };
    format!(
        "<ErrorResponse xmlns=\"{NAMESPACE}\"><Error><Type>Sender</Type><Code>{}</Code><Message>{}</Message>\
         </Error><RequestId>{request_id}</RequestId></ErrorResponse>",
        escape(code),
        escape(&refusal.message)
    )
}

fn identity(caller: &Caller) -> String {
    let account = &caller.account;
    let (arn, user) = if caller.assumed {
        (format!("arn:aws:sts::{account}:assumed-role/simulated/session"), "AROASIMULATED:session")
    } else {
        (format!("arn:aws:iam::{account}:user/simulated"), "AIDASIMULATED")
    };
    format!("<Arn>{arn}</Arn><UserId>{user}</UserId><Account>{account}</Account>")
}

struct Role {
    arn: String,
    session: String,
    external_id: Option<String>,
    seconds: i64,
}

impl Role {
    fn assume(&self, caller: &Caller, external_id: Option<&str>, now: Timestamp) -> Result<String, Refusal> {
        let parts: Vec<_> = self.arn.splitn(6, ':').collect();
        let valid = match parts[..] {
            ["arn", _, "iam", "", account, resource] => {
                account.len() == 12
                    && account.bytes().all(|b| b.is_ascii_digit())
                    && resource.strip_prefix("role/").is_some_and(|name| !name.is_empty())
            }
            _ => false,
        };
        if !valid {
            return Err(Refusal::new("ValidationError", &format!("{} is invalid", self.arn)));
        }
        if self.session.len() < 2 {
            let refusal = Refusal::constraint(
                &format!("'{}'", self.session),
                "roleSessionName",
                "have length greater than or equal to 2",
            );
            return Err(Refusal { code: "ValidationError".to_owned(), ..refusal });
        }
        if external_id.is_some() && external_id != self.external_id.as_deref() {
            let message = format!(
                "User: arn:aws:iam::{}:user/simulated is not authorized to perform: sts:AssumeRole on \
                 resource: {}",
                caller.account, self.arn
            );
            return Err(Refusal { status: 403, ..Refusal::new("AccessDenied", &message) });
        }
        let (partition, account) = (parts[1], parts[4]);
        let name = self.arn.rsplit('/').next().unwrap_or_default();
        let expires = now.saturating_add(SignedDuration::from_secs(self.seconds)).unwrap_or(Timestamp::MAX);
        Ok(format!(
            "<AssumedRoleUser><AssumedRoleId>AROASIMULATED:{session}</AssumedRoleId>\
             <Arn>arn:{partition}:sts::{account}:assumed-role/{name}/{session}</Arn></AssumedRoleUser>\
             <Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>simulated</SecretAccessKey>\
             <SessionToken>simulated</SessionToken><Expiration>{expires}</Expiration></Credentials>\
             <PackedPolicySize>0</PackedPolicySize>",
            session = escape(&self.session),
            key = issued_key(account),
            expires = expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
            name = escape(name),
        ))
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A value of a form: `+` is a space, `%` and two hex digits a byte.
fn decode(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let decoded = match byte {
            b'+' => b' ',
            b'%' => {
                let hex = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
                std::str::from_utf8(&hex)
                    .ok()
                    .and_then(|hex| u8::from_str_radix(hex, 16).ok())
                    .unwrap_or(b'?')
            }
            other => other,
        };
        bytes.push(decoded);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(form: &str, external_id: Option<&str>) -> Result<String, Refusal> {
        let caller = Caller {
            account: "111122223333".to_owned(),
            assumed: false,
            region: "us-east-1".to_owned(),
            service: "sts".to_owned(),
        };
        answer(form, &caller, external_id, "2024-02-01T00:00:00Z".parse().unwrap(), "id")
    }

    #[test]
    fn a_role_is_given_keys_of_its_account() {
        let role =
            "Action=AssumeRole&RoleArn=arn%3Aaws%3Aiam%3A%3A999988887777%3Arole%2Fbilling&RoleSessionName=ab";
        let with = |id: &str| format!("{role}&ExternalId={id}");
        for (form, external_id, expected) in [
            (role.to_owned(), None, Ok("<AccessKeyId>ASIA999988887777ROLE</AccessKeyId>")),
            (role.to_owned(), None, Ok("<Expiration>2024-02-01T01:00:00Z</Expiration>")),
            (with("secret+id"), Some("secret id"), Ok("assumed-role/billing/ab")),
            (with("other"), Some("secret id"), Err("AccessDenied")),
            (role.to_owned(), Some("secret id"), Err("AccessDenied")),
            (role.replace("=ab", "=a"), None, Err("ValidationError")),
            (role.replace("999988887777", "9999"), None, Err("ValidationError")),
            ("Action=GetCallerIdentity".to_owned(), None, Ok("<Account>111122223333</Account>")),
            ("Action=GetFederationToken".to_owned(), None, Err("InvalidAction")),
        ] {
            match (ask(&form, external_id), expected) {
                (Ok(xml), Ok(part)) => assert!(xml.contains(part), "{xml}"),
                (Err(refusal), Err(code)) => assert_eq!(refusal.code, code, "{form}"),
                (result, _) => panic!("{form} {result:?}"),
            }
        }
    }
}
