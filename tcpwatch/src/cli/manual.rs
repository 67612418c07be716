//! `tcpwatch manual FOLDER`: man pages and shell completions, made from the command line itself.
//!
//! For packagers and for an installation from source; hidden from `--help`. `SOURCE_DATE_EPOCH` is
//! the date of the pages, so that the same sources make the same bytes.

use std::{
    env, fs,
    io::{self, Write as _},
    path::Path,
};

use clap::{Command, CommandFactory as _};
use clap_complete::{Shell, generate_to};
use clap_mangen::{
    Man,
    roff::{Inline, Roff, bold, roman},
};

use super::{Cli, Exit};

/// Each name and version that a page shows.
const NAME: &str = "tcpwatch";
const SOURCE: &str = concat!("tcpwatch ", env!("CARGO_PKG_VERSION"));

/// Writes `man/` and `completions/` into `folder`.
pub(super) fn write(folder: &Path) -> Exit {
    match man_pages(&folder.join("man")).and_then(|()| completions(&folder.join("completions"))) {
        Ok(()) => Exit::Ok,
        Err(error) => Exit::failed(&error),
    }
}

/// The command line without what is hidden: neither pages nor completions show that.
fn visible() -> Command {
    let all = Cli::command();
    let shown: Vec<Command> =
        all.get_subcommands().filter(|it| !it.is_hide_set()).cloned().collect();
    Command::new(NAME)
        .about(all.get_about().cloned().unwrap_or_default())
        .version(super::VERSION)
        .subcommand_required(true)
        .subcommands(shown)
        .disable_help_subcommand(true)
}

fn man_pages(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut command = visible();
    command.build();
    write_page(&command, &date(), folder)
}

/// The page of this command, and those of the commands below it.
fn write_page(command: &Command, date: &str, folder: &Path) -> io::Result<()> {
    for below in command.get_subcommands() {
        write_page(below, date, folder)?;
    }
    let man = Man::new(command.clone()).date(date).source(SOURCE).manual("User Commands");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    closing_sections(command).to_writer(&mut page)?;
    // One blank line, and not three macros of which two have no effect.
    let page = String::from_utf8_lossy(&page).replace("\n.br\n\n.br\n", "\n.sp\n");
    fs::File::create(folder.join(man.get_filename()))?.write_all(page.as_bytes())
}

/// Facts beyond the options: exit codes, files and related pages.
fn closing_sections(command: &Command) -> Roff {
    let mut roff = Roff::new();
    let mut rows = |title: &str, rows: &[(&str, &str)]| {
        roff.control("SH", [title]);
        for (name, meaning) in rows {
            roff.control("TP", []).text([bold(*name)]).text([roman(*meaning)]);
        }
    };
    if command.get_name() == "check" {
        rows("EXIT STATUS", &CHECK_CODES);
    } else {
        rows("EXIT STATUS", &CODES);
    }
    rows("FILES", &FILES);
    let mut see_also: Vec<Inline> = Vec::new();
    let own = command.get_display_name().unwrap_or(NAME);
    for page in pages().iter().filter(|page| *page != own) {
        if !see_also.is_empty() {
            see_also.push(roman(", "));
        }
        see_also.extend([bold(page), roman("(1)")]);
    }
    roff.control("SH", ["SEE ALSO"]).text(see_also);
    roff
}

/// The names of all pages, sorted.
fn pages() -> Vec<String> {
    fn collect(command: &Command, names: &mut Vec<String>) {
        names.push(command.get_display_name().unwrap_or(NAME).to_owned());
        command.get_subcommands().for_each(|below| collect(below, names));
    }
    let mut command = visible();
    command.build();
    let mut names = Vec::new();
    collect(&command, &mut names);
    names.sort();
    names
}

/// As README.md has them.
const CODES: [(&str, &str); 5] = [
    ("0", "Done."),
    ("1", "Failed at run time."),
    ("64", "Bad usage."),
    ("77", "Not permitted."),
    ("78", "Bad configuration."),
];
const CHECK_CODES: [(&str, &str); 4] = [
    ("0", "OK; findings of severity info are included."),
    ("1", "WARNING."),
    ("2", "CRITICAL."),
    ("3", "UNKNOWN: tcpwatch could not look, for any reason."),
];
const FILES: [(&str, &str); 2] = [
    ("/etc/tcpwatch/tcpwatch.toml", "The configuration, if it exists."),
    ("/run/tcpwatch/tcpwatch.sock", "The API of the running agent."),
];

/// Of `SOURCE_DATE_EPOCH`, in seconds since the epoch; without it today's.
fn date() -> String {
    let seconds = env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    let moment = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    moment.unwrap_or_else(jiff::Timestamp::now).strftime("%Y-%m-%d").to_string()
}

fn completions(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut visible(), NAME, folder)?;
    }
    Ok(())
}
