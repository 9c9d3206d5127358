//! What single steps of a request cost: `outrigger-micro`, counted while it does them to order.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context as _, Result, bail};

use super::callgrind::{self, Callgrind};
use super::{Measured, progress};

const PROGRAM: &str = "outrigger-micro";

/// The program, which waits for orders. Dropping it kills it.
struct Steps {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// The figures of the steps that are wanted.
pub(super) fn measure(
    callgrind: &Callgrind,
    programs: &Path,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Measured>> {
    let program = programs.join(PROGRAM);
    if !program.is_file() {
        bail!("{}", callgrind::missing(programs, PROGRAM));
    }
    let mut steps = Steps::start(callgrind, &program)?;
    let mut counters = callgrind.counters("step", steps.child.id());
    let listed = steps.answer()?;
    let mut measured = Vec::new();
    for (name, times) in parse(&listed)?.into_iter().filter(|(name, _)| wanted(name)) {
        progress(name);
        // Prepares it, and everything that is made once.
        steps.order(name, 1)?;
        let mut count = |times: u64| {
            counters.take("rest")?;
            steps.order(name, times)?;
            anyhow::Ok(counters.take(name)?)
        };
        let (few, many) = (count(times)?, count(3 * times)?);
        let each = many.saturating_sub(few) as f64 / (2 * times) as f64;
        measured.push(Measured { case: name.to_owned(), instructions: each, spread: 0.0 });
    }
    Ok(measured)
}

/// Names, each with how often it takes to count it: `a=10 b=200`.
fn parse(listed: &str) -> Result<Vec<(&str, u64)>> {
    let step = |word| -> Option<(&str, u64)> {
        let (name, times) = str::split_once(word, '=')?;
        Some((name, times.parse().ok().filter(|times| *times > 0)?))
    };
    let steps: Option<Vec<_>> = listed.split_whitespace().map(step).collect();
    steps.with_context(|| format!("{PROGRAM}: not a list of steps: {listed:?}"))
}

impl Steps {
    fn start(callgrind: &Callgrind, program: &Path) -> Result<Self> {
        let mut command = callgrind.command(program);
        command.arg("--count").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("valgrind cannot be started")?;
        let (orders, answers) = (child.stdin.take(), child.stdout.take());
        let orders = orders.context("standard input is piped")?;
        let answers = BufReader::new(answers.context("standard output is piped")?);
        Ok(Self { child, orders, answers })
    }

    /// Has a step done so often.
    fn order(&mut self, name: &str, times: u64) -> Result<()> {
        writeln!(self.orders, "{name} {times}").with_context(|| format!("{PROGRAM} takes no orders"))?;
        self.answer().map(drop)
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).context(PROGRAM)?;
        if !line.ends_with('\n') {
            bail!("{PROGRAM} has ended; its own words are above");
        }
        Ok(line.trim().to_owned())
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        // Both fail only where the process has ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_steps_is_read_whole_or_not_at_all() {
        assert_eq!(
            parse("tls/handshake=20 route/1=1000").unwrap(),
            [("tls/handshake", 20), ("route/1", 1000)]
        );
        for wrong in ["route/1", "route/1=", "route/1=0", "a=1 b"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
