//! The licences of the libraries that the binary contains, which require to be passed on with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::target::Target;
use crate::{
    command::{cargo, output},
    repository,
};

/// Beginnings of the names of files that hold a licence or a notice, in upper case.
const NAMES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    manifest_path: PathBuf,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// `None` is a normal dependency; others are `dev` and `build`.
    kind: Option<String>,
}

/// The text: a list of the libraries for `target`, then each licence with those that it is of.
pub(super) fn licences(target: &Target) -> Result<String> {
    let mut metadata = cargo();
    metadata.args(["metadata", "--locked", "--format-version", "1", "--filter-platform"]);
    let text = output(metadata.arg(target.triple).current_dir(repository::root()))?;
    let metadata: Metadata = serde_json::from_str(&text).context("cargo metadata")?;
    let linked = linked(&metadata)?;
    let mut libraries = Vec::new();
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in &metadata.packages {
        // Without a source it is ours.
        if !linked.contains(&*package.id) || package.source.is_none() {
            continue;
        }
        let name = format!("{} {}", package.name, package.version);
        let licence = package.license.as_deref();
        let licence = licence.with_context(|| format!("{name} names no licence"))?;
        libraries.push(format!("  {name} ({licence})\n"));
        let folder = package.manifest_path.parent().unwrap_or(Path::new("."));
        for text in texts_in(folder)? {
            texts.entry(text).or_default().push(name.clone());
        }
    }
    ensure!(!libraries.is_empty(), "no library is linked");
    libraries.sort();
    let mut texts: Vec<_> = texts.into_iter().map(|(text, of)| (of, text)).collect();
    texts.sort();
    let sections = texts
        .into_iter()
        .map(|(of, text)| format!("{}\n{}\n\n{}\n", "-".repeat(80), of.join(", "), text.trim()));
    let head = "tcpwatch contains these libraries. Their licences follow.\n\n";
    Ok([head.to_owned(), libraries.concat(), sections.collect()].concat())
}

/// The ids of all packages that end up in the binary. Macros are among them, which do no harm here.
fn linked(metadata: &Metadata) -> Result<BTreeSet<&str>> {
    let own = metadata.packages.iter().find(|it| it.name == "tcpwatch" && it.source.is_none());
    let mut waiting = vec![&*own.context("cargo metadata has no package tcpwatch")?.id];
    let nodes: BTreeMap<&str, &Node> =
        metadata.resolve.nodes.iter().map(|node| (&*node.id, node)).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if !seen.insert(id) {
            continue;
        }
        let node = nodes.get(id).with_context(|| format!("cargo metadata has no node {id}"))?;
        let is_normal = |it: &&Dependency| it.dep_kinds.iter().any(|it| it.kind.is_none());
        waiting.extend(node.deps.iter().filter(is_normal).map(|it| &*it.pkg));
    }
    Ok(seen)
}

/// Texts of the licences in the folder of a package; some have none there.
fn texts_in(folder: &Path) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        if path.is_file() && NAMES.iter().any(|beginning| name.starts_with(beginning)) {
            let text = fs::read(&path).with_context(|| path.display().to_string())?;
            texts.push(String::from_utf8_lossy(&text).into_owned());
        }
    }
    texts.sort();
    texts.dedup();
    Ok(texts)
}
