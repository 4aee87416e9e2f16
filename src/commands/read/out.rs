//! What is shown, on its way to stdout: written by a thread of its own, so that a reader that has
//! stopped reading holds up nothing else.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::exit::{Exit, report};

/// So much is written at once.
const CHUNK: usize = 64 * 1024;

/// After a signal a reader that does not read is waited for no longer than this.
const GRACE: Duration = Duration::from_secs(1);

/// A buffer before stdout, and the thread behind it.
pub(super) struct Out {
    /// What is to be written next.
    pub(super) buffer: Vec<u8>,
    chunks: mpsc::Sender<Vec<u8>>,
    /// How many chunks were handed over, and how many are written.
    passed: u64,
    written: watch::Receiver<u64>,
    writer: JoinHandle<io::Result<()>>,
}

impl Out {
    pub(super) fn stdout() -> Self {
        let (chunks, mut waiting) = mpsc::channel::<Vec<u8>>(4);
        let (done, written) = watch::channel(0);
        let writer = tokio::task::spawn_blocking(move || {
            let mut stdout = io::stdout().lock();
            while let Some(chunk) = waiting.blocking_recv() {
                stdout.write_all(&chunk)?;
                stdout.flush()?;
                done.send_modify(|count| *count += 1);
            }
            Ok(())
        });
        Self { buffer: Vec::with_capacity(2 * CHUNK), chunks, passed: 0, written, writer }
    }

    pub(super) fn is_full(&self) -> bool {
        self.buffer.len() >= CHUNK
    }

    /// Whether nobody takes what is written any more.
    pub(super) fn is_broken(&self) -> bool {
        self.chunks.is_closed()
    }

    /// Hands over what is buffered. Dropped before its end, it has done nothing.
    pub(super) async fn pass(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        // Nothing is taken out of the buffer before there is room: this may be dropped while it waits.
        if let Ok(room) = self.chunks.reserve().await {
            room.send(std::mem::replace(&mut self.buffer, Vec::with_capacity(2 * CHUNK)));
            self.passed += 1;
        }
    }

    /// Waits until everything is written; false where it is not.
    pub(super) async fn settle(&mut self, shutdown: &CancellationToken) -> bool {
        let all = async {
            self.pass().await;
            let passed = self.passed;
            self.written.wait_for(|written| *written >= passed).await.is_ok()
        };
        let given_up = async {
            shutdown.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            settled = all => settled,
            () = given_up => false,
        }
    }

    /// Writes the rest. A reader that has enough is no failure.
    pub(super) async fn finish(mut self, shutdown: &CancellationToken) -> Exit {
        self.settle(shutdown).await;
        let Self { chunks, writer, .. } = self;
        drop(chunks);
        match timeout(GRACE, writer).await {
            Ok(Ok(Err(error))) if error.kind() != io::ErrorKind::BrokenPipe => {
                report(&format!("could not write to stdout: {error}"), None);
                Exit::Failed
            }
            _ => Exit::Done,
        }
    }
}
