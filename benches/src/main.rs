//! `outrigger-benches`: measures what the mesh costs.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use outrigger_benches::footprint::{self, FootprintArgs};

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
}

fn main() -> ExitCode {
    let Scenario::Footprint(args) = Command::parse().scenario;
    match footprint::run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: nothing was measured: {error:#}");
            ExitCode::FAILURE
        }
    }
}
