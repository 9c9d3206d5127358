//! Instructions that a request costs, beside a committed baseline.
//!
//! CPU time depends on the machine and its neighbours; the number of instructions hardly does, so a change that makes
//! every request dearer by a few percent shows here and nowhere else. Counted is everything that the two release
//! proxies execute in user space while requests go through them, on all their threads, and the same for single
//! steps of a request (`outrigger-micro`), which say where to look.
//!
//! **How.** Each program runs under callgrind from its start, and the counters are read and set to nought through
//! `vgdb` before and after the load, so that nothing else is counted. Requests come in lockstep from the same
//! connections; a figure is the least of several runs. Figures of steps are differences between many and thrice as
//! many, so that what surrounds them cancels out. This is done by hand, and not with a framework for benchmarks,
//! because those measure a program from its start to its end, and have it compiled anew for that: here are the very
//! binaries that are released, at work.
//!
//! **What it leaves out.** The kernel, and what a processor makes of the instructions: caches, branches, waiting. A
//! change that saves system calls shows in `mesh` and hardly here.
//!
//! **How exact.** Repeated runs differ by less than 1 %, for steps by next to nothing: time passes during a run, in
//! which a proxy does other things than requests, and with many connections it is up to chance which requests it
//! finds together. Neither the processor nor other processes matter. The processor that programs see is valgrind's
//! own, a Core i7 of 2014, so that the C library, `memchr` and the cryptography choose the same code everywhere
//! (and not that for AVX-512), as long as the real one has AVX2. Where it has not, and on other architectures,
//! nothing is compared. Another compiler or valgrind changes the figures; the baseline names those that it was
//! taken with.
//!
//! **When it fails**, `callgrind_annotate` finds the place: build with `CARGO_PROFILE_RELEASE_STRIP=none
//! CARGO_PROFILE_RELEASE_DEBUG=line-tables-only`, before and after the change, run with `--keep DIR`, and compare
//! what it says of the files there.

mod baseline;
mod callgrind;
mod requests;
mod steps;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use baseline::{Baseline, Comparison, Conditions};
use callgrind::Callgrind;

/// The committed figures.
const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/baseline/instructions.json");

/// One figure.
#[derive(Debug, Clone, PartialEq)]
struct Measured {
    case: String,
    /// For one request, or one step; user space alone.
    instructions: f64,
    /// Between the least and the greatest of the runs, as a share of the least.
    spread: f64,
}

impl Measured {
    /// The least of several runs, of which there must be one at least: what a proxy does from time to time, like
    /// reporting to its control plane, only ever adds.
    fn least(case: String, runs: &[f64]) -> Self {
        let least = runs.iter().copied().fold(f64::INFINITY, f64::min);
        let most = runs.iter().copied().fold(0.0, f64::max);
        Self { case, instructions: least, spread: (most - least) / least.max(1.0) }
    }
}

/// How to count.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Exit status: 0 when no case executes over 3 % more instructions than the baseline says; 1 when one does, or when
nothing could be counted, which standard error then says.

Examples:
  cargo build --release -p outrigger -p outrigger-proxy -p outrigger-benches -p outrigger-micro
  cargo run --release -p outrigger-benches -- instructions
  cargo run --release -p outrigger-benches -- instructions --case http1-1 --keep /tmp/callgrind
  callgrind_annotate /tmp/callgrind/caller-http1-1.out | less
  cargo run --release -p outrigger-benches -- instructions --update-baseline   # and say why in the commit")]
pub struct InstructionsArgs {
    /// Only these, by their whole name or one half of it: caller/http1-1, http1-1, tls; may be repeated
    #[arg(long = "case", value_name = "NAME")]
    cases: Vec<String>,
    /// Makes what was counted the new baseline
    #[arg(long)]
    update_baseline: bool,
    /// What to compare with [default: benches/baseline/instructions.json where this was built]
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Where the programs are [default: beside this one]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Keeps callgrind's files there, one for each case and program
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// Counts, compares, prints the result, and says whether nothing has become dearer.
///
/// # Errors
/// Valgrind or a program is missing, a request failed, or there is no baseline.
pub fn run(args: &InstructionsArgs) -> Result<bool> {
    let callgrind = Callgrind::find(args.keep.clone())?;
    let conditions = Conditions::here(callgrind.version.clone());
    let path = args.baseline.as_deref().unwrap_or(Path::new(BASELINE));
    let before = Baseline::load(path)?;
    if before.is_none() && !args.update_baseline {
        bail!("{} is not there: make it with --update-baseline", path.display());
    }
    let measured = measure(args, &callgrind)?;
    if args.update_baseline {
        let whole = args.cases.is_empty();
        let kept = before.filter(|_| !whole).map(|baseline| baseline.instructions).unwrap_or_default();
        Baseline::new(conditions, kept, &measured).save(path)?;
        eprintln!("written: {}; say in the commit why the figures changed", path.display());
        return Ok(true);
    }
    let before = before.context("there is a baseline")?;
    if let Some(why) = before.conditions.incomparable(&conditions) {
        measured.iter().for_each(|m| println!("{:24} {:>12.0}", m.case, m.instructions));
        println!("NOT COMPARED: {why}");
        return Ok(true);
    }
    let comparison = Comparison::new(&before, &measured);
    print!("{}", comparison.table());
    let advice = comparison.advice(&before.conditions, &conditions);
    if !advice.is_empty() {
        eprint!("\n{advice}");
    }
    Ok(comparison.passed())
}

fn measure(args: &InstructionsArgs, callgrind: &Callgrind) -> Result<Vec<Measured>> {
    let wanted = |case: &str| args.cases.is_empty() || args.cases.iter().any(|part| is_part(part, case));
    let programs = match &args.bin_dir {
        Some(directory) => directory.clone(),
        None => std::env::current_exe()?.parent().context("a program is in a directory")?.to_owned(),
    };
    let mut measured = requests::measure(callgrind, &programs, wanted)?;
    measured.extend(steps::measure(callgrind, &programs, wanted)?);
    if measured.is_empty() {
        bail!("there is no case {}; without --case all are counted, and named", args.cases.join(" or "));
    }
    Ok(measured)
}

/// Whether it is the whole name, or what is before or behind the slash.
fn is_part(part: &str, case: &str) -> bool {
    case == part || case.split('/').any(|half| half == part)
}

/// To standard error, so that standard output is the result alone.
fn progress(what: &str) {
    eprintln!("counting: {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_asked_for_by_its_name_or_half_of_it_and_not_by_another_s_beginning() {
        let asked =
            |part| ["caller/http1-1", "caller/http1-16", "tls/handshake"].map(|case| is_part(part, case));
        assert_eq!(asked("http1-1"), [true, false, false]);
        assert_eq!(asked("caller"), [true, true, false]);
        assert_eq!(asked("tls/handshake"), [false, false, true]);
        assert_eq!(asked("http"), [false; 3]);
    }

    #[test]
    fn a_figure_is_the_least_and_its_spread_that_of_all_runs() {
        let measured = Measured::least("a".to_owned(), &[110.0, 100.0, 120.0]);
        assert_eq!((measured.instructions, measured.spread), (100.0, 0.2));
    }
}
