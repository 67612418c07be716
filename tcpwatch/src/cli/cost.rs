//! `tcpwatch doctor --cost`: what the hooks take on this host now.

use std::{fmt::Write as _, time::Duration};

use serde::Serialize;

use crate::{
    engine::text,
    kernel::{CostError, HookCost, Measured},
    plain,
};

/// How long the kernel measures.
const SPAN: Duration = Duration::from_secs(5);

/// The result.
#[derive(Debug, Serialize)]
pub(super) struct Cost {
    /// Whether the hooks are those of an agent that ran before; else they are those of this look.
    of_running_agent: bool,
    seconds: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hooks: Vec<CostRow>,
    /// Why nothing was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct CostRow {
    hook: &'static str,
    runs_per_second: f64,
    /// Absent where it never ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    nanoseconds_per_run: Option<f64>,
    /// Part of one CPU.
    cpu_share: f64,
}

impl Cost {
    /// Measures the hooks of `before`, which were there before this process loaded its own, or its
    /// own where there were none.
    pub(super) fn measure(before: Result<Measured, CostError>) -> Self {
        let mut of_running_agent = false;
        let measured = before.and_then(|before| {
            of_running_agent = !before.is_empty();
            let measured = if of_running_agent { before } else { Measured::of_this_host()? };
            measured.measure(SPAN)
        });
        let (hooks, error) = match measured {
            Ok(hooks) => (hooks.iter().map(row).collect(), None),
            Err(error) if error.is_not_permitted() => {
                (Vec::new(), Some(format!("{error}: run as root (CAP_SYS_ADMIN)")))
            }
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        Self { of_running_agent, seconds: SPAN.as_secs(), hooks, error }
    }

    pub(super) fn write(&self, to: &mut String) {
        if let Some(error) = &self.error {
            let _ = writeln!(to, "{:<14} not known: {}", "cost", plain::text(error));
            return;
        }
        let of = if self.of_running_agent { "the running agent" } else { "this look" };
        let _ = writeln!(
            to,
            "{:<14} hooks of {of} over {} s; to measure adds some 40 ns to each run",
            "cost", self.seconds
        );
        for row in &self.hooks {
            let each = match row.nanoseconds_per_run {
                Some(each) => format!("{} ns each", text::amount(each.round())),
                None => "no run".to_owned(),
            };
            let _ = writeln!(
                to,
                "    {:<16} {:>9} runs/s  {each:>12}  {:.3} % of one CPU",
                row.hook,
                text::amount(row.runs_per_second),
                row.cpu_share * 100.0
            );
        }
    }
}

fn row(cost: &HookCost) -> CostRow {
    let seconds = SPAN.as_secs_f64();
    CostRow {
        hook: cost.hook,
        runs_per_second: cost.runs as f64 / seconds,
        nanoseconds_per_run: (cost.runs > 0)
            .then(|| cost.time.as_nanos() as f64 / cost.runs as f64),
        cpu_share: cost.time.as_secs_f64() / seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hook_has_a_row_with_rate_cost_and_share() {
        let costs = [
            HookCost { hook: "set_state", runs: 50_000, time: Duration::from_millis(5) },
            HookCost { hook: "bind", runs: 0, time: Duration::ZERO },
        ];
        let hooks = costs.iter().map(row).collect();
        let cost = Cost { of_running_agent: true, seconds: 5, hooks, error: None };
        let mut text = String::new();
        cost.write(&mut text);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("cost           hooks of the running agent over 5 s"));
        assert_eq!(
            lines[1],
            "    set_state           10,000 runs/s   100 ns each  0.100 % of one CPU"
        );
        assert_eq!(
            lines[2],
            "    bind                     0 runs/s        no run  0.000 % of one CPU"
        );
    }
}
