//! Metrics as text, in Prometheus' format 0.0.4 and in OpenMetrics 1.0.0.
//!
//! Invariants: a family is written once, and a series in it once; label values are escaped; no IO.

use std::fmt::Write;

/// The form of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own, version 0.0.4.
    Prometheus,
    /// OpenMetrics, version 1.0.0.
    OpenMetrics,
}

impl Format {
    /// What an `Accept` header prefers of the two; Prometheus' own form where it has no preference.
    #[must_use]
    pub fn accepted(accept: Option<&str>) -> Self {
        let quality = |media: &str| {
            let clauses = accept.unwrap_or_default().split(',');
            let of = clauses.filter_map(|clause| {
                let mut parts = clause.split(';').map(str::trim);
                (parts.next() == Some(media)).then(|| {
                    let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok());
                    quality.unwrap_or(1.0_f32)
                })
            });
            of.fold(0.0, f32::max)
        };
        let open = quality("application/openmetrics-text");
        if open > 0.0 && open >= quality("text/plain") { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The media type of the text.
    #[must_use]
    pub fn media(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Metrics of one name.
#[derive(Clone, Debug)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    samples: Vec<(Labels, Value)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

#[derive(Clone, Debug)]
enum Value {
    Number(f64),
    Histogram(Histogram),
}

/// Names and values of labels.
pub type Labels = Vec<(&'static str, String)>;

/// How often something was how large.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Upper limits, rising, each with how many were above the one before and not above it.
    pub buckets: Vec<(f64, u64)>,
    /// How many were above all limits.
    pub above: u64,
    /// The sum of all.
    pub sum: f64,
}

impl Family {
    /// Numbers that only grow. `name` is without `_total`.
    #[must_use]
    pub fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Counter, samples: Vec::new() }
    }

    /// Numbers that go up and down.
    #[must_use]
    pub fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Gauge, samples: Vec::new() }
    }

    /// Distributions.
    #[must_use]
    pub fn histogram(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Histogram, samples: Vec::new() }
    }

    /// Adds a number; of a counter or gauge.
    pub fn number(&mut self, labels: Labels, value: f64) {
        self.samples.push((labels, Value::Number(value)));
    }

    /// Adds a distribution; of a histogram.
    pub fn distribution(&mut self, labels: Labels, value: Histogram) {
        self.samples.push((labels, Value::Histogram(value)));
    }

    /// The same with one number and no labels.
    #[must_use]
    pub fn with(mut self, value: f64) -> Self {
        self.number(Labels::new(), value);
        self
    }
}

/// All families as text.
#[must_use]
pub fn render(families: &[Family], format: Format) -> String {
    let mut out = String::new();
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        write_family(&mut out, family, format);
    }
    if format == Format::OpenMetrics {
        out.push_str("# EOF\n");
    }
    out
}

fn write_family(out: &mut String, family: &Family, format: Format) {
    let (kind, suffix) = match family.kind {
        Kind::Counter => ("counter", "_total"),
        Kind::Gauge => ("gauge", ""),
        Kind::Histogram => ("histogram", ""),
    };
    // OpenMetrics names the family, Prometheus the samples.
    let named = if format == Format::OpenMetrics { "" } else { suffix };
    let name = family.name;
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# HELP {name}{named} {}", escaped(family.help));
    let _ = writeln!(out, "# TYPE {name}{named} {kind}");
    for (labels, value) in &family.samples {
        match value {
            Value::Number(number) => sample(out, name, suffix, labels, None, *number),
            Value::Histogram(histogram) => write_histogram(out, name, labels, histogram),
        }
    }
}

fn write_histogram(out: &mut String, name: &str, labels: &Labels, histogram: &Histogram) {
    let mut count = 0;
    for (limit, more) in &histogram.buckets {
        count += more;
        sample(out, name, "_bucket", labels, Some(&format!("{limit:?}")), count as f64);
    }
    count += histogram.above;
    sample(out, name, "_bucket", labels, Some("+Inf"), count as f64);
    sample(out, name, "_sum", labels, None, histogram.sum);
    sample(out, name, "_count", labels, None, count as f64);
}

fn sample(out: &mut String, name: &str, suffix: &str, labels: &Labels, limit: Option<&str>, value: f64) {
    out.push_str(name);
    out.push_str(suffix);
    let mut separator = '{';
    let all = labels.iter().map(|(name, value)| (*name, value.as_str())).chain(limit.map(|limit| ("le", limit)));
    for (name, value) in all {
        let _ = write!(out, "{separator}{name}=\"{}\"", escaped(value));
        separator = ',';
    }
    if separator == ',' {
        out.push('}');
    }
    let _ = writeln!(out, " {value}");
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families() -> Vec<Family> {
        let mut requests = Family::counter("requests", "How \"many\".");
        requests.number(vec![("to", "a\"b\\c\nd".into()), ("code", "2xx".into())], 3.0);
        let mut times = Family::histogram("time_seconds", "How long.");
        let histogram = Histogram { buckets: vec![(0.0001, 1), (1.0, 2)], above: 4, sum: 2.5 };
        times.distribution(vec![("to", "x".into())], histogram);
        vec![requests, times, Family::gauge("open", "Now.").with(1.5), Family::gauge("nothing", "Left out.")]
    }

    #[test]
    fn prometheus_gets_its_own_form() {
        let expected = "\
# HELP requests_total How \\\"many\\\".
# TYPE requests_total counter
requests_total{to=\"a\\\"b\\\\c\\nd\",code=\"2xx\"} 3
# HELP time_seconds How long.
# TYPE time_seconds histogram
time_seconds_bucket{to=\"x\",le=\"0.0001\"} 1
time_seconds_bucket{to=\"x\",le=\"1.0\"} 3
time_seconds_bucket{to=\"x\",le=\"+Inf\"} 7
time_seconds_sum{to=\"x\"} 2.5
time_seconds_count{to=\"x\"} 7
# HELP open Now.
# TYPE open gauge
open 1.5
";
        assert_eq!(render(&families(), Format::Prometheus), expected);
    }

    #[test]
    fn openmetrics_names_the_family_and_says_where_it_ends() {
        let text = render(&families(), Format::OpenMetrics);
        assert!(
            text.contains("# TYPE requests counter\nrequests_total{") && text.ends_with("open 1.5\n# EOF\n"),
            "{text}"
        );
    }

    #[test]
    fn the_form_is_chosen_by_accept() {
        for (accept, format) in [
            (None, Format::Prometheus),
            (Some("*/*"), Format::Prometheus),
            (Some("text/plain"), Format::Prometheus),
            (Some("application/openmetrics-text"), Format::OpenMetrics),
            (
                Some("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"),
                Format::OpenMetrics,
            ),
            (Some("text/plain;version=0.0.4;q=0.9, application/openmetrics-text; q=0.2"), Format::Prometheus),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept:?}");
        }
    }
}
