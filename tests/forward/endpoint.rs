//! An endpoint that does what a test tells it, and remembers what it got.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::to_bytes,
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// An event as an endpoint sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    pub id: String,
    pub key: String,
    pub revision: u64,
}

/// A request, and what became of it.
#[derive(Clone, Debug)]
pub struct Call {
    /// From 0.
    pub number: usize,
    pub path: String,
    pub headers: HeaderMap,
    pub events: Vec<Got>,
    pub began: Instant,
    /// Once it is answered.
    pub answered: Option<(Instant, u16)>,
}

/// What a test wants.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: &'static str,
    pub after: Duration,
}

/// 204, at once.
pub fn taken() -> Answer {
    answer(204)
}

/// This status, at once.
pub fn answer(status: u16) -> Answer {
    Answer { status, headers: Vec::new(), body: "", after: Duration::ZERO }
}

impl Answer {
    pub fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub fn says(self, body: &'static str) -> Self {
        Self { body, ..self }
    }
}

type Behaviour = dyn Fn(&Call) -> Answer + Send + Sync;

#[derive(Default)]
struct Log {
    calls: Vec<Call>,
    /// How many requests of a key are under way, and were at once at most.
    under_way: HashMap<String, usize>,
    most_of_a_key: usize,
    most: usize,
}

struct Inner {
    behaviour: Box<Behaviour>,
    log: Mutex<Log>,
}

/// Listens until it is dropped.
pub struct Endpoint {
    inner: Arc<Inner>,
    port: u16,
    _runtime: Runtime,
}

impl Endpoint {
    pub fn start(behaviour: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Self {
        Self::on(0, behaviour)
    }

    pub fn on(port: u16, behaviour: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Self {
        let inner = Arc::new(Inner { behaviour: Box::new(behaviour), log: Mutex::default() });
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", port))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().fallback(handle).with_state(Arc::clone(&inner));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { inner, port, _runtime: runtime }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/events", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Every request so far.
    pub fn calls(&self) -> Vec<Call> {
        self.inner.log.lock().unwrap().calls.clone()
    }

    /// Every event that was taken, in the order of the answers.
    pub fn taken(&self) -> Vec<Got> {
        let mut calls = self.calls();
        calls.retain(|call| call.answered.is_some_and(|(_, status)| status / 100 == 2));
        calls.sort_by_key(|call| call.answered);
        calls.into_iter().flat_map(|call| call.events).collect()
    }

    /// How many requests there were at once: of one key at most, and at all at most.
    pub fn at_once(&self) -> (usize, usize) {
        let log = self.inner.log.lock().unwrap();
        (log.most_of_a_key, log.most)
    }
}

/// Per key the revisions that were taken, in their order.
pub fn by_key(taken: &[Got]) -> BTreeMap<&str, Vec<u64>> {
    let mut keys: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for got in taken {
        keys.entry(&got.key).or_default().push(got.revision);
    }
    keys
}

/// That every key's revisions came, from 1 to the last, none before the one before it; how many came
/// more than once.
pub fn assert_complete(taken: &[Got], keys: usize, revisions: u64) -> usize {
    let by_key = by_key(taken);
    assert_eq!(by_key.len(), keys);
    for (key, came) in &by_key {
        let mut highest = 0;
        for revision in came {
            assert!(*revision <= highest + 1, "{key}: {revision} came before {}: {came:?}", highest + 1);
            highest = highest.max(*revision);
        }
        assert_eq!(highest, revisions, "{key}: {came:?}");
    }
    let distinct: BTreeSet<_> = taken.iter().map(|got| &got.id).collect();
    assert_eq!(distinct.len() as u64, keys as u64 * revisions, "an event is one id");
    taken.len() - distinct.len()
}

async fn handle(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, 64 * 1024 * 1024).await else {
        // The process that sent it was killed.
        return StatusCode::BAD_REQUEST.into_response();
    };
    let mut call = Call {
        number: 0,
        path: parts.uri.to_string(),
        events: events(&parts.headers, &body),
        headers: parts.headers,
        began: Instant::now(),
        answered: None,
    };
    {
        let mut log = inner.log.lock().unwrap();
        call.number = log.calls.len();
        let keys: BTreeSet<_> = call.events.iter().map(|got| got.key.clone()).collect();
        for key in keys {
            let count = log.under_way.entry(key).or_default();
            *count += 1;
            let count = *count;
            log.most_of_a_key = log.most_of_a_key.max(count);
        }
        log.calls.push(call.clone());
        let under_way = log.calls.iter().filter(|call| call.answered.is_none()).count();
        log.most = log.most.max(under_way);
    }
    let answer = (inner.behaviour)(&call);
    tokio::time::sleep(answer.after).await;
    {
        let mut log = inner.log.lock().unwrap();
        let keys: BTreeSet<_> = call.events.iter().map(|got| got.key.clone()).collect();
        for key in keys {
            *log.under_way.get_mut(&key).unwrap() -= 1;
        }
        log.calls[call.number].answered = Some((Instant::now(), answer.status));
    }
    let mut response = (StatusCode::from_u16(answer.status).unwrap(), answer.body).into_response();
    for (name, value) in answer.headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

/// The events of a request in any mode.
fn events(headers: &HeaderMap, body: &[u8]) -> Vec<Got> {
    let content_type = headers["content-type"].to_str().unwrap();
    let events = match content_type {
        "application/cloudevents+json" => vec![serde_json::from_slice(body).unwrap()],
        "application/cloudevents-batch+json" => serde_json::from_slice(body).unwrap(),
        "application/json" => {
            let header = |name: &str| headers[name].to_str().unwrap().to_owned();
            vec![json!({
                "id": header("ce-id"),
                "partitionkey": header("ce-partitionkey"),
                "revision": header("ce-revision").parse::<u64>().unwrap(),
            })]
        }
        other => panic!("{other}"),
    };
    let got = |event: &Value| Got {
        id: event["id"].as_str().unwrap().to_owned(),
        key: event["partitionkey"].as_str().unwrap().to_owned(),
        revision: event["revision"].as_u64().unwrap(),
    };
    events.iter().map(got).collect()
}
