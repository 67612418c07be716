//! `cargo xtask ebpf`: builds the kernel part into `tcpwatch/bpf/`, where
//! normal builds find it and need no toolchain for it, and the programs of a
//! benchmark into `xtask/bpf/`.
//!
//! Beside the kernel part lies a record: a hash over the sources, the toolchain,
//! a hash of each object. `--check` compares the sources with the record,
//! rebuilds, and compares the bytes if the recorded toolchain is at hand.
//! Paths are remapped, debug sections dropped (`.BTF` and `.BTF.ext` stay) and
//! symbols freed of the hash of their crate, so the bytes do not depend on where the tree lies.

mod record;
mod toolchain;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use self::{
    record::{Record, sha256, sources_sha256},
    toolchain::Toolchain,
};
use crate::{
    command::{output, run},
    repository,
};

/// The target that aya's programs are built for on little-endian machines.
const TARGET: &str = "bpfel-unknown-none";

/// The record of the objects.
const RECORD: &str = "tcpwatch/bpf/tcpwatch.bpf.json";

/// The product of one program of the crate.
struct Object {
    /// The program's name in Cargo.toml.
    program: &'static str,
    /// Where the object lies.
    path: &'static str,
}

const OBJECTS: [Object; 2] = [
    Object { program: "tcpwatch-ebpf", path: "tcpwatch/bpf/tcpwatch.bpf.o" },
    Object { program: "bench", path: "xtask/bpf/bench.bpf.o" },
];

/// Builds, and puts the objects and their record into the tree.
pub(crate) fn build() -> Result<()> {
    let root = repository::root();
    let sources_sha256 = sources_sha256(&root)?;
    let toolchain = Toolchain::at_hand(None)?;
    let mut objects_sha256 = BTreeMap::new();
    for (Object { path, .. }, object) in OBJECTS.iter().zip(compile(&root, &toolchain)?) {
        fs::write(root.join(path), &object).with_context(|| format!("writing {path}"))?;
        println!("{path}: {} bytes, by {}", object.len(), toolchain.versions);
        objects_sha256.insert((*path).to_owned(), sha256(&object));
    }
    let record = Record { sources_sha256, objects_sha256, toolchain: toolchain.versions };
    record.write(&root.join(RECORD))
}

/// Fails if an object in the tree is not the one that the sources make.
pub(crate) fn check() -> Result<()> {
    let root = repository::root();
    let record = Record::read(&root.join(RECORD))?;
    ensure!(
        record.sources_sha256 == sources_sha256(&root)?,
        "the sources of the kernel part changed: run `cargo xtask ebpf`"
    );
    let toolchain = Toolchain::at_hand(Some(&record.toolchain))?;
    for (Object { path, .. }, built) in OBJECTS.iter().zip(compile(&root, &toolchain)?) {
        let kept = fs::read(root.join(path)).with_context(|| format!("reading {path}"))?;
        ensure!(
            record.objects_sha256.get(*path) == Some(&sha256(&kept)),
            "{path} is not the one that was recorded: run `cargo xtask ebpf`"
        );
        if toolchain.versions == record.toolchain {
            ensure!(
                built == kept,
                "{path} is not what its sources make with its toolchain: run `cargo xtask ebpf`"
            );
            println!("{path}: rebuilt, the same {} bytes", kept.len());
        } else {
            println!("{path}: sources as recorded and they build; the bytes cannot be compared:");
            println!("  recorded: {}\n  at hand:  {}", record.toolchain, toolchain.versions);
        }
    }
    Ok(())
}

/// Compiles into target/ebpf and answers with the stripped objects, in their order.
fn compile(root: &Path, toolchain: &Toolchain) -> Result<Vec<Vec<u8>>> {
    let crate_folder = root.join("tcpwatch-ebpf");
    let target = repository::target()?.join("ebpf");
    // Fetched first: the folders of the registry are among the paths to remap.
    run(toolchain.cargo().args(["fetch", "--locked"]).current_dir(&crate_folder))?;
    run(toolchain
        .cargo()
        .args(["build", "--release", "--locked", "--target", TARGET, "-Z", "build-std=core"])
        .current_dir(&crate_folder)
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(root, &target, toolchain)?.join("\u{1f}")))?;
    OBJECTS.iter().map(|object| stripped(object, &target, toolchain)).collect()
}

/// The object of a program that is linked, without what depends on this machine.
fn stripped(object: &Object, target: &Path, toolchain: &Toolchain) -> Result<Vec<u8>> {
    let linked = target.join(TARGET).join("release").join(object.program);
    let stripped = target.join(format!("{}.bpf.o", object.program));
    let symbols = output(toolchain.llvm("nm").arg("--just-symbol-name").arg(&linked))?;
    let renamed = symbols.lines().filter_map(|name| Some((name, without_hash(name)?)));
    let renamed = renamed.map(|(name, plain)| format!("--redefine-sym={name}={plain}"));
    let mut objcopy = toolchain.llvm("objcopy");
    run(objcopy.arg("--strip-debug").args(renamed).arg(&linked).arg(&stripped))?;
    fs::read(&stripped).with_context(|| format!("reading {}", stripped.display()))
}

/// The name of a function of the kernel part without the hashes of our crates, which depend on where
/// the tree lies: `Cs69XGk1OMWlx_13tcpwatch_ebpf` becomes `C13tcpwatch_ebpf` (the disambiguator of
/// Rust's v0 mangling, RFC 2603).
fn without_hash(symbol: &str) -> Option<String> {
    if !symbol.starts_with("_R") {
        return None;
    }
    let mut plain = symbol.to_owned();
    for name in ["_13tcpwatch_ebpf", "_15tcpwatch_common"] {
        while let Some(end) = plain.find(name) {
            let begin = plain[..end].rfind("Cs")?;
            if !plain[begin..end].bytes().all(|it| it.is_ascii_alphanumeric()) {
                return None;
            }
            plain.replace_range(begin + 1..=end, "");
        }
    }
    (plain != symbol).then_some(plain)
}

fn rustflags(root: &Path, target: &Path, toolchain: &Toolchain) -> Result<Vec<String>> {
    let mut flags: Vec<String> = [
        "-Clinker=bpf-linker",
        "-Clink-arg=--btf",
        "-Cdebuginfo=2",
        "--cfg",
        r#"bpf_target_arch="x86_64""#,
    ]
    .map(str::to_owned)
    .into();
    // The last that fits wins: the narrower come later.
    let cargo_home = cargo_home()?;
    let mut remapped = vec![
        (root.to_path_buf(), "/tcpwatch"),
        (target.to_path_buf(), "/tcpwatch/target/ebpf"),
        (cargo_home.clone(), "/cargo"),
    ];
    if let Ok(registries) = cargo_home.join("registry/src").read_dir() {
        // The folder's name depends on how the registry is reached.
        remapped.extend(registries.flatten().map(|entry| (entry.path(), "/crates")));
    }
    let library = toolchain.sysroot.join("lib/rustlib/src/rust");
    remapped.extend(library.canonicalize().map(|real| (real, "/rust")));
    remapped.push((library, "/rust"));
    for (from, to) in remapped {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    }
    Ok(flags)
}

fn cargo_home() -> Result<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")
}

#[cfg(test)]
mod tests {
    use super::without_hash;

    #[test]
    fn symbols_lose_the_hash_of_the_crate_and_nothing_else() {
        let mangled = "_RNvNvNtCs69XGk1OMWlx_13tcpwatch_ebpf3log10event_lost3say";
        let plain = "_RNvNvNtC13tcpwatch_ebpf3log10event_lost3say";
        assert_eq!(without_hash(mangled).as_deref(), Some(plain));
        let mangled =
            "_RINvCs69XGk1OMWlx_13tcpwatch_ebpf5claimNtCsefKQrxB0Iit_15tcpwatch_common3KeyE";
        let of_both = "_RINvC13tcpwatch_ebpf5claimNtC15tcpwatch_common3KeyE";
        assert_eq!(without_hash(mangled).as_deref(), Some(of_both));
        for other in [plain, "set_state", "STRAY_RESETS", "Cs1_13tcpwatch_ebpf"] {
            assert_eq!(without_hash(other), None, "{other}");
        }
    }
}
