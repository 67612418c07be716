//! Connections that wait in an accept queue: no process holds them yet. Which processes are to
//! accept them, in words and as evidence.

use std::sync::Arc;

use crate::{
    engine::{advice::text, evidence::EvidenceMap},
    facts::{CloseWaitSocket, Listener, Namespace, Process},
};

/// The listener in whose queue such connections wait; they have its accepting process for owner.
pub(crate) struct Queued<'a>(Option<&'a Listener>);

impl<'a> Queued<'a> {
    pub(crate) fn of(namespace: &'a Namespace, socket: &CloseWaitSocket) -> Self {
        let pid = socket.owner.as_ref().map(|owner| owner.process.pid);
        let is_its = |listener: &&Listener| {
            let accepting = listener.accepting().map(|process| process.pid);
            listener.local.port == socket.local.port && accepting == pid && pid.is_some()
        };
        Self(namespace.listeners.iter().find(is_its))
    }

    /// Of several processes that hold the listener, those that accept.
    fn acceptors(&self) -> &'a [Arc<Process>] {
        self.0.map_or(&[], |listener| &listener.acceptors)
    }

    /// The calls that free them, and the processes that accept.
    pub(crate) fn explanation(&self, waiting: u64, total: u64) -> String {
        let (waiting, total) = (text::number(waiting), text::number(total));
        let mut text = format!(
            "The peers have closed before accept() returned their connections. {waiting} of {total} \
             wait in the accept queue: the thread that calls accept() is stuck or too slow. accept() \
             and close() free them, or the end of the last process that holds the listener."
        );
        let holders = self.0.and_then(|it| it.owner.as_ref()).map_or(1, |it| it.holders.into());
        let names: Vec<String> =
            self.acceptors().iter().map(|process| text::named(Some(process))).collect();
        if !names.is_empty() {
            text.push_str(&format!(
                " Of the {} that hold the listener, {} accept{}.",
                text::count(holders, "process"),
                names.join(", "),
                if names.len() == 1 { "s" } else { "" }
            ));
        }
        text
    }

    /// The processes that accept, of several that hold the listener.
    pub(crate) fn evidence(&self, evidence: &mut EvidenceMap) {
        let objects = self.acceptors().iter().map(|process| {
            let mut object = EvidenceMap::default();
            object.process(process);
            object
        });
        evidence.list("acceptors", objects);
    }

    /// How to free them by the end of one worker; `None` where that is not enough.
    pub(crate) fn remedy(&self) -> Option<String> {
        let [worker] = self.acceptors() else { return None };
        let pid = worker.pid;
        if pid == 1 {
            return None;
        }
        Some(format!(
            "To free the sockets now: end {} (`kill {pid}`, or `kill -9 {pid}` if it hangs); most pools \
             then start another worker, which accepts what waits.",
            text::named(Some(worker))
        ))
    }
}
