//! The steps that can be measured, by name.

use std::fmt;

use anyhow::Result;

use crate::{balancing, fields, matching, recording, tls};

/// What is measured: does its work once whenever it is called.
pub(crate) type Work = Box<dyn FnMut()>;

/// One step of a request.
pub(crate) struct Step {
    /// As it is asked for: what is done, a slash, and to how much of what.
    pub(crate) name: &'static str,
    /// How often it is to be done for counting: so often that all take about as long.
    pub(crate) times: u32,
    prepare: fn() -> Result<Work>,
}

impl Step {
    /// Makes what the work needs, which is not measured.
    pub(crate) fn prepare(&self) -> Result<Work> {
        (self.prepare)()
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// All of them, in the order in which a request comes to them.
pub(crate) fn all() -> Vec<Step> {
    let step = |name, times, prepare| Step { name, times, prepare };
    vec![
        step("tls/handshake", 20, tls::full_handshake),
        step("tls/handshake-resumed", 20, tls::resumed_handshake),
        step("tls/record-100", 1000, || tls::records(100)),
        step("tls/record-16384", 200, || tls::records(16 * 1024)),
        step("head/check", 1000, || Ok(fields::check())),
        step("head/look", 1000, || Ok(fields::look())),
        step("head/strip", 1000, || Ok(fields::strip())),
        step("trace/extract", 1000, || Ok(fields::extract())),
        step("trace/inject", 1000, || Ok(fields::inject())),
        step("route/1", 1000, || Ok(matching::last_of(1))),
        step("route/100", 1000, || Ok(matching::last_of(100))),
        step("route/1000", 300, || Ok(matching::last_of(1000))),
        step("balance/1", 1000, || balancing::pick_among(1)),
        step("balance/10", 1000, || balancing::pick_among(10)),
        step("balance/100", 300, || balancing::pick_among(100)),
        step("balance/1000", 50, || balancing::pick_among(1000)),
        step("record/request", 1000, recording::request),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_works_more_than_once() {
        for step in all() {
            let mut work = step.prepare().unwrap_or_else(|error| panic!("{step}: {error:#}"));
            (0..3).for_each(|_| work());
        }
    }
}
