//! The findings that a client of the API selects, by the query of its request.

use axum::{extract::Query, http::Uri};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    engine::{FindingKind, Severity},
    plain,
};

/// `?kind=KIND&severity=SEVERITY`, each of which may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Selection {
    kind: Option<String>,
    severity: Option<String>,
}

impl Selection {
    /// The selection of a request; the fault of its query otherwise, in one line.
    pub(super) fn of(uri: &Uri) -> Result<Self, String> {
        let Query(mut selection) = Query::<Self>::try_from_uri(uri).map_err(|error| {
            format!("the query is refused: {}", plain::text(&error.body_text()))
        })?;
        let Self { kind, severity } = &mut selection;
        for value in [&mut *kind, &mut *severity] {
            // A dashboard writes "all" so.
            value.take_if(|value| value.is_empty());
        }
        known("kind", kind.as_deref(), &FindingKind::ALL.map(FindingKind::name))?;
        known("severity", severity.as_deref(), &Severity::ALL.map(Severity::label))?;
        Ok(selection)
    }

    /// Whether it selects all.
    pub(super) fn is_all(&self) -> bool {
        self.kind.is_none() && self.severity.is_none()
    }

    /// The document with those findings only. One that another leads stays by itself.
    pub(super) fn apply(&self, json: &[u8]) -> serde_json::Result<Vec<u8>> {
        let mut document: Value = serde_json::from_slice(json)?;
        if let Some(findings) = document["findings"].as_array_mut() {
            let is = |finding: &Value, key: &str, selected: &Option<String>| {
                selected.as_deref().is_none_or(|selected| finding[key] == selected)
            };
            findings.retain(|finding| {
                is(finding, "kind", &self.kind) && is(finding, "severity", &self.severity)
            });
        }
        let mut text = serde_json::to_vec(&document)?;
        text.push(b'\n');
        Ok(text)
    }
}

fn known(name: &str, value: Option<&str>, all: &[&str]) -> Result<(), String> {
    match value {
        Some(value) if !all.contains(&value) => {
            Err(format!("the query is refused: `{name}` is one of {}", all.join(", ")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(query: &str) -> Result<Selection, String> {
        Selection::of(&format!("/api/v1/findings{query}").parse().expect("an address"))
    }

    #[test]
    fn only_what_can_be_selected_is_a_query() {
        for query in ["", "?", "?kind=syn-flood", "?severity=info&kind=reset-storm", "?kind="] {
            assert!(of(query).is_ok(), "{query}");
        }
        for (query, says) in [
            ("?kind=syn_flood", "`kind` is one of close-wait-pileup, "),
            ("?severity=page", "`severity` is one of info, warning, critical"),
            ("?process=nginx", "unknown field `process`"),
            ("?a%0ab=1", "unknown field `a"),
            ("?kind=syn-flood&kind=reset-storm", "duplicate field `kind`"),
        ] {
            let why = of(query).expect_err(query);
            assert!(why.contains(says) && why.lines().count() == 1, "{why}");
        }
    }

    #[test]
    fn selected_findings_stay_and_the_others_go() {
        let json = br#"{"schema_version":1,"findings":[
            {"kind":"syn-flood","severity":"warning"},{"kind":"syn-flood","severity":"info"},
            {"kind":"reset-storm","severity":"info"}]}"#;
        let selected = |query: &str| {
            let text = of(query).expect("a selection").apply(json).expect("JSON");
            let document: Value = serde_json::from_slice(&text).expect("JSON");
            assert_eq!(document["schema_version"], 1);
            document["findings"].as_array().expect("a list").len()
        };
        let queries = ["?kind=syn-flood", "?severity=info", "?kind=syn-flood&severity=info"];
        assert_eq!(queries.map(selected), [2, 2, 1]);
        assert_eq!(selected("?severity=critical"), 0);
    }
}
