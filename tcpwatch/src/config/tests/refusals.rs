//! Refusals: tables of bad input with the exact line that a user sees.
//!
//! Each line stands after the name of the file. Bounds are tried at both edges and beyond.

use super::*;

fn assert_refused(table: &[(&str, &str)]) {
    for (text, line) in table {
        assert_eq!(refusal(text), format!("{FILE}:{line}"), "for {text:?}");
    }
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_one() {
    assert_refused(&[
        (
            "[inventory]\n\nintervall = \"1s\"",
            "3:1: unknown key `inventory.intervall`; did you mean `interval`?",
        ),
        ("[inventry]", "1:2: unknown key `inventry`; did you mean `inventory`?"),
        ("  Limits = 1", "1:3: unknown key `Limits`; did you mean `limits`?"),
        (
            "[detect.close-wait-pileup]",
            "1:9: unknown key `detect.close-wait-pileup`; did you mean `close_wait_pileup`?",
        ),
        (
            "[detect.close_wait_pileup]\nenabled = true\nmax_age = \"1s\"",
            "3:1: unknown key `detect.close_wait_pileup.max_age`; did you mean `min_age`?",
        ),
        (
            "[detect.time_wait_exhaustion]\nmin_age = \"1s\"",
            "2:1: unknown key `detect.time_wait_exhaustion.min_age`; known here: `enabled`, \
             `warning`, `critical`, `window`",
        ),
        (
            "banana = 1",
            "1:1: unknown key `banana`; known here: `web`, `log`, `inventory`, `limits`, `detect`, \
             `ignore`",
        ),
        ("log.levle = \"info\"", "1:5: unknown key `log.levle`; did you mean `level`?"),
        ("log = { levle = \"info\" }", "1:9: unknown key `log.levle`; did you mean `level`?"),
        ("[log]\n\"le\\nvel\" = 1", "2:1: unknown key `log.\"le\\nvel\"`; did you mean `level`?"),
        ("[log]\n\"\" = 1", "2:1: unknown key `log.\"\"`; known here: `level`, `format`"),
    ]);
}

#[test]
fn wrong_types_are_refused_at_the_value() {
    let address = "an IP address with port, such as \"127.0.0.1:10743\" or \"[::]:10743\"";
    assert_refused(&[
        (
            "[detect.close_wait_pileup]\nmin_age = 60",
            "2:11: detect.close_wait_pileup.min_age: expected a duration from \"0s\" to \"24h\", \
             found integer 60",
        ),
        (
            "limits.owners = \"fifty\"",
            "1:17: limits.owners: expected an integer from 1 to 10000, found string \"fifty\"",
        ),
        (
            "limits.owners = 5.0",
            "1:17: limits.owners: expected an integer from 1 to 10000, found float 5.0",
        ),
        (
            "[limits]\nowners = 1979-05-27",
            "2:10: limits.owners: expected an integer from 1 to 10000, found datetime 1979-05-27",
        ),
        ("[limits.owners]", "1:1: limits.owners: expected an integer from 1 to 10000, found table"),
        ("limits = 5", "1:10: limits: expected the table `[limits]`, found integer 5"),
        ("[[limits]]", "1:1: limits: expected the table `[limits]`, found array"),
        (
            "detect.self_connection = false",
            "1:26: detect.self_connection: expected the table `[detect.self_connection]`, found \
             boolean false",
        ),
        (
            "[detect.self_connection]\nenabled = 1",
            "2:11: detect.self_connection.enabled: expected true or false, found integer 1",
        ),
        (
            "[detect.self_connection]\nseverity = \"warn\"",
            "2:12: detect.self_connection.severity: expected \"info\", \"warning\" or \
             \"critical\", found string \"warn\"",
        ),
        (
            "log.level = \"INFO\"",
            "1:13: log.level: expected \"error\", \"warn\", \"info\", \"debug\" or \"trace\", \
             found string \"INFO\"",
        ),
        ("log.format = []", "1:14: log.format: expected \"text\" or \"json\", found array"),
        (
            "inventory.namespaces = true",
            "1:24: inventory.namespaces: expected \"all\" or \"host\", found boolean true",
        ),
        (
            "[detect.time_wait_exhaustion]\nwarning = \"80%\"",
            "2:11: detect.time_wait_exhaustion.warning: expected a ratio above 0 and at most 1, \
             such as 0.8, found string \"80%\"",
        ),
        (
            "web.listen_addresses = \"127.0.0.1:1\"",
            &format!(
                "1:24: web.listen_addresses: expected an array, each element {address}, found \
                 string \"127.0.0.1:1\""
            ),
        ),
        (
            "web.listen_addresses = [\n  \"127.0.0.1:1\",\n  2,\n]",
            &format!("3:3: web.listen_addresses[1]: expected {address}, found integer 2"),
        ),
        (
            "web.listen_addresses = [\":10743\"]",
            &format!("1:25: web.listen_addresses[0]: expected {address}, found string \":10743\""),
        ),
        (
            "web.listen_addresses = [\"localhost:65536\"]",
            &format!(
                "1:25: web.listen_addresses[0]: expected {address}, found string \
                 \"localhost:65536\""
            ),
        ),
    ]);
}

#[test]
fn impossible_values_are_refused_at_the_value() {
    assert_refused(&[
        (
            "web.listen_addresses = []",
            "1:24: web.listen_addresses: expected from 1 to 64 elements, found array",
        ),
        (
            "web.listen_addresses = [\"[::1]:1\", \"[0:0::1]:1\"]",
            "1:36: web.listen_addresses[1]: expected something that is not in the list \
             yet, found string \"[0:0::1]:1\"",
        ),
        (
            "inventory.interval = \"0s\"",
            "1:22: inventory.interval: expected a duration from \"100ms\" to \"1h\", found string \
             \"0s\"",
        ),
        (
            "[detect.close_wait_pileup]\nwindow = \"0s\"",
            "2:10: detect.close_wait_pileup.window: expected a duration from \"1s\" to \"24h\", \
             found string \"0s\"",
        ),
        (
            "limits.ring_buffer_bytes = 300000",
            "1:28: limits.ring_buffer_bytes: expected a power of two, such as 262144, from 4096 to \
             67108864, found integer 300000",
        ),
        (
            "limits.owners = 99999999999999999999999999",
            "1:17: limits.owners: expected an integer from 1 to 10000, found integer \
             99999999999999999999999999",
        ),
        (
            "limits.ring_buffer_bytes = 4_294_967_296",
            "1:28: limits.ring_buffer_bytes: expected a power of two, such as 262144, from 4096 to \
             67108864, found integer 4294967296",
        ),
        (
            "limits.owners = -1",
            "1:17: limits.owners: expected an integer from 1 to 10000, found integer -1",
        ),
    ]);
}

#[test]
fn addresses_are_at_most_64() {
    let text = |count| {
        let quoted: Vec<_> = (1..=count).map(|port| format!("\"[::1]:{port}\"")).collect();
        format!("web.listen_addresses = [{}]", quoted.join(","))
    };
    parse(&text(64)).expect("64 addresses are good");
    let line = "1:24: web.listen_addresses: expected from 1 to 64 elements, found array";
    assert_refused(&[(&text(65), line)]);
}

#[test]
fn a_warning_above_critical_is_refused_where_it_was_set() {
    let pileup = "detect.close_wait_pileup";
    let ports = "detect.ephemeral_port_exhaustion";
    assert_refused(&[
        (
            &format!("[{pileup}]\nwarning = 20\ncritical = 10"),
            &format!(
                "3:12: {pileup}.critical: expected no less than `warning`, which is 20, found \
                 integer 10"
            ),
        ),
        (
            &format!("[{pileup}]\ncritical = 10\nwarning = 20"),
            &format!(
                "2:12: {pileup}.critical: expected no less than `warning`, which is 20, found \
                 integer 10"
            ),
        ),
        (
            &format!("[{pileup}]\ncritical = 19"),
            &format!(
                "2:12: {pileup}.critical: expected no less than `warning`, which is 33 by \
                 default, found integer 19"
            ),
        ),
        (
            &format!("[{pileup}]\nwarning = 20001"),
            &format!(
                "2:11: {pileup}.warning: expected no more than `critical`, which is 10000 by \
                 default, found integer 20001"
            ),
        ),
        (
            &format!("[{ports}]\nwarning = 1"),
            &format!(
                "2:11: {ports}.warning: expected no more than `critical`, which is 0.95 by \
                 default, found integer 1"
            ),
        ),
        (
            "[detect.time_wait_exhaustion]\nwarning = 0.5\ncritical = 0.4",
            "3:12: detect.time_wait_exhaustion.critical: expected no less than `warning`, which \
             is 0.5, found float 0.4",
        ),
        (
            "[detect.reset_storm]\nwarning = 7000",
            "2:11: detect.reset_storm.warning: expected no more than `critical`, which is 6000 by \
             default, found integer 7000",
        ),
        (
            "[detect.reset_storm]\nhistory = \"59s\"",
            "2:11: detect.reset_storm.history: expected no less than `window`, which is \"60s\" by \
             default, found string \"59s\"",
        ),
        (
            "[detect.reset_storm]\nwindow = \"2h\"",
            "2:10: detect.reset_storm.window: expected no more than `history`, which is \"1h\" by \
             default, found string \"2h\"",
        ),
    ]);
    parse(&format!("[{pileup}]\nwarning = 200")).expect("equal thresholds are good");
    parse(&format!("[{ports}]\nwarning = 1\ncritical = 1")).expect("equal thresholds are good");
}

#[test]
fn every_bound_holds_at_its_edge_and_not_beyond() {
    let pileup = "[detect.close_wait_pileup]";
    let time_wait = "[detect.time_wait_exhaustion]";
    let ports = "[detect.ephemeral_port_exhaustion]";
    // Section, key, values at both edges, values beyond them. Some need a second key to be in order.
    type Case<'a> = (&'a str, &'a str, [&'a str; 2], &'a [&'a str]);
    let table: &[Case<'_>] = &[
        ("[inventory]", "interval", ["\"100ms\"", "\"1h\""], &["\"99ms\"", "\"1h1ms\""]),
        ("[limits]", "owners", ["1", "10_000"], &["0", "10_001"]),
        ("[limits]", "close_wait_sockets", ["100", "1000000"], &["99", "1000001"]),
        ("[limits]", "ring_buffer_bytes", ["4096", "0x4000000"], &["2048", "4097", "134217728"]),
        ("[limits]", "http_connections", ["1", "1024"], &["0", "1025"]),
        (pileup, "min_age", ["\"0s\"", "\"24h\""], &["\"-1s\"", "\"24h1ms\""]),
        (pileup, "window", ["\"1s\"", "\"24h\""], &["\"999ms\"", "\"24h1ms\""]),
        (pileup, "growing", ["1", "1000000"], &["0", "1000001"]),
        (pileup, "critical = 1000000\nwarning", ["1", "1000000"], &["0", "1000001"]),
        (pileup, "warning = 1\ncritical", ["1", "1000000"], &["0", "1000001"]),
        (time_wait, "window", ["\"1s\"", "\"24h\""], &["\"999ms\"", "\"24h1ms\""]),
        (time_wait, "critical = 1.0\nwarning", ["0.001", "1.0"], &["0.0", "1.001", "nan", "-0.5"]),
        (time_wait, "warning = 1e-9\ncritical", ["1e-9", "1"], &["0", "2", "inf", "-inf", "1e999"]),
        (ports, "window", ["\"1s\"", "\"24h\""], &["\"999ms\"", "\"24h1ms\""]),
        (ports, "critical = 1.0\nwarning", ["0.001", "1.0"], &["0.0", "1.001", "nan", "-0.5"]),
        (ports, "warning = 1e-9\ncritical", ["1e-9", "1"], &["0", "2", "inf", "-inf", "1e999"]),
    ];
    for (section, key, good, bad) in table {
        for value in good {
            let text = format!("{section}\n{key} = {value}");
            assert!(parse(&text).is_ok(), "{}", refusal(&text));
        }
        for value in *bad {
            let line = refusal(&format!("{section}\n{key} = {value}"));
            assert!(line.contains(": expected a"), "{line}");
        }
    }
}

#[test]
fn text_that_is_not_toml_is_refused_with_one_line() {
    assert_refused(&[
        ("[limits", "1:8: unclosed table, expected `]`"),
        ("[limits]\nowners", "2:7: key with no value, expected `=`"),
        ("owners = ", "1:10: string values must be quoted, expected literal string"),
        ("[limits]\nowners = 1\nowners = 2", "3:1: duplicate key"),
        ("a = \"b", "1:7: invalid basic string, expected `\"`"),
        ("\0", "1:2: key with no value, expected `=`"),
    ]);
}

#[test]
fn columns_count_characters() {
    let text = "inventory = { interval = \"ä€😀\", namespaces = \"ö\" }";
    assert_refused(&[(
        text,
        "1:26: inventory.interval: expected a duration from \"100ms\" to \"1h\", found string \
         \"ä€😀\"",
    )]);
    let text = text.replace("ä€😀", "1s");
    assert!(
        refusal(&text).starts_with("f.toml:1:45: inventory.namespaces: "),
        "{}",
        refusal(&text)
    );
    let after = "\u{feff}web.listen_addresses = [\"ä\"]\r\n";
    assert!(refusal(after).starts_with("f.toml:1:25: "), "{}", refusal(after));
    let after = "# é\r\n\"\" = { x = \"é\" }";
    assert!(refusal(after).starts_with("f.toml:2:1: "), "{}", refusal(after));
}

#[test]
fn long_values_are_cut_and_control_characters_escaped() {
    let long = "x".repeat(100_000);
    for text in [
        format!("log.level = \"{long}\""),
        format!("{long} = 1"),
        format!("limits.owners = 1{}", "0".repeat(100_000)),
        format!("log = \"\"\"\n{long}\n\"\"\""),
    ] {
        let line = refusal(&text);
        assert!(line.len() < 200, "{line}");
    }
    let line = refusal("log.level = \"a\\nb\\u001b[31mc\"");
    assert!(line.ends_with("found string \"a\\nb\\u{1b}[31mc\""), "{line}");
    let line =
        Config::parse("x = 1", Path::new("a\nb\u{1b}")).expect_err("unknown key").to_string();
    assert!(line.starts_with("a\\nb\\u{1b}:1:1: "), "{line}");
}
