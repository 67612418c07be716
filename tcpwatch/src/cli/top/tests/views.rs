//! Each view as it is drawn, at the least size and at a large one.

use std::{env, fs, path::Path};

use ratatui::{
    crossterm::event::KeyCode::{Char, Enter},
    style::{Color, Modifier},
};

use super::{super::state::View, *};

const SIZES: [(u16, u16); 2] = [(80, 24), (200, 50)];
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/top");

fn assert_golden(name: &str, text: &str) {
    let file = Path::new(GOLDEN).join(format!("{name}.txt"));
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(GOLDEN).and_then(|()| fs::write(&file, text)).expect("a golden file");
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    let file = file.display();
    assert_eq!(text, expected, "differs from {file}; if that is meant, run with UPDATE_GOLDEN=1");
}

#[test]
fn every_view_and_page_is_drawn_as_its_golden_file_has_it() {
    for (columns, rows) in SIZES {
        for view in View::ALL {
            let mut state = session();
            state.view = view;
            let name = format!("{}-{columns}x{rows}", view.name());
            assert_golden(&name, &shown(&mut state, (columns, rows)));
            press(&mut state, &[Enter]);
            assert_golden(&format!("{name}-detail"), &shown(&mut state, (columns, rows)));
        }
    }
    let mut state = session();
    press(&mut state, &[Char('?')]);
    assert_golden("help-80x24", &shown(&mut state, (80, 24)));
}

/// Golden files can be updated without being read: this is what must be in them.
#[test]
fn the_least_size_shows_every_column_of_importance_whole() {
    for (view, parts) in [
        (
            View::Findings,
            &["CRITICAL", "crawler", "to 192.0.2.80:8080", "close-wait-pileup", "207 s"][..],
        ),
        (View::Owners, &["backupd", "207", "24 h 0 min", "29", "NETNS", "CLOSE_WAIT", "FAILED/s"]),
        (View::Listeners, &["nginx", "129/128", "████████", "HALF-OPEN", "0/4,096"]),
        (View::Ports, &["27,900/28,232", "4,100/4,096", "8.5", "0a1b2c3d4e5f", "OVERFLOWS/s"]),
        (View::Rates, &["connects to peers", "20", "└ refused", "▁", "█", "PEAK/s"]),
    ] {
        let mut state = session();
        state.view = view;
        let text = shown(&mut state, (80, 24));
        for part in parts {
            assert!(text.contains(part), "{part} in {view:?}:\n{text}");
        }
        for part in
            ["web-1", "running agent", "inventory 3 s ago", "Linux 6.18.0", "210 close_wait"]
        {
            assert!(text.contains(part), "{part} in {view:?}:\n{text}");
        }
        assert!(text.contains("not seen: the causes of resets"), "{text}");
    }
}

#[test]
fn a_finding_in_full_has_its_commands_on_lines_of_their_own() {
    let mut state = session();
    press(&mut state, &[Char('/')]);
    type_in(&mut state, "backupd");
    press(&mut state, &[Enter, Enter]);
    let text = shown(&mut state, (80, 24));
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert!(lines.contains(&"ss -tnpo state close-wait '( dport = :443 )'"), "{text}");
    assert!(lines.contains(&"systemctl restart backup.service"), "{text}");
    assert!(text.contains("/usr/sbin/backupd, unit backup.service"), "{text}");
    assert!(text.contains("data    limit descriptors: 1024"), "{text}");
}

#[test]
fn a_terminal_below_the_least_size_has_one_line_that_says_so() {
    for size in [(79, 24), (80, 23), (12, 1)] {
        let text = shown(&mut session(), size);
        let expected = format!("{}x{}: top needs 80x24", size.0, size.1);
        assert!(text.starts_with(&expected[..expected.len().min(size.0.into())]), "{text}");
        assert!(text.lines().skip(1).all(str::is_empty), "{text}");
    }
}

#[test]
fn an_own_look_says_so_and_why_the_agent_is_left_out() {
    let why = "it answers with status 403 Forbidden".to_owned();
    for (origin, is_left_out) in [(Origin::Own(None), false), (Origin::Own(Some(why)), true)] {
        let mut state = State::new(origin, INTERVAL);
        state.handle_snapshot(Duration::ZERO, snapshot(0));
        let text = shown(&mut state, (80, 24));
        assert!(text.contains("looks of its own, inventory 3 s ago"), "{text}");
        let says = "the agent is left out: it answers with status 403 Forbidden";
        assert_eq!(text.contains(says), is_left_out, "{text}");
    }
}

#[test]
fn without_colour_severity_and_selection_still_show() {
    let buffer = drawn(&mut session(), (80, 24), false);
    let colours = buffer.content.iter().filter(|it| (it.fg, it.bg) != (Color::Reset, Color::Reset));
    assert_eq!(colours.count(), 0);
    let reversed = buffer.content.iter().filter(|it| it.modifier.contains(Modifier::REVERSED));
    assert!(reversed.count() > 80, "the selected row is reversed");
    let coloured = drawn(&mut session(), (80, 24), true);
    assert!(coloured.content.iter().any(|it| it.fg == Color::Red));
}

#[test]
fn hostile_names_reach_no_terminal() {
    const HOSTILE: &str = "\u{1b}]0;own\u{7}\u{1b}[41m\u{202e}x\u{9b}2J\r\n";
    let escaped = HOSTILE.replace('\n', "\\n");
    let metrics = metrics(1)
        .replace("backupd", &escaped)
        .replace("nginx", &escaped)
        .replace("0a1b2c3d4e5f", &escaped)
        .replace("linger_zero", &escaped);
    let hostile = |text: String| text.replace("backupd", HOSTILE).replace("web-1", HOSTILE);
    let mut document = findings();
    make_hostile(&mut document, &hostile);
    let mut state = State::new(Origin::Agent, INTERVAL);
    for step in 0..3 {
        let grown = metrics.replace("} 7", &format!("}} {}", 7 + step));
        state.handle_snapshot(INTERVAL * step, snapshot_of(&grown, &document));
    }
    state.handle_loss(INTERVAL * 3, crate::plain::said(&HOSTILE));
    for size in SIZES {
        for view in View::ALL {
            for keys in [&[][..], &[Enter], &[Char('n')]] {
                state.pages.clear();
                state.view = view;
                press(&mut state, keys);
                let buffer = drawn(&mut state, size, true);
                for cell in &buffer.content {
                    assert!(crate::plain::is_plain(cell.symbol()), "{view:?}: {cell:?}");
                }
            }
        }
        state.pages.clear();
        state.view = View::Owners;
        assert!(shown(&mut state, size).contains(r"\u{1b}]0;own"), "it is named all the same");
    }
}

/// Changes every text but those that are read as something else.
fn make_hostile(value: &mut Value, change: &impl Fn(String) -> String) {
    match value {
        Value::String(text) => *text = change(std::mem::take(text)),
        Value::Array(values) => values.iter_mut().for_each(|it| make_hostile(it, change)),
        Value::Object(fields) => fields.values_mut().for_each(|it| make_hostile(it, change)),
        _ => {}
    }
}
