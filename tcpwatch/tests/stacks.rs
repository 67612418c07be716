//! The user stack that opened the leaked sockets, of a program as distributions build them: C, -O2,
//! no frame pointers, glibc.
//!
//! The program is `leak.c`; its connect() is called by `connect_backend`. The test expects only the
//! name of that function: beyond it a walk without frame pointers may lose its way.

mod support;

use anyhow::{Context, Result};
use scenes::Namespace;
use serde_json::Value;
use support::{
    Agent, Folder,
    leak::{ClosingServer, Leak, compile, has_compiler},
    poll, skip,
};

/// Growth is judged in seconds here, and the stacks are taken while there is some.
const QUICK: &str = "\
[inventory]
interval = \"1s\"
[detect.close_wait_pileup]
min_age = \"1s\"
window = \"8s\"
";

#[test]
fn the_stack_of_a_leak_names_the_function_that_called_connect() -> Result<()> {
    leak_is_named(&[])
}

#[test]
fn the_stack_of_a_leak_in_a_thread_names_the_function_that_called_connect() -> Result<()> {
    leak_is_named(&["thread"])
}

fn leak_is_named(arguments: &[&str]) -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    if !has_compiler() {
        return skip("needs a C compiler, cc");
    }
    let folder = Folder::new()?;
    let program = compile(&folder.path)?;
    let ns = Namespace::new("stacks")?;
    let server = ClosingServer::start(&ns)?;
    let agent = Agent::start(QUICK)?;
    let mut leak = Leak::start(&ns, &program, server.port, arguments)?;

    let finding = poll("a pileup with the stack that opened it", || {
        leak.must_run()?;
        let found = agent.findings("close-wait-pileup", ns.name())?;
        Ok(found.into_iter().find(|finding| finding["subject"]["stack"].is_array()))
    })?;
    assert_eq!(finding["subject"]["pid"], leak.child.id(), "{finding:#}");
    assert_names_connect_backend(&finding)
}

fn assert_names_connect_backend(finding: &Value) -> Result<()> {
    let frames = finding["subject"]["stack"].as_array().context("a finding without stack")?;
    let names = |frame: &Value| frame.as_str().is_some_and(|it| it.starts_with("connect_backend"));
    assert!(frames.iter().any(names), "{finding:#}");
    let stacks = finding["evidence"]["stacks"].as_array().context("evidence without stacks")?;
    let frames = stacks[0]["frames"].as_array().context("a stack without frames")?;
    assert!(frames.iter().any(names), "{finding:#}");
    let explanation = finding["explanation"].as_str().context("no explanation")?;
    assert!(explanation.contains("opened by connect_backend()"), "{explanation}");
    Ok(())
}
