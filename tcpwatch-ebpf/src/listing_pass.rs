//! `raw_tp`, never attached: the sockets of the selected network namespaces that match a selection.
//!
//! It takes the steps of [`one_pass`](crate::one_pass), and selects as [`listing`](crate::listing) does.

use core::ffi::c_void;

use tcpwatch_common::{Found, Listing, NamespaceWalk, Tuple, Walk, phase, progress};

use crate::{
    judge::{BufferFull, begin},
    maps,
    memory::Copied,
    one_pass::{
        Use, copied, namespace_of, resume_established, resume_listeners, slice, step_established,
        step_listeners,
    },
    selection::{Target, visit},
    sock::state,
};

#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/listing_pass")]
fn listing_pass(ctx: *mut c_void) -> u32 {
    // SAFETY: the context is an array of 64-bit arguments.
    let requested = unsafe { ctx.cast::<u64>().read() };
    let Some(pass) = maps::pass() else { return progress::FAILED };
    match requested {
        phase::LISTENERS => {
            resume_listeners(pass);
            slice(step_listeners::<Selected>)
        }
        phase::ESTABLISHED => {
            resume_established(pass);
            slice(step_established::<Selected>)
        }
        _ => progress::FAILED,
    }
}

/// The use that a listing makes of a socket.
struct Selected;

impl Use for Selected {
    #[inline(always)]
    fn visit(address: u64) -> u32 {
        select_copied(address)
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn select_copied(address: u64) -> u32 {
    let Some(pass) = maps::pass() else { return 1 };
    let sk = copied(address, pass);
    let Some(namespace) = namespace_of(sk, pass) else { return 1 };
    if !maps::has_place_for_found() {
        return 0;
    }
    pass.met += 1;
    if let (Some(listing), Some(walk)) = (maps::listing(), maps::walk()) {
        // The record has its place.
        let _ = visit(sk, &mut There { listing, walk, namespace });
    }
    1
}

/// A namespace that is selected.
struct There {
    listing: &'static mut Listing,
    walk: &'static mut Walk,
    namespace: &'static mut NamespaceWalk,
}

impl There {
    #[inline(always)]
    fn send(&mut self, kind: u32) {
        let found = &mut self.walk.found;
        (found.slot, found.kind) = (self.namespace.slot.into(), kind);
        maps::send_found(found);
    }
}

impl Target for There {
    type Memory = Copied;
    const NOTES_QUEUES: bool = false;

    #[inline(always)]
    fn listing(&mut self) -> &mut Listing {
        self.listing
    }

    #[inline(always)]
    fn walk(&mut self) -> &mut Walk {
        self.walk
    }

    /// The ports of one namespace are not those of another, so each goes up with its namespace.
    #[inline(always)]
    fn see_listener(&mut self, port: u16) {
        let tuple = Tuple { local_port: port, ..Tuple::ZERO };
        begin(&mut self.walk.found.socket, state::LISTEN, 0, tuple);
        self.send(Found::PORT_LISTENS);
    }

    #[inline(always)]
    fn copy(&mut self) -> Result<(), BufferFull> {
        self.send(Found::SOCKET);
        Ok(())
    }
}
