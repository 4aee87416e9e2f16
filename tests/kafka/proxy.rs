//! A loopback proxy between clients and a real broker that knows where one request ends: it stops, cuts,
//! loses answers and delays at a named place of the protocol.
//!
//! The broker tells its clients the proxy's address, so nothing passes beside it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
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

use crate::broker::{Broker, Jvm, ports::free_port};

/// Requests by their number in the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Api {
    Produce = 0,
    /// Records for a consumer.
    Fetch = 1,
    /// Where a log begins or ends.
    ListOffsets = 2,
    /// The fence.
    InitProducerId = 22,
    /// The first record of a transaction for a partition.
    AddPartitionsToTxn = 24,
    /// Commit or abort.
    EndTxn = 26,
}

/// A place in what passes: the nth request of a kind since the plan was made, or the answer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Before(Api, usize),
    After(Api, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing passes any more, on any connection, in any direction.
    Stop,
    /// What was to pass is lost, and every connection with it.
    Cut,
}

#[derive(Default)]
struct Plan {
    fault: Option<(Place, Fault)>,
    seen: HashMap<(i16, bool), usize>,
}

#[derive(Clone, Copy, Default)]
struct Gate {
    stopped: bool,
    /// Connections of an earlier generation are closed.
    generation: u64,
    /// How often a planned fault was made.
    reached: usize,
}

struct Shared {
    upstream: SocketAddr,
    plan: Mutex<Plan>,
    gate: watch::Sender<Gate>,
    requests: AtomicU64,
    delay: Mutex<Duration>,
}

/// A broker behind a proxy.
pub struct Proxied {
    pub broker: Broker,
    pub servers: String,
    shared: Arc<Shared>,
}

impl Proxied {
    pub async fn start(more: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let behind = free_port();
        let properties = format!(
            "listeners=PLAINTEXT://127.0.0.1:{{port}},PROXIED://127.0.0.1:{behind},CONTROLLER://127.0.0.1:{{controller}}
advertised.listeners=PLAINTEXT://127.0.0.1:{{port}},PROXIED://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
{more}
"
        );
        let broker = Broker::start_with(&properties, &[], Jvm::default(), None);
        let shared = Arc::new(Shared {
            upstream: SocketAddr::from(([127, 0, 0, 1], behind)),
            plan: Mutex::default(),
            gate: watch::Sender::default(),
            requests: AtomicU64::new(0),
            delay: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(Arc::clone(&accepting), client));
            }
        });
        Self { broker, servers: format!("127.0.0.1:{port}"), shared }
    }

    /// Makes the fault once, at this place counted from now.
    pub fn plan(&self, place: Place, fault: Fault) {
        *self.shared.plan.lock().unwrap() = Plan { fault: Some((place, fault)), seen: HashMap::new() };
    }

    /// Whether a planned fault was made since the last [`Proxied::pass`] or [`Proxied::go_on`].
    pub fn reached(&self) -> bool {
        self.shared.gate.borrow().reached > 0
    }

    /// Everything passes again: new connections, and the old ones are closed.
    pub fn pass(&self) {
        *self.shared.plan.lock().unwrap() = Plan::default();
        self.shared.gate.send_modify(|gate| {
            *gate = Gate { stopped: false, generation: gate.generation + 1, reached: 0 };
        });
    }

    /// What was stopped goes on as if nothing had been.
    pub fn go_on(&self) {
        self.shared.gate.send_modify(|gate| (gate.stopped, gate.reached) = (false, 0));
    }

    pub fn delay(&self, by: Duration) {
        *self.shared.delay.lock().unwrap() = by;
    }

    /// How many requests have passed.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }
}

async fn connection(shared: Arc<Shared>, client: TcpStream) {
    let mut gate = shared.gate.subscribe();
    let generation = gate.borrow_and_update().generation;
    let Ok(broker) = TcpStream::connect(shared.upstream).await else { return };
    client.set_nodelay(true).ok();
    broker.set_nodelay(true).ok();
    let (from_client, to_client) = client.into_split();
    let (from_broker, to_broker) = broker.into_split();
    // Correlation ids of the requests that are not answered, with their kind.
    let asked = Arc::new(Mutex::new(HashMap::new()));
    let requests = pump(Arc::clone(&shared), from_client, to_broker, Arc::clone(&asked), true);
    let answers = pump(Arc::clone(&shared), from_broker, to_client, asked, false);
    let ended = gate.wait_for(|gate| gate.generation != generation);
    tokio::select! { _ = requests => {}, _ = answers => {}, _ = ended => {} }
}

/// Passes on whole requests, or whole answers.
async fn pump(
    shared: Arc<Shared>,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    asked: Arc<Mutex<HashMap<[u8; 4], i16>>>,
    requests: bool,
) -> std::io::Result<()> {
    loop {
        let length = from.read_u32().await?;
        let mut frame = vec![0; usize::try_from(length).unwrap()];
        from.read_exact(&mut frame).await?;
        let api = if requests {
            let (api, id) = (i16::from_be_bytes([frame[0], frame[1]]), frame[4..8].try_into().unwrap());
            shared.requests.fetch_add(1, Ordering::SeqCst);
            asked.lock().unwrap().insert(id, api);
            Some(api)
        } else {
            asked.lock().unwrap().remove::<[u8; 4]>(&frame[0..4].try_into().unwrap())
        };
        let delay = *shared.delay.lock().unwrap();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        match api.and_then(|api| planned(&shared, api, requests)) {
            None => {}
            Some(Fault::Stop) => shared.gate.send_modify(|gate| {
                gate.stopped = true;
                gate.reached += 1;
            }),
            Some(Fault::Cut) => {
                shared.gate.send_modify(|gate| {
                    gate.generation += 1;
                    gate.reached += 1;
                });
                return Ok(());
            }
        }
        shared.gate.subscribe().wait_for(|gate| !gate.stopped).await.ok();
        to.write_u32(length).await?;
        to.write_all(&frame).await?;
    }
}

fn planned(shared: &Shared, api: i16, request: bool) -> Option<Fault> {
    let mut plan = shared.plan.lock().unwrap();
    let count = plan.seen.entry((api, request)).or_default();
    *count += 1;
    let count = *count;
    let (place, fault) = plan.fault?;
    let here = match place {
        Place::Before(of, nth) => request && api == of as i16 && count == nth,
        Place::After(of, nth) => !request && api == of as i16 && count == nth,
    };
    if here {
        plan.fault = None;
    }
    here.then_some(fault)
}
