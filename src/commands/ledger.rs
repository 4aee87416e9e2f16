//! `ledger show`: the state as it is stored, one JSON object per key. It only reads.

use serde_json::{Map, Value, json};

use super::print;
use crate::{
    config::{Config, TransportConfig},
    dedup::ConnectionState,
    exit::{Exit, report},
    transport::{StateRecord, local::read_state},
};

/// Prints every key's revision and figures, by connection, period and service.
pub async fn show(config: &Config) -> Exit {
    let mut text = String::new();
    let mut exit = Exit::Done;
    let each = |scope: &str, connection: &ConnectionState, record: Option<&StateRecord>| {
        if let Some(record) = record {
            text.push_str(&line(scope, &connection.name, record).to_string());
            text.push('\n');
            if text.len() > 1 << 16 {
                exit = exit.max(print(&text));
                text.clear();
            }
        }
    };
    let read = match &config.transport {
        TransportConfig::Local(local) => read_state(&local.state, each),
        #[cfg(feature = "nats")]
        TransportConfig::Nats(nats) => crate::transport::nats::Nats::new(nats.clone()).read_state(each).await,
    };
    match read {
        Ok(()) => exit.max(print(&text)),
        Err(error) => {
            report(&error, error.hint.as_deref());
            Exit::from(&error)
        }
    }
}

fn line(scope: &str, connection: &str, record: &StateRecord) -> Value {
    let statement = &record.statement;
    let mut line = Map::new();
    line.insert("connection".to_owned(), connection.into());
    line.insert("scope".to_owned(), scope.into());
    line.insert("key".to_owned(), record.key().to_string().into());
    line.insert("service".to_owned(), (*record.service).into());
    if let Some(group) = &record.group {
        line.insert("group".to_owned(), (**group).into());
    }
    line.insert("revision".to_owned(), statement.revision.into());
    for (metric, amount) in &statement.amounts {
        let figure = json!({"amount": amount.text(), "unit": amount.unit()});
        line.insert(metric.member_name().to_owned(), figure);
    }
    line.insert("estimated".to_owned(), statement.estimated.into());
    line.insert("status".to_owned(), statement.status.name().into());
    line.insert("observedAt".to_owned(), statement.observed_at.to_string().into());
    line.insert("eventId".to_owned(), record.event_id.to_string().into());
    line.into()
}
