//! The proxy as a program: `outrigger-proxy`, and `outrigger proxy`.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::json;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::ProxyArgs;
use crate::config::ProxyConfig;
use crate::log;
use crate::proxy::{Proxy, Running};

/// The exit status of wrong usage.
const USAGE: u8 = 2;

/// Runs a proxy until SIGTERM or SIGINT, then drains it; a second signal ends it at once.
///
/// When it serves, one JSON line says so on standard output, with the addresses that it listens on.
///
/// Exit status: 0 after a drain, 1 if it cannot start, 2 if the configuration is wrong.
pub fn run(args: ProxyArgs) -> ExitCode {
    if let Err(error) = log::init(filter().as_deref()) {
        eprintln!("error: {}", causes(&error));
        return ExitCode::from(USAGE);
    }
    let config = match ProxyConfig::try_from(args) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(USAGE);
        }
    };
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the operating system gives no event loop: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(serve(config))
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the program's own main; a log filter is not configuration"
)]
fn filter() -> Option<String> {
    std::env::var(log::VARIABLE).ok()
}

async fn serve(config: ProxyConfig) -> ExitCode {
    let signals =
        signal(SignalKind::terminate()).and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
    let (mut terminate, mut interrupt) = match signals {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("error: signals cannot be handled: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut running = match Proxy::start(config).await {
        Ok(running) => running,
        Err(error) => {
            eprintln!("error: {}", causes(&error));
            return ExitCode::FAILURE;
        }
    };
    tokio::select! {
        () = running.ready() => say_ready(&running),
        () = stop(&mut terminate, &mut interrupt) => return end(running, &mut terminate, &mut interrupt).await,
    }
    tokio::select! {
        () = running.wait() => {}
        () = stop(&mut terminate, &mut interrupt) => {}
    }
    end(running, &mut terminate, &mut interrupt).await
}

/// Drains; who asks again does not want to wait.
async fn end(running: Running, terminate: &mut Signal, interrupt: &mut Signal) -> ExitCode {
    tokio::select! {
        () = running.drain() => ExitCode::SUCCESS,
        () = stop(terminate, interrupt) => {
            tracing::warn!("stopped before the drain was over");
            ExitCode::FAILURE
        }
    }
}

async fn stop(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn say_ready(running: &Running) {
    let line = json!({
        "ready": true,
        "outbound": running.outbound,
        "inbound": running.inbound,
        "admin": running.admin,
        "listens": running.listens,
    });
    // Whoever started the proxy may not care to read it.
    let _ = writeln!(io::stdout(), "{line}");
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
