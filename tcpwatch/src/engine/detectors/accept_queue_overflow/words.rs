//! A queue that overflows, or is not served, in words: title, explanation, evidence, remedies.

use std::time::Duration;

use super::{place::Place, queue::Course};
use crate::{
    engine::{
        advice::text,
        evidence::EvidenceMap,
        finding::{FindingKind, Severity, Subject, Verdict},
    },
    facts::{Listener, TcpState},
};

/// An overflow, to be put into words.
pub(crate) struct Overflow<'a> {
    pub(crate) place: &'a Place<'a>,
    pub(super) course: &'a Course,
    /// The listener that accepts nothing while many wait, and for how long at least.
    pub(crate) stalled: Option<(&'a Listener, Duration)>,
    /// It is over in seconds.
    pub(crate) is_burst: bool,
}

impl Overflow<'_> {
    pub(crate) fn verdict(&self, id: String, severity: Severity) -> Option<Verdict> {
        let listener = self.listener()?;
        let subject = self.subject(listener);
        Some(Verdict {
            id,
            kind: FindingKind::AcceptQueueOverflow,
            severity,
            title: self.title(listener),
            explanation: self.explanation(listener),
            evidence: self.evidence(listener),
            remedies: self.remedies(listener, &subject),
            subject,
        })
    }

    fn listener(&self) -> Option<&Listener> {
        self.stalled.map(|(listener, _)| listener).or_else(|| self.place.worst())
    }

    /// The listener, with a process that is to accept.
    fn subject(&self, listener: &Listener) -> Subject {
        let mut subject = Subject::of_listener(self.place.namespace, listener);
        if let Some(process) = listener.acceptors.first()
            && subject.pid != Some(process.pid)
        {
            subject.set_process(process);
            // Its own are not known.
            subject.fds.clear();
        }
        subject
    }

    fn title(&self, listener: &Listener) -> String {
        let who = text::named(listener.accepting());
        let netns = text::in_netns(&self.place.namespace.name);
        let local = listener.local;
        let [waiting, limit] = [listener.accept_queue, listener.accept_limit].map(text::number);
        let queue = if listener.is_full() && self.is_burst {
            format!("it is full ({waiting} wait, the limit is {limit})")
        } else if listener.is_full() {
            format!("its accept queue is full ({waiting} wait, the limit is {limit})")
        } else {
            format!("{waiting} wait now, the limit is {limit}")
        };
        let dropped = match self.course.moves.total {
            0 => String::new(),
            1 => ", 1 attempt to connect was dropped".to_owned(),
            dropped => format!(", {} attempts to connect were dropped", text::number(dropped)),
        };
        let workers = match listener.acceptors.len() as u64 {
            0 | 1 => String::new(),
            many => format!(" and {}", text::count(many - 1, "more process")),
        };
        match self.stalled {
            Some((_, age)) => format!(
                "{who}{workers} accepted nothing on {local}{netns} for at least {}: {queue}{dropped}",
                text::duration(age)
            ),
            None if self.is_burst => {
                format!("the accept queue of {who} overflowed on {local}{netns}: {queue}{dropped}")
            }
            None => format!(
                "{who}{workers} {} not accept fast enough on {local}{netns}: {queue}{dropped}",
                if workers.is_empty() { "does" } else { "do" }
            ),
        }
    }

    fn explanation(&self, listener: &Listener) -> String {
        let at_the_limit = match self.place.namespace.abort_on_overflow {
            Some(true) => {
                "When the queue is full the kernel resets the client that sends its last ACK \
                 (net.ipv4.tcp_abort_on_overflow is 1 here): it is refused and does not wait. A \
                 SYN is dropped, and the client sends it again after a second."
            }
            _ => {
                "When the queue is full the kernel drops the client's last ACK, so that the client \
                 believes it is connected and waits, or its SYN, which it sends again after a \
                 second."
            }
        };
        let mut text = format!(
            "The kernel completes the handshake; the connection then waits until the process calls \
             accept(). {at_the_limit} Each try that is dropped counts."
        );
        if self.is_burst {
            text.push_str(" So far it has lasted no longer than a burst of clients.");
        }
        if self.stalled.is_some() {
            text.push_str(
                " The connection at the head of the queue is the same as before, so nothing was \
                 accepted.",
            );
        }
        if self.is_idle(listener) {
            text.push_str(&format!(
                " {} holds no accepted connection of this port, and none of its threads waits for \
                 one in accept(), poll() or epoll. Either its accepting thread hangs, or it is not \
                 the server: it inherited the listener from the program that started it.",
                text::named(listener.accepting())
            ));
        }
        text
    }

    /// Whether the holder does nothing with the listener, as far as it was looked at: no thread waits
    /// for connections, no process holds one that was accepted, and since the look before none was.
    fn is_idle(&self, listener: &Listener) -> bool {
        let here = |local_port| local_port == listener.local.port;
        let mut holders = self.place.namespace.port_holders.iter().filter(|it| here(it.local.port));
        let was_looked_at = holders.clone().any(|holder| holder.state == TcpState::Listen);
        let has_accepted = holders
            .any(|holder| holder.state != TcpState::Listen && holder.owner.is_some())
            || self
                .place
                .namespace
                .close_wait
                .iter()
                .any(|it| here(it.local.port) && !it.unaccepted);
        let is_stuck = self.course.stalled.contains_key(&listener.id);
        is_stuck
            && listener.accepting().is_some()
            && listener.awaited == Some(false)
            && was_looked_at
            && !has_accepted
    }

    fn evidence(&self, listener: &Listener) -> EvidenceMap {
        let Place { namespace, listeners } = self.place;
        let half_open = listeners.iter().map(|listener| u64::from(listener.half_open)).sum();
        let mut evidence = EvidenceMap::default();
        evidence
            .count("waiting_connections", u64::from(listener.accept_queue))
            .count("limit_connections", u64::from(listener.accept_limit))
            .count("dropped_attempts", self.course.moves.total)
            .count("dropped_attempts_in_window", self.course.moves.in_window)
            .count("half_open_connections", half_open);
        if listeners.len() > 1 {
            evidence.count("listeners", listeners.len() as u64);
        }
        if let Some((_, age)) = self.stalled {
            evidence.number("nothing_accepted_seconds", age.as_secs_f64());
        }
        if let Some(somaxconn) = namespace.somaxconn {
            evidence.count("somaxconn_connections", somaxconn);
        }
        if let Some(aborts) = namespace.abort_on_overflow {
            evidence.flag("tcp_abort_on_overflow", aborts);
        }
        if let Some(awaited) = listener.awaited {
            evidence.flag("listener_awaited", awaited);
        }
        if self.is_idle(listener) {
            evidence.flag("listener_unattended", true);
        }
        if let Some(owner) = listener.owner.as_ref().filter(|owner| owner.holders > 1) {
            evidence.count("listener_processes", u64::from(owner.holders));
        }
        evidence.list(
            "acceptors",
            listener.acceptors.iter().map(|process| {
                let mut object = EvidenceMap::default();
                object.process(process);
                object
            }),
        );
        evidence
    }

    fn remedies(&self, listener: &Listener, subject: &Subject) -> Vec<String> {
        let port = listener.local.port;
        let look = text::in_its_namespace(subject, &format!("ss -ltnp '( sport = :{port} )'"));
        let mut remedies =
            vec![format!("Look at it: {look} (Recv-Q is what waits, Send-Q the limit)")];
        if subject.pid == Some(1) {
            remedies.push(format!("{}.", text::SOCKET_UNIT));
            remedies.push(
                "If the service is not needed: stop and disable its socket unit, so that clients are \
                 refused and do not wait."
                    .to_owned(),
            );
            return remedies;
        }
        if self.is_idle(listener) {
            let who = text::named(listener.accepting());
            if let Some(pid) = subject.pid {
                remedies.push(format!(
                    "See what {who} is: `ps -fp {pid}`. It may be the server, or a \
                     program that inherited the listener."
                ));
            }
            remedies.push(format!(
                "If it is the server: dump its threads, {}. Find what keeps the accepting one: a \
                 lock, a slow upstream, or no file descriptor left (EMFILE). Then {}",
                text::dump(subject.pid),
                text::restart(subject)
            ));
            if let Some(pid) = subject.pid {
                remedies.push(format!(
                    "If it inherited the listener: end it (`kill {pid}`); the port is free once its last \
                     holder has gone. In the program that opened the listener set SOCK_CLOEXEC or \
                     FD_CLOEXEC, so that no program that it starts inherits it."
                ));
            }
            return remedies;
        }
        if self.stalled.is_some() {
            remedies.push(text::dump_threads(
                subject,
                &text::named(listener.accepting()),
                "what keeps the accepting one: a lock, a slow upstream, or no file descriptor left \
                 (EMFILE)",
            ));
        } else {
            remedies.push(
                "In the program: accept in a loop of its own and hand the work on; more workers if \
                 all of them are busy."
                    .to_owned(),
            );
        }
        remedies.push(self.longer_queue(listener.accept_limit.into()));
        remedies
    }

    /// Which of backlog and somaxconn is the limit, and how to raise it.
    fn longer_queue(&self, limit: u64) -> String {
        let again = "the program must listen() again";
        let Some(somaxconn) = self.place.namespace.somaxconn else {
            return format!(
                "For bursts a longer queue: a larger backlog in listen(), now {limit}, and \
                 net.core.somaxconn, which cuts it; {again}."
            );
        };
        let [limit_in_words, cut] = [limit, somaxconn].map(text::number);
        if limit < somaxconn {
            format!(
                "For bursts a longer queue: a larger backlog in listen(), now {limit_in_words}; \
                 {again}. net.core.somaxconn is {cut} and is not what cuts."
            )
        } else if limit == somaxconn {
            format!(
                "For bursts a longer queue: a larger net.core.somaxconn, which is {cut} and \
                 cuts there, then a backlog in listen() as large; {again}."
            )
        } else {
            format!(
                "net.core.somaxconn is {cut} now and was larger when the program listened: \
                 after a restart the queue is shorter than {limit_in_words}."
            )
        }
    }
}
