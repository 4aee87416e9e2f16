//! Periods: whole UTC days and whole UTC hours, end exclusive.

use std::fmt;

use compact_str::CompactString;
use jiff::{Timestamp, civil::Date};

use super::utc::{date_text, midnight, parse_instant, parse_label, two_digits, utc_date};

const HOUR: i64 = 3600;

/// How finely AWS is asked: per day or per hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Granularity {
    /// Whole UTC days; history of 14 months.
    Daily,
    /// Whole UTC hours; a paid opt-in, history of 14 days.
    Hourly,
}

impl Granularity {
    /// Both, in the order they are polled.
    pub const ALL: [Self; 2] = [Self::Daily, Self::Hourly];

    /// Lower case, as in keys, subjects, event types and the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Daily => "daily",
            Self::Hourly => "hourly",
        }
    }

    /// AWS's spelling, as in requests and `data.granularity`.
    pub const fn aws_name(self) -> &'static str {
        match self {
            Self::Daily => "DAILY",
            Self::Hourly => "HOURLY",
        }
    }

    /// The length of a period in hours.
    pub const fn hours(self) -> i32 {
        match self {
            Self::Daily => 24,
            Self::Hourly => 1,
        }
    }

    /// The granularity of AWS's spelling, `None` for any other text.
    pub fn from_aws_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|granularity| granularity.aws_name() == name)
    }

    /// The granularity of the lower-case name, `None` for any other text.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|granularity| granularity.name() == name)
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One period of one granularity: a UTC day or a UTC hour, end exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period {
    granularity: Granularity,
    /// Whole hours since 1970-01-01T00:00Z; a multiple of 24 for days.
    hours: i32,
}

/// A `TimePeriod` of AWS that is no whole day or hour.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{start}` to `{end}` is no {granularity} period")]
pub struct PeriodError {
    granularity: Granularity,
    start: String,
    end: String,
}

impl Period {
    /// The UTC day of a date.
    pub fn day(date: Date) -> Self {
        Self::containing(Granularity::Daily, midnight(date))
    }

    /// The period that contains an instant.
    pub fn containing(granularity: Granularity, instant: Timestamp) -> Self {
        let hours = instant.as_second().div_euclid(HOUR * i64::from(granularity.hours()))
            * i64::from(granularity.hours());
        let hours = i32::try_from(hours).expect("every jiff timestamp is within 2^31 hours of 1970");
        Self { granularity, hours }
    }

    /// The period that starts so many hours after 1970-01-01T00:00Z, as the state stores it.
    /// `None` where no period of that granularity starts then.
    pub fn from_hours(granularity: Granularity, hours: i32) -> Option<Self> {
        let aligned = hours % granularity.hours() == 0;
        let in_range = Timestamp::from_second(i64::from(hours) * HOUR).is_ok();
        (aligned && in_range).then_some(Self { granularity, hours })
    }

    /// Reads a `TimePeriod` of an answer: dates for DAILY, `yyyy-MM-ddThh:mm:ssZ` for HOURLY.
    ///
    /// # Errors
    /// When the texts are no times, or do not span exactly one period.
    pub fn parse(granularity: Granularity, start: &str, end: &str) -> Result<Self, PeriodError> {
        let error = || PeriodError { granularity, start: start.to_owned(), end: end.to_owned() };
        let starts = parse_instant(start).ok_or_else(error)?;
        let ends = parse_instant(end).ok_or_else(error)?;
        let period = Self::containing(granularity, starts);
        if period.start() == starts && period.end() == ends { Ok(period) } else { Err(error()) }
    }

    /// Reads the text of [`Period::label`].
    pub fn from_label(label: &str) -> Option<Self> {
        let (midnight, hour) = parse_label(label)?;
        let day = Self::containing(Granularity::Daily, midnight);
        match hour {
            None => Some(day),
            Some(hour) => Self::from_hours(Granularity::Hourly, day.hours + i32::from(hour)),
        }
    }

    /// Day or hour.
    pub const fn granularity(self) -> Granularity {
        self.granularity
    }

    /// Whole hours since 1970-01-01T00:00Z at the start.
    pub const fn hours(self) -> i32 {
        self.hours
    }

    /// The first instant of the period.
    pub fn start(self) -> Timestamp {
        at_hour(self.hours)
    }

    /// The first instant after the period.
    pub fn end(self) -> Timestamp {
        at_hour(self.hours + self.granularity.hours())
    }

    /// The UTC date the period starts on.
    pub fn date(self) -> Date {
        utc_date(self.start())
    }

    /// The next period of the same granularity.
    #[must_use]
    pub fn next(self) -> Self {
        Self { hours: self.hours + self.granularity.hours(), ..self }
    }

    /// As in keys and subjects: `2023-01-27`, or `2023-01-27T13` for an hour.
    pub fn label(self) -> CompactString {
        let mut label = self.date_text();
        if self.granularity == Granularity::Hourly {
            push_hour(&mut label, self.hours);
        }
        label
    }

    /// As in `data.date` and in requests: `2023-01-27`, or `2023-01-27T13:00:00Z` for an hour.
    pub fn aws_start(self) -> CompactString {
        match self.granularity {
            Granularity::Daily => self.date_text(),
            Granularity::Hourly => self.start_text(),
        }
    }

    /// The first instant, as in events: `2023-01-27T00:00:00Z`.
    pub fn start_text(self) -> CompactString {
        let mut text = self.date_text();
        push_hour(&mut text, self.hours);
        text.push_str(":00:00Z");
        text
    }

    /// The first instant after the period, in the same form.
    pub fn end_text(self) -> CompactString {
        self.next().start_text()
    }

    fn date_text(self) -> CompactString {
        date_text(self.date())
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label())
    }
}

/// `T13`: the hour of the day.
fn push_hour(text: &mut CompactString, hours: i32) {
    text.push('T');
    text.push_str(two_digits(u16::try_from(hours.rem_euclid(24)).unwrap_or(0)));
}

/// A period that begins in range may end behind it, and then ends with the last instant there is.
fn at_hour(hours: i32) -> Timestamp {
    Timestamp::from_second(i64::from(hours) * HOUR).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn aws_periods_are_read_whole_or_not_at_all() {
        for (granularity, start, end, label) in [
            (Granularity::Daily, "2023-01-27", "2023-01-28", Some("2023-01-27")),
            (Granularity::Daily, "2024-02-28", "2024-02-29", Some("2024-02-28")),
            (Granularity::Daily, "2023-01-27T00:00:00Z", "2023-01-28T00:00:00Z", Some("2023-01-27")),
            (Granularity::Hourly, "2023-01-27T13:00:00Z", "2023-01-27T14:00:00Z", Some("2023-01-27T13")),
            (Granularity::Hourly, "2023-12-31T23:00:00Z", "2024-01-01T00:00:00Z", Some("2023-12-31T23")),
            (Granularity::Daily, "2023-01-01", "2023-02-01", None),
            (Granularity::Daily, "2023-02-30", "2023-03-01", None),
            (Granularity::Hourly, "2023-01-27T13:30:00Z", "2023-01-27T14:30:00Z", None),
            (Granularity::Hourly, "2023-01-27", "2023-01-28", None),
            (Granularity::Daily, "", "", None),
        ] {
            let period = Period::parse(granularity, start, end).ok();
            assert_eq!(period.map(Period::label).as_deref(), label, "{start} {end}");
        }
    }

    /// Whoever writes it; nothing panics.
    #[test]
    fn the_last_day_there_is() {
        assert_eq!(Period::from_label("9999-12-31"), None);
        assert!(Period::parse(Granularity::Daily, "9999-12-30", "9999-12-31").is_err());
        let last = Period::from_label("9999-12-30").unwrap();
        assert_eq!((last.label(), last.end()), ("9999-12-30".into(), Timestamp::MAX));
        assert_eq!(last.next().end(), Timestamp::MAX);
        let hour = Period::from_label("9999-12-30T22");
        assert_eq!(hour.map(Period::end), Some(Timestamp::MAX));
        assert_eq!(Period::from_label("9999-12-30T23"), None);
    }

    proptest! {
        #[test]
        fn labels_and_hours_round_trip(seconds in 0_i64..4_000_000_000, hourly: bool) {
            let granularity = if hourly { Granularity::Hourly } else { Granularity::Daily };
            let period = Period::containing(granularity, Timestamp::from_second(seconds).unwrap());
            prop_assert!(period.start().as_second() <= seconds && seconds < period.end().as_second());
            prop_assert_eq!(Period::from_label(&period.label()), Some(period));
            prop_assert_eq!(Period::from_hours(granularity, period.hours()), Some(period));
            prop_assert_eq!(period.next().start(), period.end());
            // As jiff writes them.
            prop_assert_eq!(period.start_text(), period.start().to_string());
            prop_assert_eq!(period.end_text(), period.end().to_string());
        }
    }
}
