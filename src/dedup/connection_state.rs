//! What a connection remembers beside its keys: polls, months read by a backfill, missing rows, money
//! spent, who is polling.
//!
//! It lives where the ledger lives and is written in the same transaction as the events.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp, civil::Date};
use serde::{Deserialize, Serialize};

use crate::{
    cost::{CostKey, Granularity, Period, utc_date},
    poller::{Spent, oldest_month, settles_on},
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
    /// What backfills have read of daily data, by the first day of the month. Absent until there is
    /// something: a state without it is what earlier versions wrote.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub months: BTreeMap<Date, MonthState>,
}

/// What is known of a backfilled month.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MonthState {
    /// When the last complete reading of it began; `None` where there was none yet.
    pub read_at: Option<Timestamp>,
    /// Pages it has, or has at least, and what the next reading is expected to need.
    pub pages: u32,
    /// Rows the last complete reading did not list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<MissingRow>,
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
    /// How often it was written again only to show that the process is alive.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub renewed: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
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
            period: key.period.label().into(),
            service: key.service.to_owned(),
            group: key.group.map(str::to_owned),
        }
    }

    /// About how many bytes of a state it takes.
    pub(super) fn stored_bytes(&self) -> usize {
        64 + self.service.len() + self.group.as_ref().map_or(0, String::len)
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

    /// Since when every one of these granularities is complete: of several the one that is behind counts.
    /// `None` where one never was.
    pub fn complete_since(&self, granularities: &[Granularity]) -> Option<Timestamp> {
        granularities.iter().map(|granularity| self.poll(*granularity).last_complete).min().flatten()
    }

    /// What backfills have read of the month that begins on this day.
    pub fn month(&self, first: Date) -> MonthState {
        self.months.get(&first).cloned().unwrap_or_default()
    }

    /// Whether a backfill has read a month, so that it need not be paid for again: after it had
    /// settled, or before, as long as it still has not.
    pub fn has_month(&self, month: Date, settle_days: u8, now: Timestamp) -> bool {
        let settles = settles_on(month, settle_days);
        let read_at = self.months.get(&month).and_then(|month| month.read_at);
        read_at.is_some_and(|at| settles <= utc_date(at) || utc_date(now) < settles)
    }

    /// How many pages a reading of a month is expected to need: as many as it had; else as the largest
    /// month that is known, or as the last poll; one where nothing is known.
    pub fn pages_of(&self, month: Date) -> u32 {
        let known = self.months.get(&month).map(|month| month.pages).filter(|pages| *pages > 0);
        let largest = || self.months.values().map(|month| month.pages).max().filter(|pages| *pages > 0);
        known.or_else(largest).unwrap_or_else(|| self.poll(Granularity::Daily).pages).max(1)
    }

    /// Notes what is known of a month, and forgets those that AWS keeps no longer.
    pub fn note_month(&mut self, month: Date, known: MonthState, now: Timestamp) {
        let oldest = oldest_month(utc_date(now));
        self.months.retain(|month, _| oldest <= *month);
        self.months.insert(month, known);
    }

    /// When a granularity is to be polled next; `None`: at once. What a wrong clock wrote, a last
    /// poll in the future or a retry beyond the interval, holds up nothing.
    pub fn due_at(&self, granularity: Granularity, interval: Duration, now: Timestamp) -> Option<Timestamp> {
        let poll = self.polls.get(granularity.name())?;
        let interval = SignedDuration::try_from(interval).unwrap_or(SignedDuration::MAX);
        let after = |instant: Timestamp| instant.checked_add(interval).unwrap_or(Timestamp::MAX);
        let next = poll.last_complete.filter(|last| *last <= now).map(after);
        next.max(poll.retry_at.filter(|retry| *retry <= after(now)))
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
        assert_eq!(due(&state), Some(at("2026-03-01T01:00:00Z")));
        state.poll_mut(Granularity::Daily).retry_at = None;
        state.poll_mut(Granularity::Daily).last_complete = Some(at("2027-03-01T00:00:00Z"));
        assert_eq!(due(&state), None);
    }

    #[test]
    fn of_several_granularities_the_one_behind_counts() {
        let at = |hour: i64| Timestamp::from_second(hour * 3600).unwrap();
        let mut state = ConnectionState::default();
        let all = &Granularity::ALL[..];
        assert_eq!(state.complete_since(all), None);
        state.poll_mut(Granularity::Hourly).last_complete = Some(at(9));
        assert_eq!((state.complete_since(all), state.complete_since(&all[1..])), (None, Some(at(9))));
        state.poll_mut(Granularity::Daily).last_complete = Some(at(1));
        assert_eq!(state.complete_since(all), Some(at(1)));
    }

    #[test]
    fn a_month_is_finished_once_it_was_read_after_it_had_settled() {
        let at = |text: &str| format!("{text}T12:00:00Z").parse::<Timestamp>().unwrap();
        let march: Date = "2026-03-01".parse().unwrap();
        for (read, now, finished) in [
            (None, "2026-06-01", false),
            // Before it settles, and after.
            (Some("2026-04-03"), "2026-04-03", true),
            (Some("2026-04-03"), "2026-04-09", true),
            (Some("2026-04-03"), "2026-04-10", false),
            (Some("2026-04-10"), "2026-04-10", true),
            (Some("2026-04-10"), "2027-04-10", true),
        ] {
            let mut state = ConnectionState::default();
            let known = MonthState { read_at: read.map(at), pages: 1, missing: Vec::new() };
            state.note_month(march, known, at("2026-04-03"));
            assert_eq!(state.has_month(march, 10, at(now)), finished, "{read:?} {now}");
        }
    }

    #[test]
    fn pages_are_guessed_from_what_is_nearest() {
        let now = "2026-11-20T00:00:00Z".parse().unwrap();
        let months: Vec<Date> =
            ["2026-10-01", "2026-09-01", "2025-09-01"].map(|month| month.parse().unwrap()).into();
        let mut state = ConnectionState::default();
        assert_eq!(state.pages_of(months[0]), 1);
        state.poll_mut(Granularity::Daily).pages = 3;
        assert_eq!(state.pages_of(months[0]), 3);
        state.note_month(months[2], MonthState::default(), now);
        state.note_month(months[0], MonthState { pages: 2, ..Default::default() }, now);
        assert_eq!((state.pages_of(months[0]), state.pages_of(months[1])), (2, 2));
        assert!(!state.months.contains_key(&months[2]), "AWS keeps it no longer");
    }

    /// Pinned: what is stored today is read by every later version, and a state without months is to
    /// the letter what it was before there were any.
    #[test]
    fn a_state_has_the_documented_form_with_and_without_months() {
        let before = r#"{"name":"main","account":"111122223333","claim":null,"spent":{"day":null,"today":0,"month":0,"total":0},"polls":{}}"#;
        let mut state: ConnectionState = serde_json::from_str(before).unwrap();
        assert_eq!(serde_json::to_string(&state).unwrap(), before);
        let month = MonthState { read_at: Some(Timestamp::UNIX_EPOCH), pages: 2, missing: Vec::new() };
        state.months.insert("2026-03-01".parse().unwrap(), month);
        let after = before.replace(
            r#""polls":{}"#,
            r#""polls":{},"months":{"2026-03-01":{"readAt":"1970-01-01T00:00:00Z","pages":2}}"#,
        );
        assert_eq!(serde_json::to_string(&state).unwrap(), after);
        assert_eq!(serde_json::from_str::<ConnectionState>(&after).unwrap(), state);
    }

    #[test]
    fn the_state_round_trips_and_tolerates_members_of_later_versions() {
        let mut state = ConnectionState { name: "main".to_owned(), ..Default::default() };
        state.claim =
            Some(Claim { instance: "a".to_owned(), token: "t".to_owned(), reserved: 2, renewed: 0 });
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
