//! The `tcpwatch` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    tcpwatch::cli::main()
}
