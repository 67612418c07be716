//! `cargo xtask package`: everything that a release consists of, in target/packages, and its checks.
//!
//! For each machine a .deb, an .rpm, a tarball and an image, all around one static binary; then the
//! bill of materials and the checksums. A target or tool that cannot be had is skipped with its
//! reason in the table at the end. Only a failure makes the exit code non-zero.

mod artefacts;
mod contents;
mod inspect;
mod release;
mod sbom;
mod stub;
mod successor;
mod summary;
mod target;
mod third_party;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use self::{
    artefacts::Maker,
    contents::Built,
    release::Release,
    summary::Summary,
    target::{TARGETS, Target},
};
use crate::{
    command::{command, output, run},
    repository,
};

/// The variable with the name and address of the person or group that publishes the packages.
const PACKAGER: &str = "TCPWATCH_PACKAGER";

/// Debian requires an address. The domain is one that cannot exist (RFC 6761), so that it is not
/// taken for a real one.
fn packager() -> String {
    env::var(PACKAGER)
        .unwrap_or_else(|_| "tcpwatch contributors <packages@tcpwatch.invalid>".into())
}

pub(crate) use self::successor::{Packages, this_and_next};

pub(crate) fn package() -> Result<()> {
    let folder = repository::target()?.join("packages");
    let mut summary = Summary::default();
    let outcome = make_all(&folder, &mut summary);
    // Also after a failure: it shows what holds up to there.
    println!("\n=== {} ===\n{summary}", folder.display());
    outcome
}

/// All artefacts first, then the check that takes longest.
fn make_all(folder: &Path, summary: &mut Summary) -> Result<()> {
    let release = Release::read()?;
    let work = folder.with_file_name("packages-work");
    if folder.exists() {
        fs::remove_dir_all(folder).context("removing the last packages")?;
    }
    fs::create_dir_all(folder).context("a folder for the packages")?;
    let mut native = None;
    for target in &TARGETS {
        let name = format!("{} binary", target.machine);
        let Some(binary) = summary.make(&name, || target.build(&release))? else {
            for artefact in [".deb", ".rpm", "tarball", "image"] {
                summary.skip(&format!("{} {artefact}", target.machine), "there is no binary");
            }
            continue;
        };
        let work = work.join(target.machine);
        let built = describe(target, &release, binary, &work)?;
        let maker =
            Maker { target, release: &release, built: &built, work, output: folder.to_owned() };
        package_for(&maker, summary)?;
        if target.is_native() {
            native = Some(built);
        } else if let Some(native) = &native {
            let name = format!("{} runs and judges alike", target.machine);
            summary.check(&name, || inspect::emulated(target, &built.binary, &native.binary))?;
        }
    }
    summary.make("bill of materials", || sbom::make(&release, folder))?;
    summary.make("SHA256SUMS", || checksums(folder))?;
    if let Some(native) = &native {
        summary.check("man pages and completions", || check_manual(&native.manual))?;
        let name = format!("{} binary: attacks, confinement", env::consts::ARCH);
        summary.check(&name, || inspect::attacked(&native.binary))?;
    }
    Ok(())
}

/// Checks what `tcpwatch manual` has written into `folder`.
pub(crate) fn check_manual(folder: &Path) -> Result<()> {
    inspect::man_pages(&folder.join("man"))?;
    inspect::completions(&folder.join("completions"))
}

/// Makes each artefact and checks it.
fn package_for(maker: &Maker<'_>, summary: &mut Summary) -> Result<()> {
    let machine = maker.target.machine;
    let again =
        Maker { work: maker.work.join("again"), output: maker.work.join("again"), ..*maker };
    fs::create_dir_all(&again.output).context("a folder for the second run")?;
    if let Some(deb) = summary.make(&format!("{machine} .deb"), || maker.deb())? {
        summary.check(&format!("{machine} .deb: the same bytes again"), || {
            same_bytes(&deb, &again.deb()?)
        })?;
        summary.check(&format!("{machine} .deb: lintian"), || inspect::lintian(&deb))?;
        if maker.target.is_native() {
            summary.check(&format!("{machine} .deb: installed and purged"), || {
                inspect::deb(&deb, &maker.work)
            })?;
        }
    }
    if let Some(rpm) = summary.make(&format!("{machine} .rpm"), || maker.rpm())? {
        summary.check(&format!("{machine} .rpm: the same bytes again"), || {
            same_bytes(&rpm, &again.rpm()?)
        })?;
        summary.check(&format!("{machine} .rpm: rpmlint"), || inspect::rpmlint(&rpm))?;
        summary.check(&format!("{machine} .rpm: installed and erased"), || {
            inspect::rpm(&rpm, maker.target, &maker.work)
        })?;
    }
    if let Some(tarball) = summary.make(&format!("{machine} tarball"), || maker.tarball())? {
        summary.check(&format!("{machine} tarball: the same bytes again"), || {
            same_bytes(&tarball, &again.tarball()?)
        })?;
        summary.check(&format!("{machine} tarball: runs"), || {
            inspect::tarball(&tarball, maker.target, &maker.work)
        })?;
    }
    if let Some(image) = summary.make(&format!("{machine} image"), || maker.image())? {
        summary.check(&format!("{machine} image: the same bytes again"), || {
            same_bytes(&image, &again.image()?)
        })?;
        summary.check(&format!("{machine} image: valid, runs"), || {
            inspect::image(&image, maker.target, &maker.work)
        })?;
    }
    Ok(())
}

/// Man pages, completions and licences, which the binary and the lock file give.
fn describe(target: &Target, release: &Release, binary: PathBuf, work: &Path) -> Result<Built> {
    let manual = work.join("manual");
    if manual.exists() {
        fs::remove_dir_all(&manual).context("removing the last man pages")?;
    }
    let mut generate = target.command(&binary)?;
    generate.env("SOURCE_DATE_EPOCH", release.epoch.to_string());
    run(generate.arg("manual").arg(&manual))?;
    let third_party = work.join("THIRD-PARTY");
    fs::write(&third_party, third_party::licences(target)?).context("writing licences")?;
    let config = repository::root().join("deploy/tcpwatch.toml");
    Ok(Built { binary, config, manual, third_party })
}

fn same_bytes(first: &Path, second: &Path) -> Result<()> {
    let read = |path: &Path| fs::read(path).with_context(|| path.display().to_string());
    let differ = "two runs from the same files make different bytes";
    ensure!(read(first)? == read(second)?, "{differ}: {} {}", first.display(), second.display());
    fs::remove_file(second).with_context(|| second.display().to_string())
}

fn checksums(folder: &Path) -> Result<PathBuf> {
    let mut sum = command("sha256sum");
    for file in repository::files_below(folder)? {
        sum.arg(file.file_name().context("a file has a name")?);
    }
    let text = output(sum.current_dir(folder))?;
    let file = folder.join("SHA256SUMS");
    fs::write(&file, text).context("writing SHA256SUMS")?;
    run(command("sha256sum").args(["--check", "--quiet", "SHA256SUMS"]).current_dir(folder))?;
    Ok(file)
}
