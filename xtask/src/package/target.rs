//! The machines that packages are for, and the static binary of each.
//!
//! musl, linked statically: one binary runs on every promised system, whatever its C library is. The
//! linker for another machine is the `rust-lld` of rustup's toolchain.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use super::release::Release;
use crate::{
    command::{cargo, command, find, output, run},
    repository,
    tools::{self, Missing},
};

/// A machine, by the names that each kind of package has for it.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) triple: &'static str,
    /// As Rust, the kernel, rpm and qemu call it.
    pub(super) machine: &'static str,
    /// As Debian and the Open Container Initiative call it.
    pub(super) architecture: &'static str,
}

pub(super) const TARGETS: [Target; 2] = [
    Target { triple: "x86_64-unknown-linux-musl", machine: "x86_64", architecture: "amd64" },
    Target { triple: "aarch64-unknown-linux-musl", machine: "aarch64", architecture: "arm64" },
];

impl Target {
    /// Whether its programs run here without an emulator.
    pub(super) fn is_native(&self) -> bool {
        env::consts::ARCH == self.machine
    }

    /// A command that runs `binary`, in an emulator where this machine is another.
    pub(super) fn command(&self, binary: &Path) -> Result<Command> {
        if self.is_native() {
            return Ok(command(binary));
        }
        let mut emulated = command(self.emulator()?);
        emulated.arg(binary);
        Ok(emulated)
    }

    /// qemu for programs of this machine.
    pub(super) fn emulator(&self) -> Result<PathBuf> {
        let name = format!("qemu-{}-static", self.machine);
        if find(&name).is_none() {
            tools::install_packages(&["qemu-user-static"])?;
        }
        find(&name).with_context(|| Missing(format!("{name} is not there")))
    }

    /// Builds the binary as it is shipped, and says where it is.
    pub(super) fn build(&self, release: &Release) -> Result<PathBuf> {
        self.ensure_library()?;
        let mut build = cargo();
        build.args(["build", "--release", "--locked", "--package", "tcpwatch", "--target"]);
        build.arg(self.triple).current_dir(repository::root());
        self.configure(&mut build)?;
        // Symbols make a third of the file, and no stack of a release is read without the same build.
        build.env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
        build.env("SOURCE_DATE_EPOCH", release.epoch.to_string());
        run(&mut build)?;
        let binary = repository::target()?.join(self.triple).join("release/tcpwatch");
        let header = output(command("readelf").arg("-lW").arg(&binary))?;
        ensure!(!header.contains("INTERP"), "{} is not static", binary.display());
        Ok(binary)
    }

    /// Compiler, linker and flags for this target, in the environment of a cargo.
    fn configure(&self, cargo: &mut Command) -> Result<()> {
        let name = self.triple.to_uppercase().replace('-', "_");
        if !self.is_native() {
            cargo.env(format!("CARGO_TARGET_{name}_LINKER"), "rust-lld");
        }
        if has_c_code()? {
            cargo.env(format!("CC_{}", self.triple.replace('-', "_")), self.c_compiler()?);
        }
        cargo.env_remove("RUSTFLAGS");
        cargo.env(format!("CARGO_TARGET_{name}_RUSTFLAGS"), remapped_paths()?);
        Ok(())
    }

    /// A compiler for the glibc of that machine, with its headers: libraries that are linked have C code
    /// that calls no libc and includes some of them.
    fn c_compiler(&self) -> Result<String> {
        if self.is_native() {
            return Ok("cc".to_owned());
        }
        let name = format!("{}-linux-gnu-gcc", self.machine);
        let headers = format!("/usr/{}-linux-gnu/include/stdint.h", self.machine);
        if find(&name).is_none() || !Path::new(&headers).exists() {
            let compiler = format!("gcc-{}-linux-gnu", self.machine.replace('_', "-"));
            let library = format!("libc6-dev-{}-cross", self.architecture);
            tools::install_packages(&[&compiler, &library])?;
        }
        Ok(name)
    }

    /// The standard library for this target, by rustup where it is missing.
    fn ensure_library(&self) -> Result<()> {
        if self.has_library()? {
            return Ok(());
        }
        let lacks = format!("the toolchain has no standard library for {}", self.triple);
        if find("rustup").is_none() {
            bail!(Missing(format!("{lacks}, and there is no rustup to add it")));
        }
        let added = run(command("rustup").args(["target", "add", self.triple]));
        added
            .with_context(|| Missing(format!("{lacks}, and rustup cannot add it (no network?)")))?;
        ensure!(self.has_library()?, Missing(format!("{lacks}, though rustup has added it")));
        Ok(())
    }

    fn has_library(&self) -> Result<bool> {
        let mut rustc = command("rustc");
        rustc.args(["--print", "target-libdir", "--target", self.triple]);
        Ok(Path::new(output(&mut rustc)?.trim()).is_dir())
    }
}

/// A library with C code builds it by the crate `cc`.
fn has_c_code() -> Result<bool> {
    let lock = fs::read_to_string(repository::root().join("Cargo.lock")).context("Cargo.lock")?;
    Ok(lock.lines().any(|line| line == "name = \"cc\""))
}

/// Paths of this machine, which messages of panics have in them, become the same everywhere.
fn remapped_paths() -> Result<String> {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    let registry = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home);
    let pairs = [
        (registry.context("neither CARGO_HOME nor HOME is set")?, "/cargo"),
        (repository::target()?, "/target"),
        (repository::root(), "/tcpwatch"),
    ];
    let flag = |(path, name): &(PathBuf, &str)| {
        let path = path.display().to_string();
        ensure!(!path.contains(' '), "a path with a space cannot be a flag: {path}");
        Ok(format!("--remap-path-prefix={path}={name}"))
    };
    Ok(pairs.iter().map(flag).collect::<Result<Vec<_>>>()?.join(" "))
}
