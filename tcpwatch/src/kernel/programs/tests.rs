//! Kernel memory of the maps, by the kernel's own formulas (kernel/bpf/hashtab.c, arraymap.c,
//! ringbuf.c at v6.12). One test compares them with the running kernel.

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
    sync::{Mutex, PoisonError},
};

use aya_obj::{
    Object,
    generated::{BPF_F_NO_PREALLOC, bpf_map_type as kind},
};

use super::*;

/// Held while programs are loaded: one test counts the memory of every map of this process.
static LOADED: Mutex<()> = Mutex::new(());

/// `struct htab_elem` without its key, and `struct bucket`.
const ELEMENT: u64 = 48;
const BUCKET: u64 = 16;
/// Pages of a ring buffer beside its data, and the head of any map, generously.
const HEAD: u64 = 4 * 4_096;

/// Bytes of all maps on a machine with so many CPUs, with the default configuration: while every map is
/// full, or with those empty that are filled on demand, as at the start.
fn kernel_memory(possible: u64, online: u32, is_full: bool) -> u64 {
    let object = Object::parse(OBJECT).expect("the object is ours");
    let bytes_of = |(name, map): (&String, &aya_obj::Map)| {
        let entries = match name.as_str() {
            maps::STACKS => lru::entries_with(maps::STACKS_LIMIT, online),
            maps::CLOSERS => lru::entries_with(maps::CLOSERS_LIMIT, online),
            maps::NAMESPACES | maps::SLOTS => {
                let entries = lru::entries_with(maps::NAMESPACES_LIMIT, online);
                entries.min(maps::NAMESPACES_MOST)
            }
            LOG_RING => page_bytes(),
            _ => map.max_entries(),
        };
        let key = u64::from(map.key_size()).next_multiple_of(8);
        let value = u64::from(map.value_size()).next_multiple_of(8);
        let entries = u64::from(entries);
        let buckets = entries.next_power_of_two() * BUCKET;
        HEAD + match map.map_type() {
            it if it == kind::BPF_MAP_TYPE_ARRAY as u32 => entries * value,
            it if it == kind::BPF_MAP_TYPE_PERCPU_ARRAY as u32 => entries * (possible * value + 8),
            it if it == kind::BPF_MAP_TYPE_HASH as u32 => {
                // One that is filled on demand needs none to spare for each CPU.
                let held = match map.map_flags() & BPF_F_NO_PREALLOC {
                    0 => entries + possible,
                    _ if is_full => entries,
                    _ => 0,
                };
                held * (ELEMENT + key + value) + buckets
            }
            it if it == kind::BPF_MAP_TYPE_LRU_HASH as u32 => {
                entries * (ELEMENT + key + value) + buckets + possible * 128
            }
            it if it == kind::BPF_MAP_TYPE_PERCPU_HASH as u32 => {
                entries * (ELEMENT + key + 8 + possible * value) + buckets
            }
            it if it == kind::BPF_MAP_TYPE_RINGBUF as u32 => entries,
            other => panic!("{name} has type {other}, whose size is not known here"),
        }
    };
    object.maps.iter().map(bytes_of).sum()
}

#[test]
fn a_machine_of_512_cpus_needs_less_than_16_mib_of_kernel_memory() {
    const MIB: u64 = 1024 * 1024;
    let full = kernel_memory(512, 512, true);
    assert!(full < 16 * MIB, "{full} bytes with all 512 online");
    // A virtual machine that announces CPUs which never come.
    let announced = kernel_memory(512, 2, false);
    assert!(announced < 10 * MIB, "{announced} bytes with two of 512 online");
    println!("{} KiB, {} KiB with two online", full / 1024, announced / 1024);
}

#[test]
fn the_kernel_counts_as_much_memory_as_the_formulas_say() {
    if !scenes::root_or_skip() {
        return;
    }
    let _loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    // The formulas are those of all maps at their full size, as the one pass takes them.
    let _programs = Programs::load(&LoadOptions::default()).expect("root may load");
    let mut counted = 0;
    for entry in fs::read_dir("/proc/self/fdinfo").expect("a process has descriptors").flatten() {
        let info = fs::read_to_string(entry.path()).unwrap_or_default();
        let value = |name: &str| -> Option<u64> {
            info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        };
        if value("map_id:").is_some() {
            counted += value("memlock:").unwrap_or(0);
        }
    }
    let possible = aya::util::nr_cpus().expect("the kernel lists its CPUs") as u64;
    let online = aya::util::online_cpus().expect("the kernel lists its CPUs").len() as u32;
    let said = kernel_memory(possible, online, false);
    assert!(counted <= said, "{counted} counted, {said} by formula");
    // The head of each map is a generous guess. Kernels from 5.11 until 6.4 estimate by entries and
    // their sizes, without buckets, CPUs and ring buffers (bpf_map_memory_footprint).
    let estimates = (5, 11)..(6, 4);
    if !estimates.contains(&kernel_version()) {
        assert!(said < counted * 5 / 4, "{counted} counted, {said} by formula");
    }
}

/// Major and minor number.
fn kernel_version() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("procfs is mounted");
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Instructions of the functions that the plain path runs through, as the object has them. Rare code lies
/// in functions of its own, so that these stay in the processor's cache.
#[test]
fn rare_code_lies_beside_the_hooks() {
    let object = Object::parse(OBJECT).expect("the object is ours");
    for (hook, most) in [
        (programs::SET_STATE, 780),
        (programs::SEND_RESET, 2_950),
        (programs::RECEIVE_RESET, 540),
        // Counts of a service, and of the origin of a reset.
        ("services5entry", 180),
        ("origins14add_to_origins", 200),
    ] {
        let mut functions = object.functions.values().filter(|it| it.name.ends_with(hook));
        let function = functions.next().unwrap_or_else(|| panic!("no function {hook}"));
        let instructions = function.instructions.len();
        assert!(instructions <= most, "{hook}: {instructions} instructions, at most {most}");
        assert!(instructions * 2 > most, "{hook}: {instructions} instructions: lower {most}");
        println!("{hook}: {instructions} instructions");
    }
}

/// Each start of an agent pays for it, and a machine in emulation some 20 times as much. The kernel's
/// limit is a million for one program. 6.1 goes through twice as many as 6.18, for it tells apart more of
/// what lies on the stack.
#[test]
fn the_verifier_has_little_to_do() {
    const MOST: u32 = 250_000;
    if !scenes::root_or_skip() {
        return;
    }
    let _loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    for one_pass in [false, true] {
        let options =
            LoadOptions { one_pass, on_request: OnRequest::ALL, ..LoadOptions::default() };
        let programs = Programs::load(&options).expect("root may load");
        let (sum, of_each) = verified_instructions(&programs.side);
        let walk = programs.walk().label();
        assert!(sum < MOST, "{walk}: {sum} instructions: {of_each:?}");
        println!("{walk}: {sum} instructions: {of_each:?}");
    }
}

/// Instructions that the verifier went through for each program, and their sum.
fn verified_instructions(side: &KernelSide) -> (u32, Vec<(&str, u32)>) {
    let verified = |program: &OwnedFd| -> Option<u32> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).ok()?;
        // The kernel tells since 5.16.
        let count = info.lines().find_map(|line| line.strip_prefix("verified_insns:"))?;
        count.trim().parse().ok()
    };
    let verified: Vec<(&str, u32)> = side
        .programs
        .iter()
        .filter_map(|(name, program)| Some((name.as_str(), verified(program)?)))
        .collect();
    (verified.iter().map(|(_, count)| count).sum(), verified)
}
