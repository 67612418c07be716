//! Values that a key accepts: `#[serde(with = "Whole::<1, 10>")]` names one of these.
//!
//! The text of an error names only the accepted values; `read.rs` adds the place and the value
//! there. No type is converted into another, except that a whole number is a ratio too (`1` is
//! `1.0`).

use std::{fmt, marker::PhantomData, net::SocketAddr, path::PathBuf, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, DeserializeSeed, Error as _, IntoDeserializer, SeqAccess, Visitor},
};
use toml::Value;

use super::duration;

/// Values of the type `T` that a key accepts.
pub(super) trait Accepts<T> {
    /// The accepted values, in words.
    fn expected() -> String;

    fn read(value: &Value) -> Option<T>;

    fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        let value = Value::deserialize(from).ok();
        let read = value.as_ref().and_then(Self::read);
        read.ok_or_else(|| D::Error::custom(Self::expected()))
    }

    fn serialize<S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error>
    where
        T: Serialize,
    {
        value.serialize(to)
    }
}

/// Integers from `LEAST` to `MOST`.
pub(super) struct Whole<const LEAST: u64, const MOST: u64>;

impl<T: TryFrom<u64>, const LEAST: u64, const MOST: u64> Accepts<T> for Whole<LEAST, MOST> {
    fn expected() -> String {
        format!("an integer from {LEAST} to {MOST}")
    }

    fn read(value: &Value) -> Option<T> {
        let number = u64::try_from(value.as_integer()?).ok()?;
        (LEAST..=MOST).contains(&number).then(|| T::try_from(number).ok())?
    }
}

/// Paths of a UNIX socket, or "" for none.
pub(super) struct SocketPath;

/// `sun_path` of `sockaddr_un`, less the zero at its end.
const SOCKET_PATH_BYTES: usize = 107;

impl Accepts<PathBuf> for SocketPath {
    fn expected() -> String {
        format!("an absolute path of at most {SOCKET_PATH_BYTES} bytes, or \"\"")
    }

    fn read(value: &Value) -> Option<PathBuf> {
        let path = value.as_str()?;
        let is_path = path.starts_with('/') && path.len() <= SOCKET_PATH_BYTES;
        ((is_path && !path.contains('\0')) || path.is_empty()).then(|| path.into())
    }
}

/// Optional values: those that `A` accepts.
pub(super) struct Given<A>(PhantomData<A>);

impl<T, A: Accepts<T>> Accepts<Option<T>> for Given<A> {
    fn expected() -> String {
        A::expected()
    }

    fn read(value: &Value) -> Option<Option<T>> {
        A::read(value).map(Some)
    }
}

/// Ports that a service can have: 0 stands for any.
pub(super) type Port = Whole<1, 65_535>;

/// Powers of two from `LEAST` to `MOST`.
pub(super) struct PowerOfTwo<const LEAST: u64, const MOST: u64>;

impl<const LEAST: u64, const MOST: u64> Accepts<u32> for PowerOfTwo<LEAST, MOST> {
    fn expected() -> String {
        format!("a power of two, such as 262144, from {LEAST} to {MOST}")
    }

    fn read(value: &Value) -> Option<u32> {
        Whole::<LEAST, MOST>::read(value).filter(|number: &u32| number.is_power_of_two())
    }
}

/// Ratios: above 0 and at most 1. A threshold at nothing is always reached, and one beyond the
/// whole never.
pub(super) struct Ratio;

impl Accepts<f64> for Ratio {
    fn expected() -> String {
        "a ratio above 0 and at most 1, such as 0.8".to_owned()
    }

    fn read(value: &Value) -> Option<f64> {
        // NaN is neither above 0 nor at most 1.
        f64::deserialize(value.clone()).ok().filter(|ratio| *ratio > 0.0 && *ratio <= 1.0)
    }
}

/// Parts of one CPU that inventories may take. Below the least the interval would always be as long
/// as it may.
pub(super) struct CpuShare;

impl Accepts<f64> for CpuShare {
    fn expected() -> String {
        "a part of one CPU from 0.001 to 0.1".to_owned()
    }

    fn read(value: &Value) -> Option<f64> {
        f64::deserialize(value.clone()).ok().filter(|part| (0.001..=0.1).contains(part))
    }
}

/// Durations from `LEAST` to `MOST` milliseconds.
pub(super) struct Time<const LEAST: u64, const MOST: u64>;

impl<const LEAST: u64, const MOST: u64> Accepts<Duration> for Time<LEAST, MOST> {
    fn expected() -> String {
        let [least, most] = [LEAST, MOST].map(Duration::from_millis).map(duration::show);
        format!("a duration from \"{least}\" to \"{most}\"")
    }

    fn read(value: &Value) -> Option<Duration> {
        let bounds = Duration::from_millis(LEAST)..=Duration::from_millis(MOST);
        duration::parse(value.as_str()?).filter(|duration| bounds.contains(duration))
    }

    fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        duration::show(*value).serialize(to)
    }
}

/// The words of an enum.
pub(super) struct Word;

impl<T: DeserializeOwned> Accepts<T> for Word {
    fn expected() -> String {
        let none = T::deserialize("".into_deserializer()).err();
        let none: Option<serde::de::value::Error> = none;
        let error = none.map(|error| error.to_string()).unwrap_or_default();
        let words = expected(&error).trim_start_matches("one of ").replace('`', "\"");
        match words.rsplit_once(", ") {
            Some((words, last)) => format!("{words} or {last}"),
            None => words,
        }
    }

    fn read(value: &Value) -> Option<T> {
        value.as_str()?;
        T::deserialize(value.clone()).ok()
    }
}

/// IP addresses with port.
pub(super) struct Address;

impl Accepts<SocketAddr> for Address {
    fn expected() -> String {
        "an IP address with port, such as \"127.0.0.1:10743\" or \"[::]:10743\"".to_owned()
    }

    fn read(value: &Value) -> Option<SocketAddr> {
        value.as_str()?.parse().ok()
    }
}

/// Lists of values that `A` accepts, from `LEAST` to `MOST` of them, none twice.
pub(super) struct List<A, const LEAST: usize, const MOST: usize>(PhantomData<A>);

impl<A, const LEAST: usize, const MOST: usize> List<A, LEAST, MOST> {
    pub(super) fn serialize<T: Serialize, S: Serializer>(
        list: &[T],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        list.serialize(to)
    }

    pub(super) fn deserialize<'de, T, D>(from: D) -> Result<Vec<T>, D::Error>
    where
        A: Accepts<T>,
        T: PartialEq,
        D: Deserializer<'de>,
    {
        let list = from.deserialize_any(Elements::<A, T>(PhantomData))?;
        let expected = || D::Error::custom(format!("from {LEAST} to {MOST} elements"));
        (LEAST..=MOST).contains(&list.len()).then_some(list).ok_or_else(expected)
    }
}

struct Elements<A, T>(PhantomData<(A, T)>);

impl<'de, T: PartialEq, A: Accepts<T>> Visitor<'de> for Elements<A, T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array, each element {}", A::expected())
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Vec<T>, S::Error> {
        let mut list = Vec::new();
        while let Some(element) = seq.next_element_seed(New::<A, T>(&list, PhantomData))? {
            list.push(element);
        }
        Ok(list)
    }
}

/// An element that the list does not have yet.
struct New<'a, A, T>(&'a [T], PhantomData<A>);

impl<'de, T: PartialEq, A: Accepts<T>> DeserializeSeed<'de> for New<'_, A, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<T, D::Error> {
        let element = A::deserialize(from)?;
        let twice = || D::Error::custom("something that is not in the list yet");
        (!self.0.contains(&element)).then_some(element).ok_or_else(twice)
    }
}

/// The accepted values, from the text of an error: an error of [`Accepts`] has nothing else, one of
/// serde ends with them.
pub(super) fn expected(error: &str) -> &str {
    match error.rsplit_once(", expected ").map_or(error, |(_, expected)| expected) {
        "a boolean" => "true or false",
        expected => expected,
    }
}
