//! An agent's numbers, in the formats of Prometheus and `OpenMetrics`.
//!
//! A side has one table of what it counts ([`Metric`]); only what stands there can be told, and the same
//! table makes the documentation. Label values are names from the configuration, words of fixed lists, and
//! origins, of which only trusted ones are admitted: so the number of series is bounded. Where it were
//! not, [`SERIES_MAX`] ends it, and what was left out is counted.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Series of one metric, at most. A site with 64 sinks or 300 trusted origins stays far below.
pub const SERIES_MAX: usize = 1_000;

/// What kind of number it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, until the agent is started anew or, where the text says so, for ever.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Quantiles: of the labels the last one is `quantile`.
    Summary,
}

impl Kind {
    /// The word for it in both formats.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Summary => "summary",
        }
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name without the side's prefix, its unit at the end, and behind that `_total` of a counter.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it says, in one sentence.
    pub help: &'static str,
}

impl Metric {
    /// One that only grows.
    pub const fn counter(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { name, kind: Kind::Counter, labels, help }
    }

    /// One that goes up and down.
    pub const fn gauge(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { name, kind: Kind::Gauge, labels, help }
    }

    /// Quantiles.
    pub const fn summary(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { name, kind: Kind::Summary, labels, help }
    }
}

/// How the numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The text format of Prometheus, version 0.0.4.
    Text,
    /// `OpenMetrics` 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What a request's `Accept` prefers. Who asks for nothing, or for what there is not, gets the text.
    pub fn accepted(accept: &str) -> Self {
        let (mut text, mut open) = (0.0_f64, 0.0_f64);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let mut weight = 1.0_f64;
            let mut version = "1.0.0";
            for part in parts {
                match part.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
                    Some(("q", value)) => weight = value.parse().unwrap_or(0.0),
                    Some(("version", value)) => version = value,
                    _ => {}
                }
            }
            match kind.as_str() {
                "application/openmetrics-text" if version == "1.0.0" => open = weight.max(open),
                "text/plain" | "text/*" | "*/*" => text = weight.max(text),
                _ => {}
            }
        }
        if open > 0.0 && open >= text { Format::OpenMetrics } else { Format::Text }
    }
}

/// The numbers of one moment.
#[derive(Clone, Debug)]
pub struct Numbers {
    prefix: &'static str,
    metrics: &'static [Metric],
    series: Vec<BTreeMap<Vec<String>, f64>>,
    left_out: u64,
}

impl Numbers {
    /// None yet. Every name begins with `prefix` and `_`.
    pub fn new(prefix: &'static str, metrics: &'static [Metric]) -> Self {
        let series = vec![BTreeMap::new(); metrics.len()];
        Self { prefix, metrics, series, left_out: 0 }
    }

    /// Adds to the number with these values of its labels.
    ///
    /// A name that is not in the table, or other labels than its, are faults of ours that tests meet; they are
    /// counted as left out.
    pub fn add(&mut self, name: &str, labels: &[&str], value: f64) {
        let known = self.metrics.iter().position(|metric| metric.name == name);
        let known = known.filter(|at| self.metrics[*at].labels.len() == labels.len());
        debug_assert!(known.is_some(), "{name} with {} labels is not in the table", labels.len());
        let Some(at) = known else {
            self.left_out += 1;
            return;
        };
        let series = &mut self.series[at];
        let key: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        if series.len() >= SERIES_MAX && !series.contains_key(&key) {
            self.left_out += 1;
            return;
        }
        *series.entry(key).or_default() += value;
    }

    /// One for each word of a fixed list: 1 for the one that is, 0 for the others.
    pub fn one_of(&mut self, name: &str, labels: &[&str], words: &[&str], is: &str) {
        for word in words {
            let labels: Vec<&str> = labels.iter().chain([word]).copied().collect();
            self.add(name, &labels, f64::from(u8::from(*word == is)));
        }
    }

    /// Series that were more than [`SERIES_MAX`] of one metric.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// What was added under these labels.
    pub fn get(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let at = self.metrics.iter().position(|metric| metric.name == name)?;
        let found = self.series[at].iter();
        found.filter(|(key, _)| key.iter().eq(labels)).map(|(_, value)| *value).next()
    }

    /// The numbers in a format. Each metric is named, also where there is nothing to count.
    pub fn text(&self, format: Format) -> String {
        let mut out = String::new();
        for (metric, series) in self.metrics.iter().zip(&self.series) {
            let name = format!("{}_{}", self.prefix, metric.name);
            let family = match format {
                Format::Text => &name,
                Format::OpenMetrics => name.strip_suffix("_total").unwrap_or(&name),
            };
            let _ = writeln!(out, "# HELP {family} {}", escaped(metric.help, format));
            let _ = writeln!(out, "# TYPE {family} {}", metric.kind.as_str());
            let unit = UNITS.into_iter().find(|unit| family.ends_with(unit));
            if let (Some(unit), Format::OpenMetrics) = (unit, format) {
                let _ = writeln!(out, "# UNIT {family} {}", &unit[1..]);
            }
            for (values, value) in series {
                out.push_str(&name);
                for (at, (label, text)) in metric.labels.iter().zip(values).enumerate() {
                    let before = if at == 0 { '{' } else { ',' };
                    let text = escaped(text, Format::OpenMetrics);
                    let _ = write!(out, "{before}{label}=\"{text}\"");
                }
                let end = if values.is_empty() { " " } else { "} " };
                let _ = writeln!(out, "{end}{value}");
            }
        }
        if format == Format::OpenMetrics {
            out.push_str("# EOF\n");
        }
        out
    }
}

const UNITS: [&str; 2] = ["_seconds", "_bytes"];

/// Text of a label or, where quotes are left as they are, of a help line of Prometheus.
fn escaped(text: &str, format: Format) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    match format {
        Format::Text => text,
        Format::OpenMetrics => text.replace('"', "\\\""),
    }
}

/// The rows of the documentation's table, in Markdown.
pub fn documented(prefix: &str, metrics: &[Metric]) -> String {
    let mut out = String::from("| metric | kind | labels | what it says |\n|---|---|---|---|\n");
    for Metric { name, kind, labels, help } in metrics {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let (kind, labels) = (kind.as_str(), labels.join(", "));
        let help = help.replace('|', "\\|");
        let _ = writeln!(out, "| `{prefix}_{name}` | {kind} | {labels} | {help} |");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &[Metric] = &[
        Metric::counter("sent_bytes_total", &["to"], "Bytes \"sent\" \\ so far."),
        Metric::gauge("waiting", &[], "What waits."),
        Metric::summary("took_seconds", &["quantile"], "How long it took."),
    ];

    #[test]
    fn both_formats_name_all_and_escape_what_comes_from_outside() {
        let mut numbers = Numbers::new("x", METRICS);
        numbers.add("sent_bytes_total", &["a\"b\\c\nd"], 1.0);
        numbers.add("sent_bytes_total", &["a\"b\\c\nd"], 2.0);
        numbers.add("took_seconds", &["0.99"], 0.25);
        let text = numbers.text(Format::Text);
        assert_eq!(
            text,
            "# HELP x_sent_bytes_total Bytes \"sent\" \\\\ so far.\n# TYPE x_sent_bytes_total counter\n\
             x_sent_bytes_total{to=\"a\\\"b\\\\c\\nd\"} 3\n\
             # HELP x_waiting What waits.\n# TYPE x_waiting gauge\n\
             # HELP x_took_seconds How long it took.\n# TYPE x_took_seconds summary\n\
             x_took_seconds{quantile=\"0.99\"} 0.25\n"
        );
        let open = numbers.text(Format::OpenMetrics);
        for line in [
            "# HELP x_sent_bytes Bytes \\\"sent\\\" \\\\ so far.",
            "# TYPE x_sent_bytes counter",
            "# UNIT x_sent_bytes bytes",
            "# UNIT x_took_seconds seconds",
            "x_sent_bytes_total{to=\"a\\\"b\\\\c\\nd\"} 3",
        ] {
            assert!(open.lines().any(|found| found == line), "{line}: {open}");
        }
        assert!(open.ends_with("\n# EOF\n"));
        assert_eq!(numbers.get("took_seconds", &["0.99"]), Some(0.25));
    }

    #[test]
    fn there_are_never_more_series_than_the_bound() {
        let mut numbers = Numbers::new("x", METRICS);
        for at in 0..SERIES_MAX + 5 {
            numbers.add("sent_bytes_total", &[&at.to_string()], 1.0);
        }
        numbers.add("sent_bytes_total", &["7"], 1.0);
        assert_eq!(numbers.left_out(), 5);
        assert_eq!(numbers.get("sent_bytes_total", &["7"]), Some(2.0));
    }

    #[test]
    fn who_prefers_openmetrics_gets_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, format) in [
            (prometheus, Format::OpenMetrics),
            ("application/openmetrics-text", Format::OpenMetrics),
            (
                "text/plain;version=0.0.4, application/openmetrics-text; version=1.0.0; q=0.2",
                Format::Text,
            ),
            ("application/openmetrics-text;version=0.0.1", Format::Text),
            ("application/openmetrics-text;q=0", Format::Text),
            ("application/openmetrics-text;q=x", Format::Text),
            ("*/*", Format::Text),
            ("", Format::Text),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept}");
        }
    }

    #[test]
    fn the_table_of_the_documentation() {
        let table = documented("x", METRICS);
        assert!(table.contains("| `x_sent_bytes_total` | counter | `to` | Bytes"), "{table}");
    }
}
