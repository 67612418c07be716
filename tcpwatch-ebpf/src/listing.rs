//! `iter/tcp`: the sockets of a network namespace that match a selection.
//!
//! As [`inventory`](crate::inventory), and run only when a person or a script requests the sockets
//! behind a finding or in a state. [`listing_pass`](crate::listing_pass) does the same for all
//! namespaces at once, where it can.
//!
//! <https://github.com/torvalds/linux/blob/v6.12/net/ipv4/tcp_ipv4.c#L2990>

use core::ffi::c_void;

use tcpwatch_common::{Listing, PORT_WORDS, Walk};

use crate::{
    inventory::{IterContext, write},
    judge::BufferFull,
    maps,
    memory::Typed,
    selection::{Target, visit},
    sock::Sock,
};

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
fn listing(ctx: *mut c_void) -> i32 {
    let ctx = ctx.cast::<IterContext>();
    // SAFETY: the kernel passes a `bpf_iter__tcp`.
    let (meta, sk) = unsafe { ((*ctx).meta, (*ctx).sk_common) };
    if let (Some(sk), Some(listing), Some(walk)) = (Sock::new(sk), maps::listing(), maps::walk()) {
        // SAFETY: `meta` is never NULL.
        let seq = unsafe { (*meta).seq };
        // A full buffer is the kernel's business: it calls again.
        let _ = visit(sk, &mut Here { listing, walk, seq });
    }
    0
}

/// The namespace of the reader.
struct Here<'a> {
    listing: &'a mut Listing,
    walk: &'a mut Walk,
    seq: *mut c_void,
}

impl Target for Here<'_> {
    type Memory = Typed;
    const NOTES_QUEUES: bool = true;

    #[inline(always)]
    fn listing(&mut self) -> &mut Listing {
        self.listing
    }

    #[inline(always)]
    fn walk(&mut self) -> &mut Walk {
        self.walk
    }

    #[inline(always)]
    fn see_listener(&mut self, port: u16) {
        self.listing.listening[usize::from(port / 64) & (PORT_WORDS - 1)] |= 1 << (port % 64);
    }

    #[inline(always)]
    fn copy(&mut self) -> Result<(), BufferFull> {
        write(self.seq, &self.walk.found.socket)
    }
}
