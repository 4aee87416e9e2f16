//! The environment's proxy between the program and AWS.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    thread,
};

use crate::support::{Aws, Home};

/// A proxy that lets nobody through; its threads collect the heads of the requests it was sent.
fn proxy(requests: usize) -> (u16, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let heads = thread::spawn(move || {
        let answer = |stream: std::io::Result<std::net::TcpStream>| {
            let stream = stream.unwrap();
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
            (&stream).write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").unwrap();
            head.join("\n").to_lowercase()
        };
        listener.incoming().take(requests).map(answer).collect()
    });
    (port, heads)
}

/// `https` goes through it, with user and password, which are told to nobody else.
#[test]
fn aws_is_asked_through_the_proxy_of_the_environment() {
    for name in ["HTTPS_PROXY", "all_proxy"] {
        let (port, heads) = proxy(1);
        let home = Home::on("https://ce.example.com");
        let mut command = home.command(["check", "--config", "billing.toml", "--connect"]);
        let output = command.env(name, format!("http://user:s3cret@127.0.0.1:{port}")).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(69), "{said}");
        assert!(!said.contains("s3cret"), "{said}");
        let heads = heads.join().unwrap();
        assert!(heads[0].starts_with("connect ce.example.com:443 http/1.1"), "{heads:?}");
        // `user:s3cret`
        assert!(heads[0].contains("proxy-authorization: basic dxnlcjpzm2nyzxq="), "{heads:?}");
    }
}

/// What is excepted, and what is plain HTTP, goes without it: nobody is there to ask.
#[test]
fn a_simulator_is_asked_directly() {
    let aws = Aws::now();
    let home = Home::on(&aws.url());
    let mut command = home.command(["run", "--config", "billing.toml", "--once"]);
    command.env("HTTPS_PROXY", "http://127.0.0.1:9").env("HTTP_PROXY", "http://127.0.0.1:9");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(aws.charged(), 1);
}

/// What cannot be a proxy is said, and nothing of it shown.
#[test]
fn a_proxy_that_is_no_url_is_said() {
    let aws = Aws::now();
    let home = Home::on(&aws.url());
    let mut command = home.command(["run", "--config", "billing.toml", "--once"]);
    let output = command.env("HTTPS_PROXY", "http://us er:s3cret@proxy").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("`HTTPS_PROXY`) is no URL"), "{said}");
    assert!(!said.contains("s3cret"), "{said}");
}
