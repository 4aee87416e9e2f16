//! SASL OAUTHBEARER against a real broker: tokens of a token endpoint, and those of Amazon MSK with IAM.
//!
//! The broker trusts the test's key (its own validator, over a JWKS file), and checks MSK's tokens with
//! `MskValidator.java`. A small endpoint gives the tokens, and everything that can be wrong with them.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use amazon_billing_source::{
    clock::Clock,
    config::{
        ClientAuth, CredentialsConfig, KafkaConfig, KafkaLogin, MskIamConfig, OauthConfig, SecretSource,
    },
    transport::{Transport as _, TransportErrorKind as Kind, kafka::Kafka},
};
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
    routing::post,
};
use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use rcgen::{KeyPair, SigningKey as _};
use serde_json::json;

use crate::{
    broker::ports::free_port,
    pause,
    security::{Secured, refused, works},
    support::{Process, consume, surely},
};

/// The secret access key that the broker knows, too.
pub const MSK_SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

/// Signs tokens (ES256).
pub struct SigningKey(KeyPair);

impl SigningKey {
    pub fn new() -> Self {
        Self(KeyPair::generate().unwrap())
    }

    /// For the broker's validator.
    pub fn jwks(&self) -> String {
        // Uncompressed: 4, x, y.
        let point = self.0.public_key_raw();
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        json!({ "keys": [{
            "kty": "EC", "crv": "P-256", "kid": "test", "alg": "ES256", "use": "sig",
            "x": text(&point[1..33]), "y": text(&point[33..65]),
        }] })
        .to_string()
    }

    fn token(&self, seconds: i64) -> String {
        let now = Clock::system().now().as_second();
        let encode = |text: String| BASE64_URL_SAFE_NO_PAD.encode(text);
        let header = encode(json!({ "alg": "ES256", "typ": "JWT", "kid": "test" }).to_string());
        let begun = (now - 1).min(now + seconds - 1);
        let claims =
            json!({ "sub": "billing", "aud": "kafka", "iss": "test", "iat": begun, "exp": now + seconds });
        let signed = format!("{header}.{}", encode(claims.to_string()));
        let signature = raw(&self.0.sign(signed.as_bytes()).unwrap());
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

/// JOSE wants the two numbers themselves, not their DER.
fn raw(der: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = &der[2..];
    for _ in 0..2 {
        let (length, number) = (usize::from(rest[1]), &rest[2..]);
        let (number, after) = number.split_at(length);
        let number = &number[number.len().saturating_sub(32)..];
        out.extend(std::iter::repeat_n(0, 32 - number.len()));
        out.extend_from_slice(number);
        rest = after;
    }
    out
}

/// What the endpoint gives.
#[derive(Clone, Copy, PartialEq)]
enum Gives {
    Good,
    /// Signed by a key the broker does not know.
    Forged,
    /// Over already, and says the opposite.
    Expired,
    /// Over already, and says so.
    ExpiredAndSaysSo,
    Failure,
    Nothing,
}

struct Endpoint {
    key: &'static SigningKey,
    gives: Gives,
    seconds: i64,
    /// The secret it takes, and how often each was offered.
    secret: Mutex<String>,
    offered: Mutex<BTreeMap<String, usize>>,
}

impl Endpoint {
    async fn start(gives: Gives, seconds: i64) -> (Arc<Self>, SocketAddr) {
        let endpoint = Arc::new(Self {
            key: &Secured::shared().key,
            gives,
            seconds,
            secret: Mutex::new("right".to_owned()),
            offered: Mutex::default(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/token", post(answer)).with_state(Arc::clone(&endpoint));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (endpoint, address)
    }

    fn asked(&self) -> usize {
        self.offered.lock().unwrap().values().sum()
    }
}

async fn answer(
    State(endpoint): State<Arc<Endpoint>>,
    headers: HeaderMap,
    body: String,
) -> impl IntoResponse {
    let refusal = |code: &str| {
        (
            StatusCode::UNAUTHORIZED,
            json!({ "error": code, "error_description": "no such client" }).to_string(),
        )
    };
    let form: BTreeMap<String, String> = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    if form.get("grant_type").is_none_or(|grant| grant != "client_credentials") || form["scope"] != "publish"
    {
        return refusal("invalid_request");
    }
    let (id, secret) = match headers.get("authorization") {
        Some(value) => {
            let text = value.to_str().unwrap().strip_prefix("Basic ").unwrap();
            let text = String::from_utf8(BASE64_STANDARD.decode(text).unwrap()).unwrap();
            let (id, secret) = text.split_once(':').unwrap();
            (id.to_owned(), secret.to_owned())
        }
        None => (form["client_id"].clone(), form["client_secret"].clone()),
    };
    *endpoint.offered.lock().unwrap().entry(secret.clone()).or_default() += 1;
    if id != "client" || secret != *endpoint.secret.lock().unwrap() {
        return refusal("invalid_client");
    }
    let (token, seconds) = match endpoint.gives {
        Gives::Good => (endpoint.key.token(endpoint.seconds), endpoint.seconds),
        Gives::Forged => (SigningKey::new().token(300), 300),
        Gives::Expired => (endpoint.key.token(-600), 300),
        Gives::ExpiredAndSaysSo => (endpoint.key.token(-600), -600),
        Gives::Failure => return (StatusCode::BAD_GATEWAY, "<html>".to_owned()),
        Gives::Nothing => {
            std::future::pending::<()>().await;
            unreachable!()
        }
    };
    let answer = json!({ "access_token": token, "token_type": "Bearer", "expires_in": seconds });
    (StatusCode::OK, answer.to_string())
}

fn oauth(address: SocketAddr, secret: SecretSource, client_auth: ClientAuth) -> KafkaLogin {
    KafkaLogin::Oauth(OauthConfig {
        token_endpoint: format!("http://{address}/token"),
        client_id: "client".to_owned(),
        client_secret: secret,
        client_auth,
        scope: Some("publish".to_owned()),
        audience: None,
        ca_file: None,
    })
}

/// As `config::check` makes it of a table; the topics are created with the token as well.
fn with_login(name: &str, servers: &str, login: KafkaLogin) -> KafkaConfig {
    let secured = Secured::shared();
    let settings = [("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanisms", "OAUTHBEARER")];
    KafkaConfig { login, ..secured.config(name, servers, &settings) }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_an_endpoint_let_in() {
    for (name, auth) in [("oauth-basic", ClientAuth::Basic), ("oauth-post", ClientAuth::Post)] {
        let (endpoint, address) = Endpoint::start(Gives::Good, 300).await;
        let login = oauth(address, SecretSource::Text("right".into()), auth);
        let config = with_login(name, &Secured::shared().oauth, login);
        works(Secured::shared(), &config).await;
        // One for two consumers, two producers and the check.
        assert_eq!(endpoint.asked(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_with_the_secret_of_the_day() {
    let (endpoint, address) = Endpoint::start(Gives::Good, 8).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    fs::write(&file, "right\n").unwrap();
    let login = oauth(address, SecretSource::File(file.clone()), ClientAuth::Basic);
    let config = with_login("oauth-renewed", &Secured::shared().oauth, login);
    let mut process = Process::new(&config);
    surely(&mut process, "Tax", 1).await;
    fs::write(&file, "newer\n").unwrap();
    "newer".clone_into(&mut endpoint.secret.lock().unwrap());
    // The broker ends a connection whose token is over; ours are idle, and nothing reads from them.
    let deadline = Instant::now() + Duration::from_secs(90);
    let mut revision = 1;
    while !endpoint.offered.lock().unwrap().contains_key("newer") {
        assert!(Instant::now() < deadline, "{:?}", endpoint.offered.lock().unwrap());
        pause(Duration::from_secs(3));
        revision += 1;
        surely(&mut process, "Tax", revision).await;
    }
    revision += 1;
    surely(&mut process, "Tax", revision).await;
    let records = consume(&Secured::shared().broker.servers(), &config.topic, "read_committed");
    assert_eq!(records.len(), revision as usize);
    // A file that is gone is no reason to stop while the token is good; then it is said.
    fs::remove_file(&file).unwrap();
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        assert!(Instant::now() < deadline);
        pause(Duration::from_millis(10));
        let Err(error) = process.recover().await else { continue };
        assert_eq!(error.kind, Kind::Unavailable, "{error}");
        if error.hint.is_some_and(|hint| hint.contains("client_secret_file")) {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_token_is_said_at_once() {
    let servers = &*Secured::shared().oauth;
    for (name, gives, secret, kind, message, hint) in [
        ("wrong secret", Gives::Good, "hunter2", Kind::Rejected, "invalid_client", "client_secret_file"),
        ("endpoint in trouble", Gives::Failure, "right", Kind::Unavailable, "answered 502", "tried again"),
        (
            "endpoint silent",
            Gives::Nothing,
            "right",
            Kind::Unavailable,
            "no answer within the deadline",
            "token_endpoint",
        ),
        ("forged", Gives::Forged, "right", Kind::Rejected, "authentication", "the broker refused the token"),
        (
            "expired",
            Gives::Expired,
            "right",
            Kind::Rejected,
            "authentication",
            "the broker refused the token",
        ),
        ("expired, told", Gives::ExpiredAndSaysSo, "right", Kind::Rejected, "expired at", "clock"),
    ] {
        let (_endpoint, address) = Endpoint::start(gives, 300).await;
        let login = oauth(address, SecretSource::Text(secret.into()), ClientAuth::Basic);
        refused(name, &with_login("oauth-wrong", servers, login), kind, message, hint).await;
    }
    let nowhere = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let login = oauth(nowhere, SecretSource::Text("right".into()), ClientAuth::Basic);
    let config = with_login("oauth-wrong", servers, login);
    refused("endpoint down", &config, Kind::Unavailable, "refused", "token_endpoint").await;
}

fn msk(name: &str, region: &str, secret: &str) -> KafkaConfig {
    let login = KafkaLogin::MskIam(MskIamConfig {
        region: region.to_owned(),
        credentials: CredentialsConfig::Keys {
            access_key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_access_key: secret.into(),
            session_token: Some("FwoGZXIvYXdzEXAMPLE//token+with/=signs==".into()),
        },
        sts_endpoint_url: None,
    });
    with_login(name, &Secured::shared().msk, login)
}

/// The broker makes the signature again and compares; only then is a client let in.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_signed_for_msk_let_in() {
    let config = msk("msk", "eu-central-1", MSK_SECRET);
    works(Secured::shared(), &config).await;
    assert!(Secured::shared().broker.log().contains("MskValidator let in: AKIAIOSFODNN7EXAMPLE"));
    let hint = "kafka-cluster:Connect";
    let wrong = msk("msk-wrong", "eu-central-1", "hunter2");
    refused("another secret", &wrong, Kind::Rejected, "authentication", hint).await;
    let elsewhere = msk("msk-wrong", "eu-west-1", MSK_SECRET);
    refused("another region", &elsewhere, Kind::Rejected, "authentication", hint).await;
    let log = Secured::shared().broker.log();
    assert!(log.contains("the signature is another's"), "{log}");
    let nobody = KafkaLogin::MskIam(MskIamConfig {
        region: "eu-central-1".to_owned(),
        credentials: CredentialsConfig::Profile { profile: "no-such-profile".to_owned() },
        sts_endpoint_url: None,
    });
    let config = with_login("msk-nobody", &Secured::shared().msk, nobody);
    refused("no credentials", &config, Kind::Rejected, "no aws credentials", "no-such-profile").await;
}

/// The client for settings asks for no token by itself; it is given one.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_with_tokens_looks_at_the_settings() {
    let config = msk("msk-check", "eu-central-1", MSK_SECRET);
    let unmade = KafkaConfig { create_topics: false, ..config.clone() };
    let error = Kafka::connect(&unmade).unwrap().check().await.unwrap_err();
    assert!(error.hint.unwrap().contains("--create --topic"), "{}", error.message);
    Process::new(&config).recover().await.unwrap();
    let facts = Kafka::connect(&unmade).unwrap().check().await.unwrap().join("\n");
    assert!(!facts.contains("were not checked") && facts.contains("may write"), "{facts}");
}
