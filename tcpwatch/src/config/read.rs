//! From TOML to [`Config`]: serde reads values, this file refuses what serde cannot explain.
//!
//! The default configuration, as a table, says which keys there are. [`shape`] holds the file
//! against it and gives each override the keys of its section. Serde reads the result. An error of
//! serde is a path in that table, and the value at the path has the place. [`in_order`] compares
//! keys in pairs, with the values in force.

use serde::Deserialize as _;
use serde_path_to_error::{Path, Segment};
use toml::{
    Spanned, Table, Value,
    de::{DeTable, DeValue},
};

use super::{
    Config, duration,
    error::{Fault, join},
    overridable::{self, OVERRIDE, SECTION},
    value,
};

/// The first of a pair is not above the second, in each section that has both. Equal ones are
/// good: with equal thresholds a finding is never only a warning.
const IN_ORDER: [(&str, &str); 2] = [("warning", "critical"), ("window", "history")];

/// Parses a whole file.
pub(super) fn parse(text: &str) -> Result<Config, Fault> {
    let given = DeTable::parse(text).map_err(|error| Fault::syntax(&error))?;
    let shaped = shape(given.get_ref(), &table(&Config::default()), "")?;
    let reader = toml::Deserializer::from(Spanned::new(given.span(), shaped.clone()));
    let config = serde_path_to_error::deserialize(reader)
        .map_err(|error| fault(&shaped, error.path(), error.inner()))?;
    in_order(&table(&config), given.get_ref(), "", " by default")?;
    Ok(config)
}

/// The configuration as serde writes it.
pub(super) fn table(config: &Config) -> Table {
    Table::try_from(config).expect("numbers, words and lists of them can be written as TOML")
}

/// Refuses keys that are not in `known`, and what is not a table where it has one.
fn shape<'a>(given: &DeTable<'a>, known: &Table, path: &str) -> Result<DeTable<'a>, Fault> {
    let mut shaped = DeTable::new();
    for (key, value) in given {
        let name = key.get_ref().as_ref();
        let path_of = join(path, name);
        let value = match (known.get(name), value.get_ref()) {
            (None, _) => {
                let names: Vec<_> = known.keys().map(String::as_str).collect();
                return Err(overridable::refusal(&path_of, value)
                    .unwrap_or_else(|| Fault::unknown_key(path, key, &names)));
            }
            (Some(Value::Table(known)), DeValue::Table(inner)) => {
                let inner = match known.get(SECTION).and_then(Value::as_table) {
                    Some(section) => overridable::shape(inner, section, &path_of)?,
                    None => shape(inner, known, &path_of)?,
                };
                Spanned::new(value.span(), DeValue::Table(inner))
            }
            (Some(Value::Table(_)), _) => {
                return Err(Fault::value(&path_of, format!("the table `[{path_of}]`"), value));
            }
            (Some(_), _) => value.clone(),
        };
        shaped.insert(key.clone(), value);
    }
    Ok(shaped)
}

/// The fault at the value to which `path` leads.
fn fault(table: &DeTable<'_>, path: &Path, error: &toml::de::Error) -> Fault {
    let mut key = String::new();
    let mut at: Option<&Spanned<DeValue<'_>>> = None;
    for segment in path {
        at = match segment {
            Segment::Map { key: name } => {
                // The file has no section inside the section.
                if name != SECTION {
                    key = join(&key, name);
                }
                at.map_or_else(|| table.get(name.as_str()), |at| at.get_ref().get(name.as_str()))
            }
            Segment::Seq { index } => {
                key = format!("{key}[{index}]");
                at.and_then(|at| at.get_ref().get(*index))
            }
            Segment::Enum { .. } | Segment::Unknown => at,
        };
    }
    match at {
        Some(value) => Fault::value(key, value::expected(error.message()), value),
        None => Fault::syntax(error),
    }
}

/// Compares the pairs of [`IN_ORDER`] in `given` and below, with values of `effective`. A key that
/// is not in `given` has its value `else_from`.
fn in_order(
    effective: &Table,
    given: &DeTable<'_>,
    path: &str,
    else_from: &str,
) -> Result<(), Fault> {
    for (lower, upper) in IN_ORDER {
        let (Some(least), Some(most)) = (effective.get(lower), effective.get(upper)) else {
            continue;
        };
        if !is_above(least, most) {
            continue;
        }
        let from = |key| if given.contains_key(key) { "" } else { else_from };
        let at_least = format!("no less than `{lower}`, which is {least}{}", from(lower));
        let at_most = format!("no more than `{upper}`, which is {most}{}", from(upper));
        for (key, expected) in [(upper, at_least), (lower, at_most)] {
            if let Some(value) = given.get(key) {
                return Err(Fault::value(join(path, key), expected, value));
            }
        }
    }
    for (name, effective) in effective {
        let given = given.get(name.as_str()).map(Spanned::get_ref);
        let (Some(effective), Some(DeValue::Table(given))) = (effective.as_table(), given) else {
            continue;
        };
        let path = join(path, name);
        let Some(section) = effective.get(SECTION).and_then(Value::as_table) else {
            in_order(effective, given, &path, else_from)?;
            continue;
        };
        in_order(section, given, &path, else_from)?;
        let overrides = effective.get(OVERRIDE).and_then(Value::as_array);
        let tables = given.get(OVERRIDE).and_then(|tables| tables.get_ref().as_array());
        let pairs = overrides.into_iter().flatten().zip(tables.into_iter().flatten());
        for (index, (effective, given)) in pairs.enumerate() {
            let section = effective.get(SECTION).and_then(Value::as_table);
            if let (Some(section), DeValue::Table(given)) = (section, given.get_ref()) {
                let path = format!("{path}.{OVERRIDE}[{index}]");
                in_order(section, given, &path, " in the section")?;
            }
        }
    }
    Ok(())
}

/// Both are values of keys that can be compared, so of one type.
fn is_above(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::String(one), Value::String(other)) => duration::parse(one) > duration::parse(other),
        (one, other) => f64::deserialize(one.clone()).ok() > f64::deserialize(other.clone()).ok(),
    }
}
