//! The runbooks, compiled in: Markdown, one for each kind of finding and one about the agent.

/// Names and texts, sorted by name.
static RUNBOOKS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/runbooks.rs"));

/// The text of a runbook, by the name of its kind or `agent`.
#[must_use]
pub fn runbook(name: &str) -> Option<&'static str> {
    let place = RUNBOOKS.binary_search_by_key(&name, |(name, _)| name).ok()?;
    Some(RUNBOOKS[place].1)
}

/// The names of all runbooks, sorted.
pub fn names() -> impl Iterator<Item = &'static str> {
    RUNBOOKS.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::FindingKind;

    #[test]
    fn every_kind_has_a_runbook_that_begins_with_its_name() {
        for kind in FindingKind::ALL.map(FindingKind::name) {
            let text = runbook(kind).unwrap_or_else(|| panic!("no runbook of {kind}"));
            assert!(text.starts_with(&format!("# {kind}\n")), "{kind}");
        }
        assert!(runbook("agent").is_some() && runbook("").is_none());
        assert_eq!(names().count(), FindingKind::ALL.len() + 1);
    }
}
