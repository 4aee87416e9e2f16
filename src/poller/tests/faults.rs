//! Answers that do not come, or come by half: what they cost and how long they take.

use tokio::net::TcpListener;

use super::{
    server::{Answer, Server},
    *,
};
use crate::poller::RequestCounts;

async fn outcome(endpoint: &str) -> (String, CostExplorer) {
    let client = client_with(&connection(endpoint), &http_client(), SHORT).await;
    let error = client.page(&window(), None).await.unwrap_err();
    (rendered(&error).replace(endpoint, "http://server"), client)
}

async fn played(answer: Answer) -> String {
    let server = Server::start([answer]).await;
    let (text, client) = outcome(&server.url).await;
    let counts = client.requests();
    assert_eq!((counts.charged, counts.refused, counts.unsent), (0, 0, 0), "{counts:?}");
    assert_eq!(counts.unknown, server.requests().len() as u64);
    format!("{text}\n{} attempts, {} to pay", server.requests().len(), client.take_spent())
}

#[tokio::test]
async fn sent_without_an_answer_is_taken_as_charged() {
    insta::assert_snapshot!(played(Answer::Silent).await, @"
        unavailable -: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: no answer: timed out
        hint: nothing to do, the next poll asks again (this request is counted as charged): if it recurs, look at the way to `http://server`
        3 attempts, 3 to pay
        ");
    insta::assert_snapshot!(played(Answer::Closed).await, @"
        unavailable -: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: no answer: connection closed before message completed
        hint: nothing to do, the next poll asks again (this request is counted as charged): if it recurs, look at the way to `http://server`
        3 attempts, 3 to pay
        ");
}

#[tokio::test]
async fn half_an_answer_is_taken_as_charged() {
    insta::assert_snapshot!(played(Answer::Truncated).await, @"
        unavailable -: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: the answer broke off: end of file before message length reached
        hint: nothing to do, the next poll asks again (this request is counted as charged): if it recurs, look at the network or the proxy
        3 attempts, 3 to pay
        ");
    insta::assert_snapshot!(played(Answer::Stalled).await, @"
        unavailable -: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: no answer came in time
        hint: nothing to do, the next poll asks again (this request is counted as charged): if it recurs, look at the way to `http://server`
        3 attempts, 3 to pay
        ");
}

#[tokio::test]
async fn what_was_never_sent_is_free() {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", unused.local_addr().unwrap());
    drop(unused);
    let (text, client) = outcome(&url).await;
    insta::assert_snapshot!(text, @"
        unavailable -: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: no connection: Connection refused (os error 111)
        hint: check that this machine can reach `http://server` (firewall, route, proxy); nothing was sent or charged
        ");
    let counts = client.requests();
    assert_eq!((counts.charged, counts.refused, counts.unknown, counts.unsent), (0, 0, 0, 3));
    assert_eq!(client.take_spent(), 0);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_free() {
    let (text, client) = outcome("http://cost-explorer.invalid").await;
    // Where there is no DNS at all, the look-up takes as long as a connection may.
    insta::with_settings!({filters => vec![
        (r"no connection: .*|the endpoint's name could not be resolved: .*", "[not resolved]"),
        (r"hint: .*", "[hint]"),
    ]}, {
        insta::assert_snapshot!(text, @"
        unavailable -: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: [not resolved]
        [hint]
        ");
    });
    assert_eq!((client.requests().unsent, client.take_spent()), (3, 0));
}

#[tokio::test]
async fn an_endpoint_that_is_none_is_the_configurations_fault() {
    for endpoint in ["not a url", "http://[::1"] {
        let (text, client) = outcome(endpoint).await;
        assert!(text.starts_with("invalid -: "), "{text}");
        assert!(
            text.contains("the request could not be made: ") && text.contains("check `endpoint_url`"),
            "{text}"
        );
        assert_eq!((client.requests(), client.take_spent()), (RequestCounts::default(), 0));
    }
}

#[tokio::test]
async fn a_server_without_tls_is_free() {
    let server = Server::start([Answer::json("{}")]).await;
    let url = server.url.replace("http:", "https:");
    let (text, client) = outcome(&url).await;
    insta::assert_snapshot!(text, @"
        unavailable -: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: no connection: timed out
        hint: check that this machine can reach `http://server` (firewall, route, proxy); nothing was sent or charged
        ");
    assert_eq!((client.requests().unsent, client.take_spent()), (3, 0));
}

#[tokio::test]
async fn a_poll_that_nobody_waits_for_is_taken_as_charged() {
    let server = Server::start([Answer::Silent]).await;
    let client = client(&connection(&server.url)).await;
    let arrived = async {
        while server.requests().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    let window = window();
    tokio::select! {
        page = client.page(&window, None) => panic!("{page:?}"),
        () = arrived => {}
    }
    assert_eq!(client.requests().unknown, 1);
    assert_eq!(client.take_spent(), 1);
}

#[tokio::test]
async fn an_attempt_that_the_operations_time_cuts_off_is_counted_once() {
    let server = Server::start([Answer::Silent]).await;
    let timeouts = Timeouts { operation: Duration::from_millis(60), ..SHORT };
    let client = client_with(&connection(&server.url), &http_client(), timeouts).await;
    let error = client.page(&window(), None).await.unwrap_err();
    assert_eq!(error.kind.name(), "unavailable");
    assert_eq!((client.requests().unknown, client.take_spent()), (1, 1));
}

#[tokio::test]
async fn a_page_can_be_awaited_on_any_thread() {
    let server = Server::start([Answer::json("{}")]).await;
    let client = client(&connection(&server.url)).await;
    let page = tokio::spawn(async move { client.page(&window(), None).await }).await.unwrap();
    page.unwrap();
}

#[tokio::test]
async fn a_reset_on_a_kept_connection_is_taken_as_charged() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        for connection in 0..4 {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 8192];
            if connection == 0 {
                assert!(socket.read(&mut bytes).await.unwrap() > 0);
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
            }
            // The first bytes of the next request, and a reset.
            assert!(socket.read(&mut bytes[..1]).await.unwrap() > 0);
            socket.set_zero_linger().unwrap();
        }
    });
    let client = client(&connection(&url)).await;
    client.page(&window(), None).await.unwrap();
    client.page(&window(), None).await.unwrap_err();
    let counts = client.requests();
    assert_eq!((counts.charged, counts.unknown, counts.unsent), (1, 3, 0), "{counts:?}");
    server.abort();
}
