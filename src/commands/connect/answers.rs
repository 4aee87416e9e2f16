//! What was answered, by flags or on a terminal, and how a person would write it down.
//!
//! Values are not judged here: what is written is read back by `config`, which does.

use std::path::PathBuf;

use secrecy::{ExposeSecret as _, SecretString};
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, value};

/// A connection, and the output of a file that has none yet.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    pub(super) name: String,
    /// As STS told.
    pub(super) account_id: Option<String>,
    /// Empty: the default.
    pub(super) granularity: Vec<String>,
    pub(super) group_by: Option<String>,
    /// Empty: the default.
    pub(super) metrics: Vec<String>,
    pub(super) region: Option<String>,
    pub(super) endpoint_url: Option<String>,
    pub(super) credentials: Credentials,
    /// `None`: the file has one.
    pub(super) output: Option<Output>,
}

/// Who asks AWS.
#[derive(Clone, Debug)]
pub(super) enum Credentials {
    Default,
    Keys { access_key_id: String, secret: Secret },
    Profile(String),
    Role { role_arn: String, external_id: Option<String>, profile: Option<String> },
}

/// A secret and the file it is in.
#[derive(Clone, Debug)]
pub(super) struct Secret {
    pub(super) file: PathBuf,
    /// `None`: the file is there already.
    pub(super) value: Option<SecretString>,
}

/// Where events go.
#[derive(Clone, Debug)]
pub(super) enum Output {
    /// `output` is `-` for stdout.
    Local {
        output: String,
        state: String,
    },
    Kafka {
        servers: String,
        topic: String,
        create: bool,
        login: Option<Login>,
        tls: Option<Tls>,
    },
    Nats {
        servers: Vec<String>,
        stream: String,
        create: bool,
        login: NatsLogin,
        tls: Option<Tls>,
    },
}

/// User and password at a broker.
#[derive(Clone, Debug)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: Secret,
    /// Of Kafka.
    pub(super) mechanism: String,
}

/// Who publishes to NATS.
#[derive(Clone, Debug)]
pub(super) enum NatsLogin {
    Nobody,
    Credentials(String),
    User(Login),
    Token(Secret),
}

/// TLS to a broker.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    /// `None`: the system's.
    pub(super) ca_file: Option<String>,
}

/// How secrets are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Secrets {
    /// By the file they are in.
    Files,
    /// In the text itself, to try what is in no file yet. Such a text is neither shown nor written.
    Inline,
}

impl Answers {
    /// The `[[connections]]` of these answers. What has a default and keeps it is left out.
    pub(super) fn connection(&self, secrets: Secrets) -> Table {
        let mut table = Table::new();
        table["name"] = value(&self.name);
        set(&mut table, "account_id", self.account_id.as_deref());
        if !self.granularity.is_empty() && self.granularity != ["daily"] {
            table["granularity"] = list(&self.granularity);
        }
        if !self.metrics.is_empty() && self.metrics != ["AmortizedCost", "UnblendedCost"] {
            table["metrics"] = list(&self.metrics);
        }
        if let Some(group_by) = &self.group_by {
            table["group_by"] = list(std::slice::from_ref(group_by));
        }
        set(&mut table, "endpoint_url", self.endpoint_url.as_deref());
        set(&mut table, "region", self.region.as_deref());
        let mut credentials = Table::new();
        match &self.credentials {
            Credentials::Default => return table,
            Credentials::Keys { access_key_id, secret } => {
                credentials["kind"] = value("keys");
                credentials["access_key_id"] = value(access_key_id);
                secret.write(&mut credentials, "secret_access_key", secrets);
            }
            Credentials::Profile(profile) => {
                credentials["kind"] = value("profile");
                credentials["profile"] = value(profile);
            }
            Credentials::Role { role_arn, external_id, profile } => {
                credentials["kind"] = value("role");
                credentials["role_arn"] = value(role_arn);
                set(&mut credentials, "external_id", external_id.as_deref());
                set(&mut credentials, "profile", profile.as_deref());
            }
        }
        table["credentials"] = Item::Table(credentials);
        table
    }

    /// Every secret there is.
    pub(super) fn secrets(&self) -> Vec<&Secret> {
        let mut secrets = Vec::new();
        if let Credentials::Keys { secret, .. } = &self.credentials {
            secrets.push(secret);
        }
        match &self.output {
            Some(
                Output::Kafka { login: Some(login), .. } | Output::Nats { login: NatsLogin::User(login), .. },
            ) => secrets.push(&login.password),
            Some(Output::Nats { login: NatsLogin::Token(token), .. }) => secrets.push(token),
            _ => {}
        }
        secrets
    }
}

impl Secret {
    fn write(&self, table: &mut Table, key: &str, secrets: Secrets) {
        match &self.value {
            Some(secret) if secrets == Secrets::Inline => table[key] = value(secret.expose_secret()),
            _ => table[&format!("{key}_file")] = value(self.file.display().to_string()),
        }
    }
}

impl Output {
    /// `[transport]` and the table of its kind.
    pub(super) fn tables(&self, secrets: Secrets) -> DocumentMut {
        let mut document = DocumentMut::new();
        let mut table = Table::new();
        match self {
            Self::Local { output, state } => {
                table["output"] = value(output);
                table["state"] = value(state);
                document["local"] = Item::Table(table);
            }
            Self::Kafka { servers, topic, create, login, tls } => {
                document["transport"] = kind("kafka");
                table["bootstrap_servers"] = value(servers);
                table["topic"] = value(topic);
                table["state_topic"] = value(format!("{topic}-state"));
                if *create {
                    table["create_topics"] = value(true);
                }
                if let Some(login) = login {
                    table["username"] = value(&login.user);
                    login.password.write(&mut table, "password", secrets);
                }
                let mut passed = Table::new();
                let protocol = match (login, tls) {
                    (None, None) => None,
                    (None, Some(_)) => Some("SSL"),
                    (Some(_), None) => Some("SASL_PLAINTEXT"),
                    (Some(_), Some(_)) => Some("SASL_SSL"),
                };
                set(&mut passed, "security.protocol", protocol);
                set(&mut passed, "sasl.mechanisms", login.as_ref().map(|login| login.mechanism.as_str()));
                let ca_file = tls.as_ref().and_then(|tls| tls.ca_file.as_deref());
                set(&mut passed, "ssl.ca.location", ca_file);
                if !passed.is_empty() {
                    table["librdkafka"] = Item::Table(passed);
                }
                document["kafka"] = Item::Table(table);
            }
            Self::Nats { servers, stream, create, login, tls } => {
                document["transport"] = kind("nats");
                table["servers"] = list(servers);
                table["stream"] = value(stream);
                if *create {
                    table["create_stream"] = value(true);
                }
                match login {
                    NatsLogin::Nobody => {}
                    NatsLogin::Credentials(file) => table["credentials_file"] = value(file),
                    NatsLogin::User(login) => {
                        table["user"] = value(&login.user);
                        login.password.write(&mut table, "password", secrets);
                    }
                    NatsLogin::Token(token) => token.write(&mut table, "token", secrets),
                }
                if let Some(tls) = tls {
                    let mut keys = Table::new();
                    keys["required"] = value(true);
                    set(&mut keys, "ca_file", tls.ca_file.as_deref());
                    table["tls"] = Item::Table(keys);
                }
                document["nats"] = Item::Table(table);
            }
        }
        document
    }
}

fn kind(name: &str) -> Item {
    let mut table = Table::new();
    table["kind"] = value(name);
    Item::Table(table)
}

fn set(table: &mut Table, key: &str, text: Option<&str>) {
    if let Some(text) = text {
        table[key] = value(text);
    }
}

fn list(items: &[String]) -> Item {
    value(items.iter().collect::<Array>())
}

/// A connection as it will stand in the file.
pub(super) fn shown(connection: &Table) -> String {
    let mut tables = ArrayOfTables::new();
    tables.push(connection.clone());
    let mut document = DocumentMut::new();
    document.insert("connections", Item::ArrayOfTables(tables));
    document.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(value: Option<&str>) -> Secret {
        Secret { file: "main.secret-access-key".into(), value: value.map(SecretString::from) }
    }

    fn answers(credentials: Credentials) -> Answers {
        Answers {
            name: "main".to_owned(),
            account_id: Some("111122223333".to_owned()),
            granularity: vec!["daily".to_owned()],
            group_by: None,
            metrics: Vec::new(),
            region: None,
            endpoint_url: None,
            credentials,
            output: None,
        }
    }

    #[test]
    fn it_is_written_as_a_person_would() {
        let keys = Credentials::Keys { access_key_id: "AKIA".to_owned(), secret: secret(Some("s3cret")) };
        let plain = answers(keys);
        assert_eq!(
            shown(&plain.connection(Secrets::Files)),
            "[[connections]]\nname = \"main\"\naccount_id = \"111122223333\"\n\n[connections.credentials]\n\
             kind = \"keys\"\naccess_key_id = \"AKIA\"\nsecret_access_key_file = \"main.secret-access-key\"\n"
        );
        let full = Answers {
            granularity: vec!["daily".to_owned(), "hourly".to_owned()],
            group_by: Some("TAG:a \"team\"".to_owned()),
            metrics: vec!["UnblendedCost".to_owned()],
            ..answers(Credentials::Default)
        };
        assert_eq!(
            shown(&full.connection(Secrets::Files)),
            "[[connections]]\nname = \"main\"\naccount_id = \"111122223333\"\n\
             granularity = [\"daily\", \"hourly\"]\nmetrics = [\"UnblendedCost\"]\n\
             group_by = ['TAG:a \"team\"']\n"
        );
    }

    /// A secret that is in a file of the user's stays there in both texts.
    #[test]
    fn a_secret_is_in_the_text_only_to_try_it() {
        let text = |value, secrets| {
            let keys = Credentials::Keys { access_key_id: "AKIA".to_owned(), secret: secret(value) };
            shown(&answers(keys).connection(secrets))
        };
        assert!(!text(Some("s3cret"), Secrets::Files).contains("s3cret"));
        assert!(text(Some("s3cret"), Secrets::Inline).contains("secret_access_key = \"s3cret\""));
        assert!(text(None, Secrets::Inline).contains("secret_access_key_file = \"main.secret-access-key\""));
        assert!(!format!("{:?}", secret(Some("s3cret"))).contains("s3cret"));
    }

    #[test]
    fn every_output_has_its_tables() {
        let login = |mechanism: &str| Login {
            user: "billing".to_owned(),
            password: secret(None),
            mechanism: mechanism.to_owned(),
        };
        let tls = Some(Tls { ca_file: Some("ca.pem".to_owned()) });
        let kafka = Output::Kafka {
            servers: "a:9092".to_owned(),
            topic: "costs".to_owned(),
            create: true,
            login: Some(login("PLAIN")),
            tls: tls.clone(),
        };
        assert_eq!(
            kafka.tables(Secrets::Files).to_string(),
            "[transport]\nkind = \"kafka\"\n\n[kafka]\nbootstrap_servers = \"a:9092\"\ntopic = \"costs\"\n\
             state_topic = \"costs-state\"\ncreate_topics = true\nusername = \"billing\"\n\
             password_file = \"main.secret-access-key\"\n\n[kafka.librdkafka]\n\
             \"security.protocol\" = \"SASL_SSL\"\n\"sasl.mechanisms\" = \"PLAIN\"\n\
             \"ssl.ca.location\" = \"ca.pem\"\n"
        );
        let nats = Output::Nats {
            servers: vec!["nats://a:4222".to_owned()],
            stream: "COSTS".to_owned(),
            create: false,
            login: NatsLogin::Token(secret(None)),
            tls,
        };
        assert_eq!(
            nats.tables(Secrets::Files).to_string(),
            "[transport]\nkind = \"nats\"\n\n[nats]\nservers = [\"nats://a:4222\"]\nstream = \"COSTS\"\n\
             token_file = \"main.secret-access-key\"\n\n[nats.tls]\nrequired = true\nca_file = \"ca.pem\"\n"
        );
    }
}
