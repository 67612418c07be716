//! Values of keys: how each type is read from TOML, kept within its bounds, and written.
//!
//! A reader answers with what it would have accepted, never with what it guessed: there is no
//! conversion between types, except that a whole number is a ratio too (`1` is `1.0`). A new type
//! of value is one `impl Setting`; a closed set of words is a `choice!`.

use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

use toml::{
    Spanned,
    de::{DeInteger, DeValue},
};

use super::{duration, error::Fault};

/// Ports that a service can have: 0 stands for any.
pub(super) const PORTS: RangeInclusive<u16> = 1..=u16::MAX;

/// A value that a key can have.
pub(super) trait Setting: Sized {
    /// What narrows the type; `()` if all its values will do.
    type Bounds;

    fn read(value: &Spanned<DeValue<'_>>, key: &str, bounds: &Self::Bounds) -> Result<Self, Fault>;

    /// As TOML; `read` of it gives the same value.
    fn show(&self) -> String;
}

impl Setting for bool {
    type Bounds = ();

    fn read(value: &Spanned<DeValue<'_>>, key: &str, (): &()) -> Result<Self, Fault> {
        value.get_ref().as_bool().ok_or_else(|| Fault::value(key, "true or false", value))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

macro_rules! integer_setting {
    ($($type:ty),+) => {$(
        impl Setting for $type {
            type Bounds = RangeInclusive<Self>;

            fn read(
                value: &Spanned<DeValue<'_>>,
                key: &str,
                bounds: &Self::Bounds,
            ) -> Result<Self, Fault> {
                let parse = |it: &DeInteger<'_>| Self::from_str_radix(it.as_str(), it.radix()).ok();
                let number = value.get_ref().as_integer().and_then(parse);
                number.filter(|number| bounds.contains(number)).ok_or_else(|| {
                    let (least, most) = (bounds.start(), bounds.end());
                    Fault::value(key, format!("an integer from {least} to {most}"), value)
                })
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )+};
}

integer_setting!(u16, u32, u64, usize);

/// Ratios: always above 0 and at most 1, for a threshold at nothing is always reached and one
/// beyond the whole never.
impl Setting for f64 {
    type Bounds = ();

    fn read(value: &Spanned<DeValue<'_>>, key: &str, (): &()) -> Result<Self, Fault> {
        let ratio = match value.get_ref() {
            DeValue::Float(float) => float.as_str().parse().ok(),
            DeValue::Integer(integer) => integer.as_str().parse().ok(),
            _ => None,
        };
        // NaN is neither above 0 nor at most 1.
        ratio
            .filter(|ratio| *ratio > 0.0 && *ratio <= 1.0)
            .ok_or_else(|| Fault::value(key, "a ratio above 0 and at most 1, such as 0.8", value))
    }

    fn show(&self) -> String {
        format!("{self:?}")
    }
}

impl Setting for Duration {
    type Bounds = RangeInclusive<Self>;

    fn read(value: &Spanned<DeValue<'_>>, key: &str, bounds: &Self::Bounds) -> Result<Self, Fault> {
        let Some(duration) = value.get_ref().as_str().and_then(duration::parse) else {
            return Err(Fault::value(key, "a duration such as \"60s\"", value));
        };
        if !bounds.contains(&duration) {
            let (least, most) = (bounds.start().show(), bounds.end().show());
            return Err(Fault::value(key, format!("a duration from {least} to {most}"), value));
        }
        Ok(duration)
    }

    fn show(&self) -> String {
        format!("\"{}\"", duration::show(*self))
    }
}

impl Setting for SocketAddr {
    type Bounds = ();

    fn read(value: &Spanned<DeValue<'_>>, key: &str, (): &()) -> Result<Self, Fault> {
        let address = value.get_ref().as_str().and_then(|text| text.parse().ok());
        address.ok_or_else(|| {
            let expected = "an IP address with port, such as \"127.0.0.1:10743\" or \"[::]:10743\"";
            Fault::value(key, expected, value)
        })
    }

    fn show(&self) -> String {
        format!("\"{self}\"")
    }
}

/// What a list can be.
pub(super) struct List<B> {
    /// What it is of, in plural.
    pub(super) of: &'static str,
    /// One as TOML.
    pub(super) example: &'static str,
    /// How many.
    pub(super) length: RangeInclusive<usize>,
    /// Bounds of each.
    pub(super) each: B,
}

/// Lists, nothing in them twice.
impl<T: Setting + PartialEq> Setting for Vec<T> {
    type Bounds = List<T::Bounds>;

    fn read(value: &Spanned<DeValue<'_>>, key: &str, bounds: &Self::Bounds) -> Result<Self, Fault> {
        let List { of, example, length, each } = bounds;
        let Some(array) = value.get_ref().as_array() else {
            let expected = format!("an array of {of}, such as {example}");
            return Err(Fault::value(key, expected, value));
        };
        if !length.contains(&array.len()) {
            let expected = format!("from {} to {} {of}", length.start(), length.end());
            return Err(Fault::value(key, expected, value));
        }
        let mut list = Self::with_capacity(array.len());
        for (index, element) in array.iter().enumerate() {
            let key = format!("{key}[{index}]");
            let read = T::read(element, &key, each)?;
            if list.contains(&read) {
                let expected = "something that is not in the list yet";
                return Err(Fault::value(key, expected, element));
            }
            list.push(read);
        }
        Ok(list)
    }

    fn show(&self) -> String {
        format!("[{}]", self.iter().map(T::show).collect::<Vec<_>>().join(", "))
    }
}

/// A closed set of words, in the file and on the command line.
macro_rules! choice {
    (
        $(#[$attribute:meta])+
        pub enum $name:ident {
            $($(#[$word_attribute:meta])+ $variant:ident = $word:literal,)+
        }
    ) => {
        $(#[$attribute])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$word_attribute])+ $variant,)+
        }

        impl $name {
            /// All of them, in order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word for it in the configuration.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }

            fn words() -> String {
                $crate::config::setting::one_of(Self::ALL.iter().map(|it| it.as_str()))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(word: &str) -> Result<Self, String> {
                let known = Self::ALL.iter().copied().find(|it| it.as_str() == word);
                known.ok_or_else(|| format!("expected {}", Self::words()))
            }
        }

        impl $crate::config::setting::Setting for $name {
            type Bounds = ();

            fn read(
                value: &toml::Spanned<toml::de::DeValue<'_>>,
                key: &str,
                (): &(),
            ) -> Result<Self, $crate::config::error::Fault> {
                let known = value.get_ref().as_str().and_then(|word| word.parse().ok());
                known.ok_or_else(|| {
                    $crate::config::error::Fault::value(key, Self::words(), value)
                })
            }

            fn show(&self) -> String {
                format!("\"{self}\"")
            }
        }
    };
}

/// `"one", "two" or "three"`.
pub(super) fn one_of(words: impl Iterator<Item = &'static str>) -> String {
    let quoted: Vec<_> = words.map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

pub(super) use choice;
