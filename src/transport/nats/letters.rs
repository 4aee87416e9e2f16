//! Publishes on a subject of somebody else's, one acknowledged message at a time: what could not be
//! forwarded.
//!
//! A stream must take the subject, and it must be none of this program's own.

use async_nats::{
    HeaderMap,
    jetstream::{context::PublishErrorKind, message::PublishMessage},
};
use bytes::Bytes;

use super::{
    Nats,
    client::{publish_refusal, refusal},
};
use crate::{
    config::NatsConfig,
    transport::{TransportError, TransportErrorKind as Kind},
};

/// The subject and the connection.
pub(crate) struct LetterSubject {
    nats: Nats,
    subject: String,
}

impl LetterSubject {
    /// Connects, and finds the stream that takes the subject.
    ///
    /// # Errors
    /// `Rejected` when no stream does, or the subject is one of this program's events.
    pub(crate) async fn open(config: &NatsConfig, subject: &str) -> Result<Self, TransportError> {
        let rejected = |what: String, hint: &str| TransportError::new(Kind::Rejected, what).with_hint(hint);
        let plain = |token: &str| {
            !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic() && !b"*>".contains(&b))
        };
        if !subject.split('.').all(plain) {
            let what = format!("`{subject}` is no subject to publish on");
            return Err(rejected(what, "tokens joined by dots, without `*` and `>`"));
        }
        if subject.strip_prefix(&config.subject_prefix).is_some_and(|rest| rest.starts_with('.')) {
            let what = format!("subject `{subject}` cannot take dead letters: it lies among the events");
            return Err(rejected(what, "choose one that does not begin with `nats.subject_prefix`"));
        }
        let nats = Nats::new(config.clone());
        let js = nats.js().await?;
        match js.context.stream_by_subject(subject).await {
            Ok(stream) if stream == config.stream => {
                let what = format!(
                    "subject `{subject}` cannot take dead letters: it lies in the stream `{stream}` of the events"
                );
                Err(rejected(what, "give dead letters a stream of their own"))
            }
            Ok(_) => Ok(Self { nats, subject: subject.to_owned() }),
            Err(error) => match error.kind() {
                async_nats::jetstream::context::GetStreamByNameErrorKind::NotFound => {
                    let what =
                        format!("no stream takes subject `{subject}`, so nothing published on it is kept");
                    let hint =
                        format!("create one: `nats stream add DEAD_LETTERS --subjects {subject} --defaults`");
                    Err(rejected(what, &hint))
                }
                _ => {
                    Err(js.silence(&format!("could not ask which stream takes subject `{subject}`"), &error))
                }
            },
        }
    }

    /// Publishes a message; a stream has it when this returns. Messages of one id within the stream's
    /// duplicate window are one.
    ///
    /// # Errors
    /// Whatever kept the stream from acknowledging it within the configured time.
    pub(crate) async fn write(
        &self,
        id: &str,
        headers: &[(&str, String)],
        payload: Bytes,
    ) -> Result<(), TransportError> {
        let js = self.nats.js().await?;
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.as_str());
        }
        let what = format!("could not publish on `{}`", self.subject);
        let message = PublishMessage::build().payload(payload).headers(map).message_id(id);
        let sent = match js.context.send_publish(self.subject.clone(), message).await {
            Ok(acknowledgement) => acknowledgement.await,
            Err(error) => Err(error),
        };
        sent.map(drop).map_err(|error| match publish_refusal(&error) {
            Some(refused) => refusal(&what, refused),
            None if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                TransportError::new(Kind::Rejected, format!("{what}: {error}"))
            }
            None => js.silence(&what, &error),
        })
    }
}
