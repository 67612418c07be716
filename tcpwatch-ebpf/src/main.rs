//! The kernel side of tcpwatch: one file per hook.
//!
//! It observes, counts and copies. It holds no threshold and no text but that of [`log`], takes no
//! decision, and every table is of fixed size, whatever a remote peer does.
//!
//! Hooks: [`set_state`], [`stream`], [`send_reset`], [`receive_reset`], [`passive_reset`], [`bind`], [`accept`];
//! walks: [`one_pass`] or [`inventory`], both with [`judge`] and [`ports`]; [`listing_pass`] or
//! [`listing`], both with [`selection`]; [`owners`]. All of them read kernel memory through [`memory`], or
//! a word at a time, as [`segment`] and [`accept_queue`] do; [`scope`] selects the namespaces that the hooks count.
#![no_std]
#![no_main]
// The target has no compare-and-swap, so core gives it no `fetch_add`. The instruction is there
// (BPF_ATOMIC with BPF_ADD, as old as BPF_XADD).
#![feature(core_intrinsics)]
// For a register that the compiler must not look into (`branchless`).
#![feature(asm_experimental_arch)]
#![allow(internal_features, reason = "see above")]

mod accept;
mod accept_queue;
mod bind;
mod branchless;
mod clock;
mod focus;
mod inventory;
mod judge;
mod listing;
mod listing_pass;
mod log;
mod maps;
mod memory;
mod notes;
mod one_pass;
mod origins;
mod owners;
mod passive_reset;
mod ports;
mod receive_reset;
mod scope;
mod segment;
mod selection;
mod send_reset;
mod services;
mod set_state;
mod sock;
mod stream;
mod tally;
mod tcp_sock;
mod valve;

/// The verifier proves that no panic is reachable.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// "Dual MIT/GPL", as the kernel spells it: helpers such as `bpf_probe_read_kernel` are GPL-only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
