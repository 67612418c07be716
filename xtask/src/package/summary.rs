//! The table at the end: each artefact and each check, its size, its time, or why it was skipped.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::tools::Missing;

/// Outcomes in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Summary(Vec<Row>);

#[derive(Debug)]
struct Row {
    name: String,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    /// Its size in bytes where it is a file.
    Made(Option<u64>, Duration),
    Skipped(String),
}

impl Summary {
    /// Makes a file. `None` where something that it needs cannot be had.
    pub(super) fn make(
        &mut self,
        name: &str,
        work: impl FnOnce() -> Result<PathBuf>,
    ) -> Result<Option<PathBuf>> {
        let size = |file: &Path| file.metadata().ok().map(|metadata| metadata.len());
        self.step(name, || work().map(|file| (size(&file), file)))
    }

    /// Runs a check.
    pub(super) fn check(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.step(name, || work().map(|()| (None, ()))).map(|_| ())
    }

    /// Says why there is no artefact.
    pub(super) fn skip(&mut self, name: &str, reason: &str) {
        println!("skipped: {name}: {reason}");
        let outcome = Outcome::Skipped(reason.to_owned());
        self.0.push(Row { name: name.to_owned(), outcome });
    }

    fn step<T>(
        &mut self,
        name: &str,
        work: impl FnOnce() -> Result<(Option<u64>, T)>,
    ) -> Result<Option<T>> {
        println!("\n=== {name} ===");
        let began = Instant::now();
        match work() {
            Ok((size, made)) => {
                let outcome = Outcome::Made(size, began.elapsed());
                self.0.push(Row { name: name.to_owned(), outcome });
                Ok(Some(made))
            }
            Err(error) if error.is::<Missing>() => {
                self.skip(name, &format!("{error:#}"));
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| format!("`{name}`")),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Row { name, outcome } in &self.0 {
            match outcome {
                Outcome::Made(size, took) => {
                    let size = size.map(|it| format!("{} kB", it / 1_000)).unwrap_or_default();
                    let what = if size.is_empty() { "holds" } else { "made" };
                    writeln!(f, "{name:<44} {size:>9} {:>6.1} s  {what}", took.as_secs_f64())?;
                }
                Outcome::Skipped(reason) => writeln!(f, "{name:<44} skipped: {reason}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Error, bail};

    use super::{Missing, Summary};

    #[test]
    fn a_missing_tool_is_a_named_skip_and_a_fault_is_a_failure() {
        let mut summary = Summary::default();
        let missing = summary.make("image", || Err(Error::new(Missing("no buildah".to_owned()))));
        assert!(missing.is_ok_and(|made| made.is_none()));
        assert!(summary.check("lint", || bail!("an error of lintian")).is_err());
        assert!(summary.check("static", || Ok(())).is_ok());
        let table = summary.to_string();
        assert!(table.contains("skipped: no buildah"), "{table}");
        assert!(table.lines().any(|line| line.starts_with("static") && line.ends_with("holds")));
    }
}
