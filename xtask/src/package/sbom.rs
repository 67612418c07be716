//! The bill of materials: every library in the binary, in CycloneDX's JSON, by cargo-cyclonedx.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{artefacts, release::Release, target::TARGETS};
use crate::{
    command::{command, run},
    repository,
};

/// The version whose options are used here.
const CARGO_CYCLONEDX: &str = "0.5.9";

/// The tool writes beside each manifest of the workspace; these are taken away again.
const NAME: &str = "sbom-of-tcpwatch";

pub(super) fn make(release: &Release, output: &Path) -> Result<PathBuf> {
    let tool = artefacts::tool("cargo-cyclonedx", CARGO_CYCLONEDX)?;
    let root = repository::root();
    let mut cyclonedx = command(tool);
    cyclonedx.args(["cyclonedx", "--format", "json", "--no-build-deps", "--spec-version", "1.5"]);
    cyclonedx.args(["--target", TARGETS[0].triple, "--override-filename", NAME]);
    cyclonedx.env("SOURCE_DATE_EPOCH", release.epoch.to_string());
    let outcome = run(cyclonedx.current_dir(&root));
    let file = output.join(format!("tcpwatch-{}.cdx.json", release.version));
    let own = root.join("tcpwatch").join(format!("{NAME}.json"));
    let written = fs::read_to_string(&own).with_context(|| format!("reading {}", own.display()));
    for folder in fs::read_dir(&root).context("the folders of the workspace")? {
        let path = folder?.path().join(format!("{NAME}.json"));
        if path.is_file() {
            fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
    }
    outcome?;
    // Our own crates are named by their place on this machine.
    let text = written?.replace(&root.display().to_string(), "/tcpwatch");
    fs::write(&file, text).with_context(|| file.display().to_string())?;
    Ok(file)
}
