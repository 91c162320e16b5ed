//! The output of the commands that read a running relink: texts with colours, or JSON. Colours are removed where they are not wanted.
//!
//! Ids, names and messages in the answers come from outside, so every text is made printable before it is printed.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use anyhow::Context;
use clap::error::ErrorKind;
use serde_json::Value;

use crate::printable::{exact_json, printable};

pub(super) const DIM: Style = Style::new().dimmed();
pub(super) const BOLD: Style = Style::new().bold();

/// Moves to the first column of the first line, and clears the screen. Only for a terminal.
pub(super) const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// Prints to standard output, with colours only if it supports them. A closed pipe (`| head`) is no error.
pub(super) fn print(text: &str) -> anyhow::Result<ExitCode> {
    reaches_reader(text).map(|_| ExitCode::SUCCESS)
}

/// The same. Returns whether somebody still reads it: a program that goes on printing ends after a closed pipe.
pub(super) fn reaches_reader(text: &str) -> anyhow::Result<bool> {
    match anstream::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("writing to standard output")
        }
        written => Ok(written.is_ok()),
    }
}

/// Ends the program as for any other wrong argument: with exit status 2. `problem` is a sentence that says what to change.
pub(super) fn wrong_argument(problem: impl std::fmt::Display) -> ! {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{problem}\n")).exit()
}

/// Prints a value as JSON: with the exact texts, and safe on a terminal.
pub(super) fn print_json(value: &Value) -> anyhow::Result<ExitCode> {
    print(&json_text(value))
}

/// A value as JSON, with the exact texts, and safe on a terminal.
pub(super) fn json_text(value: &Value) -> String {
    exact_json(value) + "\n"
}

/// Says on standard error that a request failed and is sent again.
pub(super) fn note_retry(error: &anyhow::Error) {
    // Standard error may be a closed terminal.
    let _ = writeln!(anstream::stderr(), "{DIM}relink: {}; trying again{DIM:#}", printable(&format!("{error:#}")));
}

/// Appends a line.
pub(super) fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    let _infallible = writeln!(text, "{content}");
}

/// The width of the terminal; `None` if the output is not a terminal, and then no cell of a table is wrapped.
pub(super) fn terminal_width() -> Option<u16> {
    let (terminal_size::Width(width), _height) = terminal_size::terminal_size_of(std::io::stdout())?;
    Some(width)
}

/// The colour of a state.
pub(super) fn colour_of(state: &str) -> Style {
    match state {
        "valid" => AnsiColor::Green.on_default(),
        "invalid" | "token_required" => AnsiColor::Red.on_default(),
        "updating" => AnsiColor::Yellow.on_default(),
        _ => Style::new(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use anstyle::AnsiColor;

    use super::{BOLD, DIM};

    /// A text that tries to forge output on a terminal.
    pub(in crate::cli) const HOSTILE: &str =
        "x\n  2026-01-01T00:00:00.000Z  forged\r\u{1b}[2J\u{7}\u{9b}31m\u{202e}\u{2066}\u{200b}\u{feff}é";

    pub(in crate::cli) const DANGEROUS: [char; 8] =
        ['\r', '\u{1b}', '\u{7}', '\u{9b}', '\u{202e}', '\u{2066}', '\u{200b}', '\u{feff}'];

    /// Whether the text contains no dangerous character and no forged line.
    pub(in crate::cli) fn is_safe(text: &str) -> bool {
        let mut plain = text.to_owned();
        let colours = [AnsiColor::Yellow, AnsiColor::Cyan, AnsiColor::Green, AnsiColor::Red].map(AnsiColor::on_default);
        for style in [DIM, BOLD].into_iter().chain(colours) {
            plain = plain.replace(&style.render().to_string(), "").replace(&style.render_reset().to_string(), "");
        }
        let is_forged = |line: &str| line.trim_start().starts_with("2026-01-01");
        !plain.contains(DANGEROUS) && !plain.lines().any(is_forged)
    }
}
