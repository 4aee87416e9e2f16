//! The programs of other languages, fetched and built by `tests/foreign/fetch`.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use crate::broker::target;

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What `tests/foreign/fetch` made of this name; called once, it fetches what is missing.
fn fetched(name: &str) -> PathBuf {
    static FETCHED: OnceLock<()> = OnceLock::new();
    FETCHED.get_or_init(|| {
        let fetch = Command::new("bash").arg(repository("tests/foreign/fetch")).output().unwrap();
        assert!(fetch.status.success(), "{}", String::from_utf8_lossy(&fetch.stderr));
    });
    target().join("foreign").join(name)
}

/// Python with this script.
pub fn python(script: &str) -> Command {
    let mut command = Command::new(fetched("python/bin/python"));
    command.arg("-u").arg(repository(script));
    command
}

/// Node.js with a script, which lies beside its modules.
pub fn javascript(script: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(fetched(script));
    command
}

/// A program of Go.
pub fn go(program: &str) -> Command {
    Command::new(fetched(program))
}

/// Java with a single source file and the jars of this folder, as the examples' headers say it.
pub fn java(jars: &str, source: &str) -> Command {
    let mut command = Command::new("java");
    command.args(["-Xmx256m", "-cp"]).arg(fetched(jars).join("lib/*")).arg(repository(source));
    command
}

/// A program that runs until it is dropped, which kills it as a power cut would.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// In this folder, where its output goes to a file of this name.
    pub fn start(mut command: Command, folder: &Path, name: &str) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).unwrap();
        command.current_dir(folder).stdin(Stdio::null());
        command.stdout(file.try_clone().unwrap()).stderr(file);
        Self { child: command.spawn().unwrap(), log }
    }

    /// Everything said under its name.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<i32> {
        self.child.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
    }

    /// Asks it to end, and waits for it: its exit code.
    pub fn stop(mut self) -> Option<i32> {
        let asked = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(asked.success());
        let mut code = None;
        crate::wait_until("it ends", || {
            code = self.ended();
            code.is_some()
        });
        code
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
