//! Sections of the file: `section!` for one that holds keys, `sections!` for one that holds others.
//!
//! The macros turn a struct's doc comments, defaults and bounds into the struct, its `Default`, the
//! reader that refuses what is unknown, and the description that the default file is printed from.
//! There is one way in: `Deserialize` goes through the same reader, so that nothing is ever
//! accepted unchecked. What relates two keys is a `check` after the struct; `no NAME because`
//! answers a key that somebody would look for there in vain, `by port alone KEYS because` one that an
//! override by process or unit would set in vain. A section whose values can differ by
//! process, unit and port is wrapped in `Overridable`.

use serde::{Deserialize as _, Deserializer, de::Error as _};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::error::{Fault, join};

/// A table of the file.
pub(super) trait Section: Default {
    /// Reads what is given over the defaults. `path` is dotted, empty for the whole file.
    fn read(table: &DeTable<'_>, path: &str) -> Result<Self, Fault>;

    /// This section, then those within it, in the order of the struct.
    fn describe(path: &str) -> Vec<Described>;
}

/// A section that holds keys; every one is a [`Section`].
pub(super) trait Keys: Clone + Default {
    /// In the order of the struct.
    const NAMES: &'static [&'static str];

    /// Keys that an override by process or unit cannot have, and why.
    const BY_PORT_ALONE: (&'static [&'static str], &'static str) = (&[], "");

    /// Reads one key of the section `path`; `false` if there is none of that name.
    fn read_key(
        &mut self,
        name: &str,
        value: &Spanned<DeValue<'_>>,
        path: &str,
    ) -> Result<bool, Fault>;

    /// Whether the values go together.
    fn check(&self, given: &Given<'_>) -> Result<(), Fault>;

    fn describe_keys(path: &str) -> Described;
}

impl<K: Keys> Section for K {
    fn read(table: &DeTable<'_>, path: &str) -> Result<Self, Fault> {
        let mut section = Self::default();
        for (key, value) in table {
            if !section.read_key(key.get_ref(), value, path)? {
                return Err(Fault::unknown_key(path, key, Self::NAMES));
            }
        }
        section.check(&Given { table, path, else_from: " by default" })?;
        Ok(section)
    }

    fn describe(path: &str) -> Vec<Described> {
        vec![Self::describe_keys(path)]
    }
}

/// What the default file says about a section.
pub(super) struct Described {
    pub(super) path: String,
    pub(super) docs: &'static [&'static str],
    pub(super) keys: Vec<DescribedKey>,
    /// It takes overrides.
    pub(super) overridable: bool,
}

/// What the default file says about a key.
pub(super) struct DescribedKey {
    pub(super) name: &'static str,
    pub(super) docs: &'static [&'static str],
    /// The default, as TOML.
    pub(super) value: String,
}

/// What the file itself gives in a section, for checks that relate two keys.
pub(super) struct Given<'a> {
    pub(super) table: &'a DeTable<'a>,
    pub(super) path: &'a str,
    /// Where a key's value comes from that is not given: ` by default`, ` in the section`.
    pub(super) else_from: &'static str,
}

impl Given<'_> {
    /// The fault at `key`, or none if the key is not given here.
    pub(super) fn refuse(&self, key: &str, expected: impl Into<String>) -> Option<Fault> {
        let value = self.table.get(key)?;
        Some(Fault::value(join(self.path, key), expected, value))
    }
}

/// Reads a whole document as one section.
pub(super) fn parse<S: Section>(text: &str) -> Result<S, Fault> {
    let document = DeTable::parse(text).map_err(|error| Fault::syntax(&error))?;
    S::read(document.get_ref(), "")
}

/// Reads the section `path` within another.
pub(super) fn read<S: Section>(value: &Spanned<DeValue<'_>>, path: &str) -> Result<S, Fault> {
    match value.get_ref() {
        DeValue::Table(table) => S::read(table, path),
        _ => Err(Fault::value(path, format!("the table `[{path}]`"), value)),
    }
}

/// The body of every section's `Deserialize`.
pub(super) fn deserialize<'de, S: Section, D: Deserializer<'de>>(from: D) -> Result<S, D::Error> {
    let table = toml::Table::deserialize(from)?;
    parse(&table.to_string()).map_err(D::Error::custom)
}

/// `pub key: Type = default, in bounds;` — the bounds are left out where the type needs none.
macro_rules! section {
    (
        $(#[doc = $doc:literal])+
        pub struct $name:ident {
            $(
                $(#[doc = $key_doc:literal])+
                pub $key:ident: $type:ty = $default:expr $(, in $bounds:expr)?;
            )+
        }
        $(check $check:path;)?
        $(no $absent:ident because $why:literal;)?
        $(by port alone $($nobodys:ident),+ because $reason:literal;)?
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($(#[doc = $key_doc])+ pub $key: $type,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }

        impl $crate::config::section::Keys for $name {
            const NAMES: &'static [&'static str] = &[$(stringify!($key)),+];
            $(const BY_PORT_ALONE: (&'static [&'static str], &'static str) =
                (&[$(stringify!($nobodys)),+], $reason);)?

            fn read_key(
                &mut self,
                name: &str,
                value: &toml::Spanned<toml::de::DeValue<'_>>,
                path: &str,
            ) -> Result<bool, $crate::config::error::Fault> {
                let path = $crate::config::error::join(path, name);
                match name {
                    $(stringify!($key) => {
                        let bounds = $crate::config::section::bounds!($($bounds)?);
                        self.$key =
                            $crate::config::setting::Setting::read(value, &path, &bounds)?;
                    })+
                    $(stringify!($absent) => {
                        return Err($crate::config::error::Fault::value(path, $why, value));
                    })?
                    _ => return Ok(false),
                }
                Ok(true)
            }

            fn check(
                &self,
                _given: &$crate::config::section::Given<'_>,
            ) -> Result<(), $crate::config::error::Fault> {
                $($check(self, _given)?;)?
                Ok(())
            }

            fn describe_keys(path: &str) -> $crate::config::section::Described {
                let default = Self::default();
                let keys = vec![$($crate::config::section::DescribedKey {
                    name: stringify!($key),
                    docs: &[$($key_doc),+],
                    value: $crate::config::setting::Setting::show(&default.$key),
                }),+];
                $crate::config::section::Described {
                    path: path.to_owned(),
                    docs: &[$($doc),+],
                    keys,
                    overridable: false,
                }
            }
        }

        $crate::config::section::deserialize_section!($name);
    };
}

/// `pub name: Section;` — the inner section's own doc comment describes it.
macro_rules! sections {
    (
        $(#[doc = $doc:literal])+
        pub struct $name:ident {
            $(pub $inner:ident: $type:ty;)+
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name {
            $(#[doc = concat!("See [`", stringify!($type), "`].")] pub $inner: $type,)+
        }

        impl $crate::config::section::Section for $name {
            fn read(
                table: &toml::de::DeTable<'_>,
                path: &str,
            ) -> Result<Self, $crate::config::error::Fault> {
                let mut section = Self::default();
                for (key, value) in table {
                    match key.get_ref().as_ref() {
                        $(stringify!($inner) => {
                            let path = $crate::config::error::join(path, stringify!($inner));
                            section.$inner = $crate::config::section::read(value, &path)?;
                        })+
                        _ => {
                            let known = [$(stringify!($inner)),+];
                            return Err($crate::config::error::Fault::unknown_key(
                                path, key, &known,
                            ));
                        }
                    }
                }
                Ok(section)
            }

            fn describe(path: &str) -> Vec<$crate::config::section::Described> {
                let mut described = vec![$crate::config::section::Described {
                    path: path.to_owned(),
                    docs: &[$($doc),+],
                    keys: Vec::new(),
                    overridable: false,
                }];
                $(described.extend(<$type as $crate::config::section::Section>::describe(
                    &$crate::config::error::join(path, stringify!($inner)),
                ));)+
                described
            }
        }

        $crate::config::section::deserialize_section!($name);
    };
}

macro_rules! bounds {
    () => {
        ()
    };
    ($bounds:expr) => {
        $bounds
    };
}

macro_rules! deserialize_section {
    ($name:ident) => {
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                $crate::config::section::deserialize(from)
            }
        }
    };
}

pub(super) use {bounds, deserialize_section, section, sections};
