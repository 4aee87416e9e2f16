//! What was given out under a name and not acknowledged comes again, and comes first.
//!
//! A server gives out the next messages while it waits for the acknowledgement of earlier ones: those
//! a process had in hand that was killed, those a broken connection lost. It gives them out again only
//! after a while. Whoever handed on the newer ones at once would turn the order of a key around.

use std::time::Duration;

use async_nats::jetstream::{self, consumer::Info};
use tokio::time::Instant;

use super::ACK_WAIT;

/// Nothing is waited for longer: another process of the name may sit on its messages for ever.
const LONGEST: Duration = ACK_WAIT.saturating_mul(2);

/// Messages that are out, and everything that came since they were asked for.
#[derive(Debug)]
pub(super) struct Behind {
    /// The newest message given out when reading began.
    newest: u64,
    /// How many up to it are out and not in this process's hands.
    left: usize,
    since: Instant,
    kept: Vec<(u64, jetstream::Message)>,
}

impl Behind {
    /// What is to be waited for where a name goes on, `held` of its messages in hand; `kept` is what
    /// was not handed on before.
    pub(super) fn of(info: &Info, held: usize, kept: Vec<(u64, jetstream::Message)>) -> Option<Self> {
        let left = info.num_ack_pending.saturating_sub(held);
        (left > 0 || !kept.is_empty()).then(|| Self {
            newest: info.delivered.stream_sequence,
            left,
            since: Instant::now(),
            kept,
        })
    }

    /// Keeps a message until what is older is here, too.
    pub(super) fn keep(&mut self, sequence: u64, message: jetstream::Message) {
        if sequence <= self.newest {
            self.left = self.left.saturating_sub(1);
        }
        self.kept.push((sequence, message));
    }

    /// Whether everything that was out has come.
    pub(super) fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// Whether there is nothing more to wait for, as the server tells: all that is out is in hand, or
    /// was acknowledged by somebody else.
    pub(super) fn is_over(&self, info: &Info, held: usize) -> bool {
        info.num_ack_pending <= held
            || info.ack_floor.stream_sequence >= self.newest
            || self.since.elapsed() > LONGEST
    }

    /// What was kept, oldest first.
    pub(super) fn release(mut self) -> Vec<(u64, jetstream::Message)> {
        self.kept.sort_by_key(|(sequence, _)| *sequence);
        self.kept
    }
}
