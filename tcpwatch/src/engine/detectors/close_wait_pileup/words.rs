//! A pileup in words: title and explanation.

use std::time::Duration;

use super::{
    pool::{Course, Descriptors, Judged},
    relay::Relay,
    services::Services,
    stacks::Stacks,
    turnover::Leaving,
};
use crate::{
    engine::{
        advice::text,
        finding::{Severity, Subject},
        groups::{
            held::{Held, Holders},
            owners::service,
            queued::Queued,
        },
    },
    facts::{CloseWaitSocket, Namespace, Role, Timestamp, Unread, saturating_sum},
};

/// A pileup, to be put into words.
pub(super) struct Group<'a> {
    pub(super) namespace: &'a Namespace,
    pub(super) sockets: &'a [&'a CloseWaitSocket],
    pub(super) holders: &'a Holders<'a, CloseWaitSocket>,
    pub(super) now: Timestamp,
    pub(super) window: Duration,
    /// Further sockets of the owner, on which data is still sent.
    pub(super) half_closed: u64,
    pub(super) severity: Severity,
    pub(super) relay: Option<Relay>,
    pub(super) shown: &'a Judged,
    /// The process whose descriptors run out, else what is shown.
    pub(super) worst: &'a Judged,
}

/// How most of the sockets were left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// They wait in an accept queue.
    Unaccepted,
    /// They are older than the process that holds them.
    Inherited,
    /// See [`Unread`].
    Left(Unread),
}

impl Group<'_> {
    pub(super) fn oldest(&self) -> &CloseWaitSocket {
        self.sockets
            .iter()
            .min_by_key(|socket| socket.since)
            .expect("a group has at least one socket")
    }

    pub(super) fn oldest_age(&self) -> Duration {
        self.now.since(self.oldest().since)
    }

    /// `nginx (pid 12) and 3 more processes of nginx.service keep`.
    fn holder_in_words(&self, subject: &Subject) -> String {
        let name = match (&subject.process, subject.pid) {
            (Some(name), Some(pid)) => text::named_as(name, pid),
            _ => text::named(None),
        };
        let is_named = |name: &&str| !name.is_empty();
        let container = subject.container.as_deref().filter(is_named);
        let container = container.map(|name| format!(" of container {name}"));
        match self.holders.len() as u64 {
            0 | 1 => format!("{name}{} keeps", container.unwrap_or_default()),
            processes => {
                let unit = subject.unit.as_deref().filter(is_named);
                let unit = unit.map(|name| format!(" of {name}"));
                let of = container.or(unit).unwrap_or_default();
                format!("{name} and {}{of} keep", text::count(processes - 1, "more process"))
            }
        }
    }

    pub(super) fn title(&self, subject: &Subject, services: &Services<'_>) -> String {
        let holder = self.holder_in_words(subject);
        let what = services.in_words(self.reading() == Reading::Unaccepted);
        let at_least = if self.oldest().since_exact { "" } else { "at least " };
        let age = text::duration(self.oldest_age());
        // A container's namespace has its name.
        let is_named = subject.container.as_deref() == Some(&*self.namespace.name);
        let netns = if is_named { String::new() } else { text::in_netns(&self.namespace.name) };
        let beyond = match self.beyond(services) {
            0 => String::new(),
            beyond => {
                format!("; {} more of that service were too many to look at", text::number(beyond))
            }
        };
        let near = match self.worst.descriptors {
            Some(Descriptors { open, limit, .. }) if self.worst.is_near_limit => {
                let (open, limit) = (text::number(open), text::number(limit));
                format!("; {open} of {limit} descriptors are open")
            }
            _ => String::new(),
        };
        let cause = match (&self.relay, self.reading()) {
            (Some(Relay { process: Some(process), .. }), _) => {
                format!("; {} behind it does not close", text::named(Some(process)))
            }
            (Some(Relay { peer, .. }), _) => format!("; {peer} behind it does not close"),
            (None, Reading::Inherited) => "; they are inherited".to_owned(),
            (None, _) => String::new(),
        };
        format!("{holder} {what}{netns}, the oldest for {at_least}{age}{cause}{near}{beyond}")
    }

    /// Sockets of the same services that were counted, not described: whose they are is not known.
    pub(super) fn beyond(&self, services: &Services<'_>) -> u64 {
        let beyond = &self.namespace.close_wait_beyond;
        saturating_sum(services.iter().filter_map(|service| beyond.get(&service).copied()))
    }

    pub(super) fn count_of(&self, unread: Unread) -> u64 {
        self.sockets.iter().filter(|socket| socket.unread() == unread).count() as u64
    }

    pub(super) fn unaccepted(&self) -> u64 {
        self.sockets.iter().filter(|socket| socket.unaccepted).count() as u64
    }

    /// Those that were there before their process was, which data proves that was acknowledged
    /// earlier.
    pub(super) fn inherited(&self) -> u64 {
        let is_inherited = |socket: &&&CloseWaitSocket| {
            let begun = socket.process().map(|process| process.started);
            let delivered = socket.progress.map(|progress| progress.delivered);
            let is_known = |time: &Timestamp| *time != Timestamp::default();
            match (delivered.filter(is_known), begun.filter(is_known)) {
                (Some(delivered), Some(begun)) => delivered < begun,
                _ => false,
            }
        };
        self.sockets.iter().filter(is_inherited).count() as u64
    }

    /// How most of them were left.
    pub(super) fn reading(&self) -> Reading {
        let are_most = |count: u64| count * 2 > self.sockets.len() as u64;
        let (nothing, end, data) = (
            self.count_of(Unread::Nothing),
            self.count_of(Unread::End),
            self.count_of(Unread::Data),
        );
        if are_most(self.unaccepted()) {
            Reading::Unaccepted
        } else if are_most(self.inherited()) {
            Reading::Inherited
        } else if nothing >= end && nothing >= data {
            Reading::Left(Unread::Nothing)
        } else if end >= data {
            Reading::Left(Unread::End)
        } else {
            Reading::Left(Unread::Data)
        }
    }

    pub(super) fn explanation(&self, stacks: &Stacks, services: &Services<'_>) -> String {
        let total = self.sockets.len() as u64;
        let processes =
            if self.holders.len() > 1 { "these processes free" } else { "this process frees" };
        let mut text = match self.queued() {
            Some(queued) => queued.explanation(self.unaccepted(), total),
            None => format!(
                "The peers have closed; only close() by {processes} the sockets. {}",
                self.reading_in_words()
            ),
        };
        if self.half_closed > 0 {
            text.push_str(&format!(
                " {} more of this owner are half-closed on purpose, data is still acknowledged on \
                 them: they are not counted.",
                text::number(self.half_closed)
            ));
        }
        if self.shown.grows {
            text.push_str(" Their number keeps growing.");
        } else if let Some(most) = self.shown.grown_to {
            text.push_str(&format!(
                " Their number has grown to {}. The growth pauses, and the finding stands until a \
                 tenth of them is closed.",
                text::number(most)
            ));
        }
        text.push_str(&self.reading_of_verdict());
        text.push_str(&self.reading_of_info());
        if let Some((opener, count)) = stacks.opener() {
            let known = stacks.known();
            let is_of_all = (count == known, known == total);
            let [count, known, total] = [count, known, total].map(text::number);
            let of = match is_of_all {
                (true, true) => "All".to_owned(),
                (false, true) => format!("{count} of {total}"),
                // The others were open before the stacks were recorded.
                (true, false) => format!("All {known} whose opening was seen"),
                (false, false) => format!("{count} of the {known} whose opening was seen"),
            };
            text.push_str(&format!(" {of} were opened by {opener}."));
        }
        text.push_str(&self.reading_of_descriptors(services));
        text
    }

    /// The accept queue in which most of them wait.
    pub(super) fn queued(&self) -> Option<Queued<'_>> {
        if self.relay.is_some() || self.reading() != Reading::Unaccepted {
            return None;
        }
        let waiting = self.sockets.iter().find(|socket| socket.unaccepted)?;
        Some(Queued::of(self.namespace, waiting))
    }

    fn reading_in_words(&self) -> String {
        let total = self.sockets.len();
        if let Some(Relay { sockets, peer, process }) = &self.relay {
            let behind = match process {
                Some(process) => format!("{} on this host", text::named(Some(process))),
                None => format!("{peer}"),
            };
            return format!(
                "It is a relay that has passed the end on: it also holds {} in FIN_WAIT2 to {peer}. \
                 {behind} does not close them, so the relay cannot end either half.",
                text::count(*sockets, "connection")
            );
        }
        let (number, reading) = match self.reading() {
            Reading::Unaccepted => {
                let reading = "wait in the accept queue: the thread that calls accept() is stuck \
                               or too slow.";
                (self.unaccepted(), reading)
            }
            Reading::Inherited => {
                let reading = "are older than the process that holds them: it inherited their \
                               descriptors from what started it, and may not know of them.";
                (self.inherited(), reading)
            }
            // The next sentence says why: a pool that is stale.
            Reading::Left(Unread::Nothing) if !self.reading_of_info().is_empty() => {
                (self.count_of(Unread::Nothing), "were read to the end (Recv-Q 0) and not closed.")
            }
            Reading::Left(Unread::Nothing) => {
                let reading = "were read to the end (Recv-Q 0) and not closed: a code path sees \
                               the end of the stream, or an error, and does not close the socket.";
                (self.count_of(Unread::Nothing), reading)
            }
            Reading::Left(Unread::End) => {
                let reading = "were not read since (Recv-Q 1, only the FIN): they lie in a pool, \
                               or with a thread, that never looks at them again.";
                (self.count_of(Unread::End), reading)
            }
            Reading::Left(Unread::Data) => {
                let reading = "hold unread data: the process has stopped reading, and closing \
                               them will send resets.";
                (self.count_of(Unread::Data), reading)
            }
        };
        format!("{} of {} {reading}", text::number(number), text::number(total as u64))
    }

    fn reading_of_verdict(&self) -> String {
        let (Some(verdict), Some(Leaving { followed, left })) =
            (self.shown.course, self.shown.leaving)
        else {
            return String::new();
        };
        let window = text::duration(self.window);
        let [followed, left_in_words] = [followed, left].map(text::number);
        match verdict {
            // The finding of the other end says it.
            _ if self.relay.is_some() => String::new(),
            Course::Leak if left == 0 => {
                format!(" This is a leak: more come and none of {followed} watched left.")
            }
            Course::Leak => format!(
                " This is a leak: more come, and within {window} only {left_in_words} left while \
                 {followed} were watched."
            ),
            Course::Stuck => " They are stuck: their number does not grow and they do not leave; \
                a thread hangs, or a pool keeps them."
                .to_owned(),
            Course::Slow => format!(
                " They are closed in the end, but late: within {window} {left_in_words} left while \
                 {followed} were watched."
            ),
        }
    }

    /// Why it is no more than info.
    fn reading_of_info(&self) -> String {
        // A pool reads nothing, or only the end.
        let is_pool = matches!(self.reading(), Reading::Left(Unread::Nothing | Unread::End));
        match (self.severity, self.holders.first()) {
            (Severity::Info, _) if self.relay.is_some() || !is_pool => String::new(),
            (Severity::Info, Some((_, most))) if self.holders.len() > 1 => format!(
                " No process has more than {}: such pools go stale when a server closes idle \
                 connections, and stay bounded. It is a leak if ever more come.",
                most.len()
            ),
            (Severity::Info, _) if self.oldest().role == Role::Client => {
                " A pool whose server has closed idle connections holds as many, and stays \
                 bounded. It is a leak if ever more come."
                    .to_owned()
            }
            _ => String::new(),
        }
    }

    fn reading_of_descriptors(&self, services: &Services<'_>) -> String {
        let Some(Descriptors { open, limit, minutes_left, .. }) = self.worst.descriptors else {
            return String::new();
        };
        let (open, limit) = (text::number(open), text::number(limit));
        let state = format!(" {open} of {limit} descriptors are open");
        let Some(minutes) = minutes_left else { return format!("{state}.") };
        let call = match services.role() {
            Some(Role::Client) => "socket()",
            Some(Role::Server) => "accept()",
            None => "socket(), accept()",
        };
        let left = text::minutes(minutes);
        format!("{state}; at this growth {call} and open() fail in {left}.")
    }

    /// The container or unit that several processes are in.
    pub(super) fn service(&self) -> Option<&str> {
        let (_, held) = self.holders.first().filter(|_| self.holders.len() > 1)?;
        service(held.first()?.process()?)
    }
}
