//! Tells the linker which functions a run needs, so that they lie together.
//!
//! Linux maps 64 kB of a program around every place that is run, and what is run of 18 MB of code is
//! 3.5 MB, scattered: put together it takes 6 MB less of memory. `link/record` writes the list. A name of it
//! that is not there any more is passed over, so a list that has aged costs memory and nothing else.

#![allow(clippy::disallowed_methods, reason = "what cargo tells a build script is in its environment")]

use std::{
    env,
    path::{Path, PathBuf},
};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=link/order.txt");
    if env::var("PROFILE").as_deref() != Ok("release") || !links_with_rusts_own() {
        return;
    }
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let order = format!("--symbol-ordering-file={}", root.join("link/order.txt").display());
    // For `link/record`: which function lies where.
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let map = format!("-Map={}", out.join("functions.map").display());
    for argument in [&*order, "--no-warn-symbol-ordering", &*map, "--no-demangle"] {
        println!("cargo:rustc-link-arg-bins=-Xlinker");
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}

/// Other linkers do not know the option: only where Rust brings its own and nobody chose another.
fn links_with_rusts_own() -> bool {
    let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    if env::var("TARGET").as_deref() != Ok("x86_64-unknown-linux-gnu")
        || env::var("HOST") != env::var("TARGET")
        || is_set("RUSTC_LINKER")
        || is_set("CARGO_ENCODED_RUSTFLAGS")
    {
        return false;
    }
    let rustc = env::var_os("RUSTC").expect("cargo sets it");
    let Ok(sysroot) = std::process::Command::new(rustc).args(["--print", "sysroot"]).output() else {
        return false;
    };
    let sysroot = String::from_utf8_lossy(&sysroot.stdout);
    Path::new(sysroot.trim()).join("lib/rustlib/x86_64-unknown-linux-gnu/bin/gcc-ld/ld.lld").exists()
}
