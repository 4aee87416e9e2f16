//! What scripts steer the simulator with, under `/_simulator/`; no part of AWS's protocol.

use axum::{
    body::{Body, Bytes},
    http::{Method, StatusCode},
    response::Response,
};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Shared, fault::Injection};

/// Answers a request under `/_simulator/`.
pub(super) fn answer(shared: &Shared, method: &Method, path: &str, body: &Bytes) -> Response {
    let (status, json) = match (method.as_str(), path) {
        ("GET", "bill") => (StatusCode::OK, shared.bill.bill().to_json()),
        ("GET", "clock") => (StatusCode::OK, json!({"now": shared.clock.now()})),
        ("GET", "faults") => (StatusCode::OK, json!({"pending": shared.faults.pending()})),
        ("DELETE", "faults") => {
            shared.faults.clear();
            (StatusCode::OK, json!({"pending": 0}))
        }
        ("POST", "faults") => match injections(body) {
            Ok(injections) => {
                for injection in injections {
                    shared.faults.inject(injection);
                }
                (StatusCode::OK, json!({"pending": shared.faults.pending()}))
            }
            Err(error) => (StatusCode::BAD_REQUEST, json!({"error": error.to_string()})),
        },
        ("POST", "clock") => set_clock(shared, body),
        (_, "bill" | "clock" | "faults") => {
            (StatusCode::METHOD_NOT_ALLOWED, json!({"error": "wrong method"}))
        }
        _ => (StatusCode::NOT_FOUND, json!({"error": "there are `bill`, `clock` and `faults`"})),
    };
    let mut response = Response::new(Body::from(format!("{json}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", "application/json".parse().expect("a plain header value"));
    response
}

/// One injection or a list of them.
fn injections(body: &Bytes) -> serde_json::Result<Vec<Injection>> {
    let json: Value = serde_json::from_slice(body)?;
    if json.is_array() { serde_json::from_value(json) } else { Ok(vec![serde_json::from_value(json)?]) }
}

fn set_clock(shared: &Shared, body: &Bytes) -> (StatusCode, Value) {
    #[derive(Deserialize)]
    struct Setting {
        now: Timestamp,
    }
    match serde_json::from_slice::<Setting>(body) {
        Err(error) => (StatusCode::BAD_REQUEST, json!({"error": error.to_string()})),
        Ok(Setting { now }) => {
            shared.clock.set(now);
            let shown = shared.clock.now();
            if shown.as_second() == now.as_second() {
                (StatusCode::OK, json!({"now": shown}))
            } else {
                (StatusCode::CONFLICT, json!({"error": "this clock goes by itself", "now": shown}))
            }
        }
    }
}
