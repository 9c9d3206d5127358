//! Steps done to order, for somebody who counts instructions from outside.
//!
//! `outrigger-benches instructions` starts this program under callgrind and reads the counters before and after each
//! order, so that only the work lies between. A line on standard input names a step and says how often; when it
//! is done, a line on standard output says so. The first line on standard output lists the steps, each with how often it
//! should be done to be counted.

use std::io::{self, BufRead as _, Write as _};

use anyhow::{Context as _, Result, bail};

use crate::step::{self, Step, Work};

/// The only argument that asks for this.
pub(crate) const ARGUMENT: &str = "--count";

/// Until standard input ends.
///
/// # Errors
/// An order cannot be understood or carried out.
pub(crate) fn serve() -> Result<()> {
    let steps = step::all();
    let mut prepared: Option<(&str, Work)> = None;
    let listed: Vec<String> = steps.iter().map(|step| format!("{step}={}", step.times)).collect();
    say(&listed.join(" "))?;
    for line in io::stdin().lock().lines() {
        let line = line.context("standard input")?;
        let (name, times) = line.split_once(' ').with_context(|| format!("not STEP TIMES: {line:?}"))?;
        let times: u32 = times.parse().with_context(|| format!("not a number: {times:?}"))?;
        if prepared.as_ref().is_none_or(|(there, _)| *there != name) {
            let step = find(&steps, name)?;
            prepared = Some((step.name, step.prepare()?));
        }
        if let Some((_, work)) = &mut prepared {
            (0..times).for_each(|_| work());
        }
        say("done")?;
    }
    Ok(())
}

fn find<'a>(steps: &'a [Step], name: &str) -> Result<&'a Step> {
    match steps.iter().find(|step| step.name == name) {
        Some(step) => Ok(step),
        None => bail!("there is no step {name:?}"),
    }
}

fn say(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("standard output")
}
