//! The real binaries as processes, for what only a process can show: exit status, signals, `kill -9`, memory.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::wait::PATIENCE;

/// Where a binary of the workspace is, built if need be.
///
/// Cargo tells only the package that owns a binary where it is, so this crate asks cargo to build them, once a
/// test process, into the directory that the test itself was built into.
pub fn binary(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let directory = BUILT.get_or_init(build);
    let path = directory.join(name);
    assert!(path.exists(), "{} is not there: run `cargo build --workspace` first", path.display());
    path
}

/// Builds the binaries if need be, and lets other tasks go on meanwhile.
pub async fn built() {
    let building = tokio::task::spawn_blocking(|| binary("outrigger-proxy"));
    building.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
}

fn build() -> PathBuf {
    let test = std::env::current_exe().expect("a process knows its executable");
    // target/PROFILE/deps/behaviour-HASH
    let profile =
        test.parent().and_then(Path::parent).expect("a test runs from target/PROFILE/deps").to_owned();
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let mut command = StdCommand::new(cargo);
    command
        .args(["build", "--quiet", "--workspace", "--bins"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .env("CARGO_TARGET_DIR", profile.parent().expect("a profile's directory has a parent"));
    if profile.file_name().is_some_and(|name| name == "release") {
        command.arg("--release");
    }
    let built = command.output().expect("cargo can be started");
    assert!(
        built.status.success(),
        "`cargo build --workspace` failed, so the tests have no binaries to run:\n{}",
        String::from_utf8_lossy(&built.stderr)
    );
    profile
}

/// One running process of ours. Dropping it kills it.
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Mutex<Output>>,
    ready: Option<Value>,
}

#[derive(Debug, Default)]
struct Output {
    stdout: Vec<String>,
    stderr: Vec<String>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {:?})", self.name, self.child.id())
    }
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// All it wrote to standard output.
    pub stdout: String,
    /// All it wrote to standard error.
    pub stderr: String,
}

impl Ended {
    /// The exit code; panics if a signal ended it.
    #[track_caller]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("ended by a signal: {self:?}"))
    }
}

impl Process {
    /// Starts a binary of this workspace. The mesh's own environment variables are not passed on.
    pub fn start(name: &str, args: &[String], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(binary(name));
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        for (key, _) in std::env::vars_os() {
            let key = key.to_string_lossy().into_owned();
            if key.starts_with("OUTRIGGER_") || key.starts_with("OTEL_") {
                command.env_remove(key);
            }
        }
        command.envs(environment.iter().copied());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{name} cannot be started: {e}"));
        let output = Arc::<Mutex<Output>>::default();
        let stdout = child.stdout.take().expect("standard output is piped");
        let stderr = child.stderr.take().expect("standard error is piped");
        tokio::spawn(keep_lines(BufReader::new(stdout), Arc::clone(&output), |o| &mut o.stdout));
        tokio::spawn(keep_lines(BufReader::new(stderr), Arc::clone(&output), |o| &mut o.stderr));
        Self { name: format!("{name} {}", args.join(" ")), child, output, ready: None }
    }

    /// Waits for the JSON line that says ready; panics with what the process said if it ends before that.
    pub async fn ready(&mut self) -> &Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let line = self.lock().stdout.iter().find_map(|line| {
                serde_json::from_str::<Value>(line).ok().filter(|v| v.get("ready").is_some_and(|r| r == true))
            });
            if let Some(line) = line {
                return self.ready.insert(line);
            }
            let ended = self.child.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "{self:?} ended ({ended:?}) before it was ready: {}", self.said());
            assert!(
                tokio::time::Instant::now() < deadline,
                "{self:?} was not ready within {PATIENCE:?}: {}",
                self.said()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// An address from the ready line.
    #[track_caller]
    pub fn address(&self, key: &str) -> SocketAddr {
        let ready = self.ready.as_ref().expect("the process is ready");
        let text = ready.get(key).and_then(Value::as_str);
        text.and_then(|t| t.parse().ok())
            .unwrap_or_else(|| panic!("{self:?}: no address {key:?} in its ready line {ready}"))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            kill_process(pid, signal).expect("a running child can be signalled");
        }
    }

    /// `kill -9`, and waits until the process is gone.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().await.expect("a child can be waited for");
    }

    /// Waits for the end of the process by itself.
    pub async fn ended(&mut self) -> Ended {
        let status = match timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => status.expect("a child can be waited for"),
            Err(_) => panic!("{self:?} did not end within {PATIENCE:?}: {}", self.said()),
        };
        // The readers are a moment behind the exit.
        while Arc::strong_count(&self.output) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let output = self.lock();
        Ended { status, stdout: output.stdout.join("\n"), stderr: output.stderr.join("\n") }
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<Pid> {
        self.child.id().and_then(|id| Pid::from_raw(id as i32))
    }

    /// Resident memory now and at its peak, bytes.
    pub fn memory(&self) -> (u64, u64) {
        let id = self.child.id().expect("the process runs");
        let status =
            std::fs::read_to_string(format!("/proc/{id}/status")).expect("Linux tells a process's status");
        let field = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name)).expect("the field is always there");
            let kib = line.trim_start_matches(':').trim().trim_end_matches(" kB");
            kib.parse::<u64>().expect("a number of KiB") * 1024
        };
        (field("VmRSS"), field("VmHWM"))
    }

    /// Lines on standard output so far.
    pub fn stdout(&self) -> Vec<String> {
        self.lock().stdout.clone()
    }

    /// Everything written so far, for failure messages.
    pub fn said(&self) -> String {
        let output = self.lock();
        let tail = |lines: &[String]| lines[lines.len().saturating_sub(40)..].join("\n");
        format!("stdout:\n{}\nstderr:\n{}", tail(&output.stdout), tail(&output.stderr))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Output> {
        self.output.lock().expect("no holder panics")
    }
}

/// Runs a binary of this workspace to its end.
pub async fn run(name: &str, args: &[&str], environment: &[(&str, &str)]) -> Ended {
    let args: Vec<String> = args.iter().map(|&a| a.to_owned()).collect();
    Process::start(name, &args, environment).ended().await
}

async fn keep_lines<R: tokio::io::AsyncRead + Unpin>(
    reader: BufReader<R>,
    output: Arc<Mutex<Output>>,
    which: fn(&mut Output) -> &mut Vec<String>,
) {
    let mut lines = reader.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        which(&mut output.lock().expect("no holder panics")).push(line);
    }
}
