//! What the tests stand on: a home of files, a simulated AWS, the running binary, the events it wrote.

pub(crate) mod aws;
pub(crate) mod events;
pub(crate) mod home;
#[cfg(target_os = "linux")]
pub(crate) mod pty;
pub(crate) mod running;

pub(crate) use aws::Aws;
pub(crate) use events::Log;
pub(crate) use home::{Connection, Home, Ran, SECRET, TOKEN, transcript};
pub(crate) use running::Running;

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use tokio::runtime::{Builder, Runtime};

/// Longer than anything here takes, even beside a compiler; then a test has failed.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// Where simulators run, and what runs in this process.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap())
}

/// Waits until something holds, and fails where it never does.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < DEADLINE, "never happened: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}
