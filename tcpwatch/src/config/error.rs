//! Why a configuration is refused, and where: always one line.
//!
//! Readers of values make a [`Fault`], which knows a byte offset and nothing of files; only
//! [`Fault::found_in`] turns the offset into line and column. Both count from 1, columns in
//! characters, as editors do. Whatever comes from the file or its name is escaped, so that no
//! input can break the line.

use std::{fmt, io, path::Path, str::Utf8Error};

use thiserror::Error;
use toml::{Spanned, de::DeValue};

/// How much of a refused string or number is repeated: enough to recognise it, and the line still
/// fits a terminal.
const QUOTED_CHARS: usize = 40;

/// From this Jaro-Winkler similarity on a known key is suggested. At 0.8 `min-age`, `warn` and
/// transposed letters find their key, and a key from nowhere (`banana`) finds none.
const NEAR: f64 = 0.8;

/// A configuration that cannot be used. Its `Display` is one line that says where and why.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// There is no such file.
    #[error("{file}: no such file; `tcpwatch config default` prints one to start from")]
    Missing {
        /// The path as given.
        file: String,
    },
    /// The system refused to open or read the file.
    #[error("{file}: cannot be read: {error}")]
    Unreadable {
        /// The path as given.
        file: String,
        /// What the system said. Not a `source`: the line has it already.
        error: io::Error,
    },
    /// The path is a directory.
    #[error("{file}: expected a TOML file, found a directory")]
    Directory {
        /// The path as given.
        file: String,
    },
    /// The file is too large to be a configuration.
    #[error("{file}: expected a TOML file of at most {limit_bytes} bytes, found a larger one")]
    TooLarge {
        /// The path as given.
        file: String,
        /// The most that is read.
        limit_bytes: u64,
    },
    /// The text is not a valid configuration.
    #[error("{place}: {cause}")]
    Refused {
        /// Where it goes wrong.
        place: Place,
        /// What is wrong there.
        cause: Cause,
    },
}

impl ConfigError {
    pub(super) fn unreadable(path: &Path, error: io::Error) -> Self {
        let file = name(path);
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing { file },
            _ => Self::Unreadable { file, error },
        }
    }

    pub(super) fn directory(path: &Path) -> Self {
        Self::Directory { file: name(path) }
    }

    pub(super) fn too_large(path: &Path, limit_bytes: u64) -> Self {
        Self::TooLarge { file: name(path), limit_bytes }
    }
}

/// A place in a file, `FILE:LINE:COLUMN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The path as given, control characters escaped.
    pub file: String,
    /// Counts from 1.
    pub line: usize,
    /// Counts characters from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// What is wrong at a place.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Cause {
    /// Bytes that are not text.
    #[error("expected UTF-8 text, found byte 0x{byte:02x}")]
    NotText {
        /// The first byte that does not belong.
        byte: u8,
    },
    /// Text that is not TOML.
    #[error("{0}")]
    Syntax(String),
    /// A key that does not exist.
    #[error("unknown key `{key}`; {advice}")]
    UnknownKey {
        /// The full dotted path.
        key: String,
        /// The nearest known key, or all of them if none is near.
        advice: String,
    },
    /// A value of the wrong type, out of bounds, or at odds with another.
    #[error("{key}: expected {expected}, found {found}")]
    Value {
        /// The full dotted path.
        key: String,
        /// What would have been accepted.
        expected: String,
        /// What is there, with its type.
        found: String,
    },
}

/// A cause at a byte offset of a text whose file is not known here.
#[derive(Debug)]
pub(super) struct Fault {
    offset: usize,
    cause: Cause,
}

impl Fault {
    pub(super) fn value(
        key: impl Into<String>,
        expected: impl Into<String>,
        value: &Spanned<DeValue<'_>>,
    ) -> Self {
        let (key, expected) = (key.into(), expected.into());
        let cause = Cause::Value { key, expected, found: found(value.get_ref()) };
        Self { offset: value.span().start, cause }
    }

    pub(super) fn unknown_key(path: &str, key: &Spanned<impl AsRef<str>>, known: &[&str]) -> Self {
        let name = key.get_ref().as_ref();
        let advice = match nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here: `{}`", known.join("`, `")),
        };
        let cause = Cause::UnknownKey { key: join(path, &bare_or_quoted(name)), advice };
        Self { offset: key.span().start, cause }
    }

    pub(super) fn syntax(error: &toml::de::Error) -> Self {
        let lines: Vec<_> = error.message().lines().map(str::trim).collect();
        let cause = Cause::Syntax(one_line(&lines.join(", ")));
        Self { offset: error.span().map_or(0, |span| span.start), cause }
    }

    pub(super) fn not_utf8(bytes: &[u8], error: &Utf8Error) -> Self {
        let offset = error.valid_up_to();
        let byte = bytes.get(offset).copied().unwrap_or_default();
        Self { offset, cause: Cause::NotText { byte } }
    }

    /// The error for the file at `path` with these contents.
    pub(super) fn found_in(self, path: &Path, text: &[u8]) -> ConfigError {
        let before = text.get(..self.offset).unwrap_or(text);
        let start_of_line = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        // A character of UTF-8 is its bytes up to the next that is not of the form 10xxxxxx.
        let is_first = |byte: &&u8| **byte & 0b1100_0000 != 0b1000_0000;
        let place = Place {
            file: name(path),
            line: before.iter().filter(|&&byte| byte == b'\n').count() + 1,
            column: before.iter().skip(start_of_line).filter(is_first).count() + 1,
        };
        ConfigError::Refused { place, cause: self.cause }
    }
}

/// The known word most like `word`, if any is like it.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Likeness costs the product of both lengths, and the longest word here has 25 letters.
    if word.len() > 2 * QUOTED_CHARS {
        return None;
    }
    let word = word.to_lowercase();
    known
        .map(|near| (strsim::jaro_winkler(&word, near), near))
        .filter(|(likeness, _)| *likeness >= NEAR)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, near)| near)
}

/// The dotted path of `key` in the section `path`, which is empty for the whole file.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn found(value: &DeValue<'_>) -> String {
    let kind = value.type_str();
    match value {
        DeValue::String(text) => format!("{kind} {:?}", clip(text)),
        DeValue::Integer(number) => format!("{kind} {}", clip(&number.to_string())),
        DeValue::Float(number) => format!("{kind} {}", clip(&number.to_string())),
        DeValue::Boolean(yes) => format!("{kind} {yes}"),
        DeValue::Datetime(date) => format!("{kind} {date}"),
        DeValue::Array(_) | DeValue::Table(_) => kind.to_owned(),
    }
}

fn clip(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or(text)),
        None => text.to_owned(),
    }
}

fn bare_or_quoted(key: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(is_bare) { clip(key) } else { format!("{:?}", clip(key)) }
}

fn name(path: &Path) -> String {
    one_line(&path.display().to_string())
}

fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || c == '\u{2028}' || c == '\u{2029}' {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}
