//! Events, and the binary that reads them.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use amazon_billing_source::{
    cost::{Amount, CostKey, CostMetric, Period, Scope},
    dedup::{Change, ChangeKind},
    event::{Event, EventFactory, structured_json},
};
use serde_json::Value;
use tempfile::TempDir;

/// Generous: other tests and their brokers run on the same cores.
pub const DEADLINE: Duration = Duration::from_secs(90);

pub fn scope() -> Scope {
    Scope {
        source: "cloud.amazon.billing".to_owned(),
        account: "111122223333".to_owned(),
        group_by: None,
        filter: None,
    }
}

pub fn event(label: &str, service: &str, revision: u32) -> Event {
    event_at(label, service, revision, "2026-03-02T00:00:00Z")
}

/// An event whose figure is its revision, in cents.
pub fn event_at(label: &str, service: &str, revision: u32, time: &str) -> Event {
    let amount = |revision: u32| {
        let text = format!("0.{revision:02}");
        [(CostMetric::UnblendedCost, Amount::parse(text, "USD".to_owned()).unwrap())].into_iter().collect()
    };
    let change = Change {
        key: CostKey { period: Period::from_label(label).unwrap(), service, group: None },
        kind: if revision == 1 { ChangeKind::New } else { ChangeKind::Revised },
        revision,
        amounts: Cow::Owned(amount(revision)),
        estimated: true,
        observed_at: time.parse().unwrap(),
        previous: (revision > 1).then(|| (amount(revision - 1), true)),
    };
    EventFactory::new(scope(), "amazon.billing").event(&change, &BTreeMap::new())
}

pub fn line(event: Event) -> String {
    String::from_utf8(structured_json(event).unwrap()).unwrap()
}

/// Lines as they lie in a file.
pub fn text(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

/// So many events: revisions of a few services, a day each.
pub fn events(count: u32) -> Vec<Event> {
    let services = ["AWS Lambda", "Amazon Elastic Compute Cloud - Compute", "Tax"];
    (0..count)
        .map(|n| {
            let (day, n) = (n / 9 % 28 + 1, n % 9);
            event(&format!("2026-03-{day:02}"), services[n as usize % 3], n / 3 + 1)
        })
        .collect()
}

/// A folder, and the binary run in it.
pub struct Home(TempDir);

/// How a run ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }

    /// What went well.
    pub fn fine(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    /// The ids of the events on stdout.
    pub fn ids(&self) -> Vec<String> {
        self.stdout.lines().map(id).collect()
    }
}

pub fn id(line: &str) -> String {
    let event: Value = serde_json::from_str(line).unwrap();
    event["id"].as_str().unwrap_or_else(|| panic!("no event: {line}")).to_owned()
}

impl Home {
    pub fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// Reads `events.jsonl`.
    pub fn local(lines: &[String]) -> Self {
        let home = Self::new();
        home.write("billing.toml", "[local]\noutput = \"events.jsonl\"\nstate = \"state.db\"\n");
        home.write("events.jsonl", &text(lines));
        home
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn append(&self, name: &str, text: &str) {
        use std::io::Write as _;
        let mut file = fs::OpenOptions::new().append(true).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_amazon-billing-source"));
        command.args(args).current_dir(self.0.path()).env_clear().stdin(Stdio::null());
        command.env("PATH", "/usr/bin:/bin").env("HOME", self.0.path());
        command
    }

    /// A command with `--config billing.toml`, to its end.
    pub fn run(&self, args: &[&str]) -> Ran {
        let output = self.command(&[&args[..1], &["--config", "billing.toml"], &args[1..]].concat()).output();
        let output = output.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The same, under way.
    pub fn start(&self, args: &[&str]) -> Running {
        let mut command = self.command(&[&args[..1], &["--config", "billing.toml"], &args[1..]].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let said = Arc::new(Mutex::new(String::new()));
        let (stderr, heard) = (child.stderr.take().unwrap(), Arc::clone(&said));
        let listener = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut heard = heard.lock().unwrap();
                heard.push_str(&line);
                heard.push('\n');
            }
        });
        let (stdout, seen) = (child.stdout.take().unwrap(), Arc::clone(&lines));
        let reader = std::thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = String::new();
            while stdout.read_line(&mut line).is_ok_and(|read| read > 0) {
                // Killed while it wrote, it leaves a piece: that is no line.
                if let Some(whole) = line.strip_suffix('\n') {
                    seen.lock().unwrap().push(whole.to_owned());
                }
                line.clear();
            }
        });
        Running { child, lines, said, readers: vec![reader, listener] }
    }
}

/// A command under way; killed when dropped.
pub struct Running {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    /// Its stderr.
    said: Arc<Mutex<String>>,
    /// End with the command's stdout and stderr.
    readers: Vec<JoinHandle<()>>,
}

impl Running {
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits until so many lines were printed.
    pub fn wait_for(&self, count: usize) -> Vec<String> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let lines = self.lines();
            if lines.len() >= count {
                return lines;
            }
            assert!(Instant::now() < deadline, "{} of {count} lines, and:\n{}", lines.len(), self.said());
            crate::pause(Duration::from_millis(20));
        }
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// SIGINT, as Ctrl-C does it.
    pub fn interrupt(mut self) -> Ran {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        self.ended()
    }

    /// SIGKILL. Every whole line it had written.
    pub fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.all_lines()
    }

    /// Once it has ended.
    fn all_lines(&mut self) -> Vec<String> {
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        self.lines()
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> Ran {
        let deadline = Instant::now() + DEADLINE;
        let code = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status.code();
            }
            assert!(Instant::now() < deadline, "it does not end, and said:\n{}", self.said());
            crate::pause(Duration::from_millis(20));
        };
        let stdout = self.all_lines().join("\n");
        Ran { code, stdout, stderr: self.said() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
