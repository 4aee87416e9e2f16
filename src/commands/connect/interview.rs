//! The questions, each answer checked before the next. What flags say is not asked.
//!
//! Runs on a thread of its own, as it waits for keys; nothing is written here.

use tokio::runtime::Handle;

use super::{
    answers::{Answers, Credentials, Secret, Secrets, shown},
    args::ConnectArgs,
    draft::Draft,
    files, flags,
    flags::Sources,
    from_flags, guide, outputs,
    terminal::{Ask, Stop},
    trial,
};
use crate::{
    commands::{aside, environment},
    cost::{CostMetric, Granularity},
    exit::{Exit, report},
    poller::CostExplorer,
};

/// Asks for everything that no flag says, and tries it.
///
/// # Errors
/// When there is no answer, or what the flags say cannot be used.
pub(super) fn interview(
    ask: &Ask,
    draft: &Draft,
    args: &ConnectArgs,
    handle: &Handle,
) -> Result<Answers, Stop> {
    let there = if draft.text.is_some() { "a connection more in" } else { "a new configuration," };
    aside(&format!(
        "{there} `{}`. Nothing is written before the end; Ctrl-C leaves at any time.\n",
        draft.path.display()
    ));
    let name = name(ask, draft, args)?;
    let mut sources = Sources::new(environment());
    let mut answers = from_flags(args, name, Credentials::Default);
    let aws = authenticate(ask, draft, args, handle, &mut sources, &mut answers)?;
    loop {
        figures(ask, draft, args, &mut answers)?;
        let Some((_, account)) = &aws else { break };
        let loaded = trial::load(draft, &answers)?;
        match handle.block_on(trial::rivals(&loaded, &answers, account)) {
            Ok(()) => break,
            // Other figures mend a collision.
            Err(_) if figures_are_asked(args) => {}
            Err(exit) => return Err(exit.into()),
        }
    }
    if let Some((aws, _)) = &aws {
        query(ask, draft, args, handle, aws, &mut answers)?;
    }
    outputs::output(ask, draft, args, handle, &mut sources, &mut answers)?;
    for warning in &trial::load(draft, &answers)?.warnings {
        trial::say(&format!("warning: {warning}"));
    }
    confirm(ask, draft, &answers)?;
    Ok(answers)
}

fn name(ask: &Ask, draft: &Draft, args: &ConnectArgs) -> Result<String, Stop> {
    let named = |name: &str| from_flags(args, name.to_owned(), Credentials::Default);
    if let Some(name) = &args.aws.name {
        if let Some(problem) = draft.problem(&named(name), "name") {
            report(&format!("`--name {name}`: {problem}"), Some("choose another name"));
            return Err(Exit::Config.into());
        }
        return Ok(name.clone());
    }
    let free = |number: usize| if number == 1 { "main".to_owned() } else { format!("main-{number}") };
    let default = (1..1000).map(free).find(|name| !draft.names.contains(name));
    ask.text("Name of the connection", default.as_deref(), |name| draft.problem(&named(name), "name"))
}

/// Credentials that AWS takes, or that shall be written all the same.
fn authenticate(
    ask: &Ask,
    draft: &Draft,
    args: &ConnectArgs,
    handle: &Handle,
    sources: &mut Sources,
    answers: &mut Answers,
) -> Result<Option<(CostExplorer, String)>, Stop> {
    let mut given = flags::credentials(args, &answers.name, sources)?;
    let mut before = 0;
    loop {
        answers.account_id = None;
        answers.credentials = match given.take() {
            Some(credentials) => credentials,
            None => credentials(ask, draft, args, &mut before, answers)?,
        };
        secret_is_free(ask, answers)?;
        let loaded = trial::load(&draft.alone(), answers)?;
        if args.no_test {
            return Ok(None);
        }
        aside("asking AWS whose credentials these are, which is free ...");
        if let Ok((aws, account)) = handle.block_on(trial::identity(&loaded, answers)) {
            answers.account_id = Some(account.clone());
            return Ok(Some((aws, account)));
        }
        let items = ["answer again", "try the same again", "go on all the same", "stop"];
        match ask.choose("That did not work", &items, 0)? {
            0 => {}
            1 => given = Some(answers.credentials.clone()),
            2 => return Ok(None),
            _ => return Err(Stop::Left),
        }
    }
}

fn credentials(
    ask: &Ask,
    draft: &Draft,
    args: &ConnectArgs,
    before: &mut usize,
    answers: &Answers,
) -> Result<Credentials, Stop> {
    const WAYS: [&str; 5] = [
        "access key of a user",
        "profile of ~/.aws/config",
        "role, assumed with other credentials",
        "what AWS's SDK finds: environment, container, instance",
        "none yet: show the steps in the AWS console",
    ];
    let with = |credentials: Credentials| Answers { credentials, ..answers.clone() };
    if args.aws.access_key_id.is_none() {
        *before = ask.choose("How does it authenticate?", &WAYS, *before)?;
    }
    match *before {
        0 => keys(ask, draft, args, answers),
        1 => {
            let check = |profile: &str| {
                let answers = with(Credentials::Profile(profile.to_owned()));
                draft.problem(&answers, "credentials.profile")
            };
            let last = match &answers.credentials {
                Credentials::Profile(profile) => profile,
                _ => "default",
            };
            Ok(Credentials::Profile(ask.text("Profile", Some(last), check)?))
        }
        2 => {
            let role = |role_arn: &str, external_id: Option<String>, profile: Option<String>| {
                Credentials::Role { role_arn: role_arn.to_owned(), external_id, profile }
            };
            let check = |arn: &str| draft.problem(&with(role(arn, None, None)), "credentials.role_arn");
            let last = match &answers.credentials {
                Credentials::Role { role_arn, .. } => Some(role_arn.as_str()),
                _ => None,
            };
            let role_arn = ask.text("Role, such as arn:aws:iam::111122223333:role/billing", last, check)?;
            let external_id = ask.optional("External id, if its trust policy asks for one", |_| None)?;
            let profile = ask.optional("Profile that assumes it (empty: what the SDK finds)", |_| None)?;
            Ok(role(&role_arn, external_id, profile))
        }
        3 => Ok(Credentials::Default),
        _ => {
            aside(&format!("\n{}\n{}", guide::STEPS, guide::POLICY));
            *before = 0;
            credentials(ask, draft, args, before, answers)
        }
    }
}

fn keys(ask: &Ask, draft: &Draft, args: &ConnectArgs, answers: &Answers) -> Result<Credentials, Stop> {
    let file = flags::secret_place(args, &answers.name);
    let keys = |id: &str, value: Option<secrecy::SecretString>| {
        let secret = Secret { file: file.clone(), value };
        Credentials::Keys { access_key_id: id.to_owned(), secret }
    };
    let with = |credentials: Credentials| Answers { credentials, ..answers.clone() };
    let check = |id: &str| {
        flags::temporary(id).or_else(|| draft.problem(&with(keys(id, None)), "credentials.access_key_id"))
    };
    let last = match &answers.credentials {
        Credentials::Keys { access_key_id, .. } => Some(access_key_id.as_str()),
        _ => args.aws.access_key_id.as_deref(),
    };
    let id = ask.text("Access key id", last, check)?;
    let check =
        |secret: &str| draft.problem(&with(keys(&id, Some(secret.into()))), "credentials.secret_access_key");
    let secret = ask.hidden("Secret access key (not shown)", check)?;
    Ok(keys(&id, Some(secret)))
}

/// A secret goes where nothing is.
fn secret_is_free(ask: &Ask, answers: &mut Answers) -> Result<(), Stop> {
    let Credentials::Keys { secret, .. } = &mut answers.credentials else { return Ok(()) };
    free_place(ask, secret)
}

/// Asks for another file where there is one already.
pub(super) fn free_place(ask: &Ask, secret: &mut Secret) -> Result<(), Stop> {
    if secret.value.is_none() {
        return Ok(());
    }
    let Err(error) = files::probe_secret(&secret.file) else { return Ok(()) };
    aside(&format!("{error}"));
    let other = |number: u32| format!("{}-{number}", secret.file.display());
    let default = (2..100).map(other).find(|path| files::probe_secret(path.as_ref()).is_ok());
    let check = |path: &str| files::probe_secret(path.as_ref()).err().map(|error| error.to_string());
    secret.file = ask.text("Another file for the secret", default.as_deref(), check)?.into();
    Ok(())
}

/// Which figures: what AWS takes, and what no other connection has.
fn figures(ask: &Ask, draft: &Draft, args: &ConnectArgs, answers: &mut Answers) -> Result<(), Stop> {
    loop {
        if args.aws.granularity.is_empty() {
            let items = [
                "daily: one request a poll, $0.01",
                "daily and hourly: two requests a poll; AWS charges for hourly data, see the README",
                "hourly",
            ];
            let choices: [&[Granularity]; 3] =
                [&[Granularity::Daily], &[Granularity::Daily, Granularity::Hourly], &[Granularity::Hourly]];
            let chosen = choices[ask.choose("Which figures?", &items, 0)?];
            answers.granularity = chosen.iter().map(|granularity| granularity.name().to_owned()).collect();
        }
        if args.aws.group_by.is_none() {
            answers.group_by = grouping(ask, draft, answers)?;
        }
        if args.aws.metrics.is_empty() {
            answers.metrics = metrics(ask)?;
        }
        let Err(error) = draft.load(answers) else { return Ok(()) };
        report(&error, None);
        let ours = format!("connections[{}]", draft.names.len());
        // Another grouping mends a collision, but nothing that is wrong elsewhere.
        if !figures_are_asked(args) || !error.problems.iter().all(|problem| problem.key.starts_with(&ours)) {
            return Err(Exit::Config.into());
        }
    }
}

const fn figures_are_asked(args: &ConnectArgs) -> bool {
    args.aws.granularity.is_empty() || args.aws.group_by.is_none() || args.aws.metrics.is_empty()
}

fn grouping(ask: &Ask, draft: &Draft, answers: &Answers) -> Result<Option<String>, Stop> {
    const GROUPINGS: [(&str, &str); 6] = [
        ("by service alone", ""),
        ("by service and account of the organisation", "LINKED_ACCOUNT"),
        ("by service and region", "REGION"),
        ("by service and a tag", "TAG:"),
        ("by service and a cost category", "COST_CATEGORY:"),
        ("by service and another dimension", ""),
    ];
    let items = GROUPINGS.map(|(item, _)| item);
    let chosen = ask.choose("Grouped how?", &items, 0)?;
    let (_, group) = GROUPINGS[chosen];
    let prompt = match chosen {
        0 => return Ok(None),
        3 => "Key of the tag",
        4 => "Name of the cost category",
        5 => "Dimension, such as USAGE_TYPE",
        _ => return Ok(Some(group.to_owned())),
    };
    let check = |name: &str| {
        let group_by = Some(format!("{group}{name}"));
        draft.problem(&Answers { group_by, ..answers.clone() }, "group_by")
    };
    Ok(Some(format!("{group}{}", ask.text(prompt, None, check)?)))
}

fn metrics(ask: &Ask) -> Result<Vec<String>, Stop> {
    let default = [CostMetric::AmortizedCost, CostMetric::UnblendedCost];
    let items = CostMetric::ALL.map(|metric| (metric.aws_name(), default.contains(&metric)));
    loop {
        let chosen =
            ask.several("Which metrics? (space changes, Enter goes on; all cost one request)", &items)?;
        if !chosen.is_empty() {
            return Ok(chosen.into_iter().map(|index| items[index].0.to_owned()).collect());
        }
    }
}

/// One paid request per granularity, if that is wished.
fn query(
    ask: &Ask,
    draft: &Draft,
    args: &ConnectArgs,
    handle: &Handle,
    aws: &CostExplorer,
    answers: &mut Answers,
) -> Result<(), Stop> {
    let cents = answers.granularity.len().max(1);
    let prompt = format!("Prove that it may read costs? AWS charges $0.{cents:02} for the answer");
    if !args.query && !ask.confirm(&prompt, false)? {
        return Ok(());
    }
    loop {
        let loaded = trial::load(draft, answers)?;
        let Err((granularity, _)) = handle.block_on(trial::query(aws, &loaded, answers)) else {
            return Ok(());
        };
        let mut items = vec!["ask AWS again", "go on all the same", "stop"];
        if granularity == Granularity::Hourly && args.aws.granularity.is_empty() {
            items.push("go on with daily figures");
        }
        match ask.choose("That did not work", &items, 0)? {
            0 => {}
            1 => return Ok(()),
            2 => return Err(Stop::Left),
            _ => {
                answers.granularity = vec![Granularity::Daily.name().to_owned()];
                return Ok(());
            }
        }
    }
}

/// Shows what will be written.
fn confirm(ask: &Ask, draft: &Draft, answers: &Answers) -> Result<(), Stop> {
    let mut text = shown(&answers.connection(Secrets::Files));
    if let Some(output) = &answers.output {
        text.push('\n');
        text.push_str(&output.tables(Secrets::Files).to_string());
    }
    aside(&format!("\n{text}"));
    let mut files = vec![format!("`{}`", draft.path.display())];
    let secrets = answers.secrets();
    let new = secrets.iter().filter(|secret| secret.value.is_some());
    files.extend(new.map(|secret| format!("`{}` (mode 0600)", secret.file.display())));
    if ask.confirm(&format!("Write this to {}?", files.join(" and ")), true)? {
        Ok(())
    } else {
        Err(Stop::Left)
    }
}
