//! A manifest for cargo-deb and cargo-generate-rpm, which read the list of files from one.
//!
//! It is written into a folder of its own and not into tcpwatch/Cargo.toml: the list in
//! `contents.rs` serves the tarball and the image too, and the files are outside the source tree.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{
    contents::{self, Entry},
    release::Release,
};
use crate::repository;

/// The text of `apt show`, one paragraph: cargo-deb breaks it into lines.
const DESCRIPTION: &str = "\
    tcpwatch is an agent for one host. Kernel hooks (eBPF) count events, a walk over the socket \
    tables counts sockets, and an engine turns both into findings: the condition, the process that \
    causes it and the remedies. It serves metrics for Prometheus and a page for people on the \
    loopback address, and needs nothing from the applications. It needs Linux 5.10 or later with \
    BTF.";

/// rpm's, of at most 79 characters.
const SUMMARY: &str = "Watches TCP on this host and names the process to blame";

/// Writes the manifest for the files of `tree` into `folder`, and returns its path.
pub(super) fn write(
    folder: &Path,
    tree: &Path,
    entries: &[Entry],
    release: &Release,
) -> Result<PathBuf> {
    let scripts = folder.join("no-scripts");
    fs::create_dir_all(&scripts).with_context(|| scripts.display().to_string())?;
    fs::write(folder.join("empty.rs"), "").context("writing an empty crate")?;
    let manifest = folder.join("Cargo.toml");
    let text = [package(release), deb(tree, entries), rpm(tree, entries)].concat();
    fs::write(&manifest, text).with_context(|| manifest.display().to_string())?;
    Ok(manifest)
}

fn package(release: &Release) -> String {
    let Release { version, description, .. } = release;
    format!(
        "[package]\nname = \"tcpwatch\"\nversion = {version:?}\nedition = \"2024\"\n\
         description = {description:?}\nlicense = \"MIT OR Apache-2.0\"\n\n\
         [lib]\npath = \"empty.rs\"\n\n[workspace]\n\n"
    )
}

/// The unit is enabled and started, as Debian does; an upgrade restarts it after the new files are
/// there. Scripts are those of debhelper. No user is made (DynamicUser=), and no file is written
/// outside the package, so that nothing is left for `purge`.
fn deb(tree: &Path, entries: &[Entry]) -> String {
    let mut text = format!(
        "[package.metadata.deb]\nmaintainer = {:?}\nsection = \"net\"\npriority = \"optional\"\n\
         depends = \"init-system-helpers (>= 1.51)\"\n\
         extended-description = {DESCRIPTION:?}\nmaintainer-scripts = \"no-scripts\"\n\
         systemd-units = {{ unit-scripts = {:?}, unit-name = \"tcpwatch\", enable = true, \
         start = true, restart-after-upgrade = true }}\nassets = [\n",
        super::packager(),
        tree.join(contents::UNITS).display().to_string(),
    );
    for Entry { path, mode, .. } in entries {
        // cargo-deb takes it from the folder of the units.
        if path.starts_with(contents::UNITS) {
            continue;
        }
        let source = tree.join(path).display().to_string();
        let _ = writeln!(text, "    [{source:?}, {path:?}, \"{mode:o}\"],");
    }
    text + "]\n\n"
}

fn rpm(tree: &Path, entries: &[Entry]) -> String {
    let script =
        |name: &str| repository::root().join("deploy/rpm").join(name).display().to_string();
    let mut text = format!(
        "[package.metadata.generate-rpm]\nsummary = {SUMMARY:?}\nrelease = \"1\"\nlicense = \"MIT OR Apache-2.0\"\n\
         auto-req = \"no\"\n\
         post_install_script = {:?}\npre_uninstall_script = {:?}\npost_uninstall_script = {:?}\n\
         assets = [\n",
        script("post.sh"),
        script("preun.sh"),
        script("postun.sh"),
    );
    for Entry { path, mode, is_config, is_doc } in entries {
        let source = tree.join(path).display().to_string();
        let config = if *is_config { ", config = \"noreplace\"" } else { "" };
        let doc = if *is_doc { ", doc = true" } else { "" };
        let _ = writeln!(
            text,
            "    {{ source = {source:?}, dest = \"/{path}\", mode = \"{mode:o}\"{config}{doc} }},"
        );
    }
    text + "]\n"
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Entry, contents, deb, rpm};

    #[test]
    fn a_changed_configuration_is_kept_and_the_unit_is_listed_once() {
        let entry = |path: &str, is_config| Entry {
            path: path.to_owned(),
            mode: 0o644,
            is_config,
            is_doc: false,
        };
        let unit = format!("{}/tcpwatch.service", contents::UNITS);
        let entries = [entry(contents::CONFIG, true), entry(&unit, false)];
        let (deb, rpm) = (deb(Path::new("/tree"), &entries), rpm(Path::new("/tree"), &entries));
        // cargo-deb finds the unit itself, and takes what is in /etc for configuration.
        assert!(!deb.contains(&unit) && deb.contains("\"/tree/usr/lib/systemd/system\""), "{deb}");
        assert!(deb.contains("\"etc/tcpwatch/tcpwatch.toml\", \"644\""), "{deb}");
        assert_eq!(rpm.matches("config = \"noreplace\"").count(), 1, "{rpm}");
        assert_eq!(rpm.matches(&format!("dest = \"/{unit}\"")).count(), 1, "{rpm}");
    }
}
