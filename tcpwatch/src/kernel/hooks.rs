//! The hooks: what each one sees, and how it is attached.

use aya::{
    Btf, Ebpf,
    programs::{Program, ProgramError},
};
use tcpwatch_common::{Offsets, programs};

use super::{OnRequest, kernel_side::KernelSide, refusal::Refusal};

/// A hook, whether or not it could be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The program's name, and the label in `tcpwatch_hook_attached`.
    pub name: &'static str,
    /// The point that it hooks.
    pub target: &'static str,
    /// Observations that are missing without it.
    pub lost_without: &'static str,
    /// On which kernels, and when.
    pub(super) need: Need,
}

/// When a hook is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// tcpwatch does not run without it.
    Indispensable,
    /// On every kernel that has it.
    Always,
    /// Indispensable where the iterator walks.
    ToWalk,
    /// Where the iterator walks and sockets are listed.
    ToList,
    /// Where the one pass walks and sockets are listed.
    ToListAtOnce,
    /// On every kernel that has it, where events are read: loaded at the start and attached by their
    /// reader.
    WhileArmed,
    /// Before 6.10, whose tracepoint does not show resets without a socket.
    BeforeResetReasons,
}

impl Hook {
    /// Every hook.
    pub const ALL: [Self; 12] = [
        Self {
            name: programs::SET_STATE,
            target: "tp_btf/inet_sock_set_state",
            lost_without: "state transitions, failed connects, self-connections as they happen",
            need: Need::Indispensable,
        },
        Self {
            name: programs::STREAM,
            target: "tp_btf/inet_sock_set_state",
            lost_without: "events as they happen (`tcpwatch events`)",
            need: Need::WhileArmed,
        },
        Self {
            name: programs::INVENTORY,
            target: "iter/tcp",
            lost_without: "every gauge of sockets, ports and queues",
            need: Need::ToWalk,
        },
        Self {
            name: programs::LISTING,
            target: "iter/tcp",
            lost_without: "the sockets behind a finding (`tcpwatch sockets`)",
            need: Need::ToList,
        },
        Self {
            name: programs::LISTING_PASS,
            target: "raw_tp, run by the agent",
            lost_without: "the sockets behind a finding (`tcpwatch sockets`)",
            need: Need::ToListAtOnce,
        },
        Self {
            name: programs::OWNERS,
            target: "iter/task_file",
            lost_without: "the process behind a socket",
            need: Need::Always,
        },
        Self {
            name: programs::SEND_RESET,
            target: "tp_btf/tcp_send_reset",
            lost_without: "resets sent and their cause",
            need: Need::Always,
        },
        Self {
            name: programs::PASSIVE_RESET_V4,
            target: "fentry/tcp_v4_send_reset",
            lost_without: "resets that no socket sends (no listener, half-open, late data), over IPv4",
            need: Need::BeforeResetReasons,
        },
        Self {
            name: programs::PASSIVE_RESET_V6,
            target: "fentry/tcp_v6_send_reset",
            lost_without: "resets that no socket sends (no listener, half-open, late data), over IPv6",
            need: Need::BeforeResetReasons,
        },
        Self {
            name: programs::RECEIVE_RESET,
            target: "tp_btf/tcp_receive_reset",
            lost_without: "resets received",
            need: Need::Always,
        },
        Self {
            name: programs::BIND,
            target: "fexit/inet_csk_get_port",
            lost_without: "bind() and listen() that fail because the port is taken",
            need: Need::Always,
        },
        Self {
            name: programs::ACCEPT,
            target: "fexit/inet_csk_accept",
            lost_without: "the stack that accepted the connections of a leak",
            need: Need::Always,
        },
    ];

    /// Whether tcpwatch does not run without it.
    #[must_use]
    pub fn is_indispensable(&self) -> bool {
        matches!(self.need, Need::Indispensable | Need::ToWalk)
    }

    /// Whether it runs when something happens, and not when the agent walks.
    #[must_use]
    pub fn is_event_driven(&self) -> bool {
        !self.target.starts_with("iter/") && self.need != Need::ToListAtOnce
    }

    /// Whether it is attached by a trampoline, which not every kernel has.
    #[must_use]
    pub fn is_trampoline(&self) -> bool {
        self.target.starts_with("fentry/") || self.target.starts_with("fexit/")
    }

    /// Whether it is needed on this kernel, for what is requested, where the iterator walks or not.
    pub(super) fn is_needed(
        &self,
        offsets: &Offsets,
        on_request: OnRequest,
        iterates: bool,
    ) -> bool {
        match self.need {
            Need::Indispensable | Need::Always => true,
            Need::ToWalk => iterates,
            Need::ToList => iterates && on_request.listing,
            Need::ToListAtOnce => !iterates && on_request.listing,
            Need::WhileArmed => on_request.stream,
            Need::BeforeResetReasons => self.is_for(offsets),
        }
    }

    /// Whether a kernel of these types has a use for it, whatever is requested.
    pub(super) fn is_for(&self, offsets: &Offsets) -> bool {
        /// Arguments of `tcp_send_reset` since 6.10.
        const WITH_REASON: u32 = 3;
        self.need != Need::BeforeResetReasons || offsets.send_reset_arguments != WITH_REASON
    }

    /// Whether it is attached all the time: a walk is opened when it begins, and the stream is attached
    /// by its reader.
    pub(super) fn is_always_attached(&self) -> bool {
        self.is_event_driven() && self.need != Need::WhileArmed
    }

    /// Loads the program, and attaches it if it is always attached.
    pub(super) fn load(
        &self,
        ebpf: &mut Ebpf,
        btf: &Btf,
        into: &mut KernelSide,
    ) -> Result<(), Refusal> {
        let program = ebpf
            .program_mut(self.name)
            .ok_or_else(|| Refusal::other(format!("the object has no program {}", self.name)))?;
        let (_, function) = self.target.split_once('/').unwrap_or_default();
        load(program, function, btf).map_err(|error| {
            if let ProgramError::LoadError { verifier_log, .. } = &error {
                tracing::debug!(hook = self.name, %verifier_log, "the verifier's log");
            }
            Refusal::of(&error)
        })?;
        let kept = into.keep_program(self.name, program, self.is_always_attached());
        kept.map_err(|error| Refusal::of(&error))
    }
}

fn load(program: &mut Program, function: &str, btf: &Btf) -> Result<(), ProgramError> {
    match program {
        Program::BtfTracePoint(program) => program.load(function, btf),
        Program::FEntry(program) => program.load(function, btf),
        Program::FExit(program) => program.load(function, btf),
        Program::Iter(program) => program.load(function, btf),
        Program::RawTracePoint(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// How a hook fared.
#[derive(Clone, Debug)]
pub struct HookStatus {
    /// Which.
    pub hook: Hook,
    /// `Err` with the kernel's reason.
    pub outcome: Result<(), Refusal>,
}
