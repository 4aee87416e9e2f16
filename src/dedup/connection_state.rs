//! What a connection remembers beside its keys: polls, missing rows, money spent, who is polling.
//!
//! It lives where the ledger lives and is written in the same transaction as the events.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    cost::{CostKey, Granularity, Period},
    poller::Spent,
};

/// The connection's own state, one per scope.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConnectionState {
    /// The configured name when the state was last written; for people only.
    pub name: String,
    /// The paying account.
    pub account: String,
    /// Who is polling; `None` between polls.
    pub claim: Option<Claim>,
    /// Chargeable requests.
    pub spent: Spent,
    /// By the granularity's lower-case name.
    pub polls: BTreeMap<String, PollState>,
}

/// A poll somebody has begun. It is void once it stood unchanged for its time to live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// The process: its host name unless configured otherwise.
    pub instance: String,
    /// Another one for every poll.
    pub token: String,
    /// Requests counted as spent before they were made.
    pub reserved: u32,
}

/// What is known of one granularity's polls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PollState {
    /// When the last complete poll began.
    pub last_complete: Option<Timestamp>,
    /// After a failure that was paid for: not to be tried before.
    pub retry_at: Option<Timestamp>,
    /// Failures in a row.
    pub failures: u32,
    /// Pages of the last poll, and what the next one is expected to need.
    pub pages: u32,
    /// Rows the last complete answer did not list.
    pub missing: Vec<MissingRow>,
}

/// A row that was missing from one complete answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MissingRow {
    /// The period's label.
    pub period: String,
    /// AWS's display name.
    pub service: String,
    /// The second group's value.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub group: Option<String>,
}

impl MissingRow {
    /// Names a key.
    pub fn of(key: &CostKey<'_>) -> Self {
        Self {
            period: key.period.label(),
            service: key.service.to_owned(),
            group: key.group.map(str::to_owned),
        }
    }

    /// The key again; `None` if the state was written with a label this version does not read.
    pub fn key(&self) -> Option<CostKey<'_>> {
        Some(CostKey {
            period: Period::from_label(&self.period)?,
            service: &self.service,
            group: self.group.as_deref(),
        })
    }
}

impl ConnectionState {
    /// One granularity's polls.
    pub fn poll(&self, granularity: Granularity) -> PollState {
        self.polls.get(granularity.name()).cloned().unwrap_or_default()
    }

    /// One granularity's polls, to be changed.
    pub fn poll_mut(&mut self, granularity: Granularity) -> &mut PollState {
        self.polls.entry(granularity.name().to_owned()).or_default()
    }

    /// When a granularity is to be polled next; `None`: at once. What a wrong clock wrote, a last
    /// poll in the future or a retry beyond the interval, holds up nothing.
    pub fn due_at(&self, granularity: Granularity, interval: Duration, now: Timestamp) -> Option<Timestamp> {
        let poll = self.polls.get(granularity.name())?;
        let interval = SignedDuration::try_from(interval).unwrap_or(SignedDuration::MAX);
        let after = |instant: Timestamp| instant.checked_add(interval).unwrap_or(Timestamp::MAX);
        let next = poll.last_complete.filter(|last| *last <= now).map(after);
        next.max(poll.retry_at.map(|retry| retry.min(after(now))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_is_an_interval_after_the_last_complete_poll_and_not_before_a_retry() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let hour = Duration::from_hours(1);
        let now = at("2026-03-01T00:30:00Z");
        let mut state = ConnectionState::default();
        let due = |state: &ConnectionState| state.due_at(Granularity::Daily, hour, now);
        assert_eq!(due(&state), None);
        state.poll_mut(Granularity::Daily).last_complete = Some(at("2026-03-01T00:00:00Z"));
        assert_eq!(due(&state), Some(at("2026-03-01T01:00:00Z")));
        assert_eq!(state.due_at(Granularity::Hourly, hour, now), None);
        state.poll_mut(Granularity::Daily).retry_at = Some(at("2026-03-01T01:15:00Z"));
        assert_eq!(due(&state), Some(at("2026-03-01T01:15:00Z")));
        // Written under a clock that was wrong.
        state.poll_mut(Granularity::Daily).retry_at = Some(at("2027-03-01T00:00:00Z"));
        assert_eq!(due(&state), Some(at("2026-03-01T01:30:00Z")));
        state.poll_mut(Granularity::Daily).retry_at = None;
        state.poll_mut(Granularity::Daily).last_complete = Some(at("2027-03-01T00:00:00Z"));
        assert_eq!(due(&state), None);
    }

    #[test]
    fn the_state_round_trips_and_tolerates_members_of_later_versions() {
        let mut state = ConnectionState { name: "main".to_owned(), ..Default::default() };
        state.claim = Some(Claim { instance: "a".to_owned(), token: "t".to_owned(), reserved: 2 });
        state.spent.add("2026-03-01T00:00:00Z".parse().unwrap(), 3);
        state.poll_mut(Granularity::Hourly).missing.push(MissingRow {
            period: "2026-03-01T05".to_owned(),
            service: "Tax".to_owned(),
            group: None,
        });
        let mut json = serde_json::to_value(&state).unwrap();
        json["later"] = serde_json::json!(true);
        assert_eq!(serde_json::from_value::<ConnectionState>(json).unwrap(), state);
    }
}
