//! Claiming a poll, keeping it while AWS is awaited, and reserving what it may cost.

use std::{
    ops::ControlFlow,
    pin::{Pin, pin},
    time::Instant,
};

use jiff::{SignedDuration, Timestamp};
use tracing::debug;
use uuid::Uuid;

use super::{ATTEMPTS, RENEWALS, WindowPoll, is_doubt};
use crate::{
    cycle::{Outcome, all_spent, budget_resets_at},
    dedup::Claim,
    poller::Allowance,
    transport::{Transport, TransportError, TransportErrorKind},
};

impl<T: Transport> WindowPoll<'_, T> {
    /// Writes the claim into the log and counts the expected pages as spent before they are asked
    /// for, so that a process killed under way has never spent more than the log says.
    ///
    /// `Break` with the outcome where the budget does not hold them or another process was faster.
    pub async fn claim(&mut self, expected: u32) -> Result<ControlFlow<Outcome>, TransportError> {
        let connection = self.context.connection;
        self.state.name.clone_from(&connection.name);
        self.state.account.clone_from(&self.context.factory.scope().account);
        self.state.claim = Some(Claim {
            instance: self.context.instance.to_owned(),
            token: Uuid::new_v4().to_string(),
            reserved: 0,
            renewed: 0,
        });
        self.reserve(expected).await
    }

    /// Waits for AWS, and meanwhile shows whoever else waits for this poll that it is alive. `Break` when
    /// another process has taken it over.
    pub async fn renewing<O>(
        &mut self,
        answer: impl Future<Output = O>,
    ) -> Result<ControlFlow<Outcome, O>, TransportError> {
        let mut answer = pin!(answer);
        loop {
            let due = self.claimed_at + self.context.poll.claim_ttl / RENEWALS;
            tokio::select! {
                biased;
                answer = &mut answer => return Ok(ControlFlow::Continue(answer)),
                () = tokio::time::sleep_until(due.into()) => {}
            }
            // AWS is listened to meanwhile: an output that is slow must not have its answer time out.
            let (held, early) = beside(answer.as_mut(), self.renew()).await;
            if !held? {
                return Ok(ControlFlow::Break(Outcome::Claimed));
            }
            if let Some(answer) = early {
                return Ok(ControlFlow::Continue(answer));
            }
        }
    }

    /// Writes the claim again; false where another process has the poll by now.
    async fn renew(&mut self) -> Result<bool, TransportError> {
        if let Some(claim) = &mut self.state.claim {
            claim.renewed += 1;
        }
        let stored = self.store(Vec::new(), self.state.clone()).await;
        self.claimed_at = Instant::now();
        match stored {
            Ok(_) => Ok(true),
            // It only saves money, and AWS is being paid: whether it still holds, publishing tells.
            Err(error) if error.kind == TransportErrorKind::Unavailable => {
                debug!(connection = self.context.connection.name, "a claim was not renewed: {error}");
                Ok(true)
            }
            Err(error) if is_doubt(error.kind) => self.holds_after(&error).await,
            Err(error) => Err(error),
        }
    }

    /// Counts another page as spent once more have come than were expected.
    pub async fn reserve_another(&mut self) -> Result<ControlFlow<Outcome>, TransportError> {
        let reserved = self.state.claim.as_ref().map_or(0, |claim| claim.reserved);
        if self.requests < reserved {
            return Ok(ControlFlow::Continue(()));
        }
        // As many again: a poll of many pages writes the log a few times, not once per page.
        self.reserve(reserved.saturating_mul(2).max(self.requests + 1)).await
    }

    async fn reserve(&mut self, wanted: u32) -> Result<ControlFlow<Outcome>, TransportError> {
        let context = self.context;
        let now = context.clock.now();
        let _gate = context.gate.lock().await;
        let connections = context.transport.connections().await?;
        let spent = all_spent(&self.scope, &self.spent_before, &connections);
        let left = Allowance::left(context.budget, now, &spent);
        self.left = left;
        let wanted = match left {
            // Better a poll that ends with the budget than none, once it has begun.
            Allowance::Requests(left) if self.requests > 0 && left > self.requests => wanted.min(left),
            _ => wanted,
        };
        context.metrics.budget_left(if left.covers(wanted) { left.after(wanted) } else { left });
        if !left.covers(wanted) {
            // Of a poll under way that is one more page, whatever was to be reserved ahead.
            let needed = if self.requests > 0 { self.requests + 1 } else { wanted };
            let resets_at = budget_resets_at(now, context.budget, &spent, needed);
            // What others have reserved ahead they may not need.
            let others = connections.iter().filter(|(id, _)| *id != self.scope);
            let made = others.map(|(_, state)| match &state.claim {
                Some(claim) => state.spent.without(claim.reserved),
                None => state.spent,
            });
            let made: Vec<_> = made.chain([self.spent_before]).collect();
            let until = if Allowance::left(context.budget, now, &made).covers(needed) {
                let ttl = SignedDuration::try_from(context.poll.claim_ttl).unwrap_or(SignedDuration::MAX);
                now.checked_add(ttl).unwrap_or(Timestamp::MAX).min(resets_at)
            } else {
                resets_at
            };
            return Ok(ControlFlow::Break(Outcome::BudgetSpent { until, needed }));
        }
        self.state.spent = self.spent_before;
        self.state.spent.add(now, wanted);
        if let Some(claim) = &mut self.state.claim {
            claim.reserved = wanted;
        }
        let mut attempt = 1;
        loop {
            let stored = self.store(Vec::new(), self.state.clone()).await;
            self.claimed_at = Instant::now();
            match stored {
                Ok(_) => return Ok(ControlFlow::Continue(())),
                // Of a poll that was paid for: it is looked whose it is.
                Err(error) if is_doubt(error.kind) && self.requests > 0 && attempt < ATTEMPTS => {
                    attempt += 1;
                    if !self.holds_after(&error).await? {
                        return Ok(ControlFlow::Break(Outcome::Claimed));
                    }
                }
                Err(error) if is_doubt(error.kind) => return Ok(ControlFlow::Break(Outcome::Claimed)),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Waits for one thing and goes on with another meanwhile: its result, where it had one by then.
async fn beside<A, B>(
    mut other: Pin<&mut impl Future<Output = A>>,
    waited_for: impl Future<Output = B>,
) -> (B, Option<A>) {
    let mut waited_for = pin!(waited_for);
    let mut early = None;
    loop {
        tokio::select! {
            biased;
            done = &mut waited_for => return (done, early),
            result = &mut other, if early.is_none() => early = Some(result),
        }
    }
}
