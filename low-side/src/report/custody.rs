//! What the custody log says of a period, in one walk over its files.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;
use shared::clock::Nanos;
use shared::custody::{Action, CustodyFolder, Entry, Verdict};

use super::Listed;
use super::listed::LISTED_MAX;

/// The custody log: whether it verifies, and what was done in the period.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CustodyProof {
    /// Whether the whole log verifies.
    pub verified: bool,
    /// What the walk over the whole log found.
    pub verdict: Option<Verdict>,
    /// What was done in the period.
    #[serde(flatten)]
    pub tally: CustodyTally,
}

/// What was done in a period, by the clock of this side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CustodyTally {
    /// Entries of the period.
    pub entries: u64,
    /// Lines that are no entries.
    pub unreadable: u64,
    /// How often what was done.
    pub actions: BTreeMap<String, u64>,
    /// Bundles that came again.
    pub duplicates: u64,
    /// Files that were refused, by reason.
    pub quarantined: BTreeMap<String, u64>,
    /// What files came by.
    pub arrivals: BTreeMap<String, u64>,
    /// What each person did; the agent is one of them.
    pub people: BTreeMap<String, BTreeMap<String, u64>>,
    /// Media, as they were read and signed for.
    pub media: Listed<Done>,
    /// Gaps that were passed, and the log's own repairs.
    pub events: Listed<Done>,
    /// Names that found no place in the tables above.
    pub not_listed: u64,
}

/// One thing that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Done {
    /// The entry's number.
    pub entry: u64,
    /// When, RFC 3339.
    pub at: String,
    /// Who.
    pub who: String,
    /// What.
    pub action: String,
    /// What else the entry says.
    pub detail: String,
}

/// Counts the entries of a period. Whether the log is whole, the verification says.
pub fn tally(folder: &CustodyFolder, from: Nanos, to: Nanos) -> io::Result<CustodyTally> {
    let mut tally = CustodyTally::default();
    folder.for_each_line(|_, line| {
        match Entry::parse(line) {
            Ok(entry) if entry.event.at >= from && entry.event.at < to => tally.add(&entry),
            Ok(_) => {}
            Err(_) => tally.unreadable += 1,
        }
        Ok::<(), io::Error>(())
    })?;
    Ok(tally)
}

impl CustodyTally {
    fn add(&mut self, entry: &Entry) {
        let event = &entry.event;
        let action = event.action.as_str();
        self.entries += 1;
        *self.actions.entry(action.to_owned()).or_default() += 1;
        if self.people.contains_key(&event.who) || self.people.len() < LISTED_MAX {
            let of_person = self.people.entry(event.who.clone()).or_default();
            *of_person.entry(action.to_owned()).or_default() += 1;
        } else {
            self.not_listed += 1;
        }
        let done = || Done {
            entry: entry.number,
            at: event.at.to_string(),
            who: event.who.clone(),
            action: action.to_owned(),
            detail: event.detail.clone(),
        };
        match event.action {
            Action::Duplicate => self.duplicates += 1,
            Action::Quarantined => {
                // `CODE` and, behind it, what the file said that it is.
                let code = event.detail.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
                let code = code.into_iter().next().unwrap_or_default().to_owned();
                self.not_listed += count(&mut self.quarantined, code);
            }
            Action::Received => {
                self.not_listed += count(&mut self.arrivals, event.detail.clone());
            }
            Action::Transfer => self.media.push(done()),
            Action::Continued | Action::Deleted | Action::GapPassed | Action::Repaired => {
                self.events.push(done());
            }
            _ => {}
        }
    }
}

/// Counts a name; gives how many found no place.
fn count(table: &mut BTreeMap<String, u64>, name: String) -> u64 {
    if table.contains_key(&name) || table.len() < LISTED_MAX {
        *table.entry(name).or_default() += 1;
        return 0;
    }
    1
}
