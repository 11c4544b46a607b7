//! The export guard: what each record is, which lane it takes, and what of it may leave.
//!
//! The gap is crossed from the more secret side to the less secret one. Every record is judged here,
//! once, on its way in and before it is stored: its stream is recognised, it is understood, what must
//! not leave is redacted, and noise is suppressed by rule. The verdict stays with the record.
//!
//! ```text
//! bytes ─> body scanned once ─> event ─┬─> privileged: flash lane
//!                                      ├─> noise: suppressed, unless it is guarded
//!                                      └─> what must not leave: redacted
//! ```

mod defaults;
pub mod pattern;
pub mod suppress;

use std::cell::RefCell;

use shared::clock::Nanos;
use shared::event::{Body, Event, PrivilegeSettings, understand};
use shared::json::Tape;
use shared::record::Stream;

use crate::buffer::{Fate, Sighting};
use crate::config::GuardConfig;
use crate::reconcile;

pub use defaults::default_suppressions;
use suppress::Suppressor;

/// What was decided about a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Its stream.
    pub stream: Stream,
    /// Whether seconds matter: it takes the flash lane.
    pub urgent: bool,
    /// What is kept of it.
    pub fate: Fate,
    /// What is remembered of it, if it can also be asked for.
    pub sighting: Option<Sighting>,
}

/// Why the rules of a site can't be used.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {}

/// The rules of one site, compiled.
#[derive(Debug, Default)]
pub struct Guard {
    /// Who is privileged here.
    pub privileges: PrivilegeSettings,
    /// What is noise.
    pub suppressor: Suppressor,
    /// Whether sightings are kept of records that Portainer can be asked for.
    pub reconciles: bool,
}

/// The memory that judging uses again and again.
#[derive(Debug, Default)]
struct Scratch {
    tape: Tape,
}

thread_local! {
    // One for each thread that reads from sockets: a batch may be short, and the memory is worth keeping.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Guard {
    /// Compiles the rules of a configuration.
    pub fn new(config: &GuardConfig) -> Result<Self, GuardError> {
        Ok(Self {
            privileges: config.privileges.clone(),
            suppressor: Suppressor::new(config.suppress.clone()),
            reconciles: config.reconciles,
        })
    }

    /// Judges a record as it would be judged on its way in; also gives what was understood of it, and
    /// the bytes that would be kept.
    pub fn examine(&self, raw: &[u8], stream: Option<Stream>) -> (Event<'static>, Judged, Vec<u8>) {
        let mut tape = Tape::default();
        let body = Body::of(raw, &mut tape);
        let event = understand(&body, stream, &self.privileges);
        let mut after = Vec::new();
        let judged = self.decide(&body, &event, Nanos(0), &mut after);
        (event.into_owned(), judged, after)
    }

    /// Judges a record and appends what is kept of it to `out`. `stream` is given where the way it
    /// came by says it.
    pub fn judge(
        &self,
        raw: &[u8],
        received: Nanos,
        stream: Option<Stream>,
        out: &mut Vec<u8>,
    ) -> Judged {
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch { tape } = scratch;
            let body = Body::of(raw, tape);
            let event = understand(&body, stream, &self.privileges);
            self.decide(&body, &event, received, out)
        })
    }

    fn decide(
        &self,
        body: &Body<'_>,
        event: &Event<'_>,
        received: Nanos,
        out: &mut Vec<u8>,
    ) -> Judged {
        // Of the bytes as they came: a redacted or suppressed record was seen all the same.
        let sighting =
            self.reconciles.then(|| reconcile::sighting_in(body, event.stream, received)).flatten();
        let judged = |fate| Judged {
            stream: event.stream,
            urgent: event.privileged.is_some(),
            fate,
            sighting,
        };
        if let Some(rule) = self.suppressor.suppressed_by(event) {
            let bytes = body.raw.len() as u64;
            return judged(Fate::Suppressed { rule: rule.clone(), bytes });
        }
        out.extend_from_slice(body.raw);
        judged(Fate::Kept)
    }
}
