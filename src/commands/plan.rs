//! `plan`: what the configured polls will cost, before the first of them, and what they did cost.
//!
//! It never asks AWS, and reaches a broker only where that is asked for. Prices are whole cents: AWS
//! takes $0.01 a request.

use std::{io::IsTerminal as _, time::Duration};

use jiff::{Timestamp, civil::Date};
use serde_json::json;

use super::{ConfigFiles, backfill, date, print};
use crate::{
    backfill::quote::{self, Kept, Quote, dollars, label},
    clock::Clock,
    config::{BudgetConfig, Config, ConnectionConfig, TransportConfig},
    cost::{Granularity, utc_date},
    cycle::{Reread, window_of},
    dedup::ConnectionState,
    exit::{Exit, report},
    transport::{TransportErrorKind, local::read_state},
};

const DAY: u128 = 24 * 60 * 60 * 1000;

/// What to tell.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
How many pages a poll has is known once it was made: from a local state at once, from Kafka or NATS
with --connect. Until then one page is assumed.

Examples:
  amazon-billing-source plan --config billing.toml
  amazon-billing-source plan --config billing.toml --backfill-from 2025-10-01
  amazon-billing-source plan --config billing.toml --actual")]
pub struct PlanArgs {
    #[command(flatten)]
    files: ConfigFiles,
    /// What polls and backfills really spent, from the state; reaches the output
    #[arg(long)]
    actual: bool,
    /// Reach the output for the pages that were seen so far
    #[arg(long)]
    connect: bool,
    /// The price of a backfill from this day on instead
    #[arg(long, value_name = "DATE", value_parser = date, conflicts_with = "actual")]
    backfill_from: Option<Date>,
    /// The backfill's last day [default: the end of last month]
    #[arg(long, value_name = "DATE", value_parser = date, requires = "backfill_from")]
    backfill_to: Option<Date>,
}

/// A connection's state and the id of its scope.
type Known = (String, ConnectionState);

/// Prints a line per connection and granularity and one for all of them; JSON lines in a pipe.
pub async fn run(args: PlanArgs) -> Exit {
    let loaded = match args.files.load_connections() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let config = loaded.config;
    let now = Clock::system().now();
    let months = match args.backfill_from.map(|from| quote::months(from, args.backfill_to, utc_date(now))) {
        None => None,
        Some(Ok(months)) => Some(months),
        Some(Err(problems)) => {
            for problem in problems {
                let flags = |text: &str| {
                    text.replace("`--from", "`--backfill-from").replace("`--to", "`--backfill-to")
                };
                report(&flags(&problem.message), Some(&flags(&problem.hint)));
            }
            return Exit::Usage;
        }
    };
    let states = match states(&config, args.actual || args.connect).await {
        Ok(states) => states,
        Err(exit) => return exit,
    };
    let json = !std::io::stdout().is_terminal();
    if let Some(months) = months {
        return match backfill_quotes(&config, &states, &months, now) {
            Ok(quotes) => {
                let polls = Kept::for_polls(&config, now, |name| {
                    states.iter().map(|(_, state)| state).find(|state| state.name == name)
                });
                print(&backfill_price(&quotes, &months, (config.budget, polls), json))
            }
            Err(exit) => exit,
        };
    }
    print(&if args.actual { actual(&states, now, json) } else { planned(&config, &states, now, json) })
}

/// Every connection the state knows, also those that are configured no more; none where nothing was
/// published yet.
async fn states(config: &Config, reach: bool) -> Result<Vec<Known>, Exit> {
    let mut states = Vec::new();
    let read = match &config.transport {
        TransportConfig::Local(local) => read_state(&local.state, |scope, connection, record| {
            if record.is_none() {
                states.push((scope.to_owned(), connection.clone()));
            }
        }),
        // What is planned needs no network.
        #[cfg(feature = "nats")]
        TransportConfig::Nats(_) if !reach => Ok(()),
        #[cfg(feature = "nats")]
        TransportConfig::Nats(nats) => {
            use crate::transport::Transport as _;
            let connections = crate::transport::nats::Nats::new(nats.clone()).connections().await;
            connections.map(|connections| states = connections)
        }
        #[cfg(feature = "kafka")]
        TransportConfig::Kafka(_) if !reach => Ok(()),
        #[cfg(feature = "kafka")]
        TransportConfig::Kafka(kafka) => connections(kafka).await.map(|connections| states = connections),
    };
    match read {
        Ok(()) => Ok(states),
        Err(error) if error.kind == TransportErrorKind::Unavailable && !reach => Ok(states),
        Err(error) => {
            report(&error, error.hint.as_deref());
            Err(Exit::from(&error))
        }
    }
}

#[cfg(feature = "kafka")]
async fn connections(
    config: &crate::config::KafkaConfig,
) -> Result<Vec<(String, ConnectionState)>, crate::transport::TransportError> {
    use crate::transport::Transport as _;
    crate::transport::kafka::Kafka::connect(config)?.connections().await
}

fn planned(config: &Config, states: &[Known], now: Timestamp, json: bool) -> String {
    let mut rows = Vec::new();
    let (mut day, mut month) = (0, 0);
    for connection in &config.connections {
        for granularity in &connection.granularity {
            let pages = pages(states, &connection.name, *granularity);
            let requests = [1, 30].map(|days| polls(config.poll.interval, days) * u64::from(pages));
            day += requests[0];
            month += requests[1];
            let state = state_of(config, connection, states);
            let window = window_of(*granularity, now, &config.poll, &state);
            rows.push((connection.name.clone(), granularity.name(), window.from.label(), pages, requests));
        }
    }
    let cap = config.budget.requests_per_day.map(u64::from);
    if json {
        let line = |connection: &str,
                    granularity: Option<&str>,
                    reads_from: Option<&str>,
                    pages: Option<u32>,
                    [day, month]: [u64; 2]| {
            json!({
                "connection": connection, "granularity": granularity, "readsFrom": reads_from,
                "pagesPerPoll": pages,
                "requestsPerDay": day, "dollarsPerDay": dollars(day),
                "requestsPerMonth": month, "dollarsPerMonth": dollars(month),
            })
        };
        let lines = rows.iter().map(|(name, granularity, from, pages, requests)| {
            line(name, Some(granularity), Some(from), Some(*pages), *requests).to_string()
        });
        let total = line("all", None, None, None, [day, month]).to_string();
        return lines.chain([total]).map(|line| line + "\n").collect();
    }
    let width = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0).max("connection".len());
    let mut text = vec![format!(
        "{:<width$}  {:<11}  {:<13}  {:>10}  {:>12}  {:>14}  {:>10}",
        "connection", "granularity", "reads from", "pages/poll", "requests/day", "requests/month", "a month"
    )];
    for (name, granularity, from, pages, [day, month]) in rows {
        let price = dollars(month);
        text.push(format!(
            "{name:<width$}  {granularity:<11}  {from:<13}  {pages:>10}  {day:>12}  {month:>14}  {price:>10}"
        ));
    }
    let price = dollars(month);
    text.push(format!(
        "{:<width$}  {:<11}  {:<13}  {:>10}  {day:>12}  {month:>14}  {price:>10}",
        "all", "", "", ""
    ));
    if let Some(cap) = cap {
        let most = dollars(cap * 30);
        text.push(format!("\n`budget.requests_per_day` is {cap}: no more than {most} in 30 days"));
    }
    text.join("\n") + "\n"
}

/// What a backfill of every daily connection would take.
fn backfill_quotes(
    config: &Config,
    states: &[Known],
    months: &[Date],
    now: Timestamp,
) -> Result<Vec<Quote>, Exit> {
    let connections = backfill::chosen(&[], config).map_err(|problems| {
        for problem in problems {
            report(&problem.message, Some(&problem.hint));
        }
        Exit::Usage
    })?;
    let quote = |connection: &ConnectionConfig| {
        let state = state_of(config, connection, states);
        Quote::new(&connection.name, months, Reread::Unfinished, &state, config.poll.settle_days, now)
    };
    Ok(connections.iter().map(quote).collect())
}

fn backfill_price(
    quotes: &[Quote],
    months: &[Date],
    (budget, polls): (BudgetConfig, Kept),
    json: bool,
) -> String {
    let [from, to] =
        [months.last(), months.first()].map(|month| month.copied().map(label).unwrap_or_default());
    let all: u64 = quotes.iter().map(Quote::requests).sum();
    let months: usize = quotes.iter().map(|quote| quote.months.len()).sum();
    if json {
        let lines = quotes.iter().map(|quote| {
            json!({
                "connection": quote.connection, "backfillFrom": from, "backfillTo": to,
                "months": quote.months.len(), "finished": quote.finished,
                "pagesPerMonth": quote.pages_per_month(),
                "requests": quote.requests(), "dollars": dollars(quote.requests()),
            })
        });
        let total = json!({
            "connection": "all", "backfillFrom": from, "backfillTo": to, "months": months,
            "requests": all, "dollars": dollars(all),
        });
        return lines.chain([total]).map(|line| line.to_string() + "\n").collect();
    }
    let day = polls.day;
    let note = budget.requests_per_day.map(|cap| {
        format!("`budget.requests_per_day` is {cap}, and the polls need {day} of it every day.\n")
    });
    quote::table(quotes, &from, &to) + &note.unwrap_or_default()
}

fn actual(states: &[Known], now: Timestamp, json: bool) -> String {
    let width = states.iter().map(|(_, state)| state.name.len()).max().unwrap_or(0).max("connection".len());
    let mut text = String::new();
    if !json {
        text = format!("{:<width$}  {:>12}  {:>12}  {:>12}\n", "connection", "today", "this month", "ever");
    }
    for (_, state) in states {
        let name = &state.name;
        let (today, month) = state.spent.at(now);
        let (today, month, total) = (u64::from(today), u64::from(month), state.spent.total);
        let line = if json {
            json!({
                "connection": name, "account": state.account,
                "requestsToday": today, "dollarsToday": dollars(today),
                "requestsThisMonth": month, "dollarsThisMonth": dollars(month),
                "requestsEver": total, "dollarsEver": dollars(total),
            })
            .to_string()
        } else {
            let [today, month, total] = [today, month, total].map(dollars);
            format!("{name:<width$}  {today:>12}  {month:>12}  {total:>12}")
        };
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// The pages the last complete poll had; one before the first. What was asked for under the same
/// name before, with another filter or grouping, is no better guess than the largest.
fn pages(states: &[Known], name: &str, granularity: Granularity) -> u32 {
    let named = states.iter().filter(|(_, state)| state.name == name);
    named.map(|(_, state)| state.poll(granularity).pages).max().unwrap_or(1).max(1)
}

/// The state of a connection as it is configured now; an empty one where there is none.
fn state_of(config: &Config, connection: &ConnectionConfig, states: &[Known]) -> ConnectionState {
    let is_its = |(scope, state): &&Known| {
        let account = connection.account_id.as_ref().unwrap_or(&state.account);
        state.name == connection.name && *scope == connection.scope(&config.source.source, account).id()
    };
    states.iter().find(is_its).map(|(_, state)| state.clone()).unwrap_or_default()
}

/// How many polls begin in so many days, rounded up.
fn polls(interval: Duration, days: u128) -> u64 {
    let polls = (days * DAY).div_ceil(interval.as_millis().max(1));
    u64::try_from(polls).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_and_prices_are_whole() {
        for (interval, day, month) in [
            (Duration::from_hours(8), 3, 90),
            (Duration::from_hours(7), 4, 103),
            (Duration::from_secs(1), 86_400, 2_592_000),
        ] {
            assert_eq!((polls(interval, 1), polls(interval, 30)), (day, month));
        }
        assert_eq!(dollars(0), "$0.00");
        assert_eq!(dollars(90), "$0.90");
        assert_eq!(dollars(12_345), "$123.45");
    }
}
