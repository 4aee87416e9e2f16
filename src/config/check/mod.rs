//! Settings → `Config`: what the written values mean, every rule, and the rules that cross keys.
//!
//! All problems are collected; none ends the check early. Shapes were checked before (`shape`).

mod connection;
mod credentials;
mod filter;
mod kafka;
mod kafka_login;
mod nats;
mod text;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use jiff::fmt::friendly::SpanParser;

use super::{
    Config, ConnectionConfig,
    problem::{Problems, Refused, listed, suggestion},
    settings::{AdminSettings, BudgetSettings, LocalSettings, PollSettings, Settings, SourceSettings},
    types::{BudgetConfig, LocalConfig, PollConfig, SourceConfig, TransportConfig},
};

pub(crate) use credentials::SESSION_NAME;

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// The typed configuration; `None` only when a problem was added.
pub(crate) fn check(
    settings: Settings,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Option<Config> {
    let source = source(settings.source, problems);
    let poll = poll(&settings.poll, problems);
    let budget = budget(&settings.budget);
    let connections = connection::connections(settings.connections, problems, warnings);
    let transport = match settings.transport.kind.as_str() {
        "local" => local(&settings.local, problems).map(TransportConfig::Local),
        "kafka" => kafka::kafka(settings.kafka, problems, warnings),
        "nats" => nats::nats(settings.nats, problems, warnings),
        other => {
            let kinds = ["local", "kafka", "nats"];
            let problem = format!("`{other}` is not a transport; expected {}", listed(&kinds, "or"));
            let hint = super::problem::nearest(other, kinds).map(|kind| format!("did you mean `{kind}`?"));
            problems.push("transport.kind".to_owned(), problem, hint);
            None
        }
    };
    let admin = admin(&settings.admin, problems);
    if let (Some(poll), Some(connections)) = (&poll, &connections) {
        spending(poll, &settings.poll.interval, budget, connections, warnings);
    }
    Some(Config {
        source: source?,
        poll: poll?,
        budget,
        connections: connections?,
        transport: transport?,
        admin: admin.ok()?,
    })
}

/// A transport whose crate feature is off.
#[cfg(not(all(feature = "kafka", feature = "nats")))]
fn not_built_in(kind: &str, name: &str, problems: &mut Problems) {
    problems.add_hint(
        "transport.kind",
        format!("is `{kind}`, but this build has no {name}"),
        format!("build it with the crate feature `{kind}`, which is on by default"),
    );
}

fn source(settings: SourceSettings, problems: &mut Problems) -> Option<SourceConfig> {
    let mut good = true;
    let mut refuse = |key: &str, problem: Option<String>| {
        if let Some(problem) = problem {
            problems.add_hint(
                key,
                problem,
                "it is part of every event as it is, so nothing may need escaping",
            );
            good = false;
        }
    };
    refuse("source.source", text::not_a_uri_reference(&settings.source));
    refuse("source.type_prefix", text::not_plain(&settings.type_prefix));
    good.then_some(SourceConfig { source: settings.source, type_prefix: settings.type_prefix })
}

fn poll(settings: &PollSettings, problems: &mut Problems) -> Option<PollConfig> {
    let interval = duration("poll.interval", &settings.interval, Duration::from_secs(1), problems);
    let claim_ttl = duration("poll.claim_ttl", &settings.claim_ttl, Duration::from_secs(1), problems);
    let grace = duration("poll.grace", &settings.grace, Duration::from_nanos(1), problems);
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if settings.instance.len() > 64 || !settings.instance.bytes().all(fine) {
        let problem = format!("`{}` is not the name of a process", settings.instance);
        problems.add_hint("poll.instance", problem, "at most 64 letters, digits, `.`, `_` and `-`");
    }
    Some(PollConfig {
        interval: interval?,
        claim_ttl: claim_ttl?,
        instance: (!settings.instance.is_empty()).then(|| settings.instance.clone()),
        settle_days: settings.settle_days,
        publish_zero: settings.publish_zero,
        concurrency: settings.concurrency,
        max_pages: settings.max_pages,
        grace: grace?,
    })
}

/// A duration such as `1h30m`, from a least one up to a year.
fn duration(key: &str, text: &str, least: Duration, problems: &mut Problems) -> Option<Duration> {
    let parsed = SpanParser::new().parse_duration(text);
    let Ok(parsed) = parsed else {
        let days =
            text.as_bytes().windows(2).any(|pair| pair[0].is_ascii_digit() && b"dw".contains(&pair[1]));
        let hint = if days {
            "days differ in length; write hours: `24h`"
        } else {
            "write a number with its unit: `8h`, `1h30m`, `90s`"
        };
        problems.add_hint(key, format!("`{text}` is not a duration"), hint);
        return None;
    };
    let duration = Duration::try_from(parsed).unwrap_or(Duration::ZERO);
    if duration < least {
        let least = if least < Duration::from_secs(1) { "more than zero" } else { "at least `1s`" };
        problems.add(key, format!("`{text}` is too short; expected {least}"));
        return None;
    }
    if duration > DAY * 366 {
        problems.add(key, format!("`{text}` is too long; at most `8784h`, a year"));
        return None;
    }
    Some(duration)
}

fn budget(settings: &BudgetSettings) -> BudgetConfig {
    let cap = |requests: u32| (requests > 0).then_some(requests);
    BudgetConfig {
        requests_per_day: cap(settings.requests_per_day),
        requests_per_month: cap(settings.requests_per_month),
    }
}

/// Warnings about money: a short interval with its price, a budget that ends before the day does.
///
/// Reckoned with one page a request; more pages cost more, which the budget bounds.
fn spending(
    poll: &PollConfig,
    interval: &str,
    budget: BudgetConfig,
    connections: &[ConnectionConfig],
    warnings: &mut Vec<String>,
) {
    let requests: u128 = connections.iter().map(|connection| connection.granularity.len() as u128).sum();
    let polls = |days: u32| (DAY * days).as_nanos().div_ceil(poll.interval.as_nanos());
    if poll.interval < HOUR {
        // A request costs one cent, so a month's requests are its price in cents.
        let cents = polls(30) * requests.max(1);
        let price = format!("${}.{:02}", cents / 100, cents % 100);
        let whose = match (connections.len(), requests) {
            (0, _) => "for each granularity of a connection".to_owned(),
            (1, 1) => "for 1 connection".to_owned(),
            (1, n) => format!("for 1 connection with {n} granularities"),
            (m, n) => format!("for {m} connections with {n} granularities in all"),
        };
        warnings.push(format!(
            "poll.interval: every `{interval}` is {} polls a day; at AWS's $0.01 a request that is {price} in \
             a month of 30 days, {whose}; AWS refreshes the data about three times a day",
            polls(1)
        ));
    }
    let caps = [
        ("budget.requests_per_day", budget.requests_per_day, 1, "a day"),
        ("budget.requests_per_month", budget.requests_per_month, 30, "a month of 30 days"),
    ];
    for (key, cap, days, span) in caps {
        let needed = polls(days) * requests;
        if let Some(cap) = cap
            && needed > u128::from(cap)
        {
            warnings.push(format!(
                "{key}: a cap of {cap} cannot hold the {needed} requests that polling every `{interval}` \
                 takes in {span}; polls beyond it will not be made"
            ));
        }
    }
}

/// `[local]`.
fn local(settings: &LocalSettings, problems: &mut Problems) -> Option<LocalConfig> {
    let LocalSettings { output, state } = settings;
    let before = problems.count();
    if output.is_empty() {
        problems.add_hint("local.output", "is empty; expected a file", "`-` is stdout");
    }
    match state.as_str() {
        "" => problems.add("local.state", "is empty; expected a file"),
        "-" | ":memory:" => problems.add_hint(
            "local.state",
            format!("`{state}` is not a file"),
            "without a state every start would publish, and pay for, everything again",
        ),
        _ if is_same_file(state, output) => {
            problems
                .add("local.state", format!("`{state}` is also `local.output`; expected a file of its own"));
        }
        _ => {}
    }
    (problems.count() == before).then(|| LocalConfig {
        output: (output != "-").then(|| PathBuf::from(output)),
        state: PathBuf::from(state),
    })
}

/// Whether two paths name one file, as far as that is to be seen from them.
fn is_same_file(a: &str, b: &str) -> bool {
    let absolute = |path: &str| std::path::absolute(path).ok();
    a == b || (b != "-" && absolute(a).is_some_and(|a| absolute(b).is_some_and(|b| a == b)))
}

/// `[admin]`; `None`: off.
fn admin(settings: &AdminSettings, problems: &mut Problems) -> Result<Option<SocketAddr>, Refused> {
    let listen = &settings.listen;
    if listen.is_empty() {
        return Ok(None);
    }
    if let Ok(address) = listen.parse() {
        return Ok(Some(address));
    }
    problems.add_hint(
        "admin.listen",
        format!("`{listen}` is not an address and port"),
        "write an IP address, not a name: `127.0.0.1:9464`, `0.0.0.0:9464`, or `\"\"` for none",
    );
    Err(Refused)
}

/// A value that is not one of a list, with the nearest one.
fn not_one_of(value: &str, what: &str, candidates: &[&str]) -> (String, String) {
    (format!("`{value}` is not {what}"), suggestion(value, candidates).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_in_two_spellings_is_one_file() {
        for (a, b, same) in [
            ("x.db", "x.db", true),
            ("x.db", "./x.db", true),
            ("a/./x.db", "a//x.db", true),
            ("x.db", "y.db", false),
            ("x.db", "a/x.db", false),
            ("x.db", "-", false),
        ] {
            assert_eq!(is_same_file(a, b), same, "{a} {b}");
        }
    }
}
