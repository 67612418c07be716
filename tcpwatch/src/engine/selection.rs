//! Which sockets are behind a finding, from what the finding says of itself.
//!
//! A finding is about the sockets of one round; the selection is for those of now. It may take in a
//! few that the detector leaves out: sockets younger than its `min_age`, say.

use std::net::{IpAddr, SocketAddr};

use super::{
    evidence::Evidence,
    finding::{Finding, FindingKind, Subject},
    groups::owners::service,
};
use crate::facts::{Process, Role, SocketCondition, SocketSelection, TcpState};

/// The sockets that a finding is about.
///
/// # Errors
///
/// The reason where it is about no socket that can be listed.
pub fn selection_of(finding: &Finding) -> Result<SocketSelection, &'static str> {
    let subject = &finding.subject;
    let netns = Some(subject.netns.to_string());
    let selection = SocketSelection { netns, ..SocketSelection::default() };
    Ok(match finding.kind {
        FindingKind::CloseWaitPileup => {
            let states = vec![TcpState::CloseWait];
            let selection = SocketSelection { states, ..selection };
            // The port is that of most of the owner's sockets, not of all.
            if subject.process.is_some() {
                of_owner(finding, selection)
            } else {
                at_service(subject, selection)
            }
        }
        FindingKind::TimeWaitExhaustion => {
            SocketSelection { states: vec![TcpState::TimeWait], ..selection }
        }
        FindingKind::EphemeralPortExhaustion => of_ports(subject, selection),
        FindingKind::SelfConnection => {
            let (local_address, local_port) = ends(subject.local.as_deref());
            let conditions = vec![SocketCondition::SelfConnected];
            SocketSelection { conditions, local_address, local_port, ..selection }
        }
        FindingKind::SelfConnectRisk => match subject.port {
            // The listener and its clients, or the sockets of the client that retries.
            Some(port) => SocketSelection { port: Some(port), ..selection },
            None => {
                of_owner(finding, SocketSelection { states: vec![TcpState::Listen], ..selection })
            }
        },
        FindingKind::SynFlood | FindingKind::HandshakeStall => SocketSelection {
            states: vec![TcpState::SynRecv],
            conditions: vec![SocketCondition::Unanswered],
            local_port: subject.port,
            ..selection
        },
        FindingKind::AcceptQueueOverflow => SocketSelection {
            conditions: vec![SocketCondition::Unaccepted],
            local_address: ends(subject.local.as_deref()).0,
            local_port: subject.port,
            ..selection
        },
        FindingKind::ResetStorm => match subject.port {
            Some(_) => of_owner(finding, at_service(subject, selection)),
            // A scan: any port, one peer.
            None => SocketSelection { peer_address: ends(subject.peer.as_deref()).0, ..selection },
        },
        FindingKind::BindConflict => match subject.port {
            // Of the holder, whichever it is: the subject is the process that was refused.
            Some(port) => SocketSelection { local_port: Some(port), ..selection },
            None => return Err("bind() named no port, so no socket holds the port"),
        },
        FindingKind::StuckState => {
            let states = vec![state_of(finding).unwrap_or(TcpState::SynSent)];
            let selection = at_service(subject, SocketSelection { states, ..selection });
            of_owner(finding, selection)
        }
        FindingKind::KeepaliveRace => {
            // Those that it may close next.
            let states = vec![TcpState::Established];
            SocketSelection { states, local_port: subject.port, ..selection }
        }
        FindingKind::StalledSend => {
            let mut conditions = vec![SocketCondition::Stalled];
            let is_of_orphans = finding.evidence.get("orphans") == Some(&Evidence::Flag(true));
            if is_of_orphans {
                conditions.push(SocketCondition::Orphan);
            }
            let selection = at_service(subject, SocketSelection { conditions, ..selection });
            if is_of_orphans { selection } else { of_owner(finding, selection) }
        }
        FindingKind::KernelLimit => match finding.evidence.get("resource") {
            // The limit is the host's.
            Some(Evidence::Text(resource)) if resource == "orphans" => SocketSelection {
                netns: None,
                conditions: vec![SocketCondition::Orphan],
                ..selection
            },
            _ => return Err("this limit is of the whole host, and not of some sockets"),
        },
    })
}

/// Only sockets of the process that the finding names, or of its unit or container where that is one
/// application.
fn of_owner(finding: &Finding, selection: SocketSelection) -> SocketSelection {
    let subject = &finding.subject;
    let process = Process {
        unit: subject.unit.clone(),
        container: subject.container.clone(),
        ..Process::default()
    };
    if service(&process).is_some() {
        return SocketSelection {
            container: process.container.clone(),
            unit: process.unit.filter(|_| process.container.is_none()),
            ..selection
        };
    }
    match finding.evidence.get("processes") {
        // The named one holds most of them, and not all.
        Some(Evidence::Count(2..)) => selection,
        _ => SocketSelection { pid: subject.pid, ..selection },
    }
}

/// Only sockets of the service: a client's peer, a server's own port.
fn at_service(subject: &Subject, selection: SocketSelection) -> SocketSelection {
    match subject.role {
        Some(Role::Server) => SocketSelection { local_port: subject.port, ..selection },
        Some(Role::Client) => SocketSelection {
            peer_address: ends(subject.peer.as_deref()).0,
            peer_port: subject.port,
            ..selection
        },
        None => selection,
    }
}

/// Sockets that take the ports of a destination, or ports that are taken for all destinations.
fn of_ports(subject: &Subject, selection: SocketSelection) -> SocketSelection {
    let (local_address, _) = ends(subject.local.as_deref());
    let selection = SocketSelection { local_address, ..selection };
    if subject.peer.is_none() {
        return SocketSelection { conditions: vec![SocketCondition::Pinned], ..selection };
    }
    let (peer_address, peer_port) = ends(subject.peer.as_deref());
    SocketSelection { peer_address, peer_port, ..selection }
}

fn state_of(finding: &Finding) -> Option<TcpState> {
    let Some(Evidence::Text(label)) = finding.evidence.get("state") else { return None };
    TcpState::ALL.into_iter().find(|state| state.label() == label)
}

/// Address and port of an end of the subject: `127.0.0.1:80`, `127.0.0.1`, `*:80`. `None` for any.
fn ends(text: Option<&str>) -> (Option<IpAddr>, Option<u16>) {
    let text = text.unwrap_or_default();
    let (address, port) = if let Ok(both) = text.parse::<SocketAddr>() {
        (Some(both.ip()), Some(both.port()))
    } else if let Ok(address) = text.parse::<IpAddr>() {
        (Some(address), None)
    } else {
        (None, text.strip_prefix("*:").and_then(|port| port.parse().ok()))
    };
    (address.filter(|it| !it.is_unspecified()), port.filter(|port| *port != 0))
}
