//! The revision that the build script finds, in every way to have the sources.

#[path = "../build/revision.rs"]
mod revision;
mod support;

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use revision::{Found, UNKNOWN, find};
use support::Folder;

const FIRST: &str = "0123456789abcdef0123456789abcdef01234567";
const SECOND: &str = "fedcba9876543210fedcba9876543210fedcba98";

/// Sources with these files; the package is in `tcpwatch`.
fn sources(files: &[(&str, &str)]) -> Result<Folder> {
    let folder = Folder::new()?;
    fs::create_dir(folder.path.join("tcpwatch"))?;
    for (name, text) in files {
        let file = folder.path.join(name);
        fs::create_dir_all(file.parent().context("a file lies in a folder")?)?;
        fs::write(file, text)?;
    }
    Ok(folder)
}

fn of(folder: &Folder) -> Found {
    find(None, &folder.path.join("tcpwatch"))
}

#[test]
fn every_way_to_have_the_sources_has_its_revision() -> Result<()> {
    let crate_info =
        format!("{{\"git\": {{\"sha1\": \"{FIRST}\"}}, \"path_in_vcs\": \"tcpwatch\"}}");
    let dirty = format!("{{\"git\":{{\"sha1\":\"{FIRST}\",\"dirty\": true}}}}");
    let (loose, archive) = (format!("{FIRST}\n"), format!("node: {SECOND}\n"));
    let packed =
        format!("# pack-refs with: peeled\n{SECOND} refs/heads/x\n{FIRST} refs/heads/a/b\n");
    let table: [(&[(&str, &str)], &str); 10] = [
        (&[], UNKNOWN),
        (&[("tcpwatch/.cargo_vcs_info.json", &crate_info)], "0123456789ab"),
        (&[("tcpwatch/.cargo_vcs_info.json", &dirty)], "0123456789ab-dirty"),
        (&[(".git_archival.txt", &archive)], "fedcba987654"),
        // A checkout has the placeholder, so git decides.
        (&[(".git_archival.txt", "node: $Format:%H$\n"), (".git/HEAD", &loose)], "0123456789ab"),
        (
            &[(".git/HEAD", "ref: refs/heads/a/b\n"), (".git/refs/heads/a/b", &loose)],
            "0123456789ab",
        ),
        (&[(".git/HEAD", "ref: refs/heads/a/b\n"), (".git/packed-refs", &packed)], "0123456789ab"),
        (
            &[
                (".git", "gitdir: main/worktrees/w\n"),
                ("main/worktrees/w/HEAD", "ref: refs/heads/x\n"),
                ("main/worktrees/w/commondir", "../..\n"),
                ("main/refs/heads/x", &loose),
            ],
            "0123456789ab",
        ),
        // The first commit is still to come; a reftable keeps no files.
        (&[(".git/HEAD", "ref: refs/heads/main\n")], UNKNOWN),
        (&[(".git/HEAD", "ref: refs/heads/.invalid\n"), (".git/refs/heads", "")], UNKNOWN),
    ];
    for (files, expected) in table {
        assert_eq!(of(&sources(files)?).revision, expected, "{files:?}");
    }
    Ok(())
}

#[test]
fn a_packager_overrides_and_cannot_write_a_second_line() -> Result<()> {
    let folder = sources(&[(".git/HEAD", FIRST)])?;
    let with = |chosen| find(Some(chosen), &folder.path.join("tcpwatch")).revision;
    assert_eq!(with("1.2-3~deb12u1"), "1.2-3~deb12u1");
    assert_eq!(with(""), "0123456789ab");
    assert_eq!(with("a\ncargo::warning=b"), "0123456789ab");
    Ok(())
}

/// Each step of a checkout's life touches something that the step before had watched.
#[test]
fn what_is_watched_changes_with_the_revision() -> Result<()> {
    let folder = sources(&[])?;
    let git = |args: &[&str]| -> Result<()> {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]);
        git.args(args).current_dir(&folder.path);
        git.env_remove("GIT_DIR").env("GIT_CONFIG_GLOBAL", "nonexistent");
        let output = git.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "git {args:?}: {}: {said}", output.status);
        Ok(())
    };
    if Command::new("git").arg("--version").output().is_err() {
        return support::skip("needs the command git");
    }
    git(&["init", "--quiet"])?;
    let commit = ["commit", "--quiet", "--allow-empty", "--message", "m"];
    let steps: [&[&str]; 6] = [
        &commit,
        &["pack-refs", "--all", "--prune"],
        &commit,
        &["checkout", "--quiet", "-b", "a/b"],
        &commit,
        &["checkout", "--quiet", "--detach", "HEAD~1"],
    ];
    let mut before = of(&folder);
    for step in steps {
        let stamps =
            |found: &Found| -> Vec<_> { found.watched.iter().map(|file| stamp_of(file)).collect() };
        let stamps_before = stamps(&before);
        git(step)?;
        let after = of(&folder);
        if after.revision != before.revision {
            ensure!(stamps(&before) != stamps_before, "{step:?}: {:?}", before.watched);
        }
        ensure!(after.revision != UNKNOWN, "{step:?}");
        before = after;
    }
    Ok(())
}

/// As cargo looks: a folder with all that is below it.
fn stamp_of(path: &Path) -> Vec<Option<(std::time::SystemTime, u64)>> {
    let own = path.metadata().ok();
    let own = own.and_then(|data| Some((data.modified().ok()?, data.len())));
    let below = path.read_dir().into_iter().flatten().flatten();
    [own].into_iter().chain(below.flat_map(|entry| stamp_of(&entry.path()))).collect()
}

#[test]
fn version_and_build_info_say_the_same_revision() -> Result<()> {
    let said = Command::new(env!("CARGO_BIN_EXE_tcpwatch")).arg("--version").output()?;
    let said = String::from_utf8(said.stdout)?;
    let expected =
        format!("tcpwatch {} ({})\n", env!("CARGO_PKG_VERSION"), tcpwatch::agent::REVISION);
    assert_eq!(said, expected);
    Ok(())
}
