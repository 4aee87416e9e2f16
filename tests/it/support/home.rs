//! A folder of a test's own with a configuration, and the binary run in it.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use amazon_billing_source::{
    admin::Readiness,
    app::{self, Mode, World},
    clock::Clock,
    config::{self, Config, TransportConfig},
    exit::Exit,
    telemetry::Metrics,
    transport::local::Local,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{DEADLINE, Log, Running, runtime};

/// The secret key of every connection; it must be seen nowhere.
pub(crate) const SECRET: &str = "tH1s/Is+ThE-SecRet-AccEss-kEy-0f-the-TEST";
/// The session token of connections that have one.
pub(crate) const TOKEN: &str = "FwoGZXIvYXdzEthis-is-the-SESSION-token==";

/// One `[[connections]]`; the key's last digit chooses the simulator's account.
pub(crate) struct Connection<'a> {
    pub(crate) name: &'a str,
    pub(crate) url: &'a str,
    pub(crate) account: u8,
    /// More keys of the connection.
    pub(crate) keys: &'a str,
    /// Tables below it, such as `[connections.filter]`.
    pub(crate) tables: &'a str,
}

impl<'a> Connection<'a> {
    /// A plain one.
    pub(crate) const fn new(name: &'a str, url: &'a str) -> Self {
        Self { name, url, account: 1, keys: "", tables: "" }
    }

    fn toml(&self) -> String {
        let Self { name, url, account, keys, tables } = self;
        format!(
            "[[connections]]\nname = \"{name}\"\nendpoint_url = \"{url}\"\n{keys}\n\
             [connections.credentials]\nkind = \"keys\"\naccess_key_id = \"AKIASIMULATED0000000{account}\"\n\
             secret_access_key = \"{SECRET}\"\n{tables}\n"
        )
    }
}

/// A folder with everything a run reads and writes; gone with the test.
pub(crate) struct Home {
    dir: TempDir,
    overrides: Vec<(String, String)>,
}

/// How a run of the binary ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Home {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self { dir: TempDir::new().unwrap(), overrides: Vec::new() }
    }

    /// With `billing.toml`: these connections, a file `events.jsonl`, no budget, no admin port.
    pub(crate) fn with(connections: &[Connection<'_>]) -> Self {
        let home = Self::new();
        home.configure(connections);
        home
    }

    /// With one connection named `main`.
    pub(crate) fn on(url: &str) -> Self {
        Self::with(&[Connection::new("main", url)])
    }

    /// Writes `billing.toml` anew.
    pub(crate) fn configure(&self, connections: &[Connection<'_>]) {
        let mut toml = "[budget]\nrequests_per_day = 0\n[local]\noutput = \"events.jsonl\"\n\
                        state = \"state.db\"\n[admin]\nlisten = \"\"\n\n"
            .to_owned();
        for connection in connections {
            toml.push_str(&connection.toml());
        }
        self.write("billing.toml", &toml);
    }

    /// Overrides a value by its variable, from now on: `("poll.grace", "1s")`.
    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        self.overrides.retain(|(name, _)| *name != variable(key));
        self.overrides.push((variable(key), value.to_owned()));
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// The binary in this folder, with nothing of the machine's environment.
    pub(crate) fn command(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_amazon-billing-source"));
        command.args(args);
        self.in_here(&mut command);
        command
    }

    /// Any program in this folder, with nothing of the machine's environment.
    pub(crate) fn in_here(&self, command: &mut Command) {
        command.current_dir(self.dir.path()).env_clear();
        command.env("PATH", "/usr/bin:/bin").env("HOME", self.dir.path());
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        command.envs(self.overrides.iter().map(|(name, value)| (name, value)));
    }

    /// Runs the binary to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args))
    }

    /// `run --once`.
    pub(crate) fn once(&self) -> Ran {
        self.run(&["run", "--config", "billing.toml", "--once"])
    }

    /// `run --once`, which must be complete.
    pub(crate) fn once_complete(&self) -> Ran {
        let ran = self.once();
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        ran
    }

    /// `run`, until it is told to end.
    pub(crate) fn start(&self) -> Running {
        Running::spawn(self.command(["run", "--config", "billing.toml"]))
    }

    /// `run --once`, under way.
    pub(crate) fn start_once(&self) -> Running {
        Running::spawn(self.command(["run", "--config", "billing.toml", "--once"]))
    }

    /// The configuration as the binary would load it here.
    pub(crate) fn config(&self) -> Config {
        let loaded = config::load(&[self.path("billing.toml")], self.overrides.clone()).unwrap();
        let mut config = loaded.config;
        let TransportConfig::Local(local) = &mut config.transport else { panic!("a local output") };
        local.state = self.path("state.db");
        local.output = local.output.as_ref().map(|output| self.dir.path().join(output));
        config
    }

    /// What a run in this process works with, at the time of a clock.
    pub(crate) fn world(&self, clock: &Clock) -> (Local, World) {
        let TransportConfig::Local(local) = self.config().transport else { panic!("a local output") };
        let world = World {
            clock: clock.clone(),
            metrics: Metrics::new(),
            readiness: Readiness::default(),
            instance: "test".to_owned(),
        };
        (Local::connect(&local).unwrap(), world)
    }

    /// One cycle in this process, at the time of a clock.
    pub(crate) fn poll(&self, clock: &Clock) -> Exit {
        let (transport, world) = self.world(clock);
        runtime().block_on(app::run(self.config(), transport, world, Mode::Once, CancellationToken::new()))
    }

    /// The events in `events.jsonl`, every promise about a log kept.
    pub(crate) fn log(&self) -> Log {
        Log::read(&self.path("events.jsonl"))
    }

    /// The same when the writer was killed, perhaps in the middle of a line.
    pub(crate) fn log_after_a_kill(&self) -> Log {
        Log::read_after_a_kill(&self.path("events.jsonl"))
    }

    /// The state, to look at.
    pub(crate) fn state(&self) -> rusqlite::Connection {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        rusqlite::Connection::open_with_flags(self.path("state.db"), flags).unwrap()
    }

    /// The state of the only connection.
    pub(crate) fn connection_state(&self) -> serde_json::Value {
        let text: String =
            self.state().query_row("SELECT state FROM connections", [], |row| row.get(0)).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// A text without what differs from run to run: times, folders, ports, request ids.
    pub(crate) fn scrub(&self, text: &str) -> String {
        let folder = self.dir.path().to_string_lossy().into_owned();
        let real = std::fs::canonicalize(self.dir.path()).unwrap().to_string_lossy().into_owned();
        let text = text.replace(&real, "[home]").replace(&folder, "[home]");
        let mut scrubbed = String::new();
        for line in text.lines() {
            let words = line.split(' ').map(scrub_word).collect::<Vec<_>>();
            writeln!(scrubbed, "{}", words.join(" ").trim_start_matches("[time]").trim_end()).unwrap();
        }
        scrubbed
    }
}

impl Ran {
    /// Runs a command to its end; the end is bounded.
    pub(crate) fn of(command: Command) -> Self {
        let output = assert_cmd::Command::from_std(command).timeout(DEADLINE).output().unwrap();
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Command, exit code and output as one text for a snapshot.
pub(crate) fn transcript(home: &Home, args: &[&str], ran: &Ran) -> String {
    let mut text = format!("$ amazon-billing-source {}\n", args.join(" "));
    text.push_str(&home.scrub(&ran.stdout));
    for line in home.scrub(&ran.stderr).lines() {
        writeln!(text, "! {line}").unwrap();
    }
    writeln!(text, "exit {}\n", ran.code.map_or_else(|| "by signal".to_owned(), |code| code.to_string()))
        .unwrap();
    text
}

fn variable(key: &str) -> String {
    format!("BILLING_SOURCE__{}", key.to_uppercase().replace('.', "__"))
}

fn scrub_word(word: &str) -> String {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if word.len() > 19 && word.as_bytes()[10] == b'T' && word.ends_with('Z') && digits(&word[..4]) {
        return "[time]".to_owned();
    }
    if let Some((before, rest)) = word.split_once("127.0.0.1:") {
        let port = rest.bytes().take_while(u8::is_ascii_digit).count();
        return format!("{before}127.0.0.1:[port]{}", &rest[port..]);
    }
    let bare = word.trim_end_matches(')');
    if bare.len() == 36 && bare.bytes().filter(|byte| *byte == b'-').count() == 4 {
        return format!("[id]{}", &word[36..]);
    }
    if word.len() == 10 && word.as_bytes()[4] == b'-' && word.as_bytes()[7] == b'-' && digits(&word[..4]) {
        return "[date]".to_owned();
    }
    word.to_owned()
}

/// Whether a file's bytes hold a text.
pub(crate) fn holds(path: &Path, text: &str) -> bool {
    let bytes = std::fs::read(path).unwrap_or_default();
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
