//! The one table.

use std::fmt;

/// What one round of a measurement gave.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// The figure itself, in the unit of its row.
    pub figure: f64,
    /// Processor seconds per million records.
    pub cpu_per_million: Option<f64>,
    /// The most memory, in MiB.
    pub memory_mib: Option<f64>,
    /// Bytes on disk per record.
    pub disk_per_record: Option<f64>,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Row {
    /// The section.
    pub section: &'static str,
    /// What was measured.
    pub subject: String,
    /// The unit of the figure.
    pub unit: &'static str,
    /// Every round.
    pub samples: Vec<Sample>,
    /// What a reader must know beside it.
    pub note: String,
}

impl Row {
    /// A line without samples yet.
    pub fn new(section: &'static str, subject: impl Into<String>, unit: &'static str) -> Self {
        Self { section, subject: subject.into(), unit, samples: Vec::new(), note: String::new() }
    }

    /// The median of a column, over the rounds that have it.
    fn median(&self, column: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        let mut values: Vec<f64> = self.samples.iter().filter_map(column).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    fn cells(&self) -> [String; COLUMNS.len()] {
        let figures = || self.samples.iter().map(|sample| sample.figure);
        let least = figures().fold(f64::INFINITY, f64::min);
        let most = figures().fold(f64::NEG_INFINITY, f64::max);
        let spread = match self.samples.len() {
            0 | 1 => String::new(),
            _ => format!("{} - {}", number(least), number(most)),
        };
        let cell = |value: Option<f64>| value.map_or(String::new(), number);
        [
            self.section.to_owned(),
            self.subject.clone(),
            cell(self.median(|sample| Some(sample.figure))),
            self.unit.to_owned(),
            spread,
            cell(self.median(|sample| sample.cpu_per_million)),
            cell(self.median(|sample| sample.memory_mib)),
            cell(self.median(|sample| sample.disk_per_record)),
            self.note.clone(),
        ]
    }
}

/// All lines, printed as Markdown.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// The lines, in the order in which they are printed.
    pub rows: Vec<Row>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<_> = self.rows.iter().map(Row::cells).collect();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].len());
            cells.chain([COLUMNS[column].len()]).max().unwrap_or(0)
        };
        let widths: [usize; COLUMNS.len()] = std::array::from_fn(width);
        let mut line = |cells: [&str; COLUMNS.len()]| {
            for (cell, width) in cells.iter().zip(widths) {
                write!(f, "| {cell:width$} ")?;
            }
            writeln!(f, "|")
        };
        line(COLUMNS)?;
        let rules = widths.map(|width| "-".repeat(width));
        line(std::array::from_fn(|column| rules[column].as_str()))?;
        rows.iter().try_for_each(|row| line(std::array::from_fn(|column| row[column].as_str())))
    }
}

/// A number as people read it: three digits that count, thousands apart.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        0.0 => 0,
        small if small < 10.0 => 2,
        middle if middle < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    let (whole, rest) =
        text.split_once('.').map_or((text.as_str(), ""), |(whole, rest)| (whole, rest));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if rest.is_empty() { grouped } else { format!("{grouped}.{rest}") }
}

const COLUMNS: [&str; 9] = [
    "section",
    "subject",
    "median",
    "unit",
    "least - most",
    "CPU s/M",
    "memory MiB",
    "disk B/record",
    "note",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let cases = [
            (0.0, "0"),
            (0.456, "0.46"),
            (42.04, "42.0"),
            (999.4, "999"),
            (1_234_567.0, "1,234,567"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn the_median_is_shown_between_the_extremes() {
        let mut row = Row::new("ingest", "x", "records/s");
        for figure in [30.0, 10.0, 20.0] {
            row.samples.push(Sample { figure, ..Sample::default() });
        }
        let text = Table { rows: vec![row] }.to_string();
        assert!(text.contains("| 20.0   | records/s | 10.0 - 30.0  |"), "{text}");
    }
}
