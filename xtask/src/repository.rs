//! Where things lie in this repository.

use std::{
    env, iter,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;

use crate::command::{cargo, command, output, run};

/// The top folder.
pub(crate) fn root() -> PathBuf {
    // Cargo sets it for `cargo run`; the other is for a copied binary.
    let xtask = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    xtask.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Cargo's target folder, wherever the user has put it.
pub(crate) fn target() -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let text = output(
        cargo().args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(root()),
    )?;
    let metadata: Metadata = serde_json::from_str(&text).context("cargo metadata")?;
    Ok(metadata.target_directory)
}

const RELEASE: [&str; 4] = ["build", "--release", "--package", "tcpwatch"];

/// Builds tcpwatch in release and says where the binary is.
pub(crate) fn build_tcpwatch() -> Result<PathBuf> {
    run(cargo().args(RELEASE).current_dir(root()))?;
    Ok(target()?.join("release/tcpwatch"))
}

/// Begins the same beside other work, with the time of the CPUs that is left. It is silent:
/// [`build_tcpwatch`] waits for its end, and says what is wrong.
pub(crate) fn begin_to_build_tcpwatch() -> Result<Child> {
    let mut build = command("nice");
    build.args(["-n", "19"]).arg(cargo().get_program()).args(RELEASE).current_dir(root());
    build.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Of its own, so that its compilers can be ended with it.
    build.process_group(0).spawn().context("cannot run nice")
}

/// Ends a process and all that it has started in its group.
pub(crate) fn end_group(leader: &Child) {
    // Fails only if all have ended already.
    let _ = kill_process_group(Pid::from_child(leader), Signal::KILL);
}

/// Likewise without optimisation, by the command of the tests: after them there is nothing to do.
/// Another command would have other features of dependencies, and build them anew.
pub(crate) fn build_tcpwatch_for_tests() -> Result<PathBuf> {
    run(cargo().args(["test", "--no-run", "--workspace"]).current_dir(root()))?;
    Ok(target()?.join("debug/tcpwatch"))
}

/// Every file below `folder`, sorted; nothing if there is no such folder.
pub(crate) fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = match folder.read_dir() {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).context(format!("reading {}", folder.display())),
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("reading {}", folder.display()))?;
            let kind = entry.file_type().with_context(|| entry.path().display().to_string())?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else {
                files.extend(iter::once(entry.path()));
            }
        }
    }
    files.sort();
    Ok(files)
}
