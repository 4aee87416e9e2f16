//! A producer, and its acknowledgements: they come many at a time and are taken so.

use std::{
    error::Error,
    mem,
    sync::{Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Message as _,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{DeliveryResult, ToBytes},
    producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer},
};

use super::{context::Context, errors::code, lock};

/// Its own thread takes what librdkafka tells.
pub(super) type Producer = ThreadedProducer<Acknowledgements>;

/// A record to send, with the number it is acknowledged by.
pub(super) type Numbered<'a, P> = BaseRecord<'a, [u8], P, usize>;

/// How often is looked whether to go on waiting.
const LOOK: Duration = Duration::from_millis(1);

/// How long the next try waits while the queue is full.
const FULL: Duration = Duration::from_millis(20);

/// What became of a record.
pub(super) struct Acknowledgement {
    pub(super) number: usize,
    /// Partition and offset, or why it has none.
    pub(super) outcome: Result<(i32, u64), KafkaError>,
}

/// What a producer's thread was told and nobody has taken yet.
pub(super) struct Acknowledgements {
    context: Context,
    arrived: Mutex<Vec<Acknowledgement>>,
    some: Condvar,
}

impl Acknowledgements {
    pub(super) fn new(context: Context) -> Self {
        Self { context, arrived: Mutex::default(), some: Condvar::new() }
    }

    /// All that arrived. Where there is nothing yet, waits a moment for the first.
    pub(super) fn take(&self) -> Vec<Acknowledgement> {
        let arrived = lock(&self.arrived);
        let waited = self.some.wait_timeout_while(arrived, LOOK, |arrived| arrived.is_empty());
        mem::take(&mut *waited.unwrap_or_else(PoisonError::into_inner).0)
    }
}

impl ClientContext for Acknowledgements {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = Context::ENABLE_REFRESH_OAUTH_TOKEN;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.context.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.context.generate_oauth_token(config)
    }
}

impl ProducerContext for Acknowledgements {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let outcome = match result {
            Ok(record) => Ok((record.partition(), u64::try_from(record.offset()).unwrap_or(0))),
            Err((error, _)) => Err(error.clone()),
        };
        let mut arrived = lock(&self.arrived);
        arrived.push(Acknowledgement { number, outcome });
        if arrived.len() == 1 {
            self.some.notify_one();
        }
    }
}

/// Queues a record; while the queue is full, waits.
pub(super) fn send<P: ToBytes + ?Sized>(
    producer: &Producer,
    mut record: Numbered<'_, P>,
    deadline: Instant,
) -> Result<(), KafkaError> {
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((error, back)) if code(&error) == Some(Code::QueueFull) && Instant::now() < deadline => {
                record = back;
                std::thread::park_timeout(FULL);
            }
            Err((error, _)) => return Err(error),
        }
    }
}

/// Sends one record and waits until it is known what became of it. Nothing else is under way.
pub(super) fn send_one<P: ToBytes + ?Sized>(
    producer: &Producer,
    record: Numbered<'_, P>,
    deadline: Instant,
    is_hopeless: impl Fn() -> bool,
) -> Result<(i32, u64), KafkaError> {
    send(producer, record, deadline)?;
    loop {
        if let Some(acknowledgement) = producer.client().context().take().pop() {
            return acknowledgement.outcome;
        }
        if Instant::now() >= deadline || is_hopeless() {
            return Err(KafkaError::MessageProduction(Code::MessageTimedOut));
        }
    }
}

/// Waits until the producer's thread is done with all that it was told. A commit that finds it at that waits
/// a tenth of a second.
pub(super) fn settle(producer: &Producer, deadline: Instant) {
    while producer.in_flight_count() > 0 && Instant::now() < deadline {
        std::thread::park_timeout(LOOK);
    }
}

pub(super) fn is_too_large(error: &KafkaError) -> bool {
    matches!(
        code(error),
        Some(Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize)
    )
}
