//! What `tail` and `replay` are told, and what that means now.

use std::path::PathBuf;

use jiff::{Span, SpanRelativeTo, Timestamp, civil::Date};

use crate::{
    commands::{ConfigFiles, date, filter_args::FilterArgs},
    consume::{Bound, ConsumerName, Filter, Start},
    cost::midnight,
};

/// What both commands are told.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ReadArgs {
    #[command(flatten)]
    pub(super) files: ConfigFiles,
    /// Read this file of JSON lines instead of the configured output
    #[arg(long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) filter: FilterArgs,
    /// Begin at what was stored at this time or later: 2026-11-25T06:00:00Z, 2026-11-25, or 2h ago
    #[arg(long, value_name = "TIME", help_heading = "Where", group = "start")]
    pub(super) since: Option<String>,
    /// Begin at this offset (Kafka), sequence (NATS) or line (file)
    #[arg(long, value_name = "N", help_heading = "Where", group = "start")]
    pub(super) from_position: Option<u64>,
    /// Read only this partition; Kafka alone has several
    #[arg(long, value_name = "N", help_heading = "Where")]
    pub(super) partition: Option<i32>,
    /// End before what was stored at this time or later; a time to come is waited for
    #[arg(long, value_name = "TIME", help_heading = "Where")]
    pub(super) until: Option<String>,
    /// End after so many events
    #[arg(long, value_name = "N", help_heading = "Where", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) limit: Option<u64>,
    /// Go on where this name has last been, and remember how far it came: a consumer group (Kafka), a
    /// durable consumer (NATS), a position file beside the output. Without it no position is moved
    #[arg(long, value_name = "NAME", help_heading = "Where", value_parser = ConsumerName::parse)]
    pub(super) name: Option<ConsumerName>,
    /// How events are shown; a table on a terminal, else lines
    #[arg(long, value_enum, help_heading = "What is shown")]
    pub(super) format: Option<Format>,
    /// Show also what is no event of this program, and why
    #[arg(long, help_heading = "What is shown")]
    pub(super) all: bool,
}

/// How something is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// A JSON object per line: events in the JSON event format.
    Lines,
    /// For people.
    Table,
}

/// What figures are added up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Totals {
    /// By date of spend.
    Day,
    /// By service.
    Service,
    /// By account, paying or linked.
    Account,
}

/// What `tail` is told.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Example:
  amazon-billing-source tail --config billing.toml --change revised
  amazon-billing-source tail --config billing.toml --since 2h --service \"AWS Lambda\"")]
pub struct TailArgs {
    #[command(flatten)]
    pub(super) read: ReadArgs,
    /// Begin at the oldest that is kept
    #[arg(long, help_heading = "Where", group = "start")]
    pub(super) from_beginning: bool,
}

/// What `replay` is told.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Example:
  amazon-billing-source replay --config billing.toml --from 2026-11-01 > november.jsonl
  amazon-billing-source replay --config billing.toml --current --by service")]
pub struct ReplayArgs {
    #[command(flatten)]
    pub(super) read: ReadArgs,
    /// Go on with what comes after the end
    #[arg(long, help_heading = "Where")]
    pub(super) follow: bool,
    /// Show only what the highest revision of each key states
    #[arg(long, help_heading = "What is shown", conflicts_with_all = ["follow", "name", "limit", "all"])]
    pub(super) current: bool,
    /// With --current: the totals by day, service or account
    #[arg(long, value_enum, help_heading = "What is shown", requires = "current")]
    pub(super) by: Option<Totals>,
}

/// What is wrong, and what to do.
pub(super) type Problem = (String, Option<&'static str>);

/// Where to begin and end, and which events, once it is known what time it is.
pub(super) fn where_and_what(
    args: &ReadArgs,
    start: Start,
    bound: Bound,
    now: Timestamp,
) -> Result<(Start, Bound, Filter), Problem> {
    let time = |flag: &str, text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => instant(text, now).map(Some).map_err(|problem| {
            let hint = "write it like 2026-11-25T06:00:00Z, 2026-11-25, or 2h for two hours ago";
            (format!("`{flag} {text}`: {problem}"), Some(hint))
        }),
    };
    let since = time("--since", &args.since)?;
    let until = time("--until", &args.until)?;
    if let Some(since) = since.filter(|since| *since > now) {
        let problem = format!("`--since {since}` lies in the future");
        return Err((problem, Some("`tail` waits for what is still to come")));
    }
    if let (Some(since), Some(until)) = (since, until)
        && until <= since
    {
        return Err((format!("`--until {until}` comes before `--since {since}`"), None));
    }
    let start = match (since, args.from_position) {
        (Some(since), _) => Start::Time(since),
        (None, Some(position)) => Start::Position(position),
        (None, None) => start,
    };
    if let (Start::End, Some(until)) = (start, until)
        && until <= now
    {
        let problem = format!("`--until {until}` is over, and `tail` begins now");
        return Err((problem, Some("begin earlier with `--since`, or use `replay`")));
    }
    let filter = args.filter.filter().map_err(|problem| (problem, None))?;
    Ok((start, until.map_or(bound, Bound::Until), filter))
}

/// An instant, a date's midnight in UTC, or so long ago.
fn instant(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Ok(instant);
    }
    match date(text) {
        Ok(date) => return Ok(midnight(date)),
        Err(_) if text.parse::<Date>().is_ok() => {
            return Err("its time has no offset this program reads; UTC is written with a `Z`".to_owned());
        }
        Err(_) => {}
    }
    let span = text.parse::<Span>().map_err(|_| "it is no time".to_owned())?;
    let ago = span.abs().to_duration(SpanRelativeTo::days_are_24_hours());
    let ago = ago.map_err(|_| "months and years have no fixed length".to_owned())?;
    now.checked_sub(ago).map_err(|_| "that is too long ago".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        tail: TailArgs,
    }

    fn meant(flags: &[&str]) -> Result<(Start, Bound), String> {
        let now = "2026-11-25T12:00:00Z".parse().unwrap();
        let line = Line::try_parse_from([&["tail"], flags].concat()).map_err(|e| e.to_string())?;
        let start = if line.tail.from_beginning { Start::Beginning } else { Start::End };
        let meant = where_and_what(&line.tail.read, start, Bound::Follow, now);
        meant.map(|(start, bound, _)| (start, bound)).map_err(|(problem, _)| problem)
    }

    #[test]
    fn times_are_instants_dates_or_spans_ago() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        for (text, expected) in [
            ("2026-11-25T06:00:00Z", Some(at("2026-11-25T06:00:00Z"))),
            ("2026-11-25T06:00:00+02:00", Some(at("2026-11-25T04:00:00Z"))),
            ("2026-11-25", Some(at("2026-11-25T00:00:00Z"))),
            ("2h", Some(at("2026-11-25T10:00:00Z"))),
            ("90m", Some(at("2026-11-25T10:30:00Z"))),
            ("7d", Some(at("2026-11-18T12:00:00Z"))),
            ("2 hours ago", Some(at("2026-11-25T10:00:00Z"))),
            // The last date there is, whose midnight is out of range.
            ("9999-12-31", Some(Timestamp::MAX)),
            // Which zone is meant is not guessed, and no time is dropped.
            ("2026-11-25T06:00:00", None),
            ("2026-11-25 06:00", None),
            ("2026-11-25T06:00[Europe/Berlin]", None),
            ("1mo", None),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(instant(text, at("2026-11-25T12:00:00Z")).ok(), expected, "{text}");
        }
    }

    #[test]
    fn where_to_begin_and_end() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(meant(&[]), Ok((Start::End, Bound::Follow)));
        assert_eq!(meant(&["--from-beginning"]), Ok((Start::Beginning, Bound::Follow)));
        assert_eq!(meant(&["--from-position", "7"]), Ok((Start::Position(7), Bound::Follow)));
        assert_eq!(
            meant(&["--since", "1h", "--until", "2026-11-25T11:30:00Z"]),
            Ok((Start::Time(at("2026-11-25T11:00:00Z")), Bound::Until(at("2026-11-25T11:30:00Z"))))
        );
        for (flags, expected) in [
            (&["--since", "2026-11-26"][..], "lies in the future"),
            (&["--since", "soon"], "`--since soon`: it is no time"),
            (&["--since", "1h", "--until", "2h"], "comes before `--since"),
            (&["--until", "1h"], "is over, and `tail` begins now"),
            (&["--since", "1h", "--from-position", "3"], "cannot be used with"),
            (&["--from", "2026-11-02", "--to", "2026-11-01"], "comes before `--from 2026-11-02`"),
            (&["--filter", "{"], "it is no JSON"),
            (&["--name", "a b"], "is not the name of a consumer"),
            (&["--limit", "0"], "0 is not in 1.."),
            (&["--change", "old"], "[possible values: new, revised, removed]"),
            (&["--granularity", "weekly"], "expected `daily` or `hourly`"),
            (&["--from", "2026-13-01"], "2026-13-01"),
            (&["--from", "2026-11-01T18:30"], "has a time"),
        ] {
            let problem = meant(flags).unwrap_err();
            assert!(problem.contains(expected), "{flags:?}: {problem}");
        }
    }
}
