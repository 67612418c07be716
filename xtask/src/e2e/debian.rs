//! A Debian with its own kernel and systemd, as a disk image that is made once and kept.
//!
//! The guests write into a copy on the side (`snapshot=on`), so the image stays as it was made. Its
//! name has the hash of the recipe: another recipe makes another image.

use std::{
    fmt::Write,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::{
    command::{command, run},
    tools::Missing,
    vm::debian_mirror,
};

/// A release of Debian.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Suite {
    pub(super) name: &'static str,
    /// The kernel, as `uname -r` begins.
    pub(super) kernel: &'static str,
    /// As `systemctl --version` begins.
    pub(super) systemd: &'static str,
    /// Whether the .rpm is installed there too: one version of rpm is enough.
    pub(super) rpm: bool,
}

/// The oldest that docs/INSTALL.md promises, and the one after it.
pub(super) const SUITES: [Suite; 2] = [
    Suite { name: "bullseye", kernel: "5.10.", systemd: "systemd 247 ", rpm: false },
    Suite { name: "bookworm", kernel: "6.1.", systemd: "systemd 252 ", rpm: true },
];

/// The suites of these names; all without names.
pub(super) fn select(names: &[String]) -> Result<Vec<&'static Suite>> {
    if names.is_empty() {
        return Ok(SUITES.iter().collect());
    }
    let find = |name: &String| {
        let known = SUITES.map(|suite| suite.name).join(", ");
        let suite = SUITES.iter().find(|suite| suite.name == name.as_str());
        suite.with_context(|| format!("no guest has the suite `{name}`: {known}"))
    };
    names.iter().map(find).collect()
}

/// Beyond those that mmdebstrap's variant `apt` has. `bpftool` lists the programs in the kernel.
const PACKAGES: [&str; 9] = [
    "bpftool",
    "dbus",
    "initramfs-tools",
    "iproute2",
    "kmod",
    "linux-image-cloud-amd64",
    "procps",
    "systemd-sysv",
    "udev",
];

/// Holds everything with some hundred megabytes to spare. Empty blocks take no space on this host.
const SIZE: &str = "1200M";

/// Takes the steps. The second disk is an archive as it is.
const SERVICE: &str = "\
[Unit]
Description=Steps of cargo xtask e2e
After=basic.target

[Service]
ExecStart=/bin/sh -c 'mkdir /run/e2e && tar -xf /dev/vdb -C /run/e2e && exec sh /run/e2e/guest.sh'
";

/// An image, with the kernel that boots it.
#[derive(Debug)]
pub(super) struct Debian {
    pub(super) suite: &'static Suite,
    folder: PathBuf,
}

impl Debian {
    pub(super) fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    pub(super) fn initrd(&self) -> PathBuf {
        self.folder.join("initrd.img")
    }

    pub(super) fn disk(&self) -> PathBuf {
        self.folder.join("disk")
    }

    /// The image of an earlier run with the same recipe, else a new one; a minute on an idle machine.
    pub(super) fn make(suite: &'static Suite, images: &Path) -> Result<Self> {
        let recipe = recipe(suite);
        let folder = images.join(format!("{}-{}", suite.name, hash(&recipe)));
        if !folder.is_dir() {
            let unfinished = images.join(format!("{}-unfinished", suite.name));
            if unfinished.exists() {
                fs::remove_dir_all(&unfinished).context("removing an unfinished image")?;
            }
            fs::create_dir_all(&unfinished).with_context(|| unfinished.display().to_string())?;
            make(suite, &recipe, &unfinished)?;
            // Last, so that an image of this name is whole.
            fs::rename(&unfinished, &folder).with_context(|| folder.display().to_string())?;
        }
        Ok(Self { suite, folder })
    }
}

/// Arguments of mmdebstrap before the suite.
fn recipe(suite: &Suite) -> Vec<String> {
    let rpm = if suite.rpm { ",rpm" } else { "" };
    vec![
        "--quiet".to_owned(),
        "--variant=apt".to_owned(),
        format!("--include={}{rpm}", PACKAGES.join(",")),
        // Before the kernel's package makes its initrd: two drivers instead of all there are.
        "--essential-hook=mkdir -p \"$1/etc/initramfs-tools/conf.d\" \
         \"$1/usr/share/initramfs-tools/modules.d\" && \
         echo MODULES=list >\"$1/etc/initramfs-tools/conf.d/e2e\" && \
         printf 'virtio_pci\\nvirtio_blk\\n' >\"$1/usr/share/initramfs-tools/modules.d/e2e\""
            .to_owned(),
    ]
}

/// Enough of it for a name.
fn hash(recipe: &[String]) -> String {
    let digest = Sha256::digest(recipe.join("\n") + SERVICE + SIZE);
    digest.iter().take(6).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn make(suite: &Suite, recipe: &[String], folder: &Path) -> Result<()> {
    let root = folder.join("root");
    let mut bootstrap = command("mmdebstrap");
    bootstrap.args(recipe).args(["--format=dir", suite.name]).arg(&root);
    // Explicit, because mmdebstrap adds suites that an old release has no longer.
    bootstrap.arg(debian_mirror()?);
    let made = run(&mut bootstrap);
    made.with_context(|| Missing("mmdebstrap makes no Debian (no network?)".to_owned()))?;
    let units = root.join("etc/systemd/system");
    fs::write(units.join("e2e.service"), SERVICE).context("the unit of the steps")?;
    let starts = units.join("multi-user.target.wants");
    fs::create_dir_all(&starts).context("a folder for the link to it")?;
    symlink("../e2e.service", starts.join("e2e.service")).context("the link to it")?;
    for name in ["vmlinuz", "initrd.img"] {
        // Links to the newest in boot/.
        fs::copy(root.join(name), folder.join(name)).with_context(|| name.to_owned())?;
    }
    let mut disk = command("mke2fs");
    disk.args(["-q", "-t", "ext4", "-E", "root_owner=0:0", "-d"]).arg(&root);
    run(disk.arg(folder.join("disk")).arg(SIZE))?;
    fs::remove_dir_all(&root).with_context(|| root.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::{SUITES, hash, recipe, select};

    #[test]
    fn an_image_is_made_anew_when_its_recipe_changes() {
        let [old, new] = SUITES.map(|suite| recipe(&suite));
        assert_eq!(hash(&old), hash(&recipe(&SUITES[0])));
        assert_ne!(hash(&old), hash(&new));
        assert_eq!(hash(&old).len(), 12);
    }

    #[test]
    fn an_unknown_suite_is_refused_with_those_that_exist() {
        assert_eq!(select(&[]).map(|suites| suites.len()).ok(), Some(SUITES.len()));
        let refused = select(&["sarge".to_owned()]).map_err(|error| error.to_string());
        assert!(refused.is_err_and(|error| error.contains("bullseye, bookworm")));
    }
}
