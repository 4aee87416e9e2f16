//! What was spent and what may still be: chargeable requests per UTC day and month.
//!
//! Pure counting. The figures live in each connection's state, so a restart forgets nothing.

use jiff::{Timestamp, ToSpan as _, civil::Date};
use serde::{Deserialize, Serialize};

use crate::{config::BudgetConfig, cost::utc_date};

/// So many days a clock is set back at most.
const AHEAD: i64 = 2;

/// Chargeable requests of one connection: answered pages, and requests whose outcome is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// The UTC day of the newest request; `None` before the first.
    pub day: Option<Date>,
    /// Requests on that day.
    pub today: u32,
    /// Requests in that day's month.
    pub month: u32,
    /// Requests ever.
    pub total: u64,
}

impl Spent {
    /// Counts requests made at an instant.
    pub fn add(&mut self, now: Timestamp, requests: u32) {
        if requests == 0 {
            return;
        }
        let (today, month) = self.at(now);
        self.day = Some(self.ahead_of(utc_date(now)).unwrap_or(utc_date(now)));
        self.today = today + requests;
        self.month = month + requests;
        self.total += u64::from(requests);
    }

    /// Without the newest ones, of which it is not known yet whether they are made.
    #[must_use]
    pub const fn without(self, requests: u32) -> Self {
        Self {
            today: self.today.saturating_sub(requests),
            month: self.month.saturating_sub(requests),
            total: self.total.saturating_sub(requests as u64),
            ..self
        }
    }

    /// The newest request's day, where the clock was set back over midnight since: what was spent then is
    /// not forgotten. A day that is further ahead was a clock that was wrong.
    fn ahead_of(&self, now: Date) -> Option<Date> {
        self.day.filter(|day| *day > now && *day <= now.saturating_add(AHEAD.days()))
    }

    /// Requests so far on the day and in the month of an instant, UTC.
    pub fn at(&self, now: Timestamp) -> (u32, u32) {
        let now = utc_date(now);
        match self.day {
            Some(day) if day == now || self.ahead_of(now).is_some() => (self.today, self.month),
            Some(day) if day.first_of_month() == now.first_of_month() => (0, self.month),
            _ => (0, 0),
        }
    }
}

/// How many requests may still be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// No cap is configured.
    Unlimited,
    /// So many more on this day and in this month.
    Requests(u32),
}

impl Allowance {
    /// What the budget leaves at an instant, given what every connection spent.
    pub fn left<'a>(
        budget: BudgetConfig,
        now: Timestamp,
        spent: impl IntoIterator<Item = &'a Spent>,
    ) -> Self {
        let (mut day, mut month) = (0_u32, 0_u32);
        for connection in spent {
            let (d, m) = connection.at(now);
            day += d;
            month += m;
        }
        let caps = [(budget.requests_per_day, day), (budget.requests_per_month, month)];
        caps.into_iter()
            .filter_map(|(cap, spent)| cap.map(|cap| cap.saturating_sub(spent)))
            .min()
            .map_or(Self::Unlimited, Self::Requests)
    }

    /// What is left after so many more.
    #[must_use]
    pub const fn after(self, requests: u32) -> Self {
        match self {
            Self::Unlimited => self,
            Self::Requests(left) => Self::Requests(left.saturating_sub(requests)),
        }
    }

    /// Whether so many requests still fit.
    pub const fn covers(self, requests: u32) -> bool {
        match self {
            Self::Unlimited => true,
            Self::Requests(left) => requests <= left,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// Midnight passes twice then, and the budget of the day it begins is there once.
    #[test]
    fn a_clock_set_back_over_midnight_stays_on_the_later_day() {
        let mut spent = Spent::default();
        spent.add(at("2026-03-31T23:59:00Z"), 3);
        spent.add(at("2026-04-01T00:01:00Z"), 2);
        assert_eq!(spent.at(at("2026-03-31T23:50:00Z")), (2, 2));
        spent.add(at("2026-03-31T23:50:00Z"), 1);
        assert_eq!(spent.at(at("2026-04-01T00:02:00Z")), (3, 3));
        // That far ahead it was wrong, and would stop everything until then.
        spent.add(at("2030-01-01T00:00:00Z"), 9);
        assert_eq!(spent.at(at("2026-04-01T00:03:00Z")), (0, 0));
        spent.add(at("2026-04-01T00:03:00Z"), 1);
        assert_eq!(spent.at(at("2026-04-01T00:03:00Z")), (1, 1));
    }

    #[test]
    fn days_and_months_are_counted_in_utc() {
        let mut spent = Spent::default();
        spent.add(at("2026-03-31T22:00:00Z"), 3);
        spent.add(at("2026-03-31T23:59:59Z"), 1);
        assert_eq!(spent.at(at("2026-03-31T23:59:59Z")), (4, 4));
        assert_eq!(spent.at(at("2026-04-01T00:00:00Z")), (0, 0));
        spent.add(at("2026-04-01T00:00:00Z"), 2);
        assert_eq!(spent.at(at("2026-04-02T00:00:00Z")), (0, 2));
        assert_eq!(spent.total, 6);
        assert_eq!(spent.without(1).at(at("2026-04-01T00:00:00Z")), (1, 1));
        assert_eq!(spent.without(3).at(at("2026-04-01T00:00:00Z")), (0, 0));
    }

    #[test]
    fn the_tighter_cap_holds_over_all_connections() {
        let now = at("2026-04-02T00:00:00Z");
        let mut a = Spent::default();
        a.add(at("2026-04-01T00:00:00Z"), 5);
        let mut b = Spent::default();
        b.add(now, 2);
        let budget = |day, month| BudgetConfig { requests_per_day: day, requests_per_month: month };
        assert_eq!(Allowance::left(budget(None, None), now, [&a, &b]), Allowance::Unlimited);
        assert_eq!(Allowance::left(budget(Some(4), None), now, [&a, &b]), Allowance::Requests(2));
        assert_eq!(Allowance::left(budget(Some(4), Some(8)), now, [&a, &b]), Allowance::Requests(1));
        assert_eq!(Allowance::left(budget(Some(1), None), now, [&a, &b]), Allowance::Requests(0));
        assert!(Allowance::Requests(1).covers(1) && !Allowance::Requests(1).covers(2));
    }
}
