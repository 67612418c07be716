//! The second disk of a guest: an archive with the packages in two versions, and the steps.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{debian::Suite, step::Step};
use crate::{
    command::{command, run},
    package::Packages,
};

/// Files for the guest, by their names there.
const FILES: [(&str, &str); 6] = [
    ("guest.sh", include_str!("guest.sh")),
    ("prelude.sh", include_str!("prelude.sh")),
    ("leak.pl", include_str!("leak.pl")),
    ("admin.toml", include_str!("admin.toml")),
    ("before-6.1.conf", include_str!("../../../deploy/systemd/before-6.1.conf")),
    ("host-only.conf", include_str!("../../../deploy/systemd/host-only.conf")),
];

/// Makes it in `folder`.
pub(super) fn make(
    suite: &Suite,
    steps: &[Step],
    versions: &[Packages; 2],
    folder: &Path,
) -> Result<PathBuf> {
    let tree = folder.join("payload");
    fs::create_dir_all(tree.join("steps")).context("a folder for the steps")?;
    let expected = [("suite.kernel", suite.kernel), ("suite.systemd", suite.systemd)];
    for (name, content) in FILES.into_iter().chain(expected) {
        fs::write(tree.join(name), content).with_context(|| name.to_owned())?;
    }
    for (number, step) in steps.iter().enumerate() {
        let file = tree.join("steps").join(number.to_string());
        fs::write(file, step.script).with_context(|| step.name.to_owned())?;
    }
    for (name, packages) in ["this", "next"].into_iter().zip(versions) {
        for (kind, file) in [("deb", &packages.deb), ("rpm", &packages.rpm)] {
            let to = tree.join(format!("{name}.{kind}"));
            fs::copy(file, to).with_context(|| file.display().to_string())?;
        }
        fs::write(tree.join(format!("{name}.version")), &packages.version).context("a version")?;
    }
    let disk = folder.join("payload.tar");
    let mut tar = command("tar");
    run(tar.args(["--owner=0", "--group=0", "-cf"]).arg(&disk).arg("-C").arg(&tree).arg("."))?;
    Ok(disk)
}
