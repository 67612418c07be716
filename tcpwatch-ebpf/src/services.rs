//! How many connections each process and service opens and closes: what its resets are measured by.
//!
//! connect(), close() and shutdown() run in the process that calls them, so each transition names
//! it: to SYN_SENT with connect(), to FIN_WAIT1 or LAST_ACK with the FIN (`tcp_close_state`,
//! net/ipv4/tcp.c). A service that is rare is dropped for another one.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use tcpwatch_common::{Service, ServiceUse};

use crate::{
    log,
    maps::SERVICES,
    origins,
    sock::{Sock, current_leader_comm},
};

/// Counts a connect().
#[inline(always)]
pub(crate) fn count_opened(sk: Sock) {
    count(sk, (sk.peer_port(), 1), true);
}

/// Counts an orderly close.
#[inline(always)]
pub(crate) fn count_closed(sk: Sock) {
    if let Some(tcp) = sk.tcp() {
        count(sk, origins::service_of(sk, tcp), false);
    }
}

#[inline(always)]
fn count(sk: Sock, (port, is_client): (u16, u8), is_opened: bool) {
    let namespace = sk.namespace();
    let service = Service {
        netns_cookie: namespace.cookie(),
        netns: namespace.inode(),
        tgid: (bpf_get_current_pid_tgid() >> 32) as u32,
        port,
        is_client: u16::from(is_client),
        reserved: 0,
    };
    let (opened, closed) = (u64::from(is_opened), u64::from(!is_opened));
    match SERVICES.get_ptr_mut(&service) {
        // SAFETY: an entry of the map. Of two CPUs that add at once one is lost, which a share bears.
        Some(entry) => unsafe {
            (*entry).opened += opened;
            (*entry).closed += closed;
        },
        None => {
            let first = ServiceUse { opened, closed, comm: current_leader_comm() };
            if SERVICES.insert(&service, first, 0).is_err() {
                log::origins_full(port);
            }
        }
    }
}
