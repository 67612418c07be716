//! Checks of the artefacts, as an administrator meets them: linters, installation and removal,
//! and each binary run, in an emulator where it is for another machine.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{contents, target::Target};
use crate::{
    command::{command, output, run},
    repository, test,
    tools::{self, Missing},
};

/// Files that every package has, each in another folder.
const FILES: [&str; 8] = [
    "usr/bin/tcpwatch",
    contents::CONFIG,
    "usr/lib/systemd/system/tcpwatch.service",
    "usr/lib/systemd/catalog/tcpwatch.catalog",
    "usr/share/man/man1/tcpwatch-config-check.1.gz",
    "usr/share/bash-completion/completions/tcpwatch",
    "usr/share/tcpwatch/prometheus/tcpwatch.rules.yml",
    "usr/share/doc/tcpwatch/runbooks/close-wait-pileup.md",
];

/// Errors fail; warnings are printed.
pub(super) fn lintian(deb: &Path) -> Result<()> {
    tools::ensure_programs(&[("lintian", "lintian")])?;
    run(command("lintian").args(["--allow-root", "--fail-on", "error", "--info"]).arg(deb))
}

/// Errors fail; warnings are printed.
pub(super) fn rpmlint(rpm: &Path) -> Result<()> {
    tools::ensure_programs(&[("rpmlint", "rpmlint"), ("rpm", "rpm")])?;
    let settings = repository::root().join("deploy/rpm/rpmlint.toml");
    run(command("rpmlint").arg("--config").arg(settings).arg(rpm))
}

/// Installs the package in a small Debian, runs the binary, removes and purges: nothing is left.
pub(super) fn deb(deb: &Path, work: &Path) -> Result<()> {
    ensure!(scenes::is_root(), Missing("chroot needs root".to_owned()));
    let root = debian(work)?;
    let before = paths_below(&root)?;
    let package = root.join("tcpwatch.deb");
    fs::copy(deb, &package).context("copying the package")?;
    let inside = |program: &str, args: &[&str]| {
        let mut inside = command("chroot");
        inside.arg(&root).arg(program).args(args);
        inside.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
        inside
    };
    run(&mut inside("dpkg", &["--install", "tcpwatch.deb"]))?;
    has_all(&root)?;
    let link = root.join("etc/systemd/system/multi-user.target.wants/tcpwatch.service");
    ensure!(link.is_symlink(), "the service is not enabled");
    let conffiles = output(&mut inside("dpkg-query", &["-W", "-f", "${Conffiles}", "tcpwatch"]))?;
    ensure!(conffiles.contains(contents::CONFIG), "the configuration is no conffile: {conffiles}");
    ensure!(conffiles.trim().lines().count() == 1, "more conffiles than one: {conffiles}");
    speaks(inside("tcpwatch", &["--version"]), inside("tcpwatch", &[]), &installed_config())?;
    // An upgrade keeps a configuration that the administrator has changed.
    let config = root.join(contents::CONFIG);
    let changed = "[inventory]\ninterval = \"20s\"\n";
    fs::write(&config, changed).context("changing the configuration")?;
    let conf = "--force-confdef,confold";
    run(&mut inside("dpkg", &[conf, "--install", "tcpwatch.deb"]))?;
    ensure!(fs::read_to_string(&config)? == changed, "an upgrade changes the configuration");
    run(&mut inside("dpkg", &["--remove", "tcpwatch"]))?;
    ensure!(config.is_file(), "removal takes the configuration away, which only purge does");
    ensure!(!root.join("usr/bin/tcpwatch").exists(), "removal leaves the binary");
    run(&mut inside("dpkg", &["--purge", "tcpwatch"]))?;
    fs::remove_file(&package).context("removing the copy")?;
    let mut left = paths_below(&root)?;
    // dpkg's own: its lists before the last change, and the log.
    let of_dpkg = |path: &str| path.starts_with("var/lib/dpkg") || path == "var/log/dpkg.log";
    left.retain(|path| !before.contains(path) && !of_dpkg(path));
    ensure!(left.is_empty(), "purge leaves {left:?}");
    Ok(())
}

/// The essential packages of Debian 12, made once. It has dpkg and systemd's helpers, no systemd.
fn debian(work: &Path) -> Result<PathBuf> {
    let root = work.join("debian-root");
    if root.is_dir() && !root.join("tcpwatch.deb").exists() {
        return Ok(root);
    }
    tools::ensure_programs(&[("mmdebstrap", "mmdebstrap")])?;
    // A run that fails leaves no root of this name, or one with the package in it.
    let unfinished = work.join("debian-root-unfinished");
    for folder in [&root, &unfinished] {
        if folder.exists() {
            fs::remove_dir_all(folder).context("removing what a failed run has left")?;
        }
    }
    let mut bootstrap = command("mmdebstrap");
    bootstrap.args(["--quiet", "--variant=essential", "bookworm"]).arg(&unfinished);
    let made = run(&mut bootstrap);
    made.with_context(|| Missing("mmdebstrap makes no Debian (no network?)".to_owned()))?;
    fs::rename(&unfinished, &root).context("naming the finished root")?;
    Ok(root)
}

/// Digests and list of files, then into an empty root and out again.
pub(super) fn rpm(rpm: &Path, target: &Target, work: &Path) -> Result<()> {
    tools::ensure_programs(&[("rpm", "rpm")])?;
    let rpm = fs::canonicalize(rpm).context("the package")?;
    run(command("rpm").args(["--checksig", "--nosignature"]).arg(&rpm))?;
    let listed = output(command("rpm").args(["--query", "--list", "--package"]).arg(&rpm))?;
    for file in FILES {
        ensure!(listed.lines().any(|line| line == format!("/{file}")), "{file} is not in it");
    }
    let config = output(command("rpm").args(["--query", "--configfiles", "--package"]).arg(&rpm))?;
    ensure!(config.trim() == format!("/{}", contents::CONFIG), "configuration files: {config}");
    let root = work.join("rpm-root");
    if root.exists() {
        fs::remove_dir_all(&root).context("removing the last root")?;
    }
    fs::create_dir_all(&root).context("an empty root")?;
    ensure!(scenes::is_root(), Missing("rpm --root needs root".to_owned()));
    let inside = |args: &[&str]| {
        let mut inside = command("rpm");
        inside.arg("--root").arg(&root).args(["--dbpath", "/db"]).args(args);
        inside
    };
    // No shell there to run scripts, no package that could be required.
    let install = ["--install", "--nodeps", "--noscripts", "--ignorearch"];
    run(inside(&install).arg(&rpm))?;
    has_all(&root)?;
    let binary = root.join("usr/bin/tcpwatch");
    runs(target, &binary)?;
    run(&mut inside(&["--erase", "--noscripts", "tcpwatch"]))?;
    let left: Vec<_> = FILES.into_iter().filter(|file| root.join(file).exists()).collect();
    ensure!(left.is_empty(), "erasing leaves {left:?}");
    for script in ["post.sh", "preun.sh", "postun.sh"] {
        run(command("sh").arg("-n").arg(repository::root().join("deploy/rpm").join(script)))?;
    }
    Ok(())
}

pub(super) fn tarball(tarball: &Path, target: &Target, work: &Path) -> Result<()> {
    let folder = fresh(&work.join("untarred"))?;
    run(command("tar").arg("-xzf").arg(tarball).args(["--strip-components=1", "-C"]).arg(&folder))?;
    has_all(&folder)?;
    let binary = folder.join("usr/bin/tcpwatch");
    runs(target, &binary)
}

/// skopeo reads it, umoci unpacks it, and its binary runs in that root.
pub(super) fn image(image: &Path, target: &Target, work: &Path) -> Result<()> {
    tools::ensure_programs(&[("skopeo", "skopeo"), ("umoci", "umoci")])?;
    let archive = format!("oci-archive:{}", image.display());
    let mut inspect = command("skopeo");
    inspect.args(["inspect", "--override-arch", target.architecture, "--config", &archive]);
    let config: serde_json::Value = serde_json::from_str(&output(&mut inspect)?)?;
    ensure!(config["architecture"] == target.architecture, "{}", config["architecture"]);
    ensure!(config["config"]["Entrypoint"][0] == "/usr/bin/tcpwatch", "{}", config["config"]);
    let layout = fresh(&work.join("image-layout"))?;
    run(command("tar").arg("-xf").arg(image).arg("-C").arg(&layout))?;
    let bundle = work.join("bundle");
    if bundle.exists() {
        fs::remove_dir_all(&bundle).context("removing the last bundle")?;
    }
    let tag = output(command("umoci").args(["list", "--layout"]).arg(&layout))?;
    let named = format!("{}:{}", layout.display(), tag.trim());
    let mut unpack = command("umoci");
    unpack.args(["unpack", "--image", &named]);
    if !scenes::is_root() {
        unpack.arg("--rootless");
    }
    run(unpack.arg(&bundle))?;
    let root = bundle.join("rootfs");
    has_all(&root)?;
    let binary = root.join("usr/bin/tcpwatch");
    if !target.is_native() || !scenes::is_root() {
        return runs(target, &binary);
    }
    let inside = || {
        let mut inside = command("chroot");
        inside.arg(&root).arg("/usr/bin/tcpwatch");
        inside
    };
    let mut version = inside();
    version.arg("--version");
    speaks(version, inside(), &installed_config())
}

/// The tests that attack tcpwatch, and those of its system calls: musl makes others than glibc.
pub(super) fn attacked(binary: &Path) -> Result<()> {
    ensure!(scenes::is_root(), Missing("the tests need root".to_owned()));
    test::attack(binary)
}

/// The binary of another machine judges every recorded incident as this machine's does.
pub(super) fn emulated(target: &Target, binary: &Path, native: &Path) -> Result<()> {
    let folder = repository::root().join("tcpwatch/tests/incidents");
    let mut recordings = repository::files_below(&folder)?;
    recordings.retain(|file| file.extension().is_some_and(|it| it == "jsonl"));
    ensure!(!recordings.is_empty(), "no recordings in {}", folder.display());
    println!("{} recordings by {} and by this machine's", recordings.len(), binary.display());
    let judge = |mut judge: Command, recording: &Path| {
        judge.args(["check", "--json", "--config"]).arg(folder.join("tcpwatch.toml"));
        let judged = judge.arg("--replay").arg(recording).output().context("cannot run it")?;
        let said = String::from_utf8_lossy(&judged.stderr).into_owned();
        ensure!(
            judged.status.code().is_some_and(|code| code < 3),
            "{}: {said}",
            recording.display()
        );
        Ok((judged.status.code(), judged.stdout))
    };
    for recording in &recordings {
        let here = judge(command(native), recording)?;
        let there = judge(target.command(binary)?, recording)?;
        ensure!(here == there, "{} is judged differently", recording.display());
    }
    Ok(())
}

/// Neither groff nor mandoc has a warning.
pub(super) fn man_pages(folder: &Path) -> Result<()> {
    tools::ensure_programs(&[("mandoc", "mandoc"), ("man", "man-db"), ("groff", "groff-base")])?;
    for page in repository::files_below(folder)? {
        run(command("mandoc").args(["-T", "lint", "-W", "warning"]).arg(&page))?;
        let mut man = command("man");
        man.args(["--warnings", "--encoding=UTF-8", "--local-file"]).arg(&page);
        let shown = man.env("LC_ALL", "C.UTF-8").env("MANPAGER", "cat").output()?;
        let said = String::from_utf8_lossy(&shown.stderr);
        ensure!(shown.status.success() && said.is_empty(), "{}: {said}", page.display());
        ensure!(shown.stdout.len() > 200, "{} is empty", page.display());
    }
    Ok(())
}

/// Each shell reads its own.
pub(super) fn completions(folder: &Path) -> Result<()> {
    tools::ensure_programs(&[("bash", "bash"), ("zsh", "zsh"), ("fish", "fish")])?;
    for (shell, file) in
        [("bash", "tcpwatch.bash"), ("zsh", "_tcpwatch"), ("fish", "tcpwatch.fish")]
    {
        run(command(shell).arg("-n").arg(folder.join(file)))?;
    }
    // The completion of an option by the shell itself.
    let script = "source \"$1\"; COMP_WORDS=(tcpwatch check --rep); COMP_CWORD=2; \
                  _tcpwatch tcpwatch --rep check; echo \"${COMPREPLY[*]}\"";
    let mut bash = command("bash");
    let completed = output(bash.args(["-c", script, "bash"]).arg(folder.join("tcpwatch.bash")))?;
    ensure!(completed.trim() == "--replay", "bash completes --rep to {completed:?}");
    Ok(())
}

/// Where the configuration is, seen from within a root.
fn installed_config() -> PathBuf {
    Path::new("/").join(contents::CONFIG)
}

/// The binary runs on this machine, in an emulator if need be.
fn runs(target: &Target, binary: &Path) -> Result<()> {
    let mut version = target.command(binary)?;
    version.arg("--version");
    let config = repository::root().join("deploy/tcpwatch.toml");
    speaks(version, target.command(binary)?, &config)
}

/// The binary prints its version, and accepts the configuration that is packaged with it.
fn speaks(mut version: Command, mut tcpwatch: Command, config: &Path) -> Result<()> {
    let said = output(&mut version)?;
    ensure!(said.starts_with("tcpwatch "), "--version prints {said:?}");
    run(tcpwatch.args(["config", "check"]).arg(config))
}

fn has_all(root: &Path) -> Result<()> {
    let missing: Vec<_> = FILES.into_iter().filter(|file| !root.join(file).is_file()).collect();
    ensure!(missing.is_empty(), "not installed: {missing:?}");
    Ok(())
}

/// Every file and folder, from `root` on.
fn paths_below(root: &Path) -> Result<BTreeSet<String>> {
    let mut find = command("find");
    let listed = output(find.arg(root).args(["-xdev", "-mindepth", "1", "-printf", "%P\\n"]))?;
    Ok(listed.lines().map(str::to_owned).collect())
}

fn fresh(folder: &Path) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    Ok(folder.to_owned())
}
