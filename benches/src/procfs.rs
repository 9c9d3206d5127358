//! What the kernel says of a process and of the machine: memory, CPU time, cores.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// The unit of times in `/proc/PID/stat`: `USER_HZ`, 100 on every architecture that Linux still builds for.
const TICKS_PER_SECOND: u64 = 100;

/// The memory of a process, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Everything that is in RAM for it, shared pages of the binary included (`VmRSS`).
    pub(crate) resident_bytes: u64,
    /// Heap and stacks, which it shares with nobody (`RssAnon`).
    pub(crate) anonymous_bytes: u64,
}

impl Memory {
    /// Of the process with this id and its children, now.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let children = descendants(pid).into_iter().flat_map(Self::of_one);
        Ok(children.fold(Self::of_one(pid)?, |sum, child| Self {
            resident_bytes: sum.resident_bytes + child.resident_bytes,
            anonymous_bytes: sum.anonymous_bytes + child.anonymous_bytes,
        }))
    }

    fn of_one(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).with_context(|| path.clone())?;
        Self::parse(&status).with_context(|| format!("{path} has no VmRSS and RssAnon in kB"))
    }

    fn parse(status: &str) -> Option<Self> {
        let bytes = |field: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
            let kib: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
            Some(kib * 1024)
        };
        Some(Self { resident_bytes: bytes("VmRSS")?, anonymous_bytes: bytes("RssAnon")? })
    }

    /// The greater of each number.
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            resident_bytes: self.resident_bytes.max(other.resident_bytes),
            anonymous_bytes: self.anonymous_bytes.max(other.anonymous_bytes),
        }
    }
}

/// CPU time that a process and its children have used since they were made, all their threads together.
///
/// The kernel counts user and system time in ticks of 10 ms, which is more than a proxy uses for a hundred
/// requests; the time that each thread ran it counts in nanoseconds. So the sum is taken from the threads, and
/// the ticks say how to divide it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CpuTime {
    /// In its own code.
    pub(crate) user: Duration,
    /// In the kernel on its behalf: for a proxy, mostly TCP.
    pub(crate) system: Duration,
    /// How long each thread ran, by its id. Empty in a difference, and where the kernel does not say.
    threads: BTreeMap<u32, Duration>,
}

impl CpuTime {
    /// Of the process with this id, until now, to 10 ms; a difference of two is exact, see [`since`](Self::since).
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let mut time = Self::of_one(pid)?;
        for child in descendants(pid) {
            // One that has ended meanwhile is nobody's.
            let Ok(child) = Self::of_one(child) else { continue };
            time.user += child.user;
            time.system += child.system;
            time.threads.extend(child.threads);
        }
        Ok(time)
    }

    fn of_one(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
        let time = Self::parse(&stat).with_context(|| format!("{path} is not as proc_pid_stat(5) says"))?;
        let ran = |thread: u32| {
            let schedule = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")).ok()?;
            schedule.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
        };
        Ok(Self { threads: threads(pid).filter_map(|t| Some((t, ran(t)?))).collect(), ..time })
    }

    fn parse(stat: &str) -> Option<Self> {
        // The second field is the name in parentheses and may hold anything, parentheses and blanks included.
        let (_, after_name) = stat.rsplit_once(')')?;
        let mut times = after_name.split_whitespace().skip(11);
        let mut next = || {
            let ticks: u64 = times.next()?.parse().ok()?;
            Some(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
        };
        Some(Self { user: next()?, system: next()?, threads: BTreeMap::new() })
    }

    /// What was used since then. A thread that has ended in between is counted in ticks only.
    pub(crate) fn since(self, earlier: Self) -> Self {
        let (user, system) =
            (self.user.saturating_sub(earlier.user), self.system.saturating_sub(earlier.system));
        let ended = earlier.threads.keys().any(|thread| !self.threads.contains_key(thread));
        if ended || self.threads.is_empty() {
            return Self { user, system, threads: BTreeMap::new() };
        }
        let before = |thread| earlier.threads.get(thread).copied().unwrap_or_default();
        let ran: Duration = self.threads.iter().map(|(id, ran)| ran.saturating_sub(before(id))).sum();
        let ticks = user + system;
        // Less than a tick of each: nobody knows how it was divided.
        let share = if ticks.is_zero() { 0.5 } else { user.as_secs_f64() / ticks.as_secs_f64() };
        let user = ran.mul_f64(share);
        Self { user, system: ran.saturating_sub(user), threads: BTreeMap::new() }
    }
}

/// The threads of a process.
fn threads(pid: u32) -> impl Iterator<Item = u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| task.file_name().to_str()?.parse().ok())
}

/// The children of a process, and theirs: a proxy may do its work in one.
fn descendants(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for thread in threads(parent) {
            let children = fs::read_to_string(format!("/proc/{parent}/task/{thread}/children"));
            let children = children.unwrap_or_default();
            let children: Vec<u32> = children.split_whitespace().flat_map(str::parse).collect();
            parents.extend(&children);
            found.extend(children);
        }
    }
    found
}

/// The machine, as far as a result can be compared by it. No names.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    cores: usize,
    cpu: String,
    kernel: String,
    memory_bytes: u64,
    /// Of the last minute, before the run.
    load_average_before: f64,
}

impl Machine {
    /// This one. What the kernel does not tell is left empty.
    pub(crate) fn this() -> Self {
        let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let after_colon = |text: &str, field: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(field));
            line.and_then(|l| l.split_once(':')).map(|(_, v)| v.trim().to_owned()).unwrap_or_default()
        };
        let memory = after_colon(&file("/proc/meminfo"), "MemTotal");
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: after_colon(&file("/proc/cpuinfo"), "model name"),
            kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_bytes: memory.trim_end_matches(" kB").parse::<u64>().unwrap_or_default() * 1024,
            load_average_before: file("/proc/loadavg")
                .split_whitespace()
                .next()
                .and_then(|word| word.parse().ok())
                .unwrap_or_default(),
        }
    }
}

impl Machine {
    /// Whether others were using it before the run, more than a little.
    pub(crate) fn is_busy(&self) -> bool {
        self.load_average_before > 0.3 * self.cores as f64
    }
}

impl Display for Machine {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { cores, cpu, kernel, load_average_before, .. } = self;
        write!(f, "{cores} cores of {cpu}, Linux {kernel}, load average {load_average_before} before")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_by_the_name_of_the_field_and_not_by_its_prefix() {
        let status = "Name:\tx\nVmRSSX:\t 1 kB\nVmRSS:\t    2048 kB\nRssAnon:\t     512 kB\n";
        let memory = Memory::parse(status).unwrap();
        assert_eq!(memory, Memory { resident_bytes: 2 << 20, anonymous_bytes: 512 << 10 });
        assert_eq!(Memory::parse("VmRSS:\t2048 kB\n"), None, "a missing field is not nought");
    }

    #[test]
    fn cpu_time_is_found_behind_a_name_with_blanks_and_parentheses() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 125 0 0 20 0 3 0 1 2 3";
        let time = CpuTime::parse(stat).unwrap();
        assert_eq!((time.user, time.system), (Duration::from_millis(2500), Duration::from_millis(1250)));
        assert_eq!(CpuTime::parse("7 (a) S 1"), None);
    }

    #[test]
    fn a_difference_is_as_exact_as_the_threads_and_divided_like_the_ticks() {
        let time = |user, system, threads: &[(u32, u64)]| CpuTime {
            user: Duration::from_millis(user),
            system: Duration::from_millis(system),
            threads: threads.iter().map(|&(id, micros)| (id, Duration::from_micros(micros))).collect(),
        };
        let since = time(40, 30, &[(1, 65_100), (2, 2_000)]).since(time(10, 20, &[(1, 25_100)]));
        assert_eq!(since.user + since.system, Duration::from_micros(42_000), "a new thread counts");
        assert_eq!(since.user, Duration::from_micros(31_500), "30 of 40 ticks");
        let since = time(40, 30, &[(2, 2_000)]).since(time(10, 20, &[(1, 25_100)]));
        assert_eq!((since.user, since.system), (Duration::from_millis(30), Duration::from_millis(10)));
    }

    #[test]
    fn what_a_child_uses_is_its_parents() {
        let script = "sh -c 'i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo done; read end'; true";
        let mut shell = std::process::Command::new("sh")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 4];
        std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut line).unwrap();
        let (alone, all) = (CpuTime::of_one(shell.id()).unwrap(), CpuTime::of(shell.id()).unwrap());
        let ran = |time: &CpuTime| time.threads.values().sum::<Duration>();
        assert!(ran(&all) > ran(&alone) + Duration::from_millis(5), "{all:?} with child, {alone:?} without");
        let memory = (Memory::of_one(shell.id()).unwrap(), Memory::of(shell.id()).unwrap());
        assert!(memory.1.resident_bytes > memory.0.resident_bytes, "{memory:?}");
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }

    #[test]
    fn this_process_has_memory_and_a_machine() {
        let memory = Memory::of(std::process::id()).unwrap();
        assert!(memory.resident_bytes > memory.anonymous_bytes && memory.anonymous_bytes > 0, "{memory:?}");
        CpuTime::of(std::process::id()).unwrap();
        let machine = Machine::this();
        assert!(machine.cores > 0 && machine.memory_bytes > 0 && !machine.kernel.is_empty(), "{machine:?}");
    }
}
