//! The terms of a backfill: price and budget as people are told them, and their consent.

use std::io::{self, IsTerminal as _, Write as _};

use indicatif::ProgressBar;
use jiff::{Timestamp, civil::Date};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::quote::{self, Kept, Quote, Reach, dollars, label};
use crate::{
    config::{BudgetConfig, Config},
    cycle::budget_resets_at,
    dedup::ConnectionState,
    poller::{Allowance, Spent},
};

/// What everything will take, and what the budget holds of it.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) quotes: Vec<Quote>,
    states: Vec<ConnectionState>,
    kept: Kept,
    budget: BudgetConfig,
    left: Allowance,
    reach: Reach,
    /// When the budget holds more again, where it does not hold everything.
    resumes: Timestamp,
}

impl Terms {
    /// For these quotes, with what every connection has spent so far.
    pub(super) fn new(
        config: &Config,
        now: Timestamp,
        quotes: Vec<Quote>,
        states: Vec<ConnectionState>,
    ) -> Self {
        let kept = Kept::for_polls(config, now, |name| newest(&states, name));
        let budget = kept.leaves(config.budget);
        let spent: Vec<Spent> = states.iter().map(|state| state.spent).collect();
        let left = Allowance::left(budget, now, &spent);
        let reach = Reach::of(&quotes, left);
        let resumes = budget_resets_at(now, budget, &spent, 1);
        Self { quotes, states, kept, budget: config.budget, left, reach, resumes }
    }

    /// The budget of the moment without what the polls of every connection will still need.
    pub(super) fn left_for_us(&self, config: &Config, now: Timestamp) -> BudgetConfig {
        Kept::for_polls(config, now, |name| newest(&self.states, name)).leaves(self.budget)
    }

    pub(super) fn requests(&self) -> u64 {
        self.quotes.iter().map(Quote::requests).sum()
    }

    /// How many months are to be read.
    pub(super) fn months(&self) -> usize {
        self.quotes.iter().map(|quote| quote.months.len()).sum()
    }

    /// How many of them the budget holds now.
    pub(super) fn months_held(&self) -> usize {
        match &self.reach {
            Reach::Whole => self.months(),
            Reach::Part { months, .. } => *months,
        }
    }

    /// Tells people: a table on a terminal, log lines in a pipe; on stderr either way, stdout is for
    /// events.
    pub(super) fn tell(&self, months: &[Date]) {
        let (first, last) = (months.last().copied(), months.first().copied());
        let [first, last] = [first, last].map(|month| month.map(label).unwrap_or_default());
        if io::stderr().is_terminal() {
            let text = quote::table(&self.quotes, &first, &last) + &self.budget_sentence();
            if let Err(error) = io::stderr().write_all(text.as_bytes()) {
                debug!("stderr is closed: {error}");
            }
            return;
        }
        for quote in &self.quotes {
            let (requests, price) = (quote.requests(), dollars(quote.requests()));
            let (connection, months) = (&*quote.connection, quote.months.len());
            let finished = quote.finished;
            info!(connection, from = first, to = last, months, finished, requests, price, "planned");
        }
        let (Allowance::Requests(left), kept) = (self.left, self.kept.today) else { return };
        match &self.reach {
            Reach::Whole => info!(left, kept_for_polls = kept, "the request budget holds it"),
            Reach::Part { months, stops_at, connection } => {
                let (of, until, stops_before) = (self.months(), self.resumes, label(*stops_at));
                warn!(
                    left, kept_for_polls = kept, months, of, stops_before, connection, %until,
                    hint = self.hint(), "the request budget does not hold it all"
                );
            }
        }
    }

    /// What the budget means for it, a line; nothing where there is no cap.
    fn budget_sentence(&self) -> String {
        let Allowance::Requests(left) = self.left else { return String::new() };
        let holds = format!("requests left for it: {left}; kept for today's polls: {}", self.kept.today);
        match &self.reach {
            Reach::Whole => format!("The budget holds it ({holds}).\n"),
            Reach::Part { months, stops_at, connection } => format!(
                "The budget does not hold it all ({holds}): it will read {months} of {} months and stop before \
                 {} of `{connection}`.\n  hint: {}\n",
                self.months(),
                label(*stops_at),
                self.hint()
            ),
        }
    }

    /// What to do where the budget does not hold everything.
    fn hint(&self) -> String {
        let keys = "`budget.requests_per_day` or `requests_per_month`";
        if self.never_holds() {
            return format!(
                "the polls need the budget of a whole day: raise {keys} for the time of the backfill"
            );
        }
        format!("give the same command again after {}, or raise {keys}", self.resumes)
    }

    /// Whether even a fresh day has nothing over for the largest month.
    fn never_holds(&self) -> bool {
        let largest = self.quotes.iter().map(Quote::pages_per_month).max().unwrap_or(0);
        let day = self.budget.requests_per_day.map(|cap| cap.saturating_sub(self.kept.day));
        day.is_some_and(|left| left < largest)
            || self.budget.requests_per_month.is_some_and(|cap| cap < largest)
    }
}

/// The state that a name has now: of several, written under other filters, the one last spent from.
fn newest<'s>(states: &'s [ConnectionState], name: &str) -> Option<&'s ConnectionState> {
    states.iter().filter(|state| state.name == name).max_by_key(|state| state.spent.day)
}

/// Asks on the terminal. `false` also when told to stop, or where no answer can be read.
pub(super) async fn confirmed(
    question: String,
    bar: Option<ProgressBar>,
    shutdown: &CancellationToken,
) -> bool {
    let ask = tokio::task::spawn_blocking(move || {
        let ask = || dialoguer::Confirm::new().with_prompt(question).default(false).interact_opt();
        match bar {
            Some(bar) => bar.suspend(ask),
            None => ask(),
        }
    });
    tokio::select! {
        () = shutdown.cancelled() => false,
        answer = ask => matches!(answer, Ok(Ok(Some(true)))),
    }
}
