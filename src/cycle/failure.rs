//! When a poll that failed is tried again.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::Outcome;
use crate::dedup::PollState;

/// Notes how a poll failed; returns when to try again.
pub(super) fn note_failure(
    poll: &mut PollState,
    outcome: &Outcome,
    (now, paid, pages): (Timestamp, bool, u32),
    knows_rows: bool,
    interval: Duration,
) -> Option<Timestamp> {
    match outcome {
        Outcome::Interrupted => None,
        Outcome::BudgetSpent { until, .. } => {
            // The next attempt knows how much it needs before it begins.
            poll.pages = poll.pages.max(pages + 1);
            Some(*until)
        }
        _ => {
            poll.failures = poll.failures.saturating_add(1);
            // Where nothing is known, perhaps there is nothing: asked more often, it costs more and is no more.
            let whole = matches!(outcome, Outcome::Empty) && !knows_rows;
            let failures = if whole { u32::MAX } else { poll.failures };
            let retry = retry_at(now, failures, paid, interval);
            poll.retry_at = paid.then_some(retry);
            Some(retry)
        }
    }
}

/// When to try again after so many failures in a row: a minute, doubled each time, from ten minutes
/// where the failure was paid for; never later than the interval.
pub(crate) fn retry_at(now: Timestamp, failures: u32, paid: bool, interval: Duration) -> Timestamp {
    let base = Duration::from_secs(if paid { 600 } else { 60 });
    let pause = base.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(interval);
    now.checked_add(SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_never_pass_the_interval() {
        let now: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
        let eight_hours = Duration::from_hours(8);
        for (failures, paid, interval, minutes) in [
            (1, false, eight_hours, 1),
            (2, false, eight_hours, 2),
            (4, false, eight_hours, 8),
            (1, true, eight_hours, 10),
            (3, true, eight_hours, 40),
            (40, false, eight_hours, 480),
            (u32::MAX, true, eight_hours, 480),
            (1, false, Duration::from_mins(1), 1),
        ] {
            let expected = now.checked_add(SignedDuration::from_mins(minutes)).unwrap();
            assert_eq!(retry_at(now, failures, paid, interval), expected, "{failures} {paid}");
        }
    }

    /// Where rows are known, an answer without any is a fault that passes; where none is, perhaps all there is.
    #[test]
    fn an_answer_without_rows_is_not_paid_for_again_and_again() {
        let now: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
        for (knows_rows, minutes) in [(true, 10), (false, 480)] {
            let mut poll = PollState::default();
            let outcome = Outcome::Empty;
            let retry =
                note_failure(&mut poll, &outcome, (now, true, 1), knows_rows, Duration::from_hours(8));
            assert_eq!(retry, Some(now + SignedDuration::from_mins(minutes)));
            assert_eq!((poll.failures, poll.retry_at), (1, retry));
        }
    }
}
