//! The files of a package, as they are installed: one list for every kind of package.
//!
//! Debian and the others differ in three places: completions of zsh, licences, and Debian's own
//! files. Man pages and the changelog are compressed, as both ask.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use super::release::Release;
use crate::{
    command::{command, run},
    repository,
};

/// Whose conventions the files follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Debian,
    /// rpm's, and that of the tarball and the image.
    Common,
}

/// All that was built for a package: the binary, its own description, and its licences.
#[derive(Clone, Debug)]
pub(super) struct Built {
    pub(super) binary: PathBuf,
    /// The default configuration.
    pub(super) config: PathBuf,
    /// The folder that `tcpwatch manual` has filled.
    pub(super) manual: PathBuf,
    pub(super) third_party: PathBuf,
}

/// A file in a tree.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Below the root, without a slash in front.
    pub(super) path: String,
    pub(super) mode: u32,
    /// Kept on upgrade where the administrator has changed it.
    pub(super) is_config: bool,
    pub(super) is_doc: bool,
}

pub(super) const CONFIG: &str = "etc/tcpwatch/tcpwatch.toml";
pub(super) const UNITS: &str = "usr/lib/systemd/system";
const DOC: &str = "usr/share/doc/tcpwatch";

/// Fills the empty folder `tree`, and returns its files, sorted by path.
pub(super) fn lay_out(
    tree: &Path,
    layout: Layout,
    built: &Built,
    release: &Release,
) -> Result<Vec<Entry>> {
    if tree.exists() {
        fs::remove_dir_all(tree).with_context(|| tree.display().to_string())?;
    }
    let mut tree = Tree { root: tree.to_owned(), entries: Vec::new() };
    tree.common_files(built)?;
    match layout {
        Layout::Debian => tree.debian_files(built, release)?,
        Layout::Common => tree.other_files(built)?,
    }
    tree.entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(tree.entries)
}

struct Tree {
    root: PathBuf,
    entries: Vec<Entry>,
}

impl Tree {
    fn common_files(&mut self, built: &Built) -> Result<()> {
        let source = repository::root();
        self.file(&built.binary, "usr/bin/tcpwatch", 0o755)?;
        self.file(&built.config, CONFIG, 0o644)?;
        for (from, to) in [
            ("deploy/systemd/tcpwatch.service", "usr/lib/systemd/system/tcpwatch.service"),
            ("deploy/systemd/tcpwatch.catalog", "usr/lib/systemd/catalog/tcpwatch.catalog"),
            (
                "deploy/prometheus/tcpwatch.rules.yml",
                "usr/share/tcpwatch/prometheus/tcpwatch.rules.yml",
            ),
            ("deploy/grafana/tcpwatch-host.json", "usr/share/tcpwatch/grafana/tcpwatch-host.json"),
            ("docs/findings.schema.json", "usr/share/tcpwatch/findings.schema.json"),
        ] {
            self.file(&source.join(from), to, 0o644)?;
        }
        for (from, to) in [
            ("README.md", "README.md"),
            ("SECURITY.md", "SECURITY.md"),
            ("docs/INSTALL.md", "INSTALL.md"),
            ("deploy/debian/copyright", "copyright"),
            ("deploy/systemd/before-6.1.conf", "examples/before-6.1.conf"),
            ("deploy/systemd/host-only.conf", "examples/host-only.conf"),
            ("deploy/prometheus/prometheus.example.yml", "examples/prometheus.example.yml"),
        ] {
            self.doc(&source.join(from), to)?;
        }
        self.doc(&built.third_party, "THIRD-PARTY")?;
        for file in repository::files_below(&source.join("docs/runbooks"))? {
            self.doc(&file, &format!("runbooks/{}", name_of(&file)?))?;
        }
        for page in repository::files_below(&built.manual.join("man"))? {
            let to = format!("usr/share/man/man1/{}", name_of(&page)?);
            self.compressed(&page, &to, true)?;
        }
        let completions = built.manual.join("completions");
        let bash = "usr/share/bash-completion/completions/tcpwatch";
        self.file(&completions.join("tcpwatch.bash"), bash, 0o644)?;
        let fish = "usr/share/fish/vendor_completions.d/tcpwatch.fish";
        self.file(&completions.join("tcpwatch.fish"), fish, 0o644)
    }

    fn debian_files(&mut self, built: &Built, release: &Release) -> Result<()> {
        let source = repository::root();
        let zsh = built.manual.join("completions/_tcpwatch");
        self.file(&zsh, "usr/share/zsh/vendor-completions/_tcpwatch", 0o644)?;
        self.compressed(&source.join("CHANGELOG.md"), &format!("{DOC}/changelog"), true)?;
        let changelog = self.root.join("changelog.Debian");
        fs::write(&changelog, debian_changelog(release)?).context("writing Debian's changelog")?;
        self.compressed(&changelog, &format!("{DOC}/changelog.Debian"), true)?;
        fs::remove_file(&changelog).context("removing a copy")?;
        let overrides = source.join("deploy/debian/tcpwatch.lintian-overrides");
        self.file(&overrides, "usr/share/lintian/overrides/tcpwatch", 0o644)
    }

    fn other_files(&mut self, built: &Built) -> Result<()> {
        let source = repository::root();
        let zsh = built.manual.join("completions/_tcpwatch");
        self.file(&zsh, "usr/share/zsh/site-functions/_tcpwatch", 0o644)?;
        self.doc(&source.join("CHANGELOG.md"), "CHANGELOG.md")?;
        for licence in ["LICENSE-APACHE", "LICENSE-MIT", "tcpwatch-ebpf/LICENSE-GPL2"] {
            let from = source.join(licence);
            let to = format!("usr/share/licenses/tcpwatch/{}", name_of(&from)?);
            self.file(&from, &to, 0o644)?;
        }
        Ok(())
    }

    fn doc(&mut self, from: &Path, to: &str) -> Result<()> {
        self.copy(from, &format!("{DOC}/{to}"), 0o644, true)
    }

    fn file(&mut self, from: &Path, to: &str, mode: u32) -> Result<()> {
        self.copy(from, to, mode, false)
    }

    fn copy(&mut self, from: &Path, to: &str, mode: u32, is_doc: bool) -> Result<()> {
        let path = self.root.join(to);
        let folder = path.parent().context("every file is in a folder")?;
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        fs::copy(from, &path).with_context(|| format!("copying {}", from.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).context("setting a mode")?;
        // Folders that a umask of the developer closes are closed in the package.
        for folder in folder.ancestors().take_while(|folder| *folder != self.root) {
            let open = fs::Permissions::from_mode(0o755);
            fs::set_permissions(folder, open).context("setting the mode of a folder")?;
        }
        let is_config = to.starts_with("etc/");
        self.entries.push(Entry { path: to.to_owned(), mode, is_config, is_doc });
        Ok(())
    }

    /// Compressed by gzip, without name and time.
    fn compressed(&mut self, from: &Path, to: &str, is_doc: bool) -> Result<()> {
        self.copy(from, to, 0o644, is_doc)?;
        let entry = self.entries.last_mut().context("it was just copied")?;
        entry.path.push_str(".gz");
        run(command("gzip").args(["-9n", "--force"]).arg(self.root.join(to)))
    }
}

/// Debian's changelog is one of the package; the one of the program is beside it.
fn debian_changelog(release: &Release) -> Result<String> {
    let Release { version, .. } = release;
    let date = release.date()?;
    ensure!(!version.contains('-'), "a version of Debian's own form has no hyphen: {version}");
    Ok(format!(
        "tcpwatch ({version}-1) unstable; urgency=medium\n\n  \
         * Version {version}; changelog.gz says what is new.\n\n \
         -- {}  {date}\n",
        super::packager()
    ))
}

fn name_of(file: &Path) -> Result<&str> {
    let name = file.file_name().and_then(|name| name.to_str());
    name.with_context(|| format!("no name in UTF-8: {}", file.display()))
}
