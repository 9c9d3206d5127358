//! `outrigger-proxy`: the proxy beside one service.

use std::process::ExitCode;

use clap::Parser;
use outrigger_proxy::ProxyArgs;

/// A request makes a hundred small allocations on one thread; this allocator serves them from the thread's own pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The proxy beside one service: identity, mutual TLS, retries, timeouts, balancing, traces and metrics.
#[derive(Parser)]
#[command(name = "outrigger-proxy", version)]
struct Command {
    #[command(flatten)]
    args: ProxyArgs,
}

fn main() -> ExitCode {
    outrigger_proxy::run(Command::parse().args)
}
