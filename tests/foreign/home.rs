//! A simulated AWS, and the real program that publishes what it states.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use amazon_billing_source::{
    clock::Clock,
    cost::CostMetric,
    simulator::{DEFAULT_ACCOUNT, Fault, Options, Simulator},
};
use jiff::{SignedDuration, ToSpan as _, tz::Offset};
use rust_decimal::Decimal;
use serde_json::Value;
use tempfile::TempDir;

/// Spend per service, zeros left out: what a consumer must come to.
pub type Totals = BTreeMap<String, Decimal>;

/// A service whose rows AWS lists no more after some polls: they are removed.
const LOST: &str = "Amazon Route 53";
/// A service whose rows are missing for some polls: removed, and revised when they are back.
const MISSED: &str = "AWS Lambda";

/// A folder, a configuration, and an AWS whose clock stands still until it is moved.
pub struct Home {
    dir: TempDir,
    simulator: Simulator,
    clock: Clock,
}

impl Home {
    /// AWS's clock begins ten days ago; `transport` are the tables of the configuration that name it.
    pub async fn new(transport: &str) -> Self {
        let clock = Clock::manual(Clock::system().now() - SignedDuration::from_hours(24 * 10));
        // The program's clock is ahead, and its month may be the next one.
        let options = Options { any_period: true, ..Options::default() };
        let simulator = Simulator::start(options, clock.clone()).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "[[connections]]\nname = \"main\"\nendpoint_url = \"{}\"\n[connections.credentials]\nkind = \"keys\"\n\
             access_key_id = \"AKIA\"\nsecret_access_key = \"s\"\n[poll]\nsettle_days = 31\n[budget]\n\
             requests_per_day = 0\n[admin]\nlisten = \"\"\n{transport}\n",
            simulator.url()
        );
        std::fs::write(dir.path().join("billing.toml"), text).unwrap();
        Self { dir, simulator, clock }
    }

    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// So many times [`Home::poll`]; `between` is called before each with its number. In the third one rows
    /// begin to be missing.
    pub fn polls(&self, count: usize, mut between: impl FnMut(usize)) {
        for number in 0..count {
            between(number);
            if number == 2 {
                self.simulator.faults().always(Fault::DropService { service: LOST.to_owned() });
                self.simulator.faults().times(3, Fault::DropService { service: MISSED.to_owned() });
            }
            self.poll();
        }
    }

    /// Eight hours later: the real program polls twice, since a row that AWS withdraws is retracted by the
    /// second answer in a row that lacks it.
    pub fn poll(&self) {
        self.clock.set(self.clock.now() + SignedDuration::from_hours(8));
        for _ in 0..2 {
            let output = Command::new(env!("CARGO_BIN_EXE_amazon-billing-source"))
                .args(["run", "--once", "--config", "billing.toml"])
                .current_dir(self.folder())
                .stdin(Stdio::null())
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }

    /// AWS's own figures of the days that were polled.
    pub fn totals(&self) -> Totals {
        let today = Offset::UTC.to_datetime(Clock::system().now()).date();
        let from = today.first_of_month().saturating_sub(1.month());
        let to = today.saturating_add(1.day());
        let mut totals = self.simulator.totals(DEFAULT_ACCOUNT, CostMetric::UnblendedCost, from, to);
        assert!(totals[MISSED] > Decimal::ZERO && totals.remove(LOST).is_some());
        nonzero(totals)
    }
}

/// Without the services that come to nothing.
pub fn nonzero(totals: Totals) -> Totals {
    totals.into_iter().filter(|(_, sum)| !sum.is_zero()).collect()
}

/// Spend per service of these events, each counted.
pub fn sum<'a>(events: impl IntoIterator<Item = &'a Value>) -> Totals {
    let mut totals = Totals::new();
    for event in events {
        let data = &event["data"];
        let amount = data["unblendedCost"]["amount"].as_str().unwrap();
        *totals.entry(data["service"].as_str().unwrap().to_owned()).or_default() +=
            Decimal::from_str_exact(amount).unwrap();
    }
    nonzero(totals)
}

/// The highest revision of every key.
pub fn newest<'a>(events: impl IntoIterator<Item = &'a Value>) -> BTreeMap<String, &'a Value> {
    let mut newest: BTreeMap<String, &Value> = BTreeMap::new();
    for event in events {
        let key = event["partitionkey"].as_str().unwrap().to_owned();
        if newest.get(&key).is_none_or(|known| revision(known) < revision(event)) {
            newest.insert(key, event);
        }
    }
    newest
}

/// Of either mode.
pub fn revision(event: &Value) -> u64 {
    let revision = &event["revision"];
    revision.as_u64().unwrap_or_else(|| revision.as_str().unwrap().parse().unwrap())
}
