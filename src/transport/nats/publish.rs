//! Publishing: many in flight, each refused if its key moved, none sent again without looking.
//!
//! | the answer | what it means | what follows |
//! |---|---|---|
//! | acknowledged | stored at that sequence, which is the key's state | |
//! | duplicate, wrong last sequence, id in process, no responders, none in time | no telling | the subject's last message is read from the leader |
//! | ... it is this event | stored | |
//! | ... it is older than what the event was decided over, or there is no stream | messages were lost | `Regressed` |
//! | ... it is what the event was decided over, and the answer was "duplicate" | the id outlived its message | published without an id |
//! | ... it is that, and there was no answer | the server is slow, or stores nothing any more | `Unknown`: recover, decide again |
//! | ... anything else | a rival was here, or nothing was stored | `Conflict`: recover, decide again |
//! | too large | refused for ever, this event alone | |
//!
//! Servers differ in the order of their checks: 2.9 and clusters call a stored publish a duplicate,
//! a newer single server calls it a wrong last sequence. So neither is believed.

use std::pin::pin;

use async_nats::{
    HeaderMap,
    jetstream::{
        ErrorCode,
        context::{PublishError, PublishErrorKind},
        message::PublishMessage,
        stream::Stream as JetStreamStream,
    },
};
use futures_util::{Stream, StreamExt as _, stream};
use uuid::Uuid;

use super::{
    client::{JetStream, refusal},
    flight::{Answer, Flight, Item, Landed},
    stored,
};
use crate::transport::{Delivery, TransportError, TransportErrorKind as Kind};

/// What to do where a server takes messages and stores none: newer ones fall silent at a full disk.
const STORES_NOTHING: &str = "a server that is busy stores it later, which is noticed; one whose disk is full or fails stores nothing until it is started anew: its log tells";

/// How many subjects are looked up side by side.
const LOOK_UPS: usize = 64;

/// What is known of one message.
#[derive(Debug)]
enum Fate {
    NotSent,
    Stored(u64),
    Refused(String),
    Doubt(Box<Doubt>),
    Failed(TransportError),
}

/// It may be stored, or not.
#[derive(Debug)]
struct Doubt {
    item: Item,
    why: Why,
}

/// What was said to a message in doubt.
#[derive(Debug)]
enum Why {
    Duplicate,
    Other(String),
    /// Nothing, in the words for it.
    Silence(String),
}

/// Where and how to publish.
pub(super) struct Publisher<'a> {
    pub(super) js: &'a JetStream,
    pub(super) stream: &'a JetStreamStream<()>,
    pub(super) name: &'a str,
    pub(super) timeout: std::time::Duration,
    pub(super) in_flight: usize,
    /// Off only to show in tests what would happen.
    pub(super) compare_and_set: bool,
}

impl Publisher<'_> {
    /// Stores so many messages or says why not; what was stored is then found by the next recovery.
    /// Each is made a little ahead of its turn and let go once it is acknowledged: encoding goes on while
    /// the server works, and memory does not hold a batch twice.
    pub(super) async fn publish(
        &self,
        count: usize,
        items: impl Stream<Item = Result<(Item, HeaderMap), TransportError>> + Send,
    ) -> Result<Vec<Delivery>, TransportError> {
        let mut fates = self.send(count, items).await;
        self.look_up(&mut fates).await;
        if !self.compare_and_set {
            // The control: an id seen before is taken as stored.
            for fate in &mut fates {
                if matches!(fate, Fate::Doubt(doubt) if matches!(doubt.why, Why::Duplicate)) {
                    *fate = Fate::Stored(0);
                }
            }
        }
        verdict(fates)
    }

    /// Sends in order, with so many unacknowledged; stops at the first trouble.
    async fn send(
        &self,
        count: usize,
        items: impl Stream<Item = Result<(Item, HeaderMap), TransportError>> + Send,
    ) -> Vec<Fate> {
        let mut fates: Vec<Fate> = (0..count).map(|_| Fate::NotSent).collect();
        let mut flight = match Flight::begin(self.js, self.timeout).await {
            Ok(flight) => flight,
            Err(error) => return vec![Fate::Failed(error)],
        };
        let mut trouble = false;
        let mut items = pin!(items.enumerate());
        while let Some((index, item)) = items.next().await {
            if flight.len() >= self.in_flight {
                let mut landed = flight.next().await;
                while let Some(one) = landed {
                    trouble |= self.note(one, &mut fates);
                    landed = flight.at_hand();
                }
            }
            if trouble {
                break;
            }
            let (item, headers) = match item {
                Ok(item) => item,
                Err(error) => {
                    fates[index] = Fate::Failed(error);
                    break;
                }
            };
            if let Some(not_sent) = flight.send(index, item, headers).await {
                trouble |= self.note(not_sent, &mut fates);
            }
        }
        while let Some(landed) = flight.next().await {
            self.note(landed, &mut fates);
        }
        fates
    }

    /// Notes what became of a message. Whether it is trouble.
    fn note(&self, (index, item, answer): Landed, fates: &mut [Fate]) -> bool {
        fates[index] = self.fate(item, answer);
        !matches!(fates[index], Fate::Stored(_) | Fate::Refused(_))
    }

    fn fate(&self, item: Item, answer: Answer) -> Fate {
        let doubt = |item, why| Fate::Doubt(Box::new(Doubt { item, why }));
        match answer {
            Answer::Stored(sequence) => Fate::Stored(sequence),
            Answer::Duplicate => doubt(item, Why::Duplicate),
            Answer::Refused(refused) => match refused.error_code() {
                ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM => {
                    Fate::Refused(refused.to_string())
                }
                // 10164: the wrong last sequence of newer servers, in other words.
                ErrorCode::STREAM_WRONG_LAST_SEQUENCE
                | ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT
                | ErrorCode(10164) => doubt(item, Why::Other(refused.to_string())),
                _ => Fate::Failed(refusal("could not publish", &refused)),
            },
            Answer::TooLarge => Fate::Refused(format!(
                "it is larger than the {} bytes the server takes",
                self.js.client.max_payload()
            )),
            Answer::Silence => {
                let silence =
                    self.js.silence("could not publish", &PublishError::new(PublishErrorKind::TimedOut));
                if silence.kind == Kind::Rejected {
                    Fate::Failed(silence)
                } else {
                    doubt(item, Why::Silence(silence.message))
                }
            }
            Answer::Other(why) => doubt(item, Why::Other(why)),
        }
    }

    /// Asks the leader about everything in doubt, and publishes again what provably is not there
    /// and was refused for its id alone.
    async fn look_up(&self, fates: &mut [Fate]) {
        let truths = {
            let known: &[Fate] = fates;
            let mut answers = stream::iter(0..known.len())
                .filter(|index| std::future::ready(matches!(known[*index], Fate::Doubt(_))))
                .map(|index| async move {
                    match &known[index] {
                        Fate::Doubt(doubt) => (index, self.truth(doubt).await),
                        _ => (index, Ok(None)),
                    }
                })
                .buffer_unordered(LOOK_UPS);
            let mut truths = Vec::new();
            while let Some((index, truth)) = answers.next().await {
                match truth {
                    Ok(Some(fate)) => truths.push((index, fate)),
                    Ok(None) => {}
                    Err(error) => {
                        if matches!(error.kind, Kind::Rejected | Kind::Regressed) {
                            truths.push((index, Fate::Failed(error)));
                        }
                        // Without an answer to the first question there is none to the others.
                        break;
                    }
                }
            }
            truths
        };
        for (index, fate) in truths {
            fates[index] = fate;
        }
    }

    /// What the leader has on the subject of a message in doubt; `None`: something else, and still
    /// no telling.
    async fn truth(&self, doubt: &Doubt) -> Result<Option<Fate>, TransportError> {
        let item = &doubt.item;
        let last = self.js.last(self.stream, &item.subject).await?;
        let sequence = last.as_ref().map_or(0, |last| last.sequence);
        if last.is_some_and(|last| id(&last.headers, &last.payload) == Some(item.id)) {
            return Ok(Some(Fate::Stored(sequence)));
        }
        if sequence < item.expected {
            let what = format!("the last message on `{}` is gone", item.subject);
            return Ok(Some(Fate::Failed(TransportError::new(Kind::Regressed, what))));
        }
        match &doubt.why {
            _ if sequence != item.expected => Ok(None),
            Why::Duplicate if self.compare_and_set => Ok(self.resend(item).await),
            // The leader answers, and no rival was there: what is missing is that anything is stored.
            Why::Silence(what) => {
                let what = format!("{what}; the server answers, and has not stored it");
                Ok(Some(Fate::Failed(TransportError::new(Kind::Unknown, what).with_hint(STORES_NOTHING))))
            }
            _ => Ok(None),
        }
    }

    /// Publishes what was purged within the duplicate window: its id is still remembered. The
    /// expected sequence alone keeps it from being stored twice. Not stored is still no telling.
    async fn resend(&self, item: &Item) -> Option<Fate> {
        let headers = item.headers(self.name, self.compare_and_set, false);
        let message = PublishMessage::build().payload(item.payload.clone()).headers(headers);
        let sent = self.js.context.send_publish(item.subject.clone(), message).await;
        match sent.ok()?.await {
            Ok(ack) if !ack.duplicate => Some(Fate::Stored(ack.sequence)),
            _ => None,
        }
    }
}

/// The id of an event; of a state of the bucket, which is no event, the id it was sent with.
fn id(headers: &HeaderMap, payload: &[u8]) -> Option<Uuid> {
    let sent = || headers.get("Nats-Msg-Id")?.as_str().parse().ok();
    stored::id(Some(headers), payload).or_else(sent)
}

/// Deliveries, or the gravest trouble. The batch is no transaction, so anything but a refused event
/// is looked at anew by the caller.
fn verdict(fates: Vec<Fate>) -> Result<Vec<Delivery>, TransportError> {
    let stored = fates.iter().filter(|fate| matches!(fate, Fate::Stored(_))).count();
    let mut deliveries = Vec::with_capacity(fates.len());
    let mut trouble: Option<TransportError> = None;
    let gravity = |kind: Kind| match kind {
        Kind::Rejected => 4,
        Kind::Regressed => 3,
        Kind::Unavailable => 2,
        _ => 1,
    };
    for fate in fates {
        let error = match fate {
            Fate::Stored(sequence) => {
                deliveries.push(Delivery::Stored(sequence));
                continue;
            }
            Fate::Refused(reason) => {
                deliveries.push(Delivery::Rejected(reason));
                continue;
            }
            Fate::NotSent => continue,
            Fate::Doubt(doubt) => {
                let Doubt { item, why } = *doubt;
                let why = match why {
                    Why::Duplicate => "the server saw its id before".to_owned(),
                    Why::Other(why) | Why::Silence(why) => why,
                };
                let what = format!("could not prove what is stored on `{}`: {why}", item.subject);
                TransportError::new(Kind::Conflict, what)
            }
            Fate::Failed(error) => error,
        };
        if trouble.as_ref().is_none_or(|known| gravity(known.kind) < gravity(error.kind)) {
            trouble = Some(error);
        }
    }
    match trouble {
        None => Ok(deliveries),
        // Some of it is stored: to be found before anything is decided again.
        Some(error) if error.kind == Kind::Unavailable && stored > 0 => {
            Err(TransportError { kind: Kind::Unknown, ..error })
        }
        Some(error) => Err(error),
    }
}
