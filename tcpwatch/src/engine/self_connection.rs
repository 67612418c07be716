//! `self-connection`: a socket is connected to itself.
//!
//! Signal: a socket in the inventory whose local and peer address and port are equal. It comes
//! from dialling a port inside the ephemeral range while nobody listens there: the kernel may pick
//! that very port as the source, and TCP's simultaneous open (RFC 9293 section 3.5) then connects
//! the socket to itself.
//! Trip: one such socket; the severity is configured.
//! Cold start: none, also one that is older than the agent is seen.
//! Recovery: the inventory that no longer finds it.
//! Misses: one that lives less than an inventory interval raises nothing; it is counted in
//! `tcpwatch_self_connections_total`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{EvidenceMap, FINDINGS_PER_KIND, Finding, FindingKind, Severity, Subject, text};
use crate::{
    config::{self, ConfigSeverity},
    facts::{Endpoint, Event, Inventory, Namespace, Process, SelfConnectedSocket, Timestamp},
};

/// Self-connections whose maker is remembered until the inventory shows them.
const MAKERS: usize = 256;

#[derive(Debug)]
pub(super) struct SelfConnection {
    pub(super) config: config::SelfConnection,
    /// Who called connect(), by namespace and endpoint.
    makers: HashMap<(u32, Endpoint), Arc<Process>>,
}

impl SelfConnection {
    pub(super) fn new(config: config::SelfConnection) -> Self {
        Self { config, makers: HashMap::new() }
    }

    pub(super) fn handle_event(&mut self, event: &Event) {
        let Event::SelfConnection { netns, endpoint, process: Some(process), .. } = event else {
            return;
        };
        if self.makers.len() < MAKERS {
            self.makers.insert((*netns, *endpoint), Arc::clone(process));
        }
    }

    /// The self-connections that stand at `now`, one finding for each.
    pub(super) fn judge(&mut self, inventory: &Inventory, now: Timestamp) -> Vec<Finding> {
        let mut findings = BTreeMap::new();
        let mut makers = HashMap::new();
        for namespace in &inventory.namespaces {
            for socket in &namespace.self_connected {
                let key = (namespace.inode, socket.endpoint);
                let maker = self.makers.remove(&key);
                findings.insert(key, self.finding(namespace, socket, maker.as_deref(), now));
                makers.extend(maker.map(|maker| (key, maker)));
            }
        }
        self.makers = makers;
        let enabled = if self.config.enabled { FINDINGS_PER_KIND } else { 0 };
        findings.into_values().take(enabled).collect()
    }

    fn finding(
        &self,
        namespace: &Namespace,
        socket: &SelfConnectedSocket,
        maker: Option<&Process>,
        now: Timestamp,
    ) -> Finding {
        let endpoint = socket.endpoint;
        let mut subject = Subject {
            netns: namespace.name.clone(),
            local: Some(endpoint.to_string()),
            peer: Some(endpoint.to_string()),
            port: Some(endpoint.port),
            ..Subject::default()
        };
        let mut holder = maker;
        if let Some(owner) = &socket.owner {
            subject.set_owner(owner);
            holder = Some(&owner.process);
        } else if let Some(maker) = maker {
            subject.set_process(maker);
        }
        let (low, high) = namespace.ports.range;
        let inside = (low..=high).contains(&endpoint.port);
        let mut evidence = EvidenceMap::default();
        evidence
            .text("state", socket.state.label())
            .text("port_range", format!("{low}-{high}"))
            .text("port_is_in_range", if inside { "yes" } else { "no" });
        let who = text::named(holder);
        let netns = text::in_netns(&namespace.name);
        Finding {
            id: format!("self-connection/{}/{endpoint}", namespace.inode),
            kind: FindingKind::SelfConnection,
            severity: severity(self.config.severity),
            title: format!("{who} is connected to itself at {endpoint}{netns}"),
            explanation: format!(
                "It dialled {endpoint} while nobody listened there, and {} as the source port. \
                 TCP then connects the socket to itself (simultaneous open, RFC 9293 section \
                 3.5): it reads back what it writes, and the service that should listen on port \
                 {} cannot bind it.",
                if inside { "the kernel picked the same port" } else { "had bound the same port" },
                endpoint.port
            ),
            evidence,
            remedies: vec![
                format!(
                    "Close it: restart {who}, or {}",
                    text::in_its_namespace(
                        &subject,
                        &format!("ss -K src {} sport = :{}", endpoint.address, endpoint.port)
                    )
                ),
                format!(
                    "Keep the kernel off that port: add {} to net.ipv4.ip_local_reserved_ports, \
                     or move the service below {low}.",
                    endpoint.port
                ),
                "In the code: after connect(), close the socket and try again if getsockname() \
                 equals getpeername()."
                    .to_owned(),
            ],
            subject,
            since: now,
            last_seen: now,
        }
    }
}

const fn severity(configured: ConfigSeverity) -> Severity {
    match configured {
        ConfigSeverity::Info => Severity::Info,
        ConfigSeverity::Warning => Severity::Warning,
        ConfigSeverity::Critical => Severity::Critical,
    }
}
