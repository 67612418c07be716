//! The page in a browser: a real agent, five real situations, Debian's chromium.
//!
//! `UPDATE_SCREENSHOTS=1` writes the pictures of docs/images too, after some minutes, so that the
//! plots have lines. On a host where nothing else happens the pictures are of these situations only.

mod browser;
mod stage;
#[path = "../support/mod.rs"]
mod support;

use std::{
    collections::BTreeSet,
    env, fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use browser::Browser;
use data_encoding::BASE64;
use serde_json::{Value, json};
use stage::{KINDS, Stage, Traffic};
use support::{Agent, poll};

/// As the demos have it: conditions count after seconds.
const CONFIG: &str = "[inventory]\ninterval = \"1s\"\n\
    [detect.close_wait_pileup]\nmin_age = \"2s\"\n\
    [detect.ephemeral_port_exhaustion]\nwindow = \"5s\"\n";

const DESKTOP: (u32, u32) = (1_280, 800);
const PHONE: (u32, u32) = (390, 844);

/// Words that a line break has cut, in parts that have only words and numbers: an address or a
/// command may be cut. A word ends at a space or behind a hyphen.
const CUT_WORDS: &str = "(() => {
    const cut = [];
    const parts = document.querySelectorAll('.overview td, h1, h2, h3, h4, th, .facts li, ' +
        'figcaption, .limits li, .severity, nav a, .story p, summary');
    for (const part of parts) {
        const texts = document.createTreeWalker(part, NodeFilter.SHOW_TEXT);
        for (let text = texts.nextNode(); text; text = texts.nextNode()) {
            for (const word of text.data.matchAll(/[^\\s\\-\\/:,.@_]+/g)) {
                const range = document.createRange();
                range.setStart(text, word.index);
                range.setEnd(text, word.index + word[0].length);
                const tops = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
                if (tops.size > 1) cut.push(word[0]);
            }
        }
    }
    return cut;
})()";

/// The paths of the actors are those of the developer's machine: they are in no picture.
const WITHOUT_PATHS: &str = "document.querySelectorAll('.evidence th').forEach((it) => {
    if (it.textContent === 'exe') it.parentElement.remove();
})";

#[test]
fn the_page_shows_a_host_in_trouble_at_a_glance_and_stays_as_the_reader_left_it() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    if !has_chromium() {
        return support::skip("needs chromium");
    }
    name_this_host()?;
    let mut agent = Agent::start(CONFIG)?;
    let _traffic = Traffic::begin()?;
    if updates_screenshots() {
        for _ in 0..3 {
            agent.watch_for(Duration::from_secs(50))?;
        }
    }
    let mut stage = Stage::make()?;
    poll("all findings", || {
        let findings = agent.all_findings()?;
        let is_ours = |it: &&Value| it["subject"]["netns"].as_str().is_some_and(is_ours);
        let ours = findings.iter().filter(is_ours);
        let kinds: BTreeSet<_> = ours.filter_map(|it| it["kind"].as_str()).collect();
        Ok(KINDS.iter().all(|kind| kinds.contains(kind)).then_some(()))
    })?;
    let mut browser = Browser::start()?;
    browser.show(DESKTOP, "light")?;
    let note = "window.violations = []; document.addEventListener('securitypolicyviolation', \
                (event) => violations.push(event.violatedDirective + ' ' + event.blockedURI));";
    browser.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": note }))?;
    let url = format!("http://{}/", agent.address);
    browser.open(&url)?;

    // Three points of the plots. The sockets in TIME_WAIT last for a minute.
    agent.watch_for(Duration::from_secs(21))?;
    first_screen_has_findings_and_plots(&mut browser)?;
    nothing_overflows_and_no_word_is_cut(&mut browser)?;
    updates_leave_the_page_as_the_reader_left_it(&mut browser)?;
    button_copies_its_command(&mut browser)?;

    let rows = format!(
        "[...document.querySelectorAll('.overview tr')].map((it) => it.textContent).filter((it) => \
         it.includes('self-connection') && it.includes('-{}-')).length",
        std::process::id()
    );
    ensure!(browser.evaluate(&rows)? == 1, "no self-connection on the page");
    stage.module_a = None;
    browser.wait_for(&format!("{rows} === 0 && window.mark === 1"))?;

    ensure!(browser.evaluate("violations")? == json!([]), "{}", browser.evaluate("violations")?);
    let style = "document.body.append(Object.assign(document.createElement('style'), \
                 { textContent: 'body { color: red }' }))";
    browser.evaluate(&format!("{style}; 1"))?;
    browser.wait_for("violations.length === 1")?;

    page_is_complete_without_a_script(&mut browser, &url)?;

    agent.signal(libc::SIGTERM)?;
    ensure!(agent.wait()? == Some(0), "streams of events end with the agent");
    browser.wait_for("!document.getElementById('stale').hidden")?;
    let said = browser.evaluate("document.getElementById('stale').textContent")?;
    let is_time = said.as_str().is_some_and(|it| {
        it.starts_with("No connection. Not updated since ") && it.ends_with(" UTC.")
    });
    ensure!(is_time, "{said}");
    Ok(())
}

/// Whether a network namespace is one that this process made.
fn is_ours(netns: &str) -> bool {
    netns.contains(&format!("-{}-", std::process::id()))
}

fn has_chromium() -> bool {
    let mut version = Command::new("chromium");
    version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}

fn updates_screenshots() -> bool {
    env::var_os("UPDATE_SCREENSHOTS").is_some_and(|value| value == "1")
}

/// Gives this thread and its children a host name of their own, which the page shows.
fn name_this_host() -> Result<()> {
    // SAFETY: takes no pointer; a thread may leave the UTS namespace of its process.
    ensure!(unsafe { libc::unshare(libc::CLONE_NEWUTS) } == 0, "unshare");
    rustix::system::sethostname(b"web-17").context("naming the host")
}

fn first_screen_has_findings_and_plots(browser: &mut Browser) -> Result<()> {
    let bottoms = browser.evaluate(
        "[...document.querySelectorAll('.overview tbody tr'), ...document.querySelectorAll('figure')]\
         .map((it) => it.getBoundingClientRect().bottom)",
    )?;
    let bottoms: Vec<f64> = serde_json::from_value(bottoms)?;
    let shown = bottoms.iter().filter(|bottom| **bottom <= f64::from(DESKTOP.1)).count();
    ensure!(shown >= KINDS.len() + 8, "{shown} rows and plots on the first screen: {bottoms:?}");
    let lines = browser.evaluate("document.querySelectorAll('figure .line').length")?;
    ensure!(lines.as_u64() >= Some(6), "{lines} plots have lines");
    let rows = "document.querySelectorAll('.overview tbody tr";
    let lines = browser.evaluate(&format!("{rows}:has(.spark .line)').length"))?;
    let rows = browser.evaluate(&format!("{rows}').length"))?;
    ensure!(rows.as_u64() >= Some(KINDS.len() as u64), "{rows} rows");
    ensure!(lines == rows, "{lines} of {rows} rows have a line");
    Ok(())
}

/// In both sizes and themes, as the page comes and with all details open.
fn nothing_overflows_and_no_word_is_cut(browser: &mut Browser) -> Result<()> {
    for (name, size) in [("page", DESKTOP), ("page-narrow", PHONE)] {
        for theme in ["light", "dark"] {
            browser.show(size, theme)?;
            browser.evaluate("scrollTo(0, 0)")?;
            if updates_screenshots() {
                browser.evaluate(WITHOUT_PATHS)?;
                write_screenshot(&format!("{name}-{theme}.png"), &browser.screenshot()?)?;
            }
            let open = "document.querySelectorAll('details').forEach((it) => \
                        { it.was ??= it.open; it.open = true; })";
            browser.evaluate(open)?;
            let width = browser.evaluate("document.documentElement.scrollWidth")?;
            ensure!(width.as_u64() <= Some(size.0.into()), "{width} pixels at {size:?}, {theme}");
            let cut = browser.evaluate(CUT_WORDS)?;
            ensure!(cut == json!([]), "words are cut at {size:?}: {cut}");
            browser.evaluate(
                "document.querySelectorAll('details').forEach((it) => { it.open = it.was; })",
            )?;
        }
    }
    browser.show(DESKTOP, "light")
}

/// The first is open, the second closed: the reader changes both.
fn updates_leave_the_page_as_the_reader_left_it(browser: &mut Browser) -> Result<()> {
    const OPEN: &str =
        "[...document.querySelectorAll('.details > details')].slice(0, 2).map((it) => it.open)";
    const KEYS: &str = "[...document.querySelectorAll('.details > details')].slice(0, 2).map((it) => it.dataset.key)";
    ensure!(browser.evaluate(OPEN)? == json!([true, false]), "only the worst is open at first");
    browser.evaluate("window.mark = 1")?;
    let keys = browser.evaluate(KEYS)?;
    let second = format!("[data-key={}]", keys[1]);
    browser.click(&format!("{second} > summary"))?;
    browser.click(&format!("[data-key={}] > summary", keys[0]))?;
    browser.wait_for(&format!("document.querySelector({second:?}).open"))?;
    let open = format!(
        "[{0}, {1}].map((key) => document.querySelector(`[data-key=\"${{key}}\"]`).open)",
        keys[0], keys[1]
    );
    ensure!(browser.evaluate(&open)? == json!([false, true]), "{}", browser.evaluate(&open)?);
    browser.evaluate("document.activeElement.isReaders = true; 1")?;
    for _ in 0..3 {
        let as_of = as_of(browser)?;
        browser.wait_for(&format!("document.getElementById('as-of').textContent !== {as_of}"))?;
    }
    ensure!(browser.evaluate("window.mark")? == 1, "the page was loaded anew");
    ensure!(browser.evaluate(&open)? == json!([false, true]), "updates open or close details");
    ensure!(browser.evaluate("document.activeElement.isReaders")? == true, "focus is lost");
    Ok(())
}

fn as_of(browser: &mut Browser) -> Result<Value> {
    browser.evaluate("document.getElementById('as-of').textContent")
}

fn button_copies_its_command(browser: &mut Browser) -> Result<()> {
    let permissions = json!({ "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"] });
    browser.call("Browser.grantPermissions", permissions)?;
    browser
        .evaluate("document.querySelectorAll('details').forEach((it) => { it.open = true; })")?;
    let code = browser.evaluate("document.querySelector('.command code').textContent")?;
    ensure!(code.as_str().is_some_and(|code| !code.is_empty()), "no command");
    browser.click(".command .copy")?;
    browser.wait_for(&format!("navigator.clipboard.readText().then((text) => text === {code})"))?;
    Ok(())
}

/// A link opens its finding, also where no script runs.
fn page_is_complete_without_a_script(browser: &mut Browser, url: &str) -> Result<()> {
    let last = "[...document.querySelectorAll('.overview a')].pop().getAttribute('href')";
    let fragment = browser.evaluate(last)?;
    let fragment = fragment.as_str().context("no link")?.to_owned();
    browser.call("Emulation.setScriptExecutionDisabled", json!({ "value": true }))?;
    browser.open("about:blank")?;
    browser.open(&format!("{url}{fragment}"))?;
    let rows = browser.evaluate("document.querySelectorAll('.overview tbody tr').length")?;
    ensure!(rows.as_u64() >= Some(4), "{rows} rows without a script");
    let open = "[...document.querySelectorAll('details')].filter((it) => it.open).length";
    browser.wait_for(&format!("{open} >= 2"))?;
    ensure!(browser.evaluate("document.documentElement.className")? == "", "a script runs");
    browser.call("Emulation.setScriptExecutionDisabled", json!({ "value": false }))?;
    browser.open("about:blank")?;
    browser.open(url)
}

/// With 256 colours a picture has a third of its size, and looks the same.
fn write_screenshot(name: &str, base64: &str) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/images");
    fs::create_dir_all(&folder)?;
    let file = folder.join(name);
    fs::write(&file, BASE64.decode(base64.as_bytes())?)?;
    let mut quantise = Command::new("pngquant");
    quantise.args(["--force", "--strip", "--ext", ".png", "256"]).arg(&file);
    ensure!(quantise.status().context("pngquant")?.success(), "pngquant: {name}");
    let size = fs::metadata(&file)?.len();
    ensure!(size < 200_000, "{name} has {size} bytes");
    Ok(())
}
