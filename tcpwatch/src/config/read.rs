//! From TOML to [`Config`]: serde reads values, this file refuses faults that serde cannot explain.
//!
//! The default configuration, as a table, says which keys there are. [`shape`] holds the file
//! against it, compares keys in pairs, and gives each override the keys of its section. Serde reads
//! the result. An error of serde has a path in that table, and the value at the path has the place.

use serde_path_to_error::{Path, Segment};
use toml::{
    Spanned, Table, Value,
    de::{DeTable, DeValue},
};

use super::{
    Config,
    error::{Fault, join},
    order::out_of_order,
    overridable::{self, SECTION},
    value,
};

/// Parses a whole file.
pub(super) fn parse(text: &str) -> Result<Config, Fault> {
    let given = DeTable::parse(text).map_err(|error| Fault::syntax(&error))?;
    let mut late = Vec::new();
    let shaped = shape(given.get_ref(), &table(&Config::default()), "", &mut late)?;
    let reader = toml::Deserializer::from(Spanned::new(given.span(), shaped.clone()));
    let config = serde_path_to_error::deserialize(reader)
        .map_err(|error| fault(&shaped, error.path(), error.inner()))?;
    late.into_iter().next().map_or(Ok(config), Err)
}

/// The configuration as serde writes it.
pub(super) fn table(config: &Config) -> Table {
    Table::try_from(config).expect("numbers, words and lists of them can be written as TOML")
}

/// Refuses keys that are not in `known`, and values that are no table where it has one. Faults in
/// `late` hold only if each value is good by itself.
fn shape<'a>(
    given: &DeTable<'a>,
    known: &Table,
    path: &str,
    late: &mut Vec<Fault>,
) -> Result<DeTable<'a>, Fault> {
    late.extend(out_of_order(given, given, known, path, " by default"));
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
                    Some(section) => overridable::shape(inner, section, &path_of, late)?,
                    None => shape(inner, known, &path_of, late)?,
                };
                Spanned::new(value.span(), DeValue::Table(inner))
            }
            (Some(Value::Table(_)), _) => {
                return Err(Fault::value(&path_of, &format!("the table `[{path_of}]`"), value));
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
        Some(value) => Fault::value(&key, value::expected(error.message()), value),
        None => Fault::syntax(error),
    }
}
