//! What to do about each error of AWS: one sentence each, as an instruction where there is one.

use jiff::SignedDuration;

use super::{
    charges::Stage,
    classify::{Asked, Service},
};
use crate::{config::CredentialsConfig, cost::Granularity};

/// AWS refuses signatures that are five minutes off.
const TOLERATED_SKEW: SignedDuration = SignedDuration::from_mins(5);

const PREFERENCES: &str = "Billing and Cost Management > Cost Management preferences";

pub(super) fn throttled() -> String {
    "nothing to do, the next poll asks again: if it recurs, lengthen `poll.interval` or stop other clients of \
     Cost Explorer in this account"
        .to_owned()
}

pub(super) fn data_unavailable() -> String {
    "nothing to do: after Cost Explorer was enabled or an account was made, AWS needs 24 hours or more until \
     there is data"
        .to_owned()
}

pub(super) fn report_expired() -> String {
    "nothing to do: the next poll asks for current dates".to_owned()
}

pub(super) fn view_unhealthy() -> String {
    "nothing to do: AWS is rebuilding the billing view, and the next poll asks again".to_owned()
}

pub(super) fn restart() -> String {
    "nothing to do: the pages are asked for again from the first".to_owned()
}

pub(super) fn enable_cost_explorer() -> String {
    "open the Cost Explorer page of the AWS console once in the paying account to enable it (no API can); data \
     comes within 24 hours"
        .to_owned()
}

pub(super) fn no_view() -> String {
    "name a billing view that exists and that these credentials may read".to_owned()
}

pub(super) fn denied(text: &str, asked: &Asked<'_>) -> String {
    let text = text.to_ascii_lowercase();
    let hourly = asked.service == Service::CostExplorer(Granularity::Hourly);
    match asked.service {
        Service::AssumeRole => assume_role(asked),
        Service::Sts => {
            "allow the endpoint `sts_endpoint_url` points to to answer `sts:GetCallerIdentity`, or set \
             `account_id`"
                .to_owned()
        }
        Service::CostExplorer(_) if text.contains("not enabled for cost explorer") => enable_cost_explorer(),
        Service::CostExplorer(_) if hourly && !text.contains("not authorized") => format!(
            "enable hourly data in the console of the management account ({PREFERENCES}; AWS charges for it), or \
             remove \"hourly\" from `granularity`"
        ),
        Service::CostExplorer(_) => {
            let mut hint = "allow the IAM action `ce:GetCostAndUsage` to these credentials; \
                            `amazon-billing-source policy` prints the policy"
                .to_owned();
            if text.contains("service control policy") || text.contains("explicit deny") {
                hint.push_str(", and a policy that denies it explicitly has to be lifted as well");
            } else if asked.net {
                hint.push_str(
                    "; if it is allowed already, have the management account grant members their discounts, or \
                     remove the Net metrics",
                );
            }
            hint
        }
    }
}

fn assume_role(asked: &Asked<'_>) -> String {
    let CredentialsConfig::Role { role_arn, external_id, .. } = &asked.connection.credentials else {
        return "let the trust policy of the profile's role name the caller, and allow the caller \
                `sts:AssumeRole` on it"
            .to_owned();
    };
    let external = match external_id {
        Some(_) => " and the same external id",
        None => " and ask for no external id (or set `external_id`)",
    };
    format!(
        "let the trust policy of `{role_arn}` name the caller{external}, and allow the caller `sts:AssumeRole` on \
         it"
    )
}

pub(super) fn expired(asked: &Asked<'_>) -> String {
    match &asked.connection.credentials {
        CredentialsConfig::Keys { .. } => {
            "put new temporary keys in place of the expired ones, or use a role or profile, which renews itself"
                .to_owned()
        }
        CredentialsConfig::Profile { profile } | CredentialsConfig::Role { profile: Some(profile), .. } => {
            format!("renew what the profile `{profile}` holds: its temporary keys, or the session they come from")
        }
        CredentialsConfig::Default | CredentialsConfig::Role { profile: None, .. } => {
            "renew the temporary credentials the environment gives this process (`AWS_SESSION_TOKEN` or the \
             mounted file)"
                .to_owned()
        }
    }
}

pub(super) fn unknown_key(asked: &Asked<'_>) -> String {
    let origin = match &asked.connection.credentials {
        CredentialsConfig::Keys { .. } => "`access_key_id`",
        CredentialsConfig::Profile { .. } | CredentialsConfig::Role { profile: Some(_), .. } => {
            "the profile's access key"
        }
        CredentialsConfig::Default | CredentialsConfig::Role { profile: None, .. } => {
            "the access key of the environment"
        }
    };
    format!(
        "check {origin}: it was deleted or deactivated, its session token is missing or of another key, or it \
         belongs to another AWS partition than the region `{}`",
        asked.connection.region
    )
}

pub(super) fn bad_signature(asked: &Asked<'_>) -> String {
    match asked.skew {
        Some(skew) if skew.abs() > TOLERATED_SKEW => {
            let side = if skew.is_positive() { "behind" } else { "ahead of" };
            format!("set this machine's clock (NTP): it is {} {side} AWS's", minutes(skew))
        }
        Some(_) => {
            "check the secret access key, it does not belong to the access key id (this machine's clock \
                    agrees with AWS's)"
                .to_owned()
        }
        None => "check the secret access key and this machine's clock: one of them is wrong".to_owned(),
    }
}

fn minutes(span: SignedDuration) -> String {
    let minutes = span.abs().as_mins();
    if minutes < 120 { format!("{minutes} minutes") } else { format!("{} hours", minutes / 60) }
}

pub(super) fn unsigned() -> String {
    "check `access_key_id`, which is perhaps none (they begin with `AKIA` or `ASIA`); or let the proxy pass the \
     `Authorization` header that it takes off requests"
        .to_owned()
}

/// `ValidationException` and its like: the configuration asks for what AWS does not take.
pub(super) fn invalid(text: &str, asked: &Asked<'_>) -> String {
    let text = text.to_ascii_lowercase();
    if asked.service == Service::AssumeRole {
        "correct `role_arn`, `external_id` or `session_name`: STS does not take them"
    } else if text.contains("hourly") && text.contains("14 days") || text.contains("past 14 months") {
        "check this machine's clock: no window starts before what AWS keeps, unless the time is wrong"
    } else if text.contains("end date") || text.contains("start date") || text.contains("future") {
        "check this machine's clock: no window ends after tomorrow, unless the time is wrong"
    } else if text.contains("operand") || text.contains("expression") || text.contains("root") {
        "correct `filter`: each level has one operator, and `And` and `Or` have at least two operands"
    } else if text.contains("group definition") || text.contains("group by") || text.contains("groupby") {
        "correct `group_by`: a dimension of Cost Explorer, `TAG:<key>` or `COST_CATEGORY:<name>`"
    } else if text.contains("dimension") {
        "correct the dimension in `group_by` or `filter`: Cost Explorer does not take this one"
    } else if text.contains("metric") {
        "correct `metrics`: Cost Explorer does not take one of them"
    } else {
        "correct `group_by`, `filter` or `metrics` of this connection: AWS does not take the request as it is"
    }
    .to_owned()
}

pub(super) fn aws_trouble() -> String {
    "nothing to do: the trouble is AWS's, and the next poll asks again".to_owned()
}

pub(super) fn broke_off(status: u16, asked: &Asked<'_>) -> String {
    let price = if status < 300 { price(asked) } else { "" };
    format!("nothing to do, the next poll asks again{price}: if it recurs, look at the network or the proxy")
}

pub(super) fn no_answer(asked: &Asked<'_>) -> String {
    format!(
        "nothing to do, the next poll asks again{}: if it recurs, look at the way to {}",
        price(asked),
        endpoint(asked)
    )
}

pub(super) fn no_connection(asked: &Asked<'_>) -> String {
    format!("check that this machine can reach {} (firewall, route, proxy){}", endpoint(asked), price(asked))
}

pub(super) fn dns(asked: &Asked<'_>) -> String {
    format!("check this machine's DNS, and that it knows the name of {}{}", endpoint(asked), price(asked))
}

pub(super) fn certificate(asked: &Asked<'_>) -> String {
    format!(
        "install the CA that signed the certificate of {} in the system's store (package `ca-certificates`, or \
         `SSL_CERT_FILE`), or set the machine's clock{}",
        endpoint(asked),
        price(asked)
    )
}

/// What a request without an answer costs; STS is free.
fn price(asked: &Asked<'_>) -> &'static str {
    match (asked.service, asked.stage) {
        (Service::CostExplorer(_), Stage::Connecting) => "; nothing was sent or charged",
        (Service::CostExplorer(_), Stage::Sent) => " (this request is counted as charged)",
        _ => "",
    }
}

/// An answer that is none of Cost Explorer's.
pub(super) fn not_aws(asked: &Asked<'_>) -> String {
    match custom_endpoint(asked) {
        Some((key, url)) => format!("check `{key}`: what answers at `{url}` is not AWS"),
        None => "check the proxy or captive portal on the way to AWS: it answered in AWS's place".to_owned(),
    }
}

pub(super) fn malformed(asked: &Asked<'_>) -> String {
    match custom_endpoint(asked) {
        Some((key, url)) => format!("check what answers at `{url}` (`{key}`); nothing of this page was taken"),
        None => "report this with the request id: AWS's answer is not as documented, and nothing of this page was \
                 taken"
            .to_owned(),
    }
}

pub(super) fn not_built() -> String {
    "check `endpoint_url`, `region` and the AWS variables of the environment".to_owned()
}

pub(super) fn slow_credentials() -> String {
    "check what the credentials come from: STS, the instance's metadata service or a `credential_process` did not \
     answer in time"
        .to_owned()
}

pub(super) fn no_credentials(asked: &Asked<'_>) -> String {
    match &asked.connection.credentials {
        CredentialsConfig::Keys { .. } => "check `access_key_id` and `secret_access_key`".to_owned(),
        CredentialsConfig::Profile { profile } | CredentialsConfig::Role { profile: Some(profile), .. } => {
            format!(
                "check the profile `{profile}` in `~/.aws/config` and `~/.aws/credentials` (or `AWS_CONFIG_FILE`) of \
                 the user this runs as; a session of IAM Identity Center (SSO) is renewed with \
                 `aws sso login --profile {profile}`"
            )
        }
        CredentialsConfig::Default | CredentialsConfig::Role { profile: None, .. } => {
            "tried, in this order: environment variables, the profile, a web identity token, the container's \
             role, the instance's role: provide one of them, or configure `credentials`"
                .to_owned()
        }
    }
}

fn endpoint(asked: &Asked<'_>) -> String {
    match (custom_endpoint(asked), asked.service) {
        (Some((_, url)), _) => format!("`{url}`"),
        (None, Service::CostExplorer(_)) => "AWS Cost Explorer".to_owned(),
        (None, Service::Sts | Service::AssumeRole) => "AWS STS".to_owned(),
    }
}

fn custom_endpoint<'a>(asked: &Asked<'a>) -> Option<(&'static str, &'a str)> {
    let connection = asked.connection;
    let own = connection.endpoint_url.as_deref().map(|url| ("endpoint_url", url));
    match asked.service {
        Service::CostExplorer(_) => own,
        // A profile's own role is assumed at AWS.
        Service::AssumeRole if !matches!(connection.credentials, CredentialsConfig::Role { .. }) => None,
        Service::Sts | Service::AssumeRole => {
            connection.sts_endpoint_url.as_deref().map(|url| ("sts_endpoint_url", url)).or(own)
        }
    }
}
