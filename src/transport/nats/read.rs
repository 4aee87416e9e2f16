//! Reading back: every message that matters of a filter, in order, up to a proven end.
//!
//! The client's own ordered consumer copies its connection for every message. Here messages are taken as
//! they come, the next are asked for while half of them are on their way, and a message that got lost
//! between is seen by the consumer's count: the read fails and is begun anew.

use std::time::{Duration, Instant};

use async_nats::{
    Message, StatusCode,
    jetstream::{
        consumer::{DeliverPolicy, pull},
        stream::{ConsumerErrorKind, Stream},
    },
};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use serde_json::json;
use tokio::time::timeout;
use tracing::info;

use super::{
    client::{JetStream, refusal},
    subject,
};
use crate::transport::{TransportError, TransportErrorKind as Kind};

/// How many messages are asked for at once; a server may allow fewer.
const PULL: u64 = 500;

/// Before it is asked again.
const PAUSE: Duration = Duration::from_millis(20);

/// How long a server keeps what was asked for. Only our own clock ends a read: a slow disk is not silence.
const EXPIRES: Duration = Duration::from_mins(5);

/// How often a long read says how far it is.
const PROGRESS: Duration = Duration::from_secs(5);

/// Reads a filter's messages: the last one per subject, or everything behind a sequence. Returns
/// the sequence of the last one, `None` where there is none.
///
/// The end is what the stream's leader says it is: a consumer may live on a replica that lags, and
/// its own word that nothing is pending proves nothing.
pub(super) async fn read(
    js: &JetStream,
    stream: &Stream<()>,
    name: &str,
    filter: &str,
    behind: Option<u64>,
    silence: Duration,
    mut each: impl FnMut(&Message, u64) -> Result<(), TransportError>,
) -> Result<Option<u64>, TransportError> {
    // The last message of all is at hand; to find the last of a wildcard, a server goes over its subjects.
    // Where the last of all was deleted, some servers say that there is none.
    let newest = js.last(stream, ">").await?.filter(|last| subject::covers(filter, &last.subject));
    let newest = match newest {
        Some(newest) => Some(newest),
        None => js.last(stream, filter).await?,
    };
    let Some(end) = newest.map(|last| last.sequence) else { return Ok(None) };
    if behind.is_some_and(|behind| behind >= end) {
        return Ok(Some(end));
    }
    let deliver_policy = match behind {
        None => DeliverPolicy::LastPerSubject,
        Some(behind) => DeliverPolicy::ByStartSequence { start_sequence: behind + 1 },
    };
    let config = pull::OrderedConfig {
        filter_subject: filter.to_owned(),
        deliver_policy,
        description: Some("amazon-billing-source: recovery".to_owned()),
        ..Default::default()
    };
    let what = || format!("could not read stream `{name}` back");
    let consumer =
        js.context.create_consumer_on_stream(config, name).await.map_err(|error| match error.kind() {
            ConsumerErrorKind::JetStream(refused) => refusal(&what(), &refused),
            _ => js.silence(&what(), &error),
        })?;
    let silent = |error: &dyn std::error::Error| js.silence(&what(), error);
    let inbox = js.client.new_inbox();
    let subscribed = timeout(silence, js.client.subscribe(inbox.clone())).await;
    let mut messages = subscribed.map_err(|elapsed| silent(&elapsed))?.map_err(|error| silent(&error))?;
    let consumer = consumer.cached_info();
    let next = format!("$JS.API.CONSUMER.MSG.NEXT.{name}.{}", consumer.name);
    let most = u64::try_from(consumer.config.max_batch).ok().filter(|most| *most > 0);
    let most = most.map_or(PULL, |most| most.min(PULL));
    let longest = Some(consumer.config.max_expires).filter(|longest| !longest.is_zero());
    let expires = longest.map_or(EXPIRES, |longest| longest.min(EXPIRES));
    let pull = Bytes::from(json!({"batch": most, "expires": expires.as_nanos()}).to_string());
    let (started, mut said) = (Instant::now(), Instant::now());
    let (mut count, mut coming, mut unheard) = (0, 0, Duration::ZERO);
    loop {
        if coming <= most / 2 {
            let asking = js.client.publish_with_reply(next.clone(), inbox.clone(), pull.clone());
            let asked = timeout(silence, asking).await.map_err(|elapsed| silent(&elapsed))?;
            asked.map_err(|error| silent(&error))?;
            coming += most;
        }
        // What is here already needs no clock; a clock for each costs more than the rest.
        let message = match messages.next().now_or_never() {
            Some(message) => message,
            None => timeout(silence, messages.next()).await.map_err(|elapsed| {
                let what = format!("{} up to message {end}, nothing came for {silence:?}", what());
                js.silence(&what, &elapsed)
            })?,
        };
        let failed = |why: &str| TransportError::new(Kind::Unavailable, format!("{}: {why}", what()));
        let Some(message) = message else { return Err(failed("the connection is closed")) };
        match message.status {
            None => {}
            Some(StatusCode::IDLE_HEARTBEAT) => continue,
            // In a cluster it takes a moment until every server knows of a new consumer.
            Some(StatusCode::NO_RESPONDERS) if unheard < silence => {
                tokio::time::sleep(PAUSE).await;
                unheard += PAUSE;
                coming -= most.min(coming);
                continue;
            }
            Some(status) => {
                return Err(failed(message.description.as_deref().unwrap_or(&status.to_string())));
            }
        }
        let Some(place) = message.reply.as_deref().and_then(Place::read) else {
            return Err(failed("a message without its place in the stream"));
        };
        count += 1;
        coming -= 1;
        unheard = Duration::ZERO;
        if place.consumer_sequence != count {
            return Err(failed("messages were lost on the way"));
        }
        each(&message, place.stream_sequence)?;
        if place.stream_sequence >= end {
            let took = started.elapsed();
            if took > PROGRESS {
                info!(stream = name, messages = count, ?took, "read back");
            }
            return Ok(Some(place.stream_sequence));
        }
        if count.is_multiple_of(1000) && said.elapsed() > PROGRESS {
            said = Instant::now();
            info!(stream = name, messages = count, pending = place.pending, "reading the state back");
        }
    }
}

/// Where a message lies, in the subject for its acknowledgement.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    stream_sequence: u64,
    /// How many the consumer has delivered with it, from 1.
    consumer_sequence: u64,
    /// How many are left.
    pending: u64,
}

impl Place {
    /// `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer sequence>.<time>.<pending>`;
    /// newer servers have domain and account before the stream, and perhaps a token in the end.
    ///
    /// Source: NATS architecture decision record 15.
    fn read(subject: &str) -> Option<Self> {
        let mut tokens = [""; 12];
        let mut count = 0;
        for token in subject.split('.') {
            *tokens.get_mut(count)? = token;
            count += 1;
        }
        let numbers = match count {
            9 => &tokens[5..9],
            11 | 12 => &tokens[7..11],
            _ => return None,
        };
        if tokens[..2] != ["$JS", "ACK"] {
            return None;
        }
        let [stream_sequence, consumer_sequence, _, pending] = numbers else { return None };
        Some(Self {
            stream_sequence: stream_sequence.parse().ok()?,
            consumer_sequence: consumer_sequence.parse().ok()?,
            pending: pending.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_of_old_servers_and_new_ones() {
        let place = |stream_sequence, consumer_sequence, pending| {
            Some(Place { stream_sequence, consumer_sequence, pending })
        };
        for (subject, expected) in [
            ("$JS.ACK.BILLING.abc.1.7.3.1700000000000000000.12", place(7, 3, 12)),
            ("$JS.ACK._.HASH.BILLING.abc.1.7.3.1700000000000000000.12", place(7, 3, 12)),
            ("$JS.ACK.hub.HASH.BILLING.abc.1.7.3.1700000000000000000.12.token", place(7, 3, 12)),
            ("$JS.ACK.BILLING.abc.1.7.3.1700000000000000000.12.13", None),
            ("$JS.ACK.BILLING.abc.1.x.3.1700000000000000000.12", None),
            ("$JS.ACK.1.2.3.4.5.6.7.8.9.10.11", None),
            ("_INBOX.BILLING.abc.1.7.3.1700000000000000000.12.1", None),
            ("", None),
        ] {
            assert_eq!(Place::read(subject), expected, "{subject}");
        }
    }
}
