//! The record beside the kernel part: its sources and its toolchain.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::toolchain::Versions;
use crate::repository::files_below;

/// All that the objects are made of, relative to the top folder.
const SOURCES: [&str; 5] = [
    "tcpwatch-common/Cargo.toml",
    "tcpwatch-common/src",
    "tcpwatch-ebpf/Cargo.lock",
    "tcpwatch-ebpf/Cargo.toml",
    "tcpwatch-ebpf/src",
];

/// The record.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) sources_sha256: String,
    /// By its path.
    pub(super) objects_sha256: BTreeMap<String, String>,
    pub(super) toolchain: Versions,
}

impl Record {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("reading {}; `cargo xtask ebpf` writes it", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{}", path.display()))
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self).context("the record as JSON")?;
        text.push('\n');
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }
}

/// Names and contents of all sources, in the order of their names.
pub(super) fn sources_sha256(root: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    for source in SOURCES {
        let path = root.join(source);
        let files = if path.is_dir() { files_below(&path)? } else { vec![path] };
        ensure!(!files.is_empty(), "no files in {source}");
        for file in files {
            let contents =
                fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
            let name = file.strip_prefix(root).unwrap_or(&file);
            // Lengths first, so that no two trees read the same.
            let name = name.to_string_lossy();
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name.as_bytes());
            hash.update((contents.len() as u64).to_le_bytes());
            hash.update(&contents);
        }
    }
    Ok(hex(&hash.finalize()))
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::sha256;

    #[test]
    fn sha256_is_the_one_that_sha256sum_prints() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), abc);
    }
}
