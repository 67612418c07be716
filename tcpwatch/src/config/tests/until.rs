//! Overrides and entries of `[ignore]` that end with a day.

use jiff::civil::date;

use super::*;

const PILEUP: &str = "[[detect.close_wait_pileup.override]]";

/// The lines about what has ended on that day of January 2027.
fn ended_on(config: &mut Config, day: i8) -> Vec<String> {
    config.end_entries(date(2027, 1, day)).iter().map(Ended::to_string).collect()
}

#[test]
fn an_entry_applies_up_to_its_day_and_its_end_is_reported_once() {
    let text = "[ignore]\n\
                processes = [\"cron\", { name = \"nginx\", until = \"2027-01-20\" }]\n\
                ports = [{ port = 8080, until = \"2027-01-21\" }, 443]\n";
    let mut config = parse(text).expect("it is good");
    assert_eq!(ended_on(&mut config, 20), [""; 0]);
    assert_eq!(*config.ignore.processes, ["cron", "nginx"]);
    assert_eq!(*config.ignore.ports, [8080, 443]);
    let line = "ignore.processes: \"nginx\" no longer applies: it ended on 2027-01-20";
    assert_eq!(ended_on(&mut config, 21), [line]);
    assert_eq!(*config.ignore.processes, ["cron"]);
    assert_eq!(*config.ignore.ports, [8080, 443]);
    let line = "ignore.ports: 8080 no longer applies: it ended on 2027-01-21";
    assert_eq!(ended_on(&mut config, 31), [line]);
    assert_eq!(*config.ignore.ports, [443]);
    assert_eq!(ended_on(&mut config, 31), [""; 0]);
}

#[test]
fn an_override_that_has_ended_gives_way_to_the_next_one_and_keeps_its_place() {
    let text = format!(
        "{PILEUP}\nport = 443\nuntil = \"2027-01-20\"\nwarning = 50\n\
         {PILEUP}\nport = 443\nwarning = 60\n\
         {PILEUP}\nprocess = \"a\\nb\"\nport = 80\nuntil = \"2027-01-25\"\nwarning = 70\n"
    );
    let mut config = parse(&text).expect("it is good");
    let places = |config: &Config| {
        let pileup = &config.detect.close_wait_pileup;
        (pileup.place_of(None, 443), pileup.of(None, 443).warning)
    };
    assert_eq!(ended_on(&mut config, 20), [""; 0]);
    assert_eq!(places(&config), (1, 50));
    let line = "detect.close_wait_pileup.override[0] (port = 443) no longer applies: it ended on \
                2027-01-20";
    assert_eq!(ended_on(&mut config, 21), [line]);
    assert_eq!(places(&config), (2, 60));
    // A name cannot break the line.
    let line = "detect.close_wait_pileup.override[2] (process = \"a\\nb\", port = 80) no longer \
                applies: it ended on 2027-01-25";
    assert_eq!(ended_on(&mut config, 31), [line]);
}

#[test]
fn bad_dates_are_refused_at_the_date_or_the_entry() {
    let over = |body: &str| refusal(&format!("{PILEUP}\n{body}"));
    let bad = ["\"2027-02-30\"", "\"tomorrow\"", "\"2027-01-31T00:00:00\"", "\"27-1-31\""];
    for date in bad {
        assert_eq!(
            over(&format!("port = 1\nwarning = 1\nuntil = {date}")),
            format!(
                "{FILE}:4:9: detect.close_wait_pileup.override[0].until: expected a date such as \
                 \"2027-01-31\", found string {date}"
            )
        );
    }
    // A date by itself matches nothing, and an override that never applies is refused as before.
    let line = over("until = \"2027-01-31\"\nwarning = 1");
    assert!(line.contains("at least one of `process`, `unit`, `port` to match"), "{line}");
    let line = over("port = 1\nuntil = \"2027-01-31\"");
    assert!(line.contains("at least one of `enabled`"), "{line}");
    for (first, second) in
        [("", "until = \"2027-01-31\"\n"), ("until = \"2027-01-31\"\n", "until = \"2027-01-30\"\n")]
    {
        let line =
            over(&format!("port = 1\n{first}warning = 1\n{PILEUP}\nport = 1\n{second}warning = 2"));
        assert!(line.contains("that `override[0]` does not match before it"), "{line}");
    }
    let name = "`name` (of a port `port`) and `until`, such as { name = \"nginx\", until = \
                \"2027-01-31\" }";
    for entry in [
        "{ name = \"a\" }",
        "{ until = \"2027-01-31\" }",
        "{ name = \"a\", until = \"soon\" }",
        "{ name = \"a\", until = \"2027-01-31\", why = \"\" }",
        "{ port = \"a\", until = \"2027-01-31\" }",
    ] {
        let line = refusal(&format!("[ignore]\nprocesses = [{entry}]"));
        assert_eq!(line, format!("{FILE}:2:14: ignore.processes[0]: expected {name}, found table"));
    }
}
