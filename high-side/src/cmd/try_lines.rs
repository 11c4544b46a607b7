//! `try`: what would happen to each line of a file, without anything happening.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde_json::{Value, json};
use shared::event::{Classified, Event};
use shared::record::Stream;

use super::Failure;
use crate::buffer::Fate;
use crate::config::Config;
use crate::guard::{Guard, Judged};

/// Which lines are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// As JSON, a line each.
    pub(super) json: bool,
    /// Only the sums.
    pub(super) summary: bool,
}

pub(super) fn try_lines(
    config: &Config,
    file: &Path,
    stream: Option<Stream>,
    shown: Shown,
) -> Result<(), Failure> {
    let guard = Guard::new(&config.guard).map_err(Failure::config)?;
    let failed = |err: io::Error| Failure::io(format!("{}: {err}", file.display()));
    let input: Box<dyn Read> = match file.to_str() {
        Some("-") => Box::new(io::stdin()),
        _ => Box::new(File::open(file).map_err(failed)?),
    };
    let mut input = BufReader::new(input);
    let mut sums = Sums::default();
    let (mut line, mut number) = (Vec::new(), 0_u64);
    loop {
        line.clear();
        // No line is longer than the longest record that any listener keeps.
        let limit = shared::bundle::RECORD_BYTES_MAX;
        let read = input.by_ref().take(limit).read_until(b'\n', &mut line).map_err(failed)?;
        if read == 0 {
            break;
        }
        number += 1;
        let raw = line.strip_suffix(b"\n").unwrap_or(&line);
        if raw.is_empty() {
            continue;
        }
        let (event, judged, after) = guard.examine(raw, stream);
        sums.add(&event, &judged);
        if shown.summary {
            continue;
        }
        if shown.json {
            say!("{}", as_json(number, raw, &event, &judged, &after));
        } else {
            print(number, raw, &event, &judged, &after);
        }
    }
    if shown.json {
        return Ok(());
    }
    sums.print();
    Ok(())
}

fn lane(judged: &Judged) -> &'static str {
    if judged.urgent { "flash" } else { "routine" }
}

fn as_json(number: u64, raw: &[u8], event: &Event<'_>, judged: &Judged, after: &[u8]) -> Value {
    let mut value = json!({
        "line": number,
        "stream": event.stream,
        "event": event,
        "lane": lane(judged),
        "before": String::from_utf8_lossy(raw),
    });
    match &judged.fate {
        Fate::Kept => {}
        Fate::Redacted(note) => {
            value["redacted"] = json!(note);
            value["after"] = json!(String::from_utf8_lossy(after));
        }
        Fate::Suppressed { rule, .. } => value["suppressed"] = json!(rule.as_ref()),
    }
    value
}

fn print(number: u64, raw: &[u8], event: &Event<'_>, judged: &Judged, after: &[u8]) {
    let category = match event.category {
        Classified::As { category } => category.to_string(),
        Classified::Not { unclassified } => format!("no category: {unclassified:?}"),
    };
    let who = event.actor.name.as_deref().unwrap_or("-");
    say!(
        "line {number}: {}, {category}, {} by {}, lane {}",
        event.stream,
        if event.action.is_empty() { "-" } else { &event.action },
        plain(who.as_bytes(), WORD_CHARS_MAX),
        lane(judged)
    );
    if let Some(privilege) = event.privileged {
        say!("  privileged: {privilege:?}");
    }
    match &judged.fate {
        Fate::Kept => say!("  kept as it is"),
        Fate::Redacted(note) => {
            say!("  redacted: {}", plain(note.as_bytes(), LINE_CHARS_MAX));
            say!("  before: {}", plain(raw, LINE_CHARS_MAX));
            say!("  after:  {}", plain(after, LINE_CHARS_MAX));
        }
        Fate::Suppressed { rule, .. } => say!("  suppressed by rule {rule}"),
    }
}

/// Text for a terminal: what could move its cursor or change its colours is shown as an escape.
fn plain(bytes: &[u8], chars_max: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::new();
    for c in text.chars().take(chars_max) {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    if text.chars().nth(chars_max).is_some() {
        out.push_str(" ...");
    }
    out
}

/// What each rule and stream comes to.
#[derive(Default)]
struct Sums {
    lines: u64,
    flash: u64,
    redacted: u64,
    streams: BTreeMap<&'static str, u64>,
    categories: BTreeMap<String, u64>,
    suppressed: BTreeMap<String, u64>,
}

impl Sums {
    fn add(&mut self, event: &Event<'_>, judged: &Judged) {
        self.lines += 1;
        self.flash += u64::from(judged.urgent);
        *self.streams.entry(event.stream.as_str()).or_default() += 1;
        let category = match event.category {
            Classified::As { category } => category.to_string(),
            Classified::Not { unclassified } => format!("none ({unclassified:?})"),
        };
        *self.categories.entry(category).or_default() += 1;
        match &judged.fate {
            Fate::Kept => {}
            Fate::Redacted(_) => self.redacted += 1,
            Fate::Suppressed { rule, .. } => {
                *self.suppressed.entry(rule.to_string()).or_default() += 1;
            }
        }
    }

    fn print(&self) {
        let gone: u64 = self.suppressed.values().sum();
        tell!(
            "{} lines = {} kept ({} of them redacted) + {gone} suppressed; {} in the flash lane",
            self.lines,
            self.lines - gone,
            self.redacted,
            self.flash
        );
        for (what, counts) in [
            ("stream", self.streams.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect::<Vec<_>>()),
            ("category", self.categories.iter().map(|(k, v)| (k.clone(), *v)).collect()),
            ("suppressed by", self.suppressed.iter().map(|(k, v)| (k.clone(), *v)).collect()),
        ] {
            for (name, count) in counts {
                tell!("  {what} {name}: {count}");
            }
        }
    }
}

/// How much of a name is shown on a line with others.
const WORD_CHARS_MAX: usize = 80;
/// How much of a record is shown without `--json`.
const LINE_CHARS_MAX: usize = 2000;
