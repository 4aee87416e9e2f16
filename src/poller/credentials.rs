//! From configured credentials to an AWS credentials provider.
//!
//! Nothing is looked up here: a provider asks when the first request is signed, and again before
//! what it got expires. All of them use the one HTTP client.

use aws_config::{
    ConfigLoader, SdkConfig, profile::ProfileFileCredentialsProvider, provider_config::ProviderConfig,
    sts::AssumeRoleProvider,
};
use aws_sdk_costexplorer::config::{Credentials, Region, SharedCredentialsProvider};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use secrecy::ExposeSecret as _;

use crate::config::{ConnectionConfig, CredentialsConfig};

/// Whose credentials, and where they are asked for.
pub(crate) struct Origin<'a> {
    pub(crate) credentials: &'a CredentialsConfig,
    /// Of the requests that credentials may need.
    pub(crate) region: &'a str,
    /// `None`: at AWS.
    pub(crate) sts_endpoint: Option<&'a str>,
}

impl<'a> From<&'a ConnectionConfig> for Origin<'a> {
    fn from(connection: &'a ConnectionConfig) -> Self {
        Self {
            credentials: &connection.credentials,
            region: &connection.region,
            sts_endpoint: sts_endpoint(connection),
        }
    }
}

/// Adds credentials to a loader that has everything else, and loads. `ambient` is taken instead of the
/// default chain where there is one.
pub(crate) async fn load(
    loader: ConfigLoader,
    ambient: Option<SharedCredentialsProvider>,
    origin: Origin<'_>,
    http: &SharedHttpClient,
) -> SdkConfig {
    let loader = match ambient {
        Some(provider) => loader.credentials_provider(provider),
        None => loader,
    };
    match origin.credentials {
        CredentialsConfig::Default => loader.load().await,
        CredentialsConfig::Keys { access_key_id, secret_access_key, session_token } => {
            let keys = Credentials::new(
                access_key_id,
                secret_access_key.expose_secret(),
                session_token.as_ref().map(|token| token.expose_secret().to_owned()),
                None,
                "configuration",
            );
            loader.credentials_provider(keys).load().await
        }
        CredentialsConfig::Profile { profile } => {
            loader.credentials_provider(from_profile(profile, origin.region, http)).load().await
        }
        CredentialsConfig::Role { role_arn, external_id, session_name, profile } => {
            let loader = match profile {
                Some(profile) => loader.credentials_provider(from_profile(profile, origin.region, http)),
                None => loader,
            };
            let base = loader.load().await;
            let mut sts = base.to_builder();
            if let Some(url) = origin.sts_endpoint {
                sts = sts.endpoint_url(url).use_fips(false).use_dual_stack(false);
            }
            let mut role =
                AssumeRoleProvider::builder(role_arn).session_name(session_name).configure(&sts.build());
            if let Some(external_id) = external_id {
                role = role.external_id(external_id);
            }
            let role = SharedCredentialsProvider::new(role.build().await);
            base.into_builder().credentials_provider(role).build()
        }
    }
}

/// Where STS is asked; `None`: at AWS.
pub(super) fn sts_endpoint(connection: &ConnectionConfig) -> Option<&str> {
    connection.sts_endpoint_url.as_deref().or(connection.endpoint_url.as_deref())
}

/// Exactly this profile. The default chain would prefer keys it finds in the environment.
fn from_profile(profile: &str, region: &str, http: &SharedHttpClient) -> ProfileFileCredentialsProvider {
    let config = ProviderConfig::without_region()
        .with_region(Some(Region::new(region.to_owned())))
        .with_http_client(http.clone());
    ProfileFileCredentialsProvider::builder().configure(&config).profile_name(profile).build()
}
