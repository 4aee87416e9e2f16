//! `plan`: what the configured polls will cost, before the first of them, and what they did cost.
//!
//! It needs no network and sends nothing. Prices are whole cents: AWS takes $0.01 a request.

use std::{io::IsTerminal as _, time::Duration};

use serde_json::json;

use super::{ConfigFiles, print};
use crate::{
    clock::Clock,
    config::{Config, TransportConfig},
    cost::Granularity,
    dedup::ConnectionState,
    exit::{Exit, report},
    transport::{TransportErrorKind, local::read_state},
};

const DAY: u128 = 24 * 60 * 60 * 1000;

/// What to tell.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Example:
  amazon-billing-source plan --config billing.toml
  amazon-billing-source plan --config billing.toml --actual")]
pub struct PlanArgs {
    #[command(flatten)]
    files: ConfigFiles,
    /// What was really spent, from the state
    #[arg(long)]
    actual: bool,
}

/// Prints a line per connection and granularity and one for all of them; JSON lines in a pipe.
pub async fn run(args: &PlanArgs) -> Exit {
    let loaded = match args.files.load_connections() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let states = match states(&loaded.config, args.actual).await {
        Ok(states) => states,
        Err(exit) => return exit,
    };
    let json = !std::io::stdout().is_terminal();
    print(&if args.actual { actual(&states, json) } else { planned(&loaded.config, &states, json) })
}

/// Every connection the state knows, also those that are configured no more; none where nothing was
/// published yet.
async fn states(config: &Config, needed: bool) -> Result<Vec<ConnectionState>, Exit> {
    let mut states = Vec::new();
    let read = match &config.transport {
        TransportConfig::Local(local) => read_state(&local.state, |_, connection, record| {
            if record.is_none() {
                states.push(connection.clone());
            }
        }),
        // A plan needs no network.
        TransportConfig::Kafka(_) if !needed => Ok(()),
        #[cfg(feature = "kafka")]
        TransportConfig::Kafka(kafka) => match connections(kafka).await {
            Ok(connections) => {
                states.extend(connections.into_iter().map(|(_, state)| state));
                Ok(())
            }
            Err(error) => Err(error),
        },
        #[cfg(not(feature = "kafka"))]
        TransportConfig::Kafka(_) => return Err(Exit::Config),
    };
    match read {
        Ok(()) => Ok(states),
        Err(error) if error.kind == TransportErrorKind::Unavailable && !needed => Ok(states),
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

fn planned(config: &Config, states: &[ConnectionState], json: bool) -> String {
    let mut rows = Vec::new();
    let (mut day, mut month) = (0, 0);
    for connection in &config.connections {
        for granularity in &connection.granularity {
            let pages = pages(states, &connection.name, *granularity);
            let requests = [1, 30].map(|days| polls(config.poll.interval, days) * u64::from(pages));
            day += requests[0];
            month += requests[1];
            rows.push((connection.name.clone(), granularity.name(), pages, requests));
        }
    }
    let cap = config.budget.requests_per_day.map(u64::from);
    if json {
        let line =
            |connection: &str, granularity: Option<&str>, pages: Option<u32>, [day, month]: [u64; 2]| {
                json!({
                    "connection": connection, "granularity": granularity, "pagesPerPoll": pages,
                    "requestsPerDay": day, "dollarsPerDay": dollars(day),
                    "requestsPerMonth": month, "dollarsPerMonth": dollars(month),
                })
            };
        let lines = rows.iter().map(|(name, granularity, pages, requests)| {
            line(name, Some(granularity), Some(*pages), *requests).to_string()
        });
        let total = line("all", None, None, [day, month]).to_string();
        return lines.chain([total]).map(|line| line + "\n").collect();
    }
    let width = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0).max("connection".len());
    let mut text = vec![format!(
        "{:<width$}  {:<11}  {:>10}  {:>12}  {:>14}  {:>10}",
        "connection", "granularity", "pages/poll", "requests/day", "requests/month", "a month"
    )];
    for (name, granularity, pages, [day, month]) in rows {
        let price = dollars(month);
        text.push(format!(
            "{name:<width$}  {granularity:<11}  {pages:>10}  {day:>12}  {month:>14}  {price:>10}"
        ));
    }
    let price = dollars(month);
    text.push(format!("{:<width$}  {:<11}  {:>10}  {day:>12}  {month:>14}  {price:>10}", "all", "", ""));
    if let Some(cap) = cap {
        let most = dollars(cap * 30);
        text.push(format!("\n`budget.requests_per_day` is {cap}: no more than {most} in 30 days"));
    }
    text.join("\n") + "\n"
}

fn actual(states: &[ConnectionState], json: bool) -> String {
    let now = Clock::system().now();
    let width = states.iter().map(|state| state.name.len()).max().unwrap_or(0).max("connection".len());
    let mut text = String::new();
    if !json {
        text = format!("{:<width$}  {:>12}  {:>12}  {:>12}\n", "connection", "today", "this month", "ever");
    }
    for state in states {
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
fn pages(states: &[ConnectionState], name: &str, granularity: Granularity) -> u32 {
    let named = states.iter().filter(|state| state.name == name);
    named.map(|state| state.poll(granularity).pages).max().unwrap_or(1).max(1)
}

/// How many polls begin in so many days, rounded up.
fn polls(interval: Duration, days: u128) -> u64 {
    let polls = (days * DAY).div_ceil(interval.as_millis().max(1));
    u64::try_from(polls).unwrap_or(u64::MAX)
}

fn dollars(requests: u64) -> String {
    format!("${}.{:02}", requests / 100, requests % 100)
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
