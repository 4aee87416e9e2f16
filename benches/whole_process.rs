//! The program as it is deployed: time to the first request and event, memory, CPU.
//!
//! Starts the real binary against an answering server in this process and reads what Linux counts
//! of it in `/proc`. Nothing is averaged but the times to start, of which there are many. A program other
//! than the one cargo builds with this, which has the features of the tests' dependencies in it, is named
//! by its path: `cargo bench --bench whole_process -- ./program`.

#![allow(clippy::float_arithmetic, reason = "times are floats, and no money is counted here")]
#![allow(clippy::disallowed_methods, reason = "what is idle is found out by waiting")]
#![allow(clippy::print_stdout, reason = "the figures are what was asked for")]

mod support;

use std::{
    fmt,
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use jiff::civil::Date;
use support::{SERVICES, Shape};

/// As the first argument with a slash in it says, or as cargo built it. It is started in other folders.
fn program() -> PathBuf {
    match std::env::args().skip(1).find(|argument| argument.contains('/')) {
        Some(named) => fs::canonicalize(named).expect("a program to measure"),
        None => PathBuf::from(env!("CARGO_BIN_EXE_amazon-billing-source")),
    }
}

/// How often the program is started to see how long it takes.
const STARTS: usize = 21;

fn main() {
    // `cargo test --benches` has nothing to learn here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    starts();
    idle();
    polls(50_000, 400);
    polls(150_000, 400);
}

/// From the start of the process to its first request, and to its first event on stdout.
fn starts() {
    let mut requests = Vec::new();
    let mut events = Vec::new();
    for _ in 0..STARTS {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let server = Server::start(2_000, 1);
        let config = config(folder.path(), &format!("http://{}", server.addr), "-");
        let start = Instant::now();
        let mut child = Running(run(&config).stdout(Stdio::piped()).spawn().expect("the binary starts"));
        let mut line = String::new();
        let stdout = child.0.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("an event");
        events.push(start.elapsed());
        assert!(line.starts_with("{\"specversion\""), "{line}");
        let first = server.requests.recv().expect("the event came of a request");
        requests.push(first.duration_since(start));
    }
    println!("start to first request   {} ms (median of {STARTS})", milliseconds(&mut requests));
    println!("start to first event     {} ms (median of {STARTS})", milliseconds(&mut events));
}

fn milliseconds(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    format!(
        "{:.1}, least {:.1}, most {:.1}",
        milliseconds(times[times.len() / 2]),
        milliseconds(times[0]),
        milliseconds(times[times.len() - 1])
    )
}

/// Waiting for the next poll, after one of the simulated company.
fn idle() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut simulate = Command::new(program());
    simulate.args(["simulate", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut simulator = Running(simulate.spawn().expect("the binary starts"));
    let mut line = String::new();
    BufReader::new(simulator.0.stdout.take().expect("a pipe")).read_line(&mut line).expect("its address");
    let url = line.trim().strip_prefix("listening on ").expect("its address");
    let config = config(folder.path(), url, "events.jsonl").with_interval("8h");
    let mut child = Running(run(&config).spawn().expect("the binary starts"));
    let finished = follow(&mut child);
    let cycle = finished.recv().expect("a cycle");
    thread::sleep(Duration::from_secs(1));
    println!("idle after a poll        {} ({})", Usage::of(&child), cycle);
}

/// A first poll in which every row is new, a second in which nothing changed, and one after a restart.
fn polls(rows: usize, pages: usize) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(rows, pages);
    let config = config(folder.path(), &format!("http://{}", server.addr), "events.jsonl");
    println!("\n{rows} rows in {pages} pages");

    let mut child = Running(run(&config).spawn().expect("the binary starts"));
    let finished = follow(&mut child);
    let cycle = finished.recv().expect("a cycle");
    let first = Usage::of(&child);
    println!("  every row new          {first} ({cycle})");
    let cycle = finished.recv().expect("another cycle");
    let second = Usage::of(&child);
    println!("  nothing new            {} ({cycle})", second.since(&first));
    drop(child);

    let mut child = Running(run(&config).spawn().expect("the binary starts"));
    let cycle = follow(&mut child).recv().expect("a cycle");
    println!("  nothing new, restarted {} ({cycle})", Usage::of(&child));
    let lines =
        BufReader::new(File::open(folder.path().join("events.jsonl")).expect("events")).lines().count();
    assert_eq!(lines, rows, "every row once");
}

/// Reads the program's log to its end; every finished cycle is sent on.
fn follow(child: &mut Running) -> Receiver<String> {
    let (sender, receiver) = channel();
    let stderr = child.0.stderr.take().expect("a pipe");
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if let Some((_, counts)) = line.split_once("cycle finished") {
                let counts = counts.trim().split_once(' ').map_or("", |(_, counts)| counts).to_owned();
                if sender.send(counts).is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

/// What Linux counts of a process.
#[derive(Debug)]
struct Usage {
    /// Kilobytes, as `VmRSS` and `VmHWM`: now, and at most so far.
    resident: u64,
    peak: u64,
    /// Of the resident ones: not mapped from the binary or another file.
    anonymous: u64,
    /// User and system time.
    cpu: Duration,
}

impl Usage {
    fn of(child: &Running) -> Self {
        let folder = format!("/proc/{}", child.0.id());
        let status = fs::read_to_string(format!("{folder}/status")).expect("Linux, and the process runs");
        let kilobytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field of `status`");
            line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().expect("a number")
        };
        let stat = fs::read_to_string(format!("{folder}/stat")).expect("Linux, and the process runs");
        // After the name in parentheses; the first of these is the third field.
        let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
        let ticks = |field: usize| fields[field - 3].parse::<u64>().expect("a number");
        Self {
            resident: kilobytes("VmRSS"),
            peak: kilobytes("VmHWM"),
            anonymous: kilobytes("RssAnon"),
            // A tick of `stat` is 10 ms on every Linux.
            cpu: Duration::from_millis((ticks(14) + ticks(15)) * 10),
        }
    }

    /// The same with the CPU time since another reading.
    fn since(&self, earlier: &Self) -> Self {
        Self { cpu: self.cpu.saturating_sub(earlier.cpu), ..*self }
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |kilobytes: u64| Duration::from_millis(kilobytes).as_secs_f64() * 1024.0 / 1000.0;
        write!(
            f,
            "resident {:.1} MB, of it {:.1} MB anonymous, peak {:.1} MB, CPU {:.2} s",
            megabytes(self.resident),
            megabytes(self.anonymous),
            megabytes(self.peak),
            self.cpu.as_secs_f64()
        )
    }
}

/// A process that ends with its scope.
#[derive(Debug)]
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().expect("the process runs until it is killed");
        self.0.wait().expect("a process of ours");
    }
}

/// A configuration file and its folder.
struct Config<'a> {
    folder: &'a Path,
    text: String,
}

impl Config<'_> {
    fn with_interval(self, interval: &str) -> Self {
        Self { text: self.text.replace("interval = \"1s\"", &format!("interval = \"{interval}\"")), ..self }
    }
}

fn config<'a>(folder: &'a Path, url: &str, output: &str) -> Config<'a> {
    let text = format!(
        r#"
poll.interval = "1s"
budget.requests_per_day = 0
admin.listen = ""

[[connections]]
name = "bench"
account_id = "111122223333"
group_by = ["LINKED_ACCOUNT"]
endpoint_url = "{url}"

[connections.credentials]
kind = "keys"
access_key_id = "AKIAIOSFODNN7EXAMPLE"
secret_access_key = "any-secret-will-do"

[local]
output = "{output}"
state = "state.db"
"#
    );
    Config { folder, text }
}

fn run(config: &Config<'_>) -> Command {
    let path = config.folder.join("billing.toml");
    fs::write(&path, &config.text).expect("a writable folder");
    let mut command = Command::new(program());
    command.args(["run", "--config"]).arg(path).current_dir(config.folder);
    command.env_remove("RUST_LOG").env("NO_COLOR", "1");
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Answers like Cost Explorer, always with the same rows.
struct Server {
    addr: SocketAddr,
    /// When each request had arrived.
    requests: Receiver<Instant>,
}

impl Server {
    fn start(rows: usize, pages: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let (sender, requests) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let sender = sender.clone();
                thread::spawn(move || answer(&stream, &sender, rows, pages));
            }
        });
        Self { addr, requests }
    }
}

fn answer(stream: &TcpStream, requests: &Sender<Instant>, rows: usize, pages: usize) {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        if requests.send(Instant::now()).is_err() {
            return;
        }
        let request: serde_json::Value = serde_json::from_slice(&body).expect("a request in JSON");
        let page = page(&request, rows, pages);
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {}\r\n\r\n",
            page.len()
        );
        if writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(page.as_bytes())).is_err() {
            return;
        }
    }
}

/// The page that is asked for: the rows are spread over whatever days the window has.
fn page(request: &serde_json::Value, rows: usize, pages: usize) -> String {
    let date = |name: &str| -> Date {
        request["TimePeriod"][name].as_str().and_then(|text| text.parse().ok()).expect("a date")
    };
    let days = usize::try_from((date("End") - date("Start")).get_days()).expect("end after start");
    let shape = Shape { from: date("Start"), days, accounts: rows.div_ceil(days * SERVICES.len()) };
    let first = request["NextPageToken"].as_str().map_or(0, |token| token.parse().expect("a token of ours"));
    let last = (first + rows.div_ceil(pages)).min(rows);
    shape.answer(first, last - first, 0, (last < rows).then_some(last))
}
