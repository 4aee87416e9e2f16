//! A terminal that the binary runs on as its own, what it shows, and keys.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    process::{Child, Command},
    sync::{Arc, Condvar, Mutex},
    time::Instant,
};

use rustix::{
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

use super::{DEADLINE, eventually};

/// The session's first process outlives the program: with its end the terminal is hung up, and what
/// was not read yet is lost.
const LEADER: &str = "trap : INT TERM; \"$@\"; echo \"[ended $?]\"; read _";

#[derive(Default)]
struct Shown {
    /// Without escape sequences.
    text: String,
    closed: bool,
}

/// A child on a terminal of its own. Killed when it is dropped.
pub(crate) struct Pty {
    child: Child,
    keyboard: File,
    shown: Arc<(Mutex<Shown>, Condvar)>,
    /// How much of it was looked at.
    seen: usize,
}

impl Pty {
    pub(crate) fn spawn(command: &Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let size = Winsize { ws_row: 50, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).unwrap();
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = || File::from(ioctl_tiocgptpeer(&master, flags).unwrap());
        // A session of its own, so that Ctrl-C reaches it and nobody else.
        let mut session = Command::new("setsid");
        session
            .args(["--ctty", "sh", "-c", LEADER, "sh"])
            .arg(command.get_program())
            .args(command.get_args());
        session.env_clear().current_dir(command.get_current_dir().unwrap());
        session.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        session.env("TERM", "xterm");
        let child = session.stdin(slave()).stdout(slave()).stderr(slave()).spawn().unwrap();
        drop(session);
        let mut screen = File::from(master);
        let keyboard = screen.try_clone().unwrap();
        let shown = Arc::new((Mutex::new(Shown::default()), Condvar::new()));
        let shared = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let mut buffer = [0; 4096];
            // The terminal ends with an error once nobody has it open any more.
            while let Ok(count @ 1..) = screen.read(&mut buffer) {
                bytes.extend_from_slice(&buffer[..count]);
                shared.0.lock().unwrap().text = plain(&String::from_utf8_lossy(&bytes));
                shared.1.notify_all();
            }
            shared.0.lock().unwrap().closed = true;
            shared.1.notify_all();
        });
        Self { child, keyboard, shown, seen: 0 }
    }

    /// Waits until a text is shown behind what was waited for before.
    pub(crate) fn expect(&mut self, text: &str) {
        let began = Instant::now();
        let mut shown = self.shown.0.lock().unwrap();
        loop {
            if let Some(place) = shown.text.get(self.seen..).and_then(|rest| rest.find(text)) {
                self.seen += place + text.len();
                return;
            }
            let left = DEADLINE.saturating_sub(began.elapsed());
            assert!(!left.is_zero() && !shown.closed, "`{text}` was never shown:\n{}", shown.text);
            shown = self.shown.1.wait_timeout(shown, left).unwrap().0;
        }
    }

    /// Waits for a question and answers it; `\r` is Enter.
    pub(crate) fn answer(&mut self, question: &str, keys: &str) {
        self.expect(question);
        self.keys(keys);
    }

    /// The same where what is typed is not shown: keys that come before the terminal is set to that
    /// are thrown away.
    pub(crate) fn answer_hidden(&mut self, question: &str, keys: &str) {
        self.expect(question);
        eventually("the terminal stops showing what is typed", || !self.echoes());
        self.keys(keys);
    }

    pub(crate) fn keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Whether the terminal shows what is typed, line by line: as a shell's commands expect it.
    pub(crate) fn echoes(&self) -> bool {
        let modes = tcgetattr(&self.keyboard).unwrap().local_modes;
        modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }

    /// Waits for its end: the exit code and everything that was shown.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        self.expect("[ended ");
        self.expect("]");
        let text = self.shown.0.lock().unwrap().text.clone();
        let (shown, end) = text.rsplit_once("[ended ").unwrap();
        (end.trim_end().trim_end_matches(']').parse().ok(), shown.to_owned())
    }

    /// Sends a signal by its name to everything that runs there, as a terminal does.
    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} -{}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().unwrap_or_default();
            self.child.wait().map(drop).unwrap_or_default();
        }
    }
}

/// Without escape sequences (`ESC [ ... letter`) and carriage returns.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\x1b' => drop(rest.by_ref().skip(1).find(char::is_ascii_alphabetic)),
            '\r' => {}
            c => plain.push(c),
        }
    }
    plain
}
