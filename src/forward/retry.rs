//! What an endpoint's answer means, and when to try again. Pure.
//!
//! | answer | meaning |
//! |---|---|
//! | 2xx | taken |
//! | 408, 425, 429, 5xx, no answer at all | not now: again after a pause, or after `Retry-After` |
//! | any other 4xx, 410 included | never: refused |
//! | 3xx | the wrong address: nothing is followed |

use std::time::Duration;

use jiff::{Timestamp, fmt::strtime, tz::Offset};

/// No endpoint may keep an event waiting longer with one `Retry-After`.
const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(1);

/// What the status of an answer says about what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the receiver's from now on.
    Taken,
    /// Perhaps later.
    NotNow,
    /// Not this, however often.
    Refused,
    /// Somewhere else.
    Moved,
}

/// Judges a status code.
pub(super) const fn judge(status: u16) -> Verdict {
    match status {
        200..=299 => Verdict::Taken,
        300..=399 => Verdict::Moved,
        408 | 425 | 429 | 500.. => Verdict::NotNow,
        _ => Verdict::Refused,
    }
}

/// Pauses between attempts, and when there is no further one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Before the second attempt; doubled before each further one.
    pub first: Duration,
    /// No pause is longer.
    pub longest: Duration,
    /// An event that failed for so long is given up; `None`: never.
    pub give_up: Option<Duration>,
}

impl RetryPolicy {
    /// The pause after so many failed attempts, at least half of it for certain and the rest by
    /// chance, so that those who failed together do not come back together.
    pub(super) fn pause(self, failed: u32, chance: u64) -> Duration {
        let doubled = 1_u32.checked_shl(failed.saturating_sub(1)).unwrap_or(u32::MAX);
        let whole = self.first.saturating_mul(doubled).min(self.longest);
        let half = whole / 2;
        let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
        half + Duration::from_nanos(chance % nanos.saturating_add(1))
    }

    /// Whether an event whose attempts have failed for so long is given up.
    pub(super) fn is_over(self, failing: Duration) -> bool {
        self.give_up.is_some_and(|limit| failing >= limit)
    }

    /// How long an event that fails since so long may still wait: then it is tried for the last time.
    pub(super) fn left(self, failing: Duration) -> Duration {
        self.give_up.map_or(Duration::MAX, |limit| limit.saturating_sub(failing))
    }
}

/// How long `Retry-After` asks to wait: seconds, or a date in any of HTTP's three forms (RFC 9110,
/// 10.2.3 and 5.6.7). `None` where it is neither. At most an hour.
pub(super) fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        value.parse().map_or(LONGEST_RETRY_AFTER, Duration::from_secs)
    } else {
        Duration::try_from(http_date(value)?.duration_since(now)).unwrap_or(Duration::ZERO)
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

fn http_date(text: &str) -> Option<Timestamp> {
    // Today's form, that of RFC 850, that of C's asctime; the last has no zone, and means UTC.
    ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"]
        .iter()
        .find_map(|form| strtime::parse(form, text).ok()?.to_datetime().ok())
        .and_then(|time| Offset::UTC.to_timestamp(time).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn statuses_mean_what_the_table_says() {
        for (statuses, verdict) in [
            (&[200, 201, 202, 204, 299][..], Verdict::Taken),
            (&[300, 301, 302, 303, 304, 307, 308], Verdict::Moved),
            (&[408, 425, 429, 500, 501, 502, 503, 504, 599], Verdict::NotNow),
            (&[400, 401, 403, 404, 405, 409, 410, 413, 415, 422, 451, 499], Verdict::Refused),
        ] {
            for status in statuses {
                assert_eq!(judge(*status), verdict, "{status}");
            }
        }
    }

    const POLICY: RetryPolicy = RetryPolicy {
        first: Duration::from_secs(1),
        longest: Duration::from_mins(1),
        give_up: Some(Duration::from_mins(10)),
    };

    #[test]
    fn pauses_double_up_to_the_longest() {
        let whole: Vec<_> = (1..=9).map(|failed| POLICY.pause(failed, 0) * 2).collect();
        assert_eq!(whole, [1, 2, 4, 8, 16, 32, 60, 60, 60].map(Duration::from_secs));
        assert_eq!(POLICY.pause(u32::MAX, 0), Duration::from_secs(30));
    }

    proptest! {
        #[test]
        fn a_pause_is_between_half_and_all_of_its_step(failed in 1_u32.., chance: u64) {
            let whole = POLICY.pause(failed, 0) * 2;
            let pause = POLICY.pause(failed, chance);
            prop_assert!(whole / 2 <= pause && pause <= whole, "{pause:?} of {whole:?}");
        }
    }

    #[test]
    fn an_event_is_given_up_after_its_time_or_never() {
        assert!(!POLICY.is_over(Duration::from_secs(599)));
        assert!(POLICY.is_over(Duration::from_mins(10)));
        assert_eq!(POLICY.left(Duration::from_secs(590)), Duration::from_secs(10));
        assert!(!RetryPolicy { give_up: None, ..POLICY }.is_over(Duration::MAX));
    }

    #[test]
    fn retry_after_is_read_in_every_form() {
        let now: Timestamp = "1994-11-06T08:49:30Z".parse().unwrap();
        for (text, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(7)),
            ("Sun Nov  6 08:49:37 1994", Some(7)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("86400", Some(3600)),
            ("99999999999999999999999", Some(3600)),
            ("Fri, 31 Dec 1999 23:59:59 GMT", Some(3600)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
        ] {
            assert_eq!(retry_after(text, now), seconds.map(Duration::from_secs), "{text:?}");
        }
    }
}
