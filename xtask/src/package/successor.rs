//! The packages of this machine in two versions, for `cargo xtask e2e`: this one, and one to which
//! it is upgraded, with another default configuration.

use std::{
    fs,
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
use crate::tools::Missing;

/// A version of the packages.
#[derive(Debug)]
pub(crate) struct Packages {
    /// As the packages have it, without the revision.
    pub(crate) version: String,
    pub(crate) deb: PathBuf,
    pub(crate) rpm: PathBuf,
}

/// A line at the end of the next version's default configuration: without a difference there, a
/// package manager has no reason to decide between the administrator's file and the package's.
const NEXT_CONFIG: &str = "\n# A line of the next version.\n";

/// Makes the packages of this version and of the next below `folder`, both of the same binary.
pub(crate) fn this_and_next(folder: &Path) -> Result<[Packages; 2]> {
    let target = TARGETS.iter().find(|target| target.is_native());
    let target = target.context(Missing("no package is for this machine".to_owned()))?;
    let release = Release::read()?;
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let this = describe(target, &release, target.build(&release)?, folder)?;
    let config = fs::read_to_string(&this.config).context("the default configuration")?;
    let next = Built { config: folder.join("next.toml"), ..this.clone() };
    fs::write(&next.config, config + NEXT_CONFIG).context("writing the next configuration")?;
    let next_release = Release { version: next_version(&release.version), ..release.clone() };
    Ok([make(target, &release, &this, folder)?, make(target, &next_release, &next, folder)?])
}

fn make(target: &Target, release: &Release, built: &Built, folder: &Path) -> Result<Packages> {
    let work = folder.join(&release.version);
    let maker = Maker { target, release, built, work, output: folder.to_owned() };
    Ok(Packages { version: release.version.clone(), deb: maker.deb()?, rpm: maker.rpm()? })
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
