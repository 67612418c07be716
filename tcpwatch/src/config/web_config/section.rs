//! A mapping with known keys, from which values are taken by their name.

use super::{
    super::error::{self, join},
    Place, Placed, Refusal,
    yaml::{Key, Node, Scalar, Value},
};

/// A mapping of which each key is known.
pub(super) struct Section {
    path: &'static str,
    entries: Vec<(Key, Node)>,
}

impl Section {
    /// Refuses what is no mapping, and keys that are not in `known`. Nothing is an empty mapping.
    pub(super) fn of(path: &'static str, node: Node, known: &[&str]) -> Result<Self, Refusal> {
        let entries = match node.value {
            Value::Nothing => Vec::new(),
            Value::Map(entries) => entries,
            other => {
                let name = if path.is_empty() { "the file" } else { path };
                let why = format!("{name}: expected a mapping, found {}", other.kind());
                return Err(node.place.refuse(why));
            }
        };
        for (key, _) in &entries {
            if !known.contains(&key.name.as_str()) {
                return Err(key.place.refuse(error::unknown_key(path, &key.name, known)));
            }
        }
        Ok(Self { path, entries })
    }

    /// The value of a key that has one.
    pub(super) fn take(&mut self, name: &str) -> Option<Node> {
        let index = self.entries.iter().position(|(key, _)| key.name == name)?;
        let (_, node) = self.entries.swap_remove(index);
        (!matches!(node.value, Value::Nothing)).then_some(node)
    }

    /// Refuses a key if `why` has a reason against its value.
    pub(super) fn unsupported(
        &self,
        name: &str,
        why: impl Fn(&Value) -> Option<&'static str>,
    ) -> Result<(), Refusal> {
        let Some((key, node)) = self.entries.iter().find(|(key, _)| key.name == name) else {
            return Ok(());
        };
        match why(&node.value) {
            Some(why) => Err(key.place.refuse(format!("{} {why}", join(self.path, name)))),
            None => Ok(()),
        }
    }

    /// A text, empty ones left out, as the toolkit does.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<Placed<String>>, Refusal> {
        let Some(node) = self.take(name) else { return Ok(None) };
        let text = self.text_of(name, node)?;
        Ok((!text.value.is_empty()).then_some(text))
    }

    fn text_of(&self, name: &str, node: Node) -> Result<Placed<String>, Refusal> {
        match node.value {
            Value::Scalar(Scalar { text, .. }) => Ok(Placed { value: text, place: node.place }),
            other => Err(self.expected(name, node.place, "text", &other)),
        }
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, name: &str) -> Result<Vec<Placed<String>>, Refusal> {
        let Some(node) = self.take(name) else { return Ok(Vec::new()) };
        match node.value {
            Value::List(list) => list.into_iter().map(|node| self.text_of(name, node)).collect(),
            other => Err(self.expected(name, node.place, "a list of texts", &other)),
        }
    }

    /// A boolean, in the words of YAML 1.1, which the toolkit reads.
    pub(super) fn boolean(&mut self, name: &str) -> Result<Option<Placed<bool>>, Refusal> {
        let Some(node) = self.take(name) else { return Ok(None) };
        let value = match &node.value {
            Value::Scalar(Scalar { text, is_plain: true }) => {
                match text.to_ascii_lowercase().as_str() {
                    "true" | "yes" | "on" | "y" => Some(true),
                    "false" | "no" | "off" | "n" => Some(false),
                    _ => None,
                }
            }
            _ => None,
        };
        match value {
            Some(value) => Ok(Some(Placed { value, place: node.place })),
            None => Err(self.expected(name, node.place, "true or false", &node.value)),
        }
    }

    fn expected(&self, name: &str, place: Place, expected: &str, found: &Value) -> Refusal {
        let name = join(self.path, name);
        let found = match found {
            Value::Scalar(Scalar { text, .. }) => error::quoted(text),
            other => other.kind().to_owned(),
        };
        place.refuse(format!("{name}: expected {expected}, found {found}"))
    }

    /// Why a value that was taken is refused.
    pub(super) fn refuse<T>(&self, name: &str, value: &Placed<T>, why: &str) -> Refusal {
        value.place.refuse(format!("{}: {why}", join(self.path, name)))
    }
}
