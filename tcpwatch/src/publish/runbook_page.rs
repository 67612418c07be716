//! A runbook as a page, at `/runbooks/KIND`.

use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd, html::push_html};

use super::page::head;
use crate::runbooks::runbook;

/// The page of the runbook of that name; `None` where there is none.
#[must_use]
pub fn render_runbook(name: &str) -> Option<String> {
    let text = runbook(name)?;
    let mut html = format!(
        "{}<title>tcpwatch: {name}</title></head><body>\n\
         <header><nav><a href=\"../\">findings</a></nav></header>\n<main class=\"runbook\">\n",
        head("../")
    );
    // A link whose target is not served is left out, its text stays.
    let mut is_open = false;
    let mut events: Vec<Event<'_>> = Parser::new_ext(text, Options::ENABLE_TABLES).collect();
    name_headings(&mut events);
    let events = events.into_iter().filter_map(|event| match event {
        Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
            let dest_url = served(&dest_url)?;
            is_open = true;
            Some(Event::Start(Tag::Link { link_type, dest_url, title, id }))
        }
        Event::End(TagEnd::Link) => std::mem::take(&mut is_open).then_some(event),
        event => Some(event),
    });
    push_html(&mut html, events);
    html.push_str("</main></body></html>\n");
    Some(html)
}

/// Gives each heading the id that the links of Markdown use: its words in lower case, with hyphens
/// between.
fn name_headings(events: &mut [Event<'_>]) {
    for start in 0..events.len() {
        if !matches!(events[start], Event::Start(Tag::Heading { .. })) {
            continue;
        }
        let inside =
            events[start..].iter().take_while(|it| !matches!(it, Event::End(TagEnd::Heading(_))));
        let words: String = inside
            .filter_map(|event| match event {
                Event::Text(text) | Event::Code(text) => Some(&**text),
                _ => None,
            })
            .collect();
        let is_kept = |it: &char| it.is_alphanumeric() || matches!(it, ' ' | '-' | '_');
        let name = words.to_lowercase().chars().filter(is_kept).collect::<String>();
        if let Event::Start(Tag::Heading { id, .. }) = &mut events[start] {
            *id = Some(name.replace(' ', "-").into());
        }
    }
}

/// Where the target of a link is served.
fn served(target: &str) -> Option<CowStr<'static>> {
    if target.starts_with('#') {
        return Some(target.to_owned().into());
    }
    let name = target.strip_suffix(".md")?;
    runbook(name).map(|_| name.to_owned().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runbooks::names;

    #[test]
    fn every_runbook_is_a_page_whose_links_are_served() {
        for name in names() {
            let page = render_runbook(name).expect("a page");
            assert!(
                page.contains(&format!("<h1 id=\"{name}\">{name}</h1>")) || name == "agent",
                "{page}"
            );
            for link in page.split("<a href=\"").skip(1) {
                let target = link.split('"').next().unwrap_or_default();
                // Relative to the page of a runbook.
                let is_known = runbook(target).is_some();
                let within = target.strip_prefix('#').map(|id| format!("id=\"{id}\""));
                let is_within = within.is_some_and(|id| page.contains(&id));
                assert!(is_known || target == "../" || is_within, "{name}: {target}");
            }
            assert_eq!(page.matches("<a ").count(), page.matches("</a>").count(), "{name}");
            assert!(!page.contains("<script"), "{name}");
        }
        assert_eq!(render_runbook("../../etc/passwd"), None);
    }
}
