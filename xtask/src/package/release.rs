//! Which version is packaged, and its date: the same sources make the same bytes.

use std::env;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{
    command::{cargo, command, output},
    repository,
};

/// Facts that every artefact has in its name or header.
#[derive(Clone, Debug)]
pub(super) struct Release {
    pub(super) version: String,
    pub(super) description: String,
    /// Seconds since the epoch: `SOURCE_DATE_EPOCH`, else the last commit's.
    pub(super) epoch: u64,
}

impl Release {
    pub(super) fn read() -> Result<Self> {
        #[derive(Deserialize)]
        struct Metadata {
            packages: Vec<Package>,
        }
        #[derive(Deserialize)]
        struct Package {
            name: String,
            version: String,
            description: Option<String>,
        }
        let mut metadata = cargo();
        metadata.args(["metadata", "--no-deps", "--format-version", "1"]);
        let text = output(metadata.current_dir(repository::root()))?;
        let metadata: Metadata = serde_json::from_str(&text).context("cargo metadata")?;
        let own = metadata.packages.into_iter().find(|package| package.name == "tcpwatch");
        let own = own.context("cargo metadata has no package tcpwatch")?;
        Ok(Self {
            version: own.version,
            description: own.description.context("tcpwatch has no description")?,
            epoch: epoch()?,
        })
    }

    /// The date as Debian's changelog has it (RFC 5322).
    pub(super) fn date(&self) -> Result<String> {
        let mut date = command("date");
        date.env("LC_ALL", "C")
            .args(["--utc", "--rfc-email"])
            .arg(format!("--date=@{}", self.epoch));
        Ok(output(&mut date)?.trim().to_owned())
    }
}

fn epoch() -> Result<u64> {
    let text = match env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => {
            let mut git = command("git");
            git.args(["log", "-1", "--format=%ct"]).current_dir(repository::root());
            output(&mut git).context("no checkout of git: set SOURCE_DATE_EPOCH")?
        }
    };
    text.trim().parse().with_context(|| format!("SOURCE_DATE_EPOCH is no number: {text}"))
}
