//! The harm that TIME_WAIT does: to the ports of a destination, and to connects that find none.

use std::collections::BTreeMap;

use crate::{
    config::{EphemeralPortExhaustion, Overridable},
    engine::{
        finding::Severity,
        groups::{
            destinations::{Destination, key_of},
            port_users::SHARE_LEAST,
        },
    },
    facts::{ConnectFailure, DestinationUse, Event, Namespace, NoConnect, TcpState, Timestamp},
};

/// Destinations whose failures are remembered.
const DESTINATIONS: usize = 256;

/// The harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Harm {
    /// Nothing.
    None,
    /// A destination nears its last port.
    PortsRunOut,
    /// A connect() has found none.
    ConnectsFail,
}

impl Harm {
    /// The worst that a finding can be.
    pub(super) const fn most(self) -> Severity {
        match self {
            Self::None => Severity::Info,
            Self::PortsRunOut => Severity::Warning,
            Self::ConnectsFail => Severity::Critical,
        }
    }
}

/// When a connect() last found no port.
#[derive(Debug, Default)]
pub(super) struct Failures(BTreeMap<Destination, Timestamp>);

impl Failures {
    pub(super) fn handle_event(&mut self, event: &Event) {
        let Event::ConnectFailed { at, netns, local, peer, reason, no_connect, .. } = event else {
            return;
        };
        // A socket's own range is no measure of the namespace's ports.
        let lacks_port = matches!(no_connect, None | Some(NoConnect::Range));
        if *reason != ConnectFailure::NoLocalPort || !lacks_port {
            return;
        }
        let key = Destination { netns: *netns, local: local.address, peer: *peer };
        if let Some(last) = self.0.get_mut(&key) {
            *last = (*last).max(*at);
        } else if self.0.len() < DESTINATIONS {
            self.0.insert(key, *at);
        }
    }

    pub(super) fn forget(&mut self, is_over: impl Fn(Timestamp) -> bool) {
        self.0.retain(|_, last| !is_over(*last));
    }

    /// The worst in a namespace.
    pub(super) fn harm(
        &self,
        namespace: &Namespace,
        ports: &Overridable<EphemeralPortExhaustion>,
    ) -> Harm {
        let mut harm = Harm::None;
        let all = namespace.ports.worst.iter().chain(&namespace.ports.busy);
        for destination in all.filter(|it| has_time_wait(it)) {
            if self.0.contains_key(&key_of(namespace, destination)) {
                return Harm::ConnectsFail;
            }
            let available = f64::from(namespace.ports.available.max(1));
            let warning = ports.of(None, destination.peer.port).warning;
            if f64::from(destination.used) / available >= warning {
                harm = Harm::PortsRunOut;
            }
        }
        harm
    }
}

/// Whether TIME_WAIT takes a part of its ports that counts. A recording of an older version does not
/// say it.
fn has_time_wait(destination: &DestinationUse) -> bool {
    let least = f64::from(destination.used) * SHARE_LEAST;
    destination.states.is_none_or(|states| {
        let time_wait = states.get(TcpState::TimeWait);
        time_wait > 0 && time_wait as f64 >= least
    })
}
