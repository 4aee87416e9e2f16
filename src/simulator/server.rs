//! The wire: requests of awsJson 1.1 and of STS's Query protocol on one port, faults, and the bill.
//!
//! What an answer says is decided elsewhere.

use std::sync::{Arc, atomic::Ordering};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, DefaultBodyLimit, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode},
    response::Response,
};
use jiff::{SignedDuration, Timestamp, tz::Offset};
use serde_json::Value;
use tokio::net::TcpListener;
use uuid::Uuid;

use super::{
    Shared,
    answer::{self, Bucket, Page, Position},
    auth::{self, Caller},
    book, control,
    fault::{Fault, Subject},
    query::{self, Query},
    refusal::Refusal,
    sts,
    wire::{Allowance, CuttableListener},
};
use crate::{
    clock::Clock,
    cost::{Amount, CostMetric},
};

const JSON: &str = "application/x-amz-json-1.1";
const TARGET: &str = "AWSInsightsIndexService.GetCostAndUsage";
const HTML: &str = "<html><head><title>503</title></head><body><h1>Service Unavailable</h1></body></html>\n";
/// Bytes of a response's head, a little more than it has.
const HEAD: usize = 300;
/// The longest request body; AWS's own limits are far below.
const MAX_BODY: usize = 1 << 20;

/// Serves until the shutdown token is cancelled and every connection is closed.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let shutdown = shared.shutdown.clone();
    let router = Router::new().fallback(handle).layer(DefaultBodyLimit::max(MAX_BODY)).with_state(shared);
    let service = router.into_make_service_with_connect_info::<Allowance>();
    let serving =
        axum::serve(CuttableListener(listener), service).with_graceful_shutdown(shutdown.cancelled_owned());
    if let Err(error) = serving.await {
        tracing::error!(%error, "simulator stopped serving");
    }
}

/// What every answer of AWS carries.
struct Reply<'a> {
    shared: &'a Shared,
    id: String,
    date: Timestamp,
}

async fn handle(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(allowance): ConnectInfo<Allowance>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, MAX_BODY).await else {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
        return response;
    };
    if let Some(path) = head.uri.path().strip_prefix("/_simulator/") {
        return control::answer(&shared, &head.method, path, &body);
    }
    let serial = shared.serial.fetch_add(1, Ordering::SeqCst);
    let name = format!("{}/{serial}", shared.options.seed);
    let id = crate::event::uuid_v5(Uuid::NAMESPACE_OID, name.as_bytes()).to_string();
    let reply = Reply { shared: &shared, id, date: shared.clock.now() };
    if head.method != "POST" || head.uri.path() != "/" {
        return reply.respond(404, "text/plain", "this is a simulated AWS endpoint: POST /\n".to_owned());
    }
    let form = header(&head.headers, "content-type").starts_with("application/x-www-form-urlencoded");
    if form {
        reply.security_token(&head.headers, &body, &allowance).await
    } else {
        reply.cost_explorer(&head.headers, &body, &allowance).await
    }
}

impl Reply<'_> {
    async fn cost_explorer(mut self, headers: &HeaderMap, body: &Bytes, allowance: &Allowance) -> Response {
        let caller = match auth::authenticate(headers, "ce") {
            Ok(caller) => caller,
            Err(refusal) => return self.refuse(&refusal),
        };
        if header(headers, "x-amz-target") != TARGET || !header(headers, "content-type").starts_with(JSON) {
            return self.refuse(&Refusal::new("UnknownOperationException", ""));
        }
        let json: Option<Value> = serde_json::from_slice(body).ok();
        let granularity = json.as_ref().and_then(|json| query::granularity(json).ok());
        let subject = Subject { account: &caller.account, granularity, sts: false };
        let faults = self.shared.faults.take(subject);
        tracing::debug!(account = caller.account, ?faults, "cost explorer is asked");
        if let Some(response) = self.wire_fault(&faults, &caller, allowance).await {
            return response;
        }
        for fault in &faults {
            if let Fault::Stale { hours } = fault {
                let age = SignedDuration::from_hours(i64::from(*hours));
                self.date = self.date.saturating_sub(age).unwrap_or(Timestamp::MIN);
            }
        }
        let text = match self.page(&caller, body, &faults) {
            Ok(text) => text,
            Err(refusal) => return self.refuse(&refusal),
        };
        self.shared.bill.charge(&caller.account);
        let mut text = text;
        match faults.first() {
            Some(Fault::Empty) => "{}".clone_into(&mut text),
            Some(Fault::Truncated) => {
                let mut half = text.len() / 2;
                while !text.is_char_boundary(half) {
                    half -= 1;
                }
                text.truncate(half);
            }
            Some(Fault::Reset) => allowance.cut_after(0),
            Some(Fault::Cut) => allowance.cut_after(HEAD + text.len() / 2),
            _ => {}
        }
        if faults.contains(&Fault::NumericAmount) {
            text = numeric(&text);
        }
        self.respond(200, JSON, text)
    }

    /// A fault that stands for the whole answer, if the faults hold one that does so before AWS
    /// has looked at the request.
    async fn wire_fault(&self, faults: &[Fault], caller: &Caller, allowance: &Allowance) -> Option<Response> {
        let fault = faults.first()?;
        if let Some(refusal) = fault.refusal(&caller.account) {
            return Some(if caller.service == "sts" {
                self.refuse_sts(&refusal)
            } else {
                self.refuse(&refusal)
            });
        }
        let charge = || {
            if caller.service == "ce" {
                self.shared.bill.charge(&caller.account);
            }
        };
        match fault {
            Fault::TooManyRequests | Fault::Unavailable | Fault::Html => {
                let (status, text) = match fault {
                    Fault::TooManyRequests => (429, ""),
                    Fault::Unavailable => (503, HTML),
                    _ => (200, HTML),
                };
                if caller.service == "ce" {
                    self.shared.bill.refuse(&status.to_string());
                }
                Some(self.respond(status, "text/html", text.to_owned()))
            }
            Fault::Stall => {
                charge();
                self.shared.shutdown.cancelled().await;
                allowance.cut_after(0);
                Some(self.respond(500, JSON, String::new()))
            }
            _ => None,
        }
    }

    /// The page that a request asks for.
    fn page(&self, caller: &Caller, body: &[u8], faults: &[Fault]) -> Result<String, Refusal> {
        let shared = self.shared;
        let query = Query::parse(body, shared.limits())?;
        let payer = &caller.account;
        let seed = shared.options.seed;
        let mut position = Position { offset: 0, at: self.date.as_second() };
        if let Some(token) = &query.token {
            position = answer::position(&query, payer, seed, token)?;
        }
        let at = Timestamp::from_second(position.at).unwrap_or(self.date);
        let currency = if caller.region.starts_with("cn-") { "CNY" } else { "USD" };
        let mut buckets = shared.buckets(&query, payer, currency, at);
        for fault in faults {
            change(&mut buckets, fault);
        }
        let (size, length) = (shared.options.page_size.max(1), answer::length(&buckets));
        let mut offset = position.offset;
        let following = Position { offset: offset.saturating_add(size), at: position.at };
        let endless = faults.contains(&Fault::EndlessPages);
        let next = if faults.contains(&Fault::RepeatedToken) {
            let first = || answer::token(&query, payer, seed, following);
            Some(query.token.clone().unwrap_or_else(first))
        } else {
            let more = endless || following.offset < length;
            more.then(|| answer::token(&query, payer, seed, following))
        };
        if offset >= length {
            // Past the end: wrapped around for pages without end, the last page for a repeated token.
            offset = if endless { offset % length.max(1) / size * size } else { length.saturating_sub(size) };
        }
        let names = book::linked_accounts(payer);
        Ok(answer::render(&query, &buckets, &Page { offset, size, next }, &names))
    }

    async fn security_token(self, headers: &HeaderMap, body: &Bytes, allowance: &Allowance) -> Response {
        self.shared.bill.sts();
        let caller = match auth::authenticate(headers, "sts") {
            Ok(caller) => caller,
            Err(refusal) => return self.refuse_sts(&refusal),
        };
        let subject = Subject { account: &caller.account, granularity: None, sts: true };
        let faults = self.shared.faults.take(subject);
        if let Some(response) = self.wire_fault(&faults, &caller, allowance).await {
            return response;
        }
        if faults.contains(&Fault::Reset) {
            allowance.cut_after(0);
        }
        // Clients compare expirations with the machine's clock, whatever the simulated one shows.
        let now = self.shared.clock.now().max(Clock::system().now());
        let form = String::from_utf8_lossy(body);
        match sts::answer(&form, &caller, self.shared.options.external_id.as_deref(), now, &self.id) {
            Ok(xml) => self.respond(200, "text/xml", xml),
            Err(refusal) => self.refuse_sts(&refusal),
        }
    }

    fn refuse(&self, refusal: &Refusal) -> Response {
        self.shared.bill.refuse(&refusal.code);
        self.respond(refusal.status, JSON, refusal.to_json())
    }

    fn refuse_sts(&self, refusal: &Refusal) -> Response {
        self.respond(refusal.status, "text/xml", sts::error(refusal, &self.id))
    }

    fn respond(&self, status: u16, content_type: &'static str, text: String) -> Response {
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert("content-type", HeaderValue::from_static(content_type));
        let date = Offset::UTC.to_datetime(self.date).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        for (name, value) in [("date", &date), ("x-amzn-requestid", &self.id)] {
            headers.insert(name, HeaderValue::from_str(value).expect("digits and letters"));
        }
        response
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Applies a fault of the data to the rows.
fn change(buckets: &mut [Bucket], fault: &Fault) {
    for bucket in buckets {
        match fault {
            Fault::NoRows => bucket.rows = Arc::default(),
            Fault::DropService { service } => {
                let rows = bucket.rows.iter().filter(|row| row.keys.first() != Some(service));
                bucket.rows = Arc::new(rows.cloned().collect());
            }
            Fault::Change { service, add } => {
                let rows = Arc::make_mut(&mut bucket.rows);
                let named =
                    |row: &&mut answer::Row| service.is_none() || row.keys.first() == service.as_ref();
                for row in rows.iter_mut().filter(named) {
                    for (_, figure) in row.figures.iter_mut().filter(|(metric, _)| is_money(*metric)) {
                        let amount = Amount::parse(figure.amount.clone(), String::new());
                        if let Ok(amount) = amount {
                            figure.amount = (amount.value() + *add).normalize().to_string();
                        }
                    }
                }
            }
            _ => {}
        }
    }
}

fn is_money(metric: CostMetric) -> bool {
    !matches!(metric, CostMetric::NormalizedUsageAmount | CostMetric::UsageQuantity)
}

/// The first amount as a JSON number.
fn numeric(text: &str) -> String {
    const MEMBER: &str = "\"Amount\":\"";
    let Some((before, rest)) = text.split_once(MEMBER) else {
        return text.to_owned();
    };
    let (amount, after) = rest.split_once('"').unwrap_or((rest, ""));
    format!("{before}\"Amount\":{amount}{after}")
}
