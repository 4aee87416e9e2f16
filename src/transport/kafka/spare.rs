//! Producers made and fenced ahead, while AWS is asked or the next rows are compared.
//!
//! Making one takes a tenth of a second: it connects while the transaction before it is still written, and
//! is fenced as soon as that is committed. Its fence is early, not its proof: that the log has not moved is
//! proven when the batch is there, and a rival that fenced since is noticed by the first record.

use std::{
    collections::HashMap,
    ops::RangeInclusive,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{runtime::Handle, task::JoinHandle};

use super::{client::Clients, lock, producer::Producer};
use crate::transport::{TransportError, TransportErrorKind as Kind};

/// So long one is kept: a page of AWS takes seconds. After that nothing of a poll is left at the broker.
const KEPT: Duration = Duration::from_secs(30);

/// A broker ends a transaction after it has acknowledged the commit: markers in each partition, then its own
/// record. A fence that comes before is refused, and librdkafka repeats it half a second later. So it waits as
/// long as two more steps like the commit may take.
const ENDING: RangeInclusive<Duration> = Duration::from_millis(5)..=Duration::from_millis(100);

pub(super) type Making = JoinHandle<Result<Producer, TransportError>>;

/// At most one per `transactional.id`.
#[derive(Default)]
pub(super) struct Spares(Arc<Mutex<HashMap<String, Making>>>);

impl Spares {
    /// Fences one that was connected, or is being connected; the commit before it took so long.
    pub(super) fn fence(&self, clients: &Clients, id: String, connecting: Making, commit: Duration) {
        let (clients, of) = (clients.clone(), id.clone());
        let making = tokio::spawn(async move {
            let failed = |e| TransportError::new(Kind::Unknown, format!("a producer was not made: {e}"));
            tokio::time::sleep((2 * commit).clamp(*ENDING.start(), *ENDING.end())).await;
            let connected = connecting.await.map_err(failed)??;
            let fence = move || clients.fence(&of, connected);
            tokio::task::spawn_blocking(fence).await.map_err(failed)?
        });
        let number = making.id();
        if let Some(old) = lock(&self.0).insert(id.clone(), making) {
            let_go(old);
        }
        let spares = Arc::clone(&self.0);
        tokio::spawn(async move {
            tokio::time::sleep(KEPT).await;
            let mut spares = lock(&spares);
            if spares.get(&id).is_some_and(|spare| spare.id() == number) {
                spares.remove(&id).into_iter().for_each(let_go);
            }
        });
    }

    /// Whether one is still being made.
    pub(super) fn is_coming(&self, id: &str) -> bool {
        lock(&self.0).get(id).is_some_and(|making| !making.is_finished())
    }

    /// The one that was made, if it came to anything.
    pub(super) fn take(&self, id: &str) -> Option<Producer> {
        let making = lock(&self.0).remove(id)?;
        Handle::current()
            .block_on(making)
            .ok()?
            .inspect_err(|e| tracing::debug!("no spare producer: {e}"))
            .ok()
    }

    pub(super) fn clear(&self) {
        lock(&self.0).drain().for_each(|(_, spare)| let_go(spare));
    }
}

/// Begins to connect one, while the transaction before it goes on.
pub(super) fn connect(clients: &Clients, id: &str, largest: Option<&str>) -> Making {
    let (clients, id, largest) = (clients.clone(), id.to_owned(), largest.map(str::to_owned));
    tokio::task::spawn_blocking(move || clients.connected(&id, largest.as_deref(), false))
}

/// Lets go of a client elsewhere: it waits for its threads.
pub(super) fn let_go<T: Send + 'static>(client: T) {
    tokio::task::spawn_blocking(move || drop(client));
}
