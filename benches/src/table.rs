//! A result as Markdown: the figures of all subjects, and every target beside what was measured.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;

use crate::kept::{Figure, Kept, KeptBound, KeptVerdict, NONE, PAIRS};
use crate::report::spread::digits;

/// What to tabulate.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  outrigger-benches table benches/results/DATE-mesh.json")]
pub struct TableArgs {
    /// The result, as `mesh` wrote it
    result: PathBuf,
}

/// Prints the tables.
///
/// # Errors
/// The file is no result of `mesh`.
pub fn run(args: &TableArgs) -> Result<bool> {
    let kept = Kept::read(&args.result)?;
    println!("{}", figures(&kept));
    println!("{}", verdicts(&kept));
    println!("{}.", kept.provenance());
    Ok(true)
}

/// A line of the table: what it is called, the metric, and the cases whose figures it holds, `a / b / c`.
type Line = (&'static str, &'static str, &'static [&'static str]);

const CLOSED: &[&str] = &["h1-c1", "h1-c16", "h1-c64", "h1-c256"];
const OPEN: &[&str] = &["open-200", "open-1000", "open-4000"];
const STREAMS: &[&str] = &["h2-1x1", "h2-16x4", "h2-64x4"];
const MEMORY: &[&str] = &["memory-idle", "memory-256", "memory-idle-1000"];

const LINES: [Line; 12] = [
    ("CPU a request, us: HTTP/1 at 1 / 16 / 64 / 256 connections", "cpu", CLOSED),
    ("CPU a request, us: 200 / 1,000 / 4,000 requests a second", "cpu", OPEN),
    ("CPU a request, us: HTTP/2, 1x1 / 16x4 / 64x4 connections x streams", "cpu", STREAMS),
    ("CPU a request, us: 10 KiB answers", "cpu", &["body-10k"]),
    ("requests a second: HTTP/1 at 1 / 16 / 64 / 256 connections", "perSecond", CLOSED),
    ("requests a second: HTTP/2, 1x1 / 16x4 / 64x4", "perSecond", STREAMS),
    ("p50, us: 200 / 1,000 / 4,000 requests a second", "p50", OPEN),
    ("p99, us: 200 / 1,000 / 4,000 requests a second", "p99", OPEN),
    ("opaque TCP, Gbit/s", "perSecond", &["tcp-bulk"]),
    ("new mTLS connections a second", "perSecond", &["mtls-connections"]),
    ("resident MiB of the pair: idle / 256 busy / 1,000 idle connections", "resident", MEMORY),
    ("ms until the pair serves", "readyIn", &["startup"]),
];

fn figures(kept: &Kept) -> String {
    let subjects: Vec<&str> = std::iter::once(NONE).chain(PAIRS.map(|(name, _)| name)).collect();
    let mut text = format!("| |{}\n|---|", cells(subjects.iter().map(|subject| kept.title(subject))));
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}", "---|".repeat(subjects.len()));
    for (what, metric, cases) in LINES {
        let cell = |subject: &&str| {
            let figures: Vec<_> = cases.iter().map(|case| kept.figure(case, subject, metric)).collect();
            match figures.iter().any(Option::is_some) {
                true => figures.into_iter().map(median).collect::<Vec<_>>().join(" / "),
                false => "–".to_owned(),
            }
        };
        let row: Vec<String> = subjects.iter().map(cell).collect();
        if row.iter().any(|cell| cell != "–") {
            let _ = writeln!(text, "| {what} |{}", cells(row));
        }
    }
    text
}

fn cells(cells: impl IntoIterator<Item = String>) -> String {
    cells.into_iter().fold(String::new(), |row, cell| row + " " + &cell + " |")
}

fn median(figure: Option<Figure>) -> String {
    match figure.map(|figure| figure.median) {
        None => "–".to_owned(),
        // Rates in thousands, as nobody compares the last digits.
        Some(value) if value >= 10_000.0 => format!("{:.1}k", value / 1000.0),
        Some(value) => digits(value),
    }
}

/// One line for each target; the peers beside each other.
fn verdicts(kept: &Kept) -> String {
    let mut text =
        "| ratio to the peer, median (least to most) | case | Envoy | HAProxy |\n|---|---|---|---|\n"
            .to_owned();
    let judged: Vec<&KeptVerdict> = kept.verdicts.iter().filter(|verdict| verdict.judged).collect();
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for verdict in &judged {
        let key = (verdict.what.as_str(), verdict.case.as_str());
        if seen.contains(&key) {
            continue;
        }
        seen.push(key);
        let of = |peer: Option<&str>| {
            let is =
                |v: &&&KeptVerdict| (v.what.as_str(), v.case.as_str()) == key && v.against.as_deref() == peer;
            judged.iter().find(is).map(|verdict| outcome(verdict))
        };
        let row = match of(None) {
            // The mesh beside itself.
            Some(itself) => [itself, "–".to_owned()],
            None => {
                [Some("envoy-h2"), Some("haproxy")].map(|peer| of(peer).unwrap_or_else(|| "–".to_owned()))
            }
        };
        let _ = writeln!(text, "| {} | {} |{}", key.0, key.1, cells(row));
    }
    let met = judged.iter().filter(|verdict| verdict.met == Some(true)).count();
    let _ = writeln!(text, "\n{met} of {} targets met.", judged.len());
    text
}

fn outcome(verdict: &KeptVerdict) -> String {
    let bound = match verdict.bound {
        KeptBound::AtMost(bound) => format!("≤ {bound}"),
        KeptBound::AtLeast(bound) => format!("≥ {bound}"),
    };
    let Some(Figure { median, min, max }) = verdict.ratio else {
        return format!("not measured; {bound}");
    };
    let sign = if verdict.met == Some(true) { "met" } else { "**missed**" };
    format!("{median:.2} ({min:.2} to {max:.2}); {bound} {sign}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kept::tests::result;

    #[test]
    fn what_was_not_measured_is_no_number_and_a_line_without_any_is_no_line() {
        let kept = Kept::parse(&result().to_string()).unwrap();
        let table = figures(&kept);
        let line = |start: &str| table.lines().find(|line| line.starts_with(start)).map(str::to_owned);
        let cpu = line("| CPU a request, us: HTTP/1").unwrap();
        assert!(cpu.ends_with("| – | 100 / – / – / – | – | – | – | 400 / – / – / – |"), "{cpu}");
        let rate = line("| requests a second: HTTP/1").unwrap();
        assert!(rate.contains("| – / 117.2k / – / – |"), "{rate}");
        assert_eq!(line("| opaque TCP"), None);
        let widths: Vec<usize> = table.lines().map(|line| line.matches('|').count()).collect();
        assert!(widths.iter().all(|width| *width == 8), "{table}");
    }

    #[test]
    fn a_target_is_judged_against_both_peers_in_one_line() {
        let table = verdicts(&Kept::parse(&result().to_string()).unwrap());
        let expected =
            "| CPU a request, HTTP/1 | h1-c1 | 0.25 (0.24 to 0.27); ≤ 0.33 met | not measured; ≤ 0.85 |";
        assert!(table.contains(expected), "{table}");
        assert!(
            table.ends_with("\n1 of 2 targets met.\n"),
            "the comparison with HTTP/1 is no target: {table}"
        );
    }
}
