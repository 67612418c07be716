//! The calls of bpf(2) that run or attach a program that is loaded and open.
//!
//! aya makes them only through its own handle of the object, of which there is one. Here any thread
//! makes them with a descriptor, also with one that another process has loaded.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// Commands (include/uapi/linux/bpf.h).
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_ITER_CREATE: libc::c_int = 33;
/// Of `enum bpf_attach_type`.
const BPF_TRACE_ITER: u32 = 28;

/// Attaches a program to the BTF tracepoint or the function that it was loaded for, as long as the
/// answer lives (`bpf_raw_tp_link_attach`, kernel/bpf/syscall.c).
///
/// # Errors
///
/// The kernel's.
pub(super) fn attach(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// `union bpf_attr`, as far as the command reads it.
    #[repr(C)]
    struct Attributes {
        /// 0: the program itself names its target.
        name: u64,
        program: u32,
        reserved: u32,
    }
    let attributes = Attributes { name: 0, program: number(program)?, reserved: 0 };
    // SAFETY: the attributes are those of the command.
    unsafe { open(BPF_RAW_TRACEPOINT_OPEN, &attributes) }
}

/// Whether the descriptor is that of an attached program. The kernel says it in the descriptor's
/// fdinfo (`bpf_link_show_fdinfo`, since 5.8).
pub(super) fn is_link(descriptor: BorrowedFd<'_>) -> bool {
    let info = format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd());
    fs::read_to_string(info).is_ok_and(|info| info.contains("link_type:"))
}

/// Opens a walk of an iterator's program, in the network namespace of the calling thread.
///
/// # Errors
///
/// The kernel's.
pub(super) fn open_walk(program: BorrowedFd<'_>) -> io::Result<File> {
    /// As above.
    #[repr(C)]
    struct Link {
        program: u32,
        target: u32,
        kind: u32,
        flags: u32,
        /// `union bpf_iter_link_info`, which these walks have not.
        info: u64,
        info_bytes: u32,
        reserved: u32,
    }
    /// As above.
    #[repr(C)]
    struct Walk {
        link: u32,
        flags: u32,
    }
    let attributes = Link {
        program: number(program)?,
        target: 0,
        kind: BPF_TRACE_ITER,
        flags: 0,
        info: 0,
        info_bytes: 0,
        reserved: 0,
    };
    // SAFETY: the attributes are those of the command.
    let link = unsafe { open(BPF_LINK_CREATE, &attributes) }?;
    let attributes = Walk { link: number(link.as_fd())?, flags: 0 };
    // SAFETY: the attributes are those of the command.
    unsafe { open(BPF_ITER_CREATE, &attributes) }.map(File::from)
}

/// Runs a raw tracepoint's program in the calling thread, on its CPU, with these arguments, and
/// returns what it returned.
///
/// # Errors
///
/// The kernel's.
pub(super) fn run(program: BorrowedFd<'_>, arguments: [u64; 2]) -> io::Result<u32> {
    /// As above.
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        program: u32,
        returned: u32,
        data_in_bytes: u32,
        data_out_bytes: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        context_in_bytes: u32,
        context_out_bytes: u32,
        context_in: u64,
        context_out: u64,
        flags: u32,
        cpu: u32,
        batch: u32,
        reserved: u32,
    }
    let mut attributes = Attributes {
        program: number(program)?,
        context_in: arguments.as_ptr() as u64,
        context_in_bytes: size_of_val(&arguments) as u32,
        ..Attributes::default()
    };
    // SAFETY: the kernel reads the arguments and writes the attributes, which both live and have the
    // size that is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_TEST_RUN,
            &raw mut attributes,
            size_of::<Attributes>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(attributes.returned) }
}

/// Reads entries of an array map from `first` on into `entries`, at most as many as it has, and says
/// how many they are (`generic_map_lookup_batch`, kernel/bpf/syscall.c, since 5.6). `Entry` is the map's
/// value.
///
/// # Errors
///
/// The kernel's.
pub(super) fn read_entries<Entry: aya::Pod>(
    map: BorrowedFd<'_>,
    first: u32,
    entries: &mut [Entry],
) -> io::Result<usize> {
    /// As above.
    #[repr(C)]
    struct Attributes {
        in_batch: u64,
        out_batch: u64,
        keys: u64,
        values: u64,
        count: u32,
        map: u32,
        element_flags: u64,
        flags: u64,
    }
    // The kernel goes on behind this index.
    let before = first.checked_sub(1);
    let mut last = 0_u32;
    let mut keys = vec![0_u32; entries.len()];
    let mut attributes = Attributes {
        in_batch: before.as_ref().map_or(0, |before| std::ptr::from_ref(before) as u64),
        out_batch: &raw mut last as u64,
        keys: keys.as_mut_ptr() as u64,
        values: entries.as_mut_ptr() as u64,
        count: entries.len() as u32,
        map: number(map)?,
        element_flags: 0,
        flags: 0,
    };
    // SAFETY: the kernel writes as many keys and values as there is space for, which live; every bit
    // pattern is a value.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_LOOKUP_BATCH,
            &raw mut attributes,
            size_of::<Attributes>(),
        )
    };
    let error = io::Error::last_os_error();
    // There was no entry behind the last one that it has read.
    if result < 0 && error.kind() != io::ErrorKind::NotFound {
        return Err(error);
    }
    Ok(attributes.count as usize)
}

fn number(descriptor: BorrowedFd<'_>) -> io::Result<u32> {
    u32::try_from(descriptor.as_raw_fd()).map_err(io::Error::other)
}

/// Makes the call of a command that opens a descriptor.
///
/// # Safety
///
/// `attributes` has the layout that the command reads.
unsafe fn open<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    let attributes: *const T = attributes;
    // SAFETY: the kernel reads the attributes, which live and have the size that is given.
    let opened = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    let Ok(opened @ 0..) = i32::try_from(opened) else { return Err(io::Error::last_os_error()) };
    // SAFETY: a descriptor that the kernel has just made, of which there is no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}
