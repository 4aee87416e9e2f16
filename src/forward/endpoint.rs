//! An endpoint: requests to it, tried until they are taken, refused or given up.
//!
//! What is next and what becomes of an event that was not taken is not decided here.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use reqwest::{
    Client, Response, Url,
    header::{HeaderMap, HeaderValue, LOCATION, RETRY_AFTER},
};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{
    binding::{Content, batch, structured},
    retry::{RetryPolicy, Verdict, judge, retry_after},
    sign::Signer,
};
use crate::{
    admin::{Health, Readiness},
    clock::Clock,
    consume::Event,
    event::uuid_v5,
    http,
    telemetry::Metrics,
};

/// An endpoint that fails is told of at most so often.
const QUIET: Duration = Duration::from_secs(10);

/// Of an answer's body so much is read: the endpoint's words of why it refused. More costs the
/// connection, which is then not used again.
const LONGEST_ANSWER: usize = 16 * 1024;

/// And so long it is waited for after the event was taken.
const LONGEST_FAREWELL: Duration = Duration::from_secs(1);

/// And so much of it is told.
const LONGEST_EXCERPT: usize = 200;

/// An event on its way.
#[derive(Debug)]
pub(super) struct Parcel {
    /// In binary mode the event as a request, or why it cannot be one. The others are made of the JSON
    /// when they are sent.
    pub(super) binary: Option<Box<Result<Content, String>>>,
    /// Its JSON form.
    pub(super) json: Bytes,
}

impl Parcel {
    /// An attribute of the event, which was read before.
    pub(super) fn attribute(&self, name: &str) -> String {
        let event = Event::read(&self.json).ok();
        event.and_then(|event| event.get(name).map(str::to_owned)).unwrap_or_default()
    }
}

/// What became of an event.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Taken.
    Delivered,
    /// Not taken, and not to be tried again.
    Failed(Failure),
    /// Nothing will be taken here: the address is wrong.
    Moved(String),
    /// Not known yet: there was no time.
    Abandoned,
}

/// Why an event was not taken.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Whether it was refused; else it was given up after trying long enough.
    pub refused: bool,
    /// In words.
    pub reason: String,
    /// The last answer's; `None` where there was none.
    pub status: Option<u16>,
    /// Requests made.
    pub attempts: u32,
    /// From the first request to the last answer.
    pub failing: Duration,
}

/// Where to, and how.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) client: Client,
    pub(super) url: Url,
    /// Whether an event that goes alone is a batch, too.
    pub(super) batched: bool,
    /// With every request.
    pub(super) headers: HeaderMap,
    pub(super) signer: Option<Signer>,
    pub(super) retry: RetryPolicy,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    pub(super) readiness: Readiness,
    /// The forwarder's, for readiness.
    pub(super) name: String,
    /// Whether what is not taken is put aside; else nothing of a key may overtake it.
    pub(super) goes_on: bool,
    /// No attempt begins once it is cancelled.
    pub(super) stop: CancellationToken,
    pub(super) mood: Mutex<Mood>,
}

/// How the endpoint is doing, for all deliveries together.
#[derive(Debug, Default)]
pub(super) struct Mood {
    /// It asked not to be bothered before.
    closed_until: Option<Instant>,
    /// Since when it fails.
    failing_since: Option<Instant>,
    last_told: Option<Instant>,
}

/// What one request came to.
enum Attempt {
    Taken,
    NotNow { reason: String, status: Option<u16>, after: Option<Duration> },
    Refused { reason: String, status: u16 },
    Moved(String),
}

impl Endpoint {
    /// Delivers events that go together, in order. A batch that is refused is taken apart: which of
    /// its events was meant only shows when each goes alone.
    pub(super) async fn deliver<'a>(
        &self,
        parcels: impl ExactSizeIterator<Item = &'a Parcel> + Clone,
    ) -> Vec<Outcome> {
        if parcels.len() > 1 {
            let content = batch(parcels.clone().map(|parcel| &*parcel.json));
            match self.try_until_taken(parcels.clone(), &content).await {
                Outcome::Delivered => return parcels.map(|_| Outcome::Delivered).collect(),
                Outcome::Failed(Failure { refused: true, reason, .. }) => {
                    debug!(events = parcels.len(), "a batch was refused, each goes alone: {reason}");
                }
                Outcome::Failed(failure) => {
                    return parcels.map(|_| Outcome::Failed(failure.clone())).collect();
                }
                Outcome::Moved(why) => return parcels.map(|_| Outcome::Moved(why.clone())).collect(),
                Outcome::Abandoned => return parcels.map(|_| Outcome::Abandoned).collect(),
            }
        }
        let mut outcomes = Vec::with_capacity(parcels.len());
        for parcel in parcels {
            let outcome = match outcomes.last() {
                None | Some(Outcome::Delivered) => self.deliver_one(parcel).await,
                Some(Outcome::Failed(_)) if self.goes_on => self.deliver_one(parcel).await,
                Some(_) => Outcome::Abandoned,
            };
            outcomes.push(outcome);
        }
        outcomes
    }

    async fn deliver_one(&self, parcel: &Parcel) -> Outcome {
        let one = std::iter::once(parcel);
        match parcel.binary.as_deref() {
            // A batch of one: what goes alone after its batch was refused.
            None if self.batched => self.try_until_taken(one, &batch([&*parcel.json])).await,
            None => self.try_until_taken(one, &structured(parcel.json.clone())).await,
            Some(Ok(content)) => self.try_until_taken(one, content).await,
            Some(Err(why)) => Outcome::Failed(Failure {
                refused: true,
                reason: why.clone(),
                status: None,
                attempts: 0,
                failing: Duration::ZERO,
            }),
        }
    }

    async fn try_until_taken<'a>(
        &self,
        parcels: impl ExactSizeIterator<Item = &'a Parcel> + Clone,
        content: &Content,
    ) -> Outcome {
        // Only a signature has it, of every attempt the same.
        let id = self.signer.as_ref().map(|_| message_id(parcels));
        let mut began = None;
        let mut attempts = 0;
        let mut pause_until = None;
        loop {
            if !self.wait(pause_until).await {
                return Outcome::Abandoned;
            }
            let began = *began.get_or_insert_with(Instant::now);
            attempts += 1;
            let (reason, status, after) = match self.attempt(id.as_deref(), content).await {
                Attempt::Taken => {
                    self.metrics.forward_attempt("taken");
                    self.cheer();
                    return Outcome::Delivered;
                }
                Attempt::Refused { reason, status } => {
                    self.metrics.forward_attempt("refused");
                    return Outcome::Failed(Failure {
                        refused: true,
                        reason,
                        status: Some(status),
                        attempts,
                        failing: began.elapsed(),
                    });
                }
                Attempt::Moved(why) => {
                    self.metrics.forward_attempt("moved");
                    return Outcome::Moved(why);
                }
                Attempt::NotNow { reason, status, after } => (reason, status, after),
            };
            self.metrics.forward_attempt("not_now");
            let failing = began.elapsed();
            let (_, chance) = Uuid::new_v4().as_u64_pair();
            if self.retry.is_over(failing) {
                return Outcome::Failed(Failure { refused: false, reason, status, attempts, failing });
            }
            // An endpoint that asks for no pause at all, or whose clock is behind, gets one all the same.
            let asked_for =
                after.filter(|after| !after.is_zero()).map(|after| after.min(self.retry.left(failing)));
            let pause = asked_for.unwrap_or_else(|| self.retry.pause(attempts, chance));
            debug!(attempts, ?pause, "not taken: {reason}");
            self.complain(&reason, pause, asked_for.is_some());
            pause_until = Some(Instant::now() + pause);
        }
    }

    /// Waits for its own pause and for the endpoint's; `false` when there is no time for an attempt.
    async fn wait(&self, own: Option<Instant>) -> bool {
        loop {
            let closed = self.mood().closed_until;
            let until = own.max(closed);
            if self.stop.is_cancelled() {
                return false;
            }
            let Some(until) = until.filter(|until| *until > Instant::now()) else { return true };
            tokio::select! {
                () = self.stop.cancelled() => return false,
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    async fn attempt(&self, id: Option<&str>, content: &Content) -> Attempt {
        let mut headers = content.headers.clone();
        headers.extend(self.headers.clone());
        if let (Some(signer), Some(id)) = (&self.signer, id) {
            let timestamp = self.clock.now().as_second();
            let signature = signer.signature(id, timestamp, &content.body);
            for (name, value) in [("webhook-id", id), ("webhook-signature", &signature)] {
                // Base64, and an id that is checked where it is read.
                if let Ok(value) = HeaderValue::from_str(value) {
                    headers.insert(name, value);
                }
            }
            headers.insert("webhook-timestamp", HeaderValue::from(timestamp));
        }
        let request = self.client.post(self.url.clone()).headers(headers).body(content.body.clone());
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                return Attempt::NotNow { reason: http::reason(&error), status: None, after: None };
            }
        };
        let status = response.status();
        match judge(status.as_u16()) {
            Verdict::Taken => {
                // Read to its end, so that the connection can be used again. It was taken already,
                // whatever else is said, and however slowly.
                timeout(LONGEST_FAREWELL, read_some(response)).await.ok();
                Attempt::Taken
            }
            Verdict::NotNow => {
                let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                let after = after.and_then(|value| retry_after(value, self.clock.now()));
                let reason = words(status, response).await;
                Attempt::NotNow { reason, status: Some(status.as_u16()), after }
            }
            Verdict::Refused => {
                Attempt::Refused { reason: words(status, response).await, status: status.as_u16() }
            }
            Verdict::Moved => {
                let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
                let to = to.and_then(|to| self.url.join(to).ok()).map(|to| format!(" to `{}`", label(&to)));
                Attempt::Moved(format!(
                    "the endpoint answered {status}, a redirect{}",
                    to.unwrap_or_default()
                ))
            }
        }
    }

    /// An attempt failed: all others wait, too, where the endpoint asked for it.
    fn complain(&self, reason: &str, pause: Duration, for_all: bool) {
        let now = Instant::now();
        let mut mood = self.mood();
        if for_all {
            mood.closed_until = mood.closed_until.max(Some(now + pause));
        }
        let since = *mood.failing_since.get_or_insert(now);
        let tell = mood.last_told.is_none_or(|told| now - told >= QUIET);
        if tell {
            mood.last_told = Some(now);
        }
        drop(mood);
        self.readiness.set(&self.name, Health::Failing(reason.to_owned()));
        if tell {
            let (failing, pause) = (seconds(now - since), seconds(pause));
            warn!(failing, pause, "the endpoint does not take events now: {reason}");
        }
    }

    fn cheer(&self) {
        let mut mood = self.mood();
        if let Some(since) = mood.failing_since.take() {
            mood.last_told = None;
            drop(mood);
            info!(after = seconds(since.elapsed()), "the endpoint takes events again");
            self.readiness.set(&self.name, Health::Ready);
        }
    }

    fn mood(&self) -> std::sync::MutexGuard<'_, Mood> {
        self.mood.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an endpoint can tell a request again by: an event's `id`; of several, one made of theirs.
fn message_id<'a>(parcels: impl ExactSizeIterator<Item = &'a Parcel>) -> String {
    let single = parcels.len() == 1;
    let ids = parcels.map(|parcel| parcel.attribute("id")).collect::<Vec<_>>().join("\n");
    if single { ids } else { uuid_v5(Uuid::NAMESPACE_URL, ids.as_bytes()).to_string() }
}

/// A URL for logs and dead letters: user, password and query may be secrets.
pub(super) fn label(url: &Url) -> String {
    let mut url = url.clone();
    let hidden = url.query().is_some();
    url.set_query(None);
    url.set_fragment(None);
    // Fails for URLs without a host, which have no user either.
    url.set_username("").and_then(|()| url.set_password(None)).unwrap_or_default();
    if hidden { format!("{url}?...") } else { url.to_string() }
}

fn seconds(duration: Duration) -> String {
    format!("{}.{}s", duration.as_secs(), duration.subsec_millis() / 100)
}

/// The status and the beginning of what the endpoint said, on one line.
async fn words(status: reqwest::StatusCode, response: Response) -> String {
    let body = read_some(response).await;
    let text = String::from_utf8_lossy(&body);
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut said: String = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((cut, _)) = said.char_indices().nth(LONGEST_EXCERPT) {
        said.truncate(cut);
        said.push_str("...");
    }
    if said.is_empty() { format!("it answered {status}") } else { format!("it answered {status}: {said}") }
}

async fn read_some(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < LONGEST_ANSWER {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            // What is said after the status changes nothing.
            Ok(None) | Err(_) => break,
        }
    }
    body
}
