//! Records in the words of each SIEM's schema. Pure: a view of a record in, bytes out.
//!
//! ```text
//! View -> Sense (class, change, severity, product, client: judged once, for all)
//!      -> ecs | ocsf | cim | cef | leef | sentinel -> bytes
//! ```
//!
//! Whatever the record holds, each mapping gives one well-formed text: JSON without a line end in
//! it, or one line. The same record gives the same bytes each time. What a schema has no room for
//! is cut, and said to be cut; the evidence is the archive's.

pub mod cef;
pub mod cim;
pub mod ecs;
mod ecs_fields;
mod json;
pub mod leef;
pub mod ocsf;
pub mod sense;
pub mod sentinel;
pub mod text;

use std::borrow::Cow;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use shared::clock::Nanos;
use shared::event::{Event, Outcome};
use shared::record::Epoch;

use crate::event::View;
use crate::ledger::ChainName;

/// A schema of JSON documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schema {
    /// The Elastic Common Schema.
    Ecs,
    /// Our own JSON event.
    #[default]
    Native,
    /// The Open Cybersecurity Schema Framework.
    Ocsf,
}

impl Schema {
    /// Every schema.
    pub const ALL: [Schema; 3] = [Schema::Ecs, Schema::Native, Schema::Ocsf];

    /// Its name in configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Schema::Ecs => "ecs",
            Schema::Native => "native",
            Schema::Ocsf => "ocsf",
        }
    }

    /// The chain that a rendered record belongs to, where the line is whole up to where it says so.
    pub fn chain_of(self, line: &[u8]) -> Option<ChainName> {
        let place: &[u8] = match self {
            Schema::Native => return crate::event::chain_of(line),
            Schema::Ecs => b"\"penstock\":{\"origin\":",
            Schema::Ocsf => b"\"unmapped\":{\"origin\":",
        };
        // A quotation mark inside a value is escaped: this can only be the object itself.
        let at = memchr::memmem::rfind(line, place)? + b"\"penstock\":".len();
        let said = serde_json::Deserializer::from_slice(&line[at..]).into_iter::<Place>().next();
        let said = said?.ok()?;
        Some(ChainName {
            origin: said.origin.parse().ok()?,
            epoch: Epoch(said.epoch.parse().ok()?),
            lane: said.lane.parse().ok()?,
        })
    }

    /// Appends a record in this schema: one JSON object, without a line end.
    pub fn render(self, out: &mut Vec<u8>, view: &View<'_>) {
        match self {
            Schema::Ecs => ecs::render(out, view),
            Schema::Native => crate::event::render_view(out, view),
            Schema::Ocsf => ocsf::render(out, view),
        }
    }
}

/// Where a record comes from, as documents say it.
#[derive(Deserialize)]
struct Place {
    origin: String,
    epoch: String,
    lane: String,
}

impl View<'_> {
    /// The id and name of the user that something was done to, if it was a user.
    pub fn target_user(&self) -> Option<(Option<&str>, Option<&str>)> {
        let resource = &self.event.resource;
        let kind = resource.kind.as_deref()?;
        let user = ["user", "users", "account"].iter().any(|name| kind.eq_ignore_ascii_case(name));
        user.then(|| (said(resource.id.as_deref()), said(resource.name.as_deref())))
    }
}

/// What Falco's tags say about MITRE ATT&CK: `T1059`, `T1059.004`, `mitre_execution`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Techniques<'t> {
    pub(crate) tactics: Vec<&'t str>,
    pub(crate) ids: Vec<&'t str>,
    pub(crate) sub_ids: Vec<&'t str>,
}

impl<'t> Techniques<'t> {
    pub(crate) fn of(tags: &'t str) -> Self {
        let mut found = Self::default();
        for tag in tags.split_whitespace() {
            if let Some(tactic) = tag.strip_prefix("mitre_") {
                add(&mut found.tactics, tactic);
            } else if let Some(whole) = technique(tag) {
                add(&mut found.ids, whole);
                if whole.len() < tag.len() {
                    add(&mut found.sub_ids, tag);
                }
            }
        }
        found
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tactics.is_empty() && self.ids.is_empty()
    }
}

fn add<'t>(list: &mut Vec<&'t str>, value: &'t str) {
    if !value.is_empty() && !list.contains(&value) && list.len() < TECHNIQUES_MAX {
        list.push(value);
    }
}

/// `T` and four digits; a dot and three more name a sub-technique of it.
fn technique(tag: &str) -> Option<&str> {
    let digits =
        |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = tag.strip_prefix('T')?;
    let (whole, part) = number.split_once('.').unwrap_or((number, "000"));
    (digits(whole, 4) && digits(part, 3)).then_some(&tag[..5])
}

/// A record's bytes, as far as a schema takes them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Original<'v> {
    /// They are text.
    Text(&'v str),
    /// They are none, and short enough to be carried as base64.
    NotUtf8(&'v [u8]),
    /// They are longer than the schema takes.
    TooLarge,
}

impl<'v> Original<'v> {
    /// The bytes, of which no more than so many are taken.
    pub(crate) fn of(view: &'v View<'_>, bytes_max: usize) -> Self {
        let raw = view.record.raw;
        match view.text() {
            Some(text) if raw.len() <= bytes_max => Original::Text(text),
            // Base64 makes four bytes of three.
            None if raw.len() <= bytes_max / 4 * 3 => Original::NotUtf8(raw),
            _ => Original::TooLarge,
        }
    }

    /// Why the text is left out, if it is.
    pub(crate) fn omitted(self) -> Option<&'static str> {
        match self {
            Original::Text(_) => None,
            Original::NotUtf8(_) => Some("not-utf8"),
            Original::TooLarge => Some("too-large"),
        }
    }
}

/// The SHA-256 of a record's bytes, in hex.
pub(crate) fn digest(view: &View<'_>) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    Sha256::digest(view.record.raw)
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// What was changed, from what to what, where the source says it.
pub(crate) fn changes<'e>(event: &'e Event<'_>) -> Option<Cow<'e, str>> {
    match (event.detail("before"), event.detail("after")) {
        (Some(before), Some(after)) => Some(format!("{before} -> {after}").into()),
        (before, after) => before.or(after).map(Cow::Borrowed),
    }
}

/// The same in at most so many bytes. Each side is cut by itself and says so: of a long first state, the
/// second must not be what is lost.
pub(crate) fn changes_within<'e>(event: &'e Event<'_>, bytes_max: usize) -> Option<Cow<'e, str>> {
    const ARROW: &str = " -> ";
    let (Some(before), Some(after)) = (event.detail("before"), event.detail("after")) else {
        return changes(event);
    };
    let room = bytes_max.saturating_sub(ARROW.len());
    // What one side does not need, the other may have.
    let share = |other: &str| (room / 2).max(room.saturating_sub(other.len()));
    let before_cut = text::shortened(before, share(after));
    let after_cut = text::shortened(after, share(before));
    Some(format!("{before_cut}{ARROW}{after_cut}").into())
}

/// A text that says something.
pub(crate) fn said(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

/// How it went, in one word.
pub(crate) fn result(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Success => "success",
        Outcome::Failure => "failure",
        Outcome::Denied => "denied",
    }
}

/// Milliseconds since 1970, rounded down.
pub(crate) fn millis(time: Nanos) -> i64 {
    time.0.div_euclid(1_000_000)
}

/// The kebab-case name of a unit variant, as it stands in our own JSON.
pub(crate) fn name_of<T: serde::Serialize>(value: T) -> String {
    let mut name = serde_json::to_string(&value).unwrap_or_default();
    name.retain(|char| char != '"');
    name
}

/// The most techniques that are taken from one alert.
const TECHNIQUES_MAX: usize = 16;

#[cfg(test)]
mod page;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;
