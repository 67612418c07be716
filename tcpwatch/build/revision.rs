//! Which revision of the sources is built, by the first of these that knows:
//!
//! 1. `TCPWATCH_REVISION`, for packagers;
//! 2. `.cargo_vcs_info.json`, which `cargo package` writes into the crate;
//! 3. `.git_archival.txt`, which `git archive` fills in;
//! 4. the git checkout around the package, worktrees and submodules included.
//!
//! The files of git are read here and not by its program. The program may be absent, and it refuses
//! a checkout of another user, as root would build. gitrepository-layout(5) describes them.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The revision where nothing knows it.
pub(crate) const UNKNOWN: &str = "unknown";

/// Digits of a revision that are shown: as many as `git describe` prints for a large project.
const DIGITS: usize = 12;

/// Links of references that are followed, so that a circle ends. git itself follows five.
const LINKS: usize = 5;

/// A revision, and the files that it was read from.
pub(crate) struct Found {
    /// The revision.
    pub(crate) revision: String,
    /// Files and folders that change when the revision does.
    pub(crate) watched: Vec<PathBuf>,
}

/// Looks for the revision of the package in the folder `package`.
pub(crate) fn find(chosen: Option<&str>, package: &Path) -> Found {
    let mut watched = Vec::new();
    let chosen = chosen.and_then(plain);
    let revision = chosen
        .or_else(|| of_crate(package, &mut watched))
        .or_else(|| of_archive(package.parent()?, &mut watched))
        .or_else(|| of_checkout(package.parent()?, &mut watched));
    Found { revision: revision.unwrap_or_else(|| UNKNOWN.to_owned()), watched }
}

/// A chosen revision becomes a line of the build script's output, so it is one word.
fn plain(text: &str) -> Option<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._+~/:".contains(c);
    let text = text.trim();
    (!text.is_empty() && text.chars().all(is_plain)).then(|| text.to_owned())
}

/// The start of an object's name: SHA-1 has 40 digits, SHA-256 has 64.
fn short(name: &str) -> Option<String> {
    let name = name.trim();
    let is_name = matches!(name.len(), 40 | 64) && name.bytes().all(|b| b.is_ascii_hexdigit());
    is_name.then(|| name[..DIGITS].to_owned())
}

/// `{"git": {"sha1": "…", "dirty": true}, …}`; `dirty` only where it is.
fn of_crate(package: &Path, watched: &mut Vec<PathBuf>) -> Option<String> {
    let file = package.join(".cargo_vcs_info.json");
    let text = fs::read_to_string(&file).ok()?;
    watched.push(file);
    let (_, after) = text.split_once("\"sha1\"")?;
    let revision = short(after.split('"').nth(1)?)?;
    let compact: String = text.split_whitespace().collect();
    Some(if compact.contains("\"dirty\":true") { format!("{revision}-dirty") } else { revision })
}

/// `node: …`, unless this is no archive and the placeholder is still there.
fn of_archive(root: &Path, watched: &mut Vec<PathBuf>) -> Option<String> {
    let file = root.join(".git_archival.txt");
    let text = fs::read_to_string(&file).ok()?;
    watched.push(file);
    short(text.lines().find_map(|line| line.strip_prefix("node: "))?)
}

/// Only a checkout whose top is `root`: sources inside another project have not its revision.
fn of_checkout(root: &Path, watched: &mut Vec<PathBuf>) -> Option<String> {
    let git = git_folder(root)?;
    // A worktree has its own HEAD and the references of the main one.
    let common = match fs::read_to_string(git.join("commondir")) {
        Ok(path) => git.join(path.trim()),
        Err(_) => git.clone(),
    };
    let head = git.join("HEAD");
    let mut content = fs::read_to_string(&head).ok()?;
    watched.push(head);
    for _ in 0..LINKS {
        let Some(name) = content.strip_prefix("ref: ").map(str::trim) else {
            return short(&content);
        };
        if Path::new(name).components().any(|part| part.as_os_str() == "..") {
            return None;
        }
        let loose = common.join(name);
        content = match fs::read_to_string(&loose) {
            Ok(text) => {
                watched.push(loose);
                text
            }
            Err(_) => {
                // The next commit makes the file in this folder, or a folder for it.
                watched
                    .extend(loose.ancestors().find(|folder| folder.is_dir()).map(Path::to_owned));
                let packed = common.join("packed-refs");
                let text = fs::read_to_string(&packed).ok()?;
                watched.push(packed);
                let is_it = |line: &&str| line.split(' ').nth(1) == Some(name);
                text.lines().find(is_it)?.split(' ').next()?.to_owned()
            }
        };
    }
    None
}

/// `.git`, or the folder that the file `.git` of a worktree or submodule names.
fn git_folder(root: &Path) -> Option<PathBuf> {
    let git = root.join(".git");
    if git.is_dir() {
        return Some(git);
    }
    let text = fs::read_to_string(git).ok()?;
    Some(root.join(text.strip_prefix("gitdir: ")?.trim()))
}
