//! `cargo xtask e2e`: the packages under a real systemd, on the oldest Debian that is promised and on
//! the next. Nothing of a guest stays but target/e2e.
//!
//! One file for each part: `debian` makes the image, `payload` the disk with packages and steps,
//! `guest` runs both, with guest.sh as the service that takes the steps, `report` reads its output.
//! `scenario/` has the steps: each is shell for the guest beside its judgement here.

mod debian;
mod guest;
mod payload;
mod report;
mod scenario;
mod step;

use std::{fs, path::Path, thread};

use anyhow::{Context, Result, ensure};

use self::debian::Debian;
use crate::{
    interrupt::Interrupt,
    package::{self, Packages},
    repository,
    tools::{self, Missing},
};

/// The systems to boot.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Suites of Debian, bullseye or bookworm; none means both
    suites: Vec<String>,
}

pub(crate) fn e2e(arguments: &Arguments) -> Result<()> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        Missing("the guests are x86_64, and run this machine's own packages".to_owned())
    );
    ensure!(scenes::is_root(), Missing("mmdebstrap needs root for an image that boots".to_owned()));
    let suites = debian::select(&arguments.suites)?;
    tools::ensure_programs(&[
        ("apt-get", "apt"),
        ("mke2fs", "e2fsprogs"),
        ("mmdebstrap", "mmdebstrap"),
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("tar", "tar"),
    ])?;
    let folder = repository::target()?.join("e2e");
    let images = suites.into_iter().map(|suite| Debian::make(suite, &folder.join("images")));
    let images = images.collect::<Result<Vec<_>>>()?;
    let versions = package::this_and_next(&folder.join("packages"))?;
    let interrupt = Interrupt::install().context("handling signals")?;
    let failed = boot_all(&images, &versions, &folder, &interrupt)?;
    ensure!(failed == 0, "{failed} checks failed: see {}", folder.display());
    Ok(())
}

/// Boots them side by side, and answers with the number of checks that failed.
fn boot_all(
    images: &[Debian],
    versions: &[Packages; 2],
    folder: &Path,
    interrupt: &Interrupt,
) -> Result<usize> {
    let boot = |image: &Debian| {
        let folder = folder.join(image.suite.name);
        if folder.exists() {
            fs::remove_dir_all(&folder).context("removing the last logs")?;
        }
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let steps = scenario::steps(image.suite);
        let disk = payload::make(image.suite, &steps, versions, &folder)?;
        guest::run(image, &disk, &steps, &folder, interrupt)
    };
    thread::scope(|scope| {
        let guests: Vec<_> = images.iter().map(|image| scope.spawn(move || boot(image))).collect();
        // Each comes to its end before an error of one is that of the task.
        let ended: Vec<_> =
            guests.into_iter().map(|guest| guest.join().expect("it does not panic")).collect();
        ended.into_iter().sum()
    })
}
