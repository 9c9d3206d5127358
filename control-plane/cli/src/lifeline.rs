//! Processes that must not outlive the one that started them.
//!
//! The demo starts sixteen processes and must leave none, whatever ends it: Ctrl-C, a panic or `kill -9`. Each
//! child asks the kernel to be killed when its parent dies. The parent may have died before the child could
//! ask; then the child has another parent already and ends itself.

use rustix::process::{Pid, Signal, WaitOptions, getppid, set_parent_process_death_signal, wait};

use crate::failure::Stop;

/// Ties the life of this process to that of the parent with this process id: it gets the signal when that dies.
///
/// # Errors
/// The parent is gone already, or the kernel refuses.
pub(crate) fn follow_parent(parent: i32, signal: Signal) -> Result<(), Stop> {
    set_parent_process_death_signal(Some(signal))
        .map_err(|error| Stop::failed(format!("cannot ask to end with the parent process: {error}")))?;
    if getppid().map(Pid::as_raw_nonzero).is_some_and(|pid| pid.get() == parent) {
        Ok(())
    } else {
        Err(Stop::failed(format!("the process {parent}, which this one was to end with, is gone")))
    }
}

/// Waits until every child process, each told to end before, is gone.
pub(crate) fn await_children() {
    // An error means that there is no child left (ECHILD) or that a signal came in between, which cannot repeat for
    // long: every child has been sent SIGKILL.
    while !matches!(wait(WaitOptions::empty()), Err(rustix::io::Errno::CHILD)) {}
}
