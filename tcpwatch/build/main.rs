//! Gives the sources what they cannot know: the revision that they are, as `TCPWATCH_REVISION`, and
//! the runbooks, as `runbooks.rs` in `OUT_DIR`.

mod revision;
mod runbooks;

use std::{env, error::Error, path::PathBuf};

/// The variable that overrides all else, and the one that the sources read.
const VARIABLE: &str = "TCPWATCH_REVISION";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-env-changed={}", VARIABLE);
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    let chosen = env::var(VARIABLE).ok();
    // A build without a revision is still a build.
    let found = revision::find(chosen.as_deref(), &package);
    for file in found.watched {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    println!("cargo::rustc-env={}={}", VARIABLE, found.revision);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo names no OUT_DIR")?);
    let folder = runbooks::write(&package, &out.join("runbooks.rs"))
        .map_err(|error| format!("the runbooks cannot be read: {error}"))?;
    println!("cargo::rerun-if-changed={}", folder.display());
    Ok(())
}
