//! A guest from power-on to power-off.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, anyhow};

use super::{
    image,
    packages::{Kernel, Series},
    report::Report,
};
use crate::{
    interrupt::Interrupt,
    qemu::{self, Machine},
};

/// The slowest kernel takes some 3,100 s for the whole suite on two cores, beside three others.
const DEADLINE: Duration = Duration::from_secs(4_500);

/// The root lies in memory twice while it is unpacked, and tests hold some
/// thousands of sockets.
const MEMORY_MIB: &str = "1024";

/// How time passes in a guest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Clock {
    /// As it does here.
    OfHost,
    /// A nanosecond with each instruction; a wait takes no time, and the clock jumps to its end.
    OfInstructions,
}

/// A kernel with what it runs.
pub(super) struct Guest<'base> {
    name: String,
    kernel: Kernel,
    base: &'base [u8],
    clock: Clock,
}

impl<'base> Guest<'base> {
    /// `base` is the archive of [`image::base`].
    pub(super) fn new(series: Series, kernel: Kernel, base: &'base [u8], clock: Clock) -> Self {
        let name = match clock {
            Clock::OfHost => series.to_string(),
            Clock::OfInstructions => format!("{series}-instructions"),
        };
        Self { name, kernel, base, clock }
    }

    /// Of its folder in the results.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Boots; its folder gets `console` and `report`, also after a failure.
    pub(super) fn run(self, results: &Path, interrupt: &Interrupt) -> Result<Report> {
        let folder = results.join(&self.name);
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let initrd = folder.join("initrd");
        fs::write(&initrd, [self.base, &image::modules(&self.kernel)?].concat())
            .context("writing the initrd")?;
        let [console, report] = ["console", "report"].map(|name| folder.join(name));
        let mut command_line = qemu::COMMAND_LINE.to_owned();
        let mut qemu = qemu::command(MEMORY_MIB, [&console, &report]);
        if self.clock == Clock::OfInstructions {
            // The TSC of such a machine is the number of instructions, and the HPET counts in tens of
            // nanoseconds.
            command_line += " clocksource=tsc";
            qemu.args(["-icount", "shift=0,sleep=off", "-smp", "1"]);
        }
        qemu.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(&initrd);
        let mut machine = Machine::start(qemu.args(["-append", &command_line]))?;
        let ended = interrupt.poll(DEADLINE, || machine.ended())?;
        drop(machine);
        let _ = fs::remove_file(&initrd);
        let read =
            |file: &Path| String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned();
        let outcome = match ended {
            None => Err(anyhow!("it runs after {DEADLINE:?} still")),
            Some(status) if !status.success() => Err(anyhow!("qemu ended with {status}")),
            Some(_) => Report::parse(&read(&report)),
        };
        outcome
            .with_context(|| format!("the console shows:\n{}\n", qemu::last_lines(&read(&console))))
    }
}
