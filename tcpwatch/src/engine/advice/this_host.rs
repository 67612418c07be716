//! Advice where the peer is this host itself.

use super::text;
use crate::{
    engine::finding::Subject,
    facts::{Endpoint, Namespace},
};

/// The meaning of a peer's address that is this host's.
const OWN: &str = "The peer's address is this host's own, so no other host and no network is \
    involved: this host drops the packets itself, by a rule (nftables, iptables, a BPF program)";

/// Why packets to this host itself are lost.
pub(crate) fn local() -> String {
    format!("{OWN} or because its connection tracking is full.")
}

/// Why connects to this host itself are not answered.
pub(crate) fn local_connect() -> String {
    format!(
        "{OWN}, because its connection tracking is full, or because the accept queue of the \
         listener is."
    )
}

/// Whether the peer's address is this host's, as far as the namespace shows.
pub(crate) fn is_of_this_host(namespace: &Namespace, local: Endpoint, peer: Endpoint) -> bool {
    peer.address.is_loopback()
        || peer.address == local.address
        || namespace.listeners.iter().any(|it| it.local.address == peer.address)
        || namespace.waiting.iter().any(|it| it.local == peer && it.peer == local)
        || namespace.close_wait.iter().any(|it| it.local == peer && it.peer == local)
}

/// Where the rules of this host are found.
pub(crate) fn own_rules(subject: &Subject, port: u16) -> String {
    format!(
        "This host's own rules: {} and {}; look for one that drops port {port}. Only rules with a \
         counter show hits.",
        text::in_its_namespace(subject, "nft list ruleset"),
        text::in_its_namespace(subject, "iptables-save -c"),
    )
}
