//! The executable memory of a process: which words of its stack are return addresses.
//!
//! Code without frame pointers, which is most of what distributions build, leaves the kernel's walk
//! with the innermost address and chance ones after it. An address after a call instruction in
//! an executable mapping is a return address; others are left out. The direct caller of the C
//! library is found among the words at the stack pointer, because its system calls are leaves.

use std::{fs, io::IoSliceMut};

use tcpwatch_common::OpeningStack;

/// The executable mappings in /proc/PID/maps.
pub(super) struct Code {
    pid: u32,
    mappings: Vec<Mapping>,
}

/// A part of a file that is mapped, or code that was made at run time.
pub(super) struct Mapping {
    pub(super) start: u64,
    pub(super) end: u64,
    /// Where in its file it begins.
    offset: u64,
    /// Of the file system, `MAJOR:MINOR` in hexadecimal.
    pub(super) device: String,
    /// Of the file; 0 without one.
    pub(super) inode: u64,
    /// As the process sees it: a path, `[vdso]`, or empty for code that was made at run time.
    pub(super) path: String,
}

impl Mapping {
    /// The path's last part.
    pub(super) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or("")
    }

    /// The place in the file of an address inside the mapping.
    pub(super) fn file_offset(&self, address: u64) -> u64 {
        address - self.start + self.offset
    }
}

impl Code {
    /// `None` where the process has ended or may not be read.
    pub(super) fn of(pid: u32) -> Option<Self> {
        // The name of a file may be any bytes.
        let maps = fs::read(format!("/proc/{pid}/maps")).ok()?;
        let maps = String::from_utf8_lossy(&maps);
        let mappings: Vec<_> = maps.lines().filter_map(parse_mapping).collect();
        (!mappings.is_empty()).then_some(Self { pid, mappings })
    }

    /// The return addresses of a recorded stack, innermost first.
    pub(super) fn return_addresses(&self, stack: &OpeningStack) -> Vec<u64> {
        let mut frames = stack.frames.iter().copied().take_while(|address| *address != 0);
        // The innermost follows the system call itself.
        let innermost = frames.next().filter(|address| self.mapping_of(*address).is_some());
        let callers: Vec<u64> = frames.filter(|address| self.is_return_address(*address)).collect();
        let caller = stack.words.iter().copied().find(|word| self.is_return_address(*word));
        let caller = caller.filter(|caller| !callers.contains(caller));
        innermost.into_iter().chain(caller).chain(callers).collect()
    }

    pub(super) fn mapping_of(&self, address: u64) -> Option<&Mapping> {
        self.mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&address))
    }

    fn is_return_address(&self, address: u64) -> bool {
        let Some(mapping) = self.mapping_of(address) else { return false };
        let mut before = [0; LONGEST_CALL];
        let start = address.saturating_sub(LONGEST_CALL as u64);
        start >= mapping.start && self.read(start, &mut before) && ends_with_call(&before)
    }

    /// Reads the process's memory. CAP_SYS_PTRACE allows this call; /proc/PID/mem has an owner and a
    /// mode besides.
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let Ok(pid) = libc::pid_t::try_from(self.pid) else { return false };
        let length = into.len();
        let local = IoSliceMut::new(into);
        let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: length };
        // SAFETY: an IoSliceMut is an iovec (std guarantees it) of memory that is ours to write; the
        // kernel checks the other process's address.
        let read = unsafe {
            libc::process_vm_readv(pid, (&raw const local).cast(), 1, &raw const remote, 1, 0)
        };
        usize::try_from(read) == Ok(length)
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
    let offset = fields.next()?;
    let device = fields.next()?.to_owned();
    let inode = fields.next()?;
    let path = fields.next().unwrap_or("").trim();
    Some(Mapping {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        offset: u64::from_str_radix(offset, 16).ok()?,
        device,
        inode: inode.parse().ok()?,
        path: path.trim_end_matches(" (deleted)").to_owned(),
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
        assert_eq!((mapping.inode, mapping.name()), (42, "lib c.so"));
        assert_eq!(mapping.file_offset(0x7f00_0000_1010), 0x1010);
        let made_at_run_time =
            parse_mapping("1000-2000 rwxp 00000000 00:00 0 ").expect("executable");
        assert_eq!(made_at_run_time.path, "");
        assert!(parse_mapping("1000-2000 rw-p 00000000 00:00 0 [heap]").is_none());
        assert!(parse_mapping("garbage").is_none());
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn calls_are_distinguished_from_other_instructions() {
        assert!(ends_with_call(&[0x90, 0x90, 0xe8, 1, 2, 3, 4]), "call rel32");
        assert!(ends_with_call(&[0x90, 0x90, 0x90, 0x90, 0x90, 0xff, 0xd0]), "call *%rax");
        assert!(ends_with_call(&[0x90, 0xff, 0x15, 1, 2, 3, 4]), "call *offset(%rip)");
        assert!(!ends_with_call(&[0x90, 0x90, 0x90, 0x90, 0x90, 0xff, 0xe0]), "jmp *%rax");
        assert!(!ends_with_call(&[0x90; LONGEST_CALL]));
    }

    #[test]
    fn own_code_is_mapped_and_readable_and_nothing_else_is_a_return_address() {
        let code = Code::of(std::process::id()).expect("a process can read itself");
        let function = parse_mapping as *const () as usize as u64;
        assert!(code.mapping_of(function).is_some());
        let mut byte = [0];
        assert!(code.read(function, &mut byte));
        assert!(!code.read(0, &mut byte));
        assert!(!code.is_return_address(0) && !code.is_return_address(1 << 47));
    }
}
