//! Which code opened the sockets: their user stacks, counted and in words.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use crate::{
    engine::{advice::text, evidence::EvidenceMap},
    facts::CloseWaitSocket,
};

/// Stacks that the evidence lists.
const LISTED: usize = 3;
/// Stacks that are kept apart. A program opens connections in a few places, not in hundreds.
const STACKS: usize = 256;
/// Characters of a function's name in a sentence: names of generic code go on for lines.
const NAME: usize = 100;
/// How the C library's objects begin: its connect() tells nothing of who called it.
const C_LIBRARY: [&str; 5] = ["libc.so", "libc-", "libpthread", "ld-linux", "ld-musl"];
/// The same functions where they are linked into the program.
const CALLS: [&str; 7] = [
    "connect",
    "__connect",
    "__libc_connect",
    "accept",
    "accept4",
    "__libc_accept",
    "__libc_accept4",
];
/// How the functions between a program and the system call begin in Go and Rust.
const STANDARD_LIBRARIES: [&str; 8] =
    ["syscall.", "internal/", "runtime.", "runtime/", "net.", "std::", "<std::", "core::"];

/// The stacks of a group's sockets, most frequent first.
pub(crate) struct Stacks(Vec<(Arc<[String]>, u64)>);

impl Stacks {
    pub(crate) fn of(sockets: &[&CloseWaitSocket]) -> Self {
        let mut counts: BTreeMap<Arc<[String]>, u64> = BTreeMap::new();
        for stack in sockets.iter().filter_map(|socket| socket.stack.as_ref()) {
            let is_full = counts.len() >= STACKS;
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
    pub(crate) fn first(&self) -> Vec<String> {
        self.0.first().map(|(stack, _)| stack.to_vec()).unwrap_or_default()
    }

    /// How many sockets have each, and its functions, innermost first.
    pub(crate) fn evidence(&self) -> Vec<EvidenceMap> {
        let object = |(stack, count): &(Arc<[String]>, u64)| {
            let mut object = EvidenceMap::default();
            object
                .count("sockets", *count)
                .names("frames", stack.iter().map(|frame| Frame::parse(frame).short_name()));
            object
        };
        self.0.iter().take(LISTED).map(object).collect()
    }

    /// How many sockets have one.
    pub(crate) fn known(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }

    /// The function that opened most of the known ones, `connect_backend() (app)`, and how many.
    pub(crate) fn opener(&self) -> Option<(String, u64)> {
        let mut openers: BTreeMap<String, u64> = BTreeMap::new();
        for (stack, count) in &self.0 {
            *openers.entry(opener(stack)?).or_default() += count;
        }
        openers.into_iter().max_by_key(|(_, count)| *count)
    }
}

/// The innermost function that the program or a library of its choice has.
fn opener(stack: &[String]) -> Option<String> {
    let frames = || stack.iter().map(|frame| Frame::parse(frame));
    let frame = frames().find(|frame| !frame.is_standard()).or_else(|| frames().next())?;
    Some(frame.in_words())
}

/// One frame: `function+0x14 (object)`, or `0x55d0 (object)` where the function is not known.
struct Frame<'a> {
    text: &'a str,
    function: Option<&'a str>,
    object: &'a str,
}

impl<'a> Frame<'a> {
    fn parse(text: &'a str) -> Self {
        let text = match text.trim() {
            "" => "?",
            text => text,
        };
        // From the right: names of C++ have brackets of their own.
        let parts = text.rsplit_once(" (");
        let parts = parts.and_then(|(place, module)| Some((place, module.strip_suffix(')')?)));
        let (place, object) = parts.unwrap_or((text, ""));
        let function = place.rsplit_once("+0x").map(|(function, _)| function);
        Self { text, function: function.filter(|function| !function.is_empty()), object }
    }

    /// Whether it says nothing of who opened the connection.
    fn is_standard(&self) -> bool {
        let begins = |text: &str, with: &[&str]| with.iter().any(|it| text.starts_with(it));
        begins(self.object, &C_LIBRARY)
            || self.function.is_some_and(|function| {
                CALLS.contains(&function) || begins(function, &STANDARD_LIBRARIES)
            })
    }

    fn short_name(&self) -> String {
        text::shorten(self.function.unwrap_or(self.text), NAME)
    }

    fn in_words(&self) -> String {
        let name = self.short_name();
        if self.function.is_none() {
            return name;
        }
        // Demangled names may bring their arguments.
        let brackets = if name.ends_with(')') { "" } else { "()" };
        match self.object {
            "" => format!("{name}{brackets}"),
            object => format!("{name}{brackets} ({object})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_read_as_a_person_says_them() {
        let table = [
            ("connect_backend+0x14 (app)", "connect_backend", "connect_backend() (app)"),
            ("0x55d0 (app)", "0x55d0 (app)", "0x55d0 (app)"),
            ("0x7f00 ()", "0x7f00 ()", "0x7f00 ()"),
            ("Lcom/acme/Pool;::open+0x20 ()", "Lcom/acme/Pool;::open", "Lcom/acme/Pool;::open()"),
            ("open(int)+0x1 (app)", "open(int)", "open(int) (app)"),
            (
                "(anonymous namespace)::open+0x1 (a b)",
                "(anonymous namespace)::open",
                "(anonymous namespace)::open() (a b)",
            ),
            ("operator+(A (int))+0x1 (app)", "operator+(A (int))", "operator+(A (int)) (app)"),
            (" (", "(", "("),
            ("", "?", "?"),
        ];
        for (frame, name, words) in table {
            let frame = Frame::parse(frame);
            assert_eq!((&*frame.short_name(), &*frame.in_words()), (name, words));
        }
    }

    #[test]
    fn what_lies_between_a_program_and_the_system_call_did_not_open_a_connection() {
        let standard = [
            "connect+0x10 (libc.so.6)",
            "0x7f00 (libc-2.31.so)",
            "__libc_accept4+0x1 (app)",
            "internal/runtime/syscall.Syscall6+0xe (app)",
            "net.(*sysDialer).dialTCP+0x5c (app)",
            "std::sys::net::connection::socket::Socket::connect+0x1 (app)",
        ];
        for frame in standard {
            assert!(Frame::parse(frame).is_standard(), "{frame}");
        }
        for frame in [
            "connect_backend+0x1 (app)",
            "main.fetch+0x1 (app)",
            "0x1 (app)",
            "a+0x1 (libcurl.so.4)",
        ] {
            assert!(!Frame::parse(frame).is_standard(), "{frame}");
        }
    }
}
