//! Properties for any facts in any order, time running backwards included.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    path::Path,
};

use proptest::{collection::vec, prelude::*};
use serde_json::Value;

use super::{
    any::{Step, steps},
    *,
};
use crate::{
    engine::{EvidenceMap, Samples},
    facts::{ResetCause, SeenReset},
    incident::{Fact, Header, Recorder, Recording},
    plain,
};

/// An engine, what a reader of its changes believes, and what its counters were.
struct Model {
    engine: Engine,
    ignore: Ignore,
    owners: usize,
    held: BTreeMap<String, Severity>,
    counters: BTreeMap<String, u64>,
}

impl Model {
    fn new() -> Self {
        let owners = 3;
        Self {
            engine: Engine::new(&Detect::default(), &Ignore::default(), owners),
            ignore: Ignore::default(),
            owners,
            held: BTreeMap::new(),
            counters: BTreeMap::new(),
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Event(event) => self.engine.handle_event(event),
            Step::Inventory(inventory, now) => {
                self.engine.handle_inventory(inventory, *now);
                assert_sums(inventory, &self.engine.samples());
                assert_cut(&self.engine.samples(), self.owners);
                self.assert_nothing_ignored_is_found();
            }
            Step::Reconfigure(rules, owners) => {
                let (detect, ignore) = &**rules;
                self.engine.reconfigure(detect, ignore, *owners);
                self.ignore = ignore.clone();
                self.owners = *owners;
            }
        }
        self.follow_changes();
        self.assert_findings_are_well_formed();
        self.assert_focus_is_bounded();
        self.assert_counters_never_fall();
        assert_labels_are_plain(&self.engine.samples());
    }

    /// The changes by themselves say what holds: each is reported once.
    fn follow_changes(&mut self) {
        while let Some(change) = self.engine.poll_change() {
            match change {
                FindingChange::Raised(finding) => {
                    assert_eq!(self.held.insert(finding.id, finding.severity), None);
                }
                FindingChange::SeverityChanged { finding, from } => {
                    assert_ne!(finding.severity, from);
                    assert_eq!(self.held.insert(finding.id, finding.severity), Some(from));
                }
                FindingChange::Cleared(finding) => {
                    assert_eq!(self.held.remove(&finding.id), Some(finding.severity));
                }
            }
        }
        let findings = self.engine.findings().iter();
        let held = findings.map(|finding| (finding.id.clone(), finding.severity)).collect();
        assert_eq!(self.held, held);
        assert_eq!(self.held.len(), self.engine.findings().len(), "an id is of one finding");
    }

    fn assert_nothing_ignored_is_found(&self) {
        for Finding { kind, subject, id, .. } in self.engine.findings() {
            assert!(!self.ignore.namespaces.contains(&subject.netns.to_string()), "{id}");
            // A namespace or the host is not matched by process or port, a destination is by port.
            if !kind.has_owner() {
                continue;
            }
            assert!(!self.ignore.ports.contains(&subject.port.unwrap_or_default()), "{id}");
            let process = subject.process.clone().unwrap_or_default();
            let is_somebodys = *kind != FindingKind::EphemeralPortExhaustion;
            assert!(!(is_somebodys && self.ignore.processes.contains(&process)), "{id}");
        }
    }

    fn assert_findings_are_well_formed(&self) {
        let findings = self.engine.findings();
        assert!(findings.is_sorted_by_key(|finding| std::cmp::Reverse(finding.severity)));
        let by_id: BTreeMap<_, _> = findings.iter().map(|it| (&it.id, it)).collect();
        for finding in findings {
            let Finding { title, explanation, remedies, .. } = finding;
            assert!(finding.led_by.is_none() || finding.related.is_empty(), "{}", finding.id);
            assert!(
                finding.related.iter().all(|id| by_id[id].led_by.as_ref() == Some(&finding.id))
            );
            let leader = finding.led_by.as_ref().map(|id| by_id[id]);
            assert!(leader.is_none_or(|leader| leader.related.contains(&finding.id)));
            assert!(remedies.len() >= 3, "{remedies:?}");
            for text in remedies.iter().chain([title, explanation]) {
                assert!(!text.trim().is_empty());
                assert!(!text.contains(char::is_control), "{text:?}");
                assert!(!text.contains("  "), "a gap in {text:?}");
            }
            assert!(title.contains(|it: char| it.is_ascii_digit()), "{title}");
            if finding.kind.has_owner() {
                assert!(has_its_place(finding), "{title}");
            }
            assert_is_data(&finding.evidence);
            schema::assert_evidence_is_described(finding);
            assert!(finding.id.starts_with(finding.kind.name()));
            assert_all_is_plain(finding);
            remedies.iter().for_each(|remedy| assert_commands_are_safe(remedy));
        }
    }

    /// Facts that cost the host something are requested of few, and once.
    fn assert_focus_is_bounded(&self) {
        let focus = self.engine.focus();
        assert!(focus.stacks_of.len() <= 8, "{focus:?}");
        assert!(focus.stacks_of.windows(2).all(|pair| pair[0] < pair[1]), "{focus:?}");
    }

    fn assert_counters_never_fall(&mut self) {
        let samples = self.engine.samples();
        let counters = counters(&samples);
        for (name, before) in &self.counters {
            let now = counters.get(name).copied().unwrap_or(0);
            assert!(now >= *before, "{name} was {before}, is {now}");
        }
        self.counters = counters;
    }
}

/// Every string of a finding, those of fields to come included.
fn assert_all_is_plain(finding: &Finding) {
    let Finding { id, title, explanation, evidence, subject, remedies, .. } = finding;
    let json = serde_json::json!([id, title, explanation, evidence, subject, remedies]);
    let mut left = vec![&json];
    while let Some(value) = left.pop() {
        match value {
            Value::String(text) => assert!(plain::is_plain(text), "{text:?} of {finding:?}"),
            Value::Array(values) => left.extend(values),
            Value::Object(fields) => {
                assert!(fields.keys().all(|key| plain::is_plain(key)), "{fields:?}");
                left.extend(fields.values());
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// The parts before a name in commands that take one.
fn assert_commands_are_safe(remedy: &str) {
    let parts: Vec<&str> = remedy.split('`').collect();
    assert!(parts.len() % 2 == 1, "a command without an end in {remedy}");
    for (place, part) in parts.iter().enumerate() {
        match place % 2 {
            0 => {
                let commands = [
                    "ss -t",
                    "ss -l",
                    "ss -H",
                    "sysctl -",
                    "kill ",
                    "nsenter ",
                    "tcpdump -",
                    "nstat -",
                    "iptables -",
                    "journalctl ",
                    "systemctl ",
                    "conntrack -",
                    "prlimit -",
                    "gdb -",
                    "ip route ",
                    "lsof -",
                    "ip netns ",
                    "cat /",
                ];
                assert!(!commands.iter().any(|it| part.contains(it)), "{remedy}");
            }
            _ => assert_command_is_safe(part),
        }
    }
}

fn assert_command_is_safe(remedy: &str) {
    assert!(!remedy.trim().is_empty() && !remedy.contains("evil"), "{remedy}");
    // Without its first process the host ends.
    let mut words = remedy.split_whitespace();
    let stops = words.next().is_some_and(|it| ["kill", "gdb", "jstack", "py-spy"].contains(&it));
    assert!(!stops || words.all(|word| word != "1"), "{remedy}");
    for name in ["systemctl stop -- ", "journalctl -n 50 -u "] {
        let unit = remedy.strip_prefix(name).map(|unit| unit.trim_matches('\''));
        assert!(unit.is_none_or(crate::facts::is_unit), "{remedy}");
    }
    if let Some((_, command)) = remedy.split_once("systemctl restart") {
        let unit = command.strip_prefix(" -- ").unwrap_or_else(|| panic!("no `--` in {remedy}"));
        let bare = unit.strip_prefix('\'').and_then(|unit| unit.strip_suffix('\'')).unwrap_or(unit);
        assert!(crate::facts::is_unit(bare), "{remedy}");
        assert_eq!(bare == unit, !unit.contains('\\'), "quotes in {remedy}");
        assert!(!bare.starts_with("user@"), "{remedy}");
    }
    if let Some((_, command)) = remedy.split_once("ip netns exec ") {
        let name = command.split(' ').next().unwrap_or_default();
        assert!(!name.starts_with('-') && !name.contains(['*', '?', '[', '$', '`', '\'', ';']));
    }
}

fn assert_labels_are_plain(samples: &Samples) {
    let namespaces = samples.namespaces.iter().map(|row| &row.netns);
    let namespaces = namespaces.chain(samples.namespace_totals.iter().map(|row| &row.netns));
    let namespaces = namespaces.chain(samples.close_wait.iter().map(|row| &row.netns));
    let namespaces = namespaces.chain(samples.listeners.iter().map(|row| &row.netns));
    let namespaces = namespaces.chain(samples.findings.iter().map(|row| &row.netns));
    let owners = samples.close_wait.iter().map(|row| &row.owner);
    let owners = owners.chain(samples.listeners.iter().map(|row| &row.owner));
    let owners = owners.chain(samples.connect_failures.iter().map(|row| &row.owner));
    let owners = owners.chain(samples.findings.iter().map(|row| &row.owner));
    let names = owners.flat_map(|owner| [&*owner.process, &*owner.unit]);
    for label in namespaces.map(|name| &**name).chain(names) {
        assert!(plain::is_plain(label), "{label:?}");
    }
}

/// Whether the title has the other end or the port; of a listener it has the address.
fn has_its_place(finding: &Finding) -> bool {
    let Finding { title, subject, .. } = finding;
    if matches!(finding.kind, FindingKind::AcceptQueueOverflow | FindingKind::BindConflict) {
        return subject.local.as_ref().is_some_and(|local| title.contains(local));
    }
    let peer = subject.peer.clone().filter(|peer| !peer.starts_with('*'));
    let port = subject.port.map(|port| format!("port {port} "));
    match (peer, port) {
        (None, None) => true,
        (Some(peer), _) => title.contains(&peer),
        // The address has the port.
        (None, Some(port)) => {
            title.contains(&port) || subject.local.as_ref().is_some_and(|it| title.contains(it))
        }
    }
}

/// Numbers are numbers, and a text is a word: only processes and functions choose their names.
fn assert_is_data(evidence: &EvidenceMap) {
    fn assert_value(key: &str, value: &Evidence) {
        match value {
            Evidence::Number(number) => assert!(number.is_finite(), "{key} is {number}"),
            Evidence::Text(_) if ["process", "frames"].contains(&key) => {}
            Evidence::Text(text) => assert!(!text.contains(' '), "{key} is {text:?}"),
            Evidence::Object(values) => assert_is_data(values),
            Evidence::List(values) => {
                assert!(!values.is_empty(), "{key} lists nothing");
                values.iter().for_each(|value| assert_value(key, value));
            }
            Evidence::Count(_) | Evidence::Flag(_) => {}
        }
    }
    evidence.iter().for_each(|(key, value)| assert_value(key, value));
}

/// The counters that never fall: those of `other`, and the sums. A series of an owner may end, and
/// begin anew.
fn counters(samples: &Samples) -> BTreeMap<String, u64> {
    let mut counters = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut add = |kind: String, owner: String, is_other: bool, value: u64| {
        assert!(seen.insert((kind.clone(), owner.clone())), "{kind} of {owner} is there twice");
        let sum: &mut u64 = counters.entry(kind.clone()).or_default();
        *sum = sum.saturating_add(value);
        if is_other {
            counters.insert(format!("{kind} of others"), value);
        }
    };
    for row in &samples.connect_failures {
        let is_other = row.owner.process == super::super::OTHER && row.netns.is_empty();
        add(
            format!("{:?}", row.reason),
            format!("{} {:?}", row.netns, row.owner),
            is_other,
            row.total,
        );
    }
    for row in &samples.namespace_totals {
        let (netns, is_other) = (row.netns.to_string(), &*row.netns == super::super::OTHER);
        let mut add = |kind: &str, value| add(kind.to_owned(), netns.clone(), is_other, value);
        add("self-connections", row.self_connections);
        let Some(netstat) = row.netstat else { continue };
        add("time-wait", netstat.time_wait_overflows);
        add("overflows", netstat.listen_overflows);
        add("drops", netstat.listen_drops);
        add("cookies", netstat.syncookies_sent);
    }
    counters
}

/// A change of the configuration is no fact.
fn fact(step: Step) -> Option<Fact> {
    match step {
        Step::Event(event) => Some(Fact::Event(event)),
        Step::Inventory(found, now) => Some(Fact::Inventory { now, found }),
        Step::Reconfigure(..) => None,
    }
}

fn recorded_and_read(facts: &[Fact]) -> Vec<Fact> {
    let header = Header {
        kernel: String::new(),
        tcpwatch: String::new(),
        recorded_at: String::new(),
        monotonic_ns: START,
    };
    let mut text = Vec::new();
    let mut recorder = Recorder::begin(&mut text, &header).unwrap();
    facts.iter().for_each(|fact| recorder.record(&mut fact.clone()).unwrap());
    let read = Recording::open(&text[..], Path::new("")).unwrap().collect::<Result<Vec<_>, _>>();
    let read = read.unwrap();
    assert_eq!(read.len(), facts.len());
    read
}

/// Cutting loses nothing.
fn assert_sums(inventory: &Inventory, samples: &Samples) {
    let namespaces = &inventory.namespaces;
    let close_wait: u64 = namespaces
        .iter()
        .map(|it| it.close_wait.len() as u64 + it.close_wait_beyond.values().sum::<u64>())
        .sum();
    assert_eq!(samples.close_wait.iter().map(|row| row.sockets).sum::<u64>(), close_wait);

    let listeners = || namespaces.iter().flat_map(|namespace| &namespace.listeners);
    let expected = [
        listeners().map(|it| u64::from(it.half_open)).sum::<u64>(),
        listeners().map(|it| u64::from(it.accept_queue)).sum(),
        listeners().map(|it| u64::from(it.accept_limit)).sum(),
    ];
    let rows = || samples.listeners.iter();
    let sums = [
        rows().map(|row| row.half_open).sum::<u64>(),
        rows().map(|row| row.accept_queue).sum(),
        rows().map(|row| row.accept_limit).sum(),
    ];
    assert_eq!(sums, expected);

    for state in TcpState::ALL {
        let sum: u64 = samples.namespaces.iter().map(|row| row.sockets.get(state)).sum();
        let expected: u64 = namespaces.iter().map(|it| it.sockets.get(state)).sum();
        assert_eq!(sum, expected, "{state:?}");
    }
    let selves: u64 = samples.namespaces.iter().map(|row| row.self_connected).sum();
    assert_eq!(selves, namespaces.iter().map(|it| it.self_connected.len() as u64).sum::<u64>());
}

/// At most `owners` and one row for the others, and no labels twice.
fn assert_cut(samples: &Samples, owners: usize) {
    fn assert_unique<Labels: Debug + Ord>(rows: impl Iterator<Item = Labels>, most: usize) {
        let (mut seen, mut count) = (BTreeSet::new(), 0);
        for labels in rows {
            let text = format!("{labels:?}");
            assert!(seen.insert(labels), "{text} is there twice");
            count += 1;
        }
        assert!(count <= most, "{count} rows, at most {most}");
    }
    let most = owners + 1;
    assert_unique(samples.namespaces.iter().map(|row| &row.netns), most);
    assert_unique(
        samples.close_wait.iter().map(|row| (&row.netns, &row.owner, row.role, row.port)),
        most,
    );
    assert_unique(samples.listeners.iter().map(|row| (&row.netns, &row.owner, row.port)), most);
    // The other findings, and those that are led, keep their kind and severity.
    let others = 2 * FindingKind::ALL.len() * Severity::ALL.len();
    let rows = samples.findings.iter();
    assert_unique(
        rows.map(|row| (row.kind, row.severity, &row.netns, &row.owner, row.port, row.is_led)),
        owners + others,
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_facts_in_any_order_leave_findings_changes_and_samples_consistent(steps in steps()) {
        let mut model = Model::new();
        for step in &steps {
            model.take(step);
        }
        let rows = model.engine.samples().findings;
        let counted: u64 = rows.iter().map(|row| row.count).sum();
        prop_assert_eq!(model.engine.findings().len() as u64, counted);

        // All is over: whatever was raised is cleared.
        let end = Timestamp::from_ns(u64::MAX);
        model.take(&Step::Inventory(inventory([], end), end));
        model.take(&Step::Inventory(inventory([], end), end));
        prop_assert!(model.held.is_empty(), "{:?}", model.held);
        prop_assert!(model.engine.focus().is_empty(), "{:?}", model.engine.focus());
    }

    #[test]
    fn the_same_facts_lead_to_the_same_findings(steps in steps()) {
        let (mut one, mut other) = (Model::new(), Model::new());
        for step in &steps {
            one.take(step);
            other.take(step);
            prop_assert_eq!(one.engine.findings(), other.engine.findings());
            let (one, other) = (one.engine.samples(), other.engine.samples());
            prop_assert_eq!(one.findings, other.findings);
            prop_assert_eq!(one.close_wait, other.close_wait);
            prop_assert_eq!(one.namespaces, other.namespaces);
        }
    }

    #[test]
    fn facts_that_were_recorded_are_judged_as_they_were_then(steps in steps()) {
        let facts: Vec<_> = steps.into_iter().filter_map(fact).collect();
        let (mut then, mut now) = (Model::new().engine, Model::new().engine);
        for (fact, read) in facts.iter().zip(recorded_and_read(&facts)) {
            fact.give_to(&mut then);
            read.give_to(&mut now);
            prop_assert_eq!(then.findings(), now.findings());
            prop_assert_eq!(then.poll_change(), now.poll_change());
            let (then, now) = (then.samples(), now.samples());
            prop_assert_eq!(then.close_wait, now.close_wait);
            prop_assert_eq!(then.namespaces, now.namespaces);
        }
    }

    #[test]
    fn a_leak_that_never_closes_a_socket_is_raised_once_whatever_its_pace(
        steps in vec((0_u64..4, 1_u64..60), 1..150),
    ) {
        let mut watch = Watch::counting();
        let leak = close_wait(&process(12, "backupd"), START - seconds(3_600));
        let mut sockets = Vec::new();
        for (more, pause) in steps {
            watch.pass(seconds(pause));
            let first = sockets.len() as u64;
            sockets.extend((first..first + more).map(|id| CloseWaitSocket { id, ..leak.clone() }));
            watch.see_close_wait(sockets.clone());
        }
        let reported = watch.reported();
        let worse = ["raised warning", "warning to critical"];
        let changes: Vec<_> = reported.iter().map(String::as_str).collect();
        prop_assert!(worse.starts_with(&changes), "{reported:?}");
    }

    #[test]
    fn resets_at_a_constant_rate_raise_nothing_whatever_the_pauses(
        per_second in 1_u64..10_000,
        before in 0_u64..1_000_000,
        pauses in vec(prop_oneof![8 => Just(10), 2 => 1_u64..100, 1 => 1_u64..5_000], 1..300),
    ) {
        let mut watch = Watch::with(|detect| {
            detect.reset_storm.warning = 1;
            detect.reset_storm.factor = 2;
        });
        let mut count = before;
        for pause in pauses {
            watch.pass(seconds(pause));
            count += pause * per_second;
            watch.resets = Some(vec![ResetCount {
                netns: HOST,
                role: Role::Server,
                port: 443,
                what: SeenReset::Sent(ResetCause::LingerZero).into(),
                process: None,
                last_peer: None,
                count,
                other_port: None,
                peers: None,
                other_ports: None,
            }]);
            prop_assert_eq!(watch.see([host()]), []);
        }
    }

    #[test]
    fn a_severity_above_its_threshold_is_one_that_was_held_before_and_is_still_near(
        counts in vec(0_usize..260, 1..30),
    ) {
        let mut watch = Watch::counting();
        let leak = close_wait(&process(12, "backupd"), START - seconds(3_600));
        for count in counts {
            let held = watch.severities().first().copied();
            watch.pass(Duration::from_millis(1));
            watch.see_close_wait(times(count, &leak));
            let severity = watch.severities().first().copied();
            let plain = match count {
                200.. => Some(Severity::Critical),
                20.. => Some(Severity::Warning),
                _ => None,
            };
            prop_assert!(severity >= plain, "{count}: {severity:?}");
            // Above its plain severity it is only where it was before, and near.
            if severity > plain {
                prop_assert!(severity <= held, "{count}: {severity:?} after {held:?}");
                prop_assert!((18..20).contains(&count) || (180..200).contains(&count), "{count}");
            }
        }
    }
}
