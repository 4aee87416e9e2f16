//! A running binary, its log as it grows, and its end. Killed when it is dropped; nobody else is.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    time::Instant,
};

use super::DEADLINE;

/// What stderr said so far.
#[derive(Default)]
struct Stderr {
    text: String,
    closed: bool,
}

/// A child of this test.
pub(crate) struct Running {
    child: Child,
    stderr: Arc<(Mutex<Stderr>, Condvar)>,
    /// Nobody reads it unless a test does.
    pub(crate) stdout: Option<ChildStdout>,
}

impl Running {
    pub(crate) fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = Arc::new((Mutex::new(Stderr::default()), Condvar::new()));
        let (pipe, shared) = (child.stderr.take().unwrap(), Arc::clone(&stderr));
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines() {
                let Ok(line) = line else { break };
                let mut said = shared.0.lock().unwrap();
                said.text.push_str(&line);
                said.text.push('\n');
                shared.1.notify_all();
            }
            shared.0.lock().unwrap().closed = true;
            shared.1.notify_all();
        });
        let stdout = child.stdout.take();
        Self { child, stderr, stdout }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What stderr said so far.
    pub(crate) fn said(&self) -> String {
        self.stderr.0.lock().unwrap().text.clone()
    }

    /// Waits for a line that holds a text, and returns it.
    pub(crate) fn wait_for(&self, text: &str) -> String {
        self.wait_for_all(text, 1).pop().unwrap()
    }

    /// Waits for so many lines that hold a text.
    pub(crate) fn wait_for_all(&self, text: &str, count: usize) -> Vec<String> {
        let found = self.wait_until(|said| said.closed || matching(&said.text, text).len() >= count);
        let lines = matching(&found, text);
        assert!(lines.len() >= count, "it never said `{text}` {count} times:\n{found}");
        lines
    }

    fn wait_until(&self, holds: impl Fn(&Stderr) -> bool) -> String {
        let began = Instant::now();
        let mut said = self.stderr.0.lock().unwrap();
        while !holds(&said) {
            let left = DEADLINE.saturating_sub(began.elapsed());
            assert!(!left.is_zero(), "waited in vain:\n{}", said.text);
            said = self.stderr.1.wait_timeout(said, left).unwrap().0;
        }
        said.text.clone()
    }

    /// Sends a signal by its name: `TERM`, `INT`.
    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// SIGKILL, now. Returns what stderr said.
    pub(crate) fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.wait_until(|said| said.closed)
    }

    /// Waits for its end: the exit code and everything stderr said.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let said = self.wait_until(|said| said.closed);
        (self.child.wait().unwrap().code(), said)
    }

    /// The address of the admin endpoints, once they are served.
    pub(crate) fn admin(&self) -> String {
        let line = self.wait_for("serving /livez");
        line.split("address=").nth(1).unwrap().split(' ').next().unwrap().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().unwrap_or_default();
            self.child.wait().map(drop).unwrap_or_default();
        }
    }
}

fn matching(said: &str, text: &str) -> Vec<String> {
    said.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
}

/// An HTTP GET: status line and headers, then the body.
pub(crate) fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}
