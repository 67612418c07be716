//! Which code opened the sockets: their user stacks, counted and in words.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use crate::{engine::text, facts::CloseWaitSocket};

/// Stacks that the evidence lists.
const LISTED: usize = 3;
/// Stacks that are told apart. A program opens connections in a few places, not in hundreds.
const TOLD_APART: usize = 256;
/// Characters of a function's name in a sentence: names of generic code go on for lines.
const NAME: usize = 100;
/// How the C library's objects begin: connect() itself tells nothing.
const C_LIBRARY: [&str; 5] = ["libc.so", "libc-", "libpthread", "ld-linux", "ld-musl"];
/// The C library's functions, for where the object is not known.
const CALLS: [&str; 7] = [
    "connect",
    "__connect",
    "__libc_connect",
    "accept",
    "accept4",
    "__libc_accept",
    "__libc_accept4",
];

/// The stacks of a group's sockets, most frequent first.
pub(super) struct Stacks(Vec<(Arc<[String]>, u64)>);

impl Stacks {
    pub(super) fn of(sockets: &[&CloseWaitSocket]) -> Self {
        let mut counts: BTreeMap<Arc<[String]>, u64> = BTreeMap::new();
        for stack in sockets.iter().filter_map(|socket| socket.stack.as_ref()) {
            let is_full = counts.len() >= TOLD_APART;
            match counts.entry(Arc::clone(stack)) {
                Entry::Occupied(mut count) => *count.get_mut() += 1,
                Entry::Vacant(place) if !is_full && !stack.is_empty() => {
                    place.insert(1);
                }
                Entry::Vacant(_) => {}
            }
        }
        let mut stacks: Vec<_> = counts.into_iter().collect();
        stacks.sort_by_key(|(_, count)| Reverse(*count));
        Self(stacks)
    }

    /// The most frequent one, innermost frame first.
    pub(super) fn first(&self) -> Vec<String> {
        self.0.first().map(|(stack, _)| stack.to_vec()).unwrap_or_default()
    }

    /// `12 of 37: connect_backend < handle_request < main`.
    pub(super) fn list(&self, total: u64) -> Vec<String> {
        let line = |(stack, count): &(Arc<[String]>, u64)| {
            let names: Vec<_> =
                stack.iter().map(|frame| Frame::parse(frame).short_name()).collect();
            format!("{count} of {total}: {}", names.join(" < "))
        };
        self.0.iter().take(LISTED).map(line).collect()
    }

    /// Who opened most of those that are known, `connect_backend() (app+0x11d6)`, and how many.
    pub(super) fn opener(&self) -> Option<(String, u64)> {
        let mut openers: BTreeMap<String, u64> = BTreeMap::new();
        for (stack, count) in &self.0 {
            *openers.entry(opener(stack)?).or_default() += count;
        }
        openers.into_iter().max_by_key(|(_, count)| *count)
    }
}

/// The innermost function outside the C library.
fn opener(stack: &[String]) -> Option<String> {
    let frames = || stack.iter().map(|frame| Frame::parse(frame));
    let frame = frames().find(|frame| !frame.is_c_library()).or_else(|| frames().next())?;
    Some(frame.in_words())
}

/// One frame: `function (object+0x11d6)`, or `object+0x11d6` where the function is not known.
struct Frame<'a> {
    name: Option<&'a str>,
    place: Option<&'a str>,
}

impl<'a> Frame<'a> {
    fn parse(text: &'a str) -> Self {
        let text = match text.trim() {
            "" => "?",
            text => text,
        };
        // From the right: names of C++ have brackets of their own.
        if let Some((name, rest)) = text.rsplit_once(" (")
            && let Some(place) = rest.strip_suffix(')')
            && place.contains("+0x")
        {
            return Self { name: Some(name), place: Some(place) };
        }
        if text.contains("+0x") {
            return Self { name: None, place: Some(text) };
        }
        Self { name: Some(text), place: None }
    }

    fn is_c_library(&self) -> bool {
        match (self.place, self.name) {
            (Some(place), _) => C_LIBRARY.iter().any(|object| place.starts_with(object)),
            (None, Some(name)) => CALLS.contains(&name),
            (None, None) => false,
        }
    }

    fn short_name(&self) -> String {
        text::shorten(self.name.or(self.place).unwrap_or_default(), NAME)
    }

    fn in_words(&self) -> String {
        let name = self.short_name();
        match (self.name, self.place) {
            // Demangled names may bring their arguments.
            (Some(_), Some(place)) if name.ends_with(')') => format!("{name} ({place})"),
            (Some(_), Some(place)) => format!("{name}() ({place})"),
            (Some(_), None) if name.ends_with(')') => name,
            (Some(_), None) => format!("{name}()"),
            (None, _) => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_read_as_a_person_says_them() {
        let table = [
            ("connect_backend (app+0x11d6)", "connect_backend", "connect_backend() (app+0x11d6)"),
            ("app+0x11d6", "app+0x11d6", "app+0x11d6"),
            ("Pool::open", "Pool::open", "Pool::open()"),
            ("open(int) (app+0x1)", "open(int)", "open(int) (app+0x1)"),
            (
                "(anonymous namespace)::open (a b+0x1)",
                "(anonymous namespace)::open",
                "(anonymous namespace)::open() (a b+0x1)",
            ),
            (" (", "(", "(()"),
            ("", "?", "?()"),
            ("operator() (int)", "operator() (int)", "operator() (int)"),
        ];
        for (frame, name, words) in table {
            let frame = Frame::parse(frame);
            assert_eq!((&*frame.short_name(), &*frame.in_words()), (name, words));
        }
    }

    #[test]
    fn the_c_library_is_not_who_opened_a_connection() {
        for frame in ["connect (libc.so.6+0x1)", "libc-2.31.so+0x1", "connect", "__libc_accept4"] {
            assert!(Frame::parse(frame).is_c_library(), "{frame}");
        }
        for frame in ["connect (libcurl.so.4+0x1)", "app+0x1", "connect_backend"] {
            assert!(!Frame::parse(frame).is_c_library(), "{frame}");
        }
    }
}
