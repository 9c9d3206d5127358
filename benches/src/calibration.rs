//! The load generator beside two that are known, on the same upstream: is it as fast as they are, and does it tell
//! the same latency?
//!
//! wrk and h2load are asked for what the cases do, and ours for the same. A generator that is slower than they are would
//! measure itself where the proxies are fast. What is not installed is not compared, and named.

use std::fmt::{self, Display, Formatter};
use std::io::Write as _;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tokio::time::Instant;

use crate::load::http1::Target;
use crate::load::{Load, http1, http2};
use crate::subject::Entry;
use crate::upstream::Upstream;

/// Ours must reach this share of the other's requests a second.
const ENOUGH: f64 = 0.8;

/// One comparison with another generator.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Calibration {
    /// The other's name.
    beside: &'static str,
    /// What both did.
    doing: &'static str,
    ours: Option<Speed>,
    theirs: Option<Speed>,
    /// Ours in requests a second, divided by theirs.
    ratio: Option<f64>,
    /// Whether that is enough.
    enough: Option<bool>,
    /// Why it was not compared.
    not_tested: Option<String>,
}

/// What a generator says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Speed {
    requests_per_second: f64,
    /// Median latency; h2load tells its mean alone.
    typical_micros: f64,
}

/// Compares with each of the others that is there.
///
/// # Errors
/// Ours fails.
pub(crate) fn measure(upstream: &Upstream, warm_up: Duration, window: Duration) -> Result<Vec<Calibration>> {
    let http1 = format!("http://{}/bytes/100", upstream.http1);
    let http2 = format!("http://{}/bench.Bench/Call", upstream.http2);
    let seconds = window.as_secs().max(1).to_string();
    let mut message = tempfile::NamedTempFile::new().context("a temporary file")?;
    message.write_all(http2::MESSAGE).context("a temporary file")?;
    let message = message.path().display().to_string();
    let wrk = ["-t1", "-c64", "-d", &seconds, "--latency", &http1];
    let h2load =
        ["-t1", "-c16", "-m4", "-D", &seconds, "-d", &message, "-H", GRPC, "-H", "te: trailers", &http2];
    let entry = Entry { address: upstream.http2, authority: vec![upstream.http2.to_string()] };
    let target = Target::new(upstream.http1, &["bench"], "/bytes/100");
    Ok(vec![
        beside("wrk", "HTTP/1.1, 64 connections", &wrk, parse_wrk, || {
            ours(http1::closed(target, 64)?, warm_up, window)
        })?,
        beside("h2load", "HTTP/2 like gRPC, 16 connections of 4 streams", &h2load, parse_h2load, || {
            ours(http2::closed(&entry, 16, 4)?, warm_up, window)
        })?,
    ])
}

const GRPC: &str = "content-type: application/grpc";

fn beside(
    beside: &'static str,
    doing: &'static str,
    arguments: &[&str],
    parse: fn(&str) -> Option<Speed>,
    ours: impl FnOnce() -> Result<Speed>,
) -> Result<Calibration> {
    eprintln!("calibrating: beside {beside}");
    let calibration =
        Calibration { beside, doing, ours: None, theirs: None, ratio: None, enough: None, not_tested: None };
    let theirs = match theirs(beside, arguments, parse) {
        Ok(theirs) => theirs,
        Err(error) => return Ok(Calibration { not_tested: Some(format!("{error:#}")), ..calibration }),
    };
    let ours = ours()?;
    let ratio = ours.requests_per_second / theirs.requests_per_second;
    let (ratio, enough) = (Some(ratio), Some(ratio >= ENOUGH));
    Ok(Calibration { ours: Some(ours), theirs: Some(theirs), ratio, enough, ..calibration })
}

fn theirs(program: &str, arguments: &[&str], parse: fn(&str) -> Option<Speed>) -> Result<Speed> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("{program} cannot be run; apt-get install {}", package(program)))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("{program} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    parse(&text).with_context(|| format!("{program} says something else than was expected: {}", text.trim()))
}

fn package(program: &str) -> &str {
    if program == "h2load" { "nghttp2-client" } else { program }
}

fn ours(load: Load, warm_up: Duration, window: Duration) -> Result<Speed> {
    sleep(warm_up);
    load.measure();
    let (began, before) = (Instant::now(), load.done());
    sleep(window);
    let (took, done) = (began.elapsed(), load.done() - before);
    let latency = load.stop()?.latency;
    Ok(Speed {
        requests_per_second: done as f64 / took.as_secs_f64(),
        typical_micros: latency.value_at_quantile(0.5) as f64 / 1e3,
    })
}

/// From `Requests/sec: 116000.12` and `50%  510.00us`; an answer that failed makes it nothing.
fn parse_wrk(text: &str) -> Option<Speed> {
    let after = |label: &str| text.lines().find_map(|line| line.trim().strip_prefix(label)).map(str::trim);
    if text.contains("Socket errors") || text.contains("Non-2xx") {
        return None;
    }
    Some(Speed {
        requests_per_second: after("Requests/sec:")?.parse().ok()?,
        typical_micros: micros(after("50%")?)?,
    })
}

/// From `finished in 4.00s, 200000.00 req/s, ..` and `time for request: min max mean ..`; failures make it nothing.
fn parse_h2load(text: &str) -> Option<Speed> {
    let after = |label: &str| text.lines().find_map(|line| line.trim().strip_prefix(label)).map(str::trim);
    let rate = after("finished in")?.split(", ").nth(1)?.strip_suffix(" req/s")?;
    if !after("requests:")?.contains(" 0 failed, 0 errored") {
        return None;
    }
    let mean = after("time for request:")?.split_whitespace().nth(2)?;
    Some(Speed { requests_per_second: rate.parse().ok()?, typical_micros: micros(mean)? })
}

/// A time as both print it.
fn micros(text: &str) -> Option<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    units.into_iter().find_map(|(unit, scale)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * scale))
}

impl Display for Calibration {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { beside, doing, .. } = self;
        match (self.ours, self.theirs, self.ratio) {
            (Some(ours), Some(theirs), Some(ratio)) => write!(
                f,
                "generator beside {beside} ({doing}): {:.0} of {:.0} requests/s ({ratio:.2}{}), {:.0} and {:.0} us",
                ours.requests_per_second,
                theirs.requests_per_second,
                if ratio < ENOUGH { ", TOO FEW" } else { "" },
                ours.typical_micros,
                theirs.typical_micros
            ),
            _ => {
                let why = self.not_tested.as_deref().unwrap_or_default();
                write!(f, "NOT TESTED: generator beside {beside} ({doing}): {why}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_is_understood() {
        let text = "Running 1s test @ http://127.0.0.1:1/\n  1 threads and 64 connections\n  Thread Stats   Avg\n    \
            Latency   351.95us\n  Latency Distribution\n     50%  331.00us\n     75%    1.20ms\n  \
            186345 requests in 1.10s, 35.72MB read\nRequests/sec: 169414.26\nTransfer/sec:     32.48MB\n";
        let speed = Speed { requests_per_second: 169_414.26, typical_micros: 331.0 };
        assert_eq!(parse_wrk(text), Some(speed));
        assert_eq!(parse_wrk(&text.replace("Requests", "Non-2xx or 3xx responses: 7\nRequests")), None);
    }

    #[test]
    fn h2load_is_understood() {
        let text = "finished in 1.00s, 151234.00 req/s, 20.19MB/s\n\
            requests: 151234 total, 151298 started, 151234 done, 151234 succeeded, 0 failed, 0 errored, 0 timeout\n\
            time for request:      110us      5.99ms       1.2ms       204us    76.10%\n";
        let speed = Speed { requests_per_second: 151_234.0, typical_micros: 1200.0 };
        assert_eq!(parse_h2load(text), Some(speed));
        assert_eq!(parse_h2load(&text.replace(" 0 failed", " 9 failed")), None);
    }

    #[test]
    fn what_is_not_installed_is_named_and_no_failure() {
        let nobody = |_: &str| None;
        let one = beside("no-such-generator", "nothing", &[], nobody, || bail!("not asked")).unwrap();
        assert!(one.to_string().starts_with("NOT TESTED: generator beside no-such-generator"), "{one}");
        assert_eq!(one.enough, None);
    }
}
