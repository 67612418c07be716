//! Limits as bars: how much is used of what there is.
//!
//! Of each kind of limit the fullest is shown: a person looks for the one that is near its end.

use std::fmt::{self, Write as _};

use super::{Escaped, View, namespace_name};
use crate::{
    engine::{ListenerSample, Samples, Severity, text},
    facts::{Inventory, TcpState},
};

/// The severity whose colour a used part of a limit has: the thresholds are the defaults of findings
/// about limits.
pub(crate) fn severity_of_part(part: f64) -> Option<Severity> {
    match part {
        0.95.. => Some(Severity::Critical),
        0.8.. => Some(Severity::Warning),
        _ => None,
    }
}

/// Beyond this it is no limit: `fs.file-max` is 2^63 - 1 by default.
const NO_LIMIT: u64 = 1 << 60;

/// The used part of a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitUse {
    /// Its name.
    pub name: &'static str,
    /// Where: a namespace, a listener. Empty for the whole host.
    pub place: String,
    /// How much is used.
    pub used: u64,
    /// How much there is.
    pub limit: u64,
    /// Whether both are bytes.
    pub are_bytes: bool,
}

impl LimitUse {
    fn new(name: &'static str, place: impl Into<String>, used: u64, limit: u64) -> Self {
        Self { name, place: place.into(), used, limit, are_bytes: false }
    }

    /// The part that is used; a full accept queue has one more than its limit.
    fn part(&self) -> f64 {
        if self.limit == 0 {
            return if self.used == 0 { 0.0 } else { 1.0 };
        }
        (self.used as f64 / self.limit as f64).min(1.0)
    }

    fn class(&self) -> &'static str {
        severity_of_part(self.part()).map_or("fine", Severity::label)
    }

    fn amounts(&self) -> (String, String) {
        let write =
            |amount| if self.are_bytes { text::bytes(amount) } else { text::number(amount) };
        (write(self.used), write(self.limit))
    }
}

/// The limits of the kernel that an inventory has read.
#[must_use]
pub fn kernel_limits(inventory: &Inventory) -> Vec<LimitUse> {
    let shared = inventory.shared_limits.as_deref().copied().unwrap_or_default();
    let bytes = |pages: Option<u64>| Some(pages?.saturating_mul(shared.page_bytes?));
    let of_host = |name, used: Option<u64>, limit: Option<u64>| {
        let limit = limit.filter(|limit| (1..NO_LIMIT).contains(limit))?;
        Some(LimitUse::new(name, "", used?, limit))
    };
    let memory =
        of_host("TCP memory", bytes(shared.tcp_memory_pages), bytes(shared.tcp_memory_limit_pages));
    let memory = memory.map(|memory| LimitUse { are_bytes: true, ..memory });
    let tracked = inventory.namespaces.iter().filter_map(|namespace| {
        let conntrack = namespace.conntrack?;
        let limit = conntrack.limit.filter(|limit| *limit > 0)?;
        Some(LimitUse::new("conntrack", namespace_name(&namespace.name), conntrack.entries, limit))
    });
    [
        fullest(tracked),
        memory,
        of_host("orphans", shared.orphans, shared.orphans_limit),
        of_host("open files", shared.files, shared.files_limit),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The fullest, of equals the one that uses most.
fn fullest(all: impl Iterator<Item = LimitUse>) -> Option<LimitUse> {
    all.max_by(|one, other| one.part().total_cmp(&other.part()).then(one.used.cmp(&other.used)))
}

/// The limits of namespaces and listeners, the fullest of each kind.
fn sampled(samples: &Samples) -> [Option<LimitUse>; 3] {
    let ports = samples.namespaces.iter().filter(|it| it.ports_available > 0).map(|it| {
        LimitUse::new(
            "ephemeral ports",
            namespace_name(&it.netns),
            it.ports_used,
            it.ports_available,
        )
    });
    let time_wait = samples.namespaces.iter().filter_map(|it| {
        let used = it.sockets.get(TcpState::TimeWait);
        Some(LimitUse::new("TIME_WAIT", namespace_name(&it.netns), used, it.time_wait_limit?))
    });
    let queues =
        samples.listeners.iter().filter(|it| it.accept_limit > 0).map(|it| {
            LimitUse::new("accept queue", listener(it), it.accept_queue, it.accept_limit)
        });
    [fullest(ports), fullest(time_wait), fullest(queues)]
}

fn listener(sample: &ListenerSample) -> String {
    let process = &sample.owner.process;
    match (process.is_empty(), sample.port) {
        (false, Some(port)) => format!("{process}, port {port}"),
        (true, Some(port)) => format!("port {port}"),
        (_, None) => process.clone(),
    }
}

pub(super) fn write_limits(html: &mut String, view: &View<'_>) -> fmt::Result {
    let limits: Vec<_> =
        sampled(view.samples).into_iter().flatten().chain(view.limits.iter().cloned()).collect();
    if limits.is_empty() {
        return Ok(());
    }
    html.write_str("<section class=\"limits\"><h2>Limits</h2>\n<ul>")?;
    for limit in &limits {
        let (used, most) = limit.amounts();
        let percent = limit.part() * 100.0;
        write!(html, "<li class=\"{}\"><span class=\"name\">{}", limit.class(), limit.name)?;
        // An empty one is as empty elsewhere.
        if limit.used > 0 && !matches!(&*limit.place, "" | "host") {
            write!(html, " <i>{}</i>", Escaped(&limit.place))?;
        }
        // The bar only repeats the numbers beside it.
        write!(
            html,
            "</span><span class=\"n\"><b>{used}</b> of {most}</span>\
             <svg class=\"bar\" aria-hidden=\"true\"><rect class=\"track\" width=\"100%\" \
             height=\"100%\"/><rect class=\"used\" width=\"{percent:.1}%\" height=\"100%\"/></svg></li>"
        )?;
    }
    html.write_str("</ul></section>\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        facts::{Conntrack, Namespace, SharedLimits},
        publish::tests::samples,
    };

    #[test]
    fn the_fullest_of_each_kind_is_shown() {
        let mut samples = samples();
        samples.namespaces[1].ports_used = 28_000;
        let limits = sampled(&samples).map(|limit| limit.map(|it| (it.name, it.place, it.used)));
        let expected = [
            ("ephemeral ports", "0a1b2c3d4e5f", 28_000),
            ("TIME_WAIT", "host", 8_000),
            ("accept queue", "nginx, port 80", 129),
        ];
        assert_eq!(limits, expected.map(|(name, place, used)| Some((name, place.into(), used))));
        assert!(sampled(&Samples::default()).iter().all(Option::is_none));
    }

    #[test]
    fn limits_of_the_kernel_are_those_that_could_be_read() {
        let mut inventory = Inventory::default();
        assert_eq!(kernel_limits(&inventory), []);
        inventory.shared_limits = Some(Box::new(SharedLimits {
            orphans: Some(3),
            orphans_limit: Some(100),
            tcp_memory_pages: Some(10),
            tcp_memory_limit_pages: Some(1_000),
            page_bytes: Some(4_096),
            files: Some(9),
            files_limit: Some(i64::MAX as u64),
            ..SharedLimits::default()
        }));
        let tracked = |entries| Namespace {
            conntrack: Some(Conntrack { entries, limit: Some(50), ..Conntrack::default() }),
            ..Namespace::default()
        };
        inventory.namespaces = vec![tracked(20), tracked(40), Namespace::default()];
        let limits = kernel_limits(&inventory);
        let read: Vec<_> = limits.iter().map(|it| (it.name, it.used, it.limit)).collect();
        let expected =
            [("conntrack", 40, 50), ("TCP memory", 40_960, 4_096_000), ("orphans", 3, 100)];
        assert_eq!(read, expected);
        assert_eq!(
            limits.iter().map(LimitUse::class).collect::<Vec<_>>(),
            ["warning", "fine", "fine"]
        );
        assert_eq!(limits[1].amounts(), ("40 KiB".to_owned(), "3.9 MiB".to_owned()));
    }

    #[test]
    fn a_queue_beyond_its_limit_is_a_full_bar() {
        let full = LimitUse::new("accept queue", "", 129, 128);
        assert_eq!((full.part(), full.class()), (1.0, "critical"));
        assert_eq!(LimitUse::new("accept queue", "", 1, 0).part(), 1.0);
    }
}
