//! Accepted configurations: defaults, the default file, every key, files on disk.
//!
//! The tests over all keys walk `keys()`, so that a new key is held to the same rules without a
//! new test. [`refusals`] has the refusals, word by word. The last tests show that no input panics
//! or breaks the line.

mod overrides;
mod refusals;
mod until;

use std::{
    fs,
    ops::{Deref, DerefMut},
    path::PathBuf,
    str::FromStr,
};

use proptest::prelude::*;

use super::*;
use crate::facts::Scope;

const FILE: &str = "f.toml";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new(FILE))
}

/// The line with which `text` is refused.
fn refusal(text: &str) -> String {
    match parse(text) {
        Ok(config) => panic!("accepted: {text:?} as {config:?}"),
        Err(error) => error.to_string(),
    }
}

/// Only tests read and set the section without a process and a port.
impl<S> Deref for Overridable<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.section
    }
}

impl<S> DerefMut for Overridable<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.section
    }
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("tcpwatch-config-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("the temporary directory is writable");
        Self(path)
    }

    fn file(&self, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(FILE);
        fs::write(&path, contents).expect("the temporary directory is writable");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _leftovers_are_harmless = fs::remove_dir_all(&self.0);
    }
}

/// The line with which the file is refused, its directory left out.
fn load_refusal(path: &Path) -> String {
    let line = Config::load(path).expect_err("the file is bad").to_string();
    let directory = path.parent().expect("a file has a directory").display().to_string();
    line.replace(&format!("{directory}/"), "")
}

/// (section, key, default as TOML, comment in one line) of every key.
fn keys() -> Vec<(String, &'static str, String, String)> {
    fn collect(
        keys: &mut Vec<(String, &'static str, String, String)>,
        path: &str,
        docs: &Docs,
        values: &Table,
    ) {
        let values = values.get(SECTION).and_then(Value::as_table).unwrap_or(values);
        for (name, docs) in &docs.inner {
            match &values[*name] {
                Value::Table(values) => collect(keys, &error::join(path, name), docs, values),
                value => {
                    let lines: Vec<_> = docs.lines.iter().map(|line| line.trim()).collect();
                    keys.push((path.to_owned(), *name, value.to_string(), lines.join(" ")));
                }
            }
        }
    }
    let mut keys = Vec::new();
    collect(&mut keys, "", &Config::docs(), &read::table(&Config::default()));
    keys
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = Config::default();
    assert_eq!(config.web.listen_addresses, ["127.0.0.1:10743".parse().expect("an address")]);
    assert_eq!((config.log.level, config.log.format), (LogLevel::Info, LogFormat::Text));
    assert_eq!(duration::show(config.inventory.interval), "10s");
    assert_eq!(config.inventory.namespaces, Scope::All);
    assert_eq!(config.limits.owners, 50);
    assert_eq!(config.limits.close_wait_sockets, 16384);
    assert_eq!(config.limits.ring_buffer_bytes, 262_144);
    assert_eq!(config.limits.http_connections, 64);
    let pileup = config.detect.close_wait_pileup;
    assert!(pileup.enabled);
    assert_eq!((pileup.info, pileup.warning, pileup.critical), (20, 33, 10_000));
    assert_eq!(pileup.growing, 11);
    assert_eq!(duration::show(pileup.min_age), "60s");
    assert_eq!(duration::show(pileup.window), "10m");
    let time_wait = config.detect.time_wait_exhaustion;
    assert!(time_wait.enabled);
    assert_eq!((time_wait.warning, time_wait.critical), (0.8, 0.95));
    assert_eq!(duration::show(time_wait.window), "60s");
    let ports = config.detect.ephemeral_port_exhaustion;
    assert!(ports.enabled);
    assert_eq!((ports.warning, ports.critical), (0.8, 0.95));
    assert_eq!(duration::show(ports.window), "60s");
    assert!(config.detect.self_connection.enabled);
    assert_eq!(config.detect.self_connection.severity, Severity::Warning);
}

#[test]
fn default_file_parses_to_the_default() {
    let file = Config::default_toml();
    assert_eq!(parse(&file).expect("the default file is good"), Config::default());
    assert_eq!(parse(&file.replace('\n', "\r\n")).expect("CRLF is good"), Config::default());
}

#[test]
fn default_file_has_lines_of_at_most_100_columns_and_comments_every_key() {
    let file = Config::default_toml();
    let mut above = "";
    for line in file.lines() {
        assert!(line.chars().count() <= 100, "{line}");
        if line.contains(" = ") && !line.starts_with('#') {
            assert!(above.starts_with("# "), "{line}");
        }
        above = line;
    }
}

#[test]
fn empty_files_and_empty_sections_are_the_default() {
    let texts = ["", "\n", "# comment", "\u{feff}", "[limits]", "[detect]", "detect = {}"];
    for text in texts {
        assert_eq!(parse(text).expect(text), Config::default());
    }
}

#[test]
fn every_key_reacts_by_itself() {
    for (section, key, default, _) in keys() {
        let other = match default.as_str() {
            "true" => "false".to_owned(),
            "\"info\"" => "\"error\"".to_owned(),
            "\"text\"" => "\"json\"".to_owned(),
            "\"all\"" => "\"host\"".to_owned(),
            "\"warning\"" => "\"critical\"".to_owned(),
            "262144" => "524288".to_owned(),
            "[]" if key == "ports" => "[77]".to_owned(),
            "[]" => "[\"a.service\"]".to_owned(),
            "\"\"" => "\"https://a.example/\"".to_owned(),
            text if text.starts_with('[') => "[\"[::1]:1\"]".to_owned(),
            text if text.starts_with("\"/") => "\"/a/socket\"".to_owned(),
            text if text.starts_with('"') => "\"77s\"".to_owned(),
            part if part.contains('.') => {
                let part = f64::from_str(part).expect("a part of a whole");
                (part * 0.9).to_string()
            }
            number => (u64::from_str(number).expect("all else is an integer") + 1).to_string(),
        };
        let changed = parse(&format!("[{section}]\n{key} = {other}")).expect(key);
        assert_ne!(changed, Config::default(), "{section}.{key} is ignored");
        // Set beside all other keys, and spelt in the other ways of TOML, it does the same.
        let line = |value: &str| format!("{key} = {value}\n");
        let header = format!("[{section}]\n");
        let file = Config::default_toml();
        let (before, after) = file.split_once(&header).expect("the section is in the file");
        let file = format!("{before}{header}{}", after.replacen(&line(&default), &line(&other), 1));
        assert_eq!(parse(&file).expect(key), changed, "{section}.{key}");
        assert_eq!(parse(&format!("{section}.{key} = {other}")).expect(key), changed);
        assert_eq!(parse(&format!("{section} = {{ {key} = {other} }}")).expect(key), changed);
        // And setting it back to the default is the default.
        let same = parse(&format!("[{section}]\n{key} = {default}")).expect(key);
        assert_eq!(same, Config::default(), "{section}.{key}");
    }
}

#[test]
fn every_comment_states_the_bounds_in_force() {
    for (section, key, default, docs) in keys() {
        let impossible = match default.as_str() {
            "[]" if key == "ports" => "[0]",
            "[]" => "[\"\"]",
            text if text.starts_with('[') => "[]",
            text if duration::parse(text.trim_matches('"')).is_some() => "\"9999h\"",
            _ => "-1",
        };
        let line = refusal(&format!("[{section}]\n{key} = {impossible}"));
        let (_, expected) = line.split_once("expected ").expect("a refusal says what it expects");
        let (expected, _) = expected.rsplit_once(", found ").expect("and what it found");
        let bounds = match expected.find("from ") {
            Some(start) => &expected[start..],
            // Hosts are known by their form.
            None if key == "allowed_hosts" => "without port",
            None if key == "external_url" => "\"\"",
            None if key == "socket" => "at most 107 bytes",
            // Units are recognized by their endings, not by their length.
            None if section == "ignore" => "cut to 12 characters",
            None => expected.trim_end_matches(", such as 0.8").trim_start_matches("a ratio "),
        };
        // Durations are quoted where they are TOML, and not in a comment's prose.
        let bounds = if default.contains("\"info\"") || !bounds.starts_with("from \"") {
            bounds.trim_end_matches(" elements").to_owned()
        } else {
            bounds.replace('"', "")
        };
        assert!(docs.contains(&bounds), "{section}.{key}: no {bounds:?} in {docs:?}");
    }
}

#[test]
fn durations_are_numbers_with_units_the_largest_first() {
    let good = [
        ("100ms", 100),
        ("0s", 0),
        ("60s", 60_000),
        ("10m", 600_000),
        ("1h", 3_600_000),
        ("1h30m", 5_400_000),
        ("1h2m3s4ms", 3_723_004),
        ("90s", 90_000),
        ("1.5s", 1_500),
        ("60 s", 60_000),
        ("007s", 7_000),
        ("18446744073709551615ms", u64::MAX),
    ];
    for (text, ms) in good {
        assert_eq!(duration::parse(text).map(|it| it.as_millis()), Some(u128::from(ms)), "{text}");
    }
    let bad = [
        "",
        " ",
        "60",
        "s",
        "-60s",
        " 60s",
        "1d",
        "1y",
        "1S",
        "30m1h",
        "1s1s",
        "1h30",
        "h1",
        "٣s",
        "1\u{a0}s",
        "1s\0",
        "18446744073709551616ms",
        "18446744073709551615ms1s",
    ];
    for text in bad {
        assert_eq!(duration::parse(text), None, "{text}");
    }
}

#[test]
fn files_that_cannot_be_a_configuration_are_refused_with_one_line() {
    let scratch = Scratch::new("files");
    assert_eq!(
        load_refusal(&scratch.0.join("none.toml")),
        "none.toml: no such file; `tcpwatch config default` prints one to start from"
    );
    let line = Config::load(&scratch.0).expect_err("it is a directory").to_string();
    assert!(line.ends_with("-files: expected a TOML file, found a directory"), "{line}");
    assert_eq!(
        load_refusal(&scratch.file(b"log.level = \"\xff\"")),
        "f.toml:1:14: expected UTF-8 text, found byte 0xff"
    );
    assert_eq!(
        load_refusal(&scratch.file(b"\xef\xbb\xbf# \xc3\xa4\n\xc3\xa4\xc3")),
        "f.toml:2:2: expected UTF-8 text, found byte 0xc3"
    );
    assert_eq!(
        load_refusal(&scratch.file(b"\x7fELF\x02\x01\x01\0\0\0\xfe")),
        "f.toml:1:11: expected UTF-8 text, found byte 0xfe"
    );
    assert_eq!(
        load_refusal(&scratch.file("#".repeat(1024 * 1024 + 1))),
        "f.toml: expected a TOML file of at most 1048576 bytes, found a larger one"
    );
}

#[test]
fn files_are_loaded() {
    let scratch = Scratch::new("good");
    for good in ["".to_owned(), Config::default_toml(), "#".repeat(1024 * 1024)] {
        let config = Config::load(&scratch.file(good)).expect("the file is good");
        assert_eq!(config, Config::default());
    }
    let config =
        Config::load(&scratch.file("\u{feff}limits.owners = 7")).expect("the file is good");
    assert_eq!(config.limits.owners, 7);
}

#[test]
fn a_section_that_only_serde_reads_is_held_to_its_bounds() {
    let limits: Limits = toml::from_str("owners = 7").expect("the text is good");
    assert_eq!(limits, Limits { owners: 7, ..Limits::default() });
    toml::from_str::<Limits>("owners = 0").expect_err("0 is out of bounds");
    toml::from_str::<Limits>("owner = 1").expect_err("the key is unknown");
}

#[test]
fn words_are_the_same_on_the_command_line() {
    fn assert_same<T: clap::ValueEnum + serde::Serialize>() {
        for word in T::value_variants() {
            let name = word.to_possible_value().expect("no word is hidden");
            assert_eq!(toml::Value::try_from(word), Ok(name.get_name().into()));
        }
    }
    assert_same::<LogLevel>();
    assert_same::<LogFormat>();
}

#[test]
fn what_changes_only_with_a_restart_is_kept_and_named() {
    let (old, new) = (Config::default(), |text: &str| parse(text).expect("the text is good"));
    for key in [
        "web.listen_addresses = [\"[::1]:1\"]",
        "log.level = \"error\"",
        "limits.ring_buffer_bytes = 4096",
        "limits.http_connections = 1",
    ] {
        let (kept, names) = old.keep_start_only(new(key));
        assert_eq!(kept, old);
        assert!(names.len() == 1 && key.starts_with(names[0]), "{names:?}");
    }
    let changed = new("limits.owners = 7\n[detect.reset_storm]\nwarning = 7");
    assert_eq!(old.keep_start_only(changed.clone()), (changed, Vec::new()));
}

#[test]
fn deep_nesting_is_refused_not_recursed() {
    for (open, close) in [("[", "]"), ("{a=", "}")] {
        let text = format!("a = {}{}", open.repeat(200_000), close.repeat(200_000));
        assert_eq!(refusal(&text).lines().count(), 1);
    }
    assert_eq!(refusal(&format!("a{} = 1", ".a".repeat(200_000))).lines().count(), 1);
}

fn answers_in_one_line(text: &str) {
    if let Err(error) = parse(text) {
        let line = error.to_string();
        assert!(line.starts_with("f.toml:") && !line.contains(char::is_control), "{line:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_answered_in_one_line(text in any::<String>()) {
        answers_in_one_line(&text);
    }

    #[test]
    fn any_toml_like_text_is_answered_in_one_line(text in "[\\[\\]{}=.,\"'#a-c0-9 \\\\\n\r-]{0,60}") {
        answers_in_one_line(&text);
    }

    #[test]
    fn a_damaged_default_file_is_answered_in_one_line(
        at in any::<prop::sample::Index>(),
        cut in 0_usize..40,
        junk in "[\\PC\n\"\\[\\]=.]{0,8}",
    ) {
        let file: Vec<char> = Config::default_toml().chars().collect();
        let at = at.index(file.len());
        let mut damaged: String = file.iter().take(at).collect();
        damaged.push_str(&junk);
        damaged.extend(file.iter().skip(at + cut));
        answers_in_one_line(&damaged);
    }

    #[test]
    fn any_bytes_in_a_file_are_answered_in_one_line(bytes in any::<Vec<u8>>()) {
        let text = String::from_utf8_lossy(&bytes);
        answers_in_one_line(&text);
        if let Err(error) = std::str::from_utf8(&bytes) {
            let error = error::Fault::not_utf8(&bytes, &error).found_in(Path::new(FILE), &bytes);
            prop_assert_eq!(error.to_string().lines().count(), 1);
        }
    }

    #[test]
    fn any_duration_that_is_shown_parses_back(ms in any::<u64>(), small in 0_u64..200_000) {
        for duration in [ms, small].map(std::time::Duration::from_millis) {
            prop_assert_eq!(duration::parse(&duration::show(duration)), Some(duration));
        }
    }
}
