//! The `nats` commands that are printed and documented, run by the tool itself.

use std::{
    path::PathBuf,
    process::{Command, Output},
};

use amazon_billing_source::transport::TransportErrorKind;
use async_nats::jetstream;

use crate::{
    faults::{once, once_into, table},
    support::{Poller, Server, consume, newest, records, second},
};

/// Runs a command line as a shell does, with the tool in its path.
async fn shell(server: &Server, line: &str) -> Output {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let version = include_str!("../brokers/nats-cli").trim();
    let tool = root.join(format!("target/brokers/nats/cli-{version}"));
    assert!(tool.join("nats").exists(), "run `bash tests/brokers/nats` first");
    let path = std::env::join_paths(
        [tool].into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    let mut command = Command::new("sh");
    // Its own folder of settings, not that of whoever runs the tests.
    command.args(["-c", line]).env("PATH", path.unwrap()).env("NATS_URL", server.url());
    command.env("XDG_CONFIG_HOME", &server.dir).env("HOME", &server.dir);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// The same; what it printed, once it has ended well.
async fn run(server: &Server, line: &str) -> String {
    let output = shell(server, line).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{line}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// The commands in what was said, which stand on a line's end or between quotes.
fn printed(said: &str) -> Vec<String> {
    let begins = said.match_indices("nats ").map(|(start, _)| &said[start..]);
    let commands = begins.filter(|text| text[5..].starts_with("stream ") || text[5..].starts_with("kv "));
    commands.map(|text| text.split(['`', '\n']).next().unwrap_or(text).to_owned()).collect()
}

#[tokio::test]
async fn what_is_missing_is_made_by_the_printed_commands() {
    let server = Server::start(newest());
    let mut ran = Vec::new();
    loop {
        let (output, paid) = once(&table(&server, ""), &["run", "--once"]).await;
        let said = String::from_utf8(output.stderr).unwrap();
        if output.status.success() {
            assert_eq!(paid, 1);
            break;
        }
        assert_eq!(paid, 0, "{said}");
        let commands = printed(&said);
        assert!(!commands.is_empty() && ran.len() < 2, "{ran:?}: {said}");
        for command in commands {
            run(&server, &command).await;
            ran.push(command);
        }
    }
    assert!(ran[0].starts_with("nats stream add BILLING "), "{ran:?}");
    assert!(ran[1].starts_with("nats kv add "), "{ran:?}");
    // And there is nothing to be said of what they made.
    let (output, _) = once(&table(&server, ""), &["check", "--connect"]).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !said.contains("warning"), "{said}");
    assert_eq!(printed(&said), [""; 0], "{said}");
}

#[tokio::test]
async fn what_is_dangerous_is_put_right_by_the_printed_command() {
    let server = Server::start(newest());
    let js = server.jetstream().await;
    let stream = jetstream::stream::Config {
        name: "BILLING".to_owned(),
        subjects: vec!["orders.>".to_owned()],
        max_age: std::time::Duration::from_hours(24 * 7),
        max_messages_per_subject: 1,
        max_bytes: 1_000_000_000,
        max_messages: 1_000_000,
        no_ack: true,
        ..Default::default()
    };
    js.create_stream(stream).await.unwrap();
    let (output, _) = once(&table(&server, "create_stream = true"), &["check", "--connect"]).await;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    let commands = printed(&said);
    assert_eq!(commands.len(), 1, "{said}");
    run(&server, &commands[0]).await;
    let (output, _) = once(&table(&server, "create_stream = true"), &["check", "--connect"]).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    assert_eq!(printed(&said), [""; 0], "{said}");
    let info = js.get_stream("BILLING").await.unwrap().cached_info().config.clone();
    assert_eq!(info.subjects, ["orders.>", "aws.cost.>"], "what was there stays");
}

#[tokio::test]
async fn a_bucket_is_put_right_by_the_printed_commands() {
    let server = Server::start(newest());
    run(&server, "nats kv add BILLING_STATE --ttl 1h --max-value-size 1000 --max-bucket-size 100000").await;
    let mut before = usize::MAX;
    loop {
        let (output, _) = once(&table(&server, "create_stream = true"), &["check", "--connect"]).await;
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{said}");
        let commands: Vec<_> =
            printed(&said).into_iter().filter(|line| line.starts_with("nats kv edit")).collect();
        let Some(command) = commands.first() else { break };
        assert!(commands.len() < before, "{said}");
        before = commands.len();
        run(&server, command).await;
    }
    assert!(before < usize::MAX, "nothing was found");
}

#[tokio::test]
async fn a_foreign_message_is_removed_by_the_printed_command() {
    let server = Server::start(newest());
    let mut poller = Poller::new(server.transport());
    poller.poll(&records(2, 100), second(0)).await;
    let subject = consume(&server).await.remove(0).subject;
    let js = server.jetstream().await;
    js.publish(subject, "hello".into()).await.unwrap().await.unwrap();
    let error = poller.attempt(&records(2, 200), second(1)).await.unwrap_err();
    assert_eq!(error.kind, TransportErrorKind::Foreign);
    let hint = error.hint.unwrap();
    let command = hint.split('`').find(|part| part.starts_with("nats stream rmm")).expect("a command");
    // It asks whether that is meant.
    run(&server, &format!("{command} --force")).await;
    assert_eq!(Poller::new(server.transport()).poll(&records(2, 200), second(2)).await, 2);
}

/// Every command of the documentation and of README does what it says, on a stream of the names they have.
#[tokio::test]
async fn the_documented_commands_run() {
    let server = Server::start(newest());
    let documents = [include_str!("../../docs/nats.md"), include_str!("../../README.md")];
    let mut lines: Vec<String> = Vec::new();
    for document in documents {
        let joined = document.replace("\\\n", "");
        lines.extend(joined.lines().filter(|line| line.starts_with("nats ")).map(str::to_owned));
    }
    lines.sort_by_key(|line| !line.contains(" add AMAZON_BILLING"));
    lines.sort_by_key(|line| line.starts_with("nats consumer add"));
    let (made, consuming): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.contains("--replicas 3"));
    assert_eq!((made.len(), consuming.len()), (2, 9), "{lines:?}");
    for line in made {
        run(&server, &line.replace("--replicas 3", "--replicas 1")).await;
    }
    let documented = ("AMAZON_BILLING", "amazon.billing");
    let (output, _) = once_into(documented, &table(&server, ""), &["run", "--once"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let js = server.jetstream().await;
    let mut stream = js.get_stream("AMAZON_BILLING").await.unwrap();
    let events = stream.info().await.unwrap().state.messages;
    assert!(events > 100);
    for line in consuming {
        let (command, _) = line.split_once('#').unwrap_or((line, ""));
        if command.contains("consumer add") {
            run(&server, command).await;
            stream.get_consumer::<jetstream::consumer::pull::Config>("warehouse").await.unwrap();
            continue;
        }
        // Page by page, on a terminal: that it wants one is as far as a test comes.
        if command.contains("stream view") {
            let said = shell(&server, command).await.stderr;
            assert!(String::from_utf8_lossy(&said).contains("requires a valid terminal"), "{command}");
            continue;
        }
        let from = if command.contains("--start-sequence 4711") { events + 1 - 20 } else { 1 };
        let command = command.replace("4711", &from.to_string());
        let count = events + 1 - from;
        let said = run(&server, &format!("{command} --count {count} --raw")).await;
        assert_eq!(said.matches("\"specversion\":\"1.0\"").count() as u64, count, "{command}");
    }
}
