//! Valgrind's callgrind: programs that run under it, and their counters.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

/// How long a program may take to hear of a command, and to carry it out, seconds.
const PATIENCE_SECONDS: &str = "30";

/// Valgrind as it is installed here, and a directory for its files.
#[derive(Debug)]
pub(super) struct Callgrind {
    /// As it says itself.
    pub(super) version: String,
    valgrind: PathBuf,
    vgdb: PathBuf,
    directory: TempDir,
    keep: Option<PathBuf>,
}

/// The counters of one program.
#[derive(Debug)]
pub(super) struct Counters<'a> {
    callgrind: &'a Callgrind,
    /// As files that are kept are named.
    name: String,
    pid: u32,
    reads: u32,
}

impl Callgrind {
    /// Finds it.
    ///
    /// # Errors
    /// It is not installed, or there is no place for its files.
    pub(super) fn find(keep: Option<PathBuf>) -> Result<Self> {
        let (valgrind, vgdb) = (on_path("valgrind")?, on_path("vgdb")?);
        let output = Command::new(&valgrind).arg("--version").output().context("valgrind --version")?;
        let version =
            String::from_utf8_lossy(&output.stdout).trim().trim_start_matches("valgrind-").to_owned();
        if let Some(directory) = &keep {
            fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        }
        let directory = tempfile::tempdir().context("a temporary directory")?;
        Ok(Self { version, valgrind, vgdb, directory, keep })
    }

    /// The options under which a program's counters can be read by its process id.
    fn options(&self) -> [String; 4] {
        [
            "--tool=callgrind".to_owned(),
            format!("--callgrind-out-file={}", self.file("out.%p").display()),
            format!("--log-file={}", self.file("log.%p").display()),
            // Its usual place depends on variables that the programs do not have.
            self.prefix(),
        ]
    }

    fn prefix(&self) -> String {
        format!("--vgdb-prefix={}", self.file("vgdb").display())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A command that runs the program.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(&self.valgrind);
        command.args(self.options()).arg(program);
        command
    }

    /// A directory with these programs, of which those named `counted` are scripts that run them under callgrind in the
    /// same process: whoever starts programs from it needs not know.
    pub(super) fn wrap(&self, programs: &Path, names: &[&str], counted: &str) -> Result<PathBuf> {
        let directory = self.file("bin");
        fs::create_dir_all(&directory).context("a directory for scripts")?;
        for name in names {
            let program = programs.join(name).canonicalize().with_context(|| missing(programs, name))?;
            let script = directory.join(name);
            let command = if *name == counted {
                let options = self.options().map(|option| quoted(&option)).join(" ");
                format!(
                    "{} {options} {}",
                    quoted(&self.valgrind.display().to_string()),
                    quoted(&program.display().to_string())
                )
            } else {
                quoted(&program.display().to_string())
            };
            fs::write(&script, format!("#!/bin/sh\nexec {command} \"$@\"\n")).context("a script")?;
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).context("a script")?;
        }
        Ok(directory)
    }

    /// The counters of a process that runs under callgrind.
    pub(super) fn counters(&self, name: &str, pid: u32) -> Counters<'_> {
        Counters { callgrind: self, name: name.to_owned(), pid, reads: 0 }
    }
}

impl Counters<'_> {
    /// Instructions executed since this was last called, or since the start, by all threads.
    ///
    /// # Errors
    /// The process does not answer.
    pub(super) fn take(&mut self, case: &str) -> Result<u64> {
        let asked = self.ask()?;
        self.answer(asked, case)
    }

    /// Asks for the counters. They have been read and set to nought when the command ends.
    fn ask(&self) -> Result<Child> {
        Command::new(&self.callgrind.vgdb)
            .args([&*self.callgrind.prefix(), &format!("--pid={}", self.pid)])
            .args([&format!("--wait={PATIENCE_SECONDS}"), &format!("--cmd-time-out={PATIENCE_SECONDS}")])
            .arg("dump")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("vgdb")
    }

    fn answer(&mut self, asked: Child, case: &str) -> Result<u64> {
        let Callgrind { directory, keep, .. } = self.callgrind;
        let output = asked.wait_with_output().context("vgdb")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("the counters of {} cannot be read (may processes here be traced?): {said}", self.name);
        }
        self.reads += 1;
        let path = directory.path().join(format!("out.{}.{}", self.pid, self.reads));
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        if let Some(keep) = keep {
            let name = format!("{}-{}.out", self.name, case.replace('/', "-"));
            fs::write(keep.join(&name), &text).with_context(|| name)?;
        }
        fs::remove_file(&path).with_context(|| path.display().to_string())?;
        total(&text).with_context(|| format!("{}: no total in what callgrind wrote", self.name))
    }
}

/// What [`Counters::take`] gives for each of several processes, at once: the wait is the same for one as for all.
///
/// # Errors
/// One does not answer.
pub(super) fn take_all(all: &mut [Counters<'_>], case: &str) -> Result<Vec<u64>> {
    let asked: Vec<Child> = all.iter().map(Counters::ask).collect::<Result<_>>()?;
    all.iter_mut().zip(asked).map(|(counters, asked)| counters.answer(asked, case)).collect()
}

/// The first of the totals: instructions. There are others only where they are asked for.
fn total(text: &str) -> Option<u64> {
    let line = text.lines().rev().find_map(|line| line.strip_prefix("totals:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Why a program is not there, and how to make it.
pub(super) fn missing(programs: &Path, name: &str) -> String {
    format!(
        "{} is not there: build it with `cargo build --release -p outrigger -p outrigger-proxy -p outrigger-benches \
         -p outrigger-micro`, or say --bin-dir",
        programs.join(name).display()
    )
}

/// A word for the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn on_path(name: &str) -> Result<PathBuf> {
    let output = Command::new("sh").args(["-c", &format!("command -v {name}")]).stdin(Stdio::null()).output();
    let found = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    match found {
        Ok(path) if !path.is_empty() => Ok(path.into()),
        _ => bail!("there is no {name}: install valgrind (Debian: apt-get install valgrind)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_that_of_all_parts_and_of_instructions() {
        let text = "version: 1\nevents: Ir Dr\nfn=(1) main\n3 17\ntotals: 128942 17\n";
        assert_eq!(total(text), Some(128_942));
        assert_eq!(total("events: Ir\n"), None);
    }

    #[test]
    fn words_survive_the_shell() {
        let word = "a b'c$d";
        let output =
            Command::new("sh").args(["-c", &format!("printf %s {}", quoted(word))]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
    }

    #[test]
    fn what_a_program_did_is_counted_between_two_looks_and_comes_out_the_same() {
        let Ok(callgrind) = Callgrind::find(None) else {
            eprintln!("NOT TESTED: there is no valgrind here");
            return;
        };
        let mut child = callgrind
            .command(Path::new("/bin/cat"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut counters = callgrind.counters("cat", child.id());
        let (mut to, mut from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut echo = || {
            std::io::Write::write_all(&mut to, b"x").unwrap();
            std::io::Read::read_exact(&mut from, &mut [0]).unwrap();
        };
        echo();
        let start = counters.take("start").unwrap();
        echo();
        let once = counters.take("once").unwrap();
        echo();
        let again = counters.take("again").unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(start > 10 * once, "{start} and {once}");
        assert_eq!(once, again);
    }
}
