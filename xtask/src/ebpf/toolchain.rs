//! The toolchain for the bpf target: a rustc that may use `-Z build-std`, the
//! sources of core, bpf-linker, and an objcopy that knows BPF.
//!
//! rustup's nightly with rust-src where it is there, else Debian's packages
//! `rustc-web` and the like, which are installed when missing. bpf-linker
//! reads the bitcode of rustc, so its LLVM must not be older than rustc's.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    command::{command, find, output},
    tools::{self, Missing},
};

/// bpf-linker's version, and the LLVM that it is built with: Debian 12 has
/// 22, its default of this version is 23.
const BPF_LINKER: &str = "0.13.0";
const LLVM_MAJOR: u32 = 22;
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// Debian's packages; `llvm-22` brings llvm-objcopy, linking with LLVM needs
/// `libzstd-dev`.
const RUST_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
const LLVM_PACKAGES: [&str; 3] = ["llvm-22-dev", "llvm-22", "libzstd-dev"];

/// The oldest rustc that builds the 2024 edition; Debian 12 also has 1.63.
const OLDEST_MINOR: u32 = 85;

/// Versions that the bytes of the object depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Versions {
    rustc: String,
    rustc_commit: String,
    rustc_llvm: String,
    bpf_linker: String,
    /// Of the LLVM whose library bpf-linker loads.
    bpf_linker_llvm: String,
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let commit = self.rustc_commit.get(..9).unwrap_or(&self.rustc_commit);
        write!(f, "rustc {} ({commit}, LLVM {}), ", self.rustc, self.rustc_llvm)?;
        write!(f, "bpf-linker {} (LLVM {})", self.bpf_linker, self.bpf_linker_llvm)
    }
}

/// A toolchain that is there.
#[derive(Debug)]
pub(super) struct Toolchain {
    rust: Rust,
    pub(super) sysroot: PathBuf,
    pub(super) versions: Versions,
    bpf_linker: PathBuf,
}

/// Where its rustc comes from.
#[derive(Clone, Copy, Debug)]
enum Rust {
    Nightly,
    Debian,
}

impl Toolchain {
    /// The one at hand, installed if there is none; of two, the `preferred`.
    pub(super) fn at_hand(preferred: Option<&Versions>) -> Result<Self> {
        let mut usable = [Rust::Nightly, Rust::Debian].into_iter().filter(|r| r.is_usable());
        let first = match usable.next() {
            Some(rust) => rust,
            None => {
                tools::install_packages(&RUST_PACKAGES).context(
                    "no toolchain for the bpf target (rustup's nightly with the component \
                     rust-src would do as well)",
                )?;
                ensure!(
                    Rust::Debian.is_usable(),
                    Missing(format!("/usr/bin/rustc with sources, 1.{OLDEST_MINOR} or newer"))
                );
                Rust::Debian
            }
        };
        let first = Self::complete(first)?;
        match usable.next() {
            Some(second) if preferred.is_some_and(|p| *p != first.versions) => {
                let second = Self::complete(second)?;
                Ok(if preferred == Some(&second.versions) { second } else { first })
            }
            _ => Ok(first),
        }
    }

    /// Its cargo, with itself and bpf-linker first in PATH.
    pub(super) fn cargo(&self) -> Command {
        let mut cargo = self.rust.tool("cargo");
        let path = env::var_os("PATH").unwrap_or_default();
        let linker = self.bpf_linker.parent().map(Path::to_path_buf);
        // Debian's rustc before rustup's of the same name.
        let own = matches!(self.rust, Rust::Debian).then(|| PathBuf::from("/usr/bin"));
        let folders = own.into_iter().chain(linker).chain(env::split_paths(&path));
        if let Ok(path) = env::join_paths(folders) {
            cargo.env("PATH", path);
        }
        cargo.env_remove("RUSTFLAGS").env_remove("RUSTC").env_remove("RUSTC_WRAPPER");
        if matches!(self.rust, Rust::Debian) {
            // Unlocks -Z build-std on a stable compiler.
            cargo.env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTUP_TOOLCHAIN");
        }
        cargo
    }

    /// A tool of LLVM that knows BPF: `objcopy`, `nm`.
    pub(super) fn llvm(&self, name: &str) -> Command {
        command(Path::new(LLVM_PREFIX).join(format!("bin/llvm-{name}")))
    }

    /// Adds LLVM and bpf-linker to a Rust that is there.
    fn complete(rust: Rust) -> Result<Self> {
        let llvm = Path::new(LLVM_PREFIX);
        if !llvm.join("bin/llvm-objcopy").is_file() {
            tools::install_packages(&LLVM_PACKAGES)?;
        }
        let bpf_linker = match bpf_linker()? {
            Some(binary) => binary,
            None => {
                if scenes::is_root() || !llvm.join("bin/llvm-config").is_file() {
                    tools::install_packages(&LLVM_PACKAGES)?;
                }
                let feature = format!("llvm-{LLVM_MAJOR}");
                tools::cargo_install(
                    "bpf-linker",
                    BPF_LINKER,
                    &["--no-default-features", "--features", &feature],
                    // Without it the build looks for LLVM in the wrong folder.
                    &[("LLVM_PREFIX", LLVM_PREFIX)],
                )?
            }
        };
        let version = rust.verbose_version()?;
        let sysroot = output(rust.tool("rustc").args(["--print", "sysroot"]))?;
        let llvm_version = output(command(llvm.join("bin/llvm-objcopy")).arg("--version"))?;
        Ok(Self {
            rust,
            sysroot: sysroot.trim().into(),
            versions: Versions {
                rustc: version.field("release")?,
                rustc_commit: version.field("commit-hash")?,
                rustc_llvm: version.field("LLVM version")?,
                bpf_linker: BPF_LINKER.to_owned(),
                bpf_linker_llvm: llvm_version
                    .split_once("LLVM version ")
                    .and_then(|(_, version)| version.split_whitespace().next())
                    .context("no version in the output of llvm-objcopy")?
                    .to_owned(),
            },
            bpf_linker,
        })
    }
}

impl Rust {
    fn tool(self, name: &str) -> Command {
        match self {
            Self::Nightly => {
                let mut tool = command("rustup");
                tool.args(["run", "nightly", name]);
                tool
            }
            Self::Debian => command(Path::new("/usr/bin").join(name)),
        }
    }

    /// There, with the sources of core, new enough for the crates and no
    /// newer than bpf-linker's LLVM.
    fn is_usable(self) -> bool {
        let sources = || -> Result<bool> {
            let sysroot = output(self.tool("rustc").args(["--print", "sysroot"]))?;
            let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
            let version = self.verbose_version()?;
            let minor: u32 =
                version.field("release")?.split('.').nth(1).unwrap_or_default().parse()?;
            let llvm: u32 =
                version.field("LLVM version")?.split('.').next().unwrap_or_default().parse()?;
            let cargo = self.tool("cargo").arg("--version").output()?.status.success();
            Ok(core.is_dir() && minor >= OLDEST_MINOR && llvm <= LLVM_MAJOR && cargo)
        };
        sources().unwrap_or(false)
    }

    fn verbose_version(self) -> Result<VerboseVersion> {
        output(self.tool("rustc").arg("-vV")).map(VerboseVersion)
    }
}

/// The output of `rustc -vV`.
struct VerboseVersion(String);

impl VerboseVersion {
    fn field(&self, name: &str) -> Result<String> {
        self.0
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .map(str::to_owned)
            .with_context(|| format!("no `{name}` in the output of rustc -vV"))
    }
}

/// A bpf-linker of our version: on PATH or installed by an earlier run.
fn bpf_linker() -> Result<Option<PathBuf>> {
    let own = tools::folder()?.join("bin/bpf-linker");
    let expected = format!("bpf-linker {BPF_LINKER}");
    let candidates = find("bpf-linker").into_iter().chain([own]);
    Ok(candidates.filter(|file| file.is_file()).find(|file| {
        output(command(file).arg("--version")).is_ok_and(|said| said.trim() == expected)
    }))
}
