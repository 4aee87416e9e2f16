//! A server that plays canned answers, one per request, and keeps what it was asked.
//!
//! Requests beyond the last answer get that answer again. It stops when it is dropped.

use std::sync::{Arc, Mutex};

use jiff::SignedDuration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::clock::Clock;

/// A `Date` so far from this machine's clock. The SDK itself looks at it: far off, it corrects its
/// own clock and tries refusals again.
pub(super) fn date(ahead: SignedDuration) -> String {
    let instant = Clock::system().now() + ahead;
    instant.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// The headers of an ordinary answer.
pub(super) fn dated() -> Vec<(&'static str, String)> {
    vec![("date", date(SignedDuration::ZERO))]
}

/// What the server does with one request.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// Status, further header lines, body.
    Http(u16, Vec<(&'static str, String)>, String),
    /// Headers that promise more than the body that follows, and then the end.
    Truncated,
    /// Headers and half of the body, and then nothing more.
    Stalled,
    /// The request is read and the connection closed.
    Closed,
    /// The request is read and never answered.
    Silent,
}

impl Answer {
    pub(super) fn json(body: &str) -> Self {
        Self::Http(200, dated(), body.to_owned())
    }

    /// An error as AWS writes it.
    pub(super) fn error(status: u16, code: &str, message: &str) -> Self {
        let body = serde_json::json!({ "__type": code, "Message": message });
        let mut headers = dated();
        headers.push(("x-amzn-requestid", "11111111-2222".to_owned()));
        Self::Http(status, headers, body.to_string())
    }

    pub(super) fn html(status: u16) -> Self {
        let mut headers = dated();
        headers.push(("content-type", "text/html".to_owned()));
        Self::Http(status, headers, "<html><body>hello</body></html>".to_owned())
    }
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// Lower-case names.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Server {
    pub(super) async fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let answers: Vec<_> = answers.into_iter().collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                open.spawn(serve(socket, answers.clone(), Arc::clone(&kept)));
            }
        });
        Self { url, requests, task }
    }

    /// Everything asked so far, in order.
    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request per connection: every answer closes it.
async fn serve(mut socket: TcpStream, answers: Vec<Answer>, kept: Arc<Mutex<Vec<Request>>>) {
    let Some(request) = read_request(&mut socket).await else { return };
    let answer = {
        let mut kept = kept.lock().unwrap();
        kept.push(request);
        answers[(kept.len() - 1).min(answers.len() - 1)].clone()
    };
    let text = match &answer {
        Answer::Closed => return,
        Answer::Silent => return std::future::pending::<()>().await,
        Answer::Http(status, headers, body) => {
            let mut text = format!("HTTP/1.1 {status} -\r\n");
            for (name, value) in headers {
                text.extend([name, ": ", value, "\r\n"]);
            }
            text + &format!("content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
        }
        Answer::Truncated | Answer::Stalled => {
            let date = date(SignedDuration::ZERO);
            format!("HTTP/1.1 200 OK\r\ndate: {date}\r\ncontent-length: 4000\r\n\r\n{{\"ResultsByTime\":[")
        }
    };
    let written = socket.write_all(text.as_bytes()).await;
    if written.is_ok() && matches!(answer, Answer::Stalled) {
        std::future::pending::<()>().await;
    }
}

async fn read_request(socket: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if bytes.len() > 65_536 || socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).ok()?;
    let headers: Vec<_> = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length: usize =
        headers.iter().find(|(name, _)| name == "content-length").map_or(Some(0), |(_, v)| v.parse().ok())?;
    while bytes.len() < head + 4 + length {
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8(bytes[head + 4..head + 4 + length].to_vec()).ok()?;
    Some(Request { headers, body })
}
