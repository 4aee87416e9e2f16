//! `connect`: from nothing to a configuration that was tried, by questions on a terminal or by flags.
//!
//! Nothing is written before the end, and then all of it: stopped half-way, nothing is there.

mod answers;
mod args;
mod draft;
mod edit;
mod files;
mod flags;
mod guide;
mod interview;
mod list;
mod outputs;
mod remove;
mod terminal;
mod trial;

use std::{
    io::{self, IsTerminal as _},
    path::Path,
    time::Duration,
};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

pub use args::ConnectArgs;
pub(crate) use guide::POLICY;

use super::{aside, environment, print};
use crate::exit::{Exit, report};
use answers::{Answers, Secrets};
use args::{ConnectCommand, OutputArgs};
use draft::Draft;
use flags::Sources;
use terminal::{Ask, Before, Stop};

/// Creates a connection, or lists or removes some. What runs the result is printed on stdout.
pub async fn run(args: ConnectArgs, shutdown: CancellationToken) -> Exit {
    match &args.command {
        Some(ConnectCommand::List { file }) => list::run(&file.path),
        Some(ConnectCommand::Remove { name, file, yes }) => {
            remove::run(&file.path, name, *yes, &shutdown).await
        }
        None => match Box::pin(create(args, &shutdown)).await {
            Ok(exit) => exit,
            Err(stop) => stopped(stop),
        },
    }
}

async fn create(args: ConnectArgs, shutdown: &CancellationToken) -> Result<Exit, Stop> {
    let path = args.file.path.clone();
    if let Err(error) = files::probe(&path) {
        report(&error, error.hint);
        return Err(Exit::Config.into());
    }
    let draft = match Draft::open(&path, environment().collect()) {
        Ok(draft) => draft,
        Err(error) => {
            report(&error, None);
            return Err(Exit::Config.into());
        }
    };
    if draft.has_output() && args.output != OutputArgs::default() {
        let message = format!("`{}` says already where events go, for all its connections", path.display());
        report(&message, Some("leave out `--output`, or name another file with `--config`"));
        return Err(Exit::Config.into());
    }
    let answers = if is_asking(args.yes) {
        let draft = draft.clone();
        on_terminal(shutdown, move |ask, handle| interview::interview(ask, &draft, &args, handle)).await?
    } else {
        let missing = flags::missing(&args, draft.has_output());
        if !missing.is_empty() {
            let hint = "on a terminal, and without `--yes`, what is missing is asked";
            report(&format!("missing: {}", missing.join(", ")), Some(hint));
            return Err(Exit::Usage.into());
        }
        tokio::select! {
            answers = decide(&args, &draft) => answers?,
            () = shutdown.cancelled() => return Err(Stop::Interrupted),
        }
    };
    Ok(finish(&draft, &answers))
}

/// Whether there is somebody to ask.
fn is_asking(yes: bool) -> bool {
    !yes && io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Runs questions on a thread of their own, until they are answered or a signal comes. A thread that
/// waits for a key cannot be ended; it is left behind, and the terminal put back under it.
async fn on_terminal<T: Send + 'static>(
    shutdown: &CancellationToken,
    questions: impl FnOnce(&Ask, &Handle) -> Result<T, Stop> + Send + 'static,
) -> Result<T, Stop> {
    let (before, ask, handle) = (Before::now(), Ask::default(), Handle::current());
    let asking = ask.clone();
    let mut thread = tokio::task::spawn_blocking(move || questions(&asking, &handle));
    let result = tokio::select! {
        result = &mut thread => result.unwrap_or_else(|error| Err(Stop::Terminal(io::Error::other(error)))),
        () = shutdown.cancelled() => {
            // A question that has begun sets the terminal in a moment, if it has not yet: what is put
            // back before that would be set again.
            ask.close();
            for _ in 0..1000 {
                if thread.is_finished() || !ask.is_asking() || before.differ() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(Stop::Interrupted)
        }
    };
    if result.is_err() {
        before.restore();
    }
    result
}

fn stopped(stop: Stop) -> Exit {
    match stop {
        Stop::Left => {
            aside("stopped: nothing was written");
            Exit::Failed
        }
        Stop::Interrupted => {
            aside("\nstopped: nothing was written");
            Exit::Failed
        }
        Stop::Refused(exit) => {
            aside("nothing was written");
            exit
        }
        Stop::Terminal(error) => {
            report(&format!("could not ask on this terminal: {error}"), Some("give the answers as flags"));
            Exit::Failed
        }
    }
}

/// The answers of flags alone, tried.
async fn decide(args: &ConnectArgs, draft: &Draft) -> Result<Answers, Stop> {
    let mut sources = Sources::new(environment());
    let name = args.aws.name.clone().unwrap_or_default();
    let credentials = flags::credentials(args, &name, &mut sources)?.ok_or_else(unread)?;
    let output = flags::output(args, &mut sources)?;
    if output.is_none() && args.output.output.is_some() {
        return Err(unread().into());
    }
    let mut answers = from_flags(args, name, credentials);
    answers.output = output;
    probe_secrets(&answers)?;
    let mut loaded = trial::load(draft, &answers)?;
    if !args.no_test {
        let (aws, account) = trial::identity(&loaded, &answers).await?;
        answers.account_id = Some(account.clone());
        loaded = trial::load(draft, &answers)?;
        trial::rivals(&loaded, &answers, &account).await?;
        if args.query {
            trial::query(&aws, &loaded, &answers).await.map_err(|(_, exit)| exit)?;
        }
        trial::output(&loaded).await?;
    }
    for warning in &loaded.warnings {
        trial::say(&format!("warning: {warning}"));
    }
    Ok(answers)
}

/// A secret on a terminal would be seen by everybody who looks.
fn unread() -> Exit {
    report(&"stdin is a terminal, and no secret is read from one that shows it", Some("pipe it in"));
    Exit::Usage
}

/// What flags say of a connection beside its name and credentials.
fn from_flags(args: &ConnectArgs, name: String, credentials: answers::Credentials) -> Answers {
    let aws = &args.aws;
    Answers {
        name,
        account_id: None,
        granularity: aws.granularity.clone(),
        group_by: aws.group_by.clone(),
        metrics: aws.metrics.clone(),
        region: aws.region.clone(),
        endpoint_url: aws.endpoint_url.clone(),
        credentials,
        output: None,
    }
}

/// That every secret which is in no file yet can be put into one.
fn probe_secrets(answers: &Answers) -> Result<(), Exit> {
    for secret in answers.secrets() {
        if secret.value.is_some()
            && let Err(error) = files::probe_secret(&secret.file)
        {
            report(&error, error.hint);
            return Err(Exit::Config);
        }
    }
    Ok(())
}

/// Writes everything, the configuration last: what it names is there from the first moment on. No
/// signal is looked at in between.
fn finish(draft: &Draft, answers: &Answers) -> Exit {
    let text = match draft.with(answers, Secrets::Files) {
        Ok(text) => text,
        Err(error) => {
            report(&format!("could not edit `{}`: {error:?}", draft.path.display()), None);
            return Exit::Failed;
        }
    };
    let mut written: Vec<&Path> = Vec::new();
    let mut result = Ok(());
    for secret in answers.secrets() {
        if let Some(value) = &secret.value
            && result.is_ok()
        {
            result = files::write_secret(&secret.file, value);
            if result.is_ok() {
                written.push(&secret.file);
            }
        }
    }
    let result = result.and_then(|()| files::write(&draft.path, draft.text.as_deref(), &text));
    if let Err(error) = result {
        for path in written {
            std::fs::remove_file(path).unwrap_or_default();
        }
        report(&error, error.hint);
        return Exit::Failed;
    }
    for path in written {
        trial::say(&format!("wrote `{}`, which only this user can read", path.display()));
    }
    trial::say(&format!("wrote the connection `{}` to `{}`", answers.name, draft.path.display()));
    if !draft.names.is_empty() {
        aside("a process that runs with this file takes it up when it is restarted");
    }
    let config = quoted(&draft.path.display().to_string());
    aside("what it will cost:");
    aside(&format!("  amazon-billing-source plan --config {config}"));
    aside("run it, from this folder:");
    print(&format!("amazon-billing-source run --config {config}\n"))
}

/// As a shell takes it.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%:,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}
