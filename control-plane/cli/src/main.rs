//! The `outrigger` command: the control plane, a proxy, the demo, and everything that a person types.
//!
//! `main` reads the command line and starts what it names; each command is a file under [`commands`]. Nothing runs
//! before the command is known: the proxy and the control plane build their own runtimes, and the rest share one
//! that is as small as a runtime can be.
//!
//! Standard output carries the answer and nothing else, standard error what goes wrong. Exit status 0 is success, 1
//! a check that failed or a request that was refused, 2 a command line that cannot be meant.

mod args;
mod client;
mod commands;
mod data_dir;
mod demo;
mod documents;
mod explanation;
mod failure;
mod lifeline;
mod log;
mod output;
mod path;
mod table;

use std::process::ExitCode;

use clap::Parser;
use rustix::process::Signal;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    let tied = cli.end_with_parent.map_or(Ok(()), |parent| lifeline::follow_parent(parent, Signal::KILL));
    tied.and_then(|()| commands::run(cli.command)).map_or_else(failure::Stop::report, |()| ExitCode::SUCCESS)
}
