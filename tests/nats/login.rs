//! Every way to log in, TLS, and the narrowest permissions, against servers that insist on them.

use std::{fs, path::Path};

use amazon_billing_source::{
    config::{NatsConfig, NatsLogin, NatsTls},
    transport::{Transport as _, TransportErrorKind, nats::Nats},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};

use crate::support::{Poller, Server, newest, records, second};

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

/// What the README says a user must be allowed, and nothing more.
#[tokio::test]
async fn the_narrowest_permissions_suffice_and_less_is_named() {
    let allowed = [
        "aws.cost.>",
        "$KV.BILLING_STATE.>",
        "$JS.API.STREAM.INFO.BILLING",
        "$JS.API.STREAM.INFO.KV_BILLING_STATE",
        "$JS.API.STREAM.MSG.GET.BILLING",
        "$JS.API.STREAM.MSG.GET.KV_BILLING_STATE",
        "$JS.API.CONSUMER.CREATE.BILLING",
        "$JS.API.CONSUMER.CREATE.KV_BILLING_STATE",
        "$JS.API.CONSUMER.*.BILLING.>",
        "$JS.API.CONSUMER.*.KV_BILLING_STATE.>",
        "$JS.API.CONSUMER.MSG.NEXT.BILLING.>",
        "$JS.API.CONSUMER.MSG.NEXT.KV_BILLING_STATE.>",
    ];
    let list = |subjects: &[&str]| {
        let quoted: Vec<_> = subjects.iter().map(|subject| format!("\"{subject}\"")).collect();
        quoted.join(", ")
    };
    let file = format!(
        "authorization {{ users: [
           {{ user: admin, password: a }}
           {{ user: narrow, password: n, permissions: {{ publish: [{}], subscribe: [\"_INBOX.>\"] }} }}
           {{ user: reader, password: r, permissions: {{ publish: [{}], subscribe: [\"_INBOX.>\"] }} }}
         ] }}",
        list(&allowed),
        list(&allowed[1..])
    );
    let server = Server::with(newest(), &["-js"], &file);
    // Somebody else creates stream and bucket.
    works(NatsConfig { login: user("admin", "a"), ..server.config() }).await;
    let narrow = NatsConfig { login: user("narrow", "n"), create_stream: false, ..server.config() };
    let mut poller = Poller::new(Nats::new(narrow.clone()));
    assert_eq!(poller.poll(&records(3, 200), second(2)).await, 3);
    poller.nats.check().await.unwrap();
    let reader = NatsConfig { login: user("reader", "r"), create_stream: false, ..server.config() };
    let (kind, said) = refused(reader.clone()).await;
    assert_eq!(kind, TransportErrorKind::Rejected, "{said}");
    assert!(said.to_lowercase().contains("permissions violation for publish to \"aws.cost."), "{said}");
    let mut poller = Poller::new(Nats::new(reader));
    let error = poller.attempt(&records(3, 300), second(3)).await.unwrap_err();
    assert_eq!(error.kind, TransportErrorKind::Rejected, "{error}");
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
