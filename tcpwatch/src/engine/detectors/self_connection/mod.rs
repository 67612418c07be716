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

use crate::{
    config::{self, ConfigSeverity, Overridable},
    engine::{
        advice::{reserved_ports, text},
        finding::{EvidenceMap, FINDINGS_PER_KIND, Finding, FindingKind, Severity, Subject},
    },
    facts::{
        Endpoint, Event, Inventory, Namespace, NetnsId, Process, SelfConnectedSocket, Timestamp,
    },
};

/// Self-connections whose maker is remembered until the inventory shows them.
const MAKERS: usize = 256;

#[derive(Debug)]
pub(crate) struct SelfConnection {
    pub(crate) config: Overridable<config::SelfConnection>,
    /// Who called connect() and when, by namespace and endpoint.
    makers: HashMap<(NetnsId, Endpoint), (Timestamp, Arc<Process>)>,
}

impl SelfConnection {
    pub(crate) fn new(config: Overridable<config::SelfConnection>) -> Self {
        Self { config, makers: HashMap::new() }
    }

    pub(crate) fn handle_event(&mut self, event: &Event) {
        let Event::SelfConnection { at, netns, endpoint, process: Some(process) } = event else {
            return;
        };
        let key = (*netns, *endpoint);
        if self.makers.len() < MAKERS || self.makers.contains_key(&key) {
            self.makers.insert(key, (*at, Arc::clone(process)));
        }
    }

    /// The self-connections that stand at `now`, one finding for each.
    pub(crate) fn judge(&mut self, inventory: &Inventory, now: Timestamp) -> Vec<Finding> {
        let mut findings = BTreeMap::new();
        for namespace in &inventory.namespaces {
            for socket in &namespace.self_connected {
                let key = (namespace.id, socket.endpoint);
                let maker = self.makers.get(&key).map(|(_, maker)| &**maker);
                findings.insert(key, self.finding(namespace, socket, maker, now));
            }
        }
        // One made while the tables were walked may be in the next inventory only.
        self.makers.retain(|key, (at, _)| findings.contains_key(key) || *at >= inventory.started);
        findings.into_values().flatten().take(FINDINGS_PER_KIND).collect()
    }

    fn finding(
        &self,
        namespace: &Namespace,
        socket: &SelfConnectedSocket,
        maker: Option<&Process>,
        now: Timestamp,
    ) -> Option<Finding> {
        let endpoint = socket.endpoint;
        let owner = socket.owner.as_ref();
        let holder = owner.map(|owner| &*owner.process).or(maker);
        let config = self.config.of(holder, endpoint.port);
        if !config.enabled {
            return None;
        }
        let mut subject = Subject {
            netns: namespace.name.clone(),
            local: Some(endpoint.to_string()),
            peer: Some(endpoint.to_string()),
            port: Some(endpoint.port),
            ..Subject::default()
        };
        if let Some(owner) = owner {
            subject.set_owner(owner);
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
        let close = format!("ss -K 'src {endpoint} and dst {endpoint}'");
        let close = text::in_its_namespace(&subject, &close);
        let netns = text::in_netns(&namespace.name);
        Some(Finding {
            id: format!("self-connection/{}/{endpoint}", namespace.id),
            kind: FindingKind::SelfConnection,
            severity: severity(config.severity),
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
                // Before it is closed: the client dials again at once, and may be given it again.
                if inside {
                    let reserved = &namespace.ports.reserved;
                    let reserve = reserved_ports::remedy(&subject, reserved, endpoint.port);
                    format!("{reserve}, or move the service out of {low}-{high}.")
                } else {
                    "In the code: do not bind() the port that is dialled as the source port."
                        .to_owned()
                },
                match holder {
                    Some(_) => format!("Close it: restart {who}, or {close}"),
                    None => format!("Close it: {close}"),
                },
                "In the code: after connect(), close the socket and try again if getsockname() \
                 equals getpeername()."
                    .to_owned(),
            ],
            subject,
            since: now,
            last_seen: now,
        })
    }
}

const fn severity(configured: ConfigSeverity) -> Severity {
    match configured {
        ConfigSeverity::Info => Severity::Info,
        ConfigSeverity::Warning => Severity::Warning,
        ConfigSeverity::Critical => Severity::Critical,
    }
}
