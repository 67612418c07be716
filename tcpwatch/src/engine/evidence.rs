//! Evidence of a finding: data, never sentences.
//!
//! A key is `<noun>_<unit>`, a yes or no is a boolean, and a list holds objects. The sentences of a
//! finding are made from the same values as its evidence, never from the evidence.
//! `docs/findings.schema.json` describes the evidence of each kind.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
    ser::SerializeMap,
};

use crate::facts::Process;

/// A value of the evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Evidence {
    /// A count, or a size or time in the unit that the key names.
    Count(u64),
    /// Likewise, with a fraction.
    Number(f64),
    /// Yes or no.
    Flag(bool),
    /// A name, an address or a word of a fixed set.
    Text(String),
    /// Values that belong together: a socket, a process, a destination.
    Object(EvidenceMap),
    /// Several of a kind.
    List(Vec<Evidence>),
}

/// Evidence in the order in which it is shown; each key ends in its unit where it has one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EvidenceMap(Vec<(Cow<'static, str>, Evidence)>);

impl EvidenceMap {
    /// Appends a count.
    pub fn count(&mut self, key: &'static str, value: u64) -> &mut Self {
        self.push(key, Evidence::Count(value))
    }

    /// Appends a number with a fraction, kept to three places.
    pub fn number(&mut self, key: &'static str, value: f64) -> &mut Self {
        self.push(key, Evidence::Number((value * 1_000.0).round() / 1_000.0))
    }

    /// Appends a yes or no.
    pub fn flag(&mut self, key: &'static str, value: bool) -> &mut Self {
        self.push(key, Evidence::Flag(value))
    }

    /// Appends a name, an address or a word.
    pub fn text(&mut self, key: &'static str, value: impl Into<String>) -> &mut Self {
        self.push(key, Evidence::Text(value.into()))
    }

    /// Appends several names.
    pub fn names(
        &mut self,
        key: &'static str,
        names: impl IntoIterator<Item = String>,
    ) -> &mut Self {
        self.push(key, Evidence::List(names.into_iter().map(Evidence::Text).collect()))
    }

    /// Appends values that belong together.
    pub fn object(&mut self, key: &'static str, values: Self) -> &mut Self {
        self.push(key, Evidence::Object(values))
    }

    /// Appends several objects; nothing where there are none.
    pub fn list(
        &mut self,
        key: &'static str,
        objects: impl IntoIterator<Item = Self>,
    ) -> &mut Self {
        let objects: Vec<_> = objects.into_iter().map(Evidence::Object).collect();
        if objects.is_empty() {
            return self;
        }
        self.push(key, Evidence::List(objects))
    }

    /// Appends the name and the id of a process.
    pub fn process(&mut self, process: &Process) -> &mut Self {
        self.text("process", &process.name).count("pid", process.pid.into())
    }

    fn push(&mut self, key: &'static str, value: Evidence) -> &mut Self {
        self.0.push((Cow::Borrowed(key), value));
        self
    }

    /// The value under `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Evidence> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Evidence)> {
        self.0.iter().map(|(key, value)| (&**key, value))
    }

    /// Gives each text to `change`, however deep it lies.
    pub(crate) fn change_texts(&mut self, change: &impl Fn(&mut String)) {
        self.0.iter_mut().for_each(|(_, value)| value.change_texts(change));
    }

    /// `local 127.0.0.1:40000, recv queue bytes 0`.
    fn in_one_line(&self) -> String {
        let field = |(key, value): (&str, &Evidence)| {
            format!("{} {}", key.replace('_', " "), value.in_one_line())
        };
        self.iter().map(field).collect::<Vec<_>>().join(", ")
    }
}

impl Evidence {
    /// The value for a person: a line for each element of a list, else one line.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::List(values) => values.iter().map(Self::in_one_line).collect(),
            value => vec![value.in_one_line()],
        }
    }

    fn in_one_line(&self) -> String {
        match self {
            Self::Count(count) => count.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Flag(true) => "yes".to_owned(),
            Self::Flag(false) => "no".to_owned(),
            Self::Text(text) => text.clone(),
            Self::Object(values) => values.in_one_line(),
            Self::List(values) => {
                let values: Vec<_> = values.iter().map(Self::in_one_line).collect();
                format!("[{}]", values.join("; "))
            }
        }
    }

    fn change_texts(&mut self, change: &impl Fn(&mut String)) {
        match self {
            Self::Text(text) => change(text),
            Self::Object(values) => values.change_texts(change),
            Self::List(values) => values.iter_mut().for_each(|value| value.change_texts(change)),
            Self::Count(_) | Self::Number(_) | Self::Flag(_) => {}
        }
    }
}

impl Serialize for EvidenceMap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// In the order of the document.
impl<'de> Deserialize<'de> for EvidenceMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Values;
        impl<'de> Visitor<'de> for Values {
            type Value = EvidenceMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<EvidenceMap, A::Error> {
                let mut values = EvidenceMap::default();
                while let Some((key, value)) = map.next_entry::<String, Evidence>()? {
                    values.0.push((Cow::Owned(key), value));
                }
                Ok(values)
            }
        }
        deserializer.deserialize_map(Values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested() -> EvidenceMap {
        let mut stack = EvidenceMap::default();
        stack.count("sockets", 8).names("frames", ["connect".to_owned(), "main".to_owned()]);
        let mut evidence = EvidenceMap::default();
        evidence
            .number("oldest_age_seconds", 63.067_4)
            .flag("oldest_age_is_lower_bound", true)
            .process(&Process { pid: 7, name: "api".to_owned(), ..Process::default() })
            .list("closers", [])
            .list("stacks", [stack.clone(), stack]);
        evidence
    }

    #[test]
    fn values_keep_their_types_and_their_order_in_json() {
        assert_eq!(
            serde_json::to_string(&nested()).expect("evidence is JSON"),
            r#"{"oldest_age_seconds":63.067,"oldest_age_is_lower_bound":true,"process":"api","pid":7,"stacks":[{"sockets":8,"frames":["connect","main"]},{"sockets":8,"frames":["connect","main"]}]}"#
        );
    }

    #[test]
    fn values_are_read_as_they_were_written() {
        let json = serde_json::to_string(&nested()).expect("evidence is JSON");
        assert_eq!(serde_json::from_str::<EvidenceMap>(&json).expect("evidence"), nested());
    }

    #[test]
    fn a_person_reads_a_line_for_each_element_of_a_list() {
        let evidence = nested();
        let lines = |key| evidence.get(key).map(Evidence::lines);
        let line = "sockets 8, frames [connect; main]".to_owned();
        assert_eq!(lines("stacks"), Some(vec![line.clone(), line]));
        assert_eq!(lines("oldest_age_is_lower_bound"), Some(vec!["yes".to_owned()]));
        assert_eq!(lines("oldest_age_seconds"), Some(vec!["63.067".to_owned()]));
        assert_eq!(lines("closers"), None);
    }

    #[test]
    fn every_text_can_be_changed_however_deep_it_lies() {
        let mut evidence = nested();
        evidence.change_texts(&|text| text.push('!'));
        let json = serde_json::to_string(&evidence).expect("evidence is JSON");
        assert_eq!(json.matches('!').count(), 5, "{json}");
    }
}
