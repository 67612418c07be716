//! `[[detect.<kind>.override]]`: other thresholds for a process, a unit or a port.
//!
//! Each override names whom it is for and the keys that differ; the others are as in the section
//! that it belongs to. The first that matches wins. One that could never match, or would change
//! nothing, is a mistake of the person who wrote it, and is refused. Who is judged is known in the
//! engine: it asks with [`Overridable::of`].

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    error::{Fault, join},
    name::Name,
    section::{Described, Given, Keys, Section},
    setting::{PORTS, Setting},
};
use crate::facts::Process;

/// The key under which overrides stand in their section.
const OVERRIDE: &str = "override";

/// What the default file says of overrides.
pub(super) const EXPLANATION: [&str; 6] = [
    " Overrides: other values for one process, unit or port, in the section of every kind but",
    " time-wait-exhaustion. All must match that is given: `process` (its name), `unit` (systemd",
    " unit, or short id of a container or pod), `port` (the peer's for a client, the listening",
    " port for a server). The first override that matches wins; what it leaves out is as above.",
    " With `enabled = false` nothing is found there. A process that is not known, or not yet, is",
    " matched by its port alone. One that can never match is refused.",
];

/// An override of the first section that takes them, below its header; the values are none of the
/// defaults.
pub(super) const EXAMPLE: [&str; 4] =
    [" process = \"backupd\"", " port = 5432", " warning = 100", " critical = 500"];

/// Most overrides of a section. Each socket in CLOSE_WAIT is compared with each of them, and who
/// needs more than this has the wrong thresholds in the section.
const MOST_OVERRIDES: usize = 100;

/// A section, and what differs in it for some processes, units and ports. Its values are had by
/// asking for whom, so that no detector forgets to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overridable<S> {
    pub(super) section: S,
    overrides: Vec<Override<S>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Override<S> {
    matcher: Matcher,
    /// The section with the keys of this override in place.
    section: S,
}

/// Whom an override is for: all that is given must be so.
#[derive(Clone, Debug, Default, PartialEq)]
struct Matcher {
    process: Option<String>,
    unit: Option<String>,
    port: Option<u16>,
}

impl<S> Overridable<S> {
    /// The values for a process, where it is known, and a service port: those of the first override
    /// that matches, else the section's.
    pub fn of(&self, process: Option<&Process>, port: u16) -> &S {
        let first = self.overrides.iter().find(|it| it.matcher.matches(process, port));
        first.map_or(&self.section, |it| &it.section)
    }

    /// Changes the section and every override alike.
    pub fn edit_all(&mut self, edit: impl Fn(&mut S)) {
        edit(&mut self.section);
        self.overrides.iter_mut().for_each(|it| edit(&mut it.section));
    }
}

impl<S: Keys> Section for Overridable<S> {
    fn read(table: &DeTable<'_>, path: &str) -> Result<Self, Fault> {
        let mut section = S::default();
        for (key, value) in table {
            let name = key.get_ref();
            if name != OVERRIDE && !section.read_key(name, value, path)? {
                let known = [S::NAMES, &[OVERRIDE]].concat();
                return Err(Fault::unknown_key(path, key, &known));
            }
        }
        section.check(&Given { table, path, else_from: " by default" })?;
        // Only now, because an override keeps what the section says, wherever that stands.
        let overrides = match table.get(OVERRIDE) {
            Some(value) => read_overrides(&section, value, &join(path, OVERRIDE))?,
            None => Vec::new(),
        };
        Ok(Self { section, overrides })
    }

    fn describe(path: &str) -> Vec<Described> {
        vec![Described { overridable: true, ..S::describe_keys(path) }]
    }
}

fn read_overrides<S: Keys>(
    section: &S,
    value: &Spanned<DeValue<'_>>,
    path: &str,
) -> Result<Vec<Override<S>>, Fault> {
    let tables = value.get_ref().as_array().filter(|tables| tables.len() <= MOST_OVERRIDES);
    let Some(tables) = tables else {
        let expected = format!("tables `[[{path}]]`, at most {MOST_OVERRIDES}");
        return Err(Fault::value(path, expected, value));
    };
    let mut overrides: Vec<Override<S>> = Vec::new();
    for (index, value) in tables.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let read = Override::read(section, value, &path)?;
        let covers = |earlier: &Override<S>| earlier.matcher.covers(&read.matcher);
        if let Some(first) = overrides.iter().position(covers) {
            let expected = format!("something that `override[{first}]` does not match before it");
            return Err(Fault::value(path, expected, value));
        }
        overrides.push(read);
    }
    Ok(overrides)
}

impl<S: Keys> Override<S> {
    fn read(section: &S, value: &Spanned<DeValue<'_>>, path: &str) -> Result<Self, Fault> {
        let refuse = |expected: String| Err(Fault::value(path, expected, value));
        let DeValue::Table(table) = value.get_ref() else {
            return refuse("a table with what to match and what to override".to_owned());
        };
        let mut read = Self { matcher: Matcher::default(), section: section.clone() };
        let mut changes = false;
        for (key, value) in table {
            let name = key.get_ref();
            if read.matcher.read_key(name, value, path)? {
                continue;
            }
            if !read.section.read_key(name, value, path)? {
                let known = [&Matcher::NAMES, S::NAMES].concat();
                return Err(Fault::unknown_key(path, key, &known));
            }
            changes = true;
        }
        let (by_port_alone, why) = S::BY_PORT_ALONE;
        let mut keys = table.iter();
        let in_vain = keys.find(|(key, _)| by_port_alone.contains(&key.get_ref().as_ref()));
        if let Some((key, value)) = in_vain.filter(|_| read.matcher.names_somebody()) {
            return Err(Fault::value(join(path, key.get_ref()), why, value));
        }
        if read.matcher == Matcher::default() {
            return refuse(format!("at least one of `{}` to match", Matcher::NAMES.join("`, `")));
        }
        if !changes {
            return refuse(format!("at least one of `{}` to override", S::NAMES.join("`, `")));
        }
        read.section.check(&Given { table, path, else_from: " in the section" })?;
        Ok(read)
    }
}

impl Matcher {
    const NAMES: [&str; 3] = ["process", "unit", "port"];

    /// Reads one key; `false` if there is none of that name.
    fn read_key(
        &mut self,
        name: &str,
        value: &Spanned<DeValue<'_>>,
        path: &str,
    ) -> Result<bool, Fault> {
        let path = join(path, name);
        match name {
            "process" => self.process = Some(Setting::read(value, &path, &Name::Process)?),
            "unit" => self.unit = Some(Setting::read(value, &path, &Name::Unit)?),
            "port" => self.port = Some(Setting::read(value, &path, &PORTS)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn matches(&self, process: Option<&Process>, port: u16) -> bool {
        let is_process = |name: &str| process.is_some_and(|process| process.name == name);
        let is_in = |unit: &str| process.is_some_and(|process| process.unit_label() == unit);
        self.process.as_deref().is_none_or(is_process)
            && self.unit.as_deref().is_none_or(is_in)
            && self.port.is_none_or(|wanted| wanted == port)
    }

    /// Whether it is for a process or a unit.
    fn names_somebody(&self) -> bool {
        self.process.is_some() || self.unit.is_some()
    }

    /// Whether it matches whatever `other` matches.
    fn covers(&self, other: &Self) -> bool {
        (self.process.is_none() || self.process == other.process)
            && (self.unit.is_none() || self.unit == other.unit)
            && (self.port.is_none() || self.port == other.port)
    }
}
