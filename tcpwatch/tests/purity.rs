//! The engine and the facts are pure: time and facts in, findings out.
//!
//! Every file below them is parsed, and every path in it is looked at, with `use` trees resolved.
//! So a name that reaches a clock, a file, a socket, a thread or the kernel is found wherever it
//! stands and however it is imported.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use syn::{
    ItemUse, Macro, UseTree,
    visit::{self, Visit},
};

/// No path may begin with one of these.
const FORBIDDEN: [&str; 24] = [
    // Records of the kernel side are decoded before they are facts.
    "tcpwatch_common",
    // The order of their elements differs from run to run, and a recording must not.
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::fs",
    "std::io",
    "std::env",
    "std::thread",
    "std::process",
    "std::os",
    "std::sync::Mutex",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::time::Instant",
    "std::time::SystemTime",
    "tokio",
    "aya",
    "libc",
    "rustix",
    "tracing",
    "crate::kernel",
    "crate::publish",
    "crate::agent",
    "crate::cli",
];

/// Macros that write somewhere.
const WRITING: [&str; 5] = ["print", "println", "eprint", "eprintln", "dbg"];

fn forbidden(path: &str) -> bool {
    FORBIDDEN.iter().any(|it| path == *it || path.starts_with(&format!("{it}::")))
}

/// The paths of one file.
#[derive(Default)]
struct Paths {
    /// Names that `use` brings in, by what they stand for.
    imported: HashMap<String, String>,
    found: Vec<String>,
}

impl Paths {
    fn import(&mut self, before: &str, tree: &UseTree) {
        let join = |name: &str| match (before, name) {
            (before, "self") => before.to_owned(),
            ("", name) => name.to_owned(),
            (before, name) => format!("{before}::{name}"),
        };
        match tree {
            UseTree::Path(path) => self.import(&join(&path.ident.to_string()), &path.tree),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(before, tree)),
            UseTree::Glob(_) => self.found.push(before.to_owned()),
            UseTree::Name(name) => {
                let path = join(&name.ident.to_string());
                let last = path.rsplit("::").next().unwrap_or(&path).to_owned();
                self.found.push(path.clone());
                self.imported.insert(last, path);
            }
            UseTree::Rename(rename) => {
                let path = join(&rename.ident.to_string());
                self.found.push(path.clone());
                self.imported.insert(rename.rename.to_string(), path);
            }
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.import("", &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<_> = path.segments.iter().map(|it| it.ident.to_string()).collect();
        let first = names.first().and_then(|first| self.imported.get(first));
        let whole = match first {
            Some(imported) => [&[imported.clone()][..], &names[1..]].concat().join("::"),
            None => names.join("::"),
        };
        self.found.push(whole);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, it: &'ast Macro) {
        // The body of a macro is no syntax tree: its arguments are parsed as expressions.
        let arguments = it.parse_body_with(
            syn::punctuated::Punctuated::<syn::Expr, syn::Token![,]>::parse_terminated,
        );
        arguments.iter().flatten().for_each(|argument| self.visit_expr(argument));
        self.found.extend(it.path.get_ident().map(|name| format!("{name}!")));
        visit::visit_macro(self, it);
    }
}

/// The parts of a file's text that are not pure.
fn impure(text: &str) -> Result<Vec<String>> {
    let file = syn::parse_file(text)?;
    let mut paths = Paths::default();
    // Imports first: a function may stand above the `use` that it needs.
    for item in &file.items {
        if let syn::Item::Use(item) = item {
            paths.import("", &item.tree);
        }
    }
    paths.visit_file(&file);
    let is_writing = |path: &str| path.strip_suffix('!').is_some_and(|it| WRITING.contains(&it));
    paths.found.retain(|path| forbidden(path) || is_writing(path));
    Ok(paths.found)
}

fn rust_files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files_below(&path)?);
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

#[test]
fn engine_and_facts_reach_no_clock_no_system_and_no_runtime() -> Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for folder in ["engine", "facts"] {
        let files = rust_files_below(&source.join(folder))?;
        ensure!(files.len() > 5, "{folder}: {files:?}");
        for file in files {
            let found = impure(&fs::read_to_string(&file)?)?;
            ensure!(found.is_empty(), "{} names {found:?}", file.display());
        }
    }
    Ok(())
}

#[test]
fn what_is_not_pure_is_found_however_it_is_written() -> Result<()> {
    let impure_texts = [
        "use std::fs;",
        "use std::{\n    fs,\n    time::Duration,\n};",
        "use std::time::{Duration, Instant as Clock};",
        "use std::time; fn f() { time::Instant::now(); }",
        "fn f() { let _ = std::fs::read(\"x\"); }",
        "fn f() { g(); } use std as s; fn g() { s::env::var(\"X\"); }",
        "fn f() { assert!(std::env::var(\"X\").is_ok()); }",
        "fn f() { println!(\"x\"); }",
        "fn f() { let t: tokio::time::Instant; }",
        "use crate::kernel::now;",
        "use std::io::*;",
        "use std::collections::{BTreeMap, HashMap};",
    ];
    for text in impure_texts {
        ensure!(!impure(text)?.is_empty(), "{text}");
    }
    let pure = "use std::{net::IpAddr, time::Duration}; fn f(a: IpAddr) { format!(\"{a}\"); }";
    ensure!(impure(pure)?.is_empty());
    Ok(())
}
