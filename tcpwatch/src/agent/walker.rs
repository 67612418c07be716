//! The thread that takes inventories.
//!
//! A walk blocks and changes its thread's network namespace, so it has a thread of its own. It
//! gets one order at a time and answers each; it ends when nobody can give it any more.

use std::{io, sync::mpsc as blocking, thread::JoinHandle, time::Instant};

use tokio::sync::mpsc;

use crate::{
    facts::{Inventory, TableUse},
    kernel::{InventoryError, OwnerPolicy, Scope, Walker},
};

enum Order {
    TakeInventory(OwnerPolicy),
    Reconfigure { scope: Scope, close_wait_limit: usize },
}

/// When it began, and what came of it.
type Answer = (Instant, Result<(Inventory, Vec<TableUse>), InventoryError>);

pub(super) struct WalkerThread {
    orders: blocking::Sender<Order>,
    answers: mpsc::Receiver<Answer>,
    thread: JoinHandle<()>,
}

impl WalkerThread {
    pub(super) fn spawn(mut walker: Walker) -> io::Result<Self> {
        let (orders, received) = blocking::channel();
        let (answer, answers) = mpsc::channel(1);
        let work = move || {
            for order in received {
                match order {
                    Order::Reconfigure { scope, close_wait_limit } => {
                        walker.reconfigure(scope, close_wait_limit);
                    }
                    Order::TakeInventory(policy) => {
                        let began = Instant::now();
                        let inventory = walker.inventory(policy);
                        let inventory = inventory.map(|taken| (taken, walker.table_use()));
                        if answer.blocking_send((began, inventory)).is_err() {
                            break;
                        }
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("inventory".to_owned()).spawn(work)?;
        Ok(Self { orders, answers, thread })
    }

    /// Orders an inventory; [`answer`](Self::answer) brings it.
    pub(super) fn ask(&self, policy: OwnerPolicy) {
        self.order(Order::TakeInventory(policy));
    }

    pub(super) fn reconfigure(&self, scope: Scope, close_wait_limit: usize) {
        self.order(Order::Reconfigure { scope, close_wait_limit });
    }

    fn order(&self, order: Order) {
        self.orders.send(order).expect("the walker's thread ends only when it is told to");
    }

    /// The answer to the last order of an inventory. May be dropped and asked again.
    pub(super) async fn answer(&mut self) -> Answer {
        self.answers.recv().await.expect("the walker's thread ends only when it is told to")
    }

    /// Waits for the inventory under way, which takes milliseconds, and ends the thread; with it
    /// go the programs that it owns.
    pub(super) fn stop(self) {
        drop(self.orders);
        drop(self.answers);
        if self.thread.join().is_err() {
            tracing::error!("the walker's thread has panicked");
        }
    }
}
