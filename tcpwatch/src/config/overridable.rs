//! `[[detect.<kind>.override]]`: other thresholds for a process, a unit or a port.
//!
//! Each override names its matchers and the keys that differ; the others are as in the section that
//! it belongs to. The first that matches wins. An override that could never match, or would change
//! nothing, is a mistake, and is refused. The engine knows process and port of what it judges, and
//! gets their values from [`Overridable::of`].

use std::borrow::Cow;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use toml::{
    Spanned, Table, Value,
    de::{DeArray, DeTable, DeValue},
};

use super::{
    error::{Fault, join},
    name::{ProcessName, UnitName},
    order::{out_of_order, plain},
    section::{Docs, Section},
    until::{Day, Ended, UNTIL},
    value::{Accepts as _, Given, Port},
};
use crate::facts::Process;

/// The key under which overrides stand in their section.
pub(super) const OVERRIDE: &str = "override";

/// The field in which serde finds a section, and an override's copy of it.
pub(super) const SECTION: &str = "section";

/// The comment on overrides in the default file.
pub(super) const EXPLANATION: [&str; 7] = [
    " Overrides: other values for one process, unit or port, in the section of every kind but",
    " time-wait-exhaustion. Every key in it must match: `process` (its name), `unit` (systemd unit,",
    " or short id of a container or pod), `port` (the peer's for a client, the listening port for a",
    " server). The first override that matches wins; keys that it leaves out are as above. With",
    " `enabled = false` nothing is found there. A process that is not known, or not yet, is matched",
    " only by its port. An override that can never match is refused. With `until` it applies up to",
    " that day (UTC), and a line in the log says once that it has ended.",
];

/// An override of the first section that takes them, below its header; the values are none of the
/// defaults.
pub(super) const EXAMPLE: [&str; 5] = [
    " process = \"backupd\"",
    " port = 5432",
    " until = \"2027-01-31\"",
    " warning = 100",
    " critical = 500",
];

/// Most overrides of a section. Each socket in CLOSE_WAIT is compared with each of them. A host
/// that needs more has the wrong thresholds in the section.
const MOST_OVERRIDES: usize = 100;

/// Sections without overrides, and why.
const NO_OVERRIDE: [(&str, &str); 2] = [
    (
        "detect.time_wait_exhaustion",
        "no override, for TIME_WAIT is counted by namespace, and has no process, unit or port",
    ),
    (
        "detect.kernel_limit",
        "no override, for the limits are of the kernel, and have no process, unit or port",
    ),
];

/// A section, keys that its overrides by process or unit cannot have, and why.
const BY_PORT_ONLY: (&str, [&str; 2], &str) = (
    "detect.ephemeral_port_exhaustion",
    ["warning", "critical"],
    "no threshold beside `process` or `unit`, for the ports belong to their destination: match its \
     `port` only",
);

/// The keys by which an override matches.
const MATCHERS: [&str; 3] = ["process", "unit", "port"];

/// The keys of an override that are no thresholds.
const OWN: [&str; 4] = ["process", "unit", "port", UNTIL];

/// A section, and the keys that differ for some processes, units and ports. Its values are
/// given for a process and a port, so that no detector forgets the overrides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Overridable<S> {
    pub(super) section: S,
    #[serde(default = "Vec::new", rename = "override")]
    overrides: Vec<Override<S>>,
}

/// Applies when every key in it matches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Override<S> {
    #[serde(default, skip_serializing, deserialize_with = "Given::<ProcessName>::deserialize")]
    process: Option<String>,
    #[serde(default, skip_serializing, deserialize_with = "Given::<UnitName>::deserialize")]
    unit: Option<String>,
    #[serde(default, skip_serializing, deserialize_with = "Given::<Port>::deserialize")]
    port: Option<u16>,
    /// The last day on which it applies.
    #[serde(default, skip_serializing, deserialize_with = "Given::<Day>::deserialize")]
    until: Option<Date>,
    /// The last day is over.
    #[serde(skip)]
    has_ended: bool,
    /// The section with the keys of this override in place.
    section: S,
}

impl<S> Overridable<S> {
    /// The values for a process, where it is known, and a service port: those of the first override
    /// that matches, else the section's.
    pub fn of(&self, process: Option<&Process>, port: u16) -> &S {
        self.at(self.place_of(process, port))
    }

    /// Which values [`of`](Self::of) gives: 0 for the section, else the number of the override.
    /// Sockets of one place are judged by the same thresholds.
    pub fn place_of(&self, process: Option<&Process>, port: u16) -> usize {
        self.overrides.iter().position(|it| it.matches(process, port)).map_or(0, |at| at + 1)
    }

    /// The values of a place.
    pub fn at(&self, place: usize) -> &S {
        let place = place.checked_sub(1).and_then(|at| self.overrides.get(at));
        place.map_or(&self.section, |it| &it.section)
    }

    /// The section and what each override makes of it.
    pub fn all(&self) -> impl Iterator<Item = &S> {
        [&self.section].into_iter().chain(self.overrides.iter().map(|it| &it.section))
    }

    /// Changes the section and every override alike.
    pub fn edit_all(&mut self, edit: impl Fn(&mut S)) {
        edit(&mut self.section);
        self.overrides.iter_mut().for_each(|it| edit(&mut it.section));
    }
}

impl<S: Section> Section for Overridable<S> {
    fn docs() -> Docs {
        S::docs()
    }

    /// An override that has ended keeps its place, so that the others keep theirs.
    fn end(&mut self, path: &str, today: Date, ended: &mut Vec<Ended>) {
        for (index, it) in self.overrides.iter_mut().enumerate() {
            let Some(until) = it.until.filter(|until| *until < today && !it.has_ended) else {
                continue;
            };
            it.has_ended = true;
            let entry =
                format!("{} ({})", join(path, &format!("{OVERRIDE}[{index}]")), it.matchers());
            ended.push(Ended { entry, until });
        }
    }
}

impl<S> Override<S> {
    fn matches(&self, process: Option<&Process>, port: u16) -> bool {
        let is_process = |name: &str| process.is_some_and(|process| process.name == name);
        let is_in = |unit: &str| process.is_some_and(|process| process.unit_label() == unit);
        !self.has_ended
            && self.process.as_deref().is_none_or(is_process)
            && self.unit.as_deref().is_none_or(is_in)
            && self.port.is_none_or(|it| it == port)
    }

    /// As the file has them.
    fn matchers(&self) -> String {
        let text = |(key, value): (&str, &Option<String>)| {
            value.as_ref().map(|value| format!("{key} = {value:?}"))
        };
        let texts = [("process", &self.process), ("unit", &self.unit)].map(text);
        let port = self.port.map(|port| format!("port = {port}"));
        texts.into_iter().chain([port]).flatten().collect::<Vec<_>>().join(", ")
    }
}

/// The refusal of a key that a person may expect at `path`, although there is none.
pub(super) fn refusal(path: &str, value: &Spanned<DeValue<'_>>) -> Option<Fault> {
    let is_here = |(section, _): &&(&str, &str)| path == join(section, OVERRIDE);
    NO_OVERRIDE.iter().find(is_here).map(|(_, why)| Fault::value(path, why, value))
}

/// Turns a section and its overrides into a table that serde reads as [`Overridable`]: each
/// override gets the keys that it leaves out, wherever the section gives them.
pub(super) fn shape<'a>(
    given: &DeTable<'a>,
    known: &Table,
    path: &str,
    late: &mut Vec<Fault>,
) -> Result<DeTable<'a>, Fault> {
    let mut section = given.clone();
    let overrides = section.remove(OVERRIDE);
    refuse_unknown(&section, path, known.keys().map(String::as_str).chain([OVERRIDE]))?;
    late.extend(out_of_order(&section, &section, known, path, " by default"));
    let mut shaped = DeTable::new();
    shaped.insert(key(SECTION), Spanned::new(0..0, DeValue::Table(section.clone())));
    let Some(overrides) = overrides else { return Ok(shaped) };
    let overrides_path = join(path, OVERRIDE);
    let tables = overrides.get_ref().as_array().filter(|tables| tables.len() <= MOST_OVERRIDES);
    let Some(tables) = tables else {
        let expected = format!("tables `[[{overrides_path}]]`, at most {MOST_OVERRIDES}");
        return Err(Fault::value(&overrides_path, &expected, &overrides));
    };
    let mut earlier = Vec::new();
    let mut shaped_tables = DeArray::new();
    for (index, value) in tables.iter().enumerate() {
        let path_of = format!("{overrides_path}[{index}]");
        let refuse = |expected: &str| Fault::value(&path_of, expected, value);
        let expected = "a table with what to match and what to override";
        let table = value.get_ref().as_table().ok_or_else(|| refuse(expected))?;
        let (mut matcher, values) = split(table, &section, known, &path_of, refuse)?;
        if let Some(first) = earlier.iter().position(|earlier| covers(earlier, &matcher)) {
            let first = format!("something that `override[{first}]` does not match before it");
            return Err(refuse(&first));
        }
        let (of, by_port, why) = BY_PORT_ONLY;
        let is_port_only =
            matcher.keys().all(|key| ["port", UNTIL].contains(&key.get_ref().as_ref()));
        if of == path && !is_port_only {
            let found = by_port.iter().find_map(|name| Some((name, table.get(*name)?)));
            if let Some((name, value)) = found {
                return Err(Fault::value(&join(&path_of, name), why, value));
            }
        }
        late.extend(out_of_order(table, &values, known, &path_of, " in the section"));
        earlier.push(matcher.clone());
        matcher.insert(key(SECTION), Spanned::new(value.span(), DeValue::Table(values)));
        shaped_tables.push(Spanned::new(value.span(), DeValue::Table(matcher)));
    }
    shaped.insert(key(OVERRIDE), Spanned::new(overrides.span(), DeValue::Array(shaped_tables)));
    Ok(shaped)
}

/// The matchers of an override, and the section with its values in place.
fn split<'a>(
    table: &DeTable<'a>,
    section: &DeTable<'a>,
    known: &Table,
    path: &str,
    refuse: impl Fn(&str) -> Fault,
) -> Result<(DeTable<'a>, DeTable<'a>), Fault> {
    let names: Vec<_> = known.keys().map(String::as_str).collect();
    refuse_unknown(table, path, OWN.into_iter().chain(names.iter().copied()))?;
    let (mut matcher, mut values) = (DeTable::new(), section.clone());
    for (key, value) in table {
        let is_own = OWN.contains(&key.get_ref().as_ref());
        let to = if is_own { &mut matcher } else { &mut values };
        to.insert(key.clone(), value.clone());
    }
    if MATCHERS.iter().all(|name| !matcher.contains_key(*name)) {
        return Err(refuse(&format!("at least one of `{}` to match", MATCHERS.join("`, `"))));
    }
    if matcher.len() == table.len() {
        return Err(refuse(&format!("at least one of `{}` to override", names.join("`, `"))));
    }
    Ok((matcher, values))
}

fn refuse_unknown<'k>(
    table: &DeTable<'_>,
    path: &str,
    known: impl Iterator<Item = &'k str>,
) -> Result<(), Fault> {
    let known: Vec<_> = known.collect();
    let unknown = table.keys().find(|key| !known.contains(&key.get_ref().as_ref()));
    unknown.map_or(Ok(()), |key| Err(Fault::unknown_key(path, key, &known)))
}

/// Whether the first of two matchers matches whatever the other matches. One that ends gives way to
/// one that lasts longer.
fn covers(earlier: &DeTable<'_>, later: &DeTable<'_>) -> bool {
    let until = |matcher: &DeTable<'_>| matcher.get(UNTIL).map(plain);
    let lasts_longer = until(earlier).is_some_and(|end| {
        // Dates of one form compare as their texts do.
        let text = |date: &Option<Value>| date.as_ref()?.as_str().map(str::to_owned);
        until(later).is_none_or(|other| text(&other) > text(&end))
    });
    if lasts_longer {
        return false;
    }
    earlier
        .iter()
        .filter(|(name, _)| name.get_ref() != UNTIL)
        .all(|(name, value)| later.get(name).is_some_and(|other| plain(other) == plain(value)))
}

/// A key that is not in the file.
fn key(name: &str) -> Spanned<Cow<'_, str>> {
    Spanned::new(0..0, name.into())
}
