//! What the kernel says of a process and of the machine: memory, CPU time, cores.

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
    /// Of the process with this id, now.
    pub(crate) fn of(pid: u32) -> Result<Self> {
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

/// CPU time that a process has used since it was made, all its threads together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CpuTime {
    /// In its own code.
    pub(crate) user: Duration,
    /// In the kernel on its behalf: for a proxy, mostly TCP.
    pub(crate) system: Duration,
}

impl CpuTime {
    /// Of the process with this id, until now, to 10 ms.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
        Self::parse(&stat).with_context(|| format!("{path} is not as proc_pid_stat(5) says"))
    }

    fn parse(stat: &str) -> Option<Self> {
        // The second field is the name in parentheses and may hold anything, parentheses and blanks included.
        let (_, after_name) = stat.rsplit_once(')')?;
        let mut times = after_name.split_whitespace().skip(11);
        let mut next = || {
            let ticks: u64 = times.next()?.parse().ok()?;
            Some(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
        };
        Some(Self { user: next()?, system: next()? })
    }

    /// What was used since then.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
        }
    }
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
    fn this_process_has_memory_and_a_machine() {
        let memory = Memory::of(std::process::id()).unwrap();
        assert!(memory.resident_bytes > memory.anonymous_bytes && memory.anonymous_bytes > 0, "{memory:?}");
        CpuTime::of(std::process::id()).unwrap();
        let machine = Machine::this();
        assert!(machine.cores > 0 && machine.memory_bytes > 0 && !machine.kernel.is_empty(), "{machine:?}");
    }
}
