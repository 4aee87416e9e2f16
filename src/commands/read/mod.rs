//! `tail` and `replay`: the events of the output, read back, filtered and shown.
//!
//! Both read alike; `tail` begins at the end and follows, `replay` begins at the beginning and ends
//! at the end proven when it began. Nothing is written but, where a name is given, its position.

mod out;
mod show;

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _},
    path::PathBuf,
};

use futures_util::FutureExt as _;
use jiff::{Span, SpanRelativeTo, Timestamp, civil::Date};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{ConfigFiles, filter_args::FilterArgs};
use crate::{
    clock::Clock,
    config::TransportConfig,
    consume::{Bound, By, ConsumerName, Current, Filter, Place, ReadOptions, Reader, Received, Start},
    cost::midnight,
    exit::{Exit, report},
    transport::TransportError,
};
use out::Out;
use show::Show;

/// How often the position of a name is written while events keep coming.
const COMMIT: std::time::Duration = std::time::Duration::from_secs(1);

/// What both commands are told.
#[derive(Clone, Debug, clap::Args)]
struct ReadArgs {
    #[command(flatten)]
    files: ConfigFiles,
    /// Read this file of JSON lines instead of the configured output
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Begin at what was stored at this time or later: 2026-11-25T06:00:00Z, 2026-11-25, or 2h ago
    #[arg(long, value_name = "TIME", help_heading = "Where", group = "start")]
    since: Option<String>,
    /// Begin at this offset (Kafka), sequence (NATS) or line (file)
    #[arg(long, value_name = "N", help_heading = "Where", group = "start")]
    from_position: Option<u64>,
    /// Read only this partition; Kafka alone has several
    #[arg(long, value_name = "N", help_heading = "Where")]
    partition: Option<i32>,
    /// End before what was stored at this time or later; a time to come is waited for
    #[arg(long, value_name = "TIME", help_heading = "Where")]
    until: Option<String>,
    /// End after so many events
    #[arg(long, value_name = "N", help_heading = "Where", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Go on where this name has last been, and remember how far it came: a consumer group (Kafka), a
    /// durable consumer (NATS), a position file beside the output. Without it no position is moved
    #[arg(long, value_name = "NAME", help_heading = "Where", value_parser = ConsumerName::parse)]
    name: Option<ConsumerName>,
    /// How events are shown; a table on a terminal, else lines
    #[arg(long, value_enum, help_heading = "What is shown")]
    format: Option<Format>,
    /// Show also what is no event of this program, and why
    #[arg(long, help_heading = "What is shown")]
    all: bool,
}

/// How something is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A JSON object per line: events in the JSON event format.
    Lines,
    /// For people.
    Table,
}

/// What figures are added up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Totals {
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
    read: ReadArgs,
    /// Begin at the oldest that is kept
    #[arg(long, help_heading = "Where", group = "start")]
    from_beginning: bool,
}

/// What `replay` is told.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Example:
  amazon-billing-source replay --config billing.toml --from 2026-11-01 --to 2026-11-30 > november.jsonl
  amazon-billing-source replay --config billing.toml --current --by service")]
pub struct ReplayArgs {
    #[command(flatten)]
    read: ReadArgs,
    /// Go on with what comes after the end
    #[arg(long, help_heading = "Where")]
    follow: bool,
    /// Show only what the highest revision of each key states
    #[arg(long, help_heading = "What is shown", conflicts_with_all = ["follow", "name", "limit", "all"])]
    current: bool,
    /// With --current: the totals by day, service or account
    #[arg(long, value_enum, help_heading = "What is shown", requires = "current")]
    by: Option<Totals>,
}

/// What to do, everything checked.
struct Plan {
    source: Source,
    options: ReadOptions,
    filter: Filter,
    limit: Option<u64>,
    show: Show,
    all: bool,
}

enum Source {
    Configured(TransportConfig),
    File(PathBuf),
}

/// Shows what comes from now on.
pub async fn tail(args: TailArgs, shutdown: CancellationToken) -> Exit {
    let start = if args.from_beginning { Start::Beginning } else { Start::End };
    let table = wants_table(args.read.format);
    match plan(args.read, start, Bound::Follow, Show::events(table)) {
        Ok(plan) => read(plan, shutdown).await,
        Err(exit) => exit,
    }
}

/// Shows what there is.
pub async fn replay(args: ReplayArgs, shutdown: CancellationToken) -> Exit {
    let bound = if args.follow { Bound::Follow } else { Bound::End };
    let table = wants_table(args.read.format);
    let show = if args.current {
        let by = args.by.map(|by| match by {
            Totals::Day => By::Day,
            Totals::Service => By::Service,
            Totals::Account => By::Account,
        });
        Show::Current { state: Current::default(), by, table }
    } else {
        Show::events(table)
    };
    match plan(args.read, Start::Beginning, bound, show) {
        Ok(plan) => read(plan, shutdown).await,
        Err(exit) => exit,
    }
}

fn wants_table(format: Option<Format>) -> bool {
    match format {
        Some(format) => format == Format::Table,
        None => io::stdout().is_terminal(),
    }
}

fn plan(args: ReadArgs, start: Start, bound: Bound, show: Show) -> Result<Plan, Exit> {
    let clock = Clock::system();
    let (start, bound, filter) = match where_and_what(&args, start, bound, clock.now()) {
        Ok(meant) => meant,
        Err((problem, hint)) => {
            report(&problem, hint);
            return Err(Exit::Usage);
        }
    };
    let source = match args.file {
        Some(path) => Source::File(path),
        None => Source::Configured(args.files.load()?.config.transport),
    };
    let options = ReadOptions { start, bound, partition: args.partition, name: args.name, clock };
    Ok(Plan { source, options, filter, limit: args.limit, show, all: args.all })
}

type Problem = (String, Option<&'static str>);

/// Where to begin and end, and which events, once it is known what time it is.
fn where_and_what(
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
    if let Ok(date) = text.parse::<Date>() {
        return Ok(midnight(date));
    }
    let span = text.parse::<Span>().map_err(|_| "it is no time".to_owned())?;
    let ago = span.abs().to_duration(SpanRelativeTo::days_are_24_hours());
    let ago = ago.map_err(|_| "months and years have no fixed length".to_owned())?;
    now.checked_sub(ago).map_err(|_| "that is too long ago".to_owned())
}

/// What was read so far.
#[derive(Default)]
struct Tally {
    read: u64,
    shown: u64,
    left_out: u64,
}

async fn read(plan: Plan, shutdown: CancellationToken) -> Exit {
    let Plan { source, options, filter, limit, mut show, all } = plan;
    let named = options.name.is_some();
    let partitioned = matches!(&source, Source::Configured(config) if has_partitions(config));
    let opened = async {
        match &source {
            Source::Configured(config) => Reader::open(config, options).await,
            Source::File(path) => Reader::open_file(path, options).await,
        }
    };
    let reader = tokio::select! {
        reader = opened => reader,
        () = shutdown.cancelled() => return Exit::Done,
    };
    let mut reader = match reader {
        Ok(reader) => reader,
        Err(error) => return failed(&error),
    };
    let mut out = Out::stdout();
    show.begin(partitioned, &mut out.buffer);
    let mut tally = Tally::default();
    let mut position = Unwritten::default();
    let mut exit = Exit::Done;
    while limit.is_none_or(|limit| tally.shown < limit) && !shutdown.is_cancelled() && !out.is_broken() {
        let next = match reader.next().now_or_never() {
            Some(next) => next,
            // Nothing at hand: what was read until now is shown before waiting.
            None => {
                let settled = if named {
                    position.settle(&mut reader, &mut out, &shutdown).await
                } else {
                    out.pass().await;
                    Ok(())
                };
                if let Err(error) = settled {
                    exit = failed(&error);
                    break;
                }
                tokio::select! {
                    next = reader.next() => next,
                    () = shutdown.cancelled() => break,
                }
            }
        };
        let received = match next {
            Ok(Some(received)) => received,
            Ok(None) => break,
            Err(error) => {
                exit = failed(&error);
                break;
            }
        };
        tally.read += 1;
        take(&received, &filter, &mut show, all, &mut tally, &mut out.buffer);
        position.note(received.place);
        if out.is_full() {
            out.pass().await;
        }
        if named
            && position.is_due()
            && let Err(error) = position.settle(&mut reader, &mut out, &shutdown).await
        {
            exit = failed(&error);
            break;
        }
    }
    if exit == Exit::Done
        && let Err(problem) = show.end(&mut out.buffer)
    {
        report(&problem, None);
        exit = Exit::Failed;
    }
    if named && let Err(error) = position.settle(&mut reader, &mut out, &shutdown).await {
        exit = exit.max(failed(&error));
    }
    reader.close().await;
    let written = out.finish(&shutdown).await;
    if tally.left_out > 0 && !all {
        warn!(
            messages = tally.left_out,
            "no events of this program were among what was read, and left out; `--all` shows them"
        );
    }
    info!(read = tally.read, shown = tally.shown, "read back");
    exit.max(written)
}

fn has_partitions(config: &TransportConfig) -> bool {
    #[cfg(feature = "kafka")]
    if matches!(config, TransportConfig::Kafka(_)) {
        return true;
    }
    let _ = config;
    false
}

/// Shows a message, or counts what is left out.
fn take(
    received: &Received,
    filter: &Filter,
    show: &mut Show,
    all: bool,
    tally: &mut Tally,
    buffer: &mut Vec<u8>,
) {
    let shown = match received.event() {
        Ok(event) if !filter.matches(&event) => return,
        Ok(event) => show.event(received, &event, buffer),
        Err(why) => Err(why),
    };
    match shown {
        Ok(()) => tally.shown += 1,
        Err(why) => {
            tally.left_out += 1;
            if all {
                show.not_an_event(received, &why, buffer);
            } else if tally.left_out == 1 {
                let Place { partition, position, .. } = received.place;
                warn!(partition, position, "a message is no event of this program: {why}");
            }
        }
    }
}

fn failed(error: &TransportError) -> Exit {
    report(error, error.hint.as_deref());
    Exit::from(error)
}

/// Places whose messages were taken and whose position was not committed yet.
struct Unwritten {
    places: BTreeMap<i32, Place>,
    since: std::time::Instant,
}

impl Default for Unwritten {
    fn default() -> Self {
        Self { places: BTreeMap::new(), since: std::time::Instant::now() }
    }
}

impl Unwritten {
    fn note(&mut self, place: Place) {
        self.places.insert(place.partition, place);
    }

    fn is_due(&self) -> bool {
        self.since.elapsed() >= COMMIT
    }

    /// Commits once everything is written out: a position never moves over an event that was not
    /// shown.
    async fn settle(
        &mut self,
        reader: &mut Reader,
        out: &mut Out,
        shutdown: &CancellationToken,
    ) -> Result<(), TransportError> {
        self.since = std::time::Instant::now();
        if !out.settle(shutdown).await {
            return Ok(());
        }
        while let Some((_, place)) = self.places.pop_first() {
            reader.commit(place).await?;
        }
        Ok(())
    }
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
        ] {
            let problem = meant(flags).unwrap_err();
            assert!(problem.contains(expected), "{flags:?}: {problem}");
        }
    }
}
