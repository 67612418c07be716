//! A step: shell that a guest runs, and the judgement of its output on this host.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// One line of the outcome.
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// A sentence that holds if the step is ok.
    pub(super) name: &'static str,
    /// Run by `sh -e` after prelude.sh, as root, in /run/e2e.
    pub(super) script: &'static str,
    pub(super) judge: fn(&Output) -> Result<()>,
}

/// Output of a script.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Output {
    /// stdout and stderr.
    pub(super) text: String,
    pub(super) status: i32,
}

impl Output {
    /// The script came to its end.
    pub(super) fn succeeds(&self) -> Result<()> {
        ensure!(self.status == 0, "its script ended with {}", self.status);
        Ok(())
    }

    /// The value in the first line `KEY=VALUE`, which systemctl show prints, or `KEY:\tVALUE`, which
    /// is in /proc/PID/status.
    pub(super) fn value(&self, key: &str) -> Result<&str> {
        self.values(key).next().with_context(|| format!("there is no line for {key}"))
    }

    /// The values of all such lines.
    pub(super) fn values(&self, key: &str) -> impl Iterator<Item = &str> {
        self.text.lines().filter_map(move |line| {
            let value = line.strip_prefix(key)?;
            value.strip_prefix('=').or_else(|| value.strip_prefix(':')).map(str::trim)
        })
    }

    pub(super) fn is(&self, key: &str, expected: &str) -> Result<()> {
        let value = self.value(key)?;
        ensure!(value == expected, "{key} is {value}, not {expected}");
        Ok(())
    }

    pub(super) fn number(&self, key: &str) -> Result<u64> {
        let value = self.value(key)?;
        value.parse().with_context(|| format!("{key} is no number: {value}"))
    }

    /// The value of a metric without labels, or with them as they are written.
    pub(super) fn metric(&self, name: &str) -> Result<f64> {
        let sample = self.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let sample = sample.with_context(|| format!("there is no sample of {name}"))?;
        sample.trim().parse().with_context(|| format!("{name} is no number: {sample}"))
    }

    pub(super) fn contains(&self, part: &str) -> Result<()> {
        ensure!(self.text.contains(part), "it does not contain {part:?}");
        Ok(())
    }

    pub(super) fn lacks(&self, part: &str) -> Result<()> {
        match self.text.lines().find(|line| line.contains(part)) {
            Some(line) => bail!("it contains {part:?}: {line}"),
            None => Ok(()),
        }
    }

    /// The lines that are JSON objects, of `journalctl -o json`.
    pub(super) fn objects(&self) -> Vec<Value> {
        let lines = self.text.lines().filter(|line| line.starts_with('{'));
        lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Output;

    #[test]
    fn values_metrics_and_objects_are_found_among_other_lines() {
        let text = "x\nSeccomp:\t2\nSeccomp_filters:\t3\nMainPID=71\nMainPID=72\n\
                    up 1\nup_total{a=\"b\"} 2.5\n{\"a\": 1}\n";
        let output = Output { text: text.to_owned(), status: 0 };
        assert_eq!(output.value("Seccomp").ok(), Some("2"));
        assert_eq!(output.number("MainPID").ok(), Some(71));
        assert_eq!(output.values("MainPID").collect::<Vec<_>>(), ["71", "72"]);
        assert!(output.value("Main").is_err() && output.is("Seccomp", "1").is_err());
        assert_eq!(output.metric("up").ok(), Some(1.0));
        assert_eq!(output.metric("up_total{a=\"b\"}").ok(), Some(2.5));
        assert_eq!(output.objects().len(), 1);
        assert!(output.lacks("MainPID=73").is_ok() && output.lacks("MainPID=72").is_err());
    }
}
