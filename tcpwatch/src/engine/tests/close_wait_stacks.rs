//! `close-wait-pileup`: the stacks that opened the sockets.

use super::*;

/// So many sockets with this stack.
fn opened_by(count: usize, frames: &[&str]) -> Vec<CloseWaitSocket> {
    let stack = frames.iter().map(|&frame| frame.to_owned()).collect();
    let socket = close_wait(&process(12, "app"), START - seconds(3_600));
    times(count, &CloseWaitSocket { stack: Some(stack), ..socket })
}

/// Sockets that were opened before the first look.
fn unseen(count: usize) -> Vec<CloseWaitSocket> {
    times(count, &close_wait(&process(12, "app"), START - seconds(3_600)))
}

const POOL: [&str; 4] = [
    "connect+0x10e5a4 (libc.so.6)",
    "connect_backend+0x11d6 (app)",
    "handle_request+0x1204 (app)",
    "main+0x1099 (app)",
];

#[test]
fn the_function_that_opened_most_of_the_sockets_is_named() {
    let mut watch = Watch::new();
    let sockets = [unseen(10), opened_by(12, &POOL), opened_by(3, &["probe+0x99 (app)"])];
    watch.see_close_wait(sockets.concat());
    let finding = watch.only();
    assert_eq!(finding.subject.stack, POOL);
    assert_eq!(
        text_of(finding, "stacks"),
        "sockets 12, frames [connect; connect_backend; handle_request; main]; \
         sockets 3, frames [probe]"
    );
    let opener = "12 of the 15 whose opening was seen were opened by connect_backend() (app).";
    assert_says(&finding.explanation, &[opener]);
    assert_says(&remedies_of(finding), &["Begin with connect_backend() (app): "]);
}

#[test]
fn one_function_called_from_many_places_is_named_with_all_that_it_opened() {
    let mut watch = Watch::new();
    let from = |caller| opened_by(6, &["open_pooled+0x10 (app)", caller]);
    let other = opened_by(8, &["probe+0x99 (app)"]);
    watch.see_close_wait([from("a+0x20 (app)"), from("b+0x30 (app)"), other].concat());
    assert_says(&watch.only().explanation, &["12 of 20 were opened by open_pooled() (app)."]);
    assert_eq!(watch.only().subject.stack, ["probe+0x99 (app)"], "the stack that is most frequent");
}

#[test]
fn without_stacks_nothing_is_said_of_them() {
    let mut watch = Watch::new();
    watch.see_close_wait([unseen(20), opened_by(5, &[])].concat());
    let finding = watch.only();
    assert!(finding.subject.stack.is_empty());
    assert_eq!(text_of(finding, "stacks"), "absent");
    assert!(!finding.explanation.contains("opened by"), "{}", finding.explanation);
}

#[test]
fn the_three_most_frequent_stacks_are_listed() {
    let mut watch = Watch::new();
    let stacks = (1..=40)
        .flat_map(|number| opened_by(number, &[&format!("open_{number}+0x{number:x} (app)")]));
    watch.see_close_wait(stacks.collect());
    assert_eq!(
        text_of(watch.only(), "stacks"),
        "sockets 40, frames [open_40]; sockets 39, frames [open_39]; sockets 38, frames [open_38]"
    );
}

#[test]
fn a_name_that_goes_on_for_lines_is_cut_and_kept_plain() {
    let mut watch = Watch::new();
    let frame = format!("a\u{1b}[2J{}+0x1 (app)", "x".repeat(3_000));
    watch.see_close_wait(opened_by(20, &[&frame]));
    let finding = watch.only();
    assert!(finding.explanation.len() < 600, "{}", finding.explanation);
    assert_says(&finding.explanation, &[r"All were opened by a\u{1b}[2Jx", "x…() (app)."]);
}
