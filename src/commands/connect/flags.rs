//! Answers out of flags: what is given, what is missing, and secrets from where a flag says.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _, Read as _},
    path::{Path, PathBuf},
};

use secrecy::SecretString;

use super::{
    answers::{Credentials, Login, NatsLogin, Output, Secret, Tls},
    args::{AwsArgs, ConnectArgs, OutputArgs},
};
use crate::exit::{Exit, report};

/// The flags without which nothing can be written unasked.
pub(super) fn missing(args: &ConnectArgs, has_output: bool) -> Vec<&'static str> {
    let AwsArgs { name, access_key_id, secret_access_key_file, secret_access_key_env, .. } = &args.aws;
    let AwsArgs { profile, role_arn, default_credentials, .. } = &args.aws;
    let mut missing = Vec::new();
    if name.is_none() {
        missing.push("--name");
    }
    if access_key_id.is_some() {
        if secret_access_key_file.is_none() && secret_access_key_env.is_none() {
            missing.push("--secret-access-key-file (or --secret-access-key-env)");
        }
    } else if profile.is_none() && role_arn.is_none() && !default_credentials {
        missing.push("--access-key-id (or --profile, --role-arn, --default-credentials)");
    }
    if !has_output && args.output.output.is_none() {
        missing.push("--output");
    }
    let OutputArgs { output_user, output_password_file, output_password_env, .. } = &args.output;
    if output_user.is_some() && output_password_file.is_none() && output_password_env.is_none() {
        missing.push("--output-password-file (or --output-password-env)");
    }
    if !args.yes {
        missing.push("--yes");
    }
    missing
}

/// Why an access key will not do: AWS's temporary keys begin with `ASIA`.
pub(super) fn temporary(access_key_id: &str) -> Option<String> {
    access_key_id.starts_with("ASIA").then(|| {
        format!(
            "`{access_key_id}` is a temporary key, which ends within hours: authenticate by the profile or role \
             it comes from"
        )
    })
}

/// Where secrets come from that no file of the user's holds.
#[derive(Default)]
pub(super) struct Sources {
    environment: BTreeMap<String, String>,
    stdin_taken: bool,
}

impl Sources {
    pub(super) fn new(environment: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { environment: environment.into_iter().collect(), stdin_taken: false }
    }

    /// The secret a pair of flags names; `None`: neither was given, or stdin is a terminal to ask on.
    ///
    /// # Errors
    /// `Exit::Usage`, what is wrong already said.
    pub(super) fn secret(
        &mut self,
        what: &str,
        file: Option<&str>,
        variable: Option<&str>,
        place: PathBuf,
    ) -> Result<Option<Secret>, Exit> {
        let value = match (file, variable) {
            (Some("-"), _) if io::stdin().is_terminal() => return Ok(None),
            (Some("-"), _) => self.stdin(what)?,
            (Some(file), _) => return Ok(Some(Secret { file: file.into(), value: None })),
            (None, Some(variable)) => self.environment.get(variable).cloned().ok_or_else(|| {
                let hint = "export it, or name a file that holds the secret";
                report(&format!("the variable `{variable}` for {what} is not set"), Some(hint));
                Exit::Usage
            })?,
            (None, None) => return Ok(None),
        };
        let value = value.trim();
        if value.is_empty() || value.contains(char::is_whitespace) {
            let problem = if value.is_empty() { "is empty" } else { "is more than one word" };
            report(&format!("{what} {problem}"), Some("give the secret and nothing else"));
            return Err(Exit::Usage);
        }
        Ok(Some(Secret { file: place, value: Some(SecretString::from(value)) }))
    }

    fn stdin(&mut self, what: &str) -> Result<String, Exit> {
        if std::mem::replace(&mut self.stdin_taken, true) {
            let hint = "give one of the two secrets by a file or a variable";
            report(&format!("stdin was read already and cannot hold {what}, too"), Some(hint));
            return Err(Exit::Usage);
        }
        let mut text = String::new();
        // A secret is short; something else was piped in by mistake.
        match io::stdin().take(64 * 1024).read_to_string(&mut text) {
            Ok(_) => Ok(text),
            Err(error) => {
                report(&format!("could not read {what} from stdin: {error}"), None);
                Err(Exit::Usage)
            }
        }
    }
}

/// A file beside the configuration.
pub(super) fn beside(config: &Path, name: &str) -> PathBuf {
    config.with_file_name(name)
}

/// Where the secret access key of a connection is put.
pub(super) fn secret_place(args: &ConnectArgs, name: &str) -> PathBuf {
    let default = || beside(&args.file.path, &format!("{name}.secret-access-key"));
    args.aws.secret_file.clone().unwrap_or_else(default)
}

/// The credentials the flags give; `None`: none, or none whole.
///
/// # Errors
/// `Exit::Usage` or `Exit::Config`, what is wrong already said.
pub(super) fn credentials(
    args: &ConnectArgs,
    name: &str,
    sources: &mut Sources,
) -> Result<Option<Credentials>, Exit> {
    let aws = &args.aws;
    if let Some(id) = &aws.access_key_id {
        if let Some(problem) = temporary(id) {
            report(&problem, None);
            return Err(Exit::Config);
        }
        let (file, variable) = (aws.secret_access_key_file.as_deref(), aws.secret_access_key_env.as_deref());
        let secret = sources.secret("the secret access key", file, variable, secret_place(args, name))?;
        return Ok(secret.map(|secret| Credentials::Keys { access_key_id: id.clone(), secret }));
    }
    if let Some(role_arn) = &aws.role_arn {
        let (external_id, profile) = (aws.external_id.clone(), aws.profile.clone());
        return Ok(Some(Credentials::Role { role_arn: role_arn.clone(), external_id, profile }));
    }
    let profile = aws.profile.clone().map(Credentials::Profile);
    Ok(profile.or(aws.default_credentials.then_some(Credentials::Default)))
}

/// The output the flags give; `None`: none, or one without its password.
///
/// # Errors
/// `Exit::Usage`, what is wrong already said.
pub(super) fn output(args: &ConnectArgs, sources: &mut Sources) -> Result<Option<Output>, Exit> {
    let flags = &args.output;
    let Some(kind) = flags.output.as_deref() else { return Ok(None) };
    refuse_foreign(kind, flags)?;
    let tls = flags.tls.then(|| Tls { ca_file: flags.ca_file.clone() });
    let login = match &flags.output_user {
        Some(user) => {
            let file = flags.output_password_file.as_deref();
            let variable = flags.output_password_env.as_deref();
            let place = beside(&args.file.path, &format!("{kind}-password"));
            let Some(password) = sources.secret("the password", file, variable, place)? else {
                return Ok(None);
            };
            let mechanism = flags.sasl_mechanism.clone().unwrap_or_else(|| MECHANISM.to_owned());
            Some(Login { user: user.clone(), password, mechanism })
        }
        None => None,
    };
    Ok(Some(match kind {
        "kafka" => Output::Kafka {
            servers: flags.address.clone().unwrap_or_else(|| KAFKA.to_owned()),
            topic: flags.topic.clone().unwrap_or_else(|| TOPIC.to_owned()),
            create: flags.create,
            login,
            tls,
        },
        "nats" => Output::Nats {
            servers: servers(flags.address.as_deref().unwrap_or(NATS)),
            stream: flags.stream.clone().unwrap_or_else(|| STREAM.to_owned()),
            create: flags.create,
            login: match (login, &flags.nats_credentials_file) {
                (Some(login), _) => NatsLogin::User(login),
                (None, Some(file)) => NatsLogin::Credentials(file.clone()),
                (None, None) => NatsLogin::Nobody,
            },
            tls,
        },
        output => Output::Local {
            output: output.to_owned(),
            state: flags.state.clone().unwrap_or_else(|| STATE.to_owned()),
        },
    }))
}

/// Flags of another output would be ignored silently.
fn refuse_foreign(kind: &str, flags: &OutputArgs) -> Result<(), Exit> {
    let given = [
        ("--state", flags.state.is_some(), "a file or `-`"),
        ("--topic", flags.topic.is_some(), "kafka"),
        ("--sasl-mechanism", flags.sasl_mechanism.is_some(), "kafka"),
        ("--stream", flags.stream.is_some(), "nats"),
        ("--nats-credentials-file", flags.nats_credentials_file.is_some(), "nats"),
        ("--address", flags.address.is_some(), "kafka or nats"),
        ("--create", flags.create, "kafka or nats"),
        ("--output-user", flags.output_user.is_some(), "kafka or nats"),
        ("--tls", flags.tls, "kafka or nats"),
    ];
    let local = !matches!(kind, "kafka" | "nats");
    let fits = |whose: &str| if local { whose.starts_with('a') } else { whose.contains(kind) };
    let foreign: Vec<_> = given.iter().filter(|(_, given, whose)| *given && !fits(whose)).collect();
    for (flag, _, whose) in &foreign {
        report(&format!("`{flag}` belongs to `--output` {whose}, not to `{kind}`"), Some("leave it out"));
    }
    if foreign.is_empty() { Ok(()) } else { Err(Exit::Usage) }
}

/// Servers written with commas between.
pub(super) fn servers(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|server| !server.is_empty()).map(str::to_owned).collect()
}

/// What is taken where nothing is said.
pub(super) const STATE: &str = "billing-source.db";
pub(super) const KAFKA: &str = "localhost:9092";
pub(super) const TOPIC: &str = "amazon-billing";
pub(super) const MECHANISM: &str = "SCRAM-SHA-512";
pub(super) const NATS: &str = "nats://localhost:4222";
pub(super) const STREAM: &str = "AMAZON_BILLING";
