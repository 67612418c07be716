//! Every text of the tree avoids a list of words: tired readers get it in one pass.
//!
//! A line is checked whole, so the names in code are held to the list too. The list holds words
//! with a plainer substitute, pronouns for persons that stand for a process, a peer or a socket,
//! and sentences whose subject is a clause. A rule with a right use has a line in [`RIGHT`].
//! Recordings, lock files, licences and binaries are not checked.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

/// Words, in lower case, with what to write instead.
const WORDS: [(&[&str], &str); 12] = [
    (&["dial", "dials", "dialed", "dialled", "dialing", "dialling"], "connect"),
    (&["vain"], "say that it failed"),
    (&["room", "rooms"], "space, or a number that is free"),
    (&["rest"], "others, remainder, pause"),
    (&["usual", "usually", "unusual"], "baseline, mostly"),
    (&["asked"], "requested, or name the request"),
    (&["told"], "reported, known"),
    (&["wanted"], "expected, selected"),
    (&["mend", "mends", "mended", "mending"], "repair, correct"),
    (&["alone"], "only"),
    (&["nobody", "somebody", "anybody", "whoever"], "name the process, peer, socket or person"),
    (&["moon"], "a frequency"),
];

/// Parts of a line, in lower case, whose subject is nearly always a process, a peer or a socket.
const WHO: [&str; 14] = [
    "those who ",
    "is who ",
    "who accept",
    "who bind",
    "who close",
    "who connect",
    "who fail",
    "who hold",
    "who keep",
    "who lead",
    "who listen",
    "who own",
    "who send",
    "who wait",
];

/// A sentence has a noun for its subject: it begins with none of these.
const BEGINNINGS: [&str; 3] = ["That", "What", "Who"];

/// Uses that are right: the file or folder, the text, and the reason.
const RIGHT: [(&str, &str, &str); 5] = [
    ("", "REST", "the name of a style of interfaces"),
    ("tcpwatch", "WANTED", "the name of a map of the object"),
    ("", "\"wanted\"", "the label of that map in the metrics"),
    ("docs/runbooks", "net.Dial(", "a function of Go"),
    ("tcpwatch/tests/plain_language", "", "this list itself"),
];

/// Neither folder nor file is of the project's own words: built, recorded, or quoted.
const SKIPPED: [&str; 8] = [
    ".git",
    "target",
    "Cargo.lock",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "tcpwatch-ebpf/Cargo.lock",
    "tcpwatch-ebpf/LICENSE-GPL2",
    "tcpwatch/tests/incidents",
];

/// Fewer files than the tree has had since the first version: the walk has missed a folder.
const FEWEST_FILES: usize = 200;

#[test]
fn every_text_of_the_tree_is_in_plain_language() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let mut files = Vec::new();
    find_files(&root, &root, &mut files)?;
    let mut read = 0;
    let mut faults = Vec::new();
    for file in files {
        let text = match fs::read_to_string(root.join(&file)) {
            Ok(text) => text,
            // Binaries, and files that a build or an editor has removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| file.display().to_string()),
        };
        read += 1;
        faults.extend(faults_of(&file.to_string_lossy(), &text));
    }
    ensure!(read > FEWEST_FILES, "only {read} files were found below {}", root.display());
    ensure!(faults.is_empty(), "{} lines:\n{}", faults.len(), faults.join("\n"));
    Ok(())
}

#[test]
fn words_pronouns_and_beginnings_are_found() {
    for line in [
        "a client that dials a port",
        "const DIAL_TRIES: u32 = 1;",
        "let told = 1;",
        "it tried in vain.",
        "who leads a finding",
        "/// What it does.",
        "is done. That is all.",
        "# Of those it has many.",
        "| Who | closes |",
    ] {
        assert_eq!(faults_of("some/file.rs", line).len(), 1, "{line}");
    }
    for line in [
        "a medial roomy dialogue",
        "restart the server, which is REST",
        "what a person who reads does",
        "/// The kernel counts that.",
        "untold, unwanted, standalone: this is whole",
    ] {
        assert_eq!(faults_of("some/file.rs", line), Vec::<String>::new(), "{line}");
    }
    let faults = faults_of("some/file.rs", "fine\nthe rest");
    assert_eq!(faults, ["some/file.rs:2: \"rest\" (others, remainder, pause): the rest"]);
}

/// All files below `folder`, from `root` on, but what is [`SKIPPED`].
fn find_files(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let path = entry.path();
        let below_root = path.strip_prefix(root)?.to_owned();
        // No link, and `.git` is a file in a worktree.
        let kind = entry.file_type()?;
        if SKIPPED.iter().any(|skipped| below_root == Path::new(skipped)) {
            continue;
        }
        if kind.is_dir() {
            find_files(root, &path, files)?;
        } else if kind.is_file() {
            files.push(below_root);
        }
    }
    Ok(())
}

/// One line of text for each line that has a fault, with file, line and what to do.
fn faults_of(file: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut checked = line.to_owned();
        for (_, right, _) in RIGHT.iter().filter(|(path, ..)| file.starts_with(path)) {
            // The empty text stands for the whole line.
            checked = if right.is_empty() { String::new() } else { checked.replace(right, "") };
        }
        if let Some((part, advice)) = fault_of(&checked) {
            faults.push(format!("{file}:{}: {part:?} ({advice}): {}", number + 1, line.trim()));
        }
    }
    faults
}

/// The first fault of a line, with what to write instead.
fn fault_of(line: &str) -> Option<(String, &'static str)> {
    const BEGINNING: &str = "begin the sentence with a noun";
    for word in line.split(|character: char| !character.is_alphabetic()) {
        let lower = word.to_lowercase();
        if let Some((_, advice)) = WORDS.iter().find(|(words, _)| words.contains(&&*lower)) {
            return Some((word.to_owned(), advice));
        }
        if BEGINNINGS.contains(&word) {
            return Some((word.to_owned(), BEGINNING));
        }
    }
    if line.contains("Of those ") {
        return Some(("Of those".to_owned(), BEGINNING));
    }
    let lower = line.to_lowercase() + " ";
    let who = WHO.iter().find(|who| lower.contains(*who))?;
    Some((who.trim_end().to_owned(), "name the process, peer or socket"))
}
