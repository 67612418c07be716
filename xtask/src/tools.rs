//! Installs the tools that a task needs and the machine lacks.
//!
//! Debian packages by apt-get, as root only; cargo tools into target/tools,
//! so that the developer's own stay. A tool that cannot be had is a [`Missing`],
//! which `cargo xtask test` counts as skipped.

use std::{
    fmt,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result};

use crate::{
    command::{cargo, command, find, run},
    repository,
};

/// Something is not there and cannot be installed; the text says what to do.
#[derive(Debug)]
pub(crate) struct Missing(pub(crate) String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// Installs Debian packages.
pub(crate) fn install_packages(packages: &[&str]) -> Result<()> {
    static UPDATED: AtomicBool = AtomicBool::new(false);
    let list = packages.join(" ");
    if find("apt-get").is_none() {
        return Err(Missing(format!("install what Debian calls: {list}")).into());
    }
    if !scenes::is_root() {
        let hint = format!("sudo apt-get update && sudo apt-get install -y {list}");
        return Err(Missing(format!("not root; run: {hint}")).into());
    }
    // Some packages start a daemon, which no test needs. A daemon that they start in a PID namespace
    // of its own ends with apt-get, and SYSTEMD_OFFLINE lets systemctl start nothing (systemctl(1)).
    // Another start-up of this host does start what is enabled.
    let apt = || {
        let mut apt = command("unshare");
        apt.args(["--fork", "--pid", "--kill-child", "--mount-proc", "apt-get"]);
        apt.env("DEBIAN_FRONTEND", "noninteractive").env("SYSTEMD_OFFLINE", "1");
        apt
    };
    let failed = |what: &str| Missing(format!("{what} failed (no network?); needed: {list}"));
    if !UPDATED.swap(true, Ordering::Relaxed) {
        // One unreachable source must not hide the others: install decides.
        if let Err(error) = run(apt().arg("update")) {
            println!("{error:#}");
        }
    }
    // Recommends would bring daemons along (prometheus-node-exporter).
    let install = ["install", "-y", "--no-install-recommends"];
    run(apt().args(install).args(packages)).with_context(|| failed("apt-get install"))
}

/// Installs the packages that hold those of `programs` that are not there.
pub(crate) fn ensure_programs(programs: &[(&str, &'static str)]) -> Result<()> {
    let missing = programs.iter().filter(|(program, _)| find(program).is_none());
    let mut packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() { Ok(()) } else { install_packages(&packages) }
}

/// Where [`cargo_install`] puts binaries.
pub(crate) fn folder() -> Result<PathBuf> {
    Ok(repository::target()?.join("tools"))
}

/// `cargo install` into target/tools; answers with the binary.
pub(crate) fn cargo_install(
    name: &str,
    version: &str,
    args: &[&str],
    environment: &[(&str, &str)],
) -> Result<PathBuf> {
    let folder = folder()?;
    let mut install = cargo();
    install
        .args(["install", "--locked", "--root"])
        .arg(&folder)
        .arg(format!("{name}@{version}"))
        .args(args)
        .envs(environment.iter().copied())
        // The BPF flags, if any, are not for this build.
        .env_remove("RUSTFLAGS");
    run(&mut install)
        .with_context(|| Missing(format!("{name} {version} could not be built (no network?)")))?;
    Ok(folder.join("bin").join(name))
}
