//! `until = "2027-01-31"`: overrides and entries of `[ignore]` that end by themselves.
//!
//! The date is the last day on which they apply, in UTC. Nothing here reads a clock:
//! [`Config::end_entries`](super::Config::end_entries) is given the day, and returns what has ended
//! since it was called last, so that each end is reported once.

use std::{fmt, marker::PhantomData, ops::Deref};

use jiff::civil::Date;
use serde::{Deserialize as _, Deserializer, Serialize, Serializer, de::Error as _};
use toml::Value;

use super::value::{Accepts, List};

/// The key that holds the date.
pub(super) const UNTIL: &str = "until";

/// An override or an entry that no longer applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The place in the file, and the content.
    pub(super) entry: String,
    /// The last day on which it applied.
    pub(super) until: Date,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} no longer applies: it ended on {}", self.entry, self.until)
    }
}

/// An entry with a date, in words.
const DATED: &str = "`name` (of a port `port`) and `until`, such as { name = \"nginx\", until = \
                     \"2027-01-31\" }";

/// Days, as `2027-01-31`.
pub(super) struct Day;

impl Accepts<Date> for Day {
    fn expected() -> String {
        "a date such as \"2027-01-31\"".to_owned()
    }

    fn read(value: &Value) -> Option<Date> {
        // The parser also takes a time behind the date, and drops it.
        value.as_str().filter(|text| text.len() == "2027-01-31".len())?.parse().ok()
    }
}

/// A list of which some entries end. It reads as those that have not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Entries<T> {
    in_force: Vec<T>,
    dated: Vec<(T, Date)>,
}

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self { in_force: Vec::new(), dated: Vec::new() }
    }
}

impl<T> From<Vec<T>> for Entries<T> {
    fn from(in_force: Vec<T>) -> Self {
        Self { in_force, dated: Vec::new() }
    }
}

impl<T> Deref for Entries<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.in_force
    }
}

impl<T: PartialEq + fmt::Debug> Entries<T> {
    /// Takes out what has ended before `today`.
    pub(super) fn end(&mut self, path: &str, today: Date, ended: &mut Vec<Ended>) {
        let in_force = &mut self.in_force;
        self.dated.retain(|(value, until)| {
            if *until >= today {
                return true;
            }
            let place = in_force.iter().position(|it| it == value);
            place.map(|place| in_force.remove(place));
            ended.push(Ended { entry: format!("{path}: {value:?}"), until: *until });
            false
        });
    }
}

/// Entries that `A` accepts, from none to `MOST` of them; each may have a date.
pub(super) struct Dated<A, const MOST: usize>(PhantomData<A>);

impl<A, const MOST: usize> Dated<A, MOST> {
    /// Written as they are without a date, which only the default configuration is: it has none.
    pub(super) fn serialize<T: Serialize, S: Serializer>(
        entries: &Entries<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        entries.in_force.serialize(to)
    }

    pub(super) fn deserialize<'de, T, D>(from: D) -> Result<Entries<T>, D::Error>
    where
        A: Accepts<T>,
        T: PartialEq + Clone,
        D: Deserializer<'de>,
    {
        let list: Vec<(T, Option<Date>)> = List::<Entry<A>, 0, MOST>::deserialize(from)?;
        let dated = |(value, until): &(T, Option<Date>)| Some((value.clone(), (*until)?));
        Ok(Entries {
            dated: list.iter().filter_map(dated).collect(),
            in_force: list.into_iter().map(|(value, _)| value).collect(),
        })
    }
}

/// A value, or a table with it and its last day.
struct Entry<A>(PhantomData<A>);

impl<T, A: Accepts<T>> Accepts<(T, Option<Date>)> for Entry<A> {
    fn expected() -> String {
        A::expected()
    }

    fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<(T, Option<Date>), D::Error> {
        let value = Value::deserialize(from).ok();
        let read = value.as_ref().and_then(Self::read);
        read.ok_or_else(|| match value {
            Some(Value::Table(_)) => D::Error::custom(DATED),
            _ => D::Error::custom(Self::expected()),
        })
    }

    fn read(value: &Value) -> Option<(T, Option<Date>)> {
        let Some(table) = value.as_table() else { return Some((A::read(value)?, None)) };
        let until = Day::read(table.get(UNTIL)?)?;
        let value = ["name", "port"].into_iter().find_map(|key| table.get(key))?;
        let is_right_key = table.contains_key("port") == value.is_integer();
        (table.len() == 2 && is_right_key).then(|| Some((A::read(value)?, Some(until))))?
    }
}
