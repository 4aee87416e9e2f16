//! `ledger show`: the state as it is stored, one JSON object per key. It only reads.

use serde_json::{Map, Value, json};

use super::print;
use crate::{
    config::{Config, TransportConfig},
    exit::{Exit, report},
    transport::{StateRecord, local::read_state},
};

/// Prints every key's revision and figures, by connection, period and service.
pub async fn show(config: &Config) -> Exit {
    let mut out = Out { text: String::new(), exit: Exit::Done };
    let read = match &config.transport {
        TransportConfig::Local(local) => read_state(&local.state, |scope, connection, record| {
            if let Some(record) = record {
                out.line(scope, &connection.name, record);
            }
        }),
        #[cfg(feature = "kafka")]
        TransportConfig::Kafka(kafka) => show_kafka(kafka, &mut out).await,
        #[cfg(feature = "nats")]
        TransportConfig::Nats(nats) => {
            let each =
                |scope: &str, connection: &crate::dedup::ConnectionState, record: Option<&StateRecord>| {
                    if let Some(record) = record {
                        out.line(scope, &connection.name, record);
                    }
                };
            crate::transport::nats::Nats::new(nats.clone()).read_state(each).await
        }
    };
    match read {
        Ok(()) => out.exit.max(print(&out.text)),
        Err(error) => {
            report(&error, error.hint.as_deref());
            Exit::from(&error)
        }
    }
}

#[cfg(feature = "kafka")]
async fn show_kafka(
    config: &crate::config::KafkaConfig,
    out: &mut Out,
) -> Result<(), crate::transport::TransportError> {
    let kafka = crate::transport::kafka::Kafka::connect(config)?;
    for (scope, connection, records) in kafka.read_state().await? {
        for record in records {
            out.line(&scope, &connection.name, &record);
        }
    }
    Ok(())
}

/// Lines on their way to stdout.
struct Out {
    text: String,
    exit: Exit,
}

impl Out {
    fn line(&mut self, scope: &str, connection: &str, record: &StateRecord) {
        self.text.push_str(&line(scope, connection, record).to_string());
        self.text.push('\n');
        if self.text.len() > 1 << 16 {
            self.exit = self.exit.max(print(&self.text));
            self.text.clear();
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
