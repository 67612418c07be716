//! The packages of this machine in two versions, for `cargo xtask e2e`: this one, and one to which
//! it is upgraded, with another default configuration and another kernel side.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{
    artefacts::Maker,
    contents::Built,
    describe,
    release::Release,
    target::{TARGETS, Target},
};
use crate::{repository, tools::Missing};

/// A version of the packages.
#[derive(Debug)]
pub(crate) struct Packages {
    /// As the packages have it, without the revision.
    pub(crate) version: String,
    pub(crate) deb: PathBuf,
    pub(crate) rpm: PathBuf,
}

/// The BPF object that a binary contains.
const OBJECT: &str = "tcpwatch/bpf/tcpwatch.bpf.o";

/// A line at the end of the next version's default configuration: without a difference there, a
/// package manager has no reason to decide between the administrator's file and the package's.
const NEXT_CONFIG: &str = "\n# A line of the next version.\n";

/// Makes the packages of this version and of the next below `folder`. The next one's binary differs
/// in its BPF object.
pub(crate) fn this_and_next(folder: &Path) -> Result<[Packages; 2]> {
    let target = TARGETS.iter().find(|target| target.is_native());
    let target = target.context(Missing("no package is for this machine".to_owned()))?;
    let release = Release::read()?;
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let this = describe(target, &release, target.build(&release)?, folder)?;
    let config = fs::read_to_string(&this.config).context("the default configuration")?;
    let (config_path, binary) = (folder.join("next.toml"), folder.join("next-tcpwatch"));
    fs::write(&config_path, config + NEXT_CONFIG).context("writing the next configuration")?;
    write_with_another_object(&this.binary, &binary)?;
    let next = Built { config: config_path, binary, ..this.clone() };
    let next_release = Release { version: next_version(&release.version), ..release.clone() };
    Ok([make(target, &release, &this, folder)?, make(target, &next_release, &next, folder)?])
}

fn make(target: &Target, release: &Release, built: &Built, folder: &Path) -> Result<Packages> {
    let work = folder.join(&release.version);
    let maker = Maker { target, release, built, work, output: folder.to_owned() };
    Ok(Packages { version: release.version.clone(), deb: maker.deb()?, rpm: maker.rpm()? })
}

/// Copies the binary, with a BPF object that differs from this version's and does the same: a byte
/// of its ELF header counts for nothing (`EI_PAD`).
fn write_with_another_object(from: &Path, to: &Path) -> Result<()> {
    const PADDING: usize = 15;
    let object = fs::read(repository::root().join(OBJECT)).context(OBJECT)?;
    let mut binary = fs::read(from).with_context(|| from.display().to_string())?;
    let place = binary.windows(object.len()).position(|part| part == object);
    let place = place.context("the binary does not contain its BPF object")?;
    binary[place + PADDING] ^= 1;
    fs::write(to, binary).with_context(|| to.display().to_string())?;
    fs::set_permissions(to, Permissions::from_mode(0o755)).context("making it executable")
}

/// The last number is one more; a version without a number there gets one.
fn next_version(version: &str) -> String {
    let begin = version.trim_end_matches(|digit: char| digit.is_ascii_digit()).len();
    let (front, number) = version.split_at(begin);
    match number.parse::<u64>() {
        Ok(number) => format!("{front}{}", number + 1),
        Err(_) => format!("{version}1"),
    }
}

#[cfg(test)]
mod tests {
    use super::next_version;

    #[test]
    fn the_next_version_is_higher_by_one_at_its_end() {
        assert_eq!(next_version("0.1.0"), "0.1.1");
        assert_eq!(next_version("1.9.99"), "1.9.100");
        assert_eq!(next_version("1.0.0~rc"), "1.0.0~rc1");
    }
}
