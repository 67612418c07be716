//! The answers of the loop: scrapes, documents, pages and listings. Nothing here changes a judgement.

use super::{Agent, REVISION, VERSION, WALK_PATIENCE, log};
use crate::{
    facts::KernelCounters,
    kernel::{self, thread_cpu_time},
    publish::{
        AgentView, InventoryState, OrderedListing, Origin, Query, Status, View, WallClock,
        findings_json, history_json, render_page, status_json,
    },
};

impl Agent {
    /// Answers a query. A client that has gone meanwhile loses its answer.
    pub(super) fn answer(&mut self, query: Query) {
        match query {
            Query::Metrics(to) => {
                let _ = to.send(self.exposition());
            }
            Query::Findings(to) => {
                let wall = WallClock::at(kernel::now());
                let _ = to.send(findings_json(self.engine.findings(), &self.origin(), wall));
            }
            Query::History(to) => {
                let wall = WallClock::at(kernel::now());
                let findings = self.engine.findings();
                let _ = to.send(history_json(findings, &self.history, &self.origin(), wall));
            }
            Query::Status(to) => {
                let _ = to.send(self.status());
            }
            Query::Sockets(request, to) => {
                let selection = request.selection(self.engine.findings());
                let _ = to.send(selection.map(|selection| OrderedListing {
                    host: self.host.clone(),
                    version: VERSION,
                    listing: self.walker.list_sockets(selection.clone(), request.limit()),
                    selection,
                }));
            }
            Query::Events(request, to) => self.streaming.request(&request, to, &self.walker),
            Query::Page(to) => {
                let _ = to.send(self.page());
            }
            Query::Ready(to) => {
                let _ = to.send(self.ready());
            }
        }
    }

    /// The agent is ready when it has taken an inventory and none is stuck. A stuck one hangs in
    /// the kernel, on a socket that its owner keeps locked (`lock_sock` in the iterator, 5.15 and
    /// later).
    fn ready(&self) -> Result<(), String> {
        if !self.inventoried {
            return Err("the first inventory is under way".to_owned());
        }
        match self.ordered_at.map(|since| since.elapsed()) {
            Some(elapsed) if elapsed > WALK_PATIENCE => {
                Err(format!("an inventory has been under way for {} s", elapsed.as_secs()))
            }
            _ => Ok(()),
        }
    }

    fn page(&self) -> String {
        let counters = self.counters();
        render_page(&View {
            origin: self.origin(),
            wall: WallClock::at(kernel::now()),
            findings: self.engine.findings(),
            history: &self.history,
            samples: &self.engine.samples(),
            trends: &self.trends,
            limits: &self.limits,
            agent: AgentView {
                started: self.started,
                inventoried: self.last_inventory.map(|(finished, _)| finished),
                interval: self.interval(),
                ready: self.ready(),
                lost: counters.as_ref().map_or(&[], |counters| &counters.lost),
            },
        })
    }

    fn status(&mut self) -> String {
        let counters = self.counters();
        let status = Status {
            revision: REVISION,
            started: self.started,
            not_ready: self.ready().err(),
            inventory: InventoryState {
                interval: self.interval(),
                last: self.last_inventory,
                failures: self.failures.total,
            },
            findings: self.engine.findings(),
            lost: counters.as_ref().map_or(&[], |counters| &counters.lost),
            configuration_accepted: self.accepted,
        };
        status_json(&status, &self.origin(), WallClock::at(kernel::now()))
    }

    fn exposition(&mut self) -> String {
        self.handle_events();
        // A map that cannot be read leaves the counters as they were.
        if let Some(counters) = self.counters() {
            self.metrics.observe_counters(&counters);
        }
        let wall = WallClock::at(kernel::now());
        self.metrics.observe_loop(self.interval(), thread_cpu_time());
        self.metrics.observe_samples(&self.engine.samples(), wall);
        self.metrics.encode()
    }

    /// The origin of published documents: host, version, limits of sight.
    fn origin(&self) -> Origin<'_> {
        let (sockets, namespaces) = self.engine.size();
        Origin {
            host: Some(&self.host),
            version: VERSION,
            kernel: &self.kernel,
            sockets,
            namespaces,
            url: &self.url,
            hooks: Some(&self.hooks),
            not_seen: &self.not_seen,
        }
    }

    /// The counters of the kernel side, with what the agent lost itself.
    pub(super) fn counters(&self) -> Option<KernelCounters> {
        let mut counters = self.counters.read()?;
        let (dropped, malformed) = self.streaming.lost();
        counters.lost.push(("stream", dropped));
        counters.lost.push(("decode", self.ring.get_ref().malformed() + malformed));
        counters.lost.push(("inventory", self.failures.total));
        counters.lost.push(("owners", self.failures.look_ups));
        counters.lost.push(("chains", self.failures.chains));
        counters.lost.push(("descriptions", self.undescribed));
        counters.lost.push(("log", log::lost_lines()));
        Some(counters)
    }
}
