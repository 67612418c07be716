//! The table of ports that are bound: which of them connect() skips, and the sockets that are bound
//! and do nothing else, which no other table shows.
//!
//! A bucket is a port of a namespace. Its sockets hang on it until 6.7; from 6.8 on they hang on the
//! addresses of the port, which hang on it.
//!
//! <https://github.com/torvalds/linux/blob/v6.12/include/net/inet_hashtables.h#L76>

use core::ffi::c_void;

use tcpwatch_common::Pass;

use super::{
    Everywhere, GO_ON, STOP, begin_again, copy_head, enter_bucket, forget_place, if_time,
    next_bucket, word_at,
};
use crate::{
    judge::{Target, visit_bound},
    maps,
    memory::{Copied, Object, Probed, SOCKET_BYTES, field, has, offset},
    ports::{bit, has_bit, in_range, word},
    sock::{Sock, state},
};

/// Sockets and addresses of a port that are looked at: each takes some 100 ns, and a slice does not end
/// among them.
const LOOK: u32 = 256;

/// Bytes of the bucket of a port that are copied at once: it is hardly larger.
const BUCKET_BYTES: usize = 128;

/// Kinds of sockets that were met on a port.
mod kinds {
    /// Its sockets are being looked at.
    pub(super) const OPEN: u32 = 1 << 0;
    pub(super) const LISTENER: u32 = 1 << 1;
    /// A connection whose port was bound before connect().
    pub(super) const CONNECTED: u32 = 1 << 2;
    pub(super) const ACCEPTED: u32 = 1 << 3;
    pub(super) const MINISOCKET: u32 = 1 << 4;
    pub(super) const BOUND_ONLY: u32 = 1 << 5;
    /// There are more than were looked at.
    pub(super) const MORE: u32 = 1 << 6;
}

/// The chain of a bucket is short, and a bucket of a port may be freed between two slices, so the chain
/// is begun again, behind what was counted. A slice never ends within a port.
#[inline(always)]
pub(super) fn resume(pass: &mut Pass) {
    if pass.node != 0 {
        forget_place(pass);
    }
    pass.bound_kinds = 0;
}

pub(super) unsafe extern "C" fn step(_: u32, _: *mut c_void) -> i64 {
    let Some(pass) = maps::pass() else { return STOP };
    if pass.bound_kinds != 0 {
        return step_owner(pass);
    }
    if pass.node == 0 {
        return enter_bucket::<2>(pass, 1);
    }
    step_port(pass)
}

/// Looks at the bucket of a port.
#[inline(always)]
fn step_port(pass: &mut Pass) -> i64 {
    if !maps::has_place_for_holders() {
        return STOP;
    }
    let bucket = pass.node - u64::from(offset!(ib_node));
    let Some(memory) = copy_head::<BUCKET_BYTES>(pass, bucket) else { return begin_again(pass) };
    let bucket = Object(bucket as *const c_void, memory);
    let port = field!(bucket, ib_port: u16);
    pass.next_port = field!(bucket, ib_node: u64);
    let is_new = pass.index >= pass.judged;
    let Some(here) = Everywhere::at(field!(bucket, ib_net: u64), pass) else {
        // Of a namespace that is not looked at.
        pass.index += 1;
        go_on(pass);
        return if_time(pass, 8);
    };
    // `inet_bhashfn`: its memory may be another bucket's by now.
    if u32::from(port).wrapping_add(here.namespace.hash_mix) & pass.mask != pass.bucket {
        return begin_again(pass);
    }
    pass.index += 1;
    if !is_new || !bucket.is_pinned() {
        go_on(pass);
        return if_time(pass, 8);
    }
    here.walk.pinned[word(port)] |= bit(port);
    pass.bound_port = port.into();
    pass.bound_seen = 0;
    pass.bound_kinds = kinds::OPEN;
    if has!(ib_addresses) {
        pass.owners = field!(bucket, ib_addresses: u64);
        pass.owner = 0;
    } else {
        pass.owners = 0;
        pass.owner = field!(bucket, ib_owners: u64);
    }
    GO_ON
}

/// Looks at the next socket of the port, or goes to its next address.
#[inline(always)]
fn step_owner(pass: &mut Pass) -> i64 {
    if pass.bound_seen >= LOOK {
        pass.bound_kinds |= kinds::MORE;
        return finish_port(pass);
    }
    pass.bound_seen += 1;
    if pass.owner == 0 {
        if pass.owners == 0 || !has!(ib2_node) || !has!(ib2_owners) {
            return finish_port(pass);
        }
        let read = Probed { word: &raw mut pass.word };
        let address = pass.owners - u64::from(offset!(ib2_node));
        pass.owner = word_at(read, address + u64::from(offset!(ib2_owners)));
        pass.owners = word_at(read, pass.owners);
        return GO_ON;
    }
    let sk = pass.owner - u64::from(offset!(skc_bind_node));
    let Some(memory) = copy_head::<SOCKET_BYTES>(pass, sk) else { return finish_port(pass) };
    let sk = Sock(sk as *const c_void, memory);
    let is_here =
        field!(sk, skc_net: u64) == pass.last_net && u32::from(sk.local_port()) == pass.bound_port;
    if !is_here {
        // It has left the port meanwhile, and leads elsewhere.
        return finish_port(pass);
    }
    pass.owner = field!(sk, skc_bind_node: u64);
    pass.bound_kinds |= kind_of(sk, pass);
    GO_ON
}

#[inline(always)]
fn kind_of(sk: Sock<Copied>, pass: &mut Pass) -> u32 {
    match sk.state() {
        state::LISTEN => kinds::LISTENER,
        state::TIME_WAIT => kinds::MINISOCKET,
        state::CLOSE => {
            if let Some(mut here) = Everywhere::at(pass.last_net, pass) {
                pass.met += 1;
                // There is a place for each.
                let _ = visit_bound(sk, &mut here);
            }
            kinds::BOUND_ONLY
        }
        _ if sk.accept_limit() == 0 => kinds::CONNECTED,
        _ => kinds::ACCEPTED,
    }
}

/// Counts the port by what was met there.
#[inline(always)]
fn finish_port(pass: &mut Pass) -> i64 {
    let met = pass.bound_kinds;
    pass.bound_kinds = 0;
    let port = pass.bound_port as u16;
    if let Some(mut here) = Everywhere::at(pass.last_net, pass)
        && in_range(&mut here, port)
    {
        here.namespace.pinned_ports += 1;
        // Of many sockets the listener may be behind those that were looked at.
        let may_listen = met & kinds::LISTENER != 0
            || met & kinds::MORE != 0 && has_bit(&here.walk().looked_at, port);
        let beside = kinds::MINISOCKET | kinds::ACCEPTED | kinds::BOUND_ONLY;
        if !may_listen && met & kinds::CONNECTED != 0 {
            here.namespace.bound_ports += 1;
        } else if !may_listen && met & beside == kinds::MINISOCKET {
            here.namespace.pinned_minisockets += 1;
        }
    }
    go_on(pass);
    if_time(pass, 1)
}

/// Goes to the next port of the bucket; a chain of ports ends with 0.
#[inline(always)]
fn go_on(pass: &mut Pass) {
    if pass.next_port == 0 {
        next_bucket(pass);
    } else {
        pass.node = pass.next_port;
    }
}
