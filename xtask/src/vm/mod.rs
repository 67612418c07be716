//! `cargo xtask vm`: the kernel tests on kernels that this machine does not
//! run. Debian's, 5.10 to the newest, each in an emulated machine that lives
//! as long as its tests: nothing of it stays but target/vm.
//!
//! One file for each part: `packages` gets the kernels, `suite` the tests,
//! `image` makes the guest's root of them, `guest` runs it, with init.sh as
//! its PID 1, `report` reads its output, `document` writes docs/KERNELS.md.

mod document;
mod guest;
mod image;
mod packages;
mod report;
mod suite;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Context, Result, ensure};

use self::{
    guest::{Clock, Guest},
    packages::{Mirror, Series},
    report::Report,
};
use crate::{
    interrupt::{Interrupt, Interrupted},
    repository,
    tools::{self, Missing},
};

/// The mirror of Debian's main archive that this host uses.
pub(crate) fn debian_mirror() -> Result<String> {
    packages::mirror(packages::DEBIAN.0, packages::DEBIAN.1)
}

/// The kernels to boot.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Series such as 6.1, or oldest, newest; none means all that Debian's mirror has
    versions: Vec<String>,
    /// Run no tests: write docs/KERNELS.md from what `tcpwatch doctor` says on every kernel
    #[arg(long, conflicts_with = "versions")]
    docs: bool,
    /// Run the tests of whole agents too: an hour and more for four kernels on two CPUs
    #[arg(long, conflicts_with_all = ["docs", "record", "tests"])]
    all: bool,
    /// Run only these tests (`agent`, or `kernel` for the unit tests that ask a kernel), with commas
    /// between
    #[arg(long, value_delimiter = ',', value_name = "TESTS", conflicts_with_all = ["docs", "record"])]
    tests: Vec<String>,
    /// Run no tests: count the instructions of the hooks, by a clock that goes on with each of them.
    /// Without this option it is done on 6.12 if that is among the kernels
    #[arg(long, conflicts_with_all = ["docs", "record", "tests", "all"])]
    instructions: bool,
    /// Run no tests: record these incidents there, with commas between, into
    /// tcpwatch/tests/incidents
    #[arg(long, hide = true, value_name = "INCIDENTS", requires = "versions")]
    record: Option<String>,
}

pub(crate) fn vm(arguments: &Arguments) -> Result<()> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        Missing("the guests are x86_64, and run this machine's own binaries".to_owned())
    );
    tools::ensure_programs(&[
        ("apt-get", "apt"),
        ("busybox", "busybox-static"),
        ("depmod", "kmod"),
        ("dpkg-deb", "dpkg"),
        ("ip", "iproute2"),
        ("modprobe", "kmod"),
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("setpriv", "util-linux"),
        ("ss", "iproute2"),
        ("strip", "binutils"),
        ("unshare", "util-linux"),
        ("xz", "xz-utils"),
    ])?;
    let folder = repository::target()?.join("vm");
    let mirror = Mirror::open(&folder)?;
    let selected = mirror.select(&arguments.versions)?;
    let mut suite = suite::build()?;
    if arguments.docs {
        suite.tests.clear();
    }
    if let Some(incidents) = &arguments.record {
        suite.record(incidents)?;
    }
    if arguments.tests.is_empty() {
        suite.unnamed(arguments.all);
    } else {
        suite.only(&arguments.tests)?;
    }
    let whole = arguments.tests.is_empty() && arguments.record.is_none() && !arguments.docs;
    let counts = |series| arguments.instructions || whole && series == COUNTED;
    let counting = match selected.iter().any(|series| counts(*series)) {
        true => image::base(&suite.counting()?, &folder)?,
        false => Vec::new(),
    };
    let base = match arguments.instructions {
        true => Vec::new(),
        false => image::base(&suite, &folder)?,
    };
    let interrupt = Interrupt::install().context("handling signals")?;

    let mut guests = VecDeque::new();
    for series in selected {
        let kernel = mirror.fetch(series)?;
        if !arguments.instructions {
            guests.push_back(Guest::new(series, kernel.clone(), &base, Clock::OfHost));
        }
        if counts(series) {
            guests.push_back(Guest::new(series, kernel, &counting, Clock::OfInstructions));
        }
    }
    let reports = boot_all(guests, &folder.join("results"), &interrupt)?;
    if arguments.docs {
        document::write(reports.values())?;
    }
    for (name, text) in reports.values().flat_map(|report| &report.recordings) {
        let file = repository::root().join(suite::INCIDENTS).join(name);
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        println!("{}", file.display());
    }
    Ok(())
}

/// The kernel on which instructions are counted: their number differs, because some helpers are inlined
/// by newer ones.
const COUNTED: Series = Series::new(6, 12);

/// Boots them side by side. All come to their end before one that failed is
/// an error.
fn boot_all(
    guests: VecDeque<Guest<'_>>,
    results: &Path,
    interrupt: &Interrupt,
) -> Result<BTreeMap<String, Report>> {
    // QEMU emulates with one thread, and that one has nothing to do for half of
    // the time: most tests wait for an interval or a window to pass.
    let at_once = 2 * thread::available_parallelism().map_or(1, usize::from);
    let queue = Mutex::new(guests);
    let reports = Mutex::new(BTreeMap::new());
    let broken = Mutex::new(BTreeSet::new());
    let next = || lock(&queue).pop_front();
    let work = || {
        while let Some(guest) = next() {
            let name = guest.name().to_owned();
            match guest.run(results, interrupt) {
                Ok(report) => {
                    print_row(&report);
                    if report.failed() > 0 {
                        lock(&broken).insert(name.clone());
                    }
                    lock(&reports).insert(name, report);
                }
                Err(error) if error.is::<Interrupted>() => return Err(error),
                Err(error) => {
                    println!("{name}: {error:#}");
                    lock(&broken).insert(name);
                }
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        let outcomes = workers.into_iter().map(|worker| worker.join().expect("it does not panic"));
        outcomes.collect::<Result<Vec<()>>>()
    })?;
    let broken = lock(&broken).iter().cloned().collect::<Vec<_>>().join(", ");
    ensure!(broken.is_empty(), "tests failed on {broken}: see {}", results.display());
    Ok(reports.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn print_row(report: &Report) {
    let hooks = &report.doctor.hooks;
    let attached = hooks.iter().filter(|hook| hook.attached).count();
    let absent: Vec<&str> =
        hooks.iter().filter(|hook| !hook.attached).map(|hook| hook.hook.as_str()).collect();
    let absent = if absent.is_empty() { "nothing".to_owned() } else { absent.join(", ") };
    println!(
        "{:<30} {:3} passed {:2} failed in {:3} s  {attached}/{} hooks, absent: {absent}",
        report.release,
        report.passed(),
        report.failed(),
        report.tests.iter().map(|outcome| outcome.seconds).sum::<u64>(),
        hooks.len()
    );
    for figure in report.tests.iter().flat_map(|outcome| &outcome.figures) {
        println!("    {figure}");
    }
    for outcome in &report.tests {
        for test in &outcome.failed {
            println!("    {}: {test}", outcome.name);
        }
        if !outcome.said.is_empty() {
            println!("{}", outcome.said);
        }
    }
}
