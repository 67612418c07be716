//! Colours, by meaning. Every meaning is said in words or numbers too: with NO_COLOR none is lost.

use ratatui::{
    buffer::Buffer,
    style::{Color, Modifier, Style},
};

use crate::{engine::Severity, publish::severity_of_part};

/// The meaning of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    /// Titles.
    Strong,
    /// Nothing is there, or it matters less.
    Faint,
    Good,
    Info,
    Warning,
    Critical,
    /// To be pasted into a shell.
    Command,
}

impl Tone {
    pub(super) const fn of(severity: Severity) -> Self {
        match severity {
            Severity::Critical => Self::Critical,
            Severity::Warning => Self::Warning,
            Severity::Info => Self::Info,
        }
    }

    /// Of a used part of a limit.
    pub(super) fn of_part(part: f64) -> Self {
        severity_of_part(part).map_or(Self::Good, Self::of)
    }

    pub(super) const fn style(self) -> Style {
        let style = Style::new();
        match self {
            Self::Plain => style,
            Self::Strong => style.add_modifier(Modifier::BOLD),
            Self::Faint => style.fg(Color::DarkGray),
            Self::Good => style.fg(Color::Green),
            Self::Info => style.fg(Color::Blue).add_modifier(Modifier::BOLD),
            Self::Warning => style.fg(Color::Yellow).add_modifier(Modifier::BOLD),
            Self::Critical => style.fg(Color::Red).add_modifier(Modifier::BOLD),
            Self::Command => style.fg(Color::Cyan),
        }
    }
}

/// Takes all colours away; bold and reversed text stays.
pub(super) fn without_colour(buffer: &mut Buffer) {
    for cell in &mut buffer.content {
        cell.fg = Color::Reset;
        cell.bg = Color::Reset;
    }
}
