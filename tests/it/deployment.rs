//! The files for operators: the policy everywhere the same, embedded configurations that load.

use std::path::Path;

use serde_json::Value;

use crate::support::Home;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// One action, and no other, in whatever an operator copies.
#[test]
fn the_policy_allows_one_action_wherever_it_is_written() {
    let ran = Home::new().run(&["policy"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert_eq!(ran.stdout, read("deploy/iam/policy.json"));
    let policy: Value = serde_json::from_str(&ran.stdout).unwrap();
    let statements = policy["Statement"].as_array().unwrap();
    assert_eq!(statements.len(), 1);
    let statement = &statements[0];
    assert_eq!(
        (&statement["Effect"], &statement["Action"], &statement["Resource"]),
        (&"Allow".into(), &"ce:GetCostAndUsage".into(), &"*".into())
    );

    let stack: Vec<String> =
        read("deploy/iam/cloudformation.yaml").lines().map(|line| line.trim().to_owned()).collect();
    let at = stack.iter().position(|line| line.ends_with("Sid: ReadCostAndUsage")).unwrap();
    assert_eq!(stack[at + 1..at + 4], ["Effect: Allow", "Action: ce:GetCostAndUsage", "Resource: \"*\""]);
    assert_eq!(actions(&stack.join("\n")), ["ce:GetCostAndUsage"]);
    for readme in ["README.md", "README-aws.md"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(readme);
        if path.exists() {
            assert_eq!(actions(&read(readme)), ["ce:GetCostAndUsage"], "{readme}");
        }
    }
}

/// Every action of Cost Explorer a text names, each once.
fn actions(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == ':' || c == '*'));
    let mut actions: Vec<_> = words.filter(|word| word.starts_with("ce:")).collect();
    actions.sort_unstable();
    actions.dedup();
    actions
}

/// The lines of a YAML block `key: |` without their indentation.
fn block(yaml: &str, key: &str) -> String {
    let mut lines = yaml.lines().skip_while(|line| line.trim() != format!("{key}: |")).skip(1).peekable();
    let indentation = lines.peek().map(|line| line.len() - line.trim_start().len()).unwrap();
    let inside = |line: &&str| line.trim().is_empty() || line.len() - line.trim_start().len() >= indentation;
    let lines = lines.take_while(inside);
    lines.map(|line| line.get(indentation..).unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

#[test]
fn embedded_configurations_load() {
    for (file, key) in
        [("deploy/kubernetes/deployment.yaml", "config.toml"), ("deploy/compose.yaml", "content")]
    {
        let toml = block(&read(file), key);
        assert!(toml.contains("[[connections]]"), "{file}: {toml}");
        let home = Home::new();
        home.write("aws-secret-access-key", "a-secret\n");
        // The mounted secret is a file of this test.
        let secret = home.path("aws-secret-access-key").display().to_string();
        home.write("billing.toml", &toml.replace("/run/secrets/aws/aws-secret-access-key", &secret));
        let ran = home.run(&["check", "--config", "billing.toml"]);
        assert_eq!(ran.code, Some(0), "{file}: {}", ran.stderr);
    }
}

/// The examples load as they are, but for secrets that are files.
#[test]
fn examples_load() {
    for file in ["config/default.toml", "config/example-local.toml", "config/example-simulator.toml"] {
        let home = Home::new();
        home.write("billing.toml", &read(file));
        let ran = home.run(&["config", "show", "--config", "billing.toml"]);
        assert_eq!(ran.code, Some(0), "{file}: {}", ran.stderr);
    }
}
