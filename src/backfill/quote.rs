//! What a backfill will take: which months, at what price, and how far the budget carries it.
//!
//! Pure functions of what was asked for, the time, the configuration and the state.

use jiff::{SignedDuration, Timestamp, ToSpan as _, civil::Date};

use crate::{
    config::{BudgetConfig, Config},
    cost::{Granularity, midnight, utc_date},
    cycle::Reread,
    dedup::ConnectionState,
    poller::{Allowance, oldest_month},
};

/// Something about the command line that keeps a backfill from beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong: lower case, no final stop.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// The months from the one of a day up to the one of another, newest first, each by its first day.
///
/// Whole months: a request costs the same for a day and for a month, and Tax, Support and the sum on
/// the invoice belong to the month. The current month is left out: every poll reads it.
///
/// | | months |
/// |---|---|
/// | no `to` | up to the last month that is over |
/// | `to` in the current month | the same |
///
/// # Errors
/// Every problem at once.
pub fn months(from: Date, to: Option<Date>, today: Date) -> Result<Vec<Date>, Vec<Problem>> {
    let (oldest, current) = (oldest_month(today), today.first_of_month());
    let last = current.saturating_sub(1.month());
    let mut problems = Vec::new();
    let mut problem = |message: String, hint: String| problems.push(Problem { message, hint });
    if from > today {
        problem(format!("`--from {from}` is in the future"), format!("today is {today}, in UTC"));
    } else if from >= current {
        problem(
            format!("`--from {from}` is in the current month, which every poll reads whole"),
            format!("`run` publishes it; older months begin with `--from {last}`"),
        );
    } else if from < oldest {
        problem(
            format!(
                "`--from {from}` is older than what AWS keeps of daily data: the current month and the 13 before"
            ),
            format!("the earliest is `--from {oldest}`"),
        );
    }
    if let Some(to) = to {
        if to > today {
            problem(
                format!("`--to {to}` is in the future"),
                format!("today is {today}, in UTC; without `--to` everything up to last month is read"),
            );
        }
        if to < from {
            problem(
                format!("`--to {to}` is before `--from {from}`"),
                "both days belong to what is read".to_owned(),
            );
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut month = to.map_or(last, |to| to.first_of_month().min(last));
    let mut months = Vec::new();
    while from.first_of_month() <= month {
        months.push(month);
        month = month.saturating_sub(1.month());
    }
    Ok(months)
}

/// `2026-03`.
pub fn label(month: Date) -> String {
    month.strftime("%Y-%m").to_string()
}

/// What the backfill of one connection takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// The connection's name.
    pub connection: String,
    /// The months that are to be asked for, newest first, each with the pages it is expected to have.
    pub months: Vec<(Date, u32)>,
    /// How many of the months were read before and are not paid for again.
    pub finished: usize,
}

impl Quote {
    /// For a connection in this state.
    pub fn new(
        connection: &str,
        months: &[Date],
        reread: Reread,
        state: &ConnectionState,
        settle_days: u8,
        now: Timestamp,
    ) -> Self {
        let is_asked =
            |month: &&Date| reread == Reread::Everything || !state.has_month(**month, settle_days, now);
        let asked: Vec<_> =
            months.iter().filter(is_asked).map(|month| (*month, state.pages_of(*month))).collect();
        Self { connection: connection.to_owned(), finished: months.len() - asked.len(), months: asked }
    }

    /// Requests, each $0.01, as far as the pages are known.
    pub fn requests(&self) -> u64 {
        self.months.iter().map(|(_, pages)| u64::from(*pages)).sum()
    }

    /// Requests that are still to come once so many months are done, the largest of which had so many
    /// pages.
    pub fn rest(&self, done: usize, largest: u32) -> u64 {
        self.months.iter().skip(done).map(|(_, pages)| u64::from((*pages).max(largest))).sum()
    }

    /// The most pages a month is expected to have.
    pub fn pages_per_month(&self) -> u32 {
        self.months.iter().map(|(_, pages)| *pages).max().unwrap_or(0)
    }
}

/// The requests that the polls of every connection will still need: on this UTC day and in this UTC
/// month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Until midnight.
    pub today: u32,
    /// On a whole day.
    pub day: u32,
    /// Until the end of the month.
    pub month: u32,
}

impl Kept {
    /// As the connections are configured; `states` by connection name, where one is known.
    pub fn for_polls<'a>(
        config: &Config,
        now: Timestamp,
        state_of: impl Fn(&str) -> Option<&'a ConnectionState>,
    ) -> Self {
        let today = utc_date(now);
        let until = |date: Date| midnight(date).duration_since(now);
        let pages = |granularity: Granularity, name: &str| {
            state_of(name).map_or(1, |state| state.poll(granularity).pages.max(1))
        };
        let mut pages_per_poll = 0_u32;
        for connection in &config.connections {
            for granularity in &connection.granularity {
                pages_per_poll = pages_per_poll.saturating_add(pages(*granularity, &connection.name));
            }
        }
        let interval = config.poll.interval.as_millis().max(1);
        let polls = |left: SignedDuration| {
            let polls = left.as_millis().unsigned_abs().div_ceil(interval);
            u32::try_from(polls).unwrap_or(u32::MAX).saturating_mul(pages_per_poll)
        };
        Self {
            today: polls(until(today.saturating_add(1.day()))),
            day: polls(SignedDuration::from_hours(24)),
            month: polls(until(today.first_of_month().saturating_add(1.month()))),
        }
    }

    /// What is left of a budget for a backfill.
    pub fn leaves(self, budget: BudgetConfig) -> BudgetConfig {
        BudgetConfig {
            requests_per_day: budget.requests_per_day.map(|cap| cap.saturating_sub(self.today)),
            requests_per_month: budget.requests_per_month.map(|cap| cap.saturating_sub(self.month)),
        }
    }
}

/// How far a budget carries the quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// To their end.
    Whole,
    /// So many months; the first one out of reach, and whose it is.
    Part {
        /// Months that can be read now.
        months: usize,
        /// The first that cannot.
        stops_at: Date,
        /// The connection it is of.
        connection: String,
    },
}

impl Reach {
    /// Of quotes, in their order, with so much left.
    pub fn of(quotes: &[Quote], mut left: Allowance) -> Self {
        let mut months = 0;
        for quote in quotes {
            for (month, pages) in &quote.months {
                if !left.covers(*pages) {
                    return Self::Part { months, stops_at: *month, connection: quote.connection.clone() };
                }
                left = left.after(*pages);
                months += 1;
            }
        }
        Self::Whole
    }
}

/// The price as a table for people, with a line for all where there are several.
pub fn table(quotes: &[Quote], from: &str, to: &str) -> String {
    let width = quotes.iter().map(|quote| quote.connection.len()).max().unwrap_or(0);
    let width = width.max("connection".len());
    let row = |cells: [&str; 6]| {
        let [name, span, finished, months, requests, price] = cells;
        format!("{name:<width$}  {span:<18}  {finished:>8}  {months:>6}  {requests:>8}  {price:>7}\n")
    };
    let mut text = row(["connection", "months", "finished", "to ask", "requests", "price"]);
    let span = format!("{from} to {to}");
    let (mut all_months, mut all) = (0, 0);
    for quote in quotes {
        let (months, requests) = (quote.months.len(), quote.requests());
        all_months += months;
        all += requests;
        let counts = [quote.finished.to_string(), months.to_string(), requests.to_string()];
        text += &row([&quote.connection, &span, &counts[0], &counts[1], &counts[2], &dollars(requests)]);
    }
    if quotes.len() > 1 {
        text += &row(["all", "", "", &all_months.to_string(), &all.to_string(), &dollars(all)]);
    }
    text + "Each page of an answer is a request of $0.01; how many a month has is known once it has come.\n"
}

/// `$0.13` for 13 requests.
pub fn dollars(requests: u64) -> String {
    format!("${}.{:02}", requests / 100, requests % 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dedup::MonthState;

    fn date(text: &str) -> Date {
        text.parse().unwrap()
    }

    #[test]
    fn months_are_whole_newest_first_and_end_before_the_current_one() {
        let today = date("2026-11-25");
        for (from, to, expected) in [
            ("2026-09-15", None, "2026-10 2026-09"),
            ("2026-09-15", Some("2026-11-25"), "2026-10 2026-09"),
            ("2026-09-15", Some("2026-09-15"), "2026-09"),
            ("2025-12-31", Some("2026-02-01"), "2026-02 2026-01 2025-12"),
        ] {
            let months = months(date(from), to.map(date), today).unwrap();
            let labels: Vec<_> = months.into_iter().map(label).collect();
            assert_eq!(labels.join(" "), expected, "{from} {to:?}");
        }
        assert_eq!(months(date("2025-10-01"), None, today).unwrap().len(), 13);
    }

    #[test]
    fn what_cannot_be_had_is_refused_all_at_once() {
        let today = date("2026-11-25");
        for (from, to, words) in [
            ("2026-11-26", None, &["future"][..]),
            ("2026-11-01", None, &["current month"]),
            ("2025-09-30", None, &["older than what AWS keeps"]),
            ("2026-10-01", Some("2026-11-26"), &["`--to 2026-11-26` is in the future"]),
            ("2026-10-02", Some("2026-10-01"), &["before `--from"]),
            (
                "2027-01-01",
                Some("2026-12-01"),
                &["`--from 2027", "`--to 2026-12-01` is in", "before `--from"],
            ),
        ] {
            let problems = months(date(from), to.map(date), today).unwrap_err();
            assert_eq!(problems.len(), words.len(), "{problems:?}");
            for (problem, words) in problems.iter().zip(words) {
                assert!(problem.message.contains(words), "{problem:?}");
            }
        }
        assert!(months(date("2025-10-01"), None, today).is_ok(), "the hint holds");
    }

    #[test]
    fn a_quote_counts_what_is_not_finished() {
        let now = "2026-11-25T00:00:00Z".parse().unwrap();
        let all = months(date("2026-08-01"), None, date("2026-11-25")).unwrap();
        let mut state = ConnectionState::default();
        let read = MonthState { read_at: Some(now), pages: 3, missing: Vec::new() };
        state.note_month(all[0], read, now);
        let quote = |reread| Quote::new("main", &all, reread, &state, 10, now);
        let rest = quote(Reread::Unfinished);
        assert_eq!((rest.finished, rest.months.len(), rest.requests()), (1, 2, 6));
        let everything = quote(Reread::Everything);
        assert_eq!((everything.finished, everything.requests(), everything.pages_per_month()), (0, 9, 3));
        assert_eq!(dollars(everything.requests()), "$0.09");
        assert_eq!((everything.rest(1, 0), everything.rest(1, 5), everything.rest(3, 5)), (6, 10, 0));
    }

    /// Polls every 8 hours of a daily and an hourly granularity, in the state as of 3 pages and 1.
    #[test]
    fn what_the_polls_still_need_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("billing.toml");
        std::fs::write(&file, "[[connections]]\nname = \"main\"\ngranularity = [\"daily\", \"hourly\"]\n")
            .unwrap();
        let config = crate::config::load(&[file], []).unwrap().config;
        let mut state = ConnectionState::default();
        state.poll_mut(Granularity::Daily).pages = 3;
        for (now, today, month) in [
            ("2026-11-25T00:00:00Z", 12, 6 * 12),
            ("2026-11-25T07:59:59Z", 12, 6 * 12),
            ("2026-11-25T08:00:00Z", 8, 6 * 12 - 4),
            ("2026-11-30T23:59:59Z", 4, 4),
        ] {
            let kept = Kept::for_polls(&config, now.parse().unwrap(), |_| Some(&state));
            assert_eq!(kept, Kept { today, day: 12, month }, "{now}");
        }
        let kept = Kept::for_polls(&config, "2026-11-25T08:00:00Z".parse().unwrap(), |_| None);
        assert_eq!((kept.today, kept.day), (4, 6), "a page each where nothing is known");
        let budget = |day, month| BudgetConfig { requests_per_day: day, requests_per_month: month };
        assert_eq!(kept.leaves(budget(Some(24), None)), budget(Some(20), None));
        assert_eq!(kept.leaves(budget(Some(3), Some(40))), budget(Some(0), Some(40 - kept.month)));
    }

    #[test]
    fn a_budget_reaches_as_many_months_as_it_holds_whole() {
        let quote = |name: &str| Quote {
            connection: name.to_owned(),
            months: vec![(date("2026-10-01"), 2), (date("2026-09-01"), 3)],
            finished: 0,
        };
        let quotes = [quote("a"), quote("b")];
        let part = |months, stops_at: &str, name: &str| Reach::Part {
            months,
            stops_at: date(stops_at),
            connection: name.to_owned(),
        };
        for (left, expected) in [
            (Allowance::Unlimited, Reach::Whole),
            (Allowance::Requests(10), Reach::Whole),
            (Allowance::Requests(9), part(3, "2026-09-01", "b")),
            (Allowance::Requests(4), part(1, "2026-09-01", "a")),
            (Allowance::Requests(0), part(0, "2026-10-01", "a")),
        ] {
            assert_eq!(Reach::of(&quotes, left), expected, "{left:?}");
        }
    }
}
