//! Keys whose values must be in order: a warning is not above the critical one.

use serde::Deserialize as _;
use toml::{
    Spanned, Table, Value,
    de::{DeTable, DeValue},
};

use super::{
    duration,
    error::{Fault, join},
};

/// The first of a pair is not above the second, in each section that has both. Equal ones are
/// good: with equal thresholds a finding is never only a warning.
const IN_ORDER: [(&str, &str); 2] = [("warning", "critical"), ("window", "history")];

/// The first pair of [`IN_ORDER`] that `given` puts out of order. `values` are those in force; keys
/// without one have their default. The fault says that keys outside `given` come `else_from`.
pub(super) fn out_of_order(
    given: &DeTable<'_>,
    values: &DeTable<'_>,
    defaults: &Table,
    path: &str,
    else_from: &str,
) -> Option<Fault> {
    let value = |key: &str| values.get(key).map_or_else(|| defaults.get(key).cloned(), plain);
    IN_ORDER.iter().find_map(|(lower, upper)| {
        let (least, most) = (value(lower)?, value(upper)?);
        if !is_above(&least, &most) {
            return None;
        }
        let from = |key: &str| if given.contains_key(key) { "" } else { else_from };
        let at_least = format!("no less than `{lower}`, which is {least}{}", from(lower));
        let at_most = format!("no more than `{upper}`, which is {most}{}", from(upper));
        [(upper, at_least), (lower, at_most)].into_iter().find_map(|(key, expected)| {
            Some(Fault::value(&join(path, key), &expected, given.get(*key)?))
        })
    })
}

/// The value without its place, if it can be had.
pub(super) fn plain(value: &Spanned<DeValue<'_>>) -> Option<Value> {
    Value::deserialize(toml::de::ValueDeserializer::from(value.clone())).ok()
}

fn is_above(one: &Value, other: &Value) -> bool {
    match (one.as_str(), other.as_str()) {
        (Some(one), Some(other)) => duration::parse(one) > duration::parse(other),
        _ => f64::deserialize(one.clone()).ok() > f64::deserialize(other.clone()).ok(),
    }
}
