//! The picture of a result: what a request costs, what it waits and what a pair weighs, beside the peers.
//!
//! An SVG of rectangles and text with its own background, for light and for dark surroundings as the reader's
//! system asks. The colours are near those of Okabe and Ito, which people with any colour vision tell apart, a
//! darker and a lighter one where a peer is set up in two ways; every bar has its number, too. A thin line over a
//! bar goes from the least to the greatest of the rounds, as far as there is room.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::kept::{Figure, Kept, PAIRS};
use crate::report::spread::digits;

/// What to draw.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  outrigger-benches chart benches/results/DATE-mesh.json > benches/results/mesh.svg")]
pub struct ChartArgs {
    /// The result, as `mesh` wrote it
    result: PathBuf,
}

/// Prints the SVG.
///
/// # Errors
/// The file is no result of `mesh`, or holds nothing that is drawn.
pub fn run(args: &ChartArgs) -> Result<bool> {
    print!("{}", draw(&Kept::read(&args.result)?)?);
    Ok(true)
}

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 680.0;
/// Around everything, and between the lower two panels.
const MARGIN: f64 = 28.0;

const STYLE: &str = "\
text{fill:#1f2328;font-family:ui-sans-serif,system-ui,-apple-system,'Segoe UI',sans-serif;font-size:12px}\
.paper{fill:#fff;stroke:#d1d9e0}.grid{stroke:#d1d9e0;stroke-width:1}.spread{stroke:#1f2328;stroke-width:1.2}\
.title{font-size:15px;font-weight:600}.quiet{fill:#59636e}.value{font-size:10.5px}.ours{font-weight:600}\
.s0{fill:#0072b2}.s1{fill:#d98e00}.s2{fill:#f0c95a}.s3{fill:#8f5f7e}.s4{fill:#d48fb4}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.paper{fill:#0d1117;stroke:#3d444d}.grid{stroke:#30363d}\
.spread{stroke:#e6edf3}.quiet{fill:#9198a1}.s0{fill:#3b9ede}.s1{fill:#d98e00}.s2{fill:#f0d080}.s3{fill:#a1708f}.s4{fill:#dca0c4}}";

/// Bars beside each other, for the same thing.
struct Group {
    label: String,
    /// One for each of [`PAIRS`].
    bars: Vec<Option<Figure>>,
}

struct Panel {
    title: &'static str,
    unit: &'static str,
    groups: Vec<Group>,
}

/// How numbers become heights.
struct Axis {
    bottom: f64,
    top: f64,
    scale: f64,
}

impl Axis {
    fn y(&self, value: f64) -> f64 {
        (self.bottom - value * self.scale).max(self.top)
    }
}

/// Where a panel is.
struct Place {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

fn draw(kept: &Kept) -> Result<String> {
    let [cpu, p50, p99, memory] = panels(kept);
    if [&cpu, &p50, &p99, &memory].iter().all(|panel| panel.greatest() <= 0.0) {
        bail!("it has none of the cases that are drawn: h1-c1 to h1-c256, open-1000, memory-*");
    }
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"CPU time a request, added latency and memory of pairs of proxies\">\n\
         <style>{STYLE}</style>\n\
         <rect class=\"paper\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\"/>\n",
        WIDTH - 1.0,
        HEIGHT - 1.0
    );
    legend(&mut svg, kept);
    let full = WIDTH - 2.0 * MARGIN;
    cpu.draw(&mut svg, &Place { left: MARGIN, top: 80.0, width: full, height: 270.0 });
    let mut left = MARGIN;
    for (panel, width) in [(p50, 172.0), (p99, 172.0), (memory, full - 2.0 * (172.0 + MARGIN))] {
        panel.draw(&mut svg, &Place { left, top: 382.0, width, height: 250.0 });
        left += width + MARGIN;
    }
    text(&mut svg, MARGIN, HEIGHT - 18.0, "quiet value", "start", &kept.provenance());
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn panels(kept: &Kept) -> [Panel; 4] {
    let group = |label: &str, figure: &dyn Fn(&str) -> Option<Figure>| Group {
        label: label.to_owned(),
        bars: PAIRS.iter().map(|(name, _)| figure(name)).collect(),
    };
    let cpu = [("h1-c1", "1 connection"), ("h1-c16", "16"), ("h1-c64", "64"), ("h1-c256", "256 connections")];
    let memory =
        [("memory-idle", "idle"), ("memory-256", "256 busy connections"), ("memory-idle-1000", "1,000 idle")];
    [
        Panel {
            title: "CPU time a request, HTTP/1.1, both proxies together",
            unit: "us; less is better",
            groups: cpu.map(|(case, label)| group(label, &|who| kept.figure(case, who, "cpu"))).into(),
        },
        Panel {
            title: "Added p50",
            unit: "us",
            groups: vec![group("at 1,000 a second", &|who| kept.added("open-1000", who, "p50"))],
        },
        Panel {
            title: "Added p99",
            unit: "us",
            groups: vec![group("at 1,000 a second", &|who| kept.added("open-1000", who, "p99"))],
        },
        Panel {
            title: "Resident memory of a pair",
            unit: "MiB",
            groups: memory
                .map(|(case, label)| group(label, &|who| kept.figure(case, who, "resident")))
                .into(),
        },
    ]
}

/// In two lines: the mesh and one peer, the other below.
fn legend(svg: &mut String, kept: &Kept) {
    for (number, (name, _)) in PAIRS.iter().enumerate() {
        let (column, row) = if number < 3 { (number, 0.0) } else { (number - 2, 1.0) };
        // The first title is short, the others are of one length.
        let left = MARGIN + if column == 0 { 0.0 } else { 130.0 + 270.0 * (column - 1) as f64 };
        let top = 22.0 + 20.0 * row;
        rect(svg, number, left, top, 12.0, 12.0);
        let class = if number == 0 { "ours" } else { "" };
        text(svg, left + 18.0, top + 10.0, class, "start", &kept.title(name));
    }
}

impl Panel {
    fn greatest(&self) -> f64 {
        let bars = self.groups.iter().flat_map(|group| group.bars.iter().flatten());
        // A single bad round of a peer is no reason to draw everything else small.
        bars.map(|bar| bar.max.min(1.3 * bar.median)).fold(0.0, f64::max)
    }

    fn draw(&self, svg: &mut String, place: &Place) {
        text(svg, place.left, place.top + 14.0, "title", "start", self.title);
        text(svg, place.left + place.width, place.top + 14.0, "quiet", "end", self.unit);
        let axis = Place {
            left: place.left + 36.0,
            top: place.top + 40.0,
            width: place.width - 36.0,
            height: place.height - 64.0,
        };
        let step = step(self.greatest());
        let scale = axis.height / (step * (self.greatest() / step).ceil().max(1.0));
        let bottom = axis.top + axis.height;
        let mut tick = 0.0;
        while bottom - tick * scale >= axis.top - 0.5 {
            let y = bottom - tick * scale;
            line(svg, "grid", axis.left, y, axis.left + axis.width, y);
            text(svg, axis.left - 6.0, y + 4.0, "quiet value", "end", &tick.to_string());
            tick += step;
        }
        let width = axis.width / self.groups.len() as f64;
        for (number, group) in self.groups.iter().enumerate() {
            let left = axis.left + width * number as f64;
            group.draw(svg, left, width, &Axis { bottom, top: axis.top, scale });
            text(svg, left + width / 2.0, bottom + 18.0, "", "middle", &group.label);
        }
    }
}

impl Group {
    fn draw(&self, svg: &mut String, left: f64, width: f64, axis: &Axis) {
        let bottom = axis.bottom;
        let (gap, number) = (width * 0.08, self.bars.len() as f64);
        let slot = (width - 2.0 * gap) / number;
        for (who, bar) in self.bars.iter().enumerate() {
            let left = left + gap + slot * who as f64;
            let middle = left + slot / 2.0;
            let class = if who == 0 { "value ours" } else { "value" };
            let Some(bar) = bar else {
                text(svg, middle, bottom - 4.0, "value quiet", "middle", "–");
                continue;
            };
            let top = axis.y(bar.median);
            rect(svg, who, left + 1.5, top, slot - 3.0, bottom - top);
            line(svg, "spread", middle, axis.y(bar.min), middle, axis.y(bar.max));
            text(svg, middle, axis.y(bar.max) - 4.0, class, "middle", &shown(bar.median));
        }
    }
}

/// The distance of three to six lines of the grid: one, two or five times a power of ten.
fn step(greatest: f64) -> f64 {
    let power = 10f64.powf((greatest.max(1.0) / 5.0).log10().floor());
    let steps = [power, 2.0 * power, 5.0 * power, 10.0 * power];
    steps.into_iter().find(|step| greatest <= 5.0 * step).unwrap_or(power).max(1.0)
}

/// Without decimals where there are two digits before them: bars are narrow.
fn shown(value: f64) -> String {
    if value >= 10.0 {
        format!("{value:.0}")
    } else {
        digits(value).trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

// Writing to a string cannot fail.

fn rect(svg: &mut String, who: usize, left: f64, top: f64, width: f64, height: f64) {
    let _ = writeln!(
        svg,
        "<rect class=\"s{who}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"1.5\"/>"
    );
}

fn line(svg: &mut String, class: &str, x1: f64, y1: f64, x2: f64, y2: f64) {
    let _ = writeln!(
        svg,
        "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
    );
}

fn text(svg: &mut String, x: f64, y: f64, class: &str, anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kept::tests::result;

    #[test]
    fn a_bar_is_as_high_as_its_number_and_one_that_is_missing_is_said_to_be() {
        let svg = draw(&Kept::parse(&result().to_string()).unwrap()).unwrap();
        let height = |class: &str| -> f64 {
            let bars = svg.lines().filter(|line| line.starts_with(&format!("<rect class=\"{class}\"")));
            // The first is the legend's.
            let bar = bars.clone().nth(1).unwrap();
            bar.split("height=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
        };
        assert!((height("s4") / height("s0") - 4.0).abs() < 0.02, "400 is four times 100: {svg}");
        assert!(svg.contains(">–</text>"), "HAProxy was not measured");
        assert!(svg.contains("Fast &amp; Co &lt;8&gt;"), "text is escaped");
        assert_eq!(svg.matches('<').count(), svg.matches('>').count());
    }

    #[test]
    fn the_grid_has_a_few_round_lines() {
        for (greatest, expected) in [(3.0, 1.0), (47.0, 10.0), (130.0, 50.0), (402.0, 100.0), (1001.0, 500.0)]
        {
            assert_eq!(step(greatest), expected, "{greatest}");
        }
    }

    #[test]
    fn numbers_on_bars_are_short() {
        assert_eq!([0.5, 9.0, 99.6, 1234.5].map(shown), ["0.5", "9", "100", "1234"]);
    }

    #[test]
    fn a_result_without_anything_to_draw_is_refused() {
        let mut empty = result();
        empty["summary"] = serde_json::json!([]);
        empty["samples"] = serde_json::json!([]);
        assert!(draw(&Kept::parse(&empty.to_string()).unwrap()).is_err());
    }
}
