//! Tests of the judgement, on tables of facts.
