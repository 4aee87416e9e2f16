//! What the demo shows: events as they are published, and at the end whether they add up.
//!
//! The sums are those of a consumer: the highest revision per `partitionkey`, nothing else.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    io::{self, Write as _},
    path::Path,
    sync::Mutex,
};

use anstream::stdout;
use anstyle::{AnsiColor, Style as Colour};
use jiff::{Timestamp, civil::Date};
use rust_decimal::Decimal;

use crate::{
    config::ConnectionConfig,
    cost::CostMetric,
    cycle::CycleReport,
    dedup::{ConnectionState, Ledger},
    event::{EventFactory, structured_json},
    simulator::Bill,
    transport::{Batch, Delivery, Transport, TransportError, WindowOf},
};

/// The most changes shown to people per poll.
const SHOWN: usize = 3;

/// How events are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// A terminal: the most telling changes of each poll.
    People,
    /// A pipe: every event, a JSON line each.
    Lines,
    /// Somebody else shows them.
    Quiet,
}

/// A transport that remembers what was published through it.
#[derive(Debug)]
pub(super) struct Observed<T> {
    inner: T,
    published: Mutex<Vec<Told>>,
}

/// One published event.
#[derive(Debug)]
pub(super) struct Told {
    key: String,
    line: Vec<u8>,
    change: String,
    row: Row,
}

/// What the highest revision of a key states.
#[derive(Clone, Debug)]
struct Row {
    revision: u32,
    date: Date,
    service: String,
    amount: Decimal,
    estimated: bool,
}

impl<T> Observed<T> {
    pub(super) const fn new(inner: T) -> Self {
        Self { inner, published: Mutex::new(Vec::new()) }
    }

    /// What was published since last asked.
    pub(super) fn take(&self) -> Vec<Told> {
        self.published.lock().map(|mut published| std::mem::take(&mut *published)).unwrap_or_default()
    }
}

impl<T: Transport> Transport for Observed<T> {
    async fn recover(&self, scope: &str, ledger: &mut Ledger) -> Result<ConnectionState, TransportError> {
        self.inner.recover(scope, ledger).await
    }

    async fn recover_window(
        &self,
        scope: &str,
        ledger: &mut Ledger,
        window: WindowOf<'_>,
    ) -> Result<ConnectionState, TransportError> {
        self.inner.recover_window(scope, ledger, window).await
    }

    async fn publish(&self, batch: Batch) -> Result<Vec<Delivery>, TransportError> {
        let told: Vec<_> = batch
            .events
            .iter()
            .filter_map(|outgoing| {
                let event = outgoing.event();
                let text = |name| event.extension(name).map(ToString::to_string);
                let statement = &outgoing.record.statement;
                Some(Told {
                    key: text("partitionkey")?,
                    change: text("change")?,
                    line: structured_json(event).ok()?,
                    row: Row {
                        revision: statement.revision,
                        date: outgoing.record.period.date(),
                        service: outgoing.record.service.to_string(),
                        amount: statement.amounts.last()?.1.value(),
                        estimated: statement.estimated,
                    },
                })
            })
            .collect();
        let deliveries = self.inner.publish(batch).await?;
        if let Ok(mut published) = self.published.lock() {
            published.extend(told);
        }
        Ok(deliveries)
    }

    async fn connections(&self) -> Result<Vec<(String, ConnectionState)>, TransportError> {
        self.inner.connections().await
    }

    async fn check(&self) -> Result<Vec<String>, TransportError> {
        self.inner.check().await
    }

    async fn close(&self) -> Result<(), TransportError> {
        self.inner.close().await
    }

    fn comes_back(&self) -> bool {
        self.inner.comes_back()
    }

    fn receipts_prove_the_end(&self) -> bool {
        self.inner.receipts_prove_the_end()
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }
}

/// The consumer and its commentary.
pub(super) struct Audience {
    style: Style,
    metric: CostMetric,
    rows: BTreeMap<String, Row>,
    changes: BTreeMap<String, u64>,
    polls: u32,
    /// The months AWS has called final.
    closed: BTreeSet<Date>,
}

impl Audience {
    /// Begins with what earlier walks over the same state have published.
    pub(super) fn new(
        style: Style,
        connection: &ConnectionConfig,
        factory: &EventFactory,
        ledger: &Ledger,
    ) -> Self {
        let rows = ledger.rows().filter_map(|(_, row)| {
            let key = row.key();
            let stated = Row {
                revision: row.revision(),
                date: key.period.date(),
                service: key.service.to_owned(),
                amount: row.amounts().last()?.1.value(),
                estimated: row.estimated(),
            };
            Some((key.partition_key(factory.scope()), stated))
        });
        Self {
            style,
            // The last figure of a record; of the usual two the unblended one.
            metric: connection.metrics.last().copied().unwrap_or(CostMetric::UnblendedCost),
            rows: rows.collect(),
            changes: BTreeMap::new(),
            polls: 0,
            closed: BTreeSet::new(),
        }
    }

    /// The metric shown and summed up.
    pub(super) const fn metric(&self) -> CostMetric {
        self.metric
    }

    /// What is about to be seen.
    pub(super) fn welcome(&self, polls: usize, dir: Option<&Path>) -> io::Result<()> {
        if self.style != Style::People {
            return Ok(());
        }
        let mut out = stdout().lock();
        writeln!(
            out,
            "Cost Explorer is simulated, its clock runs fast: {polls} polls. Shown are the {SHOWN} most telling\n\
             changes of each poll; every event is in {}\n",
            dir.map_or_else(
                || "the configured output".to_owned(),
                |dir| dir.join("events.jsonl").display().to_string()
            )
        )?;
        out.flush()
    }

    /// One poll's events.
    pub(super) fn poll(
        &mut self,
        now: Timestamp,
        report: &CycleReport,
        told: Vec<Told>,
        cost: &str,
    ) -> io::Result<()> {
        self.polls += 1;
        let mut lines = Vec::new();
        let mut steps: Vec<(bool, Decimal, String)> = Vec::new();
        let mut closes = None;
        for event in told {
            *self.changes.entry(event.change.clone()).or_default() += 1;
            if self.style == Style::Lines {
                lines.extend_from_slice(&event.line);
                lines.push(b'\n');
            }
            let before = self.rows.get(&event.key).cloned();
            if before.as_ref().is_some_and(|row| row.estimated) && !event.row.estimated {
                closes = Some(event.row.date.first_of_month());
            }
            let step = event.row.amount - before.as_ref().map_or(Decimal::ZERO, |row| row.amount);
            steps.push((event.change == "removed", step.abs(), describe(&event, before.as_ref(), step)));
            if before.is_none_or(|row| row.revision < event.row.revision) {
                self.rows.insert(event.key, event.row);
            }
        }
        match self.style {
            Style::Quiet => Ok(()),
            Style::Lines => {
                let mut out = io::stdout().lock();
                out.write_all(&lines)?;
                out.flush()
            }
            Style::People => {
                let mut out = stdout().lock();
                if let Some(month) = closes.filter(|month| self.closed.insert(*month)) {
                    let month = month.strftime("%B %Y");
                    writeln!(out, "{BOLD}--- {month} closes: AWS calls its figures final{BOLD:#}")?;
                }
                let counts = report.counts;
                writeln!(
                    out,
                    "{DIM}{}{DIM:#}  {:>3} new {:>4} revised {:>3} removed {:>5} unchanged  {DIM}spent {cost}{DIM:#}",
                    now.strftime("%Y-%m-%d %H:%MZ"),
                    counts.new,
                    counts.revised,
                    counts.removed,
                    counts.unchanged
                )?;
                // Retractions are rare and telling; then by size.
                steps.sort_by_key(|step| Reverse((step.0, step.1)));
                for (.., step) in steps.iter().take(SHOWN) {
                    writeln!(out, "    {step}")?;
                }
                out.flush()
            }
        }
    }

    /// What it came to: `true` where the events add up to AWS's own total, to the last digit.
    pub(super) fn summary(
        &self,
        from: Date,
        to: Date,
        aws: &BTreeMap<String, Decimal>,
        bill: &Bill,
        dir: Option<&Path>,
    ) -> io::Result<bool> {
        let mut ours: BTreeMap<&str, Decimal> = BTreeMap::new();
        for row in self.rows.values().filter(|row| from <= row.date && row.date < to) {
            *ours.entry(&row.service).or_default() += row.amount;
        }
        let services: BTreeMap<&str, Decimal> = aws.iter().map(|(name, total)| (&**name, *total)).collect();
        let mut names: Vec<&str> = ours.keys().chain(services.keys()).copied().collect();
        names.sort_unstable();
        names.dedup();
        let title = format!("{from} to {to}, {}", self.metric);
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(title.len());
        let mut lines =
            vec![format!("\n{title:<width$} {:>20} {:>20}", "from the events", "AWS's own total")];
        let (mut equal, mut sums) = (true, (Decimal::ZERO, Decimal::ZERO));
        for name in names {
            let event_total = ours.get(name).copied().unwrap_or_default();
            let aws_total = services.get(name).copied().unwrap_or_default();
            equal &= event_total == aws_total;
            sums = (sums.0 + event_total, sums.1 + aws_total);
            if !event_total.is_zero() || !aws_total.is_zero() {
                let mark = if event_total == aws_total { "" } else { "  <- differs" };
                lines.push(format!("{name:<width$} {event_total:>20} {aws_total:>20}{mark}"));
            }
        }
        lines.push(format!("{:<width$} {:>20} {:>20}\n", "all services", sums.0, sums.1));
        let verdict = if equal { "equal to the last digit" } else { "NOT EQUAL" };
        let published: u64 = self.changes.values().sum();
        let changes: Vec<_> =
            self.changes.iter().map(|(change, count)| format!("{count} {change}")).collect();
        lines.push(format!("{:<10} {verdict}", "totals"));
        let changes = if changes.is_empty() { String::new() } else { format!(" ({})", changes.join(", ")) };
        lines.push(format!("{:<10} {published}{changes}", "events"));
        lines.push(format!(
            "{:<10} {} in {} polls; from AWS they would have cost {}",
            "requests",
            bill.chargeable,
            self.polls,
            bill.cost()
        ));
        if let Some(dir) = dir {
            lines.push(format!("{:<10} {}", "events in", dir.join("events.jsonl").display()));
            lines.push(format!("{:<10} {}", "state in", dir.join("state.db").display()));
        }
        let text = lines.join("\n") + "\n";
        // In a pipe the events are the output, and this is for whoever watches.
        if self.style == Style::People {
            let mut out = stdout().lock();
            out.write_all(text.as_bytes())?;
            out.flush()?;
        } else {
            let mut err = io::stderr().lock();
            err.write_all(text.as_bytes())?;
        }
        Ok(equal)
    }
}

const BOLD: Colour = Colour::new().bold();
const DIM: Colour = Colour::new().dimmed();
const NEW: Colour = AnsiColor::Green.on_default();
const REVISED: Colour = AnsiColor::Yellow.on_default();
const REMOVED: Colour = AnsiColor::Red.on_default();

fn describe(event: &Told, before: Option<&Row>, step: Decimal) -> String {
    let colour = match &*event.change {
        "new" => NEW,
        "revised" => REVISED,
        _ => REMOVED,
    };
    let row = &event.row;
    let amount = format!("{:.2}", row.amount);
    let was = match before {
        None => String::new(),
        Some(before) if before.amount == row.amount => "now final".to_owned(),
        Some(before) => {
            let sign = if step.is_sign_positive() { "+" } else { "" };
            format!("was {:.2} ({sign}{step:.2})", before.amount)
        }
    };
    let change = &event.change;
    let (date, service) = (row.date, &row.service);
    format!("{colour}{change:<8}{colour:#} {date}  {service:<44.44} {amount:>10} USD  {DIM}{was}{DIM:#}")
}
