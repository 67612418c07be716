//! Sections of the file: `section!` makes a struct, its `Default` and its comments from one text.
//!
//! `pub key: Type = default;` is a key, `pub name: Section;` a section within. A doc comment is
//! the comment in the file that `tcpwatch config default` prints. Serde reads and writes the
//! struct; `#[serde(with = "...")]` names the values that a key accepts (`value.rs`).

use jiff::civil::Date;

use super::until::Ended;

/// The comments of a section or a key, and its members.
#[derive(Default)]
pub(super) struct Docs {
    pub(super) lines: &'static [&'static str],
    /// In the order of the struct.
    pub(super) inner: Vec<(&'static str, Docs)>,
}

/// A section of the file.
pub(super) trait Section {
    fn docs() -> Docs;

    /// Takes out what has ended before `today` in the section at `path`.
    fn end(&mut self, path: &str, today: Date, ended: &mut Vec<Ended>);
}

macro_rules! section {
    (
        $(#[doc = $doc:literal])+
        pub struct $name:ident {
            $(
                $(#[doc = $key_doc:literal])+
                $(#[serde($($serde:tt)+)])?
                pub $key:ident: $type:ty = $default:expr;
            )*
            $(pub $inner:ident: $section:ty;)*
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[doc = $key_doc])+ $(#[serde($($serde)+)])? pub $key: $type,)*
            $(#[doc = concat!("See [`", stringify!($section), "`].")] pub $inner: $section,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)* $($inner: Default::default(),)* }
            }
        }

        impl $crate::config::section::Section for $name {
            fn docs() -> $crate::config::section::Docs {
                use $crate::config::section::Docs;
                Docs {
                    lines: &[$($doc),+],
                    inner: vec![
                        $((
                            stringify!($key),
                            Docs { lines: &[$($key_doc),+], ..Docs::default() },
                        ),)*
                        $((stringify!($inner), <$section>::docs()),)*
                    ],
                }
            }

            fn end(
                &mut self,
                _path: &str,
                _today: jiff::civil::Date,
                _ended: &mut Vec<$crate::config::until::Ended>,
            ) {
                $(
                    let path = $crate::config::error::join(_path, stringify!($inner));
                    $crate::config::section::Section::end(
                        &mut self.$inner, &path, _today, _ended,
                    );
                )*
            }
        }
    };
}

pub(super) use section;
