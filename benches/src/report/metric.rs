//! What a figure says, and in which unit.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::subject::Subject;

/// What was measured of one subject in one case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Metric {
    /// Requests, connections or gigabits, whichever the case counts.
    PerSecond,
    /// CPU time of both proxies together for each of what the case counts.
    Cpu,
    /// Of that, the caller's proxy.
    CpuCaller,
    /// Of that, the service's proxy.
    CpuService,
    /// Of that, in the kernel.
    CpuSystem,
    /// Latency that half of the requests had at most.
    P50,
    /// Latency that 99 % of the requests had at most.
    P99,
    /// Latency that 99.9 % of the requests had at most.
    P999,
    /// By how much the generator sent late in half of the cases; part of the latency, and of every subject's.
    LateP50,
    /// By how much the generator sent late at most in 99 % of the cases.
    LateP99,
    /// Memory of both proxies.
    Resident,
    /// Of that, what they share with nobody.
    Anonymous,
    /// CPU time that both proxies use in a second in which nothing happens.
    IdleCpu,
    /// From making the first process until both proxies served.
    ReadyIn,
    /// CPU time of both proxies for a request as set up everywhere else.
    CpuUsual,
    /// The same as set up for this case.
    CpuChanged,
    /// The second divided by the first.
    Change,
    /// Spans that both proxies have exported for each request, set up for this case.
    Spans,
}

/// What a case counts, which its figures are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    Requests,
    Connections,
    /// Of 1,000,000,000 bits.
    Gigabits,
}

impl Metric {
    /// The unit of its figures in a case that counts this.
    pub(crate) fn unit(self, counted: Counted) -> &'static str {
        use Counted::{Connections, Gigabits, Requests};
        match (self, counted) {
            (Self::PerSecond, Requests | Connections) => "/s",
            (Self::PerSecond, Gigabits) => "Gbit/s",
            (Self::Cpu | Self::CpuCaller | Self::CpuService | Self::CpuSystem, Gigabits) => "ms",
            (Self::Cpu | Self::CpuCaller | Self::CpuService | Self::CpuSystem, Requests | Connections) => {
                "us"
            }
            (Self::P50 | Self::P99 | Self::P999 | Self::LateP50 | Self::LateP99, _) => "us",
            (Self::CpuUsual | Self::CpuChanged, _) => "us",
            (Self::Resident | Self::Anonymous, _) => "MiB",
            (Self::IdleCpu, _) => "us/s",
            (Self::ReadyIn, _) => "ms",
            (Self::Change | Self::Spans, _) => "",
        }
    }

    /// The head of its column in a case that counts this.
    pub(crate) fn title(self, counted: Counted) -> String {
        let (all, each) = match counted {
            Counted::Requests => ("requests/s", "request"),
            Counted::Connections => ("connections/s", "connection"),
            Counted::Gigabits => ("Gbit/s", "Gbit"),
        };
        let title = match self {
            Self::PerSecond => return all.to_owned(),
            Self::Cpu => return format!("CPU {}/{each}", self.unit(counted)),
            Self::CpuCaller => "caller's",
            Self::CpuService => "service's",
            Self::CpuSystem => "kernel's",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::P999 => "p99.9",
            Self::LateP50 => "late p50",
            Self::LateP99 => "late p99",
            Self::Resident => "resident",
            Self::Anonymous => "anonymous",
            Self::IdleCpu => "CPU at rest",
            Self::ReadyIn => "ready in",
            Self::CpuUsual => "CPU as usual",
            Self::CpuChanged => "CPU so",
            Self::Change => "ratio",
            Self::Spans => "spans/request",
        };
        format!("{title} {}", self.unit(counted)).trim_end().to_owned()
    }
}

/// The figures of one subject in one case of one round.
pub(crate) type Figures = BTreeMap<Metric, f64>;

/// Figures, and of what.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sample {
    /// Counted from one.
    pub(crate) round: u32,
    /// The name of the case.
    pub(crate) case: &'static str,
    pub(crate) subject: Subject,
    pub(crate) figures: Figures,
}
