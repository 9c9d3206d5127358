//! One process of the demo: this very program under another subcommand.
//!
//! A child binds its own free ports and tells them in the JSON line that it prints when it is ready, so that no
//! port is chosen for it that another program could take in between. It is killed when its handle is dropped and,
//! by the kernel, when the demo dies (see [`crate::lifeline`]). What it writes to standard error goes to a file
//! that is shown when it does not start.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// How long a child may take to be ready; far above what it needs, so that a busy machine is no failure.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a child may take to answer a command.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// How many of its last lines are shown when a child fails.
const LOG_LINES: usize = 12;

/// Why a child is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChildError {
    #[error("cannot start {name}")]
    Start { name: String, source: io::Error },
    #[error("{name} did not become ready: {reason}{log}")]
    NotReady { name: String, reason: String, log: String },
    #[error("{name} does not answer: {reason}{log}")]
    Silent { name: String, reason: String, log: String },
}

/// A running process.
pub(crate) struct Child {
    name: String,
    process: tokio::process::Child,
    stdin: Option<ChildStdin>,
    lines: tokio::io::Lines<BufReader<ChildStdout>>,
    log: PathBuf,
    /// The JSON line that it printed when it was ready.
    pub(crate) ready: Value,
}

impl Child {
    /// Starts this program with the arguments and waits until it says that it is ready.
    ///
    /// # Errors
    /// It cannot be started, ends, or says nothing in time; its last words are in the error.
    pub(crate) async fn start(name: &str, arguments: &[String], logs: &Path) -> Result<Self, ChildError> {
        let failed = |source| ChildError::Start { name: name.to_owned(), source };
        let log = logs.join(format!("{name}.log"));
        let mut process = command(arguments, &log).map_err(failed)?.spawn().map_err(failed)?;
        let gone = || failed(io::Error::other("its pipes are not there"));
        let stdin = process.stdin.take();
        let lines = BufReader::new(process.stdout.take().ok_or_else(gone)?).lines();
        let mut child = Self { name: name.to_owned(), process, stdin, lines, log, ready: Value::Null };
        match timeout(READY_TIMEOUT, child.next_json()).await {
            Ok(Ok(ready)) => child.ready = ready,
            Ok(Err(reason)) => return Err(child.not_ready(reason)),
            Err(_) => return Err(child.not_ready(format!("no word within {} s", READY_TIMEOUT.as_secs()))),
        }
        Ok(child)
    }

    /// The text at one field of the ready line.
    ///
    /// # Errors
    /// The line has no such field.
    pub(crate) fn ready_text(&self, field: &str) -> Result<String, ChildError> {
        let text = self.ready.get(field).and_then(Value::as_str).map(str::to_owned);
        text.ok_or_else(|| self.not_ready(format!("its ready line {} has no {field:?}", self.ready)))
    }

    /// Sends it one command.
    ///
    /// # Errors
    /// It reads no more.
    pub(crate) async fn tell(&mut self, line: &str) -> Result<(), ChildError> {
        let line = format!("{line}\n");
        let written = match &mut self.stdin {
            Some(stdin) => stdin.write_all(line.as_bytes()).await,
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        written.map_err(|error| self.silent(error.to_string()))
    }

    /// Sends it one command and reads its answer, a line of JSON.
    ///
    /// # Errors
    /// It does not answer in time.
    pub(crate) async fn ask(&mut self, line: &str) -> Result<Value, ChildError> {
        self.tell(line).await?;
        match timeout(ANSWER_TIMEOUT, self.next_json()).await {
            Ok(answer) => answer.map_err(|reason| self.silent(reason)),
            Err(_) => Err(self.silent(format!("no word within {} s", ANSWER_TIMEOUT.as_secs()))),
        }
    }

    /// Ends it with SIGKILL, which it cannot see coming, and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        // It may have ended by itself; gone is gone.
        let _ = self.process.kill().await;
    }

    async fn next_json(&mut self) -> Result<Value, String> {
        match self.lines.next_line().await {
            Ok(Some(line)) => serde_json::from_str(&line).map_err(|_| format!("it said {line:?}")),
            Ok(None) => Err("it ended".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn not_ready(&self, reason: String) -> ChildError {
        ChildError::NotReady { name: self.name.clone(), reason, log: self.last_words() }
    }

    fn silent(&self, reason: String) -> ChildError {
        ChildError::Silent { name: self.name.clone(), reason, log: self.last_words() }
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].iter().map(|line| format!("\n    {line}")).collect()
    }
}

/// This program, with an empty environment: what the person has set for other meshes must not reach the demo.
fn command(arguments: &[String], log: &Path) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("--end-with-parent")
        .arg(std::process::id().to_string())
        .args(arguments)
        .env_clear()
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(File::options().create(true).append(true).open(log)?)
        // Ctrl-C at the terminal reaches the demo alone, which then ends its children itself.
        .process_group(0)
        .kill_on_drop(true);
    Ok(command)
}
