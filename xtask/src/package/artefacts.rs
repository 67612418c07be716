//! Makes the artefacts of one target: .deb, .rpm, tarball and image.
//!
//! Each takes the same inputs and no clock, so that two runs make the same bytes; see `inspect.rs`.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{
    contents::{self, Built, Layout},
    release::Release,
    stub,
    target::Target,
};
use crate::{
    command::{command, output, run},
    tools,
};

/// Versions whose output lintian and rpmlint have judged.
const CARGO_DEB: &str = "3.8.0";
const CARGO_GENERATE_RPM: &str = "0.21.1";

/// Makes artefacts for one target, in a folder of its own below `work`.
#[derive(Debug)]
pub(super) struct Maker<'a> {
    pub(super) target: &'a Target,
    pub(super) release: &'a Release,
    pub(super) built: &'a Built,
    pub(super) work: PathBuf,
    /// Where the artefacts go.
    pub(super) output: PathBuf,
}

impl Maker<'_> {
    pub(super) fn deb(&self) -> Result<PathBuf> {
        let tool = tool("cargo-deb", CARGO_DEB)?;
        let manifest = self.manifest(Layout::Debian)?;
        let name = format!("tcpwatch_{}-1_{}.deb", self.release.version, self.target.architecture);
        let file = self.output.join(name);
        // `--no-strip`: the binary is stripped, and the tool for another machine's is not here.
        let mut deb = self.packager(&tool);
        deb.args(["--no-build", "--no-strip", "--manifest-path"]).arg(manifest);
        deb.args(["--target", self.target.triple, "--output"]).arg(&file);
        // The tool is built without optimisation, xz is not.
        run(deb.arg("--compress-system"))?;
        Ok(file)
    }

    pub(super) fn rpm(&self) -> Result<PathBuf> {
        let tool = tool("cargo-generate-rpm", CARGO_GENERATE_RPM)?;
        let manifest = self.manifest(Layout::Common)?;
        let name = format!("tcpwatch-{}-1.{}.rpm", self.release.version, self.target.machine);
        let file = self.output.join(name);
        let mut rpm = self.packager(&tool);
        rpm.current_dir(manifest.parent().context("the manifest is in a folder")?);
        rpm.args(["--target", self.target.triple, "--output"]).arg(&file);
        // gzip: every rpm reads it, that of EL8 and EL9 too.
        run(rpm.args(["--payload-compress", "gzip"]))?;
        Ok(file)
    }

    pub(super) fn tarball(&self) -> Result<PathBuf> {
        let name = format!("tcpwatch-{}-{}-linux", self.release.version, self.target.machine);
        let tree = self.work.join("tarball").join(&name);
        contents::lay_out(&tree, Layout::Common, self.built, self.release)?;
        let file = self.output.join(format!("{name}.tar.gz"));
        self.tar(&self.work.join("tarball"), &name, &file, "gzip -9n")?;
        Ok(file)
    }

    /// An archive of the Open Container Initiative's layout, with one layer.
    pub(super) fn image(&self) -> Result<PathBuf> {
        tools::ensure_programs(&[("buildah", "buildah")])?;
        let tree = self.work.join("image");
        contents::lay_out(&tree, Layout::Common, self.built, self.release)?;
        // The folder of the API's socket: nothing makes it in a container.
        for folder in ["run", "run/tcpwatch"] {
            let folder = tree.join(folder);
            fs::create_dir(&folder).context("a folder for the socket")?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).context("its mode")?;
        }
        let (layout, store) = (self.work.join("oci"), self.work.join("store"));
        let reference = format!("oci:{}:{}", layout.display(), self.release.version);
        for folder in [&layout, &store] {
            if folder.exists() {
                fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
            }
        }
        // Plain folders instead of mounts: they work in every sandbox.
        let buildah = || {
            let mut buildah = command("buildah");
            buildah.args(["--storage-driver", "vfs", "--root"]).arg(&store);
            buildah.arg("--runroot").arg(store.join("run"));
            buildah
        };
        let container =
            output(buildah().args(["from", "--arch", self.target.architecture, "scratch"]))?;
        let container = container.trim();
        run(buildah().args(["copy", "--quiet", container]).arg(&tree).arg("/"))?;
        let mut config = buildah();
        config.args(["config", "--os", "linux", "--arch", self.target.architecture]);
        config.args([
            "--entrypoint",
            "[\"/usr/bin/tcpwatch\"]",
            "--cmd",
            "run",
            "--port",
            "10743/tcp",
        ]);
        let Release { version, description, .. } = self.release;
        for (key, value) in [
            ("title", "tcpwatch"),
            ("version", version),
            ("description", description),
            ("licenses", "MIT OR Apache-2.0"),
        ] {
            config.arg("--label").arg(format!("org.opencontainers.image.{key}={value}"));
        }
        run(config.arg(container))?;
        let mut commit = buildah();
        commit.args(["commit", "--quiet", "--disable-compression=false", "--format", "oci"]);
        commit.arg("--timestamp").arg(self.release.epoch.to_string());
        run(commit.arg(container).arg(reference))?;
        fs::remove_dir_all(&store).context("removing buildah's store")?;
        let name =
            format!("tcpwatch-{}-{}.oci.tar", self.release.version, self.target.architecture);
        let file = self.output.join(name);
        // Its layer is compressed already.
        self.tar(&layout, ".", &file, "cat")?;
        Ok(file)
    }

    /// The tree of this layout, and a manifest that lists it.
    fn manifest(&self, layout: Layout) -> Result<PathBuf> {
        let folder = self.work.join(format!("{layout:?}").to_lowercase());
        let tree = folder.join("tree");
        let entries = contents::lay_out(&tree, layout, self.built, self.release)?;
        stub::write(&folder, &tree, &entries, self.release)
    }

    /// A tool that writes a package, with the date of the release.
    fn packager(&self, tool: &Path) -> Command {
        let mut command = command(tool);
        command.env("SOURCE_DATE_EPOCH", self.release.epoch.to_string());
        // Both look for binaries and leave files there otherwise.
        command.env("CARGO_TARGET_DIR", self.work.join("target"));
        command
    }

    /// Sorted, without names of users, all times those of the release.
    fn tar(&self, folder: &Path, what: &str, file: &Path, compressor: &str) -> Result<()> {
        let mut tar = command("tar");
        tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"]);
        tar.arg(format!("--mtime=@{}", self.release.epoch)).args(["--mode=go-w", "-I", compressor]);
        run(tar.arg("-cf").arg(file).arg("-C").arg(folder).arg(what))?;
        let size = fs::metadata(file).context("the archive")?.len();
        ensure!(size > 0, "{} is empty", file.display());
        Ok(())
    }
}

/// The tool as an earlier run has installed it, else installed now. Built without optimisation: it
/// packs a few megabytes, and its build is what takes time.
pub(super) fn tool(name: &str, version: &str) -> Result<PathBuf> {
    let own = tools::folder()?.join("bin").join(name);
    let is_it = || {
        let said = output(command(&own).arg("--version"))?;
        Ok::<_, anyhow::Error>(said.split_whitespace().any(|word| word == version))
    };
    if own.is_file() && is_it().unwrap_or(false) {
        return Ok(own);
    }
    tools::cargo_install(name, version, &["--debug"], &[])
}
