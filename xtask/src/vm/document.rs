//! docs/KERNELS.md: what each kernel can show, as `tcpwatch doctor` reports it
//! there.

use std::{fmt::Write, fs};

use anyhow::{Context, Result};

use super::report::{Hook, Report};
use crate::repository;

const FILE: &str = "docs/KERNELS.md";

const HEAD: &str = "\
# Kernels

Made by `cargo xtask vm --docs`, which boots Debian's kernels (the cloud flavour, verified by apt)
in an emulated machine and runs `tcpwatch doctor --json` there, as root. Do not edit. The kernel
tests run on the same kernels by `cargo xtask vm`. Run `tcpwatch doctor` on yours: how it was
configured matters as much as its version.

";

pub(super) fn write<'a>(reports: impl Iterator<Item = &'a Report>) -> Result<()> {
    let reports: Vec<&Report> = reports.collect();
    fs::write(repository::root().join(FILE), text(&reports))
        .with_context(|| format!("writing {FILE}"))?;
    println!("{FILE}: {} kernels", reports.len());
    Ok(())
}

fn text(reports: &[&Report]) -> String {
    let mut text = HEAD.to_owned();
    // Each kernel has some that others have no need of.
    let mut hooks: Vec<&Hook> = Vec::new();
    for hook in reports.iter().flat_map(|report| &report.doctor.hooks) {
        if hooks.iter().all(|known| known.hook != hook.hook) {
            hooks.push(hook);
        }
    }
    let names: Vec<String> = hooks.iter().map(|hook| format!("`{}`", hook.hook)).collect();
    let _ = writeln!(text, "| kernel | walk | {} |", names.join(" | "));
    let _ = writeln!(text, "|---|---|{}", ":-:|".repeat(hooks.len()));
    for report in reports {
        let walk = report.doctor.walk.walk.replace('_', " ");
        let mark = |hook: &Hook| {
            let row = report.doctor.hooks.iter().find(|row| row.hook == hook.hook);
            row.map_or("not needed", |row| if row.attached { "yes" } else { "–" })
        };
        let marks: Vec<&str> = hooks.iter().copied().map(mark).collect();
        let _ = writeln!(text, "| {} | {walk} | {} |", report.release, marks.join(" | "));
    }
    text.push_str("\n| hook | attaches to | lost without it |\n|---|---|---|\n");
    for hook in hooks {
        let _ = writeln!(text, "| `{}` | {} | {} |", hook.hook, hook.target, hook.lost_without);
    }
    text.push_str("\n## Absent hooks\n\n");
    let begin = text.len();
    for report in reports {
        for hook in report.doctor.hooks.iter().filter(|hook| !hook.attached) {
            let why = hook.why_not.as_deref().unwrap_or("no reason given");
            let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
            let _ = writeln!(text, "- {}, `{}`: {why}", report.release, hook.hook);
        }
    }
    if text.len() == begin {
        text.push_str("None: every hook attaches on all of these kernels.\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{
        super::report::{Doctor, Report, Walk},
        Hook, text,
    };

    #[test]
    fn what_is_absent_is_named_with_its_reason() {
        let hook = |name: &str, why_not: Option<&str>| Hook {
            hook: name.into(),
            target: format!("iter/{name}"),
            attached: why_not.is_none(),
            why_not: why_not.map(str::to_owned),
            lost_without: "owners of sockets".into(),
        };
        let report = |release: &str, hooks: Vec<Hook>| Report {
            release: release.into(),
            doctor: Doctor { hooks, walk: Walk { walk: "one_pass".into() } },
            tests: Vec::new(),
            recordings: Vec::new(),
        };
        let old = report("5.10.0", vec![hook("owners", Some("it\n cannot")), hook("early", None)]);
        let new = report("6.1.0", vec![hook("owners", None)]);
        let both = text(&[&old, &new]);
        let rows = "| 5.10.0 | one pass | – | yes |\n| 6.1.0 | one pass | yes | not needed |\n";
        assert!(both.contains(rows), "{both}");
        assert!(both.ends_with("Absent hooks\n\n- 5.10.0, `owners`: it cannot\n"), "{both}");
        assert!(text(&[&new]).contains("None: "));
    }
}
