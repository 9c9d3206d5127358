//! What the operating system says of this process.

use std::fs;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

/// `USER_HZ`, the unit of times in `/proc`: 100 on every Linux that Rust has a standard library for.
const TICKS_PER_SECOND: u64 = 100;

/// Each `None` where `/proc` is not mounted or says something unexpected.
#[derive(Debug, Default)]
pub(super) struct ProcessFacts {
    pub(super) cpu: Option<Duration>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) threads: Option<u64>,
    pub(super) open_files: Option<u64>,
    pub(super) max_files: Option<u64>,
}

impl ProcessFacts {
    /// As of now.
    pub(super) fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            cpu: fs::read_to_string("/proc/self/stat").ok().and_then(|stat| cpu(&stat)),
            resident_bytes: field(&status, "VmRSS:").map(|kib| kib * 1024),
            virtual_bytes: field(&status, "VmSize:").map(|kib| kib * 1024),
            threads: field(&status, "Threads:"),
            // One of them is the listing itself.
            open_files: fs::read_dir("/proc/self/fd").ok().map(|all| (all.count() as u64).saturating_sub(1)),
            max_files: getrlimit(Resource::Nofile).current,
        }
    }
}

/// The first number after `name` in `/proc/self/status`.
fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// User and system time from `/proc/self/stat`, whose second field is a name that may hold blanks and brackets.
fn cpu(stat: &str) -> Option<Duration> {
    let mut after_name = stat.rsplit_once(')')?.1.split_whitespace();
    // The state is field 3; times are fields 14 and 15.
    let user: u64 = after_name.nth(11)?.parse().ok()?;
    let system: u64 = after_name.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * (1000 / TICKS_PER_SECOND)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_whatever_the_process_is_called() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 150 25 0 0 20 0 3 0 99 1000 50";
        assert_eq!(cpu(stat), Some(Duration::from_millis(1750)));
        assert_eq!(cpu("garbage"), None);
    }

    #[test]
    fn the_running_process_has_memory_threads_and_files() {
        let facts = ProcessFacts::read();
        assert!(facts.resident_bytes.is_some_and(|b| b > 100_000), "{facts:?}");
        assert!(facts.threads.is_some_and(|t| t >= 1), "{facts:?}");
        assert!(facts.open_files.is_some_and(|f| f >= 3), "{facts:?}");
    }
}
