//! `connect` to a real server that asks for a password: tried before anything is written, and what is
//! written runs.

use std::{
    fs,
    process::{Command, Stdio},
};

use amazon_billing_source::{
    clock::Clock,
    simulator::{Options, Simulator},
};

use crate::support::{Server, newest};

#[tokio::test]
async fn a_connection_is_written_only_when_the_server_takes_it() {
    let server = Server::with(newest(), &["-js", "--user", "billing", "--pass", "right"], "");
    let simulator = Simulator::start(Options::default(), Clock::system()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let program = |arguments: &[&str], password: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_amazon-billing-source"));
        command.args(arguments).current_dir(dir.path()).env_clear().stdin(Stdio::null());
        command.env("HOME", dir.path()).env("AWS_SECRET", "aws-secret").env("PASSWORD", password);
        tokio::task::spawn_blocking(move || {
            let output = command.output().unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        })
    };
    let (url, servers) = (simulator.url(), server.url());
    let plain = [
        "connect",
        "--name",
        "main",
        "--endpoint-url",
        &url,
        "--yes",
        "--access-key-id",
        "AKIA",
        "--secret-access-key-env",
        "AWS_SECRET",
        "--output",
        "nats",
        "--address",
        &servers,
        "--stream",
        "COSTS",
    ];
    let user = ["--output-user", "billing", "--output-password-env", "PASSWORD"];
    for (more, password, code, words) in [
        (&["--create"][..], "", 1, "refuses the login"),
        (&[&user[..], &["--create"]].concat(), "hunter2", 1, "refuses the login"),
        // Without --create a missing stream is told with the command that makes it.
        (&user, "right", 1, "nats stream add COSTS"),
    ] {
        let (ended, said) = program(&[&plain[..], more].concat(), password).await.unwrap();
        assert_eq!(ended, Some(code), "{said}");
        assert!(said.contains(words) && !said.contains("hunter2"), "{words}: {said}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is written");
    }
    let (ended, said) = program(&[&plain[..], &user, &["--create"]].concat(), "right").await.unwrap();
    assert_eq!(ended, Some(0), "{said}");
    let text = fs::read_to_string(dir.path().join("billing.toml")).unwrap();
    assert!(text.contains("password_file = \"nats-password\"") && !text.contains("right"), "{text}");
    let (ended, said) = program(&["run", "--config", "billing.toml", "--once"], "").await.unwrap();
    assert_eq!(ended, Some(0), "{said}");
    let (ended, said) = program(&["check", "--config", "billing.toml", "--connect"], "").await.unwrap();
    assert_eq!(ended, Some(0), "{said}");
}
