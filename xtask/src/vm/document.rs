//! docs/KERNELS.md: what each kernel can show, as `tcpwatch doctor` said it
//! there.

use std::{fmt::Write, fs};

use anyhow::{Context, Result};

use super::report::Report;
use crate::repository;

const FILE: &str = "docs/KERNELS.md";

const HEAD: &str = "\
# Kernels

Made by `cargo xtask vm --docs`, which boots Debian's kernels (the cloud flavour, verified by apt)
in an emulated machine and asks `tcpwatch doctor --json` there, as root. Do not edit. The kernel
tests run on the same kernels by `cargo xtask vm`. Ask `tcpwatch doctor` about yours: how it was
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
    let hooks = reports.first().map_or(&[][..], |report| &report.doctor.hooks);
    let names: Vec<String> = hooks.iter().map(|hook| format!("`{}`", hook.hook)).collect();
    let _ = writeln!(text, "| kernel | {} |", names.join(" | "));
    let _ = writeln!(text, "|---|{}", ":-:|".repeat(hooks.len()));
    for report in reports {
        let marks = report.doctor.hooks.iter();
        let marks: Vec<&str> = marks.map(|hook| if hook.attached { "yes" } else { "–" }).collect();
        let _ = writeln!(text, "| {} | {} |", report.release, marks.join(" | "));
    }
    text.push_str("\n| hook | attaches to | lost without it |\n|---|---|---|\n");
    for hook in hooks {
        let _ = writeln!(text, "| `{}` | {} | {} |", hook.hook, hook.target, hook.lost_without);
    }
    text.push_str("\n## What is absent\n\n");
    let begin = text.len();
    for report in reports {
        for hook in report.doctor.hooks.iter().filter(|hook| !hook.attached) {
            let why = hook.why_not.as_deref().unwrap_or("no reason given");
            let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
            let _ = writeln!(text, "- {}, `{}`: {why}", report.release, hook.hook);
        }
    }
    if text.len() == begin {
        text.push_str("Nothing: every hook attaches on all of them.\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{
        super::report::{Doctor, Hook, Report},
        text,
    };

    #[test]
    fn what_is_absent_is_named_with_its_reason() {
        let report = |release: &str, why_not: Option<&str>| {
            let hook = Hook {
                hook: "owners".into(),
                target: "iter/task_file".into(),
                attached: why_not.is_none(),
                why_not: why_not.map(str::to_owned),
                lost_without: "owners of sockets".into(),
            };
            Report {
                release: release.into(),
                doctor: Doctor { hooks: vec![hook] },
                tests: Vec::new(),
            }
        };
        let both = text(&[&report("5.10.0", Some("it\n cannot")), &report("6.1.0", None)]);
        assert!(both.contains("| 5.10.0 | – |\n| 6.1.0 | yes |\n"), "{both}");
        assert!(both.ends_with("absent\n\n- 5.10.0, `owners`: it cannot\n"), "{both}");
        assert!(text(&[&report("6.1.0", None)]).contains("Nothing: "));
    }
}
