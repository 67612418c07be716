//! A guest from power-on to power-off.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, anyhow};

use super::{packages::Kernel, report::Report};
use crate::{
    interrupt::Interrupt,
    qemu::{self, Machine},
};

/// The slowest kernel takes some 1,750 s for the whole suite on two cores, beside three others.
const DEADLINE: Duration = Duration::from_secs(3_000);

/// The root lies in memory twice while it is unpacked, and tests hold some
/// thousands of sockets.
const MEMORY_MIB: &str = "1024";

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
    let mut qemu = qemu::command(MEMORY_MIB, [&console, &report]);
    qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&image);
    let mut machine = Machine::start(qemu.args(["-append", qemu::COMMAND_LINE]))?;
    let ended = interrupt.poll(DEADLINE, || machine.ended())?;
    drop(machine);
    let _ = fs::remove_file(&image);
    let read =
        |file: &Path| String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned();
    let outcome = match ended {
        None => Err(anyhow!("it runs after {DEADLINE:?} still")),
        Some(status) if !status.success() => Err(anyhow!("qemu ended with {status}")),
        Some(_) => Report::parse(&read(&report)),
    };
    outcome.with_context(|| format!("the console shows:\n{}\n", qemu::last_lines(&read(&console))))
}
