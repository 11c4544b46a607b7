//! What one run of reconciliation found and did.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use shared::clock::Nanos;
use shared::record::Stream;

use super::PortainerApi;

/// What one run found and did, at one Portainer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Report {
    /// The section's name.
    pub name: String,
    /// Where it was asked.
    pub url: String,
    /// Whether nothing was to be inserted.
    pub dry_run: bool,
    /// When it began.
    pub began: String,
    /// When it ended; empty while it runs.
    pub ended: String,
    /// The first second that was compared.
    pub from: String,
    /// The last second that was compared.
    pub through: String,
    /// Authentication records that Portainer gave for this time.
    pub asked_auth: u64,
    /// Activity records that Portainer gave for this time.
    pub asked_activity: u64,
    /// Those of both that had come before.
    pub matched: u64,
    /// Those that had not.
    pub missing: u64,
    /// Those of the missing that were inserted, durably.
    pub recovered: u64,
    /// Those of the missing that have a twin within the tolerance: their number is right, but which
    /// one of the twins was lost can't be told.
    pub ambiguous: u64,
    /// Records too young to be missing.
    pub too_young: u64,
    /// Records that can't be compared, since they have no time or no content that is known.
    pub malformed: u64,
    /// The first of these: where they stood and what is wrong.
    pub malformed_examples: Vec<String>,
    /// Missing ones that Portainer deleted before they could be taken.
    pub gone: u64,
    /// Requests that were made.
    pub requests: u64,
    /// How far Portainer's clock is ahead of ours, in seconds.
    pub clock_ahead_secs: i64,
    /// What the operator should know.
    pub notes: Vec<String>,
    /// Why it ended early; empty if it did not.
    pub error: String,
    /// Up to where it was compared before, if that is longer ago than Portainer keeps anything.
    #[serde(skip)]
    pub(super) hole_after: Option<i64>,
}

impl Report {
    pub(super) fn begin(api: &PortainerApi, dry_run: bool, now: Nanos) -> Self {
        Self {
            name: api.name.clone(),
            url: api.url.to_string(),
            dry_run,
            began: now.to_string(),
            ..Self::default()
        }
    }

    /// Records that Portainer gave for the time that was compared.
    pub fn asked(&self) -> u64 {
        self.asked_auth + self.asked_activity
    }

    pub(super) fn count_asked(&mut self, stream: Stream) {
        match stream {
            Stream::PortainerAuth => self.asked_auth += 1,
            _ => self.asked_activity += 1,
        }
    }

    pub(super) fn note_malformed(&mut self, what: impl FnOnce() -> String) {
        self.malformed += 1;
        if self.malformed_examples.len() < MALFORMED_EXAMPLES_MAX {
            self.malformed_examples.push(what());
        }
    }

    pub(super) fn note(&mut self, note: String) {
        if self.notes.len() < NOTES_MAX && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Adds what was found in one more stretch of time.
    pub(super) fn add(&mut self, found: Report) {
        self.asked_auth += found.asked_auth;
        self.asked_activity += found.asked_activity;
        self.matched += found.matched;
        self.missing += found.missing;
        self.ambiguous += found.ambiguous;
        self.too_young += found.too_young;
        self.malformed += found.malformed;
        self.malformed_examples.extend(found.malformed_examples);
        self.malformed_examples.truncate(MALFORMED_EXAMPLES_MAX);
        found.notes.into_iter().for_each(|note| self.note(note));
    }

    /// One line for people.
    pub fn summary(&self) -> String {
        let asked = self.asked();
        let verb = if self.dry_run { "would recover" } else { "recovered" };
        let count = if self.dry_run { self.missing } else { self.recovered };
        let mut text = format!(
            "{}: asked {asked} records, matched {}, {verb} {count}",
            self.name, self.matched
        );
        for (count, what) in [
            (self.ambiguous, "ambiguous"),
            (self.too_young, "too young"),
            (self.malformed, "malformed"),
            (self.gone, "gone before they could be taken"),
        ] {
            if count > 0 {
                let _ = write!(text, ", {count} {what}");
            }
        }
        if !self.from.is_empty() {
            let _ = write!(text, " ({} to {})", self.from, self.through);
        }
        text
    }
}

/// So many malformed records are described; the rest is counted.
const MALFORMED_EXAMPLES_MAX: usize = 5;

/// So many notes are kept.
const NOTES_MAX: usize = 16;

/// A second as people read it.
pub(super) fn second_text(second: i64) -> String {
    let nanos = Nanos(second.saturating_mul(1_000_000_000)).to_string();
    match nanos.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => nanos,
    }
}
