//! `iter/tcp`: a walk over the TCP sockets of the network namespace of the process that opened it.
//!
//! Since 5.9. Shows full sockets (with the socket lock held, 5.15 and later), minisockets in
//! TIME_WAIT or orphaned in FIN_WAIT2, and half-open requests; listeners first. Runs in the
//! reader's context; `sk_common` is NULL once, at the end. When the buffer is full the kernel shows
//! the same socket again on the next read.
//!
//! [`one_pass`](crate::one_pass) does the same for all namespaces at once, where it can.
//!
//! <https://github.com/torvalds/linux/blob/v6.12/net/ipv4/tcp_ipv4.c#L2990>

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_seq_write;
use tcpwatch_common::{BUSY_DESTINATIONS, Destination, NamespaceWalk, SocketRecord, Walk};

use crate::{
    judge::{BufferFull, Target, visit},
    maps::walk,
    memory::Typed,
    ports::{bit, has_bit, word},
    sock::Sock,
};

/// `struct bpf_iter__tcp`, a stable context: each member is 8 bytes.
#[repr(C)]
pub(crate) struct IterContext {
    pub(crate) meta: *const IterMeta,
    pub(crate) sk_common: *const c_void,
}

/// `struct bpf_iter_meta`.
#[repr(C)]
pub(crate) struct IterMeta {
    pub(crate) seq: *mut c_void,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
fn inventory(ctx: *mut c_void) -> i32 {
    let ctx = ctx.cast::<IterContext>();
    // SAFETY: the kernel passes a `bpf_iter__tcp`.
    let (meta, sk) = unsafe { ((*ctx).meta, (*ctx).sk_common) };
    if let (Some(sk), Some(walk)) = (Sock::new(sk), walk()) {
        // SAFETY: `meta` is never NULL.
        let seq = unsafe { (*meta).seq };
        // A full buffer is the kernel's business: it calls again.
        let _ = visit(sk, &mut Here { walk, seq });
    }
    0
}

/// The namespace of the reader.
struct Here<'a> {
    walk: &'a mut Walk,
    seq: *mut c_void,
}

impl Target for Here<'_> {
    type Memory = Typed;
    const NOTES_QUEUES: bool = true;

    #[inline(always)]
    fn walk(&mut self) -> &mut Walk {
        self.walk
    }

    #[inline(always)]
    fn namespace(&mut self) -> &mut NamespaceWalk {
        &mut self.walk.namespace
    }

    #[inline(always)]
    fn is_reserved(&mut self, port: u16) -> bool {
        has_bit(&self.walk.reserved_ports, port)
    }

    #[inline(always)]
    fn see_listener(&mut self, port: u16) {
        let namespace = &self.walk.namespace;
        if port >= namespace.port_low && port <= namespace.port_high && !self.is_reserved(port) {
            self.is_pinned(port, || true);
        }
    }

    /// All sockets of a port share its bucket, so that is looked at once: each look is a cache miss,
    /// and there may be 100,000 sockets.
    #[inline(always)]
    fn is_pinned(&mut self, port: u16, bucket_is_pinned: impl FnOnce() -> bool) -> (bool, bool) {
        let walk = &mut *self.walk;
        let is_new = !has_bit(&walk.looked_at, port);
        if is_new {
            walk.looked_at[word(port)] |= bit(port);
            if bucket_is_pinned() {
                walk.pinned[word(port)] |= bit(port);
                walk.namespace.pinned_ports += 1;
            }
        }
        (has_bit(&walk.pinned, port), is_new)
    }

    #[inline(always)]
    fn list_busy(&mut self, destination: &Destination) {
        let at = self.walk.namespace.busy_count as usize;
        if let Some(place) = self.walk.busy.get_mut(at & (BUSY_DESTINATIONS - 1))
            && at < BUSY_DESTINATIONS
        {
            *place = *destination;
        }
    }

    #[inline(always)]
    fn copy(&mut self) -> Result<(), BufferFull> {
        write(self.seq, &self.walk.found.socket)
    }
}

/// Appends a record to what the reader of the walk gets.
#[inline(always)]
pub(crate) fn write(seq: *mut c_void, record: &SocketRecord) -> Result<(), BufferFull> {
    let bytes = core::ptr::from_ref(record).cast_mut().cast();
    // SAFETY: `record` is readable for its size.
    let written = unsafe { bpf_seq_write(seq.cast(), bytes, size_of::<SocketRecord>() as u32) };
    if written == 0 { Ok(()) } else { Err(BufferFull) }
}
