//! An endpoint on the `CloudEvents` SDK for `JavaScript` and the reference library of Standard Webhooks.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    sync::OnceLock,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;

use crate::{
    broker::target,
    home::{Home, events, lines},
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// Ended with the value.
struct Receiver {
    child: Child,
    said: BufReader<ChildStdout>,
    scheme: &'static str,
    port: String,
}

impl Receiver {
    fn start(secret: &str, tls: Option<(&str, &str)>) -> Self {
        let mut command = Command::new("node");
        command.arg(script()).arg(secret);
        if let Some((certificate, key)) = tls {
            command.args([certificate, key]);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut port = String::new();
        said.read_line(&mut port).unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        Self { child, said, scheme, port: port.trim().to_owned() }
    }

    fn url(&self) -> String {
        format!("{}://localhost:{}/", self.scheme, self.port)
    }

    /// Ends it: what it made of each request.
    fn requests(mut self) -> Vec<Value> {
        drop(self.child.stdin.take());
        let requests =
            (&mut self.said).lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        assert!(self.child.wait().unwrap().success());
        requests
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The receiver beside its libraries, fetched where they are missing.
fn script() -> PathBuf {
    static FETCHED: OnceLock<PathBuf> = OnceLock::new();
    let put = || {
        let fetch = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/forward/receiver/fetch");
        let fetched = Command::new("bash").arg(fetch).output().unwrap();
        assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
        let script = target().join("receiver/receiver.mjs");
        std::fs::write(&script, include_str!("receiver/receiver.mjs")).unwrap();
        script
    };
    FETCHED.get_or_init(put).clone()
}

/// All requests of one run; the events in the order of their lines.
fn received(requests: &[Value]) -> Vec<Value> {
    let mut events = Vec::new();
    for request in requests {
        assert_eq!(request["error"], Value::Null, "{request}");
        events.extend(request["events"].as_array().unwrap().clone());
    }
    events.sort_by_key(|event| (event["revision"].to_string(), event["subject"].to_string()));
    events
}

#[test]
fn another_languages_sdk_reads_every_mode_and_its_signature() {
    let written = events(7, 2);
    let mut expected: Vec<Value> =
        lines(&written).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    expected.sort_by_key(|event| (event["revision"].to_string(), event["subject"].to_string()));
    for event in &mut expected {
        // The SDK has milliseconds.
        event["time"] = event["time"].as_str().unwrap().replace('Z', ".000Z").into();
    }
    for (mode, content_type, requests_at_least) in [
        ("structured", "application/cloudevents+json", 14),
        ("binary", "application/json", 14),
        ("batch", "application/cloudevents-batch+json", 2),
    ] {
        let receiver = Receiver::start(SECRET, None);
        let home = Home::with(&written);
        // Two secrets, two signatures: the receiver knows the second.
        home.write("secrets", &format!("{OTHER}\n{SECRET}\n"));
        home.once("sdk", &receiver.url(), &["--mode", mode, "--batch-size", "8", "--secret-file", "secrets"]);
        let requests = receiver.requests();
        assert!(requests.len() >= requests_at_least, "{mode}: {}", requests.len());
        for request in &requests {
            assert_eq!(request["contentType"], content_type);
            let events = request["events"].as_array().unwrap();
            if mode != "batch" {
                assert_eq!(request["webhookId"], events[0]["id"], "again the same when tried again");
            }
        }
        let mut read = received(&requests);
        for event in &mut read {
            if mode == "binary" {
                // Headers have no types.
                let revision: u64 = event["revision"].as_str().unwrap().parse().unwrap();
                event["revision"] = revision.into();
            }
        }
        assert_eq!(read, expected, "{mode}");
    }
}

/// Control: a receiver with another secret takes nothing, and without a secret there is no signature.
#[test]
fn a_wrong_or_missing_signature_is_refused() {
    let home = Home::with(&events(1, 1)).set("BILLING_SOURCE_FORWARD_SECRET", OTHER);
    let receiver = Receiver::start(SECRET, None);
    let ran = home.run(&["--name", "w", "--endpoint", &receiver.url()]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("No matching signature found"), "{}", ran.stderr);
    let unsigned = Home::with(&events(1, 1));
    let ran = unsigned.run(&["--name", "w", "--endpoint", &receiver.url()]);
    assert!(ran.stderr.contains("Missing required headers"), "{}", ran.stderr);
    let signed = Home::with(&events(1, 1)).set("BILLING_SOURCE_FORWARD_SECRET", SECRET);
    signed.once("w", &receiver.url(), &[]);
    assert_eq!(receiver.requests().len(), 3);
}

/// TLS: an authority of the user's own is trusted when it is named, and not before.
#[test]
fn an_endpoint_is_known_by_its_certificate() {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();

    let home = Home::with(&events(2, 1));
    home.write("ca.pem", &authority.pem());
    home.write("cert.pem", &certificate.pem());
    home.write("key.pem", &key.serialize_pem());
    let file = |name: &str| home.path(name).to_str().unwrap().to_owned();
    let receiver = Receiver::start("", Some((&file("cert.pem"), &file("key.pem"))));
    let ran = home.run(&["--once", "--name", "t", "--endpoint", &receiver.url(), "--retry-for", "1s"]);
    assert_eq!(ran.code, Some(69), "{}", ran.stderr);
    assert!(ran.stderr.contains("certificate"), "{}", ran.stderr);
    home.once("t", &receiver.url(), &["--ca-file", "ca.pem"]);
    assert_eq!(received(&receiver.requests()).len(), 2);
}
