//! `cargo xtask run`: build tcpwatch with only stable Rust, run it on this
//! host, say where to look.
//!
//! Without root it says exactly how to start it and ends with 77, as
//! tcpwatch itself does when it is not permitted.

use std::{os::unix::process::CommandExt, process::ExitCode};

use crate::{command::command, repository};

/// EX_NOPERM of sysexits.h: tcpwatch's own code for "not permitted".
const NOT_PERMITTED: u8 = 77;

/// The address that tcpwatch listens on by default.
const DEFAULT_ADDRESS: &str = "127.0.0.1:10743";

pub(crate) fn run(args: &[String]) -> ExitCode {
    let binary = match repository::build_tcpwatch() {
        Ok(binary) => binary,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let arguments: String = args.iter().map(|a| format!(" {a}")).collect();
    if !scenes::is_root() {
        eprintln!(
            "tcpwatch is built, but watching needs root (or CAP_BPF and CAP_PERFMON). Run:\n\n    \
             sudo {} run{arguments}\n",
            binary.display()
        );
        return ExitCode::from(NOT_PERMITTED);
    }
    let address = listen_address(args);
    println!(
        "\nWhere to look:\n  \
         http://{address}/                  what is wrong on this host, for a person\n  \
         http://{address}/metrics           what Prometheus scrapes\n  \
         http://{address}/api/v1/findings   what is wrong on this host, as JSON\n  \
         {} check   the same from another terminal\n\
         Ctrl-C ends it.\n",
        binary.display()
    );
    // Replaces this process: signals and the exit code are tcpwatch's own.
    let error = command(&binary).arg("run").args(args).exec();
    eprintln!("error: cannot run {}: {error}", binary.display());
    ExitCode::FAILURE
}

/// The first `--web.listen-address`, else the default. A configuration file
/// may say otherwise; tcpwatch logs what it listens on.
fn listen_address(args: &[String]) -> &str {
    const FLAG: &str = "--web.listen-address";
    args.iter()
        .zip(args.iter().skip(1).map(Some).chain([None]))
        .find_map(|(arg, next)| match arg.strip_prefix(FLAG)? {
            "" => next.map(String::as_str),
            value => value.strip_prefix('='),
        })
        .unwrap_or(DEFAULT_ADDRESS)
}

#[cfg(test)]
mod tests {
    use super::listen_address;

    #[test]
    fn the_address_to_look_at_is_the_one_given() {
        let args = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        assert_eq!(listen_address(&args(&[])), "127.0.0.1:10743");
        assert_eq!(listen_address(&args(&["--web.listen-address", "[::1]:9"])), "[::1]:9");
        assert_eq!(listen_address(&args(&["--web.listen-address=[::1]:9"])), "[::1]:9");
        assert_eq!(listen_address(&args(&["--log.level", "debug"])), "127.0.0.1:10743");
    }
}
