//! Which periods a poll asks for: pure functions of the time, the settling days and the past.
//!
//! AWS restates every day of the open month, so a poll re-reads the whole month in one request:
//! the window costs the same $0.01 a page whether it holds one day or sixty.

use compact_str::CompactString;
use jiff::{SignedDuration, Timestamp, ToSpan as _, civil::Date};

use crate::cost::{Granularity, Period, utc_date};

/// Cost Explorer keeps daily data for the current month and the 13 before it, and takes a start
/// that far back only on the first of a month.
const DAILY_HISTORY_MONTHS: i64 = 13;

/// Cost Explorer keeps hourly data for 14 days. One hour of these is given away, so that a page
/// asked for minutes later, or by a clock a little behind AWS's, is not refused.
const HOURLY_REACH: SignedDuration = SignedDuration::from_hours(14 * 24 - 1);

/// The periods of one request: from `from` up to and without `until`, of one granularity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first period asked for.
    pub from: Period,
    /// The first period no longer asked for.
    pub until: Period,
}

impl Window {
    /// The window a poll asks for.
    ///
    /// `now` in UTC; `settle_days`, 0 to 31: the previous month is read too up to this day of the
    /// month, on the 1st always; `last_complete`: when this granularity was last read completely,
    /// `None` before the first time.
    pub fn due(
        granularity: Granularity,
        now: Timestamp,
        settle_days: u8,
        last_complete: Option<Timestamp>,
    ) -> Self {
        match granularity {
            Granularity::Daily => daily(now, settle_days, last_complete),
            Granularity::Hourly => hourly(now),
        }
    }

    /// Every day of one month: what a backfill asks for at once.
    pub fn month(month: Date) -> Self {
        let first = month.first_of_month();
        Self { from: Period::day(first), until: Period::day(first.saturating_add(1.month())) }
    }

    /// The same, back to the month of a day that has to be looked at once more: a row that was missing
    /// from one answer is judged by the next, and by then its month may have settled. AWS keeps no
    /// more of hours than is asked for anyway.
    #[must_use]
    pub fn reaching(self, day: Period) -> Self {
        if self.granularity() == Granularity::Hourly || day.granularity() == Granularity::Hourly {
            return self;
        }
        let today = self.until.date().saturating_sub(1.day());
        let month = Period::day(day.date().first_of_month().max(oldest_month(today)));
        Self { from: self.from.min(month), ..self }
    }

    /// Day or hour.
    pub const fn granularity(&self) -> Granularity {
        self.from.granularity()
    }

    /// Whether a period was asked for.
    pub fn contains(&self, period: Period) -> bool {
        self.from <= period && period < self.until
    }

    /// Whether every period of another window is one of this.
    pub fn covers(&self, other: &Self) -> bool {
        self.granularity() == other.granularity() && self.from <= other.from && other.until <= self.until
    }

    /// The first day of every month the window touches, oldest first.
    pub fn months(&self) -> impl Iterator<Item = Date> {
        let (first, until) = (self.from.date().first_of_month(), self.until.hours());
        (0..)
            .map(move |months: i32| first.saturating_add(months.months()))
            .take_while(move |month| Period::day(*month).hours() < until)
    }

    /// `TimePeriod.Start` of the request, inclusive.
    pub fn aws_start(&self) -> CompactString {
        self.from.aws_start()
    }

    /// `TimePeriod.End` of the request, exclusive.
    pub fn aws_end(&self) -> CompactString {
        self.until.aws_start()
    }
}

/// Month to date up to tomorrow; with it the previous month until it has settled, and after
/// downtime everything since the last complete poll that may have changed unseen.
fn daily(now: Timestamp, settle_days: u8, last_complete: Option<Timestamp>) -> Window {
    let today = utc_date(now);
    let mut from = month_to_read(today, settle_days);
    if let Some(last) = last_complete.map(utc_date).filter(|&last| last <= today) {
        // A month that had not settled when it was last read is read once more.
        let unsettled = last.day() < clamp_day(settle_days);
        let since = if unsettled { month_to_read(last, settle_days) } else { last.first_of_month() };
        from = from.min(since);
    }
    Window { from: Period::day(from.max(oldest_month(today))), until: Period::day(today).next() }
}

/// The first day of the oldest month that Cost Explorer keeps daily data of.
pub fn oldest_month(today: Date) -> Date {
    today.first_of_month().saturating_sub(DAILY_HISTORY_MONTHS.months())
}

/// Every whole hour of the last 14 days. The hour that still runs has no figure yet.
fn hourly(now: Timestamp) -> Window {
    let until = Period::containing(Granularity::Hourly, now);
    let reach = now.checked_sub(HOURLY_REACH).expect("no clock is within 14 days of the year -9999");
    Window {
        // The first hour that starts within reach.
        from: Period::containing(Granularity::Hourly, reach).next(),
        until,
    }
}

/// The first of the month a poll on this day starts from.
fn month_to_read(day: Date, settle_days: u8) -> Date {
    let first = day.first_of_month();
    if day.day() == 1 || day.day() <= clamp_day(settle_days) {
        first.saturating_sub(1.month())
    } else {
        first
    }
}

/// The first day on which a poll takes the figures of a month for settled: it is read on that day
/// still, and no more afterwards.
pub fn settles_on(month: Date, settle_days: u8) -> Date {
    let next = month.first_of_month().saturating_add(1.month());
    let day = i64::from(clamp_day(settle_days).max(1));
    next.saturating_add((day - 1).days()).min(next.last_of_month())
}

fn clamp_day(settle_days: u8) -> i8 {
    i8::try_from(settle_days.min(31)).expect("31 fits")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn daily_windows() {
        for (now, settle, last, from, end) in [
            // Month to date.
            ("2026-03-15T08:00:00Z", 10, None, "2026-03-01", "2026-03-16"),
            // The previous month until settled.
            ("2026-03-10T23:59:59Z", 10, None, "2026-02-01", "2026-03-11"),
            ("2026-03-11T00:00:00Z", 10, None, "2026-03-01", "2026-03-12"),
            // On the 1st always: the current month has no complete day.
            ("2026-03-01T00:00:00Z", 0, None, "2026-02-01", "2026-03-02"),
            ("2026-03-02T00:00:00Z", 0, None, "2026-03-01", "2026-03-03"),
            ("2026-03-31T12:00:00Z", 31, None, "2026-02-01", "2026-04-01"),
            // The last day of a month and of a year: the end is the first of the next.
            ("2026-12-31T23:59:59Z", 10, None, "2026-12-01", "2027-01-01"),
            ("2024-02-29T05:00:00Z", 10, None, "2024-02-01", "2024-03-01"),
            // Downtime: back to the month of the last complete poll.
            ("2026-05-20T00:00:00Z", 10, Some("2026-03-15T08:00:00Z"), "2026-03-01", "2026-05-21"),
            // It had not settled then, so the month before it is read once more.
            ("2026-05-20T00:00:00Z", 10, Some("2026-03-05T08:00:00Z"), "2026-02-01", "2026-05-21"),
            ("2026-04-12T00:00:00Z", 10, Some("2026-04-09T00:00:00Z"), "2026-03-01", "2026-04-13"),
            // Settled: read on the settling day itself.
            ("2026-04-12T00:00:00Z", 10, Some("2026-04-10T00:00:00Z"), "2026-04-01", "2026-04-13"),
            // Never more than 14 months, and then from the first of a month.
            ("2026-05-20T00:00:00Z", 10, Some("2020-01-15T00:00:00Z"), "2025-04-01", "2026-05-21"),
            // A last poll in the future (a clock that was wrong) changes nothing.
            ("2026-05-20T00:00:00Z", 10, Some("2027-01-01T00:00:00Z"), "2026-05-01", "2026-05-21"),
        ] {
            let window = Window::due(Granularity::Daily, at(now), settle, last.map(at));
            assert_eq!(
                (window.aws_start().as_str(), window.aws_end().as_str()),
                (from, end),
                "{now} {last:?}"
            );
        }
    }

    #[test]
    fn a_month_is_all_its_days_and_settles_in_the_next() {
        for (day, settle, from, end, settles) in [
            ("2026-03-15", 10, "2026-03-01", "2026-04-01", "2026-04-10"),
            ("2026-12-01", 0, "2026-12-01", "2027-01-01", "2027-01-01"),
            ("2024-02-29", 1, "2024-02-01", "2024-03-01", "2024-03-01"),
            ("2026-01-31", 31, "2026-01-01", "2026-02-01", "2026-02-28"),
        ] {
            let month: Date = day.parse().unwrap();
            let window = Window::month(month);
            assert_eq!((window.aws_start().as_str(), window.aws_end().as_str()), (from, end), "{day}");
            assert_eq!(settles_on(month, settle).to_string(), settles, "{day}");
        }
    }

    #[test]
    fn a_window_reaches_back_to_the_month_of_a_missing_row() {
        let window = Window::due(Granularity::Daily, at("2026-05-25T00:00:00Z"), 10, None);
        for (day, from) in [
            ("2026-05-20", "2026-05-01"),
            ("2026-03-31", "2026-03-01"),
            ("2020-01-15", "2025-04-01"),
            ("2026-03-31T05", "2026-05-01"),
        ] {
            let reaching = window.reaching(Period::from_label(day).unwrap());
            assert_eq!((reaching.aws_start().as_str(), reaching.until), (from, window.until), "{day}");
        }
        let hourly = Window::due(Granularity::Hourly, at("2026-05-25T00:00:00Z"), 10, None);
        assert_eq!(hourly.reaching(Period::from_label("2026-03-31T05").unwrap()), hourly);
    }

    #[test]
    fn a_window_covers_what_lies_within_it() {
        let window = |from: &str, until: &str| Window {
            from: Period::from_label(from).unwrap(),
            until: Period::from_label(until).unwrap(),
        };
        let march = window("2026-03-01", "2026-04-01");
        for (other, expected) in [
            (march, true),
            (window("2026-03-05", "2026-03-06"), true),
            (window("2026-02-28", "2026-03-06"), false),
            (window("2026-03-05", "2026-04-02"), false),
            (window("2026-03-05T00", "2026-03-06T00"), false),
        ] {
            assert_eq!(march.covers(&other), expected, "{other:?}");
        }
    }

    #[test]
    fn a_window_names_every_month_it_touches() {
        for (from, until, expected) in [
            ("2026-03-01", "2026-04-01", "2026-03-01"),
            ("2026-03-01", "2026-04-02", "2026-03-01 2026-04-01"),
            ("2025-12-31", "2026-02-01", "2025-12-01 2026-01-01"),
            ("2026-02-20T05", "2026-03-01T00", "2026-02-01"),
            ("2026-02-20T05", "2026-03-01T01", "2026-02-01 2026-03-01"),
        ] {
            let window =
                Window { from: Period::from_label(from).unwrap(), until: Period::from_label(until).unwrap() };
            let months: Vec<_> = window.months().map(|month| month.to_string()).collect();
            assert_eq!(months.join(" "), expected, "{from} {until}");
        }
    }

    #[test]
    fn hourly_windows_are_whole_hours_within_fourteen_days() {
        for (now, from, end) in [
            ("2026-03-15T08:00:00Z", "2026-03-01T10:00:00Z", "2026-03-15T08:00:00Z"),
            ("2026-03-15T08:30:00Z", "2026-03-01T10:00:00Z", "2026-03-15T08:00:00Z"),
            ("2026-03-15T08:59:59Z", "2026-03-01T10:00:00Z", "2026-03-15T08:00:00Z"),
            ("2026-01-01T00:10:00Z", "2025-12-18T02:00:00Z", "2026-01-01T00:00:00Z"),
        ] {
            let window = Window::due(Granularity::Hourly, at(now), 10, None);
            assert_eq!((window.aws_start().as_str(), window.aws_end().as_str()), (from, end), "{now}");
        }
    }

    proptest! {
        /// What AWS refuses is never asked: an end past the first of the next month, a start later
        /// than today or before the history, an hourly start more than 14 days ago.
        #[test]
        fn windows_stay_within_what_aws_takes(
            now in 1_500_000_000_i64..2_500_000_000,
            last in proptest::option::of(1_400_000_000_i64..2_600_000_000),
            settle in 0_u8..=40,
            hourly: bool,
        ) {
            let now = Timestamp::from_second(now).unwrap();
            let last = last.map(|s| Timestamp::from_second(s).unwrap());
            let granularity = if hourly { Granularity::Hourly } else { Granularity::Daily };
            let window = Window::due(granularity, now, settle, last);
            prop_assert!(window.from < window.until);
            let today = utc_date(now);
            prop_assert!(window.from.date() <= today);
            if hourly {
                prop_assert!(window.until.start() <= now);
                prop_assert!(now.duration_since(window.from.start()) <= SignedDuration::from_hours(335));
                prop_assert!(window.until.hours() - window.from.hours() <= 336);
            } else {
                prop_assert!(window.contains(Period::day(today)));
                prop_assert_eq!(window.until, Period::day(today).next());
                prop_assert_eq!(window.from.date().day(), 1);
                prop_assert!(window.from.date() >= today.first_of_month().saturating_sub(13.months()));
            }
        }

        /// However polls are spaced, within the history no day is left between two windows, and a
        /// month is read on or after its settling day once polls go on that long.
        #[test]
        fn polls_leave_no_gap(
            start in 1_500_000_000_i64..2_000_000_000,
            gaps in proptest::collection::vec(1_i64..86_400 * 90, 1..12),
            settle in 0_u8..=31,
        ) {
            let mut last = Timestamp::from_second(start).unwrap();
            let mut previous = Window::due(Granularity::Daily, last, settle, None);
            for gap in gaps {
                let now = last.checked_add(SignedDuration::from_secs(gap)).unwrap();
                let window = Window::due(Granularity::Daily, now, settle, Some(last));
                prop_assert!(window.from <= previous.until, "a gap");
                prop_assert!(window.from.date() <= utc_date(last).first_of_month(), "the open month is re-read");
                if utc_date(last).day() < i8::try_from(settle).unwrap() {
                    prop_assert!(window.from <= previous.from.max(window.from), "an unsettled month is re-read");
                    let before = utc_date(last).first_of_month().saturating_sub(1.month());
                    prop_assert!(window.from.date() <= before);
                }
                (last, previous) = (now, window);
            }
        }
    }
}
