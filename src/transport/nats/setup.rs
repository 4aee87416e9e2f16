//! Stream and bucket on the server: found, created where that is asked for, and looked at by a check.
//!
//! How they must be set is in `layout`.

use std::sync::atomic::Ordering;

use async_nats::jetstream::{ErrorCode, message::PublishMessage};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::{
    Nats,
    client::{self, Failure, JetStream, refusal},
    layout,
};
use crate::{
    config::NatsConfig,
    transport::{TransportError, TransportErrorKind as Kind},
};

impl Nats {
    /// The stream's information, once it and the bucket can hold the state; both are created where
    /// that is asked for. What is doubtful about them is said once.
    pub(super) async fn stream(&self, js: &JetStream) -> Result<Value, TransportError> {
        let info = self.ensure(js, &layout::stream(&self.config), layout::stream_command).await?;
        let bucket = self.ensure(js, &layout::bucket(&self.config), layout::bucket_command).await?;
        let findings = self.findings(js, Some(&info), Some(&bucket));
        layout::fatal(&self.config, &findings)?;
        if !self.warned.swap(true, Ordering::Relaxed) {
            for finding in findings {
                warn!(hint = "`check --connect` prints the command that puts it right", "{}", finding.text);
            }
        }
        Ok(info)
    }

    /// What is to be said of the stream and the bucket, those of them that exist.
    fn findings(
        &self,
        js: &JetStream,
        stream: Option<&Value>,
        bucket: Option<&Value>,
    ) -> Vec<layout::Finding> {
        let clustered = js.client.server_info().cluster.is_some();
        let stream = stream.map(|info| layout::judge(&self.config, &info["config"], clustered));
        let bucket = bucket.map(|info| layout::judge_bucket(&self.config, &info["config"], clustered));
        stream.into_iter().chain(bucket).flatten().collect()
    }

    /// A stream's information; a missing one is created or refused with the command that does it.
    async fn ensure(
        &self,
        js: &JetStream,
        wanted: &Value,
        command: fn(&NatsConfig) -> String,
    ) -> Result<Value, TransportError> {
        let name = wanted["name"].as_str().unwrap_or_default();
        let error = match js.request(&format!("STREAM.INFO.{name}"), &json!({})).await {
            Ok(info) => return Ok(info),
            Err(Failure::Silent(error)) => return Err(error),
            Err(Failure::Refused(error)) => error,
        };
        if error.error_code() != ErrorCode::STREAM_NOT_FOUND {
            return Err(refusal(&format!("could not ask for stream `{name}`"), &error));
        }
        if !self.config.create_stream {
            let what = format!("there is no stream `{name}`");
            let hint = format!(
                "create it with `{}`, or set `create_stream = true` in `[nats]`",
                command(&self.config)
            );
            return Err(TransportError::new(Kind::Rejected, what).with_hint(hint));
        }
        match js.request(&format!("STREAM.CREATE.{name}"), wanted).await {
            Ok(info) => {
                let lacks = layout::not_echoed(wanted, &info["config"]);
                if lacks.is_empty() {
                    info!(stream = name, "created");
                } else {
                    warn!(stream = name, "created, but the server made it otherwise: {}", lacks.join("; "));
                }
                Ok(info)
            }
            Err(Failure::Silent(error)) => Err(error),
            // 10065: its subjects belong to another stream. 10058: another process was faster.
            Err(Failure::Refused(error)) if error.error_code() == ErrorCode(10065) => {
                let owner = self.owner(js, wanted["subjects"][0].as_str().unwrap_or_default()).await;
                Err(taken(&format!("could not create stream `{name}`: {error}{owner}")))
            }
            Err(Failure::Refused(error)) if error.error_code() == ErrorCode(10058) => Err(
                TransportError::new(Kind::Unavailable, format!("stream `{name}` was just created otherwise")),
            ),
            Err(Failure::Refused(error)) => {
                let refused = refusal(&format!("could not create stream `{name}`"), &error);
                Err(match refused.hint {
                    Some(_) => refused,
                    None => refused.with_hint(command(&self.config)),
                })
            }
        }
    }

    /// A stream's information for a check, which creates nothing; `None` where `run` will.
    async fn existing(&self, js: &JetStream, name: &str) -> Result<Option<Value>, TransportError> {
        match js.request(&format!("STREAM.INFO.{name}"), &json!({})).await {
            Ok(info) => Ok(Some(info)),
            Err(Failure::Refused(error))
                if error.error_code() == ErrorCode::STREAM_NOT_FOUND && self.config.create_stream =>
            {
                Ok(None)
            }
            Err(Failure::Silent(error)) => Err(error),
            // Says what to type.
            Err(Failure::Refused(_)) => self.stream(js).await.map(|_| None),
        }
    }

    /// Which stream has a subject, in words.
    async fn owner(&self, js: &JetStream, subject: &str) -> String {
        match js.request("STREAM.NAMES", &json!({ "subject": subject })).await {
            Ok(answer) => match answer["streams"][0].as_str() {
                Some(stream) => format!("; stream `{stream}` has `{subject}`"),
                None => String::new(),
            },
            Err(_) => String::new(),
        }
    }

    /// What [`Transport::check`] says.
    pub(super) async fn look(&self) -> Result<Vec<String>, TransportError> {
        let js = self.js().await?;
        let server = js.client.server_info();
        let mut facts = vec![format!("NATS server `{}` has version {}", server.server_name, server.version)];
        let stream = self.existing(js, &self.config.stream).await?;
        let bucket = self.existing(js, &layout::bucket_stream(&self.config.bucket)).await?;
        let findings = self.findings(js, stream.as_ref(), bucket.as_ref());
        layout::fatal(&self.config, &findings)?;
        let replicas = stream.as_ref().map(|info| info["config"]["num_replicas"].clone());
        match (&stream, &replicas) {
            (Some(info), Some(replicas)) => facts.push(format!(
                "stream `{}` takes `{}.>`, {} messages, {replicas} {}",
                self.config.stream,
                self.config.subject_prefix,
                info["state"]["messages"],
                if *replicas == 1 { "replica" } else { "replicas" },
            )),
            _ => facts.push(self.creatable(js).await?),
        }
        facts.extend(findings.iter().map(|finding| format!("warning: {}", finding.text)));
        let command = layout::edit_command(&self.config, &findings);
        facts.extend(command.map(|command| format!("warning: to put it right: {command}")));
        if replicas.is_some_and(|replicas| replicas == 1) {
            facts.push(
                "a single server writes to disk every two minutes unless `sync_interval: always` stands in its \
                 `jetstream` block; what a power failure takes is published again by the next poll"
                    .to_owned(),
            );
        }
        if bucket.is_some() {
            let connections = self.every_connection().await?.len();
            let noun = if connections == 1 { "connection" } else { "connections" };
            facts.push(format!("bucket `{}` holds {connections} {noun}", self.config.bucket));
        } else {
            let bucket = &self.config.bucket;
            facts.push(format!("bucket `{bucket}` does not exist yet; the first `run` creates it"));
        }
        if stream.is_some() {
            self.may_publish(js).await?;
            facts.push(format!("the user may publish to `{}.>`", self.config.subject_prefix));
        }
        Ok(facts)
    }

    /// That the first `run` can create the stream: its subjects are nobody else's.
    async fn creatable(&self, js: &JetStream) -> Result<String, TransportError> {
        let name = &self.config.stream;
        let owner = self.owner(js, &format!("{}.>", self.config.subject_prefix)).await;
        if owner.is_empty() {
            return Ok(format!("stream `{name}` does not exist yet; the first `run` creates it"));
        }
        Err(taken(&format!("stream `{name}` cannot be created{owner}")))
    }

    /// Publishes what the stream must refuse, as it expects another stream: nothing is stored, and
    /// an answer at all shows that the user may.
    async fn may_publish(&self, js: &JetStream) -> Result<(), TransportError> {
        let subject = format!("{}.check", self.config.subject_prefix);
        let message = PublishMessage::build().expected_stream("nothing-is-stored-by-a-check");
        let what = format!("could not publish to `{subject}`");
        let error = match js.context.send_publish(subject, message).await {
            Ok(acknowledgement) => acknowledgement.await.err(),
            Err(error) => Some(error),
        };
        match error {
            None => Ok(()),
            Some(error) => match client::publish_refusal(&error) {
                Some(refused) if refused.error_code() == ErrorCode::STREAM_NOT_MATCH => Ok(()),
                Some(refused) => Err(refusal(&what, refused)),
                None => Err(js.silence(&what, &error)),
            },
        }
    }
}

/// The subjects belong to another stream.
fn taken(what: &str) -> TransportError {
    TransportError::new(Kind::Rejected, what)
        .with_hint("choose another `subject_prefix`, or publish to that stream with `stream`")
}
