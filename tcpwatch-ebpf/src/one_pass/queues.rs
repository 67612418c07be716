//! The accept queue of a listener, a connection in each step: in whose queue one waits that its peer has
//! closed. [`note_queue`](crate::judge::note_queue) does the same for the iterator.

use tcpwatch_common::{Pass, QueueOf};

use super::GO_ON;
use crate::{
    accept_queue::{Request, RequestFields, state_at},
    judge::QUEUE_LOOK,
    maps::{self, QUEUES},
    memory::Copied,
    sock::{Sock, state},
};

/// Begins with the queue of this listener, if any connection waits there.
#[inline(always)]
pub(super) fn begin(sk: Sock<Copied>, pass: &mut Pass) {
    let mut address = 0;
    if let Some(tcp) = sk.tcp()
        && tcp.0.accept_queue() != 0
    {
        pass.owners = sk.address(&mut address);
        pass.owner = tcp.first_in_queue(&mut address).0;
        pass.bound_seen = 0;
    }
}

/// Looks at the next connection. A slice never ends within a queue.
#[inline(always)]
pub(super) fn step(pass: &mut Pass) -> i64 {
    let Some(fields) = RequestFields::read() else {
        pass.owner = 0;
        return GO_ON;
    };
    let request = Request(pass.owner);
    let sk = request.socket(fields, pass.owners);
    pass.bound_seen += 1;
    if sk == 0 || pass.bound_seen > QUEUE_LOOK {
        pass.owner = 0;
        return GO_ON;
    }
    if state_at(sk) == state::CLOSE_WAIT
        && let Some(walk) = maps::walk()
    {
        let queue = QueueOf { listener: pass.owners, generation: walk.generation, reserved: 0 };
        // A full LRU map evicts an old entry.
        let _ = QUEUES.insert(&sk, &queue, 0);
    }
    pass.owner = request.next(fields).0;
    GO_ON
}
