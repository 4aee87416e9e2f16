//! Every way to log in, TLS, and the narrowest permissions, against servers that insist on them.

use std::{fs, path::Path, time::Duration};

use amazon_billing_source::{
    config::{NatsConfig, NatsLogin, NatsTls},
    transport::{Transport as _, TransportError, TransportErrorKind, nats::Nats},
};
use async_nats::{ConnectOptions, jetstream};
use base64::Engine as _;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};

use crate::{
    faults::{once, table},
    support::{Poller, Server, newest, records, second, versions},
};

/// Publishes once, and finds it again.
async fn works(config: NatsConfig) {
    let mut poller = Poller::new(Nats::new(config));
    assert_eq!(poller.poll(&records(3, 100), second(0)).await, 3);
    assert_eq!(poller.poll(&records(3, 100), second(1)).await, 0);
    let facts = poller.nats.check().await.unwrap();
    assert!(facts.iter().any(|fact| fact.contains("may publish")), "{facts:?}");
}

/// The kind and the text of the refusal.
async fn refused(config: NatsConfig) -> (TransportErrorKind, String) {
    let error = Nats::new(config).check().await.unwrap_err();
    (error.kind, format!("{error} / {}", error.hint.as_deref().unwrap_or_default()))
}

fn user(name: &str, password: &str) -> NatsLogin {
    NatsLogin::User { user: name.to_owned(), password: password.into() }
}

#[tokio::test]
async fn user_and_password() {
    let server = Server::with(newest(), &["-js", "--user", "billing", "--pass", "right"], "");
    works(NatsConfig { login: user("billing", "right"), ..server.config() }).await;
    for login in [user("billing", "wrong"), NatsLogin::Nobody, NatsLogin::Token("right".into())] {
        let (kind, said) = refused(NatsConfig { login, ..server.config() }).await;
        assert_eq!(kind, TransportErrorKind::Rejected, "{said}");
        assert!(said.contains("refuses the login") && !said.contains("wrong"), "{said}");
    }
}

#[tokio::test]
async fn token() {
    let server = Server::with(newest(), &["-js", "--auth", "right"], "");
    works(NatsConfig { login: NatsLogin::Token("right".into()), ..server.config() }).await;
    let wrong = NatsConfig { login: NatsLogin::Token("wrong".into()), ..server.config() };
    assert_eq!(refused(wrong).await.0, TransportErrorKind::Rejected);
}

#[tokio::test]
async fn nkey_seed() {
    let (right, wrong) = (nkeys::KeyPair::new_user(), nkeys::KeyPair::new_user());
    let file = format!("authorization {{ users: [ {{ nkey: {} }} ] }}", right.public_key());
    let server = Server::with(newest(), &["-js"], &file);
    let login = |key: &nkeys::KeyPair| NatsLogin::Nkey(key.seed().unwrap().into());
    works(NatsConfig { login: login(&right), ..server.config() }).await;
    let (kind, said) = refused(NatsConfig { login: login(&wrong), ..server.config() }).await;
    assert_eq!(kind, TransportErrorKind::Rejected, "{said}");
}

/// What docs/nats.md says a user must be allowed to publish, and nothing more.
const NARROWEST: [&str; 10] = [
    "aws.cost.>",
    "$KV.BILLING_STATE.>",
    "$JS.API.STREAM.INFO.BILLING",
    "$JS.API.STREAM.INFO.KV_BILLING_STATE",
    "$JS.API.STREAM.MSG.GET.BILLING",
    "$JS.API.STREAM.MSG.GET.KV_BILLING_STATE",
    "$JS.API.CONSUMER.CREATE.BILLING",
    "$JS.API.CONSUMER.CREATE.KV_BILLING_STATE",
    "$JS.API.CONSUMER.MSG.NEXT.BILLING.>",
    "$JS.API.CONSUMER.MSG.NEXT.KV_BILLING_STATE.>",
];

/// The same of a run, which creates what is missing.
async fn refused_run(config: NatsConfig) -> (TransportErrorKind, String) {
    let error = Poller::new(Nats::new(config)).recover().await.unwrap_err();
    (error.kind, error.message)
}

/// Everything a run and a check do: a claim, events, the budget of all connections.
async fn all_of_it(config: NatsConfig, cents: i64) -> Result<usize, TransportError> {
    let mut poller = Poller::new(Nats::new(config));
    let mut state = poller.recover().await?;
    state.name = format!("{cents}");
    let stored = poller.publish(&records(3, cents), second(cents), state).await?.len();
    poller.recover().await?;
    poller.nats.connections().await?;
    poller.nats.check().await?;
    Ok(stored)
}

#[tokio::test]
async fn the_documented_permissions_are_those_of_the_documentation() {
    let text = include_str!("../../docs/nats.md")
        .replace("AMAZON_BILLING", "BILLING")
        .replace("amazon.billing", "aws.cost");
    let list = text.split_once("publish: [").unwrap().1.split_once(']').unwrap().0;
    let documented: Vec<_> = list.split('"').skip(1).step_by(2).collect();
    assert_eq!(documented, NARROWEST);
}

#[tokio::test]
async fn the_narrowest_permissions_suffice_and_each_that_is_missing_is_named() {
    for version in [versions()[0], newest()] {
        let list = |missing: Option<usize>| {
            let allowed = NARROWEST.iter().enumerate().filter(|(index, _)| Some(*index) != missing);
            allowed.map(|(_, subject)| format!("\"{subject}\"")).collect::<Vec<_>>().join(", ")
        };
        let user_with = |name: &str, publish: &str, subscribe: &str| {
            format!(
                "{{ user: {name}, password: p, permissions: {{ publish: [{publish}], subscribe: [\"{subscribe}\"] }} }}\n"
            )
        };
        let mut users =
            user_with("narrow", &list(None), "_INBOX.>") + &user_with("deaf", &list(None), "other");
        for missing in 0..NARROWEST.len() {
            users += &user_with(&format!("without{missing}"), &list(Some(missing)), "_INBOX.>");
        }
        let creates = "\"$JS.API.STREAM.CREATE.BILLING\", \"$JS.API.STREAM.CREATE.KV_BILLING_STATE\"";
        users += &user_with("creator", &format!("{}, {creates}", list(None)), "_INBOX.>");
        let file = format!("authorization {{ users: [ {users} ] }}\n");
        let server = Server::with(version, &["-js"], &file);
        // Only the one who may create them does.
        let narrow = NatsConfig { login: user("narrow", "p"), ..server.config() };
        let (kind, said) = refused_run(narrow).await;
        assert_eq!(kind, TransportErrorKind::Rejected, "{version} {said}");
        assert!(said.contains("$JS.API.STREAM.CREATE.BILLING"), "{version} {said}");
        works(NatsConfig { login: user("creator", "p"), ..server.config() }).await;
        let violations = server.log().matches("Violation").count();
        let of = |name: &str| NatsConfig {
            login: user(name, "p"),
            create_stream: false,
            timeout: Duration::from_secs(1),
            ..server.config()
        };
        assert_eq!(all_of_it(of("narrow"), 200).await.unwrap(), 3, "{version}");
        assert_eq!(server.log().matches("Violation").count(), violations, "{version}: {}", server.log());
        for (missing, subject) in NARROWEST.iter().enumerate() {
            let cents = 300 + i64::try_from(missing).unwrap();
            let error = all_of_it(of(&format!("without{missing}")), cents).await.unwrap_err();
            assert_eq!(error.kind, TransportErrorKind::Rejected, "{version} without {subject}: {error}");
            let named = subject.trim_end_matches('>').to_lowercase();
            let said = error.message.to_lowercase();
            assert!(
                said.contains("permissions violation") && said.contains(&named),
                "{version} {subject}: {said}"
            );
            assert!(error.hint.unwrap_or_default().contains("docs/nats.md"), "{subject}");
        }
        let error = all_of_it(of("deaf"), 400).await.unwrap_err();
        assert_eq!(error.kind, TransportErrorKind::Rejected, "{version} {error}");
        assert!(error.message.to_lowercase().contains("subscription"), "{version} {error}");
    }
}

/// The lists of docs/nats.md for users that only read, without a name and beside it for one.
fn of_readers() -> [Vec<String>; 2] {
    let text = include_str!("../../docs/nats.md").replace("AMAZON_BILLING", "BILLING");
    ["\nread: [", "\nname: ["].map(|head| {
        let list = text.split_once(head).unwrap().1.split_once(']').unwrap().0;
        list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
    })
}

#[tokio::test]
async fn the_documented_permissions_of_readers_suffice_and_each_is_needed() {
    let [read, name] = of_readers();
    assert_eq!((read.len(), name.len()), (4, 3));
    let both: Vec<_> = read.iter().chain(&name).collect();
    let of = |missing: Option<usize>, subjects: &[&String]| {
        let subjects = subjects.iter().enumerate().filter(|(index, _)| Some(*index) != missing);
        subjects.map(|(_, subject)| format!("\"{subject}\"")).collect::<Vec<_>>().join(", ")
    };
    let entry = |name: &str, publish: &str| {
        format!(
            "{{ user: {name}, password: p, permissions: {{ publish: [{publish}], subscribe: [\"_INBOX.>\"] }} }}\n"
        )
    };
    let mut users = "{ user: all, password: p }\n".to_owned();
    users += &entry("reader", &of(None, &read.iter().collect::<Vec<_>>()));
    users += &entry("named", &of(None, &both));
    for missing in 0..both.len() {
        users += &entry(&format!("without{missing}"), &of(Some(missing), &both));
    }
    for version in [versions()[0], newest()] {
        let server = Server::with(version, &["-js"], &format!("authorization {{ users: [ {users} ] }}\n"));
        let events = NatsConfig { login: user("all", "p"), ..server.config() };
        assert_eq!(Poller::new(Nats::new(events)).poll(&records(300, 100), second(0)).await, 300);
        let password = server.dir.join("password");
        fs::write(&password, "p").unwrap();
        let logged_in = |user: &str| {
            table(&server, &format!("user = \"{user}\"\npassword_file = \"{}\"", password.display()))
        };
        let lines = async |user: &str, arguments: &[&str]| {
            let (output, _) = once(&logged_in(user), arguments).await;
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success(), "{version} {user}: {said}");
            String::from_utf8(output.stdout).unwrap().lines().count()
        };
        let all = &["replay", "--format", "lines"][..];
        let books = &["replay", "--format", "lines", "--name", "books"][..];
        assert_eq!(lines("reader", all).await, 300, "{version}");
        assert_eq!(lines("named", all).await, 300, "{version}");
        assert_eq!(lines("named", books).await, 300, "{version}");
        // The acknowledgements got through, too.
        assert_eq!(lines("named", books).await, 0, "{version}");
        assert!(!server.log().contains("Violation"), "{version}: {}", server.log());
        for (missing, subject) in both.iter().enumerate() {
            let js = jetstream_of(&server).await;
            js.delete_consumer_from_stream("books", "BILLING").await.ok();
            let violations = server.log().matches("Violation").count();
            let arguments = if missing < read.len() { all } else { books };
            let (output, _) = once(&logged_in(&format!("without{missing}")), arguments).await;
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success(), "{version} without {subject}: {said}");
            assert!(server.log().matches("Violation").count() > violations, "{version} {subject}: {said}");
            assert!(said.contains("docs/nats.md"), "{version} {subject}: {said}");
        }
    }
}

async fn jetstream_of(server: &Server) -> jetstream::Context {
    let options = ConnectOptions::with_user_and_password("all".to_owned(), "p".to_owned());
    jetstream::new(options.connect(server.url()).await.unwrap())
}

/// Writes a certificate authority, a server's and a client's certificate into a folder.
fn certificates(dir: &Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(dir.join(format!("{name}-key.pem")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test]
async fn tls_with_an_authority_and_a_client_certificate() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    certificates(dir.path());
    certificates(other.path());
    let at = |dir: &Path, name: &str| dir.join(name);
    let file = format!(
        "tls {{ cert_file: {0}/server.pem, key_file: {0}/server-key.pem, ca_file: {0}/ca.pem, verify: true }}",
        dir.path().display()
    );
    let server = Server::with(newest(), &["-js"], &file);
    let tls = |ca: &Path, client: Option<&Path>| NatsTls {
        required: true,
        first: false,
        ca_file: Some(at(ca, "ca.pem")),
        client: client.map(|dir| (at(dir, "client.pem"), at(dir, "client-key.pem"))),
    };
    works(NatsConfig { tls: tls(dir.path(), Some(dir.path())), ..server.config() }).await;
    for wrong in [
        tls(other.path(), Some(dir.path())),
        tls(dir.path(), Some(other.path())),
        tls(dir.path(), None),
        NatsTls::default(),
    ] {
        let (kind, said) = refused(NatsConfig { tls: wrong, ..server.config() }).await;
        assert_eq!(kind, TransportErrorKind::Rejected, "{said}");
        assert!(said.contains("see `[nats.tls]`"), "{said}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_it_is_required() {
    let server = Server::start(newest());
    let tls = NatsTls { required: true, ..NatsTls::default() };
    let (kind, said) = refused(NatsConfig { tls, ..server.config() }).await;
    assert!(
        matches!(kind, TransportErrorKind::Rejected | TransportErrorKind::Unavailable),
        "{kind:?} {said}"
    );
}

/// A token of an operator's hierarchy, signed as `nsc` signs it.
fn jwt(issuer: &nkeys::KeyPair, subject: &str, name: &str, nats: &Value) -> String {
    let encode = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let claims = json!({
        "jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(), "sub": subject, "name": name, "nats": nats,
    });
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let text = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
    let signature = encode(&issuer.sign(text.as_bytes()).unwrap());
    format!("{text}.{signature}")
}

#[tokio::test]
async fn credentials_of_an_operators_account() {
    let (operator, account, system) =
        (nkeys::KeyPair::new_operator(), nkeys::KeyPair::new_account(), nkeys::KeyPair::new_account());
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
        "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let billing = json!({ "type": "account", "version": 2, "limits": limits });
    let plain = json!({ "type": "account", "version": 2 });
    let file = format!(
        "operator: {}\nsystem_account: {1}\nresolver: MEMORY\nresolver_preload: {{ {1}: {2}, {3}: {4} }}\n",
        jwt(
            &operator,
            &operator.public_key(),
            "operator",
            &json!({ "type": "operator", "version": 2, "system_account": system.public_key() })
        ),
        system.public_key(),
        jwt(&operator, &system.public_key(), "system", &plain),
        account.public_key(),
        jwt(&operator, &account.public_key(), "billing", &billing),
    );
    let server = Server::with(newest(), &["-js"], &file);
    let dir = tempfile::tempdir().unwrap();
    let credentials = |issuer: &nkeys::KeyPair, name: &str| {
        let user = nkeys::KeyPair::new_user();
        let claims = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
        let token = jwt(issuer, &user.public_key(), name, &claims);
        let path = dir.path().join(name);
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            user.seed().unwrap()
        );
        fs::write(&path, text).unwrap();
        NatsLogin::Credentials(path)
    };
    works(NatsConfig { login: credentials(&account, "right"), ..server.config() }).await;
    // A user of an account the operator never signed.
    let stranger = credentials(&nkeys::KeyPair::new_account(), "wrong");
    let (kind, said) = refused(NatsConfig { login: stranger, ..server.config() }).await;
    assert_eq!(kind, TransportErrorKind::Rejected, "{said}");
    // An account without JetStream.
    let (kind, said) = refused(NatsConfig { login: credentials(&system, "system"), ..server.config() }).await;
    assert_ne!(kind, TransportErrorKind::Conflict, "{said}");
    let broken = dir.path().join("broken");
    fs::write(&broken, "hello").unwrap();
    let (kind, said) = refused(NatsConfig { login: NatsLogin::Credentials(broken), ..server.config() }).await;
    assert_eq!(kind, TransportErrorKind::Rejected, "{said}");
    assert!(said.contains("could not read the credentials"), "{said}");
}
