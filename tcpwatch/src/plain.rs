//! Text of foreign origin, made plain before a person or a terminal reads it.
//!
//! A process takes any bytes for its name (`PR_SET_NAME`), and so do a cgroup, a bind mount, a
//! library and a file. A terminal obeys some characters, others turn or hide their neighbours. Each
//! of those is written as its number, `\u{1b}` for ESC, or as `\n`, `\r`, `\t`: a person sees that
//! something was there, and names stay distinct unless one spells such a number itself. Plain text
//! stays as it is, so a second pass changes nothing.

use std::{borrow::Cow, fmt, path::Path, sync::Arc};

/// `text` with its treacherous characters written as their numbers.
#[must_use]
pub fn text(text: &str) -> Cow<'_, str> {
    if is_plain(text) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_treacherous(character) {
            plain.extend(character.escape_default());
        } else {
            plain.push(character);
        }
    }
    Cow::Owned(plain)
}

/// Makes `it` plain in place.
pub fn make(it: &mut String) {
    if let Cow::Owned(plain) = text(it) {
        *it = plain;
    }
}

/// Makes `it` plain in place.
pub fn make_shared(it: &mut Arc<str>) {
    if let Cow::Owned(plain) = text(it) {
        *it = plain.into();
    }
}

/// The text of `it`, plain.
#[must_use]
pub fn said(it: &dyn fmt::Display) -> String {
    let mut said = it.to_string();
    make(&mut said);
    said
}

/// The name of a file, plain. Bytes that are not UTF-8 are U+FFFD.
#[must_use]
pub fn path(path: &Path) -> String {
    said(&path.display())
}

/// Whether `found` is the name that was `selected`. Shown names are plain, and so is what a person
/// copies from there.
#[must_use]
pub fn same(selected: &str, found: &str) -> bool {
    selected == found || text(selected) == text(found)
}

/// Whether a reader sees all of `text`, in its order, and a terminal obeys none of it.
#[must_use]
pub fn is_plain(text: &str) -> bool {
    !text.contains(is_treacherous)
}

/// Controls (C0, DEL, C1), line and paragraph separators, format characters (General_Category Cf)
/// and all else that is shown as nothing (Default_Ignorable_Code_Point), as of Unicode 16
/// (DerivedGeneralCategory.txt, DerivedCoreProperties.txt). Left out are the Arabic, Syriac and
/// Kaithi signs in Cf that are seen. A space of any width is seen, and so is no space.
fn is_treacherous(character: char) -> bool {
    if character.is_ascii() {
        return character.is_ascii_control();
    }
    character.is_control()
        || matches!(character,
            '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            // Separators of lines and paragraphs, embeddings and overrides of direction.
            | '\u{2028}'..='\u{202e}'
            // Joiners, invisible operators, isolates of direction.
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            // Tags, variation selectors, and what is kept for their like.
            | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_drives_a_terminal_or_deceives_a_reader_becomes_its_number() {
        for (hostile, plain) in [
            ("\u{1b}[41mown\u{1b}[0m", r"\u{1b}[41mown\u{1b}[0m"),
            ("two\r\nlines\t", r"two\r\nlines\t"),
            ("\0\u{7f}\u{9b}31m", r"\u{0}\u{7f}\u{9b}31m"),
            ("a\u{202e}cod.exe", r"a\u{202e}cod.exe"),
            ("\u{2066}\u{2069}\u{200e}\u{200f}\u{61c}", r"\u{2066}\u{2069}\u{200e}\u{200f}\u{61c}"),
            ("\u{2028}\u{2029}\u{85}", r"\u{2028}\u{2029}\u{85}"),
            ("ng\u{200b}inx\u{feff}\u{ad}", r"ng\u{200b}inx\u{feff}\u{ad}"),
            ("\u{e0041}\u{e007f}\u{fe0f}\u{3164}", r"\u{e0041}\u{e007f}\u{fe0f}\u{3164}"),
        ] {
            assert!(!is_plain(hostile));
            assert_eq!(text(hostile), plain);
            assert!(is_plain(plain) && matches!(text(plain), Cow::Borrowed(_)));
        }
    }

    #[test]
    fn names_in_any_script_stay_as_they_are() {
        for name in [
            "nginx",
            "",
            "ünïx 1",
            "сервер",
            "サーバー",
            "שרת",
            "เซิร์ฟเวอร์",
            "🦀",
            r"a\x2d1",
            "\u{fffd}",
        ] {
            assert_eq!(text(name), name);
        }
    }

    #[test]
    fn two_hostile_names_stay_two() {
        assert_ne!(text("a\u{1b}"), text("a\u{7f}"));
    }
}
