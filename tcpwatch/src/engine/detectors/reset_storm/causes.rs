//! The meaning of resets of each cause, and their remedies: the words that explain `reset-storm`.
//!
//! A reset that was received has no cause here, only the state of the socket that it ended; the
//! cause is known at the other end.

use std::net::IpAddr;

use crate::{
    engine::{advice::text, finding::Subject},
    facts::{ResetCause as Cause, Role, SeenReset, TcpState},
};

/// How they came about, to follow "all of them".
pub(crate) const fn how(what: SeenReset) -> &'static str {
    match what {
        SeenReset::Sent(cause) => match cause {
            Cause::NoListener => "because no process listens there",
            Cause::HalfOpen => "for connections that this host does not know",
            Cause::LingerZero => "by close() with SO_LINGER 0",
            Cause::UnreadData => "by close() with data unread",
            Cause::LateData => "in answer to data that came after close()",
            Cause::AcceptQueueDiscarded => "for connections that were never accepted",
            Cause::Timeout => "to peers that did not answer in time",
            Cause::ProtocolError => "in answer to segments that break the protocol",
            Cause::Aborted => "for connections that were aborted",
            Cause::Other => "for a reason that is not known",
        },
        SeenReset::Received(state) => match state {
            TcpState::SynSent => "in answer to connect()",
            TcpState::SynRecv => "in the middle of the handshake",
            TcpState::Established => "on connections in use",
            TcpState::CloseWait => "on connections that the peer had closed before",
            TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::LastAck
            | TcpState::Closing
            | TcpState::TimeWait => "on connections that this side had closed",
            TcpState::Close | TcpState::Listen => "on sockets without a connection",
        },
    }
}

/// Its meaning, in whole sentences.
pub(crate) const fn meaning(what: SeenReset) -> &'static str {
    match what {
        SeenReset::Sent(cause) => match cause {
            Cause::NoListener => {
                "Clients connect to a port on which no process listens at that address, and try \
                 again and again: the service is down, has moved, or listens on another address."
            }
            Cause::HalfOpen => {
                "Peers send on connections that this host does not know (any more): it, or the \
                 program, was restarted without closing them, its address was another host's \
                 before (fail-over), or a load balancer or NAT keeps stale state or sends the \
                 packets of a connection to the wrong host."
            }
            Cause::LingerZero => {
                "The program sets SO_LINGER with a time of 0, so that close() throws away what was \
                 not sent yet and resets the connection. The peer sees ECONNRESET instead of the \
                 end of the stream, and may lose the answer."
            }
            Cause::UnreadData => {
                "The program closes connections before it has read all that came; the kernel then \
                 sends a reset instead of a FIN (RFC 2525 section 2.17), and the peer may lose the \
                 answer that it was just sent."
            }
            Cause::LateData => {
                "The peer still sends after the program here has closed: that data is lost, \
                 and a reset says so. One side gives up (a time-out, a limit, a cancelled request) \
                 while the other still works."
            }
            Cause::AcceptQueueDiscarded => {
                "A listener was closed while connections waited in its accept queue, or its queue \
                 was full under tcp_abort_on_overflow; each of them is reset. A restart under load \
                 does that, once; a program that does it again and again restarts in a loop or \
                 opens its listener anew."
            }
            Cause::Timeout => {
                "A timer gave the connections up: the peer, or the way to it, no longer answers \
                 (keep-alive, TCP_USER_TIMEOUT, retransmissions, or an orphan's end)."
            }
            Cause::ProtocolError => {
                "Segments came that TCP forbids in that state: forged or replayed packets, a scan, \
                 or a middlebox that rewrites sequence numbers."
            }
            Cause::Aborted => {
                "The connections were aborted from this side: ss -K or another user of \
                 SOCK_DESTROY, connect(AF_UNSPEC), or no memory left for TCP."
            }
            Cause::Other => {
                "The kernel tells no reason for them, or one that this version of tcpwatch cannot \
                 name. Look at what precedes the resets on the wire."
            }
        },
        SeenReset::Received(state) => match state {
            TcpState::SynSent => {
                "connect() is refused (ECONNREFUSED): no process listens at the peer's port, or a \
                 firewall rejects with a reset. The program tries again and again."
            }
            TcpState::SynRecv => {
                "Clients abort the handshake: a port scan, a health check that stops after the \
                 SYN-ACK, or answers to SYNs with a forged source."
            }
            TcpState::Established => {
                "The peers abort connections that are in use: they crash, are restarted, close \
                 with SO_LINGER 0 or with unread data, do not know the connection any more, or a \
                 middlebox cuts it. read() and write() fail here with ECONNRESET."
            }
            TcpState::CloseWait => {
                "The peers closed first, and then reset: data was sent to them that no process \
                 reads any more, or they gave up waiting for this side to close."
            }
            TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::LastAck
            | TcpState::Closing
            | TcpState::TimeWait => {
                "This side has closed already; the peers answer with a reset instead of closing in \
                 turn, because they leave data unread or abort. Nothing is lost unless what was \
                 sent last had not been read."
            }
            TcpState::Close | TcpState::Listen => {
                "Resets arrive for sockets that have no connection: they are late, or forged."
            }
        },
    }
}

/// The remedies, safest first.
pub(crate) fn remedies(
    what: SeenReset,
    subject: &Subject,
    port: u16,
    last_peer: Option<IpAddr>,
    is_over: bool,
) -> Vec<String> {
    let here = |command: &str| text::in_its_namespace(subject, command);
    let capture = here(&format!("tcpdump -ni any -c 40 'tcp port {port} and {IS_RESET}'"));
    let mut remedies = Vec::new();
    if !is_over {
        remedies.push(format!("See who, on the wire: {capture}"));
    }
    let peer = last_peer.map_or_else(|| "the peer".to_owned(), |peer| peer.to_string());
    let side = match subject.role {
        Some(Role::Client) => "dport",
        _ => "sport",
    };
    let ss = |options: &str| here(&format!("ss {options} '( {side} = :{port} )'"));
    let steps = match what {
        SeenReset::Sent(cause) => for_sent(cause, subject, &ss, &here, &peer),
        SeenReset::Received(state) => for_received(state, &ss, &peer, port),
    };
    remedies.extend(steps);
    if is_over {
        remedies.push(format!("If it returns, see who, on the wire: {capture}"));
    }
    remedies
}

/// The remedies for packets that connection tracking does not translate, safest first.
pub(super) fn against_untranslated(subject: &Subject) -> Vec<String> {
    let here = |command: &str| text::in_its_namespace(subject, command);
    vec![
        format!(
            "Is it connection tracking? {} before and after a minute: does `invalid` grow?",
            here("cat /proc/net/stat/nf_conntrack")
        ),
        format!(
            "Drop what it finds invalid before it is taken for this host's own: {} (IPv6: \
             ip6tables).",
            here("iptables -I INPUT -p tcp -m conntrack --ctstate INVALID -j DROP")
        ),
        format!(
            "If segments outside the window are common on the way: {} lets them through.",
            here("sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1")
        ),
    ]
}

/// The remedies for a scan.
pub(super) fn against_scan(source: IpAddr) -> Vec<String> {
    vec![format!(
        "If {source} is no scanner of your own, limit it in the firewall; otherwise leave it."
    )]
}

/// RST set, as a filter of pcap; `tcp[]` knows only IPv4, so the flags behind a plain IPv6 header
/// are given by their place.
const IS_RESET: &str = "(tcp[13] & 4 != 0 or ip6[53] & 4 != 0)";

fn for_sent(
    cause: Cause,
    subject: &Subject,
    ss: &dyn Fn(&str) -> String,
    here: &dyn Fn(&str) -> String,
    peer: &str,
) -> [String; 2] {
    match cause {
        Cause::NoListener => [
            format!(
                "Should a service listen there? {} shows who does and at which address; nothing: \
                 start the service (`systemctl --failed` names those that did not).",
                ss("-ltnp")
            ),
            format!(
                "If it has moved for good, tell its clients ({peer} among them): their \
                 configuration, service discovery or load balancer still names this host. Let them \
                 wait longer after each failure."
            ),
        ],
        Cause::HalfOpen => [
            format!(
                "Compare both ends: {} here, `ss -tno` at {peer}. A connection that only the peer \
                 has is stale; restart or drain what holds it (a pool, a proxy).",
                ss("-tno")
            ),
            "Make it rare: close connections on shutdown (SIGTERM) before the process ends, idle \
             time-outs of pools below those of NAT and load balancers, TCP keep-alive, and one \
             host for all packets of a connection."
                .to_owned(),
        ],
        Cause::LingerZero => [
            "In the code or configuration of that program: take SO_LINGER 0 out; use shutdown() \
             and close(), and let TIME_WAIT be. For a load balancer's health check it is harmless."
                .to_owned(),
            "If it was set against TIME_WAIT or used-up ports: keep-alive or a connection pool \
             instead."
                .to_owned(),
        ],
        Cause::UnreadData => [
            format!(
                "See the unread data: {} (Recv-Q above 0). Often it is the body of a request that \
                 was refused early, or answers that a time-out cut off.",
                ss("-tnp")
            ),
            "In the code: read until the end, or shutdown(SHUT_WR) and read for a moment, before \
             close()."
                .to_owned(),
        ],
        Cause::LateData => [
            format!(
                "Compare the time-outs of both sides: {peer} works on after this side has closed. \
                 The inner one should be the shorter."
            ),
            "If this side streams or uploads are cancelled: shutdown(SHUT_WR) first, read to the \
             end, then close()."
                .to_owned(),
        ],
        Cause::AcceptQueueDiscarded => [
            format!(
                "Is it restarting in a loop? See {}; {} shows the process that listens now.",
                text::log(subject),
                ss("-ltnp")
            ),
            "For restarts without loss: hand the listening descriptor on (socket activation), or \
             accept what waits before the old process closes. With SO_REUSEPORT each process has a \
             queue of its own: set net.ipv4.tcp_migrate_req (5.14 and later), or drain it first."
                .to_owned(),
        ],
        Cause::Timeout => [
            format!("Is {peer} reachable? ping it, and look at retransmissions: {}", ss("-tnoi")),
            "Look for a link, firewall or host that went away without a word; a shorter \
             TCP_USER_TIMEOUT only finds out sooner."
                .to_owned(),
        ],
        Cause::ProtocolError => [
            format!("Look at what is answered: {}", here("nstat -asz | grep -iE 'rst|paws|syn'")),
            format!(
                "Find the source ({peer} was the last): a scanner to be blocked, or a middlebox on \
                 the way that changes packets."
            ),
        ],
        Cause::Aborted => [
            format!(
                "Find the program that aborts: look for ss -K in scripts and for TCP memory: {}",
                here("nstat -asz TcpExtTCPAbortOnMemory")
            ),
            "If memory is short: net.ipv4.tcp_mem and tcp_max_orphans, and the connections that \
             need it."
                .to_owned(),
        ],
        Cause::Other => [
            format!("See the kernel's counters: {}", here("nstat -asz | grep -i abort")),
            "A kernel of 6.12 or later names the cause.".to_owned(),
        ],
    }
}

fn for_received(
    state: TcpState,
    ss: &dyn Fn(&str) -> String,
    peer: &str,
    port: u16,
) -> [String; 2] {
    match state {
        TcpState::SynSent => [
            format!(
                "At {peer}: `ss -ltnp '( sport = :{port} )'`; nothing: start that service. If it \
                 listens, a firewall rejects, or it listens on another address."
            ),
            "In the client: take the dead address out (service discovery, health checks of the \
             pool) and wait longer after each failure, with some chance in it."
                .to_owned(),
        ],
        TcpState::SynRecv => [
            format!("See the clients: {}", ss("-Htn state syn-recv")),
            "A health check can be set to complete the connection; a scan can be blocked by \
             source."
                .to_owned(),
        ],
        TcpState::Established | TcpState::CloseWait => [
            format!(
                "Look at {peer}: does the program there crash, restart, or close on a limit or \
                 time-out? Its log at the time of a reset tells."
            ),
            "If it is the idle connections of a pool: let them end here sooner than the peer or a \
             load balancer between drops them, and retry once what may be repeated."
                .to_owned(),
        ],
        _ => [
            format!("Which connections: {}", ss("-tno")),
            "Read to the end before closing, on both sides; browsers and health checks that do not \
             are harmless, and a higher `warning` for this finding keeps them out."
                .to_owned(),
        ],
    }
}
