//! A mesh of processes: a control plane, a service and its caller, each beside its proxy.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::process::{Launcher, Process};

/// As a caller names the service.
pub(crate) const SERVICE: &str = "app.bench";

/// A running control plane, and what is needed to start proxies beside it.
#[derive(Debug)]
pub(crate) struct Mesh {
    /// The control plane's process.
    pub(crate) control_plane: Process,
    launcher: Launcher,
    directory: PathBuf,
}

impl Mesh {
    /// Starts the control plane, with a new authority, in this directory.
    pub(crate) fn start(launcher: Launcher, directory: PathBuf) -> Result<Self> {
        let data = directory.join("control-plane").display().to_string();
        let arguments = words(&[
            "control-plane",
            "--data-dir",
            &data,
            "--api-listen",
            "127.0.0.1:0",
            "--proxy-listen",
            "127.0.0.1:0",
        ]);
        let control_plane = launcher.start("control-plane", "outrigger", &arguments)?;
        Ok(Self { control_plane, launcher, directory })
    }

    /// Makes these documents, YAML, part of the mesh's policy: all of them or none.
    pub(crate) fn apply(&self, documents: &str) -> Result<()> {
        let file = self.directory.join("policy.yaml");
        std::fs::write(&file, documents).context("the policy cannot be written")?;
        self.outrigger(&["apply", "-f", &file.display().to_string()]).map(drop)
    }

    /// Starts a proxy of the service whose application is there.
    pub(crate) fn start_service(&self, application: SocketAddr) -> Result<Process> {
        self.start_service_with(&["--app", &format!("80={application}")])
    }

    /// Starts a proxy of the service with these flags, which name the applications.
    pub(crate) fn start_service_with(&self, flags: &[&str]) -> Result<Process> {
        self.start_proxy("app", &[&["--service", "app"], flags].concat())
    }

    /// Starts the proxy of a workload that only calls others.
    pub(crate) fn start_caller(&self) -> Result<Process> {
        self.start_caller_with(&[])
    }

    /// Starts the proxy of a workload that only calls others, with these flags.
    pub(crate) fn start_caller_with(&self, flags: &[&str]) -> Result<Process> {
        self.start_proxy("caller", flags)
    }

    fn start_proxy(&self, account: &str, more: &[&str]) -> Result<Process> {
        let control_plane = self.control_plane.address("proxies")?.to_string();
        let token = self.join_token(account)?.display().to_string();
        let mut arguments = words(&[
            "--namespace",
            "bench",
            "--service-account",
            account,
            "--control-plane",
            &control_plane,
            "--join-token-file",
            &token,
            "--outbound",
            "127.0.0.1:0",
            "--inbound",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ]);
        arguments.extend(words(more));
        self.launcher.start(account, "outrigger-proxy", &arguments)
    }

    /// A file with a join token, from the command that a person uses for it.
    fn join_token(&self, account: &str) -> Result<PathBuf> {
        let file = self.directory.join(format!("{account}.token"));
        if file.exists() {
            return Ok(file);
        }
        let token =
            self.outrigger(&["token", "create", "--namespace", "bench", "--service-account", account])?;
        std::fs::write(&file, token).context("the join token cannot be written")?;
        Ok(file)
    }

    /// Runs a command as the mesh's administrator; what it printed.
    fn outrigger(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let mut command = self.launcher.command("outrigger", &words(arguments))?;
        command
            .env("OUTRIGGER_API", format!("http://{}", self.control_plane.address("api")?))
            .env("OUTRIGGER_TOKEN_FILE", self.directory.join("control-plane/admin.token"));
        let what = || format!("outrigger {}", arguments.first().copied().unwrap_or_default());
        let output = command.output().with_context(what)?;
        if !output.status.success() {
            bail!("{}: {}", what(), String::from_utf8_lossy(&output.stderr));
        }
        Ok(output.stdout)
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}
