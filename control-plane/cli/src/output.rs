//! What a person or a program reads: tables, JSON or YAML on standard output, everything else on standard error.
//!
//! Colour goes to a terminal only (and not with `NO_COLOR`); a pipe gets plain text. A reader that goes away
//! stops the command without a word.

use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use serde_json::Value;

use crate::failure::Stop;

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    Table,
    /// JSON, for programs.
    Json,
    /// YAML, as `outrigger apply` takes it.
    Yaml,
}

/// The `-o` flag.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct OutputArgs {
    /// How to print the answer.
    #[arg(short = 'o', long, env = "OUTRIGGER_OUTPUT", value_enum, default_value = "table")]
    pub(crate) output: Format,
}

pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const GOOD: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green)));
pub(crate) const BAD: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red))).bold();
pub(crate) const WARN: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Yellow)));
pub(crate) const ACCENT: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Cyan)));

/// The text in a style; `anstream` takes the style away again where no terminal reads.
pub(crate) fn paint(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Writes the text to standard output.
///
/// # Errors
/// [`Stop::ReaderGone`] where nobody reads any more.
pub(crate) fn print(text: &str) -> Result<(), Stop> {
    let mut out = anstream::stdout().lock();
    finish(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Writes the text and a line end to standard output.
///
/// # Errors
/// [`Stop::ReaderGone`] where nobody reads any more.
pub(crate) fn line(text: &str) -> Result<(), Stop> {
    print(&format!("{text}\n"))
}

/// Writes a value as JSON or YAML; a table falls back to YAML, for answers that have no columns.
///
/// # Errors
/// [`Stop::ReaderGone`] where nobody reads any more.
pub(crate) fn value(format: Format, value: &Value) -> Result<(), Stop> {
    print(&render(format, value)?)
}

/// What [`value`] writes.
///
/// # Errors
/// A value that cannot be written, which JSON values can.
pub(crate) fn render(format: Format, value: &Value) -> Result<String, Stop> {
    match format {
        Format::Json => Ok(format!("{}\n", serde_json::to_string_pretty(value)?)),
        Format::Yaml | Format::Table => Ok(serde_yaml_ng::to_string(value)?),
    }
}

fn finish(result: io::Result<()>) -> Result<(), Stop> {
    match result {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Stop::ReaderGone),
        Err(error) => Err(Stop::failed(format!("cannot write to standard output: {error}"))),
    }
}

/// Writes an error to standard error; who cannot be told is not told.
pub(crate) fn error(text: &str) {
    let _ = writeln!(anstream::stderr(), "{} {text}", paint(BAD, "error:"));
}

/// Writes a remark to standard error, so that standard output holds the answer alone.
pub(crate) fn note(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Whether a person watches standard output.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let gone = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(matches!(finish(Err(gone)), Err(Stop::ReaderGone)));
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert!(matches!(finish(Err(full)), Err(Stop::Failed(_))));
    }
}
