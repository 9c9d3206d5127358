//! One program as a process: how long it takes until it is ready, what it said if it does not, and its orderly end.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::Instant;

/// How long a start or an end may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ready: Value,
    /// From just before the process was made to its ready line; nought for one that prints none.
    pub(crate) ready_after: Duration,
}

/// What is the same for all processes of a run.
#[derive(Debug, Clone)]
pub(crate) struct Launcher {
    /// Where the binaries are.
    pub(crate) binaries: PathBuf,
    /// Their whole environment.
    pub(crate) environment: Vec<(String, String)>,
    /// Where their standard error goes, a file each, for when one of them fails.
    pub(crate) logs: PathBuf,
}

impl Launcher {
    /// The binary of this name.
    ///
    /// # Errors
    /// It is not there.
    pub(crate) fn binary(&self, name: &str) -> Result<PathBuf> {
        let path = self.binaries.join(name);
        if !path.is_file() {
            bail!(
                "{} is not there: build it with `cargo build --release -p outrigger -p outrigger-proxy`, \
                 or say --bin-dir",
                path.display()
            );
        }
        Ok(path)
    }

    /// A command with this environment and no other.
    pub(crate) fn command(&self, binary: &str, arguments: &[String]) -> Result<Command> {
        let mut command = Command::new(self.binary(binary)?);
        command.args(arguments).env_clear().envs(self.environment.iter().cloned()).stdin(Stdio::null());
        Ok(command)
    }

    /// Starts the binary and waits for its ready line.
    ///
    /// # Errors
    /// It ended, or said nothing for 20 s; with what it wrote to standard error.
    pub(crate) fn start(&self, name: &str, binary: &str, arguments: &[String]) -> Result<Process> {
        let mut command = self.command(binary, arguments)?;
        command.stdout(Stdio::piped());
        let started = Instant::now();
        let mut process = Process::spawn(name, command, &self.logs)?;
        let stdout = process.child.stdout.take().context("standard output is piped")?;
        let Some((line, at)) = ready_line(stdout) else {
            process.check()?;
            return Err(process.failure(&format!("was not ready in {PATIENCE:?}")));
        };
        process.ready = line;
        process.ready_after = at.duration_since(started);
        Ok(process)
    }
}

/// The ready line and when it came; whatever follows on standard output is read and dropped, on a thread that
/// ends with the process.
fn ready_line(stdout: ChildStdout) -> Option<(Value, Instant)> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // Stamped here, so that the wait for this run's other thread is not part of it.
            let at = Instant::now();
            let line = serde_json::from_str::<Value>(&line).unwrap_or_default();
            if line.get("ready").is_some_and(|ready| ready == true) {
                // Full after the first: later lines are of no interest.
                let _ = sender.try_send((line, at));
            }
        }
    });
    receiver.recv_timeout(PATIENCE).ok()
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

impl Process {
    /// Starts a program that prints no ready line. Its standard error is kept in this directory.
    ///
    /// # Errors
    /// It cannot be started; whether it keeps running is for [`check`](Self::check) to say.
    pub(crate) fn spawn(name: &str, mut command: Command, logs: &Path) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        command.stderr(File::create(&log).context("a log file")?);
        let child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        let name = name.to_owned();
        Ok(Self { name, child, log, ready: Value::Null, ready_after: Duration::ZERO })
    }

    /// That it is still there.
    ///
    /// # Errors
    /// It has ended; with what it wrote to standard error.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => Err(self.failure(&format!("ended: {status}"))),
            None => Ok(()),
        }
    }

    /// What is wrong with it, followed by the last lines that it wrote.
    pub(crate) fn failure(&self, what: &str) -> anyhow::Error {
        anyhow!("{} {what}: {}", self.name, tail(&self.log))
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An address from its ready line.
    pub(crate) fn address(&self, key: &str) -> Result<SocketAddr> {
        // The first, where there may be several.
        let value =
            self.ready.get(key).and_then(|value| if value.is_array() { value.get(0) } else { Some(value) });
        let text = value.and_then(Value::as_str);
        text.and_then(|text| text.parse().ok())
            .with_context(|| format!("{}: no address {key:?} in its ready line {}", self.name, self.ready))
    }

    /// SIGTERM, and waits until it has ended by itself.
    ///
    /// # Errors
    /// It ended with another status than 0, or not within 20 s.
    pub(crate) fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process id")?;
        kill_process(pid, Signal::TERM).with_context(|| format!("{} cannot be stopped", self.name))?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("{} was stopped and ended with {status}", self.name),
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
        bail!("{} did not end within {PATIENCE:?} of SIGTERM", self.name)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only where the process has ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launcher(logs: &Path) -> Launcher {
        Launcher { binaries: "/bin".into(), environment: Vec::new(), logs: logs.to_owned() }
    }

    fn shell(script: &str) -> [String; 2] {
        ["-c".to_owned(), script.to_owned()]
    }

    #[test]
    fn a_process_is_ready_when_it_says_so_and_not_at_its_first_line() {
        let logs = tempfile::tempdir().unwrap();
        let script = r#"echo hello; echo '{"ready":true,"admin":"127.0.0.1:1","listens":["127.0.0.1:2"]}'; exec sleep 60"#;
        let process = launcher(logs.path()).start("told", "sh", &shell(script)).unwrap();
        assert_eq!(process.address("admin").unwrap().port(), 1);
        assert_eq!(process.address("listens").unwrap().port(), 2, "the first of several");
        assert!(process.address("inbound").is_err(), "an address it did not name");
        assert!(process.ready_after > Duration::ZERO);
    }

    #[test]
    fn one_that_ends_before_it_is_ready_is_an_error_with_its_own_words() {
        let logs = tempfile::tempdir().unwrap();
        let failed =
            launcher(logs.path()).start("failed", "sh", &shell("echo the port is taken >&2; exit 3"));
        let text = failed.unwrap_err().to_string();
        assert!(text.contains("the port is taken"), "{text}");
    }

    #[test]
    fn one_that_says_nothing_is_watched_all_the_same() {
        let logs = tempfile::tempdir().unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "read go; echo no such cluster >&2; exit 3"]).stdin(Stdio::piped());
        let mut process = Process::spawn("watched", command, logs.path()).unwrap();
        process.check().unwrap();
        drop(process.child.stdin.take());
        process.child.wait().unwrap();
        let text = process.check().unwrap_err().to_string();
        assert!(text.contains("watched ended") && text.contains("no such cluster"), "{text}");
    }

    #[test]
    fn a_status_other_than_0_after_sigterm_is_an_error() {
        let logs = tempfile::tempdir().unwrap();
        let script = |status: u8| {
            shell(&format!(
                r#"trap 'exit {status}' TERM; echo '{{"ready":true}}'; while :; do sleep 0.02; done"#
            ))
        };
        let launcher = launcher(logs.path());
        let environment = vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
        let launcher = Launcher { environment, ..launcher };
        launcher.start("good", "sh", &script(0)).unwrap().stop().unwrap();
        let bad = launcher.start("bad", "sh", &script(4)).unwrap().stop();
        assert!(bad.unwrap_err().to_string().contains("exit status: 4"));
    }

    #[test]
    fn a_missing_binary_is_an_error_that_says_how_to_build_it() {
        let text = launcher(Path::new("/")).binary("outrigger-none").unwrap_err().to_string();
        assert!(text.contains("cargo build --release"), "{text}");
    }
}
