//! TLS and SCRAM against a real broker: what works, and that what does not is said at once.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use amazon_billing_source::{
    config::KafkaConfig,
    transport::{Transport as _, TransportErrorKind as Kind},
};

use crate::{
    broker::{Broker, free_port},
    support::{Process, change, config, consume},
};

/// A broker with a listener for TLS and SCRAM; who comes in the clear may do everything, `billing`
/// too, `stranger` nothing.
struct Secured {
    broker: Broker,
    servers: String,
    ca: String,
    _dir: tempfile::TempDir,
}

impl Secured {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, ca) = (dir.path().join("broker.p12"), dir.path().join("ca.pem"));
        let keytool = |arguments: &[&str]| {
            let mut command = Command::new("keytool");
            command.args(arguments).args(["-alias", "broker", "-storepass", "changeit", "-keystore"]);
            let output = command.arg(&store).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        };
        keytool(&[
            "-genkeypair",
            "-keyalg",
            "EC",
            "-dname",
            "CN=127.0.0.1",
            "-ext",
            "SAN=IP:127.0.0.1",
            "-validity",
            "30",
            "-storetype",
            "PKCS12",
        ]);
        keytool(&["-exportcert", "-rfc", "-file", ca.to_str().unwrap()]);
        let port = free_port();
        let store = store.display();
        let more = format!(
            "listeners=PLAINTEXT://127.0.0.1:{{port}},SASL_SSL://127.0.0.1:{port},CONTROLLER://127.0.0.1:{{controller}}
advertised.listeners=PLAINTEXT://127.0.0.1:{{port}},SASL_SSL://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=SCRAM-SHA-512,SCRAM-SHA-256,PLAIN
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_billing=\"right\";
ssl.keystore.type=PKCS12
ssl.keystore.location={store}
ssl.keystore.password=changeit
ssl.key.password=changeit
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:billing
"
        );
        let user = |mechanism, name| format!("{mechanism}=[name={name},password=right]");
        let format = [
            "--add-scram".to_owned(),
            user("SCRAM-SHA-512", "billing"),
            "--add-scram".to_owned(),
            user("SCRAM-SHA-256", "billing"),
            "--add-scram".to_owned(),
            user("SCRAM-SHA-512", "stranger"),
        ];
        let format: Vec<&str> = format.iter().map(String::as_str).collect();
        let broker = Broker::start(&more, &format);
        Self { broker, servers: format!("127.0.0.1:{port}"), ca: ca.display().to_string(), _dir: dir }
    }

    fn config(
        &self,
        name: &str,
        mechanism: &str,
        user: &str,
        password: &str,
        ca: Option<&str>,
    ) -> KafkaConfig {
        let mut config = config(&self.broker, name);
        config.bootstrap_servers.clone_from(&self.servers);
        for (key, value) in [
            ("security.protocol", "SASL_SSL"),
            ("sasl.mechanisms", mechanism),
            ("sasl.username", user),
            ("sasl.password", password),
            ("ssl.ca.location", ca.unwrap_or_default()),
        ] {
            if !value.is_empty() {
                config.librdkafka.insert(key.to_owned(), value.to_owned().into());
            }
        }
        config
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scram_over_tls_works_and_what_does_not_is_said_at_once() {
    let secured = Secured::start();
    let ca = Some(secured.ca.as_str());
    for mechanism in ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] {
        let config = secured.config(&mechanism.to_lowercase(), mechanism, "billing", "right", ca);
        let mut process = Process::new(&config);
        process.recover().await.unwrap();
        process.publish(&[change("Tax", 1)]).await.unwrap();
        assert_eq!(consume(&secured.broker.servers(), &config.topic, "read_committed").len(), 1);
        process.kafka.check().await.unwrap();
    }
    crate::connect::by_flags(&secured.servers, &secured.ca, &secured.broker.servers(), "by-flags").await;

    for (name, config, kind, message, hint) in [
        (
            "wrong password",
            secured.config("password", "SCRAM-SHA-512", "billing", "hunter2", ca),
            Kind::Rejected,
            "uthentication",
            "kafka.password_file",
        ),
        (
            "untrusted certificate",
            secured.config("untrusted", "SCRAM-SHA-512", "billing", "right", None),
            Kind::Rejected,
            "certificate",
            "ssl.ca.location",
        ),
        (
            "no rights",
            secured.config("scram-sha-512", "SCRAM-SHA-512", "stranger", "right", ca),
            Kind::Rejected,
            "uthorization",
            "grant the principal",
        ),
    ] {
        let started = Instant::now();
        let error = Process::new(&config).recover().await.unwrap_err();
        assert_eq!(error.kind, kind, "{name}: {error}");
        assert!(error.message.contains(message), "{name}: {error}");
        let given = error.hint.clone().unwrap_or_default();
        assert!(given.contains(hint), "{name}: {error} {given}");
        assert!(!error.message.contains("hunter2"), "{name}: {error}");
        assert!(started.elapsed() < Duration::from_secs(12), "{name}: {:?}", started.elapsed());
    }
}
