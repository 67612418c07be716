//! YAML as a tree in which each key and value has its place.
//!
//! The parser gives events with line and column; the tree is what this file adds. It is bounded by
//! the text: an alias, which can double it at each level, is refused, and so is deep nesting.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span};

use super::{Place, Refusal};

/// Mappings and lists within each other. The configuration has three levels.
const MAX_DEPTH: usize = 8;

/// A value with the place where it begins.
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// A value of one of the three kinds of YAML.
pub(super) enum Value {
    /// Nothing is there, or `null`.
    Nothing,
    /// A number, a word or a text.
    Scalar(Scalar),
    List(Vec<Node>),
    /// In the order of the text. No key is there twice.
    Map(Vec<(Key, Node)>),
}

pub(super) struct Scalar {
    pub(super) text: String,
    /// Written without quotes, so that `true` is a boolean.
    pub(super) is_plain: bool,
}

pub(super) struct Key {
    pub(super) name: String,
    pub(super) place: Place,
}

impl Value {
    /// The name of its kind, for errors.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Scalar(_) => "a single value",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// Parses a text of one document. One without a document is [`Value::Nothing`].
pub(super) fn parse(text: &str) -> Result<Node, Refusal> {
    let mut events = Events(Parser::new_from_str(text));
    let mut root = Node { place: Place { line: 1, column: 1 }, value: Value::Nothing };
    let mut documents = 0;
    loop {
        match events.next()? {
            (Event::StreamEnd, _) => return Ok(root),
            (Event::DocumentStart(_), place) => {
                documents += 1;
                if documents > 1 {
                    return Err(place.refuse("expected one document, found another".to_owned()));
                }
                let (event, place) = events.next()?;
                root = events.node(event, place, 0)?;
            }
            _ => {}
        }
    }
}

struct Events<'a>(Parser<'a, saphyr_parser::StrInput<'a>>);

impl<'a> Events<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Place), Refusal> {
        match self.0.next_event() {
            Some(Ok((event, Span { start, .. }))) => Ok((event, start.into())),
            Some(Err(error)) => {
                Err(Place::from(*error.marker()).refuse(format!("not YAML: {}", error.info())))
            }
            None => Ok((Event::StreamEnd, Place { line: 1, column: 1 })),
        }
    }

    /// The node that begins with `event`.
    fn node(&mut self, event: Event<'a>, place: Place, depth: usize) -> Result<Node, Refusal> {
        if depth > MAX_DEPTH {
            return Err(place.refuse(format!("nested more than {MAX_DEPTH} levels deep")));
        }
        let value = match event {
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, Some(_))
            | Event::MappingStart(_, Some(_)) => {
                return Err(place.refuse("a tag (!) is not supported".to_owned()));
            }
            Event::Alias(_) => {
                return Err(place.refuse("an alias (*) is not supported".to_owned()));
            }
            Event::Scalar(text, style, ..) => {
                let is_plain = style == ScalarStyle::Plain;
                if is_plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL") {
                    Value::Nothing
                } else {
                    Value::Scalar(Scalar { text: text.into_owned(), is_plain })
                }
            }
            Event::SequenceStart(..) => Value::List(self.list(depth)?),
            Event::MappingStart(..) => Value::Map(self.map(depth)?),
            // The grammar has no other event here; the document is empty then.
            _ => Value::Nothing,
        };
        Ok(Node { place, value })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Refusal> {
        let mut list = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd | Event::StreamEnd, _) => return Ok(list),
                (event, place) => list.push(self.node(event, place, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<(Key, Node)>, Refusal> {
        let mut map: Vec<(Key, Node)> = Vec::new();
        loop {
            let key = match self.next()? {
                (Event::MappingEnd | Event::StreamEnd, _) => return Ok(map),
                (event, place) => self.node(event, place, depth + 1)?,
            };
            let place = key.place;
            let Value::Scalar(Scalar { text: name, .. }) = key.value else {
                let kind = key.value.kind();
                return Err(place.refuse(format!("expected a key, found {kind}")));
            };
            if map.iter().any(|(key, _)| key.name == name) {
                return Err(place.refuse(format!("key {name:?} is there twice")));
            }
            let (event, value_place) = self.next()?;
            let value = self.node(event, value_place, depth + 1)?;
            map.push((Key { name, place }, value));
        }
    }
}

impl From<Marker> for Place {
    fn from(marker: Marker) -> Self {
        Self { line: marker.line(), column: marker.col() + 1 }
    }
}
