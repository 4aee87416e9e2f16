//! Dates and instants in UTC, and their texts.
//!
//! A row has half a dozen of these texts, and a million rows are read at a start. Written as usual they
//! are read and written digit by digit, at a tenth of the price; jiff reads all others.

use compact_str::{CompactString, ToCompactString as _};
use jiff::{Timestamp, civil::Date, tz::Offset};

/// The UTC date of an instant.
pub fn utc_date(instant: Timestamp) -> Date {
    Offset::UTC.to_datetime(instant).date()
}

/// Midnight UTC at the start of a date; of 9999-12-31, which is out of range, the last instant there is.
pub fn midnight(date: Date) -> Timestamp {
    midnight_in_range(date).unwrap_or(Timestamp::MAX)
}

fn midnight_in_range(date: Date) -> Option<Timestamp> {
    Offset::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok()
}

/// A date, which is its midnight, or an instant: `2023-01-27`, `2023-01-27T13:00:00Z`, and whatever else
/// jiff takes for one.
pub(crate) fn parse_instant(text: &str) -> Option<Timestamp> {
    if let Some((date, time)) = text.as_bytes().split_first_chunk()
        && let Some(seconds) = plain_seconds(time)
        && let Some(date) = plain_date(*date)
    {
        return Timestamp::from_second(midnight_in_range(date)?.as_second() + seconds).ok();
    }
    if text.contains('T') {
        text.parse::<Timestamp>().ok()
    } else {
        text.parse::<Date>().ok().and_then(midnight_in_range)
    }
}

/// The label of a period: midnight of its date, and for an hour its two digits behind a `T`.
pub(super) fn parse_label(label: &str) -> Option<(Timestamp, Option<u8>)> {
    let (date, hour) = label.as_bytes().split_first_chunk()?;
    let hour = match *hour {
        [] => None,
        [b'T', tens, ones] => Some(two(tens, ones, 24)?),
        _ => return None,
    };
    Some((midnight_in_range(plain_date(*date)?)?, hour))
}

/// `2023-01-27`, with room for an hour behind it.
pub(super) fn date_text(date: Date) -> CompactString {
    let Ok(year) = u16::try_from(date.year()) else { return date.to_compact_string() };
    let (month, day) = (u16::from(date.month().unsigned_abs()), u16::from(date.day().unsigned_abs()));
    let mut text = CompactString::default();
    let parts = [year / 100, year % 100, month, day].map(two_digits);
    for (part, separator) in parts.iter().zip(["", "", "-", "-"]) {
        text.push_str(separator);
        text.push_str(part);
    }
    text
}

/// A number below a hundred, in two digits.
pub(super) fn two_digits(number: u16) -> &'static str {
    const DIGITS: &str = "0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849\
                          5051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";
    let place = usize::from(number % 100) * 2;
    &DIGITS[place..place + 2]
}

fn plain_date(text: [u8; 10]) -> Option<Date> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else { return None };
    let year = i16::from(two(y1, y2, 100)?) * 100 + i16::from(two(y3, y4, 100)?);
    let (month, day) = (two(m1, m2, 13)?, two(d1, d2, 32)?);
    Date::new(year, month.cast_signed(), day.cast_signed()).ok()
}

/// The seconds of the day: none, or those of `T13:00:00Z`.
fn plain_seconds(text: &[u8]) -> Option<i64> {
    match *text {
        [] => Some(0),
        [b'T', h1, h2, b':', m1, m2, b':', s1, s2, b'Z'] => {
            let [hour, minute, second] =
                [two(h1, h2, 24)?, two(m1, m2, 60)?, two(s1, s2, 60)?].map(i64::from);
            Some((hour * 60 + minute) * 60 + second)
        }
        _ => None,
    }
}

/// A number of two digits that is below a limit.
fn two(tens: u8, ones: u8, limit: u8) -> Option<u8> {
    let number =
        tens.is_ascii_digit().then(|| (tens - b'0') * 10)? + ones.is_ascii_digit().then(|| ones - b'0')?;
    (number < limit).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What jiff says, which reads more than is written as usual.
    fn general(text: &str) -> Option<Timestamp> {
        let date = |text: &str| Offset::UTC.to_timestamp(text.parse::<Date>().ok()?.at(0, 0, 0, 0)).ok();
        if text.contains('T') { text.parse().ok() } else { date(text) }
    }

    #[test]
    fn what_is_read_digit_by_digit_is_what_jiff_reads() {
        for text in [
            "2024-02-29",
            "2023-02-29",
            "0000-01-01",
            "9999-12-30",
            "9999-12-31",
            "9999-12-30T21:59:59Z",
            "9999-12-31T23:59:59Z",
            "2023-01-27T23:59:60Z",
            "2023-01-27T24:00:00Z",
            "2023-01-27T13:00:00+01:00",
            "2023-01-27t13:00:00z",
            "2023-01-27T13:00:00.5Z",
            "2023-1-27",
            "2023-01-2é",
            "2023-01-27T",
            "",
        ] {
            assert_eq!(parse_instant(text), general(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn digits_are_read_as_jiff_reads_them(
            text in "[0-9]{4}-[01][0-9]-[0-3][0-9](T[0-2][0-9]:[0-6][0-9]:[0-6][0-9]Z)?",
        ) {
            prop_assert_eq!(parse_instant(&text), general(&text));
        }

        #[test]
        fn dates_are_written_as_jiff_writes_them(seconds in -60_000_000_000_i64..250_000_000_000) {
            let date = utc_date(Timestamp::from_second(seconds).unwrap());
            prop_assert_eq!(date_text(date), date.to_string());
        }
    }
}
