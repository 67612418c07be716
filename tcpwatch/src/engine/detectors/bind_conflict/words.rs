//! A conflict in words: what is said and advised, by what holds the port.

use super::holder::{self, HeldBy, Holding};
use crate::{
    engine::{
        advice::{reserved_ports, text},
        evidence::EvidenceMap,
        finding::{FindingKind, Severity, Subject, Verdict},
        over_time::moved::Moves,
    },
    facts::{Endpoint, Namespace, Process},
};

/// The cure for what a listener has left behind. Both must have set it (seen on 6.18).
const REUSE: &str = "In the code: SO_REUSEADDR before bind(), which most servers set anyway. \
                     Connections have it from the listener that accepted them: if that one had \
                     not set it, those of now must end first.";

/// A bind() that is refused.
pub(crate) struct BindRefusal<'a> {
    pub(crate) namespace: &'a Namespace,
    /// The requested address.
    pub(crate) local: Endpoint,
    pub(crate) process: Option<&'a Process>,
    pub(crate) holding: Option<&'a Holding>,
    pub(crate) failures: Moves,
}

impl BindRefusal<'_> {
    pub(crate) fn verdict(&self, id: String, severity: Severity) -> Verdict {
        let local = self.local;
        let mut subject = Subject {
            netns: self.namespace.name.clone(),
            local: Some(local.to_string()),
            port: Some(local.port).filter(|port| *port != 0),
            ..Subject::default()
        };
        if let Some(process) = self.process {
            subject.set_process(process);
        }
        let (explanation, remedies) = match self.holding {
            _ if local.port == 0 => self.no_port_is_free(),
            Some(holding) => self.is_held(holding),
            None => self.nothing_is_seen(),
        };
        Verdict {
            id,
            kind: FindingKind::BindConflict,
            severity,
            title: self.title(),
            explanation,
            evidence: self.evidence(),
            remedies,
            subject,
        }
    }

    fn title(&self) -> String {
        let local = self.local;
        let who = text::named(self.process);
        let netns = text::in_netns(&self.namespace.name);
        let cause = match self.holding {
            _ if local.port == 0 => {
                let (low, high) = self.namespace.ports.range;
                format!("no port of {low}-{high} is free for it")
            }
            None => "no socket that can be seen holds it".to_owned(),
            Some(holding) => {
                let owner = text::named(holding.owner.as_deref());
                let connections = text::count(holding.sockets, "connection");
                match holding.by {
                    HeldBy::Listener => format!("{owner} listens on {}", holding.local),
                    HeldBy::SelfConnection => format!("{owner} is connected to itself there"),
                    HeldBy::Outgoing => {
                        format!("{owner} is connected from that port to {}", holding.peer)
                    }
                    HeldBy::BoundOnly if self.is_by(holding) => {
                        "it has bound that port itself, with another socket".to_owned()
                    }
                    HeldBy::BoundOnly => {
                        format!("{owner} has bound {}, and does not listen", holding.local)
                    }
                    HeldBy::Accepted => match &holding.owner {
                        Some(_) => format!("{connections} there still open, held by {owner}"),
                        None => format!("{connections} there still open, held by no process"),
                    },
                    HeldBy::OutgoingTimeWait => {
                        format!("a connection from that port to {} is in TIME_WAIT", holding.peer)
                    }
                    HeldBy::AcceptedTimeWait => format!("{connections} there in TIME_WAIT"),
                }
            }
        };
        let times = match self.failures.total {
            0 | 1 => String::new(),
            total => format!("; refused {} times", text::number(total)),
        };
        format!("{who} cannot bind {local}{netns}: {cause}{times}")
    }

    fn evidence(&self) -> EvidenceMap {
        let mut evidence = reserved_ports::evidence(&self.namespace.ports);
        evidence
            .count("failed_binds", self.failures.total)
            .count("failed_binds_in_window", self.failures.in_window);
        if let Some(holding) = self.holding {
            evidence.object("holder", evidence_of(holding));
        }
        evidence
    }

    /// Where commands are to run: in the namespace, which the holder is in too. The program that
    /// failed is gone as a rule.
    fn place(&self) -> Subject {
        let mut place = Subject { netns: self.namespace.name.clone(), ..Subject::default() };
        if let Some(owner) = self.holding.and_then(|holding| holding.owner.as_ref()) {
            place.set_process(owner);
        }
        place
    }

    fn is_held(&self, holding: &Holding) -> (String, Vec<String>) {
        let place = self.place();
        let port = self.local.port;
        let here = |command: String| text::in_its_namespace(&place, &command);
        let look = format!("Look at it: {}", here(format!("ss -Htanp '( sport = :{port} )'")));
        let owner = text::named(holding.owner.as_deref());
        let Holding { local, peer, .. } = holding;
        let kill = here(format!("ss -tK 'src {local} and dst {peer}'"));
        let (low, high) = self.namespace.ports.range;
        let (given, never_again) = if holder::is_automatic(&self.namespace.ports, port) {
            (
                format!(
                    "Port {port} lies inside ip_local_port_range {low}-{high} and is not \
                     reserved, so the kernel gave it to a connect() while no process listened there"
                ),
                reserved_ports::remedy(&place, port),
            )
        } else {
            (
                format!(
                    "A process bound port {port} before connect(), while no process listened there"
                ),
                "In the code of the client: do not bind() the port of a service before connect()."
                    .to_owned(),
            )
        };
        let free = match &holding.owner {
            Some(process) => format!("Free the port now: {kill}, or {}", text::restart_of(process)),
            None => format!("Free the port now: {kill}"),
        };
        match holding.by {
            HeldBy::Listener => self.is_listened_on(holding, &place),
            HeldBy::BoundOnly => self.is_only_bound(holding, &place),
            HeldBy::SelfConnection => (
                format!(
                    "{given}, and the socket, which connected to this very port, was connected to \
                     itself (simultaneous open, RFC 9293 section 3.5). Nothing ends that but its \
                     process."
                ),
                vec![
                    free,
                    never_again,
                    "SO_REUSEADDR does not help: the connection is live, and its socket has not \
                     set it."
                        .to_owned(),
                ],
            ),
            HeldBy::Outgoing => (
                format!("{given}. It is free again when that connection has ended."),
                vec![
                    look,
                    never_again,
                    free,
                    "SO_REUSEADDR does not help: the other socket has not set it.".to_owned(),
                ],
            ),
            HeldBy::OutgoingTimeWait => (
                format!(
                    "{given}. The connection has ended, and TIME_WAIT holds its port for 60 s, a \
                     constant."
                ),
                vec![
                    "Wait for a minute, and start again.".to_owned(),
                    never_again,
                    "SO_REUSEADDR does not help here: the socket of that connection had not set \
                     it."
                    .to_owned(),
                ],
            ),
            HeldBy::Accepted => (
                "No process listens there any more, but connections that were accepted there are \
                 open. Without SO_REUSEADDR bind() is refused until the last of them has ended, \
                 and its TIME_WAIT too."
                    .to_owned(),
                vec![
                    look,
                    match &holding.owner {
                        Some(_) => format!("Free the port now: end what is left of {owner}"),
                        None => {
                            "Wait until the kernel gives them up, or take another port for now."
                                .to_owned()
                        }
                    },
                    REUSE.to_owned(),
                    "Not by SO_LINGER 0: it turns each close into a reset and can lose data."
                        .to_owned(),
                ],
            ),
            HeldBy::AcceptedTimeWait => (
                "This side closed first, so TIME_WAIT holds the port here for 60 s, a constant, \
                 against every bind() without SO_REUSEADDR."
                    .to_owned(),
                vec![
                    "Wait for a minute, and start again.".to_owned(),
                    REUSE.to_owned(),
                    "Not by SO_LINGER 0, which turns each close into a reset and can lose data, \
                     and not by tcp_fin_timeout or tcp_tw_reuse: neither is about this."
                        .to_owned(),
                ],
            ),
        }
    }

    /// Whether the process that fails holds the port itself.
    fn is_by(&self, holding: &Holding) -> bool {
        let pid_of = |process: Option<&Process>| process.map(|process| process.pid);
        let own = pid_of(self.process);
        own.is_some() && own == pid_of(holding.owner.as_deref())
    }

    fn is_only_bound(&self, holding: &Holding, place: &Subject) -> (String, Vec<String>) {
        let port = self.local.port;
        let listed = format!("ss -HtnpB '( sport = :{port} )'");
        let look = format!(
            "Look at it: {} (-B shows sockets that are only bound, from iproute2 and Linux 6.8 on)",
            text::in_its_namespace(place, &listed)
        );
        let close = "In the code: close a socket whose listen() or connect() is not called after \
                     all, or failed."
            .to_owned();
        let kept = "A socket that is bound keeps its port until it is closed, also where it neither \
                    listens nor is connected.";
        if self.is_by(holding) {
            return (
                format!("{kept} Here the process has bound the port before, at {}.", holding.local),
                vec![
                    "Look into its configuration: the same port twice, or an IPv6 wildcard beside an \
                     IPv4 one without IPV6_V6ONLY."
                        .to_owned(),
                    look,
                    close,
                ],
            );
        }
        let free = match &holding.owner {
            Some(owner) => format!("To free the port now: {}", text::stop(owner, place)),
            None => "To free the port, end the process that holds the socket.".to_owned(),
        };
        (kept.to_owned(), vec![look, free, close])
    }

    fn is_listened_on(&self, holding: &Holding, place: &Subject) -> (String, Vec<String>) {
        let requested = self.local;
        let listed = format!("ss -Htlnp '( sport = :{} )'", requested.port);
        let look = format!("Look at it: {}", text::in_its_namespace(place, &listed));
        let names = (&holding.owner, self.process);
        let is_same = matches!(names, (Some(owner), Some(process)) if owner.name == process.name);
        let same = if is_same {
            " The same program is running already: a second instance was started, or its \
             configuration was tried (nginx -t)."
        } else {
            ""
        };
        let holder = match (&holding.owner, place.unit.as_deref()) {
            (None, _) => "the process that listens".to_owned(),
            (Some(_), None) => text::named(holding.owner.as_deref()),
            (Some(_), Some(unit)) => {
                let unit = text::shown(unit);
                format!("{} of {unit}", text::named(holding.owner.as_deref()))
            }
        };
        let one_of_them = if is_same {
            format!(
                "Keep the one that serves, which is {holder} as a rule, and end the other. If it \
                 is to be replaced, let it close its listener first."
            )
        } else {
            match &holding.owner {
                Some(owner) => {
                    format!("If {holder} is to give the port up: {}", text::stop(owner, place))
                }
                None => format!("Stop {holder}, if it is to give the port up."),
            }
        };
        let share = if is_same {
            "If several processes are to share the port: SO_REUSEPORT before bind() in each of them, \
             under the same user."
                .to_owned()
        } else {
            format!(
                "Otherwise give {} another port, or each of the two an address of its own.",
                match self.process {
                    Some(_) => text::named(self.process),
                    None => "the process that fails".to_owned(),
                }
            )
        };
        (
            format!(
                "A listener on {} keeps port {} of {} from every other program: neither \
                 SO_REUSEADDR nor a moment's wait changes that.{same}",
                holding.local, requested.port, requested.address
            ),
            vec![look, one_of_them, share],
        )
    }

    fn nothing_is_seen(&self) -> (String, Vec<String>) {
        let place = self.place();
        let port = self.local.port;
        let here = |command: String| text::in_its_namespace(&place, &command);
        (
            "The holder is gone since, or is a socket that is bound but neither listens nor is \
             connected, which few tools show; perhaps one of the process itself, which bound the \
             port twice."
                .to_owned(),
            vec![
                format!(
                    "Look whether it is taken still: {} (`ss -tnpB` also shows sockets that are \
                     only bound, from iproute2 and Linux 6.8 on)",
                    here(format!("ss -Htanp '( sport = :{port} )'"))
                ),
                "Before 6.8: `lsof -nP | grep 'protocol: TCP'` names the processes that have such \
                 sockets; lsof and fuser do not find them by their port."
                    .to_owned(),
                "Look into the configuration of the process: the same port twice, or an IPv6 \
                 wildcard beside an IPv4 one without IPV6_V6ONLY."
                    .to_owned(),
            ],
        )
    }

    fn no_port_is_free(&self) -> (String, Vec<String>) {
        let ports = &self.namespace.ports;
        let place = self.place();
        let here = |command: &str| text::in_its_namespace(&place, command);
        let (low, high) = ports.range;
        let mut remedies = vec![
            format!(
                "See who has them: {}",
                here(&format!("ss -tanp '( sport >= :{low} and sport <= :{high} )'"))
            ),
            "In the code of a client that binds its address before connect(): \
             IP_BIND_ADDRESS_NO_PORT, which leaves the port to connect()."
                .to_owned(),
        ];
        remedies.extend(reserved_ports::widen(&place, self.namespace));
        remedies.push(
            "Close sockets that are bound and not used: they are in no table, so count the \
             descriptors of the process."
                .to_owned(),
        );
        (
            format!(
                "bind() with port 0 asks for any port of ip_local_port_range {low}-{high} that is \
                 not reserved, {} of them, and each is taken on that address. Unlike connect(), \
                 bind() cannot share a port between destinations.",
                ports.available
            ),
            remedies,
        )
    }
}

fn evidence_of(holding: &Holding) -> EvidenceMap {
    let mut holder = EvidenceMap::default();
    holder.text("kind", label(holding.by)).text("local", holding.local.to_string());
    if holding.peer.port != 0 {
        holder.text("peer", holding.peer.to_string());
    }
    if let Some(owner) = &holding.owner {
        holder.process(owner);
    }
    holder.count("sockets", holding.sockets);
    holder
}

const fn label(by: HeldBy) -> &'static str {
    match by {
        HeldBy::Listener => "listener",
        HeldBy::SelfConnection => "self_connection",
        HeldBy::Outgoing => "outgoing_connection",
        HeldBy::BoundOnly => "bound_only",
        HeldBy::Accepted => "accepted_connection",
        HeldBy::OutgoingTimeWait => "outgoing_time_wait",
        HeldBy::AcceptedTimeWait => "accepted_time_wait",
    }
}
