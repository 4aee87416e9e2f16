//! The only place that reads the time of day.
//!
//! A clock is a value handed down, so that a month can pass in a test or in the demo.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Instant,
};

use jiff::{SignedDuration, Timestamp};

/// Tells the time in UTC. Clones tell the same time.
#[derive(Clone)]
pub struct Clock(Kind);

#[derive(Clone)]
enum Kind {
    System,
    Manual(Arc<AtomicI64>),
    Scaled { start: Timestamp, since: Instant, speed: u32 },
}

impl Clock {
    /// The machine's clock.
    pub const fn system() -> Self {
        Self(Kind::System)
    }

    /// A clock that stands still until it is set; whole seconds.
    pub fn manual(start: Timestamp) -> Self {
        Self(Kind::Manual(Arc::new(AtomicI64::new(start.as_second()))))
    }

    /// A clock that starts at an instant and runs so many times as fast as the machine's.
    pub fn scaled(start: Timestamp, speed: u32) -> Self {
        Self(Kind::Scaled { start, since: Instant::now(), speed })
    }

    /// The present instant.
    #[expect(clippy::disallowed_methods, reason = "the one clock")]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Kind::System => Timestamp::now(),
            Kind::Manual(seconds) => Timestamp::from_second(seconds.load(Ordering::SeqCst))
                .expect("only timestamps are ever stored"),
            Kind::Scaled { start, since, speed } => {
                let passed = SignedDuration::try_from(since.elapsed().saturating_mul(*speed))
                    .unwrap_or(SignedDuration::MAX);
                start.saturating_add(passed).unwrap_or(Timestamp::MAX)
            }
        }
    }

    /// Sets a manual clock. The others go by themselves and ignore it.
    pub fn set(&self, instant: Timestamp) {
        if let Kind::Manual(seconds) = &self.0 {
            seconds.store(instant.as_second(), Ordering::SeqCst);
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}
