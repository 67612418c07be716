//! The page: its order, its bounds, its escapes, and the contrast of its colours.

use std::collections::BTreeMap;

use super::*;
use crate::{
    engine::FindingChange,
    facts::{NotSeen, Unseen},
    publish::{
        HookState,
        tests::{ORIGIN, finding, hooks, led, not_seen, samples, wall},
    },
};

/// The parts of a page that a test changes.
struct Parts {
    findings: Vec<Finding>,
    history: History,
    samples: Samples,
    trends: Trends,
    hooks: Vec<HookState>,
    limits: Vec<LimitUse>,
    lost: Vec<(&'static str, u64)>,
    ready: Result<(), String>,
}

impl Parts {
    fn of(findings: impl Into<Vec<Finding>>) -> Self {
        let findings = findings.into();
        let samples = samples();
        let mut trends = Trends::default();
        trends.observe(wall().now(), &samples, None, &findings);
        Self {
            findings,
            history: History::default(),
            samples,
            trends,
            hooks: hooks().to_vec(),
            limits: Vec::new(),
            lost: Vec::new(),
            ready: Ok(()),
        }
    }

    fn page_of(&self, origin: Origin<'_>) -> String {
        render_page(&View {
            origin: Origin { hooks: Some(&self.hooks), ..origin },
            wall: wall(),
            findings: &self.findings,
            history: &self.history,
            samples: &self.samples,
            trends: &self.trends,
            limits: &self.limits,
            agent: AgentView {
                started: Timestamp::from_ns(1_000_000_000),
                inventoried: Some(Timestamp::from_ns(3_000_000_000)),
                interval: Duration::from_secs(10),
                ready: self.ready.clone(),
                lost: &self.lost,
            },
        })
    }

    fn page(&self) -> String {
        self.page_of(ORIGIN)
    }
}

#[track_caller]
fn position(page: &str, text: &str) -> usize {
    page.find(text).unwrap_or_else(|| panic!("{text} is missing: {page}"))
}

#[test]
fn the_worst_finding_comes_first_and_the_numbers_after() {
    let mut warning = finding();
    warning.severity = Severity::Warning;
    warning.title = "the lesser evil".to_owned();
    warning.id = "lesser".to_owned();
    let page = Parts::of([warning, finding()]).page();
    let order = [
        "<title>web1: 1 critical, 1 warning</title>",
        "<table class=\"overview\">",
        "<figcaption>ESTABLISHED",
        "<h2>Limits</h2>",
        "backupd keeps 207 sockets",
        "the lesser evil",
        "Listeners, the busiest first",
        "Owners of sockets in CLOSE_WAIT",
        "Sockets by state",
        "<h2>Hooks</h2>",
    ];
    assert!(order.map(|text| position(&page, text)).is_sorted(), "{page}");
    for text in [
        "<time datetime=\"2026-11-20T07:59:57.000Z\">07:59:57 UTC</time>",
        "Restart backup.service.",
        "192.0.2.7:443\n192.0.2.8:443",
        "<td class=\"n\">1,204</td>",
        "<td class=\"n\"><b>207</b></td><td class=\"unit\">sockets</td>",
        "href=\"runbooks/close-wait-pileup\"",
        "href=\"metrics\"",
        "href=\"api/v1/findings\"",
        "<noscript><meta http-equiv=\"refresh\" content=\"120\"></noscript>",
    ] {
        position(&page, text);
    }
}

#[test]
fn the_header_has_the_host_and_how_the_agent_fares() {
    let mut parts = Parts::of([]);
    let page = parts.page();
    for text in [
        "<h1>web1</h1>",
        "<li>tcpwatch 0.1.0</li>",
        "<li>kernel 6.18.5</li>",
        "<li>1,085 sockets</li>",
        "<li>3 network namespaces</li>",
        ">07:59:57 UTC</time> (3 s)</li>",
        "<li class=\"good\">ready</li>",
        "hooks attached 1 of 2",
        "<td class=\"missing\">not attached: fexit is refused (EPERM)</td><td>bind() that fails</td>",
        "as of <span id=\"as-of\"><time datetime=\"2026-11-20T07:59:59.000Z\">",
    ] {
        position(&page, text);
    }
    assert!(!page.contains("lost since the start"));
    parts.ready = Err("an inventory hangs".to_owned());
    parts.lost = vec![("decode", 0), ("ring_buffer", 1_200)];
    let page = parts.page();
    position(&page, "<li class=\"bad\">not ready: an inventory hangs</li>");
    position(&page, "<ul><li>ring_buffer: 1,200</li></ul>");
}

#[test]
fn a_time_of_another_day_has_its_date() {
    let yesterday =
        WallClock::new(Timestamp::from_ns(100_000_000_000_000), 1_795_161_600_000_000_000);
    let shown = time(yesterday, Timestamp::from_ns(0));
    assert!(shown.ends_with(">2026-11-19 04:13:20 UTC</time>"), "{shown}");
}

#[test]
fn only_the_worst_finding_is_open_and_each_has_what_it_leads_within() {
    let page = Parts::of(led()).page();
    let at = |text: &str| position(&page, text);
    // In the table each has a row with a link to its element.
    let rows = ["cause", "effect", "mild", "another", "orphan"]
        .map(|id| at(&format!("<a href=\"#{id}\">")));
    assert!(rows.is_sorted() && rows[4] < at("<details"), "{page}");
    assert_eq!(page.matches(" led\" data-key=\"row ").count(), 2);
    assert_eq!(page.matches("<svg class=\"spark\"").count(), 5);
    let ids = ["cause", "effect", "mild", "another"].map(|id| at(&format!("<article id=\"{id}\"")));
    assert!(ids.is_sorted(), "{page}");
    let cause = &page[at("data-key=\"finding cause\"")..at("data-key=\"finding another\"")];
    let within = cause.matches("<details").count();
    assert_eq!((within, cause.matches("</details>").count()), (3, 3), "with the next one's begin");
    assert_eq!(page.matches("<details").count(), 5);
    assert_eq!(page.matches("</details>").count(), 5);
    assert_eq!(page.matches(" open><summary>").count(), 1);
    at("data-key=\"finding cause\" open>");
}

#[test]
fn each_command_has_a_button_to_copy_it() {
    let mut finding = finding();
    finding.remedies = vec!["`ss -t` lists them; then `kill 7`".to_owned()];
    let page = Parts::of([finding]).page();
    assert_eq!(page.matches("<button type=\"button\" class=\"copy\"").count(), 2);
    position(&page, "<li><span class=\"command\"><code>ss -t</code><button");
}

#[test]
fn everything_that_the_page_loads_is_served_here_and_nothing_runs_within() {
    let page = Parts::of([finding()]).page();
    for forbidden in [
        "<style",
        " style=",
        "http://",
        "https://",
        "url(",
        "@import",
        " onclick",
        "javascript:",
        "<script>",
    ] {
        assert!(!page.contains(forbidden), "{forbidden}: {page}");
    }
    assert_eq!(page.matches("<script").count(), 1);
    for (path, ..) in FILES {
        position(&page, &format!("=\"{}\"", path.trim_start_matches('/')));
    }
    // A proxy may serve it below a path.
    assert!(!page.contains("=\"/"), "{page}");
}

#[test]
fn a_page_that_does_not_see_the_host_does_not_say_that_all_is_well() {
    let hidden = NotSeen {
        hides_host: true,
        ..NotSeen::new(Unseen::PidNamespace, "the host's processes", "another pid namespace")
    };
    let page = Parts::of([]).page_of(Origin { not_seen: &[hidden], ..ORIGIN });
    position(&page, "UNKNOWN: not seen: the host&#39;s processes</a></li>");
    position(&page, "<section id=\"not-seen\">");
    assert!(!page.contains("Nothing is wrong"), "{page}");
}

#[test]
fn a_page_without_anything_says_so() {
    let parts = Parts {
        samples: Samples::default(),
        trends: Trends::default(),
        hooks: Vec::new(),
        ..Parts::of([])
    };
    let page = parts.page();
    position(&page, "Nothing is wrong as far as tcpwatch can see.");
    position(&page, "<title>web1: no findings</title>");
    assert_eq!(page.matches("<span>no data</span>").count(), 8, "{page}");
    for absent in ["<h2>Not seen", "<details", "<table", "<h2>Limits", "<h2>Hooks"] {
        assert!(!page.contains(absent), "{absent}: {page}");
    }
}

#[test]
fn the_page_says_what_is_not_seen_and_what_has_ended() {
    let mut parts = Parts::of([]);
    let ended = Finding { id: "ended".to_owned(), ..finding() };
    parts.history.observe(&FindingChange::Cleared(ended), wall().now());
    let page = parts.page_of(Origin { not_seen: &not_seen(), ..ORIGIN });
    position(&page, "<li>2 network namespaces: setns() is refused (EPERM)</li>");
    position(&page, "Ended in the last day");
    position(&page, "<td>close-wait-pileup, 207 sockets</td>");
}

#[test]
fn everything_that_the_host_calls_itself_is_escaped() {
    const EVIL: &str = "<img src=x onerror='1'>\"&";
    let mut finding = finding();
    for text in [&mut finding.id, &mut finding.title, &mut finding.explanation] {
        *text = EVIL.to_owned();
    }
    finding.remedies = vec![EVIL.to_owned(), format!("`{EVIL}`")];
    finding.evidence.text("word", EVIL);
    finding.subject.netns = EVIL.into();
    finding.subject.process = Some(EVIL.to_owned());
    finding.subject.stack = vec![EVIL.to_owned()];
    let mut parts = Parts::of([finding]);
    parts.samples.namespaces[0].netns = EVIL.into();
    parts.samples.close_wait[0].owner.process = EVIL.to_owned();
    parts.samples.listeners[0].owner.process = EVIL.to_owned();
    parts.samples.listeners[0].owner.unit = EVIL.to_owned();
    parts.hooks[1].why_not = Some(EVIL.to_owned());
    parts.ready = Err(EVIL.to_owned());
    let not_seen = [NotSeen::new(Unseen::Hook, EVIL, EVIL)];
    let origin =
        Origin { host: Some(EVIL), version: EVIL, kernel: EVIL, not_seen: &not_seen, ..ORIGIN };
    let page = parts.page_of(origin);
    assert!(!page.contains("<img"));
    let escaped = "&lt;img src=x onerror=&#39;1&#39;&gt;&quot;&amp;";
    let header = 5;
    let row = 3;
    let details = 11;
    let limits = 3;
    let tables = 5;
    let health = 3;
    let expected = header + row + details + limits + tables + health;
    assert_eq!(page.matches(escaped).count(), expected, "{page}");
}

#[test]
fn the_page_of_a_crowded_host_stays_short() {
    let mut parts = Parts::of([]);
    parts.samples.namespaces = vec![parts.samples.namespaces[0].clone(); 1_000];
    let page = parts.page();
    assert!(page.len() < 64 * 1024, "{}", page.len());
    position(&page, "980 more in <a href=\"metrics\">");

    let many: Vec<_> =
        (0..1_400).map(|number| Finding { id: number.to_string(), ..finding() }).collect();
    let page = Parts::of(many).page();
    assert!(page.len() < 512 * 1024, "{}", page.len());
    position(&page, "1,300 more in <a href=\"api/v1/findings\">");
}

/// The colours of a theme in the style: those of the first `:root`, replaced by those of the second
/// in the dark.
fn colours(is_dark: bool) -> BTreeMap<String, f64> {
    let style = FILES[0].2;
    let mut colours = BTreeMap::new();
    let blocks = style.split(":root {").skip(1).take(if is_dark { 2 } else { 1 });
    for block in blocks.map(|block| block.split('}').next().unwrap_or_default()) {
        for (name, value) in block.split(';').filter_map(|line| line.trim().split_once(": #")) {
            colours.insert(name.trim_start_matches('-').to_owned(), luminance(value));
        }
    }
    colours
}

/// Relative luminance, as WCAG 2.2 defines it, of `rrggbb`.
fn luminance(colour: &str) -> f64 {
    let part = |from: usize| {
        let value = u8::from_str_radix(&colour[from..from + 2], 16).expect("two digits");
        let value = f64::from(value) / 255.0;
        if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * part(0) + 0.7152 * part(2) + 0.0722 * part(4)
}

/// WCAG 2.2 AA: text has a contrast of 4.5 to its background (1.4.3), graphics 3 (1.4.11).
#[test]
fn contrast_is_enough_in_both_themes() {
    assert!((luminance("ffffff") - 1.0).abs() < 1e-9 && luminance("000000") == 0.0);
    for is_dark in [false, true] {
        let colours = colours(is_dark);
        let contrast = |one: &str, other: &str| {
            let (one, other) = (colours[one], colours[other]);
            (one.max(other) + 0.05) / (one.min(other) + 0.05)
        };
        let texts = ["fg", "dim", "link", "good", "info", "warning", "critical"];
        let on = texts.iter().flat_map(|text| ["bg", "card"].map(|ground| (*text, ground)));
        let badges = [
            ("info", "on-info"),
            ("warning", "on-warning"),
            ("critical", "on-critical"),
            ("dim", "track"),
        ];
        for (text, ground) in on.chain(badges) {
            let contrast = contrast(text, ground);
            assert!(contrast >= 4.5, "dark {is_dark}: {text} on {ground}: {contrast:.2}");
        }
        for (mark, ground) in [
            ("accent", "card"),
            ("accent", "area"),
            ("accent", "track"),
            ("warning", "track"),
            ("critical", "track"),
        ] {
            let contrast = contrast(mark, ground);
            assert!(contrast >= 3.0, "dark {is_dark}: {mark} on {ground}: {contrast:.2}");
        }
    }
}
