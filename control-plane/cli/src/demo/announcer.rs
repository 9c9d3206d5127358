//! The demo's voice: what happens now, for the person who watches.
//!
//! With `-o json` or `-o yaml` standard output is for the result alone and the voice goes to standard error.

use std::io::{IsTerminal, Write};

use crate::failure::Stop;
use crate::output::{self, ACCENT, BAD, BOLD, DIM, Format, GOOD, paint};

/// How wide the line is that changes.
const LIVE_WIDTH: usize = 50;

/// Tells the phases one by one.
pub(crate) struct Announcer {
    format: Format,
    phases: usize,
    begun: usize,
    /// A line is shown that the next one overwrites.
    live: bool,
}

impl Announcer {
    /// A voice for so many phases.
    pub(crate) fn new(format: Format, phases: usize) -> Self {
        Self { format, phases, begun: 0, live: false }
    }

    /// The next phase begins.
    ///
    /// # Errors
    /// Nobody listens any more.
    pub(crate) fn phase(&mut self, title: &str) -> Result<(), Stop> {
        self.begun += 1;
        let number = paint(DIM, format!("{}/{}", self.begun, self.phases));
        self.say(&format!("\n{number} {}", paint(BOLD, title)))
    }

    /// Something that is worth knowing about the phase.
    ///
    /// # Errors
    /// Nobody listens any more.
    pub(crate) fn detail(&mut self, text: &str) -> Result<(), Stop> {
        self.say(&format!("    {text}"))
    }

    /// How something ended.
    ///
    /// # Errors
    /// Nobody listens any more.
    pub(crate) fn outcome(&mut self, good: bool, text: &str) -> Result<(), Stop> {
        let mark = if good { paint(GOOD, "✓") } else { paint(BAD, "✗") };
        self.say(&format!("    {mark} {text}"))
    }

    /// A line that changes while one watches; a terminal alone gets it.
    pub(crate) fn progress(&mut self, text: &str) {
        if self.format == Format::Table && std::io::stdout().is_terminal() {
            self.live = true;
            let mut out = anstream::stdout().lock();
            // A terminal that went away is noticed by the next whole line.
            let _ = write!(out, "\r    {}", paint(ACCENT, format!("{text:<LIVE_WIDTH$}")))
                .and_then(|()| out.flush());
        }
    }

    /// Says a line.
    ///
    /// # Errors
    /// Nobody listens any more.
    pub(crate) fn say(&mut self, text: &str) -> Result<(), Stop> {
        if self.format != Format::Table {
            output::note(text);
            return Ok(());
        }
        if std::mem::take(&mut self.live) {
            // Spaces, since a terminal without colours gets no control sequences either.
            output::print(&format!("\r{:width$}\r", "", width = LIVE_WIDTH + 4))?;
        }
        output::line(text)
    }
}
