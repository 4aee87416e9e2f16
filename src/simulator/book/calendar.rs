//! Days, months and the instants at which AWS's books change, all in UTC.
//!
//! Days are counted from 1970-01-01; instants are seconds since then.

use jiff::civil::{Date, date as civil_date};

use super::charges::Origin;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// AWS refreshes Cost Explorer up to three times a day; here at 2, 10 and 18 o'clock.
const REFRESH: i64 = 8 * HOUR;
const FIRST_REFRESH: i64 = 2 * HOUR;

/// The date of a day.
pub(crate) fn date(day: i32) -> Date {
    civil_date(1970, 1, 1).saturating_add(jiff::Span::new().days(i64::from(day).clamp(-4_000_000, 2_900_000)))
}

/// The day of a date.
pub(crate) fn day(date: Date) -> i32 {
    let since = date.duration_since(civil_date(1970, 1, 1));
    i32::try_from(since.as_secs().div_euclid(DAY)).expect("every jiff date is within 2^31 days of 1970")
}

/// The first day of the month of a day.
pub(crate) fn month(of: i32) -> i32 {
    day(date(of).first_of_month())
}

/// The first day of the next month.
pub(crate) fn next_month(of: i32) -> i32 {
    month(of) + days_in_month(of)
}

/// How many days the month of a day has.
pub(crate) fn days_in_month(of: i32) -> i32 {
    i32::from(date(of).days_in_month())
}

/// Sunday is 0.
pub(crate) const fn weekday(day: i32) -> i32 {
    (day + 4).rem_euclid(7)
}

/// Growth of the company in per mille of January 2024: six a month.
pub(crate) fn growth(day: i32) -> i64 {
    let date = date(day);
    let months = (i64::from(date.year()) - 2024) * 12 + i64::from(date.month()) - 1;
    (1000 + 6 * months).clamp(250, 10_000)
}

/// The last refresh at or before an instant: what the books showed then, they show until the next.
pub(crate) const fn refreshed(instant: i64) -> i64 {
    (instant - FIRST_REFRESH).div_euclid(REFRESH) * REFRESH + FIRST_REFRESH
}

/// When the month of a day is closed: on the 3rd, 4th or 5th of the next one, at 18 o'clock.
/// From then on its rows are not `Estimated`.
pub(crate) fn closed(origin: Origin, of: i32) -> i64 {
    let next = next_month(of);
    (i64::from(next) + 2 + origin.below(3, 200, i64::from(next), 0)) * DAY + 18 * HOUR
}

/// When the support fee of the month of a day appears: on the 6th of the next one, at 18 o'clock.
pub(crate) fn support_booked(of: i32) -> i64 {
    (i64::from(next_month(of)) + 5) * DAY + 18 * HOUR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_agree() {
        for (text, number, weekday_number) in
            [("1970-01-01", 0, 4), ("2024-02-29", 19782, 4), ("2026-11-01", 20758, 0)]
        {
            let parsed: Date = text.parse().unwrap();
            assert_eq!(day(parsed), number, "{text}");
            assert_eq!(date(number), parsed);
            assert_eq!(weekday(number), weekday_number, "{text}");
        }
        assert_eq!(date(month(19782)).to_string(), "2024-02-01");
        assert_eq!(date(next_month(19782)).to_string(), "2024-03-01");
    }

    #[test]
    fn the_books_are_refreshed_three_times_a_day() {
        for (instant, hour) in [(0, -6), (2, 2), (9, 2), (10, 10), (18, 18), (23, 18), (26, 26)] {
            assert_eq!(refreshed(instant * HOUR), hour * HOUR, "{instant}");
        }
        assert_eq!(refreshed(2 * HOUR - 1), -6 * HOUR);
    }

    #[test]
    fn a_month_closes_between_the_3rd_and_the_5th() {
        let mut seen = [0; 6];
        for month in 0..40 {
            let origin = Origin { seed: 1, payer: 111_122_223_333 };
            let closing = closed(origin, 19_000 + month * 31);
            let day_of_month = date(i32::try_from(closing / DAY).unwrap()).day();
            seen[usize::try_from(day_of_month).unwrap()] += 1;
            assert_eq!(refreshed(closing), closing);
        }
        assert_eq!(seen[..3], [0, 0, 0]);
        assert!(seen[3..].iter().all(|&months| months > 3), "{seen:?}");
    }
}
