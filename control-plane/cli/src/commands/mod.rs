//! One file per command.

pub(crate) mod apply;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod control_plane;
pub(crate) mod delete;
pub(crate) mod diff;
pub(crate) mod explain;
pub(crate) mod get;
pub(crate) mod history;
pub(crate) mod identity;
pub(crate) mod proxies;
pub(crate) mod rollback;
pub(crate) mod run;
pub(crate) mod stat;
pub(crate) mod token;
pub(crate) mod validate;

use std::future::Future;
use std::process::ExitCode;

use crate::args::Command;
use crate::demo;
use crate::failure::Stop;

/// Runs the command to its end.
///
/// # Errors
/// How it ended, where not well.
pub(crate) fn run(command: Command) -> Result<(), Stop> {
    match command {
        Command::Demo(args) => block_on(demo::run(args)),
        Command::ControlPlane(args) => control_plane::run(args),
        Command::Proxy(args) => proxy(*args),
        Command::Run(args) => run::run(*args),
        Command::BecomeProgram(args) => run::become_program(&args),
        Command::Apply(args) => block_on(apply::run(args)),
        Command::Get(args) => block_on(get::run(args)),
        Command::Delete(args) => block_on(delete::run(args)),
        Command::Diff(args) => block_on(diff::run(args)),
        Command::Validate(args) => validate::run(&args),
        Command::History(args) => block_on(history::run(args)),
        Command::Rollback(args) => block_on(rollback::run(args)),
        Command::Token(args) => block_on(token::run(args)),
        Command::Stat(args) => block_on(stat::run(args)),
        Command::Proxies(args) => block_on(proxies::run(args)),
        Command::Identity(args) => block_on(identity::run(args)),
        Command::Explain(args) => block_on(explain::run(*args)),
        Command::Check(args) => block_on(check::run(args)),
        Command::Completions(args) => completions::run(&args),
        Command::DemoApp(args) => block_on(demo::app::run(args)),
        Command::DemoClient(args) => block_on(demo::load::run(args)),
    }
}

/// Runs a command on one thread, with tasks of its own.
fn block_on(command: impl Future<Output = Result<(), Stop>>) -> Result<(), Stop> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = tokio::task::LocalSet::new().block_on(&runtime, command);
    // A task that waits for standard input cannot be woken: the process does not wait for it.
    runtime.shutdown_background();
    result
}

fn proxy(args: outrigger_proxy::ProxyArgs) -> Result<(), Stop> {
    let status = outrigger_proxy::run(args);
    if status == ExitCode::SUCCESS { Ok(()) } else { Err(Stop::Exit(status)) }
}
