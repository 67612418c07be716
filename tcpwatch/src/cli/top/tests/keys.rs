//! Keys and snapshots change the state.

use ratatui::crossterm::event::KeyCode::{
    BackTab, Backspace, Char, Down, End, Enter, Esc, Home, PageDown, Tab, Up,
};

use super::{
    super::state::{Link, Page, View},
    *,
};

fn page(state: &State) -> Option<&Page> {
    state.pages.last().map(|it| &it.page)
}

fn keys_of(state: &State) -> Vec<String> {
    let table = state.table(state.view).expect("a table");
    table.rows.into_iter().map(|row| row.key).collect()
}

fn selected(state: &State) -> String {
    keys_of(state)[state.list(state.view).selected].clone()
}

#[test]
fn q_and_control_c_quit_from_everywhere_but_a_filter_takes_q() {
    let mut state = session();
    for keys in [&[][..], &[Enter], &[Enter, Char('e')], &[Char('?')]] {
        let mut state = session();
        press(&mut state, keys);
        assert_eq!(press(&mut state, &[Char('q')]), Some(Command::Quit), "{keys:?}");
        assert_eq!(state.handle_key(control('c')), Some(Command::Quit), "{keys:?}");
    }
    assert_eq!(press(&mut state, &[Char('/'), Char('q')]), None);
    assert_eq!(state.filter, "q");
    assert_eq!(state.handle_key(control('c')), Some(Command::Quit));
    assert_eq!(state.handle_key(control('z')), Some(Command::Suspend));
}

#[test]
fn tabs_and_digits_choose_the_view_also_from_a_page() {
    let mut state = session();
    press(&mut state, &[Tab]);
    assert_eq!(state.view, View::Owners);
    press(&mut state, &[BackTab, BackTab]);
    assert_eq!(state.view, View::Rates);
    press(&mut state, &[Tab, Enter, Char('3')]);
    assert_eq!((state.view, page(&state)), (View::Listeners, None));
}

#[test]
fn selection_stays_within_the_rows_and_follows_its_row() {
    let mut state = session();
    press(&mut state, &[Up]);
    assert_eq!(state.list(View::Findings).selected, 0);
    press(&mut state, &[PageDown]);
    assert_eq!(state.list(View::Findings).selected, 2);
    assert_eq!(selected(&state), "close-wait-pileup/host/812");
    // The worse ones above it end.
    let mut left = findings();
    left["findings"].as_array_mut().expect("a list").truncate(1);
    state.handle_snapshot(INTERVAL * 31, snapshot_of(&metrics(31), &left));
    assert_eq!(selected(&state), "close-wait-pileup/host/812");
    state.handle_snapshot(INTERVAL * 32, snapshot(32));
    assert_eq!(state.list(View::Findings).selected, 2);
    press(&mut state, &[Home]);
    assert_eq!(selected(&state), "ephemeral-port-exhaustion/0a1b2c3d4e5f");
}

#[test]
fn order_goes_from_column_to_column_and_is_reversed() {
    let mut state = session();
    press(&mut state, &[Char('3')]);
    let by_fill = keys_of(&state);
    assert!(by_fill[0].ends_with("80") && by_fill[1].ends_with("22"), "{by_fill:?}");
    press(&mut state, &[Char('r')]);
    assert!(keys_of(&state)[0].ends_with("22"));
    // WHO, UNIT, NETNS, PORT: the largest first.
    press(&mut state, &[Char('s'); 4]);
    assert!(keys_of(&state)[0].ends_with("80"));
    press(&mut state, &[Char('r')]);
    assert!(keys_of(&state)[0].ends_with("22"));
    // Another view keeps its own order.
    press(&mut state, &[Tab]);
    assert_eq!(state.list(View::Ports).order.column, None);
}

#[test]
fn filter_narrows_while_it_is_typed_and_escape_clears_it() {
    let mut state = session();
    press(&mut state, &[Char('/')]);
    type_in(&mut state, "BACKUPx");
    assert_eq!(keys_of(&state), [""; 0]);
    press(&mut state, &[Backspace]);
    assert_eq!(keys_of(&state), ["close-wait-pileup/host/812"]);
    press(&mut state, &[Enter, Tab]);
    assert_eq!(keys_of(&state).len(), 1, "the filter is for all views");
    press(&mut state, &[Esc]);
    assert_eq!((state.filter.as_str(), keys_of(&state).len()), ("", 4));
    type_in(&mut state, "/\u{202e}a\u{7f}");
    assert_eq!(state.filter, "a");
}

#[test]
fn detail_opens_the_selected_row_and_escape_goes_back_page_by_page() {
    let mut state = session();
    press(&mut state, &[End, Enter]);
    assert_eq!(page(&state), Some(&Page::Detail("close-wait-pileup/host/812".to_owned())));
    press(&mut state, &[Char('e')]);
    assert_eq!(page(&state), Some(&Page::Runbook("close-wait-pileup")));
    press(&mut state, &[Down, Down, Up]);
    assert_eq!(state.pages.last().map(|it| it.scroll), Some(1));
    press(&mut state, &[Esc]);
    assert!(matches!(page(&state), Some(Page::Detail(_))));
    press(&mut state, &[Esc]);
    assert_eq!(page(&state), None);
    // No row, no page.
    type_in(&mut state, "/nothing of this name");
    press(&mut state, &[Enter, Enter, Char('e')]);
    assert_eq!(page(&state), None);
}

#[test]
fn pause_freezes_what_is_shown_and_the_rates_have_no_gap_after_it() {
    let mut state = session();
    press(&mut state, &[Char(' ')]);
    let before = shown(&mut state, (80, 24));
    assert!(before.contains("PAUSED"), "{before}");
    for step in 30..33 {
        let none = json!([]);
        let mut cured = findings();
        cured["findings"] = none;
        state.handle_snapshot(INTERVAL * step, snapshot_of(&metrics(step), &cured));
    }
    assert_eq!(keys_of(&state).len(), 3);
    press(&mut state, &[Char(' ')]);
    assert_eq!(keys_of(&state).len(), 0);
    let data = state.data().expect("data");
    let rates = data.history.rates(|it| *it == super::super::snapshot::Counter::Connects);
    assert_eq!(rates[rates.len() - 4..], [Some(20.0); 4]);
}

#[test]
fn a_lost_connection_is_reported_with_its_beginning_and_ends_with_the_next_answer() {
    let mut state = session();
    state.handle_loss(INTERVAL * 30, "no agent answers".to_owned());
    state.handle_loss(INTERVAL * 31, "no agent answers".to_owned());
    let Link::Lost { since, .. } = state.link else { panic!("{:?}", state.link) };
    assert_eq!(since, INTERVAL * 30);
    let text = shown(&mut state, (80, 24));
    assert!(text.contains("connection lost 2 s ago, retry every 2 s: no agent answers"), "{text}");
    assert!(text.contains("backupd"), "the last known state stays: {text}");
    state.handle_snapshot(INTERVAL * 32, snapshot(32));
    assert_eq!(state.link, Link::Up);
}

#[test]
fn before_the_first_answer_every_key_is_harmless() {
    let mut state = State::new(Origin::Agent, INTERVAL);
    let keys = [Down, Enter, Char('e'), Char('s'), Char('r'), Char(' '), Char('n'), Esc, Char('?')];
    assert_eq!(press(&mut state, &keys), None);
    let text = shown(&mut state, (80, 24));
    assert!(text.contains("Ctrl-C"), "{text}");
    press(&mut state, &[Esc]);
    assert!(shown(&mut state, (80, 24)).contains("The first inventory is under way."));
}
