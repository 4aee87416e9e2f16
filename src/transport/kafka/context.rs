//! What librdkafka tells and asks its user: logs, complaints, and the token to log in with.

use std::{
    error::Error,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode as Code},
    types::RDKafkaRespErr,
};
use tracing::{debug, warn};

use super::{
    client::{REQUEST, wait},
    errors::{TOPIC_DENIED, all_answered, code, is_settling},
    token::Tokens,
};
use crate::{
    config::{KafkaConfig, KafkaLogin},
    transport::TransportError,
};

/// What librdkafka last complained of, and who gives it tokens. Clones are of the same.
#[derive(Clone, Default)]
pub(super) struct Context {
    complaint: Arc<Mutex<Option<(Instant, String)>>>,
    /// Nothing more is asked.
    closed: Arc<AtomicBool>,
    pub(super) tokens: Option<Arc<Tokens>>,
}

/// An older complaint says nothing about the call that failed now. The same one again is told only
/// every 30 seconds.
const FRESH: Duration = Duration::from_secs(35);

/// So long the group is asked where to read on: it counts as gone who does not poll for five minutes.
const LONGEST: Duration = Duration::from_mins(4);

impl Context {
    pub(super) fn new(config: &KafkaConfig) -> Result<Self, TransportError> {
        Ok(Self { tokens: Tokens::of(config)?.map(Arc::new), ..Self::default() })
    }

    pub(super) fn complaint(&self) -> Option<String> {
        let latest = self.complaint.lock().unwrap_or_else(PoisonError::into_inner).clone();
        latest.filter(|(since, _)| since.elapsed() < FRESH).map(|(_, text)| text)
    }

    /// Whether trying again cannot help.
    pub(super) fn is_final(&self) -> bool {
        self.complaint().as_deref().and_then(Refusal::of).is_some_and(Refusal::is_final)
    }

    /// Why there is no token to log in with, where that is so.
    pub(super) fn no_token(&self) -> Option<TransportError> {
        self.tokens.as_ref().and_then(|tokens| tokens.failure())
    }

    /// Why a token that is refused may be an old one, where that is so.
    pub(super) fn not_renewed(&self) -> Option<TransportError> {
        self.tokens.as_ref().and_then(|tokens| tokens.not_renewed())
    }

    /// No client asks for a token from now on, or where a group is to read on.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        if let Some(tokens) = &self.tokens {
            tokens.close();
        }
    }

    pub(super) const fn uses_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    fn note(&self, text: &str) {
        // `[thrd:sasl_ssl://127.0.0.1:9093/bootstrap]: sasl_ssl://127.0.0.1:9093/bootstrap: SASL ...`
        let text = text.split_once("]: ").map_or(text, |(_, text)| text);
        // "1/1 brokers are down" hides why.
        if !text.ends_with("brokers are down") {
            let complaint = Some((Instant::now(), text.to_owned()));
            *self.complaint.lock().unwrap_or_else(PoisonError::into_inner) = complaint;
        }
    }

    /// The brokers answer: what was the matter before is no longer of interest.
    pub(super) fn forget(&self) {
        *self.complaint.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // librdkafka logs what it then mends by itself; what it cannot mend is an error of ours.
        debug!(target: "librdkafka", facility, "{message}");
        if matches!(
            level,
            RDKafkaLogLevel::Emerg
                | RDKafkaLogLevel::Alert
                | RDKafkaLogLevel::Critical
                | RDKafkaLogLevel::Error
                | RDKafkaLogLevel::Warning
        ) && facility != "CONFWARN"
        {
            self.note(message);
            // Of a group it begins anew where the topic begins, and nothing else tells that.
            if facility == "OFFSET" {
                warn!("what was to be read next is gone, and left out: {message}");
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(target: "librdkafka", %error, "{reason}");
        self.note(reason);
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        let tokens = self.tokens.as_ref().ok_or("nothing says where tokens come from")?;
        Ok(tokens.current()?)
    }
}

impl ConsumerContext for Context {
    /// Only a reader under a name has a group, and that shares partitions out cooperatively. Where a
    /// partition is read on from is asked here: librdkafka, asking itself, never asks again when it was
    /// answered while the group's coordinator moved (its issue 5586), and the partition is not read.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let done = if what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let committed = committed(consumer, partitions);
            consumer.incremental_assign(committed.as_ref().unwrap_or(partitions))
        } else {
            consumer.incremental_unassign(partitions)
        };
        if let Err(error) = done {
            warn!(%error, "the group's partitions could not be shared out");
        }
    }
}

/// Partitions with the group's offsets; what is new to the group begins at its beginning. Asked until it is
/// known, by the thread that polls.
fn committed(
    consumer: &BaseConsumer<Context>,
    partitions: &TopicPartitionList,
) -> Result<TopicPartitionList, KafkaError> {
    let deadline = Instant::now() + LONGEST;
    let may_pass = |error: &KafkaError| {
        is_settling(error)
            || matches!(code(error), Some(Code::OperationTimedOut | Code::BrokerTransportFailure))
    };
    while !consumer.context().closed.load(Ordering::Relaxed) {
        match consumer.committed_offsets(partitions.clone(), REQUEST).and_then(all_answered) {
            Err(error) if may_pass(&error) && Instant::now() < deadline => wait(Duration::from_millis(50)),
            Err(error) => {
                warn!(%error, "where to read on is not known");
                return Err(error);
            }
            Ok(known) => {
                for mut partition in known.elements() {
                    if partition.offset() == Offset::Invalid {
                        partition.set_offset(Offset::Beginning)?;
                    }
                }
                return Ok(known);
            }
        }
    }
    Err(KafkaError::Canceled)
}

/// Why a broker let nobody in, from librdkafka's words.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    BrokersCertificate,
    OwnCertificate,
    Login,
    Mechanism,
    Tls,
    /// In the middle of the TLS handshake the connection ended: a broker that restarts, or one that
    /// does not speak TLS there.
    TlsEnded,
    /// In a transaction, where librdkafka keeps the code to itself.
    Topic,
}

impl Refusal {
    pub(super) fn of(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let contains = |words: &[&str]| words.iter().any(|words| text.contains(words));
        if contains(&["broker transport failure", "not valid in current sasl state"]) {
            // A connection that was closed in the middle of its handshake, or whose token ended just
            // then: nothing was refused.
            return None;
        }
        if contains(&[
            "certificate verify failed",
            "broker certificate could not be verified",
            // By an authority of the same name and another key.
            "asn1 encoding routines::evp lib",
        ]) {
            Some(Self::BrokersCertificate)
        } else if contains(&["certificate required", "bad certificate", "unknown ca", "certificate unknown"])
        {
            Some(Self::OwnCertificate)
        } else if contains(&["sasl authentication error", "authentication failed"]) {
            Some(Self::Login)
        } else if contains(&["unsupported sasl mechanism", "mechanism handshake failed"]) {
            Some(Self::Mechanism)
        } else if contains(&[
            "ssl handshake failed: disconnected",
            "ssl transport error",
            "unexpected eof",
            // `Disconnected: connection reset by peer (after 0ms in state SSL_HANDSHAKE)`
            "in state ssl_handshake",
        ]) {
            Some(Self::TlsEnded)
        } else if contains(&["ssl handshake failed"]) {
            Some(Self::Tls)
        } else if contains(&["transaction failed", "to transaction"])
            && contains(&["topic authorization failed"])
        {
            Some(Self::Topic)
        } else {
            None
        }
    }

    /// Whether it stays so until somebody changes something.
    pub(super) const fn is_final(self) -> bool {
        !matches!(self, Self::TlsEnded)
    }

    pub(super) const fn hint(self, login: &KafkaLogin) -> &'static str {
        match (self, login) {
            (Self::BrokersCertificate, _) => {
                "the broker's certificate is not trusted; set `\"ssl.ca.location\"` in `[kafka.librdkafka]` to the CA's file"
            }
            (Self::OwnCertificate, _) => {
                "the broker wants a client certificate it trusts; see `\"ssl.certificate.location\"` and `\"ssl.key.location\"` in `[kafka.librdkafka]`"
            }
            (Self::Login, KafkaLogin::Librdkafka) => {
                "user or password are wrong; see `kafka.username`, `kafka.password_file` and `\"sasl.mechanisms\"` in `[kafka.librdkafka]`"
            }
            (Self::Login, KafkaLogin::Oauth(_)) => {
                "the broker refused the token; see `kafka.oauth.scope` and `audience`, and which issuer and keys the broker trusts"
            }
            (Self::Login, KafkaLogin::MskIam(_)) => {
                "the cluster refused the token; allow these credentials the IAM action `kafka-cluster:Connect` on it, and see `kafka.msk_iam.region`"
            }
            (Self::Mechanism, _) => {
                "the broker does not offer this SASL mechanism on this port; see `\"sasl.mechanisms\"` in `[kafka.librdkafka]`"
            }
            (Self::Topic, _) => TOPIC_DENIED,
            (Self::TlsEnded, _) => {
                "the connection ended in the TLS handshake; if it stays so, nobody speaks TLS on this port: see `\"security.protocol\"` in `[kafka.librdkafka]`"
            }
            (Self::Tls, _) => {
                "the TLS handshake failed; see `\"security.protocol\"` and `\"ssl...\"` in `[kafka.librdkafka]`"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Refusal;

    #[test]
    fn a_connection_that_was_cut_is_not_refused_for_good() {
        for (text, is_final) in [
            (
                "SASL authentication error: {\"status\":\"invalid_token\"} (after 5ms in state AUTH_REQ)",
                Some(true),
            ),
            (
                "SASL authentication error: SaslAuthenticateRequest failed: Local: Broker transport failure",
                None,
            ),
            ("Disconnected: connection reset by peer (after 0ms in state SSL_HANDSHAKE)", Some(false)),
            ("SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener?", Some(false)),
            (
                "SSL handshake failed: certificate verify failed: broker certificate could not be verified",
                Some(true),
            ),
            ("Disconnected (after 12ms in state UP)", None),
        ] {
            assert_eq!(Refusal::of(text).map(Refusal::is_final), is_final, "{text}");
        }
    }
}
