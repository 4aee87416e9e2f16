//! A loopback proxy between client and server: it counts, delays, swallows and cuts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

pub(crate) struct Proxy {
    pub(crate) port: u16,
    shared: Arc<Shared>,
    cut: watch::Sender<u32>,
}

#[derive(Default)]
struct Shared {
    /// Nothing more of the server's gets through, but so many bytes.
    deaf: AtomicBool,
    grace: AtomicUsize,
    /// How late the server's words come.
    delay_millis: AtomicU64,
    /// Bytes of the server's that got through.
    passed: AtomicU64,
    /// Events on their way that no acknowledgement has got through for, now and at most.
    in_flight: AtomicI64,
    most_in_flight: AtomicI64,
}

/// Occurrences of a text in a stream that comes in pieces.
struct Counter {
    text: &'static [u8],
    rest: Vec<u8>,
}

impl Counter {
    const fn of(text: &'static [u8]) -> Self {
        Self { text, rest: Vec::new() }
    }

    fn count(&mut self, piece: &[u8]) -> i64 {
        self.rest.extend_from_slice(piece);
        let found = self.rest.windows(self.text.len()).filter(|window| *window == self.text).count();
        // What may be the beginning of another one; too short to hold one already counted.
        let keep = self.rest.len().saturating_sub(self.text.len() - 1);
        self.rest.drain(..keep);
        i64::try_from(found).unwrap()
    }
}

impl Proxy {
    pub(crate) async fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let (cut, watch) = watch::channel(0);
        let of_all = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { continue };
                let (shared, mut cut) = (Arc::clone(&of_all), watch.clone());
                cut.mark_unchanged();
                tokio::spawn(async move {
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::select! {
                        () = shared.up(from_client, to_server) => {}
                        () = shared.down(from_server, to_client) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { port, shared, cut }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// From now on only so many bytes of the server's get through.
    pub(crate) fn swallow(&self, grace: usize) {
        self.shared.grace.store(grace, Ordering::Relaxed);
        self.shared.deaf.store(true, Ordering::Relaxed);
    }

    /// Everything gets through again; connections that lost something end.
    pub(crate) fn heal(&self) {
        self.shared.deaf.store(false, Ordering::Relaxed);
        self.cut.send_modify(|cuts| *cuts += 1);
    }

    /// From now on the server's words come so late.
    pub(crate) fn delay(&self, by: Duration) {
        self.shared.delay_millis.store(u64::try_from(by.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// How many events were at most on their way without an acknowledgement.
    pub(crate) fn most_in_flight(&self) -> i64 {
        self.shared.most_in_flight.load(Ordering::Relaxed)
    }

    /// Bytes of the server's that got through so far.
    pub(crate) fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::Relaxed)
    }
}

impl Shared {
    async fn up(&self, mut from_client: OwnedReadHalf, mut to_server: OwnedWriteHalf) {
        let (mut buffer, mut events) = ([0; 16_384], Counter::of(b"HPUB aws.cost."));
        while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
            let events = events.count(&buffer[..count]);
            let now = self.in_flight.fetch_add(events, Ordering::Relaxed) + events;
            self.most_in_flight.fetch_max(now, Ordering::Relaxed);
            if to_server.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    }

    async fn down(&self, mut from_server: OwnedReadHalf, mut to_client: OwnedWriteHalf) {
        let (mut buffer, mut acknowledgements) = ([0; 2048], Counter::of(b"\"stream\":\"BILLING\""));
        while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
            let pass = !self.deaf.load(Ordering::Relaxed)
                || self
                    .grace
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(count))
                    .is_ok();
            if !pass {
                continue;
            }
            let delay = self.delay_millis.load(Ordering::Relaxed);
            if delay > 0 {
                tokio::time::sleep(Duration::from_millis(delay)).await;
            }
            // Counted before it is let go: the client may answer at once.
            self.in_flight.fetch_sub(acknowledgements.count(&buffer[..count]), Ordering::Relaxed);
            if to_client.write_all(&buffer[..count]).await.is_err() {
                return;
            }
            self.passed.fetch_add(count as u64, Ordering::Relaxed);
        }
    }
}
