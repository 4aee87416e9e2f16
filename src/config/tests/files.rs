//! The files in `config/`: they load, say everything, and fit the schema.

use std::collections::BTreeSet;

use ::config::{FileFormat, Format};
use secrecy::ExposeSecret as _;
use serde_json::Value as Json;

use super::*;

const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/billing-source.schema.json");

fn path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/config")).join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

/// `default.toml` with its optional keys in force: `#key`, in contrast to `# prose`.
fn uncommented() -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with([' ', ':']) => rest.to_owned(),
        _ => line.to_owned(),
    };
    text("default.toml").lines().map(line).collect::<Vec<_>>().join("\n")
}

fn as_json(toml: &str) -> Json {
    let table = FileFormat::Toml.parse(None, toml).unwrap_or_else(|error| panic!("{error}"));
    shape::any(&Value::new(None, table))
}

#[test]
fn default_toml_equals_the_built_in_defaults() {
    let file = load(&[path("default.toml")], []).unwrap();
    let built_in = load(&[], []).unwrap();
    assert_eq!(format!("{:?}", file.config), format!("{:?}", built_in.config));
    let values = |loaded: &Loaded| -> Vec<_> {
        loaded.shown.iter().map(|shown| (shown.key.clone(), shown.value.clone())).collect()
    };
    assert_eq!(values(&file), values(&built_in));
    assert!(file.shown.iter().all(|shown| shown.origin.ends_with("default.toml")), "{:?}", file.shown);
}

#[test]
fn default_toml_documents_every_key() {
    let schema = json_schema();
    let mut known = BTreeSet::new();
    known_keys(&schema, &schema, "", &mut known);
    // Recognised, and not yet to be had.
    assert!(known.contains("connections.credentials.session_token."), "{known:?}");

    let json = as_json(&uncommented());
    let mut written = BTreeSet::new();
    written_keys(&json, "", &mut written);
    let missing: Vec<_> = known.difference(&written).collect();
    assert!(missing.is_empty(), "not in config/default.toml: {missing:?}");
    assert_valid(&json);
}

#[test]
fn the_optional_keys_of_default_toml_are_right() {
    let dir = TempDir::new().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "s").unwrap();
    let text = uncommented().replace("/run/secrets/aws-secret-access-key", secret.to_str().unwrap());
    let text = text.replace("kind = \"local\"", "kind = \"kafka\"").replace("password_file = \"/run/", "#");
    // There is one way to log in.
    let (before, rest) = text.split_once("[kafka.oauth]").unwrap();
    let (oauth, rest) = rest.split_once("[kafka.msk_iam]").unwrap();
    let (msk, after) = rest.split_once("[kafka.librdkafka]").unwrap();
    let without_user = before.replace("\nusername = ", "\n#").replace("\npassword = ", "\n#");
    let oauth = oauth.replace("client_secret_file = ", "#").replace("ca_file = ", "#");
    for (table, keys) in [("[kafka.oauth]", oauth.as_str()), ("[kafka.msk_iam]", msk)] {
        let loaded = loaded(&format!("{without_user}{table}{keys}"));
        let TransportConfig::Kafka(kafka) = &loaded.config.transport else { panic!("{loaded:?}") };
        let settings =
            ["security.protocol", "sasl.mechanisms"].map(|name| kafka.librdkafka[name].expose_secret());
        assert_eq!(settings, ["SASL_SSL", "OAUTHBEARER"]);
        match &kafka.login {
            KafkaLogin::Oauth(oauth) => {
                assert_eq!((&*oauth.client_id, oauth.scope.as_deref()), ("billing", Some("kafka")));
            }
            KafkaLogin::MskIam(msk) => assert_eq!(msk.region, "eu-central-1"),
            KafkaLogin::Librdkafka => panic!("{table} is not looked at"),
        }
    }
    let text = format!("{before}[kafka.librdkafka]{after}");
    let loaded = loaded(&text);
    assert_eq!(loaded.config.connections.len(), 5);
    let TransportConfig::Kafka(kafka) = &loaded.config.transport else { panic!("{loaded:?}") };
    assert_eq!((&*kafka.topic, kafka.librdkafka.len()), ("amazon-billing", 5));
    let main = &loaded.config.connections[0];
    assert_eq!((main.granularity.len(), main.metrics.len(), main.region.as_str()), (1, 2, "us-east-1"));
}

#[test]
fn the_examples_load_and_fit_the_schema() {
    for name in ["example-kafka.toml", "example-local.toml", "example-nats.toml", "example-simulator.toml"] {
        let loaded = load(&[path(name)], []).unwrap_or_else(|error| panic!("{error}"));
        loaded.config.require_connections().unwrap();
        assert_eq!(loaded.warnings, [""; 0], "{name}");
        assert_valid(&as_json(&text(name)));
    }
    assert_valid(&as_json(&text("default.toml")));
}

#[test]
fn the_schema_refuses_what_the_product_refuses() {
    let validator = jsonschema::validator_for(&json_schema()).unwrap();
    for bad in [
        "pol = {}",
        "poll.intervall = \"8h\"",
        "poll.settle_days = 32",
        "poll.interval = 8",
        "[[connections]]",
        "[[connections]]\nname = \"A\"",
        "[[connections]]\nname = \"a\"\naccount_id = 111122223333",
        "[[connections]]\nname = \"a\"\ngranularity = [\"weekly\"]",
        "[[connections]]\nname = \"a\"\nfilter = {}",
        "[[connections]]\nname = \"a\"\nfilter.Not.Not.and = []",
        "[[connections]]\nname = \"a\"\ncredentials.king = \"keys\"",
        "transport.kind = \"amqp\"",
    ] {
        assert!(!validator.is_valid(&as_json(bad)), "{bad}");
        assert!(Files::new(&[("a.toml", bad)]).load(&[]).is_err(), "{bad}");
    }
}

#[test]
fn the_schema_file_is_up_to_date() {
    let current = format!("{}\n", serde_json::to_string_pretty(&json_schema()).unwrap());
    if std::env::vars().any(|(name, _)| name == "UPDATE_SCHEMA") {
        std::fs::write(SCHEMA, &current).unwrap();
    }
    let stored = std::fs::read_to_string(SCHEMA).unwrap_or_default();
    assert!(
        stored == current,
        "config/billing-source.schema.json is out of date: UPDATE_SCHEMA=1 cargo test --lib config::tests::files"
    );
}

fn assert_valid(json: &Json) {
    let validator = jsonschema::validator_for(&json_schema()).unwrap();
    let errors: Vec<_> =
        validator.iter_errors(json).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// What nests filters in filters: its operands count as if they stood alone.
const NESTING: [&str; 3] = ["And", "Or", "Not"];

/// Every key of the schema, without the numbers of lists.
fn known_keys(root: &Json, schema: &Json, at: &str, known: &mut BTreeSet<String>) {
    let schema = match schema["$ref"].as_str() {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap(),
        None => schema,
    };
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        let key = format!("{at}{name}.");
        known.insert(key.clone());
        // What belongs into credentials is documented where connections have theirs.
        let elsewhere = key == "kafka.msk_iam.credentials.";
        if !elsewhere && !NESTING.contains(&name.as_str()) {
            known_keys(
                root,
                if member["items"].is_object() { &member["items"] } else { member },
                &key,
                known,
            );
        }
    }
}

/// Every key that occurs, in the same form.
fn written_keys(json: &Json, at: &str, written: &mut BTreeSet<String>) {
    match json {
        Json::Object(members) => {
            for (name, value) in members {
                let key = format!("{at}{name}.");
                written_keys(value, if NESTING.contains(&name.as_str()) { at } else { &key }, written);
                written.insert(key);
            }
        }
        Json::Array(items) => items.iter().for_each(|item| written_keys(item, at, written)),
        _ => {}
    }
}
