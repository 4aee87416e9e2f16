//! Stream and bucket: how they must be set, how they are created, and what to type to mend them.
//!
//! Configurations are compared as the server says them, in JSON: an old server leaves out what it
//! does not know, so what was asked for is compared with what came back.

use std::time::Duration;

use serde_json::{Value, json};

use super::subject;
use crate::{
    config::NatsConfig,
    transport::{TransportError, TransportErrorKind as Kind},
};

/// How far back figures are compared: the previous month and this one.
const LOOK_BACK: Duration = Duration::from_hours(24 * 62);

/// Something about a stream that an operator should know.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// Nothing may be published like that.
    pub(super) fatal: bool,
    /// What it is and what comes of it.
    pub(super) text: String,
    /// The flags of `nats stream edit` that put it right; empty where no edit can.
    pub(super) fix: String,
}

/// The stream as it is created.
pub(super) fn stream(config: &NatsConfig) -> Value {
    json!({
        "name": config.stream,
        "description": "Amazon Billing Source: events, the newest on a subject is its key's state",
        "subjects": [format!("{}.>", config.subject_prefix)],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_age": 0,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_msgs_per_subject": -1,
        "num_replicas": config.replicas,
        "duplicate_window": 120_000_000_000_u64,
        "allow_direct": true,
    })
}

/// The bucket's stream as it is created: what key-value clients expect of one.
pub(super) fn bucket(config: &NatsConfig) -> Value {
    json!({
        "name": bucket_stream(&config.bucket),
        "description": "Amazon Billing Source: polls, budget and claims of its connections",
        "subjects": [format!("$KV.{}.>", config.bucket)],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_age": 0,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_msgs_per_subject": 1,
        "num_replicas": config.replicas,
        "duplicate_window": 120_000_000_000_u64,
        "allow_direct": true,
        "allow_rollup_hdrs": true,
        "deny_delete": true,
    })
}

/// The name of the stream behind a bucket.
pub(super) fn bucket_stream(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// The subject of a connection's state in the bucket.
pub(super) fn bucket_key(bucket: &str, scope: &str) -> String {
    format!("$KV.{bucket}.{scope}")
}

/// What to type where the stream is missing.
pub(super) fn stream_command(config: &NatsConfig) -> String {
    format!(
        "nats stream add {} --subjects '{}.>' --storage file --retention limits --discard old --max-age=0 \
         --max-msgs=-1 --max-bytes=-1 --max-msgs-per-subject=-1 --dupe-window 2m --replicas {} \
         --allow-direct --defaults",
        config.stream, config.subject_prefix, config.replicas
    )
}

/// What to type where the bucket is missing.
pub(super) fn bucket_command(config: &NatsConfig) -> String {
    format!("nats kv add {} --history 1 --storage file --replicas {}", config.bucket, config.replicas)
}

/// What to type to put findings right.
pub(super) fn edit_command(config: &NatsConfig, findings: &[Finding]) -> Option<String> {
    let flags: Vec<_> = findings.iter().map(|f| &*f.fix).filter(|fix| !fix.is_empty()).collect();
    (!flags.is_empty()).then(|| format!("nats stream edit {} {} --force", config.stream, flags.join(" ")))
}

/// What the answer to a creation lacks of what was asked for.
pub(super) fn not_echoed(wanted: &Value, got: &Value) -> Vec<String> {
    wanted
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, value)| got[name.as_str()] != **value)
        .filter(|(_, value)| **value != json!(0) && **value != json!(false))
        .map(|(name, value)| format!("`{name}` is {} and not {value}", got[name.as_str()]))
        .collect()
}

/// Judges the stream's configuration as the server tells it. `clustered`: the server has others.
pub(super) fn judge(config: &NatsConfig, got: &Value, clustered: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |fatal: bool, fix: &str, text: String| {
        let text = format!("stream `{}`: {text}", config.stream);
        findings.push(Finding { fatal, text, fix: fix.to_owned() });
    };
    let number = |name: &str| got[name].as_i64().unwrap_or(0);
    let all = format!("{}.>", config.subject_prefix);
    let mut subjects: Vec<_> =
        got["subjects"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !subjects.iter().any(|pattern| subject::covers(pattern, &all)) {
        subjects.push(&all);
        let fix = format!("--subjects '{}'", subjects.join(","));
        find(true, &fix, format!("it does not take the subjects `{all}`"));
    }
    if got["retention"].as_str().is_some_and(|retention| retention != "limits") {
        let text =
            format!("its retention is `{}`: consumers would take the state away", text(&got["retention"]));
        find(true, "", text);
    }
    for (name, what) in [
        ("sealed", "it is sealed: nothing can be published"),
        ("no_ack", "it does not acknowledge: nothing could be proven"),
    ] {
        if got[name] == true {
            find(true, if name == "no_ack" { "--ack" } else { "" }, what.to_owned());
        }
    }
    if got["mirror"].is_object() {
        find(true, "", "it is a mirror: nothing can be published to it".to_owned());
    }
    if got["subject_transform"].is_object() {
        find(true, "", "it transforms subjects: keys would not be found again".to_owned());
    }
    let age = Duration::from_nanos(got["max_age"].as_u64().unwrap_or(0));
    if !age.is_zero() && age < LOOK_BACK {
        let text = format!(
            "it forgets messages after {} hours, but figures are compared for 62 days: what is forgotten would \
             be published anew",
            age.as_secs() / 3600
        );
        find(true, "--max-age=0", text);
    }
    if number("max_msgs_per_subject") == 1 {
        let text = "it keeps one message a subject: the state is safe, but consumers that are behind never see \
                    the revisions between, and there is nothing to replay";
        find(false, "--max-msgs-per-subject=-1", text.to_owned());
    }
    if got["storage"] == "memory" {
        find(
            false,
            "",
            "its storage is memory: a restart of the servers publishes everything anew".to_owned(),
        );
    }
    let limits: Vec<_> = [("max_msgs", "--max-msgs=-1"), ("max_bytes", "--max-bytes=-1")]
        .into_iter()
        .filter(|(name, _)| number(name) > 0)
        .collect();
    let discards_new = got["discard"] == "new";
    for (name, fix) in limits {
        let text = if discards_new {
            format!("its `{name}` is {}, and discard `new`: once full it takes no event", number(name))
        } else {
            format!(
                "its `{name}` is {}: once full it forgets the oldest state, which is published anew",
                number(name)
            )
        };
        find(false, fix, text);
    }
    if clustered && number("num_replicas") < 3 {
        let text =
            format!("it has {} replica in a cluster: one lost server loses it", number("num_replicas"));
        find(false, "--replicas 3", text);
    }
    findings
}

/// Judges the bucket likewise. Nothing about it is fatal: the events do not depend on it.
pub(super) fn judge_bucket(config: &NatsConfig, got: &Value, clustered: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |text: String| findings.push(Finding { fatal: false, text, fix: String::new() });
    let age = Duration::from_nanos(got["max_age"].as_u64().unwrap_or(0));
    let bucket = &config.bucket;
    if !age.is_zero() {
        find(format!(
            "bucket `{bucket}` forgets after {} seconds when polls were made and what was spent: `nats kv edit \
             {bucket} --ttl=0`",
            age.as_secs()
        ));
    }
    if got["storage"] == "memory" {
        find(format!("bucket `{bucket}` lies in memory: a restart of the servers forgets what was spent"));
    }
    // A connection's state has a few kilobytes; with many rows missing at once a quarter of a megabyte.
    for (limit, least, flag) in
        [("max_msg_size", 512 << 10, "max-value-size"), ("max_bytes", 8 << 20, "max-bucket-size")]
    {
        let set = got[limit].as_i64().unwrap_or(-1);
        if (0..least).contains(&set) {
            find(format!(
                "bucket `{bucket}` has `{limit}` {set}, and a connection's state may grow beyond that: `nats kv edit \
                 {bucket} --{flag}=-1`"
            ));
        }
    }
    let replicas = got["num_replicas"].as_i64().unwrap_or(0);
    if clustered && replicas < 3 {
        find(format!(
            "bucket `{bucket}` has {replicas} replica in a cluster: one lost server stops the polls: `nats kv edit \
             {bucket} --replicas 3`"
        ));
    }
    findings
}

/// The fatal ones as an error.
pub(super) fn fatal(config: &NatsConfig, findings: &[Finding]) -> Result<(), TransportError> {
    let fatal: Vec<_> =
        findings.iter().filter(|finding| finding.fatal).map(|finding| &*finding.text).collect();
    if fatal.is_empty() {
        return Ok(());
    }
    let what = format!("the state cannot be held: {}", fatal.join("; "));
    let error = TransportError::new(Kind::LayoutChanged, what);
    Err(match edit_command(config, findings) {
        Some(command) => error.with_hint(command),
        None => error.with_hint(format!("use another stream: {}", stream_command(config))),
    })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::nats::tests::config;

    #[test]
    fn what_is_created_has_nothing_to_find_and_comes_back_the_same() {
        let wanted = stream(&config());
        assert_eq!(judge(&config(), &wanted, false), []);
        assert_eq!(not_echoed(&wanted, &wanted), [""; 0]);
        let mut old = wanted.clone();
        old.as_object_mut().unwrap().remove("allow_direct");
        assert_eq!(not_echoed(&wanted, &old), ["`allow_direct` is null and not true"]);
    }

    #[test]
    fn a_bucket_of_a_cluster_has_replicas() {
        let found = |clustered| judge_bucket(&config(), &bucket(&config()), clustered);
        assert_eq!(found(false), []);
        assert!(found(true)[0].text.ends_with("`nats kv edit BILLING_STATE --replicas 3`"));
    }

    #[test]
    fn every_dangerous_setting_is_found_with_its_mend() {
        let mut got = stream(&config());
        for (name, value) in [
            ("subjects", json!(["orders.>"])),
            ("retention", json!("workqueue")),
            ("max_age", json!(7_u64 * 24 * 3600 * 1_000_000_000)),
            ("max_msgs_per_subject", json!(1)),
            ("storage", json!("memory")),
            ("max_bytes", json!(1_000_000)),
            ("no_ack", json!(true)),
        ] {
            got[name] = value;
        }
        let findings = judge(&config(), &got, true);
        let lines: Vec<_> = findings.iter().map(|f| format!("{}: {} [{}]", f.fatal, f.text, f.fix)).collect();
        insta::assert_snapshot!(lines.join("\n"), @"
        true: stream `BILLING`: it does not take the subjects `amazon.billing.>` [--subjects 'orders.>,amazon.billing.>']
        true: stream `BILLING`: its retention is `workqueue`: consumers would take the state away []
        true: stream `BILLING`: it does not acknowledge: nothing could be proven [--ack]
        true: stream `BILLING`: it forgets messages after 168 hours, but figures are compared for 62 days: what is forgotten would be published anew [--max-age=0]
        false: stream `BILLING`: it keeps one message a subject: the state is safe, but consumers that are behind never see the revisions between, and there is nothing to replay [--max-msgs-per-subject=-1]
        false: stream `BILLING`: its storage is memory: a restart of the servers publishes everything anew []
        false: stream `BILLING`: its `max_bytes` is 1000000: once full it forgets the oldest state, which is published anew [--max-bytes=-1]
        false: stream `BILLING`: it has 1 replica in a cluster: one lost server loses it [--replicas 3]
        ");
        let command = edit_command(&config(), &findings).unwrap();
        assert_eq!(
            command,
            "nats stream edit BILLING --subjects 'orders.>,amazon.billing.>' --ack --max-age=0 \
             --max-msgs-per-subject=-1 --max-bytes=-1 --replicas 3 --force"
        );
        assert_eq!(fatal(&config(), &findings).unwrap_err().kind, Kind::LayoutChanged);
    }
}
