//! The runbooks of `docs/runbooks`, to be compiled in.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The folder, seen from the package.
const FOLDER: &str = "../docs/runbooks";

/// Writes an array of names and texts, sorted by name, and returns the folder of the runbooks.
pub(super) fn write(package: &Path, file: &Path) -> io::Result<PathBuf> {
    let folder = fs::canonicalize(package.join(FOLDER))?;
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    let rows = names.iter().map(|name| {
        let path = folder.join(format!("{name}.md"));
        format!("    ({name:?}, include_str!({path:?})),\n")
    });
    fs::write(file, format!("&[\n{}]\n", rows.collect::<String>()))?;
    Ok(folder)
}
