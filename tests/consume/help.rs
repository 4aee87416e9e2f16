//! The help of the commands.

use crate::support::Home;

fn help(command: &str) -> String {
    let output = Home::new().command(&[command, "--help"]).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn help_of_tail() {
    insta::assert_snapshot!(help("tail"));
}

#[test]
fn help_of_replay() {
    insta::assert_snapshot!(help("replay"));
}
