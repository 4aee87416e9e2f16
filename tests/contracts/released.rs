//! A released schema is a file that never changes, and its successors keep its promises.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use amazon_billing_source::event::SCHEMA_BASE;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    compatible::breaks,
    schemas::{DAILY, EVENT, TREE, read},
};

/// `schemas/released.json`: every file that was ever released, with its SHA-256.
const LIST: &str = "released.json";

/// What is wrong with a tree of schemas; empty where nothing is.
fn problems(tree: &Path) -> Vec<String> {
    let list = read(&tree.join(LIST));
    let mut found = Vec::new();
    for (path, digest) in list.as_object().unwrap() {
        match fs::read(tree.join(path)) {
            Err(_) => found.push(format!("`{path}` was released and is gone")),
            Ok(bytes) if digest != &Value::from(sha256(&bytes)) => {
                found.push(format!("`{path}` was released and is another file now"));
            }
            Ok(_) => {}
        }
    }
    for (name, versions) in versions(tree) {
        for (version, path) in &versions {
            let relative = format!("{name}/{}.{}.{}.json", version[0], version[1], version[2]);
            if list.get(&relative).is_none() {
                let digest = sha256(&fs::read(path).unwrap());
                found.push(format!("`{relative}` is not in the list; once released it is \"{digest}\""));
            }
            if read(path)["$id"] != format!("{SCHEMA_BASE}/{relative}") {
                found.push(format!("`{relative}` has another `$id`"));
            }
        }
        for pair in versions.windows(2) {
            let [(before, old), (after, new)] = pair else { continue };
            if before[0] == after[0] {
                let broken = breaks(&read(old), &read(new));
                found.extend(broken.into_iter().map(|what| format!("{name} {after:?}: {what}")));
            }
        }
    }
    found
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// The versioned files of each folder, oldest first.
fn versions(tree: &Path) -> BTreeMap<String, Vec<([u32; 3], PathBuf)>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for folder in fs::read_dir(tree).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir())
    {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let stem = path.file_stem().unwrap().to_str().unwrap();
            let numbers: Vec<u32> = stem.split('.').map(|number| number.parse().unwrap()).collect();
            found.entry(name.clone()).or_default().push((numbers.try_into().unwrap(), path));
        }
        found.entry(name).and_modify(|versions| versions.sort());
    }
    found
}

#[test]
fn released_schemas_are_what_they_were_and_their_successors_keep_the_promise() {
    assert_eq!(problems(Path::new(TREE)), Vec::<String>::new());
    let list = read(&Path::new(TREE).join(LIST));
    assert!(list.as_object().unwrap().len() >= 4, "the files of 1.0.0, and the one of CloudEvents");
}

/// A tree with one change, and what the check has against it.
fn check(what: &str, change: impl FnOnce(&Path), expected: &[&str]) {
    let tree = tempfile::tempdir().unwrap();
    for (name, versions) in versions(Path::new(TREE)) {
        fs::create_dir(tree.path().join(&name)).unwrap();
        for (_, path) in versions {
            fs::copy(&path, tree.path().join(&name).join(path.file_name().unwrap())).unwrap();
        }
    }
    for file in [LIST, "cloudevents.json"] {
        fs::copy(Path::new(TREE).join(file), tree.path().join(file)).unwrap();
    }
    assert_eq!(problems(tree.path()), Vec::<String>::new());
    change(tree.path());
    let found = problems(tree.path());
    assert_eq!(found.len(), expected.len(), "{what}: {found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{what}: {found} instead of {expected}");
    }
}

/// Adds a version of the daily schema that differs in something, and releases it.
fn next(version: &str, change: impl FnOnce(&mut Value)) -> impl FnOnce(&Path) {
    move |tree: &Path| {
        let mut schema = read(&tree.join(DAILY));
        let path = format!("amazon.billing.daily/{version}.json");
        schema["$id"] = json!(format!("{SCHEMA_BASE}/{path}"));
        change(&mut schema);
        let text = schema.to_string();
        let mut list = read(&tree.join(LIST));
        list[&path] = json!(sha256(text.as_bytes()));
        fs::write(tree.join(&path), text).unwrap();
        fs::write(tree.join(LIST), list.to_string()).unwrap();
    }
}

fn remove(value: &mut Value, member: &str) {
    value.as_object_mut().unwrap().remove(member).unwrap();
}

/// What is done, how, and what the check has against it.
type Case = (&'static str, fn(&mut Value), &'static [&'static str]);

/// The controls: each of these would break a consumer, and is seen.
#[test]
fn what_would_break_a_consumer_is_seen() {
    let edited = |tree: &Path| {
        let text = fs::read_to_string(tree.join(DAILY)).unwrap();
        fs::write(tree.join(DAILY), text.replace("paying account", "account")).unwrap();
    };
    check("a released file edited, if only a word", edited, &["was released and is another file now"]);
    let removed = |tree: &Path| fs::remove_file(tree.join(EVENT)).unwrap();
    check("a released file removed", removed, &["was released and is gone"]);
    let unlisted = |tree: &Path| {
        let text =
            fs::read_to_string(tree.join(DAILY)).unwrap().replace("daily/1.0.0.json", "daily/1.0.1.json");
        fs::write(tree.join("amazon.billing.daily/1.0.1.json"), text).unwrap();
    };
    check("a new file that is not in the list", unlisted, &["is not in the list"]);
    check("another id", next("1.0.1", |s| s["$id"] = json!("x")), &["has another `$id`"]);

    let cases: [Case; 14] = [
        ("a member required no more", |s| s["required"] = json!(["date"]), &["is required no more"; 6]),
        (
            "a member required newly",
            |s| s["required"].as_array_mut().unwrap().push(json!("groups")),
            &["\"groups\" became required"],
        ),
        ("a member gone", |s| remove(&mut s["properties"], "accountId"), &["accountId: is gone"]),
        ("a metric gone", |s| remove(&mut s["properties"], "usageQuantity"), &["usageQuantity: is gone"]),
        (
            "a member within another gone",
            |s| remove(&mut s["properties"]["previous"]["properties"], "estimated"),
            &["previous/properties/estimated: is gone"],
        ),
        (
            "another type",
            |s| s["properties"]["estimated"]["type"] = json!("string"),
            &["estimated/type: \"boolean\" became \"string\""],
        ),
        (
            "one more type",
            |s| s["properties"]["accountId"]["type"] = json!(["string", "null"]),
            &["accountId/type"],
        ),
        (
            "amounts as numbers",
            |s| s["definitions"]["figure"]["properties"]["amount"] = json!({ "type": "number" }),
            &["amount/pattern", "amount/type"],
        ),
        ("another pattern", |s| s["properties"]["date"]["pattern"] = json!("^.*$"), &["date/pattern"]),
        ("a pattern gone", |s| remove(&mut s["properties"]["date"], "pattern"), &["date/pattern"]),
        (
            "another constant",
            |s| s["properties"]["granularity"]["const"] = json!("MONTHLY"),
            &["granularity/const"],
        ),
        ("closed", |s| s["additionalProperties"] = json!(false), &["/additionalProperties: false was added"]),
        (
            "two groups allowed",
            |s| s["properties"]["groups"]["maxProperties"] = json!(2),
            &["groups/maxProperties"],
        ),
        ("figures no more needed", |s| remove(s, "anyOf"), &["/anyOf"]),
    ];
    for (what, change, expected) in cases {
        check(what, next("1.1.0", change), expected);
        check(what, next("2.0.0", change), &[]);
    }
}

#[test]
fn what_no_consumer_notices_is_allowed() {
    check("words", next("1.0.1", |s| s["properties"]["date"]["description"] = json!("The day.")), &[]);
    check(
        "a member that may be there",
        next("1.1.0", |s| s["properties"]["recordType"] = json!({ "type": "string" })),
        &[],
    );
    check(
        "a metric, as a figure",
        next("1.1.0", |s| {
            s["properties"]["listCost"] = json!({ "allOf": [{ "$ref": "#/definitions/figure" }] });
            s["definitions"]["figure"]["properties"]["rounded"] = json!({ "type": "boolean" });
        }),
        &[],
    );
}
