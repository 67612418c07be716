//! Messages of the rare error paths to the log of the agent, by aya-log.
//!
//! Nothing is sent unless the agent logs at debug. `AYA_LOG_LEVEL` lies in `.rodata` and is frozen
//! before the load, so that the verifier removes each of these branches with the function behind
//! it. Each text has a function of its own that is not inlined: its buffers would not fit on the
//! stack of a hook.

use aya_log_ebpf::{
    debug,
    macro_support::{Level, level_enabled},
};

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) = $text:literal;)*) => {
        $(
            $(#[$doc])*
            #[inline(always)]
            pub(crate) fn $name($($argument: $type),*) {
                #[inline(never)]
                fn say($($argument: $type),*) {
                    debug!(&(), $text, $($argument),*);
                }
                if level_enabled(Level::Debug) {
                    say($($argument),*);
                }
            }
        )*
    };
}

messages! {
    /// An event that the full ring could not take.
    event_lost(kind: u8) = "event ring full, event of kind {} lost";
    /// The note of a connect() that took the place of another one's.
    connect_note_evicted(tgid: u32) = "connect notes full, one replaced by that of process {}";
    /// A socket in CLOSE_WAIT whose beginning is not noted.
    close_wait_note_refused() = "CLOSE_WAIT notes full, begin of one not noted";
    /// A kind of reset that cannot be counted.
    resets_full() = "table of resets full, reset not counted";
    /// A stack, or an active closer, that cannot be kept.
    focus_full() = "table of stacks or closers full, entry lost";
    /// A reset without socket and without segment.
    unknown_reset() = "reset without socket and segment, its origin unknown";
    /// `inet_csk_accept` has neither of its known forms.
    unknown_accept(parameters: u32) = "inet_csk_accept has {} parameters, stack not recorded";
    /// Headers of a segment that could not be read.
    header_unreadable() = "header of a segment unreadable";
    /// A process whose name could not be read.
    name_unreadable() = "name of a process unreadable";
}
