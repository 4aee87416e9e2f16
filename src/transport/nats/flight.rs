//! Messages under way: sent in order, so many at once, each answered on a subject of its own.
//!
//! The client's own publishing keeps a channel, a permit, a boxed future and a timer for every message.
//! Here one subscription takes all answers, many at a turn, and the oldest message has the only timer.
//! What an answer means is decided in `publish`.

use std::{borrow::Cow, collections::VecDeque, pin::pin, time::Duration};

use async_nats::{
    Client, HeaderMap, Message, StatusCode, Subject, Subscriber,
    client::{PublishError, PublishErrorKind},
    header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_EXPECTED_STREAM, NATS_MESSAGE_ID},
    jetstream::Error as ApiError,
};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::client::JetStream;
use crate::transport::TransportError;

/// A message to be stored only if `expected` is still the last on its subject.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) subject: Subject,
    pub(super) id: Uuid,
    pub(super) expected: u64,
    pub(super) headers: Vec<(Cow<'static, str>, String)>,
    pub(super) payload: Bytes,
}

impl Item {
    /// What it is sent with to a stream; off `compare_and_set`, only to show in tests what would happen.
    pub(super) fn headers(&self, stream: &str, compare_and_set: bool, with_id: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.insert(&**name, &**value);
        }
        headers.insert(NATS_EXPECTED_STREAM, stream);
        if compare_and_set {
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, self.expected.to_string());
        }
        if with_id {
            headers.insert(NATS_MESSAGE_ID, self.id.to_string());
        }
        headers
    }
}

/// What came back to a message.
#[derive(Debug)]
pub(super) enum Answer {
    /// Stored at this sequence.
    Stored(u64),
    /// Its id was seen before.
    Duplicate,
    /// Not stored, and why.
    Refused(ApiError),
    /// Larger than the server takes, so it was not sent.
    TooLarge,
    /// Nothing in time.
    Silence,
    /// Anything else, in its words.
    Other(String),
}

/// An answer of JetStream's to a publish.
#[derive(Deserialize)]
struct Reply {
    error: Option<ApiError>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
}

/// A message that was sent and not yet answered.
struct Sent {
    index: usize,
    at: Instant,
    item: Item,
}

/// A message's number in its batch, the message, and what came back.
pub(super) type Landed = (usize, Item, Answer);

/// The messages of a batch that are under way.
pub(super) struct Flight<'a> {
    client: &'a Client,
    timeout: Duration,
    /// Where answers come: this, and the number of the message among those that were sent.
    inbox: String,
    answers: Subscriber,
    /// From the oldest unanswered one on; `None` was answered before an older one.
    waiting: VecDeque<Option<Sent>>,
    /// How many were sent before the first of `waiting`.
    gone: usize,
}

impl<'a> Flight<'a> {
    pub(super) async fn begin(js: &'a JetStream, timeout: Duration) -> Result<Self, TransportError> {
        let mut inbox = js.client.new_inbox();
        inbox.push('.');
        let failed = |error: &dyn std::error::Error| js.silence("could not ask for answers", error);
        let answers = tokio::time::timeout(timeout, js.client.subscribe(format!("{inbox}*"))).await;
        let answers = answers.map_err(|elapsed| failed(&elapsed))?.map_err(|error| failed(&error))?;
        Ok(Self { client: &js.client, timeout, inbox, answers, waiting: VecDeque::new(), gone: 0 })
    }

    /// How many are under way.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Sends a message. What it came to, where it was not sent.
    pub(super) async fn send(&mut self, index: usize, item: Item, headers: HeaderMap) -> Option<Landed> {
        let at = Instant::now();
        let reply = Subject::from(format!("{}{}", self.inbox, self.gone + self.waiting.len()));
        let (subject, payload) = (item.subject.clone(), item.payload.clone());
        let mut sending = pin!(self.client.publish_with_reply_and_headers(subject, reply, headers, payload));
        let sent = match sending.as_mut().now_or_never() {
            Some(sent) => sent,
            // The client takes no more for now; where it is not connected, it does not for long.
            None => match timeout_at(at + self.timeout, sending).await {
                Ok(sent) => sent,
                Err(_) => return Some((index, item, Answer::Silence)),
            },
        };
        match sent {
            Ok(()) => {
                self.waiting.push_back(Some(Sent { index, at, item }));
                None
            }
            Err(error) => Some((index, item, not_sent(&error))),
        }
    }

    /// The next answer; `None` where nothing is under way. The time of each counts from when it was
    /// sent, so a dead server costs it once and not for every message.
    pub(super) async fn next(&mut self) -> Option<Landed> {
        loop {
            let oldest = self.waiting.front()?.as_ref().map(|sent| sent.at)?;
            match timeout_at(oldest + self.timeout, self.answers.next()).await {
                Ok(Some(message)) => {
                    if let Some(landed) = self.land(&message) {
                        return Some(landed);
                    }
                }
                Ok(None) => return self.take(0, Answer::Other("the connection is closed".to_owned())),
                Err(_) => return self.take(0, Answer::Silence),
            }
        }
    }

    /// An answer that is already here: they come many at a time.
    pub(super) fn at_hand(&mut self) -> Option<Landed> {
        loop {
            let message = self.answers.next().now_or_never()??;
            if let Some(landed) = self.land(&message) {
                return Some(landed);
            }
        }
    }

    /// Whose answer it is; `None` for one that is waited for no more.
    fn land(&mut self, message: &Message) -> Option<Landed> {
        let number: usize = message.subject.get(self.inbox.len()..)?.parse().ok()?;
        self.take(number.checked_sub(self.gone)?, answer(message))
    }

    fn take(&mut self, place: usize, answer: Answer) -> Option<Landed> {
        let Sent { index, item, .. } = self.waiting.get_mut(place)?.take()?;
        while matches!(self.waiting.front(), Some(None)) {
            self.waiting.pop_front();
            self.gone += 1;
        }
        Some((index, item, answer))
    }
}

fn not_sent(error: &PublishError) -> Answer {
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => Answer::TooLarge,
        _ => Answer::Other(error.to_string()),
    }
}

fn answer(message: &Message) -> Answer {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Answer::Other("no stream found for given subject".to_owned());
    }
    match serde_json::from_slice(&message.payload) {
        Ok(Reply { error: Some(error), .. }) => Answer::Refused(error),
        Ok(Reply { duplicate: true, .. }) => Answer::Duplicate,
        Ok(Reply { seq, .. }) if seq > 0 => Answer::Stored(seq),
        Ok(_) => Answer::Other("an answer without a sequence".to_owned()),
        Err(error) => Answer::Other(format!("an answer that is none: {error}")),
    }
}
