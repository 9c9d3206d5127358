//! `outrigger run`: a program with a sidecar beside it.
//!
//! The sidecar runs inside this process and is ready before the program starts, so that the program's first call
//! already goes through the mesh. Signals go to the program; when it ends, the sidecar drains, and this process
//! ends with the program's own status.

use std::ffi::OsString;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::ExitStatus;
use std::time::Duration;

use outrigger_control_plane::resources::Period;
use outrigger_proxy::{Proxy, ProxyArgs, ProxyConfig, Running};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::token;
use crate::client::{Api, ApiArgs};
use crate::failure::Stop;
use crate::lifeline;
use crate::log::{self, LogFormat};
use crate::output;

/// How long the token is good for that `run` makes itself.
const TOKEN_TTL: Duration = Duration::from_secs(3600);
/// What the program is told not to call through the sidecar.
const NO_PROXY: &str = "localhost,127.0.0.1";
/// Statuses that shells give to a program that cannot be run, and to one that is not there.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Arguments of `outrigger run`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    override_usage = "outrigger run [OPTIONS] --namespace <NAMESPACE> --service <NAME> -- <CMD> [ARGS]...",
    after_help = "\
Examples:
  outrigger run --namespace shop --service payments --app 80=127.0.0.1:9001 -- ./payments --port 9001
  outrigger run --namespace shop --service web --app 80=127.0.0.1:8080 -- python3 web.py
  outrigger run --namespace shop --service-account batch -- curl http://payments.shop/

CMD starts once the sidecar is ready, with HTTP_PROXY, http_proxy and NO_PROXY set. Signals are passed on to it.
Exit status: that of CMD, 128 and the number of the signal that ended it, 127 if there is no such program, 126 if it
cannot be run, 1 if the sidecar does not start, 2 for a wrong command line.

Without --join-token-file the token is made through the API, for which the admin's token must be at hand. The
service account is the service's name unless --service-account says otherwise. Several programs on one machine
need ports of their own: --outbound 127.0.0.1:0 --inbound 0.0.0.0:0 --admin 127.0.0.1:0 takes free ones."
)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    proxy: ProxyArgs,
    /// How long the sidecar may take to be ready.
    #[arg(long, env = "OUTRIGGER_READY_TIMEOUT", value_name = "DURATION", default_value = "60s", value_parser = parse_timeout)]
    ready_timeout: Duration,
    /// What the sidecar logs on standard error: error, warn, info, debug, trace, or a filter such as warn,h2=debug.
    #[arg(long, env = "OUTRIGGER_LOG", value_name = "FILTER", default_value = "warn")]
    log: String,
    #[command(flatten)]
    api: ApiArgs,
    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let period: Period = text.parse().map_err(|error| format!("{error}"))?;
    if period.is_zero() { Err("must be more than nothing".to_owned()) } else { Ok(period.duration()) }
}

/// Runs the program to its end.
///
/// # Errors
/// The program's status where it is not 0, or why it never ran.
pub(crate) fn run(args: RunArgs) -> Result<(), Stop> {
    log::start(&args.log, LogFormat::Text)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(supervise(args))
}

async fn supervise(args: RunArgs) -> Result<(), Stop> {
    let RunArgs { mut proxy, ready_timeout, api, command, .. } = args;
    if proxy.service_account.is_none() {
        proxy.service_account.clone_from(&proxy.service);
    }
    // The token must outlive a control plane that is away for longer than the certificate lasts, so it is kept.
    let _token = join_token(&mut proxy, &api).await?;
    let config = ProxyConfig::try_from(proxy).map_err(|error| Stop::Usage(error.to_string()))?;
    let control_plane = config.control_plane.clone();
    let mut signals = Signals::new()?;
    let running = Proxy::start(config).await?;
    tokio::select! {
        () = running.ready() => {}
        () = tokio::time::sleep(ready_timeout) => {
            let seconds = ready_timeout.as_secs();
            return Err(Stop::failed(format!(
                "the sidecar is not ready after {seconds} s; the lines above say what it waits for; is the control plane at {control_plane}?"
            )));
        }
        signal = signals.next() => return Err(Stop::Status(128 + signal.number())),
    }
    let status = run_beside(&running, &command, &mut signals).await;
    running.drain().await;
    status
}

/// Makes a join token where none is named, and names its file; the file lives as long as what is returned.
async fn join_token(proxy: &mut ProxyArgs, api: &ApiArgs) -> Result<Option<File>, Stop> {
    let (None, None, Some(namespace), Some(account)) =
        (&proxy.join_token_file, &proxy.config, &proxy.namespace, &proxy.service_account)
    else {
        return Ok(None); // given, or in the file, or a problem that the configuration reports better
    };
    let api = Api::new(api)?;
    if !api.has_token() {
        return Err(Stop::Usage(
            "--join-token-file is missing, and there is no admin token to make one with: \
             use `outrigger token create`, or set OUTRIGGER_TOKEN_FILE"
                .to_owned(),
        ));
    }
    let answer = token::create(&api, namespace, account, TOKEN_TTL).await?;
    let mut file = tempfile::tempfile()?; // without a name, so that nothing is left of it, whatever ends this process
    file.write_all(answer.token.as_bytes())?;
    proxy.join_token_file = Some(format!("/proc/self/fd/{}", file.as_raw_fd()));
    Ok(Some(file))
}

/// Runs the program; `Ok` if its status is 0.
async fn run_beside(running: &Running, command: &[OsString], signals: &mut Signals) -> Result<(), Stop> {
    let mut child = start(command, running.outbound)?;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            signal = signals.next() => signal.pass_to(&child),
        }
    };
    match status_of(status) {
        0 => Ok(()),
        status => Err(Stop::Status(status)),
    }
}

/// Starts the program, by way of [`become_program`].
fn start(command: &[OsString], outbound: SocketAddr) -> Result<Child, Stop> {
    let mut program = Command::new(std::env::current_exe()?);
    program.args(["become-program", "--parent"]).arg(std::process::id().to_string()).arg("--").args(command);
    lead_through(&mut program, outbound);
    Ok(program.kill_on_drop(true).spawn()?)
}

/// Tells a program, in the way that most know, to call through the sidecar.
fn lead_through(program: &mut Command, outbound: SocketAddr) {
    let through = format!("http://{outbound}");
    program.envs([("HTTP_PROXY", &through), ("http_proxy", &through)]);
    program.envs([("NO_PROXY", NO_PROXY), ("no_proxy", NO_PROXY)]);
}

/// Arguments of the hidden command between `run` and its program.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct BecomeArgs {
    /// The process that it is to end with.
    #[arg(long)]
    parent: i32,
    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Replaces this process by the program.
///
/// Before that it asks to be told to end when its parent dies, which the program inherits: one whose sidecar was
/// killed would go on with nobody to watch it, and hold the port that the next one needs.
///
/// # Errors
/// The program cannot be run; otherwise this does not return.
pub(crate) fn become_program(args: &BecomeArgs) -> Result<(), Stop> {
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(Stop::Usage("there is no program to run; name one after --".to_owned()));
    };
    lifeline::follow_parent(args.parent, Signal::TERM)?;
    let error = std::process::Command::new(program).args(arguments).exec();
    output::error(&format!("cannot run {}: {error}", program.display()));
    let found = error.kind() != std::io::ErrorKind::NotFound;
    Err(Stop::Status(if found { CANNOT_RUN } else { NOT_FOUND }))
}

/// The status as a shell reports it.
fn status_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// A signal that this process got.
#[derive(Debug, Clone, Copy)]
struct Passed(Signal);

impl Passed {
    fn number(self) -> u8 {
        u8::try_from(self.0.as_raw()).unwrap_or(0)
    }

    fn pass_to(self, child: &Child) {
        // What is typed at a terminal reaches the whole foreground group, the program included.
        let typed = matches!(self.0, Signal::INT | Signal::QUIT) && std::io::stdin().is_terminal();
        if typed {
            return;
        }
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may end at this very moment; then there is nobody to tell.
            let _ = kill_process(pid, self.0);
        }
    }
}

/// The signals that are passed on.
struct Signals(mpsc::Receiver<Passed>);

impl Signals {
    fn new() -> Result<Self, Stop> {
        let (sender, receiver) = mpsc::channel(16);
        for number in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2] {
            let mut source = signal(SignalKind::from_raw(number.as_raw()))?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while source.recv().await.is_some() {
                    if sender.send(Passed(number)).await.is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self(receiver))
    }

    async fn next(&mut self) -> Passed {
        match self.0.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await, // the runtime is ending
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_told_as_a_shell_tells_it() {
        assert_eq!(status_of(ExitStatus::from_raw(0)), 0);
        assert_eq!(status_of(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(status_of(ExitStatus::from_raw(9)), 137);
    }

    #[tokio::test]
    async fn the_program_is_told_the_sidecar_and_its_status_comes_back() {
        let script = "test \"$http_proxy\" = http://127.0.0.1:4740 && test \"$HTTP_PROXY\" = \"$http_proxy\" \
                      && test \"$NO_PROXY\" = localhost,127.0.0.1 && exit 7";
        let mut program = Command::new("sh");
        program.args(["-c", script]);
        lead_through(&mut program, SocketAddr::from(([127, 0, 0, 1], 4740)));
        assert_eq!(status_of(program.status().await.unwrap()), 7);
    }

    #[test]
    fn a_program_that_is_not_there_is_127_and_one_that_is_none_126() {
        let parent = rustix::process::getppid().unwrap().as_raw_nonzero().get();
        let stop = |command: &str| {
            // On a thread of its own, which keeps what it asks of the kernel to itself.
            let args = BecomeArgs { parent, command: vec![command.into()] };
            std::thread::spawn(move || become_program(&args).unwrap_err()).join().unwrap()
        };
        assert!(matches!(stop("/nowhere/program"), Stop::Status(NOT_FOUND)));
        assert!(matches!(stop("/"), Stop::Status(CANNOT_RUN)));
    }
}
