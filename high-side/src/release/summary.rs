//! The review summary of a bundle: what officers read before they let it leave.
//!
//! It is JSON in ASCII, so that it can be read with `age -d` alone and holds nothing that a terminal
//! obeys; [`Summary::to_text`] is the readable form. It exists in plain only in memory.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use shared::bundle::Manifest;
use shared::record::{Epoch, Lane, Stream};

use super::heavy::Top;
use crate::buffer::SealedFile;

/// The version of the summary.
const VERSION: u32 = 1;
/// So many losses are listed one by one.
const LOSSES_SHOWN: usize = 200;
/// No summary is larger: a few hundred names and samples, each of a few hundred bytes.
pub const SUMMARY_BYTES_MAX: u64 = 4 << 20;

/// What is inside of one bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are named as they are shown")]
pub struct Summary {
    pub penstock_review: u32,
    /// 128 random bits: without them somebody could guess the summary and sign it unread.
    pub nonce: String,
    pub bundle: String,
    pub file: String,
    pub file_bytes: u64,
    pub origin: String,
    pub epoch: Epoch,
    pub lane: Lane,
    pub number: u64,
    pub reason: String,
    pub sealed_at: String,
    pub first_sequence: u64,
    pub last_sequence: u64,
    pub records: u64,
    pub records_bytes: u64,
    pub oldest_received: Option<String>,
    pub newest_received: Option<String>,
    /// Who can open it.
    pub recipients: Vec<String>,
    pub streams: Vec<StreamSum>,
    /// Entries that were looked at: records, and what is left of suppressed ones.
    pub entries_looked_at: u64,
    pub blocks_not_understood: u64,
    pub categories: Vec<Named>,
    pub actions: Top,
    pub actors: Top,
    pub sources: Top,
    pub privileged: Privileged,
    pub redacted: Redacted,
    pub suppressed: Vec<SuppressedSum>,
    pub losses: Vec<LossSum>,
    pub losses_not_shown: u64,
    pub sizes: Vec<SizeClass>,
    pub largest: Vec<Large>,
    pub sample: Vec<Sampled>,
}

/// The records of one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are named as they are shown")]
pub struct StreamSum {
    pub stream: Stream,
    pub records: u64,
    pub bytes: u64,
}

/// A name and how often it occurs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are named as they are shown")]
pub struct Named {
    pub name: String,
    pub count: u64,
}

/// Privileged access.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the fields are named as they are shown")]
pub struct Privileged {
    pub count: u64,
    pub why: Vec<Named>,
    pub shown: Vec<PrivilegedEvent>,
    pub not_shown: u64,
}

/// One event of the privileged-access set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the fields are named as they are shown")]
pub struct PrivilegedEvent {
    pub sequence: u64,
    pub received: String,
    pub stream: Stream,
    pub why: String,
    pub actor: Option<String>,
    pub source: Option<String>,
    pub action: String,
    pub resource: String,
    pub outcome: Option<String>,
}

/// What was taken out of records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are named as they are shown")]
pub struct Redacted {
    pub records: u64,
    pub rules: Vec<Named>,
}

/// What one rule suppressed of one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are named as they are shown")]
pub struct SuppressedSum {
    pub rule: String,
    pub stream: Stream,
    pub records: u64,
    pub bytes: u64,
}

/// One declared loss.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are named as they are shown")]
pub struct LossSum {
    pub reason: String,
    pub listener: String,
    pub count: u64,
    pub range: Option<(u64, u64)>,
}

/// Records of about one size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the fields are named as they are shown")]
pub struct SizeClass {
    pub bytes_below: u64,
    pub records: u64,
}

/// A large record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are named as they are shown")]
pub struct Large {
    pub sequence: u64,
    pub stream: Stream,
    pub bytes: u64,
}

/// A record drawn at random, as it will leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are named as they are shown")]
pub struct Sampled {
    pub sequence: u64,
    pub received: String,
    pub stream: Stream,
    pub bytes: u64,
    pub begins: String,
}

impl Summary {
    /// What manifest and file say; the rest is counted.
    pub(crate) fn of(manifest: &Manifest, file: &SealedFile, recipients: Vec<String>) -> Self {
        let losses = manifest.losses.iter().take(LOSSES_SHOWN).map(|loss| LossSum {
            reason: loss.reason.as_str().to_owned(),
            listener: loss.listener.clone(),
            count: loss.count,
            range: loss.range.map(|(first, last)| (first.0, last.0)),
        });
        Self {
            bundle: file.digest.to_string(),
            file: file.name.clone(),
            file_bytes: file.bytes,
            origin: manifest.origin.to_string(),
            epoch: manifest.epoch,
            lane: manifest.lane,
            number: manifest.number,
            reason: manifest.reason.to_string(),
            sealed_at: manifest.sealed_at.to_string(),
            first_sequence: manifest.first_sequence.0,
            last_sequence: manifest.last_sequence.0,
            records: manifest.records,
            records_bytes: manifest.records_bytes,
            oldest_received: manifest.oldest.map(|time| time.to_string()),
            newest_received: manifest.newest.map(|time| time.to_string()),
            recipients,
            streams: manifest
                .streams
                .iter()
                .map(|of| StreamSum { stream: of.stream, records: of.records, bytes: of.bytes })
                .collect(),
            suppressed: manifest
                .suppressed
                .iter()
                .map(|of| SuppressedSum {
                    rule: of.rule.clone(),
                    stream: of.stream,
                    records: of.records,
                    bytes: of.bytes,
                })
                .collect(),
            losses: losses.collect(),
            losses_not_shown: manifest.losses.len().saturating_sub(LOSSES_SHOWN) as u64,
            ..Self::default()
        }
    }

    /// The summary's bytes: pretty JSON in ASCII.
    pub fn encode(&self) -> String {
        ascii_json(&serde_json::to_string_pretty(self).unwrap_or_default())
    }

    /// Reads a summary.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let summary: Self = serde_json::from_slice(bytes).map_err(|err| err.to_string())?;
        if summary.penstock_review != VERSION {
            return Err(format!(
                "has version {}, which this program does not know\n  try: a newer penstock-high",
                summary.penstock_review
            ));
        }
        Ok(summary)
    }

    /// A few lines: what an officer is about to release.
    pub fn to_short_text(&self) -> String {
        let mut out = String::new();
        let Self { file, bundle, lane, number, records, .. } = self;
        let _ = writeln!(out, "bundle       {}", shown(file));
        let _ = writeln!(out, "digest       {}", shown(bundle));
        let _ = writeln!(
            out,
            "chain        {}, epoch {}, lane {lane}, number {number}, sequences {} to {}",
            shown(&self.origin),
            self.epoch,
            self.first_sequence,
            self.last_sequence
        );
        let time = |time: &Option<String>| time.as_deref().map_or("-".to_owned(), shown);
        let _ = writeln!(
            out,
            "received     {} to {}",
            time(&self.oldest_received),
            time(&self.newest_received)
        );
        let _ = writeln!(
            out,
            "holds        {records} records, {} bytes of them; the file has {} bytes",
            self.records_bytes, self.file_bytes
        );
        let _ = writeln!(out, "privileged   {}", self.privileged.count);
        let _ = writeln!(out, "redacted     {} records", self.redacted.records);
        let suppressed: u64 = self.suppressed.iter().map(|sum| sum.records).sum();
        let _ = writeln!(out, "suppressed   {suppressed} records");
        let lost: u64 = self.losses.iter().map(|loss| loss.count).sum();
        let _ = writeln!(out, "lost         {lost} records");
        out
    }

    /// Everything, for reading. Whatever came from records is escaped: it may hold what a terminal
    /// obeys.
    pub fn to_text(&self) -> String {
        let mut out = self.to_short_text();
        let _ = writeln!(out, "opened by    {}", list(self.recipients.iter().map(String::as_str)));
        if self.blocks_not_understood > 0 {
            let _ = writeln!(
                out,
                "WARNING      {} parts of it could not be looked at: refuse it",
                self.blocks_not_understood
            );
        }
        title(&mut out, "streams");
        for sum in &self.streams {
            row(&mut out, sum.records, &format!("{} ({} bytes)", sum.stream, sum.bytes));
        }
        title(&mut out, "categories");
        named(&mut out, &self.categories);
        for (name, top) in
            [("actions", &self.actions), ("actors", &self.actors), ("sources", &self.sources)]
        {
            title(&mut out, name);
            for frequent in &top.shown {
                let mut text = shown(&frequent.name);
                if frequent.perhaps_more > 0 {
                    let _ = write!(text, " (perhaps {} more)", frequent.perhaps_more);
                }
                row(&mut out, frequent.count, &text);
            }
            if top.others > 0 {
                row(&mut out, top.others, "(others)");
            }
        }
        title(&mut out, "privileged access");
        named(&mut out, &self.privileged.why);
        for event in &self.privileged.shown {
            let part = |part: &Option<String>| part.as_deref().map_or("-".to_owned(), shown);
            let _ = writeln!(
                out,
                "  {} {} {}: {} by {} from {} on {}, {}",
                event.sequence,
                shown(&event.received),
                shown(&event.why),
                shown(&event.action),
                part(&event.actor),
                part(&event.source),
                shown(&event.resource),
                part(&event.outcome)
            );
        }
        if self.privileged.not_shown > 0 {
            let _ = writeln!(out, "  and {} more, not listed", self.privileged.not_shown);
        }
        title(&mut out, "redacted, by rule");
        named(&mut out, &self.redacted.rules);
        title(&mut out, "suppressed, by rule");
        for sum in &self.suppressed {
            row(&mut out, sum.records, &format!("{} of {}", shown(&sum.rule), sum.stream));
        }
        title(&mut out, "losses");
        for loss in &self.losses {
            let listener = shown(&loss.listener);
            let range =
                loss.range.map_or(String::new(), |(first, last)| format!(" {first}-{last}"));
            row(&mut out, loss.count, &format!("{} {listener}{range}", shown(&loss.reason)));
        }
        if self.losses_not_shown > 0 {
            let _ = writeln!(out, "  and {} more, not listed", self.losses_not_shown);
        }
        title(&mut out, "sizes");
        for class in &self.sizes {
            row(&mut out, class.records, &format!("below {} bytes", class.bytes_below));
        }
        for large in &self.largest {
            let _ = writeln!(
                out,
                "  record {} of {} has {} bytes",
                large.sequence, large.stream, large.bytes
            );
        }
        title(&mut out, "records drawn at random, as they will leave");
        for sampled in &self.sample {
            let _ = writeln!(
                out,
                "  {} {} {} {} bytes\n    {}",
                sampled.sequence,
                shown(&sampled.received),
                sampled.stream,
                sampled.bytes,
                shown(&sampled.begins)
            );
        }
        out
    }
}

impl Default for Summary {
    fn default() -> Self {
        Self {
            penstock_review: VERSION,
            nonce: String::new(),
            bundle: String::new(),
            file: String::new(),
            file_bytes: 0,
            origin: String::new(),
            epoch: Epoch(0),
            lane: Lane::Routine,
            number: 0,
            reason: String::new(),
            sealed_at: String::new(),
            first_sequence: 0,
            last_sequence: 0,
            records: 0,
            records_bytes: 0,
            oldest_received: None,
            newest_received: None,
            recipients: Vec::new(),
            streams: Vec::new(),
            entries_looked_at: 0,
            blocks_not_understood: 0,
            categories: Vec::new(),
            actions: Top::default(),
            actors: Top::default(),
            sources: Top::default(),
            privileged: Privileged::default(),
            redacted: Redacted::default(),
            suppressed: Vec::new(),
            losses: Vec::new(),
            losses_not_shown: 0,
            sizes: Vec::new(),
            largest: Vec::new(),
            sample: Vec::new(),
        }
    }
}

fn title(out: &mut String, name: &str) {
    let _ = writeln!(out, "\n{name}");
}

fn row(out: &mut String, count: u64, text: &str) {
    let _ = writeln!(out, "  {count:>10}  {text}");
}

fn named(out: &mut String, counts: &[Named]) {
    for Named { name, count } in counts {
        row(out, *count, &shown(name));
    }
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(shown).collect::<Vec<_>>().join(", ")
}

/// Text from outside as it may be shown on a terminal: letters and digits of any script, blanks and
/// ASCII signs as they are; everything else (escape sequences, line feeds, marks that turn the
/// direction of writing) by its number.
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        if char == ' ' || (char.is_ascii_graphic() && char != '\\') || char.is_alphanumeric() {
            out.push(char);
        } else if char == '\\' {
            out.push_str("\\\\");
        } else {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(char));
        }
    }
    out
}

/// JSON text with everything outside of printable ASCII by its number. Only strings can hold such.
pub fn ascii_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for char in json.chars() {
        if char.is_ascii() && char != '\u{7f}' {
            out.push(char);
        } else {
            for unit in char.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::heavy::Frequent;

    fn hostile() -> Summary {
        let evil = "\u{1b}]0;owned\u{7}\u{1b}[2Jadmin\u{9b}31m\r\nrecords 0\u{202e}txt\u{7f}";
        Summary {
            file: "plant-7-routine-0000000001-00.pstk".to_owned(),
            actors: Top {
                shown: vec![Frequent { name: evil.to_owned(), count: 1, perhaps_more: 0 }],
                others: 0,
            },
            privileged: Privileged {
                count: 1,
                why: vec![Named { name: "exec".to_owned(), count: 1 }],
                shown: vec![PrivilegedEvent {
                    sequence: 1,
                    received: evil.to_owned(),
                    stream: Stream::Falco,
                    why: evil.to_owned(),
                    actor: Some(evil.to_owned()),
                    source: Some(evil.to_owned()),
                    action: evil.to_owned(),
                    resource: evil.to_owned(),
                    outcome: Some(evil.to_owned()),
                }],
                not_shown: 0,
            },
            sample: vec![Sampled {
                sequence: 1,
                received: evil.to_owned(),
                stream: Stream::Other,
                bytes: 1,
                begins: evil.to_owned(),
            }],
            ..Summary::default()
        }
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_shown() {
        let summary = hostile();
        let calm = |char: char| char == '\n' || (!char.is_control() && char != '\u{202e}');
        for text in [summary.to_text(), summary.to_short_text(), summary.encode()] {
            assert!(text.chars().all(calm), "{text:?}");
        }
        assert!(summary.to_text().contains("\\u{1b}[2Jadmin\\u{9b}31m\\u{d}\\u{a}records 0"));
        assert!(!summary.to_text().contains("\nrecords 0"), "a line of the summary was forged");
        assert_eq!(shown("müller \\u{1b} 管理者"), "müller \\\\u{1b} 管理者");
    }

    #[test]
    fn a_summary_reads_back_and_is_ascii() {
        let mut summary = hostile();
        summary.sample[0].begins = "smile 😀 é".to_owned();
        let text = summary.encode();
        assert!(text.is_ascii());
        assert_eq!(Summary::parse(text.as_bytes()).unwrap(), summary);
        let newer = text.replace("\"penstock-review\": 1", "\"penstock-review\": 2");
        assert!(Summary::parse(newer.as_bytes()).unwrap_err().contains("version 2"));
        assert!(Summary::parse(b"{}").is_err());
        assert!(Summary::parse(b"\xff").is_err());
    }
}
