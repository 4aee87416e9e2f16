//! How events are shown: JSON lines, a table that grows, or the current state at the end.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{
    consume::{By, Current, Event, NotOurs, Place, Received, Sum, Total, View},
    cost::Amounts,
    dedup::{Published, Status},
    transport::{StateRecord, StatedData},
};

/// The widest a service is shown in a table that grows.
const SERVICE: usize = 38;

/// What is done with an event.
pub(super) enum Show {
    /// Each as a JSON line.
    Lines,
    /// Each as a row.
    Table {
        /// Whether places have a partition.
        partitioned: bool,
        /// Whether changes have a colour.
        coloured: bool,
    },
    /// None by itself: at the end the highest revision of each key, or what that adds up to.
    Current {
        /// What was read so far.
        state: Current,
        /// The totals asked for.
        by: Option<By>,
        /// Whether for people.
        table: bool,
    },
}

impl Show {
    /// Each event.
    pub(super) fn events(table: bool) -> Self {
        if table { Self::Table { partitioned: false, coloured: false } } else { Self::Lines }
    }

    /// What stands above the events.
    pub(super) fn begin(&mut self, with_partitions: bool, buffer: &mut Vec<u8>) {
        if let Self::Table { partitioned, coloured } = self {
            *partitioned = with_partitions;
            *coloured = anstream::AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never;
            row(
                buffer,
                [
                    if with_partitions { "offset" } else { "position" },
                    "stated",
                    "spend of",
                    "service",
                    "change",
                    "rev",
                    "amount",
                ],
                Style::new(),
            );
        }
    }

    /// Shows an event.
    ///
    /// # Errors
    /// When its data is not what an event of ours states, and is looked at.
    pub(super) fn event(
        &mut self,
        received: &Received,
        event: &Event<'_>,
        buffer: &mut Vec<u8>,
    ) -> Result<(), NotOurs> {
        match self {
            Self::Lines => {
                buffer.extend_from_slice(event.json());
                buffer.push(b'\n');
            }
            Self::Table { partitioned, coloured } => {
                let record = stated(event)?;
                let change = event.get("change").unwrap_or_default();
                let colour = match change {
                    _ if !*coloured => None,
                    "new" => Some(AnsiColor::Green),
                    "removed" => Some(AnsiColor::Red),
                    _ => Some(AnsiColor::Yellow),
                };
                let service = match record.group.as_deref() {
                    Some(group) if !group.is_empty() => format!("{} / {group}", record.service),
                    _ => record.service.into(),
                };
                row(
                    buffer,
                    [
                        &place(&received.place, *partitioned),
                        event.get("time").unwrap_or_default(),
                        &record.period.label(),
                        &cut(&service),
                        change,
                        &event.revision().to_string(),
                        &amounts(&record.statement.amounts),
                    ],
                    colour.map_or(Style::new(), AnsiColor::on_default),
                );
            }
            Self::Current { state, .. } => state.apply(event)?,
        }
        Ok(())
    }

    /// Shows what is no event, and why.
    pub(super) fn not_an_event(&self, received: &Received, why: &NotOurs, buffer: &mut Vec<u8>) {
        let Place { partition, position, .. } = received.place;
        let text = String::from_utf8_lossy(received.bytes());
        if let Self::Table { partitioned, .. } = self {
            let shown: String = text.chars().take(60).collect();
            let place = place(&received.place, *partitioned);
            let line = format!("{place:>10}  no event: {}: {}\n", plain(&why.to_string()), plain(&shown));
            buffer.extend_from_slice(line.as_bytes());
            return;
        }
        let line = json!({ "notAnEvent": {
            "partition": partition, "position": position,
            "storedAt": received.stored_at.map(|at| at.to_string()), "reason": why.to_string(), "text": text,
        }});
        buffer.extend_from_slice(line.to_string().as_bytes());
        buffer.push(b'\n');
    }

    /// What comes once everything was read.
    ///
    /// # Errors
    /// When a sum cannot be exact; in words.
    pub(super) fn end(&self, buffer: &mut Vec<u8>) -> Result<(), String> {
        let Self::Current { state, by, table } = self else { return Ok(()) };
        match by {
            None if *table => buffer.extend_from_slice(keys_table(state).as_bytes()),
            None => {
                for (view, row) in state.keys() {
                    buffer.extend_from_slice(key_line(view, row).to_string().as_bytes());
                    buffer.push(b'\n');
                }
            }
            Some(by) => {
                let totals = state.totals(*by)?;
                if *table {
                    buffer.extend_from_slice(totals_table(*by, totals.iter()).as_bytes());
                    return Ok(());
                }
                for (sum, total) in &totals {
                    buffer.extend_from_slice(total_line(*by, sum, total).to_string().as_bytes());
                    buffer.push(b'\n');
                }
            }
        }
        Ok(())
    }
}

fn stated(event: &Event<'_>) -> Result<StateRecord, NotOurs> {
    let data = StatedData::read(event.data()).map_err(NotOurs::because)?;
    let time = event.get("time").and_then(|time| time.parse().ok()).unwrap_or_default();
    let id = event.id().parse::<Uuid>().unwrap_or_default();
    let change = event.get("change").unwrap_or_default();
    Ok(data.record(id, time, event.revision(), change))
}

fn place(place: &Place, partitioned: bool) -> String {
    if partitioned { format!("{}/{}", place.partition, place.position) } else { place.position.to_string() }
}

/// What somebody else wrote moves no cursor.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn cut(text: &str) -> String {
    if text.chars().count() <= SERVICE {
        return text.to_owned();
    }
    text.chars().take(SERVICE - 1).chain(['…']).collect()
}

/// A row of the table that grows: its columns are as wide as they are, whatever follows.
fn row(buffer: &mut Vec<u8>, cells: [&str; 7], colour: Style) {
    let [place, time, period, service, change, revision, amount] = cells.map(plain);
    let change = format!("{colour}{change:<7}{colour:#}");
    let line = format!(
        "{place:>10}  {time:<20}  {period:<13}  {service:<SERVICE$}  {change}  {revision:>3}  {amount}\n"
    );
    buffer.extend_from_slice(line.as_bytes());
}

/// Every figure, or one where all are the same: `0.26 USD`.
fn amounts(amounts: &Amounts) -> String {
    let Some((_, first)) = amounts.first() else { return String::new() };
    if amounts.iter().all(|(_, amount)| amount == first) {
        return format!("{} {}", first.text(), first.unit());
    }
    let all: Vec<_> = amounts
        .iter()
        .map(|(metric, amount)| format!("{} {} {}", metric.member_name(), amount.text(), amount.unit()))
        .collect();
    all.join(", ")
}

fn key_line(view: &View, row: Published<'_>) -> Value {
    let key = row.key();
    let mut line = Map::new();
    let mut set = |name: &str, value: Value| line.insert(name.to_owned(), value);
    set("key", format!("{}/{key}", view.segment).into());
    set("revision", row.revision().into());
    set("date", key.period.aws_start().as_str().into());
    set("service", key.service.into());
    set("granularity", key.period.granularity().name().into());
    set("accountId", view.account().into());
    if let (Some(group_by), Some(group)) = (&view.group_by, key.group) {
        set("groups", json!({ group_by: group }));
    }
    set("source", view.source.clone().into());
    set("status", row.status().name().into());
    set("estimated", row.estimated().into());
    set("observedAt", row.observed_at().to_string().into());
    for (metric, amount) in row.amounts() {
        set(metric.member_name(), json!({ "amount": amount.text(), "unit": amount.unit() }));
    }
    line.into()
}

fn total_line(by: By, sum: &Sum, total: &Total) -> Value {
    let mut line = Map::new();
    let mut set = |name: &str, value: Value| line.insert(name.to_owned(), value);
    set(name(by), sum.of.clone().into());
    set("granularity", sum.granularity.name().into());
    set("metric", sum.metric.member_name().into());
    set("amount", total.amount.to_string().into());
    set("unit", sum.unit.clone().into());
    set("keys", total.keys.into());
    set("source", sum.source.clone().into());
    if let Some(group_by) = &sum.group_by {
        set("groupBy", group_by.clone().into());
    }
    if let Some(filter) = &sum.filter {
        set("filter", filter.clone().into());
    }
    line.into()
}

const fn name(by: By) -> &'static str {
    match by {
        By::Day => "day",
        By::Service => "service",
        By::Account => "account",
    }
}

fn keys_table(state: &Current) -> String {
    let mut rows = vec![["spend of", "service", "account", "rev", "state", "amount"].map(str::to_owned)];
    for (view, row) in state.keys() {
        let key = row.key();
        let service = match key.group {
            Some(group) if !group.is_empty() => format!("{} / {group}", key.service),
            _ => key.service.to_owned(),
        };
        let state = match (row.status(), row.estimated()) {
            (Status::Removed, _) => "removed",
            (Status::Live, true) => "estimated",
            (Status::Live, false) => "final",
        };
        rows.push([
            key.period.label().into(),
            plain(&service),
            plain(view.account()),
            row.revision().to_string(),
            state.to_owned(),
            amounts(&row.amounts()),
        ]);
    }
    table(&rows, &[3])
}

/// Views are told apart only where there are several.
fn totals_table<'a>(by: By, totals: impl Iterator<Item = (&'a Sum, &'a Total)> + Clone) -> String {
    let view = |sum: &Sum| {
        let parts = [Some(sum.source.clone()), sum.group_by.clone(), sum.filter.clone()];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    };
    let mut views = totals.clone().map(|(sum, _)| view(sum));
    let first = views.next();
    let several = views.any(|view| Some(view) != first);
    let last = if several { "view" } else { "" };
    let mut rows =
        vec![[name(by), "granularity", "metric", "amount", "unit", "keys", last].map(str::to_owned)];
    for (sum, total) in totals {
        rows.push([
            plain(&sum.of),
            sum.granularity.name().to_owned(),
            sum.metric.member_name().to_owned(),
            total.amount.to_string(),
            sum.unit.clone(),
            total.keys.to_string(),
            if several { view(sum) } else { String::new() },
        ]);
    }
    table(&rows, &[3, 5])
}

/// Rows in columns as wide as their widest cell; the columns named are flush right.
fn table<const N: usize>(rows: &[[String; N]], right: &[usize]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let written = if right.contains(&column) {
                write!(line, "{cell:>width$}  ")
            } else {
                write!(line, "{cell:<width$}  ")
            };
            written.expect("a string takes it");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
