//! From return addresses to the names of functions: in a process of its own.
//!
//! The files that hold the symbols belong to whoever is looked at. One that is truncated while it is
//! mapped ends its reader by a signal, one that is a FIFO stops it, one that is large takes memory.
//! So `tcpwatch symbols PID ADDRESS…`, which nobody calls but the agent, reads them, and is given
//! little time.

use std::{
    fmt::Write as _,
    fs,
    io::Read,
    os::unix::fs::MetadataExt,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use blazesym::{
    Pid,
    symbolize::{
        Input, Sym, Symbolized, Symbolizer,
        source::{Elf, Process, Source},
    },
};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::code::{Code, Mapping};
use crate::plain;

/// The command by which the agent calls itself.
const COMMAND: &str = "symbols";
/// Itself, also where its file has been replaced since (proc(5)).
pub const OWN_PROGRAM: &str = "/proc/self/exe";

/// A browser's symbols are read in a second.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest name that is kept, in characters; C++ knows longer ones.
const LONGEST_NAME: usize = 120;

/// Asks `program` for the names of a stack, innermost first: `connect+0x14 (libc.so.6)`. `None` where
/// it cannot be had: the process has ended or may not be read, or it took too long.
pub(super) fn ask(program: &str, pid: u32, addresses: &[u64]) -> Option<Vec<String>> {
    let mut command = Command::new(program);
    command.args([COMMAND, &pid.to_string()]);
    command.args(addresses.iter().map(|address| format!("{address:#x}")));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let started = command.spawn().inspect_err(|error| {
        tracing::debug!(%error, program, "cannot ask for symbols");
    });
    let mut child = started.ok()?;
    let names = answer(&mut child);
    // Both fail only if it has ended already.
    let _ = child.kill();
    let _ = child.wait();
    names.filter(|names| names.len() == addresses.len())
}

/// What it says is far less than a pipe holds, so it can be waited for first.
fn answer(child: &mut Child) -> Option<Vec<String>> {
    let asked = Instant::now();
    let status = loop {
        match child.try_wait().ok()? {
            Some(status) => break status,
            None if asked.elapsed() > PATIENCE => return None,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    if !status.success() {
        return None;
    }
    let mut text = String::new();
    child.stdout.take()?.take(64 * 1024).read_to_string(&mut text).ok()?;
    Some(text.lines().map(str::to_owned).collect())
}

/// The other side: the names of these addresses in `pid`, a line for each. `None` where the process
/// cannot be read.
#[must_use]
pub fn describe(pid: u32, addresses: &[u64]) -> Option<String> {
    limit_myself();
    let code = Code::of(pid)?;
    let symbolizer =
        Symbolizer::builder().enable_code_info(false).enable_inlined_fns(false).build();
    let mut text = String::new();
    for (depth, &address) in addresses.iter().enumerate() {
        // A return address may lie behind the function that called; the call does not.
        let behind_call = u64::from(depth > 0);
        let call = address.saturating_sub(behind_call);
        let mapping = code.mapping_of(call);
        let module = plain::text(mapping.map_or("?", Mapping::name));
        let symbol = mapping.and_then(|mapping| symbol_of(&symbolizer, pid, mapping, call));
        let _infallible = match symbol {
            Some(symbol) => {
                let name: String = symbol.name.chars().take(LONGEST_NAME).collect();
                let offset = symbol.offset as u64 + behind_call;
                writeln!(text, "{}+{offset:#x} ({module})", plain::text(&name))
            }
            // Its place in the file, for addr2line.
            None => {
                let place = mapping.map_or(address, |it| it.file_offset(call) + behind_call);
                writeln!(text, "{place:#x} ({module})")
            }
        };
    }
    Some(text)
}

fn symbol_of<'a>(
    symbolizer: &'a Symbolizer,
    pid: u32,
    mapping: &Mapping,
    address: u64,
) -> Option<Sym<'a>> {
    let symbolized = if mapping.path.starts_with('/') {
        // By the process's own root: it may see other files under the same path.
        let path = format!("/proc/{pid}/root{}", mapping.path);
        if fs::metadata(&path).ok()?.ino() != mapping.inode {
            return None;
        }
        let offset = mapping.file_offset(address);
        symbolizer.symbolize_single(&Source::Elf(Elf::new(path)), Input::FileOffset(offset))
    } else {
        // Code that was made at run time: a perf map, if its maker writes one. Or the vDSO.
        let mut process = Process::new(Pid::from(pid));
        process.map_files = false;
        symbolizer.symbolize_single(&Source::Process(process), Input::AbsAddr(address))
    };
    match symbolized.ok()? {
        Symbolized::Sym(symbol) => Some(symbol),
        Symbolized::Unknown(_) => None,
    }
}

/// What is read may be made to cost. The time is that of [`PATIENCE`]; of memory a browser's symbols
/// take some hundred megabytes, most of them mapped.
fn limit_myself() {
    const GIB: u64 = 1 << 30;
    let limits =
        [(Resource::Cpu, PATIENCE.as_secs()), (Resource::As, 4 * GIB), (Resource::Core, 0)];
    for (resource, limit) in limits {
        // One that cannot be set is a guard less.
        let _ = setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) });
    }
}
