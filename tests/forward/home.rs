//! A folder with events and a configuration, and the binary in it.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf, process::Command};

use amazon_billing_source::{
    cost::{Amount, CostKey, CostMetric, Period, Scope},
    dedup::{Change, ChangeKind},
    event::{Event, EventFactory, structured_json},
};
use tempfile::TempDir;

use crate::running::Running;

/// Gone with the test.
pub struct Home {
    dir: TempDir,
    variables: Vec<(&'static str, String)>,
}

/// How a run of the binary ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stderr: String,
}

impl Home {
    /// With `billing.toml`, whose output is the file `events.jsonl`.
    pub fn new() -> Self {
        let home = Self { dir: TempDir::new().unwrap(), variables: Vec::new() };
        home.write("billing.toml", "[local]\noutput = \"events.jsonl\"\n");
        home
    }

    /// With these events in the file.
    pub fn with(events: &[Event]) -> Self {
        let home = Self::new();
        home.write("events.jsonl", &lines(events));
        home
    }

    pub fn set(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The lines of a file of JSON.
    pub fn json_lines(&self, name: &str) -> Vec<serde_json::Value> {
        self.read(name).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// `forward` with nothing of the machine's environment.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_amazon-billing-source"));
        command.args(["forward", "--config", "billing.toml"]).args(args);
        command.current_dir(self.dir.path()).env_clear().env("PATH", "/usr/bin:/bin");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// `forward`, under way.
    pub fn start(&self, args: &[&str]) -> Running {
        Running::spawn(self.command(args))
    }

    /// `forward` to its end.
    pub fn run(&self, args: &[&str]) -> Ran {
        let output = assert_cmd::Command::from_std(self.command(args)).timeout(crate::DEADLINE).output();
        let output = output.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "nothing was asked for on stdout");
        Ran { code: output.status.code(), stderr: String::from_utf8(output.stderr).unwrap() }
    }

    /// `forward --once` to its end, which must be good.
    pub fn once(&self, name: &str, url: &str, args: &[&str]) -> Ran {
        let ran = self.run(&[&["--once", "--name", name, "--endpoint", url], args].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        ran
    }
}

/// Revisions 1 to `revisions` of so many keys; of each revision every key, then the next.
pub fn events(keys: usize, revisions: u32) -> Vec<Event> {
    let scope = Scope {
        source: "cloud.amazon.billing".to_owned(),
        account: "111122223333".to_owned(),
        group_by: None,
        filter: None,
    };
    let factory = EventFactory::new(scope, "amazon.billing");
    let services: Vec<_> = (0..keys).map(|key| format!("Service {key}")).collect();
    let mut events = Vec::with_capacity(keys * revisions as usize);
    for revision in 1..=revisions {
        events.extend(
            services.iter().map(|service| factory.event(&change(service, revision), &BTreeMap::new())),
        );
    }
    events
}

fn change(service: &str, revision: u32) -> Change<'_> {
    let amounts = |revision: u32| {
        let amount = Amount::parse(format!("{revision}.25"), "USD".to_owned()).unwrap();
        [(CostMetric::UnblendedCost, amount)].into_iter().collect()
    };
    Change {
        key: CostKey { period: Period::from_label("2026-03-01").unwrap(), service, group: None },
        kind: if revision == 1 { ChangeKind::New } else { ChangeKind::Revised },
        revision,
        amounts: std::borrow::Cow::Owned(amounts(revision)),
        estimated: true,
        observed_at: "2026-03-02T00:00:00Z".parse().unwrap(),
        previous: (revision > 1).then(|| (amounts(revision - 1), true)),
    }
}

pub fn lines(events: &[Event]) -> String {
    let mut text = String::new();
    for event in events {
        let json = structured_json(event.clone()).unwrap();
        writeln!(text, "{}", String::from_utf8(json).unwrap()).unwrap();
    }
    text
}
