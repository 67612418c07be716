//! A resource near its limit in words: title, explanation, evidence, remedies.

use std::{cmp::Reverse, collections::BTreeMap};

use super::{
    Losses,
    resource::{Reading, Resource},
};
use crate::{
    config,
    engine::{
        advice::text,
        evidence::EvidenceMap,
        finding::{FindingKind, Severity, Subject, Verdict},
    },
    facts::{Inventory, Role, StalledSocket},
};

/// Holders named in the evidence, those with most.
const HOLDERS: usize = 3;

/// A resource near its limit, to be put into words.
pub(super) struct Case<'a> {
    pub(super) reading: Reading<'a>,
    pub(super) losses: Losses,
    /// Until the limit is met; `None` while the resource does not grow.
    pub(super) minutes_left: Option<f64>,
    pub(super) config: &'a config::KernelLimit,
}

/// Stalled sockets that have one thing in common.
struct Holder {
    name: String,
    /// The filter of `ss` that finds its sockets, and the port.
    side: Option<&'static str>,
    port: Option<u16>,
    /// Sockets, or bytes.
    holds: u64,
}

impl Case<'_> {
    pub(super) fn verdict(&self, id: String, severity: Severity, inventory: &Inventory) -> Verdict {
        let holders = self.holders(inventory);
        let mut subject = Subject {
            netns: self.reading.namespace.map_or_else(|| "host".into(), |it| it.name.clone()),
            ..Subject::default()
        };
        subject.port = holders.first().and_then(|holder| holder.port);
        Verdict {
            id,
            kind: FindingKind::KernelLimit,
            severity,
            title: self.title(&subject, &holders),
            explanation: self.explanation(),
            evidence: self.evidence(&holders),
            remedies: self.remedies(&subject, &holders),
            subject,
        }
    }

    /// Holders of most of it, as far as sockets that make no progress show them.
    fn holders(&self, inventory: &Inventory) -> Vec<Holder> {
        let stalled = inventory.namespaces.iter().flat_map(|namespace| &namespace.stalled);
        let mut holders: BTreeMap<(String, Option<&str>, Option<u16>), u64> = BTreeMap::new();
        for socket in stalled {
            let (of, holds) = match self.reading.resource {
                Resource::Orphans if socket.orphan => {
                    let port = socket.service_port();
                    let side = if socket.role == Role::Client { "dport" } else { "sport" };
                    ((format!("port {port}"), Some(side), Some(port)), 1)
                }
                Resource::TcpMemory => ((owner(socket), None, None), socket.unacked_bytes.into()),
                Resource::Orphans | Resource::Files | Resource::Conntrack(_) => continue,
            };
            let sum = holders.entry(of).or_default();
            *sum = sum.saturating_add(holds);
        }
        let holder = |((name, side, port), holds)| Holder { name, side, port, holds };
        let mut holders: Vec<_> = holders.into_iter().map(holder).collect();
        holders.sort_by_key(|holder| Reverse(holder.holds));
        holders.truncate(HOLDERS);
        // A tenth explains nothing.
        holders.retain(|holder| holder.holds >= self.reading.used / 10);
        holders
    }

    fn amount(&self, number: u64) -> String {
        match self.reading.resource {
            Resource::TcpMemory => text::bytes(number),
            Resource::Orphans | Resource::Files | Resource::Conntrack(_) => text::number(number),
        }
    }

    fn title(&self, subject: &Subject, holders: &[Holder]) -> String {
        let Reading { used, limit, .. } = self.reading;
        let (what, netns) = match self.reading.resource {
            Resource::TcpMemory => ("of memory for TCP queues are in use", String::new()),
            Resource::Orphans => ("orphaned sockets exist", String::new()),
            Resource::Files => ("files are open", String::new()),
            Resource::Conntrack(_) => {
                ("entries of connection tracking exist", text::in_netns(&subject.netns))
            }
        };
        let percent = (self.reading.part() * 100.0).floor();
        let window = text::duration(self.config.window);
        let lost = match self.reading.resource {
            _ if self.losses.lost == 0 => String::new(),
            Resource::Conntrack(_) => format!(
                "; {} dropped for want of an entry within {window}",
                text::count(self.losses.lost, "packet")
            ),
            _ => format!(
                "; {} ended by the kernel within {window}",
                text::count(self.losses.lost, "connection")
            ),
        };
        let left = self
            .minutes_left
            .map(|minutes| format!("; the limit is reached in about {}", text::minutes(minutes)));
        let most = holders.first().map(|it| format!("; {} of {}", self.amount(it.holds), it.name));
        format!(
            "{} of at most {} {what}{netns} ({percent} %){lost}{}{}",
            self.amount(used),
            self.amount(limit),
            left.unwrap_or_default(),
            most.unwrap_or_default(),
        )
    }

    fn explanation(&self) -> String {
        let mut text = match self.reading.resource {
            Resource::TcpMemory => {
                let pressure = self
                    .reading
                    .pressure
                    .map_or_else(String::new, |mark| format!(" (here {})", self.amount(mark)));
                format!(
                    "All TCP sockets of the host share this memory (net.ipv4.tcp_mem). Above the \
                     second number{pressure} the kernel cuts the windows of all of them, so every \
                     transfer becomes slow. Above the third it drops what arrives."
                )
            }
            Resource::Orphans => {
                "An orphan is a socket that its process has closed and whose data, or FIN, is not \
                 acknowledged yet. From a quarter of net.ipv4.tcp_max_orphans on the kernel ends \
                 orphans early. Above the limit it resets each connection that is closed, so \
                 healthy clients lose the end of their answer."
                    .to_owned()
            }
            Resource::Files => {
                "All processes of the host share this limit (fs.file-max). Above it open(), \
                 accept() and socket() fail with ENFILE in every process without CAP_SYS_ADMIN."
                    .to_owned()
            }
            Resource::Conntrack(_) => {
                "Each connection that the packet filter tracks takes an entry, UDP included. Where \
                 no entry is free the kernel drops the first packet of each new connection: \
                 connects time out at random, and existing connections go on."
                    .to_owned()
            }
        };
        if self.losses.evicted > 0 {
            text.push_str(&format!(
                " Lately the kernel removed {} for new ones, of connections that were not answered \
                 or not yet confirmed: the table was full.",
                if self.losses.evicted == 1 {
                    "1 entry".to_owned()
                } else {
                    format!("{} entries", text::number(self.losses.evicted))
                }
            ));
        }
        if self.losses.clashed > 0 {
            text.push_str(&format!(
                " Besides, {} lost against an equal one (insert_failed), most often a race of \
                 two packets and no lack of entries.",
                text::count(self.losses.clashed, "packet")
            ));
        }
        if let Some(sockets) =
            self.own_sockets().filter(|own| self.reading.used > own.saturating_mul(2))
        {
            text.push_str(&format!(
                " The namespace itself has {}: most entries are of connections that pass through, \
                 were closed lately, or are of other protocols.",
                text::count(sockets, "TCP socket")
            ));
        }
        text
    }

    /// TCP sockets of the namespace whose connections are tracked.
    fn own_sockets(&self) -> Option<u64> {
        Some(self.reading.namespace?.sockets.total())
    }

    fn evidence(&self, holders: &[Holder]) -> EvidenceMap {
        let Reading { resource, used, limit, pressure, .. } = self.reading;
        let mut evidence = EvidenceMap::default();
        evidence.text("resource", resource.name());
        match resource {
            Resource::TcpMemory => evidence.count("used_bytes", used).count("limit_bytes", limit),
            Resource::Orphans => evidence.count("used_sockets", used).count("limit_sockets", limit),
            Resource::Files => evidence.count("used_files", used).count("limit_files", limit),
            Resource::Conntrack(_) => {
                evidence.count("used_entries", used).count("limit_entries", limit)
            }
        };
        evidence.number("part_of_limit", self.reading.part());
        if let Some(pressure) = pressure {
            evidence.count("pressure_bytes", pressure);
        }
        let window = self.config.window.as_secs_f64();
        match resource {
            Resource::Conntrack(_) => evidence
                .count("dropped_packets", self.losses.lost)
                .count("evicted_entries", self.losses.evicted)
                .count("insert_failures", self.losses.clashed)
                .number("window_seconds", window),
            Resource::Orphans => evidence
                .count("ended_connections", self.losses.lost)
                .number("window_seconds", window),
            Resource::TcpMemory | Resource::Files => &mut evidence,
        };
        if let Some(minutes) = self.minutes_left {
            evidence.number("minutes_to_limit", minutes);
        }
        if let Some(sockets) = self.own_sockets() {
            evidence.count("namespace_tcp_sockets", sockets);
        }
        let key = if resource == Resource::TcpMemory { "bytes" } else { "sockets" };
        if !holders.is_empty() {
            evidence.list(
                "holders",
                holders.iter().map(|holder| {
                    let mut object = EvidenceMap::default();
                    object.text("holder", holder.name.clone()).count(key, holder.holds);
                    object
                }),
            );
        }
        evidence
    }

    fn remedies(&self, subject: &Subject, holders: &[Holder]) -> Vec<String> {
        let limit = self.reading.limit;
        let doubled = limit.saturating_mul(2);
        match self.reading.resource {
            Resource::TcpMemory => vec![
                "Find the sockets with the fullest queues: `ss -tnmp state connected` (r and t of \
                 skmem are bytes in the receive and send queue)."
                    .to_owned(),
                "Look at stalled-send and close-wait-pileup first: data that is not read, or not \
                 acknowledged, stays for as long as the socket lives."
                    .to_owned(),
                "Bound what one socket takes: the third number of net.ipv4.tcp_rmem and tcp_wmem."
                    .to_owned(),
                "Where the load is meant and memory is free: larger numbers of net.ipv4.tcp_mem, \
                 in pages."
                    .to_owned(),
            ],
            Resource::Orphans => {
                let filter = match holders.first() {
                    Some(Holder { side: Some(side), port: Some(port), .. }) => {
                        format!(" '( {side} = :{port} )'")
                    }
                    _ => String::new(),
                };
                vec![
                    format!(
                        "See whose peers do not read or have gone: `ss -tno state fin-wait-1{filter}` \
                         (Send-Q, and timer: on is silence, persist a peer that does not read)."
                    ),
                    "In the server: a time-out for writing, and TCP_USER_TIMEOUT before close(), \
                     which bounds the orphan too."
                        .to_owned(),
                    "Shorten the life of silent orphans: `sysctl -w net.ipv4.tcp_orphan_retries=3` (0 means \
                     8). Slow networks lose the end of answers by it."
                        .to_owned(),
                    format!(
                        "Where memory is free: `sysctl -w net.ipv4.tcp_max_orphans={doubled}` (each \
                         takes up to 64 KiB)."
                    ),
                ]
            }
            Resource::Files => vec![
                "Find the processes that hold most: `for p in /proc/[0-9]*; do echo \"$(ls $p/fd \
                 2>/dev/null | wc -l) $p\"; done | sort -rn | head`"
                    .to_owned(),
                "Repair the leak there; LimitNOFILE= of a unit bounds its service.".to_owned(),
                format!("For now: `sysctl -w fs.file-max={doubled}`"),
            ],
            Resource::Conntrack(_) => {
                let here = |command: &str| text::in_its_namespace(subject, command);
                vec![
                    format!(
                        "Find the addresses that fill it: {}",
                        here(
                            "conntrack -L 2>/dev/null | awk 'match($0, /src=[^ ]+ dst=[^ ]+/) \
                             {print substr($0, RSTART, RLENGTH)}' | sort | uniq -c | sort -rn | head"
                        )
                    ),
                    format!(
                        "For now, on the host: `sysctl -w net.netfilter.nf_conntrack_max={doubled}` \
                         (an entry takes some 300 bytes), and nf_conntrack_buckets where it is \
                         below a quarter of that."
                    ),
                    format!(
                        "Where idle connections fill it: {} (the default is 5 days).",
                        here("sysctl -w net.netfilter.nf_conntrack_tcp_timeout_established=86400")
                    ),
                    "Take traffic that needs no state out of it: notrack in the raw table (nft: \
                     notrack), for example of a DNS server."
                        .to_owned(),
                ]
            }
        }
    }
}

fn owner(socket: &StalledSocket) -> String {
    let process = socket.owner.as_ref().map(|owner| owner.process.as_ref());
    text::named(process)
}
