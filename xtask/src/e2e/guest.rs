//! A guest from power-on to power-off: one line for each check, as it comes.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::{debian::Debian, report, step::Step};
use crate::{
    interrupt::Interrupt,
    qemu::{self, Machine},
};

/// A guest took 600 s of one CPU, and 25 minutes where five others shared two of them. guest.sh ends
/// each step after seven minutes.
const DEADLINE: Duration = Duration::from_secs(3_000);

/// tcpwatch is allowed 128 MiB, systemd and apt need the same.
const MEMORY_MIB: &str = "512";

/// Without the detection of devices and the logins, which take most of the time until
/// multi-user.target in an emulated machine.
const SYSTEMD: &str = "root=/dev/vda rw systemd.mask=systemd-udev-trigger.service \
                       systemd.mask=serial-getty@ttyS0.service systemd.mask=getty@tty1.service";

/// Boots, judges each step, and answers with the number of those that failed. `folder` gets
/// `console` and `report`.
pub(super) fn run(
    image: &Debian,
    payload: &Path,
    steps: &[Step],
    folder: &Path,
    interrupt: &Interrupt,
) -> Result<usize> {
    let [console, report] = ["console", "report"].map(|name| folder.join(name));
    let mut qemu = qemu::command(MEMORY_MIB, [&console, &report]);
    qemu.arg("-kernel").arg(image.kernel()).arg("-initrd").arg(image.initrd());
    qemu.args(["-append", &format!("{} {SYSTEMD}", qemu::COMMAND_LINE)]);
    for (disk, mode) in [(&*image.disk(), "snapshot=on"), (payload, "readonly=on")] {
        let drive = format!("file={},if=virtio,format=raw,{mode}", disk.display());
        qemu.args(["-drive", &drive]);
    }
    let mut machine = Machine::start(&mut qemu)?;
    let read =
        |file: &Path| String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned();
    let (began, mut judged, mut failed) = (Instant::now(), 0, 0);
    let ended = interrupt.poll(DEADLINE, || {
        // Before the report, so that nothing of it comes after the last look.
        let ended = machine.ended()?;
        let done = report::parse(&read(&report));
        for (step, done) in steps.iter().zip(&done).skip(judged) {
            let outcome = (step.judge)(&done.output);
            failed += usize::from(outcome.is_err());
            println!("{}", line(image.suite.name, step.name, done.seconds, &outcome));
            if outcome.is_err() {
                println!("{}", indented(&done.output.text));
            }
        }
        judged = done.len();
        Ok(ended)
    })?;
    drop(machine);
    let took = began.elapsed().as_secs();
    println!(
        "{:<9} {judged} of {} steps, {failed} failed, {took} s",
        image.suite.name,
        steps.len()
    );
    if ended.is_none() || judged < steps.len() || !report::is_whole(&read(&report)) {
        let next = steps.get(judged).map_or("the end", |step| step.name);
        let console = qemu::last_lines(&read(&console));
        bail!("{}: the guest did not come to: {next}\n{console}", image.suite.name);
    }
    Ok(failed)
}

fn line(suite: &str, name: &str, seconds: u64, outcome: &Result<()>) -> String {
    match outcome {
        Ok(()) => format!("{suite:<9} ok     {name} ({seconds} s)"),
        Err(error) => format!("{suite:<9} failed {name} ({seconds} s): {error:#}"),
    }
}

/// As much as a person reads at once; the report has all of it.
fn indented(text: &str) -> String {
    qemu::last_lines(text).lines().map(|line| format!("    {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::line;

    #[test]
    fn a_failed_check_says_why_in_its_line() {
        assert_eq!(line("bookworm", "it runs", 3, &Ok(())), "bookworm  ok     it runs (3 s)");
        let failed = line("bookworm", "it runs", 3, &Err(anyhow!("no pid")));
        assert_eq!(failed, "bookworm  failed it runs (3 s): no pid");
    }
}
