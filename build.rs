//! Tells the linker which functions a run needs, so that they lie together.
//!
//! Linux maps 64 kB of a program around every place that is run, and what is run of 18 MB of code is
//! 3.5 MB, scattered: put together it takes 6 MB less of memory. `link/record` writes the list. A name of it
//! that is not there any more is passed over, so a list that has aged costs memory and nothing else.

#![allow(clippy::disallowed_methods, reason = "what cargo tells a build script is in its environment")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=link/order.txt");
    println!("cargo:rerun-if-env-changed=LINK_MAP");
    let [root, out] = ["CARGO_MANIFEST_DIR", "OUT_DIR"]
        .map(|name| PathBuf::from(env::var_os(name).expect("cargo sets it")));
    let Some(order) = root.join("link/order.txt").to_str().map(str::to_owned) else { return };
    let mut arguments =
        vec![format!("--symbol-ordering-file={order}"), "--no-warn-symbol-ordering".to_owned()];
    // For `link/record`: which function lies where.
    if let Ok(map) = env::var("LINK_MAP") {
        arguments.extend([format!("-Map={map}"), "--no-demangle".to_owned()]);
    }
    if !is_for_this_system() || !links_with(&arguments, &out) {
        return;
    }
    for argument in arguments {
        println!("cargo:rustc-link-arg-bins=-Xlinker");
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}

/// The list has the names of a release build for it, and what flags of one's own make of them is not known.
fn is_for_this_system() -> bool {
    let is = |name: &str, expected: &str| env::var(name).is_ok_and(|value| value == expected);
    let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    is("PROFILE", "release")
        && ["HOST", "TARGET"].iter().all(|name| is(name, "x86_64-unknown-linux-gnu"))
        && !is_set("RUSTC_LINKER")
        && !is_set("CARGO_ENCODED_RUSTFLAGS")
}

/// Whether whatever linker there is takes the arguments: it is tried.
fn links_with(arguments: &[String], out: &Path) -> bool {
    let source = out.join("probe.rs");
    if fs::write(&source, "fn main() {}").is_err() {
        return false;
    }
    let mut rustc = Command::new(env::var_os("RUSTC").expect("cargo sets it"));
    rustc.arg(source).arg("-o").arg(out.join("probe"));
    for argument in arguments {
        rustc.arg("-Clink-arg=-Xlinker").arg(format!("-Clink-arg={argument}"));
    }
    rustc.output().is_ok_and(|output| output.status.success())
}
