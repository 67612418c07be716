//! Tells the compiler which revision of the sources this is, as `TCPWATCH_REVISION`.
//!
//! It never fails: a build without a revision is still a build.

mod revision;

use std::{env, path::PathBuf};

/// The variable that overrides all else, and the one that the sources read.
const VARIABLE: &str = "TCPWATCH_REVISION";

fn main() {
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-env-changed={}", VARIABLE);
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    let chosen = env::var(VARIABLE).ok();
    let found = revision::find(chosen.as_deref(), &package);
    for file in found.watched {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    println!("cargo::rustc-env={}={}", VARIABLE, found.revision);
}
