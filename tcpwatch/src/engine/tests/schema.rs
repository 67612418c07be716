//! Findings from any table of facts have the evidence that `docs/findings.schema.json` describes.

use std::{collections::BTreeMap, sync::LazyLock};

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::engine::{Finding, FindingKind};

static EVIDENCE: LazyLock<BTreeMap<FindingKind, Validator>> = LazyLock::new(|| {
    let schema: Value =
        serde_json::from_str(include_str!("../../../../docs/findings.schema.json")).unwrap();
    let of_kind = |kind: FindingKind| {
        let evidence = format!("#/$defs/evidence-{}", kind.name());
        let schema = json!({
            "$schema": schema["$schema"],
            "$ref": evidence,
            "$defs": schema["$defs"],
        });
        (kind, jsonschema::validator_for(&schema).unwrap())
    };
    FindingKind::ALL.into_iter().map(of_kind).collect()
});

#[track_caller]
pub(super) fn assert_evidence_is_described(finding: &Finding) {
    let evidence = serde_json::to_value(&finding.evidence).unwrap();
    if let Err(error) = EVIDENCE[&finding.kind].validate(&evidence) {
        panic!("{}: {error} in {evidence:#}", finding.id);
    }
}
