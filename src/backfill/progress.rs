//! How far a backfill is: a bar on a terminal, log lines in a pipe. Always on stderr.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use jiff::civil::Date;
use tracing::info;

use super::quote::{dollars, label};
use crate::{cycle::MonthRead, dedup::Counts};

/// Months done of months asked for, and what they brought.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    total: usize,
    done: usize,
    began: Instant,
    /// What was found.
    pub(super) counts: Counts,
    /// Chargeable requests.
    pub(super) requests: u64,
    /// The most that one month took, of the present connection.
    pub(super) largest: u32,
}

impl Progress {
    /// Nothing done yet of so many months. No bar is drawn where the events themselves go to the
    /// terminal.
    pub(super) fn begin(total: usize, events_on_stdout: bool) -> Self {
        let is_ours = io::stderr().is_terminal() && !(events_on_stdout && io::stdout().is_terminal());
        let bar = is_ours.then(|| {
            let style =
                ProgressStyle::with_template("{bar:24} {pos}/{len} months, {rate}, {eta} left  {wide_msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_bar())
                    .with_key("rate", |state: &ProgressState, text: &mut dyn std::fmt::Write| {
                        // Nowhere to report that a line on a terminal could not be made.
                        text.write_str(&rate(state.pos(), state.elapsed())).unwrap_or_default();
                    });
            let bar = ProgressBar::new(total as u64).with_style(style);
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self {
            bar,
            total,
            done: 0,
            began: Instant::now(),
            counts: Counts::default(),
            requests: 0,
            largest: 0,
        }
    }

    /// What is waited for now.
    pub(super) fn now(&self, connection: &str, month: Date, what: &str) {
        if let Some(bar) = &self.bar {
            let spent = dollars(self.requests);
            bar.set_message(format!("{connection} {}{what}  {spent} spent", label(month)));
        }
    }

    /// What one attempt at a month took and found, whether or not it was the last.
    pub(super) fn attempted(&mut self, read: &MonthRead) {
        self.requests += u64::from(read.requests);
        self.largest = self.largest.max(read.requests);
        self.counts += read.counts;
    }

    /// A month is finished.
    pub(super) fn finished(&mut self, connection: &str, month: Date, read: &MonthRead) {
        self.done += 1;
        if let Some(bar) = &self.bar {
            bar.inc(1);
            return;
        }
        let counts = read.counts;
        info!(
            connection,
            month = label(month),
            done = self.done,
            of = self.total,
            requests = read.requests,
            new = counts.new,
            revised = counts.revised,
            removed = counts.removed,
            unchanged = counts.unchanged,
            left = left(self.began.elapsed(), self.done, self.total),
            "month read"
        );
    }

    /// The bar, where there is one.
    pub(super) fn bar(&self) -> Option<ProgressBar> {
        self.bar.clone()
    }

    /// How many months are not finished.
    pub(super) const fn open(&self) -> usize {
        self.total - self.done
    }

    /// The last words.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let counts = self.counts;
        info!(
            months = self.done,
            open = self.open(),
            requests = self.requests,
            cost = dollars(self.requests),
            new = counts.new,
            revised = counts.revised,
            removed = counts.removed,
            unchanged = counts.unchanged,
            took = format!("{}s", self.began.elapsed().as_secs()),
            "backfill ended"
        );
    }
}

/// `4.2 months/min`, once there is something to tell.
fn rate(months: u64, elapsed: Duration) -> String {
    let tenths = u128::from(months) * 600_000 / elapsed.as_millis().max(1);
    let mut text = String::new();
    if months > 0 {
        write!(text, "{}.{} months/min", tenths / 10, tenths % 10).unwrap_or_default();
    } else {
        text.push_str("- months/min");
    }
    text
}

/// The time the rest takes if it goes on like this, in whole seconds: `40s`.
fn left(elapsed: Duration, done: usize, total: usize) -> String {
    let done = u32::try_from(done).unwrap_or(u32::MAX).max(1);
    let open = u32::try_from(total).unwrap_or(u32::MAX).saturating_sub(done);
    format!("{}s", (elapsed / done).saturating_mul(open).as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_time_left_follow_from_what_is_done() {
        let minute = Duration::from_mins(1);
        assert_eq!(rate(0, minute), "- months/min");
        assert_eq!(rate(13, minute), "13.0 months/min");
        assert_eq!(rate(1, Duration::from_secs(45)), "1.3 months/min");
        assert_eq!(left(minute, 3, 13), "200s");
        assert_eq!(left(minute, 13, 13), "0s");
        assert_eq!(left(Duration::from_millis(1500), 1, 1), "0s");
    }
}
