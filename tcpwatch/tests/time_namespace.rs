//! Ages in a time namespace: its clock is shifted, the kernel's stamps of sockets are not.

mod support;

use std::{process::Command, time::Instant};

use anyhow::{Context, Result, ensure};
use scenes::{CloseWaitLeak, Namespace};
use serde_json::Value;
use support::{Folder, skip, tcpwatch};

/// In seconds. No age of this test comes near them.
const SHIFTS: [&str; 2] = ["172800", "-100"];

#[test]
fn ages_do_not_move_with_the_clock_of_a_time_namespace() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    if !std::path::Path::new("/proc/self/timens_offsets").exists() {
        return skip("needs a kernel with time namespaces");
    }
    let folder = Folder::new()?;
    let text = "[detect.close_wait_pileup]\nmin_age = \"1s\"\nwarning = 20\n";
    let config = folder.write("tcpwatch.toml", text)?;
    let ns = Namespace::new("time")?;
    let begun = Instant::now();
    let _leak = CloseWaitLeak::client(&ns, 30, 0, false)?;
    for shift in SHIFTS {
        let binary = tcpwatch().get_program().to_owned();
        let mut check = Command::new("unshare");
        check.args(["--time", "--fork", "--kill-child", &format!("--monotonic={shift}"), "--"]);
        check.arg(binary).args(["check", "--for", "2s", "--json", "--config"]).arg(&config);
        let output = check.output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let context = || format!("{said}{}", String::from_utf8_lossy(&output.stderr));
        let answer: Value = serde_json::from_str(&said).with_context(context)?;
        let findings = answer["findings"].as_array().with_context(context)?;
        let ours = findings.iter().find(|finding| {
            finding["kind"] == "close-wait-pileup" && finding["subject"]["netns"] == ns.name()
        });
        let age = ours.with_context(context)?["evidence"]["oldest_age_seconds"].as_f64();
        let age = age.with_context(context)?;
        let oldest = begun.elapsed().as_secs_f64();
        ensure!(age >= 1.0 && age <= oldest, "shift {shift}: {age} s of at most {oldest} s");
    }
    Ok(())
}
