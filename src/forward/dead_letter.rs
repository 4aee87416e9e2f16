//! Where events go that the endpoint did not take: a file, a topic or a subject.
//!
//! An event is in it, durably, before the position passes it. After a crash, or an acknowledgement that
//! was lost, it may be in it twice.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;

use super::{endpoint::Failure, lanes::Ticket};
use crate::{
    config::{LocalConfig, TransportConfig},
    transport::{TransportError, TransportErrorKind as Kind},
};

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeadLetterTarget {
    /// A file, one JSON object a line.
    File(PathBuf),
    /// A topic of the Kafka cluster the events are read from.
    Topic(String),
    /// A subject of the NATS server the events are read from.
    Subject(String),
}

impl DeadLetterTarget {
    /// Reads `topic:NAME`, `subject:NAME`, or else the path of a file.
    ///
    /// # Errors
    /// When there is no name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let target = match text.split_once(':') {
            Some(("topic", name)) => Self::Topic(name.to_owned()),
            Some(("subject", name)) => Self::Subject(name.to_owned()),
            _ => Self::File(text.into()),
        };
        match &target {
            Self::Topic(name) | Self::Subject(name) if name.is_empty() => {
                Err("expected FILE, `topic:NAME` or `subject:NAME`".to_owned())
            }
            _ => Ok(target),
        }
    }
}

/// Takes events that were not delivered.
pub(super) enum DeadLetters {
    File {
        file: Arc<File>,
        path: PathBuf,
    },
    #[cfg(feature = "kafka")]
    Kafka(crate::transport::kafka::LetterTopic),
    #[cfg(feature = "nats")]
    Nats(Box<crate::transport::nats::LetterSubject>),
}

/// What is told of an event beside the event itself.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Label<'a> {
    pub(super) failed_at: Timestamp,
    pub(super) forwarder: &'a str,
    pub(super) endpoint: &'a str,
    pub(super) reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<u16>,
    pub(super) attempts: u32,
    pub(super) partition: i32,
    pub(super) position: u64,
}

impl<'a> Label<'a> {
    pub(super) fn new(
        failed_at: Timestamp,
        (forwarder, endpoint): (&'a str, &'a str),
        failure: &'a Failure,
        ticket: Ticket,
    ) -> Self {
        Self {
            failed_at,
            forwarder,
            endpoint,
            reason: &failure.reason,
            status: failure.status,
            attempts: failure.attempts,
            partition: ticket.partition,
            position: ticket.position,
        }
    }

    /// Headers beside a structured event. They do not begin with `ce_` or `ce-`: some readers would
    /// take the event for a binary one.
    #[cfg(any(feature = "kafka", feature = "nats"))]
    fn headers(&self, content_type: (&'static str, &str)) -> Vec<(&'static str, String)> {
        let one_line = |text: &str| text.replace(['\r', '\n'], " ");
        let mut headers = vec![
            (content_type.0, content_type.1.to_owned()),
            ("dead-letter-failed-at", self.failed_at.to_string()),
            ("dead-letter-forwarder", self.forwarder.to_owned()),
            ("dead-letter-endpoint", one_line(self.endpoint)),
            ("dead-letter-reason", one_line(self.reason)),
            ("dead-letter-attempts", self.attempts.to_string()),
            ("dead-letter-partition", self.partition.to_string()),
            ("dead-letter-position", self.position.to_string()),
        ];
        headers.extend(self.status.map(|status| ("dead-letter-status", status.to_string())));
        headers
    }
}

impl DeadLetters {
    /// Proves that the target can take events.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be reached or written, `Rejected` when it is none.
    pub(super) async fn open(
        target: &DeadLetterTarget,
        transport: &TransportConfig,
    ) -> Result<Self, TransportError> {
        match (target, transport) {
            (
                DeadLetterTarget::File(path),
                TransportConfig::Local(LocalConfig { output: Some(output), .. }),
            ) if is_same_file(path, output) => {
                let message =
                    format!("dead letters cannot go to `{}`: events are read from it", path.display());
                Err(TransportError::new(Kind::Rejected, message).with_hint("name a file of their own"))
            }
            (DeadLetterTarget::File(path), _) => {
                let file = open_file(path).map_err(|e| file_error(path, &e))?;
                Ok(Self::File { file: Arc::new(file), path: path.clone() })
            }
            #[cfg(feature = "kafka")]
            (DeadLetterTarget::Topic(topic), TransportConfig::Kafka(kafka)) => {
                Ok(Self::Kafka(crate::transport::kafka::LetterTopic::open(kafka, topic).await?))
            }
            #[cfg(feature = "nats")]
            (DeadLetterTarget::Subject(subject), TransportConfig::Nats(nats)) => {
                Ok(Self::Nats(Box::new(crate::transport::nats::LetterSubject::open(nats, subject).await?)))
            }
            (DeadLetterTarget::Topic(_), _) => {
                Err(elsewhere("a topic", "the events are not read from Kafka; name a file"))
            }
            (DeadLetterTarget::Subject(_), _) => {
                Err(elsewhere("a subject", "the events are not read from NATS; name a file"))
            }
        }
    }

    /// Whether an outage of the target is waited for. A file that cannot be written is somebody's business,
    /// and may hold a piece of a line.
    pub(super) const fn come_back(&self) -> bool {
        !matches!(self, Self::File { .. })
    }

    /// Writes one event, of this `id` and `partitionkey`; it is durable when this returns.
    ///
    /// # Errors
    /// When it could not be written. It may be there all the same.
    #[cfg_attr(
        not(all(feature = "kafka", feature = "nats")),
        expect(unused_variables, reason = "each broker takes one of them, a file none")
    )]
    pub(super) async fn write(
        &self,
        label: &Label<'_>,
        (id, key): (&str, &str),
        json: &Bytes,
    ) -> Result<(), TransportError> {
        match self {
            Self::File { file, path } => {
                let (file, line) = (Arc::clone(file), line(label, json));
                let written = tokio::task::spawn_blocking(move || {
                    (&*file).write_all(&line)?;
                    file.sync_data()
                });
                let written = written.await.unwrap_or_else(|e| Err(io::Error::other(e)));
                written.map_err(|e| file_error(path, &e))
            }
            #[cfg(feature = "kafka")]
            Self::Kafka(topic) => {
                let content_type = ("content-type", "application/cloudevents+json; charset=UTF-8");
                topic.write(key, &label.headers(content_type), json).await
            }
            #[cfg(feature = "nats")]
            Self::Nats(subject) => {
                let content_type = ("Content-Type", "application/cloudevents+json");
                let id = format!("{}/{id}", label.forwarder);
                subject.write(&id, &label.headers(content_type), json.clone()).await
            }
        }
    }
}

/// Opens for appending. A line that a crash cut short gets an end, so that the next one is whole.
fn is_same_file(one: &Path, other: &Path) -> bool {
    // What does not exist yet has a name only.
    let real = |path: &Path| fs::canonicalize(path).or_else(|_| std::path::absolute(path)).ok();
    real(one).is_some_and(|one| real(other) == Some(one))
}

fn open_file(path: &Path) -> io::Result<File> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
    if file.metadata()?.len() > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

/// The label and the event, `{"failedAt":...,"event":{...}}`.
fn line(label: &Label<'_>, json: &[u8]) -> Vec<u8> {
    let mut line = serde_json::to_vec(label).expect("texts and numbers are plain data");
    line.pop();
    line.extend_from_slice(b",\"event\":");
    line.extend_from_slice(json);
    line.extend_from_slice(b"}\n");
    line
}

fn file_error(path: &Path, error: &io::Error) -> TransportError {
    let what = format!("could not write dead letters to `{}`: {error}", path.display());
    TransportError::new(Kind::Unavailable, what)
        .with_hint("its folder must exist and be writable, with room on the disk")
}

fn elsewhere(what: &str, hint: &str) -> TransportError {
    TransportError::new(Kind::Rejected, format!("dead letters cannot go to {what} here")).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Failure {
        Failure {
            refused: true,
            reason: "it answered 422: \"no\"\r\nX".to_owned(),
            status: Some(422),
            attempts: 3,
            failing: std::time::Duration::ZERO,
        }
    }

    #[test]
    fn targets_are_told_apart() {
        let parse = |text: &str| DeadLetterTarget::parse(text).unwrap();
        assert_eq!(parse("dead.jsonl"), DeadLetterTarget::File("dead.jsonl".into()));
        assert_eq!(parse("a:b"), DeadLetterTarget::File("a:b".into()));
        assert_eq!(parse("topic:dead"), DeadLetterTarget::Topic("dead".to_owned()));
        assert_eq!(parse("subject:dead.letters"), DeadLetterTarget::Subject("dead.letters".to_owned()));
        assert!(DeadLetterTarget::parse("topic:").is_err());
    }

    #[tokio::test]
    async fn a_file_holds_a_line_each_also_after_a_torn_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dead.jsonl");
        std::fs::write(&path, "{\"torn").unwrap();
        let local = TransportConfig::Local(crate::config::LocalConfig { output: None, state: "s".into() });
        let letters = DeadLetters::open(&DeadLetterTarget::File(path.clone()), &local).await.unwrap();
        let failure = failure();
        let label = Label::new(
            "2026-03-01T00:00:00Z".parse().unwrap(),
            ("f", "http://h/"),
            &failure,
            Ticket::of(0, 7),
        );
        let json = Bytes::from_static(br#"{"id":"1","data":{}}"#);
        letters.write(&label, ("1", "k"), &json).await.unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        insta::assert_snapshot!(lines[1], @r#"{"failedAt":"2026-03-01T00:00:00Z","forwarder":"f","endpoint":"http://h/","reason":"it answered 422: \"no\"\r\nX","status":422,"attempts":3,"partition":0,"position":7,"event":{"id":"1","data":{}}}"#);
    }

    #[test]
    fn headers_are_one_line_each_and_no_attributes() {
        let failure = failure();
        let label = Label::new(
            "2026-03-01T00:00:00Z".parse().unwrap(),
            ("f", "http://h/"),
            &failure,
            Ticket::of(2, 7),
        );
        let headers = label.headers(("content-type", "application/cloudevents+json"));
        assert!(headers.iter().all(|(name, value)| !name.starts_with("ce") && !value.contains(['\r', '\n'])));
        assert!(headers.contains(&("dead-letter-status", "422".to_owned())));
    }

    #[tokio::test]
    async fn a_target_of_another_output_is_refused() {
        let local = TransportConfig::Local(crate::config::LocalConfig { output: None, state: "s".into() });
        let output = tempfile::NamedTempFile::new().unwrap();
        let path = output.path().to_owned();
        let same = DeadLetterTarget::File(path.parent().unwrap().join(".").join(path.file_name().unwrap()));
        let config = crate::config::LocalConfig { output: Some(path), state: "s".into() };
        let opened = DeadLetters::open(&same, &TransportConfig::Local(config)).await;
        assert!(opened.is_err_and(|error| error.message.contains("events are read from it")));
        for target in ["topic:dead", "subject:dead", "/no/such/folder/dead.jsonl"] {
            let opened = DeadLetters::open(&DeadLetterTarget::parse(target).unwrap(), &local).await;
            let Err(error) = opened else { panic!("{target}") };
            assert!(error.hint.is_some(), "{error}");
        }
    }
}
