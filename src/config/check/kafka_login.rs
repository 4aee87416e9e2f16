//! `[kafka.oauth]` and `[kafka.msk_iam]`: at most one way to log in, and all of it.
//!
//! No token server and no AWS is asked.

use std::{collections::BTreeMap, path::PathBuf};

use secrecy::{ExposeSecret as _, SecretString};

use super::{
    credentials::{credentials, secret_file, word},
    not_one_of,
    text::{endpoint, signing_region},
};
use crate::config::{
    problem::{Problems, listed},
    settings::{KafkaSettings, MskIamSettings, OauthSettings},
    types::{ClientAuth, CredentialsConfig, KafkaLogin, MskIamConfig, OauthConfig, SecretSource},
};

/// Who publishes. With tokens, `librdkafka` is told to use them; anything else it is told is a problem.
pub(super) fn login(
    settings: &mut KafkaSettings,
    librdkafka: &mut BTreeMap<String, SecretString>,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Option<KafkaLogin> {
    let ways = [
        ("username", settings.username.is_some() || settings.password_file.is_some()),
        ("oauth", settings.oauth.is_some()),
        ("msk_iam", settings.msk_iam.is_some()),
    ];
    let set: Vec<_> = ways.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
    if set.len() > 1 {
        let problem = format!("{} are set; expected one way to log in", listed(&set, "and"));
        problems.add(format!("kafka.{}", set[set.len() - 1]), problem);
        return None;
    }
    let login = match (settings.oauth.take(), settings.msk_iam.take()) {
        (Some(settings), _) => oauth(settings, problems, warnings).map(KafkaLogin::Oauth),
        (None, Some(settings)) => msk_iam(settings, problems, warnings).map(KafkaLogin::MskIam),
        (None, None) => {
            if mechanism(librdkafka).is_some_and(|name| name.eq_ignore_ascii_case("OAUTHBEARER")) {
                problems.add_hint(
                    "kafka.librdkafka.sasl.mechanisms",
                    "is `OAUTHBEARER`, but nothing says where tokens come from",
                    "write a table `[kafka.oauth]`, or `[kafka.msk_iam]` for Amazon MSK",
                );
            }
            return Some(KafkaLogin::Librdkafka);
        }
    };
    let table = set[0];
    if mechanism(librdkafka).is_some_and(|name| !name.eq_ignore_ascii_case("OAUTHBEARER")) {
        let problem = format!("is not `OAUTHBEARER`, which `[kafka.{table}]` means");
        problems.add_hint("kafka.librdkafka.sasl.mechanisms", problem, "leave it out");
    }
    let protocol = librdkafka.entry("security.protocol".to_owned()).or_insert_with(|| "SASL_SSL".into());
    let protocol = protocol.expose_secret().to_ascii_uppercase();
    if !protocol.starts_with("SASL_") {
        let problem = format!("is `{protocol}`, where nobody logs in; `[kafka.{table}]` is set");
        problems.add_hint(
            "kafka.librdkafka.security.protocol",
            problem,
            "leave it out: it is `SASL_SSL` then",
        );
    } else if protocol == "SASL_PLAINTEXT" {
        warnings.push(
            "kafka.librdkafka.security.protocol: with `SASL_PLAINTEXT` the token can be read on the way"
                .to_owned(),
        );
    }
    librdkafka.insert("sasl.mechanisms".to_owned(), "OAUTHBEARER".into());
    login
}

fn mechanism(librdkafka: &BTreeMap<String, SecretString>) -> Option<&str> {
    let name = librdkafka.get("sasl.mechanisms").or_else(|| librdkafka.get("sasl.mechanism"))?;
    Some(name.expose_secret())
}

fn oauth(
    settings: OauthSettings,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Option<OauthConfig> {
    let before = problems.count();
    let key = "kafka.oauth.token_endpoint";
    if settings.token_endpoint.is_empty() {
        let hint = "the provider's `token_endpoint`, as its `/.well-known/openid-configuration` names it";
        problems.add_hint(key, "is missing", hint);
    } else {
        match endpoint(&settings.token_endpoint) {
            Ok(endpoint) if endpoint.exposed => problems.add_hint(
                key,
                format!("`{}` is plain http to another host", settings.token_endpoint),
                "write `https://`: the client's secret is sent there",
            ),
            Ok(_) => {}
            Err((problem, _)) if problem == "contains a user or password" => {
                problems.add_hint(key, problem, "set `client_id` and `client_secret_file`");
            }
            Err((problem, hint)) => problems.push(key.to_owned(), problem, hint.map(str::to_owned)),
        }
    }
    if settings.client_id.trim().is_empty() {
        problems.add("kafka.oauth.client_id", "is missing; expected who asks for tokens");
    }
    let client_secret = secret(settings.client_secret, settings.client_secret_file, problems, warnings);
    let client_auth = match settings.client_auth.as_deref() {
        None | Some("basic") => ClientAuth::Basic,
        Some("post") => ClientAuth::Post,
        Some(other) => {
            let (problem, hint) = not_one_of(other, "a way to send a secret", &["basic", "post"]);
            problems.add_hint("kafka.oauth.client_auth", problem, hint);
            ClientAuth::Basic
        }
    };
    let ca_file = settings.ca_file.map(PathBuf::from);
    if let Some(path) = ca_file.as_ref().filter(|path| !path.is_file()) {
        problems.add_hint(
            "kafka.oauth.ca_file",
            format!("there is no file `{}`", path.display()),
            "the path is relative to the working directory",
        );
    }
    let client_secret = client_secret?;
    (problems.count() == before).then_some(OauthConfig {
        token_endpoint: settings.token_endpoint,
        client_id: settings.client_id,
        client_secret,
        client_auth,
        scope: settings.scope,
        audience: settings.audience,
        ca_file,
    })
}

/// The file is read now, to say what is wrong with it, and again for every token.
fn secret(
    text: Option<crate::config::settings::Secret>,
    file: Option<String>,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Option<SecretSource> {
    let key = "kafka.oauth.client_secret";
    match (text, file) {
        (Some(_), Some(_)) => {
            problems.add(key, "is set, and `client_secret_file` too; expected one of them");
            None
        }
        (Some(secret), None) => word(key, secret, problems).map(SecretSource::Text),
        (None, Some(path)) => {
            let path = PathBuf::from(path);
            secret_file("kafka.oauth.client_secret_file", &path, "the secret", problems, warnings)?;
            Some(SecretSource::File(path))
        }
        (None, None) => {
            problems.add_hint(key, "is missing", "set `client_secret_file` to a file that holds it");
            None
        }
    }
}

fn msk_iam(
    settings: MskIamSettings,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Option<MskIamConfig> {
    let before = problems.count();
    if settings.region.is_empty() {
        problems
            .add("kafka.msk_iam.region", "is missing; expected the cluster's region, such as `eu-central-1`");
    } else if signing_region(&settings.region).is_none() {
        problems.add_hint(
            "kafka.msk_iam.region",
            format!("`{}` is not an AWS region", settings.region),
            "the cluster's own region, such as `eu-central-1`",
        );
    }
    if let Some(url) = &settings.sts_endpoint_url
        && let Err((problem, hint)) = endpoint(url)
    {
        problems.push("kafka.msk_iam.sts_endpoint_url".to_owned(), problem, hint.map(str::to_owned));
    }
    let credentials = match settings.credentials {
        None => Some(CredentialsConfig::Default),
        Some(settings) => credentials("kafka.msk_iam.credentials", settings, problems, warnings),
    };
    let credentials = credentials?;
    (problems.count() == before).then_some(MskIamConfig {
        region: settings.region,
        credentials,
        sts_endpoint_url: settings.sts_endpoint_url,
    })
}
