//! `outrigger-benches`: measures what the mesh costs.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use outrigger_benches::chart::{self, ChartArgs};
use outrigger_benches::comparison::{self, MeshArgs};
use outrigger_benches::footprint::{self, FootprintArgs};
use outrigger_benches::instructions::{self, InstructionsArgs};
use outrigger_benches::pair::{self, PairArgs};
use outrigger_benches::table::{self, TableArgs};

/// Measures what the mesh costs, on the release binaries.
#[derive(Parser)]
#[command(name = "outrigger-benches", version)]
struct Command {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// Time until ready, memory, CPU time a request, beside what is promised
    Footprint(FootprintArgs),
    /// Instructions that a request costs, beside a committed baseline
    Instructions(InstructionsArgs),
    /// The mesh beside its peers: requests a second, latency, CPU time, memory
    Mesh(MeshArgs),
    /// One pair of proxies, kept running for other tools
    Pair(PairArgs),
    /// A result of `mesh` as a picture, SVG
    Chart(ChartArgs),
    /// A result of `mesh` as Markdown
    Table(TableArgs),
}

fn main() -> ExitCode {
    let done = match Command::parse().scenario {
        Scenario::Footprint(args) => footprint::run(&args),
        Scenario::Instructions(args) => instructions::run(&args),
        Scenario::Mesh(args) => comparison::run(&args),
        Scenario::Pair(args) => pair::run(&args),
        Scenario::Chart(args) => chart::run(&args),
        Scenario::Table(args) => table::run(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
