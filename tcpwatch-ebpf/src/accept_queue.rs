//! The connections in an accept queue, by their addresses: `bpf_probe_read_kernel` reads them.

use core::ffi::c_void;

use aya_ebpf::helpers::generated;

use crate::memory::{has, offset};

/// Where a `struct request_sock` has what leads through an accept queue. Read once, and not in each turn
/// of a loop.
#[derive(Clone, Copy)]
pub(crate) struct RequestFields {
    listener: u64,
    socket: u64,
    next: u64,
}

impl RequestFields {
    /// `None` where the kernel lacks one of them.
    #[inline(always)]
    pub(crate) fn read() -> Option<Self> {
        if !has!(rsk_listener) || !has!(request_sk) || !has!(dl_next) {
            return None;
        }
        Some(Self {
            listener: offset!(rsk_listener).into(),
            socket: offset!(request_sk).into(),
            next: offset!(dl_next).into(),
        })
    }
}

/// Address of a `struct request_sock` in an accept queue, 0 behind the last. accept() may free it
/// meanwhile (before 5.15 the walk holds no lock), so the queue of each is checked.
#[derive(Clone, Copy)]
pub(crate) struct Request(pub(crate) u64);

impl Request {
    /// The connection's socket, if it waits for this listener; else 0.
    #[inline(always)]
    pub(crate) fn socket(self, fields: RequestFields, listener: u64) -> u64 {
        if self.0 == 0 || word_at(self.0 + fields.listener) != listener {
            return 0;
        }
        word_at(self.0 + fields.socket)
    }

    /// The one behind it.
    #[inline(always)]
    pub(crate) fn next(self, fields: RequestFields) -> Self {
        Self(word_at(self.0 + fields.next))
    }
}

/// State of the socket at this address.
#[inline(always)]
pub(crate) fn state_at(sk: u64) -> u32 {
    (word_at(sk + u64::from(offset!(skc_state))) & 0xff) as u32
}

/// The word at this address, 0 where it cannot be read: the helper clears it then. Its return value
/// is not looked at, because a branch in a loop doubles what the verifier has to run through.
#[inline(always)]
fn word_at(address: u64) -> u64 {
    let mut word = 0_u64;
    // SAFETY: `word` is writable for its size; the helper checks the address.
    unsafe {
        generated::bpf_probe_read_kernel((&raw mut word).cast(), 8, address as *const c_void);
    }
    word
}
