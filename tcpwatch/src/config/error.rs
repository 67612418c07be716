//! Why a configuration is refused, and where: always one line.
//!
//! Readers of values make a [`Fault`], which knows a byte offset and nothing of files; only
//! [`Fault::found_in`] turns the offset into line and column. Both count from 1, columns in
//! characters, as editors do. Whatever comes from the file or its name is escaped, so that no
//! input can break the line.

use std::{io, path::Path, str::Utf8Error, time::Duration};

use thiserror::Error;
use toml::{Spanned, de::DeValue};

use crate::plain;

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
    #[error("{0}: no such file; `tcpwatch config default` prints one to start from")]
    Missing(String),
    /// The system refused to open or read the file.
    #[error("{0}: cannot be read: {1}")]
    Unreadable(String, io::Error),
    /// Its filesystem does not answer.
    #[error("{0}: cannot be read: no answer within {patience} s", patience = .1.as_secs())]
    Late(String, Duration),
    /// The path leads to a directory, a FIFO, a device, too large a file: the expected kind, and
    /// found.
    #[error("{0}: expected {1}, found {2}")]
    NotAFile(String, String, &'static str),
    /// The text is refused.
    #[error("{file}:{line}:{column}: {why}")]
    Refused {
        /// The path as given, control characters escaped.
        file: String,
        /// Counts from 1.
        line: usize,
        /// Counts characters from 1.
        column: usize,
        /// The fault, with what was expected and found.
        why: String,
    },
}

impl ConfigError {
    pub(super) fn unreadable(path: &Path, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing(plain::path(path)),
            _ => Self::Unreadable(plain::path(path), error),
        }
    }

    /// `expected` is "a TOML file", say.
    pub(super) fn not_regular(path: &Path, expected: &str, found: &'static str) -> Self {
        Self::NotAFile(plain::path(path), expected.to_owned(), found)
    }

    pub(super) fn late(path: &Path, patience: Duration) -> Self {
        Self::Late(plain::path(path), patience)
    }

    pub(super) fn too_large(path: &Path, expected: &str, limit_bytes: u64) -> Self {
        let expected = format!("{expected} of at most {limit_bytes} bytes");
        Self::NotAFile(plain::path(path), expected, "a larger one")
    }
}

/// A fault at a byte offset of a text; its file is not known here.
#[derive(Debug)]
pub(super) struct Fault {
    offset: usize,
    why: String,
}

impl Fault {
    /// A value of the wrong type, out of bounds, or at odds with another.
    pub(super) fn value(key: &str, expected: &str, value: &Spanned<DeValue<'_>>) -> Self {
        let why = format!("{key}: expected {expected}, found {}", found(value.get_ref()));
        Self { offset: value.span().start, why }
    }

    /// A key that does not exist, with the nearest one that does, or all if none is near.
    pub(super) fn unknown_key(path: &str, key: &Spanned<impl AsRef<str>>, known: &[&str]) -> Self {
        Self { offset: key.span().start, why: unknown_key(path, key.get_ref().as_ref(), known) }
    }

    pub(super) fn syntax(error: &toml::de::Error) -> Self {
        let lines: Vec<_> = error.message().lines().map(str::trim).collect();
        let offset = error.span().map_or(0, |span| span.start);
        Self { offset, why: plain::said(&lines.join(", ")) }
    }

    pub(super) fn not_utf8(bytes: &[u8], error: &Utf8Error) -> Self {
        let offset = error.valid_up_to();
        let byte = bytes.get(offset).copied().unwrap_or_default();
        Self { offset, why: format!("expected UTF-8 text, found byte 0x{byte:02x}") }
    }

    /// The error for the file at `path` with these contents.
    pub(super) fn found_in(self, path: &Path, text: &[u8]) -> ConfigError {
        let before = text.get(..self.offset).unwrap_or(text);
        let start_of_line = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        // A character of UTF-8 is its bytes up to the next that is not of the form 10xxxxxx.
        let is_first = |byte: &&u8| **byte & 0b1100_0000 != 0b1000_0000;
        ConfigError::Refused {
            file: plain::path(path),
            line: before.iter().filter(|&&byte| byte == b'\n').count() + 1,
            column: before.iter().skip(start_of_line).filter(is_first).count() + 1,
            why: self.why,
        }
    }
}

/// The words for a key that does not exist in the section `path`.
pub(super) fn unknown_key(path: &str, name: &str, known: &[&str]) -> String {
    let advice = match nearest(name, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known here: `{}`", known.join("`, `")),
    };
    format!("unknown key `{}`; {advice}", join(path, &bare_or_quoted(name)))
}

/// The known word most like `word`, if any is like it.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    // Likeness costs the product of both lengths, and the longest word here has 25 letters.
    if word.len() > 2 * QUOTED_CHARS {
        return None;
    }
    let word = word.to_lowercase();
    known
        .iter()
        .map(|near| (strsim::jaro_winkler(&word, near), *near))
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
        DeValue::String(text) => format!("{kind} {}", quoted(text)),
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

pub(super) fn bare_or_quoted(key: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(is_bare) { clip(key) } else { quoted(key) }
}

pub(super) fn quoted(text: &str) -> String {
    plain::said(&format!("{:?}", clip(text)))
}
