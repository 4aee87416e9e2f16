//! The AsyncAPI document: read by AsyncAPI's own parser, and held against real messages.
//!
//! The parser does not look at examples; that is done here. It runs on Node.js: where that is
//! missing these tests fail and say what to install.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    sync::LazyLock,
};

use amazon_billing_source::{
    commands::schema::CONTRACTS,
    event::{Binding, ContentMode, Event, SCHEMA_BASE, WireMessage, encode},
};
use serde_json::{Map, Value, json};

use crate::{
    events::{History, database, function, json, sample},
    mutants::{Part, mutants},
    schemas::{CLOUDEVENTS, DAILY, EVENT, HOURLY, TREE, closed, problems, schema, validator},
};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/contracts/asyncapi");

/// Where the parser is installed.
static FOLDER: LazyLock<String> = LazyLock::new(|| {
    let output = Command::new("bash").arg(format!("{SCRIPTS}/install")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim_end());
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
});

/// The document as it is.
static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let [parsed] = parse(&[Path::new(TREE).join("asyncapi.yaml")]).try_into().unwrap();
    assert_eq!(parsed["diagnostics"], json!([]));
    parsed["document"].clone()
});

fn node(script: &str, args: &[String], stdin: &str) -> Value {
    let mut child = Command::new("node")
        .arg(format!("{SCRIPTS}/{script}"))
        .arg(&*FOLDER)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn parse(files: &[std::path::PathBuf]) -> Vec<Value> {
    let files: Vec<_> = files.iter().map(|file| file.to_str().unwrap().to_owned()).collect();
    node("parse.mjs", &files, "").as_array().unwrap().clone()
}

#[test]
fn the_official_parser_has_nothing_against_the_document() {
    assert_eq!(DOCUMENT["asyncapi"], "3.1.0");
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&DOCUMENT["channels"]), ["kafka", "nats"]);
    for channel in ["kafka", "nats"] {
        assert_eq!(
            names(&DOCUMENT["channels"][channel]["messages"]),
            ["dailyBinary", "hourlyBinary", "structured"]
        );
    }
}

/// The controls: what the parser is there for, it does.
#[test]
fn the_official_parser_sees_what_is_wrong() {
    let tree = tempfile::tempdir().unwrap();
    for contract in CONTRACTS {
        let path = tree.path().join(contract.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contract.text).unwrap();
    }
    let text = fs::read_to_string(tree.path().join("asyncapi.yaml")).unwrap();
    let edits = [
        (
            "a reference to nothing",
            "'#/components/messages/kafkaStructured'",
            "'#/components/messages/other'",
        ),
        (
            "a file that is not there",
            "./amazon.billing.hourly/1.0.0.json",
            "./amazon.billing.hourly/1.0.1.json",
        ),
        ("an action there is not", "action: send", "action: publish"),
        ("a binding of another type", "partitions: 6", "partitions: six"),
        ("a binding of no version", "bindingVersion: 0.1.0", "bindingVersion: 9.9.9"),
        ("a parameter that is not described", "address: '{topic}'", "address: '{topic}-{region}'"),
        (
            "a message of another channel",
            "'#/channels/nats/messages/structured'",
            "'#/channels/kafka/messages/structured'",
        ),
    ];
    let files: Vec<_> = edits
        .iter()
        .enumerate()
        .map(|(index, (what, from, to))| {
            assert!(text.contains(from), "{what}");
            let path = tree.path().join(format!("{index}.yaml"));
            fs::write(&path, text.replace(from, to)).unwrap();
            path
        })
        .collect();
    for ((what, ..), parsed) in edits.iter().zip(parse(&files)) {
        let errors = parsed["diagnostics"].as_array().unwrap().iter().filter(|found| found["severity"] == 0);
        assert!(errors.count() > 0, "{what}: {}", parsed["diagnostics"]);
    }
}

/// A message as the document describes it: headers and payload; NATS with the header it
/// deduplicates by.
fn as_example(binding: Binding, mode: ContentMode, event: &Event) -> (Value, Value, WireMessage) {
    let message = encode(event.clone(), binding, mode).unwrap();
    let mut headers: Map<String, Value> =
        message.headers.iter().map(|(name, value)| (name.to_string(), value.as_str().into())).collect();
    if binding == Binding::Nats {
        headers.insert("Nats-Msg-Id".to_owned(), json(event.clone())["id"].clone());
    }
    (headers.into(), serde_json::from_slice(&message.payload).unwrap(), message)
}

const FORMS: [(&str, Binding, ContentMode); 4] = [
    ("kafka", Binding::Kafka, ContentMode::Binary),
    ("kafka", Binding::Kafka, ContentMode::Structured),
    ("nats", Binding::Nats, ContentMode::Binary),
    ("nats", Binding::Nats, ContentMode::Structured),
];

/// The message of a channel that describes an event in a mode.
fn message(channel: &str, mode: ContentMode, event: &Event) -> &'static Value {
    let name = match mode {
        ContentMode::Structured => "structured",
        ContentMode::Binary if json(event.clone())["data"]["granularity"] == "DAILY" => "dailyBinary",
        ContentMode::Binary => "hourlyBinary",
    };
    &DOCUMENT["channels"][channel]["messages"][name]
}

#[test]
fn the_examples_are_real_messages() {
    let [revised] = database().events().split_off(1).try_into().unwrap();
    let [new, removed] = function().events().try_into().unwrap();
    for (channel, binding, mode) in FORMS {
        let expected: &[(&str, &[(&str, &Event)])] = match mode {
            ContentMode::Binary => {
                &[("dailyBinary", &[("revised", &revised)]), ("hourlyBinary", &[("new", &new)])]
            }
            ContentMode::Structured => &[("structured", &[("revised", &revised), ("removed", &removed)])],
        };
        for (name, examples) in expected {
            let expected = examples.iter().map(|(name, event)| {
                let (headers, payload, _) = as_example(binding, mode, event);
                json!({ "name": name, "headers": headers, "payload": payload })
            });
            let expected = Value::Array(expected.collect());
            let described = &DOCUMENT["channels"][channel]["messages"][name];
            assert_eq!(described["examples"], expected, "{channel} {name}: {expected}");
            for example in expected.as_array().unwrap() {
                for part in ["headers", "payload"] {
                    let found = problems(&validator(&described[part]), &example[part]);
                    assert_eq!(found, Vec::<String>::new(), "{channel} {name} {part}");
                }
            }
        }
    }
}

/// Headers, keys and payloads of any event are as described, and have nothing that is not.
#[test]
fn every_message_is_as_described() {
    let events: Vec<_> =
        [database(), function()].iter().chain(&sample(40)).flat_map(History::events).collect();
    for (channel, binding, mode) in FORMS {
        for daily in [true, false] {
            let is_daily = |event: &&Event| json((*event).clone())["data"]["granularity"] == "DAILY";
            let events: Vec<_> = events.iter().filter(|event| is_daily(event) == daily).collect();
            let described = message(channel, mode, events[0]);
            let headers_schema = validator(&closed(described["headers"].clone()));
            let payload_schema = validator(&described["payload"]);
            let key_schema = &described["bindings"]["kafka"]["key"];
            assert_eq!(key_schema.is_null(), binding == Binding::Nats);
            let key_schema = (!key_schema.is_null()).then(|| validator(key_schema));
            for event in events {
                let (headers, payload, wire) = as_example(binding, mode, event);
                assert_eq!(
                    problems(&headers_schema, &headers),
                    Vec::<String>::new(),
                    "{channel} {mode:?} {headers}"
                );
                assert_eq!(
                    problems(&payload_schema, &payload),
                    Vec::<String>::new(),
                    "{channel} {mode:?} {payload}"
                );
                assert_eq!(wire.key.is_some(), key_schema.is_some());
                if let (Some(key), Some(schema)) = (wire.key, &key_schema) {
                    assert!(schema.is_valid(&json!(key)), "{key}");
                }
                // In binary mode the payload's type is the event's own.
                let content_type = described["contentType"].as_str().unwrap();
                let sent =
                    ["content-type", "Content-Type", "ce-datacontenttype"].map(|name| headers[name].as_str());
                assert!(sent.iter().flatten().count() == 1);
                assert!(sent.iter().flatten().all(|sent| sent.starts_with(content_type)), "{sent:?}");
            }
        }
    }
}

#[test]
fn headers_that_differ_are_seen() {
    let [event] = database().events().split_off(1).try_into().unwrap();
    for (channel, binding, mode) in FORMS {
        let schema = validator(&message(channel, mode, &event)["headers"]);
        let (headers, ..) = as_example(binding, mode, &event);
        for name in headers.as_object().unwrap().keys() {
            let mut without = headers.clone();
            without.as_object_mut().unwrap().remove(name);
            assert!(!schema.is_valid(&without), "{channel} {mode:?} without {name}");
            for value in [json!(null), json!(2), json!("")] {
                let mut other = headers.clone();
                other[name] = value;
                assert!(!schema.is_valid(&other), "{channel} {mode:?} {name} {}", other[name]);
            }
        }
    }
}

/// A second validator comes to the same results, so the schemas rest on nobody's oddities.
#[test]
fn another_validator_agrees_on_what_passes_and_what_fails() {
    let mut cases = Vec::new();
    let mut expected = Vec::new();
    let mut add = |schema: &str, value: &Value, valid: bool| {
        cases.push(json!({ "schema": schema, "value": value }));
        expected.push((valid, schema.to_owned(), value.clone()));
    };
    for event in [database(), function()].iter().chain(&sample(15)).flat_map(History::json) {
        let data = if event["data"]["granularity"] == "DAILY" { DAILY } else { HOURLY };
        add(CLOUDEVENTS, &event, true);
        add(EVENT, &event, true);
        add(data, &event["data"], true);
        for mutant in mutants(&event) {
            add(EVENT, &mutant.event, false);
            if mutant.part == Part::Data {
                add(data, &mutant.event["data"], false);
            }
        }
    }
    let schemas: Map<_, _> =
        [CLOUDEVENTS, EVENT, DAILY, HOURLY].map(|path| (path.to_owned(), schema(path))).into_iter().collect();
    let input = json!({ "schemas": schemas, "base": SCHEMA_BASE, "cases": cases });
    let found = node("validate.mjs", &[], &input.to_string());
    for (found, (valid, schema, value)) in found.as_array().unwrap().iter().zip(&expected) {
        assert_eq!(found, valid, "{schema}: {value}");
    }
    assert!(expected.len() > 1000, "{}", expected.len());
}
