//! `forward`: its command line, and the files it names. What is done is in [`crate::forward`].

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::fmt::friendly::SpanParser;
use reqwest::{
    Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::{ConfigFiles, environment, filter_args::FilterArgs};
use crate::{
    admin::{self, Readiness},
    clock::Clock,
    consume::{Bound, ConsumerName, Filter, Start},
    exit::{Exit, report},
    forward::{self, DeadLetterTarget, ForwardConfig, HttpMode, RetryPolicy, Signer},
    telemetry::Metrics,
};

const EXAMPLES: &str = "\
Examples:
  # Every event, to a function; started again, it goes on where it stopped
  amazon-billing-source forward --config billing.toml --name finance \\
    --endpoint https://example.com/events

  # What was restated, in signed batches; what is refused goes to a file
  amazon-billing-source forward --config billing.toml --name restated \\
    --endpoint https://example.com/ingest \\
    --change revised --mode batch --secret-file whsec.txt --dead-letter refused.jsonl

  # What is there now, then an end
  amazon-billing-source forward --config billing.toml --name trial \\
    --endpoint http://127.0.0.1:8080/ --once";

/// Holds secrets, a line each, where `--secret-file` is not given.
const SECRET_VARIABLE: &str = "BILLING_SOURCE_FORWARD_SECRET";

/// Between the first attempt and the second, and between two at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// What to forward, where to, and how.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ForwardArgs {
    #[command(flatten)]
    files: ConfigFiles,
    /// Under which the position is kept: a Kafka consumer group, a NATS durable, a file beside the
    /// events. Forwarders with names of their own do not know of each other
    #[arg(long, value_parser = ConsumerName::parse)]
    name: ConsumerName,
    /// The endpoint: `http://` or `https://`. Any 2xx takes what was sent
    #[arg(long, value_name = "URL")]
    endpoint: String,
    /// How events lie in a request, in the words of the CloudEvents HTTP binding
    #[arg(long, value_enum, default_value_t)]
    mode: HttpMode,
    /// Where a name begins that has no position yet
    #[arg(long, value_enum, default_value_t)]
    start: Beginning,
    /// Deliver what is there now, then exit
    #[arg(long)]
    once: bool,
    /// Where events go that are refused or given up: a file of JSON lines, or `topic:NAME`,
    /// `subject:NAME` of the broker the events are read from. Without it the first one ends the run
    #[arg(long, value_name = "TARGET", value_parser = DeadLetterTarget::parse)]
    dead_letter: Option<DeadLetterTarget>,
    /// Sign requests as Standard Webhooks: a file of secrets `whsec_...`, a line each; every request
    /// has a signature of each. Or set `BILLING_SOURCE_FORWARD_SECRET`
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// More headers: a file of `Name: value`, a line each, such as `Authorization: Bearer ...`
    #[arg(long, value_name = "FILE")]
    header_file: Option<PathBuf>,
    /// Who certifies the endpoint, beside the host's own roots: a file in PEM
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// How long a request may take
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    timeout: Duration,
    /// How long an event is tried again that is not taken for now (no answer, 408, 425, 429, 5xx):
    /// after a second, doubled up to a minute, or as `Retry-After` says; `forever`
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = retry_for)]
    retry_for: RetryFor,
    /// Requests under way at once. Events of one key are never side by side
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = count(256))]
    concurrency: u16,
    /// Events in a request of `--mode batch`, at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = count(1000))]
    batch_size: u16,
    /// Serve /livez, /readyz and /metrics here
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    filter: FilterArgs,
}

/// `--start`.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Beginning {
    /// The oldest event that is kept
    #[default]
    Beginning,
    /// What comes from now on
    End,
}

/// `--retry-for`; `None`: for ever.
#[derive(Clone, Copy, Debug)]
struct RetryFor(Option<Duration>);

/// Reads the endpoint's URL. The error does not repeat it: it may hold a password.
fn url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|e| format!("it is no URL: {e}"))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        _ => Err("it is no `http://` or `https://` URL".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    SpanParser::new()
        .parse_duration(text)
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .filter(|duration| !duration.is_zero() && *duration <= Duration::from_hours(24 * 366))
        .ok_or_else(|| "write a number with its unit: `30s`, `1h30m`".to_owned())
}

fn retry_for(text: &str) -> Result<RetryFor, String> {
    if text == "forever" { Ok(RetryFor(None)) } else { duration(text).map(|limit| RetryFor(Some(limit))) }
}

fn count(most: u16) -> impl clap::builder::TypedValueParser<Value = u16> {
    clap::value_parser!(u16).range(1..=i64::from(most))
}

/// Forwards until it is told to stop.
pub async fn run(args: ForwardArgs, shutdown: CancellationToken) -> Exit {
    let filter = match args.filter.filter() {
        Ok(filter) => filter,
        Err(problem) => {
            report(&problem, Some("both dates are included"));
            return Exit::Usage;
        }
    };
    let url = match url(&args.endpoint) {
        Ok(url) => url,
        Err(problem) => {
            let hint = "write it with its scheme: `https://example.com/events`";
            report(&format!("`--endpoint` cannot be used: {problem}"), Some(hint));
            return Exit::Usage;
        }
    };
    let loaded = match args.files.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let config = match read_files(&args, filter, url, loaded.config.poll.grace) {
        Ok(config) => config,
        Err(Refused { problem, hint }) => {
            report(&problem, Some(hint));
            return Exit::Config;
        }
    };
    let (metrics, readiness) = (Metrics::new(), Readiness::default());
    if let Some(listen) = args.listen {
        let other = "give `--listen` a free address, or leave it away";
        tokio::spawn(admin::serve((listen, other), metrics.clone(), readiness.clone(), shutdown.clone()));
    }
    let world = (Clock::system(), metrics, readiness);
    match forward::run(&loaded.config.transport, config, world, &shutdown).await {
        Ok(exit) => exit,
        Err(error) => {
            report(&error, error.hint());
            Exit::from(&error)
        }
    }
}

/// A file that cannot be used.
struct Refused {
    problem: String,
    hint: &'static str,
}

fn read_files(
    args: &ForwardArgs,
    filter: Filter,
    url: Url,
    grace: Duration,
) -> Result<ForwardConfig, Refused> {
    let secrets = match &args.secret_file {
        Some(path) => Some((format!("the secrets in `{}`", path.display()), read(path)?)),
        None => environment()
            .find(|(name, _)| name == SECRET_VARIABLE)
            .map(|(_, value)| (format!("the secrets in {SECRET_VARIABLE}"), value)),
    };
    let signer = secrets.map(|(what, text)| {
        Signer::parse(&SecretString::from(text)).map_err(|problem| Refused {
            problem: format!("{what} cannot be used: {problem}"),
            hint: "a secret is a line `whsec_` and base64: echo whsec_$(openssl rand -base64 32)",
        })
    });
    let headers = match &args.header_file {
        Some(path) => headers(&read(path)?).map_err(|problem| Refused {
            problem: format!("the headers in `{}` cannot be used: {problem}", path.display()),
            hint: "a header is a line `Name: value`; what the events and the signature need is set already",
        })?,
        None => HeaderMap::new(),
    };
    Ok(ForwardConfig {
        name: args.name.clone(),
        start: match args.start {
            Beginning::Beginning => Start::Beginning,
            Beginning::End => Start::End,
        },
        filter,
        bound: if args.once { Bound::End } else { Bound::Follow },
        url,
        mode: args.mode,
        headers,
        signer: signer.transpose()?,
        more_roots: args.ca_file.as_deref().map(read).transpose()?.map(String::into_bytes),
        timeout: args.timeout,
        retry: RetryPolicy { first: FIRST_PAUSE, longest: LONGEST_PAUSE, give_up: args.retry_for.0 },
        concurrency: args.concurrency.into(),
        batch_size: args.batch_size.into(),
        dead_letter: args.dead_letter.clone(),
        grace,
    })
}

fn read(path: &Path) -> Result<String, Refused> {
    std::fs::read_to_string(path).map_err(|e| Refused {
        problem: format!("could not read `{}`: {e}", path.display()),
        hint: "paths are relative to the folder the program was started in",
    })
}

/// Lines `Name: value`. The error never holds a value.
fn headers(text: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: &str| format!("line {} {what}", index + 1);
        let (name, value) = line.split_once(':').ok_or_else(|| wrong("has no `:`"))?;
        let name =
            HeaderName::try_from(name.trim()).map_err(|_| wrong("has no header's name before its `:`"))?;
        let ours = ["content-type", "content-length", "transfer-encoding", "connection", "host"];
        let text = name.as_str();
        if ours.contains(&text) || text.starts_with("ce-") || text.starts_with("webhook-") {
            return Err(wrong(&format!("sets `{text}`, which is set already")));
        }
        let mut value =
            HeaderValue::try_from(value.trim()).map_err(|_| wrong("has a value no header can have"))?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_lines_and_ours_are_refused() {
        let read = headers("# who we are\nAuthorization: Bearer a:b\n\nX-Team : finance\n").unwrap();
        assert_eq!(read["authorization"], "Bearer a:b");
        assert_eq!(read["x-team"], "finance");
        for (text, problem) in [
            ("Authorization Bearer secret", "line 1 has no `:`"),
            ("\na b: secret", "line 2 has no header's name before its `:`"),
            ("Content-Type: secret", "line 1 sets `content-type`, which is set already"),
            ("ce-id: secret", "line 1 sets `ce-id`, which is set already"),
            ("X: secret\u{7f}", "line 1 has a value no header can have"),
        ] {
            assert_eq!(headers(text).unwrap_err(), problem);
        }
    }

    #[test]
    fn an_endpoint_that_is_none_is_not_repeated() {
        assert!(url("https://example.com/a?b=c").is_ok());
        for text in ["ftp://user:secret@host/", "user:secret@host", "", "https://"] {
            assert!(!url(text).unwrap_err().contains("secret"), "{text}");
        }
    }

    #[test]
    fn durations_have_units_and_ends() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        for text in ["0s", "-1s", "5", "9999999h", ""] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(retry_for("forever").unwrap().0.is_none());
    }
}
