//! From an error of the SDK to a kind for the policy and a hint for people.
//!
//! The kind comes from AWS's error code, the HTTP status and the stage that failed, not from what a
//! message says; messages choose between hints. No secret reaches a message: of AWS's texts only
//! the first line is taken, because below it a refused signature quotes the signed headers.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_costexplorer::{
    error::{ProvideErrorMetadata, SdkError},
    operation::RequestId,
};
use aws_sdk_sts::operation::{
    assume_role::AssumeRoleError, assume_role_with_web_identity::AssumeRoleWithWebIdentityError,
};
use aws_smithy_runtime_api::client::{orchestrator::HttpResponse, result::ConnectorError};
use jiff::SignedDuration;

use super::{FetchError, FetchErrorKind, charges::Stage, hints};
use crate::{
    config::{ConnectionConfig, CredentialsConfig},
    cost::Granularity,
};

/// The longest text of AWS that is repeated, in characters.
const MESSAGE_LIMIT: usize = 400;

/// Which of AWS's services was asked, and for what kind of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    /// `GetCostAndUsage`.
    CostExplorer(Granularity),
    /// `GetCallerIdentity`.
    Sts,
    /// `AssumeRole`, while credentials were looked up.
    AssumeRole,
}

/// What was attempted, for messages and hints.
#[derive(Clone, Debug)]
pub(super) struct Asked<'a> {
    pub(super) service: Service,
    /// `read daily costs from 2026-11-01 to 2026-11-22`.
    pub(super) action: String,
    pub(super) connection: &'a ConnectionConfig,
    /// Whether a Net metric was asked for.
    pub(super) net: bool,
    /// How far the newest attempt got.
    pub(super) stage: Stage,
    /// How far AWS's clock is ahead of this machine's, where AWS gave a `Date`.
    pub(super) skew: Option<SignedDuration>,
}

impl Asked<'_> {
    fn error(&self, kind: FetchErrorKind, reason: &str, hint: Option<String>) -> FetchError {
        FetchError {
            kind,
            code: None,
            message: format!("could not {} for connection `{}`: {reason}", self.action, self.connection.name),
            request_id: None,
            hint,
        }
    }
}

/// The request id of an answer.
pub(super) fn request_id(answer: &impl RequestId) -> Option<String> {
    answer.request_id().map(str::to_owned)
}

/// An answer that came and does not fit.
pub(super) fn malformed(asked: &Asked<'_>, problem: &str) -> FetchError {
    asked.error(FetchErrorKind::Malformed, problem, Some(hints::malformed(asked)))
}

/// Sorts an error of either service.
pub(super) fn sdk_error<E>(error: &SdkError<E, HttpResponse>, asked: &Asked<'_>) -> FetchError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    if asked.stage == Stage::Signing
        && let Some(error) = find::<CredentialsError>(error)
    {
        return credentials_error(error, asked);
    }
    match error {
        SdkError::ServiceError(context) => {
            let answer = Answer {
                status: context.raw().status().as_u16(),
                code: context.err().meta().code(),
                message: context.err().meta().message(),
                html: is_html(context.raw()),
            };
            FetchError { request_id: request_id(context.err().meta()), ..service_error(&answer, asked) }
        }
        SdkError::ResponseError(context) => {
            let reason = format!("the answer broke off: {}", innermost(error));
            let status = context.raw().status().as_u16();
            asked.error(FetchErrorKind::Unavailable, &reason, Some(hints::broke_off(status, asked)))
        }
        SdkError::DispatchFailure(context) => match context.as_connector_error() {
            Some(connector) => connector_error(connector, asked),
            None => {
                asked.error(FetchErrorKind::Unavailable, &innermost(error), Some(hints::no_answer(asked)))
            }
        },
        SdkError::TimeoutError(_) if asked.stage == Stage::Signing => asked.error(
            FetchErrorKind::Unavailable,
            "no credentials came in time",
            Some(hints::slow_credentials()),
        ),
        SdkError::TimeoutError(_) => {
            asked.error(FetchErrorKind::Unavailable, "no answer came in time", Some(hints::no_answer(asked)))
        }
        _ => not_built(&innermost(error), asked),
    }
}

fn not_built(reason: &str, asked: &Asked<'_>) -> FetchError {
    let reason = format!("the request could not be made: {reason}");
    asked.error(FetchErrorKind::Invalid, &reason, Some(hints::not_built()))
}

/// An HTTP answer that is an error, or a 200 whose body is none of AWS's.
struct Answer<'a> {
    status: u16,
    code: Option<&'a str>,
    message: Option<&'a str>,
    html: bool,
}

fn service_error(answer: &Answer<'_>, asked: &Asked<'_>) -> FetchError {
    use FetchErrorKind::{Denied, Invalid, Malformed, NotReady, RestartQuery, Throttled, Unavailable};

    let Some(code) = answer.code else { return unnamed_error(answer, asked) };
    let text = answer.message.unwrap_or_default();
    let (kind, hint) = match code {
        "LimitExceededException"
        | "ThrottlingException"
        | "Throttling"
        | "ThrottledException"
        | "RequestLimitExceeded"
        | "TooManyRequestsException" => (Throttled, Some(hints::throttled())),
        "DataUnavailableException" => (NotReady, Some(hints::data_unavailable())),
        "BillExpirationException" => (NotReady, Some(hints::report_expired())),
        "BillingViewHealthStatusException" => (NotReady, Some(hints::view_unhealthy())),
        "InvalidNextTokenException" | "RequestChangedException" => (RestartQuery, Some(hints::restart())),
        "AccessDeniedException" | "AccessDenied" | "UnauthorizedOperation" | "NotAuthorized" => {
            (Denied, Some(hints::denied(text, asked)))
        }
        "ExpiredTokenException" | "ExpiredToken" => (Denied, Some(hints::expired(asked))),
        // Its time stamp is too old, as AWS's clock has it.
        "RequestExpired" => (Denied, Some(hints::bad_signature(asked))),
        "RequestTimeoutException" | "RequestTimeout" | "RequestAbortedException" => {
            (Unavailable, Some(hints::aws_trouble()))
        }
        "UnrecognizedClientException" | "InvalidClientTokenId" | "InvalidAccessKeyId" => {
            (Denied, Some(hints::unknown_key(asked)))
        }
        "InvalidSignatureException" | "SignatureDoesNotMatch" | "RequestTimeTooSkewed" => {
            (Denied, Some(hints::bad_signature(asked)))
        }
        "MissingAuthenticationToken" | "MissingAuthenticationTokenException" | "IncompleteSignature" => {
            (Denied, Some(hints::unsigned()))
        }
        "OptInRequired" => (Denied, Some(hints::enable_cost_explorer())),
        "ResourceNotFoundException" => (Invalid, Some(hints::no_view())),
        _ if answer.status >= 500 => (Unavailable, Some(hints::aws_trouble())),
        _ if answer.status == 429 => (Throttled, Some(hints::throttled())),
        _ if answer.status < 400 => (Malformed, Some(hints::malformed(asked))),
        _ => (Invalid, Some(hints::invalid(text, asked))),
    };
    let reason = match first_line(text) {
        text if text.is_empty() => format!("AWS answered `{code}`"),
        text => format!("AWS answered `{code}`: {text}"),
    };
    FetchError { code: Some(code.to_owned()), ..asked.error(kind, &reason, hint) }
}

/// An answer without an error code: of AWS's front, or of something else in its place.
fn unnamed_error(answer: &Answer<'_>, asked: &Asked<'_>) -> FetchError {
    use FetchErrorKind::{Malformed, Throttled, Unavailable};

    let Answer { status, html, .. } = *answer;
    let what = if html { "HTML" } else { "no error code" };
    match status {
        429 => asked.error(Throttled, "the answer was HTTP 429", Some(hints::throttled())),
        500.. => {
            asked.error(Unavailable, &format!("the answer was HTTP {status}"), Some(hints::aws_trouble()))
        }
        200..=299 if html => {
            asked.error(Malformed, "the answer was HTML instead of JSON", Some(hints::not_aws(asked)))
        }
        200..=299 => {
            asked.error(Malformed, "the answer was no JSON of Cost Explorer", Some(hints::malformed(asked)))
        }
        _ => {
            let reason = format!("the answer was HTTP {status} with {what}");
            asked.error(Malformed, &reason, Some(hints::not_aws(asked)))
        }
    }
}

/// Without an answer. The stage tells whether something was sent; the texts below only choose words.
fn connector_error(connector: &ConnectorError, asked: &Asked<'_>) -> FetchError {
    let reason = innermost(connector);
    let chain = chain_text(connector);
    if asked.stage == Stage::Signing {
        // The identity cache gives up with an error of a type it keeps to itself: its text is the one
        // that has to decide. What else fails here is an endpoint that cannot be used.
        if chain.contains("identity resolver timed out") {
            let reason = format!("no credentials came: {reason}");
            return asked.error(FetchErrorKind::Unavailable, &reason, Some(hints::slow_credentials()));
        }
        return not_built(&reason, asked);
    }
    let (reason, hint) = if asked.stage == Stage::Sent {
        (format!("no answer: {reason}"), hints::no_answer(asked))
    } else if chain.contains("dns error") {
        (format!("the endpoint's name could not be resolved: {reason}"), hints::dns(asked))
    } else if chain.contains("invalid peer certificate") {
        (format!("the endpoint's certificate was not accepted: {reason}"), hints::certificate(asked))
    } else {
        (format!("no connection: {reason}"), hints::no_connection(asked))
    };
    asked.error(FetchErrorKind::Unavailable, &reason, Some(hint))
}

/// There are no credentials, or STS gave none.
fn credentials_error(error: &CredentialsError, asked: &Asked<'_>) -> FetchError {
    // A role: what STS said decides, as if it had been asked directly.
    let action = match &asked.connection.credentials {
        CredentialsConfig::Role { role_arn, .. } => format!("assume `{role_arn}` to {}", asked.action),
        _ => format!("assume the profile's role to {}", asked.action),
    };
    let role = Asked { service: Service::AssumeRole, stage: Stage::Unwatched, action, ..asked.clone() };
    if let Some(sts) = find::<SdkError<AssumeRoleError, HttpResponse>>(error) {
        return role_error(sts, asked, &role);
    }
    if let Some(sts) = find::<SdkError<AssumeRoleWithWebIdentityError, HttpResponse>>(error) {
        return role_error(sts, asked, &role);
    }
    let reason = match error.source() {
        Some(source) => format!("no AWS credentials: {}", deepest_texts(source)),
        None => "no AWS credentials".to_owned(),
    };
    // A source that exists and could not be reached may be there the next time.
    let kind = match error {
        CredentialsError::CredentialsNotLoaded(_) => FetchErrorKind::Denied,
        CredentialsError::ProviderTimedOut(_) => FetchErrorKind::Unavailable,
        _ if find::<ConnectorError>(error).is_some() => FetchErrorKind::Unavailable,
        _ => FetchErrorKind::Denied,
    };
    asked.error(kind, &reason, Some(hints::no_credentials(asked)))
}

fn role_error<E>(sts: &SdkError<E, HttpResponse>, asked: &Asked<'_>, role: &Asked<'_>) -> FetchError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    // Where the role's own base has no credentials, that is the reason.
    match sts.source().and_then(find::<CredentialsError>) {
        Some(inner) => credentials_error(inner, asked),
        None => sdk_error(sts, role),
    }
}

/// The first error of a type along the sources.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    sources(error).find_map(|error| error.downcast_ref())
}

fn sources<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// What the deepest source says: the others only say that something failed.
fn innermost(error: &(dyn Error + 'static)) -> String {
    first_line(&sources(error).last().unwrap_or(error).to_string())
}

/// What the two deepest sources say: the last may be no more than a file's error.
fn deepest_texts(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<_> = sources(error).map(|error| first_line(&error.to_string())).collect();
    texts.dedup();
    texts.split_off(texts.len().saturating_sub(2)).join(": ")
}

fn chain_text(error: &(dyn Error + 'static)) -> String {
    let texts: Vec<_> = sources(error).map(|error| format!("{error} {error:?}")).collect();
    texts.join("\n")
}

/// The first line, cut to a length that fits in a log line, without a final stop.
fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default().trim();
    let line = line.split(" The Canonical String").next().unwrap_or_default().trim_end_matches('.');
    match line.char_indices().nth(MESSAGE_LIMIT) {
        None => line.to_owned(),
        Some((end, _)) => format!("{}…", &line[..end]),
    }
}

fn is_html(response: &HttpResponse) -> bool {
    let body = response.body().bytes().unwrap_or_default().trim_ascii_start();
    body.first() == Some(&b'<')
        || response.headers().get("content-type").is_some_and(|kind| kind.starts_with("text/html"))
}
