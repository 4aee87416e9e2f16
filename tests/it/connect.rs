//! `connect` by flags: every kind of credentials and output, what it refuses, files it edits.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use amazon_billing_source::simulator::{Fault, Injection};
use serde_json::Value;

use crate::support::{Aws, Connection, Home, Ran, SECRET, home::holds, transcript};

const KEY: &str = "AKIASIMULATED00000001";

/// The arguments of a plain connection to a simulator, and more.
fn args<'a>(name: &'a str, url: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["connect", "--name", name, "--endpoint-url", url, "--yes"], more].concat()
}

/// Without the secret's file, which stays, the files there are.
fn files(home: &Home) -> Vec<String> {
    let entries = fs::read_dir(home.path(".")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn mode(home: &Home, name: &str) -> u32 {
    fs::metadata(home.path(name)).unwrap().permissions().mode() & 0o777
}

fn read(home: &Home, name: &str) -> String {
    fs::read_to_string(home.path(name)).unwrap()
}

/// A folder with the secret in a file of the user's.
fn home() -> Home {
    let home = Home::new();
    home.write("aws-secret", SECRET);
    fs::set_permissions(home.path("aws-secret"), fs::Permissions::from_mode(0o600)).unwrap();
    home
}

fn with_stdin(home: &Home, args: &[&str], stdin: &str) -> Ran {
    let output = assert_cmd::Command::from_std(home.command(args))
        .write_stdin(stdin)
        .timeout(crate::support::DEADLINE)
        .output()
        .unwrap();
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// From nothing to the first event: what it prints is what runs it.
#[test]
fn what_it_writes_runs_and_what_it_prints_runs_it() {
    let aws = Aws::now();
    let url = aws.url();
    let home = home();
    let keys = ["--access-key-id", KEY, "--secret-access-key-file", "aws-secret", "--output", "events.jsonl"];
    let args = args("main", &url, &keys);
    let ran = home.run(&args);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(aws.charged(), 0, "nothing is paid unasked");
    assert_eq!(files(&home), ["aws-secret", "billing.toml"]);
    assert!(!ran.stderr.contains(SECRET) && !holds(&home.path("billing.toml"), SECRET));
    let text = format!("{}{}", transcript(&home, &args, &ran), read(&home, "billing.toml"));
    insta::assert_snapshot!(home.scrub(&text));

    let (command, rest) = ran.stdout.trim_end().split_once(' ').unwrap();
    assert_eq!(command, "amazon-billing-source");
    let arguments: Vec<_> = rest.split(' ').chain(["--once"]).collect();
    let ran = home.run(&arguments);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(home.log().len() > 0);
}

/// A secret from stdin or a variable is put into a file that nobody else ever could read.
#[test]
fn a_secret_goes_into_a_file_of_its_own_and_nowhere_else() {
    let aws = Aws::now();
    let url = aws.url();
    let home = Home::new();
    let piped = ["--access-key-id", KEY, "--secret-access-key-file", "-", "--output", "-"];
    let ran = with_stdin(&home, &args("piped", &url, &piped), &format!("{SECRET}\n"));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let from_variable = [
        "--access-key-id",
        "AKIASIMULATED00000002",
        "--secret-access-key-env",
        "BILLING_KEY",
        "--secret-file",
        "elsewhere",
    ];
    let mut command = home.command(args("variable", &url, &from_variable));
    command.env("BILLING_KEY", SECRET);
    let second = Ran::of(command);
    assert_eq!(second.code, Some(0), "{}", second.stderr);
    assert_eq!(files(&home), ["billing.toml", "elsewhere", "piped.secret-access-key"]);
    for name in ["elsewhere", "piped.secret-access-key"] {
        assert_eq!((mode(&home, name), read(&home, name).trim()), (0o600, SECRET), "{name}");
    }
    assert!(!holds(&home.path("billing.toml"), SECRET));
    for ran in [&ran, &second] {
        assert!(!ran.stdout.contains(SECRET) && !ran.stderr.contains(SECRET));
    }
    let ran = home.run(&["check", "--config", "billing.toml", "--connect"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(!ran.stdout.contains("warning"), "{}", ran.stdout);
}

/// The secret's file is made with its mode: there is no moment in which somebody could open it.
#[test]
fn a_secret_is_never_readable_by_others_not_even_for_a_moment() {
    let aws = Aws::now();
    let url = aws.url();
    let home = Home::new();
    let strace = Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success());
    let flags = ["--access-key-id", KEY, "--secret-access-key-file", "-", "--output", "-"];
    let arguments = args("main", &url, &flags);
    if !strace {
        // Without the tool the mode at the end is what can be seen; a mask that hides nothing helps.
        let binary = env!("CARGO_BIN_EXE_amazon-billing-source");
        let mut sh = Command::new("sh");
        sh.args(["-c", "umask 0; echo \"$SECRET\" | \"$@\"", "sh", binary]).args(&arguments);
        home.in_here(&mut sh);
        sh.env("SECRET", SECRET);
        let ran = Ran::of(sh);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert_eq!(mode(&home, "main.secret-access-key"), 0o600);
        return;
    }
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=?open,openat,?creat"]);
    command.args(["-o", "calls"]).arg(env!("CARGO_BIN_EXE_amazon-billing-source")).args(&arguments);
    home.in_here(&mut command);
    let mut command = assert_cmd::Command::from_std(command);
    let output = command.write_stdin(SECRET).timeout(crate::support::DEADLINE).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let calls = read(&home, "calls");
    let secret: Vec<_> =
        calls.lines().filter(|line| line.contains("secret-access-key") && line.contains("O_CREAT")).collect();
    assert!(!secret.is_empty(), "{calls}");
    assert!(secret.iter().all(|call| call.contains("O_EXCL") && call.contains("0600")), "{secret:?}");
}

#[test]
fn every_kind_of_credentials_is_tried_and_written() {
    let aws = Aws::now();
    let url = aws.url();
    let home = home();
    fs::create_dir(home.path(".aws")).unwrap();
    home.write(
        ".aws/credentials",
        &format!("[billing]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"),
    );
    let role = "arn:aws:iam::999988887777:role/billing";
    let mut all = String::new();
    for (name, more) in [
        ("keys", &["--access-key-id", KEY, "--secret-access-key-file", "aws-secret"][..]),
        ("profile", &["--profile", "billing"]),
        ("role", &["--role-arn", role, "--external-id", "agreed", "--profile", "billing"]),
        ("chain", &["--default-credentials"]),
    ] {
        let config = format!("{name}.toml");
        let mut args = args(name, &url, more);
        args.extend(["--config", &config, "--output", "-", "--state", name]);
        let mut command = home.command(&args);
        if name == "chain" {
            command.env("AWS_ACCESS_KEY_ID", "AKIASIMULATED00000002").env("AWS_SECRET_ACCESS_KEY", SECRET);
        }
        let ran = Ran::of(command);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let text = read(&home, &config);
        all.push_str(&text[text.find("[[connections]]").unwrap()..]);
        all.push('\n');
    }
    insta::assert_snapshot!(home.scrub(&all));
}

/// Nothing is written when anything is wrong, and everything that is wrong is said.
#[test]
fn what_cannot_be_is_refused_and_nothing_is_written() {
    let aws = Aws::now();
    let url = aws.url();
    let home = home();
    home.write("second.secret-access-key", "somebody else's");
    let before = files(&home);
    let keys = ["--access-key-id", KEY, "--secret-access-key-file", "aws-secret"];
    let plain = |name, more: &[&'static str]| args(name, &url, &[&keys[..], more].concat());
    let mut all = String::new();
    let mut refused = |args: &[&str], stdin: &str, code: i32| {
        let ran = with_stdin(&home, args, stdin);
        assert_eq!(ran.code, Some(code), "{args:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, "", "{args:?}");
        assert!(!ran.stderr.contains(SECRET), "{args:?}");
        assert_eq!(files(&home), before, "{args:?}");
        all.push_str(&home.scrub(&transcript(&home, args, &ran)));
    };
    // Not enough, too much, or not what it is for.
    refused(&["connect"], "", 2);
    refused(&["connect", "--name", "main", "--access-key-id", KEY, "--output", "-"], "", 2);
    refused(&plain("main", &["--output", "-", "--topic", "costs", "--tls"]), "", 2);
    refused(
        &args("main", &url, &["--access-key-id", KEY, "--secret-access-key-env", "NONE", "--output", "-"]),
        "",
        2,
    );
    refused(
        &args("main", &url, &["--access-key-id", KEY, "--secret-access-key-file", "-", "--output", "-"]),
        "two words",
        2,
    );
    // What the configuration itself refuses: all at once.
    refused(
        &plain(
            "Main",
            &["--output", "-", "--granularity", "weekly", "--group-by", "TEAM", "--metrics", "Cost"],
        ),
        "",
        78,
    );
    refused(&args("main", &url, &["--role-arn", "role/x", "--output", "-"]), "", 78);
    refused(
        &args("main", &url, &["--access-key-id", "ASIAX", "--secret-access-key-file", "x", "--output", "-"]),
        "",
        78,
    );
    // Files.
    refused(&plain("main", &["--output", "-", "--config", "missing/billing.toml"]), "", 78);
    refused(
        &args("second", &url, &["--access-key-id", KEY, "--secret-access-key-file", "-", "--output", "-"]),
        SECRET,
        78,
    );
    // The output, then AWS.
    refused(&plain("main", &["--output", "missing/events.jsonl"]), "", 69);
    let sts = |fault: Fault| aws.faults().inject(Injection { sts: true, ..fault.into() });
    sts(Fault::UnrecognizedClient);
    refused(&plain("main", &["--output", "-"]), "", 1);
    sts(Fault::InvalidSignature);
    refused(&plain("main", &["--output", "-"]), "", 1);
    aws.faults().once(Fault::AccessDenied { message: None });
    refused(&plain("main", &["--output", "-", "--query"]), "", 1);
    refused(
        &[
            "connect",
            "--name",
            "main",
            "--default-credentials",
            "--output",
            "-",
            "--endpoint-url",
            "http://127.0.0.1:1",
            "--yes",
        ],
        "",
        1,
    );
    assert_eq!(aws.charged(), 0);
    insta::assert_snapshot!(all);
}

#[test]
fn hourly_figures_that_nobody_enabled_are_told_by_a_paid_request() {
    let aws = Aws::scenario("hourly-disabled");
    let url = aws.url();
    let home = home();
    let keys = ["--access-key-id", KEY, "--secret-access-key-file", "aws-secret", "--output", "-"];
    let both = ["--granularity", "daily,hourly", "--query"];
    let ran = home.run(&args("main", &url, &[&keys[..], &both].concat()));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert_eq!(aws.charged(), 1, "the refused one is free");
    for words in
        ["daily cost records", "this cost $0.01", "enable hourly data in the console", "nothing was written"]
    {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    assert_eq!(files(&home), ["aws-secret"]);
}

const EXISTING: &str = "\
#:schema ./billing-source.schema.json
# Ours. Ask Ann before you change it.

[poll]
interval   =   \"6h\"   # four times a day

# The old account.
[[connections]]
name = 'old'
account_id = \"444455556666\"
#granularity = [\"hourly\"]
  [connections.credentials]
  kind = \"keys\"
  access_key_id = \"AKIASIMULATED00000002\"
  secret_access_key_file = \"aws-secret\"

# Where it all goes.
[local]
output = \"-\"
state = \"s.db\"
# the end
";

/// Every byte that was there is there, in its order, around one insertion.
#[test]
fn a_file_keeps_every_byte_mode_and_link() {
    let aws = Aws::now();
    let url = aws.url();
    let home = home();
    home.write("real.toml", EXISTING);
    fs::set_permissions(home.path("real.toml"), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("real.toml", home.path("billing.toml")).unwrap();
    let ran = home.run(&args(
        "new",
        &url,
        &["--access-key-id", KEY, "--secret-access-key-file", "aws-secret", "--group-by", "REGION"],
    ));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let place = EXISTING.find("# Where").unwrap();
    let text = read(&home, "real.toml");
    let added = text
        .strip_prefix(&EXISTING[..place])
        .and_then(|rest| rest.strip_suffix(&EXISTING[place..]))
        .expect("all that was there");
    assert_eq!(
        added.replace(&url, "URL"),
        format!(
            "[[connections]]\nname = \"new\"\naccount_id = \"111122223333\"\ngroup_by = [\"REGION\"]\n\
             endpoint_url = \"URL\"\n\n[connections.credentials]\nkind = \"keys\"\n\
             access_key_id = \"{KEY}\"\nsecret_access_key_file = \"aws-secret\"\n\n"
        )
    );
    assert!(fs::symlink_metadata(home.path("billing.toml")).unwrap().is_symlink());
    assert_eq!(mode(&home, "real.toml"), 0o640);
    assert_eq!(files(&home), ["aws-secret", "billing.toml", "real.toml"]);

    let ran = home.run(&["connect", "remove", "new", "--yes"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(read(&home, "real.toml"), EXISTING);
    assert!(ran.stderr.contains("`aws-secret`"), "where the secret still is: {}", ran.stderr);
    assert!(home.path("aws-secret").exists());
    let ran = home.run(&["connect", "remove", "old", "--yes"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let (start, end) = (EXISTING.find("# The old").unwrap(), EXISTING.find("# Where").unwrap());
    assert_eq!(read(&home, "real.toml"), format!("{}{}", &EXISTING[..start], &EXISTING[end..]));
    assert!(ran.stderr.contains("no connection is left"), "{}", ran.stderr);
    assert_eq!(mode(&home, "real.toml"), 0o640);
}

/// A connection that would write the keys of another is refused, whether the file says whose account
/// it is or only STS knows.
#[test]
fn connections_that_would_collide_are_refused() {
    let aws = Aws::now();
    let url = aws.url();
    let home = Home::with(&[Connection::new("main", &url)]);
    home.write("aws-secret", SECRET);
    let before = read(&home, "billing.toml");
    let mut all = String::new();
    for (name, key, more) in [
        ("main", "AKIASIMULATED00000002", &[][..]),
        ("same-key", KEY, &[]),
        ("same-account", "AKIAOTHER", &[]),
        ("output", "AKIASIMULATED00000002", &["--output", "-"]),
    ] {
        let mut args = args(name, &url, more);
        args.extend(["--access-key-id", key, "--secret-access-key-file", "aws-secret"]);
        let ran = home.run(&args);
        assert_eq!(ran.code, Some(78), "{name}: {}", ran.stderr);
        assert_eq!(read(&home, "billing.toml"), before, "{name}");
        all.push_str(&home.scrub(&transcript(&home, &args, &ran)));
    }
    insta::assert_snapshot!(all);
    // Another grouping is another key.
    let mut args = args("by-region", &url, &["--group-by", "REGION"]);
    args.extend(["--access-key-id", "AKIAOTHER", "--secret-access-key-file", "aws-secret"]);
    let ran = home.run(&args);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

/// What is wrong with a file before is said before anything else, and left.
#[test]
fn a_file_with_faults_is_not_added_to() {
    let home = home();
    home.write("billing.toml", "[poll]\nintervall = \"8h\"\n[[connections]]\nname = \"Main\"\n");
    let args = ["connect", "--name", "new", "--default-credentials", "--yes", "--no-test", "--output", "-"];
    let ran = home.run(&args);
    assert_eq!(ran.code, Some(78), "{}", ran.stderr);
    for words in ["2 problems", "did you mean `interval`?", "`Main` is not a name"] {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    home.write("billing.toml", "[poll\n");
    let ran = home.run(&args);
    assert_eq!((ran.code, read(&home, "billing.toml").as_str()), (Some(78), "[poll\n"), "{}", ran.stderr);
}

/// Where there is no network yet, as when an image is built.
#[test]
fn without_tests_it_writes_what_it_is_told() {
    let home = Home::new();
    let ran = home.run(&[
        "connect",
        "--config",
        "a b.toml",
        "--name",
        "main",
        "--default-credentials",
        "--output",
        "kafka",
        "--address",
        "127.0.0.1:1",
        "--create",
        "--no-test",
        "--yes",
    ]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(ran.stdout, "amazon-billing-source run --config 'a b.toml'\n");
    let text = read(&home, "a b.toml");
    let kafka = "[[connections]]\nname = \"main\"\n\n[transport]\nkind = \"kafka\"\n\n[kafka]\n\
                 bootstrap_servers = \"127.0.0.1:1\"\ntopic = \"amazon-billing\"\n\
                 state_topic = \"amazon-billing-state\"\ncreate_topics = true\n";
    assert!(text.ends_with(kafka), "{text}");
}

#[test]
fn an_output_nobody_answers_at_is_69_and_nothing_is_written() {
    let aws = Aws::now();
    let url = aws.url();
    let home = home();
    let keys = ["--access-key-id", KEY, "--secret-access-key-file", "aws-secret"];
    for output in [["kafka", "--address", "127.0.0.1:1"], ["nats", "--address", "nats://127.0.0.1:1"]] {
        let ran = home.run(&args("main", &url, &[&keys[..], &["--output"], &output].concat()));
        assert_eq!(ran.code, Some(69), "{}", ran.stderr);
        assert!(ran.stderr.contains("hint: ") && ran.stderr.contains("127.0.0.1:1"), "{}", ran.stderr);
        assert_eq!(files(&home), ["aws-secret"]);
    }
}

#[test]
fn list_shows_everything_but_secrets_and_remove_knows_the_names() {
    let url = "http://127.0.0.1:1";
    let home = Home::with(&[
        Connection { keys: "granularity = [\"daily\", \"hourly\"]", ..Connection::new("main", url) },
        Connection {
            account: 2,
            keys: "account_id = \"444455556666\"\ngroup_by = [\"TAG:team\"]",
            tables: "[connections.filter]\nrecord_types = [\"Usage\"]",
            ..Connection::new("other", url)
        },
    ]);
    let ran = home.run(&["connect", "list"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let lines: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!ran.stdout.contains(SECRET));
    insta::assert_json_snapshot!(lines);
    let before = read(&home, "billing.toml");
    for (args, code, words) in [
        (&["connect", "remove", "mian", "--yes"][..], 78, "there is `main`, `other`"),
        (&["connect", "remove", "main"], 2, "missing: --yes"),
        (&["connect", "remove", "main", "--config", "none.toml"], 78, "could not read `none.toml`"),
        (&["connect", "list", "--config", "none.toml"], 78, "no such file"),
    ] {
        let ran = home.run(args);
        assert_eq!(ran.code, Some(code), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{args:?}: {}", ran.stderr);
    }
    assert_eq!(read(&home, "billing.toml"), before);
    // The variable names the file here, too.
    let mut command = home.command(["connect", "list"]);
    command.env("BILLING_SOURCE_CONFIG", "none.toml");
    assert_eq!(Ran::of(command).code, Some(78));
}
