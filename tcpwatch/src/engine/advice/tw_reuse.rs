//! The effect of `net.ipv4.tcp_tw_reuse` on a destination: the value by itself says little.
//!
//! 0 never, 1 always, 2 over loopback; each only with TCP timestamps, and after a second
//! (`tcp_twsk_unique`).

use crate::{
    engine::{advice::text, finding::Subject},
    facts::{PortUse, TwReuse},
};

/// The setting as it applies to one destination.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeWaitReuse {
    value: TwReuse,
    timestamps: bool,
    /// `None` where the destination is not known.
    loopback: Option<bool>,
}

impl TimeWaitReuse {
    pub(crate) const fn new(ports: &PortUse, loopback: Option<bool>) -> Self {
        Self { value: ports.tw_reuse, timestamps: ports.timestamps, loopback }
    }

    /// As sysctl prints it.
    pub(crate) fn value(self) -> u64 {
        u64::from(self.value.number())
    }

    /// Whether connect() takes ports in TIME_WAIT again.
    pub(crate) const fn works(self) -> bool {
        let allowed = match self.value {
            TwReuse::Never => false,
            TwReuse::Always => true,
            TwReuse::Loopback => matches!(self.loopback, Some(true)),
        };
        allowed && self.timestamps
    }

    /// Its effect on the ports, as a sentence.
    pub(crate) const fn meaning(self) -> &'static str {
        match self.value {
            TwReuse::Never => "TIME_WAIT holds a port for 60 s more, because tcp_tw_reuse is 0.",
            TwReuse::Always if self.timestamps => {
                "Ports in TIME_WAIT are free again after a second (tcp_tw_reuse is 1), so these \
                 are open connections."
            }
            TwReuse::Loopback if self.works() => {
                "Ports in TIME_WAIT are free again after a second, because this destination is \
                 loopback and tcp_tw_reuse is 2."
            }
            TwReuse::Loopback if self.timestamps => {
                "TIME_WAIT holds a port for 60 s more: tcp_tw_reuse is 2 (loopback only), and this \
                 destination is not loopback."
            }
            TwReuse::Always | TwReuse::Loopback => {
                "TIME_WAIT holds a port for 60 s more: tcp_tw_reuse needs tcp_timestamps, which \
                 are off."
            }
        }
    }

    /// The change that helps in the subject's namespace, from the values that are set.
    pub(crate) fn remedy(self, subject: &Subject) -> String {
        let value = self.value();
        if self.works() {
            return format!(
                "tcp_tw_reuse is {value}, which is already effective for this destination."
            );
        }
        let timestamps = if self.timestamps { "" } else { "net.ipv4.tcp_timestamps=1 " };
        let now = match self.value {
            TwReuse::Never => "never",
            TwReuse::Always => "always, but without tcp_timestamps it does nothing",
            TwReuse::Loopback if self.loopback == Some(false) => {
                "loopback only, and this destination is not loopback"
            }
            TwReuse::Loopback if self.timestamps => "loopback only",
            TwReuse::Loopback => "loopback only, and without tcp_timestamps it does nothing",
        };
        let set = format!("sysctl -w {timestamps}net.ipv4.tcp_tw_reuse=1");
        let set = text::in_its_namespace(subject, &set);
        format!(
            "Ports in TIME_WAIT again after a second: {set} \
             (safe for outgoing connections with timestamps on both sides, RFC 6191). Now it is \
             {value}: {now}."
        )
    }
}
