//! Tokens for Amazon MSK with IAM: a request that is signed and never sent.
//!
//! A token is `kafka-cluster:Connect` as a presigned URL, good for a quarter of an hour, in Base64.
//! Format: AWS's own signers, such as `aws-msk-iam-sasl-signer-python`. This file alone signs for MSK.

use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials as _, SharedCredentialsProvider, error::CredentialsError},
};
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign},
    sign::v4,
};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::OnceCell;
use url::form_urlencoded;

use super::token::Token;
use crate::{
    config::{CredentialsConfig, MskIamConfig},
    poller,
    transport::{TransportError, TransportErrorKind as Kind},
};

/// How long MSK takes a token: no more, and the signers of AWS ask for no less.
const LIFETIME: Duration = Duration::from_mins(15);

const USER_AGENT: &str = concat!("amazon-billing-source/", env!("CARGO_PKG_VERSION"));

pub(super) struct MskIam {
    config: MskIamConfig,
    http: SharedHttpClient,
    credentials: OnceCell<SharedCredentialsProvider>,
}

impl MskIam {
    pub(super) fn new(config: &MskIamConfig) -> Self {
        Self { config: config.clone(), http: poller::http_client(), credentials: OnceCell::new() }
    }

    pub(super) async fn fetch(&self, now: Timestamp) -> Result<Token, TransportError> {
        let provider = self.credentials.get_or_try_init(|| self.provider()).await?;
        let credentials = provider.provide_credentials().await.map_err(|e| self.no_credentials(&e))?;
        let (value, signed_at) = token(&self.config.region, &credentials, USER_AGENT, now).map_err(|e| {
            TransportError::new(Kind::Rejected, format!("could not sign a token for MSK: {e}"))
        })?;
        let mut expires = signed_at + SignedDuration::try_from(LIFETIME).unwrap_or(SignedDuration::ZERO);
        // A role's credentials may end before; what they signed ends with them.
        if let Some(end) = credentials.expiry().and_then(|end| Timestamp::try_from(end).ok()) {
            expires = expires.min(end);
        }
        Ok(Token { value, principal: credentials.access_key_id().to_owned(), expires })
    }

    async fn provider(&self) -> Result<SharedCredentialsProvider, TransportError> {
        let MskIamConfig { region, credentials, sts_endpoint_url } = &self.config;
        let loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(region.clone()))
            .http_client(self.http.clone());
        let origin = poller::Origin { credentials, region, sts_endpoint: sts_endpoint_url.as_deref() };
        let found = poller::load_credentials(loader, None, origin, &self.http).await;
        found.credentials_provider().ok_or_else(|| self.no_credentials(&"there are none"))
    }

    fn no_credentials(&self, error: &dyn CredentialsFault) -> TransportError {
        let hint = match &self.config.credentials {
            CredentialsConfig::Profile { profile } => format!(
                "check the profile `{profile}` in `~/.aws/config` of the user this runs as; a session of IAM Identity \
                 Center is renewed with `aws sso login --profile {profile}`"
            ),
            CredentialsConfig::Role { role_arn, .. } => {
                format!("may whoever this runs as assume `{role_arn}`? See the role's trust policy")
            }
            _ => "tried environment, profile, web identity, container and instance: provide one of them, or set \
                  `kafka.msk_iam.credentials`"
                .to_owned(),
        };
        let message = format!("no AWS credentials to sign a token for MSK with: {}", error.text());
        let kind = if error.may_pass() { Kind::Unavailable } else { Kind::Rejected };
        TransportError::new(kind, message).with_hint(hint)
    }
}

/// What is told of missing credentials, and whether waiting may help.
trait CredentialsFault {
    fn text(&self) -> String;
    fn may_pass(&self) -> bool;
}

impl CredentialsFault for CredentialsError {
    fn text(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }

    fn may_pass(&self) -> bool {
        !matches!(self, Self::CredentialsNotLoaded(_) | Self::InvalidConfiguration(_))
    }
}

impl CredentialsFault for &str {
    fn text(&self) -> String {
        (*self).to_owned()
    }

    fn may_pass(&self) -> bool {
        false
    }
}

/// The token, and the instant it was signed at, in whole seconds.
fn token(
    region: &str,
    credentials: &Credentials,
    user_agent: &str,
    now: Timestamp,
) -> Result<(String, Timestamp), Box<dyn std::error::Error + Send + Sync>> {
    let signed_at = Timestamp::from_second(now.as_second())?;
    let identity = credentials.clone().into();
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(LIFETIME);
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("kafka-cluster")
        .time(SystemTime::try_from(signed_at)?)
        .settings(settings)
        .build()?
        .into();
    let mut url = format!("https://kafka.{region}.amazonaws.com/?Action=kafka-cluster%3AConnect");
    let request = SignableRequest::new("GET", &*url, std::iter::empty(), SignableBody::Bytes(&[]))?;
    let (instructions, _) = sign(request, &parameters)?.into_parts();
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    for (name, value) in instructions.params() {
        url.extend(["&", name, "=", &*encoded(value)]);
    }
    // Behind the signature, so not part of it: for AWS's own statistics.
    url.extend(["&User-Agent=", &*encoded(user_agent)]);
    Ok((BASE64_URL_SAFE_NO_PAD.encode(url), signed_at))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `aws-msk-iam-sasl-signer-python` 1.0.2 over botocore 1.44.8 with the same key, clock and
    /// user agent; without and with a session token.
    #[test]
    fn a_token_is_that_of_awss_own_signer() {
        let now: Timestamp = "2026-11-21T06:11:10.7Z".parse().unwrap();
        for (session, expected) in [
            (
                None,
                "aHR0cHM6Ly9rYWZrYS5ldS1jZW50cmFsLTEuYW1hem9uYXdzLmNvbS8_QWN0aW9uPWthZmthLWNsdXN0ZXIlM0FDb25uZWN0JlgtQW16LUFsZ29yaXRobT1BV1M0LUhNQUMtU0hBMjU2JlgtQW16LUNyZWRlbnRpYWw9QUtJQUlPU0ZPRE5ON0VYQU1QTEUlMkYyMDI2MTEyMSUyRmV1LWNlbnRyYWwtMSUyRmthZmthLWNsdXN0ZXIlMkZhd3M0X3JlcXVlc3QmWC1BbXotRGF0ZT0yMDI2MTEyMVQwNjExMTBaJlgtQW16LUV4cGlyZXM9OTAwJlgtQW16LVNpZ25lZEhlYWRlcnM9aG9zdCZYLUFtei1TaWduYXR1cmU9NjcxMDJiMWQzZjhjYzY3MmFkOTIyNTkwMTQzNDVhZGU2ODYzZGQ0OTIzYWIwYmMzNTE5MDEyOGMwODI0MTI4ZiZVc2VyLUFnZW50PWF3cy1tc2staWFtLXNhc2wtc2lnbmVyLXB5dGhvbiUyRjEuMC4y",
            ),
            (
                Some("FwoGZXIvYXdzEXAMPLE//token+with/=signs=="),
                "aHR0cHM6Ly9rYWZrYS5ldS1jZW50cmFsLTEuYW1hem9uYXdzLmNvbS8_QWN0aW9uPWthZmthLWNsdXN0ZXIlM0FDb25uZWN0JlgtQW16LUFsZ29yaXRobT1BV1M0LUhNQUMtU0hBMjU2JlgtQW16LUNyZWRlbnRpYWw9QUtJQUlPU0ZPRE5ON0VYQU1QTEUlMkYyMDI2MTEyMSUyRmV1LWNlbnRyYWwtMSUyRmthZmthLWNsdXN0ZXIlMkZhd3M0X3JlcXVlc3QmWC1BbXotRGF0ZT0yMDI2MTEyMVQwNjExMTBaJlgtQW16LUV4cGlyZXM9OTAwJlgtQW16LVNpZ25lZEhlYWRlcnM9aG9zdCZYLUFtei1TZWN1cml0eS1Ub2tlbj1Gd29HWlhJdllYZHpFWEFNUExFJTJGJTJGdG9rZW4lMkJ3aXRoJTJGJTNEc2lnbnMlM0QlM0QmWC1BbXotU2lnbmF0dXJlPTQ4OTEzMDVmNmNiMTJjNzI1MDFiNjRiYzE1YWVkMWEzYjMzMjUyODY2ODVmZTZmNWY0OGU4ODFiYzc2YWYwZGYmVXNlci1BZ2VudD1hd3MtbXNrLWlhbS1zYXNsLXNpZ25lci1weXRob24lMkYxLjAuMg",
            ),
        ] {
            let credentials = Credentials::new(
                "AKIAIOSFODNN7EXAMPLE",
                "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
                session.map(str::to_owned),
                None,
                "test",
            );
            let agent = "aws-msk-iam-sasl-signer-python/1.0.2";
            let (token, signed_at) = token("eu-central-1", &credentials, agent, now).unwrap();
            let url = |token: &str| String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(token).unwrap()).unwrap();
            // The order of the parameters is no part of the format.
            let parameters = |token: &str| {
                let url = url::Url::parse(&url(token)).unwrap();
                let mut parameters: Vec<_> = url.query_pairs().into_owned().collect();
                parameters.sort();
                (url.host_str().map(str::to_owned), url.path().to_owned(), parameters)
            };
            assert_eq!(parameters(&token), parameters(expected), "{}", url(&token));
            assert_eq!(signed_at.to_string(), "2026-11-21T06:11:10Z");
        }
    }
}
