//! Whether a poll may be claimed: not while somebody else's claim is fresh.
//!
//! A claim only saves money: safety never depends on it. No clocks are compared; a claim is void
//! once it stood unchanged for its time to live on the observer's own monotonic clock.

use std::time::{Duration, Instant};

use crate::dedup::{Claim, ConnectionState};

/// Remembers since when a rival's claim has stood unchanged.
#[derive(Debug, Default)]
pub struct ClaimWatch {
    seen: Option<(Claim, Instant)>,
    /// The token of a claim of this process whose poll ended with the output out of reach, and how many
    /// requests were made under it.
    unsettled: Option<(String, u32)>,
}

impl ClaimWatch {
    /// Nothing seen yet.
    pub const fn new() -> Self {
        Self { seen: None, unsettled: None }
    }

    /// Notes that a poll of this process could not be ended in the log.
    pub fn leave(&mut self, made: Option<(String, u32)>) {
        self.unsettled = made;
    }

    /// Counts what was really spent in place of what such a poll had reserved, in a state as it was read and
    /// as long as its claim is the latest.
    pub fn settle(&mut self, state: &mut ConnectionState) {
        match (&self.unsettled, &state.claim) {
            (Some((token, made)), Some(claim)) if *token == claim.token => {
                state.spent = state.spent.without(claim.reserved.saturating_sub(*made));
            }
            _ => self.unsettled = None,
        }
    }

    /// Whether the connection may be claimed by this instance now.
    ///
    /// | the claim in the log | may claim |
    /// |---|---|
    /// | none | yes |
    /// | this instance's own, from before a restart | yes |
    /// | a rival's, changed since last seen or seen for less than its time to live | no |
    /// | a rival's, unchanged for its time to live | yes |
    pub fn may_claim(&mut self, claim: Option<&Claim>, instance: &str, ttl: Duration) -> bool {
        self.may_claim_at(Instant::now(), claim, instance, ttl)
    }

    fn may_claim_at(&mut self, now: Instant, claim: Option<&Claim>, instance: &str, ttl: Duration) -> bool {
        let Some(rival) = claim.filter(|claim| claim.instance != instance) else {
            self.seen = None;
            return true;
        };
        match &self.seen {
            Some((seen, since)) if seen == rival => now.duration_since(*since) >= ttl,
            _ => {
                self.seen = Some((rival.clone(), now));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_reserved_and_not_made_is_given_back_until_the_next_claim() {
        let now = "2026-03-01T00:00:00Z".parse().unwrap();
        let read = |token: &str| {
            let (instance, token) = ("a".to_owned(), token.to_owned());
            let mut state = ConnectionState::default();
            state.spent.add(now, 15);
            state.claim = Some(Claim { instance, token, reserved: 12, renewed: 0 });
            state
        };
        let mut watch = ClaimWatch::new();
        watch.leave(Some(("1".to_owned(), 2)));
        // Read again, because the budget did not hold the poll: the log still has what was reserved.
        for (token, spent) in [("1", 5), ("1", 5), ("2", 15), ("1", 15)] {
            let mut state = read(token);
            watch.settle(&mut state);
            assert_eq!(
                (state.spent.at(now), state.spent.total),
                ((spent, spent), u64::from(spent)),
                "{token}"
            );
        }
    }

    #[test]
    fn a_rivals_claim_is_void_only_after_standing_still() {
        let start = Instant::now();
        let ttl = Duration::from_mins(2);
        let claim = |instance: &str, token: &str| Claim {
            instance: instance.to_owned(),
            token: token.to_owned(),
            reserved: 1,
            renewed: 0,
        };
        let (first, second, own) = (claim("b", "1"), claim("b", "2"), claim("a", "1"));
        let renewed = Claim { renewed: 1, ..second.clone() };
        let mut watch = ClaimWatch::new();
        for (minute, found, expected) in [
            (0, None, true),
            (1, Some(&own), true),
            (2, Some(&first), false),
            (3, Some(&first), false),
            (4, Some(&second), false), // it is alive
            (5, Some(&second), false),
            (6, Some(&second), true), // two minutes without a change
            (7, None, true),
            (8, Some(&second), false),  // seen anew
            (9, Some(&renewed), false), // alive, and at the same poll
            (10, Some(&renewed), false),
            (11, Some(&renewed), true),
        ] {
            let now = start + Duration::from_mins(minute);
            assert_eq!(watch.may_claim_at(now, found, "a", ttl), expected, "minute {minute}");
        }
    }
}
