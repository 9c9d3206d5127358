//! The mesh beside its peers: one upstream, one load, one machine, one run.
//!
//! ```text
//! load -> caller's proxy =mTLS=> service's proxy -> upstream        for Outrigger, Envoy and HAProxy in turn
//! load -> upstream                                                  for none: what the ground allows
//! ```
//!
//! What is compared is CPU time for each request, above all: it can be compared on two cores that load, upstream and
//! both proxies share, and between machines of one kind. Requests a second at saturation say how much of the
//! machine is left for the proxies. Latency is of an open loop, from when a request was due.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum as _;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::calibration::{self, Calibration};
use crate::case::{Bench, CASES, Case, Pace};
use crate::load::raise_file_limit;
use crate::procfs::Machine;
use crate::report::checked_out;
use crate::report::comparison::{Comparison, LeftOut, Measured, name};
use crate::rounds;
use crate::subject::{Subject, Tools};
use crate::upstream::Upstream;

/// The name on the command line of what is no case of the subjects: the generator beside others.
const CALIBRATE: &str = "calibrate";

/// How to measure.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = after_help())]
pub struct MeshArgs {
    /// One round with short windows: to see that it works, not to quote
    #[arg(long)]
    quick: bool,
    /// Cases to measure, by name [default: all]
    #[arg(long = "case", value_name = "NAME", value_delimiter = ',', value_parser = case_name)]
    cases: Vec<String>,
    /// What to measure [default: all]
    #[arg(
        long = "subject",
        value_name = "NAME",
        value_delimiter = ',',
        value_enum,
        hide_possible_values = true
    )]
    subjects: Vec<Subject>,
    /// How often every subject is measured in every case [default: 5, or 1 with --quick]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// How long a load is measured [default: 4, or 1 with --quick]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: Option<u64>,
    /// Where `outrigger` and `outrigger-proxy` are [default: built for release beside this program]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Where DATE-mesh.json is written, with every figure; benches/results is where those are that are kept
    #[arg(long, value_name = "DIR", default_value = "target/benches")]
    out_dir: PathBuf,
    /// Fail when a target is missed, too
    #[arg(long)]
    strict: bool,
    /// Tables for people, or the JSON that is also written
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}

fn after_help() -> String {
    let width = CASES.iter().map(|case| case.name.len()).max().unwrap_or_default();
    let mut cases: Vec<_> =
        CASES.iter().map(|case| format!("  {:width$}  {}", case.name, case.about)).collect();
    cases.push(format!(
        "  {CALIBRATE:width$}  the load generator beside wrk and h2load, on the same upstream"
    ));
    let subjects: Vec<String> = Subject::value_variants().iter().copied().map(name).collect();
    format!(
        "\
Cases:
{}

Subjects: {}

Exit status: 0 when everything was measured, whether or not the targets are met; 1 when something
could not be, which the result names, or with --strict when a target is missed. A peer that is not
installed is left out and named.

Examples:
  cargo run --release -p outrigger-benches -- mesh --quick
  cargo run --release -p outrigger-benches -- mesh --case h1-c16,h1-c64 --subject none,outrigger
  cargo run --release -p outrigger-benches -- mesh --out-dir benches/results",
        cases.join("\n"),
        subjects.join(", ")
    )
}

fn case_name(text: &str) -> Result<String, String> {
    let names = || CASES.iter().map(|case| case.name).chain([CALIBRATE]);
    match names().any(|name| name == text) {
        true => Ok(text.to_owned()),
        false => Err(format!("must be one of {}", names().collect::<Vec<_>>().join(", "))),
    }
}

/// Measures, writes and prints the result, and says whether all is well.
///
/// # Errors
/// Nothing could be measured: a binary does not build, a port or a file is not to be had.
pub fn run(args: &MeshArgs) -> Result<bool> {
    raise_file_limit()?;
    // Before anything is built or started, so that the load average is that of the neighbours.
    let machine = Machine::this();
    if machine.is_busy() {
        eprintln!("this machine is busy, and what its neighbours do is measured too: {machine}");
    }
    let began = OffsetDateTime::now_utc();
    let commit = checked_out();
    let (rounds, pace) = args.pace();
    let asked = if args.subjects.is_empty() { Subject::value_variants() } else { &args.subjects };
    let cases = args.cases();
    let upstream = Upstream::start()?;
    let mut comparison = Comparison {
        scenario: "mesh",
        date: began.format(&Rfc3339).context("the date")?,
        commit,
        machine,
        settings: args.settings(&cases),
        subjects: Vec::new(),
        left_out: Vec::new(),
        calibration: args.calibration(&upstream)?,
        verdicts: Vec::new(),
        summary: Vec::new(),
        failures: Vec::new(),
        samples: Vec::new(),
    };
    let file = format!("{}-mesh{}.json", began.date(), if args.quick { "-quick" } else { "" });
    let file = args.out_dir.join(file);
    if cases.is_empty() {
        write(&comparison, &file)?;
    } else {
        let tools = Tools::find(&args.binaries(asked)?, asked)?;
        let subjects = available(&tools, asked, &mut comparison);
        let bench = Bench { upstream, tools, pace };
        rounds::measure(&bench, &cases, &subjects, rounds, &mut |results| {
            comparison.take_in(results, asked);
            // Every time, so that a run that is interrupted leaves what it has.
            write(&comparison, &file)
        })?;
    }
    match args.output {
        Format::Table => print!("{}", comparison.tables()),
        Format::Json => println!("{}", serde_json::to_string_pretty(&comparison)?),
    }
    eprintln!("every figure is in {}", file.display());
    Ok(comparison.complete() && (comparison.met() || !args.strict))
}

/// Names what is left out, and notes the version of what is not.
fn available(tools: &Tools, asked: &[Subject], comparison: &mut Comparison) -> Vec<Subject> {
    let mut subjects = asked.to_vec();
    subjects.retain(|&subject| match tools.missing(subject) {
        None => {
            comparison.subjects.push(Measured { subject, version: tools.version(subject) });
            true
        }
        Some(why) => {
            eprintln!("left out: {}: {why}", name(subject));
            comparison.left_out.push(LeftOut { subject, why });
            false
        }
    });
    subjects
}

fn write(comparison: &Comparison, file: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(comparison)?;
    let directory = file.parent().map_or(Ok(()), std::fs::create_dir_all);
    let written = directory.and_then(|()| std::fs::write(file, format!("{text}\n")));
    written.with_context(|| format!("{} cannot be written", file.display()))
}

impl MeshArgs {
    fn pace(&self) -> (u32, Pace) {
        let seconds = |quick, usual| Duration::from_secs_f64(if self.quick { quick } else { usual });
        let window = self.seconds.map_or(seconds(1.0, 4.0), Duration::from_secs);
        let starts = if self.quick { 1 } else { 3 };
        let pace = Pace { warm_up: seconds(0.5, 1.0), window, settle: seconds(1.0, 3.0), starts };
        (self.rounds.unwrap_or(if self.quick { 1 } else { 5 }), pace)
    }

    /// As the result tells them.
    fn settings(&self, cases: &[&Case]) -> Value {
        let (rounds, pace) = self.pace();
        json!({
            "rounds": rounds,
            "quick": self.quick,
            "warmUpSeconds": pace.warm_up.as_secs_f64(),
            "windowSeconds": pace.window.as_secs_f64(),
            "settleSeconds": pace.settle.as_secs_f64(),
            "cases": cases.iter().map(|case| case.name).collect::<Vec<_>>(),
        })
    }

    /// The generator beside others, if that was asked for, or nothing in particular was.
    fn calibration(&self, upstream: &Upstream) -> Result<Vec<Calibration>> {
        let (_, pace) = self.pace();
        match self.cases.is_empty() || self.cases.iter().any(|name| name == CALIBRATE) {
            true => calibration::measure(upstream, pace.warm_up, pace.window),
            false => Ok(Vec::new()),
        }
    }

    /// In the order in which they are measured, each once.
    fn cases(&self) -> Vec<&'static Case> {
        let wanted = |case: &&Case| self.cases.is_empty() || self.cases.iter().any(|name| name == case.name);
        CASES.iter().filter(wanted).collect()
    }

    /// Builds the binaries where this program was built, unless it was said where they are or they are not needed.
    fn binaries(&self, subjects: &[Subject]) -> Result<PathBuf> {
        if let Some(directory) = &self.bin_dir {
            return Ok(directory.clone());
        }
        let program = std::env::current_exe()?;
        let directory = program.parent().context("a program is in a directory")?;
        if subjects.contains(&Subject::Outrigger) {
            build(directory.parent().context("a profile is in a target directory")?)?;
        }
        Ok(directory.to_owned())
    }
}

/// As a person would, so that what is measured is what is checked out.
fn build(target: &Path) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--release", "--locked", "-p", "outrigger", "-p", "outrigger-proxy"])
        .arg("--target-dir")
        .arg(target)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    eprintln!("building: {}", format!("{cargo:?}").replace('"', ""));
    let status = cargo.status().context("cargo cannot be run; say --bin-dir to measure what is built")?;
    if !status.success() {
        bail!("the release binaries do not build: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches as _};

    use super::*;

    fn parse(arguments: &[&str]) -> Result<MeshArgs, clap::Error> {
        let command = MeshArgs::augment_args(Command::new("mesh").no_binary_name(true));
        MeshArgs::from_arg_matches(&command.try_get_matches_from(arguments)?)
    }

    #[test]
    fn cases_are_chosen_by_name_and_measured_in_their_own_order() {
        let args =
            parse(&["--case", "h1-c16,h1-c1", "--case", "h1-c16", "--subject", "none,envoy-h2"]).unwrap();
        let names: Vec<_> = args.cases().iter().map(|case| case.name).collect();
        assert_eq!(names, ["h1-c1", "h1-c16"]);
        assert_eq!(args.subjects, [Subject::None, Subject::EnvoyHttp2]);
        assert_eq!(parse(&[]).unwrap().cases().len(), CASES.len());
        let text = parse(&["--case", "h1-c2"]).unwrap_err().to_string();
        assert!(text.contains("h1-c256") && text.contains("calibrate"), "{text}");
    }

    #[test]
    fn calibrating_alone_is_no_case_of_the_subjects() {
        assert!(parse(&["--case", "calibrate"]).unwrap().cases().is_empty());
    }

    #[test]
    fn quick_is_one_short_round_unless_told_otherwise() {
        let (rounds, pace) = parse(&["--quick"]).unwrap().pace();
        assert_eq!((rounds, pace.window), (1, Duration::from_secs(1)));
        let (rounds, pace) = parse(&["--quick", "--rounds", "3", "--seconds", "2"]).unwrap().pace();
        assert_eq!((rounds, pace.window), (3, Duration::from_secs(2)));
        assert_eq!(parse(&[]).unwrap().pace().0, 5);
    }
}
