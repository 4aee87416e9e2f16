//! `connect` to a real broker that asks for TLS and a password: tried before anything is written, and
//! what is written runs.

use std::{
    path::Path,
    process::{Command, Output},
};

use amazon_billing_source::{
    clock::Clock,
    simulator::{Options, Simulator},
};

use crate::support::consume;

/// A topic of this name at `servers`, with the user `billing` whose password is `right`; `clear` is
/// where a test may read without either.
pub async fn by_flags(servers: &str, ca: &str, clear: &str, topic: &str) {
    let simulator = Simulator::start(Options::default(), Clock::system()).await.unwrap();
    let url = simulator.url();
    let dir = tempfile::tempdir().unwrap();
    let connect = |password: &str, create: &[&str]| {
        let mut command = program(dir.path());
        command.args([
            "connect",
            "--name",
            "main",
            "--endpoint-url",
            &url,
            "--yes",
            "--access-key-id",
            "AKIA",
        ]);
        command.args(["--secret-access-key-env", "AWS_SECRET", "--output", "kafka", "--address", servers]);
        command.args(["--topic", topic, "--output-user", "billing", "--output-password-env", "PASSWORD"]);
        command.args(["--tls", "--ca-file", ca]).args(create);
        command.env("AWS_SECRET", "aws-secret").env("PASSWORD", password);
        run(command)
    };
    for (password, create, code, words) in [
        ("hunter2", &["--create"][..], 1, "kafka.password_file"),
        // Without --create a missing topic is told with the command that makes it.
        ("right", &[], 1, "kafka-topics.sh"),
    ] {
        let output = connect(password, create).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(words) && !said.contains("hunter2"), "{words}: {said}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is written");
    }
    let output = connect("right", &["--create"]).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("`run` will create it"), "{said}");
    let text = std::fs::read_to_string(dir.path().join("billing.toml")).unwrap();
    assert!(!text.contains("right") && !text.contains("aws-secret\""), "{text}");
    let mut command = program(dir.path());
    command.args(["run", "--config", "billing.toml", "--once"]);
    let output = run(command).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!consume(clear, topic, "read_committed").is_empty());
}

fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_amazon-billing-source"));
    command.current_dir(folder).env_clear().env("HOME", folder).stdin(std::process::Stdio::null());
    command
}

async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}
