//! The local transport: SQLite holds state and outbox, JSON lines go to stdout or a file.
//!
//! 1. One transaction: the state of every key, the connection's state, the events in the outbox.
//! 2. The lines are written out; a file is synced.
//! 3. One transaction: the outbox is emptied, the file's length noted.
//!
//! Killed between 1 and 3, the next start writes the outbox out again, the same bytes. A file is
//! asked what it already holds, so it never gets an event twice; stdout cannot be asked.

mod output;
mod store;

use std::{
    collections::HashSet,
    io::Write,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use output::{LogFile, Output};
use store::Store;

use super::{Batch, Delivery, StateRecord, Transport, TransportError, TransportErrorKind as Kind};
use crate::{
    config::LocalConfig,
    dedup::{ConnectionState, Ledger},
    event::structured_json,
};

/// SQLite and a stream of JSON lines. Clones share both.
#[derive(Clone)]
pub struct Local(Arc<Mutex<Inner>>);

struct Inner {
    store: Store,
    output: Output,
    /// The scopes this process has written: a claim there is its own.
    written: HashSet<String>,
}

impl Inner {
    fn new(store: Store, output: Output) -> Self {
        Self { store, output, written: HashSet::new() }
    }
}

impl Local {
    /// Opens the state and the output as their only user.
    ///
    /// # Errors
    /// `InUse`, `Foreign`, `StateMissing`, or `Unavailable` where a file cannot be opened.
    pub fn connect(config: &LocalConfig) -> Result<Self, TransportError> {
        let store = Store::open(&config.state)?;
        let output = match &config.output {
            None => Output::stdout(),
            Some(path) => Output::File(LogFile::open(path, &store)?),
        };
        Ok(Self(Arc::new(Mutex::new(Inner::new(store, output)))))
    }

    /// What `check` may know. Where nothing was published yet, nothing is created either: the user
    /// who checks need not be the one who runs.
    ///
    /// # Errors
    /// As [`Local::connect`].
    pub async fn examine(config: &LocalConfig) -> Result<Vec<String>, TransportError> {
        if store::exists(&config.state)? {
            return match &config.output {
                // Rotated away, perhaps: the next event creates it, as whoever runs.
                Some(path) if !path.exists() => {
                    let output = output::probe(path)?;
                    let connections = Store::open(&config.state)?.connections()?.len();
                    Ok(vec![state_fact(connections), output])
                }
                _ => Self::connect(config)?.check().await,
            };
        }
        let state = store::probe(&config.state)?;
        let output = match &config.output {
            None => "output `stdout` can be written".to_owned(),
            Some(path) => output::probe(path)?,
        };
        Ok(vec![state, output])
    }

    /// As [`Local::connect`] with a stream of the caller's: a test's buffer.
    ///
    /// # Errors
    /// As [`Local::connect`].
    pub fn with_writer(state: &Path, writer: Box<dyn Write + Send>) -> Result<Self, TransportError> {
        let store = Store::open(state)?;
        let output = Output::Stream { name: "the output", writer };
        Ok(Self(Arc::new(Mutex::new(Inner::new(store, output)))))
    }

    /// SQLite and files block, and stdout may for ever: never on an async worker.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Inner) -> Result<T, TransportError> + Send + 'static,
    ) -> Result<T, TransportError> {
        let inner = Arc::clone(&self.0);
        let run = move || work(&mut *lock(&inner)?);
        match tokio::task::spawn_blocking(run).await {
            Ok(result) => result,
            Err(e) => Err(TransportError::new(Kind::Unknown, format!("the local transport failed: {e}"))),
        }
    }
}

fn lock(inner: &Mutex<Inner>) -> Result<MutexGuard<'_, Inner>, TransportError> {
    inner
        .lock()
        .map_err(|_| TransportError::new(Kind::Unknown, "an earlier write of the local transport failed"))
}

impl Transport for Local {
    async fn recover(&self, scope: &str, ledger: &mut Ledger) -> Result<ConnectionState, TransportError> {
        let scope = scope.to_owned();
        let mut taken = std::mem::take(ledger);
        let (taken, state) = self
            .blocking(move |inner| {
                inner.output.drain(&mut inner.store)?;
                let mut state = inner.store.recover(&scope, &mut taken)?;
                if !inner.written.contains(&scope) {
                    // Whoever left a claim is gone: this process holds the lock.
                    state.claim = None;
                }
                Ok((taken, state))
            })
            .await?;
        *ledger = taken;
        Ok(state)
    }

    async fn publish(&self, batch: Batch) -> Result<Vec<Delivery>, TransportError> {
        self.blocking(move |inner| {
            inner.store.expect_end(&batch.scope, batch.recovered_to)?;
            let mut events = Vec::with_capacity(batch.events.len());
            for outgoing in batch.events {
                let line = structured_json(outgoing.event()).map_err(|e| {
                    TransportError::new(Kind::Rejected, format!("could not encode an event: {e}"))
                })?;
                events.push((outgoing.record, line));
            }
            let numbers = inner.store.commit(&batch.scope, &batch.connection, &events)?;
            drop(events);
            inner.written.insert(batch.scope);
            // Stored from here on: whatever fails now, the outbox has the events.
            inner
                .output
                .drain(&mut inner.store)
                .map_err(|error| TransportError { kind: Kind::Unknown, ..error })?;
            Ok(numbers.into_iter().map(Delivery::Stored).collect())
        })
        .await
    }

    async fn connections(&self) -> Result<Vec<(String, ConnectionState)>, TransportError> {
        self.blocking(|inner| inner.store.connections()).await
    }

    async fn check(&self) -> Result<Vec<String>, TransportError> {
        self.blocking(|inner| {
            let connections = inner.store.connections()?.len();
            let waiting = inner.store.outbox()?.len();
            Ok(vec![
                state_fact(connections),
                format!("output `{}` can be written, {waiting} events wait for it", inner.output.name()),
            ])
        })
        .await
    }

    async fn close(&self) -> Result<(), TransportError> {
        self.blocking(|inner| inner.store.checkpoint()).await
    }

    fn comes_back(&self) -> bool {
        false
    }

    fn name(&self) -> &'static str {
        "local"
    }
}

fn state_fact(connections: usize) -> String {
    format!("the state is writable and holds {connections} connections")
}

/// Reads a state file beside the process that may be running on it.
///
/// `each` gets every connection once, then every record of it by period and service.
///
/// # Errors
/// `Foreign`, or `Unavailable` where there is no state.
pub fn read_state(
    path: &Path,
    mut each: impl FnMut(&str, &ConnectionState, Option<&StateRecord>),
) -> Result<(), TransportError> {
    let db = store::read_only(path)?;
    for (scope, connection) in store::read_connections(&db, path)? {
        each(&scope, &connection, None);
        store::read_records(&db, path, &scope, |record| each(&scope, &connection, Some(record)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
