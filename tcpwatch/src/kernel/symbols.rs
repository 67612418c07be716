//! From the return addresses of a user stack to the names of its functions.
//!
//! Code without frame pointers, which is most of what distributions build, leaves the kernel's walk
//! with the innermost address and chance ones after it. What follows a call instruction inside an
//! executable mapping is a return address; what does not is left out. The direct caller of the C
//! library is found among the words at the stack pointer, because its system calls are leaves.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
};

use blazesym::{
    Pid,
    symbolize::{
        Input, Symbolized, Symbolizer,
        source::{Process, Source},
    },
};
use rustix::thread::CapabilitySet as Capability;
use tcpwatch_common::OpeningStack;

use super::programs::holds;

/// The executable memory of a process.
pub(super) struct Code {
    pid: u32,
    memory: File,
    mappings: Vec<Mapping>,
}

struct Mapping {
    start: u64,
    end: u64,
    /// Of its start in the file.
    offset: u64,
    /// The file's name, `[vdso]`, or empty for code that was made at run time.
    name: String,
}

impl Code {
    /// `None` where the process has ended or may not be read.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
        let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
        Some(Self { pid, memory, mappings: maps.lines().filter_map(parse_mapping).collect() })
    }

    /// What of a recorded stack are return addresses, innermost first.
    pub(super) fn return_addresses(&self, stack: &OpeningStack) -> Vec<u64> {
        let mut frames = stack.frames.iter().copied().take_while(|address| *address != 0);
        // The innermost follows the system call itself.
        let innermost = frames.next().filter(|address| self.mapping_of(*address).is_some());
        let callers: Vec<u64> = frames.filter(|address| self.is_return_address(*address)).collect();
        let caller = stack.words.iter().copied().find(|word| self.is_return_address(*word));
        let caller = caller.filter(|caller| !callers.contains(caller));
        innermost.into_iter().chain(caller).chain(callers).collect()
    }

    /// Names of the functions of a stack: `connect+0x14 (libc.so.6)`. An address without a symbol
    /// is told by its place in the file, for addr2line.
    pub(super) fn name(&self, addresses: &[u64]) -> Vec<String> {
        // A return address may lie behind the function that called; the call does not.
        let behind_call = |depth: usize| u64::from(depth > 0);
        let calls: Vec<u64> =
            addresses.iter().enumerate().map(|(depth, it)| it - behind_call(depth)).collect();
        let mut process = Process::new(Pid::from(self.pid));
        // Files of other mount namespaces are reached by /proc/PID/map_files alone.
        process.map_files = holds(Capability::SYS_ADMIN);
        let symbolizer =
            Symbolizer::builder().enable_code_info(false).enable_inlined_fns(false).build();
        let named = symbolizer.symbolize(&Source::Process(process), Input::AbsAddr(&calls));
        let named = named.unwrap_or_default();
        let text = |(depth, &address): (usize, &u64)| {
            let module = self.mapping_of(address).map_or("?", |mapping| &mapping.name);
            match named.get(depth) {
                Some(Symbolized::Sym(symbol)) => {
                    let offset = symbol.offset as u64 + behind_call(depth);
                    format!("{}+{offset:#x} ({module})", symbol.name)
                }
                _ => format!("{:#x} ({module})", self.place_in_file(address)),
            }
        };
        addresses.iter().enumerate().map(text).collect()
    }

    fn mapping_of(&self, address: u64) -> Option<&Mapping> {
        self.mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&address))
    }

    /// What is in no mapping keeps its address.
    fn place_in_file(&self, address: u64) -> u64 {
        let mapping = self.mapping_of(address);
        mapping.map_or(address, |mapping| address - mapping.start + mapping.offset)
    }

    fn is_return_address(&self, address: u64) -> bool {
        let Some(mapping) = self.mapping_of(address) else { return false };
        let mut before = [0; LONGEST_CALL];
        let start = address.saturating_sub(LONGEST_CALL as u64);
        start >= mapping.start
            && self.memory.read_exact_at(&mut before, start).is_ok()
            && ends_with_call(&before)
    }
}

/// Bytes of the longest form that [`ends_with_call`] knows.
const LONGEST_CALL: usize = 7;

/// Whether a call instruction ends here: `call rel32` (E8), or one of the forms of `call r/m64`
/// (FF /2), which are 2, 3, 4, 6 or 7 bytes long (Intel SDM volume 2A, CALL). A redundant prefix
/// does not matter.
#[cfg(target_arch = "x86_64")]
fn ends_with_call(before: &[u8; LONGEST_CALL]) -> bool {
    let at = |distance: usize| before[LONGEST_CALL - distance];
    let is_indirect = |length: usize| at(length) == 0xff && (at(length - 1) >> 3) & 7 == 2;
    at(5) == 0xe8 || [2, 3, 4, 6, 7].into_iter().any(is_indirect)
}

/// Other architectures are taken at their frame pointers' word.
#[cfg(not(target_arch = "x86_64"))]
fn ends_with_call(_: &[u8; LONGEST_CALL]) -> bool {
    true
}

/// A line of /proc/PID/maps, if the mapping is executable.
fn parse_mapping(line: &str) -> Option<Mapping> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    if !permissions.contains('x') {
        return None;
    }
    let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
    let path = fields.nth(2).unwrap_or("").trim();
    Some(Mapping {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        offset,
        name: path.rsplit('/').next().unwrap_or("").trim_end_matches(" (deleted)").to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executable_mappings_are_read_and_others_left_out() {
        let line =
            "7f0000001000-7f0000002000 r-xp 00001000 08:01 42    /usr/lib/lib c.so (deleted)";
        let mapping = parse_mapping(line).expect("an executable mapping");
        assert_eq!((mapping.start, mapping.end), (0x7f00_0000_1000, 0x7f00_0000_2000));
        assert_eq!(mapping.offset, 0x1000);
        assert_eq!(mapping.name, "lib c.so");
        let made_at_run_time =
            parse_mapping("1000-2000 rwxp 00000000 00:00 0 ").expect("executable");
        assert_eq!(made_at_run_time.name, "");
        assert!(parse_mapping("1000-2000 rw-p 00000000 00:00 0 [heap]").is_none());
        assert!(parse_mapping("garbage").is_none());
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn calls_are_told_from_other_instructions() {
        assert!(ends_with_call(&[0x90, 0x90, 0xe8, 1, 2, 3, 4]), "call rel32");
        assert!(ends_with_call(&[0x90, 0x90, 0x90, 0x90, 0x90, 0xff, 0xd0]), "call *%rax");
        assert!(ends_with_call(&[0x90, 0xff, 0x15, 1, 2, 3, 4]), "call *offset(%rip)");
        assert!(!ends_with_call(&[0x90, 0x90, 0x90, 0x90, 0x90, 0xff, 0xe0]), "jmp *%rax");
        assert!(!ends_with_call(&[0x90; LONGEST_CALL]));
    }

    /// This thread's own stack, by the frame pointers that the standard library may not have: the
    /// return address of this function's call is one, its own address is none.
    #[test]
    fn own_functions_are_named() {
        let code = Code::of(std::process::id()).expect("a process can read itself");
        let address = own_functions_are_named as fn() as usize as u64;
        assert!(!code.is_return_address(0) && !code.is_return_address(1 << 47));
        let names = code.name(&[address]);
        assert_eq!(names.len(), 1);
        assert!(names[0].contains("own_functions_are_named"), "{names:?}");
    }
}
