//! TLS, passwords and client certificates against a real broker: what works, and that what does not is
//! said at once.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use amazon_billing_source::{
    config::KafkaConfig,
    transport::{Transport as _, TransportErrorKind as Kind},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use tokio::{
    io::{AsyncReadExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

use crate::{
    broker::{Broker, Jvm, jars, ports::free_port, target},
    support::{Process, change, config, consume},
    tokens::{MSK_SECRET, SigningKey},
};

/// A broker with a listener for each way to log in; who comes in the clear may do everything, `billing`
/// too, `stranger` nothing.
pub struct Secured {
    pub broker: Broker,
    dir: PathBuf,
    /// SCRAM and PLAIN over TLS.
    passwords: String,
    /// TLS with a client certificate.
    certificates: String,
    /// OAUTHBEARER with keys of [`Secured::key`].
    pub oauth: String,
    /// OAUTHBEARER as Amazon MSK takes it.
    pub msk: String,
    /// Signs the tokens the broker trusts.
    pub key: SigningKey,
}

impl Secured {
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Secured> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    fn start() -> Self {
        let dir = target().join(format!("brokers/secrets-{}", std::process::id()));
        let classes = dir.join("classes");
        fs::create_dir_all(&classes).unwrap();
        // Another authority, and one of the same name.
        for (folder, authority) in [("", "ours"), ("other", "other"), ("renewed", "ours")] {
            let folder = dir.join(folder);
            fs::create_dir_all(&folder).unwrap();
            certificates(&folder, authority);
        }
        let key = SigningKey::new();
        fs::write(dir.join("jwks.json"), key.jwks()).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka/MskValidator.java");
        let compiled = Command::new("javac")
            .args(["-proc:none", "-cp"])
            .arg(jars())
            .arg("-d")
            .arg(&classes)
            .arg(source)
            .output()
            .expect("`javac` is missing: on Debian apt-get install openjdk-17-jdk-headless");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));

        let ports: Vec<u16> = (0..4).map(|_| free_port()).collect();
        let named = |name: &str, port: u16| format!("{name}://127.0.0.1:{port}");
        let listeners: Vec<_> = ["PASSWORDS", "CERTIFICATES", "OAUTH", "MSK"]
            .iter()
            .zip(&ports)
            .map(|(name, port)| named(name, *port))
            .collect();
        let listeners = listeners.join(",");
        let folder = dir.display();
        let more = format!(
            "listeners=PLAINTEXT://127.0.0.1:{{port}},{listeners},CONTROLLER://127.0.0.1:{{controller}}
advertised.listeners=PLAINTEXT://127.0.0.1:{{port}},{listeners}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PASSWORDS:SASL_SSL,CERTIFICATES:SSL,OAUTH:SASL_PLAINTEXT,MSK:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
listener.name.passwords.sasl.enabled.mechanisms=SCRAM-SHA-512,SCRAM-SHA-256,PLAIN
listener.name.passwords.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.passwords.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.passwords.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_billing=\"right\";
ssl.keystore.type=PEM
ssl.keystore.location={folder}/server-both.pem
listener.name.certificates.ssl.client.auth=required
listener.name.certificates.ssl.truststore.type=PEM
listener.name.certificates.ssl.truststore.location={folder}/ca.pem
listener.name.certificates.ssl.principal.mapping.rules=RULE:^CN=(.*?)$/$1/
listener.name.oauth.sasl.enabled.mechanisms=OAUTHBEARER
listener.name.oauth.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;
listener.name.oauth.oauthbearer.sasl.server.callback.handler.class=org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler
listener.name.oauth.oauthbearer.connections.max.reauth.ms=4000
sasl.oauthbearer.jwks.endpoint.url=file://{folder}/jwks.json
sasl.oauthbearer.expected.audience=kafka
listener.name.msk.sasl.enabled.mechanisms=OAUTHBEARER
listener.name.msk.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;
listener.name.msk.oauthbearer.sasl.server.callback.handler.class=MskValidator
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
        let jvm = Jvm {
            options: vec![
                format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://{folder}/jwks.json"),
                format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.files={folder}/jwks.json"),
                format!("-Dmsk.secret={MSK_SECRET}"),
            ],
            classes: Some(classes),
            ..Jvm::default()
        };
        let broker = Broker::start_with(&more, &format, jvm, None);
        let at = |index: usize| format!("127.0.0.1:{}", ports[index]);
        Self { broker, passwords: at(0), certificates: at(1), oauth: at(2), msk: at(3), dir, key }
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// A configuration for one of the listeners.
    pub fn config(&self, name: &str, servers: &str, settings: &[(&str, &str)]) -> KafkaConfig {
        let mut config = config(&self.broker, name);
        servers.clone_into(&mut config.bootstrap_servers);
        for (key, value) in settings {
            config.librdkafka.insert((*key).to_owned(), (*value).to_owned().into());
        }
        config
    }

    fn password(&self, name: &str, mechanism: &str, user: &str, password: &str, ca: &str) -> KafkaConfig {
        let settings = [
            ("security.protocol", "SASL_SSL"),
            ("sasl.mechanisms", mechanism),
            ("sasl.username", user),
            ("sasl.password", password),
            ("ssl.ca.location", ca),
        ];
        self.config(name, &self.passwords, &settings)
    }
}

/// An authority, and certificates of a server and a client that it signed, into a folder.
fn certificates(dir: &Path, authority: &str) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, authority);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
    for (name, common) in [("server", "127.0.0.1"), ("client", "billing")] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, common);
        let certificate = params.signed_by(&key, &ca).unwrap();
        fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(dir.join(format!("{name}-key.pem")), key.serialize_pem()).unwrap();
        let both = format!("{}{}", key.serialize_pem(), certificate.pem());
        fs::write(dir.join(format!("{name}-both.pem")), both).unwrap();
    }
}

/// Publishes, is read, and is content.
pub async fn works(secured: &Secured, config: &KafkaConfig) {
    let mut process = Process::new(config);
    process.recover().await.unwrap();
    process.publish(&[change("Tax", 1)]).await.unwrap();
    assert_eq!(consume(&secured.broker.servers(), &config.topic, "read_committed").len(), 1);
    process.kafka.check().await.unwrap();
}

/// Is refused at once, with words and a hint, and without secrets.
pub async fn refused(name: &str, config: &KafkaConfig, kind: Kind, message: &str, hint: &str) {
    let started = Instant::now();
    let error = Process::new(config).recover().await.unwrap_err();
    println!(
        "{name}, after {:?}: {error}\n    hint: {}",
        started.elapsed(),
        error.hint.as_deref().unwrap_or("-")
    );
    assert_eq!(error.kind, kind, "{name}: {error}");
    assert!(error.message.to_lowercase().contains(message), "{name}: {error}");
    let given = error.hint.clone().unwrap_or_default();
    assert!(given.contains(hint), "{name}: {error} {given}");
    assert!(!error.message.contains("hunter2"), "{name}: {error}");
    // Not for ever; the machine may be busy.
    assert!(started.elapsed() < Duration::from_secs(40), "{name}: {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn scram_over_tls_works_and_what_does_not_is_said_at_once() {
    let secured = Secured::shared();
    let ca = secured.file("ca.pem");
    for mechanism in ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] {
        let name = mechanism.to_lowercase();
        works(secured, &secured.password(&name, mechanism, "billing", "right", &ca)).await;
    }
    crate::connect::by_flags(&secured.passwords, &ca, &secured.broker.servers(), "by-flags").await;

    let wrong = secured.password("password", "SCRAM-SHA-512", "billing", "hunter2", &ca);
    refused("wrong password", &wrong, Kind::Rejected, "authentication", "kafka.password_file").await;
    for folder in ["other", "renewed"] {
        let authority = secured.file(&format!("{folder}/ca.pem"));
        let untrusted = secured.password("untrusted", "SCRAM-SHA-512", "billing", "right", &authority);
        refused("untrusted certificate", &untrusted, Kind::Rejected, "ssl", "ssl.ca.location").await;
    }
    let stranger = secured.password("scram-sha-512", "SCRAM-SHA-512", "stranger", "right", &ca);
    refused("no rights", &stranger, Kind::Rejected, "authorization", "grant the principal").await;
    let plain = secured.config("in-the-clear", &secured.passwords, &[]);
    let started = Instant::now();
    let error = Process::new(&plain).recover().await.unwrap_err();
    assert!(matches!(error.kind, Kind::Rejected | Kind::Unavailable), "{error}");
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
}

/// A connection that ends in its handshake is one to a broker that restarts behind a load balancer: it is
/// waited for, and the hint tells what it may be where it stays so.
#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_is_cut_is_no_refusal() {
    let secured = Secured::shared();
    let ca = secured.file("ca.pem");
    let balancer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = balancer.local_addr().unwrap().to_string();
    let upstream = secured.passwords.clone();
    let up = Arc::new(AtomicBool::new(false));
    let is_up = Arc::clone(&up);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = balancer.accept().await {
            if !is_up.load(Ordering::SeqCst) {
                // It has said hello by then.
                client.read_u8().await.ok();
                continue;
            }
            let mut broker = TcpStream::connect(&upstream).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut broker).await });
        }
    });
    let mut config = secured.password("cut", "SCRAM-SHA-512", "billing", "right", &ca);
    config.bootstrap_servers = address;
    refused("cut", &config, Kind::Unavailable, "handshake", "security.protocol").await;
    let coming = tokio::time::sleep(Duration::from_secs(3));
    let ((), outcome) = tokio::join!(
        async {
            coming.await;
            up.store(true, Ordering::SeqCst);
        },
        async { Process::new(&config).recover().await }
    );
    outcome.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_lets_in_and_another_does_not() {
    let secured = Secured::shared();
    let with = |name: &str, folder: Option<&str>| {
        let ca = secured.file("ca.pem");
        let files = folder.map(|folder| {
            (secured.file(&format!("{folder}client.pem")), secured.file(&format!("{folder}client-key.pem")))
        });
        let mut settings = vec![("security.protocol", "SSL"), ("ssl.ca.location", &*ca)];
        if let Some((certificate, key)) = &files {
            settings.extend([("ssl.certificate.location", &**certificate), ("ssl.key.location", &**key)]);
        }
        secured.config(name, &secured.certificates, &settings)
    };
    works(secured, &with("certificate", Some(""))).await;
    let hint = "ssl.certificate.location";
    refused("no certificate", &with("no-certificate", None), Kind::Rejected, "certificate", hint).await;
    let other = with("other-certificate", Some("other/"));
    refused("another authority's certificate", &other, Kind::Rejected, "certificate", hint).await;
}
