//! A guest from power-on to power-off.

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};

use super::{packages::Kernel, report::Report};
use crate::{command::command, interrupt::Interrupt};

/// The slowest kernel takes some 1,750 s for the whole suite on two cores, beside three others.
const DEADLINE: Duration = Duration::from_secs(3_000);

/// The root lies in memory twice while it is unpacked, and tests hold some
/// thousands of sockets.
const MEMORY_MIB: &str = "1024";

/// Where `quiet` leaves only what matters, a panic ends it, and time does not
/// drift: the clock of an emulated machine fails the kernel's own tests of it.
/// The time is that of QEMU's HPET, which is this host's: a TSC whose rate was
/// measured while other guests booted made a clock that ran 2.5 times too fast.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on \
                            no_timer_check tsc=reliable clocksource=hpet";

/// QEMU's processor, and one that goes when its value does.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots; `folder` gets `console` and `report`, also after a failure.
pub(super) fn run(
    kernel: &Kernel,
    initrd: &[u8],
    folder: &Path,
    interrupt: &Interrupt,
) -> Result<Report> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let image = folder.join("initrd");
    fs::write(&image, initrd).context("writing the initrd")?;
    let [console, report] = ["console", "report"].map(|name| folder.join(name));
    let serial = |file: &Path| format!("file:{}", file.display());
    let mut qemu = command("qemu-system-x86_64");
    // Emulated, because KVM is rarely to be had where this runs, and by one
    // thread: with more, 3 of 145 boots ended in a panic (QEMU 7.2).
    qemu.args(["-accel", "tcg,thread=single", "-cpu", "max", "-smp", "2", "-m", MEMORY_MIB])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-serial", &serial(&console), "-serial", &serial(&report)])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(&image)
        .args(["-append", COMMAND_LINE])
        .stdin(Stdio::null());
    let mut machine = Machine(qemu.spawn().context("starting qemu-system-x86_64")?);
    let ended = interrupt.poll(DEADLINE, || machine.0.try_wait().context("waiting for qemu"))?;
    drop(machine);
    let _ = fs::remove_file(&image);
    let read =
        |file: &Path| String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned();
    let outcome = match ended {
        None => Err(anyhow!("it runs after {DEADLINE:?} still")),
        Some(status) if !status.success() => Err(anyhow!("qemu ended with {status}")),
        Some(_) => Report::parse(&read(&report)),
    };
    outcome.with_context(|| format!("the console shows:\n{}\n", last_lines(&read(&console))))
}

/// Enough for a panic of the kernel.
fn last_lines(text: &str) -> String {
    const LINES: usize = 40;
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
