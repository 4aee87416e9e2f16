//! `GetCostAndUsage`: one page at a time.
//!
//! It follows no page tokens and keeps no budget: the cycle does, and asks here what was spent.

use std::{sync::Arc, time::Duration};

use aws_config::BehaviorVersion;
use aws_sdk_costexplorer::{
    Client,
    config::{
        IdentityCache, Region, SharedCredentialsProvider,
        retry::{RetryConfig, RetryPartition},
        timeout::TimeoutConfig,
    },
};
use aws_smithy_http_client::{
    Builder, Connector,
    proxy::ProxyConfig,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::{http::SharedHttpClient, runtime_components::RuntimeComponents};
use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use tracing::warn;

use super::{
    FetchError, Page, RequestCounts, Window,
    answer::{ReadBy, Reader},
    charges::{Call, Charges, Meter},
    classify::{self, Asked, Service},
    credentials,
    page::Rows,
    query::{self, Query},
};
use crate::{
    clock::Clock,
    config::{ConnectionConfig, HttpsProxy},
};

/// The one HTTP client of the process: one pool of connections, one TLS stack, the system's CAs, and for
/// `https` the environment's proxy. Plain HTTP is a simulator, or where an instance or a container gets
/// its credentials, which no proxy can ask.
pub fn http_client() -> SharedHttpClient {
    let tls = || Provider::Rustls(CryptoMode::Ring);
    let Some(HttpsProxy { url, except }) = HttpsProxy::of_environment() else {
        return Builder::new().tls_provider(tls()).build_https();
    };
    let Ok(proxy) = ProxyConfig::https(url.expose_secret()) else {
        // Its text may hold a password.
        warn!("the proxy of the environment (`HTTPS_PROXY`) is no URL, and AWS is asked without it");
        return Builder::new().tls_provider(tls()).build_https();
    };
    let proxy = proxy.no_proxy(except);
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder().proxy_config(proxy.clone());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        connector.tls_provider(tls()).build()
    })
}

/// Asks AWS for one connection. Cheap to keep, and shared by reference.
#[derive(Debug)]
pub struct CostExplorer {
    client: Client,
    sts: aws_sdk_sts::Client,
    connection: ConnectionConfig,
    query: Arc<Query>,
    charges: Arc<Charges>,
    clock: Clock,
}

/// How long each step may take. The SDK itself would wait for ever.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// Name, TCP and TLS.
    pub(super) connect: Duration,
    /// From the request to the first byte of the answer.
    pub(super) read: Duration,
    /// One attempt, with the look-up of credentials before it.
    pub(super) attempt: Duration,
    /// All attempts of one request and the pauses between them.
    pub(super) operation: Duration,
    /// The look-up of credentials: the instance's metadata, STS. Long enough for a chain of all
    /// sources to end with a reason instead of a timeout.
    pub(super) credentials: Duration,
    /// The base of the pauses between attempts, doubled each time, with jitter.
    pub(super) backoff: Duration,
}

impl Timeouts {
    pub(super) const PRODUCTION: Self = Self {
        connect: Duration::from_secs(5),
        read: Duration::from_secs(30),
        attempt: Duration::from_mins(1),
        operation: Duration::from_mins(3),
        credentials: Duration::from_secs(20),
        backoff: Duration::from_secs(1),
    };
}

impl CostExplorer {
    /// How often one request is tried, in all: so many requests one [`Self::page`] may cost at worst,
    /// when each attempt is sent and no answer comes.
    pub const ATTEMPTS: u32 = 3;

    /// Makes the clients of a connection. Sends nothing: credentials are looked up with the first
    /// request.
    ///
    /// The clock dates answers without a readable `Date`, and tells how far it is from AWS's.
    ///
    /// # Errors
    /// Nothing fails at present; a connection that cannot be made would be `Invalid`.
    pub async fn connect(
        connection: &ConnectionConfig,
        http: &SharedHttpClient,
        clock: Clock,
    ) -> Result<Self, FetchError> {
        Ok(Self::with(connection, http, clock, Timeouts::PRODUCTION, None).await)
    }

    /// `ambient` stands in for the default chain, which depends on the machine.
    pub(super) async fn with(
        connection: &ConnectionConfig,
        http: &SharedHttpClient,
        clock: Clock,
        timeouts: Timeouts,
        ambient: Option<SharedCredentialsProvider>,
    ) -> Self {
        let loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(connection.region.clone()))
            .http_client(http.clone())
            .identity_cache(IdentityCache::lazy().load_timeout(timeouts.credentials).build())
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(timeouts.connect)
                    .read_timeout(timeouts.read)
                    .operation_attempt_timeout(timeouts.attempt)
                    .operation_timeout(timeouts.operation)
                    .build(),
            )
            .retry_config(
                RetryConfig::standard()
                    .with_max_attempts(Self::ATTEMPTS)
                    .with_initial_backoff(timeouts.backoff),
            );
        let base = credentials::load(loader, ambient, connection.into(), http).await;

        // The SDK's allowance for retries is one per process unless it is given a name: a throttled
        // account would take the retries of the others.
        let partition = format!("{}/{}", connection.name, connection.account_id.as_deref().unwrap_or("-"));
        let mut ce = aws_sdk_costexplorer::config::Builder::from(&base)
            .retry_partition(RetryPartition::custom(partition).build());
        if let Some(url) = &connection.endpoint_url {
            // Together with an endpoint of one's own either flag is an error of the SDK.
            ce = ce.endpoint_url(url).use_fips(false).use_dual_stack(false);
        }
        let mut sts = aws_sdk_sts::config::Builder::from(&base);
        if let Some(url) = credentials::sts_endpoint(connection) {
            sts = sts.endpoint_url(url).use_fips(false).use_dual_stack(false);
        }
        Self {
            client: Client::from_conf(ce.build()),
            sts: aws_sdk_sts::Client::from_conf(sts.build()),
            query: Arc::new(Query::new(connection)),
            connection: connection.clone(),
            charges: Arc::default(),
            clock,
        }
    }

    /// The paying account: as configured, or else asked of STS, which is free.
    ///
    /// # Errors
    /// When STS has to be asked and does not answer.
    pub async fn account_id(&self) -> Result<String, FetchError> {
        match &self.connection.account_id {
            Some(account) => Ok(account.clone()),
            None => self.caller_identity().await,
        }
    }

    /// The account the credentials belong to (`sts:GetCallerIdentity`): free, and no policy can
    /// deny it.
    ///
    /// # Errors
    /// When there are no credentials, or STS refuses them or gives no answer.
    pub async fn caller_identity(&self) -> Result<String, FetchError> {
        let call = Call::new(None);
        let request = self.sts.get_caller_identity().customize().interceptor(Meter(Arc::clone(&call)));
        let asked = |call: &Call| self.asked(Service::Sts, "ask STS for the account", call);
        match request.send().await {
            Ok(output) => match output.account {
                Some(account) if account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit()) => {
                    Ok(account)
                }
                _ => Err(classify::malformed(&asked(&call), "the answer has no account of 12 digits")),
            },
            Err(error) => Err(classify::sdk_error(&error, &asked(&call))),
        }
    }

    /// Asks for one page of a window: the first, or the one a token of the page before names.
    ///
    /// Costs $0.01 where AWS answers; [`Self::take_spent`] tells, also after an error and after a
    /// future that was dropped.
    ///
    /// # Errors
    /// When there is no answer, AWS refuses, or the answer cannot be read whole.
    pub async fn page(&self, window: &Window, token: Option<&str>) -> Result<Page, FetchError> {
        let call = Call::new(Some(Arc::clone(&self.charges)));
        let action =
            || format!("read {} costs from {} to {}", window.granularity(), window.from, window.until);
        let time_period = query::time_period(window).expect("start and end are set");
        let reader = Reader::new(*window, Arc::clone(&self.query));
        let request = self
            .client
            .get_cost_and_usage()
            .time_period(time_period)
            .granularity(query::granularity(window.granularity()))
            .set_filter(self.query.filter.clone())
            .set_metrics(Some(self.query.metrics.iter().map(|metric| metric.aws_name().to_owned()).collect()))
            .set_group_by(Some(self.query.group_by.clone()))
            .set_next_page_token(token.map(str::to_owned))
            .customize()
            .interceptor(ReadBy(Arc::clone(&reader)))
            .interceptor(Meter(Arc::clone(&call)));
        match request.send().await {
            Ok(output) => match reader.take() {
                Ok(Rows { records, group_names, next }) => {
                    Ok(Page { records, group_names, observed_at: self.observed_at(&call), next })
                }
                Err(problem) => {
                    let request_id = classify::request_id(&output);
                    let asked = self.asked(Service::CostExplorer(window.granularity()), &action(), &call);
                    Err(FetchError { request_id, ..classify::malformed(&asked, &problem.0) })
                }
            },
            Err(error) => {
                let asked = self.asked(Service::CostExplorer(window.granularity()), &action(), &call);
                Err(classify::sdk_error(&error, &asked))
            }
        }
    }

    /// Chargeable requests since last asked: answered pages, and requests whose outcome is unknown.
    pub fn take_spent(&self) -> u32 {
        self.charges.take_spent()
    }

    /// Requests since the connection was made, by outcome.
    pub fn requests(&self) -> RequestCounts {
        self.charges.counts()
    }

    fn observed_at(&self, call: &Call) -> Timestamp {
        call.date().unwrap_or_else(|| {
            let now = self.clock.now();
            Timestamp::from_second(now.as_second()).unwrap_or(now)
        })
    }

    fn asked(&self, service: Service, action: &str, call: &Call) -> Asked<'_> {
        Asked {
            service,
            action: action.to_owned(),
            connection: &self.connection,
            net: self.query.has_net(),
            stage: call.stage(),
            // Positive: AWS's clock is ahead of ours.
            skew: call.date().map(|date| date.duration_since(self.clock.now())),
        }
    }
}
