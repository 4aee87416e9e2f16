//! `schema`, from the outside.

use std::{fs, path::Path, process::Command};

use amazon_billing_source::commands::schema::CONTRACTS;
use serde_json::Value;

use crate::schemas::{TREE, read};

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn schema(args: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_amazon-billing-source"));
    let output = command.arg("schema").args(args).env_clear().output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn what_is_printed_is_the_file() {
    for contract in CONTRACTS {
        let ran = schema(&[contract.name]);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{}", contract.name);
        let file = fs::read_to_string(Path::new(TREE).join(contract.path)).unwrap();
        assert_eq!(ran.stdout, file, "{}", contract.name);
        assert_eq!(schema(&[contract.short_name()]).stdout, file, "{}", contract.short_name());
    }
}

#[test]
fn the_list_has_every_contract_with_the_id_it_gives_itself() {
    let ran = schema(&[]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let lines: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), CONTRACTS.len());
    for (line, contract) in lines.iter().zip(CONTRACTS) {
        assert_eq!(
            (line["type"].as_str(), line["version"].as_str()),
            (Some(contract.name), Some(contract.version))
        );
        assert_eq!(line["id"], contract.id());
        let path = Path::new(TREE).join(contract.path);
        match contract.name {
            // Another project's file, which names itself nothing.
            "cloudevents" => assert_eq!(read(&path).get("$id"), None),
            "asyncapi" => {
                let text = fs::read_to_string(path).unwrap();
                assert!(text.contains(&format!("\nid: {}\n", contract.id())));
                assert!(text.contains(&format!("\n  version: {}\n", contract.version)));
            }
            _ => {
                assert_eq!(read(&path)["$id"], contract.id());
                assert_eq!(contract.path, format!("{}/{}.json", contract.name, contract.version));
            }
        }
    }
}

/// Nothing is released that cannot be printed, but older versions.
#[test]
fn the_newest_version_of_every_schema_is_printed() {
    let list = read(&Path::new(TREE).join("released.json"));
    for path in list.as_object().unwrap().keys() {
        let name = path.split('/').next().unwrap().trim_end_matches(".json");
        let contract = CONTRACTS.iter().find(|contract| contract.name == name).unwrap();
        let number = |path: &str| -> Vec<u32> {
            let version = path.rsplit('/').next().unwrap().trim_end_matches(".json");
            version.split('.').filter_map(|number| number.parse().ok()).collect()
        };
        assert!(number(path) <= number(contract.path), "{path} is newer than {}", contract.path);
    }
}

#[test]
fn the_tree_is_written_as_it_is_published() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("new/contracts");
    let ran = schema(&["--to", to.to_str().unwrap()]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert_eq!(ran.stdout.lines().count(), CONTRACTS.len());
    for (line, contract) in ran.stdout.lines().zip(CONTRACTS) {
        assert_eq!(Path::new(line), to.join(contract.path));
        assert_eq!(fs::read(line).unwrap(), fs::read(Path::new(TREE).join(contract.path)).unwrap());
    }
    // Once more over what is there.
    assert_eq!(schema(&["--to", to.to_str().unwrap()]).code, Some(0));

    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let ran = schema(&["--to", file.to_str().unwrap()]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    assert!(ran.stderr.starts_with(&format!("error: could not write `{}", file.display())), "{}", ran.stderr);
    assert!(ran.stderr.contains("\n  hint: "), "{}", ran.stderr);
}

#[test]
fn an_unknown_type_is_exit_2_with_the_nearest() {
    for (written, nearest) in [
        ("amazon.billing.dayly", "amazon.billing.daily"),
        ("amazon.billing.hour", "amazon.billing.hourly"),
        ("dayly", "daily"),
        ("asynapi", "asyncapi"),
        ("cloudevent", "cloudevents"),
    ] {
        let ran = schema(&[written]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{written}");
        let expected = format!(
            "error: `{written}` is no event type of this program, and no document\n  hint: did you mean `{nearest}`?\n"
        );
        assert_eq!(ran.stderr, expected);
    }
    // Near to nothing: all there is.
    let ran = schema(&["7"]);
    assert_eq!(ran.code, Some(2));
    for contract in CONTRACTS {
        assert!(ran.stderr.contains(&format!("`{}`", contract.name)), "{}", ran.stderr);
    }
    assert_eq!(schema(&["asyncapi", "--to", "x"]).code, Some(2), "one or all");
}

#[test]
fn help_ends_with_an_example() {
    let ran = schema(&["--help"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    insta::assert_snapshot!(ran.stdout);
}
