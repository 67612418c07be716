//! An emulated machine, as `vm` and `e2e` start one: the arguments that both need, and its end.

use std::{
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result};

use crate::command::command as program;

/// Where `quiet` leaves only what matters, a panic ends it, and time does not
/// drift: the clock of an emulated machine fails the kernel's own tests of it.
/// The time is that of QEMU's HPET, which is this host's: a TSC whose rate was
/// measured while other guests booted made a clock that ran 2.5 times too fast.
pub(crate) const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off \
                                       random.trust_cpu=on no_timer_check tsc=reliable \
                                       clocksource=hpet";

/// A machine without kernel and disks, whose serial lines write into these two files.
pub(crate) fn command(memory_mib: &str, serial_lines: [&Path; 2]) -> Command {
    let mut qemu = program("qemu-system-x86_64");
    // Emulated, because KVM is rarely to be had where this runs, and by one
    // thread: with more, 3 of 145 boots ended in a panic (QEMU 7.2).
    qemu.args(["-accel", "tcg,thread=single", "-cpu", "max", "-smp", "2", "-m", memory_mib])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .stdin(Stdio::null());
    for file in serial_lines {
        qemu.arg("-serial").arg(format!("file:{}", file.display()));
    }
    qemu
}

/// A running machine, and one that goes when its value does.
pub(crate) struct Machine(Child);

impl Machine {
    pub(crate) fn start(qemu: &mut Command) -> Result<Self> {
        Ok(Self(qemu.spawn().context("starting qemu-system-x86_64")?))
    }

    /// Its exit status, once it has one.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.0.try_wait().context("waiting for qemu")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Enough for a panic of the kernel.
pub(crate) fn last_lines(text: &str) -> String {
    const LINES: usize = 40;
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
