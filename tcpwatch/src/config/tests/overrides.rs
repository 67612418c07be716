//! Overrides and ignored findings: their matchers, the values that they keep, and refusals.

use std::sync::Arc;

use super::*;
use crate::{engine::FindingKind, facts::Process, kernel::parse_cgroup};

const PILEUP: &str = "[[detect.close_wait_pileup.override]]";

fn process(name: &str, unit: Option<&str>, container: Option<&str>) -> Arc<Process> {
    let (unit, container) = (unit.map(str::to_owned), container.map(str::to_owned));
    Arc::new(Process { name: name.to_owned(), unit, container, ..Process::default() })
}

fn detect(text: &str) -> Detect {
    parse(text).unwrap_or_else(|error| panic!("{error}")).detect
}

/// The line without the name of the file, for one override of close-wait-pileup on line 2.
fn assert_override_refused(body: &str, line: &str) {
    let expected = format!("{FILE}:{line}");
    assert_eq!(refusal(&format!("{PILEUP}\n{body}")), expected, "for {body:?}");
}

#[test]
fn an_override_matches_when_every_key_in_it_matches() {
    let nginx = process("nginx", Some("nginx.service"), None);
    let boxed = process("nginx", None, Some("0123456789ab"));
    let other = process("envoy", Some("envoy.service"), None);
    // A matcher; whether it matches nginx, the nginx in a container, envoy and no known process;
    // whether on port 443 and on port 80.
    let table = [
        ("process = \"nginx\"", [true, true, false, false], [true, true]),
        ("unit = \"nginx.service\"", [true, false, false, false], [true, true]),
        ("unit = \"0123456789ab\"", [false, true, false, false], [true, true]),
        ("port = 443", [true, true, true, true], [true, false]),
        ("process = \"nginx\"\nport = 443", [true, true, false, false], [true, false]),
        (
            "process = \"nginx\"\nunit = \"envoy.service\"",
            [false, false, false, false],
            [true, true],
        ),
        ("process = \"nginx\"\nunit = \"nginx.service\"", [true, false, false, false], [true; 2]),
        ("process = \"Nginx\"", [false; 4], [true; 2]),
        ("process = \"ngin\"", [false; 4], [true; 2]),
    ];
    let whom = [Some(&*nginx), Some(&*boxed), Some(&*other), None];
    for (matcher, processes, ports) in table {
        let pileup = detect(&format!("{PILEUP}\n{matcher}\nwarning = 7")).close_wait_pileup;
        for (whom, is_matched) in whom.into_iter().zip(processes) {
            for (port, is_its_port) in [443, 80].into_iter().zip(ports) {
                let warning = if is_matched && is_its_port { 7 } else { 33 };
                assert_eq!(pileup.of(whom, port).warning, warning, "{matcher}: {whom:?}, {port}");
            }
        }
    }
}

#[test]
fn the_first_override_that_matches_wins() {
    let pileup = detect(&format!(
        "{PILEUP}\nprocess = \"nginx\"\nport = 443\nwarning = 1\n\
         {PILEUP}\nprocess = \"nginx\"\nwarning = 2\n\
         {PILEUP}\nport = 443\nwarning = 3\ncritical = 300\n"
    ))
    .close_wait_pileup;
    let (nginx, envoy) = (process("nginx", None, None), process("envoy", None, None));
    let warning = |process: &Process, port| pileup.of(Some(process), port).warning;
    assert_eq!([warning(&nginx, 443), warning(&nginx, 80)], [1, 2]);
    assert_eq!([warning(&envoy, 443), warning(&envoy, 80)], [3, 33]);
    // Nothing is put together of several.
    assert_eq!(pileup.of(Some(&nginx), 443).critical, 10_000);
}

#[test]
fn keys_left_out_are_as_in_the_section_and_not_the_default() {
    let section = "[detect.close_wait_pileup]\nenabled = false\nwarning = 30\nmin_age = \"5m\"\n";
    let given = format!("{PILEUP}\nport = 443\nenabled = true\ncritical = 50\n");
    // Wherever the section stands.
    for text in [format!("{section}{given}"), format!("{given}{section}")] {
        let pileup = detect(&text).close_wait_pileup;
        let CloseWaitPileup { enabled, info, warning, critical, min_age, growing, window, stacks } =
            pileup.of(None, 443).clone();
        assert_eq!((enabled, warning, critical, stacks), (true, 30, 50, true));
        assert_eq!((info, growing), (20, 11));
        assert_eq!(duration::show(min_age), "5m");
        assert_eq!(duration::show(window), "10m");
        assert_eq!(pileup.of(None, 80), &*pileup);
        assert_eq!((pileup.enabled, pileup.warning, pileup.critical), (false, 30, 10_000));
    }
}

#[test]
fn overrides_can_be_written_in_line() {
    let blocks = format!("{PILEUP}\nport = 1\nwarning = 2\n{PILEUP}\nport = 2\nwarning = 3");
    let in_line = "[detect.close_wait_pileup]\n\
                   override = [{ port = 1, warning = 2 }, { port = 2, warning = 3 }]";
    assert_eq!(detect(&blocks), detect(in_line));
    assert_eq!(detect("detect.close_wait_pileup.override = []"), Detect::default());
}

#[test]
fn every_kind_with_an_owner_takes_overrides() {
    let has_owner = |name: &str| {
        let of_name = |kind: &&FindingKind| kind.name() == name.replace('_', "-");
        FindingKind::ALL.iter().find(of_name).expect("a section is of a kind").has_owner()
    };
    for (kind, _) in Detect::docs().inner {
        let text = format!("[[detect.{kind}.override]]\nport = 443\nenabled = false");
        assert_eq!(parse(&text).is_ok(), has_owner(kind), "{text}");
    }
}

#[test]
fn an_override_that_could_never_match_is_refused() {
    let key = "detect.close_wait_pileup.override[0]";
    let process = "expected the name of a process as the kernel keeps it, from 1 to 15 bytes";
    let unit = "expected a systemd service or scope such as \"nginx.service\", a container's or \
                pod's id cut to 12 characters, or the name of a system container";
    let table = [
        ("process = \"\"", 11, "process", process, "string \"\""),
        (
            "process = \"kube-controller-manager\"",
            11,
            "process",
            process,
            "string \"kube-controller-manager\"",
        ),
        // 15 characters, 16 bytes.
        ("process = \"abcdefghijklmnü\"", 11, "process", process, "string \"abcdefghijklmnü\""),
        ("process = [\"a\", \"b\"]", 11, "process", process, "array"),
        ("unit = \"\"", 8, "unit", unit, "string \"\""),
        ("unit = \"nginx.socket\"", 8, "unit", unit, "string \"nginx.socket\""),
        ("unit = \"nginx*\"", 8, "unit", unit, "string \"nginx*\""),
        ("unit = \".service\"", 8, "unit", unit, "string \".service\""),
        ("unit = \"0123456789abcdef\"", 8, "unit", unit, "string \"0123456789abcdef\""),
        ("port = 0", 8, "port", "expected an integer from 1 to 65535", "integer 0"),
        ("port = 65536", 8, "port", "expected an integer from 1 to 65535", "integer 65536"),
        ("port = \"443\"", 8, "port", "expected an integer from 1 to 65535", "string \"443\""),
    ];
    for (matcher, column, name, expected, found) in table {
        assert_override_refused(
            &format!("{matcher}\nwarning = 7"),
            &format!("2:{column}: {key}.{name}: {expected}, found {found}"),
        );
    }
    for good in [
        "process = \"abcdefghijklmno\"",
        "unit = \"a.scope\"",
        "unit = \"1a2b3c4d_5e6\"",
        "unit = \"web01\"",
        "port = 1",
        "port = 65535",
    ] {
        detect(&format!("{PILEUP}\n{good}\nwarning = 7"));
    }
}

#[test]
fn every_unit_that_the_kernel_side_reads_can_be_named() {
    let id = "0123456789abcdef".repeat(4);
    for cgroup in [
        "0::/system.slice/nginx.service".to_owned(),
        "0::/system.slice/system-getty.slice/getty@tty1.service".to_owned(),
        "0::/user.slice/user-0.slice/session-1.scope".to_owned(),
        "0::/lxc/101/ns/system.slice/nginx.service".to_owned(),
        r"0::/machine.slice/machine-web\x2d1.scope/payload/init.scope".to_owned(),
        format!("0::/system.slice/docker-{id}.scope"),
        "0::/kubepods/burstable/pod1a2b3c4d-5e6f-7a8b-9c0d-1e2f3a4b5c6d".to_owned(),
    ] {
        let (unit, container) = parse_cgroup(&cgroup);
        let label = unit.or(container).expect("each path has one");
        let text = format!("{PILEUP}\nunit = \"{label}\"\nwarning = 7");
        assert!(parse(&text).is_ok(), "{}", refusal(&text));
    }
}

#[test]
fn an_override_without_anything_to_match_or_to_override_is_refused() {
    let key = "detect.close_wait_pileup.override[0]";
    assert_override_refused(
        "warning = 7",
        &format!(
            "1:1: {key}: expected at least one of `process`, `unit`, `port` to match, found table"
        ),
    );
    assert_override_refused(
        "process = \"nginx\"\nport = 443",
        &format!(
            "1:1: {key}: expected at least one of `enabled`, `min_age`, `info`, `warning`, `critical`, \
             `growing`, `window`, `stacks` to override, found table"
        ),
    );
}

#[test]
fn an_override_in_the_shadow_of_an_earlier_one_is_refused() {
    let shadow = |earlier: &[&str], later: &str| {
        let overrides = earlier.iter().chain([&later]);
        let overrides = overrides.map(|matcher| format!("{PILEUP}\n{matcher}\nwarning = 7\n"));
        parse(&overrides.collect::<String>())
    };
    let (process, unit, port) = ("process = \"a\"", "unit = \"a.service\"", "port = 1");
    let both = format!("{process}\n{port}");
    let all = format!("{both}\n{unit}");
    for (earlier, later) in
        [(port, port), (process, &both), (port, &both), (&both, &all), (unit, &all), (&all, &all)]
    {
        let line = shadow(&["port = 2", earlier], later).expect_err("it never matches").to_string();
        let expected = "detect.close_wait_pileup.override[2]: expected something that \
                        `override[1]` does not match before it, found table";
        assert!(line.ends_with(expected), "{line}");
    }
    for (earlier, later) in [
        (&*both, process),
        (&*both, port),
        (&*all, &*both),
        (process, unit),
        (process, port),
        (port, "port = 2"),
        (&*both, "process = \"a\"\nport = 2"),
    ] {
        shadow(&[earlier], later)
            .unwrap_or_else(|error| panic!("{later} after {earlier}: {error}"));
    }
    assert_override_refused(
        &format!("port = 1\nwarning = 7\n\n  {PILEUP}\n  port = 1\n  enabled = false"),
        "5:3: detect.close_wait_pileup.override[1]: expected something that `override[0]` does \
         not match before it, found table",
    );
}

#[test]
fn thresholds_of_an_override_are_in_order_together_with_those_it_keeps() {
    let key = "detect.close_wait_pileup.override[0]";
    assert_override_refused(
        "port = 443\nwarning = 30000",
        &format!(
            "3:11: {key}.warning: expected no more than `critical`, which is 10000 in the \
             section, found integer 30000"
        ),
    );
    assert_override_refused(
        "port = 443\nwarning = 30\ncritical = 29",
        &format!(
            "4:12: {key}.critical: expected no less than `warning`, which is 30, found integer 29"
        ),
    );
    assert_override_refused(
        "port = 443\ncritical = 40\n[detect.close_wait_pileup]\nwarning = 50",
        &format!(
            "3:12: {key}.critical: expected no less than `warning`, which is 50 in the section, \
             found integer 40"
        ),
    );
    detect(&format!("{PILEUP}\nport = 443\nwarning = 300\ncritical = 300"));
}

#[test]
fn unknown_keys_and_wrong_types_of_overrides_are_refused() {
    let section = "detect.close_wait_pileup";
    let key = "detect.close_wait_pileup.override[0]";
    assert_override_refused(
        "procces = \"nginx\"\nwarning = 7",
        &format!("2:1: unknown key `{key}.procces`; did you mean `process`?"),
    );
    assert_override_refused(
        "port = 1\nwarnin = 7",
        &format!("3:1: unknown key `{key}.warnin`; did you mean `warning`?"),
    );
    assert_override_refused(
        "port = 1\nbanana = 7",
        &format!(
            "3:1: unknown key `{key}.banana`; known here: `process`, `unit`, `port`, `until`, `enabled`, \
             `min_age`, `info`, `warning`, `critical`, `growing`, `window`, `stacks`"
        ),
    );
    assert_override_refused(
        "port = 1\nmin_age = 7",
        &format!(
            "3:11: {key}.min_age: expected a duration from \"0s\" to \"24h\", found integer 7"
        ),
    );
    assert_override_refused(
        "port = 1\n[[detect.close_wait_pileup.override.override]]\nport = 2",
        &format!(
            "3:37: unknown key `{key}.override`; known here: `process`, `unit`, `port`, `until`, `enabled`, \
             `min_age`, `info`, `warning`, `critical`, `growing`, `window`, `stacks`"
        ),
    );
    let tables = format!("expected tables `[[{section}.override]]`, at most 100");
    let line = refusal(&format!("[{section}.override]\nport = 1\nwarning = 7"));
    assert_eq!(line, format!("f.toml:1:1: {section}.override: {tables}, found table"));
    let line = refusal(&format!("{section}.override = [1]"));
    let table = "expected a table with what to match and what to override, found integer 1";
    assert_eq!(line, format!("f.toml:1:38: {key}: {table}"));
    let line = refusal(&format!("[[{section}.overide]]\nport = 1"));
    assert!(line.ends_with("did you mean `override`?"), "{line}");
}

#[test]
fn overrides_are_at_most_100() {
    let text = |count| {
        let of_port = |port| format!("{PILEUP}\nport = {port}\nwarning = 7\n");
        (1..=count).map(of_port).collect::<String>()
    };
    detect(&text(100));
    let line = refusal(&text(101));
    assert!(line.contains("expected tables `[[detect.close_wait_pileup.override]]`, at most 100"));
}

#[test]
fn a_kind_whose_findings_are_nobodys_refuses_overrides_as_such() {
    let line = refusal("[[detect.time_wait_exhaustion.override]]\nport = 443\nwarning = 0.5");
    assert_eq!(
        line,
        "f.toml:1:1: detect.time_wait_exhaustion.override: expected no override, for TIME_WAIT is \
         counted by namespace, and has no process, unit or port, found array"
    );
}

#[test]
fn the_default_file_shows_one_override_that_can_be_taken_as_it_is() {
    let file = Config::default_toml();
    let header = format!("# {PILEUP}\n");
    assert_eq!(file.matches("# [[").count(), 1);
    let (before, example) = file.split_once(&header).expect("it shows an override");
    let (example, after) = example.split_once("\n\n").expect("another section follows");
    let example = example.replace("# ", "");
    let text = format!("{before}{PILEUP}\n{example}\n\n{after}");
    let pileup = detect(&text).close_wait_pileup;
    let backupd = process("backupd", None, None);
    let taken = pileup.of(Some(&backupd), 5432);
    assert_eq!((taken.warning, taken.critical), (100, 500));
    assert_eq!(pileup.of(Some(&backupd), 443), &*pileup);
}

#[test]
fn what_is_ignored_is_read_and_bad_entries_are_refused_at_the_entry() {
    let text = "[ignore]\nprocesses = [\"a\"]\nunits = [\"a.service\", \"0123456789ab\"]\n\
                ports = [1, 65535]\nnamespaces = [\"blue\"]";
    let ignore = parse(text).expect("it is good").ignore;
    assert_eq!(*ignore.processes, ["a"]);
    assert_eq!(*ignore.units, ["a.service", "0123456789ab"]);
    assert_eq!(*ignore.ports, [1, 65535]);
    assert_eq!(*ignore.namespaces, ["blue"]);
    let table = [
        (
            "processes = \"a\"",
            "13: ignore.processes: expected an array, each element the name of a process as the \
             kernel keeps it, from 1 to 15 bytes, found string \"a\"",
        ),
        (
            "processes = [\"a\", \"abcdefghijklmnop\"]",
            "19: ignore.processes[1]: expected the name of a process as the kernel keeps it, from \
             1 to 15 bytes, found string \"abcdefghijklmnop\"",
        ),
        (
            "processes = [\"a\", \"a\"]",
            "19: ignore.processes[1]: expected something that is not in the list yet, found \
             string \"a\"",
        ),
        (
            "units = [\"nginx.socket\"]",
            "10: ignore.units[0]: expected a systemd service or scope such as \"nginx.service\", \
             a container's or pod's id cut to 12 characters, or the name of a system container, \
             found string \"nginx.socket\"",
        ),
        (
            "ports = 443",
            "9: ignore.ports: expected an array, each element an integer from 1 to 65535, found \
             integer 443",
        ),
        (
            "ports = [0]",
            "10: ignore.ports[0]: expected an integer from 1 to 65535, found integer 0",
        ),
        (
            "ports = [65536]",
            "10: ignore.ports[0]: expected an integer from 1 to 65535, found integer 65536",
        ),
        (
            "namespaces = [\"\"]",
            "15: ignore.namespaces[0]: expected the name of a network namespace, from 1 to 255 \
             bytes, found string \"\"",
        ),
        ("port = [1]", "1: unknown key `ignore.port`; did you mean `ports`?"),
    ];
    for (entry, line) in table {
        assert_eq!(refusal(&format!("[ignore]\n{entry}")), format!("f.toml:2:{line}"));
    }
    let ports = |count: u32| {
        let list: Vec<_> = (1..=count).map(|port| port.to_string()).collect();
        format!("[ignore]\nports = [{}]", list.join(", "))
    };
    parse(&ports(100)).expect("100 are good");
    let expected = "f.toml:2:9: ignore.ports: expected from 0 to 100 elements, found array";
    assert_eq!(refusal(&ports(101)), expected);
}

#[test]
fn a_threshold_without_effect_is_refused_with_the_reason() {
    let kind = "[[detect.ephemeral_port_exhaustion.override]]";
    for matcher in
        ["process = \"curl\"", "unit = \"sync.service\"", "port = 443\nprocess = \"curl\""]
    {
        let line = 2 + matcher.lines().count();
        for (name, value, column) in [("warning", "0.7", 11), ("critical", "0.9", 12)] {
            assert_eq!(
                refusal(&format!("{kind}\n{matcher}\n{name} = {value}")),
                format!(
                    "{FILE}:{line}:{column}: detect.ephemeral_port_exhaustion.override[0].{name}: \
                     expected no threshold beside `process` or `unit`, for the ports belong to \
                     their destination: match its `port` only, found float {value}"
                )
            );
        }
        // A failed connect() has a process.
        detect(&format!("{kind}\n{matcher}\nwindow = \"30s\"\nenabled = false"));
    }
    detect(&format!("{kind}\nport = 443\nwarning = 0.7\ncritical = 0.9"));
}
