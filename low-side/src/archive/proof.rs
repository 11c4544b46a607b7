//! Whether a lock holds: what was tried to break it, and what came of it.
//!
//! That a request is refused proves nothing where the credentials may not do such a thing at all. So each
//! way has a control: the same right, used where the lock has nothing against it. Where a control is
//! refused, what it stands for is unknown, and an auditor repeats it with an administrator's credentials.

use std::time::Duration;

use serde::Serialize;
use shared::clock::Nanos;

use super::{Archive, Held, Lock, Object, hash_of};
use crate::replay::chain_text;

/// What came of one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// As it must be.
    Holds,
    /// It can't be told: these credentials may not do it at all, or nobody answered.
    Unknown,
    /// The lock does not hold.
    Broken,
}

impl Outcome {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Unknown => "unknown",
            Self::Broken => "BROKEN",
        }
    }
}

/// One try.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// What was tried.
    pub what: String,
    /// What must come of it.
    pub expected: String,
    /// What came of it.
    pub observed: String,
    /// What that means.
    pub outcome: Outcome,
}

/// Everything that was tried on one object.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Proof {
    /// The object, for people.
    pub canary: String,
    /// The tries, in their order.
    pub steps: Vec<Step>,
}

impl Proof {
    /// What all of them mean: the worst of them.
    pub fn outcome(&self) -> Outcome {
        self.steps.iter().map(|step| step.outcome).max().unwrap_or(Outcome::Unknown)
    }

    pub(super) fn note(
        &mut self,
        what: &str,
        expected: &str,
        observed: impl Into<String>,
        outcome: Outcome,
    ) {
        let (what, expected) = (what.to_owned(), expected.to_owned());
        self.steps.push(Step { what, expected, observed: observed.into(), outcome });
    }
}

/// What it means that a try was answered with this status, where a control has shown whether these
/// credentials may do such a thing.
pub(super) fn refused(status: u16, may: bool) -> Outcome {
    match (status, may) {
        (200..=299, _) => Outcome::Broken,
        (400..=499, true) => Outcome::Holds,
        // The right is missing, or the store does not know what it was asked for.
        _ => Outcome::Unknown,
    }
}

/// By so much a canary is tried to be locked for longer, and for less time.
pub(super) const LONGER: Duration = Duration::from_hours(1);

/// What it means that a control was answered so.
pub(super) fn allowed(may: bool) -> Outcome {
    if may { Outcome::Holds } else { Outcome::Unknown }
}

/// Whether an object is still locked until then at least.
pub(super) fn still(held: Option<&Held>, until: Nanos) -> Outcome {
    match held.map(|held| &held.lock) {
        Some(Lock::Until(found)) if *found >= until => Outcome::Holds,
        _ => Outcome::Broken,
    }
}

/// How an object is locked, in words.
pub(super) fn shown(held: Option<&Held>) -> String {
    match held.map(|held| &held.lock) {
        None => "it is gone".to_owned(),
        Some(Lock::Until(until)) => format!("locked until {until}"),
        Some(Lock::Weak(why)) => why.clone(),
    }
}

/// The last step of all: the canary is what it was.
pub(super) fn read_back(
    proof: &mut Proof,
    archive: &mut dyn Archive,
    canary: &Object,
    version: &str,
) {
    let (observed, outcome) = match hash_of(archive, &canary.key, version, canary.bytes) {
        Ok(sha256) if sha256 == canary.sha256 => ("the same bytes".to_owned(), Outcome::Holds),
        Ok(sha256) => (format!("other bytes, SHA-256 {sha256}"), Outcome::Broken),
        Err(error) => (chain_text(&error), Outcome::Broken),
    };
    proof.note("read the canary after all of this", "the same bytes", observed, outcome);
}
