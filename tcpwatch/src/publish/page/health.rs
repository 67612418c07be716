//! How tcpwatch itself fares: its hooks, its losses, and the limits of its sight.

use std::fmt::{self, Write as _};

use super::{Escaped, View};
use crate::{engine::text, publish::HookState};

/// Whether the agent is ready, and how many hooks are attached: items of the header.
pub(super) fn write_state(html: &mut String, view: &View<'_>) -> fmt::Result {
    match &view.agent.ready {
        Ok(()) => html.write_str("<li class=\"good\">ready</li>")?,
        Err(why) => write!(html, "<li class=\"bad\">not ready: {}</li>", Escaped(why))?,
    }
    // As `check` says it, with exit code 3.
    if let Some(hidden) = view.origin.not_seen.iter().find(|it| it.hides_host) {
        let lost = Escaped(&hidden.lost);
        write!(html, "<li class=\"bad\"><a href=\"#not-seen\">UNKNOWN: not seen: {lost}</a></li>")?;
    }
    let Some(hooks) = view.origin.hooks else { return Ok(()) };
    let attached = hooks.iter().filter(|hook| hook.attached).count();
    let all = hooks.len();
    let class = if attached == all { "good" } else { "missing" };
    write!(
        html,
        "<li class=\"{class}\"><a href=\"#hooks\">hooks attached {attached} of {all}</a></li>"
    )
}

pub(super) fn write_health(html: &mut String, view: &View<'_>) -> fmt::Result {
    html.write_str("<div class=\"health\">\n")?;
    write_not_seen(html, view)?;
    write_lost(html, view.agent.lost)?;
    write_hooks(html, view.origin.hooks.unwrap_or_default())?;
    html.write_str("</div>\n")
}

fn write_not_seen(html: &mut String, view: &View<'_>) -> fmt::Result {
    if view.origin.not_seen.is_empty() {
        return Ok(());
    }
    html.write_str("<section id=\"not-seen\"><h2>Not seen</h2>\n<ul class=\"not-seen\">")?;
    for it in view.origin.not_seen {
        write!(html, "<li>{}</li>", Escaped(&it.to_string()))?;
    }
    html.write_str("</ul></section>\n")
}

/// Losses since the start; nothing where there are none.
fn write_lost(html: &mut String, lost: &[(&'static str, u64)]) -> fmt::Result {
    let lost: Vec<_> = lost.iter().filter(|(_, count)| *count > 0).collect();
    if lost.is_empty() {
        return Ok(());
    }
    html.write_str("<section><h2>Events and log lines lost since the start</h2>\n<ul>")?;
    for (stage, count) in lost {
        write!(html, "<li>{stage}: {}</li>", text::number(*count))?;
    }
    html.write_str("</ul><p class=\"note\"><a href=\"runbooks/agent\">Runbook</a></p></section>\n")
}

fn write_hooks(html: &mut String, hooks: &[HookState]) -> fmt::Result {
    if hooks.is_empty() {
        return Ok(());
    }
    html.write_str(
        "<section id=\"hooks\"><h2>Hooks</h2>\n<table class=\"hooks\"><thead><tr><th>hook</th>\
         <th>state</th><th>not seen without it</th></tr></thead><tbody>\n",
    )?;
    for HookState { hook, attached, why_not, lost_without } in hooks {
        write!(html, "<tr><td>{}</td>", Escaped(hook))?;
        match (attached, why_not) {
            (true, _) => html.write_str("<td class=\"good\">attached</td>")?,
            (false, None) => html.write_str("<td class=\"missing\">not attached</td>")?,
            (false, Some(why)) => {
                write!(html, "<td class=\"missing\">not attached: {}</td>", Escaped(why))?;
            }
        }
        writeln!(html, "<td>{}</td></tr>", Escaped(lost_without.as_deref().unwrap_or_default()))?;
    }
    html.write_str("</tbody></table></section>\n")
}
