//! The thread that takes inventories.
//!
//! A walk blocks and may change its thread's network namespace, so it has a thread of its own. It
//! gets one order at a time and answers each; listings of sockets go straight to the client that
//! requested them. It ends when the sender of orders is dropped.

use std::{
    any::Any,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc as blocking,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use crate::{
    facts::{Focus, Inventory, PassTotals, SocketListing, SocketSelection, TableUse},
    kernel::{InventoryError, OwnerPolicy, Scope, Walker, thread_cpu_time},
};

/// How long an inventory under way is waited for at the end. Whatever it still holds then goes with
/// the process.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

pub(super) enum Order {
    TakeInventory(OwnerPolicy, Focus),
    NameNamespaces(oneshot::Sender<Vec<(u32, Arc<str>)>>),
    ListSockets(SocketSelection, usize, oneshot::Sender<Result<SocketListing, String>>),
    Reconfigure { scope: Scope, close_wait_limit: usize },
}

/// The result of an order of an inventory.
pub(super) struct Answer {
    /// When it began.
    pub(super) began: Instant,
    /// Processor time that it took.
    pub(super) cpu_time: Duration,
    /// Owner look-ups that have failed so far.
    pub(super) failed_look_ups: u64,
    pub(super) passes: PassTotals,
    /// The inventory, and how full its tables were.
    pub(super) outcome: Result<(Inventory, Vec<TableUse>), InventoryError>,
}

pub(super) struct WalkerThread {
    orders: blocking::Sender<Order>,
    stop: Arc<AtomicBool>,
    answers: mpsc::Receiver<Answer>,
    thread: JoinHandle<()>,
}

impl WalkerThread {
    pub(super) fn spawn(mut walker: Walker) -> io::Result<Self> {
        let stop = walker.stop_flag();
        Self::spawn_with(stop, move |order| match order {
            Order::Reconfigure { scope, close_wait_limit } => {
                walker.reconfigure(scope, close_wait_limit);
                None
            }
            Order::NameNamespaces(to) => {
                let _ = to.send(walker.namespace_names());
                None
            }
            Order::ListSockets(selection, limit, to) => {
                // A client that has gone needs no listing any more.
                if !to.is_closed() {
                    let listing = walker.list_sockets(&selection, limit);
                    let _ = to.send(listing.map_err(|error| error.to_string()));
                }
                None
            }
            Order::TakeInventory(policy, focus) => Some(take(&mut walker, policy, &focus)),
        })
    }

    /// `handle` handles an order, and returns the answer to an order of an inventory.
    pub(super) fn spawn_with(
        stop: Arc<AtomicBool>,
        mut handle: impl FnMut(Order) -> Option<Answer> + Send + 'static,
    ) -> io::Result<Self> {
        let (orders, received) = blocking::channel();
        let (answer, answers) = mpsc::channel(1);
        let work = move || {
            for order in received {
                if let Some(came) = handle(order)
                    && answer.blocking_send(came).is_err()
                {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new().name("inventory".to_owned()).spawn(work)?;
        Ok(Self { orders, stop, answers, thread })
    }

    /// Orders an inventory; [`answer`](Self::answer) brings it.
    pub(super) fn take_inventory(&self, policy: OwnerPolicy, focus: Focus) {
        self.order(Order::TakeInventory(policy, focus));
    }

    /// Orders a listing of at most `limit` sockets, which follows the inventory under way.
    pub(super) fn list_sockets(
        &self,
        selection: SocketSelection,
        limit: usize,
    ) -> oneshot::Receiver<Result<SocketListing, String>> {
        let (to, listing) = oneshot::channel();
        self.order(Order::ListSockets(selection, limit, to));
        listing
    }

    /// Orders the names of network namespaces, by inode number; they follow the inventory under way.
    pub(super) fn name_namespaces(&self) -> oneshot::Receiver<Vec<(u32, Arc<str>)>> {
        let (to, names) = oneshot::channel();
        self.order(Order::NameNamespaces(to));
        names
    }

    pub(super) fn reconfigure(&self, scope: Scope, close_wait_limit: usize) {
        self.order(Order::Reconfigure { scope, close_wait_limit });
    }

    /// An order to a thread that has ended is lost; [`answer`](Self::answer) reports that end.
    fn order(&self, order: Order) {
        let _ = self.orders.send(order);
    }

    /// The answer to the last order of an inventory, `None` if the thread has ended. May be dropped
    /// and called again.
    pub(super) async fn answer(&mut self) -> Option<Answer> {
        self.answers.recv().await
    }

    /// Ends the thread; with it go the programs that it owns. Returns its panic, if that ended it.
    pub(super) fn stop(self) -> Option<Box<dyn Any + Send>> {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.orders);
        drop(self.answers);
        let began = Instant::now();
        while !self.thread.is_finished() {
            if began.elapsed() > STOP_PATIENCE {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.thread.join().err()
    }
}

fn take(walker: &mut Walker, policy: OwnerPolicy, focus: &Focus) -> Answer {
    let began = Instant::now();
    let before = thread_cpu_time();
    let inventory = walker.inventory(policy, focus);
    let outcome = inventory.map(|inventory| (inventory, walker.table_use()));
    Answer {
        began,
        cpu_time: thread_cpu_time().saturating_sub(before),
        failed_look_ups: walker.failed_look_ups(),
        passes: walker.passes(),
        outcome,
    }
}
