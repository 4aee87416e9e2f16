//! A real Apache Kafka, one node, started by the tests and ended with them, whatever ends them.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

#[path = "../support/ports.rs"]
pub(crate) mod ports;

use ports::free_port;

/// A running broker. Dropped, it is killed and its data removed.
pub struct Broker {
    pub port: u16,
    folder: PathBuf,
    child: Child,
    jvm: Jvm,
}

/// What a broker's Java is told beside the usual.
#[derive(Clone, Default)]
pub struct Jvm {
    /// Such as `-Dname=value`.
    pub options: Vec<String>,
    /// A folder of further classes.
    pub classes: Option<PathBuf>,
    /// A command and its arguments before Java itself, which run it somewhere else.
    pub within: Vec<String>,
}

impl Broker {
    /// The broker that all tests share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(|| Self::start("", &[]))
    }

    /// A broker of the caller's own, with further lines for its `server.properties`, in which `{port}`
    /// and `{controller}` stand for its ports, and further arguments for formatting its storage.
    pub fn start(more: &str, format: &[&str]) -> Self {
        Self::start_with(more, format, Jvm::default(), None)
    }

    /// The same, with a Java told more, and its data in another place than the build folder.
    pub fn start_with(more: &str, format: &[&str], jvm: Jvm, data: Option<&Path>) -> Self {
        let folder = folder();
        let (port, controller) = (free_port(), free_port());
        let data = data.map_or_else(|| folder.join("data"), Path::to_path_buf);
        let mut properties = format!(
            "process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.cleaner.backoff.ms=500
auto.create.topics.enable=true
",
            data.display()
        );
        let more = more.replace("{port}", &port.to_string());
        properties.push_str(&more.replace("{controller}", &controller.to_string()));
        let file = folder.join("server.properties");
        fs::write(&file, properties).unwrap();
        let formatted = java_with(&jvm)
            .args(["kafka.tools.StorageTool", "format", "--standalone", "-t", "MkU3OEVBNTcwNTJENDM2Qg"])
            .arg("-c")
            .arg(&file)
            .args(format)
            .output()
            .unwrap();
        assert!(formatted.status.success(), "{}", String::from_utf8_lossy(&formatted.stderr));
        let child = run(&file, &folder, &jvm);
        let broker = Self { port, folder, child, jvm };
        broker.wait();
        broker
    }

    /// Ends it at once, as a power cut would end its process.
    pub fn kill(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }

    /// Starts it again on its data.
    pub fn restart(&mut self) {
        self.child = run(&self.folder.join("server.properties"), &self.folder, &self.jvm);
        self.wait();
    }

    /// What the broker wrote to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub fn servers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_mins(3);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = || fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "the broker did not start:\n{}", log());
            super::pause(Duration::from_millis(100));
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// The broker, and beside it a shell that kills it once this process is gone: its end closes the pipe.
pub fn run(properties: &Path, folder: &Path, jvm: &Jvm) -> Child {
    let log = fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
    let mut java = java_with(jvm);
    java.arg("kafka.Kafka").arg(properties);
    Command::new("sh")
        .args(["-c", "\"$0\" \"$@\" </dev/null & p=$!; cat >/dev/null; kill -9 $p; wait"])
        .arg(java.get_program())
        .args(java.get_args())
        .stdin(Stdio::piped())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Java with the broker's jars, which `tests/brokers/fetch` puts there.
pub fn java() -> Command {
    java_with(&Jvm::default())
}

fn java_with(jvm: &Jvm) -> Command {
    let mut classpath = jars().into_os_string();
    if let Some(classes) = &jvm.classes {
        classpath.push(":");
        classpath.push(classes);
    }
    let mut java = match jvm.within.split_first() {
        Some((command, arguments)) => {
            let mut within = Command::new(command);
            within.args(arguments).arg("java");
            within
        }
        None => Command::new("java"),
    };
    java.args(["-Xmx512m", "-XX:TieredStopAtLevel=1"]).args(&jvm.options).arg("-cp").arg(classpath);
    java
}

/// The broker's jars, as a class path takes them.
pub fn jars() -> PathBuf {
    let jars = target().join("brokers/kafka-4.3.0/lib");
    assert!(jars.is_dir(), "no Apache Kafka in {}: run `bash tests/brokers/fetch`", jars.display());
    jars.join("*")
}

/// A new folder for a broker.
pub fn folder() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = target().join(format!("brokers/run-{}-{number}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

pub fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target")
}
