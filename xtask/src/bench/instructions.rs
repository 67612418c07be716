//! Instructions of a run of each hook over those of an empty program at the same place, along each
//! path: the measurement of [`hooks`](super::hooks), on a machine whose clock goes on by a nanosecond
//! with each instruction. `cargo xtask vm` boots one.

use std::{env, path::PathBuf, process};

use anyhow::{Context, Result, ensure};
use scenes::Namespace;

use super::{gauge::paths, hooks::round};
use crate::interrupt::Interrupt;

/// Paths, and how many instructions they may take: a tenth more than they took on Debian's 6.12 in
/// November 2026. Those of the kernel's helpers are among them.
const BOUNDS: [(&str, f64); 13] = [
    ("SYN_RECV to ESTABLISHED", 86.0),
    ("SYN_SENT to ESTABLISHED", 141.0),
    ("CLOSE to SYN_SENT", 407.0),
    ("ESTABLISHED to CLOSE_WAIT", 193.0),
    ("CLOSE_WAIT to CLOSE", 164.0),
    ("CLOSE_WAIT to LAST_ACK", 352.0),
    ("ESTABLISHED to FIN_WAIT1", 294.0),
    ("FIN_WAIT1 to FIN_WAIT2", 86.0),
    ("FIN_WAIT2 to CLOSE", 86.0),
    ("LAST_ACK to CLOSE", 86.0),
    ("LISTEN to SYN_RECV", 86.0),
    ("reset sent", 717.0),
    ("reset received", 667.0),
];
/// Fewer runs would be no measurement.
const LEAST_RUNS: u64 = 500;

#[test]
#[ignore = "needs a machine whose clock counts instructions: cargo xtask vm 6.12 --instructions"]
fn no_path_through_a_hook_has_grown() -> Result<()> {
    let binary = env::var_os("TCPWATCH_BINARY").map(PathBuf::from).context("TCPWATCH_BINARY")?;
    let interrupt = Interrupt::install()?;
    let ns = Namespace::new(&format!("count-{}", process::id()))?;
    let paths = paths();
    let costs = round(&binary, &ns, &paths, &interrupt)?;
    let mut above = Vec::new();
    for (name, bound) in BOUNDS {
        let place = paths.iter().position(|(_, path)| path == name).context("a path")?;
        let cost = costs[place];
        ensure!(cost.runs() >= LEAST_RUNS, "{name}: {} runs", cost.runs());
        let instructions = cost.ns_over_empty();
        // The name of the test is on the line before.
        println!("\nfigure: {instructions:>4.0} instructions, at most {bound}: {name}");
        if !(1.0..=bound).contains(&instructions) {
            above.push(format!("{name}: {instructions:.0} of {bound}"));
        }
    }
    ensure!(above.is_empty(), "instructions beyond their bounds: {}", above.join(", "));
    Ok(())
}
