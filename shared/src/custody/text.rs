//! What `custody show` and `custody verify` print.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Entry, Life, Verdict};

/// The table of one bundle's life.
pub fn life_text(life: &Life) -> String {
    let mut out = String::new();
    let known = life.entries.iter().find_map(|entry| entry.event.bundle.as_ref());
    if let Some(bundle) = known {
        let (origin, epoch, lane, number) =
            (&bundle.origin, bundle.epoch, bundle.lane, bundle.number);
        let _ = writeln!(out, "bundle  {origin}/{epoch}/{lane} number {number}");
    }
    let digest = life.entries.iter().find_map(|entry| entry.event.bundle.as_ref()?.digest);
    if let Some(digest) = digest {
        let _ = writeln!(out, "digest  {digest}");
    }
    // Released by officers, a bundle's file is another one than before: the last is what crossed.
    let file = life.entries.iter().rev().find_map(|entry| entry.event.file.as_ref());
    if let Some(file) = file {
        let _ = writeln!(out, "file    {} ({} bytes)", shown(&file.name), file.bytes);
        let _ = writeln!(out, "sha256  {}", file.sha256);
    }
    out.push('\n');
    let time = |entry: &Entry| {
        let text = entry.event.at.to_string();
        // Milliseconds are enough for people; the log has the rest.
        text.get(..23).map_or(text.clone(), |text| format!("{text}Z"))
    };
    let width = life.entries.iter().map(|entry| entry.event.who.len()).max().unwrap_or(0);
    for entry in &life.entries {
        let event = &entry.event;
        let row = format!(
            "{:>7}  {}  {:<17}  {:<width$}  {}",
            entry.number,
            time(entry),
            event.action.as_str(),
            event.who,
            shown(&event.detail)
        );
        let _ = writeln!(out, "{}", row.trim_end());
    }
    let more = life.found.saturating_sub(life.entries.len() as u64);
    if more > 0 {
        let _ = writeln!(out, "        ... and {more} more");
    }
    out
}

/// The same for machines: the entries as they stand in the log.
pub fn life_json(life: &Life) -> Value {
    let entries: Vec<Value> = life
        .entries
        .iter()
        .map(|entry| serde_json::from_str(&entry.encode()).unwrap_or_default())
        .collect();
    json!({"entries": entries, "found": life.found})
}

/// What a walk found.
pub fn verdict_text(verdict: &Verdict) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "entries      {}, the last has number {}", verdict.entries, verdict.last);
    let _ = writeln!(out, "head         {}", verdict.head);
    let _ = writeln!(
        out,
        "checkpoints  {}, signed up to entry {}{}",
        verdict.checkpoints,
        verdict.signed_through,
        verdict.signed_at.as_ref().map_or(String::new(), |at| format!(" at {at}"))
    );
    for key in &verdict.keys {
        let _ = writeln!(out, "signed by    {key}");
    }
    for finding in &verdict.findings {
        let kind = serde_json::to_value(finding.kind).unwrap_or_default();
        let kind = kind.as_str().unwrap_or_default().to_owned();
        let _ = writeln!(out, "{}:{}: {kind}: {}", finding.file, finding.line, finding.text);
    }
    let more = verdict.found.saturating_sub(verdict.findings.len() as u64);
    if more > 0 {
        let _ = writeln!(out, "... and {more} more");
    }
    let end = match verdict.found {
        0 => "nothing was removed, changed or reordered".to_owned(),
        1 => "THE LOG WAS TAMPERED WITH OR DAMAGED: 1 finding".to_owned(),
        found => format!("THE LOG WAS TAMPERED WITH OR DAMAGED: {found} findings"),
    };
    let _ = writeln!(out, "{end}");
    out
}

/// Names in a log that was tampered with may hold anything.
fn shown(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}
