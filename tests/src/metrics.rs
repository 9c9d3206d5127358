//! A proxy's `/metrics`, read by a Prometheus parser that is not ours.

use prometheus_parse::{Sample, Scrape, Value};

/// One scrape.
#[derive(Debug)]
pub struct Metrics {
    /// As served.
    pub text: String,
    scrape: Scrape,
}

impl Metrics {
    /// Parses the exposition format; panics where it is not valid.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().map(|line| Ok(line.to_owned()));
        let scrape = Scrape::parse(lines).expect("the text format parses");
        Self { text: text.to_owned(), scrape }
    }

    /// The samples of this metric with these labels.
    pub fn select<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&str, &str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.scrape.samples.iter().filter(move |sample| {
            sample.metric == name
                && labels.iter().all(|(label, value)| sample.labels.get(label) == Some(value))
        })
    }

    /// The sum of all series of this counter or gauge with these labels; 0 where there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.select(name, labels)
            .map(|sample| match sample.value {
                Value::Counter(v) | Value::Gauge(v) | Value::Untyped(v) => v,
                _ => 0.0,
            })
            .sum()
    }

    /// Whether any series of this name exists.
    pub fn has(&self, name: &str) -> bool {
        self.scrape.samples.iter().any(|s| s.metric == name)
    }

    /// How many series there are in all.
    pub fn series(&self) -> usize {
        self.text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()).count()
    }

    /// The upper bounds and cumulative counts of all histograms of this name and labels, added up.
    pub fn histogram(&self, name: &str, labels: &[(&str, &str)]) -> Vec<(f64, f64)> {
        let mut total: Vec<(f64, f64)> = Vec::new();
        for sample in self.select(name, labels) {
            let Value::Histogram(buckets) = &sample.value else { continue };
            for bucket in buckets {
                match total.iter_mut().find(|(bound, _)| *bound == bucket.less_than) {
                    Some((_, count)) => *count += bucket.count,
                    None => total.push((bucket.less_than, bucket.count)),
                }
            }
        }
        total.sort_by(|a, b| a.0.total_cmp(&b.0));
        total
    }

    /// The lines that begin with this, for failure messages.
    pub fn lines(&self, prefix: &str) -> String {
        self.text.lines().filter(|line| line.starts_with(prefix)).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_histograms_are_read_as_prometheus_means_them() {
        let metrics = Metrics::parse(
            "# TYPE a_total counter\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"1\",y=\"3\"} 4\n\
             # TYPE d_seconds histogram\nd_seconds_bucket{x=\"1\",le=\"0.1\"} 1\n\
             d_seconds_bucket{x=\"1\",le=\"+Inf\"} 2\nd_seconds_sum{x=\"1\"} 5\nd_seconds_count{x=\"1\"} 2\n",
        );
        assert_eq!(metrics.sum("a_total", &[("x", "1")]), 7.0);
        assert_eq!(metrics.sum("a_total", &[("y", "3")]), 4.0);
        assert_eq!(metrics.histogram("d_seconds", &[]), vec![(0.1, 1.0), (f64::INFINITY, 2.0)]);
    }
}
