//! Reading back: every message that matters of a filter, in order, up to a proven end.

use std::time::{Duration, Instant};

use async_nats::jetstream::{
    Message,
    consumer::{DeliverPolicy, pull},
    stream::{ConsumerErrorKind, Stream},
};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::timeout;
use tracing::info;

use super::{
    client::{JetStream, refusal},
    subject,
};
use crate::transport::{TransportError, TransportErrorKind as Kind};

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
    let newest = js.last(stream, ">").await?.filter(|last| subject::matches(filter, &last.subject));
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
    let mut messages = consumer.messages().await.map_err(|error| js.silence(&what(), &error))?;
    let (started, mut said, mut count) = (Instant::now(), Instant::now(), 0_u64);
    loop {
        // What is here already needs no clock; a clock for each costs more than the rest.
        let next = match messages.next().now_or_never() {
            Some(next) => next,
            None => timeout(silence, messages.next()).await.map_err(|elapsed| {
                let what = format!("{} up to message {end}, nothing came for {silence:?}", what());
                js.silence(&what, &elapsed)
            })?,
        };
        let message = match next {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Err(js.silence(&what(), &error)),
            None => {
                return Err(TransportError::new(Kind::Unavailable, format!("{}: it ended early", what())));
            }
        };
        let (sequence, pending) = message
            .info()
            .map(|info| (info.stream_sequence, info.pending))
            .map_err(|error| TransportError::new(Kind::Unavailable, format!("{}: {error}", what())))?;
        each(&message, sequence)?;
        count += 1;
        if sequence >= end {
            let took = started.elapsed();
            if took > PROGRESS {
                info!(stream = name, messages = count, ?took, "read back");
            }
            return Ok(Some(sequence));
        }
        if count.is_multiple_of(1000) && said.elapsed() > PROGRESS {
            said = Instant::now();
            info!(stream = name, messages = count, pending, "reading the state back");
        }
    }
}
