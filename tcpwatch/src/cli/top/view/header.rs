//! The header: which host, through which eyes, how fresh, how many sockets, what is hidden.

use std::time::Duration;

use ratatui::text::{Line, Span};

use super::super::{
    state::{Data, Link, Origin, State},
    style::Tone,
};
use crate::{cli::report::cut, engine::text, plain};

/// Two lines, and one each for a lost connection and for limits of sight.
pub(super) fn lines(state: &State, width: usize) -> Vec<Line<'static>> {
    let mut lines = vec![first(state, width)];
    let Some(data) = state.data() else {
        lines.push(Line::raw(""));
        lines.extend(lost(state, width));
        return lines;
    };
    lines.push(sockets(data, width));
    lines.extend(lost(state, width));
    if let Origin::Own(Some(why)) = &state.origin {
        let text = format!("the agent is left out: {why}");
        lines.push(Line::styled(cut(&text, width), Tone::Warning.style()));
    }
    let not_seen = &data.snapshot.not_seen;
    if let Some(worst) = not_seen.iter().find(|it| it.hides_host).or(not_seen.first()) {
        let tone = if worst.hides_host { Tone::Critical } else { Tone::Faint };
        let more = match not_seen.len() {
            1 => "  n: why".to_owned(),
            all => format!("  n: all {all}"),
        };
        let text = format!("not seen: {}", plain::text(&worst.lost));
        let text = cut(&text, width.saturating_sub(more.len()));
        lines.push(Line::styled(format!("{text}{more}"), tone.style()));
    }
    lines
}

/// Host and versions at the left, source and age at the right.
fn first(state: &State, width: usize) -> Line<'static> {
    let source = match state.origin {
        Origin::Agent => "running agent",
        Origin::Own(_) => "looks of its own",
    };
    let (host, kernel, right, tone) = match state.data() {
        None => (String::new(), String::new(), source.to_owned(), Tone::Plain),
        Some(Data { snapshot, received, .. }) => {
            let kernel = format!("  tcpwatch {}  Linux {}", snapshot.version, snapshot.kernel);
            let (age, tone) = match snapshot.inventory_age {
                None => ("first inventory under way".to_owned(), Tone::Plain),
                Some(age) => {
                    let age = age + state.now.saturating_sub(*received);
                    let tone = if is_stale(age) { Tone::Warning } else { Tone::Plain };
                    (format!("inventory {} ago", text::duration(age)), tone)
                }
            };
            (snapshot.host.clone(), kernel, format!("{source}, {age}"), tone)
        }
    };
    let left = width.saturating_sub(right.len() + 2);
    let host = cut(&host, left.min(40));
    let kernel = cut(&kernel, left.saturating_sub(Span::raw(host.as_str()).width()));
    let spans = vec![Span::styled(host, Tone::Strong.style()), Span::raw(kernel)];
    let used: usize = spans.iter().map(Span::width).sum();
    let gap = " ".repeat(width.saturating_sub(used + right.len()));
    let right = [Span::raw(gap), Span::styled(right, tone.style())];
    Line::from(spans.into_iter().chain(right).collect::<Vec<_>>())
}

/// Several times the default interval: inventories hang, or the agent does.
fn is_stale(age: Duration) -> bool {
    age > Duration::from_secs(60)
}

/// `1,424 sockets in 2 namespaces: 1,204 established  210 close_wait`, as many states as fit.
fn sockets(data: &Data, width: usize) -> Line<'static> {
    let states = data.snapshot.sockets_by_state();
    let all = states.iter().map(|(_, count)| count).sum();
    let namespaces = data.snapshot.namespaces.len() as u64;
    let mut line = match namespaces {
        0 | 1 => text::count(all, "socket"),
        _ => format!("{} in {}", text::count(all, "socket"), text::count(namespaces, "namespace")),
    };
    for (number, (state, count)) in states.into_iter().enumerate() {
        let before = if number == 0 { ": " } else { ", " };
        let next = format!("{before}{} {state}", text::number(count));
        if line.len() + next.len() > width {
            break;
        }
        line.push_str(&next);
    }
    Line::raw(line)
}

fn lost(state: &State, width: usize) -> Option<Line<'static>> {
    let line = match &state.link {
        Link::Up => return None,
        Link::Waiting => Line::raw("waiting for the first answer"),
        Link::Lost { since, why } => {
            let age = text::duration(state.now.saturating_sub(*since));
            let retry = text::duration(state.interval);
            let text = format!("connection lost {age} ago, retry every {retry}: {why}");
            Line::styled(cut(&text, width), Tone::Critical.style())
        }
    };
    Some(line)
}
