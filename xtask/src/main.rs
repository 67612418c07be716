//! The tasks of a developer of tcpwatch: `cargo xtask help` lists them.
//!
//! Thin: one file per task, each doing its own set-up and saying what it
//! does. `run` needs only stable Rust; the others install what they miss
//! where they may (Debian packages as root, cargo tools into target/tools).

mod agent;
mod bench;
mod command;
mod demo;
mod e2e;
mod ebpf;
mod healthy;
mod interrupt;
mod orphans;
mod package;
mod qemu;
mod repository;
mod run;
mod scene;
mod test;
mod tools;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks of a developer of tcpwatch.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build tcpwatch in release and run it on this host (stable Rust is enough)
    Run {
        /// Arguments for `tcpwatch run`
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Everything that must hold: formatting, lints, licences, the BPF object, all tests, deploy/
    Test,
    /// Rebuild the kernel part that is kept in the tree, tcpwatch/bpf/tcpwatch.bpf.o
    Ebpf {
        /// Change nothing; fail if the object in the tree is not the one that the sources make
        #[arg(long)]
        check: bool,
    },
    /// Make a situation in a network namespace of its own and show what tcpwatch says of it
    Demo {
        /// The situation
        story: demo::Story,
    },
    /// Measure what tcpwatch costs, in turn with the same thing without it and with others of its kind
    Bench {
        /// The operation to measure; none means all, and writes docs/BENCHMARKS.md
        subject: Option<bench::Subject>,
    },
    /// The kernel tests on Debian's kernels, 5.10 to the newest, each in an emulated machine
    Vm(vm::Arguments),
    /// Make .deb, .rpm, tarball and image for x86_64 and aarch64 in target/packages, and check them
    Package,
    /// The packages under a real systemd: Debian 11 and 12 in emulated machines
    E2e(e2e::Arguments),
    /// A process of a demo
    #[command(hide = true)]
    Scene {
        actor: scene::Actor,
        #[arg(long)]
        netns: String,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Run { args } => return run::run(&args),
        Task::Test => test::test(),
        Task::Ebpf { check: false } => ebpf::build(),
        Task::Ebpf { check: true } => ebpf::check(),
        Task::Demo { story } => demo::demo(story),
        Task::Bench { subject } => bench::bench(subject),
        Task::Vm(arguments) => vm::vm(&arguments),
        Task::Package => package::package(),
        Task::E2e(arguments) => e2e::e2e(&arguments),
        Task::Scene { actor, netns } => scene::play(actor, &netns),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<interrupt::Interrupted>() { 130 } else { 1 })
        }
    }
}
